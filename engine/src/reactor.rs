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
//! Futures that wait for a place stand in a [`Line`], in the order in which they came, and each place
//! that comes free wakes the first that has not been woken.
//!
//! # Invariants
//!
//! * *one taker*: who ends a hold, under the watch's lock, has the request; nobody else touches its task.
//! * *no strangers under a lock*: wakers are cloned, woken and dropped outside of it, since they are code of the
//!   executor.
//!
//! # Ordering
//!
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
use crate::server::Core;
use ringmill_shm::arena::{Done, Task};
use ringmill_shm::segment::{Awaiting, Segment};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

/// No sleep is longer: for a wake that somebody owed who died.
const BACKSTOP: Duration = Duration::from_secs(1);
/// In the place of a deadline: none.
const NEVER: u64 = u64::MAX;

/// What the reactor's thread and the futures share.
#[derive(Debug)]
pub(crate) struct Reactor {
    /// By request.
    watches: Box<[Mutex<Watch>]>,
    /// Deadlines are nanoseconds since then.
    epoch: Instant,
    /// No deadline is sooner.
    earliest_ns: AtomicU64,
    line: Mutex<Line>,
    ended: AtomicBool,
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
            earliest_ns: AtomicU64::new(NEVER),
            line: Mutex::default(),
            ended: AtomicBool::new(false),
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
            return Watched::TimeOver;
        }
        std::mem::swap(&mut watch.waker, &mut former);
        // *announce, then look*
        let done = if task.ask_for_notice() { task.outcome() } else { None };
        if let Some(done) = done {
            let _waker = watch.end();
            drop(watch);
            return Watched::Done(done);
        }
        drop(watch);
        self.mind(task.segment(), deadline_ns);
        Watched::Waiting
    }

    /// Has the reactor look at a deadline that may be sooner than those it knows.
    fn mind(&self, segment: &Segment, deadline_ns: u64) {
        if deadline_ns < self.earliest_ns.fetch_min(deadline_ns, Ordering::SeqCst) {
            segment.completed().ring();
        }
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
        drop(waker);
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
        drop(waker);
        held
    }

    /// Wakes who waits for this request, if its outcome is there.
    fn wake(&self, core: &Core, id: u32) {
        let Some(watch) = self.watches.get(id as usize) else { return };
        let mut watch = locked(watch);
        // A bit may be of a former use of the request.
        let done = watch.held && Task::new(&core.segment, id).is_some_and(|task| task.outcome().is_some());
        let waker = if done { watch.waker.take() } else { None };
        drop(watch);
        waker.into_iter().for_each(Waker::wake);
    }

    /// Wakes what the completions set says; whether it said anything.
    fn wake_completed(&self, core: &Core) -> bool {
        let mut found = false;
        core.segment.take_completions(|id| {
            found = true;
            self.wake(core, id);
        });
        found
    }

    /// Ends what has taken too long, and finds the next deadline.
    fn end_overdue(&self, core: &Core) {
        let now_ns = self.ns(Some(Instant::now()));
        if now_ns < self.earliest_ns.load(Ordering::SeqCst) {
            return;
        }
        // Forget first: a deadline that was minded before this is seen below, one minded later stays.
        self.earliest_ns.swap(NEVER, Ordering::SeqCst);
        for (id, watch) in (0..).zip(&self.watches) {
            let mut watch = locked(watch);
            if !watch.held {
                continue;
            }
            if watch.deadline_ns > now_ns {
                self.earliest_ns.fetch_min(watch.deadline_ns, Ordering::SeqCst);
                continue;
            }
            let waker = watch.end(); // *one taker*
            drop(watch);
            if let Some(task) = Task::new(&core.segment, id) {
                core.cancel(task);
            }
            waker.into_iter().for_each(Waker::wake);
        }
        self.end_overdue_in_line(now_ns);
    }

    fn end_overdue_in_line(&self, now_ns: u64) {
        let mut line = locked(&self.line);
        let overdue = |place: &InLine| place.deadline_ns <= now_ns;
        let over: Vec<InLine> =
            line.waiting.extract_if(.., |_, place| overdue(place)).map(|(_, p)| p).collect();
        let next = line.waiting.values().map(|place| place.deadline_ns).min();
        drop(line);
        self.earliest_ns.fetch_min(next.unwrap_or(NEVER), Ordering::SeqCst);
        // One that had been woken for a place does not take it.
        let passed_on = over.iter().filter(|place| place.waker.is_none()).count();
        over.into_iter().filter_map(|place| place.waker).for_each(Waker::wake);
        self.wake_line(passed_on);
    }

    /// Wakes the first that wait for a place: so many have come free. One that is woken keeps its place in line
    /// until it has taken a place; if it goes without, it wakes the next.
    #[cold]
    pub(crate) fn wake_line(&self, places: usize) {
        let mut line = locked(&self.line);
        let asleep = line.waiting.values_mut().filter_map(|place| place.waker.take());
        let wakers: Vec<Waker> = asleep.take(places).collect();
        drop(line);
        wakers.into_iter().for_each(Waker::wake);
    }

    /// Wakes as many that wait for a place as there are; all, if none will have one.
    fn look_at_line(&self, core: &Core) {
        if locked(&self.line).waiting.is_empty() {
            return;
        }
        let free = core.capacity - core.slots.in_use(&core.segment);
        self.wake_line(if core.is_closed() { usize::MAX } else { free as usize });
    }

    /// The server is no more: no future of it is left.
    pub(crate) fn end(&self, core: &Core) {
        self.ended.store(true, Ordering::SeqCst);
        core.segment.completed().ring();
    }

    fn run(&self, core: &Core) {
        let bell = core.segment.completed();
        while !self.ended.load(Ordering::SeqCst) {
            self.end_overdue(core);
            if self.wake_completed(core) {
                continue;
            }
            let awaiting = bell.await_rings();
            let count = bell.count();
            // *announce, then look*
            if self.wake_completed(core) || self.ended.load(Ordering::SeqCst) {
                continue;
            }
            self.look_at_line(core);
            let left_ns =
                self.earliest_ns.load(Ordering::SeqCst).saturating_sub(self.ns(Some(Instant::now())));
            bell.sleep(count, Some(Duration::from_nanos(left_ns).min(BACKSTOP)));
            drop(awaiting);
            if !self.wake_completed(core) {
                (0..).zip(&self.watches).for_each(|(id, _)| self.wake(core, id));
            }
        }
    }
}

