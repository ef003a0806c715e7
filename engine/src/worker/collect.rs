//! The worker's loop: collect a batch under the reader lock, have user code handle it, move the items on.
//!
//! # Protocol
//!
//! ```text
//! idle ──something in the ring──▶ lock ──▶ judge ──close──▶ claim all, store head, unlock ──▶ work ─▶ idle
//!                                   ▲        │ wait
//!                                   └────────┘  until full or due, holding the lock
//! ```
//!
//! While the window is open the lock holder only *looks* at the ring, and claims the items when it closes the batch. So
//! an item whose caller goes meanwhile is skipped, and no item is lost with a holder that dies in its window.
//!
//! User code never runs under the reader lock: slow or crashing user code must not stop the other workers.
//!
//! After a fatal error, and once the unit is retired, each thread of the worker's unit ends its batch, cleans up and
//! leaves, and holds no task.
//!
//! # Ordering
//!
//! * `[attended]`: while a live lock holder is collecting, an idle worker does not wait for the lock, but sleeps on the
//!   doorbell. It announces itself (SeqCst), then looks at ring and lock; the holder unlocks (SeqCst), then looks at
//!   ring and sleepers, and wakes one if the ring has more. So the holder sees the sleeper, or the worker sees the free
//!   lock.
//!
//! # Crash
//!
//! A holder that dies before the claims: the next worker takes the lock over. Between claims and `head`: the next
//! holder claims the items again. After `head`: the supervisor answers the items with `WorkerDied`, or requeues them
//! (`OnDeath`).

use super::batch::{Batch, BatchWorker};
use super::context::Stop;
use super::desk::Desk;
use super::seat::Seat;
use super::tally::Tally;
use super::unit::UnitState;
use crate::error::RemoteCause;
use crate::panics::{self, end_if_forked};
use crate::policy::batch::{Habit, Rule, Verdict, Waiting};
use crate::policy::patience::{Pace, Patience};
use crate::policy::sample::{Countdown, Timing};
use crate::route::Mover;
use crate::wire::payload::Validated;
use ringmill_shm::arena::{At, Claimed, Parked, Task, all_begun};
use ringmill_shm::lock::Acquired;
use ringmill_shm::party::Reader;
use ringmill_shm::ring::Ring;
use ringmill_shm::segment::{Node, Run};
use ringmill_shm::stats::{Closed, Counter, Counters, Stamp, Weight, WorkerHistogram, WorkerHistograms};
use ringmill_shm::sys::time::now_ns;
use ringmill_shm::trace::Taken;
use std::cell::{Cell, RefCell};
use std::panic::AssertUnwindSafe;
use std::time::Duration;

/// The longest sleep of a worker: the backstop for a wake that a dead waker owed.
pub(super) const SLEEP_LIMIT: Duration = Duration::from_millis(500);
/// How many tasks ahead of the one that it claims a worker prefetches.
const PREFETCH: usize = 6;

/// Why a worker stops waiting.
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
    /// Whether several workers share the ring: then one spins while the others sleep.
    shared: bool,
    patience: Patience,
    /// How closely to look, by the size of the last batch.
    pace: Pace,
    counters: &'a Counters,
    histograms: &'a WorkerHistograms,
    /// Which calls of user code are timed.
    timed: Countdown,
    /// When the items of this batch were taken; 0: no clock was read for it.
    taken_ns: Cell<u64>,
    /// Where items of this batch are that are traced; of those that could not be read, another may be there.
    traced: RefCell<Vec<usize>>,
    mover: Mover<'a>,
    /// `None`: the worker does not log its batches.
    tally: Option<Tally>,
    /// Whether the unit may handle only so many requests.
    counts_requests: bool,
    /// See [`NodeFacts::keeps_apart`](ringmill_shm::layout::NodeFacts::keeps_apart).
    keeps_apart: bool,
    /// The group of the batch that is being collected.
    group: Option<u32>,
    /// Whether the next task in the ring is not of that group.
    apart: bool,
    /// The ids that the lock holder has seen from `head` on.
    seen: Vec<u32>,
    /// The batch that is being collected; then it is swapped with the items of the desk.
    claimed: Vec<Cell<Option<Parked>>>,
    /// Claimed tasks whose callers had gone.
    gone: Vec<Parked>,
}

