//! Workers.

use super::{
    Estate, HOUR, Half, Hand, Heir, Length, Letter, SET_UP, SOON, Where, all_ok, batch_of_three, brief,
    builder, foreman, hands, me, node_of, part, pids, probes, remote, say, segment,
};
use ringmill::error::RemoteCause;
use ringmill::servlet::Pin;
use ringmill::{CallError, Cpus, PassThrough, ProcessServlet, Server, Servlet, StartError};
use ringmill_shm::participant::Life;
use ringmill_tests::alone::alone;
use ringmill_tests::gate::Gate;
use ringmill_tests::guard::guarded;
use ringmill_tests::host::{Crew, Host, on_both};
use ringmill_tests::listener::Hearer;
use ringmill_tests::name::Name;
use ringmill_tests::pile::{hold, pile_up, stream_all, wait_for_depth};
use ringmill_tests::probe::{Probe, ask, batch_sizes, stopper};
use ringmill_tests::process::signal;
use ringmill_tests::program::Program;
use ringmill_tests::traces::assert_gone;
use ringmill_tests::{fresh_name, wait_until};
use std::collections::BTreeSet;
use std::os::unix::process::ExitStatusExt;
use std::sync::mpsc;
use std::time::Duration;

/// A server has started when each of its workers has said that it is ready; if a worker cannot, the start's error says which one
/// and why, and nothing is left of the others.
#[test]
fn worker_01_handshake_waits_for_every_worker_and_names_the_one_that_fails() {
    on_both(|host| {
        let (gate, name) = (Gate::new(), fresh_name("promises"));
        std::thread::scope(|scope| {
            let (builder, brief) = (Server::builder(&name), brief(&gate, "stop"));
            let starting = scope.spawn(move || host.start::<Hand>(builder, brief, Crew::of(2)));
            let mut arrivals = gate.arrivals(2);
            drop(arrivals.pop());
            let ready =
                || segment(&name).participants()[1..].iter().filter(|w| w.life() == Life::Ready).count();
            wait_until("one of them is ready", || ready() == 1);
            assert!(!starting.is_finished(), "the other one is not");
            drop(arrivals);
            let server = starting.join().expect("it starts");
            assert!(server.stats().servlets[0].workers.iter().all(|worker| worker.ready));
        });
        assert_gone(&name);
        let error = host.try_start::<Hand>(Server::builder(&name), brief(&gate, "fail 1"), Crew::of(3));
        let StartError::Worker(error) = error.map(drop).expect_err("one fails") else { panic!("its own") };
        assert_eq!((error.servlet.as_str(), error.worker), ("hand", 1));
        assert!(
            error
                .cause
                .to_string()
                .ends_with("Misread: the model cannot be read: invalid digit found in string")
        );
        assert_gone(&name);
    });
    // With a backtrace, where the worker's environment asks for them.
    let servlet =
        ProcessServlet::<Hand>::new(brief(&Gate::new(), "fail 1")).cpus(2).env("RUST_BACKTRACE", "1");
    let error = builder().start(servlet).map(drop).expect_err("one fails");
    let StartError::Worker(error) = error else { panic!("its own: {error}") };
    let backtrace = error.cause.backtrace().expect("a stack");
    assert!(backtrace.contains("misread"), "{backtrace}");
}

/// Each worker gets its own copy of the value that its servlet was made with, wherever it lives.
#[test]
fn worker_02_configuration_reaches_each_worker_whole() {
    on_both(|host| {
        let gate = Gate::new();
        let estate = Estate {
            gate: gate.name(),
            weights: vec![0.1, -0.0, f32::MAX],
            names: vec![(7, None), (u16::MAX, Some("Ågot".repeat(100)))],
        };
        let _server = host.start::<Heir>(builder(), estate.clone(), Crew::of(3));
        let got: Vec<String> = (0..3).map(|_| gate.arrival().label().to_owned()).collect();
        assert_eq!(got, vec![format!("{estate:?}"); 3]);
        assert!(gate.arrival_if_any().is_none(), "one each");
    });
}

