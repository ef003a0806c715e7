//! `shmtool stats`: how fast a server is, since its start or in one period after another.

pub(crate) mod args;
mod listen;
pub(crate) mod stopped;
mod taken;
pub(crate) mod text;
pub(crate) mod why;

use crate::error::ToolError;
use crate::output::{self, Page, Report, Verdict};
use crate::show::Counters;
use crate::show::exit::LastExit;
use crate::survey::{Liveness, Survey};
use crate::who::name_of;
use args::StatsArgs;
use ringmill_shm::check::PhaseCounts;
use ringmill_shm::participant::{Entry, Life, SERVER};
use ringmill_shm::segment::{Run, Segment};
use ringmill_shm::stats::{
    CallerDistributions, CallerSnapshot, CallerStats, Distribution, ServerSnapshot, Snapshot,
    WorkerDistributions,
};
use ringmill_shm::sys::time::now_ns;
use ringmill_shm::text::{shown, shown_path};
use serde::Serialize;
use std::time::Duration;
use why::Finding;

/// A server's statistics of a period.
#[derive(Debug, Serialize)]
pub(crate) struct Stats {
    pub(crate) name: String,
    path: String,
    pub(crate) state: Liveness,
    pub(crate) run: Run,
    pub(crate) period_s: f64,
    pub(crate) capacity: u32,
    pub(crate) in_progress: u32,
    /// The last death, in words.
    #[serde(skip)]
    last_death: Option<String>,
    /// Who is stopped, and what that holds up.
    #[serde(skip)]
    stopped: Vec<Finding>,
    /// Which workers have lost CPUs.
    #[serde(skip)]
    taken: Vec<Finding>,
    /// What limits the server.
    pub(crate) findings: Vec<Finding>,
    pub(crate) requests: Requests,
    deaths: ServerSnapshot,
    pub(crate) servlets: Vec<Servlet>,
    pub(crate) workers: Vec<Worker>,
}

#[derive(Debug, Clone, Serialize)]
pub(crate) struct Requests {
    #[serde(flatten)]
    pub(crate) counters: CallerSnapshot,
    pub(crate) ended: u64,
    #[serde(flatten)]
    pub(crate) times: CallerDistributions,
}

#[derive(Debug, Serialize)]
pub(crate) struct Servlet {
    pub(crate) name: String,
    pub(crate) depth: u64,
    /// Its threads that are ready.
    pub(crate) workers: u32,
    /// The mean of its threads.
    pub(crate) busy: Option<f64>,
    pub(crate) counters: Counters,
    #[serde(flatten)]
    pub(crate) times: WorkerDistributions,
    #[serde(skip)]
    facts: ringmill_shm::layout::NodeFacts,
}

#[derive(Debug, Serialize)]
pub(crate) struct Worker {
    servlet: String,
    worker: u32,
    thread: u32,
    pid: u32,
    pub(crate) busy: Option<f64>,
    pub(crate) items: u64,
    batches: u64,
    /// Its row in the participant table.
    #[serde(skip)]
    pub(crate) participant: u32,
    /// What it counted in the period.
    #[serde(skip)]
    pub(crate) counters: Snapshot,
    #[serde(skip)]
    cpus: Vec<usize>,
    #[serde(skip)]
    ready: bool,
}

/// What was counted by one moment.
#[derive(Debug, Clone)]
pub(crate) struct Moment {
    at_ns: u64,
    requests: CallerSnapshot,
    times: CallerDistributions,
    deaths: ServerSnapshot,
    /// Of each worker's row.
    workers: Vec<(Snapshot, WorkerDistributions)>,
}

impl Moment {
    pub(crate) fn of(segment: &Segment) -> Self {
        let (requests, times) = CallerStats::of_all(segment.callers());
        Self {
            at_ns: now_or_end(segment),
            requests,
            times,
            deaths: segment.server_counters().snapshot(),
            workers: (SERVER + 1..segment.shape().participants)
                .filter_map(|row| segment.worker_stats(row))
                .collect(),
        }
    }

