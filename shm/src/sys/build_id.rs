//! Which build of a program it is: different builds do not work together.
//!
//! The GNU build id is a hash of what the linker put together: a [note](super::program), found in the running image or in
//! a file. A program that was linked without one is told apart by its file: size, time of change and number.

use super::program::{FileKind, NoteName, examine, note_of_executable};
use super::settled::Settled;
use std::fmt;
use std::fs::{File, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;

/// Where the linker (`--build-id`) puts it.
pub(super) const BUILD_ID: NoteName = NoteName { owner: "GNU", kind: 3 };

/// Which build a program is. As text it has no colon and no space.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BuildId(String);

impl BuildId {
    /// The build of the running program; `None` if that is unknown. Found at the first call.
    #[must_use]
    pub fn of_this_process() -> Option<Self> {
        static OURS: Settled<Option<BuildId>> = Settled::new();
        let find = || {
            let note = note_of_executable(BUILD_ID).filter(|note| !note.is_empty());
            note.map(Self::of_note)
                .or_else(|| Some(Self::of_file_facts(&std::fs::metadata("/proc/self/exe").ok()?)))
        };
        OURS.get_or_make(find).clone()
    }

    /// The build of an executable that is open for reading.
    ///
    /// # Errors
    /// What reading it says.
    pub fn of_executable(file: &File) -> io::Result<Self> {
        match examine(file, BUILD_ID)? {
            FileKind::Elf(Some(note)) if !note.is_empty() => Ok(Self::of_note(note)),
            _ => Ok(Self::of_file_facts(&file.metadata()?)),
        }
    }

    /// The build of an executable without a note, or one that may be run but not read.
    #[must_use]
    pub(crate) fn of_file_facts(meta: &Metadata) -> Self {
        Self(format!("file.{}.{}.{}.{}", meta.len(), meta.mtime(), meta.mtime_nsec(), meta.ino()))
    }

    fn of_note(note: Vec<u8>) -> Self {
        Self(note.iter().map(|byte| format!("{byte:02x}")).collect())
    }

    /// What [`Display`](fmt::Display) wrote.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let fine =
            !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '.' || c == '-');
        fine.then(|| Self(text.into()))
    }

    /// Whether it comes from a note, and so is the same for every copy of the program.
    #[must_use]
    pub fn is_of_note(&self) -> bool {
        !self.0.contains('.')
    }
}

impl fmt::Display for BuildId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_running_image_and_its_file_say_the_same() {
        let running = BuildId::of_this_process().unwrap();
        let file = File::open("/proc/self/exe").unwrap();
        assert_eq!(BuildId::of_executable(&file).unwrap(), running);
        assert_eq!(BuildId::parse(&running.to_string()), Some(running));
    }

    #[test]
    fn a_file_without_a_note_is_known_by_its_facts() {
        let dir = tempfile::tempdir().unwrap();
        for bytes in [&b"#!/bin/sh\n"[..], b"\x7fELF", &[0x7f; 100], b"\x7fELF\x02\x01\x01", &[255; 64]] {
            let path = dir.path().join("program");
            std::fs::write(&path, bytes).unwrap();
            let file = File::open(&path).unwrap();
            let id = BuildId::of_executable(&file).unwrap();
            assert!(!id.is_of_note());
            assert_eq!(id, BuildId::of_file_facts(&file.metadata().unwrap()));
            assert_eq!(BuildId::parse(&id.to_string()), Some(id));
        }
    }
}
