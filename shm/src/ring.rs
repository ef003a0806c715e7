//! A crash-atomic ring of task ids: many producers, one consumer at a time, never full.
//!
//! When empty, [`Ring::get`] at `head` answers `None`. There is no full state: a task is in a ring at most once, and a
//! ring has more cells than there are tasks that can be in it; a producer that finds no free cell within one lap has
//! met a corrupted segment and gets an error. What another process may change meanwhile: any producer publishes cells
//! at any time and helps `tail` forward, `head` moves only under the reader lock.
//!
//! # Layout
//!
//! ```text
//! cell: u64 = lap (32) | task id (32)      position p lies in cell p mod n, with lap p / n + 1
//! tail  line of its own, written by producers: a hint, never behind `head` by a lap
//! head  line of its own, written by the holder of the reader lock
//! ```
//!
//! A zeroed cell has lap 0: one behind the first.
//!
//! # Protocol
//!
//! * push(id): read `tail`; if its cell is one lap behind, CAS it to (this lap, id): *that CAS is the
//!   enqueue*. Then help `tail` forward. If the cell has this lap already, help `tail`, try the next.
//! * the consumer reads cells from `head` while their lap matches, claims the tasks, stores `head` once, and only then
//!   does what could put an id back into the ring.
//!
//! # Invariants
//!
//! * `[window]`: a cell with the lap of position p was published at p and not since; consumers never
//!   write cells.
//! * `[any position]`: other processes write `tail` and `head`, so positions wrap, and loops end after a number of
//!   steps that this process knows, whatever the words say.
//! * `[once]`: between two publications of an id lies a claim; a reader that meets a task that is not QUEUED skips the
//!   cell, so even a doubled cell does no harm.
//!
//! # Ordering
//!
//! * `[published]`: the cell's CAS (Release at least) → the reader's Acquire load of the cell. The task's word, header
//!   and payload travel.
//! * `[followed]`: the cell's CAS, or the Release update of `tail` after it → the next producer's Acquire of the same.
//!   The fact that every position before it is published travels, from producer to producer. So no producer sees a cell
//!   as it was two laps ago, skips a free cell and leaves a hole.
//! * `[drained]`: the store of `head` (Release) → the Acquire load of `head` in a repairer's scan and in
//!   the next holder; the claims made before travel.
//!
//! # Crash
//!
//! A producer that dies before its CAS leaves a QUEUED task with a dead owner in no ring: `repair` pushes it. One that
//! dies after its CAS may leave `tail` behind: the next producer helps. There is no claimed-but-unwritten cell, so no
//! reader ever waits for a dead producer. A consumer that dies before it stores `head` leaves claimed tasks at or after
//! `head`; the next holder claims them again.
//!
//! # Source
//!
//! R. Colvin, L. Groves, "Formal verification of an array-based nonblocking queue", ICECCS 2005 (the
//! corrected algorithm); V. Aksenov et al., "Memory bounds for concurrent bounded queues",
//! arXiv:2104.15003 (why ids and laps in one word suffice).

use crate::sync::{AtomicU64, Ordering};
#[cfg(not(loom))]
use crate::sys::cpu::prefetch_to_write;
use crate::width::LAP_BITS;

/// How many cells other producers can fill before a producer that tries them suspects the segment.
const OVERTAKEN_LIMIT: usize = 1 << 16;

const LAP_MASK: u32 = u32::MAX >> (32 - LAP_BITS);

/// The lap before.
#[inline]
pub(crate) fn before(lap: u32) -> u32 {
    lap.wrapping_sub(1) & LAP_MASK
}

/// No cell was free within one lap: more ids than tasks exist, so the segment is corrupted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the ring has no free cell: the segment is corrupted; restart its server")]
pub struct Overrun;

/// References to the parts of one ring.
#[derive(Debug, Clone, Copy)]
pub struct Ring<'a> {
    tail: &'a AtomicU64,
    head: &'a AtomicU64,
    cells: &'a [AtomicU64],
}

