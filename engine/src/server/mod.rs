//! The server: takes calls, bounds how many are in progress, waits for outcomes, shuts down.
//!
//! # Protocol
//!
//! A call takes a free request, writes the input into it, pushes its id into the entry node's ring, and
//! waits on its state word; the outcome is read in place, through a guard that gives the request back.
//! Nothing on that path allocates, reads a clock or calls the system, unless somebody sleeps.
//!
//! # Ordering
//!
//! * *closing*: who shuts down says so, waits for the requests that are with the workers, and tells these to
//!   leave. A caller who had an id by then and pushes late is answered by a worker that is still there, or,
//!   once none is, through the gate of the [`supervisor`](crate::supervisor), with an error: nobody waits
//!   for ever, and nobody is waited for who may never push.

mod builder;

pub use builder::ServerBuilder;

use crate::debug::DebugInfo;
use crate::error::{
    BoxError, CallError, DrainError, EncodeError, RemoteCause, RemoteError, StartError, status_of_early_death,
};
use crate::launch;
use crate::patience::{Pace, Patience};
use crate::payload::{Payload, Validated, encode, owned, view};
use crate::pending::{CallFuture, Pending};
use crate::reactor::Reactor;
use crate::reply::Reply;
use crate::route::{Mover, Outbox};
use crate::slots::Slots;
use crate::stats::ServerStats;
use crate::stream::{AsyncStream, Inputs, Prepared, Stream, StreamOptions};
use crate::supervisor::{Handle, Shared};
use ringmill_shm::arena::{Claimed, Done, Filling, Task};
use ringmill_shm::participant::{Life, SERVER};
use ringmill_shm::plan::Target;
use ringmill_shm::repair::wake_everyone;
use ringmill_shm::segment::{Run, Segment};
use ringmill_shm::sys::time::now_ns;
use ringmill_shm::token::Token;
use ringmill_shm::word::Phase;
use std::marker::PhantomData;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, Weak};
use std::time::{Duration, Instant};

/// Requests that can be in progress if nothing else is said.
pub const DEFAULT_CAPACITY: usize = 256;
/// How long a call takes at most if nothing else is said.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(60);
/// No sleep of a caller is longer: the backstop for a wake that a dying waker owed.
const SLEEP_LIMIT: Duration = Duration::from_secs(1);
/// How often shutting down looks whether outcomes that nobody fetches have come.
const DRAIN_LOOK: Duration = Duration::from_millis(5);

/// Options of one call.
#[derive(Debug, Clone, Copy)]
pub struct CallOptions {
    pub(crate) timeout: Duration,
    pub(crate) backpressure: bool,
    pub(crate) deadline: Option<Instant>,
}

impl Default for CallOptions {
    fn default() -> Self {
        Self { timeout: DEFAULT_TIMEOUT, backpressure: true, deadline: None }
    }
}

impl CallOptions {
    /// A timeout of a minute, with back-pressure.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// How long the call may take in all.
    #[must_use]
    pub fn timeout(mut self, limit: Duration) -> Self {
        self.timeout = limit;
        self
    }

    /// With back-pressure (the default), a call that finds all places taken fails at once; without, it
    /// waits for a place, up to its timeout.
    #[must_use]
    pub fn backpressure(mut self, on: bool) -> Self {
        self.backpressure = on;
        self
    }

    /// Until when the outcome is wanted. The caller waits no longer, and a worker that takes the request later,
    /// at whatever stage, does not work on it. One in the past fails at once. A [timeout](Self::timeout) that is
    /// over sooner ends the waiting too, but workers do not know of it.
    #[must_use]
    pub fn deadline(mut self, at: Instant) -> Self {
        self.deadline = Some(at);
        self
    }

    /// The same, for a call that begins now.
    pub(crate) fn not_past(mut self, now: Instant) -> Result<Self, CallError> {
        if let Some(deadline) = self.deadline {
            let left = deadline.saturating_duration_since(now);
            if left.is_zero() {
                return Err(CallError::Timeout { enqueueing: Duration::ZERO, total: Duration::ZERO });
            }
            self.timeout = self.timeout.min(left);
        }
        Ok(self)
    }

    /// When the waiting ends, for a call that began then; none if that is not to be told.
    pub(crate) fn until(&self, begun: Instant) -> Option<Instant> {
        let timeout = begun.checked_add(self.timeout);
        timeout.into_iter().chain(self.deadline).min()
    }
}

