//! The crash points of this crate. [`ringmill_shm::crash`] says what they are. Each name occurs once in the
//! sources, which a test checks.

use ringmill_shm::crash::Point;

/// The number of this crate's first point among those of all crates.
pub const FIRST: usize = ringmill_shm::crash::POINTS.len();

const _: () = assert!(FIRST + POINTS.len() <= ringmill_shm::crash::POINT_LIMIT);

const fn point(name: &'static str, by: &'static str, between: &'static str) -> Point {
    Point { name, by, between }
}

/// The crash points of this crate: name, the participant that passes it, what it has done and what not.
pub static POINTS: [Point; 63] = [
    point("route.outboxed", "mover", "a task is QUEUED, among others to be pushed together"),
    point("route.flushed_some", "mover", "the tasks for one node are pushed, those for others are not"),
    point("route.down", "mover at a node that is down", "a task is pushed, and no worker will read it"),
    point("route.emptying", "mover at a node that is down", "one task is claimed, `head` not stored"),
    point(
        "route.emptied",
        "mover at a node that is down",
        "all tasks in the ring are claimed, none answered",
    ),
    point("route.forked_some", "mover that forks", "some branches are moved on, others not"),
    point("route.chosen", "mover at a switch", "a member is chosen, the task not moved on"),
    point("route.error_written", "mover that fails a task", "the record is written, the word is as before"),
    point("route.join_failed", "mover that joins", "the error of a join is written, the word says JOINING"),
    point("route.join_spoilt", "repairer", "the error of a join that cannot be repeated is written"),
    point(
        "route.join_value",
        "mover that joins",
        "a value is written over a task's input, its length is not",
    ),
    point(
        "collect.took_over",
        "lock holder",
        "the lock is taken over, the dead holder's window is announced",
    ),
    point(
        "collect.window_skips",
        "lock holder in its window",
        "a task whose caller has gone is claimed, `head` not stored",
    ),
    point("collect.stored_head", "lock holder", "a batch is claimed and `head` stored, the lock held"),
    point("collect.unlocked", "worker", "the lock is free, no other worker is woken for what is left"),
    point("collect.claimed_some", "lock holder", "some tasks of a batch are claimed, `head` is not stored"),
    point("collect.claimed", "lock holder", "a batch is claimed, `head` is not stored"),
    point("collect.discards", "worker", "of several tasks whose callers have gone some are freed"),
    point("collect.admits", "worker", "some inputs of a batch are on the desk"),
    point("collect.called", "worker", "user code has returned, unanswered items have no error yet"),
    point("collect.flushes", "worker", "a batch is answered, tasks that go on are not pushed"),
    point("collect.handled", "worker", "all tasks of a batch have been moved on"),
    point("life.born", "worker", "the worker is constructed, and not READY"),
    point("life.over", "worker", "the worker has handled its last batch, and not cleaned up"),
    point("payload.some", "writer of a payload", "a part of a value is written, over the old payload"),
    point("payload.root", "writer of a payload", "its root is written, over the old payload"),
    point("payload.inline", "writer of a payload", "a value is written in line, its length is not"),
    point("payload.block", "writer of a payload", "a value is written in a block, its length is not"),
    point("child.ordered", "worker's process", "it has read its order, and has not attached"),
    point("child.attached", "worker's process", "attached, without its lease"),
    point("child.leased", "worker's process", "it has its lease, and is not marked as arrived"),
    point("child.watches", "worker's process", "it watches the server, and has no worker"),
    point("child.orphaned", "worker's process", "the server has gone, its threads do not know"),
    point("connect.attached", "client", "the segment is attached, no row taken"),
    point("connect.joined", "client", "it has a row, and no core"),
    point("clients.marked", "supervisor", "a dead client's row is DEAD, its requests as they were"),
    point("clients.cancelled_one", "supervisor", "some requests of a dead client are cancelled, others not"),
    point("clients.cancelled", "supervisor", "a dead client's requests are cancelled, nothing repaired"),
    point("clients.repaired", "supervisor", "what a dead client left is repaired, its row DEAD"),
    point("supervisor.prepared", "supervisor", "rows have their tokens, no process is started"),
    point("spawn.started", "supervisor", "a process is started, and not watched"),
    point("supervisor.launched", "supervisor", "some workers are started, others not"),
    point("supervisor.reaped", "supervisor", "a dead worker's process is waited for, its rows not marked"),
    point("supervisor.marked", "supervisor", "the dead worker's rows are DEAD, its tasks are not repaired"),
    point(
        "supervisor.repaired",
        "supervisor",
        "the dead worker's tasks are repaired, no restart is arranged",
    ),
    point("supervisor.gives_up", "supervisor", "the reason is known why a node is down, it is not marked"),
    point("supervisor.reopens", "supervisor", "a node is no longer marked as down, its gate is closed"),
    point("supervisor.retires", "supervisor", "a worker is told to leave, and nothing of it is noted"),
    point(
        "supervisor.pulled",
        "supervisor",
        "the workers of a lever are told to leave or about to be started, none waited for",
    ),
    point(
        "levers.drained",
        "caller that drains a servlet",
        "no request enters the servlet, those inside are not waited for",
    ),
    point("supervisor.shut_some", "caller that shuts down", "some rings are emptied, others not"),
    point("core.acquired", "caller", "a request id is taken in memory, its word is FREE"),
    point("core.filled", "caller", "an input is written, nothing sent"),
    point("core.queued_all", "caller", "several requests are QUEUED, none is pushed"),
    point("reply.sent", "caller", "the request is sent, and not waited for"),
    point("reply.opens", "caller", "the outcome is there, and not read"),
    point("core.left", "caller", "a request is cancelled, and not noted as abandoned"),
    point("shutdown.draining", "caller that shuts down", "no more calls are taken, no worker is told"),
    point("shutdown.idle", "caller that shuts down", "workers are idle, and not told to leave"),
    point("shutdown.left", "caller that shuts down", "workers have left, rings are not emptied"),
    point("shutdown.closed", "caller that shuts down", "the server is closed, its files are there"),
    point("route.error_beside", "worker that keeps inputs", "an error is the payload, the word is as before"),
    point("streaming.opened", "caller", "the ring of partials is open, the request not sent"),
];
