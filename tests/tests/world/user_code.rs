//! User code panics, blocks and answers wrongly wherever it is called; that costs its own item, or nothing.
#![expect(unsafe_code, reason = "a type's own check of its bytes, and a waker whose clone panics")]

use ringmill::error::RemoteCause;
use ringmill::worker::Stop;
use ringmill::{
    Batch, BatchWorker, BoxError, CallError, CallOptions, Context, Server, StartError, Switch, ThreadServlet,
    WhenFull, Worker,
};
use ringmill_tests::gate::{Gate, report, stop_at};
use ringmill_tests::host::{Crew, on_both};
use ringmill_tests::pile::pile_up;
use ringmill_tests::{GUARD, fresh_name, wait_until};
use rkyv::bytecheck::Verify;
use rkyv::rancor::{Fallible, Source};
use rkyv::with::{ArchiveWith, DeserializeWith, SerializeWith};
use rkyv::{Archive, Archived, Deserialize, Place, Serialize};
use std::cell::Cell;
use std::collections::BTreeMap;
use std::error::Error;
use std::fmt;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind, panic_any};
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::task::{Context as Cx, Poll, RawWaker, RawWakerVTable, Wake, Waker};
use std::time::Duration;

ringmill::init!(Soloist, Choir, Moody, Slow);

/// A panic's payload that panics when it is dropped, and so does that panic's.
struct Bomb(u32);

impl Drop for Bomb {
    fn drop(&mut self) {
        if self.0 > 0 {
            panic_any(Self(self.0 - 1));
        }
    }
}

/// An error that misbehaves when it is printed or asked for its source.
#[derive(Debug)]
struct BadError(Act);

impl fmt::Display for BadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Act::ErrorDisplay => {
                f.write_str("begins well")?;
                panic!("not told")
            }
            Act::ErrorLies => Err(fmt::Error),
            Act::ErrorBomb => panic_any(Bomb(3)),
            _ => f.write_str("told"),
        }
    }
}

impl Error for BadError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self.0 {
            Act::ErrorSource => panic!("no source"),
            Act::ErrorCycle => Some(self),
            _ => None,
        }
    }
}

impl Drop for BadError {
    fn drop(&mut self) {
        assert!(self.0 != Act::ErrorDrop || std::thread::panicking(), "an error's drop");
    }
}

/// The misbehaviour that an item orders.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Archive, Serialize, Deserialize)]
enum Act {
    Fine,
    Stop,
    Panic,
    Bomb,
    ErrorDisplay,
    ErrorLies,
    ErrorBomb,
    ErrorSource,
    ErrorCycle,
    ErrorDrop,
    OutcomeDrop,
    OutcomeSerialize,
    OutcomeResolve,
    Unreadable,
}

const ACTS: [Act; 12] = [
    Act::Panic,
    Act::Bomb,
    Act::ErrorDisplay,
    Act::ErrorLies,
    Act::ErrorBomb,
    Act::ErrorSource,
    Act::ErrorCycle,
    Act::ErrorDrop,
    Act::OutcomeDrop,
    Act::OutcomeSerialize,
    Act::OutcomeResolve,
    Act::Unreadable,
];

impl Act {
    fn of(archived: &ArchivedAct) -> Self {
        rkyv::deserialize::<Self, rkyv::rancor::Error>(archived).expect("a plain enumeration")
    }

    /// Whether the item still has a value.
    fn gives_value(self) -> bool {
        matches!(self, Self::Fine | Self::Stop | Self::OutcomeDrop)
    }

    fn perform(self, gate: &str) -> Result<Answer, BoxError> {
        match self {
            Self::Stop => stop_at(gate, "stopped"),
            Self::Panic => panic!("on purpose"),
            Self::Bomb => panic_any(Bomb(2)),
            _ if format!("{self:?}").starts_with("Error") => return Err(BadError(self).into()),
            _ => {}
        }
        Ok(Answer { act: self })
    }
}

/// An item, whose check may panic.
#[derive(Debug, Clone, Copy, Archive, Serialize, Deserialize)]
#[rkyv(bytecheck(verify))]
struct Ask {
    act: Act,
}

