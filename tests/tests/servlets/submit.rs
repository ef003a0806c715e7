//! Requests that are sent now and waited for later, deadlines, draining, and a server's debug information.

use ringmill::stats::{RequestInfo, WorkerName};
use ringmill::{
    BoxError, CallError, CallOptions, Ensemble, PassThrough, ProcessServlet, Server, ThreadServlet,
};
use ringmill_tests::gate::{Gate, stop_at};
use ringmill_tests::host::{Crew, Host, on_both};
use ringmill_tests::pile::hold;
use ringmill_tests::probe::{Ask, Probe, Seen, ask, stopper};
use ringmill_tests::{GUARD, fresh_name, wait_until};
use rkyv::Archived;
use std::time::{Duration, Instant};

ringmill::init!(Probe, Letters);

// The item names the gate that it stops at; none if it is empty.
ringmill::make_worker!(Stand: String => u64, |gate: &Archived<String>| {
    if !gate.is_empty() {
        stop_at(gate, "stands");
    }
    1
});
ringmill::make_worker!(Fail: String => u64, |gate: &Archived<String>| -> Result<u64, BoxError> {
    stop_at(gate, "fails");
    Err(BoxError::msg("on purpose"))
});

fn start(host: Host, capacity: usize, gate: &Gate) -> Server<Ask, Seen> {
    let builder = Server::builder(fresh_name("submit")).capacity(capacity);
    host.start::<Probe>(builder, gate.name(), Crew::of(1))
}

ringmill::make_worker!(Letters: String => u64, |text| text.chars().count() as u64);
ringmill::make_worker!(Sum: Vec<u32> => u64, |numbers: &Archived<Vec<u32>>| {
    numbers.iter().map(|number| u64::from(number.to_native())).sum::<u64>()
});

/// A timeout that these tests never reach.
fn unhurried() -> CallOptions {
    CallOptions::new().timeout(GUARD)
}

#[test]
fn outcomes_can_be_had_in_any_order_and_way() {
    on_both(|host| {
        let server = start(host, 8, &Gate::new());
        let mut pending: Vec<_> = (0..4).map(|value| server.submit(&ask(value)).expect("a permit")).collect();
        assert_eq!(server.backlog(), 4);
        assert_eq!(pending.pop().expect("four").wait().expect("an answer").value, 3);
        let mut third = pending.pop().expect("three");
        wait_until("an outcome", || third.is_ready());
        assert_eq!(third.try_take().expect("it is ready").expect("an answer").value, 2);
        assert!(third.try_take().is_none() && !third.is_ready(), "taken");
        assert!(third.wait_timeout(Duration::ZERO).is_none());
        let mut second = pending.pop().expect("two");
        let outcome = second.wait_timeout(GUARD).expect("in time").expect("an answer");
        assert_eq!(outcome.value, 1);
        let first = pending.pop().expect("one");
        assert_eq!(pollster::block_on(first).expect("an answer").value, 0);
        drop(outcome);
        assert_eq!(server.backlog(), 0, "taken handles hold nothing");
    });
}

#[test]
fn what_borrows_as_the_input_can_be_sent() {
    let name = || fresh_name("borrowed");
    let letters = Server::builder(name()).start(ProcessServlet::<Letters>::new(())).expect("it starts");
    for text in [
        "",
        "short",
        "longer than what a task has room for in line, which is some ninety bytes, or a few more",
    ] {
        assert_eq!(*letters.call_ref(text).expect("an answer"), text.len() as u64);
        assert_eq!(*letters.call_ref(text.to_string()).expect("an answer"), text.len() as u64);
        assert_eq!(
            *letters.submit_ref(text).expect("a permit").wait().expect("an answer"),
            text.len() as u64
        );
        let soon = unhurried().deadline(Instant::now() + GUARD);
        assert_eq!(*letters.call_ref_with(text, soon).expect("an answer"), text.len() as u64);
    }
    let sums = Server::builder(name()).start(ThreadServlet::<Sum>::new(())).expect("it starts");
    let numbers: Vec<u32> = (0..1000).collect();
    assert_eq!(*sums.call_ref(&numbers).expect("an answer"), 499_500);
    assert_eq!(*sums.call_ref(&numbers[10..13]).expect("an answer"), 33);
    assert_eq!(*sums.call_ref(&[1, 2, 3]).expect("an answer"), 6);
    assert_eq!(*sums.submit_ref_with(&[4], unhurried()).expect("a permit").wait().expect("an answer"), 4);
}

