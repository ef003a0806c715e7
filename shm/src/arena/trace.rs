//! A request's trace, through the guards of its tasks: each owner writes its part. See [`trace`](crate::trace).
//!
//! All of it is off the way of a request that is not traced, and does nothing for one.

use super::{Claimed, Filling, Task};
use crate::layout::Times;
use crate::sync::Ordering;
use crate::token::Token;
use crate::trace::{self, Context, HopEnd, Record, RequestEnd, Start, Taken};
use crate::word::Phase;

impl Times {
    fn set_context(&self, context: Context) {
        // Relaxed, all: [one owner].
        self.trace_high.store((context.trace_id >> 64) as u64, Ordering::Relaxed);
        self.trace_low.store(context.trace_id as u64, Ordering::Relaxed);
        self.parent.store(context.parent, Ordering::Relaxed);
        self.trace_flags.store(context.flags.into(), Ordering::Relaxed);
    }

    fn context(&self) -> Context {
        // Relaxed, all: travels with [published].
        let (high, low) = (self.trace_high.load(Ordering::Relaxed), self.trace_low.load(Ordering::Relaxed));
        Context {
            trace_id: u128::from(high) << 64 | u128::from(low),
            parent: self.parent.load(Ordering::Relaxed),
            flags: self.trace_flags.load(Ordering::Relaxed) as u8,
        }
    }
}

impl<'a> Task<'a> {
    /// Its request's trace; `None` if it is not traced, or has no record.
    fn trace(&self) -> Option<(u64, Record<'a>)> {
        if !self.stamp().is_traced() {
            return None;
        }
        let seq = self.segment.times(self.slot().0)?.trace.load(Ordering::Relaxed); // Relaxed: as above
        let index = trace::index_of(seq, self.segment.shape().traces)?;
        let record = self.segment.trace_record(index).filter(|record| record.is_of(seq))?;
        Some((seq, record))
    }

    /// The owner's work on it has ended, if that has begun a hop.
    pub(crate) fn end_hop_of(&self, owner: Token, now_ns: u64, end: HopEnd) {
        if let Some((seq, record)) = self.trace() {
            record.end_hop(seq, self.slot().1, owner, now_ns, end);
        }
    }

    /// The caller has its outcome, or goes.
    pub(crate) fn tell_trace(&self, now_ns: u64, end: RequestEnd) {
        if let Some((_, record)) = self.trace() {
            record.tell(now_ns, end);
        }
    }
}

impl Filling<'_> {
    /// Gives the request a trace context. Whether it has one is said by its [stamp](crate::stats::Stamp::traced).
    pub fn set_trace_context(&mut self, context: Context) {
        let task = self.held.task;
        if let Some(times) = task.segment.times(task.slot().0) {
            times.set_context(context);
            times.trace.store(0, Ordering::Relaxed); // Relaxed: [one owner]
        }
    }

    /// Whether the segment keeps traces.
    #[must_use]
    pub fn keeps_traces(&self) -> bool {
        self.held.task.segment.shape().traces > 0
    }

    /// Takes a record for the request's trace, and gives the request the trace's context. False if there is no record.
    pub fn begin_trace(&mut self, start: &Start) -> bool {
        self.set_trace_context(start.context);
        let (task, segment) = (self.held.task, self.held.task.segment);
        let of = (task.id, self.held.state.generation());
        let is_over = |request: u32, generation: u16| {
            let Some(line) = segment.task_line(request) else { return true };
            let state = line.word.load(); // [over]
            match state.phase() {
                Some(Phase::Free) => true,
                Some(Phase::Filling) => request == task.id, // [over]
                _ => state.generation() != generation,
            }
        };
        let records = segment.shape().traces;
        let Some(ring) = segment.trace_ring() else { return false };
        let begun = trace::begin(ring, records, |index| segment.trace_record(index), of, start, is_over);
        if let (Some(seq), Some(times)) = (begun, segment.times(task.slot().0)) {
            times.trace.store(seq.get(), Ordering::Relaxed); // Relaxed: [one owner]
        }
        begun.is_some()
    }
}

impl Claimed<'_> {
    /// Its owner has taken it from a ring.
    pub fn begin_hop(&self, taken: &Taken) {
        let task = self.held.task;
        if let Some((seq, record)) = task.trace() {
            record.begin_hop(seq, task.slot().1, self.me, self.attempt(), taken);
        }
    }

    /// User code begins to work on it.
    pub fn begin_run(&self, now_ns: u64) {
        let task = self.held.task;
        if let Some((seq, record)) = task.trace() {
            record.begin_run(seq, task.slot().1, self.me, now_ns);
        }
    }

    /// The dead owner, from whom a repairer has it, worked on it no longer than until now.
    pub fn end_hop_of_dead(&self, dead: Token, now_ns: u64) {
        self.held.task.end_hop_of(dead, now_ns, HopEnd::Died);
    }

    /// Its request's trace context, for spans of its owner: their parent is the span of this hop if the trace has a
    /// record, the span of the request if that has no room for the hop, and the span from which the request was sent if
    /// there is no record. `None` if it has none.
    #[must_use]
    pub fn trace_context(&self) -> Option<Context> {
        let task = self.held.task;
        let context = task.segment.times(task.slot().0).filter(|_| task.stamp().is_traced())?.context();
        Some(match task.trace() {
            Some((seq, record)) => {
                Context { parent: record.span_here(seq, task.slot().1, self.me), ..context }
            }
            None => context,
        })
    }
}
