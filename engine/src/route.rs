//! Moving a finished task on: into the next ring, into branches, through a switch, into a join, to its caller.
//!
//! Whoever has finished a task does this, in whatever process: a worker, or the caller with a new request.
//! What it must know lies in the segment ([`ringmill_shm::plan`]), but for the functions of switches, which
//! only the server's process has. A worker's process gives the task to the switch's own node instead, whose
//! thread in the server's process passes it on.
//!
//! # Protocol
//!
//! A fork's branches refer to the input of the task that is forked; nothing is copied. Who joins copies the
//! members' outcomes side by side into one payload, without knowing their types: each outcome ends with its
//! root, whose size the plan says, and rkyv reaches everything else from there. So what a fork gives is made
//! of boxes:
//!
//! ```text
//! tuple   outcome 0 │ outcome 1 │ … │ pointer 0, pointer 1, …            (Box<A>, Box<B>, …)
//! list    outcome 0 │ outcome 1 │ … │ pointer 0, pointer 1, … │ vector   Vec<Box<T>>
//! with errors kept: a tag before each pointer                            Result<Box<T>, Box<RemoteError>>
//! ```
//!
//! # Source
//!
//! The layout is that of rkyv 0.8 with little-endian, aligned, 64-bit relative pointers; `tests` below check
//! it against rkyv itself.

use crate::error::{EncodeError, Member, MemberOutcome, RemoteCause, RemoteError};
use crate::panics;
use crate::payload::{Places, copied, encode, to_bytes};
use ringmill_shm::arena::{Arrived, At, Claimed, Corrupt, Join, Keeping, Task};
use ringmill_shm::layout::{INLINE_BYTES, PAYLOAD_ALIGN};
use ringmill_shm::plan::{self, Routes, Target};
use ringmill_shm::pool::PoolError;
use ringmill_shm::segment::{Node, Run, Segment};
use ringmill_shm::sys::birth::Birth;
use ringmill_shm::sys::time::now_ns;
use ringmill_shm::token::Token;
use rkyv::Archived;
use rkyv::primitive::ArchivedUsize;
use std::cell::RefCell;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A switch's function: which member an input is for.
pub(crate) type Choose = Arc<dyn Fn(&[u8]) -> Result<usize, RemoteCause> + Send + Sync>;

/// What the server's process knows of a plan and the segment does not.
#[derive(Default)]
pub(crate) struct Router {
    /// By switch; none in a worker's process.
    pub(crate) choosers: Vec<Choose>,
}

impl Drop for Router {
    /// Whichever thread is the last to know of the server.
    fn drop(&mut self) {
        self.choosers.drain(..).for_each(panics::let_go);
    }
}

impl fmt::Debug for Router {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Router").field("choosers", &self.choosers.len()).finish()
    }
}

/// How a fork's outcomes are put together; bits of a fork's `form`.
pub(crate) const LIST: u32 = 1;
pub(crate) const KEEPS_ERRORS: u32 = 2;

/// Where a joined value is put together before it is written over what it was made from.
struct Table {
    bytes: Vec<u8>,
    /// Where each member's root lies, and whether it is an error.
    roots: Vec<(usize, bool)>,
}

thread_local! {
    static TABLE: RefCell<Table> = const { RefCell::new(Table { bytes: Vec::new(), roots: Vec::new() }) };
}

/// Tasks that are queued and will be pushed together: one update of a ring's tail and one look at its doorbell
/// for several, and its workers wake to a batch.
#[derive(Debug, Default)]
pub(crate) struct Outbox(RefCell<Queued>);

#[derive(Debug, Default)]
struct Queued {
    /// By node.
    ids: Vec<(u32, Vec<u32>)>,
    /// Where the last one went: the next goes there, or to the one after it.
    last: usize,
    /// Something was added since the last look.
    added: bool,
}

/// A node without workers has its lock held for a moment only, by others that empty its ring. Where it seems to
/// be held for longer, somebody has written so.
const LOCK_LIMIT: Duration = Duration::from_secs(1);
/// So many for one node are pushed although more may come.
const OUTBOX: usize = 64;

