//! What a servlet does about its workers' deaths: restarts, the open circuit, other attempts.

mod support;

use ringmill::{BoxError, CallError, Context, ProcessServlet, Restarts, Server, Worker, WorkerStats};
use rkyv::Archived;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;
use support::{Name, eventually, guarded};

ringmill::init!(Mortal);

/// Asks a [`Mortal`] for its number, after it has died with it so many times.
#[derive(Debug, Clone, Copy, PartialEq, Eq, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
struct Ask {
    number: u64,
    deaths: u64,
}

impl Ask {
    fn harmless(number: u64) -> Self {
        Self { number, deaths: 0 }
    }
}

/// Leaves a trace of each item that it begins, and dies as it is asked to. Once the file `barred` is there, no
/// worker is started again.
struct Mortal {
    traces: PathBuf,
}

impl Worker for Mortal {
    type Config = String;
    type In = Ask;
    type Out = u64;

    fn new(traces: String, context: &Context) -> Result<Self, BoxError> {
        let traces = PathBuf::from(traces);
        if context.restarts() > 0 && traces.join("barred").exists() {
            return Err(BoxError::msg("barred"));
        }
        Ok(Self { traces })
    }

    fn call(&mut self, ask: &Archived<Ask>) -> Result<u64, BoxError> {
        let number = ask.number.to_native();
        if trace(&self.traces, number) <= ask.deaths.to_native() {
            std::process::abort();
        }
        Ok(number + 1)
    }
}

/// Notes that a worker began with an item; how often that has been.
fn trace(traces: &Path, number: u64) -> u64 {
    let path = traces.join(number.to_string());
    let file = std::fs::OpenOptions::new().create(true).append(true).open(path);
    file.and_then(|mut file| file.write_all(b"x").and_then(|()| file.metadata())).expect("a file").len()
}

fn mortal(traces: &Path) -> ProcessServlet<Mortal> {
    ProcessServlet::new(traces.to_str().expect("text").into()).name("mortal")
}

fn workers<In, Out>(server: &Server<In, Out>) -> Vec<WorkerStats> {
    server.stats().servlets.remove(0).workers
}

#[test]
fn an_open_circuit_closes_again_when_a_worker_on_trial_is_ready() {
    guarded(|| {
        let (name, traces) = (Name::new("circuit"), tempfile::tempdir().expect("a directory"));
        let policy = Restarts::default()
            .limit(2)
            .backoff(Duration::ZERO, Duration::ZERO)
            .try_again_after(Duration::from_millis(20));
        let servlet = mortal(traces.path()).restarts(policy);
        let server = Server::builder(name.text()).capacity(4).start(servlet).expect("it starts");
        let barred = traces.path().join("barred");
        for round in 0..3 {
            std::fs::write(&barred, "").expect("a file");
            let died = server.call(&Ask { number: round, deaths: 1 });
            assert!(matches!(died, Err(CallError::WorkerDied(_))), "{died:?}");
            let mut reason = String::new();
            eventually("the circuit opens", || match server.call(&Ask::harmless(100)) {
                Err(CallError::ServletDown { servlet, reason: why }) => {
                    assert_eq!(servlet, "mortal");
                    reason = why;
                    true
                }
                other => panic!("{other:?}"),
            });
            // After the first round it opens with the first death.
            let last = if round == 0 { "could not start: barred" } else { "killed by signal 6" };
            assert!(reason.contains("more than 2 times in a row") && reason.contains(last), "{reason}");
            let restarts = workers(&server)[0].restarts;
            eventually("trials fail", || workers(&server)[0].restarts > restarts + 2);
            let down = name.inspect().node(0).expect("a node").down_reason();
            assert!(down.is_empty() || down.contains("more than 2 times"), "{down}");
            std::fs::remove_file(&barred).expect("a file");
            eventually("the circuit closes", || match server.call(&Ask::harmless(200)) {
                Ok(reply) => reply.to_native() == 201,
                Err(CallError::ServletDown { .. }) => false,
                Err(other) => panic!("{other:?}"),
            });
        }
        eventually("all places come back", || server.backlog() == 0);
        name.assert_consistent();
    });
}

#[test]
fn a_worker_that_is_never_started_again_is_down_at_once() {
    guarded(|| {
        let (name, traces) = (Name::new("never"), tempfile::tempdir().expect("a directory"));
        let servlet = mortal(traces.path()).restarts(Restarts::default().limit(0).for_good());
        let server = Server::builder(name.text()).start(servlet).expect("it starts");
        let died = server.call(&Ask { number: 1, deaths: 1 }).expect_err("it died");
        assert!(!died.to_string().contains("being restarted"), "{died}");
        eventually("it is down", || {
            matches!(server.call(&Ask::harmless(2)), Err(CallError::ServletDown { .. }))
        });
        let reason = name.inspect().node(0).expect("a node").down_reason();
        assert!(reason.contains("died and is not to be started again"), "{reason}");
        assert_eq!(workers(&server)[0].restarts, 0);
    });
}