#[test]
fn an_outcome_that_is_not_there_can_be_waited_for_again() {
    on_both(|host| {
        let gate = Gate::new();
        let server = start(host, 8, &gate);
        let mut pending = server.submit_with(&stopper(), unhurried()).expect("a permit");
        let arrival = gate.arrival();
        assert!(!pending.is_ready() && pending.try_take().is_none());
        assert!(pending.wait_timeout(Duration::from_millis(1)).is_none(), "the worker is held");
        assert_eq!(server.backlog(), 1, "and the request goes on");
        arrival.release();
        assert!(pending.wait().is_ok());
    });
}

#[test]
fn the_timeout_runs_from_submission() {
    on_both(|host| {
        let gate = Gate::new();
        let server = start(host, 8, &gate);
        let limit = Duration::from_millis(20);
        let late = || server.submit_with(&ask(1), CallOptions::new().timeout(limit)).expect("a permit");
        let held = server.submit_with(&stopper(), unhurried()).expect("a permit");
        let arrival = gate.arrival();
        let (waits, mut looks, mut waits_long) = (late(), late(), late());
        let is_late = |outcome: Result<_, CallError>| match outcome {
            Err(CallError::Timeout { enqueueing: Duration::ZERO, total }) => assert!(total >= limit),
            Err(error) => panic!("{error}"),
            Ok(_) => panic!("the worker is held"),
        };
        is_late(waits.wait());
        wait_until("the time is over", || looks.is_ready());
        is_late(looks.try_take().expect("it is over"));
        is_late(waits_long.wait_timeout(GUARD).expect("its own time is over first"));
        arrival.release();
        assert!(held.wait().is_ok());
        wait_until("nothing in progress", || server.backlog() == 0);
        assert_eq!(server.call(&ask(2)).expect("an answer").batch, 2, "the three were not worked on");
    });
}

#[test]
fn dropping_a_handle_gives_the_permit_back() {
    on_both(|host| {
        let gate = Gate::new();
        let server = start(host, 2, &gate);
        let held = server.submit_with(&stopper(), unhurried()).expect("a permit");
        let arrival = gate.arrival();
        drop(server.submit(&ask(1)).expect("a permit")); // queued
        drop(held); // at work
        assert_eq!(server.backlog(), 2, "the worker is held");
        arrival.release();
        wait_until("nothing in progress", || server.backlog() == 0);
        let done = server.submit(&ask(2)).expect("a permit");
        wait_until("an outcome", || done.is_ready());
        assert_eq!(server.backlog(), 1);
        drop(done); // done
        assert_eq!(server.backlog(), 0);
        assert_eq!(server.call(&ask(3)).expect("an answer").batch, 3, "what was queued was not worked on");
    });
}

#[test]
fn a_deadline_in_the_past_takes_no_permit() {
    on_both(|host| {
        let server = start(host, 1, &Gate::new());
        let options = unhurried().deadline(Instant::now());
        let over = |outcome: Result<(), CallError>| {
            let Err(CallError::Timeout { enqueueing, total }) = outcome else { panic!("{outcome:?}") };
            assert_eq!((enqueueing, total), (Duration::ZERO, Duration::ZERO));
        };
        over(server.call_with(&ask(1), options).map(drop));
        over(server.submit_with(&ask(1), options).map(drop));
        over(pollster::block_on(server.call_async_with(&ask(1), options)).map(drop));
        let _only_permit = server.call(&ask(2)).expect("a permit");
        over(server.call_with(&ask(1), options).map(drop)); // and fails before it waits for one
        assert_eq!(server.stats().servlets[0].total().items, 1);
    });
}

#[test]
fn a_request_that_is_late_in_the_ring_is_skipped() {
    on_both(|host| {
        let gate = Gate::new();
        let server = start(host, 8, &gate);
        let held = server.submit_with(&stopper(), unhurried()).expect("a permit");
        let arrival = gate.arrival();
        let deadline = Instant::now() + Duration::from_millis(20);
        let options = unhurried().deadline(deadline);
        // One request whose caller looks only when a worker has found it late, and one whose caller waits no longer.
        let looked_for_late = server.submit_with(&ask(1), options).expect("a permit");
        let error = server.call_with(&ask(2), options).expect_err("the worker is held");
        assert!(matches!(error, CallError::Timeout { .. }), "{error:?}");
        assert!(Instant::now() >= deadline, "it waited until then");
        arrival.release();
        assert!(held.wait().is_ok());
        let met = || server.stats().servlets[0].total();
        wait_until("the late ones were met", || (met().expired, met().skipped) == (1, 1));
        let error = looked_for_late.wait().expect_err("late");
        assert!(matches!(error, CallError::Timeout { .. }), "{error:?}");
        assert_eq!(server.backlog(), 0);
        assert_eq!(server.call(&ask(3)).expect("an answer").batch, 2, "they were not worked on");
    });
}

