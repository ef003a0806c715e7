//! Streams whose outcomes come as they are ready, each with the index of its input, or with the input itself.
//!
//! The stream keeps its requests in progress by id, and in order of age. The thread or task that asks for the next
//! outcome looks at a few of them: the oldest, and some of the others in turn. If none of those is done it leaves a waker
//! with the [`reactor`](crate::client::reactor) for each request and sleeps; a request that is done then reports itself.
//! So the cost of an outcome does not depend on how many others are in progress.
//!
//! Each input has an outcome, also after a panic: see `[turns]` of [`stream`](crate::client::stream).

use super::Inlet;
use super::feeder::{Feeder, Progress, Running, Turns, Unpushed, pull_and_keep};
use super::options::StreamOptions;
use super::source::Source;
use crate::client::hand::InHand;
use crate::client::watch::{Limit, Reactor, Watched};
use crate::client::{Core, FIRST_SLEEP, Hold, SLEEP_LIMIT};
use crate::error::CallError;
use crate::panics::let_go;
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

/// How many of the oldest requests the stream looks at, and how many of the others.
pub(super) const LOOK: usize = 32;

/// What comes with each outcome of an unordered stream of such items.
pub trait Tags<Item> {
    /// The type of the tag.
    type Tag;

    /// The tag of the item with this index, and the item if the tag does not contain it.
    #[doc(hidden)]
    fn tag(index: usize, item: Item) -> (Self::Tag, Option<Item>);
}

/// Outcomes come with the index of their input.
#[derive(Debug, Clone, Copy)]
pub struct ByIndex;

/// Outcomes come with their input.
#[derive(Debug, Clone, Copy)]
pub struct ByInput;

impl<Item> Tags<Item> for ByIndex {
    type Tag = usize;

    fn tag(index: usize, item: Item) -> (usize, Option<Item>) {
        (index, Some(item))
    }
}

impl<Item> Tags<Item> for ByInput {
    type Tag = Item;

    fn tag(_index: usize, item: Item) -> (Item, Option<Item>) {
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
pub struct Unordered<'s, S: Source, Out: Payload, T: Tags<S::Item> = ByIndex> {
    running: Running<'s, AnyOrder<S::Item, T>>,
    inlet: Inlet<S>,
    outcome: PhantomData<fn() -> Out>,
}

/// The requests in progress of a stream that has no order.
pub(super) struct AnyOrder<Item, T: Tags<Item>> {
    pub(super) feeder: Feeder,
    /// By request id.
    items: Vec<Option<InProgress<T::Tag>>>,
    /// Request ids with their inputs' numbers, oldest first. A request that has ended is not in `items` any more, or
    /// has another number there.
    order: VecDeque<(u32, u64)>,
    pub(super) in_progress: usize,
    /// Up to where the stream has looked at the others.
    looked: usize,
    /// Requests that the reactor does not watch yet.
    unwatched: Vec<(u32, u64)>,
    /// Requests that the reactor has reported.
    told: Vec<u32>,
    inbox: Arc<Inbox>,
    /// By request id, as far as they were needed: they are reused.
    wakers: Vec<Option<Waker>>,
    /// Inputs that were not sent, or whose time is over, with their errors.
    pub(super) failed: VecDeque<(T::Tag, CallError)>,
    pulled: usize,
    number: u64,
    item: PhantomData<fn(Item)>,
}

struct InProgress<Tag> {
    number: u64,
    /// 0: the reactor does not watch the request.
    ticket: u64,
    tag: Tag,
}

/// The requests that the reactor reports, and who waits for them.
#[derive(Debug, Default)]
struct Inbox(Mutex<(Vec<u32>, Sleeper)>);

/// A thread or a task that waits for an outcome.
#[derive(Debug, Clone, Default)]
pub(super) enum Sleeper {
    #[default]
    None,
    Thread(Thread),
    Task(Waker),
}

/// The waker of one request.
struct InboxWaker(Arc<Inbox>, u32);

impl Inbox {
    fn open(&self) -> MutexGuard<'_, (Vec<u32>, Sleeper)> {
        self.0.lock().unwrap_or_else(|e| e.into_inner())
    }
}

impl Wake for InboxWaker {
    fn wake(self: Arc<Self>) {
        let mut inbox = self.0.open();
        inbox.0.push(self.1);
        // A task's waker is its executor's code: [wakers outside locks] of the reactor. It is left anew before each sleep.
        let sleeper = match &mut inbox.1 {
            Sleeper::Thread(thread) => Sleeper::Thread(thread.clone()),
            other => std::mem::take(other),
        };
        drop(inbox);
        match sleeper {
            Sleeper::None => {}
            Sleeper::Thread(thread) => thread.unpark(),
            Sleeper::Task(waker) => waker.wake(),
        }
    }
}

