//! CPUs: which ones this process may use, pinning, and the NUMA node of each.
#![expect(unsafe_code, reason = "sched_getaffinity and sched_setaffinity, prctl, prefetchw")]

use std::io;

/// The highest CPU number that can be named, plus one.
pub const CPU_LIMIT: usize = 1024;

/// Begins to fetch a cache line for writing: a hint, for which any address will do.
#[inline(always)]
pub(crate) fn prefetch_to_write<T>(line: *const T) {
    // The intrinsic becomes a fetch for reading unless the whole program is built for newer CPUs; those that do not know
    // `prefetchw` do nothing.
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a prefetch is a hint and accesses nothing.
    unsafe {
        core::arch::asm!("prefetchw [{line}]", line = in(reg) line, options(nostack, preserves_flags, readonly));
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = line;
}

/// The CPUs the calling thread may run on, ascending.
///
/// # Errors
/// What `sched_getaffinity` says; in practice only on a machine with more than [`CPU_LIMIT`] CPUs.
pub fn allowed() -> io::Result<Vec<usize>> {
    cpus_of(0)
}

/// The CPUs that are online and on which a thread may run, as the kernel numbers it, ascending; 0 is the calling thread.
///
/// # Errors
/// As [`allowed`]; `ESRCH` if there is no such thread.
pub fn cpus_of(thread: u32) -> io::Result<Vec<usize>> {
    // SAFETY: an all-zero cpu_set_t is a valid empty set.
    let mut set: libc::cpu_set_t = unsafe { core::mem::zeroed() };
    // SAFETY: `set` is a live cpu_set_t of the size given.
    if unsafe { libc::sched_getaffinity(thread.cast_signed(), size_of_val(&set), &raw mut set) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: every index is below CPU_SETSIZE, which is what a cpu_set_t holds.
    Ok((0..CPU_LIMIT).filter(|&cpu| unsafe { libc::CPU_ISSET(cpu, &set) }).collect())
}

/// Lets the calling thread (and threads it starts later) run on `cpus` only.
///
/// # Errors
/// `EINVAL` if none of `cpus` may be used by this process, or one is not below [`CPU_LIMIT`].
pub fn pin_thread(cpus: &[usize]) -> io::Result<()> {
    pin(0, cpus)
}

/// Lets a thread, as the kernel numbers it, run on `cpus` only; 0 is the calling thread.
///
/// # Errors
/// As [`pin_thread`]; `ESRCH` if there is no such thread, `EPERM` if it is another user's.
pub fn pin(thread: u32, cpus: &[usize]) -> io::Result<()> {
    // SAFETY: an all-zero cpu_set_t is a valid empty set.
    let mut set: libc::cpu_set_t = unsafe { core::mem::zeroed() };
    for &cpu in cpus {
        if cpu >= CPU_LIMIT {
            return Err(io::Error::from_raw_os_error(libc::EINVAL));
        }
        // SAFETY: the index is below CPU_SETSIZE.
        unsafe { libc::CPU_SET(cpu, &mut set) };
    }
    // SAFETY: `set` is a live cpu_set_t of the size given.
    if unsafe { libc::sched_setaffinity(thread.cast_signed(), size_of_val(&set), &raw const set) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// The NUMA node of a CPU, if the kernel names it.
#[must_use]
pub fn numa_node(cpu: usize) -> Option<usize> {
    std::fs::read_dir(format!("/sys/devices/system/cpu/cpu{cpu}"))
        .ok()?
        .filter_map(Result::ok)
        .find_map(|entry| entry.file_name().to_str()?.strip_prefix("node")?.parse().ok())
}

/// Lets short sleeps of the calling thread end on time: the default slack of 50 µs would be added to
/// every batch window.
pub fn set_precise_sleep() {
    // SAFETY: PR_SET_TIMERSLACK takes a number of nanoseconds and no pointer.
    unsafe { libc::prctl(libc::PR_SET_TIMERSLACK, 1_000_u64) };
}
