//! Errors as clients see them: problem details of RFC 9457.

use axum::body::Body;
use axum::http::header::{ALLOW, CONNECTION, CONTENT_TYPE, RETRY_AFTER};
use axum::http::{HeaderName, HeaderValue, Response, StatusCode};
use ringmill::CallError;
use ringmill::error::ErrorKind;
use serde_json::{Value, json};

/// The media type of an error.
pub(crate) const PROBLEM: &str = "application/problem+json";

/// When a client may come again that was refused for want of room: in seconds. The server's permits come free within
/// milliseconds, but a whole second is the least that the header can say.
const RETRY_AFTER_S: &str = "1";

/// Why a request has no outcome.
#[derive(Debug)]
pub(crate) struct Problem {
    pub(crate) status: StatusCode,
    pub(crate) kind: &'static str,
    pub(crate) detail: String,
    header: Option<(HeaderName, HeaderValue)>,
}

impl Problem {
    pub(crate) fn new(status: StatusCode, kind: &'static str, detail: impl Into<String>) -> Self {
        Self { status, kind, detail: detail.into(), header: None }
    }

    pub(crate) fn invalid(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "invalid", detail)
    }

    pub(crate) fn too_large(limit: usize) -> Self {
        let detail = format!("the body has more than {limit} bytes, the most that is taken");
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", detail)
    }

    /// A method that a path does not have.
    pub(crate) fn method(allowed: &'static str) -> Self {
        let problem = Self::new(StatusCode::METHOD_NOT_ALLOWED, "method", format!("only {allowed}"));
        problem.with(ALLOW, allowed)
    }

    pub(crate) fn unavailable(detail: impl Into<String>) -> Self {
        let problem = Self::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", detail);
        problem.with(RETRY_AFTER, RETRY_AFTER_S)
    }

    /// A body that did not come in time. What is left of it cannot be told from a next request, so the connection ends.
    pub(crate) fn slow(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::REQUEST_TIMEOUT, "slow", detail).with(CONNECTION, "close")
    }

    /// What is broken here is told in the log.
    pub(crate) fn failed() -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", "the service failed")
    }

    fn with(mut self, name: HeaderName, value: &'static str) -> Self {
        self.header = Some((name, HeaderValue::from_static(value)));
        self
    }

    /// The error of a call: with what concerns its client, and no more. The rest is logged.
    pub(crate) fn of(servlet: &str, error: &CallError) -> Self {
        let detail = || error.to_string();
        match error.kind() {
            ErrorKind::Rejected => {
                let problem = Self::new(StatusCode::TOO_MANY_REQUESTS, "rejected", detail());
                problem.with(RETRY_AFTER, RETRY_AFTER_S)
            }
            ErrorKind::Timeout => Self::new(StatusCode::GATEWAY_TIMEOUT, "timeout", detail()),
            ErrorKind::Invalid if matches!(error, CallError::PayloadTooLarge { .. }) => {
                Self::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", detail())
            }
            ErrorKind::Invalid => match error.remote_error() {
                Some(remote) => Self::invalid(remote.cause.to_string()),
                None => Self::invalid(detail()),
            },
            ErrorKind::Unavailable => Self::unavailable(detail()),
            kind => {
                tracing::error!(servlet, %error, "a request failed");
                let detail = match kind {
                    ErrorKind::Worker => "the worker failed",
                    _ => "the service failed",
                };
                Self::new(StatusCode::INTERNAL_SERVER_ERROR, kind.name(), detail)
            }
        }
    }

    /// Its members, for a response of its own or within a stream.
    pub(crate) fn to_json(&self) -> Value {
        json!({
            "status": self.status.as_u16(),
            "title": self.status.canonical_reason().unwrap_or_default(),
            "detail": self.detail,
            "kind": self.kind,
        })
    }

    pub(crate) fn into_response(self) -> Response<Body> {
        let mut response = Response::new(Body::from(self.to_json().to_string()));
        *response.status_mut() = self.status;
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(PROBLEM));
        if let Some((name, value)) = self.header {
            response.headers_mut().insert(name, value);
        }
        response
    }
}
