//! `shmtool list`: the named segments of this machine, and the anonymous ones of living processes.

pub(crate) mod args;

use crate::error::ToolError;
use crate::output::{Page, Report};
use crate::stats::ended;
use crate::survey::{Identity, Liveness, Survey};
use crate::units;
use ringmill_shm::check::PhaseCounts;
use ringmill_shm::participant::{Entry, Life, SERVER};
use ringmill_shm::segment::{self, FoundAnonymous, Location, NAMED_DIRECTORY, Run, Segment};
use ringmill_shm::text::size;
use serde::Serialize;

/// All named segments of this machine, and the anonymous ones of its processes.
#[derive(Debug, Serialize)]
pub(crate) struct Listing {
    /// By name; then the anonymous ones, by label.
    segments: Vec<Listed>,
}

#[derive(Debug, Serialize)]
struct Listed {
    #[serde(flatten)]
    identity: Identity,
    /// The server's process; of a stale segment, its last one.
    server_pid: Option<u32>,
    /// What it does; none of what cannot be read.
    work: Option<Work>,
    /// Its server's process is stopped; none: it has none, or it cannot be seen from here.
    stopped: Option<bool>,
    /// Why the state is not live, or what is missing.
    note: Option<String>,
    /// Whether it is anonymous.
    #[serde(skip)]
    is_anonymous: bool,
}

/// What a server does.
#[derive(Debug, Serialize)]
struct Work {
    /// Threads of workers that there are, and those that are ready.
    workers: u32,
    workers_ready: u32,
    capacity: u32,
    in_progress: u32,
    /// Requests that have ended since the start.
    requests_ended: u64,
    /// Of those, a second on average.
    requests_per_s: f64,
}

impl Work {
    fn of(segment: &Segment) -> Self {
        // A row of a worker that may be added is vacant.
        let workers = || {
            segment
                .participants()
                .iter()
                .take(segment.client_rows().start as usize)
                .skip(SERVER as usize + 1)
                .filter(|entry| entry.life() != Life::Vacant)
        };
        let (requests_ended, requests_per_s) = ended(segment);
        Self {
            workers: workers().count() as u32,
            workers_ready: workers().filter(|entry| entry.life() == Life::Ready).count() as u32,
            capacity: segment.shape().requests,
            in_progress: PhaseCounts::of(segment).in_progress(),
            requests_ended,
            requests_per_s,
        }
    }
}

/// Lists the segments.
pub(crate) fn list() -> Result<Listing, ToolError> {
    let found = segment::list().map_err(|error| ToolError::System {
        what: "read",
        path: NAMED_DIRECTORY.into(),
        error,
    })?;
    let mut segments = Vec::new();
    for found in found {
        let Some(survey) = Survey::of(found.location)? else { continue };
        segments.push(Listed::of(&survey, survey.why.clone(), false));
    }
    // Without /proc no process can be looked into.
    for found in with_short_addresses(segment::list_anonymous().unwrap_or_default()) {
        let Some(survey) = Survey::of(found.location)? else { continue };
        let stale = (survey.state == Liveness::Stale).then(|| goes_with(&found.held_by));
        segments.push(Listed::of(&survey, survey.why.clone().or(stale), true));
    }
    Ok(Listing { segments })
}

/// Leaves the number of the lease out of the addresses that are unique without it.
fn with_short_addresses(mut all: Vec<FoundAnonymous>) -> Vec<FoundAnonymous> {
    let short = |found: &FoundAnonymous| match &found.location {
        Location::Anonymous(of) => Location::Anonymous(of.clone().only()),
        other => other.clone(),
    };
    let shorts: Vec<Location> = all.iter().map(short).collect();
    for (found, short) in all.iter_mut().zip(&shorts) {
        if shorts.iter().filter(|other| *other == short).count() == 1 {
            found.location = short.clone();
        }
    }
    all
}

/// What becomes of an anonymous segment whose server has died.
fn goes_with(processes: &[u32]) -> String {
    let all = processes.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    match processes.len() {
        1 => format!("its memory goes with process {all}, which has it"),
        _ => format!("its memory goes with the last of the processes that have it: {all}"),
    }
}

impl Listed {
    fn of(survey: &Survey, note: Option<String>, is_anonymous: bool) -> Self {
        let segment = survey.segment.as_ref();
        let server = segment.map(|segment| &segment.participants()[SERVER as usize]);
        Self {
            identity: survey.identity(segment),
            server_pid: server.map(Entry::pid),
            work: segment.map(Work::of),
            stopped: server.filter(|_| survey.state == Liveness::Live).and_then(Entry::is_stopped),
            note,
            is_anonymous,
        }
    }

