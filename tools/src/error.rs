//! Why there is no report.

use ringmill_shm::segment::NameError;
use ringmill_shm::text::shown_path;
use std::io;
use std::path::PathBuf;

/// Why a command could not do its work.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum ToolError {
    /// No segment can have this name.
    #[error(transparent)]
    Name(#[from] NameError),
    /// There is nothing at the place.
    #[error("no segment {name:?}: there is no {}; 'shmtool list' shows what there is", shown_path(path))]
    Missing {
        /// What was asked for.
        name: String,
        /// Where it would lie.
        path: PathBuf,
    },
    /// There is something that is no segment.
    #[error("{} is not a ringmill segment: {why}", shown_path(path))]
    Foreign {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// It may be a segment, but it cannot be read.
    #[error("cannot look into {}: {why}", shown_path(path))]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What stands in the way.
        why: String,
    },
    /// The operating system refused.
    #[error("cannot {what} {}: {error}", shown_path(path))]
    System {
        /// What was tried.
        what: &'static str,
        /// On which file.
        path: PathBuf,
        /// What it said.
        error: io::Error,
    },
    /// The report could not be written.
    #[error("cannot write to standard output: {0}")]
    Output(io::Error),
    /// The report could not be turned into JSON.
    #[error("cannot write JSON: {0}")]
    Json(serde_json::Error),
}
