//! `shmtool requests`.

use super::child::serve_in_a_child;
use super::segments::{Ours, begin, busy, forked, forked_spec, of_no_participant, prepare, read, write_at};
use super::tool::{code, complaint, parsed, shmtool, text, words};
use ringmill_shm::arena::Task;
use ringmill_shm::layout::{INLINE_BYTES, LINE};
use ringmill_shm::plan::Target;
use ringmill_shm::segment::{PayloadTypes, Segment};
use ringmill_shm::stats::Stamp;
use ringmill_shm::sys::time::now_ns;
use ringmill_shm::token::Token;
use serde_json::{Value, json};

fn requests(ours: &Ours, options: &[&str]) -> Value {
    let output = shmtool(&[&["requests", "--json", &ours.name()], options].concat());
    assert_eq!(code(&output), 0, "{output:?}");
    parsed(&output)
}

fn ids(report: &Value) -> Vec<u64> {
    report["requests"].as_array().unwrap().iter().map(|request| request["id"].as_u64().unwrap()).collect()
}

#[test]
fn each_request_says_where_it_is_and_whose() {
    let ours = Ours::new();
    let segment = busy(&ours);
    let report = requests(&ours, &[]);
    assert_eq!((&report["state"], &report["run"]), (&json!("live"), &json!("running")));
    assert_eq!(
        (&report["capacity"], &report["in_progress"], ids(&report)),
        (&json!(8), &json!(4), vec![0, 1, 2, 3])
    );
    let me = std::process::id();
    assert_eq!(
        report["requests"][0],
        json!({
            "id": 0, "age_s": null, "deadline_s": null, "caller_gone": false, "caller_asleep": false,
            "wants_notice": false, "task": 0, "generation": 0, "phase": "claimed", "servlet": "split",
            "begun": false, "attempt": 0, "queued_s": null,
            "owner": {"participant": 1, "worker": "split/0", "pid": me, "alive": true, "stopped": false},
            "payload": {
                "content": "input", "bytes": 1024, "impossible": false, "block_bytes": 1024, "of_task": 0, "type": null, "value": null,
            },
            "branches": [],
        })
    );
    assert_eq!(
        report["requests"][1]["owner"],
        json!({"participant": 0, "worker": "callers", "pid": me, "alive": true, "stopped": false})
    );
    assert_eq!(
        (&report["requests"][3]["phase"], &report["requests"][3]["servlet"]),
        (&json!("filling"), &Value::Null)
    );

    let page = text(&shmtool(&["requests", &ours.name()]));
    assert!(page.starts_with(&format!("{}: 4 of 8 in progress\n", ours.name())), "{page}");
    assert_eq!(words(&page, "request"), ["request", "phase", "at", "payload"], "no empty columns");
    assert_eq!(words(&page, "0"), ["0", "claimed", "split/0", "input", "1.0", "KiB"]);
    assert_eq!(words(&page, "3"), ["3", "filling", "callers", "unfinished", "0", "B"]);
    drop(segment);
}

#[test]
fn times_flags_and_dead_owners_are_told() {
    let ours = Ours::new();
    let segment = ours.create();
    let now_ns = now_ns();
    let mut filling = begin(&segment, 0, Token::SERVER);
    filling.set_length(0);
    filling.stamp(Stamp::at(now_ns - 2_000_000_000, None));
    filling.limit(now_ns + 3_600_000_000_000);
    let task = filling.queue(0);
    task.set_begun_ns(now_ns - 3_000_000_000);
    #[expect(unsafe_code, reason = "the contract of guards")]
    // SAFETY: as in `segments::act`; no guard of it is used any more.
    let left = unsafe { segment.take_part(Token::SERVER).client().cancel(task) };
    assert!(left, "a worker will free it");
    let _dead = begin(&segment, 1, of_no_participant());

    let report = requests(&ours, &[]);
    let one = &report["requests"][0];
    let number = |name: &str| one[name].as_f64().unwrap();
    assert!(number("age_s") > 2.9, "{one}");
    assert!(number("queued_s") >= 2.0 && number("queued_s") < number("age_s"), "{one}");
    assert!(number("deadline_s") <= 3600.0 && number("deadline_s") > -number("age_s"), "{one}");
    assert_eq!(one["caller_gone"], true);
    let owner = &report["requests"][1]["owner"];
    assert_eq!(
        (&owner["worker"], &owner["alive"], &owner["pid"]),
        (&json!("split/1"), &json!(false), &Value::Null)
    );
    let page = text(&shmtool(&["requests", &ours.name()]));
    assert!(words(&page, "0").ends_with(&["gone"]), "{page}");
    assert_eq!(words(&page, "1")[2..4], ["split/1", "(dead)"], "{page}");
    assert!(words(&page, "request").contains(&"left"), "until the deadline: {page}");

    let mut older = begin(&segment, 2, Token::SERVER);
    older.set_length(0);
    older.queue(0).set_begun_ns(now_ns - 7_000_000_000);
    assert_eq!(ids(&requests(&ours, &[])), [2, 0, 1], "the oldest first, of unknown age last");
    assert_eq!(ids(&requests(&ours, &["--older-than", "5s"])), [2]);
    let none = requests(&ours, &["--older-than", "1h"]);
    assert_eq!((ids(&none), &none["without_age"], &none["in_progress"]), (vec![], &json!(1), &json!(3)));
    let page = text(&shmtool(&["requests", &ours.name(), "--older-than", "1h"]));
    let name = ours.name();
    assert_eq!(page, format!("{name}: 3 of 8 in progress, 0 shown\n1 request of unknown age left out\n"));
}

