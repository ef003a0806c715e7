//! Participants in words.

use crate::units;
use ringmill_shm::participant::{Entry, SERVER};
use ringmill_shm::segment::Segment;
use ringmill_shm::sys::time::now_ns;
use ringmill_shm::text::shown;
use ringmill_shm::token::Token;
use ringmill_shm::watch::Began;
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
    /// Its process is stopped; none: it cannot be seen from here.
    pub(crate) stopped: Option<bool>,
}

impl Holder {
    /// The participant that a token names; `server` is what the server does here, in a word.
    pub(crate) fn of(segment: &Segment, token: Token, server: &str) -> Self {
        let entry = segment.participants().get(token.index() as usize);
        let alive = !segment.is_dead(token);
        let worker = match (token.index(), name_of(segment, token.index())) {
            (SERVER, _) => server.into(),
            (_, Some(name)) => name,
            (_, None) => format!("no worker ({token})"),
        };
        let entry = entry.filter(|_| alive);
        let stopped = entry.and_then(Entry::is_stopped);
        Self { participant: token.index(), worker, pid: entry.map(Entry::pid), alive, stopped }
    }

    /// The same for a cell of a table.
    pub(crate) fn text(&self) -> String {
        match (self.alive, self.stopped) {
            (false, _) => format!("{} (dead)", self.worker),
            (true, Some(true)) => format!("{} (stopped)", self.worker),
            (true, _) => self.worker.clone(),
        }
    }
}

/// For how long something has been going on.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(crate) struct Span {
    pub(crate) at_least_s: Option<f64>,
    pub(crate) at_most_s: Option<f64>,
}

impl Span {
    pub(crate) fn since(began: Began) -> Self {
        let now_ns = now_ns();
        let ago_s = |ns: u64| now_ns.saturating_sub(ns) as f64 / 1e9;
        Self {
            at_least_s: began.by_ns.map(ago_s),
            at_most_s: (began.after_ns != 0).then(|| ago_s(began.after_ns)),
        }
    }

    /// `3.1 s`, `≥ 2.0 s`, `< 0.9 s`, or nothing.
    pub(crate) fn text(self) -> Option<String> {
        let [least, most] = [self.at_least_s, self.at_most_s].map(|s| s.map(units::seconds));
        match (least, most) {
            (Some(least), Some(most)) if least == most => Some(least),
            (Some(least), _) => Some(format!("≥ {least}")),
            (None, most) => most.map(|most| format!("< {most}")),
        }
    }
}

/// A worker's name, by the plan: another process may have written over its row of the table.
pub(crate) fn name_of(segment: &Segment, row: u32) -> Option<String> {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_span_says_what_is_known() {
        let text = |at_least_s, at_most_s| Span { at_least_s, at_most_s }.text();
        assert_eq!(text(Some(3.1), Some(3.12)).as_deref(), Some("3.1 s"));
        assert_eq!(text(Some(2.0), Some(3.0)).as_deref(), Some("≥ 2.0 s"));
        assert_eq!(text(Some(2.0), None).as_deref(), Some("≥ 2.0 s"));
        assert_eq!(text(None, Some(0.9)).as_deref(), Some("< 900.0 ms"));
        assert_eq!(text(None, None), None);
    }
}
