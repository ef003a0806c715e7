//! Levers: a running server's workers are scaled, restarted, replaced; its servlets drained.

use super::{Handle, Server};
use crate::client::{Core, Host};
use crate::error::{LeverError, StartError};
use crate::host::supervisor::Shared;
use crate::host::supervisor::lever::{Config, Lever, Renewal};
use crate::worker::BatchWorker;
use ringmill_shm::sys::memfd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// From what [`Server::replace`] makes the new workers of a servlet.
///
/// ```
/// use ringmill::server::Replacement;
/// use ringmill::{BoxError, Context, Server, ThreadServlet, Worker};
/// use ringmill::rkyv::Archived;
///
/// /// Multiplies by its configuration.
/// struct Times(u64);
///
/// impl Worker for Times {
///     type Config = u64;
///     type In = u64;
///     type Out = u64;
///
///     fn new(factor: u64, _: &Context) -> Result<Self, BoxError> {
///         Ok(Self(factor))
///     }
///
///     fn call(&mut self, number: &Archived<u64>) -> Result<u64, BoxError> {
///         Ok(self.0 * number.to_native())
///     }
/// }
///
/// # fn main() -> Result<(), BoxError> {
/// let server = Server::anonymous("replaced").start(ThreadServlet::<Times>::new(2).name("times"))?;
/// assert_eq!(*server.call(&21)?, 42);
/// server.replace("times", Replacement::new().config::<Times>(3))?;
/// assert_eq!(*server.call(&21)?, 63);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Default)]
pub struct Replacement {
    program: Option<PathBuf>,
    config: Option<NewConfig>,
}

#[derive(Debug, Clone)]
struct NewConfig {
    worker_type: &'static str,
    /// Or why there are none.
    bytes: Result<Vec<u8>, String>,
}

impl Replacement {
    /// The executable that is now at the path of the present one, and the present configuration.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// This executable. It is checked as that of [`ProcessServlet::program`](crate::ProcessServlet::program): by its file
    /// before a worker leaves, and the types of its payloads when the first process starts from it.
    #[must_use]
    pub fn program(mut self, path: impl Into<PathBuf>) -> Self {
        self.program = Some(path.into());
        self
    }

    /// This configuration, for the servlet's workers of type `W`.
    #[must_use]
    pub fn config<W: BatchWorker>(mut self, config: W::Config) -> Self {
        let bytes = crate::wire::payload::to_bytes(&config).map_err(|error| error.to_string());
        self.config = Some(NewConfig { worker_type: std::any::type_name::<W>(), bytes });
        self
    }

    fn renewal(self, core: &Core, servlet: &str) -> Result<Renewal, LeverError> {
        let Some(NewConfig { worker_type, bytes }) = self.config else {
            return Ok(Renewal { program: self.program, config: None });
        };
        let node = core.own_levers()?.node_of(servlet)?;
        let expected = &core.segment.nodes()[node as usize].worker_type;
        if expected != worker_type {
            let (servlet, expected, given) = (servlet.into(), expected.clone(), worker_type.into());
            return Err(LeverError::OtherWorker { servlet, expected, given });
        }
        let bytes = bytes.map_err(|message| StartError::Config { servlet: servlet.into(), message })?;
        let file = memfd::of_bytes("ringmill-config", &bytes)
            .map_err(|error| StartError::System { what: "make a file for a configuration", error })?;
        let config = Config { bytes: Arc::new(bytes), file: Arc::new(file) };
        Ok(Renewal { program: self.program, config: Some(config) })
    }
}

impl Core {
    /// What the levers of this process's server move.
    fn own_levers(&self) -> Result<&Shared, LeverError> {
        let forked = |_| LeverError::Forked { server_pid: self.pid, pid: std::process::id() };
        self.own().map_err(forked)?;
        match &self.host {
            Host::Server(service) => Ok(&service.shared),
            Host::Client(_) => Err(LeverError::ShuttingDown), // it has none: its levers are in the server's process
        }
    }

    fn lever(&self, servlet: &str, lever: Lever) -> Result<(), LeverError> {
        self.own_levers()?.pull(servlet, lever)
    }

    fn restart_worker(&self, servlet: &str, worker: usize) -> Result<(), LeverError> {
        self.lever(servlet, Lever::Restart { worker: index(worker) })
    }

    fn kill_worker(&self, servlet: &str, worker: usize) -> Result<(), LeverError> {
        self.lever(servlet, Lever::Kill { worker: index(worker) })
    }

    fn scale(&self, servlet: &str, workers: usize) -> Result<(), LeverError> {
        self.lever(servlet, Lever::Scale { workers: index(workers) })
    }

    fn replace(&self, servlet: &str, by: Replacement) -> Result<(), LeverError> {
        self.own_levers()?;
        let renewal = by.renewal(self, servlet)?;
        self.lever(servlet, Lever::Replace(renewal))
    }

    fn drain_servlet(&self, servlet: &str, limit: Duration) -> Result<(), LeverError> {
        self.own_levers()?.drain_servlet(servlet, limit)
    }

    fn resume_servlet(&self, servlet: &str) -> Result<(), LeverError> {
        self.own_levers()?.resume_servlet(servlet)
    }
}

