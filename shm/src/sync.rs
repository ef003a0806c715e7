//! The one import point for atomics: `core`'s, or loom's when models are checked.
//!
//! Algorithms that loom explores (word, ring, lock, doorbell) take *references* to these types: in a
//! segment they lie in mapped bytes, in a model on the heap.

#[cfg(not(loom))]
pub(crate) use core::sync::atomic::{AtomicU32, AtomicU64, fence};
#[cfg(loom)]
pub(crate) use loom::sync::atomic::{AtomicU32, AtomicU64, fence};

pub(crate) use core::sync::atomic::Ordering;

/// A full fence that directly follows a `SeqCst` read-modify-write of the same thread, and precedes a
/// `SeqCst` load: the middle of "publish, full fence, look".
///
/// In the memory model the pair is ordered by the single total order of the four `SeqCst` accesses, so
/// no fence is needed; loom treats `SeqCst` accesses as `AcqRel` and needs the fence to see it.
#[inline(always)]
pub(crate) fn fence_after_rmw() {
    if cfg!(loom) {
        fence(Ordering::SeqCst);
    }
}

/// Tells the CPU (or loom's scheduler) that this thread is waiting for another one.
#[inline(always)]
pub(crate) fn spin_loop() {
    #[cfg(not(loom))]
    core::hint::spin_loop();
    #[cfg(loom)]
    loom::thread::yield_now();
}
