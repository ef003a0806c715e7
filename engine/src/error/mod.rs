//! Everything that can go wrong, as values: one enum for starting a server, one for a request, the record of an
//! error that happened in a worker, and the error of user code.
//!
//! # Sources
//!
//! An error prints all of itself on one line: what failed, on what, why, and the way out. So `source()` returns nothing
//! that is printed already, as that of a [`std::io::Error`] with an error inside does not, and a report that prints an
//! error with its sources says everything once. Where the operating system refused, its error is the field `error` of
//! the variant.

//! # Debug
//!
//! `unwrap`, and a `main` that returns an error, print its `Debug` form to people who have to act on it: of a
//! [`StartError`], a [`ConnectError`] and a [`CallError`] that is what `Display` prints.

mod become_worker;
pub(crate) mod boot;
mod boxed;
mod call;
mod connect;
mod kind;
mod lever;
mod memory;
mod ready;
mod remote;
mod start;

pub use become_worker::BecomeError;
pub use boxed::BoxError;
pub(crate) use boxed::while_built;
pub(crate) use call::forked_text;
pub use call::{CallError, DrainError};
pub use connect::ConnectError;
pub use kind::ErrorKind;
pub use lever::LeverError;
pub use memory::MemoryError;
pub use ready::NotReady;
pub use remote::{EnsembleError, FailureDetails, Member, MemberOutcome, RemoteCause, RemoteError};
pub use start::StartError;

pub(crate) use start::{JoinError, NOT_A_WORKER, STOPPED_BY_ERROR};

