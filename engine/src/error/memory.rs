//! Why memory does not lie on the NUMA nodes where it is to lie.

use crate::text::OneLine;
use std::collections::BTreeMap;

/// Why a part of the segment's memory does not lie on the NUMA nodes where it is to lie.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MemoryError {
    /// A NUMA node that is not there, or of which this process may have no memory.
    #[error(
        "there is no NUMA node {node} of whose memory this process may have some (nodes with such memory: {})",
        list(nodes)
    )]
    NoNode {
        /// The node.
        node: usize,
        /// Those with such memory.
        nodes: Vec<usize>,
    },
    /// The kernel, or a filter of system calls, does not let this process say on which node memory is to lie.
    #[error(
        "the segment's memory lies anywhere, and not on the NUMA nodes of its workers: {}",
        OneLine(reason)
    )]
    Refused {
        /// What refused it, and the way out.
        reason: String,
    },
    /// The kernel has put pages on another node, since this one had no free ones.
    #[error(
        "memory is not where it is to be: {part} by policy {policy}, and the pages looked at by NUMA node are {}; free memory of that node",
        counts(pages)
    )]
    Elsewhere {
        /// Which part of the segment.
        part: String,
        /// What the kernel was asked for, as `numa_maps` writes it.
        policy: String,
        /// How many pages lie on which node, of those that were looked at.
        pages: BTreeMap<usize, u64>,
    },
    /// The system does not tell where memory lies.
    #[error("cannot tell on which NUMA nodes the segment's memory lies: {error}")]
    Unknown {
        /// What the system said.
        error: std::io::Error,
    },
}

fn list(nodes: &[usize]) -> String {
    nodes.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// `{0: 3, 1: 5}` → `3 on 0, 5 on 1`.
fn counts(pages: &BTreeMap<usize, u64>) -> String {
    pages.iter().map(|(node, count)| format!("{count} on {node}")).collect::<Vec<_>>().join(", ")
}
