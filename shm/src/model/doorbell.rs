//! Doorbells: a worker that is awake sees each item that is pushed.
//!
//! Workers here take one item and leave, or work for ever on it: no worker is awake by chance. They sleep while a
//! living worker holds the reader lock: the worker that unlocks it looks at what is left.

use super::ring::Parts;
use super::{Grave, explore, explore_deaths, explore_deaths_within, explore_within, spawn, take_part, token};
use crate::doorbell::{Bell, Line};
use crate::lock::{Acquired, ReaderLock};
use crate::sync::{AtomicU32, fence_after_seq_cst};
use crate::token::Token;
use std::sync::Arc;

/// A node with two workers.
struct Node {
    parts: Parts,
    lock: AtomicU32,
    line: Line,
    bells: [Bell; 2],
    /// The workers may end.
    over: Grave,
    /// Worker 1 is dead.
    grave: Grave,
}

impl Node {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            parts: Parts::at(4, 0),
            lock: AtomicU32::new(0),
            line: Line::new(),
            bells: [Bell::new(), Bell::new()],
            over: Grave::default(),
            grave: Grave::default(),
        })
    }

    fn bell(&self, worker: u32) -> Option<&Bell> {
        self.bells.get(worker as usize)
    }

    fn push(&self, id: u32) {
        let position = self.parts.ring().push(id).unwrap();
        self.line.after_push(position + 1, |worker| self.bell(worker));
    }

    fn doubt(&self) {
        let unread = || self.has_items() && ReaderLock::new(&self.lock).holder().is_none();
        self.line.doubt(unread, |worker| self.bell(worker));
    }

    fn has_items(&self) -> bool {
        let ring = self.parts.ring();
        ring.published(ring.head(), 1) > 0
    }

    fn is_dead(&self, token: Token) -> bool {
        token == super::token(1) && self.grave.holds()
    }

    /// Whether there are items that no living worker collects.
    fn unattended(&self) -> bool {
        let holder = ReaderLock::new(&self.lock).holder();
        self.has_items() && holder.is_none_or(|holder| self.is_dead(holder))
    }

    /// Takes up to `max` items, and wakes one more worker if it leaves any.
    fn take(&self, worker: u32, max: u64) -> Vec<u32> {
        let lock = ReaderLock::new(&self.lock);
        lock.lock(token(worker), 0, |t| self.is_dead(t));
        self.take_locked(worker, max)
    }

    /// [`take`](Self::take) for the holder of the lock.
    fn take_locked(&self, worker: u32, max: u64) -> Vec<u32> {
        let ring = self.parts.ring();
        let head = ring.head();
        let count = ring.published(head, max);
        let ids = (head..head + count).map(|position| ring.get(position).unwrap()).collect();
        ring.set_head(head + count);
        ReaderLock::new(&self.lock).unlock(token(worker));
        // Unlock, full fence, look: against announce, full fence, look at ring and lock. Without loom the
        // order of the two `SeqCst` accesses is enough.
        fence_after_seq_cst();
        if self.has_items() {
            self.line.wake_one(|worker| self.bell(worker));
        }
        ids
    }

    /// Takes one item, asleep until there is one; none after the end.
    fn await_item(&self, worker: u32) -> Option<u32> {
        loop {
            if self.unattended()
                && let [id] = self.take(worker, 1)[..]
            {
                return Some(id);
            }
            let bell = &self.bells[worker as usize];
            let count = bell.count();
            self.line.announce(worker);
            if self.over.holds() {
                return None;
            }
            if !self.unattended() {
                bell.sleep(count, None);
            }
            self.line.retract(worker);
        }
    }

    /// Takes an item and wakes the other worker, which finds that there will be no more; or is woken so.
    fn await_the_only_item(&self, worker: u32) {
        if self.await_item(worker).is_some() {
            self.end();
        }
    }

    fn end(&self) {
        self.over.dig();
        self.wake_everyone();
    }

    fn wake_everyone(&self) {
        ReaderLock::new(&self.lock).wake_spuriously();
        self.bells.iter().for_each(Bell::ring);
    }
}

