//! Requests, tasks and their payloads, through guards that stand for a phase of the state word.
//!
//! [`Filling`] is a client that writes an input, [`Claimed`] a worker that has a task, [`Done`] a client that has an
//! outcome. The guard's holder is the owner that the state word names, so it alone touches the header and the payload.
//! Dropping a guard leaves its task as it is, as if the holder had died: the layer above never drops one without ending
//! or moving on the task.
//!
//! # Layout
//!
//! See [`layout`](crate::layout): a line of 128 bytes a task. The in-line buffer takes the input and then, over it, the
//! outcome, once the worker's views of the input have ended. What does not fit lies in a block; the header names up to
//! two, the payload's own and another that is kept until the task is free.
//!
//! An outcome may overwrite its input only if no worker would retry the task after a death ([`Claimed::keep_input`] has
//! it written beside); and a worker that writes over an input records that first, in `at`.
//!
//! A task's payload may lie with another task of its request: a branch's input with the task that was forked,
//! so that a fan-out moves nothing; the error by which a fork failed with the branch that failed, since late
//! branches still read the input (`join`, `[shared]`).
//!
//! A request's first task is the request and has its number; the branches follow behind all requests, with room for a
//! power of two of them each, so that a branch's slot follows from its number at once.
//!
//! # Invariants
//!
//! * Guards come from a [`party`](crate::party) only (`[by right]`), and one of a task at a time.
//! * `[one owner]`: between taking a phase and handing it on, only the guard's holder accesses the header's plain
//!   fields and the payload bytes.
//! * `[committed]`: an outcome written beside its input becomes the payload with one store of length, block and the
//!   mark that says so. Before that store the task can be retried; after it, the participant that finds the task moves
//!   it on with the outcome. The mark goes after `at` has named the next node, and before that node's worker names
//!   itself.
//! * `[marked]`: before a joiner writes an error record over a branch's outcome, `at` of that branch names the fork.
//! * `[handles checked]`: block handles and lengths are read from the segment and therefore checked against the
//!   layout, and blocks against their owner word, before bytes are touched.
#![expect(unsafe_code, reason = "payload bytes in shared memory")]

mod forked;
mod held;
mod partials;
mod retry;
#[cfg(not(loom))]
mod seen;
mod trace;

pub use forked::{Arrived, Forked, Join, JoinBuffer};
pub use held::WriteBuffer;
use held::{ELSEWHERE, Held};
pub use partials::{Emitter, Listener, Partials, Room};
pub use retry::{Keeping, all_begun};
#[cfg(not(loom))]
pub use seen::{Content, Place, Seen, SeenPayload};

use crate::join::Family;
use crate::layout::{NODE_LIMIT, TaskLine};
use crate::pool::{self, Handle, PoolError};
use crate::segment::Segment;
use crate::stats::Stamp;
use crate::sync::{Ordering, compiler_fence};
use crate::token::Token;
use crate::word::{Cancel, Claim, Finish, Phase, State, Word};

/// The header of a task is impossible: a broken or hostile peer wrote it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "task {task} names a payload of {bytes} bytes at block {block}, where none can lie: another process has written over the segment"
)]
pub struct Corrupt {
    /// The task.
    pub task: u32,
    /// The length in the header.
    pub bytes: u32,
    /// The block in the header, plus one; 0 is the in-line buffer.
    pub block: u32,
}

/// Where a task is, or was last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum At {
    /// Moved to this node: in its ring, about to be, or read from it and not begun. Tasks of one group, unless it is 0,
    /// were in one batch when their worker died; a batch mixes them with no other task.
    To {
        /// The node.
        node: u32,
        /// The group.
        group: u32,
        /// It has been queued there before: a retry. Else no worker has tried it there, whatever its word counts: those attempts
        /// are of the node before, if the mover died.
        retried: bool,
    },
    /// User code may have seen it at this node.
    Begun {
        /// The node.
        node: u32,
        /// If its payload is the outcome, that is an error record.
        failed: bool,
    },
    /// User code may have seen it, and its input is no longer whole.
    Spoilt,
    /// A new branch, not moved on yet.
    New,
    /// Forked at this fork, or about to be.
    Forked(u32),
    /// Joined after this fork, with a value.
    Joined(u32),
    /// At the end, because of the error that the task in this slot has.
    Failed(u32),
}

