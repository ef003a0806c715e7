//! The worker's loop: collect a batch under the reader lock, let user code handle it, hand the items on.
//!
//! # Protocol
//!
//! ```text
//! idle ──something in the ring──▶ lock ──▶ judge ──close──▶ claim all, store head, unlock ──▶ work ─▶ idle
//!                                   ▲        │ wait
//!                                   └────────┘  until full or due, holding the lock
//! ```
//!
//! While the window is open the holder only *looks* at the ring: items are claimed when the batch is
//! closed. So an item whose caller goes meanwhile is skipped, and a holder that dies in its window costs
//! nobody an item.
//!
//! User code never runs under the reader lock: a slow or crashing one must not stop the other workers.
//!
//! After a fatal error each thread of the worker's unit ends the batch that it has, cleans up and goes, with
//! nothing in its hands.
//!
//! # Ordering
//!
//! * *attended*: an idle worker does not queue for the lock while somebody alive is collecting, but sleeps
//!   on the doorbell. It announces itself (SeqCst), then looks at ring and lock; the holder unlocks
//!   (SeqCst), then looks at ring and sleepers, and wakes one if it has left something. One sees the other.
//!
//! # Crash
//!
//! Before the claims: the lock is taken over. Between claims and `head`: the next holder claims again.
//! After `head`: the supervisor answers the items with `WorkerDied`.

use crate::batch::{Rule, Verdict};
use crate::error::{BoxError, RemoteCause, RemoteError};
use crate::items::Batch;
use crate::panics::{self, end_if_forked};
use crate::patience::{Pace, Patience, Wait};
use crate::payload::{Payload, Validated, encode};
use crate::route::{Mover, Outbox, Router};
use crate::unit::{State, Unit};
use crate::worker::{BatchWorker, Context, Stop};
use ringmill_shm::arena::{At, Claimed, Parked, Task, all_begun};
use ringmill_shm::lock::Acquired;
use ringmill_shm::participant::Entry;
use ringmill_shm::plan::Target;
use ringmill_shm::ring::Ring;
use ringmill_shm::segment::{Node, Run, Segment};
use ringmill_shm::stats::{Closed, Counters};
use ringmill_shm::sys::birth::Birth;
use ringmill_shm::sys::time::now_ns;
use ringmill_shm::token::Token;
use std::cell::{Cell, OnceCell, RefCell};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::time::Duration;

/// No sleep of a worker is longer: the backstop for a wake that a dying waker owed.
const SLEEP_LIMIT: Duration = Duration::from_millis(500);
/// How many tasks ahead of the one being claimed are fetched.
const PREFETCH: usize = 6;

/// A worker's place in a segment. Who it is follows from its place and the plan, which this process has; what
/// the participant table says of it is for others.
#[derive(Debug)]
pub(crate) struct Seat {
    pub(crate) segment: Arc<Segment>,
    /// Its place in the participant table.
    pub(crate) place: u32,
    node: u32,
    /// Its number at the node's doorbell.
    number: u32,
    pub(crate) token: Token,
    birth: Birth,
    pub(crate) wait: Wait,
    pub(crate) router: Arc<Router>,
    pub(crate) unit: Arc<Unit>,
}

impl Seat {
    /// `None` if no worker has such a place.
    pub(crate) fn new(
        segment: Arc<Segment>,
        place: u32,
        token: Token,
        wait: Wait,
        router: Arc<Router>,
        unit: Arc<Unit>,
    ) -> Option<Self> {
        let (node, number) = segment.seat_of(place)?;
        let birth = segment.birth();
        Some(Self { segment, place, node, number, token, birth, wait, router, unit })
    }

    pub(crate) fn entry(&self) -> &Entry {
        &self.segment.participants()[self.place as usize]
    }

