//! A servlet in a box, without its type.

use super::part::Part;
use super::{Servlet, sealed};
use crate::wire::payload::Payload;
use std::fmt;
use std::marker::PhantomData;

/// Any servlet from `In` to `Out`, made by [`Servlet::boxed`]. It is `Clone`, whatever is in it.
pub struct BoxServlet<In, Out> {
    part: Part,
    types: PhantomData<fn(&In) -> Out>,
}

impl<In, Out> Clone for BoxServlet<In, Out> {
    fn clone(&self) -> Self {
        Self::new(self.part.clone())
    }
}

impl<In, Out> fmt::Debug for BoxServlet<In, Out> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("BoxServlet").field(&self.part).finish()
    }
}

impl<In, Out> BoxServlet<In, Out> {
    pub(super) fn new(part: Part) -> Self {
        Self { part, types: PhantomData }
    }
}

impl<In, Out> sealed::Sealed for BoxServlet<In, Out> {}

impl<In: Payload, Out: Payload> Servlet for BoxServlet<In, Out> {
    type In = In;
    type Out = Out;

    fn part(&self) -> Part {
        self.part.clone()
    }
}
