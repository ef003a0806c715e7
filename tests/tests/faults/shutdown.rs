//! Servers that end: they answer requests in progress, refuse later ones, and leave nothing.

use ringmill::error::RemoteCause;
use ringmill::{
    CallError, CallOptions, PassThrough, ProcessServlet, Server, StreamOptions, ThreadServlet, WhenFull,
};
use ringmill_tests::actor::{Act, Actor, Answer, Rebirth, Upbringing};
use ringmill_tests::actor_gate::{ActorGate, Visit};
use ringmill_tests::guard::guarded;
use ringmill_tests::name::Name;
use ringmill_tests::process::{Process, signal};
use ringmill_tests::program::Program;
use ringmill_tests::stats::{depth, pids};
use ringmill_tests::wait_until;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

ringmill::init!(Actor, PassThrough<Vec<u32>>, PassThrough<u64>);

type Actors = Server<Act, Answer>;
type Outcome = Result<Answer, CallError>;

const ENDLESS: Duration = Duration::from_secs(3600);
const SOON: Duration = Duration::from_millis(50);

fn call(server: &Actors, act: Act) -> Outcome {
    let options = CallOptions::new().when_full(WhenFull::Wait).timeout(ENDLESS);
    server.call_with(&act, options)?.into_owned()
}

/// Whether a server all of whose permits are taken refuses calls, and not for want of a permit.
fn is_closing(server: &Actors) -> bool {
    match server.call(&Act::Double(0)) {
        Err(CallError::ShuttingDown) => true,
        Err(CallError::ServerBacklogFull { .. }) => false,
        other => panic!("{:?}", other.err()),
    }
}

#[track_caller]
fn assert_refused(outcome: Outcome) {
    assert!(matches!(outcome, Err(CallError::ShuttingDown)), "{outcome:?}");
}

/// The workers' processes, to be looked for later.
fn crew(server: &Actors) -> Vec<Process> {
    pids(server).into_iter().map(Process::of).collect()
}

/// Nothing of a server that was shut down is left: no file, no process, no zombie.
#[track_caller]
fn assert_gone(name: &Name, crew: &[Process]) {
    name.assert_nothing_left();
    assert!(!crew.iter().any(|process| process.exists()), "{crew:?}");
}

#[test]
fn work_in_flight_is_answered_and_new_calls_are_refused() {
    guarded(|| {
        let (name, gate) = (Name::new("inflight"), ActorGate::new());
        let builder = Server::builder(name.text()).capacity(8).shutdown_timeout(ENDLESS);
        let server = builder.start(gate.processes(2)).expect("it starts");
        let crew = crew(&server);
        std::thread::scope(|scope| {
            let server = &server;
            let call_one = |act| scope.spawn(move || call(server, act));
            let busy = [1, 2].map(|n| call_one(Act::Hold(n)));
            let visits = [gate.next(), gate.next()];
            let queued = [3, 4, 5, 6, 7, 8].map(|n| call_one(Act::Double(n)));
            wait_until("all are queued", || depth(server) == 6);
            let ending = scope.spawn(|| server.shutdown());
            wait_until("new calls are refused", || is_closing(server));
            assert_eq!(depth(server), 6);
            assert!(!ending.is_finished());
            visits.into_iter().for_each(Visit::let_go);
            let in_flight = busy.into_iter().chain(queued);
            let values = in_flight.map(|thread| thread.join().expect("no panic").expect("an answer").value);
            assert_eq!(values.collect::<Vec<_>>(), [2, 4, 6, 8, 10, 12, 14, 16]);
            ending.join().expect("no panic");
        });
        assert_refused(call(&server, Act::Double(1)));
        assert!(matches!(server.stream([Act::Double(1)]).next(), Some(Err(CallError::ShuttingDown))));
        assert_eq!(server.backlog(), 0);
        assert_gone(&name, &crew);
    });
}

