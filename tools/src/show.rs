//! `shmtool show`: nodes, workers, requests and blocks of one segment.

pub(crate) mod args;
pub(crate) mod exit;
mod memory;
mod numa;
pub(crate) mod text;
mod tree;

use crate::error::ToolError;
use crate::survey::{Identity, Survey};
use crate::who::{Holder, Span, is_held};
use exit::LastExit;
use memory::{Blocks, Memory};
use ringmill_shm::arena::Task;
use ringmill_shm::check::PhaseCounts;
use ringmill_shm::layout::{INLINE_BYTES, NodeFacts};
use ringmill_shm::participant::{Life, Role, SERVER};
use ringmill_shm::placed::Why;
use ringmill_shm::plan::{self, Target};
use ringmill_shm::ring::Ring;
use ringmill_shm::segment::Segment;
use ringmill_shm::stats::Snapshot;
use ringmill_shm::sys::time::now_ns;
use ringmill_shm::text::shown;
use ringmill_shm::token::Token;
use ringmill_shm::watch::Began;
use ringmill_shm::word::Phase;
use serde::Serialize;
use std::collections::{BTreeSet, HashMap};
use tree::Line;

/// One segment at one moment, or nearly so: it is read while others write.
#[derive(Debug, Serialize)]
pub(crate) struct Shown {
    #[serde(flatten)]
    identity: Identity,
    server: Server,
    layout_version: u32,
    /// In hexadecimal: a JSON number would lose digits.
    fingerprint: String,
    /// Requests that can be in progress.
    capacity: u32,
    tasks_per_request: u32,
    /// The largest payload that needs no block.
    inline_bytes: u64,
    /// The largest payload.
    largest_payload_bytes: u64,
    /// The size of the pages on which it lies.
    page_bytes: u64,
    requests: PhaseCounts,
    nodes: Vec<Node>,
    ensembles: Vec<Ensemble>,
    switches: Vec<Switch>,
    workers: Vec<Worker>,
    /// Other processes that send requests.
    clients: Vec<Client>,
    memory: Vec<Memory>,
    blocks: Vec<Blocks>,
    /// None: the kernel does not tell.
    numa: Option<Vec<numa::Part>>,
    /// The plan, a line a servlet.
    #[serde(skip)]
    tree: Vec<Line>,
}

/// A client process, which has requests of its own.
#[derive(Debug, Serialize)]
struct Client {
    /// Its row in the participant table.
    participant: u32,
    pid: u32,
    state: Life,
    /// Its lease is held.
    alive: bool,
    stopped: Option<bool>,
    /// How many requests it can have in progress.
    share: u32,
    in_progress: u32,
}

#[derive(Debug, Serialize)]
struct Server {
    pid: u32,
    /// Its lease is held.
    alive: bool,
    /// Its process is stopped; none: it cannot be seen from here.
    stopped: Option<bool>,
    /// The CPUs that it might use when it started.
    allowed_cpus: Vec<usize>,
}

#[derive(Debug, Serialize)]
struct Node {
    index: u32,
    name: String,
    worker_type: String,
    /// Of payloads; none: unknown.
    input_type: Option<String>,
    outcome_type: Option<String>,
    #[serde(flatten)]
    facts: NodeFacts,
    /// Where finished tasks go: a name; none: to their end, a request to its caller, a branch to its join.
    next: Option<String>,
    ring: Depth,
    lock_holder: Option<LockHolder>,
    /// What happens to the items that a worker was working on when it died: fail, retry or bisect.
    on_death: &'static str,
    /// Why the node is down; none: it is not.
    down: Option<String>,
    /// By number within the node, threads counted one by one.
    sleeping: Vec<u32>,
    /// How many workers it has, and may have: more are started by a lever.
    workers: u32,
    max_workers: u32,
    /// Its threads that there are.
    #[serde(skip)]
    workers_threads: u32,
}

#[derive(Debug, Serialize)]
struct LockHolder {
    #[serde(flatten)]
    holder: Holder,
    /// For how long it holds the lock, or at least has taken no batch.
    held_time: Span,
}

