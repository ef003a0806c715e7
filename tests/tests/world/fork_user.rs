//! User code forks wherever the engine calls it. The parent goes on; a child that returns into the engine gets an error if there
//! is a result to carry it, and otherwise ends.
//!
//! Symptoms: a child that an outcome's `CheckBytes` or `Deserialize` had forked in a caller got a value of the request that had
//! the same id by then; a child that an input's `CheckBytes` had forked in a worker wrote into a task that its parent had
//! passed on. Cause: the engine asked which process it was in before that code, not after. Fix: `Core::open`,
//! `Reply::into_owned`, `Loop::admit_from`.
#![expect(unsafe_code, reason = "fork, wakers made by hand, a type's own check of its bytes")]

use super::fork::{WAYS, Way, is_told};
use super::fork_worker::state;
use futures_util::StreamExt;
use ringmill::worker::Stop;
use ringmill::{
    Batch, BatchWorker, BoxError, CallError, Context, ProcessServlet, Server, Servlet, Switch, ThreadServlet,
    Worker,
};
use ringmill_tests::alone::alone;
use ringmill_tests::listener::Listener;
use ringmill_tests::name::Name;
use ringmill_tests::process::signal;
use ringmill_tests::stats::pids;
use ringmill_tests::wait_until;
use rkyv::bytecheck::Verify;
use rkyv::rancor::{Fallible, Source};
use rkyv::with::{ArchiveWith, DeserializeWith, SerializeWith};
use rkyv::{Archive, Archived, Deserialize, Place, Serialize};
use std::cell::RefCell;
use std::io::{Read, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};
use std::task::{Context as Task, Poll, RawWaker, RawWakerVTable, Wake, Waker};

/// Where user code forks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Archive, Serialize, Deserialize)]
enum Site {
    Nowhere,
    Config,
    New,
    WarmUp,
    Check,
    Preprocess,
    Display,
    Serialize,
    Deserialize,
    Cleanup,
    Drop,
}

/// Those of a worker.
const SITES: [Site; 9] = [
    Site::Config,
    Site::New,
    Site::WarmUp,
    Site::Check,
    Site::Preprocess,
    Site::Display,
    Site::Serialize,
    Site::Cleanup,
    Site::Drop,
];

/// Where to fork, once, and in which way.
#[derive(Debug, Clone, Archive, Serialize, Deserialize)]
#[rkyv(bytecheck(verify))]
struct Plan {
    site: Site,
    bare: bool,
    /// Gets the child's pid.
    file: String,
}

impl Plan {
    fn new(site: Site, way: Way, file: &Path) -> Self {
        Self { site, bare: matches!(way, Way::Bare), file: file.to_str().expect("text").to_owned() }
    }

    fn nothing() -> Self {
        Self { site: Site::Nowhere, bare: false, file: String::new() }
    }
}

/// Forks, once. The child goes on when the file of that name and `.held` has gone.
fn fork_once(bare: bool, file: &str) {
    if Path::new(file).exists() {
        return;
    }
    let held = format!("{file}.held");
    let child = if bare { Way::Bare } else { Way::Fork }.make();
    if child == 0 {
        while Path::new(&held).exists() {
            std::thread::sleep(std::time::Duration::from_millis(1)); // a look, not a measure
        }
        std::mem::forget(held); // a bare child may find the allocator's lock taken
        return;
    }
    std::fs::write(file, child.to_string()).expect("a directory of the test");
}

/// The child whose pid is in this file.
fn child_in(file: &Path) -> i32 {
    std::fs::read_to_string(file).expect("it has forked").parse().expect("a pid")
}

#[track_caller]
fn await_child(child: i32) {
    wait_until("the child has ended", || matches!(state(child), None | Some('Z')));
    // SAFETY: one of ours; where it is a worker's, it is refused.
    unsafe { libc::waitpid(child, std::ptr::null_mut(), libc::WNOHANG) };
}

