//! Whether a server is ready for requests, as a probe asks.

use crate::client::Core;
use crate::error::NotReady;
use ringmill_shm::participant::{Entry, Life};
use ringmill_shm::segment::Gate;

impl Core {
    /// See [`Server::readiness`](crate::Server::readiness). Reads shared memory, and asks the lease whether workers live.
    pub(super) fn readiness(&self) -> Result<(), NotReady> {
        if !self.birth.is_here() {
            return Err(NotReady::Forked { server_pid: self.pid, pid: std::process::id() });
        }
        if self.segment.gate() == Gate::Closing {
            return Err(NotReady::ShuttingDown { server: self.name.clone() });
        }
        for (index, info) in (0..).zip(self.segment.nodes()) {
            let servlet = || info.name.clone();
            let node = self.segment.node(index);
            // The gate says so of a servlet that each request passes, the doorbell of any other.
            let is_closed = self.segment.gate() == Gate::Drained(index);
            if is_closed || node.is_some_and(|node| node.doorbell().is_drained()) {
                return Err(NotReady::Drained { servlet: servlet() });
            }
            let workers = || node.iter().flat_map(|node| node.workers());
            // The lease says whether a worker lives, also before the supervisor has noticed a death.
            let lives = |row: &Entry| row.token().is_some_and(|token| !self.segment.is_dead(token));
            let down = self.down_reason(index);
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
