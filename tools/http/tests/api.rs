//! The API as its clients see it, over real connections: values, errors, streams, limits, health, and its end.

use axum::Router;
use ringmill::{
    Batch, BatchWorker, BoxError, CallError, Context, PassThrough, Restarts, Server, ThreadServlet,
};
use ringmill_http::{Api, ApiError, axum};
use ringmill_tests::gate::{Gate, stop_at};
use ringmill_tests::{GUARD, fresh_name, wait_until};
use serde_json::{Value, json};
use std::future::Future;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// Does as its input says.
struct Clerk {
    gate: String,
}

impl BatchWorker for Clerk {
    type Config = String;
    type In = String;
    type Out = u64;

    fn new(gate: String, _: &Context) -> Result<Self, BoxError> {
        Ok(Self { gate })
    }

    fn call(&mut self, batch: Batch<'_, Self>) -> Result<(), BoxError> {
        for item in batch {
            let text = item.input().to_string();
            match text.as_str() {
                "wait" => stop_at(&self.gate, "waits"),
                "panic" => panic!("a secret of the service"),
                _ => {}
            }
            match text.split(' ').try_for_each(|word| item.emit(&word.to_owned())) {
                Err(error) => item.fail(error),
                Ok(()) if text == "wrong" => item.fail(BoxError::msg("this input is wrong").invalid()),
                Ok(()) if text == "fail" => item.fail(BoxError::msg("a secret of the service")),
                Ok(()) => item.reply(text.len() as u64),
            }
        }
        Ok(())
    }
}

/// A server whose worker is a thread, and a gate at which it waits.
fn clerk(capacity: usize) -> (Server<String, u64>, Gate) {
    let gate = Gate::new();
    let servlet = ThreadServlet::<Clerk>::new(gate.name()).name("clerk").restarts(Restarts::default());
    let builder = Server::anonymous(fresh_name("http")).capacity(capacity).partials(16).handle_signals(false);
    (builder.start(servlet).expect("it starts"), gate)
}

fn run<T>(body: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.expect("a runtime").block_on(async { tokio::time::timeout(GUARD, body).await.expect("it ends") })
}

/// The address at which the API is served, until the runtime ends.
async fn serve(api: Api) -> String {
    let routes: Router = api.router().expect("names of paths");
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address").to_string();
    tokio::spawn(async move { axum::serve(listener, routes).await });
    address
}

/// A response: status, head in lower case, body.
#[derive(Debug)]
struct Seen {
    status: u16,
    head: String,
    body: String,
}

impl Seen {
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// It is a problem of this status and kind; its detail.
    #[track_caller]
    fn problem(&self, status: u16, kind: &str) -> String {
        assert_eq!(self.status, status, "{self:?}");
        assert!(self.head.contains("content-type: application/problem+json"), "{self:?}");
        let problem = self.json();
        assert_eq!((&problem["status"], &problem["kind"]), (&json!(status), &json!(kind)));
        problem["detail"].as_str().expect("a text").to_owned()
    }
}

/// Sends a request, with `Connection: close`, and reads the whole response. HTTP/1.0, so that no body is in chunks.
async fn ask(address: &str, method_and_path: &str, headers: &str, body: &[u8]) -> Seen {
    let mut stream = begin(address, method_and_path, headers, body.len(), body).await;
    finish(&mut stream).await
}

/// Sends the head of a request with a body of that length, and this part of it.
async fn begin(address: &str, method_and_path: &str, headers: &str, length: usize, part: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.expect("it listens");
    let head = format!("{method_and_path} HTTP/1.0\r\nContent-Length: {length}\r\n{headers}\r\n");
    stream.write_all(head.as_bytes()).await.expect("it takes the head");
    let _ = stream.write_all(part).await; // it may be refused before all is sent
    stream
}

async fn finish(stream: &mut TcpStream) -> Seen {
    let mut response = Vec::new();
    let _ = stream.read_to_end(&mut response).await; // reset, where it has not read the whole request
    let response = String::from_utf8(response).expect("text");
    let (head, body) = response.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no response: {response:?}"));
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
    Seen { status, head: head.to_lowercase(), body: body.to_owned() }
}

