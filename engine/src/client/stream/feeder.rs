//! How all streams send their inputs: take a permit, write the input, push a few at a time.

use super::options::StreamOptions;
use super::source::Source;
use crate::client::{CallOptions, Core, Filled, WhenFull};
use crate::error::{BoxError, CallError};
use crate::route::Outbox;
use crate::wire::ReadError;
use crate::wire::payload::{Payload, owned};
use ringmill_shm::arena::{Done, Task};
use ringmill_shm::ring::Overrun;
use std::marker::PhantomData;

/// Inputs pushed at a time.
pub(super) const CHUNK: usize = 32;
/// Inputs pushed at a time if each goes to several workers: waking all of them costs more than waiting.
const FORKED_CHUNK: usize = 4 * CHUNK;
/// Fewer inputs than a chunk are pushed only if the workers have fewer than this.
const ENOUGH: usize = 2 * CHUNK;

/// The permits of one stream, and its filled requests.
#[derive(Debug)]
pub(super) struct Feeder<'s> {
    pub(super) core: &'s Core,
    pub(super) window: usize,
    pub(super) options: StreamOptions,
    /// Filled requests that are not pushed yet.
    pending: Vec<u32>,
    /// How many are pushed at a time.
    chunk: usize,
    outbox: Outbox,
    /// A permit that is kept for the next input.
    spare: Option<u32>,
    /// How many inputs were written since the stream last recorded the time.
    unnoted: usize,
}

/// A permit that is not used yet; gives it back when dropped.
struct GiveBack<'c>(&'c Core, u32);

impl Drop for GiveBack<'_> {
    fn drop(&mut self) {
        self.0.release(self.1);
    }
}

/// Records what becomes of a stream's inputs, in their turns.
pub(super) trait Turns<'s, Held> {
    fn feeder(&mut self) -> &mut Feeder<'s>;

    /// Records that an input was written into the request `id`. `held` is what the stream keeps of its item.
    fn note(&mut self, held: Held, id: u32);

    /// Records that an input was not written into a request.
    fn note_failed(&mut self, held: Held, error: CallError);
}

/// An input that was pulled. It is recorded, and its item kept, even if user code panics (`[turns]`).
struct Turn<'t, 's, Held, B: Turns<'s, Held>> {
    turns: &'t mut B,
    held: Option<Held>,
    id: u32,
    is_put: bool,
    /// `None` also if user code panicked before the input was written.
    error: Option<CallError>,
    stream: PhantomData<&'s ()>,
}

impl<'s, Held, B: Turns<'s, Held>> Drop for Turn<'_, 's, Held, B> {
    /// Runs if user code panicked; otherwise [`end`](Self::end) has recorded the input.
    #[cold]
    fn drop(&mut self) {
        self.note();
    }
}

impl<'s, Held, B: Turns<'s, Held>> Turn<'_, 's, Held, B> {
    #[inline(always)]
    fn end(self) {
        std::mem::ManuallyDrop::new(self).note();
    }

    #[inline(always)]
    fn note(&mut self) {
        match self.held.take() {
            Some(held) if self.is_put => self.turns.note(held, self.id),
            Some(held) => self.turns.note_failed(held, failure(self.error.take())),
            None => {}
        }
    }
}

/// Writes an input into a request, unless `prepare` refused it.
#[inline]
fn put_into<'s, Held, In: Payload>(
    turns: &mut impl Turns<'s, Held>,
    permit: GiveBack<'_>,
    input: Result<&In, BoxError>,
) -> Result<(), CallError> {
    match input {
        Ok(input) => {
            let id = permit.1;
            std::mem::forget(permit);
            turns.feeder().put(id, input)
        }
        Err(error) => Err(CallError::Refused(error)),
    }
}

#[cold]
fn failure(error: Option<CallError>) -> CallError {
    error.unwrap_or_else(|| CallError::Refused(BoxError::msg("its prepare or Serialize panicked")))
}

/// Pulls the next item of a source and writes its input into the request `id`. Gives the permit back if there is no
/// item, its input is refused, or user code panics. False at the end.
#[inline]
pub(super) fn pull<'s, S: Source>(turns: &mut impl Turns<'s, ()>, source: &mut S, id: u32) -> bool {
    let permit = GiveBack(turns.feeder().core, id);
    let Some(item) = source.next() else { return false };
    // Dropped before the item, whose drop is user code: [turns].
    let mut turn = Turn { turns, held: Some(()), id, is_put: false, error: None, stream: PhantomData };
    let Turn { turns, is_put, error, .. } = &mut turn;
    source.prepare(&item, |input| match put_into(*turns, permit, input) {
        Ok(()) => *is_put = true,
        Err(why) => *error = Some(why),
    });
    turn.end();
    true
}

/// [`pull`] for a stream that keeps its items.
#[inline]
pub(super) fn pull_and_keep<'s, S: Source>(
    turns: &mut impl Turns<'s, S::Item>,
    source: &mut S,
    id: u32,
) -> bool {
    let permit = GiveBack(turns.feeder().core, id);
    let held = source.next();
    let mut turn = Turn { turns, held, id, is_put: false, error: None, stream: PhantomData };
    let Turn { turns, held: Some(item), is_put, error, .. } = &mut turn else { return false };
    source.prepare(item, |input| match put_into(*turns, permit, input) {
        Ok(()) => *is_put = true,
        Err(why) => *error = Some(why),
    });
    turn.end();
    true
}

