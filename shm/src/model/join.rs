//! Forks and joins: every task moves on once, every request is freed once, and no payload is written or freed
//! while a branch may read it.
//!
//! The real code of `join` and `word`; around it the steps of `arena::forked` and `repair` in their order, with
//! payloads as cells whose accesses loom checks. A branch in a ring is one whose word is QUEUED: what a ring does is
//! modelled in `repair`.

use super::{explore, explore_deaths_within, explore_within, spawn, take_part, token};
use crate::join::{Family, Ready};
use crate::plan::{Fork, ForkMember, Routes, Target};
use crate::sync::{AtomicU32, AtomicU64, Ordering, fence, mortal};
use crate::token::Token;
use crate::word::{Claim, Due, Finish, Phase, State, Word};
use loom::cell::UnsafeCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32 as Counter, Ordering::SeqCst};

const CLIENT: u32 = 0;
const REPAIRER: u32 = 7;

/// Where a task is, as in its header.
const NEW: u32 = 0;
const NODE: u32 = 1;
const FAILED: u32 = 2;
const FORKED: u32 = 0x100;
const JOINED: u32 = 0x200;

/// A request with its branches.
struct Request {
    routes: Routes,
    pending: [AtomicU64; 1],
    words: Vec<Word>,
    at: Vec<AtomicU32>,
    payloads: Vec<UnsafeCell<()>>,
    /// Whether a joiner has begun to write an error record over an outcome.
    spoilt: Vec<AtomicU32>,
    joins: Vec<Counter>,
    answers: [Counter; 2],
    freed: Counter,
}

/// What a dead participant owned.
enum Orphan {
    Task(u32),
    Join(u32),
}

fn fork(parent: u32, first: u32, members: usize, end: u32, fail_fast: bool, next: Target) -> Fork {
    let members = vec![ForkMember { entry: Target::Node(0), root_bytes: 0, root_align: 1 }; members];
    Fork { name: "fork".into(), fail_fast, form: 0, parent, first, end, next, members }
}

impl Request {
    /// A request that `forker` has, about to be forked at fork 0.
    fn new(forks: Vec<Fork>, branches: u32, forker: Token) -> Arc<Self> {
        let joins = forks.iter().map(|_| Counter::new(0)).collect();
        let routes = Routes::new(forks, Vec::new(), &[Target::End], branches).unwrap();
        let request = State::new(Phase::Claimed, Some(forker), 0, 0);
        let states = core::iter::once(request).chain((0..branches).map(|_| State::from_raw(0)));
        Arc::new(Self {
            routes,
            pending: [AtomicU64::new(0)],
            words: states.map(Word::new).collect(),
            at: (0..=branches).map(|_| AtomicU32::new(NEW)).collect(),
            payloads: (0..=branches).map(|_| UnsafeCell::new(())).collect(),
            spoilt: (0..=branches).map(|_| AtomicU32::new(0)).collect(),
            joins,
            answers: Default::default(),
            freed: Counter::new(0),
        })
    }

    /// One fork of two branches, one claimed by worker 1 and one by worker 2.
    fn forked(fail_fast: bool) -> Arc<Self> {
        let request = Self::new(vec![fork(0, 0, 2, 2, fail_fast, Target::End)], 2, token(CLIENT));
        request.fork(0, token(CLIENT));
        request.hand(0, 1);
        request.hand(1, 2);
        request
    }

