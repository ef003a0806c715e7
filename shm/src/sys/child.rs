//! Child processes that run another program at once.
//!
//! The standard library's `Command` learns from the end of a pipe that its child has run the program. A child that
//! another thread forks at that moment, to live on without running one (a daemon, a helper), has a copy of that pipe:
//! the pipe has no end before that child has, and a thread that starts a process waits for so long.
//!
//! # Protocol
//!
//! The child is made by `clone` with `CLONE_VFORK`, and with memory of its own: the kernel suspends the thread that
//! makes it until the child has run a program, or has ended. So the thread waits for nothing that another process could
//! hold, and no handler of `pthread_atfork` runs. A child that cannot run the program says why through a pipe, before
//! it ends; the parent reads what is in the pipe, and does not wait for its end. Under an emulator without
//! `CLONE_VFORK` that may be too early: then such a child counts as started, and has ended.
//!
//! # Crash
//!
//! A child that is killed before it runs the program is one that has ended. One that is stopped there suspends the
//! thread until it is continued, or killed.
#![expect(unsafe_code, reason = "clone, and what is called between it and exec")]

use super::file::set_nonblocking;
use std::io::{self, Read};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

/// The exit code of a child that has run no program, as in shells.
const NO_PROGRAM: i32 = 127;
/// What a child says before the number of an error; [`start`]'s `code` says other bytes.
const FAILED: u8 = 0xFF;

/// A child of this process, as [`std::process::Child`] is one.
#[derive(Debug)]
pub struct Child {
    pid: u32,
    status: Option<ExitStatus>,
}

impl Child {
    /// Its pid, which is its own until it has been waited for.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.pid
    }

    /// How it ended, if it has.
    ///
    /// # Errors
    /// `ECHILD` if other code has waited for it.
    pub fn try_wait(&mut self) -> io::Result<Option<ExitStatus>> {
        self.wait_with(libc::WNOHANG)
    }

    /// Waits until it has ended.
    ///
    /// # Errors
    /// As [`try_wait`](Self::try_wait).
    pub fn wait(&mut self) -> io::Result<ExitStatus> {
        self.wait_with(0)?.ok_or_else(|| io::ErrorKind::WouldBlock.into())
    }

    fn wait_with(&mut self, options: i32) -> io::Result<Option<ExitStatus>> {
        let mut status = 0;
        while self.status.is_none() {
            // SAFETY: a live integer to fill.
            match unsafe { libc::waitpid(self.pid.cast_signed(), &raw mut status, options) } {
                0 => return Ok(None),
                1.. => self.status = Some(ExitStatus::from_raw(status)),
                _ => match io::Error::last_os_error() {
                    error if error.kind() == io::ErrorKind::Interrupted => {}
                    error => return Err(error),
                },
            }
        }
        Ok(self.status)
    }

    /// Sends SIGKILL, unless it has been waited for here.
    ///
    /// # Errors
    /// What the system says.
    pub fn kill(&mut self) -> io::Result<()> {
        match self.status {
            None => super::process::kill_by_number(self.pid),
            Some(_) => Ok(()),
        }
    }
}

