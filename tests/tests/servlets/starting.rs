//! A server that starts in an async task, that is given up while it starts, and that tells how far it is; trees that start
//! twice.

use ringmill::server::{StartProgress, Starting};
use ringmill::stats::{ServletStats, WorkerStats};
use ringmill::{
    BoxError, Context, Ensemble, PassThrough, ProcessServlet, Server, Servlet, StartError, Switch,
    ThreadServlet, Worker,
};
use ringmill_tests::alone::alone;
use ringmill_tests::gate::{Gate, stop_at};
use ringmill_tests::traces::{assert_gone, children};
use ringmill_tests::{GUARD, fresh_name, wait_until};
use rkyv::Archived;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, mpsc};
use std::task::{Context as Task, Poll, Waker};
use std::time::Duration;

ringmill::init!(Slow, PassThrough<u64>);

/// A worker whose construction stops at a gate, or fails if the gate has no name.
struct Slow;

impl Worker for Slow {
    type Config = String;
    type In = u64;
    type Out = u64;

    fn new(gate: String, context: &Context) -> Result<Self, BoxError> {
        if gate.is_empty() {
            return Err(BoxError::msg("no model"));
        }
        stop_at(&gate, &format!("{}.{}", context.worker_index(), context.thread_index()));
        Ok(Self)
    }

    fn call(&mut self, input: &Archived<u64>) -> Result<u64, BoxError> {
        Ok(input.to_native() + 1)
    }
}

fn slow(gate: &Gate) -> ProcessServlet<Slow> {
    ProcessServlet::new(gate.name())
}

fn poll<F: Future + Unpin>(future: &mut F) -> Poll<F::Output> {
    Pin::new(future).poll(&mut Task::from_waker(Waker::noop()))
}

#[track_caller]
fn assert_nothing_left(name: &str) {
    assert_gone(name);
    assert_eq!(children(), Vec::<String>::new(), "processes left");
}

/// Whether the thread of an asynchronous start is there.
fn has_thread() -> bool {
    let tasks = std::fs::read_dir("/proc/self/task").expect("Linux has /proc").flatten();
    let mut names = tasks.filter_map(|task| std::fs::read_to_string(task.path().join("comm")).ok());
    names.any(|name| name.trim() == "ringmill-start")
}

#[test]
fn a_task_that_starts_a_server_does_not_block_the_others() {
    alone("starting::a_task_that_starts_a_server_does_not_block_the_others", || {
        let (name, gate) = (fresh_name("task"), Gate::new());
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        let server = runtime.block_on(async {
            let start = tokio::spawn(Server::builder(&name).start_async(slow(&gate).cpus(2)));
            // The executor's only thread goes on: it lets the workers go on.
            let mut arrivals = Vec::new();
            while arrivals.len() < 2 {
                assert!(!start.is_finished());
                arrivals.extend(gate.arrival_if_any());
                tokio::task::yield_now().await;
            }
            drop(arrivals);
            start.await.expect("no panic").expect("it starts")
        });
        assert_eq!(pollster::block_on(server.call_async(&6)).expect("an answer").to_native(), 7);
        wait_until("the thread has ended", || !has_thread());
        drop(server);
        assert_nothing_left(&name);
    });
}

#[test]
fn futures_of_starts_can_be_sent() {
    fn is_sent<T: Send + Sync + Unpin + 'static>() {}
    is_sent::<Starting<std::rc::Rc<u8>, u8>>(); // it has no value of these
    is_sent::<StartProgress>();
}

#[test]
fn a_start_that_is_dropped_leaves_nothing() {
    alone("starting::a_start_that_is_dropped_leaves_nothing", || {
        let (name, gate) = (fresh_name("dropped"), Gate::new());
        let start = || Server::builder(&name).start_timeout(2 * GUARD).start_async(slow(&gate).cpus(2));
        drop(start()); // it has not begun
        assert_nothing_left(&name);

        let mut held = start();
        assert!(poll(&mut held).is_pending());
        let arrivals = gate.arrivals(2); // they are in their constructors, and stay there
        drop(held); // were it to wait for the constructors, the test would hang
        assert_nothing_left(&name);
        drop(arrivals);

        // At any moment of the start.
        for delay in (0..40).map(|step| Duration::from_micros(step * 500)) {
            let mut early = start();
            assert!(poll(&mut early).is_pending());
            std::thread::park_timeout(delay);
            drop(early);
            assert_nothing_left(&name);
            while gate.arrival_if_any().is_some() {}
        }

        // Ready, but not looked at again.
        let mut ready = start();
        assert!(poll(&mut ready).is_pending());
        gate.arrivals(2).into_iter().for_each(drop);
        wait_until("the thread has ended", || !has_thread());
        drop(ready);
        assert_nothing_left(&name);

        // As a timeout drops it; the name can be used at once.
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
        let late = runtime.block_on(async { tokio::time::timeout(Duration::from_millis(50), start()).await });
        assert!(late.is_err(), "its workers wait");
        assert_nothing_left(&name);
        while gate.arrival_if_any().is_some() {}
        let servlet = ProcessServlet::<PassThrough<u64>>::new(());
        let server =
            pollster::block_on(Server::builder(&name).start_async(servlet)).expect("the name is free");
        assert_eq!(*server.call(&1).expect("an answer"), 1);
    });
}

