//! Partials: what a worker tells an item's caller before the outcome.

use super::desk::Desk;
use crate::panics::end_if_forked;
use crate::wire::PayloadError;
use crate::wire::payload::{Payload, kind_of, write_to};
use ringmill_shm::arena::{Listener, Room};
use ringmill_shm::segment::Run;
use ringmill_shm::sys::time::now_ns;
use std::time::Duration;

/// The longest sleep of a worker whose caller is behind: the backstop for a wake that a dead participant owed.
const SLEEP_LIMIT: Duration = Duration::from_secs(1);

/// Why a partial was not emitted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EmitError {
    /// The caller has gone: it dropped the call, its time was over, or it was behind when the request's deadline passed. What else is done for the item is in vain.
    #[error("the item's caller has gone: there is no use in going on with it")]
    CallerGone,
    /// The item is one of several that run for one request at the same time, in an ensemble; partials have an order.
    #[error("an ensemble's member cannot emit partials: emit them before the ensemble, or after it")]
    InEnsemble,
    /// It does not fit.
    #[error("a partial of {bytes} bytes is too large: {largest} fit; raise max_partial()")]
    TooLarge {
        /// The bytes that it takes.
        bytes: u64,
        /// The most that fit.
        largest: u64,
    },
    /// It cannot be serialised.
    #[error("a partial cannot be serialised: {0}")]
    Serialise(PayloadError),
    /// The server stops, and the caller has not taken earlier partials.
    #[error("the server stops before the item's caller has taken earlier partials")]
    Stopping,
}

impl Desk {
    /// Whether the item's caller takes partials.
    pub(super) fn has_listener(&self, index: usize) -> bool {
        self.lift(index).is_some_and(|mut lifted| matches!(lifted.task().partials(), Listener::Open(_)))
    }

    /// Emits a partial of an item; waits while its caller is too far behind.
    pub(super) fn emit<T: Payload>(&self, index: usize, partial: &T) -> Result<(), EmitError> {
        let Some(mut lifted) = self.lift(index) else { return Ok(()) };
        let task = lifted.task().task();
        if task.is_branch() {
            return Err(EmitError::InEnsemble);
        }
        let (segment, birth) = (&self.seat.segment, self.seat.birth);
        let deadline_ns = lifted.task().deadline_ns();
        loop {
            let mut emitter = match lifted.task().partials() {
                Listener::Open(emitter) => emitter,
                Listener::Gone => return Err(EmitError::CallerGone),
                Listener::None => return Ok(()),
            };
            match emitter.room() {
                Room::Closed => {}
                Room::Full if matches!(segment.run(), Run::Stopping | Run::Closed) => {
                    return Err(EmitError::Stopping);
                }
                // Its caller takes none, and will have no outcome.
                Room::Full if deadline_ns.is_some_and(|at| now_ns() >= at) => {
                    return Err(EmitError::CallerGone);
                }
                Room::Full => emitter.await_room(SLEEP_LIMIT),
                Room::Free => {
                    let buffer = emitter.buffer();
                    let largest = buffer.room() as u64;
                    let written = write_to::<T>(partial, buffer, birth);
                    end_if_forked(birth); // its `Serialize` is user code
                    let bytes = written.map_err(EmitError::Serialise)?.unwrap_or(0);
                    if bytes as u64 > largest {
                        return Err(EmitError::TooLarge { bytes: bytes as u64, largest });
                    }
                    emitter.publish(bytes, kind_of::<T>(), self.seat.node);
                    return Ok(());
                }
            }
        }
    }
}
