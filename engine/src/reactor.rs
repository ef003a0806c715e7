//! The reactor: the one thread of a server's process that wakes futures, started when the first of them has
//! to wait.
//!
//! # Protocol
//!
//! A future that finds no outcome leaves its waker and its deadline in the [`Watch`] of its request, and asks
//! for notice in the state word. Whoever finishes the request then sets its bit of the completions set, and
//! rings `completed` if the reactor sleeps. The reactor wakes what the bits say.
//!
//! | Watch | Who has the request | Left by, to |
//! |---|---|---|
//! | idle | whoever sent it, alone | that one → held, with a new ticket |
//! | held, ticket | the future, as long as its time is not over | the future → idle; the reactor → idle, when the time is over |
//!
//! When the time is over the reactor takes the request from its future and cancels it, so that the place is
//! given back even if no executor ever polls again. The future finds that its ticket is not held any more: its
//! time was over.
//!
//! Futures that wait for a place stand in a [`Line`], in the order in which they came, and for each place
//! that comes free the reactor wakes the first that has not been woken.
//!
//! # Wakers
//!
//! They are code of the executor, and are woken by the reactor's thread only: no caller that gives a place back runs
//! what another one has left. One that panics is logged, and the next is woken. One that does not return holds up
//! nobody either, beyond 10 to 20 ms: each is taken from what is shared just before it is woken, so that whoever has
//! the duty can go on without it; and as long as wakers are woken, the *relief*, a second thread, looks every
//! [`LOOK`] whether the thread on duty is still within the same one. If it is, the relief takes the duty over, looks
//! at everything once, and starts a relief of its own. The former thread ends when its waker returns.
//! [`BLOCKED_LIMIT`] threads may be held up so; wakers that block beyond that hold up those of this server.
//!
//! ```text
//! on duty:  wakes even ──wake──▶ odd ──it returns: CAS──▶ even          whose CAS succeeds has the duty
//! relief:                         └──seen twice: CAS─────▶ even, on duty
//! ```
//!
//! # Invariants
//!
//! * *one taker*: who ends a hold, under the watch's lock, has the request; nobody else touches its task.
//! * *no strangers under a lock*: wakers are cloned, woken and dropped outside of it.
//! * *one at a time*: a waker that is taken is woken before another is taken.
//!
//! # Ordering
//!
//! * *attentive*: the thread on duty stores that it is within a waker, then looks whether the relief pays attention,
//!   and unparks it if not. The relief stores that it does not, then looks whether anything was woken, then parks.
//! * *announce, then look*: a waker is left before notice is asked for, and that answers whether the outcome is
//!   there already. The reactor says that it waits, then looks at bits, deadlines and the line, then
//!   sleeps; who changes one of them looks after that whether it waits, or changes the bell's count.
//! * *line*: a future says that it waits (`freed`), stands in line, then looks for a place; who gives a place
//!   back looks after that whether somebody waits, and then at the line.
//!
//! # Crash
//!
//! A worker that dies between DONE and the bit owes a notice: after each death all bells are rung, and a
//! reactor that is woken without bits, or by its [backstop](BACKSTOP), looks at every request that is held.

use crate::error::CallError;
use crate::panics::{caught, let_go, say};
use crate::server::Core;
use ringmill_shm::arena::{Done, Task};
use ringmill_shm::segment::{Awaiting, Segment};
use ringmill_shm::sys::birth::PerProcess;
use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};
use std::thread::Thread;
use std::time::{Duration, Instant};

/// No sleep is longer: for a wake that somebody owed who died.
const BACKSTOP: Duration = Duration::from_secs(1);
/// In the place of a deadline: none.
const NEVER: u64 = u64::MAX;
/// How often the relief looks.
const LOOK: Duration = Duration::from_millis(10);
/// After so many looks at which nothing was woken it pays no more attention.
const QUIET_LOOKS: u32 = 20;
/// So many threads at most are held up by wakers that do not return, and replaced.
const BLOCKED_LIMIT: u32 = 32;