impl At {
    const KIND: u32 = 0b11 << 30;
    const BEGUN: u32 = 1 << 29;
    const FAILED: u32 = 1 << 28;
    const RETRIED: u32 = 1 << 28;
    const NODE: u32 = NODE_LIMIT - 1;
    const GROUP_SHIFT: u32 = 8;
    /// Groups have numbers below this, and 0 is none.
    pub const GROUP_LIMIT: u32 = Self::RETRIED >> Self::GROUP_SHIFT;

    /// Moved to this node, in no group.
    #[inline]
    #[must_use]
    pub fn to(node: u32) -> Self {
        Self::To { node, group: 0, retried: false }
    }

    #[inline]
    fn raw(self) -> u32 {
        match self {
            Self::To { node, group, retried } => {
                let group = (group % Self::GROUP_LIMIT) << Self::GROUP_SHIFT;
                node & Self::NODE | group | if retried { Self::RETRIED } else { 0 }
            }
            Self::Begun { node, failed } => {
                Self::BEGUN | node & Self::NODE | if failed { Self::FAILED } else { 0 }
            }
            Self::Spoilt => u32::MAX - 1,
            Self::Forked(index) => 0b10 << 30 | index,
            Self::Joined(index) => 0b01 << 30 | index,
            Self::Failed(slot) => Self::KIND | slot,
            Self::New => u32::MAX,
        }
    }

    fn from_raw(raw: u32) -> Self {
        let rest = raw & !Self::KIND;
        match raw >> 30 {
            0b00 if raw & Self::BEGUN != 0 => {
                Self::Begun { node: raw & Self::NODE, failed: raw & Self::FAILED != 0 }
            }
            0b00 => Self::To {
                node: raw & Self::NODE,
                group: (raw & (Self::RETRIED - 1)) >> Self::GROUP_SHIFT,
                retried: raw & Self::RETRIED != 0,
            },
            0b10 => Self::Forked(rest),
            0b01 => Self::Joined(rest),
            _ if raw == u32::MAX => Self::New,
            _ if raw == u32::MAX - 1 => Self::Spoilt,
            _ => Self::Failed(rest),
        }
    }
}

const _: () = assert!(NODE_LIMIT == 1 << At::GROUP_SHIFT);

// SAFETY: the one part of a line that is not atomic is its in-line buffer. Only the holder of a task's guard accesses
// it ([one owner]), and guards go from thread to thread as they go from process to process: by writes and reads of the
// state word that are ordered ([handed]), or as values of this process.
unsafe impl Sync for TaskLine {}

/// A task, by its id; what any participant may do with it.
#[derive(Clone, Copy, Debug)]
pub struct Task<'a> {
    segment: &'a Segment,
    line: &'a TaskLine,
    id: u32,
}

impl<'a> Task<'a> {
    /// The task with this id; `None` if there is none.
    #[inline]
    #[must_use]
    pub fn new(segment: &'a Segment, id: u32) -> Option<Self> {
        Some(Self { segment, line: segment.task_line(id)?, id })
    }

    /// Its id.
    #[inline]
    #[must_use]
    pub fn id(&self) -> u32 {
        self.id
    }

