//! A server's memory lies near its workers; server and shmtool say where, as the kernel told them.

use crate::Whereabouts;
use ringmill::error::MemoryError;
use ringmill::placement::{PlacedMemory, Placement};
use ringmill::{
    Cpus, NumaMemory, PassThrough, ProcessServlet, Reserve, Server, ServerBuilder, Servlet, StartError,
    ThreadServlet,
};
use ringmill_shm::sys::numa::nodes_of_pages;
use ringmill_tests::alone::alone;
use ringmill_tests::name::Name;
use ringmill_tests::nodes::{mapped_pages, with_memory};
use ringmill_tests::refuse::{Refusal, from_now_on};
use ringmill_tests::stats::{segment_of, workers};
use std::collections::BTreeMap;

type Echo = PassThrough<Vec<u8>>;

fn builder(name: &Name) -> ServerBuilder {
    Server::builder(name.text()).capacity(64).max_payload(1 << 16)
}

fn echo(name: &str, cpus: Cpus) -> ProcessServlet<Echo> {
    ProcessServlet::new(()).name(name).cpus(cpus)
}

fn part<'p>(placement: &'p Placement, name: &str) -> &'p PlacedMemory {
    let found = placement.memory().iter().find(|memory| memory.part == name);
    found.unwrap_or_else(|| panic!("no {name} in {placement}"))
}

/// The numbers of the nodes with memory that have CPUs too.
pub(crate) fn staffed() -> Vec<usize> {
    with_memory().iter().filter(|node| !node.cpus.is_empty()).map(|node| node.number).collect()
}

fn shown(name: &Name) -> serde_json::Value {
    serde_json::from_str(&shmtool::show(&name.text(), true).expect("it can be shown")).expect("it is JSON")
}

#[test]
fn a_servlets_ring_and_statistics_lie_on_its_workers_node() {
    let nodes = staffed();
    let [first, .., last] = nodes.as_slice() else { return };
    let name = Name::new("numa");
    let stages = echo("near", Cpus::node(*first)).then(echo("far", Cpus::node(*last)));
    let server = builder(&name).strict_memory(true).start(stages).expect("each has free memory");
    assert_eq!(server.call(&vec![7; 50_000]).expect("it answers").len(), 50_000);
    let placement = server.placement();
    println!("{placement}");
    for (servlet, node) in [("near", *first), ("far", *last)] {
        for of in [format!("ring of {servlet}"), format!("statistics of {servlet}/0")] {
            let memory = part(placement, &of);
            assert_eq!(memory.policy, format!("prefer:{node}"));
            assert!(memory.is_as_asked && memory.pages.keys().eq([&node]), "{memory:?}");
        }
    }
    assert_eq!(part(placement, "requests").policy, format!("interleave:{first},{last}"));
    assert!(server.warnings().is_empty(), "{:?}", server.warnings());
    // As operators see it.
    let shown = shown(&name);
    let parts = shown["numa"].as_array().expect("the kernel tells");
    assert!(parts.iter().all(|part| part["as_asked"] == true), "{parts:?}");
    let ring = parts.iter().find(|part| part["part"] == "ring of far").expect("it is there");
    assert_eq!(
        (&ring["policy"], &ring["on"][0]["node"]),
        (&format!("prefer:{last}").into(), &(*last).into())
    );
    let text = shmtool::show(&name.text(), false).expect("it can be shown");
    println!("{}", &text[text.find("NUMA memory").expect("a table")..]);
    // What its workers have mapped, by the other way to ask: of each part no more than of the whole.
    let segment = segment_of(&server);
    let lying = segment.lying(false).expect("the kernel tells");
    assert!(lying.iter().all(|lying| lying.is_as_asked()), "{lying:?}");
    for worker in workers(&server) {
        let pages = mapped_pages(worker.pid, 0..usize::MAX);
        assert!(
            pages.contains_key(first) && pages.contains_key(last),
            "it has mapped the segment: {pages:?}"
        );
    }
}

/// What a worker makes of its input: notes the node on which that lies. The first byte says how many have, and the rest of it
/// is so large that the outcome has a block of a larger class than the input.
pub(crate) fn noted(input: &[u8]) -> Vec<u8> {
    let at = std::ptr::from_ref(&input[input.len() / 2]);
    std::hint::black_box(input[input.len() / 2]); // a page that this process has not read is not in its table
    let node = nodes_of_pages(at, 1).expect("the kernel tells")[0].expect("it has read it");
    let count = usize::from(input[0]) + 1;
    let mut outcome = input.to_vec();
    (outcome[0], outcome[count]) = (count as u8, node as u8);
    outcome.resize(8 * input.len(), 0);
    outcome
}

