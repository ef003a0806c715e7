//! Requests whose caller does not wait at once: a later outcome, and a call as a future.
//!
//! # Protocol
//!
//! A [`Pending`] that has not been polled as a future alone holds its request. From the first poll that finds no
//! outcome on, the [`reactor`](crate::client::reactor) watches the request. From then on the `Pending` must take it
//! back from the reactor; if it cannot, the time was over and the reactor has taken the request.

use super::core::{Core, Filled, waited};
use super::hand::InHand;
use super::hold::Hold;
use super::options::{CallOptions, WhenFull};
use super::reactor::PermitWait;
use super::reply::Reply;
use super::watch::{Limit, Watched};
use crate::error::CallError;
use crate::policy::patience::Pace;
use crate::wire::payload::{AsInput, Payload};
use ringmill_shm::arena::{Done, Task};
use ringmill_shm::sys::time::now_ns;
use std::fmt;
use std::future::Future;
use std::marker::PhantomData;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

/// A request that was sent. Its outcome can be polled, waited for, or awaited as a future, under any executor. From
/// [`Server::submit`](crate::Server::submit), for as long as the server is borrowed; or from
/// [`Handle::submit`](crate::Handle::submit), `'static`.
///
/// Dropping it cancels the request: workers skip the request if none has begun it, and the permit is given back. A
/// `Pending` that is kept keeps its permit, even after its time is over, until it is looked at. Once it has been polled
/// as a future, the permit is given back when the time is over, even without another poll.
#[must_use = "dropping it cancels the request"]
pub struct Pending<'s, Out: Payload> {
    core: Hold<'s>,
    sent: Sent,
    outcome: PhantomData<fn() -> Out>,
}

impl<Out: Payload> fmt::Debug for Pending<'_, Out> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Sent { id, taken, .. } = &self.sent;
        f.debug_struct("Pending").field("id", id).field("taken", taken).finish_non_exhaustive()
    }
}

impl<'s, Out: Payload> Pending<'s, Out> {
    pub(crate) fn new(core: Hold<'s>, sent: Sent) -> Self {
        Self { core, sent, outcome: PhantomData }
    }

    /// Whether [`try_take`](Self::try_take) would return an outcome or an error.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.sent.is_ready(&self.core)
    }

    /// The outcome, or an error that it has not come in time; `None` if neither is there yet, or was taken.
    ///
    /// # Errors
    /// In the returned value: see [`CallError`].
    pub fn try_take(&mut self) -> Option<Result<Reply<'s, Out>, CallError>> {
        let done = self.sent.try_done(&self.core)?;
        Some(done.and_then(|done| self.sent.open(&self.core, done)))
    }

    /// Waits for the outcome.
    ///
    /// # Errors
    /// See [`CallError`].
    ///
    /// # Panics
    /// If the outcome has been taken.
    pub fn wait(mut self) -> Result<Reply<'s, Out>, CallError> {
        assert!(!self.sent.taken, "the outcome has been taken");
        loop {
            if let Some(outcome) = self.wait_timeout(Duration::MAX) {
                return outcome;
            }
        }
    }

    /// Waits for the outcome, at most for this limit. `None` if it has not come by then, and the request's own time is
    /// not over: the request goes on. `None` also if the outcome has been taken.
    ///
    /// # Errors
    /// In the returned value: see [`CallError`].
    pub fn wait_timeout(&mut self, limit: Duration) -> Option<Result<Reply<'s, Out>, CallError>> {
        let done = self.sent.await_done(&self.core, limit)?;
        Some(done.and_then(|done| self.sent.open(&self.core, done)))
    }
}

impl<'s, Out: Payload> Future for Pending<'s, Out> {
    type Output = Result<Reply<'s, Out>, CallError>;

    /// # Panics
    /// If the outcome has been taken.
    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let Self { core, sent, .. } = &mut *self;
        sent.poll_done(core, context).map(|done| done.and_then(|done| sent.open(core, done)))
    }
}

impl<Out: Payload> Drop for Pending<'_, Out> {
    fn drop(&mut self) {
        self.sent.cancel(&self.core);
    }
}

