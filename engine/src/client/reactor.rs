//! The reactor: the one thread of a server's process that wakes futures, started when the first future has to wait.
//!
//! # Protocol
//!
//! A future that finds no outcome leaves its waker and its deadline in the [`Watch`](super::watch::Watch) of its
//! request, and asks for notice in the state word. The participant that finishes the request then sets its bit in the
//! set of completions, and rings `completed` if the reactor sleeps. The reactor wakes the futures of all bits that are
//! set.
//!
//! | Watch | Holder of the request | Left by, to |
//! |---|---|---|
//! | idle | the future or `Pending` that sent it, alone | the same → held, with a new ticket |
//! | held, ticket | the future, as long as its time is not over | the future → idle; the reactor → idle, when the time is over, unless it is asked to wake only |
//!
//! When the time is over the reactor takes the request from its future and cancels it, so that the permit is given back
//! even if no executor ever polls again. The future finds that its ticket is not held any more, so its time was over. An
//! unordered stream, which waits for any of its requests, asks to be woken only, and ends its oldest request itself.
//!
//! Futures that wait for a permit stand in a [`Line`](super::watch::Line), in the order in which they came. For each
//! permit that comes free the reactor wakes the first future that has not been woken.
//!
//! # Wakers
//!
//! Wakers are code of the executor, and only the reactor's thread calls them: a caller that gives a permit back never
//! runs another caller's waker. The reactor logs a waker that panics, and wakes the next. A waker that does not return
//! delays the others by 10 to 20 ms only: each is taken from the shared state just before it is woken, so that another
//! thread can take over the duty without it. While wakers are being woken, the *relief*, a second thread, looks every
//! [`LOOK`](super::watch::LOOK) whether the thread on duty is still within the same waker. If it is, the relief takes
//! the duty over, looks at all watches once, and starts a relief of its own. The former thread ends when its waker
//! returns. Up to [`BLOCKED_LIMIT`](super::watch::BLOCKED_LIMIT) threads may be blocked like this; further wakers that
//! block delay the other wakers of this server.
//!
//! ```text
//! on duty:  wakes even ──wake──▶ odd ──it returns: CAS──▶ even          whose CAS succeeds has the duty
//! relief:                         └──seen twice: CAS─────▶ even, on duty
//! ```
//!
//! # Invariants
//!
//! * `[one taker]`: the thread that ends a hold, under the watch's lock, holds the request; no other thread touches its
//!   task.
//! * `[wakers outside locks]`: wakers are cloned, woken and dropped while no lock is held.
//! * `[one at a time]`: the thread on duty wakes a waker that it has taken before it takes another.
//!
//! # Ordering
//!
//! * `[attentive]`: the thread on duty stores that it is within a waker, then looks whether the relief is attentive,
//!   and unparks it if not. The relief stores that it is not, then looks whether a waker was woken, then parks.
//! * `[announce, then look]`: a future leaves its waker before it asks for notice, and the request for notice answers
//!   whether the outcome is there already. The reactor announces that it waits, then looks at bits, deadlines and the
//!   line, then sleeps; a thread that changes one of them looks afterwards whether the reactor waits, or changes the
//!   bell's count.
//! * `[line]`: a future announces that it waits (`freed`), joins the line, then looks for a permit; a thread that gives
//!   a permit back looks afterwards whether a future waits, and then at the line.
//!
//! # Crash
//!
//! A worker that dies between DONE and the bit owes a notice. After each death the supervisor rings all bells, and a
//! reactor that wakes without bits, or by its [backstop](BACKSTOP), looks at every request that is held.

use super::core::Core;
use super::hold::Hold;
use super::watch::{NEVER, Reactor, locked};
use crate::error::CallError;
use crate::panics::{caught, let_go, say};
use ringmill_shm::arena::Task;
use ringmill_shm::stats::CallerCounter;
use ringmill_shm::sys::birth::PerProcess;
use ringmill_shm::trace::RequestEnd;
use std::cell::Cell;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

/// The longest sleep of the reactor: the backstop for a wake that a dead participant owed.
const BACKSTOP: Duration = Duration::from_secs(1);

/// A thread of the reactor on duty, until it is relieved.
struct Shift<'r> {
    reactor: &'r Reactor,
    core: &'r Core,
    relieved: Cell<bool>,
}

