//! The byte layout of a segment: the offset and size of each part.
//!
//! # Layout
//!
//! ```text
//! 0        header           one page: identity, shape, run state, the two server-wide bells
//! 4096     control          one page: what other processes ask, and the answers
//!          participants     one entry each: identity │ bell │ cpus │ counters │ boot message
//!          histograms       of each worker's row
//!          callers          64 rows of the server's, then 4 of each client: counters │ histograms
//!          client lines     two bells of the server's process, then of each client
//!          server counters  one line
//!          service          one line: types of inputs and outcomes, where requests enter
//!          node descriptors names and numbers of the plan's nodes, written once
//!          node lines       one each: tail │ head │ habit │ reader lock │ doorbell
//!          ring cells       8 bytes each, the same number for every node
//!          tasks            128 bytes each: word, payload reference, in-line buffer
//!          block owners     8 bytes each, class by class
//!          blobs            names, type names, configurations: written once
//!          partials         two lines a request, then its slots; only where the shape has any
//!          traces           a line, then a line and some hops for each of the last traces; only where the shape has any
//!          blocks           page-aligned, class by class
//! ```
//!
//! Every offset follows from the [`Shape`], and the shape is in the header: an attacher computes the offsets anew and
//! never believes one it read. Lines that different parties write are 128 bytes apart: two cache lines, because several
//! CPUs fetch them in pairs. What lies there is declared by `in_segment!`, so that every field is part of the
//! fingerprint.
//!
//! In a segment whose blocks are in several parts, one for each of several NUMA nodes, histograms, node lines and the cells
//! of each ring begin at pages of their own, since a page lies on one node (`segment::memory`).

use crate::doorbell::WORKER_LIMIT;
use crate::fields::{FNV_START, InSegment, in_segment, with_byte};
use crate::stats::{CALLER_ROWS, CLIENT_ROWS, CallerStats, ServerCounters, WorkerHistograms};
use crate::sync::{AtomicU32, AtomicU64, HeaderU32, HeaderU64, PayloadCell};
use crate::sys::numa::NODE_LIMIT as NUMA_NODE_LIMIT;
use crate::token::Token;
use crate::watch::Watch;
use crate::word::Word;
use crate::{control, doorbell, participant};
use core::mem::size_of;
use core::ops::Range;

/// "ringmill", read as little-endian bytes.
pub(crate) const MAGIC: u64 = u64::from_le_bytes(*b"ringmill");
/// For users, and for what no field of a struct says: changes with every change of the layout or of its meaning.
pub const LAYOUT_VERSION: u32 = 7;
/// The distance between lines that different parties write.
pub const LINE: usize = 128;
/// A page: the header's size and the alignment of block classes.
pub(crate) const PAGE: usize = 4096;
/// In the owner word of a block: its pages are reserved. It stays with the block whoever owns it.
pub(crate) const BACKED: u64 = 1 << 62;
/// How many size classes a segment can have.
pub const CLASS_LIMIT: usize = 8;
/// How many nodes a plan can have; `arena::At` has eight bits for one.
pub const NODE_LIMIT: u32 = 256;
/// How many requests a segment can have: a block's owner word has 32 bits for a task, and rings twice
/// that many cells.
pub const REQUEST_LIMIT: u32 = 1 << 24;
/// How many tasks a request can have: itself and its branches.
pub const TASKS_LIMIT: u32 = 1 << 12;
/// How many blocks a class can have: a handle has two bits to spare, see `arena::held`.
const BLOCKS_LIMIT: u64 = (1 << 27) - 1;
/// The largest payload, 2 GiB: a task's line has 32 bits for its length, and its readers address within it by signed
/// numbers of that width.
pub const PAYLOAD_LIMIT: u64 = 1 << 31;
/// How many forks, and how many switches, a plan can have.
pub(crate) const JUNCTION_LIMIT: u32 = 1 << 12;
/// How many items a batch can have.
pub const BATCH_SIZE_LIMIT: u32 = 1 << 20;
/// The longest wait of a batch: an hour.
pub const BATCH_WAIT_LIMIT_NS: u64 = 3_600_000_000_000;
/// Payloads begin at multiples of this; what rkyv can need at most.
pub const PAYLOAD_ALIGN: usize = 16;

/// The most traces that a segment can keep.
pub const TRACES_LIMIT: u32 = 1 << 16;
/// The most hops of a trace that a segment can keep.
pub const HOPS_LIMIT: u32 = 64;

/// The most partials of a request that its caller has not taken.
pub const SLOTS_LIMIT: u32 = 1 << 16;
/// The most bytes of a partial.
pub const PARTIAL_BYTES_LIMIT: u32 = 1 << 20;

/// Bytes of a slot before the partial.
pub(crate) const SLOT_HEADER_BYTES: usize = PAYLOAD_ALIGN;

in_segment! {
    /// One size class of payload blocks.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
    pub struct Class {
        /// Size of each block, a multiple of [`LINE`].
        pub block_bytes: u64,
        /// How many there are.
        pub count: u64,
    }
}

in_segment! {
    /// The numbers that a segment's layout follows from.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
    pub struct Shape {
        /// Rows of the participant table.
        pub participants: u32,
        /// Nodes of the plan, one ring each.
        pub nodes: u32,
        /// Rows of client processes, at the end of the participant table.
        pub clients: u32,
        /// Requests that can be in progress: the server's own, then those of each client.
        pub requests: u32,
        /// Requests of each client.
        pub client_requests: u32,
        /// Tasks of each: itself and its branches.
        pub tasks_per_request: u32,
        /// Forks of the plan.
        pub forks: u32,
        /// Switches of the plan.
        pub switches: u32,
        /// The ring of partials of each request.
        pub partials: PartialRings,
        /// How many traces are kept; 0: none.
        pub traces: u32,
        /// Into how many parts the blocks of each class are divided, each for a NUMA node; 0: they are not.
        pub memory_parts: u32,
        /// Bytes for names, type names and configurations.
        pub blob_bytes: u64,
        /// How many of `classes` are used; ascending by size.
        pub class_count: u64,
        /// Size classes.
        pub classes: [Class; CLASS_LIMIT],
    }
}

