//! Futures and asynchronous streams: under any executor, with nothing lost when they are dropped, and no wake too late.

use futures_util::future::join_all;
use futures_util::{Stream, StreamExt, stream};
use ringmill::call::Pending;
use ringmill::{CallError, CallOptions, PassThrough, Reply, Server, StreamOptions, ThreadServlet, WhenFull};
use ringmill_tests::alone::has_run_alone;
use ringmill_tests::gate::Gate;
use ringmill_tests::host::{Crew, Host, on_both};
use ringmill_tests::probe::{Ask, Probe, Seen, ask, stopper};
use ringmill_tests::{GUARD, fresh_name, wait_until};
use std::cell::RefCell;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

ringmill::init!(Probe, PassThrough<u64>, PassThrough<String>);

fn start(host: Host, capacity: usize, gate: &Gate) -> Server<Ask, Seen> {
    let builder = Server::builder(fresh_name("async")).capacity(capacity);
    host.start::<Probe>(builder, gate.name(), Crew::of(1))
}

/// Waits for a permit.
fn patient() -> CallOptions {
    CallOptions::new().when_full(WhenFull::Wait).timeout(GUARD)
}

/// Runs a future under executors of one thread, and three of them side by side under one of several.
fn under_each_executor<F: Future<Output = ()> + Send + 'static>(future: impl Fn() -> F) {
    pollster::block_on(future());
    tokio::runtime::Builder::new_current_thread().build().expect("a runtime").block_on(future());
    let multi = tokio::runtime::Builder::new_multi_thread().worker_threads(3).build().expect("a runtime");
    multi.block_on(async {
        let tasks: Vec<_> = (0..3).map(|_| tokio::spawn(future())).collect();
        for task in tasks {
            task.await.expect("no panic");
        }
    });
}

/// Counts how often it was woken.
#[derive(Default)]
struct Woken(AtomicUsize);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

/// An executor that polls only when it is told to.
#[derive(Default)]
struct ByHand(Arc<Woken>);

impl ByHand {
    fn poll<F: Future + Unpin>(&self, future: &mut F) -> Poll<F::Output> {
        let waker = Waker::from(Arc::clone(&self.0));
        Pin::new(future).poll(&mut Context::from_waker(&waker))
    }

    #[track_caller]
    fn assert_pending<F: Future + Unpin>(&self, future: &mut F) {
        assert!(self.poll(future).is_pending());
    }

    #[track_caller]
    fn wait_until_woken(&self) {
        wait_until("it is woken", || self.0.0.load(Ordering::SeqCst) > 0);
    }

    fn is_woken(&self) -> bool {
        self.0.0.load(Ordering::SeqCst) > 0
    }
}

#[track_caller]
fn wait_until_idle(server: &Server<Ask, Seen>) {
    wait_until("nothing in progress", || server.backlog() == 0);
}

#[track_caller]
fn is_late<T>(outcome: Result<T, CallError>) {
    match outcome {
        Err(CallError::Timeout { .. }) => {}
        Err(error) => panic!("{error}"),
        Ok(_) => panic!("an outcome"),
    }
}

#[test]
fn futures_and_replies_go_from_thread_to_thread() {
    fn can<T: Send>(_: &T) {}
    fn can_be_shared<T: Sync>() {}
    let server = start(Host::Threads, 4, &Gate::new());
    let input = ask(1);
    can(&server.call_async(&input));
    can(&server.submit(&input).expect("a permit"));
    can(&server.stream_async(stream::iter([ask(1)])));
    can_be_shared::<Pending<'_, Seen>>();
    can_be_shared::<Reply<'_, Seen>>();
    let reply = server.call(&input).expect("an answer");
    std::thread::scope(|scope| {
        scope.spawn(move || assert_eq!(reply.value, 1));
    });
    assert_eq!(server.backlog(), 0);
}

const MANY: u64 = 3000;

