//! Partial outcomes: what a worker has of an outcome before it is whole, for the caller to use meanwhile.
//!
//! Each request has a bounded ring of them, if the segment was made with any. The one writer is the worker that has the
//! request claimed, the one reader is its caller. A full ring makes the worker wait; an empty one, the caller. A request
//! whose caller has not [opened](super::Filling::open_partials) the ring costs nothing and takes none.
//!
//! # Layout
//!
//! ```text
//! written   node that wrote the last │ count of partials ever written: one word │ whether the worker sleeps   its writer's
//! taken     bit 31: open │ bit 30: gone │ count of partials ever taken │ generation                   its caller's
//! slots     each: length │ kind │ bytes; the partial with number n lies in slot n modulo their number
//! ```
//!
//! A line each, so that neither side takes the other's. Counts are of 30 bits and wrap.
//!
//! # Protocol
//!
//! | Step | By | Does |
//! |---|---|---|
//! | open | caller, FILLING | writes zero counts, its generation, and *open* |
//! | emit | worker, CLAIMED | waits for room; writes the slot, then count and node at once; wakes the caller |
//! | take | caller | reads the slot, then counts it as taken; wakes the worker |
//! | close | caller | clears *open*, once and for all, and wakes the worker: it waits for the outcome alone |
//! | go | caller | the same, and sets *gone*, before it cancels the request: a worker that finds the ring closed must not take the caller for one that waits |
//!
//! The outcome comes after all partials: a caller that finds the request DONE takes what is left first.
//!
//! # Invariants
//!
//! * `[one writer]`: only the holder of the claimed request writes slots and `written` (`[one owner]` of
//!   [`arena`](super)); a branch of a request has no ring. Only the caller writes `taken`.
//! * `[in the ring]`: slots from `taken` up to `written` are the caller's, all others the writer's.
//!
//! # Ordering
//!
//! * `[partial]`: the writer's store of `written` (Release) → the caller's load (Acquire): the slot travels.
//! * `[slot free]`: the caller's store of `taken` (Release) → the writer's load (Acquire): what the caller read has been
//!   read.
//! * `[emit, then rouse]`: the writer stores `written`, fence, then looks whether the caller waits on the request's word;
//!   the caller says that it waits, fence, then looks at `written`. The writer that finds it waiting clears WAITING, so
//!   that a caller on its way to sleep does not fall asleep, and then wakes it.
//! * `[take, then rouse]`: the caller stores `taken`, fence, then looks whether the writer sleeps; the writer says so,
//!   fence, then looks at `taken`, on which it sleeps.
//!
//! # Crash
//!
//! A writer that dies before its store of `written` leaves a slot that the next one writes over. One that dies between
//! that store and the wake owes a wake. A request of which a worker has emitted at a node is not tried there again after
//! that worker's death, since its caller has seen what came of the first try
//! ([`Task::has_emitted_at`](super::Task::has_emitted_at)): so it is DONE next, and the wake-all after a death wakes its
//! caller. No pool is involved, so nothing can leak.
#![expect(unsafe_code, reason = "partials in shared memory")]

use super::{Claimed, Corrupt, Task, WriteBuffer};
use crate::layout::{PartialLines, SLOT_HEADER_BYTES, TakenLine};
use crate::sync::{Ordering, fence};
use crate::sys::futex;
use core::ptr::NonNull;
use core::time::Duration;

const OPEN: u32 = 1 << 31;
const GONE: u32 = 1 << 30;
const COUNT: u32 = GONE - 1;
/// In the upper half of `written`: no node has written one yet.
const NO_NODE: u32 = u32::MAX;

fn written(node: u32, count: u32) -> u64 {
    u64::from(node) << 32 | u64::from(count & COUNT)
}

/// The ring of one request.
#[derive(Debug, Clone, Copy)]
struct Ring<'s> {
    lines: &'s PartialLines,
    task: Task<'s>,
    slots: u32,
}

impl<'s> Ring<'s> {
    fn of(task: Task<'s>) -> Option<Self> {
        let slots = task.segment().shape().partials.slots;
        let lines = task.segment().partial_ring(task.slot().0)?;
        (slots > 0).then_some(Self { lines, task, slots })
    }

    fn rouse_writer(&self) {
        if self.lines.written.sleeps.load(Ordering::Relaxed) != 0 {
            futex::wake(&self.lines.taken.count, 1);
        }
    }

    /// The slot of a partial: its header and its bytes.
    fn slot(&self, number: u32) -> (NonNull<u8>, usize) {
        let segment = self.task.segment();
        let (start, room) = segment
            .partial_slot(self.task.slot().0, number % self.slots)
            .expect("requests of the shape have as many slots as it says");
        (start, room.min(segment.shape().partials.bytes as usize))
    }
}

