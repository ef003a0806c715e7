//! On which NUMA nodes the memory of a segment lies: what is asked for, and what the kernel says.
//!
//! # Protocol
//!
//! The creator sets policies on its mapping before the pages are reserved, so that each page comes from its node at once.
//! They belong to the memory: they hold for every process, and any process can read them, as it can ask where a page lies.
//! A policy prefers a node and does not bind to it, since a thread that needs a page of a node without free ones would be
//! killed; so what was obtained is looked at.
//!
//! Blocks of each class are divided into as many parts as there are nodes with workers, and a block is claimed in the part
//! of its reader's node if one is free there.
//!
//! # Invariants
//!
//! * A page belongs to the part of the segment that has its last byte of the page before it, or begins with it: each page is
//!   in one part at most.
#![expect(unsafe_code, reason = "advice on the mapping")]

use super::{Segment, Spec, Use};
use crate::layout::{Layout, NodeLines, PAGE};
use crate::participant::{Entry, SERVER};
use crate::plan::Target;
use crate::sys::file::{Kind, data_ranges, kind_of};
use crate::sys::numa::{self, Nodes, Policy, PolicyError};
use crate::sys::pages::{joined, populate_to_read};
use crate::text::size;
use core::mem::size_of;
use core::ops::Range;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io;

/// Of each part, so many pages are looked at, evenly spread.
const LOOKED_AT: u64 = 256;

/// On which NUMA nodes the memory of a segment is to lie.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Memory {
    /// Each page on that of the thread that touches it first.
    #[default]
    Anywhere,
    /// All of it by one policy.
    All(Policy),
    /// Each ring, and what belongs to a worker, on the node of these workers; tasks on the nodes of all, in turn; of the
    /// blocks of each class a part on each.
    NearWorkers {
        /// For each worker of each of the plan's nodes its NUMA node; none: any.
        workers: Vec<Vec<Option<usize>>>,
        /// Where requests go first.
        entry: Target,
    },
}

impl Memory {
    /// The NUMA nodes of all workers, ascending: that of each part of the blocks.
    fn nodes(&self) -> Vec<usize> {
        let Self::NearWorkers { workers, .. } = self else { return Vec::new() };
        let nodes: BTreeSet<usize> = workers.iter().flatten().flatten().copied().collect();
        nodes.into_iter().collect()
    }

    /// Into how many parts blocks are divided; 0: they are not.
    pub(super) fn parts(&self) -> u32 {
        match self.nodes().len() {
            0 | 1 => 0,
            parts => parts as u32, // node numbers are below a limit
        }
    }

    /// The part that is nearest to all workers of one of the plan's nodes.
    pub(super) fn part_of(&self, node: usize) -> Option<u32> {
        let Self::NearWorkers { workers, .. } = self else { return None };
        let all = workers.get(node)?;
        let first = all.first().copied().flatten()?;
        let is_one = all.iter().all(|&worker| worker == Some(first)) && self.parts() > 0;
        (0..).zip(self.nodes()).find(|&(_, numa)| is_one && numa == first).map(|(part, _)| part)
    }

    /// The part that is nearest to the readers of inputs.
    pub(super) fn part_of_inputs(&self) -> Option<u32> {
        match self {
            Self::NearWorkers { entry: Target::Node(node), .. } => self.part_of(*node as usize),
            _ => None,
        }
    }

