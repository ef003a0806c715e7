//! Where calling threads count, and which of their requests are timed.
//!
//! Each calling thread counts in a row of its own while the segment has one (`stats::caller` of `ringmill_shm`), so that
//! a count is no locked instruction. A thread takes a row at its first request to a server, and keeps it until it ends.
//!
//! # Invariants
//!
//! * `[one thread]`: a bit of [`Rows::taken`] is set by the thread that counts in the row, and cleared by the end of that
//!   thread, or of nothing else. Taking a row acquires what the last thread has released, so no count is lost between.

use crate::policy::sample::{Countdown, Timing};
use ringmill_shm::stats::{CALLER_ROWS, Weight};
use std::cell::{Cell, RefCell};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

/// The row for threads that have none of their own.
const SHARED: u32 = 0;

/// Which rows of one server's callers are taken.
#[derive(Debug)]
pub(crate) struct Rows {
    /// The server's number in this process; 0 is none.
    number: u64,
    /// A bit a row.
    taken: AtomicU64,
    timing: Timing,
}

/// A bit for each row that a segment does not have for this process.
fn missing(rows: u32) -> u64 {
    u64::MAX.checked_shl(rows).unwrap_or(0)
}

const _: () = assert!(CALLER_ROWS == u64::BITS);

impl Rows {
    pub(crate) fn new(timing: Timing, rows: u32) -> Arc<Self> {
        static NUMBERS: AtomicU64 = AtomicU64::new(1);
        // Relaxed: numbers need only differ.
        let number = NUMBERS.fetch_add(1, Ordering::Relaxed);
        Arc::new(Self { number, taken: AtomicU64::new(1 << SHARED | missing(rows)), timing })
    }

    /// Takes a row; the shared one if all are taken.
    fn take(&self) -> u32 {
        let free = |taken: u64| (taken != u64::MAX).then(|| taken | 1 << taken.trailing_ones());
        // Acquire: [one thread]; Relaxed: as it fails.
        match self.taken.fetch_update(Ordering::Acquire, Ordering::Relaxed, free) {
            Ok(before) => before.trailing_ones(),
            Err(_) => SHARED,
        }
    }

    /// The row of the calling thread.
    #[inline]
    pub(super) fn of_this_thread(self: &Arc<Self>) -> u32 {
        HERE.with(|here| self.row_in(here))
    }

    #[inline]
    fn row_in(self: &Arc<Self>, here: &Here) -> u32 {
        let latest = here.latest.get();
        match latest / u64::from(CALLER_ROWS) == self.number {
            true => latest as u32 % CALLER_ROWS,
            false => find(self),
        }
    }

    /// If the request that this thread sends now is timed: for how many it stands.
    #[inline]
    pub(super) fn sample_if_due(self: &Arc<Self>, now_ns: impl FnOnce() -> u64) -> Option<Weight> {
        HERE.with(|here| {
            self.row_in(here);
            if here.countdown.is_due() { Some(here.countdown.sample(now_ns())) } else { None }
        })
    }

    /// Of so many requests that this thread sends now, how many come before one that is timed.
    #[inline]
    pub(super) fn pass(self: &Arc<Self>, requests: u64) -> u64 {
        HERE.with(|here| {
            self.row_in(here);
            here.countdown.pass(requests)
        })
    }

    /// The requests of this thread take long: has the next one timed, if none was for some time.
    pub(super) fn time_the_next(self: &Arc<Self>, now_ns: u64) {
        HERE.with(|here| {
            self.row_in(here);
            here.countdown.wake(now_ns);
        });
    }

    /// This server and a row as one number.
    fn latest(&self, row: u32) -> u64 {
        self.number * u64::from(CALLER_ROWS) + u64::from(row)
    }

    fn give_back(&self, row: u32) {
        if row != SHARED {
            self.taken.fetch_and(!(1 << row), Ordering::Release); // [one thread]
        }
    }
}

/// A row that a thread has, and when it times its requests to that server.
struct Taken {
    rows: Weak<Rows>,
    number: u64,
    row: u32,
    countdown: Countdown,
}

/// The rows of one thread; given back when it ends.
struct OfThread(Vec<Taken>);

