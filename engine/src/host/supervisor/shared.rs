//! What callers and the supervisor share: the command, and which servlets are down.
#![expect(unsafe_code, reason = "the server's side of the contract of guards")]

use super::lever::Pull;
use crate::error::{RemoteCause, StartError};
use crate::host::janitor::Janitor;
use crate::plan::PlanNode;
use crate::policy::placement::Placement;
use crate::route::{Mover, Router};
use ringmill_shm::party::Participant;
use ringmill_shm::segment::{Gate, Segment};
use ringmill_shm::sys::process::EventFd;
use ringmill_shm::token::Token;
use std::cell::Cell;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::time::{Duration, Instant};

thread_local! {
    /// If this thread is a server's supervisor or worker, the address of that server's [`Shared`], which it keeps
    /// alive.
    static WITHIN: Cell<usize> = const { Cell::new(0) };
}

/// How long a shutdown waits for a worker in silence: most calls have ended by then, and most workers have left, also on
/// a machine that has other work.
pub(crate) const SILENCE: Duration = Duration::from_millis(500);

/// The server's limits.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    pub(crate) start: Duration,
    pub(crate) shutdown: Duration,
}

/// What callers and the supervisor share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) segment: Arc<Segment>,
    pub(crate) router: Arc<Router>,
    pub(crate) placement: Placement,
    /// By node: why it is down.
    down: Vec<Mutex<Option<String>>>,
    /// By node: whether every request passes it.
    pub(crate) mandatory: Vec<bool>,
    /// How far the server's end has come; locked while the segment's gate is set.
    end: Mutex<End>,
    /// By node: whether it is drained.
    pub(super) drained: Vec<AtomicBool>,
    /// Held while that is changed in both places where it stands.
    pub(super) drains: Mutex<()>,
    /// What threads want of the supervisor; `None` once that has ended.
    pulls: Mutex<Option<Vec<Pull>>>,
    /// Set if the server was started as root.
    pub(crate) janitor: OnceLock<Janitor>,
    pub(super) commands: EventFd,
    command: Mutex<Command>,
    pub(super) limits: Limits,
}

/// How far the server's end has come, for its gate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum End {
    #[default]
    Open,
    /// It takes no requests any more.
    Closing,
    /// And has no workers.
    Closed,
}

/// What callers tell the supervisor to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Command {
    #[default]
    Watch,
    /// Workers leave in order, until the deadline.
    Stop(Instant),
    /// Workers are killed.
    Kill,
}

impl Shared {
    pub(crate) fn new(
        segment: Arc<Segment>,
        nodes: &[PlanNode],
        router: Arc<Router>,
        limits: Limits,
        placement: Placement,
    ) -> Result<Self, StartError> {
        let commands =
            EventFd::new().map_err(|error| StartError::System { what: "make an event descriptor", error })?;
        Ok(Self {
            segment,
            router,
            placement,
            down: nodes.iter().map(|_| Mutex::default()).collect(),
            mandatory: nodes.iter().map(|node| node.mandatory).collect(),
            end: Mutex::default(),
            drained: nodes.iter().map(|_| AtomicBool::new(false)).collect(),
            drains: Mutex::default(),
            pulls: Mutex::new(Some(Vec::new())),
            janitor: OnceLock::new(),
            commands,
            command: Mutex::default(),
            limits,
        })
    }

