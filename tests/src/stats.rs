//! Statistics of a server's first servlet.

use ringmill::Server;

/// The processes of a servlet's workers, all of which must be there.
pub fn pids<I, O>(server: &Server<I, O>) -> Vec<u32> {
    let pids: Vec<u32> = server.stats().servlets[0].workers.iter().map(|worker| worker.pid).collect();
    assert!(pids.iter().all(|&pid| pid != 0), "{pids:?}");
    pids
}

/// Items that wait in the servlet's ring.
pub fn depth<I, O>(server: &Server<I, O>) -> u64 {
    server.stats().servlets[0].depth
}
