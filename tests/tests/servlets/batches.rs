//! Batches follow the rules of size and window exactly, one reader at a time collects, and the window's clock runs from the
//! oldest item's enqueueing.

use proptest::prelude::*;
use ringmill::{CallError, CallOptions, Server};
use ringmill_tests::gate::Gate;
use ringmill_tests::host::{Crew, Host, on_both};
use ringmill_tests::pile::{hold, pile_up, stream_all, wait_for_depth};
use ringmill_tests::probe::{Ask, Probe, Seen, ask, batch_sizes, stopper};
use ringmill_tests::{GUARD, fresh_name};
use std::sync::mpsc;
use std::time::Duration;

ringmill::init!(Probe);

const HOUR: Duration = Duration::from_secs(3600);

fn start(host: Host, capacity: usize, gate: &Gate, crew: Crew) -> Server<Ask, Seen> {
    let builder = Server::builder(fresh_name("batches")).capacity(capacity);
    host.start::<Probe>(builder, gate.name(), crew)
}

fn all_ok(outcomes: Vec<Result<Seen, CallError>>) -> Vec<Seen> {
    outcomes.into_iter().map(|outcome| outcome.expect("an answer")).collect()
}

/// The sizes of the batches that a pile of `items` items ends in, with one worker.
fn sizes_of_a_pile(server: &Server<Ask, Seen>, gate: &Gate, items: u64) -> Vec<usize> {
    let seen = all_ok(pile_up(server, gate, stopper(), (0..items).map(ask).collect()));
    assert!(seen.iter().map(|seen| seen.value).eq(0..items), "each its own answer, in order");
    batch_sizes(&seen)
}

#[test]
fn without_a_batch_size_items_come_one_by_one() {
    on_both(|host| {
        let gate = Gate::new();
        let server = start(host, 32, &gate, Crew::of(1));
        assert_eq!(sizes_of_a_pile(&server, &gate, 7), [1; 7]);
        let batches = server.stats().servlets[0].batches();
        assert_eq!((batches.count, batches.items, batches.max), (8, 8, 1));
    });
}

#[test]
fn a_batch_size_of_one_makes_batches_of_one() {
    on_both(|host| {
        let gate = Gate::new();
        let server = start(host, 32, &gate, Crew::of(1).batches_of(1));
        assert_eq!(sizes_of_a_pile(&server, &gate, 7), [1; 7]);
        assert_eq!(server.stats().servlets[0].batches().max, 1);
    });
}

#[test]
fn a_pile_is_drained_in_full_batches_and_a_rest() {
    on_both(|host| {
        let gate = Gate::new();
        let server = start(host, 64, &gate, Crew::of(1).greedy(8));
        assert_eq!(sizes_of_a_pile(&server, &gate, 8 * 3 + 5), [8, 8, 8, 5]);
        let total = server.stats().servlets[0].total();
        assert_eq!(total.closed_full, 3);
        assert_eq!(total.closed_empty, 2, "the rest, and the item that held the worker");
        assert_eq!((total.closed_window, total.closed_shutdown), (0, 0));
        assert_eq!((total.batches, total.items, total.batch_min, total.batch_max), (5, 30, 1, 8));
    });
}

#[test]
fn without_load_an_item_without_a_window_leaves_at_once() {
    on_both(|host| {
        let gate = Gate::new();
        let server = start(host, 64, &gate, Crew::of(2).greedy(16));
        for value in 0..100 {
            assert_eq!(server.call(&ask(value)).expect("an answer").len, 1);
        }
        assert_eq!(server.stats().servlets[0].total().closed_empty, 100);
    });
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever the batch size and however large the pile, the batches are its chunks.
    #[test]
    fn batches_of_a_pile_are_its_chunks(batch_size in 0..40_usize, items in 0..100_u64) {
        let gate = Gate::new();
        let crew = if batch_size > 1 { Crew::of(1).greedy(batch_size) } else { Crew::of(1).batches_of(batch_size) };
        let server = start(Host::Threads, 128, &gate, crew);
        let all: Vec<u64> = (0..items).collect();
        let chunks: Vec<usize> = all.chunks(batch_size.max(1)).map(<[u64]>::len).collect();
        prop_assert_eq!(sizes_of_a_pile(&server, &gate, items), chunks);
    }
}

