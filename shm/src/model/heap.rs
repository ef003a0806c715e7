//! A segment of the models: the same parts, on the heap, of atomics that loom watches.
//!
//! Under loom this is `crate::segment`, as loom's atomics are `crate::sync`'s: [`arena`](crate::arena),
//! [`pool`](crate::pool), [`party`](crate::party) and [`repair`](crate::repair) are compiled over it as they are. What
//! they use of a segment is public here.
#![expect(unsafe_code, reason = "a segment of a scene is shared by its threads")]

#[path = "../segment/node.rs"]
mod node;

pub use node::{Node, NodeInfo};

use crate::bell::SharedBell;
use crate::doorbell;
use crate::layout::{
    BellLine, Class, Extent, HopLine, LINE, Layout, LockLine, NodeFacts, NodeLines, PartialLines,
    PartialRings, SLOT_HEADER_BYTES, Shape, TaskLine, Times, TraceHead, TraceRing, U64Line,
};
use crate::participant::{Entry, Role, SERVER};
use crate::plan::{Fork, Routes, Target};
use crate::sync::{AtomicU32, AtomicU64};
use crate::token::Token;
use crate::trace::Record;
use core::ops::Range;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU32 as Counter, Ordering::SeqCst};
use std::io;

/// Whether a participant has died, as the kernel would tell: a thread that asks sees all that it did.
#[derive(Debug, Default)]
pub(crate) struct Grave(loom::sync::atomic::AtomicBool);

impl Grave {
    pub(crate) fn dig(&self) {
        self.0.store(true, SeqCst);
    }

    pub(crate) fn holds(&self) -> bool {
        self.0.load(SeqCst)
    }
}

/// What a scene's segment is made of.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    pub(crate) requests: u32,
    pub(crate) branches: u32,
    /// The target of each node's tasks.
    pub(crate) nodes: Vec<Target>,
    pub(crate) forks: Vec<Fork>,
    /// At which position each node's ring begins.
    pub(crate) position: u64,
    /// How many blocks there are, of one class.
    pub(crate) blocks: u64,
    /// At least one.
    pub(crate) participants: u32,
    /// Slots of each request's ring of partials.
    pub(crate) partials: u32,
    /// Traces that are kept.
    pub(crate) traces: u32,
}

/// Bytes of a partial, and of its slot.
const PARTIAL_BYTES: u32 = 8;
const SLOT_BYTES: usize = LINE;

/// Hops of a trace.
const HOPS: u32 = 1;

/// Bytes of a block.
pub(crate) const BLOCK_BYTES: u64 = 256;

/// The segment of one scene.
#[derive(Debug)]
pub struct Segment {
    layout: Layout,
    routes: Routes,
    nodes: Vec<NodeInfo>,
    lines: Vec<NodeLines>,
    cells: Vec<Vec<AtomicU64>>,
    tasks: Vec<TaskLine>,
    times: Vec<Times>,
    pending: Vec<AtomicU64>,
    completions: Vec<AtomicU64>,
    owners: Vec<AtomicU64>,
    blocks: Vec<[u128; BLOCK_BYTES as usize / 16]>,
    rings: Vec<PartialLines>,
    slots: Vec<[u128; SLOT_BYTES / 16]>,
    trace_ring: TraceRing,
    trace_heads: Vec<TraceHead>,
    trace_hops: Vec<HopLine>,
    bells: [BellLine; 3],
    participants: Vec<Entry>,
    /// By row: a scene tells no incarnations apart.
    graves: Vec<Grave>,
    /// Its number among the segments of this process.
    number: u32,
}

// SAFETY: as that of `crate::segment`; what is not atomic is the owner's, and loom watches it.
unsafe impl Sync for Segment {}

