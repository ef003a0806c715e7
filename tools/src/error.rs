//! Why a command has no report.

use crate::output::Verdict;
use ringmill_shm::segment::{AskError, NameError};
use ringmill_shm::text::shown_path;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

impl ToolError {
    /// The exit status.
    pub(crate) fn verdict(&self) -> Verdict {
        match self {
            Self::Lever { error, .. } if error.may_be_done() => Verdict::Unclear,
            _ => Verdict::Failed,
        }
    }
}

/// Why a command could not do its work.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum ToolError {
    /// No segment can have this name.
    #[error(transparent)]
    Name(#[from] NameError),
    /// The segment's file does not exist.
    #[error("no segment {name:?}: there is no {}; 'shmtool list' shows all segments", shown_path(path))]
    Missing {
        /// The argument.
        name: String,
        /// The file that it would have.
        path: PathBuf,
    },
    /// The process does not have the anonymous segment.
    #[error(
        "no anonymous segment {label:?} in process {process}, as far as this user may look; 'shmtool list' shows all segments"
    )]
    NotHeld {
        /// Its label.
        label: String,
        /// The process.
        process: u32,
    },
    /// The address of an anonymous segment fits several.
    #[error("{0}")]
    Several(String),
    /// The file is no segment.
    #[error("{} is not a ringmill segment: {why}", shown_path(path))]
    Foreign {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// It may be a segment, but it cannot be read.
    #[error("cannot read {}: {why}", shown_path(path))]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// The plan has no servlet of this name.
    #[error("no servlet {servlet:?}; the plan has: {all}")]
    NoServlet {
        /// The argument.
        servlet: String,
        /// The names of those that it has.
        all: String,
    },
    /// The operating system refused.
    #[error("cannot {what} {}: {error}", shown_path(path))]
    System {
        /// What the tool tried.
        what: &'static str,
        /// On which file.
        path: PathBuf,
        /// The system's error.
        error: io::Error,
    },
    /// The tool does not write there.
    #[error("cannot write {}: {why}", shown_path(path))]
    NotWritten {
        /// The file.
        path: PathBuf,
        /// Why.
        why: &'static str,
    },
    /// A server that does nothing any more.
    #[error(
        "the server of {name} has died, so nothing happens any more; 'shmtool stats {name}' shows what it had done"
    )]
    Dead {
        /// The segment.
        name: String,
    },
    /// Any machine of the network could read the metrics.
    #[error(
        "{0} is no loopback address: other machines could read what is there; --beyond-loopback allows it"
    )]
    NotLoopback(SocketAddr),
    /// `stats --listen` cannot listen there.
    #[error("cannot listen on {address}: {error}")]
    Listen {
        /// The argument.
        address: SocketAddr,
        /// The system's error.
        error: io::Error,
    },
    /// The file is no record.
    #[error("{} is no record of shmtool: line {line}: {why}", shown_path(path))]
    NoRecord {
        /// The file.
        path: PathBuf,
        /// Which line.
        line: u64,
        /// What is wrong with it.
        why: String,
    },
    /// The system does not let signals be caught.
    #[error("cannot catch signals: {0}")]
    Signals(io::Error),
    /// `bench` can drive only a server of its own.
    #[cfg(feature = "bench")]
    #[error(
        "cannot send requests to {0:?}: only the process of a server can call it so far; 'shmtool bench --demo' drives a server of its \
         own, and 'shmtool record {0} -o FILE' records what another one does"
    )]
    NoClient(String),
    /// The server of `bench --demo` did not start.
    #[cfg(feature = "bench")]
    #[error("cannot start the demo: {0}")]
    Demo(String),
    /// A lever of a server that does not live.
    #[error("{name} has no server that could do it: {why}")]
    NotLive {
        /// The segment.
        name: String,
        /// Why.
        why: String,
    },
    /// A lever that no one has confirmed.
    #[error("not done: there is no terminal to ask at; say --yes")]
    Unconfirmed,
    /// The server was not asked, or has not answered.
    #[error("{name}: {error}")]
    Lever {
        /// The segment.
        name: String,
        /// Why.
        error: AskError,
    },
    /// `top` has no screen to draw on.
    #[error("no screen for top: {0}; 'shmtool stats --interval 1s NAME' needs none")]
    NoScreen(String),
    /// The terminal refused.
    #[error("cannot use the terminal: {0}")]
    Terminal(io::Error),
    /// The report could not be written.
    #[error("cannot write to standard output: {0}")]
    Output(io::Error),
    /// The report could not be turned into JSON.
    #[error("cannot write JSON: {0}")]
    Json(serde_json::Error),
}
