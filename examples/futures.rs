//! Shows futures: many requests from one thread, under any executor; dropping a future cancels its request.
//!
//! ```sh
//! cargo run --release --example futures
//! ```

use futures_util::StreamExt;
use futures_util::future::{Either, join_all, select};
use ringmill::rkyv::Archived;
use ringmill::{BoxError, CallError, CallOptions, Context, Handle, ProcessServlet, Server, WhenFull, Worker};
use std::pin::pin;
use std::time::{Duration, Instant};

/// Waits for this many milliseconds, as a worker does that does something slow, and answers with the square.
struct Square;

impl Worker for Square {
    type Config = ();
    type In = (u32, u64);
    type Out = u64;

    fn new((): (), _: &Context) -> Result<Self, BoxError> {
        Ok(Self)
    }

    fn call(&mut self, input: &Archived<(u32, u64)>) -> Result<u64, BoxError> {
        std::thread::sleep(Duration::from_millis(input.1.to_native())); // stands for work
        Ok(u64::from(input.0.to_native()).pow(2))
    }
}

const TASKS: u32 = 1000;

async fn show(server: Handle<(u32, u64), u64>) -> Result<(), BoxError> {
    // A thousand tasks of this one thread; each asks twice, one after the other. That is more than the server's capacity: a
    // future without a permit waits for one.
    let patient = CallOptions::new().when_full(WhenFull::Wait);
    let tasks = (0..TASKS).map(|number| {
        let server = server.clone();
        tokio::spawn(async move {
            let square = *server.call_async_with((number, 0), patient).await?;
            let fourth = *server.call_async_with((square.to_native() as u32, 0), patient).await?;
            Ok::<u64, CallError>(fourth.to_native())
        })
    });
    let begun = Instant::now();
    for (number, fourth) in (0_u64..).zip(join_all(tasks).await) {
        assert_eq!(fourth??, number.pow(4));
    }
    println!("{TASKS} tasks on one thread, two requests each: {:.1} ms", ms(begun));

    // Many items in order: a stream in, a stream out.
    let numbers = futures_util::stream::iter((0..TASKS).map(|number| (number, 0)));
    let squares: Vec<_> = server.stream_async(numbers).collect().await;
    let sum = squares.into_iter().sum::<Result<u64, CallError>>()?;
    println!("the sum of the squares of 0 to {}: {sum}", TASKS - 1);
    assert_eq!(sum, (0..u64::from(TASKS)).map(|n| n * n).sum::<u64>());

    // The first of two that has its answer; the other is dropped, which cancels it.
    let first = match select(pin!(server.call_async((3, 200))), pin!(server.call_async((4, 1)))).await {
        Either::Left((reply, _)) | Either::Right((reply, _)) => reply?.to_native(),
    };
    println!("the first of two: {first}");
    assert_eq!(first, 16);

    // No later than that: a worker that would take it later does not work on it.
    let soon = CallOptions::new().deadline(Instant::now() + Duration::from_millis(20));
    match server.call_async_with((5, 200), soon).await {
        Err(error @ CallError::Timeout { .. }) => println!("too slow: {error}"),
        other => return Err(BoxError::msg(format!("a timeout was due, not {other:?}"))),
    }
    Ok(())
}

fn ms(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1e3
}

fn main() -> Result<(), BoxError> {
    ringmill::init!(Square);
    let server = Server::builder("futures").start(ProcessServlet::<Square>::new(()).cpus(4))?;
    let executor = tokio::runtime::Builder::new_current_thread().build()?;
    executor.block_on(show(server.handle()))
}