/// The constructor learns which worker it builds, how its batches are made, where it is pinned, and how often it has been
/// started before.
#[test]
fn worker_03_context_tells_name_index_batches_cpus_node_and_restarts() {
    on_both(|host| {
        let gate = Gate::new();
        let cpu = *ringmill::cpu::allowed().last().expect("we run on one");
        let crew = Crew::on(Cpus::list([Pin::to([cpu]), Pin::any()])).patient(4, SOON);
        let server = hands(host, &gate, "tell", crew);
        let name = server.name();
        let expected = |index: usize, restarts| {
            let (cpus, node) = if index == 0 { (vec![cpu], node_of(cpu)) } else { (vec![], None) };
            format!(
                "{name}/hand/{index} of {name}, {index} of hand, batch 4 in {SOON:?}, CPUs {cpus:?}, node {node:?}, restarts {restarts}"
            )
        };
        let labels: BTreeSet<String> = (0..2).map(|_| gate.arrival().label().to_owned()).collect();
        assert_eq!(labels, [expected(0, 0), expected(1, 0)].into());
        let gave_up = remote(say(&server, "fatal")).worker;
        assert_eq!(gate.arrival().label(), expected(gave_up as usize, 1));
    });
}

/// With no batch size, or 1, the worker sees items one at a time; with a larger n it sees up to n.
#[test]
fn worker_04_batch_size_none_one_and_many() {
    on_both(|host| {
        for (crew, sizes) in [
            (Crew::of(1), &[1; 7][..]),
            (Crew::of(1).batches_of(1), &[1; 7]),
            (Crew::of(1).greedy(3), &[3, 3, 1]),
        ] {
            let gate = Gate::new();
            let server = probes(host, &gate, crew);
            let seen = all_ok(pile_up(&server, &gate, stopper(), (0..7).map(ask).collect()));
            assert_eq!(batch_sizes(&seen), sizes);
        }
    });
}

/// Whether an item that has waited out its window behind a busy worker then leaves alone, without another item that comes a
/// little before the end of a window counted from its collection.
fn leaves_as_soon_as_its_own_window_is_over(host: Host) -> bool {
    const WINDOW: Duration = Duration::from_secs(1);
    let gate = Gate::new();
    let server = &probes(host, &gate, Crew::of(1).patient(2, WINDOW));
    std::thread::scope(|scope| {
        // A full batch, so that the worker is busy without having waited.
        let first = scope.spawn(|| stream_all(server, [stopper(), stopper()]));
        let busy = gate.arrival();
        let aged =
            scope.spawn(|| server.call(&stopper()).expect("an answer").into_owned().expect("its own value"));
        wait_for_depth(server, 1);
        std::thread::sleep(WINDOW); // the test needs time to pass
        let (left, has_left) = mpsc::channel();
        let late = scope.spawn(move || {
            let _ = has_left.recv_timeout(WINDOW * 9 / 10);
            server.call(&ask(2)).expect("an answer").into_owned().expect("its own value")
        });
        busy.release();
        let arrival = gate.arrival();
        let _ = left.send(()); // the receiver has gone if that took nearly as long as the window
        arrival.release();
        all_ok(first.join().expect("no panic"));
        late.join().expect("no panic");
        aged.join().expect("no panic").len == 1
    })
}

/// A window needs batches, and comes by itself with them: 10 ms if nothing else is said. It is counted from
/// when the oldest item was sent.
#[test]
fn worker_05_batch_wait_time_has_its_rule_its_default_and_its_clock() {
    on_both(|host| {
        for (crew, batch) in [
            (Crew::of(1), "batch 0 in 0ns"),
            (Crew::of(1).batches_of(1), "batch 1 in 0ns"),
            (Crew::of(1).batches_of(2), "batch 2 in 10ms"),
            (Crew::of(1).greedy(2), "batch 2 in 0ns"),
        ] {
            let gate = Gate::new();
            let _server = hands(host, &gate, "tell", crew);
            let arrival = gate.arrival();
            assert!(arrival.label().contains(batch), "{arrival:?}");
        }
        for size in [0, 1] {
            let error = host.try_start::<Probe>(builder(), String::new(), Crew::of(1).patient(size, SOON));
            let error = error.map(drop).expect_err("a window without batches").to_string();
            assert!(error.contains(&format!("batch_size {size} with batch_wait_time {SOON:?}")), "{error}");
        }
        // Several tries, because the machine may be too busy at one of them.
        assert!((0..5).any(|_| leaves_as_soon_as_its_own_window_is_over(host)));
    });
}