#[test]
fn requests_are_chosen_by_servlet_and_phase() {
    let ours = Ours::new();
    let segment = busy(&ours);
    assert_eq!(ids(&requests(&ours, &["--servlet", "split"])), [0, 1, 2]);
    assert_eq!(ids(&requests(&ours, &["--servlet", "classify"])), [0_u64; 0]);
    assert_eq!(ids(&requests(&ours, &["--phase", "queued"])), [1, 2]);
    assert_eq!(ids(&requests(&ours, &["--phase", "claimed", "--servlet", "split"])), [0]);
    let line = complaint(&shmtool(&["requests", &ours.name(), "--servlet", "splt"]));
    assert!(line.contains("no servlet \"splt\"; the plan has: split, classify"), "{line}");
    for wrong in [&["--phase", "free"][..], &["--older-than", "soon"], &["--payload-bytes", "8"]] {
        assert_eq!(code(&shmtool(&[&["requests", &ours.name()], wrong].concat())), 2, "{wrong:?}");
    }
    drop(segment);
}

#[test]
fn branches_stand_below_their_request() {
    let ours = Ours::new();
    let _segment = forked(&ours);
    let report = requests(&ours, &["--servlet", "classify", "--payload"]);
    let [request] = &report["requests"].as_array().unwrap()[..] else { panic!("{report}") };
    assert_eq!(
        (&request["phase"], &request["servlet"], &request["owner"]),
        (&json!("forked"), &json!("both"), &Value::Null)
    );
    let [left, right] = &request["branches"].as_array().unwrap()[..] else { panic!("{request}") };
    assert_eq!(
        (&left["ensemble"], &left["member"], &left["servlet"]),
        (&json!("both"), &json!(0), &json!("split"))
    );
    assert!(left["queued_s"].as_f64().is_some_and(|seconds| seconds >= 0.0), "{left}");
    assert_eq!(
        (&right["phase"], &right["begun"], &right["queued_s"]),
        (&json!("claimed"), &json!(true), &Value::Null)
    );
    assert_eq!(right["payload"]["of_task"], 2, "the branch reads its request's memory");
    assert_eq!(right["payload"]["hex"], "736861726564");

    let page = text(&shmtool(&["requests", &ours.name(), "--payload"]));
    assert_eq!(words(&page, "both")[..4], ["both", "0", "queued", "split"], "{page}");
    assert!(page.contains("\n  both 1 "), "{page}");
    assert!(page.contains("claimed, begun"), "{page}");
    assert!(page.contains("\nrequest 2, both 1: input 6 B\n  000000  73 68 61 72 65 64 "), "{page}");
    assert!(page.contains("  shared\n"), "{page}");
}

/// The plan names the types of payloads: an input has that of the node where it is, an outcome that of the node that made it.
#[test]
fn payloads_of_known_types_are_printed() {
    let ours = Ours::new();
    let mut spec = forked_spec([1, 0].map(Target::Node));
    spec.nodes[1].payloads = PayloadTypes { input: "u32".into(), outcome: "alloc::string::String".into() };
    spec.nodes[0].payloads.input = "app::Own".into();
    let segment = Segment::create(ours.0.clone(), &spec).unwrap();
    let fill = |id: u32, bytes: &[u8]| {
        let mut filling = begin(&segment, id, Token::SERVER);
        assert!(filling.inline_buffer().write(0, bytes));
        filling.set_length(bytes.len());
        filling
    };
    fill(0, &[7, 0, 0, 0]).queue(1);
    fill(1, &[7, 0, 0, 0]).queue(0);
    fill(2, &[7, 0, 0]).queue(1);
    let branches = fill(3, &[9, 0, 0, 0]).keep().fork(0).unwrap();
    for (branch, node) in branches.zip([1, 0]) {
        branch.queue(node, now_ns).unwrap();
    }
    let worker = prepare(&segment, 3);
    let id = fill(4, &[0; 4]).queue(1).id();
    segment.node(1).unwrap().ring().push(id).unwrap();
    let mut claimed = read(&segment, 1, worker).claim(id).unwrap();
    claimed.begin_work(1);
    let outcome = rkyv::to_bytes::<rkyv::rancor::Panic>(&"seventeen letters".to_string()).unwrap();
    assert!(claimed.inline_buffer().write(0, &outcome));
    claimed.set_length(outcome.len());
    assert!(claimed.finish(false).is_none());

    let report = requests(&ours, &["--payload", "--payload-bytes", "1"]);
    let of = |payload: &Value| [payload["type"].clone(), payload["value"].clone()];
    let payloads: Vec<_> = (0..5).map(|id| of(&report["requests"][id]["payload"])).collect();
    let typed = |name: &str, value: Value| [json!(name), value];
    let wanted = [
        typed("u32", json!("7")),
        typed("app::Own", Value::Null),
        typed("u32", Value::Null),
        typed("u32", json!("9")),
        typed("alloc::string::String", json!("\"seventeen letters\"")),
    ];
    assert_eq!(payloads, wanted, "{report:#}");
    let branches = report["requests"][3]["branches"].as_array().unwrap();
    let types: Vec<_> = branches.iter().map(|branch| of(&branch["payload"])).collect();
    assert_eq!(types, [typed("u32", json!("9")), typed("app::Own", Value::Null)]);
    let page = text(&shmtool(&["requests", &ours.name(), "--payload"]));
    assert!(page.contains("\nrequest 0: input 4 B, u32\n  7\n  000000  07 00 00 00 "), "{page}");
    assert_eq!(
        of(&requests(&ours, &[])["requests"][0]["payload"]),
        [Value::Null, Value::Null],
        "only if asked for"
    );
}

