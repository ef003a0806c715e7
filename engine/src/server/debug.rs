//! What a server is doing at one moment, for people and for tools.

use super::stats::{ServletStats, seconds_since, servlets};
use crate::client::Core;
use ringmill_shm::arena::{Seen, Task};
use ringmill_shm::plan::Target;
use ringmill_shm::segment::Run;
use ringmill_shm::sys::time::now_ns;
use serde::Serialize;

/// A server at one moment; see [`Server::debug_info`](crate::Server::debug_info).
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct DebugInfo {
    /// The server's name.
    pub name: String,
    /// How many requests can be in progress.
    pub capacity: usize,
    /// How many permits are in use.
    pub backlog: usize,
    /// `running`, `draining`, `stopping`, `closed`.
    pub run: Run,
    /// One for each servlet that has workers, in the order of the plan.
    pub servlets: Vec<ServletStats>,
    /// One for each request in progress.
    pub requests: Vec<RequestInfo>,
}

/// A request in progress.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct RequestInfo {
    /// The request's id, from 0 to below the capacity.
    pub id: u32,
    /// How long it has been in progress, in seconds; `None` if its caller has not read a clock yet, which a call does
    /// when it goes to sleep.
    pub age_seconds: Option<f64>,
    /// `filling`, `queued`, `claimed`, `forked`, `joining`, `done`.
    pub phase: &'static str,
    /// The servlet, ensemble or switch where it is; `None` while its input is being written, or when it is done.
    pub stage: Option<String>,
    /// The worker that has it, if one has.
    pub worker: Option<WorkerName>,
    /// Whether its caller has gone.
    pub caller_gone: bool,
    /// Its branches in ensembles.
    pub branches: Vec<BranchInfo>,
}

/// A branch of a request, for one member of an ensemble.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct BranchInfo {
    /// The ensemble's name.
    pub ensemble: String,
    /// The member's index.
    pub member: u32,
    /// As in [`RequestInfo`]; a branch that is `done` waits for the others.
    pub phase: &'static str,
    /// As in [`RequestInfo`].
    pub stage: Option<String>,
    /// As in [`RequestInfo`].
    pub worker: Option<WorkerName>,
}

/// Names a worker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct WorkerName {
    /// Its servlet.
    pub servlet: String,
    /// The worker's index within the servlet.
    pub index: u32,
    /// Its process.
    pub pid: u32,
}

impl DebugInfo {
    pub(crate) fn of(core: &Core) -> Self {
        let segment = &*core.segment;
        let now_ns = now_ns();
        let tasks = (0..core.capacity).filter_map(|id| Task::new(segment, id));
        Self {
            name: core.name.clone(),
            capacity: core.capacity as usize,
            backlog: if core.birth.is_here() { core.free_ids.in_use(segment) as usize } else { 0 },
            run: segment.run(),
            servlets: servlets(segment, now_ns),
            requests: tasks.filter_map(|task| request(task, now_ns)).collect(),
        }
    }
}

fn request(task: Task<'_>, now_ns: u64) -> Option<RequestInfo> {
    let seen = task.look(0)?;
    Some(RequestInfo {
        id: task.id(),
        age_seconds: task.begun_ns().map(|begun_ns| seconds_since(begun_ns, now_ns)),
        phase: seen.phase.name(),
        stage: stage(&seen),
        worker: worker(&seen),
        caller_gone: seen.state.is_cancelled(),
        branches: seen.branches(0).filter_map(|branch| branch_info(&branch)).collect(),
    })
}

fn branch_info(seen: &Seen<'_>) -> Option<BranchInfo> {
    let (fork, member) = seen.member()?;
    Some(BranchInfo {
        ensemble: seen.task.segment().name_of(Target::Fork(fork))?.into(),
        member,
        phase: seen.phase.name(),
        stage: stage(seen),
        worker: worker(seen),
    })
}

fn stage(seen: &Seen<'_>) -> Option<String> {
    seen.stage_name().map(str::to_owned)
}

/// The worker that has a task.
fn worker(seen: &Seen<'_>) -> Option<WorkerName> {
    let (segment, row) = (seen.task.segment(), seen.worker_row()?);
    let (node, index, _) = segment.worker_of(row)?;
    let pid = segment.participants().get(row as usize)?.pid();
    Some(WorkerName { servlet: node.name.clone(), index, pid })
}
