//! Streams: many inputs, their outcomes in the same order, as much in progress as pays.
//!
//! The thread that asks for the next outcome also feeds the ring: it pulls inputs while there is room,
//! but stops for an outcome that is ready, so that a slow source of inputs does not hold outcomes back.
//! Inputs are pushed a few at a time, with one update of the ring's tail and one look at the doorbell,
//! as long as the workers have enough to do meanwhile.

use crate::error::CallError;
use crate::patience::Pace;
use crate::payload::Payload;
use crate::reply::Reply;
use crate::route::Outbox;
use crate::server::{CallOptions, Core, Filled};
use ringmill_shm::arena::{Done, Task};
use std::collections::VecDeque;
use std::fmt;
use std::iter::{Fuse, FusedIterator};
use std::marker::PhantomData;
use std::time::Duration;

/// How long a stream waits for the next outcome if nothing else is said.
pub const DEFAULT_STREAM_TIMEOUT: Duration = Duration::from_secs(3600);
/// Inputs pushed at a time.
const CHUNK: usize = 32;
/// As long as so many are with the workers.
const ENOUGH: usize = 2 * CHUNK;
/// How many outcomes ahead of the one being read are fetched.
const AHEAD: usize = 5;

/// Options of one stream.
#[derive(Debug, Clone, Copy)]
pub struct StreamOptions {
    timeout: Duration,
    window: usize,
}

impl Default for StreamOptions {
    fn default() -> Self {
        Self { timeout: DEFAULT_STREAM_TIMEOUT, window: usize::MAX }
    }
}

impl StreamOptions {
    /// A timeout of an hour, and as many in progress as the server's capacity.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// How long to wait for the next outcome. One that is late is an error in its place, and its request
    /// is dropped if no worker has begun it.
    #[must_use]
    pub fn timeout(mut self, limit: Duration) -> Self {
        self.timeout = limit;
        self
    }

    /// How many inputs may be in progress at once: at least 1, at most the server's capacity.
    #[must_use]
    pub fn window(mut self, items: usize) -> Self {
        self.window = items;
        self
    }
}

/// In the place of an id: this input could not be sent, its error is in `failed`.
const FAILED: u32 = u32::MAX;

/// The outcomes of a stream of inputs, in order. See [`Server::stream`](crate::Server::stream).
///
/// Dropping it cancels what is in progress: inputs that no worker has begun are skipped.
pub struct Stream<'s, I: Iterator<Item = In>, In: Payload, Out: Payload> {
    core: &'s Core,
    inputs: Fuse<I>,
    exhausted: bool,
    window: usize,
    timeout: Duration,
    /// The ids of what is sent, oldest first.
    sent: VecDeque<u32>,
    /// The last of them: filled, not pushed yet.
    pending: Vec<u32>,
    outbox: Outbox,
    /// What became of inputs that could not be sent, oldest first.
    failed: VecDeque<CallError>,
    /// An id that came free and is used for the next input.
    spare: Option<u32>,
    outcome: PhantomData<fn() -> Out>,
}

impl<I: Iterator<Item = In>, In: Payload, Out: Payload> fmt::Debug for Stream<'_, I, In, Out> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stream").field("in_progress", &self.sent.len()).finish_non_exhaustive()
    }
}

impl<'s, I: Iterator<Item = In>, In: Payload, Out: Payload> Stream<'s, I, In, Out> {
    pub(crate) fn new(core: &'s Core, inputs: I, options: StreamOptions) -> Self {
        Self {
            core,
            inputs: inputs.fuse(),
            exhausted: false,
            window: options.window.clamp(1, core.capacity as usize),
            timeout: options.timeout,
            sent: VecDeque::new(),
            pending: Vec::with_capacity(CHUNK),
            outbox: Outbox::default(),
            failed: VecDeque::new(),
            spare: None,
            outcome: PhantomData,
        }
    }