/// Room for one batch after the other, which keeps its memory.
struct Room<W: BatchWorker> {
    inputs: Vec<Validated<W::In>>,
    /// See [`Batch::reply_all`].
    staged: RefCell<Vec<W::Out>>,
}

impl<W: BatchWorker> Default for Room<W> {
    fn default() -> Self {
        Self { inputs: Vec::new(), staged: RefCell::default() }
    }
}

impl<'a> Loop<'a> {
    pub(crate) fn new(seat: &'a Seat) -> Self {
        Self::with_rule(seat, Rule::of(&seat.node().info().facts))
    }

    /// A loop that makes batches by this rule.
    pub(super) fn with_rule(seat: &'a Seat, rule: Rule) -> Self {
        let (node, entry) = (seat.node(), seat.entry());
        let (facts, rows) = (&node.info().facts, node.info().rows);
        Self {
            seat,
            node,
            ring: node.ring(),
            rule,
            worker: seat.number,
            shared: rows > 1,
            patience: Patience::of_worker(seat.wait),
            pace: Pace::One,
            counters: entry.counters(),
            histograms: seat.segment.histograms(seat.row).expect("the row of a worker"),
            timed: Countdown::new(Timing::from_raw(seat.segment.timed_every())),
            taken_ns: Cell::new(0),
            traced: RefCell::default(),
            mover: seat.mover(),
            tally: Tally::new(facts, rule),
            counts_requests: seat.unit.counts_requests(),
            keeps_apart: facts.keeps_apart.is_set(),
            group: None,
            apart: false,
            seen: Vec::with_capacity((rule.most() as usize).min(1 << 12)),
            claimed: Vec::with_capacity((rule.most() as usize).min(1 << 12)),
            gone: Vec::new(),
        }
    }

    /// Works until the server stops, or user code gives up with the returned error.
    pub(crate) fn work<W: BatchWorker>(
        mut self,
        worker: &mut W,
        desk: &mut Desk,
    ) -> Result<Stop, RemoteCause> {
        let mut room = Room::default();
        loop {
            match self.idle() {
                Idle::Work => {}
                Idle::Stop(why) => {
                    self.pass_on();
                    return Ok(why);
                }
            }
            if let Some(cause) = self.turn(worker, desk, &mut room) {
                self.pass_on();
                return Err(cause);
            }
        }
    }

    /// Handles one batch of what is in the ring now, and returns the error with which user code gave up, if it did. Does
    /// not wait where the ring is empty.
    pub(super) fn work_once<W: BatchWorker>(
        mut self,
        worker: &mut W,
        desk: &mut Desk,
    ) -> Option<RemoteCause> {
        self.turn(worker, desk, &mut Room::default())
    }

    /// Collects a batch and has it handled. Returns the error with which user code gives up.
    #[inline(always)]
    fn turn<W: BatchWorker>(
        &mut self,
        worker: &mut W,
        desk: &mut Desk,
        room: &mut Room<W>,
    ) -> Option<RemoteCause> {
        self.collect();
        if self.claimed.is_empty() {
            return None;
        }
        let items = self.claimed.len() as u64;
        let mut requests = 0;
        let Room { inputs, staged } = room;
        self.taken_ns.set(0);
        self.traced.get_mut().clear(); // of a batch of which user code saw nothing
        self.admit::<W>(desk, inputs);
        if !inputs.is_empty() {
            let timed = if self.timed.is_due() { Some(self.begin_timing()) } else { None };
            if !self.traced.get_mut().is_empty() {
                desk.begin_runs(self.traced.get_mut());
            }
            let batch = Batch { desk, inputs, staged };
            self.counters.begin_call();
            all_begun();
            match panics::caught(AssertUnwindSafe(|| worker.call(batch))) {
                Ok(Ok(())) => {
                    crash_point!("collect.called");
                    desk.fail_rest(|desk| desk.fatal.get().cloned().unwrap_or(RemoteCause::Unanswered));
                }
                Ok(Err(error)) => {
                    desk.note_if_fatal(&error);
                    let cause = RemoteCause::failed(&error);
                    desk.fail_rest(|_| cause.clone());
                    panics::let_go(error);
                }
                Err(panic) => {
                    self.seat.note_panic(&panic);
                    let cause = RemoteCause::from(panic);
                    desk.fail_rest(|_| cause.clone());
                }
            }
            self.counters.end_call();
            if let Some(timed) = timed {
                self.end_timing(timed);
            }
            requests = inputs.len() as u64;
            inputs.clear();
            if !staged.borrow().is_empty() {
                panics::let_go(staged.take()); // outcomes that a panic within `reply_all` has left
            }
        }
        crash_point!("collect.flushes");
        desk.flush();
        crash_point!("collect.handled");
        if let Some(cause) = desk.fatal.get() {
            return Some(cause.clone());
        }
        if self.counts_requests {
            self.seat.unit.count_requests(requests, &self.seat.segment);
        }
        if let Some(tally) = &mut self.tally
            && tally.count(items)
        {
            self.log_batches();
        }
        None
    }

