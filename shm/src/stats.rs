//! Single-writer statistics of a worker: live for anyone to read, without slowing the writer.
//!
//! Each counter has one writer, the worker; so adding is a load and a store, no locked instruction.
//! A reader may see counters of two moments: never more items than batches could hold, by much.

use crate::fields::in_segment;
use crate::sync::Ordering;
use core::sync::atomic::AtomicU64;
use serde::Serialize;

/// Why a batch was closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[repr(usize)]
pub enum Closed {
    /// It had as many items as it may.
    Full = 0,
    /// The oldest item had waited as long as it may.
    Window = 1,
    /// There was no window and nothing more in the ring.
    Empty = 2,
    /// The server is shutting down.
    Shutdown = 3,
}

in_segment! {
    /// The counters of one worker place; they live on across its restarts.
    #[repr(align(128))]
    #[derive(Debug, Default)]
    pub struct Counters {
        batches: AtomicU64,
        items: AtomicU64,
        /// 0 = none yet.
        batch_min: AtomicU64,
        batch_max: AtomicU64,
        closed: [AtomicU64; 4],
        errors: AtomicU64,
        panics: AtomicU64,
        skipped: AtomicU64,
        /// The number of the call of user code that goes on; 0 = none.
        call: AtomicU64,
    }
}

fn add(counter: &AtomicU64, n: u64) {
    // Relaxed, and not a fetch_add: one writer; readers want no more than a recent value.
    // Wrapping: what is there may be anybody's bytes.
    counter.store(counter.load(Ordering::Relaxed).wrapping_add(n), Ordering::Relaxed);
}

impl Counters {
    /// A batch of `items` was taken. Only the worker calls this, as all that change something.
    #[inline]
    pub fn count_batch(&self, items: u64, why: Closed) {
        add(&self.batches, 1);
        add(&self.items, items);
        add(&self.closed[why as usize], 1);
        let min = self.batch_min.load(Ordering::Relaxed);
        if min == 0 || items < min {
            self.batch_min.store(items, Ordering::Relaxed);
        }
        if items > self.batch_max.load(Ordering::Relaxed) {
            self.batch_max.store(items, Ordering::Relaxed);
        }
    }

    /// An item was answered with an error.
    pub fn count_error(&self) {
        add(&self.errors, 1);
    }

    /// User code panicked.
    pub fn count_panic(&self) {
        add(&self.panics, 1);
    }

    /// An item was not worked on, because its caller had gone.
    pub fn count_skipped(&self) {
        add(&self.skipped, 1);
    }

    /// User code is called.
    #[inline]
    pub fn begin_call(&self) {
        // Relaxed, here and below: as in `add`. Batches are counted before, so no two calls have one number.
        self.call.store(self.batches.load(Ordering::Relaxed), Ordering::Relaxed);
    }

    /// User code has returned.
    #[inline]
    pub fn end_call(&self) {
        self.call.store(0, Ordering::Relaxed);
    }

    /// The number of the call of user code that goes on, unlike any other's of this place; `None` if there is none.
    #[must_use]
    pub fn call(&self) -> Option<u64> {
        Some(self.call.load(Ordering::Relaxed)).filter(|&call| call != 0)
    }

    /// The counters now.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        let get = |c: &AtomicU64| c.load(Ordering::Relaxed);
        Snapshot {
            batches: get(&self.batches),
            items: get(&self.items),
            batch_min: get(&self.batch_min),
            batch_max: get(&self.batch_max),
            closed_full: get(&self.closed[Closed::Full as usize]),
            closed_window: get(&self.closed[Closed::Window as usize]),
            closed_empty: get(&self.closed[Closed::Empty as usize]),
            closed_shutdown: get(&self.closed[Closed::Shutdown as usize]),
            errors: get(&self.errors),
            panics: get(&self.panics),
            skipped: get(&self.skipped),
        }
    }
}

/// The counters of one worker at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[non_exhaustive]
pub struct Snapshot {
    /// Batches taken; with a batch size of 0, items.
    pub batches: u64,
    /// Items taken.
    pub items: u64,
    /// Items of the smallest batch; 0 before the first.
    pub batch_min: u64,
    /// Items of the largest batch.
    pub batch_max: u64,
    /// Batches closed because they were full.
    pub closed_full: u64,
    /// Batches closed because the oldest item had waited long enough.
    pub closed_window: u64,
    /// Batches closed because the ring was empty.
    pub closed_empty: u64,
    /// Batches closed because the server was shutting down.
    pub closed_shutdown: u64,
    /// Items answered with an error.
    pub errors: u64,
    /// Panics of user code.
    pub panics: u64,
    /// Items skipped because their caller had gone.
    pub skipped: u64,
}

impl Snapshot {
    /// The sum of two workers.
    #[must_use]
    pub fn merged(self, other: Self) -> Self {
        let least = |a: u64, b: u64| if a == 0 || b == 0 { a.max(b) } else { a.min(b) };
        let sum = u64::saturating_add; // counters are read from a segment
        Self {
            batches: sum(self.batches, other.batches),
            items: sum(self.items, other.items),
            batch_min: least(self.batch_min, other.batch_min),
            batch_max: self.batch_max.max(other.batch_max),
            closed_full: sum(self.closed_full, other.closed_full),
            closed_window: sum(self.closed_window, other.closed_window),
            closed_empty: sum(self.closed_empty, other.closed_empty),
            closed_shutdown: sum(self.closed_shutdown, other.closed_shutdown),
            errors: sum(self.errors, other.errors),
            panics: sum(self.panics, other.panics),
            skipped: sum(self.skipped, other.skipped),
        }
    }

    /// Items a batch; 0 before the first.
    #[must_use]
    pub fn batch_mean(&self) -> f64 {
        if self.batches == 0 { 0.0 } else { self.items as f64 / self.batches as f64 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn minima_ignore_workers_that_did_nothing() {
        let counters = Counters::default();
        assert_eq!(counters.snapshot().batch_mean(), 0.0);
        counters.count_batch(7, Closed::Full);
        counters.count_batch(3, Closed::Empty);
        let busy = counters.snapshot();
        assert_eq!((busy.batch_min, busy.batch_max, busy.batch_mean()), (3, 7, 5.0));
        let both = busy.merged(Snapshot::default());
        assert_eq!(both, busy);
    }
}
