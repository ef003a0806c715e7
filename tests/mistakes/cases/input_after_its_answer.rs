//! An input that is read after its item was answered: the answer lies in its place.

use ringmill::{Batch, BatchWorker, BoxError, Context};

struct Double;

impl BatchWorker for Double {
    type Config = ();
    type In = u32;
    type Out = u32;

    fn new((): (), _: &Context) -> Result<Self, BoxError> {
        Ok(Self)
    }

    fn call(&mut self, batch: Batch<'_, Self>) -> Result<(), BoxError> {
        for item in batch {
            let input = item.input();
            item.reply(2);
            println!("{input}");
        }
        Ok(())
    }
}

fn main() {}