/// A request that was sent to a core, which is passed to each function. It is [cancelled](Self::cancel), not dropped.
#[derive(Debug)]
pub(crate) struct Sent {
    id: u32,
    /// 0: the request is held here alone; else the reactor watches it under this ticket.
    pub(super) ticket: u64,
    pub(super) taken: bool,
    begun: Instant,
    enqueueing: Duration,
    pub(super) until: Option<Instant>,
}

impl Sent {
    /// Sends a filled request.
    pub(crate) fn send(
        core: &Core,
        mut filled: Filled<'_>,
        begun: Instant,
        enqueueing: Duration,
        options: CallOptions,
    ) -> Result<Self, CallError> {
        core.own()?; // [own process]: user code has filled it
        let now_ns = now_ns();
        if let Some(deadline) = options.deadline {
            // `Instant` is the same clock, but does not give its nanoseconds.
            let left = deadline.saturating_duration_since(Instant::now()).as_nanos();
            filled.filling().limit(now_ns.saturating_add(u64::try_from(left).unwrap_or(u64::MAX)));
        }
        let task = match options.trace {
            None => core.send(filled)?,
            Some(context) => core.send_with_context(filled, context)?,
        };
        task.set_begun_ns(now_ns);
        core.doubt();
        Ok(Self::new(task.id(), begun, enqueueing, options.until(begun)))
    }

    /// A request that was sent, and has no other holder.
    pub(crate) fn new(id: u32, begun: Instant, enqueueing: Duration, until: Option<Instant>) -> Self {
        Self { id, ticket: 0, taken: false, begun, enqueueing, until }
    }

    /// Whether [`try_done`](Self::try_done) would return an outcome or an error.
    pub(crate) fn is_ready(&self, core: &Core) -> bool {
        // In a forked child there is an error to take.
        !self.taken && (!core.birth.is_here() || self.is_answered(core) || self.is_late(core))
    }

    fn is_answered(&self, core: &Core) -> bool {
        match (self.ticket, core.reactor.get()) {
            (0, _) | (_, None) => self.task(core).is_done(),
            (ticket, Some(reactor)) => reactor.is_over(self.task(core), ticket),
        }
    }

    pub(super) fn is_late(&self, core: &Core) -> bool {
        self.until.is_some_and(|until| Instant::now() >= until) || core.gone().is_some()
    }

    /// In a forked child there is only the error to take, once.
    pub(super) fn own(&mut self, core: &Core) -> Result<(), CallError> {
        core.own().inspect_err(|_| self.taken = true)
    }

    /// Ends the reactor's watch, if there is one; false if the reactor has taken the request.
    pub(super) fn take_back(&mut self, core: &Core) -> bool {
        core.end_watch(self.id, std::mem::take(&mut self.ticket))
    }

