//! Streams whose outcomes are given as they come.
//!
//! Who asks for the next outcome looks at all that is in progress. If none is there it leaves its thread's
//! waker with the [`reactor`](crate::reactor) for each of them and sleeps.

use super::feeder::Feeder;
use super::{Source, StreamOptions, is_final};
use crate::error::CallError;
use crate::patience::Pace;
use crate::payload::Payload;
use crate::reactor::Watched;
use crate::server::{Core, FIRST_SLEEP, SLEEP_LIMIT};
use ringmill_shm::arena::{Done, Task};
use std::collections::VecDeque;
use std::fmt;
use std::iter::FusedIterator;
use std::sync::Arc;
use std::task::{Wake, Waker};
use std::thread::Thread;
use std::time::{Duration, Instant};

/// What each outcome of an unordered stream comes with.
pub trait Tags<S: Source> {
    /// Its type.
    type Tag;

    /// That of the item with this index.
    fn tag(index: usize, item: S::Item) -> Self::Tag;
}

/// Outcomes come with the index of their input.
#[derive(Debug, Clone, Copy)]
pub struct ByIndex;

/// Outcomes come with their input.
#[derive(Debug, Clone, Copy)]
pub struct ByInput;

impl<S: Source> Tags<S> for ByIndex {
    type Tag = usize;

    fn tag(index: usize, _item: S::Item) -> usize {
        index
    }
}

impl<S: Source> Tags<S> for ByInput {
    type Tag = S::Item;

    fn tag(_index: usize, item: S::Item) -> S::Item {
        item
    }
}

/// The outcomes of a stream as they come, each with the index of its input, or with the input itself. From
/// [`Stream::unordered`](crate::Stream::unordered) and [`WithInputs::unordered`](crate::WithInputs::unordered).
///
/// An item is such a pair, or an error of the stream as a whole: no place came free in time, or the server takes
/// no more requests. The timeout is how long to wait for any outcome; when it is over, the oldest input ends
/// with [`CallError::Timeout`].
///
/// Dropping it cancels what is in progress: inputs that no worker has begun are skipped.
pub struct Unordered<'s, S: Source, Out: Payload, T: Tags<S> = ByIndex> {
    sent: Sent<'s, T::Tag>,
    source: S,
    exhausted: bool,
    pulled: usize,
    ready: VecDeque<(T::Tag, Result<Out, CallError>)>,
    /// Of the thread that waited last.
    waker: Option<(Thread, Waker)>,
}

/// What is in progress, oldest first; dropping it cancels that.
#[derive(Debug)]
struct Sent<'s, Tag> {
    feeder: Feeder<'s>,
    items: Vec<InProgress<Tag>>,
}

#[derive(Debug)]
struct InProgress<Tag> {
    id: u32,
    /// 0: the reactor does not watch it.
    ticket: u64,
    tag: Tag,
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

impl<S: Source, Out: Payload, T: Tags<S>> fmt::Debug for Unordered<'_, S, Out, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Unordered").field("in_progress", &self.sent.items.len()).finish_non_exhaustive()
    }
}

impl<'s, Tag> Sent<'s, Tag> {
    /// Whether the outcome of one is there. What the reactor watches here has no deadline, so it never takes a
    /// request from us.
    fn is_done(&self, item: &InProgress<Tag>) -> bool {
        self.feeder.task(item.id).and_then(Task::outcome).is_some()
    }

    /// Takes what is done away from it.
    fn take_done(&mut self) -> Vec<(Tag, Done<'s>)> {
        let Self { feeder, items } = self;
        let outcome = |item: &InProgress<Tag>| feeder.task(item.id).and_then(Task::outcome);
        let done = items.extract_if(.., |item| outcome(item).is_some());
        let taken = done.filter_map(|item| {
            feeder.core.end_watch(item.id, item.ticket);
            let done = outcome(&item)?;
            Some((item.tag, done))
        });
        taken.collect()
    }

    /// Cancels one that was sent.
    fn cancel(&self, item: &InProgress<Tag>) {
        self.feeder.core.end_watch(item.id, item.ticket);
        if let Some(task) = self.feeder.task(item.id) {
            self.feeder.core.cancel(task);
        }
    }
}

impl<Tag> Drop for Sent<'_, Tag> {
    fn drop(&mut self) {
        if !self.feeder.is_ours() {
            return;
        }
        let pushed = self.items.len() - self.feeder.unpushed();
        self.items[..pushed].iter().for_each(|item| self.cancel(item));
    }
}