/// The length of a partial, and the number of its type.
#[repr(C)]
#[derive(Clone, Copy)]
struct SlotHeader {
    length: u32,
    pad: u32,
    kind: u64,
}
const _: () = assert!(size_of::<SlotHeader>() == SLOT_HEADER_BYTES);

impl<'s> Task<'s> {
    /// Opens its ring, while it is FILLING; false if the segment has none.
    pub(crate) fn open_partials(&self) -> bool {
        let Some(Ring { lines, .. }) = Ring::of(*self) else { return false };
        // Relaxed, all: they travel with [handed], and no other participant looks before.
        lines.written.last.store(written(NO_NODE, 0), Ordering::Relaxed);
        lines.written.sleeps.store(0, Ordering::Relaxed);
        lines.taken.generation.store(self.word().peek().generation().into(), Ordering::Relaxed);
        lines.taken.count.store(OPEN, Ordering::Relaxed);
        true
    }

    /// What its caller wrote last into its ring, if it has opened it.
    fn taken(&self) -> Option<u32> {
        let TakenLine { count, generation } = &Ring::of(*self)?.lines.taken;
        let mine = u32::from(self.request_word().peek().generation());
        // Relaxed, both: opened before [handed]; a close that is seen late lets one more partial be written, which no
        // caller reads.
        (generation.load(Ordering::Relaxed) == mine).then(|| count.load(Ordering::Relaxed))
    }

    /// Whether its caller has opened its ring, and not closed it since.
    fn has_open_partials(&self) -> bool {
        self.taken().is_some_and(|taken| taken & OPEN != 0)
    }

    /// Whether its caller, which has opened its ring, can take a partial.
    #[must_use]
    pub fn has_partial(&self) -> bool {
        let Some(ring) = Ring::of(*self).filter(|_| self.has_open_partials()) else { return false };
        // Relaxed, both: only whether to look again.
        let written = ring.lines.written.last.load(Ordering::Relaxed) as u32;
        (written ^ ring.lines.taken.count.load(Ordering::Relaxed)) & COUNT != 0
    }

    /// Whether a worker of this node has emitted a partial of it, be the worker dead or not.
    #[must_use]
    pub fn has_emitted_at(&self, node: u32) -> bool {
        self.has_open_partials()
            // Relaxed: travels with [handed], as all that a dead worker did.
            && Ring::of(*self).is_some_and(|ring| {
                (ring.lines.written.last.load(Ordering::Relaxed) >> 32) as u32 == node
            })
    }
}

impl Task<'_> {
    /// Wakes the worker that waits for room, if one does.
    pub(crate) fn rouse_writer(&self) {
        if let Some(ring) = Ring::of(*self) {
            ring.rouse_writer();
        }
    }
}

/// Whether there is room for one more partial.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Room {
    /// There is.
    Free,
    /// The caller has to take one first.
    Full,
    /// The caller takes none any more: [look again](Claimed::partials).
    Closed,
}

/// The writer's side: the ring of a claimed request whose caller takes partials.
#[derive(Debug)]
pub struct Emitter<'c, 's> {
    claimed: &'c mut Claimed<'s>,
    ring: Ring<'s>,
    count: u32,
}

/// Whether the caller of a claimed request takes partials.
#[derive(Debug)]
pub enum Listener<'c, 's> {
    /// It does.
    Open(Emitter<'c, 's>),
    /// It did, and has gone.
    Gone,
    /// It waits for the outcome alone.
    None,
}

impl<'s> Claimed<'s> {
    /// The writer's side of its ring, if its caller takes partials. A branch has none.
    #[must_use]
    pub fn partials(&mut self) -> Listener<'_, 's> {
        let task = self.task();
        let Some(ring) = Ring::of(task).filter(|_| !task.is_branch()) else { return Listener::None };
        match task.taken() {
            Some(taken) if taken & OPEN != 0 => {
                let count = ring.lines.written.last.load(Ordering::Relaxed) as u32 & COUNT; // Relaxed: [one writer]
                Listener::Open(Emitter { claimed: self, ring, count })
            }
            Some(taken) if taken & GONE != 0 => Listener::Gone,
            _ => Listener::None,
        }
    }
}

impl Emitter<'_, '_> {
    /// Whether a partial can be written now.
    #[must_use]
    pub fn room(&self) -> Room {
        let taken = self.ring.lines.taken.count.load(Ordering::Acquire); // [slot free]
        if taken & OPEN == 0 {
            return Room::Closed;
        }
        // A count that no caller can have written makes a ring that looks full.
        let behind = self.count.wrapping_sub(taken) & COUNT;
        if behind < self.ring.slots { Room::Free } else { Room::Full }
    }

