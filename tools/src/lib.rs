//! Inspects ringmill segments from outside: lists them, shows one, checks whether it is consistent; and removes those whose
//! server has died.
//!
//! Every command makes a report, a struct of plain facts, and prints it as text for people or as JSON.
//! The tool maps a segment read-only; only `clean` changes anything, `man` writes the files that it is for, and the levers
//! write into the control page of a segment, which they map apart.
//!
//! # Invariants
//!
//! * Only `clean` removes files, and only those of a segment that a free lease proves stale (`[hands off]`).
//! * Any process of the user may write a segment's bytes: they can make a report wrong, but not end it. Only a file that is
//!   made shorter while it is mapped does, with a message. A copy of the file would not prevent wrong reports: it shows no
//!   single moment.
//! * `[plain text]`: the text of a file, a segment or a name is escaped where it enters a report, in each cell of a
//!   table again, and in JSON; so is an error. Only our own line feeds and styles reach a terminal.
//! * Text goes to standard output as one piece; a reader that has gone is not an error. `top` alone draws, on a terminal.
//! * Exit status: 0 fine, 1 the report says that something is wrong, 2 no full report could be made; of levers 3, if it is
//!   not known what became of the command.
#![forbid(unsafe_code)]
// A line on a standard error that is closed would panic: `output::say` and `print` do not.
#![deny(clippy::print_stdout, clippy::print_stderr)]

mod args;
#[cfg(feature = "bench")]
mod bench;
mod check;
mod clean;
mod doctor;
mod ending;
mod error;
mod help;
mod levers;
mod list;
mod output;
mod record;
mod report;
mod requests;
mod shell;
mod show;
mod stats;
mod survey;
mod top;
mod trace;
mod units;
mod values;
mod who;

use args::{Args, Command};
use clap::FromArgMatches;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use error::ToolError;
use levers::args::{LeverArgs, ReplaceArgs};
use output::{Page, Report, Verdict};
use requests::args::RequestArgs;
use ringmill_shm::control::Lever;
use ringmill_shm::sys::process::end_on_bus_error;
use show::args::ShowArgs;
use stats::args::StatsArgs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

#[cfg(feature = "bench")]
pub use bench::Demo;
pub use requests::typed::Printers;
pub use top::Top;

/// The program: runs its command line, and returns the status to exit with.
#[must_use]
pub fn main() -> ExitCode {
    main_with(&Printers::new())
}

/// As [`main`], for a program that has printers for its own payloads.
#[must_use]
pub fn main_with(printers: &Printers) -> ExitCode {
    end_on_bus_error(
        "shmtool: the segment's file was made shorter while it was read\n",
        Verdict::Failed as i32,
    );
    let done = run(&arguments(), printers).and_then(|(text, verdict)| output::print(&text).map(|_| verdict));
    let verdict = done.unwrap_or_else(|error| {
        output::say(&error.to_string());
        error.verdict()
    });
    ExitCode::from(verdict as u8)
}

/// The text that `shmtool show` would print, without the program around it: for tests that show many segments.
///
/// # Errors
/// The message that the program would print.
pub fn show(name: &str, json: bool) -> Result<String, String> {
    text_of(json, Command::Show(ShowArgs { segment: name.into() }), &Printers::new())
}

/// The text that `shmtool requests --payload` would print, as [`show`].
///
/// # Errors
/// The message that the program would print.
pub fn requests(name: &str, json: bool) -> Result<String, String> {
    requests_with(name, json, &Printers::new())
}

/// As [`requests`], with printers for types of a program.
///
/// # Errors
/// The message that the program would print.
pub fn requests_with(name: &str, json: bool, printers: &Printers) -> Result<String, String> {
    text_of(json, Command::Requests(RequestArgs::with_payloads(name)), printers)
}

/// The text that `shmtool stats` would print, as [`show`].
///
/// # Errors
/// The message that the program would print.
pub fn stats(name: &str, json: bool) -> Result<String, String> {
    text_of(json, Command::Stats(StatsArgs::since_start(name)), &Printers::new())
}

