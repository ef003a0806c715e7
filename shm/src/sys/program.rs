//! The running program: in which of its objects an address lies, and its constructors.
//!
//! An *object* is the executable or a dynamic library, as the loader has mapped it. The executable is the first one that
//! `dl_iterate_phdr` names. Its *constructors* are the functions of its `.init_array`, which the C library calls one
//! after the other before `main`; `PT_DYNAMIC` says where that array lies.
#![expect(unsafe_code, reason = "dl_iterate_phdr, and calling constructors where they lie in memory")]

use core::ffi::{c_char, c_int, c_void};
use std::ffi::{CStr, OsStr};
use std::ops::Range;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

/// A function that runs before `main`. glibc calls it with the program's arguments and environment, other C libraries
/// with nothing: what it gets there is whatever the registers held.
pub type Constructor = extern "C" fn(c_int, *const *const c_char, *const *const c_char);

/// What glibc calls constructors with.
#[derive(Debug, Clone, Copy)]
pub struct Arguments {
    /// How many arguments the program has.
    pub argc: c_int,
    /// They themselves.
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
        let base = self.0.dlpi_addr as usize;
        let headers = match self.0.dlpi_phdr.is_null() {
            true => &[][..],
            // SAFETY: so many headers lie there, says the loader, and nobody writes them.
            false => unsafe { std::slice::from_raw_parts(self.0.dlpi_phdr, self.0.dlpi_phnum.into()) },
        };
        headers.iter().filter(move |header| header.p_type == kind).map(move |header| {
            let start = base.wrapping_add(header.p_vaddr as usize);
            start..start.wrapping_add(header.p_memsz as usize)
        })
    }
}

/// Looks at all objects, the executable first, until `look` says that it has seen enough.
fn each_object(mut look: impl FnMut(&Headers<'_>) -> bool) {
    extern "C" fn call<F: FnMut(&Headers<'_>) -> bool>(
        info: *mut libc::dl_phdr_info,
        _: usize,
        look: *mut c_void,
    ) -> c_int {
        // SAFETY: `look` is the closure that was given along with this function, used by nobody else meanwhile; `info`
        // is the loader's, live for this call. The closures of this file do not panic.
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

/// Runs the constructors of the executable that come after the one in `slot`, as the C library would have; says whether
/// they were found.
///
/// # Safety
/// It is called by the constructor in `slot`, before `main`, with what that was called with, and once: the constructors
/// must not run again, so the process must end before that constructor returns.
pub unsafe fn run_constructors_after(slot: *const Constructor, arguments: Arguments) -> bool {
    let Some(array) = constructors(slot as usize) else { return false };
    for at in (slot as usize + size_of::<Constructor>()..array.end).step_by(size_of::<Constructor>()) {
        // SAFETY: an entry of the array, mapped and aligned; the loader has relocated it.
        let entry = unsafe { *(at as *const usize) };
        // Linkers and loaders of old leave these in the place of no function.
        if entry == 0 || entry == usize::MAX {
            continue;
        }
        // SAFETY: the C library would have called what lies there, in the same way: that is what the array is for.
        let constructor = unsafe { std::mem::transmute::<usize, Constructor>(entry) };
        constructor(arguments.argc, arguments.argv, arguments.envp);
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

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
}