    /// The server's process as a mover.
    #[inline]
    pub(crate) fn mover(&self) -> Mover<'_> {
        Mover { me: self.me(), router: &self.router, outbox: None }
    }

    /// The right to act as the server.
    #[inline(always)]
    fn me(&self) -> Participant<'_> {
        // SAFETY: the server has held its byte of the lease since it created the segment, and writes into the segment
        // by `ringmill_shm` only, as its workers do.
        unsafe { self.segment.take_part(Token::SERVER) }
    }

    /// After the last worker has gone: answers all tasks that are in a ring, or still come, with an error.
    pub(crate) fn close(&self) {
        self.set_end(End::Closed);
        for node in 0..self.segment.shape().nodes {
            self.shut(node, &RemoteCause::ShutDown);
            crash_point!("supervisor.shut_some");
        }
    }

    /// The server takes no requests from now on.
    pub(crate) fn begin_to_close(&self) {
        self.set_end(End::Closing); // [closing]
    }

    fn set_end(&self, to: End) {
        let mut end = self.end();
        if *end != End::Closed {
            *end = to;
        }
        drop(end);
        self.set_gate();
    }

    fn end(&self) -> MutexGuard<'_, End> {
        self.end.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Why a node is down; `None` if it is not.
    pub(crate) fn down(&self, node: usize) -> MutexGuard<'_, Option<String>> {
        self.down[node].lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Called when a worker reads the ring of `node` again.
    pub(super) fn reopen(&self, node: u32) {
        *self.down(node as usize) = None;
        if let Some(parts) = self.segment.node(node) {
            parts.doorbell().set_up(); // [down] of `doorbell`
        }
        crash_point!("supervisor.reopens");
        self.set_gate();
    }

    /// Closes the gate of callers, or opens it, as the nodes are that every request passes.
    pub(super) fn set_gate(&self) {
        let end = self.end(); // no two threads set it at a time
        let first = |is_it: &dyn Fn(usize) -> bool| {
            (0..self.down.len()).find(|&node| self.mandatory[node] && is_it(node)).map(|node| node as u32)
        };
        let gate = match *end {
            End::Closing | End::Closed => Gate::Closing,
            End::Open => match first(&|node| self.down(node).is_some()) {
                Some(node) => Gate::Down(node),
                None => first(&|node| self.is_drained(node)).map_or(Gate::Open, Gate::Drained),
            },
        };
        self.segment.set_gate(gate); // [gate]
    }

    /// Whether no worker will finish what is in the server: it is closed, or a node is down that every request passes.
    pub(crate) fn is_shut(&self) -> bool {
        let is_closed = *self.end() == End::Closed;
        is_closed || (0..self.down.len()).any(|node| self.mandatory[node] && self.down(node).is_some())
    }

    /// Whether a node takes no requests, as an operator wants.
    pub(crate) fn is_drained(&self, node: usize) -> bool {
        self.drained[node].load(Ordering::SeqCst)
    }

    /// What threads want of the supervisor.
    pub(super) fn pulls(&self) -> MutexGuard<'_, Option<Vec<Pull>>> {
        self.pulls.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Called when no worker reads the ring of `node` any more: its tasks are answered, now and from now on.
    pub(super) fn shut(&self, node: u32, cause: &RemoteCause) {
        if let Some(parts) = self.segment.node(node) {
            parts.doorbell().set_down(); // [down] of `doorbell`
        }
        self.mover().answer_all_in_ring(node, cause);
    }

    /// Tells the workers to leave; those that have not left by the deadline are killed.
    pub(crate) fn stop(&self, deadline: Instant) {
        self.command(Command::Stop(deadline));
    }

    /// Kills the workers.
    pub(crate) fn kill(&self) {
        self.command(Command::Kill);
    }

    /// Removes the server's files, or has them removed.
    pub(crate) fn remove_files(&self) {
        let remove = || self.segment.remove_files();
        match self.janitor.get() {
            Some(janitor) => janitor.dismiss(remove),
            None => drop(remove()), // there is no janitor that could
        }
    }

    pub(super) fn command(&self, command: Command) {
        let mut current = self.command.lock().unwrap_or_else(|e| e.into_inner());
        // A command to kill is final, and a sooner deadline stays.
        match (*current, command) {
            (Command::Kill, _) => {}
            (Command::Stop(was), Command::Stop(new)) => *current = Command::Stop(was.min(new)),
            _ => *current = command,
        }
        drop(current);
        self.commands.signal();
    }

    /// Has the supervisor look at its client processes.
    pub(in crate::host) fn tell_of_clients(&self) {
        self.commands.signal();
    }

    /// Whether the workers are to be killed.
    pub(crate) fn is_killed(&self) -> bool {
        self.commanded() == Command::Kill
    }

    /// By when the supervisor, which was told to end, will have ended: its deadline, or now if it has none, plus this
    /// margin.
    pub(crate) fn over_by(&self, margin: Duration) -> impl Fn() -> Instant {
        let told = Instant::now();
        move || match self.commanded() {
            Command::Stop(deadline) => deadline.max(told) + margin, // the deadline is a century away at most
            Command::Watch | Command::Kill => told + margin,
        }
    }

    /// From now on this thread is one of the server's own, for which the server's end waits.
    pub(in crate::host) fn enter(&self) {
        WITHIN.set(std::ptr::from_ref(self).addr());
    }

    /// Whether this thread is one of the server's own.
    pub(crate) fn is_within(&self) -> bool {
        // A thread that is ending has no thread-local variables any more, and no other thread waits for it.
        WITHIN.try_with(Cell::get) == Ok(std::ptr::from_ref(self).addr())
    }

    pub(super) fn commanded(&self) -> Command {
        *self.command.lock().unwrap_or_else(|e| e.into_inner())
    }
}
