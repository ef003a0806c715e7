//! What all streams do with their inputs: take a place, fill it, push a few at a time.

use super::options::StreamOptions;
use super::source::Source;
use crate::client::{CallOptions, Core, Filled, WhenFull};
use crate::error::{BoxError, CallError};
use crate::route::Outbox;
use crate::wire::payload::{Payload, owned};
use ringmill_shm::arena::{Done, Task};
use std::marker::PhantomData;

/// Inputs pushed at a time.
pub(super) const CHUNK: usize = 32;
/// The same where each goes to several workers: waking all of them costs more than waiting.
const FORKED_CHUNK: usize = 4 * CHUNK;
/// As long as so many are with the workers.
const ENOUGH: usize = 2 * CHUNK;

/// Places taken and filled for one stream.
#[derive(Debug)]
pub(super) struct Feeder<'s> {
    pub(super) core: &'s Core,
    pub(super) window: usize,
    pub(super) options: StreamOptions,
    /// Filled, not pushed yet.
    pending: Vec<u32>,
    /// So many are pushed at a time.
    chunk: usize,
    outbox: Outbox,
    /// An id that came free and is used for the next input.
    spare: Option<u32>,
    /// How many were put since somebody noted the time.
    unnoted: usize,
}

/// Gives an id back if what was to be done with it was not.
struct GiveBack<'c>(&'c Core, u32);

impl Drop for GiveBack<'_> {
    fn drop(&mut self) {
        self.0.release(self.1);
    }
}

/// Where a stream notes what becomes of its inputs.
pub(super) trait Books<'s, Held> {
    fn feeder(&mut self) -> &mut Feeder<'s>;

    /// An input has its turn: it was put into the place `id`. `held` is what the stream keeps of it.
    fn note(&mut self, held: Held, id: u32);

    /// The same where it was not put anywhere.
    fn note_failed(&mut self, held: Held, error: CallError);
}

/// An input that was pulled. It has its turn, and what the stream keeps of it is kept, however user code ends.
struct Turn<'t, 's, Held, B: Books<'s, Held>> {
    books: &'t mut B,
    held: Option<Held>,
    id: u32,
    is_put: bool,
    /// None also where user code panicked before anything was put.
    error: Option<CallError>,
    stream: PhantomData<&'s ()>,
}

impl<'s, Held, B: Books<'s, Held>> Drop for Turn<'_, 's, Held, B> {
    /// Where user code panicked; else [`end`](Self::end) has done it, in line.
    #[cold]
    fn drop(&mut self) {
        self.note();
    }
}

impl<'s, Held, B: Books<'s, Held>> Turn<'_, 's, Held, B> {
    #[inline(always)]
    fn end(self) {
        std::mem::ManuallyDrop::new(self).note();
    }

    #[inline(always)]
    fn note(&mut self) {
        match self.held.take() {
            Some(held) if self.is_put => self.books.note(held, self.id),
            Some(held) => self.books.note_failed(held, failure(self.error.take())),
            None => {}
        }
    }
}

/// Puts an input into a place, unless it is refused.
#[inline]
fn put_into<'s, Held, In: Payload>(
    books: &mut impl Books<'s, Held>,
    place: GiveBack<'_>,
    input: Result<&In, BoxError>,
) -> Result<(), CallError> {
    match input {
        Ok(input) => {
            let id = place.1;
            std::mem::forget(place);
            books.feeder().put(id, input)
        }
        Err(error) => Err(CallError::Refused(error)),
    }
}

#[cold]
fn failure(error: Option<CallError>) -> CallError {
    error.unwrap_or_else(|| CallError::Refused(BoxError::msg("what prepares or serialises it panicked")))
}

/// Pulls the next item of a source and puts its input into a place, which is given back if there is none, it is
/// refused, or user code panics. False at the end.
#[inline]
pub(super) fn pull<'s, S: Source>(books: &mut impl Books<'s, ()>, source: &mut S, id: u32) -> bool {
    let place = GiveBack(books.feeder().core, id);
    let Some(item) = source.next() else { return false };
    // Dropped before the item, whose drop is user code.
    let mut turn = Turn { books, held: Some(()), id, is_put: false, error: None, stream: PhantomData };
    let Turn { books, is_put, error, .. } = &mut turn;
    source.prepare(&item, |input| match put_into(*books, place, input) {
        Ok(()) => *is_put = true,
        Err(why) => *error = Some(why),
    });
    turn.end();
    true
}

/// The same where the item is kept.
#[inline]
pub(super) fn pull_and_keep<'s, S: Source>(
    books: &mut impl Books<'s, S::Item>,
    source: &mut S,
    id: u32,
) -> bool {
    let place = GiveBack(books.feeder().core, id);
    let held = source.next();
    let mut turn = Turn { books, held, id, is_put: false, error: None, stream: PhantomData };
    let Turn { books, held: Some(item), is_put, error, .. } = &mut turn else { return false };
    source.prepare(item, |input| match put_into(*books, place, input) {
        Ok(()) => *is_put = true,
        Err(why) => *error = Some(why),
    });
    turn.end();
    true
}

