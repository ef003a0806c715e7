//! The traces of a server's requests, read from shared memory.

use crate::client::Core;
use crate::traceparent::TraceContext;
use ringmill_shm::segment::Segment;
use ringmill_shm::sys::time::now_ns;
use ringmill_shm::trace::{self, HopEnd, RequestEnd};
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// The traces of requests that have ended, each once. From [`Server::traces`](crate::Server::traces) and
/// [`Handle::traces`](crate::Handle::traces).
///
/// As an iterator it gives what there is, then `None`; later there may be more. A request is there as soon as its caller
/// has its outcome. A thread or task that exports traces looks from time to time, before
/// [`traces`](crate::ServerBuilder::traces) requests more have been traced; [`lost`](Self::lost) says whether it was too
/// late. Reading costs the callers and workers nothing.
///
/// ```
/// use ringmill::{PassThrough, Server, ThreadServlet};
///
/// # fn main() -> Result<(), ringmill::BoxError> {
/// let server = Server::anonymous("traced").start(ThreadServlet::<PassThrough<u32>>::new(()))?;
/// let mut traces = server.traces();
/// server.call(&7)?;
/// let trace = traces.next().expect("the first request is traced");
/// println!("{:032x}: {} after {:?}", trace.trace_id, trace.end.name(), trace.duration());
/// for hop in &trace.hops {
///     println!("{} worker {}: queued for {:?}", hop.servlet, hop.worker, hop.in_ring());
/// }
/// assert_eq!(traces.next(), None);
/// # Ok(())
/// # }
/// ```
///
/// It keeps no worker alive. Once its server is gone, it gives what is left; the segment's memory stays mapped until it is
/// dropped.
pub struct Traces {
    segment: Arc<Segment>,
    /// By record: the number after that of the last trace that was given.
    given: Vec<u64>,
    /// Of the last look, the last to end first.
    found: Vec<Trace>,
    count: u64,
}

/// The trace of a request that has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Trace {
    /// The server's name.
    pub server: String,
    /// The request's id.
    pub request: u32,
    /// Which use of that id it was, modulo 65,536.
    pub generation: u16,
    /// The number of the whole trace: its context's, or a random one.
    pub trace_id: u128,
    /// The span from which it was sent, if its caller gave a context.
    pub parent_id: Option<u64>,
    /// The number of the request's own span.
    pub span_id: u64,
    /// The [flags](TraceContext::flags) of its context.
    pub flags: u8,
    /// For how many requests it stands, if it was [timed](crate::stats::Timing); `None`: only its context asked for it.
    pub weight: Option<u64>,
    /// When it was sent.
    pub sent: SystemTime,
    /// When its caller had the outcome, or went.
    pub ended: SystemTime,
    /// How it ended.
    pub end: RequestEnd,
    /// The workers that took it, or a branch of it, in that order.
    pub hops: Vec<Hop>,
    /// How many hops are missing: there was no room for them, the worker died before it had written them, or it was just
    /// doing so when the caller went.
    pub hops_missing: u64,
}

/// One worker's part of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Hop {
    /// The number of its span, a child of the request's.
    pub span_id: u64,
    /// The servlet's name.
    pub servlet: String,
    /// The worker's index within the servlet.
    pub worker: u32,
    /// The thread's index within the worker.
    pub thread: u32,
    /// The worker's process.
    pub pid: u32,
    /// Which branch of the request it worked on, in ensembles; 0: the request itself.
    pub branch: u32,
    /// How many of the servlet's workers had died before while they worked on it.
    pub attempt: u8,
    /// When it was put into the servlet's ring.
    pub queued: SystemTime,
    /// When the worker took it.
    pub taken: SystemTime,
    /// When user code began; `None`: it never saw it.
    pub begun: Option<SystemTime>,
    /// When the worker had answered it, or its death was noticed; `None`: not before its caller had the outcome, or went.
    pub ended: Option<SystemTime>,
    /// How the worker's part ended.
    pub end: Option<HopEnd>,
}

impl Trace {
    /// From when it was sent until its caller had the outcome.
    #[must_use]
    pub fn duration(&self) -> Duration {
        between(self.sent, self.ended)
    }

    /// Its context, as its hops' workers had it, with the request's own span as the parent. `None` if another process has
    /// written over the segment.
    #[must_use]
    pub fn context(&self) -> Option<TraceContext> {
        let words = trace::Context { trace_id: self.trace_id, parent: self.span_id, flags: self.flags };
        TraceContext::from_words(words)
    }
}

impl Hop {
    /// How long it was in the servlet's ring.
    #[must_use]
    pub fn in_ring(&self) -> Duration {
        between(self.queued, self.taken)
    }

