//! A server that is killed, in any state: its workers leave, its segment is stale at once, its name can be reused at once, and
//! nothing stays; of an anonymous server too, whose memory goes with its last process.

use ringmill::Server;
use ringmill_shm::participant::Life;
use ringmill_shm::segment::{Removed, is_live, list_anonymous, remove_if_stale};
use ringmill_shm::sys::process::{PidFd, wait_readable};
use ringmill_tests::actor::{Act, Actor};
use ringmill_tests::actor_gate::ActorGate;
use ringmill_tests::guard::guarded;
use ringmill_tests::name::Name;
use ringmill_tests::process::{go_on, stop};
use ringmill_tests::program::Program;
use ringmill_tests::wait_until;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, Instant};

ringmill::init!(Actor);

/// An event that takes longer never comes.
const GUARD: Duration = Duration::from_secs(60);

/// Workers of another process, whose ends are events all the same.
struct Crew(Vec<PidFd>);

impl Crew {
    fn of(pids: &[u32]) -> Self {
        Self(pids.iter().map(|&pid| PidFd::open(pid).expect("it lives")).collect())
    }

    fn left(&self) -> usize {
        let fds: Vec<i32> = self.0.iter().map(AsRawFd::as_raw_fd).collect();
        if fds.is_empty() {
            return 0;
        }
        wait_readable(&fds, Some(Duration::ZERO)).iter().filter(|ended| !**ended).count()
    }

    /// Waits until all have ended.
    #[track_caller]
    fn await_end(&self) {
        let until = Instant::now() + GUARD;
        for process in &self.0 {
            while !wait_readable(&[process.as_raw_fd()], Some(until - Instant::now()))[0] {
                assert!(Instant::now() < until, "{} of {} stay", self.left(), self.0.len());
            }
        }
    }
}

/// Kills the server; its segment is stale from then on, whichever processes still have it mapped.
#[track_caller]
fn kill(program: &mut Program, name: &Name) -> Instant {
    let begun = Instant::now();
    program.kill_and_wait();
    assert!(!name.is_live(), "no other process has the server's lease");
    begun
}

#[track_caller]
fn assert_workers_leave(condition: &str, name: &Name, begun: Instant, crew: &Crew) {
    crew.await_end();
    eprintln!("{condition}: {} workers gone after {:?}", crew.0.len(), begun.elapsed());
    name.assert_nothing_left();
}

#[test]
fn workers_leave_whatever_they_are_doing() {
    guarded(|| {
        type Prepare = fn(&mut Program, &ActorGate) -> Vec<ringmill_tests::actor_gate::Visit>;
        let nothing: Prepare = |_, _| Vec::new();
        let hold_two: Prepare = |program, gate| vec![program.hold(gate, 1), program.hold(gate, 2)];
        let pile: Prepare = |program, _| {
            program.tell("hold 1"); // in a batch that never fills up
            program.tell("hold 2");
            Vec::new()
        };
        let draining: Prepare = |program, gate| {
            let visit = program.hold(gate, 1);
            program.tell("watch");
            program.tell("shutdown");
            assert_eq!(program.line(), "refused");
            vec![visit]
        };
        let cases: [(&str, &[&str], Prepare); 6] = [
            ("idle", &["workers=3"], nothing),
            ("idle, three threads each", &["workers=2", "stream-threads=3"], nothing),
            ("in user code that never returns", &["workers=3"], hold_two),
            ("the same, three threads each", &["workers=2", "stream-threads=3"], hold_two),
            ("with the lock, in a batch window", &["workers=3", "batch=4"], pile),
            ("while the server shuts down", &["workers=2"], draining),
        ];
        let names = || [Name::new("condition"), Name::label("condition")];
        for ((condition, options, prepare), name) in
            cases.into_iter().flat_map(|case| names().map(|name| (case, name)))
        {
            let gate = ActorGate::new();
            let (mut program, pids) = Program::start_ready(&name, &gate, options);
            let visits = prepare(&mut program, &gate);
            if options.contains(&"batch=4") {
                wait_until("a worker has the lock", || {
                    let segment = name.inspect();
                    let node = segment.node(0).expect("the only node");
                    node.lock().holder().is_some() && node.ring().depth() == 2
                });
            }
            let crew = Crew::of(&pids);
            let begun = kill(&mut program, &name);
            assert_workers_leave(condition, &name, begun, &crew);
            drop(visits);
            if options.contains(&"batch=4") {
                // Symptom: items in an open batch window were begun though their callers had died with the server.
                // Cause: the window was closed as if the server shut down.
                assert_eq!([(); 3].map(|()| gate.next().kind), ["cleanup-gone"; 3]);
            }
            let end = program.end();
            assert_eq!(end.stderr, "", "{condition}");
        }
    });
}

