//! Batches.

use super::{HOUR, SOON, all_ok, hands, holder, kill_the_collector, pids, probes, say, segment};
use ringmill_tests::gate::Gate;
use ringmill_tests::host::{Crew, Host, on_both};
use ringmill_tests::pile::{stream_all, wait_for_depth};
use ringmill_tests::probe::{ask, batch_sizes, stopper};
use ringmill_tests::wait_until;
use std::collections::BTreeSet;

/// All workers of a servlet, in any number of processes, take from one ring.
#[test]
fn batching_01_any_number_of_workers_share_one_ring() {
    on_both(|host| {
        let gate = Gate::new();
        let server = &probes(host, &gate, Crew::of(4));
        std::thread::scope(|scope| {
            // From one stream, which does not choose workers.
            let items = scope.spawn(|| stream_all(server, (0..4).map(|_| stopper())));
            drop(gate.arrivals(4));
            let workers: BTreeSet<u64> =
                all_ok(items.join().expect("no panic")).iter().map(|seen| seen.worker).collect();
            assert_eq!(workers, (0..4).collect());
        });
        let processes: BTreeSet<u32> = pids(server).into_iter().collect();
        assert_eq!(processes.len(), if host == Host::Processes { 4 } else { 1 });
    });
}

/// The worker that collects keeps the reader lock as long as its window is open, and items that come meanwhile are its own.
#[test]
fn batching_02_the_lock_is_kept_while_the_window_is_open() {
    on_both(|host| {
        let gate = Gate::new();
        let server = &probes(host, &gate, Crew::of(3).patient(5, HOUR));
        let seen = std::thread::scope(|scope| {
            let call =
                |value| scope.spawn(move || server.call(&ask(value)).and_then(|reply| reply.into_owned()));
            let mut calls = vec![call(0)];
            wait_until("a worker collects", || holder(server).is_some());
            let token = || segment(server.name()).node(0).expect("the only one").lock().holder();
            let collector = token();
            for value in 1..4 {
                calls.push(call(value));
                wait_for_depth(server, value as usize + 1);
                assert_eq!(token(), collector);
            }
            calls.push(call(4));
            all_ok(calls.into_iter().map(|call| call.join().expect("no panic")).collect())
        });
        assert!(seen.iter().all(|item| item.len == 5 && item.worker == seen[0].worker), "{seen:?}");
    });
}

/// A batch is closed by its last item, by the end of its window, or, where it has none, by an empty ring; then
/// others may collect.
#[test]
fn batching_03_the_lock_is_let_go_when_full_when_due_or_when_empty() {
    on_both(|host| {
        let closed = |crew, items: u64, sizes: &[usize]| {
            let gate = Gate::new();
            let server = probes(host, &gate, crew);
            let seen = all_ok(stream_all(&server, (0..items).map(ask)));
            assert_eq!(batch_sizes(&seen), sizes);
            wait_until("no worker collects", || holder(&server).is_none());
            let total = server.stats().servlets[0].total();
            (total.closed_full, total.closed_window, total.closed_empty)
        };
        assert_eq!(closed(Crew::of(1).patient(3, HOUR), 6, &[3, 3]), (2, 0, 0));
        assert_eq!(closed(Crew::of(1).patient(3, SOON), 1, &[1]), (0, 1, 0));
        assert_eq!(closed(Crew::of(1).greedy(3), 1, &[1]), (0, 0, 1));
        assert_eq!(closed(Crew::of(1).batches_of(3), 1, &[1]), (0, 0, 1), "it cannot pay to wait");
    });
}

/// While one worker works another collects, so that under load several full batches are at work at once; without load and window
/// each item leaves alone.
#[test]
fn batching_04_others_collect_while_one_works() {
    on_both(|host| {
        let gate = Gate::new();
        let server = &probes(host, &gate, Crew::of(2).patient(4, HOUR));
        std::thread::scope(|scope| {
            let items = scope.spawn(|| stream_all(server, (0..8).map(|_| stopper())));
            let arrivals = gate.arrivals(2);
            let labels: BTreeSet<&str> = arrivals.iter().map(|arrival| arrival.label()).collect();
            assert_eq!(labels, ["worker 0, 4 items", "worker 1, 4 items"].into());
            drop(arrivals);
            all_ok(items.join().expect("no panic"));
        });
        let server = probes(host, &gate, Crew::of(2).greedy(4));
        assert!((0..20).all(|value| server.call(&ask(value)).expect("an answer").len == 1));
    });
}

/// A collector that dies costs no request: the next one collects its batch, whole and in order.
#[test]
fn batching_05_a_collector_that_dies_leaves_its_batch_to_the_next() {
    for workers in [1, 3] {
        let gate = Gate::new();
        let server = &hands(Host::Processes, &gate, "", Crew::of(workers).patient(3, HOUR));
        let items = ["a", "b", "c"].map(String::from);
        std::thread::scope(|scope| {
            let call = |item| scope.spawn(move || say(server, item));
            let mut calls = vec![call("a")];
            wait_for_depth(server, 1);
            calls.push(call("b"));
            wait_for_depth(server, 2);
            kill_the_collector(server);
            assert_eq!(server.stats().servlets[0].batches().count, 0);
            calls.push(call("c"));
            let answers: Vec<_> =
                calls.into_iter().map(|call| call.join().expect("no panic").expect("an answer")).collect();
            assert_eq!(answers, items.map(|item| format!("{item}>hand")));
        });
        assert_eq!(server.stats().servlets[0].batches().count, 1, "one batch of three");
    }
}

/// If no window is stated, every batch of a lone caller is closed because the ring is empty, and none by a wait.
#[test]
fn batching_06_a_lone_caller_never_waits() {
    on_both(|host| {
        let gate = Gate::new();
        let server = probes(host, &gate, Crew::of(2).batches_of(8));
        assert!((0..30).all(|value| server.call(&ask(value)).expect("an answer").len == 1));
        let total = server.stats().servlets[0].total();
        assert_eq!((total.closed_empty, total.closed_window, total.closed_full), (30, 0, 0));
    });
}
