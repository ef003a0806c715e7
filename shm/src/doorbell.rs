//! Doorbells: how idle workers of a node sleep, and how a push wakes one of them without ever losing a
//! wake.
//!
//! # Layout
//!
//! ```text
//! one line a node     sleepers: u64   bit w: worker w sleeps, or is about to
//!                     wake_at:  u64   0, or the position at which the holder of the reader lock, which
//!                                     waits out a batch window, wants to be woken, plus one
//!                     holder:   u32   the worker that wake_at speaks of
//!                     spinner:  u32   turn (24) | worker + 1 (8): it is awake, idle and looks at the ring;
//!                                     0 in the low byte: no worker does. Each turn of spinning has another number
//!                     down:     u32   bit 0: no worker is left, and none is ready to come
//!                                     bit 1: it is drained, so movers bring it no task
//! one line a worker   bell: u32       its futex word; a ring of the bell adds one
//! ```
//!
//! Sleepers are a bit mask and not a counter, so that a sleeper that dies cannot leak a count.
//!
//! # Invariants
//!
//! * `[no lost wake]`: a producer publishes, full fence, looks at the line; a sleeper announces itself in
//!   the line, full fence, looks at the ring. One of the two sees the other.
//! * `[one wake a batch]`: while a holder waits out its window, pushes before `wake_at` wake no worker: the holder
//!   looks at the ring once more after it has removed its mark, as a spinner does.
//! * `[one wake a sleep]`: a waker takes the sleeper's bit before it wakes it.
//! * `[a mark is doubted]`: a spinner may be stopped, or lose its CPU, at any instruction, and its mark then proves
//!   nothing. A producer whose push wakes no worker because of the mark calls [`Line::doubt`] before it sleeps, returns
//!   to user code that may never wait, or begins a batch: while the item lies unread, it watches the mark for a
//!   microsecond or two. A spinner that runs removes its mark in that time. If the mark stays, the doubter removes it
//!   and wakes a sleeper. So a stopped spinner delays no item for longer, and no later push relies on it. A spinner
//!   that was merely slow looks at the ring although its mark is gone. (A stream doubts when it waits for an outcome,
//!   not with each push.)
//! * `[taken in vain]`: a sleeper that is stopped after a waker took its bit does not delay the next push, which takes
//!   another bit. A caller rescues the first item: whenever a sleep of the caller ends without an outcome, it wakes one
//!   more sleeper of each node whose items no worker collects. A stopped *holder* of the reader lock, in its window or
//!   not, keeps the lock: no other worker could go on for it.
//!
//! # Ordering
//!
//! * `[rung]`: cell CAS (SeqCst), fence, load of the line (SeqCst) against RMW or store of the line (SeqCst), fence,
//!   load of the cell (SeqCst). A worker that leaves items is on the first side, with a load of the cell (SeqCst)
//!   instead of the CAS.
//! * `[down]`: the supervisor that gives a node up sets the mark (SeqCst), full fence, and empties the ring; a producer
//!   publishes, full fence, and if it sees the mark empties the ring itself. So nothing stays in the ring.
//! * `[taken]`: the waker's removal of a bit → the worker's look at its bit when it is up. The published items travel;
//!   so a worker that was woken for several, and takes one, sees the rest and wakes the next worker.
//! * `[doubted]`: publication (SeqCst), fence, load of the mark by a push that relies on it → the CAS that removes this
//!   mark (SeqCst), later in its modification order, fence, `[taken]`. The woken sleeper sees that item, whichever
//!   thread doubted.
//!
//! # Crash
//!
//! A sleeper that dies leaves its bit set. One push may spend its wake on the dead worker; the wake-all after each
//! death, or at the latest the sleep timeout, repairs it. So it is with a waker that dies between taking a bit and
//! waking. A holder that dies in its window leaves `wake_at`, a spinner its mark: `repair` clears both, then wakes all.

use crate::fields::in_segment;
use crate::sync::{AtomicU32, AtomicU64, Ordering, fence_after_seq_cst, spin_loop};
use crate::sys::futex;
use core::time::Duration;