    pub(super) fn task<'c>(&self, core: &'c Core) -> Task<'c> {
        Task::new(&core.segment, self.id).expect("it was sent")
    }

    /// See [`Pending::try_take`].
    fn try_done<'c>(&mut self, core: &'c Core) -> Option<Result<Done<'c>, CallError>> {
        if self.taken {
            return None;
        }
        if let Err(error) = self.own(core) {
            return Some(Err(error));
        }
        let task = self.task(core);
        let watched = match (self.ticket, core.reactor.get()) {
            (0, _) | (_, None) => task.outcome().map_or(Watched::Waiting, Watched::Done),
            (ticket, Some(reactor)) => reactor.look(task, ticket),
        };
        match watched {
            Watched::Waiting if self.ticket == 0 && self.is_late(core) => Some(Err(self.give_up(core))),
            watched => self.done(core, watched),
        }
    }

    fn done<'c>(&mut self, core: &Core, watched: Watched<'c>) -> Option<Result<Done<'c>, CallError>> {
        match watched {
            Watched::Waiting => None,
            Watched::Done(done) => {
                self.taken = true;
                Some(Ok(done))
            }
            Watched::TimeOver => Some(Err(self.late(core))),
        }
    }

    /// See [`Pending::wait_timeout`].
    pub(super) fn await_done<'c>(
        &mut self,
        core: &'c Core,
        limit: Duration,
    ) -> Option<Result<Done<'c>, CallError>> {
        if self.taken {
            return None;
        }
        if let Err(error) = self.own(core) {
            return Some(Err(error));
        }
        if !self.take_back(core) {
            return Some(Err(self.late(core)));
        }
        let task = self.task(core);
        let limit = Instant::now().checked_add(limit);
        let spun = if limit.is_some() { None } else { core.spin(Pace::One, || task.outcome()) };
        let done = spun.or_else(|| core.sleep_until(task, limit.into_iter().chain(self.until).min()));
        match done {
            Some(done) => {
                self.taken = true;
                Some(Ok(done))
            }
            None if self.own(core).is_err() => Some(Err(core.forked())), // a signal handler forked during the sleep
            None if self.is_late(core) => Some(Err(self.give_up(core))),
            None => None,
        }
    }

    /// [`Future::poll`] of a `Pending`, without reading the outcome.
    pub(crate) fn poll_done<'c>(
        &mut self,
        core: &'c Core,
        context: &Context<'_>,
    ) -> Poll<Result<Done<'c>, CallError>> {
        assert!(!self.taken, "polled after it was ready");
        if let Some(done) = self.try_done(core) {
            return Poll::Ready(done);
        }
        let reactor = core.reactor()?;
        let limit = self.until.map_or(Limit::None, Limit::Cancel);
        let watched = reactor.watch(self.task(core), &mut self.ticket, limit, context.waker());
        self.done(core, watched).map_or(Poll::Pending, Poll::Ready)
    }

    /// The time is over, and the request is held here.
    pub(super) fn give_up(&mut self, core: &Core) -> CallError {
        let late = self.late(core);
        core.give_up(self.task(core), late)
    }

    /// The time is over, and the reactor has taken the request.
    pub(super) fn late(&mut self, core: &Core) -> CallError {
        self.taken = true;
        let timeout = || CallError::Timeout { enqueueing: self.enqueueing, total: self.begun.elapsed() };
        core.gone().unwrap_or_else(timeout)
    }

    pub(super) fn open<'s, Out: Payload>(
        &self,
        core: &Hold<'s>,
        done: Done<'_>,
    ) -> Result<Reply<'s, Out>, CallError> {
        match core.open(done) {
            Ok(reply) => Ok(Reply::<'_, Out>::held_by(reply, core)),
            Err(error) => Err(error.clocked(self.begun, self.enqueueing)),
        }
    }

    /// Cancels the request, unless its outcome has been taken.
    pub(crate) fn cancel(&mut self, core: &Core) {
        if !self.taken && core.birth.is_here() && self.take_back(core) {
            core.cancel(self.task(core));
        }
    }
}

/// A call as a future. From [`Server::call_async`](crate::Server::call_async), for as long as server and input are
/// borrowed; or from [`Handle::call_async`](crate::Handle::call_async), `'static` if its input is.
///
/// The first poll sends the input. Dropping it cancels the request: workers skip the request if none has begun it, and
/// the permit is given back. When its time is over the permit is given back even if no executor polls it any more.
#[must_use = "futures do nothing unless they are polled"]
pub struct CallFuture<'s, In: 's, Out: Payload, I = &'s In> {
    core: Hold<'s>,
    /// `None` once it was sent.
    input: Option<I>,
    options: CallOptions,
    stage: Stage<'s, Out>,
    types: PhantomData<fn(In)>,
}

// Nothing of it is pinned.
impl<'s, In: 's, Out: Payload, I> Unpin for CallFuture<'s, In, Out, I> {}

enum Stage<'s, Out: Payload> {
    New,
    /// In line for a permit, since this instant.
    InLine(PermitWait<'s>, Instant),
    Sent(Pending<'s, Out>),
    Over,
}

impl<'s, In: 's, Out: Payload, I> fmt::Debug for CallFuture<'s, In, Out, I> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let stage = match &self.stage {
            Stage::New => "new",
            Stage::InLine(..) => "waits for a permit",
            Stage::Sent(_) => "sent",
            Stage::Over => "over",
        };
        f.debug_struct("CallFuture").field("stage", &stage).finish_non_exhaustive()
    }
}

