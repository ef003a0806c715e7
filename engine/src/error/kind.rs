//! Kinds of errors: what a service does about an error.

use super::{CallError, Member, RemoteCause};
use std::fmt;

/// What a service does about a [`CallError`]: few kinds, so that a match over them is short, and new errors get one of
/// them.
///
/// | Kind | Errors | HTTP | gRPC | What to do |
/// |---|---|---|---|---|
/// | `Rejected` | [`ServerBacklogFull`](CallError::ServerBacklogFull), [`PoolExhausted`](CallError::PoolExhausted), [`NoMemory`](CallError::NoMemory) | 429 | `RESOURCE_EXHAUSTED` (8) | send it later, or elsewhere |
/// | `Timeout` | [`Timeout`](CallError::Timeout); a [deadline](RemoteCause::DeadlineExceeded) that passed | 504 | `DEADLINE_EXCEEDED` (4) | tell the client |
/// | `Invalid` | [`PayloadTooLarge`](CallError::PayloadTooLarge) (413), [`Serialise`](CallError::Serialise), [`Refused`](CallError::Refused), [`ForeignLoan`](CallError::ForeignLoan), [`NoPartials`](CallError::NoPartials); an input [too deep](RemoteCause::TooDeep); what a worker says to be [`invalid`](crate::BoxError::invalid) | 400 | `INVALID_ARGUMENT` (3) | do not send it again |
/// | `Worker` | [`WorkerDied`](CallError::WorkerDied), [`WrongPartial`](CallError::WrongPartial), and what user code made: other errors, panics, outcomes that are missing or too large | 500 | `UNKNOWN` (2) | look at the worker; send it again only if running twice does no harm |
/// | `Unavailable` | [`ServletDown`](CallError::ServletDown), [`ServletDrained`](CallError::ServletDrained), [`ShuttingDown`](CallError::ShuttingDown), [`ServerGone`](CallError::ServerGone) | 503 | `UNAVAILABLE` (14) | send it later, or elsewhere |
/// | `Internal` | [`Forked`](CallError::Forked), [`NoReactor`](CallError::NoReactor), [`Corrupt`](CallError::Corrupt) | 500 | `INTERNAL` (13) | look at this process |
///
/// An ensemble's error has the kind of its members' errors if they are all of one, else `Worker`.
///
/// ```
/// use ringmill::CallError;
/// use ringmill::error::ErrorKind;
///
/// fn http_status(error: &CallError) -> u16 {
///     match error.kind() {
///         ErrorKind::Rejected => 429,
///         ErrorKind::Timeout => 504,
///         ErrorKind::Invalid if matches!(error, CallError::PayloadTooLarge { .. }) => 413,
///         ErrorKind::Invalid => 400,
///         ErrorKind::Unavailable => 503,
///         _ => 500,
///     }
/// }
/// assert_eq!(http_status(&CallError::ShuttingDown), 503);
/// assert_eq!(http_status(&CallError::PayloadTooLarge { bytes: 2_000_000, largest: 1_000_000 }), 413);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The server has too much to do, and did not take the request.
    Rejected,
    /// The outcome did not come in time.
    Timeout,
    /// The request can never succeed as it is.
    Invalid,
    /// User code failed, or died, while it worked on the request.
    Worker,
    /// The server, or a servlet on the request's way, is not there.
    Unavailable,
    /// Something in this process or in the segment is broken.
    Internal,
}

impl ErrorKind {
    /// The kind's name: lower case, for logs and for a metric's label.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Rejected => "rejected",
            Self::Timeout => "timeout",
            Self::Invalid => "invalid",
            Self::Worker => "worker",
            Self::Unavailable => "unavailable",
            Self::Internal => "internal",
        }
    }
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl CallError {
    /// What kind of error it is.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::ServerBacklogFull { .. } | Self::PoolExhausted { .. } | Self::NoMemory { .. } => {
                ErrorKind::Rejected
            }
            Self::Timeout { .. } => ErrorKind::Timeout,
            Self::PayloadTooLarge { .. }
            | Self::Serialise { .. }
            | Self::Refused(_)
            | Self::ForeignLoan
            | Self::NoPartials => ErrorKind::Invalid,
            Self::WrongPartial { .. } => ErrorKind::Worker,
            Self::Remote(error) | Self::WorkerDied(error) => error.cause.kind(),
            Self::Ensemble(error) => kind_of(&error.members),
            Self::ServletDown { .. }
            | Self::ServletDrained { .. }
            | Self::ShuttingDown
            | Self::ServerGone { .. } => ErrorKind::Unavailable,
            Self::Forked { .. } | Self::NoReactor { .. } | Self::Corrupt { .. } => ErrorKind::Internal,
        }
    }

    /// Whether a retry, later or at another server, may succeed because this one found no room or no worker: kinds
    /// [`Rejected`](ErrorKind::Rejected) and [`Unavailable`](ErrorKind::Unavailable), but not of an ensemble, some of
    /// whose members have worked on the request.
    ///
    /// In a server of one servlet no user code has seen such a request, so a retry does nothing twice; in a pipeline,
    /// the servlets before the one that is down may have seen it. A request whose worker died may have had effects, and
    /// is not retryable in this sense: if running it twice does no harm, give the servlet
    /// [`OnDeath::Retry`](crate::OnDeath::Retry), or send it again yourself.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        // Members of an ensemble have seen the request, whatever the failed member's error says; a worker of a server that
        // is gone may have.
        !matches!(self, Self::Ensemble(_) | Self::Remote(_) | Self::WorkerDied(_) | Self::ServerGone { .. })
            && matches!(self.kind(), ErrorKind::Rejected | ErrorKind::Unavailable)
    }
}

