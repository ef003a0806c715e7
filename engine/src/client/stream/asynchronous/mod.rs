//! Streams for async tasks: inputs come asynchronously, outcomes go out in the same order, or as they come.
//!
//! In order, the reactor watches the oldest request only; when its outcome is there, the stream looks at the later
//! requests itself.
//!
//! Each input has an outcome, as in a [`Stream`](crate::stream::Stream). A stream whose inputs are refused one after the
//! other is always ready; so that its task yields to others all the same, it returns `Pending` at intervals and wakes
//! itself.

mod inlet;
mod unordered;

pub use unordered::AsyncUnordered;

use super::feeder::{Progress, Running, pull};
use super::source::{Given, Intake, Kept};
use super::unordered::ByInput;
use super::{Flow, StreamOptions};
use crate::client::pending::Sent;
use crate::client::{Core, Hold};
use crate::error::CallError;
use crate::wire::payload::Payload;
use inlet::AsyncInlet;
use ringmill_shm::arena::Done;
use std::collections::VecDeque;
use std::fmt;
use std::marker::PhantomData;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

/// The outcomes of an asynchronous stream of inputs, in order, one for each. From
/// [`Server::stream_async`](crate::Server::stream_async), for as long as the server is borrowed; or from
/// [`Handle::stream_async`](crate::Handle::stream_async), `'static` if its inputs are.
///
/// As in a [`Stream`](crate::stream::Stream), an error is the outcome of its input, also while the server takes no requests;
/// the stream ends when its source does.
///
/// Dropping it cancels the requests in progress: workers skip inputs that none has begun. A stream that is kept and not
/// polled keeps the permits of its requests: streams that wait for each other (zipped, say) need a
/// [window](StreamOptions::window) each, so that there are permits for all.
#[must_use = "streams do nothing unless they are polled"]
pub struct AsyncStream<'s, S: futures_core::Stream, Out: Payload>(Ordered<'s, S, Given<S::Item>, Out>);

/// The outcomes of an asynchronous stream in order, each with its input. From [`AsyncStream::with_inputs`].
///
/// An item is an input and its outcome, for every input. The outer result is there because an unordered stream can fail
/// as a whole; a stream in order cannot, so it is always `Ok`.
#[must_use = "streams do nothing unless they are polled"]
pub struct AsyncWithInputs<'s, S: futures_core::Stream<Item: Payload>, Out: Payload>(
    Ordered<'s, S, Kept<Given<S::Item>>, Out>,
);

/// An outcome, with what is kept of its input.
type Told<Kept, Out> = (Kept, Result<Out, CallError>);

/// A stream in order, which keeps its inputs if `K` does.
struct Ordered<'s, S: futures_core::Stream, K, Out> {
    running: Running<'s, InOrder>,
    inlet: AsyncInlet<'s, S>,
    intake: K,
    outcome: PhantomData<fn() -> Out>,
}

/// The requests in progress of a stream in order.
#[derive(Debug)]
struct InOrder {
    /// The oldest request, once the stream has waited for it.
    first: Option<Sent>,
    flow: Flow,
}

impl Progress for InOrder {
    fn end(&mut self, core: &Core) {
        if let Some(first) = &mut self.first {
            first.cancel(core);
        }
        self.flow.end(core);
    }
}

impl<S: futures_core::Stream, Out: Payload> fmt::Debug for AsyncStream<'_, S, Out> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AsyncStream").field("in_progress", &self.0.in_progress()).finish_non_exhaustive()
    }
}

impl<S: futures_core::Stream<Item: Payload>, Out: Payload> fmt::Debug for AsyncWithInputs<'_, S, Out> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AsyncWithInputs").field("in_progress", &self.0.in_progress()).finish_non_exhaustive()
    }
}

impl<'s, S: futures_core::Stream<Item: Payload>, Out: Payload> AsyncStream<'s, S, Out> {
    pub(crate) fn new(core: Hold<'s>, inputs: S, options: StreamOptions) -> Self {
        let progress = InOrder { first: None, flow: Flow::new(&core, options) };
        let running = Running::new(core, progress);
        Self(Ordered { running, inlet: AsyncInlet::new(inputs), intake: Given(None), outcome: PhantomData })
    }

