//! A pid is not an identity: pids are reused, and a process that has got the number of a dead worker or of a dead server is
//! neither taken for it nor killed.
//!
//! The tests reuse pids in a pid namespace, where they choose numbers (`ns_last_pid`).

use ringmill::{CallError, Server};
use ringmill_shm::participant::Life;
use ringmill_shm::segment::{Removed, is_live, list, remove_if_stale};
use ringmill_shm::sys::process::PidFd;
use ringmill_tests::actor::{Act, Actor, Rebirth, Upbringing};
use ringmill_tests::actor_gate::ActorGate;
use ringmill_tests::guard::guarded;
use ringmill_tests::name::Name;
use ringmill_tests::namespace;
use ringmill_tests::other_user::open_to_all;
use ringmill_tests::process::{go_on, signal, stat_field, stop};
use ringmill_tests::program::Program;
use ringmill_tests::stats::pids;
use ringmill_tests::wait_until;
use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

ringmill::init!(Actor);

/// Runs the body of a test in a namespace of its own, in which this program starts again.
fn with_own_pids(test: &'static str, body: impl FnOnce() + Send + 'static) {
    guarded(move || namespace::within(test, body));
}

/// A program whose pid can be reused while its workers live.
fn start(name: &Name, gate: &ActorGate, options: &[&str]) -> Program {
    Program::start_among_us(Command::new(env!("CARGO_BIN_EXE_actors")), name, gate, options)
}

/// An unrelated process that has that pid.
struct Innocent(Child);

impl Innocent {
    fn with_pid(pid: u32) -> Self {
        let spawn =
            || Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::null()).spawn().expect("a process");
        loop {
            namespace::next_pid(pid);
            let mut child = spawn();
            if child.id() == pid {
                return Self(child);
            }
            // Another process started a thread just then.
            child.kill().expect("our child");
            child.wait().expect("our child");
            assert!(stat_field(pid, 3).is_none(), "{pid} is in use");
        }
    }

    #[track_caller]
    fn assert_well(&mut self) {
        assert!(self.0.try_wait().expect("our child").is_none(), "an innocent was killed");
    }

    #[track_caller]
    fn end(mut self) {
        self.assert_well();
        drop(self.0.stdin.take());
        assert!(self.0.wait().expect("our child").success());
    }
}

/// Kills the worker of a row, and waits until its successor is ready; returns the former pid, which the successor may have too.
#[track_caller]
fn replace_worker(name: &Name, row: usize) -> u32 {
    let segment = name.inspect();
    let entry = &segment.participants()[row];
    let (victim, token) = (entry.pid(), entry.token());
    signal(victim, libc::SIGKILL);
    wait_until("it is restarted", || entry.life() == Life::Ready && entry.token() != token);
    victim
}

#[test]
fn the_pid_of_a_dead_worker() {
    with_own_pids("identity::the_pid_of_a_dead_worker", || {
        let (name, gate) = (Name::new("deadworker"), ActorGate::new());
        let server = Server::builder(name.text()).start(gate.processes(2)).expect("it starts");
        let victim = replace_worker(&name, 1);
        let mut innocent = Innocent::with_pid(victim);
        for number in 0..10 {
            assert_eq!(server.call(&Act::Double(number)).expect("an answer").value, 2 * number);
        }
        assert!(!pids(&server).contains(&victim));
        replace_worker(&name, 1);
        innocent.assert_well();
        drop(server);
        name.assert_nothing_left();
        innocent.end();
    });
}

/// The table still has the pid of a worker that is not restarted.
#[test]
fn the_pid_of_a_worker_that_was_given_up() {
    with_own_pids("identity::the_pid_of_a_worker_that_was_given_up", || {
        let (name, gate) = (Name::new("givenup"), ActorGate::new());
        let upbringing = Upbringing { rebirth: Rebirth::Aborts, ..gate.upbringing() };
        let servlet = ringmill::ProcessServlet::<Actor>::new(upbringing).name("mortal");
        let server = Server::builder(name.text()).start(servlet).expect("it starts");
        signal(pids(&server)[0], libc::SIGKILL);
        wait_until("it is given up", || {
            matches!(server.call(&Act::Double(1)), Err(CallError::ServletDown { .. }))
        });
        let listed = name.inspect().participants()[1].pid();
        assert_ne!(listed, 0);
        let mut innocent = Innocent::with_pid(listed);
        assert!(matches!(server.call(&Act::Double(1)), Err(CallError::ServletDown { .. })));
        name.assert_consistent();
        server.shutdown();
        innocent.assert_well();
        drop(server);
        name.assert_nothing_left();
        innocent.end();
    });
}

