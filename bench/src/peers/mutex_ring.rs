//! Two plain rings in memory that both processes map, each with a process-shared pthread mutex: the first version that one
//! would write.
//!
//! A side without items repeatedly takes the mutex, looks, and releases it. A side with several items moves up to 32 with the
//! mutex taken once.
//!
//! *Layout.* A ring begins on a line of its own, with the mutex and the two counters; then come the slots. The
//! memory is a file without a name.
//!
//! *Crash.* The mutex is not robust. If a partner is killed while it holds the mutex, the client waits for it for ever; a partner
//! that fails otherwise releases it, and the client notices.
#![expect(
    unsafe_code,
    reason = "a ring in memory that another process maps, and the mutex of raw_sync in it"
)]

use std::collections::VecDeque;
use std::convert::Infallible;
use std::fmt;
use std::fs::File;
use std::io;

use memmap2::MmapRaw;
use raw_sync::locks::{LockImpl, LockInit, Mutex};
use rustix::fs::{MemfdFlags, memfd_create};

use super::Task;
use super::processes::{Link, Processes, serve};
use crate::Error;
use crate::contestant::Point;
use crate::payload::Payload;
use crate::pin::CpuPair;
use crate::process::{self, Process};

/// Items that move with the mutex taken once at most.
const CHUNK: usize = 32;

/// Two lines, because some processors fetch lines in pairs.
const LINE: usize = 128;

/// The counters that the mutex guards, before the slots. They only grow; the slot is the count modulo the number of slots.
#[repr(C)]
#[derive(Clone, Copy)]
struct Counters {
    taken: u64,
    put: u64,
}

/// Where [`Counters`] lie in a ring: behind the mutex, on the same line.
const COUNTERS_AT: usize = 48;

const _: () = assert!(COUNTERS_AT + size_of::<Counters>() <= 64);

/// One side: the ring it puts items into, the ring it takes them from, and what it has not yet put or used.
pub struct Rings<const WORDS: usize> {
    out: Ring<WORDS>,
    back: Ring<WORDS>,
    unsent: VecDeque<Payload<WORDS>>,
    received: VecDeque<Payload<WORDS>>,
    /// Both rings lie in it.
    _memory: MmapRaw,
}

/// A ring within a mapping that lives longer.
struct Ring<const WORDS: usize> {
    mutex: Box<dyn LockImpl>,
    slots: *mut Payload<WORDS>,
    room: u64,
}

/// Starts the pair; each ring holds as many items as `point` asks for.
///
/// # Errors
///
/// [`Error::Transport`] if there is no memory for it, or those of [`Process::start`] and
/// [`Process::wait_until_ready`].
pub fn start<const WORDS: usize>(
    who: &'static str,
    point: Point,
    cpus: CpuPair,
) -> Result<Processes<Rings<WORDS>, WORDS>, Error> {
    let room = point.room();
    let made = || {
        let file = File::from(memfd_create("compare", MemfdFlags::CLOEXEC)?);
        file.set_len(2 * Ring::<WORDS>::bytes(room) as u64)?;
        let rings = Rings::map(&file, room, Side::Client)?;
        Ok((file, rings))
    };
    let (file, rings) = made().map_err(|source| Error::Transport { who, source })?;
    let task = Task::MutexRing { room }.to_argument::<WORDS>();
    let mut process = Process::start(who, cpus.partner, &task, file, std::process::Stdio::piped())?;
    process.wait_until_ready()?;
    Ok(Processes::new(who, rings, process, room))
}

/// The partner's side.
///
/// # Errors
///
/// That the memory cannot be mapped, or the mutex not taken.
pub fn answer<const WORDS: usize>(room: u32) -> io::Result<Infallible> {
    let mut rings = Rings::<WORDS>::map(&process::input()?.into(), room, Side::Partner)?;
    process::ready()?;
    serve(&mut rings)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    /// Makes the mutexes.
    Client,
    /// Finds them made.
    Partner,
}

impl<const WORDS: usize> Rings<WORDS> {
    fn map(file: &File, room: u32, side: Side) -> io::Result<Self> {
        let bytes = Ring::<WORDS>::bytes(room);
        let memory = MmapRaw::map_raw(file)?;
        if memory.len() < 2 * bytes {
            return Err(io::Error::other("the memory is too small for its rings"));
        }
        // SAFETY: both rings lie within the mapping, as just checked, on lines of it. It is kept beside them.
        let (questions, answers) = unsafe {
            (
                Ring::at(memory.as_mut_ptr(), room, side)?,
                Ring::at(memory.as_mut_ptr().add(bytes), room, side)?,
            )
        };
        let (out, back) = match side {
            Side::Client => (questions, answers),
            Side::Partner => (answers, questions),
        };
        Ok(Self { out, back, unsent: VecDeque::new(), received: VecDeque::new(), _memory: memory })
    }
}

