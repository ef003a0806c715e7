//! The free request ids of this process, each a permit: a last-freed-first list in its own memory.
//!
//! # Invariants
//!
//! * `[truth]`: the state word decides whether a request is free; this list only remembers ids that this process may
//!   use. An id is in the list, or held by one thread, or in progress, or abandoned.
//! * `[hottest first]`: the id freed last is used next, so that its lines are still in the cache.
//! * `[counted]`: the participant that frees the request of an abandoned id counts the segment's bell `freed` up after
//!   that, or, if it dies before, its repairer does. So an abandoned request that was not free at one count needs no
//!   look before the next.
//!
//! # Source
//!
//! R. K. Treiber, "Systems programming: coping with parallelism", IBM RJ 5118 (1986), with a tag against
//! ABA.

use crossbeam_utils::CachePadded;
use ringmill_shm::arena::Task;
use ringmill_shm::segment::Segment;
use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// The end of the list.
const NONE: u32 = u32::MAX;

/// Free ids, and abandoned ones that other participants will free.
#[derive(Debug)]
pub(crate) struct FreeIds {
    /// tag (32) | id (32), counted from the first
    head: CachePadded<AtomicU64>,
    /// The first id; 0 in the server's process.
    first: u32,
    next: Box<[AtomicU32]>,
    abandoned: Mutex<Abandoned>,
    abandoned_count: CachePadded<AtomicU32>,
}

/// Ids whose requests were cancelled while a worker had them.
///
/// They mostly come free in the order in which they were abandoned. So a look continues where the last one stopped, and
/// stops behind the free ids that it has found: its cost is about proportional to what it finds.
#[derive(Debug, Default)]
struct Abandoned {
    /// Ids at which no look has been.
    fresh: Vec<u32>,
    /// The other ids; at the first `unlooked` of them no look has been since the bell's count was `count`.
    known: VecDeque<u32>,
    unlooked: usize,
    count: u32,
}

impl Abandoned {
    fn len(&self) -> usize {
        self.fresh.len() + self.known.len()
    }

    /// Takes out some ids that have come free; returns whether there were any. The caller read `count` before.
    fn collect(&mut self, count: u32, is_free: impl Fn(u32) -> bool, mut release: impl FnMut(u32)) -> bool {
        if self.count != count {
            (self.count, self.unlooked) = (count, self.known.len()); // [counted]
        }
        let mut found = false;
        for id in self.fresh.drain(..) {
            if is_free(id) {
                release(id);
                found = true;
            } else {
                self.known.push_back(id);
            }
        }
        while self.unlooked > 0
            && let Some(id) = self.known.pop_front()
        {
            if is_free(id) {
                release(id);
                found = true;
            } else if found {
                self.known.push_front(id);
                break;
            } else {
                self.known.push_back(id);
            }
            self.unlooked -= 1;
        }
        found
    }
}

impl FreeIds {
    /// A list of these ids, all of which are free; the first one is used first.
    pub(crate) fn new(ids: Range<u32>) -> Self {
        let (first, count) = (ids.start, ids.end - ids.start);
        let next = (0..count).map(|id| AtomicU32::new(if id + 1 < count { id + 1 } else { NONE })).collect();
        Self {
            head: CachePadded::new(AtomicU64::new(if count == 0 { NONE.into() } else { 0 })),
            first,
            next,
            abandoned: Mutex::default(),
            abandoned_count: CachePadded::new(AtomicU32::new(0)),
        }
    }

    /// A list of these ids, of which those that are not free are abandoned: a former client's, whose workers are at them.
    pub(crate) fn with_abandoned(ids: Range<u32>, segment: &Segment) -> Self {
        let list = Self::new(ids.clone());
        while list.pop().is_some() {}
        for id in ids.rev() {
            match Task::new(segment, id).is_some_and(|task| task.is_free()) {
                true => list.release(id),
                false => list.abandon(id),
            }
        }
        list
    }

