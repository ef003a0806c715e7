//! Back-pressure, timeouts and cancellation: `capacity` bounds the requests in progress, and each permit is given back.

use ringmill::{CallError, CallOptions, Server, StreamOptions, WhenFull};
use ringmill_shm::segment::{Location, Segment};
use ringmill_tests::gate::{Arrival, Gate};
use ringmill_tests::host::{Crew, Host, on_both};
use ringmill_tests::pile::{hold, stream_all, wait_for_depth};
use ringmill_tests::probe::{Ask, Probe, Seen, ask, stopper};
use ringmill_tests::{GUARD, fresh_name, wait_until};
use std::sync::Barrier;
use std::sync::mpsc;
use std::time::Duration;

ringmill::init!(Probe);

fn start(host: Host, capacity: usize, gate: &Gate) -> Server<Ask, Seen> {
    let builder = Server::builder(fresh_name("limits")).capacity(capacity);
    host.start::<Probe>(builder, gate.name(), Crew::of(1))
}

/// Without back-pressure: waits for a permit.
fn patient() -> CallOptions {
    CallOptions::new().when_full(WhenFull::Wait).timeout(GUARD)
}

/// Waits until a caller waits for a permit, or has got one.
#[track_caller]
fn wait_for_waiter(server: &Server<Ask, Seen>, is_past: impl Fn() -> bool) {
    let location = Location::named(server.name()).expect("a name");
    let segment = Segment::inspect(location).expect("a living server's segment");
    wait_until("a caller waits for a permit", || segment.freed().is_awaited() || is_past());
}

/// Opens the gate for whatever is still in progress.
#[track_caller]
fn let_all_go(server: &Server<Ask, Seen>, gate: &Gate) {
    wait_until("nothing in progress", || {
        drop(gate.arrival_if_any());
        server.backlog() == 0
    });
}

/// Every permit can be taken: none is lost.
#[track_caller]
fn assert_every_place_is_free(server: &Server<Ask, Seen>) {
    let take = |value| server.call_with(&ask(value), patient()).expect("a permit comes free");
    let replies: Vec<_> = (0..server.capacity() as u64).map(take).collect();
    assert_eq!(server.backlog(), server.capacity());
    drop(replies);
    assert_eq!(server.backlog(), 0);
}

#[test]
fn with_back_pressure_a_full_server_refuses_at_once() {
    on_both(|host| {
        let gate = Gate::new();
        let server = &start(host, 3, &gate);
        std::thread::scope(|scope| {
            let (arrival, first) = hold(scope, server, &gate, stopper());
            let others = [1, 2].map(|value| scope.spawn(move || server.call(&ask(value)).map(drop)));
            wait_for_depth(server, 2);
            assert_eq!(server.backlog(), 3);
            let error = server.call(&ask(3)).expect_err("no permit is free");
            let told = "all permits of the server (3) are in use: call less often, or start it with a larger capacity";
            assert_eq!(error.to_string(), told);
            let CallError::ServerBacklogFull { capacity: 3, waited: Duration::ZERO } = error else {
                panic!("{error:?}")
            };
            arrival.release();
            first.join().expect("no panic").expect("an answer");
            others.into_iter().for_each(|call| call.join().expect("no panic").expect("an answer"));
        });
        assert_every_place_is_free(server);
    });
}

#[test]
fn without_back_pressure_a_call_waits_for_a_permit() {
    on_both(|host| {
        let gate = Gate::new();
        let server = &start(host, 1, &gate);
        std::thread::scope(|scope| {
            let (arrival, first) = hold(scope, server, &gate, stopper());
            let waiting =
                scope.spawn(|| server.call_with(&ask(7), patient()).and_then(|reply| reply.into_owned()));
            wait_for_waiter(server, || false);
            arrival.release();
            first.join().expect("no panic").expect("an answer");
            assert_eq!(waiting.join().expect("no panic").expect("a permit came free").value, 7);
        });
        assert_eq!(server.backlog(), 0);
    });
}

