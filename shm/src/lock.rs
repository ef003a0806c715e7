//! The reader lock: its holder drains the ring.
//!
//! # Layout
//!
//! ```text
//! 31      30           0
//! ├ WAITERS ┼── token ──┤      0 = free; one CAS takes it and names the holder
//! ```
//!
//! # Protocol
//!
//! | Word | Means | Left by, to |
//! |---|---|---|
//! | 0 | free | any participant → token |
//! | token | held, no waiter sleeps | holder → 0; a waiter → WAITERS\|token |
//! | WAITERS\|token | held, a waiter may sleep | holder → 0, then wakes one |
//! | a dead participant's token | its holder has died | a waiter → WAITERS\|its token; a repairer → 0, then wakes all |
//!
//! # Invariants
//!
//! * `[sticky]`: a waiter that has slept takes the lock with WAITERS set, since it cannot know whether others still
//!   sleep. One wake too many is harmless, one too few is a hang.
//! * `[robbed only when dead]`: another participant takes the lock from its holder only after the holder's death is
//!   proven. A stopped or slow holder keeps it.
//! * `[own]`: a holder frees it by a CAS from its own token. So a participant that no longer holds it, because its
//!   token was written over or it was taken for dead, does not free the next holder's lock.
//!
//! # Ordering
//!
//! * `[passed]`: the Release CAS of the unlocker → the Acquire CAS of the next holder. `head` and all that the former
//!   holder did under the lock travel. After a take-over there is no such edge: everything the new holder relies on is
//!   atomic and re-read.
//!
//! # Crash
//!
//! A holder that dies leaves its token. A waiter asks, before every sleep, whether the token's owner is dead, and takes
//! over with a CAS from exactly that word. A waiter that asked just before the death and sleeps just after it finds
//! that `repair` has freed the word, or `repair` wakes it. A waiter that dies leaves at most WAITERS set. A waiter that
//! gives up does so before it sleeps; it leaves at most WAITERS set. A woken waiter that dies before it takes the lock
//! may leave others asleep: the supervisor wakes all after a death, and sleeps are bounded.
//!
//! # Source
//!
//! U. Drepper, "Futexes are tricky" (mutex 2), with the owner in the word as in robust futexes.

use crate::sync::{AtomicU32, Ordering, spin_loop};
use crate::sys::futex;
use crate::token::Token;
use core::time::Duration;

const WAITERS: u32 = 1 << 31;
const _: () = assert!(Token::BITS == 31, "the lock word has one bit besides the token");

/// No sleep on the lock is longer: the backstop for a wake that a dying waker owed.
const SLEEP_LIMIT: Duration = Duration::from_millis(250);

/// How the lock was taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Acquired {
    /// It was free.
    Free,
    /// Its holder had died: the reader must repair what that holder left before it reads on.
    TookOver(Token),
}

/// The reader lock over its word.
#[derive(Debug, Clone, Copy)]
pub struct ReaderLock<'a>(&'a AtomicU32);

impl<'a> ReaderLock<'a> {
    /// The lock in this word.
    #[inline]
    pub(crate) fn new(word: &'a AtomicU32) -> Self {
        Self(word)
    }

    /// Takes the lock, waiting as long as a living participant holds it.
    ///
    /// `spins` is how often to look before sleeping. `is_dead` must answer true only for proven deaths.
    #[cfg(test)]
    pub(crate) fn lock(&self, me: Token, spins: u32, is_dead: impl Fn(Token) -> bool) -> Acquired {
        loop {
            if let Some(acquired) = self.lock_unless(me, spins, &is_dead, || false) {
                return acquired;
            }
        }
    }

    /// Takes the lock, waiting as long as a living participant holds it; `None` if `give_up`, which is asked before
    /// every sleep, returns true. For a participant that must not wait for ever: the word may name a living one that
    /// never took the lock.
    #[inline]
    pub(crate) fn lock_unless(
        &self,
        me: Token,
        spins: u32,
        is_dead: impl Fn(Token) -> bool,
        give_up: impl Fn() -> bool,
    ) -> Option<Acquired> {
        if self.0.compare_exchange(0, me.raw(), Ordering::Acquire, Ordering::Relaxed).is_ok() {
            crash_point!("lock.taken");
            return Some(Acquired::Free); // [passed]
        }
        self.lock_contended(me, spins, is_dead, give_up)
    }