/// `call` reads its inputs in the segment itself; each outcome goes to the input of its position, and if their numbers differ,
/// every item of the batch gets that error.
#[test]
fn worker_06_call_reads_in_place_and_answers_item_for_item() {
    on_both(|host| {
        let server = host.start::<Where>(builder(), (), Crew::of(1));
        for length in [10, 5000] {
            let lies = server.call(&vec![7; length]).expect("an answer").into_owned().expect("its own value");
            let file = server.segment_path().display().to_string();
            assert!(lies.starts_with(&format!("{file} at ")), "{lies}");
        }
        let server = foreman(host);
        assert_eq!(batch_of_three(&server, ["a", "b", "c"]), ["a", "b", "c"].map(|text| Ok(text.into())));
        let miscounted = "the worker's call gave 2 outcomes for a batch of 3; none was used";
        let outcomes = batch_of_three(&server, ["too few", "b", "c"]);
        assert_eq!(outcomes, [(); 3].map(|()| Err(miscounted.into())));
    });
}

/// A failure of a batch is the outcome of each of its items, a failure of an item is that of this item alone; the worker goes on.
#[test]
fn worker_07_exceptions_reach_exactly_the_items_they_concern() {
    on_both(|host| {
        let server = foreman(host);
        let pid = pids(&server);
        let errors = batch_of_three(&server, ["error", "b", "c"]);
        assert_eq!(errors, [(); 3].map(|()| Err("all of it is bad".into())));
        for outcome in batch_of_three(&server, ["panic", "b", "c"]) {
            assert!(outcome.as_ref().is_err_and(|e| e.starts_with("panicked: all of it")), "{outcome:?}");
        }
        let outcomes = batch_of_three(&server, ["one by one", "fail", "c"]);
        assert_eq!(outcomes, [Ok("one by one".into()), Err("this one is bad".into()), Ok("c".into())]);
        let worker = &server.stats().servlets[0].workers[0];
        assert_eq!((vec![worker.pid], worker.restarts), (pid, 0));
    });
}

/// `preprocess` may first make something else of each item; an item at which it fails is answered with its error, and is not
/// part of the batch's work.
#[test]
fn worker_08_preprocess_answers_what_it_refuses_and_changes_the_type() {
    on_both(|host| {
        let outcomes = batch_of_three(&foreman(host), ["sum", "20", "22"]);
        assert!(outcomes[0].as_ref().is_err_and(|e| e.ends_with("invalid digit found in string")));
        assert_eq!(outcomes[1..], [Ok("42 of 2".to_string()), Ok("42 of 2".to_string())]);
    });
}

/// An item that has failed is seen by no worker after that, and its error comes out as it was.
#[test]
fn worker_09_errors_pass_by_later_workers_untouched() {
    on_both(|host| {
        let gate = Gate::new();
        let alone = builder().start(part(host, &gate, "a", 1)).expect("it starts");
        let first_of_three =
            part(host, &gate, "a", 1).then(part(host, &gate, "b", 1)).then(part(host, &gate, "c", 1));
        let server = builder().start(first_of_three).expect("it starts");
        let (mut expected, error) = (remote(say(&alone, "fail a")), remote(say(&server, "fail a")));
        expected.pid = pids(&server)[0];
        assert_eq!(error, expected);
        let seen: Vec<u64> = server.stats().servlets.iter().map(|servlet| servlet.batches().items).collect();
        assert_eq!(seen, [1, 0, 0]);
        assert_eq!(say(&server, "x").expect("an answer"), "x>a>b>c");
    });
}

/// One worker has as many batches in progress at once as it has threads, and mixes up none of them.
#[test]
fn worker_10_stream_threads_have_batches_in_progress_side_by_side() {
    on_both(|host| {
        let gate = Gate::new();
        let server = &hands(host, &gate, "", Crew::of(1).threads(3));
        std::thread::scope(|scope| {
            let items = ["stop, 1", "stop, 2", "stop, 3"];
            let calls = items.map(|item| scope.spawn(move || say(server, item)));
            let arrivals = gate.arrivals(3);
            let names: BTreeSet<&str> = arrivals.iter().map(|arrival| arrival.label()).collect();
            let expected: Vec<_> =
                (0..3).map(|thread| format!("{}/hand/0.{thread}", server.name())).collect();
            assert_eq!(names, expected.iter().map(String::as_str).collect());
            drop(arrivals);
            let answers = calls.map(|call| call.join().expect("no panic").expect("an answer"));
            assert_eq!(answers, items.map(|item| format!("{item}>hand")));
        });
    });
}