thread_local! {
    /// The order for this thread, a worker's or a caller's.
    static PLAN: RefCell<Plan> = const {
        RefCell::new(Plan { site: Site::Nowhere, bare: false, file: String::new() })
    };
}

fn at(site: Site) {
    PLAN.with_borrow(|plan| {
        if plan.site == site {
            fork_once(plan.bare, &plan.file);
        }
    });
}

// SAFETY: nothing unsafe relies on what it checks.
unsafe impl<C: Fallible<Error: Source> + ?Sized> Verify<C> for ArchivedPlan {
    fn verify(&self, _: &mut C) -> Result<(), C::Error> {
        if matches!(self.site, ArchivedSite::Config) {
            fork_once(self.bare, &self.file);
        }
        Ok(())
    }
}

/// A number that is checked, written and read by user code.
#[derive(Debug, Archive, Serialize, Deserialize)]
#[rkyv(bytecheck(verify))]
struct Number(#[rkyv(with = Meanwhile)] u64);

// SAFETY: nothing unsafe relies on what it checks.
unsafe impl<C: Fallible<Error: Source> + ?Sized> Verify<C> for ArchivedNumber {
    fn verify(&self, _: &mut C) -> Result<(), C::Error> {
        at(Site::Check);
        Ok(())
    }
}

struct Meanwhile;

impl ArchiveWith<u64> for Meanwhile {
    type Archived = Archived<u64>;
    type Resolver = ();

    fn resolve_with(number: &u64, (): (), out: Place<Archived<u64>>) {
        number.resolve((), out);
    }
}

impl<S: Fallible + ?Sized> SerializeWith<u64, S> for Meanwhile {
    fn serialize_with(_: &u64, _: &mut S) -> Result<(), S::Error> {
        at(Site::Serialize);
        Ok(())
    }
}

impl<D: Fallible + ?Sized> DeserializeWith<Archived<u64>, u64, D> for Meanwhile {
    fn deserialize_with(number: &Archived<u64>, _: &mut D) -> Result<u64, D::Error> {
        at(Site::Deserialize);
        Ok(number.to_native())
    }
}

/// An error whose text is user code.
#[derive(Debug)]
struct Odd;

impl std::fmt::Display for Odd {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        at(Site::Display);
        f.write_str("odd")
    }
}

impl std::error::Error for Odd {}

/// The number that is refused.
const REFUSED: u64 = 13;

/// Adds one.
struct Planned;

impl BatchWorker for Planned {
    type Config = Plan;
    type In = Number;
    type Out = Number;

    fn new(plan: Plan, _: &Context) -> Result<Self, BoxError> {
        PLAN.set(plan);
        at(Site::New);
        Ok(Self)
    }

    fn warm_up(&mut self, _: &Context) -> Result<(), BoxError> {
        at(Site::WarmUp);
        Ok(())
    }

    fn call(&mut self, batch: Batch<'_, Self>) -> Result<(), BoxError> {
        let batch = batch.preprocess(|number| {
            at(Site::Preprocess);
            let number = number.0.to_native();
            if number == REFUSED { Err(Odd) } else { Ok(number + 1) }
        });
        let numbers = batch.values().to_vec();
        batch.reply_all(numbers.into_iter().map(Number))
    }

    fn cleanup(&mut self, _: &Stop) {
        at(Site::Cleanup);
    }
}

impl Drop for Planned {
    fn drop(&mut self) {
        at(Site::Drop);
    }
}

/// Adds one, as soon as the file of that name has gone.
struct Gate(PathBuf);

impl Worker for Gate {
    type Config = String;
    type In = Number;
    type Out = Number;

    fn new(path: String, _: &Context) -> Result<Self, BoxError> {
        Ok(Self(path.into()))
    }

