//! Reading bodies, within limits of size and time.

use crate::problem::Problem;
use axum::body::{Body, Bytes};
use axum::http::HeaderMap;
use axum::http::StatusCode;
use axum::http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use std::time::Duration;

/// What bodies may be.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// The most bytes of a body, or of a line of a stream.
    pub(crate) max_body: usize,
    /// The longest time that a body may take to come, or a line of a stream.
    pub(crate) body_timeout: Duration,
    /// The longest time of a call.
    pub(crate) timeout: Duration,
}

/// Reads a body whole.
pub(crate) async fn read(headers: &HeaderMap, body: Body, limits: Limits) -> Result<Bytes, Problem> {
    let stated = headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    if stated.is_some_and(|bytes| bytes > limits.max_body as u64) {
        return Err(Problem::too_large(limits.max_body)); // before a byte of it is read
    }
    let collected = tokio::time::timeout(limits.body_timeout, Limited::new(body, limits.max_body).collect());
    match collected.await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(Problem::too_large(limits.max_body)),
        Ok(Err(error)) => Err(Problem::invalid(format!("the body cannot be read: {error}"))),
        Err(_) => Err(too_slow(limits.body_timeout)),
    }
}

pub(crate) fn too_slow(limit: Duration) -> Problem {
    Problem::slow(format!("the body did not come within {:.3} s", limit.as_secs_f64()))
}

/// The media type of a body, without its parameters; `None` if it is not stated.
///
/// # Errors
/// If the body is encoded, which no servlet reads.
pub(crate) fn media_type(headers: &HeaderMap) -> Result<Option<&str>, Problem> {
    let encoded = headers.get(CONTENT_ENCODING).is_some_and(|encoding| encoding != "identity");
    if encoded {
        return Err(unsupported("no Content-Encoding but identity is taken"));
    }
    let Some(stated) = headers.get(CONTENT_TYPE) else { return Ok(None) };
    let text = stated.to_str().map_err(|_| unsupported("the Content-Type is not ASCII"))?;
    Ok(text.split(';').next().map(str::trim))
}

pub(crate) fn unsupported(detail: impl Into<String>) -> Problem {
    Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "media_type", detail)
}
