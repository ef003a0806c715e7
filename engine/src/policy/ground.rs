//! What is known before any worker is placed: the machine, and what each servlet asks for; and where workers run whose servlet
//! says it.

use super::cpus::Cpus;
use crate::error::StartError;
use ringmill_shm::doorbell::WORKER_LIMIT;
use ringmill_shm::placed::{Placed, Why};
use ringmill_shm::sys::topology::Topology;

/// What one servlet asks for.
#[derive(Debug, Clone)]
pub(crate) struct Ask<'a> {
    pub(crate) servlet: &'a str,
    pub(crate) cpus: &'a Cpus,
    /// The threads of each worker.
    pub(crate) threads: usize,
    /// How many workers there can be; `None`: as many as there are at first.
    pub(crate) max_workers: Option<usize>,
    /// The servlet that takes its outcomes, as an index of this list; `None`: its callers, or several.
    pub(crate) next: Option<usize>,
}

/// Where the server may run.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ground<'a> {
    /// Of the CPUs that its process may use.
    pub(crate) topology: &'a Topology,
    /// Where its callers run; none: not stated.
    pub(crate) callers: &'a [usize],
    /// Whether workers are pinned at all.
    pub(crate) pins: bool,
}

/// How many cores a worker takes.
pub(super) fn width(ask: &Ask<'_>) -> usize {
    ask.threads.clamp(1, WORKER_LIMIT)
}

pub(super) fn range(
    ask: &Ask<'_>,
    what: &'static str,
    value: usize,
    least: usize,
    most: usize,
) -> StartError {
    let (value, least, most) = (value as u64, least as u64, most as u64);
    StartError::Range { servlet: Some(ask.servlet.into()), what, value, least, most }
}

impl Ground<'_> {
    pub(super) fn allowed(&self) -> Vec<usize> {
        self.topology.cpus.iter().map(|cpu| cpu.number).collect()
    }

    /// These CPUs, with their node.
    pub(super) fn placed(&self, cpus: Vec<usize>, why: Why) -> Placed {
        if !self.pins {
            return Placed { why: Why::PinningIsOff, ..Placed::default() };
        }
        let nodes = self.topology.cpus.iter().filter(|cpu| cpus.contains(&cpu.number)).map(|cpu| cpu.node);
        let node = nodes.reduce(|one, other| one.filter(|_| one == other)).flatten();
        Placed { cpus, node, why }
    }

    /// Those CPUs of a group that are not the callers', as far as those are stated and others remain.
    fn without_callers(&self, cpus: &[usize]) -> Vec<usize> {
        let others: Vec<usize> = cpus.iter().copied().filter(|cpu| !self.callers.contains(cpu)).collect();
        if others.is_empty() { cpus.to_vec() } else { others }
    }

    /// Where the workers run that are there at first; `None` if the server is to choose.
    pub(super) fn stated(&self, ask: &Ask<'_>) -> Result<Option<Vec<Placed>>, StartError> {
        let number = |what, value: usize, most: usize| match (1..=most).contains(&value) {
            true => Ok(value),
            false => Err(range(ask, what, value, 1, most)),
        };
        let what = "number of workers";
        Ok(Some(match ask.cpus {
            Cpus::Count(workers) => vec![Placed::default(); number(what, *workers, WORKER_LIMIT)?],
            Cpus::List(pins) => {
                number(what, pins.len(), WORKER_LIMIT)?;
                pins.iter().map(|pin| self.listed(ask, pin.cpus())).collect::<Result<_, _>>()?
            }
            Cpus::PerNumaNode(each) => {
                let groups = self.topology.cpus_by_node();
                number("number of workers on each NUMA node", *each, WORKER_LIMIT / groups.len().max(1))?;
                let place = |cpus: &Vec<usize>| self.placed(self.without_callers(cpus), Why::OnEachNode);
                // Node by node in turn: so it stays even while workers are added or removed.
                (0..*each).flat_map(|_| groups.iter().map(place)).collect()
            }
            Cpus::Node { node, workers } => {
                let place = self.placed(self.without_callers(&self.cpus_of(ask, *node)?), Why::OnNode);
                vec![place; number(what, *workers, WORKER_LIMIT)?]
            }
            Cpus::Auto(Some(workers)) => {
                number(what, *workers, WORKER_LIMIT)?;
                return Ok(None);
            }
            Cpus::Auto(None) => return Ok(None),
        }))
    }

    fn listed(&self, ask: &Ask<'_>, cpus: Option<&[usize]>) -> Result<Placed, StartError> {
        let (Some(cpus), true) = (cpus, self.pins) else {
            return Ok(self.placed(Vec::new(), Why::NotPinned));
        };
        let allowed = self.allowed();
        let servlet = || ask.servlet.to_owned();
        if cpus.is_empty() {
            return Err(range(ask, "number of CPUs of a pinned worker", 0, 1, allowed.len()));
        }
        if let Some(&cpu) = cpus.iter().find(|cpu| !allowed.contains(cpu)) {
            return Err(StartError::Cpu { servlet: Some(servlet()), cpu, allowed });
        }
        if let Some(twice) = cpus.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(StartError::CpuTwice { servlet: Some(servlet()), cpu: twice[0] });
        }
        Ok(self.placed(cpus.to_vec(), Why::Listed))
    }

    /// The CPUs of a node that the process may use.
    fn cpus_of(&self, ask: &Ask<'_>, node: usize) -> Result<Vec<usize>, StartError> {
        let topology = self.topology;
        if !self.pins || topology.nodes.is_empty() && node == 0 {
            return Ok(self.allowed());
        }
        let with_cpus = || topology.nodes.iter().filter(|node| !node.cpus.is_empty());
        let found = with_cpus().find(|other| other.number == node);
        found.map(|node| node.cpus.clone()).ok_or_else(|| StartError::Node {
            servlet: ask.servlet.into(),
            node,
            nodes: with_cpus().map(|node| node.number).collect(),
        })
    }
}
