//! Workers and servers that die: every request ends exactly once, nothing hangs, nothing is lost.

use ringmill::error::{RemoteCause, RemoteError};
use ringmill::servlet::RESTART_LIMIT;
use ringmill::stats::WorkerStats;
use ringmill::{CallError, CallOptions, ProcessServlet, Server, StreamOptions, WhenFull};
use ringmill_tests::actor::{Act, Actor, Answer, Rebirth};
use ringmill_tests::actor_gate::{ActorGate, Visit};
use ringmill_tests::guard::guarded;
use ringmill_tests::name::Name;
use ringmill_tests::process::{Process, go_on, signal, sleeps, stat_field, stop};
use ringmill_tests::program::Program;
use ringmill_tests::stats::{assert_sound, depth, pids, workers};
use ringmill_tests::wait_until;
use std::collections::BTreeSet;
use std::time::Duration;

ringmill::init!(Actor);

type Actors = Server<Act, Answer>;
type Outcome = Result<Answer, CallError>;

/// A batch window, or a patience, that no test outlives.
const ENDLESS: Duration = Duration::from_secs(3600);

/// Calls, and waits for a permit if need be.
fn call(server: &Actors, act: Act) -> Outcome {
    let options = CallOptions::new().when_full(WhenFull::Wait).timeout(ENDLESS);
    server.call_with(&act, options)?.into_owned()
}

#[track_caller]
fn value(outcome: &Outcome) -> u64 {
    outcome.as_ref().expect("an answer").value
}

#[track_caller]
fn death(outcome: &Outcome) -> &RemoteError {
    match outcome {
        Err(CallError::WorkerDied(error)) => error,
        other => panic!("{other:?}"),
    }
}

/// Calls side by side; each has been pushed when this returns.
fn call_all<'scope, 'env>(
    scope: &'scope std::thread::Scope<'scope, 'env>,
    server: &'env Actors,
    acts: impl IntoIterator<Item = Act>,
) -> Vec<std::thread::ScopedJoinHandle<'scope, Outcome>> {
    let call_one = |act| {
        let before = depth(server);
        let thread = scope.spawn(move || call(server, act));
        // One at a time, so that they are in the ring in this order.
        wait_until("the call is in the ring", || depth(server) > before || thread.is_finished());
        thread
    };
    acts.into_iter().map(call_one).collect()
}

fn outcomes(threads: Vec<std::thread::ScopedJoinHandle<'_, Outcome>>) -> Vec<Outcome> {
    threads.into_iter().map(|thread| thread.join().expect("no panic")).collect()
}

/// After a death: all is as before, and the server serves.
#[track_caller]
fn assert_serves(server: &Actors) {
    assert_sound(server);
    assert_eq!(value(&call(server, Act::Double(21))), 42);
}

/// The process that holds the reader lock.
fn holder(name: &Name) -> Option<u32> {
    let segment = name.inspect();
    let token = segment.node(0).expect("the only node").lock().holder()?;
    let entry = &segment.participants()[token.index() as usize];
    (entry.token() == Some(token)).then(|| entry.pid())
}

/// Waits until all of a servlet's workers sleep on their bells.
fn await_asleep(name: &Name, server: &Actors) {
    let count = pids(server).len() as u32;
    wait_until("all workers sleep", || {
        let segment = name.inspect();
        let sleepers = segment.node(0).expect("the only node").doorbell().sleepers();
        sleepers.count_ones() == count
            && pids(server).iter().all(|&pid| stat_field(pid, 3).as_deref() == Some("S"))
    });
}