/// A shape that no segment can have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{what} is {value}, must be in {least}..={most}")]
pub struct ShapeError {
    /// Which number is off.
    pub what: &'static str,
    /// Its value.
    pub value: u64,
    /// The least allowed.
    pub least: u64,
    /// The most allowed.
    pub most: u64,
}

pub(crate) fn within(what: &'static str, value: u64, least: u64, most: u64) -> Result<(), ShapeError> {
    if (least..=most).contains(&value) { Ok(()) } else { Err(ShapeError { what, value, least, most }) }
}

impl Shape {
    /// Requests of the server's own process.
    #[must_use]
    pub fn own_requests(&self) -> u32 {
        // In range by `check`; a shape that was not checked has none.
        self.requests.saturating_sub(self.clients.saturating_mul(self.client_requests))
    }

    /// The requests of a client; 0 is the server's own process, 1 the first client's row.
    #[must_use]
    pub fn requests_of(&self, client: u32) -> Range<u32> {
        let own = self.own_requests();
        match client.checked_sub(1) {
            None => 0..own,
            Some(row) if row < self.clients => {
                own + row * self.client_requests..own + (row + 1) * self.client_requests
            }
            Some(_) => 0..0,
        }
    }

    /// Whose request this is: see [`requests_of`](Self::requests_of).
    #[inline]
    #[must_use]
    pub fn client_of(&self, request: u32) -> u32 {
        match request.checked_sub(self.own_requests()) {
            Some(of_clients) if self.clients > 0 => 1 + of_clients / self.client_requests.max(1),
            _ => 0,
        }
    }

    /// The row of the first client in the participant table; that of the others follow.
    #[must_use]
    pub fn first_client_row(&self) -> u32 {
        self.participants.saturating_sub(self.clients)
    }

    /// Task ids in all, with unused ones.
    #[must_use]
    pub fn tasks(&self) -> u32 {
        match self.branches() {
            0 => self.requests,
            _ => self.requests + (self.requests << self.branch_bits()),
        }
    }

    /// How many bits of a branch's number name it within its request.
    fn branch_bits(&self) -> u32 {
        (self.branches().max(1) - 1).checked_ilog2().map_or(0, |bits| bits + 1)
    }

    /// Branches of each request.
    #[inline]
    #[must_use]
    pub fn branches(&self) -> u32 {
        self.tasks_per_request - 1
    }

    /// Cells of each ring: at most one task of each request is in a ring, and at most once (`plan`), so a ring of the
    /// next power of two *above* the number of requests is never full.
    #[must_use]
    pub(crate) fn ring_cells(&self) -> u64 {
        (u64::from(self.requests) + 1).next_power_of_two()
    }

    /// Words of pending bits of each request: whole lines.
    pub(crate) fn pending_words(&self) -> u64 {
        u64::from(self.branches()).div_ceil(64).next_multiple_of(LINE as u64 / 8)
    }

    /// Words of the completions set: a bit a request, in words of each client's own.
    pub(crate) fn completion_words(&self) -> u64 {
        let of_clients = u64::from(self.client_requests.div_ceil(64)) * u64::from(self.clients);
        u64::from(self.own_requests().div_ceil(64)) + of_clients
    }

    /// The words of a client's bits of the completions set.
    pub(crate) fn completions_of(&self, client: u32) -> Range<usize> {
        let (own, each) = (self.own_requests().div_ceil(64), self.client_requests.div_ceil(64));
        match client.checked_sub(1) {
            None => 0..own as usize,
            Some(row) => (own + row * each) as usize..(own + (row + 1) * each) as usize,
        }
    }

    /// For how many hops of a trace there is room: as many as the plan has nodes, and some for retries; whole lines.
    #[must_use]
    pub fn trace_hops(&self) -> u32 {
        (self.nodes.saturating_add(2)).next_multiple_of(2).min(HOPS_LIMIT)
    }

    /// The size classes in use.
    #[must_use]
    pub fn classes(&self) -> &[Class] {
        &self.classes[..(self.class_count as usize).min(CLASS_LIMIT)]
    }

    /// The blocks of one part among the `count` blocks of a class; none if there is no such part.
    #[must_use]
    pub fn blocks_of_part(&self, part: u32, count: u64) -> Range<u64> {
        let (part, parts) = (u64::from(part), u64::from(self.memory_parts.max(1)));
        if part < parts { count * part / parts..count * (part + 1) / parts } else { 0..0 }
    }

    /// The size of the largest payload.
    #[must_use]
    pub fn largest_payload(&self) -> u64 {
        self.classes().last().map_or(INLINE_BYTES as u64, |c| c.block_bytes)
    }

