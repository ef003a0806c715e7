//! Streams whose outcomes come as they are done, each with the index of its input, or with the input itself.
//!
//! What is in progress is kept by request, and in order of age. Who asks for the next outcome looks at a few of it: the
//! oldest, and some of the others in turn. If none of those is there it leaves a waker with the
//! [`reactor`](crate::client::reactor) for each request and sleeps; what is done then says so itself. So what an outcome costs
//! does not depend on how many others are in progress.
//!
//! Each input has an outcome, and a panic leaves it its turn: see [`stream`](crate::client::stream).

use super::feeder::{Books, Feeder, Unpushed, pull_and_keep};
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

/// How many of the oldest are looked at, and how many of the others.
const LOOK: usize = 32;

/// What each outcome of an unordered stream comes with.
pub trait Tags<S: Source> {
    /// Its type.
    type Tag;

    /// That of the item with this index, and what is left of the item.
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
/// [`Stream::unordered`](crate::Stream::unordered) and [`WithInputs::unordered`](crate::WithInputs::unordered).
///
/// An item is such a pair, for every input, as of a [`Stream`](crate::Stream); or an error of the stream as a whole, which
/// is of no input: the thread that wakes it could not be started. The timeout is how long to wait for any outcome; when it
/// is over, the oldest input ends with [`CallError::Timeout`].
///
/// Dropping it cancels what is in progress: inputs that no worker has begun are skipped.
pub struct Unordered<'s, S: Source, Out: Payload, T: Tags<S> = ByIndex> {
    sent: Sent<'s, S, T>,
    source: S,
    exhausted: bool,
    inbox: Arc<Inbox>,
    outcome: PhantomData<fn() -> Out>,
}

/// What is in progress; dropping it cancels that.
struct Sent<'s, S: Source, T: Tags<S>> {
    feeder: Feeder<'s>,
    /// By request.
    items: Vec<Option<InProgress<T::Tag>>>,
    /// Requests and their numbers, oldest first. Those that have ended meanwhile are not in `items` any more, or under
    /// another number.
    order: VecDeque<(u32, u64)>,
    in_progress: usize,
    /// Up to where the others have been looked at.
    looked: usize,
    /// Those that the reactor does not watch yet.
    unwatched: Vec<(u32, u64)>,
    /// Those that the reactor has told of.
    told: Vec<u32>,
    /// By request, as far as they were needed: they are used again.
    wakers: Vec<Option<Waker>>,
    /// Inputs that have ended without having been sent, or in time.
    failed: VecDeque<(T::Tag, CallError)>,
    pulled: usize,
    number: u64,
}

struct InProgress<Tag> {
    number: u64,
    /// 0: the reactor does not watch it.
    ticket: u64,
    tag: Tag,
}

/// What the reactor says, and to which thread.
#[derive(Debug)]
struct Inbox(Mutex<(Vec<u32>, Thread)>);

/// Of one request.
struct Note(Arc<Inbox>, u32);

impl Inbox {
    fn open(&self) -> MutexGuard<'_, (Vec<u32>, Thread)> {
        self.0.lock().unwrap_or_else(|e| e.into_inner())
    }
}

impl Wake for Note {
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

    /// Takes one away from what is in progress.
    fn remove(&mut self, id: u32) -> Option<T::Tag> {
        let item = self.items.get_mut(id as usize)?.take()?;
        self.in_progress -= 1;
        self.feeder.core.end_watch(id, item.ticket);
        // What has ended is let go of at the latest when it is as much as what has not.
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

    /// Whether the outcome of one is there. What the reactor watches here has no deadline, so it never takes a
    /// request from us.
    fn is_done(&self, of: (u32, u64)) -> bool {
        is_in_progress(&self.items, of) && self.feeder.task(of.0).is_some_and(|task| task.is_done())
    }

    /// One whose outcome is there, of those that were told of, the oldest, and a few others.
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

    /// Cancels one that was sent.
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
    /// What could not be pushed has failed.
    fn note_pushed(&mut self, pushed: Result<(), Unpushed>) {
        let Err(unpushed) = pushed else { return };
        for id in unpushed.ids {
            if let Some(tag) = self.remove(id) {
                self.failed.push_back((tag, CallError::Corrupt { message: unpushed.message.clone() }));
            }
        }
    }

    fn push(&mut self) {
        let pushed = self.feeder.push();
        self.note_pushed(pushed);
    }

    /// Notes that an input is not sent; gives back what is left of its item.
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

    /// The oldest has taken too long, or is the parent's of this process.
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

impl<'s, S: Source, T: Tags<S>> Books<'s, S::Item> for Sent<'s, S, T> {
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
        // What is filled and not pushed, the feeder gives back.
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

    /// Sends inputs while there is room, a few if something can be given out.
    fn feed(&mut self, mut is_ready: bool) {
        let mut pulled = 0;
        while self.sent.in_progress < self.sent.feeder.window && !self.exhausted {
            // A slow source does not hold outcomes back.
            is_ready |= pulled % LOOK == LOOK - 1 && self.sent.find_done().is_some();
            if pulled >= 2 && (is_ready || !self.sent.failed.is_empty()) {
                return;
            }
            let Ok(Some(id)) = self.sent.feeder.place() else { return };
            if !pull_and_keep(&mut self.sent, &mut self.source, id) {
                self.exhausted = true;
                return;
            }
            pulled += 1;
        }
    }

    /// There is no place for the next input, if there is one: that is its outcome.
    fn refuse_next(&mut self, error: CallError) {
        match self.source.next() {
            Some(item) => drop(self.sent.refuse(item, error)),
            None => self.exhausted = true,
        }
    }

    /// An input that has had no outcome, and its error, in a forked child; `None` at the end.
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

    /// Waits until an outcome is there, or the time is over; in a forked child for nothing.
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
                    .get_or_insert_with(|| Waker::from(Arc::new(Note(Arc::clone(inbox), id))));
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
                // It is taken: should its own code panic, that has been its turn.
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
            } else if let Err(error) = self.sent.feeder.wait_for_place() {
                self.refuse_next(error);
            }
        }
    }
}

impl<S: Source, Out: Payload, T: Tags<S>> FusedIterator for Unordered<'_, S, Out, T> {}
