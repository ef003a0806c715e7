//! After a death: repairs what the dead left; moves its tasks on, answers them, or retries them.
#![expect(unsafe_code, reason = "the repairer's side of the contracts of guards and rows")]

use super::limits::say_it_survives;
use super::post::Body;
use super::state::Supervisor;
use crate::clock::nanos;
use crate::error::{RemoteCause, RemoteError, STOPPED_BY_ERROR, boot};
use crate::host::spawn::{self, KILL_LIMIT};
use crate::panics::{Panic, say};
use crate::policy::on_death::Fate;
use crate::policy::restarts::{Death, Record};
use ringmill_shm::arena::{At, Claimed, Join, Task};
use ringmill_shm::participant::Life;
use ringmill_shm::repair::{Orphan, wake_everyone};
use ringmill_shm::segment::{Run, Segment};
use ringmill_shm::stats::ServerCounter;
use ringmill_shm::sys::time::now_ns;
use ringmill_shm::token::Token;
use ringmill_shm::watch::{End, Exit, Item, NOTED_BYTES, Why};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

/// How the process or thread of a post ended.
pub(super) struct Ending {
    pub(super) pid: u32,
    pub(super) signal: Option<i32>,
    pub(super) code: Option<i32>,
    /// The same, in words.
    pub(super) text: String,
    /// Why it could not attach, as it said.
    pub(super) reason: Option<String>,
    /// It was killed because it was no worker any more.
    pub(super) strayed: bool,
}

impl Ending {
    /// Whether it ended because user code gave up.
    fn gave_up(&self) -> bool {
        self.code == Some(STOPPED_BY_ERROR)
    }
}

/// What remains of a dead worker, or of one of its threads: the tasks and joins on which it was working.
pub(super) struct Remains<'s> {
    /// The worker's index.
    pub(super) worker: u32,
    pub(super) tasks: Vec<Claimed<'s>>,
    pub(super) joins: Vec<Join<'s>>,
}

impl Remains<'_> {
    /// How many of the tasks may be retried.
    pub(super) fn suspects(&self) -> usize {
        self.tasks.iter().filter(|task| task.task().at() != At::Spoilt).count()
    }
}