    /// The segment that it is in.
    #[must_use]
    pub fn segment(&self) -> &'a Segment {
        self.segment
    }

    /// Its state word.
    #[inline]
    #[must_use]
    pub fn word(&self) -> &'a Word {
        &self.line.word
    }

    /// When it was put into a ring, if it is timed or traced or the node has a batch window; and whether it is timed, and
    /// traced.
    #[inline]
    #[must_use]
    pub fn stamp(&self) -> Stamp {
        Stamp::from_raw(self.line.stamp.load(Ordering::Relaxed)) // Relaxed: travels with [published]
    }

    #[inline]
    fn set_stamp(&self, stamp: Stamp) {
        self.line.stamp.store(stamp.raw(), Ordering::Relaxed); // Relaxed: [one owner]
    }

    /// When its request was sent, in monotonic nanoseconds; only right if its [stamp](Self::stamp) says that it is timed or
    /// traced.
    #[must_use]
    pub fn sent_ns(&self) -> u64 {
        // Relaxed: travels with [published].
        self.segment.times(self.slot().0).map_or(0, |times| times.sent_ns.load(Ordering::Relaxed))
    }

    /// Where it is, or was last.
    #[inline]
    #[must_use]
    pub fn at(&self) -> At {
        At::from_raw(self.line.at.load(Ordering::Relaxed)) // Relaxed: travels with [handed]
    }

    #[inline]
    fn set_at(&self, at: At) {
        self.line.at.store(at.raw(), Ordering::Relaxed); // Relaxed: [one owner]
    }

    /// Whether it is a branch of a request, and not the request itself.
    #[inline]
    #[must_use]
    pub fn is_branch(&self) -> bool {
        self.id >= self.segment.shape().requests
    }

    /// The request it belongs to, and its slot in that request: 0 is the request itself.
    #[inline]
    #[must_use]
    pub fn slot(&self) -> (u32, u32) {
        self.segment.slot_of(self.id)
    }

    /// The task in another slot of the same request.
    #[inline]
    #[must_use]
    pub fn sibling(&self, slot: u32) -> Option<Self> {
        let (request, _) = self.slot();
        let exists = slot <= self.segment.shape().branches();
        exists.then(|| Self::new(self.segment, self.segment.id_of(request, slot)))?
    }

    /// The tasks of its request.
    #[inline]
    pub(crate) fn family(&self) -> Family<'a, impl Fn(u32) -> Option<&'a Word> + use<'a>> {
        let (segment, (request, _)) = (self.segment, self.slot());
        Family {
            routes: segment.routes(),
            pending: segment.pending(request),
            // Slots come from routes, whose branches are those of the shape.
            word: move |slot| Some(&segment.task_line(segment.id_of(request, slot))?.word),
        }
    }

    /// The word of its request, which has the caller's flags.
    #[inline]
    #[must_use]
    pub fn request_word(&self) -> &'a Word {
        let line = self.segment.task_line(self.slot().0);
        line.map_or(&self.line.word, |request| &request.word)
    }

    /// Since when its request is in progress, in monotonic nanoseconds, to 65 µs; `None` if no client has read a clock
    /// since it was begun.
    #[must_use]
    pub fn begun_ns(&self) -> Option<u64> {
        // Relaxed: for reports.
        let tagged = self.segment.times(self.slot().0)?.begun_ns.load(Ordering::Relaxed);
        let of = self.request_word().peek().generation();
        (tagged != 0 && tagged as u16 == of).then_some(tagged & !u64::from(u16::MAX))
    }

    /// The client of this request has read a clock; nothing for a branch. The low bits name the generation, so that nothing
    /// need be written where no clock is read.
    #[inline]
    pub fn set_begun_ns(&self, now_ns: u64) {
        if let Some(times) = self.segment.times(self.id) {
            let of = self.line.word.peek().generation();
            // Relaxed: for reports.
            times.begun_ns.store(now_ns & !u64::from(u16::MAX) | u64::from(of), Ordering::Relaxed);
        }
    }

    /// Begins to fetch its lines for writing: a hint.
    #[inline]
    pub fn prefetch(&self) {
        self.segment.prefetch_task(self.id);
    }

    /// FREE → FILLING, by the client that has the request in hand.
    #[inline]
    pub(crate) fn begin(self, client: Token) -> Filling<'a> {
        let state = self.line.word.begin(client);
        crash_point!("arena.begun");
        self.line.set_payload(0, 0);
        crash_point!("arena.cleared_half");
        self.line.second.store(0, Ordering::Relaxed); // Relaxed: [one owner]
        Filling { held: Held { task: self, state }, client }
    }

    /// QUEUED → CLAIMED, by the holder of the reader lock of the ring it lies in.
    ///
    /// The task's caller may have gone ([`Claimed::is_abandoned`]). The reader does not free such a task here: its id
    /// could go back into the ring before `head` has passed its cell.
    #[inline]
    pub(crate) fn claim(self, me: Token, is_dead: impl Fn(Token) -> bool) -> Option<Claimed<'a>> {
        match self.line.word.claim(me, is_dead) {
            Claim::Taken(state) | Claim::Abandoned(state) => {
                Some(Claimed::new(Held { task: self, state }, me))
            }
            Claim::Stale(_) => None,
        }
    }

    /// Takes a dead worker's task, from exactly this state.
    pub(crate) fn take_over(self, dead: State, me: Token) -> Option<Claimed<'a>> {
        let state = self.line.word.take_over(dead, me)?;
        Some(Claimed::new(Held { task: self, state }, me))
    }

    /// The outcome, if it is there, for the client that has the request in hand.
    #[inline]
    pub(crate) fn outcome(self) -> Option<Done<'a>> {
        let state = self.line.word.load();
        state.is_in(Phase::Done).then_some(Done(Held { task: self, state }))
    }

    /// Whether the outcome is there.
    #[inline]
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.line.word.peek().is_in(Phase::Done)
    }

    /// The client goes. True if another participant will free the request, with its branches; else it is FREE now.
    pub(crate) fn cancel(self) -> bool {
        match self.line.word.cancel() {
            Cancel::Left => true,
            Cancel::WasDone if self.segment.shape().branches() > 0 => {
                // A client process does so under its own token, and not as the owner that the worker has named: if it dies
                // here, it is repaired.
                let client = self.segment.client_token();
                !self.reap(client.or_else(|| self.line.word.peek().owner()))
            }
            Cancel::WasDone => {
                Held { task: self, state: self.line.word.load() }.free();
                false
            }
        }
    }

    /// Whether it is FREE.
    #[inline]
    #[must_use]
    pub fn is_free(&self) -> bool {
        self.line.word.load().is_in(Phase::Free)
    }

    /// The blocks that its header names and that it owns.
    pub(crate) fn blocks(&self, generation: u16) -> impl Iterator<Item = Handle> {
        self.listed()
            .into_iter()
            .filter_map(Handle::from_raw)
            .filter(move |&handle| pool::owns(self.segment, handle, self.id, generation))
    }

    /// Frees the blocks that the task owns, for a repairer; may be repeated.
    pub(crate) fn release_blocks(&self, generation: u16) {
        for handle in self.listed().into_iter().filter_map(Handle::from_raw) {
            pool::free(self.segment, handle, self.id, generation); // which checks the owner
            crash_point!("arena.freed_one");
        }
    }

    pub(crate) fn listed(&self) -> [u32; 2] {
        [self.line.block(), self.line.second.load(Ordering::Relaxed)] // Relaxed: travels with [handed]
    }
}

