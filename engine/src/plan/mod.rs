//! A servlet tree as a flat plan: nodes, routes, and the sums that size the segment. Pure.
//!
//! Each servlet adds its parts to a [`Planner`] and answers with a [`Span`]: where items enter it, and what they leave
//! it from. A leaf adds a *node* (ring, lock, doorbell, workers). A sequence sets the `next` of what leaves its first
//! part to the entry of its second. An ensemble adds a *fork*: a branch for each member, the entry of each branch, and
//! where the task goes when its branches have been joined. A switch adds the list of targets that an item may go to. A
//! part without a `next` is an *end*: there a request goes to its caller, a branch to its join. Nothing else is left of
//! the tree at run time; the plan lies in the segment as descriptors, checked at attach.
//!
//! The participant that has finished a task follows the plan ([`route`](crate::route)): a worker after its batch, the
//! caller with a new request, the supervisor for the dead. A fork's branches have words and outcomes of their own and
//! refer to the input of the task that is forked, so a fan-out moves 8 bytes a member. The last branch to arrive, or
//! the first that fails, makes its owner the one that joins: it copies the outcomes side by side into one payload. It
//! does not know their types, so the outcome of a fork is a tuple or list of *boxes*: relative pointers to each
//! member's root.
//!
//! A switch's function lives in the server's process only: closures have no name that another process could find. A
//! caller or a thread worker that brings an item chooses on the spot. Behind a worker *process* the switch has a node
//! of its own with a thread in the server's process: one more step, and only there.
//!
//! # An example
//!
//! ```text
//! Ensemble::of((head, tail, length)).then(combine).then(greet)
//!
//!  request 0 ──▶ fork 0 ──┬─ branch 0 ─▶ node 0 head ───▶ end ─┐
//!                         ├─ branch 1 ─▶ node 1 tail ───▶ end ─┼─ join ─▶ node 3 combine ─▶ node 4 greet ─▶ end: caller
//!                         └─ branch 2 ─▶ node 2 length ─▶ end ─┘
//! ```
//!
//! compiles into
//!
//! | Part | Facts |
//! |---|---|
//! | entry | fork 0 |
//! | fork 0 | forks slot 0 (the request), branches 0..3, family 0..3, members enter at nodes 0, 1, 2, next: node 3 |
//! | nodes 0, 1, 2 | next: end |
//! | node 3 | next: node 4 |
//! | node 4 | next: end |
//!
//! With `capacity(1024)`, one worker each and the default payload limit of 16 KiB it has 4,096 tasks of 128 bytes (512
//! KiB), five rings of 2,048 cells (80 KiB), 8,192 blocks each of 1, 4 and 16 KiB (168 MiB), 1,024 lines of pending
//! bits (128 KiB), six participants. Blocks take the most memory: `max_payload` is the option to set.
//!
//! # The sums
//!
//! * requests = `capacity`: each call in progress has one.
//! * tasks a request = 1 + the members of all ensembles: the request itself, and a branch for each member. Members of a
//!   switch have separate branches, although a request meets only one of them.
//! * cells a ring = the next power of two above the number of requests: never full, since each node is passed by one
//!   task of a request only.
//! * blocks a class = 2 × tasks: each task has at most two, its input's and its outcome's. So a pool is never
//!   exhausted, unless the user sets the classes.
//! * participants = 1 for the server, and one for each thread of each worker.

pub(crate) mod name;

use crate::error::StartError;
use crate::policy::batch::{Rule, Stamps};
use crate::policy::cpus::Cpus;
use crate::policy::ground::{Ask, Ground};
use crate::policy::lifespan::Lifespan;
use crate::policy::on_death::OnDeath;
use crate::policy::placement::{self, Placement};
use crate::policy::restarts::Restarts;
use crate::route::Choose;
use crate::wire::Schemas;
use crate::worker::Live;
use ringmill_shm::layout::PartialRings;
use ringmill_shm::layout::{Class, INLINE_BYTES, LINE, NODE_LIMIT, PAYLOAD_LIMIT, TASKS_LIMIT};
use ringmill_shm::plan::{Fork, ForkMember, Switch, Target};
use ringmill_shm::segment::{Memory, NodeSpec, Reserve, Spec};
use ringmill_shm::sys::topology::Topology;
use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How the supervisor starts a node's workers.
#[derive(Clone)]
pub(crate) enum Launch {
    /// As processes of this program, or of another one.
    Process { program: Program, env: Environment },
    /// As threads.
    Thread { live: Live },
}

