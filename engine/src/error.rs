//! Everything that can go wrong, as values: one enum for starting a server, one for a request, and the
//! record of an error that happened in a worker.

use crate::payload::ReadError;
use ringmill_shm::pool::PoolError;
use ringmill_shm::segment::{AttachError, CreateError};
use std::backtrace::{Backtrace, BacktraceStatus};
use std::error::Error as StdError;
use std::fmt;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// Any error of user code, with its type's name and, if `RUST_BACKTRACE` asks for it, the place where it
/// became one.
///
/// Any `std::error::Error + Send + Sync` turns into one with `?`; [`BoxError::msg`] makes one from text.
/// Like other boxed errors of its kind it is not itself a `std::error::Error`.
pub struct BoxError(Box<Inner>);

struct Inner {
    type_name: &'static str,
    fatal: bool,
    error: Box<dyn StdError + Send + Sync>,
    backtrace: Backtrace,
}

#[derive(Debug)]
struct Message(String);

impl fmt::Display for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl StdError for Message {}

impl BoxError {
    /// An error that is only a message.
    ///
    /// ```
    /// assert_eq!(ringmill::BoxError::msg("no such model").to_string(), "no such model");
    /// ```
    #[must_use]
    pub fn msg(message: impl fmt::Display) -> Self {
        let error = Box::new(Message(message.to_string()));
        Self(Box::new(Inner { type_name: "message", fatal: false, error, backtrace: Backtrace::capture() }))
    }

    /// Marks it as one after which the worker cannot go on: a device is lost, a library is in a bad state.
    ///
    /// If `call` returns it, or fails an item with it, whatever of the batch is unanswered gets this error.
    /// Then the worker stops: its [`cleanup`](crate::Worker::cleanup) is told
    /// [`Stop::Fatal`](crate::Stop::Fatal), and it is started again as after a death, with the same
    /// back-off and the same limit. Callers see an error like any other. In a constructor or in `warm_up`
    /// the mark means nothing: every error there is the end of the worker.
    ///
    /// ```
    /// use ringmill::BoxError;
    ///
    /// fn infer(device_is_lost: bool) -> Result<u32, BoxError> {
    ///     if device_is_lost { Err(BoxError::msg("the device is lost").fatal()) } else { Ok(1) }
    /// }
    /// assert!(infer(true).is_err_and(|error| error.is_fatal()));
    /// ```
    #[must_use]
    pub fn fatal(mut self) -> Self {
        self.0.fatal = true;
        self
    }

    /// Whether it was marked by [`fatal`](Self::fatal).
    #[must_use]
    pub fn is_fatal(&self) -> bool {
        self.0.fatal
    }

    /// The name of the error's type; `message` if it is only one.
    #[must_use]
    pub fn type_name(&self) -> &'static str {
        self.0.type_name
    }

    /// The error.
    #[must_use]
    pub fn error(&self) -> &(dyn StdError + Send + Sync + 'static) {
        &*self.0.error
    }

    /// Its message, its source's message, and so on.
    #[must_use]
    pub fn chain(&self) -> Vec<String> {
        let mut messages = vec![self.0.error.to_string()];
        let mut source = self.0.error.source();
        while let Some(error) = source {
            messages.push(error.to_string());
            source = error.source();
        }
        messages
    }

    /// Where it became one, if that was recorded.
    #[must_use]
    pub fn backtrace(&self) -> Option<String> {
        (self.0.backtrace.status() == BacktraceStatus::Captured).then(|| self.0.backtrace.to_string())
    }
}

impl<E: StdError + Send + Sync + 'static> From<E> for BoxError {
    fn from(error: E) -> Self {
        Self(Box::new(Inner {
            type_name: std::any::type_name::<E>(),
            fatal: false,
            error: Box::new(error),
            backtrace: Backtrace::capture(),
        }))
    }
}

impl fmt::Display for BoxError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.chain().join(": "))
    }
}

impl fmt::Debug for BoxError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")?;
        if let Some(backtrace) = self.backtrace() {
            write!(f, "\n{backtrace}")?;
        }
        Ok(())
    }
}

