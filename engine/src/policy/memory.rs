//! On which NUMA nodes a server's memory lies: the choice, what the machine allows, and what came of it.

use super::placement::{PlacedMemory, Placement};
use crate::error::MemoryError;
use ringmill_shm::plan::Target;
use ringmill_shm::segment::{Lying, Memory, Segment};
use ringmill_shm::sys::numa::{Nodes, Policy};

/// On which NUMA nodes the memory of a server's segment lies. On a machine of one node no choice changes anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash)]
#[non_exhaustive]
pub enum NumaMemory {
    /// A servlet's ring on the node of its workers, as each worker's statistics; what all use on the nodes of all workers, in
    /// turn; payload blocks on each of them, where a payload is written to the node of its reader. Workers that are not
    /// pinned to the CPUs of one node have none; if no worker has, this is [`Anywhere`](Self::Anywhere).
    #[default]
    NearWorkers,
    /// On the node of the thread that starts the server, as long as that has free memory.
    Anywhere,
    /// On all nodes in turn, page by page.
    Interleaved,
    /// On this node.
    Node(usize),
}

impl NumaMemory {
    /// What is asked of the kernel, if this process may have memory of these nodes.
    ///
    /// # Errors
    /// A node that is none of them.
    pub(crate) fn asked(
        self,
        nodes: &Nodes,
        placement: &Placement,
        servlets: &[&str],
        entry: Target,
    ) -> Result<Memory, MemoryError> {
        if let Self::Node(node) = self
            && !nodes.contains(node)
        {
            return Err(MemoryError::NoNode { node, nodes: nodes.iter().collect() });
        }
        if nodes.count() < 2 {
            return Ok(Memory::Anywhere);
        }
        let near = |servlet: &&str| {
            let of = placement.workers().iter().filter(|worker| worker.servlet == **servlet);
            of.map(|worker| worker.memory_node.filter(|&node| nodes.contains(node))).collect()
        };
        Ok(match self {
            Self::Anywhere => Memory::Anywhere,
            Self::Interleaved => Memory::All(Policy::Interleave(*nodes)),
            Self::Node(node) => Memory::All(Policy::Preferred(node)),
            Self::NearWorkers => {
                let workers: Vec<Vec<Option<usize>>> = servlets.iter().map(near).collect();
                match workers.iter().flatten().any(Option::is_some) {
                    true => Memory::NearWorkers { workers, entry },
                    false => Memory::Anywhere,
                }
            }
        })
    }
}

/// Where the memory of a segment lies for which the kernel was asked for something, and what is not as it was asked for.
pub(crate) fn look(segment: &Segment) -> (Vec<PlacedMemory>, Vec<MemoryError>) {
    if let Some(error) = segment.memory_refused() {
        return (Vec::new(), vec![MemoryError::Refused { reason: error.to_string() }]);
    }
    let lying = match segment.lying(true) {
        Ok(lying) => lying,
        Err(error) => return (Vec::new(), vec![MemoryError::Unknown { error }]),
    };
    let elsewhere = lying.iter().filter(|lying| !lying.is_as_asked()).map(|lying| MemoryError::Elsewhere {
        part: segment.name_of_part(lying.part),
        policy: lying.policy.to_string(),
        pages: lying.pages.clone(),
    });
    let placed = |lying: &Lying| PlacedMemory {
        part: segment.name_of_part(lying.part),
        bytes: lying.bytes,
        policy: lying.policy.to_string(),
        pages: lying.pages.clone(),
        is_as_asked: lying.is_as_asked(),
    };
    (lying.iter().map(placed).collect(), elsewhere.collect())
}
