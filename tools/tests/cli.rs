//! The built binary on real segments.
//!
//! `clean` without names would remove every stale segment of the machine, so here it is only a dry run.

use ringmill_shm::arena::{Filling, Task};
use ringmill_shm::layout::{Class, NodeFacts};
use ringmill_shm::lock::Acquired;
use ringmill_shm::participant::{Lease, Life, Role};
use ringmill_shm::party::{Participant, Reader};
use ringmill_shm::plan::{Fork, ForkMember, Switch, Target};
use ringmill_shm::segment::{Location, NodeSpec, Segment, Spec};
use ringmill_shm::stats::{Closed, Counter};
use ringmill_shm::sys::process::user_id;
use ringmill_shm::token::Token;
use serde_json::{Value, json};
use std::io::{BufRead, BufReader};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

#[expect(unsafe_code, reason = "the contract of guards")]
fn act(segment: &Segment, token: Token) -> Participant<'_> {
    // SAFETY: each test has one guard of a task at a time, and uses none of the dead.
    unsafe { segment.take_part(token) }
}

#[expect(unsafe_code, reason = "the contract of guards")]
fn begin(segment: &Segment, id: u32, client: Token) -> Filling<'_> {
    // SAFETY: as in `act`.
    unsafe { act(segment, client).client().begin(Task::new(segment, id).unwrap()) }
}

/// The next incarnation of a row.
#[expect(unsafe_code, reason = "the contract of a row")]
fn prepare(segment: &Segment, row: u32) -> Token {
    // SAFETY: its row; no test prepares a row twice.
    unsafe { segment.participants()[row as usize].prepare(row) }
}

fn read(segment: &Segment, node: u32, me: Token) -> Reader<'_> {
    let reader = act(segment, me).read(segment.node(node).unwrap(), 0, || true).unwrap();
    assert_eq!(reader.acquired(), Acquired::Free);
    reader
}

/// The token of an incarnation that there never was.
fn of_no_participant() -> Token {
    Token::from_raw(77 << 10 | 2).unwrap()
}

/// A segment's location of our own; dropping it removes the files.
struct Ours(Location);

impl Ours {
    fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let n = COUNT.fetch_add(1, Ordering::Relaxed);
        Self(Location::named(&format!("shmtool-test-{}-{n}", std::process::id())).unwrap())
    }

    fn name(&self) -> String {
        self.0.to_text()
    }

    fn path(&self) -> PathBuf {
        self.0.path()
    }

    fn create(&self) -> Segment {
        Segment::create(self.0.clone(), &spec()).unwrap()
    }

    /// A segment whose server has died.
    fn create_stale(&self) {
        self.create().keep_files();
        assert!(self.path().exists() && self.0.lease_path().exists());
    }

    fn is_gone(&self) -> bool {
        // Not `exists`, which follows links.
        [self.path(), self.0.lease_path()].iter().all(|path| path.symlink_metadata().is_err())
    }
}

impl Drop for Ours {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(self.path());
        let _ = std::fs::remove_file(self.0.lease_path());
    }
}

/// Two nodes: two pinned worker processes that feed one worker thread.
fn spec() -> Spec {
    Spec {
        requests: 8,
        tasks_per_request: 1,
        classes: vec![Class { block_bytes: 1024, count: 4 }, Class { block_bytes: 65_536, count: 2 }],
        partials: Default::default(),
        payload_format: 7,
        nodes: vec![
            NodeSpec {
                name: "split".into(),
                worker_type: "Splitter".into(),
                config: Vec::new(),
                facts: NodeFacts {
                    type_hash: 1,
                    batch_size: 32,
                    batch_wait_ns: 200_000,
                    wait_is_stated: true.into(),
                    ..NodeFacts::default()
                },
                next: Target::Node(1),
                role: Role::ProcessWorker,
                workers: vec![vec![0, 1], vec![2]],
            },
            NodeSpec {
                name: "classify".into(),
                worker_type: "Classifier".into(),
                config: Vec::new(),
                facts: NodeFacts { type_hash: 2, ..NodeFacts::default() },
                next: Target::End,
                role: Role::ThreadWorker,
                workers: vec![vec![]],
            },
        ],
        forks: Vec::new(),
        switches: Vec::new(),
    }
}

fn shmtool(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_shmtool")).args(arguments).stdin(Stdio::null()).output().unwrap()
}

fn code(output: &Output) -> i32 {
    output.status.code().expect("it was not killed")
}