// SAFETY: nothing unsafe relies on what it checks.
unsafe impl<C: Fallible<Error: Source> + ?Sized> Verify<C> for ArchivedAsk {
    fn verify(&self, _: &mut C) -> Result<(), C::Error> {
        assert!(!matches!(self.act, ArchivedAct::Unreadable), "not to be read");
        Ok(())
    }
}

thread_local! {
    static IS_WORKER: Cell<bool> = const { Cell::new(false) };
}

/// An outcome, whose serialiser, or whose drop on the worker's side, may panic.
#[derive(Debug, Archive, Serialize, Deserialize)]
struct Answer {
    #[rkyv(with = Fussy)]
    act: Act,
}

impl Drop for Answer {
    fn drop(&mut self) {
        let here = IS_WORKER.get() && !std::thread::panicking();
        assert!(!here || self.act != Act::OutcomeDrop, "an outcome's drop");
    }
}

struct Fussy;

impl ArchiveWith<Act> for Fussy {
    type Archived = Archived<Act>;
    type Resolver = <Act as Archive>::Resolver;

    fn resolve_with(act: &Act, resolver: Self::Resolver, out: Place<Archived<Act>>) {
        assert_ne!(*act, Act::OutcomeResolve, "not in its place");
        act.resolve(resolver, out);
    }
}

impl<S: Fallible + ?Sized> SerializeWith<Act, S> for Fussy {
    fn serialize_with(act: &Act, serializer: &mut S) -> Result<Self::Resolver, S::Error> {
        assert_ne!(*act, Act::OutcomeSerialize, "not its parts");
        act.serialize(serializer)
    }
}

impl<D: Fallible + ?Sized> DeserializeWith<Archived<Act>, Act, D> for Fussy {
    fn deserialize_with(act: &Archived<Act>, deserializer: &mut D) -> Result<Act, D::Error> {
        act.deserialize(deserializer)
    }
}

/// Both workers share this; their configuration is the name of a gate.
macro_rules! with_a_gate {
    () => {
        type Config = String;
        type In = Ask;
        type Out = Answer;

        fn new(gate: String, _: &Context) -> Result<Self, BoxError> {
            IS_WORKER.set(true);
            Ok(Self(gate))
        }
    };
}

/// Handles items one by one.
struct Soloist(String);

impl Worker for Soloist {
    with_a_gate!();

    fn call(&mut self, input: &ArchivedAsk) -> Result<Answer, BoxError> {
        Act::of(&input.act).perform(&self.0)
    }
}

/// Handles batches as a whole.
struct Choir(String);

impl BatchWorker for Choir {
    with_a_gate!();

    fn call(&mut self, batch: Batch<'_, Self>) -> Result<(), BoxError> {
        // By preprocessing every second time, else item by item.
        if batch.len().is_multiple_of(2) {
            let batch = batch.preprocess(|ask| {
                let answer = Act::of(&ask.act).perform(&self.0)?;
                let act = answer.act;
                std::mem::forget(answer);
                Ok::<_, BoxError>(act)
            });
            let acts = batch.values().to_vec();
            return batch.reply_all(acts.into_iter().map(|act| Answer { act }));
        }
        let (mut items, mut outcomes) = (Vec::new(), Vec::new());
        for item in batch {
            match catch_unwind(AssertUnwindSafe(|| Act::of(&item.input().act).perform(&self.0))) {
                Ok(Ok(answer)) if answer.act.gives_value() && answer.act != Act::OutcomeDrop => {
                    items.push(item);
                    outcomes.push(answer);
                }
                Ok(Ok(answer)) => {
                    // As `Item::reply` says: its panic is a panic of this very call.
                    let _ = catch_unwind(AssertUnwindSafe(|| item.reply(answer)));
                }
                Ok(Err(error)) => item.fail(error),
                Err(panic) => {
                    std::mem::forget(panic);
                    item.fail(BoxError::msg("it panicked"));
                }
            }
        }
        items.into_iter().zip(outcomes).for_each(|(item, outcome)| item.reply(outcome));
        Ok(())
    }
}

#[track_caller]
fn assert_every_place_is_free<Out: ringmill::Payload>(server: &Server<Ask, Out>) {
    let options = CallOptions::new().when_full(WhenFull::Wait).timeout(GUARD);
    let replies: Vec<_> = (0..server.capacity())
        .map(|_| server.call_with(&Ask { act: Act::Fine }, options).expect("a permit"))
        .collect();
    drop(replies);
    assert_eq!(server.backlog(), 0);
}

