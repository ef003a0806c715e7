//! The location of a segment: a name or a path, and the lease file beside it.

use crate::layout::NAME_LIMIT;
use crate::sys::memfd;
use std::io;
use std::path::{Path, PathBuf};

/// The prefix of the files of named segments.
pub(crate) const NAME_PREFIX: &str = "ringmill-";
/// What the name of a lease file has at its end.
pub(super) const LEASE_SUFFIX: &str = ".lease";
/// The rights of a segment's file: its user's alone. `shared_memory` gives the same, less the umask's.
pub(super) const MODE: u32 = 0o600;
/// Where named segments lie.
pub const NAMED_DIRECTORY: &str = "/dev/shm";

/// The location of a segment.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Location {
    /// A POSIX shared memory object of this name (without the prefix).
    Named(String),
    /// A file at this path, on tmpfs or hugetlbfs by preference.
    File(PathBuf),
    /// Memory that no file system names: processes have it by descriptor.
    Anonymous(Anonymous),
}

/// The location of an anonymous segment: the process that has it, and which of that process's segments it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Anonymous {
    pub(super) label: String,
    /// The server's process, or another one that has the segment.
    pub(super) process: u32,
    /// The number of its lease's file, which no two have; none: that process has one segment of the label.
    pub(super) lease: Option<u64>,
}

impl Anonymous {
    /// Its label, which need not be unique.
    #[must_use]
    pub fn label(&self) -> &str {
        &self.label
    }

    /// The process that has it.
    #[must_use]
    pub fn process(&self) -> u32 {
        self.process
    }

    /// The number of its lease's file, if it is known.
    #[must_use]
    pub fn lease(&self) -> Option<u64> {
        self.lease
    }

    /// The same, as the only segment of its label that the process has.
    #[must_use]
    pub fn only(self) -> Self {
        Self { lease: None, ..self }
    }

    /// The name of the memory of a segment, and of its lease's.
    pub(super) fn name(&self) -> String {
        let lease = self.lease.map_or_else(String::new, |number| format!(".{number}"));
        format!("{NAME_PREFIX}{}{lease}", self.label)
    }

    pub(super) fn lease_name(&self) -> String {
        format!("{NAME_PREFIX}{}{LEASE_SUFFIX}", self.label)
    }
}

impl Location {
    /// The location of a named segment.
    ///
    /// # Errors
    /// A name that is empty, too long, or has other characters than `A-Z a-z 0-9 . _ -`, or begins with
    /// a dot.
    pub fn named(name: &str) -> Result<Self, NameError> {
        checked(name).map(|()| Self::Named(name.into()))
    }

    /// The location of an anonymous segment that this process is about to create. Any number of them may have one label.
    ///
    /// # Errors
    /// A label that could not be a [name](Self::named).
    pub fn anonymous(label: &str) -> Result<Self, NameError> {
        checked(label)?;
        Ok(Self::Anonymous(Anonymous { label: label.into(), process: std::process::id(), lease: None }))
    }

    /// The segment's file. An anonymous segment has none: then the path by which messages call it, as `/proc` does.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        match self {
            Self::Named(name) => Path::new(NAMED_DIRECTORY).join(format!("{NAME_PREFIX}{name}")),
            Self::File(path) => path.clone(),
            Self::Anonymous(of) => memfd::shown_as(&of.name()),
        }
    }

    /// The lease file beside it; of an anonymous segment, as [`path`](Self::path).
    #[must_use]
    pub fn lease_path(&self) -> PathBuf {
        if let Self::Anonymous(of) = self {
            return memfd::shown_as(&of.lease_name());
        }
        let mut path = self.path().into_os_string();
        path.push(LEASE_SUFFIX);
        path.into()
    }

    /// This location, independent of the working directory.
    ///
    /// # Errors
    /// A path that is empty, is not UTF-8 or has control characters: other processes get it as text, on one line.
    pub fn absolute(&self) -> io::Result<Self> {
        let Self::File(path) = self else { return Ok(self.clone()) };
        let refuse = |why| Err(io::Error::new(io::ErrorKind::InvalidInput, why));
        match path.to_str() {
            None => return refuse("it is not UTF-8"),
            Some(text) if text.chars().any(char::is_control) => return refuse("it has control characters"),
            Some(_) => {}
        }
        Ok(Self::File(std::path::absolute(path)?))
    }

    /// The text that [`parse`](Self::parse) reads.
    #[must_use]
    pub fn to_text(&self) -> String {
        match self {
            Self::Named(name) => name.clone(),
            Self::File(path) => path.display().to_string(),
            Self::Anonymous(Anonymous { label, process, lease: None }) => format!("{label}@{process}"),
            Self::Anonymous(Anonymous { label, process, lease: Some(lease) }) => {
                format!("{label}@{process}:{lease}")
            }
        }
    }

    /// The name of its server: as [`to_text`](Self::to_text), but of an anonymous segment the label alone.
    #[must_use]
    pub fn server_name(&self) -> String {
        match self {
            Self::Anonymous(of) => of.label.clone(),
            other => other.to_text(),
        }
    }

    /// A name; a path if it has a slash, by which a named segment is that too; or `LABEL@PID`, the anonymous segment of this label that this process has,
    /// which is `LABEL@PID:LEASE`, with the number of its lease's file, where the process has several.
    ///
    /// # Errors
    /// As [`named`](Self::named).
    pub fn parse(text: &str) -> Result<Self, NameError> {
        if text.contains('/') {
            let name = text
                .strip_prefix(NAMED_DIRECTORY)
                .and_then(|rest| rest.strip_prefix('/')?.strip_prefix(NAME_PREFIX));
            return Ok(name
                .and_then(|name| Self::named(name).ok())
                .unwrap_or_else(|| Self::File(text.into())));
        }
        let Some((label, address)) = text.split_once('@') else { return Self::named(text) };
        checked(label)?;
        let (process, lease) = match address.split_once(':') {
            Some((process, lease)) => (process, lease.parse().map(Some)),
            None => (address, Ok(None)),
        };
        match (process.parse(), lease) {
            (Ok(process), Ok(lease)) => {
                Ok(Self::Anonymous(Anonymous { label: label.into(), process, lease }))
            }
            _ => Err(refused(text)),
        }
    }
}

/// A name that no segment can have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{name:?} cannot name a segment: 1 to {longest} of A-Z a-z 0-9 . _ - are allowed, no dot first, no \".lease\" last{}",
    if name.contains('@') { "; an anonymous segment is LABEL@PID" } else { "" }
)]
pub struct NameError {
    /// The name.
    pub name: String,
    /// The longest possible.
    pub longest: usize,
}

/// The longest name.
const LONGEST: usize = NAME_LIMIT - NAME_PREFIX.len();

/// Whether this can name a segment.
fn checked(name: &str) -> Result<(), NameError> {
    let fine = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    let is_one = (1..=LONGEST).contains(&name.len()) && !name.starts_with('.') && name.chars().all(fine);
    if is_one && !name.ends_with(LEASE_SUFFIX) { Ok(()) } else { Err(refused(name)) }
}

fn refused(name: &str) -> NameError {
    // No more of it than fits an error.
    NameError { name: name.chars().take(2 * LONGEST).collect(), longest: LONGEST }
}

/// The POSIX name of a named segment.
pub(super) fn posix_name(location: &Location) -> String {
    let file = location.path();
    format!("/{}", file.file_name().unwrap_or_default().to_string_lossy())
}
