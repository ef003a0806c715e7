//! `shmtool bench`: how much load a server takes.

pub(crate) mod args;
mod demo;
pub(crate) mod levels;
pub(crate) mod load;
pub(crate) mod windows;

use crate::error::ToolError;
use crate::output::{self, Page, Report, Verdict};
use crate::units;
use args::BenchArgs;
pub use demo::Demo;
use indicatif::{ProgressBar, ProgressStyle};
use levels::{Outcome, Search};
use load::{Events, Plan, Seen};
use ringmill_load::arrivals::Spacing;
use ringmill_shm::text::shown;
use serde::Serialize;
use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::time::Duration;
use windows::{Figures, RECENT, Tally};

/// By which part of what was due the answers may fall behind while a server keeps up, besides one.
const BEHIND: f64 = 0.05;

#[derive(Debug, Serialize)]
struct Benched {
    /// The server's name while it ran.
    name: String,
    workers: usize,
    batch_size: usize,
    batch_wait_ns: u64,
    payload_bytes: usize,
    work_per_item_ns: u64,
    /// What the levels are of.
    mode: &'static str,
    /// The distances of requests; none: each follows the last one.
    request_distribution: Option<&'static str>,
    latency_threshold_ns: Option<u64>,
    /// By which percentile a level is judged.
    percentile: f64,
    /// By so many percent the last windows of a level that is stable differ.
    stability_percentage: f64,
    measurements: Vec<Measured>,
    /// The highest level within the threshold.
    best: Option<f64>,
    /// A signal ended it early.
    is_cut: bool,
}

/// A level, and what was seen in its last windows. Figures of no request, or of too few, are none.
#[derive(Debug, Clone, Serialize)]
struct Measured {
    level: f64,
    /// How many windows there were.
    windows: usize,
    /// Whether the last ones agreed; none: there were too few.
    is_stable: Option<bool>,
    /// How long the last ones were together.
    time_ns: u64,
    throughput_per_s: f64,
    ended: u64,
    errors: u64,
    unsent: u64,
    keeps_up: bool,
    /// None: there is no threshold.
    within_threshold: Option<bool>,
    mean_ns: Option<f64>,
    p50_ns: Option<u64>,
    p90_ns: Option<u64>,
    p95_ns: Option<u64>,
    p99_ns: Option<u64>,
    p999_ns: Option<u64>,
    max_ns: Option<u64>,
    /// By what the level is judged.
    percentile_ns: Option<u64>,
    /// How late requests were sent.
    late_p99_ns: Option<u64>,
    /// Items a batch.
    batch_mean: Option<f64>,
}

