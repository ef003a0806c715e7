//! Client processes: a row of the participant table and requests of its own for each, taken and given back.
//!
//! # Protocol
//!
//! | Row | Means | Left by, to |
//! |---|---|---|
//! | VACANT | free; its token is that of the next incarnation | a client that has locked that token's byte of the lease → STARTING |
//! | STARTING | taken | that client → READY; the server, if it dies → DEAD |
//! | READY | its client has requests in progress, or may have | that client → LEAVING; the server → DEAD |
//! | LEAVING | its client begins none, and unlocks the byte when the last has ended | the server → DEAD |
//! | DEAD | the server repairs what the client left | the server → VACANT, with the next token |
//!
//! A client that finds all rows taken, and one of them by an incarnation whose byte is free, or that leaves, tells the
//! server, which looks then, and waits: that row is to be repaired.
//!
//! # Invariants
//!
//! * `[byte before row]`: a client changes a row only while it holds the byte of the token that it has read there since,
//!   VACANT with it. No two processes hold one byte, and only the server gives a row another token, and only to one that is
//!   DEAD: so no two have one row, and a row that is not VACANT and whose byte is free has a dead client.
//!
//! # Crash
//!
//! A client that dies with the byte and before its row is STARTING leaves nothing: the kernel unlocks the byte, the row is
//! free. After that the server repairs what it left.
#![expect(unsafe_code, reason = "the contract of leases: a token that no client took")]

use super::Segment;
use crate::layout::Shape;
use crate::participant::{Entry, Life, SERVER, is_taken};
use crate::stats::{CALLER_ROWS, CLIENT_ROWS};
use crate::sys::process::user_id;
use crate::token::Token;
use core::ops::Range;
use std::io;
use std::os::unix::fs::MetadataExt;

/// Whose requests a process has that has mapped a segment.
#[derive(Debug, Clone, Copy)]
pub(super) struct Home {
    /// 0: the server's.
    pub(super) client: u32,
    pub(super) token: Token,
    pub(super) first_request: u32,
    pub(super) requests: u32,
    /// Its rows of callers.
    pub(super) first_row: u32,
    pub(super) rows: u32,
}

impl Home {
    pub(super) fn of_server(shape: &Shape) -> Self {
        let requests = shape.own_requests();
        Self { client: 0, token: Token::SERVER, first_request: 0, requests, first_row: 0, rows: CALLER_ROWS }
    }

    fn of_client(shape: &Shape, row: u32, token: Token) -> Self {
        let number = row - shape.first_client_row();
        let requests = shape.requests_of(number + 1);
        Self {
            client: number + 1,
            token,
            first_request: requests.start,
            requests: requests.len() as u32,
            first_row: CALLER_ROWS + number * CLIENT_ROWS,
            rows: CLIENT_ROWS,
        }
    }
}

/// Why a process has no row.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum JoinError {
    /// The server reserves none.
    #[error("the server takes no client processes: start it with ServerBuilder::clients")]
    NoClients,
    /// All are taken. If some are taken by dead clients, the server frees those.
    #[error("all {rows} rows of clients are taken")]
    Full {
        /// How many there are.
        rows: u32,
        /// How many of them the server is to repair.
        to_repair: u32,
    },
    /// The operating system refused.
    #[error("cannot lock a client's byte of the lease: {0}")]
    System(io::Error),
}

impl Segment {
    /// The rows of clients in the participant table.
    #[must_use]
    pub fn client_rows(&self) -> Range<u32> {
        self.layout.shape.first_client_row()..self.layout.shape.participants
    }

    /// Which client has a row: 1 the first; `None` if it is no client's.
    #[must_use]
    pub fn client_of_row(&self, row: u32) -> Option<u32> {
        self.client_rows().contains(&row).then(|| row - self.client_rows().start + 1)
    }

    /// Whether several threads act under a token: those of the server, or of a client.
    pub(crate) fn is_shared(&self, token: Token) -> bool {
        token.index() == SERVER || self.client_rows().contains(&token.index())
    }

    /// The row in which this process owns requests: the server's, or that of a client that has
    /// [joined](Self::join_as_client).
    #[must_use]
    pub fn home_row(&self) -> u32 {
        self.home.token.index()
    }

    /// This process's requests.
    #[inline]
    #[must_use]
    pub fn home_requests(&self) -> Range<u32> {
        self.home.first_request..self.home.first_request + self.home.requests
    }

    /// How many rows this process has for its calling threads.
    #[must_use]
    pub fn home_caller_rows(&self) -> u32 {
        self.home.rows
    }

    /// The token under which this process owns requests.
    #[inline(always)]
    pub(crate) fn home_token(&self) -> Token {
        self.home.token
    }

    /// The same, if this is a client process.
    pub(crate) fn client_token(&self) -> Option<Token> {
        (self.home.client > 0).then_some(self.home.token)
    }

