//! What must not be.

use super::{
    HOUR, Hand, Join, Letter, all_ok, brief, builder, hands, kill_the_collector, lies_in, me, parts, pids,
    remote, say,
};
use ringmill::error::RemoteCause;
use ringmill::{CallError, CallOptions, Ensemble, PassThrough, ProcessServlet, Servlet, ThreadServlet};
use ringmill_tests::alone::has_run_alone;
use ringmill_tests::gate::Gate;
use ringmill_tests::host::{Crew, Host, on_both};
use ringmill_tests::pile::{hold, stream_all};
use ringmill_tests::process::{signal, sleeps_in};
use ringmill_tests::{GUARD, wait_until};
use std::collections::BTreeSet;
use std::sync::{Barrier, mpsc};
use std::time::Duration;

/// The requests that a killed worker had claimed end with an error, and their permits are free.
#[test]
fn not_01_requests_of_a_killed_worker_wait_for_ever() {
    let gate = Gate::new();
    let builder = builder().capacity(3);
    let server = &Host::Processes.start::<Hand>(builder, brief(&gate, ""), Crew::of(1).patient(3, HOUR));
    std::thread::scope(|scope| {
        let calls = [(); 3].map(|()| scope.spawn(|| say(server, "stop")));
        let arrival = gate.arrival();
        let victim = pids(server)[0];
        signal(victim, libc::SIGKILL);
        for call in calls {
            let error = remote(call.join().expect("no panic"));
            let killed = RemoteCause::Died { signal: Some(libc::SIGKILL), code: None, restarting: true };
            assert_eq!((error.pid, error.cause), (victim, killed));
        }
        drop(arrival);
    });
    // Its permit too: three more requests are a full batch again.
    assert_eq!(server.backlog(), 0);
    assert_eq!(all_ok(stream_all(server, ["1", "2", "3"].map(String::from))), ["1>hand", "2>hand", "3>hand"]);
}

/// A worker that dies with the reader lock in its hand holds up none of the others, even if it never returns.
#[test]
fn not_02_a_dead_lock_holder_stops_the_others() {
    let gate = Gate::new();
    let server = &hands(Host::Processes, &gate, "once", Crew::of(2).patient(2, HOUR));
    std::thread::scope(|scope| {
        let first = scope.spawn(|| say(server, "first"));
        let victim = kill_the_collector(server);
        assert_eq!(say(server, "second").expect("an answer"), "second>hand");
        assert_eq!(first.join().expect("no panic").expect("an answer"), "first>hand");
        wait_until("its death is noticed", || !pids(server).contains(&victim));
    });
    assert_eq!(all_ok(stream_all(server, (0..100).map(|i| i.to_string()))).len(), 100);
}

/// A worker that dies is restarted.
#[test]
fn not_03_no_restart_of_a_worker_that_died() {
    let gate = Gate::new();
    let server = hands(Host::Processes, &gate, "tell", Crew::of(1));
    assert!(gate.arrival().label().ends_with("restarts 0"));
    for restarts in 1..=2 {
        let victim = pids(&server)[0];
        signal(victim, libc::SIGKILL);
        assert!(gate.arrival().label().ends_with(&format!("restarts {restarts}")));
        assert_eq!(say(&server, "x").expect("the next one answers"), "x>hand");
        assert_ne!(pids(&server)[0], victim);
    }
}

/// A request whose caller no longer waits is skipped.
#[test]
fn not_04_timed_out_items_still_run() {
    on_both(|host| {
        let gate = Gate::new();
        let server = &hands(host, &gate, "", Crew::of(1));
        std::thread::scope(|scope| {
            let (arrival, held) = hold(scope, server, &gate, "stop".into());
            for _ in 0..3 {
                // Would come to the gate, if it ran.
                let late =
                    server.call_with(&"stop".into(), CallOptions::new().timeout(Duration::ZERO)).map(drop);
                assert!(matches!(late, Err(CallError::Timeout { .. })), "{late:?}");
            }
            arrival.release();
            held.join().expect("no panic").expect("an answer");
        });
        assert_eq!(say(server, "x").expect("an answer"), "x>hand");
        assert!(gate.arrival_if_any().is_none());
        let total = server.stats().servlets[0].total();
        assert_eq!((total.skipped, total.items), (3, 2));
    });
}

/// How often the threads of these processes have gone to sleep by themselves.
fn sleeps(pids: &BTreeSet<u32>) -> u64 {
    let tasks = |pid| std::fs::read_dir(format!("/proc/{pid}/task")).expect("it lives").flatten();
    let sleeps =
        |task: std::fs::DirEntry| sleeps_in(&task.path().join("status").display().to_string()).unwrap_or(0);
    pids.iter().flat_map(tasks).map(sleeps).sum()
}

