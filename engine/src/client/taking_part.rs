//! How a core takes part in its segment, as the server or a client: under its token; and, in a client process, how it
//! learns that the server is gone.
//!
//! # Protocol
//!
//! A server tells its clients that it takes no requests by the gate, which lies in the segment, and answers what is in its
//! rings. A server that dies tells nothing. So a caller that sleeps, or waits for a permit, looks after each of its sleeps
//! whether the server lives, and the reactor after each of its own: within a second, and no thread does nothing else. The
//! first that finds it dead says so to the others of this client, and wakes them. It writes nothing for other processes: a
//! client may be wrong about its server, if it has closed descriptors that are not its own.
//!
//! # Crash
//!
//! What a client has in progress when it dies is cancelled by the supervisor (`host::supervisor::clients`), and its row
//! goes to the next client, with the requests whose workers are still at them.

#![expect(unsafe_code, reason = "the right to act as the owner of this process's requests, and its end")]

use super::core::{Core, Host};
use crate::error::CallError;
use crate::route::Mover;
use ringmill_shm::segment::Run;
use ringmill_shm::sys::process::PidFd;
use std::sync::atomic::Ordering;

impl Core {
    /// The owner of this process's requests as a mover.
    #[inline]
    pub(super) fn mover(&self) -> Mover<'_> {
        // SAFETY: as in `hand`: what comes here has passed `Core::own`, in the process of the server, or of a client that has
        // joined, which holds its byte of the lease for as long as the core lives.
        let me = unsafe { self.segment.take_part_at_home() };
        Mover { me, router: &self.router, outbox: None }
    }
}

impl Core {
    /// If this is a client's core, looks whether the server lives; true if it is gone.
    #[cold]
    pub(super) fn look_at_server(&self) -> bool {
        let Host::Client(connection) = &self.host else { return false };
        if self.cut_off.load(Ordering::SeqCst) {
            return true;
        }
        // If the kernel cannot be asked, nothing is known: the next look asks again.
        let unserved = matches!(self.segment.is_served(), Ok(false));
        if !unserved && !connection.server.as_ref().is_some_and(PidFd::has_ended) {
            return false;
        }
        self.cut_off.store(true, Ordering::SeqCst);
        self.segment.freed().ring();
        self.segment.completed().ring();
        true
    }

    /// The error of requests whose server is gone, if this client has found that it is.
    #[cold]
    pub(super) fn gone(&self) -> Option<CallError> {
        let Host::Client(connection) = &self.host else { return None };
        let is_gone = self.cut_off.load(Ordering::SeqCst);
        is_gone.then_some(CallError::ServerGone { server_pid: connection.server_pid })
    }

    /// The error of requests that come after the server has closed its gate: it shuts down, or has done so in order, unless
    /// it died meanwhile.
    pub(super) fn end_of_server(&self) -> CallError {
        let gone = self.gone().filter(|_| self.segment.run() != Run::Closed);
        gone.unwrap_or(CallError::ShuttingDown)
    }
}

impl Drop for Core {
    /// Gives a client's row back.
    fn drop(&mut self) {
        if let Host::Client(_) = self.host
            && self.birth.is_here()
        {
            // SAFETY: all that acts under the token borrows the core or keeps it, and it is being dropped.
            unsafe { self.segment.leave_as_client() };
        }
    }
}