impl<const WORDS: usize> Ring<WORDS> {
    fn bytes(room: u32) -> usize {
        LINE + (room as usize * Payload::<WORDS>::BYTES).next_multiple_of(LINE)
    }

    /// The ring at `start`.
    ///
    /// # Safety
    ///
    /// The [`bytes`](Self::bytes) from `start` on are mapped for as long as the ring lives, begin on a line, and
    /// are used for nothing else. They are zero where `side` is the client's, which makes the mutex before the
    /// partner is started.
    unsafe fn at(start: *mut u8, room: u32, side: Side) -> io::Result<Self> {
        if Mutex::size_of(Some(start)) > COUNTERS_AT {
            return Err(io::Error::other("a mutex is larger here than its space"));
        }
        // SAFETY: the mutex has its space before the counters, as just checked; both are mapped, as the caller
        // promises. Zero bytes are counters of an empty ring.
        let mutex = unsafe {
            let counters = start.add(COUNTERS_AT);
            match side {
                Side::Client => Mutex::new(start, counters),
                Side::Partner => Mutex::from_existing(start, counters),
            }
        };
        let (mutex, _) = mutex.map_err(|error| io::Error::other(error.to_string()))?;
        // SAFETY: within the ring; a line is aligned well enough for words.
        let slots = unsafe { start.add(LINE) }.cast();
        Ok(Self { mutex, slots, room: room.into() })
    }

    /// Puts in as many of `items` as fit, the mutex taken once.
    fn put(&self, items: &mut VecDeque<Payload<WORDS>>) -> io::Result<()> {
        self.locked(|counters| {
            let free = self.room.saturating_sub(counters.put.wrapping_sub(counters.taken));
            for item in items.drain(..items.len().min(free as usize)) {
                // SAFETY: the remainder is the number of a slot. Only the holder of the mutex reads or writes it.
                unsafe { self.slots.add((counters.put % self.room) as usize).write(item) };
                counters.put = counters.put.wrapping_add(1);
            }
        })
    }

    /// Takes out up to [`CHUNK`] items, the mutex taken once.
    fn take(&self, items: &mut VecDeque<Payload<WORDS>>) -> io::Result<()> {
        self.locked(|counters| {
            let there = counters.put.wrapping_sub(counters.taken).min(CHUNK as u64);
            for _ in 0..there {
                // SAFETY: as in `put`. Whatever the other process has written, words have no invalid values.
                items.push_back(unsafe { self.slots.add((counters.taken % self.room) as usize).read() });
                counters.taken = counters.taken.wrapping_add(1);
            }
        })
    }

    fn locked(&self, use_it: impl FnOnce(&mut Counters)) -> io::Result<()> {
        // Without a time limit: raw_sync adds those up wrongly, and asks the clock for them.
        let guard = self.mutex.lock().map_err(|error| io::Error::other(error.to_string()))?;
        let counters_at: *mut Counters = guard.cast();
        // SAFETY: what the mutex guards are the counters behind it, aligned as words are. They are read and
        // written by value, so that nothing refers to memory which another process may write.
        let mut counters = unsafe { counters_at.read() };
        use_it(&mut counters);
        // SAFETY: as above.
        unsafe { counters_at.write(counters) };
        drop(guard);
        Ok(())
    }
}

impl<const WORDS: usize> Link<WORDS> for Rings<WORDS> {
    fn send(&mut self, payload: impl FnOnce() -> Payload<WORDS>) -> io::Result<bool> {
        if self.unsent.len() == CHUNK {
            self.out.put(&mut self.unsent)?;
            if self.unsent.len() == CHUNK {
                return Ok(false);
            }
        }
        self.unsent.push_back(payload());
        Ok(true)
    }

    fn receive<R>(&mut self, read: impl FnOnce(&Payload<WORDS>) -> R) -> io::Result<Option<R>> {
        if self.received.is_empty() {
            // The other side gets what it waits for before this one looks whether there is more to do.
            if !self.unsent.is_empty() {
                self.out.put(&mut self.unsent)?;
            }
            self.back.take(&mut self.received)?;
        }
        Ok(self.received.pop_front().map(|payload| read(&payload)))
    }
}

impl<const WORDS: usize> fmt::Debug for Rings<WORDS> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Rings").field("room", &self.out.room).finish_non_exhaustive()
    }
}
