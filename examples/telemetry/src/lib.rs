//! Traces of ringmill as spans of OpenTelemetry: one for each request, and in it one for each worker that took it, also for a
//! worker that died.
//!
//! The service alone sends them, when the outcome of a request is there. Its workers know nothing of it.

use opentelemetry::trace::{Event, SpanContext, SpanId, SpanKind, Status, TraceFlags, TraceId, TraceState};
use opentelemetry::{InstrumentationScope, KeyValue};
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{SpanData, SpanEvents, SpanExporter, SpanLinks};
use ringmill::trace::{Hop, HopEnd, RequestEnd, Trace, Traces};
use std::borrow::Cow;
use std::time::SystemTime;

/// The most spans that are sent at a time.
const AT_A_TIME: usize = 512;

/// Sends the spans of all requests that have ended since the last call, and returns how many. A service calls it every second
/// or so, and once more after its shutdown.
///
/// # Errors
/// If the collector cannot be reached, or refuses them: then these spans are lost.
pub async fn export(
    traces: &mut Traces,
    exporter: &impl SpanExporter,
) -> Result<usize, opentelemetry_sdk::error::OTelSdkError> {
    let mut sent = 0;
    loop {
        let mut batch = Vec::new();
        while batch.len() < AT_A_TIME
            && let Some(trace) = traces.next()
        {
            batch.extend(spans(&trace));
        }
        if batch.is_empty() {
            return Ok(sent);
        }
        sent += batch.len();
        let done: OTelSdkResult = exporter.export(batch).await;
        done?;
    }
}

/// The spans of a request: its own, and one for each worker that took it.
#[must_use]
pub fn spans(trace: &Trace) -> Vec<SpanData> {
    let mut of_request = span(trace, trace.span_id, trace.parent_id, SpanKind::Internal);
    of_request.name = Cow::Owned(trace.server.clone());
    (of_request.start_time, of_request.end_time) = (trace.sent, trace.ended);
    of_request.status = match trace.end {
        RequestEnd::Answered => Status::Ok,
        end => Status::error(end.name()),
    };
    of_request.attributes = vec![
        KeyValue::new("ringmill.request", i64::from(trace.request)),
        KeyValue::new("ringmill.generation", i64::from(trace.generation)),
        KeyValue::new("ringmill.outcome", trace.end.name()),
    ];
    // For how many requests this one stands, by which a backend estimates rates.
    let weight = trace.weight.and_then(|weight| i64::try_from(weight).ok());
    of_request.attributes.extend(weight.map(|weight| KeyValue::new("ringmill.weight", weight)));
    if trace.hops_missing > 0 {
        let missing = i64::try_from(trace.hops_missing).unwrap_or(i64::MAX);
        of_request.attributes.push(KeyValue::new("ringmill.hops_missing", missing));
    }
    let hops = trace.hops.iter().map(|hop| of_hop(trace, hop));
    std::iter::once(of_request).chain(hops).collect()
}

/// From when a task was queued until its worker had answered it, or was found dead.
fn of_hop(trace: &Trace, hop: &Hop) -> SpanData {
    let mut span = span(trace, hop.span_id, Some(trace.span_id), SpanKind::Consumer);
    span.parent_span_is_remote = false;
    span.name = Cow::Owned(hop.servlet.clone());
    span.start_time = hop.queued;
    span.end_time = hop.ended.unwrap_or(trace.ended).max(hop.queued);
    span.status = match hop.end {
        Some(HopEnd::Answered) => Status::Ok,
        Some(HopEnd::Died) => Status::error("the worker died"),
        Some(end) => Status::error(end.name()),
        None => Status::error("its caller did not wait for it"),
    };
    span.attributes = vec![
        KeyValue::new("ringmill.servlet", hop.servlet.clone()),
        KeyValue::new("ringmill.worker", i64::from(hop.worker)),
        KeyValue::new("ringmill.branch", i64::from(hop.branch)),
        KeyValue::new("ringmill.attempt", i64::from(hop.attempt)),
        KeyValue::new("process.pid", i64::from(hop.pid)),
    ];
    let event = |name: &'static str, at: SystemTime| Event::new(name, at, Vec::new(), 0);
    let died = hop.ended.filter(|_| hop.end == Some(HopEnd::Died));
    span.events.events = std::iter::once(event("taken", hop.taken))
        .chain(hop.begun.map(|at| event("call", at)))
        .chain(died.map(|at| event("worker died", at)))
        .collect();
    span
}

fn span(trace: &Trace, id: u64, parent: Option<u64>, span_kind: SpanKind) -> SpanData {
    let (trace_id, flags) = (TraceId::from(trace.trace_id), TraceFlags::new(trace.flags));
    let span_id = |id: u64| SpanId::from(id);
    SpanData {
        span_context: SpanContext::new(trace_id, span_id(id), flags, false, TraceState::default()),
        parent_span_id: parent.map_or(SpanId::INVALID, span_id),
        parent_span_is_remote: parent.is_some(),
        span_kind,
        name: Cow::Borrowed(""),
        start_time: trace.sent,
        end_time: trace.ended,
        attributes: Vec::new(),
        dropped_attributes_count: 0,
        events: SpanEvents::default(),
        links: SpanLinks::default(),
        status: Status::Unset,
        instrumentation_scope: InstrumentationScope::builder("ringmill").build(),
    }
}
