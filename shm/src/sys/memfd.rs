//! Memory that is a file without a name in any file system (`memfd_create`): made, and found among the descriptors of
//! a process.
//!
//! The kernel shows such a file in `/proc/PID/fd` as a link to `/memfd:NAME (deleted)`. The link is followed by the
//! kernel itself, to that very file, whatever its text; so any process that may read the memory of that process, and
//! has the rights to the file, can open the file again.
#![expect(unsafe_code, reason = "memfd_create, fcntl and statx")]

use super::cgroup::field;
use super::file::beyond_standard;
use std::ffi::CString;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::PathBuf;

/// The rights of each: its user's alone, to read and write.
const MODE: u32 = 0o600;

/// The text of a link to memory of this name.
fn link_text(name: &str) -> PathBuf {
    format!("/memfd:{name} (deleted)").into()
}

/// The path by which messages call memory of this name. There is no file.
#[must_use]
pub(crate) fn shown_as(name: &str) -> PathBuf {
    format!("/memfd:{name}").into()
}

/// Makes a file of memory, empty and close-on-exec. The name is for people: it need not be unique.
///
/// # Errors
/// What `memfd_create` says.
pub(crate) fn create(name: &str) -> io::Result<File> {
    create_with(name, 0)
}

/// [`create`] on huge pages of the system's default size. Its size is a whole number of them.
///
/// # Errors
/// `EINVAL` or `ENOENT` from a kernel without huge pages, otherwise as [`create`].
pub(crate) fn create_on_huge_pages(name: &str) -> io::Result<File> {
    create_with(name, libc::MFD_HUGETLB)
}

fn create_with(name: &str, more: libc::c_uint) -> io::Result<File> {
    let name = CString::new(name)?;
    let make = |flags| {
        // SAFETY: a live C string, and integers.
        match unsafe { libc::memfd_create(name.as_ptr(), flags) } {
            // SAFETY: the call has just returned this descriptor, so no other code owns it.
            descriptor @ 0.. => Ok(unsafe { File::from_raw_fd(descriptor) }),
            _ => Err(io::Error::last_os_error()),
        }
    };
    let flags = libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING | more;
    // Kernels may demand that the file can never be run; those before 6.3 do not know the flag.
    let made = make(flags | libc::MFD_NOEXEC_SEAL).or_else(|error| match error.raw_os_error() {
        Some(libc::EINVAL) => make(flags),
        _ => Err(error),
    });
    let file = beyond_standard(made?)?;
    file.set_permissions(std::fs::Permissions::from_mode(MODE))?;
    Ok(file)
}

/// A file of memory with these bytes, which no process can change.
///
/// # Errors
/// What the system says.
pub fn of_bytes(name: &str, bytes: &[u8]) -> io::Result<File> {
    let file = create(name)?;
    std::os::unix::fs::FileExt::write_all_at(&file, bytes, 0)?;
    let seals = libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_WRITE | libc::F_SEAL_SEAL;
    // SAFETY: an open descriptor, and integers. Where the kernel refuses, its readers check what they read all the same.
    unsafe { libc::fcntl(file.as_raw_fd(), libc::F_ADD_SEALS, seals) };
    Ok(file)
}

/// Fixes the size of a file of memory for ever, for every process; whether the kernel has done so.
pub(crate) fn seal_size(file: &File) -> bool {
    let seals = libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_SEAL;
    // SAFETY: an open descriptor, and integers.
    unsafe { libc::fcntl(file.as_raw_fd(), libc::F_ADD_SEALS, seals) == 0 }
}

/// A descriptor of a file of memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Descriptor {
    /// Its path in `/proc`.
    path: PathBuf,
    /// The name that the file was made with.
    pub(crate) name: String,
}

/// The folder of a process's descriptors. This process's own is found in every `/proc`.
fn folder_of(process: u32) -> PathBuf {
    match process == std::process::id() {
        true => "/proc/self/fd".into(),
        false => format!("/proc/{process}/fd").into(),
    }
}

/// The path by which other processes of this user can open a descriptor of this process.
#[must_use]
pub(crate) fn path_of(file: &File) -> PathBuf {
    format!("/proc/{}/fd/{}", std::process::id(), file.as_raw_fd()).into()
}

/// The files of memory that a process has open, by descriptor.
///
/// # Errors
/// `NotFound` if there is no such process, `PermissionDenied` for another user's; without `/proc`, `NotFound`.
pub(crate) fn descriptors_of(process: u32) -> io::Result<Vec<Descriptor>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder_of(process))? {
        let path = entry?.path();
        // A descriptor that has been closed meanwhile is none.
        let Ok(target) = std::fs::read_link(&path) else { continue };
        let name = target.to_str().and_then(|text| text.strip_prefix("/memfd:")?.strip_suffix(" (deleted)"));
        found.extend(name.map(|name| Descriptor { path, name: name.into() }));
    }
    Ok(found)
}

impl Descriptor {
    /// The number of its file, which is memory of its name: looked at without opening it.
    ///
    /// # Errors
    /// `NotFound` if another file has the descriptor by now.
    pub(crate) fn file_number(&self) -> io::Result<u64> {
        self.held().map(|(_, number)| number)
    }

    /// Opens its file again, with an open file description of its own.
    ///
    /// # Errors
    /// What opening it says; `NotFound` if another file has the descriptor by now.
    pub(crate) fn open(&self, write: bool) -> io::Result<File> {
        let (held, _) = self.held()?;
        let path = format!("/proc/self/fd/{}", held.as_raw_fd());
        OpenOptions::new().read(true).write(write).custom_flags(libc::O_CLOEXEC).open(path)
    }

