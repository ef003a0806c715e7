//! The server: takes calls, bounds how many are in progress, waits for outcomes, shuts down.
//!
//! # Protocol
//!
//! A call takes a free request, writes the input into it, pushes its id into the entry node's ring, and waits on its
//! state word; it reads the outcome in place, through a guard that gives the request back. While both sides are awake,
//! no step of that allocates, reads a clock or calls the system.
//!
//! # Ordering
//!
//! * `[closing]`: a thread that shuts the server down closes the gate, waits for the requests that are with the
//!   workers, then tells the workers to leave. A caller that had a permit by then and pushes late is answered by a
//!   worker that is still there, or, once there is none, through `[down]` of `doorbell`, with an error. So no caller
//!   waits for ever, and the shutdown waits for no caller that may never push.

mod builder;
mod connect;
pub(crate) mod debug;
mod handle;
mod home;
mod launch;
mod levers;
pub(crate) mod loan;
#[cfg(feature = "prometheus")]
pub(crate) mod metrics;
mod progress;
mod readiness;
mod signals;
mod starting;
pub(crate) mod stats;
pub(crate) mod traces;

pub use crate::plan::DEFAULT_MAX_PAYLOAD;
pub use builder::ServerBuilder;
pub use connect::Client;
pub use handle::Handle;
pub use levers::Replacement;
pub use progress::StartProgress;
pub use starting::Starting;

use crate::client::pending::{CallFuture, Pending};
use crate::client::reply::Reply;
use crate::client::stream::{AsyncStream, Inputs, Prepared, Stream, StreamOptions};
use crate::client::streaming::StreamingCall;
use crate::client::{CallOptions, Core, Hold, Host, Keeper, Service};
use crate::error::{BoxError, CallError, DrainError, NotReady};
use crate::policy::placement::Placement;
use crate::wire::payload::{AsInput, Payload};
use debug::DebugInfo;
use stats::ServerStats;
use std::marker::PhantomData;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use traces::Traces;

/// The default capacity.
pub const DEFAULT_CAPACITY: usize = 256;

/// A running server: takes `In`, gives `Out`. Any number of threads may call it at once.
///
/// Dropping it shuts it down, as [`shutdown`](Self::shutdown) does. What it gives borrows it; a
/// [`handle`](Self::handle) calls it from where it cannot be borrowed.
///
/// A process may end without dropping it: by `std::process::exit`, a signal that it does not handle, or a leak. Then the
/// processes of its workers remove the segment's files. Threads end with the process, so where all workers are threads
/// ([`ThreadServlet`](crate::ThreadServlet)) the files stay, until the next start under that name or `shmtool clean`
/// removes them. An [anonymous](Server::anonymous) server has no files.
///
/// It belongs to the process that started it. In a process forked from that one every call fails at once with
/// [`CallError::Forked`]; functions without a result do nothing there, and dropping the server, or a reply, a loan, a
/// stream or a future of it, frees memory only.
pub struct Server<In, Out> {
    core: Arc<Core>,
    keeper: Arc<Keeper>,
    types: PhantomData<fn(&In) -> Out>,
}

impl<In, Out> Server<In, Out> {
    /// The server of a core that is ready.
    fn begin(core: Arc<Core>) -> Self {
        let server = Self { keeper: Keeper::new(Arc::clone(&core)), core, types: PhantomData };
        // From here on a panic drops the server, which leaves nothing behind.
        if server.hosted().is_some_and(|service| service.handle_signals) {
            signals::look_after(Arc::downgrade(&server.core));
        }
        server
    }

    pub(crate) fn core(&self) -> &Core {
        &self.core
    }

    /// What the core has in this process alone.
    fn hosted(&self) -> Option<&Service> {
        match &self.core.host {
            Host::Server(service) => Some(service),
            Host::Client(_) => None,
        }
    }
}

impl<In, Out> std::fmt::Debug for Server<In, Out> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Server").field("name", &self.core.name).finish_non_exhaustive()
    }
}

impl Server<(), ()> {
    /// Options for a server of this name: 1 to 55 characters of `A-Z a-z 0-9 . _ -`, no dot first. The segment is
    /// `/dev/shm/ringmill-<name>`, so one server at a time can use a name; see
    /// [`name_or_suffix`](ServerBuilder::name_or_suffix) and [`anonymous`](Self::anonymous).
    #[must_use]
    pub fn builder(name: impl Into<String>) -> ServerBuilder {
        ServerBuilder::new(name.into())
    }

