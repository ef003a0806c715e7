//! Files: reserving pages, how much room there is, open-file-description locks.
#![expect(unsafe_code, reason = "fallocate, lseek, statfs, statvfs, fcntl, fstatat and unlinkat")]

use super::limit::{Limit, soft_limit};
use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::mem::ManuallyDrop;
use std::ops::Range;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

/// Reserves every page of these bytes of a file, and grows it if it is shorter: at once, or where the file system cannot, by
/// writing zeros. So they are bytes that nobody has written.
///
/// # Errors
/// `ENOSPC` if the file system cannot hold it, `EDQUOT` if its user may not.
pub fn reserve(file: &File, range: Range<u64>) -> io::Result<()> {
    // Kernels before 6.11 give back what they have reserved for a call that a signal interrupts. In pieces there is progress
    // under any timer.
    const PIECE: usize = 4 << 20;
    for first in range.clone().step_by(PIECE) {
        let piece = first..range.end.min(first + PIECE as u64);
        match allocate(file, &piece) {
            // ramfs, and file systems of networks: what is written has its page.
            Err(error) if matches!(error.raw_os_error(), Some(libc::EOPNOTSUPP | libc::ENOSYS)) => {
                return write_zeros(file, first..range.end);
            }
            done => done?,
        }
    }
    Ok(())
}

