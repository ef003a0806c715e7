//! Runs user code in worker processes (or threads) behind rings in shared memory, and turns single requests into
//! batches.
//!
//! A request goes from [`Server::call`] through a ring in a mapped segment to a worker, and its answer comes back in
//! place. One worker at a time holds the reader lock and greedily drains a whole batch. Workers are processes because
//! native code crashes: a worker that dies costs at most the requests it was working on. Each of these is answered with
//! an error, and the worker is restarted.
//!
//! ```no_run
//! use ringmill::{Batch, BatchWorker, BoxError, Context, ProcessServlet, Server};
//! use std::time::Duration;
//!
//! struct Scale { factor: f64 }
//!
//! impl BatchWorker for Scale {
//!     type Config = f64; // travels to each worker
//!     type In = f64;
//!     type Out = f64;
//!
//!     fn new(factor: f64, _: &Context) -> Result<Self, BoxError> {
//!         Ok(Self { factor })
//!     }
//!
//!     fn call(&mut self, batch: Batch<'_, Self>) -> Result<(), BoxError> {
//!         let scaled: Vec<f64> = batch.inputs().map(|x| x.to_native() * self.factor).collect();
//!         batch.reply_all(scaled)
//!     }
//! }
//!
//! fn main() -> Result<(), BoxError> {
//!     ringmill::init!(Scale); // in a worker's process: be that worker
//!
//!     let server = Server::builder("scale").capacity(1024).start(
//!         ProcessServlet::<Scale>::new(2.5)
//!             .cpus(2) // two processes
//!             .batch_size(64)
//!             .batch_wait_time(Duration::from_micros(200)),
//!     )?;
//!     println!("{}", *server.call(&4.0)?); // one request
//!     for scaled in server.stream((0..1000).map(f64::from)) {
//!         println!("{}", scaled?); // many, in order
//!     }
//!     Ok(())
//! }
//! ```
//!
//! Beside [`Server::call`] and [`Server::stream`] there are [`Server::submit`], for an outcome to be looked for
//! later, and [`Server::call_async`] and [`Server::stream_async`], for any executor. Dropping what they give
//! cancels.
//!
//! # The way through
//!
//! The [`guide`] goes on from here, in nineteen steps, each with a program that runs. To look something up:
//!
//! | You want | Look at |
//! |---|---|
//! | to write the code that runs | [`Worker`] (item by item), [`BatchWorker`] (batch by batch), [`make_worker!`] (a plain function) |
//! | to say where it runs | [`ProcessServlet`], [`ThreadServlet`]; [`init!`] lists what processes can become; [`Cpus`] and [`placement`]: on which CPUs |
//! | stages, several opinions, a choice | [`Servlet::then`], [`Ensemble`], [`Switch`] |
//! | to start it | [`Server::builder`], whose [`ServerBuilder`] has the options of a server; [`start_async`](ServerBuilder::start_async) in an `async main` |
//! | several replicas, tests side by side | [`Server::anonymous`], [`ServerBuilder::name_or_suffix`] |
//! | one answer | [`Server::call`], and its [`Reply`] |
//! | many answers, in order | [`Server::stream`], [`StreamOptions`] |
//! | not to wait | [`Server::submit`], [`Server::call_async`], [`Server::stream_async`] |
//! | to call from tasks and threads that outlive a borrow | [`Server::handle`], and its [`Handle`] |
//! | to put tower's layers around it (timeouts, load-shedding, retries) | `Server::service`, with the feature `tower` |
//! | to pass a `&str` as a `String`, a `&[T]` as a `Vec<T>` | [`Server::call_ref`] |
//! | to send a large input without a copy | [`Loan`](call::Loan) |
//! | workers in another program, or in another language | [`program`], [`ProcessServlet::program_worker`] |
//! | your own types in inputs and outputs | [`Payload`]: what rkyv can archive; [`Bytes`](payload::Bytes): what you make of them |
//! | to bound waiting, or to wait for room | [`CallOptions`], [`WhenFull`] |
//! | to choose what becomes of a dead worker's requests | [`OnDeath`], [`Restarts`] |
//! | to know what went wrong | [`CallError`] (a request), [`StartError`] (a server), [`RemoteError`](error::RemoteError) (in a worker) |
//! | to test your workers, and what happens when they die | [`testing`] |
//! | to see where a request's time goes | [`Server::traces`], [`CallOptions::trace_context`] |
//! | to see what goes on | [`Server::stats`], [`Server::debug_info`]; for Prometheus `Server::collector`, with the feature `prometheus`; from outside the program `shmtool` |
//!
//! `examples/` in the repository has short programs for most of these; begin with `hello`.