/// Symptoms: an error whose `Display` panics cost its whole batch, or the worker; an input whose check panics, an error
/// or outcome whose drop does, and a panic whose payload does when dropped, cost the worker. Cause: they ran outside of
/// `catch_unwind`. Fix: each is caught where it runs, and is its item's error alone, or nothing.
#[test]
fn a_panic_in_the_midst_of_a_batch_costs_its_item_only() {
    fn check<W: BatchWorker<Config = String, In = Ask, Out = Answer>>() {
        on_both(|host| {
            let gate = Gate::new();
            let builder = Server::builder(fresh_name("midst")).capacity(64);
            let server = host.start::<W>(builder, gate.name(), Crew::of(1).greedy(64));
            let pid = server.stats().servlets[0].workers[0].pid;
            for odd in [0, 1] {
                let acts: Vec<Act> = ACTS.into_iter().flat_map(|act| [Act::Fine, act]).collect();
                let acts: Vec<Act> = acts.into_iter().chain(vec![Act::Fine; odd]).collect();
                let asks = acts.iter().map(|&act| Ask { act }).collect();
                let outcomes = pile_up(&server, &gate, Ask { act: Act::Stop }, asks);
                for (act, outcome) in acts.iter().zip(outcomes) {
                    assert_eq!(act.gives_value(), outcome.is_ok(), "{act:?}: {outcome:?}");
                    let Err(CallError::Remote(error)) = outcome else { continue };
                    let text = error.to_string();
                    match act {
                        Act::ErrorDisplay => {
                            assert!(text.contains("begins well … a message that cannot be told"))
                        }
                        Act::ErrorCycle => assert!(text.ends_with("BadError: told"), "{text}"),
                        Act::ErrorSource | Act::ErrorDrop => {
                            assert!(text.contains("BadError: told"), "{text}")
                        }
                        _ => {}
                    }
                }
            }
            assert_eq!(server.stats().servlets[0].batches().max, 25);
            assert_eq!(server.stats().servlets[0].workers[0].pid, pid, "it is the same worker");
            assert_eq!(server.debug_info().servlets[0].workers[0].restarts, 0);
            assert_every_place_is_free(&server);
        });
    }
    check::<Soloist>();
    check::<Choir>();
}

/// A configuration that says where its worker misbehaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Archive, Serialize, Deserialize)]
enum Mood {
    Cheerful,
    BombInNew,
    BombInWarmUp,
    FailsAndDropPanics,
    CleanupPanics,
    DropPanics,
}

struct Moody(Mood, String);

impl Worker for Moody {
    type Config = (Mood, String);
    type In = Ask;
    type Out = Answer;

    fn new((mood, gate): (Mood, String), _: &Context) -> Result<Self, BoxError> {
        if mood == Mood::BombInNew {
            panic_any(Bomb(2));
        }
        Ok(Self(mood, gate))
    }

    fn warm_up(&mut self, _: &Context) -> Result<(), BoxError> {
        match self.0 {
            Mood::BombInWarmUp => panic_any(Bomb(2)),
            Mood::FailsAndDropPanics => Err(BoxError::msg("not warm")),
            _ => Ok(()),
        }
    }

    fn call(&mut self, _: &ArchivedAsk) -> Result<Answer, BoxError> {
        Ok(Answer { act: Act::Fine })
    }

    fn cleanup(&mut self, reason: &Stop) {
        report(&self.1, &format!("cleanup {reason:?}"));
        if self.0 == Mood::CleanupPanics {
            panic_any(Bomb(2));
        }
    }
}

impl Drop for Moody {
    fn drop(&mut self) {
        report(&self.1, "drop");
        match self.0 {
            Mood::FailsAndDropPanics => panic!("not that either"),
            Mood::DropPanics => panic_any(Bomb(2)),
            _ => {}
        }
    }
}

