//! After a death: whether and when a worker is restarted, and what becomes of a servlet without workers.
#![expect(unsafe_code, reason = "the contract of rows, whose unit was not started")]

use super::post::{Body, Post};
use super::shared::Command;
use super::state::Supervisor;
use crate::error::{RemoteCause, StartError};
use crate::panics::say;
use crate::policy::restarts::{Death, Next};
use ringmill_shm::participant::Life;
use ringmill_shm::stats::ServerCounter;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// The longest sleep of a thread that waits for a worker on trial: the backstop for a wake that a dead waker owed.
const SLEEP_LIMIT: Duration = Duration::from_secs(1);

/// Back-off while the system has no process, descriptor or memory left for a worker.
const FIRST_SHORTAGE: Duration = Duration::from_millis(10);
const LONGEST_SHORTAGE: Duration = Duration::from_millis(500);

impl Supervisor {
    /// Whether dead workers are restarted.
    pub(super) fn restarts_workers(&self) -> bool {
        !self.stopping() && self.started.load(Ordering::SeqCst)
    }

    /// Whether a worker of this servlet has finished a batch since the last call of this function, which follows a
    /// barren death.
    fn has_progressed(&mut self, node: u32) -> bool {
        let segment = &self.shared.segment;
        let posts = self.posts.iter().filter(|post| post.node == node);
        // In its counters a dead worker's call stays in progress until it is restarted.
        let of_one = |post: &Post| post.finished_before.saturating_add(post.finished(segment, false));
        let finished = posts.map(of_one).fold(0, u64::saturating_add);
        std::mem::replace(&mut self.finished[node as usize], finished) < finished
    }

    /// Decides what follows a dead worker in its post.
    pub(super) fn plan_restart(&mut self, index: usize, how: &str, pid: u32, mut death: Death) -> Body {
        if self.stopping() {
            return Body::None;
        }
        if !self.started.load(Ordering::SeqCst) {
            return Body::Awaiting(Instant::now()); // in case the server gets ready all the same
        }
        if death.is_barren() {
            death.progress = self.has_progressed(self.posts[index].node);
        }
        let post = &mut self.posts[index];
        post.on_trial = false;
        match post.record.death(&post.restarts, &death) {
            Next::Restart(backoff) => match Instant::now().checked_add(backoff) {
                Some(at) => {
                    say(
                        || tracing::warn!(worker = %post.title, pid, ?backoff, "a worker {how}; it will be restarted"),
                    );
                    Body::Awaiting(at)
                }
                None => {
                    say(
                        || tracing::error!(worker = %post.title, pid, ?backoff, "a worker {how}; its back-off has no end"),
                    );
                    Body::GivenUp(None)
                }
            },
            Next::GiveUp(rest) => {
                let in_vain = post.record.in_vain();
                say(
                    || tracing::error!(worker = %post.title, pid, in_vain, ?rest, "a worker {how}; it is given up"),
                );
                Body::GivenUp(rest.and_then(|rest| Instant::now().checked_add(rest)))
            }
        }
    }

    /// After a start for which the system lacked a process, descriptor or memory. That is not the worker's fault, and
    /// passes: the start is retried without a limit.
    fn await_room(&mut self, index: usize, how: &str) -> Body {
        let post = &mut self.posts[index];
        let backoff = (FIRST_SHORTAGE * 2_u32.pow(post.refusals.min(8))).min(LONGEST_SHORTAGE);
        post.refusals += 1;
        say(|| tracing::warn!(worker = %post.title, ?backoff, "a worker {how}; its start will be retried"));
        let at = Instant::now() + backoff;
        match std::mem::take(&mut post.on_trial) {
            true => Body::GivenUp(Some(at)),
            false => Body::Awaiting(at),
        }
    }

    pub(super) fn restart_due(&mut self) {
        if !self.restarts_workers() {
            return;
        }
        for index in 0..self.posts.len() {
            let due = |at: Instant| at <= Instant::now();
            self.posts[index].on_trial = match self.posts[index].body {
                // Its trial may have failed late, or during a batch: only a trial reopens a servlet.
                Body::Awaiting(at) if due(at) => self.shared.down(self.posts[index].node as usize).is_some(),
                Body::GivenUp(Some(at)) if due(at) => true,
                _ => continue,
            };
            // A worker that comes by scaling is no restart.
            let post = &self.posts[index];
            let is_first = post.entries(&self.shared.segment).all(|entry| entry.life() == Life::Vacant);
            let launched = self.launch(index);
            if launched.is_ok() && !is_first {
                self.count(ServerCounter::Restarts);
            }
            if let Err(error) = launched {
                let how = failed_start(&error);
                match self.posts[index].body {
                    Body::Unwatched(_) => {
                        let post = &mut self.posts[index];
                        let node = post.node;
                        (post.on_trial, post.hangs) = (false, true);
                        post.failures += 1;
                        post.last_failure = how.clone();
                        self.give_up_if_last(node, &how);
                    }
                    _ => self.after_failed_start(index, &how, is_shortage(&error)),
                }
            } else if (self.posts[index].on_trial || self.is_awaited(index))
                && let Err(error) = self.watch_trial(self.posts[index].rows.clone())
            {
                // No thread would report when it is ready, so a trial counts as ready; a lever looks at intervals.
                say(|| tracing::warn!(%error, "cannot start the thread that watches a trial"));
                if std::mem::take(&mut self.posts[index].on_trial) {
                    self.shared.reopen(self.posts[index].node);
                }
            }
        }
    }

