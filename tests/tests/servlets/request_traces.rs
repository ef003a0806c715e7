//! Traces of requests: where each was when, by whom it was worked on, and which trace context came with it.

use ringmill::stats::Timing;
use ringmill::trace::{Hop, HopEnd, RequestEnd, Trace, TraceContext};
use ringmill::{
    Batch, BatchWorker, BoxError, CallError, CallOptions, Context, Ensemble, OnDeath, PassThrough,
    ProcessServlet, Server, ServerBuilder, Servlet, StreamOptions, ThreadServlet,
};
use ringmill_tests::gate::{Gate, stop_at};
use ringmill_tests::host::{Crew, Host, on_both};
use ringmill_tests::process::{dump_no_core, signal};
use ringmill_tests::stats::{await_permits, pids};
use ringmill_tests::{GUARD, fresh_name};
use std::time::{Duration, Instant};

ringmill::init!(Player, PassThrough<String>);

const HEADER: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
const UNSAMPLED: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00";

/// Does as each item says, and adds to it its trace context.
struct Player(String);

impl BatchWorker for Player {
    type Config = String;
    type In = String;
    type Out = String;

    fn new(gate: String, _: &Context) -> Result<Self, BoxError> {
        Ok(Self(gate))
    }

    fn call(&mut self, batch: Batch<'_, Self>) -> Result<(), BoxError> {
        for item in batch {
            let input = item.input().as_str().to_owned();
            match input.as_str() {
                "fail" => {
                    item.fail(BoxError::msg("as it was told"));
                    continue;
                }
                "panic" => panic!("as it was told"),
                "stop" => stop_at(&self.0, "stopped"),
                "die" => {
                    dump_no_core();
                    std::process::abort();
                }
                _ => {}
            }
            let context = item.trace_context().map_or("none".into(), |context| context.to_string());
            item.reply(format!("{input} {context}"));
        }
        Ok(())
    }
}

fn named() -> ServerBuilder {
    Server::builder(fresh_name("request-traces")).timing(Timing::OneOf(1))
}

fn with(header: &str) -> CallOptions {
    CallOptions::new().timeout(GUARD).trace_context(header.parse().expect("a context"))
}

fn player(timing: Timing) -> Server<String, String> {
    Server::anonymous("traces")
        .timing(timing)
        .start(ThreadServlet::<Player>::new(String::new()))
        .expect("it starts")
}

fn call(server: &Server<String, String>, word: &str, options: CallOptions) -> Result<String, CallError> {
    server.call_with(&word.to_owned(), options)?.into_owned()
}

#[track_caller]
fn only(server: &Server<String, String>) -> Trace {
    let mut traces = server.traces();
    let trace = traces.next().expect("a request was traced");
    assert_eq!((traces.next(), traces.lost()), (None, 0));
    trace
}

/// What comes first was not later.
#[track_caller]
fn assert_in_order(trace: &Trace, hop: &Hop) {
    assert!(trace.sent <= hop.queued, "{trace:?}");
    assert!(hop.queued <= hop.taken, "{trace:?}");
    assert!(hop.begun.is_none_or(|begun| hop.taken <= begun), "{trace:?}");
    assert!(hop.begun.zip(hop.ended).is_none_or(|(begun, ended)| begun <= ended), "{trace:?}");
    assert!(hop.ended.is_none_or(|ended| ended <= trace.ended), "{trace:?}");
}

#[test]
fn a_trace_says_when_and_by_whom_each_servlet_worked_on_the_request() {
    on_both(|host| {
        let server = host.start::<Player>(named(), String::new(), Crew::of(2));
        call(&server, "yes", CallOptions::new()).expect("an answer");
        let trace = only(&server);
        assert_eq!(
            (trace.server.as_str(), trace.weight, trace.end),
            (server.name(), Some(1), RequestEnd::Answered)
        );
        assert_eq!((trace.parent_id, trace.flags, trace.hops_missing), (None, 3, 0));
        let [hop] = &trace.hops[..] else { panic!("{trace:?}") };
        assert!(pids(&server).contains(&hop.pid) && hop.worker < 2, "{hop:?}");
        assert_eq!((hop.thread, hop.branch, hop.attempt, hop.end), (0, 0, 0, Some(HopEnd::Answered)));
        assert!(hop.begun.is_some() && hop.ended.is_some(), "{hop:?}");
        assert!(trace.duration() >= hop.in_call().expect("it has ended"), "{trace:?}");
        assert_in_order(&trace, hop);
    });
}