#[test]
fn killed_while_busy_costs_its_batch_and_nothing_else() {
    guarded(|| {
        let (name, gate) = (Name::new("busy"), ActorGate::new());
        let servlet = gate.processes(1).batch_size(4).batch_wait_time(Duration::ZERO);
        let server = Server::builder(name.text()).start(servlet).expect("it starts");
        let victim = pids(&server)[0];
        std::thread::scope(|scope| {
            let (visit, first) = gate.hold(scope, &server, 1);
            // While it is busy a full batch and a half pile up.
            let batch = [Act::Double(2), Act::Double(3), Act::Hold(4), Act::Double(5)];
            let batch = call_all(scope, &server, batch);
            let queued = call_all(scope, &server, [6, 7, 8].map(Act::Double));
            visit.let_go();
            assert_eq!(first.join().expect("no panic").expect("an answer").value, 2);
            let visit = gate.next_hold(4);
            signal(visit.pid, libc::SIGKILL);
            for outcome in outcomes(batch) {
                let error = death(&outcome);
                assert_eq!((error.servlet.as_str(), error.worker, error.pid), ("actor", 0, victim));
                let killed = RemoteCause::Died { signal: Some(libc::SIGKILL), code: None, restarting: true };
                assert_eq!((&error.cause, error.attempt), (&killed, 0));
            }
            for (outcome, number) in outcomes(queued).iter().zip(6..) {
                assert_eq!(value(outcome), 2 * number);
                assert_ne!(outcome.as_ref().expect("an answer").pid, victim);
            }
        });
        assert_serves(&server);
        let worker = workers(&server).remove(0);
        assert_eq!(worker.restarts, 1);
        assert_ne!(worker.pid, victim);
    });
}

#[test]
fn killed_while_holding_the_lock_costs_nothing() {
    guarded(|| {
        for count in [1, 2, 3] {
            let (name, gate) = (Name::new("holder"), ActorGate::new());
            let servlet = gate.processes(count).batch_size(4).batch_wait_time(ENDLESS);
            let server = Server::builder(name.text()).start(servlet).expect("it starts");
            std::thread::scope(|scope| {
                let mut calls = call_all(scope, &server, [1, 2, 3].map(Act::Double));
                wait_until("a worker waits out its window", || holder(&name).is_some());
                let victim = holder(&name).expect("only a death frees it");
                signal(victim, libc::SIGKILL);
                wait_until("another takes over", || holder(&name).is_some_and(|pid| pid != victim));
                assert_eq!(depth(&server), 3, "only looked at");
                calls.extend(call_all(scope, &server, [Act::Double(4)]));
                let outcomes = outcomes(calls);
                assert_eq!(outcomes.iter().map(value).collect::<Vec<_>>(), [2, 4, 6, 8]);
                let by: BTreeSet<u32> = outcomes.iter().flatten().map(|answer| answer.pid).collect();
                assert_eq!(by.len(), 1, "one batch");
                assert!(!by.contains(&victim));
            });
            wait_until("it is restarted", || workers(&server).iter().any(|worker| worker.restarts == 1));
            wait_until("all are back", || workers(&server).iter().all(|worker| worker.ready));
            assert_eq!(server.backlog(), 0);
            name.assert_consistent();
        }
    });
}

#[test]
fn all_killed_at_once_while_one_holds_the_lock() {
    guarded(|| {
        let (name, gate) = (Name::new("all"), ActorGate::new());
        let servlet = gate.processes(3).batch_size(4).batch_wait_time(ENDLESS);
        let server = Server::builder(name.text()).start(servlet).expect("it starts");
        std::thread::scope(|scope| {
            let mut calls = call_all(scope, &server, [1, 2, 3].map(Act::Double));
            wait_until("a worker waits out its window", || holder(&name).is_some());
            let victims = pids(&server);
            victims.iter().for_each(|&pid| signal(pid, libc::SIGKILL));
            calls.extend(call_all(scope, &server, [Act::Double(4)]));
            let outcomes = outcomes(calls);
            assert_eq!(outcomes.iter().map(value).collect::<Vec<_>>(), [2, 4, 6, 8]);
            assert!(outcomes.iter().flatten().all(|answer| !victims.contains(&answer.pid)));
        });
        // A worker whose death has not been noticed yet looks ready.
        wait_until("all are back", || {
            workers(&server).iter().all(|worker| worker.ready && worker.restarts == 1)
        });
        assert_eq!(server.backlog(), 0);
        name.assert_consistent();
    });
}

