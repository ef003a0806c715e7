//! Slow is not dead: a process that is stopped for longer than every limit keeps its items, no other process does its work, and
//! when it is continued everything goes on, with nothing done twice.

use ringmill::error::RemoteCause;
use ringmill::stats::WorkerStats;
use ringmill::{CallError, CallOptions, Ensemble, ProcessServlet, Server, Servlet, StartError, WhenFull};
use ringmill_shm::participant::Life;
use ringmill_tests::actor::{Act, Actor, Upbringing};
use ringmill_tests::actor_gate::ActorGate;
use ringmill_tests::guard::{guarded, guarded_for};
use ringmill_tests::name::Name;
use ringmill_tests::process::{go_on, signal, sleeps, stop};
use ringmill_tests::stats::await_permits;
use ringmill_tests::wait_until;
use rkyv::Archived;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

type Three = (Box<u64>, Box<u64>, Box<u64>);

ringmill::make_worker!(Next: u64 => u64, |n: &Archived<u64>| n.to_native() + 1);
ringmill::make_worker!(Sum: Three => u64, |three: &Archived<Three>| {
    three.0.to_native() + three.1.to_native() + three.2.to_native()
});

ringmill::init!(Actor, Next, Sum);

const ENDLESS: Duration = Duration::from_secs(3600);

fn patient() -> CallOptions {
    CallOptions::new().when_full(WhenFull::Wait).timeout(ENDLESS)
}

/// The workers of all servlets.
fn all_workers<I, O>(server: &Server<I, O>) -> Vec<WorkerStats> {
    server.stats().servlets.into_iter().flat_map(|servlet| servlet.workers).collect()
}

#[track_caller]
fn assert_no_worker_died<I, O>(name: &Name, server: &Server<I, O>) {
    await_permits(server);
    assert!(all_workers(server).iter().all(|worker| worker.ready && worker.restarts == 0));
    name.assert_consistent();
}

/// Waits until another, idle worker has woken so often that every limit is over: the half second between two of its wakes is
/// the longest of all limits but the callers' second.
fn outlast_every_limit(other: u32) {
    let before = sleeps(other);
    wait_until("every limit is over", || sleeps(other) >= before + 5);
}

/// CPU time of a process, which does not depend on other processes.
fn cpu_ns(pid: u32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/schedstat")).expect("it lives");
    text.split_whitespace().next().and_then(|word| word.parse().ok()).expect("a number")
}

#[test]
fn stopped_in_user_code() {
    guarded(|| {
        let (name, gate) = (Name::new("slowuser"), ActorGate::new());
        let server = Server::builder(name.text()).start(gate.processes(2)).expect("it starts");
        std::thread::scope(|scope| {
            let call = |number, options| {
                let server = &server;
                scope.spawn(move || {
                    server.call_with(&Act::Hold(number), options).and_then(|reply| reply.into_owned())
                })
            };
            for (number, options) in [(1, patient()), (2, patient().timeout(Duration::from_millis(100)))] {
                let caller = call(number, options);
                let visit = gate.next_hold(number);
                stop(visit.pid);
                let other =
                    all_workers(&server).into_iter().find(|worker| worker.pid != visit.pid).expect("two");
                outlast_every_limit(other.pid);
                // The other worker serves all callers meanwhile.
                for number in 0..10 {
                    let answer = server.call_with(&Act::Double(number), patient()).expect("an answer");
                    assert_eq!((answer.value.to_native(), answer.pid.to_native()), (2 * number, other.pid));
                }
                if number == 2 {
                    // Its caller does not wait for it, but its permit is kept.
                    let outcome = caller.join().expect("no panic");
                    assert!(matches!(outcome, Err(CallError::Timeout { .. })), "{outcome:?}");
                    assert_eq!(server.backlog(), 1);
                    go_on(visit.pid);
                    visit.let_go();
                } else {
                    assert!(!caller.is_finished());
                    go_on(visit.pid);
                    let pid = visit.pid;
                    visit.let_go();
                    let answer = caller.join().expect("no panic").expect("an answer");
                    assert_eq!((answer.value, answer.pid), (2 * number, pid));
                }
                wait_until("all permits come back", || server.backlog() == 0);
                assert!(!gate.has_visitor(), "it was begun once");
            }
        });
        assert_no_worker_died(&name, &server);
    });
}