/// One worker and one item.
#[test]
fn a_push_wakes_a_sleeper() {
    explore(|| {
        let node = Node::new();
        let worker = {
            let node = node.clone();
            spawn(move || node.await_item(0))
        };
        take_part();
        node.push(7);
        assert_eq!(worker.join().unwrap(), Some(7));
    });
}

/// Two workers and two items, each takes one: pushed one by one, or with a single look at the line.
#[test]
fn two_pushes_wake_two_sleepers() {
    for at_once in [false, true] {
        explore_within(2, move || {
            let node = Node::new();
            let workers = [0, 1].map(|worker| {
                let node = node.clone();
                spawn(move || node.await_item(worker).unwrap())
            });
            take_part();
            if at_once {
                let next = node.parts.ring().push_many(&[7, 8]).unwrap();
                node.line.after_push(next, |worker| node.bell(worker));
            } else {
                node.push(7);
                node.push(8);
            }
            let [a, b] = workers.map(|w| w.join().unwrap());
            assert_eq!(a + b, 15);
        });
    }
}

/// The holder sleeps until its batch of two is there: a push wakes it, once.
#[test]
fn a_full_batch_wakes_its_holder_once() {
    explore(|| {
        let node = Node::new();
        let holder = {
            let node = node.clone();
            spawn(move || {
                let complete = || node.parts.ring().published(0, 2) == 2;
                while !complete() {
                    let count = node.bells[0].count();
                    node.line.announce_window(0, 1);
                    if !complete() {
                        node.bells[0].sleep(count, None);
                    }
                    node.line.retract_window();
                }
                assert!(node.bells[0].count() <= 1, "one wake a batch");
            })
        };
        let other = {
            let node = node.clone();
            spawn(move || node.push(7))
        };
        take_part();
        node.push(8);
        other.join().unwrap();
        holder.join().unwrap();
    });
}

/// The holder's window ends before its batch is full, and it goes to work with what is there. The item of a push that
/// woke no worker because of the window is in that batch, or a sleeper is woken for it.
#[test]
fn what_is_pushed_while_a_window_ends_is_taken() {
    explore(|| {
        let node = Node::new();
        node.push(7);
        ReaderLock::new(&node.lock).lock(token(0), 0, |_| false);
        let sleeper = {
            let node = node.clone();
            spawn(move || node.await_item(1))
        };
        let holder = {
            let node = node.clone();
            spawn(move || {
                node.line.announce_window(0, 3);
                node.line.retract_window();
                node.take_locked(0, 4).len()
            })
        };
        take_part();
        node.push(8);
        let taken = holder.join().unwrap();
        if taken == 2 {
            node.end();
        }
        // Else the sleeper has the rest, without another wake.
        assert_eq!(taken + usize::from(sleeper.join().unwrap().is_some()), 2);
    });
}

/// A spinner spares the sleeper a wake; when it takes an item and leaves one, or gives up, no item is lost.
#[test]
fn a_spinner_leaves_nothing_behind() {
    explore_within(2, || {
        let node = Node::new();
        let sleeper = {
            let node = node.clone();
            spawn(move || node.await_item(1))
        };
        let spinner = {
            let node = node.clone();
            spawn(move || {
                let turn = node.line.begin_spinning(0).expect("no other worker spins");
                let _ = node.has_items(); // once: its budget is used up
                node.line.end_spinning(turn);
                node.await_item(0)
            })
        };
        take_part();
        node.push(7);
        node.push(8);
        assert_eq!(spinner.join().unwrap().unwrap() + sleeper.join().unwrap().unwrap(), 15);
    });
}

