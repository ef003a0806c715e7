//! Every input of a stream has one outcome, whatever happens to the servlet, the server or the code of the stream's user; only
//! then the stream gives `None`.
#![expect(unsafe_code, reason = "a type's own check of its bytes")]

use futures_util::{StreamExt, stream};
use ringmill::{
    BoxError, CallError, CallOptions, Context, PassThrough, ProcessServlet, Restarts, Server, StreamOptions,
    ThreadServlet, WhenFull, Worker,
};
use ringmill_tests::host::{Crew, Host, on_both};
use ringmill_tests::process::signal;
use ringmill_tests::{GUARD, fresh_name, wait_until};
use rkyv::bytecheck::Verify;
use rkyv::rancor::{Fallible, Source};
use rkyv::with::{ArchiveWith, DeserializeWith, SerializeWith};
use rkyv::{Archive, Archived, Deserialize, Place, Serialize};
use std::cell::Cell;
use std::convert::Infallible;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

ringmill::init!(Phoenix, PassThrough<u64>, Echo);

/// Cannot be built as long as there is a file of this path.
struct Phoenix;

impl Worker for Phoenix {
    type Config = String;
    type In = u64;
    type Out = u64;

    fn new(ban: String, _: &Context) -> Result<Self, BoxError> {
        if Path::new(&ban).exists() { Err(BoxError::msg("banned")) } else { Ok(Self) }
    }

    fn call(&mut self, input: &Archived<u64>) -> Result<u64, BoxError> {
        Ok(input.to_native() * 2)
    }
}

