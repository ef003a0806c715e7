//! Moves a finished task on: into the next ring, into branches, through a switch, into a join, to its caller.
//!
//! The participant that has finished a task does this, in its own process: a worker, or the caller with a new request.
//! It finds the routes in the segment ([`ringmill_shm::plan`]); only the functions of switches are in the server's
//! process alone. A worker's process gives the task to the switch's own node instead, whose thread in the server's
//! process passes it on.

mod joined;
mod outbox;

pub(crate) use joined::{KEEPS_ERRORS, LIST, root_of};
pub(crate) use outbox::Outbox;

use crate::error::{RemoteCause, RemoteError};
use crate::panics;
use crate::wire::EncodeError;
use crate::wire::payload::{Buffers, encode};
use ringmill_shm::arena::{At, Claimed, Corrupt, Join, Keeping};
use ringmill_shm::party::Participant;
use ringmill_shm::plan::Target;
use ringmill_shm::segment::{Node, Run, Segment};
use ringmill_shm::sys::birth::Birth;
use ringmill_shm::sys::time::now_ns;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A switch's function: returns the index of the member for an input.
pub(crate) type Choose = Arc<dyn Fn(&[u8]) -> Result<usize, RemoteCause> + Send + Sync>;

/// The parts of a plan that the segment cannot hold.
#[derive(Default)]
pub(crate) struct Router {
    /// The functions, by switch; empty in a worker's process.
    pub(crate) choosers: Vec<Choose>,
}

impl Drop for Router {
    /// Runs in the last thread that drops the server.
    fn drop(&mut self) {
        self.choosers.drain(..).for_each(panics::let_go);
    }
}

impl fmt::Debug for Router {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Router").field("choosers", &self.choosers.len()).finish()
    }
}

/// How long a mover waits for the lock of a node without workers. Other movers hold it for a moment, to empty the ring;
/// if it seems to be held for longer, the lock's word was overwritten.
const LOCK_LIMIT: Duration = Duration::from_secs(1);
/// A participant as it moves finished tasks on.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Mover<'s> {
    pub(crate) me: Participant<'s>,
    pub(crate) router: &'s Router,
    /// Collects queued tasks until they are [flushed](Self::flush); `None`: each is pushed at once.
    pub(crate) outbox: Option<&'s Outbox>,
}

