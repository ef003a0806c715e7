//! What users test their own code with: a worker without a server, a test's server, faults. What a server does with the same
//! worker and the same inputs says what is right.

use super::errors::Letter;
use ringmill::error::{RemoteCause, RemoteError};
use ringmill::rkyv::{Archive, Archived, Deserialize, Serialize};
use ringmill::servlet::BATCH_SIZE_LIMIT;
use ringmill::testing::{self, Fault, Faulty, Handled, SignalError};
use ringmill::{
    Batch, BatchWorker, BoxError, CallError, Context, OnDeath, PassThrough, ProcessServlet, Restarts, Server,
    StartError, ThreadServlet, Worker,
};
use ringmill_tests::gate::{Gate, stop_at};
use ringmill_tests::guard::guarded;
use ringmill_tests::process::{Process, stat_field};
use ringmill_tests::traces::assert_gone;
use ringmill_tests::wait_until;
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::time::Duration;

ringmill::init!(Who, Holder, Faulty<PassThrough<u64>>);

/// What becomes of an item, as far as it decides that itself.
#[derive(Debug, Clone, Archive, Serialize, Deserialize)]
enum Ask {
    /// The answer says where the item was in which batch.
    Where,
    Fail,
    Panic,
    FailFatally,
    LeaveOpen,
    /// An outcome of so many bytes.
    Heavy(usize),
    /// An input of so many bytes.
    Weight(Vec<u8>),
    /// An input that nests as deep.
    Deep(Nest),
}

