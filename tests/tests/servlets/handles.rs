//! Handles: a server's calls from where the server cannot be borrowed, and what becomes of them when it is gone.

use futures_util::{Stream, StreamExt, stream};
use ringmill::call::{CallFuture, Pending};
use ringmill::stream::{
    AsyncStream, AsyncUnordered, AsyncWithInputs, ByInput, Inputs, Unordered, WithInputs,
};
use ringmill::{
    CallError, CallOptions, Handle, PassThrough, Reply, Server, StreamOptions, ThreadServlet, WhenFull,
};
use ringmill_tests::alone::has_run_alone;
use ringmill_tests::gate::Gate;
use ringmill_tests::host::{Crew, Host, on_both};
use ringmill_tests::probe::{Ask, Probe, Seen, ask, stopper};
use ringmill_tests::traces::assert_gone;
use ringmill_tests::{GUARD, fresh_name, wait_until};
use std::collections::BTreeSet;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Instant;

ringmill::init!(Probe, PassThrough<u64>, PassThrough<Vec<u32>>);

fn start(host: Host, name: &str, capacity: usize, gate: &Gate) -> Server<Ask, Seen> {
    host.start::<Probe>(Server::builder(name).capacity(capacity), gate.name(), Crew::of(1))
}

fn patient() -> CallOptions {
    CallOptions::new().when_full(WhenFull::Wait).timeout(GUARD)
}

#[test]
fn what_a_handle_gives_can_be_kept_shared_and_spawned() {
    fn is_shared<T: Send + Sync + 'static>() {}
    fn is_spawned<T: Send + Unpin + 'static>() {}
    type Source = stream::Iter<std::vec::IntoIter<u64>>;
    is_shared::<Handle<u64, String>>();
    is_shared::<Reply<'static, String>>();
    is_shared::<Pending<'static, String>>();
    is_spawned::<Pending<'static, String>>();
    is_spawned::<CallFuture<'static, u64, String, u64>>();
    is_spawned::<AsyncStream<'static, Source, String>>();
    is_spawned::<AsyncWithInputs<'static, Source, String>>();
    is_spawned::<AsyncUnordered<'static, Source, String>>();
    is_spawned::<AsyncUnordered<'static, Source, String, ByInput>>();
    is_spawned::<ringmill::stream::Stream<'static, Inputs<std::ops::Range<u64>>, String>>();
    is_spawned::<WithInputs<'static, Inputs<std::ops::Range<u64>>, String>>();
    is_spawned::<Unordered<'static, Inputs<std::ops::Range<u64>>, String>>();
}