/// An error that happened on a worker's side: what it was, and where.
///
/// Prints as one line; `{:#}` adds the backtrace, if there is one.
#[derive(Debug, Clone, PartialEq, Eq, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
#[non_exhaustive]
pub struct RemoteError {
    /// The servlet's name.
    pub servlet: String,
    /// Which of its workers; the same for all threads of one. 0 for what happened between workers, in a switch or
    /// where outcomes are joined.
    pub worker: u32,
    /// The process in which it happened.
    pub pid: u32,
    /// How many workers had died before with this request in their hands.
    pub attempt: u8,
    /// What happened.
    pub cause: RemoteCause,
}

/// What happened on a worker's side.
#[derive(Debug, Clone, PartialEq, Eq, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
#[rkyv(serialize_bounds(__S: rkyv::ser::Writer + rkyv::ser::Allocator, __S::Error: rkyv::rancor::Source))]
#[rkyv(deserialize_bounds(__D::Error: rkyv::rancor::Source))]
#[rkyv(bytecheck(bounds(__C: rkyv::validation::ArchiveContext, __C::Error: rkyv::rancor::Source)))]
#[non_exhaustive]
pub enum RemoteCause {
    /// User code returned an error.
    Failed {
        /// The error's type.
        type_name: String,
        /// Its message, its source's, and so on.
        messages: Vec<String>,
        /// Where it was made, if `RUST_BACKTRACE` asked for it.
        backtrace: Option<String>,
    },
    /// User code panicked.
    Panicked {
        /// The panic's message, and where it was.
        message: String,
        /// The stack, if `RUST_BACKTRACE` asked for it.
        backtrace: Option<String>,
    },
    /// `call` returned without answering this item.
    Unanswered,
    /// `call` gave another number of outcomes than there were items; so none of them was used.
    OutcomeCount {
        /// Items of the batch.
        items: u32,
        /// Outcomes given.
        outcomes: u32,
    },
    /// The outcome does not fit the largest class of payload blocks.
    OutcomeTooLarge {
        /// Its size in bytes.
        bytes: u64,
        /// The largest possible.
        largest: u64,
    },
    /// The outcome, or the input, could not be serialised or read.
    Payload {
        /// Why.
        message: String,
    },
    /// The worker's process ended while it worked on this request.
    Died {
        /// The signal that killed it, if one did.
        signal: Option<i32>,
        /// The code it exited with, if it did.
        code: Option<i32>,
        /// Whether it is being started anew.
        restarting: bool,
    },
    /// No worker of the servlet is left, and none will be started.
    Down {
        /// Why.
        reason: String,
    },
    /// The server was shut down before a worker began with this request.
    ShutDown,
    /// The request's deadline had passed when a worker took it; so it was not worked on.
    DeadlineExceeded {
        /// How long it had passed, in nanoseconds.
        late_ns: u64,
    },
    /// A switch's function named a member that there is not.
    NoSuchMember {
        /// What it named.
        index: u64,
        /// How many there are.
        members: u64,
    },
    /// Members of an ensemble failed: one, or where errors are kept, all.
    Ensemble {
        /// What became of each member, in their order.
        #[rkyv(omit_bounds)]
        members: Vec<Member>,
    },
}

/// A member of an ensemble that failed.
#[derive(Debug, Clone, PartialEq, Eq, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
#[non_exhaustive]
pub struct Member {
    /// The servlet's name; of a sequence, its first one's.
    pub name: String,
    /// What became of it.
    pub outcome: MemberOutcome,
}

/// What became of a member of an ensemble that failed.
#[derive(Debug, Clone, PartialEq, Eq, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
#[non_exhaustive]
pub enum MemberOutcome {
    /// It gave a value.
    Value {
        /// The value as serialised, see [`value`](Self::value); none if there was no room for it here.
        payload: Option<Vec<u8>>,
    },
    /// It gave an error.
    Failed {
        /// The error.
        error: RemoteError,
    },
    /// It had not ended when the ensemble did; its outcome is dropped.
    Unfinished,
}

impl MemberOutcome {
    /// The value, where the member gave one of this type, and there was room for it.
    #[must_use]
    pub fn value<T: crate::Payload>(&self) -> Option<T> {
        let Self::Value { payload: Some(payload) } = self else { return None };
        let mut aligned = rkyv::util::AlignedVec::<16>::new();
        aligned.extend_from_slice(payload);
        crate::payload::view::<T>(&aligned).and_then(crate::payload::owned::<T>).ok()
    }

