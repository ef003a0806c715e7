//! Ctrl-C and its relatives, sent to a whole process group as a terminal does it.

use ringmill_tests::actor::Actor;
use ringmill_tests::actor_gate::{ActorGate, Visit};
use ringmill_tests::guard::guarded;
use ringmill_tests::name::Name;
use ringmill_tests::program::Program;
use std::os::unix::process::ExitStatusExt;

ringmill::init!(Actor);

/// It died of this signal, said nothing more than `stdout`, and left nothing.
#[track_caller]
fn assert_ended(program: Program, name: &Name, signal: i32, stdout: &str) {
    let end = program.end();
    assert_eq!(end.status.signal(), Some(signal), "{end:?}");
    assert_eq!((end.stdout.as_str(), end.stderr.as_str()), (stdout, ""));
    name.assert_nothing_left();
}

#[test]
fn idle_servers_end_quietly() {
    guarded(|| {
        for signal in [libc::SIGINT, libc::SIGTERM] {
            for options in [&["workers=4"][..], &["threads"]] {
                let (name, gate) = (Name::new("idle"), ActorGate::new());
                let (program, _) = Program::start_ready(&name, &gate, options);
                program.signal_group(signal);
                assert_ended(program, &name, signal, "");
            }
        }
    });
}

#[test]
fn what_is_in_flight_is_answered() {
    guarded(|| {
        for signal in [libc::SIGINT, libc::SIGTERM] {
            let (name, gate) = (Name::new("flight"), ActorGate::new());
            let (mut program, _) = Program::start_ready(&name, &gate, &[]);
            let (first, second) = (program.hold(&gate, 1), program.hold(&gate, 2));
            program.tell("watch");
            program.signal_group(signal);
            assert_eq!(program.line(), "refused", "new calls are");
            // While the second is at work the process lives, so there is time to print the first's answer.
            first.let_go();
            assert_eq!(program.line(), "answer 2");
            second.let_go();
            let mut kinds = [gate.next().kind, gate.next().kind];
            kinds.sort();
            assert_eq!(kinds, ["cleanup-shutdown", "cleanup-shutdown"]);
            let end = program.end();
            assert_eq!(end.status.signal(), Some(signal), "{end:?}");
            assert!(["", "answer 4\n"].contains(&end.stdout.as_str()), "{end:?}");
            assert_eq!(end.stderr, "");
            name.assert_nothing_left();
        }
    });
}

#[test]
fn a_second_signal_kills_at_once() {
    guarded(|| {
        for (first, second) in [(libc::SIGINT, libc::SIGINT), (libc::SIGTERM, libc::SIGINT)] {
            let (name, gate) = (Name::new("second"), ActorGate::new());
            let (mut program, _) = Program::start_ready(&name, &gate, &["shutdown-ms=3600000"]);
            let hanging = program.hold(&gate, 1);
            program.tell("watch");
            program.signal_group(first);
            assert_eq!(program.line(), "refused");
            program.signal_group(second);
            hanging.await_death();
            let end = program.end();
            assert_eq!(end.status.signal(), Some(second), "{end:?}");
            assert!(["", "died 1\n"].contains(&end.stdout.as_str()), "{end:?}");
            assert_eq!(end.stderr, "");
            name.assert_nothing_left();
        }
    });
}

#[test]
fn a_worker_that_hangs_is_killed_when_the_time_is_over() {
    guarded(|| {
        let (name, gate) = (Name::new("late"), ActorGate::new());
        let (mut program, _) = Program::start_ready(&name, &gate, &["shutdown-ms=50"]);
        let hanging = program.hold(&gate, 1);
        program.signal_group(libc::SIGINT);
        hanging.await_death();
        let end = program.end();
        assert_eq!(end.status.signal(), Some(libc::SIGINT), "{end:?}");
        assert!(["", "died 1\n"].contains(&end.stdout.as_str()), "{end:?}");
        assert_eq!(end.stderr, "");
        name.assert_nothing_left();
    });
}

#[test]
fn a_signal_while_it_starts_leaves_nothing() {
    guarded(|| {
        let (name, gate) = (Name::new("starting"), ActorGate::new());
        let program = Program::start(&name, &gate, &["workers=2", "hold-in-constructor"]);
        let visits = [gate.next(), gate.next()];
        program.signal_group(libc::SIGINT);
        visits.into_iter().for_each(Visit::await_death);
        assert_ended(program, &name, libc::SIGINT, "");
    });
}

#[test]
fn a_handler_of_the_program_is_not_overridden() {
    guarded(|| {
        let (name, gate) = (Name::new("own"), ActorGate::new());
        let (program, _) = Program::start_ready(&name, &gate, &["own-handler"]);
        program.signal_group(libc::SIGINT);
        let end = program.end();
        assert_eq!(end.status.code(), Some(0), "{end:?}");
        assert_eq!((end.stdout.as_str(), end.stderr.as_str()), ("own handler\n", ""));
        name.assert_nothing_left();
    });
}

#[test]
fn a_signal_that_the_program_ignores_stays_ignored() {
    guarded(|| {
        let (name, gate) = (Name::new("ignored"), ActorGate::new());
        let (mut program, _) = Program::start_ready(&name, &gate, &["ignore-sigint"]);
        let visit = program.hold(&gate, 1);
        program.signal_group(libc::SIGINT);
        visit.let_go();
        assert_eq!(program.line(), "answer 2");
        program.hold(&gate, 2).let_go();
        assert_eq!(program.line(), "answer 4", "it goes on as if nothing had been");
        program.signal_group(libc::SIGTERM);
        assert_ended(program, &name, libc::SIGTERM, "");
    });
}

#[test]
fn a_server_that_leaves_signals_alone() {
    guarded(|| {
        let (name, gate) = (Name::new("alone"), ActorGate::new());
        let (mut program, _) = Program::start_ready(&name, &gate, &["no-signals", "shutdown-ms=3600000"]);
        // An orderly shutdown would wait for this call.
        let hanging = program.hold(&gate, 1);
        program.signal_group(libc::SIGINT);
        hanging.await_death();
        assert_ended(program, &name, libc::SIGINT, "");
    });
}
