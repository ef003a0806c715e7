//! What the [reactor](super::reactor) and the futures share: the watches of requests, and the line of the futures that
//! wait for a permit.
//!
//! # Ordering
//!
//! * `[forget first]`: a request's deadline goes into its group's bound, then into the bound of all. The reactor resets
//!   the bound of all, then that of each group, then reads the deadlines. So it sees a deadline that came before, and a
//!   later one stays in the bounds.

use super::hand::InHand;
use crate::panics::let_go;
use ringmill_shm::arena::{Done, Task};
use ringmill_shm::segment::Segment;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::task::Waker;
use std::thread::Thread;
use std::time::{Duration, Instant};

/// Stands for no deadline.
pub(super) const NEVER: u64 = u64::MAX;
/// How often the relief looks.
pub(super) const LOOK: Duration = Duration::from_millis(10);
/// After this many looks without a wake the relief is no longer attentive.
const QUIET_LOOKS: u32 = 20;
/// The most threads that are blocked in wakers and were replaced.
pub(super) const BLOCKED_LIMIT: u32 = 32;

/// What the reactor's thread and the futures share.
#[derive(Debug)]
pub(crate) struct Reactor {
    /// The first request of this process.
    pub(super) first_request: u32,
    /// By request id, counted from the first.
    watches: Box<[Mutex<Watch>]>,
    /// Deadlines are nanoseconds since this instant.
    epoch: Instant,
    pub(super) deadlines: Deadlines,
    pub(super) line: Mutex<Line>,
    /// How many permits have come free since the reactor last looked.
    pub(super) freed: AtomicUsize,
    /// Whether a thread of this process has rung the bell: then the cause may be just a deadline or a permit, at which
    /// the reactor looks anyway.
    pub(super) rung: AtomicBool,
    pub(super) ended: AtomicBool,
    /// Odd while the thread on duty is within a waker.
    pub(super) wakes: AtomicU64,
    /// Whether the relief looks at intervals.
    pub(super) attentive: AtomicBool,
    pub(super) relief: Mutex<Option<Thread>>,
    /// How many threads have been relieved and are still within their wakers.
    pub(super) blocked: AtomicU32,
}

/// How many requests share one bound.
const GROUP: usize = 64;

/// Finds due deadlines without a list of them, by lower bounds, which may be those of requests that have ended since.
#[derive(Debug)]
pub(super) struct Deadlines {
    /// No deadline is sooner than this.
    earliest_ns: AtomicU64,
    /// By group: no deadline of its requests is sooner.
    groups: Box<[AtomicU64]>,
}

impl Deadlines {
    pub(super) fn new(requests: u32) -> Self {
        let groups = (0..(requests as usize).div_ceil(GROUP)).map(|_| AtomicU64::new(NEVER));
        Self { earliest_ns: AtomicU64::new(NEVER), groups: groups.collect() }
    }

    pub(super) fn earliest_ns(&self) -> u64 {
        self.earliest_ns.load(Ordering::SeqCst)
    }

    /// Adds a deadline, of a request or, for `None`, of the line; returns whether it is sooner than all others.
    pub(super) fn mind(&self, request: Option<u32>, deadline_ns: u64) -> bool {
        if let Some(group) = request.and_then(|id| self.groups.get(id as usize / GROUP)) {
            group.fetch_min(deadline_ns, Ordering::SeqCst); // before the bound of all: [forget first]
        }
        deadline_ns < self.earliest_ns.fetch_min(deadline_ns, Ordering::SeqCst)
    }

    /// Calls `look` for the requests whose deadline may be over: for the requests of their groups, or for all. `look`
    /// returns the deadline that a request has from now on.
    pub(super) fn look_at_due(&self, now_ns: u64, all: bool, mut look: impl FnMut(u32) -> u64) {
        // [forget first]: a deadline that was added before this is seen below, a later one stays.
        self.earliest_ns.swap(NEVER, Ordering::SeqCst);
        for (index, group) in self.groups.iter().enumerate() {
            let bound_ns = group.load(Ordering::SeqCst);
            if bound_ns <= now_ns || all {
                group.swap(NEVER, Ordering::SeqCst); // [forget first]
                let first = index * GROUP;
                let next_ns = (first..first + GROUP).map(|id| look(id as u32)).min().unwrap_or(NEVER);
                self.mind(Some(first as u32), next_ns);
            } else {
                self.earliest_ns.fetch_min(bound_ns, Ordering::SeqCst);
            }
        }
    }
}

