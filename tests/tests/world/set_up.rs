//! The set-up of `init!` runs once in each worker's process, before its worker is built, and an error of it is the start's.

use ringmill::error::{RemoteCause, RemoteError};
use ringmill::rkyv::Archived;
use ringmill::{
    BoxError, CallError, Context, ProcessServlet, Restarts, Server, StartError, ThreadServlet, Worker,
};
use ringmill_tests::gate::{Gate, report, stop_at};
use ringmill_tests::guard::guarded;
use ringmill_tests::name::Name;
use ringmill_tests::process::signal;
use ringmill_tests::stats::pids;
use ringmill_tests::traces::assert_gone;
use ringmill_tests::wait_until;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

ringmill::init!(Novice; set_up = set_up);

// Every `init!`'s set-up runs in every worker's process.
ringmill::init!(
    set_up = |_: &Context| {
        ALSO_RUN.fetch_add(1, Ordering::SeqCst);
    }
);

static RUN: AtomicU32 = AtomicU32::new(0);
static ALSO_RUN: AtomicU32 = AtomicU32::new(0);

/// Says what the set-up does: a word, and perhaps the name of a gate. Without it, as in the workers of all other tests, it
/// does nothing.
const VARIABLE: &str = "RINGMILL_TEST_SET_UP";

#[derive(Debug)]
struct NoDevice;

impl std::fmt::Display for NoDevice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("there is no device")
    }
}

impl std::error::Error for NoDevice {}

fn set_up(context: &Context) -> Result<(), NoDevice> {
    RUN.fetch_add(1, Ordering::SeqCst);
    let Ok(order) = std::env::var(VARIABLE) else { return Ok(()) };
    let (what, gate) = order.split_once(' ').unwrap_or((&order, ""));
    let about = || format!("{} {} {}", context.name(), context.restarts(), std::process::id());
    match what {
        "report" => report(gate, &about()),
        "hold" => stop_at(gate, &about()),
        "fail" => return Err(NoDevice),
        "fail-later" if context.restarts() > 0 => return Err(NoDevice),
        "fail-later" => {}
        "panic" => panic!("there is a device too many"),
        "hook" => {
            let gate = gate.to_owned();
            std::panic::set_hook(Box::new(move |info| report(&gate, &info.to_string())));
        }
        other => panic!("{other}"),
    }
    Ok(())
}

/// Says how often the set-ups had run when it was built; panics at 7.
struct Novice {
    set_up: (u32, u32),
}

impl Worker for Novice {
    type Config = ();
    type In = u32;
    type Out = (u32, u32);

    fn new((): (), _: &Context) -> Result<Self, BoxError> {
        Ok(Self { set_up: (RUN.load(Ordering::SeqCst), ALSO_RUN.load(Ordering::SeqCst)) })
    }

    fn call(&mut self, number: &Archived<u32>) -> Result<(u32, u32), BoxError> {
        assert_ne!(number.to_native(), 7, "a bad number");
        Ok(self.set_up)
    }
}

fn novices(what: &str) -> ProcessServlet<Novice> {
    ProcessServlet::new(()).name("novice").env(VARIABLE, what)
}

fn answer(server: &Server<u32, (u32, u32)>) -> (u32, u32) {
    server.call(&1).expect("an answer").into_owned().expect("two numbers")
}

