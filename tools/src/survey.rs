//! What lies at a place, found out without changing anything and without believing anything.
//!
//! # Protocol
//!
//! | Seen | State |
//! |---|---|
//! | neither segment nor lease file | nothing is there |
//! | one of them is a link, a directory, a pipe; the lease file has content; no segment's first bytes | foreign |
//! | another user's | unknown, unless we are root |
//! | the server's byte of the lease is held | live |
//! | it is free, or there is no lease file | stale |

use crate::error::ToolError;
use crate::units;
use ringmill_shm::participant::Lease;
use ringmill_shm::segment::{self, AttachError, Place, Removed, Run, Segment};
use ringmill_shm::sys::process::user_id;
use ringmill_shm::text::{shown, shown_path};
use serde::Serialize;
use std::fs::Metadata;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Whether a segment is in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum State {
    /// Its server lives.
    Live,
    /// Its server has died.
    Stale,
    /// It is no segment.
    Foreign,
    /// It cannot be told.
    Unknown,
}

impl State {
    pub(crate) fn text(self) -> &'static str {
        match self {
            Self::Live => "live",
            Self::Stale => "stale",
            Self::Foreign => "foreign",
            Self::Unknown => "unknown",
        }
    }
}

/// What `list` and `show` say first.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Identity {
    /// What commands take.
    pub(crate) name: String,
    /// The file.
    pub(crate) path: String,
    /// Whether it is in use.
    pub(crate) state: State,
    /// What the server last said.
    pub(crate) run: Option<Run>,
    /// Size of the file.
    pub(crate) bytes: Option<u64>,
    /// When it was made, seconds since 1970.
    pub(crate) created_unix_s: Option<u64>,
    /// How long ago that is.
    pub(crate) age_s: Option<u64>,
    /// Whose file it is.
    pub(crate) user_id: Option<u32>,
    /// The same by name.
    pub(crate) user: Option<String>,
}

/// What was found at a place.
#[derive(Debug)]
pub(crate) struct Survey {
    pub(crate) place: Place,
    pub(crate) state: State,
    /// Why there is no `segment`.
    pub(crate) why: Option<String>,
    /// Mapped to look at; none if it cannot be.
    pub(crate) segment: Option<Segment>,
    bytes: Option<u64>,
    user_id: Option<u32>,
}

impl Survey {
    /// Looks; `None` if nothing is there.
    pub(crate) fn of(place: Place) -> Result<Option<Self>, ToolError> {
        let (file, lease) = (look_at(&place.path())?, look_at(&place.lease_path())?);
        let Some(owner) = file.as_ref().or(lease.as_ref()).map(Metadata::uid) else {
            return Ok(None);
        };
        let mut survey = Self {
            state: State::Unknown,
            why: None,
            segment: None,
            bytes: file.as_ref().map(Metadata::len),
            user_id: Some(owner),
            place,
        };
        (survey.state, survey.why) = survey.judge(file.as_ref(), lease.as_ref());
        // A server that ended in order while we looked has left nothing.
        let gone = survey.segment.is_none()
            && look_at(&survey.place.path())?.is_none()
            && look_at(&survey.place.lease_path())?.is_none();
        Ok((!gone).then_some(survey))
    }

    /// The segment that a command is about.
    pub(crate) fn open(name: &str) -> Result<(Self, Segment), ToolError> {
        let place = Place::parse(name)?;
        let path = place.path();
        let Some(mut survey) = Self::of(place)? else {
            return Err(ToolError::Missing { name: name.into(), path });
        };
        match survey.segment.take() {
            Some(segment) => Ok((survey, segment)),
            None => {
                let why = survey.why.unwrap_or_default();
                Err(match survey.state {
                    State::Foreign => ToolError::Foreign { path, why },
                    _ => ToolError::Unreadable { path, why },
                })
            }
        }
    }

