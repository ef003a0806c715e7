//! The options that process and thread servlets share.

use crate::error::StartError;
use crate::plan::{Launch, PlanNode};
use crate::policy::batch::Rule;
use crate::policy::cpus::Cpus;
use crate::policy::on_death::OnDeath;
use crate::policy::restarts::Restarts;
use crate::wire::payload::Payload;
use crate::worker::{BatchWorker, Identity};
use ringmill_shm::doorbell::WORKER_LIMIT;
use ringmill_shm::layout::NodeFacts;
use ringmill_shm::participant::Role;
use ringmill_shm::plan::Target;
use ringmill_shm::segment::NodeSpec;
use std::time::Duration;

/// The options of a servlet, before it is planned.
#[derive(Debug, Clone)]
pub(super) struct Options<Config> {
    pub(super) config: Config,
    pub(super) name: Option<String>,
    pub(super) cpus: Cpus,
    pub(super) batch_size: usize,
    pub(super) batch_wait_time: Option<Duration>,
    pub(super) stream_threads: usize,
    pub(super) log_batches_every: u64,
    pub(super) restarts: Restarts,
    pub(super) on_death: OnDeath,
    pub(super) exec_timeout: Option<Duration>,
}

/// The default of `log_batches_every`.
const LOG_BATCHES_EVERY: u64 = 1_000_000;

impl<Config: Payload> Options<Config> {
    pub(super) fn new(config: Config) -> Self {
        Self {
            config,
            name: None,
            cpus: Cpus::default(),
            batch_size: 0,
            batch_wait_time: None,
            stream_threads: 1,
            log_batches_every: LOG_BATCHES_EVERY,
            restarts: Restarts::default(),
            on_death: OnDeath::Fail,
            exec_timeout: None,
        }
    }

    /// The node that runs `W` with these options.
    pub(super) fn node<W: BatchWorker<Config = Config>>(
        self,
        role: Role,
        launch: Launch,
    ) -> Result<PlanNode, StartError> {
        let worker_type = std::any::type_name::<W>();
        let name = self.name.unwrap_or_else(|| short_name(worker_type));
        crate::plan::name::check(&name)?;
        let Rule { batch_size, wait_ns, is_stated } =
            Rule::new(&name, self.batch_size, self.batch_wait_time)?;
        let workers = self.cpus.resolve(&name)?;
        let threads = threads(&name, self.stream_threads, workers.len())?;
        self.restarts.check(&name)?;
        if self.exec_timeout.is_some_and(|limit| limit.is_zero()) {
            let what = "exec_timeout in nanoseconds";
            return Err(StartError::Range { servlet: Some(name), what, value: 0, least: 1, most: u64::MAX });
        }
        let config = crate::wire::payload::to_bytes(&self.config)
            .map_err(|e| StartError::Config { servlet: name.clone(), message: e.to_string() })?;
        let identity = Identity::of::<W>();
        let type_hash = match launch {
            Launch::Process { program: Some(_), .. } => identity.elsewhere,
            _ => identity.here,
        };
        let facts = NodeFacts {
            type_hash,
            batch_wait_ns: wait_ns,
            log_batches_every: self.log_batches_every,
            batch_size,
            threads,
            keeps_inputs: self.on_death.keeps_inputs().into(),
            keeps_apart: self.on_death.keeps_apart().into(),
            wait_is_stated: is_stated.into(),
            ..NodeFacts::default()
        };
        let worker_type = worker_type.into();
        Ok(PlanNode {
            spec: NodeSpec { name, worker_type, config, facts, next: Target::End, role, workers },
            launch,
            restarts: self.restarts,
            on_death: self.on_death,
            exec_timeout: self.exec_timeout,
            mandatory: true,
        })
    }
}

/// Checks that each thread of each worker has a number at the doorbell.
fn threads(servlet: &str, threads: usize, workers: usize) -> Result<u32, StartError> {
    let most = WORKER_LIMIT / workers;
    if (1..=most).contains(&threads) {
        return Ok(threads as u32);
    }
    Err(StartError::Range {
        servlet: Some(servlet.into()),
        what: "stream_threads",
        value: threads as u64,
        least: 1,
        most: most as u64,
    })
}

/// The last part of a type's path, in lower case: `classify` for `app::Classify<f32>`.
fn short_name(type_name: &str) -> String {
    let path = type_name.split('<').next().unwrap_or(type_name);
    let last = path.rsplit("::").next().unwrap_or(path).to_lowercase();
    let fine = last.chars().filter(|c| c.is_ascii_alphanumeric() || *c == '_');
    let fine: String = fine.take(crate::plan::name::SERVLET_NAME_LIMIT).collect();
    if fine.is_empty() { "worker".into() } else { fine }
}