    pub(crate) fn node(&self) -> Node<'_> {
        self.segment.node(self.node).expect("its seat is of this node")
    }

    /// Which of the node's workers it is, or is a thread of.
    pub(crate) fn worker(&self) -> u32 {
        self.number / self.node().info().threads
    }

    /// Which of that worker's threads it is.
    pub(crate) fn thread(&self) -> u32 {
        self.number % self.node().info().threads
    }

    pub(crate) fn context(&self) -> Context {
        let (entry, node) = (self.entry(), self.node());
        Context {
            server_name: self.segment.identity().name,
            servlet_name: node.info().name.clone(),
            worker_index: self.worker(),
            thread_index: self.thread(),
            stream_threads: node.info().threads,
            batch_size: node.info().batch_size,
            batch_wait_time: Duration::from_nanos(node.info().batch_wait_ns),
            cpus: entry.cpus(),
            restarts: entry.restarts(),
        }
    }

    #[inline]
    fn mover(&self, client: Token) -> Mover<'_> {
        Mover { segment: &self.segment, router: &self.router, client, me: self.token, outbox: None }
    }

    /// An error record of this worker.
    pub(crate) fn error(&self, attempt: u8, cause: RemoteCause) -> RemoteError {
        let servlet = self.node().info().name.clone();
        RemoteError { servlet, worker: self.worker(), pid: std::process::id(), attempt, cause }
    }
}

/// How a worker's life ended.
#[derive(Debug)]
pub(crate) enum Left {
    /// In order.
    Stopped(Stop),
    /// It could not be constructed.
    Unborn(RemoteError),
    /// User code gave up.
    Fatal(RemoteError),
}

/// Where a worker's claimed items wait to be answered, and how they are.
#[derive(Debug)]
pub(crate) struct Desk {
    seat: Arc<Seat>,
    client: Token,
    /// Where finished tasks go.
    next: Target,
    /// By index in the batch; none once it has been answered.
    slots: Vec<Cell<Option<Parked>>>,
    /// Whether outcomes are written beside inputs.
    keeps_inputs: bool,
    /// Whether anything that ends here may lead to a push.
    sends_on: bool,
    outbox: Outbox,
    /// The first fatal error.
    fatal: OnceCell<RemoteCause>,
}