    /// When the items of this batch were taken, to within what it takes to look at them.
    fn taken_ns(&self) -> u64 {
        if self.taken_ns.get() == 0 {
            self.taken_ns.set(now_ns());
        }
        self.taken_ns.get()
    }

    /// When the call of user code begins, and for how many calls it stands.
    #[cold]
    fn begin_timing(&self) -> (u64, Weight) {
        let now_ns = now_ns();
        self.counters.time_call(now_ns);
        (now_ns, self.timed.sample(now_ns))
    }

    #[cold]
    fn end_timing(&self, (begun_ns, weight): (u64, Weight)) {
        self.histograms.record(WorkerHistogram::RunTime, now_ns().saturating_sub(begun_ns), weight.count());
    }

    /// How long an item that is timed was in the ring; and if it is traced, that this worker has it. `index` is its index in
    /// the batch if it can be read.
    #[cold]
    fn note_taken(&self, task: &Claimed<'_>, stamp: Stamp, index: usize) {
        let (queued_ns, taken_ns) = (stamp.time_ns(), self.taken_ns());
        if let Some(weight) = stamp.weight() {
            let in_ring_ns = taken_ns.saturating_sub(queued_ns);
            self.histograms.record(WorkerHistogram::QueueTime, in_ring_ns, weight.count());
        }
        if stamp.is_traced() {
            let (node, pid) = (self.seat.node, self.seat.entry().pid());
            task.begin_hop(&Taken { node, pid, queued_ns, taken_ns });
            self.traced.borrow_mut().push(index);
        }
    }

    /// Before the worker leaves: wakes another one for the item for which this one may have been woken.
    fn pass_on(&self) {
        if self.pending() {
            self.node.doorbell().wake_one(|worker| self.node.bell(worker));
        }
    }

    /// Called outside the lock and with no item on the desk: the log's listeners are user code.
    #[cold]
    fn log_batches(&mut self) {
        let Some(tally) = &mut self.tally else { return };
        let Tally { count, items, min, max, .. } = tally.take();
        let servlet = self.node.info().name.as_str();
        let (worker, thread) = (self.seat.worker(), self.seat.thread());
        let mean = items as f64 / count as f64;
        panics::say(|| tracing::info!(servlet, worker, thread, count, min, max, mean, "batches"));
    }

    /// Validates the claimed items, and puts those that can be read on the desk, in order.
    #[inline]
    fn admit<W: BatchWorker>(&mut self, desk: &mut Desk, inputs: &mut Vec<Validated<W::In>>) {
        std::mem::swap(&mut self.claimed, &mut desk.items);
        // One pass: a readable item moves to the position after the previous readable one.
        let mut next = 0;
        // A type's own check may panic. As in `Batch::answer_each`, one `catch_unwind` covers all items up to the next
        // panic.
        while let Err(panic) =
            panics::caught(AssertUnwindSafe(|| self.admit_from::<W>(desk, inputs, &mut next)))
        {
            desk.fail_by_panic(next - 1, panic);
        }
        desk.items.truncate(inputs.len());
    }

