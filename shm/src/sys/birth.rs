//! Which process this is, found by one load: a value that belongs to a process stores its [`Birth`], and checks that it
//! is [here](Birth::is_here) before it acts.
//!
//! A pid does not serve: reading it is a system call, and pids are reused.
//!
//! # Protocol
//!
//! One page of this program's memory holds the number of the process, 0 until the first [`Birth::here`]. The kernel
//! wipes that page in every child (`MADV_WIPEONFORK`), whether the child is made by `fork`, `_Fork` or a bare `clone`:
//! a child reads 0 and draws the next number from a counter in ordinary memory, of which it has a copy. So a process
//! has another number than each of its ancestors, the only processes from which it can have inherited anything.
//!
//! A process that shares its parent's memory (`vfork`, `posix_spawn`) sees the parent's number; it may only exec, which
//! discards all of this.
//!
//! # Invariants
//!
//! * `[own number]`: the number in the page was drawn in this process. Where the kernel refuses to wipe (before 4.14, a
//!   filter, an emulator), a handler of `pthread_atfork` does; a child of a bare `clone` then has its parent's number.
//!
//! # Ordering
//!
//! None is needed: a process's number, once drawn, does not change, and a child begins with one thread.
#![expect(unsafe_code, reason = "madvise, pthread_atfork, and values made once a process")]

use core::fmt;
use core::num::NonZeroU64;
use core::ptr;
use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, AtomicUsize, Ordering};

/// No page of these machines is larger (x86 has 4 KiB only).
const PAGE_BYTES: usize = if cfg!(target_arch = "x86_64") { 1 << 12 } else { 1 << 16 };

/// A page, and nothing else in it. It lies among the zeroed statics, which no file backs.
#[cfg_attr(target_arch = "x86_64", repr(C, align(4096)))]
#[cfg_attr(not(target_arch = "x86_64"), repr(C, align(65536)))]
struct Page {
    number: AtomicU64,
    _rest: [u8; PAGE_BYTES - 8],
}

const _: () = assert!(size_of::<Page>() == PAGE_BYTES && align_of::<Page>() == PAGE_BYTES);

/// See the module's head.
static PAGE: Page = Page { number: AtomicU64::new(0), _rest: [0; PAGE_BYTES - 8] };
/// The last number that was drawn, here or in an ancestor.
static LAST: AtomicU64 = AtomicU64::new(0);
/// The page is wiped in children, and hooks run.
static ARMED: AtomicBool = AtomicBool::new(false);

/// A process, among those that it descends from.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Birth(NonZeroU64);

impl Birth {
    /// This process.
    #[inline]
    #[must_use]
    pub fn here() -> Self {
        Self(NonZeroU64::new(PAGE.number.load(Ordering::Relaxed)).unwrap_or_else(draw))
    }

    /// Whether it is this process; if not, this one was forked from it, or from a child of it.
    #[inline(always)]
    #[must_use]
    pub fn is_here(self) -> bool {
        PAGE.number.load(Ordering::Relaxed) == self.0.get() // [own number]
    }
}

impl fmt::Debug for Birth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Birth({}{})", self.0, if self.is_here() { "" } else { ", of an ancestor" })
    }
}

#[cold]
fn draw() -> NonZeroU64 {
    arm();
    let drawn = LAST.fetch_add(1, Ordering::Relaxed) + 1; // Relaxed: numbers only have to differ
    let number = match PAGE.number.compare_exchange(0, drawn, Ordering::Relaxed, Ordering::Relaxed) {
        Ok(_) => drawn,
        Err(of_another_thread) => of_another_thread,
    };
    NonZeroU64::new(number).expect("the counter does not go round")
}

/// Lets the kernel wipe the page in children. A second call, by another thread or by a child that was forked meanwhile,
/// does no harm.
fn arm() {
    if cfg!(miri) || ARMED.load(Ordering::Acquire) {
        return;
    }
    // SAFETY: whole pages of ours that no reference to plain memory points into, neither here nor in a child (`_rest`
    // is never read); what the advice does to them in a child is what `number` is for.
    unsafe {
        let page_bytes = usize::try_from(libc::sysconf(libc::_SC_PAGESIZE)).unwrap_or(usize::MAX);
        let at: *const Page = &raw const PAGE;
        if page_bytes <= PAGE_BYTES && at.addr().is_multiple_of(page_bytes) {
            // Where the kernel refuses, the handler below does the same.
            libc::madvise(at.cast_mut().cast(), PAGE_BYTES, libc::MADV_WIPEONFORK);
        }
    }
    // SAFETY: the handlers call what may be called between fork and the child's next steps: see `hooks`.
    unsafe { libc::pthread_atfork(Some(before), Some(in_parent), Some(in_child)) };
    ARMED.store(true, Ordering::Release);
}