impl Desk {
    /// An item's task, which stays on the desk.
    #[inline(always)]
    fn look(&self, index: usize) -> Option<Claimed<'_>> {
        end_if_forked(self.seat.birth); // user code answers, or has panicked
        self.slots.get(index)?.get()?.resume(&self.seat.segment)
    }

    #[inline(always)]
    fn take(&self, index: usize) -> Option<Claimed<'_>> {
        end_if_forked(self.seat.birth);
        self.slots.get(index)?.take()?.resume(&self.seat.segment)
    }

    /// Answers an item. If user code that serialises the outcome panics, it has not been answered.
    #[inline(always)]
    pub(crate) fn reply<T: Payload>(&self, index: usize, outcome: &T) {
        if self.keeps_inputs {
            return self.reply_beside(index, outcome);
        }
        let Some(mut task) = self.look(index) else { return };
        let written = encode(outcome, &mut task, self.seat.birth);
        self.slots[index].set(None);
        match written {
            Ok(()) => self.hand_on(task),
            Err(error) => self.fail_task(task, error.into()),
        }
    }

    #[inline(never)]
    fn reply_beside<T: Payload>(&self, index: usize, outcome: &T) {
        let Some(task) = self.look(index) else { return };
        let mut task = task.keep_input();
        let written = catch_unwind(AssertUnwindSafe(|| encode(outcome, &mut task, self.seat.birth)));
        end_if_forked(self.seat.birth);
        let task = task.done(); // gives back what it has not used
        match written {
            Ok(written) => {
                self.slots[index].set(None);
                match written {
                    Ok(()) => self.hand_on(task),
                    Err(error) => self.fail_task(task, error.into()),
                }
            }
            Err(panic) => resume_unwind(panic),
        }
    }

    /// The input is the outcome.
    #[inline(always)]
    pub(crate) fn pass(&self, index: usize) {
        if let Some(task) = self.take(index) {
            self.hand_on(task);
        }
    }

    #[cold]
    pub(crate) fn fail(&self, index: usize, cause: RemoteCause) {
        if let Some(task) = self.take(index) {
            self.fail_task(task, cause);
        }
    }

    #[cold]
    pub(crate) fn fail_by_error(&self, index: usize, error: &BoxError) {
        self.note_if_fatal(error);
        self.fail(index, RemoteCause::failed(error));
    }

    /// Whether an error was fatal, so that nothing more is begun.
    pub(crate) fn is_fatal(&self) -> bool {
        self.fatal.get().is_some()
    }

    fn note_if_fatal(&self, error: &BoxError) {
        if error.is_fatal() {
            self.fatal.get_or_init(|| RemoteCause::failed(error));
        }
    }

    #[cold]
    pub(crate) fn fail_by_panic(&self, index: usize, panic: RemoteCause) {
        self.seat.entry().counters().count_panic();
        self.fail(index, panic);
    }

    /// Answers whatever is left, and clears the desk.
    #[inline]
    fn fail_rest(&mut self, cause: impl Fn(&Self) -> RemoteCause) {
        for index in 0..self.slots.len() {
            if self.slots[index].get().is_some() {
                self.fail(index, cause(self));
            }
        }
        self.slots.clear();
    }

    fn fail_task(&self, task: Claimed<'_>, cause: RemoteCause) {
        end_if_forked(self.seat.birth);
        self.seat.entry().counters().count_error();
        let error = self.seat.error(task.attempt(), cause);
        match self.keeps_inputs {
            false => self.mover().fail(task, error),
            true => self.mover().fail_beside(task.keep_input_for_error(self.seat.node), error),
        }
    }

    /// Moves a finished task on.
    #[inline(always)]
    fn hand_on(&self, task: Claimed<'_>) {
        end_if_forked(self.seat.birth); // what has serialised the outcome is user code too
        self.mover().move_on(task, self.next);
    }

    #[inline]
    fn mover(&self) -> Mover<'_> {
        Mover { outbox: Some(&self.outbox), ..self.seat.mover(self.client) }
    }

    /// Pushes finished items that wait for others; at the latest when `call` has returned.
    #[inline]
    pub(crate) fn flush(&self) {
        if self.sends_on {
            self.mover().flush();
        }
    }
}

/// Why the loop goes on or ends.
enum Idle {
    Work,
    Stop(Stop),
}

/// One worker's loop over its node.
pub(crate) struct Loop<'a> {
    seat: &'a Seat,
    node: Node<'a>,
    ring: Ring<'a>,
    rule: Rule,
    /// Its number at the doorbell.
    worker: u32,
    /// Several workers share the ring: one spins while the others sleep.
    shared: bool,
    patience: Patience,
    /// By the size of the last batch.
    pace: Pace,
    counters: &'a Counters,
    mover: Mover<'a>,
    /// None: it does not log its batches.
    tally: Option<Tally>,
    /// See [`NodeInfo::keeps_apart`](ringmill_shm::segment::NodeInfo::keeps_apart).
    keeps_apart: bool,
    /// The group of the batch that is being collected.
    group: Option<u32>,
    /// What comes next does not belong to it.
    apart: bool,
    /// Ids that the holder of the lock has seen from `head` on.
    seen: Vec<u32>,
    /// The batch that is being collected; then it changes places with the slots of the desk.
    claimed: Vec<Cell<Option<Parked>>>,
    /// Claimed, but their callers had gone.
    gone: Vec<Parked>,
}

