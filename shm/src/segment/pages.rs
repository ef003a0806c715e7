//! The pages of a segment: to have them before the first request needs them, and to keep them in memory.
#![expect(unsafe_code, reason = "advice on the mapping")]

use super::memory::page_bytes;
use super::{CreateError, Location, Segment, Use};
use crate::layout::{Class, Layout};
use crate::sync::{AtomicU64, Ordering};
use crate::sys::{cgroup, file, memfd, pages};
use core::ops::Range;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::sync::Mutex;

/// Which pages of a segment each process maps before it needs them. A page that was never touched costs its first reader
/// or writer, in each process, a page fault: the kernel clears the page and maps it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash)]
#[non_exhaustive]
pub enum Prefault {
    /// None.
    Nothing,
    /// All but the payload blocks.
    #[default]
    Hot,
    /// All: the pages of all payload blocks too, whether they are ever needed or not. They are reserved at the start, see
    /// [`Reserve::Everything`](super::Reserve).
    Everything,
}

/// Whether a segment lies on huge pages, of 2 MiB on most machines. The processor then translates an address in fewer steps,
/// which pays for segments of many megabytes. The system must have such pages free (`/proc/sys/vm/nr_hugepages`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash)]
#[non_exhaustive]
pub enum HugePages {
    /// No, unless its file lies on a hugetlbfs.
    #[default]
    No,
    /// If it can: an anonymous segment, for which enough are free.
    Preferred,
    /// Otherwise it is not created.
    Required,
}

impl Prefault {
    fn raw(self) -> u32 {
        match self {
            Self::Hot => 0,
            Self::Nothing => 1,
            Self::Everything => 2,
        }
    }

    /// Any number is a choice: another process may have written it.
    fn from_raw(raw: u32) -> Self {
        match raw {
            1 => Self::Nothing,
            2 => Self::Everything,
            _ => Self::Hot,
        }
    }

    fn takes(self, of: Use) -> bool {
        match self {
            Self::Nothing => false,
            Self::Hot => !matches!(of, Use::Blocks(_)),
            Self::Everything => true,
        }
    }

    fn ranges(self, layout: &Layout) -> Vec<Range<u64>> {
        let uses = layout.uses().into_iter().filter(|&(of, _)| self.takes(of));
        pages::joined(uses.map(|(_, range)| range))
    }
}

impl Segment {
    /// Why it does not lie on the huge pages that were preferred; `None` where it does, and in every process but its creator's.
    #[must_use]
    pub fn huge_refused(&self) -> Option<&CreateError> {
        self.huge_refused.as_ref()
    }

    /// The size of the pages on which its file lies: of huge pages, if it is memory of such, and otherwise 4,096 bytes.
    #[must_use]
    pub fn page_bytes(&self) -> u64 {
        page_bytes(&self.file)
    }

    /// Which pages each process that works with the segment [prefaults](Self::prefault).
    #[must_use]
    pub fn to_prefault(&self) -> Prefault {
        // Relaxed: set before the workers start.
        Prefault::from_raw(self.header().run.prefault.load(Ordering::Relaxed))
    }

    /// Sets [`to_prefault`](Self::to_prefault). The server does, before it starts workers.
    pub fn set_to_prefault(&self, pages: Prefault) {
        self.header().run.prefault.store(pages.raw(), Ordering::Relaxed); // Relaxed: as above
    }

    /// Maps the pages that [`to_prefault`](Self::to_prefault) says into this process. Not for a segment that is only
    /// inspected.
    ///
    /// # Errors
    /// `EINVAL` if the kernel is older than 5.14. `EFAULT`, `ENOMEM` or `EHWPOISON` where the first use of a page would
    /// end the process.
    pub fn prefault(&self) -> io::Result<()> {
        for range in self.to_prefault().ranges(&self.layout) {
            // SAFETY: [checked]: the ranges lie in the mapping.
            unsafe {
                let first = self.base.as_ptr().add(range.start as usize);
                pages::populate(first, (range.end - range.start) as usize)?;
            }
        }
        Ok(())
    }

