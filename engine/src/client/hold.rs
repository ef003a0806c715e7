//! What callers have of a core: it is lent to them, or they keep it.
//!
//! # Protocol
//!
//! A [`Server`](crate::Server) and its [handles](crate::Handle) share one [`Keeper`]. What a server gives borrows the
//! server; what a handle gives is `'static`, and keeps the core. So a core, its mapping of the segment and the reactor
//! stay until the server and all handles are dropped, with all that the handles gave. The workers do not: dropping the
//! server shuts it down, whatever is left of it.
//!
//! # Invariants
//!
//! * `[core first]`: the core lies where it is for as long as a [`Hold`] of it lives: its lender is borrowed for as long,
//!   or the hold has a share of the keeper, which has a share of the core.
#![expect(unsafe_code, reason = "a pointer to a core that is borrowed or kept")]

use super::core::Core;
use std::fmt;
use std::marker::PhantomData;
use std::mem::ManuallyDrop;
use std::ops::Deref;
use std::ptr::NonNull;
use std::sync::Arc;

/// Keeps a core for a server and its handles. Its drop ends the reactor, which has a share of the core too.
#[derive(Debug)]
pub(crate) struct Keeper(Arc<Core>);

impl Keeper {
    pub(crate) fn new(core: Arc<Core>) -> Arc<Self> {
        Arc::new(Self(core))
    }

    pub(crate) fn core(&self) -> &Arc<Core> {
        &self.0
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        if let Some(reactor) = self.0.reactor.get()
            && self.0.birth.is_here()
        {
            self.0.segment.begin_to_leave_as_client(); // the reactor's thread has the core yet
            reactor.end(&self.0.segment);
        }
    }
}

/// A core that is lent for `'s`, or kept for as long as the hold lives; then `'s` is `'static`.
pub(crate) struct Hold<'s> {
    /// No reference: one may not outlive what it refers to, not even in a value that is being dropped.
    core: NonNull<Core>,
    keeper: ManuallyDrop<Option<Arc<Keeper>>>,
    lent: PhantomData<&'s Core>,
}

impl Drop for Hold<'_> {
    /// A hold that is lent is on the way of every call, so the other case is elsewhere.
    #[inline(always)]
    fn drop(&mut self) {
        if self.keeper.is_some() {
            self.let_go();
        }
    }
}

// SAFETY: it is used as a shared reference to the core is.
unsafe impl Send for Hold<'_> where Core: Sync {}
// SAFETY: as above.
unsafe impl Sync for Hold<'_> where Core: Sync {}

impl<'s> Hold<'s> {
    /// A core that is borrowed.
    #[inline(always)]
    pub(crate) fn lent(core: &'s Core) -> Self {
        Self { core: NonNull::from(core), keeper: ManuallyDrop::new(None), lent: PhantomData }
    }

    #[cold]
    #[inline(never)]
    fn let_go(&mut self) {
        drop(self.keeper.take());
    }
}

impl Hold<'static> {
    /// A core that is kept.
    pub(crate) fn kept(keeper: Arc<Keeper>) -> Self {
        let core = NonNull::from(&**keeper.core());
        Self { core, keeper: ManuallyDrop::new(Some(keeper)), lent: PhantomData }
    }
}

impl Deref for Hold<'_> {
    type Target = Core;

    #[inline(always)]
    fn deref(&self) -> &Core {
        // SAFETY: [core first].
        unsafe { self.core.as_ref() }
    }
}

impl Clone for Hold<'_> {
    #[inline]
    fn clone(&self) -> Self {
        Self { core: self.core, keeper: self.keeper.clone(), lent: PhantomData }
    }
}

impl fmt::Debug for Hold<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hold").field("server", &self.name).field("kept", &self.keeper.is_some()).finish()
    }
}
