//! Segments whose server has died: finding and removing them.

use super::anonymous;
use super::create::CreateError;
use super::location::{Location, MODE, NAME_PREFIX, NAMED_DIRECTORY};
use crate::layout::{LAYOUT_VERSION, MAGIC, PAGE};
use crate::participant::{Lease, LeaseError};
use crate::sys;
use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

/// A segment found by [`list`].
#[derive(Debug)]
#[non_exhaustive]
pub struct Found {
    /// Its location.
    pub location: Location,
    /// Whether its server lives.
    pub live: bool,
}

/// All named segments of this machine, and lease files without a segment, by name.
///
/// # Errors
/// If the directory cannot be read.
pub fn list() -> io::Result<Vec<Found>> {
    let mut names = std::collections::BTreeSet::new();
    for entry in std::fs::read_dir(NAMED_DIRECTORY)? {
        let name = entry?.file_name();
        let Some(name) = name.to_str().and_then(|n| n.strip_prefix(NAME_PREFIX)) else { continue };
        names.insert(name.strip_suffix(".lease").unwrap_or(name).to_string());
    }
    let places = names.iter().filter_map(|name| Location::named(name).ok());
    Ok(places.map(|location| Found { live: is_live(&location), location }).collect())
}

/// Opens the lease of a segment.
///
/// # Errors
/// `NotFound` if there is none; `PermissionDenied` if it is another user's.
pub fn open_lease(location: &Location) -> io::Result<Lease> {
    match location {
        Location::Anonymous(of) => anonymous::open_lease(of),
        _ => Lease::open(&location.lease_path()),
    }
}

/// Whether the server of a segment lives: its lease is held, or is another user's and cannot be read.
#[must_use]
pub fn is_live(location: &Location) -> bool {
    match open_lease(location) {
        Ok(lease) => lease.is_served().unwrap_or(true),
        Err(e) => e.kind() == io::ErrorKind::PermissionDenied,
    }
}

/// The result of removing a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Removed {
    /// It was stale and is gone (or would be, in a dry run).
    Stale,
    /// Its server lives; it was left alone.
    Live,
    /// It is not a segment; it was left alone.
    Foreign,
    /// It is anonymous and has no files: it goes with the last process that has it.
    Nothing,
}

/// Removes a segment whose lease is free; with `dry_run`, only says what would happen.
///
/// Both files must be this user's. Root removes another user's too, but with that user's rights on files: in a
/// directory where all users may make files, that user could replace them by another user's files meanwhile.
///
/// # Errors
/// What the operating system says; `PermissionDenied` for another user's files.
pub fn remove_if_stale(location: &Location, dry_run: bool) -> io::Result<Removed> {
    if let Location::Anonymous(_) = location {
        return Ok(if is_live(location) { Removed::Live } else { Removed::Nothing });
    }
    let of = |path: &Path| std::fs::symlink_metadata(path).ok();
    let user = sys::process::user_id();
    let Some(meta) = of(&location.path()).or_else(|| of(&location.lease_path())) else {
        return remove_as(user, location, dry_run);
    };
    match meta.uid() {
        owner if owner == user => remove_as(user, location, dry_run),
        owner if user == 0 => {
            sys::process::on_files_as(owner, meta.gid(), || remove_as(owner, location, dry_run))?
        }
        owner => Err(io::Error::new(io::ErrorKind::PermissionDenied, LeaseError::Owner { owner })),
    }
}

/// [`remove_if_stale`] of files that are this user's, by a thread that has that user's rights.
fn remove_as(user: u32, location: &Location, dry_run: bool) -> io::Result<Removed> {
    let path = location.path();
    let exists = std::fs::symlink_metadata(&path).is_ok();
    if exists && !is_segment_file(&path, user).unwrap_or(false) {
        return Ok(Removed::Foreign);
    }
    if dry_run {
        return Ok(if is_live(location) { Removed::Live } else { Removed::Stale });
    }
    let lease = match Lease::acquire(&location.lease_path(), user) {
        Ok(Some(lease)) => lease,
        Ok(None) => return Ok(Removed::Live),
        Err(LeaseError::System(e)) => return Err(e),
        Err(e) => return Err(io::Error::new(io::ErrorKind::PermissionDenied, e)),
    };
    crash_point!("stale.leased");
    if exists {
        match std::fs::remove_file(&path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
    }
    crash_point!("stale.removed");
    std::fs::remove_file(lease.path())?;
    Ok(Removed::Stale)
}

/// Removes the segment of a dead server. The caller holds the lease.
pub(super) fn remove_stale(path: &Path) -> Result<(), CreateError> {
    let system = |what| move |error| CreateError::System { what, path: path.to_path_buf(), error };
    let meta = match std::fs::symlink_metadata(path) {
        Ok(meta) => meta,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(system("look at")(e)),
    };
    let (owner, user) = (meta.uid(), sys::process::user_id());
    if owner != user {
        return Err(CreateError::Owner { path: path.to_path_buf(), owner, user });
    }
    if !meta.is_file() || !is_segment_file(path, user).map_err(system("read"))? {
        return Err(CreateError::Foreign { path: path.to_path_buf() });
    }
    std::fs::remove_file(path).map_err(system("remove"))
}

/// Whether a file is a segment of this user's, finished or begun: it has our magic, or the rights that we give
/// and nothing but zeros where the header would be (its creator died before writing it).
fn is_segment_file(path: &Path, user: u32) -> io::Result<bool> {
    use std::io::Read;
    let mut head = Vec::with_capacity(PAGE);
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_CLOEXEC) // a FIFO must not hold us
        .open(path)?;
    let meta = file.metadata()?;
    if !meta.is_file() || meta.uid() != user {
        return Ok(false);
    }
    file.take(PAGE as u64).read_to_end(&mut head)?;
    let finished = head.starts_with(&MAGIC.to_le_bytes());
    // The version is written first, the magic last.
    let begun = head.iter().all(|&b| b == 0)
        || head.starts_with(&[0; 8]) && head[8..].starts_with(&LAYOUT_VERSION.to_le_bytes());
    Ok(finished || begun && meta.mode() & 0o777 == MODE)
}
