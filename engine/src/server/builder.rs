//! Options of a server, and starting it.

use super::home::Home;
use super::launch::{Clients, Launch, Offer, Options};
use super::progress::{OnProgress, StartProgress};
use super::starting::Starting;
use super::{DEFAULT_CAPACITY, Server};
use crate::error::StartError;
use crate::host::{called, child};
use crate::plan::{Blocks, DEFAULT_MAX_PAYLOAD, Planner};
use crate::policy::memory::NumaMemory;
use crate::policy::patience::Wait;
use crate::policy::sample::Timing;
use crate::route::Router;
use crate::servlet::{Pin, Servlet};
use crate::wire::payload::layout_hash;
use ringmill_shm::layout::REQUEST_LIMIT;
use ringmill_shm::segment::{CreateError, HugePages, PayloadTypes, Prefault, Reserve, Size};
use std::any::type_name;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tracing::level_filters::LevelFilter;

/// The default of `max_partial`: a partial's room is a kibibyte then.
const DEFAULT_MAX_PARTIAL: usize = 1008;
/// The default of `traces`.
const DEFAULT_TRACES: usize = 256;
const DEFAULT_START_TIMEOUT: Duration = Duration::from_secs(60);
const DEFAULT_SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(10);

/// Options of a server, before it starts.
#[derive(Debug, Clone)]
pub struct ServerBuilder {
    options: Options,
}

impl ServerBuilder {
    pub(super) fn new(name: String) -> Self {
        let options = Options {
            name,
            home: Home::Named,
            capacity: DEFAULT_CAPACITY,
            clients: Clients::default(),
            blocks: Blocks::UpTo(DEFAULT_MAX_PAYLOAD),
            partials: 0,
            max_partial: DEFAULT_MAX_PARTIAL,
            wait: Wait::default(),
            timing: Timing::default(),
            reserve: Reserve::default(),
            prefault: Prefault::default(),
            lock_memory: false,
            numa_memory: NumaMemory::default(),
            strict_memory: false,
            huge_pages: HugePages::default(),
            traces: DEFAULT_TRACES,
            start_timeout: DEFAULT_START_TIMEOUT,
            shutdown_timeout: DEFAULT_SHUTDOWN_TIMEOUT,
            handle_signals: true,
            on_progress: None,
            forward_events: LevelFilter::OFF,
            callers: Pin::any(),
            pins: true,
        };
        Self { options }
    }

    pub(super) fn anonymous(label: String) -> Self {
        let mut builder = Self::new(label);
        builder.options.home = Home::Anonymous;
        builder
    }

    /// If a living server has the name, takes the first free one of `digits-2`, `digits-3` and so on to `digits-64`, if
    /// `digits` is the name; likewise if the name is another user's. [`Server::name`] tells which. Two servers that start
    /// at the same moment get two names. So the next version of a service can start while the last one runs: see
    /// [the guide](crate::guide#16-names-and-rolling-restarts).
    ///
    /// If all of them are in use, the start fails with [`StartError::NamesInUse`]. A server with a
    /// [file](Self::file), or an anonymous one, takes no name: there this changes nothing.
    #[must_use]
    pub fn name_or_suffix(mut self) -> Self {
        if let Home::Named = self.options.home {
            self.options.home = Home::NamedOrSuffix;
        }
        self
    }

    /// How many requests can be in progress at once, in all stages together: the server has this many permits. A
    /// [`Reply`](crate::call::Reply) keeps its request's permit until it is dropped. By default 256.
    #[must_use]
    pub fn capacity(mut self, requests: usize) -> Self {
        self.options.capacity = requests;
        self
    }

    /// How many client processes ([`Client::connect`](crate::Client::connect)) can take part at once, up to 1,022 less the
    /// workers' threads; by default none. Each has a row and [requests of its own](Self::client_requests), whose memory the
    /// segment has from the start, so a client neither waits for the requests of another process nor takes them any.
    #[must_use]
    pub fn clients(mut self, most: usize) -> Self {
        self.options.clients.most = most;
        self
    }

