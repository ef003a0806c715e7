//! A worker that keeps an item for a later call.

use ringmill::worker::Item;
use ringmill::{Batch, BatchWorker, BoxError, Context};

struct Keeper {
    kept: Vec<Item<'static, Keeper>>,
}

impl BatchWorker for Keeper {
    type Config = ();
    type In = u32;
    type Out = u32;

    fn new((): (), _: &Context) -> Result<Self, BoxError> {
        Ok(Self { kept: Vec::new() })
    }

    fn call(&mut self, batch: Batch<'_, Self>) -> Result<(), BoxError> {
        self.kept.extend(batch);
        Ok(())
    }
}

fn main() {}