#[test]
fn a_handle_has_every_call_of_its_server() {
    on_both(|host| {
        let builder = Server::builder(fresh_name("every")).capacity(16);
        let server = host.start::<PassThrough<Vec<u32>>>(builder, (), Crew::of(1));
        let handle = server.handle().clone();
        assert_eq!((handle.name(), handle.capacity(), handle.backlog()), (server.name(), 16, 0));
        let (one, two) = (vec![1, 2, 3], vec![4_u32; 1000]);
        let deadline = || patient().deadline(Instant::now() + GUARD);

        assert_eq!(*handle.call(&one).expect("an answer"), one);
        assert_eq!(*handle.call_with(&two, deadline()).expect("an answer"), two);
        assert_eq!(*handle.call_ref(&two[..7]).expect("an answer"), two[..7]);
        assert_eq!(*handle.call_ref_with(&[5], patient()).expect("an answer"), [5]);
        assert_eq!(*handle.submit(&one).expect("a permit").wait().expect("an answer"), one);
        assert_eq!(*handle.submit_with(&two, patient()).expect("a permit").wait().expect("an answer"), two);
        assert_eq!(*handle.submit_ref(&[6]).expect("a permit").wait().expect("an answer"), [6]);
        let pending = handle.submit_ref_with(&two[..3], deadline()).expect("a permit");
        assert_eq!(*pollster::block_on(pending).expect("an answer"), two[..3]);
        assert_eq!(*pollster::block_on(handle.call_async(&one)).expect("an answer"), one);
        assert_eq!(*pollster::block_on(handle.call_async(one.clone())).expect("an answer"), one);
        assert_eq!(
            *pollster::block_on(handle.call_async_with(&two[1..2], patient())).expect("an answer"),
            [4]
        );

        let mut loan = handle.loan_with(4, patient()).expect("a buffer");
        loan.as_mut_slice().copy_from_slice(&[1, 2, 3, 4]);
        assert_eq!(*server.call_loan(loan).expect("a loan of this server"), [1, 2, 3, 4]);
        let mut loan = server.loan(2).expect("a buffer");
        loan.as_mut_slice().fill(9);
        assert_eq!(*handle.call_loan_with(loan, deadline()).expect("a loan of its server"), [9, 9]);
        let other =
            host.start::<PassThrough<Vec<u32>>>(Server::builder(fresh_name("other")), (), Crew::of(1));
        let foreign = other.loan(1).expect("a buffer");
        assert!(matches!(handle.call_loan(foreign), Err(CallError::ForeignLoan)));

        let inputs = || (0..50_u32).map(|n| vec![n; 3]);
        let values = handle.stream(inputs()).collect::<Result<Vec<_>, _>>().expect("answers");
        assert!(values.into_iter().eq(inputs()));
        let few = StreamOptions::new().window(3);
        let same =
            |(input, outcome): (Vec<u32>, Result<Vec<u32>, CallError>)| outcome.expect("an answer") == input;
        assert!(
            handle.stream_with(inputs(), few).with_inputs().map(|item| item.expect("a stream")).all(same)
        );
        assert!(
            handle.stream(inputs()).with_inputs().unordered().map(|item| item.expect("a stream")).all(same)
        );
        let prepared = handle.stream_prepared_with(0..9_u32, |n| Ok::<_, CallError>(vec![*n]), few);
        assert!(prepared.map(|outcome| outcome.expect("an answer")).eq((0..9).map(|n| vec![n])));
        let mut replies = handle.stream(inputs());
        let first = replies.next_reply().expect("an outcome").expect("an answer");
        drop(replies);
        assert_eq!(*first, [0, 0, 0], "a reply of a stream outlives it");
        drop(first);
        // The worker frees what it had begun of the stream that was dropped.
        wait_until("all permits are free", || handle.backlog() == 0);
        assert_eq!(handle.stats().servlets[0].batches().items, server.stats().servlets[0].batches().items);
    });
}

/// What a service has in its state: nothing of it borrows.
struct Job {
    pending: Pending<'static, Seen>,
    future: CallFuture<'static, Ask, Seen, Ask>,
    outcomes: Pin<Box<dyn Stream<Item = Result<Seen, CallError>> + Send>>,
}

impl Job {
    fn new(handle: &Handle<Ask, Seen>, value: u64) -> Self {
        Self {
            pending: handle.submit_with(&ask(value), patient()).expect("a permit in time"),
            future: handle.call_async_with(ask(value + 1), patient()),
            outcomes: Box::pin(handle.stream_async(stream::iter([ask(value + 2), ask(value + 3)]))),
        }
    }

    async fn values(mut self) -> Vec<u64> {
        let mut values = vec![
            self.pending.await.expect("an answer").value.to_native(),
            self.future.await.expect("an answer").value.to_native(),
        ];
        while let Some(outcome) = self.outcomes.next().await {
            values.push(outcome.expect("an answer").value);
        }
        values
    }
}