    fn call(&mut self, number: &ArchivedNumber) -> Result<Number, BoxError> {
        while self.0.exists() {
            std::thread::sleep(std::time::Duration::from_millis(1)); // a look, not a measure
        }
        Ok(Number(number.0.to_native() + 1))
    }
}

ringmill::init!(Planned, Gate);

type Numbers = Server<Number, Number>;

fn start(name: &Name, threads: bool, plan: Plan) -> Numbers {
    let builder = Server::builder(name.text()).capacity(1);
    match threads {
        true => builder.start(ThreadServlet::<Planned>::new(plan)),
        false => builder.start(ProcessServlet::<Planned>::new(plan)),
    }
    .expect("a server")
}

#[track_caller]
fn answers(server: &Numbers, number: u64) {
    let answer = server.call(&Number(number)).map(|reply| reply.0.to_native());
    match number {
        REFUSED => assert!(answer.expect_err("refused").to_string().contains("odd")),
        _ => assert_eq!(answer.expect("an answer"), number + 1),
    }
}

#[test]
fn wherever_the_engine_calls_a_worker() {
    alone("fork_user::wherever_the_engine_calls_a_worker", || {
        let directory = tempfile::tempdir().expect("a directory");
        for (site, way) in SITES.into_iter().flat_map(|site| WAYS.map(|way| (site, way))) {
            for threads in [false, true] {
                let what = format!("{site:?}-{way:?}-{threads}");
                let (name, file) = (Name::new("user"), directory.path().join(&what));
                let server = start(&name, threads, Plan::new(site, way, &file));
                (0..20).for_each(|number| answers(&server, number));
                assert_eq!(server.stats().servlets[0].workers[0].restarts, 0, "{what}");
                assert_eq!(server.backlog(), 0, "{what}");
                name.assert_consistent();
                drop(server);
                await_child(child_in(&file));
                name.assert_nothing_left();
            }
        }
    });
}

/// A child that returns from the check of an input when the input has moved on, and another request has its id.
#[test]
fn a_child_that_comes_late_from_the_check_of_an_input_writes_nothing() {
    alone("fork_user::a_child_that_comes_late_from_the_check_of_an_input_writes_nothing", || {
        let directory = tempfile::tempdir().expect("a directory");
        let gate = directory.path().join("gate");
        let gate_text = gate.to_str().expect("text").to_owned();
        for (way, threads) in WAYS.into_iter().flat_map(|way| [false, true].map(|threads| (way, threads))) {
            let name = Name::new("late");
            let file = directory.path().join(format!("{way:?}-{threads}"));
            let held = file.with_extension("held");
            std::fs::write(&held, "").expect("a file");
            let plan = Plan::new(Site::Check, way, &file);
            let builder = Server::builder(name.text()).capacity(1);
            let second = ProcessServlet::<Gate>::new(gate_text.clone()).name("second");
            let server: Numbers = match threads {
                true => builder.start(ThreadServlet::<Planned>::new(plan).name("first").then(second)),
                false => builder.start(ProcessServlet::<Planned>::new(plan).name("first").then(second)),
            }
            .expect("a server");
            assert_eq!(server.call(&Number(1)).expect("an answer").0.to_native(), 3);
            let child = child_in(&file);
            assert!(!matches!(state(child), None | Some('Z')), "the child waits");
            std::fs::write(&gate, "").expect("a file");
            let stage = || server.debug_info().requests.first()?.stage.clone();
            std::thread::scope(|scope| {
                let call = scope.spawn(|| server.call(&Number(5)).expect("an answer").0.to_native());
                wait_until("it is at work", || {
                    server.stats().servlets[1].depth == 0 && stage().is_some_and(|stage| stage == "second")
                });
                std::fs::remove_file(&held).expect("it is there");
                await_child(child);
                let stage = stage();
                std::fs::remove_file(&gate).expect("it is there");
                assert_eq!(call.join().expect("no panic"), 7);
                assert_eq!(stage.as_deref(), Some("second"), "{way:?} {threads}");
            });
            name.assert_consistent();
            drop(server);
            name.assert_nothing_left();
        }
    });
}

