//! A servlet in a box, without its type.

use super::{Servlet, sealed};
use crate::error::StartError;
use crate::plan::{Planner, Span};
use crate::wire::payload::Payload;
use std::fmt;
use std::marker::PhantomData;

type Plan = Box<dyn FnOnce(&mut Planner) -> Result<Span, StartError> + Send>;

/// Any servlet from `In` to `Out`, made by [`Servlet::boxed`].
pub struct BoxServlet<In, Out> {
    plan: Plan,
    types: PhantomData<fn(&In) -> Out>,
}

impl<In, Out> fmt::Debug for BoxServlet<In, Out> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BoxServlet").finish_non_exhaustive()
    }
}

impl<In, Out> BoxServlet<In, Out> {
    pub(super) fn new(servlet: impl Servlet<In = In, Out = Out> + Send) -> Self {
        Self { plan: Box::new(|planner| servlet.plan(planner)), types: PhantomData }
    }
}

impl<In, Out> sealed::Sealed for BoxServlet<In, Out> {}

impl<In: Payload, Out: Payload> Servlet for BoxServlet<In, Out> {
    type In = In;
    type Out = Out;

    fn plan(self, planner: &mut Planner) -> Result<Span, StartError> {
        (self.plan)(planner)
    }
}
