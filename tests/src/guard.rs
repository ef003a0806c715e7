//! Tests that hang fail, instead of hiding the results of the others.
#![expect(unsafe_code, reason = "setsid")]

use crate::GUARD;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::mpsc::RecvTimeoutError;
use std::time::Duration;

/// Runs a test, which fails if it takes longer than [`GUARD`].
///
/// # Panics
/// If the test does, or hangs.
pub fn guarded(test: impl FnOnce() + Send + 'static) {
    guarded_for(GUARD, test);
}

/// [`guarded`] with another limit.
///
/// # Panics
/// If the test does, or hangs.
pub fn guarded_for(limit: Duration, test: impl FnOnce() + Send + 'static) {
    stay_stopped();
    let (done, wait) = std::sync::mpsc::channel();
    let name = std::thread::current().name().unwrap_or("test").to_owned();
    let body = move || {
        let outcome = catch_unwind(AssertUnwindSafe(test));
        let _ = done.send(outcome); // after the limit the receiver has gone
    };
    std::thread::Builder::new().name(name).spawn(body).expect("a thread");
    match wait.recv_timeout(limit) {
        Ok(Ok(())) => {}
        Ok(Err(panic)) => resume_unwind(panic),
        Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => panic!("hangs after {limit:?}"),
    }
}

/// Has processes that this program will start, and stop, stay stopped until it continues them.
///
/// Symptom: a worker that a test had stopped went on by itself, in tests run in the background. Cause: when the
/// process that keeps a process group from being orphaned ends, the shell that started the tests say, the kernel
/// sends SIGHUP and SIGCONT to the group if any member is stopped. A session of our own has no such process, so
/// it cannot lose one. At a terminal that would cost Ctrl-C, and there the shell stays.
fn stay_stopped() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        if std::fs::File::open("/dev/tty").is_err() {
            // SAFETY: takes nothing. Refused for the leader of a group, which then stays as it is.
            unsafe { libc::setsid() };
        }
    });
}
