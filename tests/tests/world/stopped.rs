//! A worker that is stopped, not dead, delays no request that another worker could take.

use ringmill::{CallError, CallOptions, ProcessServlet, Server, Servlet, Wait, WhenFull};
use ringmill_shm::segment::Segment;
use ringmill_tests::actor::{Act, Actor, Answer};
use ringmill_tests::actor_gate::ActorGate;
use ringmill_tests::guard::guarded;
use ringmill_tests::name::Name;
use ringmill_tests::process::{go_on, stop};
use ringmill_tests::wait_until;
use rkyv::Archived;
use std::pin::pin;
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

ringmill::make_worker!(Same: Act => Act, |act: &Archived<Act>| -> Result<Act, ringmill::BoxError> {
    match act {
        Archived::<Act>::Double(number) => Ok(Act::Double(number.to_native())),
        _ => Err(ringmill::BoxError::msg("only doubles come this way")),
    }
});

ringmill::init!(Same, Actor);

type Two = Server<Act, Answer>;

/// The longest spin that can be asked for: a second. So a worker that has been seen spinning is stopped in time.
const SPIN: Wait = Wait::Spin(Duration::from_secs(1));
/// Rounds in which the other worker may happen to be awake of its own accord; it is so two times a second.
const ROUNDS: usize = 20;

fn patient() -> CallOptions {
    CallOptions::new().when_full(WhenFull::Wait).timeout(Duration::from_secs(3600))
}

struct Stopped(u32);

impl Stopped {
    fn new(pid: u32) -> Self {
        let stopped = Self(pid); // continues it even if `stop` panics
        stop(pid);
        stopped
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        go_on(self.0);
    }
}

/// Stops a worker of a node with its mark on the doorbell while the other one is asleep; returns which.
fn stop_a_spinner(segment: &Segment, node: u32, poke: impl Fn()) -> (u32, Stopped) {
    let node = segment.node(node).expect("a node");
    loop {
        poke();
        let Some(spinner) = node.doorbell().spinner() else { continue };
        let stopped = Stopped::new(node.workers()[spinner as usize].pid());
        let other = 1 - spinner;
        let is_asleep = || node.doorbell().sleepers() == 1 << other;
        if node.doorbell().spinner() == Some(spinner) && node.doorbell().sleepers() & 1 << spinner == 0 {
            wait_until("the other one sleeps", is_asleep);
            if node.doorbell().spinner() == Some(spinner) {
                return (other, stopped);
            }
        }
    }
}

/// Repeats `act`, each time with one of two workers stopped while it spins, until a push has woken the other one. The other one
/// also wakes by itself every half second, which must not end the wait.
fn is_woken_for(what: &str, segment: &Segment, node: u32, poke: impl Fn(), act: impl Fn()) {
    for _ in 0..ROUNDS {
        let (other, _stopped) = stop_a_spinner(segment, node, &poke);
        let bell = segment.node(node).expect("a node").bell(other).expect("two workers");
        let before = bell.count();
        act();
        if bell.count() != before {
            return;
        }
    }
    panic!("{what}: the other worker was never woken, and found the item by its backstop");
}

fn two(name: &Name, gate: &ActorGate, wait: Wait) -> Option<Two> {
    if std::thread::available_parallelism().is_ok_and(|cpus| cpus.get() < 2) {
        eprintln!("skipped: on one CPU no worker spins");
        return None;
    }
    Some(Server::builder(name.text()).wait(wait).start(gate.processes(2)).expect("it starts"))
}

fn double(server: &Two, number: u64) {
    let answer = server.call_with(&Act::Double(number), patient()).expect("an answer");
    assert_eq!(answer.value, 2 * number);
}

struct Unpark(std::thread::Thread);

impl Wake for Unpark {
    fn wake(self: std::sync::Arc<Self>) {
        self.0.unpark();
    }
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    let mut future = pin!(future);
    let waker = Waker::from(std::sync::Arc::new(Unpark(std::thread::current())));
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(value) => return value,
            Poll::Pending => std::thread::park(),
        }
    }
}

fn doubles() -> impl Iterator<Item = Act> {
    (0..5).map(Act::Double)
}

fn are_doubled<T>(outcomes: impl Iterator<Item = Result<Answer, T>>)
where
    T: std::fmt::Debug,
{
    assert_eq!(outcomes.map(|outcome| outcome.expect("an answer").value).sum::<u64>(), 20);
}