#[test]
fn a_context_travels_through_all_stages_and_branches_and_each_worker_sees_its_own_span() {
    let stage = |name: &str| ProcessServlet::<Player>::new(String::new()).name(name);
    let members = Ensemble::each([stage("left"), stage("right")]);
    ringmill::make_worker!(Put: Vec<Box<String>> => String, |texts: &ringmill::rkyv::Archived<Vec<Box<String>>>| {
        texts.iter().map(|text| text.as_str().to_owned()).collect::<Vec<_>>().join("|")
    });
    let tree = stage("first").then(members).then(ThreadServlet::<Put>::new(()).name("put"));
    let server = named().timing(Timing::Never).start(tree).expect("it starts");
    let text = call(&server, "x", with(HEADER)).expect("an answer");
    let trace = only(&server);
    let sent: TraceContext = HEADER.parse().expect("a context");
    assert_eq!((trace.trace_id, trace.parent_id), (sent.trace_id(), Some(sent.parent_id())));
    assert_eq!((trace.weight, trace.flags), (None, 1));
    let hop = |name: &str| trace.hops.iter().find(|hop| hop.servlet == name).expect("it was there");
    let context = |name: &str| sent.with_parent(hop(name).span_id).expect("not 0").to_string();
    let first = context("first");
    assert_eq!(text, format!("x {first} {}|x {first} {}", context("left"), context("right")));
    assert_eq!((trace.hops.len(), hop("first").branch, hop("put").branch), (4, 0, 0));
    assert_ne!((hop("left").branch, hop("left").branch), (0, hop("right").branch));
    for hop in &trace.hops {
        assert_eq!(hop.end, Some(HopEnd::Answered));
        assert_in_order(&trace, hop);
    }
    assert!(hop("first").ended <= hop("left").taken.into() && hop("right").ended <= hop("put").taken.into());
}

#[test]
fn a_context_that_is_not_sampled_travels_and_is_not_traced() {
    for (builder, header) in [
        (Server::anonymous("traces").timing(Timing::Never), UNSAMPLED),
        (Server::anonymous("traces").timing(Timing::OneOf(1)).traces(0), HEADER),
    ] {
        let server = builder.start(ThreadServlet::<Player>::new(String::new())).expect("it starts");
        assert_eq!(call(&server, "x", with(header)).expect("an answer"), format!("x {header}"));
        // The next request has none: the context was that of the last one only.
        assert_eq!(call(&server, "y", CallOptions::new()).expect("an answer"), "y none");
        assert_eq!((server.traces().next(), server.traces().lost()), (None, 0));
    }
    let server = player(Timing::OneOf(1));
    call(&server, "x", with(UNSAMPLED)).expect("an answer");
    assert_eq!((only(&server).flags, only(&server).weight), (0, Some(1)), "it was sampled for its time");
}

#[test]
fn a_context_comes_with_each_kind_of_call() {
    let server = player(Timing::Never);
    let (handle, input) = (server.handle(), "x".to_owned());
    let sent = || with(HEADER).deadline(Instant::now() + GUARD);
    let outcomes = [
        server.submit_with(&input, sent()).expect("it is sent").wait().expect("an answer").into_owned(),
        handle.call_with(&input, with(HEADER)).expect("an answer").into_owned(),
        pollster::block_on(server.call_async_with(&input, with(HEADER))).expect("an answer").into_owned(),
    ];
    let traces: Vec<Trace> = server.traces().collect();
    assert_eq!(traces.len(), outcomes.len());
    for (outcome, trace) in outcomes.into_iter().zip(traces) {
        let hop = trace.context().and_then(|context| context.with_parent(trace.hops[0].span_id));
        assert_eq!(outcome.expect("a value"), format!("x {}", hop.expect("a span")));
    }
    let inputs = vec![input; 3];
    assert_eq!(server.stream_with(inputs, StreamOptions::new()).flatten().collect::<Vec<_>>(), ["x none"; 3]);
}

#[test]
fn a_trace_says_how_the_request_and_each_part_of_it_ended() {
    let gate = Gate::new();
    let server = Host::Threads.start::<Player>(named(), gate.name(), Crew::of(1));
    let mut traces = server.traces();
    let mut ends = || {
        let trace = traces.next().expect("the request has ended");
        (trace.end, trace.hops.last().and_then(|hop| hop.end), trace.hops.len())
    };
    call(&server, "fail", CallOptions::new()).expect_err("as it was told");
    assert_eq!(ends(), (RequestEnd::Worker, Some(HopEnd::Failed), 1));
    call(&server, "panic", CallOptions::new()).expect_err("as it was told");
    assert_eq!(ends(), (RequestEnd::Worker, Some(HopEnd::Panicked), 1));

    let held = server.submit(&"stop".to_owned()).expect("it is sent");
    let arrival = gate.arrival();
    let late = server.submit_with(
        &"late".to_owned(),
        CallOptions::new().deadline(Instant::now() + Duration::from_millis(1)),
    );
    late.expect("it is sent").wait().expect_err("its worker is busy");
    assert_eq!(ends(), (RequestEnd::Timeout, None, 0));
    drop(held);
    assert_eq!(ends(), (RequestEnd::Cancelled, None, 1));
    arrival.release();
    await_permits(&server);
    call(&server, "yes", CallOptions::new()).expect("an answer");
    assert_eq!(ends(), (RequestEnd::Answered, Some(HopEnd::Answered), 1));
    assert_eq!(traces.lost(), 0);
}

