//! What a server tells of itself: each outcome is counted once, and times are those that callers and workers have seen.

use ringmill::stats::{CallerSnapshot, Timing};
use ringmill::{
    BoxError, CallOptions, Context, Ensemble, OnDeath, PassThrough, ProcessServlet, Server, ServerBuilder,
    Servlet, StreamOptions, ThreadServlet, WhenFull, Worker,
};
use ringmill_tests::gate::{Gate, stop_at};
use ringmill_tests::host::{Crew, Host, on_both};
use ringmill_tests::process::dump_no_core;
use ringmill_tests::stats::{assert_sound, await_permits, workers};
use ringmill_tests::{GUARD, fresh_name, wait_until};
use rkyv::string::ArchivedString;
use std::time::Duration;

ringmill::init!(Player, PassThrough<u64>);

/// Does as each item says.
struct Player(String);

impl Worker for Player {
    type Config = String;
    type In = String;
    type Out = String;

    fn new(gate: String, _: &Context) -> Result<Self, BoxError> {
        Ok(Self(gate))
    }

    fn call(&mut self, input: &ArchivedString) -> Result<String, BoxError> {
        match input.as_str() {
            "fail" => return Err(BoxError::msg("as it was told")),
            "panic" => panic!("as it was told"),
            "stop" => stop_at(&self.0, "stopped"),
            "die" => {
                dump_no_core();
                std::process::abort();
            }
            _ => {}
        }
        Ok(input.as_str().to_owned())
    }
}

type Echo = PassThrough<u64>;

fn named() -> ServerBuilder {
    Server::builder(fresh_name("statistics"))
}

fn echo(timing: Timing) -> Server<u64, u64> {
    let echo = ThreadServlet::<Echo>::new(()).batch_size(8).batch_wait_time(Duration::ZERO);
    Server::anonymous("statistics").timing(timing).start(echo).expect("it starts")
}

fn say(server: &Server<String, String>, word: &str, options: CallOptions) {
    let _ = server.call_with(&word.to_owned(), options); // the test counts, whatever the outcome
}

fn counted<In: ringmill::Payload, Out: ringmill::Payload>(server: &Server<In, Out>) -> CallerSnapshot {
    server.stats().requests.counters
}

#[test]
fn each_outcome_is_counted_once() {
    let gate = Gate::new();
    let server =
        Host::Processes.start::<Player>(named().capacity(2).max_payload(1024), gate.name(), Crew::of(1));
    let patient = CallOptions::new().timeout(GUARD).when_full(WhenFull::Wait);
    for word in ["yes", "yes", "fail", "panic"] {
        say(&server, word, patient);
    }
    say(&server, &"long".repeat(1000), patient);
    let now = counted(&server);
    assert_eq!((now.answered, now.worker, now.invalid, now.ended()), (2, 2, 1, 5));

    std::thread::scope(|scope| {
        let busy = scope.spawn(|| say(&server, "stop", patient));
        let held = gate.arrival();
        say(&server, "late", CallOptions::new().timeout(Duration::from_millis(1)));
        assert_eq!(counted(&server).timeout, 1);
        // The worker has one permit, and the late request keeps the other until the worker finds it.
        say(&server, "no", CallOptions::new().when_full(WhenFull::Fail));
        assert_eq!(counted(&server).rejected, 1);
        let waits = scope.spawn(|| say(&server, "yes", patient));
        wait_until("a caller waits for a permit", || counted(&server).permit_waits == 1);
        held.release();
        busy.join().expect("it ends");
        waits.join().expect("it ends");
        assert_eq!(counted(&server).answered, 4);
    });

    let held = server.submit(&"stop".to_owned()).expect("it is sent");
    let arrival = gate.arrival();
    drop(held);
    assert_eq!(counted(&server).cancelled, 1);
    arrival.release();

    await_permits(&server);
    say(&server, "die", patient);
    assert_sound(&server);
    let (now, deaths) = (counted(&server), server.stats().deaths);
    assert_eq!((now.worker, now.worker_died), (3, 1));
    assert_eq!((deaths.deaths, deaths.restarts, deaths.died, deaths.retried), (1, 1, 1, 0));
    assert!(deaths.repairs >= 1);

    let handle = server.handle();
    drop(server);
    assert!(handle.call(&"yes".to_owned()).is_err());
    let now = handle.stats().requests.counters;
    assert_eq!((now.unavailable, now.internal, now.ended()), (1, 0, 12));
}

#[test]
fn items_that_a_death_sends_back_are_counted() {
    let gate = Gate::new();
    let player = ProcessServlet::<Player>::new(gate.name()).on_death(OnDeath::Retry(2));
    let server = named().start(player).expect("it starts");
    say(&server, "die", CallOptions::new().timeout(GUARD));
    assert_sound(&server);
    let deaths = server.stats().deaths;
    assert_eq!((deaths.deaths, deaths.restarts, deaths.retried), (3, 3, 2));
    assert_eq!((deaths.died, deaths.poisonous, deaths.went_down), (1, 1, 0));
}

