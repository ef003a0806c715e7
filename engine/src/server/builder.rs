//! Options of a server, and starting it.

use super::{DEFAULT_CAPACITY, Server, signals};
use crate::client::free_ids::FreeIds;
use crate::client::{Core, End};
use crate::error::StartError;
use crate::host::child;
use crate::host::supervisor::{Limits, Shared, Supervisor};
use crate::panics::say;
use crate::plan::{Blocks, DEFAULT_MAX_PAYLOAD, Planner};
use crate::policy::patience::{Patience, Wait};
use crate::route::Router;
use crate::servlet::Servlet;
use ringmill_shm::layout::REQUEST_LIMIT;
use ringmill_shm::segment::{CreateError, Location, Segment};
use ringmill_shm::sys::process::open_standard_descriptors;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;
use tracing::level_filters::LevelFilter;

const DEFAULT_START_TIMEOUT: Duration = Duration::from_secs(60);
const DEFAULT_SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(10);

/// Options of a server, before it starts.
#[derive(Debug, Clone)]
pub struct ServerBuilder {
    name: String,
    file: Option<PathBuf>,
    capacity: usize,
    blocks: Blocks,
    wait: Wait,
    start_timeout: Duration,
    shutdown_timeout: Duration,
    handle_signals: bool,
    forward_events: LevelFilter,
}

impl ServerBuilder {
    pub(super) fn new(name: String) -> Self {
        Self {
            name,
            file: None,
            capacity: DEFAULT_CAPACITY,
            blocks: Blocks::UpTo(DEFAULT_MAX_PAYLOAD),
            wait: Wait::default(),
            start_timeout: DEFAULT_START_TIMEOUT,
            shutdown_timeout: DEFAULT_SHUTDOWN_TIMEOUT,
            handle_signals: true,
            forward_events: LevelFilter::OFF,
        }
    }

    /// How many requests can be in progress at once, in all stages together: the server has this many permits. A
    /// [`Reply`](crate::call::Reply) keeps its request's permit until it is dropped. By default 256.
    #[must_use]
    pub fn capacity(mut self, requests: usize) -> Self {
        self.capacity = requests;
        self
    }

    /// The size in bytes of the largest serialised input or outcome; by default 16 KiB.
    ///
    /// Each request, and each branch of an ensemble's member, gets two blocks of this size and of every smaller size class
    /// (1 KiB, 4 KiB, 16 KiB and so on). Above 1 KiB their blocks take from 2 to 4.7 times this size, by default 2.6 times. So
    /// the segment takes up to 4.7 times this size × [`capacity`](Self::capacity) × (1 + the number of all ensembles' members);
    /// [`payload_classes`](Self::payload_classes) chooses other blocks.
    #[must_use]
    pub fn max_payload(mut self, bytes: usize) -> Self {
        self.blocks = Blocks::UpTo(bytes);
        self
    }

    /// Classes of payload blocks, each a size in bytes and a number of blocks, instead of those that follow from
    /// [`max_payload`](Self::max_payload). With fewer than two blocks a request, a call or an outcome may find no free
    /// block, and ends with an error.
    #[must_use]
    pub fn payload_classes(mut self, classes: impl IntoIterator<Item = (usize, usize)>) -> Self {
        self.blocks = Blocks::Classes(classes.into_iter().collect());
        self
    }

    /// How callers and workers wait; by default [`Wait::Adaptive`].
    #[must_use]
    pub fn wait(mut self, wait: Wait) -> Self {
        self.wait = wait;
        self
    }

    /// How long all workers together may take until they are ready; by default a minute. A worker that is restarted may
    /// take as long; then the supervisor kills it.
    #[must_use]
    pub fn start_timeout(mut self, limit: Duration) -> Self {
        self.start_timeout = limit;
        self
    }

    /// How long the shutdown waits for requests in progress to end, and for workers to leave, before it kills the
    /// workers; by default ten seconds. A worker that leaves for another reason, after a fatal error, may take as long.
    #[must_use]
    pub fn shutdown_timeout(mut self, limit: Duration) -> Self {
        self.shutdown_timeout = limit;
        self
    }

    /// Keeps the segment in a file at this path, not in `/dev/shm`: on a tmpfs, ramfs or hugetlbfs, where it is memory
    /// (on the last one in whole huge pages), or on any other file system that can map files. There too requests use
    /// memory only, but the kernel writes changed pages back to the device from time to time.
    ///
    /// The start fails if room, huge pages or memory of the control group (the container) do not suffice, with an error
    /// that says what there is and what is needed. Without that check the kernel would kill processes of the control
    /// group later.
    #[must_use]
    pub fn file(mut self, path: impl Into<PathBuf>) -> Self {
        self.file = Some(path.into());
        self
    }

    /// Whether SIGINT (Ctrl-C), SIGTERM, SIGHUP and SIGQUIT, as long as the program has no handler for them, first shut
    /// the server down in order; by default they do. A second signal kills the workers at once. A program that installs
    /// a handler of its own, before or later, decides itself. The first process of a container ends with 128 and the
    /// signal's number.
    #[must_use]
    pub fn handle_signals(mut self, handle: bool) -> Self {
        self.handle_signals = handle;
        self
    }

