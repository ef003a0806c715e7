//! A servlet's policies for its workers' deaths: restarts, the open circuit, retries.

use ringmill::error::{NotReady, RemoteCause, RemoteError};
use ringmill::{
    Batch, BatchWorker, BoxError, CallError, CallOptions, Context, OnDeath, ProcessServlet, Restarts, Server,
    Servlet, StartError, StreamOptions, Worker,
};
use ringmill_tests::guard::guarded;
use ringmill_tests::name::Name;
use ringmill_tests::stats::{assert_sound, workers};
use ringmill_tests::wait_until;
use rkyv::Archived;
use std::fs::Permissions;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

ringmill::init!(Mortal, Relay, Crowd, Lengthen, Sleeper, SlowToStart);

/// Asks a [`Mortal`] for its number, after this many deaths.
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

/// Leaves a trace of each item that it begins, and dies as the item says. While the file `barred` exists, no restart succeeds.
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

fn begun(traces: &Path, number: u64) -> u64 {
    std::fs::metadata(traces.join(number.to_string())).map_or(0, |meta| meta.len())
}

fn mortal(traces: &Path) -> ProcessServlet<Mortal> {
    ProcessServlet::new(traces.to_str().expect("text").into()).name("mortal")
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
            wait_until("the circuit opens", || match server.call(&Ask::harmless(100)) {
                Err(CallError::ServletDown { servlet, reason: why }) => {
                    assert_eq!(servlet, "mortal");
                    reason = why;
                    true
                }
                other => panic!("{other:?}"),
            });
            assert!(reason.contains("more than 2 times in a row"), "{reason}");
            assert!(reason.contains("could not start: barred"), "{reason}");
            let restarts = workers(&server)[0].restarts;
            wait_until("trials fail", || workers(&server)[0].restarts > restarts + 2);
            let down = name.inspect().node(0).expect("a node").down_reason();
            assert!(down.is_empty() || down.contains("more than 2 times"), "{down}");
            std::fs::remove_file(&barred).expect("a file");
            wait_until("the circuit closes", || match server.call(&Ask::harmless(200)) {
                Ok(reply) => reply.to_native() == 201,
                Err(CallError::ServletDown { .. }) => false,
                Err(other) => panic!("{other:?}"),
            });
        }
        wait_until("all permits come back", || server.backlog() == 0);
        name.assert_consistent();
    });
}

#[test]
fn a_servlet_without_restarts_is_down_at_once() {
    guarded(|| {
        let (name, traces) = (Name::new("never"), tempfile::tempdir().expect("a directory"));
        let servlet = mortal(traces.path()).restarts(Restarts::default().limit(0).for_good());
        let server = Server::builder(name.text()).start(servlet).expect("it starts");
        let died = server.call(&Ask { number: 1, deaths: 1 }).expect_err("it died");
        assert!(!died.to_string().contains("being restarted"), "{died}");
        wait_until("it is down", || {
            matches!(server.call(&Ask::harmless(2)), Err(CallError::ServletDown { .. }))
        });
        let reason = name.inspect().node(0).expect("a node").down_reason();
        assert!(reason.contains("died and is not to be started again"), "{reason}");
        let why = server.readiness().expect_err("it has no worker");
        assert!(matches!(&why, NotReady::NoWorker { reason: down, .. } if *down == reason), "{why}");
        assert_eq!(workers(&server)[0].restarts, 0);
    });
}

/// Restarts without a limit and without waiting.
fn at_once() -> Restarts {
    Restarts::unlimited().backoff(Duration::ZERO, Duration::ZERO)
}

fn death<Out: std::fmt::Debug>(outcome: Result<Out, CallError>) -> RemoteError {
    match outcome {
        Err(CallError::WorkerDied(error)) => *error,
        other => panic!("{other:?}"),
    }
}

#[test]
fn without_a_policy_user_code_runs_at_most_once() {
    guarded(|| {
        let (name, traces) = (Name::new("once"), tempfile::tempdir().expect("a directory"));
        let server = Server::builder(name.text()).start(mortal(traces.path())).expect("it starts");
        let error = death(server.call(&Ask { number: 1, deaths: 1 }));
        assert!(matches!(error.cause, RemoteCause::Died { signal: Some(6), .. }), "{error:?}");
        assert_eq!((error.attempt, begun(traces.path(), 1)), (0, 1));
        assert_sound(&server);
    });
}

