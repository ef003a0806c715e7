//! Several servlets that all see the same item.

use super::part::{Fork, Part};
use super::{Servlet, sealed};
use crate::error::RemoteError;
use crate::route::{KEEPS_ERRORS, LIST, root_of};
use crate::wire::payload::Payload;
use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;

/// Every member sees the same input, where it lies; the outcome holds the members' outcomes in member order.
///
/// Outcomes come in boxes: the participant that finishes the last member, in any process, puts them side by side
/// without knowing their types. Members of different types come as a tuple of up to eight, members of one type as a
/// list of any length ([`Servlet::boxed`] makes servlets one type).
///
/// By default the first error of a member ends the item at once, with an [`EnsembleError`](crate::error::EnsembleError); later
/// outcomes are dropped. With [`keep_errors`](Self::keep_errors) the item waits for all members.
///
/// ```no_run
/// # use ringmill::*;
/// use ringmill::rkyv::Archived;
/// ringmill::make_worker!(Length: String => u64, |s: &Archived<String>| s.len() as u64);
/// ringmill::make_worker!(Words: String => u32, |s: &Archived<String>| s.split(' ').count() as u32);
///
/// # fn main() -> Result<(), BoxError> {
/// let both = Ensemble::of((ThreadServlet::<Length>::new(()), ThreadServlet::<Words>::new(())));
/// let server = Server::builder("both").start(both)?;
/// let reply = server.call_ref("two words")?;
/// assert_eq!((reply.0.to_native(), reply.1.to_native()), (9, 2));
/// # Ok(())
/// # }
/// ```
pub struct Ensemble<M, Errors = FailFast> {
    members: M,
    name: String,
    errors: PhantomData<Errors>,
}

/// An ensemble whose first error ends the item.
#[derive(Debug)]
pub struct FailFast(());

/// An ensemble whose outcome holds values and errors.
#[derive(Debug)]
pub struct KeepErrors(());

impl<M, Errors> fmt::Debug for Ensemble<M, Errors> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ensemble").field("name", &self.name).finish_non_exhaustive()
    }
}

impl<M: Clone, Errors> Clone for Ensemble<M, Errors> {
    fn clone(&self) -> Self {
        Self { members: self.members.clone(), name: self.name.clone(), errors: PhantomData }
    }
}

impl<M: Members> Ensemble<M> {
    /// An ensemble of a tuple of 1 to 8 servlets. Its outcome is the tuple of theirs, each in a box.
    #[must_use]
    pub fn of(members: M) -> Self {
        Self { members, name: "ensemble".into(), errors: PhantomData }
    }
}

impl<S: Servlet> Ensemble<Vec<S>> {
    /// An ensemble of any number of servlets of one type. Its outcome is the list of theirs, each in a box. An empty
    /// list is an error at start.
    #[must_use]
    pub fn each(members: impl IntoIterator<Item = S>) -> Self {
        Self::of(members.into_iter().collect())
    }
}

impl<M> Ensemble<M> {
    /// Waits for all members; the outcome holds a `Result` of each. Only if all fail does the item end with an
    /// [`EnsembleError`](crate::error::EnsembleError).
    #[must_use]
    pub fn keep_errors(self) -> Ensemble<M, KeepErrors> {
        Ensemble { members: self.members, name: self.name, errors: PhantomData }
    }
}

impl<M, Errors> Ensemble<M, Errors> {
    /// The ensemble's name in errors and reports; by default `ensemble`. The rules are those for a servlet's name.
    #[must_use]
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }
}

impl<M, Errors> sealed::Sealed for Ensemble<M, Errors> {}

impl<M: Members> Servlet for Ensemble<M> {
    type In = M::In;
    type Out = M::Values;

    fn part(&self) -> Part {
        let (name, members) = (self.name.clone(), self.members.parts());
        Part::Fork(Arc::new(Fork { name, form: M::FORM, fail_fast: true, members }))
    }
}

impl<M: Members> Servlet for Ensemble<M, KeepErrors> {
    type In = M::In;
    type Out = M::Results;

    fn part(&self) -> Part {
        let (name, members) = (self.name.clone(), self.members.parts());
        Part::Fork(Arc::new(Fork { name, form: M::FORM | KEEPS_ERRORS, fail_fast: false, members }))
    }
}

/// The members of an ensemble: tuples of up to eight servlets with the same input, and lists of servlets of one type.
pub trait Members: sealed::Sealed + 'static {
    /// The input that all members take.
    type In: Payload;
    /// The members' outcomes, each in a box.
    type Values: Payload;
    /// Results of the members' outcomes, each in a box.
    type Results: Payload;
    #[doc(hidden)]
    const FORM: u32;
    #[doc(hidden)]
    fn parts(&self) -> Vec<(Part, (u32, u32))>;
}

fn part<S: Servlet>(member: &S) -> (Part, (u32, u32)) {
    (member.part(), root_of::<S::Out>())
}

impl<S: Servlet> sealed::Sealed for Vec<S> {}

impl<S: Servlet> Members for Vec<S> {
    type In = S::In;
    type Values = Vec<Box<S::Out>>;
    type Results = Vec<Result<Box<S::Out>, Box<RemoteError>>>;
    const FORM: u32 = LIST;

    fn parts(&self) -> Vec<(Part, (u32, u32))> {
        self.iter().map(part).collect()
    }
}

macro_rules! tuples {
    ($first:ident $($member:ident)*) => {
        impl<$first, $($member),*> sealed::Sealed for ($first, $($member,)*) {}

        impl<$first: Servlet, $($member: Servlet<In = $first::In>),*> Members
            for ($first, $($member,)*)
        {
            type In = $first::In;
            type Values = (Box<$first::Out>, $(Box<$member::Out>,)*);
            type Results = (
                Result<Box<$first::Out>, Box<RemoteError>>,
                $(Result<Box<$member::Out>, Box<RemoteError>>,)*
            );
            const FORM: u32 = 0;

            #[expect(non_snake_case, reason = "a member's value is named like its type")]
            fn parts(&self) -> Vec<(Part, (u32, u32))> {
                let ($first, $($member,)*) = self;
                vec![part($first), $(part($member)),*]
            }
        }
    };
}
for_tuples!(tuples);