    /// The error, where the member gave one.
    #[must_use]
    pub fn error(&self) -> Option<&RemoteError> {
        match self {
            Self::Failed { error } => Some(error),
            _ => None,
        }
    }
}

/// An ensemble gave no value: one of its members failed, or where errors are kept, all did.
///
/// Prints as one line that names the errors; `{:#}` has a line for each member, and whatever detail its
/// error has.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct EnsembleError {
    /// The ensemble's name.
    pub servlet: String,
    /// What became of each member, in their order.
    pub members: Vec<Member>,
}

impl fmt::Display for EnsembleError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ensemble {}: ", self.servlet)?;
        write_members(&self.members, f)
    }
}

impl StdError for EnsembleError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.members.iter().find_map(|member| member.outcome.error()).map(|error| error as _)
    }
}

fn write_members(members: &[Member], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let failed = members.iter().filter_map(|member| member.outcome.error());
    write!(f, "{} of {} members failed", failed.clone().count(), members.len())?;
    if !f.alternate() {
        return failed.enumerate().try_for_each(|(i, error)| {
            f.write_str(if i == 0 { ": " } else { "; " })?;
            write!(f, "{error}")
        });
    }
    members.iter().try_for_each(|Member { name, outcome }| match outcome {
        MemberOutcome::Value { payload: Some(payload) } => {
            write!(f, "\n{name}: a value of {} bytes", payload.len())
        }
        MemberOutcome::Value { payload: None } => write!(f, "\n{name}: a value"),
        MemberOutcome::Failed { error } => write!(f, "\n{name}: {error:#}"),
        MemberOutcome::Unfinished => write!(f, "\n{name}: not finished"),
    })
}

impl RemoteError {
    /// Says less, up to so many times; how many times it could.
    pub(crate) fn shorten(&mut self, times: usize) -> usize {
        for done in 0..times {
            match self.cause.shortened() {
                Some(shorter) => self.cause = shorter,
                None => return done,
            }
        }
        times
    }
}

impl RemoteCause {
    /// What user code returned.
    pub(crate) fn failed(error: &BoxError) -> Self {
        Self::Failed {
            type_name: error.type_name().into(),
            messages: error.chain(),
            backtrace: error.backtrace(),
        }
    }

    /// The same with less text, for a place that is too small, the backtrace's end first; `None` if there is
    /// nothing to leave out.
    pub(crate) fn shortened(&self) -> Option<Self> {
        let cut = |text: &String| {
            let end = (0..=24.min(text.len())).rev().find(|&i| text.is_char_boundary(i)).unwrap_or(0);
            (end < text.len()).then(|| text[..end].to_string())
        };
        match self {
            Self::Failed { type_name, messages, backtrace: Some(frames) } => Some(Self::Failed {
                type_name: type_name.clone(),
                messages: messages.clone(),
                backtrace: fewer_frames(frames),
            }),
            Self::Panicked { message, backtrace: Some(frames) } => {
                Some(Self::Panicked { message: message.clone(), backtrace: fewer_frames(frames) })
            }
            Self::Failed { type_name, messages, .. } if !type_name.is_empty() || messages.len() > 1 => {
                let first = messages.first().map(|m| cut(m).unwrap_or_else(|| m.clone()));
                Some(Self::Failed {
                    type_name: String::new(),
                    messages: first.into_iter().collect(),
                    backtrace: None,
                })
            }
            Self::Panicked { message, .. } => {
                Some(Self::Panicked { message: cut(message)?, backtrace: None })
            }
            Self::Ensemble { members } => {
                shortened_members(members).map(|members| Self::Ensemble { members })
            }
            Self::Payload { message } => Some(Self::Payload { message: cut(message)? }),
            Self::Down { reason } => Some(Self::Down { reason: cut(reason)? }),
            _ => None,
        }
    }

    /// Whether it is only that the time was over, for a servlet or for members of an ensemble.
    fn is_of_deadline(&self) -> bool {
        match self {
            Self::DeadlineExceeded { .. } => true,
            Self::Ensemble { members } => are_of_deadline(members),
            _ => false,
        }
    }

