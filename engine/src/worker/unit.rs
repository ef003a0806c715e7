//! A unit: the threads that start, stop and die together. All threads of a worker's process, or one thread of the
//! server's.
//!
//! # Protocol
//!
//! | State | Means | Left by, to |
//! |---|---|---|
//! | AT_WORK | its threads construct their workers, then work | a thread whose request is the last that the unit may handle, or the supervisor → RETIRED; a thread that fails → FAILED; watcher → ORPHANED |
//! | RETIRED | it has reached a limit, or is to be replaced or scaled away | a thread that fails → FAILED; watcher → ORPHANED |
//! | FAILED | a thread could not construct its worker, or gave up | watcher → ORPHANED |
//! | ORPHANED | the server's process is gone | – |
//!
//! In the last three states the unit's threads finish their batches and leave, and the supervisor, if the server lives,
//! starts the unit again. No thread sets READY before all threads of the unit have their workers.
//!
//! # Ordering
//!
//! * `[leaving]`: the thread that fails or retires, the supervisor or the watcher stores the state, then rings the bells; a thread that is about
//!   to sleep reads its bell's count, then looks at the state. So it sees the state or does not sleep. A thread that
//!   waits for the others looks at the state under the mutex, which is taken between the store and the notification.

use crate::panics::Panic;
use ringmill_shm::segment::Segment;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, OnceLock};

/// Has the service log what went wrong in a worker; the worker's name comes first.
pub(crate) type Complain = fn(&str, &str);

/// A unit's state; see the module.
#[derive(Debug)]
pub(crate) struct Unit {
    state: AtomicU32,
    /// Whether user code has panicked.
    panicked: AtomicBool,
    complain: Complain,
    /// Its rows in the participant table.
    rows: Range<u32>,
    /// How many of its threads have no worker yet.
    unready: Mutex<u32>,
    changed: Condvar,
    /// How many of its threads work, once its first worker has said so.
    at_work: OnceLock<u32>,
    /// How many requests it may handle, if there is a limit, and how many it has handled.
    max_requests: Option<u64>,
    handled: AtomicU64,
}

/// Whether a unit works or leaves; a state is only replaced by a later one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum UnitState {
    AtWork = 0,
    Retired = 1,
    Failed = 2,
    Orphaned = 3,
}

impl Unit {
    pub(crate) fn new(rows: Range<u32>, complain: Complain, max_requests: Option<u64>) -> Self {
        Self {
            state: AtomicU32::new(UnitState::AtWork as u32),
            panicked: AtomicBool::new(false),
            complain,
            unready: Mutex::new(rows.len() as u32),
            rows,
            changed: Condvar::new(),
            at_work: OnceLock::new(),
            max_requests,
            handled: AtomicU64::new(0),
        }
    }

    /// Has the service log what went wrong in a worker.
    pub(super) fn complain(&self, worker: &str, what: &str) {
        (self.complain)(worker, what);
    }

    /// Has the service log the unit's first panic: each is the error of its items, so callers see all of them.
    #[cold]
    pub(super) fn tell_of_panic(&self, worker: impl FnOnce() -> String, panic: &Panic) {
        if !self.panicked.swap(true, Ordering::Relaxed) {
            // Relaxed: one of the threads is the first.
            let what =
                format!("user code panicked, and its further panics are only counted: {}", panic.message);
            self.complain(&worker(), &what);
        }
    }

    #[inline]
    pub(crate) fn state(&self) -> UnitState {
        // Relaxed: nothing else travels with the flag; a thread that sleeps relies on [leaving].
        match self.state.load(Ordering::Relaxed) {
            0 => UnitState::AtWork,
            1 => UnitState::Retired,
            2 => UnitState::Failed,
            _ => UnitState::Orphaned,
        }
    }

    /// Whether it may handle only so many requests.
    pub(super) fn counts_requests(&self) -> bool {
        self.max_requests.is_some()
    }

    /// After a thread of the unit has handled this many requests: the unit leaves if that were the last.
    #[cold]
    pub(super) fn count_requests(&self, requests: u64, segment: &Segment) {
        // Relaxed: a count.
        let handled = self.handled.fetch_add(requests, Ordering::Relaxed).saturating_add(requests);
        if self.max_requests.is_some_and(|limit| handled >= limit) {
            self.retire(segment);
        }
    }

    /// Called by the supervisor, or on its behalf: the unit is to leave, and a successor may come.
    pub(crate) fn retire(&self, segment: &Segment) {
        self.leave(UnitState::Retired, segment);
    }

    /// Called by a thread of the unit that failed.
    pub(crate) fn fail(&self, segment: &Segment) {
        self.leave(UnitState::Failed, segment);
    }

    /// Called by the watcher when the server's process is gone.
    pub(crate) fn orphan(&self, segment: &Segment) {
        self.leave(UnitState::Orphaned, segment);
    }

    fn leave(&self, why: UnitState, segment: &Segment) {
        self.state.fetch_max(why as u32, Ordering::SeqCst); // [leaving]
        drop(self.unready()); // [leaving]
        self.changed.notify_all();
        for row in self.rows.clone() {
            segment.participants()[row as usize].bell().ring();
        }
    }

    fn unready(&self) -> MutexGuard<'_, u32> {
        self.unready.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Called by the unit's first thread: so many of its threads work.
    pub(super) fn state_threads(&self, threads: u32) {
        let _unready = self.unready();
        let _ = self.at_work.set(threads); // a thread states it once
        self.changed.notify_all();
    }

    /// Called by a thread of a unit whose first worker states how many threads work, before it has a worker: waits for that.
    /// False if the thread is not to work, or the unit leaves instead.
    pub(super) fn await_terms(&self, thread: u32) -> bool {
        if thread == 0 || self.rows.len() == 1 {
            return true;
        }
        let mut unready = self.unready();
        loop {
            match self.at_work.get() {
                Some(&threads) => return thread < threads,
                None if self.state() != UnitState::AtWork => return false,
                None => unready = self.changed.wait(unready).unwrap_or_else(|e| e.into_inner()),
            }
        }
    }

    /// Called by a thread that has its worker: waits until all threads of the unit have theirs. False if the unit
    /// leaves instead.
    pub(crate) fn await_unit(&self) -> bool {
        let mut unready = self.unready();
        *unready -= 1;
        self.changed.notify_all();
        while *unready > 0 && self.state() == UnitState::AtWork {
            unready = self.changed.wait(unready).unwrap_or_else(|e| e.into_inner());
        }
        self.state() == UnitState::AtWork
    }
}
