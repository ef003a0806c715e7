//! A reply: a guard over an outcome, read where it lies in the segment.
//!
//! # Invariants
//!
//! * `[guard first]`: a reply's outcome is a guard of the segment of the core that the reply holds, and goes before that
//!   hold.
#![expect(unsafe_code, reason = "a view of an outcome that the guard holds")]

use super::core::{Clock, Core, Filled};
use super::hand::InHand;
use super::hold::Hold;
use crate::error::CallError;
use crate::policy::patience::Pace;
use crate::wire::ReadError;
use crate::wire::payload::{Payload, Validated, owned};
use ringmill_shm::arena::{Done, Task, Value};
use ringmill_shm::trace::RequestEnd;
use rkyv::Archived;
use std::fmt;
use std::mem::{ManuallyDrop, MaybeUninit};
use std::ops::Deref;
use std::time::Duration;

/// An outcome, where it lies in the segment. Dereferences to the archived value; dropping it gives the permit back, so
/// replies that are kept count as requests in progress. From what a [`Handle`](crate::Handle) gave it is `'static`, and
/// stays readable when the server is gone.
pub struct Reply<'s, Out: Payload> {
    core: Hold<'s>,
    /// Taken once, by value or by drop. Not a plain field: a function that drops a reply, which may drop the segment, may
    /// not have references to the segment among its arguments.
    value: MaybeUninit<Value<'s>>,
    view: Validated<Out>,
}

impl<'s, Out: Payload> Reply<'s, Out> {
    #[inline(always)]
    pub(crate) fn new(core: &'s Core, value: Value<'s>, view: Validated<Out>) -> Self {
        Self { core: Hold::lent(core), value: MaybeUninit::new(value), view }
    }

    #[inline(always)]
    fn into_parts(self) -> (Hold<'s>, Value<'s>, Validated<Out>) {
        let this = ManuallyDrop::new(self);
        // SAFETY: each taken once, since `this` is not dropped.
        unsafe { (std::ptr::read(&this.core), this.value.assume_init_read(), this.view) }
    }

    /// The same outcome, with another hold of its core.
    pub(crate) fn held_by<'h>(self, core: &Hold<'h>) -> Reply<'h, Out> {
        assert!(std::ptr::eq(&**core, &*self.core), "a reply is of one core");
        let (lent, value, view) = self.into_parts();
        // SAFETY: [guard first]: a guard of that core's segment, which `core` has for as long as the reply lives.
        let value = unsafe { std::mem::transmute::<Value<'s>, Value<'h>>(value) };
        drop(lent);
        Reply { core: core.clone(), value: MaybeUninit::new(value), view }
    }

    /// The value, deserialised; the permit is given back.
    ///
    /// # Errors
    /// [`CallError::Corrupt`] if the type's own `Deserialize` refuses a validated value, and [`CallError::Forked`] in a
    /// process forked from the server's, be it by that `Deserialize`.
    #[inline]
    pub fn into_owned(self) -> Result<Out, CallError> {
        self.core.own()?;
        let value = owned(&*self);
        self.core.own()?; // the type's own code has run: in a child that it forked, the value may be another request's
        value.map_err(|error| ReadError::Refused(error).into())
    }

    /// [`into_owned`](Self::into_owned), with a panic in place of an error.
    ///
    /// # Panics
    /// With that error's text.
    #[must_use]
    #[deprecated = "say into_owned(), whose failure is an error"]
    pub fn to_owned(self) -> Out {
        self.into_owned().unwrap_or_else(|error| panic!("{error}"))
    }
}

impl<Out: Payload> Deref for Reply<'_, Out> {
    type Target = Archived<Out>;

    /// # Panics
    /// In a process forked from the server's: the parent may give the request back at any time, and the bytes are then
    /// another request's.
    #[inline]
    fn deref(&self) -> &Archived<Out> {
        if !self.core.birth.is_here() {
            not_ours(&self.core);
        }
        // SAFETY: the guard holds the request in its phase DONE, which only its drop in this process ends; no other
        // participant writes its payload meanwhile.
        unsafe { self.view.get() }
    }
}

/// Panics in a forked child, which has no bytes to show.
#[cold]
#[inline(never)]
#[track_caller]
pub(crate) fn not_ours(core: &Core) -> ! {
    panic!("{}", core.forked_text())
}

impl<Out: Payload> Drop for Reply<'_, Out> {
    #[inline]
    fn drop(&mut self) {
        if !self.core.birth.is_here() {
            return; // the parent holds it
        }
        // SAFETY: taken once: `into_parts` does not drop the reply.
        let value = unsafe { self.value.assume_init_read() };
        self.core.release(value.free());
    }
}

