//! A servlet tree as a flat plan: nodes, routes, and the sums that size the segment. Pure.
//!
//! Each servlet adds its nodes and answers with a [`Span`]: where items enter it, and which nodes they
//! leave it from. Who joins two spans sets the `next` of the former's exits; what still has none at the
//! end goes to the caller. So a chain needs no code at run time: whoever finishes a task reads `next`.
//!
//! # The sums
//!
//! * requests = `capacity`: each call in progress has one.
//! * tasks a request = 1: the request itself (branches of ensembles will add theirs).
//! * cells a ring = the next power of two above the number of tasks: never full.
//! * blocks a class = 2 × tasks: each task has at most two, its input's and its outcome's; so a pool is
//!   never exhausted, unless the user gives classes of his own.
//! * participants = 1 + threads of all workers of all nodes.

use crate::batch::Rule;
use crate::error::StartError;
use crate::run::{Left, Seat};
use ringmill_shm::layout::{Class, INLINE_BYTES, LINE};
use ringmill_shm::participant::Role;
use ringmill_shm::segment::{NodeSpec, Spec};
use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

/// A worker's whole life, of whatever type.
pub(crate) type Live = Arc<dyn Fn(Arc<Seat>) -> Left + Send + Sync>;

/// How a node's workers are started.
#[derive(Clone)]
pub(crate) enum Launch {
    /// As processes: of this program, or of another one.
    Process { program: Option<PathBuf>, env: Environment },
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

/// Environment variables of worker processes, in the order in which they were given.
#[derive(Clone, Default)]
pub(crate) struct Environment(Vec<Variable>);

#[derive(Clone)]
struct Variable {
    /// None: of all workers.
    worker: Option<usize>,
    key: OsString,
    value: OsString,
}

impl Environment {
    pub(crate) fn set(&mut self, worker: Option<usize>, key: OsString, value: OsString) {
        self.0.push(Variable { worker, key, value });
    }

    /// The largest worker index that is named.
    pub(crate) fn last_worker(&self) -> Option<usize> {
        self.0.iter().filter_map(|variable| variable.worker).max()
    }

    /// The variables of one worker: those of all, then its own.
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

/// A node before there is a segment.
#[derive(Debug, Clone)]
pub(crate) struct PlanNode {
    pub(crate) name: String,
    pub(crate) worker_type: &'static str,
    pub(crate) type_hash: u64,
    pub(crate) config: Vec<u8>,
    pub(crate) rule: Rule,
    pub(crate) workers: Vec<Vec<usize>>,
    /// Of each worker.
    pub(crate) threads: u32,
    /// 0: never.
    pub(crate) log_batches_every: u64,
    pub(crate) role: Role,
    pub(crate) launch: Launch,
    pub(crate) next: Option<u32>,
}

/// Where items enter a part of a plan, and which nodes they leave it from.
#[derive(Debug, Clone)]
pub struct Span {
    pub(crate) entry: u32,
    #[expect(dead_code, reason = "read by servlets that join spans")]
    pub(crate) exits: Vec<u32>,
}

/// Collects the nodes of a tree.
#[derive(Debug, Default)]
pub struct Planner {
    nodes: Vec<PlanNode>,
}

impl Planner {
    /// Adds a node; a name that is taken gets a number.
    pub(crate) fn add(&mut self, mut node: PlanNode) -> Span {
        let taken = |name: &str| self.nodes.iter().any(|n| n.name == name);
        if taken(&node.name) {
            let numbered = (2..).map(|i| format!("{}-{i}", node.name)).find(|name| !taken(name));
            node.name = numbered.unwrap_or(node.name);
        }
        let index = self.nodes.len() as u32;
        self.nodes.push(node);
        Span { entry: index, exits: vec![index] }
    }

    pub(crate) fn finish(self, span: &Span) -> Plan {
        Plan { nodes: self.nodes, entry: span.entry }
    }
}

/// A compiled tree.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) nodes: Vec<PlanNode>,
    pub(crate) entry: u32,
}

/// How payload blocks are chosen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Blocks {
    /// Classes up to this payload size, each with blocks for every task.
    UpTo(usize),
    /// As told: block size and count.
    Classes(Vec<(usize, usize)>),
}

/// Payloads up to this size fit if nothing else is said.
pub const DEFAULT_MAX_PAYLOAD: usize = 16 * 1024;
/// The smallest class of the default, and how much larger each next one is.
const FIRST_CLASS_BYTES: usize = 1024;
const CLASS_FACTOR: usize = 4;

impl Plan {
    /// Tasks of each request.
    const TASKS_PER_REQUEST: u32 = 1;

    pub(crate) fn spec(&self, capacity: u32, blocks: &Blocks) -> Result<Spec, StartError> {
        Ok(Spec {
            requests: capacity,
            tasks_per_request: Self::TASKS_PER_REQUEST,
            classes: classes(blocks, u64::from(capacity) * u64::from(Self::TASKS_PER_REQUEST))?,
            payload_format: crate::payload::PAYLOAD_FORMAT,
            nodes: self.nodes.iter().map(node_spec).collect(),
        })
    }