/// A request whose input is being written.
#[derive(Debug)]
pub struct Filling<'a> {
    held: Held<'a>,
    client: Token,
}

impl<'a> Filling<'a> {
    /// The id.
    #[inline]
    #[must_use]
    pub fn id(&self) -> u32 {
        self.held.task.id
    }

    /// The in-line buffer.
    #[inline]
    pub fn inline_buffer(&mut self) -> WriteBuffer<'_> {
        self.held.inline_buffer()
    }

    /// A block of at least `bytes` bytes.
    ///
    /// # Errors
    /// See [`PoolError`]; the request is as before.
    pub fn block_buffer(&mut self, bytes: u64) -> Result<WriteBuffer<'_>, PoolError> {
        self.held.block_buffer(bytes)
    }

    /// The length of the payload that was written to the last buffer asked for.
    #[inline]
    pub fn set_length(&mut self, bytes: usize) {
        self.held.set_length(bytes);
    }

    /// Records when it was enqueued, or that it does not say so.
    #[inline]
    pub fn stamp(&mut self, stamp: Stamp) {
        self.held.task.set_stamp(stamp);
    }

    /// Records that it is sent now, for a request that is timed or traced.
    pub fn set_sent_ns(&mut self, now_ns: u64) {
        let task = self.held.task;
        if let Some(times) = task.segment.times(task.id) {
            times.sent_ns.store(now_ns, Ordering::Relaxed); // Relaxed: [one owner]
        }
    }

    /// Sets its deadline, in monotonic nanoseconds. Requests without one pay nothing for it.
    pub fn limit(&mut self, deadline_ns: u64) {
        let task = self.held.task;
        if let Some(times) = task.segment.times(task.id) {
            times.deadline_ns.store(deadline_ns, Ordering::Relaxed); // Relaxed: [one owner]
            crash_point!("arena.limited");
            self.held.state = self.held.state.with_deadline();
        }
    }

    /// Opens its ring of [partials](Partials); false if the segment has none. The caller closes it before the
    /// request is free again.
    pub fn open_partials(&self) -> bool {
        self.held.task.open_partials()
    }

    /// → QUEUED for this node. The push into its ring must follow.
    #[inline]
    pub fn queue(self, node: u32) -> Task<'a> {
        let Self { held: Held { task, state }, client } = self;
        task.set_at(At::to(node));
        crash_point!("arena.queue_at");
        task.line.word.queue(state, client);
        task
    }

    /// → CLAIMED by the client, which moves it on itself.
    #[must_use]
    pub fn keep(self) -> Claimed<'a> {
        let Self { held: Held { task, state }, client } = self;
        task.set_at(At::New);
        crash_point!("arena.keep_at");
        let state = task.line.word.keep(state, client);
        Claimed::new(Held { task, state }, client)
    }

    /// → FREE: it will not be sent. Returns the id.
    pub fn abandon(self) -> u32 {
        self.held.free()
    }
}