    /// Before anything was counted: when the server arrived.
    pub(crate) fn start(segment: &Segment) -> Self {
        Self {
            at_ns: started_ns(segment),
            requests: CallerSnapshot::default(),
            times: CallerDistributions::default(),
            deaths: ServerSnapshot::default(),
            workers: Vec::new(),
        }
    }

    fn seconds_since(&self, earlier: &Self) -> f64 {
        seconds(earlier.at_ns, self.at_ns)
    }

    /// What a worker's row has counted since an earlier moment.
    fn worker_since(&self, earlier: &Self, row: u32) -> (Snapshot, WorkerDistributions) {
        let index = row as usize - 1; // row 0 is the server
        let (counters, times) = self.workers.get(index).cloned().unwrap_or_default();
        let (before, times_before) = earlier.workers.get(index).cloned().unwrap_or_default();
        (counters.since(before), times.since(&times_before))
    }
}

/// How many requests have ended since the server's start, and a second.
pub(crate) fn ended(segment: &Segment) -> (u64, f64) {
    let rows = segment.callers().iter();
    let ended = rows.fold(CallerSnapshot::default(), |sum, row| sum.merged(row.snapshot())).ended();
    let up_s = seconds(started_ns(segment), now_or_end(segment));
    (ended, if up_s > 0.0 { ended as f64 / up_s } else { 0.0 })
}

fn seconds(from_ns: u64, to_ns: u64) -> f64 {
    Duration::from_nanos(to_ns.saturating_sub(from_ns)).as_secs_f64()
}

fn started_ns(segment: &Segment) -> u64 {
    segment.participants()[SERVER as usize].since_ns()
}

/// Now; or, of a server that has died, the last instant from which the segment has news.
fn now_or_end(segment: &Segment) -> u64 {
    match segment.lease().is_served() {
        Ok(false) => segment.participants().iter().map(Entry::last_news_ns).max().unwrap_or(0).min(now_ns()),
        _ => now_ns(),
    }
}

/// Prints a server's statistics of each period; returns the last text, and the status.
pub(crate) fn stats(args: &StatsArgs, json: bool) -> Result<(String, Verdict), ToolError> {
    let name = args.segment.name.as_str();
    if let Some(address) = args.listen {
        return listen::listen(name, address, args.beyond_loopback);
    }
    let (survey, segment) = Survey::open(name)?;
    if args.prometheus {
        return Ok((ringmill_shm::metrics::text(&segment), Verdict::Fine));
    }
    let page = Page::of_stdout();
    let Some(interval) = args.interval else {
        let stats = Stats::of(&survey, &segment, &Moment::start(&segment), &Moment::of(&segment));
        let text = if json { output::json(&stats)? } else { stats.text(page) };
        return Ok((text, Verdict::Fine));
    };
    survey.must_live()?;
    let mut before = Moment::of(&segment);
    let mut left = args.count.unwrap_or(u64::MAX);
    loop {
        std::thread::sleep(interval);
        let now = Moment::of(&segment);
        let stats = Stats::of(&survey, &segment, &before, &now);
        let text = if json { output::json_line(&stats)? } else { stats.text(page) + "\n" };
        left -= 1;
        let ends = !segment.lease().is_served().unwrap_or(true);
        if left == 0 || ends {
            return Ok((text, if ends { Verdict::Wrong } else { Verdict::Fine }));
        }
        if !output::print(&text)? {
            return Ok((String::new(), Verdict::Fine));
        }
        before = now;
    }
}

