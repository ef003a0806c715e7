//! On which NUMA nodes the parts of a segment lie, as the kernel says.

use ringmill_shm::segment::{Lying, Segment};
use ringmill_shm::sys::numa::nodes_with_memory;
use ringmill_shm::text::{shown, size};
use serde::Serialize;

/// A part of the segment.
#[derive(Debug, Serialize)]
pub(super) struct Part {
    part: String,
    bytes: u64,
    /// As `numa_maps` writes it.
    policy: String,
    on: Vec<On>,
    /// No page lies elsewhere than the policy says.
    as_asked: bool,
}

/// The pages on one node, of those that were looked at.
#[derive(Debug, Serialize)]
struct On {
    node: usize,
    pages: u64,
}

/// All parts; `None` if the kernel does not tell.
pub(super) fn of(segment: &Segment) -> Option<Vec<Part>> {
    let part = |lying: Lying| Part {
        part: shown(&segment.name_of_part(lying.part)),
        bytes: lying.bytes,
        policy: lying.policy.to_string(),
        as_asked: lying.is_as_asked(),
        on: lying.pages.iter().map(|(&node, &pages)| On { node, pages }).collect(),
    };
    Some(segment.lying(false).ok()?.into_iter().map(part).collect())
}

/// Whether it is worth a table: on one node all lies there.
pub(super) fn is_of_interest() -> bool {
    nodes_with_memory().count() > 1
}

/// The headings of the table.
pub(super) const HEADINGS: [&str; 4] = ["NUMA memory", ">size", "policy", "pages"];

impl Part {
    pub(super) fn row(&self) -> Vec<String> {
        let on: Vec<String> = self.on.iter().map(|on| format!("{} on node {}", on.pages, on.node)).collect();
        let on = if on.is_empty() { "none touched".into() } else { on.join(", ") };
        let mark = if self.as_asked { "" } else { " (not as asked)" };
        vec![self.part.clone(), size(self.bytes), self.policy.clone(), format!("{on}{mark}")]
    }
}