/// A running server: takes `In`, gives `Out`. Any number of threads may call it at once.
///
/// Dropping it shuts it down, as [`shutdown`](Self::shutdown) does.
pub struct Server<In, Out> {
    pub(crate) core: Arc<Core>,
    types: PhantomData<fn(&In) -> Out>,
}

impl<In, Out> std::fmt::Debug for Server<In, Out> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Server").field("name", &self.core.name).finish_non_exhaustive()
    }
}

impl Server<(), ()> {
    /// Options for a server of this name. The segment is `/dev/shm/ringmill-<name>`, so a name is used by
    /// one server at a time: 1 to 55 of `A-Z a-z 0-9 . _ -`, no dot first.
    #[must_use]
    pub fn builder(name: impl Into<String>) -> ServerBuilder {
        ServerBuilder::new(name.into())
    }
}

impl<In: Payload, Out: Payload> Server<In, Out> {
    /// Sends one input and waits for its outcome, which is read where it lies; dropping the reply gives
    /// its place back.
    ///
    /// # Errors
    /// See [`CallError`].
    #[inline]
    pub fn call(&self, input: &In) -> Result<Reply<'_, Out>, CallError> {
        self.call_with(input, CallOptions::default())
    }

    /// [`call`](Self::call) with options.
    ///
    /// # Errors
    /// See [`CallError`].
    #[inline]
    pub fn call_with(&self, input: &In, options: CallOptions) -> Result<Reply<'_, Out>, CallError> {
        let core = &*self.core;
        if options.deadline.is_some() {
            return core.call_by_deadline(input, options);
        }
        let (id, clock) = core.acquire(options)?;
        let filled = core.fill(id, input)?;
        core.finish_call(filled, clock, options)
    }

    /// Sends one input, and gives a handle to its outcome at once.
    ///
    /// ```no_run
    /// # fn main() -> Result<(), ringmill::BoxError> {
    /// # use ringmill::{PassThrough, Server, ThreadServlet};
    /// let server = Server::builder("submit").start(ThreadServlet::<PassThrough<u64>>::new(()))?;
    /// let mut first = server.submit(&1)?;
    /// let second = server.submit(&2)?;
    /// assert_eq!(*second.wait()?, 2); // blocks; as a future, `second.await` does not
    /// match first.try_take() {
    ///     Some(outcome) => assert_eq!(*outcome?, 1),
    ///     None => drop(first), // nobody wants it any more
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// See [`CallError`].
    pub fn submit(&self, input: &In) -> Result<Pending<'_, Out>, CallError> {
        self.submit_with(input, CallOptions::default())
    }

    /// [`submit`](Self::submit) with options; the timeout runs from now. Without back-pressure it blocks
    /// while it waits for a place.
    ///
    /// # Errors
    /// See [`CallError`].
    pub fn submit_with(&self, input: &In, options: CallOptions) -> Result<Pending<'_, Out>, CallError> {
        let begun = Instant::now();
        let core = &*self.core;
        let (id, clock) = core.acquire(options.not_past(begun)?)?;
        Pending::send(core, core.fill(id, input)?, begun, waited(clock), options)
    }

    /// [`call`](Self::call) as a future, for any executor. It sends the input when it is first polled.
    /// Dropping it cancels the request.
    ///
    /// ```no_run
    /// # use ringmill::{BoxError, PassThrough, Server, ThreadServlet};
    /// # async fn example() -> Result<(), BoxError> {
    /// let server = Server::builder("async").start(ThreadServlet::<PassThrough<u64>>::new(()))?;
    /// let reply = server.call_async(&7).await?;
    /// assert_eq!(*reply, 7);
    /// # Ok(())
    /// # }
    /// ```
    pub fn call_async<'a>(&'a self, input: &'a In) -> CallFuture<'a, In, Out> {
        self.call_async_with(input, CallOptions::default())
    }

    /// [`call_async`](Self::call_async) with options; the timeout runs from the first poll. Without
    /// back-pressure the future waits for a place, in the order in which futures come.
    pub fn call_async_with<'a>(&'a self, input: &'a In, options: CallOptions) -> CallFuture<'a, In, Out> {
        CallFuture::new(&self.core, input, options)
    }

    /// Sends many inputs and gives their outcomes in the same order; keeps the pipeline as full as the
    /// capacity allows, and stops in order when dropped early.
    ///
    /// The iterator pulls inputs as places come free, in the thread that asks for outcomes.
    /// [`with_inputs`](Stream::with_inputs) gives each input back with its outcome,
    /// [`unordered`](Stream::unordered) gives outcomes as they come.
    ///
    /// ```no_run
    /// # fn main() -> Result<(), ringmill::BoxError> {
    /// # use ringmill::{PassThrough, Server, ThreadServlet};
    /// let server = Server::builder("stream").start(ThreadServlet::<PassThrough<u64>>::new(()))?;
    /// for outcome in server.stream(0..100) {
    ///     println!("{}", outcome?);
    /// }
    /// for item in server.stream(0..100).with_inputs() {
    ///     let (input, outcome) = item?; // an error here is of the stream as a whole
    ///     println!("{input}: {}", outcome?);
    /// }
    /// for item in server.stream(0..100).unordered() {
    ///     let (index, outcome) = item?;
    ///     println!("{index}: {}", outcome?);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn stream<I>(&self, inputs: I) -> Stream<'_, Inputs<I::IntoIter>, Out>
    where
        I: IntoIterator<Item = In>,
    {
        self.stream_with(inputs, StreamOptions::default())
    }

    /// [`stream`](Self::stream) with options.
    pub fn stream_with<I>(&self, inputs: I, options: StreamOptions) -> Stream<'_, Inputs<I::IntoIter>, Out>
    where
        I: IntoIterator<Item = In>,
    {
        Stream::new(&self.core, Inputs(inputs.into_iter().fuse()), options)
    }

    /// [`stream`](Self::stream) of anything that inputs can be made of. `prepare` is called on each item before it
    /// is sent, in the thread that asks for outcomes. Where it fails, the outcome in the item's place is
    /// [`CallError::Refused`], and no worker sees the item.
    ///
    /// ```no_run
    /// # fn main() -> Result<(), ringmill::BoxError> {
    /// # use ringmill::{PassThrough, Server, ThreadServlet};
    /// let server = Server::builder("numbers").start(ThreadServlet::<PassThrough<u64>>::new(()))?;
    /// let words = ["1", "two", "3"];
    /// for item in server.stream_prepared(words, |word| word.parse::<u64>()).with_inputs() {
    ///     match item? {
    ///         (word, Ok(number)) => println!("{word} is {number}"),
    ///         (word, Err(error)) => println!("{word}: {error}"),
    ///     }
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn stream_prepared<I, F, E>(
        &self,
        items: I,
        prepare: F,
    ) -> Stream<'_, Prepared<I::IntoIter, F, In>, Out>
    where
        I: IntoIterator,
        F: FnMut(&I::Item) -> Result<In, E>,
        E: Into<BoxError>,
    {
        self.stream_prepared_with(items, prepare, StreamOptions::default())
    }

    /// [`stream_prepared`](Self::stream_prepared) with options.
    pub fn stream_prepared_with<I, F, E>(
        &self,
        items: I,
        prepare: F,
        options: StreamOptions,
    ) -> Stream<'_, Prepared<I::IntoIter, F, In>, Out>
    where
        I: IntoIterator,
        F: FnMut(&I::Item) -> Result<In, E>,
        E: Into<BoxError>,
    {
        let source = Prepared { items: items.into_iter().fuse(), prepare, input: PhantomData };
        Stream::new(&self.core, source, options)
    }

    /// [`stream`](Self::stream) for tasks: an asynchronous stream of inputs, and one of their outcomes in the same
    /// order, under any executor. It always waits for places.
    ///
    /// An iterator becomes a stream by any of the usual adapters, such as `futures_util::stream::iter`.
    ///
    /// ```no_run
    /// # use ringmill::{BoxError, PassThrough, Server, ThreadServlet};
    /// use futures_util::{StreamExt, stream};
    ///
    /// # async fn example() -> Result<(), BoxError> {
    /// let server = Server::builder("async").start(ThreadServlet::<PassThrough<u64>>::new(()))?;
    /// let mut outcomes = server.stream_async(stream::iter(0..100));
    /// while let Some(outcome) = outcomes.next().await {
    ///     println!("{}", outcome?);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn stream_async<S>(&self, inputs: S) -> AsyncStream<'_, S, Out>
    where
        S: futures_core::Stream<Item = In>,
    {
        self.stream_async_with(inputs, StreamOptions::default())
    }

    /// [`stream_async`](Self::stream_async) with options.
    pub fn stream_async_with<S>(&self, inputs: S, options: StreamOptions) -> AsyncStream<'_, S, Out>
    where
        S: futures_core::Stream<Item = In>,
    {
        AsyncStream::new(&self.core, inputs, options)
    }
}

