//! What the bytes of a segment are for, and which of them were ever touched: for reports.

use super::Segment;
use crate::layout::Layout;
use crate::sys::file::data_ranges;
use core::ops::Range;

/// What the bytes of a section are for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Use {
    /// Identity, shape, run state, the server-wide bells, the control page.
    Header,
    /// The participant table.
    Participants,
    /// Histograms of workers, counters and histograms of callers and of the server.
    Statistics,
    /// What the plan says: descriptors, names, configurations.
    Plan,
    /// Heads, tails, locks and doorbells of nodes, and the cells of their rings.
    Rings,
    /// Tasks with their in-line buffers, and what belongs to requests.
    Tasks,
    /// The rings of partials.
    Partials,
    /// The last requests that were traced.
    Traces,
    /// Who owns each block.
    BlockOwners,
    /// Payload blocks of the size class with this index.
    Blocks(usize),
}

impl Use {
    /// Its name in reports.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Header => "header",
            Self::Participants => "participants",
            Self::Statistics => "statistics",
            Self::Plan => "plan",
            Self::Rings => "rings",
            Self::Tasks => "tasks",
            Self::Partials => "partials",
            Self::Traces => "traces",
            Self::BlockOwners => "block_owners",
            Self::Blocks(_) => "blocks",
        }
    }
}

/// The bytes that a use has, with those up to the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Room {
    /// What for.
    pub of: Use,
    /// How many.
    pub bytes: u64,
    /// How many of them lie in pages that were ever read or written; `None` if the file system does not say.
    pub touched_bytes: Option<u64>,
}

impl Layout {
    /// Each use with its ranges of bytes. They touch one another, from the first byte to the last.
    pub(super) fn uses(&self) -> Vec<(Use, Range<u64>)> {
        let classes = self.shape.classes().len();
        let mut starts = vec![
            (0, Use::Header),
            (self.control, Use::Header),
            (self.participants, Use::Participants),
            (self.histograms, Use::Statistics),
            (self.callers, Use::Statistics),
            (self.client_lines, Use::Header),
            (self.server_counters, Use::Statistics),
            (self.service, Use::Plan),
            (self.node_descriptors, Use::Plan),
            (self.forks, Use::Plan),
            (self.switches, Use::Plan),
            (self.node_lines, Use::Rings),
            (self.ring_cells, Use::Rings),
            (self.times, Use::Tasks),
            (self.completions, Use::Tasks),
            (self.pending, Use::Tasks),
            (self.tasks, Use::Tasks),
            (self.blobs, Use::Plan),
        ];
        if self.shape.partials.slots > 0 {
            starts.extend([self.partial_rings, self.partial_slots].map(|start| (start, Use::Partials)));
        }
        if self.shape.traces > 0 {
            let traces = [self.trace_ring, self.trace_heads, self.trace_hops];
            starts.extend(traces.map(|start| (start, Use::Traces)));
        }
        starts.extend(self.block_owners[..classes].iter().map(|&start| (start, Use::BlockOwners)));
        starts.extend((0..).zip(&self.blocks[..classes]).map(|(class, &start)| (start, Use::Blocks(class))));
        starts.sort_by_key(|(start, _)| *start); // stable: an empty section comes before the one that begins there
        let ends = starts.iter().skip(1).map(|(start, _)| *start).chain([self.total_bytes]);
        let ranges = starts.iter().zip(ends).map(|(&(start, of), end)| (of, start as u64..end as u64));
        ranges.filter(|(_, range)| !range.is_empty()).collect()
    }
}

impl Segment {
    /// How many bytes each use has, in the order of their first bytes, and how many were ever touched. What is reserved
    /// and was never touched takes room in the file system as well.
    #[must_use]
    pub fn rooms(&self) -> Vec<Room> {
        let data = data_ranges(&self.file, self.total_bytes()).ok().flatten();
        let mut rooms: Vec<Room> = Vec::new();
        for (of, range) in self.layout.uses() {
            let bytes = range.end - range.start;
            let touched = data.as_ref().map(|data| data.iter().map(|data| common(data, &range)).sum());
            match rooms.iter_mut().find(|room| room.of == of) {
                Some(room) => {
                    room.bytes += bytes;
                    room.touched_bytes = room.touched_bytes.zip(touched).map(|(a, b): (u64, u64)| a + b);
                }
                None => rooms.push(Room { of, bytes, touched_bytes: touched }),
            }
        }
        rooms
    }
}

/// How many bytes two ranges have in common.
fn common(one: &Range<u64>, other: &Range<u64>) -> u64 {
    one.end.min(other.end).saturating_sub(one.start.max(other.start))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::{Class, PartialRings, Shape};

    #[test]
    fn uses_cover_the_segment_without_gap_or_overlap() {
        let mut shape = Shape {
            participants: 3,
            nodes: 2,
            requests: 5,
            tasks_per_request: 3,
            forks: 1,
            switches: 1,
            partials: PartialRings { slots: 2, bytes: 100 },
            traces: 3,
            blob_bytes: 77,
            class_count: 2,
            ..Shape::default()
        };
        shape.classes[0] = Class { block_bytes: 256, count: 4 };
        shape.classes[1] = Class { block_bytes: 4096, count: 2 };
        let layout = Layout::new(&shape).unwrap();
        let uses = layout.uses();
        assert_eq!((uses[0].clone(), uses[1].0), ((Use::Header, 0..4096), Use::Header));
        assert!(uses.windows(2).all(|pair| pair[0].1.end == pair[1].1.start), "{uses:?}");
        assert_eq!(
            uses.last().unwrap(),
            &(Use::Blocks(1), layout.blocks[1] as u64..layout.total_bytes as u64)
        );
        for of in [
            Use::Statistics,
            Use::Plan,
            Use::Rings,
            Use::Tasks,
            Use::Partials,
            Use::Traces,
            Use::BlockOwners,
            Use::Blocks(0),
        ] {
            assert!(uses.iter().any(|(other, _)| *other == of), "{of:?}");
        }
        shape.partials = PartialRings::default();
        shape.traces = 0;
        shape.class_count = 0;
        let uses = Layout::new(&shape).unwrap().uses();
        assert!(
            uses.iter().all(|(of, _)| !matches!(
                of,
                Use::Partials | Use::Traces | Use::Blocks(_) | Use::BlockOwners
            ))
        );
    }

    #[test]
    fn ranges_have_bytes_in_common_or_none() {
        assert_eq!(common(&(0..10), &(5..20)), 5);
        assert_eq!(common(&(5..20), &(0..10)), 5);
        assert_eq!(common(&(0..10), &(2..4)), 2);
        assert_eq!(common(&(0..10), &(10..12)), 0);
        assert_eq!(common(&(15..20), &(0..10)), 0);
    }
}
