//! Requests whose caller does not wait at once: a handle to a later outcome, and a call as a future.
//!
//! # Protocol
//!
//! A [`Pending`] that has not been polled as a future alone holds its request. From the first poll that finds no
//! outcome on, the [`reactor`](crate::client::reactor) watches the request. From then on the `Pending` must take it
//! back from the reactor; if it cannot, the time was over and the reactor has taken the request.

use super::core::{Core, Filled, waited};
use super::hand::InHand;
use super::options::{CallOptions, WhenFull};
use super::reactor::PermitWait;
use super::reply::Reply;
use super::watch::Watched;
use crate::error::CallError;
use crate::policy::patience::Pace;
use crate::wire::payload::Payload;
use ringmill_shm::arena::{Done, Task};
use ringmill_shm::sys::time::now_ns;
use std::fmt;
use std::future::Future;
use std::marker::PhantomData;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

/// A request that was sent. Its outcome can be polled, waited for, or awaited as a future, under any executor. From
/// [`Server::submit`](crate::Server::submit).
///
/// Dropping it cancels the request: workers skip the request if none has begun it, and the permit is given back. A
/// `Pending` that is kept keeps its permit, even after its time is over, until it is looked at. Once it has been polled
/// as a future, the permit is given back when the time is over, even without another poll.
#[must_use = "dropping it cancels the request"]
pub struct Pending<'s, Out: Payload> {
    core: &'s Core,
    id: u32,
    /// 0: the request is held here alone; else the reactor watches it under this ticket.
    ticket: u64,
    taken: bool,
    begun: Instant,
    enqueueing: Duration,
    until: Option<Instant>,
    outcome: PhantomData<fn() -> Out>,
}

impl<Out: Payload> fmt::Debug for Pending<'_, Out> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pending").field("id", &self.id).field("taken", &self.taken).finish_non_exhaustive()
    }
}

impl<'s, Out: Payload> Pending<'s, Out> {
    /// Sends a filled request.
    pub(crate) fn send(
        core: &'s Core,
        mut filled: Filled<'s>,
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
        let task = core.send(filled)?;
        task.set_begun_ns(now_ns);
        core.doubt();
        Ok(Self::of_sent(core, task.id(), begun, enqueueing, options.until(begun)))
    }

    /// The handle of a request that was sent, and has no other holder.
    pub(crate) fn of_sent(
        core: &'s Core,
        id: u32,
        begun: Instant,
        enqueueing: Duration,
        until: Option<Instant>,
    ) -> Self {
        Self { core, id, ticket: 0, taken: false, begun, enqueueing, until, outcome: PhantomData }
    }

    /// Whether [`try_take`](Self::try_take) would return an outcome or an error.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        // In a forked child there is an error to take.
        !self.taken && (!self.core.birth.is_here() || self.is_answered() || self.is_late())
    }

    fn is_answered(&self) -> bool {
        match (self.ticket, self.core.reactor.get()) {
            (0, _) | (_, None) => self.task().is_done(),
            (ticket, Some(reactor)) => reactor.is_over(self.task(), ticket),
        }
    }

    fn is_late(&self) -> bool {
        self.until.is_some_and(|until| Instant::now() >= until)
    }

    /// The outcome, or an error that it has not come in time; `None` if neither is there yet, or was taken.
    ///
    /// # Errors
    /// In the returned value: see [`CallError`].
    pub fn try_take(&mut self) -> Option<Result<Reply<'s, Out>, CallError>> {
        let done = self.try_done()?;
        Some(done.and_then(|done| self.open(done)))
    }

    /// Waits for the outcome.
    ///
    /// # Errors
    /// See [`CallError`].
    ///
    /// # Panics
    /// If the outcome has been taken.
    pub fn wait(mut self) -> Result<Reply<'s, Out>, CallError> {
        assert!(!self.taken, "the outcome has been taken");
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
        if self.taken {
            return None;
        }
        if let Err(error) = self.own() {
            return Some(Err(error));
        }
        if !self.take_back() {
            return Some(Err(self.late()));
        }
        let (core, task) = (self.core, self.task());
        let limit = Instant::now().checked_add(limit);
        let spun = if limit.is_some() { None } else { core.spin(Pace::One, || task.outcome()) };
        let done = spun.or_else(|| core.sleep_until(task, limit.into_iter().chain(self.until).min()));
        match done {
            Some(done) => {
                self.taken = true;
                Some(self.open(done))
            }
            None if self.own().is_err() => Some(Err(core.forked())), // a signal handler forked during the sleep
            None if self.is_late() => Some(Err(self.give_up())),
            None => None,
        }
    }

    /// In a forked child there is only the error to take, once.
    fn own(&mut self) -> Result<(), CallError> {
        self.core.own().inspect_err(|_| self.taken = true)
    }

    /// Ends the reactor's watch, if there is one; false if the reactor has taken the request.
    fn take_back(&mut self) -> bool {
        self.core.end_watch(self.id, std::mem::take(&mut self.ticket))
    }

    fn task(&self) -> Task<'s> {
        Task::new(&self.core.segment, self.id).expect("it was sent")
    }

    fn try_done(&mut self) -> Option<Result<Done<'s>, CallError>> {
        if self.taken {
            return None;
        }
        if let Err(error) = self.own() {
            return Some(Err(error));
        }
        let task = self.task();
        let watched = match (self.ticket, self.core.reactor.get()) {
            (0, _) | (_, None) => task.outcome().map_or(Watched::Waiting, Watched::Done),
            (ticket, Some(reactor)) => reactor.look(task, ticket),
        };
        match watched {
            Watched::Waiting if self.ticket == 0 && self.is_late() => Some(Err(self.give_up())),
            watched => self.done(watched),
        }
    }

    fn done(&mut self, watched: Watched<'s>) -> Option<Result<Done<'s>, CallError>> {
        match watched {
            Watched::Waiting => None,
            Watched::Done(done) => {
                self.taken = true;
                Some(Ok(done))
            }
            Watched::TimeOver => Some(Err(self.late())),
        }
    }

    /// [`Future::poll`], without reading the outcome.
    pub(crate) fn poll_done(&mut self, context: &Context<'_>) -> Poll<Result<Done<'s>, CallError>> {
        assert!(!self.taken, "polled after it was ready");
        if let Some(done) = self.try_done() {
            return Poll::Ready(done);
        }
        let reactor = self.core.reactor()?;
        let watched = reactor.watch(self.task(), &mut self.ticket, self.until, context.waker());
        self.done(watched).map_or(Poll::Pending, Poll::Ready)
    }

    /// The time is over, and the request is held here.
    fn give_up(&mut self) -> CallError {
        self.core.cancel(self.task());
        self.late()
    }

    /// The time is over, and the reactor has taken the request.
    fn late(&mut self) -> CallError {
        self.taken = true;
        CallError::Timeout { enqueueing: self.enqueueing, total: self.begun.elapsed() }
    }

    fn open(&self, done: Done<'s>) -> Result<Reply<'s, Out>, CallError> {
        self.core.open(done).map_err(|error| error.clocked(self.begun, self.enqueueing))
    }
}

impl<'s, Out: Payload> Future for Pending<'s, Out> {
    type Output = Result<Reply<'s, Out>, CallError>;

    /// # Panics
    /// If the outcome has been taken.
    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        self.poll_done(context).map(|done| done.and_then(|done| self.open(done)))
    }
}

impl<Out: Payload> Drop for Pending<'_, Out> {
    fn drop(&mut self) {
        if !self.taken && self.core.birth.is_here() && self.take_back() {
            self.core.cancel(self.task());
        }
    }
}