impl fmt::Debug for Launch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Process { program, env } => {
                f.debug_struct("Process").field("program", program).field("env", env).finish()
            }
            Self::Thread { .. } => f.write_str("Thread"),
        }
    }
}

/// What the processes of a node run.
#[derive(Debug, Clone, Default)]
pub(crate) struct Program {
    /// `None`: this program's executable.
    pub(crate) path: Option<PathBuf>,
    /// Its arguments; `None`: those by which process lists name the worker.
    pub(crate) arguments: Option<Vec<OsString>>,
    /// The name by which the program lists the worker for `become_worker`; `None`: its `init!` lists the worker's type.
    pub(crate) lists_as: Option<String>,
}

impl Program {
    /// An argument that no process can have: its index.
    pub(crate) fn bad_argument(&self) -> Option<usize> {
        let arguments = self.arguments.as_deref().unwrap_or_default();
        arguments.iter().position(|argument| argument.as_encoded_bytes().contains(&0))
    }
}

/// Environment variables of worker processes, in the order in which they were given.
#[derive(Clone, Default)]
pub(crate) struct Environment(Vec<Variable>);

#[derive(Clone)]
struct Variable {
    /// The worker that gets it; `None`: all workers.
    worker: Option<usize>,
    key: OsString,
    value: OsString,
}

impl Environment {
    pub(crate) fn set(&mut self, worker: Option<usize>, key: OsString, value: OsString) {
        self.0.push(Variable { worker, key, value });
    }

    /// The largest worker index that a variable names.
    pub(crate) fn last_worker(&self) -> Option<usize> {
        self.0.iter().filter_map(|variable| variable.worker).max()
    }

    /// A variable that no process can have, and the reason.
    pub(crate) fn bad_variable(&self) -> Option<(String, &'static str)> {
        self.0.iter().find_map(|Variable { key, value, .. }| {
            let (name, value) = (key.as_encoded_bytes(), value.as_encoded_bytes());
            let reason = match name {
                [] => "its name is empty",
                _ if name.contains(&b'=') => "its name has a \"=\"",
                _ if name.contains(&0) => "its name has a zero byte",
                _ if value.contains(&0) => "its value has a zero byte",
                _ => return None,
            };
            Some((key.to_string_lossy().chars().take(64).collect(), reason))
        })
    }

    /// The variables of one worker: those of all workers, then its own.
    pub(crate) fn of(&self, worker: u32) -> Vec<(OsString, OsString)> {
        let of = |whose| self.0.iter().filter(move |variable| variable.worker == whose);
        let both = of(None).chain(of(Some(worker as usize)));
        both.map(|variable| (variable.key.clone(), variable.value.clone())).collect()
    }
}

impl fmt::Debug for Environment {
    /// Names only: values may be secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.iter().map(|variable| &variable.key)).finish()
    }
}

/// How many workers a node is to have, and where.
#[derive(Debug, Clone, Default)]
pub(crate) struct Asked {
    pub(crate) cpus: Cpus,
    pub(crate) stream_threads: usize,
    pub(crate) max_workers: Option<usize>,
}

/// Where a server is to run.
#[derive(Debug, Clone)]
pub(crate) struct Site {
    /// The CPUs that its process may use.
    pub(crate) allowed: Vec<usize>,
    /// Where its callers run; none: not stated.
    pub(crate) callers: Vec<usize>,
    /// Whether workers are pinned.
    pub(crate) pins: bool,
}

/// A node, before there is a segment. It has no workers before [`Planner::finish`].
#[derive(Debug, Clone)]
pub(crate) struct PlanNode {
    /// What lies of it in the segment.
    pub(crate) spec: NodeSpec,
    pub(crate) launch: Launch,
    /// What the bytes of its payloads mean, if it says so.
    pub(crate) schemas: Schemas,
    /// The hash of its workers' type in any other executable.
    pub(crate) type_elsewhere: u64,
    pub(crate) asked: Asked,
    /// How many workers there are at first.
    pub(crate) staffed: u32,
    pub(crate) restarts: Restarts,
    pub(crate) on_death: OnDeath,
    /// How long a call may take before its worker is killed.
    pub(crate) exec_timeout: Option<Duration>,
    /// After what its workers are replaced.
    pub(crate) lifespan: Lifespan,
    /// Whether every request passes it.
    pub(crate) mandatory: bool,
}

