//! Traces: of the last requests that were traced, when each was sent, queued, taken and worked on, where, by which worker, and
//! how that ended. Any process can read them at any time, also of a request whose worker has died.
//!
//! # Layout
//!
//! ```text
//! TraceRing   how many traces were ever begun                        callers
//! record 0    TraceHead: which request │ context │ sent, told        the request's caller
//!             HopLine 0, 1, …: one for each worker that took it       that worker, or the repairer after its death
//! record 1    …
//! ```
//!
//! A request that is traced has a record from when it is sent until it is over. Its number is in the request's
//! `Times`, and its tasks' [stamps](crate::stats::Stamp) say that it is valid.
//!
//! # Protocol
//!
//! | `seq` | The record |
//! |---|---|
//! | 0 | was never used |
//! | odd | a caller writes its head |
//! | even | is that of the trace with this number |
//!
//! The caller takes the next number and the record that follows from it, if that record's last request is over; else the
//! one after. A worker that takes a task takes the next hop of the record, writes what it knows, and last the number that
//! `seq` has: so hops of former requests need not be cleared.
//!
//! # Invariants
//!
//! * `[one request]`: a record is taken for another request only after its former request is FREE, QUEUED or later in
//!   another generation, or in the caller's own hands again. Until then its tasks have owners, and only they write its
//!   hops, each its own.
//!
//! # Ordering
//!
//! * `[over]`: the write of a state word that made the last request FREE, or a later one (Release) → the load by which the
//!   caller finds it over (Acquire). What its workers had written of it comes before all that is written of the next. The
//!   word of a request that another caller fills says nothing: that write is relaxed.
//! * `[whole]`: `seq` becomes even, or a hop's number is stored (Release) → the load by which a reader sees that
//!   (Acquire): all fields that were written before.
//! * `[torn]`: after `seq` has become odd, each field is written after a release fence. A reader reads the fields, then
//!   an acquire fence, then `seq` again: had it read a field of the next request, `seq` would have changed.
//!
//! # Crash
//!
//! A caller that dies in between leaves an odd number, and its server has died with it. A worker that dies leaves a hop
//! without a number, which readers count as one that is missing, or one without an end, which the repairer ends
//! ([`HopEnd::Died`]).

use crate::layout::{HopLine, TraceHead, TraceRing};
use crate::stats::Weight;
use crate::sync::{AtomicU64, HeaderU64, Ordering, fence};
use crate::token::Token;
use core::num::NonZeroU64;

/// How many records a caller looks at before it gives up.
const TRIES: u32 = 4;
/// How often a reader looks at a record that changes.
const LOOKS: u32 = if cfg!(loom) { 1 } else { 4 };

/// What tells a trace apart from others, also beyond this server: the numbers of a
/// [W3C trace context](https://www.w3.org/TR/trace-context/).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Context {
    /// The whole trace.
    pub trace_id: u128,
    /// The span from which the request was sent; 0: from none.
    pub parent: u64,
    /// The flags; bit 0: the trace is sampled.
    pub flags: u8,
}

/// The number of the span of a request's hop, from the number of the request's span.
fn span_of_hop(span: u64, index: u32) -> u64 {
    mixed(span.wrapping_add((u64::from(index) + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15))).max(1)
}

