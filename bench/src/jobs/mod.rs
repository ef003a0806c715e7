//! The jobs of `compare`. Each is a module: its points, its peers, and its rows.

pub mod batch;
pub mod bulk;
pub mod call;
pub mod first;
pub mod frames;
pub mod idle;
pub mod latency;
pub mod memory;
pub mod placement;
pub mod stages;
pub mod start;
pub mod stream;
pub mod wake;

use std::fmt;
use std::panic::resume_unwind;
use std::thread;

use crate::Error;
use crate::contestant::Point;
use crate::match_up::{self, Outcome, Setup};
use crate::peers::Peer;
use crate::pin::{CpuPair, pin_to};
use crate::raw::Raw;
use crate::report::Row;
use crate::turns::{self, Slice, Sorted, Wanted};

/// The jobs of `compare`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Job {
    /// One round trip at a time, of 8 B, 64 B and 1 KiB
    Call,
    /// Requests that arrive at random, 1,000 to 1,000,000 a second
    Latency,
    /// Many items in progress: over windows, calling threads, workers
    Stream,
    /// Payloads of 4 KiB to 16 MiB, beside a write and a read of the same memory by one thread
    Bulk,
    /// Frames of 1 to 16 MiB through three stages that change them, beside a vector that is moved between threads
    Frames,
    /// How full batches are, with the reader lock and without, and what they cost beside their workers' own time
    Batch,
    /// Many items in progress through pipelines of 1 to 8 stages and ensembles of 1 to 16 members
    Stages,
    /// A round trip when the other side sleeps, and what spinning costs
    Wake,
    /// CPU time with nothing to do
    Idle,
    /// Until 1 to 16 workers are ready
    Start,
    /// The first requests after a start beside later ones, with pages mapped before and not
    First,
    /// A call and an item with the worker near its caller and far from it, with pages mapped before and not
    Placement,
    /// Bytes that a request in progress costs
    Memory,
}

impl Job {
    /// All of them, in the order of reports.
    pub const ALL: [Self; 13] = [
        Self::Call,
        Self::Latency,
        Self::Stream,
        Self::Bulk,
        Self::Frames,
        Self::Batch,
        Self::Stages,
        Self::Wake,
        Self::Idle,
        Self::Start,
        Self::First,
        Self::Placement,
        Self::Memory,
    ];

    /// The job's name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Call => "call",
            Self::Latency => "latency",
            Self::Stream => "stream",
            Self::Bulk => "bulk",
            Self::Frames => "frames",
            Self::Batch => "batch",
            Self::Stages => "stages",
            Self::Wake => "wake",
            Self::Idle => "idle",
            Self::Start => "start",
            Self::First => "first",
            Self::Placement => "placement",
            Self::Memory => "memory",
        }
    }

    /// Does the job.
    ///
    /// # Errors
    ///
    /// An error of a contestant's start or transport, [`Error::WrongAnswer`], or an error of the audience.
    pub fn run(self, session: &mut Session<'_>) -> Result<(), Error> {
        match self {
            Self::Call => call::run(session),
            Self::Latency => latency::run(session),
            Self::Stream => stream::run(session),
            Self::Bulk => bulk::run(session),
            Self::Frames => frames::run(session),
            Self::Batch => batch::run(session),
            Self::Stages => stages::run(session),
            Self::Wake => wake::run(session),
            Self::Idle => idle::run(session),
            Self::Start => start::run(session),
            Self::First => first::run(session),
            Self::Placement => placement::run(session),
            Self::Memory => memory::run(session),
        }
    }
}

impl fmt::Display for Job {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.pad(self.name())
    }
}

/// A program that does jobs calls this first in `main`: some jobs start it again in another role.
pub fn begin() {
    memory::begin();
}

/// Receives the progress and the rows of the jobs.
pub trait Audience: Send {
    /// The current step.
    fn progress(&mut self, line: fmt::Arguments<'_>);

    /// A final row.
    ///
    /// # Errors
    ///
    /// [`Error::Print`] if it cannot be passed on; the job ends.
    fn rows(&mut self, rows: &[Row]) -> Result<(), Error>;

    /// Something that could not be measured as asked for, and why.
    fn shortfall(&mut self, line: fmt::Arguments<'_>);
}

/// Which points of their axes the jobs are to measure; none: all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Only {
    /// These bytes a question and an answer; jobs that have no such payload are left out.
    pub payload_bytes: Option<u32>,
    /// This many items in progress, whether or not the axis has that point.
    pub window: Option<u32>,
    /// This many calling threads.
    pub threads: Option<u32>,
    /// This many workers.
    pub workers: Option<u32>,
    /// This many requests a second, whether or not the axis has that point.
    pub rate_per_s: Option<u32>,
}

impl Only {
    /// Whether nothing was chosen of payloads, windows, threads and workers.
    fn is_all(self) -> bool {
        self == Self { rate_per_s: self.rate_per_s, ..Self::default() }
    }