/// A way to have every outcome of a stream, with its input where that comes with it.
type Way = fn(&Server<u64, u64>, Box<dyn Iterator<Item = u64> + '_>) -> Vec<(u64, Result<u64, CallError>)>;

fn options() -> StreamOptions {
    StreamOptions::new().timeout(GUARD).window(8)
}

/// All of them; the outcomes are in the order of the inputs, be it after sorting.
const WAYS: [(&str, Way); 7] = [
    ("plain", |server, inputs| (0..).zip(server.stream_with(inputs, options())).collect()),
    ("prepared", |server, inputs| {
        let halves = server.stream_prepared_with(inputs, |&input| Ok::<_, Infallible>(input), options());
        (0..).zip(halves).collect()
    }),
    ("with inputs", |server, inputs| {
        server
            .stream_with(inputs, options())
            .with_inputs()
            .map(|item| item.expect("nothing of the whole"))
            .collect()
    }),
    ("unordered", |server, inputs| {
        let items = server.stream_with(inputs, options()).unordered();
        let mut all: Vec<_> = items.map(|item| item.expect("nothing of the whole")).collect();
        all.sort_by_key(|(index, _)| *index);
        all.into_iter().map(|(index, outcome)| (index as u64, outcome)).collect()
    }),
    ("unordered with inputs", |server, inputs| {
        let items = server.stream_with(inputs, options()).with_inputs().unordered();
        let mut all: Vec<_> = items.map(|item| item.expect("nothing of the whole")).collect();
        all.sort_by_key(|(input, _)| *input);
        all
    }),
    ("replies", |server, inputs| {
        let mut stream = server.stream_with(inputs, options());
        let replies = std::iter::from_fn(|| stream.next_reply());
        (0..).zip(replies.map(|reply| reply.and_then(|reply| reply.into_owned()))).collect()
    }),
    ("asynchronous", |server, inputs| {
        let outcomes = server.stream_async_with(stream::iter(inputs), options());
        (0..).zip(pollster::block_on(outcomes.collect::<Vec<_>>())).collect()
    }),
];

fn is_down<I: ringmill::Payload, O: ringmill::Payload>(server: &Server<I, O>, input: &I) -> bool {
    matches!(server.call(input), Err(CallError::ServletDown { .. }))
}

const INPUTS: u64 = 1000;

/// Symptom: a stream whose servlet went down gave 10 of 1,000 outcomes, then `None`; `collect` and `zip` lost 990 inputs
/// in silence, and the servlet was up again 0.3 s later. Cause: the first error that was not of an input ended the stream.
/// Fix: that is the error of the next input, and of each further one for as long as it lasts.
#[test]
fn a_stream_outlives_a_time_with_its_servlet_down() {
    let folder = tempfile::tempdir().expect("a directory");
    for (number, (what, way)) in WAYS.into_iter().enumerate() {
        let ban = folder.path().join(number.to_string());
        let policy = Restarts::default()
            .limit(2)
            .backoff(Duration::ZERO, Duration::ZERO)
            .try_again_after(Duration::from_millis(20));
        let servlet = ProcessServlet::<Phoenix>::new(ban.to_str().expect("text").into()).restarts(policy);
        let server = Server::builder(fresh_name("bad-times")).capacity(64).start(servlet).expect("it starts");
        let inputs = (0..INPUTS).inspect(|input| match input {
            100 => {
                std::fs::write(&ban, "").expect("a file");
                signal(server.stats().servlets[0].workers[0].pid, libc::SIGKILL);
                wait_until("it is down", || is_down(&server, &0));
            }
            500 => {
                std::fs::remove_file(&ban).expect("it is there");
                wait_until("it is up again", || server.call(&0).is_ok());
            }
            _ => {}
        });
        let outcomes = way(&server, Box::new(inputs));
        assert_eq!(outcomes.len() as u64, INPUTS, "{what}: one for each input");
        let (mut good, mut down) = (0, 0);
        for (index, (input, outcome)) in (0..).zip(outcomes) {
            assert_eq!(input, index, "{what}");
            match outcome {
                Ok(value) => {
                    assert_eq!(value, input * 2, "{what}");
                    assert!(!(110..500).contains(&input), "{what}: {input}");
                    good += 1;
                }
                Err(CallError::ServletDown { .. }) => {
                    assert!((90..510).contains(&input), "{what}: {input}");
                    down += 1;
                }
                Err(CallError::WorkerDied(_)) => assert!((90..110).contains(&input), "{what}: {input}"),
                Err(error) => panic!("{what}, {input}: {error}"),
            }
        }
        assert!(good >= 580 && down >= 380, "{what}: {good} good, {down} down");
        assert_eq!(server.backlog(), 0, "{what}");
    }
}

#[test]
fn a_server_that_shuts_down_refuses_each_further_input() {
    on_both(|host| {
        for (what, way) in WAYS {
            let builder = Server::builder(fresh_name("shuts")).capacity(64);
            let server = host.start::<PassThrough<u64>>(builder, (), Crew::of(1));
            let inputs = (0..INPUTS).inspect(|input| {
                if *input == 100 {
                    server.shutdown();
                }
            });
            let outcomes = way(&server, Box::new(inputs));
            assert_eq!(outcomes.len() as u64, INPUTS, "{what}: one for each input");
            for (index, (input, outcome)) in (0..).zip(outcomes) {
                assert_eq!(input, index, "{what}");
                match outcome {
                    Ok(value) => assert!(value == input && input <= 100, "{what}: {input}"),
                    Err(CallError::ShuttingDown) => assert!(input > 90, "{what}: {input}"),
                    Err(error) => panic!("{what}, {input}: {error}"),
                }
            }
            assert_eq!(server.backlog(), 0, "{what}");
        }
    });
}

/// A timeout of the wait for a permit is also of one input, and later inputs are sent.
#[test]
fn an_input_that_gets_no_permit_in_time_has_that_error() {
    let builder = Server::builder(fresh_name("permits")).capacity(2);
    let server = builder.start(ThreadServlet::<PassThrough<u64>>::new(())).expect("it starts");
    let options = StreamOptions::new().timeout(Duration::from_millis(5));
    let hold = || Cell::new((0..2).map(|value| server.call(&value).expect("a permit")).collect::<Vec<_>>());
    let full = |outcome: &Result<u64, CallError>| matches!(outcome, Err(CallError::ServerBacklogFull { .. }));
    // The third input is pulled with the permits still taken.
    let held = hold();
    let inputs = || {
        (0..10_u64).inspect(|input| {
            if *input == 2 {
                drop(held.take());
            }
        })
    };
    let judge = |what: &str, outcomes: Vec<Result<u64, CallError>>| {
        assert_eq!(outcomes.len(), 10, "{what}: {outcomes:?}");
        assert!(outcomes[..2].iter().all(full), "{what}: {outcomes:?}");
        // Those that are late afterwards are so on a slow machine.
        let late = |outcome: &Result<u64, CallError>| matches!(outcome, Err(CallError::Timeout { .. }));
        let well = |(value, outcome): (u64, &Result<u64, CallError>)| {
            outcome.as_ref().is_ok_and(|v| *v == value) || full(outcome) || late(outcome)
        };
        assert!((2..).zip(&outcomes[2..]).all(well), "{what}: {outcomes:?}");
        wait_until("every permit is back", || server.backlog() == 0);
    };
    judge("plain", server.stream_with(inputs(), options).collect());
    held.set(hold().take());
    let with_inputs =
        server.stream_with(inputs(), options).with_inputs().map(|item| item.expect("of an input"));
    let with_inputs: Vec<_> = with_inputs.collect();
    assert!(with_inputs.iter().map(|(input, _)| *input).eq(0..10));
    judge("with inputs", with_inputs.into_iter().map(|(_, outcome)| outcome).collect());
    held.set(hold().take());
    let unordered = server.stream_with(inputs(), options).unordered().map(|item| item.expect("of an input"));
    let mut unordered: Vec<_> = unordered.collect();
    unordered.sort_by_key(|(index, _)| *index);
    judge("unordered", unordered.into_iter().map(|(_, outcome)| outcome).collect());
    held.set(hold().take());
    let outcomes = server.stream_async_with(stream::iter(inputs()), options);
    judge("asynchronous", pollster::block_on(outcomes.collect()));
}

/// Symptom: while others held every permit, a stream waited its whole timeout for one although the servlet was down.
#[test]
fn a_stream_stops_waiting_for_a_permit_when_the_servlet_is_down() {
    let folder = tempfile::tempdir().expect("a directory");
    let ban = folder.path().join("ban");
    let policy = Restarts::default().limit(0).for_good();
    let servlet = ProcessServlet::<Phoenix>::new(ban.to_str().expect("text").into()).restarts(policy);
    let server = Server::builder(fresh_name("held")).capacity(1).start(servlet).expect("it starts");
    let permit = server.call(&1).expect("a permit");
    let endless = StreamOptions::new().timeout(Duration::MAX);
    std::thread::scope(|scope| {
        let stream = scope.spawn(|| server.stream_with(0..100, endless).collect::<Vec<_>>());
        std::fs::write(&ban, "").expect("a file");
        signal(server.stats().servlets[0].workers[0].pid, libc::SIGKILL);
        let outcomes = stream.join().expect("no panic");
        assert_eq!(outcomes.len(), 100);
        assert!(outcomes.iter().all(|outcome| matches!(outcome, Err(CallError::ServletDown { .. }))));
    });
    drop(permit);
    assert_eq!(server.backlog(), 0);
}

/// Where the code of the stream's user panics, by the number of the item.
const NEXT: u64 = 11;
const PREPARE: u64 = 22;
const SERIALISE: u64 = 33;
const RESOLVE: u64 = 44;
const DROP: u64 = 55;
const CHECK: u64 = 66;
const DESERIALISE: u64 = 77;
const ITEMS: u64 = 100;

thread_local! {
    static IS_CALLER: Cell<bool> = const { Cell::new(false) };
}

/// Inputs and outcomes; panics on the caller's side only.
#[derive(Debug, Archive, Serialize, Deserialize)]
#[rkyv(bytecheck(verify))]
struct Odd {
    #[rkyv(with = Fussy)]
    number: u64,
    #[rkyv(with = rkyv::with::Skip)]
    is_input: bool,
}

fn panic_if(number: u64, bad: u64) {
    assert!(number != bad || !IS_CALLER.get(), "number {bad}");
}

impl Drop for Odd {
    fn drop(&mut self) {
        if self.is_input && !std::thread::panicking() {
            panic_if(self.number, DROP);
        }
    }
}

// SAFETY: nothing unsafe relies on what it checks.
unsafe impl<C: Fallible<Error: Source> + ?Sized> Verify<C> for ArchivedOdd {
    fn verify(&self, _: &mut C) -> Result<(), C::Error> {
        panic_if(self.number.to_native(), CHECK);
        Ok(())
    }
}

struct Fussy;

impl ArchiveWith<u64> for Fussy {
    type Archived = Archived<u64>;
    type Resolver = ();

    fn resolve_with(number: &u64, (): (), out: Place<Archived<u64>>) {
        panic_if(*number, RESOLVE);
        number.resolve((), out);
    }
}

impl<S: Fallible + ?Sized> SerializeWith<u64, S> for Fussy {
    fn serialize_with(number: &u64, _: &mut S) -> Result<(), S::Error> {
        panic_if(*number, SERIALISE);
        Ok(())
    }
}

impl<D: Fallible + ?Sized> DeserializeWith<Archived<u64>, u64, D> for Fussy {
    fn deserialize_with(number: &Archived<u64>, _: &mut D) -> Result<u64, D::Error> {
        panic_if(number.to_native(), DESERIALISE);
        Ok(number.to_native())
    }
}

/// Answers with its input.
struct Echo;

impl Worker for Echo {
    type Config = ();
    type In = Odd;
    type Out = Odd;

    fn new((): (), _: &Context) -> Result<Self, BoxError> {
        Ok(Self)
    }

    fn call(&mut self, input: &ArchivedOdd) -> Result<Odd, BoxError> {
        Ok(Odd { number: input.number.to_native(), is_input: false })
    }
}

/// The numbers of the items; the iterator panics once before it gives one.
fn numbers() -> impl Iterator<Item = u64> {
    let (mut next, mut has_panicked) = (0, false);
    std::iter::from_fn(move || {
        assert!(next != NEXT || std::mem::replace(&mut has_panicked, true), "the source");
        next += 1;
        (next <= ITEMS).then(|| next - 1)
    })
}

fn odd(number: &u64) -> Result<Odd, Infallible> {
    panic_if(*number, PREPARE);
    Ok(Odd { number: *number, is_input: true })
}

/// All outcomes of a stream; the caller catches panics and goes on.
fn all<I: Iterator>(mut stream: I) -> (Vec<I::Item>, usize) {
    IS_CALLER.set(true);
    let (mut items, mut panics) = (Vec::new(), 0);
    loop {
        match catch_unwind(AssertUnwindSafe(|| stream.next())) {
            Ok(Some(item)) => items.push(item),
            Ok(None) => break,
            Err(_) => panics += 1,
        }
        assert!(panics < 20, "it goes on and on");
    }
    assert!(stream.next().is_none(), "it is over");
    drop(stream);
    IS_CALLER.set(false);
    (items, panics)
}

fn start_echo(host: Host) -> Server<Odd, Odd> {
    host.start::<Echo>(Server::builder(fresh_name("panics")).capacity(16), (), Crew::of(1))
}

#[track_caller]
fn assert_every_place_is_free(server: &Server<Odd, Odd>) {
    let options = CallOptions::new().when_full(WhenFull::Wait).timeout(GUARD);
    let call = |number| server.call_with(&Odd { number, is_input: true }, options).expect("a permit");
    let replies: Vec<_> = (0..server.capacity() as u64).map(call).collect();
    drop(replies);
    assert_eq!(server.backlog(), 0);
}

/// Checks the outcome of the item of this number, which took part in every kind of panic.
#[track_caller]
fn judge(what: &str, number: u64, outcome: &Result<Odd, CallError>) {
    match (number, outcome) {
        (PREPARE | SERIALISE | RESOLVE, Err(CallError::Refused(error))) => {
            assert!(error.to_string().contains("panicked"), "{what}: {error}");
        }
        (_, Ok(odd)) if ![PREPARE, SERIALISE, RESOLVE].contains(&number) => {
            assert_eq!(odd.number, number, "{what}: it has its own outcome");
        }
        (number, outcome) => panic!("{what}, {number}: {outcome:?}"),
    }
}

/// Symptoms: after a panic of an outcome's deserialiser, which was caught, `with_inputs` paired every later input with its
/// neighbour's outcome, and `unordered` lost 34 of 64 permits; a panic of an input's drop shifted outcomes too. Cause: the
/// stream updated its state after user code had run, or not at all. Fix: before, or by guards.
#[test]
fn a_panic_that_is_caught_shifts_nothing_and_loses_nothing() {
    on_both(|host| {
        let server = start_echo(host);
        let rest = || (0..ITEMS).filter(|number| ![CHECK, DESERIALISE].contains(number));
        // Of the two that panic as they are read, the panic is the outcome; the other five are beside the outcomes.
        let panics = 7;

        let (outcomes, count) = all(server.stream_prepared(numbers(), odd));
        assert_eq!(count, panics);
        assert_eq!(outcomes.len(), rest().count());
        rest().zip(&outcomes).for_each(|(number, outcome)| judge("plain", number, outcome));
        assert_every_place_is_free(&server);

        let (items, count) = all(server.stream_prepared(numbers(), odd).with_inputs());
        assert_eq!(count, panics);
        assert!(items.iter().map(|item| item.as_ref().expect("of an input").0).eq(rest()));
        for (number, outcome) in items.into_iter().flatten() {
            judge("with inputs", number, &outcome);
        }
        assert_every_place_is_free(&server);

        let (items, count) = all(server.stream_prepared(numbers(), odd).unordered());
        assert_eq!(count, panics);
        let mut items: Vec<_> = items.into_iter().map(|item| item.expect("of an input")).collect();
        items.sort_by_key(|(index, _)| *index);
        assert!(items.iter().map(|(index, _)| *index as u64).eq(rest()));
        items.iter().for_each(|(index, outcome)| judge("unordered", *index as u64, outcome));
        assert_every_place_is_free(&server);

        let (items, count) = all(server.stream_prepared(numbers(), odd).with_inputs().unordered());
        assert_eq!(count, panics);
        let mut items: Vec<_> = items.into_iter().map(|item| item.expect("of an input")).collect();
        items.sort_by_key(|(number, _)| *number);
        assert!(items.iter().map(|(number, _)| *number).eq(rest()));
        items.iter().for_each(|(number, outcome)| judge("unordered with inputs", *number, outcome));
        assert_every_place_is_free(&server);

        // Inputs that are not prepared, and are dropped by the stream.
        let inputs = || numbers().map(|number| Odd { number, is_input: true });
        let (outcomes, count) = all(server.stream(inputs()));
        assert_eq!(count, panics - 1, "nothing is prepared");
        assert_eq!(outcomes.len(), rest().count());
        for (number, outcome) in rest().zip(&outcomes) {
            if number != PREPARE {
                judge("plain inputs", number, outcome);
            }
        }
        assert_every_place_is_free(&server);

        let mut outcomes = server.stream_async(stream::iter(inputs()));
        let (outcomes, count) = all(std::iter::from_fn(|| pollster::block_on(outcomes.next())));
        assert_eq!(count, panics - 1);
        assert_eq!(outcomes.len(), rest().count());
        for (number, outcome) in rest().zip(&outcomes) {
            if number != PREPARE {
                judge("asynchronous", number, outcome);
            }
        }
        assert_every_place_is_free(&server);

        // With the inputs, none is dropped by the stream, and so none panics as it is dropped there.
        let asynchronous = || server.stream_async(stream::iter(inputs()));
        let mut outcomes = asynchronous().with_inputs();
        let in_order = all(std::iter::from_fn(|| pollster::block_on(outcomes.next())));
        let mut outcomes = asynchronous().with_inputs().unordered();
        let (mut any_order, count) = all(std::iter::from_fn(|| pollster::block_on(outcomes.next())));
        let number = |item: &Result<(Odd, _), _>| item.as_ref().expect("of an input").0.number;
        any_order.sort_by_key(number);
        for (what, (items, count)) in [("in order", in_order), ("in any order", (any_order, count))] {
            assert_eq!(count, panics - 2, "{what}");
            assert!(items.iter().map(number).eq(rest()), "{what}");
            for (input, outcome) in items.into_iter().flatten() {
                if input.number != PREPARE {
                    judge(what, input.number, &outcome);
                }
            }
            assert_every_place_is_free(&server);
        }
        let mut outcomes = asynchronous().unordered();
        let (items, count) = all(std::iter::from_fn(|| pollster::block_on(outcomes.next())));
        assert_eq!(count, panics - 1);
        let mut items: Vec<_> = items.into_iter().map(|item| item.expect("of an input")).collect();
        items.sort_by_key(|(index, _)| *index);
        assert!(items.iter().map(|(index, _)| *index as u64).eq(rest()));
        for (index, outcome) in items {
            if index as u64 != PREPARE {
                judge("by index", index as u64, &outcome);
            }
        }
        assert_every_place_is_free(&server);
    });
}

/// Streams that are dropped while such a panic unwinds leave nothing in progress either.
#[test]
fn a_panic_that_is_not_caught_leaves_nothing_in_progress() {
    let server = start_echo(Host::Threads);
    for bad in [NEXT, PREPARE, SERIALISE, RESOLVE, DROP, CHECK, DESERIALISE] {
        let numbers = || numbers().skip_while(move |number| *number < bad);
        for way in 0..4 {
            IS_CALLER.set(true);
            let run = || match way {
                0 => server.stream_prepared(numbers(), odd).count(),
                1 => server.stream_prepared(numbers(), odd).with_inputs().count(),
                2 => server.stream_prepared(numbers(), odd).unordered().count(),
                _ => server.stream_prepared(numbers(), odd).with_inputs().unordered().count(),
            };
            assert!(catch_unwind(AssertUnwindSafe(run)).is_err(), "{bad} panics");
            IS_CALLER.set(false);
            assert_every_place_is_free(&server);
        }
        // Calls, and replies that are read.
        IS_CALLER.set(true);
        let call = || {
            server
                .call(&Odd { number: bad, is_input: false })
                .map(|reply| reply.into_owned().expect("its own value").number)
        };
        assert_eq!(
            catch_unwind(AssertUnwindSafe(call)).is_err(),
            [SERIALISE, RESOLVE, CHECK, DESERIALISE].contains(&bad)
        );
        IS_CALLER.set(false);
        assert_every_place_is_free(&server);
    }
}

#[test]
fn size_hints_are_correct() {
    let server = Server::builder(fresh_name("hint")).capacity(8);
    let server = server.start(ThreadServlet::<PassThrough<u64>>::new(())).expect("it starts");
    let mut stream = server.stream(0..20);
    for left in (0..=20).rev() {
        let (least, most) = stream.size_hint();
        assert!(least <= left && most.is_none_or(|most| left <= most));
        assert_eq!(stream.next().is_some(), left > 0);
    }
}

/// An asynchronous stream that is refused for ever does not keep its thread from other tasks.
#[test]
fn a_task_whose_endless_stream_is_refused_lets_others_run() {
    let server = Server::builder(fresh_name("yields")).start(ThreadServlet::<PassThrough<u64>>::new(()));
    let server = server.expect("it starts");
    server.shutdown();
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let over = Arc::new(AtomicBool::new(false));
    let told = Arc::clone(&over);
    runtime.block_on(async move {
        let task = tokio::spawn(async move {
            let mut outcomes = server.stream_async(stream::iter(0..));
            let mut others = server.stream_async(stream::iter(0..)).unordered();
            let mut refused = 0;
            while !told.load(Ordering::SeqCst) {
                assert!(matches!(outcomes.next().await, Some(Err(CallError::ShuttingDown))));
                assert!(matches!(others.next().await, Some(Ok((_, Err(CallError::ShuttingDown))))));
                refused += 1;
            }
            refused
        });
        let other = tokio::spawn(async move {
            tokio::task::yield_now().await;
            over.store(true, Ordering::SeqCst);
        });
        other.await.expect("no panic");
        assert!(task.await.expect("no panic") > 0);
    });
}
