//! Streams that give inputs back, prepare them, or give outcomes as they come.

use ringmill::{
    CallError, CallOptions, PassThrough, Payload, Server, StreamOptions, ThreadServlet, WhenFull,
};
use ringmill_tests::gate::{Arrival, Gate};
use ringmill_tests::host::{Crew, Host, on_both};
use ringmill_tests::probe::{Ask, Probe, Seen, ask, stopper};
use ringmill_tests::{GUARD, fresh_name, wait_until};
use std::cell::RefCell;
use std::num::ParseIntError;
use std::time::Duration;

ringmill::init!(Probe, PassThrough<String>);

fn start(host: Host, capacity: usize, workers: usize, gate: &Gate) -> Server<Ask, Seen> {
    let builder = Server::builder(fresh_name("streams")).capacity(capacity);
    host.start::<Probe>(builder, gate.name(), Crew::of(workers))
}

fn start_echo(host: Host, capacity: usize) -> Server<String, String> {
    let builder = Server::builder(fresh_name("echo")).capacity(capacity).max_payload(1024);
    host.start::<PassThrough<String>>(builder, (), Crew::of(2))
}

/// Every permit can be taken: none is lost.
#[track_caller]
fn assert_every_place_is_free<In: Payload, Out: Payload>(server: &Server<In, Out>, item: &In) {
    let options = CallOptions::new().when_full(WhenFull::Wait).timeout(GUARD);
    let replies: Vec<_> =
        (0..server.capacity()).map(|_| server.call_with(item, options).expect("a permit")).collect();
    drop(replies);
    assert_eq!(server.backlog(), 0);
}

/// An input larger than the largest payload.
fn too_large() -> String {
    "x".repeat(5000)
}

#[test]
fn inputs_come_back_in_order_with_errors_in_place() {
    on_both(|host| {
        let server = start_echo(host, 16);
        let input = |i: usize| if i % 7 == 3 { too_large() } else { format!("number {i}") };
        let stream = server.stream((0..3000).map(input)).with_inputs();
        let mut count = 0;
        for (index, item) in stream.enumerate() {
            let (text, outcome) = item.expect("nothing befalls the stream");
            assert_eq!(text, input(index));
            match outcome {
                Ok(echo) => assert_eq!(echo, text),
                Err(CallError::PayloadTooLarge { .. }) => assert_eq!(index % 7, 3),
                Err(error) => panic!("{error}"),
            }
            count += 1;
        }
        assert_eq!(count, 3000);
        assert_every_place_is_free(&server, &"x".to_string());
    });
}

#[test]
fn a_refused_input_keeps_its_turn_and_reaches_no_worker() {
    on_both(|host| {
        let server = start(host, 16, 1, &Gate::new());
        let words = || (0..1000).map(|i| if i % 5 == 2 { format!("no {i}") } else { i.to_string() });
        let prepare = |word: &String| Ok::<_, ParseIntError>(ask(word.parse::<u64>()?));
        for (index, outcome) in server.stream_prepared(words(), prepare).enumerate() {
            match outcome {
                Ok(seen) => assert_eq!(seen.value, index as u64),
                Err(CallError::Refused(error)) => {
                    assert_eq!(index % 5, 2);
                    assert_eq!(error.to_string(), "invalid digit found in string");
                }
                Err(error) => panic!("{error}"),
            }
        }
        assert_eq!(server.stats().servlets[0].total().items, 800);
        let with_words = server.stream_prepared(words(), prepare).with_inputs();
        for (item, word) in with_words.zip(words()) {
            let (input, outcome) = item.expect("nothing befalls the stream");
            assert_eq!(input, word, "the item itself, not its prepared form");
            assert_eq!(outcome.is_err(), word.starts_with("no"));
        }
        assert_every_place_is_free(&server, &ask(0));
    });
}

