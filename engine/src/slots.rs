//! Which requests are free, as this process knows it: a last-freed-first list in its own memory.
//!
//! # Invariants
//!
//! * *truth*: whether a request is free is decided by its state word; this list only remembers ids that
//!   this process may use. An id is in the list, or in one thread's hands, or in progress, or abandoned.
//! * *hottest first*: the id freed last is used next, so that its lines are still in the cache.
//!
//! # Source
//!
//! R. K. Treiber, "Systems programming: coping with parallelism", IBM RJ 5118 (1986), with a tag against
//! ABA.

use crossbeam_utils::CachePadded;
use ringmill_shm::arena::Task;
use ringmill_shm::segment::Segment;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// The end of the list.
const NONE: u32 = u32::MAX;

/// Free ids, and abandoned ones that others will free.
#[derive(Debug)]
pub(crate) struct Slots {
    /// tag (32) | id (32)
    head: CachePadded<AtomicU64>,
    next: Box<[AtomicU32]>,
    abandoned: Mutex<Vec<u32>>,
    abandoned_count: CachePadded<AtomicU32>,
}

impl Slots {
    /// All of `count` ids are free; id 0 is used first.
    pub(crate) fn new(count: u32) -> Self {
        let next = (0..count).map(|id| AtomicU32::new(if id + 1 < count { id + 1 } else { NONE })).collect();
        Self {
            head: CachePadded::new(AtomicU64::new(if count == 0 { NONE.into() } else { 0 })),
            next,
            abandoned: Mutex::new(Vec::new()),
            abandoned_count: CachePadded::new(AtomicU32::new(0)),
        }
    }

    /// A free id, if there is one.
    #[inline]
    pub(crate) fn acquire(&self, segment: &Segment) -> Option<u32> {
        // Relaxed: a hint; whoever waits for an id looks again after the bell.
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
                Ok(_) => return Some(id),
                Err(now) => head = now,
            }
        }
    }

    /// Gives an id back. Its request is FREE.
    #[inline]
    pub(crate) fn release(&self, id: u32) {
        let mut head = self.head.load(Ordering::Relaxed); // Relaxed: the CAS below decides
        loop {
            self.next[id as usize].store(head as u32, Ordering::Relaxed); // Relaxed: travels with the CAS
            let new = (head >> 32).wrapping_add(1) << 32 | u64::from(id);
            // SeqCst: "give an id back, then look whether somebody waits".
            match self.head.compare_exchange_weak(head, new, Ordering::SeqCst, Ordering::Relaxed) {
                Ok(_) => return,
                Err(now) => head = now,
            }
        }
    }

    /// This id's request was cancelled; whoever pops or finishes it will free it.
    pub(crate) fn abandon(&self, id: u32) {
        let mut abandoned = self.abandoned.lock().unwrap_or_else(|e| e.into_inner());
        abandoned.push(id);
        self.abandoned_count.store(abandoned.len() as u32, Ordering::SeqCst);
    }

    /// Takes back abandoned ids that have come free; whether there were any.
    #[cold]
    fn sweep(&self, segment: &Segment) -> bool {
        let mut abandoned = self.abandoned.lock().unwrap_or_else(|e| e.into_inner());
        let before = abandoned.len();
        abandoned.retain(|&id| {
            let free = Task::new(segment, id).is_some_and(|task| task.is_free());
            if free {
                self.release(id);
            }
            !free
        });
        self.abandoned_count.store(abandoned.len() as u32, Ordering::SeqCst);
        abandoned.len() < before
    }

    /// How many requests are not free. Exact when nothing else happens.
    pub(crate) fn in_use(&self, segment: &Segment) -> u32 {
        if self.abandoned_count.load(Ordering::Relaxed) > 0 {
            self.sweep(segment);
        }
        let (mut free, mut at) = (0, self.head.load(Ordering::Acquire) as u32);
        while let Some(next) = self.next.get(at as usize) {
            free += 1;
            if free as usize > self.next.len() {
                break; // the list changed under our eyes
            }
            at = next.load(Ordering::Relaxed);
        }
        (self.next.len() as u32).saturating_sub(free)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicBool;

    #[test]
    fn last_freed_is_first_used() {
        let slots = Slots::new(3);
        let (a, b) = (slots.pop().unwrap(), slots.pop().unwrap());
        slots.release(a);
        slots.release(b);
        assert_eq!(slots.pop(), Some(b));
        assert_eq!(slots.pop(), Some(a));
        assert!(slots.pop().is_some());
        assert_eq!(slots.pop(), None);
    }

    #[test]
    fn an_id_is_in_one_pair_of_hands_at_a_time() {
        let slots = Slots::new(3);
        let held: Vec<AtomicBool> = (0..3).map(|_| AtomicBool::new(false)).collect();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..20_000 {
                        if let Some(id) = slots.pop() {
                            assert!(!held[id as usize].swap(true, Ordering::SeqCst), "taken twice");
                            held[id as usize].store(false, Ordering::SeqCst);
                            slots.release(id);
                        }
                    }
                });
            }
        });
        assert_eq!(std::iter::from_fn(|| slots.pop()).count(), 3, "none lost");
    }
}