/// A spinner that goes to work looks, after it has removed its mark, for what it leaves.
#[test]
fn a_spinner_wakes_a_sleeper_for_what_it_leaves() {
    explore(|| {
        let node = Node::new();
        node.push(7);
        let turn = node.line.begin_spinning(0).expect("no other worker spins");
        let sleeper = {
            let node = node.clone();
            spawn(move || node.await_item(1))
        };
        let spinner = {
            let node = node.clone();
            spawn(move || {
                node.line.end_spinning(turn);
                node.take(0, 1).pop().or_else(|| node.await_item(0)).unwrap()
            })
        };
        take_part();
        node.push(8);
        assert_eq!(spinner.join().unwrap() + sleeper.join().unwrap().unwrap(), 15);
    });
}

/// A spinner has been stopped and never looks again. What two threads push reaches the worker that sleeps, or is about
/// to, because one of them doubts the mark. Neither does anything else, and no sleep has a timeout.
#[test]
fn a_stopped_spinner_is_doubted() {
    explore_within(2, || {
        let node = Node::new();
        let _turn = node.line.begin_spinning(0).expect("no other worker spins"); // and stands still
        let sleeper = {
            let node = node.clone();
            spawn(move || {
                let first = node.await_item(1).unwrap();
                first + node.await_item(1).unwrap()
            })
        };
        let other = {
            let node = node.clone();
            spawn(move || {
                node.push(7);
                node.doubt();
            })
        };
        take_part();
        node.push(8);
        node.doubt();
        other.join().unwrap();
        assert_eq!(sleeper.join().unwrap(), 15);
    });
}

/// A spinner that is only slow: a producer doubts its mark while it looks, or removes the mark, or has begun another
/// turn. It removes no other worker's mark, and the item is taken once.
#[test]
fn a_slow_spinner_is_doubted() {
    explore_within(2, || {
        let node = Node::new();
        let turn = node.line.begin_spinning(0).expect("no other worker spins");
        let spinner = {
            let node = node.clone();
            spawn(move || {
                let _ = node.has_items();
                node.line.end_spinning(turn);
                node.await_the_only_item(0);
            })
        };
        let sleeper = {
            let node = node.clone();
            spawn(move || {
                if let Some(turn) = node.line.begin_spinning(1) {
                    let _ = node.has_items();
                    node.line.end_spinning(turn);
                }
                node.await_the_only_item(1);
            })
        };
        take_part();
        node.push(7);
        node.doubt();
        spinner.join().unwrap();
        sleeper.join().unwrap();
        assert_eq!(node.parts.ring().head(), 1);
        assert_eq!(node.line.spinner(), None, "each worker removed its mark");
    });
}

/// A woken sleeper stands still before it takes the item: the next push wakes another sleeper, and so does a caller
/// whose sleep ended without an outcome.
#[test]
fn a_woken_sleeper_stands_still() {
    for pushes_again in [false, true] {
        explore_within(2, move || {
            let node = Node::new();
            node.line.announce(0); // asleep, and stopped there
            node.push(7);
            assert_eq!(node.line.sleepers(), 0, "its bit is taken");
            let sleeper = {
                let node = node.clone();
                spawn(move || {
                    let first = node.await_item(1).unwrap();
                    if pushes_again { first + node.await_item(1).unwrap() } else { first }
                })
            };
            take_part();
            if pushes_again {
                node.push(8);
            } else if node.unattended() {
                node.line.wake_one(|worker| node.bell(worker)); // `Node::rescue`
            }
            assert_eq!(sleeper.join().unwrap(), if pushes_again { 15 } else { 7 });
        });
    }
}

