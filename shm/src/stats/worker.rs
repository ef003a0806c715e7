//! The statistics of a worker's row.

use super::{Family, Histogram, add, counters, histograms};
use crate::fields::in_segment;
use crate::sync::Ordering;
use crate::watch::{Began, Timed};
use core::sync::atomic::AtomicU64;
use serde::Serialize;

const CLOSED: Family = Family {
    name: "worker_batches_closed",
    help: "Batches, by why they were closed.",
    label: "reason",
    prefix: "closed_",
};

counters! {
    "worker"
    /// A counter of a worker.
    Counter
    Values
    /// The counters of one worker, or of several, at one moment.
    Snapshot

    /// Batches taken; with a batch size of 0, items.
    Batches         batches         "batches"  "batches" Sum      Batches;
    /// Items taken.
    Items           items           "items"    "items"   Sum      Batches;
    /// Items of the smallest batch; 0 before the first.
    BatchMin        batch_min       "min"      "items"   Least    Batches;
    /// Items of the largest batch.
    BatchMax        batch_max       "max"      "items"   Greatest Batches;
    /// Batches closed because they were full.
    ClosedFull      closed_full     "full"     "batches" Sum      Batches CLOSED;
    /// Batches closed because their wait was over.
    ClosedWindow    closed_window   "window"   "batches" Sum      Batches CLOSED;
    /// Batches closed because the ring had no further item.
    ClosedEmpty     closed_empty    "empty"    "batches" Sum      Batches CLOSED;
    /// Batches closed because the server was shutting down.
    ClosedShutdown  closed_shutdown "shutdown" "batches" Sum      Batches CLOSED;
    /// Items answered with an error.
    Errors          errors          "errors"   "items"   Sum      Workers;
    /// Panics of user code.
    Panics          panics          "panics"   "panics"  Sum      Workers;
    /// Items skipped because their caller had gone.
    Skipped         skipped         "skipped"  "items"   Sum      Workers;
    /// Items skipped because their deadline had passed.
    Expired         expired         "expired"  "items"   Sum      Workers;
    /// Log events dropped because the service did not keep up.
    EventsDropped   events_dropped  "unlogged" "events"  Sum      Workers;
    /// Spins that found no item.
    SpinsInVain     spins_in_vain   "spins"    "spins"   Sum      Waits;
    /// Sleeps, because no item came.
    Sleeps          sleeps          "sleeps"   "sleeps"  Sum      Waits;
    /// Sleeps that another participant ended.
    Wakes           wakes           "wakes"    "sleeps"  Sum      Waits;
    /// Times the reader lock was taken over from a dead worker.
    TakeOvers       take_overs      "taken"    "times"   Sum      Waits;
}

histograms! {
    "worker"
    /// A histogram of a worker.
    WorkerHistogram
    /// The histograms of one worker's row; they live on across its restarts.
    WorkerHistograms
    /// The values of the histograms of one worker, or of several, at one moment.
    WorkerDistributions

    /// Items of each batch; with a batch size of 0, each is 1.
    BatchSize       batch_size      Items;
    /// How long the worker kept a batch open and waited for more items; 0 for each batch that did not wait.
    BatchWait       batch_wait      Time;
    /// From when an item was put into the servlet's ring until a worker had taken it; of some items.
    QueueTime       queue_time      Time;
    /// How long user code ran, for an item or a batch; of some of them.
    RunTime         run_time        Time;
}

/// Why a batch was closed. The number of each reason is that of the counter of batches that were closed for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[repr(usize)]
pub enum Closed {
    /// It had as many items as it may.
    Full = Counter::ClosedFull as usize,
    /// Its wait was over: the oldest item had waited as long as it may, or no further item was expected soon.
    Window = Counter::ClosedWindow as usize,
    /// No further item was in the ring, and it had no window, or none in which one was expected.
    Empty = Counter::ClosedEmpty as usize,
    /// The server is shutting down.
    Shutdown = Counter::ClosedShutdown as usize,
}

in_segment! {
    /// The counters of one worker's row; they live on across its restarts.
    #[repr(align(128))]
    #[derive(Debug, Default)]
    pub struct Counters {
        /// The number of the present call of user code; 0 = none.
        call: AtomicU64,
        values: Values,
        timed: Timed,
    }
}

impl Counters {
    /// Adds one to a counter. The row's worker alone calls this, and every other method that changes a counter: two
    /// writers at a time would lose counts.
    #[inline]
    pub fn count(&self, counter: Counter) {
        add(self.values.at(counter), 1);
    }

    /// Adds one to a counter that all threads of the worker's process count, and that no thread counts by
    /// [`count`](Self::count).
    pub fn count_in_any_thread(&self, counter: Counter) {
        self.values.at(counter).fetch_add(1, Ordering::Relaxed); // Relaxed: as in `add`
    }

    /// Counts a batch of `items` items, which was closed for this reason.
    #[inline]
    pub fn count_batch(&self, items: u64, why: Closed) {
        self.count(Counter::Batches);
        add(self.values.at(Counter::Items), items);
        add(&self.values.0[why as usize], 1);
        let (least, greatest) = (self.values.at(Counter::BatchMin), self.values.at(Counter::BatchMax));
        let min = least.load(Ordering::Relaxed);
        if min == 0 || items < min {
            least.store(items, Ordering::Relaxed);
        }
        if items > greatest.load(Ordering::Relaxed) {
            greatest.store(items, Ordering::Relaxed);
        }
    }

