//! A test for each row of `docs/promises.md`, under its number and in the order of its tables. The module of a row's topic tries
//! its details.

use futures_util::StreamExt;
use ringmill::error::{EnsembleError, MemberOutcome, RemoteCause, RemoteError};
use ringmill::servlet::{BoxServlet, Pin};
use ringmill::worker::Stop;
use ringmill::{
    Batch, BatchWorker, BoxError, CallError, CallOptions, Context, Cpus, Ensemble, PassThrough,
    ProcessServlet, Server, ServerBuilder, Servlet, StartError, StreamOptions, Switch, ThreadServlet,
    WhenFull, Worker,
};
use ringmill_shm::participant::Life;
use ringmill_shm::segment::{Location, Segment};
use ringmill_tests::actor::Actor;
use ringmill_tests::alone::{alone, has_run_alone};
use ringmill_tests::gate::{Gate, report, stop_at};
use ringmill_tests::guard::guarded;
use ringmill_tests::host::{Crew, Host, on_both};
use ringmill_tests::listener::{Hearer, scribe};
use ringmill_tests::name::Name;
use ringmill_tests::pile::{hold, pile_up, stream_all, wait_for_depth};
use ringmill_tests::probe::{Ask, Probe, Seen, ask, batch_sizes, stopper};
use ringmill_tests::process::{signal, sleeps_in};
use ringmill_tests::program::Program;
use ringmill_tests::traces::assert_gone;
use ringmill_tests::{GUARD, fresh_name, wait_until};
use rkyv::rancor::Fallible;
use rkyv::string::ArchivedString;
use rkyv::with::{ArchiveWith, DeserializeWith, SerializeWith};
use rkyv::{Archive, Archived, Deserialize, Serialize};
use std::cell::Cell;
use std::collections::BTreeSet;
use std::fmt;
use std::os::unix::process::ExitStatusExt;
use std::sync::{Barrier, mpsc};
use std::time::Duration;

ringmill::init!(
    Hand, Heir, Foreman, Probe, Where, Length, Half, Stars, Join, Actor, Teller, PassThrough<Letter>;
    set_up = set_up
);

/// Names the gate at which the set-up reports; without it, it does nothing.
const SET_UP: &str = "RINGMILL_TEST_PROMISED_SET_UP";

fn set_up(context: &Context) -> Result<(), BoxError> {
    match std::env::var(SET_UP) {
        Ok(gate) if gate.is_empty() => Err(BoxError::msg("no gate to report to")),
        Ok(gate) => {
            report(&gate, &format!("set up for {}", context.name()));
            Ok(())
        }
        Err(_) => Ok(()),
    }
}

/// A window that no test outlives.
const HOUR: Duration = Duration::from_secs(3600);
/// A time that is over soon.
const SOON: Duration = Duration::from_millis(30);

// The workers.

/// A [`Hand`]'s configuration.
#[derive(Debug, Clone, Archive, Serialize, Deserialize)]
struct Brief {
    gate: String,
    label: String,
    /// The order for its constructor.
    birth: String,
}

/// Obeys the orders of an item that are for all workers or for its label: `stop`, or `stop a, fail b`. Answers with the item
/// and, behind it, its label.
struct Hand {
    brief: Brief,
    name: String,
    _listening: Option<tracing::subscriber::DefaultGuard>,
}

/// An error with a source.
#[derive(Debug)]
struct Misread(std::num::ParseIntError);

impl fmt::Display for Misread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the model cannot be read")
    }
}

impl std::error::Error for Misread {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.0)
    }
}

fn misread() -> Result<(), BoxError> {
    "x".parse::<u32>().map_err(Misread)?;
    Ok(())
}

impl Worker for Hand {
    type Config = Brief;
    type In = String;
    type Out = String;

    fn new(brief: Brief, context: &Context) -> Result<Self, BoxError> {
        let mut listening = None;
        match brief.birth.as_str() {
            "stop" => stop_at(&brief.gate, &context.name()),
            "tell" => report(&brief.gate, &told(context)),
            "log" => listening = Some(tracing::subscriber::set_default(scribe(brief.gate.clone()))),
            "fail 1" if context.worker_index() == 1 => misread()?,
            "once" if context.restarts() > 0 => return Err(BoxError::msg("born only once")),
            _ => {}
        }
        Ok(Self { brief, name: context.name(), _listening: listening })
    }

    fn call(&mut self, input: &ArchivedString) -> Result<String, BoxError> {
        let label = self.brief.label.as_str();
        let orders = input.split('>').next().unwrap_or("");
        for order in orders.split(", ") {
            match order.split_once(' ').unwrap_or((order, label)) {
                (_, other) if other != label => {}
                ("stop", _) => stop_at(&self.brief.gate, &self.name),
                ("fail", _) => misread()?,
                ("panic", _) => panic!("as ordered"),
                ("fatal", _) => return Err(BoxError::msg("the device is lost").fatal()),
                _ => {}
            }
        }
        Ok(format!("{}>{label}", input.as_str()))
    }

    fn cleanup(&mut self, reason: &Stop) {
        if self.brief.birth == "leave" {
            report(&self.brief.gate, &format!("{reason:?}"));
        }
    }
}

/// All that its context tells a worker.
fn told(context: &Context) -> String {
    format!(
        "{} of {}, {} of {}, batch {} in {:?}, CPUs {:?}, node {:?}, restarts {}",
        context.name(),
        context.server_name(),
        context.worker_index(),
        context.servlet_name(),
        context.batch_size(),
        context.batch_wait_time(),
        context.cpus(),
        context.numa_node(),
        context.restarts()
    )
}

/// An heir's configuration, with something of every kind in it.
#[derive(Debug, Clone, PartialEq, Archive, Serialize, Deserialize)]
struct Estate {
    gate: String,
    weights: Vec<f32>,
    names: Vec<(u16, Option<String>)>,
}

/// Reports its configuration to the gate.
struct Heir;

impl Worker for Heir {
    type Config = Estate;
    type In = ();
    type Out = ();

    fn new(estate: Estate, _: &Context) -> Result<Self, BoxError> {
        report(&estate.gate, &format!("{estate:?}"));
        Ok(Self)
    }

    fn call(&mut self, _: &()) -> Result<(), BoxError> {
        Ok(())
    }
}

/// Handles a batch as its first item says.
struct Foreman;

impl BatchWorker for Foreman {
    type Config = ();
    type In = String;
    type Out = String;

    fn new((): (), _: &Context) -> Result<Self, BoxError> {
        Ok(Self)
    }

    fn call(&mut self, batch: Batch<'_, Self>) -> Result<(), BoxError> {
        let texts: Vec<String> = batch.inputs().map(ArchivedString::to_string).collect();
        match texts[0].as_str() {
            "too few" => batch.reply_all(texts.into_iter().skip(1)),
            "error" => Err(BoxError::msg("all of it is bad")),
            "panic" => panic!("all of it"),
            "one by one" => {
                for item in batch {
                    if item.input().as_str() == "fail" {
                        item.fail(BoxError::msg("this one is bad"));
                    } else {
                        item.pass();
                    }
                }
                Ok(())
            }
            "sum" => {
                let batch = batch.preprocess(|text| text.as_str().parse::<u64>());
                let sum: u64 = batch.values().iter().sum();
                let sums = vec![format!("{sum} of {}", batch.len()); batch.len()];
                batch.reply_all(sums)
            }
            _ => batch.reply_all(texts),
        }
    }
}

ringmill::make_worker!(Length: String => u64, |text| text.len() as u64);
ringmill::make_worker!(Half: u64 => u64, half);
ringmill::make_worker!(Stars: u64 => String, |count| "*".repeat(count.to_native() as usize));
ringmill::make_worker!(Join: Vec<Box<String>> => String, |parts: &Archived<Vec<Box<String>>>| {
    parts.iter().map(|part| part.as_str()).collect::<Vec<_>>().join(" ")
});
ringmill::make_worker!(Where: Vec<u8> => String, |bytes| lies_in(bytes.as_ptr()));
// Which `init!` does not list.
ringmill::make_worker!(Unlisted: u64 => u64, |number| number.to_native() + 1);

fn half(number: &Archived<u64>) -> Result<u64, BoxError> {
    let number = number.to_native();
    if number.is_multiple_of(2) { Ok(number / 2) } else { Err(BoxError::msg(format!("{number} is odd"))) }
}

/// The file that is mapped at an address of this process, and how far into it that is.
fn lies_in(address: *const u8) -> String {
    let address = address as u64;
    let hex = |text: Option<&str>| u64::from_str_radix(text.expect("a field"), 16).expect("a number");
    let maps = std::fs::read_to_string("/proc/self/maps").expect("Linux has it");
    for line in maps.lines() {
        // START-END PERMISSIONS OFFSET DEVICE INODE PATH
        let mut fields = line.split_whitespace();
        let mut range = fields.next().unwrap_or("").split('-');
        let (start, end) = (hex(range.next()), hex(range.next()));
        if (start..end).contains(&address) {
            let offset = hex(fields.nth(1));
            return format!("{} at {}", fields.nth(2).unwrap_or("nothing"), address - start + offset);
        }
    }
    "nowhere".into()
}

/// Shows which process wrote its bytes.
#[derive(Debug, Archive, Serialize, Deserialize)]
struct Letter {
    text: String,
    #[rkyv(with = Signed)]
    writer: u64,
}

impl Letter {
    fn of(length: usize) -> Self {
        Self { text: "x".repeat(length), writer: 0 }
    }
}

