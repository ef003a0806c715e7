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
use std::io::{ErrorKind, Write};
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
    survey.must_live()?;
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
        let elapsed = begun.elapsed();
        let left = args.duration.map(|limit| limit.saturating_sub(elapsed));
        let next = until_due(elapsed, args.interval);
        let signalled = signals.wait(left.map_or(next, |left| left.min(next)));
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
            () if args.duration.is_some_and(|limit| begun.elapsed() >= limit) => break Ending::Time,
            () => {}
        }
    };
    progress.finish_and_clear();
    let seconds = begun.elapsed().as_secs_f64();
    let recorded = Recorded { name: shown_name, file: shown_path(&args.output), samples, seconds, ended_by };
    let text = if json { output::json(&recorded)? } else { recorded.text(Page::of_stdout()) };
    Ok((text, recorded.verdict()))
}

/// How long until the next sample: they are due at fixed instants, so that what each takes adds up to nothing.
fn until_due(elapsed: Duration, interval: Duration) -> Duration {
    // Of any two times that the command line allows, nanoseconds fit.
    let since = (elapsed.as_nanos() % interval.as_nanos()) as u64;
    interval - Duration::from_nanos(since)
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
        let file = OpenOptions::new().append(true).create_new(true).open(path).map_err(|error| {
            let path = path.into();
            match error.kind() {
                ErrorKind::AlreadyExists => ToolError::NotWritten { path, why: "it exists already" },
                _ => ToolError::System { what: "create", path, error },
            }
        })?;
        Ok(Self { file, path })
    }

    fn add(&mut self, line: &impl Serialize) -> Result<(), ToolError> {
        let text = output::json_line(line)?;
        let system = |error| ToolError::System { what: "write to", path: self.path.into(), error };
        self.file.write_all(text.as_bytes()).map_err(system)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_due_at_multiples_of_the_interval() {
        let ms = Duration::from_millis;
        assert_eq!([0, 3, 10, 27].map(|elapsed| until_due(ms(elapsed), ms(10))), [10, 7, 10, 3].map(ms));
        let year = Duration::from_secs(366 * 86_400);
        assert_eq!(until_due(year, year), year);
        assert_eq!(until_due(500 * year + ms(3), ms(10)), ms(7), "whatever the number of samples");
    }
}