    /// The policy of a part of the segment; none: nothing is asked for.
    fn policy(&self, part: Part, spec: &Spec) -> Option<Policy> {
        let among = |nodes: BTreeSet<usize>| match nodes.len() {
            0 => None,
            1 => nodes.first().copied().map(Policy::Preferred),
            _ => Nodes::new(nodes).map(Policy::Interleave),
        };
        let Self::NearWorkers { workers, .. } = self else {
            return if let Self::All(policy) = self { Some(*policy) } else { None };
        };
        let known = |workers: &[Option<usize>]| workers.iter().flatten().copied().collect();
        match part {
            Part::Ring(node) => among(known(workers.get(node as usize)?)),
            Part::Worker(row) => {
                let mut first = SERVER + 1;
                let (node, number) = (0..).zip(&spec.nodes).find_map(|(index, node)| {
                    let number = row.checked_sub(first)?;
                    first += node.rows() as u32;
                    (row < first).then_some((index, number / node.facts.threads))
                })?;
                let worker: &[_] = workers.get::<usize>(node)?;
                worker.get(number as usize).copied().flatten().map(Policy::Preferred)
            }
            Part::Tasks => among(self.nodes().into_iter().collect()),
            Part::Blocks { part, .. } => self.nodes().get(part as usize).copied().map(Policy::Preferred),
            Part::Rest => None,
        }
    }
}

/// A part of a segment's memory that can lie on a NUMA node of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Part {
    /// The ring, lock and doorbell of this one of the plan's nodes.
    Ring(u32),
    /// The counters and histograms of the worker with this row of the participant table.
    Worker(u32),
    /// Tasks, and what else belongs to requests.
    Tasks,
    /// Payload blocks.
    Blocks {
        /// Their size class.
        class: usize,
        /// Which part of the class.
        part: u32,
    },
    /// All else.
    Rest,
}

/// Where a part of a segment's memory lies, as the kernel says.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Lying {
    /// Which.
    pub part: Part,
    /// Its bytes, in whole pages.
    pub bytes: u64,
    /// Its policy.
    pub policy: Policy,
    /// Pages by the NUMA node on which they lie: of at most 256, which were looked at.
    pub pages: BTreeMap<usize, u64>,
}

impl Lying {
    /// Whether no page lies elsewhere than the policy says.
    #[must_use]
    pub fn is_as_asked(&self) -> bool {
        let all = |is_one: &dyn Fn(usize) -> bool| self.pages.keys().all(|&node| is_one(node));
        match self.policy {
            Policy::Preferred(node) => all(&|on| on == node),
            Policy::Bind(nodes) | Policy::Interleave(nodes) => all(&|on| nodes.contains(on)),
            _ => true,
        }
    }
}

/// All parts with their ranges of bytes, in whole pages of this size; those with none are left out.
fn parts(layout: &Layout, page_bytes: u64) -> Vec<(Part, Vec<Range<u64>>)> {
    let shape = &layout.shape;
    let piece = |start: usize, stride: usize, index: u32, bytes: usize| {
        let first = (start + index as usize * stride) as u64;
        first..first + bytes.max(stride) as u64
    };
    let rings = (0..shape.nodes).map(|node| {
        let lines = piece(layout.node_lines, layout.lines_stride, node, size_of::<NodeLines>());
        let cells = piece(layout.ring_cells, layout.cells_stride, node, 0);
        (Part::Ring(node), vec![lines, cells])
    });
    let workers = (SERVER + 1..shape.first_client_row()).map(|row| {
        let entry = piece(layout.participants, size_of::<Entry>(), row, 0);
        let histograms = piece(layout.histograms, layout.histograms_stride, row - SERVER - 1, 0);
        (Part::Worker(row), vec![entry, histograms])
    });
    let (mut tasks, mut rest) = (Vec::new(), Vec::new());
    for (of, range) in layout.uses() {
        match of {
            Use::Tasks | Use::Partials | Use::BlockOwners => tasks.push(range),
            Use::Header | Use::Plan | Use::Traces => rest.push(range),
            Use::Participants | Use::Statistics | Use::Rings | Use::Blocks(_) => {}
        }
    }
    rest.push(layout.callers as u64..layout.client_lines as u64);
    rest.push(layout.server_counters as u64..layout.service as u64);
    let blocks = (0..).zip(shape.classes()).flat_map(|(class, numbers)| {
        (0..shape.memory_parts.max(1)).map(move |part| {
            let blocks = shape.blocks_of_part(part, numbers.count);
            let byte = |block: u64| layout.blocks[class] as u64 + block * numbers.block_bytes;
            let bytes = byte(blocks.start)..byte(blocks.end);
            (Part::Blocks { class, part }, vec![bytes])
        })
    });
    let one = |(part, ranges): (Part, Vec<Range<u64>>)| {
        let whole = |at: u64| at.next_multiple_of(page_bytes); // as the file's size is
        let mut ranges: Vec<_> =
            ranges.into_iter().map(|range| whole(range.start)..whole(range.end)).collect();
        ranges.retain(|range| !range.is_empty());
        ranges.sort_by_key(|range| range.start);
        let ranges = joined(ranges);
        (!ranges.is_empty()).then_some((part, ranges))
    };
    let all = rings.chain(workers).chain([(Part::Tasks, tasks)]).chain(blocks).chain([(Part::Rest, rest)]);
    all.filter_map(one).collect()
}

