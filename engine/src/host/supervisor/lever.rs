//! What a thread wants of the supervisor, as data.

use crate::error::LeverError;
use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::Sender;

/// What the supervisor is to do with a node's workers.
#[derive(Debug, Clone)]
pub(crate) enum Lever {
    /// Have a worker leave in order, and start its successor.
    Restart { worker: u32 },
    /// Kill a worker's process.
    Kill { worker: u32 },
    /// Have this many workers.
    Scale { workers: u32 },
    /// Replace the workers one by one.
    Replace(Renewal),
}

/// From what new workers are made; what is `None` stays as it is.
#[derive(Debug, Clone, Default)]
pub(crate) struct Renewal {
    /// `None`: the file that is now at the path of the present executable.
    pub(crate) program: Option<PathBuf>,
    pub(crate) config: Option<Config>,
}

/// A configuration, for threads and for processes.
#[derive(Debug, Clone)]
pub(crate) struct Config {
    pub(crate) bytes: Arc<Vec<u8>>,
    pub(crate) file: Arc<File>,
}

/// What a thread wants, and where it waits for the answer.
#[derive(Debug)]
pub(super) struct Pull {
    pub(super) node: u32,
    pub(super) lever: Lever,
    pub(super) answer: Sender<Result<(), LeverError>>,
}
