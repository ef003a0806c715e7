//! Servlets whose workers lend their seats, see [`lend_seats`](crate::worker::lend_seats).

use super::boxed::BoxServlet;
use super::options::Options;
use super::part::{Leaf, Part};
use super::thread::ThreadServlet;
use crate::plan::Launch;
use crate::worker::{BatchWorker, Live};
use ringmill_shm::participant::Role;
use std::sync::Arc;
use std::time::Duration;

/// The workers of this servlet with another life.
pub(crate) fn with_life<W: BatchWorker>(servlet: &ThreadServlet<W>, live: Live) -> BoxServlet<W::In, W::Out> {
    let leaf = Leaf::of::<W>(servlet.options(), Role::ThreadWorker, Launch::Thread { live });
    BoxServlet::new(Part::Node(Arc::new(leaf)))
}

/// One worker that takes what is there, up to this many items at once. It is not built from a configuration.
pub(crate) fn of_batches<W: BatchWorker>(items: usize, live: Live) -> BoxServlet<W::In, W::Out> {
    let mut options = Options::new(Ok(Vec::new()));
    options.batch_size = items;
    options.batch_wait_time = Some(Duration::ZERO);
    let leaf = Leaf::with_config::<W>(options, Role::ThreadWorker, Launch::Thread { live });
    BoxServlet::new(Part::Node(Arc::new(leaf)))
}