/// Writes [`me`] instead of a number.
struct Signed;

impl ArchiveWith<u64> for Signed {
    type Archived = Archived<u64>;
    type Resolver = ();

    fn resolve_with(_: &u64, (): (), out: rkyv::Place<Archived<u64>>) {
        me().resolve((), out);
    }
}

impl<S: Fallible + ?Sized> SerializeWith<u64, S> for Signed {
    fn serialize_with(_: &u64, _: &mut S) -> Result<(), S::Error> {
        Ok(())
    }
}

impl<D: Fallible + ?Sized> DeserializeWith<Archived<u64>, u64, D> for Signed {
    fn deserialize_with(writer: &Archived<u64>, _: &mut D) -> Result<u64, D::Error> {
        Ok(writer.to_native())
    }
}

/// This thread, among all of all processes.
fn me() -> u64 {
    let thread = std::fs::read_link("/proc/thread-self").expect("Linux has it");
    thread.file_name().and_then(|id| id.to_str()?.parse().ok()).expect("PID/task/NUMBER")
}

// Functions of the tests.

fn builder() -> ServerBuilder {
    Server::builder(fresh_name("promises"))
}

fn brief(gate: &Gate, birth: &str) -> Brief {
    Brief { gate: gate.name(), label: "hand".into(), birth: birth.into() }
}

fn hands(host: Host, gate: &Gate, birth: &str, crew: Crew) -> Server<String, String> {
    host.start::<Hand>(builder(), brief(gate, birth), crew)
}

/// A part of a tree: hands with this label.
fn part(host: Host, gate: &Gate, label: &str, workers: usize) -> BoxServlet<String, String> {
    let brief = Brief { gate: gate.name(), label: label.into(), birth: String::new() };
    match host {
        Host::Processes => ProcessServlet::<Hand>::new(brief).name(label).cpus(workers).boxed(),
        Host::Threads => ThreadServlet::<Hand>::new(brief).name(label).cpus(workers).boxed(),
    }
}

fn parts(host: Host, gate: &Gate, labels: &str) -> Vec<BoxServlet<String, String>> {
    labels.chars().map(|label| part(host, gate, &label.to_string(), 1)).collect()
}

fn probes(host: Host, gate: &Gate, crew: Crew) -> Server<Ask, Seen> {
    host.start::<Probe>(builder(), gate.name(), crew)
}

fn say(server: &Server<String, String>, item: &str) -> Result<String, CallError> {
    server.call(&item.to_string())?.into_owned()
}

#[track_caller]
fn remote<Out: fmt::Debug>(outcome: Result<Out, CallError>) -> RemoteError {
    match outcome {
        Err(CallError::Remote(error) | CallError::WorkerDied(error)) => *error,
        other => panic!("{other:?}"),
    }
}

#[track_caller]
fn ensemble_error<Out: fmt::Debug>(outcome: Result<Out, CallError>) -> EnsembleError {
    match outcome {
        Err(CallError::Ensemble(error)) => *error,
        other => panic!("{other:?}"),
    }
}

fn all_ok<Out>(outcomes: Vec<Result<Out, CallError>>) -> Vec<Out> {
    outcomes.into_iter().map(|outcome| outcome.expect("an answer")).collect()
}

/// Gives a foreman three items, which are one batch; returns the outcome of each, errors as their text.
fn batch_of_three(server: &Server<String, String>, items: [&str; 3]) -> [Result<String, String>; 3] {
    let batches = server.stats().servlets[0].batches().count;
    let outcomes = stream_all(server, items.map(String::from));
    assert_eq!(server.stats().servlets[0].batches().count, batches + 1, "one batch");
    let text = |outcome: Result<_, _>| outcome.map_err(|e| remote::<()>(Err(e)).cause.to_string());
    outcomes.into_iter().map(text).collect::<Vec<_>>().try_into().expect("three")
}

fn foreman(host: Host) -> Server<String, String> {
    host.start::<Foreman>(builder(), (), Crew::of(1).patient(3, HOUR))
}

fn segment(name: &str) -> Segment {
    Segment::inspect(Location::named(name).expect("a name")).expect("it is there")
}

/// The process that holds the reader lock of a server's only servlet.
fn holder<In, Out>(server: &Server<In, Out>) -> Option<u32> {
    let segment = segment(server.name());
    let token = segment.node(0).expect("the only one").lock().holder()?;
    Some(segment.participants()[token.index() as usize].pid())
}

fn pids<In, Out>(server: &Server<In, Out>) -> Vec<u32> {
    server.stats().servlets.iter().flat_map(|servlet| &servlet.workers).map(|worker| worker.pid).collect()
}

/// Without back-pressure.
fn patient() -> CallOptions {
    CallOptions::new().when_full(WhenFull::Wait).timeout(GUARD)
}

/// Every permit can be taken, so none is lost.
#[track_caller]
fn assert_every_place_is_free(server: &Server<String, String>) {
    let take = |_| server.call_with(&"take".into(), patient()).expect("a permit");
    let replies: Vec<_> = (0..server.capacity()).map(take).collect();
    assert_eq!(server.backlog(), server.capacity());
    drop(replies);
    assert_eq!(server.backlog(), 0);
}

// Workers.

/// A server has started when each of its workers has said that it is ready; if a worker cannot, the start's error says which one
/// and why, and nothing is left of the others.
#[test]
fn worker_01_handshake_waits_for_every_worker_and_names_the_one_that_fails() {
    on_both(|host| {
        let (gate, name) = (Gate::new(), fresh_name("promises"));
        std::thread::scope(|scope| {
            let (builder, brief) = (Server::builder(&name), brief(&gate, "stop"));
            let starting = scope.spawn(move || host.start::<Hand>(builder, brief, Crew::of(2)));
            let mut arrivals = gate.arrivals(2);
            drop(arrivals.pop());
            let ready =
                || segment(&name).participants()[1..].iter().filter(|w| w.life() == Life::Ready).count();
            wait_until("one of them is ready", || ready() == 1);
            assert!(!starting.is_finished(), "the other one is not");
            drop(arrivals);
            let server = starting.join().expect("it starts");
            assert!(server.stats().servlets[0].workers.iter().all(|worker| worker.ready));
        });
        assert_gone(&name);
        let error = host.try_start::<Hand>(Server::builder(&name), brief(&gate, "fail 1"), Crew::of(3));
        let StartError::Worker(error) = error.map(drop).expect_err("one fails") else { panic!("its own") };
        assert_eq!((error.servlet.as_str(), error.worker), ("hand", 1));
        assert!(
            error
                .cause
                .to_string()
                .ends_with("Misread: the model cannot be read: invalid digit found in string")
        );
        assert_gone(&name);
    });
    // With a backtrace, where the worker's environment asks for them.
    let servlet =
        ProcessServlet::<Hand>::new(brief(&Gate::new(), "fail 1")).cpus(2).env("RUST_BACKTRACE", "1");
    let error = builder().start(servlet).map(drop).expect_err("one fails");
    let StartError::Worker(error) = error else { panic!("its own: {error}") };
    let RemoteCause::Failed { backtrace: Some(backtrace), .. } = &error.cause else { panic!("{error:?}") };
    assert!(backtrace.contains("misread"), "{backtrace}");
}

/// Each worker gets its own copy of the value that its servlet was made with, wherever it lives.
#[test]
fn worker_02_configuration_reaches_each_worker_whole() {
    on_both(|host| {
        let gate = Gate::new();
        let estate = Estate {
            gate: gate.name(),
            weights: vec![0.1, -0.0, f32::MAX],
            names: vec![(7, None), (u16::MAX, Some("Ågot".repeat(100)))],
        };
        let _server = host.start::<Heir>(builder(), estate.clone(), Crew::of(3));
        let got: Vec<String> = (0..3).map(|_| gate.arrival().label().to_owned()).collect();
        assert_eq!(got, vec![format!("{estate:?}"); 3]);
        assert!(gate.arrival_if_any().is_none(), "one each");
    });
}

/// The NUMA node of a CPU, as the kernel shows it.
fn node_of(cpu: usize) -> Option<usize> {
    let entries = std::fs::read_dir(format!("/sys/devices/system/cpu/cpu{cpu}")).ok()?;
    entries.flatten().find_map(|entry| entry.file_name().to_str()?.strip_prefix("node")?.parse().ok())
}

/// The constructor learns which worker it builds, how its batches are made, where it is pinned, and how often it has been
/// started before.
#[test]
fn worker_03_context_tells_name_index_batches_cpus_node_and_restarts() {
    on_both(|host| {
        let gate = Gate::new();
        let cpu = *ringmill::cpu::allowed().last().expect("we run on one");
        let crew = Crew::on(Cpus::list([Pin::to([cpu]), Pin::any()])).patient(4, SOON);
        let server = hands(host, &gate, "tell", crew);
        let name = server.name();
        let expected = |index: usize, restarts| {
            let (cpus, node) = if index == 0 { (vec![cpu], node_of(cpu)) } else { (vec![], None) };
            format!(
                "{name}/hand/{index} of {name}, {index} of hand, batch 4 in {SOON:?}, CPUs {cpus:?}, node {node:?}, restarts {restarts}"
            )
        };
        let labels: BTreeSet<String> = (0..2).map(|_| gate.arrival().label().to_owned()).collect();
        assert_eq!(labels, [expected(0, 0), expected(1, 0)].into());
        let gave_up = remote(say(&server, "fatal")).worker;
        assert_eq!(gate.arrival().label(), expected(gave_up as usize, 1));
    });
}

