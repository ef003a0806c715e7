//! Workers that see whole batches, and what their `call` sees: a batch and its items. Answering an item consumes it.
//!
//! # Invariants
//!
//! * `[held]`: the desk holds an item's claimed task from its validation until its answer. Views borrow the batch or
//!   the item, and answering consumes either; so when an outcome is written over an input, no view of that input is
//!   left. While a batch or item lives, [`Desk`] answers its items only through that batch or item.
#![expect(unsafe_code, reason = "views of inputs whose tasks are held")]

use super::context::{Context, Stop};
use super::desk::Desk;
use super::emit::EmitError;
use super::terms::Terms;
use crate::error::{BoxError, RemoteCause};
use crate::traceparent::TraceContext;
use crate::wire::fill::numbers_of;
use crate::wire::payload::{AsInput, Payload, Validated, owned};
use crate::wire::{ArchivedTailed, PayloadError, Plain, Tailed, fill, fill_tail};
use rkyv::Archived;
use rkyv::vec::{ArchivedVec, VecResolver};
use std::cell::{Cell, RefCell};
use std::fmt;
use std::panic::AssertUnwindSafe;

/// User code that handles a batch of items at once.
///
/// ```
/// use ringmill::{Batch, BatchWorker, BoxError, Context};
///
/// /// Says how far each number lies above the least of its batch.
/// struct AboveLeast;
///
/// impl BatchWorker for AboveLeast {
///     type Config = ();
///     type In = u32;
///     type Out = u32;
///
///     fn new((): (), _: &Context) -> Result<Self, BoxError> {
///         Ok(Self)
///     }
///
///     fn call(&mut self, batch: Batch<'_, Self>) -> Result<(), BoxError> {
///         let least = batch.inputs().map(|x| x.to_native()).min().unwrap_or(0);
///         let above: Vec<u32> = batch.inputs().map(|x| x.to_native() - least).collect();
///         batch.reply_all(above)
///     }
/// }
/// ```
pub trait BatchWorker: Sized + 'static {
    /// The configuration from which each worker is built; it travels to each worker's process.
    type Config: Payload;
    /// The input of an item.
    type In: Payload;
    /// The outcome of an item.
    type Out: Payload;

    /// The version of the payload types, in which a server and a worker that
    /// [`program`](crate::ProcessServlet::program) starts from another executable must agree.
    ///
    /// The engine itself finds types of other names or sizes, with other pointers or alignments. It cannot find that
    /// two fields of one size were swapped, or that a number has a new meaning. If the two executables can be of
    /// different versions, change this number with each change of the types; or have it change with the file in which
    /// they are: `ringmill::worker::schema(include_str!("messages.rs"))`.
    const SCHEMA: u64 = 0;

    /// Builds the worker, in its own process or thread.
    ///
    /// # Errors
    /// Any error means that the worker cannot work: the server does not start, and says why.
    fn new(config: Self::Config, context: &Context) -> Result<Self, BoxError>;

    /// Handles a batch of 1 to `batch_size` items: answers each of them, all at once with
    /// [`Batch::reply_all`] or one by one.
    ///
    /// # Errors
    /// An error (or a panic) becomes the outcome of every item that has not been answered. An item that
    /// is left unanswered although `call` returns `Ok` gets an error too. After a
    /// [fatal](BoxError::fatal) error the worker stops.
    fn call(&mut self, batch: Batch<'_, Self>) -> Result<(), BoxError>;

    /// Called once between `new` and the first batch, before the worker counts as ready: to load what the
    /// first call would otherwise wait for.
    ///
    /// # Errors
    /// As those of `new`: the server does not start, and says why. `cleanup` is not called then.
    fn warm_up(&mut self, _context: &Context) -> Result<(), BoxError> {
        Ok(())
    }

    /// How this worker wants its batches, and how many of its threads work: if its servlet leaves that to its workers
    /// ([`terms_by_worker`](crate::ProcessServlet::terms_by_worker)), and otherwise nothing. Called once after `warm_up`,
    /// before the worker counts as ready. Terms beyond what the servlet reserves are an error as one of `new`:
    /// [`RemoteCause::Terms`](crate::error::RemoteCause::Terms).
    fn terms(&self, _context: &Context) -> Terms {
        Terms::new()
    }

    /// Called once when the worker stops, but not after a crash. A panic in it is logged and changes nothing.
    fn cleanup(&mut self, _reason: &Stop) {}
}

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
    /// The number of items: at least one, at most the servlet's batch size.
    #[inline]
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "a batch is never empty")]
    pub fn len(&self) -> usize {
        self.inputs.len()
    }

    /// The inputs, oldest first, read where they lie.
    #[inline]
    pub fn inputs(&self) -> impl ExactSizeIterator<Item = &Archived<W::In>> + Clone {
        // SAFETY: [held]: the views borrow the batch, and none of its items is answered before the batch is consumed.
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

    /// The [trace context](Item::trace_context) of one item's request; `None` also if there is no such item, or it is answered.
    #[must_use]
    pub fn trace_context(&self, index: usize) -> Option<TraceContext> {
        self.desk.trace_context(index)
    }

    /// Answers every item, in order. If there are not exactly as many outcomes as items, none is used and
    /// every item of the batch is answered with an error that says so.
    ///
    /// # Errors
    /// That error, for `call` to return or to ignore.
    #[inline]
    pub fn reply_all(self, outcomes: impl IntoIterator<Item = W::Out>) -> Result<(), BoxError> {
        reply_in_order::<W>(self.desk, self.staged, 0..self.len(), outcomes)
    }

    /// Answers each item with the result of `call` for its input: a value, an error, or a panic. After a fatal error
    /// the other items stay unanswered.
    #[inline]
    pub(crate) fn answer_each(self, mut call: impl FnMut(&Archived<W::In>) -> Result<W::Out, BoxError>) {
        // One `catch_unwind` covers all items up to the next panic: one for each item would cost as much as a small
        // item.
        let mut next = 0;
        while let Err(panic) =
            crate::panics::caught(AssertUnwindSafe(|| self.answer_from(&mut next, &mut call)))
        {
            self.desk.fail_by_panic(next - 1, panic);
            self.desk.flush();
            if self.desk.is_fatal() {
                return; // the drop of the fatal error panicked
            }
        }
    }

    #[inline(always)]
    fn answer_from(
        &self,
        next: &mut usize,
        call: &mut impl FnMut(&Archived<W::In>) -> Result<W::Out, BoxError>,
    ) {
        while let Some(input) = self.inputs.get(*next) {
            *next += 1;
            let index = *next - 1;
            // SAFETY: [held]: the view ends with `call`, and the item is answered after that.
            match call(unsafe { input.get() }) {
                Ok(outcome) => self.desk.reply(index, &outcome),
                Err(error) => {
                    self.desk.fail_by_error(index, &error);
                    if error.is_fatal() {
                        return;
                    }
                }
            }
            self.desk.flush(); // the next item may take long
        }
    }

    /// Converts each input to a value of your own, oldest first. An item whose closure returns an error or panics is
    /// answered with that error at once; the returned batch holds the other items. A refused item still counts in the
    /// batch: no other item replaces it.
    ///
    /// ```
    /// use ringmill::{Batch, BatchWorker, BoxError, Context};
    ///
    /// /// Adds to each number the sum of its batch.
    /// struct Adder;
    ///
    /// impl BatchWorker for Adder {
    ///     type Config = ();
    ///     type In = String;
    ///     type Out = i64;
    ///
    ///     fn new((): (), _: &Context) -> Result<Self, BoxError> {
    ///         Ok(Self)
    ///     }
    ///
    ///     fn call(&mut self, batch: Batch<'_, Self>) -> Result<(), BoxError> {
    ///         // A text that is not a number is an error for its item alone.
    ///         let batch = batch.preprocess(|text| text.as_str().parse::<i64>());
    ///         let sum: i64 = batch.values().iter().sum();
    ///         let sums: Vec<i64> = batch.values().iter().map(|number| number + sum).collect();
    ///         batch.reply_all(sums)
    ///     }
    /// }
    /// ```
    pub fn preprocess<T, E: Into<BoxError>>(
        self,
        mut make: impl FnMut(&Archived<W::In>) -> Result<T, E>,
    ) -> Preprocessed<'b, W, T> {
        let (desk, staged) = (self.desk, self.staged);
        let (mut items, mut values) = (Vec::with_capacity(self.len()), Vec::with_capacity(self.len()));
        for item in self {
            match crate::panics::caught(AssertUnwindSafe(|| make(item.input()).map_err(Into::into))) {
                Ok(Ok(value)) => {
                    items.push(item);
                    values.push(value);
                }
                Ok(Err(error)) => item.fail(error),
                Err(panic) => desk.fail_by_panic(item.index, panic),
            }
        }
        Preprocessed { desk, staged, items, values }
    }
}

