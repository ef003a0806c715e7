//! The server that `bench --demo` drives: it sends back what it gets, after some work.

use crate::error::ToolError;
use ringmill::{Batch, BatchWorker, BoxError, Context, ProcessServlet, Server};
use std::time::{Duration, Instant};

/// A worker of the demo; the program's `init!` lists it.
#[derive(Debug)]
pub struct Demo {
    work_per_item: Duration,
}

impl BatchWorker for Demo {
    type Config = u64; // nanoseconds of work on each item
    type In = Vec<u8>;
    type Out = Vec<u8>;

    fn new(work_ns: u64, _: &Context) -> Result<Self, BoxError> {
        Ok(Self { work_per_item: Duration::from_nanos(work_ns) })
    }

    fn call(&mut self, batch: Batch<'_, Self>) -> Result<(), BoxError> {
        let work = self.work_per_item * batch.len() as u32;
        if !work.is_zero() {
            let begun = Instant::now();
            while begun.elapsed() < work {
                std::hint::spin_loop(); // work, which takes a CPU
            }
        }
        let same: Vec<Vec<u8>> = batch.inputs().map(|bytes| bytes.as_slice().to_vec()).collect();
        batch.reply_all(same)
    }
}

/// How long a worker may finish its batch after a signal.
const SHUTDOWN: Duration = Duration::from_secs(1);

/// What the demo is made of.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shape {
    pub(super) workers: usize,
    pub(super) batch_size: usize,
    pub(super) batch_wait: Duration,
    pub(super) work_per_item: Duration,
    pub(super) payload_bytes: usize,
    pub(super) capacity: usize,
}

/// Starts it, under this name or the next that is free.
pub(super) fn start(name: &str, shape: Shape) -> Result<Server<Vec<u8>, Vec<u8>>, ToolError> {
    let work_ns = shape.work_per_item.as_nanos() as u64;
    let servlet = ProcessServlet::<Demo>::new(work_ns).name("demo").cpus(shape.workers);
    let servlet = servlet.batch_size(shape.batch_size).batch_wait_time(shape.batch_wait);
    let builder = Server::builder(name).name_or_suffix().capacity(shape.capacity).handle_signals(false);
    let builder = builder.shutdown_timeout(SHUTDOWN);
    // A vector's bytes, and what names them.
    let builder = builder.max_payload((shape.payload_bytes + 64).next_multiple_of(128));
    builder.start(servlet).map_err(|error| ToolError::Demo(error.to_string()))
}
