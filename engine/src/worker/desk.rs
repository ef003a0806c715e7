//! The desk: a worker's claimed items until they are answered, over their inputs or beside them.
#![expect(unsafe_code, reason = "a guard that is taken out of a value with a drop")]

use super::seat::Seat;
use crate::error::{BoxError, RemoteCause};
use crate::panics::{Panic, end_if_forked};
use crate::route::{Mover, Outbox};
use crate::traceparent::TraceContext;
use crate::wire::fill::numbers_in;
use crate::wire::payload::{AsInput, Payload, encode};
use crate::wire::{Plain, ReadError, fill};
use ringmill_shm::arena::{Claimed, Join, Parked, Task};
use ringmill_shm::party::Participant;
use ringmill_shm::plan::Target;
use ringmill_shm::segment::Segment;
use ringmill_shm::stats::Counter;
use ringmill_shm::sys::time::now_ns;
use ringmill_shm::trace::HopEnd;
use rkyv::Archived;
use rkyv::vec::ArchivedVec;
use std::cell::{Cell, OnceCell};
use std::fmt;
use std::mem::ManuallyDrop;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;

/// An item's task that was lifted off the desk. Dropping this, as a panic of user code does, puts the task back.
pub(super) struct Lifted<'d> {
    item: &'d Cell<Option<Parked>>,
    /// Taken once, by value or by drop.
    task: ManuallyDrop<Claimed<'d>>,
}

impl<'d> Lifted<'d> {
    #[inline(always)]
    pub(super) fn from(item: &'d Cell<Option<Parked>>, segment: &'d Segment) -> Option<Self> {
        let task = item.take()?.resume(segment)?;
        Some(Self { item, task: ManuallyDrop::new(task) })
    }

    #[inline(always)]
    pub(super) fn task(&mut self) -> &mut Claimed<'d> {
        &mut self.task
    }

    /// Takes the task off the desk for good.
    #[inline(always)]
    pub(super) fn keep(self) -> Claimed<'d> {
        let mut this = ManuallyDrop::new(self);
        // SAFETY: taken once, since `this` is not dropped.
        unsafe { ManuallyDrop::take(&mut this.task) }
    }
}

impl Drop for Lifted<'_> {
    #[inline(always)]
    fn drop(&mut self) {
        // SAFETY: taken once: `keep` does not drop this.
        let task = unsafe { ManuallyDrop::take(&mut self.task) };
        self.item.set(Some(task.park()));
    }
}

/// A worker's claimed items, until they are answered.
pub(crate) struct Desk {
    pub(super) seat: Arc<Seat>,
    /// The target of finished tasks.
    next: Target,
    /// Tasks by their index in the batch; `None` once answered.
    pub(super) items: Vec<Cell<Option<Parked>>>,
    /// Whether outcomes are written beside inputs.
    keeps_inputs: bool,
    /// Whether a task that is finished here may be pushed to another node.
    sends_on: bool,
    outbox: Outbox,
    /// The first fatal error.
    pub(super) fatal: OnceCell<RemoteCause>,
}

impl fmt::Debug for Desk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Desk").field("items", &self.items.len()).finish_non_exhaustive()
    }
}

impl Desk {
    /// An empty desk.
    pub(super) fn new(seat: &Arc<Seat>) -> Self {
        let info = seat.node().info();
        Self {
            seat: Arc::clone(seat),
            next: info.next,
            items: Vec::new(),
            keeps_inputs: info.facts.keeps_inputs.is_set(),
            sends_on: seat.segment.shape().nodes > 1,
            outbox: Outbox::default(),
            fatal: OnceCell::new(),
        }
    }

