//! What the supervisor notes for reports: since when a call runs or a lock is held, as far as it has seen, and how a worker
//! last ended.
//!
//! # Layout
//!
//! ```text
//! Timed           version │ call │ began_ns
//! Watch, a line   version │ what │ after_ns │ by_ns │ looked_ns
//! Ended, 2 lines  version │ pid │ end │ number │ at_ns │ why │ items │ 12 items ‖ 128 bytes of the first item's payload
//! ```
//!
//! The supervisor alone writes them. A worker notes when a call began only if it reads the clock for that call anyway
//! (`Timed`, among its counters). So none of this costs a worker anything.
//!
//! # Invariants
//!
//! * Nothing that a participant does depends on these lines; any bits are a value of them.
//!
//! # Ordering
//!
//! * `[noted]`: a record's fields are written between two stores of its version, which is odd meanwhile; a reader that has
//!   seen one even version before and after the fields has read one record. (Release and Acquire, with a fence each.)
//!
//! # Crash
//!
//! A supervisor that dies as it writes leaves an odd version: that record cannot be read.

use crate::fields::in_segment;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};

/// How many of a dead worker's items are noted.
const ITEMS: usize = 12;
/// How many bytes of the first one are noted.
pub const NOTED_BYTES: usize = 128;

in_segment! {
    /// Counts the changes of a record; odd while it changes.
    #[derive(Debug, Default)]
    struct Version(AtomicU32);
}

impl Version {
    /// Writes a record (`[noted]`).
    fn write(&self, fields: impl FnOnce()) {
        let version = self.0.load(Ordering::Relaxed) | 1; // Relaxed: only this thread writes it
        self.0.store(version, Ordering::Relaxed);
        fence(Ordering::Release); // [noted]
        fields();
        self.0.store(version.wrapping_add(1), Ordering::Release); // [noted]
    }

    /// Reads a record; `None` if it was being written all the while.
    fn read<T>(&self, fields: impl Fn() -> T) -> Option<T> {
        const LOOKS: usize = 8;
        (0..LOOKS).find_map(|_| {
            let before = self.0.load(Ordering::Acquire); // [noted]
            let read = fields();
            fence(Ordering::Acquire); // [noted]
            (before.is_multiple_of(2) && self.0.load(Ordering::Relaxed) == before).then_some(read)
        })
    }
}

in_segment! {
    /// Between which instants something began: a call of a worker, or the time for which a lock is held.
    #[repr(align(128))]
    #[derive(Debug, Default)]
    pub struct Watch {
        version: Version,
        what: AtomicU64,
        after_ns: AtomicU64,
        by_ns: AtomicU64,
        looked_ns: AtomicU64,
    }
}

/// Between which instants something began, in nanoseconds of the monotonic clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Began {
    /// Not before this; 0: nothing is known.
    pub after_ns: u64,
    /// At this instant it had begun; `None`: nothing is known.
    pub by_ns: Option<u64>,
}

impl Began {
    /// What is known from two sources together.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self {
            after_ns: self.after_ns.max(other.after_ns),
            by_ns: self.by_ns.into_iter().chain(other.by_ns).min(),
        }
    }
}

impl Watch {
    /// The supervisor sees this at a look. What is not the same has another number.
    pub fn see(&self, what: u64, now_ns: u64) {
        // Relaxed: the supervisor's own lines, and [noted].
        if self.what.load(Ordering::Relaxed) == what {
            return self.looked_ns.store(now_ns, Ordering::Relaxed);
        }
        self.version.write(|| {
            self.what.store(what, Ordering::Relaxed);
            self.after_ns.store(self.looked_ns.load(Ordering::Relaxed), Ordering::Relaxed);
            self.by_ns.store(now_ns, Ordering::Relaxed);
            self.looked_ns.store(now_ns, Ordering::Relaxed);
        });
    }

    /// When the supervisor last looked, in nanoseconds of the monotonic clock; 0: never.
    #[must_use]
    pub fn looked_ns(&self) -> u64 {
        self.looked_ns.load(Ordering::Relaxed) // Relaxed: for reports
    }

    /// When this began, which goes on now.
    #[must_use]
    pub fn began(&self, what: u64) -> Began {
        let of = |word: &AtomicU64| word.load(Ordering::Relaxed); // Relaxed: [noted]
        let read = || (of(&self.what), of(&self.after_ns), of(&self.by_ns), of(&self.looked_ns));
        match self.version.read(read) {
            Some((seen, after_ns, by_ns, _)) if seen == what => Began { after_ns, by_ns: Some(by_ns) },
            // At the last look it had not begun.
            Some((.., looked_ns)) => Began { after_ns: looked_ns, by_ns: None },
            None => Began::default(),
        }
    }
}

