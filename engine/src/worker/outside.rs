//! A worker type for workers whose code this program does not have.

use super::batch::{Batch, BatchWorker};
use super::context::Context;
use crate::error::BoxError;
use crate::wire::payload::Payload;
use std::marker::PhantomData;

/// Stands in a servlet for a worker whose code only another program has, with its payloads: by default the outcome is of the
/// input's type, and there is no configuration.
///
/// ```
/// use ringmill::ProcessServlet;
/// use ringmill::program::Outside;
///
/// let lengths = ProcessServlet::<Outside<String, u64>>::new(()).program("lengths").program_worker("length");
/// ```
///
/// In this program itself it cannot be built: as a worker in a thread, or in an [`init!`](crate::init), it is an error at
/// the start.
#[derive(Debug)]
pub struct Outside<In, Out = In, Config = ()>(PhantomData<fn(Config, In) -> Out>);

impl<In: Payload, Out: Payload, Config: Payload> BatchWorker for Outside<In, Out, Config> {
    type Config = Config;
    type In = In;
    type Out = Out;

    fn new(_: Config, context: &Context) -> Result<Self, BoxError> {
        let name = context.name();
        Err(BoxError::msg(format!(
            "the code of worker {name} is in another program: name that with ProcessServlet::program and program_worker"
        )))
    }

    fn call(&mut self, _: Batch<'_, Self>) -> Result<(), BoxError> {
        Ok(()) // there is no value of this type
    }
}
