//! `shmtool trace`.

use super::child::serve_in_a_child;
use super::segments::{Ours, act, begin, prepare, read, spec};
use super::tool::{code, complaint, parsed, shmtool, text};
use ringmill_shm::segment::{Segment, Spec};
use ringmill_shm::stats::{Stamp, Weight};
use ringmill_shm::sys::time::now_ns;
use ringmill_shm::token::Token;
use ringmill_shm::trace::{Context, HopEnd, RequestEnd, Start, Taken};
use serde_json::{Value, json};

const US: u64 = 1_000;
const TRACE_ID: u128 = 0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736;

/// The segment of the other tests, which keeps four traces.
fn create(ours: &Ours) -> Segment {
    Segment::create(ours.0.clone(), &Spec { traces: 4, ..spec() }).unwrap()
}

/// Sends a request that is traced, at `sent_ns`, as the client that lives here.
fn send(segment: &Segment, id: u32, sent_ns: u64, parent: u64) {
    let mut filling = begin(segment, id, Token::SERVER);
    filling.set_length(0);
    let context = Context { trace_id: TRACE_ID + u128::from(id), parent, flags: 1 };
    let weight = (parent == 0).then(|| Weight::of(3));
    assert!(filling.begin_trace(&Start { sent_ns, weight, span: 0xABC + u64::from(id), context }));
    filling.stamp(Stamp::at(sent_ns, weight).traced());
    let id = filling.queue(0).id();
    segment.node(0).unwrap().ring().push(id).unwrap();
}

/// A worker takes it from a node's ring, `after_ns` after it was sent, and works on it for `for_ns`, then moves it on.
fn work(
    segment: &Segment,
    node: u32,
    worker: Token,
    sent_ns: u64,
    (queued, taken, end): (u64, u64, Option<u64>),
) {
    let mut reader = read(segment, node, worker);
    let head = reader.ring().head();
    let task = reader.claim(reader.ring().get(head).unwrap()).unwrap();
    reader.set_head(head + 1);
    drop(reader);
    let at = |us: u64| sent_ns + us * US;
    task.begin_hop(&Taken { node, pid: 4711, queued_ns: at(queued), taken_ns: at(taken) });
    task.begin_run(at(taken));
    let Some(end) = end else { return }; // it is still at work
    act(segment, worker).end_hop(task.task(), at(end), HopEnd::Answered);
    match node {
        0 => {
            let id = task.queue(1, now_ns).unwrap();
            segment.node(1).unwrap().ring().push(id).unwrap();
        }
        _ => assert!(task.finish(false).is_none()),
    }
}

#[expect(unsafe_code, reason = "the contract of guards")]
fn tell(segment: &Segment, id: u32, now_ns: u64, end: RequestEnd) {
    let task = ringmill_shm::arena::Task::new(segment, id).unwrap();
    // SAFETY: as in `segments::act`.
    unsafe { act(segment, Token::SERVER).client().tell_trace(task, now_ns, end) };
}

/// Request 0 went through both servlets in 200 µs; request 1 has been in the first one since then.
fn two(segment: &Segment) -> u64 {
    let (first, second) = (prepare(segment, 1), prepare(segment, 3));
    let sent_ns = now_ns() - 1_000_000_000;
    send(segment, 0, sent_ns, 0xF067);
    work(segment, 0, first, sent_ns, (0, 20, Some(100)));
    work(segment, 1, second, sent_ns, (100, 110, Some(190)));
    tell(segment, 0, sent_ns + 200 * US, RequestEnd::Answered);
    send(segment, 1, sent_ns + 300 * US, 0);
    work(segment, 0, first, sent_ns + 300 * US, (0, 50, None));
    sent_ns
}

/// A segment with those traces.
pub(crate) fn traced(ours: &Ours) -> Segment {
    let segment = create(ours);
    two(&segment);
    segment
}

fn traces(ours: &Ours, options: &[&str]) -> Value {
    let output = shmtool(&[&["trace", "--json", &ours.name()], options].concat());
    assert_eq!(code(&output), 0, "{output:?}");
    parsed(&output)
}

fn numbers(report: &Value) -> Vec<u64> {
    report["traces"].as_array().unwrap().iter().map(|trace| trace["number"].as_u64().unwrap()).collect()
}

