//! Where calling threads count, and which requests are timed.
//!
//! Each calling thread counts in a row of its own while the segment has one (`stats::caller` of `ringmill_shm`), so that
//! a count is no locked instruction. A thread takes a row at its first request to a server, and keeps it until it ends.
//!
//! # Invariants
//!
//! * `[one thread]`: a bit of [`Rows::taken`] is set by the thread that counts in the row, and cleared by the end of that
//!   thread, or of nothing else. Taking a row acquires what the last thread has released, so no count is lost between.

use crate::policy::sample::{QUIET_NS, Timing};
use crossbeam_utils::CachePadded;
use ringmill_shm::stats::{CALLER_ROWS, Weight};
use std::cell::{Cell, RefCell};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
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
}

const _: () = assert!(CALLER_ROWS == u64::BITS);

impl Rows {
    pub(crate) fn new() -> Arc<Self> {
        static NUMBERS: AtomicU64 = AtomicU64::new(1);
        // Relaxed: numbers need only differ.
        let number = NUMBERS.fetch_add(1, Ordering::Relaxed);
        Arc::new(Self { number, taken: AtomicU64::new(1 << SHARED) })
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
        let latest = LATEST.get();
        match latest / u64::from(CALLER_ROWS) == self.number {
            true => latest as u32 % CALLER_ROWS,
            false => find(self),
        }
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

/// A row that a thread has.
struct Taken {
    rows: Weak<Rows>,
    number: u64,
    row: u32,
}

/// The rows of one thread; given back when it ends.
#[derive(Default)]
struct OfThread(Vec<Taken>);

impl Drop for OfThread {
    fn drop(&mut self) {
        for taken in &self.0 {
            if let Some(rows) = taken.rows.upgrade() {
                rows.give_back(taken.row);
            }
        }
        LATEST.set(0);
    }
}

thread_local! {
    /// The server that the thread called last, and the thread's row there: see [`Rows::latest`].
    static LATEST: Cell<u64> = const { Cell::new(0) };
    static ALL: RefCell<OfThread> = const { RefCell::new(OfThread(Vec::new())) };
}

/// The row of the calling thread, which did not call this server last.
#[cold]
fn find(rows: &Arc<Rows>) -> u32 {
    let found = ALL.try_with(|all| {
        let mut all = all.borrow_mut();
        if let Some(taken) = all.0.iter().find(|taken| taken.number == rows.number) {
            return taken.row;
        }
        all.0.retain(|taken| taken.rows.strong_count() > 0);
        let row = rows.take();
        all.0.push(Taken { rows: Arc::downgrade(rows), number: rows.number, row });
        row
    });
    match found {
        Ok(row) => {
            LATEST.set(rows.latest(row));
            row
        }
        Err(_) => SHARED, // the thread is ending
    }
}

/// Which requests are timed.
#[derive(Debug)]
pub(crate) struct Sampler {
    timing: Timing,
    /// A request is timed if these bits of its turn are 0: one of a power of two.
    mask: AtomicU32,
    last_ns: CachePadded<AtomicU64>,
}

impl Sampler {
    pub(crate) fn new(timing: Timing) -> Self {
        let mask = timing.first().map_or(u32::MAX, |first| first - 1);
        Self { timing, mask: AtomicU32::new(mask), last_ns: CachePadded::default() }
    }

    #[inline]
    pub(super) fn is_due(&self, turn: u32) -> bool {
        turn & self.mask.load(Ordering::Relaxed) == 0 // Relaxed: any recent value
    }

    /// For how many requests one stands that is timed now; `None`: it is not timed. With several callers at a time the
    /// interval is only roughly right.
    pub(super) fn sample(&self, now_ns: u64) -> Option<Weight> {
        self.timing.first()?; // a turn may be 0
        // Relaxed, here and below: no memory goes with these numbers.
        let since_ns = now_ns.saturating_sub(self.last_ns.swap(now_ns, Ordering::Relaxed));
        let every = self.mask.load(Ordering::Relaxed).saturating_add(1);
        self.set_every(every, self.timing.next(every, since_ns));
        Some(Weight::of(every))
    }

    fn set_every(&self, every: u32, next: u32) {
        if next != every {
            self.mask.store(next - 1, Ordering::Relaxed);
        }
    }

    /// A request takes long: has the next one timed, if none was for some time.
    pub(super) fn wake(&self, now_ns: u64) {
        if self.timing == Timing::Adaptive
            && now_ns.saturating_sub(self.last_ns.load(Ordering::Relaxed)) > QUIET_NS
        {
            self.set_every(0, 1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Barrier;

    #[test]
    fn each_thread_has_a_row_of_its_own_while_there_are_enough() {
        let rows = Rows::new();
        let threads = CALLER_ROWS as usize + 3;
        let barrier = Barrier::new(threads);
        let mut found: Vec<u32> = std::thread::scope(|scope| {
            let begin = || {
                let row = find(&rows);
                assert_eq!(find(&rows), row);
                assert_eq!(LATEST.get(), rows.latest(row));
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
    fn a_row_is_given_back_when_its_thread_ends() {
        let rows = Rows::new();
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
    fn one_of_a_power_of_two_is_timed() {
        let sampler = Sampler::new(Timing::Adaptive);
        assert!((0..10).all(|turn| sampler.is_due(turn)), "at first each");
        assert_eq!(sampler.sample(1_000_000), Some(Weight::ONE));
        sampler.sample(1_000_100);
        assert_eq!((0..64).filter(|&turn| sampler.is_due(turn)).count(), 32);
        sampler.wake(1_000_200 + QUIET_NS);
        assert!(sampler.is_due(1));
    }
}