#[test]
fn tasks_of_tokio_own_what_they_wait_for() {
    on_both(|host| {
        let server = start(host, &fresh_name("spawned"), 8, &Gate::new());
        let multi = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().expect("a runtime");
        multi.block_on(async {
            let handle = server.handle();
            // The future itself is the task, and its reply comes back from it. Replies hold permits, so they are taken in
            // whatever order they come.
            let call = |value| tokio::spawn(handle.call_async_with(ask(value), patient()));
            let mut tasks: stream::FuturesUnordered<_> = (0..100).map(call).collect();
            let mut values = BTreeSet::new();
            while let Some(task) = tasks.next().await {
                values.insert(task.expect("no panic").expect("an answer").value.to_native());
            }
            assert!(values.into_iter().eq(0..100));
            let pending = handle.submit(&ask(1)).expect("a permit");
            assert_eq!(tokio::spawn(pending).await.expect("no panic").expect("an answer").value, 1);
            let sums = tokio::spawn(handle.stream_async(stream::iter((0..100).map(ask))).collect::<Vec<_>>());
            assert!(
                sums.await.expect("no panic").into_iter().map(|x| x.expect("an answer").value).eq(0..100)
            );
            for value in (0..40).step_by(4) {
                // A submission waits for its permit, so it is not made in a task that others need.
                let handle = handle.clone();
                let job =
                    tokio::task::spawn_blocking(move || Job::new(&handle, value)).await.expect("no panic");
                let values = tokio::spawn(job.values()).await.expect("no panic");
                assert!(values.into_iter().eq(value..value + 4));
            }
        });
        assert_eq!(server.backlog(), 0);
    });
}

#[test]
fn a_handle_whose_server_is_gone_says_so() {
    on_both(|host| {
        let name = fresh_name("gone");
        let gate = Gate::new();
        let server = start(host, &name, 4, &gate);
        let handle = server.handle();
        assert_eq!(handle.call(&ask(1)).expect("an answer").value, 1);
        drop(server);
        assert_gone(&name);

        let is_over = |error: CallError| assert!(matches!(error, CallError::ShuttingDown), "{error}");
        is_over(handle.call(&ask(1)).expect_err("no server"));
        is_over(handle.call_with(&ask(1), patient()).expect_err("no server"));
        is_over(handle.submit(&ask(1)).expect_err("no server"));
        is_over(pollster::block_on(handle.call_async_with(ask(1), patient())).expect_err("no server"));
        let outcomes: Vec<_> = handle.stream((0..3).map(ask)).collect();
        assert_eq!(outcomes.len(), 3);
        outcomes.into_iter().for_each(|outcome| is_over(outcome.expect_err("no server")));
        let outcomes: Vec<_> =
            pollster::block_on(handle.stream_async(stream::iter((0..3).map(ask))).unordered().collect());
        assert_eq!(outcomes.len(), 3);
        for item in outcomes {
            is_over(item.expect("a stream").1.expect_err("no server"));
        }
        assert_eq!(handle.stats().servlets[0].batches().items, 1, "its counters can still be read");
        assert_eq!((handle.backlog(), handle.debug_info().requests.len()), (0, 0));

        // The name is free, and a successor has nothing to do with the handle.
        let successor = start(host, &name, 4, &gate);
        assert_eq!(successor.call(&ask(2)).expect("an answer").value, 2);
        is_over(handle.call(&ask(1)).expect_err("no server"));
        drop(handle);
        assert_eq!(successor.call(&ask(3)).expect("an answer").value, 3);
    });
}

