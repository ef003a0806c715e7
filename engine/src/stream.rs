//! Streams: many inputs, their outcomes in the same order, as much in progress as pays.
//!
//! The thread that asks for the next outcome also feeds the ring: it pulls inputs while there is room,
//! but stops for an outcome that is ready, so that a slow source of inputs does not hold outcomes back.
//! Inputs are pushed a few at a time, with one update of the ring's tail and one look at the doorbell,
//! as long as the workers have enough to do meanwhile.

use crate::error::CallError;
use crate::payload::Payload;
use crate::reply::Reply;
use crate::server::{CallOptions, Core, Filled, corrupt_ring};
use ringmill_shm::arena::Task;
use std::collections::VecDeque;
use std::fmt;
use std::iter::{Fuse, FusedIterator};
use std::marker::PhantomData;
use std::time::Duration;

/// How long a stream waits for the next outcome if nothing else is said.
pub const DEFAULT_STREAM_TIMEOUT: Duration = Duration::from_secs(3600);
/// Inputs pushed at a time.
const CHUNK: usize = 16;
/// As long as so many are with the workers.
const ENOUGH: usize = 2 * CHUNK;

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

/// What became of an input.
#[derive(Debug)]
enum Sent {
    /// It is in progress.
    Task(u32),
    /// It could not be sent.
    Failed(CallError),
}

/// The outcomes of a stream of inputs, in order. See [`Server::stream`](crate::Server::stream).
///
/// Dropping it cancels what is in progress: inputs that no worker has begun are skipped.
pub struct Stream<'s, I: Iterator<Item = In>, In: Payload, Out: Payload> {
    core: &'s Core,
    inputs: Fuse<I>,
    exhausted: bool,
    window: usize,
    timeout: Duration,
    /// Sent, oldest first; the last `pending.len()` of the tasks are not pushed yet.
    sent: VecDeque<Sent>,
    /// Filled, not pushed.
    pending: Vec<Filled<'s>>,
    /// Their ids on the way into the ring.
    ids: Vec<u32>,
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
            ids: Vec::with_capacity(CHUNK),
            spare: None,
            outcome: PhantomData,
        }
    }

    /// The next outcome, read where it lies. Replies that are kept hold their places: as many as the
    /// capacity of them and the stream waits for ever, or rather for its timeout.
    pub fn next_reply(&mut self) -> Option<Result<Reply<'s, Out>, CallError>> {
        self.feed();
        let first = match self.sent.pop_front() {
            Some(Sent::Task(id)) => id,
            Some(Sent::Failed(error)) => return Some(Err(error)),
            None if self.exhausted => return None,
            None => match self.wait_for_place() {
                Ok(()) => return self.next_reply(),
                Err(error) => return Some(Err(error)),
            },
        };
        let task = Task::new(&self.core.segment, first).expect("sent by us");
        let done = match task.outcome() {
            Some(done) => Ok(done),
            None => {
                self.push();
                self.core.await_outcome(task, None, self.timeout)
            }
        };
        Some(done.and_then(|done| self.core.open(done)))
    }

    /// Sends inputs while there is room.
    #[inline]
    fn feed(&mut self) {
        let mut pulled = 0;
        while self.sent.len() < self.window && !self.exhausted {
            if pulled >= 2 && self.is_first_ready() {
                break;
            }
            let id = match self.spare.take().map_or_else(|| self.core.try_acquire(), |id| Ok(Some(id))) {
                Ok(Some(id)) => id,
                Ok(None) => break,
                Err(error) => {
                    self.exhausted = true;
                    self.sent.push_back(Sent::Failed(error));
                    break;
                }
            };
            let Some(input) = self.next_input(id) else { break };
            pulled += 1;
            match self.core.fill(id, &input) {
                Ok(filled) => {
                    self.sent.push_back(Sent::Task(id));
                    self.pending.push(filled);
                }
                Err(error) => self.sent.push_back(Sent::Failed(error.into())),
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

    fn is_first_ready(&self) -> bool {
        match self.sent.front() {
            Some(Sent::Task(id)) => {
                Task::new(&self.core.segment, *id).is_some_and(|task| task.outcome().is_some())
            }
            Some(Sent::Failed(_)) => true,
            None => false,
        }
    }

    /// Pushes what is filled.
    #[inline]
    fn push(&mut self) {
        if self.pending.is_empty() {
            return;
        }
        self.ids.extend(self.pending.drain(..).map(|filled| filled.queue().id()));
        match self.core.entry_ring().push_many(&self.ids) {
            Ok(next) => self.core.pushed(next),
            Err(_overrun) => self.sent.push_back(Sent::Failed(corrupt_ring())),
        }
        self.ids.clear();
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
        let reply = match self.next_reply()? {
            Ok(reply) => reply,
            Err(error) => return Some(Err(error)),
        };
        let outcome = crate::payload::owned(&*reply);
        // The place is used for the next input, unless others wait for one.
        let core = self.core;
        if self.spare.is_none() && !self.exhausted && !core.segment.freed().is_awaited() {
            self.spare = Some(reply.into_id());
        }
        Some(outcome.map_err(|e| CallError::Corrupt { message: e.to_string() }))
    }
}

impl<I: Iterator<Item = In>, In: Payload, Out: Payload> FusedIterator for Stream<'_, I, In, Out> {}

impl<I: Iterator<Item = In>, In: Payload, Out: Payload> Drop for Stream<'_, I, In, Out> {
    fn drop(&mut self) {
        // What is filled and not pushed is given back by its guard; the rest is cancelled.
        let unpushed = self.pending.len();
        self.pending.clear();
        let tasks = self.sent.drain(..).filter_map(|sent| match sent {
            Sent::Task(id) => Some(id),
            Sent::Failed(_) => None,
        });
        let tasks: Vec<u32> = tasks.collect();
        for &id in &tasks[..tasks.len() - unpushed] {
            if let Some(task) = Task::new(&self.core.segment, id) {
                self.core.cancel(task);
            }
        }
        if let Some(id) = self.spare.take() {
            self.core.release(id);
        }
    }
}