    /// How long user code worked on it; `None` if it never saw it, or has not ended.
    #[must_use]
    pub fn in_call(&self) -> Option<Duration> {
        Some(between(self.begun?, self.ended?))
    }
}

/// Zero if another process has written times that no clock had.
fn between(from: SystemTime, to: SystemTime) -> Duration {
    to.duration_since(from).unwrap_or_default()
}

/// Both clocks at one moment.
#[derive(Clone, Copy)]
struct Clocks {
    monotonic_ns: u64,
    system: SystemTime,
}

impl Clocks {
    fn now() -> Self {
        Self { monotonic_ns: now_ns(), system: SystemTime::now() }
    }

    /// A monotonic time by the system's clock; now, if no clock can have had it.
    fn at(self, ns: u64) -> SystemTime {
        let ago = Duration::from_nanos(self.monotonic_ns.saturating_sub(ns));
        self.system.checked_sub(ago).unwrap_or(self.system)
    }
}

impl Traces {
    pub(crate) fn of(core: &Core) -> Self {
        let segment = Arc::clone(&core.segment);
        Self { given: vec![0; segment.shape().traces as usize], found: Vec::new(), count: 0, segment }
    }

    /// How many requests were traced whose traces this has not given, and will not give: newer ones have taken their
    /// place. Requests in progress are not among them.
    #[must_use]
    pub fn lost(&self) -> u64 {
        // Begun first: what begins meanwhile is in progress, not lost. What has begun by then can be read, or is lost.
        let begun = self.segment.traces_begun();
        let to_come = self.segment.traces().iter().filter(|trace| !self.is_given(trace)).count() as u64;
        let given = self.count + self.found.len() as u64;
        begun.saturating_sub(given).saturating_sub(to_come)
    }

    fn record_of(&self, trace: &trace::Trace) -> Option<usize> {
        Some(trace.number.checked_rem(self.given.len() as u64)? as usize)
    }

    fn is_given(&self, trace: &trace::Trace) -> bool {
        self.record_of(trace).is_some_and(|record| self.given[record] == trace.number.wrapping_add(1))
    }

    fn look(&mut self) {
        let traces = self.segment.traces();
        let clocks = Clocks::now(); // after: what they say was before
        for trace in traces {
            if let Some((told_ns, end)) = trace.told
                && !self.is_given(&trace)
                && let Some(record) = self.record_of(&trace)
            {
                self.given[record] = trace.number.wrapping_add(1);
                self.found.push(self.in_words(trace, clocks, told_ns, end));
            }
        }
        self.found.sort_by_key(|trace| std::cmp::Reverse(trace.ended));
    }

    fn in_words(&self, trace: trace::Trace, clocks: Clocks, told_ns: u64, end: RequestEnd) -> Trace {
        let hop = |hop: trace::Hop| {
            let seat = hop.worker.and_then(|token| self.segment.worker_of(token.index()));
            let (worker, thread) = seat.map_or((0, 0), |(_, worker, thread)| (worker, thread));
            let node = self.segment.nodes().get(hop.node as usize);
            Hop {
                span_id: hop.span,
                servlet: node.map_or_else(String::new, |info| info.name.clone()),
                worker,
                thread,
                pid: hop.pid,
                branch: hop.slot,
                attempt: hop.attempt,
                queued: clocks.at(hop.queued_ns.max(trace.sent_ns)), // it is less exact
                taken: clocks.at(hop.taken_ns),
                begun: hop.begun_ns.map(|ns| clocks.at(ns)),
                ended: hop.ended.map(|(ns, _)| clocks.at(ns)),
                end: hop.ended.map(|(_, end)| end),
            }
        };
        Trace {
            server: self.segment.identity().name,
            request: trace.request,
            generation: trace.generation,
            trace_id: trace.context.trace_id,
            parent_id: (trace.context.parent != 0).then_some(trace.context.parent),
            span_id: trace.span,
            flags: trace.context.flags,
            weight: trace.weight.map(|weight| weight.count()),
            sent: clocks.at(trace.sent_ns),
            ended: clocks.at(told_ns),
            end,
            hops: trace.hops.into_iter().map(hop).collect(),
            hops_missing: trace.hops_missing,
        }
    }
}

impl Iterator for Traces {
    type Item = Trace;

    /// The next trace of a request that has ended, in the order in which they ended; `None` if there is none now.
    fn next(&mut self) -> Option<Trace> {
        if self.found.is_empty() {
            self.look();
        }
        let trace = self.found.pop()?;
        self.count += 1;
        Some(trace)
    }
}

impl fmt::Debug for Traces {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Traces").field("given", &self.count).finish_non_exhaustive()
    }
}
