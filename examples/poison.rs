//! Shows how a batch ends whose worker dies: one request in 64 kills every worker that begins it.
//!
//! ```sh
//! cargo run --release --example poison
//! ```

use ringmill::error::RemoteCause;
use ringmill::rkyv::Archived;
use ringmill::{
    Batch, BatchWorker, BoxError, CallError, Context, OnDeath, ProcessServlet, Server, StreamOptions,
};
use std::time::{Duration, Instant};

const ITEMS: u64 = 64;
const POISON: u64 = 41;

/// Squares numbers, and crashes on one of them, as native code does.
struct Square;

impl BatchWorker for Square {
    type Config = ();
    type In = u64;
    type Out = u64;

    fn new((): (), _: &Context) -> Result<Self, BoxError> {
        Ok(Self)
    }

    fn call(&mut self, batch: Batch<'_, Self>) -> Result<(), BoxError> {
        if batch.inputs().any(|number| *number == POISON) {
            std::process::abort();
        }
        let squares: Vec<u64> =
            batch.inputs().map(|number: &Archived<u64>| number.to_native().pow(2)).collect();
        batch.reply_all(squares)
    }
}

/// Sends all numbers as one batch; prints the outcome of each.
fn send(policy: OnDeath) -> Result<(), BoxError> {
    let servlet = ProcessServlet::<Square>::new(()).on_death(policy);
    let servlet = servlet.batch_size(ITEMS as usize).batch_wait_time(Duration::from_secs(1));
    let server = Server::builder("poison").capacity(ITEMS as usize).start(servlet)?;
    let begun = Instant::now();
    let outcomes: Vec<_> =
        server.stream_with(0..ITEMS, StreamOptions::new().window(ITEMS as usize)).collect();
    let took = begun.elapsed();

    let picture: String = (0..).zip(&outcomes).map(|(number, outcome)| mark(number, outcome)).collect();
    let answered = outcomes.iter().filter(|outcome| outcome.is_ok()).count();
    println!("{policy:?}: {answered} of {ITEMS} answered, {:.0} ms\n  {picture}", took.as_secs_f64() * 1e3);
    if policy == OnDeath::Bisect(2) {
        assert_eq!(answered as u64, ITEMS - 1);
        println!("\n{POISON}: {}", outcomes[POISON as usize].as_ref().expect_err("it is poisonous"));
    }
    Ok(())
}

fn mark(number: u64, outcome: &Result<u64, CallError>) -> char {
    match outcome {
        Ok(square) if *square == number * number => '.',
        Err(CallError::WorkerDied(error)) if matches!(error.cause, RemoteCause::Poisonous { .. }) => 'P',
        Err(CallError::WorkerDied(_)) => 'x',
        other => panic!("{number}: {other:?}"),
    }
}

fn main() -> Result<(), BoxError> {
    ringmill::init!(Square);
    println!("{ITEMS} requests in one batch; number {POISON} kills its worker\n");
    println!(". answered   x its worker died   P worker after worker died with it\n");
    for policy in [OnDeath::Fail, OnDeath::Retry(2), OnDeath::Bisect(2)] {
        send(policy)?;
    }
    Ok(())
}
