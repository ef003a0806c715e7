//! Workers in processes of their own.

use super::options::{Options, setters};
use super::part::{Leaf, Part};
use super::{Servlet, sealed};
use crate::plan::{Environment, Launch, Program};
use crate::policy::on_death::OnDeath;
use crate::worker::BatchWorker;
use ringmill_shm::participant::Role;
use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// One worker type in one or more processes, which share an input ring.
///
/// The processes run this program's executable, so the program (or test module) must list the type in
/// [`init!`](crate::init); or they run [another](Self::program), also one that is no Rust program
/// ([`program_worker`](Self::program_worker)). A crash ends one worker only: the requests on which it was working are answered with an
/// error, and it is restarted. The threads of a process with several [`stream_threads`](Self::stream_threads) live and
/// die together.
#[derive(Debug)]
pub struct ProcessServlet<W: BatchWorker> {
    options: Options<W::Config>,
    program: Program,
    env: Environment,
}

impl<W: BatchWorker> ProcessServlet<W> {
    /// One process, not pinned, that handles items one by one; the worker is built from `config`.
    #[must_use]
    pub fn new(config: W::Config) -> Self {
        Self { options: Options::new(config), program: Program::default(), env: Environment::default() }
    }

    setters!();

    /// Runs the workers from another executable, which must list the type in its `init!` and be built with the same
    /// payload types; or which calls `become_worker`, if [`program_worker`](Self::program_worker) says so. A name without a
    /// slash is looked for in `PATH`.
    ///
    /// The server inspects the executable before it runs it: one without an `init!`, one built with another version of
    /// ringmill, or one that cannot be read is a [`StartError::Program`]. A script (`#!`) cannot be inspected and is
    /// run; it must exec such an executable, with the environment that it was given. There the type is found by its
    /// name and, as far as that is visible, the layout of its payloads; two types that agree in both, or a type with
    /// another layout than here, are a [`StartError::Join`]. [`SCHEMA`](crate::Worker::SCHEMA) can state what is not
    /// visible.
    ///
    /// [`StartError::Program`]: crate::StartError::Program
    /// [`StartError::Join`]: crate::StartError::Join
    #[must_use]
    pub fn program(mut self, path: impl Into<PathBuf>) -> Self {
        self.program.path = Some(path.into());
        self
    }

    /// The arguments of its workers' processes, after the first, in place of those by which process lists name a worker
    /// (`worker SERVER/SERVLET/INDEX`): the script that an interpreter runs, say. An argument with a zero byte makes the start
    /// fail with [`StartError::Argument`](crate::StartError::Argument).
    ///
    /// ```
    /// use ringmill::ProcessServlet;
    /// use ringmill::program::Outside;
    ///
    /// let servlet = ProcessServlet::<Outside<String>>::new(())
    ///     .program("python3")
    ///     .program_args(["-m", "app.workers"])
    ///     .program_worker("tokenize");
    /// ```
    #[must_use]
    pub fn program_args<A: Into<OsString>>(mut self, arguments: impl IntoIterator<Item = A>) -> Self {
        self.program.arguments = Some(arguments.into_iter().map(Into::into).collect());
        self
    }

    /// Its workers' processes become workers when they call [`become_worker`](crate::program::become_worker), not before `main`
    /// by an `init!`, and this is the name under which they list the worker: any text of 1 to 256 bytes on one line. For an
    /// interpreter with a script, a program in C, or a Rust program that prefers a call; the executable is
    /// [`program`](Self::program)'s, or this one's. In its workers' environment is the variable `RINGMILL_WORKER_BY_CALL`.
    ///
    /// What the server cannot see beforehand is an error of the start: a program that ends without the call is a
    /// [`StartError::Died`], one that never makes it a [`StartError::Timeout`], both with its path; one that lists no such
    /// worker, one with other payloads, or one built with another version of ringmill is a [`StartError::Join`]. Payloads
    /// are compared by name and, as far as that is visible, by layout, as [`program`](Self::program) says.
    ///
    /// The servlet's own name is by default made of this one.
    ///
    /// [`StartError::Died`]: crate::StartError::Died
    /// [`StartError::Timeout`]: crate::StartError::Timeout
    /// [`StartError::Join`]: crate::StartError::Join
    #[must_use]
    pub fn program_worker(mut self, name: impl Into<String>) -> Self {
        self.program.lists_as = Some(name.into());
        self
    }