impl Supervisor {
    /// After the process or thread of a post has ended: repairs what it left, and decides about its restart.
    pub(super) fn bury(&mut self, index: usize, ending: &Ending) {
        let segment = Arc::clone(&self.shared.segment);
        let started = self.started.load(Ordering::SeqCst);
        self.posts[index].body = Body::None;
        let retired = self.posts[index].retired(&segment, ending.code).filter(|_| self.restarts_workers());
        let mut death = self.death_of(index, ending);
        let gave_up = death.gave_up;
        let (staffed, was_ready) = (self.posts[index].staffed, death.lived.is_some());
        let is_renewed = self.is_being_renewed(index);
        let post = &self.posts[index];
        let (tokens, node) = (post.tokens.clone(), post.node);
        let left_in_order = self.stopping() && post.entries(&segment).all(|e| e.life() == Life::Leaving);
        let failed = post.entries(&segment).any(|e| e.life() == Life::Failed);
        let message = post.entries(&segment).find_map(|e| boot::read(&e.message()));
        let how = match message {
            Some(error) if gave_up => {
                format!("was stopped by a fatal error: {}", error.cause)
            }
            Some(error) => format!("could not start: {}", error.cause),
            None => match &ending.reason {
                Some(reason) => format!("could not join: {reason}"),
                None => format!("ended: {}", ending.text),
            },
        };
        let how = match post.overdue {
            Some((stage, limit)) => {
                format!("{how}, after {} for longer than {limit:?}", stage.in_words())
            }
            None => how,
        };
        // While the server is starting, the error record of a worker that failed must stay readable, and no other
        // worker may look like the first that failed.
        if !failed || started {
            // SAFETY: its process or thread has ended: the callers have waited for it.
            unsafe { post.mark_dead(&segment) };
        }
        crash_point!("supervisor.marked");
        match &retired {
            Some(why) => {
                self.count(ServerCounter::Retired);
                self.say_it_left(index, ending.pid, why);
            }
            None if left_in_order => {}
            None => self.count(ServerCounter::Deaths),
        }
        let left: Vec<Remains<'_>> =
            tokens.iter().map(|&dead| self.repair_after(&segment, dead, node)).collect();
        if !left_in_order && retired.is_none() {
            for (dead, left) in tokens.iter().zip(&left) {
                segment.participants()[dead.index() as usize].note_exit(&self.exit_of(index, ending, left));
            }
        }
        let on_death = self.posts[index].on_death;
        let next = if left_in_order {
            Body::None
        } else if !staffed {
            if retired.is_none() {
                say(|| tracing::warn!(worker = %self.posts[index].title, "a worker {how}; it was to leave"));
            }
            Body::None
        } else if retired.is_some() || is_renewed && self.restarts_workers() {
            if retired.is_none() {
                say(
                    || tracing::warn!(worker = %self.posts[index].title, "a worker {how}; it was to be replaced"),
                );
            }
            self.posts[index].record = Record::default();
            self.posts[index].on_trial = false;
            Body::Awaiting(Instant::now())
        } else if left.iter().any(|left| on_death.halves(left.suspects())) {
            say(
                || tracing::warn!(worker = %self.posts[index].title, "a worker {how}; its batch is retried in halves"),
            );
            self.posts[index].on_trial = false;
            Body::Awaiting(Instant::now())
        } else {
            death.had_work |= left.iter().any(|left| !left.tasks.is_empty() || !left.joins.is_empty());
            self.plan_restart(index, &how, ending.pid, death)
        };
        let restarting = matches!(next, Body::Awaiting(_));
        for left in left {
            self.settle(index, left, ending, restarting);
        }
        crash_point!("supervisor.repaired");
        let post = &mut self.posts[index];
        post.body = next;
        if !was_ready && retired.is_none() && !is_renewed {
            post.failures += 1;
            post.last_failure = how.clone();
        }
        if !staffed && !self.stopping() {
            self.vacate(index);
        }
        self.give_up_if_last(node, &how);
    }