impl<'a> Task<'a> {
    /// The guard of a request that is FILLING, after its client has dropped the first guard; `None` if it is not
    /// FILLING.
    #[inline]
    pub(crate) fn resume_filling(self, client: Token) -> Option<Filling<'a>> {
        let state = self.line.word.peek();
        state.is_in(Phase::Filling).then_some(Filling { held: Held { task: self, state }, client })
    }
}

/// A task that a worker (or a repairer) owns.
#[derive(Debug)]
pub struct Claimed<'a> {
    held: Held<'a>,
    me: Token,
}

impl<'a> Claimed<'a> {
    /// The id.
    #[inline]
    #[must_use]
    pub fn id(&self) -> u32 {
        self.held.task.id
    }

    /// How many workers have died while they worked on it.
    #[must_use]
    pub fn attempt(&self) -> u8 {
        self.held.state.attempt()
    }

    /// The task.
    #[must_use]
    pub fn task(&self) -> Task<'a> {
        self.held.task
    }

    /// Whether its caller had gone when it was claimed, or a fork that it belongs to has ended: no one waits for its
    /// outcome.
    #[inline]
    #[must_use]
    pub fn is_abandoned(&self) -> bool {
        self.held.state.is_cancelled() || self.held.task.is_branch() && self.is_unwanted_branch()
    }

    #[inline(never)]
    fn is_unwanted_branch(&self) -> bool {
        let task = self.held.task;
        task.family().is_unwanted(task.slot().1 - 1)
    }

    /// The deadline of its request, in monotonic nanoseconds; `None` if it has none.
    #[inline(always)]
    #[must_use]
    pub fn deadline_ns(&self) -> Option<u64> {
        let task = self.held.task;
        let state = if task.is_branch() { task.request_word().peek() } else { self.held.state };
        if !state.has_deadline() {
            return None;
        }
        // Relaxed: travels with [handed].
        Some(task.segment.times(task.slot().0)?.deadline_ns.load(Ordering::Relaxed))
    }

    /// Ends an [abandoned](Self::is_abandoned) task: frees a request, lets a branch arrive without an outcome. Not
    /// before `head` has passed its cell.
    ///
    /// # Panics
    /// If it is a request whose caller had not gone.
    #[must_use]
    pub fn discard(mut self) -> Option<Join<'a>> {
        if self.held.task.is_branch() {
            self.held.inline_buffer();
            self.held.set_length(0);
            return self.finish_branch(true);
        }
        assert!(self.held.state.is_cancelled(), "a caller waits for task {}", self.held.task.id);
        if self.held.task.segment.shape().branches() > 0 {
            let me = self.me;
            self.finish_forked(me, true); // which frees what is left of its branches
            return None;
        }
        self.held.free_for_gone_caller();
        None
    }

    /// Its payload's bytes.
    ///
    /// # Errors
    /// [`Corrupt`] if the header is impossible.
    #[inline(always)]
    pub fn payload(&self) -> Result<&[u8], Corrupt> {
        self.held.payload()
    }

    /// Its payload's bytes, to change them where they lie; `None` if they lie [elsewhere](Self::is_elsewhere).
    ///
    /// # Errors
    /// As [`payload`](Self::payload).
    pub fn payload_mut(&mut self) -> Result<Option<&mut [u8]>, Corrupt> {
        self.held.payload_mut()
    }

    /// Whether its payload lies with another task, so that other participants may read it too.
    #[must_use]
    pub fn is_elsewhere(&self) -> bool {
        self.held.task.line.block() & ELSEWHERE != 0
    }

    /// The in-line buffer, over the input; no view of the payload can exist while it does.
    #[inline]
    pub fn inline_buffer(&mut self) -> WriteBuffer<'_> {
        self.held.inline_buffer()
    }

    /// A block of at least `bytes` bytes; the input's own if it is large enough.
    ///
    /// # Errors
    /// See [`PoolError`]; the input is as before.
    pub fn block_buffer(&mut self, bytes: u64) -> Result<WriteBuffer<'_>, PoolError> {
        self.held.block_buffer(bytes)
    }

    /// The length of the payload that was written to the last buffer asked for.
    #[inline]
    pub fn set_length(&mut self, bytes: usize) {
        self.held.set_length(bytes);
    }

    #[inline]
    fn new(held: Held<'a>, me: Token) -> Self {
        Self { held, me }
    }

    /// Ends it with its payload, a value or an error record. A request: → DONE for the server, whose request it is, and
    /// wakes the caller if it waits; or → FREE if the caller has gone. A branch: it arrives at its join; the caller
    /// that gets a [`Join`] must do that.
    #[inline(always)]
    #[must_use]
    pub fn finish(self, error: bool) -> Option<Join<'a>> {
        self.finish_as_of(Token::SERVER, error)
    }

    /// [`finish`](Self::finish) of a request of another client than the server.
    ///
    /// # Safety
    /// The request is `client`'s: it is freed when `client` is repaired.
    #[must_use]
    pub unsafe fn finish_for(self, client: Token, error: bool) -> Option<Join<'a>> {
        self.finish_as_of(client, error)
    }

    #[inline(always)]
    fn finish_as_of(self, client: Token, error: bool) -> Option<Join<'a>> {
        let task = self.held.task;
        if task.segment.shape().branches() > 0 {
            return self.finish_among_branches(client, error);
        }
        match task.line.word.finish(self.me, client, error) {
            Finish::Done { wake: false, notify: false } => {}
            Finish::Done { wake, notify } => task.tell_caller(wake, notify),
            Finish::Abandoned => self.held.free_for_gone_caller(),
            Finish::Lost(_) => {} // another participant took us for dead, and has answered
        }
        None
    }

    /// [`finish`](Self::finish), where tasks may have branches, or be some.
    #[inline(never)]
    fn finish_among_branches(self, client: Token, error: bool) -> Option<Join<'a>> {
        if self.held.task.is_branch() {
            return self.finish_branch(error);
        }
        self.finish_forked(client, error);
        None
    }

    /// → QUEUED for `node`; the push of the id into its ring must follow ([`Node::push`](
    /// crate::segment::Node::push)). `now_ns` is asked for the time where the node has a batch window, or if
    /// the task is timed or traced.
    ///
    /// # Errors
    /// The task itself, if it is no longer ours, or there is no such node.
    #[inline]
    pub fn queue(self, node: u32, now_ns: impl FnOnce() -> u64) -> Result<u32, Self> {
        self.queue_at(At::to(node), node, now_ns, 0)
    }

    #[inline]
    fn queue_at(self, at: At, node: u32, now_ns: impl FnOnce() -> u64, attempt: u8) -> Result<u32, Self> {
        let task = self.held.task;
        let Some(info) = task.segment.nodes().get(node as usize) else { return Err(self) };
        let stamp = task.stamp();
        task.set_stamp(match stamp.is_marked() || info.facts.needs_times() {
            true => stamp.again_at(now_ns()),
            false => Stamp::NONE,
        });
        compiler_fence(Ordering::SeqCst); // an outcome over the input is whole: as in `give_up_input`
        task.set_at(at);
        crash_point!("arena.requeue_at");
        compiler_fence(Ordering::SeqCst); // [committed]: the mark goes after
        task.line.set_block(task.line.block()); // an outcome no more, but an input: [committed]
        crash_point!("arena.requeue_input");
        if task.line.word.requeue(self.me, attempt) { Ok(task.id) } else { Err(self) }
    }
}

