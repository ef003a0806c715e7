//! Looks at ringmill segments from outside: which there are, what is going on in one, whether it is
//! consistent; and removes those whose server has died.
//!
//! Every command makes a report, a struct of plain facts, and prints it as text for people or as JSON.
//! A segment that is looked at is mapped read-only; only `clean` changes anything.
//!
//! # Invariants
//!
//! * *hands off*: nothing is removed but by `clean`, and by it only what a free lease proves stale.
//! * A segment's bytes are anybody's: they can make a report wrong, but not end it. Only a file that is made
//!   shorter while it is mapped does, with a message: who copied it first would copy what is not one moment's.
//! * *plain text*: whatever a file, a segment or a name says is escaped where it enters a report, in each cell of a table
//!   once more, and in JSON; so is an error. Nothing but our own line feeds and styles reaches a terminal.
//! * Text goes to standard output as one piece; a reader that has gone is no error.
//! * Exit status: 0 fine, 1 the report says that something is wrong, 2 no full report could be made.
#![forbid(unsafe_code)]

mod args;
mod check;
mod clean;
mod error;
mod list;
mod output;
mod show;
mod survey;
mod units;

use args::{Args, Command};
use clap::Parser;
use error::ToolError;
use output::{Page, Report, Verdict};
use ringmill_shm::sys::process::end_on_bus_error;
use ringmill_shm::text::shown;
use std::io::Write;
use std::process::ExitCode;

/// The program: does what its command line says, and gives the status to exit with.
#[must_use]
pub fn main() -> ExitCode {
    end_on_bus_error(
        "shmtool: the segment's file was made shorter while it was read\n",
        Verdict::Failed as i32,
    );
    let done = run(&Args::parse()).and_then(|(text, verdict)| output::print(&text).map(|()| verdict));
    let verdict = done.unwrap_or_else(|error| {
        // A closed standard error leaves nobody to tell.
        let _ = writeln!(std::io::stderr(), "shmtool: {}", shown(&error.to_string()));
        Verdict::Failed
    });
    ExitCode::from(verdict as u8)
}

/// What `shmtool show` would print, without the program around it: for tests that show many segments.
///
/// # Errors
/// What it would complain of.
pub fn show(name: &str, json: bool) -> Result<String, String> {
    let args = Args { json, command: Command::Show { name: name.into() } };
    run(&args).map(|(text, _)| text).map_err(|error| error.to_string())
}

fn run(args: &Args) -> Result<(String, Verdict), ToolError> {
    match &args.command {
        Command::List => told(args, &list::list()?),
        Command::Show { name } => told(args, &show::show(name)?),
        Command::Check { name } => told(args, &check::check(name)?),
        Command::Clean { dry_run, names } => told(args, &clean::clean(names, *dry_run)?),
    }
}

fn told(args: &Args, report: &impl Report) -> Result<(String, Verdict), ToolError> {
    let text = if args.json { output::json(report)? } else { report.text(Page::of_stdout()) };
    Ok((text, report.verdict()))
}
