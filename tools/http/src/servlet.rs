//! The requests of one name: from HTTP to a call, and back.

use crate::api::{Input, Outcome};
use crate::body::{self, Limits, media_type, unsupported};
use crate::lines::{self, Frame};
use crate::metrics::{Counted, Counts};
use crate::problem::Problem;
use crate::traced::Span;
use axum::body::{Body, Bytes};
use axum::http::header::{ACCEPT, CONTENT_TYPE};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, Request, Response};
use ringmill::{CallOptions, Handle, Payload};
use std::sync::Arc;
use std::time::{Duration, Instant};

pub(crate) const JSON: &str = "application/json";
pub(crate) const LINES: &str = "application/x-ndjson";
pub(crate) const EVENTS: &str = "text/event-stream";
/// The header by which a client says how long it waits.
pub(crate) const TIMEOUT: &str = "request-timeout-ms";

/// A payload whose bytes are a body as they are: `Vec<u8>` and `String`.
pub trait Raw: Payload + sealed::Sealed + Send + Sync {
    /// The media type of such bodies.
    const MEDIA_TYPE: &'static str;

    #[doc(hidden)]
    fn read(body: Bytes) -> Result<Self, String>;

    #[doc(hidden)]
    fn write(value: &Self::Archived) -> Bytes;
}

mod sealed {
    pub trait Sealed {}
    impl Sealed for Vec<u8> {}
    impl Sealed for String {}
}

impl Raw for Vec<u8> {
    const MEDIA_TYPE: &'static str = "application/octet-stream";

    fn read(body: Bytes) -> Result<Self, String> {
        Ok(body.into())
    }

    fn write(value: &Self::Archived) -> Bytes {
        Bytes::copy_from_slice(value)
    }
}

impl Raw for String {
    const MEDIA_TYPE: &'static str = "text/plain";

    fn read(body: Bytes) -> Result<Self, String> {
        Self::from_utf8(body.into()).map_err(|error| format!("the body is not UTF-8: {error}"))
    }

    fn write(value: &Self::Archived) -> Bytes {
        Bytes::copy_from_slice(value.as_bytes())
    }
}

/// What the requests of one name share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) name: String,
    pub(crate) limits: Limits,
    pub(crate) counts: Arc<Counts>,
}

/// A request under way.
pub(crate) struct Call {
    pub(crate) shared: Arc<Shared>,
    pub(crate) head: Parts,
    pub(crate) counted: Counted,
    span: Option<Span>,
    begun: Instant,
}

impl Call {
    pub(crate) fn begin(shared: &Arc<Shared>, request: Request<Body>) -> (Self, Body) {
        let (head, body) = request.into_parts();
        let (counted, span) = (shared.counts.begin(), Span::of(&head.headers));
        (Self { shared: Arc::clone(shared), head, counted, span, begun: Instant::now() }, body)
    }

    /// How long the client waits, within the limit of the API.
    pub(crate) fn timeout(&self) -> Result<Duration, Problem> {
        let limit = self.shared.limits.timeout;
        let Some(stated) = self.head.headers.get(TIMEOUT) else { return Ok(limit) };
        let number =
            stated.to_str().ok().filter(|text| text.len() <= 10 && text.bytes().all(|b| b.is_ascii_digit()));
        match number.and_then(|text| text.parse().ok()) {
            Some(ms) => Ok(Duration::from_millis(ms).min(limit)),
            None => Err(Problem::invalid("Request-Timeout-Ms is no whole number of 1 to 10 digits")),
        }
    }

    pub(crate) fn options(&self) -> Result<CallOptions, Problem> {
        let timeout = self.timeout()?;
        let mut options = CallOptions::new().timeout(timeout);
        if let Some(deadline) = self.begun.checked_add(timeout) {
            options = options.deadline(deadline);
        }
        Ok(match self.span {
            Some(span) => options.trace_context(span.context),
            None => options,
        })
    }