/// A number that looks random, for each number another one.
///
/// Source: G. Steele, D. Lea, C. Flood, "Fast splittable pseudorandom number generators" (2014).
#[must_use]
pub fn mixed(number: u64) -> u64 {
    let x = (number ^ number >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let x = (x ^ x >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
    x ^ x >> 31
}

/// Declares how something ended, and the name of each in reports. In a segment 0 stands for "not yet".
macro_rules! ends {
    ($(#[$of:meta])* $End:ident $($(#[$of_end:meta])* $end:ident $name:literal,)*) => {
        $(#[$of])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum $End {
            $($(#[$of_end])* $end,)*
        }

        impl $End {
            /// All of them.
            pub const ALL: [Self; [$($name),*].len()] = [$(Self::$end),*];

            /// Its name in reports.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$end => $name,)*
                }
            }

            fn raw(self) -> u64 {
                self as u64 + 1
            }

            /// `None`: not yet, or written by another process.
            fn from_raw(raw: u64) -> Option<Self> {
                Self::ALL.get(usize::try_from(raw.checked_sub(1)?).ok()?).copied()
            }
        }

        impl serde::Serialize for $End {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(self.name())
            }
        }
    };
}

ends! {
    /// How a request ended, as its caller saw it.
    RequestEnd
    /// With a value.
    Answered "answered",
    /// With the error that the server was full.
    Rejected "rejected",
    /// Its time was over.
    Timeout "timeout",
    /// With an error of the caller's input or use.
    Invalid "invalid",
    /// With an error of a worker: its user code failed, or it died.
    Worker "worker",
    /// No worker could take it.
    Unavailable "unavailable",
    /// With an error of ringmill, or of the system.
    Internal "internal",
    /// Its caller went.
    Cancelled "cancelled",
}

ends! {
    /// How a worker's work on a request ended.
    HopEnd
    /// With a value.
    Answered "answered",
    /// With an error.
    Failed "failed",
    /// User code panicked.
    Panicked "panicked",
    /// The request's deadline had passed, so user code did not see it.
    Expired "expired",
    /// The worker died.
    Died "died",
}

/// How a trace begins.
#[derive(Debug, Clone, Copy)]
pub struct Start {
    /// When the request was sent, in monotonic nanoseconds.
    pub sent_ns: u64,
    /// For how many requests it stands, if it was sampled.
    pub weight: Option<Weight>,
    /// The number of its span.
    pub span: u64,
    /// Its context.
    pub context: Context,
}

/// What a worker notes of a task that it has taken.
#[derive(Debug, Clone, Copy)]
pub struct Taken {
    /// The node.
    pub node: u32,
    /// The worker's process.
    pub pid: u32,
    /// When it was put into the node's ring, in monotonic nanoseconds.
    pub queued_ns: u64,
    /// When the worker took it.
    pub taken_ns: u64,
}

/// A record, as it lies in the segment.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Record<'a> {
    pub(crate) head: &'a TraceHead,
    pub(crate) hops: &'a [HopLine],
}

/// Takes a record for a new trace, and writes its head; its number. `None` if there is none, or the requests of those
/// that were looked at are all in progress.
pub(crate) fn begin<'a>(
    ring: &TraceRing,
    records: u32,
    record: impl Fn(u32) -> Option<Record<'a>>,
    (request, generation): (u32, u16),
    start: &Start,
    is_over: impl Fn(u32, u16) -> bool,
) -> Option<NonZeroU64> {
    for _ in 0..TRIES.min(records) {
        let number = ring.next.fetch_add(1, Ordering::Relaxed); // Relaxed: numbers need only differ
        let record = record((number % u64::from(records)) as u32)?;
        let (busy, seq) = (number.wrapping_mul(2).wrapping_add(1), number.wrapping_mul(2).wrapping_add(2));
        if record.take(busy, &is_over) {
            crash_point!("trace.head_taken");
            record.write(request, generation, start);
            crash_point!("trace.head_written");
            record.head.seq.store(seq, Ordering::Release); // [whole]
            ring.kept.fetch_add(1, Ordering::Release); // [whole]
            return NonZeroU64::new(seq);
        }
    }
    None
}

/// The index of the record of the trace with this `seq`.
pub(crate) fn index_of(seq: u64, records: u32) -> Option<u32> {
    let number = seq.checked_sub(2)? / 2;
    (records > 0 && seq.is_multiple_of(2)).then(|| (number % u64::from(records)) as u32)
}

impl<'a> Record<'a> {
    fn take(self, busy: u64, is_over: impl Fn(u32, u16) -> bool) -> bool {
        let seq = self.head.seq.load(Ordering::Acquire); // [whole]
        if seq % 2 == 1 {
            return false;
        }
        let (request, generation, _) = unpacked(self.head.request.load(Ordering::Relaxed)); // Relaxed: [whole]
        if seq != 0 && !is_over(request, generation) {
            return false; // [one request]
        }
        // Acquire and release: of the callers that find it over, one takes it, with what the others saw.
        self.head.seq.compare_exchange(seq, busy, Ordering::AcqRel, Ordering::Relaxed).is_ok()
    }

