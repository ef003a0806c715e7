//! Anonymous segments: memory that no file system names.
//!
//! # Layout
//!
//! Segment and lease are a file of memory each ([`memfd`]): `ringmill-LABEL.LEASE` and `ringmill-LABEL.lease`, where
//! LEASE is the number of the lease's file. So a process that sees both among the descriptors of another one can tell
//! which belong together, whatever their labels.
//!
//! # Protocol
//!
//! Workers get both by descriptor. Any other process finds them by their [address](Location::Anonymous): among the
//! descriptors of the server, or of another process that has them. It opens both again through `/proc`, and checks them
//! as it checks files; they must have no name.
//!
//! # Invariants
//!
//! * The creator fixes the segment's size for ever, if the kernel can: no process can make it shorter.
//!
//! # Crash
//!
//! The kernel frees the memory when the last process that has it ends: there is nothing to remove.

use super::location::{Anonymous, Location, NAME_PREFIX};
use super::{AttachError, Segment};
use crate::participant::{Lease, SERVER};
use crate::sys::memfd::{self, Descriptor};
use std::collections::BTreeMap;
use std::fs::File;
use std::io;

/// The label, and the number of the lease's file, that the name of a segment's memory says.
fn parts_of(name: &str) -> Option<(&str, u64)> {
    let (label, lease) = name.strip_prefix(NAME_PREFIX)?.rsplit_once('.')?;
    Some((label, lease.parse().ok()?))
}

/// An anonymous segment that was found.
pub(super) struct Opened {
    pub(super) file: File,
    pub(super) lease: Lease,
}

/// Opens a segment and its lease.
///
/// # Errors
/// If the process has no such segment, or several; what the system says.
pub(super) fn open(of: &Anonymous, write: bool) -> Result<Opened, AttachError> {
    let location = Location::Anonymous(of.clone());
    let system = |what| {
        let path = location.path();
        move |error| AttachError::System { what, path, error }
    };
    let all = memfd::descriptors_of(of.process).map_err(system("look for"))?;
    // Several descriptors may be of one segment.
    let mut found: BTreeMap<u64, &Descriptor> = BTreeMap::new();
    for descriptor in &all {
        let parts = parts_of(&descriptor.name).filter(|(label, _)| *label == of.label);
        let wanted = parts.filter(|(_, lease)| of.lease.is_none_or(|wanted| wanted == *lease));
        found.extend(wanted.map(|(_, lease)| (lease, descriptor)));
    }
    if found.len() > 1 {
        let address = |&lease| Location::Anonymous(Anonymous { lease: Some(lease), ..of.clone() }).to_text();
        let all = found.keys().map(address).collect::<Vec<_>>().join(", ");
        return Err(AttachError::Several { address: location.to_text(), all });
    }
    let none = || io::Error::from(io::ErrorKind::NotFound);
    let (lease, descriptor) = found.pop_first().ok_or_else(none).map_err(system("look for"))?;
    let file = descriptor.open(write).map_err(system("open"))?;
    let lease = open_lease_among(of, lease, &all).map_err(|error| {
        let path = location.lease_path();
        AttachError::System { what: "open", path, error }
    })?;
    Ok(Opened { file, lease })
}

/// Opens the lease of a segment alone.
///
/// # Errors
/// `NotFound` if the process has no such segment.
pub(super) fn open_lease(of: &Anonymous) -> io::Result<Lease> {
    match of.lease {
        Some(lease) => open_lease_among(of, lease, &memfd::descriptors_of(of.process)?),
        None => open(of, false).map(|opened| opened.lease).map_err(|error| match error {
            AttachError::System { error, .. } => error,
            other => io::Error::other(other),
        }),
    }
}

fn open_lease_among(of: &Anonymous, lease: u64, all: &[Descriptor]) -> io::Result<Lease> {
    let name = of.lease_name();
    let is_it = |d: &&Descriptor| d.name == name && d.file_number().is_ok_and(|number| number == lease);
    let descriptor = all.iter().find(is_it).ok_or(io::ErrorKind::NotFound)?;
    Lease::of_description(|| descriptor.open(true), memfd::shown_as(&name))
}

