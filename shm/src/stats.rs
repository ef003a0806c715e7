//! Single-writer statistics of a worker: any process can read them live, without slowing the writer.
//!
//! Each counter has one writer, the worker; so adding is a load and a store, no locked instruction. (All threads of a
//! worker's process count dropped events, by locked additions.) A reader may see counters of two moments, and so somewhat
//! more items than the batches could hold.
//!
//! Counters are declared once, in the table below. Their atomics, snapshots, sums over workers, the names and columns
//! of reports and their part of the segment's fingerprint follow from that.

use crate::fields::{Field, InSegment, in_segment, of_struct};
use crate::sync::Ordering;
use core::sync::atomic::AtomicU64;
use serde::Serialize;

/// Declares the counters: what each counts, its [`Counter`], its field in a [`Snapshot`] (and its name in reports), the
/// heading of its column, its unit, how those of several workers are put together, and the table where its column is.
macro_rules! counters {
    ($(
        #[doc = $help:literal]
        $counter:ident $field:ident $heading:literal $unit:literal $merge:ident $table:ident;
    )*) => {
        /// A counter of a worker.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[repr(usize)]
        #[non_exhaustive]
        pub enum Counter {
            $(#[doc = $help] $counter,)*
        }

        impl Counter {
            /// All counters, in the order of reports.
            pub const ALL: [Self; [$(stringify!($field)),*].len()] = [$(Self::$counter),*];

            const WORDS: [Words; Self::ALL.len()] = [$(Words {
                name: stringify!($field),
                help: $help.trim_ascii(),
                heading: $heading,
                unit: $unit,
                merge: Merge::$merge,
                table: Table::$table,
            }),*];
        }

        /// The counters of one worker, or of several, at one moment.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
        #[non_exhaustive]
        pub struct Snapshot {
            $(#[doc = $help] pub $field: u64,)*
        }

        impl Snapshot {
            fn of(value: impl Fn(Counter) -> u64) -> Self {
                Self { $($field: value(Counter::$counter),)* }
            }

            /// One of them.
            #[must_use]
            pub fn get(&self, counter: Counter) -> u64 {
                match counter {
                    $(Counter::$counter => self.$field,)*
                }
            }
        }
    };
}

counters! {
    /// Batches taken; with a batch size of 0, items.
    Batches         batches         "batches"  "batches" Sum      Batches;
    /// Items taken.
    Items           items           "items"    "items"   Sum      Batches;
    /// Items of the smallest batch; 0 before the first.
    BatchMin        batch_min       "min"      "items"   Least    Batches;
    /// Items of the largest batch.
    BatchMax        batch_max       "max"      "items"   Greatest Batches;
    /// Batches closed because they were full.
    ClosedFull      closed_full     "full"     "batches" Sum      Batches;
    /// Batches closed because their wait was over.
    ClosedWindow    closed_window   "window"   "batches" Sum      Batches;
    /// Batches closed because the ring had no further item.
    ClosedEmpty     closed_empty    "empty"    "batches" Sum      Batches;
    /// Batches closed because the server was shutting down.
    ClosedShutdown  closed_shutdown "shutdown" "batches" Sum      Batches;
    /// Items answered with an error.
    Errors          errors          "errors"   "items"   Sum      Workers;
    /// Panics of user code.
    Panics          panics          "panics"   "panics"  Sum      Workers;
    /// Items skipped because their caller had gone.
    Skipped         skipped         "skipped"  "items"   Sum      Workers;
    /// Log events dropped because the service did not keep up.
    EventsDropped   events_dropped  "unlogged" "events"  Sum      Workers;
}

/// The words of a counter, for reports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Words {
    /// Its name, which is that of its field in a [`Snapshot`].
    pub name: &'static str,
    /// What it counts, as a sentence.
    pub help: &'static str,
    /// The heading of its column in a table.
    pub heading: &'static str,
    /// What is counted.
    pub unit: &'static str,
    /// How the counters of several workers become one.
    pub merge: Merge,
    /// The table that its column belongs to.
    pub table: Table,
}

/// How the counters of several workers become one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Merge {
    /// Their sum.
    Sum,
    /// The least of those that are not 0: 0 says that there is none.
    Least,
    /// The greatest.
    Greatest,
}

/// The table of a report that a counter belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Table {
    /// Of the workers, one by one.
    Workers,
    /// Of their batches.
    Batches,
}

