//! A server's statistics, read from shared memory while it runs.

use ringmill_shm::participant::Life;
use ringmill_shm::segment::Segment;
use ringmill_shm::stats::Snapshot;
use ringmill_shm::sys::time::now_ns;
use serde::Serialize;

/// A server's statistics at one moment.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct ServerStats {
    /// One for each servlet that has workers, in the order of the plan.
    pub servlets: Vec<ServletStats>,
}

/// A servlet with its statistics.
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

/// A worker, or one thread of it, with its statistics; its counters continue over restarts.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct WorkerStats {
    /// The worker's index within the servlet.
    pub index: u32,
    /// The thread's index within the worker; 0 if it has one thread.
    pub thread: u32,
    /// The process in which it runs, or ran last; 0 while it has none.
    pub pid: u32,
    /// Whether its process or thread lives.
    pub alive: bool,
    /// Whether it takes requests.
    pub ready: bool,
    /// What it is doing: `vacant`, `starting` (in its set-up, `new` or `warm_up`), `ready`, `leaving` (in `cleanup`), `failed`
    /// (could not start, or has given up), `dead`.
    pub state: Life,
    /// How long it has been in that state, in seconds.
    pub state_seconds: f64,
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
        Self { servlets: servlets(segment, now_ns()) }
    }
}

/// Every servlet that has workers, as it is at `now_ns`.
pub(super) fn servlets(segment: &Segment, now_ns: u64) -> Vec<ServletStats> {
    let nodes = (0..segment.shape().nodes).filter_map(|node| segment.node(node));
    let servlet = nodes.map(|node| {
        let threads = node.info().facts.threads;
        let workers = (0..).zip(node.workers()).map(|(number, entry)| {
            let life = entry.life();
            WorkerStats {
                index: number / threads,
                thread: number % threads,
                pid: entry.pid(),
                alive: life != Life::Vacant && entry.token().is_some_and(|token| !segment.is_dead(token)),
                ready: life == Life::Ready,
                state: life,
                state_seconds: seconds_since(entry.since_ns(), now_ns),
                restarts: entry.restarts(),
                counters: entry.counters().snapshot(),
            }
        });
        ServletStats {
            name: node.info().name.clone(),
            depth: node.ring().depth(),
            workers: workers.collect(),
        }
    });
    servlet.collect()
}

pub(super) fn seconds_since(then_ns: u64, now_ns: u64) -> f64 {
    now_ns.saturating_sub(then_ns) as f64 / 1e9
}
