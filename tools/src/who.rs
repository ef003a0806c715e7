//! Participants in words.

use ringmill_shm::participant::{Entry, SERVER};
use ringmill_shm::segment::Segment;
use ringmill_shm::text::shown;
use ringmill_shm::token::Token;
use serde::Serialize;

/// The incarnation of a participant that a token names.
#[derive(Debug, Serialize)]
pub(crate) struct Holder {
    /// Its row in the participant table.
    pub(crate) participant: u32,
    /// In words.
    pub(crate) worker: String,
    pub(crate) pid: Option<u32>,
    pub(crate) alive: bool,
}

impl Holder {
    /// The participant that a token names; `server` is what the server does here, in a word.
    pub(crate) fn of(segment: &Segment, token: Token, server: &str) -> Self {
        let entry = segment.participants().get(token.index() as usize);
        let alive = !segment.is_dead(token);
        let worker = match (token.index(), worker_name(segment, token.index())) {
            (SERVER, _) => server.into(),
            (_, Some(name)) => name,
            (_, None) => format!("no worker ({token})"),
        };
        Self { participant: token.index(), worker, pid: entry.filter(|_| alive).map(Entry::pid), alive }
    }

    /// The same for a cell of a table.
    pub(crate) fn text(&self) -> String {
        if self.alive { self.worker.clone() } else { format!("{} (dead)", self.worker) }
    }
}

/// A worker's name, by the plan: another process may have written over its row of the table.
fn worker_name(segment: &Segment, row: u32) -> Option<String> {
    let (info, worker, thread) = segment.worker_of(row)?;
    Some(title(&shown(&info.name), worker, thread, info.facts.threads))
}

/// `node/worker`, and `.thread` after it if the worker has several.
pub(crate) fn title(node: &str, worker: u32, thread: u32, threads: u32) -> String {
    if threads > 1 { format!("{node}/{worker}.{thread}") } else { format!("{node}/{worker}") }
}

/// Whether a participant lives; without an answer it is not called dead.
pub(crate) fn is_held(segment: &Segment, entry: &Entry) -> bool {
    entry.token().is_some_and(|token| segment.lease().is_held(token).unwrap_or(true))
}
