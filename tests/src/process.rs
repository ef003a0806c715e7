//! Processes as the kernel shows them, and signals to them.
#![expect(unsafe_code, reason = "setrlimit")]

use crate::wait_until;
use ringmill_shm::sys::process::{PidFd, start_time, wait_readable};
use std::os::fd::AsRawFd;
use std::time::Duration;

/// A process, as known to the kernel: its number and when it began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Process {
    /// Its number.
    pub pid: u32,
    began: u64,
}

impl Process {
    /// The process that has this pid now.
    ///
    /// # Panics
    /// If there is none.
    #[must_use]
    pub fn of(pid: u32) -> Self {
        Self { pid, began: start_time(pid).expect("it lives") }
    }

    /// Whether it is there, if only as a zombie.
    #[must_use]
    pub fn exists(self) -> bool {
        start_time(self.pid) == Some(self.began)
    }
}

/// A field of `/proc/PID/stat` after the command's name, which has number 2.
#[must_use]
pub fn stat_field(pid: u32, number: usize) -> Option<String> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(')')?.1.split_whitespace().nth(number - 3).map(str::to_owned)
}

/// A line of a `/proc/…/status` file, as a number.
#[must_use]
pub fn status_number(file: &str, key: &str) -> Option<u64> {
    let status = std::fs::read_to_string(file).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))?;
    line.trim().parse().ok()
}

/// The CPUs on which a thread or process may run, as its `/proc/…/status` file says.
///
/// # Panics
/// If there is no such thread.
#[must_use]
#[track_caller]
pub fn cpus_of(file: &str) -> Vec<usize> {
    let status = std::fs::read_to_string(file).unwrap_or_else(|error| panic!("{file}: {error}"));
    let list = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:")).expect("a line");
    let number = |text: &str| text.parse::<usize>().expect("a number");
    let range = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        number(first)..=number(last)
    };
    list.trim().split(',').flat_map(range).collect()
}

/// Sends a signal to a process.
///
/// # Panics
/// If it does not live.
pub fn signal(pid: u32, signal: i32) {
    PidFd::open(pid).and_then(|process| process.send_signal(signal)).expect("it lives");
}

/// Stops a process, and waits until the kernel has stopped it.
///
/// # Panics
/// If it does not live.
#[track_caller]
pub fn stop(pid: u32) {
    signal(pid, libc::SIGSTOP);
    wait_until("it is stopped", || stat_field(pid, 3).as_deref() == Some("T"));
}

/// Continues a process that was stopped.
///
/// # Panics
/// If it does not live.
pub fn go_on(pid: u32) {
    signal(pid, libc::SIGCONT);
}

/// How often the first thread of a process has gone to sleep by itself. An idle worker does so every half second.
///
/// # Panics
/// If it does not live.
#[must_use]
pub fn sleeps(pid: u32) -> u64 {
    sleeps_in(&format!("/proc/{pid}/status")).expect("it lives")
}

/// How often the thread of a `/proc/…/status` file has gone to sleep by itself; `None` if it has ended.
#[must_use]
pub fn sleeps_in(file: &str) -> Option<u64> {
    status_number(file, "voluntary_ctxt_switches")
}

/// Waits until a process has ended.
#[track_caller]
pub fn await_end(process: &PidFd) {
    wait_until("it ends", || wait_readable(&[process.as_raw_fd()], Some(Duration::from_secs(1)))[0]);
}

/// Has this process leave no core file when it crashes.
pub fn dump_no_core() {
    let none = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: reads a live structure; only limits this process.
    unsafe { libc::setrlimit(libc::RLIMIT_CORE, &raw const none) };
}