/// A fork of the plan.
#[derive(Debug, Serialize)]
struct Ensemble {
    name: String,
    /// The first error ends the item.
    fail_fast: bool,
    /// Where each member's branch goes first.
    members: Vec<Option<String>>,
    /// Where items go when they have been joined; none: to their end.
    next: Option<String>,
}

#[derive(Debug, Serialize)]
struct Switch {
    name: String,
    /// The node whose workers choose; none: the participant that moves the item chooses.
    chooser: Option<u32>,
    /// Where an item may go.
    members: Vec<Option<String>>,
}

#[derive(Debug, Serialize)]
struct Depth {
    /// Ids in the ring.
    depth: u64,
    cells: u64,
    /// How long the oldest of them has been queued; none: no clock was read.
    oldest_s: Option<f64>,
}

#[derive(Debug, Serialize)]
pub(crate) struct Worker {
    /// The name of its node.
    node: String,
    /// Its number within the node.
    worker: u32,
    /// Which of that worker's threads.
    thread: u32,
    /// How many threads it has.
    #[serde(skip)]
    threads: u32,
    /// Its row in the participant table.
    pub(crate) participant: u32,
    /// What the worker, or the server for it, last wrote.
    state: Life,
    /// How long ago that was; none: never.
    pub(crate) state_s: Option<f64>,
    /// Its lease is held: a fact, unlike the state.
    alive: bool,
    /// Its process is stopped: another one; none: it cannot be seen from here.
    stopped: Option<bool>,
    role: Role,
    /// 0 before it has arrived.
    pub(crate) pid: u32,
    pub(crate) restarts: u32,
    /// How it last ended, if not in order.
    pub(crate) last_exit: Option<LastExit>,
    /// User code is running on an item or a batch.
    in_call: bool,
    /// For how long.
    pub(crate) call_time: Option<Span>,
    /// The number of that call, and when it began.
    #[serde(skip)]
    pub(crate) call: Option<(u64, Began)>,
    /// The requests that it works on, or will.
    pub(crate) in_hand: Vec<u32>,
    /// As its server planned; none: it is not pinned.
    pub(crate) cpus: Vec<usize>,
    /// The NUMA node of these.
    numa_node: Option<usize>,
    /// Why there.
    placed_why: Why,
    /// On which CPUs the kernel lets it run; none: it has no thread that can be seen from here.
    kernel_cpus: Option<Vec<usize>>,
    /// Which of its CPUs it may not use any more.
    cpus_taken: Vec<usize>,
    /// Why its construction failed, it gave up, or was given up.
    pub(crate) message: Option<String>,
    pub(crate) counters: Counters,
}

#[derive(Debug, Serialize)]
pub(crate) struct Counters {
    #[serde(flatten)]
    pub(crate) snapshot: Snapshot,
    pub(crate) batch_mean: f64,
}

impl Counters {
    pub(crate) fn of(snapshot: Snapshot) -> Self {
        Self { snapshot, batch_mean: snapshot.batch_mean() }
    }
}

/// Reads a segment.
pub(crate) fn show(name: &str) -> Result<Shown, ToolError> {
    let (survey, segment) = Survey::open(name)?;
    let (identity, shape) = (segment.identity(), segment.shape());
    let (memory, blocks) = memory::of(&segment); // before the tool itself touches more
    let nexts: Vec<_> = segment.nodes().iter().map(|node| node.next).collect();
    Ok(Shown {
        identity: survey.identity(Some(&segment)),
        server: Server {
            pid: segment.participants()[SERVER as usize].pid(),
            alive: is_held(&segment, &segment.participants()[SERVER as usize]),
            stopped: segment.participants()[SERVER as usize].is_stopped(),
            allowed_cpus: segment.participants()[SERVER as usize].cpus(),
        },
        layout_version: identity.layout_version,
        fingerprint: format!("{:#018x}", identity.fingerprint),
        capacity: shape.requests,
        tasks_per_request: shape.tasks_per_request,
        inline_bytes: INLINE_BYTES as u64,
        largest_payload_bytes: shape.largest_payload(),
        page_bytes: segment.page_bytes(),
        requests: PhaseCounts::of(&segment),
        nodes: (0..shape.nodes).filter_map(|index| node(&segment, index)).collect(),
        ensembles: ensembles(&segment),
        switches: switches(&segment),
        workers: workers(&segment),
        clients: clients(&segment),
        memory,
        blocks,
        numa: numa::of(&segment),
        tree: tree::lines(segment.routes(), &nexts),
    })
}

