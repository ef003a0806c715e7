//! What the supervisor does for one lever, as data.

use super::lever::Pull;
use crate::error::LeverError;
use crate::host::recipe::Program;
use std::collections::VecDeque;
use std::fs::File;
use std::sync::Arc;
use std::time::Duration;

/// What is done for one lever.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) pull: Pull,
    /// `None` before it has begun.
    pub(super) rounds: Option<VecDeque<Vec<Step>>>,
    pub(super) round: Vec<Active>,
    /// From what the workers are made that it starts, if it replaces.
    pub(super) made_of: Option<MadeOf>,
    /// From what the workers were made before that.
    pub(super) former: Option<MadeOf>,
    /// How many workers have been replaced, and are to be.
    pub(super) replaced: u32,
    pub(super) workers: u32,
    /// Why it has failed; then it only has workers leave that it must not leave behind.
    pub(super) failure: Option<LeverError>,
}

/// What is done with a worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Step {
    pub(super) worker: u32,
    pub(super) kind: Kind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Start,
    Renew,
    Leave,
}

/// A step that has begun, of one post of the worker.
#[derive(Debug)]
pub(super) struct Active {
    pub(super) step: Step,
    pub(super) post: usize,
    /// How often its post had been launched when the step began, and how often it had failed to start.
    pub(super) launches: u64,
    pub(super) failures: u64,
    /// For how long its unit has been leaving.
    pub(super) leaving: Duration,
    /// From what the unit was made before.
    pub(super) former: Option<MadeOf>,
}

/// From what a post's units are made, as far as that can be replaced.
#[derive(Debug, Clone)]
pub(super) struct MadeOf {
    /// `None`: of a thread.
    pub(super) program: Option<Program>,
    pub(super) config: Option<(Arc<Vec<u8>>, Arc<File>)>,
}