impl<'a> Loop<'a> {
    pub(crate) fn new(seat: &'a Seat, client: Token) -> Self {
        let (node, entry) = (seat.node(), seat.entry());
        let info = node.info();
        Self {
            seat,
            node,
            ring: node.ring(),
            rule: Rule { batch_size: info.batch_size, wait_ns: info.batch_wait_ns },
            worker: seat.number,
            shared: info.workers > 1,
            patience: Patience::of_worker(seat.wait),
            pace: Pace::One,
            counters: entry.counters(),
            mover: seat.mover(client),
            tally: Tally::new(info.batch_size, info.log_batches_every),
            keeps_apart: info.keeps_apart,
            group: None,
            apart: false,
            seen: Vec::with_capacity((info.batch_size.max(1) as usize).min(1 << 12)),
            claimed: Vec::with_capacity((info.batch_size.max(1) as usize).min(1 << 12)),
            gone: Vec::new(),
        }
    }

    /// Works until the server stops, or user code gives up: then the error it gave up with.
    pub(crate) fn work<W: BatchWorker>(
        mut self,
        worker: &mut W,
        desk: &mut Desk,
    ) -> Result<Stop, RemoteCause> {
        let mut inputs: Vec<Validated<W::In>> = Vec::new();
        let staged = RefCell::new(Vec::new());
        loop {
            match self.idle() {
                Idle::Work => {}
                Idle::Stop(why) => {
                    self.pass_on();
                    return Ok(why);
                }
            }
            self.collect();
            if self.claimed.is_empty() {
                continue;
            }
            let items = self.claimed.len() as u64;
            self.admit::<W>(desk, &mut inputs);
            if !inputs.is_empty() {
                let batch = Batch { desk, inputs: &inputs, staged: &staged };
                self.counters.begin_call();
                all_begun();
                match panics::caught(AssertUnwindSafe(|| worker.call(batch))) {
                    Ok(Ok(())) => {
                        crash_point!("run.called");
                        desk.fail_rest(|desk| desk.fatal.get().cloned().unwrap_or(RemoteCause::Unanswered));
                    }
                    Ok(Err(error)) => {
                        desk.note_if_fatal(&error);
                        let cause = RemoteCause::failed(&error);
                        desk.fail_rest(|_| cause.clone());
                        panics::let_go(error);
                    }
                    Err(panic) => {
                        self.counters.count_panic();
                        desk.fail_rest(|_| panic.clone());
                    }
                }
                self.counters.end_call();
                inputs.clear();
                if !staged.borrow().is_empty() {
                    panics::let_go(staged.take()); // what a panic in the midst of `reply_all` has left
                }
            }
            crash_point!("run.flushes");
            desk.flush();
            crash_point!("run.handled");
            if let Some(cause) = desk.fatal.get() {
                self.pass_on();
                return Err(cause.clone());
            }
            if let Some(tally) = &mut self.tally
                && tally.count(items)
            {
                self.log_batches();
            }
        }
    }

    /// Before it leaves: what it may have been woken for is for another one.
    fn pass_on(&self) {
        if self.pending() {
            self.node.doorbell().wake_one(|worker| self.node.bell(worker));
        }
    }

    /// Outside the lock, and with no item in hand: what listens is user code.
    #[cold]
    fn log_batches(&mut self) {
        let Some(tally) = &mut self.tally else { return };
        let Tally { count, items, min, max, .. } = tally.take();
        let servlet = self.node.info().name.as_str();
        let (worker, thread) = (self.seat.worker(), self.seat.thread());
        let mean = items as f64 / count as f64;
        panics::say(|| tracing::info!(servlet, worker, thread, count, min, max, mean, "batches"));
    }

    /// Validates the claimed items; those that can be read are on the desk, in order.
    #[inline]
    fn admit<W: BatchWorker>(&mut self, desk: &mut Desk, inputs: &mut Vec<Validated<W::In>>) {
        std::mem::swap(&mut self.claimed, &mut desk.slots);
        // One pass: an item that stays moves to the place after the one that stayed before.
        let mut next = 0;
        // A type's own check may panic. As in `Batch::answer_each`, that is caught around as many as there are without.
        while let Err(panic) =
            panics::caught(AssertUnwindSafe(|| self.admit_from::<W>(desk, inputs, &mut next)))
        {
            desk.fail_by_panic(next - 1, panic);
        }
        desk.slots.truncate(inputs.len());
    }