/// See the table of the [reactor](super::reactor).
#[derive(Debug, Default)]
pub(super) struct Watch {
    /// The ticket of the last hold.
    ticket: u64,
    pub(super) held: bool,
    pub(super) deadline_ns: u64,
    /// At the deadline the reactor only wakes the holder, and does not take the request.
    pub(super) only_wakes: bool,
    pub(super) waker: Option<Waker>,
}

/// The time of a watch, and what the reactor does when it is over.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Limit {
    /// There is none.
    None,
    /// The reactor takes the request and cancels it.
    Cancel(Instant),
    /// The reactor wakes the holder, which keeps the request.
    Wake(Instant),
}

impl Limit {
    fn at(self) -> Option<Instant> {
        match self {
            Self::None => None,
            Self::Cancel(at) | Self::Wake(at) => Some(at),
        }
    }
}

/// The futures that wait for a permit, by ticket.
#[derive(Debug, Default)]
pub(super) struct Line {
    last: u64,
    pub(super) waiting: BTreeMap<u64, InLine>,
    /// The tickets of those that have looked and have not been woken since.
    pub(super) asleep: BTreeSet<u64>,
    /// The deadlines with their tickets, soonest first.
    deadlines: BTreeSet<(u64, u64)>,
}

#[derive(Debug)]
pub(super) struct InLine {
    deadline_ns: u64,
    /// `None`: it has been woken and has not looked yet.
    pub(super) waker: Option<Waker>,
}

/// The state of a request that is watched.
#[derive(Debug)]
pub(crate) enum Watched<'s> {
    /// It is in progress.
    Waiting,
    /// The outcome is there, and the caller of this function alone holds the request again.
    Done(Done<'s>),
    /// The reactor has taken the request: its time was over.
    TimeOver,
}

pub(super) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|e| e.into_inner()) // [wakers outside locks]: no code that can panic runs under the lock
}

impl Line {
    pub(super) fn join(&mut self, deadline_ns: u64) -> u64 {
        self.last += 1;
        self.waiting.insert(self.last, InLine { deadline_ns, waker: None });
        if deadline_ns != NEVER {
            self.deadlines.insert((deadline_ns, self.last));
        }
        self.last
    }

    /// Leaves a waker, and swaps the former one out. False if the ticket is not in line any more.
    pub(super) fn fall_asleep(&mut self, ticket: u64, waker: &mut Option<Waker>) -> bool {
        let Some(in_line) = self.waiting.get_mut(&ticket) else { return false };
        std::mem::swap(&mut in_line.waker, waker);
        self.asleep.insert(ticket);
        true
    }

    pub(super) fn leave(&mut self, ticket: u64) -> Option<InLine> {
        let in_line = self.waiting.remove(&ticket)?;
        self.asleep.remove(&ticket);
        self.deadlines.remove(&(in_line.deadline_ns, ticket));
        Some(in_line)
    }

    /// Takes the waker of the first future that sleeps; the future stays in line.
    pub(super) fn first_asleep(&mut self) -> Option<Waker> {
        self.waiting.get_mut(&self.asleep.pop_first()?)?.waker.take()
    }

    /// Removes a future whose time is over.
    pub(super) fn overdue(&mut self, now_ns: u64) -> Option<InLine> {
        let &(_, ticket) = self.deadlines.first().filter(|(deadline_ns, _)| *deadline_ns <= now_ns)?;
        self.leave(ticket)
    }

    pub(super) fn next_deadline_ns(&self) -> u64 {
        self.deadlines.first().map_or(NEVER, |&(deadline_ns, _)| deadline_ns)
    }
}

impl Watch {
    pub(super) fn is_held(&self, ticket: u64) -> bool {
        self.held && self.ticket == ticket
    }

    pub(super) fn end(&mut self) -> Option<Waker> {
        self.held = false;
        self.waker.take()
    }
}