    fn check(&self) -> Result<(), ShapeError> {
        within("number of participants", self.participants.into(), 1, Token::INDEX_LIMIT.into())?;
        within("number of clients", self.clients.into(), 0, u64::from(self.participants) - 1)?;
        within("number of nodes", self.nodes.into(), 1, NODE_LIMIT.into())?;
        within("capacity", self.requests.into(), 1, REQUEST_LIMIT.into())?;
        if self.clients > 0 {
            // At least one is the server's own.
            let most = u64::from(self.requests - 1) / u64::from(self.clients);
            within("requests of a client", self.client_requests.into(), 1, most)?;
        }
        within("number of tasks a request", self.tasks_per_request.into(), 1, TASKS_LIMIT.into())?;
        within("number of forks", self.forks.into(), 0, JUNCTION_LIMIT.into())?;
        within("number of switches", self.switches.into(), 0, JUNCTION_LIMIT.into())?;
        within(
            "capacity times tasks of a request (itself and its branches, rounded up to a power of two)",
            u64::from(self.requests) * u64::from(self.tasks_per_request.next_power_of_two()),
            1,
            u64::from(REQUEST_LIMIT),
        )?;
        within("bytes of names and configurations", self.blob_bytes, 0, 1 << 32)?;
        within("number of size classes", self.class_count, 0, CLASS_LIMIT as u64)?;
        let PartialRings { slots, bytes } = self.partials;
        within("number of partials of a request", slots.into(), 0, SLOTS_LIMIT.into())?;
        within("bytes of a partial", bytes.into(), 0, PARTIAL_BYTES_LIMIT.into())?;
        within("number of traces", self.traces.into(), 0, TRACES_LIMIT.into())?;
        within("number of parts of the blocks", self.memory_parts.into(), 0, NUMA_NODE_LIMIT as u64)?;
        let mut least = INLINE_BYTES as u64 + 1;
        for class in self.classes() {
            within("block size of a class", class.block_bytes, least, PAYLOAD_LIMIT)?;
            within("block size of a class modulo the line size", class.block_bytes % LINE as u64, 0, 0)?;
            within("number of blocks of a class", class.count, 1, BLOCKS_LIMIT)?;
            least = class.block_bytes + 1;
        }
        Ok(())
    }
}

in_segment! {
    /// The header page. All but the atomics is written once, before `magic`.
    #[repr(align(4096))]
    #[derive(Debug)]
    pub(crate) struct Header {
        pub(crate) magic: AtomicU64,
        pub(crate) version: u32,
        pub(crate) pad: u32,
        pub(crate) fingerprint: u64,
        pub(crate) total_bytes: u64,
        pub(crate) shape: Shape,
        pub(crate) payload_format: u64,
        /// The number of the lease's file.
        pub(crate) lease_number: u64,
        pub(crate) created_unix_s: u64,
        pub(crate) user_id: u32,
        pub(crate) name_len: u32,
        pub(crate) name: [u8; NAME_LIMIT],
        /// Line of its own: rarely written, read by all.
        pub(crate) run: RunLine,
        /// Line of its own: workers ring it when they are ready or have failed.
        pub(crate) startup: BellLine,
    }
}

in_segment! {
    /// The bells of a process that has requests.
    #[derive(Debug)]
    pub(crate) struct ClientLines {
        /// Line of its own: rung when one of its permits comes free and a thread waits for one.
        pub(crate) freed: BellLine,
        /// Line of its own: rung when one of its bits of the completions set is set and a thread waits for that.
        pub(crate) completed: BellLine,
    }
}

/// What a segment says of its server as a whole, for clients: written once.
pub(crate) const SERVICES: u64 = 1;

in_segment! {
    /// What clients of the server send and get, and where their requests enter.
    #[derive(Debug, Clone, Copy, Default)]
    pub(crate) struct ServiceDescriptor {
        pub(crate) input_type: Extent,
        pub(crate) outcome_type: Extent,
        /// Differs if the types do, as far as the engine can tell.
        pub(crate) type_hash: u64,
        /// A raw [`Target`](crate::plan::Target).
        pub(crate) entry: u32,
        pub(crate) pad: u32,
    }
}

in_segment! {
    #[repr(align(128))]
    #[derive(Debug)]
    pub(crate) struct RunLine {
        pub(crate) state: AtomicU32,
        /// A [`Gate`](crate::segment::Gate).
        pub(crate) gate: AtomicU32,
        /// See [`Segment::timed_every`](crate::segment::Segment::timed_every).
        pub(crate) timed_every: AtomicU32,
        /// See [`Segment::to_prefault`](crate::segment::Segment::to_prefault).
        pub(crate) prefault: AtomicU32,
    }
}

in_segment! {
    #[repr(align(128))]
    #[derive(Debug)]
    pub(crate) struct BellLine {
        pub(crate) count: AtomicU32,
        pub(crate) waiters: AtomicU32,
    }
}

/// The longest name of a segment.
pub(crate) const NAME_LIMIT: usize = 64;

in_segment! {
    /// The numbers of a node, which its workers read: the same struct in the plan and in the segment. Fields that
    /// reports show in another form are not serialised.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
    pub struct NodeFacts {
        /// Differs if the payloads of the worker's type do.
        #[serde(skip)]
        pub type_hash: u64,
        /// How long the oldest item of a batch may wait at most.
        pub batch_wait_ns: u64,
        /// After how many batches a worker logs how large they were; 0: never.
        pub log_batches_every: u64,
        /// 0: item by item; n: batches of up to n.
        pub batch_size: u32,
        /// How many threads each worker has, at least one.
        pub threads: u32,
        /// Its workers write outcomes beside inputs, so that another worker can retry after a death.
        #[serde(skip)]
        pub keeps_inputs: Flag,
        /// Its readers put only tasks of one group into a batch, see [`At::To`](crate::arena::At::To).
        #[serde(skip)]
        pub keeps_apart: Flag,
        /// Its workers wait for `batch_wait_ns`; otherwise only while waiting can pay.
        pub wait_is_stated: Flag,
        /// Its workers state their batches and how many of their threads work; the numbers here are what they may state at
        /// most. Tasks for it always say when they are enqueued.
        #[serde(skip)]
        pub terms_by_worker: Flag,
    }
}