#[test]
fn every_worker_cleans_up() {
    guarded(|| {
        let (name, gate) = (Name::new("cleanup"), ActorGate::new());
        let server = Server::builder(name.text()).start(gate.processes(3)).expect("it starts");
        let crew = pids(&server);
        drop(server);
        let mut cleaned = [gate.next(), gate.next(), gate.next()].map(|visit| {
            assert_eq!(visit.kind, "cleanup-shutdown");
            visit.pid
        });
        let mut crew: [u32; 3] = crew.try_into().expect("three");
        cleaned.sort_unstable();
        crew.sort_unstable();
        assert_eq!(cleaned, crew);

        let server = Server::builder(name.text()).start(gate.threads(2)).expect("it starts");
        drop(server);
        for visit in [gate.next(), gate.next()] {
            assert_eq!((visit.kind.as_str(), visit.pid), ("cleanup-shutdown", std::process::id()));
        }
        name.assert_nothing_left();
    });
}

#[test]
fn a_worker_that_hangs_is_killed_when_the_time_is_over() {
    guarded(|| {
        let (name, gate) = (Name::new("hangs"), ActorGate::new());
        let builder = Server::builder(name.text()).capacity(4).shutdown_timeout(SOON);
        let server = builder.start(gate.processes(1)).expect("it starts");
        let crew = crew(&server);
        std::thread::scope(|scope| {
            let server = &server;
            let (visit, busy) = gate.hold(scope, server, 1);
            let queued = [2, 3, 4].map(|n| scope.spawn(move || call(server, Act::Double(n))));
            wait_until("all are queued", || depth(server) == 3);
            server.shutdown();
            visit.await_death();
            match busy.join().expect("no panic") {
                Err(CallError::WorkerDied(error)) => {
                    let cause = RemoteCause::KilledByShutdown { limit_ns: Some(SOON.as_nanos() as u64) };
                    assert_eq!((error.cause, error.pid), (cause, crew[0].pid));
                }
                other => panic!("{other:?}"),
            }
            queued.into_iter().for_each(|thread| assert_refused(thread.join().expect("no panic")));
        });
        assert_eq!(server.backlog(), 0);
        assert_gone(&name, &crew);
    });
}

#[test]
fn a_stopped_worker_is_killed_when_the_time_is_over() {
    guarded(|| {
        let (name, gate) = (Name::new("sigstop"), ActorGate::new());
        let builder = Server::builder(name.text()).shutdown_timeout(SOON);
        let server = builder.start(gate.processes(2)).expect("it starts");
        let crew = crew(&server);
        signal(crew[0].pid, libc::SIGSTOP);
        drop(server);
        assert_gone(&name, &crew);
    });
}

#[test]
fn a_thread_that_hangs_delays_no_other() {
    guarded(|| {
        let (name, gate) = (Name::new("thread"), ActorGate::new());
        let builder = Server::builder(name.text()).capacity(3).shutdown_timeout(SOON);
        let server = builder.start(gate.threads(1)).expect("it starts");
        std::thread::scope(|scope| {
            let server = &server;
            let (visit, busy) = gate.hold(scope, server, 1);
            let queued = [2, 3].map(|n| scope.spawn(move || call(server, Act::Double(n))));
            wait_until("all are queued", || depth(server) == 2);
            server.shutdown();
            queued.into_iter().for_each(|thread| assert_refused(thread.join().expect("no panic")));
            name.assert_nothing_left();
            // A thread cannot be killed; it may still answer its items.
            visit.let_go();
            assert_eq!(busy.join().expect("no panic").expect("an answer").value, 2);
        });
    });
}

