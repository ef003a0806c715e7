//! Why a server is not ready.

use crate::text::OneLine;

/// Why a server is not [ready](crate::Server::readiness) for requests at this moment.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NotReady {
    /// It [drains](crate::Server::drain), or shuts down.
    #[error("server {} takes no more requests: it drains or shuts down", OneLine(server))]
    ShuttingDown {
        /// The server's name.
        server: String,
    },
    /// An operator has [drained](crate::Server::drain_servlet) the servlet.
    #[error("servlet {} is drained: it takes no requests until it is resumed", OneLine(servlet))]
    Drained {
        /// The servlet's name.
        servlet: String,
    },
    /// No worker of the servlet takes requests: it is down, or its workers are starting.
    #[error("servlet {} has no worker that is ready: {}", OneLine(servlet), OneLine(reason))]
    NoWorker {
        /// The servlet's name.
        servlet: String,
        /// Why it is down, or in which states its workers are.
        reason: String,
    },
    /// This process was forked from the server's, as with [`CallError::Forked`](crate::CallError::Forked).
    #[error("{}", super::forked_text(*server_pid, *pid))]
    Forked {
        /// The server's process.
        server_pid: u32,
        /// This one.
        pid: u32,
    },
}
