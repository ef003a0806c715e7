//! W3C trace contexts: from the client to the workers, and back.

use axum::http::{HeaderMap, HeaderName, HeaderValue};
use ringmill::trace::TraceContext;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};

/// The header of a response that names the trace and the span of this API
/// ([draft](https://w3c.github.io/trace-context/#trace-context-http-response-headers-format)).
const TRACERESPONSE: HeaderName = HeaderName::from_static("traceresponse");

/// A span of this API.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Span {
    /// The client's.
    parent: u64,
    /// Of the calls that follow: the same trace, with this span as their parent.
    pub(crate) context: TraceContext,
}

impl Span {
    /// The span of a request with a `traceparent`. An invalid one is passed over, as the recommendation asks for.
    pub(crate) fn of(headers: &HeaderMap) -> Option<Self> {
        let context: TraceContext = headers.get("traceparent")?.to_str().ok()?.parse().ok()?;
        Some(Self { parent: context.parent_id(), context: context.with_parent(new_id())? })
    }

    /// Adds the header, and notes the span for whoever exports what is logged.
    pub(crate) fn end(self, servlet: &str, status: u16, headers: &mut HeaderMap) {
        if let Ok(value) = HeaderValue::try_from(self.context.to_string()) {
            headers.insert(TRACERESPONSE, value);
        }
        tracing::debug!(
            servlet,
            status,
            trace_id = format_args!("{:032x}", self.context.trace_id()),
            span_id = format_args!("{:016x}", self.context.parent_id()),
            parent_id = format_args!("{:016x}", self.parent),
            "a traced request"
        );
    }
}

/// A number of a span: not 0, and not one that another process gives.
fn new_id() -> u64 {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    // Relaxed: only its being another number matters. The keys are random, anew in each `RandomState`.
    RandomState::new().hash_one((std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed))).max(1)
}