fn text(output: &Output) -> String {
    assert_eq!(String::from_utf8_lossy(&output.stderr), "", "nothing but the report");
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn parsed(output: &Output) -> Value {
    serde_json::from_str(&text(output)).unwrap()
}

/// The one line that says what is wrong; the tool prints nothing else.
fn complaint(output: &Output) -> String {
    assert_eq!(code(output), 2);
    assert_eq!(String::from_utf8_lossy(&output.stdout), "");
    let line = String::from_utf8(output.stderr.clone()).unwrap();
    assert_eq!(line.lines().count(), 1, "{line}");
    line
}

/// What `list` says of one segment.
fn listed(name: &str) -> Option<Value> {
    let all = parsed(&shmtool(&["list", "--json"]));
    all["segments"].as_array().unwrap().iter().find(|s| s["name"] == name).cloned()
}

/// The words of the line that begins with `first`.
fn words<'t>(text: &'t str, first: &str) -> Vec<&'t str> {
    let words = |line: &'t str| line.split_whitespace().collect::<Vec<_>>();
    text.lines()
        .map(words)
        .find(|w| w.first() == Some(&first))
        .unwrap_or_else(|| panic!("no {first} in:\n{text}"))
}

// --- list

#[test]
fn list_tells_live_from_stale() {
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
fn list_shows_files_that_only_have_a_segments_name() {
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

#[test]
fn a_segment_of_another_version_is_listed_and_not_read() {
    let ours = Ours::new();
    ours.create_stale();
    write_at(&ours.path(), 8, &99_u32.to_le_bytes());
    let one = listed(&ours.name()).unwrap();
    assert_eq!(one["state"], "stale");
    assert!(
        one["note"].as_str().unwrap().starts_with("it has layout version 99, this program reads "),
        "{one}"
    );
    let line = complaint(&shmtool(&["show", &ours.name()]));
    assert!(line.contains("layout version 99"), "{line}");
    assert_eq!(code(&shmtool(&["clean", &ours.name()])), 0, "its lease is free, and that is enough");
    assert!(ours.is_gone());
}

// --- show

/// A segment at work, as its participants would leave it.
fn busy(ours: &Ours) -> Segment {
    let segment = ours.create();
    let server = Token::SERVER;
    let entries = segment.participants();
    let ready = |row: u32| {
        let token = prepare(&segment, row);
        segment.lease().hold(token).unwrap();
        entries[row as usize].arrive();
        entries[row as usize].set_life(Life::Ready);
        token
    };
    let first = ready(1);
    let second = ready(2);
    // The second has died unnoticed; the third could not be constructed.
    #[expect(unsafe_code, reason = "the contract of a lease")]
    // SAFETY: nothing has acted under it.
    unsafe {
        segment.lease().release(second);
    }
    prepare(&segment, 3);
    entries[3].fail(b"no model at ./weights");

    let counters = entries[1].counters();
    counters.count_batch(32, Closed::Full);
    counters.count_batch(7, Closed::Window);
    counters.count(Counter::Errors);
    entries[2].counters().count_batch(3, Closed::Empty);

    let split = segment.node(0).unwrap();
    let mut reader = read(&segment, 0, first);
    split.doorbell().announce(1);
    for id in 0..4 {
        let mut filling = begin(&segment, id, server);
        match id {
            0 => {
                let bytes = filling.block_buffer(1000).unwrap().room();
                filling.set_length(bytes);
            }
            3 => continue, // still being written
            _ => filling.set_length(0),
        }
        filling.queue(0);
        split.ring().push(id).unwrap();
    }
    let _ = reader.claim(0).unwrap();
    reader.set_head(1);
    std::mem::forget(reader); // it has the lock
    segment
}

#[test]
fn show_lists_ensembles_and_switches_with_their_members() {
    let ours = Ours::new();
    let mut spec = spec();
    let member = |entry| ForkMember { entry, root_bytes: 4, root_align: 4 };
    spec.tasks_per_request = 3;
    spec.nodes[0].next = Target::End;
    spec.forks = vec![Fork {
        name: "both".into(),
        fail_fast: true,
        form: 0,
        parent: 0,
        first: 0,
        end: 2,
        next: Target::End,
        members: vec![member(Target::Node(0)), member(Target::Switch(0))],
    }];
    spec.switches =
        vec![Switch { name: "one".into(), node: None, members: vec![Target::Node(1), Target::Node(0)] }];
    let segment = Segment::create(Location::named(&ours.name()).unwrap(), &spec).unwrap();
    let shown = parsed(&shmtool(&["show", &ours.name(), "--json"]));
    assert_eq!(
        shown["ensembles"],
        json!([{"name": "both", "members": ["split", "one"], "fail_fast": true, "next": null}])
    );
    assert_eq!(shown["switches"], json!([{"name": "one", "members": ["classify", "split"]}]));
    let page = text(&shmtool(&["show", &ours.name()]));
    assert!(
        page.contains("Ensembles") && page.contains("split, one") && page.contains("classify, split"),
        "{page}"
    );
    drop(segment);
}

#[test]
fn show_tells_the_threads_of_a_worker_apart() {
    let ours = Ours::new();
    let mut spec = spec();
    spec.nodes[0].facts.threads = 2;
    let segment = Segment::create(Location::named(&ours.name()).unwrap(), &spec).unwrap();
    let split = segment.node(0).unwrap();
    split.doorbell().announce(3);
    let last = split.workers()[3].token().unwrap_or_else(|| prepare(&segment, 4));
    std::mem::forget(read(&segment, 0, last));
    let shown = parsed(&shmtool(&["show", &ours.name(), "--json"]));
    let threads: Vec<_> =
        (0..4).map(|i| (&shown["workers"][i]["worker"], &shown["workers"][i]["thread"])).collect();
    let number = |n: u32| json!(n);
    assert_eq!(
        threads,
        [
            (&number(0), &number(0)),
            (&number(0), &number(1)),
            (&number(1), &number(0)),
            (&number(1), &number(1)),
        ]
    );
    assert_eq!((&shown["nodes"][0]["threads"], &shown["nodes"][0]["sleeping"]), (&json!(2), &json!([3])));
    assert_eq!(shown["nodes"][0]["lock_holder"]["worker"], "split/1.1");
    let text = text(&shmtool(&["show", &ours.name()]));
    assert_eq!(words(&text, "split/1.1")[1], "starting");
    assert!(text.contains("\n  workers   0 of 5 ready, 1 starting, split/1.1 for 0 s\n"), "{text}");
    let since = |worker: usize| &shown["workers"][worker]["state_s"];
    assert!(since(3).as_f64().is_some_and(|seconds| (0.0..60.0).contains(&seconds)), "{}", since(3));
    assert_eq!(since(0), &Value::Null);
    assert_eq!(words(&text, "classify/0")[1], "vacant");
}

#[test]
fn show_reports_nodes_workers_requests_and_blocks() {
    let ours = Ours::new();
    let segment = busy(&ours);
    let me = std::process::id();
    let output = shmtool(&["show", &ours.name(), "--json"]);
    assert_eq!(code(&output), 0);
    let mut shown = parsed(&output);
    let since = shown["workers"][0].as_object_mut().unwrap().remove("state_s").unwrap();
    assert!(since.as_f64().is_some_and(|seconds| (0.0..60.0).contains(&seconds)), "{since}");
    assert_eq!((&shown["state"], &shown["run"]), (&json!("live"), &json!("running")));
    assert_eq!(shown["server"], json!({"pid": me, "alive": true}));
    assert_eq!(shown["fingerprint"], format!("{:#018x}", segment.identity().fingerprint));
    assert_eq!((&shown["capacity"], &shown["largest_payload_bytes"]), (&json!(8), &json!(65_536)));
    assert_eq!(
        shown["requests"],
        json!({"free": 4, "filling": 1, "queued": 2, "claimed": 1, "forked": 0, "done": 0, "joining": 0})
    );
    assert_eq!(
        shown["nodes"][0],
        json!({
            "index": 0, "name": "split", "worker_type": "Splitter", "batch_size": 32,
            "batch_wait_ns": 200_000, "wait_is_stated": true, "log_batches_every": 0, "next": "classify", "ring": {"depth": 2, "cells": 16},
            "lock_holder": {"participant": 1, "worker": "split/0", "pid": me, "alive": true},
            "on_death": "fail", "down": null, "threads": 1, "sleeping": [1],
        })
    );
    assert_eq!((&shown["nodes"][1]["lock_holder"], &shown["nodes"][1]["next"]), (&Value::Null, &Value::Null));
    assert_eq!(
        shown["workers"][0],
        json!({
            "node": "split", "worker": 0, "thread": 0, "participant": 1, "state": "ready", "alive": true,
            "role": "process_worker", "pid": me, "restarts": 0, "in_call": false,
            "cpus": [0, 1], "message": null,
            "counters": {
                "batches": 2, "items": 39, "batch_min": 7, "batch_mean": 19.5, "batch_max": 32,
                "closed_full": 1, "closed_window": 1, "closed_empty": 0, "closed_shutdown": 0,
                "errors": 1, "panics": 0, "skipped": 0, "events_dropped": 0,
            },
        })
    );
    assert_eq!(
        (&shown["workers"][1]["state"], &shown["workers"][1]["alive"]),
        (&json!("ready"), &json!(false))
    );
    assert_eq!(shown["workers"][2]["message"], "no model at ./weights");
    assert_eq!(
        shown["blocks"],
        json!([
            {"block_bytes": 1024, "in_use": 1, "count": 4},
            {"block_bytes": 65_536, "in_use": 0, "count": 2},
        ])
    );

    let text = text(&shmtool(&["show", &ours.name()]));
    assert!(text.starts_with(&format!("{}: running, server pid {me}, made ", ours.name())), "{text}");
    let pid = me.to_string();
    assert_eq!(
        words(&text, "split"),
        ["split", "Splitter", "32", "200", "µs", "2", "16", "split/0", "1", "of", "2", "classify"]
    );
    assert_eq!(
        words(&text, "split/0"),
        ["split/0", "ready", "process", &pid, "0", "0-1", "1", "0", "0", "0"]
    );
    assert_eq!(words(&text, "split/1")[1], "dead", "whatever it last said");
    assert_eq!(words(&text, "classify/0")[1], "failed");
    assert!(text.contains("classify/0 failed: no model at ./weights\n"), "{text}");
    assert!(text.contains("\n  workers   1 of 3 ready\n"), "{text}");
    assert_eq!(words(&text, "all"), ["all", "3", "42", "3", "14.0", "32", "1", "1", "1", "0"]);
    assert!(text.lines().all(|line| line.chars().count() <= 100), "{text}");
}

#[test]
fn show_reads_a_segment_that_lies_in_a_file() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("seg");
    let segment = Segment::create(Location::File(path.clone()), &spec()).unwrap();
    let shown = parsed(&shmtool(&["show", "--json", path.to_str().unwrap()]));
    assert_eq!(shown["name"], path.to_str().unwrap());
    assert_eq!(shown["state"], "live");
    drop(segment);
}

#[test]
fn show_of_a_stale_segment_says_that_it_is_stale() {
    let ours = Ours::new();
    ours.create_stale();
    let output = text(&shmtool(&["show", &ours.name()]));
    let first = output.lines().next().unwrap();
    assert!(
        first.contains("stale") && first.contains(&format!("'shmtool clean {}'", ours.name())),
        "{first}"
    );
    let shown = parsed(&shmtool(&["show", &ours.name(), "--json"]));
    assert_eq!((&shown["state"], &shown["server"]["alive"]), (&json!("stale"), &json!(false)));
}

#[test]
fn a_missing_name_is_told_in_one_line_that_helps() {
    let ours = Ours::new();
    for command in ["show", "check"] {
        for json in [&[][..], &["--json"]] {
            let output = shmtool(&[&[command, &ours.name()], json].concat());
            let line = complaint(&output);
            assert!(line.contains(&ours.name()) && line.contains("'shmtool list'"), "{line}");
        }
    }
    let line = complaint(&shmtool(&["show", "no/such/file"]));
    assert!(line.contains("no/such/file"), "{line}");
    let line = complaint(&shmtool(&["show", "a b"]));
    assert!(line.contains("cannot name a segment"), "{line}");
}

#[test]
fn a_file_that_is_no_segment_is_not_read() {
    let directory = tempfile::tempdir().unwrap();
    let ours = Ours::new();
    let _segment = ours.create();
    let (notes, link) = (directory.path().join("notes"), directory.path().join("link"));
    std::fs::write(&notes, [b'x'; 8192]).unwrap();
    std::os::unix::fs::symlink(ours.path(), &link).unwrap();
    for (path, why) in [
        (&notes, "its first bytes are another program's"),
        (&link, "it is a symbolic link"),
        (&directory.path().to_path_buf(), "it is a directory"),
    ] {
        for command in ["show", "check"] {
            let line = complaint(&shmtool(&[command, path.to_str().unwrap()]));
            assert!(line.contains(path.to_str().unwrap()) && line.contains(why), "{line}");
        }
    }
}

#[test]
fn a_file_that_others_may_read_is_not_read() {
    let ours = Ours::new();
    let _segment = ours.create();
    for (path, what) in
        [(ours.path(), "it has mode 0644"), (ours.0.lease_path(), "its lease file has mode 0644")]
    {
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o644)).unwrap();
        for command in ["show", "check"] {
            let line = complaint(&shmtool(&[command, &ours.name()]));
            assert!(line.contains(what), "{line}");
        }
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).unwrap();
    }
}