/// An anonymous segment found by [`list_anonymous`].
#[derive(Debug)]
#[non_exhaustive]
pub struct FoundAnonymous {
    /// Its address: by its server's process, or, if that has ended or cannot be looked into, by another that has it.
    pub location: Location,
    /// Whether its server lives.
    pub live: bool,
    /// The processes that have it open, in order.
    pub held_by: Vec<u32>,
}

/// The anonymous segments of all processes that this one may look into: those of its user, or, for root, of all users.
/// By label.
///
/// # Errors
/// Without `/proc`.
pub fn list_anonymous() -> io::Result<Vec<FoundAnonymous>> {
    let mut found: BTreeMap<(String, u64), Vec<u32>> = BTreeMap::new();
    for process in memfd::processes()? {
        // One that has ended meanwhile, or is another user's, has none.
        for descriptor in memfd::descriptors_of(process).unwrap_or_default() {
            let Some((label, lease)) = parts_of(&descriptor.name) else { continue };
            if Location::anonymous(label).is_err() {
                continue; // another program's memory
            }
            let held_by = found.entry((label.into(), lease)).or_default();
            if held_by.last() != Some(&process) {
                held_by.push(process);
            }
        }
    }
    let one = |((label, lease), held_by): ((String, u64), Vec<u32>)| {
        let at = |process| Anonymous { label: label.clone(), process, lease: Some(lease) };
        let process = server_among(&held_by, at).unwrap_or(held_by[0]);
        let of = at(process);
        // It may be that it cannot be asked; then it is not called dead.
        let live = match open_lease(&of) {
            Ok(lease) => lease.is_served().unwrap_or(true),
            Err(error) => error.kind() == io::ErrorKind::PermissionDenied,
        };
        FoundAnonymous { location: Location::Anonymous(of), live, held_by }
    };
    Ok(found.into_iter().map(one).collect())
}

/// The server's process among those that have its segment.
fn server_among(held_by: &[u32], at: impl Fn(u32) -> Anonymous) -> Option<u32> {
    let look = |&process: &u32| Segment::inspect(Location::Anonymous(at(process))).ok();
    let server = held_by.iter().find_map(look)?.participants()[SERVER as usize].pid();
    // The table has the number that the server has in its own pid namespace.
    held_by.iter().copied().find(|&process| memfd::own_number(process).unwrap_or(process) == server)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::segment::location::LEASE_SUFFIX;

    #[test]
    fn the_name_of_the_memory_says_label_and_lease() {
        for (name, parts) in [
            ("ringmill-digits.7", Some(("digits", 7))),
            ("ringmill-a.b.18446744073709551615", Some(("a.b", u64::MAX))),
            ("ringmill-digits.lease", None),
            ("ringmill-digits", None),
            ("digits.7", None),
            ("ringmill-digits.18446744073709551616", None),
        ] {
            assert_eq!(parts_of(name), parts, "{name}");
        }
        let of = Anonymous { label: "a.b".into(), process: 1, lease: Some(3) };
        assert_eq!(parts_of(&of.name()), Some(("a.b", 3)));
        assert_eq!(of.lease_name(), format!("ringmill-a.b{LEASE_SUFFIX}"));
    }

    #[test]
    fn an_address_is_read_as_it_is_written() {
        for text in ["digits@1", "a.b@4294967295:18446744073709551615"] {
            let location = Location::parse(text).unwrap();
            assert!(matches!(location, Location::Anonymous(_)), "{text}");
            assert_eq!(location.to_text(), text);
        }
        for text in ["@1", "a@", "a@b", "a@-1", "a@1:", "a@1:b", "a@1@2", ".a@1", "a@4294967296"] {
            let error = Location::parse(text).expect_err(text).to_string();
            assert!(error.starts_with("\"") && error.contains("cannot name a segment"), "{error}");
        }
        assert!(matches!(Location::parse("a@1/b"), Ok(Location::File(_))));
    }
}
