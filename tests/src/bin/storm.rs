//! A long storm of kills over one tree of servlets after another, with live progress and a report at the end.
//!
//! ```text
//! cargo run --release -p ringmill-tests --bin storm -- --kills 100000
//! ```
//!
//! Exits with 0 if every promise held, with 1 if one did not, with 2 if a request hung; then it has printed the state
//! of each request in progress.

use clap::Parser;
use comfy_table::{Table, presets};
use ringmill_tests::dice::Dice;
use ringmill_tests::storm::report::{Counts, Report};
use ringmill_tests::storm::weather::Weather;
use ringmill_tests::storm::{Kills, Storm, service};
use ringmill_tests::tree::{FoldResults, FoldValues, Leaf, Tree};
use ringmill_tests::{fresh_name, progress};
use std::process::{Command, ExitCode};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

ringmill::init!(Leaf, FoldValues, FoldResults);

/// Kills worker processes at random instants, makes them and the service fork and exec, and checks that every request
/// ends exactly once.
///
/// Forks: the service's process forks while its callers call; every call of a child must return an error, and the child
/// ends, lives on for a while, or execs another program. Worker code forks helpers, whose worker is then killed, and
/// children that return into the engine. Execs: a worker execs another program amid a batch, which counts as a kill.
/// After each server a service of its own execs another program amid calls, ten times.
#[derive(Parser)]
struct Args {
    /// Worker processes to kill.
    #[arg(long, default_value_t = 10_000)]
    kills: u64,
    /// The seed of all random choices; by default the time.
    #[arg(long)]
    seed: Option<u64>,
    /// Servers at a time.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..=8))]
    servers: u64,
    /// Kills before another server, with another tree, replaces this one.
    #[arg(long, default_value_t = 2_000)]
    kills_a_server: u64,
    /// Only this weather.
    #[arg(long, value_enum)]
    weather: Option<Weather>,
    /// A request that takes longer, in seconds, hangs.
    #[arg(long, default_value_t = 120)]
    patience: u64,
    /// The report as JSON.
    #[arg(long)]
    json: bool,
    /// Be a service of this name that execs another program: for the storm itself.
    #[arg(long, hide = true)]
    service: Option<String>,
}

/// How many services exec another program after each server.
const SERVICES: u64 = 10;

fn main() -> ExitCode {
    let args = Args::parse();
    let seed = args.seed.unwrap_or_else(|| ringmill_shm::sys::time::now_ns() / 1_000_000 % 1_000_000);
    if let Some(name) = &args.service {
        service::serve(name, seed);
    }
    let (counts, begun, left) = (Counts::default(), Instant::now(), AtomicU64::new(args.kills));
    // Every lane has its share, however few kills there are.
    let most = args.kills_a_server.min(args.kills.div_ceil(args.servers)).max(1);
    let failure = Mutex::new(None);
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let lanes: Vec<_> = (0..args.servers)
            .map(|lane| {
                let (counts, left, failure, args) = (&counts, &left, &failure, &args);
                scope.spawn(move || {
                    let mut server = 0;
                    while let Some(kills) = take(left, most) {
                        let seed = seed.wrapping_mul(1_000_000) + lane * 100_000 + server;
                        if let Err(error) = storm(args, seed, kills, counts) {
                            left.store(0, Ordering::Relaxed); // Relaxed, here and in `take`: a count
                            failure.lock().expect("no panic").get_or_insert(error);
                        }
                        server += 1;
                    }
                })
            })
            .collect();
        scope.spawn(|| progress::show("kills", args.kills, &over, || tell(&counts, begun)));
        lanes.into_iter().for_each(|lane| lane.join().expect("panics are errors"));
        over.store(true, Ordering::Relaxed); // Relaxed: a flag of its own
    });
    let report = counts.report();
    let failure = failure.into_inner().expect("no panic");
    show(&report, seed, begun.elapsed(), failure.as_deref(), args.json);
    if failure.is_some() { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

/// Takes up to `most` of the kills that are left.
fn take(left: &AtomicU64, most: u64) -> Option<u64> {
    let rest = |left: u64| (left > 0).then(|| left.saturating_sub(most));
    let before = left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, rest).ok()?;
    Some(before.min(most))
}