/// Each future gets its own answer, although there are far fewer permits.
async fn call_many(server: &Server<u64, u64>) {
    let call = |value: u64| async move {
        let outcome = server.call_async_with(&value, patient()).await;
        assert_eq!(*outcome.expect("an answer"), value);
    };
    join_all((0..MANY).map(call)).await;
    assert_eq!(server.backlog(), 0);
}

#[test]
fn thousands_of_futures_under_every_executor() {
    on_both(|host| {
        let builder = Server::builder(fresh_name("many")).capacity(64);
        let crew = Crew::of(2).greedy(16);
        let server = Arc::new(host.start::<PassThrough<u64>>(builder, (), crew));
        pollster::block_on(call_many(&server));
        let current = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        current.block_on(call_many(&server));
        let multi = tokio::runtime::Builder::new_multi_thread().worker_threads(3).build().expect("a runtime");
        multi.block_on(async {
            let spawn = |value: u64| {
                let server = Arc::clone(&server);
                tokio::spawn(async move {
                    let reply = server.call_async_with(&value, patient()).await.expect("an answer");
                    tokio::task::yield_now().await; // the reply may go to another thread
                    assert_eq!(*reply, value);
                })
            };
            for task in (0..MANY).map(spawn).collect::<Vec<_>>() {
                task.await.expect("no panic");
            }
        });
        assert_eq!(server.backlog(), 0);
    });
}

#[test]
fn a_future_done_at_its_first_poll_needs_no_wake() {
    // Other tests of a process may have reactors.
    if has_run_alone("asynchronous::a_future_done_at_its_first_poll_needs_no_wake") {
        return;
    }
    let server = start(Host::Threads, 4, &Gate::new());
    let hand = ByHand::default();
    let mut pending = server.submit(&ask(1)).expect("a permit");
    wait_until("an outcome", || pending.is_ready());
    assert!(matches!(hand.poll(&mut pending), Poll::Ready(Ok(_))));
    let threads = || {
        let tasks = std::fs::read_dir("/proc/self/task").expect("Linux has /proc").flatten();
        tasks.filter_map(|task| std::fs::read_to_string(task.path().join("comm")).ok()).collect::<Vec<_>>()
    };
    assert!(!threads().iter().any(|name| name.starts_with("ringmill-reactor")));
    assert!(!hand.is_woken());
}

#[test]
fn a_future_can_be_dropped_at_every_point() {
    on_both(|host| {
        let gate = Gate::new();
        let server = start(host, 3, &gate);
        let (hand, stop, one) = (ByHand::default(), stopper(), ask(1));
        drop(server.call_async(&one)); // never polled
        assert_eq!(server.backlog(), 0);

        let mut at_work = server.call_async(&stop);
        hand.assert_pending(&mut at_work);
        let arrival = gate.arrival();
        let mut queued = server.call_async(&one);
        hand.assert_pending(&mut queued);
        let mut stays = server.call_async(&one);
        hand.assert_pending(&mut stays);
        let mut in_line = server.call_async_with(&one, patient());
        hand.assert_pending(&mut in_line);
        hand.assert_pending(&mut in_line);
        drop(in_line);
        drop(queued);
        drop(at_work);
        arrival.release();
        hand.wait_until_woken();
        wait_until("only one is left", || server.backlog() == 1);
        drop(stays); // done, not fetched
        assert_eq!(server.backlog(), 0);
        assert_eq!(server.call(&one).expect("an answer").batch, 3, "what was queued was not worked on");

        let reply = pollster::block_on(server.call_async(&one)).expect("an answer");
        assert_eq!(server.backlog(), 1);
        drop(reply);
        assert_eq!(server.backlog(), 0);
    });
}