/// With no batch size, or 1, the worker sees items one at a time; with a larger n it sees up to n.
#[test]
fn worker_04_batch_size_none_one_and_many() {
    on_both(|host| {
        for (crew, sizes) in [
            (Crew::of(1), &[1; 7][..]),
            (Crew::of(1).batches_of(1), &[1; 7]),
            (Crew::of(1).greedy(3), &[3, 3, 1]),
        ] {
            let gate = Gate::new();
            let server = probes(host, &gate, crew);
            let seen = all_ok(pile_up(&server, &gate, stopper(), (0..7).map(ask).collect()));
            assert_eq!(batch_sizes(&seen), sizes);
        }
    });
}

/// Whether an item that has waited out its window behind a busy worker then leaves alone, without another item that comes a
/// little before the end of a window counted from its collection.
fn leaves_as_soon_as_its_own_window_is_over(host: Host) -> bool {
    const WINDOW: Duration = Duration::from_secs(1);
    let gate = Gate::new();
    let server = &probes(host, &gate, Crew::of(1).patient(2, WINDOW));
    std::thread::scope(|scope| {
        // A full batch, so that the worker is busy without having waited.
        let first = scope.spawn(|| stream_all(server, [stopper(), stopper()]));
        let busy = gate.arrival();
        let aged =
            scope.spawn(|| server.call(&stopper()).expect("an answer").into_owned().expect("its own value"));
        wait_for_depth(server, 1);
        std::thread::sleep(WINDOW); // the test needs time to pass
        let (left, has_left) = mpsc::channel();
        let late = scope.spawn(move || {
            let _ = has_left.recv_timeout(WINDOW * 9 / 10);
            server.call(&ask(2)).expect("an answer").into_owned().expect("its own value")
        });
        busy.release();
        let arrival = gate.arrival();
        let _ = left.send(()); // the receiver has gone if that took nearly as long as the window
        arrival.release();
        all_ok(first.join().expect("no panic"));
        late.join().expect("no panic");
        aged.join().expect("no panic").len == 1
    })
}

/// A window needs batches, and comes by itself with them: 10 ms if nothing else is said. It is counted from
/// when the oldest item was sent.
#[test]
fn worker_05_batch_wait_time_has_its_rule_its_default_and_its_clock() {
    on_both(|host| {
        for (crew, batch) in [
            (Crew::of(1), "batch 0 in 0ns"),
            (Crew::of(1).batches_of(1), "batch 1 in 0ns"),
            (Crew::of(1).batches_of(2), "batch 2 in 10ms"),
            (Crew::of(1).greedy(2), "batch 2 in 0ns"),
        ] {
            let gate = Gate::new();
            let _server = hands(host, &gate, "tell", crew);
            let arrival = gate.arrival();
            assert!(arrival.label().contains(batch), "{arrival:?}");
        }
        for size in [0, 1] {
            let error = host.try_start::<Probe>(builder(), String::new(), Crew::of(1).patient(size, SOON));
            let error = error.map(drop).expect_err("a window without batches").to_string();
            assert!(error.contains(&format!("batch_size {size} with batch_wait_time {SOON:?}")), "{error}");
        }
        // Several tries, because the machine may be too busy at one of them.
        assert!((0..5).any(|_| leaves_as_soon_as_its_own_window_is_over(host)));
    });
}

/// `call` reads its inputs in the segment itself; each outcome goes to the input of its position, and if their numbers differ,
/// every item of the batch gets that error.
#[test]
fn worker_06_call_reads_in_place_and_answers_item_for_item() {
    on_both(|host| {
        let server = host.start::<Where>(builder(), (), Crew::of(1));
        for length in [10, 5000] {
            let lies = server.call(&vec![7; length]).expect("an answer").into_owned().expect("its own value");
            let file = server.segment_path().display().to_string();
            assert!(lies.starts_with(&format!("{file} at ")), "{lies}");
        }
        let server = foreman(host);
        assert_eq!(batch_of_three(&server, ["a", "b", "c"]), ["a", "b", "c"].map(|text| Ok(text.into())));
        let miscounted = "the worker's call gave 2 outcomes for a batch of 3; none was used";
        let outcomes = batch_of_three(&server, ["too few", "b", "c"]);
        assert_eq!(outcomes, [(); 3].map(|()| Err(miscounted.into())));
    });
}

/// A failure of a batch is the outcome of each of its items, a failure of an item is that of this item alone; the worker goes on.
#[test]
fn worker_07_exceptions_reach_exactly_the_items_they_concern() {
    on_both(|host| {
        let server = foreman(host);
        let pid = pids(&server);
        let errors = batch_of_three(&server, ["error", "b", "c"]);
        assert_eq!(errors, [(); 3].map(|()| Err("all of it is bad".into())));
        for outcome in batch_of_three(&server, ["panic", "b", "c"]) {
            assert!(outcome.as_ref().is_err_and(|e| e.starts_with("panicked: all of it")), "{outcome:?}");
        }
        let outcomes = batch_of_three(&server, ["one by one", "fail", "c"]);
        assert_eq!(outcomes, [Ok("one by one".into()), Err("this one is bad".into()), Ok("c".into())]);
        let worker = &server.stats().servlets[0].workers[0];
        assert_eq!((vec![worker.pid], worker.restarts), (pid, 0));
    });
}

/// `preprocess` may first make something else of each item; an item at which it fails is answered with its error, and is not
/// part of the batch's work.
#[test]
fn worker_08_preprocess_answers_what_it_refuses_and_changes_the_type() {
    on_both(|host| {
        let outcomes = batch_of_three(&foreman(host), ["sum", "20", "22"]);
        assert!(outcomes[0].as_ref().is_err_and(|e| e.ends_with("invalid digit found in string")));
        assert_eq!(outcomes[1..], [Ok("42 of 2".to_string()), Ok("42 of 2".to_string())]);
    });
}

/// An item that has failed is seen by no worker after that, and its error comes out as it was.
#[test]
fn worker_09_errors_pass_by_later_workers_untouched() {
    on_both(|host| {
        let gate = Gate::new();
        let alone = builder().start(part(host, &gate, "a", 1)).expect("it starts");
        let first_of_three =
            part(host, &gate, "a", 1).then(part(host, &gate, "b", 1)).then(part(host, &gate, "c", 1));
        let server = builder().start(first_of_three).expect("it starts");
        let (mut expected, error) = (remote(say(&alone, "fail a")), remote(say(&server, "fail a")));
        expected.pid = pids(&server)[0];
        assert_eq!(error, expected);
        let seen: Vec<u64> = server.stats().servlets.iter().map(|servlet| servlet.batches().items).collect();
        assert_eq!(seen, [1, 0, 0]);
        assert_eq!(say(&server, "x").expect("an answer"), "x>a>b>c");
    });
}

/// One worker has as many batches in progress at once as it has threads, and mixes up none of them.
#[test]
fn worker_10_stream_threads_have_batches_in_progress_side_by_side() {
    on_both(|host| {
        let gate = Gate::new();
        let server = &hands(host, &gate, "", Crew::of(1).threads(3));
        std::thread::scope(|scope| {
            let items = ["stop, 1", "stop, 2", "stop, 3"];
            let calls = items.map(|item| scope.spawn(move || say(server, item)));
            let arrivals = gate.arrivals(3);
            let names: BTreeSet<&str> = arrivals.iter().map(|arrival| arrival.label()).collect();
            let expected: Vec<_> =
                (0..3).map(|thread| format!("{}/hand/0.{thread}", server.name())).collect();
            assert_eq!(names, expected.iter().map(String::as_str).collect());
            drop(arrivals);
            let answers = calls.map(|call| call.join().expect("no panic").expect("an answer"));
            assert_eq!(answers, items.map(|item| format!("{item}>hand")));
        });
    });
}

/// A worker that leaves learns why, once; errors and panics that are not fatal do not make it leave.
#[test]
fn worker_11_cleanup_gets_the_reason() {
    on_both(|host| {
        let gate = Gate::new();
        let server = hands(host, &gate, "leave", Crew::of(1));
        remote(say(&server, "fail"));
        remote(say(&server, "panic"));
        assert_eq!(say(&server, "x").expect("it goes on"), "x>hand");
        assert!(gate.arrival_if_any().is_none());
        remote(say(&server, "fatal"));
        assert_eq!(gate.arrival().label(), "Fatal");
        assert_eq!(say(&server, "x").expect("another goes on"), "x>hand");
        drop(server);
        assert_eq!(gate.arrival().label(), "Shutdown");
        assert!(gate.arrival_if_any().is_none());
    });
}

/// A shutdown refuses new requests, ends those in progress, and lets the workers leave; one that does not leave in time is
/// killed.
#[test]
fn worker_12_shutdown_drains_in_order_and_kills_what_hangs() {
    on_both(|host| {
        let (gate, name) = (Gate::new(), fresh_name("promises"));
        let builder = Server::builder(&name).capacity(2);
        let server =
            &host.start::<Hand>(builder.clone().shutdown_timeout(HOUR), brief(&gate, ""), Crew::of(1));
        std::thread::scope(|scope| {
            let (arrival, held) = hold(scope, server, &gate, "stop".into());
            let queued = scope.spawn(|| say(server, "queued"));
            wait_for_depth(server, 1);
            let ending = scope.spawn(|| server.shutdown());
            // Until then it refuses them for want of a permit.
            wait_until("it takes no calls", || matches!(say(server, "late"), Err(CallError::ShuttingDown)));
            assert!(!ending.is_finished());
            arrival.release();
            assert_eq!(held.join().expect("no panic").expect("it was begun"), "stop>hand");
            assert_eq!(queued.join().expect("no panic").expect("it was there"), "queued>hand");
        });
        assert_gone(&name);
        if host == Host::Processes {
            let server = &host.start::<Hand>(builder.shutdown_timeout(SOON), brief(&gate, ""), Crew::of(1));
            std::thread::scope(|scope| {
                let (_arrival, held) = hold(scope, server, &gate, "stop".into());
                server.shutdown();
                let killed = RemoteCause::KilledByShutdown { limit_ns: Some(SOON.as_nanos() as u64) };
                assert_eq!(remote(held.join().expect("no panic")).cause, killed);
                assert_gone(&name);
            });
        }
    });
}