    /// `next` is the index of the current item, plus one; admitted items lie before it.
    #[inline(always)]
    fn admit_from<W: BatchWorker>(
        &self,
        desk: &mut Desk,
        inputs: &mut Vec<Validated<W::In>>,
        next: &mut usize,
    ) {
        let seat = self.seat;
        let segment = &*seat.segment;
        while let Some(item) = desk.items.get_mut(*next) {
            let index = *next;
            *next += 1;
            let Some(task) = item.get_mut().as_ref().and_then(|parked| parked.glance(segment)) else {
                continue;
            };
            let stamp = task.task().stamp();
            if stamp.is_marked() {
                self.note_taken(&task, stamp, inputs.len());
            }
            let cause = match late_ns(&task) {
                None => match Validated::<W::In>::of_claimed(&task) {
                    Ok(input) => {
                        end_if_forked(seat.birth); // the type's own check is user code
                        task.begin_work(seat.node);
                        if index != inputs.len() {
                            desk.items.swap(index, inputs.len());
                        }
                        inputs.push(input);
                        crash_point!("collect.admits");
                        continue;
                    }
                    Err(error) => error.into(),
                },
                Some(late_ns) => {
                    self.counters.count(Counter::Expired);
                    RemoteCause::DeadlineExceeded { late_ns }
                }
            };
            desk.fail(index, cause);
        }
    }

    /// Whether the ring has an item.
    #[inline]
    fn pending(&self) -> bool {
        self.ring.get(self.ring.head()).is_some()
    }

    /// Whether the ring has an item, and no worker is collecting.
    #[inline]
    fn unattended(&self) -> bool {
        self.pending() && (!self.shared || self.node.lock().holder().is_none())
    }

    /// Whether the ring has an item, and no live worker is collecting: asks for the proof of a lock holder's death,
    /// which costs more.
    fn to_collect(&self) -> bool {
        let alive = |holder| holder != self.seat.me().token() && !self.seat.segment.is_dead(holder);
        self.pending() && !self.node.lock().holder().is_some_and(alive)
    }

    fn stop(&self) -> Option<Stop> {
        stop(self.seat)
    }

    /// Whether a batch takes only the items that are there, because no more will come.
    #[inline]
    fn winding_up(&self) -> bool {
        self.seat.segment.run() != Run::Running || self.seat.unit.state() != UnitState::AtWork
    }