/// Forks that have begun, and that have ended, in this process.
static BEGUN: AtomicUsize = AtomicUsize::new(0);
static ENDED: AtomicUsize = AtomicUsize::new(0);

/// Hooks at most: each is a module's of these crates.
const HOOKS: usize = 4;
static HOOK: [AtomicPtr<()>; HOOKS] = [const { AtomicPtr::new(ptr::null_mut()) }; HOOKS];

extern "C" fn before() {
    BEGUN.fetch_add(1, Ordering::SeqCst);
}

extern "C" fn in_parent() {
    ENDED.fetch_add(1, Ordering::SeqCst);
}

extern "C" fn in_child() {
    PAGE.number.store(0, Ordering::Relaxed); // as the kernel has done, unless it refuses
    ENDED.store(BEGUN.load(Ordering::SeqCst), Ordering::SeqCst);
    for hook in HOOK.iter().map(|hook| hook.load(Ordering::Acquire)).filter(|hook| !hook.is_null()) {
        // SAFETY: only `run_in_children` stores here, and it stores functions of this type.
        unsafe { core::mem::transmute::<*mut (), fn()>(hook)() };
    }
}

/// Lets `hook` run first of all in children made by `fork`, not in those of `_Fork` and bare `clone`. It may do what a
/// signal handler may.
///
/// # Panics
/// If there are too many.
pub fn run_in_children(hook: fn()) {
    let _ = Birth::here();
    let hook = hook as *mut ();
    for hooked in &HOOK {
        match hooked.compare_exchange(ptr::null_mut(), hook, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => return,
            Err(there) if there == hook => return,
            Err(_) => {}
        }
    }
    panic!("more than {HOOKS} hooks for children");
}

/// Runs `make` while no `fork` is in progress: if one is, this drops the result and runs `make` again. A fork never
/// waits. For a fork that does not end (this thread's own, as a signal handler forks during `make`, or one of many in a
/// row) this retries some thousand times at most.
///
/// # Errors
/// Those of `make`.
pub fn without_forks<T, E>(mut make: impl FnMut() -> Result<T, E>) -> Result<T, E> {
    const ATTEMPTS: u32 = 10_000;
    let _ = Birth::here();
    for _ in 0..ATTEMPTS {
        let begun = BEGUN.load(Ordering::SeqCst);
        if ENDED.load(Ordering::SeqCst) == begun {
            let made = make()?;
            if BEGUN.load(Ordering::SeqCst) == begun {
                return Ok(made);
            }
        }
        std::thread::yield_now();
    }
    make()
}

/// A value of a process: made when it is first asked for, and anew in a child that asks. The child leaves the parent's
/// value as it was at the fork: a lock that is held for ever, a thread that does not exist.
pub struct PerProcess<T: 'static> {
    made: AtomicPtr<Made<T>>,
    make: fn() -> T,
}

struct Made<T> {
    birth: Birth,
    value: T,
}

impl<T: 'static> PerProcess<T> {
    /// Nothing is made yet.
    pub const fn new(make: fn() -> T) -> Self {
        Self { made: AtomicPtr::new(ptr::null_mut()), make }
    }

    /// This process's value, if it is made. May be called in a signal handler.
    #[inline]
    pub fn get(&self) -> Option<&'static T> {
        // SAFETY: null, or one that `get_or_make` has leaked.
        let made = unsafe { self.made.load(Ordering::Acquire).as_ref() };
        made.filter(|made| made.birth.is_here()).map(|made| &made.value)
    }

    /// This process's value.
    pub fn get_or_make(&self) -> &'static T {
        loop {
            if let Some(value) = self.get() {
                return value;
            }
            // The pointer is an ancestor's, or null: only the exchange below changes it.
            let former = self.made.load(Ordering::Acquire);
            // SAFETY: as in `get`.
            if unsafe { former.as_ref() }.is_some_and(|made| made.birth.is_here()) {
                continue; // another thread was faster
            }
            let made = Box::into_raw(Box::new(Made { birth: Birth::here(), value: (self.make)() }));
            if self.made.compare_exchange(former, made, Ordering::AcqRel, Ordering::Acquire).is_err() {
                // SAFETY: it was made above, and no other thread has it.
                drop(unsafe { Box::from_raw(made) });
            }
        }
    }
}