    /// Records that user code is called, for the batch that was counted last.
    #[inline]
    pub fn begin_call(&self) {
        // Relaxed, here and below: as in `add`. Batches are counted before, so no two calls have one number.
        self.call.store(self.values.at(Counter::Batches).load(Ordering::Relaxed), Ordering::Relaxed);
    }

    /// Records when the next call begins, of those that are timed.
    #[cold]
    #[inline(never)]
    pub fn time_call(&self, now_ns: u64) {
        self.timed.note(self.values.at(Counter::Batches).load(Ordering::Relaxed), now_ns);
    }

    /// When the present call began, by the last one that was timed: at that instant, or after it.
    pub(crate) fn timed(&self, call: u64) -> Began {
        self.timed.began(call)
    }

    /// Records that user code has returned.
    #[inline]
    pub fn end_call(&self) {
        self.call.store(0, Ordering::Relaxed);
    }

    /// The number of the present call of user code, which no other call of this row has; `None` if there is none.
    #[must_use]
    pub fn call(&self) -> Option<u64> {
        Some(self.call.load(Ordering::Relaxed)).filter(|&call| call != 0)
    }

    /// The counters now.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        self.values.snapshot()
    }
}

impl Snapshot {
    /// Items a batch; 0 before the first.
    #[must_use]
    pub fn batch_mean(&self) -> f64 {
        if self.batches == 0 { 0.0 } else { self.items as f64 / self.batches as f64 }
    }
}

impl WorkerHistograms {
    /// Counts a batch of `items` items, which did not wait. The row's worker alone calls this, and the other methods that
    /// change a histogram.
    #[inline]
    pub fn count_batch(&self, items: u64) {
        self.at(WorkerHistogram::BatchSize).count(items);
        self.at(WorkerHistogram::BatchWait).count(0);
    }

    /// Counts a batch of `items` items, which waited for so long.
    pub fn count_batch_that_waited(&self, items: u64, waited_ns: u64) {
        self.at(WorkerHistogram::BatchSize).count(items);
        self.record(WorkerHistogram::BatchWait, waited_ns, 1);
    }

    /// Records a time this many times: its sample stands for as many.
    pub fn record(&self, of: WorkerHistogram, value: u64, times: u64) {
        self.at(of).record(value, times);
    }

    /// Their values now; `counters` are those of the same row. They complete what the worker leaves out because it
    /// follows: the sum of batch sizes, and the greatest.
    #[must_use]
    pub fn distributions(&self, counters: &Snapshot) -> WorkerDistributions {
        WorkerDistributions::of(|of| {
            let distribution = self.at(of).distribution(of.words().quantity);
            match of {
                WorkerHistogram::BatchSize => distribution.with_sum(counters.items, counters.batch_max),
                _ => distribution,
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Merge, Words};
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

    #[test]
    fn each_counter_is_read_and_merged_where_it_is_counted() {
        for counter in Counter::ALL {
            let counters = Counters::default();
            counters.count(counter);
            counters.count(counter);
            let snapshot = counters.snapshot();
            for other in Counter::ALL {
                assert_eq!(
                    snapshot.get(other),
                    if other == counter { 2 } else { 0 },
                    "{counter:?}, {other:?}"
                );
            }
            let twice = snapshot.merged(snapshot).get(counter);
            assert_eq!(twice, if counter.words().merge == Merge::Sum { 4 } else { 2 }, "{counter:?}");
        }
    }

    #[test]
    fn every_reason_to_close_a_batch_is_a_counter() {
        let closed = |counter: &Counter| counter.words().name.starts_with("closed_");
        let reasons = [Closed::Full, Closed::Window, Closed::Empty, Closed::Shutdown];
        let counted: Vec<usize> = Counter::ALL.iter().filter(|c| closed(c)).map(|c| *c as usize).collect();
        assert_eq!(counted, reasons.map(|why| why as usize));
        assert!(reasons.iter().all(|why| {
            let name = Counter::ALL[*why as usize].words().name;
            name == format!("closed_{why:?}").to_lowercase()
        }));
    }

    #[test]
    fn words_are_fit_for_reports() {
        assert_eq!(Counter::Errors.words().metric(), "ringmill_worker_errors_total");
        assert_eq!(Counter::BatchMax.words().metric(), "ringmill_worker_batch_max");
        let full = Counter::ClosedFull.words();
        assert_eq!(full.metric(), "ringmill_worker_batches_closed_total");
        assert_eq!((full.metric_help(), full.label()), (CLOSED.help, Some(("reason", "full"))));
        for counter in Counter::ALL {
            let Words { name, help, .. } = counter.words();
            assert!(help.ends_with('.') && !help.starts_with(' '), "{name}: {help:?}");
        }
    }

    #[test]
    fn what_a_worker_leaves_out_of_its_histograms_follows_from_its_counters() {
        let (counters, histograms) = (Counters::default(), WorkerHistograms::default());
        for items in [3, 5] {
            counters.count_batch(items, Closed::Full);
            match items {
                3 => histograms.count_batch(items),
                _ => histograms.count_batch_that_waited(items, 1_000),
            }
        }
        let all = histograms.distributions(&counters.snapshot());
        let (sizes, waits) = (&all.batch_size, all.get(WorkerHistogram::BatchWait));
        assert_eq!((sizes.count(), sizes.sum(), sizes.greatest()), (2, 8, 5));
        assert_eq!((waits.count(), waits.sum(), waits.percentile(50.0)), (2, 1_000, 0));
        assert_eq!(all.merged(&WorkerDistributions::default()), all);
        assert_eq!(all.since(&all).batch_size.count(), 0);
    }
}
