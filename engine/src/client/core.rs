//! The core of a client, which does not depend on the types of items: permits, sending, waiting, reading outcomes.
//!
//! # Invariants
//!
//! * `[own process]`: a public function checks that this process is not a forked child before it writes anything shared
//!   or takes a lock, and again after user code, or a sleep in which a signal handler may have run: either may have
//!   forked.
#![expect(unsafe_code, reason = "a guard that is taken out of a value with a drop")]

use super::connection::Connection;
use super::counts::Rows;
use super::end::End;
use super::free_ids::FreeIds;
use super::hand::InHand;
use super::options::{CallOptions, WhenFull};
use super::watch::Reactor;
use crate::clock::Watched;
use crate::error::{CallError, RemoteCause, RemoteError, StartError, forked_text};
use crate::host::supervisor::{Handle, Shared};
use crate::policy::batch::{Habit, Stamps};
use crate::policy::patience::{Pace, Patience};
use crate::policy::placement::Placement;
use crate::route::{Mover, Outbox, Router};
use crate::traceparent::TraceContext;
use crate::wire::payload::{AsInput, Payload, encode, from_bytes};
use crate::wire::{EncodeError, ReadError};
use ringmill_shm::arena::{Claimed, Done, Filling, Task};
use ringmill_shm::participant::{Life, SERVER};
use ringmill_shm::plan::Target;
use ringmill_shm::ring::Overrun;
use ringmill_shm::segment::{Gate, NodeInfo, Segment};
use ringmill_shm::stats::{CallerCounter, Stamp};
use ringmill_shm::sys::birth::Birth;
use ringmill_shm::sys::time::now_ns;
use std::mem::ManuallyDrop;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::{Duration, Instant};

/// The longest sleep of a caller: the backstop for a wake that a dead waker owed.
pub(crate) const SLEEP_LIMIT: Duration = Duration::from_secs(1);

/// The first sleep of a caller, after which it looks whether a worker has begun its request; each further sleep is
/// twice as long. So a worker that was woken for the request, and stopped, at most about doubles the time that the
/// request takes.
pub(crate) const FIRST_SLEEP: Duration = Duration::from_millis(1);
/// After this many failed looks a caller that spins for long also makes sure that a worker has its request.
const LOOKS_BEFORE_RESCUE: u32 = 1 << 13;

/// A client; see the module.
#[derive(Debug)]
pub(crate) struct Core {
    pub(crate) me: Weak<Core>,
    /// Set once a future has had to wait.
    pub(crate) reactor: OnceLock<Arc<Reactor>>,
    pub(crate) name: String,
    pub(crate) capacity: u32,
    pub(crate) entry: Target,
    /// The server's process.
    pub(crate) birth: Birth,
    pub(crate) pid: u32,
    /// When the entry node needs to know when items were enqueued.
    pub(crate) stamps: Stamps,
    pub(crate) rows: Arc<Rows>,
    pub(crate) free_ids: FreeIds,
    pub(crate) patience: Patience,
    /// Permits of services that have no request: `[reserved]` of `service`.
    pub(crate) reserved: AtomicU32,
    /// This client has found that its server is gone. Never set in the server's process.
    pub(crate) cut_off: AtomicBool,
    pub(crate) router: Arc<Router>,
    pub(crate) placement: Placement,
    pub(crate) host: Host,
    pub(crate) segment: Arc<Segment>,
}

/// In whose process a core is.
#[derive(Debug)]
pub(crate) enum Host {
    Server(Box<Service>),
    Client(Connection),
}

/// What a core has only in the server's process.
#[derive(Debug)]
pub(crate) struct Service {
    pub(crate) end: End,
    pub(crate) shutdown_timeout: Duration,
    pub(crate) handle_signals: bool,
    pub(crate) warnings: Vec<String>,
    pub(crate) supervisor: Handle,
    pub(crate) shared: Arc<Shared>,
}

/// When a call began, and how long it waited for a permit; `None` if it did not have to wait.
pub(crate) type Clock = Option<(Instant, Duration)>;

pub(crate) fn waited(clock: Clock) -> Duration {
    clock.map_or(Duration::ZERO, |(_, waited)| waited)
}

