//! The reader lock: one holder at a time, no participant waits for ever, and a dead holder loses it.
#![expect(unsafe_code, reason = "a cell that the lock guards, for loom to watch")]

use super::{Grave, explore, explore_deaths, spawn, take_part, token};
use crate::lock::{Acquired, ReaderLock};
use crate::sync::AtomicU32;
use loom::cell::UnsafeCell;
use std::sync::Arc;

/// A lock, and what it guards: loom reports accesses that `[passed]` does not order.
struct Guarded {
    word: AtomicU32,
    count: UnsafeCell<u32>,
    grave: Grave,
}

// SAFETY: `count` is accessed under the lock; loom checks it.
unsafe impl Sync for Guarded {}
// SAFETY: as above.
unsafe impl Send for Guarded {}

impl Guarded {
    fn new() -> Arc<Self> {
        Arc::new(Self { word: AtomicU32::new(0), count: UnsafeCell::new(0), grave: Grave::default() })
    }

    fn lock(&self) -> ReaderLock<'_> {
        ReaderLock::new(&self.word)
    }

    fn add(&self) {
        // SAFETY: the pointer is to a live u32; loom checks that no other thread accesses it.
        self.count.with_mut(|count| unsafe { *count += 1 });
    }

    fn count(&self) -> u32 {
        // SAFETY: as above.
        self.count.with(|count| unsafe { *count })
    }

    /// Participant `index` takes the lock once and counts.
    fn visit(&self, index: u32, spins: u32) {
        self.lock().lock(token(index), spins, |_| false);
        self.add();
        assert!(self.lock().unlock(token(index)));
    }
}

/// Three participants that do not spin: all get it, one at a time.
#[test]
fn excludes_and_wakes() {
    explore(|| {
        let guarded = Guarded::new();
        let others = [1, 2].map(|index| {
            let guarded = guarded.clone();
            spawn(move || guarded.visit(index, 0))
        });
        take_part();
        guarded.visit(0, 0);
        for other in others {
            other.join().unwrap();
        }
        assert_eq!(guarded.count(), 3);
        assert_eq!(guarded.lock().holder(), None);
    });
}

/// Participants of which one looks before it sleeps.
#[test]
fn excludes_spinners() {
    explore(|| {
        let guarded = Guarded::new();
        let other = {
            let guarded = guarded.clone();
            spawn(move || guarded.visit(1, 1))
        };
        take_part();
        guarded.visit(0, 1);
        other.join().unwrap();
        assert_eq!(guarded.count(), 2);
    });
}

/// A holder or waiter dies anywhere; a survivor waits meanwhile, asks, sleeps, is woken by the repairer or
/// takes over: it always gets the lock, by one of the two ways, and the lock is free in the end.
#[test]
fn a_participant_dies() {
    explore_deaths(|death| {
        let guarded = Guarded::new();
        let dead = token(1);
        let victim = {
            let (guarded, death) = (guarded.clone(), death.clone());
            spawn(move || {
                death.strikes(|| {
                    guarded.lock().lock(token(1), 0, |_| false);
                    guarded.lock().unlock(token(1));
                })
            })
        };
        let survivor = {
            let guarded = guarded.clone();
            spawn(move || {
                let is_dead = |t| t == dead && guarded.grave.holds();
                let how = guarded.lock().lock(token(2), 0, is_dead);
                assert!(matches!(how, Acquired::Free | Acquired::TookOver(_)));
                guarded.add();
                assert!(guarded.lock().unlock(token(2)));
            })
        };
        if victim.join().unwrap() {
            guarded.grave.dig();
            guarded.lock().free_of(dead);
            guarded.lock().wake_spuriously();
        }
        survivor.join().unwrap();
        assert_eq!((guarded.count(), guarded.lock().holder()), (1, None));
    });
}

/// Two survivors find a dead holder: one takes over, the other waits for it.
#[test]
fn two_take_over_from_one() {
    explore(|| {
        let guarded = Guarded::new();
        let dead = token(1);
        guarded.lock().lock(dead, 0, |_| false);
        let survivors = [2, 3].map(|index| {
            let guarded = guarded.clone();
            spawn(move || {
                let how = guarded.lock().lock(token(index), 0, |t| t == dead);
                guarded.add();
                assert!(guarded.lock().unlock(token(index)));
                how == Acquired::TookOver(dead)
            })
        });
        let [a, b] = survivors.map(|t| t.join().unwrap());
        assert!(a ^ b, "one is told that it took over");
        assert_eq!(guarded.count(), 2);
    });
}
