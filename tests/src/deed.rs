//! What a worker's code may do with its process besides its work: fork, or exec another program.
//!
//! The storm puts one order at a time into memory that it shares with its workers: a deed, the servlet whose code does it, and
//! how long a helper lives. The first worker of that servlet to begin an item takes the order: one compare-and-swap writes its
//! pid beside it. So the storm knows the worker before it obeys.
#![expect(unsafe_code, reason = "fork and exec")]

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// What the worker does. In every deed but the last two its process goes on with the item.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Deed {
    /// It forks a helper, which lives for a while, and ends with code 0.
    Help = 1,
    /// It forks a child, which returns into the code that the engine called; the engine ends the child with code 1.
    Stray = 2,
    /// It execs a program that sleeps for longer than any patience.
    BecomeSleep = 3,
    /// It execs a program that ends at once with code 0.
    BecomeTrue = 4,
}

/// Stands in place of a pid if the system had no room for a child.
pub const NO_CHILD: u32 = u32::MAX;

/// An order, and the report of the worker that takes it.
#[derive(Debug)]
#[repr(C)]
pub struct Order {
    /// From the lowest byte: deed, servlet, two bytes of milliseconds, and the taker's pid. 0: none.
    order: AtomicU64,
    /// The child that was forked; 0: not yet.
    child: AtomicU32,
}

impl Order {
    /// Orders a worker of this servlet to do a deed; a helper lives for this many milliseconds.
    pub fn give(&self, deed: Deed, servlet: u8, milliseconds: u16) {
        self.child.store(0, Ordering::SeqCst);
        let order = u64::from(deed as u8) | u64::from(servlet) << 8 | u64::from(milliseconds) << 16;
        self.order.store(order, Ordering::SeqCst);
    }

    /// The last deed ordered.
    pub fn deed(&self) -> Deed {
        let [deed, ..] = self.order.load(Ordering::SeqCst).to_le_bytes();
        let deeds = [Deed::Help, Deed::Stray, Deed::BecomeSleep];
        deeds.into_iter().find(|known| *known as u8 == deed).unwrap_or(Deed::BecomeTrue)
    }

    /// The pid of the worker that has taken the order which was given last, unless it was withdrawn.
    pub fn taker(&self) -> Option<u32> {
        let pid = (self.order.load(Ordering::SeqCst) >> 32) as u32;
        (pid != 0).then_some(pid)
    }

    /// The child of that worker: a pid, or [`NO_CHILD`].
    pub fn child(&self) -> Option<u32> {
        let child = self.child.load(Ordering::SeqCst);
        (child != 0).then_some(child)
    }

    /// Takes the order back; false if a worker has taken it.
    pub fn withdraw(&self) -> bool {
        let order = self.order.load(Ordering::SeqCst);
        order >> 32 == 0 && self.order.compare_exchange(order, 0, Ordering::SeqCst, Ordering::SeqCst).is_ok()
    }

    /// The worker's side: obeys an order to this servlet if this worker is the first. Returns true in a child that must return
    /// to the engine at once: its inputs change while it sees them.
    #[must_use]
    pub fn obey(&self, servlet: u32) -> bool {
        let order = self.order.load(Ordering::Relaxed); // Relaxed: a hint; the exchange decides
        let [deed, whose, ..] = order.to_le_bytes();
        if deed == 0 || order >> 32 != 0 || u32::from(whose) != servlet {
            return false;
        }
        let taken = order | u64::from(std::process::id()) << 32;
        if self.order.compare_exchange(order, taken, Ordering::SeqCst, Ordering::Relaxed).is_err() {
            return false;
        }
        let time = (order >> 16) as u16;
        match deed {
            deed if deed == Deed::Help as u8 => self.fork(|| {
                // SAFETY: ends the helper, which has made system calls only.
                unsafe {
                    libc::usleep(u32::from(time) * 1000);
                    libc::_exit(0)
                }
            }),
            deed if deed == Deed::Stray as u8 => self.fork(|| {
                // SAFETY: literals that end with a zero byte, and integers. The engine reports this child some hundred
                // times; the output goes to `/dev/null`.
                unsafe { libc::dup2(libc::open(c"/dev/null".as_ptr(), libc::O_WRONLY), libc::STDERR_FILENO) };
            }),
            deed if deed == Deed::BecomeSleep as u8 => become_program(&[c"/bin/sleep", c"100000"]),
            _ => become_program(&[c"/bin/true"]),
        }
    }

    /// Whether this is the child.
    fn fork(&self, child: impl FnOnce()) -> bool {
        // SAFETY: the child makes system calls only, here; if it comes back, the engine ends it before it does anything.
        let pid = unsafe { libc::fork() };
        match pid {
            0 => child(),
            _ => self.child.store(u32::try_from(pid).unwrap_or(NO_CHILD), Ordering::SeqCst),
        }
        pid == 0
    }
}

/// Execs a program; ends with code 127 if there is none. Allocates nothing.
pub fn become_program(words: &[&std::ffi::CStr]) -> ! {
    let mut pointers = [std::ptr::null(); 4];
    pointers.iter_mut().zip(words).for_each(|(pointer, word)| *pointer = word.as_ptr());
    assert!(words.len() < pointers.len(), "the last one stays null");
    // SAFETY: live C strings in an array that ends with a null; where it comes back, the process ends.
    unsafe {
        libc::execv(pointers[0], pointers.as_ptr());
        libc::_exit(127)
    }
}
