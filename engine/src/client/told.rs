//! What callers count: how their requests end, and how long some of them take.
//!
//! In a forked child nothing is counted: the rows are those of its parent's threads.

use super::core::Core;
use super::hand::InHand;
use crate::error::{CallError, ErrorKind};
use crate::traceparent::{TraceContext, new_number, new_trace};
use ringmill_shm::arena::{Filling, Task};
use ringmill_shm::stats::{CallerCounter, CallerHistogram, CallerRow, Stamp, Weight};
use ringmill_shm::sys::time::now_ns;
use ringmill_shm::trace::{Context, RequestEnd, Start};

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
        self.note_total(task, || RequestEnd::Answered);
    }

    /// Counts requests that were answered with a value, whose [times](Self::note_total) are noted already.
    pub(crate) fn count_all_answered(&self, requests: u32) {
        if requests > 0 && self.birth.is_here() {
            self.row().count_all(CallerCounter::Answered, requests.into());
        }
    }

    /// Records how long a request took, if it is timed, and how it ended, if it is traced.
    #[inline]
    pub(crate) fn note_total(&self, task: Task<'_>, how: impl FnOnce() -> RequestEnd) {
        if task.stamp().is_marked() {
            self.note_total_marked(task, how());
        }
    }

    #[cold]
    fn note_total_marked(&self, task: Task<'_>, how: RequestEnd) {
        if !self.birth.is_here() {
            return;
        }
        let now_ns = now_ns();
        if let Some(weight) = task.stamp().weight() {
            let total_ns = now_ns.saturating_sub(task.sent_ns());
            self.row().record(CallerHistogram::TotalTime, total_ns, weight.count());
        }
        task.tell_trace(now_ns, how);
    }

    /// Notes that the caller of a request went, if it is traced.
    pub(crate) fn note_gone(&self, task: Task<'_>) {
        if task.stamp().is_traced() && self.birth.is_here() {
            task.tell_trace(now_ns(), RequestEnd::Cancelled);
        }
    }

    /// The stamp of a request that is sent now with this context.
    pub(crate) fn stamp_with_context(&self, filling: &mut Filling<'_>, context: TraceContext) {
        let sent_ns = now_ns();
        mark(filling, sent_ns, self.rows.sample_if_due(|| sent_ns), Some(context.words()));
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
            mark(filling, sent_ns, weight, None);
        } else {
            filling.stamp(if is_asked() { Stamp::at(now_ns(), None) } else { Stamp::NONE });
        }
    }

    /// Requests take long: has the next one timed, if none was for some time.
    pub(crate) fn time_the_next(&self, now_ns: u64) {
        self.rows.time_the_next(now_ns);
    }
}

/// Stamps a request that is timed with this weight, or has a context, and begins its trace. One that is timed is traced, and
/// one whose context says that its trace is sampled.
#[cold]
fn mark(filling: &mut Filling<'_>, sent_ns: u64, weight: Option<Weight>, context: Option<Context>) {
    filling.set_sent_ns(sent_ns);
    let is_asked =
        weight.is_some() || context.is_some_and(|context| context.flags & TraceContext::SAMPLED != 0);
    let is_traced = is_asked && filling.keeps_traces() && {
        let context = context.unwrap_or_else(new_trace);
        filling.begin_trace(&Start { sent_ns, weight, span: new_number(), context })
    };
    if let (false, Some(context)) = (is_traced, context) {
        filling.set_trace_context(context);
    }
    let stamp = Stamp::at(sent_ns, weight);
    filling.stamp(if is_traced || context.is_some() { stamp.traced() } else { stamp });
}

impl CallError {
    /// How a request ended that ended with this error.
    pub(super) fn end(&self) -> RequestEnd {
        match self.kind() {
            ErrorKind::Rejected => RequestEnd::Rejected,
            ErrorKind::Timeout => RequestEnd::Timeout,
            ErrorKind::Invalid => RequestEnd::Invalid,
            ErrorKind::Worker => RequestEnd::Worker,
            ErrorKind::Unavailable => RequestEnd::Unavailable,
            ErrorKind::Internal => RequestEnd::Internal,
        }
    }
}
