//! The control page: another process asks a server to do something; whichever of the two is stopped, dies, or writes what it
//! should not.

use ringmill::{BoxError, Context, Server, ThreadServlet, Worker};
use ringmill_shm::control::{Command, Lever, Verdict};
use ringmill_shm::segment::{AskError, Location, Segment};
use ringmill_tests::actor_gate::ActorGate;
use ringmill_tests::alone::alone;
use ringmill_tests::gate::{Gate, stop_at};
use ringmill_tests::guard::guarded;
use ringmill_tests::listener::Hearer;
use ringmill_tests::name::Name;
use ringmill_tests::pile::hold;
use ringmill_tests::process::{go_on, stop};
use ringmill_tests::program::Program;
use ringmill_tests::stats::workers;
use ringmill_tests::wait_until;
use rkyv::Archived;
use std::time::Duration;

/// As long as a test may take.
const LONG: Duration = Duration::from_secs(600);

/// Echoes; 0 stops at its gate.
struct Echo(String);

impl Worker for Echo {
    type Config = String;
    type In = u64;
    type Out = u64;

    fn new(gate: String, _: &Context) -> Result<Self, BoxError> {
        Ok(Self(gate))
    }

    fn call(&mut self, number: &Archived<u64>) -> Result<u64, BoxError> {
        if *number == 0 {
            stop_at(&self.0, "held");
        }
        Ok(number.to_native())
    }
}

fn start(name: &Name, gate: &str) -> Server<u64, u64> {
    let servlet = ThreadServlet::<Echo>::new(gate.into()).name("echo").max_workers(3);
    name.builder().start(servlet).unwrap()
}

fn segment(address: &str) -> Segment {
    Segment::inspect(Location::parse(address).unwrap()).unwrap()
}

fn ask(address: &str, servlet: &str, lever: Lever) -> Result<Verdict, AskError> {
    segment(address).asker()?.ask(&Command { servlet: servlet.into(), lever }, LONG, LONG)
}

#[track_caller]
fn done(address: &str, lever: Lever) {
    let verdict = ask(address, "echo", lever).unwrap();
    assert!(verdict.is_done, "{verdict:?}");
}

#[test]
fn what_is_asked_is_done_answered_and_logged() {
    alone("control::what_is_asked_is_done_answered_and_logged", || {
        let heard = Hearer::of_this_process();
        for name in [Name::new("asked"), Name::label("asked-too")] {
            let server = start(&name, "");
            let address = server.address();
            done(&address, Lever::Scale { workers: 3 });
            assert_eq!(workers(&server).iter().filter(|worker| worker.ready).count(), 3);
            done(&address, Lever::Restart { worker: 2 });
            assert_eq!(workers(&server)[2].restarts, 1);
            done(&address, Lever::Replace { program: None });
            done(&address, Lever::Drain { limit: LONG });
            assert!(server.call(&1).is_err());
            done(&address, Lever::Resume);
            assert_eq!(*server.call(&1).unwrap(), 1);
            let refused = |servlet: &str, lever| {
                let verdict = ask(&address, servlet, lever).unwrap();
                assert!(!verdict.is_done);
                verdict.text
            };
            assert!(refused("echo", Lever::Scale { workers: 4 }).ends_with("is 4, must be in 1..=3"));
            assert!(refused("echo", Lever::Kill { worker: 0 }).contains("a thread cannot be killed"));
            assert!(refused("no\u{1b}", Lever::Resume).starts_with("the server has no servlet"));
            assert_eq!(refused("echo\n1", Lever::Resume), "the bytes are no command");
            let who = format!("asker={} uid=", std::process::id());
            heard.await_line(&["INFO", &who, "servlet=echo", "asked from outside: scale to 3 workers"]);
            heard.await_line(&["INFO", &who, "servlet=echo", "done from outside: scale to 3 workers"]);
            heard.await_line(&["WARN", &who, "not done from outside: kill worker 0: "]);
            heard.await_line(&["WARN", &who, "what is no command"]);
            assert!(heard.lines().iter().all(|line| !line.contains('\u{1b}')));
        }
    });
}