/// Item by item, by workers of one thread each.
impl Default for NodeFacts {
    fn default() -> Self {
        Self {
            type_hash: 0,
            batch_wait_ns: 0,
            log_batches_every: 0,
            batch_size: 0,
            threads: 1,
            keeps_inputs: Flag::default(),
            keeps_apart: Flag::default(),
            wait_is_stated: Flag::default(),
            terms_by_worker: Flag::default(),
        }
    }
}

impl NodeFacts {
    /// Whether a task for the node says when it is enqueued, also if it is not timed.
    #[inline]
    #[must_use]
    pub fn needs_times(&self) -> bool {
        self.batch_wait_ns != 0 || self.terms_by_worker.is_set()
    }

    /// Whether a node can have these numbers.
    pub(crate) fn check(&self) -> Result<(), ShapeError> {
        within("batch size", self.batch_size.into(), 0, BATCH_SIZE_LIMIT.into())?;
        within("nanoseconds of a batch's wait", self.batch_wait_ns, 0, BATCH_WAIT_LIMIT_NS)?;
        within("number of threads of a worker", self.threads.into(), 1, WORKER_LIMIT as u64)
    }
}

in_segment! {
    /// A boolean in a segment, where any bytes are a value: 0 is false.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
    pub struct Flag(u32);
}

impl Flag {
    /// Whether it is true.
    #[must_use]
    pub fn is_set(self) -> bool {
        self.0 != 0
    }
}

impl serde::Serialize for Flag {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bool(self.is_set())
    }
}

impl From<bool> for Flag {
    fn from(yes: bool) -> Self {
        Self(yes.into())
    }
}

in_segment! {
    /// A descriptor of a node, written once; strings and configuration are extents of the blobs.
    #[derive(Debug, Clone, Copy, Default)]
    pub(crate) struct NodeDescriptor {
        pub(crate) name: Extent,
        pub(crate) worker_type: Extent,
        pub(crate) input_type: Extent,
        pub(crate) outcome_type: Extent,
        pub(crate) config: Extent,
        pub(crate) facts: NodeFacts,
        pub(crate) first_participant: u32,
        /// Rows of its workers, one for each thread.
        pub(crate) rows: u32,
        /// A raw [`Target`](crate::plan::Target).
        pub(crate) next: u32,
        /// Its workers are threads of the server's process.
        pub(crate) in_threads: Flag,
        /// The part of the blocks that is nearest to its workers, plus one; 0: none is to all of them.
        pub(crate) memory_part: u32,
        pub(crate) pad: u32,
    }
}

in_segment! {
    /// A descriptor of a fork, written once; see [`Fork`](crate::plan::Fork).
    #[derive(Debug, Clone, Copy, Default)]
    pub(crate) struct ForkDescriptor {
        pub(crate) name: Extent,
        pub(crate) members: Extent,
        pub(crate) fail_fast: Flag,
        pub(crate) form: u32,
        pub(crate) parent: u32,
        pub(crate) first: u32,
        pub(crate) end: u32,
        pub(crate) next: u32,
    }
}

in_segment! {
    /// A descriptor of a switch, written once; see [`Switch`](crate::plan::Switch).
    #[derive(Debug, Clone, Copy, Default)]
    pub(crate) struct SwitchDescriptor {
        pub(crate) name: Extent,
        pub(crate) members: Extent,
        pub(crate) node: u64,
    }
}

in_segment! {
    /// Times of a request, in monotonic nanoseconds: written by its client only, where they are used.
    #[derive(Debug, Default)]
    pub(crate) struct Times {
        /// Its deadline; valid only if its word has DEADLINE set.
        pub(crate) deadline_ns: HeaderU64,
        /// Since when it is in progress; the low 16 bits name the generation. 0 if no client ever read a clock.
        pub(crate) begun_ns: HeaderU64,
        /// When it was sent; valid only if its stamp says that it is timed.
        pub(crate) sent_ns: HeaderU64,
        /// The trace: its record's `seq`, or 0 if it has no record. This and the rest is valid only if its stamp says that
        /// it is traced.
        pub(crate) trace: HeaderU64,
        pub(crate) trace_high: HeaderU64,
        pub(crate) trace_low: HeaderU64,
        /// The span from which it was sent; 0: none.
        pub(crate) parent: HeaderU64,
        pub(crate) trace_flags: HeaderU64,
    }
}

in_segment! {
    /// See [`trace`](crate::trace), as for all of a trace.
    #[repr(align(128))]
    #[derive(Debug)]
    pub(crate) struct TraceRing {
        pub(crate) next: AtomicU64,
        /// How many traces have a record, or had one.
        pub(crate) kept: AtomicU64,
    }
}

in_segment! {
    /// The first line of a record. Of words that are written and read in one way loom watches one, so that scenes stay
    /// small.
    #[repr(align(128))]
    #[derive(Debug)]
    pub(crate) struct TraceHead {
        pub(crate) seq: AtomicU64,
        /// Its id, from bit 32 on its generation, from bit 48 on its weight (0: none).
        pub(crate) request: AtomicU64,
        pub(crate) trace_high: HeaderU64,
        pub(crate) trace_low: HeaderU64,
        pub(crate) parent: HeaderU64,
        pub(crate) flags: HeaderU64,
        pub(crate) span: HeaderU64,
        pub(crate) sent_ns: AtomicU64,
        /// 0: not yet.
        pub(crate) told_ns: AtomicU64,
        pub(crate) end: HeaderU64,
        /// How many hops have begun.
        pub(crate) hops: AtomicU64,
    }
}

