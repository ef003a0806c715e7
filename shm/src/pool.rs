//! Payload blocks by size class: where a payload lies that does not fit in line.
//!
//! # Layout
//!
//! ```text
//! owner word: u64 = owned (bit 63) | backed (bit 62) | generation (16) | task id (32)
//! ```
//!
//! A word that is not owned has no task: it is 0, or only backed.
//!
//! # Protocol
//!
//! Claim: one CAS on an owner word, free → (task, generation); the search begins at an index of the task's own, so that
//! with twice as many blocks as tasks it hardly ever goes further. Where blocks are in several parts, each on a NUMA node, it
//! looks at a few of the part that is nearest to the reader first. The first owner of a block *backs* it: it reserves the
//! block's pages in the file, and says so in the word; where the file system can reserve without writing, it does the same for
//! the neighbours within 64 KiB that nobody owns, by one CAS each, 0 → backed. Then the block is recorded in the task. Free:
//! CAS back, from exactly that owner; a block that was backed stays so.
//!
//! What lost: all blocks reserved at the start, which takes the memory of the most that could ever be in use
//! ([`Reserve::Everything`](crate::segment::Reserve) still does); a first touch without a reservation, for which the kernel
//! ends a process where it has no page (SIGBUS).
//!
//! # Invariants
//!
//! * `[backed]`: only the owner of a block touches its bytes, and only once the block is backed: so no touch of a block
//!   meets a file system without room.
//! * `[listed or swept]`: a block is recorded in the task that owns it, or its owner died in between and
//!   `repair` frees it once the task's generation has moved on or the task is FREE.
//!
//! # Crash
//!
//! As above; a block freed twice is freed once, because the CAS names the owner. An owner that dies while it backs a block
//! leaves it, or some of its neighbours, not backed: their next owners reserve the same pages again, which changes nothing.

use crate::layout::{BACKED, Class};
use crate::segment::Segment;
use crate::sync::Ordering;
use core::num::NonZeroU32;
use std::io;

const CLASS_BITS: u32 = 3;
const _: () = assert!(1 << CLASS_BITS == crate::layout::CLASS_LIMIT);
const OWNED: u64 = 1 << 63;

/// Names a block: class and index, plus one, so that 0 means none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Handle(NonZeroU32);

impl Handle {
    fn new(class: usize, index: u64) -> Self {
        let raw = (index as u32) << CLASS_BITS | class as u32;
        Self(NonZeroU32::new(raw + 1).expect("index is below 2^28, so this does not wrap"))
    }

    /// The handle in a word of a segment.
    #[must_use]
    pub fn from_raw(raw: u32) -> Option<Self> {
        NonZeroU32::new(raw).map(Self)
    }

    /// The bits, as they lie in a word.
    #[must_use]
    pub fn raw(self) -> u32 {
        self.0.get()
    }

    /// Which class.
    #[must_use]
    pub fn class(self) -> usize {
        ((self.raw() - 1) & ((1 << CLASS_BITS) - 1)) as usize
    }

    /// Which block of it.
    #[must_use]
    pub fn index(self) -> u64 {
        u64::from((self.raw() - 1) >> CLASS_BITS)
    }
}

/// Why there is no block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PoolError {
    /// No class is large enough.
    #[error("it has {bytes} bytes, the largest payload class {largest}")]
    TooLarge {
        /// The payload's size.
        bytes: u64,
        /// The largest possible.
        largest: u64,
    },
    /// All blocks that are large enough are in use.
    #[error("all blocks of at least {bytes} bytes are in use")]
    Exhausted {
        /// The payload's size.
        bytes: u64,
    },
    /// The system has no memory for a block that was never used, and all others that are large enough are in use.
    #[error("there is no memory for a block of {bytes} bytes: {}", io::Error::from_raw_os_error(*error))]
    NoMemory {
        /// The payload's size.
        bytes: u64,
        /// What the system said, by its number: mostly `ENOSPC`, `ENOMEM` or `EDQUOT`.
        error: i32,
    },
}

fn owner_word(task: u32, generation: u16) -> u64 {
    OWNED | u64::from(generation) << 32 | u64::from(task)
}

/// The task and generation that an owner word names.
pub(crate) fn owner_of(word: u64) -> Option<(u32, u16)> {
    (word & OWNED != 0).then_some((word as u32, (word >> 32) as u16))
}