/// A line at which a test makes a process die or wait (see `ringmill_shm::crash`); without the feature `crash-points`,
/// nothing.
macro_rules! crash_point {
    ($name:literal) => {
        #[cfg(feature = "crash-points")]
        ringmill_shm::crash::pass(
            const { $crate::crash::FIRST + ringmill_shm::crash::index_of(&$crate::crash::POINTS, $name) },
        );
    };
}

mod client;
mod clock;
#[cfg(feature = "crash-points")]
pub mod crash;
pub mod error;
mod host;
mod panics;
mod plan;
mod policy;
mod route;
pub mod server;
pub mod servlet;
pub mod testing;
mod text;
mod traceparent;
mod wire;
pub mod worker;

#[cfg(feature = "prometheus")]
pub use prometheus_client;
pub use rkyv;

#[doc(inline)]
pub use crate::policy::memory::NumaMemory;
#[doc(inline)]
pub use call::{CallOptions, Reply, WhenFull};
#[doc(inline)]
pub use error::{BoxError, CallError, StartError};
#[doc(inline)]
pub use payload::Payload;
pub use ringmill_shm::segment::{HugePages, Prefault, Reserve};
#[doc(inline)]
pub use server::{Client, Handle, Server, ServerBuilder};
#[doc(inline)]
pub use servlet::{Cpus, Ensemble, OnDeath, ProcessServlet, Restarts, Servlet, Switch, ThreadServlet, Wait};
#[doc(inline)]
pub use stream::StreamOptions;
#[doc(inline)]
pub use worker::{Batch, BatchWorker, Context, PassThrough, Worker};

/// One request: its options, its outcome, and what stands for an outcome that is still to come.
pub mod call {
    pub use crate::client::pending::{CallFuture, Pending};
    pub use crate::client::reply::Reply;
    #[cfg(feature = "tower")]
    pub use crate::client::service::{CallService, ServiceFuture};
    pub use crate::client::streaming::{AsyncStreamingCall, Partial, StreamingCall};
    pub use crate::client::{CallOptions, DEFAULT_TIMEOUT, WhenFull};
    pub use crate::server::loan::Loan;
    pub use crate::wire::Plain;
}

/// Many requests: streams of inputs and of outcomes.
pub mod stream {
    pub use crate::client::stream::{
        AsyncStream, AsyncUnordered, AsyncWithInputs, ByIndex, ByInput, DEFAULT_STREAM_TIMEOUT, Inputs, Kept,
        Prepared, Source, Stream, StreamOptions, Tags, Unordered, WithInputs,
    };
}

/// What inputs, outcomes and configurations are.
pub mod payload {
    pub use crate::wire::{
        ArchivedBytes, ArchivedTailed, AsInput, BYTES_ALIGN, Bytes, Checker, Encoder, Explainer, Fill,
        FillTail, Output, Payload, PayloadError, ReadError, Schema, Scratch, Tailed, TailedResolver, fill,
        fill_tail, from_bytes, owned,
    };
}