/// The size of the pages of a segment's file.
pub(super) fn page_bytes(file: &File) -> u64 {
    match kind_of(file) {
        Ok(Kind::Huge { page_bytes }) => page_bytes.max(PAGE as u64),
        _ => PAGE as u64,
    }
}

/// Sets the policies of a segment that is being created, before its pages are there.
///
/// # Errors
/// The first policy that was refused; those before it are set.
pub(super) fn place(spec: &Spec, layout: &Layout, file: &File, base: *const u8) -> Result<(), PolicyError> {
    if let Memory::Anywhere = spec.memory {
        return Ok(());
    }
    for (part, ranges) in parts(layout, page_bytes(file)) {
        let Some(policy) = spec.memory.policy(part, spec) else { continue };
        for range in ranges {
            let bytes = (range.end - range.start) as usize;
            numa::set_policy(base.wrapping_add(range.start as usize), bytes, policy)?;
        }
    }
    Ok(())
}

/// Whether a byte is in one of these ranges, which ascend and do not overlap.
fn is_in(ranges: &[Range<u64>], at: u64) -> bool {
    let after = ranges.partition_point(|range| range.start <= at);
    after.checked_sub(1).is_some_and(|index| ranges[index].contains(&at))
}

impl Segment {
    /// Why the creator could not place the memory as it was told; `None` where it could, and in every other process.
    #[must_use]
    pub fn memory_refused(&self) -> Option<&PolicyError> {
        self.memory_refused.as_ref()
    }

    /// What a part is, in words: names of servlets are as other processes wrote them.
    #[must_use]
    pub fn name_of_part(&self, part: Part) -> String {
        let servlet = |node: u32| self.nodes.get(node as usize).map_or("?", |node| &node.name);
        match part {
            Part::Ring(node) => format!("ring of {}", servlet(node)),
            Part::Worker(row) => match self.worker_of(row) {
                Some((node, worker, 0)) => format!("statistics of {}/{worker}", node.name),
                Some((node, worker, thread)) => {
                    format!("statistics of {}/{worker}, thread {thread}", node.name)
                }
                None => "statistics".into(),
            },
            Part::Tasks => "requests".into(),
            Part::Blocks { class, part } => {
                let block = self.layout.shape.classes().get(class).map_or(0, |class| class.block_bytes);
                let of = if self.layout.shape.memory_parts == 0 {
                    String::new()
                } else {
                    format!(", part {part}")
                };
                format!("blocks of {}{of}", size(block))
            }
            Part::Rest => "all else".into(),
        }
    }