impl<'s> Mover<'s> {
    #[inline(always)]
    fn segment(&self) -> &'s Segment {
        self.me.segment()
    }

    /// Moves a task on.
    #[inline(always)]
    pub(crate) fn move_on(&self, task: Claimed<'_>, to: Target) {
        match to {
            Target::End => {
                if let Some(join) = task.finish(false) {
                    self.join(join);
                }
            }
            Target::Node(node) => self.forward(task, node),
            Target::Fork(fork) => self.fork(task, fork),
            Target::Switch(switch) => self.switch(task, switch),
        }
    }

    /// Does what a dead participant still had to do with a task that the repairer has taken from it. Returns the task
    /// if the dead was working on it.
    pub(crate) fn resume<'a>(&self, task: Claimed<'a>) -> Option<Claimed<'a>> {
        let routes = self.segment().routes();
        match task.task().at() {
            // The dead had finished it.
            At::Begun { failed: true, .. } if task.is_outcome() => self.end(task),
            At::Begun { node, .. } if task.is_outcome() => match self.segment().nodes().get(node as usize) {
                Some(info) => self.move_on(task, info.next),
                None => return Some(task),
            },
            At::Begun { .. } | At::Spoilt => return Some(task),
            // Leaves its payload as it is: late branches may still read it.
            At::Failed(_) => self.end(task),
            _ if task.is_abandoned() => self.discard(task),
            At::To { node, group, .. } => self.requeue(task, node, false, group),
            At::Forked(index) => self.fork(task, index),
            At::New => {
                let (_, slot) = task.task().slot();
                let around = routes.around(slot).map(|(_, fork)| (fork, slot - 1 - fork.first));
                match around.and_then(|(fork, index)| fork.members.get(index as usize)) {
                    Some(member) => self.move_on(task, member.entry),
                    None => return Some(task),
                }
            }
            // The repair has freed the rest of its branches.
            At::Joined(index) => match routes.forks.get(index as usize) {
                Some(fork) => self.move_on(task, fork.next),
                None => return Some(task),
            },
        }
        None
    }

    /// Queues a task for a node again, as one of this group. `is_attempt`: this counts as an attempt more.
    #[cold]
    pub(crate) fn requeue(&self, task: Claimed<'_>, node: u32, is_attempt: bool, group: u32) {
        match task.requeue(node, now_ns, is_attempt, group) {
            Ok(id) => self.push(node, &[id]),
            Err(task) => self.fail_unreachable(task, node),
        }
    }

    /// Ends a task with an error.
    #[cold]
    pub(crate) fn fail(&self, mut task: Claimed<'_>, error: RemoteError) {
        task.give_up_input();
        write_error(&mut task, error);
        crash_point!("route.error_written");
        self.end(task);
    }

    /// Ends a task with an error that is written beside its input.
    #[cold]
    pub(crate) fn fail_beside(&self, mut task: Keeping<'_>, error: RemoteError) {
        write_error(&mut task, error);
        crash_point!("route.error_beside");
        self.end(task.done());
    }

    /// Ends a task whose error is written.
    fn end(&self, task: Claimed<'_>) {
        if let Some(join) = task.finish(true) {
            self.join(join);
        }
    }

    /// Ends a task for whose outcome no caller waits: frees a request whose caller has gone; lets a branch arrive without an
    /// outcome, and does the join if that was the last.
    #[cold]
    pub(crate) fn discard(&self, task: Claimed<'_>) {
        if let Some(join) = task.discard() {
            self.join(join);
        }
    }

    #[inline(never)]
    fn forward(&self, task: Claimed<'_>, node: u32) {
        if self.segment().node(node).is_some_and(|parts| parts.doorbell().is_drained()) {
            return self.refuse_drained(task, node);
        }
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
    fn refuse_drained(&self, task: Claimed<'_>, node: u32) {
        let name = self.segment().nodes().get(node as usize).map_or("", |node| node.name.as_str());
        let error = self.error(name, task.attempt(), RemoteCause::Drained);
        self.fail(task, error);
    }

    #[cold]
    fn fail_unreachable(&self, task: Claimed<'_>, node: u32) {
        let message = format!(
            "the next servlet (node {node}) refuses the item: its segment is corrupted; restart the service"
        );
        self.fail(task, self.error("", 0, RemoteCause::Payload { message }));
    }

    /// Pushes all tasks of the outbox, until it stays empty: for a node that is down the mover answers the tasks, and
    /// their joins may queue further ones, for any node.
    #[inline]
    pub(crate) fn flush(&self) {
        let Some(outbox) = self.outbox else { return };
        while outbox.takes_added() {
            for index in 0..outbox.nodes() {
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

    /// Pushes queued tasks. In a corrupted segment the ring may be full; then their callers time out.
    #[inline]
    fn push(&self, node: u32, ids: &[u32]) {
        if let Some(parts) = self.segment().node(node)
            && parts.push(ids).is_ok()
        {
            parts.doubt();
            self.after_push(node);
        }
    }

    /// After a push: if the node is down, answers the tasks in its ring, since no worker will.
    #[inline]
    pub(crate) fn after_push(&self, node: u32) {
        if self.segment().node(node).is_some_and(|node| node.doorbell().is_down()) {
            crash_point!("route.down");
            // While the server shuts down, a node that is down has no reason of its own.
            let told = |node: Node<'_>| {
                if self.segment().run() == Run::Running { node.down_reason() } else { String::new() }
            };
            let reason = self.segment().node(node).map_or_else(String::new, told);
            self.answer_all_in_ring(node, &RemoteCause::Down { reason });
        }
    }

    /// Answers all tasks in a node's ring with an error, since its workers are gone.
    #[cold]
    pub(crate) fn answer_all_in_ring(&self, node: u32, cause: &RemoteCause) {
        let Some(parts) = self.segment().node(node) else { return };
        let ring = parts.ring();
        let mut claimed = Vec::new();
        let until = Instant::now() + LOCK_LIMIT;
        let Some(mut reader) = self.me.read(parts, 0, || Instant::now() >= until) else {
            return; // the callers of the tasks in it time out
        };
        let mut head = ring.head();
        while let Some(id) = ring.get(head) {
            claimed.extend(reader.claim(id));
            crash_point!("route.emptying");
            head = head.wrapping_add(1);
            reader.set_head(head);
        }
        drop(reader);
        crash_point!("route.emptied");
        // [attended] of `worker::collect`: if the node is up again, its worker may sleep because this thread held the
        // lock.
        if ring.get(ring.head()).is_some() {
            parts.doorbell().wake_one(|worker| parts.bell(worker));
        }
        for task in claimed {
            let error = self.error(&parts.info().name, task.attempt(), cause.clone());
            self.fail(task, error);
        }
    }

    /// An error between workers.
    pub(crate) fn error(&self, servlet: &str, attempt: u8, cause: RemoteCause) -> RemoteError {
        RemoteError { servlet: servlet.into(), worker: 0, pid: std::process::id(), attempt, cause }
    }

    #[inline(never)]
    fn fork(&self, task: Claimed<'_>, index: u32) {
        let routes = self.segment().routes();
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
            (Ok(_), None) => {} // `Claimed::fork` has looked the fork up
        }
    }

    #[inline(never)]
    fn switch(&self, task: Claimed<'_>, index: u32) {
        let Some(switch) = self.segment().routes().switches.get(index as usize) else { return };
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
                message: "the switch has no thread in the server to choose a member: this is a defect of ringmill, please report it"
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

    /// Joins the branches of a task, and moves the task on.
    #[cold]
    pub(crate) fn join(&self, mut join: Join<'_>) {
        let fork = join.fork().1;
        if join.is_abandoned() {
            let mut buffer = join.error_buffer();
            buffer.inline_buffer();
            buffer.set_length(0);
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
                    write_error(&mut join.error_buffer(), error);
                    crash_point!("route.join_failed");
                }
            }
        }
        self.end_joined(join);
    }

    /// Repeats a join whose participant died. `error`, which says how it died, is the outcome if the value can no
    /// longer be made.
    #[cold]
    pub(crate) fn repeat_join(&self, mut join: Join<'_>, error: RemoteError) {
        if !join.is_spoilt() || join.is_abandoned() {
            return self.join(join);
        }
        write_error(&mut join.error_buffer(), error);
        crash_point!("route.join_spoilt");
        self.end_joined(join);
    }

    /// Ends a joined task whose error is written.
    fn end_joined(&self, join: Join<'_>) {
        if let Some(task) = join.with_error()
            && let Some(outer) = task.finish(true)
        {
            self.join(outer);
        }
    }
}

/// Writes an error record, shortened until it fits.
pub(crate) fn write_error(to: &mut impl Buffers, mut error: RemoteError) {
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
        // With texts that short the record fits in line, whatever the cause; if the guard allows that.
        if keeps_input {
            to.give_up_input();
            keeps_input = false;
        } else {
            error.cause = RemoteCause::Unanswered;
        }
    }
}
