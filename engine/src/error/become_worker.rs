//! Why a process did not become a worker when its program asked for it.

use crate::text::{OneLine, one_line};

/// Why [`become_worker`](crate::program::become_worker) did not make this process a worker. If a server has started the
/// process, it has been told, and its start, or the restart, fails with this reason.
#[derive(Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BecomeError {
    /// No ringmill server has started this process to be a worker.
    #[error(
        "no ringmill server has started this process as a worker: name this program with ProcessServlet::program and program_worker, and start that server"
    )]
    NotOrdered,
    /// The order is there and what came with it is not: another program has started this process in the place of the one
    /// that the server started, and has closed the descriptors; or this process is a child of a worker.
    #[error(
        "this process has a ringmill server's order to be a worker, and not the descriptors that came with it: either the program that started it has closed them (Python's subprocess does unless close_fds is false; exec it instead), or it is a child of a worker"
    )]
    NoDescriptors,
    /// The order is not one that this program can follow: of another version of ringmill, say.
    #[error("{}", OneLine(reason))]
    Order {
        /// Why not.
        reason: String,
    },
    /// The program lists no worker of that name.
    #[error(
        "this program lists no worker {:?} for become_worker (it lists {})", one_line(worker),
        if listed.is_empty() { "none".into() } else { one_line(&listed.join(", ")) }
    )]
    NotListed {
        /// The worker that the server wants.
        worker: String,
        /// Those that the program lists.
        listed: Vec<String>,
    },
    /// The program lists several workers of that name.
    #[error(
        "this program lists {count} workers of the name {:?}: give them different names",
        one_line(worker)
    )]
    Ambiguous {
        /// The worker that the server wants.
        worker: String,
        /// How many have the name.
        count: usize,
    },
    /// The worker of that name has other payloads than the server's.
    #[error(
        "worker {:?} of this program takes and gives {}, and the server wants {}{}", one_line(worker), OneLine(ours), OneLine(servers),
        if ours == servers { ": they differ in layout, in SCHEMA, or in the configuration; build both from the same source" } else { "" }
    )]
    OtherPayloads {
        /// The worker.
        worker: String,
        /// Input and outcome as the server has them.
        servers: String,
        /// Input and outcome as this program has them.
        ours: String,
    },
    /// The process could not attach the server's segment.
    #[error("{}", OneLine(reason))]
    Join {
        /// Why not.
        reason: String,
    },
    /// The server that has started this process has ended meanwhile.
    #[error("the server that has started this process as a worker has ended")]
    ServerGone,
    /// This process has called `become_worker` before, or was forked by one that had.
    #[error("this process has called become_worker before: a process is a worker once")]
    Again,
}
