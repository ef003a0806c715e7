//! A node and its repair: a worker or a repairer dies anywhere, and every task has one outcome.
//!
//! Tasks are as far as in `word`; the table of what is due is the one of `repair`.

use super::ring::Parts;
use super::{Grave, explore_deaths, explore_deaths_within, spawn, token};
use crate::lock::ReaderLock;
use crate::sync::AtomicU32;
use crate::token::Token;
use crate::word::{Cancel, Claim, Due, Finish, Phase, State, Word};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32 as Counter, Ordering::SeqCst};

const CLIENT: u32 = 0;

/// Two nodes one after the other, and two tasks. Task 0 goes on to the second node, task 1 to its caller.
struct Plan {
    first: Parts,
    second: Parts,
    lock: AtomicU32,
    words: [Word; 2],
    answers: [Counter; 2],
    graves: [Grave; 4],
}

impl Plan {
    fn new(words: [State; 2]) -> Arc<Self> {
        Arc::new(Self {
            first: Parts::at(4, 3),
            second: Parts::at(4, 0),
            lock: AtomicU32::new(0),
            words: words.map(Word::new),
            answers: Default::default(),
            graves: Default::default(),
        })
    }

    fn is_dead(&self, token: Token) -> bool {
        self.graves[token.index() as usize].holds()
    }

    fn answer(&self, id: u32, by: Token, error: bool) {
        match self.words[id as usize].finish(by, token(CLIENT), error) {
            Finish::Done { .. } => drop(self.answers[id as usize].fetch_add(1, SeqCst)),
            Finish::Abandoned => panic!("nobody cancelled"),
            Finish::Lost(now) => panic!("{by} lives and lost task {id}: {now:?}"),
        }
    }

    /// One batch at the first node: claim, then `head`, then unlock, then work.
    fn work(&self, me: Token) {
        let (ring, lock) = (self.first.ring(), ReaderLock::new(&self.lock));
        lock.lock(me, 0, |t| self.is_dead(t));
        let head = ring.head();
        let count = ring.published(head, 2);
        let mut batch = Vec::new();
        for position in head..head + count {
            let id = ring.get(position).unwrap();
            if let Claim::Taken(_) = self.words[id as usize].claim(me, |t| self.is_dead(t)) {
                batch.push(id);
            }
        }
        ring.set_head(head + count);
        lock.unlock(me);
        for id in batch {
            if id == 0 {
                assert!(self.words[0].requeue(me, 0));
                self.second.ring().push(0).unwrap();
            } else {
                self.answer(id, me, false);
            }
        }
    }

    /// What `repair` does, with its steps in its order.
    fn repair(&self, dead: Token, me: Token) {
        ReaderLock::new(&self.lock).free_of(dead);
        let left = self.words.each_ref().map(Word::load); // read …
        let mut in_ring = [false; 2];
        for parts in [&self.first, &self.second] {
            parts.ring().scan(|_, id| in_ring[id as usize] = true); // … scan …
        }
        for (id, state) in (0_u32..).zip(left).filter(|(_, state)| state.owner() == Some(dead)) {
            let word = &self.words[id as usize];
            match state.due(in_ring[id as usize]) {
                // … act.
                Due::Push if word.adopt(state, me) => drop(self.second.ring().push(id).unwrap()),
                Due::Answer if word.take_over(state, me).is_some() => self.answer(id, me, true),
                // DONE belongs to the client, which lives.
                Due::Free => panic!("{state:?}"),
                _ => {}
            }
        }
        ReaderLock::new(&self.lock).wake_spuriously();
    }

    /// With everybody else at rest: the first node's ring is drained, then the second's, and all is well.
    fn finish_and_check(&self, me: Token) {
        self.work(me);
        for id in self.second.ids() {
            assert!(matches!(self.words[id as usize].claim(me, |_| false), Claim::Taken(_)), "twice in it");
            self.answer(id, me, false);
        }
        for (id, word) in self.words.iter().enumerate() {
            assert!(word.load().is(Phase::Done, token(CLIENT)), "task {id} is stuck: {word:?}");
            assert_eq!(self.answers[id].load(SeqCst), 1, "answers to task {id}");
        }
        assert_eq!(ReaderLock::new(&self.lock).holder(), None);
    }
}

