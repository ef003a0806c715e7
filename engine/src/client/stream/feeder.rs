//! How all streams send their inputs: take a permit, write the input, push a few at a time.
//!
//! A stream's requests, by their ids, lie beside the stream's [`Hold`] of the core, and each function is passed the core:
//! so what the function makes of them borrows the hold, and not the requests, which change meanwhile.

use super::options::StreamOptions;
use super::source::Source;
use crate::client::{CallOptions, Core, Filled, Hold, WhenFull};
use crate::error::{BoxError, CallError};
use crate::route::Outbox;
use crate::wire::ReadError;
use crate::wire::payload::Payload;
use ringmill_shm::arena::{Done, Task};
use ringmill_shm::ring::Overrun;
use ringmill_shm::stats::CallerCounter;
use ringmill_shm::trace::RequestEnd;

/// Inputs pushed at a time.
pub(super) const CHUNK: usize = 32;
/// Inputs pushed at a time if each goes to several workers: waking all of them costs more than waiting.
const FORKED_CHUNK: usize = 4 * CHUNK;
/// Values that are counted at a time, if the stream does not wait.
const COUNTED: u32 = 64;
/// Fewer inputs than a chunk are pushed only if the workers have fewer than this.
const ENOUGH: usize = 2 * CHUNK;

/// What a stream has in progress, and the core that it is of; dropping it ends that.
#[derive(Debug)]
pub(super) struct Running<'s, P: Progress> {
    core: Hold<'s>,
    progress: P,
}

/// The requests that a stream has in progress, of a core that is passed to each function.
pub(super) trait Progress {
    /// Cancels them and gives permits back; in a forked child only frees memory.
    fn end(&mut self, core: &Core);
}

impl<P: Progress> Drop for Running<'_, P> {
    fn drop(&mut self) {
        self.progress.end(&self.core);
    }
}

impl<'s, P: Progress> Running<'s, P> {
    pub(super) fn new(core: Hold<'s>, progress: P) -> Self {
        Self { core, progress }
    }

    #[inline(always)]
    pub(super) fn core(&self) -> &Hold<'s> {
        &self.core
    }

    #[inline(always)]
    pub(super) fn progress(&self) -> &P {
        &self.progress
    }

    #[inline(always)]
    pub(super) fn parts(&mut self) -> (&Hold<'s>, &mut P) {
        (&self.core, &mut self.progress)
    }
}

/// The permits of one stream, and its filled requests.
#[derive(Debug)]
pub(super) struct Feeder {
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
    /// How many values were taken and are not counted yet.
    uncounted: u32,
}

/// A permit that is not used yet; gives it back when dropped.
struct GiveBack<'c>(&'c Core, u32);

impl Drop for GiveBack<'_> {
    fn drop(&mut self) {
        self.0.release(self.1);
    }
}

/// Records what becomes of a stream's inputs, in their turns.
pub(super) trait Turns<Held> {
    fn feeder(&mut self) -> &mut Feeder;

    /// Records that an input was written into the request `id`. `held` is what the stream keeps of its item.
    fn note(&mut self, core: &Core, held: Held, id: u32);

    /// Records that an input was not written into a request.
    fn note_failed(&mut self, held: Held, error: CallError);
}

/// An input that was pulled. It is recorded, and its item kept, even if user code panics (`[turns]`).
struct Turn<'t, Held, B: Turns<Held>> {
    turns: &'t mut B,
    core: &'t Core,
    held: Option<Held>,
    id: u32,
    is_put: bool,
}

impl<Held, B: Turns<Held>> Drop for Turn<'_, Held, B> {
    /// Runs if user code panicked; otherwise [`end`](Self::end) has recorded the input.
    #[cold]
    fn drop(&mut self) {
        self.note(None);
    }
}