fn node(segment: &Segment, index: u32) -> Option<Node> {
    let node = segment.node(index)?;
    let (info, ring, sleepers) = (node.info(), node.ring(), node.doorbell().sleepers());
    let threads = info.facts.threads.max(1);
    // A row of a worker that may be added is vacant.
    let present = node.workers().iter().filter(|entry| entry.life() != Life::Vacant).count() as u32;
    Some(Node {
        index,
        name: shown(&info.name),
        worker_type: shown(&info.worker_type),
        input_type: Some(shown(&info.payloads.input)).filter(|name| !name.is_empty()),
        outcome_type: Some(shown(&info.payloads.outcome)).filter(|name| !name.is_empty()),
        facts: info.facts,
        next: name_of(segment, info.next),
        ring: Depth {
            depth: ring.depth(),
            cells: ring.cells() as u64,
            oldest_s: oldest_s(segment, index, ring),
        },
        lock_holder: node.lock().holder().map(|token| LockHolder {
            held_time: Span::since(node.lock_began().unwrap_or_default()),
            holder: Holder::of(segment, token, "server"),
        }),
        on_death: match (info.facts.keeps_inputs.is_set(), info.facts.keeps_apart.is_set()) {
            (false, _) => "fail",
            (true, false) => "retry",
            (true, true) => "bisect",
        },
        down: node.doorbell().is_down().then(|| shown(&node.down_reason())),
        // A node has at most 64 threads of workers, as the mask has bits.
        sleeping: (0..info.rows).filter(|worker| sleepers >> worker & 1 == 1).collect(),
        workers: present.div_ceil(threads),
        max_workers: info.rows / threads,
        workers_threads: present,
    })
}

/// How long the task has waited that was queued first, of those in a ring whose time is known.
fn oldest_s(segment: &Segment, node: u32, ring: Ring<'_>) -> Option<f64> {
    let mut oldest_ns: Option<u64> = None;
    ring.scan(|_, id| {
        let seen = Task::new(segment, id).and_then(|task| task.look(0));
        let here =
            seen.filter(|seen| seen.phase == Phase::Queued && seen.stage() == Some(Target::Node(node)));
        oldest_ns = [oldest_ns, here.and_then(|seen| seen.queued_ns())].into_iter().flatten().min();
    });
    oldest_ns.map(|ns| now_ns().saturating_sub(ns) as f64 / 1e9)
}

/// The requests that each incarnation works on, or has branches of to work on.
fn in_hand(segment: &Segment) -> HashMap<Token, BTreeSet<u32>> {
    let mut all: HashMap<Token, BTreeSet<u32>> = HashMap::new();
    for task in (0..segment.shape().tasks()).filter_map(|id| Task::new(segment, id)) {
        let state = task.word().peek();
        if state.phase().is_some_and(Phase::is_worked_on)
            && let Some(owner) = state.owner()
        {
            all.entry(owner).or_default().insert(task.slot().0);
        }
    }
    all
}

fn ensembles(segment: &Segment) -> Vec<Ensemble> {
    let of = |fork: &plan::Fork| Ensemble {
        name: shown(&fork.name),
        fail_fast: fork.fail_fast,
        members: fork.members.iter().map(|member| name_of(segment, member.entry)).collect(),
        next: name_of(segment, fork.next),
    };
    segment.routes().forks.iter().map(of).collect()
}