#[test]
fn a_payload_lies_on_its_readers_node() {
    let nodes = staffed();
    let [first, .., last] = nodes.as_slice() else { return };
    for stages in [[*first, *last], [*last, *first], [*last, *last]] {
        let name = Name::new("numa");
        let [a, b] = stages.map(|node| ProcessServlet::<Whereabouts>::new(()).cpus(Cpus::node(node)));
        let server =
            builder(&name).max_payload(1 << 17).start(a.name("a").then(b.name("b"))).expect("it starts");
        for _ in 0..64 {
            let outcome = server.call(&vec![0; 1500]).expect("it answers");
            let found: Vec<usize> = outcome[1..=2].iter().map(|&node| usize::from(node)).collect();
            assert_eq!(found, stages, "the nodes of what each stage read");
        }
        println!("stages on nodes {stages:?} read there what they read");
    }
}

#[test]
fn a_policy_is_for_all_of_it_and_a_node_that_is_not_there_is_named() {
    let nodes: Vec<usize> = with_memory().iter().map(|node| node.number).collect();
    let Some(&last) = nodes.last() else { return };
    let start = |memory| {
        let name = Name::new("numa");
        let servlet = ThreadServlet::<Echo>::new(()).cpus(2);
        builder(&name).handle_signals(false).numa_memory(memory).strict_memory(true).start(servlet)
    };
    let on = |memory| -> BTreeMap<usize, u64> {
        let server = start(memory).expect("there is free memory");
        let mut on = BTreeMap::new();
        for memory in server.placement().memory() {
            memory.pages.iter().for_each(|(&node, &pages)| *on.entry(node).or_insert(0) += pages);
        }
        on
    };
    let (in_turn, on_last, anywhere) =
        (on(NumaMemory::Interleaved), on(NumaMemory::Node(last)), on(NumaMemory::Anywhere));
    assert!(anywhere.is_empty(), "nothing was asked for: {anywhere:?}");
    if nodes.len() > 1 {
        assert!(in_turn.keys().eq(&nodes), "{in_turn:?}");
        assert!(on_last.keys().eq([&last]), "{on_last:?}");
    } else {
        assert!(in_turn.is_empty() && on_last.is_empty());
    }
    let error = start(NumaMemory::Node(last + 1)).map(drop).expect_err("it is not there");
    let StartError::Memory(MemoryError::NoNode { node, nodes: those }) = &error else { panic!("{error}") };
    assert_eq!((*node, those), (last + 1, &nodes));
}

/// As a container's filter of system calls has it. On one node nothing is asked for, so nothing is refused.
#[test]
fn where_policies_are_refused_a_warning_says_so_or_the_start_fails() {
    alone("servers::where_policies_are_refused_a_warning_says_so_or_the_start_fails", || {
        let nodes = staffed();
        let Some(&last) = nodes.last() else { return };
        from_now_on(&[
            Refusal::of(libc::SYS_mbind, libc::EPERM),
            Refusal::of(libc::SYS_get_mempolicy, libc::EPERM),
            Refusal::of(libc::SYS_move_pages, libc::EPERM),
        ])
        .expect("a filter");
        let start = |is_strict| {
            let servlet = ThreadServlet::<Echo>::new(()).cpus(Cpus::node(last));
            Server::anonymous("numa").handle_signals(false).strict_memory(is_strict).start(servlet)
        };
        let server = start(false).expect("it starts all the same");
        assert_eq!(server.call(&vec![7; 9]).expect("it answers").len(), 9);
        let strict = start(true);
        if nodes.len() < 2 {
            assert!(server.warnings().is_empty() && strict.is_ok(), "{:?}", server.warnings());
            return;
        }
        let [warning] = server.warnings() else { panic!("{:?}", server.warnings()) };
        assert!(warning.contains("refuses mbind; in a container, give it CAP_SYS_NICE"), "{warning}");
        let error = strict.map(drop).expect_err("it is strict");
        assert!(matches!(&error, StartError::Memory(MemoryError::Refused { .. })), "{error}");
        assert_eq!(&error.to_string(), warning);
    });
}

/// Only in small machines, as `.ci/numa-guest` has them: it takes more memory than a node has.
#[test]
fn a_node_without_room_is_told_with_where_the_rest_lies() {
    let nodes = with_memory();
    let Some(last) = nodes.last().filter(|node| nodes.len() > 1 && node.memory_bytes < 1 << 30) else {
        return;
    };
    let start = |is_strict| {
        let blocks = last.memory_bytes as usize / (1 << 20) + 16;
        let builder = Server::anonymous("numa").capacity(4).payload_classes([(1 << 20, blocks)]);
        let builder = builder.numa_memory(NumaMemory::Node(last.number)).strict_memory(is_strict);
        let builder = builder.reserve(Reserve::Everything);
        builder.start(ThreadServlet::<Echo>::new(()))
    };
    let server = start(false).expect("other nodes have room");
    let warning = server.warnings().first().expect("a part is elsewhere").clone();
    println!("{warning}");
    assert!(warning.contains(&format!("by policy prefer:{}", last.number)), "{warning}");
    assert!(server.placement().memory().iter().any(|memory| !memory.is_as_asked));
    assert_eq!(server.call(&vec![7; 9]).expect("it answers").len(), 9);
    drop(server);
    let error = start(true).map(drop).expect_err("it is strict");
    assert!(matches!(&error, StartError::Memory(MemoryError::Elsewhere { .. })), "{error}");
}
