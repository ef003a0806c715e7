//! Tests that have a process of their own: those that look at all of the process (its threads, its children, the listener
//! of its log), and those that fork, for which no other test may hold a lock at that moment.
#![expect(unsafe_code, reason = "a signal to a process group")]

use crate::GUARD;
use crate::guard::guarded;
use crate::plain_signals::with_plain_signals;
use ringmill_shm::sys::process::{PidFd, wait_readable};
use std::fs::File;
use std::io::{Read, Seek};
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// Names the test that this process has been started for.
const VARIABLE: &str = "RINGMILL_TEST_ALONE";
/// A test in a process of its own that takes longer hangs. Most end by [`GUARD`] themselves, and say where they are.
pub const ALONE_GUARD: Duration = GUARD.saturating_mul(10);

/// Runs a test in a process of its own; a test that hangs fails. `test` is its name in the harness.
///
/// # Panics
/// If the test does, or hangs.
#[track_caller]
pub fn alone(test: &str, body: impl FnOnce() + Send + 'static) {
    if !has_run_alone(test) {
        guarded(body);
    }
}

/// In the process of this test: returns false, and the test goes on. In any other: runs the test in a process of its own, kills
/// the processes that it leaves, and returns true.
///
/// # Panics
/// If the test does, or takes longer than [`ALONE_GUARD`].
#[must_use]
#[track_caller]
pub fn has_run_alone(test: &str) -> bool {
    has_run_alone_within(ALONE_GUARD, test)
}

/// [`has_run_alone`] with another limit.
///
/// # Panics
/// If the test does, or takes longer.
#[must_use]
#[track_caller]
pub fn has_run_alone_within(limit: Duration, test: &str) -> bool {
    if is_alone(test) {
        return false;
    }
    let run = run(limit, with_test(&mut this_program(), test));
    run.assert_passed(test);
    true
}

/// Whether this process has been started for this test.
#[must_use]
pub fn is_alone(test: &str) -> bool {
    std::env::var(VARIABLE).is_ok_and(|name| name == test)
}

/// This program again, without arguments.
///
/// # Panics
/// If the system does not say where it is.
#[must_use]
pub fn this_program() -> Command {
    Command::new(std::env::current_exe().expect("this program"))
}

/// Has a command, which starts this program, run this test and no other; [`is_alone`] says so there.
pub fn with_test<'c>(command: &'c mut Command, test: &str) -> &'c mut Command {
    command.args(arguments(test)).env(VARIABLE, test)
}

/// The arguments by which a test program runs this test alone.
#[must_use]
pub fn arguments(test: &str) -> [&str; 4] {
    ["--exact", test, "--nocapture", "--test-threads=1"]
}

/// How a test in a process of its own ended.
#[derive(Debug)]
pub struct Run {
    /// `None`: it took longer than its limit, and was killed.
    pub status: Option<ExitStatus>,
    /// What it wrote to its standard output and error.
    pub text: String,
    limit: Duration,
}

impl Run {
    /// The test has passed.
    ///
    /// # Panics
    /// If it has not, with what it wrote.
    #[track_caller]
    pub fn assert_passed(&self, test: &str) {
        let Self { status, text, limit } = self;
        let Some(status) = status else {
            panic!(
                "{test} in a process of its own: hangs after {limit:?}, and was killed; it wrote:\n{text}"
            );
        };
        assert!(status.success() && text.contains("1 passed"), "{test}: {status}; it wrote:\n{text}");
    }
}

/// Runs a command in a process group of its own, for no longer than `limit`, and kills the processes of the group that it leaves.
///
/// # Panics
/// If it does not start.
pub fn run(limit: Duration, command: &mut Command) -> Run {
    let mut said: File = tempfile::tempfile().expect("a file");
    let copy = || said.try_clone().expect("a descriptor");
    let mut process = with_plain_signals(command)
        .process_group(0)
        .stdin(Stdio::null())
        .stdout(copy())
        .stderr(copy())
        .spawn()
        .expect("the program");
    let group = process.id();
    let has_ended = ends_within(limit, &PidFd::open(group).expect("a child of ours"));
    // SAFETY: the group is named after a child of ours that has not been waited for, so no other has its number.
    unsafe { libc::kill(-group.cast_signed(), libc::SIGKILL) };
    let status = process.wait().expect("a child of ours");
    let mut text = String::new();
    said.rewind().and_then(|()| said.read_to_string(&mut text)).expect("a file of ours");
    Run { status: has_ended.then_some(status), text, limit }
}

fn ends_within(limit: Duration, process: &PidFd) -> bool {
    let begun = Instant::now();
    loop {
        let left = limit.saturating_sub(begun.elapsed());
        // A signal ends a wait early; hence the loop.
        if wait_readable(&[process.as_raw_fd()], Some(left))[0] {
            return true;
        }
        if left.is_zero() {
            return false;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A test that hangs is killed with the processes that it has started.
    #[test]
    fn a_process_that_hangs_is_killed_with_its_group() {
        let mut command = Command::new("sh");
        command.args(["-c", "sleep 1000 & echo $!; wait"]);
        let run = run(Duration::from_secs(1), &mut command);
        assert_eq!(run.status, None);
        let helper: u32 = run.text.trim().parse().expect("the pid of its child");
        crate::wait_until("its child is dead", || {
            crate::process::stat_field(helper, 3).is_none_or(|state| state == "Z")
        });
        let told = std::panic::catch_unwind(|| run.assert_passed("a test")).expect_err("it hangs");
        let told = told.downcast_ref::<String>().expect("a text");
        assert!(told.starts_with("a test in a process of its own: hangs after 1s, and was killed"), "{told}");
    }
}
