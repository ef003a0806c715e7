//! A worker's seat: which worker a thread is, and what it works with.
#![expect(unsafe_code, reason = "a worker's side of the contract of guards")]

use super::context::Context;
use super::unit::Unit;
use crate::error::{RemoteCause, RemoteError};
use crate::panics::Panic;
use crate::policy::patience::Wait;
use crate::route::{Mover, Router};
use ringmill_shm::participant::{Entry, Role};
use ringmill_shm::party::Participant;
use ringmill_shm::segment::{Node, Segment};
use ringmill_shm::stats::Counter;
use ringmill_shm::sys::birth::Birth;
use ringmill_shm::token::Token;
use std::sync::Arc;

/// Which of a segment's workers a thread is. That follows from its row and the plan, which this process has; other
/// processes read what the participant table says of it.
#[derive(Debug)]
pub(crate) struct Seat {
    pub(crate) segment: Arc<Segment>,
    /// Its row in the participant table.
    pub(crate) row: u32,
    pub(super) node: u32,
    /// Its number at the node's doorbell.
    pub(super) number: u32,
    token: Token,
    pub(super) birth: Birth,
    pub(crate) wait: Wait,
    pub(crate) router: Arc<Router>,
    pub(crate) unit: Arc<Unit>,
    /// The configuration of its worker, if it is not that in the segment.
    pub(super) config: Option<Arc<Vec<u8>>>,
}

impl Seat {
    /// The seat of a worker whose thread alone will have it, and whose byte of the lease this process holds until that
    /// thread has ended. `None` if no worker has such a row.
    pub(crate) fn new(
        segment: Arc<Segment>,
        row: u32,
        token: Token,
        wait: Wait,
        router: Arc<Router>,
        unit: Arc<Unit>,
        config: Option<Arc<Vec<u8>>>,
    ) -> Option<Self> {
        let (node, number) = segment.seat_of(row)?;
        let birth = segment.birth();
        Some(Self { segment, row, node, number, token, birth, wait, router, unit, config })
    }

    /// The right to act as this worker.
    #[inline(always)]
    pub(crate) fn me(&self) -> Participant<'_> {
        // SAFETY: its byte is held, see `new`; and this process writes into the segment by `ringmill_shm` only, as the
        // server and the other workers do.
        unsafe { self.segment.take_part(self.token) }
    }

    pub(crate) fn entry(&self) -> &Entry {
        &self.segment.participants()[self.row as usize]
    }

    pub(crate) fn node(&self) -> Node<'_> {
        self.segment.node(self.node).expect("its seat is of this node")
    }

    /// The index of the worker within its node.
    pub(crate) fn worker(&self) -> u32 {
        self.number / self.node().info().facts.threads
    }

    /// The index of the thread within its worker.
    pub(crate) fn thread(&self) -> u32 {
        self.number % self.node().info().facts.threads
    }

    pub(crate) fn context(&self) -> Context {
        let (entry, node) = (self.entry(), self.node());
        let placed = entry.placed();
        Context {
            server_name: self.segment.identity().name,
            servlet_name: node.info().name.clone(),
            worker_index: self.worker(),
            thread_index: self.thread(),
            facts: node.info().facts,
            cpus: placed.cpus,
            numa_node: placed.node,
            restarts: entry.restarts(),
            is_thread: node.info().role == Role::ThreadWorker,
        }
    }

    /// Counts a panic of user code; the first one of this unit is logged by the service.
    #[cold]
    pub(super) fn note_panic(&self, panic: &Panic) {
        self.entry().counters().count(Counter::Panics);
        self.unit.tell_of_panic(|| self.context().name(), panic);
    }

    #[inline]
    pub(super) fn mover(&self) -> Mover<'_> {
        Mover { me: self.me(), router: &self.router, outbox: None }
    }

    /// An error record of this worker.
    pub(crate) fn error(&self, attempt: u8, cause: RemoteCause) -> RemoteError {
        let servlet = self.node().info().name.clone();
        RemoteError { servlet, worker: self.worker(), pid: std::process::id(), attempt, cause }
    }
}
