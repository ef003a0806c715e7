//! Segments: creating, attaching, removing, and finding the parts in one.
//!
//! # Layout
//!
//! See [`layout`](crate::layout). Beside the segment lies its lease file, `<path>.lease`. An anonymous segment and its
//! lease are memory without a path; the header of `segment/anonymous.rs` says how processes find them.
//!
//! # Protocol
//!
//! Create: take the server's byte of the lease file; so no living server has the name. Remove a dead server's files.
//! Create the file exclusively, mode 0600, reserve its pages (those of payload
//! blocks when each is first used, see [`pool`](crate::pool)), write everything, and the magic last. Attach: check
//! owner, mode, size, magic, version, shape and fingerprint before the rest is believed; compute all offsets from the
//! shape. Remove: segment first, lease file second, then release the lease. An anonymous segment has no name to take
//! and nothing to remove.
//!
//! # Invariants
//!
//! * `[checked]`: every offset handed out was computed by `Layout::new` from a shape whose total size is the size of
//!   the mapping; indices are checked where they enter.
//! * `[in place]`: nothing in a mapping moves or ends before the [`Segment`] is dropped.
//! * No reference is made to plain bytes that another party may write at that time: parties share
//!   atomics, and payload bytes belong to the owner that the state word names.
//!
//! # Ordering
//!
//! * `[finished]`: the store of the magic (Release) → the Acquire load of an attacher. All that was written before travels.
//!
//! # Crash
//!
//! A creator that dies at any point leaves a file without magic or with a free lease; both are stale. Of an anonymous
//! segment it leaves nothing: the memory goes with the last process that has it.
#![expect(unsafe_code, reason = "typed views of mapped bytes")]

mod anonymous;
mod attach;
mod client;
mod control;
mod create;
mod location;
mod memory;
mod node;
mod pages;
mod sections;
mod stale;

pub use crate::bell::{Awaiting, SharedBell};
pub use anonymous::{FoundAnonymous, list_anonymous};
pub use attach::{AttachError, NotASegment};
use client::Home;
pub use client::JoinError;
pub use control::{AskError, Asker};
pub use create::{CreateError, NodeSpec, Reserve, Service, Size, Spec};
pub use location::{Anonymous, Location, NAMED_DIRECTORY, NameError};
pub use memory::{Lying, Memory, Part};
pub use node::{Node, NodeInfo, PayloadTypes};
use pages::Granted;
pub use pages::{Demand, HugePages, Prefault};
pub use sections::{Room, Use};
pub use stale::{Found, Removed, is_live, list, open_lease, remove_if_stale};

use crate::doorbell;
use crate::fields::InSegment;
use crate::layout::{
    BellLine, ClientLines, Extent, Header, HopLine, Layout, NAME_LIMIT, NodeLines, PartialLines,
    SLOT_HEADER_BYTES, Shape, TaskLine, Times, TraceRing,
};
use crate::participant::{self, Entry, Lease, Role, SERVER};
use crate::placed::Placed;
use crate::plan::{Routes, Target};
use crate::stats::{
    CALLER_ROWS, CLIENT_ROWS, CallerRow, CallerStats, ServerCounters, Snapshot, WorkerDistributions,
    WorkerHistograms,
};
use crate::sync::{AtomicU64, Ordering};
use crate::sys::birth::Birth;
use crate::sys::cpu::prefetch_to_write;
use crate::sys::file::remove_from;
use crate::sys::image::open_directory;
use crate::sys::memfd;
use crate::sys::numa::PolicyError;
use crate::token::Token;
use crate::trace::{Record, Trace};
use core::ptr::NonNull;
use memmap2::MmapRaw;
use shared_memory::Shmem;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

/// Bytes of a target among the blobs, and of a member of a fork.
const TARGET_BYTES: usize = 4;
const MEMBER_BYTES: usize = 3 * TARGET_BYTES;

/// The state of the whole segment, as the server sets it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
#[repr(u32)]
pub enum Run {
    /// Being built.
    Creating = 0,
    /// In service.
    Running = 1,
    /// New requests are refused; workers close each batch with what is there.
    Draining = 2,
    /// Workers finish what is in their rings and end.
    Stopping = 3,
    /// Over.
    Closed = 4,
}

/// Whether the server takes requests, as all processes that send some must know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gate {
    /// It does.
    Open,
    /// It does not, for ever: it shuts down.
    Closing,
    /// A node is down that every request passes.
    Down(u32),
    /// A node is drained that every request passes.
    Drained(u32),
}

