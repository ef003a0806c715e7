//! Draining and shutting down. The ordering is `[closing]` of the [server](crate::server).
//!
//! # Protocol
//!
//! | Stage | Means | Left by, to |
//! |---|---|---|
//! | OPEN | the server takes requests | the first thread that ends it → BEGUN |
//! | BEGUN | one thread is ending it | that thread, when the files are gone → DONE |
//! | DONE | it has ended, and left nothing | – |
//!
//! A caller that comes while the stage is BEGUN waits until it is DONE, so when any
//! [`Server::shutdown`](crate::Server::shutdown) or drop returns, the server is gone. Two kinds of threads do not wait,
//! because the shutdown waits for them: the thread that is ending the server (in a listener of the log that it calls),
//! and the threads of the server itself, its supervisor and its workers. For these a further thread ends the server,
//! and they return at once.

use super::core::{Core, Host, SLEEP_LIMIT, Service};
use super::end::Stage;
use super::held_up;
use crate::clock::deadline;
use crate::error::DrainError;
use crate::host::KILL_LIMIT;
use crate::host::supervisor::SILENCE;
use crate::panics::say;
use ringmill_shm::arena::Task;
use ringmill_shm::repair::wake_everyone;
use ringmill_shm::segment::Run;
use ringmill_shm::word::Phase;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// How often the shutdown looks for outcomes that no caller waits for.
const DRAIN_LOOK: Duration = Duration::from_millis(5);
/// How much longer than its workers' shutdown that of the server may take: to kill them, answer what is left, and
/// remove files.
const GRACE: Duration = Duration::from_secs(10);

/// The right to end a server; sets DONE when it is dropped, also by a panic.
struct Ending<'c>(&'c Service);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.shared.kill();
            self.0.shared.remove_files();
        }
        *self.0.end.stage() = Stage::Done;
        self.0.end.changed.notify_all();
    }
}

impl Core {
    /// See [`Server::shutdown`](crate::Server::shutdown).
    pub(crate) fn shut_down(&self) {
        let Host::Server(service) = &self.host else { return };
        if !self.birth.is_here() {
            return; // only the parent may shut it down
        }
        if service.shared.is_within() {
            return self.shut_down_from_within(service);
        }
        let Some(ending) = service.begin_end(service.shutdown_timeout.saturating_add(GRACE)) else { return };
        let deadline = deadline(service.shutdown_timeout);
        service.begin_draining();
        crash_point!("shutdown.draining");
        self.await_workers_idle(service, deadline);
        crash_point!("shutdown.idle");
        service.shared.stop(deadline.max(Instant::now() + DRAIN_LOOK));
        service.finish();
        drop(ending);
    }

    /// Has another thread end the server, since the shutdown waits for this one.
    #[cold]
    fn shut_down_from_within(&self, service: &Service) {
        if *service.end.stage() != Stage::Open {
            return;
        }
        service.begin_draining();
        let core = self.me.upgrade();
        let ending = std::thread::Builder::new().name("ringmill-shutdown".into());
        let spawned = ending.spawn(move || core.into_iter().for_each(|core| core.shut_down()));
        if let Err(error) = spawned {
            say(
                || tracing::warn!(server = %self.name, %error, "cannot start the thread that ends the server; its workers leave, the rest ends when it is dropped"),
            );
            service.shared.stop(deadline(service.shutdown_timeout));
        }
    }

    /// See [`Server::drain`](crate::Server::drain).
    pub(crate) fn drain(&self, limit: Duration) -> Result<(), DrainError> {
        let Host::Server(service) = &self.host else { return Ok(()) };
        let forked = || DrainError::Forked { server_pid: self.pid, pid: std::process::id() };
        if !self.birth.is_here() {
            return Err(forked());
        }
        let until = Instant::now().checked_add(limit);
        service.begin_draining();
        let bell = self.segment.freed();
        let _awaiting = bell.await_rings();
        loop {
            if !self.birth.is_here() {
                return Err(forked()); // a signal handler has forked during the sleep
            }
            let count = bell.count();
            // [reserved] of `service`: read in this order.
            let in_use = self.free_ids.in_use(&self.segment);
            let own = in_use.saturating_sub(self.reserved.load(Ordering::SeqCst)) as usize;
            let left = own + self.under_way_of_clients();
            if left == 0 {
                return Ok(());
            }
            let time = until.map(|until| until.saturating_duration_since(Instant::now()));
            if time.is_some_and(|time| time.is_zero()) {
                return Err(DrainError::InProgress { left, limit });
            }
            // The bells of clients tell their processes alone.
            let longest = if self.segment.shape().clients == 0 { SLEEP_LIMIT } else { DRAIN_LOOK };
            bell.sleep(count, Some(time.unwrap_or(longest).min(longest)));
        }
    }