    /// What becomes of the requests on which a worker was working when it died; by default they end with
    /// [`CallError::WorkerDied`](crate::CallError::WorkerDied).
    ///
    /// ```
    /// use ringmill::{OnDeath, PassThrough, ProcessServlet};
    /// // Work that may be repeated: up to three retries, and one bad request costs its batch nothing.
    /// let servlet = ProcessServlet::<PassThrough<u32>>::new(()).batch_size(64).on_death(OnDeath::Bisect(3));
    /// ```
    #[must_use]
    pub fn on_death(mut self, policy: OnDeath) -> Self {
        self.options.on_death = policy;
        self
    }

    /// How long a call of user code, with an item or a batch, may take before the supervisor kills its worker; by
    /// default for ever. It kills the worker between that time and an eighth more (at least a millisecond), since it
    /// looks that often, and no clock is read for a call. The requests of the call end as [`on_death`](Self::on_death)
    /// says, with [`RemoteCause::Overran`](crate::error::RemoteCause::Overran), or once their retries are used up with
    /// [`RemoteCause::Poisonous`](crate::error::RemoteCause::Poisonous). Zero is a [`StartError::Range`].
    ///
    /// A caller's timeout only ends its waiting; this ends the work.
    ///
    /// [`StartError::Range`]: crate::StartError::Range
    #[must_use]
    pub fn exec_timeout(mut self, limit: Duration) -> Self {
        self.options.exec_timeout = Some(limit);
        self
    }

    /// How many bytes of memory a worker's process may have for itself before it is replaced as for
    /// [`max_requests`](Self::max_requests); by default any number. What counts is its resident memory less what it
    /// shares, that is without the pages of the segment and of mapped files. The supervisor reads it from `/proc` once a
    /// second or oftener, and not at all without a limit, so a worker may exceed it for a moment: a limit that the
    /// kernel enforces is that of a control group. Where `/proc` does not say, nothing is limited. Zero is a
    /// [`StartError::Range`].
    ///
    /// [`StartError::Range`]: crate::StartError::Range
    #[must_use]
    pub fn max_rss(mut self, bytes: u64) -> Self {
        self.options.lifespan.max_rss = Some(bytes);
        self
    }

    /// Sets an environment variable of all its workers, which otherwise have those of the server's process. Each start
    /// and restart of a worker sets it. No other process sees it: it does not lie in the segment. A name that is empty
    /// or has a `=`, and a zero byte in a name or value, make the start fail with [`StartError::Variable`].
    ///
    /// ```
    /// use ringmill::{PassThrough, ProcessServlet};
    /// let servlet = ProcessServlet::<PassThrough<u32>>::new(())
    ///     .cpus(2)
    ///     .env("OMP_NUM_THREADS", "1")
    ///     .env_for(0, "CUDA_VISIBLE_DEVICES", "0")
    ///     .env_for(1, "CUDA_VISIBLE_DEVICES", "1");
    /// ```
    ///
    /// [`StartError::Variable`]: crate::StartError::Variable
    #[must_use]
    pub fn env(mut self, key: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.env.set(None, key.into(), value.into());
        self
    }

    /// Sets an environment variable of one worker, which overrides [`env`](Self::env). The index is that of
    /// [`Context::worker_index`](crate::Context::worker_index); one that does not exist is a [`StartError::Range`].
    ///
    /// [`StartError::Range`]: crate::StartError::Range
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

impl<W: BatchWorker<Config: Clone>> Clone for ProcessServlet<W> {
    fn clone(&self) -> Self {
        Self { options: self.options.clone(), program: self.program.clone(), env: self.env.clone() }
    }
}

impl<W: BatchWorker> sealed::Sealed for ProcessServlet<W> {}

impl<W: BatchWorker> Servlet for ProcessServlet<W> {
    type In = W::In;
    type Out = W::Out;

    fn part(&self) -> Part {
        let launch = Launch::Process { program: self.program.clone(), env: self.env.clone() };
        Part::Node(Arc::new(Leaf::of::<W>(&self.options, Role::ProcessWorker, launch)))
    }
}
