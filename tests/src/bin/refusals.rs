//! Refuses every system call of a service in turn, in each phase of its life, and prints the outcomes.
//!
//! ```text
//! cargo run --release -p ringmill-tests --bin refusals
//! cargo run --release -p ringmill-tests --bin refusals -- --only pidfd_send_signal
//! ```
//!
//! Exits with 0 if every service ended in time, with values or errors, without a panic, and left nothing. See
//! `ringmill_tests::refusals`.

use clap::Parser;
use comfy_table::{Table, presets};
use ringmill::BoxError;
use ringmill_tests::progress;
use ringmill_tests::refusals::{Case, Report, Subject, live_if_told, run};
use std::process::{Command, ExitCode};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

ringmill::init!(Subject);

/// Refuses every system call of a service in turn, in each phase of its life.
#[derive(Parser)]
struct Args {
    /// Only calls whose names contain this.
    #[arg(long)]
    only: Option<String>,
    /// Try one case in this many.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    every: u64,
    /// How many services at once.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u64).range(1..))]
    at_once: u64,
    /// Also print the output of each service.
    #[arg(long)]
    said: bool,
}

fn main() -> Result<ExitCode, BoxError> {
    live_if_told();
    let args = Args::parse();
    let program = std::env::current_exe()?;
    let wanted = |case: &Case| args.only.as_ref().is_none_or(|only| case.call.name.contains(only.as_str()));
    let cases: Vec<(usize, Case)> = Case::all().into_iter().enumerate().filter(|(_, c)| wanted(c)).collect();
    let cases: Vec<_> = cases.into_iter().step_by(args.every as usize).collect();
    let usual = run(&mut Command::new(&program), None);
    if !usual.problems.is_empty() {
        println!("where nothing is refused: {usual:#?}");
        return Ok(ExitCode::FAILURE);
    }
    let (next, over) = (AtomicUsize::new(0), AtomicBool::new(false));
    let reports: Mutex<Vec<(usize, Report)>> = Mutex::default();
    let reports_of = || reports.lock().unwrap_or_else(|e| e.into_inner());
    std::thread::scope(|scope| {
        scope.spawn(|| {
            progress::show("refusals", cases.len() as u64, &over, || {
                let reports = reports_of();
                let bad = reports.iter().filter(|(_, report)| !report.problems.is_empty()).count();
                (reports.len() as u64, format!("{bad} with problems"))
            });
        });
        let work = || {
            while let Some((index, _)) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
                let report = run(&mut Command::new(&program), Some(*index)); // Relaxed: a count
                reports_of().push((*index, report));
            }
        };
        let workers: Vec<_> = (0..args.at_once).map(|_| scope.spawn(work)).collect();
        workers.into_iter().for_each(|worker| drop(worker.join()));
        over.store(true, Ordering::Relaxed); // Relaxed: a flag of its own
    });
    let mut reports = std::mem::take(&mut *reports_of());
    reports.sort_by_key(|(index, _)| *index);
    Ok(show(&reports, &usual, args.said))
}

/// Prints a row for each call and error: what differs from a service without a refusal.
fn show(reports: &[(usize, Report)], usual: &Report, said: bool) -> ExitCode {
    let cases = Case::all();
    let mut table = Table::new();
    table.load_style(presets::UTF8_FULL_CONDENSED);
    table.set_header(["call", "phase", "error", "s", "outcome"]);
    let mut problems = 0;
    for (index, report) in reports {
        let case = cases[*index];
        problems += usize::from(!report.problems.is_empty());
        let news: Vec<&str> = report
            .said
            .iter()
            .filter(|line| said || !usual.said.contains(line))
            .map(String::as_str)
            .collect();
        let outcome = match (report.problems.as_slice(), news.as_slice()) {
            ([], []) => "as usual".to_owned(),
            ([], news) => news.join("\n"),
            (problems, news) => format!("PROBLEM: {}\n{}", problems.join("\n"), news.join("\n")),
        };
        let error = std::io::Error::from_raw_os_error(case.errno).to_string();
        let seconds = format!("{:.1}", report.time.as_secs_f64());
        table.add_row([case.call.name, case.phase.name(), &error, &seconds, &outcome]);
    }
    println!("{table}");
    println!("{} lives, {problems} with problems", reports.len());
    if problems == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