/// A request whose input is being written. Dropping it, as a panic of user code or an error does, gives the request
/// back.
#[derive(Debug)]
pub(crate) struct Filled<'c> {
    core: &'c Core,
    /// Taken once, by value or by drop.
    filling: ManuallyDrop<Filling<'c>>,
}

impl Drop for Filled<'_> {
    #[inline]
    fn drop(&mut self) {
        if self.core.birth.is_here() {
            // SAFETY: taken once: `into_filling` does not drop this.
            let filling = unsafe { ManuallyDrop::take(&mut self.filling) };
            self.core.release(filling.abandon());
        }
    }
}

impl<'c> Filled<'c> {
    #[inline]
    pub(crate) fn begin(core: &'c Core, id: u32) -> Self {
        crash_point!("core.acquired");
        let task = Task::new(&core.segment, id).expect("ids in the list are those of the segment");
        Self { core, filling: ManuallyDrop::new(task.begin()) }
    }

    /// Sets the request aside; it stays FILLING.
    #[inline(always)]
    pub(crate) fn park(self) {
        let _ = self.into_filling();
    }

    /// Resumes a request that was set aside.
    #[inline(always)]
    pub(crate) fn resume(core: &'c Core, id: u32) -> Option<Self> {
        let filling = Task::new(&core.segment, id)?.resume_filling()?;
        Some(Self { core, filling: ManuallyDrop::new(filling) })
    }

    pub(crate) fn core(&self) -> &'c Core {
        self.core
    }

    pub(crate) fn is_of(&self, core: &Core) -> bool {
        std::ptr::eq(self.core, core)
    }

    #[inline(always)]
    pub(crate) fn filling(&mut self) -> &mut Filling<'c> {
        &mut self.filling
    }

    #[inline(always)]
    fn into_filling(self) -> Filling<'c> {
        let mut this = ManuallyDrop::new(self);
        // SAFETY: taken once, since `this` is not dropped.
        unsafe { ManuallyDrop::take(&mut this.filling) }
    }

    /// → CLAIMED by the client, to be moved on.
    fn keep(mut self) -> Claimed<'c> {
        self.core.stamp(self.filling(), || false); // the mover says when it enqueues the task
        self.into_filling().keep()
    }

    /// → QUEUED for this node; the caller must push it then.
    #[inline(always)]
    fn queue(mut self, node: u32) -> Task<'c> {
        let core = self.core;
        core.stamp(self.filling(), || core.wants_times(node));
        self.into_filling().queue(node)
    }

    /// [`queue`](Self::queue) of a request that is not timed.
    #[inline(always)]
    fn queue_with(mut self, node: u32, stamp: Stamp) {
        self.filling().stamp(stamp);
        self.into_filling().queue(node);
    }
}

impl Core {
    /// Waits until every worker is ready; false if `goes_on`, which is asked whenever something has changed, and at least
    /// each second, says no. It may call user code.
    pub(crate) fn await_workers(
        &self,
        service: &Service,
        limit: Duration,
        mut goes_on: impl FnMut() -> bool,
    ) -> Result<bool, StartError> {
        // Workers that are frozen together with this process do not get ready meanwhile.
        let mut watched = Watched::every(SLEEP_LIMIT);
        let bell = self.segment.startup();
        loop {
            let count = bell.count();
            let mut unready = None;
            for (row, entry) in (0..).zip(self.segment.participants()).skip(SERVER as usize + 1) {
                // The plan says which worker has a row, whatever the entry says.
                let Some((node, number)) = self.segment.seat_of(row) else { continue };
                let info = &self.segment.nodes()[node as usize];
                let (servlet, worker) = (|| info.name.clone(), number / info.facts.threads);
                match entry.life() {
                    Life::Ready | Life::Vacant => {} // all that are to start have been prepared
                    Life::Failed => {
                        let (servlet, pid) = (servlet(), entry.pid());
                        let unknown = || RemoteError {
                            servlet,
                            worker,
                            pid,
                            attempt: 0,
                            cause: RemoteCause::Payload { message: "it left no readable message".into() },
                        };
                        let error = crate::error::boot::read(&entry.message()).unwrap_or_else(unknown);
                        return Err(StartError::Worker(Box::new(error)));
                    }
                    Life::Dead => {
                        return Err(service.supervisor.early_death(servlet(), node, worker, row));
                    }
                    _ => unready = unready.or_else(|| Some((servlet(), node, worker, row))),
                }
            }
            if !goes_on() {
                return Ok(false);
            }
            if !self.birth.is_here() {
                return Err(StartError::System { what: "go on with a start", error: self.forked_error() });
            }
            let Some((servlet, node, worker, row)) = unready else { return Ok(true) };
            let left = limit.saturating_sub(watched.look());
            if left.is_zero() {
                return Err(service.supervisor.late(servlet, node, worker, row, limit));
            }
            bell.sleep(count, Some(left.min(SLEEP_LIMIT)));
        }
    }