/// Symptom: a worker whose drop panics was taken for one stopped by a fatal error, and if it could not be built, its drop's panic
/// replaced the reason. Cause: it was dropped outside of `catch_unwind`. Fix: within.
#[test]
fn a_worker_may_panic_from_its_first_moment_to_its_last() {
    on_both(|host| {
        let start = |mood, gate: &Gate| {
            let builder = Server::builder(fresh_name("moody"));
            host.try_start::<Moody>(builder, (mood, gate.name()), Crew::of(2))
        };
        for (mood, reason) in [
            (Mood::BombInNew, "a value that is no text"),
            (Mood::BombInWarmUp, "a value that is no text"),
            (Mood::FailsAndDropPanics, "not warm"),
        ] {
            match start(mood, &Gate::new()) {
                Err(StartError::Worker(error)) => {
                    assert!(error.to_string().contains(reason), "{mood:?}: {error}")
                }
                other => panic!("{mood:?}: {other:?}"),
            }
        }
        for mood in [Mood::Cheerful, Mood::CleanupPanics, Mood::DropPanics] {
            let gate = Gate::new();
            let server = start(mood, &gate).expect("it starts");
            assert!(server.call(&Ask { act: Act::Fine }).is_ok());
            server.shutdown();
            let mut said = BTreeMap::new();
            for _ in 0..4 {
                *said.entry(gate.arrival().label().to_owned()).or_insert(0) += 1;
            }
            assert_eq!(
                said,
                BTreeMap::from([("cleanup Shutdown".into(), 2), ("drop".into(), 2)]),
                "{mood:?}"
            );
        }
    });
}

/// Counts how often it is dropped, and panics then.
struct Hint(Arc<AtomicUsize>);

impl Drop for Hint {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::SeqCst);
        panic_any(Bomb(1));
    }
}

#[test]
fn a_switchs_function_may_panic_when_it_is_called_and_when_it_is_dropped() {
    let dropped = Arc::new(AtomicUsize::new(0));
    for stage in ["first", "last"] {
        use ringmill::Servlet;
        let hint = Hint(Arc::clone(&dropped));
        let choose = move |ask: &ArchivedAsk| {
            let _ = &hint;
            match ask.act {
                ArchivedAct::Panic => panic!("no member"),
                ArchivedAct::Bomb => panic_any(Bomb(2)),
                _ => 0_usize,
            }
        };
        let members = (ThreadServlet::<Soloist>::new(String::new()),);
        let builder = Server::builder(fresh_name("switch")).capacity(4);
        let server: Server<Ask, Answer> = match stage {
            "first" => builder.start(Switch::new(choose, members)),
            _ => builder.start(
                ThreadServlet::<ringmill::PassThrough<Ask>>::new(()).then(Switch::new(choose, members)),
            ),
        }
        .expect("it starts");
        for act in [Act::Panic, Act::Bomb, Act::Unreadable] {
            let error = server.call(&Ask { act }).map(drop).expect_err("no member is chosen");
            let Some(RemoteCause::Panicked { .. }) = error.remote_error().map(|e| &e.cause) else {
                panic!("{stage}, {act:?}: {error}")
            };
            assert!(server.call(&Ask { act: Act::Fine }).is_ok());
        }
        assert_every_place_is_free(&server);
    }
    wait_until("both functions are dropped", || dropped.load(Ordering::SeqCst) == 2);
}

ringmill::make_worker!(Slow: String => u64, |gate: &Archived<String>| {
    stop_at(gate, "slow");
    7_u64
});

/// Wakes by sending word.
struct Tell(Mutex<Sender<std::thread::ThreadId>>);

impl Tell {
    fn waker() -> (Waker, Receiver<std::thread::ThreadId>) {
        let (tell, told) = channel();
        (Waker::from(Arc::new(Self(Mutex::new(tell)))), told)
    }
}

impl Wake for Tell {
    fn wake(self: Arc<Self>) {
        let _ = self.0.lock().expect("no panic").send(std::thread::current().id());
    }
}

fn poll<F: Future + Unpin>(future: &mut F, waker: &Waker) -> Poll<F::Output> {
    Pin::new(future).poll(&mut Cx::from_waker(waker))
}

/// Polls when it is woken, and only then.
#[track_caller]
fn wait_for<F: Future>(future: F) -> F::Output {
    let (waker, told) = Tell::waker();
    let mut future = pin!(future);
    loop {
        if let Poll::Ready(outcome) = future.as_mut().poll(&mut Cx::from_waker(&waker)) {
            return outcome;
        }
        told.recv_timeout(GUARD).expect("it is woken");
    }
}

