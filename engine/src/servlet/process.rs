//! Workers in processes of their own.

use super::options::{Options, setters};
use super::{Servlet, sealed};
use crate::error::StartError;
use crate::plan::{Launch, Planner, Span};
use crate::worker::BatchWorker;
use ringmill_shm::participant::Role;
use std::path::PathBuf;

/// One worker type in one or more processes, which share an input ring.
///
/// The processes run this program's executable anew, so the program (or test module) must list the type
/// in [`init!`](crate::init). A worker that crashes takes nobody along: the requests it was working on
/// are answered with an error, and it is started again.
#[derive(Debug)]
pub struct ProcessServlet<W: BatchWorker> {
    options: Options<W::Config>,
    program: Option<PathBuf>,
}

impl<W: BatchWorker> ProcessServlet<W> {
    /// One process, not pinned, that handles items one by one; the worker is built from `config`.
    #[must_use]
    pub fn new(config: W::Config) -> Self {
        Self { options: Options::new(config), program: None }
    }

    setters!();

    /// Runs the workers from another executable, which must list the type in its `init!`, built with
    /// the same payload types.
    #[must_use]
    pub fn program(mut self, path: impl Into<PathBuf>) -> Self {
        self.program = Some(path.into());
        self
    }
}

impl<W: BatchWorker> sealed::Sealed for ProcessServlet<W> {}

impl<W: BatchWorker> Servlet for ProcessServlet<W> {
    type In = W::In;
    type Out = W::Out;

    fn plan(self, planner: &mut Planner) -> Result<Span, StartError> {
        let launch = Launch::Process { program: self.program };
        let node = self.options.node::<W>(Role::ProcessWorker, launch)?;
        Ok(planner.add(node))
    }
}
