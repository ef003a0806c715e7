//! Forks of the service's process: by the thread that kills, and by callers amid a stream. Each child uses everything
//! that it has inherited; if a use returns anything but `CallError::Forked`, the child's exit code says so. Some
//! children end at once, some live for a while or until the server has gone, some exec another program.
//!
//! Children of a worker's process are the storm's too, once their worker has died: the program adopts them
//! (`PR_SET_CHILD_SUBREAPER`).
#![expect(unsafe_code, reason = "fork and what belongs to it")]

use super::Sky;
use crate::deed::{NO_CHILD, become_program};
use crate::dice::Dice;
use crate::tree::Item;
use ringmill::call::Pending;
use ringmill::{CallError, StreamOptions};
use ringmill_shm::sys::process::{kill_by_number, start_time};
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::atomic::Ordering;
use std::sync::{Mutex, MutexGuard, Once};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

/// How many children of one storm may live until its server has gone.
const STAYING_LIMIT: usize = 2;
/// The exit code of a child that panicked.
const PANICKED: i32 = 99;

/// What a child does after its tries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Afterwards {
    End,
    Linger(Duration),
    /// Until it is killed.
    Stay,
    Exec,
}

/// A child of this process, or of a worker that is about to die.
#[derive(Debug)]
struct Child {
    pid: u32,
    began: Option<u64>,
    /// Its exit code, or minus the signal that ends it.
    expected: i32,
    what: &'static str,
}

impl Child {
    /// How it has ended, if it has; an error if that is wrong.
    fn ended(&self) -> Option<Result<(), String>> {
        if start_time(self.pid) != self.began {
            return Some(Ok(())); // a worker's, unseen: where the program could not adopt it
        }
        let mut status = 0;
        // SAFETY: a live integer to fill. The pid is of a child that has not been waited for; while it is still its
        // worker's, the kernel refuses the call.
        let waited = unsafe { libc::waitpid(self.pid.cast_signed(), &raw mut status, libc::WNOHANG) };
        if waited <= 0 {
            return None;
        }
        let code = match libc::WIFSIGNALED(status) {
            true => -libc::WTERMSIG(status),
            false => libc::WEXITSTATUS(status),
        };
        let (what, expected) = (self.what, self.expected);
        Some(match code == expected {
            true => Ok(()),
            false => Err(format!("{what} ended with {code} instead of {expected}")),
        })
    }
}

/// All children that have not been waited for. Those that are left are killed when it is dropped.
#[derive(Debug, Default)]
pub(super) struct Children(Mutex<Vec<Child>>);

impl Children {
    /// Of now, with the children of dead workers as this program's.
    pub(super) fn new() -> Self {
        static ADOPT: Once = Once::new();
        // SAFETY: integers. If it is refused, another process adopts children of workers.
        ADOPT.call_once(|| unsafe {
            libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0);
        });
        Self::default()
    }

    fn all(&self) -> MutexGuard<'_, Vec<Child>> {
        self.0.lock().unwrap_or_else(|e| e.into_inner())
    }

    fn add(&self, pid: u32, expected: i32, what: &'static str) {
        self.all().push(Child { pid, began: start_time(pid), expected, what });
    }

    /// Adds a worker's child, which must end with this code.
    pub(super) fn adopt(&self, pid: u32, code: i32) {
        if pid != NO_CHILD {
            self.add(
                pid,
                code,
                if code == 0 { "a worker's helper" } else { "a worker's child that came back" },
            );
        }
    }

    /// The pids of those that are there.
    pub(super) fn pids(&self) -> Vec<u32> {
        self.all().iter().map(|child| child.pid).collect()
    }

    fn staying(&self) -> usize {
        self.all().iter().filter(|child| child.expected == -libc::SIGKILL).count()
    }

    /// Waits for those that have ended.
    ///
    /// # Errors
    /// If a child has ended in another way.
    pub(super) fn reap(&self) -> Result<(), String> {
        let mut outcome = Ok(());
        self.all().retain(|child| match child.ended() {
            None => true,
            Some(Ok(())) => false,
            Some(Err(wrong)) => {
                outcome = Err(wrong);
                false
            }
        });
        outcome
    }

    /// Ends those that stay.
    pub(super) fn release(&self) {
        for child in self.all().iter().filter(|child| child.expected == -libc::SIGKILL) {
            let _ = kill_by_number(child.pid); // a child of ours that has not been waited for
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.all().is_empty()
    }
}

