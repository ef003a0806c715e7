//! Workers run on the nodes where their server has placed them, and their own memory lies there from the first page on.

use crate::servers::staffed;
use ringmill::{Cpus, PassThrough, ProcessServlet, Server};
use ringmill_shm::sys::topology::Topology;
use ringmill_tests::process::cpus_of;
use ringmill_tests::stats::pids;
use std::collections::{BTreeMap, BTreeSet};

fn server(cpus: Cpus) -> Server<Vec<u8>, Vec<u8>> {
    let servlet = ProcessServlet::<PassThrough<Vec<u8>>>::new(()).name("placed").cpus(cpus);
    let server = Server::anonymous("placed").start(servlet).expect("it starts");
    println!("{}", server.placement());
    server
}

fn mask(pid: u32) -> Vec<usize> {
    cpus_of(&format!("/proc/{pid}/status"))
}

/// How many pages of its own a process has on each node: of its heap, its stacks, and what else is of no file.
fn own_pages(pid: u32) -> BTreeMap<usize, u64> {
    let maps = std::fs::read_to_string(format!("/proc/{pid}/numa_maps")).unwrap_or_default();
    let mut pages = BTreeMap::new();
    for line in maps.lines().filter(|line| line.contains(" anon=") && !line.contains(" file=")) {
        for (node, count) in line.split(' ').filter_map(|word| word.strip_prefix('N')?.split_once('=')) {
            let (node, count): (usize, u64) =
                (node.parse().expect("a node"), count.parse().expect("a number"));
            *pages.entry(node).or_default() += count;
        }
    }
    pages
}

#[test]
fn each_node_has_its_workers_with_their_memory() {
    let topology = Topology::here().expect("the kernel tells");
    let with_memory = staffed();
    let server = server(Cpus::per_numa_node(2));
    let groups = topology.cpus_by_node();
    let masks: Vec<_> = pids(&server).into_iter().map(mask).collect();
    assert_eq!(masks, [groups.clone(), groups].concat());
    for (worker, pid) in server.placement().workers().iter().zip(pids(&server)) {
        let Some(node) = worker.numa_node.filter(|node| with_memory.contains(node)) else { continue };
        let pages = own_pages(pid);
        println!("{}/{}: own pages by node: {pages:?}", worker.servlet, worker.worker);
        assert!(pages.keys().all(|other| *other == node) && (!pages.is_empty()), "{worker:?}: {pages:?}");
    }
}

#[test]
fn a_worker_by_itself_has_a_core_of_its_own_the_near_ones_first() {
    let topology = Topology::here().expect("the kernel tells");
    let cores: BTreeSet<usize> = topology.cpus.iter().map(|cpu| cpu.core).collect();
    let server = server(Cpus::auto());
    let masks: Vec<_> = pids(&server).into_iter().map(mask).collect();
    assert!(masks.iter().all(|cpus| cpus.len() == 1), "{masks:?}");
    let placed = |cpu: usize| topology.cpus.iter().find(|other| other.number == cpu).expect("it is ours");
    let theirs: BTreeSet<usize> = masks.iter().map(|cpus| placed(cpus[0]).core).collect();
    assert_eq!((masks.len(), theirs.len()), ((cores.len() - 1).max(1), (cores.len() - 1).max(1)));
    let callers = placed(server.placement().callers()[0]);
    assert!(cores.len() == 1 || !theirs.contains(&callers.core));
    // Whoever is on the callers' node comes before whoever is not.
    let is_far: Vec<bool> = masks.iter().map(|cpus| placed(cpus[0]).node != callers.node).collect();
    assert!(is_far.is_sorted(), "{masks:?}");
    for (worker, pid) in server.placement().workers().iter().zip(pids(&server)) {
        let Some(node) = worker.numa_node.filter(|node| staffed().contains(node)) else { continue };
        assert!(own_pages(pid).keys().all(|other| *other == node), "{worker:?}: {:?}", own_pages(pid));
    }
}
