//! The options of `shmtool report`, and its help.

use crate::values::file;
use clap::builder::ValueHint;
use std::path::PathBuf;

const HELP: &str = "\
The page has pictures of rates, times, batches, queues and of how busy each
servlet is, with a mark where a worker died. It is one file that loads nothing.
Of many samples several are drawn as one.

JSON:
  name, page        what was recorded, and the file
  samples, seconds, from_unix_s, deaths
                    of the record
  last_line_cut     its last line has no end, and is left out

Examples:
  shmtool report digits.jsonl -o digits.html";

/// The options of `report`.
#[derive(Debug, clap::Args)]
#[command(after_long_help = HELP)]
pub(crate) struct ReportArgs {
    /// The file that record has written.
    #[arg(value_name = "FILE", value_parser = file(), value_hint = ValueHint::FilePath)]
    pub(crate) record: PathBuf,
    /// The page to write.
    #[arg(short, long, value_name = "PAGE", value_parser = file(), value_hint = ValueHint::FilePath)]
    pub(crate) output: PathBuf,
}
