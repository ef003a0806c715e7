//! Streams: many inputs, their outcomes in the same order, as many in progress as is of use.
//!
//! The thread that asks for the next outcome also feeds the ring: it pulls inputs while the window has room, but stops
//! for an outcome that is ready, so that a slow source does not delay outcomes. Inputs are pushed a few at a time, with
//! one update of the ring's tail and one look at the doorbell, as long as the workers have enough to do meanwhile.
//!
//! # An outcome for each input
//!
//! A stream returns `None` when its source has no more inputs and each input has had its outcome; at no other time. So
//! `collect` and `zip` see all outcomes, and a stream that stops early never looks complete:
//!
//! | Event | What its inputs have |
//! |---|---|
//! | the servlet is down, the server shuts down | an outcome each, if in progress; then each further input that error, without a wait. Outcomes come first: the stream pulls an input to refuse it only when nothing is in progress and another outcome is asked for |
//! | the servlet is up again | from the next input on, outcomes |
//! | others have all permits for as long as the timeout | the next input [`CallError::ServerBacklogFull`] |
//! | an outcome is late | [`CallError::Timeout`] as the outcome; the request is cancelled |
//! | the ring takes nothing, since the segment is corrupted | [`CallError::Corrupt`], each input that was not pushed |
//! | the source's `next` panics | nothing: no input was taken. The consumer decides whether to ask again |
//! | an input's `prepare` or `Serialize` panics, or the drop of the prepared input | the panic at once; and [`CallError::Refused`] as the outcome, or the real outcome if the input was sent before |
//! | an outcome's `CheckBytes` or `Deserialize` panics | the panic in the outcome's turn |
//! | this process is a forked child | [`CallError::Forked`], those in progress and further ones; an input that failed before has its own error |
//! | the stream is dropped | nothing: workers skip inputs that none has begun |
//!
//! An unordered stream has one error of the stream as a whole, which belongs to no input: the reactor's thread cannot
//! be started. It loses no input, and the next call tries again. A stream does not know how many inputs its source has,
//! and its `size_hint` says so.
//!
//! What lost: an end after the first error (`None` then looks like completion); an item type with a variant for the end
//! (every loop pays for it, and `collect` still stops early); waiting until the servlet is up again (for how long?).
//!
//! # Invariants
//!
//! * `[turns]`: the stream records an input that it has pulled, and keeps its item if that is to be returned, before
//!   any more user code runs: by a guard, so that a panic cannot come between. It keeps one item for each outcome to
//!   come.

mod asynchronous;
mod feeder;
mod options;
mod sent;
mod source;
mod unordered;

pub use asynchronous::{AsyncStream, AsyncUnordered, AsyncWithInputs};
pub use options::{DEFAULT_STREAM_TIMEOUT, StreamOptions};
pub use source::{Inputs, Kept, Prepared, Source};
pub use unordered::{ByIndex, ByInput, Tags, Unordered};

use crate::client::hand::InHand;
use crate::client::reply::Reply;
use crate::client::{Core, Hold};
use crate::error::CallError;
use crate::policy::patience::Pace;
use crate::wire::payload::Payload;
use feeder::{CHUNK, Feeder, Progress, Running, Turns, Unpushed, pull};
use ringmill_shm::arena::Done;
use sent::Sent;
use std::collections::VecDeque;
use std::fmt;
use std::iter::FusedIterator;
use std::marker::PhantomData;

/// How many ready outcomes ahead of the one that is read are prefetched.
const AHEAD: usize = 6;
/// How many outcomes the stream waits for together, while they come quickly: a look at an outcome that is not there yet
/// takes its cache line away from the worker that is about to write it.
const GROUP: usize = 16;
/// The fewest inputs in progress that keep both sides busy, if that is more than two batches of each worker.
const FEWEST: usize = 4 * CHUNK;
/// One of this many looks at the last outcome of a group is also one at the first, which may come long before.
const FIRST_EVERY: u32 = 4;

/// Stands for an id: the error of this input is in `failed`.
const FAILED: u32 = u32::MAX;

