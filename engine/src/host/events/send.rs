//! In a worker's process: sends its events to the service.

use super::message;
use crate::host::order::EventLine;
use crate::worker::Seat;
use ringmill_shm::stats::Counter;
use ringmill_shm::sys::birth::Birth;
use ringmill_shm::sys::settled::Settled;
use ringmill_shm::sys::tether::Tether;
use std::sync::Arc;
use tracing::level_filters::LevelFilter;
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

/// What the threads of a worker's process send their events with.
struct Sender {
    line: Tether,
    level: LevelFilter,
    /// That of the process's first thread, where events are counted that were dropped.
    seat: Arc<Seat>,
    birth: Birth,
}

/// A chain of no locks, since a child may be forked while a thread sends.
static SENDER: Settled<Sender> = Settled::new();

/// From now on this process can send events; whether the service has the other end.
pub(in crate::host) fn begin(order: &EventLine, seat: &Arc<Seat>) -> bool {
    let Some(line) = order.descriptor.take_over() else { return false };
    let sender =
        Sender { line: Tether::of(line), level: order.level, seat: Arc::clone(seat), birth: Birth::here() };
    SENDER.set(sender).is_ok() // this is the only call
}

/// Sends an event to the service, which emits it again: for a worker whose process has a subscriber of its own, as a
/// layer of that.
///
/// It does nothing where there is no service to send to: in a process that is no worker's, in a child that a worker has
/// forked, if the server does not [forward events](crate::ServerBuilder::forward_events), or not at the event's level.
/// It never blocks; if the service does not keep up, the event is dropped and counted.
///
/// ```
/// use tracing::{Event, Subscriber};
/// use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
///
/// /// Has the service emit a worker's events too.
/// struct ToService;
///
/// impl<S: Subscriber> Layer<S> for ToService {
///     fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
///         ringmill::events::forward(event);
///     }
/// }
///
/// fn prepare(_: &ringmill::Context) -> Result<(), tracing::subscriber::SetGlobalDefaultError> {
///     tracing::subscriber::set_global_default(tracing_subscriber::registry().with(ToService))
/// }
///
/// ringmill::init!(ringmill::PassThrough<String>; set_up = prepare);
/// # fn main() {}
/// ```
pub fn forward(event: &Event<'_>) {
    let Some(sender) = SENDER.get().filter(|sender| sender.birth.is_here()) else { return };
    if *event.metadata().level() <= sender.level && sender.line.send(&message::of(event)).is_err() {
        sender.seat.entry().counters().count_in_any_thread(Counter::EventsDropped);
    }
}

/// The subscriber of a worker's process that has no other: forwards every event up to the level, and knows no spans.
pub(in crate::host) struct Forwarder(pub(in crate::host) LevelFilter);

impl Subscriber for Forwarder {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.is_event() && *metadata.level() <= self.0
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(self.0)
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        forward(event);
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}