    fn family<'a>(&'a self) -> Family<'a, impl Fn(u32) -> Option<&'a Word>> {
        Family { routes: &self.routes, pending: &self.pending, word: |slot| self.words.get(slot as usize) }
    }

    fn word(&self, slot: u32) -> &Word {
        &self.words[slot as usize]
    }

    fn at(&self, slot: u32) -> u32 {
        self.at[slot as usize].load(Ordering::Relaxed)
    }

    fn set_at(&self, slot: u32, at: u32) {
        self.at[slot as usize].store(at, Ordering::Relaxed);
    }

    fn reads(&self, slot: u32) {
        self.payloads[slot as usize].with(|_| ());
    }

    fn writes(&self, slot: u32) {
        self.payloads[slot as usize].with_mut(|_| ());
    }

    /// A branch goes into a ring, and `worker` takes it out.
    fn hand(&self, branch: u32, worker: u32) {
        self.send(branch, token(CLIENT));
        assert!(matches!(self.word(branch + 1).claim(token(worker), |_| false), Claim::Taken(_)));
    }

    fn send(&self, branch: u32, me: Token) {
        self.set_at(branch + 1, NODE);
        assert!(self.word(branch + 1).requeue(me, 0));
    }

    /// `Claimed::fork`.
    fn fork(&self, index: u32, me: Token) {
        let fork = &self.routes.forks[index as usize];
        for branch in fork.branches() {
            assert_eq!(self.word(branch + 1).load().phase(), Some(Phase::Free), "branch {branch}");
            self.set_at(branch + 1, NEW);
            self.spoilt[branch as usize + 1].store(0, Ordering::Relaxed);
            self.word(branch + 1).begin_branch(me);
        }
        self.family().begin(&fork.branches());
        self.set_at(fork.parent, FORKED | index);
        self.word(fork.parent).fork(me, index).unwrap();
    }

    /// `Claimed::finish_branch`, after work on it.
    fn arrive(&self, branch: u32, me: Token, error: bool) {
        self.reads(0);
        self.writes(branch + 1);
        self.end_branch(branch, me, error);
    }

    fn end_branch(&self, branch: u32, me: Token, error: bool) {
        self.word(branch + 1).finish_branch(me, error).unwrap();
        let due = self.family().arrive(branch, me, error);
        self.act_on(due, me);
    }

    fn act_on(&self, due: Ready, me: Token) {
        match due {
            Ready::Nothing => {}
            Ready::Join { fork, .. } => self.join(fork, me),
            Ready::Reap(state) => self.reap(state),
        }
    }

    /// What the layer above does with a `Join`: an error if the fork fails fast and a branch has failed, else
    /// a value, written over the input.
    fn join(&self, index: u32, me: Token) {
        let fork = &self.routes.forks[index as usize];
        let family = self.family();
        let failed = fork.fail_fast.then(|| fork.branches().find(|&branch| family.has_failed(branch)));
        match failed.flatten() {
            Some(branch) => {
                assert_eq!(self.spoilt[branch as usize + 1].load(Ordering::Relaxed), 0, "read half-written");
                self.set_at(branch + 1, FORKED | index); // [marked]
                fence(Ordering::Release);
                self.spoilt[branch as usize + 1].store(1, Ordering::Relaxed);
                self.writes(branch + 1); // the keeper
                self.set_at(fork.parent, FAILED);
            }
            None => {
                assert!(family.at_rest(&fork.family()), "fork {index} is joined under way");
                for branch in fork.branches() {
                    self.reads(branch + 1);
                }
                self.writes(fork.parent);
                self.set_at(fork.parent, JOINED | index);
            }
        }
        self.joined(fork.parent, me);
    }

    /// `Mover::repeat_join`: where an outcome may have been written over, none is read.
    fn repeat_join(&self, index: u32, me: Token) {
        let fork = &self.routes.forks[index as usize];
        let marked = |branch: u32| self.at(branch + 1) == FORKED | index;
        if let Some(branch) = fork.family().find(|&branch| marked(branch)) {
            self.writes(branch + 1);
            self.set_at(fork.parent, FAILED);
            self.joined(fork.parent, me);
        } else {
            self.join(index, me);
        }
    }

    fn joined(&self, slot: u32, me: Token) {
        self.word(slot).joined(me).unwrap();
        let at = self.at(slot);
        if at & JOINED != 0 {
            self.sweep_after(at & 0xFF);
        }
        self.move_on(slot, me);
    }

    fn sweep_after(&self, fork: u32) {
        self.joins[fork as usize].fetch_add(1, SeqCst);
        self.repeat_sweep(fork);
    }

    /// `Task::sweep_after`: below a branch with a value there is nothing.
    fn repeat_sweep(&self, fork: u32) {
        let fork = &self.routes.forks[fork as usize];
        let failed = |branch: u32| {
            let state = self.word(branch + 1).peek();
            state.phase() == Some(Phase::Done) && state.is_error()
        };
        let below = fork.branches().any(failed);
        self.sweep(if below { fork.family() } else { fork.branches() });
    }

    /// What the layer above does with a task that is CLAIMED.
    fn move_on(&self, slot: u32, me: Token) {
        let at = self.at(slot);
        let fork = |index: u32| &self.routes.forks[index as usize];
        if at & FORKED != 0 {
            self.fork_and_send(at & 0xFF, me);
        } else if at & JOINED != 0
            && let Target::Fork(next) = fork(at & 0xFF).next
        {
            self.fork_and_send(next, me);
        } else {
            // A new branch is worked on at once; the worker of a begun one is dead.
            self.end(slot, me, matches!(at, FAILED | NODE));
        }
    }

    fn fork_and_send(&self, index: u32, me: Token) {
        self.fork(index, me);
        for branch in self.routes.forks[index as usize].branches() {
            self.send(branch, me);
        }
    }

    fn end(&self, slot: u32, me: Token, error: bool) {
        if let Some(branch) = slot.checked_sub(1) {
            return self.end_branch(branch, me, error);
        }
        let done = self.word(0).finish_forked(me, token(CLIENT), error).unwrap();
        if done.is_cancelled() {
            let due = self.family().look_at_request(me);
            return self.act_on(due, me);
        }
        self.answers[usize::from(error)].fetch_add(1, SeqCst);
        if done.is_waiting() {
            self.word(0).wake_caller();
        }
    }

    /// Frees what has arrived, the innermost first. Not by `Word::free`, a store: loom takes it that one could come before a
    /// compare-and-swap (of a repairer, DONE to DONE) that has read what the store follows.
    fn sweep(&self, branches: core::ops::Range<u32>) {
        for branch in branches.rev() {
            let word = self.word(branch + 1);
            let mut state = word.load();
            if state.phase() == Some(Phase::Done) {
                self.writes(branch + 1);
                while !word.free_if(state) {
                    state = word.load();
                }
            }
        }
    }

    fn reap(&self, state: State) {
        assert!(self.family().all_at_rest(), "reaped while branches are pending");
        self.sweep(0..self.words.len() as u32 - 1);
        self.writes(0);
        self.word(0).free(state);
        self.freed.fetch_add(1, SeqCst);
    }

    /// `Task::cancel`.
    fn cancel(&self) {
        if self.word(0).cancel() == crate::word::Cancel::WasDone {
            let due = self.family().look_at_request(token(CLIENT));
            self.act_on(due, token(CLIENT));
        }
    }

    /// The caller's way: sleep until the outcome is there.
    fn await_outcome(&self) -> State {
        loop {
            let state = self.word(0).load();
            if state.phase() == Some(Phase::Done) {
                return state;
            }
            self.word(0).sleep(None);
        }
    }

    /// Takes what is queued, as a worker; a branch at a time.
    fn work(&self, me: Token) {
        for branch in 0..self.words.len() as u32 - 1 {
            if let Claim::Taken(_) = self.word(branch + 1).claim(me, |_| false) {
                self.arrive(branch, me, false);
            }
        }
    }

    /// What `repair` does, with its steps in its order, and then what the layer above does with its orphans.
    fn repair(&self, dead: Token, me: Token) {
        let left: Vec<State> = self.words.iter().map(Word::load).collect();
        let mut orphans = Vec::new();
        for (slot, state) in
            (0..self.words.len() as u32).zip(left).rev().filter(|(_, state)| state.owner() == Some(dead))
        {
            if slot > 0 && self.act_on_branch(slot, state, me, &mut orphans) {
                continue;
            }
            let word = self.word(slot);
            match state.due(state.phase() == Some(Phase::Queued)) {
                Due::Free => {
                    assert_eq!(state.phase(), Some(Phase::Done));
                    if word.succeed(state, me) {
                        word.cancel();
                        let due = self.family().look_at_request(me);
                        self.act_on(due, me);
                    }
                }
                Due::Answer if word.take_over(state, me).is_some() => {
                    let at = self.at(slot);
                    if at & JOINED != 0 {
                        self.repeat_sweep(at & 0xFF);
                    }
                    orphans.push(Orphan::Task(slot));
                }
                Due::Join if word.take_over(state, me).is_some() => {
                    let at = self.at(slot);
                    if at & FORKED != 0 {
                        orphans.push(Orphan::Join(at & 0xFF));
                    } else {
                        word.joined(me).unwrap();
                        if at & JOINED != 0 {
                            self.sweep_after(at & 0xFF);
                        }
                        orphans.push(Orphan::Task(slot));
                    }
                }
                _ => {}
            }
        }
        for orphan in orphans {
            match orphan {
                Orphan::Task(slot) => self.move_on(slot, me),
                Orphan::Join(fork) => self.repeat_join(fork, me),
            }
        }
        self.word(0).wake_spuriously();
    }

    fn act_on_branch(&self, slot: u32, state: State, me: Token, orphans: &mut Vec<Orphan>) -> bool {
        let word = self.word(slot);
        let branch = slot - 1;
        match state.phase() {
            Some(Phase::Claimed) if self.at(slot) == NEW => {
                let (_, fork) = self.routes.fork_of(branch).unwrap();
                let parent = self.word(fork.parent).load();
                if parent.phase() == Some(Phase::Claimed) && parent.owner() == state.owner() {
                    self.family().clear(branch);
                    word.free_if(state);
                } else if word.take_over(state, me).is_some() {
                    orphans.push(Orphan::Task(slot));
                }
                true
            }
            Some(Phase::Done) => {
                let pending = self.family().is_pending(branch);
                if word.succeed(state, me) {
                    let due = match pending {
                        true => self.family().arrive(branch, me, state.is_error()),
                        false => self.family().look(branch, me, state.is_error()),
                    };
                    if let Ready::Join { fork, .. } = due {
                        orphans.push(Orphan::Join(fork));
                    } else {
                        self.act_on(due, me);
                    }
                }
                true
            }
            _ => false,
        }
    }

    fn answers(&self) -> [u32; 2] {
        [0, 1].map(|error: usize| self.answers[error].load(SeqCst))
    }

    fn freed(&self) -> u32 {
        self.freed.load(SeqCst)
    }

    /// All branches are at rest, and free where `free`.
    fn check_branches(&self, free: bool) {
        assert!(self.family().all_at_rest());
        for word in &self.words[1..] {
            let phase = word.load().phase();
            assert!(phase == Some(Phase::Free) || !free && phase == Some(Phase::Done), "{:?}", self.words);
        }
    }

    /// With all others at rest: the outcome is there, once, and the request can be freed and used again.
    fn check_answered(&self) -> State {
        let done = self.word(0).load();
        assert!(done.is(Phase::Done, token(CLIENT)), "{done:?}");
        assert_eq!(self.answers().iter().sum::<u32>(), 1);
        self.check_branches(!done.is_error());
        self.cancel();
        self.check_freed();
        done
    }

    fn check_freed(&self) {
        assert_eq!(self.freed(), 1);
        assert_eq!(self.word(0).load(), State::new(Phase::Free, None, 1, 0));
        self.check_branches(true);
    }

    /// FREE → CLAIMED(client), of the next generation.
    fn begin_again(&self) {
        let client = token(CLIENT);
        self.word(0).keep(self.word(0).begin(client), client);
        self.set_at(0, NEW);
        self.writes(0);
    }
}

