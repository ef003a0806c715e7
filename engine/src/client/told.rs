//! What callers count: how their requests end, and how long some of them take.
//!
//! In a forked child nothing is counted: the rows are those of its parent's threads.

use super::core::Core;
use crate::error::{CallError, ErrorKind};
use ringmill_shm::arena::{Filling, Task};
use ringmill_shm::stats::{CallerCounter, CallerHistogram, CallerRow, Stamp};
use ringmill_shm::sys::time::now_ns;

impl Core {
    /// The row in which this thread counts. Only in the server's own process.
    #[inline]
    fn row(&self) -> CallerRow<'_> {
        self.segment.caller_row(self.rows.of_this_thread())
    }

    /// Counts an event; nothing in a forked child.
    #[cold]
    pub(crate) fn count(&self, counter: CallerCounter) {
        if self.birth.is_here() {
            self.row().count(counter);
        }
    }

    /// Counts an error that a caller gets, and returns it.
    #[cold]
    pub(crate) fn told(&self, error: CallError) -> CallError {
        self.count(match error.kind() {
            ErrorKind::Rejected => CallerCounter::Rejected,
            ErrorKind::Timeout => CallerCounter::Timeout,
            ErrorKind::Invalid => CallerCounter::Invalid,
            ErrorKind::Worker => CallerCounter::Worker,
            ErrorKind::Unavailable => CallerCounter::Unavailable,
            ErrorKind::Internal => CallerCounter::Internal,
        });
        if let CallError::WorkerDied { .. } = error {
            self.count(CallerCounter::WorkerDied);
        }
        error
    }

    /// Counts a request that was answered with a value; `task` is still its caller's.
    #[inline]
    pub(crate) fn count_answered(&self, task: Task<'_>) {
        self.row().count(CallerCounter::Answered);
        self.note_total(task);
    }

    /// Counts requests that were answered with a value, whose [times](Self::note_total) are noted already.
    pub(crate) fn count_all_answered(&self, requests: u32) {
        if requests > 0 && self.birth.is_here() {
            self.row().count_all(CallerCounter::Answered, requests.into());
        }
    }

    /// Records how long a request took, if it is timed.
    #[inline]
    pub(crate) fn note_total(&self, task: Task<'_>) {
        if task.stamp().is_timed() {
            self.note_total_timed(task);
        }
    }

    #[cold]
    fn note_total_timed(&self, task: Task<'_>) {
        if let Some(weight) = task.stamp().weight()
            && self.birth.is_here()
        {
            let total_ns = now_ns().saturating_sub(task.sent_ns());
            self.row().record(CallerHistogram::TotalTime, total_ns, weight.count());
        }
    }

    /// The stamp of a request that is sent now; `is_asked` says whether a batch window needs its time.
    #[inline]
    pub(crate) fn stamp(&self, filling: &mut Filling<'_>, is_asked: impl FnOnce() -> bool) {
        let mut sent_ns = 0;
        let weight = self.rows.sample_if_due(|| {
            sent_ns = now_ns();
            sent_ns
        });
        if weight.is_some() {
            filling.set_sent_ns(sent_ns);
            filling.stamp(Stamp::at(sent_ns, weight));
        } else {
            filling.stamp(if is_asked() { Stamp::at(now_ns(), None) } else { Stamp::NONE });
        }
    }

    /// Requests take long: has the next one timed, if none was for some time.
    pub(crate) fn time_the_next(&self, now_ns: u64) {
        self.rows.time_the_next(now_ns);
    }
}