impl<In, Out> Server<In, Out> {
    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.core.name
    }

    /// How many requests can be in progress.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.core.capacity as usize
    }

    /// How many requests are in progress: places taken, including those whose caller has gone but whose
    /// worker is still busy, and replies that have not been dropped.
    #[must_use]
    pub fn backlog(&self) -> usize {
        self.core.slots.in_use(&self.core.segment) as usize
    }

    /// What is allowed but hardly meant, such as a capacity below a batch size.
    #[must_use]
    pub fn warnings(&self) -> &[String] {
        &self.core.warnings
    }

    /// The workers' statistics since the server's start.
    #[must_use]
    pub fn stats(&self) -> ServerStats {
        ServerStats::of(&self.core.segment)
    }

    /// Where its segment lies.
    #[must_use]
    pub fn segment_path(&self) -> PathBuf {
        self.core.segment.place().path()
    }

    /// Refuses new requests from now on, and waits until none is in progress: no place of the
    /// [`backlog`](Self::backlog) is taken. The workers stay; [`shutdown`](Self::shutdown) may follow.
    ///
    /// # Errors
    /// If some are in progress when the time is over. They go on.
    pub fn drain(&self, limit: Duration) -> Result<(), DrainError> {
        self.core.drain(limit)
    }

    /// What the server is doing at this moment: its workers, and every request in progress. Reads shared memory
    /// and stops nobody, so the facts are of slightly different moments.
    ///
    /// ```no_run
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # use ringmill::{PassThrough, Server, ThreadServlet};
    /// let server = Server::builder("debug").start(ThreadServlet::<PassThrough<u64>>::new(()))?;
    /// println!("{}", serde_json::to_string_pretty(&server.debug_info())?);
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn debug_info(&self) -> DebugInfo {
        DebugInfo::of(&self.core)
    }

    /// Shuts down: new calls are refused, requests in progress end, workers leave in order. What takes
    /// longer than the shut-down timeout is killed, and its requests are answered with an error. The
    /// segment's files are gone afterwards. Calling it again does nothing.
    pub fn shutdown(&self) {
        self.core.shut_down();
    }
}