impl PlanNode {
    /// What is to be known of it to place its workers.
    fn ask(&self) -> Ask<'_> {
        Ask {
            servlet: &self.spec.name,
            cpus: &self.asked.cpus,
            threads: self.asked.stream_threads,
            max_workers: self.asked.max_workers,
            next: match self.spec.next {
                Target::Node(index) => Some(index as usize),
                _ => None,
            },
        }
    }

    /// Gives it its workers.
    fn staff(&mut self, placement: &Placement) -> Result<(), StartError> {
        let spec = &mut self.spec;
        spec.workers = placement.of(&spec.name).collect();
        spec.facts.threads = self.asked.stream_threads as u32; // it fits: checked as the workers were placed
        self.staffed = placement.staffed(&spec.name) as u32;
        let (Launch::Process { env, .. }, workers) = (&self.launch, spec.workers.len()) else {
            return Ok(());
        };
        match env.last_worker().filter(|&index| index >= workers) {
            None => Ok(()),
            Some(index) => Err(StartError::Range {
                servlet: Some(spec.name.clone()),
                what: "worker index of an environment variable",
                value: index as u64,
                least: 0,
                most: workers as u64 - 1,
            }),
        }
    }
}

/// Where items enter a part of a plan, and from where they leave it.
#[derive(Debug, Clone)]
pub(crate) struct Span {
    pub(crate) entry: Target,
    exits: Vec<Exit>,
    /// Whether a worker's process may move items on from its end.
    remote: bool,
    /// Whether an item may fail in a worker's process on its way through.
    fails_remote: bool,
}

/// From where items leave a part of a plan: the node, fork or switch whose `next` says where they go.
#[derive(Debug, Clone, Copy)]
enum Exit {
    Node(u32),
    Fork(u32),
}

/// Collects the parts of a tree.
#[derive(Default)]
pub(crate) struct Planner {
    nodes: Vec<PlanNode>,
    forks: Vec<Fork>,
    switches: Vec<Switch>,
    choosers: Vec<Choose>,
    branches: u32,
    /// The slot of the task that enters the part which is being planned.
    slot: u32,
    /// Whether a worker's process, or a client's, may bring that task.
    remote: bool,
    /// Whether client processes send requests, and answer those of a node that is down.
    has_clients: bool,
    /// How many alternatives enclose that part; above 0 not every request passes it.
    optional: u32,
}

impl fmt::Debug for Planner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Planner")
            .field("nodes", &self.nodes)
            .field("forks", &self.forks)
            .finish_non_exhaustive()
    }
}

/// Adds one member of an ensemble or switch.
pub(crate) type AddMember<'m> = Box<dyn FnOnce(&mut Planner) -> Result<Span, StartError> + 'm>;

impl Planner {
    /// For a tree that client processes send requests to, if `has_clients`.
    pub(crate) fn for_clients(has_clients: bool) -> Self {
        Self { has_clients, remote: has_clients, ..Self::default() }
    }

    /// A name that no other node has: a name that is taken gets a number.
    fn free_name(&self, name: String) -> String {
        let taken = |name: &str| {
            self.nodes.iter().any(|n| n.spec.name == name)
                || self.forks.iter().any(|f| f.name == name)
                || self.switches.iter().any(|s| s.name == name)
        };
        if !taken(&name) {
            return name;
        }
        (2..).map(|i| format!("{name}-{i}")).find(|name| !taken(name)).unwrap_or(name)
    }

    /// Adds a node.
    pub(crate) fn add(&mut self, mut node: PlanNode) -> Result<Span, StartError> {
        self.check_room(&node.spec.name)?;
        node.spec.name = self.free_name(node.spec.name);
        node.mandatory = self.optional == 0;
        let remote = matches!(node.launch, Launch::Process { .. });
        let index = self.nodes.len() as u32;
        self.nodes.push(node);
        let fails_remote = remote || self.has_clients;
        Ok(Span { entry: Target::Node(index), exits: vec![Exit::Node(index)], remote, fails_remote })
    }

    /// Checks that the plan may have another node. Called before the node is planned, since a list of members may have
    /// any length.
    fn check_room(&self, servlet: &str) -> Result<(), StartError> {
        let (value, most) = (self.nodes.len() as u64 + 1, u64::from(NODE_LIMIT));
        let (servlet, what) = (Some(servlet.into()), "number of servlets with workers");
        if value <= most { Ok(()) } else { Err(StartError::Range { servlet, what, value, least: 1, most }) }
    }