impl<'s, In: Payload, Out: Payload, I: AsInput<In>> CallFuture<'s, In, Out, I> {
    pub(crate) fn new(core: Hold<'s>, input: I, options: CallOptions) -> Self {
        Self { core, input: Some(input), options, stage: Stage::New, types: PhantomData }
    }

    /// The first poll.
    fn begin(&mut self) -> Result<Stage<'s, Out>, CallError> {
        let (core, begun) = (&*self.core, Instant::now());
        core.in_time(self.options, begun)?;
        if let Some(id) = core.try_acquire().map_err(|error| core.told(error))? {
            return self.send(id, begun, Duration::ZERO);
        }
        if let Some(error) = core.refusal() {
            return Err(core.told(error));
        }
        if self.options.when_full == WhenFull::Fail {
            let full = CallError::ServerBacklogFull { capacity: core.capacity, waited: Duration::ZERO };
            return Err(core.told(full));
        }
        let wait = PermitWait::begin(self.core.clone(), begun, self.options.until(begun));
        Ok(Stage::InLine(wait.map_err(|error| core.told(error))?, begun))
    }

    fn send(&mut self, id: u32, begun: Instant, enqueueing: Duration) -> Result<Stage<'s, Out>, CallError> {
        let input = self.input.take().expect("it is sent once");
        let filled = self.core.fill::<In>(id, input)?;
        let sent = Sent::send(&self.core, filled, begun, enqueueing, self.options)?;
        Ok(Stage::Sent(Pending::new(self.core.clone(), sent)))
    }

    /// Advances the call as far as possible now.
    fn advance(&mut self, context: &mut Context<'_>) -> Poll<Result<Reply<'s, Out>, CallError>> {
        loop {
            self.stage = match &mut self.stage {
                Stage::New => self.begin()?,
                Stage::InLine(wait, begun) => {
                    let begun = *begun;
                    let Poll::Ready(permit) = wait.poll(context) else { return Poll::Pending };
                    let (id, waited) = permit.map_err(|error| self.core.told(error))?;
                    self.send(id, begun, waited)?
                }
                Stage::Sent(pending) => return Pin::new(pending).poll(context),
                Stage::Over => panic!("polled after it was ready"),
            };
        }
    }
}

impl<'s, In: Payload, Out: Payload, I: AsInput<In>> Future for CallFuture<'s, In, Out, I> {
    type Output = Result<Reply<'s, Out>, CallError>;

    /// # Panics
    /// If it was ready before.
    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let outcome = self.advance(context);
        if outcome.is_ready() {
            self.stage = Stage::Over;
        }
        outcome
    }
}

impl Core {
    /// Sends an input and waits for its outcome.
    #[inline]
    pub(crate) fn call<In: Payload, Out: Payload>(
        &self,
        input: impl AsInput<In>,
        options: CallOptions,
    ) -> Result<Reply<'_, Out>, CallError> {
        if !options.is_plain() {
            return self.call_as_pending(input, options);
        }
        self.expect_push();
        let (id, clock) = self.acquire(options)?;
        let filled = self.fill(id, input)?;
        self.finish_call(filled, clock, options.timeout)
    }

    #[cold]
    fn call_as_pending<In: Payload, Out: Payload>(
        &self,
        input: impl AsInput<In>,
        options: CallOptions,
    ) -> Result<Reply<'_, Out>, CallError> {
        Hold::lent(self).submit(input, options)?.wait()
    }
}

impl<'s> Hold<'s> {
    /// Sends an input.
    pub(crate) fn submit<In: Payload, Out: Payload>(
        self,
        input: impl AsInput<In>,
        options: CallOptions,
    ) -> Result<Pending<'s, Out>, CallError> {
        let begun = Instant::now();
        let (id, clock) = self.acquire(self.in_time(options, begun)?)?;
        let sent = Sent::send(&self, self.fill(id, input)?, begun, waited(clock), options)?;
        Ok(Pending::new(self, sent))
    }
}