impl Counter {
    /// Its words.
    #[must_use]
    pub fn words(self) -> &'static Words {
        &Self::WORDS[self as usize]
    }

    /// Those whose columns a table has.
    pub fn of(table: Table) -> impl Iterator<Item = Self> {
        Self::ALL.into_iter().filter(move |counter| counter.words().table == table)
    }

    /// Its name in Prometheus' form.
    #[must_use]
    pub fn metric(self) -> String {
        let Words { name, merge, .. } = self.words();
        let only_grows = if *merge == Merge::Sum { "_total" } else { "" };
        format!("ringmill_worker_{name}{only_grows}")
    }
}

impl Merge {
    fn merged(self, a: u64, b: u64) -> u64 {
        match self {
            Self::Sum => a.saturating_add(b), // counters are read from a segment
            Self::Least if a == 0 || b == 0 => a.max(b),
            Self::Least => a.min(b),
            Self::Greatest => a.max(b),
        }
    }
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

/// The counters, in the order of [`Counter`].
#[derive(Debug, Default)]
#[repr(transparent)]
struct Values([AtomicU64; Counter::ALL.len()]);

impl InSegment for Values {
    /// The number of a struct with a field for each counter.
    const FIELDS: u64 = {
        let mut fields = [const { Field { name: "", offset: 0, of: AtomicU64::FIELDS } }; Counter::ALL.len()];
        let mut index = 0;
        while index < fields.len() {
            fields[index].name = Counter::WORDS[index].name;
            fields[index].offset = index * size_of::<AtomicU64>();
            index += 1;
        }
        of_struct("Values", size_of::<Self>(), align_of::<Self>(), &fields)
    };
}

in_segment! {
    /// The counters of one worker's row; they live on across its restarts.
    #[repr(align(128))]
    #[derive(Debug, Default)]
    pub struct Counters {
        values: Values,
        /// The number of the present call of user code; 0 = none.
        call: AtomicU64,
    }
}

#[inline]
fn add(counter: &AtomicU64, n: u64) {
    // Relaxed, and not a fetch_add: one writer; readers want no more than a recent value. Wrapping: any process may
    // have written these bytes.
    counter.store(counter.load(Ordering::Relaxed).wrapping_add(n), Ordering::Relaxed);
}

impl Counters {
    #[inline]
    fn at(&self, counter: Counter) -> &AtomicU64 {
        &self.values.0[counter as usize]
    }

    /// Adds one to a counter. The row's worker alone calls this, and every other method that changes a counter: two
    /// writers at a time would lose counts.
    #[inline]
    pub fn count(&self, counter: Counter) {
        add(self.at(counter), 1);
    }

    /// Adds one to a counter that all threads of the worker's process count, and that no thread counts by
    /// [`count`](Self::count).
    pub fn count_in_any_thread(&self, counter: Counter) {
        self.at(counter).fetch_add(1, Ordering::Relaxed); // Relaxed: as in `add`
    }

    /// Counts a batch of `items` items, which was closed for this reason.
    #[inline]
    pub fn count_batch(&self, items: u64, why: Closed) {
        self.count(Counter::Batches);
        add(self.at(Counter::Items), items);
        add(&self.values.0[why as usize], 1);
        let (least, greatest) = (self.at(Counter::BatchMin), self.at(Counter::BatchMax));
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
        self.call.store(self.at(Counter::Batches).load(Ordering::Relaxed), Ordering::Relaxed);
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
        Snapshot::of(|counter| self.at(counter).load(Ordering::Relaxed))
    }
}

impl Snapshot {
    /// The counters of both, put together as one worker's.
    #[must_use]
    pub fn merged(self, other: Self) -> Self {
        Self::of(|counter| counter.words().merge.merged(self.get(counter), other.get(counter)))
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
            let name = Counter::WORDS[*why as usize].name;
            name == format!("closed_{why:?}").to_lowercase()
        }));
    }

    #[test]
    fn words_are_fit_for_reports() {
        assert_eq!(Counter::Errors.metric(), "ringmill_worker_errors_total");
        assert_eq!(Counter::BatchMax.metric(), "ringmill_worker_batch_max");
        for counter in Counter::ALL {
            let Words { name, help, .. } = counter.words();
            assert!(help.ends_with('.') && !help.starts_with(' '), "{name}: {help:?}");
        }
    }
}