/// Drives load; returns the text, and the status.
pub(crate) fn bench(args: &BenchArgs, json: bool) -> Result<(String, Verdict), ToolError> {
    if let Some(name) = &args.name {
        return Err(ToolError::NoClient(name.clone()));
    }
    // Before the run: a file that cannot be written is found now.
    let file = args.csv.as_deref().map(|path| created(path).map(|file| (file, path))).transpose()?;
    let events = Events::of_signals()?;
    let range = args.range();
    let capacity = match args.request_rate_range {
        Some(_) => args.max_threads,
        None => range.end as usize,
    };
    let server = demo::start(
        &args.server_name,
        demo::Shape {
            workers: args.workers,
            batch_size: args.batch_size,
            batch_wait: args.batch_wait,
            work_per_item: args.work,
            payload_bytes: args.payload_bytes,
            capacity: capacity.max(1),
        },
    )?;
    let mut benched = Benched {
        name: shown(server.name()),
        workers: args.workers,
        batch_size: args.batch_size,
        batch_wait_ns: args.batch_wait.as_nanos() as u64,
        payload_bytes: args.payload_bytes,
        work_per_item_ns: args.work.as_nanos() as u64,
        mode: if args.request_rate_range.is_some() { "request_rate" } else { "concurrency" },
        request_distribution: args.request_rate_range.map(|_| match args.request_distribution {
            Spacing::Constant => "constant",
            Spacing::Poisson => "poisson",
        }),
        latency_threshold_ns: args.latency_threshold.map(|limit| limit.as_nanos() as u64),
        percentile: args.percentile(),
        stability_percentage: args.stability_percentage,
        measurements: Vec::new(),
        best: None,
        is_cut: false,
    };
    let progress = ProgressBar::new_spinner();
    progress.set_style(ProgressStyle::with_template("{spinner} {elapsed} {msg}").expect("a valid template"));
    progress.enable_steady_tick(Duration::from_millis(200));
    let payload: Vec<u8> = (0..args.payload_bytes).map(|index| index as u8).collect();
    let mut search = Search::new(range, args.binary_search);
    while let Some(number) = search.next() {
        let what = format!("{} {number} at {}", benched.mode, benched.name);
        let begins = |window: usize| {
            let most = args.max_trials;
            progress.set_message(format!("{what}, window {window}, {most} at the most; Ctrl-C ends"));
        };
        progress.set_message(format!("{what}, warm-up; Ctrl-C ends"));
        let plan = Plan {
            warm_up: args.warm_up,
            window: args.measurement_interval,
            trials: args.trials(),
            figures: &|tally| figures(args, tally),
            begins: &begins,
        };
        let seen = load::load(&server, &payload, args.level(number), &plan, &events);
        benched.is_cut = seen.is_cut;
        if seen.windows > 0 {
            let measured = Measured::of(args, number, &seen);
            if let Some(error) = &seen.tally.first_error {
                progress.suspend(|| output::say(&format!("{} of {number}: {error}", benched.mode)));
            }
            let outcome = if measured.is_fine(args) { Outcome::Within } else { Outcome::Above };
            if outcome == Outcome::Within && !seen.is_cut {
                benched.best = Some(benched.best.unwrap_or(0.0).max(number));
            }
            benched.measurements.push(measured);
            search.saw(outcome);
        }
        if seen.is_cut {
            break;
        }
    }
    progress.finish_and_clear();
    drop(server);
    benched.measurements.sort_by(|a, b| a.level.total_cmp(&b.level));
    if let Some((mut file, path)) = file {
        let is_plain = file.metadata().is_ok_and(|of| of.is_file());
        let cleared = if is_plain { file.set_len(0) } else { Ok(()) };
        let written = cleared.and_then(|()| file.write_all(csv(&benched).as_bytes()));
        written.map_err(|error| ToolError::System { what: "write", path: path.into(), error })?;
    }
    let text = if json { output::json(&benched)? } else { benched.text(Page::of_stdout()) };
    Ok((text, benched.verdict()))
}

/// A file to write to later; what it has stays until then.
fn created(path: &Path) -> Result<File, ToolError> {
    let file = File::options().write(true).create(true).truncate(false).open(path);
    file.map_err(|error| ToolError::System { what: "write", path: path.into(), error })
}

/// What of a window is compared with other windows.
fn figures(args: &BenchArgs, tally: &Tally) -> Figures {
    let times = &tally.times;
    let time_ns = match args.percentile {
        Some(percentile) => times.bound_ns(percentile / 100.0).map(|ns| ns as f64),
        None => times.mean_ns(),
    };
    let throughput = tally.ended as f64 / args.measurement_interval.as_secs_f64();
    let is_above = args.latency_threshold.is_some() && (!is_within(args, tally) || tally.errors > 0);
    Figures { throughput, time_ns, is_above }
}

/// Whether the percentile of the times is within the threshold.
fn is_within(args: &BenchArgs, tally: &Tally) -> bool {
    let judged = tally.times.bound_ns(args.percentile() / 100.0);
    judged.is_some_and(|ns| args.latency_threshold.is_none_or(|limit| Duration::from_nanos(ns) <= limit))
}

impl Measured {
    fn of(args: &BenchArgs, level: f64, seen: &Seen) -> Self {
        let Seen { tally, unsent, time, .. } = seen;
        let at = |quantile| tally.times.quantile_ns(quantile);
        let due = tally.sent + unsent;
        let behind = due.saturating_sub(tally.ended);
        let keeps_up =
            args.request_rate_range.is_none() || *unsent == 0 && behind as f64 <= BEHIND * due as f64 + 1.0;
        Self {
            level,
            windows: seen.windows,
            is_stable: seen.is_stable,
            time_ns: time.as_nanos() as u64,
            throughput_per_s: tally.ended as f64 / time.as_secs_f64().max(1e-9),
            ended: tally.ended,
            errors: tally.errors,
            unsent: *unsent,
            keeps_up,
            within_threshold: args.latency_threshold.map(|_| is_within(args, tally)),
            mean_ns: tally.times.mean_ns(),
            p50_ns: at(0.5),
            p90_ns: at(0.9),
            p95_ns: at(0.95),
            p99_ns: at(0.99),
            p999_ns: at(0.999),
            max_ns: tally.times.max_ns(),
            percentile_ns: tally.times.bound_ns(args.percentile() / 100.0),
            late_p99_ns: tally.lateness.quantile_ns(0.99),
            batch_mean: (seen.batches > 0).then(|| seen.items as f64 / seen.batches as f64),
        }
    }

