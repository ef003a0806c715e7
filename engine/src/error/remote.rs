//! Records of errors that happened on a worker's side; they lie in the segment where an outcome would.

use super::BoxError;
use crate::panics::Panic;
use crate::text::OneLine;
use crate::wire::TooDeep;
use rkyv::boxed::{ArchivedBox, BoxResolver};
use rkyv::niche::niched_option::NichedOption;
use rkyv::niche::niching::Null;
use rkyv::rancor::{Fallible, Source};
use rkyv::ser::{Allocator, Writer};
use rkyv::string::ArchivedString;
use rkyv::with::{ArchiveWith, AsBox, DeserializeWith, MapNiche, NicheInto, SerializeWith};
use rkyv::{Deserialize, Place};
use std::error::Error as StdError;
use std::fmt;

/// An error that happened on a worker's side: what it was, and where.
///
/// Prints as one line; `{:#}` adds the backtrace, if there is one.
#[derive(Debug, Clone, PartialEq, Eq, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
#[non_exhaustive]
pub struct RemoteError {
    /// The servlet's name.
    pub servlet: String,
    /// The index of the worker, which all its threads share. 0 for an error between workers: in a switch, or where
    /// outcomes are joined.
    pub worker: u32,
    /// The process in which it happened.
    pub pid: u32,
    /// How many of the servlet's workers had died before while they worked on this request.
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
        /// Whether it says that the input is wrong, see [`BoxError::invalid`]. First, where a record has room for it.
        invalid: bool,
        /// The error's type.
        #[rkyv(with = Apart)]
        type_name: String,
        /// Its message, its source's, and so on.
        messages: Vec<String>,
        /// What it has beside its text, if it has anything.
        #[rkyv(with = NicheInto<Null>)]
        details: Option<Box<FailureDetails>>,
    },
    /// User code panicked.
    Panicked {
        /// The panic's message, and where it was.
        message: String,
        /// The stack, if `RUST_BACKTRACE` asked for it.
        #[rkyv(with = MapNiche<AsBox, Null>)]
        backtrace: Option<String>,
    },
    /// `call` returned without answering this item.
    Unanswered,
    /// `call` gave more or fewer outcomes than there were items, so none of them was used.
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
    /// All payload blocks that are large enough for the outcome are in use.
    PoolExhausted {
        /// Its size in bytes.
        bytes: u64,
    },
    /// The system has no memory for a payload block that was never used before, and the others that are large enough for
    /// the outcome are in use.
    NoMemory {
        /// Its size in bytes.
        bytes: u64,
        /// What the system said: a number as `ENOSPC`.
        error: i32,
    },
    /// The outcome, or the input, could not be serialised or read.
    Payload {
        /// Why.
        message: String,
    },
    /// The worker states [terms](crate::worker::Terms) that its servlet does not leave to its workers.
    TermsNotLeft,
    /// One of the worker's [terms](crate::worker::Terms) is beyond what its servlet reserves.
    Terms {
        /// The least allowed. First, where a record has room for it.
        least: u8,
        /// Which of them.
        what: String,
        /// Its value.
        value: u64,
        /// The most that the servlet reserves.
        most: u64,
    },
    /// The input nests more pointers than a reader follows.
    TooDeep {
        /// The input's type.
        type_name: String,
        /// How deep it follows them.
        limit: u32,
    },
    /// The worker's process ended while it worked on this request.
    Died {
        /// The signal that killed it, if one did.
        signal: Option<i32>,
        /// The code it exited with, if it did.
        code: Option<i32>,
        /// Whether the worker is being restarted.
        restarting: bool,
    },
    /// The worker was killed, because its call took longer than the servlet's `exec_timeout`.
    Overran {
        /// How long it may take, in nanoseconds.
        limit_ns: u64,
        /// Whether the worker is being restarted.
        restarting: bool,
    },
    /// The server's shutdown killed the worker while it worked on this request.
    KilledByShutdown {
        /// The server's `shutdown_timeout` in nanoseconds, within which the worker had not ended; `None` if the server
        /// was told to end at once, by a second signal.
        limit_ns: Option<u64>,
    },
    /// As many workers died while they worked on this request as may; it is not retried.
    Poisonous {
        /// How many.
        deaths: u32,
        /// The signal that killed the last, if one did.
        signal: Option<i32>,
        /// The code the last exited with, if it did.
        code: Option<i32>,
    },
    /// No worker of the servlet is left, and none is about to start.
    Down {
        /// Why.
        reason: String,
    },
    /// The server was shut down before a worker began this request.
    ShutDown,
    /// The servlet is [drained](crate::Server::drain_servlet): the request came after that, and no worker has seen it
    /// there.
    Drained,
    /// The request's deadline had passed when a worker took it, so the worker did not work on it.
    DeadlineExceeded {
        /// How long ago, in nanoseconds.
        late_ns: u64,
    },
    /// A switch's function chose a member that does not exist.
    NoSuchMember {
        /// The index that it chose.
        index: u64,
        /// How many members there are.
        members: u64,
    },
    /// Members of an ensemble failed: one, or where errors are kept, all.
    Ensemble {
        /// What became of each member, in their order.
        #[rkyv(omit_bounds)]
        members: Vec<Member>,
    },
}

