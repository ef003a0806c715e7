//! A half-built or half-removed server has an owner, and "done" is noted at the end.
//!
//! Symptoms: a panic of a listener of the log, or a limit of `Duration::MAX`, left processes, threads, files and the name
//! behind when it happened during the start; of 400 exits by a second Ctrl-C 8 left files; `shutdown` from a listener of the log
//! joined itself. Causes: no value owned the processes before the server existed; the files counted as removed when removing
//! them began. Fixes: see `engine/src/client/shutdown.rs` and `Unready` in `engine/src/server/builder.rs`.

use ringmill::rkyv::Archived;
use ringmill::{
    BoxError, CallOptions, Context, PassThrough, ProcessServlet, Restarts, Server, StreamOptions,
    ThreadServlet, Wait, WhenFull, Worker,
};
use ringmill_shm::sys::process::{PidFd, wait_readable};
use ringmill_tests::actor_gate::ActorGate;
use ringmill_tests::guard::guarded;
use ringmill_tests::name::Name;
use ringmill_tests::process::{Process, signal};
use ringmill_tests::program::Program;
use ringmill_tests::wait_until;
use std::collections::HashMap;
use std::os::fd::AsRawFd;
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

ringmill::init!(PassThrough<u64>);

#[test]
fn a_listener_that_panics_at_the_start_leaves_nothing() {
    guarded(|| {
        let (name, gate) = (Name::new("listener"), ActorGate::new());
        // A batch larger than the capacity: there is something to warn of.
        let options = ["batch=64", "listener=panics"];
        let (program, workers) = Program::start_ready(&name, &gate, &options);
        let workers: Vec<Process> = workers.into_iter().map(Process::of).collect();
        program.end_well();
        wait_until("the workers have gone", || !workers.iter().any(|worker| worker.exists()));
        name.assert_nothing_left();
    });
}

/// The listener of the log shuts the server down at a death: the supervisor does not wait for itself, and a second shutdown
/// finds the server gone.
#[test]
fn a_listener_may_shut_the_server_down() {
    guarded(|| {
        let (name, gate) = (Name::new("within"), ActorGate::new());
        let (mut program, workers) = Program::start_ready(&name, &gate, &["listener=shuts-down"]);
        program.tell("watch");
        signal(workers[0], libc::SIGKILL);
        assert_eq!(program.line(), "refused");
        program.tell("shutdown");
        assert_eq!(program.line(), "shut down");
        name.assert_nothing_left();
        program.end_well();
    });
}

/// A second shutdown waits for the first.
#[test]
fn nothing_is_left_after_each_of_two_shutdowns() {
    guarded(|| {
        for round in 0..20 {
            let name = Name::new("twice");
            let server = Server::builder(name.text()).start(ProcessServlet::<PassThrough<u64>>::new(()));
            let server = server.expect("it starts");
            std::thread::scope(|scope| {
                for _ in 0..3 {
                    scope.spawn(|| {
                        server.shutdown();
                        assert!(name.is_clean(), "round {round}");
                    });
                }
            });
        }
    });
}

#[test]
fn a_second_signal_leaves_no_file() {
    guarded(|| {
        for round in 0..20_u64 {
            let (name, gate) = (Name::new("second"), ActorGate::new());
            let (mut program, _workers) = Program::start_ready(&name, &gate, &["workers=1"]);
            let visit = (round % 2 == 0).then(|| program.hold(&gate, 1)); // the first one would wait for it
            let process = PidFd::open(program.pid()).expect("it lives");
            signal(program.pid(), libc::SIGINT);
            std::thread::sleep(Duration::from_micros(round * 97)); // at many moments
            wait_until("it ends", || {
                let _ = process.send_signal(libc::SIGINT); // two signals at once may be one
                wait_readable(&[process.as_raw_fd()], Some(Duration::from_millis(1)))[0]
            });
            program.end();
            drop(visit);
            name.assert_nothing_left();
        }
    });
}

/// Servers that workers find by name.
static SERVERS: Mutex<Option<Named>> = Mutex::new(None);

type Named = HashMap<String, Weak<Server<u64, u64>>>;

fn server_of(name: &str) -> Option<Arc<Server<u64, u64>>> {
    SERVERS.lock().expect("no panic").as_ref()?.get(name)?.upgrade()
}

/// Shuts its own server down, or drops the last handle to it, in the middle of a call.
struct Mutineer {
    server: String,
}

impl Worker for Mutineer {
    type Config = ();
    type In = u64;
    type Out = u64;

    fn new((): (), context: &Context) -> Result<Self, BoxError> {
        Ok(Self { server: context.server_name().into() })
    }

    fn call(&mut self, x: &Archived<u64>) -> Result<u64, BoxError> {
        server_of(&self.server).expect("it is there").shutdown();
        Ok(x.to_native())
    }
}

#[test]
fn a_worker_may_shut_its_own_server_down() {
    guarded(|| {
        let name = Name::new("mutiny");
        // Without an end: a wait for itself would hang.
        let builder = Server::builder(name.text()).shutdown_timeout(Duration::MAX);
        let server = Arc::new(builder.start(ThreadServlet::<Mutineer>::new(())).expect("it starts"));
        let mut servers = SERVERS.lock().expect("no panic");
        servers.get_or_insert_default().insert(name.text(), Arc::downgrade(&server));
        drop(servers);
        assert_eq!(server.call(&7).map(|reply| *reply).expect("it ends its call"), 7);
        server.shutdown();
        name.assert_nothing_left();
    });
}

/// "As long as it takes", wherever a time can be given.
#[test]
fn no_time_is_too_long() {
    guarded(|| {
        const EVER: Duration = Duration::MAX;
        let name = Name::new("ever");
        let restarts =
            Restarts::default().backoff(Duration::ZERO, EVER).healthy_after(EVER).try_again_after(EVER);
        let servlet = ProcessServlet::<PassThrough<u64>>::new(()).exec_timeout(EVER).restarts(restarts);
        let builder = Server::builder(name.text()).start_timeout(EVER).shutdown_timeout(EVER);
        let server = builder.start(servlet).expect("it starts");
        let options = CallOptions::new().timeout(EVER).when_full(WhenFull::Wait);
        assert_eq!(*server.call_with(&1, options).expect("an answer"), 1);
        let mut sent = server.submit_with(&2, options).expect("it is sent");
        assert_eq!(*sent.wait_timeout(EVER).expect("an outcome").expect("an answer"), 2);
        let outcomes = server.stream_with(0..10, StreamOptions::new().timeout(EVER));
        assert_eq!(outcomes.filter_map(Result::ok).count(), 10);
        signal(ringmill_tests::stats::pids(&server)[0], libc::SIGKILL);
        assert_eq!(*server.call_with(&3, options).expect("by another one"), 3);
        server.drain(EVER).expect("nothing is in progress");
        server.shutdown();
        name.assert_nothing_left();

        // A time that cannot be is refused, or is as long as possible.
        for servlet in [
            ProcessServlet::<PassThrough<u64>>::new(()).batch_size(2).batch_wait_time(EVER),
            ProcessServlet::<PassThrough<u64>>::new(()).exec_timeout(EVER),
        ] {
            let server = Server::builder(name.text()).wait(Wait::Spin(EVER)).start(servlet);
            server.into_iter().for_each(|server| assert_eq!(server.stats().servlets.len(), 1));
            name.assert_nothing_left();
        }
    });
}