/// Ctrl-C ends the requests in progress, and then workers and server, without a message; a second one does not wait.
#[test]
fn worker_13_ctrl_c_is_quiet_and_a_second_one_kills() {
    guarded(|| {
        for (options, patient) in [(&["workers=2"][..], true), (&["threads"], true), (&["workers=2"], false)]
        {
            let (name, gate) = (Name::new("ctrl-c"), ringmill_tests::actor_gate::ActorGate::new());
            let (mut program, _) = Program::start_ready(&name, &gate, options);
            let busy = program.hold(&gate, 1);
            program.tell("watch");
            program.signal_group(libc::SIGINT);
            assert_eq!(program.line(), "refused");
            if patient {
                busy.let_go();
                let kinds = [(); 2].map(|()| gate.next().kind);
                assert_eq!(kinds, ["cleanup-shutdown", "cleanup-shutdown"]);
            } else {
                program.signal_group(libc::SIGINT);
                busy.await_death();
            }
            let end = program.end(); // and of all its workers, which have its output
            assert_eq!((end.status.signal(), end.stderr.as_str()), (Some(libc::SIGINT), ""));
            assert!(["", "answer 2\n", "died 1\n"].contains(&end.stdout.as_str()), "{end:?}");
            name.assert_nothing_left();
        }
    });
}

/// Number and sizes of batches can be read at any moment, from any process that maps the segment, and are logged after every n
/// batches.
#[test]
fn worker_14_batch_statistics_are_live_and_logged() {
    on_both(|host| {
        let gate = Gate::new();
        let server = &hands(host, &gate, "log", Crew::of(1).greedy(3).logging_every(2));
        let batches = || {
            let counters = segment(server.name()).participants()[1].counters().snapshot();
            (counters.batches, counters.items, counters.batch_min, counters.batch_max)
        };
        std::thread::scope(|scope| {
            let (arrival, held) = hold(scope, server, &gate, "stop".into());
            assert_eq!(batches(), (1, 1, 1, 1), "while it is at work");
            let three = scope.spawn(|| stream_all(server, ["1", "2", "3"].map(String::from)));
            wait_for_depth(server, 3);
            arrival.release();
            held.join().expect("no panic").expect("an answer");
            all_ok(three.join().expect("no panic"));
        });
        assert_eq!(batches(), (2, 4, 1, 3));
        assert_eq!(server.stats().servlets[0].batches().mean(), 2.0);
        let line = gate.arrival();
        assert!(line.label().ends_with("worker=0 thread=0 count=2 min=1 max=3 mean=2.0"), "{line:?}");
    });
}

/// While a worker is at work the items for its next batch gather in the ring, so that the next batch is full.
#[test]
fn worker_15_prefetch_is_what_lies_in_the_ring() {
    on_both(|host| {
        let gate = Gate::new();
        let server = &probes(host, &gate, Crew::of(1).greedy(4));
        std::thread::scope(|scope| {
            let (arrival, held) = hold(scope, server, &gate, stopper());
            let items = scope.spawn(|| stream_all(server, (0..4).map(ask)));
            wait_for_depth(server, 4);
            arrival.release();
            assert_eq!(held.join().expect("no panic").expect("an answer").batch, 1);
            let seen = all_ok(items.join().expect("no panic"));
            assert!(seen.iter().all(|item| (item.batch, item.len) == (2, 4)), "{seen:?}");
        });
        assert_eq!(server.stats().servlets[0].total().closed_full, 1);
    });
}

/// A function or a closure is enough to have a worker; the worker that answers with its input leaves that where
/// it lies.
#[test]
fn worker_16_make_worker_and_pass_through() {
    on_both(|host| {
        let halves = host.start::<Half>(builder(), (), Crew::of(1));
        assert_eq!(*halves.call(&84).expect("even"), 42);
        assert_eq!(remote(halves.call(&7)).cause.to_string(), "7 is odd");
        let lengths = host.start::<Length>(builder(), (), Crew::of(1).greedy(4));
        assert_eq!(*lengths.call(&"four".into()).expect("an answer"), 4);
        let echo = host.start::<PassThrough<Letter>>(builder(), (), Crew::of(1));
        for length in [10, 5000] {
            let letter = Letter::of(length);
            let reply = echo.call(&letter).expect("an answer");
            assert_eq!((reply.text.as_str(), reply.writer.to_native()), (letter.text.as_str(), me()));
        }
    });
}

/// What `init!` sets up is set up once in each worker's process, before its workers are built; an error of it is the start's.
#[test]
fn worker_17_each_process_is_set_up_once_before_its_workers() {
    guarded(|| {
        let (gate, name) = (Gate::new(), fresh_name("promises"));
        let hands = |reports_to: String| {
            let brief = brief(&gate, "tell");
            ProcessServlet::<Hand>::new(brief).name("hand").stream_threads(2).env(SET_UP, reports_to)
        };
        let server = Server::builder(&name).start(hands(gate.name())).expect("it starts");
        let said = gate.arrivals(3);
        assert_eq!(said[0].label(), format!("set up for {name}/hand/0.0"));
        assert!(said[1..].iter().all(|built| !built.label().starts_with("set up")), "{said:?}");
        assert!(gate.arrival_if_any().is_none());
        drop(server);
        let error = Server::builder(&name).start(hands(String::new())).expect_err("its set-up fails");
        assert!(error.to_string().ends_with("set-up: no gate to report to"), "{error}");
        assert_gone(&name);
    });
}

/// A service that asks for them logs the events of its workers' processes, also the last ones of a worker that is killed.
#[test]
fn worker_18_the_service_logs_what_workers_log() {
    alone("promises::worker_18_the_service_logs_what_workers_log", || {
        let (heard, name) = (Hearer::of_this_process(), fresh_name("promises"));
        let servlet = ProcessServlet::<Half>::new(()).name("half").batch_size(1).log_batches_every(1);
        let server =
            Server::builder(&name).forward_events(tracing::Level::INFO).start(servlet).expect("it starts");
        let victim = server.stats().servlets[0].workers[0].pid;
        for _ in 0..2 {
            // A worker logs a batch after its answers, and before it collects the next batch.
            assert_eq!(*server.call(&8).expect("an answer"), 4);
        }
        signal(victim, libc::SIGKILL);
        let (worker, pid) = (format!("worker={name}/half/0"), format!("pid={victim}"));
        heard.await_line(&[
            "INFO ringmill::worker ",
            "message=batches",
            &worker,
            &pid,
            "count=1 min=1 max=1",
        ]);
        drop(server);
        assert_gone(&name);
    });
}

// Batches.

/// All workers of a servlet, in any number of processes, take from one ring.
#[test]
fn batching_01_any_number_of_workers_share_one_ring() {
    on_both(|host| {
        let gate = Gate::new();
        let server = &probes(host, &gate, Crew::of(4));
        std::thread::scope(|scope| {
            // From one stream, which does not choose workers.
            let items = scope.spawn(|| stream_all(server, (0..4).map(|_| stopper())));
            drop(gate.arrivals(4));
            let workers: BTreeSet<u64> =
                all_ok(items.join().expect("no panic")).iter().map(|seen| seen.worker).collect();
            assert_eq!(workers, (0..4).collect());
        });
        let processes: BTreeSet<u32> = pids(server).into_iter().collect();
        assert_eq!(processes.len(), if host == Host::Processes { 4 } else { 1 });
    });
}

/// The worker that collects keeps the reader lock as long as its window is open, and items that come meanwhile are its own.
#[test]
fn batching_02_the_lock_is_kept_while_the_window_is_open() {
    on_both(|host| {
        let gate = Gate::new();
        let server = &probes(host, &gate, Crew::of(3).patient(5, HOUR));
        let seen = std::thread::scope(|scope| {
            let call =
                |value| scope.spawn(move || server.call(&ask(value)).and_then(|reply| reply.into_owned()));
            let mut calls = vec![call(0)];
            wait_until("a worker collects", || holder(server).is_some());
            let token = || segment(server.name()).node(0).expect("the only one").lock().holder();
            let collector = token();
            for value in 1..4 {
                calls.push(call(value));
                wait_for_depth(server, value as usize + 1);
                assert_eq!(token(), collector);
            }
            calls.push(call(4));
            all_ok(calls.into_iter().map(|call| call.join().expect("no panic")).collect())
        });
        assert!(seen.iter().all(|item| item.len == 5 && item.worker == seen[0].worker), "{seen:?}");
    });
}

