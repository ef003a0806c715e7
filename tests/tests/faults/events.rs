//! Workers' `tracing` events reach the log of the service, whole, in order, and also when their worker is killed; a flood of
//! them holds up no worker.
//!
//! Symptom: what a worker logged vanished. Cause: no process but the service's has a subscriber. Fix: `forward_events`.
//!
//! Each test has a process of its own, since the log's listener is the whole process's.
#![expect(unsafe_code, reason = "fork and kill")]

use ringmill::worker::Stop;
use ringmill::{BoxError, Context, ProcessServlet, Server, ThreadServlet, Worker};
use ringmill_tests::alone::alone;
use ringmill_tests::listener::{Hearer, Listener};
use ringmill_tests::name::Name;
use ringmill_tests::stats::pids;
use ringmill_tests::wait_until;
use rkyv::string::ArchivedString;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, mpsc};
use tracing::{Event, Level};
use tracing_subscriber::layer::{Layer, SubscriberExt};

ringmill::init!(Teller; set_up = set_up);

/// Has the set-up of a worker's process install a subscriber, or log; without it, it does nothing.
const VARIABLE: &str = "RINGMILL_TEST_EVENTS";

/// How many events a subscriber of a worker's own has seen.
static SEEN: AtomicU64 = AtomicU64::new(0);

/// Counts events, and hands them to the service.
struct Both;

impl<S: tracing::Subscriber> Layer<S> for Both {
    fn on_event(&self, event: &Event<'_>, _: tracing_subscriber::layer::Context<'_, S>) {
        SEEN.fetch_add(1, Ordering::SeqCst);
        ringmill::events::forward(event);
    }
}

fn set_up(_: &Context) -> Result<(), BoxError> {
    match std::env::var(VARIABLE).as_deref() {
        Ok("log") => tracing::info!("setting up"),
        Ok("subscribe") => {
            tracing::subscriber::set_global_default(tracing_subscriber::registry().with(Both))?
        }
        _ => {}
    }
    Ok(())
}

/// Logs as it is told, and answers with how many events its own subscriber has seen.
struct Teller;

impl Worker for Teller {
    type Config = ();
    type In = String;
    type Out = u64;

    fn new((): (), context: &Context) -> Result<Self, BoxError> {
        tracing::info!(restarts = context.restarts(), "built");
        Ok(Self)
    }

    fn call(&mut self, order: &ArchivedString) -> Result<u64, BoxError> {
        let (what, count) = order.split_once(' ').unwrap_or((order, "1"));
        let count: u32 = count.parse()?;
        match what {
            "say" => {
                let _span = tracing::info_span!("a span", of = "no interest").entered();
                tracing::info!(answer = 42, name = "a\nb", "said\nthis");
                tracing::debug!("too quiet");
                std::thread::spawn(|| tracing::warn!("from another thread")).join().expect("no panic");
            }
            "flood" => (0..count).for_each(|number| tracing::info!(number, "flood")),
            "die" => {
                (0..count).for_each(|number| tracing::info!("last words {number}"));
                // SAFETY: integers.
                unsafe { libc::kill(std::process::id().cast_signed(), libc::SIGKILL) };
            }
            "fork" => {
                // SAFETY: the child logs, which takes no lock, and ends.
                match unsafe { libc::fork() } {
                    0 => {
                        tracing::error!("from a child");
                        // SAFETY: an integer.
                        unsafe { libc::_exit(0) };
                    }
                    // SAFETY: a child of this process, and no status to fill.
                    child => unsafe { libc::waitpid(child, std::ptr::null_mut(), 0) },
                };
            }
            other => return Err(BoxError::msg(other)),
        }
        Ok(SEEN.load(Ordering::SeqCst))
    }

    fn cleanup(&mut self, _: &Stop) {
        tracing::info!("cleaned up");
    }
}

fn tell(server: &Server<String, u64>, order: &str) -> u64 {
    server.call(&order.to_string()).expect("an answer").into_owned().expect("a number")
}

fn tellers(what: &str) -> ProcessServlet<Teller> {
    ProcessServlet::new(()).name("teller").env(VARIABLE, what)
}

fn is_forwarded(line: &str) -> bool {
    line.split(' ').nth(1) == Some(ringmill::events::TARGET)
}