/// Several at a time, each in a slot; an asker that has gone leaves its slot to the next one once the server has answered.
#[test]
fn a_command_that_takes_long_keeps_no_other_waiting() {
    guarded(|| {
        let (name, gate) = (Name::new("slots"), Gate::new());
        let server = start(&name, &gate.name());
        let address = server.address();
        let drain = Command { servlet: "echo".into(), lever: Lever::Drain { limit: LONG } };
        let seen = segment(&address);
        let give_up = || match seen.asker().unwrap().ask(&drain, LONG, Duration::ZERO) {
            Err(AskError::Unanswered { .. }) => {}
            other => panic!("{other:?}"),
        };
        std::thread::scope(|scope| {
            let (held, outcome) = hold(scope, &server, &gate, 0);
            give_up();
            done(&address, Lever::Scale { workers: 2 });
            give_up();
            give_up();
            done(&address, Lever::Scale { workers: 1 });
            give_up();
            assert!(matches!(ask(&address, "echo", Lever::Resume), Err(AskError::Busy)));
            held.release();
            assert_eq!(outcome.join().unwrap().unwrap(), 0);
        });
        wait_until("the drains are answered, and the slots are free", || {
            !matches!(ask(&address, "echo", Lever::Resume), Err(AskError::Busy))
        });
        for _ in 0..8 {
            done(&address, Lever::Resume);
        }
        assert_eq!(*server.call(&3).unwrap(), 3);
        let long = Command { servlet: "x".repeat(1000), lever: Lever::Resume };
        assert!(matches!(seen.asker().unwrap().ask(&long, LONG, LONG), Err(AskError::TooLong { .. })));
    });
}

#[test]
fn a_stopped_server_does_not_do_later_what_was_withdrawn() {
    guarded(|| {
        let (name, gate) = (Name::new("stopped-asked"), ActorGate::new());
        let (mut server, _) = Program::start_ready(&name, &gate, &[]);
        let segment = segment(&name.text());
        let servlet = segment.nodes()[0].name.clone();
        let command = Command { servlet, lever: Lever::Restart { worker: 0 } };
        let mut asker = segment.asker().unwrap();
        stop(server.pid());
        match asker.ask(&command, Duration::from_millis(20), LONG) {
            Err(error @ AskError::Unserved { .. }) => {
                assert!(error.to_string().contains("will not be done"), "{error}");
            }
            other => panic!("{other:?}"),
        }
        go_on(server.pid());
        let restarts = || segment.participants()[1].restarts();
        assert_eq!(restarts(), 0);
        assert!(asker.ask(&command, LONG, LONG).unwrap().is_done);
        assert_eq!(restarts(), 1, "only the second was done");
        server.kill_and_wait();
        assert!(matches!(asker.ask(&command, LONG, LONG), Err(AskError::ServerGone { was_read: false })));
    });
}

#[test]
fn an_asker_learns_that_its_server_died() {
    guarded(|| {
        let (name, gate) = (Name::new("dies-asked"), ActorGate::new());
        let (mut server, _) = Program::start_ready(&name, &gate, &[]);
        let visit = server.hold(&gate, 1);
        let segment = segment(&name.text());
        let command =
            Command { servlet: segment.nodes()[0].name.clone(), lever: Lever::Drain { limit: LONG } };
        std::thread::scope(|scope| {
            let asking = scope.spawn(|| segment.asker().unwrap().ask(&command, LONG, LONG));
            wait_until("the server is at it", || {
                segment.control().slots().iter().any(|slot| slot.is_taken())
            });
            server.kill_and_wait();
            assert!(matches!(asking.join().unwrap(), Err(AskError::ServerGone { was_read: true })));
        });
        drop(visit);
    });
}