/// Workers that were stopped when their server died are not kept by a process of its number.
#[test]
fn the_pid_of_a_dead_server() {
    with_own_pids("identity::the_pid_of_a_dead_server", || {
        for by_start in [false, true] {
            let (name, gate) = (Name::new("deadserver"), ActorGate::new());
            let mut program = start(&name, &gate, &["workers=2"]);
            let workers = program.ready();
            for &pid in &workers {
                stop(pid);
            }
            let ends: Vec<PidFd> = workers.iter().map(|&pid| PidFd::open(pid).expect("it lives")).collect();
            program.kill_and_wait();
            let innocent = Innocent::with_pid(program.pid());
            assert!(!is_live(name.location()));
            let found = list().expect("a directory");
            assert!(found.iter().any(|found| found.location == *name.location() && !found.live));
            let mut server = None;
            if by_start {
                let started = Server::builder(name.text()).start(gate.processes(1)).expect("it starts");
                assert_eq!(started.call(&Act::Double(1)).expect("an answer").value, 2);
                server = Some(started);
            } else {
                assert_eq!(remove_if_stale(name.location(), true).expect("ours"), Removed::Stale);
            }
            workers.iter().for_each(|&pid| go_on(pid));
            ends.iter().for_each(ringmill_tests::process::await_end);
            if let Some(server) = server {
                assert_eq!(server.call(&Act::Double(2)).expect("an answer").value, 4);
                name.assert_consistent();
            }
            name.assert_nothing_left();
            innocent.end();
        }
    });
}

/// A program for workers that stops itself before it becomes one.
struct SlowStart {
    directory: tempfile::TempDir,
}

impl SlowStart {
    fn new() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let script = format!("#!/bin/sh\nkill -STOP $$\nexec '{}'\n", env!("CARGO_BIN_EXE_actors"));
        let slow = Self { directory };
        fs::write(slow.path(), script).expect("a file");
        open_to_all(&slow.path());
        slow
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("program")
    }

    fn option(&self) -> String {
        format!("program={}", self.path().display())
    }
}

/// The only child of a process, once it has stopped itself.
fn stopped_child(parent: u32) -> u32 {
    let mut found = None;
    wait_until("its worker has stopped itself", || {
        found = namespace::processes().into_iter().find(|&pid| {
            stat_field(pid, 4) == Some(parent.to_string()) && stat_field(pid, 3).as_deref() == Some("T")
        });
        found.is_some()
    });
    found.expect("it is there")
}

/// Symptom: a worker that had not joined when its server was killed reported an error, and left the segment, if another process
/// had got the server's pid by then. Cause: the worker took that pid for its living server.
#[test]
fn a_worker_that_comes_too_late_is_not_misled_by_the_pid() {
    with_own_pids("identity::a_worker_that_comes_too_late_is_not_misled_by_the_pid", || {
        let (name, gate, slow) = (Name::new("late"), ActorGate::new(), SlowStart::new());
        let mut program = start(&name, &gate, &["workers=1", &slow.option()]);
        let worker = stopped_child(program.pid());
        let end = PidFd::open(worker).expect("it lives");
        program.kill_and_wait();
        let innocent = Innocent::with_pid(program.pid());
        go_on(worker);
        ringmill_tests::process::await_end(&end);
        assert_eq!(program.end().stderr, "");
        name.assert_nothing_left();
        innocent.end();
    });
}

/// Symptom: a worker of a dead server joined the next server of that name. Cause: it compared pids, which were equal.
#[test]
fn a_worker_that_comes_too_late_does_not_join_a_server_of_the_same_name_and_pid() {
    with_own_pids(
        "identity::a_worker_that_comes_too_late_does_not_join_a_server_of_the_same_name_and_pid",
        || {
            let (name, gate, slow) = (Name::new("heir"), ActorGate::new(), SlowStart::new());
            let options = ["workers=1", &slow.option()];
            let mut former = start(&name, &gate, &options);
            let late = stopped_child(former.pid());
            let end = PidFd::open(late).expect("it lives");
            former.kill_and_wait();
            let mut heir = loop {
                namespace::next_pid(former.pid());
                let heir = start(&name, &gate, &options);
                if heir.pid() == former.pid() {
                    break heir;
                }
            };
            let worker = stopped_child(heir.pid());
            assert_ne!(worker, late);
            go_on(late);
            ringmill_tests::process::await_end(&end);
            go_on(worker);
            assert_eq!(heir.ready(), [worker]);
            let visit = heir.hold(&gate, 7);
            assert_eq!(visit.pid, worker);
            visit.let_go();
            assert_eq!(heir.line(), "answer 14");
            assert_eq!(name.inspect().participants()[1].restarts(), 0);
            name.assert_consistent();
            heir.end_well();
            assert_eq!(former.end().stderr, "");
            name.assert_nothing_left();
        },
    );
}

/// A service that ignores SIGCHLD has its children reaped by the kernel: their pids are free at once.
#[test]
fn a_service_that_ignores_sigchld() {
    with_own_pids("identity::a_service_that_ignores_sigchld", || {
        let (name, gate) = (Name::new("sigchld"), ActorGate::new());
        let (mut program, _) = Program::start_ready(&name, &gate, &["workers=2", "ignore-sigchld"]);
        let mut innocents = Vec::new();
        for location in [1, 2, 1, 2, 2, 2] {
            let victim = replace_worker(&name, location);
            if innocents.is_empty() {
                innocents.push(Innocent::with_pid(victim));
            }
            if location == 2 {
                program.hold(&gate, 3).let_go();
                assert_eq!(program.line(), "answer 6");
            }
        }
        name.assert_consistent();
        program.tell("shutdown");
        assert_eq!(program.line(), "shut down");
        program.end_well();
        innocents.into_iter().for_each(Innocent::end);
        name.assert_nothing_left();
    });
}
