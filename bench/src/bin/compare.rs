//! ringmill and its rivals in one run, as ratios to the bare cache-line ping-pong.

use std::fmt;
use std::io::{self, IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use ringmill_bench::Error;
use ringmill_bench::jobs::{self, Audience, Job, Only, Session};
use ringmill_bench::peers::frames::Change;
use ringmill_bench::peers::mpservice::Environment;
use ringmill_bench::peers::ringmill::Echo;
use ringmill_bench::peers::ringmill_batch::DeviceWorker;
use ringmill_bench::peers::ringmill_bulk::Sum;
use ringmill_bench::peers::stages::Stage;
use ringmill_bench::peers::{self, Peer};
use ringmill_bench::pin::CpuPair;
use ringmill_bench::plot::{Folder, Measured, Run};
use ringmill_bench::priority::{Priority, Realtime};
use ringmill_bench::report::{self, Row};

ringmill::init!(Echo<1>, Echo<8>, Echo<128>, Stage, Sum, Change, DeviceWorker);

/// Compares ringmill with its rivals.
///
/// Short slices of every contestant alternate with readings of a bare cache-line ping-pong between the same
/// two CPUs (raw). A slice counts only if the readings before and after it differ by at most 20%. compare
/// prints medians of the ratio to raw and their quartiles, by regime: the cost of a cache line depends on
/// where the machine puts the two CPUs, and figures of different regimes cannot be compared.
///
/// Every item is as large as its answer, written, read and checked on both sides; 64 bytes by default. All
/// jobs take some minutes on a quiet machine, and up to twenty times as long on a busy one, where most slices
/// do not count; --rounds makes it shorter. The two CPUs are the first two that the process may use; taskset
/// chooses others.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// Job to run; may be repeated [default: all jobs]
    #[arg(long = "job", value_name = "JOB")]
    jobs: Vec<Job>,

    /// Peer to measure; may be repeated. A job leaves out peers that have no part in it [default: all but mpservice]
    #[arg(long = "peer", value_name = "PEER", value_parser = Peer::parser())]
    peers: Vec<Peer>,

    /// How many rounds must count, for every peer in one regime; or how often something is measured
    #[arg(long, default_value_t = 12, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    rounds: u32,

    /// Only payloads of this many bytes; jobs that have none are left out
    #[arg(long, value_name = "BYTES")]
    payload: Option<u32>,

    /// Only at most this many items in progress [default: 16 to 65536 in `stream`, 1 and 8 in `bulk`, 4 in `frames`, 256 elsewhere]
    #[arg(long, value_name = "ITEMS", value_parser = clap::value_parser!(u32).range(1..=65_536))]
    window: Option<u32>,

    /// Only this many calling threads in `stream`, each with a window of its own, beside one [default: 1, 2, 4, 8]
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(1..=64))]
    threads: Option<u32>,

    /// Only this many workers in `stream`, beside one, and in `batch` [default: 1, 2, 4]
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(1..=64))]
    workers: Option<u32>,
    /// Requests a second in the jobs `latency`, `batch` and `wake` [default: 1,000 and several more]
    #[arg(long, value_name = "REQUESTS", value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    rate: Option<u32>,

    /// Whether to ask for real-time priority, for all threads and processes: then figures hold on a machine that is busy with
    /// something else, which stands still meanwhile
    #[arg(long, value_enum, value_name = "WHEN", default_value_t)]
    realtime: Realtime,

    /// Print one JSON object a line instead of tables
    #[arg(long)]
    json: bool,

    /// Also draw the results as they come: pictures and a page, into this folder
    #[arg(long, value_name = "DIR")]
    report: Option<PathBuf>,

    /// Measure nothing, but draw former results: the folder of a report, or a file of such JSON; may be
    /// repeated; of two rows of the same point the later one is drawn
    #[arg(long, value_name = "PATH", requires = "report")]
    #[arg(conflicts_with_all = ["jobs", "peers", "rounds", "payload", "window", "threads", "workers", "json"])]
    from: Vec<PathBuf>,
}

/// The features of this package that this program was built with: they are part of the command that a report names.
const FEATURES: &[&str] = &[
    #[cfg(feature = "rivals")]
    "rivals",
    #[cfg(feature = "aeron")]
    "aeron",
];

/// The exit code if the machine was too busy for enough rounds to count; the rows there are have been printed.
const TOO_FEW_ROUNDS: u8 = 3;