    /// Whether requests for this node, the entry, say when they are enqueued.
    #[inline(always)]
    fn wants_times(&self, node: u32) -> bool {
        self.stamps != Stamps::Never && self.is_time_asked(node)
    }

    /// Whether the workers of this node, the entry, wait for more, and so need to know when a request is enqueued.
    #[inline(never)]
    fn is_time_asked(&self, node: u32) -> bool {
        let waits = || Habit::from_raw(self.segment.node(node).map_or(0, |node| node.habit())).waits();
        self.stamps == Stamps::Always || waits()
    }

    /// Checks `[own process]`.
    ///
    /// # Errors
    /// In a process that was forked from the server's.
    #[inline(always)]
    pub(crate) fn own(&self) -> Result<(), CallError> {
        if self.birth.is_here() { Ok(()) } else { Err(self.forked()) }
    }

    #[cold]
    pub(crate) fn forked(&self) -> CallError {
        CallError::Forked { server_pid: self.pid, pid: std::process::id() }
    }

    /// That error as one of the system.
    #[cold]
    fn forked_error(&self) -> std::io::Error {
        std::io::Error::other(self.forked_text())
    }

    /// The text of that error, for functions that return no result.
    #[cold]
    pub(crate) fn forked_text(&self) -> String {
        forked_text(self.pid, std::process::id())
    }

    /// See [`Server::backlog`](crate::Server::backlog).
    pub(crate) fn backlog(&self) -> usize {
        if self.birth.is_here() { self.free_ids.in_use(&self.segment) as usize } else { 0 }
    }