impl Outbox {
    /// Adds a task; whether there are enough for its node.
    #[inline]
    fn add(&self, node: u32, id: u32) -> bool {
        let queued = &mut *self.0.borrow_mut();
        let count = queued.ids.len();
        let near = [queued.last, queued.last + 1, 0].into_iter();
        let found = near.chain(0..count).find(|&i| queued.ids.get(i).is_some_and(|of| of.0 == node));
        queued.last = found.unwrap_or(count);
        if found.is_none() {
            queued.ids.push((node, Vec::with_capacity(OUTBOX)));
        }
        queued.added = true;
        let ids = &mut queued.ids[queued.last].1;
        ids.push(id);
        ids.len() >= OUTBOX
    }

    /// What waits for one node.
    fn take(&self, index: usize) -> (u32, Vec<u32>) {
        let of = &mut self.0.borrow_mut().ids[index];
        (of.0, std::mem::take(&mut of.1))
    }

    /// Gives an emptied list its memory back, unless something was added meanwhile.
    fn put_back(&self, index: usize, emptied: Vec<u32>) {
        let of = &mut self.0.borrow_mut().ids[index].1;
        if of.is_empty() {
            *of = emptied;
        }
    }
}

/// Somebody who moves tasks on.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Mover<'s> {
    pub(crate) segment: &'s Segment,
    pub(crate) router: &'s Router,
    /// Whose requests they are.
    pub(crate) client: Token,
    pub(crate) me: Token,
    /// Where what is moved into rings waits until it is [flushed](Self::flush); none: it does not.
    pub(crate) outbox: Option<&'s Outbox>,
}