/// What an error of user code has beside its text.
#[derive(Debug, Clone, Default, PartialEq, Eq, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
pub struct FailureDetails {
    /// The stack on which it was made, if that was asked for, see [`BoxError`].
    pub backtrace: Option<String>,
    /// What user code has attached to it, see [`BoxError::with_attachment`].
    pub attachment: Option<Vec<u8>>,
}

impl FailureDetails {
    /// Those of which there are any.
    fn some(self) -> Option<Box<Self>> {
        (self != Self::default()).then(|| Box::new(self))
    }

    /// With fewer frames, then without the attachment; `None` if there is nothing left to cut.
    fn shortened(&self) -> Option<Self> {
        let (backtrace, attachment) = (self.backtrace.as_deref(), self.attachment.clone());
        match (backtrace, &attachment) {
            (Some(frames), _) => Some(Self { backtrace: fewer_frames(frames), attachment }),
            (None, Some(_)) => Some(Self::default()),
            (None, None) => None,
        }
    }
}

/// A text that lies beside the record, so that an empty one takes a pointer's 8 bytes. A record must fit in line, and
/// there is no room for more.
#[derive(Debug)]
pub(crate) struct Apart;

type ArchivedApart = NichedOption<ArchivedBox<ArchivedString>, Null>;

#[expect(clippy::box_collection, reason = "rkyv archives it as a pointer of 8 bytes")]
fn apart(text: &str) -> Option<Box<String>> {
    (!text.is_empty()).then(|| Box::new(text.to_owned()))
}

impl ArchiveWith<String> for Apart {
    type Archived = ArchivedApart;
    type Resolver = Option<BoxResolver>;

    fn resolve_with(text: &String, resolver: Self::Resolver, out: Place<Self::Archived>) {
        ArchivedApart::resolve_from_option(apart(text).as_ref(), resolver, out);
    }
}

impl<S: Fallible<Error: Source> + Writer + Allocator + ?Sized> SerializeWith<String, S> for Apart {
    fn serialize_with(text: &String, serializer: &mut S) -> Result<Self::Resolver, S::Error> {
        ArchivedApart::serialize_from_option(apart(text).as_ref(), serializer)
    }
}

impl<D: Fallible<Error: Source> + ?Sized> DeserializeWith<ArchivedApart, String, D> for Apart {
    fn deserialize_with(archived: &ArchivedApart, deserializer: &mut D) -> Result<String, D::Error> {
        archived.as_ref().map_or(Ok(String::new()), |text| text.get().deserialize(deserializer))
    }
}

/// A member of an ensemble that failed.
#[derive(Debug, Clone, PartialEq, Eq, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
#[non_exhaustive]
pub struct Member {
    /// The servlet's name; of a sequence, that of its first servlet.
    pub name: String,
    /// What became of it.
    pub outcome: MemberOutcome,
}