/// Reserves every page of these bytes of a file, as [`reserve`] does, but writes nothing: bytes that others use stay as they are.
///
/// # Errors
/// Those of [`reserve`]; `EOPNOTSUPP` or `ENOSYS` if the file system cannot.
pub(crate) fn allocate(file: &File, bytes: &Range<u64>) -> io::Result<()> {
    let too_large = |_| io::Error::from_raw_os_error(libc::EFBIG);
    let first = libc::off_t::try_from(bytes.start).map_err(too_large)?;
    let length = libc::off_t::try_from(bytes.end - bytes.start).map_err(too_large)?;
    loop {
        // SAFETY: the descriptor is open for the length of the call; the rest are integers.
        if unsafe { libc::fallocate(file.as_raw_fd(), 0, first, length) } == 0 {
            return Ok(());
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}

fn write_zeros(file: &File, range: Range<u64>) -> io::Result<()> {
    let zeros = vec![0; 1 << 20];
    let mut done = range.start;
    while done < range.end {
        let some = zeros.len().min(usize::try_from(range.end - done).unwrap_or(usize::MAX));
        file.write_all_at(&zeros[..some], done)?;
        done += some as u64;
    }
    Ok(())
}

/// What a file lies on, as far as it matters to a process that maps it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Pages of memory, which count as used by the process that touches them first.
    Memory,
    /// Pages of memory (ramfs), of which the system says neither how many are free nor which a file has.
    Ramfs,
    /// Huge pages of this size: a file has whole ones.
    Huge {
        /// The size of each.
        page_bytes: u64,
    },
    /// A device or a network behind a cache.
    Other,
}

impl Kind {
    /// Sizes of files are multiples of this.
    #[must_use]
    pub(crate) fn granule_bytes(self) -> u64 {
        match self {
            Self::Huge { page_bytes } => page_bytes.max(1),
            _ => 1,
        }
    }

    /// Whether the blocks of a file say how many of its pages it has.
    #[must_use]
    pub(crate) fn counts_blocks(self) -> bool {
        matches!(self, Self::Memory | Self::Other)
    }
}

/// The kind of the file system at a path.
///
/// # Errors
/// What opening it, or `fstatfs`, says.
pub(crate) fn kind_at(directory: &Path) -> io::Result<Kind> {
    kind_of(&File::open(directory)?)
}

/// The kind of the file system that a file lies on.
///
/// # Errors
/// What `fstatfs` says.
pub fn kind_of(file: &File) -> io::Result<Kind> {
    // SAFETY: an all-zero statfs is valid to be overwritten.
    let mut stat: libc::statfs = unsafe { core::mem::zeroed() };
    // SAFETY: an open descriptor and a live statfs.
    if unsafe { libc::fstatfs(file.as_raw_fd(), &raw mut stat) } != 0 {
        return Err(io::Error::last_os_error());
    }
    const RAMFS: u32 = 0x8584_58f6; // not in libc
    // The types are numbers of 32 bits, whatever the width of the field.
    Ok(match stat.f_type as u32 {
        kind if kind == libc::TMPFS_MAGIC as u32 => Kind::Memory,
        RAMFS => Kind::Ramfs,
        kind if kind == libc::HUGETLBFS_MAGIC as u32 => {
            Kind::Huge { page_bytes: u64::try_from(stat.f_bsize).unwrap_or(1) }
        }
        _ => Kind::Other,
    })
}

/// Bytes that an ordinary user can still take on the file system of `path`; `None` if it has no limit of its own.
///
/// # Errors
/// What `statvfs` says.
pub fn available_bytes(path: &Path) -> io::Result<Option<u64>> {
    Ok(room(path)?.map(|(_, available_bytes)| available_bytes))
}

/// Bytes of the file system of `path`, and those that an ordinary user can still take; `None` if it has no limit of its own.
///
/// # Errors
/// What `statvfs` says.
pub fn room(path: &Path) -> io::Result<Option<(u64, u64)>> {
    let path = std::ffi::CString::new(path.as_os_str().as_bytes())?;
    // SAFETY: an all-zero statvfs is valid to be overwritten.
    let mut stat: libc::statvfs = unsafe { core::mem::zeroed() };
    // SAFETY: `path` is a live C string and `stat` a live statvfs.
    if unsafe { libc::statvfs(path.as_ptr(), &raw mut stat) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // Without blocks at all (ramfs, hugetlbfs without `size`) the system does not say how many are free.
    let bytes = |blocks: u64| blocks.saturating_mul(stat.f_frsize);
    Ok((stat.f_blocks != 0).then(|| (bytes(stat.f_blocks), bytes(stat.f_bavail))))
}

/// The ranges, below `bytes`, of what was ever read or written of a file whose pages are reserved; `None` if the file system
/// does not tell them from the others. It moves the position of the file's description.
///
/// # Errors
/// What `lseek` says.
pub(crate) fn data_ranges(file: &File, bytes: u64) -> io::Result<Option<Vec<Range<u64>>>> {
    if !matches!(kind_of(file)?, Kind::Memory) {
        return Ok(None);
    }
    // None: there is nothing of that kind from there on.
    let seek = |from: u64, whence| -> io::Result<Option<u64>> {
        let from = libc::off_t::try_from(from).map_err(|_| io::Error::from_raw_os_error(libc::EOVERFLOW))?;
        // SAFETY: the descriptor is open for the length of the call; the rest are integers.
        let found = unsafe { libc::lseek(file.as_raw_fd(), from, whence) };
        match (u64::try_from(found), io::Error::last_os_error()) {
            (Ok(found), _) => Ok(Some(found)),
            (_, error) if error.raw_os_error() == Some(libc::ENXIO) => Ok(None),
            (_, error) => Err(error),
        }
    };
    let (mut ranges, mut at) = (Vec::new(), 0);
    while at < bytes
        && let Some(start) = seek(at, libc::SEEK_DATA)?.filter(|start| (at..bytes).contains(start))
    {
        let end = seek(start, libc::SEEK_HOLE)?.unwrap_or(bytes).clamp(start + 1, bytes);
        ranges.push(start..end);
        at = end;
    }
    Ok(Some(ranges))
}

/// Bytes of free huge pages of this size that no mapping has reserved; `None` if the system does not say.
#[must_use]
pub(crate) fn free_huge_bytes(page_bytes: u64) -> Option<u64> {
    let read = |name: &str| {
        let path = format!("/sys/kernel/mm/hugepages/hugepages-{}kB/{name}", page_bytes / 1024);
        std::fs::read_to_string(path).ok()?.trim().parse::<u64>().ok()
    };
    // Pages that the kernel may add to the pool, if memory has the room.
    let surplus = read("nr_overcommit_hugepages")?.saturating_sub(read("surplus_hugepages")?);
    let free = read("free_hugepages")?.saturating_sub(read("resv_hugepages")?);
    Some(free.saturating_add(surplus).saturating_mul(page_bytes))
}

/// How large this process may make a file, if that is limited. The kernel sends SIGXFSZ to a process that makes one
/// larger, which ends it: so ask first.
#[must_use]
pub(crate) fn size_limit_bytes() -> Option<u64> {
    soft_limit(Limit::FileBytes)
}

/// Moves a file to a descriptor after the standard three: a process that is started gets those.
///
/// # Errors
/// `EMFILE`.
pub fn beyond_standard(file: File) -> io::Result<File> {
    match file.as_raw_fd() < super::process::FIRST_OTHER {
        true => file.try_clone(), // std asks for one that is none of the three
        false => Ok(file),
    }
}

/// Opens the file of a descriptor once more, with an open file description of its own; through `/proc`, where the
/// rights that this process has now count, or else by a path that still is that file.
///
/// # Errors
/// What the first way says.
pub fn reopen(file: &File, path: &Path) -> io::Result<File> {
    let mut options = File::options();
    options.read(true).write(true).custom_flags(libc::O_CLOEXEC | libc::O_NONBLOCK);
    let error = match options.open(format!("/proc/self/fd/{}", file.as_raw_fd())) {
        Ok(again) => return beyond_standard(again),
        Err(error) => error,
    };
    options.custom_flags(libc::O_CLOEXEC | libc::O_NONBLOCK | libc::O_NOFOLLOW);
    match options.open(path) {
        Ok(again) if is_same(file, &again) => beyond_standard(again),
        _ => Err(error),
    }
}

/// Whether two descriptors are of one file.
#[must_use]
pub fn is_same(one: &File, other: &File) -> bool {
    let identity = |file: &File| file.metadata().map(|meta| (meta.dev(), meta.ino())).ok();
    identity(one).is_some_and(|of_one| Some(of_one) == identity(other))
}

/// Makes a descriptor non-blocking.
pub(super) fn set_nonblocking(fd: i32) {
    // SAFETY: integers.
    unsafe {
        let flags = libc::fcntl(fd, libc::F_GETFL);
        libc::fcntl(fd, libc::F_SETFL, flags | libc::O_NONBLOCK);
    }
}

/// Makes a descriptor close-on-exec; false if there is no such descriptor.
pub fn set_close_on_exec(fd: i32) -> bool {
    // SAFETY: integers.
    unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) == 0 }
}