/// How a caller reads an outcome.
#[derive(Debug, Clone, Copy)]
enum Reads {
    Call,
    Wait,
    Future,
    Stream,
    Replies,
    WithInputs,
    Unordered,
    Asynchronous,
    AsynchronousUnordered,
}

const READS: [Reads; 9] = [
    Reads::Call,
    Reads::Wait,
    Reads::Future,
    Reads::Stream,
    Reads::Replies,
    Reads::WithInputs,
    Reads::Unordered,
    Reads::Asynchronous,
    Reads::AsynchronousUnordered,
];

impl Reads {
    fn read(self, server: &Numbers) -> Result<u64, CallError> {
        let one = || [Number(1)];
        let reply = match self {
            Self::Call => server.call(&Number(1))?,
            Self::Wait => server.submit(&Number(1))?.wait()?,
            Self::Future => pollster::block_on(server.call_async(&Number(1)))?,
            Self::Replies => server.stream(one()).next_reply().expect("one")?,
            Self::Stream => return server.stream(one()).next().expect("one").map(|number| number.0),
            Self::WithInputs => {
                return server.stream(one()).with_inputs().next().expect("one")?.1.map(|number| number.0);
            }
            Self::Unordered => {
                return server.stream(one()).unordered().next().expect("one")?.1.map(|number| number.0);
            }
            Self::Asynchronous => {
                let mut stream = server.stream_async(futures_util::stream::iter(one()));
                return pollster::block_on(stream.next()).expect("one").map(|number| number.0);
            }
            Self::AsynchronousUnordered => {
                let mut stream = server.stream_async(futures_util::stream::iter(one())).unordered();
                return pollster::block_on(stream.next()).expect("one")?.1.map(|number| number.0);
            }
        };
        reply.into_owned().map(|number| number.0)
    }
}

/// A child that a caller's own type has forked while its outcome is read, and that goes on when another request has the id.
#[test]
fn a_child_forked_while_an_outcome_is_read_gets_the_error() {
    alone("fork_user::a_child_forked_while_an_outcome_is_read_gets_the_error", || {
        let directory = tempfile::tempdir().expect("a directory");
        let (name, us) = (Name::new("outcome"), std::process::id());
        let server = start(&name, false, Plan::nothing());
        for (site, way) in [Site::Check, Site::Deserialize].into_iter().flat_map(|s| WAYS.map(|way| (s, way)))
        {
            for reads in READS {
                let what = format!("{site:?}-{way:?}-{reads:?}");
                let file = directory.path().join(&what);
                let held = file.with_extension("held");
                std::fs::write(&held, "").expect("a file");
                let (mut hear, mut say) = std::io::pipe().expect("a pipe");
                PLAN.set(Plan::new(site, way, &file));
                let outcome = catch_unwind(AssertUnwindSafe(|| reads.read(&server)));
                if std::process::id() != us {
                    let said = outcome.map_or_else(|_| "panic".into(), |outcome| is_told(outcome, us));
                    let _ = say.write_all(said.as_bytes());
                    // SAFETY: ends the child.
                    unsafe { libc::_exit(0) }
                }
                assert_eq!(outcome.expect("no panic").expect("an answer"), 2, "{what}");
                PLAN.set(Plan::nothing());
                // The only permit.
                let other = server.call(&Number(41)).expect("an answer");
                std::fs::remove_file(&held).expect("it is there");
                drop(say);
                let mut said = String::new();
                hear.read_to_string(&mut said).expect("words");
                await_child(child_in(&file));
                assert_eq!(said, "told", "{what}");
                assert_eq!(other.0.to_native(), 42, "{what}");
                drop(other);
                assert_eq!(server.backlog(), 0, "{what}");
            }
        }
        name.assert_consistent();
        drop(server);
        name.assert_nothing_left();
    });
}