#[test]
fn the_permit_is_given_back_if_the_executor_never_polls_again() {
    on_both(|host| {
        let gate = Gate::new();
        let server = start(host, 4, &gate);
        let hands: [ByHand; 3] = Default::default();
        let (stop, one) = (stopper(), ask(1));
        let options = CallOptions::new().timeout(Duration::from_millis(20));
        // Long enough for the worker to begin.
        let unhurried = CallOptions::new().timeout(Duration::from_secs(1));
        let mut at_work = server.call_async_with(&stop, unhurried);
        hands[0].assert_pending(&mut at_work);
        let arrival = gate.arrival();
        let mut queued = server.call_async_with(&one, options);
        hands[1].assert_pending(&mut queued);
        hands[0].wait_until_woken();
        // A future whose outcome comes, and is not fetched.
        let mut unfetched = server.call_async_with(&one, unhurried);
        hands[2].assert_pending(&mut unfetched);
        hands[1].wait_until_woken();
        arrival.release();
        wait_until_idle(&server);
        for future in [&mut at_work, &mut queued, &mut unfetched] {
            let Poll::Ready(outcome) = hands[0].poll(future) else { panic!("it was woken") };
            is_late(outcome);
        }
        let batch = server.call(&one).expect("an answer").batch.to_native();
        assert!((2..=3).contains(&batch), "queued requests were skipped; the last one may have been in time");
    });
}

#[test]
fn timeouts_wake() {
    on_both(|host| {
        let gate = Gate::new();
        let server = start(host, 8, &gate);
        let limits = [30, 10, 20].map(Duration::from_millis);
        let (stop, one) = (stopper(), ask(1));
        let mut held = server.call_async_with(&stop, patient());
        ByHand::default().assert_pending(&mut held);
        let arrival = gate.arrival();
        let begun = Instant::now();
        pollster::block_on(join_all(limits.map(|limit| {
            let future = server.call_async_with(&one, CallOptions::new().timeout(limit));
            async move {
                let Err(CallError::Timeout { enqueueing, total }) = future.await else { panic!("held") };
                assert!(enqueueing.is_zero() && total >= limit && begun.elapsed() >= limit);
            }
        })));
        // A deadline also wakes.
        let deadline = Instant::now() + Duration::from_millis(10);
        is_late(pollster::block_on(server.call_async_with(&one, patient().deadline(deadline))));
        assert!(Instant::now() >= deadline);
        arrival.release();
        assert!(pollster::block_on(held).is_ok());
        wait_until_idle(&server);
    });
}

#[test]
fn a_pending_can_change_how_it_is_waited_for() {
    on_both(|host| {
        let gate = Gate::new();
        let server = start(host, 8, &gate);
        let hand = ByHand::default();
        let mut held = server.submit_with(&stopper(), patient()).expect("a permit");
        let mut other = server.submit_with(&ask(1), patient()).expect("a permit");
        hand.assert_pending(&mut held);
        hand.assert_pending(&mut other);
        assert!(!held.is_ready() && held.try_take().is_none());
        assert!(held.wait_timeout(Duration::from_millis(1)).is_none());
        hand.assert_pending(&mut held);
        gate.arrival().release();
        assert!(held.wait().is_ok());
        wait_until("an outcome", || other.is_ready());
        assert_eq!(other.try_take().expect("ready").expect("an answer").value, 1);

        let held = server.submit_with(&stopper(), patient()).expect("a permit");
        let arrival = gate.arrival();
        let mut late = server.submit_with(&ask(2), CallOptions::new().timeout(Duration::from_millis(10)));
        let late = late.as_mut().expect("a permit");
        let hand = ByHand::default();
        hand.assert_pending(late);
        hand.wait_until_woken();
        assert!(late.is_ready());
        is_late(late.wait_timeout(GUARD).expect("over"));
        arrival.release();
        assert!(held.wait().is_ok());
        wait_until_idle(&server);
    });
}

#[test]
fn with_back_pressure_a_full_server_refuses_at_once() {
    on_both(|host| {
        let server = start(host, 1, &Gate::new());
        let _permit = server.call(&ask(0)).expect("a permit");
        let one = ask(1);
        let outcome = ByHand::default().poll(&mut server.call_async(&one));
        let Poll::Ready(Err(CallError::ServerBacklogFull { capacity: 1, waited })) = outcome else {
            panic!()
        };
        assert!(waited.is_zero());
    });
}

