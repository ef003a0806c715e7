//! What a server is doing at one moment, for people and for tools.

use super::stats::{ServletStats, seconds_since, servlets};
use crate::client::Core;
use ringmill_shm::arena::{At, Task};
use ringmill_shm::segment::{Run, Segment};
use ringmill_shm::sys::time::now_ns;
use ringmill_shm::word::{Phase, State};
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
            requests: tasks.filter_map(|task| request(segment, task, now_ns)).collect(),
        }
    }
}

fn request(segment: &Segment, task: Task<'_>, now_ns: u64) -> Option<RequestInfo> {
    let state = task.word().load();
    let phase = state.phase().filter(|phase| *phase != Phase::Free)?;
    Some(RequestInfo {
        id: task.id(),
        age_seconds: task.begun_ns().map(|begun_ns| seconds_since(begun_ns, now_ns)),
        phase: phase.name(),
        stage: stage(segment, task, phase),
        worker: worker(segment, state),
        caller_gone: state.is_cancelled(),
        branches: (1..=segment.shape().branches()).filter_map(|slot| branch(segment, task, slot)).collect(),
    })
}

fn branch(segment: &Segment, request: Task<'_>, slot: u32) -> Option<BranchInfo> {
    let task = request.sibling(slot)?;
    let state = task.word().load();
    let phase = state.phase().filter(|phase| *phase != Phase::Free)?;
    let (_, fork) = segment.routes().fork_of(slot - 1)?;
    Some(BranchInfo {
        ensemble: fork.name.clone(),
        member: slot - 1 - fork.first,
        phase: phase.name(),
        stage: stage(segment, task, phase),
        worker: worker(segment, state),
    })
}

/// The servlet, ensemble or switch where a task is.
fn stage(segment: &Segment, task: Task<'_>, phase: Phase) -> Option<String> {
    if !phase.is_under_way() {
        return None;
    }
    let name = match task.at() {
        At::To { node: index, .. } | At::Begun { node: index, .. } => {
            &segment.nodes().get(index as usize)?.name
        }
        At::Forked(index) | At::Joined(index) => &segment.routes().forks.get(index as usize)?.name,
        At::New | At::Spoilt | At::Failed(_) => return None,
    };
    Some(name.clone())
}

/// The worker that has a task.
fn worker(segment: &Segment, state: State) -> Option<WorkerName> {
    let row = state.phase().filter(|phase| phase.is_worked_on()).and(state.owner())?.index();
    let (node, index, _) = segment.worker_of(row)?;
    let pid = segment.participants().get(row as usize)?.pid();
    Some(WorkerName { servlet: node.name.clone(), index, pid })
}