    fn backtrace(&self) -> Option<&str> {
        match self {
            Self::Failed { backtrace, .. } | Self::Panicked { backtrace, .. } => backtrace.as_deref(),
            _ => None,
        }
    }
}

/// Whether members failed, and all that did because the time was over.
fn are_of_deadline(members: &[Member]) -> bool {
    let mut errors = members.iter().filter_map(|member| member.outcome.error()).peekable();
    errors.peek().is_some() && errors.all(|error| error.cause.is_of_deadline())
}

/// The first half of a stack, where what went wrong is; none once that says hardly anything.
fn fewer_frames(backtrace: &str) -> Option<String> {
    const LEAST_BYTES: usize = 200;
    let end = backtrace.as_bytes()[..backtrace.len() / 2].iter().rposition(|&b| b == b'\n')?;
    (end >= LEAST_BYTES).then(|| backtrace[..end].to_string())
}

/// First without values, then with shorter errors, at last without members.
fn shortened_members(members: &[Member]) -> Option<Vec<Member>> {
    let has_values = |m: &Member| matches!(&m.outcome, MemberOutcome::Value { payload: Some(_) });
    let mut members = members.to_vec();
    if members.iter().any(has_values) {
        for member in members.iter_mut().filter(|m| has_values(m)) {
            member.outcome = MemberOutcome::Value { payload: None };
        }
        return Some(members);
    }
    let mut shorter = false;
    for member in &mut members {
        if let MemberOutcome::Failed { error } = &mut member.outcome
            && let Some(cause) = error.cause.shortened()
        {
            error.cause = cause;
            shorter = true;
        }
    }
    if !shorter {
        members.pop()?;
    }
    Some(members)
}

/// Text of user code on one line, however many it has: those of a failed `assert_eq!`, say.
struct OneLine<'a>(&'a str);

impl fmt::Display for OneLine<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut lines = self.0.split(['\n', '\r']).map(str::trim).filter(|line| !line.is_empty());
        f.write_str(lines.next().unwrap_or_default())?;
        lines.try_for_each(|line| write!(f, "; {line}"))
    }
}

impl fmt::Display for RemoteCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Failed { type_name, messages, .. } if type_name == "message" || type_name.is_empty() => {
                OneLine(&messages.join(": ")).fmt(f)
            }
            Self::Failed { type_name, messages, .. } => {
                write!(f, "{type_name}: {}", OneLine(&messages.join(": ")))
            }
            Self::Panicked { message, .. } => write!(f, "panicked: {}", OneLine(message)),
            Self::Unanswered => f.write_str("the worker's call returned without answering this item"),
            Self::OutcomeCount { items, outcomes } => {
                write!(f, "the worker's call gave {outcomes} outcomes for a batch of {items}; none was used")
            }
            Self::OutcomeTooLarge { bytes, largest } => {
                write!(f, "the outcome has {bytes} bytes, the largest payload class {largest}")
            }
            Self::Payload { message } => OneLine(message).fmt(f),
            Self::Died { signal, code, restarting } => {
                match (signal, code) {
                    (Some(signal), _) => write!(f, "its process was killed by signal {signal}")?,
                    (None, Some(code)) => write!(f, "its process exited with code {code}")?,
                    (None, None) => f.write_str("its process is gone")?,
                }
                f.write_str(if *restarting {
                    "; it is being restarted"
                } else {
                    "; it will not be restarted"
                })
            }
            Self::Down { reason } if reason.is_empty() => f.write_str("no worker is left"),
            Self::Down { reason } => write!(f, "no worker is left: {}", OneLine(reason)),
            Self::ShutDown => f.write_str("the server was shut down"),
            Self::DeadlineExceeded { late_ns } => {
                write!(f, "its deadline had passed {:.6} s before a worker took it", *late_ns as f64 / 1e9)
            }
            Self::NoSuchMember { index, members } => {
                write!(f, "its function chose member {index} of a switch with {members}")
            }
            Self::Ensemble { members } => write_members(members, f),
        }
    }
}