#[test]
fn without_back_pressure_futures_get_permits_in_the_order_they_came() {
    on_both(|host| {
        let server = start(host, 1, &Gate::new());
        let permit = server.call(&ask(0)).expect("a permit");
        let hands: [ByHand; 3] = Default::default();
        let inputs = [ask(1), ask(2), ask(3)];
        let mut futures = inputs.each_ref().map(|input| server.call_async_with(input, patient()));
        hands.iter().zip(&mut futures).for_each(|(hand, future)| hand.assert_pending(future));
        drop(permit);
        hands[0].wait_until_woken();
        assert!(!hands[1].is_woken() && !hands[2].is_woken());
        // The first future goes without taking the permit: the next one is woken.
        let [first, second, third] = futures;
        drop(first);
        hands[1].wait_until_woken();
        assert!(!hands[2].is_woken());
        assert_eq!(pollster::block_on(second).expect("an answer").value, 2);
        assert_eq!(pollster::block_on(third).expect("an answer").value, 3);
        assert_eq!(server.backlog(), 0);
    });
}

/// Symptom: the error gave a wait shorter than its limit. Cause: the wait counted only from the start of the reactor's thread,
/// which the first such future starts. Fix: both count from the same moment.
#[test]
fn a_future_that_gets_no_permit_says_how_long_it_waited() {
    on_both(|host| {
        let server = start(host, 1, &Gate::new());
        let permit = server.call(&ask(0)).expect("a permit");
        let (limit, one) = (Duration::from_millis(10), ask(1));
        let Err(error) = pollster::block_on(server.call_async_with(&one, patient().timeout(limit))) else {
            panic!("there is no permit")
        };
        let CallError::ServerBacklogFull { capacity: 1, waited } = error else { panic!("{error}") };
        assert!(waited >= limit);
        drop(permit);
        assert_eq!(pollster::block_on(server.call_async(&one)).expect("an answer").value, 1);
    });
}

#[test]
fn a_permit_that_a_worker_frees_wakes_a_waiting_future() {
    on_both(|host| {
        let gate = Gate::new();
        let server = start(host, 2, &gate);
        let held = server.submit_with(&stopper(), patient()).expect("a permit");
        let arrival = gate.arrival();
        let abandoned = server.submit_with(&ask(1), patient()).expect("a permit");
        let (hand, two) = (ByHand::default(), ask(2));
        let mut in_line = server.call_async_with(&two, patient());
        hand.assert_pending(&mut in_line);
        drop(abandoned); // its permit stays taken until the worker meets it
        arrival.release();
        let reply = held.wait().expect("an answer"); // and this one's stays taken
        assert_eq!(pollster::block_on(in_line).expect("an answer").value, 2);
        drop(reply);
        assert_eq!(server.backlog(), 0);
    });
}

#[test]
fn shutdown_refuses_waiting_futures_and_answers_those_in_progress() {
    on_both(|host| {
        let gate = Gate::new();
        let server = &start(host, 1, &gate);
        let (hand, stop, one) = (ByHand::default(), stopper(), ask(1));
        let mut held = server.call_async_with(&stop, patient());
        hand.assert_pending(&mut held);
        let arrival = gate.arrival();
        let mut in_line = server.call_async_with(&one, patient());
        hand.assert_pending(&mut in_line);
        std::thread::scope(|scope| {
            scope.spawn(|| server.shutdown());
            assert!(matches!(pollster::block_on(in_line), Err(CallError::ShuttingDown)));
            arrival.release();
            assert!(pollster::block_on(held).is_ok());
        });
        assert!(matches!(pollster::block_on(server.call_async(&one)), Err(CallError::ShuttingDown)));
    });
}

