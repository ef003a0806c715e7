//! What one look at a segment sees.

use crate::error::ToolError;
use crate::requests::{self, Choice, InProgress};
use crate::show;
use crate::stats::{Moment, Stats};
use crate::survey::Survey;
use crate::who::Span;
use ringmill_shm::participant::SERVER;
use ringmill_shm::segment::Segment;
use ringmill_shm::stats::Snapshot;
use ringmill_shm::sys::time::now_ns;
use ringmill_shm::watch::Watch;
use std::collections::HashMap;

/// A segment that is looked at again and again.
#[derive(Debug)]
pub(super) struct Watched {
    survey: Survey,
    segment: Segment,
    file_bytes: u64,
    /// Up to when the last picture counts.
    before: Option<Moment>,
    /// Of each row, in which call these looks have seen it.
    calls: HashMap<u32, Watch>,
}

/// A server at one moment, or nearly so, and what it did since the look before.
#[derive(Debug)]
pub(super) struct Picture {
    pub(super) stats: Stats,
    /// The first look: all is counted from the server's start.
    pub(super) is_first: bool,
    /// Since when the server runs.
    pub(super) up_s: u64,
    pub(super) server_pid: u32,
    /// The server's process is stopped.
    pub(super) is_stopped: bool,
    /// By their rows of the participant table.
    pub(super) workers: Vec<Worker>,
    pub(super) requests: InProgress,
}

/// A thread of a worker.
#[derive(Debug)]
pub(super) struct Worker {
    pub(super) seen: show::Worker,
    pub(super) busy: Option<f64>,
    pub(super) items_per_s: f64,
    /// What it counted in the period.
    pub(super) counted: Snapshot,
    /// For how long it has been in its present call.
    pub(super) call_time: Option<Span>,
    pub(super) is_asleep: bool,
    /// For how long it holds its servlet's reader lock; none: it does not.
    pub(super) reads_for: Option<Span>,
}

impl Watched {
    pub(super) fn new(survey: Survey, segment: Segment) -> Self {
        let file_bytes = segment.file().metadata().map_or(0, |meta| meta.len());
        Self { survey, segment, file_bytes, before: None, calls: HashMap::new() }
    }

    /// Whether the server lives; without an answer it is not called dead.
    pub(super) fn is_served(&self) -> bool {
        self.segment.lease().is_served().unwrap_or(true)
    }

    /// Looks. A file that was made shorter since the look before is an error while no byte of it has been read: later it ends
    /// the process, by the handler of `end_on_bus_error`.
    pub(super) fn look(&mut self) -> Result<Picture, ToolError> {
        let segment = &self.segment;
        if segment.file().metadata().is_ok_and(|meta| meta.len() < self.file_bytes) {
            let path = self.survey.location.path();
            return Err(ToolError::Unreadable { path, why: "it was made shorter while it was read".into() });
        }
        let now = Moment::of(segment);
        let is_first = self.before.is_none();
        let before = self.before.take().unwrap_or_else(|| Moment::start(segment));
        let stats = Stats::of(&self.survey, segment, &before, &now);
        self.before = Some(now);
        let server = &segment.participants()[SERVER as usize];
        let workers: Vec<_> = show::workers(segment)
            .into_iter()
            .map(|seen| worker(seen, segment, &stats, &mut self.calls))
            .collect();
        Ok(Picture {
            is_first,
            up_s: now_ns().saturating_sub(server.since_ns()) / 1_000_000_000,
            server_pid: server.pid(),
            is_stopped: server.is_stopped() == Some(true),
            workers,
            requests: requests::of(&self.survey, segment, &Choice::default(), None)?,
            stats,
        })
    }
}

fn worker(seen: show::Worker, segment: &Segment, stats: &Stats, calls: &mut HashMap<u32, Watch>) -> Worker {
    let row = seen.participant;
    let looks = calls.entry(row).or_default();
    let call_time = seen.call.map(|(call, began)| Span::since(began.and(looks.began(call))));
    looks.see(seen.call.map_or(0, |(call, _)| call), now_ns());
    let of_row = stats.workers.iter().find(|worker| worker.participant == row);
    let mut nodes = (0..segment.shape().nodes).filter_map(|index| segment.node(index));
    // Its own node.
    let node = nodes.find(|node| row.wrapping_sub(node.info().first_participant) < node.info().rows);
    let is_asleep = node.is_some_and(|node| {
        let number = row.wrapping_sub(node.info().first_participant);
        node.doorbell().sleepers().checked_shr(number).is_some_and(|bits| bits & 1 == 1)
    });
    let reads_for = node.and_then(|node| {
        let holder = node.lock().holder().filter(|holder| holder.index() == row);
        holder.map(|_| Span::since(node.lock_began().unwrap_or_default()))
    });
    Worker {
        busy: of_row.and_then(|of| of.busy),
        items_per_s: of_row.map_or(0.0, |of| stats.per_s(of.items)),
        counted: of_row.map(|of| of.counters).unwrap_or_default(),
        call_time,
        is_asleep,
        reads_for,
        seen,
    }
}