in_segment! {
    /// The last call that its worker timed.
    #[derive(Debug, Default)]
    pub(crate) struct Timed {
        version: Version,
        call: AtomicU64,
        began_ns: AtomicU64,
    }
}

impl Timed {
    /// The worker notes when a call begins. The numbers of calls ascend.
    pub(crate) fn note(&self, call: u64, now_ns: u64) {
        self.version.write(|| {
            self.call.store(call, Ordering::Relaxed); // Relaxed: [noted]
            self.began_ns.store(now_ns, Ordering::Relaxed);
        });
    }

    /// When this call began, which runs now.
    pub(crate) fn began(&self, call: u64) -> Began {
        let of = |word: &AtomicU64| word.load(Ordering::Relaxed); // Relaxed: [noted]
        match self.version.read(|| (of(&self.call), of(&self.began_ns))) {
            Some((timed, at_ns)) if timed == call => Began { after_ns: at_ns, by_ns: Some(at_ns) },
            Some((timed, at_ns)) if timed < call => Began { after_ns: at_ns, by_ns: None },
            _ => Began::default(),
        }
    }
}

/// How a worker ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum End {
    /// By itself, with this exit code.
    Code(i32),
    /// By this signal.
    Signal(i32),
    /// In a way that is not known.
    Unknown,
}

/// Why the supervisor ended a worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
#[repr(u32)]
pub enum Why {
    /// A call took longer than the servlet's `exec_timeout`.
    ExecTimeout = 1,
    /// It was starting or leaving for too long.
    TooLate = 2,
    /// It had not left in time when the server was shut down.
    Shutdown = 3,
    /// It ran another program in its place, or closed its descriptors.
    Strayed = 4,
}

impl Why {
    const ALL: [Self; 4] = [Self::ExecTimeout, Self::TooLate, Self::Shutdown, Self::Strayed];
}

/// An item that a dead worker had begun and not answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Item {
    /// The task's number in the segment.
    pub task: u32,
    /// Its generation.
    pub generation: u16,
    /// How many workers had died with it before.
    pub attempt: u8,
}

/// A worker's last end that was not in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exit {
    /// When, in nanoseconds of the monotonic clock.
    pub at_ns: u64,
    /// Its process.
    pub pid: u32,
    /// How.
    pub end: End,
    /// Why the supervisor ended it; `None`: it did not.
    pub why: Option<Why>,
    /// How many items it had begun and not answered.
    pub count: u32,
    /// Which: the first of them.
    pub items: Vec<Item>,
    /// Bytes of the first item's payload, as its header said.
    pub payload_bytes: u32,
    /// The first of those bytes, at most [`NOTED_BYTES`]; empty if they could not be read.
    pub payload: Vec<u8>,
}

in_segment! {
    /// The [`Exit`] of a row.
    #[repr(align(128))]
    #[derive(Debug)]
    pub(crate) struct Ended {
        version: Version,
        pid: AtomicU32,
        end: AtomicU32,
        number: AtomicU32,
        at_ns: AtomicU64,
        why: AtomicU32,
        count: AtomicU32,
        items: [AtomicU64; ITEMS],
        payload_bytes: AtomicU32,
        noted_bytes: AtomicU32,
        payload: [AtomicU64; NOTED_BYTES / 8],
    }
}

impl Default for Ended {
    fn default() -> Self {
        let word = |_| AtomicU64::new(0);
        Self {
            version: Version::default(),
            pid: AtomicU32::new(0),
            end: AtomicU32::new(0),
            number: AtomicU32::new(0),
            at_ns: AtomicU64::new(0),
            why: AtomicU32::new(0),
            count: AtomicU32::new(0),
            items: core::array::from_fn(word),
            payload_bytes: AtomicU32::new(0),
            noted_bytes: AtomicU32::new(0),
            payload: core::array::from_fn(word),
        }
    }
}

impl Ended {
    /// The supervisor notes an end.
    pub(crate) fn note(&self, exit: &Exit) {
        let (end, number) = match exit.end {
            End::Unknown => (0, 0),
            End::Code(code) => (1, code),
            End::Signal(signal) => (2, signal),
        };
        let item = |item: &Item| {
            u64::from(item.task) | u64::from(item.generation) << 32 | u64::from(item.attempt) << 48
        };
        let payload = &exit.payload[..exit.payload.len().min(NOTED_BYTES)];
        // Relaxed: [noted].
        self.version.write(|| {
            self.pid.store(exit.pid, Ordering::Relaxed);
            self.end.store(end, Ordering::Relaxed);
            self.number.store(number.cast_unsigned(), Ordering::Relaxed);
            self.at_ns.store(exit.at_ns, Ordering::Relaxed);
            self.why.store(exit.why.map_or(0, |why| why as u32), Ordering::Relaxed);
            self.count.store(exit.count, Ordering::Relaxed);
            for (to, from) in self.items.iter().zip(&exit.items) {
                to.store(item(from), Ordering::Relaxed);
            }
            self.payload_bytes.store(exit.payload_bytes, Ordering::Relaxed);
            self.noted_bytes.store(payload.len() as u32, Ordering::Relaxed);
            for (to, from) in self.payload.iter().zip(payload.chunks(8)) {
                let mut eight = [0; 8];
                eight[..from.len()].copy_from_slice(from);
                to.store(u64::from_le_bytes(eight), Ordering::Relaxed);
            }
        });
    }

