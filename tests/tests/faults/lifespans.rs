//! Workers that leave at a limit of their servlet: requests, age, memory. No request is lost, and no death is counted.

use ringmill::worker::Stop;
use ringmill::{BoxError, Context, ProcessServlet, Server, Servlet, StartError, ThreadServlet, Worker};
use ringmill_tests::alone::alone;
use ringmill_tests::gate::Gate;
use ringmill_tests::guard::guarded;
use ringmill_tests::listener::Hearer;
use ringmill_tests::name::Name;
use ringmill_tests::stats::{assert_sound, pids, workers};
use ringmill_tests::wait_until;
use rkyv::Archived;
use std::collections::BTreeSet;
use std::time::Duration;

ringmill::init!(Keeper);

/// Answers with its input plus one, the number of its restarts and its process; keeps as many bytes as the input says.
/// Reports at its gate, if it has one, why it stops.
struct Keeper {
    gate: String,
    restarts: u32,
    kept: Vec<Vec<u8>>,
}

/// The value, which incarnation gave it, and in which process.
type Kept = (u64, u32, u32);

impl Worker for Keeper {
    type Config = String;
    type In = (u64, u64);
    type Out = Kept;

    fn new(gate: String, context: &Context) -> Result<Self, BoxError> {
        Ok(Self { gate, restarts: context.restarts(), kept: Vec::new() })
    }

    fn call(&mut self, input: &Archived<(u64, u64)>) -> Result<Kept, BoxError> {
        let (number, bytes) = (input.0.to_native(), input.1.to_native());
        if bytes > 0 {
            self.kept.push(vec![1; usize::try_from(bytes)?]);
        }
        Ok((number + 1, self.restarts, std::process::id()))
    }

    fn cleanup(&mut self, reason: &Stop) {
        if !self.gate.is_empty() {
            ringmill_tests::gate::report(&self.gate, &format!("{reason:?}"));
        }
    }
}

fn keeper() -> ProcessServlet<Keeper> {
    ProcessServlet::new(String::new())
}

fn start(name: &Name, servlet: impl Servlet<In = (u64, u64), Out = Kept>) -> Server<(u64, u64), Kept> {
    name.builder().start(servlet).expect("it starts")
}

/// Nobody died, this many workers left in order, and each was replaced.
#[track_caller]
fn assert_retired<I, O>(server: &Server<I, O>, least: u64) {
    assert_sound(server);
    wait_until("each worker that left is replaced", || {
        let deaths = server.stats().deaths;
        deaths.retired >= least && deaths.restarts == deaths.retired
    });
    let deaths = server.stats().deaths;
    assert_eq!((deaths.deaths, deaths.died, deaths.retried), (0, 0, 0), "{deaths:?}");
}

#[test]
fn each_request_has_a_process_of_its_own() {
    guarded(|| {
        let name = Name::new("one-each");
        let server = start(&name, keeper().max_requests(1));
        let answers: Vec<Kept> =
            (0..5).map(|n| server.call(&(n, 0)).unwrap().into_owned().unwrap()).collect();
        assert_eq!(
            answers.iter().map(|a| (a.0, a.1)).collect::<Vec<_>>(),
            (0..5).map(|n| (n + 1, n as u32)).collect::<Vec<_>>()
        );
        assert_eq!(answers.iter().map(|a| a.2).collect::<BTreeSet<_>>().len(), 5, "{answers:?}");
        assert_retired(&server, 5);
    });
}

#[test]
fn a_thread_leaves_too_and_learns_why() {
    guarded(|| {
        let (name, gate) = (Name::new("thread-leaves"), Gate::new());
        let server = start(&name, ThreadServlet::<Keeper>::new(gate.name()).max_requests(2));
        for n in 0..4 {
            let (value, restarts, pid) = server.call(&(n, 0)).unwrap().into_owned().unwrap();
            assert_eq!((value, restarts, pid), (n + 1, n as u32 / 2, std::process::id()));
        }
        assert_retired(&server, 2);
        assert_eq!([gate.arrival().label(), gate.arrival().label()], ["Retired"; 2]);
    });
}

/// Several threads of a process count together, and leave together.
#[test]
fn no_outcome_is_lost_or_wrong_while_workers_leave() {
    guarded(|| {
        for threads in [1, 2] {
            let name = Name::new("leaving-storm");
            let servlet = keeper().cpus(2).stream_threads(threads).batch_size(8).max_requests(40);
            let server = start(&name, servlet);
            std::thread::scope(|scope| {
                for caller in 0..3_u64 {
                    let server = &server;
                    scope.spawn(move || {
                        let from = caller * 1000;
                        for (n, outcome) in (from..).zip(server.stream((from..from + 400).map(|n| (n, 0)))) {
                            assert_eq!(outcome.unwrap().0, n + 1);
                        }
                    });
                }
            });
            let items = || workers(&server).iter().map(|worker| worker.counters.items).sum::<u64>();
            assert_eq!(items(), 1200, "each request was handled once");
            assert_retired(&server, 1200 / 80);
        }
    });
}

#[test]
fn an_old_worker_leaves_although_no_request_comes() {
    guarded(|| {
        let name = Name::new("old");
        let server = start(&name, keeper().cpus(2).max_lifetime(Duration::from_millis(30)));
        let first = pids(&server);
        assert_retired(&server, 4);
        wait_until("both processes are others", || {
            let now = workers(&server);
            now.iter().zip(&first).all(|(worker, was)| worker.ready && worker.pid != *was)
        });
    });
}

#[test]
fn a_worker_with_too_much_memory_leaves() {
    guarded(|| {
        let name = Name::new("fat");
        let server = start(&name, keeper().max_rss(64 << 20));
        let lean = server.call(&(1, 1 << 20)).unwrap().into_owned().unwrap();
        assert_eq!((lean.0, lean.1), (2, 0));
        server.call(&(2, 128 << 20)).unwrap();
        assert_retired(&server, 1);
        let next = server.call(&(3, 0)).unwrap().into_owned().unwrap();
        assert!(next.2 != lean.2 && next.1 == 1, "{next:?}");
    });
}

#[test]
fn limits_of_zero_are_refused() {
    guarded(|| {
        let refused = |servlet: ProcessServlet<Keeper>| match Name::new("zero").builder().start(servlet) {
            Err(StartError::Range { what, value: 0, least: 1, .. }) => what,
            other => panic!("{other:?}"),
        };
        assert_eq!(refused(keeper().max_requests(0)), "max_requests");
        assert_eq!(refused(keeper().max_rss(0)), "max_rss in bytes");
        assert_eq!(refused(keeper().max_lifetime(Duration::ZERO)), "max_lifetime in nanoseconds");
    });
}

#[test]
fn the_log_says_why_a_worker_left() {
    alone("lifespans::the_log_says_why_a_worker_left", || {
        let heard = Hearer::of_this_process();
        let name = Name::new("said");
        let server = start(&name, keeper().max_requests(3));
        for n in 0..3 {
            server.call(&(n, 0)).unwrap();
        }
        let worker = format!("worker={}/keeper/0", name.text());
        heard.await_line(&["INFO", &worker, "a worker has left: it has handled the 3 requests that it may"]);
        assert_retired(&server, 1);
        drop(server);
        assert!(!heard.lines().iter().any(|line| line.starts_with("WARN")), "{:?}", heard.lines());
    });
}
