//! The statistics of calling threads.
//!
//! A calling thread has a row of its own while there are enough ([`CALLER_ROWS`]); the threads beyond share row 0, and
//! add to it by locked instructions. The engine decides which thread has which row, and counts the answers of a stream that
//! does not have to wait 64 at a time.

use super::{Family, Histogram, add, counters, histograms};
use crate::fields::in_segment;
use crate::sync::Ordering;

/// How many rows of callers a segment has: row 0, which threads share, and one for each of 63 threads.
pub const CALLER_ROWS: u32 = 64;
/// How many rows each client process has for its calling threads.
pub const CLIENT_ROWS: u32 = 4;

const OUTCOMES: Family =
    Family { name: "requests", help: "Requests that have ended, by how.", label: "outcome", prefix: "" };

counters! {
    "caller"
    /// A counter of callers.
    CallerCounter
    Values
    /// The counters of one row of callers, or of several, at one moment.
    CallerSnapshot

    /// Requests answered with a value.
    Answered        answered        "answered"    "requests" Sum Callers OUTCOMES;
    /// Requests that ended with an error of a worker: user code failed, or died.
    Worker          worker          "worker"      "requests" Sum Callers OUTCOMES;
    /// Requests that ended because a worker died with them, also counted as errors of a worker; not those of ensembles.
    WorkerDied      worker_died     "died"        "requests" Sum Callers;
    /// Requests whose outcome did not come in time.
    Timeout         timeout         "timeout"     "requests" Sum Callers OUTCOMES;
    /// Requests refused because the server had too much to do.
    Rejected        rejected        "rejected"    "requests" Sum Callers OUTCOMES;
    /// Requests refused because a servlet on their way was down, or the server was shutting down.
    Unavailable     unavailable     "unavailable" "requests" Sum Callers OUTCOMES;
    /// Requests that can never succeed as they are.
    Invalid         invalid         "invalid"     "requests" Sum Callers OUTCOMES;
    /// Requests that ended because something is broken.
    Internal        internal        "internal"    "requests" Sum Callers OUTCOMES;
    /// Requests whose caller went without taking the outcome.
    Cancelled       cancelled       "cancelled"   "requests" Sum Callers OUTCOMES;
    /// Requests that had to wait for a permit, because all of the capacity was in use.
    PermitWaits     permit_waits    "waited"      "requests" Sum Callers;
}

histograms! {
    "caller"
    /// A histogram of callers.
    CallerHistogram
    /// The histograms of a row of callers.
    CallerHistograms
    /// The values of the histograms of one row of callers, or of several, at one moment.
    CallerDistributions

    /// From when a request was sent until its caller took the outcome, or its time was over; of some requests.
    TotalTime       total_time      Time;
}

in_segment! {
    /// A row of callers.
    #[repr(align(128))]
    #[derive(Debug, Default)]
    pub struct CallerStats {
        values: Values,
        histograms: CallerHistograms,
    }
}

impl CallerStats {
    /// The counters now.
    #[must_use]
    pub fn snapshot(&self) -> CallerSnapshot {
        self.values.snapshot()
    }

    /// The values of the histograms now.
    #[must_use]
    pub fn distributions(&self) -> CallerDistributions {
        CallerDistributions::of(|of| self.histograms.at(of).distribution(of.words().quantity))
    }

    /// The counters, and the values of the histograms, of several rows together.
    #[must_use]
    pub fn of_all(rows: &[Self]) -> (CallerSnapshot, CallerDistributions) {
        let none = (CallerSnapshot::default(), CallerDistributions::default());
        rows.iter().fold(none, |(counters, times), row| {
            (counters.merged(row.snapshot()), times.merged(&row.distributions()))
        })
    }
}

/// A row of callers, to count in.
#[derive(Debug, Clone, Copy)]
pub struct CallerRow<'s> {
    stats: &'s CallerStats,
    /// Several threads may write.
    is_shared: bool,
}

impl<'s> CallerRow<'s> {
    /// One thread at a time counts in a row that is not shared; two would lose counts.
    #[inline]
    pub(crate) fn new(stats: &'s CallerStats, is_shared: bool) -> Self {
        Self { stats, is_shared }
    }

    /// Adds one to a counter.
    #[inline]
    pub fn count(self, counter: CallerCounter) {
        self.count_all(counter, 1);
    }

    /// Adds this number to a counter.
    #[inline]
    pub fn count_all(self, counter: CallerCounter, n: u64) {
        let counter = self.stats.values.at(counter);
        match self.is_shared {
            false => add(counter, n),
            true => {
                counter.fetch_add(n, Ordering::Relaxed); // Relaxed: as in `add`
            }
        }
    }

    /// Records a time this many times: its sample stands for as many.
    pub fn record(self, of: CallerHistogram, value_ns: u64, times: u64) {
        let histogram = self.stats.histograms.at(of);
        match self.is_shared {
            false => histogram.record(value_ns, times),
            true => histogram.record_with_others(value_ns, times),
        }
    }
}

impl CallerSnapshot {
    /// Requests that have ended, in whatever way: the sum of all outcomes.
    #[must_use]
    pub fn ended(&self) -> u64 {
        let outcomes = CallerCounter::ALL.into_iter().filter(|of| of.words().family == Some(&OUTCOMES));
        outcomes.fold(0, |sum, counter| sum.saturating_add(self.get(counter)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_outcome_is_in_the_sum_once() {
        let stats = CallerStats::default();
        let row = CallerRow::new(&stats, false);
        CallerCounter::ALL.into_iter().for_each(|counter| row.count(counter));
        let outcomes = CallerCounter::ALL.len() as u64 - 2;
        assert_eq!(
            stats.snapshot().ended(),
            outcomes,
            "all but deaths, which are errors of workers, and waits"
        );
        let words = CallerCounter::Timeout.words();
        assert_eq!(
            (words.metric().as_str(), words.label()),
            ("ringmill_requests_total", Some(("outcome", "timeout")))
        );
        assert_eq!(CallerCounter::WorkerDied.words().label(), None);
    }

    #[test]
    fn threads_that_share_a_row_lose_no_count() {
        let stats = CallerStats::default();
        let row = CallerRow::new(&stats, true);
        let rounds = if cfg!(miri) { 10 } else { 10_000 };
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    for _ in 0..rounds {
                        row.count(CallerCounter::Answered);
                        row.record(CallerHistogram::TotalTime, 100, 2);
                    }
                });
            }
        });
        assert_eq!(stats.snapshot().answered, 2 * rounds);
        let times = stats.distributions().total_time;
        assert_eq!((times.count(), times.sum(), times.greatest()), (4 * rounds, 400 * rounds, 100));
    }
}