    /// Options for a server without a name: its segment is memory (a memfd) that the server hands its workers. There is
    /// nothing in `/dev/shm`, so any number of replicas and tests run side by side, also with one label, and none can
    /// leave a file, however it ends.
    ///
    /// The label, by the rules of names, stands in logs, errors, process lists and `shmtool list`; it need not be unique.
    ///
    /// It needs `/proc`: else the start fails, with an error that says so. The segment
    /// counts as memory of the service's control group, as one in `/dev/shm` does; the size of `/dev/shm` does not
    /// matter.
    ///
    /// ```
    /// # fn main() -> Result<(), ringmill::BoxError> {
    /// # use ringmill::{PassThrough, Server, ThreadServlet};
    /// let start = || Server::anonymous("digits").start(ThreadServlet::<PassThrough<u64>>::new(()));
    /// let (one, other) = (start()?, start()?);
    /// assert_eq!(*one.call(&1)? + *other.call(&2)?, 3);
    /// assert_eq!([one.name(), other.name()], ["digits"; 2]);
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn anonymous(label: impl Into<String>) -> ServerBuilder {
        ServerBuilder::anonymous(label.into())
    }
}

impl<In: Payload, Out: Payload> Server<In, Out> {
    /// Sends one input and waits for its outcome, which the reply reads where it lies; dropping the reply gives its
    /// permit back.
    ///
    /// # Errors
    /// See [`CallError`].
    #[inline]
    pub fn call(&self, input: &In) -> Result<Reply<'_, Out>, CallError> {
        self.call_ref_with(input, CallOptions::default())
    }

    /// [`call`](Self::call) with options.
    ///
    /// # Errors
    /// See [`CallError`].
    #[inline]
    pub fn call_with(&self, input: &In, options: CallOptions) -> Result<Reply<'_, Out>, CallError> {
        self.call_ref_with(input, options)
    }

    /// [`call`](Self::call) with what borrows as the input: a `&str` where the input is a `String`, a `&[T]` where it
    /// is a `Vec<T>`. See [`AsInput`].
    ///
    /// ```no_run
    /// # fn main() -> Result<(), ringmill::BoxError> {
    /// # use ringmill::{PassThrough, Server, ThreadServlet};
    /// let texts = Server::builder("borrowed-texts").start(ThreadServlet::<PassThrough<String>>::new(()))?;
    /// assert_eq!(texts.call_ref("not copied into a String")?.len(), 24);
    /// let numbers = Server::builder("slices").start(ThreadServlet::<PassThrough<Vec<f32>>>::new(()))?;
    /// let some = vec![0.5; 1000];
    /// assert_eq!(numbers.call_ref(&some[10..20])?.len(), 10);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// See [`CallError`].
    #[inline]
    pub fn call_ref(&self, input: impl AsInput<In>) -> Result<Reply<'_, Out>, CallError> {
        self.call_ref_with(input, CallOptions::default())
    }

    /// [`call_ref`](Self::call_ref) with options.
    ///
    /// # Errors
    /// See [`CallError`].
    #[inline]
    pub fn call_ref_with(
        &self,
        input: impl AsInput<In>,
        options: CallOptions,
    ) -> Result<Reply<'_, Out>, CallError> {
        self.core.call(input, options)
    }

    /// Sends one input and does not wait: returns at once what stands for the outcome.
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
    ///     None => drop(first), // cancels the request
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

    /// [`submit`](Self::submit) with options; the timeout runs from now. With [`WhenFull::Wait`](crate::WhenFull::Wait)
    /// it blocks while it waits for a permit.
    ///
    /// # Errors
    /// See [`CallError`].
    pub fn submit_with(&self, input: &In, options: CallOptions) -> Result<Pending<'_, Out>, CallError> {
        self.submit_ref_with(input, options)
    }

    /// [`submit`](Self::submit) with what borrows as the input, as for [`call_ref`](Self::call_ref).
    ///
    /// # Errors
    /// See [`CallError`].
    pub fn submit_ref(&self, input: impl AsInput<In>) -> Result<Pending<'_, Out>, CallError> {
        self.submit_ref_with(input, CallOptions::default())
    }

    /// [`submit_with`](Self::submit_with) with what borrows as the input.
    ///
    /// # Errors
    /// See [`CallError`].
    pub fn submit_ref_with(
        &self,
        input: impl AsInput<In>,
        options: CallOptions,
    ) -> Result<Pending<'_, Out>, CallError> {
        Hold::lent(&self.core).submit(input, options)
    }

    /// Sends one input to a worker that [emits](crate::worker::Item::emit) partials of type `P`, and does not wait: returns
    /// the partials as they come, and then the outcome.
    ///
    /// The server must have room for them, see [`ServerBuilder::partials`].
    ///
    /// ```
    /// use ringmill::{Batch, BatchWorker, BoxError, Context, Server, ThreadServlet};
    ///
    /// /// Says each word of a text, and answers with their number.
    /// struct Words;
    ///
    /// impl BatchWorker for Words {
    ///     type Config = ();
    ///     type In = String;
    ///     type Out = u64;
    ///
    ///     fn new((): (), _: &Context) -> Result<Self, BoxError> {
    ///         Ok(Self)
    ///     }
    ///
    ///     fn call(&mut self, batch: Batch<'_, Self>) -> Result<(), BoxError> {
    ///         for item in batch {
    ///             let words: Vec<String> = item.input().split(' ').map(String::from).collect();
    ///             match words.iter().try_for_each(|word| item.emit(word)) {
    ///                 Ok(()) => item.reply(words.len() as u64),
    ///                 Err(error) => item.fail(error),
    ///             }
    ///         }
    ///         Ok(())
    ///     }
    /// }
    ///
    /// # fn main() -> Result<(), BoxError> {
    /// let server = Server::builder("words").partials(8).start(ThreadServlet::<Words>::new(()))?;
    /// let mut call = server.call_streaming::<String>(&"one after another".into())?;
    /// let mut heard = Vec::new();
    /// for word in &mut call {
    ///     heard.push(word?);
    /// }
    /// assert_eq!(heard, ["one", "after", "another"]);
    /// assert_eq!(*call.outcome()?, 3);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`CallError::NoPartials`], and those of [`call`](Self::call).
    pub fn call_streaming<P: Payload>(&self, input: &In) -> Result<StreamingCall<'_, P, Out>, CallError> {
        self.call_streaming_with(input, CallOptions::default())
    }

    /// [`call_streaming`](Self::call_streaming) with what borrows as the input, as for [`call_ref`](Self::call_ref), and
    /// with options; the timeout is for partials and outcome together, and runs from now.
    ///
    /// # Errors
    /// As those of [`call_streaming`](Self::call_streaming).
    pub fn call_streaming_with<P: Payload>(
        &self,
        input: impl AsInput<In>,
        options: CallOptions,
    ) -> Result<StreamingCall<'_, P, Out>, CallError> {
        Hold::lent(&self.core).call_streaming(input, options)
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

    /// [`call_async`](Self::call_async) with options; the timeout runs from the first poll. With
    /// [`WhenFull::Wait`](crate::WhenFull::Wait) the future waits for a permit, in the order in which futures come.
    pub fn call_async_with<'a>(&'a self, input: &'a In, options: CallOptions) -> CallFuture<'a, In, Out> {
        CallFuture::new(Hold::lent(&self.core), input, options)
    }

    /// Sends many inputs and returns their outcomes in the same order, one for each; keeps the pipeline as full as the
    /// capacity allows, and stops in order when dropped early.
    ///
    /// The iterator pulls inputs as permits come free, in the thread that asks for outcomes.
    /// [`with_inputs`](Stream::with_inputs) returns each input with its outcome, [`unordered`](Stream::unordered)
    /// returns outcomes as they come.
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
        Stream::new(Hold::lent(&self.core), Inputs(inputs.into_iter().fuse()), options)
    }

    /// [`stream`](Self::stream) of items from which `prepare` makes inputs. It is called on each item before that is
    /// sent, in the thread that asks for outcomes. If it fails, the outcome of the item is [`CallError::Refused`], and
    /// no worker sees the item.
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
        Stream::new(Hold::lent(&self.core), source, options)
    }

    /// [`stream`](Self::stream) for async tasks: takes an asynchronous stream of inputs, and returns one of their
    /// outcomes in the same order, under any executor. It always waits for permits.
    ///
    /// An iterator becomes a stream by any of the usual adapters, such as `futures_util::stream::iter`.
    /// [`with_inputs`](AsyncStream::with_inputs) returns each input with its outcome, [`unordered`](AsyncStream::unordered)
    /// returns outcomes as they come.
    ///
    /// ```no_run
    /// # use ringmill::{BoxError, PassThrough, Server, ThreadServlet};
    /// use futures_util::{StreamExt, stream};
    ///
    /// # async fn example() -> Result<(), BoxError> {
    /// let server = Server::builder("async-stream").start(ThreadServlet::<PassThrough<u64>>::new(()))?;
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
        AsyncStream::new(Hold::lent(&self.core), inputs, options)
    }
}