impl fmt::Display for RemoteError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.cause {
            // These happen between workers.
            RemoteCause::NoSuchMember { .. } | RemoteCause::Ensemble { .. } => f.write_str(&self.servlet)?,
            _ => write!(f, "{}/{}", self.servlet, self.worker)?,
        }
        write!(f, " (pid {}", self.pid)?;
        if self.attempt > 0 {
            write!(f, ", attempt {}", u32::from(self.attempt) + 1)?;
        }
        f.write_str("): ")?;
        self.cause.fmt(f)?;
        if let Some(backtrace) = self.cause.backtrace().filter(|_| f.alternate()) {
            write!(f, "\n{backtrace}")?;
        }
        Ok(())
    }
}

impl StdError for RemoteError {}

/// Why a value could not be written into the segment.
#[derive(Debug, thiserror::Error)]
pub(crate) enum EncodeError {
    #[error(transparent)]
    Pool(#[from] PoolError),
    #[error("serialisation failed: {0}")]
    Serialise(#[from] rkyv::rancor::Error),
    #[error("serialisation took {first} bytes, and {second} when done again: the value changes")]
    Unsteady { first: u64, second: u64 },
}

/// Why a request has no outcome.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CallError {
    /// As many requests as the server's capacity are in progress.
    #[error("the server's {capacity} places are all taken{}", waited_text(.waited))]
    ServerBacklogFull {
        /// How many can be in progress.
        capacity: u32,
        /// How long the call waited for a place; zero with back-pressure.
        waited: Duration,
    },
    /// The outcome did not come within the timeout, or before the deadline. The request is dropped if no
    /// worker has begun it.
    #[error("no outcome within {:.3} s ({:.3} s of it waiting for a place)", total.as_secs_f64(), enqueueing.as_secs_f64())]
    Timeout {
        /// How long the call waited for a place.
        enqueueing: Duration,
        /// How long it took in all.
        total: Duration,
    },
    /// The input is larger than the largest class of payload blocks.
    #[error("the input has {bytes} bytes, the largest payload class {largest}")]
    PayloadTooLarge {
        /// Its size in bytes.
        bytes: u64,
        /// The largest possible.
        largest: u64,
    },
    /// All payload blocks that are large enough are in use.
    #[error("all payload blocks of at least {bytes} bytes are in use")]
    PoolExhausted {
        /// The input's size in bytes.
        bytes: u64,
    },
    /// The input could not be serialised.
    #[error("the input could not be serialised: {message}")]
    Serialise {
        /// Why.
        message: String,
    },
    /// A worker answered with an error.
    #[error("{0}")]
    Remote(Box<RemoteError>),
    /// Members of an ensemble failed.
    #[error(transparent)]
    Ensemble(Box<EnsembleError>),
    /// The worker's process died while it worked on this request, which may have had effects.
    #[error("{0}")]
    WorkerDied(Box<RemoteError>),
    /// The servlet has no workers left and gets no new ones.
    #[error("servlet {servlet} is down: {reason}")]
    ServletDown {
        /// The servlet's name.
        servlet: String,
        /// Why.
        reason: String,
    },
    /// The server is shutting down.
    #[error("the server is shutting down")]
    ShuttingDown,
    /// The thread that wakes futures could not be started.
    #[error("the reactor's thread cannot be started: {message}")]
    NoReactor {
        /// What the operating system said.
        message: String,
    },
    /// What prepares a stream's inputs refused this one, so it was not sent.
    #[error("the input was refused: {0}")]
    Refused(BoxError),
    /// The loan was lent by another server.
    #[error("the loan was lent by another server")]
    ForeignLoan,
    /// The bytes of the outcome are not what they should be.
    #[error("the outcome cannot be read: {message}")]
    Corrupt {
        /// Why.
        message: String,
    },
}

fn waited_text(waited: &Duration) -> String {
    if waited.is_zero() { String::new() } else { format!(" (waited {:.3} s)", waited.as_secs_f64()) }
}

impl CallError {
    pub(crate) fn remote(error: RemoteError) -> Self {
        match error.cause {
            RemoteCause::Died { .. } => Self::WorkerDied(Box::new(error)),
            RemoteCause::Down { reason } => Self::ServletDown { servlet: error.servlet, reason },
            RemoteCause::ShutDown => Self::ShuttingDown,
            RemoteCause::Ensemble { members } => {
                Self::Ensemble(Box::new(EnsembleError { servlet: error.servlet, members }))
            }
            _ => Self::Remote(Box::new(error)),
        }
    }