/// Only the file's owner can do that; the tool ends with a message.
#[test]
fn a_file_made_shorter_while_it_is_read_is_a_message() {
    for _ in 0..100 {
        let ours = Ours::new();
        let segment = ours.create();
        // With a problem, so that it looks several times, with a pause in between.
        let _ = begin(&segment, 5, of_no_participant());
        let mut command = Command::new(env!("CARGO_BIN_EXE_shmtool"));
        command.args(["check", &ours.name()]).stdin(Stdio::null());
        let mut tool = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let maps = format!("/proc/{}/maps", tool.id());
        let path = ours.path();
        while !std::fs::read_to_string(&maps).unwrap_or_default().contains(path.to_str().unwrap())
            && tool.try_wait().unwrap().is_none()
        {
            std::thread::yield_now(); // no event reports that a file was mapped
        }
        std::fs::File::options().write(true).open(&path).unwrap().set_len(0).unwrap();
        let output = tool.wait_with_output().unwrap();
        drop(segment);
        if code(&output) == 2 {
            let told = String::from_utf8(output.stderr).unwrap();
            assert_eq!(told, "shmtool: the segment's file was made shorter while it was read\n");
            return;
        }
        assert_eq!(code(&output), 1, "the tool was faster: {output:?}");
    }
    panic!("the tool was always faster");
}