/// A batch is closed by its last item, by the end of its window, or, where it has none, by an empty ring; then
/// others may collect.
#[test]
fn batching_03_the_lock_is_let_go_when_full_when_due_or_when_empty() {
    on_both(|host| {
        let closed = |crew, items: u64, sizes: &[usize]| {
            let gate = Gate::new();
            let server = probes(host, &gate, crew);
            let seen = all_ok(stream_all(&server, (0..items).map(ask)));
            assert_eq!(batch_sizes(&seen), sizes);
            wait_until("no worker collects", || holder(&server).is_none());
            let total = server.stats().servlets[0].total();
            (total.closed_full, total.closed_window, total.closed_empty)
        };
        assert_eq!(closed(Crew::of(1).patient(3, HOUR), 6, &[3, 3]), (2, 0, 0));
        assert_eq!(closed(Crew::of(1).patient(3, SOON), 1, &[1]), (0, 1, 0));
        assert_eq!(closed(Crew::of(1).greedy(3), 1, &[1]), (0, 0, 1));
        assert_eq!(closed(Crew::of(1).batches_of(3), 1, &[1]), (0, 0, 1), "it cannot pay to wait");
    });
}

/// While one worker works another collects, so that under load several full batches are at work at once; without load and window
/// each item leaves alone.
#[test]
fn batching_04_others_collect_while_one_works() {
    on_both(|host| {
        let gate = Gate::new();
        let server = &probes(host, &gate, Crew::of(2).patient(4, HOUR));
        std::thread::scope(|scope| {
            let items = scope.spawn(|| stream_all(server, (0..8).map(|_| stopper())));
            let arrivals = gate.arrivals(2);
            let labels: BTreeSet<&str> = arrivals.iter().map(|arrival| arrival.label()).collect();
            assert_eq!(labels, ["worker 0, 4 items", "worker 1, 4 items"].into());
            drop(arrivals);
            all_ok(items.join().expect("no panic"));
        });
        let server = probes(host, &gate, Crew::of(2).greedy(4));
        assert!((0..20).all(|value| server.call(&ask(value)).expect("an answer").len == 1));
    });
}

/// Waits until a worker collects, kills it, and waits until another one collects; returns the dead worker's process.
fn kill_the_collector(server: &Server<String, String>) -> u32 {
    wait_until("a worker collects", || holder(server).is_some());
    let victim = holder(server).expect("only its death ends its window");
    signal(victim, libc::SIGKILL);
    wait_until("another one collects", || holder(server).is_some_and(|pid| pid != victim));
    victim
}

/// A collector that dies costs no request: the next one collects its batch, whole and in order.
#[test]
fn batching_05_a_collector_that_dies_leaves_its_batch_to_the_next() {
    for workers in [1, 3] {
        let gate = Gate::new();
        let server = &hands(Host::Processes, &gate, "", Crew::of(workers).patient(3, HOUR));
        let items = ["a", "b", "c"].map(String::from);
        std::thread::scope(|scope| {
            let call = |item| scope.spawn(move || say(server, item));
            let mut calls = vec![call("a")];
            wait_for_depth(server, 1);
            calls.push(call("b"));
            wait_for_depth(server, 2);
            kill_the_collector(server);
            assert_eq!(server.stats().servlets[0].batches().count, 0);
            calls.push(call("c"));
            let answers: Vec<_> =
                calls.into_iter().map(|call| call.join().expect("no panic").expect("an answer")).collect();
            assert_eq!(answers, items.map(|item| format!("{item}>hand")));
        });
        assert_eq!(server.stats().servlets[0].batches().count, 1, "one batch of three");
    }
}

/// If no window is stated, every batch of a lone caller is closed because the ring is empty, and none by a wait.
#[test]
fn batching_06_a_lone_caller_never_waits() {
    on_both(|host| {
        let gate = Gate::new();
        let server = probes(host, &gate, Crew::of(2).batches_of(8));
        assert!((0..30).all(|value| server.call(&ask(value)).expect("an answer").len == 1));
        let total = server.stats().servlets[0].total();
        assert_eq!((total.closed_empty, total.closed_window, total.closed_full), (30, 0, 0));
    });
}

// Servlets.

/// The CPUs that a process may use.
fn affinity(pid: u32) -> Vec<usize> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("it lives");
    let list = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:")).expect("a line");
    let number = |text: &str| text.parse::<usize>().expect("a number");
    let range = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        number(first)..=number(last)
    };
    list.trim().split(',').flat_map(range).collect()
}

/// A process servlet has a process for each worker, pinned as configured or not at all; a CPU that is not ours is an error
/// before anything starts.
#[test]
fn servlet_01_process_has_a_process_for_each_worker_pinned_as_told() {
    let all = ringmill::cpu::allowed().to_vec();
    let cpu = *all.last().expect("we run on one");
    let nodes: BTreeSet<_> = all.iter().map(|&cpu| node_of(cpu).unwrap_or(0)).collect();
    let of_node =
        |node: &usize| all.iter().copied().filter(|&cpu| node_of(cpu).unwrap_or(0) == *node).collect();
    let servlet = || ProcessServlet::<Half>::new(());
    for (servlet, expected) in [
        (servlet(), vec![all.clone()]),
        (servlet().cpus(3), vec![all.clone(); 3]),
        (servlet().cpus([None, Some(cpu)]), vec![all.clone(), vec![cpu]]),
        (servlet().cpus([all.clone(), vec![cpu], vec![cpu]]), vec![all.clone(), vec![cpu], vec![cpu]]),
        (servlet().cpus(Cpus::Auto), all.iter().map(|&cpu| vec![cpu]).collect()),
        (servlet().cpus(Cpus::PerNumaNode), nodes.iter().map(of_node).collect()),
    ] {
        let server = builder().start(servlet).expect("it starts");
        let pids = pids(&server);
        assert_eq!(pids.iter().map(|&pid| affinity(pid)).collect::<Vec<_>>(), expected);
        let others: BTreeSet<u32> = pids.into_iter().filter(|&pid| pid != std::process::id()).collect();
        assert_eq!(others.len(), expected.len());
    }
    let none = all.iter().max().expect("we run on one") + 1;
    let error = builder().start(servlet().name("bold").cpus([cpu, none])).map(drop).expect_err("not ours");
    assert!(matches!(&error, StartError::Cpu { cpu, .. } if *cpu == none), "{error:?}");
    assert!(error.to_string().starts_with(&format!("servlet bold: CPU {none} is not among")), "{error}");
}

/// A thread servlet runs the same workers on the same rings in as many threads of this process, and needs no
/// list of them.
#[test]
fn servlet_02_thread_runs_the_same_workers_in_this_process() {
    let gate = Gate::new();
    let server = &hands(Host::Threads, &gate, "", Crew::of(3));
    assert_eq!(pids(server), [std::process::id(); 3]);
    std::thread::scope(|scope| {
        let calls = [(); 3].map(|()| scope.spawn(|| say(server, "stop")));
        let arrivals = gate.arrivals(3);
        let fourth = scope.spawn(|| say(server, "x"));
        wait_for_depth(server, 1); // in its ring, as with processes
        drop(arrivals);
        calls.into_iter().chain([fourth]).for_each(|call| assert!(call.join().expect("no panic").is_ok()));
    });
    let server = builder().start(ThreadServlet::<Unlisted>::new(())).expect("threads need no list");
    assert_eq!(*server.call(&41).expect("an answer"), 42);
    let error = builder().start(ProcessServlet::<Unlisted>::new(())).map(drop).expect_err("processes do");
    assert!(matches!(error, StartError::NotListed { .. }), "{error}");
}

/// The outcome of one stage is the input of the next; an item may overtake another on the way, and each caller still gets its
/// own. (A test in the documentation of `then` checks that types which do not fit do not compile.)
#[test]
fn servlet_03_sequential_feeds_each_stage_from_the_one_before() {
    on_both(|host| {
        let servlet = match host {
            Host::Processes => {
                ProcessServlet::<Length>::new(()).then(ProcessServlet::<Stars>::new(())).boxed()
            }
            Host::Threads => ThreadServlet::<Length>::new(()).then(ThreadServlet::<Stars>::new(())).boxed(),
        };
        let server = builder().start(servlet).expect("it starts");
        assert_eq!(server.call(&"four".into()).expect("an answer").as_str(), "****");

        let gate = Gate::new();
        let two_stages = part(host, &gate, "a", 2).then(part(host, &gate, "b", 2));
        let server = &builder().start(two_stages).expect("it starts");
        std::thread::scope(|scope| {
            let (arrival, first) = hold(scope, server, &gate, "stop a".into());
            assert_eq!(say(server, "second").expect("it overtakes"), "second>a>b");
            arrival.release();
            assert_eq!(first.join().expect("no panic").expect("an answer"), "stop a>a>b");
        });
    });
}

/// All members read the very bytes that the caller wrote, and the answer has their outcomes in member order, whichever was first.
#[test]
fn servlet_04_ensemble_members_read_one_input_and_answer_in_order() {
    let (process, thread) = (|| ProcessServlet::<Where>::new(()), || ThreadServlet::<Where>::new(()));
    let server =
        builder().start(Ensemble::of((process(), thread(), process(), thread()))).expect("it starts");
    for length in [10, 5000] {
        let lie = server.call(&vec![7; length]).expect("an answer").into_owned().expect("its own value");
        let all = [&lie.0, &lie.1, &lie.2, &lie.3];
        let file = server.segment_path().display().to_string();
        assert!(all.iter().all(|lies| **lies == lie.0 && lies.starts_with(&file)), "{lie:?}");
    }
    on_both(|host| {
        let gate = Gate::new();
        let server = &builder().start(Ensemble::each(parts(host, &gate, "abc"))).expect("it starts");
        std::thread::scope(|scope| {
            let call =
                scope.spawn(|| server.call(&"stop a, stop b".into()).and_then(|reply| reply.into_owned()));
            let mut arrivals = gate.arrivals(2);
            arrivals.sort_by_key(|arrival| arrival.label().to_string());
            arrivals.pop().expect("b's").release(); // b before a, and c before both
            wait_until("b has answered", || server.stats().servlets[1].batches().items == 1);
            drop(arrivals);
            let answers = call.join().expect("no panic").expect("an answer");
            assert_eq!(answers, ["a", "b", "c"].map(|label| Box::new(format!("stop a, stop b>{label}"))));
        });
    });
}