    /// How many requests each [client process](Self::clients) can have in progress at once: its share, which it always has,
    /// and never more than that. By default as many as [`capacity`](Self::capacity), which are those of the server's own
    /// process.
    #[must_use]
    pub fn client_requests(mut self, requests: usize) -> Self {
        self.options.clients.requests = Some(requests);
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
        self.options.blocks = Blocks::UpTo(bytes);
        self
    }

    /// Classes of payload blocks, each a size in bytes and a number of blocks, instead of those that follow from
    /// [`max_payload`](Self::max_payload). With fewer than two blocks a request, a call or an outcome may find no free
    /// block, and ends with an error. Where all that fit are in use, a larger one is taken.
    #[must_use]
    pub fn payload_classes(mut self, classes: impl IntoIterator<Item = (usize, usize)>) -> Self {
        self.options.blocks = Blocks::Classes(classes.into_iter().collect());
        self
    }

    /// How many [partials](crate::worker::Item::emit) of a request its caller may be behind, 1 to 65,536, before the worker
    /// that emits waits for it; by default 0: no caller can take any. Each request gets room for so many, see
    /// [`max_partial`](Self::max_partial).
    #[must_use]
    pub fn partials(mut self, behind: usize) -> Self {
        self.options.partials = behind;
        self
    }

    /// The size in bytes of the largest serialised partial, up to 1 MiB; by default 1,008, with which the room of a partial
    /// takes 1,024 bytes. With [`partials`](Self::partials), each request takes 256 bytes and so many times 16 bytes more
    /// than this, rounded up to 128.
    #[must_use]
    pub fn max_partial(mut self, bytes: usize) -> Self {
        self.options.max_partial = bytes;
        self
    }

    /// How callers and workers wait; by default [`Wait::Adaptive`].
    #[must_use]
    pub fn wait(mut self, wait: Wait) -> Self {
        self.options.wait = wait;
        self
    }

    /// On which CPUs the threads run that call, so that [`Cpus::auto`](crate::Cpus::auto) keeps workers off their cores, and
    /// near them; workers on whole NUMA nodes keep off these CPUs. By default, if the thread that starts the server is pinned,
    /// the CPUs to which it is; else `Cpus::auto` leaves the callers one core. It pins no thread:
    /// [`Placement::keep_off`](crate::placement::Placement::keep_off) does.
    ///
    /// A CPU that the process may not use is a [`StartError::Cpu`], one that is listed twice a [`StartError::CpuTwice`].
    #[must_use]
    pub fn callers_on(mut self, cpus: impl Into<Pin>) -> Self {
        self.options.callers = cpus.into();
        self
    }

    /// Whether workers are pinned as their servlets' [`Cpus`](crate::Cpus) say; by default they are. Without it each may run
    /// on every CPU that the process may use, their numbers stay the same, and nobody checks whether the CPUs and nodes of
    /// servlets are there: for a service that another program places, say. A worker that is started again gets the CPUs that
    /// the supervisor's thread has by then, which such a program moves with the others (`taskset -a`).
    #[must_use]
    pub fn pinning(mut self, pins: bool) -> Self {
        self.options.pins = pins;
        self
    }

    /// Which requests, and which calls of user code, are timed for the histograms of [`Server::stats`]; by default
    /// [`Timing::Adaptive`], so that timing takes less than a hundredth of the time of each thread.
    #[must_use]
    pub fn timing(mut self, timing: Timing) -> Self {
        self.options.timing = timing;
        self
    }

    /// Which pages of the segment are reserved at the start; by default [`Reserve::AsUsed`]: all but the payload blocks, each of
    /// which the first request reserves that uses it, or one of its neighbours within 64 KiB. So the server takes the memory that it needs, up to
    /// [`segment_bytes`](Self::segment_bytes), and gives back none of it before it ends.
    ///
    /// With [`Reserve::Everything`] no request ends with [`CallError::NoMemory`](crate::CallError::NoMemory), since the start
    /// fails if there is too little. Whether all of it would fit is looked at in both cases:
    /// [`Server::warnings`](crate::Server::warnings) says if not.
    #[must_use]
    pub fn reserve(mut self, pages: Reserve) -> Self {
        self.options.reserve = pages;
        self
    }

