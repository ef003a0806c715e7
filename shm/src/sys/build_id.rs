//! Which build of a program it is: two that differ do not work together.
//!
//! The GNU build id is a hash of what the linker put together: the note `NT_GNU_BUILD_ID`, found in the running image
//! or in a file. A program that was linked without one is told apart by its file: size, time of change and number.
//!
//! # Source
//! ELF-64 (System V ABI, "Program Header", "Note Section"); `ld --build-id`.
#![expect(unsafe_code, reason = "dl_iterate_phdr, and reading the notes that are mapped")]

use std::fmt;
use std::fs::{File, Metadata};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};

const HEADER_BYTES: usize = 64;
const PROGRAM_HEADER_BYTES: usize = 56;
/// Notes are tens of bytes; of what says that it has more, no more than that is looked at.
const NOTES_LIMIT: usize = 1 << 16;
const PT_NOTE: u32 = 4;
const NT_GNU_BUILD_ID: u32 = 3;

/// Which build a program is. As text it has no colon and no space.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BuildId(String);

impl BuildId {
    /// The build of the program that runs; `None` if that cannot be told.
    #[must_use]
    pub fn of_this_process() -> Option<Self> {
        let note = note_of_this_process();
        note.map(Self::of_note)
            .or_else(|| Some(Self::of_file_facts(&std::fs::metadata("/proc/self/exe").ok()?)))
    }

    /// The build of an executable that is open for reading.
    ///
    /// # Errors
    /// What reading it says.
    pub fn of_executable(file: &File) -> io::Result<Self> {
        match note_of_file(file)? {
            Some(note) => Ok(Self::of_note(note)),
            None => Ok(Self::of_file_facts(&file.metadata()?)),
        }
    }

    /// The build of an executable without a note, or one that may be run but not read.
    #[must_use]
    pub fn of_file_facts(meta: &Metadata) -> Self {
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

    /// Whether it was found in a note, and so is the same for every copy of the program.
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

/// The build id among the notes of one segment or section.
fn find_note(mut notes: &[u8]) -> Option<Vec<u8>> {
    let word = |bytes: &[u8], at: usize| Some(u32::from_ne_bytes(*bytes.get(at..)?.first_chunk()?));
    loop {
        let (name_bytes, bytes, kind) = (word(notes, 0)? as usize, word(notes, 4)? as usize, word(notes, 8)?);
        let name = notes.get(12..)?.get(..name_bytes)?;
        let content = notes.get(12 + name_bytes.next_multiple_of(4)..)?;
        let id = content.get(..bytes)?;
        if kind == NT_GNU_BUILD_ID && name == b"GNU\0" && !id.is_empty() {
            return Some(id.to_vec());
        }
        notes = content.get(bytes.next_multiple_of(4)..)?;
    }
}

fn note_of_file(file: &File) -> io::Result<Option<Vec<u8>>> {
    let mut header = [0; HEADER_BYTES];
    match file.read_exact_at(&mut header, 0) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        read => read?,
    }
    // A 64-bit ELF of this byte order; others could not be run here.
    if !header.starts_with(b"\x7fELF\x02") {
        return Ok(None);
    }
    let half = |at: usize| u16::from_ne_bytes([header[at], header[at + 1]]);
    let offset = u64::from_ne_bytes(*header[32..].first_chunk().expect("within the header"));
    let (bytes_each, count) = (u64::from(half(54)), half(56));
    for index in 0..u64::from(count) {
        let mut one = [0; PROGRAM_HEADER_BYTES];
        let Some(at) = offset.checked_add(index * bytes_each) else { return Ok(None) };
        match file.read_exact_at(&mut one, at) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            read => read?,
        }
        let long =
            |at: usize| u64::from_ne_bytes(*one[at..].first_chunk().expect("within the program header"));
        if u32::from_ne_bytes(*one.first_chunk().expect("four bytes")) != PT_NOTE {
            continue;
        }
        let mut notes = vec![0; NOTES_LIMIT.min(usize::try_from(long(32)).unwrap_or(NOTES_LIMIT))];
        if file.read_exact_at(&mut notes, long(8)).is_ok()
            && let Some(note) = find_note(&notes)
        {
            return Ok(Some(note));
        }
    }
    Ok(None)
}

fn note_of_this_process() -> Option<Vec<u8>> {
    unsafe extern "C" fn look(
        info: *mut libc::dl_phdr_info,
        _: usize,
        found: *mut libc::c_void,
    ) -> libc::c_int {
        // SAFETY: the linker passes a live structure, and us back what we gave: a live Option that nobody else has.
        let (info, found) = unsafe { (&*info, &mut *found.cast::<Option<Vec<u8>>>()) };
        for index in 0..usize::from(info.dlpi_phnum) {
            // SAFETY: the linker's array of that many headers, which stays as long as the program.
            let header = unsafe { &*info.dlpi_phdr.add(index) };
            if header.p_type != PT_NOTE {
                continue;
            }
            let start = (info.dlpi_addr + header.p_vaddr) as *const u8;
            // SAFETY: a segment of the program, which is mapped and read-only from its start to its end.
            let notes =
                unsafe { core::slice::from_raw_parts(start, NOTES_LIMIT.min(header.p_memsz as usize)) };
            *found = find_note(notes);
            if found.is_some() {
                break;
            }
        }
        1 // the first is the program; its libraries are others' builds
    }
    let mut found: Option<Vec<u8>> = None;
    // SAFETY: `look` has the type that is called, and `found` lives as long as the call.
    unsafe { libc::dl_iterate_phdr(Some(look), (&raw mut found).cast()) };
    found
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

    #[test]
    fn notes_that_end_too_early_have_no_id() {
        let mut notes = Vec::new();
        for (name, kind, content) in [(&b"GNU\0"[..], 1_u32, &[1_u8; 16][..]), (b"GNU\0", 3, b"abcde")] {
            notes.extend((name.len() as u32).to_ne_bytes());
            notes.extend((content.len() as u32).to_ne_bytes());
            notes.extend(kind.to_ne_bytes());
            notes.extend(name);
            notes.extend(content);
            notes.resize(notes.len().next_multiple_of(4), 0);
        }
        assert_eq!(find_note(&notes).unwrap(), b"abcde");
        for end in 0..notes.len() - 3 {
            assert_eq!(find_note(&notes[..end]), None);
        }
        notes[4..8].fill(255);
        assert_eq!(find_note(&notes), None);
    }
}