impl<In, Out> Server<In, Out> {
    /// The server's name, with the suffix that [`name_or_suffix`](ServerBuilder::name_or_suffix) gave it; of an
    /// anonymous server, its label.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.core.name
    }

    /// How many requests can be in progress.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.core.capacity as usize
    }

    /// How many permits are in use: requests in progress, including those whose caller has gone but whose worker is
    /// still busy, and replies that have not been dropped. 0 in a forked child.
    #[must_use]
    pub fn backlog(&self) -> usize {
        self.core.backlog()
    }

    /// Warnings about what is allowed but hardly meant: a capacity below a batch size, or that the process ignores SIGINT or
    /// SIGTERM, so that Ctrl-C or `kill` do not end it. The start has logged them, too.
    #[must_use]
    pub fn warnings(&self) -> &[String] {
        self.hosted().map_or(&[], |service| &service.warnings)
    }

    /// Where the workers run, and why there, as it was decided before they were started.
    #[must_use]
    pub fn placement(&self) -> &Placement {
        &self.core.placement
    }

    /// The workers' statistics since the server's start.
    #[must_use]
    pub fn stats(&self) -> ServerStats {
        ServerStats::of(&self.core.segment)
    }

    /// The [traces](crate::trace) of requests that have ended, as they end: those that the segment still has, then new ones.
    #[must_use]
    pub fn traces(&self) -> Traces {
        Traces::of(&self.core)
    }

    /// Whether requests can be answered at this moment, as a readiness probe asks: the server does not drain or shut down, and
    /// each servlet has a worker that is ready and takes requests. That the server is full, or slow, is no reason to be not
    /// ready. It costs a system call for each servlet.
    ///
    /// ```
    /// use ringmill::{PassThrough, Server, ThreadServlet};
    /// use ringmill::error::NotReady;
    ///
    /// # fn main() -> Result<(), ringmill::BoxError> {
    /// let server = Server::anonymous("probed").start(ThreadServlet::<PassThrough<u32>>::new(()))?;
    /// assert_eq!(server.readiness(), Ok(()));
    /// server.shutdown();
    /// assert!(matches!(server.readiness(), Err(NotReady::ShuttingDown { .. })));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// The first reason why not.
    pub fn readiness(&self) -> Result<(), NotReady> {
        self.core.readiness()
    }

    /// The statistics for a registry of Prometheus, which reads them when it is scraped. Needs the feature `prometheus`; has
    /// an [example](crate::stats::Collector).
    #[cfg(feature = "prometheus")]
    #[must_use]
    pub fn collector(&self) -> crate::stats::Collector {
        crate::stats::Collector::new(&self.core.segment)
    }

    /// The server as a `tower::Service`, which borrows nothing. Needs the feature `tower`; has an
    /// [example](crate::call::CallService).
    #[cfg(feature = "tower")]
    #[must_use]
    pub fn service(&self) -> crate::call::CallService<In, Out> {
        self.handle().service()
    }

    /// The path of its segment: `/dev/shm/ringmill-<name>`, or the file that it was given. Of an anonymous server, its
    /// descriptor in `/proc`, by which processes of this user can open the segment as long as the server lives.
    #[must_use]
    pub fn segment_path(&self) -> PathBuf {
        self.core.segment.path()
    }

    /// What `shmtool` calls its segment: the name; the path of the file that it was given; `LABEL@PID:NUMBER` if it is
    /// anonymous, where `LABEL@PID` is enough as long as this process has no other one of the label.
    #[must_use]
    pub fn address(&self) -> String {
        self.core.segment.location().to_text()
    }

    /// Refuses new requests from now on, and waits until none is in progress: until the [`backlog`](Self::backlog) is
    /// 0. The workers stay; [`shutdown`](Self::shutdown) may follow.
    ///
    /// # Errors
    /// If requests are still in progress when the timeout is over. They go on.
    pub fn drain(&self, limit: Duration) -> Result<(), DrainError> {
        self.core.drain(limit)
    }

    /// What the server is doing at this moment: its workers, and every request in progress. Reads shared memory and
    /// stops no thread, so the facts are of slightly different moments.
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

    /// Shuts down: refuses new calls, waits until requests in progress end, has the workers leave in order. Workers
    /// that take longer than the shut-down timeout are killed, and their requests are answered with an error. The
    /// segment's files are gone afterwards; an anonymous segment goes with the server. A second call does nothing. Calls of
    /// its [handles](Self::handle) end with [`CallError::ShuttingDown`] from then on.
    pub fn shutdown(&self) {
        self.core.shut_down();
    }
}

impl<In, Out> Drop for Server<In, Out> {
    fn drop(&mut self) {
        self.core.shut_down();
    }
}
