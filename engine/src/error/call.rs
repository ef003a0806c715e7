//! Why a request has no outcome.

use super::remote::are_of_deadline;
use super::{BoxError, EnsembleError, RemoteCause, RemoteError};
use crate::text::{OneLine, one_line};
use crate::wire::{EncodeError, PayloadError, ReadError};
use ringmill_shm::pool::PoolError;
use rkyv::rancor::Source;
use std::time::{Duration, Instant};

/// Why a request has no outcome.
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum CallError {
    /// As many requests as the server's capacity are in progress.
    #[error("all permits of the server ({capacity}) are in use{}: call less often, or start it with a larger capacity", waited_text(.waited))]
    ServerBacklogFull {
        /// How many can be in progress.
        capacity: u32,
        /// How long the call waited for a permit; zero if it was not to wait.
        waited: Duration,
    },
    /// The outcome did not come within the timeout, or before the deadline. If no worker has begun the request, it is
    /// dropped.
    #[error("no outcome within {:.3} s ({:.3} s of it waiting for a permit)", total.as_secs_f64(), enqueueing.as_secs_f64())]
    Timeout {
        /// How long the call waited for a permit.
        enqueueing: Duration,
        /// How long the call took in all.
        total: Duration,
    },
    /// The input is larger than the largest class of payload blocks.
    #[error(
        "the input has {bytes} bytes, the largest payload class {largest}: raise max_payload, or send less"
    )]
    PayloadTooLarge {
        /// Its size in bytes.
        bytes: u64,
        /// The largest possible.
        largest: u64,
    },
    /// All payload blocks that are large enough are in use.
    #[error(
        "all payload blocks of at least {bytes} bytes are in use: call less often, or give the server more of them"
    )]
    PoolExhausted {
        /// The input's size in bytes.
        bytes: u64,
    },
    /// The system has no memory for a payload block that was never used before, and the others that are large enough are in
    /// use. [`Reserve::Everything`](crate::Reserve) has all of them from the start.
    #[error(
        "the system has no memory for a payload block of {bytes} bytes ({}): call less often, or give the server's file system and its control group more memory",
        std::io::Error::from_raw_os_error(*error)
    )]
    NoMemory {
        /// The input's size in bytes.
        bytes: u64,
        /// What the system said: a number as `ENOSPC`.
        error: i32,
    },
    /// The input could not be serialised.
    #[error("the input cannot be serialised: {error}")]
    Serialise {
        /// Why.
        error: PayloadError,
    },
    /// A worker answered with an error.
    #[error(transparent)]
    Remote(Box<RemoteError>),
    /// Members of an ensemble failed.
    #[error(transparent)]
    Ensemble(Box<EnsembleError>),
    /// The worker's process died while it worked on this request, which may have had effects. Of a request that was
    /// retried, the last death.
    #[error(transparent)]
    WorkerDied(Box<RemoteError>),
    /// The servlet has no workers left, and none is about to start.
    #[error("servlet {} is down: {}", OneLine(servlet), if reason.is_empty() { "no worker is left".into() } else { one_line(reason) })]
    ServletDown {
        /// The servlet's name.
        servlet: String,
        /// Why.
        reason: String,
    },
    /// The servlet is [drained](crate::Server::drain_servlet): it takes no requests until it is
    /// [resumed](crate::Server::resume_servlet).
    #[error("servlet {} is drained: it takes no requests until it is resumed", OneLine(servlet))]
    ServletDrained {
        /// The servlet's name.
        servlet: String,
    },
    /// The server is shutting down.
    #[error("the server is shutting down")]
    ShuttingDown,
    /// The server of this [client](crate::Client) is gone, and has not shut down in order: its process has died, or runs
    /// another program. A worker may have begun the request.
    #[error("the server (process {server_pid}) is gone: connect to its successor")]
    ServerGone {
        /// The server's process.
        server_pid: u32,
    },
    /// This process was forked from that of the server, or of the client. What it inherited works in its own process alone.
    #[error("{}", forked_text(*server_pid, *pid))]
    Forked {
        /// The server's process, or the client's.
        server_pid: u32,
        /// This one.
        pid: u32,
    },
    /// The thread that wakes futures could not be started.
    #[error("cannot start the thread that wakes futures: {error}")]
    NoReactor {
        /// What the operating system said.
        error: std::io::Error,
    },
    /// The stream's `prepare` refused this input, or panicked, so it was not sent.
    #[error("the input was refused: {0}")]
    Refused(BoxError),
    /// The loan is of another server.
    #[error("the loan was lent by another server: send it to that one")]
    ForeignLoan,
    /// The server has no room for partials.
    #[error("the server gives its callers no partials: start it with partials(n)")]
    NoPartials,
    /// The worker emitted a partial of another type; it was skipped.
    #[error("the worker emitted a partial that is no {expected}: it was skipped")]
    WrongPartial {
        /// The type that the call takes.
        expected: &'static str,
    },
    /// The bytes of the outcome are not a valid value, or the segment is corrupted; in that case the request may not have been
    /// sent ([`ReadError::Unsent`]).
    #[error("{}: {error}", if matches!(error, ReadError::Unsent(_)) { "the request was not sent" } else { "the outcome cannot be read" })]
    Corrupt {
        /// Why.
        error: ReadError,
    },
}