/// A worker dies anywhere while another one works and the repairer repairs.
#[test]
fn a_worker_dies() {
    explore_deaths(|death| {
        let queued = State::new(Phase::Queued, Some(token(CLIENT)), 0, 0);
        let plan = Plan::new([queued, queued]);
        plan.first.ring().push_many(&[0, 1]).unwrap();
        let victim = {
            let (plan, death) = (plan.clone(), death.clone());
            spawn(move || death.strikes(|| plan.work(token(1))))
        };
        let survivor = {
            let plan = plan.clone();
            spawn(move || plan.work(token(3)))
        };
        if victim.join().unwrap() {
            plan.graves[1].dig();
            plan.repair(token(1), token(2));
        }
        survivor.join().unwrap();
        plan.finish_and_check(token(3));
    });
}

/// A repairer dies anywhere in the repair of a worker that left one task to push and one to answer, or one
/// claimed and not drained; the next repairer repairs both deaths while a worker works.
#[test]
fn a_repairer_dies() {
    let dead = Some(token(1));
    let to_push = State::new(Phase::Queued, dead, 0, 0);
    let to_answer = State::new(Phase::Claimed, dead, 0, 0);
    for undrained in [false, true] {
        explore_deaths_within(2, move |death| {
            let plan = Plan::new([to_push, to_answer]);
            plan.graves[1].dig();
            if undrained {
                plan.first.ring().push(1).unwrap();
                ReaderLock::new(&plan.lock).lock(token(1), 0, |_| false);
            }
            let victim = {
                let (plan, death) = (plan.clone(), death.clone());
                spawn(move || death.strikes(|| plan.repair(token(1), token(2))))
            };
            let survivor = {
                let plan = plan.clone();
                spawn(move || plan.work(token(3)))
            };
            if victim.join().unwrap() {
                plan.graves[2].dig();
                plan.repair(token(1), token(0));
                plan.repair(token(2), token(0));
            }
            survivor.join().unwrap();
            plan.finish_and_check(token(3));
        });
    }
}

/// Three tasks in the smallest ring for them, two of them cancelled: their reader frees them, their client
/// sends them again at once, and the reader dies anywhere. Were they freed before `head` has passed their
/// cells, the ring could come round to a cell that the next reader still expects.
#[test]
fn a_reader_dies_over_abandoned_tasks() {
    explore_deaths(|death| {
        let queued = State::new(Phase::Queued, Some(token(CLIENT)), 0, 0);
        let words: Arc<[Word; 3]> = Arc::new([queued; 3].map(Word::new));
        let parts = Arc::new(Parts::at(4, 0));
        parts.ring().push_many(&[0, 1, 2]).unwrap();
        for word in &words[..2] {
            assert_eq!(word.cancel(), Cancel::Left);
        }
        let drain = |parts: &Parts, words: &[Word; 3], me: Token, dead: Option<Token>| {
            let ring = parts.ring();
            let head = ring.head();
            let count = ring.published(head, 4);
            let (mut taken, mut abandoned) = (Vec::new(), Vec::new());
            for position in head..head + count {
                let id = ring.get(position).unwrap();
                match words[id as usize].claim(me, |t| Some(t) == dead) {
                    Claim::Taken(_) => taken.push(id),
                    Claim::Abandoned(state) => abandoned.push((id, state)),
                    Claim::Stale(_) => {}
                }
            }
            ring.set_head(head + count);
            for (id, state) in abandoned {
                words[id as usize].free(state);
            }
            taken
        };
        let victim = {
            let (parts, words, death) = (parts.clone(), words.clone(), death.clone());
            spawn(move || death.strikes(|| drop(drain(&parts, &words, token(1), None))))
        };
        let client = {
            let (parts, words) = (parts.clone(), words.clone());
            spawn(move || {
                for id in 0..2 {
                    let word = &words[id as usize];
                    if word.load().phase() == Some(Phase::Free) {
                        word.queue(word.begin(token(CLIENT)), token(CLIENT));
                        parts.ring().push(id).unwrap();
                    }
                }
            })
        };
        let died = victim.join().unwrap();
        client.join().unwrap();
        drain(&parts, &words, token(3), died.then(|| token(1)));
        assert_eq!(parts.ids(), []);
        for (id, word) in words.iter().enumerate() {
            let state = word.load();
            assert_ne!(state.phase(), Some(Phase::Queued), "task {id} is stuck: {state:?}");
        }
    });
}
