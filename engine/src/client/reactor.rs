//! The reactor: the one thread of a server's process that wakes futures, started when the first of them has
//! to wait.
//!
//! # Protocol
//!
//! A future that finds no outcome leaves its waker and its deadline in the [`Watch`](super::watch::Watch) of its request, and asks
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
//! Futures that wait for a place stand in a [`Line`](super::watch::Line), in the order in which they came, and for each place
//! that comes free the reactor wakes the first that has not been woken.
//!
//! # Wakers
//!
//! They are code of the executor, and are woken by the reactor's thread only: no caller that gives a place back runs
//! what another one has left. One that panics is logged, and the next is woken. One that does not return holds up
//! nobody either, beyond 10 to 20 ms: each is taken from what is shared just before it is woken, so that whoever has
//! the duty can go on without it; and as long as wakers are woken, the *relief*, a second thread, looks every
//! [`LOOK`](super::watch::LOOK) whether the thread on duty is still within the same one. If it is, the relief takes the duty over, looks
//! at everything once, and starts a relief of its own. The former thread ends when its waker returns.
//! [`BLOCKED_LIMIT`](super::watch::BLOCKED_LIMIT) threads may be held up so; wakers that block beyond that hold up those of this server.
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

use super::core::Core;
use super::watch::{NEVER, Reactor, locked};
use crate::error::CallError;
use crate::panics::{caught, let_go, say};
use ringmill_shm::arena::Task;
use ringmill_shm::segment::Awaiting;
use ringmill_shm::sys::birth::PerProcess;
use std::cell::Cell;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

/// No sleep is longer: for a wake that somebody owed who died.
const BACKSTOP: Duration = Duration::from_secs(1);

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
        let done = watch.held && Task::new(&self.core.segment, id).is_some_and(|task| task.is_done());
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
            Err(error) => Err(CallError::NoReactor { error }),
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
