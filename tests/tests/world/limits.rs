//! Every state of a worker has a limit: a worker that hangs outside of a call is also ended, and reported.
//!
//! Symptom: a restarted worker that hung in `new` or `warm_up`, or in `cleanup` after a fatal error,
//! was never killed, logged or counted; callers waited out their timeouts. Cause: only calls had a limit. Fix: see
//! `engine/src/host/supervisor/limits.rs`.

use ringmill::worker::Stop;
use ringmill::{
    BoxError, CallError, Context, ProcessServlet, Restarts, Server, ServerBuilder, ThreadServlet, Worker,
};
use ringmill_tests::actor_gate::{ActorGate, Visit};
use ringmill_tests::guard::guarded;
use ringmill_tests::name::Name;
use ringmill_tests::process::signal;
use ringmill_tests::wait_until;
use rkyv::Archived;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

ringmill::init!(Stuck);

/// Hangs at the gate, where it says: in `new`, in `warm_up`, in `cleanup`.
struct Stuck {
    hang: Hang,
}

#[derive(Debug, Clone, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
struct Hang {
    gate: String,
    method: String,
}

impl Hang {
    /// Waits until let go: for ever, where the test is over.
    fn hang(&self, method: &str) {
        if self.method == method {
            let mut stream = UnixStream::connect(&self.gate).expect("the gate");
            writeln!(stream, "{method} 0 {}", std::process::id()).expect("the gate");
            while stream.read(&mut [0]).is_err() {}
        }
    }
}

impl Worker for Stuck {
    type Config = Hang;
    type In = u64;
    type Out = u64;

    fn new(hang: Hang, context: &Context) -> Result<Self, BoxError> {
        ringmill_tests::process::dump_no_core();
        if context.restarts() > 0 {
            hang.hang("new");
        }
        Ok(Self { hang })
    }

    fn warm_up(&mut self, context: &Context) -> Result<(), BoxError> {
        if context.restarts() > 0 {
            self.hang.hang("warm_up");
        }
        Ok(())
    }

    fn call(&mut self, x: &Archived<u64>) -> Result<u64, BoxError> {
        match x.to_native() {
            0 => Err(BoxError::msg("lost").fatal()),
            x => Ok(x),
        }
    }

    fn cleanup(&mut self, reason: &Stop) {
        if *reason == Stop::Fatal {
            self.hang.hang("cleanup");
        }
    }
}

const SOON: Duration = Duration::from_millis(100);

fn hang(gate: &ActorGate, method: &str) -> Hang {
    Hang { gate: gate.path(), method: method.into() }
}

fn builder(name: &Name) -> ServerBuilder {
    Server::builder(name.text()).shutdown_timeout(SOON)
}

fn fatal(server: &Server<u64, u64>) {
    let outcome = server.call(&0).map(|reply| *reply);
    assert!(matches!(outcome, Err(CallError::Remote(_))), "{outcome:?}");
}

/// The first worker's state and for how long it has been in it, as `debug_info` says.
fn state(server: &Server<u64, u64>) -> (String, f64) {
    let info = serde_json::to_value(server.debug_info()).expect("JSON");
    let worker = &info["servlets"][0]["workers"][0];
    (worker["state"].as_str().expect("text").into(), worker["state_seconds"].as_f64().expect("a number"))
}

#[track_caller]
fn assert_down(server: &Server<u64, u64>, why: &str) {
    wait_until("it is down", || match server.call(&1).map(|reply| *reply) {
        Err(CallError::ServletDown { reason, .. }) => {
            assert!(reason.contains(why), "{reason}");
            true
        }
        Ok(_) => false,
        other => panic!("{other:?}"),
    });
}

/// Its restarts hang, each is killed, and when one does not hang the servlet takes requests again.
#[test]
fn a_process_that_hangs_at_its_restart_is_killed() {
    guarded(|| {
        for method in ["new", "warm_up"] {
            let (name, gate) = (Name::new("hangs"), ActorGate::new());
            let servlet = ProcessServlet::<Stuck>::new(hang(&gate, method)).name("stuck");
            let servlet = servlet.restarts(Restarts::unlimited().backoff(Duration::ZERO, Duration::ZERO));
            // The first start may take long; see `start_timeout`.
            let server =
                builder(&name).start_timeout(Duration::from_secs(2)).start(servlet).expect("it starts");
            signal(ringmill_tests::stats::pids(&server)[0], libc::SIGKILL);
            let first = gate.next();
            assert_eq!((state(&server).0.as_str(), first.kind.as_str()), ("starting", method));
            first.await_death();
            let second = gate.next();
            assert_down(&server, "starting (in its set-up, new or warm_up) for longer than 2s");
            second.let_go();
            wait_until("it takes requests again", || server.call(&7).is_ok_and(|reply| *reply == 7));
            assert_eq!(state(&server).0, "ready");
            drop(server);
            name.assert_nothing_left();
        }
    });
}

#[test]
fn a_process_that_hangs_as_it_leaves_is_ended() {
    guarded(|| {
        let (name, gate) = (Name::new("leaves"), ActorGate::new());
        let servlet = ProcessServlet::<Stuck>::new(hang(&gate, "cleanup"));
        let server = builder(&name).start(servlet).expect("it starts");
        for _ in 0..2 {
            fatal(&server);
            let visit = gate.next();
            visit.await_death();
            assert_eq!(*server.call(&7).expect("another one"), 7);
        }
        drop(server);
        name.assert_nothing_left();
    });
}

/// A thread cannot be killed: callers get an error, and when it goes on it serves again.
#[test]
fn a_servlet_goes_on_without_a_thread_that_hangs() {
    guarded(|| {
        for method in ["new", "warm_up", "cleanup"] {
            let (name, gate) = (Name::new("thread"), ActorGate::new());
            let servlet = ThreadServlet::<Stuck>::new(hang(&gate, method));
            let server = builder(&name).start_timeout(SOON * 10).start(servlet).expect("it starts");
            fatal(&server);
            let visit: Visit = gate.next();
            assert_down(&server, "a thread cannot be killed");
            let (now, seconds) = state(&server);
            assert_eq!(now, if method == "cleanup" { "leaving" } else { "starting" });
            assert!(seconds > 0.0 && seconds < 60.0, "{seconds}");
            visit.let_go();
            wait_until("it takes requests again", || server.call(&7).is_ok_and(|reply| *reply == 7));
            drop(server);
            name.assert_nothing_left();
        }
    });
}

/// Its end is not waited for either.
#[test]
fn a_thread_that_hangs_delays_no_shutdown() {
    guarded(|| {
        for method in ["new", "cleanup"] {
            let (name, gate) = (Name::new("nohold"), ActorGate::new());
            let server =
                builder(&name).start(ThreadServlet::<Stuck>::new(hang(&gate, method))).expect("it starts");
            fatal(&server);
            let visit = gate.next();
            drop(server);
            name.assert_nothing_left();
            visit.try_let_go();
        }
    });
}
