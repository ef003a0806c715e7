//! A listener of the log, which runs code at chosen events.

use crate::gate::report;
use crate::wait_until;
use std::fmt::{self, Write};
use std::sync::{Arc, Mutex, PoisonError};
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

/// What the log of this process says, as a test reads it: a line an event, `LEVEL target field=value …`, the message among
/// the fields.
#[derive(Debug, Clone, Default)]
pub struct Hearer(Arc<Mutex<Vec<String>>>);

impl Hearer {
    /// Listens to the whole process from now on, at every level.
    ///
    /// # Panics
    /// If the process has a listener already.
    #[must_use]
    pub fn of_this_process() -> Self {
        let hearer = Self::default();
        let heard = hearer.clone();
        let listener = Listener::of(|_| true, move |event| heard.hear(event));
        tracing::subscriber::set_global_default(listener).expect("the only listener");
        hearer
    }

    fn hear(&self, event: &Event<'_>) {
        let mut line = Line(format!("{} {} ", event.metadata().level(), event.metadata().target()));
        event.record(&mut line);
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(line.0.trim_end().to_owned());
    }

    /// The events so far.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits for an event whose line has all these parts; the first such line.
    ///
    /// # Panics
    /// If there is none after [`GUARD`](crate::GUARD).
    #[track_caller]
    pub fn await_line(&self, parts: &[&str]) -> String {
        let mut found = None;
        wait_until(&format!("an event with {parts:?}"), || {
            found = self.lines().into_iter().find(|line| parts.iter().all(|part| line.contains(part)));
            found.is_some()
        });
        found.expect("it was waited for")
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