    /// Waits until no request is with the workers. Does not wait for a request whose caller is still writing it, as a
    /// loan or a stream that is not asked for its next outcome (`[closing]`).
    fn await_workers_idle(&self, service: &Service, deadline: Instant) {
        let bell = self.segment.freed();
        let _awaiting = bell.await_rings();
        let mut silent_until = Some(Instant::now() + SILENCE);
        loop {
            let count = bell.count();
            let is_over =
                Instant::now() >= deadline || service.shared.is_killed() || service.shared.is_shut();
            if is_over || !(0..self.segment.shape().requests).any(|id| self.is_under_way(id)) {
                return;
            }
            if silent_until.is_some_and(|until| Instant::now() >= until) {
                silent_until = None;
                let limit = deadline.saturating_duration_since(Instant::now());
                held_up::say_by_what(&self.segment, &self.name, limit);
            }
            bell.sleep(count, Some(DRAIN_LOOK));
        }
    }

    fn is_under_way(&self, request: u32) -> bool {
        let phase = Task::new(&self.segment, request).and_then(|task| task.word().load().phase());
        phase.is_some_and(Phase::is_under_way)
    }

    /// How many requests of clients are with the workers.
    fn under_way_of_clients(&self) -> usize {
        let shape = self.segment.shape();
        (shape.own_requests()..shape.requests).filter(|&id| self.is_under_way(id)).count()
    }

    /// Kills the workers and ends the server; if another thread is ending it already, that thread does the rest.
    pub(crate) fn kill(&self) {
        let Host::Server(service) = &self.host else { return };
        if !self.birth.is_here() {
            return;
        }
        service.shared.begin_to_close();
        service.shared.kill();
        if service.shared.is_within() {
            return self.shut_down_from_within(service);
        }
        if let Some(_ending) = service.begin_end(GRACE) {
            service.finish();
        }
    }
}

impl Core {
    /// Removes the files of a server that is ending.
    pub(crate) fn remove_files(&self) {
        if let Host::Server(service) = &self.host {
            service.shared.remove_files();
        }
    }
}

impl Service {
    /// From now on no request begins.
    fn begin_draining(&self) {
        self.shared.begin_to_close(); // [closing]
        if self.shared.segment.run() == Run::Running {
            self.shared.segment.set_run(Run::Draining);
        }
        wake_everyone(&self.shared.segment); // callers that wait for a permit, lock holders that wait in a window
    }

    /// The right to end this server; `None` if it has ended, if this thread is ending it, or if another thread is and
    /// takes longer than `limit`.
    fn begin_end(&self, limit: Duration) -> Option<Ending<'_>> {
        let (me, until) = (std::thread::current().id(), deadline(limit));
        let mut stage = self.end.stage();
        loop {
            match *stage {
                Stage::Open => {
                    *stage = Stage::Begun(me);
                    return Some(Ending(self));
                }
                Stage::Begun(by) if by != me => {
                    let left = until.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        return None;
                    }
                    let waited = self.end.changed.wait_timeout(stage, left.min(SLEEP_LIMIT));
                    stage = waited.unwrap_or_else(|e| e.into_inner()).0;
                }
                Stage::Begun(_) | Stage::Done => return None,
            }
        }
    }

    /// After the supervisor was told to stop: waits for it, answers what is left, removes the files.
    fn finish(&self) {
        self.supervisor.join(self.shared.over_by(KILL_LIMIT * 2));
        crash_point!("shutdown.left");
        self.shared.close();
        self.shared.segment.set_run(Run::Closed);
        crash_point!("shutdown.closed");
        wake_everyone(&self.shared.segment);
        self.shared.remove_files();
    }
}