#[test]
fn without_back_pressure_a_call_that_gets_no_permit_says_how_long_it_waited() {
    on_both(|host| {
        let gate = Gate::new();
        let server = &start(host, 1, &gate);
        std::thread::scope(|scope| {
            let (arrival, first) = hold(scope, server, &gate, stopper());
            let limit = Duration::from_millis(20);
            let error = server.call_with(&ask(1), patient().timeout(limit)).expect_err("no permit");
            let CallError::ServerBacklogFull { capacity: 1, waited } = error else { panic!("{error:?}") };
            assert!(waited >= limit, "{waited:?}");
            let waited = waited.as_secs_f64();
            let told = format!(
                "all permits of the server (1) are in use (waited {waited:.3} s): call less often, or start it with a larger capacity"
            );
            assert_eq!(error.to_string(), told);
            arrival.release();
            first.join().expect("no panic").expect("an answer");
        });
    });
}

#[test]
fn a_request_that_times_out_before_a_worker_begins_it_is_skipped() {
    on_both(|host| {
        let gate = Gate::new();
        let server = &start(host, 3, &gate);
        std::thread::scope(|scope| {
            let (arrival, first) = hold(scope, server, &gate, stopper());
            for value in [1, 2] {
                let limit = Duration::from_millis(5);
                let options = CallOptions::new().timeout(limit);
                let error = server.call_with(&ask(value), options).expect_err("the worker is busy");
                let CallError::Timeout { enqueueing, total } = error else { panic!("{error:?}") };
                assert!(enqueueing.is_zero() && total >= limit, "{enqueueing:?}, {total:?}");
                let total = total.as_secs_f64();
                let told = format!("no outcome within {total:.3} s (0.000 s of it waiting for a permit)");
                assert_eq!(error.to_string(), told);
            }
            // Their permits are taken until the worker reaches them.
            assert!(matches!(server.call(&ask(3)), Err(CallError::ServerBacklogFull { .. })));
            arrival.release();
            first.join().expect("no panic").expect("an answer");
        });
        assert_every_place_is_free(server);
        let total = server.stats().servlets[0].total();
        assert_eq!(total.skipped, 2);
        assert_eq!(total.items, 1 + 3, "no worker worked on skipped requests");
    });
}

#[test]
fn a_timeout_says_how_long_it_waited_for_a_permit() {
    on_both(|host| {
        let gate = Gate::new();
        let server = &start(host, 1, &gate);
        std::thread::scope(|scope| {
            let (arrival, first) = hold(scope, server, &gate, stopper());
            let options = patient().timeout(Duration::from_secs(1));
            let waiting = scope.spawn(move || server.call_with(&stopper(), options).map(drop));
            wait_for_waiter(server, || waiting.is_finished());
            arrival.release();
            first.join().expect("no panic").expect("an answer");
            // It has a permit now, and its worker is held.
            match waiting.join().expect("no panic").expect_err("the gate stays closed") {
                CallError::Timeout { enqueueing, total } => {
                    assert!(!enqueueing.is_zero() && enqueueing < total, "{enqueueing:?}, {total:?}");
                }
                CallError::ServerBacklogFull { .. } => {} // a machine so busy that a second was too short
                other => panic!("{other:?}"),
            }
        });
        let_all_go(server, &gate);
        assert_every_place_is_free(server);
    });
}

#[test]
fn a_request_that_times_out_at_work_gives_its_permit_back_when_the_worker_is_done() {
    on_both(|host| {
        let gate = Gate::new();
        let server = &start(host, 2, &gate);
        let mut at_work = None;
        // The source ends only when the worker is at the first item: so that item is late *at work*.
        let source = (0..).map_while(|value| {
            if value > 0 {
                at_work = Some(gate.arrival());
            }
            (value == 0).then(stopper)
        });
        let options = StreamOptions::new().timeout(Duration::from_millis(5));
        let outcomes: Vec<_> = server.stream_with(source, options).collect();
        assert!(matches!(outcomes[..], [Err(CallError::Timeout { .. })]), "late, in its turn: {outcomes:?}");
        assert_eq!(server.backlog(), 1, "the worker still has it");
        std::thread::scope(|scope| {
            let other = scope.spawn(|| server.call(&ask(1)).map(drop));
            wait_for_depth(server, 1);
            assert!(matches!(server.call(&ask(2)), Err(CallError::ServerBacklogFull { .. })));
            drop(at_work);
            other.join().expect("no panic").expect("an answer");
        });
        assert_every_place_is_free(server);
        let total = server.stats().servlets[0].total();
        assert_eq!((total.skipped, total.items), (0, 1 + 1 + 2), "it had been begun");
    });
}