#[test]
fn each_trace_says_where_its_time_went() {
    let ours = Ours::new();
    let segment = create(&ours);
    two(&segment);
    let mut report = traces(&ours, &[]);
    assert_eq!(
        (&report["kept"], &report["traced"], &report["state"]),
        (&json!(4), &json!(2), &json!("live"))
    );
    assert_eq!(numbers(&report), [0, 1]);
    let spans = segment.traces()[0].hops.iter().map(|hop| format!("{:016x}", hop.span)).collect::<Vec<_>>();
    let age_s = report["traces"][0].as_object_mut().unwrap().remove("age_s").unwrap();
    assert!(age_s.as_f64().unwrap() >= 1.0);
    assert_eq!(
        report["traces"][0],
        json!({
            "number": 0, "request": 0, "generation": 0, "trace_id": format!("{TRACE_ID:032x}"),
            "span_id": "0000000000000abc", "parent_id": "000000000000f067", "flags": 1, "weight": null,
            "total_ns": 200_000, "end": "answered", "hops_missing": 0,
            "hops": [
                {
                    "servlet": "split", "worker": "split/0", "pid": 4711, "branch": 0, "attempt": 0,
                    "span_id": spans[0], "queued_ns": 0, "taken_ns": 20_000, "begun_ns": 20_000,
                    "ended_ns": 100_000, "end": "answered",
                },
                {
                    "servlet": "classify", "worker": "classify/0", "pid": 4711, "branch": 0, "attempt": 0,
                    "span_id": spans[1], "queued_ns": 100_000, "taken_ns": 110_000, "begun_ns": 110_000,
                    "ended_ns": 190_000, "end": "answered",
                },
            ],
        })
    );
    let second = &report["traces"][1];
    assert_eq!(
        (&second["total_ns"], &second["end"], &second["weight"]),
        (&Value::Null, &Value::Null, &json!(3))
    );
    assert_eq!((&second["parent_id"], &second["hops"][0]["ended_ns"]), (&Value::Null, &Value::Null));
}

#[test]
fn the_text_has_a_bar_for_each_worker() {
    let ours = Ours::new();
    let segment = create(&ours);
    two(&segment);
    let page = text(&shmtool(&["trace", &ours.name(), "--slowest"]));
    assert!(page.starts_with(&format!("{}: 2 of 2 traces; it keeps 4\n", ours.name())), "{page}");
    let (_, first) = page.split_once("\nrequest 0: ").unwrap();
    let (title, lines) = first.split_once('\n').unwrap();
    assert!(title.starts_with("answered after 200 µs, sent 1."), "{title}");
    let dashes = "-".repeat(29);
    let (first, second) = (format!("...{}", "#".repeat(16)), format!("{:19}.{}", "", "#".repeat(16)));
    let expected = format!(
        "  trace {TRACE_ID:032x}\n  \
           worker      in ring  in call  end       0 {dashes} 200 µs\n  \
           split/0     20.0 µs  80.0 µs  answered  {first}\n  \
           classify/0  10.0 µs  80.0 µs  answered  {second}\n"
    );
    assert_eq!(lines, expected);
    let (_, second) = page.split_once("\nrequest 1: ").unwrap();
    assert!(second.starts_with("in progress for 1."), "{page}");
    assert!(second.contains("  split/0  50.0 µs   1.0") && second.contains("s  in call  ####"), "{page}");
    assert!(page.lines().all(|line| line.chars().count() <= 80), "{page}");
}

#[test]
fn the_last_or_the_slowest_are_chosen() {
    let ours = Ours::new();
    let segment = create(&ours);
    two(&segment);
    assert_eq!(numbers(&traces(&ours, &["--last", "1"])), [1]);
    assert_eq!(numbers(&traces(&ours, &["--slowest"])), [1, 0]);
    assert_eq!(numbers(&traces(&ours, &["--slowest", "--last", "1"])), [1]);
    for wrong in [&["--last", "0"][..], &["--chrome", "--json"], &["--last"]] {
        assert_eq!(code(&shmtool(&[&["trace", &ours.name()], wrong].concat())), 2, "{wrong:?}");
    }
}