/// What became of a member of an ensemble that failed.
#[derive(Debug, Clone, PartialEq, Eq, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
#[non_exhaustive]
pub enum MemberOutcome {
    /// The member gave a value.
    Value {
        /// The serialised value, see [`value`](Self::value); none if the record had no room for it.
        payload: Option<Vec<u8>>,
    },
    /// The member gave an error.
    Failed {
        /// The error.
        error: RemoteError,
    },
    /// The member had not ended when the ensemble did; its outcome is dropped.
    Unfinished,
}

impl MemberOutcome {
    /// The value, if the member gave one of this type and the record had room for it.
    #[must_use]
    pub fn value<T: crate::wire::Payload>(&self) -> Option<T> {
        let Self::Value { payload: Some(payload) } = self else { return None };
        crate::wire::payload::from_bytes(payload).ok()
    }

    /// The error, if the member gave one.
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
/// Prints as one line that names the errors; `{:#}` prints a line for each member, with all details of its error.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct EnsembleError {
    /// The ensemble's name.
    pub servlet: String,
    /// What became of each member, in their order; the last ones are missing if the record had no room for them.
    pub members: Vec<Member>,
}

impl fmt::Display for EnsembleError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ensemble {}: ", OneLine(&self.servlet))?;
        write_members(&self.members, f)
    }
}

impl StdError for EnsembleError {}

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

/// rkyv keeps a text of up to this many bytes in the reference to it, so it takes no more room than an empty one.
const IN_REFERENCE: usize = 16;

/// The beginning of a text that is longer than `most_bytes`; `None` if it is not.
fn cut(text: &str, most_bytes: usize) -> Option<String> {
    let end = (0..=most_bytes).rev().find(|&end| text.is_char_boundary(end))?;
    (end < text.len()).then(|| text[..end].to_string())
}

/// The first half of a text, or what fits in a reference if that is more; `None` if the text fits in one already.
fn half(text: &str) -> Option<String> {
    cut(text, (text.len() / 2).max(IN_REFERENCE))
}

impl RemoteError {
    /// What user code has attached to the error, see [`BoxError::with_attachment`]; `None` also if the record had no room
    /// for it.
    #[must_use]
    pub fn attachment(&self) -> Option<&[u8]> {
        self.cause.attachment()
    }

    /// Shortens the record, for a buffer that is too small: the end of the backtrace goes first, then the attachment, then
    /// the end of the servlet's name, then that of the cause. False if there is nothing left to cut.
    pub(crate) fn shorten(&mut self) -> bool {
        if self.cause.backtrace().is_none()
            && self.cause.attachment().is_none()
            && let Some(name) = cut(&self.servlet, IN_REFERENCE)
        {
            self.servlet = name;
            return true;
        }
        let shorter = self.cause.shortened();
        shorter.map(|shorter| self.cause = shorter).is_some()
    }
}

impl RemoteCause {
    /// The cause for an error that user code returned.
    pub(crate) fn failed(error: &BoxError) -> Self {
        Self::Failed {
            invalid: error.is_invalid(),
            type_name: error.type_name().into(),
            messages: error.chain(),
            details: FailureDetails {
                backtrace: error.backtrace(),
                attachment: error.attachment().map(<[u8]>::to_vec),
            }
            .some(),
        }
    }

    /// This cause, with the stage in front of its text.
    pub(crate) fn while_it(mut self, stage: &str) -> Self {
        let text = match &mut self {
            Self::Failed { messages, .. } => messages.first_mut(),
            Self::Panicked { message, .. } => Some(message),
            _ => None,
        };
        if let Some(text) = text {
            text.insert_str(0, &format!("{stage}: "));
        }
        self
    }