fn main() -> ExitCode {
    peers::begin();
    jobs::begin();
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
    let folder = arguments.report.as_deref().map(Folder::open).transpose()?;
    if let (Some(folder), false) = (&folder, arguments.from.is_empty()) {
        let mut measured = Measured::default();
        for path in &arguments.from {
            measured.add(Measured::read(path)?);
        }
        folder.write(&measured.rows, &measured.runs)?;
        return Ok(true);
    }
    arguments.peers.iter().try_for_each(|peer| peer.ensure_built())?;
    let cpus = CpuPair::allowed()?;
    // Made once, for all jobs.
    let needs_python = arguments.peers.iter().any(|peer| peer.needs_python());
    let _environment = needs_python.then(Environment::shared).transpose()?;
    let priority = Priority::take(arguments.realtime)?; // before threads are started, which inherit it
    let mut reporter = Reporter::new(arguments.json, folder, &priority);
    eprintln!("compare: measures with {priority}");
    let jobs: Vec<Job> = arguments.jobs().collect();
    for (number, job) in (1..).zip(&jobs) {
        reporter.progress.job = format!("{number}/{} ", jobs.len());
        let mut session = Session {
            cpus,
            rounds: arguments.rounds as usize,
            peers: &arguments.peers,
            only: Only {
                payload_bytes: arguments.payload,
                window: arguments.window,
                threads: arguments.threads,
                workers: arguments.workers,
                rate_per_s: arguments.rate,
            },
            audience: &mut reporter,
        };
        let done = job.run(&mut session);
        // Rows from before an error are worth showing.
        reporter.end_job()?;
        done?;
    }
    if reporter.is_empty { Err(Error::Nothing) } else { Ok(reporter.complete) }
}

impl Arguments {
    /// The jobs named, each once, or all of them if none was named.
    fn jobs(&self) -> impl Iterator<Item = Job> {
        Job::ALL.into_iter().filter(|job| self.jobs.is_empty() || self.jobs.contains(job))
    }
}

/// Prints rows as they come, or a table after each job.
struct Reporter {
    json: bool,
    progress: ProgressLine,
    /// Rows for the table of this job.
    rows: Vec<Row>,
    folder: Option<Folder>,
    /// All rows, for the folder.
    measured: Measured,
    /// Whether nothing has been printed yet.
    is_empty: bool,
    /// Whether all that was asked for could be measured.
    complete: bool,
}

impl Reporter {
    fn new(json: bool, folder: Option<Folder>, priority: &Priority) -> Self {
        Self {
            json,
            progress: ProgressLine::new(),
            rows: Vec::new(),
            folder,
            measured: Measured { rows: Vec::new(), runs: vec![Run::this(FEATURES, priority)] },
            is_empty: true,
            complete: true,
        }
    }

    /// Prints the table of the job that has ended.
    fn end_job(&mut self) -> Result<(), Error> {
        let rows = std::mem::take(&mut self.rows);
        if rows.is_empty() {
            return Ok(());
        }
        let between = if self.is_empty { "" } else { "\n" };
        self.print(&format!("{between}{}", report::table(&rows)))
    }

    fn print(&mut self, text: &str) -> Result<(), Error> {
        self.progress.clear();
        self.is_empty = false;
        let mut out = io::stdout();
        out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(Error::Print)
    }
}

impl Audience for Reporter {
    fn progress(&mut self, line: fmt::Arguments<'_>) {
        self.progress.show(line);
    }

    fn rows(&mut self, rows: &[Row]) -> Result<(), Error> {
        if let Some(folder) = &self.folder {
            self.measured.rows.extend_from_slice(rows);
            folder.write(&self.measured.rows, &self.measured.runs)?;
        }
        if self.json {
            return self.print(&report::json(rows));
        }
        self.rows.extend_from_slice(rows);
        Ok(())
    }

    fn shortfall(&mut self, line: fmt::Arguments<'_>) {
        self.progress.clear();
        eprintln!("compare: {line}");
        self.complete = false;
    }
}

/// One line on a terminal's standard error that is written over and over; nothing elsewhere.
struct ProgressLine {
    on: bool,
    /// Which job this is, of how many.
    job: String,
}

/// Back to the start of the line, and clear it.
const REWIND: &str = "\r\x1b[2K";

impl ProgressLine {
    fn new() -> Self {
        Self { on: io::stderr().is_terminal(), job: String::new() }
    }

    fn show(&mut self, line: fmt::Arguments<'_>) {
        let job = std::mem::take(&mut self.job);
        self.write(format_args!("{REWIND}{job}{line}"));
        self.job = job;
    }

    fn clear(&mut self) {
        self.write(format_args!("{REWIND}"));
    }

    /// A progress line that cannot be written is no reason to stop measuring.
    fn write(&mut self, text: fmt::Arguments<'_>) {
        let mut err = io::stderr();
        if self.on && err.write_fmt(text).and_then(|()| err.flush()).is_err() {
            self.on = false;
        }
    }
}

impl Drop for ProgressLine {
    fn drop(&mut self) {
        self.clear();
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
