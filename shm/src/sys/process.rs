//! Processes: identity, death, signals.
#![expect(unsafe_code, reason = "pidfd_open, waitid, kill, poll, prctl and their relatives")]

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::OnceLock;
use std::time::Duration;

/// A descriptor that becomes readable when its process has ended; immune to pid reuse.
#[derive(Debug)]
pub struct PidFd(OwnedFd);

impl PidFd {
    /// Opens the process `pid`.
    ///
    /// # Errors
    /// `ESRCH` if there is none, `EMFILE` and its like.
    pub fn open(pid: u32) -> io::Result<Self> {
        // SAFETY: pidfd_open takes two integers; the flag 0 makes a close-on-exec descriptor.
        let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
        let fd = i32::try_from(fd).map_err(io::Error::other)?;
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the call has just returned this descriptor, so nobody else owns it.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// Sends a signal to exactly this process, never to a later one of the same number.
    ///
    /// # Errors
    /// `ESRCH` if the process has ended and been waited for.
    pub fn send_signal(&self, signal: i32) -> io::Result<()> {
        // SAFETY: plain integers and a null siginfo, which means "as kill would".
        let result = unsafe {
            libc::syscall(
                libc::SYS_pidfd_send_signal,
                self.0.as_raw_fd(),
                signal,
                core::ptr::null::<libc::siginfo_t>(),
                0,
            )
        };
        if result == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }
}

impl AsRawFd for PidFd {
    fn as_raw_fd(&self) -> i32 {
        self.0.as_raw_fd()
    }
}

/// A counter that a poll can wait for: how one thread gets another out of [`wait_readable`].
#[derive(Debug)]
pub struct EventFd(OwnedFd);

impl EventFd {
    /// A new counter at zero, non-blocking and close-on-exec.
    ///
    /// # Errors
    /// `EMFILE` and its like.
    pub fn new() -> io::Result<Self> {
        // SAFETY: eventfd takes two integers.
        let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the call has just returned this descriptor, so nobody else owns it.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// Makes the descriptor readable. Safe to call from a signal handler.
    pub fn signal(&self) {
        let one = 1_u64.to_ne_bytes();
        // SAFETY: eight readable bytes. A full counter (EAGAIN) is readable already.
        unsafe { libc::write(self.0.as_raw_fd(), one.as_ptr().cast(), one.len()) };
    }

    /// Makes it unreadable again.
    pub fn clear(&self) {
        let mut count = [0_u8; 8];
        // SAFETY: eight writable bytes. An empty counter answers EAGAIN, which is what we want.
        unsafe { libc::read(self.0.as_raw_fd(), count.as_mut_ptr().cast(), count.len()) };
    }
}

impl AsRawFd for EventFd {
    fn as_raw_fd(&self) -> i32 {
        self.0.as_raw_fd()
    }
}

/// Sleeps until one of `fds` is readable, or `timeout` is over (`None`: for ever); says which are.
///
/// A signal ends the wait early with an empty answer.
pub fn wait_readable(fds: &[i32], timeout: Option<Duration>) -> Vec<bool> {
    let mut polled: Vec<libc::pollfd> =
        fds.iter().map(|&fd| libc::pollfd { fd, events: libc::POLLIN, revents: 0 }).collect();
    // Rounded up, so that a wait for a deadline does not end just before it.
    let timeout_ms = timeout.map_or(-1, |t| i32::try_from(t.as_micros().div_ceil(1000)).unwrap_or(i32::MAX));
    // SAFETY: `polled` is a live array of the length given.
    unsafe { libc::poll(polled.as_mut_ptr(), polled.len() as libc::nfds_t, timeout_ms) };
    polled.iter().map(|p| p.revents != 0).collect()
}

/// The start time of a process in clock ticks since boot: with its pid, who it is.
#[must_use]
pub fn start_time(pid: u32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The command name in parentheses may hold anything; field 22 of the line counts from after it.
    stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()
}

/// Ends this process at once, with no exit handlers.
pub fn exit_now(code: i32) -> ! {
    // SAFETY: _exit takes an integer and does not return.
    unsafe { libc::_exit(code) }
}

/// Makes this process ignore a signal.
pub fn ignore_signal(signal: i32) {
    // SAFETY: SIG_IGN is a valid disposition; no handler code of ours runs.
    unsafe { libc::signal(signal, libc::SIG_IGN) };
}

/// Whether a signal still has its default effect in this process.
#[must_use]
pub fn signal_is_default(signal: i32) -> bool {
    // SAFETY: an all-zero sigaction is valid to be overwritten.
    let mut action: libc::sigaction = unsafe { core::mem::zeroed() };
    // SAFETY: a null new action only asks; `action` is live for the call to fill.
    let asked = unsafe { libc::sigaction(signal, core::ptr::null(), &raw mut action) };
    asked == 0 && action.sa_sigaction == libc::SIG_DFL
}

/// Gives a signal its default effect and sends it to this process.
pub fn die_by_signal(signal: i32) {
    // SAFETY: SIG_DFL is a valid disposition; raise takes an integer.
    unsafe {
        libc::signal(signal, libc::SIG_DFL);
        libc::raise(signal);
    }
}

/// From now on a read of mapped bytes that are not there any more, because the file was made shorter, ends this
/// process with a message and an exit code, and not by the signal alone.
pub fn end_on_bus_error(message: &'static str, code: i32) {
    static ENDING: OnceLock<(&'static str, i32)> = OnceLock::new();
    extern "C" fn end(_: libc::c_int) {
        let (message, code) = ENDING.get().copied().unwrap_or(("", 1));
        // SAFETY: write and _exit may be called in a signal handler; the message is static. `get` of what was
        // set before the handler was is a load.
        unsafe {
            libc::write(libc::STDERR_FILENO, message.as_ptr().cast(), message.len());
            libc::_exit(code)
        }
    }
    if ENDING.set((message, code)).is_ok() {
        // SAFETY: the handler takes what a handler is given, and calls nothing that may not be called in one.
        unsafe { libc::signal(libc::SIGBUS, end as extern "C" fn(libc::c_int) as libc::sighandler_t) };
    }
}

/// The user this process acts as.
#[must_use]
pub fn user_id() -> u32 {
    // SAFETY: takes nothing, cannot fail.
    unsafe { libc::geteuid() }
}
