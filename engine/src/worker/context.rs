//! What a worker learns about itself, and why it stops.

use ringmill_shm::layout::NodeFacts;
use std::time::Duration;

/// What a worker's constructor and its `warm_up` learn about the worker.
#[derive(Debug, Clone)]
pub struct Context {
    pub(crate) server_name: String,
    pub(crate) servlet_name: String,
    pub(crate) worker_index: u32,
    pub(crate) thread_index: u32,
    pub(crate) facts: NodeFacts,
    pub(crate) cpus: Vec<usize>,
    pub(crate) numa_node: Option<usize>,
    pub(crate) restarts: u32,
    /// Whether it is a thread of the server's process.
    pub(crate) is_thread: bool,
}

impl Context {
    /// The server's name.
    #[must_use]
    pub fn server_name(&self) -> &str {
        &self.server_name
    }

    /// The servlet's name.
    #[must_use]
    pub fn servlet_name(&self) -> &str {
        &self.servlet_name
    }

    /// The index of the worker within the servlet, from 0: to choose a GPU, say. All threads of a worker have the same
    /// one.
    #[must_use]
    pub fn worker_index(&self) -> usize {
        self.worker_index as usize
    }

    /// The index of this thread among the worker's [`stream_threads`](crate::ProcessServlet::stream_threads), from 0.
    #[must_use]
    pub fn thread_index(&self) -> usize {
        self.thread_index as usize
    }

    /// `server/servlet/index`, and `.thread` after it if the worker has several.
    #[must_use]
    pub fn name(&self) -> String {
        let worker = title(&self.servlet_name, self.worker_index, self.thread_index, self.facts.threads);
        format!("{}/{worker}", self.server_name)
    }

    /// 0: items one by one; 1: batches of one; n: batches of 1 to n.
    #[must_use]
    pub fn batch_size(&self) -> usize {
        self.facts.batch_size as usize
    }

    /// The longest time for which the oldest item of a batch waits for further ones, counted from when it was enqueued; zero:
    /// a batch takes what is there. If the servlet states no
    /// [`batch_wait_time`](crate::ProcessServlet::batch_wait_time), most batches wait for less.
    #[must_use]
    pub fn batch_wait_time(&self) -> Duration {
        Duration::from_nanos(self.facts.batch_wait_ns)
    }

    /// The CPUs to which this worker is pinned; none if it is not.
    #[must_use]
    pub fn cpus(&self) -> &[usize] {
        &self.cpus
    }

    /// The NUMA node of those CPUs, if the worker is pinned to CPUs of one node and the kernel names it.
    #[must_use]
    pub fn numa_node(&self) -> Option<usize> {
        self.numa_node
    }

    /// How often this worker has been restarted, after a death or in the place of one that left.
    #[must_use]
    pub fn restarts(&self) -> u32 {
        self.restarts
    }
}

/// `servlet/worker`, and `.thread` after it if the worker has several.
pub(crate) fn title(servlet: &str, worker: u32, thread: u32, threads: u32) -> String {
    if threads > 1 { format!("{servlet}/{worker}.{thread}") } else { format!("{servlet}/{worker}") }
}

/// Why a worker stops.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Stop {
    /// The server shuts down.
    Shutdown,
    /// The server's process is gone: the worker has a second left, and no caller waits.
    ServerGone,
    /// It has reached a limit of its servlet ([`max_requests`](crate::ProcessServlet::max_requests) and the like), or is
    /// replaced or scaled away: the server goes on, and a successor may come.
    Retired,
    /// A [fatal](crate::BoxError::fatal) error of this worker or of another thread of its process; or that other
    /// thread's worker could not be built at a restart. The whole process is restarted.
    Fatal,
}
