//! Calls whose worker emits partials before the outcome.
//!
//! # Invariants
//!
//! * `[closed first]`: the ring of a request's partials is closed before the request is given back or cancelled, by its
//!   holder: [`Core::cancel`] closes it, and a [`StreamingCall`] before it reads the outcome. So the ring is the call's as
//!   long as it holds the request.
#![expect(unsafe_code, reason = "a view of a partial that the guard holds")]

use super::core::{Core, waited};
use super::hand::InHand;
use super::hold::Hold;
use super::options::CallOptions;
use super::pending::Sent;
use super::reply::Reply;
use super::watch::{Limit, Watched};
use crate::error::CallError;
use crate::policy::patience::Pace;
use crate::wire::ReadError;
use crate::wire::payload::{AsInput, Payload, Validated, kind_of, owned};
use futures_core::Stream;
use ringmill_shm::arena::Partials;
use ringmill_shm::arena::Task;
use rkyv::Archived;
use std::fmt;
use std::marker::PhantomData;
use std::ops::Deref;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

/// A request whose worker [emits](crate::worker::Item::emit) partials of type `P`, and then answers with an `Out`. From
/// [`Server::call_streaming`](crate::Server::call_streaming), or [`Handle::call_streaming`](crate::Handle::call_streaming),
/// which is `'static`.
///
/// It is an iterator over the partials, in order, up to the outcome. [`next_partial`](Self::next_partial) reads a partial
/// where it lies. [`outcome`](Self::outcome) waits for the outcome, and skips partials that are left.
/// [`into_async`](Self::into_async) gives the same to an executor.
///
/// The request's timeout is for all of it. Dropping the call cancels the request: the worker learns it at its next partial.
#[must_use = "dropping it cancels the request"]
pub struct StreamingCall<'s, P: Payload, Out: Payload> {
    core: Hold<'s>,
    sent: Sent,
    /// No more partials will come.
    ended: bool,
    types: PhantomData<fn() -> (P, Out)>,
}

impl<P: Payload, Out: Payload> fmt::Debug for StreamingCall<'_, P, Out> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StreamingCall").field("sent", &self.sent).finish_non_exhaustive()
    }
}

/// A partial, where it lies in the segment. Dereferences to the archived value; dropping it makes room for another one.
pub struct Partial<'p, P: Payload> {
    core: &'p Core,
    partials: Partials<'p>,
    view: Validated<P>,
}

impl<P: Payload> Partial<'_, P> {
    /// The value, deserialised.
    ///
    /// # Errors
    /// [`CallError::Corrupt`] if the type's own `Deserialize` refuses a validated value, and [`CallError::Forked`] in a
    /// process forked from the server's.
    pub fn into_owned(self) -> Result<P, CallError> {
        self.core.own()?;
        let value = owned(&*self);
        self.core.own()?; // the type's own code has run
        value.map_err(|error| ReadError::Refused(error).into())
    }
}

impl<P: Payload> Deref for Partial<'_, P> {
    type Target = Archived<P>;

    fn deref(&self) -> &Archived<P> {
        // SAFETY: the partial stays where it is until it is taken, in our drop: no other code takes partials of the
        // call, which is borrowed mutably.
        unsafe { self.view.get() }
    }
}

impl<P: Payload> Drop for Partial<'_, P> {
    fn drop(&mut self) {
        if self.core.birth.is_here() {
            self.partials.advance();
        }
    }
}

impl<P: Payload> fmt::Debug for Partial<'_, P>
where
    Archived<P>: fmt::Debug,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

/// What a look at a request shows.
enum News {
    Partial,
    Outcome,
}

fn look(task: Task<'_>, partials: &Partials<'_>) -> Option<News> {
    let is_done = task.outcome().is_some(); // then all partials are there
    match partials.is_ready() {
        true => Some(News::Partial),
        false => is_done.then_some(News::Outcome),
    }
}