impl<In, Out> Drop for Server<In, Out> {
    fn drop(&mut self) {
        self.core.shut_down();
        if let Some(reactor) = self.core.reactor.get() {
            reactor.end(&self.core);
        }
    }
}

/// What does not depend on the types of items.
#[derive(Debug)]
pub(crate) struct Core {
    pub(crate) me: Weak<Core>,
    /// There from the first future that had to wait.
    pub(crate) reactor: OnceLock<Arc<Reactor>>,
    pub(crate) name: String,
    pub(crate) capacity: u32,
    client: Token,
    entry: Target,
    /// Whether the entry node needs to know when items were enqueued.
    stamps: bool,
    pub(crate) slots: Slots,
    pub(crate) patience: Patience,
    closing: AtomicBool,
    shut: Mutex<bool>,
    shutdown_timeout: Duration,
    handle_signals: bool,
    warnings: Vec<String>,
    supervisor: Handle,
    shared: Arc<Shared>,
    pub(crate) segment: Arc<Segment>,
}

/// When a call began, and how long it waited for a place; known only if it had to wait.
pub(crate) type Clock = Option<(Instant, Duration)>;

pub(crate) fn waited(clock: Clock) -> Duration {
    clock.map_or(Duration::ZERO, |(_, waited)| waited)
}

/// A request whose input is being written: given back, if user code panics or anything fails.
#[derive(Debug)]
pub(crate) struct Filled<'c> {
    core: &'c Core,
    filling: Option<Filling<'c>>,
}

impl Drop for Filled<'_> {
    fn drop(&mut self) {
        if let Some(filling) = self.filling.take() {
            self.core.release(filling.abandon());
        }
    }
}

