//! The memory of a segment: each part lies where its policy says, and every process can read both.

use ringmill_shm::layout::{Class, NodeFacts};
use ringmill_shm::participant::Role;
use ringmill_shm::plan::Target;
use ringmill_shm::segment::{Location, Lying, Memory, NodeSpec, Part, Reserve, Segment, Spec};
use ringmill_shm::sys::numa::{Nodes, Policy, PolicyError};
use ringmill_tests::fresh_name;
use ringmill_tests::nodes::with_memory;
use std::collections::BTreeMap;

/// A worker on each of these NUMA nodes, each the only one of its servlet, one servlet after the other; then a servlet with a
/// worker on each.
fn spec(nodes: &[usize]) -> Spec {
    let node = |name: String, next, workers| NodeSpec {
        name,
        worker_type: String::new(),
        payloads: Default::default(),
        config: Vec::new(),
        facts: NodeFacts::default(),
        next,
        role: Role::ThreadWorker,
        workers: vec![Default::default(); workers],
    };
    let next = |index: usize| Target::Node(index as u32 + 1);
    let each = nodes.iter().enumerate().map(|(index, number)| node(format!("on-{number}"), next(index), 1));
    let on_one = nodes.iter().map(|&number| vec![Some(number)]);
    let on_all = nodes.iter().copied().map(Some).collect();
    Spec {
        requests: 100,
        tasks_per_request: 1,
        classes: vec![Class { block_bytes: 1024, count: 200 }, Class { block_bytes: 1 << 20, count: 16 }],
        reserve: Reserve::Everything,
        memory: Memory::NearWorkers { workers: on_one.chain([on_all]).collect(), entry: Target::Node(0) },
        nodes: each.chain([node("on-all".into(), Target::End, nodes.len())]).collect(),
        ..Spec::default()
    }
}

fn show(lying: &[Lying]) {
    for Lying { part, policy, pages, .. } in lying {
        println!("{part:?}, {policy}: pages by node {pages:?}");
    }
}

#[test]
fn each_part_lies_on_the_node_of_its_workers() {
    let nodes: Vec<usize> = with_memory().iter().map(|node| node.number).collect();
    if nodes.is_empty() {
        return;
    }
    let spec = spec(&nodes);
    let directory = tempfile::tempdir_in("/dev/shm").expect("a folder");
    for location in [
        Location::anonymous(&fresh_name("numa")).expect("a label"),
        Location::named(&fresh_name("numa")).expect("a name"),
        Location::File(directory.path().join("segment")),
    ] {
        let segment = Segment::create(location, &spec).expect("there is room");
        assert!(segment.memory_refused().is_none(), "{:?}", segment.memory_refused());
        let lying = segment.lying(true).expect("the kernel tells");
        show(&lying);
        let among_all = match *nodes.as_slice() {
            [only] => Policy::Preferred(only),
            _ => Policy::Interleave(Nodes::new(nodes.clone()).expect("nodes' numbers")),
        };
        let find = |part| lying.iter().find(|lying| lying.part == part);
        for (index, &number) in (0..).zip(&nodes) {
            let block = |class| Part::Blocks { class, part: index };
            // On one node, where pages are shared, a ring may have none of its own.
            let of_ring = (nodes.len() > 1).then_some(Part::Ring(index));
            for part in of_ring.into_iter().chain([block(0), block(1)]) {
                let found = find(part).unwrap_or_else(|| panic!("no {part:?} in {lying:?}"));
                assert_eq!(found.policy, Policy::Preferred(number), "{found:?}");
                let looked_at: u64 = found.pages.values().sum();
                assert!(looked_at > 0 && found.pages == BTreeMap::from([(number, looked_at)]), "{found:?}");
            }
        }
        assert_eq!(find(Part::Tasks).expect("tasks").policy, among_all);
        assert_eq!(find(Part::Tasks).expect("tasks").pages.len(), nodes.len());
        if nodes.len() > 1 {
            assert_eq!(find(Part::Ring(nodes.len() as u32)).expect("its own pages").policy, among_all);
        }
        assert!(lying.iter().all(Lying::is_as_asked), "{lying:?}");
        // As shmtool does.
        let inspected = Segment::inspect(segment.location().clone()).expect("it is there");
        assert_eq!(inspected.lying(false).expect("the kernel tells"), lying);
    }
}

#[test]
fn a_node_that_is_not_there_is_told_and_the_segment_works() {
    let nodes = with_memory();
    let Some(absent) = nodes.iter().map(|node| node.number + 1).max() else { return };
    let segment = Segment::create(Location::anonymous("numa").expect("a label"), &spec(&[0, absent]));
    let segment = segment.expect("it is created all the same");
    let refused = segment.memory_refused().expect("it was");
    assert!(matches!(refused, PolicyError::Nodes { .. }), "{refused}");
    assert!(Segment::inspect(segment.location().clone()).is_ok());
}