impl Drop for OfThread {
    fn drop(&mut self) {
        for taken in &self.0 {
            if let Some(rows) = taken.rows.upgrade() {
                rows.give_back(taken.row);
            }
        }
        HERE.with(|here| here.set_to(0, &Countdown::never()));
    }
}

/// The server that a thread called last.
struct Here {
    /// It, and the thread's row there: see [`Rows::latest`].
    latest: Cell<u64>,
    countdown: Countdown,
}

impl Here {
    fn set_to(&self, latest: u64, countdown: &Countdown) {
        self.latest.set(latest);
        self.countdown.set_to(countdown);
    }
}

thread_local! {
    static HERE: Here = const { Here { latest: Cell::new(0), countdown: Countdown::never() } };
    static ALL: RefCell<OfThread> = const { RefCell::new(OfThread(Vec::new())) };
}

/// The row of the calling thread, which did not call this server last.
#[cold]
fn find(rows: &Arc<Rows>) -> u32 {
    let found = ALL.try_with(|all| {
        let mut all = all.borrow_mut();
        HERE.with(|here| {
            let last = here.latest.get() / u64::from(CALLER_ROWS);
            if let Some(taken) = all.0.iter().find(|taken| taken.number == last) {
                taken.countdown.set_to(&here.countdown);
            }
            let known = all.0.iter().position(|taken| taken.number == rows.number);
            let index = known.unwrap_or_else(|| {
                all.0.retain(|taken| taken.rows.strong_count() > 0);
                let (weak, countdown) = (Arc::downgrade(rows), Countdown::new(rows.timing));
                all.0.push(Taken { rows: weak, number: rows.number, row: rows.take(), countdown });
                all.0.len() - 1
            });
            let taken = &all.0[index];
            here.set_to(rows.latest(taken.row), &taken.countdown);
            taken.row
        })
    });
    found.unwrap_or(SHARED) // the thread is ending
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Barrier;

    fn rows() -> Arc<Rows> {
        Rows::new(Timing::Adaptive, CALLER_ROWS)
    }

    #[test]
    fn each_thread_has_a_row_of_its_own_while_there_are_enough() {
        let rows = rows();
        let threads = CALLER_ROWS as usize + 3;
        let barrier = Barrier::new(threads);
        let mut found: Vec<u32> = std::thread::scope(|scope| {
            let begin = || {
                let row = rows.of_this_thread();
                assert_eq!((find(&rows), rows.of_this_thread()), (row, row));
                barrier.wait();
                row
            };
            let threads: Vec<_> = (0..threads).map(|_| scope.spawn(begin)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        found.sort_unstable();
        let own: Vec<u32> = (1..CALLER_ROWS).collect();
        assert_eq!(found, [vec![SHARED; 4], own].concat());
    }

    #[test]
    fn a_process_has_the_rows_that_its_segment_has_for_it() {
        let rows = Rows::new(Timing::Adaptive, 3);
        let found: Vec<u32> = (0..4).map(|_| rows.take()).collect();
        assert_eq!(found, [1, 2, SHARED, SHARED]);
        assert_eq!((missing(1), missing(CALLER_ROWS)), (!1, 0));
    }

    #[test]
    fn a_row_is_given_back_when_its_thread_ends() {
        let rows = rows();
        for _ in 0..3 {
            let find = || find(&rows);
            assert_eq!(std::thread::scope(|scope| scope.spawn(find).join().unwrap()), 1);
            // `join` may return before the thread's own values are dropped.
            while rows.taken.load(Ordering::Acquire) != 1 << SHARED {
                std::thread::yield_now();
            }
        }
    }

    #[test]
    fn a_thread_that_calls_two_servers_has_a_row_and_a_countdown_at_each() {
        let servers = [Rows::new(Timing::OneOf(3), CALLER_ROWS), Rows::new(Timing::OneOf(5), CALLER_ROWS)];
        let mut due = [0, 0];
        for _ in 0..30 {
            for (rows, due) in servers.iter().zip(&mut due) {
                if let Some(weight) = rows.sample_if_due(|| 7) {
                    *due += 1;
                    assert!([3, 5].contains(&weight.count()));
                }
            }
        }
        assert_eq!(due, [10, 6]);
    }
}
