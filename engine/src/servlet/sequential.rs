//! One servlet after another.

use super::part::Part;
use super::{Servlet, sealed};
use std::sync::Arc;

/// Two servlets one after the other, made by [`Servlet::then`]; longer chains nest.
///
/// Each item goes from worker to worker directly: no thread stands between the stages. A stage with several workers may
/// change the order of items; each caller still gets its own answer. An item that fails in one stage skips the others.
#[derive(Debug, Clone)]
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

    fn part(&self) -> Part {
        Part::Sequence(Arc::new((self.first.part(), self.next.part())))
    }
}