/// Two branches arrive at the same time: one of them joins, and sees both outcomes.
#[test]
fn the_last_arrival_joins() {
    for fail_fast in [false, true] {
        explore(move || {
            let request = Request::forked(fail_fast);
            let workers = [0, 1].map(|branch: u32| {
                let request = request.clone();
                spawn(move || request.arrive(branch, token(branch + 1), false))
            });
            for worker in workers {
                worker.join().unwrap();
            }
            assert_eq!(request.joins[0].load(SeqCst), 1);
            assert!(!request.check_answered().is_error());
        });
    }
}

/// The task goes from one fork to the next, while the other arrival at the first still looks.
#[test]
fn a_late_look_does_not_join_the_next_fork() {
    explore(|| {
        let forks = vec![fork(0, 0, 2, 2, false, Target::Fork(1)), fork(0, 2, 2, 4, false, Target::End)];
        let request = Request::new(forks, 4, token(CLIENT));
        request.fork(0, token(CLIENT));
        request.hand(0, 1);
        request.hand(1, 2);
        let workers = [0, 1].map(|branch: u32| {
            let request = request.clone();
            spawn(move || request.arrive(branch, token(branch + 1), false))
        });
        for worker in workers {
            worker.join().unwrap();
        }
        assert_eq!(request.word(0).load().forked_at(), Some(1));
        request.work(token(3));
        assert_eq!([0, 1].map(|fork: usize| request.joins[fork].load(SeqCst)), [1, 1]);
        request.check_answered();
    });
}