#[test]
fn a_worker_killed_asleep_costs_nothing() {
    guarded(|| {
        for count in [1, 2] {
            let (name, gate) = (Name::new("asleep"), ActorGate::new());
            let server = Server::builder(name.text()).start(gate.processes(count)).expect("it starts");
            await_asleep(&name, &server);
            // A push would wake the lowest-numbered sleeper.
            let victim = Process::of(pids(&server)[0]);
            signal(victim.pid, libc::SIGKILL);
            for number in 0..10 {
                assert_eq!(value(&call(&server, Act::Double(number))), 2 * number);
            }
            wait_until("it is restarted", || workers(&server)[0].restarts == 1);
            assert_serves(&server);
            assert!(!victim.exists(), "not even as a zombie");
        }
    });
}

#[test]
fn the_only_worker_killed_while_the_server_is_full() {
    guarded(|| {
        let (name, gate) = (Name::new("full"), ActorGate::new());
        let server = Server::builder(name.text()).capacity(8).start(gate.processes(1)).expect("it starts");
        std::thread::scope(|scope| {
            let busy = scope.spawn(|| call(&server, Act::Hold(0)));
            let visit = gate.next_hold(0);
            let queued = call_all(scope, &server, (1..8).map(Act::Double));
            assert!(matches!(server.call(&Act::Double(8)), Err(CallError::ServerBacklogFull { .. })));
            let server = &server;
            let wait = |n| (n, scope.spawn(move || call(server, Act::Double(n))));
            let waiting: Vec<_> = (8..12).map(wait).collect();
            signal(visit.pid, libc::SIGKILL);
            death(&busy.join().expect("no panic"));
            for (outcome, number) in outcomes(queued).iter().zip(1..) {
                assert_eq!(value(outcome), 2 * number);
            }
            for (number, thread) in waiting {
                assert_eq!(value(&thread.join().expect("no panic")), 2 * number);
            }
        });
        assert_serves(&server);
    });
}

#[test]
fn native_ways_to_die() {
    guarded(|| {
        let (name, gate) = (Name::new("native"), ActorGate::new());
        let server = Server::builder(name.text()).start(gate.processes(1)).expect("it starts");
        let ways = [
            (Act::Exit(0), None, Some(0)),
            (Act::Exit(3), None, Some(3)),
            (Act::Abort, Some(libc::SIGABRT), None),
            (Act::Segfault, Some(libc::SIGSEGV), None),
        ];
        for (restarts, (way, signal, code)) in (0..).zip(ways) {
            let pid = pids(&server)[0];
            let outcome = call(&server, way);
            let error = death(&outcome);
            assert_eq!(error.cause, RemoteCause::Died { signal, code, restarting: true }, "{way:?}");
            assert_eq!(error.pid, pid);
            wait_until("it is restarted", || workers(&server)[0].restarts == restarts + 1);
            assert_serves(&server);
        }
        // Whether the runtime of the language catches it or the kernel does: it dies, and only it.
        let outcome = call(&server, Act::OverflowStack);
        let overflow = |s: &Option<i32>| matches!(s, Some(libc::SIGSEGV | libc::SIGABRT));
        assert!(matches!(&death(&outcome).cause, RemoteCause::Died { signal, .. } if overflow(signal)));
        assert_serves(&server);
    });
}

#[test]
fn a_stream_goes_on_over_a_death() {
    guarded(|| {
        let (name, gate) = (Name::new("stream"), ActorGate::new());
        let servlet = gate.processes(2).batch_size(8).batch_wait_time(Duration::ZERO);
        let server = Server::builder(name.text()).capacity(32).start(servlet).expect("it starts");
        let acts = (0..2000).map(|n| if n % 400 == 399 { Act::Abort } else { Act::Double(n) });
        let outcomes: Vec<Outcome> = server.stream(acts).collect();
        assert_eq!(outcomes.len(), 2000);
        let mut died = 0;
        for (outcome, number) in outcomes.iter().zip(0..) {
            match outcome {
                Ok(answer) => assert_eq!(answer.value, 2 * number),
                Err(_) => {
                    assert!(death(outcome).cause.to_string().contains("signal 6"), "{outcome:?}");
                    died += 1;
                }
            }
            if number % 400 == 399 {
                death(outcome);
            }
        }
        assert!((5..=40).contains(&died), "{died} of 5 batches of up to 8");
        assert_serves(&server);
    });
}