    #[cold]
    fn lock_contended(
        &self,
        me: Token,
        spins: u32,
        is_dead: impl Fn(Token) -> bool,
        give_up: impl Fn() -> bool,
    ) -> Option<Acquired> {
        for _ in 0..spins {
            // Relaxed: only a look; the CAS below acquires.
            if self.0.load(Ordering::Relaxed) == 0
                && self.0.compare_exchange(0, me.raw(), Ordering::Acquire, Ordering::Relaxed).is_ok()
            {
                return Some(Acquired::Free);
            }
            spin_loop();
        }
        loop {
            let seen = self.0.load(Ordering::Relaxed); // Relaxed: every way on is a CAS
            let Some(holder) = Token::from_raw(seen & !WAITERS) else {
                // Free (or a value that no holder writes, which we treat as free): [sticky].
                if self
                    .0
                    .compare_exchange(seen, me.raw() | WAITERS, Ordering::Acquire, Ordering::Relaxed)
                    .is_ok()
                {
                    crash_point!("lock.taken_late");
                    return Some(Acquired::Free);
                }
                continue;
            };
            if is_dead(holder) {
                // [robbed only when dead]; from exactly this word, so one of two robbers wins.
                if self
                    .0
                    .compare_exchange(seen, me.raw() | WAITERS, Ordering::Acquire, Ordering::Relaxed)
                    .is_ok()
                {
                    crash_point!("lock.taken_over");
                    return Some(Acquired::TookOver(holder));
                }
                continue;
            }
            if give_up() {
                return None;
            }
            if seen & WAITERS == 0
                && self
                    .0
                    .compare_exchange(seen, seen | WAITERS, Ordering::Relaxed, Ordering::Relaxed)
                    .is_err()
            {
                continue;
            }
            crash_point!("lock.waits");
            futex::wait(self.0, seen | WAITERS, Some(SLEEP_LIMIT));
        }
    }

    /// Releases the lock, if `me` holds it.
    ///
    /// False, and nothing is changed, if the word names another holder or none: then another process wrote bytes that
    /// no holder writes, and the lock is another participant's, or a waiter will take it. Tasks that `me` has claimed
    /// stay its own, for claims are made in the words of tasks.
    #[inline]
    pub(crate) fn unlock(&self, me: Token) -> bool {
        match self.0.compare_exchange(me.raw(), 0, Ordering::SeqCst, Ordering::Relaxed) {
            Ok(_) => true, // [passed], [own]
            Err(seen) => self.unlock_contended(me, seen),
        }
    }

    #[cold]
    fn unlock_contended(&self, me: Token, mut seen: u32) -> bool {
        // Retried for each change meanwhile: a waiter sets WAITERS once.
        while seen & !WAITERS == me.raw() {
            match self.0.compare_exchange(seen, 0, Ordering::SeqCst, Ordering::Relaxed) {
                Ok(_) => {
                    crash_point!("lock.freed");
                    if seen & WAITERS != 0 {
                        self.wake_one(); // [passed]
                    }
                    return true;
                }
                Err(now) => seen = now,
            }
        }
        false
    }

    #[cold]
    fn wake_one(&self) {
        futex::wake(self.0, 1);
    }

    /// Frees it if `dead` holds it, and wakes all waiters: for a repairer that has proven the death. The next holder
    /// claims again what `dead` had claimed and not yet drained.
    pub(crate) fn free_of(&self, dead: Token) -> bool {
        let mut seen = self.0.load(Ordering::Relaxed); // Relaxed: the CAS decides
        while Token::from_raw(seen & !WAITERS) == Some(dead) {
            match self.0.compare_exchange(seen, 0, Ordering::AcqRel, Ordering::Relaxed) {
                Ok(_) => {
                    crash_point!("lock.freed_of_dead");
                    self.wake_spuriously();
                    return true;
                }
                Err(now) => seen = now, // a waiter set WAITERS, or took over
            }
        }
        false
    }