/// What the reactor's thread and the futures share.
#[derive(Debug)]
pub(crate) struct Reactor {
    /// By request.
    watches: Box<[Mutex<Watch>]>,
    /// Deadlines are nanoseconds since then.
    epoch: Instant,
    deadlines: Deadlines,
    line: Mutex<Line>,
    /// So many places have come free since the reactor has looked.
    freed: AtomicUsize,
    /// This process has rung, and there need be no more to it than the deadline or the places that the reactor looks at.
    rung: AtomicBool,
    ended: AtomicBool,
    /// Odd while the thread on duty is within a waker.
    wakes: AtomicU64,
    /// Whether the relief looks from time to time.
    attentive: AtomicBool,
    relief: Mutex<Option<Thread>>,
    /// Threads that have been relieved and are still within their wakers.
    blocked: AtomicU32,
}

/// So many requests have one earliest deadline.
const GROUP: usize = 64;

/// Which deadlines are due, without a list of them: bounds, which may be those of requests that have ended since.
#[derive(Debug)]
struct Deadlines {
    /// No deadline is sooner.
    earliest_ns: AtomicU64,
    /// None of a group's requests is.
    groups: Box<[AtomicU64]>,
}

impl Deadlines {
    fn new(requests: u32) -> Self {
        let groups = (0..(requests as usize).div_ceil(GROUP)).map(|_| AtomicU64::new(NEVER));
        Self { earliest_ns: AtomicU64::new(NEVER), groups: groups.collect() }
    }

    fn earliest_ns(&self) -> u64 {
        self.earliest_ns.load(Ordering::SeqCst)
    }

    /// Minds one of a request, if there is one, or of the line; whether it is sooner than all others.
    fn mind(&self, request: Option<u32>, deadline_ns: u64) -> bool {
        if let Some(group) = request.and_then(|id| self.groups.get(id as usize / GROUP)) {
            group.fetch_min(deadline_ns, Ordering::SeqCst); // before the bound of all: *forget first*
        }
        deadline_ns < self.earliest_ns.fetch_min(deadline_ns, Ordering::SeqCst)
    }

    /// Looks at the requests that may have a deadline that is over: at their groups', or at all of them. `look` answers
    /// with the deadline that a request has from now on.
    fn look_at_due(&self, now_ns: u64, all: bool, mut look: impl FnMut(u32) -> u64) {
        // *forget first*: a deadline that was minded before this is seen below, one minded later stays.
        self.earliest_ns.swap(NEVER, Ordering::SeqCst);
        for (index, group) in self.groups.iter().enumerate() {
            let bound_ns = group.load(Ordering::SeqCst);
            if bound_ns <= now_ns || all {
                group.swap(NEVER, Ordering::SeqCst); // *forget first*
                let first = index * GROUP;
                let next_ns = (first..first + GROUP).map(|id| look(id as u32)).min().unwrap_or(NEVER);
                self.mind(Some(first as u32), next_ns);
            } else {
                self.earliest_ns.fetch_min(bound_ns, Ordering::SeqCst);
            }
        }
    }
}

/// See the module's table.
#[derive(Debug, Default)]
struct Watch {
    /// That of the last hold.
    ticket: u64,
    held: bool,
    deadline_ns: u64,
    waker: Option<Waker>,
}

/// Those that wait for a place, by ticket.
#[derive(Debug, Default)]
struct Line {
    last: u64,
    waiting: BTreeMap<u64, InLine>,
    /// Those of them that have looked and have not been woken since.
    asleep: BTreeSet<u64>,
    /// Those of them that do not wait for ever, the soonest first.
    deadlines: BTreeSet<(u64, u64)>,
}

#[derive(Debug)]
struct InLine {
    deadline_ns: u64,
    /// None: it has been woken and has not looked yet.
    waker: Option<Waker>,
}

/// What became of a request that is watched.
#[derive(Debug)]
pub(crate) enum Watched<'s> {
    /// It is in progress.
    Waiting,
    /// The outcome is there, and the request is the asker's alone again.
    Done(Done<'s>),
    /// The reactor has taken the request: its time was over.
    TimeOver,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|e| e.into_inner()) // what can panic is outside
}

impl Line {
    fn join(&mut self, deadline_ns: u64) -> u64 {
        self.last += 1;
        self.waiting.insert(self.last, InLine { deadline_ns, waker: None });
        if deadline_ns != NEVER {
            self.deadlines.insert((deadline_ns, self.last));
        }
        self.last
    }