impl Drop for Children {
    fn drop(&mut self) {
        for child in self.all().drain(..) {
            // Of a failed storm. A pid that is another's by now began at another time.
            if start_time(child.pid) == child.began {
                let _ = kill_by_number(child.pid);
                // SAFETY: no status is asked for; refused if it is no child of ours.
                unsafe { libc::waitpid(child.pid.cast_signed(), std::ptr::null_mut(), 0) };
            }
        }
    }
}

/// Whether a child got the error of a forked process.
fn is_told<T>(outcome: &Result<T, CallError>) -> bool {
    matches!(outcome, Err(CallError::Forked { .. }))
}

impl Sky<'_> {
    /// Forks this process. The child runs `code`, whose result is its exit code if it is not 0.
    pub(super) fn fork(&self, dice: &mut Dice, code: impl FnOnce() -> i32) {
        let afterwards = match dice.below(12) {
            0 if self.children.staying() < STAYING_LIMIT => Afterwards::Stay,
            1 | 2 => Afterwards::Exec,
            3..8 => Afterwards::Linger(Duration::from_micros(dice.below(50_000))),
            _ => Afterwards::End,
        };
        let patience = self.storm.patience.as_secs() as u32 + 60;
        // SAFETY: the child has one thread. It uses the engine, which promises to wait for no thread of the parent's,
        // and the allocator, whose locks `fork` takes and gives back.
        let pid = unsafe { libc::fork() };
        if pid == 0 {
            // SAFETY: integers; the alarm ends a child that hangs.
            unsafe {
                libc::signal(libc::SIGALRM, libc::SIG_DFL);
                libc::alarm(patience);
            }
            let code = catch_unwind(AssertUnwindSafe(code)).unwrap_or(PANICKED);
            match afterwards {
                Afterwards::Linger(time) if code == 0 => std::thread::sleep(time), // so long does it live on
                Afterwards::Stay if code == 0 => loop {
                    // SAFETY: takes nothing.
                    unsafe { libc::pause() };
                },
                Afterwards::Exec if code == 0 => become_program(&[c"/bin/true"]),
                _ => {}
            }
            // SAFETY: ends the child, with no exit handlers.
            unsafe { libc::_exit(code) }
        }
        let Ok(pid) = u32::try_from(pid) else { return }; // no room for a child
        self.counts.forks.fetch_add(1, Ordering::Relaxed); // Relaxed: a count
        let expected = if afterwards == Afterwards::Stay { -libc::SIGKILL } else { 0 };
        self.children.add(pid, expected, "a child of the service");
    }

    /// In a child: tries every way to use the server; `pending` is the parent's.
    pub(super) fn use_in_child(&self, input: &Item, pending: Option<Pending<'_, Item>>) -> i32 {
        if !is_told(&self.server.call(input).map(drop)) {
            return 1;
        }
        if !is_told(&self.server.submit(input).map(drop)) {
            return 2;
        }
        let polled = pin!(self.server.call_async(input)).poll(&mut Context::from_waker(Waker::noop()));
        if !matches!(polled, Poll::Ready(outcome) if is_told(&outcome)) {
            return 3;
        }
        let mut stream = self.server.stream_with([input.clone()], StreamOptions::new());
        if !stream.next().is_some_and(|outcome| is_told(&outcome)) || stream.next().is_some() {
            return 4;
        }
        drop(stream);
        if pending.is_some_and(|mut sent| !sent.try_take().is_some_and(|it| is_told(&it.map(drop)))) {
            return 5;
        }
        self.server.shutdown(); // which does nothing here
        0
    }

    /// Whether a caller forks amid its current stream.
    pub(super) fn is_to_fork(&self) -> bool {
        // Relaxed, both: a number of its own.
        self.forks_wanted.load(Ordering::Relaxed) > 0
            && self
                .forks_wanted
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |wanted| wanted.checked_sub(1))
                .is_ok()
    }
}