    /// How a worker ended, and with which items, for reports.
    fn exit_of(&self, index: usize, ending: &Ending, left: &Remains<'_>) -> Exit {
        let post = &self.posts[index];
        let why = match () {
            () if ending.strayed => Some(Why::Strayed),
            () if post.overran => Some(Why::ExecTimeout),
            () if post.was_killed_at_shutdown(ending.signal) => Some(Why::Shutdown),
            () if post.overdue.is_some() => Some(Why::TooLate),
            () => None,
        };
        let end = match (ending.signal, ending.code) {
            (Some(signal), _) => End::Signal(signal),
            (None, Some(code)) => End::Code(code),
            (None, None) => End::Unknown,
        };
        let tasks = || left.tasks.iter().map(Claimed::task);
        let item = |task: Task<'_>| {
            let state = task.word().peek();
            Item { task: task.id(), generation: state.generation(), attempt: state.attempt() }
        };
        let payload = tasks().next().and_then(|task| task.look(NOTED_BYTES)).map(|seen| seen.payload);
        Exit {
            at_ns: now_ns(),
            pid: ending.pid,
            end,
            why,
            count: left.tasks.len() as u32,
            items: tasks().map(item).collect(),
            payload_bytes: payload.as_ref().map_or(0, |payload| payload.length),
            payload: payload.map_or_else(Vec::new, |payload| payload.bytes),
        }
    }

    /// Repairs what a process left that was started, could not be watched, and has ended.
    pub(super) fn forget(&mut self, index: usize, tokens: &[Token]) {
        let segment = Arc::clone(&self.shared.segment);
        let node = self.posts[index].node;
        let text = "could not be watched".into();
        let ending =
            Ending { pid: 0, signal: Some(libc::SIGKILL), code: None, text, reason: None, strayed: false };
        // SAFETY: the process has ended: the callers have waited for it.
        unsafe { self.posts[index].unlock_spare() };
        for &dead in tokens {
            if self.started.load(Ordering::SeqCst) {
                // SAFETY: the process that was to act under the token has ended.
                unsafe { segment.participants()[dead.index() as usize].bury() };
            }
            let left = self.repair_after(&segment, dead, node);
            self.settle(index, left, &ending, true);
        }
    }

    /// What a worker's counters and rows say of its death; called before either is changed.
    fn death_of(&mut self, index: usize, ending: &Ending) -> Death {
        let segment = &self.shared.segment;
        let post = &mut self.posts[index];
        // A worker that leaves with a message had a fatal error, even if it was killed on its way out.
        let gave_up = post.entries(segment).any(|e| match e.life() {
            Life::Failed => ending.gave_up(),
            Life::Leaving => !e.message().is_empty(),
            _ => false,
        });
        let was_ready =
            gave_up || post.entries(segment).any(|e| matches!(e.life(), Life::Ready | Life::Leaving));
        let in_call = post.entries(segment).any(|e| e.counters().call().is_some());
        let finished = post.finished(segment, gave_up);
        post.finished_before = post.finished_before.saturating_add(finished);
        // From here on it counts as a former incarnation.
        post.at_start = post.counters(segment);
        Death {
            lived: was_ready.then(|| post.since.elapsed()),
            had_work: gave_up || in_call || post.overran,
            gave_up,
            had_finished: finished > 0,
            progress: false, // `plan_restart` knows the servlet's
        }
    }

    /// Repairs what a dead worker of a node left, and moves finished tasks on; returns the tasks on which it was
    /// working.
    fn repair_after<'s>(&self, segment: &'s Segment, dead: Token, node: u32) -> Remains<'s> {
        let info = &segment.nodes()[node as usize];
        let worker = (dead.index() - info.first_participant) / info.facts.threads;
        let mover = self.shared.mover();
        let mut left = Remains { worker, tasks: Vec::new(), joins: Vec::new() };
        let now_ns = now_ns();
        let settle = |orphan| match orphan {
            Orphan::Join(join) => left.joins.push(join),
            Orphan::Task(task) => {
                task.end_hop_of_dead(dead, now_ns);
                match mover.resume(task) {
                    Some(task) if task.is_abandoned() => mover.discard(task), // its caller has gone
                    suspect => left.tasks.extend(suspect),
                }
            }
        };
        // SAFETY: the server keeps the contract, see `Shared::me`. The dead worker's process or thread has ended, or
        // was never started; and the supervisor's thread alone repairs.
        let summary = unsafe { segment.take_part(Token::SERVER).repairer().repair(dead, settle) };
        self.count(ServerCounter::Repairs);
        say(|| tracing::debug!(%dead, ?summary, "repaired"));
        left
    }

    /// Decides what becomes of the tasks on which a dead worker was working.
    fn settle(&mut self, index: usize, left: Remains<'_>, ending: &Ending, restarting: bool) {
        let post = &self.posts[index];
        let (node, on_death) = (post.node, post.on_death);
        let (signal, code) = (ending.signal, ending.code);
        let cause = match post.exec_timeout.filter(|_| post.overran) {
            Some(limit) => RemoteCause::Overran { limit_ns: nanos(limit), restarting },
            None if post.was_killed_at_shutdown(signal) => {
                RemoteCause::KilledByShutdown { limit_ns: self.shutdown_limit().map(nanos) }
            }
            None => RemoteCause::Died { signal, code, restarting },
        };
        let (worker, pid, mover) = (left.worker, ending.pid, self.shared.mover());
        let servlet = || self.shared.segment.nodes()[node as usize].name.clone();
        let error = |attempt, cause| RemoteError { servlet: servlet(), worker, pid, attempt, cause };
        let suspects = left.suspects();
        for join in left.joins {
            let error = error(join.attempt(), cause.clone());
            mover.repeat_join(join, error);
        }
        // Two halves, each a group of its own; so a task that is alone stays alone.
        let (mut number, mut group) = (0, self.group);
        for task in left.tasks {
            let attempt = task.attempt();
            let fate = match task.task().at() {
                At::Spoilt => Fate::Fail,
                // Its caller has seen what came of this try: another one would emit it once more.
                _ if task.task().has_emitted_at(node) => Fate::Fail,
                _ => on_death.fate(suspects, attempt),
            };
            match fate {
                Fate::Retry { .. } => self.count(ServerCounter::Retried),
                Fate::Fail | Fate::Poisonous => self.count(ServerCounter::Died),
            }
            match fate {
                Fate::Fail => mover.fail(task, error(attempt, cause.clone())),
                Fate::Retry { counts } => {
                    if on_death.keeps_apart() && (number == 0 || number == suspects.div_ceil(2)) {
                        group = group % (At::GROUP_LIMIT - 1) + 1;
                    }
                    number += 1;
                    mover.requeue(task, node, counts, if on_death.keeps_apart() { group } else { 0 });
                }
                Fate::Poisonous if matches!(cause, RemoteCause::KilledByShutdown { .. }) => {
                    mover.fail(task, error(attempt, cause.clone()));
                }
                Fate::Poisonous => {
                    self.count(ServerCounter::Poisonous);
                    let deaths = u32::from(attempt) + 1;
                    mover.fail(task, error(attempt, RemoteCause::Poisonous { deaths, signal, code }));
                }
            }
        }
        self.group = group;
    }

    /// After a panic of the supervisor's thread itself: see *Crash* of the module. Steps that were half done are
    /// repeated, as after a death.
    pub(super) fn resign(&mut self, panic: &Panic) {
        let reason = format!("the server's supervisor has failed: {panic}");
        let quietly = |work: &mut dyn FnMut()| {
            let _ = crate::panics::caught(AssertUnwindSafe(&mut *work)); // one panic was reported already
        };
        say(|| tracing::error!("{reason}; every servlet is down"));
        let segment = Arc::clone(&self.shared.segment);
        self.shared.kill();
        segment.set_run(Run::Stopping); // for threads, which cannot be killed
        for node in 0..segment.shape().nodes {
            self.shared.down(node as usize).get_or_insert_with(|| reason.clone());
        }
        self.shared.set_gate();
        wake_everyone(&segment);
        for index in 0..self.posts.len() {
            let mut ending = Ending {
                pid: 0,
                signal: None,
                code: None,
                text: String::new(),
                reason: None,
                strayed: false,
            };
            match std::mem::replace(&mut self.posts[index].body, Body::None) {
                // It owns its rows, and the tasks that it holds, until its end.
                Body::Unwatched(_) => continue,
                // The thread still answers the tasks that it holds.
                Body::Thread { left, .. } if !left.load(Ordering::SeqCst) => continue,
                Body::Process(mut process) => {
                    spawn::kill(&process);
                    let Some(end) = process.await_end(KILL_LIMIT) else {
                        say_it_survives(&self.posts[index].title, process.child.id());
                        continue; // the process still owns the tasks that it holds
                    };
                    ending.signal = end.signal();
                }
                _ => {}
            }
            let node = self.posts[index].node;
            for dead in self.posts[index].tokens.clone() {
                let entry = &segment.participants()[dead.index() as usize];
                ending.pid = entry.pid();
                // SAFETY: its process has ended, by the match above, or its thread is past its last deed, or it has none.
                unsafe { entry.bury() };
                quietly(&mut || {
                    let left = self.repair_after(&segment, dead, node);
                    self.settle(index, left, &ending, false);
                });
            }
        }
        quietly(&mut || self.empty_rings_of_the_down());
    }
}
