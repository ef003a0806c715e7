//! Only the supervisor's thread of a server dies, here because a listener of the log panics in it: every request
//! ends with an error that says so, and nothing hangs or stays.
//!
//! The only test of its program, since the log's listener is the whole program's.

mod support;

use ringmill::{CallError, CallOptions, Server};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use support::actor::{Act, Actor};
use support::{Gate, Name, guarded, pids, signal};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

ringmill::init!(Actor);

/// Panics when the supervisor says something.
struct Trap;

static ARMED: AtomicBool = AtomicBool::new(false);

impl Subscriber for Trap {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, _: &Event<'_>) {
        let here = std::thread::current();
        if ARMED.load(Ordering::SeqCst) && here.name() == Some("ringmill-supervisor") {
            panic!("a listener that does not bear bad news");
        }
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

#[test]
fn a_server_whose_supervisor_panics_answers_everything_with_an_error() {
    guarded(|| {
        tracing::subscriber::set_global_default(Trap).expect("the only one");
        let endless = CallOptions::new().backpressure(false).timeout(Duration::from_secs(3600));
        for threads in [false, true] {
            let (name, gate) = (Name::new("supervisor"), Gate::new());
            let crew = support::actor::Upbringing { ..gate.upbringing() };
            ARMED.store(false, Ordering::SeqCst);
            // Processes first, then threads: one of them, where it can, lives on in the middle of an item.
            let processes = ringmill::ProcessServlet::<Actor>::new(crew.clone()).name("mortal");
            let after = ringmill::ThreadServlet::<Echo>::new(());
            let server: Server<Act, support::actor::Answer> = match threads {
                false => Server::builder(name.text()).start(processes).expect("it starts"),
                true => {
                    use ringmill::Servlet;
                    Server::builder(name.text()).start(processes.then(after)).expect("it starts")
                }
            };
            let victim = pids(&server)[0];
            std::thread::scope(|scope| {
                let call = |act| server.call_with(&act, endless).map(|reply| reply.to_owned());
                let busy = scope.spawn(move || call(Act::Hold(1)));
                let visit = gate.next_hold(1);
                let queued = [2, 3].map(|n| scope.spawn(move || call(Act::Double(n))));
                support::eventually("two in the ring", || support::depth(&server) == 2);
                ARMED.store(true, Ordering::SeqCst);
                signal(victim, libc::SIGKILL);
                match busy.join().expect("no panic") {
                    Err(CallError::WorkerDied(error)) => assert_eq!(error.pid, victim),
                    other => panic!("{other:?}"),
                }
                for call in queued {
                    assert_down(&call.join().expect("no panic"));
                }
                drop(visit);
            });
            assert_down(&server.call(&Act::Double(4)).map(|reply| reply.to_owned()));
            support::eventually("all places come back", || server.backlog() == 0);
            name.assert_consistent();
            drop(server);
            name.assert_nothing_left();
        }
    });
}

#[track_caller]
fn assert_down(outcome: &Result<support::actor::Answer, CallError>) {
    match outcome {
        Err(CallError::ServletDown { reason, .. }) => {
            assert!(reason.contains("supervisor has failed") && reason.contains("bad news"), "{reason}");
        }
        other => panic!("{other:?}"),
    }
}

/// Hands on what it is given.
struct Echo;

impl ringmill::Worker for Echo {
    type Config = ();
    type In = support::actor::Answer;
    type Out = support::actor::Answer;

    fn new((): (), _: &ringmill::Context) -> Result<Self, ringmill::BoxError> {
        Ok(Self)
    }

    fn call(
        &mut self,
        input: &support::actor::ArchivedAnswer,
    ) -> Result<support::actor::Answer, ringmill::BoxError> {
        Ok(support::actor::Answer { value: input.value.to_native(), pid: input.pid.to_native() })
    }
}
