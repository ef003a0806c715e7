//! The short form of the storm (`ringmill_tests::storm`, program `storm`): over pipelines, ensembles within
//! ensembles and switches, and over single servlets that collect in every way. Every call ends with the right
//! value or a typed error, user code runs at most once for a request, and nothing is left. Forked children get
//! `CallError::Forked`; a service that execs another program leaves nothing either.

use ringmill::{OnDeath, Wait};
use ringmill_tests::fresh_name;
use ringmill_tests::guard::guarded_for;
use ringmill_tests::storm::report::Counts;
use ringmill_tests::storm::weather::Weather;
use ringmill_tests::storm::{Kills, Storm, service};
use ringmill_tests::tree::{Crew, FoldResults, FoldValues, Leaf, Tree};
use std::process::Command;
use std::time::Duration;

ringmill::init!(Leaf, FoldValues, FoldResults);

const SHORT: Duration = Duration::from_micros(200);

fn seed() -> u64 {
    std::env::var("STORM_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(1)
}

/// Lets these pass side by side; each has kills enough for every weather.
fn storms(storms: Vec<Storm>) {
    guarded_for(Duration::from_secs(300), move || {
        std::thread::scope(|scope| {
            let storms: Vec<_> = storms.iter().map(|storm| scope.spawn(|| pass(storm))).collect();
            storms.into_iter().for_each(|storm| storm.join().expect("a storm that leaves all as it was"));
        });
    });
}

fn pass(storm: &Storm) {
    let counts = Counts::default();
    let outcome = storm.pass(&fresh_name("storm"), &counts);
    let report = counts.report();
    eprintln!("{}, seed {}: {report:?}", storm.tree, storm.seed);
    outcome.unwrap_or_else(|error| panic!("{}, seed {}: {error}", storm.tree, storm.seed));
    assert!(report.checks > 0 && report.values > 0);
    if let Kills::Many(kills) = storm.kills {
        // A burst may kill some more.
        assert!((kills..=kills + 64).contains(&report.kills), "{}", report.kills);
        assert!(
            storm.has_levers() || report.restarts == report.kills,
            "every killed worker was restarted: {report:?}"
        );
        // A storm of one of these weathers has such events.
        let happened = match storm.weathers[..] {
            [Weather::Fork] => report.forks,
            [Weather::Helper] => report.worker_forks,
            [Weather::Exec] => report.execs,
            [Weather::Levers] => report.levers.min(report.retired),
            _ => report.kills,
        };
        assert!(happened > 0, "{report:?}");
    }
}

/// Over one servlet, which collects and waits in this way.
fn single(crew: Crew, wait: Wait, seed: u64) -> Storm {
    Storm { wait, quiet_every: 30, ..Storm::over(Tree::single(crew), Kills::Many(60), seed) }
}

#[test]
fn over_fail_fast_within_keep_errors() {
    storms(vec![Storm { quiet_every: 50, ..Storm::over(Tree::fast_in_keep(), Kills::Many(150), seed()) }]);
}

#[test]
fn over_keep_errors_within_fail_fast() {
    storms(vec![Storm {
        quiet_every: 50,
        ..Storm::over(Tree::keep_in_fast(), Kills::Many(150), 1000 + seed())
    }]);
}

/// A storm until every worker has been given up, one after the other.
#[test]
fn until_every_servlet_is_down() {
    storms(vec![Storm::over(Tree::fast_in_keep(), Kills::UntilDown, 2000 + seed())]);
}

/// Each with its callers amid calls.
#[test]
fn services_that_exec_another_program() {
    guarded_for(Duration::from_secs(300), || {
        for number in 0..6 {
            let (name, seed) = (fresh_name("storm-service"), 3000 + seed() + number);
            let mut command = Command::new(env!("CARGO_BIN_EXE_storm"));
            command.args(["--service", &name, "--seed", &seed.to_string()]);
            service::pass(command, &name, Duration::from_secs(60))
                .unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        }
    });
}

#[test]
fn over_forks_and_execs() {
    let two = Crew::processes(2).batches(8).window(SHORT);
    let of = |weather, crew, seed| Storm { weathers: vec![weather], ..single(crew, Wait::Adaptive, seed) };
    storms(vec![
        of(Weather::Fork, two, 50 + seed()),
        of(Weather::Helper, two.threads(2), 51 + seed()),
        of(Weather::Exec, two, 52 + seed()),
        of(Weather::Exec, two.on_death(OnDeath::Bisect(1)), 53 + seed()),
    ]);
}

/// Of servlets whose workers are scaled, restarted, replaced and killed, and that are drained, while workers die.
#[test]
fn over_levers() {
    let two = Crew::processes(2).batches(8).window(SHORT);
    let of = |tree, seed| Storm {
        weathers: vec![Weather::Levers],
        quiet_every: 30,
        ..Storm::over(tree, Kills::Many(60), seed)
    };
    storms(vec![
        of(Tree::single(two), 60 + seed()),
        of(Tree::single(two.threads(2).on_death(OnDeath::Retry(2))), 61 + seed()),
        of(Tree::keep_in_fast(), 62 + seed()),
        of(Tree::fast_in_keep(), 63 + seed()),
    ]);
}

#[test]
fn over_batches() {
    let four = Crew::processes(4).batches(8);
    storms(vec![
        single(four.window(SHORT), Wait::Adaptive, seed()),
        single(four.window(Duration::ZERO), Wait::Park, 1 + seed()),
        single(four.batches(64).window(SHORT), Wait::Park, 2 + seed()),
    ]);
}

/// A request that is retried ends with the value, unless its tries are used up.
#[test]
fn over_servlets_that_retry() {
    let two = Crew::processes(2).batches(8).window(Duration::ZERO);
    storms(vec![
        single(two.on_death(OnDeath::Retry(2)), Wait::Adaptive, 40 + seed()),
        single(two.on_death(OnDeath::Bisect(1)), Wait::Park, 41 + seed()),
        single(Crew::processes(2).on_death(OnDeath::Retry(20)), Wait::Adaptive, 42 + seed()),
    ]);
}

#[test]
fn over_single_items() {
    storms(vec![
        single(Crew::processes(4), Wait::Adaptive, 10 + seed()),
        single(Crew::processes(4).batches(1), Wait::Spin(SHORT), 11 + seed()),
        single(Crew::processes(1), Wait::Park, 12 + seed()),
    ]);
}

#[test]
fn over_workers_with_several_threads() {
    storms(vec![
        single(Crew::processes(2).threads(3).batches(4).window(SHORT), Wait::Adaptive, 20 + seed()),
        single(Crew::processes(1).threads(4), Wait::Park, 21 + seed()),
    ]);
}

#[test]
fn over_few_workers() {
    storms(vec![
        single(Crew::processes(2).batches(2).window(SHORT), Wait::Adaptive, 30 + seed()),
        single(Crew::processes(2).batches(3).window(Duration::ZERO), Wait::Park, 31 + seed()),
        single(Crew::processes(1).batches(4).window(SHORT), Wait::Adaptive, 32 + seed()),
        single(Crew::processes(3).batches(16).window(SHORT), Wait::Spin(SHORT), 33 + seed()),
    ]);
}