#[test]
fn a_deadline_that_is_not_over_does_no_harm() {
    on_both(|host| {
        let server = start(host, 4, &Gate::new());
        let options = || CallOptions::new().deadline(Instant::now() + GUARD);
        for value in 0..100 {
            assert_eq!(server.call_with(&ask(value), options()).expect("an answer").value, value);
            // The next use of the request id has no deadline.
            assert_eq!(server.call(&ask(value)).expect("an answer").value, value);
            let future = server.call_async_with(&ask(value), options()).await_here();
            assert_eq!(future.expect("an answer"), value);
        }
    });
}

/// A future's end, under pollster.
trait AwaitHere {
    fn await_here(self) -> Result<u64, CallError>;
}

impl<'a, F: Future<Output = Result<ringmill::Reply<'a, Seen>, CallError>>> AwaitHere for F {
    fn await_here(self) -> Result<u64, CallError> {
        pollster::block_on(self).map(|reply| reply.value.to_native())
    }
}

#[test]
fn draining_waits_for_what_is_in_progress() {
    on_both(|host| {
        let gate = Gate::new();
        let server = &start(host, 4, &gate);
        std::thread::scope(|scope| {
            let (arrival, held) = hold(scope, server, &gate, stopper());
            let queued = server.submit_with(&ask(1), unhurried()).expect("a permit");
            let limit = Duration::from_millis(5);
            let error = server.drain(limit).expect_err("the worker is held");
            assert_eq!(error, ringmill::error::DrainError::InProgress { left: 2, limit });
            assert_eq!(
                error.to_string(),
                "2 requests are still in progress after 0.005 s; they go on, and shutdown ends them"
            );
            assert!(matches!(server.call(&ask(2)), Err(CallError::ShuttingDown)), "none are taken any more");
            let draining = scope.spawn(|| server.drain(GUARD));
            arrival.release();
            assert_eq!(queued.wait().expect("an answer").value, 1);
            assert!(held.join().expect("no panic").is_ok());
            assert_eq!(draining.join().expect("no panic"), Ok(()));
        });
        assert_eq!(server.backlog(), 0);
        assert!(server.stats().servlets[0].workers[0].ready, "workers stay");
        server.shutdown();
        assert_eq!(server.drain(Duration::ZERO), Ok(()));
    });
}

#[test]
fn debug_info_names_stage_and_worker() {
    on_both(|host| {
        let gate = Gate::new();
        let server = start(host, 4, &gate);
        let info = server.debug_info();
        assert_eq!((info.backlog, info.requests.len(), info.capacity), (0, 0, 4));
        let held = server.submit_with(&stopper(), unhurried()).expect("a permit");
        let arrival = gate.arrival();
        let queued = server.submit(&ask(1)).expect("a permit");
        drop(server.submit(&ask(2)).expect("a permit"));
        let info = server.debug_info();
        assert_eq!((info.name.as_str(), info.backlog, info.requests.len()), (server.name(), 3, 3));
        let worker = &info.servlets[0].workers[0];
        assert!(worker.alive && worker.ready);
        let facts = |phase: &str, gone: bool| -> RequestInfo {
            let matching = info.requests.iter().filter(|r| (r.phase, r.caller_gone) == (phase, gone));
            let matching: Vec<_> = matching.collect();
            assert_eq!(matching.len(), 1, "{info:#?}");
            matching[0].clone()
        };
        let claimed = facts("claimed", false);
        assert_eq!(claimed.stage.as_ref(), Some(&info.servlets[0].name));
        let WorkerName { servlet, index, pid, .. } = claimed.worker.expect("it has one");
        assert_eq!((servlet.as_str(), index, pid), (info.servlets[0].name.as_str(), 0, worker.pid));
        assert!(claimed.age_seconds.is_some_and(|age| (0.0..GUARD.as_secs_f64()).contains(&age)));
        assert_eq!(facts("queued", false).worker, None);
        assert_eq!(facts("queued", true).stage.as_ref(), Some(&info.servlets[0].name));

        let json = serde_json::to_value(&info).expect("JSON");
        assert_eq!(json["run"], "running");
        assert_eq!(json["servlets"][0]["workers"][0]["counters"]["batches"], 1);
        assert_eq!(json["requests"].as_array().map(Vec::len), Some(3));
        arrival.release();
        assert!(held.wait().is_ok() && queued.wait().is_ok());
        // The next use of a request id does not have the age of its last one.
        let permit = server.call(&ask(3)).expect("an answer");
        let info = server.debug_info();
        assert_eq!(info.requests.iter().find(|r| r.phase == "done").map(|r| r.stage.clone()), Some(None));
        drop(permit);
    });
}