#[derive(Debug, Clone, Archive, Serialize, Deserialize)]
#[rkyv(serialize_bounds(__S: rkyv::ser::Writer + rkyv::ser::Allocator, __S::Error: rkyv::rancor::Source))]
#[rkyv(deserialize_bounds(__D::Error: rkyv::rancor::Source))]
#[rkyv(bytecheck(bounds(__C: rkyv::validation::ArchiveContext, __C::Error: rkyv::rancor::Source)))]
struct Nest(#[rkyv(omit_bounds)] Vec<Nest>);

/// How a clerk answers its batches.
#[derive(Debug, Clone, Copy, PartialEq, Archive, Serialize, Deserialize)]
#[rkyv(derive(Debug))]
enum Manner {
    Items,
    Preprocess,
    FailWhole,
    FailFatally,
    PanicWhole,
    FailAfterFirst,
    TooMany,
    TooFew,
    Ignore,
    RefuseConfig,
    PanicInNew,
    FailInWarmUp,
    PanicInWarmUp,
}

/// Answers a batch; its handling is not another thread's business.
struct Clerk {
    manner: Manner,
    batches: Rc<Cell<u32>>,
}

/// How many batches before, items of the batch, position in it.
type Place = (u32, u32, u32, Vec<u8>);

impl Clerk {
    fn of(manner: Manner) -> Self {
        Self { manner, batches: Rc::default() }
    }

    fn handle(ask: &ArchivedAsk, place: Place) -> Result<Option<Place>, BoxError> {
        match ask {
            ArchivedAsk::Fail => Err(std::io::Error::other("on purpose").into()),
            ArchivedAsk::FailFatally => Err(BoxError::msg("the device is lost").fatal()),
            ArchivedAsk::Panic => panic!("at an item"),
            ArchivedAsk::LeaveOpen => Ok(None),
            ArchivedAsk::Heavy(bytes) => {
                let bytes = vec![7; bytes.to_native() as usize];
                Ok(Some((place.0, place.1, place.2, bytes)))
            }
            ArchivedAsk::Where | ArchivedAsk::Weight(_) | ArchivedAsk::Deep(_) => Ok(Some(place)),
        }
    }
}

impl BatchWorker for Clerk {
    type Config = Manner;
    type In = Ask;
    type Out = Place;

    fn new(manner: Manner, _: &Context) -> Result<Self, BoxError> {
        match manner {
            Manner::RefuseConfig => Err(BoxError::msg("no such manner")),
            Manner::PanicInNew => panic!("in new"),
            _ => Ok(Self::of(manner)),
        }
    }

    fn warm_up(&mut self, _: &Context) -> Result<(), BoxError> {
        match self.manner {
            Manner::FailInWarmUp => Err(std::io::Error::other("no warmth").into()),
            Manner::PanicInWarmUp => panic!("in warm_up"),
            _ => Ok(()),
        }
    }

    fn call(&mut self, batch: Batch<'_, Self>) -> Result<(), BoxError> {
        let (before, items) = (self.batches.get(), batch.len() as u32);
        self.batches.set(before + 1);
        let place = move |position| (before, items, position, Vec::new());
        match self.manner {
            Manner::Items => {
                for (position, item) in (0..).zip(batch) {
                    match Self::handle(item.input(), place(position)) {
                        Ok(Some(place)) => item.reply(place),
                        Ok(None) => {}
                        Err(error) => item.fail(error),
                    }
                }
                Ok(())
            }
            Manner::Preprocess => {
                let batch = batch.preprocess(|ask| Self::handle(ask, place(0)));
                let items = batch.len() as u32;
                batch.reply_all((0..items).map(|position| (before, items, position, Vec::new())))
            }
            Manner::FailWhole => Err(BoxError::msg("the whole batch")),
            Manner::FailFatally => Err(BoxError::msg("no more").fatal()),
            Manner::PanicWhole => panic!("the whole batch"),
            Manner::FailAfterFirst => {
                batch.into_iter().next().expect("an item").reply(place(0));
                Err(BoxError::msg("the rest"))
            }
            Manner::TooMany => batch.reply_all((0..=items).map(place)),
            Manner::TooFew => batch.reply_all((1..items).map(place)),
            Manner::Ignore => Ok(()),
            _ => unreachable!("no worker of {:?} is ready", self.manner),
        }
    }
}

/// Handles items one by one as a clerk does.
struct Single;

impl Worker for Single {
    type Config = ();
    type In = Ask;
    type Out = Place;

    fn new((): (), _: &Context) -> Result<Self, BoxError> {
        Ok(Self)
    }

    fn call(&mut self, ask: &ArchivedAsk) -> Result<Place, BoxError> {
        let place = Clerk::handle(ask, (0, 0, 0, Vec::new()))?;
        place.ok_or_else(|| BoxError::msg("left open"))
    }
}

/// One item of each kind, and one that no server takes.
fn all_kinds() -> Vec<Ask> {
    let deep = (0..1_000).fold(Nest(Vec::new()), |inner, _| Nest(vec![inner]));
    vec![
        Ask::Where,
        Ask::Fail,
        Ask::LeaveOpen,
        Ask::Heavy(5_000),
        Ask::Heavy(1 << 20),
        Ask::Weight(vec![1; 5_000]),
        Ask::Weight(vec![1; 1 << 20]),
        Ask::Deep(Nest(vec![Nest(Vec::new())])),
        Ask::Deep(deep),
        Ask::Where,
    ]
}

/// What a caller can see of an outcome, without stacks, which differ, and with the number of bytes in place of bytes.
type Seen = Result<(u32, u32, u32, usize), (String, Option<Box<RemoteError>>)>;

fn seen(outcome: Result<Place, CallError>) -> Seen {
    let place = outcome.map(|(before, items, position, bytes)| (before, items, position, bytes.len()));
    place.map_err(|error| (error.to_string(), error.remote_error().cloned().map(without_stack).map(Box::new)))
}

fn without_stack(mut error: RemoteError) -> RemoteError {
    match &mut error.cause {
        RemoteCause::Failed { details, .. } => *details = None,
        RemoteCause::Panicked { backtrace, .. } => *backtrace = None,
        _ => {}
    }
    error
}

/// The outcomes that a server gives these inputs in one batch, which waits until all that can be sent are there.
fn served<W: BatchWorker<In = Ask, Out = Place>>(config: W::Config, inputs: &[Ask]) -> Vec<Seen> {
    let is_sent = |ask: &&Ask| !matches!(ask, Ask::Weight(bytes) if bytes.len() > 1 << 16);
    let servlet = ThreadServlet::<W>::new(config);
    let servlet = match inputs.iter().filter(is_sent).count() {
        1 => servlet,
        count => servlet.batch_size(count).batch_wait_time(Duration::from_secs(3600)),
    };
    let server = Server::anonymous("served").start(servlet).expect("the worker is built");
    let sent: Vec<_> = inputs.iter().map(|input| server.submit(input)).collect();
    sent.into_iter().map(|sent| seen(sent.and_then(|sent| sent.wait()?.into_owned()))).collect()
}

/// The same without a server, and why the worker gave up.
fn tried<W>(worker: &mut W, inputs: &[Ask]) -> (Vec<Seen>, Option<RemoteCause>)
where
    W: BatchWorker<In = Ask, Out = Place>,
{
    let Handled { outcomes, gave_up, .. } = testing::batch(worker, inputs.to_vec());
    (outcomes.into_iter().map(seen).collect(), gave_up)
}

fn assert_as_served(manner: Manner, inputs: &[Ask]) -> Vec<Seen> {
    let (outcomes, _) = tried(&mut Clerk::of(manner), inputs);
    assert_eq!(outcomes, served::<Clerk>(manner, inputs), "{manner:?}");
    outcomes
}

#[test]
fn outcomes_of_items_are_those_of_a_server() {
    let outcomes = assert_as_served(Manner::Items, &all_kinds());
    let kinds: Vec<bool> = outcomes.iter().map(Result::is_ok).collect();
    assert_eq!(kinds, [true, false, false, true, false, true, false, true, false, true]);
    assert_eq!(outcomes[9], Ok((0, 8, 7, 0)), "one batch, without what was refused, in order");
    let cause = |index: usize| outcomes[index].clone().unwrap_err().1.map(|error| error.cause);
    assert!(matches!(cause(1), Some(RemoteCause::Failed { .. })));
    assert_eq!(cause(2), Some(RemoteCause::Unanswered));
    assert!(matches!(cause(4), Some(RemoteCause::OutcomeTooLarge { .. })));
    assert_eq!(cause(6), None, "no worker has seen it");
    assert!(matches!(cause(8), Some(RemoteCause::TooDeep { .. })));
}

#[test]
fn outcomes_of_whole_batches_are_those_of_a_server() {
    use Manner::{FailAfterFirst, FailWhole, Ignore, PanicWhole, Preprocess, TooFew, TooMany};
    for manner in [Preprocess, FailWhole, PanicWhole, FailAfterFirst, TooMany, TooFew, Ignore] {
        assert_as_served(manner, &all_kinds());
        assert_as_served(manner, &[Ask::Where]);
    }
    // A panic in `preprocess` is one item's, a panic in `call` is that of all that are unanswered.
    for manner in [Manner::Items, Preprocess] {
        let outcomes = assert_as_served(manner, &[Ask::Where, Ask::Panic, Ask::Where]);
        assert_eq!(
            outcomes.iter().filter(|outcome| outcome.is_ok()).count(),
            if manner == Preprocess { 2 } else { 1 }
        );
        let (text, error) = outcomes[1].clone().unwrap_err();
        let cause = error.expect("it was the worker's").cause;
        assert!(matches!(cause, RemoteCause::Panicked { .. }), "{text}");
        assert!(text.contains("at an item at ") && text.contains("testing.rs"), "with its location: {text}");
    }
}

#[test]
fn a_fatal_error_is_told_apart() {
    let inputs = [Ask::Where, Ask::FailFatally, Ask::Where, Ask::LeaveOpen];
    assert_as_served(Manner::Items, &inputs);
    assert_as_served(Manner::FailFatally, &inputs[..1]);
    let gave_up = |worker: &mut Clerk, inputs: &[Ask]| tried(worker, inputs).1.map(|cause| cause.to_string());
    let gives_up = gave_up(&mut Clerk::of(Manner::Items), &inputs).expect("one error is fatal");
    assert!(gives_up.contains("the device is lost"), "{gives_up}");
    assert_eq!(gave_up(&mut Clerk::of(Manner::Items), &inputs[..1]), None);
    assert_eq!(gave_up(&mut Clerk::of(Manner::FailWhole), &inputs), None);
    // A worker of single items begins none after it.
    let (outcomes, gave_up) = tried(&mut Single, &inputs[..3]);
    assert_eq!(outcomes, served::<Single>((), &inputs[..3]));
    assert!(outcomes[0].is_ok() && outcomes[1] == outcomes[2] && gave_up.is_some());
}

#[test]
fn single_items_have_outcomes_of_their_own() {
    let inputs: Vec<Ask> = all_kinds().into_iter().chain([Ask::Panic, Ask::Where]).collect();
    let (outcomes, gave_up) = tried(&mut Single, &inputs);
    assert_eq!(outcomes, served::<Single>((), &inputs));
    assert!(outcomes[10].is_err() && outcomes[11].is_ok() && gave_up.is_none());
}

#[test]
fn a_worker_keeps_its_state_and_its_thread() {
    let mut clerk = testing::build::<Clerk>(Manner::Items).expect("it is built");
    let batches = Rc::clone(&clerk.batches);
    for before in 0..3 {
        let outcome = tried(&mut clerk, &[Ask::Where, Ask::Where]).0.remove(1);
        assert_eq!(outcome, Ok((before, 2, 1, 0)));
    }
    let none = testing::batch(&mut clerk, []);
    assert!(none.outcomes.is_empty() && none.gave_up.is_none());
    assert_eq!(batches.get(), 3, "no batch without inputs");
}

#[test]
fn large_batches_and_payloads_need_only_options() {
    let mut echo = testing::build::<PassThrough<Vec<u8>>>(()).expect("it is built");
    let large = || [vec![7; 100_000]];
    assert!(matches!(
        testing::batch(&mut echo, large()).outcomes[..],
        [Err(CallError::PayloadTooLarge { .. })]
    ));
    let options = testing::builder().max_payload(1 << 17).capacity(0);
    let outcomes = testing::batch_with(&mut echo, large(), options).outcomes;
    assert_eq!(*outcomes[0].as_ref().expect("there is room"), large()[0]);
    let many = testing::batch_with(&mut echo, vec![Vec::new(); 3_000], testing::builder().max_payload(64));
    assert_eq!(many.outcomes.iter().filter(|outcome| outcome.is_ok()).count(), 3_000);
    let mut numbers = testing::build::<PassThrough<u8>>(()).expect("it is built");
    let too_many = catch_unwind(AssertUnwindSafe(|| {
        testing::batch_with(&mut numbers, vec![0; BATCH_SIZE_LIMIT + 1], testing::builder().max_payload(64))
    }));
    let panic = too_many.expect_err("a batch is bounded");
    assert!(panic.downcast_ref::<String>().is_some_and(|text| text.contains("1048577")), "{panic:?}");
}

#[test]
fn a_worker_that_cannot_be_built_has_the_error_of_a_start() {
    for manner in [Manner::RefuseConfig, Manner::PanicInNew, Manner::FailInWarmUp, Manner::PanicInWarmUp] {
        let servlet = || ThreadServlet::<Clerk>::new(manner).name("front desk");
        let started = testing::server(servlet()).expect_err("its worker is not built");
        let built = testing::build_with(servlet()).map(drop).expect_err("it is not built");
        let (StartError::Worker(of_server), StartError::Worker(built)) = (&started, &built) else {
            panic!("{manner:?}: {started}, {built}")
        };
        let [of_server, built] = [of_server, built].map(|error| without_stack((**error).clone()));
        assert_eq!(of_server, built, "{manner:?}");
    }
    let bad = testing::build_with(ThreadServlet::<Clerk>::new(Manner::Items).batch_size(usize::MAX));
    assert!(matches!(bad.map(drop), Err(StartError::Range { .. })));
}

/// Says what its constructor was told.
struct Told(String);

impl Worker for Told {
    type Config = Vec<String>;
    type In = ();
    type Out = String;

    fn new(config: Vec<String>, context: &Context) -> Result<Self, BoxError> {
        Ok(Self(format!("{config:?} {context:?}")))
    }

    fn call(&mut self, (): &()) -> Result<String, BoxError> {
        Ok(self.0.clone())
    }
}

#[test]
fn a_worker_is_told_what_a_server_tells_its_first_one() {
    let servlet = || ThreadServlet::<Told>::new(vec!["a".into(), "b".into()]).batch_size(9).name("told");
    let built = testing::build_with(servlet()).expect("it is built").0;
    let server = testing::server(servlet()).expect("a server starts");
    assert_eq!(server.call(&()).expect("an answer").as_str(), built);
    let of_four = testing::build_with(servlet().cpus(2).stream_threads(2)).expect("it is built").0;
    assert!(
        of_four.contains("worker_index: 0, thread_index: 0") && of_four.contains("threads: 2"),
        "{of_four}"
    );
    assert!(built.contains("\"a\", \"b\"") && built.contains("batch_size: 9"), "{built}");
}

/// Answers with its process.
struct Who;

impl Worker for Who {
    type Config = ();
    type In = ();
    type Out = u32;

    fn new((): (), _: &Context) -> Result<Self, BoxError> {
        Ok(Self)
    }

    fn call(&mut self, (): &()) -> Result<u32, BoxError> {
        Ok(std::process::id())
    }
}

/// Stops at the gate that its input names, then answers with its process.
struct Holder;

impl Worker for Holder {
    type Config = ();
    type In = String;
    type Out = u32;

    fn new((): (), _: &Context) -> Result<Self, BoxError> {
        Ok(Self)
    }

    fn call(&mut self, gate: &Archived<String>) -> Result<u32, BoxError> {
        stop_at(gate, "holds");
        Ok(std::process::id())
    }
}

fn pid_of<In, Out>(server: &Server<In, Out>, worker: usize) -> u32 {
    server.stats().servlets[0].workers[worker].pid
}

#[test]
fn a_tests_server_has_no_name_and_leaves_nothing() {
    let start = || testing::server(ProcessServlet::<Who>::new(())).expect("a server starts");
    let (one, other) = (start(), start());
    let label = one.name().to_owned();
    assert_eq!(label, "testing.a_tests_server_has_no_name_and_leaves_nothing");
    assert_eq!(other.name(), label);
    assert!(one.segment_path().starts_with("/proc"), "{:?}", one.segment_path());
    let pids = [&one, &other].map(|server| Process::of(server.call(&()).expect("an answer").to_native()));
    drop((one, other));
    assert!(!pids.iter().any(|process| process.exists()));
    assert_gone(&label);
}

#[test]
fn a_worker_that_is_killed_is_replaced() {
    let server = testing::server(ProcessServlet::<Who>::new(()).cpus(2)).expect("a server starts");
    for victim in [1, 0, 1] {
        let process = Process::of(pid_of(&server, victim));
        testing::kill(&server, "who", victim).expect("it lives");
        wait_until("its supervisor has reaped it", || !process.exists());
        wait_until("it is replaced", || {
            let worker = &server.stats().servlets[0].workers[victim];
            worker.ready && worker.pid != process.pid
        });
        assert!(server.call(&()).is_ok());
    }
    let restarts: Vec<u32> =
        server.stats().servlets[0].workers.iter().map(|worker| worker.restarts).collect();
    assert_eq!(restarts, [1, 2]);
}

#[test]
fn a_worker_is_killed_in_its_call() {
    let gate = Gate::new();
    let server = testing::server(ProcessServlet::<Holder>::new(())).expect("a server starts");
    let call = server.submit(&gate.name()).expect("it is sent");
    let arrival = gate.arrival();
    testing::kill(&server, "holder", 0).expect("it lives");
    let error = call.wait().map(drop).expect_err("its worker is dead");
    let cause = &error.remote_error().expect("it died").cause;
    assert!(matches!(cause, RemoteCause::Died { signal: Some(libc::SIGKILL), .. }), "{error}");
    drop((arrival, gate)); // from here on it is open
    assert!(server.call(&"no such gate".into()).is_ok());
}

#[test]
fn a_stalled_worker_stands_still_until_it_may_go_on() {
    let server = testing::server(ProcessServlet::<Who>::new(()).cpus(2)).expect("a server starts");
    let pids = [pid_of(&server, 0), pid_of(&server, 1)];
    for index in [0, 1] {
        let stalled = testing::stall(&server, "who", index).expect("it lives");
        assert_eq!(stat_field(pids[index], 3).as_deref(), Some("T"), "it is stopped already");
        for _ in 0..50 {
            assert_eq!(*server.call(&()).expect("the other one answers"), pids[1 - index]);
        }
        let again = testing::stall(&server, "who", index).expect("it lives");
        drop(stalled);
        drop(again);
    }
    // A worker that goes on takes items: here one alone is left to do so.
    let stalled = testing::stall(&server, "who", 0).expect("it lives");
    assert_eq!(*server.call(&()).expect("an answer"), pids[1]);
    let both = testing::stall(&server, "who", 1).expect("it lives");
    let call = server.submit(&()).expect("it is sent");
    drop(stalled);
    assert_eq!(*call.wait().expect("an answer"), pids[0]);
    drop(both);
}

#[test]
fn a_shutdown_does_not_wait_for_ever_for_a_stalled_worker() {
    let options = testing::builder().shutdown_timeout(Duration::ZERO);
    let server = options.start(ProcessServlet::<Who>::new(())).expect("a server starts");
    let process = Process::of(pid_of(&server, 0));
    let stalled = testing::stall(&server, "who", 0).expect("it lives");
    server.shutdown();
    assert!(!process.exists());
    drop(stalled);
}

#[test]
fn signals_that_have_no_worker_are_refused() {
    let server = testing::server(ThreadServlet::<Who>::new(()).name("thread")).expect("a server starts");
    let kill = |servlet, worker| testing::kill(&server, servlet, worker).expect_err("no such process");
    assert!(matches!(kill("thread", 0), SignalError::Thread { .. }));
    assert!(matches!(testing::stall(&server, "thread", 0), Err(SignalError::Thread { .. })));
    let other = kill("other", 0);
    assert!(other.to_string().contains("\"other\"") && other.to_string().contains("thread"), "{other}");
    let text = kill("thread", 1).to_string();
    assert_eq!(text, "servlet thread has 1 workers, counted from 0, and none of index 1");
    server.shutdown();
    assert!(matches!(kill("thread", 0), SignalError::NotRunning { .. }));

    let processes = ProcessServlet::<Who>::new(()).restarts(Restarts::unlimited().limit(0).for_good());
    let server = testing::server(processes).expect("a server starts");
    testing::kill(&server, "who", 0).expect("it lives");
    let again = testing::kill(&server, "who", 0).expect_err("it is dead");
    assert!(matches!(again, SignalError::NoProcess { .. }), "{again}");
    assert!(matches!(testing::stall(&server, "who", 0), Err(SignalError::NoProcess { .. })));
    assert!(matches!(server.call(&()), Err(CallError::ServletDown { .. })));
}

fn faulty(fault: Fault, item: u64) -> ProcessServlet<Faulty<PassThrough<u64>>> {
    ProcessServlet::new(((), fault.at_item(item))).name("echo")
}

#[test]
fn a_faulty_worker_fails_at_its_item_alone() {
    for (fault, restarts) in [(Fault::Die, 1), (Fault::Panic, 0), (Fault::Fail, 0), (Fault::GiveUp, 1)] {
        let server = testing::server(faulty(fault, 3)).expect("a server starts");
        let outcomes: Vec<_> = (1..=6).map(|n| server.call(&n).map(|reply| reply.to_native())).collect();
        let good: Vec<u64> = outcomes.iter().flatten().copied().collect();
        assert_eq!(good, [1, 2, 4, 5, 6], "{fault:?}: {outcomes:?}");
        let error = outcomes[2].as_ref().expect_err("the item of the fault");
        let cause = &error.remote_error().expect("of the worker").cause;
        let is_it = match fault {
            Fault::Die => matches!(cause, RemoteCause::Died { signal: Some(libc::SIGKILL), .. }),
            Fault::Panic => matches!(cause, RemoteCause::Panicked { .. }),
            _ => matches!(cause, RemoteCause::Failed { .. }),
        };
        assert!(is_it, "{fault:?}: {error}");
        assert_eq!(server.stats().servlets[0].workers[0].restarts, restarts, "{fault:?}");
    }
}

#[test]
fn a_retried_item_survives_a_faulty_worker() {
    let server = testing::server(faulty(Fault::Die, 1).on_death(OnDeath::Retry(1))).expect("a server starts");
    assert_eq!(*server.call(&7).expect("its successor answers"), 7);
}

#[test]
fn a_faulty_worker_can_be_tried_without_a_server() {
    type Worker = Faulty<PassThrough<u64>>;
    let mut worker = testing::build::<Worker>(((), Fault::GiveUp.at_item(4))).expect("it is built");
    assert!(testing::batch(&mut worker, [1, 2, 3]).outcomes.iter().all(Result::is_ok));
    let handled = testing::batch(&mut worker, [4, 5]);
    assert!(handled.gave_up.is_some() && handled.outcomes.iter().all(Result::is_err));
    let handled = testing::batch(&mut worker, [6]);
    assert!(handled.gave_up.is_none() && handled.outcomes.iter().all(Result::is_ok));
    let thread =
        testing::build::<Worker>(((), Fault::Die.at_item(1))).map(drop).expect_err("no thread dies alone");
    assert!(thread.to_string().contains("ProcessServlet"), "{thread}");
}

#[test]
fn a_panic_of_an_inputs_own_code_goes_through_at_once() {
    guarded(|| {
        let mut worker = testing::build::<PassThrough<Letter>>(()).expect("a worker");
        let letters = || [7, 13].map(|number| Letter { text: String::new(), number });
        // What was sent before the panic must not keep the server, which would wait that long for it.
        let patient = testing::builder().shutdown_timeout(Duration::from_secs(3600));
        let handled = catch_unwind(AssertUnwindSafe(|| testing::batch_with(&mut worker, letters(), patient)));
        assert!(handled.is_err(), "the second letter cannot be written");
        let [first, _] = letters();
        assert!(testing::batch(&mut worker, [first]).outcomes[0].is_ok());
    });
}
