//! The options of `shmtool top`, and its help.

use crate::values::{SegmentArg, period};
use std::time::Duration;

const HELP: &str = "\
Keys:
  q, Ctrl-C    end
  p, space     pause: keep what is shown; again: go on
  +, -         look less often, more often
  s            sort workers by name, busy, items a second
  up, down     select a worker; scroll requests (also k, j)
  Enter        the selected worker: counters, CPUs, requests; Esc: back
  r            the requests in progress, the oldest first; again: back
  ?            help

Numbers are of the last interval, and at first since the server's start.
Times are of a sample where there is much to do; a worker is busy while its
code runs, and a run counts when it ends. In call, reading (it holds the
servlet's reader lock): for how long, as far as it is known.

When the server ends, the last look stays on the screen until q.

top needs a terminal with a screen, of 60 columns and 16 rows at least; with
NO_COLOR set it uses no colours. It has no JSON: 'shmtool stats --json
--interval 1s' has the same numbers.

Exit status:
  0  fine
  1  the server has ended
  2  no terminal with a screen, no such segment, or another error

Examples:
  shmtool top digits
  shmtool top digits --interval 200ms
  ssh -t host shmtool top digits";

/// The options of `top`.
#[derive(Debug, clap::Args)]
#[command(after_long_help = HELP)]
pub(crate) struct TopArgs {
    #[command(flatten)]
    pub(crate) segment: SegmentArg,
    /// Look again after this time, such as 500ms or 1min.
    #[arg(long, value_name = "TIME", value_parser = period, default_value = "1s")]
    pub(crate) interval: Duration,
}