/// A claimed task without the lifetime of its segment: to be parked and resumed.
///
/// ```compile_fail,E0382
/// use ringmill_shm::{arena::Parked, segment::Segment};
/// fn twice(segment: &Segment, parked: Parked) {
///     let first = parked.resume(segment);
///     let second = parked.resume(segment);
/// }
/// ```
#[derive(Debug)]
#[must_use = "a parked task that is not resumed stays claimed"]
pub struct Parked {
    id: u32,
    me: Token,
    /// Of the state word; the upper half is `me`, for it is CLAIMED.
    low: u32,
    /// The number of its segment in this process.
    segment: u32,
}

impl Claimed<'_> {
    /// Parks it.
    #[inline(always)]
    pub fn park(self) -> Parked {
        let Held { task, state } = self.held;
        Parked { id: task.id, me: self.me, low: state.low(), segment: task.segment.number() }
    }
}

/// A claimed task that stays parked while it is looked at.
#[derive(Debug)]
pub struct Glance<'p>(Claimed<'p>);

impl<'p> core::ops::Deref for Glance<'p> {
    type Target = Claimed<'p>;

    #[inline(always)]
    fn deref(&self) -> &Claimed<'p> {
        &self.0
    }
}

impl Parked {
    /// The task, to be looked at only: it stays parked. `None` in another segment than the one it was claimed in.
    ///
    /// ```compile_fail,E0505
    /// use ringmill_shm::{arena::Parked, segment::Segment};
    /// fn twice(segment: &Segment, parked: Parked) {
    ///     let glance = parked.glance(segment).unwrap();
    ///     let task = parked.resume(segment);
    ///     glance.id();
    /// }
    /// ```
    /// ```compile_fail,E0507
    /// use ringmill_shm::{arena::Parked, segment::Segment};
    /// fn ended(segment: &Segment, parked: &Parked) {
    ///     parked.glance(segment).unwrap().finish(false);
    /// }
    /// ```
    #[inline(always)]
    #[must_use]
    pub fn glance<'p>(&'p self, segment: &'p Segment) -> Option<Glance<'p>> {
        Self { ..*self }.resume(segment).map(Glance)
    }

