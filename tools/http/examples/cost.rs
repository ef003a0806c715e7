//! What the API costs beside a handler of axum that sends its body back: time of a request and requests a second, in turn and in one
//! run.
//!
//! ```sh
//! cargo run --release -p ringmill-http --example cost
//! ```
//!
//! `bare` is axum alone. `call` is a handler of axum that calls a worker's process and does nothing else. `bytes` and `json` are the
//! API, with the same worker behind it. Clients and service share this machine, over loopback.

use axum::body::Bytes;
use axum::extract::State;
use axum::routing::post;
use ringmill::{BoxError, CallError, Handle, PassThrough, ProcessServlet, Server};
use ringmill_http::{Api, axum};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// What is sent, and comes back: 64 numbers of JSON.
const BODY: &str = "[1,2,3,4,5,6,7,8,1,2,3,4,5,6,7,8,1,2,3,4,5,6,7,8,1,2,3,4,5,6,7,8,1,2,3,4,5,6,7,8,1,2,3,4,5,6,7,8,1,2,3,4,5,6,7,8,1,2,3,4,5,6,7,8]";
const ROUNDS: usize = 7;
const ROUND: Duration = Duration::from_millis(700);
const PATHS: [(&str, &str); 4] = [
    ("/bare", "application/octet-stream"),
    ("/call", "application/octet-stream"),
    ("/v1/bytes", "application/octet-stream"),
    ("/v1/json", "application/json"),
];

async fn call(State(echo): State<Handle<Vec<u8>, Vec<u8>>>, body: Bytes) -> Result<Vec<u8>, String> {
    let reply = echo.call_async(&body[..]).await.map_err(|error: CallError| error.to_string())?;
    Ok(reply.to_vec())
}

/// Sends requests over one connection for a while; their times in nanoseconds.
async fn client(address: String, path: &'static str, media_type: &'static str) -> std::io::Result<Vec<u64>> {
    let mut stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: {media_type}\r\nContent-Length: {}",
        BODY.len()
    );
    let request = format!("{head}\r\n\r\n{BODY}");
    let (begun, mut times, mut response) = (Instant::now(), Vec::new(), Vec::new());
    while begun.elapsed() < ROUND {
        let sent = Instant::now();
        stream.write_all(request.as_bytes()).await?;
        response.clear();
        while !response.ends_with(BODY.as_bytes()) {
            if stream.read_buf(&mut response).await? == 0 {
                return Err(std::io::Error::other(String::from_utf8_lossy(&response).into_owned()));
            }
        }
        times.push(u64::try_from(sent.elapsed().as_nanos()).unwrap_or(u64::MAX));
    }
    Ok(times)
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    ringmill::init!(PassThrough<Vec<u8>>);
    let servlet = ProcessServlet::<PassThrough<Vec<u8>>>::new(())
        .cpus(1)
        .batch_size(64)
        .batch_wait_time(Duration::ZERO);
    let server = Server::anonymous("cost").capacity(256).start_async(servlet).await?;
    let api = Api::new().bytes("bytes", server.handle()).json("json", server.handle());
    let app = axum::Router::new()
        .route("/bare", post(async |body: Bytes| body))
        .route("/call", post(call).with_state(server.handle()))
        .merge(api.router()?);
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?.to_string();
    tokio::spawn(async move { axum::serve(listener, app).await });

    for connections in [1, 32] {
        let mut rounds: [Vec<(f64, f64)>; PATHS.len()] = Default::default();
        for round in 0..=ROUNDS {
            for (index, (path, media_type)) in PATHS.into_iter().enumerate() {
                let clients: Vec<_> = (0..connections)
                    .map(|_| tokio::spawn(client(address.clone(), path, media_type)))
                    .collect();
                let mut times = Vec::new();
                for client in clients {
                    times.extend(client.await??.into_iter().map(|ns| ns as f64 / 1e3));
                }
                let rate = times.len() as f64 / ROUND.as_secs_f64();
                if round > 0 {
                    rounds[index].push((median(times), rate)); // the first one warms up
                }
            }
        }
        println!("{connections} connections");
        for ((path, _), seen) in PATHS.into_iter().zip(&rounds) {
            let time = median(seen.iter().map(|(time, _)| *time).collect());
            let more = median(seen.iter().zip(&rounds[0]).map(|(this, bare)| this.0 - bare.0).collect());
            let rate = median(seen.iter().map(|(_, rate)| *rate).collect());
            let part =
                median(seen.iter().zip(&rounds[0]).map(|(this, bare)| 100.0 * this.1 / bare.1).collect());
            println!("{path:>10}: median {time:6.1} us ({more:+6.1}), {rate:7.0} requests/s ({part:5.1} %)");
        }
    }
    Ok(())
}
