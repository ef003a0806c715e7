//! The participant table: a dead participant is never taken for living again, nor a successor for dead.
#![expect(unsafe_code, reason = "the contract of a row: the dead of a scene act no more")]

use super::{Grave, explore, spawn, take_part, token};
use crate::participant::{Entry, Life, is_dead};
use crate::sync::{AtomicU32, Ordering};
use crate::token::Token;
use std::io;
use std::sync::Arc;

/// A row whose first incarnation has died.
struct Row {
    /// On the heap: they are large for a stack of loom's.
    entries: Vec<Entry>,
    /// Whether the byte of the successor is held.
    lease: Grave,
    /// A word of the segment that names its owner.
    word: AtomicU32,
}

impl Row {
    fn new() -> Arc<Self> {
        let entries: Vec<_> = (0..2).map(|_| Entry::new()).collect();
        // SAFETY: its row, which no incarnation has had.
        assert_eq!(unsafe { entries[1].prepare(1) }, token(1));
        entries[1].set_life(Life::Ready);
        Arc::new(Self { entries, lease: Grave::default(), word: AtomicU32::new(token(1).raw()) })
    }

    /// The server finds it dead and starts its successor, which takes its lease and then a word.
    fn succeed(&self) -> Token {
        let entry = &self.entries[1];
        // SAFETY: no thread of the scene acts under the first token.
        let next = unsafe {
            entry.bury();
            entry.prepare(1)
        };
        self.lease.dig(); // [lease before deeds]
        entry.set_life(Life::Ready);
        self.word.store(next.raw(), Ordering::Release);
        next
    }

    fn is_dead(&self, token: Token, kernel_tells: bool) -> bool {
        let is_held = |asked: Token| match kernel_tells {
            true => Ok(asked == super::token(1).next() && self.lease.holds()),
            false => Err(io::ErrorKind::PermissionDenied.into()),
        };
        is_dead(&self.entries, is_held, token)
    }
}

/// A participant asks, at any moment, whether the owner that a word names is dead. Where the kernel does not tell, it
/// may be taken for living until its row has another incarnation.
#[test]
fn a_successor_is_not_taken_for_the_dead() {
    for kernel_tells in [true, false] {
        explore(move || {
            let row = Row::new();
            let server = {
                let row = row.clone();
                spawn(move || row.succeed())
            };
            take_part();
            for _ in 0..2 {
                let named = Token::from_raw(row.word.load(Ordering::Acquire)).unwrap();
                let dead = row.is_dead(named, kernel_tells);
                assert!(dead == (named == token(1)) || !dead && !kernel_tells, "{named}");
            }
            let next = server.join().unwrap();
            assert!(row.is_dead(token(1), kernel_tells) && !row.is_dead(next, kernel_tells));
        });
    }
}
