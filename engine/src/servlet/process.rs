//! Workers in processes of their own.

use super::options::{Options, setters};
use super::{Servlet, sealed};
use crate::error::StartError;
use crate::plan::{Environment, Launch, Planner, Span};
use crate::worker::BatchWorker;
use ringmill_shm::participant::Role;
use std::ffi::OsString;
use std::path::PathBuf;

/// One worker type in one or more processes, which share an input ring.
///
/// The processes run this program's executable anew, so the program (or test module) must list the type
/// in [`init!`](crate::init). A worker that crashes takes nobody along: the requests it was working on
/// are answered with an error, and it is started again. A process with several
/// [`stream_threads`](Self::stream_threads) lives and dies as one.
#[derive(Debug)]
pub struct ProcessServlet<W: BatchWorker> {
    options: Options<W::Config>,
    program: Option<PathBuf>,
    env: Environment,
}

impl<W: BatchWorker> ProcessServlet<W> {
    /// One process, not pinned, that handles items one by one; the worker is built from `config`.
    #[must_use]
    pub fn new(config: W::Config) -> Self {
        Self { options: Options::new(config), program: None, env: Environment::default() }
    }

    setters!();

    /// Runs the workers from another executable, which must list the type in its `init!`, built with
    /// the same payload types.
    #[must_use]
    pub fn program(mut self, path: impl Into<PathBuf>) -> Self {
        self.program = Some(path.into());
        self
    }

    /// Sets an environment variable of all its workers, which otherwise have those of the server's process.
    /// It is there whenever a worker is started, again or for the first time, and nobody else sees it: it
    /// does not lie in the segment. A name or value with a zero byte makes the start fail with
    /// [`StartError::Executable`].
    ///
    /// ```
    /// use ringmill::{PassThrough, ProcessServlet};
    /// let servlet = ProcessServlet::<PassThrough<u32>>::new(())
    ///     .cpus(2)
    ///     .env("OMP_NUM_THREADS", "1")
    ///     .env_for(0, "CUDA_VISIBLE_DEVICES", "0")
    ///     .env_for(1, "CUDA_VISIBLE_DEVICES", "1");
    /// ```
    #[must_use]
    pub fn env(mut self, key: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.env.set(None, key.into(), value.into());
        self
    }

    /// Sets an environment variable of one worker, whatever [`env`](Self::env) says of it. The index is that
    /// of [`Context::worker_index`](crate::Context::worker_index); one that does not exist is a
    /// [`StartError::Range`].
    #[must_use]
    pub fn env_for(
        mut self,
        worker_index: usize,
        key: impl Into<OsString>,
        value: impl Into<OsString>,
    ) -> Self {
        self.env.set(Some(worker_index), key.into(), value.into());
        self
    }
}

impl<W: BatchWorker> sealed::Sealed for ProcessServlet<W> {}

impl<W: BatchWorker> Servlet for ProcessServlet<W> {
    type In = W::In;
    type Out = W::Out;

    fn plan(self, planner: &mut Planner) -> Result<Span, StartError> {
        let last_named = self.env.last_worker();
        let launch = Launch::Process { program: self.program, env: self.env };
        let node = self.options.node::<W>(Role::ProcessWorker, launch)?;
        if let Some(index) = last_named.filter(|&index| index >= node.workers.len()) {
            return Err(StartError::Range {
                servlet: Some(node.name),
                what: "worker index of an environment variable",
                value: index as u64,
                least: 0,
                most: node.workers.len() as u64 - 1,
            });
        }
        Ok(planner.add(node))
    }
}
