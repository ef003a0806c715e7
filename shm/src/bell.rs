//! A bell for the whole segment, which any number of threads of any process can wait for.

use crate::sync::{AtomicU32, Ordering, fence_after_seq_cst};
use crate::sys;
#[cfg(not(loom))]
use crate::sys::birth::Birth;

/// A bell that any number of threads of any process wait for.
#[derive(Debug, Clone, Copy)]
pub struct SharedBell<'a> {
    count: &'a AtomicU32,
    waiters: &'a AtomicU32,
}

impl<'a> SharedBell<'a> {
    /// The bell of these two words.
    pub(crate) fn new(count: &'a AtomicU32, waiters: &'a AtomicU32) -> Self {
        Self { count, waiters }
    }

    /// How often it has rung.
    #[inline]
    #[must_use]
    pub fn count(&self) -> u32 {
        self.count.load(Ordering::SeqCst)
    }

    /// Rings it and wakes all waiters.
    #[inline]
    pub fn ring(&self) {
        self.count_up();
        crash_point!("bell.counted");
        sys::futex::wake(self.count, u32::MAX);
    }

    /// Counts one more ring, for threads that compare counts; wakes no thread.
    #[inline]
    pub(crate) fn count_up(&self) {
        self.count.fetch_add(1, Ordering::SeqCst);
    }

    /// Rings it if a thread has announced that it waits. The ringing thread's last step was a `SeqCst` fence or
    /// read-modify-write, which made true what the waiters wait for.
    #[inline]
    pub fn ring_if_awaited(&self) {
        if self.is_awaited() {
            self.ring();
        }
    }

    /// Whether a thread has announced that it waits.
    #[inline]
    #[must_use]
    pub fn is_awaited(&self) -> bool {
        self.waiters.load(Ordering::SeqCst) != 0
    }

    /// Announces that this thread waits, until the guard is dropped; look once more before sleeping.
    #[must_use]
    pub fn await_rings(self) -> Awaiting<'a> {
        self.begin_to_await();
        Awaiting {
            waiters: self.waiters,
            #[cfg(not(loom))]
            birth: Birth::here(),
        }
    }

    /// [`await_rings`](Self::await_rings) for a waiter that cannot keep the guard, because it does not borrow the bell.
    pub fn begin_to_await(self) {
        self.waiters.fetch_add(1, Ordering::SeqCst);
        fence_after_seq_cst(); // pairs with the fence before `ring_if_awaited`
    }

    /// Ends what [`begin_to_await`](Self::begin_to_await) began; not in a forked child, where the parent waits.
    pub fn stop_awaiting(self) {
        self.waiters.fetch_sub(1, Ordering::SeqCst);
    }

    /// Forgets all announcements: those of threads that died with them. A thread that lives and waits would miss rings.
    pub fn forget_waiters(&self) {
        self.waiters.store(0, Ordering::SeqCst);
    }

    /// Sleeps until it has rung since `count` was read, or `timeout` expires.
    pub fn sleep(&self, count: u32, timeout: Option<core::time::Duration>) {
        sys::futex::wait(self.count, count, timeout);
    }
}

/// A thread's announcement that it waits for a bell.
#[derive(Debug)]
pub struct Awaiting<'a> {
    waiters: &'a AtomicU32,
    #[cfg(not(loom))]
    birth: Birth,
}

impl Drop for Awaiting<'_> {
    fn drop(&mut self) {
        #[cfg(not(loom))]
        if !self.birth.is_here() {
            return; // the parent waits, not this process
        }
        self.waiters.fetch_sub(1, Ordering::SeqCst);
    }
}
