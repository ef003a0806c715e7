//! `shmtool show`.

use super::child::serve_in_a_child;
use super::segments::{Ours, begin, busy, forked, forked_spec, prepare, read, spec};
use super::tool::{code, listed, parsed, shmtool, text, words};
use ringmill_shm::participant::Life;
use ringmill_shm::plan::{Switch, Target};
use ringmill_shm::segment::{Location, Segment};
use ringmill_shm::stats::{Closed, Stamp};
use ringmill_shm::sys::cpu::allowed;
use ringmill_shm::sys::time::now_ns;
use ringmill_shm::token::Token;
use ringmill_shm::watch::{End, Exit, Item, Why};
use serde_json::{Value, json};
use std::process::Command;

#[test]
fn lists_ensembles_and_switches_with_their_members() {
    let ours = Ours::new();
    let mut spec = forked_spec([Target::Node(0), Target::Switch(0)]);
    spec.switches =
        vec![Switch { name: "one".into(), node: None, members: vec![Target::Node(1), Target::Node(0)] }];
    let segment = Segment::create(Location::named(&ours.name()).unwrap(), &spec).unwrap();
    let shown = parsed(&shmtool(&["show", &ours.name(), "--json"]));
    assert_eq!(
        shown["ensembles"],
        json!([{"name": "both", "members": ["split", "one"], "fail_fast": true, "next": null}])
    );
    assert_eq!(
        shown["switches"],
        json!([{"name": "one", "chooser": null, "members": ["classify", "split"]}])
    );
    let page = text(&shmtool(&["show", &ours.name()]));
    let plan = page.split("\nPlan\n").nth(1).unwrap().split("\n\n").next().unwrap();
    let rows: Vec<&str> =
        plan.lines().skip(1).map(|line| line.split("  0 of ").next().unwrap().trim_end()).collect();
    assert_eq!(
        rows,
        [
            "both          fail-fast",
            "  split       Splitter         32  200 µs      0  free",
            "  one         switch",
            "    classify  Classifier   single    none      0  free",
            "    split     as above",
        ],
        "{plan}"
    );
    drop(segment);
}

#[test]
fn tells_the_threads_of_a_worker_apart() {
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
    assert!(text.contains("\n  workers   0 of 1 ready, 1 starting, split/1.1 for 0 s\n"), "{text}");
    let since = |worker: usize| &shown["workers"][worker]["state_s"];
    assert!(since(3).as_f64().is_some_and(|seconds| (0.0..60.0).contains(&seconds)), "{}", since(3));
    assert_eq!(since(0), &Value::Null);
    assert_eq!(words(&text, "classify/0")[1], "vacant");
}

/// Symptom: of a segment that was named by its path, reports called the path its name, and Prometheus' label was not that of other
/// scrapes.
#[test]
fn the_path_of_a_named_segment_leads_to_its_name() {
    let ours = Ours::new();
    let _segment = ours.create();
    let path = ours.path();
    let path = path.to_str().unwrap();
    let shown = parsed(&shmtool(&["show", path, "--json"]));
    assert_eq!((&shown["name"], &shown["path"]), (&json!(ours.name()), &json!(path)));
    for other in
        ["/dev/shm/other", "/dev/shm/ringmill-", "/dev/shm/ringmill-a/b", "/tmp/ringmill-x", "./ringmill-x"]
    {
        assert_eq!(Location::parse(other).unwrap(), Location::File(other.into()));
    }
}

/// A servlet has a row for each worker that it may have, and of those some are vacant.
#[test]
fn tells_how_many_workers_there_may_be() {
    let ours = Ours::new();
    let mut spec = spec();
    spec.nodes[0].workers = vec![Default::default(); 6];
    spec.nodes[0].facts.threads = 2;
    let segment = Segment::create(ours.0.clone(), &spec).unwrap();
    for row in 1..=4 {
        prepare(&segment, row);
    }
    let shown = parsed(&shmtool(&["show", &ours.name(), "--json"]));
    let of = |index: usize| ["workers", "max_workers"].map(|key| shown["nodes"][index][key].clone());
    assert_eq!((of(0), of(1)), ([2, 6].map(|n| json!(n)), [0, 1].map(|n| json!(n))));
    let page = text(&shmtool(&["show", &ours.name()]));
    let split = words(&page, "split");
    assert_eq!(split[split.len() - 6..], ["2", "of", "6", "0", "of", "4"]);
    assert!(page.contains("\n  workers   0 of 4 ready, 4 starting, "), "{page}");
    assert_eq!(listed(&ours.name()).unwrap()["work"]["workers"], 4);
}