impl<'c> Filled<'c> {
    pub(crate) fn begin(core: &'c Core, id: u32) -> Self {
        let task = Task::new(&core.segment, id).expect("ids in the list are those of the segment");
        Self { core, filling: Some(task.begin(core.client)) }
    }

    /// Puts it aside; it stays FILLING.
    #[inline]
    pub(crate) fn park(mut self) {
        self.filling = None;
    }

    /// Takes up what was put aside.
    #[inline]
    pub(crate) fn resume(core: &'c Core, id: u32) -> Option<Self> {
        let filling = Task::new(&core.segment, id)?.resume_filling()?;
        Some(Self { core, filling: Some(filling) })
    }

    pub(crate) fn is_of(&self, core: &Core) -> bool {
        std::ptr::eq(self.core, core)
    }

    pub(crate) fn filling(&mut self) -> &mut Filling<'c> {
        self.filling.as_mut().expect("taken only by value")
    }

    /// → CLAIMED by us, to be moved on.
    fn keep(mut self) -> Claimed<'c> {
        let core = self.core;
        self.filling.take().expect("taken only by value").keep(core.client)
    }

    /// → QUEUED for this node; the push must follow.
    #[inline]
    fn queue(mut self, node: u32) -> Task<'c> {
        let core = self.core;
        let mut filling = self.filling.take().expect("taken only by value");
        if core.stamps {
            filling.stamp(now_ns());
        }
        filling.queue(core.client, node)
    }
}