    /// Which pages of the segment the server, and each worker's process, maps before the first request needs them; by
    /// default [`Prefault::Hot`]. Else the first use of each page, in each process, waits for a page fault. Kernels before
    /// 5.14 cannot do it.
    ///
    /// With [`Prefault::Everything`] a start takes longer by the time in which the kernel clears all payload memory; it is for
    /// services in which the first large payloads may not take longer than later ones. It implies [`Reserve::Everything`].
    #[must_use]
    pub fn prefault(mut self, pages: Prefault) -> Self {
        self.options.prefault = pages;
        self
    }

    /// Whether all pages of the segment are locked in memory (`mlock`), so that none is ever written to swap; by default
    /// not. The lock ends with the server's process. It implies [`Prefault::Everything`] for the server, not for its
    /// workers' processes, and [`Reserve::Everything`].
    ///
    /// A process without the capability `CAP_IPC_LOCK` may lock as much as `ulimit -l` says, often 8 MiB; beyond that the
    /// start fails with [`StartError::LockMemory`].
    #[must_use]
    pub fn lock_memory(mut self, locks: bool) -> Self {
        self.options.lock_memory = locks;
        self
    }

    /// Whether the segment lies on huge pages, of 2 MiB on most machines; by default not. They pay for payloads of many megabytes,
    /// or very many of them: the processor translates an address in fewer steps, and a page is mapped 512 times as fast.
    ///
    /// An [anonymous](Server::anonymous) server takes them from the pool that the system keeps (`/proc/sys/vm/nr_hugepages`), a
    /// [file](Self::file) has them if it lies on a hugetlbfs. If that cannot be, or too few are free, the segment with
    /// [`HugePages::Preferred`] lies on ordinary pages and [`Server::warnings`] says why; with [`HugePages::Required`] the start
    /// fails with that error. `shmtool show` says on which pages a segment lies, `shmtool doctor` how many are free.
    ///
    /// ```
    /// # fn main() -> Result<(), ringmill::BoxError> {
    /// use ringmill::{HugePages, PassThrough, Server, ThreadServlet};
    /// let builder = Server::anonymous("frames").capacity(8).max_payload(1 << 20).huge_pages(HugePages::Preferred);
    /// let server = builder.start(ThreadServlet::<PassThrough<Vec<u8>>>::new(()))?;
    /// for warning in server.warnings() {
    ///     println!("{warning}"); // … lies on huge pages of 2097152 bytes: 0 of them are free, the segment needs …
    /// }
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn huge_pages(mut self, pages: HugePages) -> Self {
        self.options.huge_pages = pages;
        self
    }

    /// On which NUMA nodes the segment's memory lies; by default near the workers that use it. On a machine of one node this
    /// changes nothing.
    ///
    /// What the kernel did is in [`Placement::memory`](crate::placement::Placement::memory), and in `shmtool show`. If it put
    /// pages elsewhere, because a node had no free memory, or did not let this process choose, as the system call filter of a
    /// container may, [`Server::warnings`] says so, or with [`strict_memory`](Self::strict_memory) the start fails.
    ///
    /// ```
    /// # fn main() -> Result<(), ringmill::BoxError> {
    /// use ringmill::{Cpus, NumaMemory, PassThrough, Server, ThreadServlet};
    /// let server = Server::builder("near")
    ///     .numa_memory(NumaMemory::NearWorkers)
    ///     .start(ThreadServlet::<PassThrough<Vec<u8>>>::new(()).cpus(Cpus::per_numa_node(1)))?;
    /// for memory in server.placement().memory() {
    ///     println!("{}: {}, {:?}", memory.part, memory.policy, memory.pages); // ring of …: prefer:1, {1: 2}
    /// }
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn numa_memory(mut self, nodes: NumaMemory) -> Self {
        self.options.numa_memory = nodes;
        self
    }

    /// Whether the start fails with [`StartError::Memory`] if a part of the segment's memory does not lie on the
    /// [NUMA nodes](Self::numa_memory) where it is to lie; by default [`Server::warnings`] says so.
    #[must_use]
    pub fn strict_memory(mut self, is_strict: bool) -> Self {
        self.options.strict_memory = is_strict;
        self
    }