// --- check

#[test]
fn check_finds_a_segment_at_work_consistent() {
    let ours = Ours::new();
    let _segment = busy(&ours);
    let output = shmtool(&["check", &ours.name()]);
    assert_eq!(code(&output), 0, "{output:?}");
    assert_eq!(text(&output), format!("{}: consistent\n", ours.name()));
    let checked = parsed(&shmtool(&["check", "--json", &ours.name()]));
    assert_eq!((&checked["consistent"], &checked["problems"]), (&json!(true), &json!([])));
}

#[test]
fn check_prints_each_problem_and_exits_with_1() {
    let ours = Ours::new();
    let segment = ours.create();
    // A client that never lived writes a request, and holds the lock of the second node.
    let _ = begin(&segment, 5, of_no_participant());
    std::mem::forget(read(&segment, 1, of_no_participant()));
    let output = shmtool(&["check", &ours.name()]);
    assert_eq!(code(&output), 1);
    let output = text(&output);
    assert!(output.starts_with(&format!("{}: 2 problems\n", ours.name())), "{output}");
    assert!(output.contains("task 5: its owner is dead"), "{output}");

    let output = shmtool(&["check", &ours.name(), "--json"]);
    assert_eq!(code(&output), 1);
    let checked = parsed(&output);
    assert_eq!(checked["consistent"], false);
    assert_eq!(
        (&checked["problems"][0]["kind"], &checked["problems"][0]["task"]),
        (&json!("dead_owner"), &json!(5))
    );
    let holder = &checked["problems"][1];
    assert_eq!(
        (&holder["kind"], &holder["token"]),
        (&json!("dead_holder"), &json!(of_no_participant().raw()))
    );
    assert!(holder["message"].as_str().unwrap().contains("reader lock"), "{holder}");
    let shown = parsed(&shmtool(&["show", &ours.name(), "--json"]));
    assert_eq!(shown["nodes"][1]["lock_holder"]["alive"], false);
}

