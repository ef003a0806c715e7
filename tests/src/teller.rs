//! Workers that emit partials.

use crate::gate::stop_at;
use ringmill::rkyv::{Archive, Deserialize, Serialize};
use ringmill::{Batch, BatchWorker, BoxError, Context};

/// What a teller is to do.
#[derive(Debug, Clone, Archive, Serialize, Deserialize)]
pub struct Task {
    /// How many partials to emit: 0, 1, 2, …
    pub partials: u32,
    /// And what then.
    pub then: Then,
}

/// What a teller does when it has emitted its partials.
#[derive(Debug, Clone, Archive, Serialize, Deserialize)]
pub enum Then {
    /// The number of partials that were emitted.
    Answer,
    /// An error.
    Fail,
    /// The worker's process dies.
    Die,
    /// The worker's process dies, unless it has been restarted.
    DieOnce,
    /// One partial of a type that no caller asks for, and then one more number.
    Text,
    /// A partial that is too large.
    Large,
}

/// Emits numbers. Before its first, and with the error of an emission, it stops at a gate, if it has one.
#[derive(Debug)]
pub struct Teller {
    gate: String,
    was_restarted: bool,
}

impl BatchWorker for Teller {
    type Config = String;
    type In = Task;
    type Out = u32;

    fn new(gate: String, context: &Context) -> Result<Self, BoxError> {
        Ok(Self { gate, was_restarted: context.restarts() > 0 })
    }

    fn call(&mut self, batch: Batch<'_, Self>) -> Result<(), BoxError> {
        for item in batch {
            if !self.gate.is_empty() {
                stop_at(&self.gate, "tells");
            }
            let emitted = (0..item.input().partials.to_native()).try_for_each(|number| item.emit(&number));
            if let Err(error) = &emitted
                && !self.gate.is_empty()
            {
                stop_at(&self.gate, &error.to_string());
            }
            let count = item.input().partials.to_native();
            match (emitted, &item.input().then) {
                (Err(error), _) => item.fail(error),
                (Ok(()), ArchivedThen::Answer) => item.reply(count),
                (Ok(()), ArchivedThen::Fail) => item.fail(BoxError::msg("on purpose")),
                (Ok(()), ArchivedThen::Die) => std::process::abort(),
                (Ok(()), ArchivedThen::DieOnce) if !self.was_restarted => std::process::abort(),
                (Ok(()), ArchivedThen::DieOnce) => item.reply(count),
                (Ok(()), ArchivedThen::Text) => {
                    item.emit(&String::from("no number"))?;
                    item.emit(&count)?;
                    item.reply(count + 1);
                }
                (Ok(()), ArchivedThen::Large) => {
                    let error = item.emit(&vec![7_u32; 100]).expect_err("it is too large");
                    item.fail(error);
                }
            }
        }
        Ok(())
    }
}

/// What a teller is to do.
#[must_use]
pub fn task(partials: u32, then: Then) -> Task {
    Task { partials, then }
}