macro_rules! debug_as_display {
    ($($error:ident)*) => {
        $(impl std::fmt::Debug for $error {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                std::fmt::Display::fmt(self, f)
            }
        })*
    };
}
debug_as_display!(BecomeError CallError ConnectError LeverError StartError);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{EncodeError, PayloadError, ReadError};
    use ringmill_shm::pool::PoolError;
    use ringmill_shm::segment::{AttachError, CreateError};
    use ringmill_shm::sys::build_id::BuildId;
    use ringmill_shm::text::is_unruly;
    use rkyv::rancor::{Source, Trace};
    use std::error::Error;
    use std::io;
    use std::path::PathBuf;
    use std::time::Duration;

    const RUDE: &str = "two\nlines \x1b[31mand red\u{202e}";

    /// The text of `system()`.
    const REASON: &str = "Resource temporarily unavailable";

    fn system() -> io::Error {
        io::Error::from_raw_os_error(libc::EAGAIN)
    }

    fn path() -> PathBuf {
        "/dev/shm/a\x1bb\n".into()
    }

    fn remote(cause: RemoteCause) -> RemoteError {
        RemoteError { servlet: RUDE.into(), worker: 1, pid: 2, attempt: 1, cause }
    }

    /// The error prints one line for a log or a terminal, with the reason in it, once.
    #[track_caller]
    fn assert_is_told(error: &dyn Error) {
        let text = error.to_string();
        assert!(!text.trim().is_empty() && text.len() < 1000, "{text:?}");
        assert!(!text.contains(is_unruly), "{text:?}");
        assert!(error.source().is_none(), "{text:?} says all there is");
        assert_eq!(text.contains(REASON), format!("{error:?}").contains(REASON), "{text:?}");
    }

    /// One of each variant. With a new variant the `match` below does not compile: add it to both.
    fn causes() -> Vec<RemoteCause> {
        let failed = remote(RemoteCause::Unanswered);
        let members = vec![
            Member { name: RUDE.into(), outcome: MemberOutcome::Failed { error: failed } },
            Member { name: "b".into(), outcome: MemberOutcome::Value { payload: None } },
            Member { name: "c".into(), outcome: MemberOutcome::Unfinished },
        ];
        let (text, signal, code) = (|| RUDE.to_string(), Some(9), Some(3));
        let causes = vec![
            RemoteCause::Failed {
                invalid: false,
                type_name: text(),
                messages: vec![text(), text()],
                details: Some(Box::new(FailureDetails {
                    backtrace: Some(text()),
                    attachment: Some(vec![0; 9]),
                })),
            },
            RemoteCause::Panicked { message: text(), backtrace: None },
            RemoteCause::Unanswered,
            RemoteCause::OutcomeCount { items: 1, outcomes: 2 },
            RemoteCause::OutcomeTooLarge { bytes: 2, largest: 1 },
            RemoteCause::PoolExhausted { bytes: 2 },
            RemoteCause::NoMemory { bytes: 2, error: 28 },
            RemoteCause::Payload { message: text() },
            RemoteCause::TermsNotLeft,
            RemoteCause::Terms { what: text(), value: 9, least: 1, most: 8 },
            RemoteCause::TooDeep { type_name: text(), limit: 128 },
            RemoteCause::Died { signal, code: None, restarting: true },
            RemoteCause::Died { signal: None, code, restarting: false },
            RemoteCause::Overran { limit_ns: 1, restarting: true },
            RemoteCause::KilledByShutdown { limit_ns: Some(1) },
            RemoteCause::KilledByShutdown { limit_ns: None },
            RemoteCause::Poisonous { deaths: 3, signal: None, code },
            RemoteCause::Down { reason: text() },
            RemoteCause::Down { reason: String::new() },
            RemoteCause::ShutDown,
            RemoteCause::Drained,
            RemoteCause::DeadlineExceeded { late_ns: 1 },
            RemoteCause::NoSuchMember { index: 2, members: 2 },
            RemoteCause::Ensemble { members },
        ];
        for cause in &causes {
            match cause {
                RemoteCause::Failed { .. } | RemoteCause::Panicked { .. } | RemoteCause::Unanswered => {}
                RemoteCause::OutcomeCount { .. } | RemoteCause::OutcomeTooLarge { .. } => {}
                RemoteCause::PoolExhausted { .. } | RemoteCause::NoMemory { .. } => {}
                RemoteCause::Payload { .. } | RemoteCause::TooDeep { .. } | RemoteCause::Died { .. } => {}
                RemoteCause::Overran { .. } | RemoteCause::Poisonous { .. } | RemoteCause::Down { .. } => {}
                RemoteCause::KilledByShutdown { .. } => {}
                RemoteCause::TermsNotLeft | RemoteCause::Terms { .. } => {}
                RemoteCause::ShutDown | RemoteCause::Drained | RemoteCause::DeadlineExceeded { .. } => {}
                RemoteCause::NoSuchMember { .. } | RemoteCause::Ensemble { .. } => {}
            }
        }
        causes
    }

    #[test]
    fn every_remote_error_is_one_line() {
        for cause in causes() {
            let error = remote(cause);
            assert_is_told(&error);
            assert_is_told(&CallError::remote(error.clone()));
            assert_is_told(&StartError::Worker(Box::new(error)));
        }
    }

    #[test]
    fn every_lever_error_is_one_line() {
        let (text, limit) = (|| RUDE.to_string(), Duration::from_secs(1));
        let errors = [
            LeverError::NoSuchServlet { servlet: text(), known: vec![text(), text()] },
            LeverError::Range { servlet: text(), what: "number of workers", value: 9, least: 1, most: 8 },
            LeverError::InThreads { servlet: text(), what: "no thread can be killed" },
            LeverError::NotStarted { servlet: text(), worker: 1, reason: text() },
            LeverError::NotReplaced { servlet: text(), worker: 1, reason: text(), replaced: 1, workers: 2 },
            LeverError::Stuck { servlet: text(), worker: 1, limit },
            LeverError::OtherWorker { servlet: text(), expected: text(), given: text() },
            LeverError::from(StartError::Config { servlet: "w".into(), message: text() }),
            LeverError::NotEmpty { servlet: text(), left: 1, limit },
            LeverError::Resumed { servlet: text() },
            LeverError::ShuttingDown,
            LeverError::Within,
            LeverError::Forked { server_pid: 1, pid: 2 },
        ];
        for error in &errors {
            assert_is_told(error);
            match error {
                LeverError::NoSuchServlet { .. }
                | LeverError::Range { .. }
                | LeverError::InThreads { .. } => {}
                LeverError::NotStarted { .. } | LeverError::NotReplaced { .. } | LeverError::Stuck { .. } => {
                }
                LeverError::OtherWorker { .. } | LeverError::Unusable(_) | LeverError::NotEmpty { .. } => {}
                LeverError::Resumed { .. } | LeverError::ShuttingDown => {}
                LeverError::Within | LeverError::Forked { .. } => {}
            }
        }
    }

    #[test]
    fn every_reason_not_to_be_ready_is_one_line() {
        let text = || RUDE.to_string();
        let errors = [
            NotReady::ShuttingDown { server: text() },
            NotReady::Drained { servlet: text() },
            NotReady::NoWorker { servlet: text(), reason: text() },
            NotReady::Forked { server_pid: 1, pid: 2 },
        ];
        for error in &errors {
            assert_is_told(error);
            match error {
                NotReady::ShuttingDown { .. } | NotReady::Drained { .. } | NotReady::NoWorker { .. } => {}
                NotReady::Forked { .. } => {}
            }
        }
    }

    #[test]
    fn every_call_error_is_one_line() {
        let (text, second) = (|| RUDE.to_string(), Duration::from_secs(1));
        let errors = [
            CallError::ServerBacklogFull { capacity: 1, waited: second },
            CallError::ServerBacklogFull { capacity: 1, waited: Duration::ZERO },
            CallError::Timeout { enqueueing: second, total: second },
            CallError::PayloadTooLarge { bytes: 2, largest: 1 },
            CallError::PoolExhausted { bytes: 2 },
            CallError::NoMemory { bytes: 2, error: 28 },
            CallError::Serialise { error: PayloadError::new(system()) },
            CallError::ServletDown { servlet: text(), reason: text() },
            CallError::ServletDown { servlet: text(), reason: String::new() },
            CallError::ServletDrained { servlet: text() },
            CallError::ShuttingDown,
            CallError::ServerGone { server_pid: 1 },
            CallError::NoReactor { error: system() },
            CallError::Refused(BoxError::msg(RUDE)),
            CallError::ForeignLoan,
            CallError::NoPartials,
            CallError::WrongPartial { expected: "T" },
            CallError::Forked { server_pid: 1, pid: 2 },
            CallError::Corrupt { error: ReadError::new("T", PayloadError::new(system())) },
            ReadError::Refused(PayloadError::new(system())).into(),
            ReadError::from(ringmill_shm::ring::Overrun).into(),
        ];
        for error in &errors {
            assert_is_told(error);
            match error {
                CallError::ServerBacklogFull { .. } | CallError::Timeout { .. } => {}
                CallError::PayloadTooLarge { .. } => {}
                CallError::PoolExhausted { .. } | CallError::NoMemory { .. } => {}
                CallError::Serialise { .. } | CallError::ServletDown { .. } | CallError::ShuttingDown => {}
                CallError::ServletDrained { .. } | CallError::ServerGone { .. } => {}
                CallError::NoReactor { .. } | CallError::Refused(_) | CallError::ForeignLoan => {}
                CallError::NoPartials | CallError::WrongPartial { .. } => {}
                CallError::Corrupt { .. } | CallError::Forked { .. } => {}
                // Above, of every cause.
                CallError::Remote(_) | CallError::Ensemble(_) | CallError::WorkerDied(_) => {}
            }
        }
        let pool = EncodeError::from(PoolError::TooLarge { bytes: 2, largest: 1 });
        for error in [pool, EncodeError::Unsteady { first: 1, second: 2 }] {
            assert_is_told(&error);
            assert_is_told(&remote(error.into()));
        }
        let drained =
            [DrainError::InProgress { left: 1, limit: second }, DrainError::Forked { server_pid: 1, pid: 2 }];
        for error in &drained {
            assert_is_told(error);
            match error {
                DrainError::InProgress { .. } | DrainError::Forked { .. } => {}
            }
        }
    }

    #[test]
    fn every_connect_error_is_one_line() {
        let address = || "s".to_string();
        let name = ringmill_shm::segment::Location::named("a\nb").expect_err("no name");
        let types = ("T", "U");
        let errors = [
            ConnectError::Address(name),
            ConnectError::NoServer { address: address() },
            ConnectError::Segment(AttachError::System { what: "map", path: path(), error: system() }),
            ConnectError::Types {
                address: address(),
                input: "I".into(),
                outcome: "O".into(),
                client_input: types.0,
                client_outcome: types.1,
            },
            ConnectError::TypeLayout { address: address(), input: types.0, outcome: types.1 },
            ConnectError::NoClients { address: address() },
            ConnectError::Full { address: address(), most: 3 },
            ConnectError::ShuttingDown { address: address() },
            ConnectError::System { what: "look", error: system() },
        ];
        for error in &errors {
            assert_is_told(error);
            match error {
                ConnectError::Address(_) | ConnectError::NoServer { .. } | ConnectError::Segment(_) => {}
                ConnectError::Types { .. } | ConnectError::TypeLayout { .. } => {}
                ConnectError::NoClients { .. } | ConnectError::Full { .. } => {}
                ConnectError::ShuttingDown { .. } | ConnectError::System { .. } => {}
            }
        }
    }

    #[test]
    fn every_start_error_is_one_line() {
        let (name, second) = (|| "s".to_string(), Duration::from_secs(1));
        let errors = [
            StartError::Segment(CreateError::System { what: "lock", path: path(), error: system() }),
            StartError::NamesInUse { name: name(), tried: 64 },
            StartError::LockMemory { needed_bytes: 2, limit_bytes: Some(1), error: system() },
            StartError::BatchRule { servlet: name(), batch_size: 1, batch_wait_time: second },
            StartError::Backoff { servlet: name(), first: second, longest: second },
            StartError::Range { servlet: Some(name()), what: "it", value: 3, least: 1, most: 2 },
            StartError::Range { servlet: None, what: "it", value: 3, least: 1, most: 2 },
            StartError::Name { name: RUDE.into(), longest: 64 },
            StartError::Variable { servlet: name(), variable: RUDE.into(), reason: "it has a NUL" },
            StartError::Cpu { servlet: Some(name()), cpu: 9, allowed: vec![0, 1] },
            StartError::CpuTwice { servlet: None, cpu: 9 },
            StartError::Node { servlet: name(), node: 7, nodes: vec![0, 1] },
            StartError::Node { servlet: name(), node: 7, nodes: vec![] },
            StartError::Memory(MemoryError::NoNode { node: 7, nodes: vec![0, 1] }),
            StartError::Memory(MemoryError::Refused { reason: RUDE.into() }),
            StartError::Memory(MemoryError::Elsewhere {
                part: "requests".into(),
                policy: "prefer:1".into(),
                pages: [(0, 3), (1, 2)].into(),
            }),
            StartError::Memory(MemoryError::Unknown { error: system() }),
            StartError::NotListed { servlet: name(), worker_type: "a::B".into(), listed: vec![] },
            StartError::NotInExecutable {
                servlet: name(),
                worker_type: "a::B".into(),
                library: path(),
                executable: path(),
            },
            StartError::Program { servlet: name(), path: path(), reason: RUDE.into() },
            StartError::Executable { servlet: name(), path: path(), error: system() },
            StartError::Config { servlet: name(), message: RUDE.into() },
            StartError::Argument { servlet: name(), index: 1, reason: "it has a zero byte" },
            StartError::WorkerName { servlet: name(), worker: RUDE.into(), longest: 256 },
            StartError::SchemaName { servlet: name(), schema: RUDE.into(), longest: 128 },
            StartError::Schemas { servlet: name(), gives: RUDE.into(), next: name(), takes: RUDE.into() },
            StartError::WorkerToBe { server: RUDE.into() },
            StartError::Died {
                servlet: name(),
                worker: 0,
                status: "exit code 3".into(),
                code: Some(3),
                program: Some(path()),
            },
            StartError::Died {
                servlet: name(),
                worker: 0,
                status: "x".into(),
                code: Some(NOT_A_WORKER),
                program: None,
            },
            StartError::Join { servlet: name(), worker: 0, reason: RUDE.into() },
            StartError::Timeout { servlet: name(), worker: 0, limit: second, program: None },
            StartError::Timeout { servlet: name(), worker: 0, limit: second, program: Some(path()) },
            StartError::System { what: "start a thread", error: system() },
        ];
        for error in &errors {
            assert_is_told(error);
            match error {
                StartError::Segment(_) | StartError::BatchRule { .. } | StartError::Backoff { .. } => {}
                StartError::NamesInUse { .. } | StartError::LockMemory { .. } => {}
                StartError::Range { .. } | StartError::Name { .. } | StartError::Variable { .. } => {}
                StartError::Argument { .. } | StartError::WorkerName { .. } => {}
                StartError::SchemaName { .. } | StartError::Schemas { .. } => {}
                StartError::WorkerToBe { .. } => {}
                StartError::Cpu { .. } | StartError::CpuTwice { .. } | StartError::Node { .. } => {}
                StartError::NotListed { .. } => {}
                StartError::Memory(
                    MemoryError::NoNode { .. }
                    | MemoryError::Refused { .. }
                    | MemoryError::Elsewhere { .. }
                    | MemoryError::Unknown { .. },
                ) => {}
                StartError::NotInExecutable { .. } | StartError::Program { .. } => {}
                StartError::Executable { .. } | StartError::Config { .. } | StartError::Died { .. } => {}
                StartError::Join { .. } | StartError::Timeout { .. } | StartError::System { .. } => {}
                StartError::Worker(_) => {} // above, of every cause
            }
        }
        let build = BuildId::parse("0123abcd").expect("a build id");
        let errors = [
            JoinError::Attach(AttachError::System { what: "map", path: path(), error: system() }),
            JoinError::System { what: "start a thread", error: system() },
            JoinError::Row(3),
            JoinError::Build { wanted: build.clone(), ours: build, program: path() },
        ];
        for error in &errors {
            assert_is_told(error);
            match error {
                JoinError::Attach(_) | JoinError::System { .. } | JoinError::Row(_) => {}
                JoinError::Build { .. } => {}
            }
        }
    }

    #[test]
    fn errors_of_user_code_and_payloads_are_one_line() {
        #[derive(Debug, thiserror::Error)]
        #[error("outer\n{RUDE}")]
        struct Outer(#[source] io::Error);

        assert_eq!(
            BoxError::from(Outer(system())).to_string(),
            format!("outer; two; lines \\u{{1b}}[31mand red\\u{{202e}}: {}", system())
        );
        let error = PayloadError::new(Outer(system())).trace("in field\n`x`");
        assert_is_told(&error);
        assert!(error.to_string().ends_with(&format!("{}, in field; `x`", system())), "{error}");
        let deep = (0..1000).fold(PayloadError::new(system()), |error, depth| error.trace(depth));
        assert!(deep.to_string().ends_with(", 0, 1, 2, 3"), "{deep}");
    }
}
