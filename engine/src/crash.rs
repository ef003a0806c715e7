//! The crash points of this crate. What they are is told in [`ringmill_shm::crash`]; each name occurs once in
//! the sources, and the tests see to that.

use ringmill_shm::crash::Point;

/// The number of this crate's first point among those of all crates.
pub const FIRST: usize = ringmill_shm::crash::POINTS.len();

const _: () = assert!(FIRST + POINTS.len() <= ringmill_shm::crash::POINT_LIMIT);

const fn point(name: &'static str, by: &'static str, between: &'static str) -> Point {
    Point { name, by, between }
}

/// The crash points of this crate: name, who passes it, what has been done and what not.
pub static POINTS: [Point; 53] = [
    point("route.outboxed", "who moves a task on", "QUEUED, among others that will be pushed together"),
    point("route.flushed_some", "who moves tasks on", "what waits for one node is pushed, for others not"),
    point("route.down", "who meets a node that is down", "pushed, and nobody will read it"),
    point("route.emptying", "who meets a node that is down", "one is claimed, `head` not stored"),
    point(
        "route.emptied",
        "who meets a node that is down",
        "what was in the ring is claimed, none of it answered",
    ),
    point("route.forked_some", "who forks", "some branches are moved on, others not"),
    point("route.chosen", "switch", "a member is chosen, the task not moved on"),
    point(
        "route.error_written",
        "who ends a task with an error",
        "the record is written, the word as before",
    ),
    point("route.join_failed", "joiner", "the error of a join is written, the word says JOINING"),
    point("route.join_spoilt", "repairer", "the error of a join that cannot be repeated is written"),
    point("route.join_value", "joiner", "a value is written over a task's input, its length is not"),
    point("run.took_over", "reader", "the lock is taken over, the dead holder's window is announced"),
    point(
        "run.window_skips",
        "reader in its window",
        "one whose caller has gone is claimed, `head` not stored",
    ),
    point("run.collected", "reader", "a batch is claimed and `head` stored, the lock held"),
    point("run.unlocked", "reader", "the lock is free, nobody told of what is left"),
    point("run.claimed_some", "reader", "some of a batch are claimed, `head` is not stored"),
    point("run.claimed", "reader", "a batch is claimed, `head` is not stored"),
    point("run.discards", "reader", "of several whose callers had gone some are freed"),
    point("run.admits", "worker", "some inputs of a batch are on the desk"),
    point("run.called", "worker", "user code has returned, what it left unanswered is"),
    point("run.flushes", "worker", "a batch is answered, what goes on is not pushed"),
    point("run.handled", "worker", "a batch has gone on"),
    point("run.born", "worker", "it is constructed, and not READY"),
    point("run.over", "worker", "it has done its last, and not cleaned up"),
    point("payload.some", "who writes a payload", "a part of a value is written, over what was there"),
    point("payload.root", "who writes a payload", "its root is made, over what was there"),
    point("payload.inline", "who writes a payload", "a value is written in line, its length is not"),
    point("payload.block", "who writes a payload", "a value is written in a block, its length is not"),
    point("launch.ordered", "worker's process", "it knows what it is to be, and has not attached"),
    point("launch.attached", "worker's process", "attached, without its lease"),
    point("launch.leased", "worker's process", "it has its lease, and has not arrived"),
    point("launch.watches", "worker's process", "it watches the server, and has no worker"),
    point("launch.orphaned", "worker's process", "the server has gone, its threads do not know"),
    point("supervisor.prepared", "supervisor", "places have their tokens, no process is started"),
    point("supervisor.started", "supervisor", "a process is started, and not watched"),
    point("supervisor.launched", "supervisor", "some workers are started, others not"),
    point("supervisor.reaped", "supervisor", "a dead worker's process is waited for, its places not marked"),
    point("supervisor.marked", "supervisor", "its places are DEAD, what it left is not repaired"),
    point("supervisor.repaired", "supervisor", "what it left is repaired, no restart arranged"),
    point("supervisor.gives_up", "supervisor", "why a node is down is known, it is not marked"),
    point("supervisor.reopens", "supervisor", "a node is no longer marked as down, its gate is closed"),
    point("supervisor.shut_some", "server that ends", "some rings are emptied, others not"),
    point("core.acquired", "caller", "a place is taken in memory, its word is FREE"),
    point("core.filled", "caller", "an input is written, nothing sent"),
    point("core.queued_all", "caller", "several are QUEUED, none is pushed"),
    point("core.sent", "caller", "it is sent, and not waited for"),
    point("core.opens", "caller", "the outcome is there, and not read"),
    point("core.left", "caller", "a request is cancelled, and not noted as abandoned"),
    point("shutdown.draining", "server that ends", "no more calls are taken, nobody is told"),
    point("shutdown.idle", "server that ends", "workers are idle, and not told to leave"),
    point("shutdown.left", "server that ends", "workers have left, rings are not emptied"),
    point("shutdown.closed", "server that ends", "over, the files are there"),
    point("route.error_beside", "worker that keeps inputs", "an error is the payload, the word is as before"),
];
