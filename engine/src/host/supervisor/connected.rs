//! The processes that have the rows of clients, as far as the supervisor knows.

use crate::panics::say;
use ringmill_shm::participant::Entry;
use ringmill_shm::segment::Segment;
use ringmill_shm::sys::process::{PidFd, start_time};
use ringmill_shm::token::Token;
use std::os::fd::{AsRawFd, RawFd};

/// A client's row, and the process that has it.
#[derive(Debug)]
pub(super) struct Connected {
    pub(super) row: u32,
    pub(super) known: Option<Known>,
}

#[derive(Debug)]
pub(super) struct Known {
    token: Token,
    pid: u32,
    /// `None`: its lease alone tells.
    process: Option<PidFd>,
}

impl Connected {
    pub(super) fn rows(segment: &Segment) -> Vec<Self> {
        segment.client_rows().map(|row| Self { row, known: None }).collect()
    }

    /// What is readable once its process has ended.
    pub(super) fn fd(&self) -> Option<RawFd> {
        Some(self.known.as_ref()?.process.as_ref()?.as_raw_fd())
    }

    /// Learns which process has the row.
    pub(super) fn learn(&mut self, token: Token, entry: &Entry) {
        let pid = entry.pid();
        if self.known.as_ref().is_some_and(|known| known.token == token && known.pid == pid) {
            return;
        }
        // If the process that was opened began when the client did, it is the client.
        let opened = PidFd::open(pid).ok().filter(|_| pid != 0);
        let process = opened.filter(|_| start_time(pid) == Some(entry.start_time()));
        if pid != 0 {
            say(|| tracing::debug!(pid, row = self.row, "a client process takes part"));
        }
        self.known = Some(Known { token, pid, process });
    }

    pub(super) fn has_ended(&self) -> bool {
        let process = self.known.as_ref().and_then(|known| known.process.as_ref());
        process.is_some_and(PidFd::has_ended)
    }
}
