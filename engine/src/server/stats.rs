//! A server's statistics, read from shared memory while it runs.

use ringmill_shm::participant::Life;
use ringmill_shm::segment::Segment;
use ringmill_shm::stats::Snapshot;
use serde::Serialize;

/// A server's statistics at one moment.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct ServerStats {
    /// One for each servlet that has workers, in the order of the plan.
    pub servlets: Vec<ServletStats>,
}

/// A servlet's statistics.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct ServletStats {
    /// The servlet's name.
    pub name: String,
    /// Items waiting in its ring, roughly.
    pub depth: u64,
    /// One for each thread of each worker.
    pub workers: Vec<WorkerStats>,
}

/// Statistics of a worker, or of one thread of it; its counters continue over restarts.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct WorkerStats {
    /// The worker's index within the servlet.
    pub index: u32,
    /// The thread's index within the worker; 0 if it has one thread.
    pub thread: u32,
    /// The pid of its process; 0 while it has none.
    pub pid: u32,
    /// Whether it takes requests.
    pub ready: bool,
    /// How often it was restarted.
    pub restarts: u32,
    /// Its counters since the server's start.
    pub counters: Snapshot,
}

/// The numbers and sizes of batches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct BatchStats {
    /// The number of batches.
    pub count: u64,
    /// The number of items in all of them.
    pub items: u64,
    /// The items of the smallest batch.
    pub min: u64,
    /// The items of the largest batch.
    pub max: u64,
}

impl BatchStats {
    /// The mean number of items of a batch; 0 without batches.
    #[must_use]
    pub fn mean(&self) -> f64 {
        if self.count == 0 { 0.0 } else { self.items as f64 / self.count as f64 }
    }
}

impl ServletStats {
    /// The sum of its workers' counters.
    #[must_use]
    pub fn total(&self) -> Snapshot {
        self.workers.iter().map(|worker| worker.counters).fold(Snapshot::default(), Snapshot::merged)
    }

    /// The batches of all its workers.
    #[must_use]
    pub fn batches(&self) -> BatchStats {
        let total = self.total();
        BatchStats { count: total.batches, items: total.items, min: total.batch_min, max: total.batch_max }
    }
}

impl ServerStats {
    pub(crate) fn of(segment: &Segment) -> Self {
        let servlets = (0..segment.shape().nodes).filter_map(|node| segment.node(node)).map(|node| {
            let threads = node.info().facts.threads;
            let workers = (0..).zip(node.workers()).map(|(number, entry)| WorkerStats {
                index: number / threads,
                thread: number % threads,
                pid: entry.pid(),
                ready: entry.life() == Life::Ready,
                restarts: entry.restarts(),
                counters: entry.counters().snapshot(),
            });
            ServletStats {
                name: node.info().name.clone(),
                depth: node.ring().depth(),
                workers: workers.collect(),
            }
        });
        Self { servlets: servlets.collect() }
    }
}
