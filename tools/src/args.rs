//! The command line: the program's options, and its commands. Each command's options and help are in its `args`.

#[cfg(feature = "bench")]
use crate::bench::args::BenchArgs;
use crate::check::args::CheckArgs;
use crate::clean::args::CleanArgs;
use crate::doctor::args::DoctorArgs;
use crate::levers::args::{DrainArgs, KillWorkerArgs, ReplaceArgs, RestartWorkerArgs, ResumeArgs, ScaleArgs};
use crate::list::args::ListArgs;
use crate::record::args::RecordArgs;
use crate::report::args::ReportArgs;
use crate::requests::args::RequestArgs;
use crate::shell::args::{CompletionsArgs, ManArgs};
use crate::show::args::ShowArgs;
use crate::stats::args::StatsArgs;
use crate::top::args::TopArgs;
use crate::trace::args::TraceArgs;
use clap::{CommandFactory, Parser, Subcommand};

const EXAMPLES: &str = "\
Examples:
  shmtool list                 all segments, live and stale
  shmtool show digits          nodes, workers, requests of the server 'digits'
  shmtool show ./run/digits    the same for a segment in a file of your own
  shmtool show digits@4711     the same for the anonymous segment 'digits' of
                               process 4711
  shmtool requests digits      the requests in progress, where each is
  shmtool stats digits         how fast it is: rates, times, batches
  shmtool top digits           the same on the whole screen, live
  shmtool record digits -o digits.jsonl
                               the same over time, in a file
  shmtool report digits.jsonl -o digits.html
                               as a page of pictures
  shmtool trace digits         where the time of the last requests went
  shmtool bench --demo         how much load this host's server takes
  shmtool check digits         exit status 0 if the segment is consistent
  shmtool scale digits tag 2   two workers of its servlet 'tag', if its
                               max_workers allows them
  shmtool doctor               what of this host will hurt a server
  shmtool clean --dry-run      what 'shmtool clean' would remove

Exit status:
  0  fine
  1  the report says that something is wrong
  2  wrong usage, no such segment, or another error; one line on standard
     error says which
  3  of scale and its like: the server may have done it, or may do it yet";

/// Inspect ringmill segments.
#[derive(Debug, Parser)]
#[command(name = "shmtool", version, after_help = EXAMPLES, arg_required_else_help = true)]
pub(crate) struct Args {
    /// Print JSON; each command's --help lists the fields.
    #[arg(long, global = true)]
    pub(crate) json: bool,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// The command line as clap reads it. What looks like an option where a number or a time belongs is a wrong number, and not an
/// unknown option.
pub(crate) fn command() -> clap::Command {
    Args::command().mut_subcommands(|command| {
        command.mut_args(|arg| match arg.get_value_names() {
            Some([name]) if ["N", "P", "RANGE", "TIME", "WORKER", "WORKERS"].contains(&name.as_str()) => {
                let is_option = arg.get_long().is_some();
                arg.allow_hyphen_values(is_option).allow_negative_numbers(true)
            }
            _ => arg,
        })
    })
}

/// The command.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// List the segments of this machine, live and stale.
    List(ListArgs),
    /// Show a segment's nodes, workers, requests and payload blocks.
    Show(ShowArgs),
    /// Show the requests in progress, and where each is.
    Requests(RequestArgs),
    /// Show how fast a server is, and why not faster.
    Stats(StatsArgs),
    /// Watch a server live: rates, workers, requests, what limits it.
    Top(TopArgs),
    /// Write a server's statistics over time into a file.
    Record(RecordArgs),
    /// Draw a record as one HTML page.
    Report(ReportArgs),
    /// Measure how much load a server takes, and how fast it answers.
    #[cfg(feature = "bench")]
    Bench(BenchArgs),
    /// Show where the time of the last traced requests went.
    Trace(TraceArgs),
    /// Check whether a segment is consistent.
    Check(CheckArgs),
    /// Say what of this host will hurt a server, and how to mend it.
    Doctor(DoctorArgs),
    /// Print the completions for a shell.
    Completions(CompletionsArgs),
    /// Write man pages into a directory.
    Man(ManArgs),
    /// Let no request into a servlet, and wait until it is empty.
    Drain(DrainArgs),
    /// Let requests into a drained servlet again.
    Resume(ResumeArgs),
    /// Have a worker leave in order, and start its successor.
    RestartWorker(RestartWorkerArgs),
    /// Kill a worker's process; it is restarted.
    KillWorker(KillWorkerArgs),
    /// Have this many workers in a servlet.
    Scale(ScaleArgs),
    /// Replace a servlet's workers one by one, from a new executable.
    Replace(ReplaceArgs),
    /// Remove segments whose server has died.
    Clean(CleanArgs),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        command().debug_assert();
    }

    #[test]
    fn json_may_stand_before_or_after_the_command() {
        for line in [["shmtool", "--json", "list"], ["shmtool", "list", "--json"]] {
            assert!(Args::parse_from(line).json);
        }
    }
}