impl Segment {
    pub(crate) fn of(plan: Plan) -> Self {
        static MADE: Counter = Counter::new(0);
        let mut shape = Shape {
            participants: plan.participants.max(1),
            nodes: plan.nodes.len() as u32,
            requests: plan.requests,
            tasks_per_request: 1 + plan.branches,
            forks: plan.forks.len() as u32,
            class_count: u64::from(plan.blocks > 0),
            partials: PartialRings { slots: plan.partials, bytes: PARTIAL_BYTES },
            traces: plan.traces,
            ..Shape::default()
        };
        shape.classes[0] = Class { block_bytes: BLOCK_BYTES, count: plan.blocks };
        let layout = Layout::new(&shape).expect("a scene's shape");
        let routes = Routes::new(plan.forks, Vec::new(), &plan.nodes, plan.branches).expect("a plan");
        let cells = shape.ring_cells();
        let lap_before = |index| ((plan.position + cells - 1 - index) / cells) << 32;
        let numbers = |count: usize| (0..count).map(|_| AtomicU64::new(0)).collect::<Vec<_>>();
        let bell = || BellLine { count: AtomicU32::new(0), waiters: AtomicU32::new(0) };
        Self {
            routes,
            nodes: plan.nodes.iter().map(|&next| info(next)).collect(),
            lines: plan
                .nodes
                .iter()
                .map(|_| NodeLines {
                    watch: crate::watch::Watch::default(),
                    tail: U64Line(AtomicU64::new(plan.position)),
                    head: U64Line(AtomicU64::new(plan.position)),
                    habit: U64Line(AtomicU64::new(0)),
                    lock: LockLine(AtomicU32::new(0)),
                    doorbell: doorbell::Line::new(),
                })
                .collect(),
            cells: plan
                .nodes
                .iter()
                .map(|_| (0..cells).map(|index| AtomicU64::new(lap_before(index))).collect())
                .collect(),
            tasks: (0..shape.tasks()).map(|_| TaskLine::new()).collect(),
            times: (0..shape.requests).map(|_| Times::default()).collect(),
            pending: numbers((shape.requests as usize) * (shape.branches().div_ceil(64) as usize)),
            completions: numbers(shape.completion_words() as usize),
            owners: numbers(plan.blocks as usize),
            blocks: vec![[0; BLOCK_BYTES as usize / 16]; plan.blocks as usize],
            rings: (0..plan.requests).map(|_| PartialLines::new()).collect(),
            slots: vec![[0; SLOT_BYTES / 16]; (plan.requests * plan.partials) as usize],
            trace_ring: TraceRing::new(),
            trace_heads: (0..plan.traces).map(|_| TraceHead::new()).collect(),
            trace_hops: (0..plan.traces * HOPS).map(|_| HopLine::new()).collect(),
            bells: [bell(), bell(), bell()],
            participants: (0..plan.participants.max(1)).map(|_| Entry::new()).collect(),
            graves: (0..8).map(|_| Grave::default()).collect(),
            number: MADE.fetch_add(1, SeqCst),
            layout,
        }
    }

    /// Whether the participant in this row is dead.
    pub(crate) fn grave(&self, index: u32) -> &Grave {
        &self.graves[index as usize]
    }

    pub(crate) fn is_dead(&self, token: Token) -> bool {
        self.grave(token.index()).holds()
    }

    pub(crate) fn number(&self) -> u32 {
        self.number
    }

    pub(crate) fn shape(&self) -> &Shape {
        &self.layout.shape
    }

    pub(crate) fn nodes(&self) -> &[NodeInfo] {
        &self.nodes
    }

    pub(crate) fn routes(&self) -> &Routes {
        &self.routes
    }