impl Core {
    /// The reactor, which is started if it is not there.
    pub(crate) fn reactor(&self) -> Result<&Arc<Reactor>, CallError> {
        match self.reactor.get() {
            Some(reactor) => Ok(reactor),
            None => self.start_reactor(),
        }
    }

    /// Ends a watch, if there is one (`ticket` is not 0); false if the reactor has taken the request.
    pub(crate) fn end_watch(&self, id: u32, ticket: u64) -> bool {
        match (ticket, self.reactor.get()) {
            (0, _) | (_, None) => true,
            (ticket, Some(reactor)) => reactor.take_back(id, ticket),
        }
    }

    #[cold]
    fn start_reactor(&self) -> Result<&Arc<Reactor>, CallError> {
        static STARTING: Mutex<()> = Mutex::new(());
        let _one_at_a_time = locked(&STARTING);
        if let Some(reactor) = self.reactor.get() {
            return Ok(reactor);
        }
        let reactor = Arc::new(Reactor::new(self.capacity));
        // Both are kept until the server is dropped, which ends the thread.
        let (here, core) = (Arc::clone(&reactor), self.me.upgrade().expect("it is borrowed from its server"));
        let thread = std::thread::Builder::new().name("ringmill-reactor".into());
        match thread.spawn(move || here.run(&core)) {
            Ok(_detached) => Ok(self.reactor.get_or_init(|| reactor)),
            Err(error) => Err(CallError::NoReactor { message: error.to_string() }),
        }
    }
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
        let mut line = locked(&reactor.line);
        line.last += 1;
        let ticket = line.last;
        line.waiting.insert(ticket, InLine { deadline_ns, waker: None });
        drop(line);
        reactor.mind(&core.segment, deadline_ns);
        Ok(Self { core, begun, ticket, _awaiting: awaiting })
    }

    /// A place, and how long it was waited for.
    pub(crate) fn poll(&mut self, context: &Context<'_>) -> Poll<Result<(u32, Duration), CallError>> {
        let reactor = self.core.reactor()?;
        let mut waker = Some(context.waker().clone());
        let mut line = locked(&reactor.line);
        let Some(place) = line.waiting.get_mut(&self.ticket) else {
            let (capacity, waited) = (self.core.capacity, self.begun.elapsed());
            return Poll::Ready(Err(CallError::ServerBacklogFull { capacity, waited }));
        };
        std::mem::swap(&mut place.waker, &mut waker);
        drop(line);
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
        let Some(reactor) = self.core.reactor.get() else { return };
        let place = locked(&reactor.line).waiting.remove(&self.ticket);
        // One that was woken and goes without a place, or with another than that it was woken for, leaves it
        // to the next.
        if place.is_some_and(|place| place.waker.is_none()) {
            reactor.wake_line(1);
        }
    }
}