impl Mover<'_> {
    /// Moves a task of ours on.
    #[inline(always)]
    pub(crate) fn move_on(&self, task: Claimed<'_>, to: Target) {
        match to {
            Target::End => {
                if let Some(join) = task.finish(self.client, false) {
                    self.join(join);
                }
            }
            Target::Node(node) => self.forward(task, node),
            Target::Fork(fork) => self.fork(task, fork),
            Target::Switch(switch) => self.switch(task, switch),
        }
    }

    /// Does what a dead participant had still to do with a task that is now ours. Gives it back if the dead
    /// was working on it.
    pub(crate) fn resume<'a>(&self, task: Claimed<'a>) -> Option<Claimed<'a>> {
        let routes = self.segment.routes();
        match task.task().at() {
            // It had ended its work.
            At::Begun { failed: true, .. } if task.is_outcome() => self.end(task),
            At::Begun { node, .. } if task.is_outcome() => match self.segment.nodes().get(node as usize) {
                Some(info) => self.move_on(task, info.next),
                None => return Some(task),
            },
            At::Begun { .. } | At::Spoilt => return Some(task),
            // Nothing is written to it: late branches may still read what lies there.
            At::Failed(_) => self.end(task),
            _ if task.is_abandoned() => self.discard(task),
            At::To { node, group, .. } => self.try_again(task, node, false, group),
            At::Forked(index) => self.fork(task, index),
            At::New => {
                let (_, place) = task.task().place();
                let around = routes.around(place).map(|(_, fork)| (fork, place - 1 - fork.first));
                match around.and_then(|(fork, index)| fork.members.get(index as usize)) {
                    Some(member) => self.move_on(task, member.entry),
                    None => return Some(task),
                }
            }
            // What was left of its branches, the repair has freed.
            At::Joined(index) => match routes.forks.get(index as usize) {
                Some(fork) => self.move_on(task, fork.next),
                None => return Some(task),
            },
        }
        None
    }

    /// Queues a task once more for a node, in a group of this number.
    #[cold]
    pub(crate) fn try_again(&self, task: Claimed<'_>, node: u32, another_attempt: bool, group: u32) {
        match task.queue_again(node, now_ns, another_attempt, group) {
            Ok(id) => self.push(node, &[id]),
            Err(task) => self.fail_unreachable(task, node),
        }
    }

    /// Ends a task of ours with an error.
    #[cold]
    pub(crate) fn fail(&self, mut task: Claimed<'_>, error: RemoteError) {
        task.give_up_input();
        write_error(&mut task, error);
        crash_point!("route.error_written");
        self.end(task);
    }

    /// The same beside the input.
    #[cold]
    pub(crate) fn fail_beside(&self, mut task: Keeping<'_>, error: RemoteError) {
        write_error(&mut task, error);
        crash_point!("route.error_beside");
        self.end(task.done());
    }

    /// Ends a task of ours whose error has been written.
    fn end(&self, task: Claimed<'_>) {
        if let Some(join) = task.finish(self.client, true) {
            self.join(join);
        }
    }

    /// Ends a task of ours that nobody wants.
    #[cold]
    pub(crate) fn discard(&self, task: Claimed<'_>) {
        if let Some(join) = task.discard() {
            self.join(join);
        }
    }

    #[inline(never)]
    fn forward(&self, task: Claimed<'_>, node: u32) {
        match (task.queue(node, now_ns), self.outbox) {
            (Ok(id), None) => self.push(node, &[id]),
            (Ok(id), Some(outbox)) => {
                let full = outbox.add(node, id);
                crash_point!("route.outboxed");
                if full {
                    self.flush();
                }
            }
            (Err(task), _) => self.fail_unreachable(task, node),
        }
    }

    #[cold]
    fn fail_unreachable(&self, task: Claimed<'_>, node: u32) {
        let message = format!(
            "the next servlet (node {node}) refuses the item: its segment is corrupted; restart the service"
        );
        self.fail(task, self.error("", 0, RemoteCause::Payload { message }));
    }

    /// Pushes what waits, until nothing does: a node that is down has its items answered here, and they may
    /// lead to others, for whatever node.
    #[inline]
    pub(crate) fn flush(&self) {
        let Some(outbox) = self.outbox else { return };
        while std::mem::take(&mut outbox.0.borrow_mut().added) {
            let nodes = outbox.0.borrow().ids.len();
            for index in 0..nodes {
                let (node, mut ids) = outbox.take(index);
                if !ids.is_empty() {
                    self.push(node, &ids);
                    crash_point!("route.flushed_some");
                    ids.clear();
                }
                outbox.put_back(index, ids);
            }
        }
    }

    /// Pushes queued tasks. In a segment that somebody has written over they may not fit; then nobody hears of
    /// them again but by their time-outs.
    #[inline]
    fn push(&self, node: u32, ids: &[u32]) {
        if let Some(parts) = self.segment.node(node)
            && parts.push(ids).is_ok()
        {
            parts.doubt();
            self.after_push(node);
        }
    }

    /// After a push: if the node has no workers left, nobody else will answer what is in its ring.
    #[inline]
    pub(crate) fn after_push(&self, node: u32) {
        if self.segment.node(node).is_some_and(|node| node.doorbell().is_down()) {
            crash_point!("route.down");
            // While it shuts down, a node is down for no reason of its own.
            let told = |node: Node<'_>| {
                if self.segment.run() == Run::Running { node.down_reason() } else { String::new() }
            };
            let reason = self.segment.node(node).map_or_else(String::new, told);
            self.answer_all_in_ring(node, &RemoteCause::Down { reason });
        }
    }

    /// Answers everything in a node's ring with an error, in the place of workers that are no more.
    #[cold]
    pub(crate) fn answer_all_in_ring(&self, node: u32, cause: &RemoteCause) {
        let Some(parts) = self.segment.node(node) else { return };
        let (ring, lock) = (parts.ring(), parts.lock());
        // The server lives: it is we, or our watcher says so. Several threads of it may hold the lock.
        let is_dead = |token: Token| token != self.client && self.segment.is_dead(token);
        let mut claimed = Vec::new();
        let until = Instant::now() + LOCK_LIMIT;
        if lock.lock_unless(self.me, 0, is_dead, || Instant::now() >= until).is_none() {
            return; // what is in it ends by its time-outs
        }
        let mut head = ring.head();
        while let Some(id) = ring.get(head) {
            claimed.extend(Task::new(self.segment, id).and_then(|task| task.claim(self.me, is_dead)));
            crash_point!("route.emptying");
            head = head.wrapping_add(1);
            ring.set_head(head);
        }
        lock.unlock(self.me);
        crash_point!("route.emptied");
        // *attended* of `run`: should the node be up again, its worker may have gone to sleep because we had the lock.
        if ring.get(ring.head()).is_some() {
            parts.doorbell().wake_one(|worker| parts.bell(worker));
        }
        for task in claimed {
            let error = self.error(&parts.info().name, task.attempt(), cause.clone());
            self.fail(task, error);
        }
    }

    /// An error that happened on the way, and not in a worker.
    pub(crate) fn error(&self, servlet: &str, attempt: u8, cause: RemoteCause) -> RemoteError {
        RemoteError { servlet: servlet.into(), worker: 0, pid: std::process::id(), attempt, cause }
    }

    #[inline(never)]
    fn fork(&self, task: Claimed<'_>, index: u32) {
        let routes = self.segment.routes();
        match (task.fork(index), routes.forks.get(index as usize)) {
            (Ok(branches), Some(fork)) => {
                for (branch, member) in branches.zip(&fork.members) {
                    self.move_on(branch, member.entry);
                    crash_point!("route.forked_some");
                }
            }
            (Err(task), _) => {
                let message = format!(
                    "ensemble {index} refuses the item: its segment is corrupted; restart the service"
                );
                self.fail(task, self.error("", 0, RemoteCause::Payload { message }));
            }
            (Ok(_), None) => {} // `Claimed::fork` has looked it up
        }
    }

    #[inline(never)]
    fn switch(&self, task: Claimed<'_>, index: u32) {
        let Some(switch) = self.segment.routes().switches.get(index as usize) else { return };
        let chosen = match (self.router.choosers.get(index as usize), switch.node) {
            (Some(choose), _) => {
                let unreadable = |e: Corrupt| RemoteCause::Payload { message: e.to_string() };
                let members = switch.members.len();
                let known = |index: usize| {
                    let unknown = RemoteCause::NoSuchMember { index: index as u64, members: members as u64 };
                    switch.members.get(index).copied().ok_or(unknown)
                };
                task.payload().map_err(unreadable).and_then(|bytes| choose(bytes)).and_then(known)
            }
            (None, Some(node)) => return self.forward(task, node),
            (None, None) => Err(RemoteCause::Payload {
                message: "the switch has no thread in the server to choose a member: an error in ringmill"
                    .into(),
            }),
        };
        crash_point!("route.chosen");
        match chosen {
            Ok(target) => self.move_on(task, target),
            Err(cause) => {
                let error = self.error(&switch.name, task.attempt(), cause);
                self.fail(task, error);
            }
        }
    }

    /// Puts branches together, and moves their parent on.
    #[cold]
    pub(crate) fn join(&self, mut join: Join<'_>) {
        let fork = join.fork().1;
        if join.is_abandoned() {
            let mut place = join.error_place();
            place.inline_place();
            place.set_length(0);
        } else {
            match self.put_together(&mut join) {
                Ok(()) => {
                    if let Some(task) = join.with_value() {
                        self.move_on(task, fork.next);
                    }
                    return;
                }
                Err(cause) => {
                    let error = self.error(&fork.name, join.attempt(), cause);
                    write_error(&mut join.error_place(), error);
                    crash_point!("route.join_failed");
                }
            }
        }
        self.end_joined(join);
    }

    /// The same in the place of a dead one: `error` says how it died, where no value can be made any more.
    #[cold]
    pub(crate) fn join_again(&self, mut join: Join<'_>, error: RemoteError) {
        if !join.is_spoilt() || join.is_abandoned() {
            return self.join(join);
        }
        write_error(&mut join.error_place(), error);
        crash_point!("route.join_spoilt");
        self.end_joined(join);
    }

    /// Ends what was joined with the error that has been written.
    fn end_joined(&self, join: Join<'_>) {
        if let Some(task) = join.with_error()
            && let Some(outer) = task.finish(self.client, true)
        {
            self.join(outer);
        }
    }

    /// Writes the joined value. What its errors tell gives way if it is too large.
    fn put_together(&self, join: &mut Join<'_>) -> Result<(), RemoteCause> {
        let too_large = match self.put_together_with(join, &[]) {
            Err(error @ RemoteCause::OutcomeTooLarge { .. }) => error,
            put => return put,
        };
        let mut errors = self.errors(join);
        while errors.iter_mut().flatten().map(RemoteError::shorten).filter(|shorter| *shorter).count() > 0 {
            match self.put_together_with(join, &errors) {
                Err(RemoteCause::OutcomeTooLarge { .. }) => {}
                put => return put,
            }
        }
        Err(too_large)
    }

    /// By member: the error that it gave, if it did and that can be read.
    fn errors(&self, join: &Join<'_>) -> Vec<Option<RemoteError>> {
        let error = |index| match join.member(index) {
            Ok(Arrived::Error(bytes)) => copied::<RemoteError>(bytes).ok(),
            _ => None,
        };
        (0..join.fork().1.members.len()).map(error).collect()
    }

    /// Writes the joined value, with these in the place of the errors that members gave.
    fn put_together_with(
        &self,
        join: &mut Join<'_>,
        shorter: &[Option<RemoteError>],
    ) -> Result<(), RemoteCause> {
        let fork = join.fork().1;
        let keeps_errors = fork.form & KEEPS_ERRORS != 0;
        let corrupt = |e: Corrupt| RemoteCause::Payload { message: e.to_string() };
        TABLE.with_borrow_mut(|Table { bytes: joined, roots }| {
            joined.clear();
            roots.clear();
            let (mut errors, mut hopeless) = (0, false);
            // What is too large anyway is only counted: branches may all name one large payload as theirs.
            let (largest, mut excess) = (self.segment.shape().largest_payload(), 0);
            for (index, member) in fork.members.iter().enumerate() {
                match join.member(index).map_err(corrupt)? {
                    Arrived::Value(bytes) if (joined.len() + bytes.len()) as u64 > largest => {
                        excess += bytes.len() as u64;
                    }
                    Arrived::Value(bytes) => {
                        let root = append(joined, bytes, member.root_bytes, member.root_align);
                        roots.push((root.ok_or_else(|| too_short(index))?, false));
                    }
                    Arrived::Error(bytes) if keeps_errors => {
                        errors += 1;
                        let (size, align) = root_of::<RemoteError>();
                        let cut = shorter.get(index).and_then(|error| to_bytes(error.as_ref()?).ok());
                        let bytes = cut.as_deref().unwrap_or(bytes);
                        if (joined.len() + bytes.len()) as u64 > largest {
                            excess += bytes.len() as u64;
                            continue;
                        }
                        let root = append(joined, bytes, size, align);
                        roots.push((root.ok_or_else(|| too_short(index))?, true));
                    }
                    _ => hopeless = true,
                }
            }
            if hopeless || errors == fork.members.len() {
                return Err(RemoteCause::Ensemble { members: self.members(join).map_err(corrupt)? });
            }
            if excess > 0 {
                return Err(RemoteCause::OutcomeTooLarge { bytes: joined.len() as u64 + excess, largest });
            }
            finish_joined(joined, roots, fork.form);
            let Some(mut place) = join.value_place() else {
                return Err(RemoteCause::Payload {
                    message: "branches within its members are under way".into(),
                });
            };
            let written = match joined.len() {
                n if n <= INLINE_BYTES => place.inline_place().write(0, joined),
                n => place.block_place(n as u64).map_err(refused)?.write(0, joined),
            };
            crash_point!("route.join_value");
            debug_assert!(written, "the place was asked for this size");
            place.set_length(joined.len());
            Ok(())
        })
    }

    /// What has become of each member, for the error.
    fn members(&self, join: &Join<'_>) -> Result<Vec<Member>, Corrupt> {
        let fork = join.fork().1;
        // What all values together may have: the error must fit into one payload.
        let mut room = self.segment.shape().largest_payload();
        let mut outcome = |index| {
            Ok(match join.member(index)? {
                Arrived::Not | Arrived::Skipped => MemberOutcome::Unfinished,
                Arrived::Value(bytes) => {
                    let left = room.checked_sub(bytes.len() as u64);
                    room = left.unwrap_or(room);
                    MemberOutcome::Value { payload: left.map(|_| bytes.to_vec()) }
                }
                Arrived::Error(bytes) => match copied::<RemoteError>(bytes) {
                    Ok(error) => MemberOutcome::Failed { error },
                    Err(e) => MemberOutcome::Failed {
                        error: self.error("", 0, RemoteCause::Payload { message: e.to_string() }),
                    },
                },
            })
        };
        let named = |(index, member): (usize, &plan::Member)| {
            let name = name_of(member.entry, self.segment);
            Ok(Member { name, outcome: outcome(index)? })
        };
        fork.members.iter().enumerate().map(named).collect()
    }
}

