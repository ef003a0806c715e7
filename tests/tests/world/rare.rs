//! Failures that hardly ever happen are repaired and reported.

use ringmill_tests::actor_gate::ActorGate;
use ringmill_tests::guard::guarded;
use ringmill_tests::name::Name;
use ringmill_tests::process::signal;
use ringmill_tests::program::Program;
use ringmill_tests::refuse::{Refusal, in_process_of};
use std::process::Command;

const ACTORS: &str = env!("CARGO_BIN_EXE_actors");

/// `waitid` of a process descriptor, and how Linux before 5.4 answers it.
const WAIT_FOR_DESCRIPTOR: Refusal = Refusal::of(libc::SYS_waitid, libc::EINVAL).where_argument(0, 3);

/// A program's message about a call whose worker is killed.
fn of_killed(program: &mut Program, gate: &ActorGate, number: u64) -> String {
    let visit = program.hold(gate, number);
    signal(visit.pid, libc::SIGKILL);
    visit.await_death();
    program.line()
}

#[track_caller]
fn assert_serves_and_ends(mut program: Program, gate: &ActorGate, name: &Name) {
    program.hold(gate, 7).let_go();
    assert_eq!(program.line(), "answer 14");
    program.end_well();
    name.assert_nothing_left();
}

/// Symptom: "exit code 0" of a worker that was killed. Cause: something else in the program had waited for it, and the
/// status that was not there was taken for 0.
#[test]
fn the_end_of_a_child_that_other_code_waited_for_is_unknown() {
    guarded(|| {
        let (name, gate) = (Name::new("waited"), ActorGate::new());
        let options = ["workers=1", "wait-for-all", "reasons"];
        let (mut program, _workers) = Program::start_ready(&name, &gate, &options);
        for number in 1..4 {
            let line = of_killed(&mut program, &gate, number);
            assert!(line.contains("signal 9") || line.contains("exit status is lost"), "{line}");
            assert!(!line.contains("code 0"), "{line}");
        }
        assert_serves_and_ends(program, &gate, &name);
    });
}

/// Symptom: "no child processes" on kernels that cannot be asked about a process descriptor. Cause: every failure of
/// that question was called ECHILD. Fix: it is asked by number.
#[test]
fn a_kernel_that_knows_no_wait_for_a_descriptor_is_asked_by_number() {
    guarded(|| {
        let (name, gate) = (Name::new("waitid"), ActorGate::new());
        let mut command = Command::new(ACTORS);
        in_process_of(&mut command, &[WAIT_FOR_DESCRIPTOR]);
        let mut program = Program::start_as(command, &name, &gate, &["workers=1", "reasons"]);
        program.ready();
        let line = of_killed(&mut program, &gate, 1);
        assert!(line.contains("signal 9"), "{line}");
        assert_serves_and_ends(program, &gate, &name);
    });
}

/// Symptom: where the system has no locks of open files, a start left its lease file behind.
#[test]
fn without_locks_nothing_is_left() {
    guarded(|| {
        let (name, gate) = (Name::new("nolocks"), ActorGate::new());
        for errno in [libc::EINVAL, libc::ENOLCK, libc::ENOSYS] {
            let refusal =
                Refusal::of(libc::SYS_fcntl, errno).where_argument(1, libc::F_OFD_SETLK.cast_unsigned());
            let mut command = Command::new(ACTORS);
            in_process_of(&mut command, &[refusal]);
            let end = Program::start_as(command, &name, &gate, &[]).end();
            assert!(!end.status.success() && end.stderr.contains("lock"), "{end:?}");
            name.assert_nothing_left();
        }
    });
}