impl<'s, P: Payload, Out: Payload> StreamingCall<'s, P, Out> {
    /// The ring, of a request that is held here.
    fn partials<'c>(core: &'c Core, sent: &Sent) -> (Task<'c>, Partials<'c>) {
        let task = sent.task(core);
        (task, task.partials().expect("it was opened"))
    }

    /// Holds the request here again, if it is watched by the reactor.
    fn hold(&mut self) -> Result<(), CallError> {
        self.sent.own(&self.core).inspect_err(|_| self.ended = true)?;
        match self.sent.take_back(&self.core) {
            true => Ok(()),
            false => Err(self.late()),
        }
    }

    /// The reactor has taken the request.
    fn late(&mut self) -> CallError {
        self.ended = true;
        self.sent.late(&self.core)
    }

    /// Waits for a partial; false if the outcome is there instead.
    fn await_partial(&mut self) -> Result<bool, CallError> {
        if self.ended {
            return Ok(false);
        }
        self.hold()?;
        let (core, until) = (&*self.core, self.sent.until);
        let (task, partials) = Self::partials(core, &self.sent);
        let news = core.spin(Pace::One, || look(task, &partials)).or_else(|| {
            let sleep = |limit| task.sleep_for_partial(&partials, limit);
            core.sleep_for(until, || look(task, &partials), sleep)
        });
        match news {
            Some(News::Partial) => Ok(true),
            Some(News::Outcome) => {
                self.ended = true;
                Ok(false)
            }
            None => {
                self.ended = true;
                self.sent.own(&self.core)?; // a signal handler forked during the sleep
                Err(self.sent.give_up(&self.core))
            }
        }
    }

    /// The partial that is there, if it is of the right type and valid; else it is skipped.
    fn first<'p>(core: &'p Core, sent: &Sent) -> Result<Option<Partial<'p, P>>, CallError> {
        let (_, mut partials) = Self::partials(core, sent);
        let read = match partials.first().map_err(ReadError::from)? {
            None => return Ok(None),
            Some((kind, _)) if kind != kind_of::<P>() => {
                Err(CallError::WrongPartial { expected: std::any::type_name::<P>() })
            }
            Some((_, bytes)) => Validated::<P>::of_bytes(bytes).map_err(CallError::from),
        };
        match read {
            Ok(view) => Ok(Some(Partial { core, partials, view })),
            Err(error) => {
                partials.advance();
                Err(error)
            }
        }
    }

    /// Waits for the next partial, and reads it where it lies; `None` when the outcome is there, and after an error that
    /// ends the request.
    ///
    /// # Errors
    /// [`CallError::Timeout`] once the request's time is over; [`CallError::WrongPartial`] and [`CallError::Corrupt`] for a
    /// partial that cannot be read, after which the next one comes.
    pub fn next_partial(&mut self) -> Option<Result<Partial<'_, P>, CallError>> {
        match self.await_partial() {
            Ok(true) => Self::first(&self.core, &self.sent).transpose(),
            Ok(false) => None,
            Err(error) => Some(Err(error)),
        }
    }

    /// Waits for the outcome; partials that are left are skipped, and later ones not emitted.
    ///
    /// # Errors
    /// See [`CallError`].
    pub fn outcome(mut self) -> Result<Reply<'s, Out>, CallError> {
        self.skip_rest()?;
        loop {
            if let Some(done) = self.sent.await_done(&self.core, Duration::MAX) {
                return done.and_then(|done| self.sent.open(&self.core, done));
            }
        }
    }

    /// The same call for an executor: its partials are a [`Stream`](futures_core::Stream), its outcome a future.
    pub fn into_async(self) -> AsyncStreamingCall<'s, P, Out> {
        AsyncStreamingCall(self)
    }

    fn skip_rest(&mut self) -> Result<(), CallError> {
        if self.sent.taken {
            return Err(self.sent.late(&self.core)); // its time was over before
        }
        self.hold()?;
        self.ended = true;
        Self::partials(&self.core, &self.sent).1.close(); // [closed first]
        Ok(())
    }
}