in_segment! {
    /// A hop of a trace.
    #[repr(align(64))]
    #[derive(Debug)]
    pub(crate) struct HopLine {
        pub(crate) seq: AtomicU64,
        /// The worker's token, and from bit 32 on its process.
        pub(crate) owner: AtomicU64,
        /// The node, from bit 32 on the task's slot, from bit 56 on the attempt.
        pub(crate) at: HeaderU64,
        pub(crate) queued_ns: HeaderU64,
        pub(crate) taken_ns: HeaderU64,
        /// 0: not yet, as below.
        pub(crate) begun_ns: HeaderU64,
        pub(crate) ended_ns: AtomicU64,
        pub(crate) end: HeaderU64,
    }
}

/// On the heap, for tests and models.
#[cfg(any(test, loom))]
mod traces_on_the_heap {
    use super::{AtomicU64, HeaderU64, HopLine, TraceHead, TraceRing};

    fn zero() -> AtomicU64 {
        AtomicU64::new(0)
    }

    impl TraceRing {
        pub(crate) fn new() -> Self {
            Self { next: zero(), kept: zero() }
        }
    }

    impl TraceHead {
        pub(crate) fn new() -> Self {
            Self {
                seq: zero(),
                request: zero(),
                trace_high: HeaderU64::default(),
                trace_low: HeaderU64::default(),
                parent: HeaderU64::default(),
                flags: HeaderU64::default(),
                span: HeaderU64::default(),
                sent_ns: zero(),
                told_ns: zero(),
                end: HeaderU64::default(),
                hops: zero(),
            }
        }
    }

    impl HopLine {
        pub(crate) fn new() -> Self {
            Self {
                seq: zero(),
                owner: zero(),
                at: HeaderU64::default(),
                queued_ns: HeaderU64::default(),
                taken_ns: HeaderU64::default(),
                begun_ns: HeaderU64::default(),
                ended_ns: zero(),
                end: HeaderU64::default(),
            }
        }
    }
}

in_segment! {
    /// The words of a request's ring of partials, see `arena::partials`.
    #[derive(Debug)]
    pub(crate) struct PartialLines {
        pub(crate) written: WrittenLine,
        pub(crate) taken: TakenLine,
    }
}

in_segment! {
    #[repr(align(128))]
    #[derive(Debug)]
    pub(crate) struct WrittenLine {
        /// The node that wrote the last partial, in the upper half, and the count of partials ever written.
        pub(crate) last: AtomicU64,
        /// 1: the writer sleeps on `taken`, or is about to.
        pub(crate) sleeps: AtomicU32,
    }
}

in_segment! {
    #[repr(align(128))]
    #[derive(Debug)]
    pub(crate) struct TakenLine {
        pub(crate) count: AtomicU32,
        pub(crate) generation: HeaderU32,
    }
}

impl PartialLines {
    #[cfg(loom)]
    pub(crate) fn new() -> Self {
        let zero = || AtomicU32::new(0);
        Self {
            written: WrittenLine { last: AtomicU64::new(0), sleeps: zero() },
            taken: TakenLine { count: zero(), generation: HeaderU32::default() },
        }
    }
}

in_segment! {
    /// How a segment's rings of partials are made; none by default.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
    pub struct PartialRings {
        /// Slots of each request: how many partials its caller may be behind; 0: none.
        pub slots: u32,
        /// Bytes of the largest partial.
        pub bytes: u32,
    }
}

impl PartialRings {
    /// Bytes of a slot: whole lines, since two sides use neighbours.
    pub(crate) fn slot_bytes(self) -> u64 {
        (SLOT_HEADER_BYTES as u64 + u64::from(self.bytes)).next_multiple_of(LINE as u64)
    }
}

in_segment! {
    /// A range of bytes within the blobs.
    #[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
    pub(crate) struct Extent {
        pub(crate) offset: u64,
        pub(crate) bytes: u64,
    }
}

in_segment! {
    /// The lines of a node that change.
    #[derive(Debug)]
    pub(crate) struct NodeLines {
        pub(crate) tail: U64Line,
        pub(crate) head: U64Line,
        /// See [`Node::habit`](crate::segment::Node::habit). Callers read it with each request, and the lock holder
        /// writes it seldom.
        pub(crate) habit: U64Line,
        pub(crate) lock: LockLine,
        /// Which tenure of the lock the supervisor sees, see [`Node::see_lock`](crate::segment::Node::see_lock).
        pub(crate) watch: Watch,
        pub(crate) doorbell: doorbell::Line,
    }
}

in_segment! {
    #[repr(align(128))]
    #[derive(Debug)]
    pub(crate) struct U64Line(pub(crate) AtomicU64);
}

in_segment! {
    #[repr(align(128))]
    #[derive(Debug)]
    pub(crate) struct LockLine(pub(crate) AtomicU32);
}

/// Bytes of a task before its in-line buffer.
const TASK_HEADER_BYTES: usize = 32;
/// The largest payload that needs no block.
pub const INLINE_BYTES: usize = LINE - TASK_HEADER_BYTES;

in_segment! {
    /// A task: one line.
    ///
    /// ```text
    /// 0   word      state and owner                          everyone, by `word`'s rules
    /// 8   length    bytes of the payload; one word with ↓    its owner, as all below
    /// 12  block     0 = in line; the payload's block + 1; or bit 31 and the slot of the task that has it;
    ///               bit 30: it is an outcome that was written beside the input
    /// 16  stamp     when it was enqueued, and whether it is timed: see `stats::Stamp`
    /// 24  second    0, or another block of the task + 1; of a payload elsewhere: its block + 1, 0 = in line
    /// 28  at        where it is, or was last: see `arena::At`
    /// 32  in-line buffer
    /// ```
    #[repr(align(128))]
    #[derive(Debug)]
    pub(crate) struct TaskLine {
        pub(crate) word: Word,
        pub(crate) payload: HeaderU64,
        pub(crate) stamp: HeaderU64,
        pub(crate) second: HeaderU32,
        pub(crate) at: AtomicU32,
        pub(crate) inline: PayloadCell<INLINE_BYTES>,
    }
}

