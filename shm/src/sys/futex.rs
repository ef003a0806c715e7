//! Futex wait and wake on a word that several processes map.
//!
//! *Never* the private flag: a private futex is keyed by address space, so a wake from another process
//! would be lost. Under loom both calls are modelled with a mutex and a condition variable, so that a
//! lost wake shows as a deadlock.
#![cfg_attr(
    not(loom),
    expect(unsafe_code, reason = "the futex system call and the low half of a state word")
)]

use crate::sync::AtomicU32;
use core::time::Duration;

/// Why a wait ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Woken {
    /// Another thread woke us, a signal arrived, or the word had another value already.
    Maybe,
    /// The timeout expired.
    TimedOut,
}

/// Sleeps while `word` holds `expected`, until another thread wakes it or `timeout` expires (`None`: never).
///
/// May return early without cause: callers look at the word again.
#[cfg(not(loom))]
pub fn wait(word: &AtomicU32, expected: u32, timeout: Option<Duration>) -> Woken {
    let spec = timeout.map(|t| libc::timespec {
        tv_sec: i64::try_from(t.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: i64::from(t.subsec_nanos()),
    });
    let spec_ptr = spec.as_ref().map_or(core::ptr::null(), core::ptr::from_ref);
    // SAFETY: `word` is a live, aligned u32 and `spec_ptr` is null or points to `spec`, which outlives
    // the call; the kernel reads both and writes neither.
    let result =
        unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAIT, expected, spec_ptr) };
    if result == -1 && std::io::Error::last_os_error().raw_os_error() == Some(libc::ETIMEDOUT) {
        Woken::TimedOut
    } else {
        Woken::Maybe
    }
}

/// Wakes up to `count` threads that sleep on `word`; returns how many.
#[cfg(not(loom))]
pub fn wake(word: &AtomicU32, count: u32) -> u32 {
    let count = i32::try_from(count).unwrap_or(i32::MAX);
    // SAFETY: `word` is a live, aligned u32; FUTEX_WAKE does not access it.
    let woken = unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAKE, count) };
    u32::try_from(woken).unwrap_or(0)
}

/// The futex word of a 64-bit state word: its low half.
#[cfg(not(loom))]
pub(crate) fn low_half(word: &crate::sync::AtomicU64) -> &AtomicU32 {
    const { assert!(cfg!(target_endian = "little"), "the futex word is the low half of a state word") };
    // SAFETY: the low half of a little-endian u64 lies at its own address, is aligned for a u32, and
    // lives as long. It is only handed to the kernel, which compares it: no mixed-size access of ours.
    unsafe { AtomicU32::from_ptr(word.as_ptr().cast()) }
}

#[cfg(loom)]
pub(crate) use model::{wait, wait64, wake, wake64};

/// A futex for loom: a table of sleepers by address.
#[cfg(loom)]
mod model {
    use super::{AtomicU32, Duration, Woken};
    use crate::sync::{AtomicU64, mortal};
    use loom::sync::{Condvar, Mutex};
    use std::collections::HashMap;

    #[derive(Default)]
    struct Sleepers {
        /// By address: how many sleep, and how many of them have been woken.
        by_address: HashMap<usize, (u32, u32)>,
    }

    loom::lazy_static! {
        static ref TABLE: (Mutex<Sleepers>, Condvar) =
            (Mutex::new(Sleepers::default()), Condvar::new());
    }

    fn wait_while(address: usize, same: impl Fn() -> bool) -> Woken {
        mortal::step();
        let (lock, told) = (&TABLE.0, &TABLE.1);
        let mut table = lock.lock().unwrap();
        if !same() {
            return Woken::Maybe;
        }
        table.by_address.entry(address).or_default().0 += 1;
        loop {
            table = told.wait(table).unwrap();
            let entry = table.by_address.entry(address).or_default();
            if entry.1 > 0 {
                entry.0 -= 1;
                entry.1 -= 1;
                return Woken::Maybe;
            }
        }
    }

    fn wake_address(address: usize, count: u32) -> u32 {
        mortal::step();
        let mut table = TABLE.0.lock().unwrap();
        let entry = table.by_address.entry(address).or_default();
        let woken = count.min(entry.0 - entry.1);
        entry.1 += woken;
        drop(table);
        if woken > 0 {
            TABLE.1.notify_all();
        }
        woken
    }

    /// As the real call; a timeout never expires, so that only a wake ends the sleep.
    pub(crate) fn wait(word: &AtomicU32, expected: u32, _timeout: Option<Duration>) -> Woken {
        wait_while(core::ptr::from_ref(word) as usize, || word.kernel_load() == expected)
    }

    /// As the real call.
    pub(crate) fn wake(word: &AtomicU32, count: u32) -> u32 {
        wake_address(core::ptr::from_ref(word) as usize, count)
    }

    /// [`wait`] on the low half of a 64-bit word.
    pub(crate) fn wait64(word: &AtomicU64, low: u32, _timeout: Option<Duration>) -> Woken {
        wait_while(core::ptr::from_ref(word) as usize, || word.kernel_load() as u32 == low)
    }

    /// [`wake`] on the low half of a 64-bit word.
    pub(crate) fn wake64(word: &AtomicU64, count: u32) -> u32 {
        wake_address(core::ptr::from_ref(word) as usize, count)
    }
}

/// [`wait`] on the low half of a 64-bit word.
#[cfg(not(loom))]
pub(crate) fn wait64(word: &crate::sync::AtomicU64, low: u32, timeout: Option<Duration>) -> Woken {
    wait(low_half(word), low, timeout)
}

/// [`wake`] on the low half of a 64-bit word.
#[cfg(not(loom))]
pub(crate) fn wake64(word: &crate::sync::AtomicU64, count: u32) -> u32 {
    wake(low_half(word), count)
}