// --- clean

#[test]
fn clean_removes_a_killed_servers_files_and_a_dry_run_does_not() {
    let ours = Ours::new();
    let mut server = serve_in_a_child(&ours.name());
    assert_eq!(listed(&ours.name()).unwrap()["state"], "live");
    assert_eq!(listed(&ours.name()).unwrap()["server_pid"], server.id());
    let output = shmtool(&["clean", "--json", &ours.name()]);
    assert_eq!(code(&output), 1, "a segment that was named is left alone");
    assert_eq!(parsed(&output)["segments"][0]["outcome"], "live");
    server.kill().unwrap();
    server.wait().unwrap();

    for arguments in [&["clean", "--dry-run", "--json"][..], &["clean", "--dry-run", "--json", &ours.name()]]
    {
        let output = shmtool(arguments);
        assert_eq!(code(&output), 0);
        let dry_run = parsed(&output);
        assert_eq!(dry_run["dry_run"], true);
        let all = dry_run["segments"].as_array().unwrap();
        let one = all.iter().find(|s| s["name"] == ours.name()).unwrap();
        assert_eq!(one["outcome"], "would_remove");
        assert!(ours.path().exists() && ours.0.lease_path().exists());
    }
    let output = text(&shmtool(&["clean", "--dry-run", &ours.name()]));
    assert!(output.contains("would remove") && output.contains("its server has died"), "{output}");

    let output = shmtool(&["clean", &ours.name()]);
    assert_eq!(code(&output), 0);
    let output = text(&output);
    assert_eq!(words(&output, "removed")[1], ours.name());
    assert!(output.lines().last().unwrap().starts_with("Removed 1 segment, "), "{output}");
    assert!(ours.is_gone());
    assert_eq!(listed(&ours.name()), None);
}

