//! What Prometheus reads of a segment: a stored text, and each counter and histogram of the tables.

mod common;

use common::{Fixture, node, spec};
use prometheus_client::encoding::text;
use prometheus_client::registry::Registry;
use ringmill_shm::layout::NodeFacts;
use ringmill_shm::metrics::{self, Metrics};
use ringmill_shm::plan::Target;
use ringmill_shm::segment::Spec;
use ringmill_shm::stats::{CallerCounter, CallerHistogram, Closed, Counter, ServerCounter, WorkerHistogram};
use std::collections::BTreeSet;

/// Two servlets: one with a worker of two threads, one whose name has characters that a text must not have as they are.
fn fixture() -> Fixture {
    let mut first = node("first", Target::Node(1), 2);
    first.facts = NodeFacts { threads: 2, ..first.facts };
    Fixture::of(&Spec { nodes: vec![first, node("say \"a\\b\"\n", Target::End, 1)], ..spec() })
}

/// As a server would leave it that has done a little of everything.
fn script(f: &Fixture) {
    let workers = [f.arrive(1), f.arrive(2), f.arrive(3)];
    f.bury(workers[1]);
    for (counter, times) in Counter::ALL.into_iter().zip(1..) {
        (0..times).for_each(|_| f.segment.participants()[1].counters().count(counter));
    }
    let other = f.segment.participants()[3].counters();
    let histograms = f.segment.histograms(3).unwrap();
    [4, 100_000].into_iter().for_each(|items| other.count_batch(items, Closed::Window));
    histograms.count_batch(4);
    histograms.count_batch_that_waited(100_000, 200_000);
    histograms.record(WorkerHistogram::QueueTime, 1_500, 1);
    histograms.record(WorkerHistogram::QueueTime, 0, 1);
    histograms.record(WorkerHistogram::RunTime, 100_000_000_000, 8);

    for (counter, times) in ServerCounter::ALL.into_iter().zip(1..) {
        (0..times).for_each(|_| f.segment.server_counters().count(counter));
    }
    for row in [0, 7].map(|row| f.segment.caller_row(row)) {
        CallerCounter::ALL.into_iter().zip(10..).for_each(|(counter, times)| row.count_all(counter, times));
        row.record(CallerHistogram::TotalTime, 3_000_000, 2);
    }
    f.send(0, f.client(), b"in the ring");
    f.send(1, f.client(), b"in the ring too");
    let mut filling = f.begin(5, f.client());
    filling.block_buffer(500).unwrap();
}

#[test]
fn a_segment_is_the_text_that_is_stored() {
    let f = fixture();
    script(&f);
    let server = f.segment.identity().name;
    let text = metrics::text(&f.segment).replace(&server, "server");
    let stored = include_str!("metrics.txt");
    for (number, (line, stored)) in (1..).zip(text.lines().zip(stored.lines())) {
        assert_eq!(line, stored, "line {number}; all is now:\n{text}");
    }
    assert_eq!(text, stored);
}

/// The names that samples have, without what a histogram adds.
fn names(text: &str) -> BTreeSet<&str> {
    let samples = text.lines().filter(|line| !line.starts_with('#'));
    samples.filter_map(|line| line.split(['{', ' ']).next()).collect()
}

#[test]
fn each_counter_and_histogram_of_the_tables_is_there() {
    let f = fixture();
    let text = metrics::text(&f.segment);
    let names = names(&text);
    let counters = Counter::ALL.map(Counter::words).into_iter();
    let callers = CallerCounter::ALL.map(CallerCounter::words);
    let counters = counters.chain(callers).chain(ServerCounter::ALL.map(ServerCounter::words));
    for words in counters {
        let metric = words.metric();
        assert!(names.contains(metric.as_str()), "{metric}");
        assert!(text.contains(&format!("# HELP {metric} {}\n", words.metric_help())), "{metric}");
        if let Some((label, value)) = words.label() {
            let of =
                |line: &&str| line.starts_with(&metric) && line.contains(&format!("{label}=\"{value}\""));
            assert!(text.lines().any(|line| of(&line)), "{metric}, {value}");
        }
    }
    let histograms = WorkerHistogram::ALL.map(WorkerHistogram::words).into_iter();
    for words in histograms.chain(CallerHistogram::ALL.map(CallerHistogram::words)) {
        for part in ["bucket", "sum", "count"] {
            let metric = format!("{}_{part}", words.metric());
            assert!(names.contains(metric.as_str()), "{metric}");
        }
    }
}

/// Each sample, without its value.
fn series(text: &str) -> Vec<&str> {
    let samples = text.lines().filter(|line| !line.starts_with('#'));
    samples.map(|line| line.rsplit_once(' ').expect("a sample has a value").0).collect()
}

#[test]
fn several_servers_are_told_apart_whatever_their_names_are() {
    let (one, other) = (fixture(), fixture());
    other.segment.server_counters().count(ServerCounter::Deaths);
    let text = Metrics::of([&one.segment, &other.segment, &one.segment]).into_text();
    let all = series(&text);
    assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), all.len(), "no series is there twice");
    assert_eq!(all.len(), 3 * series(&metrics::text(&one.segment)).len());
    let heads: Vec<&str> = text.lines().filter(|line| line.starts_with("# TYPE")).collect();
    assert_eq!(heads.iter().collect::<BTreeSet<_>>().len(), heads.len(), "nor is a name");
    assert!(text.contains(&format!("server=\"{}-2\"", one.segment.identity().name)), "{text}");
}

#[test]
fn no_bytes_of_a_segment_keep_a_text_from_being_made() {
    let f = fixture();
    // Counters and buckets whose sums are greater than a number can be.
    for row in [0, 1].map(|row| f.segment.caller_row(row)) {
        CallerCounter::ALL.into_iter().for_each(|counter| row.count_all(counter, u64::MAX));
    }
    for _ in 0..3 {
        let huge = u64::MAX;
        f.segment.histograms(1).unwrap().record(WorkerHistogram::RunTime, u64::MAX, huge);
    }
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Metrics::of([&f.segment])));
    let mut open_metrics = String::new();
    text::encode(&mut open_metrics, &registry).unwrap();
    assert!(open_metrics.ends_with("# EOF\n"));
    let expected = format!("outcome=\"answered\"}} {}\n", u64::MAX);
    assert!(open_metrics.contains(&expected), "{open_metrics}");
}
