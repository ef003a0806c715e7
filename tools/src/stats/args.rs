//! The options of `shmtool stats`, and its help.

use crate::help::wrapped;
use crate::values::{SegmentArg, period};
use ringmill_shm::stats::{CallerCounter, CallerHistogram, Counter, ServerCounter, WorkerHistogram};
use std::net::SocketAddr;
use std::time::Duration;

const HELP: &str = "\
All is counted from the server's start, or within each --interval. Times are of
a sample where there is much to do: each sampled request or run stands for
several, so counts of times are estimates. A worker is busy while its code runs;
a run counts when it ends. Of a dead server the time ends with the last news of
it, which a server gives every second. The least and greatest values are those
since the start.

With --interval and --json, each line is a document. The command ends with the
server, with status 1.

With --listen, the first line of standard output says where. The server need
not be there yet, and may start again: ringmill_up is 1 while it lives, and
else 0, without other metrics. SIGINT and SIGTERM end the command, with status
0. Standard error says if there is no server, and when a scrape finds that it
has come or gone. There is no encryption and no password.

JSON:
  name, path, state, run
                    as for list
  period_s          the seconds of which all numbers are
  capacity          requests that can be in progress
  in_progress       requests that are
  findings          what limits the server, one entry each, with kind (stopped,
                    cpus_taken, refused, permit_waits, bottleneck,
                    small_batches, batch_wait, shared_cpu, deaths), about (a
                    servlet or worker; null: the server), text (in words)
  requests          how requests ended:
{callers}
   ended            Requests that have ended, in whatever way.
   total_time       {total_time}
                    each distribution has unit (ns or items), count, sum,
                    mean, p50, p90, p99, p999, max (since the start)
  deaths            of workers:
{deaths}
  servlets          name, depth (items in its ring), workers (its threads that
                    are ready), busy (part of the time in which they run code,
                    0 to 1; null: nothing is timed), and:
   counters         of its workers:
{counters}
   batch_size       {batch_size}
   batch_wait       {batch_wait}
   queue_time       {queue_time}
   run_time         {run_time}
  workers           servlet, worker, thread, pid, busy, items, batches; one
                    entry a thread

Examples:
  shmtool stats digits
  shmtool stats digits --interval 1s
  shmtool stats digits --prometheus
  shmtool stats digits --listen 127.0.0.1:9464
  shmtool stats digits --json | jq '.requests.total_time.p99'";

/// The options of `stats`.
#[derive(Debug, clap::Args)]
#[command(after_long_help = help())]
pub(crate) struct StatsArgs {
    #[command(flatten)]
    pub(crate) segment: SegmentArg,
    /// Count within this time, such as 500ms or 1min, again and again.
    #[arg(long, value_name = "TIME", value_parser = period)]
    pub(crate) interval: Option<Duration>,
    /// Print all since the start in Prometheus' text format.
    #[arg(long, conflicts_with_all = ["interval", "json"])]
    pub(crate) prometheus: bool,
    /// Answer Prometheus at http://ADDRESS/metrics, such as 127.0.0.1:9464.
    #[arg(long, value_name = "ADDRESS", value_parser = address, conflicts_with_all = ["interval", "json", "prometheus"])]
    pub(crate) listen: Option<SocketAddr>,
    /// Let --listen take an address that other machines can reach.
    #[arg(long, requires = "listen")]
    pub(crate) beyond_loopback: bool,
    /// End after so many of them; else with the server.
    #[arg(long, value_name = "N", requires = "interval", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) count: Option<u64>,
}

fn address(text: &str) -> Result<SocketAddr, &'static str> {
    text.parse().map_err(|_| "it is an IP address and a port, such as 127.0.0.1:9464 or [::1]:9464")
}

impl StatsArgs {
    /// Once, all since the start.
    pub(crate) fn since_start(name: &str) -> Self {
        Self {
            segment: name.into(),
            interval: None,
            prometheus: false,
            listen: None,
            beyond_loopback: false,
            count: None,
        }
    }
}

fn help() -> String {
    let rows = |all: &mut dyn Iterator<Item = (&'static str, &'static str)>| {
        all.map(|(name, help)| wrapped(&format!("   {name:<17}"), help)).collect::<Vec<_>>().join("\n")
    };
    let callers = rows(&mut CallerCounter::ALL.iter().map(|c| (c.words().name, c.words().help)));
    let deaths = rows(&mut ServerCounter::ALL.iter().map(|c| (c.words().name, c.words().help)));
    let mut counters: Vec<_> = Counter::ALL.iter().map(|c| (c.words().name, c.words().help)).collect();
    counters.push(("batch_mean", "Items a batch; 0 before the first."));
    let mut text = HELP
        .replace("{callers}", &callers)
        .replace("{deaths}", &deaths)
        .replace("{counters}", &rows(&mut counters.into_iter()));
    let total = CallerHistogram::ALL.map(|h| h.words());
    let of_workers = WorkerHistogram::ALL.map(|h| h.words());
    for words in total.into_iter().chain(of_workers) {
        let line = format!("   {:<17}{{{}}}", words.name, words.name);
        text = text.replace(&line, &wrapped(&format!("   {:<17}", words.name), words.help));
    }
    text
}
