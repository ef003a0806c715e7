//! Servlets: what a server is made of. A tree of them is a value; nothing starts before `start`.

mod options;
mod process;
mod thread;

pub use process::ProcessServlet;
pub use thread::ThreadServlet;

use crate::error::StartError;
use crate::payload::Payload;
use crate::plan::{Planner, Span};

/// A part of a server: takes items of one type and gives items of another.
///
/// Implemented by the servlets of this crate only.
pub trait Servlet: sealed::Sealed {
    /// What goes in.
    type In: Payload;
    /// What comes out.
    type Out: Payload;

    /// Adds its nodes to a plan.
    ///
    /// # Errors
    /// Whatever is wrong with its options, with its name.
    #[doc(hidden)]
    fn plan(self, planner: &mut Planner) -> Result<Span, StartError>;
}

mod sealed {
    #[expect(unnameable_types, reason = "servlets cannot be implemented outside this crate")]
    pub trait Sealed {}
}