impl Reactor {
    pub(super) fn new(requests: Range<u32>) -> Self {
        let (first_request, requests) = (requests.start, requests.end - requests.start);
        Self {
            first_request,
            watches: (0..requests).map(|_| Mutex::default()).collect(),
            epoch: Instant::now(),
            deadlines: Deadlines::new(requests),
            line: Mutex::default(),
            freed: AtomicUsize::new(0),
            rung: AtomicBool::new(false),
            ended: AtomicBool::new(false),
            wakes: AtomicU64::new(0),
            attentive: AtomicBool::new(false),
            relief: Mutex::default(),
            blocked: AtomicU32::new(0),
        }
    }

    /// The watch of a request; `None` if it is none of this process.
    pub(super) fn watch_of(&self, id: u32) -> Option<&Mutex<Watch>> {
        self.watches.get(id.wrapping_sub(self.first_request) as usize)
    }

    /// The watch of a request that this process has sent.
    fn watch_in_hand(&self, id: u32) -> &Mutex<Watch> {
        &self.watches[(id - self.first_request) as usize]
    }

    pub(super) fn ns(&self, at: Option<Instant>) -> u64 {
        let since = |at: Instant| at.saturating_duration_since(self.epoch).as_nanos();
        at.map_or(NEVER, |at| u64::try_from(since(at)).unwrap_or(NEVER))
    }