#[test]
fn a_request_is_retried_until_its_tries_are_used_up() {
    guarded(|| {
        let (name, traces) = (Name::new("retry"), tempfile::tempdir().expect("a directory"));
        let servlet = mortal(traces.path()).restarts(at_once()).on_death(OnDeath::Retry(3));
        let server = Server::builder(name.text()).start(servlet).expect("it starts");
        for deaths in 0..=3 {
            let reply = server.call(&Ask { number: 10 + deaths, deaths }).expect("within its tries");
            assert_eq!((reply.to_native(), begun(traces.path(), 10 + deaths)), (11 + deaths, 1 + deaths));
        }
        for deaths in [4, 100] {
            let error = death(server.call(&Ask { number: deaths, deaths }));
            let cause = RemoteCause::Poisonous { deaths: 4, signal: Some(6), code: None };
            assert_eq!((&error.cause, error.attempt, begun(traces.path(), deaths)), (&cause, 3, 4));
            assert!(error.to_string().contains("4 workers died with it"), "{error}");
        }
        assert_sound(&server);
    });
}

#[test]
fn each_servlet_counts_its_own_tries() {
    guarded(|| {
        let (name, traces) =
            (Name::new("tries"), [(); 2].map(|()| tempfile::tempdir().expect("a directory")));
        let stage = |index: usize| {
            let servlet: ProcessServlet<Relay> =
                ProcessServlet::new(traces[index].path().to_str().expect("text").into());
            servlet.restarts(at_once()).on_death(OnDeath::Retry(2))
        };
        let server = Server::builder(name.text()).start(stage(0).then(stage(1))).expect("it starts");
        let outcome = server.call(&Ask { number: 7, deaths: 2 }).expect("each within its tries");
        assert_eq!((outcome.number.to_native(), outcome.deaths.to_native()), (9, 2));
        assert_eq!((begun(traces[0].path(), 7), begun(traces[1].path(), 8)), (3, 3));
        drop(outcome);
        assert_sound(&server);
    });
}

/// A [`Mortal`] whose outcome another servlet can take.
struct Relay(Mortal);

impl Worker for Relay {
    type Config = String;
    type In = Ask;
    type Out = Ask;

    fn new(traces: String, context: &Context) -> Result<Self, BoxError> {
        Worker::new(traces, context).map(Self)
    }

    fn call(&mut self, ask: &Archived<Ask>) -> Result<Ask, BoxError> {
        Ok(Ask { number: Worker::call(&mut self.0, ask)?, deaths: ask.deaths.to_native() })
    }
}

/// Doubles texts, and dies with those that say so the first time that it sees them; for payloads of every size.
struct Lengthen {
    traces: PathBuf,
}

impl BatchWorker for Lengthen {
    type Config = String;
    type In = (u64, String);
    type Out = (u64, String);

    fn new(traces: String, _: &Context) -> Result<Self, BoxError> {
        Ok(Self { traces: traces.into() })
    }

    fn call(&mut self, batch: Batch<'_, Self>) -> Result<(), BoxError> {
        for item in batch {
            let (number, text) = (item.input().0.to_native(), item.input().1.to_string());
            let dies = number % 3 == 0 && trace(&self.traces, number) == 1;
            match number % 4 {
                0 => item.pass(),
                1 => item.fail(BoxError::msg("one in four")),
                _ => item.reply((number, text.repeat(2))),
            }
            if dies {
                std::process::abort(); // with this item answered, and the others of its batch not
            }
        }
        Ok(())
    }
}