/// The word of the same block without an owner.
pub(crate) fn freed(word: u64) -> u64 {
    word & BACKED
}

/// How many blocks of the near part are looked at.
const NEAR_LOOKS: u64 = 16;

/// Claims a block of at least `bytes` bytes: of the smallest class that has one free, in the part `near` if one is found there
/// soon.
///
/// # Errors
/// See [`PoolError`].
pub(crate) fn claim(
    segment: &Segment,
    task: u32,
    generation: u16,
    bytes: u64,
    near: Option<u32>,
) -> Result<Handle, PoolError> {
    let classes = segment.shape().classes();
    let largest = segment.shape().largest_payload();
    if bytes > largest {
        return Err(PoolError::TooLarge { bytes, largest });
    }
    let mine = owner_word(task, generation);
    let mut refused = None;
    let fitting = || classes.iter().enumerate().filter(|(_, c)| c.block_bytes >= bytes);
    let larger = |may_back: bool| fitting().skip(1).map(move |class| (class, may_back));
    // A larger block than fits is reserved only if there is no other.
    let tries = fitting().take(1).map(|class| (class, true)).chain(larger(false)).chain(larger(true));
    for ((class, Class { count, .. }), may_back) in tries {
        let owners = segment.block_owners(class);
        let first = 2 * u64::from(task) % count;
        let around = (0..*count).map(|step| (first + step) % count);
        for index in near_blocks(segment, near, *count, task).chain(around) {
            let owner = &owners[index as usize];
            let seen = owner.load(Ordering::Relaxed);
            let is_of_use = seen == BACKED || seen == 0 && may_back && refused.is_none();
            // Acquire: the former owner is done with the bytes. Release: a participant that sees us as the owner sees our
            // task's word of this generation, in which it is not FREE ([listed or swept]).
            if is_of_use
                && owner.compare_exchange(seen, seen | mine, Ordering::AcqRel, Ordering::Relaxed).is_ok()
            {
                crash_point!("pool.claimed");
                match if seen == BACKED { Ok(()) } else { back(segment, class, index, mine) } {
                    Ok(()) => return Ok(Handle::new(class, index)),
                    Err(error) => refused = Some(error),
                }
            }
        }
    }
    Err(match refused {
        Some(error) => PoolError::NoMemory { bytes, error },
        None => PoolError::Exhausted { bytes },
    })
}

/// Reserves the pages of a block that `mine` owns and nobody has used, and of its neighbours, or frees it (`[backed]`).
#[cold]
fn back(segment: &Segment, class: usize, index: u64, mine: u64) -> Result<(), i32> {
    let owners = segment.block_owners(class);
    let reserved = segment.reserve_block(class, index);
    crash_point!("pool.reserved");
    // Release, both: the next owner of a backed block touches its pages ([backed]).
    for neighbour in reserved.iter().cloned().flatten().filter(|&other| other != index) {
        // One that is not free and without pages stays as it is: its owner backs it, or it is backed.
        let _ = owners[neighbour as usize].compare_exchange(0, BACKED, Ordering::Release, Ordering::Relaxed);
    }
    crash_point!("pool.neighbours");
    let word = if reserved.is_ok() { mine | BACKED } else { 0 };
    // As in `free`. Another process has written over it if it is not ours: the block is then as that says.
    let _ = owners[index as usize].compare_exchange(mine, word, Ordering::Release, Ordering::Relaxed);
    crash_point!("pool.backed");
    reserved.map(drop).map_err(|error| error.raw_os_error().unwrap_or(libc::EIO))
}

/// The blocks of a near part to look at, of a class of `count`: from one of the task's own on.
fn near_blocks(segment: &Segment, near: Option<u32>, count: u64, task: u32) -> impl Iterator<Item = u64> {
    let part = near.map_or(0..0, |part| segment.shape().blocks_of_part(part, count));
    let blocks = part.end - part.start;
    (0..blocks.min(NEAR_LOOKS)).map(move |step| part.start + (u64::from(task) + step) % blocks)
}