impl Gate {
    const DRAINED: u32 = 1 << 31;

    fn raw(self) -> u32 {
        match self {
            Self::Open => 0,
            Self::Closing => u32::MAX,
            Self::Down(node) => node + 1,
            Self::Drained(node) => Self::DRAINED | (node + 1),
        }
    }

    fn from_raw(raw: u32) -> Self {
        match raw {
            0 | Self::DRAINED => Self::Open,
            u32::MAX => Self::Closing,
            raw if raw & Self::DRAINED != 0 => Self::Drained((raw & !Self::DRAINED) - 1),
            raw => Self::Down(raw - 1),
        }
    }
}

/// What keeps the bytes mapped.
enum Mapping {
    Named(Shmem),
    File(MmapRaw),
}

impl Mapping {
    fn as_ptr(&self) -> *mut u8 {
        match self {
            Self::Named(shmem) => shmem.as_ptr(),
            Self::File(map) => map.as_mut_ptr(),
        }
    }
}

/// What the creator needs to remove the files.
struct Owner {
    removal: std::sync::Mutex<Removal>,
}

/// How the creator removes the files.
enum Removal {
    /// From this directory, which is held open.
    In(File),
    /// By their path, which may lead elsewhere by now: another process holds the directory.
    ByPath,
    /// The creator has tried.
    Done,
}

impl Owner {
    fn removal(&self) -> std::sync::MutexGuard<'_, Removal> {
        self.removal.lock().unwrap_or_else(|e| e.into_inner())
    }
}

/// A mapped segment.
pub struct Segment {
    base: NonNull<u8>,
    /// The first task's line.
    tasks: NonNull<TaskLine>,
    layout: Layout,
    nodes: Vec<NodeInfo>,
    routes: Routes,
    service: Service,
    /// Whose requests this process has.
    home: Home,
    location: Location,
    /// The segment's file, as it was opened: another file may have its name by now.
    file: File,
    lease: Lease,
    /// The process that created or attached it.
    birth: Birth,
    /// The creator's: to remove the files when it is dropped.
    owner: Option<Owner>,
    /// The creator's: the part of the blocks that is nearest to the readers of inputs.
    part_of_inputs: Option<u32>,
    /// The creator's, as below.
    memory_refused: Option<PolicyError>,
    huge_refused: Option<CreateError>,
    /// Its number among all segments that this process ever maps.
    number: u32,
    granted: Granted,
    /// Only the `Drop`s of the mapping crates read it.
    _mapping: Mapping,
}

// SAFETY: the mapping may be used from any thread; what parties share in it is atomic, and payload bytes
// are handed from owner to owner by the state word.
unsafe impl Send for Segment {}
// SAFETY: as above.
unsafe impl Sync for Segment {}

impl core::fmt::Debug for Segment {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Segment")
            .field("location", &self.location)
            .field("bytes", &self.layout.total_bytes)
            .finish_non_exhaustive()
    }
}

impl Segment {
    /// Bytes of the blobs, to be copied before they are believed.
    fn blob(&self, extent: Extent) -> Option<&[u8]> {
        let end = extent.offset.checked_add(extent.bytes)?;
        if end > self.layout.shape.blob_bytes {
            return None;
        }
        // SAFETY: in range, and written once, before the magic.
        Some(unsafe {
            let from = self.base.as_ptr().add(self.layout.blobs + extent.offset as usize);
            core::slice::from_raw_parts(from, extent.bytes as usize)
        })
    }

    /// A reference to number `index` of the values of type T that lie at `offset`.
    #[inline]
    fn at<T: InSegment>(&self, offset: usize, index: usize) -> &T {
        // SAFETY: [in place], [checked]: callers pass an offset of the layout and an index below the count the
        // layout was computed with; offsets are aligned for their T. All T used here are made of
        // atomics (and cells that their owners guard), for which any bytes are valid.
        unsafe { &*self.base.as_ptr().add(offset).cast::<T>().add(index) }
    }

    pub(crate) fn header(&self) -> &Header {
        self.at(0, 0)
    }

