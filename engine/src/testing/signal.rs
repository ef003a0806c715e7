//! Worker processes that a test kills or stops, by signals from outside.
//!
//! # Invariants
//!
//! * `[that process]`: a signal reaches only a worker of the server. Its descriptor is opened by the number in the worker's
//!   row; if the row has the same token after that, and the lease shows that it is alive, the number was not another
//!   process's when the descriptor was opened.

use crate::server::Server;
use ringmill_shm::participant::{Life, Role};
use ringmill_shm::segment::Run;
use ringmill_shm::sys::process::{PidFd, wait_readable};
use std::os::fd::AsRawFd;

/// Why a worker's process was not killed or stopped.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SignalError {
    /// The server has no such servlet, or none with workers.
    #[error("the server has no servlet {servlet:?} with workers; those are {}", .servlets.join(", "))]
    NoSuchServlet {
        /// The name.
        servlet: String,
        /// The names of the server's servlets that have workers.
        servlets: Vec<String>,
    },
    /// The servlet has no such worker.
    #[error("servlet {servlet} has {workers} workers, counted from 0, and none of index {worker}")]
    NoSuchWorker {
        /// The servlet's name.
        servlet: String,
        /// The index.
        worker: usize,
        /// How many it has.
        workers: usize,
    },
    /// The worker is a thread of this process, which no signal can end or stop alone.
    #[error(
        "worker {servlet}/{worker} is a thread, which cannot be killed or stopped alone; use a ProcessServlet"
    )]
    Thread {
        /// The servlet's name.
        servlet: String,
        /// The worker's index.
        worker: usize,
    },
    /// The worker has no process at this moment: it has died, and has not been restarted yet.
    #[error("worker {servlet}/{worker} has no process now: it is {}", life_text(.state))]
    NoProcess {
        /// The servlet's name.
        servlet: String,
        /// The worker's index.
        worker: usize,
        /// What its row says.
        state: Life,
    },
    /// The server has been shut down; or this process was forked from the server's, and its workers are not its children.
    #[error("server {server} does not run in this process: it has been shut down, or belongs to the parent")]
    NotRunning {
        /// The server's name.
        server: String,
    },
    /// The operating system refused.
    #[error("cannot {what} of worker {servlet}/{worker}: {error}")]
    System {
        /// The servlet's name.
        servlet: String,
        /// The worker's index.
        worker: usize,
        /// What was tried.
        what: &'static str,
        /// What the operating system said.
        error: std::io::Error,
    },
}

fn life_text(life: &Life) -> &'static str {
    match life {
        Life::Vacant | Life::Starting => "being started",
        Life::Ready => "about to be found dead",
        Life::Leaving => "leaving",
        Life::Failed => "given up",
        Life::Dead => "dead",
    }
}

/// Kills the process of a worker, by SIGKILL, and returns when it has ended. What becomes of its requests, and when it is
/// restarted, is what the server does at any death: see [`OnDeath`](crate::OnDeath) and [`Restarts`](crate::Restarts). A request
/// that is sent meanwhile waits for a worker.
///
/// The servlet is the first of that name; an index counts its workers from 0. All threads of a worker with
/// [`stream_threads`](crate::ProcessServlet::stream_threads) die.
///
/// ```no_run
/// use ringmill::{BoxError, PassThrough, ProcessServlet, testing};
///
/// # fn main() -> Result<(), BoxError> {
/// let server = testing::server(ProcessServlet::<PassThrough<u64>>::new(()).name("echo"))?;
/// testing::kill(&server, "echo", 0)?;
/// assert_eq!(*server.call(&7)?, 7); // answered by its successor
/// assert_eq!(server.stats().servlets[0].workers[0].restarts, 1);
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// See [`SignalError`]. A worker that is dead already is [`SignalError::NoProcess`].
pub fn kill<In, Out>(server: &Server<In, Out>, servlet: &str, worker: usize) -> Result<(), SignalError> {
    let target = Target::find(server, servlet, worker)?;
    target.signal(libc::SIGKILL)?;
    // A signal to this process ends a wait early; hence the loop. SIGKILL ends every process, at once or once the kernel
    // lets it go.
    while !wait_readable(&[target.process.as_raw_fd()], None)[0] {}
    Ok(())
}

