//! Pages of a mapping: to have them before their first use, and to keep them in memory.
#![expect(unsafe_code, reason = "madvise and mlock")]

use super::limit::{Limit, soft_limit};
use core::ops::Range;
use std::io;

/// The size of a page.
pub(crate) fn page_bytes() -> usize {
    // SAFETY: an integer in, an integer out.
    let bytes = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    usize::try_from(bytes).expect("each system has pages")
}

/// Maps the pages of these bytes for writing, as the first writes to them would.
///
/// # Errors
/// `EINVAL` if the kernel is older than 5.14; `EFAULT`, `ENOMEM` or `EHWPOISON` where a write would end the process.
///
/// # Safety
/// The bytes lie in a mapping of this process that may be written.
pub(crate) unsafe fn populate(first: *mut u8, bytes: usize) -> io::Result<()> {
    let before = first.addr() % page_bytes();
    loop {
        // SAFETY: whole pages of a mapping, by our contract; their bytes stay as they are.
        if unsafe { libc::madvise(first.sub(before).cast(), before + bytes, libc::MADV_POPULATE_WRITE) } == 0
        {
            return Ok(());
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}

/// Maps the pages of these bytes for reading, as the first reads of them would. It changes no byte, and refuses what is not
/// mapped.
///
/// # Errors
/// As [`populate`].
pub(crate) fn populate_to_read(first: *const u8, bytes: usize) -> io::Result<()> {
    let before = first.addr() % page_bytes();
    let first = first.wrapping_sub(before).cast_mut();
    // SAFETY: it reads pages, and answers with an error where there are none to be read.
    match unsafe { libc::madvise(first.cast(), before + bytes, libc::MADV_POPULATE_READ) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Keeps these bytes in memory, all of them from now on, until they are unmapped: they are never written to swap.
///
/// # Errors
/// `ENOMEM`, `EAGAIN` or `EPERM` beyond [`lock_limit_bytes`].
///
/// # Safety
/// The bytes lie in a mapping of this process.
pub(crate) unsafe fn lock(first: *const u8, bytes: usize) -> io::Result<()> {
    // SAFETY: a mapping, by our contract.
    match unsafe { libc::mlock(first.cast(), bytes) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// How many bytes this process may lock, if it has no privilege (`RLIMIT_MEMLOCK`).
#[must_use]
pub fn lock_limit_bytes() -> Option<u64> {
    soft_limit(Limit::LockedBytes)
}

/// Those of the ranges that touch one another as one; they ascend and do not overlap.
pub(crate) fn joined(ranges: impl IntoIterator<Item = Range<u64>>) -> Vec<Range<u64>> {
    let mut all: Vec<Range<u64>> = Vec::new();
    for range in ranges {
        match all.last_mut() {
            Some(last) if last.end == range.start => last.end = range.end,
            _ => all.push(range),
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_that_touch_are_one() {
        assert_eq!(joined([0..4, 4..6, 8..9, 9..9, 9..12]), [0..6, 8..12]);
        assert_eq!(joined([]), []);
    }
}
