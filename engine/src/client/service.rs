//! A server as a `tower::Service`.
//!
//! # Protocol
//!
//! | State | Means | Left by, to |
//! |---|---|---|
//! | idle | it has nothing | `poll_ready` → ready, in line, refused |
//! | in line | it waits for a permit | `poll_ready` → ready; → refused, when the time is over or a servlet is down |
//! | ready | it holds a permit | `call` → idle, and the request has the permit |
//! | refused | the next call fails with this error | `call` → idle; `poll_ready` looks again |
//!
//! # Invariants
//!
//! * `[reserved]`: a service counts its permit as reserved for as long as it holds it and has no request. A drain first reads how
//!   many permits are in use, then how many of them are reserved, and does not wait for the latter. A call first ends the
//!   reservation, then looks whether the server closes. So a drain waits for each request that begins.

use super::hold::Hold;
use super::options::{CallOptions, WhenFull};
use super::pending::{Pending, Sent};
use super::reactor::PermitWait;
use super::reply::Reply;
use crate::error::CallError;
use crate::wire::payload::Payload;
use std::fmt;
use std::future::Future;
use std::marker::PhantomData;
use std::mem::take;
use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

/// A server as a [`tower::Service`](tower_service::Service), for the layers of tower: timeouts, load-shedding, limits, retries.
/// From [`Handle::service`](crate::Handle::service) and [`Server::service`](crate::Server::service); needs the feature `tower`.
///
/// `poll_ready` is ready once the service holds one unit of the server's capacity, a permit, with which `call` sends the request
/// at once. While none is free it waits, in the order in which services and futures came, up to the
/// [timeout](CallOptions::timeout) of its [options](Self::with_options); with [`WhenFull::Fail`] it does not wait. The request
/// itself may take the timeout once more. Dropping the future cancels the request.
///
/// Each clone has a permit of its own, and a clone that is ready keeps its permit until it is called or dropped: so do not keep
/// services that are ready without need. A drain, or a shutdown, does not wait for them.
///
/// The error is [`CallError`], whose [`kind`](CallError::kind) says what to do about it, and [`is_retryable`](CallError::is_retryable)
/// whether a policy of `tower::retry` may send the request again. `poll_ready` fails only if the server is shutting down, or in a
/// forked process, where no call can succeed any more. That no permit came in time, or that a servlet is down, is an error of
/// the next `call`, after which the service works on. Layers box errors: `error.downcast_ref::<CallError>()` finds this one again.
///
/// ```
/// use ringmill::{PassThrough, Server, ThreadServlet};
/// use std::time::Duration;
/// use tower::{ServiceBuilder, ServiceExt};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
/// let server = Server::anonymous("tower").start(ThreadServlet::<PassThrough<u64>>::new(()))?;
/// let service = ServiceBuilder::new().load_shed().timeout(Duration::from_secs(1)).service(server.service());
/// assert_eq!(*service.oneshot(7).await?, 7);
/// # Ok(())
/// # }
/// ```
pub struct CallService<In, Out> {
    core: Hold<'static>,
    options: CallOptions,
    state: State,
    types: PhantomData<fn(In) -> Out>,
}

#[derive(Default)]
enum State {
    #[default]
    Idle,
    /// In line for a permit, since this instant.
    InLine(PermitWait<'static>, Instant),
    /// With a permit, and how long the service waited for it.
    Ready(Reserved, Duration),
    Refused(CallError),
}

/// A permit without a request: `[reserved]`.
struct Reserved {
    core: Hold<'static>,
    /// Taken by the request.
    id: Option<u32>,
}

impl Reserved {
    fn new(core: &Hold<'static>, id: u32) -> Self {
        core.reserved.fetch_add(1, Ordering::SeqCst);
        Self { core: core.clone(), id: Some(id) }
    }

    /// The permit, for a request that begins now.
    fn begin(mut self) -> Result<u32, CallError> {
        self.core.own()?;
        let id = self.id.take().expect("taken once");
        self.core.reserved.fetch_sub(1, Ordering::SeqCst); // [reserved]: before the look
        self.core.admit(id)?;
        Ok(id)
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        if let Some(id) = self.id.take()
            && self.core.birth.is_here()
        {
            self.core.reserved.fetch_sub(1, Ordering::SeqCst);
            self.core.release(id);
        } // else a request has it, or the parent holds it
    }
}

impl<In, Out> CallService<In, Out> {
    pub(crate) fn new(core: Hold<'static>) -> Self {
        let options = CallOptions::new().when_full(WhenFull::Wait);
        Self { core, options, state: State::Idle, types: PhantomData }
    }

    /// The same with these options, for every call of it. By default a timeout of a minute, and [`WhenFull::Wait`].
    #[must_use]
    pub fn with_options(self, options: CallOptions) -> Self {
        Self { options, ..self }
    }