#[test]
fn inputs_of_every_size_outlive_their_workers() {
    guarded(|| {
        for (policy, max_payload) in
            [(OnDeath::Retry(100), 16 << 10), (OnDeath::Bisect(1), 16 << 10), (OnDeath::Retry(100), 96)]
        {
            let (name, traces) = (Name::new("sizes"), tempfile::tempdir().expect("a directory"));
            let servlet = ProcessServlet::<Lengthen>::new(traces.path().to_str().expect("text").into());
            let servlet =
                servlet.batch_size(8).batch_wait_time(Duration::ZERO).restarts(at_once()).on_death(policy);
            let builder = Server::builder(name.text()).capacity(32).max_payload(max_payload);
            let server = builder.start(servlet).expect("it starts");
            let most = if max_payload > 96 { 3_000 } else { 30 };
            let text = |number: u64| "x".repeat((number * 137 % most) as usize);
            let inputs = (0..60).map(|number| (number, text(number)));
            let outcomes = server.stream_with(inputs, StreamOptions::new().window(24));
            for (number, outcome) in (0..).zip(outcomes) {
                match (number % 4, outcome) {
                    (0, Ok(same)) => assert_eq!(same, (number, text(number))),
                    (1, Err(CallError::Remote(error))) => {
                        assert!(error.to_string().contains("one in four"), "{error}")
                    }
                    (2 | 3, Ok(twice)) => assert_eq!(twice, (number, text(number).repeat(2))),
                    (_, other) => panic!("{number}: {other:?}"),
                }
            }
            assert_sound(&server);
        }
    });
}

/// Answers each item with its number and the size of its batch; dies with a batch that has a poisonous item.
struct Crowd {
    traces: PathBuf,
}

impl BatchWorker for Crowd {
    type Config = String;
    type In = Ask;
    type Out = (u64, u64);

    fn new(traces: String, _: &Context) -> Result<Self, BoxError> {
        Ok(Self { traces: traces.into() })
    }

    fn call(&mut self, batch: Batch<'_, Self>) -> Result<(), BoxError> {
        let size = batch.len() as u64;
        let asks: Vec<(u64, u64)> =
            batch.inputs().map(|ask| (ask.number.to_native(), ask.deaths.to_native())).collect();
        let begun: Vec<u64> = asks.iter().map(|&(number, _)| trace(&self.traces, number)).collect();
        if asks.iter().zip(&begun).any(|(&(_, deaths), &begun)| begun <= deaths) {
            wait_until("it may die", || !self.traces.join("hold").exists());
            std::process::abort();
        }
        batch.reply_all(asks.into_iter().map(|(number, _)| (number, size)))
    }
}

fn crowd(traces: &Path, batch_size: usize) -> ProcessServlet<Crowd> {
    let servlet = ProcessServlet::new(traces.to_str().expect("text").into()).name("crowd");
    servlet.batch_size(batch_size).batch_wait_time(Duration::from_secs(5))
}

#[test]
fn a_poisonous_request_costs_its_batch_nothing() {
    guarded(|| {
        let (name, traces) = (Name::new("bisect"), tempfile::tempdir().expect("a directory"));
        // The deaths until the poisonous item is alone are no reason to give the worker up.
        let policy = Restarts::default().limit(3).backoff(Duration::ZERO, Duration::ZERO);
        let servlet = crowd(traces.path(), 64).restarts(policy).on_death(OnDeath::Bisect(2));
        let server = Server::builder(name.text()).capacity(128).start(servlet).expect("it starts");
        let poisonous = 13;
        let inputs = (0..64).map(|number| Ask { number, deaths: if number == poisonous { 1000 } else { 0 } });
        let outcomes: Vec<_> = server.stream_with(inputs, StreamOptions::new().window(64)).collect();
        for (number, outcome) in (0..).zip(outcomes) {
            if number == poisonous {
                let error = death(outcome);
                assert!(matches!(error.cause, RemoteCause::Poisonous { deaths: 3, .. }), "{error:?}");
            } else {
                assert_eq!(outcome.expect("its own outcome").0, number);
                assert!(begun(traces.path(), number) <= 7, "halved six times: {number}");
            }
        }
        // Six halvings from 64 to one, and three tries alone.
        assert_eq!(begun(traces.path(), poisonous), 9);
        assert_sound(&server);
        assert_eq!(workers(&server)[0].restarts, 9);
    });
}

