//! Streams whose outcomes come as they are ready, each with the index of its input, or with the input itself.
//!
//! The stream keeps its requests in progress by id, and in order of age. The thread that asks for the next outcome
//! looks at a few of them: the oldest, and some of the others in turn. If none of those is done it leaves a waker with
//! the [`reactor`](crate::client::reactor) for each request and sleeps; a request that is done then reports itself. So
//! the cost of an outcome does not depend on how many others are in progress.
//!
//! Each input has an outcome, also after a panic: see `[turns]` of [`stream`](crate::client::stream).

use super::feeder::{Feeder, Turns, Unpushed, pull_and_keep};
use super::options::StreamOptions;
use super::source::Source;
use crate::client::hand::InHand;
use crate::client::watch::Watched;
use crate::client::{Core, FIRST_SLEEP, SLEEP_LIMIT};
use crate::error::CallError;
use crate::policy::patience::Pace;
use crate::wire::payload::Payload;
use ringmill_shm::arena::{Done, Task};
use std::collections::VecDeque;
use std::fmt;
use std::iter::FusedIterator;
use std::marker::PhantomData;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Wake, Waker};
use std::thread::Thread;
use std::time::{Duration, Instant};

/// How many of the oldest requests a thread looks at, and how many of the others.
const LOOK: usize = 32;

/// What comes with each outcome of an unordered stream.
pub trait Tags<S: Source> {
    /// The type of the tag.
    type Tag;

    /// The tag of the item with this index, and the item if the tag does not contain it.
    #[doc(hidden)]
    fn tag(index: usize, item: S::Item) -> (Self::Tag, Option<S::Item>);
}

/// Outcomes come with the index of their input.
#[derive(Debug, Clone, Copy)]
pub struct ByIndex;

/// Outcomes come with their input.
#[derive(Debug, Clone, Copy)]
pub struct ByInput;

impl<S: Source> Tags<S> for ByIndex {
    type Tag = usize;

    fn tag(index: usize, item: S::Item) -> (usize, Option<S::Item>) {
        (index, Some(item))
    }
}

impl<S: Source> Tags<S> for ByInput {
    type Tag = S::Item;

    fn tag(_index: usize, item: S::Item) -> (S::Item, Option<S::Item>) {
        (item, None)
    }
}

/// The outcomes of a stream as they come, each with the index of its input, or with the input itself. From
/// [`Stream::unordered`](crate::stream::Stream::unordered) and [`WithInputs::unordered`](crate::stream::WithInputs::unordered).
///
/// An item is such a pair, for every input, as in a [`Stream`](crate::stream::Stream); or an error of the stream as a whole,
/// which belongs to no input: the thread that wakes it could not be started. The timeout is how long to wait for any
/// outcome; when it is over, the oldest input ends with [`CallError::Timeout`].
///
/// Dropping it cancels the requests in progress: workers skip inputs that none has begun.
pub struct Unordered<'s, S: Source, Out: Payload, T: Tags<S> = ByIndex> {
    sent: Sent<'s, S, T>,
    source: S,
    exhausted: bool,
    inbox: Arc<Inbox>,
    outcome: PhantomData<fn() -> Out>,
}

/// The requests in progress; dropping it cancels them.
struct Sent<'s, S: Source, T: Tags<S>> {
    feeder: Feeder<'s>,
    /// By request id.
    items: Vec<Option<InProgress<T::Tag>>>,
    /// Request ids with their inputs' numbers, oldest first. A request that has ended is not in `items` any more, or
    /// has another number there.
    order: VecDeque<(u32, u64)>,
    in_progress: usize,
    /// Up to where the thread has looked at the others.
    looked: usize,
    /// Requests that the reactor does not watch yet.
    unwatched: Vec<(u32, u64)>,
    /// Requests that the reactor has reported.
    told: Vec<u32>,
    /// By request id, as far as they were needed: they are reused.
    wakers: Vec<Option<Waker>>,
    /// Inputs that were not sent, or whose time is over, with their errors.
    failed: VecDeque<(T::Tag, CallError)>,
    pulled: usize,
    number: u64,
}

struct InProgress<Tag> {
    number: u64,
    /// 0: the reactor does not watch the request.
    ticket: u64,
    tag: Tag,
}