    /// The present holder.
    #[inline]
    #[must_use]
    pub fn holder(&self) -> Option<Token> {
        Token::from_raw(self.0.load(Ordering::SeqCst) & !WAITERS)
    }

    /// Wakes all waiters, after a death; the word need not have changed.
    pub(crate) fn wake_spuriously(&self) {
        futex::wake(self.0, u32::MAX);
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicU64 as Counter;

    const TURNS: u64 = if cfg!(miri) { 20 } else { 2_000 };

    #[test]
    fn excludes_and_wakes() {
        let word = AtomicU32::new(0);
        let counter = Counter::new(0);
        std::thread::scope(|scope| {
            for index in 0..4 {
                let (word, counter) = (&word, &counter);
                scope.spawn(move || {
                    for _ in 0..TURNS {
                        let lock = ReaderLock::new(word);
                        lock.lock(Token::new(index, 1), 10, |_| false);
                        // A lost update would show: load and store, not fetch_add.
                        counter.store(counter.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
                        assert!(lock.unlock(Token::new(index, 1)));
                    }
                });
            }
        });
        assert_eq!(counter.into_inner(), 4 * TURNS);
        assert_eq!(word.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn a_dead_holder_is_named_to_the_one_that_takes_over() {
        let dead = Token::new(3, 9);
        let word = AtomicU32::new(dead.raw());
        let lock = ReaderLock::new(&word);
        let me = Token::new(1, 1);
        assert_eq!(lock.lock(me, 0, |t| t == dead), Acquired::TookOver(dead));
        assert_eq!(lock.holder(), Some(me));
    }

    /// Symptom: a worker, or a server that shut down, waited for a lock for ever. Cause: another process had written
    /// bytes that named a living participant, which had never taken the lock. Fix: a waiter may give up.
    #[test]
    fn a_waiter_for_a_lock_that_no_holder_took_may_give_up() {
        let stranger = Token::new(3, 9);
        let word = AtomicU32::new(stranger.raw());
        let asked = Counter::new(0);
        let give_up = || asked.fetch_add(1, Ordering::Relaxed) == 1;
        let lock = ReaderLock::new(&word);
        assert_eq!(lock.lock_unless(Token::new(1, 1), 0, |_| false, give_up), None);
        assert_eq!(lock.holder(), Some(stranger));
        assert_eq!(asked.into_inner(), 2, "before each of two sleeps, of which it took one");
    }

    /// Symptom: two readers at once. Cause: a holder that was taken for dead, because another process had written a
    /// byte, freed the lock of the participant that had taken it over. Fix: a holder frees only its own lock.
    #[test]
    fn a_holder_that_was_robbed_does_not_free_the_next_ones() {
        let (robbed, next) = (Token::new(1, 1), Token::new(2, 1));
        for waiters in [0, WAITERS] {
            let word = AtomicU32::new(robbed.raw() | waiters);
            let lock = ReaderLock::new(&word);
            assert_eq!(lock.lock(next, 0, |_| true), Acquired::TookOver(robbed));
            assert!(!lock.unlock(robbed));
            assert_eq!(lock.holder(), Some(next));
            assert!(lock.unlock(next) && !lock.unlock(next), "once");
            assert_eq!(lock.holder(), None);
        }
    }

    #[test]
    fn a_repairer_frees_it_of_the_dead_only() {
        let (dead, alive) = (Token::new(3, 9), Token::new(3, 10));
        let word = AtomicU32::new(dead.raw() | WAITERS);
        let lock = ReaderLock::new(&word);
        assert!(!lock.free_of(alive));
        assert!(lock.free_of(dead));
        assert!(!lock.free_of(dead), "once");
        assert_eq!(lock.lock(alive, 0, |_| unreachable!("it is free")), Acquired::Free);
    }
}