impl<S: Source, Out: Payload, T: Tags<S::Item>> fmt::Debug for Unordered<'_, S, Out, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let in_progress = self.running.progress().in_progress;
        f.debug_struct("Unordered").field("in_progress", &in_progress).finish_non_exhaustive()
    }
}

impl<Item, T: Tags<Item>> fmt::Debug for AnyOrder<Item, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AnyOrder").field("in_progress", &self.in_progress).finish_non_exhaustive()
    }
}

impl<Item, T: Tags<Item>> AnyOrder<Item, T> {
    pub(super) fn new(core: &Core, options: StreamOptions) -> Self {
        Self {
            feeder: Feeder::new(core, options),
            items: Vec::new(),
            order: VecDeque::new(),
            in_progress: 0,
            looked: 0,
            unwatched: Vec::new(),
            told: Vec::new(),
            inbox: Arc::default(),
            wakers: Vec::new(),
            failed: VecDeque::new(),
            pulled: 0,
            number: 0,
            item: PhantomData,
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
    fn remove(&mut self, core: &Core, id: u32) -> Option<T::Tag> {
        let item = self.items.get_mut(id as usize)?.take()?;
        self.in_progress -= 1;
        core.end_watch(id, item.ticket);
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

    /// Whether the outcome of a request is there. The reactor never takes such a request.
    fn is_done(&self, core: &Core, of: (u32, u64)) -> bool {
        is_in_progress(&self.items, of) && core.task(of.0).is_some_and(|task| task.is_done())
    }

    /// A request whose outcome is there, among those that were reported, the oldest, and a few others.
    pub(super) fn find_done(&mut self, core: &Core) -> Option<u32> {
        while let Some(&id) = self.told.last() {
            if self.items.get(id as usize).is_some_and(Option::is_some)
                && core.task(id).is_some_and(|task| task.is_done())
            {
                return Some(id);
            }
            self.told.pop();
        }
        let find = |from: usize, to: usize| {
            let mut some = self.order.range(from..to.min(self.order.len()));
            some.find(|&&of| self.is_done(core, of)).map(|&(id, _)| id)
        };
        if let Some(id) = find(0, LOOK) {
            return Some(id);
        }
        let from = if self.looked < self.order.len() { self.looked.max(LOOK) } else { LOOK };
        let found = if from < self.order.len() { find(from, from + LOOK) } else { None };
        self.looked = from + LOOK;
        found
    }

    /// Records the error of requests that could not be pushed.
    fn note_pushed(&mut self, core: &Core, pushed: Result<(), Unpushed>) {
        let Err(unpushed) = pushed else { return };
        for &id in &unpushed.ids {
            if let Some(tag) = self.remove(core, id) {
                self.failed.push_back((tag, unpushed.error()));
            }
        }
    }

    pub(super) fn push(&mut self, core: &Core) {
        let pushed = self.feeder.push(core);
        self.note_pushed(core, pushed);
    }

    /// Records that an input is not sent; returns the item if its tag does not contain it.
    pub(super) fn refuse(&mut self, item: Item, error: CallError) -> Option<Item> {
        let (tag, rest) = T::tag(self.pulled, item);
        self.pulled += 1;
        self.failed.push_back((tag, error));
        rest
    }

    /// Takes an outcome, with its tag.
    pub(super) fn take<'c>(&mut self, core: &'c Core, id: u32) -> Option<(T::Tag, Done<'c>)> {
        let done = core.task(id).and_then(Task::outcome)?;
        Some((self.remove(core, id)?, done))
    }

    fn oldest(&self) -> Option<u32> {
        self.order.iter().find(|&&of| is_in_progress(&self.items, of)).map(|&(id, _)| id)
    }

    /// Ends the oldest request with an error: it has taken too long, or is the parent's of this process.
    pub(super) fn fail_oldest(&mut self, core: &Core, error: CallError) {
        if let Some(id) = self.oldest()
            && let Some(tag) = self.remove(core, id)
        {
            let error = match core.task(id) {
                Some(task) => core.give_up(task, error),
                None => error,
            };
            self.failed.push_back((tag, error));
        }
    }

    /// Whether there is something to return, so that the stream need not wait.
    pub(super) fn has_failed(&self, core: &Core) -> bool {
        !self.failed.is_empty() || !core.birth.is_here()
    }

    /// Called before the stream sleeps: leaves it with its inbox, and has the reactor watch each request. False if an
    /// outcome is there. With `until` the reactor also wakes it then, if the oldest request is still in progress.
    pub(super) fn watch(
        &mut self,
        core: &Core,
        reactor: &Reactor,
        sleeper: Sleeper,
        until: Option<Instant>,
    ) -> bool {
        let Self { feeder, items, order, .. } = &mut *self;
        let latest = order.iter().rev().filter(|&&of| is_in_progress(items, of));
        feeder.note_begun(core, latest.map(|&(id, _)| id));
        let former = std::mem::replace(&mut self.inbox.open().1, sleeper);
        let_go(former);
        while let Some(of) = self.unwatched.pop() {
            if is_in_progress(&self.items, of) && !self.watch_one(core, reactor, of.0, Limit::None) {
                return false;
            }
        }
        match (until, self.oldest()) {
            (Some(until), Some(id)) => self.watch_one(core, reactor, id, Limit::Wake(until)),
            _ => true,
        }
    }

    /// False if its outcome is there.
    fn watch_one(&mut self, core: &Core, reactor: &Reactor, id: u32, limit: Limit) -> bool {
        if self.wakers.len() <= id as usize {
            self.wakers.resize(id as usize + 1, None);
        }
        let (Some(task), Some(Some(item))) = (core.task(id), self.items.get_mut(id as usize)) else {
            return true;
        };
        let inbox = &self.inbox;
        let waker = self.wakers[id as usize]
            .get_or_insert_with(|| Waker::from(Arc::new(InboxWaker(Arc::clone(inbox), id))));
        let watched = reactor.watch(task, &mut item.ticket, limit, waker);
        if let Watched::Done(_) = watched {
            item.ticket = 0; // the watch has ended
            self.told.push(id);
        }
        matches!(watched, Watched::Waiting)
    }

    /// Reads what the reactor has reported.
    pub(super) fn read_inbox(&mut self) {
        self.told.append(&mut self.inbox.open().0);
    }
}

fn is_in_progress<Tag>(items: &[Option<InProgress<Tag>>], (id, number): (u32, u64)) -> bool {
    items.get(id as usize).is_some_and(|item| item.as_ref().is_some_and(|item| item.number == number))
}

impl<Item, T: Tags<Item>> Turns<Item> for AnyOrder<Item, T> {
    fn feeder(&mut self) -> &mut Feeder {
        &mut self.feeder
    }

    fn note(&mut self, core: &Core, item: Item, id: u32) {
        let (tag, _rest) = T::tag(self.pulled, item);
        self.pulled += 1;
        self.add(id, tag);
        let pushed = self.feeder.push_some(core, self.in_progress);
        self.note_pushed(core, pushed);
    }

    fn note_failed(&mut self, item: Item, error: CallError) {
        drop(self.refuse(item, error));
    }
}

impl<Item, T: Tags<Item>> Progress for AnyOrder<Item, T> {
    fn end(&mut self, core: &Core) {
        if core.birth.is_here() {
            let sent = self.order.iter().filter(|&&of| is_in_progress(&self.items, of));
            // The feeder gives back requests that are filled and not pushed.
            let pushed = self.in_progress - self.feeder.unpushed();
            for &(id, _) in sent.take(pushed) {
                let ticket = self.items[id as usize].as_ref().map_or(0, |item| item.ticket);
                core.end_watch(id, ticket);
                if let Some(task) = core.task(id) {
                    core.cancel(task);
                }
            }
            let sleeper = std::mem::take(&mut self.inbox.open().1);
            let_go(sleeper); // wakers that the reactor still has refer to the inbox
        }
        self.feeder.end(core);
    }
}

impl<Item, T: Tags<Item>> AnyOrder<Item, T> {
    /// Sends inputs while the window has room, only a few if an outcome is ready.
    fn feed<S: Source<Item = Item>>(&mut self, core: &Core, inlet: &mut Inlet<S>, mut is_ready: bool) {
        let mut pulled = 0;
        while self.in_progress < self.feeder.window && !inlet.exhausted {
            // So that a slow source does not delay outcomes.
            is_ready |= pulled % LOOK == LOOK - 1 && self.find_done(core).is_some();
            if pulled >= 2 && (is_ready || !self.failed.is_empty()) {
                return;
            }
            let Ok(Some(id)) = self.feeder.permit(core) else { return };
            if !pull_and_keep(self, core, &mut inlet.source, id) {
                inlet.exhausted = true;
                return;
            }
            pulled += 1;
        }
    }

    /// Makes this error the outcome of the next input, if there is one.
    fn refuse_next<S: Source<Item = Item>>(&mut self, core: &Core, inlet: &mut Inlet<S>, error: CallError) {
        match inlet.source.next() {
            Some(item) => drop(self.refuse(item, core.told(error))),
            None => inlet.exhausted = true,
        }
    }

    /// In a forked child: an input without an outcome, and its error; `None` at the end.
    #[cold]
    fn next_forked<S: Source<Item = Item>>(
        &mut self,
        core: &Core,
        inlet: &mut Inlet<S>,
    ) -> Option<(T::Tag, CallError)> {
        loop {
            if let Some(failed) = self.failed.pop_front() {
                return Some(failed);
            }
            let error = core.forked();
            if self.in_progress > 0 {
                self.fail_oldest(core, error);
            } else if inlet.exhausted {
                return None;
            } else {
                self.refuse_next(core, inlet, error);
            }
        }
    }

    /// Waits until an outcome is there, or the time is over; does not wait in a forked child.
    fn wait(&mut self, core: &Core) -> Result<(), CallError> {
        self.push(core);
        let timeout = self.feeder.options.timeout;
        if self.has_failed(core)
            || core.spin(Pace::Many, || self.find_done(core)).is_some()
            || self.has_failed(core)
        {
            return Ok(());
        }
        let (begun, reactor) = (Instant::now(), core.reactor()?);
        if !self.watch(core, reactor, Sleeper::Thread(std::thread::current()), None) {
            return Ok(());
        }
        core.doubt();
        let asleep_since = core.patience.falls_asleep();
        let mut longest = FIRST_SLEEP;
        loop {
            self.read_inbox();
            if self.find_done(core).is_some() || !core.birth.is_here() {
                core.patience.slept(asleep_since);
                return Ok(());
            }
            let total = begun.elapsed();
            if total >= timeout {
                self.fail_oldest(core, CallError::Timeout { enqueueing: Duration::ZERO, total });
                return Ok(());
            }
            if longest > FIRST_SLEEP {
                core.rescue();
                if core.look_at_server()
                    && let Some(gone) = core.gone()
                    && self.find_done(core).is_none()
                {
                    self.fail_oldest(core, gone);
                    return Ok(());
                }
            }
            std::thread::park_timeout((timeout - total).min(longest));
            longest = (2 * longest).min(SLEEP_LIMIT);
        }
    }
}

impl<'s, S: Source, Out: Payload, T: Tags<S::Item>> Unordered<'s, S, Out, T> {
    pub(super) fn new(core: Hold<'s>, source: S, options: StreamOptions) -> Self {
        let progress = AnyOrder::new(&core, options);
        Self {
            running: Running::new(core, progress),
            inlet: Inlet { source, exhausted: false },
            outcome: PhantomData,
        }
    }
}

impl<S: Source, Out: Payload, T: Tags<S::Item>> Iterator for Unordered<'_, S, Out, T> {
    type Item = Result<(T::Tag, Result<Out, CallError>), CallError>;

    fn next(&mut self) -> Option<Self::Item> {
        let Self { running, inlet, .. } = self;
        let (core, sent) = running.parts();
        loop {
            if !core.birth.is_here() {
                return sent.next_forked(core, inlet).map(|(tag, error)| Ok((tag, Err(error))));
            }
            let found = sent.find_done(core);
            sent.feed(core, inlet, found.is_some());
            if let Some((tag, error)) = sent.failed.pop_front() {
                return Some(Ok((tag, Err(error))));
            }
            if let Some((tag, done)) =
                found.or_else(|| sent.find_done(core)).and_then(|id| sent.take(core, id))
            {
                // The request is taken: if the outcome's own code panics, this was its turn.
                return Some(Ok((tag, sent.feeder.value(core, done, !inlet.exhausted))));
            }
            if sent.in_progress > 0 {
                if let Err(error) = sent.wait(core)
                    && core.birth.is_here()
                {
                    return Some(Err(error));
                }
            } else if inlet.exhausted {
                return None;
            } else if let Err(error) = sent.feeder.wait_for_permit(core) {
                sent.refuse_next(core, inlet, error);
            }
        }
    }
}

impl<S: Source, Out: Payload, T: Tags<S::Item>> FusedIterator for Unordered<'_, S, Out, T> {}
