//! Programs: in which object of the running one an address lies, its constructors, and the notes of executables.
//!
//! An *object* is the executable or a dynamic library, as the loader has mapped it. The executable is the first one
//! that `dl_iterate_phdr` names. That call takes a lock, which stays held in a child that was forked while another
//! thread held it. So this module asks about the running program before `main`, or where there is no other way. The
//! executable's *constructors* are the functions of its `.init_array`, which the C library calls one after the other
//! before `main`; `PT_DYNAMIC` says where that array lies.
#![expect(unsafe_code, reason = "dl_iterate_phdr, and calling constructors where they lie in memory")]

use core::ffi::{c_char, c_int, c_void};
use object::Endianness;
use object::elf::FileHeader64;
use object::read::elf::{FileHeader, NoteIterator, ProgramHeader};
use object::read::{ReadCache, ReadRef};
use std::ffi::{CStr, OsStr};
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::ops::Range;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

/// A function that runs before `main`. glibc calls it with the program's arguments and environment, other C libraries
/// with nothing: there its arguments are whatever the registers held.
pub type Constructor = extern "C" fn(c_int, *const *const c_char, *const *const c_char);

/// The arguments of constructors under glibc.
#[derive(Debug, Clone, Copy)]
pub struct Arguments {
    /// How many arguments the program has.
    pub argc: c_int,
    /// The arguments.
    pub argv: *const *const c_char,
    /// The environment.
    pub envp: *const *const c_char,
}

/// In which object an address lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Object {
    /// The executable.
    Executable,
    /// A dynamic library, or the vDSO; its path as the loader knows it.
    Library(PathBuf),
}

/// In which object an address lies; `None`: in none, on the heap say.
#[must_use]
pub fn object_of(address: usize) -> Option<Object> {
    let mut found = None;
    let mut first = true;
    each_object(|object| {
        let executable = std::mem::take(&mut first);
        if object.segments(libc::PT_LOAD).any(|segment| segment.contains(&address)) {
            found = Some(if executable { Object::Executable } else { Object::Library(object.path()) });
        }
        found.is_none()
    });
    found
}

/// An object's program headers; they stay mapped while [`each_object`] looks at them.
struct Headers<'a>(&'a libc::dl_phdr_info);

impl Headers<'_> {
    fn path(&self) -> PathBuf {
        if self.0.dlpi_name.is_null() {
            return PathBuf::new();
        }
        // SAFETY: the loader's string, which lives as long as the object is loaded.
        let name = unsafe { CStr::from_ptr(self.0.dlpi_name) };
        OsStr::from_bytes(name.to_bytes()).into()
    }

    /// Where the segments of a kind lie in memory.
    fn segments(&self, kind: u32) -> impl Iterator<Item = Range<usize>> {
        self.segments_aligned(kind).map(|(segment, _)| segment)
    }

    /// Where they lie, with the alignment of each.
    fn segments_aligned(&self, kind: u32) -> impl Iterator<Item = (Range<usize>, u64)> {
        let base = self.0.dlpi_addr as usize;
        let headers = match self.0.dlpi_phdr.is_null() {
            true => &[][..],
            // SAFETY: the loader gives the number of headers, and no code writes them.
            false => unsafe { std::slice::from_raw_parts(self.0.dlpi_phdr, self.0.dlpi_phnum.into()) },
        };
        headers.iter().filter(move |header| header.p_type == kind).map(move |header| {
            let start = base.wrapping_add(header.p_vaddr as usize);
            (start..start.wrapping_add(header.p_memsz as usize), header.p_align)
        })
    }
}