#[cfg(loom)]
impl TaskLine {
    /// A task that is FREE.
    pub(crate) fn new() -> Self {
        Self {
            word: Word::new(crate::word::State::from_raw(0)),
            payload: HeaderU64::default(),
            stamp: HeaderU64::default(),
            second: HeaderU32::default(),
            at: AtomicU32::new(0),
            inline: PayloadCell::new(),
        }
    }
}

#[cfg(not(loom))] // whose atomics are larger
const _: () = {
    assert!(size_of::<Header>() == PAGE && size_of::<control::Page>() == PAGE);
    assert!(size_of::<TaskLine>() == LINE && core::mem::align_of::<TaskLine>() == LINE);
    assert!(core::mem::offset_of!(TaskLine, inline) == TASK_HEADER_BYTES);
    assert!(TASK_HEADER_BYTES.is_multiple_of(PAYLOAD_ALIGN));
    assert!(size_of::<NodeLines>() == 6 * LINE);
    assert!(size_of::<NodeDescriptor>().is_multiple_of(8));
    assert!(size_of::<ForkDescriptor>().is_multiple_of(8));
    assert!(LINE.is_multiple_of(size_of::<Times>()));
    assert!(size_of::<TraceHead>() == LINE && 2 * size_of::<HopLine>() == LINE);
    assert!(LINE.is_multiple_of(PAYLOAD_ALIGN) && PAGE.is_multiple_of(LINE));
};

/// The offsets of all sections.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Layout {
    pub(crate) shape: Shape,
    pub(crate) control: usize,
    pub(crate) participants: usize,
    pub(crate) histograms: usize,
    pub(crate) callers: usize,
    pub(crate) client_lines: usize,
    pub(crate) server_counters: usize,
    pub(crate) service: usize,
    pub(crate) node_descriptors: usize,
    pub(crate) forks: usize,
    pub(crate) switches: usize,
    pub(crate) node_lines: usize,
    pub(crate) ring_cells: usize,
    /// Bytes from one to the next.
    pub(crate) histograms_stride: usize,
    pub(crate) lines_stride: usize,
    pub(crate) cells_stride: usize,
    /// How many each ring has.
    pub(crate) cells_per_ring: usize,
    pub(crate) times: usize,
    pub(crate) completions: usize,
    pub(crate) pending: usize,
    pub(crate) tasks: usize,
    /// How many tasks: kept, because every look at a task needs it; as what follows from it for branches.
    pub(crate) task_count: u32,
    branch_bits: u32,
    pending_stride: usize,
    pending_words: usize,
    pub(crate) block_owners: [usize; CLASS_LIMIT],
    pub(crate) blobs: usize,
    pub(crate) partial_rings: usize,
    pub(crate) partial_slots: usize,
    pub(crate) trace_ring: usize,
    pub(crate) trace_heads: usize,
    pub(crate) trace_hops: usize,
    pub(crate) blocks: [usize; CLASS_LIMIT],
    pub(crate) total_bytes: usize,
}

