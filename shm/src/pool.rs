//! Payload blocks by size class: where a payload lies that does not fit in line.
//!
//! # Layout
//!
//! ```text
//! owner word: u64 = 1 (bit 63) | generation (16) | task id (32)      0 = free
//! ```
//!
//! # Protocol
//!
//! Claim: one CAS on an owner word, 0 → (task, generation); the search begins at an index of the task's own, so that
//! with twice as many blocks as tasks it hardly ever goes further. Then the block is recorded in the task. Free: CAS
//! back to 0, from exactly that owner.
//!
//! # Invariants
//!
//! * `[listed or swept]`: a block is recorded in the task that owns it, or its owner died in between and
//!   `repair` frees it once the task's generation has moved on or the task is FREE.
//!
//! # Crash
//!
//! As above; a block freed twice is freed once, because the CAS names the owner.

use crate::layout::Class;
use crate::segment::Segment;
use crate::sync::Ordering;
use core::num::NonZeroU32;

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
}

fn owner_word(task: u32, generation: u16) -> u64 {
    OWNED | u64::from(generation) << 32 | u64::from(task)
}

/// The task and generation that an owner word names.
pub(crate) fn owner_of(word: u64) -> Option<(u32, u16)> {
    (word & OWNED != 0).then_some((word as u32, (word >> 32) as u16))
}

/// Claims a block of at least `bytes` bytes: of the smallest class that has one free.
///
/// # Errors
/// See [`PoolError`].
pub(crate) fn claim(segment: &Segment, task: u32, generation: u16, bytes: u64) -> Result<Handle, PoolError> {
    let classes = segment.shape().classes();
    let largest = segment.shape().largest_payload();
    if bytes > largest {
        return Err(PoolError::TooLarge { bytes, largest });
    }
    let mine = owner_word(task, generation);
    for (class, Class { count, .. }) in classes.iter().enumerate().filter(|(_, c)| c.block_bytes >= bytes) {
        let owners = segment.block_owners(class);
        let first = 2 * u64::from(task) % count;
        for step in 0..*count {
            let index = (first + step) % count;
            let owner = &owners[index as usize];
            // Acquire: the former owner is done with the bytes. Release: a participant that sees us as the owner sees our
            // task's word of this generation, in which it is not FREE ([listed or swept]).
            if owner.load(Ordering::Relaxed) == 0
                && owner.compare_exchange(0, mine, Ordering::AcqRel, Ordering::Relaxed).is_ok()
            {
                crash_point!("pool.claimed");
                return Ok(Handle::new(class, index));
            }
        }
    }
    Err(PoolError::Exhausted { bytes })
}

/// Frees a block that this task owns; does nothing to a block that it does not. Whether it owned it.
pub(crate) fn free(segment: &Segment, handle: Handle, task: u32, generation: u16) -> bool {
    let Some(owner) = segment.block_owners(handle.class()).get(handle.index() as usize) else { return false };
    // Release: we are done with the bytes.
    owner.compare_exchange(owner_word(task, generation), 0, Ordering::Release, Ordering::Relaxed).is_ok()
}

/// Whether this task owns the block.
pub(crate) fn owns(segment: &Segment, handle: Handle, task: u32, generation: u16) -> bool {
    segment
        .block_owners(handle.class())
        .get(handle.index() as usize)
        .is_some_and(|owner| owner.load(Ordering::Relaxed) == owner_word(task, generation))
}

/// How many blocks of each class are in use.
#[must_use]
pub fn in_use(segment: &Segment) -> Vec<u64> {
    (0..segment.shape().classes().len())
        .map(|class| {
            segment.block_owners(class).iter().filter(|o| o.load(Ordering::Relaxed) != 0).count() as u64
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

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
        assert_eq!(owner_of(0), None);
    }
}
