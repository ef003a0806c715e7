//! A group of processes that is frozen as a whole does not age.
//!
//! Symptom: after a paused container had been continued, `exec_timeout` killed the workers of innocent calls. Cause: the
//! clock had gone on. Fix: a gap between two looks of the supervisor counts as one look.

use ringmill_tests::actor_gate::ActorGate;
use ringmill_tests::guard::guarded;
use ringmill_tests::name::Name;
use ringmill_tests::program::Program;
use std::time::Duration;

/// Sends a signal to every process of a program that leads a session.
#[expect(unsafe_code, reason = "kill of a process group")]
fn signal_group(program: &Program, signal: i32) {
    let group = i32::try_from(program.pid()).expect("a pid");
    // SAFETY: integers. The group is the program's: it was started as the leader of a session.
    assert_eq!(unsafe { libc::kill(-group, signal) }, 0);
}

#[test]
fn a_call_that_was_frozen_with_its_server_gets_the_rest_of_its_time() {
    guarded(|| {
        let limit = Duration::from_secs(3);
        let (name, gate) = (Name::new("frozen"), ActorGate::new());
        let options = ["workers=1", &format!("exec-ms={}", limit.as_millis())];
        let (mut program, workers) = Program::start_ready(&name, &gate, &options);
        let visit = program.hold(&gate, 7);
        for _ in 0..2 {
            signal_group(&program, libc::SIGSTOP);
            std::thread::sleep(limit.mul_f64(1.2)); // that time passes is the point
            signal_group(&program, libc::SIGCONT);
        }
        visit.let_go();
        assert_eq!(program.line(), "answer 14");
        // A call that really takes too long is still ended.
        let visit = program.hold(&gate, 8);
        assert_eq!(visit.pid, workers[0], "it has not been killed");
        visit.await_death();
        assert_eq!(program.line(), "died 8");
        program.end_well();
        name.assert_nothing_left();
    });
}
