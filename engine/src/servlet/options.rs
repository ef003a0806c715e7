//! The options that process and thread servlets share.

use crate::policy::cpus::Cpus;
use crate::policy::lifespan::Lifespan;
use crate::policy::on_death::OnDeath;
use crate::policy::restarts::Restarts;
use crate::wire::Schemas;
use std::time::Duration;

/// The options of a servlet, before it is planned.
#[derive(Debug, Clone)]
pub(super) struct Options<Config> {
    pub(super) config: Config,
    pub(super) name: Option<String>,
    pub(super) cpus: Cpus,
    pub(super) max_workers: Option<usize>,
    pub(super) batch_size: usize,
    pub(super) batch_wait_time: Option<Duration>,
    pub(super) stream_threads: usize,
    pub(super) terms_by_worker: bool,
    pub(super) log_batches_every: u64,
    pub(super) restarts: Restarts,
    pub(super) on_death: OnDeath,
    pub(super) exec_timeout: Option<Duration>,
    pub(super) lifespan: Lifespan,
    pub(super) schemas: Schemas,
}

/// The default of `log_batches_every`.
const LOG_BATCHES_EVERY: u64 = 1_000_000;

impl<Config> Options<Config> {
    pub(super) fn new(config: Config) -> Self {
        Self {
            config,
            name: None,
            cpus: Cpus::default(),
            max_workers: None,
            batch_size: 0,
            batch_wait_time: None,
            stream_threads: 1,
            terms_by_worker: false,
            log_batches_every: LOG_BATCHES_EVERY,
            restarts: Restarts::default(),
            on_death: OnDeath::Fail,
            exec_timeout: None,
            lifespan: Lifespan::default(),
            schemas: Schemas::default(),
        }
    }

    /// These options with another configuration.
    pub(super) fn with_config<Other>(&self, config: Other) -> Options<Other> {
        Options {
            config,
            name: self.name.clone(),
            cpus: self.cpus.clone(),
            max_workers: self.max_workers,
            batch_size: self.batch_size,
            batch_wait_time: self.batch_wait_time,
            stream_threads: self.stream_threads,
            terms_by_worker: self.terms_by_worker,
            log_batches_every: self.log_batches_every,
            restarts: self.restarts,
            on_death: self.on_death,
            exec_timeout: self.exec_timeout,
            lifespan: self.lifespan,
            schemas: self.schemas.clone(),
        }
    }
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

