//! Participants whose process is stopped, by a signal or a debugger, and what that holds up.

use super::why::{Finding, Kind};
use crate::who::name_of;
use ringmill_shm::participant::SERVER;
use ringmill_shm::segment::Segment;
use std::collections::BTreeMap;

/// A finding for each stopped process, the server first, then those that hold a reader lock.
pub(crate) fn findings(segment: &Segment) -> Vec<Finding> {
    let entries = segment.participants();
    let stopped: Vec<u32> = (0..)
        .zip(entries)
        .filter(|(_, entry)| entry.token().is_some_and(|token| !segment.is_dead(token)))
        .filter(|(_, entry)| entry.is_stopped() == Some(true))
        .map(|(row, _)| row)
        .collect();
    let pid = |row: u32| entries[row as usize].pid();
    let mut all = Vec::new();
    if stopped.contains(&SERVER) {
        let pid = pid(SERVER);
        all.push(Kind::Stopped.of("server", format!(
            "the server (pid {pid}) is stopped: it calls nothing, and restarts no worker; 'kill -CONT {pid}' lets it go on"
        )));
    }
    let nodes = (0..segment.shape().nodes).filter_map(|index| segment.node(index));
    let mut locks: BTreeMap<u32, String> = BTreeMap::new();
    for node in nodes {
        if let Some(holder) =
            node.lock().holder().map(|token| token.index()).filter(|row| stopped.contains(row))
        {
            locks.insert(holder, ringmill_shm::text::shown(&node.info().name));
        }
    }
    // The threads of a process are stopped together; those of the server with it.
    let mut told = vec![pid(SERVER)];
    let holders_first =
        locks.keys().copied().chain(stopped.iter().copied().filter(|row| !locks.contains_key(row)));
    for row in holders_first.filter(|&row| row != SERVER).collect::<Vec<_>>() {
        let pid = pid(row);
        if !locks.contains_key(&row) && told.contains(&pid) {
            continue;
        }
        told.push(pid);
        let name = name_of(segment, row).unwrap_or_default();
        let holds = match locks.get(&row) {
            Some(node) => format!("holds the reader lock of {node}, so that no worker of it takes items"),
            None if entries[row as usize].counters().call().is_some() => "its call does not go on".into(),
            None => "it takes no items".into(),
        };
        let holds = if locks.contains_key(&row) { format!(" and {holds}") } else { format!(": {holds}") };
        let text = format!("{name} (pid {pid}) is stopped{holds}; 'kill -CONT {pid}' lets it go on");
        all.push(Kind::Stopped.of(name, text));
    }
    all
}