#[test]
fn an_event_has_the_fields_of_its_worker() {
    alone("events::an_event_has_the_fields_of_its_worker", || {
        let heard = Hearer::of_this_process();
        let name = Name::new("events");
        let builder = Server::builder(name.text()).forward_events(Level::INFO);
        let server = builder.start(tellers("log")).expect("it starts");
        let (worker, pid) = (format!("worker={}/teller/0", name.text()), format!("pid={}", pids(&server)[0]));
        tell(&server, "say");
        let line = heard.await_line(&["INFO ringmill::worker ", "message=said; this"]);
        for part in [
            &worker,
            &pid,
            "from=faults::events",
            "fields=answer=42 name=\"a\\nb\"",
            "at=tests/tests/faults/events.rs:",
        ] {
            assert!(line.contains(part), "{part}: {line}");
        }
        let at: u128 = line.rsplit_once("unix_ns=").expect("the time").1.parse().expect("a number");
        let now = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .expect("after 1970")
            .as_nanos();
        assert!(at <= now && now - at < 600_000_000_000, "{at} is about now: {now}");
        heard.await_line(&["WARN ringmill::worker ", "message=from another thread", &worker, &pid]);
        // What the last thread of a worker has logged is in the log when the server has ended.
        drop(server);
        let lines: Vec<String> = heard.lines().into_iter().filter(|line| is_forwarded(line)).collect();
        let said: Vec<&str> =
            lines.iter().map(|line| line.split_once("message=").expect("all have one").1).collect();
        let begins: Vec<&str> =
            said.iter().map(|said| said.split(" worker=").next().expect("it begins")).collect();
        assert_eq!(
            begins,
            ["setting up", "built", "said; this", "from another thread", "cleaned up"],
            "{lines:?}"
        );
        name.assert_nothing_left();
    });
}

#[test]
fn without_the_option_no_event_is_forwarded_and_threads_log_themselves() {
    alone("events::without_the_option_no_event_is_forwarded_and_threads_log_themselves", || {
        let heard = Hearer::of_this_process();
        let name = Name::new("events-off");
        let server = Server::builder(name.text()).start(tellers("log")).expect("it starts");
        tell(&server, "say");
        drop(server);
        assert!(!heard.lines().iter().any(|line| line.contains("message=said")), "{:?}", heard.lines());

        let builder = Server::builder(name.text()).forward_events(Level::TRACE);
        let server = builder.start(ThreadServlet::<Teller>::new(())).expect("it starts");
        tell(&server, "say");
        drop(server);
        heard.await_line(&["INFO faults::events ", "message=said"]);
        assert!(!heard.lines().iter().any(|line| is_forwarded(line)), "{:?}", heard.lines());
    });
}

#[test]
fn the_last_events_of_a_killed_worker_arrive() {
    alone("events::the_last_events_of_a_killed_worker_arrive", || {
        let heard = Hearer::of_this_process();
        let name = Name::new("events-killed");
        let builder = Server::builder(name.text()).forward_events(Level::INFO);
        let server = builder.start(tellers("")).expect("it starts");
        for life in 0..3 {
            let pid = pids(&server)[0];
            server.call(&"die 40".to_string()).expect_err("it dies");
            heard.await_line(&["last words 39 ", &format!("pid={pid} ")]);
            let of_this =
                |line: &String| line.contains("last words") && line.contains(&format!("pid={pid} "));
            let all: Vec<String> = heard.lines().into_iter().filter(of_this).collect();
            for (number, line) in all.iter().enumerate() {
                assert!(line.contains(&format!("message=last words {number} ")), "in order: {line}");
            }
            assert_eq!(all.len(), 40);
            heard.await_line(&["message=built", &format!("fields=restarts={}", life + 1)]);
            wait_until("it is back", || server.stats().servlets[0].workers[0].ready);
        }
        assert_eq!(server.stats().servlets[0].total().events_dropped, 0);
    });
}

static GATE: Mutex<Option<mpsc::Receiver<()>>> = Mutex::new(None);
static FLOODED: AtomicU64 = AtomicU64::new(0);
static TOLD_AS_DROPPED: AtomicU64 = AtomicU64::new(0);

struct Dropped(u64);

impl tracing::field::Visit for Dropped {
    fn record_debug(&mut self, _: &tracing::field::Field, _: &dyn std::fmt::Debug) {}

    fn record_u64(&mut self, field: &tracing::field::Field, value: u64) {
        if field.name() == "dropped" {
            self.0 = value;
        }
    }
}