/// The text of [`CallError::Forked`], for messages that are not a [`CallError`] too.
pub(crate) fn forked_text(server_pid: u32, pid: u32) -> String {
    format!(
        "the server, or its client, belongs to process {server_pid}, and this is process {pid}, forked from it: start a \
         server in this process, connect a client of its own, or exec a program"
    )
}

fn waited_text(waited: &Duration) -> String {
    if waited.is_zero() { String::new() } else { format!(" (waited {:.3} s)", waited.as_secs_f64()) }
}

impl CallError {
    pub(crate) fn remote(error: RemoteError) -> Self {
        match error.cause {
            RemoteCause::Died { .. }
            | RemoteCause::Overran { .. }
            | RemoteCause::KilledByShutdown { .. }
            | RemoteCause::Poisonous { .. } => Self::WorkerDied(Box::new(error)),
            RemoteCause::Down { reason } => Self::ServletDown { servlet: error.servlet, reason },
            RemoteCause::ShutDown => Self::ShuttingDown,
            RemoteCause::Drained => Self::ServletDrained { servlet: error.servlet },
            RemoteCause::Ensemble { members } => {
                Self::Ensemble(Box::new(EnsembleError { servlet: error.servlet, members }))
            }
            _ => Self::Remote(Box::new(error)),
        }
    }

    /// The error for a caller that knows when its call began: an error that says that the deadline has passed becomes a
    /// [`Timeout`](Self::Timeout).
    pub(crate) fn clocked(self, begun: Instant, enqueueing: Duration) -> Self {
        let late = match &self {
            Self::Remote(error) => error.cause.is_of_deadline(),
            Self::Ensemble(error) => are_of_deadline(&error.members),
            _ => false,
        };
        if late { Self::Timeout { enqueueing, total: begun.elapsed() } } else { self }
    }

    /// What happened on the worker's side, if anything did.
    #[must_use]
    pub fn remote_error(&self) -> Option<&RemoteError> {
        match self {
            Self::Remote(error) | Self::WorkerDied(error) => Some(error),
            _ => None,
        }
    }
}

impl From<EncodeError> for CallError {
    fn from(error: EncodeError) -> Self {
        match error {
            EncodeError::Pool(PoolError::TooLarge { bytes, largest }) => {
                Self::PayloadTooLarge { bytes, largest }
            }
            EncodeError::Pool(PoolError::Exhausted { bytes }) => Self::PoolExhausted { bytes },
            EncodeError::Pool(PoolError::NoMemory { bytes, error }) => Self::NoMemory { bytes, error },
            EncodeError::Serialise(error) => Self::Serialise { error },
            unsteady @ EncodeError::Unsteady { .. } => Self::Serialise { error: PayloadError::new(unsteady) },
        }
    }
}

impl From<EncodeError> for RemoteCause {
    fn from(error: EncodeError) -> Self {
        match error {
            EncodeError::Pool(PoolError::TooLarge { bytes, largest }) => {
                Self::OutcomeTooLarge { bytes, largest }
            }
            EncodeError::Pool(PoolError::Exhausted { bytes }) => Self::PoolExhausted { bytes },
            EncodeError::Pool(PoolError::NoMemory { bytes, error }) => Self::NoMemory { bytes, error },
            other => Self::Payload { message: format!("the outcome cannot be serialised: {other}") },
        }
    }
}

impl From<ReadError> for RemoteCause {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::TooDeep { type_name, limit } => {
                Self::TooDeep { type_name: type_name.into(), limit: limit as u32 }
            }
            other => Self::Payload { message: other.to_string() },
        }
    }
}

impl From<ReadError> for CallError {
    fn from(error: ReadError) -> Self {
        Self::Corrupt { error }
    }
}

/// Why a server is not [drained](crate::Server::drain).
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DrainError {
    /// Requests were still in progress when the timeout was over.
    #[error("{left} requests are still in progress after {:.3} s; they go on, and shutdown ends them", limit.as_secs_f64())]
    InProgress {
        /// How many.
        left: usize,
        /// The timeout.
        limit: Duration,
    },
    /// As [`CallError::Forked`].
    #[error("{}", forked_text(*server_pid, *pid))]
    Forked {
        /// The server's process.
        server_pid: u32,
        /// This one.
        pid: u32,
    },
}

#[cfg(test)]
mod tests {
    use super::*;
    use ringmill_shm::ring::Overrun;

    /// Symptom: a request that was never sent failed with "the outcome cannot be read".
    #[test]
    fn a_request_that_was_not_sent_says_so() {
        let text = |error: ReadError| CallError::from(error).to_string();
        let unsent = text(Overrun.into());
        assert!(unsent.starts_with("the request was not sent: the ring has no free cell"), "{unsent}");
        let corrupt = ringmill_shm::arena::Corrupt { task: 1, bytes: 2, block: 3 };
        assert!(text(corrupt.into()).starts_with("the outcome cannot be read: task 1"));
    }
}