    /// This cause with less text, the backtrace's end cut first; `None` if there is nothing left to cut.
    fn shortened(&self) -> Option<Self> {
        match self {
            Self::Failed { invalid, type_name, messages, details: Some(details) } => Some(Self::Failed {
                invalid: *invalid,
                type_name: type_name.clone(),
                messages: messages.clone(),
                details: details.shortened().and_then(FailureDetails::some),
            }),
            Self::Panicked { message, backtrace: Some(frames) } => {
                Some(Self::Panicked { message: message.clone(), backtrace: fewer_frames(frames) })
            }
            Self::Failed { invalid, type_name, messages, .. } => {
                let messages = match &messages[..] {
                    whole if !type_name.is_empty() => whole.to_vec(),
                    [one] => vec![half(one)?],
                    more => more[..more.len() / 2].to_vec(),
                };
                Some(Self::Failed { invalid: *invalid, type_name: String::new(), messages, details: None })
            }
            Self::Panicked { message, .. } => {
                Some(Self::Panicked { message: half(message)?, backtrace: None })
            }
            Self::Ensemble { members } => {
                shortened_members(members).map(|members| Self::Ensemble { members })
            }
            Self::Payload { message } => Some(Self::Payload { message: half(message)? }),
            Self::TooDeep { type_name, limit } => {
                Some(Self::TooDeep { type_name: half(type_name)?, limit: *limit })
            }
            Self::Down { reason } => Some(Self::Down { reason: half(reason)? }),
            _ => None,
        }
    }

    /// Whether nothing failed but the deadline, for a servlet or for members of an ensemble.
    pub(super) fn is_of_deadline(&self) -> bool {
        match self {
            Self::DeadlineExceeded { .. } => true,
            Self::Ensemble { members } => are_of_deadline(members),
            _ => false,
        }
    }

    /// The stack of an error or panic of user code, if that was asked for, and there was room for it.
    #[must_use]
    pub fn backtrace(&self) -> Option<&str> {
        match self {
            Self::Failed { details: Some(details), .. } => details.backtrace.as_deref(),
            Self::Panicked { backtrace, .. } => backtrace.as_deref(),
            _ => None,
        }
    }

    /// As [`RemoteError::attachment`].
    fn attachment(&self) -> Option<&[u8]> {
        match self {
            Self::Failed { details: Some(details), .. } => details.attachment.as_deref(),
            _ => None,
        }
    }
}

/// Whether members failed, and all of them by the deadline.
pub(super) fn are_of_deadline(members: &[Member]) -> bool {
    let mut errors = members.iter().filter_map(|member| member.outcome.error()).peekable();
    errors.peek().is_some() && errors.all(|error| error.cause.is_of_deadline())
}

/// The first half of a stack, which holds the frame that failed; `None` once that would say hardly anything.
fn fewer_frames(backtrace: &str) -> Option<String> {
    const LEAST_BYTES: usize = 200;
    let end = backtrace.as_bytes()[..backtrace.len() / 2].iter().rposition(|&b| b == b'\n')?;
    (end >= LEAST_BYTES).then(|| backtrace[..end].to_string())
}

/// The members without values; if there are none, with shorter errors; at last fewer members.
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
        if let MemberOutcome::Failed { error } = &mut member.outcome {
            shorter |= error.shorten();
        }
    }
    if !shorter {
        // Half of them at a time: there may be as many as fit into a payload.
        members.pop()?;
        members.truncate(members.len().div_ceil(2));
    }
    Some(members)
}

/// How a process ended, by signal or code.
struct Ended(Option<i32>, Option<i32>);

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.0, self.1) {
            (Some(signal), _) => write!(f, "was killed by signal {signal}"),
            (None, Some(code)) => write!(f, "exited with code {code}"),
            (None, None) => f.write_str(
                "ended, but its exit status is lost: something else in this program waited for it",
            ),
        }
    }
}

struct Restarting(bool);

impl fmt::Display for Restarting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0 { "it is being restarted" } else { "it will not be restarted" })
    }
}

impl From<Panic> for RemoteCause {
    fn from(Panic { message, backtrace }: Panic) -> Self {
        Self::Panicked { message, backtrace }
    }
}

