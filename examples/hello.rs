//! The shortest useful program: two worker processes that take text in batches.

use ringmill::{Batch, BatchWorker, BoxError, Context, ProcessServlet, Server};

struct Shout;

impl BatchWorker for Shout {
    type Config = (); // what each worker is built from
    type In = String;
    type Out = String;

    fn new((): (), _: &Context) -> Result<Self, BoxError> {
        Ok(Self)
    }

    fn call(&mut self, batch: Batch<'_, Self>) -> Result<(), BoxError> {
        let loud: Vec<_> = batch.inputs().map(|t| t.to_uppercase()).collect();
        batch.reply_all(loud)
    }
}

fn main() -> Result<(), BoxError> {
    ringmill::init!(Shout); // in a worker's process: be that worker

    let servlet = ProcessServlet::<Shout>::new(()).cpus(2).batch_size(64);
    let server = Server::builder("hello").capacity(1024).start(servlet)?;

    println!("{}", server.call_ref("one request")?.as_str());

    let words = (0..100_000).map(|i| format!("word {i}"));
    let last = server.stream(words).last().expect("not empty")?;
    let stats = server.stats().servlets[0].batches();
    println!("{last}, the last of {} in {} batches", stats.items, stats.count);
    Ok(())
}