#[test]
fn clean_leaves_live_segments_and_foreign_files_alone() {
    let (live, foreign, link, stale) = (Ours::new(), Ours::new(), Ours::new(), Ours::new());
    let segment = live.create();
    std::fs::write(foreign.path(), "another program's notes").unwrap();
    std::os::unix::fs::symlink(live.path(), link.path()).unwrap();
    stale.create_stale();
    let names = [live.name(), foreign.name(), link.name(), stale.name()];
    let mut arguments = vec!["clean"];
    arguments.extend(names.iter().map(String::as_str));
    arguments.push("--json");
    let output = shmtool(&arguments);
    assert_eq!(code(&output), 1);
    let cleaned = parsed(&output);
    let outcomes: Vec<_> = cleaned["segments"].as_array().unwrap().iter().map(|s| &s["outcome"]).collect();
    assert_eq!(outcomes, ["live", "foreign", "foreign", "removed"]);
    assert!(live.path().exists() && live.0.lease_path().exists());
    assert_eq!(std::fs::read_to_string(foreign.path()).unwrap(), "another program's notes");
    assert!(link.path().is_symlink());
    assert!(
        !foreign.0.lease_path().exists() && !link.0.lease_path().exists(),
        "and no lease file is created"
    );
    assert!(stale.is_gone());

    let output = text(&shmtool(&["clean", &foreign.name(), &live.name()]));
    assert!(output.contains("left alone") && output.contains("not a ringmill segment"), "{output}");
    assert!(output.contains("its server lives") && output.contains("Nothing is stale."), "{output}");
    drop(segment);
}

#[test]
fn clean_does_not_take_an_empty_file_for_an_unfinished_segment() {
    let directory = tempfile::tempdir().unwrap();
    let (empty, zeros) = (directory.path().join("empty"), directory.path().join("zeros"));
    std::fs::write(&empty, "").unwrap();
    std::fs::write(&zeros, [0; 8192]).unwrap();
    for path in [&empty, &zeros] {
        let output = shmtool(&["clean", path.to_str().unwrap(), "--json"]);
        assert_eq!(code(&output), 1);
        assert_eq!(parsed(&output)["segments"][0]["outcome"], "foreign");
        assert!(path.exists());
    }
    // With mode 0600 and a free lease beside it, it looks like the file of a creator that died early.
    std::fs::set_permissions(&zeros, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    drop(Lease::acquire(&Location::File(zeros.clone()).lease_path(), user_id()).unwrap().unwrap());
    assert_eq!(code(&shmtool(&["clean", zeros.to_str().unwrap()])), 0);
    assert!(!zeros.exists());
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1, "the empty file is left");
}

#[test]
fn clean_does_not_take_a_file_with_content_for_a_lease() {
    let ours = Ours::new();
    std::fs::write(ours.0.lease_path(), "a contract").unwrap();
    let output = shmtool(&["clean", &ours.name(), "--json"]);
    assert_eq!(parsed(&output)["segments"][0]["outcome"], "foreign");
    assert_eq!(std::fs::read_to_string(ours.0.lease_path()).unwrap(), "a contract");
}

#[test]
fn clean_of_a_missing_name_fails_and_does_the_others() {
    let (missing, stale) = (Ours::new(), Ours::new());
    stale.create_stale();
    let output = shmtool(&["clean", &missing.name(), &stale.name(), "--json"]);
    assert_eq!(code(&output), 2);
    let cleaned = parsed(&output);
    assert_eq!(cleaned["segments"][0]["outcome"], "missing");
    assert_eq!(cleaned["segments"][1]["outcome"], "removed");
    assert!(missing.is_gone() && stale.is_gone());

    stale.create_stale();
    complaint(&shmtool(&["clean", &stale.name(), "a b"]));
    assert!(stale.path().exists(), "an invalid name is found before the first segment is removed");
}

// --- output and usage

#[test]
fn a_reader_that_has_gone_is_not_an_error() {
    let ours = Ours::new();
    let _segment = ours.create();
    for arguments in [&["list"][..], &["show", &ours.name()], &["--help"]] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let mut command = Command::new(env!("CARGO_BIN_EXE_shmtool"));
        let output = command.args(arguments).stdout(writer).stderr(Stdio::piped()).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stderr), "");
        assert_eq!(code(&output), 0);
    }
}

