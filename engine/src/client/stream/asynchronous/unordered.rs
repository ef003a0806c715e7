//! Asynchronous streams whose outcomes come as they are ready.
//!
//! As the [blocking ones](super::super::unordered), with a task in place of a thread. The reactor watches every request,
//! and wakes the task also when it has waited for as long as the timeout.

use super::super::feeder::{Progress, Running, pull_and_keep};
use super::super::source::Given;
use super::super::unordered::{AnyOrder, ByIndex, LOOK, Sleeper, Tags};
use super::inlet::AsyncInlet;
use crate::client::stream::StreamOptions;
use crate::client::{Core, Hold};
use crate::error::CallError;
use crate::wire::payload::Payload;
use std::fmt;
use std::marker::PhantomData;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

/// The outcomes of an asynchronous stream as they come, each with the index of its input, or with the input itself. From
/// [`AsyncStream::unordered`](crate::stream::AsyncStream::unordered) and
/// [`AsyncWithInputs::unordered`](crate::stream::AsyncWithInputs::unordered).
///
/// An item is such a pair, for every input; or an error of the stream as a whole, which belongs to no input: the thread
/// that wakes futures could not be started. The timeout is how long to wait for any outcome; when it is over, the oldest
/// input ends with [`CallError::Timeout`].
///
/// Dropping it cancels the requests in progress: workers skip inputs that none has begun.
#[must_use = "streams do nothing unless they are polled"]
pub struct AsyncUnordered<'s, S: futures_core::Stream, Out: Payload, T: Tags<S::Item> = ByIndex> {
    running: Running<'s, Waiting<S::Item, T>>,
    inlet: AsyncInlet<'s, S>,
    outcome: PhantomData<fn() -> Out>,
}

/// The requests in progress, and since when the task waits for an outcome.
struct Waiting<Item, T: Tags<Item>> {
    sent: AnyOrder<Item, T>,
    since: Option<Instant>,
}

impl<Item, T: Tags<Item>> Progress for Waiting<Item, T> {
    fn end(&mut self, core: &Core) {
        self.sent.end(core);
    }
}

// The inlet's box pins the inputs; the stream itself pins nothing.
impl<S: futures_core::Stream, Out: Payload, T: Tags<S::Item>> Unpin for AsyncUnordered<'_, S, Out, T> {}

impl<S: futures_core::Stream, Out: Payload, T: Tags<S::Item>> fmt::Debug for AsyncUnordered<'_, S, Out, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let in_progress = self.running.progress().sent.in_progress;
        f.debug_struct("AsyncUnordered").field("in_progress", &in_progress).finish_non_exhaustive()
    }
}

impl<'s, S: futures_core::Stream, Out: Payload, T: Tags<S::Item>> AsyncUnordered<'s, S, Out, T> {
    pub(super) fn new(core: Hold<'s>, inlet: AsyncInlet<'s, S>, options: StreamOptions) -> Self {
        let waiting = Waiting { sent: AnyOrder::new(&core, options), since: None };
        Self { running: Running::new(core, waiting), inlet, outcome: PhantomData }
    }
}

impl<In: Payload, T: Tags<In>> Waiting<In, T> {
    /// Sends inputs while the window has room and inputs are there, only a few if an outcome is ready.
    fn feed<S: futures_core::Stream<Item = In>>(
        &mut self,
        core: &Core,
        inlet: &mut AsyncInlet<'_, S>,
        mut is_ready: bool,
        context: &mut Context<'_>,
    ) {
        let Self { sent, .. } = self;
        let mut pulled = 0;
        while sent.in_progress < sent.feeder.window {
            is_ready |= pulled % LOOK == LOOK - 1 && sent.find_done(core).is_some();
            if pulled >= 2 && (is_ready || !sent.failed.is_empty()) {
                return;
            }
            let input = match inlet.poll_input(context) {
                Poll::Ready(Some(input)) => input,
                // A stream that has ended holds no permit, even if it is kept.
                Poll::Ready(None) => return sent.feeder.give_back(core),
                Poll::Pending => return,
            };
            match sent.feeder.permit(core) {
                Ok(Some(id)) => {
                    pull_and_keep(sent, core, &mut Given(Some(input)), id);
                    pulled += 1;
                }
                Ok(None) => return inlet.put_back(input),
                // Outcomes come first.
                Err(_) if sent.in_progress > 0 => return inlet.put_back(input),
                Err(error) => return self.refuse(inlet, input, core.told(error)),
            }
        }
    }

