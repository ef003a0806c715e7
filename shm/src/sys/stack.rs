//! A thread that overflows its stack writes a message before its process dies.
//!
//! Rust's runtime does that for all threads of a program, but installs what it needs just before `main`. In a process
//! that never reaches `main`, a stack overflow would be a bare SIGSEGV. So the threads that ask for it get an alternate
//! stack, and SIGSEGV and SIGBUS a handler that runs there: where the address lies in the thread's guard pages, it
//! writes a line; in any case it gives the signal its default effect back and lets the instruction fail again.
//!
//! A program that has a handler of its own for these signals (a sanitizer, a virtual machine's) keeps it.
#![expect(unsafe_code, reason = "sigaction, sigaltstack, and asking pthread where a stack lies")]

use super::limit::{Limit, soft_limit};
use core::ffi::{c_int, c_void};
use std::cell::Cell;
use std::ops::Range;
use std::sync::OnceLock;

/// How far below the end of the first thread's stack, which grows as it is used, the kernel keeps other mappings away: its
/// `stack_guard_gap`.
const FIRST_THREAD_GAP: usize = 256 * 4096;
/// The limit of the first thread's stack is rounded to pages, of whatever size.
const FIRST_THREAD_SLACK: usize = 16 * 4096;

#[derive(Clone, Copy)]
struct Here {
    guard_start: usize,
    guard_end: usize,
    /// The message if it is hit.
    message: &'static str,
}

thread_local! {
    // Without a destructor, so that a signal handler may read it.
    static HERE: Cell<Here> = const { Cell::new(Here { guard_start: 0, guard_end: 0, message: "" }) };
}

/// A thread's alternate signal stack; dropped by that thread.
#[derive(Debug)]
pub struct SignalStack {
    start: *mut c_void,
    bytes: usize,
}

/// From now on, if the calling thread overflows its stack, `message` is written to standard error before the process
/// dies of SIGSEGV or SIGBUS. For as long as the returned value lives; `None` if the program handles these signals
/// itself, or the thread has a signal stack.
#[must_use]
pub fn tell_of_overflow(message: &'static str) -> Option<SignalStack> {
    static HANDLED: OnceLock<bool> = OnceLock::new();
    let guard = guard_of_this_thread()?;
    let handle_both = || [libc::SIGSEGV, libc::SIGBUS].map(handle).contains(&true);
    if !HANDLED.get_or_init(handle_both) {
        return None;
    }
    let stack = SignalStack::install()?;
    HERE.set(Here { guard_start: guard.start, guard_end: guard.end, message });
    Some(stack)
}

/// Installs the handler if the signal has its default effect; whether it had.
fn handle(signal: c_int) -> bool {
    if !super::process::signal_is_default(signal) {
        return false;
    }
    // SAFETY: an all-zero sigaction is valid; the handler is one that takes three arguments, as SA_SIGINFO has it, and does
    // what may be done in a handler.
    unsafe {
        let mut action: libc::sigaction = core::mem::zeroed();
        action.sa_sigaction = overflowed as extern "C" fn(c_int, *mut libc::siginfo_t, *mut c_void) as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
        libc::sigaction(signal, &raw const action, core::ptr::null_mut()) == 0
    }
}

extern "C" fn overflowed(signal: c_int, info: *mut libc::siginfo_t, _: *mut c_void) {
    let here = HERE.get();
    // SAFETY: the kernel gives a live siginfo; write, signal and raise may be called in a handler, and the message is
    // static. There is an address only if the kernel sent the signal, which a positive code says.
    unsafe {
        let by_kernel = (*info).si_code > 0;
        if by_kernel && (here.guard_start..here.guard_end).contains(&((*info).si_addr() as usize)) {
            libc::write(libc::STDERR_FILENO, here.message.as_ptr().cast(), here.message.len());
        }
        libc::signal(signal, libc::SIG_DFL);
        if !by_kernel {
            libc::raise(signal); // as soon as we return; no instruction would fail again
        }
    }
}