/// By default a member's error ends the item at once, and later outcomes of other members are dropped.
#[test]
fn servlet_04_ensemble_fails_fast_by_default() {
    on_both(|host| {
        let gate = Gate::new();
        let servlet = Ensemble::each(parts(host, &gate, "ab")).name("pair");
        let server = &builder().start(servlet).expect("it starts");
        std::thread::scope(|scope| {
            let call = scope
                .spawn(|| server.call(&"stop a, stop b, fail b".into()).and_then(|reply| reply.into_owned()));
            let mut arrivals = gate.arrivals(2);
            arrivals.sort_by_key(|arrival| arrival.label().to_string());
            arrivals.pop().expect("b's").release();
            let error = ensemble_error(call.join().expect("no panic"));
            assert_eq!((error.servlet.as_str(), error.members.len()), ("pair", 2));
            assert_eq!(error.members[0].outcome, MemberOutcome::Unfinished, "a is still at work");
            assert!(error.members[1].outcome.error().is_some_and(|e| e.servlet == "b"), "{error}");
            drop(arrivals);
        });
        wait_until("the late outcome is dropped", || server.backlog() == 0);
        assert_eq!(server.call(&"x".into()).expect("an answer").len(), 2);
    });
}

/// With errors kept, an ensemble waits for all members and gives values and errors side by side; only if there is no value at
/// all is the item an error.
#[test]
fn servlet_04_ensemble_keeps_errors_if_told_to() {
    on_both(|host| {
        let gate = Gate::new();
        let server =
            builder().start(Ensemble::each(parts(host, &gate, "abc")).keep_errors()).expect("it starts");
        let answers = server.call(&"fail b".into()).expect("two values").into_owned().expect("its own value");
        assert_eq!(answers[0], Ok(Box::new("fail b>a".into())));
        assert!(answers[1].as_ref().is_err_and(|error| error.servlet == "b"), "{answers:?}");
        assert_eq!(answers[2], Ok(Box::new("fail b>c".into())));
        let error = ensemble_error(server.call(&"fail a, fail b, fail c".into()));
        assert!(error.members.iter().all(|member| member.outcome.error().is_some()), "{error}");
    });
}

/// A function of the item says which member handles it; a number that no member has is an error of this item.
#[test]
fn servlet_05_switch_gives_an_item_to_the_member_that_its_function_names() {
    on_both(|host| {
        let gate = Gate::new();
        let choose = |text: &ArchivedString| text.len();
        let server = builder().start(Switch::new(choose, parts(host, &gate, "abc")).name("by length"));
        let server = server.expect("it starts");
        let outcomes = stream_all(&server, ["", "x", "long", "xy"].map(String::from));
        let answers: Vec<_> = outcomes.iter().map(|o| o.as_deref().unwrap_or("error")).collect();
        assert_eq!(answers, [">a", "x>b", "error", "xy>c"]);
        let error = remote(say(&server, "long"));
        assert_eq!(error.cause, RemoteCause::NoSuchMember { index: 4, members: 3 });
        assert_eq!(error.servlet, "by length");
        let seen: Vec<u64> = server.stats().servlets.iter().map(|servlet| servlet.batches().items).collect();
        assert_eq!(seen, [1, 1, 1], "no other member saw it");
    });
}

/// Servlets with the same input and output can replace each other, compound or not, in processes or in threads.
#[test]
fn servlet_06_nesting_has_no_end_and_mixes_processes_and_threads() {
    let gate = Gate::new();
    let p = |label: &str| part(Host::Processes, &gate, label, 1);
    let t = |label: &str| part(Host::Threads, &gate, label, 1);
    let by_first = |text: &ArchivedString| usize::from(text.starts_with('!'));
    let join = || ThreadServlet::<Join>::new(());
    let inner = Ensemble::each([p("a"), t("b").then(p("c")).boxed()]).then(join()).boxed();
    let chosen = Switch::new(by_first, (t("d"), inner)).boxed();
    let outer = Ensemble::each([p("e"), chosen, t("f")]).then(ProcessServlet::<Join>::new(())).then(t("g"));
    let server = builder().start(outer).expect("it starts");
    assert_eq!(say(&server, "x").expect("an answer"), "x>e x>d x>f>g");
    assert_eq!(say(&server, "!").expect("an answer"), "!>e !>a !>b>c !>f>g");
    let error = ensemble_error(server.call(&"!, fail c".into()));
    let nested = &error.members[1].outcome.error().expect("the switch's").cause;
    assert!(
        matches!(nested, RemoteCause::Ensemble { members } if members[1].outcome.error().is_some_and(|e| e.servlet == "c")),
        "{error}"
    );
}

// Servers.

/// The capacity bounds the requests that are anywhere in the server, in whatever stage.
#[test]
fn server_01_capacity_bounds_all_stages_together() {
    on_both(|host| {
        let gate = Gate::new();
        let stages = part(host, &gate, "a", 1).then(part(host, &gate, "b", 1));
        let server = &Server::builder(fresh_name("promises")).capacity(3).start(stages).expect("it starts");
        std::thread::scope(|scope| {
            let (second_stage, one) = hold(scope, server, &gate, "stop b".into());
            let (first_stage, two) = hold(scope, server, &gate, "stop a".into());
            let three = scope.spawn(|| server.call(&"x".into()).and_then(|reply| reply.into_owned()));
            wait_for_depth(server, 1);
            assert_eq!((server.backlog(), server.capacity()), (3, 3));
            assert!(matches!(say(server, "y"), Err(CallError::ServerBacklogFull { capacity: 3, .. })));
            drop((second_stage, first_stage));
            [one, two, three]
                .into_iter()
                .for_each(|call| drop(call.join().expect("no panic").expect("an answer")));
        });
        assert_every_place_is_free(server);
    });
}

/// A call to a full server fails at once, or waits up to its timeout and says how long it did; a call whose answer is late says
/// how long it took, and is skipped if no worker had begun it.
#[test]
fn server_02_call_tells_full_from_late_and_how_long_it_waited() {
    on_both(|host| {
        let gate = Gate::new();
        let server = &host.start::<Hand>(builder().capacity(2), brief(&gate, ""), Crew::of(1));
        std::thread::scope(|scope| {
            let (arrival, held) = hold(scope, server, &gate, "stop".into());
            let late = server.call_with(&"late".into(), CallOptions::new().timeout(SOON)).map(drop);
            let Err(CallError::Timeout { enqueueing, total }) = late else { panic!("{late:?}") };
            assert!(enqueueing.is_zero() && total >= SOON, "{enqueueing:?}, {total:?}");
            // Its permit is taken until the worker reaches it; so is the other one.
            let full = say(server, "x");
            let Err(CallError::ServerBacklogFull { waited, .. }) = full else { panic!("{full:?}") };
            assert!(waited.is_zero());
            let full = server.call_with(&"x".into(), patient().timeout(SOON)).map(drop);
            let Err(CallError::ServerBacklogFull { waited, .. }) = full else { panic!("{full:?}") };
            assert!(waited >= SOON);
            let waiting =
                scope.spawn(|| server.call_with(&"x".into(), patient()).and_then(|reply| reply.into_owned()));
            wait_until("it waits for a permit", || segment(server.name()).freed().is_awaited());
            arrival.release();
            held.join().expect("no panic").expect("an answer");
            assert_eq!(waiting.join().expect("no panic").expect("a permit came free"), "x>hand");
        });
        assert_every_place_is_free(server);
        let total = server.stats().servlets[0].total();
        assert_eq!((total.skipped, total.items), (1, 1 + 1 + 2), "the late one was not worked on");
    });
}

/// A stream gives the outcomes of its inputs in their order, errors included, with as many in progress as there are permits and
/// never more; it may be dropped at any time, and shares the server with other callers.
#[test]
fn server_03_stream_is_ordered_full_bounded_and_can_be_left() {
    on_both(|host| {
        const CAPACITY: usize = 4;
        let gate = Gate::new();
        let server = &host.start::<Hand>(builder().capacity(CAPACITY), brief(&gate, ""), Crew::of(2));
        // The first item stops until the stream has taken as many inputs as there are permits.
        let (pulled, delivered, mut first) = (Cell::new(0), Cell::new(0), None);
        let source = std::iter::from_fn(|| {
            pulled.set(pulled.get() + 1);
            assert!(pulled.get() - delivered.get() <= CAPACITY, "more than there are permits");
            match pulled.get() {
                2 => first = Some(gate.arrival()),
                CAPACITY => drop(first.take()),
                _ => {}
            }
            Some(if pulled.get() == 1 { "stop".to_string() } else { pulled.get().to_string() })
        });
        let mut stream = server.stream_with(source, StreamOptions::new().timeout(GUARD));
        for expected in ["stop>hand", "2>hand", "3>hand"] {
            assert_eq!(stream.next().expect("more").expect("an answer"), expected);
            delivered.set(delivered.get() + 1);
        }
        drop(stream);
        assert_every_place_is_free(server);
        std::thread::scope(|scope| {
            for caller in 0..2 {
                scope.spawn(move || {
                    let item = move |i| format!("{}, {caller}.{i}", if i % 10 == 3 { "fail" } else { "x" });
                    for (i, outcome) in stream_all(server, (0..200).map(item)).into_iter().enumerate() {
                        assert_eq!(outcome.is_err(), i % 10 == 3);
                        assert!(outcome.is_err() || outcome.is_ok_and(|o| o == format!("{}>hand", item(i))));
                    }
                });
                scope.spawn(move || {
                    for i in 0..50 {
                        let item = format!("call {caller}.{i}");
                        assert_eq!(
                            server.call_with(&item, patient()).expect("a permit").as_str(),
                            item + ">hand"
                        );
                    }
                });
            }
        });
        assert_every_place_is_free(server);
    });
}