impl fmt::Display for RemoteCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Failed { type_name, messages, .. } if type_name == "message" || type_name.is_empty() => {
                OneLine(&messages.join(": ")).fmt(f)
            }
            Self::Failed { type_name, messages, .. } => {
                write!(f, "{}: {}", OneLine(type_name), OneLine(&messages.join(": ")))
            }
            Self::Panicked { message, .. } => write!(f, "panicked: {}", OneLine(message)),
            Self::Unanswered => f.write_str("the worker's call returned without answering this item"),
            Self::OutcomeCount { items, outcomes } => {
                write!(f, "the worker's call gave {outcomes} outcomes for a batch of {items}; none was used")
            }
            Self::OutcomeTooLarge { bytes, largest } => {
                write!(
                    f,
                    "the outcome has {bytes} bytes, the largest payload class {largest}: raise max_payload, or send less"
                )
            }
            Self::PoolExhausted { bytes } => {
                write!(
                    f,
                    "all payload blocks of at least {bytes} bytes are in use, so the outcome cannot be written: call less often, or give the server more of them"
                )
            }
            Self::NoMemory { bytes, error } => {
                let error = std::io::Error::from_raw_os_error(*error);
                write!(
                    f,
                    "the system has no memory for a payload block of {bytes} bytes, so the outcome cannot be written ({error}): call less often, or give the server's file system and its control group more memory"
                )
            }
            Self::Payload { message } => OneLine(message).fmt(f),
            Self::TermsNotLeft => f.write_str(
                "the worker states terms for its batches or threads, and its servlet does not leave them to it: set terms_by_worker",
            ),
            Self::Terms { least, what, value, most } => {
                let what = OneLine(what);
                write!(f, "the worker states a {what} of {value}, and its servlet reserves {least}..={most}: raise that, or state less")
            }
            Self::TooDeep { type_name, limit } => {
                write!(
                    f,
                    "the input cannot be read as {}: {}",
                    OneLine(type_name),
                    TooDeep { limit: *limit as usize }
                )
            }
            Self::Died { signal, code, restarting } => {
                write!(f, "its process {}; {}", Ended(*signal, *code), Restarting(*restarting))
            }
            Self::Overran { limit_ns, restarting } => {
                let limit_s = *limit_ns as f64 / 1e9;
                write!(
                    f,
                    "its call took longer than {limit_s:.6} s, so it was killed; {}",
                    Restarting(*restarting)
                )
            }
            Self::KilledByShutdown { limit_ns: Some(limit_ns) } => {
                let limit_s = *limit_ns as f64 / 1e9;
                write!(
                    f,
                    "the server's shutdown killed its process, which had not ended within the shutdown_timeout of {limit_s:.3} s"
                )
            }
            Self::KilledByShutdown { limit_ns: None } => {
                f.write_str("the server's shutdown killed its process, since it was told not to wait")
            }
            Self::Poisonous { deaths, signal, code } => {
                write!(
                    f,
                    "{deaths} workers died with it, the last {}; it is not retried",
                    Ended(*signal, *code)
                )
            }
            Self::Down { reason } if reason.is_empty() => f.write_str("no worker is left"),
            Self::Down { reason } => write!(f, "no worker is left: {}", OneLine(reason)),
            Self::ShutDown => f.write_str("the server was shut down"),
            Self::Drained => f.write_str("it is drained: it takes no requests until it is resumed"),
            Self::DeadlineExceeded { late_ns } => {
                write!(f, "its deadline had passed {:.6} s before a worker took it", *late_ns as f64 / 1e9)
            }
            Self::NoSuchMember { index, members } => {
                write!(
                    f,
                    "its function chose member {index}, the switch has {members}, counted from 0: choose one of them"
                )
            }
            Self::Ensemble { members } => write_members(members, f),
        }
    }
}