/// Answers the items at these indices, in order; if there are not exactly as many outcomes, all of them with an error.
#[inline]
fn reply_in_order<W: BatchWorker>(
    desk: &Desk,
    staged: &RefCell<Vec<W::Out>>,
    indices: impl ExactSizeIterator<Item = usize>,
    outcomes: impl IntoIterator<Item = W::Out>,
) -> Result<(), BoxError> {
    let count = indices.len();
    let mut staged = staged.borrow_mut();
    staged.clear();
    // One outcome more than needed proves "too many", also of an endless iterator.
    staged.extend(outcomes.into_iter().take(count + 1));
    if staged.len() != count {
        let (items, outcomes) = (count as u32, staged.len() as u32);
        staged.clear();
        let cause = RemoteCause::OutcomeCount { items, outcomes };
        let error = BoxError::msg(&cause);
        for index in indices {
            desk.fail(index, cause.clone());
        }
        return Err(error);
    }
    // A panic of an outcome's own code is the error of its item alone. One `catch_unwind` covers all items up to the
    // next panic.
    let mut indices = indices;
    let (mut outcomes, current) = (staged.drain(..), Cell::new(0));
    let mut reply = || {
        while let (Some(index), Some(outcome)) = (indices.next(), outcomes.next()) {
            current.set(index);
            desk.reply(index, &outcome);
        }
    };
    while let Err(panic) = crate::panics::caught(AssertUnwindSafe(&mut reply)) {
        desk.fail_by_panic(current.get(), panic);
    }
    Ok(())
}