    /// Adds one part after another.
    pub(crate) fn add_sequence(
        &mut self,
        first: AddMember<'_>,
        second: AddMember<'_>,
    ) -> Result<Span, StartError> {
        let a = first(self)?;
        self.remote = a.remote;
        let b = second(self)?;
        self.check_schemas(&a.exits, b.entry)?;
        for exit in a.exits {
            match exit {
                Exit::Node(index) => self.nodes[index as usize].spec.next = b.entry,
                Exit::Fork(index) => self.forks[index as usize].next = b.entry,
            }
        }
        Ok(Span { entry: a.entry, fails_remote: a.fails_remote || b.fails_remote, ..b })
    }

    /// Checks that what leaves a part is what the next one takes, as far as both say what their bytes mean.
    fn check_schemas(&self, exits: &[Exit], entry: Target) -> Result<(), StartError> {
        let mut takers = Vec::new();
        self.add_takers(entry, &mut takers);
        for exit in exits {
            let Exit::Node(giver) = *exit else { continue };
            let giver = &self.nodes[giver as usize];
            for taker in takers.iter().map(|&index| &self.nodes[index as usize]) {
                let (Some(gives), Some(takes)) = (&giver.schemas.outcome, &taker.schemas.input) else {
                    continue;
                };
                if gives != takes {
                    return Err(StartError::Schemas {
                        servlet: giver.spec.name.clone(),
                        gives: gives.to_string(),
                        next: taker.spec.name.clone(),
                        takes: takes.to_string(),
                    });
                }
            }
        }
        Ok(())
    }

    /// Adds the nodes that an item for a target may come to first.
    fn add_takers(&self, target: Target, takers: &mut Vec<u32>) {
        match target {
            Target::Node(index) => takers.push(index),
            Target::Fork(index) => {
                let members = &self.forks[index as usize].members;
                members.iter().for_each(|member| self.add_takers(member.entry, takers));
            }
            Target::Switch(index) => {
                let targets = &self.switches[index as usize].members;
                targets.iter().for_each(|&target| self.add_takers(target, takers));
            }
            Target::End => {}
        }
    }