/// One branch fails while the other arrives late; the caller reads the error, goes, and uses the request
/// again at once if it is free. The late one neither disturbs that nor loses its input.
#[test]
fn a_late_branch_and_the_next_use() {
    for (late_error, again_error) in [(false, false), (false, true), (true, false)] {
        explore(move || {
            let request = Request::forked(true);
            let failing = {
                let request = request.clone();
                spawn(move || request.arrive(0, token(1), true))
            };
            let late = {
                let request = request.clone();
                spawn(move || request.arrive(1, token(2), late_error))
            };
            take_part();
            assert!(request.await_outcome().is_error(), "fail-fast");
            request.cancel();
            let again = request.word(0).load().phase() == Some(Phase::Free);
            if again {
                request.check_freed();
                request.begin_again();
                request.fork(0, token(CLIENT));
                request.hand(0, 3);
                request.hand(1, 4);
                request.arrive(0, token(3), again_error);
                if again_error {
                    assert_eq!(request.word(0).load().phase(), Some(Phase::Done));
                    request.cancel();
                    assert_eq!(request.word(0).load().phase(), Some(Phase::Done), "one is under way");
                } else {
                    assert_eq!(request.word(0).load().forked_at(), Some(0), "one is under way");
                }
                request.arrive(1, token(4), false);
            }
            failing.join().unwrap();
            late.join().unwrap();
            if again && !again_error {
                assert_eq!(request.answers(), [1, 1]);
                request.cancel();
            }
            assert_eq!(request.freed(), 1 + u32::from(again));
            assert_eq!(request.word(0).load().phase(), Some(Phase::Free));
            request.check_branches(true);
        });
    }
}