/// While an ensemble waits for a member, all idle threads sleep.
#[test]
fn not_05_the_ensemble_polls() {
    /// A look every 5 ms would be 200 in a second. The engine's threads wake a few times a second each, as a backstop.
    const FEW: u64 = 100;
    // Its process's threads are to be its own.
    if has_run_alone("promises::not::not_05_the_ensemble_polls") {
        return;
    }
    on_both(|host| {
        let gate = Gate::new();
        let server = &builder().start(Ensemble::each(parts(host, &gate, "abc"))).expect("it starts");
        std::thread::scope(|scope| {
            let call = scope.spawn(|| server.call(&"stop a".into()).map(drop));
            let arrival = gate.arrival();
            let items = |member: usize| server.stats().servlets[member].batches().items;
            wait_until("the others have done theirs", || (items(1), items(2)) == (1, 1));
            let all = pids(server).into_iter().chain([std::process::id()]).collect();
            let before = sleeps(&all);
            std::thread::sleep(Duration::from_secs(1)); // idleness is what this test is about
            let slept = sleeps(&all) - before;
            assert!(slept < FEW, "{slept} sleeps with {host:?}");
            arrival.release();
            call.join().expect("no panic").expect("an answer");
        });
    });
}

/// All workers of all servlets are built side by side: none is ready before the last one has begun.
#[test]
fn not_06_workers_start_one_after_another() {
    on_both(|host| {
        let gate = Gate::new();
        let hands = |label: &str| match host {
            Host::Processes => ProcessServlet::<Hand>::new(brief(&gate, "stop")).name(label).cpus(2).boxed(),
            Host::Threads => ThreadServlet::<Hand>::new(brief(&gate, "stop")).name(label).cpus(2).boxed(),
        };
        let servlet =
            Ensemble::each([hands("a"), hands("b")]).then(ThreadServlet::<Join>::new(())).then(hands("c"));
        std::thread::scope(|scope| {
            let starting = scope.spawn(|| builder().start_timeout(2 * GUARD).start(servlet));
            let arrivals = gate.arrivals(6);
            assert!(!starting.is_finished());
            drop(arrivals);
            starting.join().expect("no panic").expect("it starts");
        });
    });
}

/// With any number of calls at the same moment, no more than the capacity are in progress.
#[test]
fn not_07_a_race_exceeds_the_capacity() {
    const CAPACITY: usize = 3;
    const CALLERS: usize = 8;
    on_both(|host| {
        let gate = Gate::new();
        // A worker for each caller: a call that gets a permit reaches the gate, and keeps the permit.
        let server = &host.start::<Hand>(builder().capacity(CAPACITY), brief(&gate, ""), Crew::of(CALLERS));
        for _ in 0..20 {
            let (all_at_once, (refused, refusals)) = (&Barrier::new(CALLERS), mpsc::channel());
            std::thread::scope(|scope| {
                for _ in 0..CALLERS {
                    let refused = refused.clone();
                    scope.spawn(move || {
                        all_at_once.wait();
                        match say(server, "stop") {
                            Ok(answer) => assert_eq!(answer, "stop>hand"),
                            Err(CallError::ServerBacklogFull { .. }) => refused.send(()).expect("heard"),
                            Err(error) => panic!("{error}"),
                        }
                    });
                }
                for _ in CAPACITY..CALLERS {
                    refusals.recv_timeout(GUARD).expect("a call that finds no permit is refused");
                }
                let arrivals = gate.arrivals(CAPACITY);
                assert_eq!(server.backlog(), CAPACITY);
                assert!(gate.arrival_if_any().is_none() && refusals.try_recv().is_err());
                drop(arrivals);
            });
        }
        assert_eq!(server.backlog(), 0);
    });
}

/// A request is written once and read where it was written, through however many processes it goes.
#[test]
fn not_08_items_are_copied_from_process_to_process() {
    on_both(|host| {
        let servlet = || match host {
            Host::Processes => ProcessServlet::<PassThrough<Letter>>::new(()).boxed(),
            Host::Threads => ThreadServlet::<PassThrough<Letter>>::new(()).boxed(),
        };
        let server = builder().start(servlet().then(servlet()).then(servlet())).expect("it starts");
        for length in [10, 5000] {
            let letter = Letter::of(length);
            let reply = server.call(&letter).expect("an answer");
            assert_eq!((reply.text.as_str(), reply.writer.to_native()), (letter.text.as_str(), me()));
            let file = server.segment_path().display().to_string();
            assert!(lies_in(reply.text.as_ptr()).starts_with(&format!("{file} at ")));
        }
    });
}