#[test]
fn wrong_usage_exits_with_2_and_help_has_examples() {
    assert_eq!(code(&shmtool(&[])), 2);
    for command in ["show", "check"] {
        let output = shmtool(&[command]);
        let message = String::from_utf8_lossy(&output.stderr);
        assert!(
            code(&output) == 2 && message.contains("tip: 'shmtool list' shows all segments"),
            "{message}"
        );
    }
    assert_eq!(code(&shmtool(&["polish"])), 2);
    for command in ["", "list", "show", "check", "clean"] {
        let arguments: Vec<&str> = [command, "--help"].into_iter().filter(|word| !word.is_empty()).collect();
        let help = text(&shmtool(&arguments));
        assert!(help.contains("Examples:"), "{help}");
        assert!(help.lines().all(|line| line.chars().count() <= 80), "{help}");
    }
}

/// The names of all fields of a document.
fn fields(value: &Value, into: &mut Vec<String>) {
    match value {
        Value::Object(map) => {
            for (name, value) in map {
                into.push(name.clone());
                fields(value, into);
            }
        }
        Value::Array(all) => all.iter().for_each(|value| fields(value, into)),
        _ => {}
    }
}

#[test]
fn help_names_every_field_of_the_json() {
    let (ours, broken) = (Ours::new(), Ours::new());
    let segment = busy(&ours);
    let of_broken = broken.create();
    let _ = begin(&of_broken, 5, of_no_participant());
    let as_for_list = text(&shmtool(&["list", "--help"]));
    for (command, name) in
        [("list", None), ("show", Some(&ours)), ("check", Some(&broken)), ("clean", Some(&ours))]
    {
        let name = name.map(Ours::name);
        let mut arguments = vec![command, "--json"];
        arguments.extend(name.as_deref());
        let mut names = Vec::new();
        fields(&parsed(&shmtool(&arguments)), &mut names);
        let help = text(&shmtool(&[command, "--help"]));
        for name in names {
            let mut words = help.split(|c: char| !c.is_alphanumeric() && c != '_');
            let known = words.any(|word| word == name) || (command != "clean" && as_for_list.contains(&name));
            assert!(known, "{command} --help does not name {name}");
        }
    }
    drop((segment, of_broken));
}

// --- anonymous segments

/// What `list` says of the segments with this label.
fn listed_of(label: &str) -> Vec<Value> {
    let all = parsed(&shmtool(&["list", "--json"]));
    let of_label = |s: &&Value| s["name"].as_str().unwrap().split('@').next() == Some(label);
    all["segments"].as_array().unwrap().iter().filter(of_label).cloned().collect()
}