    /// Adds an ensemble; each member comes with the size and alignment of its outcomes' root.
    pub(crate) fn add_fork(
        &mut self,
        name: String,
        form: u32,
        fail_fast: bool,
        members: Vec<(AddMember<'_>, (u32, u32))>,
    ) -> Result<Span, StartError> {
        name::check(&name)?;
        let name = self.free_name(name);
        let index = self.forks.len();
        let (parent, first) = (self.slot, self.branches);
        let range = |what, value: u64, least, most| StartError::Range {
            servlet: Some(name.clone()),
            what,
            value,
            least,
            most,
        };
        if members.is_empty() {
            return Err(range("number of members", 0, 1, u64::from(TASKS_LIMIT) - 1));
        }
        let tasks = u64::from(first) + members.len() as u64 + 1;
        if tasks > TASKS_LIMIT.into() {
            return Err(range("number of tasks a request, with its members,", tasks, 1, TASKS_LIMIT.into()));
        }
        self.branches += members.len() as u32; // it fits: no more than `TASKS_LIMIT`
        self.forks.push(Fork {
            name: name.clone(),
            fail_fast,
            form,
            parent,
            first,
            end: 0,
            next: Target::End,
            members: Vec::new(),
        });
        let (came_remote, mut remote, mut fails_remote) = (self.remote, self.remote, false);
        self.optional += u32::from(!fail_fast);
        for (number, (add, (root_bytes, root_align))) in (0_u32..).zip(members) {
            (self.slot, self.remote) = (first + number + 1, came_remote);
            let span = add(self)?;
            // If errors are kept, a member's error may be the last outcome that the join waited for.
            remote |= span.remote || !fail_fast && span.fails_remote;
            fails_remote |= span.fails_remote;
            self.forks[index].members.push(ForkMember { entry: span.entry, root_bytes, root_align });
        }
        self.optional -= u32::from(!fail_fast);
        self.slot = parent;
        self.forks[index].end = self.branches;
        let index = index as u32;
        Ok(Span { entry: Target::Fork(index), exits: vec![Exit::Fork(index)], remote, fails_remote })
    }

    /// Adds a switch over inputs of type `In`. `pass_on` makes the node whose thread chooses for worker processes.
    pub(crate) fn add_switch(
        &mut self,
        name: String,
        choose: Choose,
        pass_on: impl FnOnce(String) -> Result<PlanNode, StartError>,
        members: Vec<AddMember<'_>>,
    ) -> Result<Span, StartError> {
        name::check(&name)?;
        let name = self.free_name(name);
        if members.is_empty() {
            let (servlet, most) = (Some(name), u64::from(TASKS_LIMIT));
            return Err(StartError::Range { servlet, what: "number of members", value: 0, least: 1, most });
        }
        let index = self.switches.len();
        self.choosers.push(choose);
        let node = match self.remote {
            false => None,
            true => {
                self.check_room(&name)?;
                let mut node = pass_on(name.clone())?;
                node.mandatory = self.optional == 0;
                node.spec.next = Target::Switch(index as u32);
                self.nodes.push(node);
                Some(self.nodes.len() as u32 - 1)
            }
        };
        self.switches.push(Switch { name, node, members: Vec::new() });
        let (mut exits, mut remote, mut fails_remote) = (Vec::new(), false, false);
        self.optional += 1;
        for add in members {
            self.remote = false; // the thread that chooses is in the server's process
            let span = add(self)?;
            remote |= span.remote;
            fails_remote |= span.fails_remote;
            exits.extend(span.exits);
            self.switches[index].members.push(span.entry);
        }
        self.optional -= 1;
        Ok(Span { entry: Target::Switch(index as u32), exits, remote, fails_remote })
    }

    /// Places the workers of all nodes.
    ///
    /// # Errors
    /// The first choice of CPUs, or number of workers, that is out of range.
    pub(crate) fn finish(self, span: &Span, site: &Site) -> Result<(Plan, Vec<Choose>), StartError> {
        let Self { mut nodes, forks, switches, branches, choosers, .. } = self;
        // The files of a large machine are many.
        let needs_topology = nodes.iter().any(|node| !matches!(node.asked.cpus, Cpus::Count(_)));
        let topology = match needs_topology {
            true => Topology::read(Path::new("/"), &site.allowed),
            false => Topology::flat(Path::new("/"), &site.allowed),
        };
        let asks: Vec<Ask<'_>> = nodes.iter().map(PlanNode::ask).collect();
        let ground = Ground { topology: &topology, callers: &site.callers, pins: site.pins };
        let placement = placement::place(ground, &asks)?;
        for node in &mut nodes {
            node.staff(&placement)?;
        }
        Ok((Plan { nodes, forks, switches, branches, entry: span.entry, placement }, choosers))
    }
}

/// A compiled tree.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) nodes: Vec<PlanNode>,
    forks: Vec<Fork>,
    switches: Vec<Switch>,
    branches: u32,
    pub(crate) entry: Target,
    pub(crate) placement: Placement,
}

/// How the size classes of payload blocks are chosen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Blocks {
    /// Classes up to this payload size, each with blocks for every task.
    UpTo(usize),
    /// As the user says: block size and count of each class.
    Classes(Vec<(usize, usize)>),
}

/// The default of `max_payload`: payloads up to this size fit.
pub const DEFAULT_MAX_PAYLOAD: usize = 16 * 1024;
/// The smallest default class, and the factor from each class to the next.
const FIRST_CLASS_BYTES: usize = 1024;
const CLASS_FACTOR: usize = 4;

impl Plan {
    pub(crate) fn spec(
        &self,
        capacity: u32,
        (clients, client_requests): (u32, u32),
        blocks: &Blocks,
        partials: PartialRings,
        traces: u32,
        reserve: Reserve,
    ) -> Result<Spec, StartError> {
        let tasks_per_request = 1 + self.branches;
        let requests = u64::from(capacity) + u64::from(clients) * u64::from(client_requests);
        let keeps_inputs = self.nodes.iter().any(|node| node.on_death.keeps_inputs());
        Ok(Spec {
            requests: capacity,
            clients,
            client_requests,
            service: Default::default(),
            tasks_per_request,
            classes: classes(blocks, requests * u64::from(tasks_per_request), keeps_inputs)?,
            partials,
            traces,
            reserve,
            payload_format: crate::wire::payload::PAYLOAD_FORMAT,
            nodes: self.nodes.iter().map(|node| node.spec.clone()).collect(),
            forks: self.forks.clone(),
            switches: self.switches.clone(),
            memory: Memory::Anywhere,
            huge_pages: Default::default(),
        })
    }

