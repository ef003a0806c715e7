//! What lies at a location, found out without a change and without trust in its bytes.
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
//!
//! An anonymous segment is no file: it is there as long as a process has it, and is opened through that process.

use crate::error::ToolError;
use crate::units;
use ringmill_shm::segment::{self, AttachError, Location, Removed, Run, Segment};
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
pub(crate) enum Liveness {
    /// Its server lives.
    Live,
    /// Its server has died.
    Stale,
    /// It is no segment.
    Foreign,
    /// The tool cannot read it.
    Unknown,
}

impl Liveness {
    pub(crate) fn text(self) -> &'static str {
        match self {
            Self::Live => "live",
            Self::Stale => "stale",
            Self::Foreign => "foreign",
            Self::Unknown => "unknown",
        }
    }
}

/// The first facts of `list` and `show`.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Identity {
    /// The argument that commands take.
    pub(crate) name: String,
    /// The file.
    pub(crate) path: String,
    /// Whether it is in use.
    pub(crate) state: Liveness,
    /// The server's last report.
    pub(crate) run: Option<Run>,
    /// Size of the file.
    pub(crate) bytes: Option<u64>,
    /// When the server created it, seconds since 1970.
    pub(crate) created_unix_s: Option<u64>,
    /// How many seconds ago that was.
    pub(crate) age_s: Option<u64>,
    /// The file's owner.
    pub(crate) user_id: Option<u32>,
    /// The owner by name.
    pub(crate) user: Option<String>,
}

/// What lies at a location.
#[derive(Debug)]
pub(crate) struct Survey {
    pub(crate) location: Location,
    pub(crate) state: Liveness,
    /// Why there is no `segment`.
    pub(crate) why: Option<String>,
    /// Mapped read-only; none if that fails.
    pub(crate) segment: Option<Segment>,
    bytes: Option<u64>,
    user_id: Option<u32>,
}

impl Survey {
    /// Surveys a location; `None` if neither file exists, or the process does not have the segment.
    pub(crate) fn of(location: Location) -> Result<Option<Self>, ToolError> {
        if let Location::Anonymous(_) = location {
            return Self::of_anonymous(location);
        }
        let (file, lease) = (look_at(&location.path())?, look_at(&location.lease_path())?);
        let Some(owner) = file.as_ref().or(lease.as_ref()).map(Metadata::uid) else {
            return Ok(None);
        };
        let mut survey = Self {
            state: Liveness::Unknown,
            why: None,
            segment: None,
            bytes: file.as_ref().map(Metadata::len),
            user_id: Some(owner),
            location,
        };
        (survey.state, survey.why) = survey.judge(file.as_ref(), lease.as_ref());
        // A server that ended in order meanwhile has left nothing.
        let gone = survey.segment.is_none()
            && look_at(&survey.location.path())?.is_none()
            && look_at(&survey.location.lease_path())?.is_none();
        Ok((!gone).then_some(survey))
    }

    fn of_anonymous(location: Location) -> Result<Option<Self>, ToolError> {
        let mut survey =
            Self { state: Liveness::Unknown, why: None, segment: None, bytes: None, user_id: None, location };
        let error = match Segment::inspect(survey.location.clone()) {
            Ok(segment) => {
                let meta = segment.file().metadata().ok();
                (survey.bytes, survey.user_id) =
                    (meta.as_ref().map(Metadata::len), meta.as_ref().map(Metadata::uid));
                survey.state = match segment.lease().is_served() {
                    Ok(true) => Liveness::Live,
                    Ok(false) => Liveness::Stale,
                    Err(_) => Liveness::Unknown,
                };
                survey.segment = Some(segment);
                return Ok(Some(survey));
            }
            Err(AttachError::System { error, .. }) if error.kind() == io::ErrorKind::NotFound => {
                return Ok(None);
            }
            Err(error @ AttachError::Several { .. }) => return Err(ToolError::Several(error.to_string())),
            Err(error) => error,
        };
        if matches!(error, AttachError::Foreign { .. }) {
            survey.state = Liveness::Foreign;
        }
        survey.why = Some(reason(error, &survey.location));
        Ok(Some(survey))
    }

    /// Opens the segment that a command names.
    pub(crate) fn open(name: &str) -> Result<(Self, Segment), ToolError> {
        Self::open_at(Location::parse(name)?)
    }

    /// Opens the segment at a location.
    pub(crate) fn open_at(location: Location) -> Result<(Self, Segment), ToolError> {
        let path = location.path();
        let Some(mut survey) = Self::of(location.clone())? else {
            return Err(match &location {
                Location::Anonymous(of) => {
                    ToolError::NotHeld { label: of.label().into(), process: of.process() }
                }
                _ => ToolError::Missing { name: location.to_text(), path },
            });
        };
        match survey.segment.take() {
            Some(segment) => Ok((survey, segment)),
            None => {
                let why = survey.why.unwrap_or_default();
                Err(match survey.state {
                    Liveness::Foreign => ToolError::Foreign { path, why },
                    _ => ToolError::Unreadable { path, why },
                })
            }
        }
    }