    fn refuse<S: futures_core::Stream<Item = In>>(
        &mut self,
        inlet: &mut AsyncInlet<'_, S>,
        input: In,
        error: CallError,
    ) {
        inlet.refused += 1;
        drop(self.sent.refuse(input, error));
    }

    /// Ready when an outcome is there, or an input has failed.
    fn poll_wait(&mut self, core: &Core, context: &Context<'_>) -> Poll<Result<(), CallError>> {
        let Self { sent, since } = self;
        sent.push(core);
        if sent.has_failed(core) {
            return Poll::Ready(Ok(()));
        }
        let reactor = core.reactor()?;
        let begun = *since.get_or_insert_with(Instant::now);
        let timeout = sent.feeder.options.timeout;
        let total = begun.elapsed();
        if total >= timeout && sent.find_done(core).is_none() {
            sent.fail_oldest(core, CallError::Timeout { enqueueing: Duration::ZERO, total });
            *since = None;
            return Poll::Ready(Ok(()));
        }
        if !sent.watch(core, reactor, Sleeper::Task(context.waker().clone()), begun.checked_add(timeout)) {
            return Poll::Ready(Ok(()));
        }
        core.doubt();
        sent.read_inbox();
        match sent.find_done(core) {
            Some(_) => Poll::Ready(Ok(())),
            None => Poll::Pending,
        }
    }

    /// In a forked child: an input without an outcome, and its error; `None` at the end.
    #[cold]
    fn poll_forked<S: futures_core::Stream<Item = In>>(
        &mut self,
        core: &Core,
        inlet: &mut AsyncInlet<'_, S>,
        context: &mut Context<'_>,
    ) -> Poll<Option<(T::Tag, CallError)>> {
        loop {
            if let Some(failed) = self.sent.failed.pop_front() {
                return Poll::Ready(Some(failed));
            }
            if self.sent.in_progress > 0 {
                self.sent.fail_oldest(core, core.forked());
                continue;
            }
            let Some(input) = ready!(inlet.poll_input(context)) else { return Poll::Ready(None) };
            self.refuse(inlet, input, core.forked());
        }
    }
}

impl<In: Payload, S: futures_core::Stream<Item = In>, Out: Payload, T: Tags<In>> futures_core::Stream
    for AsyncUnordered<'_, S, Out, T>
{
    type Item = Result<(T::Tag, Result<Out, CallError>), CallError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let Self { running, inlet, .. } = &mut *self;
        let (core, waiting) = running.parts();
        ready!(inlet.poll_turn(context));
        loop {
            if !core.birth.is_here() {
                let failed = ready!(waiting.poll_forked(core, inlet, context));
                return Poll::Ready(failed.map(|(tag, error)| Ok((tag, Err(error)))));
            }
            let found = waiting.sent.find_done(core);
            waiting.feed(core, inlet, found.is_some(), context);
            if let Some((tag, error)) = waiting.sent.failed.pop_front() {
                return Poll::Ready(Some(Ok((tag, Err(error)))));
            }
            inlet.refused = 0;
            let found = found.or_else(|| waiting.sent.find_done(core));
            if let Some((tag, done)) = found.and_then(|id| waiting.sent.take(core, id)) {
                waiting.since = None;
                // The request is taken: if the outcome's own code panics, this was its turn.
                let outcome = waiting.sent.feeder.value(core, done, !inlet.is_over());
                return Poll::Ready(Some(Ok((tag, outcome))));
            }
            if waiting.sent.in_progress > 0 {
                match ready!(waiting.poll_wait(core, context)) {
                    Err(error) if core.birth.is_here() => return Poll::Ready(Some(Err(error))),
                    _ => continue,
                }
            }
            // Nothing is in progress: others have all permits, or no input has come, or the source has ended.
            match ready!(inlet.poll_permit(core, &mut waiting.sent.feeder, context)) {
                Some((input, Err(error))) => waiting.refuse(inlet, input, core.told(error)),
                Some((input, Ok(()))) => inlet.put_back(input),
                None => return Poll::Ready(None),
            }
        }
    }
}