    /// `next` says which item is looked at, plus one; what has been admitted lies before it, in its place.
    #[inline(always)]
    fn admit_from<W: BatchWorker>(
        &self,
        desk: &mut Desk,
        inputs: &mut Vec<Validated<W::In>>,
        next: &mut usize,
    ) {
        let seat = self.seat;
        while let Some(slot) = desk.slots.get(*next) {
            *next += 1;
            let Some(parked) = slot.get() else { continue };
            let Some(task) = parked.resume(&seat.segment) else { continue };
            if let Some(late_ns) = late_ns(&task) {
                self.counters.count_skipped();
                slot.set(None);
                desk.fail_task(task, RemoteCause::DeadlineExceeded { late_ns });
                continue;
            }
            match Validated::<W::In>::of_claimed(&task) {
                Ok(input) => {
                    desk.slots[inputs.len()].set(Some(parked));
                    inputs.push(input);
                }
                Err(error) => {
                    slot.set(None);
                    desk.fail_task(task, error.into());
                    continue;
                }
            }
            task.begin_work(seat.node);
            crash_point!("run.admits");
        }
    }

    /// Whether the ring has something.
    #[inline]
    fn pending(&self) -> bool {
        self.ring.get(self.ring.head()).is_some()
    }

    /// Whether the ring has something that nobody is collecting.
    #[inline]
    fn unattended(&self) -> bool {
        self.pending() && (!self.shared || self.node.lock().holder().is_none())
    }

    /// The same, where it is worth asking whether the one that collects it is dead.
    fn to_collect(&self) -> bool {
        let alive = |holder| holder != self.seat.token && !self.seat.segment.is_dead(holder);
        self.pending() && !self.node.lock().holder().is_some_and(alive)
    }

    fn stop(&self) -> Option<Stop> {
        let stopping = || matches!(self.seat.segment.run(), Run::Stopping | Run::Closed);
        match self.seat.unit.state() {
            State::Orphaned => Some(Stop::ServerGone),
            _ if stopping() => Some(Stop::Shutdown),
            State::Failed => Some(Stop::Fatal),
            State::AtWork => None,
        }
    }

    /// Whether a batch takes only what is there, because there will be no more.
    #[inline]
    fn winding_up(&self) -> bool {
        self.seat.segment.run() != Run::Running || self.seat.unit.state() != State::AtWork
    }

    /// Waits for something in the ring: spins, then sleeps on the doorbell.
    #[inline]
    fn idle(&self) -> Idle {
        // Nobody has come while it slept, so nobody is about to.
        let mut in_vain = false;
        loop {
            // A worker that stops does not begin anything if the server is gone or its unit has failed, and
            // empties the ring if the server shuts down.
            let stop = self.stop();
            match stop {
                Some(why @ (Stop::ServerGone | Stop::Fatal)) => return Idle::Stop(why),
                _ if self.to_collect() => return Idle::Work,
                // What another one is collecting, it will finish.
                Some(why) => return Idle::Stop(why),
                None => {}
            }
            if !in_vain && self.spin() {
                return Idle::Work;
            }
            in_vain = !self.sleep();
        }
    }

    #[inline]
    fn spin(&self) -> bool {
        let look = || self.unattended().then_some(());
        if !self.shared || self.patience.looks() == 0 {
            return self.patience.spin(self.pace, look).is_some();
        }
        let doorbell = self.node.doorbell();
        let Some(turn) = doorbell.begin_spinning(self.worker) else { return false };
        let found = self.patience.spin(self.pace, look).is_some();
        doorbell.end_spinning(turn);
        found
    }