fn too_short(index: usize) -> RemoteCause {
    RemoteCause::Payload { message: format!("the outcome of member {index} is shorter than its type") }
}

fn refused(error: PoolError) -> RemoteCause {
    EncodeError::Pool(error).into()
}

/// The name of the servlet that a target is the entry of.
fn name_of(target: Target, segment: &Segment) -> String {
    let Routes { forks, switches, .. } = segment.routes();
    let name = match target {
        Target::Node(index) => segment.nodes().get(index as usize).map(|node| &node.name),
        Target::Fork(index) => forks.get(index as usize).map(|fork| &fork.name),
        Target::Switch(index) => switches.get(index as usize).map(|switch| &switch.name),
        Target::End => None,
    };
    name.cloned().unwrap_or_default()
}

// However little room there is, a record has a place, with some text.
const _: () = assert!(size_of::<Archived<RemoteError>>() + 24 <= INLINE_BYTES);

/// Size and alignment of a type's root.
pub(crate) fn root_of<T: rkyv::Archive>() -> (u32, u32) {
    (size_of::<Archived<T>>() as u32, align_of::<Archived<T>>() as u32)
}

/// Copies an outcome behind what is there; the position of its root.
fn append(joined: &mut Vec<u8>, bytes: &[u8], root_bytes: u32, root_align: u32) -> Option<usize> {
    let before_root = bytes.len().checked_sub(root_bytes as usize)?;
    // What lies before a root may need any alignment, and so may nothing at all: an empty list's pointer names a place
    // that its elements could lie at. A root that is aligned to less than a pointer has none.
    let has_pointers = root_align as usize >= align_of::<ArchivedUsize>();
    let align = if before_root == 0 && !has_pointers { root_align as usize } else { PAYLOAD_ALIGN };
    joined.resize(joined.len().next_multiple_of(align), 0);
    let root = joined.len() + before_root;
    joined.extend_from_slice(bytes);
    Some(root)
}