    /// What is allowed but hardly meant.
    pub(crate) fn warnings(&self, capacity: u32) -> Vec<String> {
        let never_full = |n: &&PlanNode| u64::from(capacity) < n.rule.most();
        let text = |n: &PlanNode| {
            let (name, size) = (&n.name, n.rule.batch_size);
            format!(
                "capacity {capacity} is smaller than servlet {name}'s batch_size {size}: its batches can never be full"
            )
        };
        self.nodes.iter().filter(never_full).map(text).collect()
    }

    /// Whether the entry node needs to know when items were enqueued.
    pub(crate) fn stamps(&self) -> bool {
        self.nodes[self.entry as usize].rule.wait_ns != 0
    }
}

fn node_spec(node: &PlanNode) -> NodeSpec {
    NodeSpec {
        name: node.name.clone(),
        worker_type: node.worker_type.into(),
        type_hash: node.type_hash,
        config: node.config.clone(),
        batch_size: node.rule.batch_size,
        batch_wait_ns: node.rule.wait_ns,
        next: node.next,
        role: node.role,
        workers: node.workers.clone(),
        threads: node.threads,
        log_batches_every: node.log_batches_every,
    }
}

fn classes(blocks: &Blocks, tasks: u64) -> Result<Vec<Class>, StartError> {
    // A size that cannot be rounded up is refused with the shape.
    let rounded = |bytes: usize| bytes.checked_next_multiple_of(LINE).unwrap_or(bytes) as u64;
    let class = |bytes: usize, count: u64| Class { block_bytes: rounded(bytes), count };
    match blocks {
        Blocks::UpTo(max) if *max <= INLINE_BYTES => Ok(Vec::new()),
        Blocks::UpTo(max) => {
            let below = std::iter::successors(Some(FIRST_CLASS_BYTES), |b| b.checked_mul(CLASS_FACTOR));
            let sizes = below.take_while(|b| b < max).chain([*max]);
            let mut classes: Vec<Class> = sizes.map(|bytes| class(bytes, 2 * tasks)).collect();
            // Only so many classes: the smallest of them go, their payloads take the next larger blocks.
            let surplus = classes.len().saturating_sub(ringmill_shm::layout::CLASS_LIMIT);
            classes.drain(..surplus);
            Ok(classes)
        }
        Blocks::Classes(list) => {
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

    fn node(name: &str, batch_size: u32) -> PlanNode {
        PlanNode {
            name: name.into(),
            worker_type: "W",
            type_hash: 0,
            config: Vec::new(),
            rule: Rule { batch_size, wait_ns: 0 },
            workers: vec![vec![]],
            threads: 1,
            log_batches_every: 0,
            role: Role::ThreadWorker,
            launch: Launch::Process { program: None, env: Environment::default() },
            next: None,
        }
    }

    #[test]
    fn names_stay_distinct() {
        let mut planner = Planner::default();
        for _ in 0..3 {
            planner.add(node("w", 0));
        }
        let span = planner.add(node("w-2", 0));
        let plan = planner.finish(&span);
        let names: Vec<&str> = plan.nodes.iter().map(|n| n.name.as_str()).collect();
        assert_eq!(names, ["w", "w-2", "w-3", "w-2-2"]);
        assert_eq!(plan.entry, 3);
    }

    #[test]
    fn a_workers_own_variable_comes_after_that_of_all() {
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
            classes(blocks, 10).unwrap().iter().map(|c| (c.block_bytes, c.count)).collect()
        };
        assert_eq!(sizes(&Blocks::UpTo(96)), []);
        assert_eq!(sizes(&Blocks::UpTo(97)), [(128, 20)]);
        assert_eq!(sizes(&Blocks::UpTo(16 * 1024)), [(1024, 20), (4096, 20), (16384, 20)]);
        assert_eq!(sizes(&Blocks::UpTo(1 << 30)).len(), 8);
        assert_eq!(sizes(&Blocks::UpTo(1 << 30)).last(), Some(&(1 << 30, 20)));
        assert_eq!(sizes(&Blocks::Classes(vec![(4000, 3), (100, 7)])), [(128, 7), (4096, 3)]);
        assert!(classes(&Blocks::Classes(vec![(1024, 1); 9]), 1).is_err());
    }

    #[test]
    fn a_capacity_below_a_batch_is_warned_of() {
        let mut planner = Planner::default();
        let span = planner.add(node("tag", 64));
        let plan = planner.finish(&span);
        assert_eq!(plan.warnings(64), Vec::<String>::new());
        assert_eq!(
            plan.warnings(10),
            ["capacity 10 is smaller than servlet tag's batch_size 64: its batches can never be full"]
        );
    }
}
