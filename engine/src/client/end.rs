//! How far the shutdown of a server has come.

use std::sync::{Condvar, Mutex, MutexGuard};
use std::thread::ThreadId;

/// See [`shutdown`](super::shutdown).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Stage {
    #[default]
    Open,
    Begun(ThreadId),
    Done,
}

/// How far the shutdown of a server has come.
#[derive(Debug, Default)]
pub(crate) struct End {
    stage: Mutex<Stage>,
    pub(super) changed: Condvar,
}

impl End {
    pub(super) fn stage(&self) -> MutexGuard<'_, Stage> {
        self.stage.lock().unwrap_or_else(|e| e.into_inner())
    }
}
