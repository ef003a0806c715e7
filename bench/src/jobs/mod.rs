//! The jobs of `compare`. Each is a module: where it measures, whom, and the rows that come of it.

pub mod bulk;
pub mod call;
pub mod stages;
pub mod stream;

use std::fmt;
use std::panic::resume_unwind;
use std::thread;

use crate::Error;
use crate::contestant::Point;
use crate::match_up::{self, Entry, Outcome};
use crate::peers::Peer;
use crate::pin::{CpuPair, pin_to};
use crate::raw::Raw;
use crate::report::Row;

/// What `compare` can measure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Job {
    /// One round trip at a time, of 8 B, 64 B and 1 KiB
    Call,
    /// Many items in progress: over windows, calling threads, workers
    Stream,
    /// Payloads of 4 KiB to 16 MiB, beside a write and a read of the same memory by one thread
    Bulk,
    /// Many items in progress through pipelines of 1 to 8 stages and ensembles of 1 to 16 members
    Stages,
}

impl Job {
    /// All of them, in the order of reports.
    pub const ALL: [Self; 4] = [Self::Call, Self::Stream, Self::Bulk, Self::Stages];

    /// The job's name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Call => "call",
            Self::Stream => "stream",
            Self::Bulk => "bulk",
            Self::Stages => "stages",
        }
    }

    /// Does the job.
    ///
    /// # Errors
    ///
    /// What a contestant's start or transport reports, [`Error::WrongAnswer`], or what the audience says to a row.
    pub fn run(self, session: &mut Session<'_>) -> Result<(), Error> {
        match self {
            Self::Call => call::run(session),
            Self::Stream => stream::run(session),
            Self::Bulk => bulk::run(session),
            Self::Stages => stages::run(session),
        }
    }
}

impl fmt::Display for Job {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.pad(self.name())
    }
}

/// Who is told what comes of the jobs.
pub trait Audience: Send {
    /// What is going on right now.
    fn progress(&mut self, line: fmt::Arguments<'_>);

    /// What has come out, for good.
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
    /// So many items in progress, whether or not the axis has that point.
    pub window: Option<u32>,
    /// So many calling threads.
    pub threads: Option<u32>,
    /// So many workers.
    pub workers: Option<u32>,
}

impl Only {
    /// Whether nothing was chosen.
    pub fn is_all(self) -> bool {
        self == Self::default()
    }
}

/// What all jobs of a run share.
pub struct Session<'a> {
    /// Where client and partner run.
    pub cpus: CpuPair,
    /// How many slices must count, or how often something is repeated.
    pub rounds: usize,
    /// Whom to measure; if empty, everybody who has a part in a job.
    pub peers: &'a [Peer],
    /// Which points.
    pub only: Only,
    /// Who is told.
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
        let wanted = |peer: &Peer| self.peers.is_empty() || self.peers.contains(peer);
        Peer::built().filter(wanted).filter(move |peer| peer.has_a_part_in(job, point))
    }

    /// Whether a job that is ringmill's alone is to be done.
    pub fn wants_ringmill(&self) -> bool {
        self.peers.is_empty() || self.peers.contains(&Peer::Ringmill)
    }

    /// One match between `entries`, which are started here, telling `what` it is; nothing if there are none.
    ///
    /// It takes place on a thread of its own, so that being pinned ends with it: the partners of the next one are
    /// started from a thread that may use every CPU.
    ///
    /// # Errors
    ///
    /// Those of `start` and [`match_up::run`].
    pub fn match_up(
        &mut self,
        what: &str,
        start: impl FnOnce(CpuPair) -> Result<Vec<Entry>, Error> + Send,
    ) -> Result<Option<Outcome>, Error> {
        let Self { cpus, rounds, ref mut audience, .. } = *self;
        audience.progress(format_args!("{what}: starting"));
        let outcome = on_a_thread_of_its_own(|| {
            let mut raw = Raw::start(cpus)?;
            let mut entries = start(cpus)?;
            if entries.is_empty() {
                return Ok(None);
            }
            pin_to(cpus.client)?;
            match_up::run(&mut raw, &mut entries, rounds, |progress| {
                audience.progress(format_args!("{what}: {progress}"));
            })
            .map(Some)
        })?;
        if let Some(Outcome { shortfall: Some(shortfall), .. }) = &outcome {
            self.audience.shortfall(format_args!("{what}: {shortfall}"));
        }
        Ok(outcome)
    }
}

/// Does `work` on a new thread and waits for it.
pub fn on_a_thread_of_its_own<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    thread::scope(|scope| scope.spawn(work).join().unwrap_or_else(|panic| resume_unwind(panic)))
}
