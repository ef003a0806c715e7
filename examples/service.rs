//! Shows a service with an `async main`: the executor goes on while workers load, tasks own what they use of the server,
//! and the end is in order.
//!
//! ```sh
//! cargo run --release --example service
//! ```

use futures_util::{StreamExt, future::join_all, stream};
use ringmill::call::Pending;
use ringmill::{Batch, BatchWorker, BoxError, CallError, Context, Handle, ProcessServlet, Server};
use std::time::Duration;

/// Says which part of a text is vowels, with a model that takes a while to load.
struct Score {
    vowels: String,
}

impl BatchWorker for Score {
    type Config = String;
    type In = String;
    type Out = f64;

    fn new(vowels: String, _: &Context) -> Result<Self, BoxError> {
        std::thread::sleep(Duration::from_millis(200)); // stands for the loading
        Ok(Self { vowels })
    }

    fn call(&mut self, batch: Batch<'_, Self>) -> Result<(), BoxError> {
        let is_vowel = |letter: &char| self.vowels.contains(*letter);
        let score = |text: &str| text.chars().filter(is_vowel).count() as f64 / text.chars().count() as f64;
        let scores: Vec<f64> = batch.inputs().map(|text| score(text)).collect();
        batch.reply_all(scores)
    }
}

/// What each task of the service has: axum would clone it for each request.
#[derive(Clone)]
struct App {
    scores: Handle<String, f64>,
}

/// A request that its task does not wait for yet.
struct Job {
    text: &'static str,
    pending: Pending<'static, f64>,
}

async fn answer(app: App, text: String) -> Result<f64, CallError> {
    Ok(app.scores.call_async(text).await?.to_native())
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), BoxError> {
    ringmill::init!(Score);

    // The executor has one thread, which is free while the workers load.
    let start = Server::builder("service")
        .capacity(1024)
        .on_progress(|progress| println!("start: {progress}"))
        .start_async(ProcessServlet::<Score>::new("aeiou".into()).cpus(2).batch_size(64));
    let health = async { "loading" };
    let (server, health) = tokio::join!(start, health);
    println!("asked for its health meanwhile: {health}");
    let server = server?; // `main` keeps the server, and says when it ends

    let app = App { scores: server.handle() };
    let requests =
        (0..1000).map(|number| tokio::spawn(answer(app.clone(), "a".repeat(number % 7 + 1) + "bcd")));
    for (number, score) in join_all(requests).await.into_iter().enumerate() {
        let vowels = (number % 7 + 1) as f64;
        assert_eq!(score??, vowels / (vowels + 3.0));
    }
    println!("1000 tasks have their answers, in {} batches", app.scores.stats().servlets[0].batches().count);

    let submit = |text| app.scores.submit_ref(text).map(|pending| Job { text, pending });
    let jobs = ["aloud", "thought", "rhythm"].into_iter().map(submit).collect::<Result<Vec<_>, _>>()?;
    for Job { text, pending } in jobs {
        println!("{text}: {:.2}", pending.await?.to_native());
    }

    // A task of its own reads a stream, whose outcomes come as they are ready, with their inputs.
    let words = stream::iter(["queue", "tree"].map(String::from));
    let scores = app.scores.stream_async(words).with_inputs().unordered();
    for item in tokio::spawn(scores.collect::<Vec<_>>()).await? {
        let (word, score) = item?;
        println!("{word}: {:.2}", score?);
    }

    // Blocks until the workers have left; handles do not keep them.
    tokio::task::spawn_blocking(move || drop(server)).await?;
    match answer(app, "late".into()).await {
        Err(CallError::ShuttingDown) => println!("a late task is told: {}", CallError::ShuttingDown),
        other => return Err(BoxError::msg(format!("the server is gone, and yet: {other:?}"))),
    }
    Ok(())
}