        /// How many workers there can be: up to this many, [`Server::scale`](crate::Server::scale) adds some to those of
        /// [`cpus`](Self::cpus), or takes some away, while the server runs. By default as many as there are at first.
        /// Each that can be added has its rows in the segment, a few KiB, and no process and no thread while it is not
        /// there. Worker i of those runs where worker i modulo the number of the first ones does. Up to 64 divided by the
        /// number of [`stream_threads`](Self::stream_threads), and no fewer than there are at first; another number is a
        /// [`StartError::Range`](crate::StartError::Range).
        ///
        /// ```
        /// # fn main() -> Result<(), ringmill::BoxError> {
        /// use ringmill::{PassThrough, Server, ThreadServlet};
        ///
        /// let echo = ThreadServlet::<PassThrough<u32>>::new(()).name("echo").cpus(2).max_workers(8);
        /// let server = Server::anonymous("scaled").start(echo)?;
        /// server.scale("echo", 8)?; // the morning
        /// assert_eq!(*server.call(&7)?, 7);
        /// server.scale("echo", 1)?; // the night
        /// assert_eq!(*server.call(&8)?, 8);
        /// # Ok(())
        /// # }
        /// ```
        #[must_use]
        pub fn max_workers(mut self, workers: usize) -> Self {
            self.options.max_workers = Some(workers);
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
        /// and concurrent callers get full batches. In a pipeline the batches of each stage wait: where an early answer
        /// matters more than full batches, begin with zero.
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

        /// Leaves its batches and the number of its threads to its workers: each states them once it is built, in
        /// [`BatchWorker::terms`](crate::BatchWorker::terms). What the servlet says of `batch_size` and `stream_threads` is then
        /// what is reserved, and the most that a worker may state; what a worker leaves out is as the servlet says. Reports show
        /// what is reserved.
        ///
        /// For workers that know only when they are built: how large a batch their model takes, say, or which are written
        /// elsewhere. Requests for such a servlet always say when they are enqueued, which costs their callers a look at the
        /// clock.
        ///
        /// ```
        /// use ringmill::program::Outside;
        /// use ringmill::ProcessServlet;
        ///
        /// let servlet = ProcessServlet::<Outside<String>>::new(())
        ///     .program("models")
        ///     .program_worker("rank")
        ///     .batch_size(256)
        ///     .stream_threads(8)
        ///     .terms_by_worker();
        /// ```
        #[must_use]
        pub fn terms_by_worker(mut self) -> Self {
            self.options.terms_by_worker = true;
            self
        }

        /// What the bytes of its inputs mean. A program that becomes a worker by a call must list the worker with
        /// [the same schema](crate::program::NamedWorker::input_schema), or without one if none is stated here: otherwise the
        /// start is a [`StartError::Join`](crate::StartError::Join) that names both. A servlet before this one that states
        /// another schema of its outcomes is a [`StartError::Schemas`](crate::StartError::Schemas).
        #[must_use]
        pub fn input_schema(mut self, schema: &crate::payload::Schema) -> Self
        where
            W: BatchWorker<In = crate::payload::Bytes>,
        {
            self.options.schemas.input = Some(schema.clone());
            self
        }

        /// What the bytes of its outcomes mean, as [`input_schema`](Self::input_schema).
        ///
        /// ```
        /// use ringmill::payload::{Bytes, Schema};
        /// use ringmill::program::Outside;
        /// use ringmill::{ProcessServlet, Servlet};
        ///
        /// let (image, label) = (Schema::new("app.Image", 3), Schema::new("app.Label", 1));
        /// let servlet = |name: &str| ProcessServlet::<Outside<Bytes>>::new(()).program("vision").program_worker(name);
        /// let stages = servlet("resize")
        ///     .input_schema(&image)
        ///     .outcome_schema(&image)
        ///     .then(servlet("classify").input_schema(&image).outcome_schema(&label));
        /// ```
        #[must_use]
        pub fn outcome_schema(mut self, schema: &crate::payload::Schema) -> Self
        where
            W: BatchWorker<Out = crate::payload::Bytes>,
        {
            self.options.schemas.outcome = Some(schema.clone());
            self
        }

        /// How soon and how often dead workers are restarted, and when the servlet is given up. See
        /// [`Restarts`](crate::Restarts).
        #[must_use]
        pub fn restarts(mut self, policy: crate::policy::restarts::Restarts) -> Self {
            self.options.restarts = policy;
            self
        }

        /// How many requests a worker handles before it is replaced, for one that leaks; by default any number. Each
        /// incarnation draws its own limit between nine tenths of this and this, so that workers that were started
        /// together do not leave together; below 10 the number is exact. Zero is a
        /// [`StartError::Range`](crate::StartError::Range).
        ///
        /// A worker that has reached its limit finishes its batch, cleans up with
        /// [`Stop::Retired`](crate::worker::Stop::Retired) and leaves, and its successor is started at once. That is no
        /// death: no request is lost, no back-off follows, and [`restarts`](Self::restarts) does not count it. The log
        /// says why it left (`tracing::info!`), and `retired` of the statistics counts it. With several
        /// [`stream_threads`](Self::stream_threads) a process counts the requests of all its threads together.
        ///
        /// ```
        /// use ringmill::{PassThrough, ProcessServlet};
        /// use std::time::Duration;
        ///
        /// let servlet = ProcessServlet::<PassThrough<u32>>::new(())
        ///     .max_requests(100_000)
        ///     .max_lifetime(Duration::from_secs(3600));
        /// ```
        #[must_use]
        pub fn max_requests(mut self, requests: u64) -> Self {
            self.options.lifespan.max_requests = Some(requests);
            self
        }

        /// How long a worker serves, from when it is ready, before it is replaced as for [`max_requests`](Self::max_requests);
        /// by default for ever. Each incarnation draws its own limit between nine tenths of this and this. A worker in
        /// a long `call` finishes it first. Zero is a [`StartError::Range`](crate::StartError::Range).
        #[must_use]
        pub fn max_lifetime(mut self, limit: std::time::Duration) -> Self {
            self.options.lifespan.max_lifetime = Some(limit);
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