/// What could not be pushed, and why: the segment is corrupted.
#[derive(Debug)]
pub(super) struct Unpushed {
    pub(super) ids: Vec<u32>,
    pub(super) message: String,
}

impl<'s> Feeder<'s> {
    pub(super) fn new(core: &'s Core, options: StreamOptions) -> Self {
        Self {
            core,
            window: options.window.clamp(1, core.capacity as usize),
            options,
            pending: Vec::with_capacity(CHUNK),
            chunk: if core.forks() { FORKED_CHUNK } else { CHUNK },
            outbox: Outbox::default(),
            spare: None,
            unnoted: 0,
        }
    }

    /// Whether the stream is this process's own.
    #[inline]
    pub(super) fn is_ours(&self) -> bool {
        self.core.birth.is_here()
    }

    #[inline]
    pub(super) fn task(&self, id: u32) -> Option<Task<'s>> {
        Task::new(&self.core.segment, id)
    }

    /// A place, if there is one; no error if there is none.
    #[inline]
    pub(super) fn place(&mut self) -> Result<Option<u32>, CallError> {
        self.core.own()?;
        match self.spare.take() {
            Some(id) => self.core.admit(id).map(|()| Some(id)),
            None => self.core.try_acquire(),
        }
    }

    /// Nothing of the stream's is in progress and others have every place: waits for one.
    pub(super) fn wait_for_place(&mut self) -> Result<(), CallError> {
        let options = CallOptions::new().timeout(self.options.timeout).when_full(WhenFull::Wait);
        self.spare = Some(self.core.acquire(options)?.0);
        Ok(())
    }

    /// There is no next input.
    pub(super) fn give_back(&mut self) {
        if let Some(id) = self.spare.take() {
            self.core.release(id);
        }
    }

    /// Keeps a place for the next input.
    pub(super) fn keep(&mut self, id: u32) {
        self.spare = Some(id);
    }

    /// Writes an input into a place; it is not pushed yet.
    #[inline]
    fn put<In: Payload>(&mut self, id: u32, input: &In) -> Result<(), CallError> {
        self.core.own()?; // what has pulled and prepared it is user code
        let filled = self.core.fill(id, input)?;
        self.core.own()?; // what serialises it is user code too
        filled.park();
        self.pending.push(id);
        self.unnoted += 1;
        Ok(())
    }

    /// How many are filled and not pushed: the last of those that were put.
    #[inline]
    pub(super) fn unpushed(&self) -> usize {
        self.pending.len()
    }

    /// Pushes what is filled, if that is enough, or the workers have little else of `in_progress`.
    #[inline]
    pub(super) fn push_some(&mut self, in_progress: usize) -> Result<(), Unpushed> {
        if self.pending.len() >= self.chunk || in_progress - self.pending.len() < ENOUGH {
            return self.push();
        }
        Ok(())
    }

    /// Pushes what is filled.
    #[inline]
    pub(super) fn push(&mut self) -> Result<(), Unpushed> {
        if self.pending.is_empty() {
            return Ok(());
        }
        let pushed = self.core.send_all(&self.pending, &self.outbox);
        if let Err(error) = pushed {
            return self.give_up(&error);
        }
        self.pending.clear();
        Ok(())
    }

    /// What is filled cannot be pushed: whatever becomes of it, nobody waits for it. In a forked child it is the parent's,
    /// and stays as it is: its inputs are told as all others are.
    #[cold]
    fn give_up(&mut self, error: &CallError) -> Result<(), Unpushed> {
        if !self.is_ours() {
            return Ok(());
        }
        let ids = std::mem::take(&mut self.pending);
        ids.iter().filter_map(|&id| self.task(id)).for_each(|task| self.core.cancel(task));
        Err(Unpushed { ids, message: error.to_string() })
    }

    /// Says since when what was sent is in progress, before somebody sleeps: `ids` are those that are,
    /// latest first.
    #[cold]
    pub(super) fn note_begun(&mut self, ids: impl Iterator<Item = u32>) {
        if !self.is_ours() {
            return;
        }
        self.core.note_begun(ids.take(std::mem::take(&mut self.unnoted)));
    }

    /// The value of an outcome. Its place is used for the next input, if there is to be one and nobody else
    /// waits for a place.
    #[inline(always)]
    pub(super) fn value<Out: Payload>(&mut self, done: Done<'s>, more: bool) -> Result<Out, CallError> {
        let reply = self.core.open::<Out>(done)?;
        let value = owned(&*reply);
        self.core.own()?; // in a child that the type's own `Deserialize` has forked, the value may be another's
        if self.spare.is_none() && more && !self.core.segment.freed().is_awaited() {
            self.spare = reply.into_id();
        }
        value.map_err(|e| CallError::Corrupt { message: e.to_string() })
    }
}

impl Drop for Feeder<'_> {
    fn drop(&mut self) {
        // What is filled and not pushed is given back by its guard.
        self.pending.drain(..).for_each(|id| drop(Filled::resume(self.core, id)));
        self.give_back();
    }
}
