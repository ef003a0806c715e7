//! `shmtool bench`: how much load a server takes.

pub(crate) mod args;
mod demo;
mod levels;
mod load;

use crate::ending::Signals;
use crate::error::ToolError;
use crate::output::{self, Page, Report, Verdict};
use crate::units;
use args::BenchArgs;
pub use demo::Demo;
use indicatif::{ProgressBar, ProgressStyle};
use levels::{Outcome, Search};
use load::{Seen, Spacing};
use ringmill::Server;
use ringmill::stats::ServerStats;
use ringmill_shm::text::shown;
use serde::Serialize;
use std::fs;
use std::time::Duration;

/// Below this part of the rate that was asked for, the server did not keep up.
const KEPT_UP: f64 = 0.95;

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
    measurements: Vec<Measured>,
    /// The highest level within the threshold.
    best: Option<f64>,
    /// A signal ended it early.
    is_cut: bool,
}

/// A level, and what was seen there.
#[derive(Debug, Clone, Serialize)]
struct Measured {
    level: f64,
    throughput_per_s: f64,
    ended: u64,
    errors: u64,
    unsent: u64,
    keeps_up: bool,
    within_threshold: bool,
    mean_ns: f64,
    p50_ns: u64,
    p90_ns: u64,
    p95_ns: u64,
    p99_ns: u64,
    p999_ns: u64,
    max_ns: u64,
    /// How late requests were sent.
    late_p99_ns: u64,
    /// Items a batch.
    batch_mean: f64,
}

/// Drives load; returns the text, and the status.
pub(crate) fn bench(args: &BenchArgs, json: bool) -> Result<(String, Verdict), ToolError> {
    if let Some(name) = &args.name {
        return Err(ToolError::NoClient(name.clone()));
    }
    let signals = Signals::catch()?;
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
        percentile: args.percentile,
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
        progress.set_message(format!("{} {number} at {}; Ctrl-C ends", benched.mode, benched.name));
        let level = args.level(number);
        let before = server.stats();
        let times = [args.warm_up, args.measurement_interval];
        let seen = load::load(&server, &payload, level, times, |time| signals.wait(time));
        benched.is_cut = seen.is_cut;
        if seen.is_cut {
            break;
        }
        let measured = Measured::of(args, number, &seen, batch_mean(&server, &before));
        if let Some(error) = &seen.first_error {
            progress.suspend(|| eprintln!("shmtool: {} of {number}: {}", benched.mode, shown(error)));
        }
        let outcome = if measured.is_fine(args) { Outcome::Within } else { Outcome::Above };
        search.saw(number, outcome);
        if outcome == Outcome::Within {
            benched.best = Some(benched.best.unwrap_or(0.0).max(number));
        }
        benched.measurements.push(measured);
    }
    progress.finish_and_clear();
    drop(server);
    benched.measurements.sort_by(|a, b| a.level.total_cmp(&b.level));
    if let Some(file) = &args.csv {
        let system = |error| ToolError::System { what: "write", path: file.clone(), error };
        fs::write(file, csv(&benched)).map_err(system)?;
    }
    let text = if json { output::json(&benched)? } else { benched.text(Page::of_stdout()) };
    Ok((text, benched.verdict()))
}

/// Items a batch since then.
fn batch_mean(server: &Server<Vec<u8>, Vec<u8>>, before: &ServerStats) -> f64 {
    let sum = |stats: &ServerStats| {
        let counters =
            stats.servlets.iter().flat_map(|servlet| &servlet.workers).map(|worker| worker.counters);
        counters.fold((0, 0), |(items, batches), of| (items + of.items, batches + of.batches))
    };
    let ((items, batches), (items_before, batches_before)) = (sum(&server.stats()), sum(before));
    match batches - batches_before {
        0 => 0.0,
        count => (items - items_before) as f64 / count as f64,
    }
}

