//! Partials: what a worker emits before the outcome.

use futures_util::{FutureExt, StreamExt};
use ringmill::error::RemoteCause;
use ringmill::rkyv::Archived;
use ringmill::worker::EmitError;
use ringmill::{
    Batch, BatchWorker, BoxError, CallError, CallOptions, Context, Ensemble, OnDeath, ProcessServlet, Server,
    ServerBuilder, Servlet, ThreadServlet,
};
use ringmill_tests::gate::Gate;
use ringmill_tests::host::{Crew, Host, assert_at_rest, on_both};
use ringmill_tests::teller::{Task, Teller, Then, task};
use ringmill_tests::{GUARD, fresh_name};
use std::time::Duration;

/// Emits what it is given, twice, and passes it on.
struct Again;

impl BatchWorker for Again {
    type Config = ();
    type In = u32;
    type Out = u32;

    fn new((): (), _: &Context) -> Result<Self, BoxError> {
        Ok(Self)
    }

    fn call(&mut self, batch: Batch<'_, Self>) -> Result<(), BoxError> {
        for item in batch {
            let number = item.input().to_native();
            match [number, number + 1].iter().try_for_each(|number| item.emit(number)) {
                Ok(()) => item.reply(number + 2),
                Err(error) => item.fail(error),
            }
        }
        Ok(())
    }
}

ringmill::make_worker!(Sum: Vec<Box<u32>> => u32, |numbers: &Archived<Vec<Box<u32>>>| {
    numbers.iter().map(|number| number.to_native()).sum::<u32>()
});

ringmill::init!(Teller, Again, Sum);

fn builder(partials: usize) -> ServerBuilder {
    Server::builder(fresh_name("partials")).capacity(8).partials(partials).max_partial(64)
}

fn start(host: Host, partials: usize, gate: Option<&Gate>) -> Server<Task, u32> {
    host.start::<Teller>(builder(partials), gate.map_or(String::new(), Gate::name), Crew::of(1).greedy(4))
}

fn patient() -> CallOptions {
    CallOptions::new().timeout(GUARD)
}

#[test]
fn partials_come_in_order_and_before_the_outcome() {
    on_both(|host| {
        // One at a time: each side waits for the other. Many: the worker is never held up.
        for behind in [1, 2, 5000] {
            let server = start(host, behind, None);
            for count in [0, 1, 2, 3, 1000] {
                let mut call =
                    server.call_streaming_with::<u32>(task(count, Then::Answer), patient()).expect("sent");
                let numbers: Result<Vec<u32>, _> = call.by_ref().collect();
                assert_eq!(numbers.expect("numbers"), (0..count).collect::<Vec<_>>());
                assert!(call.next().is_none(), "and none more");
                assert_eq!(*call.outcome().expect("an answer"), count);
            }
            assert_at_rest(&server);
        }
    });
}

#[test]
fn partials_are_read_where_they_lie() {
    on_both(|host| {
        let server = start(host, 2, None);
        let mut call = server.call_streaming::<u32>(&task(3, Then::Answer)).expect("sent");
        let first = call.next_partial().expect("three").expect("a number");
        assert_eq!(*first, 0);
        std::mem::forget(first); // it was not taken
        assert_eq!(*call.next_partial().expect("three").expect("a number"), 0);
        assert_eq!(call.next_partial().expect("two").expect("a number").into_owned().expect("a number"), 1);
        assert_eq!(*call.outcome().expect("the third is skipped"), 3);
    });
}

#[test]
fn a_caller_that_takes_no_partials_gets_the_outcome() {
    on_both(|host| {
        let server = start(host, 1, None);
        assert_eq!(*server.call(&task(100, Then::Answer)).expect("an answer"), 100);
        assert_eq!(*server.submit(&task(100, Then::Answer)).expect("sent").wait().expect("an answer"), 100);
        let call = server.call_streaming::<u32>(&task(100, Then::Answer)).expect("sent");
        assert_eq!(*call.outcome().expect("an answer"), 100);
        // A request that was opened, and the next one of the same permit that is not.
        for _ in 0..20 {
            let call = server.call_streaming::<u32>(&task(2, Then::Answer)).expect("sent");
            assert_eq!(*call.outcome().expect("an answer"), 2);
            assert_eq!(*server.call(&task(9, Then::Answer)).expect("an answer"), 9);
        }
        assert_at_rest(&server);
    });
}