    /// The rates to measure, of those that a job has.
    fn rates(&self, all: &[u32]) -> Vec<u32> {
        self.rate_per_s.map_or_else(|| all.to_vec(), |rate| vec![rate])
    }
}

/// The state that all jobs of a run share.
pub struct Session<'a> {
    /// Where client and partner run.
    pub cpus: CpuPair,
    /// How many slices must count, or how often something is repeated.
    pub rounds: usize,
    /// The peers to measure; if empty, all that have a part in a job.
    pub peers: &'a [Peer],
    /// Which points.
    pub only: Only,
    /// Receives progress and rows.
    pub audience: &'a mut dyn Audience,
}

impl fmt::Debug for Session<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { cpus, rounds, peers, only, audience: _ } = self;
        out.debug_struct("Session")
            .field("cpus", cpus)
            .field("rounds", rounds)
            .field("peers", peers)
            .field("only", only)
            .finish_non_exhaustive()
    }
}

impl Session<'_> {
    /// Those wanted that have a part in `job` at `point`, each once, in the order of reports.
    pub fn peers_at(&self, job: Job, point: Point) -> impl Iterator<Item = Peer> {
        let wanted = |peer: &Peer| match self.peers.is_empty() {
            true => !peer.needs_python(),
            false => self.peers.contains(peer),
        };
        Peer::built().filter(wanted).filter(move |peer| peer.has_a_part_in(job, point))
    }

    /// Whether a job that is ringmill's alone is to be done.
    pub fn wants_ringmill(&self) -> bool {
        self.peers.is_empty() || self.peers.iter().any(|peer| peer.is_ours())
    }

    /// One match between `setups`, which are started here, telling `what` it is; nothing if there are none.
    ///
    /// It runs on a thread of its own, so that pinning ends with it: the partners of the next match are started from a thread
    /// that may use every CPU.
    ///
    /// # Errors
    ///
    /// Those of `start` and [`match_up::run`].
    pub fn match_up(
        &mut self,
        what: &str,
        start: impl FnOnce(CpuPair) -> Result<Vec<Setup>, Error> + Send,
    ) -> Result<Option<Outcome>, Error> {
        let Self { cpus, rounds, ref mut audience, .. } = *self;
        audience.progress(format_args!("{what}: starting"));
        let outcome = on_a_thread_of_its_own(|| {
            let mut raw = Raw::start(cpus)?;
            let mut setups = start(cpus)?;
            if setups.is_empty() {
                return Ok(None);
            }
            pin_to(cpus.client)?;
            match_up::run(&mut raw, &mut setups, rounds, |progress| {
                audience.progress(format_args!("{what}: {progress}"));
            })
            .map(Some)
        })?;
        if let Some(Outcome { shortfall: Some(shortfall), .. }) = &outcome {
            self.audience.shortfall(format_args!("{what}: {shortfall}"));
        }
        Ok(outcome)
    }

    /// Contestants that take turns, each measured by `measure`, telling `what` it is; of each what `name` says and its
    /// slices, and nothing if there are none. Where it takes place is as of [`match_up`](Self::match_up).
    ///
    /// # Errors
    ///
    /// Those of `start`, `measure` and [`turns::take`].
    pub fn take_turns<C, N: Send, S: Slice + Send>(
        &mut self,
        what: &str,
        wanted: Wanted,
        start: impl FnOnce(CpuPair) -> Result<Vec<C>, Error> + Send,
        name: impl Fn(&C) -> N + Send,
        measure: impl FnMut(&mut C, usize) -> Result<S, Error> + Send,
    ) -> Result<Vec<(N, Sorted<S>)>, Error> {
        let Self { cpus, ref mut audience, .. } = *self;
        audience.progress(format_args!("{what}: starting"));
        let (names, outcome) = on_a_thread_of_its_own(|| {
            let mut raw = Raw::start(cpus)?;
            let mut contestants = start(cpus)?;
            if contestants.is_empty() {
                return Ok((Vec::new(), turns::Outcome::default()));
            }
            pin_to(cpus.client)?;
            let outcome = turns::take(&mut raw, &mut contestants, wanted, measure, |progress| {
                audience.progress(format_args!("{what}: {progress}"));
            })?;
            Ok::<_, Error>((contestants.iter().map(name).collect::<Vec<_>>(), outcome))
        })?;
        if let Some(shortfall) = &outcome.shortfall {
            self.audience.shortfall(format_args!("{what}: {shortfall}"));
        }
        Ok(names.into_iter().zip(outcome.slices).collect())
    }
}

/// Does `work` on a new thread and waits for it.
pub fn on_a_thread_of_its_own<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    thread::scope(|scope| scope.spawn(work).join().unwrap_or_else(|panic| resume_unwind(panic)))
}