#[test]
fn bytes_are_bounded_and_plain() {
    let ours = Ours::new();
    let segment = ours.create();
    let mut filling = begin(&segment, 0, Token::SERVER);
    let bytes: Vec<u8> = (0..200).collect();
    assert!(filling.block_buffer(200).unwrap().write(0, &bytes));
    filling.set_length(200);
    let _task = filling.queue(0);
    let report = requests(&ours, &["--payload", "--payload-bytes", "3"]);
    assert_eq!(report["requests"][0]["payload"]["hex"], "000102");
    assert_eq!(report["requests"][0]["payload"]["bytes"], 200);
    let page = text(&shmtool(&["requests", &ours.name(), "--payload", "--payload-bytes", "66"]));
    assert!(page.contains("\nrequest 0: input 200 B, the first 66 B\n"), "{page}");
    assert!(
        page.contains("\n  000020  20 21 22 23 24 25 26 27 28 29 2a 2b 2c 2d 2e 2f   !\"#$%&'()*+,-./\n"),
        "{page}"
    );
    assert!(page.ends_with(&format!("\n  000040  40 41 {:42} @A\n", "")), "{page}");
    assert!(page.lines().all(|line| line.len() <= 80), "{page}");
}

/// A stopped server lives, and its requests are as it left them; so are those of a dead one.
#[test]
fn a_stopped_and_a_dead_server_are_read() {
    let ours = Ours::new();
    let mut server = serve_in_a_child(&ours.name());
    let stop = format!("-STOP {}", server.id());
    assert!(std::process::Command::new("kill").args(stop.split(' ')).status().unwrap().success());
    assert_eq!(requests(&ours, &[])["state"], "live");
    server.kill().unwrap();
    server.wait().unwrap();
    let report = requests(&ours, &[]);
    assert_eq!((&report["state"], &report["in_progress"]), (&json!("stale"), &json!(0)));
    let page = text(&shmtool(&["requests", &ours.name()]));
    assert!(
        page.contains(&format!(
            "It is stale: its server has died; 'shmtool clean {}' removes it.\n",
            ours.name()
        )),
        "{page}"
    );
}

#[test]
fn a_request_that_another_process_wrote_over_is_told() {
    let ours = Ours::new();
    let segment = ours.create();
    let payload = b"where the task lies";
    let mut filling = begin(&segment, 1, Token::SERVER);
    assert!(filling.inline_buffer().write(0, payload));
    filling.set_length(payload.len());
    let task: Task<'_> = filling.queue(0);
    assert_eq!(requests(&ours, &[])["requests"][0]["payload"]["impossible"], false);
    let all = std::fs::read(ours.path()).unwrap();
    let at = all.windows(payload.len()).position(|window| window == payload).unwrap();
    let line = (at + INLINE_BYTES - LINE) as u64;
    write_at(&ours.path(), line + 8, &u64::MAX.to_le_bytes());
    write_at(&ours.path(), line + 28, &200_u32.to_le_bytes()); // at a node that the plan does not have
    let report = requests(&ours, &["--payload"]);
    let one = &report["requests"][0];
    assert_eq!(
        (&one["payload"]["impossible"], &one["payload"]["hex"], &one["servlet"]),
        (&json!(true), &json!(""), &Value::Null)
    );
    let page = text(&shmtool(&["requests", &ours.name(), "--payload"]));
    assert!(page.contains("input, impossible"), "{page}");
    write_at(&ours.path(), line + 4, &u32::MAX.to_le_bytes()); // a phase that there is not
    write_at(&ours.path(), line, &u32::MAX.to_le_bytes());
    assert_eq!(task.word().load().phase(), None);
    assert_eq!(requests(&ours, &[])["in_progress"], 0);
}