fn slow(capacity: usize, workers: usize) -> Server<String, u64> {
    let builder = Server::builder(fresh_name("wakers")).capacity(capacity);
    builder.start(ThreadServlet::<Slow>::new(()).cpus(workers)).expect("it starts")
}

/// A waker that panics in one of its functions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Panics {
    Wake,
    Drop,
    Clone,
    WakeWithBomb,
}

fn panicking_waker(panics: Panics) -> Waker {
    static ALL: [Panics; 4] = [Panics::Wake, Panics::Drop, Panics::Clone, Panics::WakeWithBomb];
    static TABLE: RawWakerVTable = RawWakerVTable::new(clone, wake, wake, drop);
    fn of(data: *const ()) -> Panics {
        // SAFETY: it is one of `ALL`.
        unsafe { *data.cast::<Panics>() }
    }
    fn clone(data: *const ()) -> RawWaker {
        assert_ne!(of(data), Panics::Clone, "a waker's clone");
        RawWaker::new(data, &TABLE)
    }
    fn wake(data: *const ()) {
        match of(data) {
            Panics::Wake => panic!("a waker"),
            Panics::WakeWithBomb => panic_any(Bomb(2)),
            _ => drop(data),
        }
    }
    fn drop(data: *const ()) {
        assert_ne!(of(data), Panics::Drop, "a waker's drop");
    }
    let data: *const Panics = ALL.iter().find(|p| **p == panics).expect("one of them");
    // SAFETY: the functions only read what `data` points to, a static; they may panic, but do nothing unsound.
    unsafe { Waker::from_raw(RawWaker::new(data.cast(), &TABLE)) }
}

/// Symptom: after one waker had panicked no future of the server was woken or timed out any more, and no permit came back.
/// Cause: the reactor's thread had ended. Fix: it catches panics of wakers.
#[test]
fn a_waker_that_panics_ends_only_its_own_future() {
    let server = slow(3, 2);
    for panics in [Panics::Wake, Panics::Drop, Panics::Clone, Panics::WakeWithBomb] {
        let gate = Gate::new();
        let input = gate.name();
        let waker = std::mem::ManuallyDrop::new(panicking_waker(panics));
        let mut future = server.call_async(&input);
        let polled = catch_unwind(AssertUnwindSafe(|| poll(&mut future, &waker).is_pending()));
        assert_eq!(polled.is_err(), panics == Panics::Clone, "{panics:?}");
        // A second poll drops the former waker.
        let polled = catch_unwind(AssertUnwindSafe(|| poll(&mut future, &waker).is_pending()));
        assert_eq!(polled.is_err(), panics == Panics::Clone, "{panics:?}");
        gate.arrival().release();
        drop(gate);
        let open = String::from("a gate that is not there");
        assert_eq!(*wait_for(server.call_async(&open)).expect("an answer"), 7);
        // Another waker can poll that future.
        assert_eq!(*wait_for(&mut future).expect("an answer"), 7);
        drop(future);
        let other = Gate::new();
        let (held, options) = (other.name(), CallOptions::new().timeout(Duration::from_millis(20)));
        let late = wait_for(server.call_async_with(&held, options));
        assert!(matches!(late, Err(CallError::Timeout { .. })));
        drop(late);
        other.arrival().release();
        wait_until("every permit is back", || server.backlog() == 0);
        assert_eq!(server.stream(vec![open; 30]).unordered().filter(|x| x.is_ok()).count(), 30);
    }
}

/// Also a waker that waits for a permit.
#[test]
fn a_waker_that_panics_loses_no_permit() {
    for panics in [Panics::Wake, Panics::Drop, Panics::WakeWithBomb] {
        let server = slow(1, 1);
        let open = String::from("a gate that is not there");
        let patient = CallOptions::new().when_full(WhenFull::Wait).timeout(GUARD);
        let permit = server.call(&open).expect("a permit");
        let waker = std::mem::ManuallyDrop::new(panicking_waker(panics));
        let mut first = server.call_async_with(&open, patient);
        assert!(poll(&mut first, &waker).is_pending() && poll(&mut first, &waker).is_pending());
        let mut second = server.call_async_with(&open, patient);
        let (tell, told) = Tell::waker();
        assert!(poll(&mut second, &tell).is_pending());
        drop(permit); // whether other futures take it does not matter here
        drop(first);
        told.recv_timeout(GUARD).expect("the next in line is woken");
        assert_eq!(*wait_for(second).expect("an answer"), 7);
        assert_eq!(server.backlog(), 0);
    }
}

