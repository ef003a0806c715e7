//! The participant table: the dead are never taken for living again, nor a successor for dead.
//!
//! The steps of `participant::Entry::prepare`, of who arrives and of `participant::is_dead`, in their order and
//! with their orderings; the lease is the kernel's and has none.

use super::{Grave, explore, spawn, take_part, token};
use crate::sync::{AtomicU32, Ordering};
use crate::token::Token;
use std::sync::Arc;

const STARTING: u32 = 1;
const READY: u32 = 2;
const DEAD: u32 = 5;

/// A place whose first incarnation has died.
struct Entry {
    token: AtomicU32,
    state: AtomicU32,
    /// Whether the lease is held.
    lease: Grave,
    /// A word of the segment, and who has it.
    word: AtomicU32,
}

impl Entry {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            token: AtomicU32::new(token(1).raw()),
            state: AtomicU32::new(READY),
            lease: Grave::default(),
            word: AtomicU32::new(token(1).raw()),
        })
    }

    /// The server finds it dead and starts its successor, which takes its lease and then a word.
    fn succeed(&self) -> Token {
        self.state.store(DEAD, Ordering::Release);
        let next = token(1).next();
        self.state.store(STARTING, Ordering::Relaxed);
        self.token.store(next.raw(), Ordering::Release);
        self.lease.dig(); // *lease before deeds*
        self.state.store(READY, Ordering::Release);
        self.word.store(next.raw(), Ordering::Release);
        next
    }

    fn is_dead(&self, token: Token) -> bool {
        let replaced = || Token::from_raw(self.token.load(Ordering::Acquire)) != Some(token);
        replaced() || self.state.load(Ordering::Acquire) == DEAD || !self.lease.holds() || replaced()
    }
}

/// Somebody asks, at any moment, about whom a word names.
#[test]
fn a_successor_is_not_taken_for_the_dead() {
    explore(|| {
        let entry = Entry::new();
        let server = {
            let entry = entry.clone();
            spawn(move || entry.succeed())
        };
        take_part();
        for _ in 0..2 {
            let named = Token::from_raw(entry.word.load(Ordering::Acquire)).unwrap();
            assert_eq!(entry.is_dead(named), named == token(1), "{named}");
        }
        let next = server.join().unwrap();
        assert!(entry.is_dead(token(1)) && !entry.is_dead(next));
    });
}
