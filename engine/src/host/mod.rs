//! Starts workers and watches over them: the server's side, and the first steps of a process that it has started.
//!
//! # Protocol
//!
//! The server prepares the worker's rows, one for each of its threads (STARTING, a new token), then starts the
//! executable that it holds open with one environment variable that names the first row, all tokens, server and
//! segment. With the variable come descriptors: the segment's file, the lease's, and one end of a
//! [tether](ringmill_shm::sys::tether); the worker looks names up only if a program in between has closed them.
//!
//! In the worker's process, before `main`, `init!` takes the variable away, ends the process if it is of another build
//! than the server wants, runs the other constructors (see `init`), pins the process, attaches the segment, takes its
//! bytes of the lease, and starts the threads. A process that has the variable and cannot follow the order ends there,
//! with exit code 97 and the reason; it is never the program. Each thread constructs its worker, sets READY in its row
//! when all threads have theirs, or FAILED (with an error record), and rings the start-up bell. All workers do so in
//! parallel; the server sleeps on that one bell.
//!
//! The start-up bell is a futex in the segment, not a process-shared mutex with a condition variable: a worker that is
//! killed while it signals leaves the mutex locked and the server waiting for ever.
//!
//! Over the tether the worker says why it cannot attach (`Report::Reason`), what an operator should know
//! (`Report::Warning`) and which build it is (`Report::Build`). The server orders the worker to end at once
//! (`END_AT_ONCE`), and the worker's watcher thread ends the process: for a server that may send no signals.
//!
//! # Crash
//!
//! The supervisor sees a worker that dies on the way by its pidfd, and one that runs another program in its place, or
//! closes its descriptors, by its tether. A thread that fails or panics makes the others leave, so that its process
//! ends. Each worker's watcher thread sees a server that dies, or runs another program in its place, by pidfd and
//! tether, and gives the worker a second to clean up; the last worker to leave removes the segment.

pub(crate) mod called;
pub(crate) mod child;
mod control;
pub(crate) mod events;
mod init;
pub(crate) mod janitor;
pub(crate) mod order;
mod recipe;
pub(crate) mod registry;
mod report;
mod settle;
mod spawn;
pub(crate) mod supervisor;
mod workers;

pub use called::become_worker;
pub use init::{begin, set_up};
pub(crate) use spawn::KILL_LIMIT;
pub use workers::{NamedWorker, Workers};