    /// Leaves a waker; gives the former one back. False if it does not stand in line any more.
    fn fall_asleep(&mut self, ticket: u64, waker: &mut Option<Waker>) -> bool {
        let Some(place) = self.waiting.get_mut(&ticket) else { return false };
        std::mem::swap(&mut place.waker, waker);
        self.asleep.insert(ticket);
        true
    }

    fn leave(&mut self, ticket: u64) -> Option<InLine> {
        let place = self.waiting.remove(&ticket)?;
        self.asleep.remove(&ticket);
        self.deadlines.remove(&(place.deadline_ns, ticket));
        Some(place)
    }

    /// The first that sleeps is to be woken, and keeps its place in line.
    fn first_asleep(&mut self) -> Option<Waker> {
        self.waiting.get_mut(&self.asleep.pop_first()?)?.waker.take()
    }

    /// One whose time is over.
    fn overdue(&mut self, now_ns: u64) -> Option<InLine> {
        let &(_, ticket) = self.deadlines.first().filter(|(deadline_ns, _)| *deadline_ns <= now_ns)?;
        self.leave(ticket)
    }

    fn next_deadline_ns(&self) -> u64 {
        self.deadlines.first().map_or(NEVER, |&(deadline_ns, _)| deadline_ns)
    }
}

impl Watch {
    fn is_held(&self, ticket: u64) -> bool {
        self.held && self.ticket == ticket
    }

    fn end(&mut self) -> Option<Waker> {
        self.held = false;
        self.waker.take()
    }
}

impl Reactor {
    fn new(requests: u32) -> Self {
        Self {
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

    fn ns(&self, at: Option<Instant>) -> u64 {
        let since = |at: Instant| at.saturating_duration_since(self.epoch).as_nanos();
        at.map_or(NEVER, |at| u64::try_from(since(at)).unwrap_or(NEVER))
    }

    /// The asker, who has the request, waits for its outcome until `until`, and has `waker` woken. `ticket` is
    /// 0, or what the call before made it.
    pub(crate) fn watch<'s>(
        &self,
        task: Task<'s>,
        ticket: &mut u64,
        until: Option<Instant>,
        waker: &Waker,
    ) -> Watched<'s> {
        let mut former = Some(waker.clone()); // *no strangers under a lock*
        let deadline_ns = self.ns(until);
        let mut watch = locked(&self.watches[task.id() as usize]);
        if *ticket == 0 {
            watch.ticket += 1;
            *ticket = watch.ticket;
            watch.held = true;
            watch.deadline_ns = deadline_ns;
        } else if !watch.is_held(*ticket) {
            drop(watch);
            let_go(former);
            return Watched::TimeOver;
        }
        std::mem::swap(&mut watch.waker, &mut former);
        // *announce, then look*
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

    /// Has the reactor look at a deadline that may be sooner than those it knows.
    fn mind(&self, segment: &Segment, request: Option<u32>, deadline_ns: u64) {
        if self.deadlines.mind(request, deadline_ns) {
            self.ring(segment);
        }
    }

    /// Has the reactor look at what was just changed.
    fn ring(&self, segment: &Segment) {
        self.rung.store(true, Ordering::SeqCst);
        segment.completed().ring_if_awaited();
    }

    /// A place has come free, or one that was woken for a place goes without: has the next in line woken.
    #[cold]
    pub(crate) fn place_came_free(&self, segment: &Segment) {
        self.freed.fetch_add(1, Ordering::SeqCst);
        self.ring(segment);
    }

    /// What has become of a request that is watched.
    pub(crate) fn look<'s>(&self, task: Task<'s>, ticket: u64) -> Watched<'s> {
        let mut watch = locked(&self.watches[task.id() as usize]);
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
        let watch = locked(&self.watches[task.id() as usize]);
        !watch.is_held(ticket) || task.outcome().is_some()
    }

    /// Takes a request back from the reactor; false if that has taken it, since its time was over.
    fn take_back(&self, id: u32, ticket: u64) -> bool {
        let mut watch = locked(&self.watches[id as usize]);
        let held = watch.is_held(ticket);
        let waker = if held { watch.end() } else { None };
        drop(watch);
        let_go(waker);
        held
    }

    /// The server is no more: no future of it is left.
    pub(crate) fn end(&self, core: &Core) {
        self.ended.store(true, Ordering::SeqCst);
        core.segment.completed().ring();
        if let Some(relief) = &*locked(&self.relief) {
            relief.unpark();
        }
    }

    /// Looks when something is woken, and until nothing has been for a while, whether a waker returns. Says that the
    /// caller has the duty now, or that the reactor has ended.
    fn await_duty(&self) -> bool {
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
            self.attentive.store(false, Ordering::SeqCst); // *attentive*
            if self.wakes.load(Ordering::SeqCst) == seen && !self.ended.load(Ordering::SeqCst) {
                std::thread::park();
            }
            self.attentive.store(true, Ordering::SeqCst);
            quiet = 0;
        }
    }
}