/// With the reader lock, in its batch window: the others neither take it nor wear the CPU out, and callers' timeouts
/// are kept.
#[test]
fn stopped_with_the_lock() {
    guarded(|| {
        let (name, gate) = (Name::new("slowholder"), ActorGate::new());
        let servlet = gate.processes(3).batch_size(4).batch_wait_time(ENDLESS);
        let server = Server::builder(name.text()).start(servlet).expect("it starts");
        let segment = name.inspect();
        let holder = || segment.node(0).expect("the only node").lock().holder();
        std::thread::scope(|scope| {
            let call = |number| {
                let server = &server;
                scope.spawn(move || {
                    server.call_with(&Act::Hold(number), patient()).and_then(|reply| reply.into_owned())
                })
            };
            let first = call(1);
            wait_until("a worker waits out its window", || {
                holder().is_some() && ringmill_tests::stats::depth(&server) == 1
            });
            let token = holder().expect("only a death frees it");
            let stopped = segment.participants()[token.index() as usize].pid();
            stop(stopped);
            let hasty = server.call_with(&Act::Double(2), patient().timeout(Duration::from_millis(50)));
            let hasty = hasty.and_then(|reply| reply.into_owned());
            assert!(matches!(hasty, Err(CallError::Timeout { .. })), "{hasty:?}");
            let rest: Vec<_> = (3..6).map(call).collect(); // the batch would be full
            wait_until("all are in the ring", || ringmill_tests::stats::depth(&server) == 5);
            let others: Vec<u32> =
                all_workers(&server).iter().map(|worker| worker.pid).filter(|&pid| pid != stopped).collect();
            let before: u64 = others.iter().map(|&pid| cpu_ns(pid)).sum();
            others.iter().for_each(|&pid| outlast_every_limit(pid));
            let used_ns = others.iter().map(|&pid| cpu_ns(pid)).sum::<u64>() - before;
            eprintln!("two that wait for a stopped holder used {} us of CPU time", used_ns / 1000);
            assert!(used_ns < 200_000_000, "{used_ns} ns: they do not sleep");
            assert_eq!(holder(), Some(token), "it keeps the lock");
            go_on(stopped);
            // One batch of the four whose callers are there, in the order in which they came; each is begun once.
            let mut begun = Vec::new();
            for _ in 0..4 {
                let visit = gate.next();
                assert_eq!((visit.kind.as_str(), visit.pid), ("hold", stopped));
                begun.push(visit.number);
                visit.let_go();
            }
            begun.sort_unstable();
            assert_eq!(begun, [1, 3, 4, 5]);
            for (caller, number) in [first].into_iter().chain(rest).zip([1, 3, 4, 5]) {
                assert_eq!(caller.join().expect("no panic").expect("an answer").value, 2 * number);
            }
            assert!(!gate.has_visitor());
        });
        assert_no_worker_died(&name, &server);
    });
}

#[test]
fn stopped_while_it_starts() {
    guarded(|| {
        for in_time in [true, false] {
            let (name, gate) = (Name::new("slowstart"), ActorGate::new());
            let upbringing = Upbringing { hold_in_constructor: true, ..gate.upbringing() };
            let servlet = ProcessServlet::<Actor>::new(upbringing).cpus(2);
            let limit = if in_time { ENDLESS } else { Duration::from_millis(300) };
            let builder = Server::builder(name.text()).start_timeout(limit);
            std::thread::scope(|scope| {
                let starting = scope.spawn(move || builder.start(servlet));
                let (first, second) = (gate.next(), gate.next());
                stop(first.pid);
                if in_time {
                    second.let_go();
                    let segment = name.inspect();
                    wait_until("the other is ready", || {
                        segment.participants()[1..].iter().any(|entry| entry.life() == Life::Ready)
                    });
                    let other = segment.participants()[1..].iter().find(|entry| entry.pid() != first.pid);
                    outlast_every_limit(other.expect("two").pid());
                    assert!(!starting.is_finished());
                    go_on(first.pid);
                    first.let_go();
                    let server = starting.join().expect("no panic").expect("it starts");
                    assert_no_worker_died(&name, &server);
                } else {
                    match starting.join().expect("no panic") {
                        Err(StartError::Timeout { limit: told, .. }) => assert_eq!(told, limit),
                        other => panic!("{other:?}"),
                    }
                    first.await_death(); // though it is stopped
                }
            });
            name.assert_nothing_left();
        }
    });
}