impl Core {
    /// Waits until every worker is ready.
    fn await_workers(&self, limit: Duration) -> Result<(), StartError> {
        let deadline = Instant::now() + limit;
        let bell = self.segment.startup();
        loop {
            let count = bell.count();
            let mut unready = None;
            for entry in &self.segment.participants()[SERVER as usize + 1..] {
                let servlet = || self.segment.nodes()[entry.node() as usize].name.clone();
                match entry.life() {
                    Life::Ready => {}
                    Life::Failed => {
                        let (servlet, worker, pid) = (servlet(), entry.worker(), entry.pid());
                        let unknown = || RemoteError {
                            servlet,
                            worker,
                            pid,
                            attempt: 0,
                            cause: RemoteCause::Payload { message: "it left no readable message".into() },
                        };
                        let error = launch::read_boot_message(&entry.message()).unwrap_or_else(unknown);
                        return Err(StartError::Worker(Box::new(error)));
                    }
                    Life::Dead => {
                        let place = entry.token().map_or(0, Token::index);
                        return Err(status_of_early_death(
                            servlet(),
                            entry.worker(),
                            place,
                            &self.supervisor.early_deaths,
                        ));
                    }
                    _ => unready = unready.or(Some((servlet(), entry.worker()))),
                }
            }
            let Some((servlet, worker)) = unready else { return Ok(()) };
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(StartError::Timeout { servlet, worker, limit });
            }
            bell.sleep(count, Some(left.min(SLEEP_LIMIT)));
        }
    }

    /// A free request's id.
    #[inline]
    pub(crate) fn acquire(&self, options: CallOptions) -> Result<(u32, Clock), CallError> {
        let (id, clock) = match self.slots.acquire(&self.segment) {
            Some(id) => (id, None),
            None => self.acquire_contended(options)?,
        };
        self.admit(id)?;
        Ok((id, clock))
    }

    /// A free request's id, if there is one.
    #[inline]
    pub(crate) fn try_acquire(&self) -> Result<Option<u32>, CallError> {
        let Some(id) = self.slots.acquire(&self.segment) else { return Ok(None) };
        self.admit(id)?;
        Ok(Some(id))
    }

    /// Gives the id back if the server takes no requests.
    #[inline]
    pub(crate) fn admit(&self, id: u32) -> Result<(), CallError> {
        // *closing*, *down*: after an id was taken.
        if self.closing.load(Ordering::SeqCst) || self.shared.gate_closed.load(Ordering::SeqCst) {
            return Err(self.refuse(id));
        }
        Ok(())
    }

    #[cold]
    fn refuse(&self, id: u32) -> CallError {
        self.release(id);
        self.refusal().unwrap_or(CallError::ShuttingDown)
    }

    /// Why the server takes no requests, if it does not.
    pub(crate) fn refusal(&self) -> Option<CallError> {
        if self.closing.load(Ordering::SeqCst) {
            return Some(CallError::ShuttingDown);
        }
        let gate_closed = self.shared.gate_closed.load(Ordering::SeqCst);
        // Else it is closed for no servlet's sake.
        gate_closed
            .then(|| self.down(|node, _| self.shared.mandatory[node]).unwrap_or(CallError::ShuttingDown))
    }

    /// Whether the server takes no requests.
    pub(crate) fn is_closed(&self) -> bool {
        self.closing.load(Ordering::SeqCst) || self.shared.gate_closed.load(Ordering::SeqCst)
    }

    /// The error of a servlet that is down, if one of those is; by its node's index and name.
    fn down(&self, is_it: impl Fn(usize, &str) -> bool) -> Option<CallError> {
        let mut down = self.shared.down.iter().zip(self.segment.nodes()).enumerate();
        down.find_map(|(index, (reason, node))| {
            let reason = reason.get().filter(|_| is_it(index, &node.name))?.clone();
            Some(CallError::ServletDown { servlet: node.name.clone(), reason })
        })
    }

    #[cold]
    fn acquire_contended(&self, options: CallOptions) -> Result<(u32, Clock), CallError> {
        let full = |waited| CallError::ServerBacklogFull { capacity: self.capacity, waited };
        if self.closing.load(Ordering::SeqCst) {
            return Err(CallError::ShuttingDown);
        }
        if options.backpressure {
            return Err(full(Duration::ZERO));
        }
        let begun = Instant::now();
        let bell = self.segment.freed();
        let _awaiting = bell.await_rings();
        loop {
            let count = bell.count();
            if let Some(id) = self.slots.acquire(&self.segment) {
                return Ok((id, Some((begun, begun.elapsed()))));
            }
            if self.closing.load(Ordering::SeqCst) {
                return Err(CallError::ShuttingDown);
            }
            let waited = begun.elapsed();
            if waited >= options.timeout {
                return Err(full(waited));
            }
            bell.sleep(count, Some((options.timeout - waited).min(SLEEP_LIMIT)));
        }
    }

    /// Gives an id back; its request is FREE.
    #[inline]
    pub(crate) fn release(&self, id: u32) {
        self.slots.release(id);
        if self.segment.freed().is_awaited() {
            self.tell_of_a_place();
        }
    }

    #[cold]
    fn tell_of_a_place(&self) {
        self.segment.freed().ring();
        if let Some(reactor) = self.reactor.get() {
            reactor.wake_line(1);
        }
    }

    /// Writes an input into a request.
    #[inline]
    pub(crate) fn fill<T: Payload>(&self, id: u32, input: &T) -> Result<Filled<'_>, EncodeError> {
        let mut filled = Filled::begin(self, id);
        encode(input, filled.filling())?;
        Ok(filled)
    }

    /// Whether each request is forked at once.
    pub(crate) fn forks(&self) -> bool {
        matches!(self.entry, Target::Fork(_))
    }

    /// Sends a filled request.
    ///
    /// # Errors
    /// If the segment is corrupted.
    #[inline]
    pub(crate) fn send<'c>(&'c self, filled: Filled<'c>) -> Result<Task<'c>, CallError> {
        match self.entry {
            Target::Node(node) => {
                let task = filled.queue(node);
                self.push(node, &[task.id()])?;
                Ok(task)
            }
            entry => Ok(self.send_forked(filled, entry, self.shared.mover())),
        }
    }

    /// Sends a request to where it is forked, or a member is chosen.
    #[cold]
    fn send_forked<'c>(&self, filled: Filled<'c>, entry: Target, mover: Mover<'_>) -> Task<'c> {
        let task = filled.keep();
        let of_request = task.task();
        mover.move_on(task, entry);
        of_request
    }

    /// Sends requests that are filled, by their ids; those that cannot be resumed are left out. What they are
    /// forked to is pushed together, by way of `outbox`.
    ///
    /// # Errors
    /// If the segment is corrupted.
    #[inline]
    pub(crate) fn send_all(&self, ids: &[u32], outbox: &Outbox) -> Result<(), CallError> {
        let filled = ids.iter().filter_map(|&id| Filled::resume(self, id));
        match self.entry {
            Target::Node(node) => {
                for filled in filled {
                    filled.queue(node);
                }
                self.push(node, ids)
            }
            entry => {
                let mover = Mover { outbox: Some(outbox), ..self.shared.mover() };
                for filled in filled {
                    self.send_forked(filled, entry, mover);
                }
                mover.flush();
                Ok(())
            }
        }
    }

    /// Pushes queued requests, and tells the workers.
    #[inline(always)]
    fn push(&self, node: u32, ids: &[u32]) -> Result<(), CallError> {
        let parts = self.segment.node(node).expect("the entry is a node");
        if parts.push(ids).is_err() {
            return Err(corrupt_ring());
        }
        if parts.doorbell().is_down() {
            self.shared.mover().after_push(node);
        }
        Ok(())
    }

    /// Sends a filled request, and waits for its outcome.
    #[inline]
    pub(crate) fn finish_call<'c, Out: Payload>(
        &'c self,
        filled: Filled<'c>,
        clock: Clock,
        options: CallOptions,
    ) -> Result<Reply<'c, Out>, CallError> {
        let task = self.send(filled)?;
        let done =
            self.await_outcome(task, clock, options.timeout, Pace::One, || self.note_begun([task.id()]))?;
        self.open(done)
    }

    /// Waits for the outcome of a request in progress; cancels it when the time is over. `in_progress` is
    /// called before it sleeps.
    #[inline]
    pub(crate) fn await_outcome<'c>(
        &self,
        task: Task<'c>,
        clock: Clock,
        timeout: Duration,
        pace: Pace,
        in_progress: impl FnOnce(),
    ) -> Result<Done<'c>, CallError> {
        if timeout > self.patience.longest()
            && let Some(done) = self.patience.spin(pace, || task.outcome())
        {
            return Ok(done);
        }
        in_progress();
        self.await_asleep(task, clock, timeout)
    }

    #[cold]
    fn await_asleep<'c>(
        &self,
        task: Task<'c>,
        clock: Clock,
        timeout: Duration,
    ) -> Result<Done<'c>, CallError> {
        let (begun, enqueueing) = clock.unwrap_or_else(|| (Instant::now(), Duration::ZERO));
        self.sleep_until(task, begun.checked_add(timeout)).ok_or_else(|| {
            self.cancel(task);
            CallError::Timeout { enqueueing, total: begun.elapsed() }
        })
    }

    /// Sleeps until the outcome of a request in progress is there; `None` if the time is over.
    pub(crate) fn sleep_until<'c>(&self, task: Task<'c>, until: Option<Instant>) -> Option<Done<'c>> {
        loop {
            if let Some(done) = task.outcome() {
                return Some(done);
            }
            let left = until.map(|until| until.saturating_duration_since(Instant::now()));
            if left.is_some_and(|left| left.is_zero()) {
                return None;
            }
            task.sleep(Some(left.unwrap_or(SLEEP_LIMIT).min(SLEEP_LIMIT)));
        }
    }

    /// Says since when requests that were sent are in progress, for [`DebugInfo`].
    #[cold]
    pub(crate) fn note_begun(&self, ids: impl IntoIterator<Item = u32>) {
        let now_ns = now_ns();
        for task in ids.into_iter().filter_map(|id| Task::new(&self.segment, id)) {
            task.set_begun_ns(now_ns);
        }
    }

    /// A call that has a deadline.
    #[cold]
    fn call_by_deadline<'c, In: Payload, Out: Payload>(
        &'c self,
        input: &In,
        options: CallOptions,
    ) -> Result<Reply<'c, Out>, CallError> {
        let begun = Instant::now();
        let (id, clock) = self.acquire(options.not_past(begun)?)?;
        Pending::send(self, self.fill(id, input)?, begun, waited(clock), options)?.wait()
    }

    /// The caller of a request goes.
    pub(crate) fn cancel(&self, task: Task<'_>) {
        if task.cancel() {
            self.slots.abandon(task.id());
            // Others may have freed it, and told so, before it was among the abandoned.
            if task.is_free() && self.segment.freed().is_awaited() {
                self.tell_of_a_place();
            }
        } else {
            self.release(task.id());
        }
    }

    /// Reads an outcome: a reply, or the error it is.
    #[inline]
    pub(crate) fn open<'c, Out: Payload>(&'c self, done: Done<'c>) -> Result<Reply<'c, Out>, CallError> {
        if done.is_error() {
            let error = self.read_error(&done);
            self.give_back(done);
            return Err(error);
        }
        match Validated::<Out>::of_done(&done) {
            Ok(view) => Ok(Reply::new(self, done, view)),
            Err(error) => {
                self.give_back(done);
                Err(error.into())
            }
        }
    }

    /// Gives an outcome's place back.
    #[inline]
    pub(crate) fn give_back(&self, done: Done<'_>) {
        if done.may_have_branches() {
            self.cancel(done.task()); // the last branch to arrive frees it
        } else {
            self.release(done.free());
        }
    }

    /// The error that an outcome is.
    #[cold]
    fn read_error(&self, done: &Done<'_>) -> CallError {
        let corrupt = |message: String| CallError::Corrupt { message };
        let bytes = match done.payload() {
            Ok(bytes) => bytes,
            Err(error) => return corrupt(error.to_string()),
        };
        match view::<RemoteError>(bytes).and_then(owned::<RemoteError>) {
            Ok(error) => match CallError::remote(error) {
                // Told by a worker, which does not know why.
                CallError::ServletDown { servlet, reason } if reason.is_empty() => {
                    self.down(|_, name| name == servlet).unwrap_or(CallError::ShuttingDown)
                }
                error => error,
            },
            Err(error) => corrupt(error.to_string()),
        }
    }

    /// See [`Server::shutdown`].
    pub(crate) fn shut_down(&self) {
        let mut shut = self.shut.lock().unwrap_or_else(|e| e.into_inner());
        if *shut {
            return;
        }
        *shut = true;
        let deadline = Instant::now() + self.shutdown_timeout;
        self.closing.store(true, Ordering::SeqCst); // *closing*
        self.segment.set_run(Run::Draining);
        wake_everyone(&self.segment); // callers that wait for a place, holders that wait in a window
        self.await_workers_idle(deadline);
        self.shared.stop(deadline.max(Instant::now() + DRAIN_LOOK));
        self.end();
    }

    /// See [`Server::drain`].
    fn drain(&self, limit: Duration) -> Result<(), DrainError> {
        let until = Instant::now().checked_add(limit);
        self.closing.store(true, Ordering::SeqCst); // *closing*
        if self.segment.run() == Run::Running {
            self.segment.set_run(Run::Draining);
        }
        wake_everyone(&self.segment);
        let bell = self.segment.freed();
        let _awaiting = bell.await_rings();
        loop {
            let count = bell.count();
            let left = self.slots.in_use(&self.segment) as usize;
            if left == 0 {
                return Ok(());
            }
            let time = until.map(|until| until.saturating_duration_since(Instant::now()));
            if time.is_some_and(|time| time.is_zero()) {
                return Err(DrainError { left, limit });
            }
            bell.sleep(count, Some(time.unwrap_or(SLEEP_LIMIT).min(SLEEP_LIMIT)));
        }
    }

    /// Waits until no request is with the workers. One whose caller is still writing, be it a loan or a
    /// stream that nobody asks for its next outcome, is not waited for (*closing*).
    fn await_workers_idle(&self, deadline: Instant) {
        let bell = self.segment.freed();
        let _awaiting = bell.await_rings();
        loop {
            let count = bell.count();
            let with_workers = |id: u32| {
                let phase = Task::new(&self.segment, id).and_then(|task| task.word().load().phase());
                matches!(phase, Some(Phase::Queued | Phase::Claimed | Phase::Forked | Phase::Joining))
            };
            let none = !(0..self.capacity).any(with_workers);
            if none || Instant::now() >= deadline || self.shared.gate_closed.load(Ordering::SeqCst) {
                return;
            }
            bell.sleep(count, Some(DRAIN_LOOK));
        }
    }

    /// Kills the workers and ends.
    pub(crate) fn kill(&self) {
        self.closing.store(true, Ordering::SeqCst);
        self.shared.kill();
        self.end();
    }

    /// After the supervisor was told: waits for it, answers what is left, removes the files.
    fn end(&self) {
        self.supervisor.join();
        self.shared.close();
        self.segment.set_run(Run::Closed);
        wake_everyone(&self.segment);
        self.remove_files();
    }

    pub(crate) fn remove_files(&self) {
        self.segment.remove_files();
    }
}

fn corrupt_ring() -> CallError {
    CallError::Corrupt { message: "the ring has no free cell: the segment is corrupted".into() }
}