/// What `list` says of them once there are this many, and no process that passes by has them: the tool has the segments that
/// it looks at open, and other tests run it just now.
fn listed_at_rest(label: &str, address: &str, count: usize) -> Vec<Value> {
    let begun = std::time::Instant::now();
    loop {
        let all = listed_of(label);
        if all.len() == count && all.iter().all(|one| one["name"] == address) {
            return all;
        }
        assert!(begun.elapsed().as_secs() < 60, "{all:?}");
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
    assert_eq!(shown["server"], json!({"pid": server.id(), "alive": true}));
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

// --- a server in a process of its own

const CHILD: &str = "SHMTOOL_TEST_SEGMENT";
const HOLDER: &str = "SHMTOOL_TEST_HELD_SEGMENT";

/// A process that has created a segment and sleeps.
fn serve_in_a_child(name: &str) -> std::process::Child {
    in_a_child(CHILD, name)
}

/// A process that has a segment of another one, and sleeps.
fn hold_in_a_child(address: &str) -> std::process::Child {
    in_a_child(HOLDER, address)
}

fn in_a_child(variable: &str, name: &str) -> std::process::Child {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child_that_serves", "--ignored", "--nocapture"])
        .env(variable, name)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let said = BufReader::new(child.stdout.as_mut().unwrap()).lines();
    let ready = said.map_while(Result::ok).any(|line| line.ends_with("serving"));
    assert!(ready, "the child ended before it served");
    child
}

#[test]
#[ignore = "not a test: a server that other tests start and kill"]
fn child_that_serves() {
    let _segment = match (std::env::var(CHILD), std::env::var(HOLDER)) {
        (Ok(name), _) => {
            // With an @ at its end it is a label.
            let location = name.strip_suffix('@').map_or_else(|| Location::named(&name), Location::anonymous);
            Segment::create(location.unwrap(), &spec()).unwrap()
        }
        (_, Ok(address)) => Segment::inspect(Location::parse(&address).unwrap()).unwrap(),
        _ => return,
    };
    println!("serving");
    // Until the test kills this process, or ends itself.
    let _ = std::io::stdin().read_line(&mut String::new());
}

fn write_at(path: &Path, offset: u64, bytes: &[u8]) {
    let file = std::fs::OpenOptions::new().write(true).open(path).unwrap();
    file.write_all_at(bytes, offset).unwrap();
}

#[test]
fn show_says_once_why_a_servlet_is_down() {
    let ours = Ours::new();
    let segment = busy(&ours);
    let node = segment.node(1).unwrap();
    let why = "each of its workers died more than 8 times in a row; the last one ended: killed by signal 11";
    node.workers()[0].fail(why.as_bytes());
    node.doorbell().set_down();
    let shown = parsed(&shmtool(&["show", &ours.name(), "--json"]));
    assert_eq!((&shown["nodes"][0]["down"], &shown["nodes"][1]["down"]), (&Value::Null, &json!(why)));
    let screen = text(&shmtool(&["show", &ours.name()]));
    assert!(screen.contains(&format!("classify is down: {why}\n")), "{screen}");
    assert_eq!(screen.matches("died more than").count(), 1, "said once: {screen}");
    node.doorbell().set_up();
    assert_eq!(parsed(&shmtool(&["show", &ours.name(), "--json"]))["nodes"][1]["down"], Value::Null);
}

/// Symptom: a segment's path, a worker's message or a servlet's name could control a terminal. Cause: the tool escaped only some
/// texts of other processes, and C1 controls and direction marks came through JSON. Fix: the tool escapes every text where it
/// enters a report and again where it leaves.
#[test]
fn texts_of_other_processes_cannot_control_a_terminal() {
    let unruly = "\x1b]0;owned\x07\x1b[2J\n\r\u{9b}31m\u{202e}\u{2028}\u{200b}\u{feff}";
    let directory = std::env::temp_dir().join(format!("shmtool-{}-\x1b[31m\u{202e}", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap();
    let assert_plain = |arguments: &[&str]| {
        let output = shmtool(arguments);
        for bytes in [&output.stdout, &output.stderr] {
            let text = std::str::from_utf8(bytes).expect("UTF-8");
            let found = text.chars().find(|&c| c != '\n' && ringmill_shm::text::is_unruly(c));
            assert_eq!(found, None, "{arguments:?}: {text:?}");
        }
        output
    };
    // A segment in which every text is hostile, made without a server.
    let ours = Ours::new();
    let mut spec = spec();
    for node in &mut spec.nodes {
        node.name += unruly;
        node.worker_type += unruly;
    }
    let segment = Segment::create(ours.0.clone(), &spec).unwrap();
    prepare(&segment, 1);
    segment.participants()[1].fail(format!("failed {unruly}").as_bytes());
    for arguments in [["show"], ["check"]] {
        for json in [&["--json"][..], &[]] {
            let name = ours.name();
            let arguments: Vec<&str> =
                arguments.into_iter().chain([&*name]).chain(json.iter().copied()).collect();
            assert_eq!(code(&assert_plain(&arguments)), 0);
        }
    }
    let shown = assert_plain(&["show", &ours.name(), "--json"]);
    assert!(parsed(&shown)["nodes"][0]["name"].as_str().unwrap().starts_with("split\\u{1b}]0;owned\\u{7}"));
    // Files that are no segments, at paths with control characters; and invalid names.
    let foreign = directory.join("a\x1b[31mb\nc");
    std::fs::write(&foreign, "no segment at all").unwrap();
    for path in [&foreign, &directory.join("missing\x07"), &directory] {
        let path = path.to_str().unwrap();
        for command in ["show", "check", "clean"] {
            for json in [&["--json"][..], &[]] {
                let arguments: Vec<&str> = [command, path].into_iter().chain(json.iter().copied()).collect();
                assert_ne!(code(&assert_plain(&arguments)), 0);
            }
        }
    }
    assert_ne!(code(&assert_plain(&["show", "a\x1b[31m\n"])), 0);
    for json in [&["--json"][..], &[]] {
        let odd = std::path::Path::new("/dev/shm")
            .join(format!("ringmill-shmtool-{}-\x1b[31m", std::process::id()));
        std::fs::write(&odd, "no segment").unwrap();
        let listed = assert_plain(&[&["list"], json].concat());
        std::fs::remove_file(&odd).unwrap();
        assert_eq!(code(&listed), 0);
    }
    std::fs::remove_dir_all(&directory).unwrap();
}
