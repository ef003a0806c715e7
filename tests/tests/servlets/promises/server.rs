//! Servers.

use super::{
    Half, Hand, SOON, assert_every_place_is_free, brief, builder, hands, part, patient, pids, remote, say,
    segment,
};
use futures_util::StreamExt;
use ringmill::error::RemoteCause;
use ringmill::testing;
use ringmill::{CallError, CallOptions, ProcessServlet, Server, Servlet, StreamOptions};
use ringmill_tests::gate::Gate;
use ringmill_tests::host::{Crew, Host, on_both};
use ringmill_tests::name::Name;
use ringmill_tests::pile::{hold, stream_all, wait_for_depth};
use ringmill_tests::teller::{Teller, Then, task};
use ringmill_tests::traces::assert_gone;
use ringmill_tests::{GUARD, fresh_name, wait_until};
use std::cell::Cell;

/// The capacity bounds the requests that are anywhere in the server, in whatever stage.
#[test]
fn server_01_capacity_bounds_all_stages_together() {
    on_both(|host| {
        let gate = Gate::new();
        let stages = part(host, &gate, "a", 1).then(part(host, &gate, "b", 1));
        let server = &Server::builder(fresh_name("promises")).capacity(3).start(stages).expect("it starts");
        std::thread::scope(|scope| {
            let (second_stage, one) = hold(scope, server, &gate, "stop b".into());
            let (first_stage, two) = hold(scope, server, &gate, "stop a".into());
            let three = scope.spawn(|| server.call(&"x".into()).and_then(|reply| reply.into_owned()));
            wait_for_depth(server, 1);
            assert_eq!((server.backlog(), server.capacity()), (3, 3));
            assert!(matches!(say(server, "y"), Err(CallError::ServerBacklogFull { capacity: 3, .. })));
            drop((second_stage, first_stage));
            [one, two, three]
                .into_iter()
                .for_each(|call| drop(call.join().expect("no panic").expect("an answer")));
        });
        assert_every_place_is_free(server);
    });
}

/// A call to a full server fails at once, or waits up to its timeout and says how long it did; a call whose answer is late says
/// how long it took, and is skipped if no worker had begun it.
#[test]
fn server_02_call_tells_full_from_late_and_how_long_it_waited() {
    on_both(|host| {
        let gate = Gate::new();
        let server = &host.start::<Hand>(builder().capacity(2), brief(&gate, ""), Crew::of(1));
        std::thread::scope(|scope| {
            let (arrival, held) = hold(scope, server, &gate, "stop".into());
            let late = server.call_with(&"late".into(), CallOptions::new().timeout(SOON)).map(drop);
            let Err(CallError::Timeout { enqueueing, total }) = late else { panic!("{late:?}") };
            assert!(enqueueing.is_zero() && total >= SOON, "{enqueueing:?}, {total:?}");
            // Its permit is taken until the worker reaches it; so is the other one.
            let full = say(server, "x");
            let Err(CallError::ServerBacklogFull { waited, .. }) = full else { panic!("{full:?}") };
            assert!(waited.is_zero());
            let full = server.call_with(&"x".into(), patient().timeout(SOON)).map(drop);
            let Err(CallError::ServerBacklogFull { waited, .. }) = full else { panic!("{full:?}") };
            assert!(waited >= SOON);
            let waiting =
                scope.spawn(|| server.call_with(&"x".into(), patient()).and_then(|reply| reply.into_owned()));
            wait_until("it waits for a permit", || segment(server.name()).freed().is_awaited());
            arrival.release();
            held.join().expect("no panic").expect("an answer");
            assert_eq!(waiting.join().expect("no panic").expect("a permit came free"), "x>hand");
        });
        assert_every_place_is_free(server);
        let total = server.stats().servlets[0].total();
        assert_eq!((total.skipped, total.items), (1, 1 + 1 + 2), "the late one was not worked on");
    });
}