#[test]
fn preparing_runs_in_the_callers_thread_and_may_panic() {
    let server = start(Host::Threads, 4, 1, &Gate::new());
    let me = std::thread::current().id();
    let prepare = |value: &u64| {
        assert_eq!(std::thread::current().id(), me);
        assert!(*value < 10, "on purpose");
        Ok::<_, ParseIntError>(ask(*value))
    };
    let mut stream = server.stream_prepared(0.., prepare);
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| stream.by_ref().count()));
    assert!(panicked.is_err());
    drop(stream);
    wait_until("nothing in progress", || server.backlog() == 0);
    assert_every_place_is_free(&server, &ask(0));
}

#[test]
fn unordered_outcomes_overtake_a_slow_first() {
    on_both(|host| {
        let gate = Gate::new();
        let server = start(host, 64, 2, &gate);
        let inputs = (0..500).map(|i| if i == 0 { stopper() } else { ask(i) });
        let options = StreamOptions::new().timeout(GUARD).window(8);
        let mut stream = server.stream_with(inputs, options).unordered();
        let mut seen: Vec<usize> = Vec::new();
        // All the others come while the first stands at the gate.
        for item in stream.by_ref().take(499) {
            let (index, outcome) = item.expect("nothing befalls the stream");
            assert_eq!(outcome.expect("an answer").value, index as u64);
            seen.push(index);
        }
        seen.sort_unstable();
        assert!(seen.into_iter().eq(1..500));
        gate.arrival().release();
        let (index, outcome) = stream.next().expect("the first").expect("nothing befalls the stream");
        assert_eq!((index, outcome.expect("an answer").value), (0, u64::MAX));
        assert!(stream.next().is_none() && stream.next().is_none());
        assert_eq!(server.backlog(), 0);
    });
}

#[test]
fn unordered_outcomes_come_with_their_inputs() {
    on_both(|host| {
        let server = start_echo(host, 8);
        let input = |i: usize| if i % 7 == 3 { too_large() } else { format!("number {i}") };
        let mut texts = Vec::new();
        for item in server.stream((0..2000).map(input)).with_inputs().unordered() {
            let (text, outcome) = item.expect("nothing befalls the stream");
            match outcome {
                Ok(echo) => assert_eq!(echo, text),
                Err(CallError::PayloadTooLarge { .. }) => assert_eq!(text, too_large()),
                Err(error) => panic!("{error}"),
            }
            texts.push(text);
        }
        let mut expected: Vec<String> = (0..2000).map(input).collect();
        expected.sort_unstable();
        texts.sort_unstable();
        assert_eq!(texts, expected);
        assert_every_place_is_free(&server, &"x".to_string());
    });
}

/// Items of which the first comes to the gate; the second is not there before that.
fn held_items<'a>(gate: &'a Gate, held: &'a RefCell<Option<Arrival>>) -> impl Iterator<Item = Ask> + 'a {
    (0..).map(|i| {
        if i == 1 {
            *held.borrow_mut() = Some(gate.arrival());
        }
        if i == 0 { stopper() } else { ask(i) }
    })
}

#[test]
fn an_unordered_stream_times_out_its_oldest() {
    on_both(|host| {
        let gate = Gate::new();
        let server = start(host, 8, 1, &gate);
        let options = StreamOptions::new().timeout(Duration::from_millis(5));
        let held = RefCell::default();
        let mut stream = server.stream_with(held_items(&gate, &held).take(2), options).unordered();
        for expected in 0..2 {
            let (index, outcome) = stream.next().expect("an outcome").expect("nothing befalls the stream");
            assert_eq!(index, expected);
            assert!(matches!(outcome, Err(CallError::Timeout { .. })));
        }
        assert!(stream.next().is_none());
        held.take();
        wait_until("nothing in progress", || server.backlog() == 0);
    });
}