/// Where a thread that uses too much stack fails.
fn guard_of_this_thread() -> Option<Range<usize>> {
    let (mut start, mut bytes, mut guard) = (core::ptr::null_mut(), 0, 0);
    // SAFETY: `attributes` is filled by the first call, if it succeeds, and destroyed by the last; the others write to live
    // variables. An all-zero value is valid to be overwritten.
    let known = unsafe {
        let mut attributes: libc::pthread_attr_t = core::mem::zeroed();
        if libc::pthread_getattr_np(libc::pthread_self(), &raw mut attributes) != 0 {
            return None;
        }
        let stack = libc::pthread_attr_getstack(&raw const attributes, &raw mut start, &raw mut bytes);
        let guarded = libc::pthread_attr_getguardsize(&raw const attributes, &raw mut guard);
        libc::pthread_attr_destroy(&raw mut attributes);
        stack == 0 && guarded == 0
    };
    if !known {
        return None;
    }
    let start = start as usize;
    // SAFETY: take nothing.
    let first = unsafe { libc::getpid() == libc::gettid() };
    match first {
        true => guard_of_first_thread(),
        // C libraries differ in whether the guard is part of the stack.
        false => Some(start.saturating_sub(guard)..start.saturating_add(guard)),
    }
}

/// The first thread's stack grows as it is used, up to a limit below its end; C libraries differ in how much of it they
/// take for the stack. `None` without a limit.
fn guard_of_first_thread() -> Option<Range<usize>> {
    let limit = usize::try_from(soft_limit(Limit::StackBytes)?).ok()?;
    let within = &raw const limit as usize;
    let end = super::program::mapping_of(within)?.0.end;
    let lowest = end.checked_sub(limit)?;
    Some(lowest.saturating_sub(FIRST_THREAD_GAP)..lowest.saturating_add(FIRST_THREAD_SLACK))
}

impl SignalStack {
    fn install() -> Option<Self> {
        // SAFETY: each call gets integers or live structures. The mapping is this thread's own, and its lowest page stays
        // closed, so that an overflow of the signal stack touches nothing else.
        unsafe {
            let mut former: libc::stack_t = core::mem::zeroed();
            if libc::sigaltstack(core::ptr::null(), &raw mut former) != 0
                || former.ss_flags & libc::SS_DISABLE == 0
            {
                return None;
            }
            let page = usize::try_from(libc::sysconf(libc::_SC_PAGESIZE)).ok()?;
            // What the kernel writes there has grown with the CPUs' registers.
            let least = libc::getauxval(libc::AT_MINSIGSTKSZ) as usize;
            let usable = (least + libc::SIGSTKSZ).next_multiple_of(page);
            let bytes = page + usable;
            let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
            let start = libc::mmap(core::ptr::null_mut(), bytes, libc::PROT_NONE, flags, -1, 0);
            if start == libc::MAP_FAILED {
                return None;
            }
            let stack = Self { start, bytes };
            let lowest = start.byte_add(page);
            let new = libc::stack_t { ss_sp: lowest, ss_flags: 0, ss_size: usable };
            let open = libc::mprotect(lowest, usable, libc::PROT_READ | libc::PROT_WRITE) == 0;
            (open && libc::sigaltstack(&raw const new, core::ptr::null_mut()) == 0).then_some(stack)
        }
    }
}

impl Drop for SignalStack {
    fn drop(&mut self) {
        HERE.set(Here { guard_start: 0, guard_end: 0, message: "" });
        let none = libc::stack_t { ss_sp: core::ptr::null_mut(), ss_flags: libc::SS_DISABLE, ss_size: 0 };
        // SAFETY: the mapping is ours, and from the first call on no signal handler of this thread runs there.
        unsafe {
            libc::sigaltstack(&raw const none, core::ptr::null_mut());
            libc::munmap(self.start, self.bytes);
        }
    }
}

/// Names the calling thread, as process lists show it; of the first thread, that is the process's name. Up to 15 bytes of
/// it are kept.
pub fn name_thread(name: &core::ffi::CStr) {
    // SAFETY: a live C string, which is copied.
    unsafe { libc::prctl(libc::PR_SET_NAME, name.as_ptr()) };
}