    /// Whether a higher level may be tried: of a plain list of levels, each.
    fn is_fine(&self, args: &BenchArgs) -> bool {
        args.latency_threshold.is_none()
            || self.within_threshold == Some(true) && self.keeps_up && self.errors == 0
    }

    /// Nothing is known of the level.
    fn is_empty(&self) -> bool {
        self.ended == 0 && self.mean_ns.is_none()
    }
}

/// The columns: a heading, and each level's cell for people and for a table that programs read.
type Column = (&'static str, fn(&Measured) -> String, &'static str, fn(&Measured) -> String);

/// A figure of a cell, if there is one.
fn told<T>(figure: Option<T>, text: impl FnOnce(T) -> String, none: &str) -> String {
    figure.map_or_else(|| none.to_string(), text)
}

/// A time for people, and for programs.
fn time(ns: Option<u64>) -> String {
    told(ns, |ns| units::nanoseconds(ns as f64), "-")
}

fn plain(ns: Option<u64>) -> String {
    told(ns, |ns| ns.to_string(), "")
}

fn truth(is_so: Option<bool>) -> String {
    told(is_so, |is_so| is_so.to_string(), "")
}

const COLUMNS: [Column; 12] = [
    (
        ">requests/s",
        |m| units::rate(m.throughput_per_s),
        "throughput_per_s",
        |m| m.throughput_per_s.to_string(),
    ),
    (
        ">mean",
        |m| told(m.mean_ns, units::nanoseconds, "-"),
        "mean_ns",
        |m| told(m.mean_ns, |ns| ns.to_string(), ""),
    ),
    (">p50", |m| time(m.p50_ns), "p50_ns", |m| plain(m.p50_ns)),
    (">p90", |m| time(m.p90_ns), "p90_ns", |m| plain(m.p90_ns)),
    (">p95", |m| time(m.p95_ns), "p95_ns", |m| plain(m.p95_ns)),
    (">p99", |m| time(m.p99_ns), "p99_ns", |m| plain(m.p99_ns)),
    (">p99.9", |m| time(m.p999_ns), "p999_ns", |m| plain(m.p999_ns)),
    (">max", |m| time(m.max_ns), "max_ns", |m| plain(m.max_ns)),
    (">late p99", |m| time(m.late_p99_ns), "late_p99_ns", |m| plain(m.late_p99_ns)),
    (
        ">batch",
        |m| told(m.batch_mean, |mean| format!("{mean:.1}"), "-"),
        "batch_mean",
        |m| told(m.batch_mean, |mean| mean.to_string(), ""),
    ),
    (">errors", |m| units::number(m.errors), "errors", |m| m.errors.to_string()),
    (">unsent", |m| units::number(m.unsent), "unsent", |m| m.unsent.to_string()),
];

