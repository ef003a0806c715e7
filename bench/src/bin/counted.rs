//! A number of calls, or of items of a stream, for `.ci/counts`, which counts their instructions.
//!
//! ```text
//! counted call|stream ITEMS
//! ```
//!
//! The worker is a thread, since callgrind does not know the system call that watches a process; and both sides
//! sleep instead of spinning, since how long they would spin depends on the machine. So the counts are those of the
//! slow path too, but repeat.

use ringmill::stats::Timing;
use ringmill::{Server, StreamOptions, ThreadServlet, Wait};
use std::process::ExitCode;
use std::time::Duration;

/// An item: 64 bytes.
type Payload = ringmill_bench::payload::Payload<8>;
type Echo = ringmill_bench::peers::ringmill::Echo<8>;

const WINDOW: usize = 256;
const BATCH_SIZE: usize = 64;

fn main() -> ExitCode {
    let mut args = std::env::args().skip(1);
    let (job, items) = (args.next(), args.next().and_then(|items| items.parse().ok()));
    let done = match (job.as_deref(), items) {
        (Some("call"), Some(items)) => call(items),
        (Some("stream"), Some(items)) => stream(items),
        _ => {
            eprintln!("usage: counted call|stream ITEMS");
            return ExitCode::from(2);
        }
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => {
            eprintln!("counted: a wrong answer");
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("counted: {error}");
            ExitCode::FAILURE
        }
    }
}

fn server() -> Result<Server<Payload, Payload>, ringmill::StartError> {
    let echo = ThreadServlet::<Echo>::new(()).batch_size(BATCH_SIZE).batch_wait_time(Duration::ZERO);
    // How often the default reads a clock depends on the time.
    let name = format!("counted-{}", std::process::id());
    Server::builder(name).capacity(1024).wait(Wait::Park).timing(Timing::OneOf(64)).start(echo)
}

fn call(items: u64) -> Result<bool, ringmill::BoxError> {
    let server = server()?;
    for item in 0..items {
        if !server.call(&Payload::question(item))?.answers(item) {
            return Ok(false);
        }
    }
    Ok(true)
}

fn stream(items: u64) -> Result<bool, ringmill::BoxError> {
    let server = server()?;
    let questions = (0..items).map(Payload::question);
    for (item, answer) in (0..).zip(server.stream_with(questions, StreamOptions::new().window(WINDOW))) {
        if !answer?.answers(item) {
            return Ok(false);
        }
    }
    Ok(true)
}
