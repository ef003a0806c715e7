//! ringmill with workers that work on batches. The reader lock lets one worker at a time make its batch.

use std::collections::VecDeque;
use std::time::Duration;

use ::ringmill::{Batch, BatchWorker, BoxError, Context, ProcessServlet, Server};

use super::ringmill::{call_through, name_and_room, on_one_cpu, stream_through};
use super::ringmill_open_loop::Submitted;
use crate::Error;
use crate::batching::{Batches, Batching, Plan};
use crate::contestant::{Contestant, Notes};
use crate::device::Device;
use crate::open_loop::{Answers, drive};
use crate::pin::CpuPair;

type Payload = crate::payload::Payload<8>;

/// The worker: has its device work on each batch, and answers. List it in `ringmill::init!` of every program that starts
/// a [`RingmillBatch`].
#[derive(Debug)]
pub struct DeviceWorker(Device);

impl BatchWorker for DeviceWorker {
    type Config = Device;
    type In = Payload;
    type Out = Payload;

    fn new(device: Device, _: &Context) -> Result<Self, BoxError> {
        Ok(Self(device.open()?))
    }

    fn call(&mut self, batch: Batch<'_, Self>) -> Result<(), BoxError> {
        self.0.work(batch.len());
        for item in batch {
            let answer = item.input().answer();
            item.reply(answer);
        }
        Ok(())
    }
}

/// A server with worker processes.
#[derive(Debug)]
pub struct RingmillBatch {
    name: &'static str,
    server: Server<Payload, Payload>,
    batches: Batches,
}

impl RingmillBatch {
    /// Starts the server.
    ///
    /// # Errors
    ///
    /// [`Error::Start`] if it does not start.
    pub fn start(plan: Plan, cpus: CpuPair) -> Result<Self, Error> {
        Self::start_as("ringmill", Some(plan.batch_wait), plan, cpus)
    }

    /// Starts the server with another batch wait than the plan's, or none stated, and under a name that tells it.
    ///
    /// # Errors
    ///
    /// [`Error::Start`] if it does not start.
    pub fn start_as(
        name: &'static str,
        batch_wait: Option<Duration>,
        plan: Plan,
        cpus: CpuPair,
    ) -> Result<Self, Error> {
        let servlet = ProcessServlet::<DeviceWorker>::new(plan.device)
            .cpus(on_one_cpu(plan.workers, cpus.partner))
            .batch_size(plan.batch_size);
        let servlet = match batch_wait {
            Some(wait) => servlet.batch_wait_time(wait),
            None => servlet,
        };
        let server = name_and_room(plan.room).max_payload(Payload::BYTES).start(servlet)?;
        Ok(Self { name, server, batches: Batches::default() })
    }
}

impl Contestant for RingmillBatch {
    fn name(&self) -> &'static str {
        self.name
    }

    fn notes(&mut self) -> Notes {
        let stats = self.server.stats().servlets[0].batches();
        self.batches.notes_until(Batches { count: stats.count, items: stats.items })
    }

    fn call(&mut self, items: u64) -> Result<(), Error> {
        call_through(&self.server, items)
    }

    fn stream(&mut self, items: u64, window: u32) -> Result<(), Error> {
        stream_through(&self.server, items, window)
    }
}

impl Batching for RingmillBatch {
    fn offer(&mut self, due_ns: &[u64]) -> Result<Answers, Error> {
        drive(&mut Submitted { who: self.name(), server: &self.server, pending: VecDeque::new() }, due_ns)
    }
}