    fn write(self, request: u32, generation: u16, start: &Start) {
        fence(Ordering::Release); // [torn]
        let head = self.head;
        let Context { trace_id, parent, flags } = start.context;
        let weight = start.weight.map_or(0, Weight::count);
        // Relaxed, all: [one request], [whole].
        head.request
            .store(u64::from(request) | u64::from(generation) << 32 | weight << 48, Ordering::Relaxed);
        head.trace_high.store((trace_id >> 64) as u64, Ordering::Relaxed);
        head.trace_low.store(trace_id as u64, Ordering::Relaxed);
        head.parent.store(parent, Ordering::Relaxed);
        head.flags.store(flags.into(), Ordering::Relaxed);
        head.span.store(start.span, Ordering::Relaxed);
        head.sent_ns.store(start.sent_ns, Ordering::Relaxed);
        head.told_ns.store(0, Ordering::Relaxed);
        head.end.store(0, Ordering::Relaxed);
        head.hops.store(0, Ordering::Relaxed);
    }

    /// Whether it is that of this trace.
    pub(crate) fn is_of(self, seq: u64) -> bool {
        self.head.seq.load(Ordering::Acquire) == seq // [whole]
    }

    /// A worker has taken a task of the request: begins a hop. Nothing is written if there is no room.
    pub(crate) fn begin_hop(self, seq: u64, slot: u32, owner: Token, attempt: u8, taken: &Taken) {
        let index = self.head.hops.fetch_add(1, Ordering::Relaxed); // Relaxed: numbers need only differ
        crash_point!("trace.hop_counted");
        let Some(hop) = usize::try_from(index).ok().and_then(|index| self.hops.get(index)) else { return };
        fence(Ordering::Release); // [torn]
        // Relaxed, all: [one request], [whole].
        hop.owner.store(u64::from(owner.raw()) | u64::from(taken.pid) << 32, Ordering::Relaxed);
        let at = u64::from(taken.node) | u64::from(slot) << 32 | u64::from(attempt) << 56;
        hop.at.store(at, Ordering::Relaxed);
        hop.queued_ns.store(taken.queued_ns, Ordering::Relaxed);
        hop.taken_ns.store(taken.taken_ns, Ordering::Relaxed);
        hop.begun_ns.store(0, Ordering::Relaxed);
        hop.ended_ns.store(0, Ordering::Relaxed);
        hop.end.store(0, Ordering::Relaxed);
        crash_point!("trace.hop_written");
        hop.seq.store(seq, Ordering::Release); // [whole]
        crash_point!("trace.hop_begun");
    }

    /// The hop that this owner of the task in this slot has begun last, if it has not ended.
    fn open_hop(self, seq: u64, slot: u32, owner: Token) -> Option<(u32, &'a HopLine)> {
        let found = self.hops.iter().enumerate().rev().find(|(_, hop)| {
            hop.seq.load(Ordering::Acquire) == seq // [whole]
                && hop.owner.load(Ordering::Relaxed) as u32 == owner.raw()
                && slot_of(hop.at.load(Ordering::Relaxed)) == slot
        });
        let (index, hop) = found?;
        (hop.ended_ns.load(Ordering::Relaxed) == 0).then_some((index as u32, hop))
    }

    /// User code begins.
    pub(crate) fn begin_run(self, seq: u64, slot: u32, owner: Token, now_ns: u64) {
        if let Some((_, hop)) = self.open_hop(seq, slot, owner) {
            hop.begun_ns.store(now_ns, Ordering::Release); // [torn]
        }
    }

