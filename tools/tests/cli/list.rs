//! `shmtool list`.

use super::child::serve_in_a_child;
use super::segments::{Ours, busy};
use super::tool::{listed, shmtool, text, words};
use ringmill_shm::participant::Lease;
use ringmill_shm::stats::CallerCounter;
use ringmill_shm::sys::process::user_id;
use serde_json::Value;
use std::process::Command;

#[test]
fn tells_live_from_stale() {
    let (live, stale) = (Ours::new(), Ours::new());
    let segment = live.create();
    stale.create_stale();
    let one = listed(&live.name()).unwrap();
    assert_eq!(one["state"], "live");
    assert_eq!(one["run"], "running");
    assert_eq!(one["server_pid"], std::process::id());
    assert_eq!(one["bytes"], segment.total_bytes());
    assert_eq!(one["path"], live.path().to_str().unwrap());
    assert!(
        one["age_s"].as_u64().unwrap() < 600 && one["created_unix_s"].is_u64() && one["user"].is_string()
    );
    assert_eq!(one["note"], Value::Null);
    assert_eq!(listed(&stale.name()).unwrap()["state"], "stale");

    let output = text(&shmtool(&["list"]));
    assert_eq!(words(&output, &live.name())[1], "live");
    let line = words(&output, &stale.name());
    assert_eq!(line[1], "stale");
    assert!(line.contains(&"(gone)"), "{line:?}");
    assert!(output.lines().last().unwrap().contains("'shmtool clean'"), "{output}");
    assert!(output.is_ascii(), "plain when piped:\n{output}");

    drop(segment);
    assert_eq!(listed(&live.name()), None, "a server that ends in order leaves nothing");
}

#[test]
fn tells_what_each_server_does() {
    let (ours, dead) = (Ours::new(), Ours::new());
    let segment = busy(&ours);
    (0..3).for_each(|_| segment.caller_row(1).count(CallerCounter::Answered));
    dead.create_stale();
    let work = listed(&ours.name()).unwrap()["work"].clone();
    let expected =
        [("workers", 3), ("workers_ready", 2), ("capacity", 8), ("in_progress", 4), ("requests_ended", 3)];
    for (name, number) in expected {
        assert_eq!(work[name], number, "{name}");
    }
    assert!(work["requests_per_s"].as_f64().unwrap() > 0.0);
    let output = text(&shmtool(&["list"]));
    let line = words(&output, &ours.name());
    assert!(line.contains(&"2/3") && line.contains(&"4/8"), "{line:?}");
    assert!(words(&output, &dead.name()).ends_with(&["-", "-", "-"]), "{output}");
}

#[test]
fn a_stopped_server_is_told() {
    let ours = Ours::new();
    let mut server = serve_in_a_child(&ours.name());
    let state = || words(&text(&shmtool(&["list"])), &ours.name())[1..3].join(" ");
    let stopped = || listed(&ours.name()).unwrap()["stopped"].clone();
    assert_eq!(stopped(), false);
    assert!(!state().contains("stopped"), "{}", state());
    assert!(Command::new("kill").args(["-STOP", &server.id().to_string()]).status().unwrap().success());
    while stopped() == false {
        std::thread::yield_now(); // no event reports that a process of another parent has stopped
    }
    assert_eq!((stopped(), state()), (true.into(), "live, stopped".into()));
    server.kill().unwrap();
    server.wait().unwrap();
    assert_eq!(stopped(), Value::Null);
}

#[test]
fn shows_files_that_only_have_a_segments_name() {
    let (file, link, pipe, lease) = (Ours::new(), Ours::new(), Ours::new(), Ours::new());
    std::fs::write(file.path(), "another program's notes").unwrap();
    std::os::unix::fs::symlink("/etc/passwd", link.path()).unwrap();
    assert!(Command::new("mkfifo").arg(pipe.path()).status().unwrap().success());
    drop(Lease::acquire(&lease.0.lease_path(), user_id()).unwrap().unwrap());
    for (ours, state, note) in [
        (&file, "foreign", "23 bytes, less than a header"),
        (&link, "foreign", "it is a symbolic link"),
        (&pipe, "foreign", "it is not a plain file"),
        (&lease, "stale", "only a lease file, no segment"),
    ] {
        let one = listed(&ours.name()).unwrap();
        assert_eq!((one["state"].as_str(), one["note"].as_str()), (Some(state), Some(note)));
        assert_eq!(one["server_pid"], Value::Null);
    }
}
