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

/// A client's row, its bytes of the lease as the kernel keeps them, and which client has it.
struct Offered {
    entries: Vec<Entry>,
    /// By epoch: which process holds the byte; 0: none. No memory that dies with a process.
    bytes: [loom::sync::atomic::AtomicU32; 4],
    client: loom::sync::atomic::AtomicU32,
}

impl Offered {
    fn new() -> Arc<Self> {
        let entries: Vec<_> = (0..2).map(|_| Entry::new()).collect();
        // SAFETY: its row, which no incarnation has had.
        unsafe { entries[1].offer(1) };
        let free = || loom::sync::atomic::AtomicU32::new(0);
        Arc::new(Self { entries, bytes: [free(), free(), free(), free()], client: free() })
    }

    fn row(&self) -> &Entry {
        &self.entries[1]
    }

    fn byte(&self, token: Token) -> &loom::sync::atomic::AtomicU32 {
        &self.bytes[token.epoch() as usize]
    }

    /// The kernel unlocks what a process holds that has ended.
    fn unlock_all(&self, process: u32) {
        for byte in &self.bytes {
            let _ = byte.compare_exchange(process, 0, Ordering::SeqCst, Ordering::SeqCst);
        }
    }

    /// A client's life: it takes the row if it is to be had, and gives it back. The token that it had.
    fn live(&self, process: u32) -> Option<Token> {
        let lock = |token| {
            let (free, mine) = (0, process);
            Ok(self.byte(token).compare_exchange(free, mine, Ordering::SeqCst, Ordering::SeqCst).is_ok())
        };
        let unlock = |token| self.byte(token).store(0, Ordering::SeqCst);
        let token = self
            .row()
            .claim(lock, unlock)
            .unwrap_or_else(|never: std::convert::Infallible| match never {})?;
        assert_eq!(self.client.swap(process, Ordering::SeqCst), 0, "the row has two clients");
        self.row().set_life(Life::Ready);
        self.row().set_life(Life::Leaving);
        assert_eq!(self.client.swap(0, Ordering::SeqCst), process, "the row was given to another");
        unlock(token);
        Some(token)
    }

    /// The supervisor looks: a row of a client that is gone is repaired, and offered again.
    fn look(&self) {
        let (row, life) = (self.row(), self.row().life());
        let token = row.token().expect("a row that was offered has one");
        if life != Life::Vacant && self.byte(token).load(Ordering::SeqCst) == 0 {
            // SAFETY: its byte is free: [byte before row].
            unsafe { row.bury() };
            self.client.store(0, Ordering::SeqCst);
            // SAFETY: as above.
            unsafe { row.offer(1) };
        }
    }
}

/// Two clients reach for one row while the supervisor looks; the first one dies at any step, also before its first. The
/// row never has two, and is to be had again afterwards.
#[test]
fn a_client_dies_over_its_row() {
    super::explore_deaths(|death| {
        let row = Offered::new();
        let victim = {
            let (row, death) = (row.clone(), death.clone());
            spawn(move || {
                if death.strikes(|| _ = row.live(1)) {
                    row.unlock_all(1);
                }
            })
        };
        let other = {
            let row = row.clone();
            spawn(move || row.live(2))
        };
        take_part();
        row.look();
        victim.join().unwrap();
        let had = other.join().unwrap();
        row.look();
        let next = row.live(3).expect("its clients are gone, and it was looked at");
        assert!(had != Some(next), "a token is of one client");
    });
}