impl<'a> Ring<'a> {
    /// A ring over these parts.
    ///
    /// # Panics
    /// If the number of cells is not a power of two.
    #[inline]
    #[must_use]
    pub(crate) fn new(tail: &'a AtomicU64, head: &'a AtomicU64, cells: &'a [AtomicU64]) -> Self {
        assert!(cells.len().is_power_of_two());
        Self { tail, head, cells }
    }

    #[inline]
    fn cell(&self, position: u64) -> &'a AtomicU64 {
        // In range: the mask is one less than the length, a power of two by `new`.
        &self.cells[position as usize & (self.cells.len() - 1)]
    }

    /// The lap that a cell has once position `position` is published. Wraps after 2 to the power of [`LAP_BITS`]; a lap
    /// is only compared with its neighbours.
    #[inline]
    fn lap(&self, position: u64) -> u32 {
        ((position >> self.cells.len().trailing_zeros()) as u32).wrapping_add(1) & LAP_MASK
    }

    /// Enqueues an id and returns its position.
    ///
    /// # Errors
    /// [`Overrun`] if the segment is corrupted: nothing was enqueued.
    #[inline]
    pub fn push(&self, id: u32) -> Result<u64, Overrun> {
        let position = self.publish(id, self.tail.load(Ordering::Acquire))?; // [followed]
        self.help_tail(position);
        crash_point!("ring.pushed");
        Ok(position)
    }

    /// Enqueues several ids, in order, with one update of `tail`; returns the position after the last. Ids of other
    /// producers may lie between them.
    ///
    /// # Errors
    /// [`Overrun`] with a corrupted segment: the number of ids that were enqueued before it showed.
    #[inline]
    pub fn push_many(&self, ids: &[u32]) -> Result<u64, (Overrun, usize)> {
        let mut next = self.tail.load(Ordering::Acquire); // [followed]
        for (done, &id) in ids.iter().enumerate() {
            next = self.publish(id, next).map_err(|overrun| (overrun, done))?.wrapping_add(1);
            crash_point!("ring.pushed_some");
        }
        self.tail.fetch_max(next, Ordering::Release); // [followed]
        crash_point!("ring.pushed_many");
        Ok(next)
    }

    /// Begins to fetch the cells of the next `count` ids, which readers may have looked at: a hint.
    #[cfg(not(loom))]
    #[inline]
    pub fn prefetch(&self, count: u64) {
        const CELLS_A_LINE: u64 = 64 / size_of::<AtomicU64>() as u64;
        let tail = self.tail();
        for step in (0..count + tail % CELLS_A_LINE).step_by(CELLS_A_LINE as usize) {
            prefetch_to_write(self.cell((tail - tail % CELLS_A_LINE).wrapping_add(step)));
        }
    }

    /// Moves `tail` past a published position, if it is there.
    #[inline]
    fn help_tail(&self, position: u64) {
        // [followed]; Relaxed if it is elsewhere: nothing is read by it.
        let after = position.wrapping_add(1);
        let _ = self.tail.compare_exchange(position, after, Ordering::Release, Ordering::Relaxed);
    }

    /// Publishes an id at the first free position at or after `from`.
    #[inline]
    fn publish(&self, id: u32, from: u64) -> Result<u64, Overrun> {
        let mut position = from;
        // [any position]: one lap over published cells; the rest for cells that other producers fill before us, which
        // costs each a round trip through a reader.
        for _ in 0..self.cells.len() + OVERTAKEN_LIMIT {
            let lap = self.lap(position);
            let cell = self.cell(position);
            let seen = cell.load(Ordering::Acquire); // [followed]
            let seen_lap = (seen >> 32) as u32;
            if seen_lap == before(lap) {
                let full = u64::from(lap) << 32 | u64::from(id);
                crash_point!("ring.found");
                // [published]. SeqCst, not Release, because it is also the "publish" of the doorbell's
                // "publish, full fence, look for sleepers".
                if cell.compare_exchange(seen, full, Ordering::SeqCst, Ordering::Acquire).is_ok() {
                    crash_point!("ring.published");
                    return Ok(position);
                }
            }
            if seen_lap == lap || seen_lap == before(lap) {
                // Another producer published here: help `tail`, try the next.
                self.help_tail(position);
                position = position.wrapping_add(1);
            } else {
                // We slept for a lap or more. The producer that published here since knew a `tail` behind by less than
                // a lap, so we see one ahead of us ([followed]); else no producer wrote this cell.
                let tail = self.tail.load(Ordering::Acquire);
                if tail <= position {
                    return Err(Overrun);
                }
                position = tail;
            }
        }
        Err(Overrun)
    }

    /// The id published at `position`; `None` if nothing is there yet (or no longer).
    #[inline]
    #[must_use]
    pub fn get(&self, position: u64) -> Option<u32> {
        // [published], and [window] by its lap; SeqCst because it is also the "look at the ring" of the doorbell.
        let seen = self.cell(position).load(Ordering::SeqCst);
        ((seen >> 32) as u32 == self.lap(position)).then_some(seen as u32)
    }

    /// Passes the ids that are published from `from` on to `take`, up to `limit` of them.
    #[inline]
    pub fn read(&self, from: u64, limit: u64, mut take: impl FnMut(u32)) {
        let (mut position, mut left) = (from, limit);
        while left > 0 {
            // The cells up to the end of the lap.
            let lap = self.lap(position);
            let cells = &self.cells[position as usize & (self.cells.len() - 1)..];
            let cells = &cells[..cells.len().min(left.try_into().unwrap_or(usize::MAX))];
            for cell in cells {
                // As in `get`: [published], [window]; SeqCst for the doorbell.
                let seen = cell.load(Ordering::SeqCst);
                if (seen >> 32) as u32 != lap {
                    return;
                }
                take(seen as u32);
            }
            position = position.wrapping_add(cells.len() as u64);
            left -= cells.len() as u64;
        }
    }

    /// How many positions from `from` on are published, up to `limit`.
    #[inline]
    #[must_use]
    pub fn published(&self, from: u64, limit: u64) -> u64 {
        let mut count = 0;
        while count < limit && self.get(from.wrapping_add(count)).is_some() {
            count += 1;
        }
        count
    }

    /// The first position that is not drained yet.
    #[inline]
    #[must_use]
    pub fn head(&self) -> u64 {
        self.head.load(Ordering::Acquire) // [drained]
    }

    /// The holder of the reader lock has drained everything before `position`.
    #[inline]
    pub(crate) fn set_head(&self, position: u64) {
        self.head.store(position, Ordering::Release); // [drained]
        crash_point!("ring.drained");
    }

    /// The position of the next id, roughly: a hint for reports.
    #[inline]
    #[must_use]
    pub fn tail(&self) -> u64 {
        self.tail.load(Ordering::Relaxed) // Relaxed: a hint
    }

    /// How many ids are waiting, roughly.
    #[must_use]
    pub fn depth(&self) -> u64 {
        self.tail().saturating_sub(self.head()).min(self.cells.len() as u64)
    }

    /// How many cells there are.
    #[must_use]
    pub fn cells(&self) -> usize {
        self.cells.len()
    }

    /// Calls `visit(position, id)` for every id from `head` to the last published, without the lock, while other
    /// participants push and drain: for a repairer. It visits each id that stays in the ring throughout; it may or may
    /// not visit one that comes or goes.
    pub fn scan(&self, mut visit: impl FnMut(u64, u32)) {
        let start = self.head();
        // What is in the ring now lies within a lap, so the scan ends however busy the ring is.
        let mut done = 0;
        while done < self.cells.len() as u64 {
            let position = start.wrapping_add(done);
            let seen = self.cell(position).load(Ordering::Acquire); // [published]
            if (seen >> 32) as u32 == self.lap(position) {
                visit(position, seen as u32);
                done += 1;
            } else {
                let drained = self.head().wrapping_sub(start);
                if drained <= done {
                    return;
                }
                done = drained; // the reader overtook us: go on from its `head`
            }
        }
    }

    /// What the cell for `position` holds, for a checker: its lap and id.
    #[cfg(not(loom))]
    pub(crate) fn raw(&self, position: u64) -> (u32, u32) {
        let seen = self.cell(position).load(Ordering::Acquire);
        ((seen >> 32) as u32, seen as u32)
    }

    /// The lap that belongs to `position`, for a checker.
    #[cfg(not(loom))]
    pub(crate) fn lap_of(&self, position: u64) -> u32 {
        self.lap(position)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::VecDeque;

    /// The parts of a ring on the heap, at any position of its life.
    struct Parts {
        tail: AtomicU64,
        head: AtomicU64,
        cells: Vec<AtomicU64>,
    }

    impl Parts {
        fn at(cells: usize, position: u64) -> Self {
            let n = cells as u64;
            let lap_before = |index: u64| {
                let last = if index < position % n { position / n } else { (position / n).wrapping_sub(1) };
                u64::from(last.wrapping_add(1) as u32 & LAP_MASK) << 32
            };
            Self {
                tail: AtomicU64::new(position),
                head: AtomicU64::new(position),
                cells: (0..n).map(|i| AtomicU64::new(lap_before(i))).collect(),
            }
        }

        fn ring(&self) -> Ring<'_> {
            Ring::new(&self.tail, &self.head, &self.cells)
        }
    }

    #[test]
    fn a_zeroed_ring_is_empty_and_keeps_order() {
        let parts = Parts::at(4, 0);
        let ring = parts.ring();
        assert_eq!(ring.get(0), None);
        for id in 0..4 {
            assert_eq!(ring.push(id), Ok(u64::from(id)));
        }
        assert_eq!((0..4).map(|p| ring.get(p)).collect::<Vec<_>>(), [Some(0), Some(1), Some(2), Some(3)]);
        assert_eq!(ring.get(4), None, "a lap behind is not published");
    }

    #[test]
    fn a_hint_left_behind_is_helped_forward() {
        let parts = Parts::at(8, 0);
        let ring = parts.ring();
        for id in 0..5 {
            ring.push(id).unwrap();
        }
        parts.tail.store(1, Ordering::Relaxed); // a producer died before helping
        assert_eq!(ring.push(5), Ok(5));
        assert_eq!(ring.tail(), 6);
    }

    #[test]
    fn more_ids_than_tasks_is_an_error_and_no_hang() {
        let parts = Parts::at(4, 0);
        let ring = parts.ring();
        // A reader that never drains; the fifth push meets a cell of its own lap all around.
        for id in 0..4 {
            ring.push(id).unwrap();
        }
        // The cell is one lap behind again from the fifth push's view, so it is overwritten: this is
        // why a ring has more cells than tasks. With cells of a far lap there is no way to go.
        for cell in &parts.cells {
            cell.store(77 << 32, Ordering::Relaxed);
        }
        assert_eq!(ring.push(9), Err(Overrun));
        assert_eq!(ring.push_many(&[9]), Err((Overrun, 0)));
    }

    proptest! {
        /// Against a `VecDeque`: any mix of pushes and drains, from any point of the ring's life,
        /// including where the lap goes round.
        #[test]
        fn behaves_as_a_queue(
            start in prop_oneof![Just(0_u64), 0..1_000_u64, (8 << LAP_BITS) - 20..(8_u64 << LAP_BITS) + 20],
            steps in prop::collection::vec((0..6_usize, 0..7_u64), 1..200),
        ) {
            let parts = Parts::at(8, start);
            let ring = parts.ring();
            let mut plain = VecDeque::new();
            let mut id = 0;
            for (pushes, drains) in steps {
                let room = 7 - plain.len();
                let new: Vec<u32> = (0..pushes.min(room)).map(|_| { id += 1; id }).collect();
                if new.len().is_multiple_of(2) {
                    ring.push_many(&new).unwrap();
                } else {
                    for &id in &new { ring.push(id).unwrap(); }
                }
                plain.extend(new);
                prop_assert_eq!(ring.depth(), plain.len() as u64);
                let mut scanned = Vec::new();
                ring.scan(|_, id| scanned.push(id));
                prop_assert!(scanned.iter().eq(plain.iter()));
                let head = ring.head();
                let count = ring.published(head, drains);
                let mut read = Vec::new();
                ring.read(head, drains, |id| read.push(id));
                prop_assert!(read.iter().eq(plain.iter().take(count as usize)));
                for position in head..head + count {
                    prop_assert_eq!(ring.get(position), plain.pop_front());
                }
                ring.set_head(head + count);
            }
        }
    }
}
