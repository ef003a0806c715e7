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

/// Statistics of a worker, or of one thread of it; its counters go on over restarts.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct WorkerStats {
    /// Which of the servlet's workers.
    pub index: u32,
    /// Which of that worker's threads; 0 if it has one.
    pub thread: u32,
    /// Its process; 0 while it is not there.
    pub pid: u32,
    /// Whether it is at work.
    pub ready: bool,
    /// How often it was started anew.
    pub restarts: u32,
    /// Its counters since the server's start.
    pub counters: Snapshot,
}

/// Batches in numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct BatchStats {
    /// How many batches.
    pub count: u64,
    /// How many items in them.
    pub items: u64,
    /// Items of the smallest.
    pub min: u64,
    /// Items of the largest.
    pub max: u64,
}

impl BatchStats {
    /// Items a batch; 0 if there was none.
    #[must_use]
    pub fn mean(&self) -> f64 {
        if self.count == 0 { 0.0 } else { self.items as f64 / self.count as f64 }
    }
}

impl ServletStats {
    /// All its workers' counters together.
    #[must_use]
    pub fn total(&self) -> Snapshot {
        self.workers.iter().map(|worker| worker.counters).fold(Snapshot::default(), Snapshot::merged)
    }

    /// All its workers' batches.
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
