//! What starts, stops and dies together: all threads of a worker's process, or one thread of the server's.
//!
//! # Protocol
//!
//! | State | Means | Left by, to |
//! |---|---|---|
//! | AT_WORK | its threads construct their workers, then work | a thread that fails → FAILED; watcher → ORPHANED |
//! | FAILED | a thread could not construct its worker, or gave up | watcher → ORPHANED |
//! | ORPHANED | the server's process is gone | – |
//!
//! In the last two its threads leave, and the supervisor starts the unit again if there is one. No thread
//! says READY before all of them have their workers.
//!
//! # Ordering
//!
//! * *leaving*: the state is stored, then the bells are rung; who goes to sleep reads its bell's count, then
//!   looks at the state. So it sees the state or does not sleep. A thread that waits for the others looks at
//!   the state under the mutex, which is taken between the store and the notification.

use ringmill_shm::segment::Segment;
use std::ops::Range;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard};

/// See the module.
#[derive(Debug)]
pub(crate) struct Unit {
    state: AtomicU32,
    /// Its places in the participant table.
    places: Range<u32>,
    /// How many of them have no worker yet.
    unready: Mutex<u32>,
    changed: Condvar,
}

/// Whether a unit stays; a later state stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum State {
    AtWork = 0,
    Failed = 1,
    Orphaned = 2,
}

impl Unit {
    pub(crate) fn new(places: Range<u32>) -> Self {
        let unready = Mutex::new(places.len() as u32);
        Self { state: AtomicU32::new(State::AtWork as u32), places, unready, changed: Condvar::new() }
    }

    #[inline]
    pub(crate) fn state(&self) -> State {
        // Relaxed: a flag of its own; who sleeps has *leaving*.
        match self.state.load(Ordering::Relaxed) {
            0 => State::AtWork,
            1 => State::Failed,
            _ => State::Orphaned,
        }
    }

    /// One of its threads failed.
    pub(crate) fn fail(&self, segment: &Segment) {
        self.leave(State::Failed, segment);
    }

    /// The server's process is gone.
    pub(crate) fn orphan(&self, segment: &Segment) {
        self.leave(State::Orphaned, segment);
    }

    fn leave(&self, why: State, segment: &Segment) {
        self.state.fetch_max(why as u32, Ordering::SeqCst); // *leaving*
        drop(self.unready()); // *leaving*
        self.changed.notify_all();
        for place in self.places.clone() {
            segment.participants()[place as usize].bell().ring();
        }
    }

    fn unready(&self) -> MutexGuard<'_, u32> {
        self.unready.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// One of its threads has its worker; waits for the others. False if the unit leaves instead.
    pub(crate) fn await_fellows(&self) -> bool {
        let mut unready = self.unready();
        *unready -= 1;
        self.changed.notify_all();
        while *unready > 0 && self.state() == State::AtWork {
            unready = self.changed.wait(unready).unwrap_or_else(|e| e.into_inner());
        }
        self.state() == State::AtWork
    }
}