/// Frees a block that this task owns; does nothing to a block that it does not. Whether it owned it.
pub(crate) fn free(segment: &Segment, handle: Handle, task: u32, generation: u16) -> bool {
    let Some(owner) = segment.block_owners(handle.class()).get(handle.index() as usize) else { return false };
    let mine = owner_word(task, generation) | BACKED;
    // Release: we are done with the bytes.
    owner.compare_exchange(mine, freed(mine), Ordering::Release, Ordering::Relaxed).is_ok()
}

/// Whether this task owns the block.
pub(crate) fn owns(segment: &Segment, handle: Handle, task: u32, generation: u16) -> bool {
    segment
        .block_owners(handle.class())
        .get(handle.index() as usize)
        .is_some_and(|owner| owner.load(Ordering::Relaxed) == owner_word(task, generation) | BACKED)
}

/// How many blocks of each class are in use.
#[must_use]
pub fn in_use(segment: &Segment) -> Vec<u64> {
    count(segment, |word| owner_of(word).is_some())
}

/// How many blocks of each class have their pages: those that were ever used, or all.
#[must_use]
pub fn backed(segment: &Segment) -> Vec<u64> {
    count(segment, |word| word & BACKED != 0)
}

fn count(segment: &Segment, is_it: impl Fn(u64) -> bool) -> Vec<u64> {
    let owners = (0..segment.shape().classes().len()).map(|class| segment.block_owners(class));
    owners
        .map(|owners| owners.iter().filter(|owner| is_it(owner.load(Ordering::Relaxed))).count() as u64)
        .collect()
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::layout::NodeFacts;
    use crate::participant::Role;
    use crate::plan::Target;
    use crate::segment::{Location, Memory, NodeSpec, Spec};

    /// Blocks in two parts; whether the machine has these NUMA nodes does not matter here.
    #[test]
    #[cfg_attr(miri, ignore = "a mapped segment")]
    fn a_block_is_taken_in_the_near_part_as_long_as_that_has_one() {
        let node = |name: &str| NodeSpec {
            name: name.into(),
            worker_type: String::new(),
            payloads: Default::default(),
            config: Vec::new(),
            facts: NodeFacts::default(),
            next: Target::End,
            role: Role::ThreadWorker,
            workers: vec![Default::default()],
        };
        let spec = Spec {
            requests: 16,
            tasks_per_request: 1,
            classes: vec![Class { block_bytes: 4096, count: 32 }],
            nodes: vec![node("a"), node("b")],
            memory: Memory::NearWorkers {
                workers: vec![vec![Some(0)], vec![Some(1)]],
                entry: Target::Node(0),
            },
            ..Spec::default()
        };
        let segment = Segment::create(Location::anonymous("near").unwrap(), &spec).unwrap();
        let take = |task, near| claim(&segment, task, 0, 1, near).map(|handle| handle.index());
        assert_eq!(take(3, None), Ok(6));
        let of_second: Vec<u64> = (0..16).map(|task| take(task, Some(1)).unwrap()).collect();
        assert_eq!(of_second, (16..32).collect::<Vec<_>>());
        // No more there, so anywhere: all blocks can be had, each once.
        let mut others: Vec<u64> = (0..15).map(|task| take(task, Some(1)).unwrap()).collect();
        others.sort_unstable();
        assert_eq!(others, (0..16).filter(|&index| index != 6).collect::<Vec<_>>());
        assert_eq!(take(0, Some(1)), Err(PoolError::Exhausted { bytes: 1 }));
    }

    #[test]
    fn handles_and_owner_words_round_trip() {
        for (class, index) in [(0, 0), (7, 0), (0, (1 << 28) - 2), (7, (1 << 28) - 2)] {
            let handle = Handle::new(class, index);
            assert_eq!(Handle::from_raw(handle.raw()), Some(handle));
            assert_eq!((handle.class(), handle.index()), (class, index));
        }
        assert_eq!(Handle::from_raw(0), None);
        assert_eq!(owner_of(owner_word(0, 0)), Some((0, 0)), "task 0 in generation 0 owns visibly");
        assert_eq!(owner_of(owner_word(u32::MAX, u16::MAX)), Some((u32::MAX, u16::MAX)));
        assert_eq!((owner_of(0), owner_of(BACKED)), (None, None));
        assert_eq!(owner_of(owner_word(7, 8) | BACKED), Some((7, 8)));
        assert_eq!((freed(owner_word(7, 8) | BACKED), freed(owner_word(7, 8))), (BACKED, 0));
    }
}
