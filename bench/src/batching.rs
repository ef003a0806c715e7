//! Contestants whose workers work on batches, and the device alone.

use crate::Error;
use crate::callers::{Caller, Callers, Stopwatch};
use crate::contestant::{Contestant, Notes};
use crate::device::Device;
use crate::open_loop::Answers;
use crate::pin::CpuPair;

/// How batches are made, and what they cost.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Items that a batch has at most.
    pub batch_size: usize,
    /// How long the oldest item of a batch that is not full may wait.
    pub batch_wait: std::time::Duration,
    /// Workers, all on the partner's CPU, each with a device of its own.
    pub workers: u32,
    /// The devices.
    pub device: Device,
    /// Items in progress at most.
    pub room: u32,
}

/// A contestant that can be measured with a piled-up queue, as a [`Contestant`], and with requests that arrive at random.
pub trait Batching: Contestant {
    /// Lets requests arrive, the one with number n at `due_ns[n]` from now.
    ///
    /// # Errors
    ///
    /// Those of the contestant's transport.
    fn offer(&mut self, due_ns: &[u64]) -> Result<Answers, Error>;
}

/// How many batches there were.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Batches {
    /// Batches.
    pub count: u64,
    /// Items in them.
    pub items: u64,
}

impl Batches {
    /// The figures of the batches from `self` to `now`; `self` becomes `now`.
    pub fn notes_until(&mut self, now: Self) -> Notes {
        let before = std::mem::replace(self, now);
        let (count, items) = (now.count - before.count, now.items - before.items);
        Notes { figures: vec![("mean_batch", items as f64 / count as f64)], ..Notes::default() }
    }
}

/// Threads that give their devices one full batch after the other without a queue: the limit for every contestant.
#[derive(Debug)]
pub struct Alone {
    threads: Callers,
}

const ALONE: &str = "device";

impl Alone {
    /// Starts the threads, on the partner's CPU.
    ///
    /// # Errors
    ///
    /// [`Error::Spawn`] or [`Error::Pin`] if the system refuses the threads or the CPU.
    pub fn start(plan: Plan, cpus: CpuPair) -> Result<Self, Error> {
        let feeders = (0..plan.workers).map(|_| Feeder { device: plan.device, batch_size: plan.batch_size });
        Ok(Self { threads: Callers::spawn(ALONE, cpus.partner, feeders)? })
    }
}

impl Contestant for Alone {
    fn name(&self) -> &'static str {
        ALONE
    }

    fn call(&mut self, items: u64) -> Result<(), Error> {
        self.stream(items, 1)
    }

    fn stream(&mut self, items: u64, window: u32) -> Result<(), Error> {
        self.threads.stream(items, window)
    }
}

struct Feeder {
    device: Device,
    batch_size: usize,
}

impl Caller for Feeder {
    fn stream(&mut self, items: u64, _: u32, _: &Stopwatch) -> Result<(), Error> {
        let device = self.device.open().map_err(Error::Device)?;
        let mut left = items as usize;
        while left > 0 {
            let batch = left.min(self.batch_size);
            device.work(batch);
            left -= batch;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn means_are_of_what_is_new() {
        let mut batches = Batches { count: 10, items: 100 };
        let notes = batches.notes_until(Batches { count: 14, items: 180 });
        assert_eq!(notes.figures, [("mean_batch", 20.0)]);
        assert_eq!(batches, Batches { count: 14, items: 180 });
    }
}
