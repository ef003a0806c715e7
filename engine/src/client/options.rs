//! Options of one call.

use crate::error::CallError;
use std::time::{Duration, Instant};

/// How long a call takes at most if nothing else is said.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(60);

/// What a call does that finds all places of the server taken: as many requests in progress as its capacity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum WhenFull {
    /// It fails at once, with [`CallError::ServerBacklogFull`].
    #[default]
    Fail,
    /// It waits for a place, up to its timeout.
    Wait,
}

/// Options of one call.
#[derive(Debug, Clone, Copy)]
pub struct CallOptions {
    pub(crate) timeout: Duration,
    pub(crate) when_full: WhenFull,
    pub(crate) deadline: Option<Instant>,
}

impl Default for CallOptions {
    fn default() -> Self {
        Self { timeout: DEFAULT_TIMEOUT, when_full: WhenFull::Fail, deadline: None }
    }
}

impl CallOptions {
    /// A timeout of a minute, with back-pressure.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// How long the call may take in all.
    #[must_use]
    pub fn timeout(mut self, limit: Duration) -> Self {
        self.timeout = limit;
        self
    }

    /// What the call does if all places of the server are taken; [`WhenFull::Fail`] if this is not said.
    #[must_use]
    pub fn when_full(mut self, when_full: WhenFull) -> Self {
        self.when_full = when_full;
        self
    }

    /// `true`: [`WhenFull::Fail`]; `false`: [`WhenFull::Wait`].
    #[must_use]
    #[deprecated = "say when_full(WhenFull::Wait) in place of backpressure(false)"]
    pub fn backpressure(self, on: bool) -> Self {
        self.when_full(if on { WhenFull::Fail } else { WhenFull::Wait })
    }

    /// Until when the outcome is wanted. The caller waits no longer, and a worker that takes the request later,
    /// at whatever stage, does not work on it. One in the past fails at once. A [timeout](Self::timeout) that is
    /// over sooner ends the waiting too, but workers do not know of it.
    #[must_use]
    pub fn deadline(mut self, at: Instant) -> Self {
        self.deadline = Some(at);
        self
    }

    /// The same, for a call that begins now.
    pub(crate) fn not_past(mut self, now: Instant) -> Result<Self, CallError> {
        if let Some(deadline) = self.deadline {
            let left = deadline.saturating_duration_since(now);
            if left.is_zero() {
                return Err(CallError::Timeout { enqueueing: Duration::ZERO, total: Duration::ZERO });
            }
            self.timeout = self.timeout.min(left);
        }
        Ok(self)
    }

    /// When the waiting ends, for a call that began then; none if that is not to be told.
    pub(crate) fn until(&self, begun: Instant) -> Option<Instant> {
        let timeout = begun.checked_add(self.timeout);
        timeout.into_iter().chain(self.deadline).min()
    }
}
