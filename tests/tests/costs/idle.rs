//! Waiting costs nothing: an idle server sleeps, a busy one does not ask the kernel.

use ringmill::{CallOptions, PassThrough, ProcessServlet, Server, Wait};
use ringmill_tests::actor::Actor;
use ringmill_tests::actor_gate::ActorGate;
use ringmill_tests::guard::guarded;
use ringmill_tests::name::Name;
use ringmill_tests::process::{sleeps, sleeps_in, stat_field};
use ringmill_tests::program::Program;
use ringmill_tests::stats::pids;
use std::time::{Duration, Instant};

ringmill::init!(Actor, PassThrough<u64>);

/// CPU time that a process has used, in clock ticks.
fn ticks(pid: u32) -> u64 {
    let field = |number| stat_field(pid, number).and_then(|text| text.parse::<u64>().ok()).expect("it lives");
    field(14) + field(15)
}

/// 10 ms each, in `/proc/PID/stat` of every Linux.
const TICKS_PER_SECOND: f64 = 100.0;

#[test]
fn four_idle_workers_use_less_than_a_hundredth_of_a_core() {
    guarded(|| {
        let (name, gate) = (Name::new("idle"), ActorGate::new());
        let (mut program, mut processes) = Program::start_ready(&name, &gate, &["workers=4"]);
        processes.push(program.pid());
        // Once awake, so that it is idleness after work that is measured.
        program.hold(&gate, 1).let_go();
        assert_eq!(program.line(), "answer 2");

        let used = || processes.iter().map(|&pid| ticks(pid)).sum::<u64>();
        let (begun, before) = (Instant::now(), used());
        std::thread::sleep(Duration::from_secs(4)); // idleness is what this test is about
        let (ticks, seconds) = (used() - before, begun.elapsed().as_secs_f64());
        let share = ticks as f64 / TICKS_PER_SECOND / seconds;
        assert!(share < 0.01, "{ticks} ticks in {seconds:.1} s: {:.2} % of a core", 100.0 * share);

        program.end_well();
    });
}

#[test]
fn neither_side_sleeps_while_both_are_awake() {
    if ringmill::cpu::allowed().len() < 2 {
        return; // on one CPU spinning would keep the other side from running
    }
    guarded(|| {
        let name = Name::new("awake");
        let servlet = ProcessServlet::<PassThrough<u64>>::new(());
        let builder = Server::builder(name.text()).wait(Wait::Spin(Duration::from_secs(1)));
        let server = builder.start(servlet).expect("it starts");
        let worker = pids(&server)[0];
        let ours = || sleeps_in("/proc/thread-self/status").expect("it is ours");
        let options = CallOptions::new().timeout(Duration::from_secs(3600));
        let call = |number| assert_eq!(*server.call_with(&number, options).expect("an answer"), number);
        (0..100).for_each(call); // both are awake now, and all pages are there
        let both = || (ours(), sleeps(worker));
        let before = both();
        (0..2000).for_each(call);
        let after = both();
        let slept = (after.0 - before.0, after.1 - before.1);
        assert!(slept.0 + slept.1 < 20, "{slept:?} sleeps in 2000 calls");
    });
}
