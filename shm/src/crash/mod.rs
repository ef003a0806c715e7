//! Crash points: named points between two writes, at which a test lets a process die.
//!
//! Compiled only with the feature `crash-points`, for tests; without it `crash_point!` is nothing at all. With it a
//! process that follows a [`Page`] counts, in that page, how often it passes each point; at an armed point it dies by
//! SIGKILL, or holds the passing thread until the test releases it. The page is a file that the processes of a test
//! map; so the test sees which process passes which point, arms any point at any time, and learns which process has
//! died at it.
//!
//! A worker's process follows the page that the environment names ([`VARIABLE`]: `role:path`), any other the page of
//! its call of [`follow`].
//!
//! # Crash
//!
//! A process records that it fires before it dies, so a test that sees the death sees the point.
#![expect(unsafe_code, reason = "a typed view of a mapped file, and kill")]

mod points;

pub use points::POINTS;

use crate::sys::futex;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use core::time::Duration;
use memmap2::MmapRaw;
use std::cell::Cell;
use std::fs::OpenOptions;
use std::io;
use std::path::Path;
use std::sync::OnceLock;
use std::time::Instant;

/// Names the page of a process, and the role that the process has in it: `role:path`.
pub const VARIABLE: &str = "RINGMILL_CRASH";
/// How many roles a page tells apart.
pub(crate) const ROLE_LIMIT: usize = 32;
/// How many points there can be, those of all crates together.
pub const POINT_LIMIT: usize = 512;
/// How many points can be armed at once.
pub(crate) const SLOTS: usize = 4;

/// A point between two writes: its name, and what has been written when a process passes it, and what not.
#[derive(Debug, Clone, Copy)]
pub struct Point {
    /// Its name: module, step.
    pub name: &'static str,
    /// The participant that passes it.
    pub by: &'static str,
    /// What has been done, and what not.
    pub between: &'static str,
}

/// Which point of a table has this name; fails to compile where it is asked at compile time and there is none.
///
/// # Panics
/// If there is none.
#[must_use]
pub const fn index_of(points: &[Point], name: &str) -> usize {
    let mut index = 0;
    while index < points.len() {
        if is_same(points[index].name.as_bytes(), name.as_bytes()) {
            return index;
        }
        index += 1;
    }
    panic!("this crash point is not listed")
}

const fn is_same(a: &[u8], b: &[u8]) -> bool {
    let mut index = 0;
    while index < a.len() && index < b.len() && a[index] == b[index] {
        index += 1;
    }
    index == a.len() && index == b.len()
}

/// What happens to a thread that passes an armed point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Act {
    /// Its process dies, by SIGKILL.
    Die = 1,
    /// Its thread is held until the slot is [disarmed](Page::disarm).
    Hold = 2,
}

/// An armed point. 0 in `act`: it is not.
#[repr(C)]
struct Slot {
    act: AtomicU32,
    point: AtomicU32,
    role: AtomicU32,
    /// How many passings are left until it fires.
    left: AtomicU32,
    /// The process that has fired it; 0: none yet.
    fired: AtomicU32,
}

#[repr(C)]
struct Lines {
    slots: [Slot; SLOTS],
    passed: [[AtomicU64; POINT_LIMIT]; ROLE_LIMIT],
}

/// What the processes of a test share of crash points.
pub struct Page(MmapRaw);

impl core::fmt::Debug for Page {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Page").finish_non_exhaustive()
    }
}

impl Page {
    /// Makes the page, in a new file.
    ///
    /// # Errors
    /// What the operating system says.
    pub fn create(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(path)?;
        file.set_len(size_of::<Lines>() as u64)?;
        Ok(Self(MmapRaw::map_raw(&file)?))
    }