/// The items of a batch that passed [`Batch::preprocess`], each with the value made from its input. It may be empty,
/// unlike a batch: then every item has been answered.
pub struct Preprocessed<'b, W: BatchWorker, T> {
    desk: &'b Desk,
    staged: &'b RefCell<Vec<W::Out>>,
    items: Vec<Item<'b, W>>,
    values: Vec<T>,
}

impl<W: BatchWorker, T> fmt::Debug for Preprocessed<'_, W, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Preprocessed").field("len", &self.len()).finish_non_exhaustive()
    }
}

impl<W: BatchWorker, T> Preprocessed<'_, W, T> {
    /// The number of items that passed.
    #[must_use]
    pub fn len(&self) -> usize {
        self.values.len()
    }

    /// Whether no item passed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// The values of the items, oldest first.
    #[must_use]
    pub fn values(&self) -> &[T] {
        &self.values
    }

    /// Answers every item that passed, in order. If there are not exactly as many outcomes as such items, none is used
    /// and each such item is answered with an error that says so.
    ///
    /// # Errors
    /// That error, for `call` to return or to ignore.
    pub fn reply_all(self, outcomes: impl IntoIterator<Item = W::Out>) -> Result<(), BoxError> {
        reply_in_order::<W>(self.desk, self.staged, self.items.iter().map(|item| item.index), outcomes)
    }
}