    /// A path by which processes of its user can open it: its file, or, if it is anonymous, this process's descriptor of
    /// it in `/proc`.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        match &self.location {
            Location::Anonymous(_) => memfd::path_of(&self.file),
            location => location.path(),
        }
    }

    /// Its location.
    #[must_use]
    pub fn location(&self) -> &Location {
        &self.location
    }

    /// The numbers its layout follows from.
    #[must_use]
    pub fn shape(&self) -> &Shape {
        &self.layout.shape
    }

    /// Its size in bytes.
    #[must_use]
    pub fn total_bytes(&self) -> u64 {
        self.layout.total_bytes as u64
    }

    /// Facts of the header for reports.
    #[must_use]
    pub fn identity(&self) -> Identity {
        let header: *const Header = self.header();
        // SAFETY: the header lies in the mapping; any bytes are valid values of these types. Copied, so that a name
        // that changes meanwhile is still text.
        let (name, name_bytes, layout_version, fingerprint, created_unix_s, user_id) = unsafe {
            (
                (&raw const (*header).name).read_volatile(),
                (&raw const (*header).name_len).read_volatile(),
                (&raw const (*header).version).read_volatile(),
                (&raw const (*header).fingerprint).read_volatile(),
                (&raw const (*header).created_unix_s).read_volatile(),
                (&raw const (*header).user_id).read_volatile(),
            )
        };
        let name = String::from_utf8_lossy(&name[..(name_bytes as usize).min(NAME_LIMIT)]).into_owned();
        Identity { name, layout_version, fingerprint, created_unix_s, user_id }
    }

    /// The plan's nodes.
    #[must_use]
    pub fn nodes(&self) -> &[NodeInfo] {
        &self.nodes
    }

    /// The plan's forks and switches.
    #[must_use]
    pub fn routes(&self) -> &Routes {
        &self.routes
    }

    /// The name of what a target leads to; `None` for the end, and for what does not exist.
    #[must_use]
    pub fn name_of(&self, target: Target) -> Option<&str> {
        let name = match target {
            Target::End => return None,
            Target::Node(index) => &self.nodes.get(index as usize)?.name,
            Target::Fork(index) => &self.routes.forks.get(index as usize)?.name,
            Target::Switch(index) => &self.routes.switches.get(index as usize)?.name,
        };
        Some(name)
    }

    /// The parts of one node that change; `None` if there is no such node.
    #[inline]
    #[must_use]
    pub fn node(&self, index: u32) -> Option<Node<'_>> {
        let info = self.nodes.get(index as usize)?;
        let cells = self.layout.cells_per_ring;
        let ring_cells =
            self.words(self.layout.ring_cells + index as usize * self.layout.cells_stride, 0, cells);
        Some(Node { segment: self, info, lines: self.lines(index), cells: ring_cells })
    }

    /// The lines of a node that there is.
    #[inline]
    fn lines(&self, node: u32) -> &NodeLines {
        self.at(self.layout.node_lines + node as usize * self.layout.lines_stride, 0)
    }

    /// The doorbell of one node; `None` if there is no such node.
    #[inline]
    #[must_use]
    pub fn doorbell(&self, node: u32) -> Option<&doorbell::Line> {
        let exists = (node as usize) < self.nodes.len();
        exists.then(|| &self.lines(node).doorbell)
    }

    /// Which node a worker's row in the participant table belongs to, and which of that node's rows it is: its number
    /// at the node's doorbell.
    #[must_use]
    pub fn seat_of(&self, row: u32) -> Option<(u32, u32)> {
        (0..).zip(&self.nodes).find_map(|(node, info)| {
            let number = row.checked_sub(info.first_participant)?;
            (number < info.rows).then_some((node, number))
        })
    }

    /// What kind of participant has a row; `None` if there is no such row. By the plan, as [`seat_of`](Self::seat_of).
    #[must_use]
    pub fn role_of(&self, row: u32) -> Option<Role> {
        match row {
            SERVER => Some(Role::Server),
            row if self.client_rows().contains(&row) => Some(Role::Client),
            _ => Some(self.worker_of(row)?.0.role),
        }
    }

    /// Which of its node's workers has a row, and which of that worker's threads. By the plan, as
    /// [`seat_of`](Self::seat_of).
    #[must_use]
    pub fn worker_of(&self, row: u32) -> Option<(&NodeInfo, u32, u32)> {
        let (node, number) = self.seat_of(row)?;
        let info = self.nodes.get(node as usize)?;
        let threads = info.facts.threads;
        Some((info, number / threads, number % threads))
    }

    /// The configuration that a node's workers are constructed from, copied.
    #[must_use]
    pub fn config(&self, info: &NodeInfo) -> Vec<u8> {
        self.blob(info.config).unwrap_or(&[]).to_vec()
    }

    /// The participant table.
    #[must_use]
    pub fn participants(&self) -> &[Entry] {
        // SAFETY: [checked]: the layout has this many entries; they are atomics and guarded cells.
        unsafe {
            let first = self.base.as_ptr().add(self.layout.participants).cast::<Entry>();
            core::slice::from_raw_parts(first, self.layout.shape.participants as usize)
        }
    }

    /// The histograms of a worker's row; `None` if no worker has that row.
    #[must_use]
    pub fn histograms(&self, row: u32) -> Option<&WorkerHistograms> {
        let worker = row.checked_sub(SERVER + 1)?;
        let offset = self.layout.histograms + worker as usize * self.layout.histograms_stride;
        (row < self.layout.shape.first_client_row()).then(|| self.at(offset, 0))
    }

    /// The counters of a worker's row, and the values of its histograms, now; `None` if no worker has that row.
    #[must_use]
    pub fn worker_stats(&self, row: u32) -> Option<(Snapshot, WorkerDistributions)> {
        let counters = self.participants().get(row as usize)?.counters().snapshot();
        Some((counters, self.histograms(row)?.distributions(&counters)))
    }

    /// A row of this process's callers, to count in. Row 0 is for all threads; one thread at a time may count in another
    /// one. A number that no row has stands for row 0.
    #[inline]
    #[must_use]
    pub fn caller_row(&self, row: u32) -> CallerRow<'_> {
        let row = if row < self.home.rows { row } else { 0 };
        CallerRow::new(self.at(self.layout.callers, (self.home.first_row + row) as usize), row == 0)
    }

    /// The statistics of all rows of callers: those of the server's process, then those of each client.
    #[must_use]
    pub fn callers(&self) -> &[CallerStats] {
        let rows = CALLER_ROWS + self.layout.shape.clients * CLIENT_ROWS;
        // SAFETY: [checked]: the layout has this many rows; they are atomics.
        unsafe {
            let first = self.base.as_ptr().add(self.layout.callers).cast::<CallerStats>();
            core::slice::from_raw_parts(first, rows as usize)
        }
    }

    /// The server's counters.
    #[must_use]
    pub fn server_counters(&self) -> &ServerCounters {
        self.at(self.layout.server_counters, 0)
    }

    /// The process that created or attached it; a forked child of it may only look.
    #[inline]
    #[must_use]
    pub fn birth(&self) -> Birth {
        self.birth
    }

    /// The lease file.
    #[must_use]
    pub fn lease(&self) -> &Lease {
        &self.lease
    }

    /// Its number among all segments that this process ever maps: no two have the same.
    #[inline]
    pub(crate) fn number(&self) -> u32 {
        self.number
    }

    /// Whether an incarnation is proven dead.
    #[must_use]
    pub fn is_dead(&self, token: Token) -> bool {
        participant::is_dead(self.participants(), |token| self.lease.is_held(token), token)
    }

    /// The state that the server set last.
    #[inline]
    #[must_use]
    pub fn run(&self) -> Run {
        match self.header().run.state.load(Ordering::Acquire) {
            0 => Run::Creating,
            1 => Run::Running,
            2 => Run::Draining,
            3 => Run::Stopping,
            _ => Run::Closed,
        }
    }

    /// Sets the state. The server alone calls this, and [wakes all](crate::repair::wake_everyone) after it: a sleeping
    /// participant reads the state when it wakes.
    pub fn set_run(&self, run: Run) {
        self.header().run.state.store(run as u32, Ordering::SeqCst);
    }

    /// Whether the server takes requests. A node that it names need not exist: another process may have written it.
    #[must_use]
    pub fn gate(&self) -> Gate {
        Gate::from_raw(self.header().run.gate.load(Ordering::SeqCst))
    }

    /// Whether the [gate](Self::gate) is open.
    #[inline(always)]
    #[must_use]
    pub fn is_gate_open(&self) -> bool {
        self.header().run.gate.load(Ordering::SeqCst) == 0
    }

    /// Sets the [gate](Self::gate). The server alone calls this.
    pub fn set_gate(&self, gate: Gate) {
        self.header().run.gate.store(gate.raw(), Ordering::SeqCst);
    }

    /// Of how many requests, or calls of user code, one is timed; 0: so that timing takes little, which each side decides;
    /// `u32::MAX`: of all none.
    #[must_use]
    pub fn timed_every(&self) -> u32 {
        self.header().run.timed_every.load(Ordering::Relaxed) // Relaxed: set before the workers start
    }

    /// Sets [`timed_every`](Self::timed_every). The server does, before it starts workers.
    pub fn set_timed_every(&self, every: u32) {
        self.header().run.timed_every.store(every, Ordering::Relaxed); // Relaxed: as above
    }

    /// Records in the server's row which CPUs its process may use. The server does, before it starts workers.
    pub fn set_allowed_cpus(&self, cpus: &[usize]) {
        let placed = Placed { cpus: cpus.to_vec(), ..Placed::default() };
        self.participants()[SERVER as usize].assign(&placed);
    }

    /// The bell that workers ring when they are ready or have failed.
    #[must_use]
    pub fn startup(&self) -> SharedBell<'_> {
        bell(&self.header().startup)
    }

    /// The bell that is rung when a request of this process comes free and a thread waits for one. In a process that only
    /// looks, or works, it is the server's.
    #[inline]
    #[must_use]
    pub fn freed(&self) -> SharedBell<'_> {
        bell(&self.client_lines(self.home.client).freed)
    }

    /// The bell that is rung when a bit of this process's part of the completions set is set and a thread waits for that.
    #[must_use]
    pub fn completed(&self) -> SharedBell<'_> {
        bell(&self.client_lines(self.home.client).completed)
    }

    /// [`freed`](Self::freed) of a client; 0 is the server's process.
    #[inline]
    #[must_use]
    pub fn freed_of(&self, client: u32) -> SharedBell<'_> {
        bell(&self.client_lines(client).freed)
    }

    /// [`completed`](Self::completed) of a client; 0 is the server's process.
    #[inline]
    #[must_use]
    pub fn completed_of(&self, client: u32) -> SharedBell<'_> {
        bell(&self.client_lines(client).completed)
    }

    #[inline]
    fn client_lines(&self, client: u32) -> &ClientLines {
        let client = if client <= self.layout.shape.clients { client } else { 0 };
        self.at(self.layout.client_lines, client as usize)
    }

    /// What its clients must know of the server.
    #[must_use]
    pub fn service(&self) -> &Service {
        &self.service
    }

    /// `count` words that lie at `offset`, from number `first` on; the caller has checked that they do.
    fn words(&self, offset: usize, first: usize, count: usize) -> &[AtomicU64] {
        // SAFETY: [checked]: callers pass an offset of the layout, and a range within what it was computed
        // with; sections are aligned to lines.
        unsafe {
            let start = self.base.as_ptr().add(offset).cast::<AtomicU64>();
            core::slice::from_raw_parts(start.add(first), count)
        }
    }

    /// Empties this process's part of the completions set: calls `each` with the requests that have ended and whose caller asked for notice,
    /// of this use of the request or a former one.
    pub fn take_completions(&self, mut each: impl FnMut(u32)) {
        let first = self.home.first_request;
        let words = self.layout.shape.completions_of(self.home.client);
        for (base, word) in (first..).step_by(64).zip(&self.completions()[words]) {
            if word.load(Ordering::Relaxed) == 0 {
                continue; // Relaxed: the worker that sets a bit rings after that, and is not missed twice
            }
            let mut bits = word.swap(0, Ordering::SeqCst);
            while bits != 0 {
                each(base + bits.trailing_zeros());
                bits &= bits - 1;
            }
        }
    }

    /// The completions set: a bit says that a request has ended and its caller asked for notice.
    pub(crate) fn completions(&self) -> &[AtomicU64] {
        self.words(self.layout.completions, 0, self.layout.shape.completion_words() as usize)
    }

    /// A request's pending bits.
    ///
    /// # Panics
    /// If there is no such request.
    #[inline]
    pub(crate) fn pending(&self, request: u32) -> &[AtomicU64] {
        assert!(request < self.layout.shape.requests);
        let (first, count) = self.layout.pending_of(request);
        self.words(self.layout.pending, first, count)
    }

    /// The request that a task belongs to, and its slot in that request.
    #[inline]
    pub(crate) fn slot_of(&self, id: u32) -> (u32, u32) {
        self.layout.slot_of(id)
    }

    /// The task in a slot of a request.
    #[inline]
    pub(crate) fn id_of(&self, request: u32, slot: u32) -> u32 {
        self.layout.id_of(request, slot)
    }

    /// A request's times; `None` if there is no such request.
    #[inline]
    pub(crate) fn times(&self, request: u32) -> Option<&Times> {
        (request < self.layout.shape.requests).then(|| self.at(self.layout.times, request as usize))
    }

    #[inline]
    pub(crate) fn task_line(&self, id: u32) -> Option<&TaskLine> {
        // SAFETY: as in `at`: [in place], [checked].
        (id < self.layout.task_count).then(|| unsafe { self.tasks.add(id as usize).as_ref() })
    }

    /// Begins to fetch the lines of a task for writing: a hint.
    #[inline]
    pub fn prefetch_task(&self, id: u32) {
        if let Some(line) = self.task_line(id) {
            let line = core::ptr::from_ref(line).cast::<u8>();
            prefetch_to_write(line);
            prefetch_to_write(line.wrapping_add(64));
        }
    }

    /// The owner words of one class's blocks.
    pub(crate) fn block_owners(&self, class: usize) -> &[AtomicU64] {
        let count = self.layout.shape.classes().get(class).map_or(0, |c| c.count as usize);
        self.words(self.layout.block_owners[class], 0, count)
    }

    /// The first byte of a block, and its size; `None` if there is no such block.
    pub(crate) fn block(&self, class: usize, index: u64) -> Option<(NonNull<u8>, usize)> {
        let shape = self.layout.shape.classes().get(class)?;
        if index >= shape.count {
            return None;
        }
        let offset = self.layout.blocks[class] + (index * shape.block_bytes) as usize;
        // SAFETY: [checked]: the layout has `count` blocks of this class there.
        Some((unsafe { self.base.add(offset) }, shape.block_bytes as usize))
    }

    /// The words of a request's ring of partials; `None` if it has none.
    pub(crate) fn partial_ring(&self, request: u32) -> Option<&PartialLines> {
        let Shape { requests, partials, .. } = self.layout.shape;
        let exists = request < requests && partials.slots > 0;
        exists.then(|| self.at(self.layout.partial_rings, request as usize))
    }

    /// The first byte of a slot of a request's ring of partials, and its room behind the slot's header; `None` if there
    /// is no such slot.
    pub(crate) fn partial_slot(&self, request: u32, slot: u32) -> Option<(NonNull<u8>, usize)> {
        let Shape { requests, partials, .. } = self.layout.shape;
        if request >= requests || slot >= partials.slots {
            return None;
        }
        let (index, bytes) =
            (request as usize * partials.slots as usize + slot as usize, partials.slot_bytes());
        // SAFETY: [checked]: the layout has `requests` times `slots` slots there.
        let start = unsafe { self.base.add(self.layout.partial_slots + index * bytes as usize) };
        Some((start, bytes as usize - SLOT_HEADER_BYTES))
    }

    /// Counts traces; `None` if the segment keeps none.
    pub(crate) fn trace_ring(&self) -> Option<&TraceRing> {
        (self.layout.shape.traces > 0).then(|| self.at(self.layout.trace_ring, 0))
    }

    /// A record of a trace; `None` if there is no such record.
    pub(crate) fn trace_record(&self, index: u32) -> Option<Record<'_>> {
        let Shape { traces, .. } = self.layout.shape;
        let hops = self.layout.shape.trace_hops() as usize;
        // SAFETY: [checked]: the layout has `traces` times `hops` hops there; they are atomics.
        let hops_of = |index: usize| unsafe {
            let first = self.base.as_ptr().add(self.layout.trace_hops).cast::<HopLine>();
            core::slice::from_raw_parts(first.add(index * hops), hops)
        };
        let index = (index < traces).then_some(index as usize)?;
        Some(Record { head: self.at(self.layout.trace_heads, index), hops: hops_of(index) })
    }

    /// The traces that can be read now, in the order in which they began: the last [`Shape::traces`] requests that were
    /// traced, those in progress among them.
    #[must_use]
    pub fn traces(&self) -> Vec<Trace> {
        let records = self.layout.shape.traces;
        let look = |index: u32| {
            let trace = self.trace_record(index)?.look()?;
            // Else another process has written over its number.
            (trace.number % u64::from(records) == u64::from(index)).then_some(trace)
        };
        let mut traces: Vec<Trace> = (0..records).filter_map(look).collect();
        traces.sort_by_key(|trace| trace.number);
        traces
    }

    /// How many traces have begun since the segment was created.
    #[must_use]
    pub fn traces_begun(&self) -> u64 {
        self.trace_ring().map_or(0, |ring| ring.kept.load(Ordering::Acquire)) // [whole]: whoever counts it sees it
    }

    /// The segment's file, open.
    #[must_use]
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Hands over the directory of the files, which the creator holds open, for another process to hold: in this
    /// process, code that must stay in another root directory could escape through it. From now on this process removes
    /// the files by their path, as long as that leads to them.
    pub fn take_directory(&self) -> Option<File> {
        let mut removal = self.owner.as_ref()?.removal();
        match std::mem::replace(&mut *removal, Removal::ByPath) {
            Removal::In(directory) => Some(directory),
            other => {
                *removal = other;
                None
            }
        }
    }

    /// Takes the directory back, if no other process could get it.
    pub fn keep_directory(&self, directory: File) {
        if let Some(owner) = &self.owner {
            let mut removal = owner.removal();
            if matches!(*removal, Removal::ByPath) {
                *removal = Removal::In(directory);
            }
        }
    }

    /// From now on dropping it leaves the files.
    pub fn keep_files(&mut self) {
        self.owner = None;
    }

    /// Removes the files now, if this is the creator and it has not removed them before: afterwards another server may
    /// take their names. Processes that have it mapped may go on. A name that another file has by now stays.
    ///
    /// # Errors
    /// If this process may not, or no longer, do so, or the path no longer leads to the files; it does not retry.
    pub fn remove_files(&self) -> io::Result<()> {
        let Some(owner) = self.owner.as_ref().filter(|_| self.birth.is_here()) else { return Ok(()) };
        // A second call waits for the first: when either returns, the files are gone.
        let mut removal = owner.removal();
        let remove =
            |directory: &File| remove_held(&self.location, directory, &self.file, self.lease.probe());
        let removed = match &*removal {
            Removal::Done => Ok(()),
            Removal::In(directory) => remove(directory).map(drop),
            Removal::ByPath => {
                let path = self.location.path();
                open_directory(path.parent().unwrap_or(Path::new("/"))).and_then(|directory| {
                    match remove(&directory)? {
                        true => Ok(()),
                        false => Err(io::ErrorKind::NotFound.into()),
                    }
                })
            }
        };
        *removal = Removal::Done;
        removed
    }
}