/// Takes over a descriptor that this process was given at its start, if it is the file of that number.
#[must_use]
pub fn take_over(fd: i32, file_number: u64) -> Option<File> {
    // SAFETY: it is open. No other code of this process has it: only the server's order names its number.
    is_given(fd, file_number).then(|| unsafe { File::from_raw_fd(fd) })
}

/// Another descriptor of the file of one that this process was given at its start, if it is the file of that number.
#[must_use]
pub fn copy(fd: i32, file_number: u64) -> Option<File> {
    // SAFETY: it is open, and is not closed here.
    let given = is_given(fd, file_number).then(|| ManuallyDrop::new(unsafe { File::from_raw_fd(fd) }))?;
    given.try_clone().ok()
}

fn is_given(fd: i32, file_number: u64) -> bool {
    // SAFETY: an all-zero stat is valid to be overwritten.
    let mut stat: libc::stat = unsafe { core::mem::zeroed() };
    // SAFETY: an integer, and a live structure to fill.
    let open = unsafe { libc::fstat(fd, &raw mut stat) } == 0;
    fd >= super::process::FIRST_OTHER && open && stat.st_ino == file_number
}

/// Removes a name from a directory that is held open, if that file still has it. False if not.
///
/// # Errors
/// What the system says: this process may have lost the right meanwhile.
pub(crate) fn remove_from(directory: &File, name: &OsStr, file: &File) -> io::Result<bool> {
    let name = std::ffi::CString::new(name.as_bytes())?;
    match identity_at(directory, &name) {
        Ok(found) if found == identity(file)? => {}
        Ok(_) => return Ok(false),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error),
    }
    // SAFETY: a descriptor, a live C string.
    match unsafe { libc::unlinkat(directory.as_raw_fd(), name.as_ptr(), 0) } {
        0 => Ok(true),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Device and number of what has this name in a directory; of a link, its own. A second system call serves where a
/// filter refuses the first: else files would stay.
fn identity_at(directory: &File, name: &std::ffi::CStr) -> io::Result<(u64, u64)> {
    // SAFETY: an all-zero stat is valid to be overwritten.
    let mut stat: libc::stat = unsafe { core::mem::zeroed() };
    // SAFETY: a descriptor, a live C string, a live structure to fill.
    let asked = unsafe {
        libc::fstatat(directory.as_raw_fd(), name.as_ptr(), &raw mut stat, libc::AT_SYMLINK_NOFOLLOW)
    };
    if asked == 0 {
        return Ok((stat.st_dev, stat.st_ino));
    }
    let error = io::Error::last_os_error();
    if error.kind() == io::ErrorKind::NotFound {
        return Err(error);
    }
    let flags = libc::O_PATH | libc::O_NOFOLLOW | libc::O_CLOEXEC;
    // SAFETY: a descriptor, a live C string, integers.
    let fd = unsafe { libc::openat(directory.as_raw_fd(), name.as_ptr(), flags) };
    if fd < 0 {
        return Err(error);
    }
    // SAFETY: the call has just returned this descriptor, so no other code owns it.
    identity(&File::from(unsafe { OwnedFd::from_raw_fd(fd) }))
}

/// Device and number of an open file.
fn identity(file: &File) -> io::Result<(u64, u64)> {
    // SAFETY: as above.
    let mut stat: libc::stat = unsafe { core::mem::zeroed() };
    // SAFETY: an open descriptor, a live structure to fill.
    if unsafe { libc::fstat(file.as_raw_fd(), &raw mut stat) } == 0 {
        return Ok((stat.st_dev, stat.st_ino));
    }
    file.metadata().map(|meta| (meta.dev(), meta.ino()))
}

/// Removes a file that this process has just made, unless another file has its name by now.
pub(crate) fn remove_made(path: &Path, file: &File) {
    let (Some(directory), Some(name)) = (path.parent(), path.file_name()) else { return };
    let removed = match File::open(directory) {
        Ok(directory) => remove_from(&directory, name, file).map(drop),
        // No descriptor is left, say: then by its path alone.
        Err(_) => std::fs::symlink_metadata(path).and_then(|named| {
            let is_it = identity(file)? == (named.dev(), named.ino());
            if is_it { std::fs::remove_file(path) } else { Ok(()) }
        }),
    };
    drop(removed); // the caller reports the error that led here
}

fn byte_lock(kind: i32, byte: u32) -> libc::flock {
    // SAFETY: an all-zero flock is valid; the fields that matter are set below.
    let mut lock: libc::flock = unsafe { core::mem::zeroed() };
    // The constants are small positive numbers on every Linux.
    lock.l_type = kind as i16;
    lock.l_whence = libc::SEEK_SET as i16;
    lock.l_start = i64::from(byte);
    lock.l_len = 1;
    lock
}

/// Takes the write lock of one byte for this open file description, if it is free.
///
/// # Errors
/// `EAGAIN` if another description holds it.
pub fn try_lock_byte(file: &impl AsRawFd, byte: u32) -> io::Result<()> {
    let lock = byte_lock(libc::F_WRLCK, byte);
    // SAFETY: the descriptor is open, `lock` is a live flock with l_pid 0 as OFD locks want it.
    if unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_SETLK, &raw const lock) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Gives back the lock of one byte.
pub(crate) fn unlock_byte(file: &impl AsRawFd, byte: u32) {
    let lock = byte_lock(libc::F_UNLCK, byte);
    // SAFETY: as above. Unlocking cannot fail on an open descriptor.
    unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_SETLK, &raw const lock) };
}

/// Gives back all locks of this open file description, also where a child between fork and exec shares it.
pub(crate) fn unlock_all(file: &impl AsRawFd) {
    let mut lock = byte_lock(libc::F_UNLCK, 0);
    lock.l_len = 0; // to the end
    // SAFETY: as above.
    unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_SETLK, &raw const lock) };
}

/// Whether *another* open file description holds the lock of a byte.
///
/// # Errors
/// What `fcntl` says; nothing is known then.
pub(crate) fn byte_is_locked(file: &impl AsRawFd, byte: u32) -> io::Result<bool> {
    let mut lock = byte_lock(libc::F_WRLCK, byte);
    // SAFETY: the descriptor is open, `lock` is a live flock for the call to fill.
    if unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_GETLK, &raw mut lock) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(i32::from(lock.l_type) != libc::F_UNLCK)
}