    /// A free id, if there is one.
    #[inline]
    pub(crate) fn acquire(&self, segment: &Segment) -> Option<u32> {
        // Relaxed: a hint; a caller that waits for an id looks again after the bell.
        self.pop().or_else(|| {
            (self.abandoned_count.load(Ordering::Relaxed) > 0 && self.sweep(segment)).then(|| self.pop())?
        })
    }

    #[inline]
    fn pop(&self) -> Option<u32> {
        let mut head = self.head.load(Ordering::Acquire);
        loop {
            let id = head as u32;
            let next = self.next.get(id as usize)?.load(Ordering::Relaxed); // Relaxed: checked by the CAS's tag
            let new = (head >> 32).wrapping_add(1) << 32 | u64::from(next);
            // SeqCst: "take an id, then look whether the server closes" in the callers.
            match self.head.compare_exchange_weak(head, new, Ordering::SeqCst, Ordering::Acquire) {
                Ok(_) => return Some(self.first + id),
                Err(now) => head = now,
            }
        }
    }

    /// Gives an id back, whose request is FREE: `[truth]`, `[hottest first]`.
    #[inline]
    pub(crate) fn release(&self, id: u32) {
        let id = id.wrapping_sub(self.first);
        let mut head = self.head.load(Ordering::Relaxed); // Relaxed: the CAS below decides
        loop {
            self.next[id as usize].store(head as u32, Ordering::Relaxed); // Relaxed: travels with the CAS
            let new = (head >> 32).wrapping_add(1) << 32 | u64::from(id);
            // SeqCst: "give an id back, then look whether a caller waits".
            match self.head.compare_exchange_weak(head, new, Ordering::SeqCst, Ordering::Relaxed) {
                Ok(_) => return,
                Err(now) => head = now,
            }
        }
    }

    /// Records an id whose request was cancelled; the participant that pops or finishes it will free it.
    pub(crate) fn abandon(&self, id: u32) {
        let mut abandoned = self.abandoned.lock().unwrap_or_else(|e| e.into_inner());
        abandoned.fresh.push(id);
        self.abandoned_count.store(abandoned.len() as u32, Ordering::SeqCst);
    }

    /// Takes back abandoned ids that have come free, not always all of them; returns whether there were any.
    #[cold]
    fn sweep(&self, segment: &Segment) -> bool {
        let mut abandoned = self.abandoned.lock().unwrap_or_else(|e| e.into_inner());
        let count = segment.freed().count(); // [counted]: before the look
        let is_free = |id| Task::new(segment, id).is_some_and(|task| task.is_free());
        let found = abandoned.collect(count, is_free, |id| self.release(id));
        self.abandoned_count.store(abandoned.len() as u32, Ordering::SeqCst);
        found
    }