    /// Sleeps on the doorbell; whether it has rung since.
    #[cold]
    fn sleep(&self) -> bool {
        let (doorbell, bell) = (self.node.doorbell(), self.seat.entry().bell());
        let count = bell.count();
        doorbell.announce(self.worker); // *attended*: before the look at ring and lock
        if !self.to_collect() && self.stop().is_none() {
            let asleep_since = self.patience.falls_asleep();
            bell.sleep(count, Some(SLEEP_LIMIT));
            self.patience.slept(asleep_since);
        }
        doorbell.retract(self.worker);
        bell.count() != count
    }

    /// Collects a batch under the reader lock; none if others were faster or all callers had gone.
    #[inline]
    fn collect(&mut self) {
        let (ring, lock, doorbell) = (self.ring, self.node.lock(), self.node.doorbell());
        let segment = &*self.seat.segment;
        if let Some(first) = ring.get(ring.head()) {
            segment.prefetch_task(first); // its lines come while the lock is taken
        }
        // Where it says that we hold it, somebody else has written so.
        let is_dead = |t| t == self.seat.token || segment.is_dead(t);
        let give_up = || self.stop().is_some();
        match lock.lock_unless(self.seat.token, self.patience.looks(), is_dead, give_up) {
            Some(Acquired::Free) => {}
            Some(Acquired::TookOver(_)) => {
                crash_point!("run.took_over");
                doorbell.retract_window(); // the dead holder's; its claims we meet below
            }
            None => return,
        }
        let mut head = ring.head();
        self.seen.clear();
        (self.group, self.apart) = (None, false);
        loop {
            self.look(head);
            let waiting = self.seen.len() as u64;
            let Some(&first) = self.seen.first() else { break };
            let mut oldest_ns = 0;
            if self.rule.wait_ns != 0 {
                if self.is_cancelled(first) {
                    // Freed at once, so that it does not count as the batch's oldest.
                    self.claim(1);
                    crash_point!("run.window_skips");
                    head = head.wrapping_add(1);
                    ring.set_head(head);
                    self.discard_gone(false);
                    continue;
                }
                oldest_ns = Task::new(segment, first).map_or(0, |task| task.enqueued_ns());
            }
            let verdict = match self.apart {
                true => Verdict::Close(Closed::Empty), // nothing more will come that belongs to it
                false => self.rule.judge(waiting, oldest_ns, self.winding_up(), now_ns),
            };
            match verdict {
                Verdict::Close(why) => {
                    head = self.take(head);
                    let items = self.claimed.len() as u64;
                    if items > 0 {
                        self.pace = if items > 1 { Pace::Many } else { Pace::One };
                        self.counters.count_batch(items, self.rule.closed(why, items));
                        break;
                    }
                }
                Verdict::WaitUntil(due_ns) => {
                    self.wait_in_window(head, due_ns);
                    if self.seat.unit.state() == State::Orphaned {
                        break; // its callers have gone with the server
                    }
                }
            }
        }
        crash_point!("run.collected");
        lock.unlock(self.seat.token);
        crash_point!("run.unlocked");
        // *attended*: after the unlock.
        if self.shared && self.pending() {
            doorbell.wake_one(|worker| self.node.bell(worker));
        }
        if !self.gone.is_empty() {
            self.discard_gone(true);
        }
    }

    /// Claims what was seen, and in place of items whose callers had gone what else is there; says the
    /// new `head`.
    #[inline]
    fn take(&mut self, mut head: u64) -> u64 {
        loop {
            let (count, gone) = (self.seen.len(), self.gone.len());
            self.claim(count);
            crash_point!("run.claimed");
            head = head.wrapping_add(count as u64);
            self.ring.set_head(head);
            if self.gone.len() == gone {
                return head;
            }
            self.discard_gone(false);
            self.look(head);
            if self.seen.is_empty() {
                return head;
            }
        }
    }