    /// Returns each input with its outcome.
    ///
    /// ```no_run
    /// # use ringmill::{BoxError, PassThrough, Server, ThreadServlet};
    /// use futures_util::{StreamExt, stream};
    ///
    /// # async fn example() -> Result<(), BoxError> {
    /// let server = Server::builder("async-inputs").start(ThreadServlet::<PassThrough<u64>>::new(()))?;
    /// let mut outcomes = server.stream_async(stream::iter(0..100)).with_inputs();
    /// while let Some(item) = outcomes.next().await {
    ///     let (input, outcome) = item?; // an error here is of the stream as a whole
    ///     println!("{input}: {}", outcome?);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Panics
    /// If the stream has begun.
    pub fn with_inputs(self) -> AsyncWithInputs<'s, S, Out> {
        self.0.assert_new();
        let Ordered { running, inlet, intake, outcome } = self.0;
        AsyncWithInputs(Ordered {
            running,
            inlet,
            intake: Kept { source: intake, items: VecDeque::new() },
            outcome,
        })
    }

    /// Returns outcomes as they come, each with the index of its input.
    ///
    /// ```no_run
    /// # use ringmill::{BoxError, PassThrough, Server, ThreadServlet};
    /// use futures_util::{StreamExt, stream};
    ///
    /// # async fn example() -> Result<(), BoxError> {
    /// let server = Server::builder("async-unordered").start(ThreadServlet::<PassThrough<u64>>::new(()))?;
    /// let mut outcomes = server.stream_async(stream::iter(0..100)).unordered();
    /// while let Some(item) = outcomes.next().await {
    ///     let (index, outcome) = item?; // an error here is of the stream as a whole
    ///     println!("{index}: {}", outcome?);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Panics
    /// If the stream has begun.
    pub fn unordered(self) -> AsyncUnordered<'s, S, Out> {
        self.0.unordered()
    }
}

impl<'s, S: futures_core::Stream<Item: Payload>, Out: Payload> AsyncWithInputs<'s, S, Out> {
    /// Returns them as they come, not in order.
    ///
    /// # Panics
    /// If the stream has begun.
    pub fn unordered(self) -> AsyncUnordered<'s, S, Out, ByInput> {
        self.0.unordered()
    }
}

impl<'s, S: futures_core::Stream, K, Out: Payload> Ordered<'s, S, K, Out> {
    fn in_progress(&self) -> usize {
        self.running.progress().in_progress()
    }

    fn assert_new(&self) {
        assert!(self.in_progress() == 0 && self.inlet.is_new(), "the stream has begun");
    }

    fn unordered<T: super::Tags<S::Item>>(self) -> AsyncUnordered<'s, S, Out, T> {
        self.assert_new();
        let options = self.running.progress().flow.feeder.options;
        AsyncUnordered::new(self.running.core().clone(), self.inlet, options)
    }
}

impl InOrder {
    fn in_progress(&self) -> usize {
        self.flow.sent.len() + usize::from(self.first.is_some())
    }

    fn is_first_ready(&self, core: &Core) -> bool {
        self.first.as_ref().map_or_else(|| self.flow.is_first_ready(core), |first| first.is_ready(core))
    }

    /// Sends inputs while the window has room and inputs are there.
    fn feed<In: Payload, S: futures_core::Stream<Item = In>>(
        &mut self,
        core: &Core,
        inlet: &mut AsyncInlet<'_, S>,
        intake: &mut impl Intake<In>,
        context: &mut Context<'_>,
    ) {
        let mut pulled = 0;
        while self.in_progress() < self.flow.feeder.window {
            if pulled >= 2 && self.is_first_ready(core) {
                return;
            }
            let input = match inlet.poll_input(context) {
                Poll::Ready(Some(input)) => input,
                // A stream that has ended holds no permit, even if it is kept.
                Poll::Ready(None) => return self.flow.feeder.give_back(core),
                Poll::Pending => return,
            };
            match self.flow.feeder.permit(core) {
                Ok(Some(id)) => {
                    intake.give(input);
                    pull(&mut self.flow, core, intake, id);
                    pulled += 1;
                }
                Ok(None) => return inlet.put_back(input),
                // Outcomes come first.
                Err(_) if self.in_progress() > 0 => return inlet.put_back(input),
                Err(error) => return self.refuse(inlet, intake, input, core.told(error)),
            }
        }
    }

    /// Records the outcome of an input without a permit: this error.
    fn refuse<In: Payload, S: futures_core::Stream<Item = In>>(
        &mut self,
        inlet: &mut AsyncInlet<'_, S>,
        intake: &mut impl Intake<In>,
        input: In,
        error: CallError,
    ) {
        inlet.refused += 1;
        let rest = intake.refuse(input);
        self.flow.fail(error);
        drop(rest);
    }

