//! A soak: very many requests through one server, during which nothing may grow.
//!
//! ```text
//! cargo run --release -p ringmill-tests --bin soak -- --requests 1000000000
//! ```
//!
//! Exits with 0 if nothing has grown; see `ringmill_tests::soak`.

use clap::Parser;
use comfy_table::{Table, presets};
use ringmill::BoxError;
use ringmill_tests::soak::{Clerk, Outcome, run};
use ringmill_tests::{fresh_name, progress};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

ringmill::init!(Clerk);

/// Streams very many requests through one server, and checks that nothing grows.
#[derive(Parser)]
struct Args {
    /// Requests to stream.
    #[arg(long, default_value_t = 100_000_000, value_parser = clap::value_parser!(u64).range(1..))]
    requests: u64,
    /// The report as JSON.
    #[arg(long)]
    json: bool,
}

fn main() -> Result<ExitCode, BoxError> {
    let args = Args::parse();
    let (done, over) = (AtomicU64::new(0), AtomicBool::new(false));
    let outcome = std::thread::scope(|scope| {
        scope.spawn(|| {
            let begun = std::time::Instant::now();
            progress::show("requests", args.requests, &over, || {
                let done = done.load(Ordering::Relaxed); // Relaxed: for show
                (done, format!("{:.1} million a second", done as f64 / begun.elapsed().as_secs_f64() / 1e6))
            });
        });
        let outcome = run(&fresh_name("soak"), args.requests, &done);
        over.store(true, Ordering::Relaxed); // Relaxed: a flag of its own
        outcome
    })?;
    if args.json {
        println!("{}", serde_json::to_string_pretty(&outcome)?);
    } else {
        show(&outcome);
    }
    Ok(if outcome.problems.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn show(outcome: &Outcome) {
    let mut table = Table::new();
    table.load_style(presets::UTF8_FULL_CONDENSED);
    table.set_header([
        "tenth",
        "million/s",
        "call µs\np50 / p99 / p99.9 / max",
        "server\nMiB",
        "workers\nMiB",
        "descriptors",
        "threads",
        "blocks",
        "permits",
    ]);
    let mib = |bytes: u64| format!("{:.2}", bytes as f64 / (1 << 20) as f64);
    for (number, tenth) in (1..).zip(&outcome.tenths) {
        let call: Vec<String> = tenth.call_ns.iter().map(|&ns| format!("{:.1}", ns as f64 / 1e3)).collect();
        table.add_row([
            number.to_string(),
            format!("{:.2}", tenth.per_second / 1e6),
            call.join(" / "),
            mib(tenth.median(|look| look.server_bytes)),
            mib(tenth.median(|look| look.workers_bytes)),
            tenth.median(|look| look.descriptors).to_string(),
            tenth.median(|look| look.threads).to_string(),
            tenth.median(|look| look.blocks).to_string(),
            tenth.median(|look| look.permits).to_string(),
        ]);
    }
    println!("{table}");
    let speeds = || outcome.tenths.iter().map(|tenth| tenth.per_second / 1e6);
    let (slowest, fastest) = (speeds().fold(f64::INFINITY, f64::min), speeds().fold(0.0, f64::max));
    println!(
        "{} requests and {} given up in {:.1} s; {slowest:.2} to {fastest:.2} million a second",
        outcome.requests, outcome.given_up, outcome.seconds
    );
    match outcome.problems.as_slice() {
        [] => println!("nothing has grown, nothing is left"),
        problems => problems.iter().for_each(|problem| println!("PROBLEM: {problem}")),
    }
}
