//! Tests that have a process of their own: those that look at all of the process (its threads, its children, the listener
//! of its log), and those that fork, for which no other test may hold a lock at that moment.
#![expect(unsafe_code, reason = "a signal to a process group")]

use crate::guard::guarded;
use crate::plain_signals::with_plain_signals;
use std::fs::File;
use std::io::{Read, Seek};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

/// Names the test that this process has been started for.
const VARIABLE: &str = "RINGMILL_TEST_ALONE";

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
/// If the test does.
#[must_use]
#[track_caller]
pub fn has_run_alone(test: &str) -> bool {
    if std::env::var(VARIABLE).is_ok_and(|name| name == test) {
        return false;
    }
    let mut said: File = tempfile::tempfile().expect("a file");
    let copy = || said.try_clone().expect("a descriptor");
    let mut command = Command::new(std::env::current_exe().expect("this program"));
    let mut process = with_plain_signals(&mut command)
        .args(["--exact", test, "--nocapture", "--test-threads=1"])
        .env(VARIABLE, test)
        .process_group(0)
        .stdin(Stdio::null())
        .stdout(copy())
        .stderr(copy())
        .spawn()
        .expect("this program");
    let status = process.wait().expect("a child of ours");
    // SAFETY: the group is named after a child of ours; no other process is in it.
    unsafe { libc::kill(-process.id().cast_signed(), libc::SIGKILL) };
    let mut text = String::new();
    said.rewind().and_then(|()| said.read_to_string(&mut text)).expect("a file of ours");
    assert!(status.success() && text.contains("1 passed"), "{test}: {status}\n{text}");
    true
}