/// Looks at all objects, the executable first, until `look` returns false.
fn each_object(mut look: impl FnMut(&Headers<'_>) -> bool) {
    extern "C" fn call<F: FnMut(&Headers<'_>) -> bool>(
        info: *mut libc::dl_phdr_info,
        _: usize,
        look: *mut c_void,
    ) -> c_int {
        // SAFETY: `look` is the closure that was given along with this function, which no other code uses meanwhile;
        // `info` is the loader's, live for this call. The closures of this file do not panic.
        unsafe { c_int::from(!(*look.cast::<F>())(&Headers(&*info))) }
    }
    fn callback<F: FnMut(&Headers<'_>) -> bool>(
        _: &F,
    ) -> extern "C" fn(*mut libc::dl_phdr_info, usize, *mut c_void) -> c_int {
        call::<F>
    }
    let function = callback(&look);
    // SAFETY: the function is the one for the closure, which outlives the call.
    unsafe { libc::dl_iterate_phdr(Some(function), (&raw mut look).cast()) };
}

/// An entry of a dynamic section.
#[repr(C)]
#[derive(Clone, Copy)]
struct Dynamic {
    tag: isize,
    value: usize,
}

const DT_NULL: isize = 0;
const DT_INIT_ARRAY: isize = 25;
const DT_INIT_ARRAYSZ: isize = 27;

/// The executable's array of constructors that has an entry at `slot`; `None` if there is no such array.
fn constructors(slot: usize) -> Option<Range<usize>> {
    let mut found = None;
    each_object(|executable| {
        let base = executable.0.dlpi_addr as usize;
        let (mut array, mut bytes) = (None, 0);
        for section in executable.segments(libc::PT_DYNAMIC) {
            for at in section.step_by(size_of::<Dynamic>()) {
                // SAFETY: the executable's own dynamic section, which is mapped, aligned and not written any more.
                match unsafe { *(at as *const Dynamic) } {
                    Dynamic { tag: DT_NULL, .. } => break,
                    Dynamic { tag: DT_INIT_ARRAY, value } => array = Some(base.wrapping_add(value)),
                    Dynamic { tag: DT_INIT_ARRAYSZ, value } => bytes = value,
                    _ => {}
                }
            }
        }
        found = array.map(|start| start..start.wrapping_add(bytes));
        false // the executable comes first
    });
    found.filter(|array: &Range<usize>| array.contains(&slot) && (slot - array.start).is_multiple_of(8))
}

/// Runs the constructors of the executable that come after the one in `slot`, as the C library would have; false if
/// they were not found.
///
/// # Safety
/// It is called by the constructor in `slot`, before `main`, with what that was called with, and once: the constructors
/// must not run again, so the process must end before that constructor returns.
pub unsafe fn run_constructors_after(slot: *const Constructor, arguments: Arguments) -> bool {
    let Some(array) = constructors(slot as usize) else { return false };
    for at in (slot as usize + size_of::<Constructor>()..array.end).step_by(size_of::<Constructor>()) {
        // SAFETY: an entry of the array, mapped and aligned; the loader has relocated it.
        let entry = unsafe { *(at as *const usize) };
        // Old linkers and loaders leave these where there is no function.
        if entry == 0 || entry == usize::MAX {
            continue;
        }
        // SAFETY: the C library would have called what lies there, in the same way: that is what the array is for.
        let constructor = unsafe { std::mem::transmute::<usize, Constructor>(entry) };
        constructor(arguments.argc, arguments.argv, arguments.envp);
    }
    true
}

/// Longer notes are not ours: an executable may claim any length.
const NOTES_LIMIT: usize = 1 << 20;

/// The kind of a file that is to be run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FileKind {
    /// A 64-bit ELF executable, with the note that was asked for, if it has one.
    Elf(Option<Vec<u8>>),
    /// Text for an interpreter that it names (`#!`).
    Script,
    /// Something else.
    Unknown,
}

/// Which note of an ELF file is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NoteName {
    /// Its owner.
    pub owner: &'static str,
    /// Which of its owner's notes.
    pub kind: u32,
}

/// Looks at a file that is to be run, for a note; this changes its position.
///
/// # Errors
/// It cannot be read.
pub fn examine(file: &File, wanted: NoteName) -> io::Result<FileKind> {
    let mut magic = [0; 4];
    let mut reader = file;
    reader.seek(SeekFrom::Start(0))?;
    let read = reader.take(4).read(&mut magic)?;
    match &magic[..read] {
        [b'#', b'!', ..] => Ok(FileKind::Script),
        b"\x7fELF" => {
            Ok(note_of_file(&ReadCache::new(file), wanted).map_or(FileKind::Unknown, FileKind::Elf))
        }
        _ => Ok(FileKind::Unknown),
    }
}

fn note_of_file<'a>(file: impl ReadRef<'a>, wanted: NoteName) -> object::read::Result<Option<Vec<u8>>> {
    let header = FileHeader64::<Endianness>::parse(file)?;
    let endian = header.endian()?;
    for segment in header.program_headers(endian, file)? {
        if segment.p_filesz(endian) > NOTES_LIMIT as u64 {
            continue;
        }
        if let Some(notes) = segment.notes(endian, file)?
            && let Some(note) = note_among(notes, endian, wanted)
        {
            return Ok(Some(note));
        }
    }
    Ok(None)
}

/// The first note of that name. The search ends at a note that cannot be read.
fn note_among(
    mut notes: NoteIterator<'_, FileHeader64<Endianness>>,
    endian: Endianness,
    wanted: NoteName,
) -> Option<Vec<u8>> {
    while let Ok(Some(note)) = notes.next() {
        if note.name() == wanted.owner.as_bytes() && note.n_type(endian).0 == wanted.kind {
            return Some(note.desc().to_vec());
        }
    }
    None
}

/// The note of that name in the executable that is running, if it has one.
#[must_use]
pub fn note_of_executable(wanted: NoteName) -> Option<Vec<u8>> {
    let mut found = None;
    each_object(|executable| {
        for (segment, align) in executable.segments_aligned(libc::PT_NOTE) {
            let loaded = executable.segments(libc::PT_LOAD);
            if !{ loaded }.any(|load| load.start <= segment.start && segment.end <= load.end) {
                continue;
            }
            // SAFETY: it lies within what the loader has mapped of the executable, and no code writes to it.
            let bytes = unsafe { std::slice::from_raw_parts(segment.start as *const u8, segment.len()) };
            let endian = Endianness::default();
            let notes = NoteIterator::new(endian, align, bytes);
            found = found.take().or_else(|| note_among(notes.ok()?, endian, wanted));
        }
        false // the executable comes first
    });
    found
}