/// Symptom: a whole batch was retried. Cause: halves counted requests whose callers had gone, and the second half began only
/// if no caller in the middle had gone. Fix: such requests are no suspects.
#[test]
fn a_batch_is_halved_although_callers_have_gone() {
    guarded(|| {
        for gone in 0..4 {
            let (name, traces) = (Name::new("halves"), tempfile::tempdir().expect("a directory"));
            let hold = traces.path().join("hold");
            std::fs::write(&hold, "").expect("a file");
            let servlet = crowd(traces.path(), 4).restarts(at_once()).on_death(OnDeath::Bisect(1));
            let server = Server::builder(name.text()).capacity(4).start(servlet).expect("it starts");
            let send = |number| server.submit(&Ask { number, deaths: 1 }).expect("it is sent");
            let mut calls: Vec<_> = (0..4).map(send).collect();
            wait_until("all are begun", || (0..4).all(|number| begun(traces.path(), number) == 1));
            drop(calls.remove(gone)); // its caller goes
            std::fs::remove_file(&hold).expect("a file");
            for call in calls {
                let size = call.wait().expect("it is retried").1.to_native();
                assert!(size <= 2, "{size} of three suspects together");
            }
            assert_sound(&server);
        }
    });
}

#[test]
fn without_bisection_a_whole_batch_is_blamed() {
    guarded(|| {
        let (name, traces) = (Name::new("together"), tempfile::tempdir().expect("a directory"));
        let servlet = crowd(traces.path(), 4).restarts(at_once()).on_death(OnDeath::Retry(1));
        let server = Server::builder(name.text()).capacity(8).start(servlet).expect("it starts");
        let inputs = (0..4).map(|number| Ask { number, deaths: if number == 2 { 1000 } else { 0 } });
        for outcome in server.stream_with(inputs, StreamOptions::new().window(4)) {
            assert!(matches!(death(outcome).cause, RemoteCause::Poisonous { deaths: 2, .. }));
        }
        assert_sound(&server);
    });
}

#[test]
fn a_request_whose_caller_has_gone_is_not_retried() {
    guarded(|| {
        let (name, traces) = (Name::new("gone"), tempfile::tempdir().expect("a directory"));
        let servlet = mortal(traces.path()).restarts(at_once()).on_death(OnDeath::Retry(u8::MAX));
        let server = Server::builder(name.text()).start(servlet).expect("it starts");
        let options = CallOptions::new().timeout(Duration::from_millis(50));
        let late = server.call_with(&Ask { number: 1, deaths: u64::MAX }, options);
        assert!(matches!(late, Err(CallError::Timeout { .. } | CallError::WorkerDied(_))), "{late:?}");
        assert_sound(&server);
        let before = begun(traces.path(), 1);
        assert_eq!(server.call(&Ask::harmless(2)).expect("it goes on").to_native(), 3);
        assert_eq!(begun(traces.path(), 1), before);
    });
}

/// Sleeps as long as it is asked to, in milliseconds.
struct Sleeper;

impl Worker for Sleeper {
    type Config = ();
    type In = u64;
    type Out = u64;

    fn new((): (), _: &Context) -> Result<Self, BoxError> {
        Ok(Self)
    }

    fn call(&mut self, ms: &Archived<u64>) -> Result<u64, BoxError> {
        let ms = ms.to_native();
        std::thread::sleep(Duration::from_millis(ms)); // the work
        Ok(ms)
    }
}

#[test]
fn a_call_that_takes_too_long_is_ended() {
    guarded(|| {
        for threads in [1, 3] {
            let name = Name::new("overran");
            let limit = Duration::from_millis(100);
            let servlet = ProcessServlet::<Sleeper>::new(()).name("sleeper").restarts(at_once());
            let server = Server::builder(name.text())
                .start(servlet.stream_threads(threads).exec_timeout(limit))
                .expect("it starts");
            for _ in 0..3 {
                let error = death(server.call(&u64::MAX));
                let cause = RemoteCause::Overran { limit_ns: limit.as_nanos() as u64, restarting: true };
                assert_eq!(error.cause, cause);
                assert!(error.to_string().contains("longer than 0.100000 s"), "{error}");
                assert_eq!(server.call(&0).expect("a new worker").to_native(), 0);
            }
            assert_sound(&server);
        }
    });
}

#[test]
fn calls_that_follow_each_other_do_not_add_up() {
    guarded(|| {
        let name = Name::new("addup");
        let servlet = ProcessServlet::<Sleeper>::new(()).exec_timeout(Duration::from_secs(2));
        let server = Server::builder(name.text()).start(servlet).expect("it starts");
        let inputs = std::iter::repeat_n(100, 30); // three seconds in all
        assert!(server.stream(inputs).all(|outcome| outcome.is_ok()));
        assert_eq!(workers(&server)[0].restarts, 0);
        let none = ProcessServlet::<Sleeper>::new(()).exec_timeout(Duration::ZERO);
        let refused = Server::builder(Name::new("zero").text()).start(none);
        assert!(matches!(refused, Err(StartError::Range { what: "exec_timeout in nanoseconds", .. })));
    });
}