#[test]
fn no_worker_steals_from_a_batch_whose_window_is_open() {
    on_both(|host| {
        let gate = Gate::new();
        let server = start(host, 64, &gate, Crew::of(2).patient(12, HOUR));
        // Twelve callers, each with one item, one after the other: the worker that holds the window must see them all.
        let seen = std::thread::scope(|scope| {
            let server = &server;
            let calls: Vec<_> = (0..12)
                .map(|value| {
                    let call =
                        scope.spawn(move || server.call(&ask(value)).and_then(|reply| reply.into_owned()));
                    if value < 11 {
                        wait_for_depth(server, value as usize + 1);
                    }
                    call
                })
                .collect();
            all_ok(calls.into_iter().map(|call| call.join().expect("no panic")).collect())
        });
        assert_eq!(batch_sizes(&seen), [12], "all in one batch: {seen:?}");
        let stats = server.stats();
        let total = stats.servlets[0].total();
        assert_eq!((total.batches, total.items, total.closed_full), (1, 12, 1));
        let batches: Vec<u64> = stats.servlets[0].workers.iter().map(|w| w.counters.batches).collect();
        assert!(batches == [1, 0] || batches == [0, 1], "one worker collected: {batches:?}");
    });
}

#[test]
fn a_batch_that_is_full_does_not_wait_for_its_window() {
    on_both(|host| {
        let gate = Gate::new();
        let server = start(host, 64, &gate, Crew::of(1).patient(4, HOUR));
        // From one caller; twice, because the second batch fills while the first is at work.
        let seen = all_ok(stream_all(&server, (0..8).map(ask)));
        assert_eq!(batch_sizes(&seen), [4, 4]);
        let total = server.stats().servlets[0].total();
        assert_eq!((total.closed_full, total.closed_window), (2, 0));
    });
}

#[test]
fn a_window_that_ends_closes_the_batch_as_it_is() {
    on_both(|host| {
        let gate = Gate::new();
        let server = start(host, 64, &gate, Crew::of(1).patient(8, Duration::from_millis(30)));
        assert_eq!(sizes_of_a_pile(&server, &gate, 3), [3]);
        let total = server.stats().servlets[0].total();
        assert_eq!(total.closed_window, 2, "the pile, and the item that held the worker");
        assert_eq!((total.batches, total.closed_full, total.closed_empty), (2, 0, 0));
    });
}

#[test]
fn without_a_stated_wait_a_lone_caller_never_waits() {
    on_both(|host| {
        let gate = Gate::new();
        let server = start(host, 64, &gate, Crew::of(2).batches_of(8));
        for value in 0..50 {
            assert_eq!(server.call(&ask(value)).expect("an answer").len, 1);
        }
        let total = server.stats().servlets[0].total();
        assert_eq!((total.batches, total.closed_empty, total.closed_window), (50, 50, 0));
    });
}

/// Workers wait once they have found two items at once, and stop after eight batches of one item.
#[test]
fn without_a_stated_wait_items_that_overlap_make_workers_wait() {
    on_both(|host| {
        let gate = Gate::new();
        let server = start(host, 64, &gate, Crew::of(1).batches_of(8));
        assert_eq!(sizes_of_a_pile(&server, &gate, 3), [3]);
        let closed = || {
            let total = server.stats().servlets[0].total();
            (total.closed_empty, total.closed_window, total.closed_full)
        };
        assert_eq!(closed(), (2, 0, 0), "the item that held the worker, then the pile");
        for value in 0..20 {
            assert_eq!(server.call(&ask(value)).expect("an answer").len, 1);
        }
        assert_eq!(closed(), (2 + 12, 8, 0));
    });
}

/// Items wait behind a busy worker until they are older than the window; then the worker must take them
/// at once, and not wait once more.
///
/// Whether a worker waits shows in its batch: the test sends another item when the batch has been closed, or, if that takes
/// nearly as long as the window, before. So a worker that waits again has the other item in its batch, each time. A worker that
/// is only slow because the machine is busy may have it now and then: hence several tries.
#[test]
fn the_window_runs_from_the_oldest_enqueueing() {
    const WINDOW: Duration = Duration::from_secs(1);
    const TRIES: usize = 5;
    on_both(|host| {
        let gate = Gate::new();
        let server = &start(host, 64, &gate, Crew::of(1).patient(4, WINDOW));
        let closed_at_once = || {
            std::thread::scope(|scope| {
                // Four at once, so that the worker is busy without having waited.
                let first = scope.spawn(|| stream_all(server, (0..4).map(|_| stopper())));
                let busy = gate.arrival();
                let call =
                    |item: Ask| scope.spawn(move || server.call(&item).and_then(|reply| reply.into_owned()));
                let aged = [call(stopper()), call(ask(1))];
                wait_for_depth(server, 2);
                std::thread::sleep(WINDOW); // the test needs time to pass
                let (closed, is_closed) = mpsc::channel();
                let late = scope.spawn(move || {
                    let _ = is_closed.recv_timeout(WINDOW * 9 / 10);
                    server.call(&ask(2)).and_then(|reply| reply.into_owned())
                });
                busy.release();
                let arrival = gate.arrival();
                closed.send(()).ok(); // the receiver has gone if the item has been sent
                arrival.release();
                all_ok(first.join().expect("no panic"));
                let aged = all_ok(aged.map(|call| call.join().expect("no panic")).into());
                let late = late.join().expect("no panic").expect("an answer");
                let together = aged.iter().all(|seen| seen.batch == aged[0].batch);
                assert!(together, "the aged items are one batch: {aged:?}");
                late.batch != aged[0].batch
            })
        };
        assert!((0..TRIES).any(|_| closed_at_once()), "items older than the window waited once more");
    });
}