impl<Held, B: Turns<Held>> Turn<'_, Held, B> {
    /// `error`: why the input was not put into a request.
    #[inline(always)]
    fn end(self, error: Option<CallError>) {
        std::mem::ManuallyDrop::new(self).note(error);
    }

    /// No error also if user code panicked before the input was written.
    #[inline(always)]
    fn note(&mut self, error: Option<CallError>) {
        match self.held.take() {
            Some(held) if self.is_put => self.turns.note(self.core, held, self.id),
            Some(held) => self.note_failed(held, error),
            None => {}
        }
    }

    #[cold]
    #[inline(never)]
    fn note_failed(&mut self, held: Held, error: Option<CallError>) {
        let error = error.unwrap_or_else(|| self.core.told(panicked()));
        self.turns.note_failed(held, error);
    }
}

/// Writes an input into a request, unless `prepare` refused it.
#[inline]
fn put_into<Held, In: Payload>(
    turns: &mut impl Turns<Held>,
    permit: GiveBack<'_>,
    input: Result<&In, BoxError>,
) -> Result<(), CallError> {
    match input {
        Ok(input) => {
            let GiveBack(core, id) = permit;
            std::mem::forget(permit);
            turns.feeder().put(core, id, input)
        }
        Err(error) => Err(permit.0.told(CallError::Refused(error))),
    }
}

#[cold]
fn panicked() -> CallError {
    CallError::Refused(BoxError::msg("its prepare or Serialize panicked"))
}

/// Pulls the next item of a source and writes its input into the request `id`. Gives the permit back if there is no
/// item, its input is refused, or user code panics. False at the end.
#[inline]
pub(super) fn pull<S: Source>(turns: &mut impl Turns<()>, core: &Core, source: &mut S, id: u32) -> bool {
    let permit = GiveBack(core, id);
    let Some(item) = source.next() else { return false };
    // Dropped before the item, whose drop is user code: [turns].
    let mut turn = Turn { turns, core, held: Some(()), id, is_put: false };
    let mut error = None;
    let Turn { turns, is_put, .. } = &mut turn;
    source.prepare(&item, |input| match put_into(*turns, permit, input) {
        Ok(()) => *is_put = true,
        Err(why) => error = Some(why),
    });
    turn.end(error);
    true
}

