//! The workers that a program lists for [`become_worker`](super::called::become_worker), by name.

use crate::error::{BecomeError, BoxError};
use crate::wire::{Bytes, Schema, type_text};
use crate::worker::{self, BatchWorker, Context, Identity, Live};
use ringmill_shm::segment::{NodeInfo, PayloadTypes};
use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;

/// A worker that a program lists under a name: how it is built, and what its payloads are.
pub struct NamedWorker<W> {
    listed: Listed,
    worker: PhantomData<fn() -> W>,
}

impl<W> fmt::Debug for NamedWorker<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NamedWorker").field("name", &self.listed.name).finish_non_exhaustive()
    }
}

impl<W: BatchWorker> NamedWorker<W> {
    /// The worker `W`, which [`W::new`](BatchWorker::new) builds, under the name by which a servlet asks for it
    /// ([`program_worker`](crate::ProcessServlet::program_worker)).
    #[must_use]
    pub fn new(name: impl Into<String>) -> Self {
        Self::built_by(name, W::new)
    }

    /// A worker that a function builds, in place of [`W::new`](BatchWorker::new): so one type can stand for any number of
    /// workers of another language. Each of the worker's threads calls it once.
    #[must_use]
    pub fn built_by(
        name: impl Into<String>,
        build: impl Fn(W::Config, &Context) -> Result<W, BoxError> + Send + Sync + 'static,
    ) -> Self {
        let payloads = PayloadTypes { input: type_text::<W::In>(None), outcome: type_text::<W::Out>(None) };
        let live: Live = Arc::new(move |seat| worker::live_built_by::<W>(seat, &build));
        let listed = Listed { name: name.into(), payloads, layout: Identity::of::<W>().elsewhere, live };
        Self { listed, worker: PhantomData }
    }

    /// What its inputs' bytes mean; the servlet must state [the same](crate::ProcessServlet::input_schema).
    #[must_use]
    pub fn input_schema(mut self, schema: &Schema) -> Self
    where
        W: BatchWorker<In = Bytes>,
    {
        self.listed.payloads.input = type_text::<Bytes>(Some(schema));
        self
    }

    /// What its outcomes' bytes mean; the servlet must state [the same](crate::ProcessServlet::outcome_schema).
    #[must_use]
    pub fn outcome_schema(mut self, schema: &Schema) -> Self
    where
        W: BatchWorker<Out = Bytes>,
    {
        self.listed.payloads.outcome = type_text::<Bytes>(Some(schema));
        self
    }
}

/// A worker of any type under a name.
struct Listed {
    name: String,
    payloads: PayloadTypes,
    layout: u64,
    live: Live,
}

impl Listed {
    /// Whether its payloads are those of a node.
    fn check(&self, node: &NodeInfo, layout: u64) -> Result<(), BecomeError> {
        if self.layout == layout && self.payloads == node.payloads {
            return Ok(());
        }
        Err(BecomeError::OtherPayloads {
            worker: self.name.clone(),
            servers: types_text(&node.payloads),
            ours: types_text(&self.payloads),
        })
    }
}

fn types_text(PayloadTypes { input, outcome }: &PayloadTypes) -> String {
    format!("{input} => {outcome}")
}

/// The workers that a program can become, by name. For [`become_worker`](super::called::become_worker).
///
/// ```
/// use ringmill::PassThrough;
/// use ringmill::payload::{Bytes, Schema};
/// use ringmill::program::{NamedWorker, Workers};
///
/// let tensor = Schema::new("app.Tensor", 2);
/// let workers = Workers::new()
///     .with(NamedWorker::<PassThrough<u32>>::new("echo"))
///     .with(NamedWorker::<PassThrough<Bytes>>::new("echo of tensors").input_schema(&tensor).outcome_schema(&tensor));
/// assert_eq!(workers.names().collect::<Vec<_>>(), ["echo", "echo of tensors"]);
/// ```
#[derive(Default)]
pub struct Workers(Vec<Listed>);

impl fmt::Debug for Workers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.names()).finish()
    }
}

impl Workers {
    /// None yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Also this one. Two of one name are an error of `become_worker`.
    #[must_use]
    pub fn with<W: BatchWorker>(mut self, worker: NamedWorker<W>) -> Self {
        self.0.push(worker.listed);
        self
    }

    /// Their names, in the order in which they were listed.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|listed| listed.name.as_str())
    }

    /// The code of the worker that a node wants; `layout` is the number of its payloads' layout.
    pub(super) fn find(&self, node: &NodeInfo, layout: u64) -> Result<Live, BecomeError> {
        let wanted = || self.0.iter().filter(|listed| listed.name == node.worker_type);
        match (wanted().next(), wanted().count()) {
            (Some(listed), 1) => listed.check(node, layout).map(|()| Arc::clone(&listed.live)),
            (Some(listed), count) => Err(BecomeError::Ambiguous { worker: listed.name.clone(), count }),
            (None, _) => Err(BecomeError::NotListed {
                worker: node.worker_type.clone(),
                listed: self.names().map(str::to_owned).collect(),
            }),
        }
    }
}