/// A late branch has arrived, and its worker has not looked yet. Meanwhile the caller goes, the request is
/// freed and used again, ends before one of its branches, and its caller goes again: the late look does not
/// free it under that branch.
#[test]
fn a_late_look_does_not_free_the_next_use() {
    explore(|| {
        let request = Request::forked(true);
        request.arrive(0, token(1), true);
        request.word(2).finish_branch(token(2), false).unwrap();
        request.family().clear(1);
        let looking = {
            let request = request.clone();
            spawn(move || {
                let due = request.family().look(1, token(2), false);
                request.act_on(due, token(2));
            })
        };
        take_part();
        request.cancel();
        let again = request.word(0).load().phase() == Some(Phase::Free);
        if again {
            request.begin_again();
            request.fork(0, token(CLIENT));
            request.hand(0, 3);
            request.hand(1, 4);
            request.arrive(0, token(3), true);
            request.cancel();
            assert_eq!(request.word(0).load().phase(), Some(Phase::Done), "one is under way");
            request.arrive(1, token(4), false);
        }
        looking.join().unwrap();
        assert_eq!(request.freed(), 1 + u32::from(again));
        request.check_branches(true);
    });
}

/// The caller goes while the last branch arrives, is joined and the request ends: one side frees the request.
#[test]
fn a_caller_goes() {
    for error in [false, true] {
        explore(move || {
            let request = Request::forked(error);
            request.arrive(0, token(1), false);
            let working = {
                let request = request.clone();
                spawn(move || request.arrive(1, token(2), error))
            };
            take_part();
            request.cancel();
            working.join().unwrap();
            request.check_freed();
        });
    }
}

/// The caller goes while one branch fails and the other is late.
#[test]
fn a_caller_goes_and_a_branch_is_late() {
    explore(|| {
        let request = Request::forked(true);
        let workers = [(0, true), (1, false)].map(|(branch, error): (u32, bool)| {
            let request = request.clone();
            spawn(move || request.arrive(branch, token(branch + 1), error))
        });
        take_part();
        request.cancel();
        for worker in workers {
            worker.join().unwrap();
        }
        request.check_freed();
    });
}

/// A fork that fails fast within one that does not: the late branch is what the outer one waits for.
fn nested() -> Arc<Request> {
    let forks = vec![fork(0, 0, 2, 4, false, Target::End), fork(1, 2, 2, 4, true, Target::End)];
    let request = Request::new(forks, 4, token(CLIENT));
    request.fork(0, token(CLIENT));
    request.fork(1, token(CLIENT));
    request.hand(2, 2);
    request.hand(3, 3);
    request
}