    /// How many [traces](crate::trace) of requests the segment keeps, those of the last ones: up to 65,536, by default 256.
    /// With 0 no request is traced, though its [context](crate::CallOptions::trace_context) travels. Each takes 128
    /// bytes, and 64 for each servlet that has workers and for two more, up to 64 of them; all rounded up to 128 bytes.
    #[must_use]
    pub fn traces(mut self, last: usize) -> Self {
        self.options.traces = last;
        self
    }

    /// How long all workers together may take until they are ready; by default a minute. A worker that is restarted may
    /// take as long; then the supervisor kills it.
    #[must_use]
    pub fn start_timeout(mut self, limit: Duration) -> Self {
        self.options.start_timeout = limit;
        self
    }

    /// How long the shutdown waits for requests in progress to end, and for workers to leave, before it kills the
    /// workers; by default ten seconds. A worker that leaves for another reason, after a fatal error, may take as long.
    #[must_use]
    pub fn shutdown_timeout(mut self, limit: Duration) -> Self {
        self.options.shutdown_timeout = limit;
        self
    }

    /// Keeps the segment in a file at this path, not in `/dev/shm` or in memory without a name: on a tmpfs, ramfs or
    /// hugetlbfs, where it is memory (on the last one in whole huge pages), or on any other file system that can map
    /// files. There too requests use memory only, but the kernel writes changed pages back to the device from time to
    /// time.
    ///
    /// The start fails if room, huge pages or memory of the control group (the container) do not suffice, with an error
    /// that says what there is and what is needed. Without that check the kernel would kill processes of the control
    /// group later.
    #[must_use]
    pub fn file(mut self, path: impl Into<PathBuf>) -> Self {
        self.options.home = Home::File(path.into());
        self
    }

    /// Whether SIGINT (Ctrl-C), SIGTERM, SIGHUP and SIGQUIT, as long as the program has no handler for them, first shut
    /// the server down in order; by default they do. A second signal kills the workers at once. A program that installs
    /// a handler of its own, before or later, decides itself. A signal that the process ignores stays ignored; if it is SIGINT
    /// or SIGTERM, [`Server::warnings`](crate::Server::warnings) says so. The first process of a container ends with 128 and the
    /// signal's number.
    #[must_use]
    pub fn handle_signals(mut self, handle: bool) -> Self {
        self.options.handle_signals = handle;
        self
    }

    /// Calls a function with the progress of the start, for constructors that take long: first when all workers have been
    /// started, then whenever another one is ready, and at least each second. It runs on the thread that starts the server,
    /// which waits for it; a panic of it ends the start. `shmtool show` shows the same from outside.
    ///
    /// ```no_run
    /// # fn main() -> Result<(), ringmill::BoxError> {
    /// # use ringmill::{PassThrough, Server, ThreadServlet};
    /// let server = Server::builder("models")
    ///     .on_progress(|progress| eprintln!("{progress}"))
    ///     .start(ThreadServlet::<PassThrough<u64>>::new(()))?;
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn on_progress(mut self, tell: impl Fn(&StartProgress) + Send + Sync + 'static) -> Self {
        self.options.on_progress = Some(OnProgress(Arc::new(tell)));
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
        self.options.forward_events = up_to.into();
        self
    }

    /// How many bytes the segment may take that [`start`](Self::start) makes for this servlet: in `/dev/shm` or where the
    /// [file](Self::file) lies, and in the memory of the control group (the container). What of it is taken at the start is
    /// [`reserved_bytes`](Self::reserved_bytes). On huge pages it is rounded up to whole ones. Nothing is started.
    ///
    /// ```
    /// # fn main() -> Result<(), ringmill::BoxError> {
    /// use ringmill::{PassThrough, Server, ThreadServlet};
    /// let servlet = ThreadServlet::<PassThrough<Vec<f32>>>::new(()).batch_size(64);
    /// let bytes = |payload: usize| Server::builder("sized").capacity(1024).max_payload(payload).segment_bytes(&servlet);
    /// // Each of the 1024 requests has two blocks of the largest size, and two of each smaller class.
    /// assert!(bytes(1 << 20)? - bytes(1 << 16)? > 2 * 1024 * (1 << 20));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// The first option that `start` would refuse before it makes the segment; whether there is room for it is not looked
    /// at.
    pub fn segment_bytes<S: Servlet>(&self, servlet: &S) -> Result<u64, StartError> {
        Ok(self.size(servlet)?.total_bytes)
    }

