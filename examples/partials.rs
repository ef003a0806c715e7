//! Shows an answer while it is being made: a worker emits each word, and the caller prints it at once.
//!
//! ```sh
//! cargo run --release --example partials
//! ```

use ringmill::{Batch, BatchWorker, BoxError, CallError, Context, ProcessServlet, Server};
use std::io::Write;
use std::time::Duration;

const ANSWER: &str = "A partial is there for its caller as soon as the worker has emitted it";
/// How long the worker thinks about a word.
const WORD: Duration = Duration::from_millis(15);

/// Answers each question with the same sentence, word by word; one question kills it.
struct Model;

impl BatchWorker for Model {
    type Config = ();
    type In = String;
    type Out = u64;

    fn new((): (), _: &Context) -> Result<Self, BoxError> {
        Ok(Self)
    }

    fn call(&mut self, batch: Batch<'_, Self>) -> Result<(), BoxError> {
        for item in batch {
            let mut words = 0;
            let emitted = ANSWER.split(' ').try_for_each(|word| {
                std::thread::sleep(WORD); // stands for the work of a word
                if words == 5 && item.input() == "and if you crash?" {
                    std::process::abort();
                }
                words += 1;
                item.emit(&word.to_string())
            });
            match emitted {
                Ok(()) => item.reply(words),
                Err(error) => item.fail(error), // its caller has gone: the next item's turn
            }
        }
        Ok(())
    }
}

fn ask(server: &Server<String, u64>, question: &str, most: usize) -> Result<(), BoxError> {
    print!("{question}\n ");
    let mut call = server.call_streaming::<String>(&question.into())?;
    for word in call.by_ref().take(most) {
        print!(" {}", word?);
        std::io::stdout().flush()?;
    }
    if most < usize::MAX {
        println!(" … the caller goes");
        return Ok(()); // dropping the call cancels it
    }
    match call.outcome() {
        Ok(words) => println!(": {words} words"),
        Err(CallError::WorkerDied(error)) => println!(" …\n  {error}"),
        Err(error) => return Err(error.into()),
    }
    Ok(())
}

fn main() -> Result<(), BoxError> {
    ringmill::init!(Model);
    // A caller may be 16 words behind; then the worker waits for it.
    let server = Server::builder("partials").partials(16).start(ProcessServlet::<Model>::new(()))?;
    ask(&server, "what is a partial?", usize::MAX)?;
    ask(&server, "and if I have heard enough?", 4)?;
    ask(&server, "and if you crash?", usize::MAX)?;
    ask(&server, "and after that?", usize::MAX)?;
    Ok(())
}
