//! `stats`: how fast a server is, and what limits it.

use super::segments::{Ours, begin, spec};
use super::tool::{code, parsed, shmtool, text, words};
use ringmill_shm::participant::Life;
use ringmill_shm::placed::Placed;
use ringmill_shm::segment::Segment;
use ringmill_shm::stats::{
    CallerCounter, CallerHistogram, Closed, ServerCounter, WorkerHistogram, WorkerHistograms,
};
use ringmill_shm::token::Token;
use serde_json::{Value, json};
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

/// A segment of `spec` in which callers, workers and the supervisor have counted.
pub(crate) fn counted(ours: &Ours) -> Segment {
    let segment = ours.create();
    for (row, answered) in [(0, 1), (1, 5), (63, 2)] {
        (0..answered).for_each(|_| segment.caller_row(row).count(CallerCounter::Answered));
    }
    segment.caller_row(2).count(CallerCounter::Timeout);
    segment.caller_row(1).record(CallerHistogram::TotalTime, 1_000_000, 8);
    for (row, items) in [(1, 32), (1, 16), (2, 8)] {
        segment.participants()[row].counters().count_batch(items, Closed::Full);
        times(&segment, row).count_batch(items);
        times(&segment, row).record(WorkerHistogram::RunTime, 250_000, 1);
    }
    times(&segment, 1).record(WorkerHistogram::QueueTime, 40_000, 4);
    segment.server_counters().count(ServerCounter::Deaths);
    segment
}

fn times(segment: &Segment, row: usize) -> &WorkerHistograms {
    segment.histograms(row as u32).unwrap()
}

fn stats(ours: &Ours) -> Value {
    let output = shmtool(&["stats", &ours.name(), "--json"]);
    assert_eq!(code(&output), 0);
    parsed(&output)
}

#[test]
fn all_rows_are_added_up() {
    let ours = Ours::new();
    let segment = counted(&ours);
    let report = stats(&ours);
    let requests = &report["requests"];
    assert_eq!(
        [&requests["answered"], &requests["timeout"], &requests["rejected"], &requests["ended"]],
        [8, 1, 0, 9].map(|n| json!(n)).each_ref()
    );
    let total = &requests["total_time"];
    assert_eq!(
        (&total["count"], &total["sum"], &total["max"]),
        (&json!(8), &json!(8_000_000), &json!(1_000_000))
    );
    let split = &report["servlets"][0];
    assert_eq!((&split["name"], &split["counters"]["items"]), (&json!("split"), &json!(56)));
    assert_eq!((&split["batch_size"]["count"], &split["batch_size"]["sum"]), (&json!(3), &json!(56)));
    assert_eq!((&split["queue_time"]["count"], &split["batch_wait"]["count"]), (&json!(4), &json!(3)));
    assert_eq!(report["workers"][0]["batches"], 2);
    assert_eq!(report["deaths"]["deaths"], 1);
    assert!(report["period_s"].as_f64().is_some_and(|seconds| seconds > 0.0), "{report}");

    let page = text(&shmtool(&["stats", &ours.name()]));
    assert!(page.starts_with(&format!("{}: 9 requests in ", ours.name())), "{page}");
    assert_eq!(words(&page, "answered")[1], "8");
    assert_eq!(words(&page, "timeout")[1], "1");
    assert!(!page.contains("rejected"), "what is zero is left out:\n{page}");
    assert_eq!(words(&page, "all")[..4], ["all", "total", "1.00", "ms"]);
    assert!(page.contains("\nDeaths\n"), "{page}");
    drop(segment);
}

#[test]
fn findings_say_what_limits_the_server() {
    let findings = |act: &dyn Fn(&Segment)| {
        let ours = Ours::new();
        let segment = ours.create();
        act(&segment);
        let found: Vec<[String; 3]> = stats(&ours)["findings"]
            .as_array()
            .unwrap()
            .iter()
            .map(|found| {
                ["kind", "about", "text"].map(|key| found[key].as_str().unwrap_or("null").to_string())
            })
            .collect();
        let page = text(&shmtool(&["stats", &ours.name()]));
        assert_eq!(page.matches("\n- ").count(), found.len(), "{page}");
        found
    };
    assert_eq!(findings(&|_| {}), [[""; 3]; 0]);
    let busy = |segment: &Segment, row: usize, items, closed| {
        segment.participants()[row].counters().count_batch(items, closed);
        times(segment, row).count_batch(items);
        times(segment, row).record(WorkerHistogram::RunTime, 3_600_000_000_000, 1);
    };
    let both_busy = |segment: &Segment| {
        busy(segment, 1, 32, Closed::Full);
        busy(segment, 2, 32, Closed::Full);
    };
    assert_eq!(findings(&both_busy), [[""; 3]; 0], "nothing waits for them");
    let found = findings(&|segment| {
        both_busy(segment);
        times(segment, 1).record(WorkerHistogram::QueueTime, 3_600_000_000_000, 1);
    });
    assert_eq!(found.len(), 1);
    assert_eq!(found[0][..2], ["bottleneck", "split"]);
    let told = "split is the bottleneck: its workers run code 100 % of the time, and items waited ";
    assert!(found[0][2].starts_with(told), "{found:?}");
    let found = findings(&|segment| {
        both_busy(segment);
        for id in 0..2 {
            let mut filling = begin(segment, id, Token::SERVER);
            filling.set_length(0);
            filling.queue(0);
            segment.node(0).unwrap().ring().push(id).unwrap();
        }
    });
    assert!(found[0][2].contains(" of the time, and 2 items wait for them; "), "{found:?}");
    let found = findings(&|segment| {
        busy(segment, 1, 2, Closed::Window);
        busy(segment, 2, 2, Closed::Window);
    });
    assert_eq!(found[0][2], "split: batches have 2.0 of 32 items, as their wait ends before more items come");
    assert_eq!(found[0][..2], ["small_batches", "split"]);
    let found = findings(&|segment| {
        segment.caller_row(1).count(CallerCounter::PermitWaits);
        segment.server_counters().count(ServerCounter::Deaths);
    });
    assert!(found[0][2].starts_with("1 request waited for a permit, since all 8 were in use"), "{found:?}");
    assert_eq!(found[0][..2], ["permit_waits", "null"]);
    assert!(found[1][2].starts_with("1 worker died"), "{found:?}");
    let found = findings(&|segment| segment.caller_row(1).count(CallerCounter::Rejected));
    assert!(found[0][2].starts_with("1 request was refused: all 8 permits"), "{found:?}");
    // Items that wait for a batch to fill, while workers have time.
    let found = findings(&|segment| {
        let entry = &segment.participants()[1];
        entry.counters().count_batch(8, Closed::Window);
        for (of, ns) in [
            (WorkerHistogram::BatchWait, 200_000),
            (WorkerHistogram::QueueTime, 210_000),
            (WorkerHistogram::RunTime, 1_000),
        ] {
            times(segment, 1).record(of, ns, 1);
        }
    });
    assert_eq!(found.len(), 1);
    assert!(
        found[0][2].starts_with("split: items wait 200 µs for a batch to fill, and code runs for 1.00 µs"),
        "{found:?}"
    );
}