/// The outcomes of a stream of inputs, in order. See [`Server::stream`](crate::Server::stream).
///
/// Every input that the stream pulls has one outcome, in order; so `None` comes after as many outcomes as the source
/// has inputs, and not before. While no permit comes free in time, or the server takes no requests, the error of that
/// is the outcome of the next input, and of each one after it; the stream pulls them one by one, when asked for an
/// outcome. Once a servlet that was down takes requests again, the stream goes on. It does not end with its server: an
/// endless source then has endless errors ([`CallError::ShuttingDown`]). Nor does it end in a forked child, where the
/// outcome of each remaining input is [`CallError::Forked`].
///
/// A panic of user code goes through to the code that asks for the next outcome; see the
/// [guide](crate::guide#9-many-at-once).
///
/// Dropping it cancels the requests in progress: workers skip inputs that none has begun.
pub struct Stream<'s, S: Source, Out: Payload> {
    running: Running<'s, Flow>,
    inlet: Inlet<S>,
    outcome: PhantomData<fn() -> Out>,
}

/// The source of a stream's inputs, and whether it has no more.
#[derive(Debug)]
struct Inlet<S> {
    source: S,
    exhausted: bool,
}

/// A stream's requests in progress, in order.
#[derive(Debug)]
struct Flow {
    feeder: Feeder,
    /// The ids of sent requests, oldest first.
    sent: Sent,
    /// The errors of inputs that could not be sent, oldest first.
    failed: VecDeque<CallError>,
    /// How many of the oldest requests have very likely ended.
    ready: usize,
    /// How many outcomes the stream waits for together: [`GROUP`], or 1 if items pass through several nodes, which
    /// should not wait for each other.
    group: usize,
    /// How many requests are in progress at once: the window, or as few as keep both sides busy. Requests beyond that
    /// only evict other lines from the caches.
    depth: usize,
    fewest: usize,
}

impl Flow {
    fn new(core: &Core, options: StreamOptions) -> Self {
        let feeder = Feeder::new(core, options);
        let (group, fewest) = match core.segment.nodes() {
            [node] => {
                let two_batches = 2 * node.facts.batch_size.max(1) as usize * node.rows as usize;
                (GROUP, two_batches.max(FEWEST).min(feeder.window))
            }
            _ => (1, feeder.window),
        };
        let (sent, failed) = (Sent::new(), VecDeque::new());
        Self { feeder, sent, failed, ready: 0, group, depth: fewest, fewest }
    }