#[test]
fn an_age_is_of_this_use_of_the_request_id() {
    let server = start(Host::Threads, 1, &Gate::new());
    drop(server.submit(&ask(1)).expect("a permit").wait().expect("an answer"));
    let writing = server.stream([ask(2)]);
    drop(writing);
    let loans = Server::builder(fresh_name("loan")).capacity(1);
    let server = loans.start(ThreadServlet::<PassThrough<Vec<u8>>>::new(())).expect("it starts");
    drop(server.submit(&vec![1]).expect("a permit").wait().expect("an answer"));
    let _loan = server.loan(8).expect("a permit");
    let info = server.debug_info();
    assert_eq!(info.requests.len(), 1);
    assert_eq!((info.requests[0].phase, info.requests[0].age_seconds), ("filling", None), "{info:?}");
}

#[test]
fn debug_info_names_the_branches_of_an_ensemble() -> Result<(), BoxError> {
    let (gate, builder) = (Gate::new(), Server::builder(fresh_name("branches")).capacity(4));
    let members = Ensemble::of((
        ThreadServlet::<Stand>::new(()).name("stands"),
        ThreadServlet::<PassThrough<String>>::new(()).name("passes"),
    ));
    let server = builder.start(members.name("both"))?;
    let request = server.submit_with(&gate.name(), unhurried())?;
    let arrival = gate.arrival();
    wait_until("one branch is done", || {
        let info = server.debug_info();
        info.requests[0].branches.iter().any(|branch| branch.phase == "done")
    });
    let info = server.debug_info();
    let request_info = &info.requests[0];
    assert_eq!((request_info.phase, request_info.stage.as_deref()), ("forked", Some("both")));
    assert_eq!(request_info.branches.len(), 2);
    let stands = &request_info.branches[0];
    assert_eq!((stands.ensemble.as_str(), stands.member, stands.phase), ("both", 0, "claimed"));
    assert_eq!(stands.stage.as_deref(), Some("stands"));
    assert_eq!(stands.worker.as_ref().map(|worker| worker.servlet.as_str()), Some("stands"));
    arrival.release();
    assert_eq!(*request.wait()?.0, 1);
    Ok(())
}

#[test]
fn a_failed_ensemble_gives_its_permit_back_when_its_members_have_ended() -> Result<(), BoxError> {
    let (gate, builder) = (Gate::new(), Server::builder(fresh_name("failed")).capacity(4));
    let members = Ensemble::of((ThreadServlet::<Stand>::new(()), ThreadServlet::<Fail>::new(())));
    let server = builder.start(members)?;
    let name = gate.name();
    std::thread::scope(|scope| {
        let call = scope.spawn(|| pollster::block_on(server.call_async_with(&name, unhurried())).map(drop));
        // Both are at work, so that neither is skipped.
        let (stands, fails): (Vec<_>, Vec<_>) =
            gate.arrivals(2).into_iter().partition(|arrival| arrival.label() == "stands");
        drop(fails);
        let error = call.join().expect("no panic");
        assert!(matches!(error, Err(CallError::Ensemble(_))), "{error:?}");
        assert_eq!(server.backlog(), 1, "a member is still at work");
        drop(stands);
    });
    wait_until("nothing in progress", || server.backlog() == 0);
    Ok(())
}

#[test]
fn debug_info_under_load_is_json() {
    on_both(|host| {
        let server = start(host, 16, &Gate::new());
        std::thread::scope(|scope| {
            let load = scope.spawn(|| server.stream((0..20_000).map(ask)).all(|seen| seen.is_ok()));
            while !load.is_finished() {
                let text = serde_json::to_string(&server.debug_info()).expect("JSON");
                let value: serde_json::Value = serde_json::from_str(&text).expect("JSON");
                assert!(value["requests"].as_array().is_some_and(|requests| requests.len() <= 16));
            }
            assert!(load.join().expect("no panic"));
        });
    });
}