    /// Takes a client's row for this process, which has [attached](Self::attach) the segment. From now on it has the
    /// requests of that row, some of which may still be ending for a former client.
    ///
    /// # Errors
    /// See [`JoinError`].
    pub fn join_as_client(&mut self) -> Result<(), JoinError> {
        let rows = self.client_rows();
        if rows.is_empty() {
            return Err(JoinError::NoClients);
        }
        let mut to_repair = 0;
        for row in rows.clone() {
            let entry = &self.participants()[row as usize];
            match self.take(entry).map_err(JoinError::System)? {
                Took::Row(token) => {
                    crash_point!("client.claimed");
                    entry.arrive();
                    crash_point!("client.arrived");
                    entry.set_life(Life::Ready);
                    self.home = Home::of_client(self.shape(), row, token);
                    self.tell_server_of_clients();
                    return Ok(());
                }
                Took::Deserted => to_repair += 1,
                Took::Nothing => {}
            }
        }
        if to_repair > 0 {
            self.tell_server_of_clients();
        }
        Err(JoinError::Full { rows: rows.len() as u32, to_repair })
    }

    fn take(&self, entry: &Entry) -> io::Result<Took> {
        let hold = |token| match self.lease.hold(token) {
            Ok(()) => Ok(true),
            Err(error) if is_taken(&error) => Ok(false),
            Err(error) => Err(error),
        };
        // SAFETY: nothing has acted under it: it was taken a moment ago, for a row that has another one.
        let release = |token| unsafe { self.lease.release(token) };
        if let Some(token) = entry.claim(hold, release)? {
            return Ok(Took::Row(token));
        }
        // The server may have offered the row again since the look above: then too, the caller is to look once more.
        let is_offered = entry.life() == Life::Vacant
            && entry.token().is_some_and(|token| matches!(self.lease.is_held(token), Ok(false)));
        let is_deserted = is_offered || entry.life() == Life::Leaving || self.is_deserted(entry)?;
        Ok(if is_deserted { Took::Deserted } else { Took::Nothing })
    }

    /// Whether the client of a row is proven dead, or has left: its row is the server's to repair.
    ///
    /// # Errors
    /// What the kernel says; nothing is known then.
    pub fn is_deserted(&self, entry: &Entry) -> io::Result<bool> {
        match (entry.life(), entry.token()) {
            (Life::Vacant, _) | (_, None) => Ok(false),
            (Life::Dead, _) => Ok(true),
            (_, Some(token)) => Ok(!self.lease.is_held(token)?),
        }
    }

    /// Whether a process has mapped the segment: after an exec it has not. False also if there is no such process.
    ///
    /// # Errors
    /// What the kernel says; nothing is known then.
    pub fn is_mapped_by(&self, pid: u32) -> io::Result<bool> {
        let meta = self.file.metadata()?;
        let of = format!("{:02x}:{:02x} {} ", libc::major(meta.dev()), libc::minor(meta.dev()), meta.ino());
        let maps = match std::fs::read(format!("/proc/{pid}/maps")) {
            Ok(maps) => maps,
            Err(error)
                if error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(libc::ESRCH) =>
            {
                return Ok(false);
            }
            Err(error) => return Err(error),
        };
        Ok(maps.windows(of.len()).any(|bytes| bytes == of.as_bytes()))
    }

    /// Whether the lease that was opened beside the segment is that of its server. Between the death of a server and the start
    /// of the next one under its name, it may be the next one's.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn has_its_own_lease(&self) -> io::Result<bool> {
        Ok(self.lease.file_number()? == self.header().lease_number)
    }

    /// Says that this client, if it is one, begins no more requests: others that want a row wait for its own.
    pub fn begin_to_leave_as_client(&self) {
        if self.home.client > 0 && self.birth.is_here() {
            let entry = &self.participants()[self.home.token.index() as usize];
            if entry.token() == Some(self.home.token) {
                entry.set_life(Life::Leaving);
            }
        }
    }

    /// Gives the client's row back, if this process has one: the server frees it, with what is left of its requests.
    ///
    /// # Safety
    /// From now on nothing acts under the client's token.
    pub unsafe fn leave_as_client(&self) {
        if self.home.token.index() == SERVER || !self.birth.is_here() {
            return;
        }
        self.begin_to_leave_as_client();
        crash_point!("client.leaving");
        // SAFETY: promised by the caller.
        unsafe { self.lease.release(self.home.token) };
        self.tell_server_of_clients();
    }

    /// Has the server look at the rows of clients.
    fn tell_server_of_clients(&self) {
        self.control().asked().ring();
    }

    /// Whether its server lives; for a client, which nobody tells.
    ///
    /// # Errors
    /// What the kernel says; nothing is known then.
    pub fn is_served(&self) -> io::Result<bool> {
        self.lease.is_served()
    }

    /// The user whose processes may take part.
    #[must_use]
    pub fn user() -> u32 {
        user_id()
    }
}

enum Took {
    Row(Token),
    /// It has a client that is gone.
    Deserted,
    Nothing,
}
