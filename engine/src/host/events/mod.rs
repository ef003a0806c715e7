//! Workers' `tracing` events, in the log of the service.
//!
//! A worker's process has no subscriber of its own, so without this its events vanish.
//!
//! # Protocol
//!
//! A server that [forwards events](crate::ServerBuilder::forward_events) starts each worker's process with one end of an
//! *event line*, a socket pair of the kind of a [tether](ringmill_shm::sys::tether). The thread that has an event writes
//! it as one message, whole or not at all ([`send`]), and goes on: a send never blocks. Where the line is full, because
//! the service does not keep up or is stopped, the event is dropped, and a counter in the worker's row says how many
//! were.
//!
//! In the service one thread reads all lines and emits each event again ([`relay`]). It is not the supervisor's, which a
//! flood of events would keep from repairs.
//!
//! | The worker's process | What becomes of its events |
//! |---|---|
//! | lives | each is emitted again, in the order in which its process sent them |
//! | is killed, at any instant | those that were sent are in the line, whole, and are emitted |
//! | has forked | its child sends none |
//!
//! # Crash
//!
//! A line is no part of the segment, and no participant waits for one. When the service dies, sends fail, and events are
//! dropped. A child that the service forks has neither lines nor the thread.

pub(super) mod message;
pub(crate) mod relay;
pub(super) mod send;

pub(crate) use message::understands;
pub use send::forward;

/// The target of the events that the service emits for its workers.
pub const TARGET: &str = "ringmill::worker";