#[test]
fn several_threads_may_shut_down_more_than_once() {
    guarded(|| {
        let (name, gate) = (Name::new("twice"), ActorGate::new());
        let server = Server::builder(name.text()).capacity(1).start(gate.processes(2)).expect("it starts");
        let crew = crew(&server);
        std::thread::scope(|scope| {
            let server = &server;
            let (visit, busy) = gate.hold(scope, server, 1);
            let ending = [(); 4].map(|()| scope.spawn(|| server.shutdown()));
            wait_until("it is closing", || is_closing(server));
            visit.let_go();
            assert_eq!(busy.join().expect("no panic").expect("an answer").value, 2);
            for thread in ending {
                thread.join().expect("no panic");
                assert_gone(&name, &crew);
            }
        });
        server.shutdown();
        assert_refused(call(&server, Act::Double(1)));
        // Its name is free, and another's shutdown of the first server does not touch it.
        let next = Server::builder(name.text()).start(gate.processes(1)).expect("it starts");
        server.shutdown();
        drop(server);
        assert_eq!(call(&next, Act::Double(4)).expect("an answer").value, 8);
        assert!(name.segment_exists());
    });
}

#[test]
fn streams_end_in_order() {
    guarded(|| {
        for batch_size in [0, 8] {
            let name = Name::new("streams");
            let servlet = ProcessServlet::<PassThrough<u64>>::new(()).cpus(2).batch_size(batch_size);
            let server = Server::builder(name.text()).capacity(64).start(servlet).expect("it starts");
            let answers = [(); 3].map(|()| AtomicU64::new(0));
            std::thread::scope(|scope| {
                let server = &server;
                for count in &answers {
                    scope.spawn(move || {
                        let mut stream = server.stream(0..);
                        let mut expected = 0;
                        let last = loop {
                            match stream.next() {
                                Some(Ok(number)) => assert_eq!(number, expected),
                                other => break other,
                            }
                            expected += 1;
                            count.store(expected, Ordering::Relaxed); // Relaxed: only looked at
                        };
                        assert!(matches!(last, Some(Err(CallError::ShuttingDown))), "{last:?}");
                        // Outcomes of inputs that were sent before may still come; each further input is refused, without an end.
                        let rest: Vec<_> = stream.take(200).collect();
                        let refused = |outcome: &Result<u64, CallError>| {
                            matches!(outcome, Err(CallError::ShuttingDown))
                        };
                        assert!(rest.iter().filter(|outcome| !refused(outcome)).count() <= 64);
                        assert!(rest.len() == 200 && rest[64..].iter().all(refused));
                    });
                }
                let flowing = || answers.iter().all(|count| count.load(Ordering::Relaxed) > 1000);
                wait_until("all streams flow", flowing);
                server.shutdown();
            });
            assert_eq!(server.backlog(), 0);
            name.assert_nothing_left();
        }
    });
}

#[test]
fn a_stream_that_is_not_read_delays_no_shutdown() {
    guarded(|| {
        let name = Name::new("paused");
        let servlet = ThreadServlet::<PassThrough<u64>>::new(());
        let builder = Server::builder(name.text()).capacity(8).shutdown_timeout(ENDLESS);
        let server = builder.start(servlet).expect("it starts");
        let mut one = server.stream_with(0..100, StreamOptions::new().window(1));
        let mut many = server.stream(0..100);
        assert_eq!(one.next().expect("more").expect("an answer"), 0);
        assert_eq!(many.next().expect("more").expect("an answer"), 0);
        server.shutdown();
        // Answers that are there are given, in order; then each further input is refused.
        for (stream, most) in [(&mut one, 1), (&mut many, 8)] {
            let (mut ended, mut count) = (false, 0);
            for (outcome, expected) in stream.zip(1..) {
                match outcome {
                    Ok(number) => assert_eq!((number, ended), (expected, false)),
                    Err(CallError::ShuttingDown) => ended = true,
                    Err(other) => panic!("{other}"),
                }
                assert!(ended || expected <= most, "{expected} was sent");
                count += 1;
            }
            assert_eq!(count, 99);
        }
        drop((one, many));
        assert_eq!(server.backlog(), 0);
        name.assert_nothing_left();
    });
}

