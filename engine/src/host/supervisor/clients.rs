//! Client processes, as the supervisor sees them: their deaths, and what they leave.
//!
//! # Protocol
//!
//! A client takes its row itself (`segment/client.rs` of `ringmill_shm`), and rings the control page; its thread has the
//! supervisor look. From then on the supervisor polls the client's pidfd, whose end proves the death, and asks for its byte
//! of the lease at each look. A byte that is free is one of a client that has left in order; of one that has executed another
//! program, and so has not mapped the segment any more; or of one that has closed descriptors which are not its own, and
//! goes on: that one has its row until its process ends.
//!
//! The dead client's requests are the supervisor's then, as if it were their caller: it cancels each of them, and repairs
//! what names the client as owner. What a worker is at is freed when the worker ends it. Such requests are in the row's
//! share still, and its next client has them among its abandoned ones. So the row is offered again at once.
//!
//! # Crash
//!
//! The supervisor dies with the server, and the segment is stale.
#![expect(unsafe_code, reason = "the requests of a client that is dead, and its row")]

use super::state::Supervisor;
use crate::error::{RemoteCause, RemoteError};
use crate::panics::say;
use ringmill_shm::arena::Task;
use ringmill_shm::participant::{Entry, Life};
use ringmill_shm::repair::Orphan;
use ringmill_shm::segment::Segment;
use ringmill_shm::stats::ServerCounter;
use ringmill_shm::sys::time::now_ns;
use ringmill_shm::token::Token;
use ringmill_shm::trace::RequestEnd;
use std::sync::Arc;

impl Supervisor {
    /// Looks at the rows of clients: learns of new ones, and buries the dead.
    pub(super) fn look_at_clients(&mut self) {
        let segment = Arc::clone(&self.shared.segment);
        for index in 0..self.clients.len() {
            let row = self.clients[index].row;
            let entry = &segment.participants()[row as usize];
            let life = entry.life();
            let Some(token) = entry.token().filter(|_| life != Life::Vacant) else {
                self.clients[index].known = None;
                continue;
            };
            self.clients[index].learn(token, entry);
            // If the kernel cannot be asked, nothing is known: the next look asks again.
            let is_deserted = matches!(segment.is_deserted(entry), Ok(true));
            let is_gone = || life == Life::Leaving || matches!(segment.is_mapped_by(entry.pid()), Ok(false));
            if self.clients[index].has_ended() || is_deserted && is_gone() {
                self.bury_client(&segment, entry, row, token);
                self.clients[index].known = None;
            }
        }
    }

    /// Repairs what a dead client left, and offers its row again.
    fn bury_client(&self, segment: &Segment, entry: &Entry, row: u32, dead: Token) {
        let (pid, left_in_order) = (entry.pid(), entry.life() == Life::Leaving);
        // SAFETY: its process has ended, or does not have its byte of the lease any more.
        unsafe { entry.bury() };
        crash_point!("clients.marked");
        let client = segment.client_of_row(row).unwrap_or_default();
        let cancelled =
            segment.shape().requests_of(client).filter(|&id| self.cancel_for_dead(segment, id)).count();
        crash_point!("clients.cancelled");
        self.repair_after_client(segment, dead);
        crash_point!("clients.repaired");
        for bell in [segment.freed_of(client), segment.completed_of(client)] {
            bell.forget_waiters(); // only threads of the dead waited for it
        }
        // SAFETY: as above.
        unsafe { entry.offer(row) };
        segment.startup().ring(); // clients that wait for a row
        match left_in_order {
            true => say(|| tracing::debug!(pid, row, "a client process has left")),
            false => say(|| {
                tracing::warn!(pid, row, cancelled, "a client process is gone; its requests are cancelled");
            }),
        }
    }

    /// Cancels a request of a dead client, if it is in use; whether it was.
    fn cancel_for_dead(&self, segment: &Segment, id: u32) -> bool {
        let Some(task) = Task::new(segment, id).filter(|task| !task.is_free()) else { return false };
        // SAFETY: the server keeps the contract of guards, see `Shared::me`. The dead client had the request in hand, and the
        // supervisor, which alone does this, has it from then on until it is cancelled.
        unsafe {
            let caller = segment.take_part(Token::SERVER).client();
            if task.stamp().is_traced() {
                caller.tell_trace(task, now_ns(), RequestEnd::Cancelled);
            }
            if let Some(mut partials) = caller.partials(task) {
                partials.leave();
            }
            let _another_will_free_it = caller.cancel(task);
        }
        crash_point!("clients.cancelled_one");
        true
    }

    /// Repairs what a dead client had begun as a mover of tasks, its own and others'.
    fn repair_after_client(&self, segment: &Segment, dead: Token) {
        let mover = self.shared.mover();
        let error = |attempt| {
            let cause = RemoteCause::Died { signal: None, code: None, restarting: false };
            RemoteError { servlet: String::new(), worker: 0, pid: 0, attempt, cause }
        };
        let settle = |orphan| match orphan {
            Orphan::Join(join) => {
                let error = error(join.attempt());
                mover.repeat_join(join, error);
            }
            Orphan::Task(task) => match mover.resume(task) {
                Some(task) if task.is_abandoned() => mover.discard(task),
                Some(task) => {
                    let error = error(task.attempt());
                    mover.fail(task, error);
                }
                None => {}
            },
        };
        // SAFETY: the server keeps the contract, see `Shared::me`. The dead client acts no more, by `bury_client`; and the
        // supervisor's thread alone repairs.
        let summary = unsafe { segment.take_part(Token::SERVER).repairer().repair(dead, settle) };
        self.count(ServerCounter::Repairs);
        say(|| tracing::debug!(%dead, ?summary, "repaired after a client"));
    }
}