    /// The oldest outcome, if it is there.
    #[inline]
    fn take_if_done<'c>(&mut self, core: &'c Core) -> Option<Done<'c>> {
        let done = core.task(self.sent.front()?)?.outcome()?;
        if self.ready == 0 && self.group > 1 && self.sent.len() > GROUP {
            self.look_at_group(core);
        }
        self.sent.pop_front();
        self.ready = self.ready.saturating_sub(1);
        if AHEAD <= self.ready {
            self.prefetch(core, AHEAD);
        }
        Some(done)
    }

    /// Called when the oldest outcome is there: if the last of its group is too, so are very likely those between.
    #[inline]
    fn look_at_group(&mut self, core: &Core) {
        if self.is_done(core, GROUP - 1) {
            self.ready = GROUP;
            (1..=AHEAD).for_each(|ahead| self.prefetch(core, ahead));
            // Most results are already waiting, so the window is larger than needed: shrink it, unless either side
            // sleeps.
            let spins = core.patience.looks() > 0;
            if self.depth > self.fewest && spins && self.is_done(core, self.sent.len() / 2) {
                self.depth = self.fewest;
            }
        }
    }

    #[inline]
    fn is_done(&self, core: &Core, index: usize) -> bool {
        let task = self.sent.get(index).and_then(|id| core.task(id));
        task.is_some_and(|task| task.is_done())
    }

    #[inline]
    fn prefetch(&self, core: &Core, ahead: usize) {
        if let Some(task) = self.sent.get(ahead).and_then(|id| core.task(id)) {
            task.prefetch();
        }
    }

    #[inline]
    fn is_first_ready(&self, core: &Core) -> bool {
        self.ready > 0 || self.sent.front() == Some(FAILED) || self.is_done(core, 0)
    }

    /// Pushes what is filled.
    fn push(&mut self, core: &Core) {
        let pushed = self.feeder.push(core);
        self.note_pushed(pushed);
    }

    #[inline]
    fn note_pushed(&mut self, pushed: Result<(), Unpushed>) {
        if let Err(unpushed) = pushed {
            self.fail_unpushed(&unpushed);
        }
    }

    /// Makes the error the outcome of each unpushed input.
    #[cold]
    fn fail_unpushed(&mut self, unpushed: &Unpushed) {
        let mut failed = VecDeque::new();
        self.sent.change(|id| {
            if id == FAILED {
                failed.extend(self.failed.pop_front());
                return FAILED;
            }
            if !unpushed.ids.contains(&id) {
                return id;
            }
            failed.push_back(unpushed.error());
            FAILED
        });
        self.failed = failed;
    }

    /// Waits for the oldest outcome, whose input was sent, and takes it. `None` if it does not come during the spin,
    /// and `may_sleep` is false.
    fn await_first<'c>(&mut self, core: &'c Core, may_sleep: bool) -> Option<Result<Done<'c>, CallError>> {
        let Self { feeder, sent, group, .. } = self;
        let timeout = feeder.options.timeout;
        let task = core.task(sent.front()?)?;
        // A single request is polled closely.
        let pace = if sent.len() == 1 { Pace::Answer } else { Pace::Many };
        let is_group = *group > 1 && sent.len() > 2 * GROUP;
        let last = sent.get(GROUP - 1).filter(|_| is_group).and_then(|id| core.task(id));
        let (mut looks, mut all) = (0, false);
        let look = || match last {
            None => task.outcome(),
            Some(last) => {
                looks += 1;
                all = last.is_done();
                if all || looks % FIRST_EVERY == 0 { task.outcome() } else { None }
            }
        };
        let outcome = if may_sleep {
            let note = || feeder.note_begun(core, sent.iter().rev());
            core.await_outcome(task, None, timeout, pace, look, note)
        } else {
            Ok(core.spin_for(task, timeout, pace, look)?)
        };
        self.sent.pop_front();
        self.ready = if all { GROUP - 1 } else { 0 };
        if all {
            (0..AHEAD).for_each(|ahead| self.prefetch(core, ahead));
        }
        Some(outcome)
    }

    #[cold]
    fn fail(&mut self, error: CallError) {
        self.sent.push_back(FAILED);
        self.failed.push_back(error);
    }

    /// The error of the oldest input, if it was not sent, or if this is a forked child and the request is the parent's.
    fn take_failed(&mut self, core: &Core) -> Option<CallError> {
        let has_failed = self.sent.front()? == FAILED;
        if !has_failed && core.birth.is_here() {
            return None;
        }
        self.sent.pop_front();
        self.ready = 0;
        if has_failed { self.failed.pop_front() } else { Some(core.forked()) }
    }

    /// The oldest outcome, waiting for it; `None` at the end.
    #[inline]
    fn take_first<'c, S: Source>(
        &mut self,
        core: &'c Core,
        inlet: &mut Inlet<S>,
    ) -> Option<Result<Done<'c>, CallError>> {
        match self.take_if_done(core) {
            Some(done) => Some(Ok(done)),
            None => self.wait_for_first(core, inlet),
        }
    }

    #[cold]
    fn wait_for_first<'c, S: Source>(
        &mut self,
        core: &'c Core,
        inlet: &mut Inlet<S>,
    ) -> Option<Result<Done<'c>, CallError>> {
        while self.sent.is_empty() {
            if inlet.exhausted {
                return None;
            }
            match self.feeder.wait_for_permit(core) {
                Ok(()) => self.feed(core, inlet),
                Err(error) => self.refuse_next(core, inlet, error),
            }
        }
        self.push(core);
        if let Some(error) = self.take_failed(core) {
            return Some(Err(error));
        }
        if self.depth < self.feeder.window {
            if let Some(done) = self.await_first(core, false) {
                return Some(done);
            }
            // The outcome takes long: the workers may be able to use more inputs.
            self.depth = self.feeder.window;
            self.feed(core, inlet);
            self.push(core);
        }
        // A request that could not be pushed has failed meanwhile, or the source has forked.
        match self.take_failed(core) {
            Some(error) => Some(Err(error)),
            None => self.await_first(core, true),
        }
    }

    /// In a forked child: the error of the oldest input without an outcome; `None` at the end.
    #[cold]
    fn next_forked<S: Source>(&mut self, core: &Core, inlet: &mut Inlet<S>) -> Option<CallError> {
        while self.sent.is_empty() {
            if inlet.exhausted {
                return None;
            }
            self.refuse_next(core, inlet, core.forked());
        }
        self.take_failed(core)
    }

    /// Makes this error the outcome of the next input, if there is one.
    fn refuse_next<S: Source>(&mut self, core: &Core, inlet: &mut Inlet<S>, error: CallError) {
        match inlet.source.next() {
            Some(item) => {
                self.fail(core.told(error));
                drop(item);
            }
            None => inlet.exhausted = true,
        }
    }

    /// Sends inputs while the window has room.
    #[inline]
    fn feed<S: Source>(&mut self, core: &Core, inlet: &mut Inlet<S>) {
        let mut pulled = 0;
        while self.sent.len() < self.depth && !inlet.exhausted {
            if pulled >= 2 && self.is_first_ready(core) {
                break;
            }
            // Without a permit, the reason is looked up when nothing is in progress: outcomes come first.
            let Some(id) = self.feeder.permit_now(core) else { break };
            if !pull(self, core, &mut inlet.source, id) {
                inlet.exhausted = true;
                break;
            }
            pulled += 1;
        }
    }
}