fn switches(segment: &Segment) -> Vec<Switch> {
    let of = |switch: &plan::Switch| Switch {
        name: shown(&switch.name),
        chooser: switch.node,
        members: switch.members.iter().map(|&member| name_of(segment, member)).collect(),
    };
    segment.routes().switches.iter().map(of).collect()
}

/// The CPUs that are not among those which the kernel allows: of those that a worker is pinned to or, if it is not, of all that
/// its server may use.
pub(crate) fn missing(pinned: &[usize], allowed: &[usize], kernel: Option<&[usize]>) -> Vec<usize> {
    let planned = if pinned.is_empty() { allowed } else { pinned };
    let is_missing = |cpu: &usize| kernel.is_some_and(|kernel| !kernel.contains(cpu));
    planned.iter().copied().filter(is_missing).collect()
}

/// The name of what a target leads to; none for the end.
fn name_of(segment: &Segment, target: Target) -> Option<String> {
    segment.name_of(target).map(shown)
}

/// The clients that are connected, or whose requests are still to end.
fn clients(segment: &Segment) -> Vec<Client> {
    let entries = (0..).zip(segment.participants()).filter_map(|(participant, entry)| {
        let client = segment.client_of_row(participant)?;
        let requests = segment.shape().requests_of(client);
        let is_free = |id| Task::new(segment, id).is_none_or(|task| task.is_free());
        let alive = is_held(segment, entry);
        let share = requests.len() as u32;
        let in_progress = requests.filter(|&id| !is_free(id)).count() as u32;
        let stopped = alive.then(|| entry.is_stopped()).flatten();
        let (pid, state) = (entry.pid(), entry.life());
        Some(Client { participant, pid, state, alive, stopped, share, in_progress })
    });
    entries.filter(|client| client.state != Life::Vacant || client.in_progress > 0).collect()
}

/// The workers of a segment, one entry a thread.
pub(crate) fn workers(segment: &Segment) -> Vec<Worker> {
    let mut in_hand = in_hand(segment);
    let allowed = segment.participants()[SERVER as usize].cpus();
    let entries = (0..).zip(segment.participants()).skip(SERVER as usize + 1);
    entries
        .filter_map(|(participant, entry)| {
            let (info, worker, thread) = segment.worker_of(participant)?;
            let (snapshot, call) = (entry.counters().snapshot(), entry.counters().call());
            let call = call.map(|call| (call, entry.call_began().unwrap_or_default()));
            let alive = is_held(segment, entry);
            let placed = entry.placed();
            let kernel_cpus = alive.then(|| entry.kernel_cpus()).flatten();
            let cpus_taken = missing(&placed.cpus, &allowed, kernel_cpus.as_deref());
            // A line for people, then a zero byte and a record for programs.
            let message = entry.message();
            let message = message.split(|&b| b == 0).next().unwrap_or_default();
            Some(Worker {
                node: shown(&info.name),
                worker,
                thread,
                threads: info.facts.threads,
                participant,
                state: entry.life(),
                state_s: match entry.since_ns() {
                    0 => None,
                    since_ns => Some(now_ns().saturating_sub(since_ns) as f64 / 1e9),
                },
                alive,
                stopped: alive.then(|| entry.is_stopped()).flatten(),
                role: info.role,
                pid: entry.pid(),
                restarts: entry.restarts(),
                last_exit: entry.last_exit().map(|exit| LastExit::of(segment, exit)),
                in_call: call.is_some(),
                call_time: call.map(|(_, began)| Span::since(began)),
                call,
                in_hand: entry.token().and_then(|t| in_hand.remove(&t)).into_iter().flatten().collect(),
                cpus: placed.cpus,
                numa_node: placed.node,
                placed_why: placed.why,
                kernel_cpus,
                cpus_taken,
                message: (!message.is_empty()).then(|| shown(&String::from_utf8_lossy(message))),
                counters: Counters::of(snapshot),
            })
        })
        .collect()
}