/// A switch's function, where a caller runs it, a worker's thread, and the thread beside a worker process.
#[test]
fn a_child_of_a_switch_ends() {
    alone("fork_user::a_child_of_a_switch_ends", || {
        let directory = tempfile::tempdir().expect("a directory");
        for (number, way) in (0..3).flat_map(|number| WAYS.map(|way| (number, way))) {
            let name = Name::new("switch");
            let file = directory.path().join(format!("{number}-{way:?}"));
            let plan = Plan::new(Site::Nowhere, way, &file);
            let choose = move |input: &ArchivedNumber| {
                fork_once(plan.bare, &plan.file);
                usize::from(input.0 % 2 == 1)
            };
            let member = || ThreadServlet::<Planned>::new(Plan::nothing());
            let switch = Switch::new(choose, (member(), member()));
            let builder = Server::builder(name.text()).capacity(2);
            let (server, added): (Numbers, _) = match number {
                0 => (builder.start(switch).expect("a server"), 1),
                1 => (builder.start(member().then(switch)).expect("a server"), 2),
                _ => {
                    let first = ProcessServlet::<Planned>::new(Plan::nothing());
                    (builder.start(first.then(switch)).expect("a server"), 2)
                }
            };
            for number in 20..40 {
                let answer = server.call(&Number(number)).expect("an answer").0.to_native();
                assert_eq!(answer, number + added);
            }
            await_child(child_in(&file));
            assert_eq!(server.backlog(), 0);
            name.assert_consistent();
            drop(server);
            name.assert_nothing_left();
        }
    });
}

/// The part of a waker that forks.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Part {
    Clone,
    Wake,
    Drop,
}

/// A waker of which one part forks, once.
struct Forks {
    part: Part,
    way: Way,
    child: AtomicI32,
    thread: std::thread::Thread,
}

impl Forks {
    fn at(&self, part: Part) {
        // Claimed first: the reactor's thread and ours both come here.
        let first = || self.child.compare_exchange(0, -1, Ordering::SeqCst, Ordering::SeqCst).is_ok();
        if part == self.part && first() {
            match self.way.make() {
                0 => {}
                child => self.child.store(child, Ordering::SeqCst),
            }
        }
    }

    fn waker(&'static self) -> Waker {
        static TABLE: RawWakerVTable = RawWakerVTable::new(
            |data| {
                of(data).at(Part::Clone);
                RawWaker::new(data, &TABLE)
            },
            |data| {
                of(data).thread.unpark();
                of(data).at(Part::Wake);
            },
            |data| {
                of(data).thread.unpark();
                of(data).at(Part::Wake);
            },
            |data| of(data).at(Part::Drop),
        );
        fn of(data: *const ()) -> &'static Forks {
            // SAFETY: `waker` made it of such a reference.
            unsafe { &*data.cast::<Forks>() }
        }
        let data: *const Self = self;
        // SAFETY: the data lives for ever and is `Sync`.
        unsafe { Waker::from_raw(RawWaker::new(data.cast(), &TABLE)) }
    }
}

