//! The options of the levers, and their help.

use crate::values::{SegmentArg, period, time};
use clap::builder::ValueHint;
use std::path::PathBuf;
use std::time::Duration;

const HELP: &str = "\
The server does it: the command goes through the control page of its segment,
and the server's log says who asked for what. Run it as the server's user, or
as root. On a terminal it asks first; where there is none it needs --yes.

No request is lost by drain, resume, restart-worker, scale and replace: a worker
finishes its batch before it leaves. kill-worker is a death, for its requests
too.

Exit status:
  0  done
  1  not done; the report says why
  2  not done, and will not be: wrong usage, no such segment, a dead server, or
     one that is stopped or hangs, so that the command was withdrawn
  3  unknown: the server has read the command, and has not answered in time, or
     has died; it may have done it, or may do it yet

JSON:
  name, path        as for list
  servlet           the servlet
  asked             what was asked, in words
  done              whether the server has done it
  reason            why not (null: it has)

Examples:
  shmtool scale digits classify 2    # at most its max_workers: shmtool show
  shmtool restart-worker digits classify 0
  shmtool replace digits classify --program ./classify-2 --yes
  shmtool drain digits classify --limit 1min && shmtool resume digits classify";

/// What all levers take.
#[derive(Debug, clap::Args)]
pub(crate) struct LeverArgs {
    #[command(flatten)]
    pub(crate) segment: SegmentArg,
    /// The servlet's name, as 'shmtool show' has it.
    pub(crate) servlet: String,
    /// Do not ask.
    #[arg(long, short)]
    pub(crate) yes: bool,
    /// Withdraw the command if the server has not read it by then.
    #[arg(long, value_name = "TIME", value_parser = period, default_value = "5s")]
    pub(crate) patience: Duration,
    /// Wait for the answer for at most this time; the server goes on.
    #[arg(long, value_name = "TIME", value_parser = time)]
    pub(crate) timeout: Option<Duration>,
}

/// The options of `drain`.
#[derive(Debug, clap::Args)]
#[command(after_long_help = HELP)]
pub(crate) struct DrainArgs {
    #[command(flatten)]
    pub(crate) of: LeverArgs,
    /// Wait for at most this time; it stays drained.
    #[arg(long, value_name = "TIME", value_parser = time, default_value = "30s")]
    pub(crate) limit: Duration,
}

/// The options of `resume`.
#[derive(Debug, clap::Args)]
#[command(after_long_help = HELP)]
pub(crate) struct ResumeArgs {
    #[command(flatten)]
    pub(crate) of: LeverArgs,
}

/// The options of `restart-worker`.
#[derive(Debug, clap::Args)]
#[command(after_long_help = HELP)]
pub(crate) struct RestartWorkerArgs {
    #[command(flatten)]
    pub(crate) of: LeverArgs,
    /// Its index, from 0.
    pub(crate) worker: u32,
}

/// The options of `kill-worker`.
#[derive(Debug, clap::Args)]
#[command(after_long_help = HELP)]
pub(crate) struct KillWorkerArgs {
    #[command(flatten)]
    pub(crate) of: LeverArgs,
    /// Its index, from 0.
    pub(crate) worker: u32,
}

/// The options of `scale`.
#[derive(Debug, clap::Args)]
#[command(after_long_help = HELP)]
pub(crate) struct ScaleArgs {
    #[command(flatten)]
    pub(crate) of: LeverArgs,
    /// How many: from 1 to its max_workers, which 'shmtool show' says.
    pub(crate) workers: u32,
}

/// The options of `replace`.
#[derive(Debug, clap::Args)]
#[command(after_long_help = HELP)]
pub(crate) struct ReplaceArgs {
    #[command(flatten)]
    pub(crate) of: LeverArgs,
    /// The executable; else what is now at the present one's path.
    #[arg(long, value_name = "FILE", value_hint = ValueHint::ExecutablePath)]
    pub(crate) program: Option<PathBuf>,
}