    /// Decides what follows a start that has left no unit.
    fn after_failed_start(&mut self, index: usize, how: &str, is_shortage: bool) {
        let post = &mut self.posts[index];
        post.failures += 1;
        post.last_failure = how.into();
        let node = post.node;
        // SAFETY: no unit was started, or it has ended: one whose end was not seen is the post's body until then.
        unsafe { post.mark_dead(&self.shared.segment) };
        self.posts[index].body = match is_shortage {
            true => self.await_room(index, how),
            // Its executable has gone, say: a failed start.
            false => self.plan_restart(index, how, 0, Death::default()),
        };
        self.give_up_if_last(node, how);
    }

    /// Repairs what a process left that could be neither watched nor ended, once it has ended after all, and decides
    /// what follows. No event reports its end.
    pub(super) fn look_at_the_unwatched(&mut self) {
        for index in 0..self.posts.len() {
            let post = &mut self.posts[index];
            let Body::Unwatched(unit) = &mut post.body else { continue };
            if !unit.process.has_ended() {
                continue;
            }
            let Body::Unwatched(unit) = std::mem::replace(&mut post.body, Body::None) else { continue };
            post.hangs = false;
            self.forget(index, &unit.tokens);
            self.after_failed_start(index, &unit.how, unit.is_shortage);
        }
    }

    /// Makes the supervisor look again once a worker on trial is ready, or has failed.
    fn watch_trial(&self, rows: Range<u32>) -> std::io::Result<()> {
        let shared = Arc::clone(&self.shared);
        let watch = move || {
            let bell = shared.segment.startup();
            let entries = || &shared.segment.participants()[rows.start as usize..rows.end as usize];
            loop {
                let count = bell.count();
                if entries().iter().all(|e| e.life() != Life::Starting)
                    || shared.commanded() != Command::Watch
                {
                    break;
                }
                bell.sleep(count, Some(SLEEP_LIMIT)); // a repair rings it too
            }
            shared.commands.signal();
        };
        std::thread::Builder::new().name("ringmill-trial".into()).spawn(watch).map(|_detached| ())
    }

    /// If a worker on trial is ready, its servlet takes requests again.
    pub(super) fn end_trials(&mut self) {
        for index in 0..self.posts.len() {
            let post = &mut self.posts[index];
            if !post.on_trial || !post.entries(&self.shared.segment).all(|e| e.life() == Life::Ready) {
                continue;
            }
            (post.on_trial, post.hangs) = (false, false);
            if self.shared.down(post.node as usize).is_some() {
                say(
                    || tracing::warn!(worker = %post.title, "a worker is ready; its servlet takes requests again"),
                );
                self.shared.reopen(post.node);
            }
        }
    }

    /// Counts an event. The supervisor's thread alone does.
    pub(super) fn count(&self, counter: ServerCounter) {
        self.shared.segment.server_counters().count(counter);
    }

    /// If all workers of a node are given up, marks it as down: its requests are answered with an error from now on.
    pub(super) fn give_up_if_last(&mut self, node: u32, how: &str) {
        let posts = || self.posts.iter().filter(|post| post.node == node && post.staffed);
        let is_given_up = |post: &Post| matches!(post.body, Body::GivenUp(_)) || post.on_trial || post.hangs;
        let Some(post) = posts().next().filter(|_| self.restarts_workers()) else { return };
        if !posts().all(is_given_up) {
            return;
        }
        let stuck = posts().any(|post| post.hangs);
        let reason = match stuck {
            true => format!("each of its workers is stuck or given up; the last one {how}"),
            false => post.restarts.giving_up(how),
        };
        if let Some(first) = posts()
            .find(|post| matches!(post.body, Body::GivenUp(_) | Body::Awaiting(_)))
            .and_then(|p| p.entries(&self.shared.segment).next())
        {
            first.fail(reason.as_bytes()); // for movers in other processes, and for shmtool
        }
        if self.shared.down(node as usize).replace(reason).is_none() {
            self.count(ServerCounter::WentDown);
        }
        crash_point!("supervisor.gives_up");
        self.shared.set_gate();
        self.empty_rings_of_the_down();
    }

    pub(super) fn empty_rings_of_the_down(&self) {
        for node in 0..self.shared.segment.shape().nodes {
            let reason = self.shared.down(node as usize).clone();
            if let Some(reason) = reason {
                self.shared.shut(node, &RemoteCause::Down { reason });
            }
        }
    }
}

/// How a start went that failed, in words.
pub(super) fn failed_start(error: &StartError) -> String {
    format!("could not be started: {error}")
}

/// Whether a worker was not started because the system lacks a process, descriptor or memory for it.
pub(super) fn is_shortage(error: &StartError) -> bool {
    let (StartError::Executable { error, .. } | StartError::System { error, .. }) = error else {
        return false;
    };
    matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::EMFILE | libc::ENFILE | libc::ENOMEM))
}
