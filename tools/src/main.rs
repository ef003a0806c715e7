//! Looks at ringmill segments from outside: which there are, what is going on in one, whether it is
//! consistent; and removes those whose server has died.
//!
//! Every command makes a report, a struct of plain facts, and prints it as text for people or as JSON.
//! A segment that is looked at is mapped read-only; only `clean` changes anything.
//!
//! # Invariants
//!
//! * *hands off*: nothing is removed but by `clean`, and by it only what a free lease proves stale.
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
use output::{Page, Report};
use std::io::Write;
use std::process::ExitCode;

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(code) => code,
        Err(error) => {
            // A closed standard error leaves nobody to tell.
            let _ = writeln!(std::io::stderr(), "shmtool: {error}");
            ExitCode::from(output::Verdict::Failed as u8)
        }
    }
}

fn run(args: &Args) -> Result<ExitCode, ToolError> {
    match &args.command {
        Command::List => finish(args, &list::list()?),
        Command::Show { name } => finish(args, &show::show(name)?),
        Command::Check { name } => finish(args, &check::check(name)?),
        Command::Clean { dry_run, names } => finish(args, &clean::clean(names, *dry_run)?),
    }
}

fn finish(args: &Args, report: &impl Report) -> Result<ExitCode, ToolError> {
    let text = if args.json { output::json(report)? } else { report.text(Page::of_stdout()) };
    output::print(&text)?;
    Ok(ExitCode::from(report.verdict() as u8))
}