    /// Sleeps until the caller takes a partial or goes, or the timeout expires.
    pub fn await_room(&self, timeout: Duration) {
        let Ring { lines, .. } = self.ring;
        lines.written.sleeps.store(1, Ordering::Relaxed);
        fence(Ordering::SeqCst); // [take, then rouse]
        crash_point!("partials.sleeps");
        let seen = lines.taken.count.load(Ordering::Relaxed);
        if self.room() == Room::Full {
            futex::wait(&lines.taken.count, seen, Some(timeout));
        }
        lines.written.sleeps.store(0, Ordering::Relaxed); // Relaxed: a wake too many does no harm
    }

    /// The buffer of the next partial. Only where there is [room](Self::room).
    ///
    /// # Panics
    /// If there is none.
    pub fn buffer(&mut self) -> WriteBuffer<'_> {
        assert!(self.room() != Room::Full, "a partial needs room");
        let (start, room) = self.ring.slot(self.count);
        // SAFETY: [in the ring]: the slot is the writer's, which we are by [one writer], as long as the guard of the
        // request is borrowed; it lies in the mapping.
        unsafe { WriteBuffer::at(start.add(SLOT_HEADER_BYTES), room) }
    }

    /// Publishes what was written to the buffer, as a value of the type that `kind` stands for, by a worker of `node`;
    /// wakes the caller if it waits.
    pub fn publish(self, bytes: usize, kind: u64, node: u32) {
        let (start, room) = self.ring.slot(self.count);
        let header = SlotHeader { length: bytes.min(room) as u32, pad: 0, kind };
        // SAFETY: as in `buffer`; slots are aligned to lines and begin with a header.
        unsafe { start.cast::<SlotHeader>().write(header) };
        crash_point!("partials.written");
        let last = written(node, self.count.wrapping_add(1));
        self.ring.lines.written.last.store(last, Ordering::Release); // [partial]
        crash_point!("partials.published");
        let task = self.claimed.task();
        let (wake, notify) = task.word().rouse(self.claimed.me);
        crash_point!("partials.roused");
        if wake || notify {
            task.tell_caller(wake, notify);
        }
    }
}

/// The reader's side: the ring of a request that its caller has opened. Dropping it does not close it.
#[derive(Debug)]
pub struct Partials<'s> {
    ring: Ring<'s>,
    taken: u32,
}

impl<'s> Partials<'s> {
    /// The reader's side of a request's ring; `None` if the segment has no rings.
    pub(crate) fn of(task: Task<'s>) -> Option<Self> {
        let ring = Ring::of(task)?;
        let taken = ring.lines.taken.count.load(Ordering::Relaxed) & COUNT; // Relaxed: [one writer]
        Some(Self { ring, taken })
    }

    /// Whether a partial is there to be taken.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.behind() != 0
    }

    fn behind(&self) -> u32 {
        let written = self.ring.lines.written.last.load(Ordering::Acquire) as u32; // [partial]
        written.wrapping_sub(self.taken) & COUNT
    }

    /// The next partial, and the number that stands for its type; `None` if there is none yet. It stays until it is
    /// [taken](Self::advance).
    ///
    /// # Errors
    /// If another process has written over the segment.
    pub fn first(&self) -> Result<Option<(u64, &[u8])>, Corrupt> {
        let behind = self.behind();
        if behind == 0 {
            return Ok(None);
        }
        let (start, room) = self.ring.slot(self.taken);
        // SAFETY: [in the ring]: the slot is the reader's, in the mapping, and no one writes it until it is taken; any
        // bytes are a header.
        let SlotHeader { length, kind, .. } = unsafe { start.cast::<SlotHeader>().read() };
        if behind > self.ring.slots || length as usize > room {
            return Err(Corrupt { task: self.ring.task.id(), bytes: length, block: 0 });
        }
        // SAFETY: as above; `length` bytes fit.
        let bytes =
            unsafe { core::slice::from_raw_parts(start.add(SLOT_HEADER_BYTES).as_ptr(), length as usize) };
        Ok(Some((kind, bytes)))
    }

    /// The first partial has been read, if there is one: its slot is the worker's again.
    pub fn advance(&mut self) {
        if self.is_ready() {
            self.taken = self.taken.wrapping_add(1) & COUNT;
            self.store(self.taken | OPEN);
        }
    }

    /// The caller takes no more partials, and waits for the outcome alone.
    pub fn close(&mut self) {
        self.store(self.taken);
    }

    /// The caller goes; the cancellation of the request must follow.
    pub fn leave(&mut self) {
        self.store(self.taken | GONE);
    }

    fn store(&self, taken: u32) {
        let Ring { lines, .. } = self.ring;
        lines.taken.count.store(taken, Ordering::Release); // [slot free]
        fence(Ordering::SeqCst); // [take, then rouse]
        self.ring.rouse_writer();
    }
}