/// A worker that leaves learns why, once; errors and panics that are not fatal do not make it leave.
#[test]
fn worker_11_cleanup_gets_the_reason() {
    on_both(|host| {
        let gate = Gate::new();
        let server = hands(host, &gate, "leave", Crew::of(1));
        remote(say(&server, "fail"));
        remote(say(&server, "panic"));
        assert_eq!(say(&server, "x").expect("it goes on"), "x>hand");
        assert!(gate.arrival_if_any().is_none());
        remote(say(&server, "fatal"));
        assert_eq!(gate.arrival().label(), "Fatal");
        assert_eq!(say(&server, "x").expect("another goes on"), "x>hand");
        drop(server);
        assert_eq!(gate.arrival().label(), "Shutdown");
        assert!(gate.arrival_if_any().is_none());
    });
}

/// A shutdown refuses new requests, ends those in progress, and lets the workers leave; one that does not leave in time is
/// killed.
#[test]
fn worker_12_shutdown_drains_in_order_and_kills_what_hangs() {
    on_both(|host| {
        let (gate, name) = (Gate::new(), fresh_name("promises"));
        let builder = Server::builder(&name).capacity(2);
        let server =
            &host.start::<Hand>(builder.clone().shutdown_timeout(HOUR), brief(&gate, ""), Crew::of(1));
        std::thread::scope(|scope| {
            let (arrival, held) = hold(scope, server, &gate, "stop".into());
            let queued = scope.spawn(|| say(server, "queued"));
            wait_for_depth(server, 1);
            let ending = scope.spawn(|| server.shutdown());
            // Until then it refuses them for want of a permit.
            wait_until("it takes no calls", || matches!(say(server, "late"), Err(CallError::ShuttingDown)));
            assert!(!ending.is_finished());
            arrival.release();
            assert_eq!(held.join().expect("no panic").expect("it was begun"), "stop>hand");
            assert_eq!(queued.join().expect("no panic").expect("it was there"), "queued>hand");
        });
        assert_gone(&name);
        if host == Host::Processes {
            let server = &host.start::<Hand>(builder.shutdown_timeout(SOON), brief(&gate, ""), Crew::of(1));
            std::thread::scope(|scope| {
                let (_arrival, held) = hold(scope, server, &gate, "stop".into());
                server.shutdown();
                let killed = RemoteCause::KilledByShutdown { limit_ns: Some(SOON.as_nanos() as u64) };
                assert_eq!(remote(held.join().expect("no panic")).cause, killed);
                assert_gone(&name);
            });
        }
    });
}

/// Ctrl-C ends the requests in progress, and then workers and server, without a message; a second one does not wait.
#[test]
fn worker_13_ctrl_c_is_quiet_and_a_second_one_kills() {
    guarded(|| {
        for (options, patient) in [(&["workers=2"][..], true), (&["threads"], true), (&["workers=2"], false)]
        {
            let (name, gate) = (Name::new("ctrl-c"), ringmill_tests::actor_gate::ActorGate::new());
            let (mut program, _) = Program::start_ready(&name, &gate, options);
            let busy = program.hold(&gate, 1);
            program.tell("watch");
            program.signal_group(libc::SIGINT);
            assert_eq!(program.line(), "refused");
            if patient {
                busy.let_go();
                let kinds = [(); 2].map(|()| gate.next().kind);
                assert_eq!(kinds, ["cleanup-shutdown", "cleanup-shutdown"]);
            } else {
                program.signal_group(libc::SIGINT);
                busy.await_death();
            }
            let end = program.end(); // and of all its workers, which have its output
            assert_eq!((end.status.signal(), end.stderr.as_str()), (Some(libc::SIGINT), ""));
            assert!(["", "answer 2\n", "died 1\n"].contains(&end.stdout.as_str()), "{end:?}");
            name.assert_nothing_left();
        }
    });
}

/// Number and sizes of batches can be read at any moment, from any process that maps the segment, and are logged after every n
/// batches.
#[test]
fn worker_14_batch_statistics_are_live_and_logged() {
    on_both(|host| {
        let gate = Gate::new();
        let server = &hands(host, &gate, "log", Crew::of(1).greedy(3).logging_every(2));
        let batches = || {
            let counters = segment(server.name()).participants()[1].counters().snapshot();
            (counters.batches, counters.items, counters.batch_min, counters.batch_max)
        };
        std::thread::scope(|scope| {
            let (arrival, held) = hold(scope, server, &gate, "stop".into());
            assert_eq!(batches(), (1, 1, 1, 1), "while it is at work");
            let three = scope.spawn(|| stream_all(server, ["1", "2", "3"].map(String::from)));
            wait_for_depth(server, 3);
            arrival.release();
            held.join().expect("no panic").expect("an answer");
            all_ok(three.join().expect("no panic"));
        });
        assert_eq!(batches(), (2, 4, 1, 3));
        assert_eq!(server.stats().servlets[0].batches().mean(), 2.0);
        let line = gate.arrival();
        assert!(line.label().ends_with("worker=0 thread=0 count=2 min=1 max=3 mean=2.0"), "{line:?}");
    });
}