#[test]
fn a_worker_that_is_killed_ends_its_futures() {
    let gate = Gate::new();
    let server = start(Host::Processes, 4, &gate);
    let (hand, stop, one) = (ByHand::default(), stopper(), ask(1));
    let mut held = server.call_async(&stop);
    hand.assert_pending(&mut held);
    let _arrival = gate.arrival();
    let queued = server.call_async(&one);
    kill(server.stats().servlets[0].workers[0].pid);
    assert!(matches!(pollster::block_on(held), Err(CallError::WorkerDied(_))));
    assert_eq!(pollster::block_on(queued).expect("the next incarnation's answer").value, 1);
    assert_eq!(server.backlog(), 0);
}

#[test]
fn a_servlet_that_is_down_fails_waiting_futures() {
    let server = start(Host::Processes, 1, &Gate::new());
    let _only_permit = server.call(&ask(0)).expect("a permit");
    let (hand, one) = (ByHand::default(), ask(1));
    let mut in_line = server.call_async_with(&one, patient());
    hand.assert_pending(&mut in_line);
    let killed = RefCell::new(Vec::new());
    wait_until("it is woken", || {
        let worker = server.stats().servlets[0].workers[0].clone();
        if worker.ready && !killed.borrow().contains(&worker.pid) {
            kill(worker.pid);
            killed.borrow_mut().push(worker.pid);
        }
        hand.is_woken()
    });
    // No permit has come free, and a free one would not help.
    assert!(matches!(hand.poll(&mut in_line), Poll::Ready(Err(CallError::ServletDown { .. }))));
}

fn kill(pid: u32) {
    let killed = std::process::Command::new("kill").args(["-9", &pid.to_string()]).status();
    assert!(killed.is_ok_and(|status| status.success()));
}