/// Blocks until it is let go.
struct Blocks(Mutex<Receiver<()>>, Mutex<Sender<()>>);

impl Wake for Blocks {
    fn wake(self: Arc<Self>) {
        let _ = self.1.lock().expect("no panic").send(());
        let _ = self.0.lock().expect("no panic").recv();
    }
}

/// Symptom: one waker that did not return blocked every future of the server. Cause: one thread wakes all. Fix: another thread
/// takes over.
#[test]
fn wakers_that_block_delay_no_other() {
    let server = slow(8, 4);
    let open = String::from("a gate that is not there");
    let mut held = Vec::new();
    for _ in 0..3 {
        let gate = Gate::new();
        let (let_go, until) = channel();
        let (tell, told) = channel();
        let waker = Waker::from(Arc::new(Blocks(Mutex::new(until), Mutex::new(tell))));
        let input = gate.name();
        let mut future = Box::pin({
            let server = &server;
            async move { server.call_async(&input).await.map(|reply| reply.to_native()) }
        });
        assert!(poll(&mut future, &waker).is_pending());
        gate.arrival().release();
        told.recv_timeout(GUARD).expect("it is woken");
        assert_eq!(*wait_for(server.call_async(&open)).expect("an answer"), 7);
        let other = Gate::new();
        let (input, options) = (other.name(), CallOptions::new().timeout(Duration::from_millis(20)));
        assert!(matches!(wait_for(server.call_async_with(&input, options)), Err(CallError::Timeout { .. })));
        other.arrival().release();
        held.push((future, let_go));
    }
    for (future, let_go) in held {
        drop(let_go);
        assert_eq!(wait_for(future).expect("an answer"), 7);
    }
    wait_until("every permit is back", || server.backlog() == 0);
}

/// Symptom: a caller that gave a permit back ran the waker of the next future in line, and waited for it if it blocked. Fix: the
/// reactor wakes.
#[test]
fn no_caller_runs_the_waker_of_another() {
    let server = slow(1, 1);
    let open = String::from("a gate that is not there");
    let patient = CallOptions::new().when_full(WhenFull::Wait).timeout(GUARD);
    let permit = server.call(&open).expect("a permit");
    let (waker, told) = Tell::waker();
    let mut in_line = server.call_async_with(&open, patient);
    assert!(poll(&mut in_line, &waker).is_pending());
    drop(permit);
    assert_ne!(told.recv_timeout(GUARD).expect("it is woken"), std::thread::current().id());
    let mut next = server.call_async_with(&open, patient);
    let permit = wait_for(in_line).expect("an answer");
    assert!(poll(&mut next, &waker).is_pending());
    drop(permit);
    assert_ne!(told.recv_timeout(GUARD).expect("it is woken"), std::thread::current().id());
}

#[test]
fn a_waker_may_call_its_server() {
    let server = Arc::new(slow(4, 2));
    struct Again(Arc<Server<String, u64>>, Mutex<Sender<bool>>);
    impl Wake for Again {
        fn wake(self: Arc<Self>) {
            let open = String::from("a gate that is not there");
            let called = self.0.call(&open).is_ok() && wait_for(self.0.call_async(&open)).is_ok();
            let _ = self.1.lock().expect("no panic").send(called);
        }
    }
    let gate = Gate::new();
    let input = gate.name();
    let (tell, told) = channel();
    let waker = Waker::from(Arc::new(Again(Arc::clone(&server), Mutex::new(tell))));
    let mut future = server.call_async(&input);
    assert!(poll(&mut future, &waker).is_pending());
    gate.arrival().release();
    assert!(told.recv_timeout(GUARD).expect("it is woken"), "a future awaited within a waker ends too");
    assert_eq!(*wait_for(future).expect("an answer"), 7);
}