#[test]
fn workers_on_one_cpu_are_told() {
    let ours = Ours::new();
    let mut spec = spec();
    spec.nodes[0].workers = vec![Placed::listed(vec![3]); 2];
    let segment = Segment::create(ours.0.clone(), &spec).unwrap();
    let findings = stats(&ours)["findings"].clone();
    let about = "split/0 and split/1";
    let text = "split/0 and split/1 are pinned to CPU 3 alone, and take turns there";
    assert_eq!(findings, json!([{"kind": "shared_cpu", "about": about, "text": text}]));
    drop(segment);
}

#[test]
fn each_interval_has_what_came_within_it_and_the_last_one_is_the_servers_end() {
    let ours = Ours::new();
    let segment = counted(&ours);
    let mut tool = Command::new(env!("CARGO_BIN_EXE_shmtool"))
        .args(["stats", &ours.name(), "--json", "--interval", "20ms"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(tool.stdout.take().unwrap()).lines();
    let mut next = || -> Value { serde_json::from_str(&lines.next().expect("a line").unwrap()).unwrap() };
    let first = next();
    assert_eq!(
        (&first["requests"]["ended"], &first["state"]),
        (&json!(0), &json!("live")),
        "before it looked"
    );
    for _ in 0..7 {
        segment.caller_row(1).count(CallerCounter::Answered);
    }
    let mut answered = 0;
    while answered < 7 {
        answered += next()["requests"]["answered"].as_u64().unwrap();
    }
    assert_eq!(answered, 7);
    segment.participants()[0].set_life(Life::Leaving);
    drop(segment);
    let last = std::iter::repeat_with(next).find(|line| line["state"] == "stale");
    assert!(last.is_some());
    assert_eq!(tool.wait().unwrap().code(), Some(1), "the server has ended");
}

#[test]
fn a_dead_servers_statistics_can_be_read() {
    let ours = Ours::new();
    counted(&ours).keep_files();
    let report = stats(&ours);
    assert_eq!((&report["state"], &report["requests"]["answered"]), (&json!("stale"), &json!(8)));
    let page = text(&shmtool(&["stats", &ours.name()]));
    let told = format!("It is stale: its server has died; 'shmtool clean {}' removes it.", ours.name());
    assert_eq!(page.lines().nth(1), Some(&*told), "{page}");
}

/// Symptom: a server that had worked for an hour and died had answered millions of requests a second. Cause: the time ended when
/// the last worker had become ready. Fix: it ends when the supervisor last looked.
#[test]
fn the_time_of_a_dead_server_ends_with_its_last_news() {
    for (after_ns, wanted_s) in [(0, 0.0), (1_000, 1e-6)] {
        let ours = Ours::new();
        let mut segment = counted(&ours);
        segment.participants()[2].see_call(segment.participants()[0].since_ns() + after_ns);
        segment.keep_files();
        drop(segment);
        assert_eq!(stats(&ours)["period_s"], json!(wanted_s));
    }
}

#[test]
fn prometheus_can_read_them() {
    let ours = Ours::new();
    let segment = counted(&ours);
    let output = shmtool(&["stats", &ours.name(), "--prometheus"]);
    assert_eq!(code(&output), 0);
    let answered = "ringmill_requests_total{";
    let text = text(&output);
    let line = text
        .lines()
        .find(|line| line.starts_with(answered) && line.contains("answered"))
        .expect("its counter");
    assert!(line.ends_with(" 8"), "{line}");
    drop(segment);
}

#[test]
fn wrong_periods_are_refused() {
    for wrong in [
        &["--count", "3"][..],
        &["--interval", "1ms"],
        &["--interval", "1s", "--count", "0"],
        &["--prometheus", "--json"],
    ] {
        assert_eq!(code(&shmtool(&[&["stats", "nobody"], wrong].concat())), 2, "{wrong:?}");
    }
}
