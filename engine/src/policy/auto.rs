//! Chooses CPUs for the workers of servlets that leave it to the server.
//!
//! # Rules
//!
//! A worker with n threads takes n cores (one CPU of each). What is taken counts on its CPU and on its core: the
//! workers that servlets list on CPUs of their own, the callers, then worker by worker. The next worker goes to the
//! first that has enough free cores: a last-level cache, a NUMA node, the machine, the nearest to the callers first;
//! isolated CPUs before others. If there are too few free cores, it goes where the least is taken: first of CPUs, then
//! of cores.
//!
//! Callers and the stages of a pipeline are a circle of neighbours. If their cores are taken in its order, cache by
//! cache, each cache that gets full cuts the circle once, and it closes with one more cut: moving the stages together
//! elsewhere cuts it as often. So a pipeline that fits into one cache, or else one node, though not into what the
//! callers' has left, goes there as a whole: its items then stay there from the first stage to the last. Several
//! workers of each stage are dealt out evenly along the way, so that each cache gets its share of every stage.

use super::cpus::Cpus;
use super::ground::{Ask, Ground, width};
use ringmill_shm::doorbell::WORKER_LIMIT;
use ringmill_shm::placed::{Placed, Why};
use ringmill_shm::sys::topology::{Cpu, Topology};
use std::collections::BTreeMap;

/// How much of each CPU and of each core is taken.
#[derive(Debug, Clone, Default)]
pub(super) struct Taken {
    of_cpu: BTreeMap<usize, usize>,
    of_core: BTreeMap<usize, usize>,
}

impl Taken {
    fn of_cpu(&self, cpu: &Cpu) -> usize {
        self.of_cpu.get(&cpu.number).copied().unwrap_or(0)
    }

    fn of_core(&self, cpu: &Cpu) -> usize {
        self.of_core.get(&cpu.core).copied().unwrap_or(0)
    }

    fn add(&mut self, topology: &Topology, cpus: &[usize], much: usize) {
        for cpu in topology.cpus.iter().filter(|cpu| cpus.contains(&cpu.number)) {
            *self.of_cpu.entry(cpu.number).or_default() += much;
            *self.of_core.entry(cpu.core).or_default() += much;
        }
    }

    /// A worker takes what it is pinned to if that lies on one core. Several cores it shares with others, as the kernel
    /// sees fit.
    pub(super) fn add_own(&mut self, topology: &Topology, cpus: &[usize]) {
        let mut cores = topology.cpus.iter().filter(|cpu| cpus.contains(&cpu.number)).map(|cpu| cpu.core);
        let first = cores.next();
        if cores.all(|core| Some(core) == first) {
            self.add(topology, cpus, 1);
        }
    }

    /// Callers count more than a worker: their CPUs, and then their cores' other hardware threads, are taken last.
    pub(super) fn add_callers(&mut self, topology: &Topology, callers: &[usize]) {
        self.add(topology, callers, 2);
    }

    /// The first CPU of those of which least is taken, isolated ones last.
    pub(super) fn least(&self, topology: &Topology) -> Option<usize> {
        let key = |cpu: &&Cpu| (cpu.is_isolated, self.of_core(cpu), self.of_cpu(cpu), cpu.number);
        topology.cpus.iter().min_by_key(key).map(|cpu| cpu.number)
    }
}

/// Chooses CPUs, worker by worker.
#[derive(Debug)]
pub(super) struct Auto<'a> {
    ground: Ground<'a>,
    taken: Taken,
    /// Where the callers are.
    callers: Option<Cpu>,
    /// Near which CPU the workers go.
    home: Option<Cpu>,
}

/// CPUs of which each has a core of its own.
type Cores<'a> = Vec<&'a Cpu>;

impl<'a> Auto<'a> {
    pub(super) fn new(ground: Ground<'a>, callers: &[usize], taken: Taken) -> Self {
        let cpus = &ground.topology.cpus;
        let callers = cpus.iter().find(|cpu| callers.contains(&cpu.number)).or(cpus.first()).copied();
        Self { ground, taken, callers, home: callers }
    }