/// A producer dies anywhere: before its push, before it has looked at the line, between taking a sleeper's bit and
/// ringing. The repairer pushes the item if it was not pushed, and wakes all.
#[test]
fn a_waker_dies() {
    explore_deaths(|death| {
        let node = Node::new();
        let worker = {
            let node = node.clone();
            spawn(move || node.await_item(0))
        };
        let victim = {
            let (node, death) = (node.clone(), death.clone());
            spawn(move || death.strikes(|| node.push(7)))
        };
        if victim.join().unwrap() {
            let mut was_pushed = node.parts.ring().head() > 0;
            node.parts.ring().scan(|_, _| was_pushed = true);
            if !was_pushed {
                node.push(7);
            }
            node.wake_everyone();
        }
        assert_eq!(worker.join().unwrap(), Some(7));
        assert_eq!(node.parts.ring().head(), 1);
    });
}

/// A worker dies anywhere: awake, in the lock, announced, asleep or just woken. The other worker takes the item that it
/// has not drained.
#[test]
fn a_sleeper_dies() {
    explore_deaths_within(1, |death| {
        let node = Node::new();
        let victim = {
            let (node, death) = (node.clone(), death.clone());
            spawn(move || death.strikes(|| node.await_the_only_item(1)))
        };
        let survivor = {
            let node = node.clone();
            spawn(move || node.await_the_only_item(0))
        };
        take_part();
        node.push(7);
        if victim.join().unwrap() {
            node.grave.dig();
            node.line.forget(1);
            ReaderLock::new(&node.lock).free_of(token(1));
            node.wake_everyone();
        }
        if node.parts.ring().head() == 1 {
            node.end(); // the victim may have drained it and died before it ended the scene
        }
        survivor.join().unwrap();
        assert_eq!(node.parts.ring().head(), 1);
    });
}

/// A holder has died in its window. A survivor takes the lock over and opens a window of its own, while the repairer
/// makes the line forget the dead holder: if that removes the new mark too, the survivor is woken, looks and announces
/// its window again.
#[test]
fn a_window_is_taken_over() {
    explore_within(2, || {
        let node = Node::new();
        node.grave.dig();
        ReaderLock::new(&node.lock).lock(token(1), 0, |_| false);
        node.line.announce_window(1, 3); // and dies
        let survivor = {
            let node = node.clone();
            spawn(move || {
                let lock = ReaderLock::new(&node.lock);
                if let Acquired::TookOver(_) = lock.lock(token(0), 0, |t| node.is_dead(t)) {
                    node.line.retract_window();
                }
                let complete = || node.parts.ring().published(0, 2) == 2;
                while !complete() {
                    let count = node.bells[0].count();
                    node.line.announce_window(0, 1);
                    if !complete() {
                        node.bells[0].sleep(count, None);
                    }
                    node.line.retract_window();
                }
                node.take_locked(0, 2).len()
            })
        };
        let producer = {
            let node = node.clone();
            spawn(move || {
                node.push(7);
                node.push(8);
            })
        };
        take_part();
        node.line.forget(1);
        ReaderLock::new(&node.lock).free_of(token(1));
        node.wake_everyone();
        producer.join().unwrap();
        assert_eq!(survivor.join().unwrap(), 2);
    });
}

/// A worker dies in each state that it can announce. Once the line has forgotten it, a push wakes the worker that
/// really sleeps.
#[test]
fn the_line_forgets_the_dead() {
    explore_deaths(|death| {
        let node = Node::new();
        let victim = {
            let (node, death) = (node.clone(), death.clone());
            spawn(move || {
                death.strikes(|| {
                    let turn = node.line.begin_spinning(1).expect("no other worker spins");
                    node.line.end_spinning(turn);
                    node.line.announce(1);
                    node.line.retract(1);
                    node.line.announce_window(1, 3);
                    node.line.retract_window();
                })
            })
        };
        if victim.join().unwrap() {
            node.line.forget(1);
        }
        let survivor = {
            let node = node.clone();
            spawn(move || node.await_item(0))
        };
        take_part();
        node.push(7);
        assert_eq!(survivor.join().unwrap(), Some(7));
        assert_eq!(node.line.sleepers(), 0);
    });
}
