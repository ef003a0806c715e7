//! The options of `shmtool bench`, and its help.

use super::levels::Range;
use super::load::{Level, Spacing};
use crate::values::{period, up_to, up_to_an_hour};
use clap::builder::ValueHint;
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

Levels of the range are tried from its start to its end, or to the first one at
which the percentile is above the threshold, a request failed, or the server
did not keep up. While it runs, 'shmtool top shmtool-bench' shows the demo.
Options are named as in Triton's perf_analyzer where they mean the same.

Exit status:
  0  fine
  1  no level is within the latency threshold
  2  wrong usage, or another error

JSON:
  name, workers, batch_size, batch_wait_ns, payload_bytes, work_per_item_ns
                    of the demo
  mode              concurrency, request_rate: what the levels are of
  request_distribution
                    constant, poisson (null: each follows the last one)
  latency_threshold_ns, percentile
                    by which a level is judged (null: by nothing)
  measurements      one entry a level:
    level           requests in progress, or a second
    throughput_per_s, ended
                    answers within the time
    errors, unsent  requests without an answer; that could not be sent
    keeps_up        of a rate, at least 95 % of it was answered
    within_threshold
                    the percentile is
    mean_ns, p50_ns, p90_ns, p95_ns, p99_ns, p999_ns, max_ns
                    the time of a request that was answered
    late_p99_ns     how late requests were sent
    batch_mean      items a batch
  best              the highest level within the threshold, of all if there is
                    none (null: no level is)
  is_cut            a signal ended it early
The columns of --csv are the level and those of measurements.

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
    #[arg(long, value_name = "RANGE", conflicts_with = "concurrency_range", value_parser = rate)]
    pub(crate) request_rate_range: Option<Range>,
    /// The distances of requests at a rate.
    #[arg(long, value_name = "KIND", default_value = "constant", requires = "request_rate_range")]
    pub(crate) request_distribution: Spacing,
    /// Threads that send requests at a rate.
    #[arg(long, value_name = "N", default_value_t = 32, value_parser = up_to::<1024>)]
    pub(crate) max_threads: usize,
    /// Go up to the level above which requests take longer, such as 5ms.
    #[arg(short, long, value_name = "TIME", value_parser = humantime::parse_duration)]
    pub(crate) latency_threshold: Option<Duration>,
    /// Which percentile of their times must be within the threshold.
    #[arg(long, value_name = "P", default_value_t = 99.0, value_parser = percentile)]
    pub(crate) percentile: f64,
    /// Search for that level by halving the range, to within a step.
    #[arg(long, requires = "latency_threshold")]
    pub(crate) binary_search: bool,
    /// How long each level is measured.
    #[arg(short = 'p', long, value_name = "TIME", value_parser = measured_time, default_value = "5s")]
    pub(crate) measurement_interval: Duration,
    /// How long each level runs before that.
    #[arg(long, value_name = "TIME", value_parser = up_to_an_hour, default_value = "500ms")]
    pub(crate) warm_up: Duration,
    /// Write all figures as CSV too.
    #[arg(short = 'f', long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) csv: Option<PathBuf>,
    /// Worker processes of the demo.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = up_to::<64>)]
    pub(crate) workers: usize,
    /// The most items of a batch.
    #[arg(short, long, value_name = "N", default_value_t = 64, value_parser = up_to::<65536>)]
    pub(crate) batch_size: usize,
    /// How long a batch waits for more items.
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration, default_value = "0s")]
    pub(crate) batch_wait: Duration,
    /// How long a worker works on each item, such as 50us.
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration, default_value = "0s")]
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
    match (range.end - range.start) / range.step < LEVELS {
        true => Ok(range),
        false => Err(format!("a step of {} makes more than {LEVELS} levels", range.step)),
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