/// A [`Sleeper`] that restarts slowly. While the file `barred` exists, its restart then fails.
struct SlowToStart(Sleeper);

impl Worker for SlowToStart {
    type Config = (String, u64);
    type In = u64;
    type Out = u64;

    fn new((directory, ms): (String, u64), context: &Context) -> Result<Self, BoxError> {
        let directory = Path::new(&directory);
        if context.restarts() > 0 && !directory.join("fast").exists() {
            std::thread::sleep(Duration::from_millis(ms)); // the work
        }
        match context.restarts() > 0 && directory.join("barred").exists() {
            true => Err(BoxError::msg("barred")),
            false => Ok(Self(Sleeper)),
        }
    }

    fn call(&mut self, ms: &Archived<u64>) -> Result<u64, BoxError> {
        Worker::call(&mut self.0, ms)
    }
}

fn slow_to_start(directory: &Path, start: Duration) -> ProcessServlet<SlowToStart> {
    ProcessServlet::new((directory.to_str().expect("text").into(), start.as_millis() as u64)).name("slow")
}

/// Symptom: after the supervisor had ended a call, or a worker had died in one, worker after worker was killed during its
/// start. Cause: the dead worker's call looked as if it went on. Fix: a new worker has no call.
#[test]
fn a_worker_that_is_slow_to_start_is_not_taken_for_a_call_that_takes_too_long() {
    guarded(|| {
        let (name, directory) = (Name::new("slow"), tempfile::tempdir().expect("a directory"));
        let servlet = slow_to_start(directory.path(), Duration::from_millis(500));
        let servlet = servlet.restarts(at_once()).exec_timeout(Duration::from_millis(100));
        let server = Server::builder(name.text()).start(servlet).expect("it starts");
        for ended in 1..=2 {
            death(server.call(&u64::MAX));
            assert_eq!(server.call(&0).expect("a new worker").to_native(), 0);
            assert_eq!(workers(&server)[0].restarts, ended);
        }
        assert_sound(&server);
    });
}

/// Symptom: a circuit stayed open although a worker was ready. Cause: a worker on trial whose start failed only after it had
/// taken long enough to count as healthy was restarted, but no longer on trial. Fix: while the circuit is open, every start is
/// a trial.
#[test]
fn a_trial_that_fails_late_does_not_leave_the_circuit_open() {
    guarded(|| {
        let (name, directory) = (Name::new("late"), tempfile::tempdir().expect("a directory"));
        let healthy = Duration::from_millis(300);
        let policy = Restarts::default()
            .limit(1)
            .backoff(Duration::ZERO, Duration::ZERO)
            .healthy_after(healthy)
            .try_again_after(Duration::from_millis(20));
        let (barred, fast) = (directory.path().join("barred"), directory.path().join("fast"));
        std::fs::write(&barred, "").expect("a file");
        std::fs::write(&fast, "").expect("a file");
        let servlet = slow_to_start(directory.path(), healthy + Duration::from_millis(50));
        let servlet = servlet.restarts(policy).exec_timeout(Duration::from_millis(20));
        let server = Server::builder(name.text()).start(servlet).expect("it starts");
        death(server.call(&u64::MAX));
        let is_down = || matches!(server.call(&0), Err(CallError::ServletDown { .. }));
        wait_until("the circuit opens", is_down);
        std::fs::remove_file(&fast).expect("a file");
        let restarts = workers(&server)[0].restarts;
        wait_until("a trial fails late", || workers(&server)[0].restarts > restarts + 2);
        std::fs::remove_file(&barred).expect("a file");
        wait_until("the circuit closes", || !is_down());
        assert_sound(&server);
    });
}

/// The server holds the program's file from its start: a program that has lost its name since is still restarted.
#[test]
fn a_program_whose_file_has_gone_is_restarted() {
    guarded(|| {
        let (name, directory) = (Name::new("program"), tempfile::tempdir().expect("a directory"));
        let program = directory.path().join("program");
        std::os::unix::fs::symlink(std::env::current_exe().expect("a path"), &program).expect("a link");
        let servlet = ProcessServlet::<Sleeper>::new(()).program(&program);
        let servlet = servlet.exec_timeout(Duration::from_millis(20));
        let server = Server::builder(name.text()).start(servlet).expect("it starts");
        std::fs::remove_file(&program).expect("a file");
        death(server.call(&u64::MAX));
        assert_eq!(server.call(&0).expect("another worker").to_native(), 0);
        assert_sound(&server);
    });
}