#[test]
fn it_runs_once_in_each_process_before_any_worker_is_built() {
    guarded(|| {
        let (name, gate) = (Name::new("set-up"), Gate::new());
        let servlet = novices(&format!("report {}", gate.name())).cpus(2).stream_threads(3);
        let server = Server::builder(name.text()).start(servlet).expect("it starts");
        let mut said = [gate.arrival(), gate.arrival()].map(|arrival| arrival.label().to_owned());
        said.sort_unstable();
        let all = pids(&server);
        // The threads of a worker stand side by side in the table.
        let told = [0, 1].map(|worker| format!("{}/novice/{worker}.0 0 {}", name.text(), all[3 * worker]));
        assert_eq!(said, told);
        for _ in 0..20 {
            assert_eq!(answer(&server), (1, 1));
        }
        signal(all[0], libc::SIGKILL);
        let again = gate.arrival();
        assert!(again.label().starts_with(&format!("{}/novice/0.0 1 ", name.text())), "{}", again.label());
        assert_ne!(again.label().rsplit(' ').next().unwrap(), all[0].to_string(), "another process");
        wait_until("it is back", || server.stats().servlets[0].workers.iter().all(|worker| worker.ready));
        for _ in 0..20 {
            assert_eq!(answer(&server), (1, 1), "in its own process again once");
        }
        assert!(gate.arrival_if_any().is_none());
        drop(server);
        assert_gone(&name.text());

        // Threads are in a process that is nobody's worker.
        let server = Server::builder(name.text()).start(ThreadServlet::<Novice>::new(())).expect("it starts");
        assert_eq!(answer(&server), (0, 0));
    });
}

fn refused(servlet: ProcessServlet<Novice>) -> RemoteError {
    let name = Name::new("set-up-fails");
    let error = Server::builder(name.text()).start(servlet).expect_err("its set-up fails");
    assert_gone(&name.text());
    match error {
        StartError::Worker(error) => *error,
        other => panic!("{other}"),
    }
}

#[test]
fn its_error_and_its_panic_are_the_starts() {
    guarded(|| {
        for threads in [1, 3] {
            let error = refused(novices("fail").stream_threads(threads));
            let RemoteCause::Failed { type_name, messages, .. } = &error.cause else { panic!("{error:?}") };
            assert!(type_name.ends_with("set_up::NoDevice"), "{type_name}");
            assert_eq!(messages, &["set-up: there is no device"]);
            assert_eq!((error.servlet.as_str(), error.worker), ("novice", 0));

            let error = refused(novices("panic").stream_threads(threads));
            let RemoteCause::Panicked { message, .. } = &error.cause else { panic!("{error:?}") };
            let (said, place) = message.split_once(" at ").expect("a location");
            assert_eq!(said, "set-up: there is a device too many");
            assert!(place.contains("set_up.rs"), "{place}");
        }
    });
}

#[test]
fn the_start_timeout_covers_it() {
    guarded(|| {
        let (name, gate) = (Name::new("set-up-hangs"), Gate::new());
        let builder = Server::builder(name.text()).start_timeout(Duration::from_millis(500));
        let error = builder.start(novices(&format!("hold {}", gate.name()))).expect_err("it hangs");
        assert!(
            matches!(&error, StartError::Timeout { servlet, worker: 0, .. } if servlet == "novice"),
            "{error}"
        );
        assert_gone(&name.text());
    });
}

#[test]
fn a_restart_whose_set_up_fails_is_a_failed_start() {
    guarded(|| {
        let name = Name::new("set-up-later");
        let servlet = novices("fail-later").restarts(Restarts::default().limit(1));
        let server = Server::builder(name.text()).start(servlet).expect("it starts");
        signal(pids(&server)[0], libc::SIGKILL);
        let mut last = None;
        wait_until("the servlet is down", || {
            last = server.call(&1).err();
            matches!(last, Some(CallError::ServletDown { .. }))
        });
        let text = last.expect("an error").to_string();
        assert!(text.contains("could not start: ") && text.contains("set-up: there is no device"), "{text}");
        drop(server);
        assert_gone(&name.text());
    });
}

#[test]
fn a_panic_hook_that_it_installs_sees_the_panics_of_workers() {
    guarded(|| {
        let (name, gate) = (Name::new("set-up-hook"), Gate::new());
        let servlet = novices(&format!("hook {}", gate.name()));
        let server = Server::builder(name.text()).start(servlet).expect("it starts");
        let error = server.call(&7).expect_err("it panics");
        let seen = gate.arrival();
        assert!(
            seen.label().contains("a bad number") && seen.label().contains("set_up.rs"),
            "{}",
            seen.label()
        );
        // The engine knows where it was, as ever.
        assert!(
            error.to_string().contains("a bad number") && error.to_string().contains("set_up.rs"),
            "{error}"
        );
        assert_eq!(answer(&server), (1, 1));
    });
}
