//! Streams for async tasks: inputs come asynchronously, outcomes go out in the same order.
//!
//! The reactor watches the oldest request only; when its outcome is there, the stream looks at the later requests
//! itself.
//!
//! Each input has an outcome, as in a [`Stream`](crate::stream::Stream). A stream whose inputs are refused one after the other
//! is always ready; so that its task yields to others all the same, it returns `Pending` at intervals and wakes itself.

use super::feeder::pull;
use super::source::Given;
use super::{FAILED, Flow, StreamOptions};
use crate::client::Core;
use crate::client::pending::Pending;
use crate::client::reactor::PermitWait;
use crate::error::CallError;
use crate::wire::payload::Payload;
use ringmill_shm::arena::Done;
use std::fmt;
use std::marker::PhantomData;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

/// How many inputs may be refused one after the other before the stream yields.
const REFUSED_AT_ONCE: u32 = 32;

/// The outcomes of an asynchronous stream of inputs, in order, one for each. From
/// [`Server::stream_async`](crate::Server::stream_async).
///
/// As in a [`Stream`](crate::stream::Stream), an error is the outcome of its input, also while the server takes no requests;
/// the stream ends when its source does.
///
/// Dropping it cancels the requests in progress: workers skip inputs that none has begun. A stream that is kept and not
/// polled keeps the permits of its requests: streams that wait for each other (zipped, say) need a
/// [window](StreamOptions::window) each, so that there are permits for all.
#[must_use = "streams do nothing unless they are polled"]
pub struct AsyncStream<'s, S: futures_core::Stream, Out: Payload> {
    /// `None` at the end.
    inputs: Option<Pin<Box<S>>>,
    /// An input that has no permit yet.
    input: Option<S::Item>,
    /// The oldest request, once the stream has waited for it.
    first: Option<Pending<'s, Out>>,
    in_line: Option<PermitWait<'s>>,
    /// How many inputs were refused since the stream last waited.
    refused: u32,
    flow: Flow<'s>,
    outcome: PhantomData<fn() -> Out>,
}

// The box pins the inputs; the stream itself pins nothing.
impl<S: futures_core::Stream, Out: Payload> Unpin for AsyncStream<'_, S, Out> {}

impl<S: futures_core::Stream, Out: Payload> fmt::Debug for AsyncStream<'_, S, Out> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AsyncStream").field("in_progress", &self.in_progress()).finish_non_exhaustive()
    }
}

impl<'s, S: futures_core::Stream, Out: Payload> AsyncStream<'s, S, Out> {
    pub(crate) fn new(core: &'s Core, inputs: S, options: StreamOptions) -> Self {
        Self {
            inputs: Some(Box::pin(inputs)),
            input: None,
            first: None,
            in_line: None,
            refused: 0,
            flow: Flow::new(core, options),
            outcome: PhantomData,
        }
    }

    fn in_progress(&self) -> usize {
        self.flow.sent.len() + usize::from(self.first.is_some())
    }

    fn is_first_ready(&self) -> bool {
        self.first.as_ref().map_or_else(|| self.flow.is_first_ready(), Pending::is_ready)
    }

    /// The next input: the one that had no permit before, or one from the source.
    fn poll_input(&mut self, context: &mut Context<'_>) -> Poll<Option<S::Item>> {
        if let Some(input) = self.input.take() {
            return Poll::Ready(Some(input));
        }
        let Some(inputs) = &mut self.inputs else { return Poll::Ready(None) };
        let input = ready!(inputs.as_mut().poll_next(context));
        if input.is_none() {
            self.flow.feeder.give_back(); // a stream that has ended holds no permit, even if it is kept
            drop(self.inputs.take());
        }
        Poll::Ready(input)
    }
}

impl<'s, In: Payload, S: futures_core::Stream<Item = In>, Out: Payload> AsyncStream<'s, S, Out> {
    /// Sends inputs while the window has room and inputs are there.
    fn feed(&mut self, context: &mut Context<'_>) {
        let mut pulled = 0;
        while self.in_progress() < self.flow.feeder.window {
            if pulled >= 2 && self.is_first_ready() {
                return;
            }
            let Poll::Ready(Some(input)) = self.poll_input(context) else { return };
            match self.flow.feeder.permit() {
                Ok(Some(id)) => {
                    pull(&mut self.flow, &mut Given(Some(input)), id);
                    pulled += 1;
                }
                Ok(None) => {
                    self.input = Some(input);
                    return;
                }
                // Outcomes come first.
                Err(_) if self.in_progress() > 0 => {
                    self.input = Some(input);
                    return;
                }
                Err(error) => {
                    self.refuse(input, error);
                    return;
                }
            }
        }
    }