    /// A descriptor of our own, by which the file can only be looked at, and the file's number. Opened in this way no
    /// file blocks or does anything; only then it is seen that this one is memory, and of that name.
    fn held(&self) -> io::Result<(File, u64)> {
        let flags = libc::O_PATH | libc::O_CLOEXEC;
        // The access mode does not count with O_PATH.
        let held = OpenOptions::new().read(true).custom_flags(flags).open(&self.path)?;
        let link = std::fs::read_link(format!("/proc/self/fd/{}", held.as_raw_fd()))?;
        let (device, number) = identity(&held)?;
        // All files of memory are on one file system, those of huge pages on another, on which the kernel alone makes files.
        let is_on = |file: io::Result<File>| Ok::<_, io::Error>(device == identity(&file?)?.0);
        let is_memory = || {
            io::Result::Ok(
                is_on(create("ringmill"))? || is_on(create_on_huge_pages("ringmill")).unwrap_or(false),
            )
        };
        match link == link_text(&self.name) && is_memory()? {
            true => Ok((held, number)),
            false => Err(io::ErrorKind::NotFound.into()),
        }
    }
}

/// Device and number of a file, without a question to the process that a file system may be.
fn identity(file: &File) -> io::Result<((u32, u32), u64)> {
    // SAFETY: an all-zero statx is valid to be overwritten.
    let mut stat: libc::statx = unsafe { core::mem::zeroed() };
    let flags = libc::AT_EMPTY_PATH | libc::AT_STATX_DONT_SYNC;
    // SAFETY: an open descriptor, a live C string, integers, a live structure to fill.
    let asked = unsafe { libc::statx(file.as_raw_fd(), c"".as_ptr(), flags, libc::STATX_INO, &raw mut stat) };
    match asked {
        0 => Ok(((stat.stx_dev_major, stat.stx_dev_minor), stat.stx_ino)),
        _ => {
            let meta = file.metadata()?; // a filter may refuse statx
            Ok(((libc::major(meta.dev()), libc::minor(meta.dev())), meta.ino()))
        }
    }
}

/// All processes whose descriptors this one may see, in order.
///
/// # Errors
/// Without `/proc`.
pub(crate) fn processes() -> io::Result<Vec<u32>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc")? {
        found.extend(entry?.file_name().to_str().and_then(|name| name.parse::<u32>().ok()));
    }
    found.sort_unstable();
    Ok(found)
}

/// The number that a process has in its own pid namespace.
pub(crate) fn own_number(process: u32) -> Option<u32> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("NSpid:"))?;
    line.split_whitespace().last()?.parse().ok()
}

/// How much memory this machine can still give; `None` if the system does not say.
#[must_use]
pub(crate) fn available_bytes() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    // Pages of such files can be swapped out, where there is something to swap to.
    let swap_kib = field(&text, "SwapFree:").unwrap_or(0);
    Some(field(&text, "MemAvailable:")?.saturating_add(swap_kib).saturating_mul(1024))
}

#[cfg(all(test, not(miri)))]
mod tests {
    use super::*;
    use std::os::unix::fs::FileExt;

    fn named(name: &str) -> Vec<Descriptor> {
        let all = descriptors_of(std::process::id()).unwrap();
        all.into_iter().filter(|found| found.name == name).collect()
    }

    #[test]
    fn it_is_private_found_by_its_name_and_opened_again() {
        let file = create("ringmill-test-found").unwrap();
        let meta = file.metadata().unwrap();
        assert_eq!((meta.mode() & 0o7777, meta.nlink(), meta.len()), (MODE, 0, 0));
        file.write_all_at(b"x", 0).unwrap();
        let found = named("ringmill-test-found");
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].file_number().unwrap(), meta.ino());
        let again = found[0].open(true).unwrap();
        assert_eq!(again.metadata().unwrap().ino(), meta.ino());
        // A description of its own: it sees the other's locks.
        super::super::file::try_lock_byte(&file, 3).unwrap();
        assert!(super::super::file::byte_is_locked(&again, 3).unwrap());
        assert!(!super::super::file::byte_is_locked(&file, 3).unwrap());
        drop((file, again));
        assert_eq!(found[0].open(false).unwrap_err().kind(), io::ErrorKind::NotFound);
        assert_eq!(named("ringmill-test-found"), []);
    }

    /// Another file has the number by now: it is not opened, not even for a moment.
    #[test]
    fn another_file_at_the_descriptor_is_not_opened() {
        let file = create("ringmill-test-other").unwrap();
        let found = named("ringmill-test-other").remove(0);
        for other in [File::open("/dev/null").unwrap(), create("ringmill-test-another").unwrap()] {
            // SAFETY: replaces a descriptor of ours by a copy of another one.
            assert!(unsafe { libc::dup2(other.as_raw_fd(), file.as_raw_fd()) } >= 0);
            assert_eq!(found.open(true).unwrap_err().kind(), io::ErrorKind::NotFound);
            assert_eq!(found.file_number().unwrap_err().kind(), io::ErrorKind::NotFound);
        }
    }

    #[test]
    fn its_size_can_be_fixed() {
        let file = create("ringmill-test-sealed").unwrap();
        super::super::file::reserve(&file, 0..8192).unwrap();
        assert!(seal_size(&file));
        for bytes in [0, 4096, 16384] {
            assert!(file.set_len(bytes).is_err(), "{bytes}");
        }
        assert_eq!(file.metadata().unwrap().len(), 8192);
    }

    #[test]
    fn this_process_is_among_the_processes_and_has_its_number() {
        let me = std::process::id();
        assert!(processes().unwrap().contains(&me));
        assert_eq!(own_number(me), Some(me));
        assert!(available_bytes().unwrap() > 0);
    }
}