/// Blocks at the first event of a worker until the test lets it go on; then counts.
fn slow_listener(event: &Event<'_>) {
    if event.metadata().target() != ringmill::events::TARGET {
        return;
    }
    let gate = GATE.lock().expect("no panic").take();
    if let Some(gate) = gate {
        let _ = gate.recv(); // ends when the test lets it go on
    }
    let mut dropped = Dropped(0);
    event.record(&mut dropped);
    TOLD_AS_DROPPED.fetch_add(dropped.0, Ordering::SeqCst);
    FLOODED.fetch_add(u64::from(dropped.0 == 0), Ordering::SeqCst);
}

#[test]
fn a_flood_blocks_no_worker_and_what_was_dropped_is_counted() {
    alone("events::a_flood_blocks_no_worker_and_what_was_dropped_is_counted", || {
        const EVENTS: u64 = 20_000;
        tracing::subscriber::set_global_default(Listener::of(|_| true, slow_listener)).expect("the only one");
        let (let_go, gate) = mpsc::channel();
        *GATE.lock().expect("no panic") = Some(gate);
        let name = Name::new("events-flood");
        let builder = Server::builder(name.text()).forward_events(Level::INFO);
        let server = builder.start(tellers("")).expect("it starts");
        // The listener holds up the thread that emits events, and neither the worker nor the supervisor.
        tell(&server, &format!("flood {EVENTS}"));
        let dropped = || server.stats().servlets[0].total().events_dropped;
        let before = dropped();
        assert!(before > 0 && before < EVENTS, "{before}");
        server.call(&"die".to_string()).expect_err("it dies");
        wait_until("it is restarted", || server.stats().servlets[0].workers[0].restarts == 1);
        tell(&server, "flood 1");
        let_go.send(()).expect("it waits");
        drop(server);
        // And two workers were built, one said its last words, the other flooded by one event more, and cleaned up.
        let all = EVENTS + 2 + 1 + 1 + 1;
        let told = (FLOODED.load(Ordering::SeqCst), TOLD_AS_DROPPED.load(Ordering::SeqCst));
        assert_eq!(told.0 + told.1, all, "{told:?}");
        assert!(told.1 >= before, "{told:?}");
        name.assert_nothing_left();
    });
}

#[test]
fn a_worker_with_a_subscriber_of_its_own_forwards_by_a_layer() {
    alone("events::a_worker_with_a_subscriber_of_its_own_forwards_by_a_layer", || {
        let heard = Hearer::of_this_process();
        let name = Name::new("events-own");
        let builder = Server::builder(name.text()).forward_events(Level::INFO);
        let server = builder.start(tellers("subscribe")).expect("it starts");
        assert_eq!(tell(&server, "say"), 4, "its own subscriber has seen all of them, also the quiet one");
        heard.await_line(&["INFO ringmill::worker ", "message=said"]);
        drop(server);
        assert!(!heard.lines().iter().any(|line| line.contains("too quiet")), "{:?}", heard.lines());
        assert_eq!(heard.lines().iter().filter(|line| line.contains("message=said")).count(), 1);
    });
}

#[test]
fn forks_of_the_service_and_of_a_worker_change_nothing() {
    alone("events::forks_of_the_service_and_of_a_worker_change_nothing", || {
        let heard = Hearer::of_this_process();
        let name = Name::new("events-forks");
        let builder = Server::builder(name.text()).forward_events(Level::INFO);
        let server = builder.start(tellers("")).expect("it starts");
        tell(&server, "fork");
        tell(&server, "say");
        heard.await_line(&["message=said"]);
        let (until, hold) = std::io::pipe().expect("a pipe");
        // SAFETY: the child makes system calls, and ends.
        let child = match unsafe { libc::fork() } {
            0 => {
                drop(hold);
                let _ = std::io::Read::read(&mut { until }, &mut [0]); // until the parent lets it go
                // SAFETY: an integer.
                unsafe { libc::_exit(0) };
            }
            child => child,
        };
        let pid = pids(&server)[0];
        server.call(&"die 20".to_string()).expect_err("it dies");
        heard.await_line(&["last words 19 ", &format!("pid={pid} ")]);
        heard.await_line(&["message=built", "fields=restarts=1"]);
        tell(&server, "say");
        drop(server);
        let lines = heard.lines();
        let count = |part: &str| lines.iter().filter(|line| line.contains(part)).count();
        assert_eq!(
            (count("message=said"), count("last words"), count("from a child")),
            (2, 20, 0),
            "{lines:?}"
        );
        drop(hold);
        // SAFETY: a child of ours, and no status to fill.
        unsafe { libc::waitpid(child, std::ptr::null_mut(), 0) };
        name.assert_nothing_left();
    });
}