#[test]
fn a_worker_that_ends_its_item_in_time_cleans_up() {
    guarded(|| {
        Name::each("ends", |name| {
            let gate = ActorGate::new();
            let (mut program, pids) = Program::start_ready(&name, &gate, &["workers=1"]);
            let visit = program.hold(&gate, 1);
            let crew = Crew::of(&pids);
            let begun = kill(&mut program, &name);
            visit.let_go();
            assert_eq!(gate.next().kind, "cleanup-gone");
            assert_workers_leave("in user code that returns", &name, begun, &crew);
        });
    });
}

#[test]
fn workers_that_start_leave() {
    guarded(|| {
        Name::each("starting", |name| {
            let gate = ActorGate::new();
            let mut program = Program::start(&name, &gate, &["workers=2", "hold-in-constructor"]);
            let visits = [gate.next(), gate.next()];
            let crew = Crew::of(&visits.each_ref().map(|visit| visit.pid));
            let begun = kill(&mut program, &name);
            assert_workers_leave("in their constructors", &name, begun, &crew);
        });
    });
}

#[test]
fn threads_go_with_their_process_and_leave_a_stale_segment() {
    guarded(|| {
        let (label, gate) = (Name::label("threads"), ActorGate::new());
        let (mut program, _) = Program::start_ready(&label, &gate, &["threads"]);
        let _visit = program.hold(&gate, 1);
        kill(&mut program, &label);
        label.assert_nothing_left(); // an anonymous segment is not stale: it is gone
        let (name, gate) = (Name::new("threads"), ActorGate::new());
        for by_start in [false, true] {
            let (mut program, _) = Program::start_ready(&name, &gate, &["threads"]);
            let _visit = program.hold(&gate, 1);
            kill(&mut program, &name);
            assert!(name.segment_exists());
            if by_start {
                let server = Server::builder(name.text()).start(gate.processes(1)).expect("it starts");
                assert_eq!(server.call(&Act::Double(1)).expect("an answer").value, 2);
            } else {
                assert_eq!(remove_if_stale(name.location(), false).expect("it is ours"), Removed::Stale);
            }
            name.assert_nothing_left();
        }
    });
}

#[test]
fn a_stopped_worker_leaves_when_it_is_continued() {
    guarded(|| {
        let (name, gate) = (Name::new("stoppedworker"), ActorGate::new());
        let (mut program, pids) = Program::start_ready(&name, &gate, &["workers=2"]);
        pids.iter().for_each(|&pid| stop(pid));
        let crew = Crew::of(&pids);
        kill(&mut program, &name);
        // No process is left to remove the files, and no start waits for one: a command removes them, or the next start.
        assert!(name.segment_exists());
        assert_eq!(remove_if_stale(name.location(), false).expect("it is ours"), Removed::Stale);
        name.assert_nothing_left();
        assert_eq!(crew.left(), 2);
        let begun = Instant::now();
        pids.iter().for_each(|&pid| go_on(pid));
        assert_workers_leave("stopped, after they were continued", &name, begun, &crew);
    });
}