/// [`pull`] for a stream that keeps its items.
#[inline]
pub(super) fn pull_and_keep<S: Source>(
    turns: &mut impl Turns<S::Item>,
    core: &Core,
    source: &mut S,
    id: u32,
) -> bool {
    let permit = GiveBack(core, id);
    let held = source.next();
    let mut turn = Turn { turns, core, held, id, is_put: false };
    let mut error = None;
    let Turn { turns, held: Some(item), is_put, .. } = &mut turn else { return false };
    source.prepare(item, |input| match put_into(*turns, permit, input) {
        Ok(()) => *is_put = true,
        Err(why) => error = Some(why),
    });
    turn.end(error);
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

#[cold]
#[inline(never)]
fn count_answered(core: &Core, uncounted: &mut u32) {
    core.count_all_answered(std::mem::take(uncounted));
}

impl Feeder {
    pub(super) fn new(core: &Core, options: StreamOptions) -> Self {
        Self {
            window: options.window.clamp(1, core.capacity as usize),
            options,
            pending: Vec::with_capacity(CHUNK),
            chunk: if core.forks() { FORKED_CHUNK } else { CHUNK },
            outbox: Outbox::default(),
            spare: None,
            unnoted: 0,
            uncounted: 0,
        }
    }

    /// A permit, if there is one; having none is not an error.
    pub(super) fn permit(&mut self, core: &Core) -> Result<Option<u32>, CallError> {
        core.own()?;
        match self.spare.take() {
            Some(id) => core.admit(id).map(|()| Some(id)),
            None => core.try_acquire(),
        }
    }

    /// A permit, if there is one and the server takes requests.
    #[inline(always)]
    pub(super) fn permit_now(&mut self, core: &Core) -> Option<u32> {
        match self.spare {
            Some(id) if core.birth.is_here() && !core.is_closed() => {
                self.spare = None;
                Some(id)
            }
            _ => self.permit(core).ok().flatten(),
        }
    }

    /// Waits for a permit, when the stream has nothing in progress and others have all permits.
    pub(super) fn wait_for_permit(&mut self, core: &Core) -> Result<(), CallError> {
        let options = CallOptions::new().timeout(self.options.timeout).when_full(WhenFull::Wait);
        self.spare = Some(core.acquire_untold(options)?.0);
        Ok(())
    }

    /// Gives the kept permit back: there is no next input.
    pub(super) fn give_back(&mut self, core: &Core) {
        if let Some(id) = self.spare.take() {
            core.release(id);
        }
    }

    /// Keeps a permit for the next input.
    pub(super) fn keep(&mut self, id: u32) {
        self.spare = Some(id);
    }

    /// Writes an input into a request, and does not push it yet.
    #[inline]
    fn put<In: Payload>(&mut self, core: &Core, id: u32, input: &In) -> Result<(), CallError> {
        core.own()?; // [own process]: user code has pulled and prepared it
        let filled = core.fill::<In>(id, input)?;
        core.own()?; // [own process]: its `Serialize` is user code too
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
    pub(super) fn push_some(&mut self, core: &Core, in_progress: usize) -> Result<(), Unpushed> {
        if self.pending.len() >= self.chunk || in_progress - self.pending.len() < ENOUGH {
            return self.push(core);
        }
        Ok(())
    }

    /// Pushes the filled requests; called before the stream waits, too.
    #[inline]
    pub(super) fn push(&mut self, core: &Core) -> Result<(), Unpushed> {
        if self.uncounted > 0 {
            self.count(core);
        }
        if self.pending.is_empty() {
            return Ok(());
        }
        // [own process]: user code has filled them. In a forked child they are the parent's and stay; their inputs get
        // the error that all its inputs get.
        if !core.birth.is_here() {
            return Ok(());
        }
        if let Err(why) = core.send_all(&self.pending, &self.outbox) {
            return Err(self.give_up(core, why));
        }
        self.pending.clear();
        Ok(())
    }

    /// Gives up requests that cannot be pushed: no caller waits for them.
    #[cold]
    fn give_up(&mut self, core: &Core, why: Overrun) -> Unpushed {
        let ids = std::mem::take(&mut self.pending);
        for task in ids.iter().filter_map(|&id| core.task(id)) {
            core.count(CallerCounter::Internal);
            core.note_total(task, || RequestEnd::Internal);
            core.let_go(task);
        }
        Unpushed { ids, why }
    }

    /// Records since when requests are in progress, before the stream sleeps: `ids` are the requests in progress,
    /// latest first, maybe with some that are no request's.
    #[cold]
    pub(super) fn note_begun(&mut self, core: &Core, ids: impl Iterator<Item = u32>) {
        if !core.birth.is_here() {
            return;
        }
        core.note_begun(ids, std::mem::take(&mut self.unnoted));
    }

    /// The value of an outcome. Keeps its permit for the next input, if `more` inputs come and no other caller waits
    /// for a permit.
    #[inline(always)]
    pub(super) fn value<Out: Payload>(
        &mut self,
        core: &Core,
        done: Done<'_>,
        more: bool,
    ) -> Result<Out, CallError> {
        let Self { uncounted, spare, .. } = self;
        // Before the value is made, which would otherwise travel through memory.
        let count = |task: Task<'_>| {
            core.note_total(task, || RequestEnd::Answered);
            *uncounted += 1;
            if *uncounted == COUNTED {
                count_answered(core, uncounted);
            }
        };
        core.take_value(done, count, |value| {
            let id = value.free();
            if spare.is_none() && more && !core.segment.freed().is_awaited() {
                *spare = Some(id);
            } else {
                core.release(id);
            }
        })
    }

    /// Counts the values that were taken.
    fn count(&mut self, core: &Core) {
        count_answered(core, &mut self.uncounted);
    }

    /// Gives back all permits that no request in progress has.
    pub(super) fn end(&mut self, core: &Core) {
        self.count(core);
        // The guards of requests that are filled and not pushed give them back.
        self.pending.drain(..).for_each(|id| drop(Filled::resume(core, id)));
        self.give_back(core);
    }
}