#[test]
fn the_outer_fork_waits_for_the_late_inner_branch() {
    explore(|| {
        let request = nested();
        request.hand(1, 1);
        request.arrive(1, token(1), false);
        let workers = [(2, true), (3, false)].map(|(branch, error): (u32, bool)| {
            let request = request.clone();
            spawn(move || request.arrive(branch, token(branch), error))
        });
        for worker in workers {
            worker.join().unwrap();
        }
        assert_eq!(request.joins[0].load(SeqCst), 1);
        assert!(!request.check_answered().is_error(), "the outer fork takes errors");
    });
}

/// That with a third arrival, of the other outer branch.
#[test]
fn three_arrivals_at_two_forks() {
    explore_within(2, || {
        let request = nested();
        request.hand(1, 1);
        let workers = [(2, true), (3, false)].map(|(branch, error): (u32, bool)| {
            let request = request.clone();
            spawn(move || request.arrive(branch, token(branch), error))
        });
        take_part();
        request.arrive(1, token(1), false);
        for worker in workers {
            worker.join().unwrap();
        }
        assert_eq!(request.joins[0].load(SeqCst), 1);
        request.check_answered();
    });
}

/// A worker dies anywhere from the end of its branch until the caller is told, while the other branch
/// arrives.
#[test]
fn a_worker_dies() {
    for (mine, other) in [(false, false), (true, false), (false, true)] {
        explore_deaths_within(2, move |death| {
            let request = Request::forked(true);
            let victim = {
                let (request, death) = (request.clone(), death.clone());
                spawn(move || death.strikes(|| request.arrive(0, token(1), mine)))
            };
            let survivor = {
                let request = request.clone();
                spawn(move || request.arrive(1, token(2), other))
            };
            if victim.join().unwrap() {
                request.repair(token(1), token(REPAIRER));
            }
            survivor.join().unwrap();
            request.check_answered();
        });
    }
}

/// That worker dies while the caller goes.
#[test]
fn a_worker_dies_and_the_caller_goes() {
    for mine in [false, true] {
        explore_deaths_within(2, move |death| {
            let request = Request::forked(true);
            request.arrive(1, token(2), false);
            let victim = {
                let (request, death) = (request.clone(), death.clone());
                spawn(move || death.strikes(|| request.arrive(0, token(1), mine)))
            };
            let caller = {
                let request = request.clone();
                spawn(move || request.cancel())
            };
            if victim.join().unwrap() {
                request.repair(token(1), token(REPAIRER));
            }
            caller.join().unwrap();
            request.check_freed();
        });
    }
}

/// A worker dies whose branch within makes the outer fork wait for it, or no longer.
#[test]
fn a_worker_dies_below() {
    for error in [false, true] {
        explore_deaths_within(1 + usize::from(error), move |death| {
            let request = nested();
            request.hand(1, 1);
            request.arrive(1, token(1), false);
            let victim = {
                let (request, death) = (request.clone(), death.clone());
                spawn(move || death.strikes(|| request.arrive(2, token(2), error)))
            };
            let survivor = {
                let request = request.clone();
                spawn(move || request.arrive(3, token(3), !error))
            };
            if victim.join().unwrap() {
                request.repair(token(2), token(REPAIRER));
            }
            survivor.join().unwrap();
            request.check_answered();
        });
    }
}

/// A forker dies anywhere, while another worker works on the branches that it has sent.
#[test]
fn a_forker_dies() {
    explore_deaths_within(2, |death| {
        let request = Request::new(vec![fork(0, 0, 2, 2, true, Target::End)], 2, token(1));
        request.set_at(0, FORKED);
        let victim = {
            let (request, death) = (request.clone(), death.clone());
            spawn(move || death.strikes(|| request.fork_and_send(0, token(1))))
        };
        let survivor = {
            let request = request.clone();
            spawn(move || request.work(token(2)))
        };
        if victim.join().unwrap() {
            request.repair(token(1), token(REPAIRER));
        }
        survivor.join().unwrap();
        request.work(token(2));
        request.check_answered();
    });
}

/// What a worker does until it dies.
type Life = fn(&Request);