/// A number that is out of range stays so.
fn index(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

impl<In, Out> Server<In, Out> {
    /// Has a worker of a servlet finish its batches, clean up and leave, and starts its successor; returns once that is
    /// ready. `servlet` is a name as in [`stats`](Self::stats), of a servlet with workers; `worker` an index from 0. All
    /// threads of a worker restart together. No request is lost: those in the servlet's ring wait, or other workers take
    /// them. It counts as `retired` and in `restarts`, not as a death.
    ///
    /// A worker that has not left within the server's [`shutdown_timeout`](crate::ServerBuilder::shutdown_timeout) is
    /// killed, which is a death for its requests; a thread cannot be killed.
    ///
    /// The levers of one servlet are pulled one after another, in the order in which threads call them.
    ///
    /// # Errors
    /// [`LeverError::NoSuchServlet`], [`LeverError::Range`] if there is no such worker; [`LeverError::NotStarted`] and
    /// [`LeverError::Stuck`]; [`LeverError::Within`] from a worker's thread.
    pub fn restart_worker(&self, servlet: &str, worker: usize) -> Result<(), LeverError> {
        self.core.restart_worker(servlet, worker)
    }

    /// Kills a worker's process by SIGKILL, and returns at once. That is a death as any other: its requests end as
    /// [`on_death`](crate::ProcessServlet::on_death) says, and it is restarted.
    ///
    /// # Errors
    /// As [`restart_worker`](Self::restart_worker); [`LeverError::InThreads`] of a thread.
    pub fn kill_worker(&self, servlet: &str, worker: usize) -> Result<(), LeverError> {
        self.core.kill_worker(servlet, worker)
    }

    /// Has this many workers in a servlet from now on: from 1 to what its
    /// [`max_workers`](crate::ProcessServlet::max_workers) says. Returns once those that come are ready, and those that
    /// go, the ones with the highest indexes, have finished their batches and left. No request is lost.
    ///
    /// # Errors
    /// [`LeverError::NoSuchServlet`]; [`LeverError::Range`], which has the bounds; [`LeverError::NotStarted`]: the workers
    /// that did start stay. Else as [`restart_worker`](Self::restart_worker).
    pub fn scale(&self, servlet: &str, workers: usize) -> Result<(), LeverError> {
        self.core.scale(servlet, workers)
    }

    /// Replaces the workers of a servlet, one at a time: each leaves as in [`restart_worker`](Self::restart_worker), and
    /// its successor, from a new executable or a new [configuration](Replacement), is ready before the next one leaves. If
    /// the servlet may have [one more worker](crate::ProcessServlet::max_workers), a new one starts first and leaves
    /// last, so that no worker is missing meanwhile.
    ///
    /// # Errors
    /// [`LeverError::Unusable`] and [`LeverError::OtherWorker`]: nothing was done. [`LeverError::NotReplaced`]: a new
    /// worker did not start; a worker from the former executable and configuration takes its place, and the rest
    /// stays. Else as [`restart_worker`](Self::restart_worker).
    pub fn replace(&self, servlet: &str, by: Replacement) -> Result<(), LeverError> {
        self.core.replace(servlet, by)
    }

    /// Lets no new request into a servlet, and waits until it is empty: what is inside is finished. Its workers stay. It
    /// stays drained, also after an error, until it is [resumed](Self::resume_servlet).
    ///
    /// If every request passes the servlet, calls are refused at once with
    /// [`CallError::ServletDrained`](crate::CallError::ServletDrained), and it is empty once no request is with the workers
    /// of the server; one that has a permit already and is sent later, as a [loan](crate::call::Loan), still enters. Else, as a member of a switch, or of an ensemble that keeps errors, a request that comes to it ends there
    /// with [`RemoteCause::Drained`](crate::error::RemoteCause::Drained); one that was on its way at that moment may still enter. A
    /// request that is [retried](crate::ProcessServlet::on_death) there is inside.
    ///
    /// # Errors
    /// [`LeverError::NoSuchServlet`]; [`LeverError::NotEmpty`] if requests are still inside when the timeout is over;
    /// [`LeverError::Resumed`] if another thread resumes it meanwhile; [`LeverError::Within`] from a worker's thread.
    pub fn drain_servlet(&self, servlet: &str, limit: Duration) -> Result<(), LeverError> {
        self.core.drain_servlet(servlet, limit)
    }

    /// Lets requests into a drained servlet again; does nothing if it is not drained.
    ///
    /// # Errors
    /// [`LeverError::NoSuchServlet`].
    pub fn resume_servlet(&self, servlet: &str) -> Result<(), LeverError> {
        self.core.resume_servlet(servlet)
    }
}

impl<In, Out> Handle<In, Out> {
    /// As [`Server::restart_worker`].
    ///
    /// # Errors
    /// As [`Server::restart_worker`].
    pub fn restart_worker(&self, servlet: &str, worker: usize) -> Result<(), LeverError> {
        self.core.restart_worker(servlet, worker)
    }

    /// As [`Server::kill_worker`].
    ///
    /// # Errors
    /// As [`Server::kill_worker`].
    pub fn kill_worker(&self, servlet: &str, worker: usize) -> Result<(), LeverError> {
        self.core.kill_worker(servlet, worker)
    }

    /// As [`Server::scale`].
    ///
    /// # Errors
    /// As [`Server::scale`].
    pub fn scale(&self, servlet: &str, workers: usize) -> Result<(), LeverError> {
        self.core.scale(servlet, workers)
    }

    /// As [`Server::replace`].
    ///
    /// # Errors
    /// As [`Server::replace`].
    pub fn replace(&self, servlet: &str, by: Replacement) -> Result<(), LeverError> {
        self.core.replace(servlet, by)
    }

    /// As [`Server::drain_servlet`].
    ///
    /// # Errors
    /// As [`Server::drain_servlet`].
    pub fn drain_servlet(&self, servlet: &str, limit: Duration) -> Result<(), LeverError> {
        self.core.drain_servlet(servlet, limit)
    }

    /// As [`Server::resume_servlet`].
    ///
    /// # Errors
    /// As [`Server::resume_servlet`].
    pub fn resume_servlet(&self, servlet: &str) -> Result<(), LeverError> {
        self.core.resume_servlet(servlet)
    }
}
