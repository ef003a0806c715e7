//! Statistics of a server's first servlet, and what must hold of the server when no request is in progress.

use crate::wait_until;
use ringmill::Server;
use ringmill::stats::WorkerStats;
use ringmill_shm::segment::{Location, Segment};

/// The servlet's workers.
pub fn workers<I, O>(server: &Server<I, O>) -> Vec<WorkerStats> {
    server.stats().servlets.remove(0).workers
}

/// The processes of a servlet's workers, all of which must be there.
pub fn pids<I, O>(server: &Server<I, O>) -> Vec<u32> {
    let pids: Vec<u32> = workers(server).iter().map(|worker| worker.pid).collect();
    assert!(pids.iter().all(|&pid| pid != 0), "{pids:?}");
    pids
}

/// Items that wait in the servlet's ring.
pub fn depth<I, O>(server: &Server<I, O>) -> u64 {
    server.stats().servlets[0].depth
}

/// The segment of a server that has a name, to read.
///
/// # Panics
/// If it has ended.
#[must_use]
pub fn segment_of<I, O>(server: &Server<I, O>) -> Segment {
    Segment::inspect(Location::named(server.name()).expect("a name")).expect("it runs")
}

/// Waits until every permit has come back.
#[track_caller]
pub fn await_permits<I, O>(server: &Server<I, O>) {
    wait_until("all permits come back", || server.backlog() == 0);
}

/// Every permit comes back, every worker of the first servlet is ready, and the segment is consistent.
///
/// # Panics
/// If one of them does not become true.
#[track_caller]
pub fn assert_sound<I, O>(server: &Server<I, O>) {
    await_permits(server);
    wait_until("all workers are ready", || workers(server).iter().all(|worker| worker.ready));
    let problems = ringmill_shm::check::check(&segment_of(server));
    assert!(problems.is_empty(), "{}: {problems:?}", server.name());
}