    /// The request with this id, which its caller has in hand.
    #[inline]
    pub(crate) fn task(&self, id: u32) -> Option<Task<'_>> {
        Task::new(&self.segment, id)
    }

    /// The options of a request that begins now.
    ///
    /// # Errors
    /// If its deadline has passed.
    pub(crate) fn in_time(&self, options: CallOptions, now: Instant) -> Result<CallOptions, CallError> {
        options.not_past(now).map_err(|error| self.told(error))
    }

    /// Takes a permit: the id of a free request.
    #[inline]
    pub(crate) fn acquire(&self, options: CallOptions) -> Result<(u32, Clock), CallError> {
        self.acquire_untold(options).map_err(|error| self.told(error))
    }

    /// [`acquire`](Self::acquire) where an error is not counted: it may not become the outcome of a request.
    #[inline]
    pub(crate) fn acquire_untold(&self, options: CallOptions) -> Result<(u32, Clock), CallError> {
        self.own()?;
        let (id, clock) = match self.free_ids.acquire(&self.segment) {
            Some(id) => (id, None),
            None => self.acquire_contended(options)?,
        };
        self.admit(id)?;
        Ok((id, clock))
    }

    /// Takes a permit, if there is one.
    #[inline]
    pub(crate) fn try_acquire(&self) -> Result<Option<u32>, CallError> {
        self.own()?;
        let Some(id) = self.free_ids.acquire(&self.segment) else { return Ok(None) };
        self.admit(id)?;
        Ok(Some(id))
    }

    /// Refuses the request and gives its permit back if the server takes no requests.
    #[inline]
    pub(crate) fn admit(&self, id: u32) -> Result<(), CallError> {
        // [closing], [gate]: after the permit was taken.
        if self.is_closed()
            && let Some(error) = self.refusal()
        {
            self.release(id);
            return Err(error);
        }
        Ok(())
    }

    /// Why the server takes no requests, if it takes none.
    #[cold]
    pub(crate) fn refusal(&self) -> Option<CallError> {
        match self.segment.gate() {
            Gate::Open => self.gone(),
            Gate::Closing => Some(self.end_of_server()),
            Gate::Down(node) => self.down(node),
            Gate::Drained(node) => {
                let servlet = self.segment.nodes().get(node as usize)?.name.clone();
                Some(CallError::ServletDrained { servlet })
            }
        }
    }

    /// Whether the server takes no requests.
    #[inline]
    pub(crate) fn is_closed(&self) -> bool {
        !self.segment.is_gate_open() || self.cut_off.load(Ordering::SeqCst)
    }

    /// The error of a servlet that is down; `None` if it takes requests (again).
    fn down(&self, node: u32) -> Option<CallError> {
        let servlet = self.segment.nodes().get(node as usize)?.name.clone();
        Some(CallError::ServletDown { servlet, reason: self.down_reason(node)? })
    }

    /// Why a servlet is down, if it is.
    pub(crate) fn down_reason(&self, node: u32) -> Option<String> {
        match &self.host {
            Host::Server(service) => service.shared.down(node as usize).clone(),
            Host::Client(_) => {
                let parts = self.segment.node(node)?;
                parts.doorbell().is_down().then(|| parts.down_reason())
            }
        }
    }

    #[cold]
    fn acquire_contended(&self, options: CallOptions) -> Result<(u32, Clock), CallError> {
        let full = |waited| CallError::ServerBacklogFull { capacity: self.capacity, waited };
        let refused = || if self.is_closed() { self.refusal() } else { None };
        if let Some(error) = refused() {
            return Err(error);
        }
        if options.when_full == WhenFull::Fail {
            return Err(full(Duration::ZERO));
        }
        self.count(CallerCounter::PermitWaits);
        let begun = Instant::now();
        let bell = self.segment.freed();
        let _awaiting = bell.await_rings();
        loop {
            self.own()?; // [own process]: a signal handler may have forked during the sleep
            let count = bell.count();
            if let Some(id) = self.free_ids.acquire(&self.segment) {
                return Ok((id, Some((begun, begun.elapsed()))));
            }
            self.look_at_server();
            if let Some(error) = refused() {
                return Err(error);
            }
            let waited = begun.elapsed();
            if waited >= options.timeout {
                return Err(full(waited));
            }
            bell.sleep(count, Some((options.timeout - waited).min(SLEEP_LIMIT)));
        }
    }

    /// Gives a permit back; its request is FREE.
    #[inline]
    pub(crate) fn release(&self, id: u32) {
        self.free_ids.release(id);
        if self.segment.freed().is_awaited() {
            self.tell_of_a_permit();
        }
    }

    #[cold]
    fn tell_of_a_permit(&self) {
        if !self.birth.is_here() {
            return;
        }
        self.segment.freed().ring();
        if let Some(reactor) = self.reactor.get() {
            reactor.permit_came_free(&self.segment);
        }
    }

    /// A request will soon be pushed: prefetches its cell of the ring, at which a worker looks.
    #[inline]
    pub(crate) fn expect_push(&self) {
        if let Target::Node(node) = self.entry
            && let Some(parts) = self.segment.node(node)
        {
            parts.ring().prefetch(1);
        }
    }

    /// Writes an input into a request.
    #[inline(always)]
    pub(crate) fn fill<T: Payload>(&self, id: u32, input: impl AsInput<T>) -> Result<Filled<'_>, CallError> {
        let mut filled = Filled::begin(self, id);
        if let Err(error) = encode::<T>(&input, filled.filling(), self.birth) {
            return Err(self.unwritten(error));
        }
        drop(input); // it need not stay until the outcome comes
        crash_point!("core.filled");
        Ok(filled)
    }

    #[cold]
    #[inline(never)]
    fn unwritten(&self, error: EncodeError) -> CallError {
        self.told(error.into())
    }

    /// Whether each request enters a fork first.
    pub(crate) fn forks(&self) -> bool {
        matches!(self.entry, Target::Fork(_))
    }

    /// Sends a filled request.
    ///
    /// # Errors
    /// If the segment is corrupted.
    #[inline]
    pub(crate) fn send<'c>(&'c self, filled: Filled<'c>) -> Result<Task<'c>, CallError> {
        self.own()?; // [own process]: user code has filled it
        match self.entry {
            Target::Node(node) => {
                let task = filled.queue(node);
                self.push(node, &[task.id()]).map_err(|why| self.told(ReadError::from(why).into()))?;
                Ok(task)
            }
            entry => Ok(self.send_forked(filled, entry, self.mover())),
        }
    }

    /// Sends a filled request with its caller's trace context.
    ///
    /// # Errors
    /// As [`send`](Self::send).
    #[cold]
    pub(crate) fn send_with_context<'c>(
        &'c self,
        mut filled: Filled<'c>,
        context: TraceContext,
    ) -> Result<Task<'c>, CallError> {
        self.own()?;
        self.stamp_with_context(filled.filling(), context);
        let filling = filled.into_filling();
        match self.entry {
            Target::Node(node) => {
                let task = filling.queue(node);
                self.push(node, &[task.id()]).map_err(|why| self.told(ReadError::from(why).into()))?;
                Ok(task)
            }
            entry => {
                let task = filling.keep();
                let of_request = task.task();
                self.mover().move_on(task, entry);
                Ok(of_request)
            }
        }
    }

    /// Sends a request to a fork or a switch.
    #[cold]
    fn send_forked<'c>(&self, filled: Filled<'c>, entry: Target, mover: Mover<'_>) -> Task<'c> {
        let task = filled.keep();
        let of_request = task.task();
        mover.move_on(task, entry);
        of_request
    }

    /// Sends filled requests, by their ids; those that cannot be resumed are left out. The branches into which they
    /// fork are pushed together, through `outbox`. The caller has checked `[own process]` since user code filled them.
    ///
    /// # Errors
    /// If the segment is corrupted.
    #[inline]
    pub(crate) fn send_all(&self, ids: &[u32], outbox: &Outbox) -> Result<(), Overrun> {
        match self.entry {
            Target::Node(node) => {
                if let Some(parts) = self.segment.node(node) {
                    parts.ring().prefetch(ids.len() as u64);
                }
                let stamp = if self.wants_times(node) { Stamp::at(now_ns(), None) } else { Stamp::NONE };
                let mut left = ids;
                while !left.is_empty() {
                    let (untimed, rest) = left.split_at(self.rows.pass(left.len() as u64) as usize);
                    for &id in untimed {
                        if let Some(filled) = Filled::resume(self, id) {
                            filled.queue_with(node, stamp);
                        }
                    }
                    left = rest;
                    if let Some((&timed, rest)) = left.split_first() {
                        if let Some(filled) = Filled::resume(self, timed) {
                            filled.queue(node);
                        }
                        left = rest;
                    }
                }
                crash_point!("core.queued_all");
                self.push(node, ids)
            }
            entry => {
                let mover = Mover { outbox: Some(outbox), ..self.mover() };
                for filled in ids.iter().filter_map(|&id| Filled::resume(self, id)) {
                    self.send_forked(filled, entry, mover);
                }
                mover.flush();
                Ok(())
            }
        }
    }

    /// Pushes queued requests, and wakes workers.
    #[inline(always)]
    fn push(&self, node: u32, ids: &[u32]) -> Result<(), Overrun> {
        let parts = self.segment.node(node).expect("the entry is a node");
        parts.push(ids)?;
        if parts.doorbell().is_down() {
            self.mover().after_push(node);
        }
        Ok(())
    }

    /// Waits for the outcome of a request in progress, which `look` finds; cancels the request when the time is over.
    /// Calls `in_progress` before it sleeps.
    #[inline]
    pub(crate) fn await_outcome<'c>(
        &self,
        task: Task<'c>,
        clock: Clock,
        timeout: Duration,
        pace: Pace,
        look: impl FnMut() -> Option<Done<'c>>,
        in_progress: impl FnOnce(),
    ) -> Result<Done<'c>, CallError> {
        if let Some(done) = self.spin_for(task, timeout, pace, look) {
            return Ok(done);
        }
        in_progress();
        self.await_asleep(task, clock, timeout)
    }

    /// The outcome of a request in progress, if it comes during the spin.
    #[inline]
    pub(crate) fn spin_for<'c>(
        &self,
        task: Task<'c>,
        timeout: Duration,
        pace: Pace,
        look: impl FnMut() -> Option<Done<'c>>,
    ) -> Option<Done<'c>> {
        if timeout <= self.patience.longest() {
            return None;
        }
        let done = self.spin(pace, look)?;
        task.prefetch(); // for reading, and for the next input: [hottest first]
        Some(done)
    }

    /// [`Patience::spin`]; in a long spin, it makes sure at intervals that a worker has the request.
    #[inline]
    pub(crate) fn spin<T>(&self, pace: Pace, mut look: impl FnMut() -> Option<T>) -> Option<T> {
        let mut looks = 0_u32;
        self.patience.spin(pace, || {
            let found = look();
            if found.is_none() {
                looks = looks.wrapping_add(1);
                if looks.is_multiple_of(LOOKS_BEFORE_RESCUE) {
                    self.rescue();
                }
            }
            found
        })
    }

    #[cold]
    fn await_asleep<'c>(
        &self,
        task: Task<'c>,
        clock: Clock,
        timeout: Duration,
    ) -> Result<Done<'c>, CallError> {
        let (begun, enqueueing) = clock.unwrap_or_else(|| (Instant::now(), Duration::ZERO));
        self.sleep_until(task, begun.checked_add(timeout)).ok_or_else(|| {
            if !self.birth.is_here() {
                return self.forked();
            }
            if let Some(gone) = self.gone() {
                return self.give_up(task, gone);
            }
            self.give_up(task, CallError::Timeout { enqueueing, total: begun.elapsed() })
        })
    }

    /// Sleeps until the outcome of a request in progress is there; `None` if the time is over, if the server of this client
    /// is [gone](Self::gone), or if a signal handler has forked and this is the child.
    pub(crate) fn sleep_until<'c>(&self, task: Task<'c>, until: Option<Instant>) -> Option<Done<'c>> {
        self.sleep_for(until, || task.outcome(), |limit| task.sleep(limit))
    }

    /// [`sleep_until`](Self::sleep_until) for what `look` finds, by `sleep`.
    pub(super) fn sleep_for<T>(
        &self,
        until: Option<Instant>,
        mut look: impl FnMut() -> Option<T>,
        mut sleep: impl FnMut(Option<Duration>),
    ) -> Option<T> {
        self.doubt();
        let asleep_since = self.patience.falls_asleep();
        let mut longest = FIRST_SLEEP;
        loop {
            if !self.birth.is_here() {
                return None;
            }
            if let Some(found) = look() {
                self.patience.slept(asleep_since);
                return Some(found);
            }
            if longest > FIRST_SLEEP {
                self.rescue();
                if self.look_at_server() {
                    return look(); // what came meanwhile, or nothing more
                }
            }
            let left = until.map(|until| until.saturating_duration_since(Instant::now()));
            if left.is_some_and(|left| left.is_zero()) {
                return None;
            }
            sleep(Some(left.unwrap_or(longest).min(longest)));
            longest = (2 * longest).min(SLEEP_LIMIT);
        }
    }

    /// A request that was sent may rely on a worker that spins. Before a caller sleeps or returns to user code, this
    /// makes sure that a worker has it (`[a mark is doubted]` of [`doorbell`]).
    #[inline]
    pub(crate) fn doubt(&self) {
        if let Target::Node(node) = self.entry
            && let Some(doorbell) = self.segment.doorbell(node)
        {
            // The node's parts are looked up only if there is a mark.
            let parts = || self.segment.node(node);
            doorbell.doubt(
                || parts().is_some_and(|node| node.is_unattended()),
                |worker| parts().and_then(|node| node.bell(worker)),
            );
        } // else the mover that forked it has doubted the marks
    }

    /// Called when an outcome has not come: wakes one more worker of each node whose items no worker collects, because
    /// the worker that was woken may be stopped (`[taken in vain]` of `doorbell`).
    #[cold]
    pub(crate) fn rescue(&self) {
        (0..self.segment.shape().nodes)
            .filter_map(|node| self.segment.node(node))
            .for_each(|node| node.rescue());
    }

    /// Records since when the first `most` of these requests are in progress, for [`DebugInfo`](crate::stats::DebugInfo); passes
    /// over ids of none. Called seldom, but not cold: of a stream it goes through a window of requests. A loop and no adapters:
    /// the compiler may call each step of those.
    #[inline(never)]
    pub(crate) fn note_begun(&self, ids: impl IntoIterator<Item = u32>, most: usize) {
        let now_ns = now_ns();
        self.time_the_next(now_ns);
        let mut left = most;
        for id in ids {
            if left == 0 {
                return;
            }
            if let Some(task) = Task::new(&self.segment, id) {
                task.set_begun_ns(now_ns);
                left -= 1;
            }
        }
    }

    /// Called when the caller of a request goes. Does nothing in a forked child, since the caller is still there in the
    /// parent.
    pub(crate) fn cancel(&self, task: Task<'_>) {
        self.count(CallerCounter::Cancelled);
        self.note_gone(task);
        self.let_go(task);
    }

    /// Cancels a request for which its caller gets this error.
    #[cold]
    pub(crate) fn give_up(&self, task: Task<'_>, error: CallError) -> CallError {
        self.note_total(task, || error.end());
        self.let_go(task);
        self.told(error)
    }

    /// [`cancel`](Self::cancel) without a count.
    pub(crate) fn let_go(&self, task: Task<'_>) {
        self.leave(task, || task.cancel());
    }

    /// Gives a request up by `cancel`, which says whether another participant will free it. Does nothing in a forked
    /// child.
    fn leave(&self, task: Task<'_>, cancel: impl FnOnce() -> bool) {
        if !self.birth.is_here() {
            return;
        }
        if let Some(mut partials) = task.partials() {
            partials.leave();
        }
        if cancel() {
            crash_point!("core.left");
            self.free_ids.abandon(task.id());
            // Another participant may have freed it, and rung the bell, before it was among the abandoned ids.
            if task.is_free() && self.segment.freed().is_awaited() {
                self.tell_of_a_permit();
            }
        } else {
            self.release(task.id());
        }
    }

    #[cold]
    pub(super) fn open_error(&self, done: Done<'_>) -> CallError {
        let error = self.read_error(&done);
        self.note_total(done.task(), || error.end());
        self.give_back(done);
        self.told(error)
    }

    /// Gives the permit of an outcome back that is an error.
    fn give_back(&self, done: Done<'_>) {
        if done.may_have_branches() {
            self.leave(done.task(), || done.cancel()); // the last branch that arrives frees it
        } else {
            self.release(done.free());
        }
    }

    /// Reads an outcome that is an error.
    #[cold]
    fn read_error(&self, done: &Done<'_>) -> CallError {
        let bytes = match done.payload() {
            Ok(bytes) => bytes,
            Err(error) => return ReadError::from(error).into(),
        };
        match from_bytes::<RemoteError>(bytes) {
            Ok(error) => match CallError::remote(error) {
                // The record is of a worker, which does not know the reason.
                CallError::ServletDown { servlet, reason } if reason.is_empty() => {
                    let named = |node: &&(u32, &NodeInfo)| node.1.name == servlet;
                    let node = (0..).zip(self.segment.nodes()).find(|node| named(&node));
                    match node.and_then(|(node, _)| self.down(node)) {
                        Some(error) => error,
                        None if self.segment.gate() == Gate::Closing => self.end_of_server(),
                        None => {
                            let reason = "it takes requests again".into();
                            CallError::ServletDown { servlet, reason }
                        }
                    }
                }
                error => error,
            },
            Err(error) => ReadError::new(std::any::type_name::<RemoteError>(), error).into(),
        }
    }
}
