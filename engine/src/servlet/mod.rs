//! Servlets: the parts of a server. A tree of them is a value; nothing starts before `start`.

/// Applies a macro to the member names of each tuple of servlets.
macro_rules! for_tuples {
    ($apply:ident) => {
        $apply!(A);
        $apply!(A B);
        $apply!(A B C);
        $apply!(A B C D);
        $apply!(A B C D E);
        $apply!(A B C D E F);
        $apply!(A B C D E F G);
        $apply!(A B C D E F G H);
    };
}

mod boxed;
mod ensemble;
pub(crate) mod lent;
mod options;
mod part;
mod process;
mod sequential;
mod switch;
mod thread;

pub use crate::policy::batch::{BATCH_SIZE_LIMIT, DEFAULT_BATCH_WAIT_TIME};
pub use crate::policy::cpus::{Cpus, ParseCpusError, Pin};
pub use crate::policy::on_death::OnDeath;
pub use crate::policy::patience::Wait;
pub use crate::policy::restarts::{RESTART_LIMIT, Restarts};
pub use boxed::BoxServlet;
pub use ensemble::{Ensemble, FailFast, KeepErrors, Members};
pub use process::ProcessServlet;
pub use sequential::Sequential;
pub use switch::{Alternatives, Switch};
pub use thread::ThreadServlet;

use crate::wire::payload::Payload;
use part::Part;

/// A part of a server: takes items of one type and gives items of another.
///
/// [`ProcessServlet`] and [`ThreadServlet`] have workers. Others are made of servlets: a [`Sequential`] of
/// stages, an [`Ensemble`] of members that all see an item, a [`Switch`] that gives it to one of them. They
/// nest: ensembles and switches up to 64 deep, one within the other; more is an error at start.
///
/// A tree of them is `Clone` if its configurations are, and so can be started more than once, under different names.
///
/// Implemented by the servlets of this crate only.
pub trait Servlet: sealed::Sealed + Sized + 'static {
    /// The items that it takes.
    type In: Payload;
    /// The items that it gives.
    type Out: Payload;

    /// What it is made of.
    #[doc(hidden)]
    fn part(&self) -> Part;

    /// This servlet, followed by `next`, which takes its outcomes.
    ///
    /// ```no_run
    /// # use ringmill::*;
    /// # ringmill::make_worker!(Parse: String => u32, |s: &ringmill::rkyv::Archived<String>| s.len() as u32);
    /// # ringmill::make_worker!(Square: u32 => u64, |x: &ringmill::rkyv::Archived<u32>| u64::from(x.to_native()).pow(2));
    /// # fn main() -> Result<(), BoxError> {
    /// let stages = ThreadServlet::<Parse>::new(()).then(ThreadServlet::<Square>::new(()));
    /// let server = Server::builder("squares").start(stages)?;
    /// assert_eq!(*server.call_ref("four")?, 16);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// The output type of the first must be the input type of the next:
    ///
    /// ```compile_fail
    /// # use ringmill::*;
    /// # ringmill::make_worker!(Parse: String => u32, |s: &ringmill::rkyv::Archived<String>| s.len() as u32);
    /// # fn main() {
    /// let _ = ThreadServlet::<Parse>::new(()).then(ThreadServlet::<Parse>::new(())); // String is not u32
    /// # }
    /// ```
    fn then<Next: Servlet<In = Self::Out>>(self, next: Next) -> Sequential<Self, Next> {
        Sequential::new(self, next)
    }

    /// This servlet without its type: for lists of servlets that take and give the same.
    fn boxed(self) -> BoxServlet<Self::In, Self::Out> {
        BoxServlet::new(self.part())
    }
}

mod sealed {
    #[expect(unnameable_types, reason = "servlets cannot be implemented outside this crate")]
    pub trait Sealed {}
}