/// The requests that the reactor reports, and the thread that it unparks.
#[derive(Debug)]
struct Inbox(Mutex<(Vec<u32>, Thread)>);

/// The waker of one request.
struct InboxWaker(Arc<Inbox>, u32);

impl Inbox {
    fn open(&self) -> MutexGuard<'_, (Vec<u32>, Thread)> {
        self.0.lock().unwrap_or_else(|e| e.into_inner())
    }
}

impl Wake for InboxWaker {
    fn wake(self: Arc<Self>) {
        let mut inbox = self.0.open();
        inbox.0.push(self.1);
        let thread = inbox.1.clone();
        drop(inbox);
        thread.unpark();
    }
}

impl<S: Source, Out: Payload, T: Tags<S>> fmt::Debug for Unordered<'_, S, Out, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Unordered").field("in_progress", &self.sent.in_progress).finish_non_exhaustive()
    }
}

impl<'s, S: Source, T: Tags<S>> Sent<'s, S, T> {
    fn new(feeder: Feeder<'s>) -> Self {
        Self {
            feeder,
            items: Vec::new(),
            order: VecDeque::new(),
            in_progress: 0,
            looked: 0,
            unwatched: Vec::new(),
            told: Vec::new(),
            wakers: Vec::new(),
            failed: VecDeque::new(),
            pulled: 0,
            number: 0,
        }
    }

    fn add(&mut self, id: u32, tag: T::Tag) {
        self.number += 1;
        let index = id as usize;
        if self.items.len() <= index {
            self.items.resize_with(index + 1, || None);
        }
        self.items[index] = Some(InProgress { number: self.number, ticket: 0, tag });
        self.order.push_back((id, self.number));
        self.unwatched.push((id, self.number));
        self.in_progress += 1;
    }

    /// Removes a request from those in progress.
    fn remove(&mut self, id: u32) -> Option<T::Tag> {
        let item = self.items.get_mut(id as usize)?.take()?;
        self.in_progress -= 1;
        self.feeder.core.end_watch(id, item.ticket);
        // Ended requests are removed at the latest when they are as many as the others.
        while self.order.front().is_some_and(|&of| !is_in_progress(&self.items, of)) {
            self.order.pop_front();
            self.looked = self.looked.saturating_sub(1);
        }
        if self.order.len() > 2 * self.in_progress + LOOK {
            self.order.retain(|&of| is_in_progress(&self.items, of));
            self.looked = 0;
        }
        if self.unwatched.len() > 2 * self.in_progress + LOOK {
            self.unwatched.retain(|&of| is_in_progress(&self.items, of));
        }
        Some(item.tag)
    }

    /// Whether the outcome of a request is there. These watches have no deadline, so the reactor never takes such a
    /// request.
    fn is_done(&self, of: (u32, u64)) -> bool {
        is_in_progress(&self.items, of) && self.feeder.task(of.0).is_some_and(|task| task.is_done())
    }

    /// A request whose outcome is there, among those that were reported, the oldest, and a few others.
    fn find_done(&mut self) -> Option<u32> {
        while let Some(&id) = self.told.last() {
            if self.items.get(id as usize).is_some_and(Option::is_some)
                && self.feeder.task(id).is_some_and(|task| task.is_done())
            {
                return Some(id);
            }
            self.told.pop();
        }
        let find = |from: usize, to: usize| {
            let mut some = self.order.range(from..to.min(self.order.len()));
            some.find(|&&of| self.is_done(of)).map(|&(id, _)| id)
        };
        if let Some(id) = find(0, LOOK) {
            return Some(id);
        }
        let from = if self.looked < self.order.len() { self.looked.max(LOOK) } else { LOOK };
        let found = if from < self.order.len() { find(from, from + LOOK) } else { None };
        self.looked = from + LOOK;
        found
    }

    /// Cancels a request that was sent.
    fn cancel(&self, id: u32) {
        if let Some(task) = self.feeder.task(id) {
            self.feeder.core.cancel(task);
        }
    }
}

fn is_in_progress<Tag>(items: &[Option<InProgress<Tag>>], (id, number): (u32, u64)) -> bool {
    items.get(id as usize).is_some_and(|item| item.as_ref().is_some_and(|item| item.number == number))
}