    /// Starts or renews the watch of a request that the caller holds: `waker` is woken when the outcome is there or the
    /// time is over. `ticket` is 0 at first; later calls pass the ticket of the call before.
    pub(crate) fn watch<'s>(
        &self,
        task: Task<'s>,
        ticket: &mut u64,
        limit: Limit,
        waker: &Waker,
    ) -> Watched<'s> {
        let mut former = Some(waker.clone()); // [wakers outside locks]
        let deadline_ns = self.ns(limit.at());
        let mut watch = locked(self.watch_in_hand(task.id()));
        if *ticket == 0 {
            watch.ticket += 1;
            *ticket = watch.ticket;
            watch.held = true;
        } else if !watch.is_held(*ticket) {
            drop(watch);
            let_go(former);
            return Watched::TimeOver;
        }
        watch.deadline_ns = deadline_ns;
        watch.only_wakes = matches!(limit, Limit::Wake(_));
        std::mem::swap(&mut watch.waker, &mut former);
        // [announce, then look]
        let done = if task.ask_for_notice() { task.outcome() } else { None };
        if let Some(done) = done {
            let waker = watch.end();
            drop(watch);
            let_go((former, waker));
            return Watched::Done(done);
        }
        drop(watch);
        let_go(former);
        self.mind(task.segment(), Some(task.id()), deadline_ns);
        Watched::Waiting
    }

    /// Adds a deadline, and rings the reactor if it is the soonest.
    pub(super) fn mind(&self, segment: &Segment, request: Option<u32>, deadline_ns: u64) {
        if self.deadlines.mind(request.map(|id| id - self.first_request), deadline_ns) {
            self.ring(segment);
        }
    }

    /// Makes the reactor look at a change.
    pub(super) fn ring(&self, segment: &Segment) {
        self.rung.store(true, Ordering::SeqCst);
        segment.completed().ring_if_awaited();
    }

    /// Called when a permit has come free, or a future that was woken for one leaves without: has the next in line
    /// woken.
    #[cold]
    pub(crate) fn permit_came_free(&self, segment: &Segment) {
        self.freed.fetch_add(1, Ordering::SeqCst);
        self.ring(segment);
    }

    /// The state of a request that is watched.
    pub(crate) fn look<'s>(&self, task: Task<'s>, ticket: u64) -> Watched<'s> {
        let mut watch = locked(self.watch_in_hand(task.id()));
        if !watch.is_held(ticket) {
            return Watched::TimeOver;
        }
        let Some(done) = task.outcome() else { return Watched::Waiting };
        let waker = watch.end();
        drop(watch);
        let_go(waker);
        Watched::Done(done)
    }

    /// Whether [`look`](Self::look) would find it waiting no longer.
    pub(crate) fn is_over(&self, task: Task<'_>, ticket: u64) -> bool {
        let watch = locked(self.watch_in_hand(task.id()));
        !watch.is_held(ticket) || task.is_done()
    }

    /// Takes a request back from the reactor; false if the reactor has taken it, since its time was over.
    pub(super) fn take_back(&self, id: u32, ticket: u64) -> bool {
        let mut watch = locked(self.watch_in_hand(id));
        let held = watch.is_held(ticket);
        let waker = if held { watch.end() } else { None };
        drop(watch);
        let_go(waker);
        held
    }

    /// Ends the reactor's threads; called when the server and its handles are dropped, and no future of them is left.
    pub(crate) fn end(&self, segment: &Segment) {
        self.ended.store(true, Ordering::SeqCst);
        segment.completed().ring();
        if let Some(relief) = &*locked(&self.relief) {
            relief.unpark();
        }
    }

    /// Runs in the relief: once a waker is woken, and until none has been for a while, looks whether the waker returns.
    /// True: the caller has the duty now; false: the reactor has ended.
    pub(super) fn await_duty(&self) -> bool {
        let (mut seen, mut quiet) = (0, 0);
        self.attentive.store(true, Ordering::SeqCst);
        loop {
            if self.ended.load(Ordering::SeqCst) {
                return false;
            }
            let wakes = self.wakes.load(Ordering::SeqCst);
            let is_within = wakes % 2 == 1;
            if is_within && wakes == seen && self.blocked.load(Ordering::SeqCst) < BLOCKED_LIMIT {
                self.blocked.fetch_add(1, Ordering::SeqCst);
                if self.wakes.compare_exchange(wakes, wakes + 1, Ordering::SeqCst, Ordering::SeqCst).is_ok() {
                    return true;
                }
                self.blocked.fetch_sub(1, Ordering::SeqCst);
            }
            quiet = if wakes == seen && !is_within { quiet + 1 } else { 0 };
            seen = wakes;
            if quiet < QUIET_LOOKS {
                std::thread::park_timeout(LOOK);
                continue;
            }
            self.attentive.store(false, Ordering::SeqCst); // [attentive]
            if self.wakes.load(Ordering::SeqCst) == seen && !self.ended.load(Ordering::SeqCst) {
                std::thread::park();
            }
            self.attentive.store(true, Ordering::SeqCst);
            quiet = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many looks at requests it takes to end this many requests, whose times are over one after the other.
    fn looks(requests: u32) -> u64 {
        let deadlines = Deadlines::new(requests);
        let mut left: Vec<u64> = (0..requests).map(|id| 1 + u64::from(id * 7 % requests)).collect();
        for (id, &deadline_ns) in (0..).zip(&left) {
            deadlines.mind(Some(id), deadline_ns);
        }
        let mut looks = 0;
        for now_ns in 1..=u64::from(requests) {
            assert_eq!(deadlines.earliest_ns(), now_ns, "the next one is known");
            deadlines.look_at_due(now_ns, false, |id| {
                looks += 1;
                let Some(deadline_ns) = left.get_mut(id as usize) else { return NEVER };
                if *deadline_ns <= now_ns {
                    *deadline_ns = NEVER;
                }
                *deadline_ns
            });
        }
        assert!(left.iter().all(|&deadline_ns| deadline_ns == NEVER) && deadlines.earliest_ns() == NEVER);
        looks
    }

    /// Symptom: at each deadline that was due, the reactor looked at every request. Fix: it looks at those of the
    /// group.
    #[test]
    fn looks_are_proportional_to_due_deadlines() {
        for requests in [1, 64, 1000, 8000] {
            assert!(looks(requests) <= u64::from(requests) * GROUP as u64);
        }
    }

    #[test]
    fn a_deadline_that_is_added_during_a_look_is_not_forgotten() {
        let deadlines = Deadlines::new(100);
        assert!(deadlines.mind(Some(70), 5) && !deadlines.mind(Some(71), 9) && !deadlines.mind(None, 7));
        deadlines.look_at_due(6, false, |id| {
            if id == 70 {
                assert!(deadlines.mind(Some(70), 8), "all others are forgotten");
            }
            if id == 71 { 9 } else { NEVER }
        });
        assert_eq!(deadlines.earliest_ns(), 8, "the line's deadline is added by its own look");
        let mut seen = Vec::new();
        deadlines.look_at_due(8, false, |id| {
            seen.push(id);
            NEVER
        });
        assert_eq!(seen, (64..128).collect::<Vec<_>>());
    }
}