#[test]
fn chrome_gets_a_line_a_worker_and_one_a_request() {
    let ours = Ours::new();
    let segment = create(&ours);
    let sent_ns = two(&segment);
    let document = parsed(&shmtool(&["trace", &ours.name(), "--chrome"]));
    let events = document["traceEvents"].as_array().unwrap();
    let of = |phase: &str, key: &str, value: &Value| {
        let found = events.iter().filter(|event| event["ph"] == phase && event[key] == *value);
        found.collect::<Vec<_>>()
    };
    let named = |what: &str| {
        let names = of("M", "name", &json!(what)).into_iter().map(|event| event["args"]["name"].clone());
        names.collect::<Vec<_>>()
    };
    assert_eq!(
        named("process_name"),
        [json!(format!("{}: requests", ours.name())), json!("split"), json!("classify")]
    );
    assert_eq!(named("thread_name"), ["split/0", "classify/0"]);
    let us = |ns: u64| (sent_ns + ns) as f64 / 1e3;
    let slices = of("X", "name", &json!("request 0"));
    assert_eq!((slices.len(), &slices[0]["pid"], &slices[0]["tid"]), (2, &json!(1), &json!(1)));
    assert_eq!((&slices[0]["ts"], &slices[0]["dur"]), (&json!(us(20_000)), &json!(80.0)));
    assert_eq!((&slices[1]["ts"], &slices[1]["args"]["end"]), (&json!(us(110_000)), &json!("answered")));
    let ends: Vec<_> = ["b", "e"].iter().flat_map(|phase| of(phase, "cat", &json!("request"))).collect();
    assert_eq!(ends.len(), 4);
    assert_eq!((&ends[0]["ts"], &ends[2]["ts"]), (&json!(us(0)), &json!(us(200_000))));
    assert_eq!((&ends[0]["id"], &ends[2]["id"], &ends[0]["pid"]), (&json!("0"), &json!("0"), &json!(0)));
    // Each event that begins ends, and not before.
    for begun in events.iter().filter(|event| event["ph"] == "b") {
        let (id, category) = (&begun["id"], &begun["cat"]);
        let ended = of("e", "id", id).into_iter().find(|event| event["cat"] == *category).unwrap();
        assert!(ended["ts"].as_f64() >= begun["ts"].as_f64(), "{begun}");
    }
}

#[test]
fn a_segment_without_traces_says_so() {
    let ours = Ours::new();
    let segment = ours.create();
    let page = text(&shmtool(&["trace", &ours.name()]));
    assert_eq!(page, format!("{}: it keeps no traces\n", ours.name()));
    drop(segment);
    assert!(complaint(&shmtool(&["trace", &ours.name()])).contains("no segment"));
    let segment = create(&ours);
    let page = text(&shmtool(&["trace", &ours.name()]));
    assert_eq!(page, format!("{}: no request was traced yet; it keeps 4 traces\n", ours.name()));
    assert_eq!(numbers(&traces(&ours, &[])), [0_u64; 0]);
    drop(segment);
}

/// A stopped server lives; the traces of a dead one are as it left them.
#[test]
fn traces_of_a_stopped_and_of_a_dead_server_are_read() {
    let ours = Ours::new();
    let mut server = serve_in_a_child(&ours.name());
    let stop = format!("-STOP {}", server.id());
    assert!(std::process::Command::new("kill").args(stop.split(' ')).status().unwrap().success());
    assert_eq!(traces(&ours, &[])["state"], "live");
    server.kill().unwrap();
    server.wait().unwrap();
    assert_eq!(traces(&ours, &[])["state"], "stale");

    let ours = Ours::new();
    let mut segment = create(&ours);
    two(&segment);
    segment.keep_files();
    drop(segment);
    let report = traces(&ours, &[]);
    assert_eq!((&report["state"], numbers(&report)), (&json!("stale"), vec![0, 1]));
    let page = text(&shmtool(&["trace", &ours.name()]));
    assert!(page.contains("It is stale: its server has died"), "{page}");
    assert!(
        page.contains("\nrequest 1: in progress for 50.0 µs, sent "),
        "until what is last known of it: {page}"
    );
}

#[test]
fn what_another_process_wrote_over_a_trace_is_only_wrong() {
    let ours = Ours::new();
    let segment = create(&ours);
    let sent_ns = two(&segment);
    let image = std::fs::read(ours.path()).unwrap();
    let at = image.windows(8).position(|window| window == sent_ns.to_le_bytes()).unwrap() as u64;
    for word in 0..400 {
        let offset = (at / 128 * 128 + word * 8) % (image.len() as u64 - 8);
        for value in [u64::MAX, 0x1B5B_324A_1B5B_324A] {
            super::segments::write_at(&ours.path(), offset, &value.to_le_bytes());
        }
        if word % 16 == 0 {
            for options in [&["trace"][..], &["trace", "--json"], &["trace", "--chrome"]] {
                let output = shmtool(&[options, &[&ours.name()]].concat());
                let printed = String::from_utf8(output.stdout).unwrap();
                assert!(!printed.contains('\x1b'), "{printed:?}");
                assert!(code(&shmtool(&[options, &[&ours.name()]].concat())) <= 2);
            }
        }
    }
}