#[test]
fn a_worker_that_dies_leaves_its_part() {
    let gate = Gate::new();
    let servlet = ProcessServlet::<Player>::new(gate.name()).on_death(OnDeath::Retry(1));
    let server = named().start(servlet).expect("it starts");
    let pending = server.submit_with(&"stop".to_owned(), with(HEADER)).expect("it is sent");
    let (arrival, victim) = (gate.arrival(), pids(&server)[0]);
    signal(victim, libc::SIGKILL);
    let retried = gate.arrival();
    retried.release();
    drop(arrival); // of the dead
    pending.wait().expect("the second try succeeds");
    let trace = only(&server);
    let [first, second] = &trace.hops[..] else { panic!("{trace:?}") };
    assert_eq!((first.pid, first.end, first.attempt), (victim, Some(HopEnd::Died), 0));
    assert_eq!((second.pid, second.end, second.attempt), (pids(&server)[0], Some(HopEnd::Answered), 1));
    assert_ne!(first.span_id, second.span_id);
    assert!(first.begun.is_some() && first.ended <= second.taken.into(), "{trace:?}");
    assert_in_order(&trace, first);
    assert_in_order(&trace, second);

    call(&server, "die", CallOptions::new().timeout(GUARD)).expect_err("both die");
    let trace = server.traces().last().expect("it has ended");
    let ends: Vec<_> = trace.hops.iter().map(|hop| hop.end).collect();
    assert_eq!((trace.end, ends), (RequestEnd::Worker, vec![Some(HopEnd::Died); 2]));
}

#[test]
fn the_last_traces_are_kept_and_the_others_counted() {
    let builder = Server::anonymous("traces").timing(Timing::OneOf(1)).traces(4);
    let server = builder.start(ThreadServlet::<Player>::new(String::new())).expect("it starts");
    let (mut early, count) = (server.traces(), 10);
    for number in 0..count {
        call(&server, &number.to_string(), CallOptions::new()).expect("an answer");
    }
    let traces: Vec<Trace> = early.by_ref().collect();
    assert!(traces.windows(2).all(|pair| pair[0].ended <= pair[1].ended), "{traces:?}");
    assert_eq!((traces.len(), early.lost()), (4, count - 4));
    call(&server, "one more", CallOptions::new()).expect("an answer");
    assert_eq!((early.by_ref().count(), early.lost(), early.next()), (1, count - 4, None));
    drop(server.traces());
    let handle = server.handle();
    drop(server);
    assert_eq!(handle.traces().count(), 4, "they stay when the server is gone");
}

#[test]
fn a_request_that_finds_no_record_is_answered_all_the_same() {
    let gate = Gate::new();
    let builder = named().traces(1).capacity(4);
    let server = Host::Threads.start::<Player>(builder, gate.name(), Crew::of(2));
    let held = server.submit_with(&"stop".to_owned(), with(HEADER)).expect("it is sent");
    let arrival = gate.arrival();
    // The only record is that of a request in progress. The context travels as it came.
    assert_eq!(call(&server, "x", with(HEADER)).expect("an answer"), format!("x {HEADER}"));
    assert_eq!(server.traces().next(), None);
    arrival.release();
    held.wait().expect("an answer");
    let trace = only(&server);
    assert_eq!((trace.hops.len(), trace.weight), (1, Some(1)));
}

#[test]
fn more_hops_than_a_trace_has_room_for_are_counted() {
    let servlet = ProcessServlet::<Player>::new(String::new()).on_death(OnDeath::Retry(5));
    let server = named().start(servlet).expect("it starts");
    call(&server, "die", CallOptions::new().timeout(GUARD)).expect_err("all die");
    let trace = only(&server);
    assert_eq!((trace.hops.len(), trace.hops_missing), (4, 2), "{trace:?}");
}

/// Of requests that end while the traces are read too.
#[test]
fn traces_that_are_read_while_requests_end_have_their_times() {
    let server = player(Timing::OneOf(1));
    std::thread::scope(|scope| {
        let (_until_dropped, dropped) = std::sync::mpsc::channel::<()>(); // also by a failed assertion
        let server = &server;
        scope.spawn(move || {
            while dropped.try_recv() == Err(std::sync::mpsc::TryRecvError::Empty) {
                call(server, "yes", CallOptions::new()).expect("an answer");
            }
        });
        let (mut traces, mut seen) = (server.traces(), 0);
        while seen < 500 {
            let Some(trace) = traces.next() else {
                std::thread::yield_now();
                continue;
            };
            seen += 1;
            let [hop] = &trace.hops[..] else { panic!("{trace:?}") };
            assert!(trace.duration() > Duration::ZERO, "{trace:?}");
            assert_in_order(&trace, hop);
        }
    });
    await_permits(&server);
}