    /// Records the outcome of an input without a permit: this error.
    fn refuse(&mut self, input: In, error: CallError) {
        self.refused += 1;
        self.flow.fail(error);
        drop(input);
    }

    /// The oldest outcome; `None` at the end.
    fn poll_first(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Done<'s>, CallError>>> {
        loop {
            self.feed(context);
            if let Some(first) = &mut self.first {
                let Poll::Ready(done) = first.poll_done(context) else {
                    self.flow.feeder.core.doubt();
                    return Poll::Pending;
                };
                self.first = None;
                return Poll::Ready(Some(done));
            }
            if let Some(done) = self.flow.take_if_done() {
                return Poll::Ready(Some(Ok(done)));
            }
            self.flow.push(); // the stream is about to wait for these requests
            if let Some(error) = self.flow.take_failed() {
                return Poll::Ready(Some(Err(error)));
            }
            match self.flow.sent.pop_front() {
                Some(id) => {
                    let Flow { feeder, sent, .. } = &mut self.flow;
                    feeder.note_begun(sent.iter().rev().copied().filter(|&id| id != FAILED).chain([id]));
                    let (core, now) = (feeder.core, Instant::now());
                    let until = now.checked_add(feeder.options.timeout);
                    self.first = Some(Pending::of_sent(core, id, now, Duration::ZERO, until));
                }
                // Nothing is in progress: others have all permits, or no input has come, or the source has ended.
                None if self.input.is_some() => {
                    if let Err(error) = ready!(self.poll_permit(context))
                        && let Some(input) = self.input.take()
                    {
                        self.refuse(input, error);
                    }
                }
                None if self.inputs.is_some() => return Poll::Pending,
                None => return Poll::Ready(None),
            }
        }
    }

    /// In a forked child: the error of the oldest input without an outcome; `None` at the end.
    #[cold]
    fn poll_forked(&mut self, context: &mut Context<'_>) -> Poll<Option<CallError>> {
        let first = self.first.take().map(|_| self.flow.feeder.core.forked());
        if let Some(error) = first.or_else(|| self.flow.take_failed()) {
            return Poll::Ready(Some(error));
        }
        if let Some(input) = ready!(self.poll_input(context)) {
            self.refuse(input, self.flow.feeder.core.forked());
        }
        Poll::Ready(self.flow.take_failed())
    }

    /// Waits for a permit for the next input.
    fn poll_permit(&mut self, context: &Context<'_>) -> Poll<Result<(), CallError>> {
        let feeder = &mut self.flow.feeder;
        let in_line = match &mut self.in_line {
            Some(in_line) => in_line,
            none => {
                let begun = Instant::now();
                let until = begun.checked_add(feeder.options.timeout);
                none.insert(PermitWait::begin(feeder.core, begun, until)?)
            }
        };
        let permit = ready!(in_line.poll(context));
        self.in_line = None;
        Poll::Ready(permit.map(|(id, _waited)| feeder.keep(id)))
    }
}

impl<In: Payload, S: futures_core::Stream<Item = In>, Out: Payload> futures_core::Stream
    for AsyncStream<'_, S, Out>
{
    type Item = Result<Out, CallError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.refused >= REFUSED_AT_ONCE {
            self.refused = 0;
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        let polled = if self.flow.feeder.is_ours() {
            self.poll_first(context)
        } else {
            self.poll_forked(context).map(|error| error.map(Err))
        };
        if !matches!(polled, Poll::Ready(Some(Err(_)))) {
            self.refused = 0;
        }
        let Some(done) = ready!(polled) else { return Poll::Ready(None) };
        let more = self.inputs.is_some();
        Poll::Ready(Some(done.and_then(|done| self.flow.feeder.value(done, more))))
    }
}
