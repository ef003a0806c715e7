//! `bench`: load at a demo.

use super::segments::Ours;
use super::tool::{code, complaint, listed, parsed, shmtool, text};
use serde_json::{Value, json};
use std::process::{Command, Output, Stdio};

/// A short run under a name of its own.
fn bench(arguments: &[&str]) -> Output {
    let name = Ours::new().name();
    let short = ["bench", "--demo", "-p", "400ms", "-r", "1", "--warm-up", "0s", "--server-name", &name];
    shmtool(&[&short, arguments].concat())
}

/// What is said to a wrong command line.
fn refused(arguments: &[&str]) -> String {
    String::from_utf8(shmtool(arguments).stderr).unwrap()
}

fn levels(report: &Value) -> Vec<f64> {
    report["measurements"].as_array().unwrap().iter().map(|of| of["level"].as_f64().unwrap()).collect()
}

#[test]
fn each_level_of_concurrency_is_measured() {
    let folder = tempfile::tempdir().unwrap();
    let csv = folder.path().join("levels.csv");
    let output =
        bench(&["--concurrency-range", "1:4:3", "--workers", "2", "--json", "-f", csv.to_str().unwrap()]);
    assert_eq!(code(&output), 0);
    let report = parsed(&output);
    assert_eq!((levels(&report), &report["mode"]), (vec![1.0, 4.0], &json!("concurrency")));
    assert_eq!(
        (&report["workers"], &report["best"], &report["is_cut"]),
        (&json!(2), &json!(4.0), &json!(false))
    );
    for of in report["measurements"].as_array().unwrap() {
        let of = |name: &str| of[name].as_f64().unwrap();
        assert!(of("ended") > 0.0 && of("throughput_per_s") == of("ended") / 0.4, "{report}");
        assert_eq!((of("errors"), of("unsent")), (0.0, 0.0));
        assert!(
            of("p50_ns") > 0.0 && of("p50_ns") <= of("p99_ns") && of("p99_ns") <= of("max_ns"),
            "{report}"
        );
        assert!(of("batch_mean") >= 1.0, "{report}");
    }
    assert_eq!(listed(report["name"].as_str().unwrap()), None, "the demo has gone");
    let csv = std::fs::read_to_string(csv).unwrap();
    let lines: Vec<Vec<&str>> = csv.lines().map(|line| line.split(',').collect()).collect();
    assert_eq!((lines.len(), &lines[0][..3]), (3, &["concurrency", "throughput_per_s", "mean_ns"][..]));
    assert!(lines[1..].iter().all(|line| line.len() == lines[0].len()), "{csv}");
    assert_eq!(lines[2][0], "4");
}

/// As long as they differ by too much, there is another window, up to a limit.
#[test]
fn a_level_is_measured_until_its_last_windows_agree() {
    let name = Ours::new().name();
    let run = |more: &[&str]| {
        let short = ["bench", "--demo", "--json", "-p", "20ms", "--warm-up", "0s", "--server-name", &name];
        parsed(&shmtool(&[&short, more].concat()))["measurements"][0].clone()
    };
    // Whatever they are, they agree within 1000 % or are as many as there may be.
    let of = run(&["-s", "1000", "-r", "50"]);
    let windows = of["windows"].as_u64().unwrap();
    assert!(windows >= 3 && (of["is_stable"] == true || windows == 50), "{of}");
    assert_eq!(of["time_ns"], 60_000_000, "{of}");
    let of = run(&["--stability-percentage", "1e-9", "--max-trials", "4"]);
    assert_eq!(
        (&of["windows"], &of["is_stable"], &of["time_ns"]),
        (&json!(4), &json!(false), &json!(60_000_000))
    );
    let of = run(&["-r", "2"]);
    assert_eq!((&of["windows"], &of["is_stable"]), (&json!(2), &Value::Null), "too few to tell");
    // None is fast enough, so there is no need for more than three.
    let of = run(&["-l", "1ns", "-s", "1e-9", "-r", "50"]);
    assert_eq!((&of["windows"], &of["within_threshold"]), (&json!(3), &json!(false)), "{of}");
}

