//! A worker in this thread: built, and given a batch, as a server would do it.

use crate::client::CallOptions;
use crate::error::{CallError, RemoteCause, StartError};
use crate::server::{Server, ServerBuilder};
use crate::servlet::{BoxServlet, ThreadServlet, lent};
use crate::wire::Payload;
use crate::worker::{BatchWorker, LentSeat, SeatsToLend, lend_seats};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::time::Duration;

/// What a worker made of a batch.
#[derive(Debug)]
#[non_exhaustive]
pub struct Handled<Out> {
    /// The outcome of each input, in their order: what the input's caller would get.
    pub outcomes: Vec<Result<Out, CallError>>,
    /// The [fatal](crate::BoxError::fatal) error with which the worker gave up, if it did: a server would have it clean up,
    /// and restart it.
    pub gave_up: Option<RemoteCause>,
}

/// Builds a worker in this thread, as a server does: `new` gets a copy of the configuration that has gone through its bytes,
/// then comes `warm_up`; panics of either are errors. The [`Context`](crate::Context) is that of a servlet without options.
///
/// What [`init!`](crate::init) sets up in a worker's process is not set up here.
///
/// # Errors
/// Those with which the server would not start: [`StartError::Worker`], and [`StartError::Config`].
pub fn build<W: BatchWorker>(config: W::Config) -> Result<W, StartError> {
    build_with(ThreadServlet::new(config))
}

/// [`build`] of the first worker of this servlet, whose options the [`Context`](crate::Context) has.
///
/// ```
/// use ringmill::rkyv::Archived;
/// use ringmill::{BoxError, Context, ThreadServlet, Worker, testing};
///
/// struct Buffered(Vec<u8>);
///
/// impl Worker for Buffered {
///     type Config = usize;
///     type In = u8;
///     type Out = u8;
///
///     fn new(item_bytes: usize, context: &Context) -> Result<Self, BoxError> {
///         Ok(Self(vec![0; item_bytes * context.batch_size()]))
///     }
/// #    fn call(&mut self, x: &Archived<u8>) -> Result<u8, BoxError> { Ok(*x) }
///     // …
/// }
///
/// # fn main() -> Result<(), BoxError> {
/// let worker = testing::build_with(ThreadServlet::<Buffered>::new(100).batch_size(32))?;
/// assert_eq!(worker.0.len(), 3200);
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// As [`build`], and those of invalid options.
pub fn build_with<W: BatchWorker>(servlet: ThreadServlet<W>) -> Result<W, StartError> {
    let (life, seats) = lend_seats();
    let lending = Lending::start(super::builder(), lent::with_life(&servlet, life), seats)?;
    lending.first().build().map_err(|error| StartError::Worker(Box::new(error)))
}

/// Gives a worker one batch of exactly these inputs, in this thread, and returns what their callers would get: values, errors,
/// panics as errors; an error for an input that cannot be serialised or read, which the batch is without; for items that are
/// left unanswered, or whose number differs from that of the outcomes. Without inputs, nothing happens.
///
/// The worker comes from [`build`], or is made in any way. A worker that handles one item at a time gets one after the other,
/// up to a fatal error. Nobody waits for [partials](crate::worker::Item::emit); [`server`](super::server) tests those. A crash
/// of the worker is one of this process, and a call that hangs is a test that hangs.
///
/// ```
/// # use ringmill::testing;
/// ringmill::make_worker!(Half: u32 => u32, |x: &ringmill::rkyv::Archived<u32>| {
///     let x = x.to_native();
///     if x % 2 == 0 { Ok(x / 2) } else { Err(ringmill::BoxError::msg(format!("{x} is odd"))) }
/// });
/// # fn main() {
/// let outcomes = testing::batch(&mut Half, [6, 7]).outcomes;
/// assert_eq!(*outcomes[0].as_ref().unwrap(), 3);
/// assert!(outcomes[1].as_ref().unwrap_err().to_string().contains("7 is odd"));
/// # }
/// ```
///
/// # Panics
/// If the system refuses what a server needs (memory, a thread, `/proc`), or there are more inputs than a batch may have
/// ([`BATCH_SIZE_LIMIT`](crate::servlet::BATCH_SIZE_LIMIT)). A panic of an input's own `Serialize`, or an outcome's
/// `Deserialize`, goes through, as it does to a caller.
#[track_caller]
pub fn batch<W: BatchWorker>(worker: &mut W, inputs: impl IntoIterator<Item = W::In>) -> Handled<W::Out> {
    batch_with(worker, inputs, super::builder())
}

/// [`batch`] as by a server with these options: its largest payloads, say. The capacity is the number of inputs, whatever the
/// options say.
///
/// ```
/// # use ringmill::{PassThrough, testing};
/// # let (context, config) = ((), ());
/// let mut worker = testing::build::<PassThrough<Vec<u8>>>(config).unwrap();
/// let large = || [vec![7; 100_000]];
/// assert!(testing::batch(&mut worker, large()).outcomes[0].is_err());
/// let server = testing::builder().max_payload(1 << 20);
/// assert!(testing::batch_with(&mut worker, large(), server).outcomes[0].is_ok());
/// ```
///
/// # Panics
/// As [`batch`], and if the options are invalid.
#[track_caller]
pub fn batch_with<W: BatchWorker>(
    worker: &mut W,
    inputs: impl IntoIterator<Item = W::In>,
    server: ServerBuilder,
) -> Handled<W::Out> {
    let inputs: Vec<W::In> = inputs.into_iter().collect();
    if inputs.is_empty() {
        return Handled { outcomes: Vec::new(), gave_up: None };
    }
    let (life, seats) = lend_seats();
    let servlet = lent::of_batches::<W>(inputs.len(), life);
    let lending = match Lending::start(server.capacity(inputs.len()), servlet, seats) {
        Ok(lending) => lending,
        Err(error) => panic!("no batch for the worker: {error}"),
    };
    // All are in the ring before the worker looks, so they are one batch. They wait for this thread alone, without a limit.
    let options = CallOptions::new().timeout(Duration::MAX);
    let send = || inputs.iter().map(|input| lending.server.submit_with(input, options)).collect();
    let sent: Vec<_> = catch_unwind(AssertUnwindSafe(send)).unwrap_or_else(|panic| {
        // What was sent is cancelled. Only a reader of the ring frees it, so that the server can end; the worker sees none.
        lending.first().handle_batch(worker);
        resume_unwind(panic)
    });
    let gave_up = lending.first().handle_batch(worker);
    let outcomes = sent.into_iter().map(|sent| sent?.wait()?.into_owned()).collect();
    Handled { outcomes, gave_up }
}

/// A server whose workers lend their seats to this thread.
struct Lending<In, Out> {
    /// Given back before the server is shut down.
    seats: Vec<LentSeat>,
    server: Server<In, Out>,
}

impl<In: Payload, Out: Payload> Lending<In, Out> {
    fn start(
        options: ServerBuilder,
        servlet: BoxServlet<In, Out>,
        seats: SeatsToLend,
    ) -> Result<Self, StartError> {
        let server = options.handle_signals(false).start(servlet)?;
        Ok(Self { seats: seats.take(), server })
    }

    fn first(&self) -> &LentSeat {
        self.seats.first().expect("a servlet has a worker, which lends its seat before the start returns")
    }
}
