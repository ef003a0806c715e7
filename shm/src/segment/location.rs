//! The location of a segment: a name or a path, and the lease file beside it.

use crate::layout::NAME_LIMIT;
use std::io;
use std::path::{Path, PathBuf};

/// The prefix of the files of named segments.
pub(crate) const NAME_PREFIX: &str = "ringmill-";
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
}

impl Location {
    /// The location of a named segment.
    ///
    /// # Errors
    /// A name that is empty, too long, or has other characters than `A-Z a-z 0-9 . _ -`, or begins with
    /// a dot.
    pub fn named(name: &str) -> Result<Self, NameError> {
        let fine = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
        let longest = NAME_LIMIT - NAME_PREFIX.len();
        if name.is_empty()
            || name.len() > longest
            || name.starts_with('.')
            || !name.chars().all(fine)
            || name.ends_with(".lease")
        {
            // No more of it than fits an error.
            let name = name.chars().take(2 * longest).collect();
            return Err(NameError { name, longest });
        }
        Ok(Self::Named(name.into()))
    }

    /// The segment's file.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        match self {
            Self::Named(name) => Path::new(NAMED_DIRECTORY).join(format!("{NAME_PREFIX}{name}")),
            Self::File(path) => path.clone(),
        }
    }

    /// The lease file beside it.
    #[must_use]
    pub fn lease_path(&self) -> PathBuf {
        let mut path = self.path().into_os_string();
        path.push(".lease");
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
        }
    }

    /// A name, or a path if it has a slash.
    ///
    /// # Errors
    /// As [`named`](Self::named).
    pub fn parse(text: &str) -> Result<Self, NameError> {
        if text.contains('/') { Ok(Self::File(text.into())) } else { Self::named(text) }
    }
}

/// A name that no segment can have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{name:?} cannot name a segment: 1 to {longest} of A-Z a-z 0-9 . _ - are allowed, no dot first, no \".lease\" last"
)]
pub struct NameError {
    /// The name.
    pub name: String,
    /// The longest possible.
    pub longest: usize,
}

/// The POSIX name of a named segment.
pub(super) fn posix_name(location: &Location) -> String {
    let file = location.path();
    format!("/{}", file.file_name().unwrap_or_default().to_string_lossy())
}