#[test]
fn requests_at_a_rate_are_due_whatever_becomes_of_others() {
    let rate = ["--request-rate-range", "400", "--request-distribution", "poisson", "--json"];
    let report = parsed(&bench(&rate));
    assert_eq!(
        (&report["mode"], &report["request_distribution"]),
        (&json!("request_rate"), &json!("poisson"))
    );
    assert!(report["measurements"][0]["ended"].as_u64() > Some(0), "{report}");
    // One thread, one worker, and four times the work that fits into the time.
    let busy = ["--request-rate-range", "200", "--max-threads", "1", "--work", "20ms", "--json"];
    let report = parsed(&bench(&busy));
    let of = &report["measurements"][0];
    assert_eq!(of["keeps_up"], false, "{report}");
    assert!(of["max_ns"].as_u64() >= Some(40_000_000), "those that waited for the thread are slow: {report}");
    assert!(of["unsent"].as_u64() > Some(0) && of["late_p99_ns"].is_null(), "too few to tell: {report}");
    let told = text(&bench(&busy[..6])).replace('\n', " ");
    assert!(told.contains("did not keep up") && told.contains("late p99"), "{told}");
}

#[test]
fn the_highest_level_within_a_latency_is_searched_for() {
    let search = ["--concurrency-range", "1:8", "--binary-search", "--json", "--latency-threshold"];
    let report = parsed(&bench(&[&search[..], &["1h"]].concat()));
    assert_eq!((levels(&report), &report["best"]), (vec![1.0, 8.0], &json!(8.0)));
    let output = bench(&[&search[..], &["1ns"]].concat());
    assert_eq!(code(&output), 1, "none is");
    let report = parsed(&output);
    assert_eq!((levels(&report), &report["best"]), (vec![1.0], &Value::Null));
    let told = text(&bench(&["-l", "1ns", "--percentile", "50"]));
    assert!(told.contains("no level has p50 within 1 ns"), "{told}");
}

/// The demo is a server as any other; a signal ends it, and it leaves nothing.
#[test]
fn a_signal_ends_it_and_others_can_look_meanwhile() {
    for name in ["-INT", "-TERM"] {
        let ours = Ours::new();
        let mut tool = Command::new(env!("CARGO_BIN_EXE_shmtool"))
            .args(["bench", "--demo", "--json", "-p", "1h", "--warm-up", "0s", "--server-name", &ours.name()])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let busy = || listed(&ours.name()).is_some_and(|of| of["work"]["requests_ended"].as_u64() > Some(10));
        while !busy() {
            assert!(tool.try_wait().unwrap().is_none(), "it works until a signal comes");
            std::thread::yield_now(); // no event reports that it has begun
        }
        let shown = parsed(&shmtool(&["show", "--json", &ours.name()]));
        assert_eq!(
            (&shown["nodes"][0]["name"], &shown["server"]["pid"]),
            (&json!("demo"), &json!(tool.id()))
        );
        assert_eq!(code(&shmtool(&["check", &ours.name()])), 0);
        assert!(Command::new("kill").args([name, &tool.id().to_string()]).status().unwrap().success());
        let output = tool.wait_with_output().unwrap();
        let report = parsed(&output);
        assert_eq!((code(&output), &report["is_cut"]), (0, &json!(true)));
        let of = &report["measurements"][0];
        assert!(of["ended"].as_u64() > Some(10) && of["errors"] == 0, "what was seen so far: {report}");
        assert!(ours.is_gone());
    }
}