#[test]
fn an_asynchronous_start_fails_as_the_other_does() {
    alone("starting::an_asynchronous_start_fails_as_the_other_does", || {
        let name = fresh_name("fails");
        let failing = || ProcessServlet::<Slow>::new(String::new()).cpus(2);
        let blocking = Server::builder(&name).start(failing()).expect_err("no model").to_string();
        let error = pollster::block_on(Server::builder(&name).start_async(failing())).expect_err("no model");
        let StartError::Worker(remote) = &error else { panic!("{error}") };
        assert_eq!(error.to_string().replace("slow/1", "slow/0"), blocking.replace("slow/1", "slow/0"));
        assert_eq!(remote.servlet, "slow");
        assert_nothing_left(&name);

        // What the plan says is wrong is known at the first poll.
        let mut refused = Server::builder(&name).capacity(0).start_async(failing());
        let Poll::Ready(Err(StartError::Range { what: "capacity", .. })) = poll(&mut refused) else {
            panic!("a server without permits")
        };
        let again = catch_unwind(AssertUnwindSafe(|| poll(&mut refused).is_ready()));
        assert!(again.is_err(), "it is over");
        let taken =
            Server::builder(&name).start(ThreadServlet::<PassThrough<u64>>::new(())).expect("it starts");
        let second =
            pollster::block_on(Server::builder(&name).start_async(failing())).expect_err("it is taken");
        assert!(matches!(second, StartError::Segment(_)), "{second}");
        drop(taken);
        assert_nothing_left(&name);
    });
}

/// What a program was told, and when it may go on.
#[derive(Default)]
struct Told(Mutex<Vec<StartProgress>>);

impl Told {
    fn counts(&self) -> Vec<(usize, usize)> {
        self.0.lock().expect("no panic").iter().map(|progress| (progress.ready(), progress.total())).collect()
    }
}

fn workers(progress: &StartProgress) -> impl Iterator<Item = (&ServletStats, &WorkerStats)> {
    progress.servlets.iter().flat_map(|servlet| servlet.workers.iter().map(move |worker| (servlet, worker)))
}

#[test]
fn the_progress_says_which_workers_are_ready() {
    alone("starting::the_progress_says_which_workers_are_ready", || {
        for is_async in [false, true] {
            let (name, gate, told) = (fresh_name("progress"), Gate::new(), Arc::new(Told::default()));
            let note = Arc::clone(&told);
            let builder = Server::builder(&name)
                .start_timeout(2 * GUARD)
                .on_progress(move |progress| note.0.lock().expect("no panic").push(progress.clone()));
            let tree = ThreadServlet::<PassThrough<u64>>::new(()).then(slow(&gate).cpus(2).name("rank"));
            let server = std::thread::scope(|scope| {
                let start = scope.spawn(move || match is_async {
                    false => builder.start(tree),
                    true => pollster::block_on(builder.start_async(tree)),
                });
                let mut arrivals = gate.arrivals(2);
                wait_until("the thread worker is ready", || told.counts().last() == Some(&(1, 3)));
                let first = arrivals.pop().expect("two");
                let index =
                    first.label().split('.').next().expect("a number").parse::<u32>().expect("a number");
                first.release();
                wait_until("two are ready", || told.counts().last() == Some(&(2, 3)));
                let last = told.0.lock().expect("no panic").last().cloned().expect("three");
                let starting: Vec<_> = workers(&last).filter(|(_, worker)| !worker.ready).collect();
                let [(servlet, worker)] = starting[..] else { panic!("{last}") };
                assert_eq!((servlet.name.as_str(), worker.index), ("rank", 1 - index));
                assert!(worker.state_seconds <= last.elapsed.as_secs_f64() + 1.0);
                let text = last.to_string();
                assert!(text.starts_with("2 of 3 workers are ready after "), "{text}");
                assert!(text.contains(&format!("; rank/{} has been starting for ", 1 - index)), "{text}");
                // It is told again although nothing changes.
                let count = told.counts().len();
                wait_until("a second has passed", || told.counts().len() > count);
                drop(arrivals);
                start.join().expect("no panic").expect("it starts")
            });
            assert_eq!(told.counts().last(), Some(&(3, 3)));
            assert!(told.counts().is_sorted(), "{:?}", told.counts());
            let count = told.counts().len();
            assert_eq!(*server.call(&1).expect("an answer"), 2);
            drop(server);
            assert_eq!(told.counts().len(), count, "it has started");
            assert_nothing_left(&name);
        }
    });
}