    /// The first look for a permit.
    fn begin(&self) -> Result<State, CallError> {
        let begun = Instant::now();
        let options = match self.options.not_past(begun) {
            Ok(options) => options,
            Err(late) => return Ok(State::Refused(late)),
        };
        match self.core.try_acquire() {
            Ok(Some(id)) => return Ok(State::Ready(Reserved::new(&self.core, id), Duration::ZERO)),
            Ok(None) => {}
            Err(error) => return refused(error),
        }
        if let Some(error) = self.core.refusal() {
            return refused(error);
        }
        match options.when_full {
            WhenFull::Fail => {
                let (capacity, waited) = (self.core.capacity, Duration::ZERO);
                Ok(State::Refused(CallError::ServerBacklogFull { capacity, waited }))
            }
            WhenFull::Wait => match PermitWait::begin(self.core.clone(), begun, options.until(begun)) {
                Ok(wait) => Ok(State::InLine(wait, begun)),
                Err(error) => refused(error),
            },
        }
    }
}

/// The state after an error; an error if no call of the service can succeed any more.
fn refused(error: CallError) -> Result<State, CallError> {
    match error {
        CallError::ShuttingDown | CallError::Forked { .. } => Err(error),
        other => Ok(State::Refused(other)),
    }
}

impl<In, Out> Clone for CallService<In, Out> {
    /// Without the permit.
    fn clone(&self) -> Self {
        Self { core: self.core.clone(), options: self.options, state: State::Idle, types: PhantomData }
    }
}

impl<In, Out> fmt::Debug for CallService<In, Out> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match self.state {
            State::Idle => "idle",
            State::InLine(..) => "waits for a permit",
            State::Ready(..) => "ready",
            State::Refused(_) => "refused",
        };
        f.debug_struct("CallService")
            .field("name", &self.core.name)
            .field("state", &state)
            .finish_non_exhaustive()
    }
}

impl<In: Payload, Out: Payload> tower_service::Service<In> for CallService<In, Out> {
    type Response = Reply<'static, Out>;
    type Error = CallError;
    type Future = ServiceFuture<Out>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), CallError>> {
        loop {
            self.state = match take(&mut self.state) {
                State::Idle | State::Refused(_) => {
                    let state = self.begin().map_err(|error| self.core.told(error))?;
                    match state {
                        State::InLine(..) => state,
                        ready => {
                            self.state = ready;
                            return Poll::Ready(Ok(()));
                        }
                    }
                }
                State::InLine(mut wait, begun) => match wait.poll(context) {
                    Poll::Pending => {
                        self.state = State::InLine(wait, begun);
                        return Poll::Pending;
                    }
                    Poll::Ready(Ok((id, waited))) => State::Ready(Reserved::new(&self.core, id), waited),
                    Poll::Ready(Err(error)) => {
                        self.state = refused(error).map_err(|error| self.core.told(error))?;
                        return Poll::Ready(Ok(()));
                    }
                },
                State::Ready(reserved, waited) => {
                    if self.core.is_closed() {
                        drop(reserved);
                        continue; // idle: looks why
                    }
                    self.state = State::Ready(reserved, waited);
                    return Poll::Ready(Ok(()));
                }
            };
        }
    }

    /// # Panics
    /// If `poll_ready` was not ready before.
    fn call(&mut self, input: In) -> ServiceFuture<Out> {
        let sent = match take(&mut self.state) {
            State::Ready(reserved, waited) => send(&self.core, reserved, waited, self.options, input),
            State::Refused(error) => Err(self.core.told(error)),
            State::Idle | State::InLine(..) => panic!("the service was called before poll_ready was ready"),
        };
        ServiceFuture(sent.map_err(Some))
    }
}

fn send<In: Payload, Out: Payload>(
    core: &Hold<'static>,
    reserved: Reserved,
    enqueueing: Duration,
    options: CallOptions,
    input: In,
) -> Result<Pending<'static, Out>, CallError> {
    let begun = Instant::now();
    let options = core.in_time(options, begun)?;
    let id = reserved.begin().map_err(|error| core.told(error))?;
    let filled = core.fill::<In>(id, input)?;
    let sent = Sent::send(core, filled, begun, enqueueing, options)?;
    Ok(Pending::new(core.clone(), sent))
}

/// The outcome of a request that a [`CallService`] has sent. Dropping it cancels the request.
#[must_use = "dropping it cancels the request"]
pub struct ServiceFuture<Out: Payload>(Result<Pending<'static, Out>, Option<CallError>>);

impl<Out: Payload> fmt::Debug for ServiceFuture<Out> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ServiceFuture").field(&self.0).finish()
    }
}

impl<Out: Payload> Future for ServiceFuture<Out> {
    type Output = Result<Reply<'static, Out>, CallError>;

    /// # Panics
    /// If it was ready before.
    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut self.0 {
            Ok(pending) => Pin::new(pending).poll(context),
            Err(error) => Poll::Ready(Err(error.take().expect("polled after it was ready"))),
        }
    }
}