/// A stream gives the outcomes of its inputs in their order, errors included, with as many in progress as there are permits and
/// never more; it may be dropped at any time, and shares the server with other callers.
#[test]
fn server_03_stream_is_ordered_full_bounded_and_can_be_left() {
    on_both(|host| {
        const CAPACITY: usize = 4;
        let gate = Gate::new();
        let server = &host.start::<Hand>(builder().capacity(CAPACITY), brief(&gate, ""), Crew::of(2));
        // The first item stops until the stream has taken as many inputs as there are permits.
        let (pulled, delivered, mut first) = (Cell::new(0), Cell::new(0), None);
        let source = std::iter::from_fn(|| {
            pulled.set(pulled.get() + 1);
            assert!(pulled.get() - delivered.get() <= CAPACITY, "more than there are permits");
            match pulled.get() {
                2 => first = Some(gate.arrival()),
                CAPACITY => drop(first.take()),
                _ => {}
            }
            Some(if pulled.get() == 1 { "stop".to_string() } else { pulled.get().to_string() })
        });
        let mut stream = server.stream_with(source, StreamOptions::new().timeout(GUARD));
        for expected in ["stop>hand", "2>hand", "3>hand"] {
            assert_eq!(stream.next().expect("more").expect("an answer"), expected);
            delivered.set(delivered.get() + 1);
        }
        drop(stream);
        assert_every_place_is_free(server);
        std::thread::scope(|scope| {
            for caller in 0..2 {
                scope.spawn(move || {
                    let item = move |i| format!("{}, {caller}.{i}", if i % 10 == 3 { "fail" } else { "x" });
                    for (i, outcome) in stream_all(server, (0..200).map(item)).into_iter().enumerate() {
                        assert_eq!(outcome.is_err(), i % 10 == 3);
                        assert!(outcome.is_err() || outcome.is_ok_and(|o| o == format!("{}>hand", item(i))));
                    }
                });
                scope.spawn(move || {
                    for i in 0..50 {
                        let item = format!("call {caller}.{i}");
                        assert_eq!(
                            server.call_with(&item, patient()).expect("a permit").as_str(),
                            item + ">hand"
                        );
                    }
                });
            }
        });
        assert_every_place_is_free(server);
    });
}

/// A stream may give each input back with its outcome, has a step before sending whose refusals keep their turn, and may give
/// outcomes as they come.
#[test]
fn server_03_stream_returns_inputs_prepares_them_and_may_leave_their_order() {
    on_both(|host| {
        let gate = Gate::new();
        let server = &host.start::<Hand>(builder().capacity(4), brief(&gate, ""), Crew::of(2));
        let names = ["a", "fail", "b"].map(String::from);
        let with_inputs: Vec<_> =
            server.stream(names.clone()).with_inputs().map(|item| item.unwrap()).collect();
        assert_eq!(
            with_inputs.iter().map(|(name, _)| name).collect::<Vec<_>>(),
            names.iter().collect::<Vec<_>>()
        );
        assert_eq!(with_inputs.iter().map(|(_, o)| o.is_ok()).collect::<Vec<_>>(), [true, false, true]);

        let prepared = server.stream_prepared([1, -1, 2], |&number: &i32| {
            u32::try_from(number).map(|number| number.to_string())
        });
        let outcomes: Vec<_> = prepared.collect();
        assert_eq!(outcomes[0].as_deref().unwrap(), "1>hand");
        assert!(matches!(&outcomes[1], Err(CallError::Refused(_))), "{outcomes:?}");
        assert_eq!(outcomes[2].as_deref().unwrap(), "2>hand");

        let unordered = server.stream(["stop", "x", "y"].map(String::from)).unordered();
        let mut indices: Vec<usize> = Vec::new();
        for item in unordered {
            let (index, outcome) = item.unwrap();
            outcome.unwrap();
            indices.push(index);
            if indices.len() == 2 {
                gate.arrival().release(); // the first is held as long as it is not the last
            }
        }
        assert_eq!(indices.last(), Some(&0), "{indices:?}");
        assert_every_place_is_free(server);
    });
}