impl Layout {
    /// The layout of a shape.
    ///
    /// # Errors
    /// The first number of the shape that is out of range.
    pub(crate) fn new(shape: &Shape) -> Result<Self, ShapeError> {
        shape.check()?;
        let mut end = PAGE as u64;
        // The ranges of `check` keep all of this below 2^72; where it saturates, the check of the total refuses it.
        let mut take = |count: u64, bytes: usize, align: usize| {
            let start = end.next_multiple_of(align as u64);
            end = start.saturating_add(count.saturating_mul(bytes as u64)).min(1 << 62);
            start as usize
        };
        let control = take(1, size_of::<control::Page>(), PAGE);
        let participants = take(shape.participants.into(), size_of::<participant::Entry>(), LINE);
        let workers = u64::from(shape.first_client_row().saturating_sub(1));
        // What belongs to one node or worker, where that may lie on a NUMA node of its own.
        let (align, stride): (usize, fn(usize) -> usize) = match shape.memory_parts {
            0 => (LINE, |bytes| bytes),
            _ => (PAGE, |bytes| bytes.next_multiple_of(PAGE)),
        };
        let histograms_stride = stride(size_of::<WorkerHistograms>());
        let histograms = take(workers, histograms_stride, align);
        let rows = u64::from(CALLER_ROWS) + u64::from(shape.clients) * u64::from(CLIENT_ROWS);
        let callers = take(rows, size_of::<CallerStats>(), LINE);
        let client_lines = take(u64::from(shape.clients) + 1, size_of::<ClientLines>(), LINE);
        let server_counters = take(1, size_of::<ServerCounters>(), LINE);
        let service = take(SERVICES, size_of::<ServiceDescriptor>(), LINE);
        let node_descriptors = take(shape.nodes.into(), size_of::<NodeDescriptor>(), LINE);
        let forks = take(shape.forks.into(), size_of::<ForkDescriptor>(), LINE);
        let switches = take(shape.switches.into(), size_of::<SwitchDescriptor>(), LINE);
        let lines_stride = stride(size_of::<NodeLines>());
        let node_lines = take(shape.nodes.into(), lines_stride, align);
        let cells_stride = stride(shape.ring_cells() as usize * 8);
        let ring_cells = take(shape.nodes.into(), cells_stride, align);
        let times = take(shape.requests.into(), size_of::<Times>(), LINE);
        let completions = take(shape.completion_words(), 8, LINE);
        let pending = take(u64::from(shape.requests) * shape.pending_words(), 8, LINE);
        let tasks = take(shape.tasks().into(), size_of::<TaskLine>(), LINE);
        let mut block_owners = [0; CLASS_LIMIT];
        for (start, class) in block_owners.iter_mut().zip(shape.classes()) {
            *start = take(class.count, 8, LINE);
        }
        let blobs = take(shape.blob_bytes, 1, LINE);
        let PartialRings { slots, .. } = shape.partials;
        let rings = if slots == 0 { 0 } else { u64::from(shape.requests) };
        let partial_rings = take(rings, size_of::<PartialLines>(), LINE);
        let partial_slots = take(rings * u64::from(slots), shape.partials.slot_bytes() as usize, LINE);
        let traces = u64::from(shape.traces);
        let trace_ring = take(traces.min(1), size_of::<TraceRing>(), LINE);
        let trace_heads = take(traces, size_of::<TraceHead>(), LINE);
        let trace_hops = take(traces * u64::from(shape.trace_hops()), size_of::<HopLine>(), LINE);
        let mut blocks = [0; CLASS_LIMIT];
        for (start, class) in blocks.iter_mut().zip(shape.classes()) {
            *start = take(class.count, class.block_bytes as usize, PAGE);
        }
        let total = end.next_multiple_of(PAGE as u64);
        within("size of the segment in bytes", total, 1, 1 << 46)?;
        Ok(Self {
            shape: *shape,
            control,
            participants,
            histograms,
            callers,
            client_lines,
            server_counters,
            service,
            node_descriptors,
            forks,
            switches,
            node_lines,
            ring_cells,
            histograms_stride,
            lines_stride,
            cells_stride,
            cells_per_ring: shape.ring_cells() as usize,
            times,
            completions,
            pending,
            tasks,
            task_count: shape.tasks(),
            branch_bits: shape.branch_bits(),
            pending_stride: shape.pending_words() as usize,
            pending_words: shape.branches().div_ceil(64) as usize,
            block_owners,
            blobs,
            partial_rings,
            partial_slots,
            trace_ring,
            trace_heads,
            trace_hops,
            blocks,
            total_bytes: total as usize,
        })
    }

    /// How many bytes lie before the first payload block.
    pub(crate) fn bytes_before_blocks(&self) -> u64 {
        if self.shape.class_count == 0 { self.total_bytes as u64 } else { self.blocks[0] as u64 }
    }

    /// The request that a task belongs to, and its slot in that request.
    #[inline]
    pub(crate) fn slot_of(&self, id: u32) -> (u32, u32) {
        match id.checked_sub(self.shape.requests) {
            None => (id, 0),
            Some(branch) => (branch >> self.branch_bits, (branch & ((1 << self.branch_bits) - 1)) + 1),
        }
    }

    /// The task in a slot of a request.
    #[inline]
    pub(crate) fn id_of(&self, request: u32, slot: u32) -> u32 {
        match slot.checked_sub(1) {
            None => request,
            Some(branch) => self.shape.requests + (request << self.branch_bits) + branch,
        }
    }

    /// Which words of pending bits are a request's: the first, and how many.
    #[inline]
    pub(crate) fn pending_of(&self, request: u32) -> (usize, usize) {
        (request as usize * self.pending_stride, self.pending_words)
    }

    /// A number that differs whenever two programs would disagree about a byte of the segment.
    pub(crate) fn fingerprint(&self, payload_format: u64) -> u64 {
        let shape = &self.shape;
        let mut numbers = vec![
            u64::from(LAYOUT_VERSION),
            payload_format,
            crate::width::GENERATION_BITS.into(),
            crate::width::LAP_BITS.into(),
            crate::width::EPOCH_BITS.into(),
            size_of::<usize>() as u64,
            Header::FIELDS,
            control::Page::FIELDS,
            participant::Entry::FIELDS,
            WorkerHistograms::FIELDS,
            CallerStats::FIELDS,
            ClientLines::FIELDS,
            ServiceDescriptor::FIELDS,
            ServerCounters::FIELDS,
            NodeDescriptor::FIELDS,
            ForkDescriptor::FIELDS,
            SwitchDescriptor::FIELDS,
            NodeLines::FIELDS,
            Times::FIELDS,
            TaskLine::FIELDS,
            PartialLines::FIELDS,
            TraceRing::FIELDS,
            TraceHead::FIELDS,
            HopLine::FIELDS,
            shape.participants.into(),
            shape.clients.into(),
            shape.client_requests.into(),
            shape.nodes.into(),
            shape.requests.into(),
            shape.tasks_per_request.into(),
            shape.forks.into(),
            shape.switches.into(),
            shape.partials.slots.into(),
            shape.partials.bytes.into(),
            shape.traces.into(),
            shape.blob_bytes,
            shape.class_count,
            self.control as u64,
            self.participants as u64,
            self.histograms as u64,
            self.callers as u64,
            self.client_lines as u64,
            self.server_counters as u64,
            self.service as u64,
            self.node_descriptors as u64,
            self.forks as u64,
            self.switches as u64,
            self.node_lines as u64,
            self.ring_cells as u64,
            self.times as u64,
            self.completions as u64,
            self.pending as u64,
            self.tasks as u64,
            self.blobs as u64,
            self.partial_rings as u64,
            self.partial_slots as u64,
            self.trace_ring as u64,
            self.trace_heads as u64,
            self.trace_hops as u64,
            self.total_bytes as u64,
        ];
        for (index, class) in shape.classes().iter().enumerate() {
            numbers.extend([
                class.block_bytes,
                class.count,
                self.block_owners[index] as u64,
                self.blocks[index] as u64,
            ]);
        }
        hash(numbers.iter().flat_map(|n| n.to_le_bytes()))
    }
}