#[test]
fn a_worker_that_cannot_restart_takes_its_servlet_down() {
    guarded(|| {
        for (rebirth, said) in [(Rebirth::Aborts, "signal 6"), (Rebirth::Fails, "born only once")] {
            let (name, gate) = (Name::new("down"), ActorGate::new());
            let upbringing = ringmill_tests::actor::Upbringing { rebirth, ..gate.upbringing() };
            let servlet = ProcessServlet::<Actor>::new(upbringing).name("mortal");
            let server = Server::builder(name.text()).capacity(8).start(servlet).expect("it starts");
            let assert_down = |outcome: &Outcome| match outcome {
                Err(CallError::ServletDown { servlet, reason }) => {
                    assert_eq!(servlet, "mortal");
                    assert!(reason.contains(said), "{reason}");
                    assert!(reason.contains(&RESTART_LIMIT.to_string()), "{reason}");
                }
                other => panic!("{other:?}"),
            };
            std::thread::scope(|scope| {
                let busy = scope.spawn(|| call(&server, Act::Hold(0)));
                let visit = gate.next_hold(0);
                let queued = call_all(scope, &server, (1..5).map(Act::Double));
                let streamed = scope.spawn(|| {
                    let options = StreamOptions::new().window(2);
                    server.stream_with((0..100).map(Act::Double), options).collect::<Vec<_>>()
                });
                wait_until("the stream's first are in the ring", || depth(&server) == 6);
                let waiting = [(); 4].map(|()| scope.spawn(|| call(&server, Act::Double(0))));
                signal(visit.pid, libc::SIGKILL);
                death(&busy.join().expect("no panic"));
                outcomes(queued).iter().for_each(assert_down);
                waiting.into_iter().for_each(|thread| assert_down(&thread.join().expect("no panic")));
                let streamed = streamed.join().expect("no panic");
                assert_eq!(streamed.len(), 100, "one for each input");
                streamed.iter().for_each(assert_down);
            });
            assert_down(&call(&server, Act::Double(1)));
            assert_eq!(workers(&server)[0].restarts, RESTART_LIMIT + 1, "the first died with a request");
            wait_until("all permits come back", || server.backlog() == 0);
            name.assert_consistent();
            drop(server);
            name.assert_nothing_left();
        }
    });
}

#[test]
fn one_worker_given_up_leaves_the_others_at_work() {
    guarded(|| {
        let (name, gate) = (Name::new("givenup"), ActorGate::new());
        let upbringing =
            ringmill_tests::actor::Upbringing { rebirth: Rebirth::FirstAborts, ..gate.upbringing() };
        let servlet = ProcessServlet::<Actor>::new(upbringing).cpus(2);
        let server = Server::builder(name.text()).start(servlet).expect("it starts");
        let (victim, survivor) = (pids(&server)[0], pids(&server)[1]);
        signal(victim, libc::SIGKILL);
        let given_up = |worker: &WorkerStats| worker.restarts == RESTART_LIMIT && !worker.ready;
        let mut number = 0;
        wait_until("it is given up", || {
            let answer = call(&server, Act::Double(number)).expect("the other is at work");
            assert_eq!((answer.value, answer.pid), (2 * number, survivor));
            number += 1;
            given_up(&workers(&server)[0])
        });
        for number in 0..100 {
            assert_eq!(value(&call(&server, Act::Double(number))), 2 * number);
        }
        assert_eq!(server.backlog(), 0);
        name.assert_consistent();
    });
}

