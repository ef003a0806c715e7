//! An HTTP service by axum: requests become calls of workers, kinds of errors become status codes, partials become
//! server-sent events; SIGTERM ends it in order, a second one at once.
//!
//! ```sh
//! cargo run --release -p http-service
//! curl --data 'how long is each word' localhost:8080/longest
//! curl --no-buffer --data 'how long is each word' localhost:8080/lengths
//! curl localhost:8080/readyz
//! ```

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::sse::{Event, Sse};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use futures_util::{Stream, StreamExt, stream};
use ringmill::error::ErrorKind;
use ringmill::{Batch, BatchWorker, BoxError, CallError, Context, Handle, ProcessServlet, Server};
use std::convert::Infallible;
use std::future::IntoFuture;
use std::io::Write;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

/// How long responses that have begun may take after the first signal.
const GRACE: Duration = Duration::from_secs(10);

/// Measures the words of a text: emits the length of each, and answers with the largest.
struct Measure;

impl BatchWorker for Measure {
    type Config = ();
    type In = String;
    type Out = u64;

    fn new((): (), _: &Context) -> Result<Self, BoxError> {
        Ok(Self)
    }

    fn call(&mut self, batch: Batch<'_, Self>) -> Result<(), BoxError> {
        for item in batch {
            let mut lengths = Vec::new();
            let emitted = item.input().split_whitespace().try_for_each(|word| {
                std::thread::sleep(Duration::from_millis(10)); // stands for work
                lengths.push(word.chars().count() as u64);
                item.emit(lengths.last().expect("a length"))
            });
            match (emitted, lengths.iter().max()) {
                (Ok(()), Some(&longest)) => item.reply(longest),
                (Ok(()), None) => item.fail(BoxError::msg("there is no word in the text").invalid()),
                (Err(error), _) => item.fail(error), // its client has gone
            }
        }
        Ok(())
    }
}

type Words = Handle<String, u64>;

/// An error as its client sees it: with what concerns the client, and no more.
struct Refusal(CallError);

impl Refusal {
    fn text(&self) -> String {
        match (self.0.kind(), self.0.remote_error()) {
            (ErrorKind::Invalid, Some(error)) => error.cause.to_string(),
            (ErrorKind::Worker | ErrorKind::Internal, _) => {
                let _ = writeln!(std::io::stderr(), "{:#}", self.0); // where it is closed, `eprintln!` would panic
                "the service failed".to_owned()
            }
            _ => self.0.to_string(),
        }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let status = match self.0.kind() {
            ErrorKind::Rejected => StatusCode::TOO_MANY_REQUESTS,
            ErrorKind::Timeout => StatusCode::GATEWAY_TIMEOUT,
            ErrorKind::Invalid if matches!(self.0, CallError::PayloadTooLarge { .. }) => {
                StatusCode::PAYLOAD_TOO_LARGE
            }
            ErrorKind::Invalid => StatusCode::BAD_REQUEST,
            ErrorKind::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        (status, self.text() + "\n").into_response()
    }
}

/// If the client goes, axum drops the future, and that cancels the call.
async fn longest(State(words): State<Words>, text: String) -> Result<String, Refusal> {
    let longest = words.call_async(text).await.map_err(Refusal)?;
    Ok(format!("{}\n", longest.to_native()))
}

/// An event for each partial, then one for the outcome.
async fn lengths(
    State(words): State<Words>,
    text: String,
) -> Result<Sse<impl Stream<Item = Result<Event, Infallible>>>, Refusal> {
    let call = words.call_streaming::<u64>(&text).map_err(Refusal)?.into_async();
    let events = stream::unfold(Some(call), |call| async {
        let mut call = call?;
        let event = |name: &str, data: Result<u64, CallError>| match data {
            Ok(data) => Event::default().event(name).data(data.to_string()),
            Err(error) => Event::default().event("error").data(Refusal(error).text()),
        };
        match call.next().await {
            Some(length) => Some((Ok(event("length", length)), Some(call))),
            None => {
                let longest = call.outcome().await.map(|longest| longest.to_native());
                Some((Ok(event("longest", longest)), None))
            }
        }
    });
    Ok(Sse::new(events))
}

/// Whether each servlet has a worker that is ready.
async fn ready(State(words): State<Words>) -> (StatusCode, &'static str) {
    let is_up = |servlet: &ringmill::stats::ServletStats| servlet.workers.iter().any(|worker| worker.ready);
    match words.stats().servlets.iter().all(is_up) {
        true => (StatusCode::OK, "ready\n"),
        false => (StatusCode::SERVICE_UNAVAILABLE, "a servlet has no worker\n"),
    }
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    ringmill::init!(Measure);
    let address = std::env::args().nth(1).unwrap_or("127.0.0.1:8080".to_owned());
    let listener = tokio::net::TcpListener::bind(&address).await;
    let listener = listener.map_err(|error| BoxError::msg(format!("cannot listen on {address}: {error}")))?;
    let servlet = ProcessServlet::<Measure>::new(()).cpus(2).batch_size(16);
    let server = Server::builder("http-service").name_or_suffix().partials(16).start_async(servlet).await?;

    // From here on the signals are the runtime's: the server leaves them to it.
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let (tell, told) = watch::channel(false);
    tokio::spawn(async move {
        let mut next = async || tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} };
        next().await;
        println!("ends, once all responses are sent");
        tell.send_replace(true);
        next().await;
        std::process::exit(1); // the workers see it, and leave nothing
    });
    let is_told = || {
        let mut told = told.clone();
        async move { drop(told.wait_for(|told| *told).await) } // an error: the task has ended, with the runtime
    };
    let routes = Router::new()
        .route("/longest", post(longest))
        .route("/lengths", post(lengths))
        .route("/readyz", get(ready))
        .with_state(server.handle());
    println!("listens at {}", listener.local_addr()?);
    let serving = axum::serve(listener, routes).with_graceful_shutdown(is_told()).into_future();
    let limit = tokio::select! {
        served = serving => served.map(|()| GRACE)?, // all responses are sent
        () = async { is_told().await; tokio::time::sleep(GRACE).await } => Duration::ZERO, // a client is too slow
    };

    // Requests whose clients have gone may still be in progress.
    tokio::task::spawn_blocking(move || server.drain(limit)).await??;
    println!("drained");
    Ok(())
}
