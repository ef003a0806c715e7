//! CPUs: which ones this process may use, pinning, and the NUMA node of each.
#![expect(unsafe_code, reason = "sched_getaffinity and sched_setaffinity, prctl, prefetchw")]

use std::io;

/// The highest CPU number that can be named, plus one. A machine may have more: those are not used.
pub const CPU_LIMIT: usize = 1024;

/// The most CPUs that a kernel of any configuration has.
pub(crate) const KERNEL_LIMIT: usize = 8192;
/// The 64-bit words of a mask in which each kernel finds room.
const MASK_WORDS: usize = KERNEL_LIMIT / 64;

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

/// The CPUs the calling thread may run on, of those below [`CPU_LIMIT`], ascending.
///
/// # Errors
/// What `sched_getaffinity` says; `ERANGE` if it may run on none below [`CPU_LIMIT`].
pub fn allowed() -> io::Result<Vec<usize>> {
    cpus_of(0)
}

/// The CPUs that are online and on which a thread may run, as the kernel numbers it, of those below [`CPU_LIMIT`], ascending;
/// 0 is the calling thread.
///
/// # Errors
/// As [`allowed`]; `ESRCH` if there is no such thread.
pub fn cpus_of(thread: u32) -> io::Result<Vec<usize>> {
    let mut mask = [0_u64; MASK_WORDS];
    // SAFETY: a live mask of the size given; its words are those of the kernel, which are as wide on 64-bit machines.
    let done = unsafe {
        libc::sched_getaffinity(thread.cast_signed(), size_of_val(&mask), mask.as_mut_ptr().cast())
    };
    if done != 0 {
        return Err(io::Error::last_os_error());
    }
    let cpus = numbers(&mask);
    if cpus.is_empty() { Err(io::Error::from_raw_os_error(libc::ERANGE)) } else { Ok(cpus) }
}

/// The CPUs of a mask that can be named.
fn numbers(mask: &[u64; MASK_WORDS]) -> Vec<usize> {
    (0..CPU_LIMIT).filter(|&cpu| mask[cpu / 64] & 1 << (cpu % 64) != 0).collect()
}

/// Those of `cpus` that the kernel lets threads of this process use: fewer than once if the cpuset of its control group has
/// become smaller, or CPUs went offline. If none is left, those on which the calling thread may run. A thread that ends at once
/// tries it, so that the calling one stays where it is.
///
/// # Errors
/// As [`allowed`]; that no thread could be started.
pub fn usable(cpus: &[usize]) -> io::Result<Vec<usize>> {
    std::thread::scope(|scope| {
        let probe = std::thread::Builder::new().name("ringmill-cpus".into());
        let probe = probe.spawn_scoped(scope, || {
            let _ = pin_thread(cpus); // EINVAL: none is left
            allowed()
        })?;
        probe.join().unwrap_or_else(|_| Err(io::Error::from_raw_os_error(libc::EAGAIN)))
    })
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpus_that_cannot_be_named_are_left_out() {
        let mut mask = [0; MASK_WORDS];
        for cpu in [0, 63, 64, 1023, 1024, 8191] {
            mask[cpu / 64] |= 1 << (cpu % 64);
        }
        assert_eq!(numbers(&mask), [0, 63, 64, 1023]);
    }

    #[test]
    #[cfg_attr(miri, ignore = "threads are moved")]
    fn a_thread_that_was_pinned_can_tell_what_its_process_may_use() {
        let all = allowed().unwrap();
        // A CPU that no machine has is one that was taken away.
        let wanted: Vec<usize> = all.iter().copied().chain([CPU_LIMIT - 1]).collect();
        let absent = !all.contains(&(CPU_LIMIT - 1));
        let pinned = || {
            pin_thread(&all[..1]).unwrap();
            (usable(&wanted).unwrap(), usable(&wanted[all.len()..]).unwrap(), allowed().unwrap())
        };
        let (some, none, here) = std::thread::scope(|scope| scope.spawn(pinned).join()).unwrap();
        assert_eq!((some, here), (all.clone(), all[..1].to_vec()));
        assert!(!absent || none == all[..1], "{none:?}");
    }
}
