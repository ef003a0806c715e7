//! What `call` sees: a batch and its items. Answering an item consumes it.
//!
//! # Invariants
//!
//! * *held*: a slot holds its claimed task from the moment it is validated until it is answered. Views
//!   borrow the batch or the item, and answering consumes either; so when an outcome is written over an
//!   input, no view of that input is left. [`Desk`] never answers a slot while a batch or item of it
//!   lives, except through that batch or item.
#![expect(unsafe_code, reason = "views of inputs whose tasks are held")]

use crate::error::BoxError;
use crate::error::RemoteCause;
use crate::payload::{Payload, Validated};
use crate::run::Desk;
use crate::worker::BatchWorker;
use rkyv::Archived;
use std::cell::RefCell;
use std::fmt;
use std::panic::AssertUnwindSafe;

/// A batch of items to answer.
pub struct Batch<'b, W: BatchWorker> {
    pub(crate) desk: &'b Desk,
    pub(crate) inputs: &'b [Validated<W::In>],
    pub(crate) staged: &'b RefCell<Vec<W::Out>>,
}

impl<W: BatchWorker> fmt::Debug for Batch<'_, W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Batch").field("len", &self.len()).finish_non_exhaustive()
    }
}

impl<'b, W: BatchWorker> Batch<'b, W> {
    /// How many items it has: at least one, at most the servlet's batch size.
    #[inline]
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "a batch is never empty")]
    pub fn len(&self) -> usize {
        self.inputs.len()
    }

    /// The inputs, oldest first, read where they lie.
    #[inline]
    pub fn inputs(&self) -> impl ExactSizeIterator<Item = &Archived<W::In>> + Clone {
        // SAFETY: *held*: the views borrow the batch, and nothing of it is answered before it is consumed.
        self.inputs.iter().map(|input| unsafe { input.get() })
    }

    /// One input.
    ///
    /// # Panics
    /// If there is no such item.
    #[inline]
    #[must_use]
    pub fn input(&self, index: usize) -> &Archived<W::In> {
        // SAFETY: as in `inputs`.
        unsafe { self.inputs[index].get() }
    }

    /// Answers every item, in order. If there are not exactly as many outcomes as items, none is used and
    /// every item of the batch is answered with an error that says so.
    ///
    /// # Errors
    /// That error, for the caller to return or to ignore.
    #[inline]
    pub fn reply_all(self, outcomes: impl IntoIterator<Item = W::Out>) -> Result<(), BoxError> {
        let mut staged = self.staged.borrow_mut();
        staged.clear();
        // One more than needed tells "too many"; an endless iterator ends there.
        staged.extend(outcomes.into_iter().take(self.len() + 1));
        if staged.len() != self.len() {
            let (items, outcomes) = (self.len() as u32, staged.len() as u32);
            staged.clear();
            let cause = RemoteCause::OutcomeCount { items, outcomes };
            let error = BoxError::msg(&cause);
            for index in 0..self.len() {
                self.desk.fail(index, cause.clone());
            }
            return Err(error);
        }
        for (index, outcome) in staged.drain(..).enumerate() {
            self.desk.reply(index, &outcome);
        }
        Ok(())
    }
}

impl<'b, W: BatchWorker> IntoIterator for Batch<'b, W> {
    type Item = Item<'b, W>;
    type IntoIter = Items<'b, W>;

    #[inline]
    fn into_iter(self) -> Items<'b, W> {
        Items { desk: self.desk, inputs: self.inputs, next: 0 }
    }
}

/// The items of a batch, oldest first.
pub struct Items<'b, W: BatchWorker> {
    desk: &'b Desk,
    inputs: &'b [Validated<W::In>],
    next: usize,
}

impl<W: BatchWorker> fmt::Debug for Items<'_, W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Items").field("left", &self.len()).finish_non_exhaustive()
    }
}

impl<'b, W: BatchWorker> Iterator for Items<'b, W> {
    type Item = Item<'b, W>;

    #[inline]
    fn next(&mut self) -> Option<Item<'b, W>> {
        let input = *self.inputs.get(self.next)?;
        self.next += 1;
        Some(Item { desk: self.desk, input, index: self.next - 1 })
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let left = self.inputs.len() - self.next;
        (left, Some(left))
    }
}

impl<W: BatchWorker> ExactSizeIterator for Items<'_, W> {}

/// One item to answer. One that is dropped unanswered gets an error when `call` returns.
pub struct Item<'b, W: BatchWorker> {
    desk: &'b Desk,
    input: Validated<W::In>,
    index: usize,
}

impl<W: BatchWorker> fmt::Debug for Item<'_, W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Item").field("index", &self.index).finish_non_exhaustive()
    }
}

impl<W: BatchWorker> Item<'_, W> {
    /// The input, read where it lies.
    #[inline]
    #[must_use]
    pub fn input(&self) -> &Archived<W::In> {
        // SAFETY: *held*: the view borrows the item, which answering consumes.
        unsafe { self.input.get() }
    }

    /// Answers it with a value.
    #[inline]
    pub fn reply(self, outcome: W::Out) {
        self.desk.reply(self.index, &outcome);
    }

    /// Answers it with an error.
    pub fn fail(self, error: impl Into<BoxError>) {
        self.desk.fail(self.index, RemoteCause::failed(&error.into()));
    }

    /// Answers it with what `call` makes of the input: a value, an error, or a panic.
    #[inline]
    pub(crate) fn answer_with(self, call: impl FnOnce(&Archived<W::In>) -> Result<W::Out, BoxError>) {
        match crate::panics::caught(AssertUnwindSafe(|| call(self.input()))) {
            Ok(Ok(outcome)) => self.reply(outcome),
            Ok(Err(error)) => self.fail(error),
            Err(panic) => self.desk.fail_by_panic(self.index, panic),
        }
    }
}

impl<T: Payload, W: BatchWorker<In = T, Out = T>> Item<'_, W> {
    /// Answers it with itself: nothing is moved.
    #[inline]
    pub fn pass(self) {
        self.desk.pass(self.index);
    }
}

/// Lets the worker look at an input before its batch is made; a panic becomes an error value. The task
/// whose input it is is in the caller's hands.
#[inline]
pub(crate) fn preprocess<W: BatchWorker>(
    worker: &mut W,
    input: Validated<W::In>,
) -> Result<Result<(), BoxError>, RemoteCause> {
    // SAFETY: *held*: the caller holds the claimed task, and the view ends with this call.
    let view: &Archived<W::In> = unsafe { input.get() };
    crate::panics::caught(AssertUnwindSafe(|| worker.preprocess(view)))
}