    /// Has the service log its worker processes' [`tracing`] events, up to this level; by default none. They vanish then,
    /// since a worker's process has no subscriber. Workers in threads log to the service's subscriber in any case.
    ///
    /// The service emits each event again, at its level, with the target [`events::TARGET`](crate::events::TARGET) and
    /// the fields of that module. What a worker had logged when it was killed arrives too. A worker never waits for the
    /// log: where the service does not keep up, since a subscriber is slow, or a worker has more to say than the some
    /// hundred events that wait at most, events are dropped, and the log says how many.
    ///
    /// In a worker's process this installs a subscriber, unless the [set-up](crate::init#set-up) has installed one, which
    /// can [forward](crate::events::forward) events itself. So a worker that installs one later, in `new`, gets an error.
    ///
    /// ```no_run
    /// # fn main() -> Result<(), ringmill::BoxError> {
    /// # use ringmill::{PassThrough, ProcessServlet, Server};
    /// let server = Server::builder("events")
    ///     .forward_events(tracing::Level::INFO)
    ///     .start(ProcessServlet::<PassThrough<u32>>::new(()))?;
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn forward_events(mut self, up_to: impl Into<LevelFilter>) -> Self {
        self.forward_events = up_to.into();
        self
    }

    /// Starts the server: creates the segment, starts all workers in parallel, and returns when all are ready.
    ///
    /// # Errors
    /// See [`StartError`]; no process and no segment is left behind.
    pub fn start<S: Servlet>(self, servlet: S) -> Result<Server<S::In, S::Out>, StartError> {
        child::exit_if_unfulfilled_worker();
        open_standard_descriptors(); // before any other file is opened
        // From here on an error or a panic drops the server, which leaves nothing behind.
        let server = Server::new(self.start_core(servlet)?);
        if server.core.handle_signals {
            signals::look_after(Arc::downgrade(&server.core));
        }
        Ok(server)
    }

    fn start_core<S: Servlet>(self, servlet: S) -> Result<Arc<Core>, StartError> {
        let capacity = u32::try_from(self.capacity).ok().filter(|c| (1..=REQUEST_LIMIT).contains(c));
        let capacity = capacity.ok_or(StartError::Range {
            servlet: None,
            what: "capacity",
            value: self.capacity as u64,
            least: 1,
            most: REQUEST_LIMIT.into(),
        })?;
        let mut planner = Planner::default();
        let span = servlet.plan(&mut planner)?;
        let (plan, choosers) = planner.finish(&span);
        let router = Arc::new(Router { choosers });
        plan.nodes.iter().try_for_each(crate::host::registry::check)?;
        let location = match self.file {
            Some(path) => Location::File(path),
            None => Location::named(&self.name).map_err(CreateError::from)?,
        };
        let segment = Segment::create(location, &plan.spec(capacity, &self.blocks)?)?;
        let segment = Arc::new(segment);
        let limits = Limits { start: self.start_timeout, shutdown: self.shutdown_timeout };
        let shared = Arc::new(Shared::new(Arc::clone(&segment), &plan.nodes, router, limits)?);
        let warnings = plan.warnings(capacity);
        for warning in &warnings {
            say(|| tracing::warn!(server = %self.name, "{warning}"));
        }
        let free_ids = FreeIds::new(capacity);
        // This starts the first process. No code that could panic comes before the core can end it.
        let events = self.forward_events;
        let supervisor = Supervisor::start(Arc::clone(&shared), &plan.nodes, &self.name, self.wait, events);
        // A thread that was started may keep the segment, so the files are removed here.
        let supervisor = supervisor.inspect_err(|_| shared.remove_files())?;
        let core = Arc::new_cyclic(|me| Core {
            me: Weak::clone(me),
            reactor: OnceLock::new(),
            name: self.name,
            capacity,
            entry: plan.entry,
            birth: segment.birth(),
            pid: std::process::id(),
            stamps: plan.stamps(),
            free_ids,
            patience: Patience::of_callers(self.wait),
            closing: AtomicBool::new(false),
            end: End::default(),
            shutdown_timeout: self.shutdown_timeout,
            handle_signals: self.handle_signals,
            warnings,
            supervisor,
            shared,
            segment,
        });
        let unready = Unready(Some(core));
        let core = unready.core();
        core.await_workers(self.start_timeout)?;
        core.supervisor.server_is_ready(&core.shared);
        Ok(unready.into_ready())
    }
}

/// A server that is being started; dropping it kills the server.
struct Unready(Option<Arc<Core>>);

impl Unready {
    fn core(&self) -> Arc<Core> {
        Arc::clone(self.0.as_ref().expect("taken only by value"))
    }

    fn into_ready(mut self) -> Arc<Core> {
        self.0.take().expect("taken only by value")
    }
}

impl Drop for Unready {
    fn drop(&mut self) {
        if let Some(core) = &self.0 {
            core.kill();
        }
    }
}
