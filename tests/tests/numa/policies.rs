//! Memory policies: each page lies where its policy says, as `move_pages` and `/proc/self/numa_maps` tell.

use memmap2::{Advice, MmapRaw};
use ringmill_shm::sys::cpu::pin_thread;
use ringmill_shm::sys::file::reserve;
use ringmill_shm::sys::numa::{self, Nodes, Policy};
use ringmill_shm::sys::topology::Node;
use ringmill_tests::nodes::{mapped_pages, with_memory};
use std::collections::BTreeMap;

const PAGE: usize = 4096;
const PAGES: usize = 64;

/// Shared memory of [`PAGES`] pages whose policy is set before any of them is there. A thread on the CPUs of `toucher` then
/// reserves and touches them. Returns the node of each page.
fn nodes_of_pages(policy: Option<Policy>, toucher: &Node) -> Vec<Option<usize>> {
    let file = tempfile::tempfile_in("/dev/shm").expect("shared memory");
    file.set_len((PAGES * PAGE) as u64).expect("a size");
    let memory = MmapRaw::map_raw(&file).expect("a mapping");
    if let Some(policy) = policy {
        numa::set_policy(memory.as_ptr(), PAGES * PAGE, policy).expect("a policy");
        assert_eq!(numa::policy_at(memory.as_ptr()).expect("the kernel tells"), policy);
    }
    std::thread::scope(|scope| {
        let touch = || {
            pin_thread(&toucher.cpus).expect("CPUs of this process");
            reserve(&file, 0..(PAGES * PAGE) as u64).expect("free pages");
            memory.advise(Advice::PopulateWrite).expect("the pages are there");
        };
        scope.spawn(touch).join().expect("it does not panic");
    });
    let nodes = numa::nodes_of_pages(memory.as_ptr(), PAGES * PAGE).expect("the kernel tells");
    // Two ways to ask, one answer.
    let start = memory.as_ptr().addr();
    assert_eq!(mapped_pages(std::process::id(), start..start + PAGES * PAGE), counts(&nodes));
    let policy = policy.map_or("no policy".to_owned(), |policy| policy.to_string());
    println!("touched on node {}, {policy}: pages by node {:?}", toucher.number, counts(&nodes));
    nodes
}

fn counts(nodes: &[Option<usize>]) -> BTreeMap<usize, usize> {
    let mut counts = BTreeMap::new();
    nodes.iter().flatten().for_each(|&node| *counts.entry(node).or_insert(0) += 1);
    counts
}

#[test]
fn without_a_policy_a_page_lies_on_the_node_of_the_thread_that_touched_it() {
    for toucher in with_memory().iter().filter(|node| !node.cpus.is_empty()) {
        assert_eq!(nodes_of_pages(None, toucher), [Some(toucher.number); PAGES]);
    }
}

#[test]
fn with_a_policy_it_lies_on_the_policys_node_whoever_touched_it() {
    let nodes = with_memory();
    for toucher in nodes.iter().filter(|node| !node.cpus.is_empty()) {
        for &Node { number, .. } in &nodes {
            let only = Nodes::new([number]).expect("a node's number");
            for policy in [Policy::Preferred(number), Policy::Bind(only)] {
                assert_eq!(nodes_of_pages(Some(policy), toucher), [Some(number); PAGES], "{policy}");
            }
        }
    }
}

#[test]
fn interleaved_pages_lie_on_the_nodes_in_turn() {
    let nodes = with_memory();
    let Some(toucher) = nodes.first() else { return };
    let all = Nodes::new(nodes.iter().map(|node| node.number)).expect("nodes' numbers");
    let pages = nodes_of_pages(Some(Policy::Interleave(all)), toucher);
    let share = PAGES / nodes.len();
    assert_eq!(counts(&pages), nodes.iter().map(|node| (node.number, share)).collect());
    assert!(pages.windows(2).all(|pair| nodes.len() == 1 || pair[0] != pair[1]), "{pages:?}");
}

#[test]
fn a_threads_policy_is_for_what_it_touches() {
    let nodes = with_memory();
    let Some(toucher) = nodes.first() else { return };
    for &Node { number, .. } in &nodes {
        std::thread::scope(|scope| {
            scope.spawn(|| {
                pin_thread(&toucher.cpus).expect("CPUs of this process");
                numa::set_thread_policy(Policy::Preferred(number)).expect("a policy");
                assert_eq!(numa::thread_policy().expect("the kernel tells"), Policy::Preferred(number));
                let memory = memmap2::MmapMut::map_anon(PAGES * PAGE).expect("memory");
                memory.advise(Advice::PopulateWrite).expect("free pages");
                let pages = numa::nodes_of_pages(memory.as_ptr(), PAGES * PAGE).expect("the kernel tells");
                assert_eq!(pages, [Some(number); PAGES]);
            });
        });
    }
}