#[test]
fn a_server_without_room_says_so() {
    let server = start(Host::Threads, 0, None);
    let error = server.call_streaming::<u32>(&task(1, Then::Answer)).expect_err("no room");
    assert_eq!(error.to_string(), "the server gives its callers no partials: start it with partials(n)");
    assert_eq!(*server.call(&task(1, Then::Answer)).expect("an answer"), 1);
    let refused = builder(1 << 17).start(ThreadServlet::<Teller>::new(String::new())).expect_err("too many");
    assert_eq!(refused.to_string(), "partials is 131072, must be in 0..=65536");
}

#[test]
fn errors_come_after_the_partials() {
    on_both(|host| {
        let server = start(host, 4, None);
        let mut call = server.call_streaming::<u32>(&task(3, Then::Fail)).expect("sent");
        assert_eq!(call.by_ref().map(|number| number.expect("a number")).sum::<u32>(), 3);
        let error = call.outcome().expect_err("it fails");
        assert!(error.to_string().contains("on purpose"), "{error}");

        let mut call = server.call_streaming::<u32>(&task(1, Then::Large)).expect("sent");
        assert_eq!(call.by_ref().count(), 1);
        let error = call.outcome().expect_err("it fails").to_string();
        assert!(error.contains("416 bytes is too large: 64 fit; raise max_partial()"), "{error}");
        assert_at_rest(&server);
    });
}

#[test]
fn a_partial_of_another_type_is_an_error_and_the_next_one_comes() {
    on_both(|host| {
        let server = start(host, 8, None);
        let mut call = server.call_streaming::<u32>(&task(1, Then::Text)).expect("sent");
        assert_eq!(call.next().expect("one").expect("a number"), 0);
        let error = call.next().expect("one").expect_err("a text");
        assert_eq!(error.to_string(), "the worker emitted a partial that is no u32: it was skipped");
        assert_eq!(call.next().expect("one").expect("a number"), 1);
        assert!(call.next().is_none());
        assert_eq!(*call.outcome().expect("an answer"), 2);
    });
}

#[test]
fn a_worker_learns_that_its_caller_has_gone() {
    on_both(|host| {
        let gate = Gate::new();
        let server = start(host, 1, Some(&gate));
        // Gone before the first partial; gone while the worker waits for room.
        for takes in [0, 1] {
            let mut call =
                server.call_streaming_with::<u32>(task(1000, Then::Answer), patient()).expect("sent");
            let arrival = gate.arrival();
            if takes == 0 {
                drop(call);
                arrival.release();
            } else {
                arrival.release();
                assert_eq!(call.next().expect("many").expect("a number"), 0);
                drop(call);
            }
            let told = gate.arrival();
            assert_eq!(told.label(), EmitError::CallerGone.to_string());
            told.release();
            assert_at_rest(&server);
        }
    });
}

#[test]
fn the_time_is_for_all_of_it() {
    on_both(|host| {
        let gate = Gate::new();
        let server = start(host, 1, Some(&gate));
        let short = CallOptions::new().timeout(Duration::from_millis(20));
        let mut call = server.call_streaming_with::<u32>(task(3, Then::Answer), short).expect("sent");
        let arrival = gate.arrival();
        assert!(matches!(call.next(), Some(Err(CallError::Timeout { .. }))));
        assert!(call.next().is_none());
        assert!(matches!(call.outcome(), Err(CallError::Timeout { .. })));
        arrival.release();
        gate.arrival().release(); // it has learnt that its caller has gone
        assert_at_rest(&server);
    });
}

#[test]
fn what_a_worker_emitted_before_it_died_stays_and_its_item_is_not_tried_again() {
    if ringmill_tests::host::only_threads() {
        return;
    }
    for on_death in [OnDeath::Fail, OnDeath::Retry(3)] {
        let servlet = ProcessServlet::<Teller>::new(String::new()).on_death(on_death);
        let server = builder(4).start(servlet).expect("it starts");
        let mut call = server.call_streaming_with::<u32>(task(3, Then::Die), patient()).expect("sent");
        let numbers: Result<Vec<u32>, _> = call.by_ref().collect();
        assert_eq!(numbers.expect("numbers"), [0, 1, 2], "{on_death:?}");
        assert!(matches!(call.outcome(), Err(CallError::WorkerDied(_))), "{on_death:?}");
        assert_at_rest(&server);
    }
    // A worker that had emitted nothing, or nothing that a caller takes.
    let servlet = ProcessServlet::<Teller>::new(String::new()).on_death(OnDeath::Retry(3));
    let server = builder(4).start(servlet).expect("it starts");
    let mut call = server.call_streaming_with::<u32>(task(0, Then::DieOnce), patient()).expect("sent");
    assert_eq!(call.by_ref().count(), 0);
    assert_eq!(*call.outcome().expect("the second try"), 0);
}