    /// How many bytes of [`segment_bytes`](Self::segment_bytes) are reserved at the start: see [`reserve`](Self::reserve).
    ///
    /// ```
    /// # fn main() -> Result<(), ringmill::BoxError> {
    /// use ringmill::{PassThrough, Reserve, Server, ThreadServlet};
    /// let servlet = ThreadServlet::<PassThrough<Vec<f32>>>::new(());
    /// let builder = Server::builder("reserved").max_payload(1 << 20);
    /// assert!(builder.reserved_bytes(&servlet)? < builder.segment_bytes(&servlet)? / 100);
    /// let builder = builder.reserve(Reserve::Everything);
    /// assert_eq!(builder.reserved_bytes(&servlet)?, builder.segment_bytes(&servlet)?);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`segment_bytes`](Self::segment_bytes).
    pub fn reserved_bytes<S: Servlet>(&self, servlet: &S) -> Result<u64, StartError> {
        Ok(self.size(servlet)?.reserved_bytes)
    }

    fn size<S: Servlet>(&self, servlet: &S) -> Result<Size, StartError> {
        let spec = self.clone().launch(servlet)?.spec()?;
        Ok(spec.size().map_err(CreateError::from)?)
    }

    /// Starts the server: creates the segment, starts all workers in parallel, and returns when all are ready.
    ///
    /// # Errors
    /// See [`StartError`]; no process and no segment is left behind.
    pub fn start<S: Servlet>(self, servlet: S) -> Result<Server<S::In, S::Out>, StartError> {
        child::exit_if_unfulfilled_worker();
        called::check_not_worker_to_be()?;
        let core = self.launch(&servlet)?.run(None)?;
        Ok(Server::begin(core.expect("it is not asked to stop")))
    }

    /// [`start`](Self::start) as a future, for any executor: a thread of its own starts the server. Dropping the future
    /// ends the start, and leaves nothing.
    ///
    /// ```no_run
    /// use ringmill::{BoxError, PassThrough, ProcessServlet, Server};
    ///
    /// #[tokio::main]
    /// async fn main() -> Result<(), BoxError> {
    ///     ringmill::init!(PassThrough<u64>);
    ///     let server = Server::builder("async-main").start_async(ProcessServlet::<PassThrough<u64>>::new(())).await?;
    ///     assert_eq!(*server.call_async(&7).await?, 7);
    ///     Ok(())
    /// }
    /// ```
    ///
    /// # Errors
    /// As [`start`](Self::start), from the future.
    pub fn start_async<S: Servlet>(self, servlet: S) -> Starting<S::In, S::Out> {
        child::exit_if_unfulfilled_worker();
        Starting::new(called::check_not_worker_to_be().and_then(|()| self.launch(&servlet)))
    }

    /// Plans a start.
    fn launch<S: Servlet>(self, servlet: &S) -> Result<Launch, StartError> {
        let mut planner = Planner::for_clients(self.options.clients.most > 0);
        let capacity = u32::try_from(self.options.capacity).ok().filter(|c| (1..=REQUEST_LIMIT).contains(c));
        let capacity = capacity.ok_or(StartError::Range {
            servlet: None,
            what: "capacity",
            value: self.options.capacity as u64,
            least: 1,
            most: REQUEST_LIMIT.into(),
        })?;
        let span = servlet.part().plan(&mut planner)?;
        let (plan, choosers) = planner.finish(&span, &self.options.site()?)?;
        let service = Offer {
            payloads: PayloadTypes {
                input: type_name::<S::In>().into(),
                outcome: type_name::<S::Out>().into(),
            },
            type_hash: layout_hash::<S::In, S::Out, ()>(0),
            entry: plan.entry,
        };
        Ok(Launch { options: self.options, capacity, service, plan, router: Arc::new(Router { choosers }) })
    }
}
