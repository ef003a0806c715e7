//! The messages of a server and its workers over the [tether](ringmill_shm::sys::tether).

use ringmill_shm::sys::build_id::BuildId;

/// The message by which a server ends a worker that it may not kill.
pub(crate) const END_AT_ONCE: &[u8] = b"end";
/// The message by which a server has a worker finish its batch and leave.
pub(crate) const RETIRE: &[u8] = b"retire";

/// A report: a message of a worker over its tether.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Report {
    /// Why it cannot attach.
    Reason(String),
    /// It has attached, but an operator should know this.
    Warning(String),
    /// Something went wrong in it of which no caller hears, or too many.
    Complaint(String),
    /// Which build it is.
    Build(BuildId),
}

impl Report {
    pub(super) fn to_message(&self) -> Vec<u8> {
        let (kind, text) = match self {
            Self::Reason(text) => ('r', text.clone()),
            Self::Warning(text) => ('w', text.clone()),
            Self::Complaint(text) => ('c', text.clone()),
            Self::Build(build) => ('b', build.to_string()),
        };
        format!("{kind}{text}").into_bytes()
    }

    pub(super) fn parse(message: &[u8]) -> Option<Self> {
        let text = String::from_utf8_lossy(message.get(1..)?).into_owned();
        match message[0] {
            b'r' => Some(Self::Reason(text)),
            b'w' => Some(Self::Warning(text)),
            b'c' => Some(Self::Complaint(text)),
            b'b' => BuildId::parse(&text).map(Self::Build),
            _ => None,
        }
    }
}
