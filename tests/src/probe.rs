//! A worker that says which batch an item was in, and stops at a gate if the item says so.

use crate::gate::stop_at;
use ringmill::{Batch, BatchWorker, BoxError, Context};
use rkyv::{Archive, Deserialize, Serialize};

/// An item for a [`Probe`].
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct Ask {
    /// Comes back.
    pub value: u64,
    /// Whether the batch that it is in stops at the gate.
    pub stop: bool,
}

/// An item that only wants to be seen.
#[must_use]
pub fn ask(value: u64) -> Ask {
    Ask { value, stop: false }
}

/// An item that stops its batch at the gate.
#[must_use]
pub fn stopper() -> Ask {
    Ask { value: u64::MAX, stop: true }
}

/// Where an item was seen.
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
#[rkyv(derive(Debug))]
pub struct Seen {
    /// The item's.
    pub value: u64,
    /// Which worker.
    pub worker: u64,
    /// Which of that worker's batches, from 1.
    pub batch: u64,
    /// How many items the batch had.
    pub len: u64,
    /// The item's number in the batch, from 0.
    pub position: u64,
}

/// The worker; its configuration is the gate's name.
#[derive(Debug)]
pub struct Probe {
    gate: String,
    worker: u64,
    batches: u64,
}

impl BatchWorker for Probe {
    type Config = String;
    type In = Ask;
    type Out = Seen;

    fn new(gate: String, context: &Context) -> Result<Self, BoxError> {
        Ok(Self { gate, worker: context.worker_index() as u64, batches: 0 })
    }

    fn call(&mut self, batch: Batch<'_, Self>) -> Result<(), BoxError> {
        self.batches += 1;
        if batch.inputs().any(|item| item.stop) {
            stop_at(&self.gate, &format!("worker {}, {} items", self.worker, batch.len()));
        }
        let (worker, number, len) = (self.worker, self.batches, batch.len() as u64);
        let values: Vec<u64> = batch.inputs().map(|item| item.value.to_native()).collect();
        batch.reply_all((0..).zip(values).map(|(position, value)| Seen {
            value,
            worker,
            batch: number,
            len,
            position,
        }))
    }
}

/// The sizes of the batches of one worker that these outcomes were in, in order.
///
/// # Panics
/// If the outcomes are not those of whole batches of one worker, in order.
#[must_use]
pub fn batch_sizes(seen: &[Seen]) -> Vec<usize> {
    let mut sizes = Vec::new();
    let mut rest = seen;
    while let Some(first) = rest.first() {
        let (batch, after) = rest.split_at(first.len as usize);
        for (position, item) in (0..).zip(batch) {
            let same_batch = (item.worker, item.batch, item.len) == (first.worker, first.batch, first.len);
            assert!(same_batch && item.position == position, "{item:?} does not follow {first:?}");
        }
        sizes.push(batch.len());
        rest = after;
    }
    sizes
}
