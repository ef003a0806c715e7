//! Files: reserving pages, how much room there is, open-file-description locks.
#![expect(unsafe_code, reason = "fallocate, statvfs, getrlimit and fcntl")]

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Reserves every page of a file of `bytes` bytes (and grows it to that size).
///
/// # Errors
/// `ENOSPC` if the file system cannot hold it, `EOPNOTSUPP` where it cannot reserve.
pub fn reserve(file: &File, bytes: u64) -> io::Result<()> {
    let bytes = libc::off_t::try_from(bytes).map_err(|_| io::Error::from_raw_os_error(libc::EFBIG))?;
    loop {
        // SAFETY: the descriptor is open for the length of the call; the rest are integers.
        if unsafe { libc::fallocate(file.as_raw_fd(), 0, 0, bytes) } == 0 {
            return Ok(());
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}

/// Bytes that an ordinary user can still take on the file system of `path`.
///
/// # Errors
/// What `statvfs` says.
pub fn available_bytes(path: &Path) -> io::Result<u64> {
    let path = std::ffi::CString::new(path.as_os_str().as_bytes())?;
    // SAFETY: an all-zero statvfs is valid to be overwritten.
    let mut stat: libc::statvfs = unsafe { core::mem::zeroed() };
    // SAFETY: `path` is a live C string and `stat` a live statvfs.
    if unsafe { libc::statvfs(path.as_ptr(), &raw mut stat) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}

/// How large this process may make a file, if that is limited. Who makes one larger is sent SIGXFSZ, which ends
/// the process: so one asks first.
#[must_use]
pub fn size_limit_bytes() -> Option<u64> {
    let mut limit = libc::rlimit { rlim_cur: libc::RLIM_INFINITY, rlim_max: libc::RLIM_INFINITY };
    // SAFETY: a live structure to fill.
    unsafe { libc::getrlimit(libc::RLIMIT_FSIZE, &raw mut limit) };
    (limit.rlim_cur != libc::RLIM_INFINITY).then_some(limit.rlim_cur)
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
pub fn try_lock_byte(file: &File, byte: u32) -> io::Result<()> {
    let lock = byte_lock(libc::F_WRLCK, byte);
    // SAFETY: the descriptor is open, `lock` is a live flock with l_pid 0 as OFD locks want it.
    if unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_SETLK, &raw const lock) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Gives back the lock of one byte.
pub fn unlock_byte(file: &File, byte: u32) {
    let lock = byte_lock(libc::F_UNLCK, byte);
    // SAFETY: as above. Unlocking cannot fail on an open descriptor.
    unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_SETLK, &raw const lock) };
}

/// Gives back all locks of this open file description, also where a child between fork and exec shares it.
pub fn unlock_all(file: &File) {
    let mut lock = byte_lock(libc::F_UNLCK, 0);
    lock.l_len = 0; // to the end
    // SAFETY: as above.
    unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_SETLK, &raw const lock) };
}

/// Whether *another* open file description holds the lock of a byte.
///
/// # Errors
/// What `fcntl` says; nothing is known then.
pub fn byte_is_locked(file: &File, byte: u32) -> io::Result<bool> {
    let mut lock = byte_lock(libc::F_WRLCK, byte);
    // SAFETY: the descriptor is open, `lock` is a live flock for the call to fill.
    if unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_GETLK, &raw mut lock) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(i32::from(lock.l_type) != libc::F_UNLCK)
}