#[test]
fn an_unordered_stream_moves_between_threads_and_waits_for_permits() {
    let server = &start(Host::Threads, 2, 1, &Gate::new());
    let others: Vec<_> = (0..2).map(|value| server.call(&ask(value)).expect("a permit")).collect();
    let mut stream = server.stream_with((0..200).map(ask), StreamOptions::new().timeout(GUARD)).unordered();
    std::thread::scope(|scope| {
        let next = scope.spawn(move || (stream.next().map(|item| item.is_ok()), stream));
        drop(others);
        let (first, mut stream) = next.join().expect("no panic");
        assert_eq!(first, Some(true));
        let mut count = 1;
        while count < 200 {
            // A new thread each time.
            let (ok, back) = scope
                .spawn(move || {
                    let ok = stream.by_ref().take(10).filter(|item| item.is_ok()).count();
                    (ok, stream)
                })
                .join()
                .expect("no panic");
            (count, stream) = (count + ok, back);
        }
        assert!(stream.next().is_none());
    });
}

/// While workers are quick a stream has fewer items in progress than its window, because that is faster; but it gives a slow
/// worker the whole window.
#[test]
fn a_worker_that_takes_long_is_sent_the_whole_window() {
    on_both(|host| {
        let gate = Gate::new();
        let server = start(host, 600, 1, &gate);
        let inputs = (0..1000).map(|i| if i == 300 { stopper() } else { ask(i) });
        let stream = server.stream_with(inputs, StreamOptions::new().timeout(GUARD).window(500));
        std::thread::scope(|scope| {
            let seen = scope.spawn(|| stream.map(|seen| seen.expect("an answer").value).collect::<Vec<_>>());
            let held = gate.arrival();
            wait_until("the window is full", || server.backlog() == 500);
            held.release();
            let seen = seen.join().expect("no panic");
            assert!(seen.into_iter().eq((0..1000).map(|i| if i == 300 { u64::MAX } else { i })));
        });
        assert_eq!(server.backlog(), 0);
    });
}

#[test]
fn early_drops_leave_nothing_behind() {
    on_both(|host| {
        let gate = Gate::new();
        let server = start(host, 8, 1, &gate);
        let options = StreamOptions::new().timeout(Duration::from_millis(5));
        let held = RefCell::default();
        let endless = || held_items(&gate, &held);
        let release = || {
            held.take();
            wait_until("nothing in progress", || server.backlog() == 0);
        };
        let mut inputs = server.stream_with(endless(), options).with_inputs();
        assert!(matches!(inputs.next(), Some(Ok((_, Err(CallError::Timeout { .. }))))));
        drop(inputs);
        release();
        let mut unordered = server.stream_with(endless(), options).unordered();
        assert!(matches!(unordered.next(), Some(Ok((0, Err(CallError::Timeout { .. }))))));
        drop(unordered);
        release();
        drop(server.stream((0..).map(ask)).unordered());
        assert_eq!(server.backlog(), 0);
        assert_eq!(server.stats().servlets[0].total().items, 2, "none but those that were held");
    });
}

/// Symptom: such a stream had one error, of no input, and ended: its outcomes looked complete.
#[test]
fn a_server_that_shuts_down_refuses_each_further_input() {
    let server =
        Server::builder(fresh_name("ends")).start(ThreadServlet::<PassThrough<u64>>::new(())).unwrap();
    // Each stream leaves permits to the other.
    let endless = || server.stream_with(0.., StreamOptions::new().window(8));
    let (mut ordered, mut unordered) = (endless().with_inputs(), endless().unordered());
    assert!(matches!(ordered.next(), Some(Ok((0, Ok(0))))));
    assert!(matches!(unordered.next(), Some(Ok((_, Ok(_))))));
    server.shutdown();
    // Only items that were in progress have an answer.
    let refused = |outcome: &Result<u64, CallError>| matches!(outcome, Err(CallError::ShuttingDown));
    let rest = ordered.by_ref().take(100).map(|item| item.expect("nothing befalls the stream"));
    for (index, (input, outcome)) in rest.enumerate() {
        assert_eq!(input, index as u64 + 1);
        assert!(refused(&outcome) || index < 8 && outcome.is_ok(), "{index}: {outcome:?}");
    }
    let rest = unordered.by_ref().take(100).map(|item| item.expect("nothing befalls the stream"));
    let rest: Vec<_> = rest.collect();
    assert!(rest[8..].iter().all(|(_, outcome)| refused(outcome)), "{rest:?}");
}