impl fmt::Display for RemoteError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.cause {
            // These happen between workers.
            RemoteCause::NoSuchMember { .. } | RemoteCause::Ensemble { .. } => {
                OneLine(&self.servlet).fmt(f)?
            }
            _ => write!(f, "{}/{}", OneLine(&self.servlet), self.worker)?,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn remote_errors_print_as_one_line_and_more_on_demand() {
        let error = RemoteError {
            servlet: "classify".into(),
            worker: 1,
            pid: 42,
            attempt: 0,
            cause: RemoteCause::Failed {
                invalid: false,
                type_name: "app::Bad".into(),
                messages: vec!["outer".into(), "inner".into()],
                details: details(Some("at main"), None),
            },
        };
        assert_eq!(error.to_string(), "classify/1 (pid 42): app::Bad: outer: inner");
        assert_eq!(format!("{error:#}"), "classify/1 (pid 42): app::Bad: outer: inner\nat main");
    }

    /// Symptom: the error of a constructor that failed never had a backtrace. Cause: a backtrace that did not fit the
    /// message was left out as a whole, and hardly any fits. Fix: the frames that fit stay.
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

    fn failed(servlet: &str, type_name: &str, messages: &[&str], backtrace: Option<&str>) -> RemoteError {
        let cause = RemoteCause::Failed {
            invalid: true,
            type_name: type_name.into(),
            messages: messages.iter().map(ToString::to_string).collect(),
            details: details(backtrace, None),
        };
        RemoteError { servlet: servlet.into(), worker: 1, pid: 2, attempt: 0, cause }
    }

    fn details(backtrace: Option<&str>, attachment: Option<&[u8]>) -> Option<Box<FailureDetails>> {
        let (backtrace, attachment) = (backtrace.map(str::to_owned), attachment.map(<[u8]>::to_vec));
        FailureDetails { backtrace, attachment }.some()
    }

    #[test]
    fn an_attachment_goes_after_the_stack_and_before_the_text() {
        let mut error = failed("s", "app::E", &["no such row"], None);
        let frames = "at main\n".repeat(50);
        let RemoteCause::Failed { details: of, .. } = &mut error.cause else { panic!("{error:?}") };
        *of = details(Some(&frames), Some(&[7; 100]));
        let mut seen = vec![(true, true, error.to_string())];
        while error.shorten() {
            seen.push((error.cause.backtrace().is_some(), error.attachment().is_some(), error.to_string()));
        }
        seen.dedup();
        let (whole, text) = ("s/1 (pid 2): app::E: no such row", "s/1 (pid 2): no such row");
        let expected =
            [(true, true, whole), (false, true, whole), (false, false, whole), (false, false, text)];
        assert_eq!(
            seen,
            expected.map(|(backtrace, attachment, text)| (backtrace, attachment, text.to_owned()))
        );
    }

    #[test]
    fn shortening_ends() {
        let long = "ü".repeat(500);
        let mut error = failed(&long, &long, &[long.as_str(); 5], Some(&long));
        let mut steps = 0;
        while error.shorten() {
            steps += 1;
            assert!(steps < 20, "{error:?}");
        }
        assert_eq!(error.to_string(), format!("{0}/1 (pid 2): {0}", "ü".repeat(8)));
        assert!(matches!(error.cause, RemoteCause::Failed { invalid: true, .. }), "the mark stays");
    }

    /// Symptom: "cann" for "cannot be serialised: …", and a long name in front of it. Cause: the message was cut, at
    /// once to a few bytes, before the servlet's name was. Fix: the name is cut first, and texts by halves.
    #[test]
    fn the_servlets_name_is_cut_before_the_message() {
        let name = "a-servlet-whose-name-is-as-long-as-names-may-be";
        let mut error = failed(name, "app::E", &["no such row", "disk full"], Some("at main"));
        let mut said = vec![format!("{error}")];
        while error.shorten() {
            said.push(error.to_string());
        }
        said.dedup(); // the backtrace is not printed
        assert_eq!(
            said,
            [
                format!("{name}/1 (pid 2): app::E: no such row: disk full"),
                "a-servlet-whose-/1 (pid 2): app::E: no such row: disk full".into(),
                "a-servlet-whose-/1 (pid 2): no such row: disk full".into(),
                "a-servlet-whose-/1 (pid 2): no such row".into(),
            ]
        );
    }
}