#[test]
fn capacity_is_never_exceeded() {
    const CAPACITY: usize = 3;
    const CALLERS: usize = 8;
    on_both(|host| {
        let gate = Gate::new();
        let server = &start(host, CAPACITY, &gate);
        for _ in 0..25 {
            let all_at_once = &Barrier::new(CALLERS);
            std::thread::scope(|scope| {
                // The worker is held, so a permit that was taken stays taken: as many calls as there are
                // other permits get in, and all the others are refused.
                let (arrival, first) = hold(scope, server, &gate, stopper());
                let (refused, refusals) = mpsc::channel();
                let calls: Vec<_> = (0..CALLERS as u64)
                    .map(|value| {
                        let refused = refused.clone();
                        scope.spawn(move || {
                            all_at_once.wait();
                            match server.call(&ask(value)) {
                                Ok(reply) => assert_eq!(reply.value, value),
                                Err(CallError::ServerBacklogFull { .. }) => refused.send(()).expect("heard"),
                                Err(error) => panic!("{error}"),
                            }
                        })
                    })
                    .collect();
                let expected = CALLERS - (CAPACITY - 1);
                for _ in 0..expected {
                    refusals.recv_timeout(GUARD).expect("a call over capacity is refused");
                }
                wait_for_depth(server, CAPACITY - 1);
                assert_eq!(server.backlog(), CAPACITY);
                arrival.release();
                first.join().expect("no panic").expect("an answer");
                calls.into_iter().for_each(|call| call.join().expect("no panic"));
                assert!(refusals.try_recv().is_err(), "all the others got in");
            });
            assert_eq!(server.backlog(), 0);
        }
    });
}

#[test]
fn replies_that_are_kept_hold_their_permits() {
    on_both(|host| {
        let gate = Gate::new();
        let server = start(host, 4, &gate);
        let mut kept: Vec<_> = (0..4).map(|value| server.call(&ask(value)).expect("a permit")).collect();
        assert_eq!(server.backlog(), 4);
        assert!(matches!(server.call(&ask(4)), Err(CallError::ServerBacklogFull { .. })));
        kept.remove(1);
        assert_eq!(server.backlog(), 3);
        assert_eq!(server.call(&ask(5)).expect("the permit of the dropped one").value, 5);
        let values: Vec<u64> = kept.iter().map(|reply| reply.value.to_native()).collect();
        assert_eq!(values, [0, 2, 3], "other requests do not change them");
        drop(kept);
        assert_every_place_is_free(&server);
    });
}

/// A source of items that counts how many of them are in progress, and lets the worker, which is held by
/// the first, go on when there are as many as there can be.
fn stream_at_most(server: &Server<Ask, Seen>, gate: &Gate, options: StreamOptions, most: u64) {
    const ITEMS: u64 = 200;
    let (delivered, pulled, highest) =
        (std::cell::Cell::new(0), std::cell::Cell::new(0), std::cell::Cell::new(0));
    let mut held: Option<Arrival> = None;
    let source = (0..ITEMS).map(|value| {
        if value == 1 {
            held = Some(gate.arrival());
        }
        pulled.set(value + 1);
        let in_progress: u64 = pulled.get() - delivered.get();
        highest.set(in_progress.max(highest.get()));
        if in_progress == most {
            held = None;
        }
        if value == 0 { stopper() } else { ask(value) }
    });
    for outcome in server.stream_with(source, options.timeout(GUARD)) {
        assert!(outcome.is_ok(), "{outcome:?}");
        delivered.set(delivered.get() + 1);
    }
    assert_eq!((delivered.get(), highest.get()), (ITEMS, most));
}