/// Workers of an ensemble and of the stage after it are stopped at random moments: between two claims, before a push, in a
/// join. Each servlet that must see an item works on it once.
#[test]
fn stopped_at_random_instants() {
    guarded_for(Duration::from_secs(240), || {
        let name = Name::new("slowstorm");
        let next = |label: &str| {
            let servlet = ProcessServlet::<Next>::new(()).name(label).cpus(2);
            servlet.batch_size(4).batch_wait_time(Duration::from_micros(200))
        };
        let sum = ProcessServlet::<Sum>::new(()).cpus(2).batch_size(4).batch_wait_time(Duration::ZERO);
        let servlet = Ensemble::of((next("a"), next("b"), next("c"))).then(sum);
        let server = Server::builder(name.text()).capacity(16).start(servlet).expect("it starts");
        let (over, asked) = (AtomicBool::new(false), AtomicU64::new(0));
        std::thread::scope(|scope| {
            let (server, over, asked) = (&server, &over, &asked);
            for _ in 0..4 {
                scope.spawn(move || {
                    while !over.load(Ordering::Relaxed) {
                        let number = asked.fetch_add(1, Ordering::Relaxed); // Relaxed, both: read after joins
                        let answer = server.call_with(&number, patient()).expect("no worker dies");
                        assert_eq!(*answer, 3 * number + 3);
                    }
                });
            }
            let stopping = scope.spawn(move || {
                let mut dice = 0x9E37_79B9_7F4A_7C15_u64;
                for round in 0..60 {
                    // Marsaglia's xorshift.
                    dice ^= dice << 13;
                    dice ^= dice >> 7;
                    dice ^= dice << 17;
                    let all = all_workers(server);
                    let (victim, other) = (&all[(dice % 8) as usize], &all[(dice % 8) as usize ^ 1]);
                    stop(victim.pid);
                    if round % 10 == 0 {
                        outlast_every_limit(other.pid);
                    }
                    let before = asked.load(Ordering::Relaxed);
                    go_on(victim.pid);
                    let after = before + dice % 50;
                    wait_until("it goes on", || asked.load(Ordering::Relaxed) >= after);
                }
            });
            let stopped = stopping.join();
            over.store(true, Ordering::Relaxed);
            stopped.expect("all stops");
        });
        assert_no_worker_died(&name, &server);
        let asked = asked.into_inner();
        for servlet in server.stats().servlets {
            assert_eq!(servlet.batches().items, asked, "{}: each item once", servlet.name);
        }
        eprintln!("{asked} requests over 60 stops");
    });
}

/// A death is still reported if its process was stopped before.
#[test]
fn a_stopped_process_that_is_killed_is_dead() {
    guarded(|| {
        let (name, gate) = (Name::new("slowdead"), ActorGate::new());
        let server = Server::builder(name.text()).start(gate.processes(1)).expect("it starts");
        std::thread::scope(|scope| {
            let (visit, call) = gate.hold(scope, &server, 1);
            stop(visit.pid);
            signal(visit.pid, libc::SIGKILL);
            match call.join().expect("no panic") {
                Err(CallError::WorkerDied(error)) => {
                    let killed =
                        RemoteCause::Died { signal: Some(libc::SIGKILL), code: None, restarting: true };
                    assert_eq!((error.pid, error.cause), (visit.pid, killed));
                }
                other => panic!("{other:?}"),
            }
        });
        assert_eq!(server.call(&Act::Double(3)).expect("an answer").value, 6);
        name.assert_consistent();
    });
}