    /// How many workers each servlet has, of those that leave it to the server.
    pub(super) fn counts(&self, asks: &[Ask<'_>]) -> Vec<Option<usize>> {
        let has_isolated = self.ground.topology.cpus.iter().any(|cpu| cpu.is_isolated);
        let cores = self.free_cores(|cpu| cpu.is_isolated || !has_isolated).len();
        let stated = |ask: &Ask<'_>| match ask.cpus {
            Cpus::Auto(workers) => Some(*workers),
            _ => None,
        };
        let wanted: usize = asks.iter().filter_map(|ask| Some(stated(ask)?? * width(ask))).sum();
        let (rest, open) =
            (cores.saturating_sub(wanted), asks.iter().filter(|ask| stated(ask) == Some(None)).count());
        let mut index = 0;
        let mut share = || {
            index += 1;
            rest / open + usize::from(index <= rest % open)
        };
        let count = |ask: &Ask<'_>| {
            Some(stated(ask)?.unwrap_or_else(|| {
                let most = ask.max_workers.unwrap_or(WORKER_LIMIT).min(WORKER_LIMIT / width(ask));
                (share() / width(ask)).min(most).max(1)
            }))
        };
        asks.iter().map(count).collect()
    }

    /// A pipeline that fits into one cache, or else one node, but not into what the callers' has left, goes there.
    pub(super) fn choose_home(&mut self, asks: &[Ask<'_>], counts: &[Option<usize>]) {
        let is_auto = |index: &usize| counts.get(*index).is_some_and(Option::is_some);
        let hands_on = |ask: &Ask<'_>| ask.next.as_ref().is_some_and(is_auto);
        if !asks.iter().zip(counts).any(|(ask, count)| count.is_some() && hands_on(ask)) {
            return;
        }
        let needed: usize = asks.iter().zip(counts).map(|(ask, count)| count.unwrap_or(0) * width(ask)).sum();
        let caches = self.caches(true).chain(self.caches(false));
        let fits =
            caches.chain(self.nodes(true)).chain(self.nodes(false)).find(|cores| cores.len() >= needed);
        self.home = fits.and_then(|cores| cores.first().copied().copied()).or(self.home);
    }

    /// Places the workers that are there at first, those of all servlets in turn.
    pub(super) fn deal(
        &mut self,
        asks: &[Ask<'_>],
        counts: &[Option<usize>],
        plans: &mut [Option<Vec<Placed>>],
    ) {
        let mut turns: Vec<(usize, usize, usize)> = Vec::new();
        for (index, count) in counts.iter().enumerate() {
            let count = count.unwrap_or(0);
            turns.extend((0..count).map(|worker| (2 * worker + 1, count, index)));
        }
        // By the worker's way through its servlet, as a fraction.
        turns.sort_by(|(a, of_a, _), (b, of_b, _)| (a * of_b).cmp(&(b * of_a)));
        for (_, _, index) in turns {
            let place = self.next(width(&asks[index]));
            plans[index].get_or_insert_default().push(place);
        }
    }

    /// CPUs for the next worker.
    pub(super) fn next(&mut self, width: usize) -> Placed {
        let domains =
            self.caches(true).chain(self.nodes(true)).chain(self.caches(false)).chain(self.nodes(false));
        let own = domains.chain([self.free_cores(|_| true)]).find(|cores| cores.len() >= width);
        let (cpus, why) = match own {
            Some(cores) => {
                let cores = &cores[..width];
                let is_near =
                    cores.iter().all(|cpu| Some(cpu.cache) == self.callers.map(|callers| callers.cache));
                (cores.to_vec(), if is_near { Why::OwnCore } else { Why::FarCore })
            }
            None => {
                let cpus = self.least_taken(width);
                let is_own = cpus.iter().all(|cpu| self.taken.of_cpu(cpu) == 0);
                (cpus, if is_own { Why::Sibling } else { Why::Shared })
            }
        };
        let mut cpus: Vec<usize> = cpus.iter().map(|cpu| cpu.number).collect();
        cpus.sort_unstable();
        self.taken.add(self.ground.topology, &cpus, 1);
        self.ground.placed(cpus, why)
    }

    /// CPUs of which the least is taken, the nearest first; each that is chosen counts for the next.
    fn least_taken(&self, count: usize) -> Cores<'a> {
        let (topology, mut taken) = (self.ground.topology, self.taken.clone());
        let mut cpus = Cores::new();
        while cpus.len() < count {
            let others = topology.cpus.iter().filter(|cpu| !cpus.contains(cpu));
            let key = |cpu: &&Cpu| (taken.of_cpu(cpu), taken.of_core(cpu), self.rank(cpu));
            let Some(next) = others.min_by_key(key) else { break };
            taken.add(topology, &[next.number], 1);
            cpus.push(next);
        }
        cpus
    }

    /// How far a CPU is from home; last, its number.
    fn rank(&self, cpu: &Cpu) -> (bool, [bool; 3], [usize; 2]) {
        let far = |of: fn(&Cpu) -> usize| self.home.is_some_and(|home| of(&home) != of(cpu));
        let far_node = self.home.is_some_and(|home| home.node != cpu.node);
        (!cpu.is_isolated, [far_node, far(|cpu| cpu.package), far(|cpu| cpu.cache)], [cpu.cache, cpu.number])
    }

    /// A CPU of each core of which nothing is taken, the nearest first.
    fn free_cores(&self, among: impl Fn(&Cpu) -> bool) -> Cores<'a> {
        let cpus = self.ground.topology.cpus.iter().filter(|cpu| among(cpu) && self.taken.of_core(cpu) == 0);
        let mut cores: Cores<'a> = Vec::new();
        for cpu in cpus {
            if !cores.iter().any(|other| other.core == cpu.core) {
                cores.push(cpu);
            }
        }
        cores.sort_by_key(|cpu| self.rank(cpu));
        cores
    }

    /// The free cores of each last-level cache, the nearest first: isolated ones, or all.
    fn caches(&self, isolated: bool) -> impl Iterator<Item = Cores<'a>> + use<'a> {
        self.groups(isolated, |cpu| Some(cpu.cache))
    }

    /// The free cores of each node, the nearest first: isolated ones, or all.
    fn nodes(&self, isolated: bool) -> impl Iterator<Item = Cores<'a>> + use<'a> {
        self.groups(isolated, |cpu| cpu.node)
    }

    fn groups(
        &self,
        isolated: bool,
        of: fn(&Cpu) -> Option<usize>,
    ) -> impl Iterator<Item = Cores<'a>> + use<'a> {
        let mut groups: Vec<(Option<usize>, Cores<'a>)> = Vec::new();
        for cpu in self.free_cores(|cpu| cpu.is_isolated || !isolated) {
            match groups.iter_mut().find(|(group, _)| *group == of(cpu)) {
                Some((_, cores)) => cores.push(cpu),
                None => groups.push((of(cpu), vec![cpu])),
            }
        }
        groups.into_iter().map(|(_, cores)| cores)
    }
}