    /// Notes what is published from `head` on, up to what a batch has room for.
    #[inline]
    fn look(&mut self, head: u64) {
        while ((self.claimed.len() + self.seen.len()) as u64) < self.rule.most()
            && let Some(id) = self.ring.get(head.wrapping_add(self.seen.len() as u64))
            && (!self.keeps_apart || self.belongs(id))
        {
            self.seen.push(id);
        }
    }

    /// Whether a task belongs to the batch that is being collected.
    #[cold]
    fn belongs(&mut self, id: u32) -> bool {
        let task = Task::new(&self.seat.segment, id);
        let group = match task.map(|task| task.at()) {
            Some(At::To { group, .. }) => group,
            _ => 0, // a leftover cell
        };
        let belongs = *self.group.get_or_insert(group) == group;
        self.apart |= group != 0 || !belongs;
        belongs
    }

    fn is_cancelled(&self, id: u32) -> bool {
        Task::new(&self.seat.segment, id).is_some_and(|task| task.request_word().peek().is_cancelled())
    }

    /// Claims the first `count` that were seen, and forgets that they were. Claims come before the store
    /// of `head`.
    #[inline]
    fn claim(&mut self, count: usize) {
        let segment = &*self.seat.segment;
        let prefetch = |id: &u32| segment.prefetch_task(*id);
        self.seen.iter().take(PREFETCH).for_each(prefetch);
        for index in 0..count {
            self.seen.get(index + PREFETCH).into_iter().for_each(prefetch);
            let task = Task::new(segment, self.seen[index]);
            match task.and_then(|task| task.claim(self.seat.token, |t| segment.is_dead(t))) {
                Some(task) if task.is_abandoned() => self.gone.push(task.park()),
                Some(task) => self.claimed.push(Cell::new(Some(task.park()))),
                None => {} // a leftover cell
            }
            crash_point!("run.claimed_some");
        }
        self.seen.drain(..count);
    }

    /// Frees the claimed items whose callers had gone; `head` has passed them. Branches only once the lock is
    /// free: what they were the last of is then moved on, by way of user code perhaps.
    #[inline]
    fn discard_gone(&mut self, branches: bool) {
        let segment = &*self.seat.segment;
        for parked in std::mem::take(&mut self.gone) {
            let Some(task) = parked.resume(segment) else { continue };
            if task.task().is_branch() && !branches {
                self.gone.push(task.park());
            } else {
                self.counters.count_skipped();
                self.mover.discard(task);
                crash_point!("run.discards");
            }
        }
    }

    /// Waits for the batch to fill up, until `due_ns`, holding the lock.
    fn wait_in_window(&self, head: u64, due_ns: u64) {
        let (ring, doorbell, bell) = (self.ring, self.node.doorbell(), self.seat.entry().bell());
        let last = head.wrapping_add(self.rule.most() - 1);
        let now = now_ns();
        let left = Duration::from_nanos(due_ns.saturating_sub(now));
        if left <= self.patience.longest() {
            while ring.get(last).is_none() && now_ns() < due_ns && !self.winding_up() {
                std::hint::spin_loop();
            }
            return;
        }
        let count = bell.count();
        doorbell.announce_window(self.worker, last);
        if ring.get(last).is_none() && !self.winding_up() {
            bell.sleep(count, Some(left.min(SLEEP_LIMIT))); // then the batch is judged anew
        }
        doorbell.retract_window();
    }
}

/// By how much a task's time is over; `None` if it is not.
#[inline(always)]
fn late_ns(task: &Claimed<'_>) -> Option<u64> {
    let deadline_ns = task.deadline_ns()?;
    now_ns().checked_sub(deadline_ns)
}

/// How large batches were since they were last logged.
#[derive(Debug, Clone, Copy)]
struct Tally {
    every: u64,
    count: u64,
    items: u64,
    min: u64,
    max: u64,
}

impl Tally {
    /// `None` if there is nothing to log: there are no batches, or it is not wished.
    fn new(batch_size: u32, every: u64) -> Option<Self> {
        (batch_size > 0 && every > 0).then_some(Self { every, count: 0, items: 0, min: u64::MAX, max: 0 })
    }

