//! Several servlets of which one handles each item.

use super::part::{Choice, Part};
use super::{Servlet, ThreadServlet, sealed};
use crate::error::RemoteCause;
use crate::panics;
use crate::route::Choose;
use crate::wire::payload::{Payload, view};
use crate::wire::{PayloadError, ReadError};
use crate::worker::one_item::PassThrough;
use rkyv::Archived;
use std::fmt;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

/// A function of the input chooses the member that handles it: 0 for the first.
///
/// The function runs in the server's process, in the thread that brings the item: the caller's, if the switch comes
/// first, or a thread worker's; for a worker that died, or a servlet that is down, also the supervisor's, on which
/// restarts wait. Behind a worker *process* the switch has a thread of its own in the server's process, and an item
/// takes one more step; a switch that comes first costs nothing. The function must be quick, must not wait for this
/// server, and may be called by several threads at once. If it returns an index without a member, or panics, that item
/// ends with an error.
///
/// ```no_run
/// # use ringmill::*;
/// use ringmill::rkyv::Archived;
/// ringmill::make_worker!(Short: String => u64, |s: &Archived<String>| s.len() as u64);
/// ringmill::make_worker!(Long: String => u64, |s: &Archived<String>| s.chars().count() as u64);
///
/// # fn main() -> Result<(), BoxError> {
/// let by_length = Switch::new(
///     |text: &Archived<String>| usize::from(text.len() > 100),
///     (ThreadServlet::<Short>::new(()), ThreadServlet::<Long>::new(())),
/// );
/// let server = Server::builder("by-length").start(by_length)?;
/// # Ok(())
/// # }
/// ```
pub struct Switch<M, F> {
    members: M,
    choose: Arc<F>,
    name: String,
}

impl<M: Clone, F> Clone for Switch<M, F> {
    fn clone(&self) -> Self {
        Self { members: self.members.clone(), choose: Arc::clone(&self.choose), name: self.name.clone() }
    }
}

impl<M, F> fmt::Debug for Switch<M, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Switch").field("name", &self.name).finish_non_exhaustive()
    }
}

impl<M: Alternatives, F> Switch<M, F>
where
    F: Fn(&Archived<M::In>) -> usize + Send + Sync + 'static,
{
    /// A switch between the members of a tuple of 1 to 8 servlets, or of a list of servlets of one type, that
    /// take and give the same. An empty list is an error at start.
    #[must_use]
    pub fn new(choose: F, members: M) -> Self {
        Self { members, choose: Arc::new(choose), name: "switch".into() }
    }
}

impl<M, F> Switch<M, F> {
    /// The switch's name in errors and reports; by default `switch`. The rules are those for a servlet's name.
    #[must_use]
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }
}

impl<M, F> sealed::Sealed for Switch<M, F> {}

impl<M: Alternatives, F> Servlet for Switch<M, F>
where
    F: Fn(&Archived<M::In>) -> usize + Send + Sync + 'static,
{
    type In = M::In;
    type Out = M::Out;

    fn part(&self) -> Part {
        let choose = Arc::clone(&self.choose);
        let choose: Choose = Arc::new(move |bytes: &[u8]| {
            let name = std::any::type_name::<M::In>();
            let unreadable = |e: PayloadError| RemoteCause::from(ReadError::new(name, e));
            panics::caught(AssertUnwindSafe(|| Ok(choose(view::<M::In>(bytes).map_err(unreadable)?))))?
        });
        let pass_on = ThreadServlet::<PassThrough<M::In>>::new(())
            .batch_size(64)
            .batch_wait_time(std::time::Duration::ZERO)
            .leaf();
        let (name, members) = (self.name.clone(), self.members.parts());
        Part::Switch(Arc::new(Choice { name, choose, pass_on, members }))
    }
}

/// The members of a switch: tuples of up to eight servlets with the same input and output, and lists of servlets of one
/// type.
pub trait Alternatives: sealed::Sealed + 'static {
    /// The input that all members take.
    type In: Payload;
    /// The output that all members give.
    type Out: Payload;
    #[doc(hidden)]
    fn parts(&self) -> Vec<Part>;
}

impl<S: Servlet> Alternatives for Vec<S> {
    type In = S::In;
    type Out = S::Out;

    fn parts(&self) -> Vec<Part> {
        self.iter().map(Servlet::part).collect()
    }
}

macro_rules! tuples {
    ($first:ident $($member:ident)*) => {
        impl<$first, $($member),*> Alternatives for ($first, $($member,)*)
        where
            $first: Servlet,
            $($member: Servlet<In = $first::In, Out = $first::Out>,)*
        {
            type In = $first::In;
            type Out = $first::Out;

            #[expect(non_snake_case, reason = "a member's value is named like its type")]
            fn parts(&self) -> Vec<Part> {
                let ($first, $($member,)*) = self;
                vec![$first.part(), $($member.part()),*]
            }
        }
    };
}
for_tuples!(tuples);