#[test]
fn a_stopped_holder_keeps_the_lock() {
    guarded(|| {
        let (name, gate) = (Name::new("stopped"), ActorGate::new());
        let servlet = gate.processes(2).batch_size(4).batch_wait_time(ENDLESS);
        let server = Server::builder(name.text()).start(servlet).expect("it starts");
        std::thread::scope(|scope| {
            let mut calls = call_all(scope, &server, [1, 2, 3].map(Act::Double));
            wait_until("a worker waits out its window", || holder(&name).is_some());
            let stopped = holder(&name).expect("only a death frees it");
            let other = pids(&server).into_iter().find(|&pid| pid != stopped).expect("two");
            stop(stopped);
            calls.extend(call_all(scope, &server, [Act::Double(4)]));
            // The other wants the lock, finds that its holder lives, and sleeps on it; several times.
            let before = sleeps(other);
            wait_until("the other has asked for the lock", || sleeps(other) >= before + 5);
            let ended: Vec<bool> = calls.iter().map(|thread| thread.is_finished()).collect();
            assert_eq!(holder(&name), Some(stopped), "calls ended: {ended:?}, {:#?}", workers(&server));
            assert_eq!(ended, [false; 4]);
            go_on(stopped);
            let outcomes = outcomes(calls);
            assert_eq!(outcomes.iter().map(value).collect::<Vec<_>>(), [2, 4, 6, 8]);
            assert!(outcomes.iter().flatten().all(|answer| answer.pid == stopped));
        });
        assert_eq!(server.backlog(), 0);
        assert!(workers(&server).iter().all(|worker| worker.restarts == 0));
        name.assert_consistent();
    });
}

#[test]
fn workers_leave_when_their_server_is_killed() {
    guarded(|| {
        let (name, gate) = (Name::new("orphans"), ActorGate::new());
        let (mut program, pids) = Program::start_ready(&name, &gate, &["workers=3"]);
        // One worker amid an item that it will end, one amid an item that it will not end.
        let ending = program.hold(&gate, 1);
        let _hanging = program.hold(&gate, 2);
        let workers: Vec<Process> = pids.iter().map(|&pid| Process::of(pid)).collect();
        signal(program.pid(), libc::SIGKILL);
        ending.try_let_go();
        let end = program.end();
        assert_eq!((end.stdout.as_str(), end.stderr.as_str()), ("", ""));
        wait_until("no worker is left", || !workers.iter().any(|worker| worker.exists()));
        name.assert_nothing_left();
    });
}

#[test]
fn a_server_killed_while_it_starts_leaves_nothing() {
    guarded(|| {
        let (name, gate) = (Name::new("unborn"), ActorGate::new());
        let program = Program::start(&name, &gate, &["workers=2", "hold-in-constructor"]);
        let visits = [gate.next(), gate.next()];
        signal(program.pid(), libc::SIGKILL);
        let end = program.end();
        assert_eq!((end.stdout.as_str(), end.stderr.as_str()), ("", ""));
        visits.into_iter().for_each(Visit::await_death);
        name.assert_nothing_left();
    });
}

#[test]
fn a_name_can_be_reused_at_once() {
    guarded(|| {
        let (name, gate) = (Name::new("again"), ActorGate::new());
        for number in 0..10 {
            let (mut program, _) = Program::start_ready(&name, &gate, &["workers=4"]);
            program.hold(&gate, number).let_go();
            assert_eq!(program.line(), format!("answer {}", 2 * number));
            program.kill_and_wait();
            // Its workers may still be on their way out, and the last of them removing the files.
            let server = Server::builder(name.text()).start(gate.processes(1)).expect("it starts");
            assert_eq!(value(&call(&server, Act::Double(1))), 2);
            name.assert_consistent();
            program.end();
            assert_eq!(
                value(&call(&server, Act::Double(2))),
                4,
                "the former's workers removed nothing of it"
            );
            assert!(name.segment_exists());
            drop(server);
            name.assert_nothing_left();
            gate.forget_visits();
        }
    });
}

#[test]
fn the_next_start_removes_a_dead_servers_files() {
    guarded(|| {
        let (name, gate) = (Name::new("stale"), ActorGate::new());
        // Only threads: no worker survives the server.
        let (program, _) = Program::start_ready(&name, &gate, &["threads"]);
        program.signal_group(libc::SIGKILL);
        program.end();
        assert!(name.segment_exists());
        let (program, _) = Program::start_ready(&name, &gate, &["threads"]);
        program.signal_group(libc::SIGKILL);
        program.end();
        // Processes that die with the server.
        let (program, _) = Program::start_ready(&name, &gate, &[]);
        program.signal_group(libc::SIGKILL);
        program.end();
        assert!(name.segment_exists());
        let server = Server::builder(name.text()).start(gate.processes(1)).expect("it starts");
        assert_eq!(value(&call(&server, Act::Double(1))), 2);
        drop(server);
        name.assert_nothing_left();
    });
}
