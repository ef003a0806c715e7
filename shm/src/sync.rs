//! The one import point for atomics: `core`'s, or loom's when models are checked.
//!
//! Algorithms that loom explores (word, ring, lock, doorbell) take *references* to these types: in a segment they lie
//! in mapped bytes, in a model on the heap. In a model a thread can also die before any write, as a process can be
//! killed between any two. (A death before a read leaves what a death before the next write leaves.)

#[cfg(not(loom))]
pub(crate) use core::sync::atomic::{AtomicU32, AtomicU64, fence};
#[cfg(loom)]
pub(crate) use loom::sync::atomic::fence;
#[cfg(loom)]
pub(crate) use mortal::{AtomicU32, AtomicU64, HeaderU32, HeaderU64, PayloadCell};

pub(crate) use core::sync::atomic::Ordering;
#[cfg(not(loom))]
pub(crate) use core::sync::atomic::compiler_fence;
/// Fields of a task's header, which its owner alone reads and writes (`[one owner]` of `arena`). Loom does not watch
/// them, so that scenes stay small; but a thread may die before it writes one.
#[cfg(not(loom))]
pub(crate) use core::sync::atomic::{AtomicU32 as HeaderU32, AtomicU64 as HeaderU64};
#[cfg(loom)]
pub(crate) fn compiler_fence(_: Ordering) {} // a thread of a model dies between steps in the order of the program

/// Payload bytes of a task: its owner's. Loom watches each read and write of them.
#[cfg(not(loom))]
#[derive(Debug)]
#[repr(transparent)]
pub(crate) struct PayloadCell<const N: usize>(core::cell::UnsafeCell<[u8; N]>);

#[cfg(not(loom))]
impl<const N: usize> PayloadCell<N> {
    /// To be read from.
    #[inline(always)]
    pub(crate) fn to_read(&self) -> *mut u8 {
        self.0.get().cast()
    }

    /// To be written to.
    #[inline(always)]
    pub(crate) fn to_write(&self) -> *mut u8 {
        self.0.get().cast()
    }
}

/// A full fence that follows a `SeqCst` access of the same thread: the middle of "publish, full fence,
/// look".
///
/// On x86-64 a write of that order is a locked instruction and thereby the fence, and reads keep their order; there
/// only the compiler must keep it. Elsewhere (and for loom, which treats `SeqCst` accesses as `AcqRel`) a later read is
/// not ordered after the write unless it is `SeqCst` too, so the fence is real.
#[inline(always)]
pub(crate) fn fence_after_seq_cst() {
    #[cfg(all(target_arch = "x86_64", not(loom)))]
    core::sync::atomic::compiler_fence(Ordering::SeqCst);
    #[cfg(any(not(target_arch = "x86_64"), loom))]
    fence(Ordering::SeqCst);
}

/// Tells the CPU (or loom's scheduler) that this thread is waiting for another one.
#[inline(always)]
pub(crate) fn spin_loop() {
    #[cfg(not(loom))]
    core::hint::spin_loop();
    #[cfg(loom)]
    loom::thread::yield_now();
}

/// Loom's atomics, with a step before each write at which the writing thread may die.
#[cfg(loom)]
pub(crate) mod mortal {
    use super::Ordering;
    use core::cell::Cell;

    loom::thread_local! {
        /// How many writes this thread has left; `None`: it lives on.
        static LEFT: Cell<Option<u32>> = Cell::new(None);
    }

    /// What a dying thread unwinds with.
    struct Died;

    /// Here the thread may die.
    pub(crate) fn step() {
        LEFT.with(|left| match left.get() {
            None => {}
            // Not a panic: no hook runs, and `perish` takes nothing else for a death.
            Some(0) => std::panic::resume_unwind(Box::new(Died)),
            Some(n) => left.set(Some(n - 1)),
        });
    }

    /// Runs `life`, which dies before its write number `writes`, counted from 0; whether it did. Nothing in it
    /// cleans up: the algorithms hold no guards.
    #[cfg(test)]
    pub(crate) fn perish(writes: u32, life: impl FnOnce()) -> bool {
        LEFT.with(|left| left.set(Some(writes)));
        let end = std::panic::catch_unwind(std::panic::AssertUnwindSafe(life));
        LEFT.with(|left| left.set(None));
        match end {
            Ok(()) => false,
            Err(why) if why.is::<Died>() => true,
            Err(why) => std::panic::resume_unwind(why),
        }
    }

    macro_rules! mortal {
        ($name:ident, $int:ty) => {
            #[derive(Debug)]
            pub(crate) struct $name(loom::sync::atomic::$name);

            impl $name {
                pub(crate) fn new(value: $int) -> Self {
                    Self(loom::sync::atomic::$name::new(value))
                }

                /// A read by the kernel: no step of the thread.
                pub(crate) fn kernel_load(&self) -> $int {
                    self.0.load(Ordering::SeqCst)
                }

                pub(crate) fn load(&self, order: Ordering) -> $int {
                    self.0.load(order)
                }

                pub(crate) fn store(&self, value: $int, order: Ordering) {
                    step();
                    self.0.store(value, order);
                }

                pub(crate) fn compare_exchange(
                    &self,
                    current: $int,
                    new: $int,
                    success: Ordering,
                    failure: Ordering,
                ) -> Result<$int, $int> {
                    step();
                    self.0.compare_exchange(current, new, success, failure)
                }
            }
        };
    }

    macro_rules! header {
        ($name:ident, $atomic:ident, $int:ty) => {
            #[derive(Debug, Default)]
            pub(crate) struct $name(core::sync::atomic::$atomic);

            impl $name {
                pub(crate) fn load(&self, order: Ordering) -> $int {
                    self.0.load(order)
                }

                pub(crate) fn store(&self, value: $int, order: Ordering) {
                    step();
                    self.0.store(value, order);
                }
            }
        };
    }
    header!(HeaderU32, AtomicU32, u32);
    header!(HeaderU64, AtomicU64, u64);

    /// See [`super::PayloadCell`].
    #[derive(Debug)]
    pub(crate) struct PayloadCell<const N: usize>(loom::cell::UnsafeCell<[u8; N]>);

    impl<const N: usize> PayloadCell<N> {
        pub(crate) fn new() -> Self {
            Self(loom::cell::UnsafeCell::new([0; N]))
        }

        pub(crate) fn to_read(&self) -> *mut u8 {
            self.0.with(|bytes| bytes.cast_mut().cast())
        }

        pub(crate) fn to_write(&self) -> *mut u8 {
            self.0.with_mut(|bytes| bytes.cast())
        }
    }

    macro_rules! mortal_rmw {
        ($name:ident, $int:ty: $($method:ident)*) => {
            impl $name {
                $(pub(crate) fn $method(&self, value: $int, order: Ordering) -> $int {
                    step();
                    self.0.$method(value, order)
                })*
            }
        };
    }

    mortal!(AtomicU32, u32);
    mortal!(AtomicU64, u64);
    mortal_rmw!(AtomicU32, u32: swap fetch_add fetch_sub fetch_or fetch_and);
    mortal_rmw!(AtomicU64, u64: fetch_add fetch_or fetch_and fetch_max swap);
}