/// Numbers, each of which comes only at the second look.
fn reluctant(count: u64) -> impl Stream<Item = u64> {
    let mut looks = 0;
    stream::poll_fn(move |context| {
        looks += 1;
        if looks % 2 == 1 {
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        let value = looks / 2 - 1;
        Poll::Ready((value < count).then_some(value))
    })
}

#[test]
fn asynchronous_streams_are_in_order_under_every_executor() {
    on_both(|host| {
        let builder = Server::builder(fresh_name("streams")).capacity(64);
        let server = Arc::new(host.start::<PassThrough<u64>>(builder, (), Crew::of(2)));
        let in_order = |server: Arc<Server<u64, u64>>| async move {
            for window in [1, 5, 1000] {
                let options = StreamOptions::new().window(window);
                let ready: Vec<_> = server.stream_async_with(stream::iter(0..2000), options).collect().await;
                assert!(ready.iter().map(|x| x.as_ref().ok().copied()).eq((0..2000).map(Some)));
                let slow: Vec<_> = server.stream_async_with(reluctant(500), options).collect().await;
                assert!(slow.iter().map(|x| x.as_ref().ok().copied()).eq((0..500).map(Some)));
            }
            // Neither stream is polled while it waits for the other, so neither may take every permit.
            let few = StreamOptions::new().window(4);
            let ready = server.stream_async_with(stream::iter(0..1000), few);
            let both: Vec<_> = ready.zip(server.stream_async_with(reluctant(1000), few)).collect().await;
            assert!(both.iter().all(|(a, b)| a.as_ref().ok() == b.as_ref().ok() && a.is_ok()));
            assert!(server.stream_async(stream::iter([])).next().await.is_none());
        };
        under_each_executor(|| in_order(Arc::clone(&server)));
        assert_eq!(server.backlog(), 0);
    });
}

#[test]
fn asynchronous_streams_keep_errors_in_place() {
    on_both(|host| {
        let builder = Server::builder(fresh_name("errors")).capacity(8).max_payload(1024);
        let server = host.start::<PassThrough<String>>(builder, (), Crew::of(1));
        let input = |i: usize| if i % 7 == 3 { "x".repeat(5000) } else { i.to_string() };
        let outcomes: Vec<_> =
            pollster::block_on(server.stream_async(stream::iter((0..300).map(input))).collect());
        assert_eq!(outcomes.len(), 300);
        for (index, outcome) in outcomes.into_iter().enumerate() {
            match outcome {
                Ok(text) => assert_eq!(text, index.to_string()),
                Err(CallError::PayloadTooLarge { .. }) => assert_eq!(index % 7, 3),
                Err(error) => panic!("{error}"),
            }
        }
        assert_eq!(server.backlog(), 0);
    });
}

#[test]
fn an_asynchronous_stream_that_is_dropped_cancels() {
    on_both(|host| {
        let gate = Gate::new();
        let server = start(host, 8, &gate);
        let inputs = stream::iter(0..).map(|i| if i == 0 { stopper() } else { ask(i) });
        let mut outcomes = server.stream_async(inputs);
        let hand = ByHand::default();
        hand.assert_pending(&mut outcomes.next());
        let arrival = gate.arrival();
        assert_eq!(server.backlog(), 8);
        drop(outcomes);
        arrival.release();
        wait_until_idle(&server);
        assert_eq!(server.call(&ask(1)).expect("an answer").batch, 2, "only the first was worked on");
        drop(server.stream_async(stream::iter([ask(1)])));
        assert_eq!(server.backlog(), 0);
    });
}

#[test]
fn an_asynchronous_stream_waits_for_the_permits_of_others() {
    on_both(|host| {
        let server = start(host, 2, &Gate::new());
        let others: Vec<_> = (0..2).map(|value| server.call(&ask(value)).expect("a permit")).collect();
        let mut outcomes = server.stream_async(stream::iter((0..50).map(ask)));
        let hand = ByHand::default();
        hand.assert_pending(&mut outcomes.next());
        drop(others);
        hand.wait_until_woken();
        let values: Vec<_> = pollster::block_on(outcomes.map(|x| x.ok().map(|seen| seen.value)).collect());
        assert!(values.into_iter().eq((0..50).map(Some)), "no input is lost");
        assert_eq!(server.backlog(), 0);
    });
}

#[test]
fn an_asynchronous_stream_times_out_and_is_refused_by_a_server_that_shuts_down() {
    on_both(|host| {
        let gate = Gate::new();
        let server = start(host, 4, &gate);
        let options = StreamOptions::new().timeout(Duration::from_millis(10));
        let held = RefCell::new(None);
        // The second input waits until the first is at work.
        let inputs = (0..2).map(|i| match i {
            0 => stopper(),
            _ => {
                *held.borrow_mut() = Some(gate.arrival());
                ask(1)
            }
        });
        let mut outcomes = pin!(server.stream_async_with(stream::iter(inputs), options));
        is_late(pollster::block_on(outcomes.next()).expect("an outcome"));
        is_late(pollster::block_on(outcomes.next()).expect("an outcome"));
        assert!(pollster::block_on(outcomes.next()).is_none());
        held.take();
        wait_until_idle(&server);
        let mut endless = server.stream_async(stream::iter(0..).map(ask));
        assert!(matches!(pollster::block_on(endless.next()), Some(Ok(_))));
        server.shutdown();
        // Each further input is refused: an end would look like the source's.
        let rest: Vec<_> = pollster::block_on(endless.by_ref().take(200).collect());
        let refused = |outcome: &Result<_, CallError>| matches!(outcome, Err(CallError::ShuttingDown));
        assert!(rest.len() == 200 && rest[4..].iter().all(refused));
    });
}

#[test]
fn asynchronous_streams_return_inputs_and_outcomes_as_they_come() {
    on_both(|host| {
        let builder = Server::builder(fresh_name("inputs")).capacity(32);
        let server = Arc::new(host.start::<PassThrough<u64>>(builder, (), Crew::of(3)));
        let all = |server: Arc<Server<u64, u64>>| async move {
            for window in [1, 5, 1000] {
                let stream = || server.stream_async_with(reluctant(500), StreamOptions::new().window(window));
                let mut inputs = 0..500;
                let mut in_order = stream().with_inputs();
                while let Some(item) = in_order.next().await {
                    let (input, outcome) = item.expect("a stream");
                    assert_eq!((Some(input), outcome.expect("an answer")), (inputs.next(), input));
                }
                assert_eq!(inputs.next(), None);
                let by_index: Vec<_> = stream().unordered().collect().await;
                is_a_permutation(by_index.into_iter().map(|item| {
                    let (index, outcome) = item.expect("a stream");
                    assert_eq!(outcome.expect("an answer"), index as u64);
                    index as u64
                }));
                let by_input: Vec<_> = stream().with_inputs().unordered().collect().await;
                is_a_permutation(by_input.into_iter().map(|item| {
                    let (input, outcome) = item.expect("a stream");
                    assert_eq!(outcome.expect("an answer"), input);
                    input
                }));
            }
        };
        under_each_executor(|| all(Arc::clone(&server)));
        assert_eq!(server.backlog(), 0);
    });
}

/// The numbers below 500, in any order.
#[track_caller]
fn is_a_permutation(numbers: impl Iterator<Item = u64>) {
    let mut numbers: Vec<u64> = numbers.collect();
    numbers.sort_unstable();
    assert!(numbers.into_iter().eq(0..500));
}

#[test]
fn an_unordered_asynchronous_stream_does_not_wait_for_the_oldest() {
    on_both(|host| {
        let gate = Gate::new();
        let builder = Server::builder(fresh_name("oldest")).capacity(8);
        let server = host.start::<Probe>(builder, gate.name(), Crew::of(2));
        let (hand, held) = (ByHand::default(), RefCell::new(None));
        // The other inputs come when the first is at work.
        let inputs = (0..100).map(|i| match i {
            0 => stopper(),
            _ => {
                held.borrow_mut().get_or_insert_with(|| gate.arrival());
                ask(i)
            }
        });
        let mut outcomes = server.stream_async(stream::iter(inputs)).unordered();
        let mut seen = Vec::new();
        while seen.len() < 99 {
            let (index, outcome) = pollster::block_on(outcomes.next()).expect("an item").expect("a stream");
            assert_eq!(outcome.expect("an answer").value, index as u64);
            seen.push(index);
        }
        assert!(!seen.contains(&0));
        hand.assert_pending(&mut outcomes.next());
        drop(held.take());
        hand.wait_until_woken();
        let Poll::Ready(Some(Ok((0, Ok(_))))) = hand.poll(&mut outcomes.next()) else { panic!("the first") };
        assert!(pollster::block_on(outcomes.next()).is_none());
        assert_eq!(server.backlog(), 0);
    });
}

#[test]
fn an_unordered_asynchronous_stream_ends_its_oldest_input_when_none_comes() {
    on_both(|host| {
        let gate = Gate::new();
        let server = start(host, 4, &gate);
        let limit = Duration::from_millis(20);
        let inputs = stream::iter([stopper(), ask(1), ask(2)]);
        let mut outcomes =
            server.stream_async_with(inputs, StreamOptions::new().timeout(limit)).with_inputs().unordered();
        let begun = Instant::now();
        let (input, outcome) = pollster::block_on(outcomes.next()).expect("an item").expect("a stream");
        is_late(outcome);
        assert!(input.stop && begun.elapsed() >= limit);
        let begun = Instant::now();
        let (input, outcome) = pollster::block_on(outcomes.next()).expect("an item").expect("a stream");
        is_late(outcome);
        assert!(input == ask(1) && begun.elapsed() >= limit, "each wait has the whole time");
        gate.arrival().release();
        // The last input is late or done, as its worker is slow or quick; the stream ends in any case.
        let (input, _) = pollster::block_on(outcomes.next()).expect("an item").expect("a stream");
        assert_eq!(input, ask(2));
        assert!(pollster::block_on(outcomes.next()).is_none());
        drop(outcomes);
        wait_until_idle(&server);
    });
}

#[test]
fn asynchronous_streams_return_the_inputs_that_were_refused() {
    on_both(|host| {
        let builder = Server::builder(fresh_name("refused")).capacity(8).max_payload(1024);
        let server = host.start::<PassThrough<String>>(builder, (), Crew::of(1));
        let input = |i: usize| if i % 7 == 3 { "x".repeat(5000) } else { i.to_string() };
        let inputs = || stream::iter((0..100).map(input));
        let is_right = |input: &str, outcome: Result<String, CallError>| match outcome {
            Ok(text) => assert_eq!(text, input),
            Err(CallError::PayloadTooLarge { .. }) => assert_eq!(input.len(), 5000),
            Err(error) => panic!("{error}"),
        };
        let in_order: Vec<_> = pollster::block_on(server.stream_async(inputs()).with_inputs().collect());
        assert_eq!(in_order.len(), 100);
        for (index, item) in in_order.into_iter().enumerate() {
            let (text, outcome) = item.expect("a stream");
            assert_eq!(text, input(index));
            is_right(&text, outcome);
        }
        let by_index: Vec<_> = pollster::block_on(server.stream_async(inputs()).unordered().collect());
        let mut indices: Vec<usize> = by_index
            .into_iter()
            .map(|item| {
                let (index, outcome) = item.expect("a stream");
                is_right(&input(index), outcome);
                index
            })
            .collect();
        indices.sort_unstable();
        assert!(indices.into_iter().eq(0..100));

        let mut in_order = server.stream_async(inputs()).with_inputs();
        let mut any_order = server.stream_async(inputs()).with_inputs().unordered();
        server.shutdown();
        for index in 0..100 {
            let (text, outcome) = pollster::block_on(in_order.next()).expect("an item").expect("a stream");
            assert!(text == input(index) && matches!(outcome, Err(CallError::ShuttingDown)));
            let (text, outcome) = pollster::block_on(any_order.next()).expect("an item").expect("a stream");
            assert!(text == input(index) && matches!(outcome, Err(CallError::ShuttingDown)));
        }
        assert!(pollster::block_on(in_order.next()).is_none());
        assert!(pollster::block_on(any_order.next()).is_none());
    });
}

#[test]
fn an_unordered_asynchronous_stream_that_is_dropped_cancels() {
    on_both(|host| {
        let gate = Gate::new();
        let server = start(host, 8, &gate);
        let inputs = stream::iter(0..).map(|i| if i == 0 { stopper() } else { ask(i) });
        let mut outcomes = server.stream_async(inputs).unordered();
        let hand = ByHand::default();
        hand.assert_pending(&mut outcomes.next());
        let arrival = gate.arrival();
        assert_eq!(server.backlog(), 8);
        drop(outcomes);
        arrival.release();
        wait_until_idle(&server);
        assert_eq!(server.call(&ask(1)).expect("an answer").batch, 2, "only the first was worked on");
        assert_eq!(Arc::strong_count(&hand.0), 1, "its wakers are gone with it");
    });
}

#[test]
fn an_unordered_asynchronous_stream_waits_for_the_permits_of_others() {
    on_both(|host| {
        let server = start(host, 2, &Gate::new());
        let others: Vec<_> = (0..2).map(|value| server.call(&ask(value)).expect("a place")).collect();
        let mut outcomes = server.stream_async(stream::iter((0..50).map(ask))).with_inputs().unordered();
        let hand = ByHand::default();
        hand.assert_pending(&mut outcomes.next());
        drop(others);
        hand.wait_until_woken();
        let mut values: Vec<_> = pollster::block_on(
            outcomes.map(|item| item.expect("a stream").1.expect("an answer").value).collect(),
        );
        values.sort_unstable();
        assert!(values.into_iter().eq(0..50), "no input is lost");
        assert_eq!(server.backlog(), 0);
    });
}

#[test]
fn a_task_may_drop_its_server() {
    // The last that holds the server may be a task that the reactor's thread wakes, and so ends.
    let server = Server::builder(fresh_name("last")).start(ThreadServlet::<PassThrough<u64>>::new(()));
    let server = Arc::new(server.expect("it starts"));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().expect("a runtime");
    let task = runtime.spawn(async move { server.call_async(&5).await.map(|reply| *reply == 5) });
    assert!(runtime.block_on(task).expect("no panic").expect("an answer"));
}