/// A thread of the reactor that has the duty, until it is relieved.
struct Shift<'r> {
    reactor: &'r Reactor,
    core: &'r Core,
    relieved: Cell<bool>,
}

impl Shift<'_> {
    /// Wakes one, whose code is its executor's.
    fn wake(&self, waker: Waker) {
        let wakes = &self.reactor.wakes;
        // Relaxed: as long as it is even, nobody but the thread on duty changes it.
        let within = wakes.load(Ordering::Relaxed) | 1;
        if !self.relieved.get() {
            wakes.store(within, Ordering::SeqCst); // *attentive*
            if !self.reactor.attentive.load(Ordering::SeqCst)
                && let Some(relief) = &*locked(&self.reactor.relief)
            {
                relief.unpark();
            }
        }
        if let Err(panic) = caught(AssertUnwindSafe(|| waker.wake())) {
            say(
                || tracing::error!(server = %self.core.name, "a future's waker {panic}; the others are woken"),
            );
        }
        if !self.relieved.get()
            && wakes.compare_exchange(within, within + 1, Ordering::SeqCst, Ordering::SeqCst).is_err()
        {
            self.relieved.set(true);
            self.reactor.blocked.fetch_sub(1, Ordering::SeqCst);
        }
    }

    /// Wakes who waits for this request, if its outcome is there.
    fn wake_watch(&self, id: u32) {
        let Some(watch) = self.reactor.watches.get(id as usize) else { return };
        let mut watch = locked(watch);
        // A bit may be of a former use of the request.
        let done =
            watch.held && Task::new(&self.core.segment, id).is_some_and(|task| task.outcome().is_some());
        let waker = if done { watch.waker.take() } else { None };
        drop(watch);
        waker.into_iter().for_each(|waker| self.wake(waker));
    }

    fn wake_all_done(&self) {
        (0..self.reactor.watches.len() as u32).for_each(|id| self.wake_watch(id));
    }

    /// Wakes what the completions set says; whether it said anything.
    fn wake_completed(&self) -> bool {
        let mut found = false;
        self.core.segment.take_completions(|id| {
            found = true;
            self.wake_watch(id);
        });
        found
    }

    /// Ends what has taken too long, and finds the next deadline.
    fn end_overdue(&self, whatever_is_known: bool) {
        let reactor = self.reactor;
        let now_ns = reactor.ns(Some(Instant::now()));
        if now_ns < reactor.deadlines.earliest_ns() && !whatever_is_known {
            return;
        }
        reactor.deadlines.look_at_due(now_ns, whatever_is_known, |id| self.end_if_overdue(id, now_ns));
        loop {
            let mut line = locked(&reactor.line);
            let Some(place) = line.overdue(now_ns) else {
                reactor.deadlines.mind(None, line.next_deadline_ns());
                break;
            };
            drop(line);
            match place.waker {
                Some(waker) => self.wake(waker),
                None => self.wake_line(1), // it had been woken for a place, and does not take it
            }
        }
    }

    /// Takes a request whose time is over from its future; what deadline it has from now on.
    fn end_if_overdue(&self, id: u32, now_ns: u64) -> u64 {
        let (reactor, core) = (self.reactor, self.core);
        let Some(watch) = reactor.watches.get(id as usize) else { return NEVER };
        let mut watch = locked(watch);
        if !watch.held {
            return NEVER;
        }
        if watch.deadline_ns > now_ns {
            return watch.deadline_ns;
        }
        let waker = watch.end(); // *one taker*
        drop(watch);
        if let Some(task) = Task::new(&core.segment, id) {
            core.cancel(task);
        }
        waker.into_iter().for_each(|waker| self.wake(waker));
        NEVER
    }

    /// Wakes the first that wait for a place: so many have come free. One that is woken keeps its place in line
    /// until it has taken a place; if it goes without, it has the next woken.
    fn wake_line(&self, places: usize) {
        for _ in 0..places {
            let waker = locked(&self.reactor.line).first_asleep();
            let Some(waker) = waker else { return };
            self.wake(waker);
        }
    }

    /// Wakes as many that wait for a place as there are beside those for which others have been woken; all, if none
    /// will have one. `idle`: those that have been woken do not look any more.
    fn look_at_line(&self, idle: bool) {
        let line = locked(&self.reactor.line);
        let (asleep, woken) = (line.asleep.len(), line.waiting.len() - line.asleep.len());
        drop(line);
        if asleep == 0 {
            return;
        }
        let free = (self.core.capacity - self.core.slots.in_use(&self.core.segment)) as usize;
        let spoken_for = if idle { 0 } else { woken };
        self.wake_line(if self.core.is_closed() { usize::MAX } else { free.saturating_sub(spoken_for) });
    }

    /// Until the reactor has ended, or another thread has the duty.
    fn run(&self, takes_over: bool) {
        let (reactor, bell) = (self.reactor, self.core.segment.completed());
        let mut idle = false;
        if takes_over {
            self.wake_all_done(); // the thread before was in the midst of it
            self.end_overdue(true);
            self.look_at_line(true);
        }
        while !reactor.ended.load(Ordering::SeqCst) && !self.relieved.get() {
            self.end_overdue(false);
            let more = |this: &Self| {
                this.wake_line(reactor.freed.swap(0, Ordering::SeqCst));
                this.wake_completed() || reactor.ended.load(Ordering::SeqCst) || this.relieved.get()
            };
            if more(self) {
                continue;
            }
            let awaiting = bell.await_rings();
            let count = bell.count();
            // *announce, then look*
            if more(self) {
                continue;
            }
            self.look_at_line(idle);
            let left_ns = reactor.deadlines.earliest_ns().saturating_sub(reactor.ns(Some(Instant::now())));
            let limit = Duration::from_nanos(left_ns).min(BACKSTOP);
            if reactor.freed.load(Ordering::SeqCst) == 0 && !self.relieved.get() {
                bell.sleep(count, Some(limit));
            }
            drop(awaiting);
            let rung = reactor.rung.swap(false, Ordering::SeqCst);
            idle = limit == BACKSTOP && bell.count() == count;
            if !self.wake_completed() && !rung {
                self.wake_all_done();
            }
        }
    }
}