impl<S: Source, T: Tags<S>> fmt::Debug for Sent<'_, S, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sent").field("in_progress", &self.in_progress).finish_non_exhaustive()
    }
}

impl<'s, S: Source, T: Tags<S>> Sent<'s, S, T> {
    /// Records the error of requests that could not be pushed.
    fn note_pushed(&mut self, pushed: Result<(), Unpushed>) {
        let Err(unpushed) = pushed else { return };
        for &id in &unpushed.ids {
            if let Some(tag) = self.remove(id) {
                self.failed.push_back((tag, unpushed.error()));
            }
        }
    }

    fn push(&mut self) {
        let pushed = self.feeder.push();
        self.note_pushed(pushed);
    }

    /// Records that an input is not sent; returns the item if its tag does not contain it.
    fn refuse(&mut self, item: S::Item, error: CallError) -> Option<S::Item> {
        let (tag, rest) = T::tag(self.pulled, item);
        self.pulled += 1;
        self.failed.push_back((tag, error));
        rest
    }

    /// Takes an outcome, with its tag.
    fn take(&mut self, id: u32) -> Option<(T::Tag, Done<'s>)> {
        let done = self.feeder.task(id).and_then(Task::outcome)?;
        Some((self.remove(id)?, done))
    }

    /// Ends the oldest request with an error: it has taken too long, or is the parent's of this process.
    fn fail_oldest(&mut self, error: CallError) {
        let oldest = self.order.iter().find(|&&of| is_in_progress(&self.items, of)).map(|&(id, _)| id);
        if let Some(id) = oldest
            && let Some(tag) = self.remove(id)
        {
            self.cancel(id);
            self.failed.push_back((tag, error));
        }
    }
}

impl<'s, S: Source, T: Tags<S>> Turns<'s, S::Item> for Sent<'s, S, T> {
    fn feeder(&mut self) -> &mut Feeder<'s> {
        &mut self.feeder
    }

    fn note(&mut self, item: S::Item, id: u32) {
        let (tag, _rest) = T::tag(self.pulled, item);
        self.pulled += 1;
        self.add(id, tag);
        let pushed = self.feeder.push_some(self.in_progress);
        self.note_pushed(pushed);
    }

    fn note_failed(&mut self, item: S::Item, error: CallError) {
        drop(self.refuse(item, error));
    }
}

impl<S: Source, T: Tags<S>> Drop for Sent<'_, S, T> {
    fn drop(&mut self) {
        if !self.feeder.is_ours() {
            return;
        }
        let sent = self.order.iter().filter(|&&of| is_in_progress(&self.items, of));
        // The feeder gives back requests that are filled and not pushed.
        let pushed = self.in_progress - self.feeder.unpushed();
        for &(id, _) in sent.take(pushed) {
            let ticket = self.items[id as usize].as_ref().map_or(0, |item| item.ticket);
            self.feeder.core.end_watch(id, ticket);
            self.cancel(id);
        }
    }
}

impl<'s, S: Source, Out: Payload, T: Tags<S>> Unordered<'s, S, Out, T> {
    pub(super) fn new(core: &'s Core, source: S, options: StreamOptions) -> Self {
        Self {
            sent: Sent::new(Feeder::new(core, options)),
            source,
            exhausted: false,
            inbox: Arc::new(Inbox(Mutex::new((Vec::new(), std::thread::current())))),
            outcome: PhantomData,
        }
    }

    /// Sends inputs while the window has room, only a few if an outcome is ready.
    fn feed(&mut self, mut is_ready: bool) {
        let mut pulled = 0;
        while self.sent.in_progress < self.sent.feeder.window && !self.exhausted {
            // So that a slow source does not delay outcomes.
            is_ready |= pulled % LOOK == LOOK - 1 && self.sent.find_done().is_some();
            if pulled >= 2 && (is_ready || !self.sent.failed.is_empty()) {
                return;
            }
            let Ok(Some(id)) = self.sent.feeder.permit() else { return };
            if !pull_and_keep(&mut self.sent, &mut self.source, id) {
                self.exhausted = true;
                return;
            }
            pulled += 1;
        }
    }

    /// Makes this error the outcome of the next input, if there is one.
    fn refuse_next(&mut self, error: CallError) {
        match self.source.next() {
            Some(item) => drop(self.sent.refuse(item, error)),
            None => self.exhausted = true,
        }
    }