#[test]
fn a_child_of_a_waker_ends_or_gets_the_error() {
    alone("fork_user::a_child_of_a_waker_ends_or_gets_the_error", || {
        let directory = tempfile::tempdir().expect("a directory");
        let gate = directory.path().join("gate");
        let (name, us) = (Name::new("waker"), std::process::id());
        let server: Numbers = Server::builder(name.text())
            .capacity(2)
            .start(ProcessServlet::<Gate>::new(gate.to_str().expect("text").to_owned()))
            .expect("a server");
        for (part, way) in
            [Part::Clone, Part::Wake, Part::Drop].into_iter().flat_map(|part| WAYS.map(|way| (part, way)))
        {
            let forks: &'static Forks = Box::leak(Box::new(Forks {
                part,
                way,
                child: AtomicI32::new(0),
                thread: std::thread::current(),
            }));
            std::fs::write(&gate, "").expect("a file");
            let (mut hear, mut say) = std::io::pipe().expect("a pipe");
            let input = Number(6);
            let mut future = Box::pin(server.call_async(&input));
            // Ours is kept until the end: only the engine's are dropped.
            let waker = std::mem::ManuallyDrop::new(forks.waker());
            let mut poll = || future.as_mut().poll(&mut Task::from_waker(&waker));
            let first = poll();
            if std::process::id() != us {
                let outcome = match first {
                    Poll::Pending => poll(),
                    ready => ready,
                };
                let said = match outcome {
                    Poll::Ready(outcome) => is_told(outcome.map(drop), us),
                    Poll::Pending => "pending".into(),
                };
                let _ = say.write_all(said.as_bytes());
                // SAFETY: ends the child.
                unsafe { libc::_exit(0) }
            }
            drop(say);
            assert!(first.is_pending());
            let other = Box::leak(Box::new(Arc::new(Unparks(std::thread::current()))));
            if part == Part::Drop {
                // Replaces the first waker, which is dropped.
                let other = Waker::from(Arc::clone(other));
                assert!(future.as_mut().poll(&mut Task::from_waker(&other)).is_pending());
            }
            std::fs::remove_file(&gate).expect("it is there");
            let waker = match part {
                Part::Drop => Waker::from(Arc::clone(other)),
                _ => std::mem::ManuallyDrop::into_inner(waker),
            };
            let answer = loop {
                match future.as_mut().poll(&mut Task::from_waker(&waker)) {
                    Poll::Ready(answer) => break answer.expect("an answer").0.to_native(),
                    Poll::Pending => std::thread::park(),
                }
            };
            assert_eq!(answer, 7, "{part:?} {way:?}");
            wait_until("it has forked", || forks.child.load(Ordering::SeqCst) > 0);
            let mut said = String::new();
            hear.read_to_string(&mut said).expect("words");
            assert_eq!(said, if part == Part::Clone { "told" } else { "" }, "{part:?} {way:?}");
            await_child(forks.child.load(Ordering::SeqCst));
            drop(future);
            assert_eq!(server.backlog(), 0, "{part:?} {way:?}");
        }
        name.assert_consistent();
        drop(server);
        name.assert_nothing_left();
    });
}

struct Unparks(std::thread::Thread);

impl Wake for Unparks {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// On the thread that starts a server, which is warned of its capacity, and on the supervisor's, which restarts a worker.
#[test]
fn a_child_of_a_listener_ends() {
    alone("fork_user::a_child_of_a_listener_ends", || {
        let children = Arc::new(std::sync::Mutex::new(Vec::new()));
        let forks = {
            let children = Arc::clone(&children);
            move |_: &tracing::Event<'_>| {
                let child = Way::Fork.make();
                if child > 0 {
                    children.lock().expect("no panic").push(child);
                }
            }
        };
        tracing::subscriber::set_global_default(Listener::of_warnings(forks)).expect("the first");
        let forked = || children.lock().expect("no panic").len();
        let (name, us) = (Name::new("listener"), std::process::id());
        let servlet = ProcessServlet::<Planned>::new(Plan::nothing()).batch_size(8);
        let server = Server::builder(name.text()).capacity(2).start(servlet).expect("a server");
        assert_eq!(std::process::id(), us);
        assert_eq!(forked(), 1, "the capacity");
        answers(&server, 1);
        let former = pids(&server)[0];
        signal(former, libc::SIGKILL);
        wait_until("the listener is called", || forked() > 1);
        answers(&server, 2);
        assert_ne!(pids(&server)[0], former);
        for &child in children.lock().expect("no panic").iter() {
            await_child(child);
        }
        assert_eq!(server.backlog(), 0);
        name.assert_consistent();
        drop(server);
        name.assert_nothing_left();
    });
}