impl Core {
    /// The reactor, which is started if it is not there.
    pub(crate) fn reactor(&self) -> Result<&Arc<Reactor>, CallError> {
        self.own()?; // neither its thread nor its locks are of use to a forked child
        match self.reactor.get() {
            Some(reactor) => Ok(reactor),
            None => self.start_reactor(),
        }
    }

    /// Ends a watch, if there is one (`ticket` is not 0); false if the reactor has taken the request.
    pub(crate) fn end_watch(&self, id: u32, ticket: u64) -> bool {
        if !self.birth.is_here() {
            return false;
        }
        match (ticket, self.reactor.get()) {
            (0, _) | (_, None) => true,
            (ticket, Some(reactor)) => reactor.take_back(id, ticket),
        }
    }

    #[cold]
    fn start_reactor(&self) -> Result<&Arc<Reactor>, CallError> {
        static STARTING: PerProcess<Mutex<()>> = PerProcess::new(Mutex::default);
        let _one_at_a_time = locked(STARTING.get_or_make());
        if let Some(reactor) = self.reactor.get() {
            return Ok(reactor);
        }
        let reactor = Arc::new(Reactor::new(self.capacity));
        // Both are kept until the server is dropped, which ends the threads.
        let (here, core) = (Arc::clone(&reactor), self.me.upgrade().expect("it is borrowed from its server"));
        let thread = std::thread::Builder::new().name("ringmill-reactor".into());
        match thread.spawn(move || serve(&here, &core, false)) {
            Ok(_detached) => Ok(self.reactor.get_or_init(|| reactor)),
            Err(error) => Err(CallError::NoReactor { message: error.to_string() }),
        }
    }
}