    /// How many requests are not free. Exact while no other thread changes the list.
    pub(crate) fn in_use(&self, segment: &Segment) -> u32 {
        while self.abandoned_count.load(Ordering::Relaxed) > 0 && self.sweep(segment) {}
        let (mut free, mut at) = (0, self.head.load(Ordering::Acquire) as u32);
        while let Some(next) = self.next.get(at as usize) {
            free += 1;
            if free as usize > self.next.len() {
                break; // the list changed meanwhile
            }
            at = next.load(Ordering::Relaxed);
        }
        (self.next.len() as u32).saturating_sub(free)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::{Cell, RefCell};
    use std::sync::atomic::AtomicBool;

    #[test]
    fn last_freed_is_first_used() {
        let free_ids = FreeIds::new(0..3);
        let (a, b) = (free_ids.pop().unwrap(), free_ids.pop().unwrap());
        free_ids.release(a);
        free_ids.release(b);
        assert_eq!(free_ids.pop(), Some(b));
        assert_eq!(free_ids.pop(), Some(a));
        assert!(free_ids.pop().is_some());
        assert_eq!(free_ids.pop(), None);
    }

    /// Abandoned ids without a segment: a bell's count, and the looks at them.
    #[derive(Default)]
    struct Counted {
        abandoned: Abandoned,
        count: u32,
        free: RefCell<Vec<bool>>,
        looks: Cell<u32>,
    }

    impl Counted {
        fn with(requests: u32) -> Self {
            Self { free: RefCell::new(vec![false; requests as usize]), ..Self::default() }
        }

        fn come_free(&mut self, id: u32) {
            self.free.borrow_mut()[id as usize] = true;
            self.count += 1;
        }

        /// The ids that a caller finds if the list is empty.
        fn found(&mut self) -> Vec<u32> {
            let mut found = Vec::new();
            let is_free = |id: u32| {
                self.looks.set(self.looks.get() + 1);
                self.free.borrow()[id as usize]
            };
            let any = self.abandoned.collect(self.count, is_free, |id| found.push(id));
            assert_eq!(any, !found.is_empty());
            found
        }
    }

    /// Symptom: with very many requests abandoned, each caller without a permit looked at all of them. Fix: it looks at
    /// those that may have changed.
    #[test]
    fn looks_are_proportional_to_abandoned_requests() {
        const MANY: u32 = if cfg!(miri) { 100 } else { 5000 };
        // All are abandoned first, then callers find none free; or the callers come in between.
        for callers_between in [false, true] {
            let mut all = Counted::with(MANY);
            for id in 0..MANY {
                all.abandoned.fresh.push(id);
                assert!(!callers_between || all.found().is_empty());
            }
            (0..MANY).for_each(|_| assert!(all.found().is_empty()));
            assert_eq!(all.looks.get(), MANY, "each once");
            // They come free one by one, in their order, and for each there is a caller.
            for id in 0..MANY {
                all.come_free(id);
                assert_eq!(all.found(), [id]);
            }
            assert!(all.looks.get() <= 3 * MANY, "{}", all.looks.get());
        }
        // All come free before the first look: each look finds at least one.
        let mut all = Counted::with(MANY);
        all.abandoned.fresh.extend(0..MANY);
        assert!(all.found().is_empty());
        (0..MANY).for_each(|id| all.come_free(id));
        assert_eq!(all.found().len() as u32, MANY);
    }

    #[test]
    fn every_abandoned_request_that_has_come_free_is_found() {
        let (mut dice, mut all) = (numbers(7), Counted::with(64));
        let (mut abandoned, mut freed): (Vec<u32>, Vec<u32>) = Default::default();
        let mut next = 0;
        for _ in 0..if cfg!(miri) { 500 } else { 10_000 } {
            match dice() % 3 {
                0 if next < 64 => {
                    all.abandoned.fresh.push(next);
                    abandoned.push(next);
                    next += 1;
                }
                1 if !abandoned.is_empty() => {
                    let id = abandoned.swap_remove(dice() as usize % abandoned.len());
                    all.come_free(id);
                    freed.push(id);
                }
                _ => {
                    let found = all.found();
                    assert_eq!(found.is_empty(), freed.is_empty(), "some are found as long as there are any");
                    freed.retain(|id| !found.contains(id));
                }
            }
            if next == 64 && abandoned.is_empty() && freed.is_empty() {
                (all, next) = (Counted::with(64), 0);
            }
        }
    }

    /// Pseudo-random numbers.
    fn numbers(mut state: u64) -> impl FnMut() -> u64 {
        move || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            state >> 33
        }
    }

    #[test]
    fn an_id_has_one_holder_at_a_time() {
        let free_ids = FreeIds::new(0..3);
        let held: Vec<AtomicBool> = (0..3).map(|_| AtomicBool::new(false)).collect();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..20_000 {
                        if let Some(id) = free_ids.pop() {
                            assert!(!held[id as usize].swap(true, Ordering::SeqCst), "taken twice");
                            held[id as usize].store(false, Ordering::SeqCst);
                            free_ids.release(id);
                        }
                    }
                });
            }
        });
        assert_eq!(std::iter::from_fn(|| free_ids.pop()).count(), 3, "none lost");
    }
}