fn storm(args: &Args, seed: u64, kills: u64, counts: &Counts) -> Result<(), String> {
    let mut dice = Dice::new(seed);
    let tree = match dice.below(4) {
        0 => Tree::fast_in_keep(),
        1 => Tree::keep_in_fast(),
        _ => Tree::random(&mut dice),
    };
    let mut storm = Storm::over(tree, Kills::Many(kills), seed);
    storm.patience = Duration::from_secs(args.patience);
    storm.capacity = *dice.pick(&[8, 24, 64]);
    storm.weathers = args.weather.map_or(storm.weathers, |weather| vec![weather]);
    counts.servers.fetch_add(1, Ordering::Relaxed); // Relaxed: a count
    storm
        .pass(&fresh_name("storm"), counts)
        .map_err(|error| format!("{error}\nover {}, seed {seed}", storm.tree))?;
    for service in 0..SERVICES {
        let (name, seed) = (fresh_name("storm-service"), seed.wrapping_mul(SERVICES).wrapping_add(service));
        let mut command = Command::new(std::env::current_exe().map_err(|error| error.to_string())?);
        command.args(["--service", &name, "--seed", &seed.to_string()]);
        service::pass(command, &name, storm.patience).map_err(|error| format!("{error}\nseed {seed}"))?;
        counts.service_execs.fetch_add(1, Ordering::Relaxed); // Relaxed: a count
    }
    Ok(())
}

fn tell(counts: &Counts, begun: Instant) -> (u64, String) {
    let report = counts.report();
    let message = format!(
        "{:.0}/min, {} requests, {} died, {} of ensembles, {} refused, {} gone, {} checks",
        per(report.kills, begun.elapsed()) * 60.0,
        report.requests(),
        report.died,
        report.ensemble,
        report.refused,
        report.gone,
        report.checks
    );
    (report.kills, message)
}

fn show(report: &Report, seed: u64, took: Duration, failure: Option<&str>, json: bool) {
    if json {
        let report = serde_json::json!({
            "seed": seed,
            "seconds": took.as_secs_f64(),
            "kills_a_minute": per(report.kills, took) * 60.0,
            "requests_a_second": per(report.requests(), took),
            "permits_leaked": failure.is_none().then_some(0),
            "failure": failure,
            "counts": report,
        });
        println!("{report:#}");
        return;
    }
    let mut table = Table::new();
    table.load_style(presets::UTF8_BORDERS_ONLY);
    let mut row = |what: &str, n: String| {
        table.add_row([what, &n]);
    };
    row("kills", format!("{} ({:.0} a minute)", report.kills, per(report.kills, took) * 60.0));
    for (weather, kills) in &report.kills_by_weather {
        row(&format!("  {weather}"), kills.to_string());
    }
    for (servlet, kills) in &report.kills_by_servlet {
        row(&format!("  of {servlet}"), kills.to_string());
    }
    row("stops", report.stops.to_string());
    row("forks of the service", report.forks.to_string());
    row("forks in workers", report.worker_forks.to_string());
    row("execs of workers", report.execs.to_string());
    row("execs of services", report.service_execs.to_string());
    row("levers pulled", report.levers.to_string());
    row("levers that failed, for a death", report.levers_failed.to_string());
    row("workers that left in order", report.retired.to_string());
    row("restarts", report.restarts.to_string());
    row("servers", report.servers.to_string());
    row("requests", format!("{} ({:.0} a second)", report.requests(), per(report.requests(), took)));
    row("  value", report.values.to_string());
    row("  worker died", report.died.to_string());
    row("  ensemble's error", report.ensemble.to_string());
    row("  refused by its servlet", report.refused.to_string());
    row("  of a drained servlet", report.drained.to_string());
    row("  given up by its caller", report.gone.to_string());
    row("turned away", report.turned_away.to_string());
    row("runs of user code", report.runs.to_string());
    row("quiet moments, all clean", report.checks.to_string());
    if failure.is_none() {
        row("permits leaked", "0".into());
    }
    row("seed", seed.to_string());
    row("time", format!("{:.1} s", took.as_secs_f64()));
    println!("{table}");
    if let Some(failure) = failure {
        eprintln!("failed: {failure}");
    }
}

fn per(count: u64, time: Duration) -> f64 {
    count as f64 / time.as_secs_f64().max(1e-9)
}