#[test]
fn what_was_in_progress_when_the_server_was_dropped_has_its_outcome() {
    on_both(|host| {
        let gate = Gate::new();
        let name = fresh_name("in-progress");
        let server = start(host, &name, 4, &gate);
        let handle = server.handle();
        let reply = handle.submit(&ask(7)).expect("a permit").wait().expect("an answer");
        let held = handle.submit_with(&stopper(), patient()).expect("a permit");
        let arrival = gate.arrival();
        let queued = handle.submit_with(&ask(1), patient()).expect("a permit");
        let woken = Arc::new(Woken::default());
        let waker = Waker::from(Arc::clone(&woken));
        let mut context = Context::from_waker(&waker);
        let mut polled = handle.call_async_with(ask(2), patient());
        assert!(Pin::new(&mut polled).poll(&mut context).is_pending());
        let mut in_line = handle.call_async_with(ask(3), patient()); // there is no fifth permit
        assert!(Pin::new(&mut in_line).poll(&mut context).is_pending());
        std::thread::scope(|scope| {
            let dropped = scope.spawn(move || drop(server));
            let refused = pollster::block_on(in_line).expect_err("it has no permit");
            assert!(matches!(refused, CallError::ShuttingDown), "{refused}");
            arrival.release();
            dropped.join().expect("no panic");
        });
        assert_gone(&name);
        // Nothing of the server is left, and the outcomes are there, for a waker and for a thread.
        wait_until("it is woken", || woken.0.load(Ordering::SeqCst) > 0);
        let Poll::Ready(outcome) = Pin::new(&mut polled).poll(&mut context) else { panic!("it was woken") };
        assert_eq!(outcome.expect("an answer").value, 2);
        assert_eq!(queued.wait().expect("an answer").value, 1);
        assert_eq!(handle.backlog(), 2);
        drop(handle);
        assert_eq!(held.wait().expect("an answer").value, u64::MAX);
        assert_eq!(reply.value, 7, "a reply keeps what it shows");
        assert_eq!(reply.into_owned().expect("its own value").value, 7);
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

/// The names of this process's threads.
fn threads() -> Vec<String> {
    let tasks = std::fs::read_dir("/proc/self/task").expect("Linux has /proc").flatten();
    tasks.filter_map(|task| std::fs::read_to_string(task.path().join("comm")).ok()).collect()
}

/// How many times a segment is mapped.
fn mappings(name: &str) -> usize {
    std::fs::read_to_string("/proc/self/maps").expect("Linux has /proc").matches(name).count()
}

#[test]
fn the_last_handle_ends_the_reactor_and_the_mapping() {
    // Other tests of a process may have reactors.
    if has_run_alone("handles::the_last_handle_ends_the_reactor_and_the_mapping") {
        return;
    }
    let has_reactor = || threads().iter().any(|name| name.starts_with("ringmill-reac"));
    let gate = Gate::new();
    let name = fresh_name("last");
    let server = start(Host::Threads, &name, 4, &gate);
    let handle = server.handle();
    let mut held = handle.call_async_with(stopper(), patient());
    let waker = Waker::from(Arc::new(Woken::default()));
    assert!(Pin::new(&mut held).poll(&mut Context::from_waker(&waker)).is_pending());
    wait_until("the reactor has its name", has_reactor);
    assert!(mappings(&name) > 0);
    gate.arrival().release();
    drop(server);
    drop(handle);
    assert!(has_reactor(), "a future of the handle is left");
    let reply = pollster::block_on(held).expect("an answer");
    assert!(mappings(&name) > 0, "the reply lies in the segment");
    drop(reply);
    wait_until("the reactor has ended", || !has_reactor());
    wait_until("nothing is mapped", || mappings(&name) == 0);
}

#[test]
fn a_handle_can_be_the_first_to_go() {
    on_both(|host| {
        let server = start(host, &fresh_name("first"), 4, &Gate::new());
        let handle = server.handle();
        assert_eq!(pollster::block_on(handle.call_async(ask(1))).expect("an answer").value, 1);
        drop(handle);
        assert_eq!(pollster::block_on(server.call_async(&ask(2))).expect("an answer").value, 2);
        drop(server.handle());
        assert_eq!(server.call(&ask(3)).expect("an answer").value, 3);
    });
}

/// Not the executor's threads but one of the server's wakes the last task that has a handle, and so drops it.
#[test]
fn a_task_may_drop_the_last_handle() {
    let server = Server::builder(fresh_name("task")).start(ThreadServlet::<PassThrough<u64>>::new(()));
    let server = server.expect("it starts");
    let handle = server.handle();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().expect("a runtime");
    let task = runtime.spawn(async move { handle.call_async(5).await.map(|reply| *reply == 5) });
    drop(server);
    let outcome = runtime.block_on(task).expect("no panic");
    assert!(matches!(outcome, Ok(true) | Err(CallError::ShuttingDown)), "{outcome:?}");
}