impl<P: Payload, Out: Payload> Iterator for StreamingCall<'_, P, Out> {
    type Item = Result<P, CallError>;

    /// [`next_partial`](StreamingCall::next_partial), deserialised.
    fn next(&mut self) -> Option<Self::Item> {
        Some(self.next_partial()?.and_then(Partial::into_owned))
    }
}

/// A [`StreamingCall`] for an executor, of whatever kind: a [`Stream`](futures_core::Stream) of partials, in order, up to the
/// outcome. From [`StreamingCall::into_async`].
#[must_use = "dropping it cancels the request"]
pub struct AsyncStreamingCall<'s, P: Payload, Out: Payload>(StreamingCall<'s, P, Out>);

impl<P: Payload, Out: Payload> fmt::Debug for AsyncStreamingCall<'_, P, Out> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl<'s, P: Payload, Out: Payload> AsyncStreamingCall<'s, P, Out> {
    /// Waits for the outcome; partials that are left are skipped, and later ones not emitted.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn outcome(self) -> Result<Reply<'s, Out>, CallError> {
        let mut call = self.0;
        call.skip_rest()?;
        std::future::poll_fn(|context| {
            let StreamingCall { core, sent, .. } = &mut call;
            sent.poll_done(core, context).map(|done| done.and_then(|done| sent.open(core, done)))
        })
        .await
    }
}

impl<P: Payload, Out: Payload> Stream for AsyncStreamingCall<'_, P, Out> {
    type Item = Result<P, CallError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut self.0;
        loop {
            if this.ended {
                return Poll::Ready(None);
            }
            if let Err(error) = this.hold() {
                return Poll::Ready(Some(Err(error)));
            }
            let (task, partials) = StreamingCall::<P, Out>::partials(&this.core, &this.sent);
            match look(task, &partials) {
                Some(News::Partial) => {
                    let first = StreamingCall::<P, Out>::first(&this.core, &this.sent);
                    let first = first.and_then(|first| first.map(Partial::into_owned).transpose());
                    return Poll::Ready(first.transpose());
                }
                Some(News::Outcome) => this.ended = true,
                None => {
                    let reactor = match this.core.reactor() {
                        Ok(reactor) => reactor,
                        Err(error) => return Poll::Ready(Some(Err(error))),
                    };
                    let limit = this.sent.until.map_or(Limit::None, Limit::Cancel);
                    match reactor.watch(task, &mut this.sent.ticket, limit, context.waker()) {
                        // The waker is there; a partial may have come before it.
                        Watched::Waiting if !task.has_partial() => return Poll::Pending,
                        Watched::Waiting => {}
                        // The guard is one of a request that we hold; `outcome` makes another.
                        Watched::Done(_) => this.sent.ticket = 0,
                        Watched::TimeOver => return Poll::Ready(Some(Err(this.late()))),
                    }
                }
            }
        }
    }
}

impl<P: Payload, Out: Payload> Drop for StreamingCall<'_, P, Out> {
    fn drop(&mut self) {
        self.sent.cancel(&self.core);
    }
}

impl<'s> Hold<'s> {
    /// Sends an input whose worker may emit partials.
    pub(crate) fn call_streaming<In: Payload, P: Payload, Out: Payload>(
        self,
        input: impl AsInput<In>,
        options: CallOptions,
    ) -> Result<StreamingCall<'s, P, Out>, CallError> {
        if self.segment.shape().partials.slots == 0 {
            return Err(self.told(CallError::NoPartials));
        }
        let begun = Instant::now();
        let (id, clock) = self.acquire(self.in_time(options, begun)?)?;
        let mut filled = self.fill(id, input)?;
        self.own()?; // [own process]: user code has filled it
        filled.filling().open_partials();
        crash_point!("streaming.opened");
        let sent = Sent::send(&self, filled, begun, waited(clock), options)?;
        Ok(StreamingCall { core: self, sent, ended: false, types: PhantomData })
    }
}
