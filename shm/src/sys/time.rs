//! The monotonic clock, in nanoseconds: one time base for every process of the machine.
#![expect(unsafe_code, reason = "clock_gettime")]

/// Nanoseconds since an arbitrary start that all processes of this boot share.
#[inline]
#[must_use]
pub fn now_ns() -> u64 {
    let mut spec = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `spec` is a live timespec for the call to fill; CLOCK_MONOTONIC always exists.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut spec) };
    // Both are never negative for CLOCK_MONOTONIC.
    spec.tv_sec.cast_unsigned() * 1_000_000_000 + spec.tv_nsec.cast_unsigned()
}
