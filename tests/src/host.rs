//! The same test body over worker processes and worker threads.

use crate::wait_until;
use ringmill::{
    BatchWorker, Cpus, Payload, ProcessServlet, Server, ServerBuilder, StartError, ThreadServlet,
};
use ringmill_shm::check::check;
use ringmill_shm::segment::{Location, Segment};
use std::time::Duration;

/// Where workers run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Host {
    /// Each in a process of its own.
    Processes,
    /// Each in a thread of the server's process.
    Threads,
}

/// Whether tests that can use threads in place of worker processes do: for ThreadSanitizer, which sees only threads, and
/// reports races where another process establishes the order.
#[must_use]
pub fn only_threads() -> bool {
    std::env::var_os("RINGMILL_TESTS_IN_THREADS").is_some()
}

/// Runs a test body with worker processes, then with worker threads.
pub fn on_both(body: impl Fn(Host)) {
    for host in [Host::Processes, Host::Threads] {
        if host == Host::Processes && only_threads() {
            continue;
        }
        eprintln!("with {host:?}"); // shown only if the test fails
        body(host);
    }
}

/// How many workers, and how they make batches: the options of either servlet.
#[derive(Debug, Clone, Default)]
pub struct Crew {
    cpus: Cpus,
    batch_size: usize,
    wait: Option<Duration>,
    threads: Option<usize>,
    log_every: Option<u64>,
}

impl Crew {
    /// This many workers that handle items one by one.
    #[must_use]
    pub fn of(workers: usize) -> Self {
        Self::on(workers)
    }

    /// Workers on these CPUs.
    #[must_use]
    pub fn on(cpus: impl Into<Cpus>) -> Self {
        Self { cpus: cpus.into(), ..Self::default() }
    }

    /// In batches of up to this many items, without a window.
    #[must_use]
    pub fn greedy(self, batch_size: usize) -> Self {
        self.patient(batch_size, Duration::ZERO)
    }

    /// In batches of up to this many items, with a window.
    #[must_use]
    pub fn patient(mut self, batch_size: usize, window: Duration) -> Self {
        self.batch_size = batch_size;
        self.wait = Some(window);
        self
    }

    /// With this many threads each.
    #[must_use]
    pub fn threads(mut self, threads: usize) -> Self {
        self.threads = Some(threads);
        self
    }

    /// That log after this many batches.
    #[must_use]
    pub fn logging_every(mut self, batches: u64) -> Self {
        self.log_every = Some(batches);
        self
    }

    /// In batches of up to this many items, with the default window.
    #[must_use]
    pub fn batches_of(mut self, batch_size: usize) -> Self {
        self.batch_size = batch_size;
        self.wait = None;
        self
    }
}

impl Host {
    /// Starts a server with one servlet of this host.
    ///
    /// # Errors
    /// As [`ServerBuilder::start`].
    pub fn try_start<W: BatchWorker>(
        self,
        server: ServerBuilder,
        config: W::Config,
        crew: Crew,
    ) -> Result<Server<W::In, W::Out>, StartError> {
        macro_rules! start {
            ($servlet:ident) => {{
                let mut servlet = $servlet::<W>::new(config).cpus(crew.cpus).batch_size(crew.batch_size);
                if let Some(threads) = crew.threads {
                    servlet = servlet.stream_threads(threads);
                }
                if let Some(batches) = crew.log_every {
                    servlet = servlet.log_batches_every(batches);
                }
                server.start(match crew.wait {
                    Some(wait) => servlet.batch_wait_time(wait),
                    None => servlet,
                })
            }};
        }
        match self {
            Self::Processes => start!(ProcessServlet),
            Self::Threads => start!(ThreadServlet),
        }
    }

    /// [`try_start`](Self::try_start), for tests of a started server.
    ///
    /// # Panics
    /// If the server does not start.
    #[track_caller]
    pub fn start<W: BatchWorker>(
        self,
        server: ServerBuilder,
        config: W::Config,
        crew: Crew,
    ) -> Server<W::In, W::Out> {
        self.try_start::<W>(server, config, crew).expect("the server starts")
    }
}

/// Waits until a server's permits are all back, and looks whether its segment is consistent.
///
/// # Panics
/// If it is not.
#[track_caller]
pub fn assert_at_rest<In: Payload, Out: Payload>(server: &Server<In, Out>) {
    wait_until("all permits to be back", || server.backlog() == 0);
    let location = Location::named(server.name()).expect("a name");
    let segment = Segment::inspect(location).expect("a segment");
    assert!(check(&segment).is_empty(), "{:?}", server.debug_info());
}