    /// The owner's work on the task has ended: before it hands the task on, and so before the request is over (`[over]`).
    pub(crate) fn end_hop(self, seq: u64, slot: u32, owner: Token, now_ns: u64, end: HopEnd) {
        if let Some((_, hop)) = self.open_hop(seq, slot, owner) {
            hop.end.store(end.raw(), Ordering::Release); // [torn]
            crash_point!("trace.hop_ending");
            hop.ended_ns.store(now_ns.max(1), Ordering::Release); // [torn]; readers see how with when
        }
    }

    /// The number of the span of the hop that the owner of a task has begun; that of the request if it has none.
    pub(crate) fn span_here(self, seq: u64, slot: u32, owner: Token) -> u64 {
        let span = self.head.span.load(Ordering::Relaxed); // Relaxed: [whole]
        self.open_hop(seq, slot, owner).map_or(span, |(index, _)| span_of_hop(span, index))
    }

    /// The caller has its outcome, or goes.
    pub(crate) fn tell(self, now_ns: u64, end: RequestEnd) {
        if self.head.told_ns.load(Ordering::Relaxed) == 0 {
            self.head.end.store(end.raw(), Ordering::Release); // [torn]
            crash_point!("trace.telling");
            self.head.told_ns.store(now_ns.max(1), Ordering::Release); // [torn]; readers see how with when
        }
    }

    /// The trace in it now, if there is one and it can be read.
    pub(crate) fn look(self) -> Option<Trace> {
        (0..LOOKS).find_map(|_| self.look_once())
    }

    fn look_once(self) -> Option<Trace> {
        let head = self.head;
        let seq = head.seq.load(Ordering::Acquire); // [whole]
        if seq == 0 || seq % 2 == 1 {
            return None;
        }
        // Relaxed where no word is named: [torn].
        let of = |word: &HeaderU64| word.load(Ordering::Relaxed);
        let (request, generation, weight) = unpacked(head.request.load(Ordering::Relaxed));
        let context = Context {
            trace_id: u128::from(of(&head.trace_high)) << 64 | u128::from(of(&head.trace_low)),
            parent: of(&head.parent),
            flags: of(&head.flags) as u8,
        };
        let span = of(&head.span);
        let ended = |when: &AtomicU64, how: &HeaderU64| {
            let at_ns = when.load(Ordering::Acquire); // before how it ended
            (at_ns != 0).then(|| (at_ns, how.load(Ordering::Relaxed)))
        };
        let told = ended(&head.told_ns, &head.end)
            .map(|(at_ns, end)| (at_ns, RequestEnd::from_raw(end).unwrap_or(RequestEnd::Internal)));
        let begun = head.hops.load(Ordering::Acquire); // before the hops: those that begin meanwhile are not missing
        let hops: Vec<Hop> = (0..)
            .zip(self.hops)
            .filter(|(_, hop)| hop.seq.load(Ordering::Acquire) == seq) // [whole]
            .map(|(index, hop)| {
                let (at, begun_ns) = (of(&hop.at), of(&hop.begun_ns));
                let owner = hop.owner.load(Ordering::Relaxed); // as all
                let ended = ended(&hop.ended_ns, &hop.end);
                Hop {
                    index,
                    span: span_of_hop(span, index),
                    node: at as u32,
                    slot: slot_of(at),
                    attempt: (at >> 56) as u8,
                    worker: Token::from_raw(owner as u32),
                    pid: (owner >> 32) as u32,
                    queued_ns: of(&hop.queued_ns),
                    taken_ns: of(&hop.taken_ns),
                    begun_ns: (begun_ns != 0).then_some(begun_ns),
                    ended: ended.map(|(at_ns, end)| (at_ns, HopEnd::from_raw(end).unwrap_or(HopEnd::Failed))),
                }
            })
            .collect();
        let hops_missing = begun.saturating_sub(hops.len() as u64);
        let sent_ns = head.sent_ns.load(Ordering::Relaxed);
        fence(Ordering::Acquire); // [torn]
        let number = seq / 2 - 1;
        let trace =
            Trace { number, request, generation, weight, context, span, sent_ns, told, hops, hops_missing };
        (head.seq.load(Ordering::Relaxed) == seq).then_some(trace)
    }
}