#[test]
fn a_loan_sent_after_the_end_is_refused() {
    guarded(|| {
        let name = Name::new("loan");
        let servlet = ProcessServlet::<PassThrough<Vec<u32>>>::new(());
        let builder = Server::builder(name.text()).capacity(4).shutdown_timeout(SOON);
        let server = builder.start(servlet).expect("it starts");
        let mut loan = server.loan(100).expect("a permit");
        let kept = server.call(&vec![1, 2, 3]).expect("an answer");
        server.shutdown();
        loan.as_mut_slice().fill(7);
        let late = server.call_loan(loan);
        assert!(matches!(late, Err(CallError::ShuttingDown)), "{late:?}");
        assert_eq!(kept.as_slice(), [1, 2, 3], "a reply outlives the shutdown");
        drop(kept);
        assert_eq!(server.backlog(), 0);
        name.assert_nothing_left();
    });
}

#[test]
fn callers_that_wait_for_a_permit_are_released() {
    guarded(|| {
        let (name, gate) = (Name::new("waiting"), ActorGate::new());
        let builder = Server::builder(name.text()).capacity(1).shutdown_timeout(ENDLESS);
        let server = builder.start(gate.processes(1)).expect("it starts");
        std::thread::scope(|scope| {
            let server = &server;
            let (visit, busy) = gate.hold(scope, server, 1);
            let waiting = [2, 3, 4].map(|n| scope.spawn(move || call(server, Act::Double(n))));
            let streaming = scope.spawn(|| server.stream([Act::Double(5)]).collect::<Vec<_>>());
            let segment = name.inspect();
            wait_until("a caller waits", || segment.freed().is_awaited());
            let ending = scope.spawn(|| server.shutdown());
            waiting.into_iter().for_each(|thread| assert_refused(thread.join().expect("no panic")));
            streaming.join().expect("no panic").into_iter().for_each(assert_refused);
            assert!(!ending.is_finished(), "there is still one at work");
            visit.let_go();
            assert_eq!(busy.join().expect("no panic").expect("an answer").value, 2);
        });
        name.assert_nothing_left();
    });
}

#[test]
fn requests_of_a_worker_that_dies_meanwhile_are_answered() {
    guarded(|| {
        let (name, gate) = (Name::new("dying"), ActorGate::new());
        let builder = Server::builder(name.text()).capacity(3).shutdown_timeout(ENDLESS);
        let server = builder.start(gate.processes(1)).expect("it starts");
        std::thread::scope(|scope| {
            let server = &server;
            let (visit, busy) = gate.hold(scope, server, 1);
            let queued = [2, 3].map(|n| scope.spawn(move || call(server, Act::Double(n))));
            wait_until("all are queued", || depth(server) == 2);
            let ending = scope.spawn(|| server.shutdown());
            wait_until("it is closing", || is_closing(server));
            signal(visit.pid, libc::SIGKILL);
            let died = busy.join().expect("no panic");
            assert!(matches!(died, Err(CallError::WorkerDied(_))), "{died:?}");
            // It is restarted, to end the requests in progress.
            for (thread, number) in queued.into_iter().zip(2..) {
                assert_eq!(thread.join().expect("no panic").expect("an answer").value, 2 * number);
            }
            ending.join().expect("no panic");
        });
        name.assert_nothing_left();
    });
}

#[test]
fn a_servlet_that_is_down_shuts_down() {
    guarded(|| {
        let (name, gate) = (Name::new("isdown"), ActorGate::new());
        let upbringing = Upbringing { rebirth: Rebirth::Fails, ..gate.upbringing() };
        let builder = Server::builder(name.text()).shutdown_timeout(ENDLESS);
        let server = builder.start(ProcessServlet::<Actor>::new(upbringing)).expect("it starts");
        // Once while its worker is between two lives, once when it has none left.
        signal(pids(&server)[0], libc::SIGKILL);
        let outcome = call(&server, Act::Double(1));
        assert!(matches!(outcome, Err(CallError::ServletDown { .. })), "{outcome:?}");
        drop(server);
        name.assert_nothing_left();

        let upbringing = Upbringing { rebirth: Rebirth::Fails, ..gate.upbringing() };
        let builder = Server::builder(name.text()).shutdown_timeout(ENDLESS);
        let server = builder.start(ProcessServlet::<Actor>::new(upbringing)).expect("it starts");
        let victim = Process::of(pids(&server)[0]);
        signal(victim.pid, libc::SIGKILL);
        wait_until("its death was noticed", || !victim.exists());
        drop(server);
        name.assert_nothing_left();
    });
}