impl<'b, W: BatchWorker, T> IntoIterator for Preprocessed<'b, W, T> {
    type Item = (Item<'b, W>, T);
    type IntoIter = PreprocessedItems<'b, W, T>;

    fn into_iter(self) -> PreprocessedItems<'b, W, T> {
        PreprocessedItems(self.items.into_iter().zip(self.values))
    }
}

/// The items that passed [`Batch::preprocess`], with their values, oldest first.
pub struct PreprocessedItems<'b, W: BatchWorker, T>(
    std::iter::Zip<std::vec::IntoIter<Item<'b, W>>, std::vec::IntoIter<T>>,
);

impl<W: BatchWorker, T> fmt::Debug for PreprocessedItems<'_, W, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PreprocessedItems").field("left", &self.len()).finish_non_exhaustive()
    }
}

impl<'b, W: BatchWorker, T> Iterator for PreprocessedItems<'b, W, T> {
    type Item = (Item<'b, W>, T);

    fn next(&mut self) -> Option<(Item<'b, W>, T)> {
        self.0.next()
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.0.size_hint()
    }
}

impl<W: BatchWorker, T> ExactSizeIterator for PreprocessedItems<'_, W, T> {}

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

/// One item to answer. An item that is dropped unanswered gets an error when `call` returns.
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
        // SAFETY: [held]: the view borrows the item, which answering consumes.
        unsafe { self.input.get() }
    }

    /// Emits a *partial*: something that the caller can use before the outcome is there, as a token, or how far the work
    /// has come. Partials arrive in order, and all before the outcome. A caller that takes them has used
    /// [`call_streaming`](crate::Server::call_streaming); for any other caller this does nothing, see
    /// [`takes_partials`](Self::takes_partials).
    ///
    /// If the caller is [`partials`](crate::ServerBuilder::partials) behind, this waits until it takes one; meanwhile the
    /// other items of the batch wait too. If a worker dies, its caller keeps what was emitted, and the item ends with
    /// [`WorkerDied`](crate::CallError::WorkerDied), whatever the servlet's [`OnDeath`](crate::OnDeath) says: a second
    /// try would emit everything once more.
    ///
    /// ```
    /// use ringmill::{Batch, BatchWorker, BoxError, Context};
    ///
    /// /// Counts down, and says each number.
    /// struct Countdown;
    ///
    /// impl BatchWorker for Countdown {
    ///     type Config = ();
    ///     type In = u32;
    ///     type Out = String;
    ///
    ///     fn new((): (), _: &Context) -> Result<Self, BoxError> {
    ///         Ok(Self)
    ///     }
    ///
    ///     fn call(&mut self, batch: Batch<'_, Self>) -> Result<(), BoxError> {
    ///         for item in batch {
    ///             match (1..=item.input().to_native()).rev().try_for_each(|n| item.emit(&n)) {
    ///                 Ok(()) => item.reply("lift-off".into()),
    ///                 Err(error) => item.fail(error), // the caller has gone
    ///             }
    ///         }
    ///         Ok(())
    ///     }
    /// }
    /// ```
    ///
    /// # Errors
    /// See [`EmitError`]; the partial was not emitted, and the item can still be answered.
    pub fn emit<P: Payload>(&self, partial: &P) -> Result<(), EmitError> {
        self.desk.emit(self.index, partial)
    }

    /// Whether the item's caller takes partials: a worker for which they are costly to make asks first.
    #[must_use]
    pub fn takes_partials(&self) -> bool {
        self.desk.has_listener(self.index)
    }

    /// The [trace context](crate::trace) of the item's request, for spans and calls of the worker's own: their parent is
    /// the span of this worker's part, if the request is traced. A request that ringmill samples has a context of
    /// ringmill's own if its caller gave none, with the flag *sampled*; see [`ServerBuilder::traces`](crate::ServerBuilder::traces).
    /// `None` if it has none.
    ///
    /// ```
    /// use ringmill::{Batch, BatchWorker, BoxError, Context};
    ///
    /// /// Answers with the header that a request to another service would have.
    /// struct Header;
    ///
    /// impl BatchWorker for Header {
    ///     type Config = ();
    ///     type In = String;
    ///     type Out = Option<String>;
    ///
    ///     fn new((): (), _: &Context) -> Result<Self, BoxError> {
    ///         Ok(Self)
    ///     }
    ///
    ///     fn call(&mut self, batch: Batch<'_, Self>) -> Result<(), BoxError> {
    ///         for item in batch {
    ///             let header = item.trace_context().map(|context| format!("traceparent: {context}"));
    ///             item.reply(header);
    ///         }
    ///         Ok(())
    ///     }
    /// }
    /// ```
    #[must_use]
    pub fn trace_context(&self) -> Option<TraceContext> {
        self.desk.trace_context(self.index)
    }

    /// The input as a value of its own, which may outlive the answer; [`input`](Self::input) is a view on the segment. In
    /// a worker what [`Reply::into_owned`](crate::Reply::into_owned) is for a caller. For all items of a batch there is
    /// [`Batch::preprocess`] with [`payload::owned`](crate::payload::owned).
    ///
    /// ```
    /// use ringmill::{Batch, BatchWorker, BoxError, Context};
    ///
    /// /// Answers with the former input.
    /// struct Late {
    ///     last: Vec<f32>,
    /// }
    ///
    /// impl BatchWorker for Late {
    ///     type Config = ();
    ///     type In = Vec<f32>;
    ///     type Out = Vec<f32>;
    ///
    ///     fn new((): (), _: &Context) -> Result<Self, BoxError> {
    ///         Ok(Self { last: Vec::new() })
    ///     }
    ///
    ///     fn call(&mut self, batch: Batch<'_, Self>) -> Result<(), BoxError> {
    ///         for item in batch {
    ///             let input = item.input_owned()?;
    ///             item.reply(std::mem::replace(&mut self.last, input));
    ///         }
    ///         Ok(())
    ///     }
    /// }
    /// ```
    ///
    /// # Errors
    /// If the type's own `Deserialize` refuses the value; those that rkyv derives do not.
    pub fn input_owned(&self) -> Result<W::In, PayloadError> {
        owned(self.input())
    }

    /// Answers the item with a value. Its caller gets the value at once; the next stage, if there is one, when `call`
    /// returns at the latest.
    #[inline]
    pub fn reply(self, outcome: W::Out) {
        self.desk.reply(self.index, &outcome);
    }

    /// As [`reply`](Self::reply), with what has the bytes of an outcome and need not be one: a `&str` for a `String`, a
    /// `&[T]` for a `Vec<T>`, a `&[u8]` for [`Bytes`](crate::payload::Bytes). It is written once, into the segment.
    pub fn reply_ref(self, outcome: impl AsInput<W::Out>) {
        self.desk.reply_as::<W::Out>(self.index, &outcome);
    }

    /// Answers the item with an error. After a [fatal](BoxError::fatal) error the worker stops when `call` returns.
    pub fn fail(self, error: impl Into<BoxError>) {
        let error = error.into();
        self.desk.fail_by_error(self.index, &error);
        crate::panics::let_go(error);
    }
}