#[test]
fn times_are_of_as_many_as_the_server_is_told_to_time() {
    on_both(|host| {
        for (timing, timed) in [(Timing::OneOf(1), true), (Timing::OneOf(4), true), (Timing::Never, false)] {
            let server = host.start::<Echo>(named().timing(timing), (), Crew::of(1).greedy(8));
            for number in 0..64 {
                assert_eq!(*server.call(&number).expect("an answer"), number);
            }
            // A call ends when its answer is there, its worker's run a little later.
            let expected = if timed { 64 } else { 0 };
            wait_until("all runs have ended", || workers(&server)[0].times.run_time.count() == expected);
            let stats = server.stats();
            let (servlet, total) = (stats.servlets[0].times(), &stats.requests.times.total_time);
            assert_eq!(total.count(), expected, "{timing:?}");
            assert_eq!(servlet.queue_time.count(), expected, "{timing:?}");
            assert_eq!(
                (servlet.batch_size.count(), servlet.batch_size.sum()),
                (64, 64),
                "counted in any case"
            );
            assert_eq!(stats.requests.counters.answered, 64);
            if timing == Timing::OneOf(1) {
                // Each was alone; times in the ring are noted to 16 ns.
                let parts = servlet.queue_time.sum() + servlet.run_time.sum();
                assert!(total.sum() + 64 * 16 >= parts, "{} < {parts}", total.sum());
                assert!(total.greatest() >= total.percentile(50.0) && total.mean() > 0.0);
            }
        }
    });
}

#[test]
fn where_there_is_much_to_do_a_few_stand_for_all() {
    let server = echo(Timing::Adaptive);
    let items = 200_000;
    let outcomes = server.stream_with(0..items, StreamOptions::new().timeout(GUARD));
    assert_eq!(outcomes.filter(Result::is_ok).count() as u64, items);
    let stats = server.stats();
    assert_eq!(stats.requests.counters.answered, items, "the stream has ended");
    for (of, count) in [
        ("requests", stats.requests.times.total_time.count()),
        ("items", stats.servlets[0].times().queue_time.count()),
    ] {
        assert!(items - count <= 1023, "{count} {of} stand for {items}");
    }
    let (runs, batches) = (stats.servlets[0].times().run_time.count(), stats.servlets[0].total().batches);
    assert!(batches - runs <= 2 * 1023, "{runs} runs stand for {batches}");
}

#[test]
fn each_servlet_on_the_way_has_the_times_of_a_timed_request() {
    let echo = |name: &str| ThreadServlet::<Echo>::new(()).name(name);
    let members = Ensemble::of((echo("left"), echo("right")));
    let tree = echo("first").then(members);
    let server = Server::anonymous("statistics").timing(Timing::OneOf(2)).start(tree).expect("it starts");
    for number in 0..32 {
        server.call(&number).expect("an answer");
    }
    let stats = server.stats();
    let queued: Vec<(&str, u64)> = stats
        .servlets
        .iter()
        .map(|servlet| (servlet.name.as_str(), servlet.times().queue_time.count()))
        .collect();
    assert_eq!(queued, [("first", 32), ("left", 32), ("right", 32)]);
    assert_eq!(stats.requests.times.total_time.count(), 32);
}

#[test]
fn a_batch_that_waits_says_how_long() {
    on_both(|host| {
        let wait = Duration::from_millis(3);
        let server = host.start::<Echo>(named(), (), Crew::of(1).patient(2, wait));
        let mut calls = 0;
        // A worker that sees an item only when its wait is over does not wait.
        wait_until("a batch has waited", || {
            server.call(&1).expect("an answer");
            calls += 1;
            workers(&server)[0].times.batch_wait.greatest() > 0
        });
        let waited = &workers(&server)[0].times.batch_wait;
        assert_eq!(waited.count(), calls);
        assert!(waited.greatest() <= server.stats().requests.times.total_time.greatest());
    });
}

#[test]
fn more_threads_than_rows_lose_no_count() {
    let server = echo(Timing::OneOf(1));
    let (threads, each) = (80, 50);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                let options = CallOptions::new().timeout(GUARD).when_full(WhenFull::Wait);
                for number in 0..each {
                    server.call_with(&number, options).expect("an answer");
                }
            });
        }
    });
    let requests = server.stats().requests;
    assert_eq!(requests.counters.answered, threads * each);
    assert_eq!(requests.times.total_time.count(), threads * each);
}

#[test]
fn a_number_that_cannot_be_timed_is_refused() {
    for count in [0, 1_024] {
        let servlet = ThreadServlet::<Echo>::new(());
        let error = Server::anonymous("statistics")
            .timing(Timing::OneOf(count))
            .start(servlet)
            .expect_err("no number");
        let text = error.to_string();
        assert!(text.contains(&count.to_string()) && text.contains("1..=1023"), "{text}");
    }
}

#[test]
fn a_stream_at_a_closed_server_counts_each_refused_input_once() {
    let server = echo(Timing::Adaptive);
    let handle = server.handle();
    drop(server);
    let outcomes = handle.stream(0..100).filter(Result::is_err).count() as u64;
    let unordered = handle.stream(0..100).unordered().count() as u64;
    let counted = handle.stats().requests.counters;
    assert_eq!((outcomes, unordered), (100, 100));
    assert_eq!((counted.unavailable, counted.ended()), (200, 200));
}

#[test]
fn requests_that_were_too_late_have_times_too() {
    let gate = Gate::new();
    let builder = named().timing(Timing::OneOf(1));
    let server = Host::Threads.start::<Player>(builder, gate.name(), Crew::of(1));
    let limit = Duration::from_millis(2);
    std::thread::scope(|scope| {
        let busy = scope.spawn(|| say(&server, "stop", CallOptions::new().timeout(GUARD)));
        let held = gate.arrival();
        say(&server, "late", CallOptions::new().timeout(limit));
        held.release();
        busy.join().expect("it ends");
    });
    say(&server, "fail", CallOptions::new().timeout(GUARD));
    let total = server.stats().requests.times.total_time;
    assert_eq!(total.count(), 3);
    assert!(u128::from(total.greatest()) + 16 >= limit.as_nanos() / 2, "{}", total.greatest());
}