#[test]
fn with_four_workers_a_piled_up_ring_is_drained_in_full_batches() {
    const BATCH: usize = 32;
    const BATCHES: usize = 100;
    const REST: usize = 5;
    on_both(|host| {
        let gate = Gate::new();
        let items = BATCH * BATCHES + REST;
        let server = &start(host, items + 4, &gate, Crew::of(4).greedy(BATCH));
        let seen = std::thread::scope(|scope| {
            let held: Vec<_> = (0..4).map(|_| hold(scope, server, &gate, stopper())).collect();
            let stream = scope.spawn(move || stream_all(server, (0..items as u64).map(ask)));
            wait_for_depth(server, items);
            for (arrival, call) in held {
                arrival.release();
                assert_eq!(call.join().expect("no panic").expect("an answer").len, 1);
            }
            all_ok(stream.join().expect("no panic"))
        });
        assert!(seen.iter().map(|seen| seen.value).eq(0..items as u64), "each its own answer, in order");
        let mut full = vec![BATCH; BATCHES];
        full.push(REST);
        assert_eq!(batch_sizes(&seen), full, "no worker took from another's batch");
        let total = server.stats().servlets[0].total();
        assert_eq!(total.closed_full, BATCHES as u64);
        let mean = (total.items - 4) as f64 / (total.batches - 4) as f64; // without those that were held
        assert!(mean >= 0.95 * BATCH as f64, "{mean}");
    });
}

/// Calls whose callers have gone when the worker looks.
fn call_and_go(server: &Server<Ask, Seen>, count: u64) {
    for value in 0..count {
        let options = CallOptions::new().timeout(Duration::from_millis(1));
        let error = server.call_with(&ask(1000 + value), options).expect_err("the worker is busy");
        assert!(matches!(error, CallError::Timeout { .. }), "{error}");
    }
}

#[test]
fn items_whose_callers_have_gone_do_not_count_in_a_batch() {
    on_both(|host| {
        let gate = Gate::new();
        let server = &start(host, 64, &gate, Crew::of(1).greedy(4));
        let seen = std::thread::scope(|scope| {
            let (arrival, call) = hold(scope, server, &gate, stopper());
            call_and_go(server, 3);
            let stream = scope.spawn(move || stream_all(server, (0..5).map(ask)));
            wait_for_depth(server, 3 + 5);
            arrival.release();
            call.join().expect("no panic").expect("an answer");
            all_ok(stream.join().expect("no panic"))
        });
        assert_eq!(batch_sizes(&seen), [4, 1], "batches have only items whose callers still wait");
        let total = server.stats().servlets[0].total();
        assert_eq!((total.skipped, total.items), (3, 1 + 5));
    });
}

#[test]
fn items_whose_callers_have_gone_do_not_fill_a_window() {
    on_both(|host| {
        let gate = Gate::new();
        let server = &start(host, 64, &gate, Crew::of(1).patient(4, HOUR));
        let seen = std::thread::scope(|scope| {
            let first = scope.spawn(|| stream_all(server, (0..4).map(|_| stopper())));
            let arrival = gate.arrival();
            call_and_go(server, 3);
            let stream = scope.spawn(move || stream_all(server, (0..4).map(ask)));
            wait_for_depth(server, 3 + 4);
            arrival.release();
            all_ok(first.join().expect("no panic"));
            all_ok(stream.join().expect("no panic"))
        });
        assert_eq!(batch_sizes(&seen), [4], "the four that are left fill one batch");
        let total = server.stats().servlets[0].total();
        assert_eq!((total.closed_full, total.closed_window, total.skipped), (2, 0, 3));
    });
}

#[test]
fn shutting_down_closes_an_open_window() {
    on_both(|host| {
        let gate = Gate::new();
        let builder = Server::builder(fresh_name("batches")).shutdown_timeout(GUARD);
        let server = &host.start::<Probe>(builder, gate.name(), Crew::of(1).patient(8, HOUR));
        std::thread::scope(|scope| {
            let calls = [1, 2].map(|value| scope.spawn(move || server.call(&ask(value)).map(drop)));
            wait_for_depth(server, 2);
            server.shutdown();
            for call in calls {
                call.join().expect("no panic").expect("a request in progress is answered");
            }
        });
        let total = server.stats().servlets[0].total();
        assert_eq!((total.batches, total.closed_shutdown), (1, 1));
    });
}
