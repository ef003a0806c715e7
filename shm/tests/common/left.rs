//! The words that tests of deaths write: a task's word as its owner leaves it that dies after a transition.
//!
//! A test of `src/word.rs` holds each against the transition itself, and for that this file is a part of two crates; so it knows only
//! numbers.

/// After a transition to this phase: the caller's flags stay, but WAITING, since the owner that ends a task wakes its
/// caller; ERROR is as given.
pub(crate) fn after(before: u64, phase: u64, owner: u32, error: bool) -> u64 {
    const KEPT: u64 = 0x1aff_ffff;
    u64::from(owner) << 32 | before & KEPT | phase << 29 | u64::from(error) << 26
}

/// After the caller has gone.
pub(crate) fn cancelled(before: u64) -> u64 {
    before | 1 << 25
}