/// Requests that could not be pushed, because the segment is corrupted.
#[derive(Debug)]
pub(super) struct Unpushed {
    pub(super) ids: Vec<u32>,
    why: Overrun,
}

impl Unpushed {
    /// The error of each of them.
    pub(super) fn error(&self) -> CallError {
        ReadError::from(self.why).into()
    }
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

    /// Whether this process owns the stream, and is no forked child.
    #[inline]
    pub(super) fn is_ours(&self) -> bool {
        self.core.birth.is_here()
    }

    #[inline]
    pub(super) fn task(&self, id: u32) -> Option<Task<'s>> {
        Task::new(&self.core.segment, id)
    }

    /// A permit, if there is one; having none is not an error.
    #[inline]
    pub(super) fn permit(&mut self) -> Result<Option<u32>, CallError> {
        self.core.own()?;
        match self.spare.take() {
            Some(id) => self.core.admit(id).map(|()| Some(id)),
            None => self.core.try_acquire(),
        }
    }

    /// Waits for a permit, when the stream has nothing in progress and others have all permits.
    pub(super) fn wait_for_permit(&mut self) -> Result<(), CallError> {
        let options = CallOptions::new().timeout(self.options.timeout).when_full(WhenFull::Wait);
        self.spare = Some(self.core.acquire(options)?.0);
        Ok(())
    }

    /// Gives the kept permit back: there is no next input.
    pub(super) fn give_back(&mut self) {
        if let Some(id) = self.spare.take() {
            self.core.release(id);
        }
    }

    /// Keeps a permit for the next input.
    pub(super) fn keep(&mut self, id: u32) {
        self.spare = Some(id);
    }

    /// Writes an input into a request, and does not push it yet.
    #[inline]
    fn put<In: Payload>(&mut self, id: u32, input: &In) -> Result<(), CallError> {
        self.core.own()?; // [own process]: user code has pulled and prepared it
        let filled = self.core.fill(id, input)?;
        self.core.own()?; // [own process]: its `Serialize` is user code too
        filled.park();
        self.pending.push(id);
        self.unnoted += 1;
        Ok(())
    }

    /// How many requests are filled and not pushed: the latest ones.
    #[inline]
    pub(super) fn unpushed(&self) -> usize {
        self.pending.len()
    }

    /// Pushes the filled requests, if they are enough, or if the workers have few others of `in_progress`.
    #[inline]
    pub(super) fn push_some(&mut self, in_progress: usize) -> Result<(), Unpushed> {
        if self.pending.len() >= self.chunk || in_progress - self.pending.len() < ENOUGH {
            return self.push();
        }
        Ok(())
    }

    /// Pushes the filled requests.
    #[inline]
    pub(super) fn push(&mut self) -> Result<(), Unpushed> {
        if self.pending.is_empty() {
            return Ok(());
        }
        // [own process]: user code has filled them. In a forked child they are the parent's and stay; their inputs get
        // the error that all its inputs get.
        if !self.is_ours() {
            return Ok(());
        }
        if let Err(why) = self.core.send_all(&self.pending, &self.outbox) {
            return Err(self.give_up(why));
        }
        self.pending.clear();
        Ok(())
    }

    /// Gives up requests that cannot be pushed: no caller waits for them.
    #[cold]
    fn give_up(&mut self, why: Overrun) -> Unpushed {
        let ids = std::mem::take(&mut self.pending);
        ids.iter().filter_map(|&id| self.task(id)).for_each(|task| self.core.cancel(task));
        Unpushed { ids, why }
    }

    /// Records since when requests are in progress, before the stream sleeps: `ids` are the requests in progress,
    /// latest first.
    #[cold]
    pub(super) fn note_begun(&mut self, ids: impl Iterator<Item = u32>) {
        if !self.is_ours() {
            return;
        }
        self.core.note_begun(ids.take(std::mem::take(&mut self.unnoted)));
    }

    /// The value of an outcome. Keeps its permit for the next input, if `more` inputs come and no other caller waits
    /// for a permit.
    #[inline(always)]
    pub(super) fn value<Out: Payload>(&mut self, done: Done<'s>, more: bool) -> Result<Out, CallError> {
        let reply = self.core.open::<Out>(done)?;
        let value = owned(&*reply);
        self.core.own()?; // in a child that the type's own `Deserialize` forked, the value may be another request's
        if self.spare.is_none() && more && !self.core.segment.freed().is_awaited() {
            self.spare = reply.into_id();
        }
        value.map_err(|error| ReadError::Refused(error).into())
    }
}

impl Drop for Feeder<'_> {
    fn drop(&mut self) {
        // The guards of requests that are filled and not pushed give them back.
        self.pending.drain(..).for_each(|id| drop(Filled::resume(self.core, id)));
        self.give_back();
    }
}