    /// Lifts an item's task; it goes back to the desk if user code panics.
    #[inline(always)]
    pub(super) fn lift(&self, index: usize) -> Option<Lifted<'_>> {
        end_if_forked(self.seat.birth); // the caller may be user code that has forked
        Lifted::from(self.items.get(index)?, &self.seat.segment)
    }

    #[inline(always)]
    fn take(&self, index: usize) -> Option<Claimed<'_>> {
        Some(self.lift(index)?.keep())
    }

    /// User code is about to see the items: notes that for these, if they are traced. Empties the list.
    #[cold]
    pub(super) fn begin_runs(&self, traced: &mut Vec<usize>) {
        let now_ns = now_ns();
        for index in traced.drain(..) {
            if let Some(mut lifted) = self.lift(index) {
                lifted.task().begin_run(now_ns);
            }
        }
    }

    /// The trace context of an item, if its request has one.
    pub(crate) fn trace_context(&self, index: usize) -> Option<TraceContext> {
        TraceContext::from_words(self.lift(index)?.task().trace_context()?)
    }

    /// Answers an item. If the outcome's own `Serialize` panics, the item stays unanswered.
    #[inline(always)]
    pub(crate) fn reply<T: Payload>(&self, index: usize, outcome: &T) {
        self.reply_as::<T>(index, outcome);
    }

    /// As [`reply`](Self::reply), with what has the bytes of an outcome.
    #[inline(always)]
    pub(crate) fn reply_as<T: Payload>(&self, index: usize, outcome: &impl AsInput<T>) {
        if self.keeps_inputs {
            return self.reply_beside::<T>(index, outcome);
        }
        let Some(mut lifted) = self.lift(index) else { return };
        let written = encode::<T>(outcome, lifted.task(), self.seat.birth);
        let task = lifted.keep();
        match written {
            Ok(()) => self.hand_on(task),
            Err(error) => self.fail_task(task, error.into()),
        }
    }

    /// Answers an item beside its input, which is whole and mapped until `outcome` is written.
    #[inline(never)]
    pub(super) fn reply_beside<T: Payload>(&self, index: usize, outcome: &impl AsInput<T>) {
        let Some(task) = self.take(index) else { return };
        let mut task = task.keep_input();
        let written = catch_unwind(AssertUnwindSafe(|| encode::<T>(outcome, &mut task, self.seat.birth)));
        end_if_forked(self.seat.birth);
        let task = task.done(); // frees the block that is no longer used
        match written {
            Ok(Ok(())) => self.hand_on(task),
            Ok(Err(error)) => self.fail_task(task, error.into()),
            Err(panic) => {
                self.items[index].set(Some(task.park()));
                resume_unwind(panic)
            }
        }
    }

    /// Answers an item with its input, in which `change` has changed the numbers: where they lie, or, if the input must
    /// stay as it is, in a copy of these `len` numbers.
    #[inline(never)]
    pub(super) fn pass_changed<T: Plain>(
        &self,
        index: usize,
        len: usize,
        copy_to: impl FnOnce(&mut [T]),
        change: impl FnOnce(&mut [T]),
    ) where
        Vec<T>: Payload<Archived = ArchivedVec<Archived<T>>>,
    {
        let Some(mut lifted) = self.lift(index) else { return };
        let bytes = if self.keeps_inputs { Ok(None) } else { lifted.task().payload_mut() };
        match bytes.map_err(ReadError::from).and_then(|bytes| bytes.map(numbers_in).transpose()) {
            Ok(Some(numbers)) => {
                change(numbers);
                self.hand_on(lifted.keep());
            }
            Ok(None) => {
                drop(lifted);
                let changed = fill(len, |numbers: &mut [T]| {
                    copy_to(numbers);
                    change(numbers);
                });
                self.reply_beside::<Vec<T>>(index, &changed);
            }
            Err(error) => self.fail_task(lifted.keep(), error.into()),
        }
    }

    /// Answers an item with its input.
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

    /// Whether an error was fatal, so that the worker begins no further item.
    pub(crate) fn is_fatal(&self) -> bool {
        self.fatal.get().is_some()
    }

    pub(super) fn note_if_fatal(&self, error: &BoxError) {
        if error.is_fatal() {
            self.fatal.get_or_init(|| RemoteCause::failed(error));
        }
    }

    #[cold]
    pub(crate) fn fail_by_panic(&self, index: usize, panic: Panic) {
        self.seat.note_panic(&panic);
        self.fail(index, panic.into());
    }

    /// Answers all items that are unanswered, and clears the desk. If `cause` panics, the items from there on stay.
    #[inline]
    pub(super) fn fail_rest(&mut self, cause: impl Fn(&Self) -> RemoteCause) {
        for index in 0..self.items.len() {
            if self.items[index].get_mut().is_none() {
                continue;
            }
            let Some(lifted) = self.lift(index) else { continue };
            let cause = cause(self);
            self.fail_task(lifted.keep(), cause);
        }
        self.items.clear();
    }

    pub(super) fn fail_task(&self, task: Claimed<'_>, cause: RemoteCause) {
        end_if_forked(self.seat.birth);
        self.seat.entry().counters().count(Counter::Errors);
        if task.task().stamp().is_traced() {
            end_hop(task.task(), self.seat.me(), cause.end());
        }
        let error = self.seat.error(task.attempt(), cause);
        match self.keeps_inputs {
            false => self.mover().fail(task, error),
            true => self.mover().fail_beside(task.keep_input_for_error(self.seat.node), error),
        }
    }

    /// Moves a finished task on.
    #[inline(always)]
    fn hand_on(&self, task: Claimed<'_>) {
        end_if_forked(self.seat.birth); // the outcome's `Serialize` is user code too
        if task.task().stamp().is_traced() {
            end_hop(task.task(), self.seat.me(), HopEnd::Answered);
        }
        match self.next {
            Target::End => {
                if let Some(join) = task.finish(false) {
                    self.join(join);
                }
            }
            next => self.mover().move_on(task, next),
        }
    }

    #[cold]
    #[inline(never)]
    fn join(&self, join: Join<'_>) {
        self.mover().join(join);
    }

    #[inline]
    fn mover(&self) -> Mover<'_> {
        Mover { outbox: Some(&self.outbox), ..self.seat.mover() }
    }

    /// Pushes finished items that wait in the outbox; called when `call` has returned at the latest.
    #[inline(always)]
    pub(crate) fn flush(&self) {
        if self.sends_on {
            self.flush_outbox();
        }
    }

    #[inline(never)]
    fn flush_outbox(&self) {
        self.mover().flush();
    }
}

/// By value: a reference to the task would keep it in memory where it is not traced.
#[cold]
fn end_hop(task: Task<'_>, me: Participant<'_>, end: HopEnd) {
    me.end_hop(task, now_ns(), end);
}

impl RemoteCause {
    /// How the work on an item ended that ended with this.
    fn end(&self) -> HopEnd {
        match self {
            Self::Panicked { .. } => HopEnd::Panicked,
            Self::DeadlineExceeded { .. } => HopEnd::Expired,
            _ => HopEnd::Failed,
        }
    }
}
