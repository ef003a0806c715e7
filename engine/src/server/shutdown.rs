//! Draining and shutting down. The ordering is that of the [server](super), *closing*.

use super::core::{Core, SLEEP_LIMIT};
use crate::clock::deadline;
use crate::error::DrainError;
use ringmill_shm::arena::Task;
use ringmill_shm::repair::wake_everyone;
use ringmill_shm::segment::Run;
use ringmill_shm::word::Phase;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// How often shutting down looks whether outcomes that nobody fetches have come.
const DRAIN_LOOK: Duration = Duration::from_millis(5);

impl Core {
    /// See [`Server::shutdown`].
    pub(crate) fn shut_down(&self) {
        let mut shut = self.shut.lock().unwrap_or_else(|e| e.into_inner());
        if *shut {
            return;
        }
        *shut = true;
        let deadline = deadline(self.shutdown_timeout);
        self.closing.store(true, Ordering::SeqCst); // *closing*
        self.segment.set_run(Run::Draining);
        crash_point!("shutdown.draining");
        wake_everyone(&self.segment); // callers that wait for a place, holders that wait in a window
        self.await_workers_idle(deadline);
        crash_point!("shutdown.idle");
        self.shared.stop(deadline.max(Instant::now() + DRAIN_LOOK));
        self.end();
    }

    /// See [`Server::drain`].
    pub(super) fn drain(&self, limit: Duration) -> Result<(), DrainError> {
        let until = Instant::now().checked_add(limit);
        self.closing.store(true, Ordering::SeqCst); // *closing*
        if self.segment.run() == Run::Running {
            self.segment.set_run(Run::Draining);
        }
        wake_everyone(&self.segment);
        let bell = self.segment.freed();
        let _awaiting = bell.await_rings();
        loop {
            let count = bell.count();
            let left = self.slots.in_use(&self.segment) as usize;
            if left == 0 {
                return Ok(());
            }
            let time = until.map(|until| until.saturating_duration_since(Instant::now()));
            if time.is_some_and(|time| time.is_zero()) {
                return Err(DrainError { left, limit });
            }
            bell.sleep(count, Some(time.unwrap_or(SLEEP_LIMIT).min(SLEEP_LIMIT)));
        }
    }

    /// Waits until no request is with the workers. One whose caller is still writing, be it a loan or a
    /// stream that nobody asks for its next outcome, is not waited for (*closing*).
    fn await_workers_idle(&self, deadline: Instant) {
        let bell = self.segment.freed();
        let _awaiting = bell.await_rings();
        loop {
            let count = bell.count();
            let with_workers = |id: u32| {
                let phase = Task::new(&self.segment, id).and_then(|task| task.word().load().phase());
                matches!(phase, Some(Phase::Queued | Phase::Claimed | Phase::Forked | Phase::Joining))
            };
            let none = !(0..self.capacity).any(with_workers);
            if none || Instant::now() >= deadline || self.shared.gate_closed.load(Ordering::SeqCst) {
                return;
            }
            bell.sleep(count, Some(DRAIN_LOOK));
        }
    }

    /// Kills the workers and ends.
    pub(crate) fn kill(&self) {
        self.closing.store(true, Ordering::SeqCst);
        self.shared.kill();
        self.end();
    }

    /// After the supervisor was told: waits for it, answers what is left, removes the files.
    fn end(&self) {
        self.supervisor.join();
        crash_point!("shutdown.left");
        self.shared.close();
        self.segment.set_run(Run::Closed);
        crash_point!("shutdown.closed");
        wake_everyone(&self.segment);
        self.remove_files();
    }

    pub(crate) fn remove_files(&self) {
        let _ = self.segment.remove_files(); // who may not has a janitor
    }
}