fn text_of(json: bool, command: Command, printers: &Printers) -> Result<String, String> {
    run(&Args { json, command }, printers).map(|(text, _)| text).map_err(|error| error.to_string())
}

/// The command line. If it lacks a name, the message says how to find one.
fn arguments() -> Args {
    let parsed = args::command().try_get_matches().and_then(|of| Args::from_arg_matches(&of));
    parsed.unwrap_or_else(|mut error| {
        if let Some(tip) = tip(&error) {
            error.insert(ContextKind::Suggested, ContextValue::StyledStrs(vec![tip.into()]));
        }
        error.exit()
    })
}

/// Where to find the first argument that is missing.
fn tip(error: &clap::Error) -> Option<&'static str> {
    let missing = match error.get(ContextKind::InvalidArg)? {
        ContextValue::Strings(all) if error.kind() == ErrorKind::MissingRequiredArgument => all.first()?,
        _ => return None,
    };
    match missing.as_str() {
        "<NAME>" => Some("'shmtool list' shows all segments"),
        "<SERVLET>" => Some("'shmtool show NAME' shows its servlets"),
        "<--demo|NAME>" => Some("'shmtool bench --demo' drives a server of its own"),
        "<WORKER>" => Some("'shmtool show NAME' shows its workers"),
        _ => None,
    }
}

fn run(args: &Args, printers: &Printers) -> Result<(String, Verdict), ToolError> {
    match &args.command {
        Command::List(_) => told(args, &list::list()?),
        Command::Show(of) => told(args, &show::show(&of.segment.name)?),
        Command::Requests(of) => told(args, &requests::requests(&of.segment.name, &of.choice(), printers)?),
        Command::Stats(of) => stats::stats(of, args.json),
        Command::Top(of) => top::top(&of.segment.name, of.interval, args.json),
        Command::Record(of) => record::record(of, args.json),
        Command::Report(of) => told(args, &report::report(of)?),
        #[cfg(feature = "bench")]
        Command::Bench(of) => bench::bench(of, args.json),
        Command::Trace(of) => trace::trace(&of.segment.name, of.choice(), args.json),
        Command::Check(of) => told(args, &check::check(&of.segment.name)?),
        Command::Doctor(of) => told(args, &doctor::examine(&of.root)),
        Command::Completions(of) => told(args, &shell::completions(of.shell)),
        Command::Man(of) => told(args, &shell::man(&of.directory)?),
        Command::Drain(of) => pulled(args, &of.of, Lever::Drain { limit: of.limit }),
        Command::Resume(of) => pulled(args, &of.of, Lever::Resume),
        Command::RestartWorker(of) => pulled(args, &of.of, Lever::Restart { worker: of.worker }),
        Command::KillWorker(of) => pulled(args, &of.of, Lever::Kill { worker: of.worker }),
        Command::Scale(of) => pulled(args, &of.of, Lever::Scale { workers: of.workers }),
        Command::Replace(ReplaceArgs { of, program }) => {
            let program = program.as_deref().map(absolute).transpose()?;
            pulled(args, of, Lever::Replace { program })
        }
        Command::Clean(of) => told(args, &clean::clean(&of.names, of.dry_run)?),
    }
}

fn pulled(args: &Args, of: &LeverArgs, lever: Lever) -> Result<(String, Verdict), ToolError> {
    told(args, &levers::pull(of, lever)?)
}

/// The path by which the server finds a file, which has another working directory.
fn absolute(path: &Path) -> Result<PathBuf, ToolError> {
    let system = |error| ToolError::System { what: "find", path: path.into(), error };
    std::path::absolute(path).map_err(system)
}

fn told(args: &Args, report: &impl Report) -> Result<(String, Verdict), ToolError> {
    let text = if args.json { output::json(report)? } else { report.text(Page::of_stdout()) };
    Ok((text, report.verdict()))
}