    fn judge(&mut self, file: Option<&Metadata>, lease: Option<&Metadata>) -> (State, Option<String>) {
        if let Some(what) = file.and_then(irregular) {
            return (State::Foreign, Some(format!("it is {what}")));
        }
        if let Some(what) = lease.and_then(irregular) {
            return (State::Foreign, Some(format!("its lease file is {what}")));
        }
        if lease.is_some_and(|l| l.len() != 0) {
            return (State::Foreign, Some("its lease file has content".into()));
        }
        let (me, others) = (user_id(), [file, lease].into_iter().flatten().map(Metadata::uid));
        if let Some(other) = others.into_iter().find(|&uid| uid != me && me != 0) {
            return (State::Unknown, Some(format!("it belongs to user {}", user_text(other))));
        }
        let state = match server_lives(&self.place) {
            Ok(true) => State::Live,
            Ok(false) => State::Stale,
            Err(error) => return (State::Unknown, Some(format!("its lease cannot be read: {error}"))),
        };
        if file.is_none() {
            return (state, Some("only a lease file, no segment".into()));
        }
        let error = match Segment::inspect(self.place.clone()) {
            Ok(segment) => {
                self.segment = Some(segment);
                return (state, None);
            }
            Err(error) => error,
        };
        let unfinished = matches!(error, AttachError::Foreign { .. });
        // A rehearsal: says whether the first bytes are a segment's, finished or begun.
        let foreign = matches!(segment::remove_if_stale(&self.place, true), Ok(Removed::Foreign))
            // Zeros alone prove nothing: a segment's creator has made the lease file first.
            || unfinished && lease.is_none();
        (if foreign { State::Foreign } else { state }, Some(reason(error, &self.place)))
    }

    /// Its first facts.
    pub(crate) fn identity(&self, segment: Option<&Segment>) -> Identity {
        let created_unix_s = segment.map(|s| s.identity().created_unix_s);
        Identity {
            name: shown(&self.place.to_text()),
            path: shown_path(&self.place.path()),
            state: self.state,
            run: segment.map(Segment::run),
            bytes: self.bytes,
            created_unix_s,
            age_s: created_unix_s.map(|created| units::now_unix_s().saturating_sub(created)),
            user_id: self.user_id,
            user: self.user_id.and_then(units::user_name),
        }
    }

    pub(crate) fn bytes(&self) -> Option<u64> {
        self.bytes
    }
}

/// A user by name, or else by number.
pub(crate) fn user_text(user_id: u32) -> String {
    units::user_name(user_id).unwrap_or_else(|| user_id.to_string())
}

/// A file's facts, links not followed; `None` if there is no file.
fn look_at(path: &Path) -> Result<Option<Metadata>, ToolError> {
    match std::fs::symlink_metadata(path) {
        Ok(meta) => Ok(Some(meta)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(ToolError::System { what: "look at", path: path.into(), error }),
    }
}

/// What it is if not a plain file. Opening a pipe could block for ever, so nothing but plain files is
/// opened.
fn irregular(meta: &Metadata) -> Option<&'static str> {
    let kind = meta.file_type();
    match () {
        () if kind.is_file() => None,
        () if kind.is_symlink() => Some("a symbolic link"),
        () if kind.is_dir() => Some("a directory"),
        () => Some("no plain file"),
    }
}

/// Unlike `segment::is_live`, it does not take "may not look" for "dead".
fn server_lives(place: &Place) -> io::Result<bool> {
    match Lease::open(&place.lease_path()) {
        Ok(lease) => lease.is_served(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// An attach error without the path, which is said beside it.
fn reason(error: AttachError, place: &Place) -> String {
    match error {
        AttachError::Foreign { why, .. } => why,
        AttachError::Version { found, expected, .. } => {
            format!("it has layout version {found}, this program reads {expected}")
        }
        AttachError::Size { found, stated, needed, .. } => {
            format!("it has {found} bytes; its header says {stated}, its shape makes {needed}")
        }
        AttachError::Mode { path, mode } => {
            let what = if path == place.lease_path() { "its lease file" } else { "it" };
            format!("{what} has mode {mode:04o}; only its user may have rights to it")
        }
        AttachError::Fingerprint { .. } => "its fingerprint is not that of its sizes".into(),
        AttachError::System { path, error, .. }
            if path == place.lease_path() && error.kind() == io::ErrorKind::NotFound =>
        {
            "it has no lease file".into()
        }
        AttachError::System { what, path, error } => {
            format!("cannot {what} {}: {error}", shown_path(&path))
        }
        other => other.to_string(),
    }
}