    /// The last end that was noted.
    pub(crate) fn exit(&self) -> Option<Exit> {
        let of = |word: &AtomicU32| word.load(Ordering::Relaxed); // Relaxed: [noted]
        let item = |word: &AtomicU64| {
            let bits = word.load(Ordering::Relaxed);
            Item { task: bits as u32, generation: (bits >> 32) as u16, attempt: (bits >> 48) as u8 }
        };
        let exit = self.version.read(|| {
            let number = of(&self.number).cast_signed();
            let (count, noted) = (of(&self.count), (of(&self.noted_bytes) as usize).min(NOTED_BYTES));
            let words = self.payload.iter().map(|word| word.load(Ordering::Relaxed));
            Exit {
                at_ns: self.at_ns.load(Ordering::Relaxed),
                pid: of(&self.pid),
                end: match of(&self.end) {
                    1 => End::Code(number),
                    2 => End::Signal(number),
                    _ => End::Unknown,
                },
                why: Why::ALL.into_iter().find(|&why| why as u32 == of(&self.why)),
                count,
                items: self.items.iter().take(count as usize).map(item).collect(),
                payload_bytes: of(&self.payload_bytes),
                payload: words.flat_map(u64::to_le_bytes).take(noted).collect(),
            }
        });
        exit.filter(|exit| exit.at_ns != 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_seen_twice_began_between_two_looks() {
        let watch = Watch::default();
        assert_eq!(watch.began(7), Began::default());
        watch.see(6, 100);
        watch.see(6, 200);
        assert_eq!(watch.began(7), Began { after_ns: 200, by_ns: None }, "not yet at the last look");
        watch.see(7, 300);
        watch.see(7, 400);
        assert_eq!(watch.began(7), Began { after_ns: 200, by_ns: Some(300) });
        let other = Began { after_ns: 250, by_ns: None };
        assert_eq!(watch.began(7).and(other), Began { after_ns: 250, by_ns: Some(300) });
        watch.see(0, 500);
        assert_eq!(watch.began(7), Began { after_ns: 500, by_ns: None }, "none is seen at a look");
    }

    #[test]
    fn a_call_that_is_not_timed_began_after_the_one_that_was() {
        let timed = Timed::default();
        assert_eq!(timed.began(1), Began::default());
        timed.note(3, 100);
        assert_eq!(timed.began(3), Began { after_ns: 100, by_ns: Some(100) });
        assert_eq!(timed.began(4), Began { after_ns: 100, by_ns: None });
        assert_eq!(timed.began(2), Began::default(), "a number that went back");
    }

    #[test]
    fn an_exit_is_read_as_it_was_noted_and_cut_where_there_is_no_room() {
        let ended = Ended::default();
        assert_eq!(ended.exit(), None);
        let item = |task| Item { task, generation: 0xFFFF, attempt: 3 };
        let exit = Exit {
            at_ns: 5,
            pid: 77,
            end: End::Signal(9),
            why: Some(Why::ExecTimeout),
            count: 20,
            items: (0..20).map(item).collect(),
            payload_bytes: 300,
            payload: (0..=255).collect(),
        };
        ended.note(&exit);
        let read = ended.exit().unwrap();
        assert_eq!(
            read,
            Exit {
                items: exit.items[..ITEMS].to_vec(),
                payload: exit.payload[..NOTED_BYTES].to_vec(),
                ..exit
            }
        );
        for end in [End::Code(-3), End::Unknown] {
            let exit =
                Exit { end, why: None, count: 0, items: Vec::new(), payload: vec![1, 2, 3], ..read.clone() };
            ended.note(&exit);
            assert_eq!(ended.exit(), Some(exit));
        }
    }

    #[test]
    fn a_record_that_is_half_written_is_not_read() {
        let watch = Watch::default();
        watch.see(3, 100);
        watch.version.0.fetch_add(1, Ordering::Relaxed);
        assert_eq!(watch.began(3), Began::default());
        watch.see(4, 200);
        assert_eq!(watch.began(4).by_ns, Some(200), "the next one is");
    }
}
