//! Options of one call.

use crate::error::CallError;
use crate::traceparent::TraceContext;
use std::time::{Duration, Instant};

/// The default timeout of a call: a minute.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(60);

/// What a call does if all permits of the server are in use: as many requests in progress as its capacity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum WhenFull {
    /// The call fails at once, with [`CallError::ServerBacklogFull`].
    #[default]
    Fail,
    /// The call waits for a permit, up to its timeout.
    Wait,
}

/// Options of one call.
#[derive(Debug, Clone, Copy)]
pub struct CallOptions {
    pub(crate) timeout: Duration,
    pub(crate) when_full: WhenFull,
    pub(crate) deadline: Option<Instant>,
    pub(crate) trace: Option<TraceContext>,
}

impl Default for CallOptions {
    fn default() -> Self {
        Self { timeout: DEFAULT_TIMEOUT, when_full: WhenFull::Fail, deadline: None, trace: None }
    }
}

impl CallOptions {
    /// A timeout of a minute, and [`WhenFull::Fail`].
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

    /// What the call does if all permits of the server are in use; [`WhenFull::Fail`] by default.
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

    /// Until when the outcome is of use. The caller waits no longer, and a worker of any stage that takes the request
    /// later does not work on it. A deadline in the past fails at once. A shorter [timeout](Self::timeout) ends the
    /// waiting too, but workers do not know of it.
    #[must_use]
    pub fn deadline(mut self, at: Instant) -> Self {
        self.deadline = Some(at);
        self
    }

    /// The trace that the request belongs to, and the span from which it is sent; by default none. It travels with the
    /// request through all servlets. If it is [sampled](TraceContext::is_sampled), the request is
    /// [traced](crate::trace).
    ///
    /// ```
    /// use ringmill::{CallOptions, PassThrough, Server, ThreadServlet};
    ///
    /// # fn main() -> Result<(), ringmill::BoxError> {
    /// let server = Server::anonymous("traced").start(ThreadServlet::<PassThrough<u32>>::new(()))?;
    /// let context = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".parse()?;
    /// assert_eq!(*server.call_with(&7, CallOptions::new().trace_context(context))?, 7);
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn trace_context(mut self, context: TraceContext) -> Self {
        self.trace = Some(context);
        self
    }

    /// Whether the request needs nothing that a plain call does not do: it has no deadline and no context.
    #[inline]
    pub(crate) fn is_plain(&self) -> bool {
        self.deadline.is_none() && self.trace.is_none()
    }

    /// Checks the deadline for a call that begins now.
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

    /// When the waiting ends, for a call that began at `begun`; `None` if that is too far away for the clock.
    pub(crate) fn until(&self, begun: Instant) -> Option<Instant> {
        let timeout = begun.checked_add(self.timeout);
        timeout.into_iter().chain(self.deadline).min()
    }
}
