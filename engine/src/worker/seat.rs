//! Which of a segment's workers this is, and what it works with.

use super::context::Context;
use super::unit::Unit;
use crate::error::{RemoteCause, RemoteError};
use crate::policy::patience::Wait;
use crate::route::{Mover, Router};
use ringmill_shm::participant::Entry;
use ringmill_shm::segment::{Node, Segment};
use ringmill_shm::sys::birth::Birth;
use ringmill_shm::token::Token;
use std::sync::Arc;

/// A worker's place in a segment. Who it is follows from its place and the plan, which this process has; what
/// the participant table says of it is for others.
#[derive(Debug)]
pub(crate) struct Seat {
    pub(crate) segment: Arc<Segment>,
    /// Its place in the participant table.
    pub(crate) place: u32,
    pub(super) node: u32,
    /// Its number at the node's doorbell.
    pub(super) number: u32,
    pub(crate) token: Token,
    pub(super) birth: Birth,
    pub(crate) wait: Wait,
    pub(crate) router: Arc<Router>,
    pub(crate) unit: Arc<Unit>,
}

impl Seat {
    /// `None` if no worker has such a place.
    pub(crate) fn new(
        segment: Arc<Segment>,
        place: u32,
        token: Token,
        wait: Wait,
        router: Arc<Router>,
        unit: Arc<Unit>,
    ) -> Option<Self> {
        let (node, number) = segment.seat_of(place)?;
        let birth = segment.birth();
        Some(Self { segment, place, node, number, token, birth, wait, router, unit })
    }

    pub(crate) fn entry(&self) -> &Entry {
        &self.segment.participants()[self.place as usize]
    }

    pub(crate) fn node(&self) -> Node<'_> {
        self.segment.node(self.node).expect("its seat is of this node")
    }

    /// Which of the node's workers it is, or is a thread of.
    pub(crate) fn worker(&self) -> u32 {
        self.number / self.node().info().facts.threads
    }

    /// Which of that worker's threads it is.
    pub(crate) fn thread(&self) -> u32 {
        self.number % self.node().info().facts.threads
    }

    pub(crate) fn context(&self) -> Context {
        let (entry, node) = (self.entry(), self.node());
        Context {
            server_name: self.segment.identity().name,
            servlet_name: node.info().name.clone(),
            worker_index: self.worker(),
            thread_index: self.thread(),
            facts: node.info().facts,
            cpus: entry.cpus(),
            restarts: entry.restarts(),
        }
    }

    #[inline]
    pub(super) fn mover(&self, client: Token) -> Mover<'_> {
        Mover { segment: &self.segment, router: &self.router, client, me: self.token, outbox: None }
    }

    /// An error record of this worker.
    pub(crate) fn error(&self, attempt: u8, cause: RemoteCause) -> RemoteError {
        let servlet = self.node().info().name.clone();
        RemoteError { servlet, worker: self.worker(), pid: std::process::id(), attempt, cause }
    }
}
