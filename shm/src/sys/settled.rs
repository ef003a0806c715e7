//! A value of the whole program that the first call makes, for which no thread ever waits.
//!
//! `OnceLock` and `Mutex` make a thread wait for the one that is at work. A child that is forked at that moment has no such
//! thread: there the wait has no end. Here two threads that ask at once both make the value, and the first one's stays.
//! A child has its parent's value, or makes its own.
#![expect(unsafe_code, reason = "a shared reference to what was leaked")]

use core::fmt;
use core::ptr;
use core::sync::atomic::{AtomicPtr, Ordering};

/// See the module. What it holds is never dropped.
pub struct Settled<T: 'static>(AtomicPtr<T>);

impl<T: Send + Sync + 'static> Settled<T> {
    /// Nothing is made yet.
    #[must_use]
    pub const fn new() -> Self {
        Self(AtomicPtr::new(ptr::null_mut()))
    }

    /// The value, if it is there.
    #[must_use]
    pub fn get(&self) -> Option<&'static T> {
        // SAFETY: null, or one that `set` has leaked. From its thread to this one it goes as a shared reference to what
        // is `Send` and `Sync`.
        unsafe { self.0.load(Ordering::Acquire).as_ref() }
    }

    /// Sets the value, if there is none yet.
    ///
    /// # Errors
    /// The value that was offered.
    pub fn set(&self, value: T) -> Result<&'static T, T> {
        let made = Box::into_raw(Box::new(value));
        match self.0.compare_exchange(ptr::null_mut(), made, Ordering::AcqRel, Ordering::Relaxed) {
            // SAFETY: it was leaked above, and stays.
            Ok(_) => Ok(unsafe { &*made }),
            // SAFETY: it was made above, and nothing else has it.
            Err(_) => Err(*unsafe { Box::from_raw(made) }),
        }
    }

    /// The value. `make` may run in several threads at once, and what all but one of them make is dropped.
    pub fn get_or_make(&self, make: impl FnOnce() -> T) -> &'static T {
        match self.get() {
            Some(value) => value,
            None => {
                let _ = self.set(make()); // or another thread's
                self.get().expect("there is one now")
            }
        }
    }
}

impl<T: Send + Sync + 'static> Default for Settled<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T: Send + Sync + fmt::Debug + 'static> fmt::Debug for Settled<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Settled").field(&self.get()).finish()
    }
}

#[cfg(all(test, not(miri)))]
mod tests {
    use super::*;
    use std::sync::mpsc::channel;

    #[test]
    fn the_first_value_stays() {
        static VALUE: Settled<u32> = Settled::new();
        assert_eq!(VALUE.get(), None);
        assert_eq!(*VALUE.get_or_make(|| 1), 1);
        assert_eq!(VALUE.set(2), Err(2));
        assert_eq!(*VALUE.get_or_make(|| 3), 1);
    }

    /// Symptom: a child that was forked while another thread computed a value of the program hung. Cause: it waited for
    /// that thread, which a child does not have.
    #[test]
    fn a_child_forked_while_a_thread_makes_the_value_makes_its_own() {
        static VALUE: Settled<u32> = Settled::new();
        let (begun, await_begin) = channel();
        let (end, await_end) = channel();
        let maker = std::thread::spawn(move || {
            *VALUE.get_or_make(|| {
                begun.send(()).unwrap();
                await_end.recv().unwrap();
                7
            })
        });
        await_begin.recv().unwrap();
        // SAFETY: the child makes system calls and a small allocation, and ends.
        let child = match unsafe { libc::fork() } {
            // SAFETY: integers; the alarm ends the child if it hangs.
            0 => unsafe {
                libc::alarm(10);
                libc::_exit(i32::from(*VALUE.get_or_make(|| 8) != 8))
            },
            child => child,
        };
        let mut status = 0;
        // SAFETY: a child of ours, and a live integer to fill.
        unsafe { libc::waitpid(child, &raw mut status, 0) };
        end.send(()).unwrap();
        assert_eq!(status, 0);
        assert_eq!(maker.join().unwrap(), 7);
        assert_eq!(VALUE.get(), Some(&7));
    }
}
