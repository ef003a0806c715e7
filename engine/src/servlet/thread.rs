//! Workers in threads of the server's process.

use super::options::{Options, setters};
use super::part::{Leaf, Part};
use super::{Servlet, sealed};
use crate::plan::Launch;
use crate::worker;
use crate::worker::BatchWorker;
use ringmill_shm::participant::Role;
use std::sync::Arc;

/// One worker type in one or more threads of the server's process: the same traits, rings and batches as
/// [`ProcessServlet`](crate::ProcessServlet), without its protection from crashes. Each thread has a worker of its own,
/// built from the configuration; the type needs no `init!`. A thread that a [fatal](crate::BoxError::fatal) error has
/// stopped is restarted.
///
/// A server of threads alone that its process does not drop (see [`Server`](crate::Server)) leaves its segment's files
/// in `/dev/shm`, since no worker's process is left to remove them: drop it before `std::process::exit`, or make it
/// [anonymous](crate::Server::anonymous).
#[derive(Debug)]
pub struct ThreadServlet<W: BatchWorker> {
    options: Options<W::Config>,
}

impl<W: BatchWorker> ThreadServlet<W> {
    /// One thread, not pinned, that handles items one by one; the worker is built from `config`.
    #[must_use]
    pub fn new(config: W::Config) -> Self {
        Self { options: Options::new(config) }
    }

    setters!();

    pub(super) fn options(&self) -> &Options<W::Config> {
        &self.options
    }

    pub(super) fn leaf(&self) -> Leaf {
        let launch = Launch::Thread { live: Arc::new(|seat| worker::live::<W>(seat)) };
        Leaf::of::<W>(&self.options, Role::ThreadWorker, launch)
    }
}

impl<W: BatchWorker<Config: Clone>> Clone for ThreadServlet<W> {
    fn clone(&self) -> Self {
        Self { options: self.options.clone() }
    }
}

impl<W: BatchWorker> sealed::Sealed for ThreadServlet<W> {}

impl<W: BatchWorker> Servlet for ThreadServlet<W> {
    type In = W::In;
    type Out = W::Out;

    fn part(&self) -> Part {
        Part::Node(Arc::new(self.leaf()))
    }
}