impl RemoteCause {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::DeadlineExceeded { .. } => ErrorKind::Timeout,
            Self::TooDeep { .. } | Self::Failed { invalid: true, .. } => ErrorKind::Invalid,
            Self::Down { .. } | Self::ShutDown | Self::Drained => ErrorKind::Unavailable,
            Self::Ensemble { members } => kind_of(members),
            Self::Failed { .. }
            | Self::Panicked { .. }
            | Self::Unanswered
            | Self::OutcomeCount { .. }
            | Self::OutcomeTooLarge { .. }
            | Self::PoolExhausted { .. }
            | Self::NoMemory { .. }
            | Self::TermsNotLeft
            | Self::Terms { .. }
            | Self::Payload { .. }
            | Self::Died { .. }
            | Self::Overran { .. }
            | Self::KilledByShutdown { .. }
            | Self::Poisonous { .. }
            | Self::NoSuchMember { .. } => ErrorKind::Worker,
        }
    }
}

/// The kind of an ensemble's error.
fn kind_of(members: &[Member]) -> ErrorKind {
    let mut kinds = members.iter().filter_map(|member| Some(member.outcome.error()?.cause.kind()));
    match kinds.next() {
        Some(first) if kinds.all(|kind| kind == first) => first,
        _ => ErrorKind::Worker,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::{EnsembleError, MemberOutcome, RemoteError};

    fn remote(cause: RemoteCause) -> RemoteError {
        RemoteError { servlet: "s".into(), worker: 0, pid: 1, attempt: 0, cause }
    }

    fn ensemble(causes: Vec<RemoteCause>) -> CallError {
        let failed = |cause| MemberOutcome::Failed { error: remote(cause) };
        let members = causes.into_iter().map(|cause| Member { name: "m".into(), outcome: failed(cause) });
        CallError::Ensemble(Box::new(EnsembleError { servlet: "e".into(), members: members.collect() }))
    }

    #[test]
    fn an_error_of_a_worker_has_the_kind_of_its_cause() {
        let kind = |cause| CallError::remote(remote(cause)).kind();
        assert_eq!(kind(RemoteCause::Unanswered), ErrorKind::Worker);
        assert_eq!(
            kind(RemoteCause::Died { signal: Some(9), code: None, restarting: true }),
            ErrorKind::Worker
        );
        assert_eq!(kind(RemoteCause::DeadlineExceeded { late_ns: 1 }), ErrorKind::Timeout);
        assert_eq!(kind(RemoteCause::TooDeep { type_name: "T".into(), limit: 128 }), ErrorKind::Invalid);
        assert_eq!(kind(RemoteCause::Down { reason: String::new() }), ErrorKind::Unavailable);
        assert_eq!(kind(RemoteCause::ShutDown), ErrorKind::Unavailable);
    }

    #[test]
    fn members_that_agree_give_an_ensemble_its_kind() {
        let down = || RemoteCause::Down { reason: String::new() };
        assert_eq!(ensemble(vec![down(), down()]).kind(), ErrorKind::Unavailable);
        assert_eq!(ensemble(vec![down(), RemoteCause::Unanswered]).kind(), ErrorKind::Worker);
        assert_eq!(ensemble(vec![]).kind(), ErrorKind::Worker);
    }

    #[test]
    fn a_request_that_a_worker_may_have_begun_is_not_retryable() {
        let died = RemoteCause::Died { signal: Some(9), code: None, restarting: true };
        let down = RemoteCause::Down { reason: String::new() };
        let full = CallError::ServerBacklogFull { capacity: 1, waited: std::time::Duration::ZERO };
        assert!(full.is_retryable() && CallError::ShuttingDown.is_retryable());
        assert!(CallError::PoolExhausted { bytes: 1 }.is_retryable());
        assert!(CallError::remote(remote(down.clone())).is_retryable());
        assert!(!ensemble(vec![down]).is_retryable());
        assert!(!CallError::remote(remote(died)).is_retryable());
        assert!(!CallError::remote(remote(RemoteCause::PoolExhausted { bytes: 1 })).is_retryable());
        assert!(!CallError::ForeignLoan.is_retryable());
    }
}
