//! `shmtool record`: samples of a server's statistics over time, in a file.
//!
//! # Layout
//!
//! ```text
//! {"format": "shmtool-record", "version": 1, …}   what is recorded
//! {"time_unix_s": …, …}                           a sample: what `stats --interval --json` prints of one period
//! ```
//!
//! A line is a JSON document, and is written by one call of the system.
//!
//! # Crash
//!
//! A recorder that dies as it writes leaves a last line that is cut. `report` leaves it out.

pub(crate) mod args;

use crate::ending::{Ending, Signals};
use crate::error::ToolError;
use crate::output::{self, Page, Report, Verdict};
use crate::stats::{Moment, Stats};
use crate::survey::Survey;
use crate::units;
use args::RecordArgs;
use indicatif::{ProgressBar, ProgressStyle};
use ringmill_shm::text::shown_path;
use serde::{Deserialize, Serialize};
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// What every record begins with.
pub(crate) const FORMAT: &str = "shmtool-record";
/// Of the meaning of its lines.
pub(crate) const VERSION: u32 = 1;

/// The first line.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Head {
    pub(crate) format: String,
    pub(crate) version: u32,
    /// The server.
    pub(crate) name: String,
    pub(crate) started_unix_s: f64,
    /// The time between two samples.
    pub(crate) interval_s: f64,
    /// The version of shmtool.
    pub(crate) shmtool: String,
}

/// A line of a period.
#[derive(Serialize)]
struct Sample {
    time_unix_s: f64,
    #[serde(flatten)]
    stats: Stats,
}

#[derive(Debug, Serialize)]
struct Recorded {
    name: String,
    file: String,
    samples: u64,
    seconds: f64,
    ended_by: Ending,
}

impl Report for Recorded {
    fn text(&self, page: Page) -> String {
        let Self { name, file, .. } = self;
        let (samples, time) = (units::count(self.samples as usize, "sample"), units::seconds(self.seconds));
        let why = match self.ended_by {
            Ending::Time => "",
            Ending::Signal => ", until a signal came",
            Ending::Server => ", until the server ended",
        };
        let said = format!("recorded {samples} of {name} in {time}{why}: {file}");
        page.paragraph(&said, 0)
            + &page.paragraph(&format!("'shmtool report {file} -o page.html' draws them"), 0)
    }

    fn verdict(&self) -> Verdict {
        if self.ended_by == Ending::Server { Verdict::Wrong } else { Verdict::Fine }
    }
}

/// Records until a time is over, a signal comes, or the server ends.
pub(crate) fn record(args: &RecordArgs, json: bool) -> Result<(String, Verdict), ToolError> {
    let (survey, segment) = Survey::open(&args.segment.name)?;
    let signals = Signals::catch()?;
    let mut file = Lines::create(&args.output)?;
    let shown_name = survey.identity(Some(&segment)).name;
    file.add(&Head {
        format: FORMAT.into(),
        version: VERSION,
        name: shown_name.clone(),
        started_unix_s: now_unix_s(),
        interval_s: args.interval.as_secs_f64(),
        shmtool: env!("CARGO_PKG_VERSION").into(),
    })?;
    let progress = progress(args.duration);
    let begun = Instant::now();
    let mut before = Moment::of(&segment);
    let mut samples = 0;
    let ended_by = loop {
        // At fixed instants, so that what a sample takes adds up to nothing.
        let number = begun.elapsed().as_nanos() / args.interval.as_nanos() + 1;
        let due = begun + args.interval * u32::try_from(number).unwrap_or(u32::MAX);
        let end = args.duration.map(|limit| begun + limit);
        let next = end.map_or(due, |end| due.min(end));
        let signalled = signals.wait(next.saturating_duration_since(Instant::now()));
        let now = Moment::of(&segment);
        let stats = Stats::of(&survey, &segment, &before, &now);
        progress.set_position(begun.elapsed().as_millis() as u64);
        progress.set_message(format!(
            "{}, {} requests/s",
            units::count(samples as usize + 1, "sample"),
            units::rate(stats.per_s(stats.requests.ended))
        ));
        file.add(&Sample { time_unix_s: now_unix_s(), stats })?;
        samples += 1;
        before = now;
        match () {
            () if !segment.lease().is_served().unwrap_or(true) => break Ending::Server,
            () if signalled => break Ending::Signal,
            () if end.is_some_and(|end| Instant::now() >= end) => break Ending::Time,
            () => {}
        }
    };
    progress.finish_and_clear();
    let seconds = begun.elapsed().as_secs_f64();
    let recorded = Recorded { name: shown_name, file: shown_path(&args.output), samples, seconds, ended_by };
    let text = if json { output::json(&recorded)? } else { recorded.text(Page::of_stdout()) };
    Ok((text, recorded.verdict()))
}

/// A bar, or a spinner where no end is known; on standard error, if that is a terminal.
fn progress(limit: Option<Duration>) -> ProgressBar {
    let (bar, style) = match limit {
        Some(limit) => (ProgressBar::new(limit.as_millis() as u64), "{elapsed} [{bar:30}] {msg}"),
        None => (ProgressBar::new_spinner(), "{elapsed} {msg}; Ctrl-C ends"),
    };
    bar.with_style(ProgressStyle::with_template(style).expect("a valid template").progress_chars("=> "))
}

fn now_unix_s() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}

/// A file of JSON documents, a line each.
struct Lines<'p> {
    file: File,
    path: &'p Path,
}

impl<'p> Lines<'p> {
    /// A new file: none is written over.
    fn create(path: &'p Path) -> Result<Self, ToolError> {
        let system = |error| ToolError::System { what: "create", path: path.into(), error };
        let file = OpenOptions::new().append(true).create_new(true).open(path).map_err(system)?;
        Ok(Self { file, path })
    }

    fn add(&mut self, line: &impl Serialize) -> Result<(), ToolError> {
        let text = output::json_line(line)?;
        let system = |error| ToolError::System { what: "write to", path: self.path.into(), error };
        self.file.write_all(text.as_bytes()).map_err(system)
    }
}