    /// The same for a caller that knows when its call began: what a worker found late is late.
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
            other => Self::Serialise { message: other.to_string() },
        }
    }
}

impl From<EncodeError> for RemoteCause {
    fn from(error: EncodeError) -> Self {
        match error {
            EncodeError::Pool(PoolError::TooLarge { bytes, largest }) => {
                Self::OutcomeTooLarge { bytes, largest }
            }
            other => Self::Payload { message: format!("the outcome cannot be written: {other}") },
        }
    }
}

impl From<ReadError> for CallError {
    fn from(error: ReadError) -> Self {
        Self::Corrupt { message: error.to_string() }
    }
}

/// Requests were still in progress when the time for [draining](crate::Server::drain) was over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{left} requests are still in progress after {:.3} s", limit.as_secs_f64())]
#[non_exhaustive]
pub struct DrainError {
    /// How many.
    pub left: usize,
    /// The time.
    pub limit: Duration,
}

/// Why a server did not start. Nothing of it is left behind.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The segment could not be made.
    #[error("cannot make the segment: {0}")]
    Segment(#[from] CreateError),
    /// A batch window without batches.
    #[error(
        "servlet {servlet}: batch_size {batch_size} with batch_wait_time {batch_wait_time:?}: a wait needs a batch_size above 1"
    )]
    BatchRule {
        /// The servlet's name.
        servlet: String,
        /// Items a batch.
        batch_size: usize,
        /// The wait.
        batch_wait_time: Duration,
    },
    /// An option has a value out of range.
    #[error("{}{what} is {value}, must be in {least}..={most}", servlet_prefix(.servlet))]
    Range {
        /// The servlet's name; none for options of the server.
        servlet: Option<String>,
        /// Which option.
        what: &'static str,
        /// Its value.
        value: u64,
        /// The least allowed.
        least: u64,
        /// The most allowed.
        most: u64,
    },
    /// A CPU that this process may not use.
    #[error("servlet {servlet}: CPU {cpu} is not among the CPUs this process may use ({})", list_text(.allowed))]
    Cpu {
        /// The servlet's name.
        servlet: String,
        /// The CPU.
        cpu: usize,
        /// Those it may use.
        allowed: Vec<usize>,
    },
    /// A worker type that `init!` does not list.
    #[error("servlet {servlet}: worker type {worker_type} is not listed in ringmill::init!({}); add it there", listed.join(", "))]
    NotListed {
        /// The servlet's name.
        servlet: String,
        /// The type.
        worker_type: String,
        /// The types listed; none if the program has no `init!`.
        listed: Vec<String>,
    },
    /// The workers' executable could not be started.
    #[error("servlet {servlet}: cannot start {}", path.display())]
    Executable {
        /// The servlet's name.
        servlet: String,
        /// The executable.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// A configuration could not be serialised.
    #[error("servlet {servlet}: its configuration cannot be serialised: {message}")]
    Config {
        /// The servlet's name.
        servlet: String,
        /// Why.
        message: String,
    },
    /// A worker's constructor, or its `warm_up`, failed or panicked.
    #[error("worker {} failed to start: {}", name_of(.0), .0.cause)]
    Worker(Box<RemoteError>),
    /// A worker's process ended before it was ready.
    #[error("worker {servlet}/{worker} ended before it was ready: {status}{}", if *.code == Some(NOT_A_WORKER) { "; its program has no ringmill::init! that lists the type" } else { "" })]
    Died {
        /// The servlet's name.
        servlet: String,
        /// Which of its workers.
        worker: u32,
        /// How it ended.
        status: String,
        /// The code it exited with, if it did.
        code: Option<i32>,
    },
    /// A worker was not ready in time.
    #[error("worker {servlet}/{worker} was not ready within {:.3} s", limit.as_secs_f64())]
    Timeout {
        /// The servlet's name.
        servlet: String,
        /// Which of its workers.
        worker: u32,
        /// The limit.
        limit: Duration,
    },
    /// The operating system refused.
    #[error("cannot {what}: {source}")]
    System {
        /// What was tried.
        what: &'static str,
        /// What it said.
        source: std::io::Error,
    },
}