#[test]
fn dropped_by_the_last_of_several_owners() {
    guarded(|| {
        let (name, gate) = (Name::new("owners"), ActorGate::new());
        let server = Server::builder(name.text()).start(gate.processes(2)).expect("it starts");
        let crew = crew(&server);
        let server = Arc::new(server);
        let owners = [1, 2, 3].map(|n| {
            let server = Arc::clone(&server);
            std::thread::spawn(move || call(&server, Act::Double(n)).expect("an answer").value)
        });
        drop(server);
        let values = owners.map(|thread| thread.join().expect("no panic"));
        assert_eq!(values, [2, 4, 6]);
        wait_until("the last owner's thread has dropped it", || !name.segment_exists());
        wait_until("no worker is left", || !crew.iter().any(|process| process.exists()));
    });
}

/// Checks how the program's `main` ends, its exit status, and its output.
fn assert_program_leaves_nothing(options: &[&str], last: &str, status: Option<i32>, says: &str) {
    let (name, gate) = (Name::new("program"), ActorGate::new());
    let (mut program, pids) = Program::start_ready(&name, &gate, options);
    let crew: Vec<Process> =
        pids.iter().filter(|&&pid| pid != program.pid()).map(|&pid| Process::of(pid)).collect();
    program.tell(last);
    let end = program.end();
    assert_eq!(end.status.code(), status, "{last}: {end:?}");
    assert_eq!(end.stdout, "", "{last}");
    assert!(if says.is_empty() { end.stderr.is_empty() } else { end.stderr.contains(says) }, "{end:?}");
    wait_until("no worker is left", || !crew.iter().any(|process| process.exists()));
    name.assert_nothing_left();
}

#[test]
fn main_returns() {
    guarded(|| {
        assert_program_leaves_nothing(&[], "return", Some(0), "");
        assert_program_leaves_nothing(&["threads"], "return", Some(0), "");
    });
}

#[test]
fn main_exits_without_dropping_its_server() {
    guarded(|| {
        assert_program_leaves_nothing(&[], "exit 3", Some(3), "");
        assert_program_leaves_nothing(&["workers=1"], "exit 0", Some(0), "");
    });
}

#[test]
fn main_panics() {
    guarded(|| {
        assert_program_leaves_nothing(&[], "panic", Some(101), "as ordered");
        assert_program_leaves_nothing(&["threads"], "panic", Some(101), "as ordered");
    });
}

#[test]
fn main_exits_with_work_in_flight() {
    guarded(|| {
        let (name, gate) = (Name::new("inexit"), ActorGate::new());
        let (mut program, _) = Program::start_ready(&name, &gate, &[]);
        let visit = program.hold(&gate, 1);
        program.tell("exit 5");
        // The worker is in the middle of an item that never ends.
        visit.await_death();
        let end = program.end();
        assert_eq!((end.status.code(), end.stdout.as_str(), end.stderr.as_str()), (Some(5), "", ""));
        name.assert_nothing_left();
    });
}

#[test]
fn a_program_that_goes_on_after_its_server() {
    guarded(|| {
        let (name, gate) = (Name::new("goeson"), ActorGate::new());
        let (mut program, _) = Program::start_ready(&name, &gate, &[]);
        program.tell("shutdown");
        assert_eq!(program.line(), "shut down");
        name.assert_nothing_left();
        let children = format!("/proc/{0}/task/{0}/children", program.pid());
        if let Ok(children) = std::fs::read_to_string(children) {
            assert_eq!(children.trim(), "", "no child, not even a zombie");
        }
        program.end_well();
    });
}
