//! Cleaning up takes time in proportion to what there is to clean up: tests with so many items that whatever grows with
//! their square would take longer than a test may.

use ringmill::{BoxError, CallError, CallOptions, Context, Server, ThreadServlet, Worker};
use ringmill_tests::gate::{Gate, stop_at};
use ringmill_tests::{GUARD, fresh_name, wait_until};
use rkyv::string::ArchivedString;
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

/// Very many places, no blocks, one batch for all.
fn vast(capacity: usize) -> Server<String, u64> {
    let servlet = ThreadServlet::<Clerk>::new(()).batch_size(capacity).batch_wait_time(Duration::ZERO);
    let builder = Server::builder(fresh_name("vast")).capacity(capacity).payload_classes([(64, 16)]);
    builder.start(servlet).expect("it starts")
}

/// Symptom: 80,000 items whose time was over took 3 s to be refused, 20,000 a quarter of a second, while their worker did
/// nothing else. Cause: each was removed from the front of the batch. Fix: one pass. Of so many as here each would have
/// moved 8 MB.
#[test]
fn a_batch_of_items_whose_time_is_over() {
    const ITEMS: usize = 1 << 19;
    let gate = Gate::new();
    let server = &vast(ITEMS + 1);
    let (held, empty) = (gate.name(), String::new());
    let patient = CallOptions::new().timeout(GUARD);
    let first = server.submit_with(&held, patient).expect("a place");
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
