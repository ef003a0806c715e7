//! `compare` as its users start it.

use std::process::{Command, Output};

use ringmill::cpu;
use ringmill_bench::report::{self, Row};

fn compare(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_compare")).args(arguments).output().unwrap()
}

#[test]
fn says_that_one_cpu_is_too_few() {
    let only = cpu::allowed()[0];
    // The child inherits what this thread may use.
    cpu::pin_thread(&[only]).unwrap();
    let output = compare(&["--rounds", "1"]);
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success() && output.stdout.is_empty());
    assert_eq!(
        error,
        format!(
            "compare: two CPUs are needed, one for each side of a ping-pong; this process may use only [{only}]\n"
        )
    );
}

/// What comes of it with one round: rows, and whether enough slices counted. On a busy machine too few may; then
/// it has to say so, and prints what it has.
fn rows(arguments: &[&str]) -> (Vec<Row>, bool) {
    let output = compare(&[&["--json", "--rounds", "1"], arguments].concat());
    let error = String::from_utf8(output.stderr).unwrap();
    let complete = output.status.success();
    assert!(complete || output.status.code() == Some(3) && error.contains("gave up"), "{error}");
    let text = String::from_utf8(output.stdout).unwrap();
    let rows = report::read(&text).unwrap();
    assert_eq!(report::json(&rows), text, "rows are read as they were written");
    (rows, complete)
}

fn two_cpus() -> bool {
    let enough = cpu::allowed().len() >= 2;
    if !enough {
        eprintln!("not tested: two CPUs are needed");
    }
    enough
}

#[test]
fn every_row_says_what_was_measured() {
    if !two_cpus() {
        return;
    }
    let (rows, complete) = rows(&["--job", "call", "--job", "stream", "--job", "stages", "--window", "8"]);
    let is_alone = |row: &Row| row.place("threads") == Some(1) && row.place("workers") == Some(1);
    for row in &rows {
        assert!(row.regime.is_some(), "{row:?}");
        for figure in ["ns_per_item", "ratio_to_raw", "ratio_lower", "ratio_upper", "rounds"] {
            assert!(row.value(figure).is_some_and(|value| value > 0.0), "{figure}: {row:?}");
        }
        let places: &[&str] = match row.job.as_str() {
            "call" => &["payload_bytes"],
            "stream" => &["payload_bytes", "window", "threads", "workers"],
            _ => &["window"],
        };
        assert!(places.iter().all(|place| row.place(place).is_some()), "{row:?}");
        assert!(row.job != "stream" || is_alone(row), "{row:?}");
        assert!(
            row.job != "stages" || row.place("stages").is_some() != row.place("members").is_some(),
            "{row:?}"
        );
    }
    // In `call` three contestants in three sizes and raw in one, five in `stream`, nine in `stages`, each in at least
    // one regime.
    assert!(!complete || rows.len() >= 24, "{rows:?}");
}

#[test]
fn peers_and_points_can_be_chosen() {
    if !two_cpus() {
        return;
    }
    let (rows, complete) = rows(&["--job", "call", "--peer", "rtrb", "--payload", "1024"]);
    assert!(rows.iter().all(|row| row.who == "rtrb" && row.place("payload_bytes") == Some(1024)), "{rows:?}");
    assert!(!complete || !rows.is_empty());
}

#[test]
fn several_threads_are_compared_with_one() {
    if !two_cpus() {
        return;
    }
    let (rows, complete) = rows(&["--job", "stream", "--threads", "2", "--workers", "2"]);
    let of = |who: &str, number| {
        let at =
            move |row: &&Row| ["threads", "workers"].iter().all(|place| row.place(place) == Some(number));
        rows.iter().filter(move |row| row.who == who).filter(at).collect::<Vec<_>>()
    };
    for who in ["ringmill", "crossbeam-blocking"] {
        let (one, two) = (of(who, 1), of(who, 2));
        assert!(!complete || !one.is_empty() && !two.is_empty(), "{rows:?}");
        for row in two {
            let [slowest, fastest] =
                ["slowest_thread_p999_us", "fastest_thread_p999_us"].map(|name| row.value(name).unwrap());
            assert!(slowest >= fastest && fastest > 0.0, "{row:?}");
            // Missing where no round counts for both.
            assert!(row.value("throughput_vs_one").is_none_or(|part| part > 0.0), "{row:?}");
        }
        assert!(one.iter().all(|row| row.value("throughput_vs_one").is_none()), "{rows:?}");
    }
    assert!(rows.iter().all(|row| row.who != "rtrb"), "it is between two threads: {rows:?}");
}

#[test]
fn says_that_nobody_has_a_part() {
    if !two_cpus() {
        return;
    }
    let output = compare(&["--job", "call", "--peer", "rtrb-chunks"]);
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success() && error.contains("nothing to measure"), "{error}");
}