impl<T> fmt::Debug for PerProcess<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PerProcess").field("made", &self.get().is_some()).finish_non_exhaustive()
    }
}

// SAFETY: what it gives is a shared reference, to any thread, and what it makes may be dropped by another thread.
unsafe impl<T: Send + Sync> Sync for PerProcess<T> {}

#[cfg(all(test, not(miri)))]
mod tests {
    use super::*;
    use std::sync::Mutex;

    /// Runs `child` in a child made as `fork` says, and gives its exit code.
    fn in_child_of(fork: impl FnOnce() -> i32, child: impl FnOnce() -> i32) -> i32 {
        match fork() {
            // SAFETY: ends the child, with no exit handlers.
            0 => unsafe {
                libc::_exit(std::panic::catch_unwind(std::panic::AssertUnwindSafe(child)).unwrap_or(99))
            },
            pid => {
                let mut status = 0;
                // SAFETY: a child of ours, and a live integer to fill.
                assert_eq!(unsafe { libc::waitpid(pid, &raw mut status, 0) }, pid);
                assert!(libc::WIFEXITED(status), "{status:x}");
                libc::WEXITSTATUS(status)
            }
        }
    }

    fn fork() -> i32 {
        // SAFETY: the child does little, and no lock that another thread may hold is taken there.
        unsafe { libc::fork() }
    }

    /// With no handlers of `pthread_atfork`.
    fn bare_clone() -> i32 {
        // SAFETY: as a fork: new memory, the same stack.
        (unsafe { libc::syscall(libc::SYS_clone, libc::SIGCHLD, 0, 0, 0, 0) }) as i32
    }

    #[test]
    fn a_child_is_another_process_however_it_was_made() {
        let ours = Birth::here();
        assert!(ours.is_here() && Birth::here() == ours);
        for make in [fork, bare_clone] {
            let code = in_child_of(make, || {
                let asked_first = !ours.is_here();
                let theirs = Birth::here();
                let grandchild = in_child_of(make, || {
                    let last = Birth::here();
                    i32::from(
                        !(!ours.is_here()
                            && !theirs.is_here()
                            && last.is_here()
                            && last != ours
                            && last != theirs),
                    )
                });
                i32::from(!(asked_first && theirs != ours && theirs.is_here() && !ours.is_here()))
                    + 2 * grandchild
            });
            assert_eq!(code, 0);
            assert!(ours.is_here(), "nothing has changed here");
        }
    }

    #[test]
    fn a_child_that_asks_has_its_own_value() {
        static VALUE: PerProcess<Mutex<u32>> = PerProcess::new(|| Mutex::new(7));
        assert!(VALUE.get().is_none());
        let held = VALUE.get_or_make().lock().unwrap();
        let code = in_child_of(fork, || {
            let unmade = VALUE.get().is_none();
            let mine = VALUE.get_or_make(); // the parent's is locked here for ever
            *mine.lock().unwrap() += 1;
            i32::from(!(unmade && *VALUE.get_or_make().lock().unwrap() == 8))
        });
        assert_eq!(code, 0);
        assert_eq!(*held, 7);
    }

    #[test]
    fn hooks_run_in_children_alone() {
        static RUN: AtomicUsize = AtomicUsize::new(0);
        run_in_children(|| {
            RUN.fetch_add(1, Ordering::SeqCst);
        });
        assert_eq!(in_child_of(fork, || RUN.load(Ordering::SeqCst) as i32), 1);
        assert_eq!(RUN.load(Ordering::SeqCst), 0);
    }

    #[test]
    fn what_is_made_without_forks_is_made_again_after_one() {
        let mut made = 0;
        let attempts = without_forks(|| {
            made += 1;
            if made == 1 {
                assert_eq!(in_child_of(fork, || 0), 0);
            }
            Ok::<_, ()>(made)
        });
        assert!(attempts.unwrap() >= 2, "more, if other tests fork too");
    }
}
