//! Descriptors that forked children do not keep.
//!
//! A child has a copy of each descriptor, and with it shares the open file: its locks live as long as the last copy, a
//! socket does not hang up, a pipe has no end. `O_CLOEXEC` is of no use to a child that never execs: a daemon whose
//! parent leaves, a crash reporter, a helper of a library. A descriptor by which other processes see this one's life or
//! death must be its own.
//!
//! # Protocol
//!
//! Each such descriptor is listed in a table that a signal handler could read. In a child made by `fork` a
//! [hook](super::birth::run_in_children) closes them all before anything else runs. A descriptor is opened and listed
//! while no fork is in progress ([`without_forks`]); else it is opened again.
//!
//! A child of `_Fork` or of a bare `clone` keeps its copies, until it drops their owners, execs, or ends.
//!
//! | Row | Means | Left by, to |
//! |---|---|---|
//! | FREE | unused | the thread that lists a descriptor → it |
//! | a descriptor | open | its owner's drop → FREE; the hook, in a child → CLOSED |
//! | CLOSED | closed in this child; its owner, a copy of the parent's, may still be dropped | that drop → FREE |

#![expect(unsafe_code, reason = "a table of rows that live for ever, and descriptors taken from it")]

use super::birth::{Birth, run_in_children, without_forks};
use core::ptr;
use core::sync::atomic::{AtomicI32, AtomicPtr, Ordering};
use std::fs::File;
use std::io;
use std::mem::ManuallyDrop;
use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd, OwnedFd};

const FREE: i32 = -1;
const CLOSED: i32 = -2;

/// A row of the table: never freed, reused.
struct Row {
    descriptor: AtomicI32,
    next: Option<&'static Row>,
}

/// The row that was made last.
static ROWS: AtomicPtr<Row> = AtomicPtr::new(ptr::null_mut());

fn last_row() -> (*mut Row, Option<&'static Row>) {
    let last = ROWS.load(Ordering::Acquire);
    // SAFETY: null, or a row that `list` has leaked; only its atomic changes from then on.
    (last, unsafe { last.as_ref() })
}

fn rows() -> impl Iterator<Item = &'static Row> {
    std::iter::successors(last_row().1, |row| row.next)
}

/// A row with this descriptor.
fn list(descriptor: i32) -> &'static Row {
    let take = |row: &&Row| {
        row.descriptor.compare_exchange(FREE, descriptor, Ordering::AcqRel, Ordering::Relaxed).is_ok()
    };
    if let Some(row) = rows().find(take) {
        return row;
    }
    let mut new = Box::new(Row { descriptor: AtomicI32::new(descriptor), next: None });
    loop {
        let (last, next) = last_row();
        new.next = next;
        let row = Box::into_raw(new);
        match ROWS.compare_exchange(last, row, Ordering::AcqRel, Ordering::Acquire) {
            // SAFETY: it was made above, and is never freed from now on.
            Ok(_) => return unsafe { &*row },
            // SAFETY: it was made above, and no other thread has seen it.
            Err(_) => new = unsafe { Box::from_raw(row) },
        }
    }
}

/// In a forked child, first of all.
fn close_all() {
    for row in rows() {
        let descriptor = row.descriptor.load(Ordering::Acquire);
        if descriptor >= 0 {
            row.descriptor.store(CLOSED, Ordering::Release); // a forked child has one thread
            // SAFETY: the child's copy of a descriptor that its parent listed; the owner finds it CLOSED.
            unsafe { libc::close(descriptor) };
        }
    }
}

/// A descriptor that children made by `fork` do not keep; see the module.
pub struct Unshared {
    row: &'static Row,
    birth: Birth,
}

impl Unshared {
    /// What `open` opens, close-on-exec. `open` may be called more than once; what it opened before is closed then.
    ///
    /// # Errors
    /// Those of `open`.
    pub fn open(mut open: impl FnMut() -> io::Result<OwnedFd>) -> io::Result<Self> {
        without_forks(|| open().map(Self::list))
    }

    /// A descriptor that was open before: no protection if another thread may have forked since.
    #[must_use]
    pub fn adopt(descriptor: OwnedFd) -> Self {
        Self::list(descriptor)
    }

    fn list(descriptor: OwnedFd) -> Self {
        run_in_children(close_all);
        Self { row: list(descriptor.into_raw_fd()), birth: Birth::here() }
    }

    /// Whether this process opened it.
    #[must_use]
    pub fn is_ours(&self) -> bool {
        self.birth.is_here()
    }

    /// The file, for as long as this is kept.
    ///
    /// # Errors
    /// `EBADF` in a forked child.
    pub fn file(&self) -> io::Result<ManuallyDrop<File>> {
        match self.as_raw_fd() {
            // SAFETY: it is open as long as `self` lives, and the returned value does not close it.
            descriptor @ 0.. => Ok(ManuallyDrop::new(unsafe { File::from_raw_fd(descriptor) })),
            _ => Err(io::Error::from_raw_os_error(libc::EBADF)),
        }
    }
}

impl AsRawFd for Unshared {
    /// Negative, so that every call refuses it, in a forked child.
    fn as_raw_fd(&self) -> i32 {
        self.row.descriptor.load(Ordering::Acquire)
    }
}

impl Drop for Unshared {
    fn drop(&mut self) {
        let descriptor = self.row.descriptor.swap(FREE, Ordering::AcqRel);
        if descriptor >= 0 {
            // SAFETY: it was listed by this value, or by the one that this is a copy of; no other code closes it.
            unsafe { libc::close(descriptor) };
        }
    }
}

impl core::fmt::Debug for Unshared {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_tuple("Unshared").field(&self.as_raw_fd()).finish()
    }
}

#[cfg(all(test, not(miri)))]
mod tests {
    use super::*;
    use std::io::Read;

    /// Symptom: a pipe whose writer has gone does not end, because a forked child of the writer lives.
    #[test]
    fn a_forked_child_keeps_no_copy() {
        let (mut end, first) = std::io::pipe().unwrap();
        let writer = Unshared::open(|| Ok(OwnedFd::from(first.try_clone()?))).unwrap();
        drop(first);
        let (held, hold) = std::io::pipe().unwrap();
        // SAFETY: the child only reads, and ends.
        let child = match unsafe { libc::fork() } {
            0 => {
                drop(hold);
                let closed = writer.as_raw_fd() < 0 && writer.file().is_err() && !writer.is_ours();
                // Another file has the freed number by now: dropping must not close it.
                let other = File::open("/dev/null").unwrap();
                drop(writer);
                let kept = other.metadata().is_ok();
                let _ = { held }.read(&mut [0]); // until the parent lets go
                // SAFETY: ends the child.
                unsafe { libc::_exit(i32::from(!(closed && kept))) }
            }
            child => child,
        };
        assert!(writer.is_ours());
        drop(writer);
        let mut bytes = Vec::new();
        end.read_to_end(&mut bytes).unwrap(); // hangs if the child has the other end
        drop(hold);
        let mut status = 0;
        // SAFETY: a child of ours, and a live integer to fill.
        unsafe { libc::waitpid(child, &raw mut status, 0) };
        assert_eq!(status, 0);
    }

    #[test]
    fn rows_are_used_again() {
        let open = || File::open("/dev/null").map(OwnedFd::from);
        let before = rows().count();
        for _ in 0..100 {
            drop(Unshared::open(open).unwrap());
        }
        assert!(rows().count() <= before + 8, "as many as tests have at once");
    }
}