impl Stats {
    pub(crate) fn of(survey: &Survey, segment: &Segment, before: &Moment, now: &Moment) -> Self {
        let period_s = now.seconds_since(before);
        let workers = workers(segment, before, now, period_s);
        let counters = now.requests.since(before.requests);
        let mut stats = Self {
            name: shown(&survey.location.to_text()),
            path: shown_path(&survey.location.path()),
            state: match segment.lease().is_served() {
                Ok(true) => Liveness::Live,
                Ok(false) => Liveness::Stale,
                Err(_) => survey.state,
            },
            run: segment.run(),
            period_s,
            capacity: segment.shape().requests,
            in_progress: PhaseCounts::of(segment).in_progress(),
            findings: Vec::new(),
            stopped: stopped::findings(segment),
            taken: taken::findings(segment),
            last_death: last_death(segment),
            requests: Requests { counters, ended: counters.ended(), times: now.times.since(&before.times) },
            deaths: now.deaths.since(before.deaths),
            servlets: servlets(segment, before, now, &workers),
            workers,
        };
        stats.findings = stats.why();
        stats
    }

    /// A number a second.
    pub(crate) fn per_s(&self, n: u64) -> f64 {
        if self.period_s > 0.0 { n as f64 / self.period_s } else { 0.0 }
    }
}

/// The last worker that died, how, and with which items.
fn last_death(segment: &Segment) -> Option<String> {
    let exits = (0..).zip(segment.participants()).filter_map(|(row, entry)| Some((row, entry.last_exit()?)));
    let (row, exit) = exits.max_by_key(|(_, exit)| exit.at_ns)?;
    Some(format!("{} {}", name_of(segment, row)?, LastExit::of(segment, exit).text()))
}

impl Report for Stats {
    fn text(&self, page: Page) -> String {
        text::of(self, page)
    }
}

fn workers(segment: &Segment, before: &Moment, now: &Moment, period_s: f64) -> Vec<Worker> {
    let rows = (0..).zip(segment.participants()).skip(1);
    rows.filter_map(|(row, entry)| {
        let (info, worker, thread) = segment.worker_of(row)?;
        let (counters, times) = now.worker_since(before, row);
        Some(Worker {
            servlet: shown(&info.name),
            worker,
            thread,
            pid: entry.pid(),
            busy: busy(&times.run_time, counters.batches, period_s),
            items: counters.items,
            batches: counters.batches,
            participant: row,
            counters,
            cpus: entry.cpus(),
            ready: entry.life() == Life::Ready,
        })
    })
    .collect()
}

/// The part of a period in which user code ran; none if runs are not timed.
fn busy(runs: &Distribution, batches: u64, period_s: f64) -> Option<f64> {
    let timed = runs.count() > 0 || batches == 0;
    // Of runs some are timed, of batches all are counted.
    (timed && period_s > 0.0).then(|| (runs.mean() * batches as f64 / 1e9 / period_s).min(1.0))
}

fn servlets(segment: &Segment, before: &Moment, now: &Moment, workers: &[Worker]) -> Vec<Servlet> {
    let nodes = (0..segment.shape().nodes).filter_map(|index| segment.node(index));
    let servlet = nodes.map(|node| {
        let info = node.info();
        let rows = info.first_participant..info.first_participant.saturating_add(info.rows);
        let (mut snapshot, mut times) = (Snapshot::default(), WorkerDistributions::default());
        for row in rows.clone() {
            let (counters, of_row) = now.worker_since(before, row);
            (snapshot, times) = (snapshot.merged(counters), times.merged(&of_row));
        }
        let own = || rows.clone().filter_map(|row| workers.get(row as usize - 1));
        let busy: Option<Vec<f64>> = own().map(|worker| worker.busy).collect();
        Servlet {
            name: shown(&info.name),
            depth: node.ring().depth(),
            workers: own().filter(|worker| worker.ready).count() as u32,
            busy: busy.filter(|all| !all.is_empty()).map(|all| all.iter().sum::<f64>() / all.len() as f64),
            counters: Counters::of(snapshot),
            times,
            facts: info.facts,
        }
    });
    servlet.collect()
}
