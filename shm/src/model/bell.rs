//! The bells that any number of threads wait for: a thread that announces that it waits, and then finds nothing, is
//! woken.

use super::{explore, explore_deaths, spawn, take_part, token};
use crate::bell::SharedBell;
use crate::sync::{AtomicU32, AtomicU64, Ordering, fence};
use crate::word::{Phase, State, Word};
use std::sync::Arc;

/// A request of a worker, and its bit of the completions set.
struct Request {
    count: AtomicU32,
    waiters: AtomicU32,
    word: Word,
    bits: AtomicU64,
}

impl Request {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            count: AtomicU32::new(0),
            waiters: AtomicU32::new(0),
            word: Word::new(State::new(Phase::Claimed, Some(token(1)), 0, 0)),
            bits: AtomicU64::new(0),
        })
    }

    fn bell(&self) -> SharedBell<'_> {
        SharedBell::new(&self.count, &self.waiters)
    }

    /// `Held::free_for_gone_caller`.
    fn free(&self) {
        self.word.free(self.word.peek());
        fence(Ordering::SeqCst);
        self.bell().ring_if_awaited();
    }

    /// `Task::tell_caller`.
    fn complete(&self) {
        self.bits.fetch_or(1, Ordering::SeqCst);
        fence(Ordering::SeqCst); // loom: its read-modify-writes are no fences
        self.bell().ring_if_awaited();
    }

    fn is_free(&self) -> bool {
        self.word.load().phase() == Some(Phase::Free)
    }

    /// Waits as a caller without a permit does: announces it, looks, sleeps.
    fn wait(&self, there: impl Fn(&Self) -> bool) {
        let _awaiting = self.bell().await_rings();
        loop {
            let count = self.bell().count();
            if there(self) {
                return;
            }
            self.bell().sleep(count, None);
        }
    }
}

/// Two threads wait for a request to come free: one ring wakes both.
#[test]
fn all_that_wait_are_told() {
    explore(|| {
        let request = Request::new();
        let others = [0, 1].map(|_| {
            let request = request.clone();
            spawn(move || request.wait(Request::is_free))
        });
        take_part();
        request.free();
        for other in others {
            other.join().unwrap();
        }
        assert!(!request.bell().is_awaited());
    });
}

/// A thread that waits for completions takes bits as they come.
#[test]
fn a_completion_is_told() {
    explore(|| {
        let request = Request::new();
        let reactor = {
            let request = request.clone();
            spawn(move || request.wait(|request| request.bits.swap(0, Ordering::SeqCst) != 0))
        };
        take_part();
        request.complete();
        reactor.join().unwrap();
    });
}

/// The worker that frees dies anywhere: before the request is free, before it has looked for waiters, or before it
/// rings. The repairer frees the request if it is not free, and rings.
#[test]
fn a_worker_that_frees_dies() {
    explore_deaths(|death| {
        let request = Request::new();
        let waiter = {
            let request = request.clone();
            spawn(move || request.wait(Request::is_free))
        };
        let victim = {
            let (request, death) = (request.clone(), death.clone());
            spawn(move || death.strikes(|| request.free()))
        };
        if victim.join().unwrap() {
            let found = request.word.load();
            if found.owner() == Some(token(1)) {
                assert!(request.word.free_if(found));
            }
            request.bell().ring();
        }
        waiter.join().unwrap();
    });
}