impl Shift<'_> {
    /// Wakes one future: its waker is the executor's code.
    fn wake(&self, waker: Waker) {
        let wakes = &self.reactor.wakes;
        // Relaxed: while it is even, only the thread on duty changes it.
        let within = wakes.load(Ordering::Relaxed) | 1;
        if !self.relieved.get() {
            wakes.store(within, Ordering::SeqCst); // [attentive]
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

    /// Wakes the future of this request, if its outcome is there.
    fn wake_watch(&self, id: u32) {
        let Some(watch) = self.reactor.watch_of(id) else { return };
        let mut watch = locked(watch);
        // The bit may be from a former use of the request.
        let has_news = |task: Task<'_>| task.is_done() || task.has_partial();
        let done = watch.held && Task::new(&self.core.segment, id).is_some_and(has_news);
        let waker = if done { watch.waker.take() } else { None };
        drop(watch);
        waker.into_iter().for_each(|waker| self.wake(waker));
    }

    fn wake_all_done(&self) {
        self.core.segment.home_requests().for_each(|id| self.wake_watch(id));
    }

    /// Wakes the futures whose bits are set; returns whether any bit was.
    fn wake_completed(&self) -> bool {
        let mut found = false;
        self.core.segment.take_completions(|id| {
            found = true;
            self.wake_watch(id);
        });
        found
    }

    /// Ends requests and waits whose time is over, and finds the next deadline.
    fn end_overdue(&self, whatever_is_known: bool) {
        let reactor = self.reactor;
        let now_ns = reactor.ns(Some(Instant::now()));
        if now_ns < reactor.deadlines.earliest_ns() && !whatever_is_known {
            return;
        }
        let first = reactor.first_request;
        reactor
            .deadlines
            .look_at_due(now_ns, whatever_is_known, |number| self.end_if_overdue(first + number, now_ns));
        loop {
            let mut line = locked(&reactor.line);
            let Some(in_line) = line.overdue(now_ns) else {
                reactor.deadlines.mind(None, line.next_deadline_ns());
                break;
            };
            drop(line);
            match in_line.waker {
                Some(waker) => self.wake(waker),
                None => self.wake_line(1), // it had been woken for a permit, and does not take it
            }
        }
    }

    /// The server is gone: ends all requests that are watched, as if their time were over.
    #[cold]
    fn end_all(&self) {
        for id in self.core.segment.home_requests() {
            if !self.core.task(id).is_some_and(|task| task.is_done()) {
                self.end_if_overdue(id, NEVER);
            } // else its future has the outcome when it looks
        }
        self.look_at_line(true);
    }

    /// Takes a request whose time is over from its future, or wakes the future only; returns the deadline of the request
    /// from now on.
    fn end_if_overdue(&self, id: u32, now_ns: u64) -> u64 {
        let (reactor, core) = (self.reactor, self.core);
        let Some(watch) = reactor.watch_of(id) else { return NEVER };
        let mut watch = locked(watch);
        if !watch.held {
            return NEVER;
        }
        if watch.deadline_ns > now_ns {
            return watch.deadline_ns;
        }
        let (waker, taken) = match watch.only_wakes {
            true => {
                watch.deadline_ns = NEVER;
                (watch.waker.take(), None)
            }
            false => (watch.end(), Task::new(&core.segment, id)), // [one taker]
        };
        drop(watch);
        if let Some(task) = taken {
            core.note_total(task, || RequestEnd::Timeout);
            core.count(CallerCounter::Timeout); // its caller learns it when it looks, if ever
            core.let_go(task);
        }
        waker.into_iter().for_each(|waker| self.wake(waker));
        NEVER
    }

    /// Wakes the first futures in line, one for each of the `permits` that have come free. A future that is woken stays
    /// in line until it has taken a permit; if it leaves without one, it has the next one woken.
    fn wake_line(&self, permits: usize) {
        for _ in 0..permits {
            let waker = locked(&self.reactor.line).first_asleep(); // [one at a time]
            let Some(waker) = waker else { return };
            self.wake(waker);
        }
    }

    /// Wakes a future in line for each free permit beyond those for which others have been woken already; wakes all if
    /// the server is closed. `idle`: those that were woken do not look any more.
    fn look_at_line(&self, idle: bool) {
        let line = locked(&self.reactor.line);
        let (asleep, woken) = (line.asleep.len(), line.waiting.len() - line.asleep.len());
        drop(line);
        if asleep == 0 {
            return;
        }
        let free = (self.core.capacity - self.core.free_ids.in_use(&self.core.segment)) as usize;
        let spoken_for = if idle { 0 } else { woken };
        self.wake_line(if self.core.is_closed() { usize::MAX } else { free.saturating_sub(spoken_for) });
    }

    /// Runs until the reactor has ended, or another thread has the duty.
    fn run(&self, takes_over: bool) {
        let (reactor, bell) = (self.reactor, self.core.segment.completed());
        let mut idle = false;
        if takes_over {
            self.wake_all_done(); // the former thread was interrupted here
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
            // [announce, then look]
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
                if self.core.look_at_server() {
                    self.end_all();
                }
            }
        }
    }
}