#[test]
fn a_panic_of_what_is_told_the_progress_undoes_the_start() {
    alone("starting::a_panic_of_what_is_told_the_progress_undoes_the_start", || {
        let (name, gate) = (fresh_name("panics"), Gate::new());
        let builder = || Server::builder(&name).on_progress(|_| panic!("on purpose"));
        let start = catch_unwind(AssertUnwindSafe(|| builder().start(slow(&gate)).is_ok()));
        assert_eq!(*start.expect_err("it panics").downcast::<&str>().expect("a text"), "on purpose");
        assert_nothing_left(&name);
        let start =
            catch_unwind(AssertUnwindSafe(|| pollster::block_on(builder().start_async(slow(&gate))).is_ok()));
        assert_eq!(*start.expect_err("it panics").downcast::<&str>().expect("a text"), "on purpose");
        assert_nothing_left(&name);
        // Given up before the panic is found.
        let mut unfound = builder().start_async(slow(&gate));
        assert!(poll(&mut unfound).is_pending());
        wait_until("the thread has ended", || !has_thread());
        drop(unfound);
        assert_nothing_left(&name);
    });
}

/// Symptom that must not be: the wake of a future drops it, on the thread that wakes, which then waits for itself.
#[test]
fn a_wake_may_drop_the_start() {
    alone("starting::a_wake_may_drop_the_start", || {
        struct Drops(mpsc::Sender<()>, Mutex<Option<Starting<u64, u64>>>);
        impl std::task::Wake for Drops {
            fn wake(self: Arc<Self>) {
                drop(self.1.lock().expect("no panic").take());
                let _ = self.0.send(());
            }
        }
        let name = fresh_name("wake");
        let (sender, dropped) = mpsc::channel();
        let mut start = Server::builder(&name).start_async(ProcessServlet::<PassThrough<u64>>::new(()));
        let drops = Arc::new(Drops(sender, Mutex::new(None)));
        let waker = Waker::from(Arc::clone(&drops));
        let mut slot = drops.1.lock().expect("no panic");
        assert!(Pin::new(&mut start).poll(&mut Task::from_waker(&waker)).is_pending());
        *slot = Some(start);
        drop(slot);
        dropped.recv_timeout(GUARD).expect("it does not hang");
        assert_nothing_left(&name);
    });
}

ringmill::make_worker!(Half: u64 => u64, |x| x.to_native() / 2);
ringmill::make_worker!(Sum: Vec<Box<u64>> => u64, |all: &Archived<Vec<Box<u64>>>| {
    all.iter().map(|one| one.to_native()).sum::<u64>()
});

/// A function of a switch may own what cannot be cloned.
struct Unclonable(u64);

#[test]
fn a_tree_can_be_started_twice() {
    let limit = Unclonable(10);
    let leaf = ThreadServlet::<Half>::new(()).cpus(2);
    let both = Ensemble::each([leaf.clone().boxed(), ThreadServlet::<PassThrough<u64>>::new(()).boxed()]);
    let kept = Ensemble::of((leaf.clone(), leaf.clone())).keep_errors().clone();
    let members =
        (both.then(ThreadServlet::<Sum>::new(())), ProcessServlet::<PassThrough<u64>>::new(()).env("A", "1"));
    let tree =
        Switch::new(move |x: &Archived<u64>| usize::from(x.to_native() > limit.0), members).name("size");
    fn start<S: Servlet>(tree: S) -> Server<S::In, S::Out> {
        Server::builder(fresh_name("twice")).start(tree).expect("it starts")
    }
    let (first, second) = (start(tree.clone()), start(tree.clone().boxed().clone().then(leaf)));
    drop(tree);
    for (small, large) in [(4, 100), (8, 20)] {
        assert_eq!(*first.call(&small).expect("an answer"), small + small / 2);
        assert_eq!(*first.call(&large).expect("an answer"), large);
        assert_eq!(*second.call(&small).expect("an answer"), (small + small / 2) / 2);
        assert_eq!(*second.call(&large).expect("an answer"), large / 2);
    }
    let kept = start(kept.clone());
    let (a, b) = kept.call(&6).expect("an answer").into_owned().expect("its own value");
    assert_eq!((*a.expect("a value"), *b.expect("a value")), (3, 3));
}

#[test]
fn several_starts_go_on_at_once() {
    let gate = Gate::new();
    let start = |_| Server::builder(fresh_name("several")).start_async(slow(&gate));
    let mut starts: Vec<_> = (0..4).map(start).collect();
    for start in &mut starts {
        assert!(poll(start).is_pending());
    }
    drop(gate.arrivals(4)); // all at once
    let all = pin!(futures_util::future::join_all(starts));
    for server in pollster::block_on(all) {
        assert_eq!(*server.expect("it starts").call(&1).expect("an answer"), 2);
    }
}