    /// Counts a batch; whether it is time to log.
    #[inline]
    fn count(&mut self, items: u64) -> bool {
        self.count += 1;
        self.items += items;
        self.min = self.min.min(items);
        self.max = self.max.max(items);
        self.count == self.every
    }

    /// What was counted, and begins anew.
    fn take(&mut self) -> Self {
        std::mem::replace(self, Self { every: self.every, count: 0, items: 0, min: u64::MAX, max: 0 })
    }
}

/// A worker's whole life after it has its seat: construct, be ready, work, clean up.
pub(crate) fn live<W: BatchWorker>(seat: Arc<Seat>) -> Left {
    panics::watch_this_thread();
    ringmill_shm::sys::cpu::set_precise_sleep();
    let context = seat.context();
    let mut worker = match construct::<W>(&seat, &context) {
        Ok(worker) => worker,
        Err(cause) => return Left::Unborn(seat.error(0, cause)),
    };
    let Some(client) = seat.segment.server_token() else {
        let message = "the participant table names no server".into();
        return Left::Unborn(seat.error(0, RemoteCause::Payload { message }));
    };
    let next = seat.node().info().next;
    let mut desk = Desk {
        seat: Arc::clone(&seat),
        client,
        next,
        slots: Vec::new(),
        keeps_inputs: seat.node().info().keeps_inputs,
        sends_on: seat.segment.shape().nodes > 1,
        outbox: Outbox::default(),
        fatal: OnceCell::new(),
    };
    let work = Loop::new(&seat, client);
    crash_point!("run.born");
    if seat.unit.await_fellows() {
        seat.entry().set_life(ringmill_shm::participant::Life::Ready);
        seat.segment.startup().ring();
    }
    let outcome = work.work(&mut worker, &mut desk);
    crash_point!("run.over");
    let why = *outcome.as_ref().unwrap_or(&Stop::Fatal);
    // Both before user code, which may take its time.
    match &outcome {
        Err(cause) => {
            seat.entry().leave(&crate::launch::boot_message(&seat.error(0, cause.clone())));
            seat.unit.fail(&seat.segment);
        }
        Ok(_) => seat.entry().leave(&[]),
    }
    let tell = |what: &str, ended: Result<(), RemoteCause>| {
        if let Err(panic) = ended {
            panics::say(|| tracing::error!(worker = %context.name(), "{what} {panic}"));
        }
    };
    tell("cleanup", panics::caught(AssertUnwindSafe(|| worker.cleanup(&why))));
    tell("the worker's drop", panics::caught(AssertUnwindSafe(|| drop(worker))));
    match outcome {
        Ok(why) => Left::Stopped(why),
        Err(cause) => Left::Fatal(seat.error(0, cause)),
    }
}

fn construct<W: BatchWorker>(seat: &Seat, context: &Context) -> Result<W, RemoteCause> {
    let unreadable =
        |e: String| RemoteCause::Payload { message: format!("its configuration cannot be read: {e}") };
    let bytes = seat.segment.config(seat.node().info());
    let read = || crate::payload::copied::<W::Config>(&bytes).map_err(|e| unreadable(e.to_string()));
    let config = panics::caught(AssertUnwindSafe(read))??;
    let failed = |error: BoxError| {
        let cause = RemoteCause::failed(&error);
        panics::let_go(error);
        cause
    };
    let mut worker = panics::caught(AssertUnwindSafe(|| W::new(config, context)))?.map_err(failed)?;
    match panics::caught(AssertUnwindSafe(|| worker.warm_up(context))).map(|warm| warm.map_err(failed)) {
        Ok(Ok(())) => Ok(worker),
        Ok(Err(cause)) | Err(cause) => {
            panics::let_go(worker); // whatever that does, why it is let go is told
            Err(cause)
        }
    }
}