/// Stops the process of a worker, by SIGSTOP, and returns when all its threads stand still. It goes on when what is returned is
/// dropped; until then it is alive and does nothing: it takes no item, its calls take longer, and an
/// [`exec_timeout`](crate::ProcessServlet::exec_timeout) or a shutdown may kill it.
///
/// Which worker it is, is as in [`kill`].
///
/// ```no_run
/// use ringmill::{BoxError, CallError, CallOptions, PassThrough, ProcessServlet, testing};
/// use std::time::Duration;
///
/// # fn main() -> Result<(), BoxError> {
/// let server = testing::server(ProcessServlet::<PassThrough<u64>>::new(()).name("echo"))?;
/// let stalled = testing::stall(&server, "echo", 0)?;
/// let outcome = server.call_with(&7, CallOptions::new().timeout(Duration::from_millis(1)));
/// assert!(matches!(outcome, Err(CallError::Timeout { .. })));
/// drop(stalled);
/// assert_eq!(*server.call(&7)?, 7);
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// See [`SignalError`].
pub fn stall<In, Out>(
    server: &Server<In, Out>,
    servlet: &str,
    worker: usize,
) -> Result<Stalled, SignalError> {
    let target = Target::find(server, servlet, worker)?;
    target.signal(libc::SIGSTOP)?;
    let stalled = Stalled { process: target.process }; // goes on, should the wait fail
    match stalled.process.await_stop() {
        Ok(true) => Ok(stalled),
        Ok(false) => Err(SignalError::NoProcess { servlet: servlet.into(), worker, state: Life::Dead }),
        // It has ended, and the kernel or the supervisor has waited for it.
        Err(error) if error.raw_os_error() == Some(libc::ECHILD) => {
            Err(SignalError::NoProcess { servlet: servlet.into(), worker, state: Life::Dead })
        }
        Err(error) => {
            Err(SignalError::System { servlet: servlet.into(), worker, what: "see the stop", error })
        }
    }
}

/// A worker whose process is [stopped](stall). Dropping this lets it go on.
#[derive(Debug)]
#[must_use = "dropping it lets the worker go on"]
pub struct Stalled {
    process: PidFd,
}

impl Drop for Stalled {
    fn drop(&mut self) {
        let _ = self.process.send_signal(libc::SIGCONT); // refused if it has died meanwhile
    }
}

/// A worker's process.
struct Target<'a> {
    servlet: &'a str,
    worker: usize,
    process: PidFd,
    state: Life,
}

impl<'a> Target<'a> {
    fn find<In, Out>(server: &Server<In, Out>, servlet: &'a str, worker: usize) -> Result<Self, SignalError> {
        let core = server.core();
        let segment = &*core.segment;
        if !core.birth.is_here() || segment.run() == Run::Closed {
            return Err(SignalError::NotRunning { server: core.name.clone() });
        }
        let mut nodes = (0..segment.shape().nodes).filter_map(|node| segment.node(node));
        let Some(node) = nodes.find(|node| node.info().name == servlet) else {
            let servlets = segment.nodes().iter().map(|info| info.name.clone()).collect();
            return Err(SignalError::NoSuchServlet { servlet: servlet.into(), servlets });
        };
        let threads = node.info().facts.threads as usize;
        let workers = node.info().rows as usize / threads;
        if worker >= workers {
            return Err(SignalError::NoSuchWorker { servlet: servlet.into(), worker, workers });
        }
        if node.info().role == Role::ThreadWorker {
            return Err(SignalError::Thread { servlet: servlet.into(), worker });
        }
        let entry = &node.workers()[worker * threads];
        let (token, pid) = (entry.token(), entry.pid());
        let state = entry.life();
        let none = || SignalError::NoProcess { servlet: servlet.into(), worker, state };
        let process = match PidFd::of_child(pid) {
            Ok(process) => process,
            // 0 is no pid: it has not arrived. Another process than a child is none of the server's.
            Err(error) if matches!(error.raw_os_error(), Some(libc::ESRCH | libc::EINVAL | libc::ECHILD)) => {
                return Err(none());
            }
            Err(error) => {
                return Err(SignalError::System {
                    servlet: servlet.into(),
                    worker,
                    what: "open the process",
                    error,
                });
            }
        };
        let is_it = entry.token() == token && token.is_some_and(|token| !segment.is_dead(token));
        if is_it { Ok(Self { servlet, worker, process, state }) } else { Err(none()) } // [that process]
    }

    fn signal(&self, signal: i32) -> Result<(), SignalError> {
        let Self { servlet, worker, state, .. } = *self;
        self.process.send_signal(signal).map_err(|error| match error.raw_os_error() {
            Some(libc::ESRCH) => SignalError::NoProcess { servlet: servlet.into(), worker, state },
            _ => SignalError::System { servlet: servlet.into(), worker, what: "signal the process", error },
        })
    }
}
