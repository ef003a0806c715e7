//! The limits on how long a worker may stay in a state.
//!
//! # Protocol
//!
//! | State | Means | Limit |
//! |---|---|---|
//! | starting | attaches, runs `new` and `warm_up` | the server's start timeout (while the server itself starts, that is all workers' together) |
//! | working | is in `call` | the servlet's `exec_timeout`, for processes, if there is one |
//! | leaving | runs `cleanup`, after a fatal error of its own or of another thread of its unit, and ends | the server's shut-down timeout |
//! | idle | waits for requests | none |
//!
//! While the server shuts down, its deadline replaces the limits of starting and leaving. The supervisor kills a
//! process whose time is over, which is a death like any other; a worker that was not ready in time counts as given up,
//! for its callers, until it is ready. A thread cannot be killed: its servlet goes on without it, as if it were given
//! up, until the thread continues by itself.
//!
//! # Invariants
//!
//! * `[looks]`: time counts as the supervisor sees it. Between two looks at most two intervals count for any worker,
//!   whatever the clock says: a group of processes that is frozen as a whole (a paused container, a laptop that sleeps)
//!   has not worked meanwhile, and its calls get the rest of their time.

use super::post::{Body, Post};
use super::shared::{Command, Limits};
use super::stage::Stage;
use super::state::Supervisor;
use crate::host::KILL_LIMIT;
use crate::panics::say;
use ringmill_shm::participant::Life;
use ringmill_shm::segment::Segment;
use ringmill_shm::sys::time::now_ns;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// The stage of a post, as its rows say.
pub(super) fn stage_of(post: &Post, segment: &Segment) -> Stage {
    let any = |is: fn(Life) -> bool| post.entries(segment).any(|entry| is(entry.life()));
    if any(|life| life == Life::Starting) {
        Stage::Starting
    } else if post.entries(segment).any(|entry| entry.counters().call().is_some()) {
        Stage::Working
    } else if any(|life| matches!(life, Life::Leaving | Life::Failed)) {
        Stage::Leaving
    } else {
        Stage::Idle
    }
}

impl Supervisor {
    /// Ends workers that have been in a state for too long.
    pub(super) fn look_at_limits(&mut self) {
        let Some(passed) = self.looks.take(Instant::now()) else { return };
        self.look_at_calls_and_locks();
        self.look_at_cpus();
        let watches_states = self.restarts_workers();
        self.look_at_leaving(passed);
        for index in 0..self.posts.len() {
            self.look_at_the_killed(index, passed);
            self.look_at_calls(index, passed);
            if watches_states {
                self.look_at_memory(index);
                self.look_at_state(index, passed);
            }
        }
    }

    /// Notes which calls run and who holds locks, for reports.
    fn look_at_calls_and_locks(&self) {
        let (segment, now_ns) = (&self.shared.segment, now_ns());
        for node in (0..segment.shape().nodes).filter_map(|index| segment.node(index)) {
            node.workers().iter().for_each(|entry| entry.see_call(now_ns));
            node.see_lock(now_ns);
        }
    }

    /// Reports processes that were killed and do not end: signals may be refused, and a process that is stopped, or
    /// whose watcher does not run, does not follow an order either.
    fn look_at_the_killed(&mut self, index: usize, passed: Duration) {
        let post = &mut self.posts[index];
        let (Body::Process(process), Some(killing)) = (&post.body, &mut post.killing) else { return };
        killing.time = killing.time.saturating_add(passed);
        if killing.time >= KILL_LIMIT && !std::mem::replace(&mut killing.is_told, true) {
            say_it_survives(&post.title, process.child.id());
        }
    }

    /// Kills a worker whose call takes too long.
    fn look_at_calls(&mut self, index: usize, passed: Duration) {
        let post = &mut self.posts[index];
        let Some(limit) = post.exec_timeout else { return };
        let Body::Process(_) = post.body else { return };
        let rows = post.rows.start as usize..post.rows.end as usize;
        let mut over = false;
        for (entry, call) in self.shared.segment.participants()[rows].iter().zip(&mut post.calls) {
            let number = entry.counters().call().unwrap_or(0);
            over |= call.look(number, passed) >= limit && number != 0;
        }
        if over {
            if !std::mem::replace(&mut post.overran, true) {
                say(
                    || tracing::warn!(worker = %post.title, ?limit, "a call takes too long; its worker is killed"),
                );
            }
            post.kill();
        }
    }

    /// Says, once a shutdown has waited for a while, which workers have not left.
    pub(super) fn say_what_stays(&mut self) {
        let Command::Stop(deadline) = self.shared.commanded() else { return };
        if self.silent_until.is_none_or(|until| Instant::now() < until) {
            return;
        }
        self.silent_until = None;
        let limit = deadline.saturating_duration_since(Instant::now());
        for post in &self.posts {
            let (pid, then) = match &post.body {
                Body::Process(process) => (process.child.id(), "the shutdown kills it after that limit"),
                Body::Thread { left, .. } if !left.load(Ordering::SeqCst) => (
                    std::process::id(),
                    "a thread cannot be killed, so the shutdown goes on without it after that limit",
                ),
                _ => continue,
            };
            let was = stage_of(post, &self.shared.segment).in_words();
            say(|| {
                tracing::warn!(
                    worker = %post.title, pid, ?limit,
                    "the shutdown waits for a worker that has not left: {was}; {then}"
                );
            });
        }
    }

    /// Kills a worker that is not ready, or not gone, in time; a servlet goes on without such a thread.
    fn look_at_state(&mut self, index: usize, passed: Duration) {
        let Limits { start, shutdown } = self.shared.limits;
        let post = &mut self.posts[index];
        let is_thread = match post.body {
            Body::Process(_) => false,
            Body::Thread { .. } => true,
            Body::Unwatched(_) | Body::Awaiting(_) | Body::GivenUp(_) | Body::None => return,
        };
        let stage = stage_of(post, &self.shared.segment);
        let time = post.stage.look(stage, passed);
        let limit = match stage {
            Stage::Starting => start,
            Stage::Leaving => shutdown,
            Stage::Working | Stage::Idle => {
                (post.overdue, post.hangs) = (None, false);
                return;
            }
        };
        if time < limit {
            return;
        }
        let how = format!("has not gone on: {} for longer than {limit:?}", stage.in_words());
        post.hangs |= is_thread || stage == Stage::Starting;
        let is_news = post.overdue.replace((stage, limit)) != Some((stage, limit));
        if !is_thread {
            if is_news {
                say(|| tracing::warn!(worker = %post.title, "a worker {how}; it is killed"));
            }
            return post.kill();
        }
        if is_news {
            say(
                || tracing::error!(worker = %post.title, "a worker {how}; a thread cannot be killed, so its servlet goes on without it"),
            );
            let node = post.node;
            post.on_trial = true; // if it gets ready after all, it counts again
            self.give_up_if_last(node, &format!("{how}, and a thread cannot be killed"));
        }
    }
}

pub(super) fn say_it_survives(worker: &str, pid: u32) {
    say(|| {
        tracing::error!(
            worker,
            pid,
            "a worker's process was killed and is still there: this process may not signal it, or the system cannot end it; kill it by other means"
        )
    });
}