/// Starts a child with `input` as its standard input, that runs `code`, which runs a program; it returns only if it
/// cannot, with the reason. It may say something through the descriptor that it is given: bytes below 255, which are
/// what this gives beside the child.
///
/// No signal is blocked in the child, and SIGPIPE has its default effect. `code` may do what a signal handler may: it
/// makes system calls, and allocates nothing.
///
/// # Errors
/// Those of the system and of `code`.
pub(super) fn start(input: RawFd, code: impl FnOnce(RawFd) -> io::Error) -> io::Result<(Child, Vec<u8>)> {
    let (mut hear, say) = io::pipe()?;
    let flags = libc::CLONE_VFORK | libc::SIGCHLD;
    // SAFETY: integers; without a stack of its own the child goes on here, in memory of its own.
    let pid = unsafe { libc::syscall(libc::SYS_clone, flags, 0, 0, 0, 0) };
    if pid == 0 {
        let error = run(input, || code(say.as_raw_fd()));
        let [a, b, c, d] = error.raw_os_error().unwrap_or(libc::EIO).to_ne_bytes();
        let message = [FAILED, a, b, c, d];
        // SAFETY: a live array of that length; then this process ends.
        unsafe {
            libc::write(say.as_raw_fd(), message.as_ptr().cast(), message.len());
            libc::_exit(NO_PROGRAM)
        }
    }
    let Ok(pid @ 1..) = u32::try_from(pid) else { return Err(io::Error::last_os_error()) };
    drop(say);
    let mut child = Child { pid, status: None };
    set_nonblocking(hear.as_raw_fd());
    let mut said = Vec::new();
    let _ = hear.read_to_end(&mut said); // nothing more, where it would block
    match said.iter().position(|&byte| byte == FAILED) {
        None => Ok((child, said)),
        Some(at) => {
            let number = said.get(at + 1..).and_then(|bytes| bytes.first_chunk().copied());
            let _ = child.wait(); // it is about to end
            Err(io::Error::from_raw_os_error(number.map_or(libc::EIO, i32::from_ne_bytes)))
        }
    }
}

/// In the child.
fn run(input: RawFd, code: impl FnOnce() -> io::Error) -> io::Error {
    // SAFETY: an all-zero set is valid to be overwritten, and live for both calls; the rest are integers.
    unsafe {
        let mut none: libc::sigset_t = core::mem::zeroed();
        libc::sigemptyset(&raw mut none);
        libc::pthread_sigmask(libc::SIG_SETMASK, &raw const none, core::ptr::null_mut());
        libc::signal(libc::SIGPIPE, libc::SIG_DFL);
        if libc::dup2(input, libc::STDIN_FILENO) < 0 {
            return io::Error::last_os_error();
        }
    }
    code()
}

#[cfg(all(test, not(miri)))]
mod tests {
    use super::*;

    fn execute(program: &'static core::ffi::CStr) -> io::Error {
        let arguments = [program.as_ptr(), core::ptr::null()];
        // SAFETY: a live C string, and an array of such that ends with a null.
        unsafe { libc::execv(program.as_ptr(), arguments.as_ptr()) };
        io::Error::last_os_error()
    }

    #[test]
    fn it_runs_a_program_or_says_why_not() {
        let nothing = std::fs::File::open("/dev/null").unwrap();
        let input = nothing.as_raw_fd();
        let (mut child, said) = start(input, |say| {
            // SAFETY: two readable bytes.
            unsafe { libc::write(say, [7_u8, 8].as_ptr().cast(), 2) };
            execute(c"/bin/true")
        })
        .unwrap();
        assert_eq!(said, [7, 8]);
        assert!(child.wait().unwrap().success());
        assert!(child.try_wait().unwrap().unwrap().success(), "it is remembered");
        child.kill().unwrap();
        let error = start(input, |_| execute(c"/nowhere")).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ENOENT));
    }

    /// Symptom: no death was noticed, and no worker restarted, for as long as a child lived that a thread of the service
    /// had forked. Cause: it had been forked while a worker was started, and had a copy of the standard library's pipe.
    #[test]
    fn a_process_that_has_a_copy_of_the_pipe_holds_nobody_up() {
        let nothing = std::fs::File::open("/dev/null").unwrap();
        let (until, hold) = io::pipe().unwrap();
        let (mut child, _) = start(nothing.as_raw_fd(), |_| {
            // As if another thread had forked just now; it lives until the pipe of the test has an end.
            // SAFETY: integers, and a byte to be written.
            unsafe {
                if libc::fork() == 0 {
                    libc::close(hold.as_raw_fd());
                    libc::read(until.as_raw_fd(), [0_u8; 1].as_mut_ptr().cast(), 1);
                    libc::_exit(0);
                }
            }
            execute(c"/bin/true")
        })
        .unwrap();
        assert!(child.wait().unwrap().success());
        drop(hold);
    }
}
