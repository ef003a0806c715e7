//! A server's statistics, read from shared memory while it runs.

use ringmill_shm::participant::Life;
use ringmill_shm::segment::Segment;
use ringmill_shm::stats::{
    CallerDistributions, CallerSnapshot, CallerStats, ServerSnapshot, Snapshot, WorkerDistributions,
};
use ringmill_shm::sys::time::now_ns;
use serde::Serialize;

/// A server's statistics at one moment, counted since its start.
///
/// ```
/// use ringmill::{PassThrough, Server, ThreadServlet};
/// # fn main() -> Result<(), ringmill::BoxError> {
/// let server = Server::anonymous("statistics").start(ThreadServlet::<PassThrough<u32>>::new(()))?;
/// for number in 0..100 {
///     server.call(&number)?;
/// }
/// let stats = server.stats();
/// assert_eq!(stats.requests.counters.answered, 100);
/// let total = &stats.requests.times.total_time;
/// println!("total time: median {} ns, 99th percentile {} ns", total.percentile(50.0), total.percentile(99.0));
/// let run = &stats.servlets[0].times().run_time;
/// println!("user code: {} runs, {:.0} ns on average", run.count(), run.mean());
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct ServerStats {
    /// Of the requests, as their callers saw them.
    pub requests: RequestStats,
    /// Of the workers' deaths.
    pub deaths: ServerSnapshot,
    /// One for each servlet that has workers, in the order of the plan.
    pub servlets: Vec<ServletStats>,
}

/// The statistics of all requests, as their callers saw them.
#[derive(Debug, Clone, Default, Serialize)]
#[non_exhaustive]
pub struct RequestStats {
    /// How the requests ended.
    pub counters: CallerSnapshot,
    /// How long they took; see [`Timing`](crate::stats::Timing) for which of them.
    pub times: CallerDistributions,
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
    /// The sizes of its batches, and times; see [`Timing`](crate::stats::Timing) for which of them.
    pub times: WorkerDistributions,
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

    /// The sizes of batches, and times, of all its workers.
    #[must_use]
    pub fn times(&self) -> WorkerDistributions {
        let all = self.workers.iter().map(|worker| &worker.times);
        all.fold(WorkerDistributions::default(), |sum, times| sum.merged(times))
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
        Self {
            requests: RequestStats::of(segment),
            deaths: segment.server_counters().snapshot(),
            servlets: servlets(segment, now_ns()),
        }
    }
}

impl RequestStats {
    fn of(segment: &Segment) -> Self {
        let (counters, times) = CallerStats::of_all(segment.callers());
        Self { counters, times }
    }
}

/// Every servlet that has workers, as it is at `now_ns`.
pub(super) fn servlets(segment: &Segment, now_ns: u64) -> Vec<ServletStats> {
    let nodes = (0..segment.shape().nodes).filter_map(|node| segment.node(node));
    let servlet = nodes.map(|node| {
        let threads = node.info().facts.threads;
        let rows = node.info().first_participant..;
        let workers = (0..).zip(rows).zip(node.workers()).map(|((number, row), entry)| {
            let life = entry.life();
            let (counters, times) = segment.worker_stats(row).unwrap_or_default();
            WorkerStats {
                index: number / threads,
                thread: number % threads,
                pid: entry.pid(),
                alive: life != Life::Vacant && entry.token().is_some_and(|token| !segment.is_dead(token)),
                ready: life == Life::Ready,
                state: life,
                state_seconds: seconds_since(entry.since_ns(), now_ns),
                restarts: entry.restarts(),
                counters,
                times,
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