/// The life of a thread on duty.
fn serve(reactor: &Arc<Reactor>, core: &Arc<Core>, takes_over: bool) {
    let (here, of) = (Arc::clone(reactor), Arc::clone(core));
    let relief = move || {
        if here.await_duty() {
            let server = of.name.clone();
            let tell = move || {
                say(
                    || tracing::warn!(%server, "a future's waker does not return; another thread wakes the others"),
                );
            };
            // A listener of the log may block too.
            let _ = std::thread::Builder::new().name("ringmill-log".into()).spawn(tell);
            serve(&here, &of, true);
        }
    };
    match std::thread::Builder::new().name("ringmill-relief".into()).spawn(relief) {
        Ok(thread) => *locked(&reactor.relief) = Some(thread.thread().clone()),
        Err(error) => {
            *locked(&reactor.relief) = None;
            say(
                || tracing::warn!(server = %core.name, %error, "a waker that blocks will hold up others: there is no thread to relieve the reactor"),
            );
        }
    }
    Shift { reactor, core, relieved: Cell::new(false) }.run(takes_over);
}

/// Waits for a place, as a future does.
#[derive(Debug)]
pub(crate) struct PlaceWait<'c> {
    core: &'c Core,
    begun: Instant,
    ticket: u64,
    _awaiting: Awaiting<'c>,
}

impl<'c> PlaceWait<'c> {
    /// Stands in line until `until`; what it says of its wait is counted from `begun`, as `until` is.
    pub(crate) fn begin(core: &'c Core, begun: Instant, until: Option<Instant>) -> Result<Self, CallError> {
        let reactor = core.reactor()?;
        let awaiting = core.segment.freed().await_rings(); // *line*
        let deadline_ns = reactor.ns(until);
        let ticket = locked(&reactor.line).join(deadline_ns);
        reactor.mind(&core.segment, None, deadline_ns);
        Ok(Self { core, begun, ticket, _awaiting: awaiting })
    }

    /// A place, and how long it was waited for.
    pub(crate) fn poll(&mut self, context: &Context<'_>) -> Poll<Result<(u32, Duration), CallError>> {
        let reactor = self.core.reactor()?;
        let mut waker = Some(context.waker().clone());
        let stands = locked(&reactor.line).fall_asleep(self.ticket, &mut waker);
        let_go(waker);
        if !stands {
            let (capacity, waited) = (self.core.capacity, self.begun.elapsed());
            return Poll::Ready(Err(CallError::ServerBacklogFull { capacity, waited }));
        }
        // *line*: in line, then look.
        match self.core.try_acquire() {
            Ok(Some(id)) => Poll::Ready(Ok((id, self.begun.elapsed()))),
            Ok(None) => match self.core.refusal() {
                Some(error) => Poll::Ready(Err(error)),
                None => Poll::Pending,
            },
            Err(error) => Poll::Ready(Err(error)),
        }
    }
}

impl Drop for PlaceWait<'_> {
    fn drop(&mut self) {
        let Some(reactor) = self.core.reactor.get().filter(|_| self.core.birth.is_here()) else { return };
        let Some(place) = locked(&reactor.line).leave(self.ticket) else { return };
        // One that was woken and goes without a place, or with another than that it was woken for, leaves it
        // to the next.
        match place.waker {
            Some(waker) => let_go(waker),
            None => reactor.place_came_free(&self.core.segment),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many looks at requests it takes to end all of so many, whose times are over one after the other.
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

    /// Symptom: each time at which something was due, the reactor looked at every request. Fix: at those of its group.
    #[test]
    fn looks_at_deadlines_grow_as_these_do() {
        for requests in [1, 64, 1000, 8000] {
            assert!(looks(requests) <= u64::from(requests) * GROUP as u64);
        }
    }

    #[test]
    fn a_deadline_that_is_minded_during_a_look_is_not_forgotten() {
        let deadlines = Deadlines::new(100);
        assert!(deadlines.mind(Some(70), 5) && !deadlines.mind(Some(71), 9) && !deadlines.mind(None, 7));
        deadlines.look_at_due(6, false, |id| {
            if id == 70 {
                assert!(deadlines.mind(Some(70), 8), "all others are forgotten");
            }
            if id == 71 { 9 } else { NEVER }
        });
        assert_eq!(deadlines.earliest_ns(), 8, "the line's is minded by its own look");
        let mut seen = Vec::new();
        deadlines.look_at_due(8, false, |id| {
            seen.push(id);
            NEVER
        });
        assert_eq!(seen, (64..128).collect::<Vec<_>>());
    }
}