    fn open(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).write(true).open(path)?;
        if file.metadata()?.len() < size_of::<Lines>() as u64 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(Self(MmapRaw::map_raw(&file)?))
    }

    fn lines(&self) -> &Lines {
        // SAFETY: the file has room for them (`create`, `open`), a mapping is page-aligned, and everything in
        // them is atomic and valid whatever its bits.
        unsafe { &*self.0.as_ptr().cast() }
    }

    /// When a thread of this role passes this point for the `passing`th time, counted from 1, it acts; once.
    pub fn arm(&self, slot: usize, point: usize, role: usize, passing: u32, act: Act) {
        let slot = &self.lines().slots[slot];
        slot.act.store(0, Ordering::SeqCst);
        slot.fired.store(0, Ordering::SeqCst);
        slot.point.store(point as u32, Ordering::SeqCst);
        slot.role.store(role as u32, Ordering::SeqCst);
        slot.left.store(passing, Ordering::SeqCst);
        slot.act.store(act as u32, Ordering::SeqCst);
    }

    /// It acts no more; a held thread goes on.
    pub fn disarm(&self, slot: usize) {
        let slot = &self.lines().slots[slot];
        slot.act.store(0, Ordering::SeqCst);
        futex::wake(&slot.act, u32::MAX);
    }

    /// The process that the slot has acted on.
    #[must_use]
    pub fn fired(&self, slot: usize) -> Option<u32> {
        let pid = self.lines().slots[slot].fired.load(Ordering::SeqCst);
        (pid != 0).then_some(pid)
    }

    /// Waits until the slot has acted on a process; `None` if it has not within `limit`.
    #[must_use]
    pub fn await_fired(&self, slot: usize, limit: Duration) -> Option<u32> {
        let until = Instant::now() + limit;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            match self.fired(slot) {
                None if !left.is_zero() => {
                    futex::wait(&self.lines().slots[slot].fired, 0, Some(left));
                }
                fired => return fired,
            }
        }
    }

    /// How often threads of this role have passed this point.
    #[must_use]
    pub fn passed(&self, role: usize, point: usize) -> u64 {
        self.lines().passed[role][point].load(Ordering::SeqCst)
    }

    fn pass(&self, point: usize, role: usize) {
        let lines = self.lines();
        lines.passed[role][point].fetch_add(1, Ordering::SeqCst);
        for slot in &lines.slots {
            let act = slot.act.load(Ordering::SeqCst);
            if act == 0
                || slot.point.load(Ordering::SeqCst) != point as u32
                || slot.role.load(Ordering::SeqCst) != role as u32
            {
                continue;
            }
            let less = |left: u32| left.checked_sub(1);
            if slot.left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, less) == Ok(1) {
                slot.fired.store(std::process::id(), Ordering::SeqCst);
                futex::wake(&slot.fired, u32::MAX);
                match act {
                    act if act == Act::Die as u32 => die(),
                    _ => hold(slot, act),
                }
            }
        }
    }
}

fn die() -> ! {
    loop {
        // SAFETY: takes two integers. It ends this process before it returns.
        unsafe { libc::kill(libc::getpid(), libc::SIGKILL) };
    }
}

fn hold(slot: &Slot, act: u32) {
    while slot.act.load(Ordering::SeqCst) == act {
        futex::wait(&slot.act, act, None);
    }
}

/// What this process follows.
struct Followed {
    page: Page,
    role: usize,
    /// Threads of other roles, by how their names begin.
    threads: Vec<(String, usize)>,
}

static FOLLOWED: OnceLock<Option<Followed>> = OnceLock::new();

thread_local! {
    /// The role of this thread, once it is known.
    static ROLE: Cell<Option<usize>> = const { Cell::new(None) };
}

/// Lets this process follow the page at `path`, in this role; threads whose names begin like one of `threads` have the
/// role beside it. For a process that has passed no point yet.
///
/// # Errors
/// If it cannot be mapped, or the process follows one already.
pub fn follow(path: &Path, role: usize, threads: &[(&str, usize)]) -> io::Result<()> {
    let threads = threads.iter().map(|&(name, role)| (name.to_string(), role)).collect();
    let followed = Followed { page: Page::open(path)?, role, threads };
    FOLLOWED.set(Some(followed)).map_err(|_| io::ErrorKind::AlreadyExists.into())
}

fn followed_by_environment() -> Option<Followed> {
    let text = std::env::var(VARIABLE).ok()?;
    let (role, path) = text.split_once(':')?;
    Some(Followed { page: Page::open(Path::new(path)).ok()?, role: role.parse().ok()?, threads: Vec::new() })
}

/// This thread passes the point with this number, of the points of all crates.
pub fn pass(point: usize) {
    let Some(followed) = FOLLOWED.get_or_init(followed_by_environment) else { return };
    let known = ROLE.try_with(Cell::get).ok().flatten();
    let role = known.unwrap_or_else(|| {
        let thread = std::thread::current();
        let named = |(name, _): &&(String, usize)| thread.name().is_some_and(|n| n.starts_with(name));
        let role = followed.threads.iter().find(named).map_or(followed.role, |&(_, role)| role);
        let _ = ROLE.try_with(|known| known.set(Some(role)));
        role
    });
    followed.page.pass(point, role);
}