/// Symptom: after the measured time, or while workers were slow, a signal did nothing for up to a minute; and what had
/// measured nothing ended with status 0, with times of 0 ns within any threshold. Cause: each thread waited for its answer, and
/// a histogram without a time says 0.
#[test]
fn a_signal_ends_calls_in_progress_and_what_has_no_answer_says_so() {
    let ours = Ours::new();
    let mut tool = Command::new(env!("CARGO_BIN_EXE_shmtool"))
        .args([
            "bench",
            "--demo",
            "--json",
            "-p",
            "10ms",
            "-r",
            "1",
            "--warm-up",
            "0s",
            "--work",
            "1h",
            "-l",
            "1h",
        ])
        .args(["--server-name", &ours.name()])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let is_in_call = || {
        let shown = shmtool(&["requests", "--json", &ours.name()]);
        code(&shown) == 0 && parsed(&shown)["requests"].as_array().is_some_and(|all| !all.is_empty())
    };
    while !is_in_call() {
        assert!(tool.try_wait().unwrap().is_none(), "it waits for its answer");
        std::thread::yield_now(); // no event reports that it has begun
    }
    assert!(Command::new("kill").args(["-TERM", &tool.id().to_string()]).status().unwrap().success());
    let output = tool.wait_with_output().unwrap();
    let report = parsed(&output);
    assert_eq!((code(&output), &report["is_cut"]), (1, &json!(true)), "{report}");
    for of in report["measurements"].as_array().unwrap() {
        assert_eq!((&of["ended"], &of["within_threshold"]), (&json!(0), &json!(false)), "{report}");
        let none = ["mean_ns", "p50_ns", "p99_ns", "max_ns", "percentile_ns"];
        assert!(none.iter().all(|name| of[name].is_null()), "{report}");
    }
    assert!(ours.is_gone());
}

/// At a rate so low that none is due.
#[test]
fn a_level_without_a_request_is_no_success() {
    let rare = ["--request-rate-range", "0.01", "-f", "/dev/null"];
    let output = bench(&[&rare[..], &["--json"]].concat());
    let report = parsed(&output);
    let of = &report["measurements"][0];
    assert_eq!((code(&output), &of["keeps_up"], &of["mean_ns"]), (1, &json!(true), &Value::Null), "{report}");
    let told = String::from_utf8(bench(&rare).stdout).unwrap();
    assert!(told.contains("nothing was answered within 400 ms"), "{told}");
}

#[test]
fn a_file_that_cannot_be_written_is_found_before_the_run() {
    let told = complaint(&shmtool(&["bench", "--demo", "-p", "1h", "-f", "/dev/null/levels.csv"]));
    assert!(told.contains("cannot write /dev/null/levels.csv"), "{told}");
}

#[test]
fn what_cannot_be_driven_is_refused() {
    let told = complaint(&shmtool(&["bench", "digits"]));
    assert!(
        told.contains("cannot send requests to \"digits\"") && told.contains("'shmtool bench --demo'"),
        "{told}"
    );
    for wrong in [
        &["bench"][..],
        &["bench", "digits", "--demo"],
        &["bench", "--demo", "--concurrency-range", "0"],
        &["bench", "--demo", "--concurrency-range", "1.5"],
        &["bench", "--demo", "--concurrency-range", "1:2000"],
        &["bench", "--demo", "--concurrency-range", "1", "--request-rate-range", "1"],
        &["bench", "--demo", "--binary-search"],
        &["bench", "--demo", "--request-distribution", "poisson"],
        &["bench", "--demo", "--percentile", "101"],
        &["bench", "--demo", "--request-rate-range", "1e300"],
        &["bench", "--demo", "--request-rate-range", "1e-300"],
        &["bench", "--demo", "--request-rate-range", "1:1000:1e-9"],
        &["bench", "--demo", "--warm-up", "1000000y"],
        &["bench", "--demo", "-p", "1000000y"],
        &["bench", "--demo", "--work", "61min"],
        &["bench", "--demo", "--batch-wait", "61min"],
        &["bench", "--demo", "-l", "0s"],
        &["bench", "--demo", "-s", "0"],
        &["bench", "--demo", "-s", "NaN"],
        &["bench", "--demo", "-r", "0"],
        &["bench", "--demo", "-r", "101"],
    ] {
        assert_eq!(code(&shmtool(wrong)), 2, "{wrong:?}");
    }
    for negative in ["--concurrency-range", "--request-rate-range"] {
        let told = refused(&["bench", "--demo", negative, "-1:5"]);
        assert!(told.contains("\"-1\" is no number above 0"), "{told}");
    }
    let told = refused(&["bench", "--demo", "--percentile", "-1"]);
    assert!(told.contains("it is above 0"), "{told}");
    let told = refused(&["bench"]);
    assert!(told.contains("'shmtool bench --demo'") && !told.contains("shmtool list"), "{told}");
}