/// While a worker is at work the items for its next batch gather in the ring, so that the next batch is full.
#[test]
fn worker_15_prefetch_is_what_lies_in_the_ring() {
    on_both(|host| {
        let gate = Gate::new();
        let server = &probes(host, &gate, Crew::of(1).greedy(4));
        std::thread::scope(|scope| {
            let (arrival, held) = hold(scope, server, &gate, stopper());
            let items = scope.spawn(|| stream_all(server, (0..4).map(ask)));
            wait_for_depth(server, 4);
            arrival.release();
            assert_eq!(held.join().expect("no panic").expect("an answer").batch, 1);
            let seen = all_ok(items.join().expect("no panic"));
            assert!(seen.iter().all(|item| (item.batch, item.len) == (2, 4)), "{seen:?}");
        });
        assert_eq!(server.stats().servlets[0].total().closed_full, 1);
    });
}

/// A function or a closure is enough to have a worker; the worker that answers with its input leaves that where
/// it lies.
#[test]
fn worker_16_make_worker_and_pass_through() {
    on_both(|host| {
        let halves = host.start::<Half>(builder(), (), Crew::of(1));
        assert_eq!(*halves.call(&84).expect("even"), 42);
        assert_eq!(remote(halves.call(&7)).cause.to_string(), "7 is odd");
        let lengths = host.start::<Length>(builder(), (), Crew::of(1).greedy(4));
        assert_eq!(*lengths.call(&"four".into()).expect("an answer"), 4);
        let echo = host.start::<PassThrough<Letter>>(builder(), (), Crew::of(1));
        for length in [10, 5000] {
            let letter = Letter::of(length);
            let reply = echo.call(&letter).expect("an answer");
            assert_eq!((reply.text.as_str(), reply.writer.to_native()), (letter.text.as_str(), me()));
        }
    });
}

/// What `init!` sets up is set up once in each worker's process, before its workers are built; an error of it is the start's.
#[test]
fn worker_17_each_process_is_set_up_once_before_its_workers() {
    guarded(|| {
        let (gate, name) = (Gate::new(), fresh_name("promises"));
        let hands = |reports_to: String| {
            let brief = brief(&gate, "tell");
            ProcessServlet::<Hand>::new(brief).name("hand").stream_threads(2).env(SET_UP, reports_to)
        };
        let server = Server::builder(&name).start(hands(gate.name())).expect("it starts");
        let said = gate.arrivals(3);
        assert_eq!(said[0].label(), format!("set up for {name}/hand/0.0"));
        assert!(said[1..].iter().all(|built| !built.label().starts_with("set up")), "{said:?}");
        assert!(gate.arrival_if_any().is_none());
        drop(server);
        let error = Server::builder(&name).start(hands(String::new())).expect_err("its set-up fails");
        assert!(error.to_string().ends_with("set-up: no gate to report to"), "{error}");
        assert_gone(&name);
    });
}

/// A service that asks for them logs the events of its workers' processes, also the last ones of a worker that is killed.
#[test]
fn worker_18_the_service_logs_what_workers_log() {
    alone("promises::worker::worker_18_the_service_logs_what_workers_log", || {
        let (heard, name) = (Hearer::of_this_process(), fresh_name("promises"));
        let servlet = ProcessServlet::<Half>::new(()).name("half").batch_size(1).log_batches_every(1);
        let server =
            Server::builder(&name).forward_events(tracing::Level::INFO).start(servlet).expect("it starts");
        let victim = server.stats().servlets[0].workers[0].pid;
        for _ in 0..2 {
            // A worker logs a batch after its answers, and before it collects the next batch.
            assert_eq!(*server.call(&8).expect("an answer"), 4);
        }
        signal(victim, libc::SIGKILL);
        let (worker, pid) = (format!("worker={name}/half/0"), format!("pid={victim}"));
        heard.await_line(&[
            "INFO ringmill::worker ",
            "message=batches",
            &worker,
            &pid,
            "count=1 min=1 max=1",
        ]);
        drop(server);
        assert_gone(&name);
    });
}