impl Measured {
    fn of(args: &BenchArgs, level: f64, seen: &Seen, batch_mean: f64) -> Self {
        let at = |percent| seen.latencies.value_at_percentile(percent);
        let throughput_per_s = seen.ended as f64 / seen.time.as_secs_f64();
        let keeps_up = match args.request_rate_range {
            Some(_) => throughput_per_s >= KEPT_UP * level && seen.unsent == 0,
            None => true,
        };
        let judged = Duration::from_nanos(at(args.percentile));
        Self {
            level,
            throughput_per_s,
            ended: seen.ended,
            errors: seen.errors,
            unsent: seen.unsent,
            keeps_up,
            within_threshold: args
                .latency_threshold
                .is_none_or(|limit| judged <= limit && !seen.latencies.is_empty()),
            mean_ns: seen.latencies.mean(),
            p50_ns: at(50.0),
            p90_ns: at(90.0),
            p95_ns: at(95.0),
            p99_ns: at(99.0),
            p999_ns: at(99.9),
            max_ns: seen.latencies.max(),
            late_p99_ns: seen.lateness.value_at_percentile(99.0),
            batch_mean,
        }
    }

    /// Whether a higher level may be tried: of a plain list of levels, each.
    fn is_fine(&self, args: &BenchArgs) -> bool {
        args.latency_threshold.is_none() || self.within_threshold && self.keeps_up && self.errors == 0
    }
}

/// The columns: a heading, and each level's cell for people and for a table that programs read.
type Column = (&'static str, fn(&Measured) -> String, &'static str, fn(&Measured) -> String);

const COLUMNS: [Column; 12] = [
    (
        ">requests/s",
        |m| units::rate(m.throughput_per_s),
        "throughput_per_s",
        |m| m.throughput_per_s.to_string(),
    ),
    (">mean", |m| units::nanoseconds(m.mean_ns), "mean_ns", |m| m.mean_ns.to_string()),
    (">p50", |m| units::nanoseconds(m.p50_ns as f64), "p50_ns", |m| m.p50_ns.to_string()),
    (">p90", |m| units::nanoseconds(m.p90_ns as f64), "p90_ns", |m| m.p90_ns.to_string()),
    (">p95", |m| units::nanoseconds(m.p95_ns as f64), "p95_ns", |m| m.p95_ns.to_string()),
    (">p99", |m| units::nanoseconds(m.p99_ns as f64), "p99_ns", |m| m.p99_ns.to_string()),
    (">p99.9", |m| units::nanoseconds(m.p999_ns as f64), "p999_ns", |m| m.p999_ns.to_string()),
    (">max", |m| units::nanoseconds(m.max_ns as f64), "max_ns", |m| m.max_ns.to_string()),
    (">late p99", |m| units::nanoseconds(m.late_p99_ns as f64), "late_p99_ns", |m| m.late_p99_ns.to_string()),
    (">batch", |m| format!("{:.1}", m.batch_mean), "batch_mean", |m| m.batch_mean.to_string()),
    (">errors", |m| units::number(m.errors), "errors", |m| m.errors.to_string()),
    (">unsent", |m| units::number(m.unsent), "unsent", |m| m.unsent.to_string()),
];

fn csv(benched: &Benched) -> String {
    let line = |cells: Vec<String>| cells.join(",") + "\n";
    let head = std::iter::once(benched.mode.to_string()).chain(COLUMNS.map(|(.., name, _)| name.to_string()));
    let rows = benched.measurements.iter().map(|of| {
        let cells = COLUMNS.map(|(.., cell)| cell(of));
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
        for of in self.measurements.iter().filter(|of| !of.keeps_up) {
            text += &page.paragraph(
                &format!("at {} requests a second the server, or this host, did not keep up: latencies grow with time", of.level),
                0,
            );
        }
        if let Some(limit) = self.latency_threshold_ns {
            let limit = format!("p{} within {}", self.percentile, units::nanoseconds(limit as f64));
            let told = match self.best {
                Some(best) => format!("the highest {} with {limit}: {best}", self.mode.replace('_', " ")),
                None => format!("no level has {limit}"),
            };
            text += &page.paragraph(&told, 0);
        }
        if self.is_cut {
            text += "a signal ended it early\n";
        }
        text
    }

    fn verdict(&self) -> Verdict {
        match self.latency_threshold_ns {
            Some(_) if self.best.is_none() && !self.is_cut => Verdict::Wrong,
            _ => Verdict::Fine,
        }
    }
}
