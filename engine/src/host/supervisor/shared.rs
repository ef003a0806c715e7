//! What callers and the supervisor share: orders, and which servlets are down.
#![expect(unsafe_code, reason = "the server's side of the contract of guards")]

use crate::error::{RemoteCause, StartError};
use crate::host::janitor::Janitor;
use crate::plan::PlanNode;
use crate::route::{Mover, Router};
use ringmill_shm::party::Participant;
use ringmill_shm::segment::Segment;
use ringmill_shm::sys::process::EventFd;
use ringmill_shm::token::Token;
use std::cell::Cell;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::time::{Duration, Instant};

thread_local! {
    /// The address of the [`Shared`] of the server that this thread is the supervisor or a worker of, which it keeps.
    static WITHIN: Cell<usize> = const { Cell::new(0) };
}

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
    /// By node: why it is down.
    down: Vec<Mutex<Option<String>>>,
    /// By node: whether every request comes by it.
    pub(crate) mandatory: Vec<bool>,
    /// A node that every request comes by is down, or the server is: the callers' gate.
    pub(crate) gate_closed: AtomicBool,
    /// There where the server was started as root.
    pub(crate) janitor: OnceLock<Janitor>,
    pub(super) orders: EventFd,
    order: Mutex<Wish>,
    pub(super) limits: Limits,
}

/// What the supervisor is told to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Wish {
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
    ) -> Result<Self, StartError> {
        let orders =
            EventFd::new().map_err(|error| StartError::System { what: "make an event descriptor", error })?;
        Ok(Self {
            segment,
            router,
            down: nodes.iter().map(|_| Mutex::default()).collect(),
            mandatory: nodes.iter().map(|node| node.mandatory).collect(),
            gate_closed: AtomicBool::new(false),
            janitor: OnceLock::new(),
            orders,
            order: Mutex::default(),
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
        // SAFETY: it has held its byte of the lease since it created the segment; and it writes into the segment by
        // `ringmill_shm` only, as its workers do.
        unsafe { self.segment.take_part(Token::SERVER) }
    }

    /// After the last worker has gone: whatever is in a ring, or still comes, is answered with an error.
    pub(crate) fn close(&self) {
        self.gate_closed.store(true, Ordering::SeqCst); // *down*
        for node in 0..self.segment.shape().nodes {
            self.shut(node, &RemoteCause::ShutDown);
            crash_point!("supervisor.shut_some");
        }
    }

    /// Why a node is down; `None` if it is not.
    pub(crate) fn down(&self, node: usize) -> MutexGuard<'_, Option<String>> {
        self.down[node].lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Somebody reads the ring of `node` again.
    pub(super) fn reopen(&self, node: u32) {
        *self.down(node as usize) = None;
        if let Some(parts) = self.segment.node(node) {
            parts.doorbell().set_up(); // *down*
        }
        crash_point!("supervisor.reopens");
        let down = (0..self.down.len()).any(|node| self.mandatory[node] && self.down(node).is_some());
        self.gate_closed.store(down, Ordering::SeqCst);
    }

    /// Nobody reads the ring of `node` any more: what is in it is answered, now and from now on.
    pub(super) fn shut(&self, node: u32, cause: &RemoteCause) {
        if let Some(parts) = self.segment.node(node) {
            parts.doorbell().set_down(); // *down*
        }
        self.mover().answer_all_in_ring(node, cause);
    }

    /// Tells the workers to leave; those that have not by the deadline are killed.
    pub(crate) fn stop(&self, deadline: Instant) {
        self.wish(Wish::Stop(deadline));
    }

    /// Kills the workers.
    pub(crate) fn kill(&self) {
        self.wish(Wish::Kill);
    }

    /// Removes the server's files, or has them removed.
    pub(crate) fn remove_files(&self) {
        let remove = || self.segment.remove_files();
        match self.janitor.get() {
            Some(janitor) => janitor.dismiss(remove),
            None => drop(remove()), // nobody else could
        }
    }

    pub(super) fn wish(&self, wish: Wish) {
        let mut order = self.order.lock().unwrap_or_else(|e| e.into_inner());
        // From killing there is no way back, and a sooner deadline stays.
        match (*order, wish) {
            (Wish::Kill, _) => {}
            (Wish::Stop(was), Wish::Stop(new)) => *order = Wish::Stop(was.min(new)),
            _ => *order = wish,
        }
        drop(order);
        self.orders.signal();
    }

    /// Whether the workers are to be killed.
    pub(crate) fn is_killed(&self) -> bool {
        self.wished() == Wish::Kill
    }

    /// When the supervisor will have ended that was told to: at its deadline, or if there is none any more, now, and
    /// so much later.
    pub(crate) fn over_by(&self, margin: Duration) -> impl Fn() -> Instant {
        let told = Instant::now();
        move || match self.wished() {
            Wish::Stop(deadline) => deadline.max(told) + margin, // a century away at most
            Wish::Watch | Wish::Kill => told + margin,
        }
    }

    /// From now on this thread is one of the server's own, which its end waits for.
    pub(super) fn enter(&self) {
        WITHIN.set(std::ptr::from_ref(self).addr());
    }

    /// Whether this thread is one of the server's own.
    pub(crate) fn is_within(&self) -> bool {
        // Where the thread is ending, and has no variables any more, it is none that anybody waits for.
        WITHIN.try_with(Cell::get) == Ok(std::ptr::from_ref(self).addr())
    }

    pub(super) fn wished(&self) -> Wish {
        *self.order.lock().unwrap_or_else(|e| e.into_inner())
    }
}