    /// In a forked child: an input without an outcome, and its error; `None` at the end.
    #[cold]
    fn next_forked(&mut self) -> Option<(T::Tag, CallError)> {
        loop {
            if let Some(failed) = self.sent.failed.pop_front() {
                return Some(failed);
            }
            let error = self.sent.feeder.core.forked();
            if self.sent.in_progress > 0 {
                self.sent.fail_oldest(error);
            } else if self.exhausted {
                return None;
            } else {
                self.refuse_next(error);
            }
        }
    }

    /// Waits until an outcome is there, or the time is over; does not wait in a forked child.
    fn wait(&mut self) -> Result<(), CallError> {
        let Self { sent, inbox, .. } = self;
        sent.push();
        let (core, timeout) = (sent.feeder.core, sent.feeder.options.timeout);
        let is_over = |sent: &Sent<'s, S, T>| !sent.failed.is_empty() || !sent.feeder.is_ours();
        if is_over(sent) || core.spin(Pace::Many, || sent.find_done()).is_some() || is_over(sent) {
            return Ok(());
        }
        let Sent { feeder, items, order, .. } = &mut *sent;
        let latest = order.iter().rev().filter(|&&of| is_in_progress(items, of));
        feeder.note_begun(latest.map(|&(id, _)| id));
        let (begun, reactor) = (Instant::now(), core.reactor()?);
        inbox.open().1 = std::thread::current();
        while let Some(of) = sent.unwatched.pop() {
            let id = of.0;
            if !is_in_progress(&sent.items, of) {
                continue;
            }
            if sent.wakers.len() <= id as usize {
                sent.wakers.resize(id as usize + 1, None);
            }
            if let (Some(task), Some(Some(item))) = (sent.feeder.task(id), sent.items.get_mut(id as usize)) {
                let waker = sent.wakers[id as usize]
                    .get_or_insert_with(|| Waker::from(Arc::new(InboxWaker(Arc::clone(inbox), id))));
                if let Watched::Done(_) = reactor.watch(task, &mut item.ticket, None, waker) {
                    sent.told.push(id);
                    return Ok(());
                }
            }
        }
        core.doubt();
        let asleep_since = core.patience.falls_asleep();
        let mut longest = FIRST_SLEEP;
        loop {
            sent.told.append(&mut inbox.open().0);
            if sent.find_done().is_some() || !sent.feeder.is_ours() {
                core.patience.slept(asleep_since);
                return Ok(());
            }
            let total = begun.elapsed();
            if total >= timeout {
                sent.fail_oldest(CallError::Timeout { enqueueing: Duration::ZERO, total });
                return Ok(());
            }
            if longest > FIRST_SLEEP {
                core.rescue();
            }
            std::thread::park_timeout((timeout - total).min(longest));
            longest = (2 * longest).min(SLEEP_LIMIT);
        }
    }
}

impl<S: Source, Out: Payload, T: Tags<S>> Iterator for Unordered<'_, S, Out, T> {
    type Item = Result<(T::Tag, Result<Out, CallError>), CallError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if !self.sent.feeder.is_ours() {
                return self.next_forked().map(|(tag, error)| Ok((tag, Err(error))));
            }
            let found = self.sent.find_done();
            self.feed(found.is_some());
            if let Some((tag, error)) = self.sent.failed.pop_front() {
                return Some(Ok((tag, Err(error))));
            }
            if let Some((tag, done)) =
                found.or_else(|| self.sent.find_done()).and_then(|id| self.sent.take(id))
            {
                // The request is taken: if the outcome's own code panics, this was its turn.
                return Some(Ok((tag, self.sent.feeder.value(done, !self.exhausted))));
            }
            if self.sent.in_progress > 0 {
                if let Err(error) = self.wait()
                    && self.sent.feeder.is_ours()
                {
                    return Some(Err(error));
                }
            } else if self.exhausted {
                return None;
            } else if let Err(error) = self.sent.feeder.wait_for_permit() {
                self.refuse_next(error);
            }
        }
    }
}

impl<S: Source, Out: Payload, T: Tags<S>> FusedIterator for Unordered<'_, S, Out, T> {}
