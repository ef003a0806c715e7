//! A listener of the log that panics in the supervisor's thread: the supervisor still notices, repairs and reports deaths.
//!
//! In a process of its own, since the log's listener is the whole process's.

use ringmill::{CallError, CallOptions, Server, WhenFull};
use ringmill_tests::actor::{Act, Actor};
use ringmill_tests::actor_gate::ActorGate;
use ringmill_tests::alone::alone;
use ringmill_tests::listener::Listener;
use ringmill_tests::name::Name;
use ringmill_tests::process::signal;
use ringmill_tests::stats::pids;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

ringmill::init!(Actor);

static ARMED: AtomicBool = AtomicBool::new(false);
static HEARD: AtomicBool = AtomicBool::new(false);

/// Panics when the supervisor says something.
fn trap(_: &tracing::Event<'_>) {
    if ARMED.load(Ordering::SeqCst) && std::thread::current().name() == Some("ringmill-supervisor") {
        HEARD.store(true, Ordering::SeqCst);
        panic!("a listener that does not bear bad news");
    }
}

#[test]
fn a_listener_that_panics_in_the_supervisor_does_no_harm() {
    alone("log_listener::a_listener_that_panics_in_the_supervisor_does_no_harm", || {
        tracing::subscriber::set_global_default(Listener::of(|_| true, trap)).expect("the only one");
        let endless = CallOptions::new().when_full(WhenFull::Wait).timeout(Duration::from_secs(3600));
        for threads in [false, true] {
            let (name, gate) = (Name::new("supervisor"), ActorGate::new());
            let crew = ringmill_tests::actor::Upbringing { ..gate.upbringing() };
            ARMED.store(false, Ordering::SeqCst);
            // Alone, and before a stage of threads.
            let processes = ringmill::ProcessServlet::<Actor>::new(crew.clone()).name("mortal");
            let after = ringmill::ThreadServlet::<Echo>::new(());
            let server: Server<Act, ringmill_tests::actor::Answer> = match threads {
                false => Server::builder(name.text()).start(processes).expect("it starts"),
                true => {
                    use ringmill::Servlet;
                    Server::builder(name.text()).start(processes.then(after)).expect("it starts")
                }
            };
            let victim = pids(&server)[0];
            std::thread::scope(|scope| {
                let call = |act| server.call_with(&act, endless).and_then(|reply| reply.into_owned());
                let busy = scope.spawn(move || call(Act::Hold(1)));
                let visit = gate.next_hold(1);
                let queued = [2, 3].map(|n| scope.spawn(move || call(Act::Double(n))));
                ringmill_tests::wait_until("two in the ring", || ringmill_tests::stats::depth(&server) == 2);
                ARMED.store(true, Ordering::SeqCst);
                signal(victim, libc::SIGKILL);
                match busy.join().expect("no panic") {
                    Err(CallError::WorkerDied(error)) => assert_eq!(error.pid, victim),
                    other => panic!("{other:?}"),
                }
                for (call, number) in queued.into_iter().zip([2, 3]) {
                    assert_eq!(call.join().expect("no panic").expect("an answer").value, 2 * number);
                }
                drop(visit);
            });
            assert!(HEARD.swap(false, Ordering::SeqCst), "the listener was called, and panicked");
            assert_eq!(server.call(&Act::Double(4)).expect("an answer").value, 8);
            ringmill_tests::wait_until("all permits come back", || server.backlog() == 0);
            assert_eq!(server.stats().servlets[0].workers[0].restarts, 1);
            name.assert_consistent();
            drop(server);
            name.assert_nothing_left();
        }
    });
}

/// Answers with its input.
struct Echo;

impl ringmill::Worker for Echo {
    type Config = ();
    type In = ringmill_tests::actor::Answer;
    type Out = ringmill_tests::actor::Answer;

    fn new((): (), _: &ringmill::Context) -> Result<Self, ringmill::BoxError> {
        Ok(Self)
    }

    fn call(
        &mut self,
        input: &ringmill_tests::actor::ArchivedAnswer,
    ) -> Result<ringmill_tests::actor::Answer, ringmill::BoxError> {
        Ok(ringmill_tests::actor::Answer { value: input.value.to_native(), pid: input.pid.to_native() })
    }
}