/// FNV-1a, 64 bits: for fingerprints, which no adversary tries to collide.
#[must_use]
pub fn hash(bytes: impl IntoIterator<Item = u8>) -> u64 {
    bytes.into_iter().fold(FNV_START, with_byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn small() -> Shape {
        let mut shape = Shape {
            participants: 3,
            nodes: 2,
            requests: 5,
            tasks_per_request: 1,
            blob_bytes: 77,
            class_count: 2,
            ..Shape::default()
        };
        shape.classes[0] = Class { block_bytes: 256, count: 4 };
        shape.classes[1] = Class { block_bytes: 4096, count: 2 };
        shape
    }

    #[test]
    fn sections_follow_each_other_without_overlap() {
        let shape = small();
        let l = Layout::new(&shape).unwrap();
        let cells = 2 * shape.ring_cells() as usize * 8;
        assert_eq!(shape.ring_cells(), 8, "a power of two above the number of tasks");
        assert!(l.participants >= PAGE);
        assert!(l.node_lines >= l.node_descriptors + 2 * size_of::<NodeDescriptor>());
        assert!(l.tasks >= l.ring_cells + cells);
        assert!(l.block_owners[0] >= l.tasks + 5 * LINE);
        assert!(l.blocks[0] >= l.blobs + 77);
        assert!(l.blocks[1] >= l.blocks[0] + 4 * 256);
        assert!(l.total_bytes >= l.blocks[1] + 2 * 4096);
        assert!(l.blocks.iter().take(2).all(|b| b % PAGE == 0));
    }

    #[test]
    fn every_branch_has_a_number_of_its_own() {
        for tasks_per_request in [1, 2, 3, 4, 5, 9, 64, 65] {
            let shape = Shape { tasks_per_request, ..small() };
            let layout = Layout::new(&shape).unwrap();
            let slots = (0..shape.requests).flat_map(|r| (0..tasks_per_request).map(move |p| (r, p)));
            let ids: Vec<u32> = slots.clone().map(|(r, p)| layout.id_of(r, p)).collect();
            assert!(ids.iter().zip(slots).all(|(&id, slot)| layout.slot_of(id) == slot));
            let distinct: std::collections::BTreeSet<u32> = ids.iter().copied().collect();
            assert_eq!(distinct.len(), ids.len());
            assert!(ids.iter().all(|&id| id < shape.tasks()), "{tasks_per_request}: {ids:?}");
        }
    }

    #[test]
    fn each_request_is_of_one_client() {
        for (own, clients, share) in [(5, 0, 0), (1, 1, 1), (64, 3, 64), (100, 2, 65), (7, 4, 3)] {
            let requests = own + clients * share;
            let participants = 3 + clients;
            let shape = Shape { participants, clients, client_requests: share, requests, ..small() };
            shape.check().unwrap();
            assert_eq!((shape.own_requests(), shape.first_client_row()), (own, 3));
            let all: Vec<u32> = (0..=clients).flat_map(|client| shape.requests_of(client)).collect();
            assert_eq!(all, (0..requests).collect::<Vec<_>>());
            for client in 0..=clients {
                assert!(shape.requests_of(client).all(|request| shape.client_of(request) == client));
                assert!(shape.completions_of(client).len() * 64 >= shape.requests_of(client).len());
            }
            let words = (0..=clients).flat_map(|client| shape.completions_of(client));
            assert_eq!(words.collect::<Vec<_>>(), (0..shape.completion_words() as usize).collect::<Vec<_>>());
            assert!(shape.requests_of(clients + 1).is_empty());
        }
    }

    #[test]
    fn each_number_of_the_shape_changes_the_fingerprint() {
        let base = Layout::new(&small()).unwrap().fingerprint(1);
        let changes: [fn(&mut Shape); 15] = [
            |s| s.client_requests += 1,
            |s| (s.clients, s.client_requests) = (1, 1),
            |s| s.memory_parts += 1,
            |s| s.traces += 1,
            |s| s.partials.slots += 1,
            |s| s.partials.bytes += 1,
            |s| s.participants += 1,
            |s| s.nodes += 1,
            |s| s.requests += 1,
            |s| s.tasks_per_request += 1,
            |s| s.forks += 1,
            |s| s.switches += 1,
            |s| s.blob_bytes += 1,
            |s| s.classes[0].count += 1,
            |s| s.class_count = 1,
        ];
        for change in changes {
            let mut shape = small();
            change(&mut shape);
            assert_ne!(Layout::new(&shape).unwrap().fingerprint(1), base, "{shape:?}");
        }
        assert_ne!(Layout::new(&small()).unwrap().fingerprint(2), base);
    }

    #[test]
    fn a_number_out_of_range_is_named_with_its_limit() {
        let mut shape = small();
        shape.requests = 0;
        let error = Layout::new(&shape).unwrap_err();
        assert_eq!(error.to_string(), "capacity is 0, must be in 1..=16777216");
        let mut shape = small();
        shape.classes[1].block_bytes = 256;
        assert_eq!(Layout::new(&shape).unwrap_err().what, "block size of a class");
        let mut shape = small();
        shape.classes[0].count = 1 << 27;
        shape.classes[0].block_bytes = 1 << 39;
        assert!(Layout::new(&shape).is_err(), "petabytes");
    }
}