/// The file from which an address of the running program is mapped, as the kernel knows it.
#[must_use]
pub fn file_of(address: usize) -> Option<PathBuf> {
    mapping_of(address)?.1
}

/// The mapping that an address of this process lies in, and its file.
pub(super) fn mapping_of(address: usize) -> Option<(Range<usize>, Option<PathBuf>)> {
    let maps = std::fs::read("/proc/self/maps").ok()?;
    maps.split(|&byte| byte == b'\n').find_map(|line| {
        let range = std::str::from_utf8(line.split(|&byte| byte == b' ').next()?).ok()?;
        let (start, end) = range.split_once('-')?;
        let number = |text| usize::from_str_radix(text, 16).ok();
        let range = number(start)?..number(end)?;
        let path = line.iter().position(|&byte| byte == b'/').map(|at| OsStr::from_bytes(&line[at..]));
        range.contains(&address).then(|| (range, path.map(PathBuf::from)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::build_id::BUILD_ID;

    #[test]
    fn addresses_are_told_apart() {
        static HERE: u8 = 1;
        assert_eq!(object_of(&raw const HERE as usize), Some(Object::Executable));
        assert_eq!(object_of(addresses_are_told_apart as fn() as usize), Some(Object::Executable));
        let on_heap = Box::new(1_u8);
        assert_eq!(object_of(&raw const *on_heap as usize), None);
        if cfg!(target_feature = "crt-static") {
            return;
        }
        let Some(Object::Library(path)) = object_of(libc::getenv as *const () as usize) else { panic!() };
        assert!(path.file_name().is_some_and(|name| name.to_string_lossy().contains("libc")), "{path:?}");
    }

    #[test]
    fn a_slot_outside_of_the_array_has_no_constructors() {
        static ELSEWHERE: usize = 0;
        assert_eq!(constructors(&raw const ELSEWHERE as usize), None);
    }
    #[test]
    fn notes_are_found_in_file_and_memory_alike() {
        let this = File::open("/proc/self/exe").unwrap();
        // Linkers leave one of GNU in each executable.
        let FileKind::Elf(Some(in_file)) = examine(&this, BUILD_ID).unwrap() else { panic!() };
        assert_eq!(note_of_executable(BUILD_ID), Some(in_file));
        for other in [NoteName { owner: "nobody", ..BUILD_ID }, NoteName { kind: 99, ..BUILD_ID }] {
            assert_eq!(examine(&this, other).unwrap(), FileKind::Elf(None));
            assert_eq!(note_of_executable(other), None);
        }
    }

    #[test]
    fn a_note_that_ends_too_early_is_none() {
        let mut notes = Vec::new();
        for (name, kind, content) in [(&b"GNU\0"[..], 1_u32, &[1_u8; 16][..]), (b"GNU\0", 3, b"abcde")] {
            notes.extend((name.len() as u32).to_ne_bytes());
            notes.extend((content.len() as u32).to_ne_bytes());
            notes.extend(kind.to_ne_bytes());
            notes.extend(name);
            notes.extend(content);
            notes.resize(notes.len().next_multiple_of(4), 0);
        }
        let endian = Endianness::default();
        let found = |bytes: &[u8]| note_among(NoteIterator::new(endian, 4, bytes).ok()?, endian, BUILD_ID);
        assert_eq!(found(&notes).unwrap(), b"abcde");
        for end in 0..notes.len() - 3 {
            assert_eq!(found(&notes[..end]), None);
        }
        notes[4..8].fill(255);
        assert_eq!(found(&notes), None);
    }

    #[test]
    fn other_files_are_told_apart() {
        let kind_of = |bytes: &[u8]| {
            let file = tempfile::tempfile().unwrap();
            std::os::unix::fs::FileExt::write_all_at(&file, bytes, 0).unwrap();
            examine(&file, BUILD_ID).unwrap()
        };
        assert_eq!(kind_of(b"#!/bin/sh\n"), FileKind::Script);
        for bytes in [&b""[..], b"#", b"\x7fEL", b"\x7fELF", b"MZ and more"] {
            assert_eq!(kind_of(bytes), FileKind::Unknown, "{bytes:?}");
        }
        assert!(examine(&File::open("/").unwrap(), BUILD_ID).is_err());
        assert_eq!(examine(&File::open("/dev/null").unwrap(), BUILD_ID).unwrap(), FileKind::Unknown);
        // A header of an executable, cut off and bent anywhere.
        let mut head = vec![0; 4096];
        File::open("/proc/self/exe").unwrap().read_exact(&mut head).unwrap();
        for at in 0..200 {
            kind_of(&head[..at]);
            for byte in [0, 1, 0x7f, 0xff] {
                let mut bent = head.clone();
                bent[at] = byte;
                kind_of(&bent);
            }
        }
    }

    #[test]
    fn the_kernel_knows_the_file_of_an_address() {
        static HERE: u8 = 1;
        let this = std::fs::read_link("/proc/self/exe").unwrap();
        assert_eq!(file_of(&raw const HERE as usize), Some(this));
        assert_eq!(file_of(0), None);
    }
}