/// A program that the system refuses to run at a restart, not for want of room, is a failed start: callers get the reason, the
/// supervisor retries after each cool-down, and the servlet recovers when the program may run.
#[test]
fn a_program_that_may_not_run_is_reported_with_the_reason_and_retried() {
    guarded(|| {
        let (name, directory) = (Name::new("refused"), tempfile::tempdir().expect("a directory"));
        let program = directory.path().join("program");
        let ours = std::env::current_exe().expect("a path");
        // By a process of its own: a file that another test's child has open for writing cannot be run.
        let copied = std::process::Command::new("cp").arg(ours).arg(&program).status();
        assert!(copied.expect("cp").success());
        let policy = Restarts::default()
            .limit(2)
            .backoff(Duration::ZERO, Duration::ZERO)
            .try_again_after(Duration::from_millis(20));
        let servlet = ProcessServlet::<Sleeper>::new(()).program(&program).restarts(policy);
        let servlet = servlet.exec_timeout(Duration::from_millis(20));
        let server = Server::builder(name.text()).start(servlet).expect("it starts");
        let allow = |mode| std::fs::set_permissions(&program, Permissions::from_mode(mode)).expect("a file");
        for _ in 0..2 {
            allow(0o600);
            death(server.call(&u64::MAX));
            let error = server.call(&0).expect_err("nothing runs it").to_string();
            let told = format!(
                "servlet sleeper is down: each of its workers failed to start more than 2 times in a row; the last \
                 one could not be started: servlet sleeper: cannot start {}: Permission denied (os error 13); it is \
                 started on trial after 20ms",
                program.display()
            );
            assert_eq!(error, told);
            let restarts = workers(&server)[0].restarts;
            wait_until("trials fail", || workers(&server)[0].restarts > restarts + 2);
            assert_eq!(server.call(&0).expect_err("nothing runs it").to_string(), told);
            allow(0o700);
            wait_until("the circuit closes", || match server.call(&0) {
                Ok(reply) => reply.to_native() == 0,
                Err(CallError::ServletDown { .. }) => false,
                other => panic!("{other:?}"),
            });
        }
        assert_sound(&server);
    });
}

/// Symptom: the supervisor panicked, and callers waited for ever. Cause: a back-off longer than a clock can show. Fix: such a
/// worker is not restarted, and the error says so.
#[test]
fn an_endless_backoff_means_no_restart() {
    guarded(|| {
        let name = Name::new("forever");
        let policy = Restarts::default().backoff(Duration::MAX, Duration::MAX);
        let servlet =
            ProcessServlet::<Sleeper>::new(()).exec_timeout(Duration::from_millis(20)).restarts(policy);
        let server = Server::builder(name.text()).start(servlet).expect("it starts");
        let error = death(server.call(&u64::MAX));
        assert!(matches!(error.cause, RemoteCause::Overran { restarting: false, .. }), "{error:?}");
        wait_until("the circuit opens", || matches!(server.call(&0), Err(CallError::ServletDown { .. })));
    });
}

/// Symptom: "not answered" of a request that was, where no block was left for its outcome. Cause: with its input
/// given up for the error record, the record gave up its cause too, although then it fits.
#[test]
fn an_outcome_for_which_no_block_is_left_says_so() {
    guarded(|| {
        let name = Name::new("noblock");
        let servlet = ProcessServlet::<Sleeper>::new(()).on_death(OnDeath::Retry(1));
        let server = Server::builder(name.text()).payload_classes([]).start(servlet).expect("it starts");
        match server.call(&0) {
            Err(CallError::Remote(error)) => {
                let told = format!(
                    "sleeper/0 (pid {}): all payload blocks of at least 8 bytes are in use, so the outcome cannot be written: call less often, or give the server more of them",
                    error.pid
                );
                assert_eq!(error.to_string(), told);
            }
            other => panic!("{other:?}"),
        }
        assert_sound(&server);
    });
}