impl<T: Payload, W: BatchWorker<In = T, Out = T>> Item<'_, W> {
    /// Answers the item with its input, which is not copied.
    #[inline]
    pub fn pass(self) {
        self.desk.pass(self.index);
    }
}

impl<T: Plain, W: BatchWorker<Out = Vec<T>>> Item<'_, W>
where
    Vec<T>: Payload<Archived = ArchivedVec<Archived<T>>>,
{
    /// Answers the item with `len` numbers that `write` writes where they stay, beside the input: no `Vec` is made, and
    /// nothing is copied. `write` finds the bytes of an earlier use there: it has to write all numbers. It is not called
    /// if there is no room for them; the item is answered with that error then. A panic in it is one of `call`.
    ///
    /// ```
    /// use ringmill::{Batch, BatchWorker, BoxError, Context};
    ///
    /// /// Makes grey pixels of coloured ones.
    /// struct Grey;
    ///
    /// impl BatchWorker for Grey {
    ///     type Config = ();
    ///     type In = Vec<[u8; 3]>;
    ///     type Out = Vec<u8>;
    ///
    ///     fn new((): (), _: &Context) -> Result<Self, BoxError> {
    ///         Ok(Self)
    ///     }
    ///
    ///     fn call(&mut self, batch: Batch<'_, Self>) -> Result<(), BoxError> {
    ///         for item in batch {
    ///             let len = item.input().len();
    ///             item.reply_in_place(len, |coloured, grey| {
    ///                 for (grey, [red, green, blue]) in grey.iter_mut().zip(coloured.iter()) {
    ///                     *grey = red / 4 + green / 2 + blue / 4;
    ///                 }
    ///             });
    ///         }
    ///         Ok(())
    ///     }
    /// }
    /// ```
    pub fn reply_in_place(self, len: usize, write: impl FnOnce(&Archived<W::In>, &mut [T])) {
        let outcome = fill(len, |numbers: &mut [T]| write(self.input(), numbers));
        self.desk.reply_beside::<Vec<T>>(self.index, &outcome);
    }
}

