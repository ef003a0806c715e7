//! Cleaning up takes time in proportion to the number of items: tests with so many items that a quadratic step would take longer
//! than a test may.

use ringmill::{
    BoxError, CallError, CallOptions, Context, Server, StreamOptions, ThreadServlet, Wait, WhenFull, Worker,
};
use ringmill_tests::gate::{Gate, stop_at};
use ringmill_tests::{GUARD, fresh_name, wait_until};
use rkyv::string::ArchivedString;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context as Cx, Wake, Waker};
use std::time::{Duration, Instant};

/// Answers with a number; stops at the gate that an item names.
struct Clerk;

impl Worker for Clerk {
    type Config = ();
    type In = String;
    type Out = u64;

    fn new((): (), _: &Context) -> Result<Self, BoxError> {
        Ok(Self)
    }

    fn call(&mut self, gate: &ArchivedString) -> Result<u64, BoxError> {
        if !gate.is_empty() {
            stop_at(gate, "held");
        }
        Ok(7)
    }
}

/// A very large capacity, no blocks, one batch for all.
fn vast(capacity: usize) -> Server<String, u64> {
    let servlet = ThreadServlet::<Clerk>::new(()).batch_size(capacity).batch_wait_time(Duration::ZERO);
    let builder = Server::builder(fresh_name("vast")).capacity(capacity).payload_classes([(128, 16)]);
    builder.start(servlet).expect("it starts")
}

/// Symptom: a worker took 3 s to refuse 80,000 expired items, a quarter of a second for 20,000. Cause: it removed each from the
/// front of the batch. Fix: one pass. With the number of items here each removal would move 8 MB.
#[test]
fn a_batch_of_items_whose_time_is_over() {
    const ITEMS: usize = 1 << 19;
    let gate = Gate::new();
    let server = &vast(ITEMS + 1);
    let (held, empty) = (gate.name(), String::new());
    let patient = CallOptions::new().timeout(GUARD);
    let first = server.submit_with(&held, patient).expect("a permit");
    let arrival = gate.arrival();
    let deadline = Instant::now() + Duration::from_secs(1);
    // Some without a limit between.
    let options = |item: usize| if item % 1000 == 999 { patient } else { patient.deadline(deadline) };
    let mut pending = Vec::with_capacity(ITEMS);
    for item in 0..ITEMS {
        match server.submit_with(&empty, options(item)) {
            Ok(sent) => pending.push((item, sent)),
            Err(CallError::Timeout { .. }) => {} // it took as long to send them
            Err(error) => panic!("{error}"),
        }
    }
    wait_until("their time is over", || Instant::now() > deadline);
    arrival.release();
    assert_eq!(*first.wait().expect("an answer"), 7);
    for (item, sent) in pending {
        match sent.wait() {
            Ok(seven) => assert_eq!((seven.to_native(), item % 1000), (7, 999)),
            Err(CallError::Timeout { .. }) => assert_ne!(item % 1000, 999),
            Err(error) => panic!("{error}"),
        }
    }
    assert_eq!(server.backlog(), 0);
}

const MANY: usize = 1 << 16;

/// Symptom: with 80,000 inputs in progress, an unordered stream looked at all of them for each outcome. Fix: it looks at a few,
/// and completions report the others.
#[test]
fn an_unordered_stream_with_very_many_in_progress() {
    let gate = Gate::new();
    let servlet = ThreadServlet::<Clerk>::new(());
    let builder = Server::builder(fresh_name("unordered")).capacity(MANY).payload_classes([(128, 16)]);
    let server = &builder.wait(Wait::Park).start(servlet).expect("it starts");
    // The oldest is held; the others come one after the other.
    let inputs = (0..MANY).map(|item| if item == 0 { gate.name() } else { String::new() });
    let mut stream = server.stream_with(inputs, StreamOptions::new().timeout(GUARD)).unordered();
    let all =
        stream.by_ref().take(MANY - 1).filter(|item| item.as_ref().is_ok_and(|(_, seven)| seven.is_ok()));
    std::thread::scope(|scope| {
        scope.spawn(|| gate.arrival().release());
        assert_eq!(all.count(), MANY - 1);
    });
    assert!(stream.next().is_some() && stream.next().is_none());
}

/// Counts how often it is woken.
struct Counts(AtomicUsize);

impl Wake for Counts {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

/// Symptom: 40,000 futures that wait for a permit were all woken after 7.7 s, 20,000 after 0.8 s. Cause: each free permit walked
/// past all futures that had been woken and had not looked yet. Fix: the line knows the next future to wake.
#[test]
fn very_many_futures_in_line() {
    let server = &vast(MANY);
    let empty = String::new();
    let patient = CallOptions::new().when_full(WhenFull::Wait).timeout(GUARD);
    let call = |_| server.submit(&empty).expect("a permit").wait().expect("an answer");
    let replies: Vec<_> = (0..MANY).map(call).collect();
    let counts = Arc::new(Counts(AtomicUsize::new(0)));
    let waker = Waker::from(Arc::clone(&counts));
    let mut futures: Vec<_> = (0..MANY).map(|_| server.call_async_with(&empty, patient)).collect();
    for future in &mut futures {
        assert!(Pin::new(future).poll(&mut Cx::from_waker(&waker)).is_pending());
    }
    drop(replies);
    wait_until("all are woken", || counts.0.load(Ordering::SeqCst) == MANY);
    drop(futures);
    assert_eq!(server.backlog(), 0);
}

/// Symptom: if very many callers had given up on requests that a worker still had, each call without a permit looked at all of
/// these: 65,536 times 65,536 looks here. Fix: it looks at each once, and again only when some have come free.
#[test]
fn very_many_refused_calls_beside_as_many_abandoned_requests() {
    let gate = Gate::new();
    let server = &vast(MANY + 1);
    let (held, empty) = (gate.name(), String::new());
    let first = server.submit_with(&held, CallOptions::new().timeout(GUARD)).expect("a permit");
    let arrival = gate.arrival();
    (0..MANY).for_each(|_| drop(server.submit(&empty).expect("a permit")));
    for _ in 0..MANY {
        assert!(matches!(server.call(&empty), Err(CallError::ServerBacklogFull { .. })));
    }
    arrival.release();
    assert_eq!(*first.wait().expect("an answer"), 7);
    wait_until("every permit is back", || server.backlog() == 0);
}
