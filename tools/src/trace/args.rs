//! The options of `shmtool trace`, and its help.

use super::Choice;
use crate::help::listed;
use crate::values::SegmentArg;
use ringmill_shm::trace::{HopEnd, RequestEnd};

const HELP: &str = "\
A request is traced if it is timed, as each is where there are few, or if its
caller gives it a trace context that is sampled. The segment keeps the traces
of the last ones, also when its server hangs or has died.

Below each request stand the workers that took it, or a branch of it, in that
order. In ring: from when it was put into the servlet's ring until the worker
took it. In call: while the worker's code ran. A worker that died is noticed
a little later. In the bar, dots are the time in the ring.

With --chrome it prints what Perfetto (https://ui.perfetto.dev) and Chrome's
about:tracing open: a process for the requests and one for each servlet, in it
a thread for each worker.

JSON:
  name, path, state, run
                    as for list
  kept              traces that the segment keeps
  traced            requests that were traced since the server's start
  traces            in the order in which they began; with --slowest by
                    total_ns; each with
    number          among all traces, from 0
    request         the request's id
    generation      how often that was used, modulo 65536
    trace_id, span_id, parent_id
                    in hexadecimal, as in a traceparent (parent_id null: its
                    caller gave no context)
    flags           of its context; 1: sampled
    weight          for how many requests it stands (null: it was traced only
                    because its caller asked for it)
    age_s           seconds since it was sent
    total_ns        until its caller had the outcome, or went (null: not yet)
    end             {requests} (null: not yet)
    hops            servlet, worker, pid, branch (0: the request itself),
                    attempt (workers that had died before at it), span_id;
                    since the request was sent: queued_ns, taken_ns, begun_ns
                    (null: the worker's code has not seen it), ended_ns
                    (null: not yet);
                    end: {hops}
                    (null: not yet)
    hops_missing    hops for which there was no room, or whose worker died
                    before it had written them

Examples:
  shmtool trace digits
  shmtool trace digits --slowest --last 3
  shmtool trace digits --chrome > trace.json
  shmtool trace digits --json | jq '.traces[] | select(.total_ns > 1e6)'";

/// The options of `trace`.
#[derive(Debug, clap::Args)]
#[command(after_long_help = help())]
pub(crate) struct TraceArgs {
    #[command(flatten)]
    pub(crate) segment: SegmentArg,
    /// At most so many; else all that are kept, as text 10.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    last: Option<u32>,
    /// Those that took longest, the longest first.
    #[arg(long)]
    slowest: bool,
    /// Print the format of Chrome's trace viewer and of Perfetto.
    #[arg(long, conflicts_with = "json")]
    chrome: bool,
}

impl TraceArgs {
    pub(crate) fn choice(&self) -> Choice {
        Choice { count: self.last.map(|count| count as usize), slowest: self.slowest, chrome: self.chrome }
    }
}

fn help() -> String {
    HELP.replace("{requests}", &listed(RequestEnd::ALL.iter().map(|end| end.name())))
        .replace("{hops}", &listed(HopEnd::ALL.iter().map(|end| end.name())))
}