/// Removes both files of a location from the directory that is held open, segment first, lease second, each only if
/// that file still has its name. The server's byte of the lease must be held meanwhile: by the server, or by a process
/// that has taken it after the server's end. Whether both files still had their names.
///
/// # Errors
/// If this process may not do so.
pub fn remove_held(location: &Location, directory: &File, segment: &File, lease: &File) -> io::Result<bool> {
    let (path, lease_path) = (location.path(), location.lease_path());
    let name = |path: &Path| path.file_name().unwrap_or_default().to_owned();
    let segment_was = remove_from(directory, &name(&path), segment)?;
    crash_point!("remove.segment");
    let lease_was = remove_from(directory, &name(&lease_path), lease)?;
    Ok(segment_was && lease_was)
}

fn bell(line: &BellLine) -> SharedBell<'_> {
    SharedBell::new(&line.count, &line.waiters)
}

impl Drop for Segment {
    fn drop(&mut self) {
        // `shared_memory` would unlink by name too, but after we release the lease.
        if let Mapping::Named(shmem) = &mut self._mapping {
            shmem.set_owner(false);
        }
        let _ = self.remove_files(); // there is no caller to report to
    }
}

/// Facts of a header.
#[derive(Debug, Clone, serde::Serialize)]
#[non_exhaustive]
pub struct Identity {
    /// The server's name or label, or the file's path.
    pub name: String,
    /// The layout's version.
    pub layout_version: u32,
    /// The hash of all fields, sizes and offsets.
    pub fingerprint: u64,
    /// When it was created.
    pub created_unix_s: u64,
    /// The user that created it.
    pub user_id: u32,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::ShapeError;
    use crate::participant::LeaseError;
    use crate::plan::{PlanError, Target};
    use crate::pool::PoolError;
    use crate::text::is_unruly;
    use std::error::Error;

