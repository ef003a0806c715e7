//! The pages of a segment: to have them before the first request needs them, and to keep them in memory.
#![expect(unsafe_code, reason = "advice on the mapping")]

use super::{Segment, Use};
use crate::layout::Layout;
use crate::sync::Ordering;
use crate::sys::pages;
use core::ops::Range;
use std::io;

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
    /// All. The payload blocks then count as used memory of the machine and of its control group, whether they are ever
    /// needed or not; they were reserved before.
    Everything,
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::{Class, Shape};

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
    fn any_number_is_a_choice() {
        for choice in [Prefault::Nothing, Prefault::Hot, Prefault::Everything] {
            assert_eq!(Prefault::from_raw(choice.raw()), choice);
        }
        assert_eq!(Prefault::from_raw(77), Prefault::Hot);
    }
}
