//! Anonymous segments, under every command.

use super::child::{hold_in_a_child, serve_in_a_child};
use super::segments::{Ours, spec};
use super::tool::{code, complaint, parsed, shmtool, text, words};
use ringmill_shm::segment::{Location, Segment};
use ringmill_shm::sys::process::user_id;
use serde_json::{Value, json};
use std::process::Command;
use std::time::{Duration, Instant};

/// What `list` says of the segments with this label.
fn listed_of(label: &str) -> Vec<Value> {
    let all = parsed(&shmtool(&["list", "--json"]));
    let of_label = |s: &&Value| s["name"].as_str().unwrap().split('@').next() == Some(label);
    all["segments"].as_array().unwrap().iter().filter(of_label).cloned().collect()
}

/// A test that waits longer hangs.
const GUARD: Duration = Duration::from_secs(60);

/// What `list` says of them once there are this many, all at this address. The tool has each segment open while it looks at it,
/// and other tests run the tool at the same time: so the memory of a dead server can stay a moment longer.
///
/// # Panics
/// If it has not come to that after [`GUARD`].
fn listed_at_rest(label: &str, address: &str, count: usize) -> Vec<Value> {
    let begun = Instant::now();
    loop {
        let all = listed_of(label);
        if all.len() == count && all.iter().all(|one| one["name"] == address) {
            return all;
        }
        assert!(begun.elapsed() < GUARD, "not {count} at {address}: {all:?}");
    }
}

#[test]
fn an_anonymous_segment_is_listed_shown_and_checked_by_its_address() {
    let label = Ours::new().name();
    let mut server = serve_in_a_child(&format!("{label}@"));
    let address = format!("{label}@{}", server.id());
    let [one] = &listed_of(&label)[..] else { panic!("{:?}", listed_of(&label)) };
    assert_eq!(
        (&one["name"], &one["state"], &one["run"]),
        (&json!(address), &json!("live"), &json!("running"))
    );
    assert_eq!(one["server_pid"], server.id());
    assert_eq!((&one["user_id"], &one["note"]), (&json!(user_id()), &Value::Null));
    assert!(one["bytes"].as_u64().unwrap() > 4096 && one["created_unix_s"].is_u64());
    let table = text(&shmtool(&["list"]));
    assert_eq!(words(&table, &address)[1], "live");

    let shown = parsed(&shmtool(&["show", "--json", &address]));
    assert_eq!((&shown["name"], &shown["state"]), (&json!(address), &json!("live")));
    assert_eq!(
        shown["server"],
        json!({"pid": server.id(), "alive": true, "stopped": false, "allowed_cpus": []})
    );
    assert!(shown["path"].as_str().unwrap().starts_with(&format!("/memfd:ringmill-{label}")));
    assert_eq!(shown["nodes"][0]["name"], "split");
    let output = shmtool(&["check", &address]);
    assert_eq!((code(&output), text(&output)), (0, format!("{address}: consistent\n")));

    for dry_run in [&[][..], &["--dry-run"]] {
        let output = shmtool(&[&["clean", "--json", &address], dry_run].concat());
        assert_eq!(code(&output), 1, "a segment that was named is left alone");
        let cleaned = parsed(&output)["segments"][0].clone();
        assert_eq!(cleaned["outcome"], "skipped");
        assert!(cleaned["reason"].as_str().unwrap().starts_with("nothing to clean: "), "{cleaned}");
    }
    let all = parsed(&shmtool(&["clean", "--dry-run", "--json"]));
    assert!(all["segments"].as_array().unwrap().iter().all(|s| s["name"] != address), "no file, no row");

    server.kill().unwrap();
    server.wait().unwrap();
    assert!(listed_at_rest(&label, &address, 0).is_empty(), "it has gone with its only process");
    for command in ["show", "check"] {
        let line = complaint(&shmtool(&[command, &address]));
        assert!(
            line.contains(&format!("no anonymous segment {label:?} in process {}", server.id())),
            "{line}"
        );
    }
    assert_eq!(code(&shmtool(&["clean", &address])), 2);
}

#[test]
fn several_anonymous_segments_of_one_label_have_addresses_of_their_own() {
    let label = Ours::new().name();
    let create = || Segment::create(Location::anonymous(&label).unwrap(), &spec()).unwrap();
    let ours = [create(), create()];
    let mut other = serve_in_a_child(&format!("{label}@"));
    let mut names: Vec<String> =
        listed_of(&label).iter().map(|s| s["name"].as_str().unwrap().to_owned()).collect();
    let mut expected: Vec<String> = ours.iter().map(|segment| segment.location().to_text()).collect();
    expected.push(format!("{label}@{}", other.id()));
    names.sort_unstable();
    expected.sort_unstable();
    assert_eq!(names, expected);
    for name in &names {
        assert_eq!(parsed(&shmtool(&["show", "--json", name]))["name"], *name);
    }
    let line = complaint(&shmtool(&["show", &format!("{label}@{}", std::process::id())]));
    assert!(ours.iter().all(|segment| line.contains(&segment.location().to_text())), "{line}");
    other.kill().unwrap();
    other.wait().unwrap();
}

/// A server that is stopped lives; and one that has died has left its memory to a process that still has it.
#[test]
fn an_anonymous_segment_of_a_stopped_server_lives_and_of_a_dead_one_is_stale() {
    let label = Ours::new().name();
    let mut server = serve_in_a_child(&format!("{label}@"));
    let address = format!("{label}@{}", server.id());
    let stopped = Command::new("kill").args(["-STOP", &server.id().to_string()]).status().unwrap();
    assert!(stopped.success());
    assert_eq!(listed_of(&label)[0]["state"], "live");
    assert_eq!(code(&shmtool(&["check", &address])), 0);
    // A process of its own has it: those that other tests start would have copies for a moment.
    let mut heir = hold_in_a_child(&address);
    server.kill().unwrap();
    server.wait().unwrap();
    let address = format!("{label}@{}", heir.id());
    let one = &listed_at_rest(&label, &address, 1)[0];
    assert_eq!((&one["state"], &one["server_pid"]), (&json!("stale"), &json!(server.id())));
    let note = one["note"].as_str().unwrap();
    assert!(note.starts_with("its memory goes with ") && note.contains(&heir.id().to_string()), "{note}");
    for command in ["show", "check"] {
        let told = text(&shmtool(&[command, &address]));
        assert!(told.contains("it goes with the last process that has it"), "{told}");
        assert!(!told.contains("shmtool clean"), "{told}");
    }
    heir.kill().unwrap();
    heir.wait().unwrap();
    assert!(listed_at_rest(&label, &address, 0).is_empty());
}