/// Request, generation and weight.
fn unpacked(word: u64) -> (u32, u16, Option<Weight>) {
    let weight = word >> 48;
    (word as u32, (word >> 32) as u16, (weight != 0).then(|| Weight::of(weight)))
}

/// The slot in a hop's `at`.
fn slot_of(at: u64) -> u32 {
    (at >> 32) as u32 & 0xFF_FFFF
}

const _: () = assert!(crate::layout::TASKS_LIMIT <= 1 << 24);

/// A request that is, or was, traced. All times are in monotonic nanoseconds.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Trace {
    /// Its number among all traces of the segment, from 0, in the order in which they began.
    pub number: u64,
    /// The request's id.
    pub request: u32,
    /// Which use of that id it was.
    pub generation: u16,
    /// For how many requests it stands; `None`: it was traced because its caller asked for that.
    pub weight: Option<Weight>,
    /// Its context.
    pub context: Context,
    /// The number of its span.
    pub span: u64,
    /// When it was sent.
    pub sent_ns: u64,
    /// When its caller had its outcome, or went, and how it ended; `None`: not yet.
    pub told: Option<(u64, RequestEnd)>,
    /// The workers that took it, or a branch of it, in the order in which they did.
    pub hops: Vec<Hop>,
    /// How many hops are missing: there was no room for them, the worker died before it had written them, or it is just doing
    /// so.
    pub hops_missing: u64,
}