/// Where the workers of a server run, and why there.
///
/// A machine is a tree: a CPU, as the kernel counts, is a hardware thread of a *core*, where two that work at once slow each
/// other down; the cores that share a *last-level cache* pass data on in some 50 ns, others in several times that; and each
/// *NUMA node* has memory of its own, while that of another node is slower for it. The servlet says with [`Cpus`] how near to
/// all this its workers are to be, [`Server::placement`] what became of it, `shmtool show` also what the kernel says.
/// `docs/placement.md` in the repository explains the choice from the beginning.
///
/// CPUs that the kernel was told to leave alone (`isolcpus`) are *isolated*: [`Cpus::auto`] takes them first, as far as the
/// process may use them, and [`Placement::free`](placement::Placement::free) leaves them to the workers.
pub mod placement {
    pub use crate::policy::placement::{PlacedMemory, PlacedWorker, Placement};
    pub use ringmill_shm::placed::Why;
}

/// What a server tells of itself: counters and histograms, and requests in progress.
pub mod stats {
    pub use crate::policy::sample::Timing;
    pub use crate::server::debug::{BranchInfo, DebugInfo, RequestInfo, WorkerName};
    #[cfg(feature = "prometheus")]
    pub use crate::server::metrics::Collector;
    pub use crate::server::stats::{BatchStats, RequestStats, ServerStats, ServletStats, WorkerStats};
    pub use ringmill_shm::stats::{
        CallerCounter, CallerDistributions, CallerHistogram, CallerSnapshot, Closed, Counter, Distribution,
        Family, HistogramWords, Merge, Quantity, ServerCounter, ServerSnapshot, Snapshot, Words,
        WorkerDistributions, WorkerHistogram,
    };
}

/// Where the time of single requests goes: of those that are traced, when each was sent, queued, taken and worked on, at each
/// servlet, by which worker, and how that ended.
///
/// A request is traced if it is [timed](stats::Timing), or if its caller gives it a [sampled](trace::TraceContext::is_sampled)
/// [context](CallOptions::trace_context). The segment keeps the traces of the last [so many](ServerBuilder::traces);
/// `shmtool trace` shows them, also of a server that hangs or has died, and [`Server::traces`] gives them to the program, for
/// an exporter. No worker takes part in that, so the part of a worker that died in a request is there too, with
/// [`HopEnd::Died`](trace::HopEnd::Died).
///
/// Each trace has a span for the request, and in it one for each [hop](trace::Hop), a worker's part. Their numbers are those of
/// OpenTelemetry and of W3C trace contexts, and a worker's own spans can be their children
/// ([`Item::trace_context`](worker::Item::trace_context)). `examples/telemetry` in the repository sends them to a collector.
pub mod trace {
    pub use crate::server::traces::{Hop, Trace, Traces};
    pub use crate::traceparent::{TraceContext, TraceContextError};
    pub use ringmill_shm::trace::{HopEnd, RequestEnd};
}

#[doc = include_str!("../guide.md")]
pub mod guide {}

/// Workers' `tracing` events in the log of the service, if its server
/// [forwards](ServerBuilder::forward_events) them.
///
/// Each is emitted again with the target [`TARGET`](events::TARGET), at its level, with its message, and these fields:
///
/// | Field | It says |
/// |---|---|
/// | `worker` | the worker: server, servlet and index |
/// | `pid` | its process |
/// | `from` | the event's own target, as a rule the module that logged it |
/// | `fields` | its other fields, as `name=value name=value` |
/// | `at` | where it is in the source, as `file:line` |
/// | `unix_ns` | when it happened, in nanoseconds since 1970 |
///
/// Each text is on one line, without anything that a terminal obeys. An event takes 4 KiB at most: longer texts are cut,
/// with an ellipsis. Spans are not forwarded.
///
/// An event with the fields `worker`, `pid` and `dropped` says that so many events of that worker were dropped since the
/// last such one; the worker's counter [`events_dropped`](stats::Snapshot::events_dropped) has their sum.
pub mod events {
    pub use crate::host::events::{TARGET, forward};
}