/// The exit code of a process that was started as a worker and has no such worker.
pub(crate) const NOT_A_WORKER: i32 = 97;
/// The exit code of a worker that a fatal error stopped.
pub(crate) const STOPPED_BY_ERROR: i32 = 98;

fn servlet_prefix(servlet: &Option<String>) -> String {
    servlet.as_ref().map_or(String::new(), |name| format!("servlet {name}: "))
}

fn list_text(cpus: &[usize]) -> String {
    cpus.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

fn name_of(error: &RemoteError) -> String {
    format!("{}/{}", error.servlet, error.worker)
}

/// The error for a worker that ended before it was ready.
pub(crate) fn status_of_early_death(
    servlet: String,
    worker: u32,
    place: u32,
    deaths: &Mutex<Vec<(u32, ExitStatus)>>,
) -> StartError {
    let deaths = deaths.lock().unwrap_or_else(|e| e.into_inner());
    let status = deaths.iter().find(|(p, _)| *p == place).map(|(_, status)| *status);
    let text = status.map_or("ended".into(), crate::launch::status_text);
    StartError::Died { servlet, worker, status: text, code: status.and_then(|s| s.code()) }
}

/// Why a worker's process could not join its segment.
#[derive(Debug, thiserror::Error)]
pub(crate) enum JoinError {
    #[error(transparent)]
    Attach(#[from] AttachError),
    #[error("cannot {what}: {source}")]
    System { what: &'static str, source: std::io::Error },
    #[error("the segment has no place {0} for this worker")]
    Place(u32),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_box_error_knows_its_type_and_chain() {
        let error = BoxError::from(std::io::Error::new(std::io::ErrorKind::NotFound, "no model"));
        assert_eq!(error.type_name(), "std::io::error::Error");
        assert_eq!(error.chain(), ["no model"]);
        let error = BoxError::msg("plain");
        assert_eq!((error.type_name(), error.to_string().as_str()), ("message", "plain"));
    }

    #[test]
    fn remote_errors_print_as_one_line_and_more_on_demand() {
        let error = RemoteError {
            servlet: "classify".into(),
            worker: 1,
            pid: 42,
            attempt: 0,
            cause: RemoteCause::Failed {
                type_name: "app::Bad".into(),
                messages: vec!["outer".into(), "inner".into()],
                backtrace: Some("at main".into()),
            },
        };
        assert_eq!(error.to_string(), "classify/1 (pid 42): app::Bad: outer: inner");
        assert_eq!(format!("{error:#}"), "classify/1 (pid 42): app::Bad: outer: inner\nat main");
    }

    /// Symptom: the error of a constructor that failed never had a backtrace. Cause: one that did not fit its
    /// place was left out as a whole, and hardly any fits there. Now what fits of it stays.
    #[test]
    fn shortening_keeps_the_first_frames() {
        let frame = |i| format!("{i}: app::model::load at ./src/model.rs:{i}\n");
        let frames: String = (0..100).map(frame).collect();
        let mut cause = RemoteCause::Panicked { message: "no".into(), backtrace: Some(frames.clone()) };
        let mut bytes = frames.len();
        while let Some(shorter) = cause.backtrace() {
            assert!(frames.starts_with(shorter) && shorter.len() <= bytes && shorter.len() > 100);
            bytes = shorter.len() / 2;
            cause = cause.shortened().expect("there is a backtrace");
        }
        assert!(bytes < 200, "{bytes}");
    }

    #[test]
    fn shortening_ends() {
        let long = "ü".repeat(500);
        let mut cause = RemoteCause::Failed {
            type_name: long.clone(),
            messages: vec![long.clone(), long.clone()],
            backtrace: Some(long),
        };
        let mut steps = 0;
        while let Some(shorter) = cause.shortened() {
            cause = shorter;
            steps += 1;
            assert!(steps < 10, "{cause:?}");
        }
        assert!(cause.to_string().len() <= 24, "{cause}");
    }
}
