//! One servlet after another.

use super::{Servlet, sealed};
use crate::error::StartError;
use crate::plan::{Planner, Span};

/// Two servlets one after the other, made by [`Servlet::then`]; longer chains nest.
///
/// Each item goes from worker to worker directly: no thread stands between the stages. A stage with several workers may
/// change the order of items; each caller still gets its own answer. An item that fails in one stage skips the others.
#[derive(Debug)]
pub struct Sequential<First, Next> {
    first: First,
    next: Next,
}

impl<First, Next> Sequential<First, Next> {
    pub(super) fn new(first: First, next: Next) -> Self {
        Self { first, next }
    }
}

impl<First, Next> sealed::Sealed for Sequential<First, Next> {}

impl<First: Servlet, Next: Servlet<In = First::Out>> Servlet for Sequential<First, Next> {
    type In = First::In;
    type Out = Next::Out;

    fn plan(self, planner: &mut Planner) -> Result<Span, StartError> {
        let Self { first, next } = self;
        planner.add_sequence(Box::new(|p| first.plan(p)), Box::new(|p| next.plan(p)))
    }
}