    /// The oldest outcome; `None` at the end.
    fn poll_first<'c, 's, In: Payload, S: futures_core::Stream<Item = In>>(
        &mut self,
        core: &'c Hold<'s>,
        inlet: &mut AsyncInlet<'s, S>,
        intake: &mut impl Intake<In>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Done<'c>, CallError>>> {
        loop {
            self.feed(core, inlet, intake, context);
            if let Some(first) = &mut self.first {
                let Poll::Ready(done) = first.poll_done(core, context) else {
                    core.doubt();
                    return Poll::Pending;
                };
                self.first = None;
                return Poll::Ready(Some(done));
            }
            if let Some(done) = self.flow.take_if_done(core) {
                return Poll::Ready(Some(Ok(done)));
            }
            self.flow.push(core); // the stream is about to wait for these requests
            if let Some(error) = self.flow.take_failed(core) {
                return Poll::Ready(Some(Err(error)));
            }
            match self.flow.sent.pop_front() {
                Some(id) => {
                    let Flow { feeder, sent, .. } = &mut self.flow;
                    let waited_for = sent.iter().rev().chain([id]);
                    feeder.note_begun(core, waited_for);
                    let now = Instant::now();
                    let until = now.checked_add(feeder.options.timeout);
                    self.first = Some(Sent::new(id, now, Duration::ZERO, until));
                }
                // Nothing is in progress: others have all permits, or no input has come, or the source has ended.
                None => match ready!(inlet.poll_permit(core, &mut self.flow.feeder, context)) {
                    Some((input, Err(error))) => self.refuse(inlet, intake, input, core.told(error)),
                    Some((input, Ok(()))) => inlet.put_back(input),
                    None => return Poll::Ready(None),
                },
            }
        }
    }

    /// In a forked child: the error of the oldest input without an outcome; `None` at the end.
    #[cold]
    fn poll_forked<In: Payload, S: futures_core::Stream<Item = In>>(
        &mut self,
        core: &Core,
        inlet: &mut AsyncInlet<'_, S>,
        intake: &mut impl Intake<In>,
        context: &mut Context<'_>,
    ) -> Poll<Option<CallError>> {
        let first = self.first.take().map(|_| core.forked());
        if let Some(error) = first.or_else(|| self.flow.take_failed(core)) {
            return Poll::Ready(Some(error));
        }
        if let Some(input) = ready!(inlet.poll_input(context)) {
            self.refuse(inlet, intake, input, core.forked());
        }
        Poll::Ready(self.flow.take_failed(core))
    }
}

impl<In: Payload, S: futures_core::Stream<Item = In>, K: Intake<In>, Out: Payload> Ordered<'_, S, K, Out> {
    /// The oldest outcome, with what is kept of its input; `None` at the end.
    fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<Told<K::Kept, Out>>> {
        let Self { running, inlet, intake, .. } = self;
        let (core, progress) = running.parts();
        ready!(inlet.poll_turn(context));
        let polled = if core.birth.is_here() {
            progress.poll_first(core, inlet, intake, context)
        } else {
            progress.poll_forked(core, inlet, intake, context).map(|error| error.map(Err))
        };
        if !matches!(polled, Poll::Ready(Some(Err(_)))) {
            inlet.refused = 0;
        }
        let Some(done) = ready!(polled) else { return Poll::Ready(None) };
        // Before the outcome is read: if its own code panics, the next outcome still meets the next input.
        let kept = intake.first();
        let more = !inlet.is_over();
        let outcome = done.and_then(|done| progress.flow.feeder.value(core, done, more));
        Poll::Ready(Some((kept, outcome)))
    }
}

// The inlet's box pins the inputs; the streams themselves pin nothing.
impl<S: futures_core::Stream, Out: Payload> Unpin for AsyncStream<'_, S, Out> {}
impl<S: futures_core::Stream<Item: Payload>, Out: Payload> Unpin for AsyncWithInputs<'_, S, Out> {}

impl<In: Payload, S: futures_core::Stream<Item = In>, Out: Payload> futures_core::Stream
    for AsyncStream<'_, S, Out>
{
    type Item = Result<Out, CallError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.poll_next(context).map(|item| item.map(|((), outcome)| outcome))
    }
}

impl<In: Payload, S: futures_core::Stream<Item = In>, Out: Payload> futures_core::Stream
    for AsyncWithInputs<'_, S, Out>
{
    type Item = Result<(In, Result<Out, CallError>), CallError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.poll_next(context).map(|item| item.map(Ok))
    }
}
