//! A `tracing` subscriber of a worker whose log a test reads.

use ringmill_tests::gate::report;
use ringmill_tests::listener::Listener;
use std::fmt::Write;

struct Line(String);

impl tracing::field::Visit for Line {
    fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn std::fmt::Debug) {
        write!(self.0, "{}={value:?} ", field.name()).expect("a string has room");
    }
}

/// Tells the gate of this name of every event, field by field.
pub(crate) fn scribe(gate: String) -> impl tracing::Subscriber + Send + Sync {
    Listener::of(
        |level| level == tracing::Level::INFO,
        move |event| {
            let mut line = Line(String::new());
            event.record(&mut line);
            report(&gate, line.0.trim_end());
        },
    )
}
