//! The options of `shmtool bench`, and its help.

use super::levels::Range;
use super::load::Level;
use super::windows::Trials;
use crate::values::{file, period, up_to, up_to_an_hour};
use clap::builder::{PossibleValuesParser, TypedValueParser, ValueHint};
use ringmill_load::arrivals::Spacing;
use std::path::PathBuf;
use std::time::Duration;

const HELP: &str = "\
With --concurrency-range each of so many threads sends its next request when it
has the outcome of the last one. With --request-rate-range requests are due at
fixed (constant) or random (poisson) instants, and each is sent by the first
thread that is free. Its latency counts from when it was due, so one that
could not be sent in time is slow too (no coordinated omission); 'late' says
how late requests were sent, by threads that were busy or woke late. Requests
that could not be sent at all are unsent.

Each level is measured in windows, one after the other, until the requests a
second and the times of the last three (their mean, or --percentile) differ by
no more than --stability-percentage, or there were --max-trials of them; also
if the last three were all above the threshold. Its figures are those of the
last three windows together. Percentiles that fewer than ten requests exceed
are chance, and left out; of so few the threshold is compared with the next
longer time.

Levels of the range are tried from its start to its end, or to the first one at
which the percentile (--percentile, or the 99th) is above the threshold, a
request failed, or the server did not keep up. While it runs,
'shmtool top shmtool-bench' shows the demo.
Options are named as in Triton's perf_analyzer where they mean the same.

Exit status:
  0  fine
  1  no level is within the latency threshold, or nothing was answered
  2  wrong usage, or another error

JSON:
  name, workers, batch_size, batch_wait_ns, payload_bytes, work_per_item_ns
                    of the demo
  mode              concurrency, request_rate: what the levels are of
  request_distribution
                    constant, poisson (null: each follows the last one)
  latency_threshold_ns, percentile
                    by which a level is judged (null: by nothing)
  stability_percentage
                    by which the last windows of a stable level may differ
  measurements      one entry a level:
    level           requests in progress, or a second
    windows         how many windows there were
    is_stable       the last three agreed (null: there were fewer)
    time_ns         how long those were together
    throughput_per_s, ended
                    answers within that time
    errors, unsent  requests without an answer; that could not be sent
    keeps_up        of a rate, at most 5 % of what was due, and one, was not
                    answered within that time
    within_threshold
                    the percentile is (null: there is no threshold)
    mean_ns, p50_ns, p90_ns, p95_ns, p99_ns, p999_ns, max_ns
                    the time of a request that was answered (null: there were
                    too few to tell)
    percentile_ns   what is compared with the threshold (null: no answer)
    late_p99_ns     how late requests were sent (null: too few)
    batch_mean      items a batch (null: there was none)
  best              the highest level within the threshold, of all if there is
                    none (null: no level is)
  is_cut            a signal ended it early
The columns of --csv are the level and most of measurements; null is empty.

Examples:
  shmtool bench --demo
  shmtool bench --demo --concurrency-range 1:64:9 -p 1s
  shmtool bench --demo --request-rate-range 1000:200000:1000 \\
    --request-distribution poisson --latency-threshold 2ms --binary-search";