#[test]
fn servlets_one_after_the_other_emit_in_that_order() {
    let (first, second) = (ThreadServlet::<Again>::new(()), ThreadServlet::<Again>::new(()));
    let server = builder(1).start(first.then(second)).expect("it starts");
    let mut call = server.call_streaming::<u32>(&10).expect("sent");
    let numbers: Result<Vec<u32>, _> = call.by_ref().collect();
    assert_eq!(numbers.expect("numbers"), [10, 11, 12, 13]);
    assert_eq!(*call.outcome().expect("an answer"), 14);
}

#[test]
fn members_of_an_ensemble_have_no_partials() {
    let member = || ThreadServlet::<Again>::new(());
    let ensemble = Ensemble::each([member(), member()]);
    let tree = member().then(ensemble).then(ThreadServlet::<Sum>::new(())).then(member());
    let server = builder(8).start(tree).expect("it starts");
    let mut call = server.call_streaming::<u32>(&10).expect("sent");
    let numbers: Result<Vec<u32>, _> = call.by_ref().collect();
    assert_eq!(numbers.expect("numbers"), [10, 11], "the first servlet's");
    let error = call.outcome().expect_err("members fail").to_string();
    assert!(error.contains(&EmitError::InEnsemble.to_string()), "{error}");
}

#[test]
fn partials_are_an_asynchronous_stream() {
    on_both(|host| {
        let server = start(host, 1, None);
        let handle = server.handle();
        let listen = async move |handle: ringmill::Handle<Task, u32>, count: u32| {
            let mut call =
                handle.call_streaming_with::<u32>(task(count, Then::Answer), patient())?.into_async();
            let mut sum = 0;
            while let Some(number) = call.next().await {
                sum += number?;
            }
            Ok::<_, CallError>((sum, call.outcome().await?.to_native()))
        };
        assert_eq!(pollster::block_on(listen(handle.clone(), 100)).expect("numbers"), (4950, 100));
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().expect("threads");
        runtime.block_on(async {
            let tasks: Vec<_> = (0..6).map(|n| tokio::spawn(listen(handle.clone(), 50 + n))).collect();
            for (n, task) in (50..).zip(tasks) {
                assert_eq!(task.await.expect("no panic").expect("numbers"), (n * (n - 1) / 2, n));
            }
        });
        // The outcome as a future, without a look at a partial.
        let call = server.call_streaming::<u32>(&task(9, Then::Answer)).expect("sent");
        assert_eq!(*pollster::block_on(call.into_async().outcome()).expect("an answer"), 9);
        assert_at_rest(&server);
    });
}

#[test]
fn a_future_that_is_dropped_cancels() {
    on_both(|host| {
        let gate = Gate::new();
        let server = start(host, 1, Some(&gate));
        let call = server.call_streaming_with::<u32>(task(9, Then::Answer), patient()).expect("sent");
        let (mut call, arrival) = (call.into_async(), gate.arrival());
        assert!(call.next().now_or_never().is_none(), "watched");
        drop(call);
        arrival.release();
        gate.arrival().release();
        assert_at_rest(&server);
    });
}

#[test]
fn a_shutdown_ends_a_worker_that_waits_for_its_caller() {
    on_both(|host| {
        let builder = builder(1).shutdown_timeout(Duration::from_millis(50));
        let server = host.start::<Teller>(builder, String::new(), Crew::of(1));
        let handle = server.handle();
        let mut call = handle.call_streaming_with::<u32>(task(1000, Then::Answer), patient()).expect("sent");
        assert_eq!(call.next().expect("many").expect("a number"), 0);
        server.shutdown();
        // What was there, and then an error that says why there is no more.
        assert!(call.by_ref().count() <= 2);
        match call.outcome().expect_err("it was cut off") {
            CallError::Remote(error) => {
                assert!(error.to_string().contains(&EmitError::Stopping.to_string()), "{error}");
            }
            CallError::WorkerDied(error) if host == Host::Processes => {
                assert!(matches!(error.cause, RemoteCause::KilledByShutdown { .. }), "{error}");
            }
            other => panic!("{other:?}"),
        }
    });
}