/// Symptom: a worker was stopped, or lost its CPU, while it spun; from then on no push woke a worker, and calls took half a
/// second, until another, idle worker woke by itself. Cause: pushers trusted a spinner's mark for as long as it stood. Fix: a
/// pusher that relies on a mark doubts it: it watches the mark, and removes it.
#[test]
fn a_worker_that_is_stopped_while_it_spins() {
    guarded(|| {
        let (name, gate) = (Name::new("stoppedspin"), ActorGate::new());
        let Some(server) = two(&name, &gate, SPIN) else { return };
        let segment = name.inspect();
        let poke = || double(&server, 1);
        let tried = |what: &str, act: &dyn Fn()| is_woken_for(what, &segment, 0, poke, act);
        tried("call", &|| double(&server, 2));
        tried("call by deadline", &|| {
            let deadline = std::time::Instant::now() + Duration::from_secs(3600);
            let answer = server.call_with(&Act::Double(2), patient().deadline(deadline));
            assert_eq!(answer.expect("an answer").value, 4);
        });
        tried("submit", &|| {
            let mut pending = server.submit(&Act::Double(3)).expect("a permit");
            wait_until("it is answered without a waiting caller", || pending.is_ready());
            assert_eq!(pending.try_take().expect("it is ready").expect("an answer").value, 6);
        });
        tried("call_async", &|| {
            let answer = block_on(server.call_async(&Act::Double(4))).expect("an answer");
            assert_eq!(answer.value, 8);
        });
        tried("stream", &|| are_doubled(server.stream(doubles())));
        tried("stream, unordered", &|| {
            are_doubled(server.stream(doubles()).unordered().map(|item| item.expect("a stream").1));
        });
        drop(server);
        name.assert_nothing_left();
    });
}

/// Callers sleep at once, and workers spin no longer than a wake takes: then a stop seldom meets a spinning worker, and does no
/// harm to one that is not spinning.
#[test]
fn a_worker_that_is_stopped_while_its_callers_sleep() {
    guarded(|| {
        let (name, gate) = (Name::new("stoppedadaptive"), ActorGate::new());
        let Some(server) = two(&name, &gate, Wait::Adaptive) else { return };
        let segment = name.inspect();
        for round in 0..40_u64 {
            let worker = segment.node(0).expect("a node").workers()[(round % 2) as usize].pid();
            double(&server, round);
            let _stopped = Stopped::new(worker);
            // It may have begun items from before its stop, but no later ones.
            double(&server, round);
            double(&server, round);
        }
        drop(server);
    });
}

/// Work that another worker hands on relies on a spinner of the next stage.
#[test]
fn a_worker_of_the_next_stage_that_is_stopped_while_it_spins() {
    guarded(|| {
        let (name, gate) = (Name::new("stoppednext"), ActorGate::new());
        if std::thread::available_parallelism().is_ok_and(|cpus| cpus.get() < 2) {
            return eprintln!("skipped: on one CPU no worker spins");
        }
        let first = ProcessServlet::<Same>::new(()).cpus(1);
        let second = gate.processes(2);
        let server = Server::builder(name.text()).wait(SPIN).start(first.then(second)).expect("it starts");
        let segment = name.inspect();
        let poke = || double(&server, 1);
        is_woken_for("next stage", &segment, 1, poke, || double(&server, 2));
        drop(server);
    });
}

/// Symptom: the lowest-numbered sleeper was stopped asleep; the next call woke only it, and took half a second. Cause: a wake
/// counts as taken. Fix: a caller that has slept for a moment without an answer wakes one more worker.
#[test]
fn a_worker_that_is_stopped_asleep() {
    guarded(|| {
        let (name, gate) = (Name::new("stoppedasleep"), ActorGate::new());
        let server =
            Server::builder(name.text()).wait(Wait::Park).start(gate.processes(2)).expect("it starts");
        let segment = name.inspect();
        let node = segment.node(0).expect("the only node");
        let (first, other) = (&node.workers()[0], node.bell(1).expect("two"));
        let rescued = (0..ROUNDS).any(|round| {
            wait_until("both sleep", || node.doorbell().sleepers() == 0b11);
            let _stopped = Stopped::new(first.pid());
            let before = other.count();
            match round % 2 {
                0 => double(&server, 2),
                _ => are_doubled(server.stream(doubles())),
            }
            other.count() != before
        });
        assert!(rescued, "the other one was never woken");
        drop(server);
        name.assert_nothing_left();
    });
}

/// A worker that is stopped with an item keeps it: its caller has a timeout for that. No other caller waits for it.
#[test]
fn a_stopped_worker_keeps_its_items() {
    guarded(|| {
        let (name, gate) = (Name::new("stoppedkeeps"), ActorGate::new());
        let server = Server::builder(name.text()).start(gate.processes(2)).expect("it starts");
        std::thread::scope(|scope| {
            let (server, options) = (&server, patient().timeout(Duration::from_millis(200)));
            let call = move || server.call_with(&Act::Hold(1), options).and_then(|reply| reply.into_owned());
            let held = scope.spawn(call);
            let visit = gate.next_hold(1);
            let stopped = Stopped::new(visit.pid);
            for number in 0..20 {
                double(server, number);
            }
            assert!(matches!(held.join().expect("no panic"), Err(CallError::Timeout { .. })));
            drop(stopped);
            visit.let_go();
        });
        wait_until("all permits come back", || server.backlog() == 0);
        name.assert_consistent();
    });
}