    /// Warnings about options that are allowed but hardly meant.
    pub(crate) fn warnings(&self, capacity: u32) -> Vec<String> {
        let never_full = |n: &&PlanNode| u64::from(capacity) < Rule::of(&n.spec.facts).most();
        let text = |n: &PlanNode| {
            let (name, size) = (&n.spec.name, n.spec.facts.batch_size);
            format!(
                "capacity {capacity} is smaller than servlet {name}'s batch_size {size}: its batches can never be full"
            )
        };
        self.nodes.iter().filter(never_full).map(text).collect()
    }

    /// When callers have to say when they enqueue items at the entry node.
    pub(crate) fn stamps(&self) -> Stamps {
        match self.entry {
            Target::Node(index) => match &self.nodes[index as usize].spec.facts {
                facts if facts.terms_by_worker.is_set() => Stamps::Always,
                facts => Rule::of(facts).stamps(),
            },
            _ => Stamps::Never, // the mover stamps the task when it queues it at its node
        }
    }
}

/// The size classes for `tasks` tasks. If inputs are kept, small outcomes need small blocks.
fn classes(blocks: &Blocks, tasks: u64, keeps_inputs: bool) -> Result<Vec<Class>, StartError> {
    // A size that cannot be rounded up stays, and the check of the shape refuses it.
    let rounded = |bytes: usize| bytes.checked_next_multiple_of(LINE).unwrap_or(bytes) as u64;
    let class = |bytes: usize, count: u64| Class { block_bytes: rounded(bytes), count };
    let refuse = |what, bytes: usize, least| {
        let (value, most) = (bytes as u64, PAYLOAD_LIMIT);
        Err(StartError::Range { servlet: None, what, value, least, most })
    };
    match blocks {
        Blocks::UpTo(max) if *max as u64 > PAYLOAD_LIMIT => refuse("max_payload in bytes", *max, 0),
        Blocks::UpTo(max) if *max <= INLINE_BYTES && !keeps_inputs => Ok(Vec::new()),
        Blocks::UpTo(max) => {
            let max = max.max(&INLINE_BYTES);
            let small = keeps_inputs.then_some(LINE).filter(|small| small < max);
            let below = std::iter::successors(Some(FIRST_CLASS_BYTES), |b| b.checked_mul(CLASS_FACTOR));
            let sizes = small.into_iter().chain(below.take_while(|b| b < max)).chain([*max]);
            let mut classes: Vec<Class> = sizes.map(|bytes| class(bytes, 2 * tasks)).collect();
            // Above the limit of classes the smallest are left out; their payloads take the next larger blocks.
            let surplus = classes.len().saturating_sub(ringmill_shm::layout::CLASS_LIMIT);
            classes.drain(..surplus);
            Ok(classes)
        }
        Blocks::Classes(list) => {
            let least = INLINE_BYTES as u64 + 1;
            let fits = |bytes: usize| (least..=PAYLOAD_LIMIT).contains(&(bytes as u64));
            if let Some(&(bytes, _)) = list.iter().find(|(bytes, _)| !fits(*bytes)) {
                return refuse("block size of a payload class in bytes", bytes, least);
            }
            let mut classes: Vec<Class> =
                list.iter().map(|&(bytes, count)| class(bytes, count as u64)).collect();
            classes.sort_unstable_by_key(|c| c.block_bytes);
            let most = ringmill_shm::layout::CLASS_LIMIT;
            if classes.len() > most {
                let (what, value) = ("number of payload classes", classes.len() as u64);
                return Err(StartError::Range { servlet: None, what, value, least: 0, most: most as u64 });
            }
            Ok(classes)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ringmill_shm::layout::NodeFacts;
    use ringmill_shm::participant::Role;

    fn node(name: &str, batch_size: u32) -> PlanNode {
        PlanNode {
            spec: NodeSpec {
                name: name.into(),
                worker_type: "W".into(),
                payloads: Default::default(),
                config: Vec::new(),
                facts: NodeFacts { batch_size, ..NodeFacts::default() },
                next: Target::End,
                role: Role::ThreadWorker,
                workers: Vec::new(),
            },
            launch: Launch::Process { program: Program::default(), env: Environment::default() },
            schemas: Schemas::default(),
            type_elsewhere: 0,
            asked: Asked { stream_threads: 1, ..Asked::default() },
            staffed: 0,
            restarts: Restarts::default(),
            on_death: OnDeath::Fail,
            exec_timeout: None,
            lifespan: Lifespan::default(),
            mandatory: true,
        }
    }

    fn finish(planner: Planner, span: &Span) -> (Plan, Vec<Choose>) {
        let site = Site { allowed: vec![0], callers: Vec::new(), pins: true };
        planner.finish(span, &site).expect("one worker each")
    }

    #[test]
    fn equal_names_get_numbers() {
        let mut planner = Planner::default();
        for _ in 0..3 {
            planner.add(node("w", 0)).unwrap();
        }
        let span = planner.add(node("w-2", 0)).unwrap();
        let (plan, _) = finish(planner, &span);
        let names: Vec<&str> = plan.nodes.iter().map(|n| n.spec.name.as_str()).collect();
        assert_eq!(names, ["w", "w-2", "w-3", "w-2-2"]);
        assert_eq!(plan.entry, Target::Node(3));
    }

    #[test]
    fn a_workers_own_variable_comes_after_that_of_all_workers() {
        let mut env = Environment::default();
        env.set(Some(1), "K".into(), "own".into());
        env.set(None, "K".into(), "all".into());
        assert_eq!(env.of(0), [("K".into(), "all".into())]);
        assert_eq!(env.of(1), [("K".into(), "all".into()), ("K".into(), "own".into())]);
        assert_eq!(env.last_worker(), Some(1));
        assert_eq!(format!("{env:?}"), r#"["K", "K"]"#);
    }

    #[test]
    fn blocks_for_every_task() {
        let sizes = |blocks: &Blocks| -> Vec<(u64, u64)> {
            classes(blocks, 10, false).unwrap().iter().map(|c| (c.block_bytes, c.count)).collect()
        };
        assert_eq!(sizes(&Blocks::UpTo(96)), []);
        assert_eq!(sizes(&Blocks::UpTo(97)), [(128, 20)]);
        assert_eq!(sizes(&Blocks::UpTo(16 * 1024)), [(1024, 20), (4096, 20), (16384, 20)]);
        assert_eq!(sizes(&Blocks::UpTo(1 << 30)).len(), 8);
        assert_eq!(sizes(&Blocks::UpTo(1 << 30)).last(), Some(&(1 << 30, 20)));
        assert_eq!(sizes(&Blocks::Classes(vec![(4000, 3), (100, 7)])), [(128, 7), (4096, 3)]);
        assert!(classes(&Blocks::Classes(vec![(1024, 1); 9]), 1, false).is_err());
        let kept = |max| -> Vec<u64> {
            classes(&Blocks::UpTo(max), 10, true).unwrap().iter().map(|c| c.block_bytes).collect()
        };
        assert_eq!((kept(0), kept(128), kept(129)), (vec![128], vec![128], vec![128, 256]));
        assert_eq!(kept(16 * 1024), [128, 1024, 4096, 16384]);
    }

    /// As `ServerBuilder::max_payload` says.
    #[test]
    fn blocks_of_a_task_take_2_to_4_7_times_the_largest_payload() {
        let powers =
            (0..=8).flat_map(|power| [0, 1, 2].map(|more| (FIRST_CLASS_BYTES << (2 * power)) + more));
        for max in powers.chain([1500, 5000, 20_000, 100_000_000]).filter(|&max| max > FIRST_CLASS_BYTES) {
            for keeps_inputs in [false, true] {
                let classes = classes(&Blocks::UpTo(max), 1, keeps_inputs).unwrap();
                let bytes: u64 = classes.iter().map(|class| class.block_bytes * class.count).sum();
                assert!((2 * max as u64..=max as u64 * 47 / 10).contains(&bytes), "{max}: {bytes}");
            }
        }
    }

    #[test]
    fn a_capacity_below_a_batch_size_gives_a_warning() {
        let mut planner = Planner::default();
        let span = planner.add(node("tag", 64)).unwrap();
        let (plan, _) = finish(planner, &span);
        assert_eq!(plan.warnings(64), Vec::<String>::new());
        assert_eq!(
            plan.warnings(10),
            ["capacity 10 is smaller than servlet tag's batch_size 64: its batches can never be full"]
        );
    }
}
