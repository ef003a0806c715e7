//! ringmill and its rivals in one run, as ratios to the bare cache-line ping-pong.

use std::io::{self, IsTerminal, Write};
use std::panic::resume_unwind;
use std::process::ExitCode;
use std::thread;

use clap::{Parser, ValueEnum};
use ringmill_bench::Error;
use ringmill_bench::contestant::{Contestant, Job};
use ringmill_bench::match_up::{self, Progress};
use ringmill_bench::peers::Peer;
use ringmill_bench::peers::ringmill::Echo;
use ringmill_bench::peers::stages::{self, Stage};
use ringmill_bench::pin::{CpuPair, pin_to};
use ringmill_bench::raw::Raw;
use ringmill_bench::report;

ringmill::init!(Echo, Stage);

/// Compares ringmill with its rivals.
///
/// Short slices of every contestant alternate with readings of a bare cache-line ping-pong between the same
/// two CPUs (raw). A slice counts only if the readings before and after it differ by at most 20%. What is
/// printed are medians of the ratio to raw, by regime: what a cache line costs depends on where the machine
/// puts the two CPUs, and figures of different regimes cannot be compared.
///
/// Every item is 64 bytes each way, written, read and checked on both sides. The two CPUs are the first two
/// that the process may use; taskset chooses others.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// What to measure; may be repeated [default: all jobs]
    #[arg(long = "job", value_name = "JOB")]
    jobs: Vec<JobName>,

    /// Whom to measure; may be repeated [default: all that have a part in the job]. The job `stages` compares
    /// ringmill with itself
    #[arg(long = "peer", value_name = "PEER")]
    peers: Vec<Peer>,

    /// How many rounds must count, for every peer in one regime
    #[arg(long, default_value_t = 12, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    rounds: u32,

    /// Items in progress at most in the jobs `stream` and `stages`
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    window: u32,

    /// Print one JSON object a line instead of a table
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum JobName {
    /// One round trip at a time
    Call,
    /// Many items in progress
    Stream,
    /// The same through pipelines of 1 to 8 stages and ensembles of 1 to 8 members
    Stages,
}

/// The exit code where the machine was too busy for enough rounds to count: what was had is printed.
const TOO_FEW_ROUNDS: u8 = 3;

fn main() -> ExitCode {
    match compare(&Arguments::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(TOO_FEW_ROUNDS),
        Err(error) => {
            eprintln!("compare: {}", with_causes(&error));
            ExitCode::FAILURE
        }
    }
}

/// Prints the report of every job; whether enough rounds counted in each.
fn compare(arguments: &Arguments) -> Result<bool, Error> {
    let cpus = CpuPair::allowed()?;
    let rounds = arguments.rounds as usize;
    let mut out = io::stdout();
    let mut complete = true;
    let mut rows = Vec::new();
    for job in arguments.jobs() {
        let peers = arguments.peers(job);
        // In a thread of its own, so that being pinned ends with the job: the partners of the next one are
        // started from a thread that may use every CPU.
        let outcome = thread::scope(|scope| {
            let finished = scope.spawn(|| run_job(job, &peers, cpus, rounds)).join();
            finished.unwrap_or_else(|panic| resume_unwind(panic))
        })?;
        if let Some(shortfall) = &outcome.shortfall {
            eprintln!("compare: {shortfall}");
            complete = false;
        }
        let of_job = report::rows(&outcome);
        if arguments.json {
            out.write_all(report::json(&of_job).as_bytes())
                .and_then(|()| out.flush())
                .map_err(Error::Print)?;
        }
        rows.extend(of_job);
    }
    if !arguments.json {
        out.write_all(report::table(&rows).as_bytes()).map_err(Error::Print)?;
    }
    Ok(complete)
}

fn run_job(job: Job, peers: &[Peer], cpus: CpuPair, rounds: usize) -> Result<match_up::Outcome, Error> {
    let mut raw = Raw::start(cpus)?;
    let mut contestants: Vec<Box<dyn Contestant>> = match job {
        Job::Stages { .. } => stages::start(job, cpus)?,
        _ => peers.iter().map(|peer| peer.start(job, cpus)).collect::<Result<_, Error>>()?,
    };
    pin_to(cpus.client)?;
    let mut progress_line = ProgressLine::new();
    match_up::run(job, &mut raw, &mut contestants, rounds, |progress| progress_line.show(progress))
}

impl Arguments {
    /// The jobs named, each once, or all of them if none was named.
    fn jobs(&self) -> Vec<Job> {
        JobName::value_variants()
            .iter()
            .filter(|name| self.jobs.is_empty() || self.jobs.contains(name))
            .map(|name| match name {
                JobName::Call => Job::Call,
                JobName::Stream => Job::Stream { window: self.window },
                JobName::Stages => Job::Stages { window: self.window },
            })
            .collect()
    }

    /// The peers named, each once, or all that have a part in `job` if none was named.
    fn peers(&self, job: Job) -> Vec<Peer> {
        let wanted = |peer: &Peer| match self.peers.is_empty() {
            true => peer.has_a_part_in(job),
            false => self.peers.contains(peer),
        };
        Peer::ALL.into_iter().filter(wanted).collect()
    }
}

/// One line on a terminal's standard error that is written over and over; nothing elsewhere.
struct ProgressLine {
    on: bool,
}

/// Back to the start of the line, and clear it.
const REWIND: &str = "\r\x1b[2K";

impl ProgressLine {
    fn new() -> Self {
        Self { on: io::stderr().is_terminal() }
    }

    fn show(&mut self, progress: Progress) {
        let Progress { job, round, raw_ns, leading: (regime, counted), wanted } = progress;
        self.write(format_args!(
            "{REWIND}{job}: round {round}, raw {raw_ns:.0} ns, {counted} of {wanted} rounds count ({regime})"
        ));
    }

    /// A progress line that cannot be written is no reason to stop measuring.
    fn write(&mut self, text: std::fmt::Arguments<'_>) {
        let mut err = io::stderr();
        if self.on && err.write_fmt(text).and_then(|()| err.flush()).is_err() {
            self.on = false;
        }
    }
}

impl Drop for ProgressLine {
    fn drop(&mut self) {
        self.write(format_args!("{REWIND}"));
    }
}

fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