/// The options' setters, for a servlet that keeps them in a field `options`.
macro_rules! setters {
    () => {
        /// The servlet's name in errors and reports; by default the worker type's, in lower case. 1 to 64 bytes of
        /// letters and digits of any script, spaces within, and ASCII punctuation but `/`; another name is a
        /// [`StartError::Name`](crate::StartError::Name).
        #[must_use]
        pub fn name(mut self, name: impl Into<String>) -> Self {
            self.options.name = Some(name.into());
            self
        }

        /// How many workers there are and where each runs; by default one, not pinned. See
        /// [`Cpus`](crate::Cpus).
        #[must_use]
        pub fn cpus(mut self, cpus: impl Into<crate::policy::cpus::Cpus>) -> Self {
            self.options.cpus = cpus.into();
            self
        }

        /// 0 (the default): items one by one; 1: batches of one; n: batches of 1 to n items.
        #[must_use]
        pub fn batch_size(mut self, items: usize) -> Self {
            self.options.batch_size = items;
            self
        }

        /// How long the oldest item of a batch waits, since it was enqueued, before a batch that is not full is closed.
        /// Zero takes only items that are there. Only with a batch size above 1. A stated wait is kept exactly.
        ///
        /// By default a batch waits at most 10 ms, and only while a wait can pay: a worker that finds one item alone
        /// takes it at once, unless one of the node's last eight batches had more than one; and a wait ends early once
        /// no item has come for eight times the mean gap between items (at least 100 µs). So a lone caller never waits,
        /// and concurrent callers get full batches.
        #[must_use]
        pub fn batch_wait_time(mut self, wait: std::time::Duration) -> Self {
            self.options.batch_wait_time = Some(wait);
            self
        }

        /// How many batches of one worker can be in progress at once; 1 by default. For work that waits for a disk, a
        /// network or a device.
        ///
        /// Each thread has a worker of its own, built there by `new` from the configuration. The threads share large
        /// data through a `static`, a `OnceLock` say. [`Context::thread_index`](crate::Context::thread_index) tells
        /// them apart. Those of a worker process live and die together, those of a
        /// [`ThreadServlet`](crate::ThreadServlet) separately. From 1 up to 64 divided by the number of workers;
        /// another number is a [`StartError::Range`](crate::StartError::Range).
        ///
        /// ```
        /// use ringmill::rkyv::Archived;
        /// use ringmill::{BoxError, Context, ProcessServlet, Worker};
        /// use std::sync::OnceLock;
        ///
        /// /// One for all threads of a process, made by the first that needs it.
        /// static PRIMES: OnceLock<Vec<u32>> = OnceLock::new();
        ///
        /// struct Factor;
        ///
        /// impl Worker for Factor {
        ///     type Config = u32;
        ///     type In = u32;
        ///     type Out = Option<u32>;
        ///
        ///     fn new(limit: u32, _: &Context) -> Result<Self, BoxError> {
        ///         PRIMES.get_or_init(|| (2..limit).filter(|n| (2..*n).all(|d| n % d != 0)).collect());
        ///         Ok(Self)
        ///     }
        ///
        ///     fn call(&mut self, number: &Archived<u32>) -> Result<Option<u32>, BoxError> {
        ///         let divides = |prime: &&u32| number.to_native() % **prime == 0;
        ///         Ok(PRIMES.get().and_then(|primes| primes.iter().find(divides)).copied())
        ///     }
        /// }
        ///
        /// let servlet = ProcessServlet::<Factor>::new(1000).cpus(2).stream_threads(4);
        /// ```
        #[must_use]
        pub fn stream_threads(mut self, threads: usize) -> Self {
            self.options.stream_threads = threads;
            self
        }

        /// How soon and how often dead workers are restarted, and when the servlet is given up. See
        /// [`Restarts`](crate::Restarts).
        #[must_use]
        pub fn restarts(mut self, policy: crate::policy::restarts::Restarts) -> Self {
            self.options.restarts = policy;
            self
        }

        /// After how many batches a worker logs how large they were: one `tracing::info!` with the fields
        /// `servlet`, `worker`, `thread`, `count`, `min`, `max` and `mean`, each since the last such line.
        /// By default 1,000,000; 0 means never, and so does a batch size of 0.
        ///
        /// The line is logged in the worker's own process. There it reaches a subscriber only if the
        /// [set-up](crate::init#set-up) installs one, or the server [forwards](crate::ServerBuilder::forward_events)
        /// events; a worker in a thread logs to the subscriber of the server's process.
        /// [`Server::stats`](crate::Server::stats) needs neither.
        #[must_use]
        pub fn log_batches_every(mut self, batches: u64) -> Self {
            self.options.log_batches_every = batches;
            self
        }
    };
}
pub(super) use setters;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_from_types() {
        assert_eq!(short_name("app::models::Classify<f32>"), "classify");
        assert_eq!(short_name("ringmill::worker::PassThrough<alloc::vec::Vec<u8>>"), "passthrough");
        assert_eq!(short_name("::"), "worker");
    }
}