/// A stream may give each input back with its outcome, has a step before sending whose refusals keep their turn, and may give
/// outcomes as they come.
#[test]
fn server_03_stream_returns_inputs_prepares_them_and_may_leave_their_order() {
    on_both(|host| {
        let gate = Gate::new();
        let server = &host.start::<Hand>(builder().capacity(4), brief(&gate, ""), Crew::of(2));
        let names = ["a", "fail", "b"].map(String::from);
        let with_inputs: Vec<_> =
            server.stream(names.clone()).with_inputs().map(|item| item.unwrap()).collect();
        assert_eq!(
            with_inputs.iter().map(|(name, _)| name).collect::<Vec<_>>(),
            names.iter().collect::<Vec<_>>()
        );
        assert_eq!(with_inputs.iter().map(|(_, o)| o.is_ok()).collect::<Vec<_>>(), [true, false, true]);

        let prepared = server.stream_prepared([1, -1, 2], |&number: &i32| {
            u32::try_from(number).map(|number| number.to_string())
        });
        let outcomes: Vec<_> = prepared.collect();
        assert_eq!(outcomes[0].as_deref().unwrap(), "1>hand");
        assert!(matches!(&outcomes[1], Err(CallError::Refused(_))), "{outcomes:?}");
        assert_eq!(outcomes[2].as_deref().unwrap(), "2>hand");

        let unordered = server.stream(["stop", "x", "y"].map(String::from)).unordered();
        let mut indices: Vec<usize> = Vec::new();
        for item in unordered {
            let (index, outcome) = item.unwrap();
            outcome.unwrap();
            indices.push(index);
            if indices.len() == 2 {
                gate.arrival().release(); // the first is held as long as it is not the last
            }
        }
        assert_eq!(indices.last(), Some(&0), "{indices:?}");
        assert_every_place_is_free(server);
    });
}

/// Futures and streams of the standard kinds, under any executor; dropping one cancels.
#[test]
fn server_04_async_calls_and_streams_under_any_executor() {
    async fn both(server: &Server<String, String>) {
        assert_eq!(server.call_async(&"x".to_string()).await.unwrap().as_str(), "x>hand");
        let names = futures_util::stream::iter((0..20).map(|i| i.to_string()));
        let outcomes: Vec<_> = server.stream_async(names).map(Result::unwrap).collect().await;
        assert_eq!(outcomes, (0..20).map(|i| format!("{i}>hand")).collect::<Vec<_>>());
    }
    on_both(|host| {
        let gate = Gate::new();
        let server = &host.start::<Hand>(builder().capacity(4), brief(&gate, ""), Crew::of(1));
        pollster::block_on(both(server));
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(both(server));

        // Dropped while the worker is busy with another request: skipped, and its permit comes back.
        std::thread::scope(|scope| {
            let (arrival, call) = hold(scope, server, &gate, "stop".to_string());
            let input = "dropped".to_string();
            let mut future = Box::pin(server.call_async(&input));
            let mut context = std::task::Context::from_waker(std::task::Waker::noop());
            assert!(future.as_mut().poll(&mut context).is_pending());
            assert_eq!(server.backlog(), 2);
            drop(future);
            arrival.release();
            call.join().unwrap().unwrap();
        });
        assert_every_place_is_free(server);
        let total = server.stats().servlets[0].total();
        assert_eq!((total.skipped, total.items), (1, 2 * 21 + 1 + 4), "4 by the sweep for permits");
    });
}

/// A server reports how many requests are in progress, its capacity, and of each request its age, its stage and its worker; as
/// JSON too.
#[test]
fn server_05_backlog_capacity_and_debug_info() {
    on_both(|host| {
        let gate = Gate::new();
        let server = &host.start::<Hand>(builder().capacity(4), brief(&gate, ""), Crew::of(1));
        assert_eq!((server.capacity(), server.backlog()), (4, 0));
        std::thread::scope(|scope| {
            let (arrival, call) = hold(scope, server, &gate, "stop".to_string());
            wait_until("its caller sleeps", || server.debug_info().requests[0].age_seconds.is_some());
            let info = serde_json::to_value(server.debug_info()).unwrap();
            assert_eq!((&info["capacity"], &info["backlog"]), (&4.into(), &1.into()));
            let (request, worker) = (&info["requests"][0], &info["servlets"][0]["workers"][0]);
            assert_eq!((&request["stage"], &request["phase"]), (&"hand".into(), &"claimed".into()));
            assert_eq!(request["worker"]["pid"], worker["pid"]);
            assert_eq!((&worker["alive"], &worker["ready"]), (&true.into(), &true.into()));
            arrival.release();
            call.join().unwrap().unwrap();
        });
        assert!(server.debug_info().requests.is_empty());
    });
}

/// An error from a worker has its type and its sources, its line in the program if asked, and the worker, servlet and process
/// that had claimed the item.
#[test]
fn server_06_remote_errors_tell_what_where_and_who() {
    on_both(|host| {
        let gate = Gate::new();
        let server = hands(host, &gate, "", Crew::of(2));
        let error = remote(say(&server, "fail"));
        assert_eq!((error.servlet.as_str(), error.attempt), ("hand", 0));
        assert_eq!(error.pid, pids(&server)[error.worker as usize]);
        let RemoteCause::Failed { type_name, messages, .. } = &error.cause else { panic!("{error:?}") };
        assert_eq!(type_name, "servlets::promises::Misread");
        assert_eq!(messages, &["the model cannot be read", "invalid digit found in string"]);
    });
    // The stack of an error costs the items behind it much, so it is asked for by another variable.
    for (order, variable, has_stack) in [
        ("fail", "RUST_LIB_BACKTRACE", true),
        ("fail", "RUST_BACKTRACE", false),
        ("panic", "RUST_BACKTRACE", true),
    ] {
        let servlet = ProcessServlet::<Hand>::new(brief(&Gate::new(), "")).env(variable, "1");
        let error = remote(say(&builder().start(servlet).expect("it starts"), order));
        let (RemoteCause::Failed { backtrace, .. } | RemoteCause::Panicked { backtrace, .. }) = &error.cause
        else {
            panic!("{error:?}")
        };
        let found = backtrace.as_ref().is_some_and(|frames| frames.contains("Hand"));
        assert_eq!(found, has_stack, "{order}, {variable}: {backtrace:?}");
    }
}

/// Emits the numbers below its input, and its process dies after them if the input is odd; else it answers with the input.
/// If its caller goes, the gate hears of it.
struct Teller(String);

impl BatchWorker for Teller {
    type Config = String;
    type In = u32;
    type Out = u32;

    fn new(gate: String, _: &Context) -> Result<Self, BoxError> {
        Ok(Self(gate))
    }

    fn call(&mut self, batch: Batch<'_, Self>) -> Result<(), BoxError> {
        for item in batch {
            let number = item.input().to_native();
            match (0..number).try_for_each(|below| item.emit(&below)) {
                Ok(()) if number % 2 == 1 => std::process::abort(),
                Ok(()) => item.reply(number),
                Err(error) => {
                    report(&self.0, &error.to_string());
                    item.fail(error);
                }
            }
        }
        Ok(())
    }
}

/// A caller that takes partials gets them in order, then the outcome. One that is behind holds the worker up; one that goes
/// lets the worker know; and what a worker emitted before its death stays.
#[test]
fn server_07_partials_come_in_order_before_the_outcome() {
    on_both(|host| {
        let gate = Gate::new();
        let server = host.start::<Teller>(builder().partials(2), gate.name(), Crew::of(1));
        let options = CallOptions::new().timeout(GUARD);
        let mut call = server.call_streaming_with::<u32>(100, options).expect("it is sent");
        let heard: Result<Vec<u32>, _> = call.by_ref().collect();
        assert_eq!(heard.expect("numbers"), (0..100).collect::<Vec<_>>());
        assert_eq!(*call.outcome().expect("an answer"), 100);
        assert_eq!(*server.call(&100).expect("an answer"), 100, "a caller that takes none");

        let mut call = server.call_streaming_with::<u32>(100, options).expect("it is sent");
        assert_eq!(call.next().expect("a hundred").expect("a number"), 0);
        assert!(gate.arrival_if_any().is_none(), "the worker waits, and has met no error");
        drop(call);
        assert!(gate.arrival().label().contains("the item's caller has gone"));
        if host == Host::Processes {
            let mut call = server.call_streaming_with::<u32>(3, options).expect("it is sent");
            let heard: Result<Vec<u32>, _> = call.by_ref().collect();
            assert_eq!(heard.expect("numbers"), [0, 1, 2]);
            assert!(matches!(call.outcome(), Err(CallError::WorkerDied(_))));
        }
    });
}