/// The options of `bench`. Those that mean what an option of Triton's perf_analyzer means have its name.
#[derive(Debug, clap::Args)]
#[command(after_long_help = HELP)]
#[command(group = clap::ArgGroup::new("server").required(true).args(["demo", "name"]))]
pub(crate) struct BenchArgs {
    /// A server that runs (which cannot be called from outside so far).
    pub(crate) name: Option<String>,
    /// Start a server that sends back what it gets, and drive load at it.
    #[arg(long)]
    pub(crate) demo: bool,
    /// Requests in progress: START, START:END or START:END:STEP.
    #[arg(long, value_name = "RANGE", default_value = "1", value_parser = concurrency)]
    pub(crate) concurrency_range: Range,
    /// Requests a second, whether or not earlier ones have ended.
    #[arg(
        long,
        value_name = "RANGE",
        conflicts_with = "concurrency_range",
        value_parser = rate
    )]
    pub(crate) request_rate_range: Option<Range>,
    /// The distances of requests at a rate.
    #[arg(
        long,
        value_name = "KIND",
        default_value = "constant",
        requires = "request_rate_range",
        value_parser = spacing()
    )]
    pub(crate) request_distribution: Spacing,
    /// Threads that send requests at a rate.
    #[arg(long, value_name = "N", default_value_t = 32, value_parser = up_to::<1024>)]
    pub(crate) max_threads: usize,
    /// Go up to the level above which requests take longer, such as 5ms.
    #[arg(short, long, value_name = "TIME", value_parser = above_zero)]
    pub(crate) latency_threshold: Option<Duration>,
    /// Judge times by this percentile, not by the 99th and the mean.
    #[arg(long, value_name = "P", value_parser = percentile)]
    pub(crate) percentile: Option<f64>,
    /// Search for that level by halving the range, to within a step.
    #[arg(long, requires = "latency_threshold")]
    pub(crate) binary_search: bool,
    /// How long each window of a level is.
    #[arg(short = 'p', long, value_name = "TIME", value_parser = measured_time, default_value = "2s")]
    pub(crate) measurement_interval: Duration,
    /// By how many percent the last windows of a level may differ.
    #[arg(short, long, value_name = "P", default_value_t = 10.0, value_parser = percentage)]
    pub(crate) stability_percentage: f64,
    /// The most windows of a level; one or two are not compared.
    #[arg(short = 'r', long, value_name = "N", default_value_t = 10, value_parser = up_to::<100>)]
    pub(crate) max_trials: usize,
    /// How long each level runs before its first window.
    #[arg(long, value_name = "TIME", value_parser = up_to_an_hour, default_value = "500ms")]
    pub(crate) warm_up: Duration,
    /// Write all figures as CSV too.
    #[arg(short = 'f', long, value_name = "FILE", value_parser = file(), value_hint = ValueHint::FilePath)]
    pub(crate) csv: Option<PathBuf>,
    /// Worker processes of the demo.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = up_to::<64>)]
    pub(crate) workers: usize,
    /// The most items of a batch.
    #[arg(short, long, value_name = "N", default_value_t = 64, value_parser = up_to::<65536>)]
    pub(crate) batch_size: usize,
    /// How long a batch waits for more items.
    #[arg(long, value_name = "TIME", value_parser = up_to_an_hour, default_value = "0s")]
    pub(crate) batch_wait: Duration,
    /// How long a worker works on each item, such as 50us.
    #[arg(long, value_name = "TIME", value_parser = up_to_an_hour, default_value = "0s")]
    pub(crate) work: Duration,
    /// Bytes of each request and of its outcome.
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = up_to::<16777216>)]
    pub(crate) payload_bytes: usize,
    /// The demo's name, or how it begins if that is taken.
    #[arg(long, value_name = "NAME", default_value = "shmtool-bench")]
    pub(crate) server_name: String,
}

impl BenchArgs {
    pub(crate) fn range(&self) -> Range {
        self.request_rate_range.unwrap_or(self.concurrency_range)
    }

    /// The percentile that is compared with the threshold.
    pub(crate) fn percentile(&self) -> f64 {
        self.percentile.unwrap_or(99.0)
    }

    pub(crate) fn trials(&self) -> Trials {
        Trials { most: self.max_trials, percent: self.stability_percentage }
    }

    /// The load of a number of the range.
    pub(crate) fn level(&self, number: f64) -> Level {
        match self.request_rate_range {
            None => Level::Concurrency(number as usize),
            Some(_) => {
                let (spacing, threads) = (self.request_distribution, self.max_threads);
                Level::Rate { per_s: number, spacing, threads }
            }
        }
    }
}

fn concurrency(text: &str) -> Result<Range, String> {
    const MOST: f64 = 1024.0;
    let range: Range = text.parse()?;
    let whole = [range.start, range.end, range.step].iter().all(|number| number.fract() == 0.0);
    match whole && range.end <= MOST {
        true => Ok(range),
        false => Err(format!("whole numbers up to {MOST} are allowed")),
    }
}

fn rate(text: &str) -> Result<Range, String> {
    const LEAST: f64 = 0.001;
    const MOST: f64 = 10_000_000.0;
    const LEVELS: f64 = 1_000.0;
    let range: Range = text.parse()?;
    if range.start < LEAST || range.end > MOST {
        return Err(format!("{LEAST} to {MOST} a second are allowed"));
    }
    match range.levels() <= LEVELS {
        true => Ok(range),
        false => Err(format!("a step of {} makes more than {LEVELS} levels", range.step)),
    }
}

fn spacing() -> impl TypedValueParser<Value = Spacing> {
    PossibleValuesParser::new(["constant", "poisson"]).map(|kind| match kind.as_str() {
        "poisson" => Spacing::Poisson,
        _ => Spacing::Constant,
    })
}

fn above_zero(text: &str) -> Result<Duration, String> {
    match up_to_an_hour(text) {
        Ok(Duration::ZERO) => Err("it must be above 0".into()),
        other => other,
    }
}

fn percentage(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(number) if number > 0.0 && number <= 1000.0 => Ok(number),
        _ => Err("it is above 0, and 1000 at most".into()),
    }
}

fn measured_time(text: &str) -> Result<Duration, String> {
    period(text).and_then(|_| up_to_an_hour(text))
}

fn percentile(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(number) if number > 0.0 && number <= 100.0 => Ok(number),
        _ => Err("it is above 0, and 100 at most".into()),
    }
}
