//! What all streams do with their inputs: take a place, fill it, push a few at a time.

use super::{CHUNK, ENOUGH, FORKED_CHUNK, Source, StreamOptions};
use crate::error::CallError;
use crate::payload::{Payload, owned};
use crate::route::Outbox;
use crate::server::{CallOptions, Core, Filled};
use ringmill_shm::arena::{Done, Task};

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
    /// In a forked child: it has been told so.
    told: bool,
}

/// Gives an id back if what was to be done with it was not.
struct GiveBack<'c>(&'c Core, u32);

impl Drop for GiveBack<'_> {
    fn drop(&mut self) {
        self.0.release(self.1);
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
            told: false,
        }
    }

    /// Whether the stream is this process's own.
    #[inline]
    pub(super) fn is_ours(&self) -> bool {
        self.core.birth.is_here()
    }

    /// What a stream gives in a forked child: that error, and then its end.
    #[cold]
    pub(super) fn tell_forked(&mut self) -> Option<CallError> {
        (!std::mem::replace(&mut self.told, true)).then(|| self.core.forked())
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
        let options = CallOptions::new().timeout(self.options.timeout).backpressure(false);
        self.spare = Some(self.core.acquire(options)?.0);
        Ok(())
    }

    /// Keeps a place for the next input.
    pub(super) fn keep(&mut self, id: u32) {
        self.spare = Some(id);
    }

    /// Pulls the next input into a place, which is given back if there is none, it is refused, or user code
    /// panics; the item then goes to `keep`. `None` at the end.
    #[inline]
    pub(super) fn pull<S: Source>(
        &mut self,
        source: &mut S,
        id: u32,
        keep: impl FnOnce(&mut S, S::Item),
    ) -> Option<Result<(), CallError>> {
        let place = GiveBack(self.core, id);
        let item = source.next()?;
        let put = source.prepare(&item, |input| match input {
            Ok(input) => {
                std::mem::forget(place);
                self.put(id, input)
            }
            Err(error) => Err(CallError::Refused(error)),
        });
        keep(source, item);
        Some(put)
    }

    /// Writes an input into a place; it is not pushed yet.
    #[inline]
    pub(super) fn put<In: Payload>(&mut self, id: u32, input: &In) -> Result<(), CallError> {
        self.core.own()?; // what has pulled and prepared it is user code
        self.core.fill(id, input)?.park();
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
    pub(super) fn push_some(&mut self, in_progress: usize) -> Result<(), CallError> {
        if self.pending.len() >= self.chunk || in_progress - self.pending.len() < ENOUGH {
            return self.push();
        }
        Ok(())
    }

    /// Pushes what is filled.
    #[inline]
    pub(super) fn push(&mut self) -> Result<(), CallError> {
        if self.pending.is_empty() {
            return Ok(());
        }
        let pushed = self.core.send_all(&self.pending, &self.outbox);
        self.pending.clear();
        pushed
    }

    /// Says since when what was sent is in progress, before somebody sleeps: `ids` are those that are,
    /// latest first.
    #[cold]
    pub(super) fn note_begun(&mut self, ids: impl Iterator<Item = u32>) {
        self.core.note_begun(ids.take(std::mem::take(&mut self.unnoted)));
    }

    /// The value of an outcome. Its place is used for the next input, if there is to be one and nobody else
    /// waits for a place.
    #[inline(always)]
    pub(super) fn value<Out: Payload>(&mut self, done: Done<'s>, more: bool) -> Result<Out, CallError> {
        let reply = self.core.open::<Out>(done)?;
        let value = owned(&*reply);
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
        if let Some(id) = self.spare.take() {
            self.core.release(id);
        }
    }
}