/// Futures and streams of the standard kinds, under any executor; dropping one cancels.
#[test]
fn server_04_async_calls_and_streams_under_any_executor() {
    async fn both(server: &Server<String, String>) {
        assert_eq!(server.call_async(&"x".to_string()).await.unwrap().as_str(), "x>hand");
        let names = futures_util::stream::iter((0..20).map(|i| i.to_string()));
        let outcomes: Vec<_> = server.stream_async(names).map(Result::unwrap).collect().await;
        assert_eq!(outcomes, (0..20).map(|i| format!("{i}>hand")).collect::<Vec<_>>());
    }
    on_both(|host| {
        let gate = Gate::new();
        let server = &host.start::<Hand>(builder().capacity(4), brief(&gate, ""), Crew::of(1));
        pollster::block_on(both(server));
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(both(server));

        // Dropped while the worker is busy with another request: skipped, and its permit comes back.
        std::thread::scope(|scope| {
            let (arrival, call) = hold(scope, server, &gate, "stop".to_string());
            let input = "dropped".to_string();
            let mut future = Box::pin(server.call_async(&input));
            let mut context = std::task::Context::from_waker(std::task::Waker::noop());
            assert!(future.as_mut().poll(&mut context).is_pending());
            assert_eq!(server.backlog(), 2);
            drop(future);
            arrival.release();
            call.join().unwrap().unwrap();
        });
        assert_every_place_is_free(server);
        let total = server.stats().servlets[0].total();
        assert_eq!((total.skipped, total.items), (1, 2 * 21 + 1 + 4), "4 by the sweep for permits");
    });
}

/// A server reports how many requests are in progress, its capacity, and of each request its age, its stage and its worker; as
/// JSON too.
#[test]
fn server_05_backlog_capacity_and_debug_info() {
    on_both(|host| {
        let gate = Gate::new();
        let server = &host.start::<Hand>(builder().capacity(4), brief(&gate, ""), Crew::of(1));
        assert_eq!((server.capacity(), server.backlog()), (4, 0));
        std::thread::scope(|scope| {
            let (arrival, call) = hold(scope, server, &gate, "stop".to_string());
            wait_until("its caller sleeps", || server.debug_info().requests[0].age_seconds.is_some());
            let info = serde_json::to_value(server.debug_info()).unwrap();
            assert_eq!((&info["capacity"], &info["backlog"]), (&4.into(), &1.into()));
            let (request, worker) = (&info["requests"][0], &info["servlets"][0]["workers"][0]);
            assert_eq!((&request["stage"], &request["phase"]), (&"hand".into(), &"claimed".into()));
            assert_eq!(request["worker"]["pid"], worker["pid"]);
            assert_eq!((&worker["alive"], &worker["ready"]), (&true.into(), &true.into()));
            arrival.release();
            call.join().unwrap().unwrap();
        });
        assert!(server.debug_info().requests.is_empty());
    });
}

/// An error from a worker has its type and its sources, its line in the program if asked, and the worker, servlet and process
/// that had claimed the item.
#[test]
fn server_06_remote_errors_tell_what_where_and_who() {
    on_both(|host| {
        let gate = Gate::new();
        let server = hands(host, &gate, "", Crew::of(2));
        let error = remote(say(&server, "fail"));
        assert_eq!((error.servlet.as_str(), error.attempt), ("hand", 0));
        assert_eq!(error.pid, pids(&server)[error.worker as usize]);
        let RemoteCause::Failed { type_name, messages, .. } = &error.cause else { panic!("{error:?}") };
        assert_eq!(type_name, "servlets::promises::Misread");
        assert_eq!(messages, &["the model cannot be read", "invalid digit found in string"]);
    });
    // The stack of an error costs the items behind it much, so it is asked for by another variable.
    for (order, variable, has_stack) in [
        ("fail", "RUST_LIB_BACKTRACE", true),
        ("fail", "RUST_BACKTRACE", false),
        ("panic", "RUST_BACKTRACE", true),
    ] {
        let servlet = ProcessServlet::<Hand>::new(brief(&Gate::new(), "")).env(variable, "1");
        let error = remote(say(&builder().start(servlet).expect("it starts"), order));
        let backtrace = error.cause.backtrace();
        let found = backtrace.is_some_and(|frames| frames.contains("Hand"));
        assert_eq!(found, has_stack, "{order}, {variable}: {backtrace:?}");
    }
}