const JSON: &str = "Content-Type: application/json\r\n";

/// The value of a metric.
async fn metric(address: &str, sample: &str) -> Option<f64> {
    let metrics = ask(address, "GET /metrics", "", b"").await.body;
    metrics.lines().find_map(|line| line.strip_prefix(sample)?.trim().parse().ok())
}

#[test]
fn json_is_answered_with_json() {
    let (server, _gate) = clerk(8);
    run(async {
        let address = serve(Api::new().json("clerk", server.handle())).await;
        let seen = ask(&address, "POST /v1/clerk", JSON, br#""four""#).await;
        assert_eq!((seen.status, seen.body.as_str()), (200, "4"));
        assert!(seen.head.contains("content-type: application/json"), "{seen:?}");
        let charset = "Content-Type: application/json; charset=utf-8\r\n";
        assert_eq!(ask(&address, "POST /v1/clerk", charset, br#""seven77""#).await.body, "7");
    });
}

#[test]
fn bytes_and_texts_are_answered_as_they_are() {
    let bytes = Server::anonymous(fresh_name("bytes")).start(ThreadServlet::<PassThrough<Vec<u8>>>::new(()));
    let texts = Server::anonymous(fresh_name("texts")).start(ThreadServlet::<PassThrough<String>>::new(()));
    let (bytes, texts) = (bytes.expect("it starts"), texts.expect("it starts"));
    run(async {
        let api = Api::new().bytes("bytes", bytes.handle()).bytes("texts", texts.handle());
        let address = serve(api).await;
        let seen =
            ask(&address, "POST /v1/bytes", "Content-Type: application/octet-stream\r\n", b"\x01two").await;
        assert_eq!((seen.status, seen.body.as_bytes()), (200, &b"\x01two"[..]));
        assert!(seen.head.contains("content-type: application/octet-stream"), "{seen:?}");
        assert_eq!(ask(&address, "POST /v1/bytes", "", b"").await.status, 200, "an empty input is one");
        let text = "Content-Type: text/plain;charset=UTF-8\r\n";
        assert_eq!(ask(&address, "POST /v1/texts", text, "häh".as_bytes()).await.body, "häh");
        let detail = ask(&address, "POST /v1/texts", text, b"\xff").await.problem(400, "invalid");
        assert!(detail.starts_with("the body is not UTF-8"), "{detail}");
        ask(&address, "POST /v1/bytes", text, b"x").await.problem(415, "media_type");
    });
}

#[test]
fn bad_requests_are_told_apart() {
    let (server, gate) = clerk(8);
    run(async {
        let address = serve(Api::new().json("clerk", server.handle()).max_body(64)).await;
        let post = |headers, body| ask(&address, "POST /v1/clerk", headers, body);
        for body in [&b""[..], b"{", b"7", b"\"a\" \"b\"", b"\"\xff\"", &[b'['; 60]] {
            let detail = post(JSON, body).await.problem(400, "invalid");
            assert!(detail.starts_with("the body is no such JSON: "), "{detail}");
        }
        let plain = post("Content-Type: text/plain\r\n", b"\"a\"").await.problem(415, "media_type");
        assert!(plain.contains("application/json"), "{plain}");
        post("", b"\"a\"").await.problem(415, "media_type");
        let gzip = "Content-Type: application/json\r\nContent-Encoding: gzip\r\n";
        post(gzip, b"\"a\"").await.problem(415, "media_type");
        let long = format!("\"{}\"", "x".repeat(99));
        let detail = post(JSON, long.as_bytes()).await.problem(413, "too_large");
        assert!(detail.contains("more than 64 bytes"), "{detail}");
        // One that does not say how long it is is read up to the limit.
        let chunks =
            "POST /v1/clerk HTTP/1.1\r\nHost: x\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n";
        let mut stream = TcpStream::connect(&address).await.expect("it listens");
        let request = format!("{chunks}{JSON}\r\n40\r\n\"{}\r\n40\r\n{0}\"\r\n", "y".repeat(63));
        stream.write_all(request.as_bytes()).await.expect("it takes that");
        finish(&mut stream).await.problem_in_chunks(413);
        for timeout in ["-1", "soon", "1.5", "", "99999999999"] {
            let headers = format!("{JSON}Request-Timeout-Ms: {timeout}\r\n");
            ask(&address, "POST /v1/clerk", &headers, b"\"a\"").await.problem(400, "invalid");
        }
        ask(&address, "POST /v1/none", JSON, b"\"a\"").await.problem(404, "unknown");
        let seen = ask(&address, "GET /v1/clerk", "", b"").await;
        seen.problem(405, "method");
        assert!(seen.head.contains("allow: post"), "{seen:?}");
        let seen = ask(&address, "POST /readyz", "", b"").await;
        seen.problem(405, "method");
        assert!(seen.head.contains("allow: get, head"), "{seen:?}");
        assert_eq!(server.stats().requests.counters.answered, 0, "no worker has seen any of these");
        assert!(gate.arrival_if_any().is_none());
    });
}

impl Seen {
    /// A problem whose body may be in chunks.
    #[track_caller]
    fn problem_in_chunks(&self, status: u16) {
        assert_eq!(self.status, status, "{self:?}");
        assert!(self.head.contains("application/problem+json"), "{self:?}");
    }
}

#[test]
fn errors_of_calls_have_their_status_and_keep_the_services_secrets() {
    let (server, gate) = clerk(1);
    run(async {
        let address = serve(Api::new().json("clerk", server.handle())).await;
        let post = |headers: &'static str, body: &'static [u8]| {
            let address = address.clone();
            async move { ask(&address, "POST /v1/clerk", headers, body).await }
        };
        assert_eq!(post(JSON, b"\"wrong\"").await.problem(400, "invalid"), "this input is wrong");
        for body in [&b"\"fail\""[..], b"\"panic\""] {
            assert_eq!(post(JSON, body).await.problem(500, "worker"), "the worker failed");
        }
        const PAST: &str = "Content-Type: application/json\r\nRequest-Timeout-Ms: 0\r\n";
        post(PAST, b"\"late\"").await.problem(504, "timeout");

        let first = tokio::spawn(post(JSON, b"\"wait\""));
        let held = tokio::task::spawn_blocking(move || (gate.arrival(), gate)).await.expect("no panic");
        let full = post(JSON, b"\"more\"").await;
        full.problem(429, "rejected");
        assert!(full.head.contains("retry-after: 1"), "{full:?}");
        let (arrival, gate) = held;
        arrival.release();
        assert_eq!(first.await.expect("no panic").body, "4");

        const SHORT: &str = "Content-Type: application/json\r\nRequest-Timeout-Ms: 20\r\n";
        post(SHORT, b"\"wait\"").await.problem(504, "timeout");
        drop(gate); // it is open from now on
        wait_until("the permit is free", || server.backlog() == 0);

        server.drain_servlet("clerk", GUARD).expect("it is empty");
        let drained = post(JSON, b"\"x\"").await;
        drained.problem(503, "unavailable");
        assert!(drained.head.contains("retry-after: 1"), "{drained:?}");
        let status =
            |status: u16| format!("ringmill_http_requests_total{{servlet=\"clerk\",status=\"{status}\"}} ");
        for (code, count) in [(200, 1.0), (400, 1.0), (429, 1.0), (500, 2.0), (503, 1.0), (504, 2.0)] {
            assert_eq!(metric(&address, &status(code)).await, Some(count), "{code}");
        }
    });
}

#[test]
fn a_stream_of_lines_is_answered_line_by_line() {
    let (server, _gate) = clerk(4);
    run(async {
        let address = serve(Api::new().json("clerk", server.handle()).max_body(64)).await;
        let lines = "Content-Type: application/x-ndjson\r\n";
        let many: String = (0..200).map(|n| format!("\"{}\"\n", "x".repeat(n % 50))).collect();
        let seen = ask(&address, "POST /v1/clerk", lines, many.as_bytes()).await;
        let expected: String = (0..200).map(|n| format!("{{\"value\":{}}}\n", n % 50)).collect();
        assert_eq!((seen.status, seen.body), (200, expected), "in order, beyond the capacity");
        let seen = ask(&address, "POST /v1/clerk", lines, b"\"a\"\n\"wrong\"\n\"bb\"\n17\n\"c\"\n").await;
        let said: Vec<Value> =
            seen.body.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
        assert_eq!(said.len(), 4, "{seen:?}");
        assert_eq!((&said[0]["value"], &said[2]["value"]), (&json!(1), &json!(2)));
        assert_eq!(said[1]["error"]["detail"], json!("this input is wrong"));
        assert_eq!(said[3]["error"]["kind"], json!("invalid"));
        assert!(said[3]["error"]["detail"].as_str().expect("a text").starts_with("line 4: "), "{seen:?}");
    });
}

#[test]
fn partials_come_as_lines_or_as_events() {
    let (server, _gate) = clerk(4);
    run(async {
        let address = serve(Api::new().partials::<_, String, _>("clerk", server.handle())).await;
        let seen = ask(&address, "POST /v1/clerk", JSON, br#""one two""#).await;
        assert_eq!(seen.body, "{\"partial\":\"one\"}\n{\"partial\":\"two\"}\n{\"value\":7}\n");
        let events = format!("{JSON}Accept: text/event-stream\r\n");
        let seen = ask(&address, "POST /v1/clerk", &events, br#""one two""#).await;
        assert!(seen.head.contains("content-type: text/event-stream"), "{seen:?}");
        assert_eq!(
            seen.body,
            "event: partial\ndata: \"one\"\n\nevent: partial\ndata: \"two\"\n\nevent: value\ndata: 7\n\n"
        );
        let seen = ask(&address, "POST /v1/clerk", JSON, br#""wrong""#).await;
        assert!(seen.body.contains("{\"error\":{") && seen.body.contains("this input is wrong"), "{seen:?}");
        ask(&address, "POST /v1/clerk", JSON, b"7").await.problem(400, "invalid");
    });
}

#[test]
fn a_body_that_does_not_come_is_given_up() {
    let (server, _gate) = clerk(4);
    run(async {
        let api = Api::new().json("clerk", server.handle()).body_timeout(Duration::from_millis(50));
        let address = serve(api).await;
        let mut slow = begin(&address, "POST /v1/clerk", JSON, 9, b"\"sl").await;
        finish(&mut slow).await.problem(408, "slow");
        let lines = "Content-Type: application/x-ndjson\r\n";
        let mut slow = begin(&address, "POST /v1/clerk", lines, 99, b"\"a\"\n\"sl").await;
        let seen = finish(&mut slow).await;
        assert!(seen.body.starts_with("{\"value\":1}\n{\"error\":{"), "{seen:?}");
        assert!(seen.body.contains("\"kind\":\"slow\""), "{seen:?}");
        assert_eq!(server.backlog(), 0);
    });
}

#[test]
fn a_client_that_hangs_up_cancels_its_request() {
    let (server, gate) = clerk(4);
    run(async {
        let address = serve(Api::new().json("clerk", server.handle())).await;
        let held = begin(&address, "POST /v1/clerk", JSON, 6, b"\"wait\"").await;
        let (arrival, gate) =
            tokio::task::spawn_blocking(move || (gate.arrival(), gate)).await.expect("no panic");
        let waits = begin(&address, "POST /v1/clerk", JSON, 3, b"\"a\"").await;
        while server.backlog() < 2 {
            tokio::task::yield_now().await;
        }
        drop((held, waits));
        let gone = "ringmill_http_requests_total{servlet=\"clerk\",status=\"499\"} ";
        while metric(&address, gone).await != Some(2.0) {
            tokio::task::yield_now().await;
        }
        arrival.release();
        drop(gate);
        while server.backlog() > 0 {
            tokio::task::yield_now().await;
        }
        assert_eq!(server.stats().servlets[0].total().skipped, 1, "no worker has begun the second");
    });
}

#[test]
fn health_tells_the_truth() {
    let (server, _gate) = clerk(4);
    run(async {
        let address = serve(Api::new().json("clerk", server.handle())).await;
        let get = |path: &'static str| ask(&address, path, "", b"");
        assert_eq!(get("GET /livez").await.status, 200);
        assert_eq!(get("GET /readyz").await.status, 200);
        assert_eq!(get("HEAD /readyz").await.status, 200);
        server.drain_servlet("clerk", GUARD).expect("it is empty");
        let detail = get("GET /readyz").await.problem(503, "unavailable");
        assert!(detail.contains("servlet clerk is drained"), "{detail}");
        server.resume_servlet("clerk").expect("it is drained");
        assert_eq!(get("GET /readyz").await.status, 200);
        server.drain(GUARD).expect("none is in progress");
        get("GET /readyz").await.problem(503, "unavailable");
        assert_eq!(get("GET /livez").await.status, 200, "it lives");
        assert!(matches!(server.call_ref("x"), Err(CallError::ShuttingDown)));
    });
}

#[test]
fn a_trace_context_goes_in_and_comes_out() {
    let (server, _gate) = clerk(4);
    run(async {
        let address = serve(Api::new().json("clerk", server.handle())).await;
        let trace = "0af7651916cd43dd8448eb211c80319c";
        let headers = format!("{JSON}traceparent: 00-{trace}-b7ad6b7169203331-01\r\n");
        let seen = ask(&address, "POST /v1/clerk", &headers, b"\"a\"").await;
        let back =
            seen.head.split("traceresponse: ").nth(1).expect("the header").lines().next().expect("a value");
        let fields: Vec<&str> = back.split('-').collect();
        assert_eq!((fields[0], fields[1], fields[3]), ("00", trace, "01"));
        assert_ne!(fields[2], "b7ad6b7169203331", "the span of the API is another one");
        let number = u128::from_str_radix(trace, 16).expect("a number");
        let found = server.traces().find(|found| found.trace_id == number).expect("it was traced");
        let parent = u64::from_str_radix(fields[2], 16).expect("a number");
        assert_eq!(found.parent_id, Some(parent), "the call is the API's child");
        let invalid = format!("{JSON}traceparent: 00-nonsense\r\n");
        let seen = ask(&address, "POST /v1/clerk", &invalid, b"\"a\"").await;
        assert!(seen.status == 200 && !seen.head.contains("traceresponse"), "{seen:?}");
    });
}

#[test]
fn metrics_and_description_are_there() {
    let (server, _gate) = clerk(4);
    run(async {
        let api = Api::new().title("office").json("clerk", server.handle());
        let api = api.partials::<_, String, _>("told", server.handle());
        let address = serve(api).await;
        let seen = ask(&address, "GET /metrics", "", b"").await;
        assert!(seen.head.contains("content-type: text/plain; version=0.0.4"), "{seen:?}");
        assert_eq!(seen.body.matches("# TYPE ringmill_requests_total counter").count(), 1, "{seen:?}");
        assert_eq!(
            seen.body.matches("ringmill_server_deaths_total{").count(),
            1,
            "one server, under two names"
        );
        let open = "Accept: application/openmetrics-text; version=1.0.0\r\n";
        let seen = ask(&address, "GET /metrics", open, b"").await;
        assert!(
            seen.head.contains("application/openmetrics-text") && seen.body.ends_with("# EOF\n"),
            "{seen:?}"
        );
        let document = ask(&address, "GET /openapi.json", "", b"").await.json();
        assert_eq!((&document["openapi"], &document["info"]["title"]), (&json!("3.1.0"), &json!("office")));
        let post = &document["paths"]["/v1/clerk"]["post"];
        assert_eq!(post["requestBody"]["content"]["application/json"]["schema"]["type"], json!("string"));
        assert_eq!(
            post["responses"]["200"]["content"]["application/json"]["schema"]["type"],
            json!("integer")
        );
        assert!(
            document["paths"]["/v1/told"]["post"]["responses"]["200"]["content"]["text/event-stream"]
                .is_object()
        );
    });
}

#[test]
fn names_that_no_path_has_are_refused() {
    let (server, _gate) = clerk(4);
    for name in ["", "a/b", "{x}", ".hidden", "ä", &"x".repeat(56)] {
        let error = Api::new().json(name, server.handle()).router().expect_err(name);
        assert_eq!(error, ApiError::Name { name: name.into() });
    }
    let twice = Api::new().json("a", server.handle()).json("a", server.handle()).router();
    assert_eq!(twice.expect_err("two of one name"), ApiError::NameTwice { name: "a".into() });
}