impl Core {
    /// The reactor; starts it if it does not run yet.
    pub(crate) fn reactor(&self) -> Result<&Arc<Reactor>, CallError> {
        self.own()?; // a forked child has neither the thread nor usable locks
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
        let reactor = Arc::new(Reactor::new(self.segment.home_requests()));
        // Its threads keep both until the server and its handles are dropped, which ends them.
        let (here, core) = (Arc::clone(&reactor), self.me.upgrade().expect("it is borrowed from its server"));
        let thread = std::thread::Builder::new().name("ringmill-reactor".into());
        match thread.spawn(move || serve(&here, &core, false)) {
            Ok(_detached) => Ok(self.reactor.get_or_init(|| reactor)),
            Err(error) => Err(CallError::NoReactor { error }),
        }
    }
}

/// Runs a thread on duty.
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
            // A listener of the log may block too, so a thread of its own logs this.
            let _ = std::thread::Builder::new().name("ringmill-log".into()).spawn(tell);
            serve(&here, &of, true);
        }
    };
    match std::thread::Builder::new().name("ringmill-relief".into()).spawn(relief) {
        Ok(thread) => *locked(&reactor.relief) = Some(thread.thread().clone()),
        Err(error) => {
            *locked(&reactor.relief) = None;
            say(
                || tracing::warn!(server = %core.name, %error, "cannot start the thread that relieves the reactor: a waker that blocks will delay the others"),
            );
        }
    }
    Shift { reactor, core, relieved: Cell::new(false) }.run(takes_over);
}

/// A future's wait for a permit.
#[derive(Debug)]
pub(crate) struct PermitWait<'s> {
    core: Hold<'s>,
    begun: Instant,
    ticket: u64,
}

impl<'s> PermitWait<'s> {
    /// Joins the line until `until`; errors report the time since `begun`.
    pub(crate) fn begin(core: Hold<'s>, begun: Instant, until: Option<Instant>) -> Result<Self, CallError> {
        let reactor = core.reactor()?;
        core.count(CallerCounter::PermitWaits);
        core.segment.freed().begin_to_await(); // [line]
        let deadline_ns = reactor.ns(until);
        let ticket = locked(&reactor.line).join(deadline_ns);
        reactor.mind(&core.segment, None, deadline_ns);
        Ok(Self { core, begun, ticket })
    }

    /// A permit, and how long the future waited for it.
    pub(crate) fn poll(&mut self, context: &Context<'_>) -> Poll<Result<(u32, Duration), CallError>> {
        let reactor = self.core.reactor()?;
        let mut waker = Some(context.waker().clone());
        let stands = locked(&reactor.line).fall_asleep(self.ticket, &mut waker);
        let_go(waker);
        if !stands {
            let (capacity, waited) = (self.core.capacity, self.begun.elapsed());
            return Poll::Ready(Err(CallError::ServerBacklogFull { capacity, waited }));
        }
        // [line]: in line, then look.
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

impl Drop for PermitWait<'_> {
    fn drop(&mut self) {
        let Some(reactor) = self.core.reactor.get().filter(|_| self.core.birth.is_here()) else { return };
        let in_line = locked(&reactor.line).leave(self.ticket);
        // A future that was woken and leaves without a permit, or with another one than that for which it was woken,
        // has the next one woken.
        match in_line.map(|in_line| in_line.waker) {
            Some(Some(waker)) => let_go(waker),
            Some(None) => reactor.permit_came_free(&self.core.segment),
            None => {}
        }
        self.core.segment.freed().stop_awaiting();
    }
}
