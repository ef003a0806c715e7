//! The soft limits of this process.
#![expect(unsafe_code, reason = "getrlimit")]

/// Of what.
#[derive(Clone, Copy)]
pub(super) enum Limit {
    /// The size of a file, in bytes.
    FileBytes,
    /// Memory that a process without privileges may lock, in bytes.
    LockedBytes,
    /// The highest descriptor, plus one.
    Descriptors,
    /// The first thread's stack, in bytes.
    StackBytes,
}

/// The limit; `None` if there is none.
pub(super) fn soft_limit(of: Limit) -> Option<u64> {
    let resource = match of {
        Limit::FileBytes => libc::RLIMIT_FSIZE,
        Limit::LockedBytes => libc::RLIMIT_MEMLOCK,
        Limit::Descriptors => libc::RLIMIT_NOFILE,
        Limit::StackBytes => libc::RLIMIT_STACK,
    };
    let mut limit = libc::rlimit { rlim_cur: libc::RLIM_INFINITY, rlim_max: libc::RLIM_INFINITY };
    // SAFETY: a live structure to fill. It cannot fail.
    unsafe { libc::getrlimit(resource, &raw mut limit) };
    (limit.rlim_cur != libc::RLIM_INFINITY).then_some(limit.rlim_cur)
}