impl<'s, S: Source, Out: Payload, T: Tags<S>> Unordered<'s, S, Out, T> {
    pub(super) fn new(core: &'s Core, source: S, options: StreamOptions) -> Self {
        Self {
            sent: Sent { feeder: Feeder::new(core, options), items: Vec::new() },
            source,
            exhausted: false,
            pulled: 0,
            ready: VecDeque::new(),
            waker: None,
        }
    }

    /// Sends inputs while there is room, a few if outcomes are ready.
    fn feed(&mut self) -> Result<(), CallError> {
        let mut pulled = 0;
        while self.sent.items.len() < self.sent.feeder.window && !self.exhausted {
            if pulled >= 2 && !self.ready.is_empty() {
                break;
            }
            let place = self.sent.feeder.place().inspect_err(|_| self.exhausted = true)?;
            let Some(id) = place else { break };
            let (index, mut tag) = (self.pulled, None);
            let keep = |_: &mut S, item| tag = Some(T::tag(index, item));
            let put = self.sent.feeder.pull(&mut self.source, id, keep);
            let (Some(put), Some(tag)) = (put, tag) else {
                self.exhausted = true;
                break;
            };
            pulled += 1;
            self.pulled += 1;
            match put {
                Ok(()) => self.sent.items.push(InProgress { id, ticket: 0, tag }),
                Err(error) => self.ready.push_back((tag, Err(error))),
            }
            self.sent.feeder.push_some(self.sent.items.len())?;
        }
        Ok(())
    }

    /// Takes all outcomes that are there.
    fn collect(&mut self) {
        for (tag, done) in self.sent.take_done() {
            let value = self.sent.feeder.value(done, !self.exhausted);
            self.ready.push_back((tag, value));
        }
    }

    /// Waits until an outcome is there, or the time is over.
    fn wait(&mut self) -> Result<(), CallError> {
        let Self { sent, ready, .. } = self;
        sent.feeder.push()?;
        let (core, timeout) = (sent.feeder.core, sent.feeder.options.timeout);
        let any_done =
            |sent: &Sent<'_, T::Tag>| sent.items.iter().any(|item| sent.is_done(item)).then_some(());
        if core.spin(Pace::Many, || any_done(sent)).is_some() {
            return Ok(());
        }
        sent.feeder.note_begun(sent.items.iter().rev().map(|item| item.id));
        let (begun, reactor, me) = (Instant::now(), core.reactor()?, std::thread::current());
        if self.waker.as_ref().is_none_or(|(thread, _)| thread.id() != me.id()) {
            for item in &mut sent.items {
                core.end_watch(item.id, std::mem::take(&mut item.ticket));
            }
            self.waker = Some((me.clone(), Waker::from(Arc::new(Unpark(me)))));
        }
        let Some((_, waker)) = &self.waker else { return Ok(()) };
        // Those watched from before have the same waker, which stays until they are done.
        for item in sent.items.iter_mut().filter(|item| item.ticket == 0) {
            if let Some(task) = sent.feeder.task(item.id)
                && let Watched::Done(_) = reactor.watch(task, &mut item.ticket, None, waker)
            {
                return Ok(());
            }
        }
        core.doubt();
        let asleep_since = core.patience.falls_asleep();
        let mut longest = FIRST_SLEEP;
        while any_done(sent).is_none() && sent.feeder.is_ours() {
            let total = begun.elapsed();
            if total >= timeout {
                let oldest = sent.items.remove(0);
                sent.cancel(&oldest);
                let error = CallError::Timeout { enqueueing: Duration::ZERO, total };
                ready.push_back((oldest.tag, Err(error)));
                return Ok(());
            }
            std::thread::park_timeout((timeout - total).min(longest));
            if any_done(sent).is_none() {
                core.rescue();
                longest = (2 * longest).min(SLEEP_LIMIT);
            }
        }
        core.patience.slept(asleep_since);
        Ok(())
    }
}

impl<S: Source, Out: Payload, T: Tags<S>> Iterator for Unordered<'_, S, Out, T> {
    type Item = Result<(T::Tag, Result<Out, CallError>), CallError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if !self.sent.feeder.is_ours() {
                return self.sent.feeder.tell_forked().map(Err);
            }
            if self.ready.is_empty() {
                self.collect();
            }
            if let Err(error) = self.feed() {
                return Some(Err(error));
            }
            if let Some(ready) = self.ready.pop_front() {
                return Some(Ok(ready));
            }
            let waited = if !self.sent.items.is_empty() {
                self.wait()
            } else if self.exhausted {
                return None;
            } else {
                self.sent.feeder.wait_for_place()
            };
            if let Err(error) = waited {
                self.exhausted |= is_final(&error);
                return Some(Err(error));
            }
        }
    }
}

impl<S: Source, Out: Payload, T: Tags<S>> FusedIterator for Unordered<'_, S, Out, T> {}
