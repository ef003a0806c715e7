//! What the log of the service tells of its workers: for whom a shutdown waits and whom it kills, and that user code has
//! panicked.
//!
//! Symptom: a worker that hung made Ctrl-C ten seconds of silence, after which its caller was told that signal 9 had killed
//! it; a panic of user code was in no log. Cause: neither was told to anyone but the item's caller. Fix: events of the
//! service, and an error of its own for what the shutdown kills.
//!
//! Each test has a process of its own, since the log's listener is the whole process's.

use ringmill::error::RemoteCause;
use ringmill::rkyv::Archived;
use ringmill::{CallError, CallOptions, ProcessServlet, Server, ThreadServlet, WhenFull};
use ringmill_tests::actor::{Act, Actor, Answer};
use ringmill_tests::actor_gate::ActorGate;
use ringmill_tests::alone::alone;
use ringmill_tests::listener::Hearer;
use ringmill_tests::name::Name;
use std::time::Duration;

ringmill::init!(Actor, Fragile);

const ENDLESS: Duration = Duration::from_secs(3600);

type Outcome = Result<Answer, CallError>;

fn call(server: &Server<Act, Answer>, act: Act) -> Outcome {
    let options = CallOptions::new().when_full(WhenFull::Wait).timeout(ENDLESS);
    server.call_with(&act, options)?.into_owned()
}

#[test]
fn a_shutdown_says_for_whom_it_waits() {
    alone("told::a_shutdown_says_for_whom_it_waits", || {
        let heard = Hearer::of_this_process();
        let (name, gate) = (Name::new("waits"), ActorGate::new());
        let builder = Server::builder(name.text()).shutdown_timeout(ENDLESS);
        let server = builder.clone().start(gate.processes(1)).expect("it starts");
        let worker = format!("worker={}/actor/0", name.text());
        std::thread::scope(|scope| {
            let busy = scope.spawn(|| call(&server, Act::Hold(1)));
            let visit = gate.next_hold(1);
            let pid = format!("pid={}", visit.pid);
            let ending = scope.spawn(|| server.shutdown());
            let said = "the shutdown waits for a worker whose call has not ended; the shutdown kills it after that limit";
            heard.await_line(&["WARN", &worker, &pid, "items=1", "limit=3599", said]);
            visit.let_go();
            assert_eq!(busy.join().expect("no panic").expect("an answer").value, 2);
            assert_eq!(gate.next().kind, "cleanup-shutdown");
            ending.join().expect("no panic");
        });
        assert!(!heard.lines().iter().any(|line| line.contains("kills a worker")), "{:?}", heard.lines());

        let server = builder.start(gate.threads(1)).expect("it starts");
        std::thread::scope(|scope| {
            let busy = scope.spawn(|| call(&server, Act::Hold(1)));
            let visit = gate.next_hold(1);
            let ending = scope.spawn(|| server.shutdown());
            heard.await_line(&[
                "WARN",
                &worker,
                "items=1",
                "a thread cannot be killed, so the shutdown goes on without it",
            ]);
            visit.let_go();
            busy.join().expect("no panic").expect("an answer");
            assert_eq!(gate.next().kind, "cleanup-shutdown");
            ending.join().expect("no panic");
        });
        name.assert_nothing_left();
    });
}

#[test]
fn a_shutdown_says_which_worker_does_not_leave_and_that_it_kills_it() {
    alone("told::a_shutdown_says_which_worker_does_not_leave_and_that_it_kills_it", || {
        let heard = Hearer::of_this_process();
        let (name, gate) = (Name::new("stays"), ActorGate::new());
        let server = Server::builder(name.text())
            .shutdown_timeout(ENDLESS)
            .start(gate.processes(1))
            .expect("it starts");
        let pid = ringmill_tests::stats::pids(&server)[0];
        let (worker, pid_field) = (format!("worker={}/actor/0", name.text()), format!("pid={pid}"));
        // An idle worker that is stopped cannot leave.
        ringmill_tests::process::signal(pid, libc::SIGSTOP);
        std::thread::scope(|scope| {
            let ending = scope.spawn(|| server.shutdown());
            heard.await_line(&[
                "WARN",
                &worker,
                &pid_field,
                "the shutdown waits for a worker that has not left: it was idle",
            ]);
            assert!(!ending.is_finished());
            ringmill_tests::process::signal(pid, libc::SIGCONT);
            assert_eq!(gate.next().kind, "cleanup-shutdown");
            ending.join().expect("no panic");
        });
        name.assert_nothing_left();

        let short = Duration::from_millis(50);
        let server =
            Server::builder(name.text()).shutdown_timeout(short).start(gate.processes(1)).expect("it starts");
        std::thread::scope(|scope| {
            let busy = scope.spawn(|| call(&server, Act::Hold(1)));
            let visit = gate.next_hold(1);
            let pid = format!("pid={}", visit.pid);
            server.shutdown();
            let error = busy.join().expect("no panic").expect_err("it was killed");
            let said = "the server's shutdown killed its process, which had not ended within the shutdown_timeout of 0.050 s";
            assert!(error.to_string().ends_with(said), "{error}");
            let killed = RemoteCause::KilledByShutdown { limit_ns: Some(50_000_000) };
            assert!(matches!(&error, CallError::WorkerDied(error) if error.cause == killed), "{error:?}");
            let said = "the shutdown kills a worker that has not ended within the shutdown_timeout: it was in a call";
            heard.await_line(&["WARN", &worker, &pid, "limit=50ms", said]);
        });
        name.assert_nothing_left();
    });
}

ringmill::make_worker!(Fragile: u32 => u32, |number: &Archived<u32>| {
    assert_ne!(number.to_native(), 7, "a number that is not borne");
    number.to_native()
});

#[test]
fn the_first_panic_of_a_worker_is_logged_and_the_others_are_counted() {
    alone("told::the_first_panic_of_a_worker_is_logged_and_the_others_are_counted", || {
        let heard = Hearer::of_this_process();
        let name = Name::new("panics");
        for threads in [false, true] {
            let builder = Server::builder(name.text());
            let server = match threads {
                false => builder.start(ProcessServlet::<Fragile>::new(())).expect("it starts"),
                true => builder.start(ThreadServlet::<Fragile>::new(())).expect("it starts"),
            };
            let pid = ringmill_tests::stats::pids(&server)[0];
            for number in [7, 7, 1, 7] {
                assert_eq!(server.call(&number).is_err(), number == 7);
            }
            let worker = format!("worker={}/fragile/0", name.text());
            let parts = ["ERROR", &worker, &format!("pid={pid}"), "a number that is not borne", "told.rs"];
            let line = heard.await_line(&parts);
            assert!(line.contains("user code panicked, and its further panics are only counted: "), "{line}");
            assert_eq!(server.stats().servlets[0].total().panics, 3);
            drop(server);
            let is_told =
                |line: &&String| line.contains("user code panicked") && line.ends_with(&format!("pid={pid}"));
            let told = heard.lines().iter().filter(is_told).count();
            assert_eq!(told, 1, "{:?}", heard.lines());
            name.assert_nothing_left();
        }
    });
}