    /// Where each part of the memory lies, by 256 of its pages at most, which are mapped into this process if they are not. If
    /// it does not `touch` pages, those that were never read or written are left out: reading them would clear them.
    ///
    /// # Errors
    /// `ENOSYS` from a kernel without NUMA nodes, `EPERM` where a filter refuses to tell.
    pub fn lying(&self, touch: bool) -> io::Result<Vec<Lying>> {
        let page = page_bytes(&self.file);
        // Blocks that are not reserved are not touched either: that would take memory for them.
        let has_all = self.demand().to_come_bytes == 0;
        let touched = data_ranges(&self.file, self.total_bytes())?;
        let look = |(part, ranges): (Part, Vec<Range<u64>>)| {
            let is_reserved = has_all || !matches!(part, Part::Blocks { .. });
            let is_touched = |at: &u64| match &touched {
                Some(ranges) => touch && is_reserved || is_in(ranges, *at),
                None => is_reserved,
            };
            let bytes = ranges.iter().map(|range| range.end - range.start).sum::<u64>();
            let every = (bytes / page).div_ceil(LOOKED_AT).max(1);
            let all = ranges.iter().flat_map(|range| range.clone().step_by(page as usize));
            let pages: Vec<*const u8> = all
                .step_by(every as usize)
                .filter(is_touched)
                // SAFETY: [checked]: the ranges lie in the mapping.
                .map(|offset| unsafe { self.base.as_ptr().add(offset as usize) }.cast_const())
                .collect();
            for &page in &pages {
                // Where that fails the page is in no table, and counts for no node.
                let _ = populate_to_read(page, 1);
            }
            let mut on = BTreeMap::new();
            numa::nodes_of(&pages)?.into_iter().flatten().for_each(|node| *on.entry(node).or_insert(0) += 1);
            // SAFETY: [checked], as above.
            let first = unsafe { self.base.as_ptr().add(ranges[0].start as usize) };
            Ok(Lying { part, bytes, policy: numa::policy_at(first)?, pages: on })
        };
        parts(&self.layout, page).into_iter().map(look).collect()
    }

    /// The part of the blocks that is nearest to the readers of inputs; none in a worker's process, which writes none.
    #[inline]
    pub(crate) fn part_of_inputs(&self) -> Option<u32> {
        self.part_of_inputs
    }