impl Turns<()> for Flow {
    #[inline]
    fn feeder(&mut self) -> &mut Feeder {
        &mut self.feeder
    }

    #[inline]
    fn note(&mut self, core: &Core, (): (), id: u32) {
        self.sent.push_back(id);
        let pushed = self.feeder.push_some(core, self.sent.len());
        self.note_pushed(pushed);
    }

    fn note_failed(&mut self, (): (), error: CallError) {
        self.fail(error);
    }
}

impl Progress for Flow {
    fn end(&mut self, core: &Core) {
        if core.birth.is_here() {
            let pushed = self.sent.len() - self.failed.len() - self.feeder.unpushed();
            for id in self.sent.iter().filter(|&id| id != FAILED).take(pushed) {
                if let Some(task) = core.task(id) {
                    core.cancel(task);
                }
            }
        }
        self.feeder.end(core);
    }
}

impl<S: Source, Out: Payload> fmt::Debug for Stream<'_, S, Out> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let in_progress = self.running.progress().sent.len();
        f.debug_struct("Stream").field("in_progress", &in_progress).finish_non_exhaustive()
    }
}

impl<'s, S: Source, Out: Payload> Stream<'s, S, Out> {
    pub(crate) fn new(core: Hold<'s>, source: S, options: StreamOptions) -> Self {
        let flow = Flow::new(&core, options);
        Self {
            running: Running::new(core, flow),
            inlet: Inlet { source, exhausted: false },
            outcome: PhantomData,
        }
    }