/// A name is one server's, a suffix makes another of it, and a label is no name.
#[test]
fn server_08_a_name_is_one_servers_and_a_label_is_no_name() {
    on_both(|host| {
        let gate = Gate::new();
        let start = |builder| host.try_start::<Hand>(builder, brief(&gate, ""), Crew::of(1));
        let (name, label) = (Name::new("replica"), Name::label("replica"));
        let with_suffix = || Server::builder(name.text()).name_or_suffix();
        let builders = [name.builder(), with_suffix(), with_suffix(), label.builder(), label.builder()];
        let servers = builders.map(|builder| start(builder).expect("it starts"));
        start(name.builder()).map(drop).expect_err("a living server has the name");
        let suffixed = [2, 3].map(|number| format!("{}-{number}", name.text()));
        let names = [&name.text(), &suffixed[0], &suffixed[1], &label.text(), &label.text()];
        assert_eq!(servers.each_ref().map(Server::name), names);
        for server in &servers {
            say(server, "x").expect("each answers");
        }
        drop(servers);
        [name.text()].iter().chain(&suffixed).for_each(|name| assert_gone(name));
        label.assert_nothing_left();
    });
}

// What must not be.

/// The requests that a killed worker had claimed end with an error, and their permits are free.
#[test]
fn not_01_requests_of_a_killed_worker_wait_for_ever() {
    let gate = Gate::new();
    let builder = builder().capacity(3);
    let server = &Host::Processes.start::<Hand>(builder, brief(&gate, ""), Crew::of(1).patient(3, HOUR));
    std::thread::scope(|scope| {
        let calls = [(); 3].map(|()| scope.spawn(|| say(server, "stop")));
        let arrival = gate.arrival();
        let victim = pids(server)[0];
        signal(victim, libc::SIGKILL);
        for call in calls {
            let error = remote(call.join().expect("no panic"));
            let killed = RemoteCause::Died { signal: Some(libc::SIGKILL), code: None, restarting: true };
            assert_eq!((error.pid, error.cause), (victim, killed));
        }
        drop(arrival);
    });
    // Its permit too: three more requests are a full batch again.
    assert_eq!(server.backlog(), 0);
    assert_eq!(all_ok(stream_all(server, ["1", "2", "3"].map(String::from))), ["1>hand", "2>hand", "3>hand"]);
}

/// A worker that dies with the reader lock in its hand holds up none of the others, even if it never returns.
#[test]
fn not_02_a_dead_lock_holder_stops_the_others() {
    let gate = Gate::new();
    let server = &hands(Host::Processes, &gate, "once", Crew::of(2).patient(2, HOUR));
    std::thread::scope(|scope| {
        let first = scope.spawn(|| say(server, "first"));
        let victim = kill_the_collector(server);
        assert_eq!(say(server, "second").expect("an answer"), "second>hand");
        assert_eq!(first.join().expect("no panic").expect("an answer"), "first>hand");
        wait_until("its death is noticed", || !pids(server).contains(&victim));
    });
    assert_eq!(all_ok(stream_all(server, (0..100).map(|i| i.to_string()))).len(), 100);
}

/// A worker that dies is restarted.
#[test]
fn not_03_no_restart_of_a_worker_that_died() {
    let gate = Gate::new();
    let server = hands(Host::Processes, &gate, "tell", Crew::of(1));
    assert!(gate.arrival().label().ends_with("restarts 0"));
    for restarts in 1..=2 {
        let victim = pids(&server)[0];
        signal(victim, libc::SIGKILL);
        assert!(gate.arrival().label().ends_with(&format!("restarts {restarts}")));
        assert_eq!(say(&server, "x").expect("the next one answers"), "x>hand");
        assert_ne!(pids(&server)[0], victim);
    }
}

/// A request whose caller no longer waits is skipped.
#[test]
fn not_04_timed_out_items_still_run() {
    on_both(|host| {
        let gate = Gate::new();
        let server = &hands(host, &gate, "", Crew::of(1));
        std::thread::scope(|scope| {
            let (arrival, held) = hold(scope, server, &gate, "stop".into());
            for _ in 0..3 {
                // Would come to the gate, if it ran.
                let late =
                    server.call_with(&"stop".into(), CallOptions::new().timeout(Duration::ZERO)).map(drop);
                assert!(matches!(late, Err(CallError::Timeout { .. })), "{late:?}");
            }
            arrival.release();
            held.join().expect("no panic").expect("an answer");
        });
        assert_eq!(say(server, "x").expect("an answer"), "x>hand");
        assert!(gate.arrival_if_any().is_none());
        let total = server.stats().servlets[0].total();
        assert_eq!((total.skipped, total.items), (3, 2));
    });
}

/// How often the threads of these processes have gone to sleep by themselves.
fn sleeps(pids: &BTreeSet<u32>) -> u64 {
    let tasks = |pid| std::fs::read_dir(format!("/proc/{pid}/task")).expect("it lives").flatten();
    let sleeps =
        |task: std::fs::DirEntry| sleeps_in(&task.path().join("status").display().to_string()).unwrap_or(0);
    pids.iter().flat_map(tasks).map(sleeps).sum()
}

/// While an ensemble waits for a member, all idle threads sleep.
#[test]
fn not_05_the_ensemble_polls() {
    /// A look every 5 ms would be 200 in a second. The engine's threads wake a few times a second each, as a backstop.
    const FEW: u64 = 100;
    // Its process's threads are to be its own.
    if has_run_alone("promises::not_05_the_ensemble_polls") {
        return;
    }
    on_both(|host| {
        let gate = Gate::new();
        let server = &builder().start(Ensemble::each(parts(host, &gate, "abc"))).expect("it starts");
        std::thread::scope(|scope| {
            let call = scope.spawn(|| server.call(&"stop a".into()).map(drop));
            let arrival = gate.arrival();
            let items = |member: usize| server.stats().servlets[member].batches().items;
            wait_until("the others have done theirs", || (items(1), items(2)) == (1, 1));
            let all = pids(server).into_iter().chain([std::process::id()]).collect();
            let before = sleeps(&all);
            std::thread::sleep(Duration::from_secs(1)); // idleness is what this test is about
            let slept = sleeps(&all) - before;
            assert!(slept < FEW, "{slept} sleeps with {host:?}");
            arrival.release();
            call.join().expect("no panic").expect("an answer");
        });
    });
}

/// All workers of all servlets are built side by side: none is ready before the last one has begun.
#[test]
fn not_06_workers_start_one_after_another() {
    on_both(|host| {
        let gate = Gate::new();
        let hands = |label: &str| match host {
            Host::Processes => ProcessServlet::<Hand>::new(brief(&gate, "stop")).name(label).cpus(2).boxed(),
            Host::Threads => ThreadServlet::<Hand>::new(brief(&gate, "stop")).name(label).cpus(2).boxed(),
        };
        let servlet =
            Ensemble::each([hands("a"), hands("b")]).then(ThreadServlet::<Join>::new(())).then(hands("c"));
        std::thread::scope(|scope| {
            let starting = scope.spawn(|| builder().start_timeout(2 * GUARD).start(servlet));
            let arrivals = gate.arrivals(6);
            assert!(!starting.is_finished());
            drop(arrivals);
            starting.join().expect("no panic").expect("it starts");
        });
    });
}

/// With any number of calls at the same moment, no more than the capacity are in progress.
#[test]
fn not_07_a_race_exceeds_the_capacity() {
    const CAPACITY: usize = 3;
    const CALLERS: usize = 8;
    on_both(|host| {
        let gate = Gate::new();
        // A worker for each caller: a call that gets a permit reaches the gate, and keeps the permit.
        let server = &host.start::<Hand>(builder().capacity(CAPACITY), brief(&gate, ""), Crew::of(CALLERS));
        for _ in 0..20 {
            let (all_at_once, (refused, refusals)) = (&Barrier::new(CALLERS), mpsc::channel());
            std::thread::scope(|scope| {
                for _ in 0..CALLERS {
                    let refused = refused.clone();
                    scope.spawn(move || {
                        all_at_once.wait();
                        match say(server, "stop") {
                            Ok(answer) => assert_eq!(answer, "stop>hand"),
                            Err(CallError::ServerBacklogFull { .. }) => refused.send(()).expect("heard"),
                            Err(error) => panic!("{error}"),
                        }
                    });
                }
                for _ in CAPACITY..CALLERS {
                    refusals.recv_timeout(GUARD).expect("a call that finds no permit is refused");
                }
                let arrivals = gate.arrivals(CAPACITY);
                assert_eq!(server.backlog(), CAPACITY);
                assert!(gate.arrival_if_any().is_none() && refusals.try_recv().is_err());
                drop(arrivals);
            });
        }
        assert_eq!(server.backlog(), 0);
    });
}

/// A request is written once and read where it was written, through however many processes it goes.
#[test]
fn not_08_items_are_copied_from_process_to_process() {
    on_both(|host| {
        let servlet = || match host {
            Host::Processes => ProcessServlet::<PassThrough<Letter>>::new(()).boxed(),
            Host::Threads => ThreadServlet::<PassThrough<Letter>>::new(()).boxed(),
        };
        let server = builder().start(servlet().then(servlet()).then(servlet())).expect("it starts");
        for length in [10, 5000] {
            let letter = Letter::of(length);
            let reply = server.call(&letter).expect("an answer");
            assert_eq!((reply.text.as_str(), reply.writer.to_native()), (letter.text.as_str(), me()));
            let file = server.segment_path().display().to_string();
            assert!(lies_in(reply.text.as_ptr()).starts_with(&format!("{file} at ")));
        }
    });
}
