//! A listener of the log, which runs code at chosen events.

use crate::gate::report;
use std::fmt::{self, Write};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

/// Runs `tell` at each event of a level that `wants` names; knows no spans.
pub struct Listener<F> {
    wants: fn(Level) -> bool,
    tell: F,
}

impl<F: Fn(&Event<'_>)> Listener<F> {
    /// A listener of the levels that `wants` names.
    pub fn of(wants: fn(Level) -> bool, tell: F) -> Self {
        Self { wants, tell }
    }

    /// A listener of warnings and errors.
    pub fn of_warnings(tell: F) -> Self {
        Self::of(|level| level <= Level::WARN, tell)
    }
}

impl<F> fmt::Debug for Listener<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Listener")
    }
}

impl<F: Fn(&Event<'_>) + Send + Sync + 'static> Subscriber for Listener<F> {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        (self.wants)(*metadata.level())
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        (self.tell)(event);
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

struct Line(String);

impl tracing::field::Visit for Line {
    fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn fmt::Debug) {
        write!(self.0, "{}={value:?} ", field.name()).expect("a string has room");
    }
}

/// A listener in a worker whose log a test reads: reports every event to the gate of this name, field by field.
pub fn scribe(gate: String) -> impl Subscriber + Send + Sync {
    Listener::of(
        |level| level == Level::INFO,
        move |event| {
            let mut line = Line(String::new());
            event.record(&mut line);
            report(&gate, line.0.trim_end());
        },
    )
}