/// Workers in programs of their own: an interpreter with a script, a program in C, another Rust program.
///
/// The service names the program, and by what name that lists the worker; the program lists its workers and makes one call,
/// [`become_worker`](program::become_worker), which returns when the worker has ended. [`Outside`](program::Outside) stands in
/// the service for a worker whose code it does not have. The program has the engine too: as a Rust program, or through a
/// library for its language.
///
/// In the service:
///
/// ```no_run
/// # fn main() -> Result<(), ringmill::BoxError> {
/// use ringmill::program::Outside;
/// use ringmill::{ProcessServlet, Server};
///
/// let words = ProcessServlet::<Outside<String, u64>>::new(())
///     .program("target/release/examples/words")
///     .program_args(["--worker"])
///     .program_worker("count words");
/// let server = Server::anonymous("outside").start(words)?;
/// assert_eq!(*server.call_ref("one two three")?, 3);
/// # Ok(())
/// # }
/// ```
///
/// In the program:
///
/// ```no_run
/// use ringmill::program::{BecomeError, NamedWorker, Workers, become_worker};
/// use std::process::ExitCode;
///
/// ringmill::make_worker!(Count: String => u64, |text| text.split_whitespace().count() as u64);
///
/// fn main() -> Result<ExitCode, BecomeError> {
///     let workers = Workers::new().with(NamedWorker::<Count>::new("count words"));
///     Ok(ExitCode::from(become_worker(&workers)?))
/// }
/// ```
pub mod program {
    pub use crate::error::BecomeError;
    pub use crate::host::{NamedWorker, Workers, become_worker};
    pub use crate::worker::Outside;
}

/// The CPUs this process may use, and pinning the calling thread to some.
pub mod cpu {
    pub use crate::policy::cpus::{allowed, pin_thread};
}

/// What the macros of this crate expand to; not for direct use.
#[doc(hidden)]
pub mod __private {
    pub use crate::host::registry::{InitEntry, ListedType, Note, SetUp};
    pub use crate::host::{begin, set_up};
    pub use crate::wire::Travels;

    /// The functions that read bytes of other processes, for tests that give them any bytes.
    pub mod hostile {
        use crate::Payload;
        use crate::error::boot;
        use crate::error::{RemoteCause, RemoteError};
        use crate::host::{events, order};
        use crate::wire::payload;

        /// The value of payload bytes.
        ///
        /// # Errors
        /// Why the bytes are invalid.
        pub fn read<T: Payload>(bytes: &[u8]) -> Result<T, String> {
            payload::from_bytes::<T>(bytes).map_err(|error| error.to_string())
        }

        /// An error record.
        #[must_use]
        pub fn error(cause: RemoteCause) -> RemoteError {
            RemoteError { servlet: "servlet".into(), worker: 1, pid: 2, attempt: 3, cause }
        }

        /// A value as payload bytes.
        ///
        /// # Errors
        /// Why the value cannot be serialised.
        pub fn write<T: Payload>(value: &T) -> Result<Vec<u8>, String> {
            payload::to_bytes(value).map_err(|error| error.to_string())
        }

        /// Shortens an error record until nothing is left to cut, and writes it each time; returns how often it was
        /// cut.
        #[must_use]
        pub fn shorten_to_the_end(mut error: RemoteError) -> usize {
            let mut steps = 0;
            while error.shorten() {
                steps += 1;
                let _ = payload::to_bytes(&error);
            }
            steps
        }

        /// Whether a text is a valid order for a worker's process.
        pub fn order(text: &str) -> bool {
            order::understands(text)
        }

        /// Whether bytes are the message of an event that a worker sends to the service.
        #[must_use]
        pub fn event(message: &[u8]) -> bool {
            events::understands(message)
        }

        /// The error record of a worker that could not start.
        pub fn boot_message(message: &[u8]) -> Option<RemoteError> {
            boot::read(message)
        }
    }
}
