//! A reply: a guard over an outcome, read where it lies in the segment.
#![expect(unsafe_code, reason = "a view of an outcome that the guard holds")]

use crate::payload::{Payload, Validated, owned};
use crate::server::Core;
use ringmill_shm::arena::Done;
use rkyv::Archived;
use std::fmt;
use std::ops::Deref;

/// An outcome in its place. Dereferences to the archived value; dropping it gives the place back, so
/// replies that are kept count as requests in progress.
pub struct Reply<'s, Out: Payload> {
    core: &'s Core,
    done: Option<Done<'s>>,
    view: Validated<Out>,
}

impl<'s, Out: Payload> Reply<'s, Out> {
    pub(crate) fn new(core: &'s Core, done: Done<'s>, view: Validated<Out>) -> Self {
        Self { core, done: Some(done), view }
    }

    /// The value, on the heap or stack as its type has it; the place is given back.
    #[must_use]
    pub fn to_owned(self) -> Out {
        owned(&*self).expect("types without shared pointers always deserialise once validated")
    }

    /// Frees the request and says its id, without giving the id back.
    pub(crate) fn into_id(mut self) -> u32 {
        self.done.take().expect("taken only by value or drop").free()
    }
}

impl<Out: Payload> Deref for Reply<'_, Out> {
    type Target = Archived<Out>;

    #[inline]
    fn deref(&self) -> &Archived<Out> {
        // SAFETY: the guard holds the request in its phase DONE, which only its drop ends; nobody else
        // writes its payload meanwhile.
        unsafe { self.view.get() }
    }
}

impl<Out: Payload> Drop for Reply<'_, Out> {
    #[inline]
    fn drop(&mut self) {
        if let Some(done) = self.done.take() {
            self.core.release(done.free());
        }
    }
}

impl<Out: Payload<Archived: fmt::Debug>> fmt::Debug for Reply<'_, Out> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

impl<Out: Payload<Archived: fmt::Display>> fmt::Display for Reply<'_, Out> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}
