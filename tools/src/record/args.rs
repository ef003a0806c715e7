//! The options of `shmtool record`, and its help.

use crate::values::{SegmentArg, file, period};
use clap::builder::ValueHint;
use std::path::PathBuf;
use std::time::Duration;

const HELP: &str = "\
Each line of the file is a JSON document. The first has format
(shmtool-record), version (1), name, started_unix_s, interval_s and shmtool
(its version). Each of the others has time_unix_s, the end of its period, and
the fields of 'shmtool stats --json' for that period. A line is written at
once; if record dies meanwhile, the last one is cut, and report leaves it out.

SIGINT and SIGTERM end it in order. Standard error shows the progress, if it
is a terminal.

Exit status:
  0  fine
  1  the server has ended; what it did is recorded
  2  no such segment, a dead server, the file exists, or another error

JSON:
  name, file        what was recorded, and where
  samples, seconds  how many, and over which time
  ended_by          time, signal, server

Examples:
  shmtool record digits -o digits.jsonl --for 10min
  shmtool record digits -o digits.jsonl --interval 100ms";

/// The options of `record`.
#[derive(Debug, clap::Args)]
#[command(after_long_help = HELP)]
pub(crate) struct RecordArgs {
    #[command(flatten)]
    pub(crate) segment: SegmentArg,
    /// The file to write; there must be none of this name.
    #[arg(short, long, value_name = "FILE", value_parser = file(), value_hint = ValueHint::FilePath)]
    pub(crate) output: PathBuf,
    /// The time between two samples, such as 500ms or 1min.
    #[arg(long, value_name = "TIME", value_parser = period, default_value = "1s")]
    pub(crate) interval: Duration,
    /// End after this time, such as 10min; else with the server or a signal.
    #[arg(long = "for", value_name = "TIME", value_parser = period)]
    pub(crate) duration: Option<Duration>,
}
