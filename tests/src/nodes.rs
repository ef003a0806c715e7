//! NUMA nodes of this machine, and on which of them the kernel says that pages lie.
//!
//! A test of several nodes runs on whatever machine there is. `.ci/numa-guest` runs all of them again in machines of two
//! and of four nodes, and says so in an environment variable; there no test may find less.

use ringmill_shm::sys::numa;
use ringmill_shm::sys::topology::{Node, Topology};
use std::collections::BTreeMap;
use std::ops::Range;

/// How many nodes the machine has, if that is known.
const VARIABLE: &str = "RINGMILL_NUMA_NODES";

/// The nodes with memory that this process may have, with their CPUs; none if the kernel has no nodes, or a filter refuses to
/// tell.
///
/// # Panics
/// If they are not as many as the variable says.
#[must_use]
pub fn with_memory() -> Vec<Node> {
    let allowed = numa::allowed_nodes();
    let all = Topology::here().expect("the kernel tells").nodes;
    let has_memory = |node: &Node| allowed.as_ref().is_ok_and(|allowed| allowed.contains(node.number));
    let nodes: Vec<Node> = all.into_iter().filter(has_memory).collect();
    if let Ok(expected) = std::env::var(VARIABLE) {
        assert_eq!(nodes.len().to_string(), expected, "{nodes:?}, {allowed:?}");
    }
    if nodes.len() < 2 {
        eprintln!("a machine of {} nodes: .ci/numa-guest has more", nodes.len());
    }
    nodes
}

/// How many pages of each node a process has mapped in these bytes of its address space, as `/proc/PID/numa_maps` says.
///
/// # Panics
/// If there is no such process, or the kernel has no nodes.
#[must_use]
pub fn mapped_pages(pid: u32, bytes: Range<usize>) -> BTreeMap<usize, usize> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/numa_maps")).expect("it lives");
    let mut pages = BTreeMap::new();
    for line in text.lines() {
        let (start, rest) = line.split_once(' ').expect("an address, then what is said of it");
        if !bytes.contains(&usize::from_str_radix(start, 16).expect("an address")) {
            continue;
        }
        for (node, count) in rest.split(' ').filter_map(|word| word.strip_prefix('N')?.split_once('=')) {
            if let (Ok(node), Ok(count)) = (node.parse(), count.parse::<usize>()) {
                *pages.entry(node).or_insert(0) += count;
            }
        }
    }
    pages
}