    /// The next outcome, read where it lies. Replies that are kept hold their places: as many as the
    /// capacity of them and the stream waits for ever, or rather for its timeout.
    pub fn next_reply(&mut self) -> Option<Result<Reply<'s, Out>, CallError>> {
        self.feed();
        match self.take_first()? {
            Ok(done) => Some(self.core.open(done)),
            Err(error) => Some(Err(error)),
        }
    }

    /// Takes the oldest outcome, waiting for it; `None` at the end.
    #[inline]
    fn take_first(&mut self) -> Option<Result<Done<'s>, CallError>> {
        if let Some(&id) = self.sent.front()
            && let Some(done) = self.task(id).and_then(Task::outcome)
        {
            self.sent.pop_front();
            // It was there already, so those behind it will be too: their lines can come meanwhile.
            if let Some(task) = self.sent.get(AHEAD).and_then(|&id| self.task(id)) {
                task.prefetch();
            }
            return Some(Ok(done));
        }
        self.wait_for_first()
    }

    #[cold]
    fn wait_for_first(&mut self) -> Option<Result<Done<'s>, CallError>> {
        while self.sent.is_empty() {
            if self.exhausted {
                return None;
            }
            if let Err(error) = self.wait_for_place() {
                // From these there is no way back; else they would be told for ever.
                self.exhausted = matches!(error, CallError::ShuttingDown | CallError::ServletDown { .. });
                return Some(Err(error));
            }
            self.feed();
        }
        let id = self.sent.pop_front()?;
        if id == FAILED {
            return self.failed.pop_front().map(Err);
        }
        self.push();
        Some(self.core.await_outcome(self.task(id)?, None, self.timeout, self.pace()))
    }

    /// One alone is looked for closely.
    fn pace(&self) -> Pace {
        if self.sent.is_empty() { Pace::One } else { Pace::Many }
    }

    #[inline]
    fn task(&self, id: u32) -> Option<Task<'s>> {
        Task::new(&self.core.segment, id)
    }

    /// Sends inputs while there is room.
    #[inline]
    fn feed(&mut self) {
        let mut pulled = 0;
        while self.sent.len() < self.window && !self.exhausted {
            if pulled >= 2 && self.is_first_ready() {
                break;
            }
            let spare = self.spare.take().map(|id| self.core.admit(id).map(|()| Some(id)));
            let id = match spare.unwrap_or_else(|| self.core.try_acquire()) {
                Ok(Some(id)) => id,
                Ok(None) => break,
                Err(error) => {
                    self.exhausted = true;
                    self.fail(error);
                    break;
                }
            };
            let Some(input) = self.next_input(id) else { break };
            pulled += 1;
            match self.core.fill(id, &input) {
                Ok(filled) => {
                    filled.park();
                    self.sent.push_back(id);
                    self.pending.push(id);
                }
                Err(error) => self.fail(error.into()),
            }
            let with_workers = self.sent.len() - self.pending.len();
            if self.pending.len() >= CHUNK || with_workers < ENOUGH {
                self.push();
            }
        }
    }

    /// The next input, for the request `id`, which is given back if there is none or the source panics.
    fn next_input(&mut self, id: u32) -> Option<In> {
        struct GiveBack<'c>(&'c Core, u32);
        impl Drop for GiveBack<'_> {
            fn drop(&mut self) {
                self.0.release(self.1);
            }
        }
        let guard = GiveBack(self.core, id);
        let input = self.inputs.next();
        match &input {
            Some(_) => std::mem::forget(guard),
            None => self.exhausted = true,
        }
        input
    }

    #[cold]
    fn fail(&mut self, error: CallError) {
        self.sent.push_back(FAILED);
        self.failed.push_back(error);
    }

    #[inline]
    fn is_first_ready(&self) -> bool {
        self.sent.front().is_some_and(|&id| id == FAILED || self.task(id).and_then(Task::outcome).is_some())
    }

    /// Pushes what is filled.
    #[inline]
    fn push(&mut self) {
        if self.pending.is_empty() {
            return;
        }
        if let Err(error) = self.core.send_all(&self.pending, &self.outbox) {
            self.fail(error);
        }
        self.pending.clear();
    }

    /// Nothing of ours is in progress and others have every place: waits for one.
    fn wait_for_place(&mut self) -> Result<(), CallError> {
        let options = CallOptions::new().timeout(self.timeout).backpressure(false);
        self.spare = Some(self.core.acquire(options)?.0);
        Ok(())
    }
}

impl<I: Iterator<Item = In>, In: Payload, Out: Payload> Iterator for Stream<'_, I, In, Out> {
    type Item = Result<Out, CallError>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        self.feed();
        let done = match self.take_first()? {
            Ok(done) => done,
            Err(error) => return Some(Err(error)),
        };
        let reply = match self.core.open::<Out>(done) {
            Ok(reply) => reply,
            Err(error) => return Some(Err(error)),
        };
        let outcome = crate::payload::owned(&*reply);
        // The place is used for the next input, unless others wait for one.
        if self.spare.is_none() && !self.exhausted && !self.core.segment.freed().is_awaited() {
            self.spare = Some(reply.into_id());
        }
        Some(outcome.map_err(|e| CallError::Corrupt { message: e.to_string() }))
    }
}

impl<I: Iterator<Item = In>, In: Payload, Out: Payload> FusedIterator for Stream<'_, I, In, Out> {}

impl<I: Iterator<Item = In>, In: Payload, Out: Payload> Drop for Stream<'_, I, In, Out> {
    fn drop(&mut self) {
        let pushed = self.sent.len() - self.failed.len() - self.pending.len();
        for id in self.sent.drain(..).filter(|&id| id != FAILED).take(pushed) {
            if let Some(task) = Task::new(&self.core.segment, id) {
                self.core.cancel(task);
            }
        }
        // What is filled and not pushed is given back by its guard.
        self.pending.drain(..).for_each(|id| drop(Filled::resume(self.core, id)));
        if let Some(id) = self.spare.take() {
            self.core.release(id);
        }
    }
}