#[test]
fn a_stream_holds_its_window_and_never_more() {
    on_both(|host| {
        let gate = Gate::new();
        let server = start(host, 64, &gate);
        for window in [2, 7, 40, 64] {
            stream_at_most(&server, &gate, StreamOptions::new().window(window as usize), window);
        }
        // A window above the capacity is the capacity.
        stream_at_most(&server, &gate, StreamOptions::new().window(1000), 64);
        assert_every_place_is_free(&server);
    });
}

#[test]
fn a_stream_holds_the_capacity_and_never_more() {
    on_both(|host| {
        let gate = Gate::new();
        for capacity in [2, 5, 33] {
            let server = start(host, capacity, &gate);
            stream_at_most(&server, &gate, StreamOptions::new(), capacity as u64);
            assert_every_place_is_free(&server);
        }
    });
}

#[test]
fn a_stream_of_one_at_a_time_works() {
    on_both(|host| {
        let gate = Gate::new();
        let server = start(host, 1, &gate);
        let seen = stream_all(&server, (0..50).map(ask));
        assert!((0..).zip(&seen).all(|(value, seen)| seen.as_ref().is_ok_and(|s| s.value == value)));
        let windowed = server.stream_with((0..50).map(ask), StreamOptions::new().window(0));
        assert_eq!(windowed.filter(|seen| seen.is_ok()).count(), 50, "a window of 0 is one of 1");
    });
}

#[test]
fn a_stream_waits_for_the_permits_of_others() {
    on_both(|host| {
        let gate = Gate::new();
        let server = &start(host, 2, &gate);
        let others: Vec<_> = (0..2).map(|value| server.call(&ask(value)).expect("a permit")).collect();
        std::thread::scope(|scope| {
            let stream = scope.spawn(move || stream_all(server, (0..20).map(ask)));
            wait_for_waiter(server, || false);
            drop(others);
            let seen = stream.join().expect("no panic");
            assert!((0..).zip(&seen).all(|(value, seen)| seen.as_ref().is_ok_and(|s| s.value == value)));
            assert_eq!(seen.len(), 20);
        });
        assert_every_place_is_free(server);
    });
}

#[test]
fn a_stream_that_gets_no_permit_says_so_and_loses_no_item() {
    on_both(|host| {
        let gate = Gate::new();
        let server = start(host, 1, &gate);
        let other = server.call(&ask(0)).expect("a permit");
        let limit = Duration::from_millis(100);
        let mut stream = server.stream_with((0..20).map(ask), StreamOptions::new().timeout(limit));
        let error = stream.next().expect("not over").expect_err("no permit");
        let CallError::ServerBacklogFull { capacity: 1, waited } = error else { panic!("{error:?}") };
        assert!(waited >= limit);
        drop(other);
        // That was the outcome of the first item.
        for value in 1..20 {
            match stream.next().expect("an outcome for each item") {
                Ok(seen) => assert_eq!(seen.value, value),
                Err(CallError::Timeout { .. }) => return, // a machine so busy that the limit was too short
                Err(error) => panic!("{error}"),
            }
        }
        assert!(stream.next().is_none());
    });
}

#[test]
fn a_stream_and_calls_share_the_permits() {
    on_both(|host| {
        let gate = Gate::new();
        let server = &start(host, 4, &gate);
        std::thread::scope(|scope| {
            let stream = scope.spawn(move || stream_all(server, (0..2_000).map(ask)));
            for value in 0..500 {
                // The stream wants every permit, but leaves some to callers that wait.
                assert_eq!(server.call_with(&ask(value), patient()).expect("a permit").value, value);
            }
            assert!(stream.join().expect("no panic").iter().all(Result::is_ok));
        });
        assert_every_place_is_free(server);
    });
}
