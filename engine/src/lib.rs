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
//! The [`guide`] goes on from here, in thirteen steps, each with a program that runs. To look something up:
//!
//! | You want | Look at |
//! |---|---|
//! | to write the code that runs | [`Worker`] (item by item), [`BatchWorker`] (batch by batch), [`make_worker!`] (a plain function) |
//! | to say where it runs | [`ProcessServlet`], [`ThreadServlet`]; [`init!`] lists what processes can become |
//! | stages, several opinions, a choice | [`Servlet::then`], [`Ensemble`], [`Switch`] |
//! | to start it | [`Server::builder`], whose [`ServerBuilder`] has the options of a server |
//! | one answer | [`Server::call`], and its [`Reply`] |
//! | many answers, in order | [`Server::stream`], [`StreamOptions`] |
//! | not to wait | [`Server::submit`], [`Server::call_async`], [`Server::stream_async`] |
//! | to send a large input without a copy | [`Loan`] |
//! | your own types in inputs and outputs | [`Payload`]: what rkyv can archive |
//! | to bound waiting, or to wait for room | [`CallOptions`], [`WhenFull`] |
//! | to choose what becomes of a dead worker's requests | [`OnDeath`], [`Restarts`] |
//! | to know what went wrong | [`CallError`] (a request), [`StartError`] (a server), [`RemoteError`] (in a worker) |
//! | to see what goes on | [`Server::stats`], [`Server::debug_info`]; from outside the program `shmtool` |
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
mod error;
mod host;
mod panics;
mod plan;
mod policy;
mod route;
mod server;
mod servlet;
mod text;
mod wire;
mod worker;

pub use client::pending::{CallFuture, Pending};
pub use client::reply::Reply;
pub use client::stream::{
    AsyncStream, ByIndex, ByInput, DEFAULT_STREAM_TIMEOUT, Inputs, Kept, Prepared, Source, Stream,
    StreamOptions, Tags, Unordered, WithInputs,
};
pub use client::{CallOptions, DEFAULT_TIMEOUT, WhenFull};
pub use error::{
    BoxError, CallError, DrainError, EnsembleError, ErrorKind, Member, MemberOutcome, RemoteCause,
    RemoteError, StartError,
};
pub use plan::DEFAULT_MAX_PAYLOAD;
pub use policy::batch::{BATCH_SIZE_LIMIT, DEFAULT_BATCH_WAIT_TIME};
pub use policy::cpus::{Cpus, ParseCpusError, Pin};
pub use policy::on_death::OnDeath;
pub use policy::patience::Wait;
pub use policy::restarts::{RESTART_LIMIT, Restarts};
pub use ringmill_shm::stats::{Closed, Counter, Snapshot};
pub use rkyv;
pub use server::debug::{BranchInfo, DebugInfo, RequestInfo, WorkerName};
#[expect(deprecated, reason = "their new names stand below")]
pub use server::debug::{ServletInfo, WorkerInfo};
pub use server::loan::{Loan, Plain};
pub use server::stats::{BatchStats, ServerStats, ServletStats, WorkerStats};
pub use server::{DEFAULT_CAPACITY, Server, ServerBuilder};
pub use servlet::{
    Alternatives, BoxServlet, Ensemble, FailFast, KeepErrors, Members, ProcessServlet, Sequential, Servlet,
    Switch, ThreadServlet,
};
pub use wire::{Checker, Encoder, Explainer, Output, Payload, PayloadError, ReadError, Scratch};
pub use worker::batch::{Batch, Item, Items, Preprocessed, PreprocessedItems};
pub use worker::one_item::{IntoOutcome, PassThrough, Worker, schema};
pub use worker::{BatchWorker, Context, Stop};

#[doc = include_str!("../guide.md")]
pub mod guide {}

/// The CPUs this process may use, and pinning the calling thread to some.
pub mod cpu {
    pub use crate::policy::cpus::allowed;
    pub use ringmill_shm::sys::cpu::pin_thread;
}

/// What the macros of this crate expand to; not for direct use.
#[doc(hidden)]
pub mod __private {
    pub use crate::host::begin;
    pub use crate::host::registry::{InitEntry, ListedType, Note};

    /// The functions that read bytes of other processes, for tests that give them any bytes.
    pub mod hostile {
        use crate::error::boot;
        use crate::host::order;
        use crate::wire::payload;
        use crate::{Payload, RemoteCause, RemoteError};

        /// The value of payload bytes.
        ///
        /// # Errors
        /// Why the bytes are invalid.
        pub fn read<T: Payload>(bytes: &[u8]) -> Result<T, String> {
            payload::copied::<T>(bytes).map_err(|error| error.to_string())
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

        /// The error record of a worker that could not start.
        pub fn boot_message(message: &[u8]) -> Option<RemoteError> {
            boot::read(message)
        }
    }
}
