//! The bare futex round trip: the least cost of waking another CPU and being woken by it.
//!
//! Two words and two pinned threads. Each side stores its number into one word, wakes the other, and sleeps on the
//! other word at once: neither ever spins. The futexes are process-shared, as ringmill's are. (Two
//! processes would pay the same: each CPU wakes from idling, whose address space does not matter.)

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Acquire, Ordering::Relaxed, Ordering::Release};
use std::time::Duration;

use ringmill_shm::sys::futex;

use crate::Error;
use crate::cpu_time;
use crate::partner::Partner;
use crate::pin::CpuPair;

/// The pair: a thread that sleeps until it is asked, and the thread that asks.
#[derive(Debug)]
pub struct Futex {
    words: Arc<Words>,
    number: u32,
    /// Dropped last: its thread sleeps on one of the words until a number there ends it.
    _partner: Partner,
}

/// Each on a line of its own, and a bit more, because some processors fetch lines in pairs.
#[derive(Debug, Default)]
struct Words {
    asked: Word,
    answered: Word,
    /// CPU time of the partner's thread, in nanoseconds, as of when it was last asked for it.
    used_ns: AtomicU64,
}

#[repr(align(128))]
#[derive(Debug, Default)]
struct Word(AtomicU32);

/// The lowest bits of what is asked say what for; the number is above.
const REPORT: u32 = 1;
const OVER: u32 = 2;
const ONE: u32 = 4;

impl Futex {
    /// Starts the partner's thread.
    ///
    /// # Errors
    ///
    /// Those of [`Partner::spawn`].
    pub fn start(cpus: CpuPair) -> Result<Self, Error> {
        let words = Arc::new(Words::default());
        let partner = Partner::spawn("futex", cpus.partner, {
            let words = Arc::clone(&words);
            let mut seen = 0;
            move || {
                if seen & OVER != 0 {
                    return; // its gate is about to be closed
                }
                seen = words.asked.await_other(seen);
                if seen & REPORT != 0 {
                    words.used_ns.store(cpu_time::of_this_thread().as_nanos() as u64, Relaxed);
                }
                words.answered.set(seen);
            }
        })?;
        partner.resume();
        Ok(Self { words, number: 0, _partner: partner })
    }

    /// One round trip.
    pub fn call(&mut self) {
        self.ask(0);
    }

    /// The CPU time that the partner's thread has used.
    pub fn partner_cpu_time(&mut self) -> Duration {
        self.ask(REPORT);
        // Relaxed: it travels with the answer.
        Duration::from_nanos(self.words.used_ns.load(Relaxed))
    }

    fn ask(&mut self, what_for: u32) {
        let before = self.words.answered.0.load(Relaxed);
        self.number = self.number.wrapping_add(ONE);
        self.words.asked.set(self.number | what_for);
        self.words.answered.await_other(before);
    }
}

impl Drop for Futex {
    fn drop(&mut self) {
        self.ask(OVER);
    }
}

impl Word {
    fn set(&self, number: u32) {
        self.0.store(number, Release);
        futex::wake(&self.0, 1);
    }

    /// Sleeps while the word holds `number`; returns its new value.
    fn await_other(&self, number: u32) -> u32 {
        loop {
            futex::wait(&self.0, number, None);
            let now = self.0.load(Acquire);
            if now != number {
                return now;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_call_is_answered_and_the_partner_s_time_grows() {
        let cpu = ringmill::cpu::allowed()[0];
        let mut pair = Futex::start(CpuPair { client: cpu, partner: cpu }).unwrap();
        let before = pair.partner_cpu_time();
        for _ in 0..100 {
            pair.call();
            assert_eq!(pair.words.answered.0.load(Relaxed), pair.number);
        }
        assert!(pair.partner_cpu_time() > before);
    }
}