    /// Returns each input with its outcome.
    ///
    /// # Panics
    /// If the stream has begun.
    #[must_use]
    pub fn with_inputs(self) -> WithInputs<'s, S, Out> {
        self.assert_new();
        let source = Kept { source: self.inlet.source, items: VecDeque::new() };
        let inlet = Inlet { source, exhausted: false };
        WithInputs(Stream { running: self.running, inlet, outcome: PhantomData })
    }

    /// Returns outcomes as they come, each with the index of its input.
    ///
    /// # Panics
    /// If the stream has begun.
    #[must_use]
    pub fn unordered(self) -> Unordered<'s, S, Out> {
        self.assert_new();
        let options = self.options();
        Unordered::new(self.running.core().clone(), self.inlet.source, options)
    }

    fn options(&self) -> StreamOptions {
        self.running.progress().feeder.options
    }

    fn assert_new(&self) {
        let is_new = self.running.progress().sent.is_empty() && !self.inlet.exhausted;
        assert!(is_new, "the stream has begun");
    }

    /// The next outcome, read where it lies. Replies that are kept hold their permits: if they are as many as the
    /// capacity, the stream waits until its timeout.
    #[inline]
    pub fn next_reply(&mut self) -> Option<Result<Reply<'s, Out>, CallError>> {
        let Self { running, inlet, .. } = self;
        let (core, flow) = running.parts();
        if !core.birth.is_here() {
            return flow.next_forked(core, inlet).map(Err);
        }
        flow.feed(core, inlet);
        let done = flow.take_first(core, inlet)?;
        Some(done.and_then(|done| core.open(done)).map(|reply: Reply<'_, Out>| reply.held_by(core)))
    }

    /// Waits for the next outcome, which is not there yet.
    #[cold]
    fn next_later(&mut self) -> Option<Result<Out, CallError>> {
        let Self { running, inlet, .. } = self;
        let (core, flow) = running.parts();
        match flow.wait_for_first(core, inlet)? {
            Ok(done) => Some(flow.feeder.value(core, done, !inlet.exhausted)),
            Err(error) => Some(Err(error)),
        }
    }
}

impl<S: Source, Out: Payload> Iterator for Stream<'_, S, Out> {
    type Item = Result<Out, CallError>;

    // The two ways are separate functions: a common value would travel through memory, and a thread that reads in other
    // pieces what it has just written waits until all its stores have their lines.
    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        let Self { running, inlet, .. } = self;
        let (core, flow) = running.parts();
        if !core.birth.is_here() {
            return flow.next_forked(core, inlet).map(Err);
        }
        flow.feed(core, inlet);
        match flow.take_if_done(core) {
            Some(done) => Some(flow.feeder.value(core, done, !inlet.exhausted)),
            None => self.next_later(),
        }
    }
}

impl<S: Source, Out: Payload> FusedIterator for Stream<'_, S, Out> {}

/// The outcomes of a stream in order, each with its input. From [`Stream::with_inputs`].
///
/// An item is an input and its outcome, for every input, as in a [`Stream`]. The outer result is there because an
/// unordered stream can fail as a whole; a stream in order cannot, so it is always `Ok`.
pub struct WithInputs<'s, S: Source, Out: Payload>(Stream<'s, Kept<S>, Out>);

impl<S: Source, Out: Payload> fmt::Debug for WithInputs<'_, S, Out> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("WithInputs").field(&self.0).finish()
    }
}

impl<'s, S: Source, Out: Payload> WithInputs<'s, S, Out> {
    /// Returns them as they come, not in order.
    ///
    /// # Panics
    /// If the stream has begun.
    #[must_use]
    pub fn unordered(self) -> Unordered<'s, S, Out, ByInput> {
        self.0.assert_new();
        let options = self.0.options();
        Unordered::new(self.0.running.core().clone(), self.0.inlet.source.source, options)
    }
}

impl<S: Source, Out: Payload> Iterator for WithInputs<'_, S, Out> {
    type Item = Result<(S::Item, Result<Out, CallError>), CallError>;

    fn next(&mut self) -> Option<Self::Item> {
        let Stream { running, inlet, .. } = &mut self.0;
        let (core, flow) = running.parts();
        if !core.birth.is_here() {
            let error = flow.next_forked(core, inlet)?;
            return Some(Ok((inlet.source.first(), Err(error))));
        }
        flow.feed(core, inlet);
        let outcome = flow.take_first(core, inlet)?;
        // Before the outcome is read: if its own code panics, the next outcome still meets the next input.
        let item = inlet.source.first();
        let more = !inlet.exhausted;
        Some(Ok((item, outcome.and_then(|done| flow.feeder.value(core, done, more)))))
    }
}

impl<S: Source, Out: Payload> FusedIterator for WithInputs<'_, S, Out> {}
