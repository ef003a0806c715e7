//! How a core takes part in its segment, as the server or a client: under its token; and, in a client process, how it
//! learns that the server is gone.
//!
//! # Protocol
//!
//! A server tells its clients that it takes no requests by the gate, which lies in the segment, and answers what is in its
//! rings. A server that dies tells nothing. So a caller that sleeps, or waits for a permit, looks after each of its sleeps
//! whether the server lives, and the reactor after each of its own: within a second, and no thread does nothing else. The
//! first that finds it dead closes the gate, which nobody else will, and wakes all others.
//!
//! # Crash
//!
//! What a client has in progress when it dies is cancelled by the supervisor (`host::supervisor::clients`), and its row
//! goes to the next client, with the requests whose workers are still at them.

#![expect(unsafe_code, reason = "the right to act as the owner of this process's requests, and its end")]

use super::core::{Core, Host};
use crate::error::CallError;
use crate::route::Mover;
use ringmill_shm::segment::{Gate, Run};
use ringmill_shm::sys::process::{PidFd, wait_readable};
use std::os::fd::AsRawFd;
use std::sync::atomic::Ordering;
use std::time::Duration;

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
        if connection.is_gone.load(Ordering::SeqCst) {
            return true;
        }
        // If the kernel cannot be asked, nothing is known: the next look asks again.
        let unserved = matches!(self.segment.is_served(), Ok(false));
        let ended = |server: &PidFd| wait_readable(&[server.as_raw_fd()], Some(Duration::ZERO))[0];
        if !unserved && !connection.server.as_ref().is_some_and(ended) {
            return false;
        }
        connection.is_gone.store(true, Ordering::SeqCst);
        self.segment.set_gate(Gate::Closing); // the server will not
        self.segment.freed().ring();
        self.segment.completed().ring();
        true
    }

    /// The error of requests whose server is gone, if this client has found that it is; `None` also after a server that has
    /// shut down in order, and answered them.
    #[cold]
    pub(super) fn gone(&self) -> Option<CallError> {
        let Host::Client(connection) = &self.host else { return None };
        let is_gone = connection.is_gone.load(Ordering::SeqCst) && self.segment.run() != Run::Closed;
        is_gone.then_some(CallError::ServerGone { server_pid: connection.server_pid })
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