    /// Of EAGAIN.
    const REASON: &str = "Resource temporarily unavailable";

    /// One line for a log or a terminal, with the reason in it exactly once, however it is printed.
    #[track_caller]
    fn assert_is_told(error: &dyn Error) {
        let text = error.to_string();
        assert!(!text.trim().is_empty() && text.len() < 600, "{text:?}");
        assert!(!text.contains(is_unruly), "{text:?}");
        assert!(error.source().is_none(), "{text:?} says all there is");
        assert_eq!(text.contains(REASON), format!("{error:?}").contains(REASON), "{text:?}");
    }

    #[test]
    fn a_gate_comes_back_from_its_number() {
        for gate in
            [Gate::Open, Gate::Closing, Gate::Down(0), Gate::Down(255), Gate::Drained(0), Gate::Drained(255)]
        {
            assert_eq!(Gate::from_raw(gate.raw()), gate);
        }
        assert_eq!(Gate::from_raw(Gate::DRAINED), Gate::Open, "no gate's number");
    }

    fn path() -> PathBuf {
        "/dev/shm/a\x1bb\n".into()
    }

    #[test]
    fn every_error_is_one_line_with_its_reason() {
        let system = || io::Error::from_raw_os_error(libc::EAGAIN);
        let name = Location::named("a\nb").expect_err("no name");
        let shape = ShapeError { what: "it", value: 3, least: 1, most: 2 };
        let created = [
            CreateError::Name(name),
            CreateError::Shape(shape),
            CreateError::Plan(PlanError::ToNowhere { part: Target::Node(3), to: Target::Fork(1) }),
            CreateError::Overwritten { path: path(), why: NotASegment::Overlap },
            CreateError::InUse { path: path(), pid: Some(3) },
            CreateError::Foreign { path: path() },
            CreateError::Owner { path: path(), owner: 1, user: 2 },
            CreateError::FileLimit { path: path(), needed_bytes: 2, limit_bytes: 1 },
            CreateError::NoSpace { path: path(), needed_bytes: 2, available_bytes: 1 },
            CreateError::HugePages { path: path(), page_bytes: 1, needed_bytes: 2, available_bytes: 1 },
            CreateError::NoHugePages { path: path() },
            CreateError::MemoryLimit {
                path: path(),
                group: path(),
                limit_bytes: 1,
                available_bytes: 1,
                needed_bytes: 2,
            },
            CreateError::NoProc { path: path(), error: system() },
            CreateError::NoMemory { path: path(), available_bytes: 1, needed_bytes: 2 },
            CreateError::System { what: "lock", path: path(), error: system() },
        ];
        for error in &created {
            assert_is_told(error);
            match error {
                // A variant that is missing above does not compile here: add it to both.
                CreateError::Name(_) | CreateError::Shape(_) | CreateError::Plan(_) => {}
                CreateError::Overwritten { .. } => {}
                CreateError::InUse { .. } | CreateError::Foreign { .. } | CreateError::Owner { .. } => {}
                CreateError::FileLimit { .. } | CreateError::NoSpace { .. } => {}
                CreateError::HugePages { .. } | CreateError::NoHugePages { .. } => {}
                CreateError::MemoryLimit { .. } => {}
                CreateError::NoProc { .. } | CreateError::NoMemory { .. } => {}
                CreateError::System { .. } => {}
            }
        }
        let attached = [
            AttachError::System { what: "map", path: path(), error: system() },
            AttachError::Foreign { path: path(), why: NotASegment::Magic },
            AttachError::Version { path: path(), found: 1, expected: 2 },
            AttachError::Fingerprint { path: path(), found: 1, expected: 2 },
            AttachError::Size { path: path(), found: 1, stated: 2, needed: 3 },
            AttachError::Owner { path: path(), owner: 1, user: 2 },
            AttachError::Mode { path: path(), mode: 0o666 },
            AttachError::Several { address: "a@1".into(), all: "a@1:2, a@1:3".into() },
        ];
        for error in &attached {
            assert_is_told(error);
            match error {
                AttachError::System { .. } | AttachError::Foreign { .. } | AttachError::Version { .. } => {}
                AttachError::Fingerprint { .. } | AttachError::Size { .. } => {}
                AttachError::Owner { .. } | AttachError::Mode { .. } | AttachError::Several { .. } => {}
            }
        }
        for error in [LeaseError::Owner { owner: 1 }, LeaseError::Irregular, LeaseError::System(system())] {
            assert_is_told(&error);
        }
        for error in [PoolError::TooLarge { bytes: 2, largest: 1 }, PoolError::Exhausted { bytes: 1 }] {
            assert_is_told(&error);
        }
        assert_is_told(&crate::arena::Corrupt { task: 1, bytes: 2, block: 3 });
    }
}