#[test]
fn reports_nodes_workers_requests_and_blocks() {
    let ours = Ours::new();
    let segment = busy(&ours);
    let me = std::process::id();
    let taken: Vec<usize> = [0, 1].into_iter().filter(|cpu| !allowed().unwrap().contains(cpu)).collect();
    let output = shmtool(&["show", &ours.name(), "--json"]);
    assert_eq!(code(&output), 0);
    let mut shown = parsed(&output);
    let since = shown["workers"][0].as_object_mut().unwrap().remove("state_s").unwrap();
    assert!(since.as_f64().is_some_and(|seconds| (0.0..60.0).contains(&seconds)), "{since}");
    assert_eq!((&shown["state"], &shown["run"]), (&json!("live"), &json!("running")));
    assert_eq!(shown["server"], json!({"pid": me, "alive": true, "stopped": false, "allowed_cpus": []}));
    assert_eq!(shown["fingerprint"], format!("{:#018x}", segment.identity().fingerprint));
    assert_eq!((&shown["capacity"], &shown["largest_payload_bytes"]), (&json!(8), &json!(65_536)));
    assert_eq!(
        shown["requests"],
        json!({"free": 4, "filling": 1, "queued": 2, "claimed": 1, "forked": 0, "done": 0, "joining": 0})
    );
    assert_eq!(
        shown["nodes"][0],
        json!({
            "index": 0, "name": "split", "worker_type": "Splitter", "input_type": null, "outcome_type": null, "batch_size": 32,
            "batch_wait_ns": 200_000, "wait_is_stated": true, "log_batches_every": 0, "next": "classify", "ring": {"depth": 2, "cells": 16, "oldest_s": null},
            "lock_holder": {
                "participant": 1, "worker": "split/0", "pid": me, "alive": true, "stopped": false,
                "held_time": {"at_least_s": null, "at_most_s": null},
            },
            "on_death": "fail", "down": null, "threads": 1, "sleeping": [1], "workers": 2, "max_workers": 2,
        })
    );
    assert_eq!((&shown["nodes"][1]["lock_holder"], &shown["nodes"][1]["next"]), (&Value::Null, &Value::Null));
    assert_eq!(
        shown["workers"][0],
        json!({
            "node": "split", "worker": 0, "thread": 0, "participant": 1, "state": "ready", "alive": true,
            "stopped": false, "role": "process_worker", "pid": me, "restarts": 0, "last_exit": null, "in_call": false, "call_time": null,
            "in_hand": [0], "cpus": [0, 1], "numa_node": null, "placed_why": "listed", "kernel_cpus": allowed().unwrap(),
            "cpus_taken": taken, "message": null,
            "counters": {
                "batches": 2, "items": 39, "batch_min": 7, "batch_mean": 19.5, "batch_max": 32,
                "closed_full": 1, "closed_window": 1, "closed_empty": 0, "closed_shutdown": 0,
                "errors": 1, "panics": 0, "skipped": 0, "expired": 0, "events_dropped": 0,
                "spins_in_vain": 0, "sleeps": 0, "wakes": 0, "take_overs": 0,
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
            {"block_bytes": 1024, "in_use": 1, "count": 4, "touched_bytes": 0},
            {"block_bytes": 65_536, "in_use": 0, "count": 2, "touched_bytes": 0},
        ])
    );

    let text = text(&shmtool(&["show", &ours.name()]));
    assert!(text.starts_with(&format!("{}: running, server pid {me}, made ", ours.name())), "{text}");
    let pid = me.to_string();
    assert_eq!(
        words(&text, "split"),
        ["split", "Splitter", "32", "200", "µs", "2", "split/0", "2", "1", "of", "2"]
    );
    assert_eq!(
        words(&text, "split/0"),
        ["split/0", "ready", "0", "s", "process", &pid, "0", "0-1", "1:", "0"]
    );
    let placement = text.split("\nPlacement\n").nth(1).unwrap();
    let kernel = words(placement, "split/0")[2];
    assert_eq!(words(placement, "split/0")[..2], ["split/0", "0-1"]);
    assert_ne!(kernel, "-");
    assert_eq!(words(placement, "split/1"), ["split/1", "2", "-", "-", "listed", "by", "its", "servlet"]);
    let errors = text.split("\nErrors\n").nth(1).unwrap();
    assert_eq!(words(errors, "split/0"), ["split/0", "1", "0", "0", "0", "0"]);
    assert_eq!(words(&text, "split/1")[1], "dead", "whatever it last said");
    assert_eq!(words(&text, "classify/0")[1], "failed");
    assert!(text.contains("classify/0 failed: no model at ./weights\n"), "{text}");
    assert!(text.contains("\n  workers   1 of 3 ready\n"), "{text}");
    assert_eq!(words(&text, "all"), ["all", "3", "42", "3", "14.0", "32", "1", "1", "1", "0"]);
    assert!(text.lines().all(|line| line.chars().count() <= 100), "{text}");
}

#[test]
fn tells_what_each_worker_has_in_hand_and_the_age_of_what_waits() {
    let ours = Ours::new();
    let segment = ours.create();
    let worker = prepare(&segment, 1);
    segment.lease().hold(worker).unwrap();
    let queue = |id: u32, queued_ns: u64| {
        let mut filling = begin(&segment, id, Token::SERVER);
        filling.set_length(0);
        filling.stamp(Stamp::at(queued_ns, None));
        filling.queue(0);
        segment.node(0).unwrap().ring().push(id).unwrap();
    };
    let now_ns = now_ns();
    for (id, seconds_ago) in [(5, 9), (6, 8), (2, 5), (3, 7)] {
        queue(id, now_ns - seconds_ago * 1_000_000_000);
    }
    let mut reader = read(&segment, 0, worker);
    let taken: Vec<_> = [5, 6].into_iter().filter_map(|id| reader.claim(id)).collect();
    // What was claimed lies in the ring until `head` has passed it, and waits no more.
    let assert_oldest = |seconds_ago: u64| {
        let age_s =
            || (ringmill_shm::sys::time::now_ns() - (now_ns - seconds_ago * 1_000_000_000)) as f64 / 1e9;
        let before = age_s();
        let shown = parsed(&shmtool(&["show", &ours.name(), "--json"]));
        let oldest_s = shown["nodes"][0]["ring"]["oldest_s"].as_f64().unwrap();
        assert!((before..=age_s()).contains(&oldest_s), "{oldest_s}");
    };
    assert_oldest(7);
    reader.set_head(2);
    drop(reader);
    segment.participants()[1].counters().count_batch(2, Closed::Empty);
    segment.participants()[1].counters().begin_call();
    let shown = parsed(&shmtool(&["show", &ours.name(), "--json"]));
    assert_eq!(
        (&shown["workers"][0]["in_hand"], &shown["workers"][1]["in_hand"]),
        (&json!([5, 6]), &json!([]))
    );
    assert_oldest(7);
    let page = text(&shmtool(&["show", &ours.name()]));
    assert!(page.contains("2 in call: 5-6"), "nothing has looked at it: {page}");
    assert!(words(&page, "servlet").contains(&"oldest"), "{page}");
    let [a, b] = <[_; 2]>::try_from(taken).unwrap();
    assert!([a.finish(false), b.finish(false)].iter().all(Option::is_none));
    assert_eq!(parsed(&shmtool(&["show", &ours.name(), "--json"]))["workers"][0]["in_hand"], json!([]));
}

#[test]
fn a_branch_in_hand_counts_as_its_request() {
    let ours = Ours::new();
    let _segment = forked(&ours);
    let shown = parsed(&shmtool(&["show", &ours.name(), "--json"]));
    assert_eq!(shown["workers"][2]["in_hand"], json!([2]));
}

#[test]
fn tells_which_memory_was_ever_touched() {
    let ours = Ours::new();
    let segment = ours.create();
    let touched = || -> Vec<u64> {
        let shown = parsed(&shmtool(&["show", &ours.name(), "--json"]));
        let bytes = |blocks: &Value| blocks["touched_bytes"].as_u64().unwrap();
        shown["blocks"].as_array().unwrap().iter().map(bytes).collect()
    };
    assert_eq!(touched(), [0, 0]);
    let mut filling = begin(&segment, 0, Token::SERVER);
    assert!(filling.block_buffer(60_000).unwrap().write(10_000, b"one page"));
    filling.set_length(60_000);
    assert_eq!(touched(), [0, 4096]);
    filling.abandon();
    assert_eq!(touched(), [0, 4096], "it stays");

    let shown = parsed(&shmtool(&["show", &ours.name(), "--json"]));
    let memory = shown["memory"].as_array().unwrap();
    let uses: Vec<_> = memory.iter().map(|room| room["use"].as_str().unwrap()).collect();
    assert_eq!(uses, ["header", "participants", "statistics", "plan", "rings", "tasks", "block_owners"]);
    let sum = |all: &[Value], of: &dyn Fn(&Value) -> u64| all.iter().map(of).sum::<u64>();
    let others = sum(memory, &|room| room["bytes"].as_u64().unwrap());
    let blocks = sum(shown["blocks"].as_array().unwrap(), &|blocks| {
        blocks["block_bytes"].as_u64().unwrap() * blocks["count"].as_u64().unwrap()
    });
    assert_eq!(others + blocks, segment.total_bytes(), "every byte has a use");
}

/// The span of a call or of a lock's tenure, in whole seconds.
fn whole_s(span: &Value) -> [Option<u64>; 2] {
    [&span["at_least_s"], &span["at_most_s"]].map(|s| s.as_f64().map(|s| s as u64))
}

#[test]
fn tells_for_how_long_a_call_runs_and_a_lock_is_held() {
    let ours = Ours::new();
    let segment = busy(&ours);
    let show = || parsed(&shmtool(&["show", &ours.name(), "--json"]));
    let ago = |s: u64| now_ns() - s * 1_000_000_000 - 500_000_000;
    let (entry, node) = (&segment.participants()[1], segment.node(0).unwrap());
    // The server sees both for the first time between two looks. (The row has been ready for less, of which nothing is said.)
    entry.set_life(Life::Leaving);
    entry.see_call(ago(300));
    entry.counters().begin_call();
    entry.see_call(ago(100));
    node.see_lock(ago(50));
    let shown = show();
    assert_eq!(whole_s(&shown["workers"][0]["call_time"]), [Some(100), Some(300)]);
    assert_eq!(whole_s(&shown["nodes"][0]["lock_holder"]["held_time"]), [Some(50), None]);
    let page = text(&shmtool(&["show", &ours.name()]));
    assert!(page.contains("1 in call for ≥ 1 min 40 s: 0"), "{page}");
    assert!(page.contains("split/0 for ≥ 50."), "{page}");
    // The next call is not seen yet; the one after it reads the clock.
    entry.see_call(ago(80));
    entry.counters().end_call();
    entry.counters().count_batch(1, Closed::Empty);
    entry.counters().begin_call();
    assert_eq!(whole_s(&show()["workers"][0]["call_time"]), [None, Some(80)]);
    entry.counters().count_batch(1, Closed::Empty);
    entry.counters().time_call(ago(7));
    entry.counters().begin_call();
    assert_eq!(whole_s(&show()["workers"][0]["call_time"]), [Some(7), Some(7)]);
    let page = text(&shmtool(&["show", &ours.name()]));
    assert!(page.contains("1 in call for 7."), "{page}");
}

#[test]
fn tells_how_a_worker_last_ended_and_with_which_item() {
    let ours = Ours::new();
    let segment = busy(&ours);
    let item = |task| Item { task, generation: 5, attempt: 1 };
    let exit = Exit {
        at_ns: now_ns() - 2_000_000_000,
        pid: 4711,
        end: End::Signal(9),
        why: Some(Why::ExecTimeout),
        count: 1,
        items: vec![item(3)],
        payload_bytes: 1000,
        payload: b"\x1b[2J".to_vec(),
    };
    segment.participants()[2].note_exit(&exit);
    let mut shown = parsed(&shmtool(&["show", &ours.name(), "--json"]));
    let told = shown["workers"][1]["last_exit"].as_object_mut().unwrap();
    assert!(told.remove("ago_s").unwrap().as_f64().unwrap() >= 2.0);
    assert_eq!(
        *told,
        *json!({
            "pid": 4711, "code": null, "signal": 9, "why": "exec_timeout", "item_count": 1,
            "items": [{"request": 3, "task": 3, "generation": 5, "attempt": 1}],
            "payload_bytes": 1000, "payload_hex": "1b5b324a",
        })
        .as_object()
        .unwrap()
    );
    let page = text(&shmtool(&["show", &ours.name()])).replace('\n', " ");
    let told = "ago (pid 4711): SIGKILL, since its call took longer than exec_timeout; with request 3, generation 5, on which \
                1 worker died before; its payload has 1000 B: 1b5b324a";
    assert!(page.contains(told), "{page}");
    // Items that no segment has, and more than are noted.
    let odd = (0..12).map(|number| item(if number == 0 { 2 } else { u32::MAX })).collect();
    let odd = Exit { end: End::Code(3), why: None, count: 20, items: odd, ..exit };
    segment.participants()[2].note_exit(&odd);
    let page = text(&shmtool(&["show", &ours.name()])).replace('\n', " ");
    assert!(page.contains("exit code 3; with 20 items, of requests 2 and others"), "{page}");
}

/// A server and a worker in a process that is stopped, and then killed: with the reader lock.
#[test]
fn tells_who_is_stopped_and_what_that_holds_up() {
    let ours = Ours::new();
    let mut server = serve_in_a_child(&ours.name());
    let pid = server.id();
    let signal =
        |name: &str| assert!(Command::new("kill").args([name, &pid.to_string()]).status().unwrap().success());
    let show = || parsed(&shmtool(&["show", &ours.name(), "--json"]));
    assert_eq!(show()["server"]["stopped"], false);
    signal("-STOP");
    while show()["server"]["stopped"] != true {
        std::thread::yield_now(); // no event reports that a process of another parent has stopped
    }
    assert_eq!(code(&shmtool(&["check", &ours.name()])), 0);
    let page = text(&shmtool(&["show", &ours.name()]));
    assert!(page.contains(&format!("running, server pid {pid} is stopped, made ")), "{page}");
    let stats = parsed(&shmtool(&["stats", &ours.name(), "--json"]));
    assert_eq!(
        stats["findings"],
        json!([{"kind": "stopped", "about": "server", "text": format!(
            "the server (pid {pid}) is stopped: it calls nothing, and restarts no worker; 'kill -CONT {pid}' lets it go on"
        )}])
    );
    let top = shmtool::Top::open(&ours.name()).unwrap().screen(80, 24);
    assert!(top[0].starts_with(&format!("STOPPED (pid {pid}), {}", ours.name())), "{top:#?}");
    server.kill().unwrap();
    server.wait().unwrap();
    let shown = show();
    assert_eq!((&shown["state"], &shown["server"]["stopped"]), (&json!("stale"), &Value::Null));
    assert_eq!(parsed(&shmtool(&["stats", &ours.name(), "--json"]))["findings"], json!([]));
}

/// Any bytes are a record: reports show them, and end.
#[test]
fn notes_that_another_process_wrote_over_are_shown_all_the_same() {
    let ours = Ours::new();
    let segment = busy(&ours);
    segment.participants()[1].counters().begin_call();
    let file = std::fs::read(ours.path()).unwrap();
    let seen = Exit {
        at_ns: u64::MAX,
        pid: u32::MAX,
        end: End::Signal(i32::MIN),
        why: None,
        count: u32::MAX,
        items: vec![Item { task: u32::MAX, generation: u16::MAX, attempt: u8::MAX }; 12],
        payload_bytes: u32::MAX,
        payload: vec![0xFF; 128],
    };
    for row in 1..4 {
        segment.participants()[row].note_exit(&seen);
        segment.participants()[row].see_call(u64::MAX);
    }
    segment.node(0).unwrap().see_lock(u64::MAX);
    let page = text(&shmtool(&["show", &ours.name()])).replace('\n', " ");
    assert!(page.contains("signal -2147483648"), "{page}");
    assert_eq!(std::fs::read(ours.path()).unwrap().len(), file.len());
}

#[test]
fn reads_a_segment_that_lies_in_a_file() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("seg");
    let segment = Segment::create(Location::File(path.clone()), &spec()).unwrap();
    let shown = parsed(&shmtool(&["show", "--json", path.to_str().unwrap()]));
    assert_eq!(shown["name"], path.to_str().unwrap());
    assert_eq!(shown["state"], "live");
    drop(segment);
}

#[test]
fn of_a_stale_segment_says_that_it_is_stale() {
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
fn says_once_why_a_servlet_is_down() {
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