/// How many workers a node can have.
pub const WORKER_LIMIT: usize = 64;

/// Bits of the word `down`.
const DOWN: u32 = 1;
const DRAINED: u32 = 2;

/// The low byte of the spinner's word.
const SPINNER: u32 = 0xff;
const _: () = assert!(WORKER_LIMIT < SPINNER as usize);

/// How often [`Line::doubt`] looks at a mark: longer than a spinner that runs takes to see an item, a few
/// microseconds with the pauses between.
#[cfg(not(loom))]
const DOUBTS: u32 = 128;
#[cfg(loom)]
const DOUBTS: u32 = 1;

/// A worker's turn of spinning, as its mark in the line names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Turn(u32);

in_segment! {
    /// The doorbell's line of a node.
    #[derive(Debug)]
    #[repr(align(128))]
    pub struct Line {
        sleepers: AtomicU64,
        wake_at: AtomicU64,
        holder: AtomicU32,
        spinner: AtomicU32,
        down: AtomicU32,
    }
}

in_segment! {
    /// The line of one worker's futex word.
    #[derive(Debug)]
    #[repr(align(128))]
    pub struct Bell(AtomicU32);
}

impl Bell {
    /// A bell that has not rung.
    #[cfg(loom)]
    pub(crate) fn new() -> Self {
        Self(AtomicU32::new(0))
    }

    /// How often it has rung: the argument of [`sleep`](Self::sleep), to be read before [`announce`](Line::announce).
    #[inline]
    #[must_use]
    pub fn count(&self) -> u32 {
        self.0.load(Ordering::Acquire)
    }

    /// Rings it and wakes its worker.
    #[inline]
    pub fn ring(&self) {
        self.0.fetch_add(1, Ordering::Release);
        crash_point!("doorbell.counted");
        futex::wake(&self.0, 1);
    }

    /// Sleeps until it has rung since `count` was read, or `timeout` expires.
    pub fn sleep(&self, count: u32, timeout: Option<Duration>) {
        futex::wait(&self.0, count, timeout);
    }
}

impl Line {
    /// A line without sleepers.
    #[cfg(loom)]
    pub(crate) fn new() -> Self {
        Self {
            sleepers: AtomicU64::new(0),
            wake_at: AtomicU64::new(0),
            holder: AtomicU32::new(0),
            spinner: AtomicU32::new(0),
            down: AtomicU32::new(0),
        }
    }

