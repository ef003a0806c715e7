//! Why a lever of a server did not do what it was asked for.

use super::{StartError, forked_text};
use crate::text::{OneLine, one_line};
use std::time::Duration;

/// Why a lever of a [server](crate::Server) did not do what it was asked for: scaling, restarting, replacing, draining. The
/// server goes on, and no request is lost.
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum LeverError {
    /// The server has no servlet of that name. A lever is for a servlet with workers, not for an ensemble or a sequence.
    #[error("the server has no servlet {:?} with workers: it has {}", one_line(servlet), listed(known))]
    NoSuchServlet {
        /// The name.
        servlet: String,
        /// Those that have workers.
        known: Vec<String>,
    },
    /// A number is out of range, such as the index of a worker or the number of workers.
    #[error("the {what} of servlet {} is {value}, must be in {least}..={most}", OneLine(servlet))]
    Range {
        /// The servlet's name.
        servlet: String,
        /// Which number.
        what: &'static str,
        /// Its value.
        value: u64,
        /// The least allowed.
        least: u64,
        /// The most allowed.
        most: u64,
    },
    /// The servlet runs in threads of the server's process, where this cannot be done.
    #[error("servlet {} runs in threads of the server's process: {what}", OneLine(servlet))]
    InThreads {
        /// The servlet's name.
        servlet: String,
        /// What cannot be done there.
        what: &'static str,
    },
    /// A worker did not start. After a restart the servlet's [`Restarts`](crate::Restarts) say what follows. A worker
    /// that was to come by scaling does not come, unless one with a higher index did: then it is restarted as they say.
    #[error("worker {worker} of servlet {} did not start: it {}", OneLine(servlet), OneLine(reason))]
    NotStarted {
        /// The servlet's name.
        servlet: String,
        /// The worker's index.
        worker: u32,
        /// Why.
        reason: String,
    },
    /// A worker did not start from its new executable or configuration: it runs from the former ones again, and the
    /// workers after it were not touched.
    #[error(
        "the new worker {worker} of servlet {} did not start: it {}; {replaced} of {workers} workers had been replaced, the others are as they were",
        OneLine(servlet),
        OneLine(reason)
    )]
    NotReplaced {
        /// The servlet's name.
        servlet: String,
        /// The worker's index.
        worker: u32,
        /// Why.
        reason: String,
        /// How many workers had been replaced before.
        replaced: u32,
        /// How many were to be.
        workers: u32,
    },
    /// A worker has not left in time. A thread cannot be killed: it leaves when its `call` or `cleanup` returns; a process
    /// that was killed ends once the kernel lets it go.
    #[error(
        "worker {worker} of servlet {} has not left within {limit:?}: a thread cannot be killed, and a process that was killed ends once the kernel lets it go",
        OneLine(servlet)
    )]
    Stuck {
        /// The servlet's name.
        servlet: String,
        /// The worker's index.
        worker: u32,
        /// The server's `shutdown_timeout`.
        limit: Duration,
    },
    /// The configuration is for workers of another type.
    #[error(
        "servlet {} has workers of type {}, and the configuration is for {}",
        OneLine(servlet),
        OneLine(expected),
        OneLine(given)
    )]
    OtherWorker {
        /// The servlet's name.
        servlet: String,
        /// The type of its workers.
        expected: String,
        /// The type of the configuration's.
        given: String,
    },
    /// The new executable, or the new configuration, cannot be used: no worker was touched.
    #[error(transparent)]
    Unusable(Box<StartError>),
    /// Requests were still in the servlet when the timeout was over. They go on, and none enters it.
    #[error("{left} requests are still in servlet {} after {:.3} s; they go on, and it stays drained", OneLine(servlet), limit.as_secs_f64())]
    NotEmpty {
        /// The servlet's name.
        servlet: String,
        /// How many.
        left: usize,
        /// The timeout.
        limit: Duration,
    },
    /// The servlet was resumed while this thread waited until it is empty.
    #[error("servlet {} was resumed before it was empty", OneLine(servlet))]
    Resumed {
        /// The servlet's name.
        servlet: String,
    },
    /// The server is shutting down, or has been shut down.
    #[error("the server is shutting down")]
    ShuttingDown,
    /// The calling thread is a worker of this server, or listens to its log: it would wait for itself.
    #[error("this thread is one of the server's own, which would wait for itself: call from another thread")]
    Within,
    /// As [`CallError::Forked`](crate::CallError::Forked).
    #[error("{}", forked_text(*server_pid, *pid))]
    Forked {
        /// The server's process.
        server_pid: u32,
        /// This one.
        pid: u32,
    },
}

fn listed(names: &[String]) -> String {
    names.iter().map(|name| OneLine(name).to_string()).collect::<Vec<_>>().join(", ")
}

impl From<StartError> for LeverError {
    fn from(error: StartError) -> Self {
        Self::Unusable(Box::new(error))
    }
}