    /// Ends it with a whole response.
    pub(crate) fn end(self, outcome: Result<(&'static str, Bytes), Problem>) -> Response<Body> {
        self.end_with(outcome, Problem::into_response)
    }

    /// Ends it with a whole response, an error of which is written by `refuse`.
    pub(crate) fn end_with(
        self,
        outcome: Result<(&'static str, Bytes), Problem>,
        refuse: fn(Problem) -> Response<Body>,
    ) -> Response<Body> {
        let mut response = match outcome {
            Ok((media_type, bytes)) => ok(media_type, Body::from(bytes)),
            Err(problem) => refuse(problem),
        };
        self.trace(&mut response);
        self.counted.end(response.status());
        response
    }

    /// Begins a streamed response, which ends it.
    pub(crate) fn stream<S>(self, media_type: &'static str, frames: S) -> Response<Body>
    where
        S: futures_core::Stream<Item = Frame> + Send + 'static,
    {
        let mut response = Response::new(Body::empty());
        self.trace(&mut response);
        let body = lines::Lines::new(frames, media_type == EVENTS, self.counted);
        *response.body_mut() = Body::from_stream(body);
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(media_type));
        response
    }

    fn trace(&self, response: &mut Response<Body>) {
        if let Some(span) = self.span {
            let status = response.status().as_u16();
            span.end(&self.shared.name, status, response.headers_mut());
        }
    }
}

fn ok(media_type: &'static str, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(media_type));
    response
}

/// Whether the client prefers events: it names them, and not lines before them.
fn wants_events(headers: &HeaderMap) -> bool {
    let accept = headers.get(ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or_default();
    let named = accept.split(',').filter_map(|range| range.split(';').next()).map(str::trim);
    named.filter(|name| [EVENTS, LINES].contains(name)).take(1).any(|name| name == EVENTS)
}

fn is_json(media_type: Option<&str>) -> bool {
    media_type.is_some_and(|stated| {
        stated.eq_ignore_ascii_case(JSON) || stated.to_ascii_lowercase().ends_with("+json")
    })
}

pub(crate) fn from_json<In: Input>(bytes: &[u8]) -> Result<In, Problem> {
    serde_json::from_slice(bytes)
        .map_err(|error| Problem::invalid(format!("the body is no such JSON: {error}")))
}

fn to_json<Out: Outcome>(value: &Out) -> Result<Bytes, Problem> {
    let internal = |error: serde_json::Error| {
        tracing::error!(%error, "an outcome cannot be written as JSON");
        Problem::new(axum::http::StatusCode::INTERNAL_SERVER_ERROR, "internal", "the service failed")
    };
    serde_json::to_vec(value).map(Bytes::from).map_err(internal)
}

/// `POST` of [`Api::json`](crate::Api::json).
pub(crate) async fn json<In: Input, Out: Outcome>(
    shared: Arc<Shared>,
    handle: Handle<In, Out>,
    request: Request<Body>,
) -> Response<Body> {
    let (call, body) = Call::begin(&shared, request);
    let stated = match media_type(&call.head.headers) {
        Ok(stated) => stated,
        Err(problem) => return call.end(Err(problem)),
    };
    if stated.is_some_and(|stated| stated.eq_ignore_ascii_case(LINES)) {
        return lines::answer(call, handle, body);
    }
    let outcome = if is_json(stated) {
        json_outcome(&call, &handle, body).await
    } else {
        Err(unsupported(format!("the Content-Type must be {JSON}, or {LINES} for a stream")))
    };
    call.end(outcome.map(|bytes| (JSON, bytes)))
}

async fn json_outcome<In: Input, Out: Outcome>(
    call: &Call,
    handle: &Handle<In, Out>,
    body: Body,
) -> Result<Bytes, Problem> {
    let options = call.options()?;
    let input: In = from_json(&body::read(&call.head.headers, body, call.shared.limits).await?)?;
    let reply = handle.call_async_with(input, options).await;
    let value = reply.and_then(ringmill::Reply::into_owned);
    to_json(&value.map_err(|error| Problem::of(&call.shared.name, &error))?)
}

/// `POST` of [`Api::bytes`](crate::Api::bytes).
pub(crate) async fn bytes<In: Raw, Out: Raw>(
    shared: Arc<Shared>,
    handle: Handle<In, Out>,
    request: Request<Body>,
) -> Response<Body> {
    let (call, body) = Call::begin(&shared, request);
    let outcome = bytes_outcome(&call, &handle, body).await;
    call.end(outcome.map(|bytes| (Out::MEDIA_TYPE, bytes)))
}

async fn bytes_outcome<In: Raw, Out: Raw>(
    call: &Call,
    handle: &Handle<In, Out>,
    body: Body,
) -> Result<Bytes, Problem> {
    match media_type(&call.head.headers)? {
        Some(stated) if !stated.eq_ignore_ascii_case(In::MEDIA_TYPE) => {
            return Err(unsupported(format!("the Content-Type must be {}", In::MEDIA_TYPE)));
        }
        _ => {}
    }
    let options = call.options()?;
    let body = body::read(&call.head.headers, body, call.shared.limits).await?;
    let input = In::read(body).map_err(Problem::invalid)?;
    let reply = handle.call_async_with(input, options).await;
    let reply = reply.map_err(|error| Problem::of(&call.shared.name, &error))?;
    // A copy: the reply is a permit, and a client may take its time.
    Ok(Out::write(&reply))
}

/// `POST` of [`Api::partials`](crate::Api::partials).
pub(crate) async fn partials<In: Input, P: Outcome, Out: Outcome>(
    shared: Arc<Shared>,
    handle: Handle<In, Out>,
    request: Request<Body>,
) -> Response<Body> {
    let (call, body) = Call::begin(&shared, request);
    let begun = async {
        if !is_json(media_type(&call.head.headers)?) {
            return Err(unsupported(format!("the Content-Type must be {JSON}")));
        }
        let options = call.options()?;
        let input: In = from_json(&body::read(&call.head.headers, body, call.shared.limits).await?)?;
        let begun = handle.call_streaming_with::<P>(input, options);
        begun.map_err(|error| Problem::of(&call.shared.name, &error))
    };
    match begun.await {
        Err(problem) => call.end(Err(problem)),
        Ok(begun) => {
            let media_type = if wants_events(&call.head.headers) { EVENTS } else { LINES };
            let frames = lines::of_partials(call.shared.name.clone(), begun.into_async());
            call.stream(media_type, frames)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_sent_to_clients_that_name_them_first() {
        let wants = |accept: &str| {
            let headers = [(ACCEPT, HeaderValue::try_from(accept).expect("a header"))];
            wants_events(&headers.into_iter().collect())
        };
        assert!(wants("text/event-stream"));
        assert!(wants("text/html, text/event-stream;q=0.9, */*"));
        assert!(!wants("application/x-ndjson, text/event-stream"));
        assert!(!wants("*/*") && !wants(""));
    }
}