    /// The task again; `None` in another segment than the one it was claimed in.
    #[inline(always)]
    #[must_use]
    pub fn resume(self, segment: &Segment) -> Option<Claimed<'_>> {
        if self.segment != segment.number() {
            return None;
        }
        let task = Task::new(segment, self.id)?;
        Some(Claimed::new(Held { task, state: State::claimed(self.me, self.low) }, self.me))
    }
}

/// A request whose outcome is there.
#[derive(Debug)]
pub struct Done<'a>(Held<'a>);

impl<'a> Done<'a> {
    /// The task.
    #[must_use]
    pub fn task(&self) -> Task<'a> {
        self.0.task
    }

    /// The id.
    #[inline]
    #[must_use]
    pub fn id(&self) -> u32 {
        self.0.task.id
    }

    /// Whether the payload is an error record.
    #[inline]
    #[must_use]
    pub fn is_error(&self) -> bool {
        self.0.state.is_error()
    }

    /// The outcome's bytes.
    ///
    /// # Errors
    /// [`Corrupt`] if the header is impossible.
    #[inline(always)]
    pub fn payload(&self) -> Result<&[u8], Corrupt> {
        if self.is_error() { self.0.error_payload() } else { self.0.payload() }
    }

    /// Whether branches of it may still be under way: then its client [cancels](Self::cancel) it instead of
    /// [freeing](Self::free) it.
    #[inline]
    #[must_use]
    pub fn may_have_branches(&self) -> bool {
        self.is_error() && self.0.task.segment.shape().branches() > 0 // [values leave nothing] of `join`
    }

    /// The outcome as a value, after which its request has no branches under way; itself if it is an error record.
    ///
    /// # Errors
    /// The outcome, which is an error record.
    #[inline(always)]
    pub fn into_value(self) -> Result<Value<'a>, Self> {
        if self.is_error() { Err(self) } else { Ok(Value(self.0)) } // [values leave nothing] of `join`
    }

    /// → FREE; returns the id.
    ///
    /// # Panics
    /// If it [may have branches](Self::may_have_branches): they would be another request's.
    #[inline]
    pub fn free(self) -> u32 {
        assert!(!self.may_have_branches(), "branches of request {} may be under way", self.id());
        self.0.free()
    }

    /// Its client goes: as [`Client::cancel`](crate::party::Client::cancel).
    #[must_use]
    pub fn cancel(self) -> bool {
        self.0.task.cancel()
    }
}

/// A request whose outcome is there and is a value: none of its branches is under way.
#[derive(Debug)]
pub struct Value<'a>(Held<'a>);

impl<'a> Value<'a> {
    /// The task.
    #[inline]
    #[must_use]
    pub fn task(&self) -> Task<'a> {
        self.0.task
    }

    /// The value's bytes.
    ///
    /// # Errors
    /// [`Corrupt`] if the header is impossible.
    #[inline(always)]
    pub fn payload(&self) -> Result<&[u8], Corrupt> {
        self.0.payload()
    }

    /// → FREE; returns the id.
    #[inline]
    pub fn free(self) -> u32 {
        self.0.free()
    }
}
