//! `shmtool list`.

use super::segments::Ours;
use super::tool::{listed, shmtool, text, words};
use ringmill_shm::participant::Lease;
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