    /// After a push: `next` is the position after the last one published. Wakes the worker that must look, through
    /// `bell_of(worker)`.
    ///
    /// The publication was the caller's last `SeqCst` read-modify-write.
    #[inline]
    pub fn after_push<'a>(&self, next: u64, bell_of: impl Fn(u32) -> Option<&'a Bell>) {
        fence_after_seq_cst(); // [rung], for [no lost wake]
        let wake_at = self.wake_at.load(Ordering::SeqCst);
        if wake_at == 0 && (self.sleepers.load(Ordering::SeqCst) == 0) {
            return;
        }
        self.wake_for(wake_at, next, bell_of);
    }

    #[cold]
    fn wake_for<'a>(&self, wake_at: u64, next: u64, bell_of: impl Fn(u32) -> Option<&'a Bell>) {
        if wake_at != 0 {
            // [one wake a batch]: the holder is collecting; of several producers past its mark, one wakes it.
            if next >= wake_at
                && self.wake_at.compare_exchange(wake_at, 0, Ordering::SeqCst, Ordering::Relaxed).is_ok()
                && let Some(bell) = bell_of(self.holder.load(Ordering::Relaxed))
            {
                crash_point!("doorbell.window_found");
                bell.ring();
            }
            return;
        }
        // [doubted]: of a push that relies on the mark.
        if self.spinner.load(Ordering::SeqCst) & SPINNER == 0 {
            self.wake_lowest(bell_of);
        }
        // Else the calling thread doubts the mark: [a mark is doubted].
    }

    /// After a push, by a thread that is about to do something else: makes sure that a worker sees the item, although
    /// the push may have relied on a spinner. `unread` says whether the ring has something that no worker collects.
    ///
    /// Only a load where no worker spins.
    #[inline]
    pub fn doubt<'a>(&self, unread: impl Fn() -> bool, bell_of: impl Fn(u32) -> Option<&'a Bell>) {
        let mark = self.spinner.load(Ordering::SeqCst);
        if mark & SPINNER != 0 {
            self.doubt_mark(mark, unread, bell_of);
        }
    }

    #[cold]
    fn doubt_mark<'a>(
        &self,
        mark: u32,
        unread: impl Fn() -> bool,
        bell_of: impl Fn(u32) -> Option<&'a Bell>,
    ) {
        for _ in 0..DOUBTS {
            // Relaxed: the CAS below decides.
            if self.spinner.load(Ordering::Relaxed) != mark {
                return; // the spinner looks at the ring now, or another thread doubted it
            }
            spin_loop();
        }
        if unread()
            && self
                .spinner
                .compare_exchange(mark, mark & !SPINNER, Ordering::SeqCst, Ordering::Relaxed)
                .is_ok()
        {
            // No crash point: a death here leaves what a death with a sleeper's bit leaves, and no test can bring about
            // in each role what leads here, a worker that has lost its CPU.
            self.wake_one(bell_of); // [doubted]
        }
    }

    /// Wakes one sleeper, the lowest-numbered, if there is any: for an item that the calling thread has just seen in
    /// the ring and leaves there.
    pub fn wake_one<'a>(&self, bell_of: impl Fn(u32) -> Option<&'a Bell>) {
        fence_after_seq_cst(); // [rung]: a sleeper that did not see the item is seen now
        self.wake_lowest(bell_of);
    }

    fn wake_lowest<'a>(&self, bell_of: impl Fn(u32) -> Option<&'a Bell>) {
        let mut mask = self.sleepers.load(Ordering::SeqCst);
        while mask != 0 {
            let worker = mask.trailing_zeros();
            let bit = 1_u64 << worker;
            // [one wake a sleep], [taken].
            if self.sleepers.fetch_and(!bit, Ordering::SeqCst) & bit != 0
                && let Some(bell) = bell_of(worker)
            {
                crash_point!("doorbell.sleeper_taken");
                bell.ring();
                return;
            }
            mask &= !bit;
        }
    }

    /// Worker `worker` is about to sleep: after this it must look at the ring once more.
    #[inline]
    pub fn announce(&self, worker: u32) {
        self.sleepers.fetch_or(1 << worker, Ordering::SeqCst);
        crash_point!("doorbell.announced");
        fence_after_seq_cst(); // [rung]
    }

    /// Worker `worker` is up again.
    #[inline]
    pub fn retract(&self, worker: u32) {
        let bit = 1_u64 << worker;
        crash_point!("doorbell.retracting");
        // A look first: usually the waker has taken the bit, and the line stays shared. [taken]: the waker woke us,
        // even if we were not asleep, and we see all that it woke us for.
        if self.sleepers.load(Ordering::Acquire) & bit != 0 {
            self.sleepers.fetch_and(!bit, Ordering::SeqCst);
        }
    }

    /// The holder, worker `worker`, will sleep until position `position` is published: after this it
    /// must look at the ring once more.
    pub fn announce_window(&self, worker: u32, position: u64) {
        self.holder.store(worker, Ordering::Relaxed); // Relaxed: travels with wake_at
        crash_point!("doorbell.window_half");
        self.wake_at.store(position.wrapping_add(1), Ordering::SeqCst);
        crash_point!("doorbell.window_announced");
        fence_after_seq_cst(); // [rung]
    }

    /// The holder no longer waits: after this it must look at the ring once more.
    pub fn retract_window(&self) {
        self.wake_at.store(0, Ordering::SeqCst);
        crash_point!("doorbell.window_retracted");
        fence_after_seq_cst(); // [rung]: an item whose push saw the mark and woke no worker is seen from here on
    }

    /// Makes `worker` the spinner, which looks at the ring while the others sleep; `None` if another worker is.
    #[must_use]
    pub fn begin_spinning(&self, worker: u32) -> Option<Turn> {
        let seen = self.spinner.load(Ordering::Relaxed);
        if seen & SPINNER != 0 {
            return None;
        }
        let mark = seen.wrapping_add(SPINNER + 1) | (worker + 1) & SPINNER;
        let had = self.spinner.compare_exchange(seen, mark, Ordering::SeqCst, Ordering::Relaxed);
        had.is_ok().then_some(Turn(mark))
    }

    /// The spinner no longer looks: after this it must take work and look for more that it leaves, or
    /// [`announce`](Self::announce) itself and look once more, also if another thread has [doubted](Self::doubt) its
    /// mark.
    pub fn end_spinning(&self, Turn(mark): Turn) {
        // Relaxed if it fails: another thread doubted the mark, which is perhaps another worker's now.
        let _ = self.spinner.compare_exchange(mark, mark & !SPINNER, Ordering::SeqCst, Ordering::Relaxed);
        crash_point!("doorbell.spun");
        fence_after_seq_cst(); // [rung]: an item whose push saw the mark and woke no worker is seen from here on
    }

    /// Removes what a dead worker left in the line.
    pub fn forget(&self, worker: u32) {
        let Some(bit) = 1_u64.checked_shl(worker) else { return }; // no such worker
        self.sleepers.fetch_and(!bit, Ordering::SeqCst);
        crash_point!("doorbell.forgetting");
        let mark = self.spinner.load(Ordering::Relaxed); // Relaxed: a dead worker's mark stays, or is removed
        if mark & SPINNER == worker + 1 {
            let none = mark & !SPINNER;
            let _ = self.spinner.compare_exchange(mark, none, Ordering::SeqCst, Ordering::Relaxed);
        }
        if self.holder.load(Ordering::Relaxed) == worker {
            self.wake_at.store(0, Ordering::SeqCst);
        }
    }

    /// From now on no worker reads the ring; the caller empties it after this.
    pub fn set_down(&self) {
        self.down.fetch_or(DOWN, Ordering::SeqCst);
        crash_point!("doorbell.down");
        fence_after_seq_cst(); // [down]
    }

    /// From now on a worker reads the ring again.
    pub fn set_up(&self) {
        self.down.fetch_and(!DOWN, Ordering::SeqCst);
    }

    /// From now on movers bring the node no task, or again do.
    pub fn set_drained(&self, is_drained: bool) {
        match is_drained {
            true => self.down.fetch_or(DRAINED, Ordering::SeqCst),
            false => self.down.fetch_and(!DRAINED, Ordering::SeqCst),
        };
    }

    /// Whether movers are to bring it no task. One that has looked just before may still bring one, which a worker
    /// handles.
    #[inline]
    #[must_use]
    pub fn is_drained(&self) -> bool {
        self.down.load(Ordering::Relaxed) & DRAINED != 0 // Relaxed: nothing travels with it
    }

    /// Whether no worker will read the ring; a producer asks after a push, and empties the ring if so.
    #[inline]
    #[must_use]
    pub fn is_down(&self) -> bool {
        self.down.load(Ordering::SeqCst) & DOWN != 0 // [down]: after the fence of `after_push`
    }

    /// Whether it names only workers below `workers`: for a checker.
    #[cfg(not(loom))]
    pub(crate) fn names_only(&self, workers: u32) -> bool {
        // Relaxed, all: each word is judged by itself.
        let beyond = self.sleepers.load(Ordering::Relaxed).checked_shr(workers).unwrap_or(0);
        let waits = self.wake_at.load(Ordering::Relaxed) != 0;
        beyond == 0
            && self.spinner.load(Ordering::Relaxed) & SPINNER <= workers
            && (!waits || self.holder.load(Ordering::Relaxed) < workers)
    }

    /// The worker whose mark says that it spins: for reports.
    #[must_use]
    pub fn spinner(&self) -> Option<u32> {
        (self.spinner.load(Ordering::Relaxed) & SPINNER).checked_sub(1)
    }

    /// Which workers sleep, by bit: for reports.
    #[must_use]
    pub fn sleepers(&self) -> u64 {
        self.sleepers.load(Ordering::Relaxed)
    }
}
