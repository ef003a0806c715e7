//! The levers of a server, as any thread pulls them: scaling, restarting, replacing and killing workers, which the
//! supervisor's thread does (`pulled`); draining, which needs none of its work.
//!
//! # Protocol
//!
//! A thread puts what it wants into a list, signals the supervisor's event, and waits for the answer. The supervisor
//! answers when it is done; if it ends first, it drops what is left, and those threads learn that the server shuts down.
//!
//! A servlet that every request passes is drained at the gate of callers, so requests that are in the server finish. Any
//! other is drained at its ring, by a mark in its doorbell that movers see: a task that comes to it ends with an error.
//! In both cases nothing is taken out of a ring.

use super::lever::{Lever, Pull};
use super::shared::Shared;
use crate::clock::deadline;
use crate::error::LeverError;
use ringmill_shm::arena::{At, Task};
use ringmill_shm::token::Token;
use ringmill_shm::word::Phase;
use std::sync::atomic::Ordering;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

/// How often a thread that drains a servlet looks whether it is empty: no event reports that a task has left a node.
const DRAIN_LOOK: Duration = Duration::from_millis(5);

impl Shared {
    /// The node of a servlet with workers.
    pub(crate) fn node_of(&self, servlet: &str) -> Result<u32, LeverError> {
        let nodes = self.segment.nodes();
        let found = (0..).zip(nodes).find(|(_, node)| node.name == servlet).map(|(index, _)| index);
        found.ok_or_else(|| LeverError::NoSuchServlet {
            servlet: servlet.into(),
            known: nodes.iter().map(|node| node.name.clone()).collect(),
        })
    }

    /// Has the supervisor do something, and waits until it is done.
    pub(crate) fn pull(&self, servlet: &str, lever: Lever) -> Result<(), LeverError> {
        let node = self.node_of(servlet)?;
        if self.is_within() {
            return Err(LeverError::Within);
        }
        let (answer, answered) = channel();
        match self.pulls().as_mut() {
            Some(pulls) => pulls.push(Pull { node, lever, answer }),
            None => return Err(LeverError::ShuttingDown),
        }
        self.commands.signal();
        answered.recv().unwrap_or(Err(LeverError::ShuttingDown))
    }

    /// Lets no new request into a servlet, and waits until it is empty.
    pub(crate) fn drain_servlet(&self, servlet: &str, limit: Duration) -> Result<(), LeverError> {
        let node = self.node_of(servlet)?;
        if self.is_within() {
            return Err(LeverError::Within);
        }
        self.set_drained(node, true);
        crash_point!("levers.drained");
        let until = deadline(limit);
        let bell = self.segment.freed();
        let _awaiting = bell.await_rings();
        loop {
            let count = bell.count();
            let left = self.inside(node);
            if !self.is_drained(node as usize) {
                return Err(LeverError::Resumed { servlet: servlet.into() });
            }
            if left == 0 {
                return Ok(());
            }
            if self.pulls().is_none() {
                return Err(LeverError::ShuttingDown);
            }
            let time = until.saturating_duration_since(Instant::now());
            if time.is_zero() {
                return Err(LeverError::NotEmpty { servlet: servlet.into(), left, limit });
            }
            bell.sleep(count, Some(time.min(DRAIN_LOOK)));
        }
    }

    /// Lets requests into a servlet again.
    pub(crate) fn resume_servlet(&self, servlet: &str) -> Result<(), LeverError> {
        self.set_drained(self.node_of(servlet)?, false);
        Ok(())
    }

    fn set_drained(&self, node: u32, is_drained: bool) {
        let of_node = &self.drained[node as usize];
        if !self.mandatory[node as usize] {
            let _both = self.drains.lock().unwrap_or_else(|e| e.into_inner()); // of threads that drain and resume
            of_node.store(is_drained, Ordering::SeqCst);
            if let Some(parts) = self.segment.node(node) {
                parts.doorbell().set_drained(is_drained);
            }
        } else {
            of_node.store(is_drained, Ordering::SeqCst);
            self.set_gate();
        }
        self.segment.freed().ring(); // callers that wait for a permit learn it, and threads that drain
    }

    /// How many requests are in a drained node, or may still come to it.
    fn inside(&self, node: u32) -> usize {
        let tasks = (0..self.segment.shape().tasks()).filter_map(|id| Task::new(&self.segment, id));
        let is_mandatory = self.mandatory[node as usize];
        let is_in = |task: &Task<'_>| {
            let word = task.word().load();
            let node_of = |owner: Token| self.segment.seat_of(owner.index()).map(|(node, _)| node);
            let is_here = || match task.at() {
                At::To { node: at, .. } | At::Begun { node: at, .. } => at == node,
                At::Spoilt => word.owner().and_then(node_of) == Some(node),
                _ => false,
            };
            word.phase().is_some_and(Phase::is_under_way) && (is_mandatory || is_here())
        };
        tasks.filter(is_in).count()
    }
}
