//! Whether a server is ready for requests, as a probe asks.

use crate::client::Core;
use crate::error::NotReady;
use ringmill_shm::participant::{Entry, Life};
use std::sync::atomic::Ordering;

impl Core {
    /// See [`Server::readiness`](crate::Server::readiness). Reads shared memory, and asks the lease whether workers live.
    pub(super) fn readiness(&self) -> Result<(), NotReady> {
        if !self.birth.is_here() {
            return Err(NotReady::Forked { server_pid: self.pid, pid: std::process::id() });
        }
        if self.closing.load(Ordering::SeqCst) {
            return Err(NotReady::ShuttingDown { server: self.name.clone() });
        }
        for (index, info) in self.segment.nodes().iter().enumerate() {
            let servlet = || info.name.clone();
            if self.shared.is_drained(index) {
                return Err(NotReady::Drained { servlet: servlet() });
            }
            let node = u32::try_from(index).ok().and_then(|node| self.segment.node(node));
            let workers = || node.iter().flat_map(|node| node.workers());
            // The lease says whether a worker lives, also before the supervisor has noticed a death.
            let lives = |row: &Entry| row.token().is_some_and(|token| !self.segment.is_dead(token));
            let down = self.shared.down(index).clone();
            if down.is_some() || !workers().any(|row| row.life() == Life::Ready && lives(row)) {
                let states = || workers().map(|row| state(row.life())).collect::<Vec<_>>().join(", ");
                return Err(NotReady::NoWorker { servlet: servlet(), reason: down.unwrap_or_else(states) });
            }
        }
        Ok(())
    }
}

/// A worker's state, where none is ready and lives.
fn state(life: Life) -> &'static str {
    match life {
        Life::Vacant => "not started",
        Life::Starting => "starting",
        Life::Leaving => "leaving",
        Life::Failed => "failed",
        Life::Ready | Life::Dead => "dead",
    }
}