    pub(crate) fn node(&self, index: u32) -> Option<Node<'_>> {
        let (info, index) = (self.nodes.get(index as usize)?, index as usize);
        Some(Node { segment: self, info, lines: &self.lines[index], cells: &self.cells[index] })
    }

    /// Scenes have no workers' rows; but `repair` asks.
    pub(crate) fn seat_of(&self, _row: u32) -> Option<(u32, u32)> {
        None
    }

    pub(crate) fn participants(&self) -> &[Entry] {
        &self.participants
    }

    pub(crate) fn startup(&self) -> SharedBell<'_> {
        self.bell(0)
    }

    pub(crate) fn freed(&self) -> SharedBell<'_> {
        self.bell(1)
    }

    pub(crate) fn completed(&self) -> SharedBell<'_> {
        self.bell(2)
    }

    pub(crate) fn freed_of(&self, _client: u32) -> SharedBell<'_> {
        self.freed()
    }

    pub(crate) fn completed_of(&self, _client: u32) -> SharedBell<'_> {
        self.completed()
    }

    pub(crate) fn client_token(&self) -> Option<Token> {
        None
    }

    pub(crate) fn home_token(&self) -> Token {
        Token::SERVER
    }

    pub(crate) fn is_shared(&self, token: Token) -> bool {
        token.index() == SERVER
    }

    fn bell(&self, index: usize) -> SharedBell<'_> {
        SharedBell::new(&self.bells[index].count, &self.bells[index].waiters)
    }

    pub(crate) fn completions(&self) -> &[AtomicU64] {
        &self.completions
    }

    pub(crate) fn pending(&self, request: u32) -> &[AtomicU64] {
        let words = self.shape().branches().div_ceil(64) as usize;
        &self.pending[request as usize * words..][..words]
    }

    pub(crate) fn slot_of(&self, id: u32) -> (u32, u32) {
        self.layout.slot_of(id)
    }

    pub(crate) fn id_of(&self, request: u32, slot: u32) -> u32 {
        self.layout.id_of(request, slot)
    }

    pub(crate) fn times(&self, request: u32) -> Option<&Times> {
        self.times.get(request as usize)
    }

    pub(crate) fn task_line(&self, id: u32) -> Option<&TaskLine> {
        self.tasks.get(id as usize)
    }

    pub(crate) fn prefetch_task(&self, _id: u32) {}

    pub(crate) fn block_owners(&self, _class: usize) -> &[AtomicU64] {
        &self.owners
    }

    /// Blocks are not divided.
    pub(crate) fn part_of_inputs(&self) -> Option<u32> {
        None
    }

    pub(crate) fn part_after(&self, _node: u32) -> Option<u32> {
        None
    }

    pub(crate) fn reserve_block(&self, _class: usize, index: u64) -> io::Result<Range<u64>> {
        Ok(index..index + 1)
    }

    pub(crate) fn block(&self, _class: usize, index: u64) -> Option<(NonNull<u8>, usize)> {
        let block = self.blocks.get(index as usize)?;
        Some((NonNull::from(block).cast(), BLOCK_BYTES as usize))
    }
}

impl Segment {
    pub(crate) fn partial_ring(&self, request: u32) -> Option<&PartialLines> {
        self.rings.get(request as usize).filter(|_| self.shape().partials.slots > 0)
    }

    pub(crate) fn trace_ring(&self) -> Option<&TraceRing> {
        (self.shape().traces > 0).then_some(&self.trace_ring)
    }

    pub(crate) fn trace_record(&self, index: u32) -> Option<Record<'_>> {
        let hops = (index * HOPS) as usize..((index + 1) * HOPS) as usize;
        Some(Record { head: self.trace_heads.get(index as usize)?, hops: self.trace_hops.get(hops)? })
    }

    /// Loom does not see who reads a slot and who writes it; the scenes look at the values.
    pub(crate) fn partial_slot(&self, request: u32, slot: u32) -> Option<(NonNull<u8>, usize)> {
        let slots = self.shape().partials.slots;
        let found = self.slots.get((request * slots + slot) as usize).filter(|_| slot < slots)?;
        Some((NonNull::from(found).cast(), SLOT_BYTES - SLOT_HEADER_BYTES))
    }
}

fn info(next: Target) -> NodeInfo {
    NodeInfo {
        name: String::new(),
        worker_type: String::new(),
        payloads: Default::default(),
        facts: NodeFacts::default(),
        next,
        first_participant: 0,
        rows: 0,
        role: Role::ThreadWorker,
        memory_part: None,
        config: Extent::default(),
    }
}
