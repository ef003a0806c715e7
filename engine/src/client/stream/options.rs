//! Options of one stream.

use std::time::Duration;

/// The default timeout of a stream, for each outcome.
pub const DEFAULT_STREAM_TIMEOUT: Duration = Duration::from_secs(3600);

/// Options of one stream.
#[derive(Debug, Clone, Copy)]
pub struct StreamOptions {
    pub(super) timeout: Duration,
    pub(super) window: usize,
}

impl Default for StreamOptions {
    fn default() -> Self {
        Self { timeout: DEFAULT_STREAM_TIMEOUT, window: usize::MAX }
    }
}

impl StreamOptions {
    /// A timeout of an hour, and up to as many in progress as the server's capacity.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// How long to wait for the next outcome. The outcome of a late request is an error, and the request is dropped if
    /// no worker has begun it.
    #[must_use]
    pub fn timeout(mut self, limit: Duration) -> Self {
        self.timeout = limit;
        self
    }

    /// How many inputs may be in progress at once: at least 1, at most the server's capacity. If outcomes come quickly
    /// the stream keeps fewer in progress, as many as keep the workers busy: that is faster.
    #[must_use]
    pub fn window(mut self, items: usize) -> Self {
        self.window = items;
        self
    }
}