/// A call as a future. From [`Server::call_async`](crate::Server::call_async).
///
/// The first poll sends the input. Dropping it cancels the request: workers skip the request if none has begun it, and
/// the permit is given back. When its time is over the permit is given back even if no executor polls it any more.
#[must_use = "futures do nothing unless they are polled"]
pub struct CallFuture<'a, In, Out: Payload> {
    core: &'a Core,
    input: &'a In,
    options: CallOptions,
    stage: Stage<'a, Out>,
}

enum Stage<'a, Out: Payload> {
    New,
    /// In line for a permit, since this instant.
    InLine(PermitWait<'a>, Instant),
    Sent(Pending<'a, Out>),
    Over,
}

impl<In, Out: Payload> fmt::Debug for CallFuture<'_, In, Out> {
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

impl<'a, In: Payload, Out: Payload> CallFuture<'a, In, Out> {
    pub(crate) fn new(core: &'a Core, input: &'a In, options: CallOptions) -> Self {
        Self { core, input, options, stage: Stage::New }
    }

    /// The first poll.
    fn begin(&mut self) -> Result<Stage<'a, Out>, CallError> {
        let (core, begun) = (self.core, Instant::now());
        self.options.not_past(begun)?;
        if let Some(id) = core.try_acquire()? {
            return self.send(id, begun, Duration::ZERO);
        }
        if let Some(error) = core.refusal() {
            return Err(error);
        }
        if self.options.when_full == WhenFull::Fail {
            return Err(CallError::ServerBacklogFull { capacity: core.capacity, waited: Duration::ZERO });
        }
        Ok(Stage::InLine(PermitWait::begin(core, begun, self.options.until(begun))?, begun))
    }

    fn send(&self, id: u32, begun: Instant, enqueueing: Duration) -> Result<Stage<'a, Out>, CallError> {
        let filled = self.core.fill(id, self.input)?;
        Pending::send(self.core, filled, begun, enqueueing, self.options).map(Stage::Sent)
    }

    /// Advances the call as far as possible now.
    fn advance(&mut self, context: &mut Context<'_>) -> Poll<Result<Reply<'a, Out>, CallError>> {
        loop {
            self.stage = match &mut self.stage {
                Stage::New => self.begin()?,
                Stage::InLine(wait, begun) => {
                    let begun = *begun;
                    let Poll::Ready(permit) = wait.poll(context) else { return Poll::Pending };
                    let (id, waited) = permit?;
                    self.send(id, begun, waited)?
                }
                Stage::Sent(pending) => return Pin::new(pending).poll(context),
                Stage::Over => panic!("polled after it was ready"),
            };
        }
    }
}

impl<'a, In: Payload, Out: Payload> Future for CallFuture<'a, In, Out> {
    type Output = Result<Reply<'a, Out>, CallError>;

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
    /// Makes a call that has a deadline.
    #[cold]
    pub(crate) fn call_by_deadline<'c, In: Payload, Out: Payload>(
        &'c self,
        input: &In,
        options: CallOptions,
    ) -> Result<Reply<'c, Out>, CallError> {
        let begun = Instant::now();
        let (id, clock) = self.acquire(options.not_past(begun)?)?;
        Pending::send(self, self.fill(id, input)?, begun, waited(clock), options)?.wait()
    }
}
