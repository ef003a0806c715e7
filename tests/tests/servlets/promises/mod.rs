//! A test for each row of `docs/promises.md`, under its number and in the order of its tables; a module has the rows of the
//! table of its name. The module of a row's topic tries its details.

mod batching;
mod not;
mod server;
mod servlet;
mod worker;

use ringmill::error::{EnsembleError, RemoteError};
use ringmill::servlet::BoxServlet;
use ringmill::worker::Stop;
use ringmill::{
    Batch, BatchWorker, BoxError, CallError, CallOptions, Context, PassThrough, ProcessServlet, Server,
    ServerBuilder, Servlet, ThreadServlet, WhenFull, Worker,
};
use ringmill_shm::segment::{Location, Segment};
use ringmill_tests::actor::Actor;
use ringmill_tests::gate::{Gate, report, stop_at};
use ringmill_tests::host::{Crew, Host};
use ringmill_tests::listener::scribe;
use ringmill_tests::pile::stream_all;
use ringmill_tests::probe::{Ask, Probe, Seen};
use ringmill_tests::process::signal;
use ringmill_tests::teller::Teller;
use ringmill_tests::{GUARD, fresh_name, wait_until};
use rkyv::rancor::Fallible;
use rkyv::string::ArchivedString;
use rkyv::with::{ArchiveWith, DeserializeWith, SerializeWith};
use rkyv::{Archive, Archived, Deserialize, Serialize};
use std::fmt;
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

/// Waits until a worker collects, kills it, and waits until another one collects; returns the dead worker's process.
fn kill_the_collector(server: &Server<String, String>) -> u32 {
    wait_until("a worker collects", || holder(server).is_some());
    let victim = holder(server).expect("only its death ends its window");
    signal(victim, libc::SIGKILL);
    wait_until("another one collects", || holder(server).is_some_and(|pid| pid != victim));
    victim
}

/// The NUMA node of a CPU, as the kernel shows it.
fn node_of(cpu: usize) -> Option<usize> {
    let entries = std::fs::read_dir(format!("/sys/devices/system/cpu/cpu{cpu}")).ok()?;
    entries.flatten().find_map(|entry| entry.file_name().to_str()?.strip_prefix("node")?.parse().ok())
}
