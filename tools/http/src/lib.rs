//! An HTTP API over [ringmill] servers: `POST /v1/NAME` for each, as JSON, as bytes, or as streams, with OpenAPI, health, metrics
//! and trace contexts; and the program around it, which listens, drains at SIGTERM and tells systemd.
//!
//! ```no_run
//! use ringmill::{BoxError, PassThrough, ProcessServlet, Server};
//! use ringmill_http::{Api, Serve};
//!
//! #[tokio::main]
//! async fn main() -> Result<(), BoxError> {
//!     ringmill::init!(PassThrough<Vec<u8>>);
//!     let server = Server::anonymous("echo").start_async(ProcessServlet::<PassThrough<Vec<u8>>>::new(())).await?;
//!     let api = Api::new().json("echo", server.handle()).bytes("raw", server.handle());
//!     let listener = tokio::net::TcpListener::bind("127.0.0.1:8080").await?;
//!     Serve::new(api).server(server).on(listener).await?;
//!     Ok(())
//! }
//! ```
//!
//! In a program that has an axum application of its own, [`Api::router`] is nested into it, and the program drains its servers
//! itself.
//!
//! # Requests
//!
//! | Added by | Takes | Gives |
//! |---|---|---|
//! | [`Api::json`] | `application/json` | `application/json` |
//! | | `application/x-ndjson`: an input a line | the same: an outcome a line, in order, while the body still comes |
//! | [`Api::bytes`] | `application/octet-stream` for a `Vec<u8>`, `text/plain` for a `String` | the same |
//! | [`Api::partials`] | `application/json` | partials as they are made, then the outcome: `application/x-ndjson`, or for `Accept: text/event-stream` events |
//! | [`Api::tensors`] | a tensor, at `POST /v2/models/NAME/infer` of the Open Inference Protocol | a tensor |
//!
//! A line of a stream is `{"value":…}`, `{"partial":…}` or `{"error":{…}}`, an event has one of these names. `Request-Timeout-Ms`
//! says how long the client waits, in whole milliseconds, up to [`Api::timeout`]; it is the [deadline](ringmill::CallOptions::deadline)
//! of the call, and 0 is one that has passed. `traceparent` goes to the workers, and a valid one is answered by `traceresponse`,
//! with the span of this API as the child.
//!
//! # Errors
//!
//! Each error is `application/problem+json` (RFC 9457) with `status`, `title`, `detail`, and a member `kind`:
//!
//! | Status | `kind` | When |
//! |---|---|---|
//! | 400 | `invalid` | the body or a header is malformed, or a worker says that the input is wrong ([`BoxError::invalid`](ringmill::BoxError::invalid)) |
//! | 404, 405 | `unknown`, `method` | no such path; not by this method |
//! | 408 | `slow` | the body did not come within [`Api::body_timeout`] |
//! | 413 | `too_large` | the body has more than [`Api::max_body`] bytes, or the input does not fit the server's largest payload |
//! | 415 | `media_type` | another `Content-Type`, or a `Content-Encoding` |
//! | 429 | `rejected` | the server is full; with `Retry-After` |
//! | 500 | `worker`, `internal` | the worker failed or died; this process is broken. The log has the reason, the client does not |
//! | 503 | `unavailable` | a servlet is down or drained, or the server drains; with `Retry-After` |
//! | 504 | `timeout` | no outcome in time |
//!
//! A client that hangs up cancels its request. Metrics have it under the status 499.
//!
//! # Health
//!
//! `/livez`: this process answers. `/readyz`: each servlet behind the API has a worker that is ready, and neither the program nor a
//! server drains ([`Server::readiness`](ringmill::Server::readiness)); else 503 with the reason. `/metrics`: all counters of the
//! servers, and `ringmill_http_*`, for Prometheus. `/openapi.json`: the API, as OpenAPI 3.1.

mod api;
mod body;
mod describe;
mod lines;
mod metrics;
mod problem;
mod serve;
mod servlet;
mod tensors;
mod traced;

pub use api::{Api, ApiError, Input, Outcome};
pub use serve::{Serve, ServeError};
pub use servlet::Raw;
pub use tensors::{Row, Tensor};
pub use {axum, schemars};

/// How many items of one body are in progress at a time, so that a body leaves permits to other callers.
fn window(capacity: usize) -> usize {
    (capacity / 4).max(1)
}