    fn state(&self) -> String {
        let state = self.identity.state;
        match self.identity.run {
            _ if self.stopped == Some(true) => "live, stopped".into(),
            Some(Run::Draining) if state == Liveness::Live => "live, draining".into(),
            Some(Run::Stopping) if state == Liveness::Live => "live, stopping".into(),
            Some(Run::Closed) if state == Liveness::Live => "live, closed".into(),
            _ => state.text().into(),
        }
    }

    /// A cell of what it does; a server that has died does nothing.
    fn work(&self, cell: impl FnOnce(&Work) -> String) -> String {
        let lives = self.identity.state == Liveness::Live;
        self.work.as_ref().filter(|_| lives).map_or_else(|| "-".into(), cell)
    }

    fn server(&self) -> String {
        match self.server_pid {
            Some(pid) if self.identity.state == Liveness::Live => pid.to_string(),
            Some(pid) => format!("{pid} (gone)"),
            None => "-".into(),
        }
    }
}

impl Report for Listing {
    fn text(&self, page: Page) -> String {
        if self.segments.is_empty() {
            return format!(
                "No ringmill segments in {NAMED_DIRECTORY}, nor in a process: no server is running.\n"
            );
        }
        let dash = || "-".to_string();
        let with_notes = self.segments.iter().any(|s| s.note.is_some());
        let mut headings =
            vec!["name", "state", ">size", "age", "user", "server", ">workers", ">busy", ">requests/s"];
        headings.extend(with_notes.then_some("note"));
        let rows = self.segments.iter().map(|listed| {
            let of = &listed.identity;
            let user = of.user.clone().or_else(|| of.user_id.map(|id| id.to_string()));
            let mut row = vec![
                of.name.clone(),
                listed.state(),
                of.bytes.map_or_else(dash, size),
                of.age_s.map_or_else(dash, units::age),
                user.unwrap_or_else(dash),
                listed.server(),
                listed.work(|work| format!("{}/{}", work.workers_ready, work.workers)),
                listed.work(|work| format!("{}/{}", work.in_progress, work.capacity)),
                listed.work(|work| units::rate(work.requests_per_s)),
            ];
            row.extend(with_notes.then(|| listed.note.clone().unwrap_or_default()));
            row
        });
        let mut text = page.table(&headings, rows);
        let is_stale = |s: &&Listed| s.identity.state == Liveness::Stale && !s.is_anonymous;
        let stale = self.segments.iter().filter(is_stale).count();
        if stale > 0 {
            text += &format!(
                "\n{} stale: 'shmtool clean' removes the files of dead servers.\n",
                units::count(stale, "segment")
            );
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_segments_the_text_says_that_no_server_runs() {
        let empty = Listing { segments: Vec::new() };
        let text = empty.text(Page::plain());
        assert_eq!(text, "No ringmill segments in /dev/shm, nor in a process: no server is running.\n");
        assert_eq!(serde_json::to_string(&empty).unwrap(), r#"{"segments":[]}"#);
    }

    #[test]
    fn an_unknown_value_is_null_in_json_and_a_dash_in_text() {
        let identity = Identity {
            name: "x".into(),
            path: "/dev/shm/ringmill-x".into(),
            state: Liveness::Foreign,
            run: None,
            bytes: Some(3),
            created_unix_s: None,
            age_s: None,
            user_id: Some(4_000_000),
            user: None,
        };
        let note = Some("it is a directory".into());
        let listed =
            Listed { identity, server_pid: None, work: None, stopped: None, note, is_anonymous: false };
        let report = Listing { segments: vec![listed] };
        let expected = serde_json::json!({"segments": [{
            "name": "x", "path": "/dev/shm/ringmill-x", "state": "foreign", "run": null, "bytes": 3,
            "created_unix_s": null, "age_s": null, "user_id": 4_000_000, "user": null,
            "server_pid": null, "work": null, "stopped": null, "note": "it is a directory",
        }]});
        assert_eq!(serde_json::to_value(&report).unwrap(), expected);
        let text = report.text(Page::plain());
        assert_eq!(
            text.lines().nth(1).unwrap().split_whitespace().collect::<Vec<_>>(),
            ["x", "foreign", "3", "B", "-", "4000000", "-", "-", "-", "-", "it", "is", "a", "directory"]
        );
    }
}