    /// Keeps all pages in memory as long as this process has the segment: none is written to swap.
    ///
    /// # Errors
    /// `ENOMEM`, `EAGAIN` or `EPERM` if this process may not lock so much.
    pub fn lock_in_memory(&self) -> io::Result<()> {
        // SAFETY: [checked]: the mapping's bytes.
        unsafe { pages::lock(self.base.as_ptr(), self.layout.total_bytes) }
    }
}

/// What memory a segment takes, and may come to take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Demand {
    /// What it takes.
    pub reserved_bytes: u64,
    /// What its payload blocks may take beside that, once they are used.
    pub to_come_bytes: u64,
    /// What its file system and this process's control group have left; `None` if neither says.
    pub left_bytes: Option<u64>,
}

/// How many bytes a process may reserve for blocks before it asks again how much memory is left: a grant is small beside what
/// other programs use up meanwhile.
#[derive(Debug, Default)]
pub(super) struct Granted {
    bytes: AtomicU64,
    /// Held by the thread that asks.
    asks: Mutex<()>,
}

impl Granted {
    /// Of what is left, what is granted at once: several processes ask.
    const SHARE: u64 = 8;
    /// The most that is granted at once, where something bounds it.
    const MOST: u64 = 16 << 20;
    /// What is granted where nothing bounds it.
    const UNBOUNDED: u64 = 1 << 30;

    /// Takes so many bytes, if they were granted or, by what `left` says, can be. It says `None` if nothing bounds them.
    fn take(&self, bytes: u64, left: impl FnOnce() -> Option<u64>) -> bool {
        // Relaxed, all: a number that only bounds how often it is asked.
        let taken = |granted: u64| granted.checked_sub(bytes);
        let is_granted = || self.bytes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, taken).is_ok();
        if is_granted() {
            return true;
        }
        let _one_asks = self.asks.lock().unwrap_or_else(|e| e.into_inner());
        if is_granted() {
            return true; // another thread has asked meanwhile
        }
        let granted = match left() {
            None => Self::UNBOUNDED,
            Some(left) if left < bytes => return false,
            Some(left) => (left / Self::SHARE).min(Self::MOST),
        };
        self.bytes.store(granted.saturating_sub(bytes), Ordering::Relaxed);
        true
    }
}

impl Segment {
    /// What memory it takes now, and may come to take.
    #[must_use]
    pub fn demand(&self) -> Demand {
        let total_bytes = self.total_bytes();
        let taken = self.file.metadata().map(|meta| meta.blocks().saturating_mul(512));
        let counts = file::kind_of(&self.file).is_ok_and(file::Kind::counts_blocks);
        let reserved_bytes =
            taken.ok().filter(|_| counts).map_or(total_bytes, |taken| taken.min(total_bytes));
        let of_files = match &self.location {
            Location::Anonymous(_) => None,
            at => at.path().parent().and_then(|directory| file::available_bytes(directory).ok().flatten()),
        };
        let left_bytes = of_files.into_iter().chain(self.memory_left()).min();
        Demand { reserved_bytes, to_come_bytes: total_bytes - reserved_bytes, left_bytes }
    }

    /// The memory that its control group, and the machine where no file system bounds it, leave to this process.
    fn memory_left(&self) -> Option<u64> {
        let kind = file::kind_of(&self.file).ok()?;
        let is_memory = matches!(kind, file::Kind::Memory | file::Kind::Ramfs);
        let of_group = is_memory.then(|| cgroup::memory_limit().map(|limit| limit.available_bytes)).flatten();
        let of_machine =
            matches!(self.location, Location::Anonymous(_)).then(memfd::available_bytes).flatten();
        of_group.into_iter().chain(of_machine).min()
    }