    /// For commands that watch what happens.
    pub(crate) fn must_live(&self) -> Result<(), ToolError> {
        match self.state {
            Liveness::Stale => Err(ToolError::Dead { name: shown(&self.location.to_text()) }),
            _ => Ok(()),
        }
    }

    fn judge(&mut self, file: Option<&Metadata>, lease: Option<&Metadata>) -> (Liveness, Option<String>) {
        if let Some(what) = file.and_then(irregular) {
            return (Liveness::Foreign, Some(format!("it is {what}")));
        }
        if let Some(what) = lease.and_then(irregular) {
            return (Liveness::Foreign, Some(format!("its lease file is {what}")));
        }
        if lease.is_some_and(|l| l.len() != 0) {
            return (Liveness::Foreign, Some("its lease file has content".into()));
        }
        let (me, others) = (user_id(), [file, lease].into_iter().flatten().map(Metadata::uid));
        if let Some(other) = others.into_iter().find(|&uid| uid != me && me != 0) {
            return (Liveness::Unknown, Some(format!("it belongs to user {}", user_text(other))));
        }
        let state = match server_lives(&self.location) {
            Ok(true) => Liveness::Live,
            Ok(false) => Liveness::Stale,
            Err(error) => return (Liveness::Unknown, Some(format!("its lease cannot be read: {error}"))),
        };
        if file.is_none() {
            return (state, Some("only a lease file, no segment".into()));
        }
        let error = match Segment::inspect(self.location.clone()) {
            Ok(segment) => {
                self.segment = Some(segment);
                return (state, None);
            }
            Err(error) => error,
        };
        let unfinished = matches!(error, AttachError::Foreign { .. });
        // A dry run: tells whether the first bytes are those of a segment, finished or begun.
        let foreign = matches!(segment::remove_if_stale(&self.location, true), Ok(Removed::Foreign))
            // Zeros alone prove nothing: a creator makes the lease file first.
            || unfinished && lease.is_none();
        (if foreign { Liveness::Foreign } else { state }, Some(reason(error, &self.location)))
    }

    /// Its first facts.
    pub(crate) fn identity(&self, segment: Option<&Segment>) -> Identity {
        let created_unix_s = segment.map(|s| s.identity().created_unix_s);
        Identity {
            name: shown(&self.location.to_text()),
            path: shown_path(&self.location.path()),
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

/// How a stale segment goes, by the name that it has in reports.
pub(crate) fn way_out(name: &str) -> String {
    match Location::parse(name) {
        Ok(Location::Anonymous(_)) => "it goes with the last process that has it".into(),
        _ => format!("'shmtool clean {name}' removes it"),
    }
}

/// What a text says of a dead server's segment; of any other, nothing.
pub(crate) fn stale_line(state: Liveness, name: &str) -> String {
    match state {
        Liveness::Stale => format!("It is stale: its server has died; {}.\n", way_out(name)),
        _ => String::new(),
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

/// The kind of a file that is not a plain one. To open a pipe could block for ever, so the tool opens plain files only.
fn irregular(meta: &Metadata) -> Option<&'static str> {
    let kind = meta.file_type();
    match () {
        () if kind.is_file() => None,
        () if kind.is_symlink() => Some("a symbolic link"),
        () if kind.is_dir() => Some("a directory"),
        () => Some("not a plain file"),
    }
}

/// Unlike `segment::is_live`, it does not take "may not look" for "dead".
fn server_lives(location: &Location) -> io::Result<bool> {
    match segment::open_lease(location) {
        Ok(lease) => lease.is_served(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// An attach error without the path, which the message has beside it.
fn reason(error: AttachError, location: &Location) -> String {
    match error {
        AttachError::Foreign { why, .. } => why.to_string(),
        AttachError::Version { found, expected, .. } => {
            format!("it has layout version {found}, this program reads {expected}")
        }
        AttachError::Size { found, stated, needed, .. } => {
            format!("it has {found} bytes; its header states {stated}, its shape needs {needed}")
        }
        AttachError::Mode { path, mode } => {
            let what = if path == location.lease_path() { "its lease file" } else { "it" };
            format!("{what} has mode {mode:04o}; only its owner may have rights to it")
        }
        AttachError::Fingerprint { .. } => {
            "its fingerprint differs: another build of ringmill wrote it".into()
        }
        AttachError::System { path, error, .. }
            if path == location.lease_path() && error.kind() == io::ErrorKind::NotFound =>
        {
            "it has no lease file".into()
        }
        AttachError::System { what, path, error } => {
            format!("cannot {what} {}: {error}", shown_path(&path))
        }
        other => other.to_string(),
    }
}