impl<H: Payload, T: Plain, W: BatchWorker<Out = Tailed<H, T>>> Item<'_, W>
where
    Vec<T>: Payload<Archived = ArchivedVec<Archived<T>>, Resolver = VecResolver>,
    Tailed<H, T>: Payload<Archived = ArchivedTailed<H, T>>,
{
    /// [`reply_in_place`](Item::reply_in_place) for an outcome with a head: a frame, say, of which the head has width and
    /// height and the tail the pixels.
    pub fn reply_tailed(self, head: H, len: usize, write: impl FnOnce(&Archived<W::In>, &mut [T])) {
        let outcome = fill_tail(head, len, |numbers: &mut [T]| write(self.input(), numbers));
        self.desk.reply_beside::<Tailed<H, T>>(self.index, &outcome);
    }
}

impl<T: Plain, W: BatchWorker<In = Vec<T>, Out = Vec<T>>> Item<'_, W>
where
    Vec<T>: Payload<Archived = ArchivedVec<Archived<T>>>,
{
    /// Answers the item with its input's numbers, as `change` leaves them. It changes them where they lie, so nothing is
    /// copied, unless the input must stay as it is: where another member of an ensemble reads it too, or where
    /// another worker is to retry the item after this worker's death ([`OnDeath`](crate::OnDeath)). A panic in `change` is one
    /// of `call`.
    ///
    /// ```
    /// use ringmill::{Batch, BatchWorker, BoxError, Context};
    ///
    /// /// Halves every number.
    /// struct Half;
    ///
    /// impl BatchWorker for Half {
    ///     type Config = ();
    ///     type In = Vec<f32>;
    ///     type Out = Vec<f32>;
    ///
    ///     fn new((): (), _: &Context) -> Result<Self, BoxError> {
    ///         Ok(Self)
    ///     }
    ///
    ///     fn call(&mut self, batch: Batch<'_, Self>) -> Result<(), BoxError> {
    ///         for item in batch {
    ///             item.pass_changed(|numbers| numbers.iter_mut().for_each(|number| *number /= 2.0));
    ///         }
    ///         Ok(())
    ///     }
    /// }
    /// ```
    pub fn pass_changed(self, change: impl FnOnce(&mut [T])) {
        // SAFETY: [held]: `copy_to` is called, if at all, before the item is answered, and the view ends in it.
        let copy_to = |to: &mut [T]| to.copy_from_slice(numbers_of(unsafe { self.input.get() }));
        self.desk.pass_changed::<T>(self.index, self.input().len(), copy_to, change);
    }
}