/// A worker dies after each number of steps of `life`; the repairer dies anywhere while the other branch arrives or the
/// caller goes; and the next repairer repairs both.
fn a_repairer_dies(make: fn() -> Arc<Request>, life: Life, meanwhile: Life, check: Life) {
    for steps in 0.. {
        let outlived = Arc::new(Counter::new(0));
        let here = outlived.clone();
        explore_deaths_within(1, move |death| {
            let request = make();
            if !mortal::perish(steps, || life(&request)) {
                here.store(1, SeqCst);
            }
            let victim = {
                let (request, death) = (request.clone(), death.clone());
                spawn(move || death.strikes(|| request.repair(token(1), token(6))))
            };
            let survivor = {
                let request = request.clone();
                spawn(move || meanwhile(&request))
            };
            if victim.join().unwrap() {
                request.repair(token(1), token(REPAIRER));
                request.repair(token(6), token(REPAIRER));
            }
            survivor.join().unwrap();
            check(&request);
        });
        if outlived.load(SeqCst) == 1 {
            return;
        }
    }
}

fn answered(request: &Request) {
    request.work(token(2));
    request.check_answered();
}

#[test]
fn a_repairer_of_an_arrival_dies() {
    let other: Life = |request| request.arrive(1, token(2), false);
    a_repairer_dies(|| Request::forked(true), |r| r.arrive(0, token(1), false), other, answered);
    a_repairer_dies(|| Request::forked(true), |r| r.arrive(0, token(1), true), other, answered);
}

#[test]
fn a_repairer_of_a_join_dies() {
    let make = || {
        let request = Request::forked(true);
        request.arrive(1, token(2), false);
        request
    };
    a_repairer_dies(make, |r| r.arrive(0, token(1), false), Request::cancel, Request::check_freed);
    a_repairer_dies(make, |r| r.arrive(0, token(1), true), Request::cancel, Request::check_freed);
}

#[test]
fn a_repairer_of_a_fork_dies() {
    let make = || {
        let request = Request::new(vec![fork(0, 0, 2, 2, true, Target::End)], 2, token(1));
        request.set_at(0, FORKED);
        request
    };
    a_repairer_dies(make, |r| r.fork_and_send(0, token(1)), |r| r.work(token(2)), answered);
}

/// A worker died long after its branch had arrived. While the repairer becomes its owner, the other branch arrives, the
/// request ends, and its caller uses it again: what the repairer still does is of the former use.
#[test]
fn a_repairer_and_the_next_use() {
    explore(|| {
        let request = Request::forked(false);
        request.arrive(0, token(1), false); // and dies
        let working = {
            let request = request.clone();
            spawn(move || {
                request.arrive(1, token(2), false);
                if request.word(0).load().phase() == Some(Phase::Done) {
                    request.cancel(); // the repairer may be the one that frees it
                }
                if request.word(0).load().phase() == Some(Phase::Free) {
                    request.begin_again();
                    request.fork(0, token(CLIENT));
                    request.hand(0, 3);
                    request.hand(1, 4);
                    request.arrive(1, token(4), false);
                }
            })
        };
        take_part();
        request.repair(token(1), token(REPAIRER));
        working.join().unwrap();
        let now = request.word(0).load();
        match now.phase() {
            Some(Phase::Done) => assert_eq!((now.generation(), request.answers()), (0, [1, 0])),
            Some(Phase::Free) => request.check_freed(),
            _ => {
                assert_eq!((now.generation(), now.forked_at()), (1, Some(0)), "branch 0 is under way");
                request.arrive(0, token(3), false);
                assert_eq!(request.answers(), [2, 0]);
                assert_eq!(request.word(0).load().phase(), Some(Phase::Done));
            }
        }
    });
}

/// NOTIFY against the end: the caller sees the outcome, or the worker that brings it sees that the caller wants notice.
#[test]
fn notice_is_asked_for() {
    for forked in [false, true] {
        explore(move || {
            let word = Arc::new(Word::new(State::new(Phase::Claimed, Some(token(1)), 0, 0)));
            let working = {
                let word = word.clone();
                spawn(move || match forked {
                    true => word.finish_forked(token(1), token(CLIENT), false).unwrap().wants_notice(),
                    false => match word.finish(token(1), token(CLIENT), false) {
                        Finish::Done { notify, .. } => notify,
                        other => panic!("{other:?}"),
                    },
                })
            };
            take_part();
            let there = word.ask_for_notice().phase() == Some(Phase::Done);
            assert!(there ^ working.join().unwrap());
        });
    }
}