    /// Waits for an item in the ring: spins, then sleeps on the doorbell.
    #[inline]
    fn idle(&self) -> Idle {
        // Whether the last sleep ended without a wake: then an item is hardly about to come, and the worker does not
        // spin.
        let mut in_vain = false;
        loop {
            // A worker that stops begins no batch if the server is gone or its unit has failed or is retired, since a
            // successor comes, and empties the ring if the server shuts down.
            let stop = self.stop();
            match stop {
                Some(why @ (Stop::ServerGone | Stop::Fatal | Stop::Retired)) => return Idle::Stop(why),
                _ if self.to_collect() => return Idle::Work,
                // If another worker is collecting, it will finish.
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
        if self.patience.looks() == 0 {
            return self.patience.spin(self.pace, look).is_some();
        }
        let doorbell = self.shared.then(|| self.node.doorbell());
        let turn = match doorbell.map(|doorbell| doorbell.begin_spinning(self.worker)) {
            Some(None) => return false, // another worker spins
            Some(turn) => turn,
            None => None,
        };
        let found = self.patience.spin(self.pace, look).is_some();
        if let (Some(doorbell), Some(turn)) = (doorbell, turn) {
            doorbell.end_spinning(turn);
        }
        if !found {
            self.counters.count(Counter::SpinsInVain);
        }
        found
    }

    /// Sleeps on the doorbell; returns whether its bell has rung.
    #[cold]
    fn sleep(&self) -> bool {
        let (doorbell, bell) = (self.node.doorbell(), self.seat.entry().bell());
        let count = bell.count();
        doorbell.announce(self.worker); // [attended]: before the look at ring and lock
        // [leaving]: the unit's state after the bell's count.
        if !self.to_collect() && self.stop().is_none() {
            self.counters.count(Counter::Sleeps);
            let asleep_since = self.patience.falls_asleep();
            bell.sleep(count, Some(SLEEP_LIMIT));
            self.patience.slept(asleep_since);
            self.timed.wake(now_ns());
            if bell.count() != count {
                self.counters.count(Counter::Wakes);
            }
        }
        doorbell.retract(self.worker);
        bell.count() != count
    }

    /// Collects a batch under the reader lock; none if other workers were faster or all callers had gone.
    #[inline]
    fn collect(&mut self) {
        let (ring, doorbell) = (self.ring, self.node.doorbell());
        let segment = &*self.seat.segment;
        if let Some(first) = ring.get(ring.head()) {
            segment.prefetch_task(first); // its cache lines come while this worker takes the lock
        }
        let give_up = || self.stop().is_some();
        let Some(mut reader) = self.seat.me().read(self.node, self.patience.looks(), give_up) else { return };
        if let Acquired::TookOver(_) = reader.acquired() {
            crash_point!("collect.took_over");
            self.counters.count(Counter::TakeOvers);
            doorbell.retract_window(); // the dead holder's; the loop below claims its tasks again
        }
        let mut head = ring.head();
        self.seen.clear();
        (self.group, self.apart) = (None, false);
        let mut open_since = None;
        loop {
            self.look(head);
            let Some(&first) = self.seen.first() else { break };
            let mut waiting = Waiting { items: self.seen.len() as u64, oldest_ns: 0, newest_ns: 0 };
            let habit = match self.rule.learns() {
                true => Habit::from_raw(self.node.habit()),
                false => Habit::default(),
            };
            if self.rule.needs_times(habit, waiting.items) {
                if self.is_cancelled(first) {
                    // Freed at once, so that its age does not count as that of the batch's oldest item.
                    self.claim(&reader, 1);
                    crash_point!("collect.window_skips");
                    head = head.wrapping_add(1);
                    reader.set_head(head);
                    self.discard_gone(false);
                    continue;
                }
                let enqueued_ns = |id| Task::new(segment, id).map_or(0, |task| task.stamp().time_ns());
                waiting.oldest_ns = enqueued_ns(first);
                waiting.newest_ns = self.seen.last().map_or(0, |&last| enqueued_ns(last));
            }
            let winding_up = self.winding_up();
            if winding_up && self.seat.unit.state() == UnitState::Orphaned {
                break; // the callers have gone with the server
            }
            let verdict = match self.apart {
                true => Verdict::Close(Closed::Empty), // no further task will belong to the batch
                false => self.rule.judge(habit, waiting, winding_up, now_ns),
            };
            match verdict {
                Verdict::Close(why) => {
                    head = self.take(&mut reader, head);
                    let items = self.claimed.len() as u64;
                    if items == 0 {
                        open_since = None; // all callers had gone: another batch begins
                    } else {
                        if self.rule.learns() && habit.after(waiting) != habit {
                            self.node.set_habit(habit.after(waiting).raw());
                        }
                        self.pace = if items > 1 { Pace::Many } else { Pace::One };
                        self.counters.count_batch(items, self.rule.closed(why, items));
                        match open_since {
                            None => self.histograms.count_batch(items),
                            Some(since_ns) => self.count_batch_that_waited(items, since_ns),
                        }
                        break;
                    }
                }
                Verdict::WaitUntil(due_ns) => {
                    open_since.get_or_insert_with(now_ns);
                    self.wait_in_window(head, due_ns);
                }
            }
        }
        crash_point!("collect.stored_head");
        drop(reader);
        crash_point!("collect.unlocked");
        // [attended]: after the unlock.
        if self.shared && self.pending() {
            doorbell.wake_one(|worker| self.node.bell(worker));
        }
        if !self.gone.is_empty() {
            self.discard_gone(true);
        }
    }

    #[cold]
    fn count_batch_that_waited(&self, items: u64, since_ns: u64) {
        self.histograms.count_batch_that_waited(items, now_ns().saturating_sub(since_ns));
    }

    /// Claims the tasks that were seen, and for each whose caller had gone another one, if there is one; returns the
    /// new `head`.
    #[inline]
    fn take(&mut self, reader: &mut Reader<'_>, mut head: u64) -> u64 {
        loop {
            let (count, gone) = (self.seen.len(), self.gone.len());
            self.claim(reader, count);
            crash_point!("collect.claimed");
            head = head.wrapping_add(count as u64);
            reader.set_head(head);
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

    /// Notes the ids that are published from `head` on, up to the room of a batch.
    #[inline]
    fn look(&mut self, head: u64) {
        let room = self.rule.most().saturating_sub((self.claimed.len() + self.seen.len()) as u64);
        let from = head.wrapping_add(self.seen.len() as u64);
        if self.keeps_apart {
            return self.look_apart(from, room);
        }
        let Self { ring, seen, .. } = self;
        ring.read(from, room, |id| seen.push(id));
    }

    /// [`look`](Self::look) where some tasks may not be in one batch.
    #[inline(never)]
    fn look_apart(&mut self, from: u64, room: u64) {
        for step in 0..room {
            match self.ring.get(from.wrapping_add(step)) {
                Some(id) if self.belongs(id) => self.seen.push(id),
                _ => return,
            }
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

    /// Claims the first `count` tasks that were seen, and removes them from `seen`. Claims come before the store of
    /// `head`.
    #[inline]
    fn claim(&mut self, reader: &Reader<'_>, count: usize) {
        let segment = &*self.seat.segment;
        let prefetch = |id: &u32| segment.prefetch_task(*id);
        self.seen.iter().take(PREFETCH).for_each(prefetch);
        let Self { seen, claimed, gone, .. } = self;
        for (index, &id) in seen.iter().take(count).enumerate() {
            if let Some(id) = seen.get(index + PREFETCH) {
                prefetch(id);
            }
            match reader.claim(id) {
                Some(task) if task.is_abandoned() => gone.push(task.park()),
                Some(task) => claimed.push(Cell::new(Some(task.park()))),
                None => {} // a leftover cell
            }
            crash_point!("collect.claimed_some");
        }
        seen.drain(..count);
    }

    /// Frees the claimed tasks whose callers had gone; `head` has passed them. Frees branches only once the lock is
    /// free: after its last branch a parent is moved on, which may run user code.
    #[inline]
    fn discard_gone(&mut self, branches: bool) {
        let segment = &*self.seat.segment;
        for parked in std::mem::take(&mut self.gone) {
            let Some(task) = parked.resume(segment) else { continue };
            if task.task().is_branch() && !branches {
                self.gone.push(task.park());
            } else {
                self.counters.count(Counter::Skipped);
                self.mover.discard(task);
                crash_point!("collect.discards");
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
            bell.sleep(count, Some(left.min(SLEEP_LIMIT))); // then the caller judges the batch again
        }
        doorbell.retract_window();
    }
}

/// Why a worker is to stop, if it is.
#[inline]
fn stop(seat: &Seat) -> Option<Stop> {
    let stopping = || matches!(seat.segment.run(), Run::Stopping | Run::Closed);
    match seat.unit.state() {
        UnitState::Orphaned => Some(Stop::ServerGone),
        _ if stopping() => Some(Stop::Shutdown),
        UnitState::Failed => Some(Stop::Fatal),
        UnitState::Retired => Some(Stop::Retired),
        UnitState::AtWork => None,
    }
}

/// Sleeps until a worker is to stop, and takes no item.
pub(super) fn await_stop(seat: &Seat) -> Stop {
    let bell = seat.entry().bell();
    loop {
        let count = bell.count();
        // [leaving]: the unit's state after the bell's count.
        if let Some(why) = stop(seat) {
            return why;
        }
        bell.sleep(count, Some(SLEEP_LIMIT));
    }
}

/// How long ago a task's deadline passed; `None` if it has not.
#[inline(always)]
fn late_ns(task: &Claimed<'_>) -> Option<u64> {
    let deadline_ns = task.deadline_ns()?;
    now_ns().checked_sub(deadline_ns)
}