    /// The part of the blocks that is nearest to the reader of an outcome that a worker at this node writes. If a caller reads
    /// it, or several members of an ensemble do, that is the part near its writer.
    pub(crate) fn part_after(&self, node: u32) -> Option<u32> {
        let reader = match self.nodes.get(node as usize)?.next {
            Target::Node(next) => next,
            _ => node,
        };
        self.nodes.get(reader as usize)?.memory_part
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::{Class, NodeFacts, Shape};
    use crate::participant::Role;
    use crate::segment::NodeSpec;

    /// Two nodes of the plan: workers on NUMA nodes 1 and 4, then one of two threads on 4.
    fn spec(workers: [Vec<Option<usize>>; 2]) -> Spec {
        let node = |name: &str, threads, workers| NodeSpec {
            name: name.into(),
            worker_type: String::new(),
            payloads: Default::default(),
            config: Vec::new(),
            facts: NodeFacts { threads, ..NodeFacts::default() },
            next: Target::End,
            role: Role::ProcessWorker,
            workers,
        };
        let nodes = vec![
            node("a", 1, vec![Default::default(); workers[0].len()]),
            node("b", 2, vec![Default::default(); workers[1].len()]),
        ];
        Spec {
            requests: 1000,
            tasks_per_request: 1,
            classes: vec![Class { block_bytes: 1024, count: 2000 }, Class { block_bytes: 1 << 16, count: 3 }],
            nodes,
            memory: Memory::NearWorkers { workers: workers.into(), entry: Target::Node(1) },
            ..Spec::default()
        }
    }

    fn layout(spec: &Spec) -> Layout {
        let mut shape = Shape {
            participants: 1 + spec.nodes.iter().map(|node| node.rows() as u32).sum::<u32>(),
            nodes: 2,
            requests: spec.requests,
            tasks_per_request: 1,
            memory_parts: spec.memory.parts(),
            class_count: spec.classes.len() as u64,
            ..Shape::default()
        };
        shape.classes[..spec.classes.len()].copy_from_slice(&spec.classes);
        Layout::new(&shape).unwrap()
    }

    fn policies(spec: &Spec) -> Vec<(Part, Policy)> {
        let all = parts(&layout(spec), PAGE as u64);
        all.into_iter().filter_map(|(part, _)| Some((part, spec.memory.policy(part, spec)?))).collect()
    }

    #[test]
    fn each_page_is_in_one_part_at_most_and_each_ring_has_its_own() {
        for workers in [[vec![Some(1), Some(4)], vec![Some(4)]], [vec![Some(1), Some(1)], vec![Some(1)]]] {
            let spec = spec(workers);
            let layout = layout(&spec);
            for page in [PAGE as u64, 2 << 20] {
                let mut all: Vec<Range<u64>> =
                    parts(&layout, page).into_iter().flat_map(|(_, ranges)| ranges).collect();
                all.sort_by_key(|range| range.start);
                assert!(all.windows(2).all(|pair| pair[0].end <= pair[1].start), "{all:x?}");
                assert!(all.iter().all(|range| range.start % page == 0 && range.end % page == 0));
                assert!(all.last().unwrap().end <= (layout.total_bytes as u64).next_multiple_of(page));
            }
            if spec.memory.parts() > 0 {
                let rings = (0..2).map(|node| layout.ring_cells + node * layout.cells_stride);
                assert!(rings.clone().all(|ring| ring.is_multiple_of(PAGE)), "{layout:?}");
                let of_second =
                    parts(&layout, PAGE as u64).into_iter().find(|(part, _)| *part == Part::Ring(1));
                let cells = rings.max().unwrap() as u64;
                assert!(of_second.unwrap().1.iter().any(|range| range.contains(&cells)));
            }
        }
    }

    #[test]
    fn a_part_prefers_the_node_of_its_workers_and_what_all_use_is_interleaved() {
        let spec = spec([vec![Some(1), Some(4)], vec![Some(4)]]);
        let both = Policy::Interleave(Nodes::new([1, 4]).unwrap());
        let (one, four) = (Policy::Preferred(1), Policy::Preferred(4));
        let block = |class, part| Part::Blocks { class, part };
        let expected = [
            (Part::Ring(0), both),
            (Part::Ring(1), four),
            (Part::Worker(1), one),
            (Part::Worker(2), four),
            (Part::Worker(3), four), // both threads of the third worker
            (Part::Worker(4), four),
            (Part::Tasks, both),
            (block(0, 0), one),
            (block(0, 1), four),
            (block(1, 0), one),
            (block(1, 1), four),
        ];
        assert_eq!(policies(&spec), expected);
        assert_eq!((spec.memory.part_of(0), spec.memory.part_of(1)), (None, Some(1)));
        assert_eq!(spec.memory.part_of_inputs(), Some(1));
    }

    #[test]
    fn on_one_node_blocks_are_not_divided_and_workers_anywhere_ask_for_nothing() {
        let spec_of_one = spec([vec![Some(2), None], vec![Some(2)]]);
        assert_eq!((spec_of_one.memory.parts(), spec_of_one.memory.part_of(1)), (0, None));
        let asked = policies(&spec_of_one);
        assert!(asked.iter().all(|(_, policy)| *policy == Policy::Preferred(2)), "{asked:?}");
        assert!(asked.iter().any(|(part, _)| *part == Part::Blocks { class: 1, part: 0 }));
        assert!(!asked.iter().any(|(part, _)| *part == Part::Rest));
        assert_eq!(policies(&spec([vec![None, None], vec![None]])), []);
        let all = Spec { memory: Memory::All(Policy::Preferred(1)), ..spec([vec![None], vec![None]]) };
        assert!(policies(&all).iter().any(|(part, _)| *part == Part::Rest));
    }

    #[test]
    fn parts_have_all_blocks_of_a_class() {
        let shape = |memory_parts| Shape { memory_parts, ..Shape::default() };
        let of = |parts, count| {
            let ranges = (0..u32::max(parts, 1)).map(|part| shape(parts).blocks_of_part(part, count));
            ranges.collect::<Vec<_>>()
        };
        assert_eq!((of(0, 7).len(), of(0, 7)[0].clone()), (1, 0..7));
        assert_eq!(of(3, 7), [0..2, 2..4, 4..7]);
        assert_eq!(of(3, 1), [0..0, 0..0, 0..1]);
        assert_eq!(shape(3).blocks_of_part(3, 7), 0..0);
    }
}