/// Appends what points to the outcomes, whose roots lie there and are errors or not.
fn finish_joined(joined: &mut Vec<u8>, roots: &[(usize, bool)], form: u32) {
    fn point(joined: &mut Vec<u8>, to: usize) {
        let offset = to as i64 - joined.len() as i64;
        joined.extend_from_slice(&offset.to_le_bytes());
    }
    joined.resize(joined.len().next_multiple_of(8), 0);
    let first = joined.len();
    for &(root, is_error) in roots {
        if form & KEEPS_ERRORS != 0 {
            joined.extend_from_slice(&u64::from(is_error).to_le_bytes());
        }
        point(joined, root);
    }
    if form & LIST != 0 {
        point(joined, first);
        joined.extend_from_slice(&(roots.len() as u64).to_le_bytes());
    }
}

/// Writes an error record, shortened until it fits.
pub(crate) fn write_error(to: &mut impl Places, mut error: RemoteError) {
    let mut keeps_input = true;
    loop {
        match encode(&error, to, Birth::here()) {
            Ok(()) => return,
            Err(EncodeError::Pool(_)) => {}
            Err(_) => error.cause = RemoteCause::Unanswered,
        }
        if error.shorten() {
            continue;
        }
        // With no more text than lies in what refers to it, the record fits in line, whatever the cause. If it can lie
        // there.
        if keeps_input {
            to.give_up_input();
            keeps_input = false;
        } else {
            error.cause = RemoteCause::Unanswered;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::payload::Payload;

    /// Outcomes put together as a join does, and read as what comes of them.
    #[derive(Default)]
    struct Joined {
        bytes: Vec<u8>,
        roots: Vec<(usize, bool)>,
    }

    impl Joined {
        fn with<T: Payload>(mut self, outcome: &T, is_error: bool) -> Self {
            let (size, align) = root_of::<T>();
            let root = append(&mut self.bytes, &to_bytes(outcome).unwrap(), size, align).unwrap();
            self.roots.push((root, is_error));
            self
        }

        fn value<T: Payload>(self, outcome: T) -> Self {
            self.with(&outcome, false)
        }

        fn read<Whole: Payload>(mut self, form: u32) -> Whole {
            finish_joined(&mut self.bytes, &self.roots, form);
            copied(&self.bytes).unwrap()
        }
    }

    fn error() -> RemoteError {
        let cause = RemoteCause::Payload { message: "a message that does not lie in line".into() };
        RemoteError { servlet: "member".into(), worker: 1, pid: 2, attempt: 3, cause }
    }

    #[test]
    fn outcomes_of_any_size_and_alignment_read_as_a_tuple_of_boxes() {
        type Whole = (Box<u8>, Box<String>, Box<()>, Box<u128>, Box<Vec<u64>>, Box<u16>);
        let long = "a text that does not lie in line".to_string();
        let joined = Joined::default().value(7_u8).value(long.clone()).value(()).value(u128::MAX);
        let joined = joined.value(vec![1_u64, 2, 3]).value(9_u16);
        let expected = (7, long, (), u128::MAX, vec![1, 2, 3], 9);
        let (a, b, c, d, e, f) = joined.read::<Whole>(0);
        assert_eq!((*a, *b, *c, *d, *e, *f), expected);
        assert_eq!(*Joined::default().value(5_u32).read::<(Box<u32>,)>(0).0, 5);
    }

    /// Symptom: a member that answered with an empty list of numbers made the whole outcome unreadable. Cause: a root
    /// with nothing before it was put where its own alignment allows, and an empty list points to a place for
    /// its elements, whose alignment may be larger. Fix: roots that may have pointers are aligned for anything.
    #[test]
    fn empty_lists_of_any_alignment_read_as_empty_lists() {
        type Whole = (Box<u8>, Box<Vec<u64>>, Box<u32>, Box<Vec<u128>>, Box<Box<[u128]>>);
        let joined = Joined::default().value(1_u8).value(Vec::<u64>::new()).value(2_u32);
        let joined = joined.value(Vec::<u128>::new()).value(Box::<[u128]>::default());
        let (a, b, c, d, e) = joined.read::<Whole>(0);
        assert_eq!((*a, b.len(), *c, d.len(), e.len()), (1, 0, 2, 0, 0));
    }

    #[test]
    fn outcomes_of_one_type_read_as_a_list_of_boxes() {
        for count in [1, 2, 100] {
            let texts: Vec<String> = (0..count).map(|i| "x".repeat(i)).collect();
            let joined = texts.iter().fold(Joined::default(), |joined, text| joined.value(text.clone()));
            let read: Vec<Box<String>> = joined.read(LIST);
            assert_eq!(read.into_iter().map(|text| *text).collect::<Vec<_>>(), texts);
        }
    }

    #[test]
    fn kept_errors_read_as_results() {
        type Results = Vec<Result<Box<u64>, Box<RemoteError>>>;
        let of = || Joined::default().value(1_u64).with(&error(), true).value(3_u64);
        let expected: Results = vec![Ok(Box::new(1)), Err(Box::new(error())), Ok(Box::new(3))];
        assert_eq!(of().read::<Results>(KEEPS_ERRORS | LIST), expected);
        type Pair = (Result<Box<String>, Box<RemoteError>>, Result<Box<u8>, Box<RemoteError>>);
        let pair: Pair = Joined::default().with(&error(), true).value(4_u8).read(KEEPS_ERRORS);
        assert_eq!(pair, (Err(Box::new(error())), Ok(Box::new(4))));
    }

    #[test]
    fn an_outcome_shorter_than_its_type_is_refused() {
        let mut joined = vec![1];
        assert_eq!(append(&mut joined, &[0; 7], 8, 8), None);
        assert_eq!(joined, [1], "nothing was added");
    }
}