/// Of an anonymous server a stopped worker keeps the memory, and nothing else does: another server of the label is not
/// concerned.
#[test]
fn a_stopped_worker_of_an_anonymous_server_keeps_its_memory_until_it_is_continued() {
    guarded(|| {
        let (name, gate) = (Name::label("stoppedmemory"), ActorGate::new());
        let (mut program, pids) = Program::start_ready(&name, &gate, &["workers=2"]);
        pids.iter().for_each(|&pid| stop(pid));
        let crew = Crew::of(&pids);
        kill(&mut program, &name);
        assert_eq!(crew.left(), 2);
        let (heir, _) = Program::start_ready(&name, &gate, &["workers=1"]);
        assert_eq!(list_of(&name), 2, "the heir has a segment of its own");
        pids.iter().for_each(|&pid| go_on(pid));
        crew.await_end();
        wait_until("the dead one's is gone", || list_of(&name) == 1);
        name.assert_consistent();
        drop(heir);
        wait_until("its memory is gone", || name.is_clean());
    });
}

/// How many segments have this label.
fn list_of(name: &Name) -> usize {
    let all = list_anonymous().expect("there is a /proc");
    all.iter().filter(|found| found.location.server_name() == name.text()).count()
}

/// Workers of a dead server that hang in user code, or are stopped, delay no new server, and do no harm later.
#[test]
fn a_new_server_waits_for_no_old_worker_and_none_harms_it() {
    guarded(|| {
        let (name, gate) = (Name::new("heir"), ActorGate::new());
        let (mut program, pids) = Program::start_ready(&name, &gate, &["workers=4"]);
        let hanging = [program.hold(&gate, 1), program.hold(&gate, 2)];
        let idle: Vec<u32> =
            pids.iter().copied().filter(|pid| hanging.iter().all(|visit| visit.pid != *pid)).collect();
        let stopped = [idle[0], hanging[1].pid]; // one of each kind
        stopped.iter().for_each(|&pid| stop(pid));
        let (crew, stopped_crew) = (Crew::of(&pids), Crew::of(&stopped));
        let begun = kill(&mut program, &name);
        let server = Server::builder(name.text()).start(gate.processes(4)).expect("it starts at once");
        eprintln!("a new server is ready {:?} after the kill", begun.elapsed());
        assert!(stopped_crew.left() == 2, "the start waited for no worker");
        let files = || {
            [name.location().path(), name.location().lease_path()]
                .map(|path| path.symlink_metadata().expect("it is there").ino())
        };
        let before = files();
        stopped.iter().for_each(|&pid| go_on(pid));
        crew.await_end();
        drop(hanging);
        assert_eq!(files(), before, "the old ones removed nothing of it");
        assert!(is_live(name.location()));
        name.assert_consistent();
        let segment = name.inspect();
        assert!(segment.participants()[1..].iter().all(|e| e.life() == Life::Ready && e.restarts() == 0));
        for number in 0..10 {
            assert_eq!(server.call(&Act::Double(number)).expect("an answer").value, 2 * number);
        }
        drop((segment, server));
        name.assert_nothing_left();
    });
}

/// The lease of a dead server is free although a worker of it lives: none has inherited it.
#[test]
fn a_dead_servers_lease_is_free_though_its_workers_live() {
    guarded(|| {
        let (name, gate) = (Name::new("lease"), ActorGate::new());
        let (mut program, pids) = Program::start_ready(&name, &gate, &["workers=2"]);
        pids.iter().for_each(|&pid| stop(pid));
        let segment = name.inspect();
        let tokens = [0, 1, 2].map(|row: usize| segment.participants()[row].token().expect("it has arrived"));
        let held = || tokens.map(|token| segment.lease().is_held(token).expect("the lease can be read"));
        assert_eq!(held(), [true; 3]);
        kill(&mut program, &name);
        assert_eq!(held(), [false, true, true]);
        let crew = Crew::of(&pids);
        pids.iter().for_each(|&pid| go_on(pid));
        crew.await_end();
        assert_eq!(held(), [false; 3]);
        name.assert_nothing_left();
    });
}