impl<Out: Payload<Archived: fmt::Debug>> fmt::Debug for Reply<'_, Out> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.core.birth.is_here() {
            return write!(f, "({})", self.core.forked_text());
        }
        (**self).fmt(f)
    }
}

impl<Out: Payload<Archived: fmt::Display>> fmt::Display for Reply<'_, Out> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

impl Core {
    /// Sends a filled request, and waits for its outcome.
    #[inline]
    pub(crate) fn finish_call<'c, Out: Payload>(
        &'c self,
        filled: Filled<'c>,
        clock: Clock,
        timeout: Duration,
    ) -> Result<Reply<'c, Out>, CallError> {
        let task = self.send(filled)?;
        crash_point!("reply.sent");
        let done = self.await_outcome(
            task,
            clock,
            timeout,
            Pace::Answer,
            || task.outcome(),
            || self.note_begun([task.id()], 1),
        )?;
        self.open(done)
    }

    /// Reads an outcome: a reply, or an error.
    #[inline(always)]
    pub(crate) fn open<'c, Out: Payload>(&'c self, done: Done<'c>) -> Result<Reply<'c, Out>, CallError> {
        self.open_and(done, |task| self.count_answered(task))
    }

    /// [`open`](Self::open), where `count` counts a value.
    #[inline(always)]
    pub(crate) fn open_and<'c, Out: Payload>(
        &'c self,
        done: Done<'c>,
        count: impl FnOnce(Task<'c>),
    ) -> Result<Reply<'c, Out>, CallError> {
        let unread = self.unread(done)?;
        let view = Validated::<Out>::of_value(&unread.value);
        let value = unread.keep();
        self.own()?; // a signal handler may have forked during the wait, and the type's own check just now
        match view {
            Ok(view) => {
                count(value.task());
                Ok(Reply::new(self, value, view))
            }
            Err(error) => Err(self.open_unreadable(value, error)),
        }
    }

    /// Reads an outcome: a value, deserialised, or an error. `count` counts a value, and `free` gives it back.
    #[inline(always)]
    pub(crate) fn take_value<'c, Out: Payload>(
        &'c self,
        done: Done<'c>,
        count: impl FnOnce(Task<'c>),
        free: impl FnOnce(Value<'c>),
    ) -> Result<Out, CallError> {
        let mut unread = self.unread(done)?;
        let view = Validated::<Out>::of_value(&unread.value);
        self.own()?; // as in `open_and`
        let view = match view {
            Ok(view) => view,
            Err(error) => return Err(self.open_unreadable(unread.keep(), error)),
        };
        count(unread.value.task());
        unread.is_counted = true;
        // SAFETY: the guard in `unread` holds the request in its phase DONE, until `free` below; no other participant
        // writes its payload meanwhile.
        let value = owned(unsafe { view.get() });
        self.own()?; // in a child that the type's own `Deserialize` forked, the value may be another request's
        free(unread.keep());
        value.map_err(|error| ReadError::Refused(error).into())
    }

    /// The value of an outcome, not read yet; or its error.
    #[inline(always)]
    fn unread<'c>(&'c self, done: Done<'c>) -> Result<Unread<'c>, CallError> {
        crash_point!("reply.opens");
        match done.into_value() {
            Ok(value) => Ok(Unread { core: self, value: ManuallyDrop::new(value), is_counted: false }),
            Err(error) => {
                self.own()?;
                Err(self.open_error(error))
            }
        }
    }

    #[cold]
    fn open_unreadable(&self, value: Value<'_>, error: ReadError) -> CallError {
        let error = CallError::from(error);
        self.note_total(value.task(), || error.end());
        self.release(value.free());
        self.told(error)
    }
}

/// A value whose request is given back if the type's own code panics as it reads it.
struct Unread<'c> {
    core: &'c Core,
    is_counted: bool,
    /// Taken once, by value or by drop.
    value: ManuallyDrop<Value<'c>>,
}

impl<'c> Unread<'c> {
    #[inline(always)]
    fn keep(self) -> Value<'c> {
        let mut this = ManuallyDrop::new(self);
        // SAFETY: taken once, since `this` is not dropped.
        unsafe { ManuallyDrop::take(&mut this.value) }
    }
}

impl Drop for Unread<'_> {
    #[cold]
    fn drop(&mut self) {
        if self.core.birth.is_here() {
            // SAFETY: taken once: `keep` does not drop this.
            let value = unsafe { ManuallyDrop::take(&mut self.value) };
            if !self.is_counted {
                self.core.note_total(value.task(), || RequestEnd::Internal);
            }
            self.core.release(value.free());
        } // else the parent holds it
    }
}