/// What the file has besides: whether the figures are to be trusted.
type Extra = (&'static str, fn(&Measured) -> String);

const EXTRAS: [Extra; 5] = [
    ("windows", |m| m.windows.to_string()),
    ("is_stable", |m| truth(m.is_stable)),
    ("keeps_up", |m| m.keeps_up.to_string()),
    ("within_threshold", |m| truth(m.within_threshold)),
    ("percentile_ns", |m| plain(m.percentile_ns)),
];

fn csv(benched: &Benched) -> String {
    let line = |cells: Vec<String>| cells.join(",") + "\n";
    let columns = || {
        let figures = COLUMNS.into_iter().map(|(.., name, cell)| (name, cell));
        figures.chain(EXTRAS)
    };
    let head = std::iter::once(benched.mode).chain(columns().map(|(name, _)| name)).map(str::to_string);
    let rows = benched.measurements.iter().map(|of| {
        let cells = columns().map(|(_, cell)| cell(of));
        line(std::iter::once(of.level.to_string()).chain(cells).collect())
    });
    line(head.collect()) + &rows.collect::<String>()
}

impl Report for Benched {
    fn text(&self, page: Page) -> String {
        let about = format!(
            "{}, batches of up to {} that wait {}, {} of work an item, payloads of {} bytes",
            units::count(self.workers, "worker"),
            self.batch_size,
            units::nanoseconds(self.batch_wait_ns as f64),
            units::nanoseconds(self.work_per_item_ns as f64),
            self.payload_bytes
        );
        let mut text = page.paragraph(&about, 0);
        // Only a rate has requests that are sent late, or not at all.
        let is_rate = self.request_distribution.is_some();
        let columns =
            COLUMNS.into_iter().filter(|(.., name, _)| is_rate || !["late_p99_ns", "unsent"].contains(name));
        let columns: Vec<Column> = columns.collect();
        let head = std::iter::once(format!(">{}", self.mode.replace('_', " ")));
        let headings: Vec<String> =
            head.chain(columns.iter().map(|(heading, ..)| (*heading).into())).collect();
        let rows = self.measurements.iter().map(|of| {
            let cells = columns.iter().map(|(_, cell, ..)| cell(of));
            std::iter::once(of.level.to_string()).chain(cells).collect()
        });
        text += &page.table(&headings, rows);
        let mode = self.mode.replace('_', " ");
        for of in &self.measurements {
            let (level, time) = (of.level, units::nanoseconds(of.time_ns as f64));
            let mut say = |line: String| text += &page.paragraph(&line, 0);
            if of.is_empty() {
                say(format!("at a {mode} of {level} nothing was answered within {time}"));
            }
            if !of.keeps_up {
                say(format!(
                    "at {level} requests a second the server, or this host, did not keep up: latencies grow with time"
                ));
            }
            if of.is_stable == Some(false) && of.keeps_up && !of.is_empty() {
                let percent = self.stability_percentage;
                say(format!(
                    "at a {mode} of {level} the last {RECENT} of {} windows differ by more than {percent} %",
                    of.windows
                ));
            }
        }
        if let Some(limit) = self.latency_threshold_ns {
            let limit = format!("p{} within {}", self.percentile, units::nanoseconds(limit as f64));
            let told = match self.best {
                Some(best) => format!("the highest {mode} with {limit}: {best}"),
                None => format!("no level has {limit}"),
            };
            text += &page.paragraph(&told, 0);
        }
        if self.is_cut {
            text += match self.measurements.is_empty() {
                true => "a signal ended it before anything was measured\n",
                false => "a signal ended it early\n",
            };
        }
        text
    }

    fn verdict(&self) -> Verdict {
        let is_silent = self.measurements.is_empty() || self.measurements.iter().any(Measured::is_empty);
        let is_slow = self.latency_threshold_ns.is_some() && self.best.is_none() && !self.is_cut;
        if is_silent || is_slow { Verdict::Wrong } else { Verdict::Fine }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        of: BenchArgs,
    }

    fn args(more: &[&str]) -> BenchArgs {
        Line::parse_from(["bench", "--demo"].iter().chain(more)).of
    }

    fn seen(sent: u64, ended: u64, unsent: u64) -> Seen {
        let mut tally = Tally { sent, ended, ..Tally::default() };
        (0..ended).for_each(|_| tally.times.record(1000));
        let time = Duration::from_secs(6);
        Seen { tally, unsent, time, windows: 3, is_stable: Some(true), items: 0, batches: 0, is_cut: false }
    }

    /// Symptom: at a low rate a server that answered all "did not keep up". Cause: answers were compared with the rate
    /// times the measured time, of which chance makes more or fewer due.
    #[test]
    fn answers_are_compared_with_what_was_due() {
        let args = args(&["--request-rate-range", "0.1"]);
        let keeps_up = |sent, ended, unsent| Measured::of(&args, 0.1, &seen(sent, ended, unsent)).keeps_up;
        assert!(keeps_up(0, 0, 0) && keeps_up(1, 1, 0) && keeps_up(1, 0, 0), "one may be in progress");
        assert!(keeps_up(100, 94, 0) && !keeps_up(100, 93, 0));
        assert!(!keeps_up(100, 100, 1), "what could not be sent for so long");
    }

    #[test]
    fn without_an_answer_nothing_is_within_a_threshold() {
        let args = args(&["-l", "1s"]);
        let of = Measured::of(&args, 1.0, &seen(1, 0, 0));
        assert!(of.is_empty() && of.within_threshold == Some(false) && !of.is_fine(&args));
        let of = Measured::of(&args, 1.0, &seen(9, 9, 0));
        assert_eq!((of.p50_ns, of.p99_ns, of.max_ns, of.percentile_ns), (None, None, Some(1000), Some(1000)));
        assert!(of.is_fine(&args), "too few to tell the percentile, and all were fast");
        let of = Measured::of(&self::args(&[]), 1.0, &seen(9, 9, 0));
        assert_eq!(of.within_threshold, None, "there is none");
    }
}