    /// Reserves the pages of a block, and where it can also those of its neighbours, up to 64 KiB in all: its owner does,
    /// before it touches them. Where a control group bounds the memory, it is asked first: the kernel would kill a process
    /// and give no error. Which blocks of the class now have their pages.
    ///
    /// # Errors
    /// `ENOSPC`, `ENOMEM` or `EDQUOT` if there is no memory for it.
    pub(crate) fn reserve_block(&self, class: usize, index: u64) -> io::Result<Range<u64>> {
        let shape = self.layout.shape.classes().get(class).filter(|shape| index < shape.count);
        let &Class { block_bytes, count } = shape.ok_or(io::Error::from_raw_os_error(libc::EINVAL))?;
        let first = self.layout.blocks[class] as u64;
        let bytes = |of: &Range<u64>| first + of.start * block_bytes..first + of.end * block_bytes;
        let grant =
            |of: &Range<u64>| self.granted.take((of.end - of.start) * block_bytes, || self.memory_left());
        let group = group_of(index, block_bytes, count);
        // Never by writing zeros, as `reserve` may: neighbours may be in use.
        if group.end - group.start > 1 && grant(&group) && file::allocate(&self.file, &bytes(&group)).is_ok()
        {
            return Ok(group);
        }
        let alone = index..index + 1;
        if !grant(&alone) {
            return Err(io::Error::from_raw_os_error(libc::ENOMEM));
        }
        file::reserve(&self.file, bytes(&alone))?;
        Ok(alone)
    }
}

/// How many bytes of blocks are reserved at once. One call to the kernel for sixteen pages costs little more than for one, and
/// it is no more memory than a few large requests take.
const GROUP_BYTES: u64 = 64 << 10;

/// The blocks whose pages are reserved with those of block `index`, of a class of `count`.
fn group_of(index: u64, block_bytes: u64, count: u64) -> Range<u64> {
    let blocks = (GROUP_BYTES / block_bytes).max(1);
    let first = index / blocks * blocks;
    first..(first + blocks).min(count)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::Shape;
    use std::cell::Cell;

    #[test]
    fn what_is_hot_is_all_but_the_blocks() {
        let mut shape =
            Shape { participants: 2, nodes: 1, requests: 4, tasks_per_request: 1, ..Shape::default() };
        shape.class_count = 1;
        shape.classes[0] = Class { block_bytes: 65_536, count: 8 };
        let layout = Layout::new(&shape).unwrap();
        let (blocks, end) = (layout.blocks[0] as u64, layout.total_bytes as u64);
        let expected = [
            (Prefault::Nothing, None),
            (Prefault::Hot, Some(0..blocks)),
            (Prefault::Everything, Some(0..end)),
        ];
        for (pages, range) in expected {
            assert_eq!(pages.ranges(&layout), Vec::from_iter(range));
        }
    }

    #[test]
    fn how_much_is_left_is_asked_when_the_grant_is_used_up() {
        let (granted, asked) = (Granted::default(), Cell::new(0));
        let take = |bytes, left| {
            granted.take(bytes, || {
                asked.set(asked.get() + 1);
                left
            })
        };
        assert!(!take(11, Some(10)) && take(10, Some(10)), "a block may take all that is left");
        assert!(take(10, Some(800)) && (0..9).all(|_| take(10, None)));
        assert_eq!(asked.get(), 3, "an eighth of what was left is granted");
        assert!(!take(10, Some(9)) && take(1, None) && take(1 << 29, Some(0)));
        assert_eq!(asked.get(), 5);
    }

    #[test]
    fn blocks_are_reserved_in_groups_of_64_kib() {
        assert_eq!(group_of(0, 1024, 200), 0..64);
        assert_eq!((group_of(63, 1024, 200), group_of(64, 1024, 200)), (0..64, 64..128));
        assert_eq!(group_of(199, 1024, 200), 192..200, "the last group has what is left");
        assert_eq!(group_of(4, 24 << 10, 9), 4..6);
        assert_eq!((group_of(5, 64 << 10, 9), group_of(5, 1 << 20, 9)), (5..6, 5..6));
    }

    #[test]
    fn any_number_is_a_choice() {
        for choice in [Prefault::Nothing, Prefault::Hot, Prefault::Everything] {
            assert_eq!(Prefault::from_raw(choice.raw()), choice);
        }
        assert_eq!(Prefault::from_raw(77), Prefault::Hot);
    }
}
