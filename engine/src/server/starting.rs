//! Starting a server from an async task.
//!
//! # Protocol
//!
//! The plan is made when the future is made. The first poll starts a thread that does the rest, since creating a segment
//! and starting processes block, and wakes the task when it is done. A future that is dropped before asks the thread to
//! stop, which then leaves nothing, and waits for that: a name can be used again at once.
//!
//! | Start | Means | Left by, to |
//! |---|---|---|
//! | NEW | not polled yet | the first poll → BEGUN |
//! | BEGUN | the thread starts the server | the poll that finds the outcome → OVER; the drop, once the outcome is there |
//! | OVER | the outcome was returned | – |
//!
//! In a forked child there is no such thread: a poll returns an error, and the drop frees memory only.

use super::Server;
use super::launch::{Launch, Stop, locked};
use crate::client::Core;
use crate::error::{StartError, forked_text};
use crate::panics::{let_go, quietly};
use ringmill_shm::sys::birth::Birth;
use std::fmt;
use std::marker::PhantomData;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::pin::Pin;
use std::sync::{Arc, Condvar, Mutex};
use std::task::{Context, Poll, Waker};

/// A server that starts, as a future. From [`ServerBuilder::start_async`](crate::ServerBuilder::start_async).
///
/// The first poll begins the start. Dropping it ends the start, and leaves no process and no file; it waits for that, some
/// milliseconds.
#[must_use = "futures do nothing unless they are polled"]
pub struct Starting<In, Out> {
    stage: Stage,
    birth: Birth,
    pid: u32,
    types: PhantomData<fn(&In) -> Out>,
}

enum Stage {
    New(Box<Result<Launch, StartError>>),
    Begun(Arc<Begun>),
    Over,
}

/// What the future and the thread share.
#[derive(Debug, Default)]
struct Begun {
    stop: Stop,
    state: Mutex<State>,
    /// The outcome has come.
    ended: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// A panic is one of the function that is told the progress.
    outcome: Option<std::thread::Result<Result<Option<Arc<Core>>, StartError>>>,
    waker: Option<Waker>,
}

impl Begun {
    /// Runs in the thread.
    fn run(&self, launch: Launch) {
        let outcome = catch_unwind(AssertUnwindSafe(|| launch.run(Some(&self.stop))));
        self.stop.forget();
        let mut state = locked(&self.state);
        state.outcome = Some(outcome);
        let waker = state.waker.take();
        self.ended.notify_all();
        drop(state);
        if let Some(waker) = waker {
            quietly(|| waker.wake());
        }
    }
}

impl<In, Out> fmt::Debug for Starting<In, Out> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let stage = match &self.stage {
            Stage::New(_) => "new",
            Stage::Begun(_) => "begun",
            Stage::Over => "over",
        };
        f.debug_struct("Starting").field("stage", &stage).finish_non_exhaustive()
    }
}

// Nothing of it is pinned.
impl<In, Out> Unpin for Starting<In, Out> {}

impl<In, Out> Starting<In, Out> {
    pub(super) fn new(launch: Result<Launch, StartError>) -> Self {
        let stage = Stage::New(Box::new(launch));
        Self { stage, birth: Birth::here(), pid: std::process::id(), types: PhantomData }
    }

    fn begin(&mut self) -> Result<(), StartError> {
        let Stage::New(launch) = std::mem::replace(&mut self.stage, Stage::Over) else { return Ok(()) };
        let (launch, begun) = ((*launch)?, Arc::new(Begun::default()));
        let there = Arc::clone(&begun);
        let thread = std::thread::Builder::new().name("ringmill-start".into());
        let spawned = thread.spawn(move || there.run(launch));
        let _detached = spawned
            .map_err(|error| StartError::System { what: "start the thread that starts a server", error })?;
        self.stage = Stage::Begun(begun);
        Ok(())
    }

    fn forked(&self) -> StartError {
        let error = std::io::Error::other(forked_text(self.pid, std::process::id()));
        StartError::System { what: "go on with a start", error }
    }
}

impl<In, Out> Future for Starting<In, Out> {
    type Output = Result<Server<In, Out>, StartError>;

    /// # Panics
    /// If it was ready before, or with the panic of the function that is told the progress.
    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        if !self.birth.is_here() {
            return Poll::Ready(Err(self.forked()));
        }
        if let Stage::New(_) = self.stage {
            self.begin()?;
        }
        let Stage::Begun(begun) = &self.stage else { panic!("polled after it was ready") };
        let waker = context.waker().clone(); // user code, outside the lock
        let mut state = locked(&begun.state);
        let Some(outcome) = state.outcome.take() else {
            let former = state.waker.replace(waker);
            drop(state);
            let_go(former);
            return Poll::Pending;
        };
        drop(state);
        let_go(waker);
        self.stage = Stage::Over;
        match outcome.unwrap_or_else(|panic| resume_unwind(panic)) {
            Ok(core) => Poll::Ready(Ok(Server::begin(core.expect("only a drop asks it to stop")))),
            Err(error) => Poll::Ready(Err(error)),
        }
    }
}

impl<In, Out> Drop for Starting<In, Out> {
    fn drop(&mut self) {
        let Stage::Begun(begun) = &self.stage else { return };
        if !self.birth.is_here() {
            return; // the parent has the thread
        }
        begun.stop.ask();
        let mut state = locked(&begun.state);
        let waker = state.waker.take();
        let outcome = loop {
            match state.outcome.take() {
                Some(outcome) => break outcome,
                None => state = begun.ended.wait(state).unwrap_or_else(|e| e.into_inner()),
            }
        };
        drop(state);
        let_go(waker);
        if let Ok(Ok(Some(core))) = outcome {
            core.shut_down(); // it was ready, and is not wanted
        }
    }
}