/// A caller that takes partials gets them in order, then the outcome. One that is behind holds the worker up; one that goes
/// lets the worker know; and what a worker emitted before its death stays.
#[test]
fn server_07_partials_come_in_order_before_the_outcome() {
    on_both(|host| {
        let options = CallOptions::new().timeout(GUARD);
        let server = host.start::<Teller>(builder().partials(2), String::new(), Crew::of(1));
        let ask =
            |count, then| server.call_streaming_with::<u32>(task(count, then), options).expect("it is sent");
        let mut call = ask(100, Then::Answer);
        let heard: Result<Vec<u32>, _> = call.by_ref().collect();
        assert_eq!(heard.expect("numbers"), (0..100).collect::<Vec<_>>());
        assert_eq!(*call.outcome().expect("an answer"), 100);
        let answer = server.call(&task(100, Then::Answer)).expect("an answer");
        assert_eq!(*answer, 100, "a caller that takes none");
        if host == Host::Processes {
            let mut call = ask(3, Then::Die);
            let heard: Result<Vec<u32>, _> = call.by_ref().collect();
            assert_eq!(heard.expect("numbers"), [0, 1, 2]);
            assert!(matches!(call.outcome(), Err(CallError::WorkerDied(_))));
        }

        let gate = Gate::new();
        let server = host.start::<Teller>(builder().partials(2), gate.name(), Crew::of(1));
        let mut call =
            server.call_streaming_with::<u32>(task(100, Then::Answer), options).expect("it is sent");
        gate.arrival().release();
        assert_eq!(call.next().expect("a hundred").expect("a number"), 0);
        assert!(gate.arrival_if_any().is_none(), "the worker waits, and has met no error");
        drop(call);
        assert!(gate.arrival().label().contains("the item's caller has gone"));
    });
}

/// A name is one server's, a suffix makes another of it, and a label is no name.
#[test]
fn server_08_a_name_is_one_servers_and_a_label_is_no_name() {
    on_both(|host| {
        let gate = Gate::new();
        let start = |builder| host.try_start::<Hand>(builder, brief(&gate, ""), Crew::of(1));
        let (name, label) = (Name::new("replica"), Name::label("replica"));
        let with_suffix = || Server::builder(name.text()).name_or_suffix();
        let builders = [name.builder(), with_suffix(), with_suffix(), label.builder(), label.builder()];
        let servers = builders.map(|builder| start(builder).expect("it starts"));
        start(name.builder()).map(drop).expect_err("a living server has the name");
        let suffixed = [2, 3].map(|number| format!("{}-{number}", name.text()));
        let names = [&name.text(), &suffixed[0], &suffixed[1], &label.text(), &label.text()];
        assert_eq!(servers.each_ref().map(Server::name), names);
        for server in &servers {
            say(server, "x").expect("each answers");
        }
        drop(servers);
        [name.text()].iter().chain(&suffixed).for_each(|name| assert_gone(name));
        label.assert_nothing_left();
    });
}

/// What a user's test does has the outcomes of a server; a process that it kills is replaced, one that it stops goes on.
#[test]
fn server_09_workers_are_tried_without_a_server() {
    let mut half = testing::build::<Half>(()).expect("it is built");
    let handled = testing::batch(&mut half, [84, 7]);
    let servlet = || ProcessServlet::<Half>::new(()).name("half");
    let server = testing::server(servlet()).expect("it starts");
    let tried: Vec<_> =
        handled.outcomes.into_iter().map(|outcome| outcome.map_err(|error| remote_cause(&error))).collect();
    let served =
        [84, 7].map(|n| server.call(&n).map(|half| half.to_native()).map_err(|error| remote_cause(&error)));
    assert_eq!(tried, served);
    assert_eq!(tried[0], Ok(42));

    testing::kill(&server, "half", 0).expect("it lives");
    assert_eq!(*server.call(&84).expect("its successor answers"), 42);
    let stalled = testing::stall(&server, "half", 0).expect("it lives");
    let pending = server.submit(&84).expect("it is sent");
    assert!(!pending.is_ready(), "its only worker is stopped");
    drop(stalled);
    assert_eq!(*pending.wait().expect("an answer"), 42);
}

/// What happened to an item in a worker, without a stack.
fn remote_cause(error: &CallError) -> String {
    error.remote_error().expect("it happened in a worker").cause.to_string()
}