/// A worker's part of a request. All times are in monotonic nanoseconds.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Hop {
    /// Its number among the request's hops.
    pub index: u32,
    /// The number of its span.
    pub span: u64,
    /// The node.
    pub node: u32,
    /// The slot of the task: 0 is the request itself, others are branches.
    pub slot: u32,
    /// How many workers had died before while they worked on the task there.
    pub attempt: u8,
    /// The worker, or the thread of it; `None` if another process has written over that.
    pub worker: Option<Token>,
    /// The worker's process.
    pub pid: u32,
    /// When it was put into the node's ring, to 32 ns.
    pub queued_ns: u64,
    /// When the worker took it.
    pub taken_ns: u64,
    /// When user code began; `None`: not yet, or it never saw it.
    pub begun_ns: Option<u64>,
    /// When the worker's work ended, and how; `None`: not yet.
    pub ended: Option<(u64, HopEnd)>,
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    fn start(sent_ns: u64) -> Start {
        let context = Context { trace_id: 7 << 64 | 9, parent: 3, flags: 1 };
        Start { sent_ns, weight: Some(Weight::of(5)), span: 11, context }
    }

    fn taken(node: u32) -> Taken {
        Taken { node, pid: 4711, queued_ns: 64, taken_ns: 100 }
    }

    struct Memory {
        ring: TraceRing,
        heads: Vec<TraceHead>,
        hops: Vec<HopLine>,
    }

    impl Memory {
        fn new(records: usize, hops: usize) -> Self {
            let heads = (0..records).map(|_| TraceHead::new()).collect();
            Self {
                ring: TraceRing::new(),
                heads,
                hops: (0..records * hops).map(|_| HopLine::new()).collect(),
            }
        }

        fn record(&self, index: u32) -> Option<Record<'_>> {
            let (each, index) = (self.hops.len() / self.heads.len(), index as usize);
            Some(Record { head: self.heads.get(index)?, hops: &self.hops[index * each..][..each] })
        }

        fn begin(&self, request: u32, is_over: impl Fn(u32, u16) -> bool) -> Option<(u64, Record<'_>)> {
            let records = self.heads.len() as u32;
            let at = |index| self.record(index);
            let seq = begin(&self.ring, records, at, (request, 1), &start(50), is_over)?.get();
            Some((seq, self.record(index_of(seq, records)?)?))
        }
    }

    #[test]
    fn a_trace_has_what_each_of_its_owners_wrote() {
        let memory = Memory::new(2, 2);
        let (seq, record) = memory.begin(6, |_, _| true).unwrap();
        let (first, second) = (Token::new(1, 1), Token::new(2, 1));
        record.begin_hop(seq, 0, first, 0, &taken(0));
        record.begin_run(seq, 0, first, 110);
        record.end_hop(seq, 0, first, 120, HopEnd::Died);
        record.end_hop(seq, 0, first, 999, HopEnd::Answered); // has ended
        record.begin_hop(seq, 2, second, 1, &taken(3));
        record.end_hop(seq, 1, second, 130, HopEnd::Answered); // of another slot
        record.begin_hop(seq, 0, first, 2, &taken(1)); // for which there is no room
        record.tell(140, RequestEnd::Worker);
        record.tell(150, RequestEnd::Timeout);
        let trace = record.look().unwrap();
        assert_eq!((trace.number, trace.request, trace.generation, trace.sent_ns), (0, 6, 1, 50));
        assert_eq!(
            (trace.weight.map(Weight::count), trace.context, trace.span),
            (Some(5), start(0).context, 11)
        );
        assert_eq!((trace.told, trace.hops_missing), (Some((140, RequestEnd::Worker)), 1));
        let [one, two] = &trace.hops[..] else { panic!("{trace:?}") };
        assert_eq!((one.node, one.slot, one.attempt, one.worker, one.pid), (0, 0, 0, Some(first), 4711));
        assert_eq!((one.queued_ns, one.taken_ns, one.begun_ns), (64, 100, Some(110)));
        assert_eq!(one.ended, Some((120, HopEnd::Died)));
        assert_eq!((two.node, two.slot, two.attempt, two.worker), (3, 2, 1, Some(second)));
        assert_eq!((two.begun_ns, two.ended), (None, None));
        assert_eq!(record.span_here(seq, 2, second), two.span);
        assert_eq!(record.span_here(seq, 0, first), 11, "its hop has ended");
    }

    #[test]
    fn a_record_is_used_again_only_when_its_request_is_over() {
        let memory = Memory::new(2, 2);
        let (first, record) = memory.begin(0, |_, _| false).unwrap();
        record.begin_hop(first, 0, Token::SERVER, 0, &taken(0));
        let (second, _) = memory.begin(1, |_, _| false).unwrap();
        assert!(memory.begin(2, |_, _| false).is_none(), "both are in progress");
        let (third, record) = memory.begin(3, |request, _| request == 0).unwrap();
        assert_eq!((index_of(first, 2), index_of(second, 2)), (Some(0), Some(1)));
        assert_eq!(index_of(third, 2), Some(0));
        let trace = record.look().unwrap();
        assert_eq!((trace.request, trace.hops.len(), trace.told), (3, 0, None));
        record.end_hop(first, 0, Token::SERVER, 9, HopEnd::Answered);
        assert!(
            record.hops[0].ended_ns.load(Ordering::Relaxed) == 9 && record.look().unwrap().hops.is_empty()
        );
        assert_eq!(memory.ring.kept.load(Ordering::Relaxed), 3);
    }

    #[test]
    fn a_record_that_is_being_written_is_not_read() {
        let memory = Memory::new(1, 2);
        assert!(memory.record(0).unwrap().look().is_none(), "it was never used");
        let (seq, record) = memory.begin(0, |_, _| true).unwrap();
        record.head.seq.store(seq + 1, Ordering::Relaxed);
        assert!(record.look().is_none());
        assert!(memory.begin(0, |_, _| true).is_none(), "its caller writes it");
    }

    #[test]
    fn ends_are_numbers_and_names() {
        for end in RequestEnd::ALL {
            assert_eq!(RequestEnd::from_raw(end.raw()), Some(end));
        }
        let names: BTreeSet<_> = HopEnd::ALL.iter().map(|end| end.name()).collect();
        assert_eq!(names.len(), HopEnd::ALL.len());
        assert_eq!((HopEnd::from_raw(0), HopEnd::from_raw(u64::MAX)), (None, None));
    }

    #[test]
    fn each_hop_has_a_span_of_its_own() {
        let spans: BTreeSet<u64> = (0..1_000).map(|index| span_of_hop(3, index)).collect();
        assert_eq!(spans.len(), 1_000);
        assert!(!spans.contains(&0) && !spans.contains(&3));
    }
}
