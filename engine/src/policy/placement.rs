//! Where the workers of a server run, decided for all of them together, before there is a segment. Pure: the machine is
//! an argument.

use super::auto::{Auto, Taken};
use super::cpus::Cpus;
use super::ground::{Ask, Ground, range, width};
use crate::error::StartError;
use ringmill_shm::doorbell::WORKER_LIMIT;
use ringmill_shm::placed::{Placed, Why};
use ringmill_shm::sys::cpu::pin_thread;
use ringmill_shm::sys::topology::{Cpu, Topology};
use std::collections::BTreeMap;
use std::{fmt, io};

/// Where the workers of a server run, and why there; as it was decided before they were started. Shown, it is a table.
///
/// ```
/// # fn main() -> Result<(), ringmill::BoxError> {
/// use ringmill::{Cpus, PassThrough, Server, ThreadServlet};
/// let servlet = ThreadServlet::<PassThrough<u32>>::new(()).name("pass").cpus(Cpus::per_numa_node(1));
/// let server = Server::anonymous("placed").start(servlet)?;
/// let placement = server.placement();
/// println!("{placement}"); // pass/0  CPUs 0-3  node 0  one of its servlet's workers on each NUMA node
/// let worker = &placement.workers()[0];
/// assert_eq!((worker.servlet.as_str(), worker.worker), ("pass", 0));
/// assert!(worker.cpus.iter().all(|cpu| placement.allowed().contains(cpu)));
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Placement {
    allowed: Vec<usize>,
    callers: Vec<usize>,
    free: Vec<usize>,
    workers: Vec<PlacedWorker>,
    memory: Vec<PlacedMemory>,
}

/// A part of the segment's memory, and on which NUMA nodes it lies.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct PlacedMemory {
    /// What it is, in words: a servlet's ring, a worker's statistics, requests, payload blocks of a size.
    pub part: String,
    /// Its size, in whole pages.
    pub bytes: u64,
    /// What the kernel was asked for, as `numa_maps` writes it: `prefer:1`, `interleave:0,1`, `default`.
    pub policy: String,
    /// By NUMA node, how many pages lie there, of up to 256 that were looked at when the server started.
    pub pages: BTreeMap<usize, u64>,
    /// Whether none lies elsewhere than asked for.
    pub is_as_asked: bool,
}

/// Where a worker runs, and why there.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct PlacedWorker {
    /// The name of its servlet.
    pub servlet: String,
    /// Its index within the servlet.
    pub worker: usize,
    /// Whether it is there only once it is [added](crate::Server::scale).
    pub is_spare: bool,
    /// The CPUs to which it is pinned, ascending; none: it is not pinned, and may run on all that are
    /// [allowed](Placement::allowed).
    pub cpus: Vec<usize>,
    /// The NUMA node of all these CPUs, if it is one, and the kernel names it.
    pub numa_node: Option<usize>,
    /// The NUMA node whose memory is nearest to it: the same, unless that one has none.
    pub memory_node: Option<usize>,
    /// Why there.
    pub why: Why,
}

impl Placement {
    /// What a client knows of the placement of its server's workers: nothing.
    pub(crate) fn of_another_process() -> Self {
        Self::default()
    }

    /// All workers, servlet by servlet, those that can be added after the others.
    #[must_use]
    pub fn workers(&self) -> &[PlacedWorker] {
        &self.workers
    }

    /// The CPUs that the server's process might use when the server started, ascending: of those that it might use when its first
    /// server started.
    #[must_use]
    pub fn allowed(&self) -> &[usize] {
        &self.allowed
    }

    /// The CPUs of the callers, as [stated](crate::ServerBuilder::callers_on), or as [`Cpus::auto`](crate::Cpus::auto)
    /// left one to them; none if neither is so.
    #[must_use]
    pub fn callers(&self) -> &[usize] {
        &self.callers
    }

    /// The CPUs for the threads of the service, ascending, never none: those on whose cores no worker is pinned; if
    /// there are none, those on which none is; then those of the callers; then all that are allowed. The supervisor
    /// runs there. [Isolated](crate::placement) ones are left out where others remain.
    #[must_use]
    pub fn free(&self) -> &[usize] {
        &self.free
    }

    /// On which NUMA nodes the parts of the segment's memory lie, as the kernel said before the workers started; none where the
    /// kernel was not [asked](crate::ServerBuilder::numa_memory) for anything, as on a machine of one node, or refused.
    #[must_use]
    pub fn memory(&self) -> &[PlacedMemory] {
        &self.memory
    }

    /// Notes where the memory lies.
    pub(crate) fn set_memory(&mut self, memory: Vec<PlacedMemory>) {
        self.memory = memory;
    }

    /// Keeps the calling thread, and those that it starts from now on, off the workers' CPUs: pins it to those that are
    /// [free](Self::free).
    ///
    /// ```
    /// # fn main() -> Result<(), ringmill::BoxError> {
    /// # use ringmill::{Cpus, PassThrough, Server, ThreadServlet};
    /// let server = Server::anonymous("apart").start(ThreadServlet::<PassThrough<u32>>::new(()).cpus(Cpus::auto()))?;
    /// server.placement().keep_off()?; // in the thread that calls, or before it starts a pool of threads that do
    /// assert_eq!(*server.call(&7)?, 7);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// What the kernel says, if it has taken all of these CPUs away meanwhile.
    pub fn keep_off(&self) -> io::Result<()> {
        pin_thread(&self.free)
    }

    /// Where the workers of one servlet run, as the segment has it.
    pub(crate) fn of<'a>(&'a self, servlet: &'a str) -> impl Iterator<Item = Placed> + 'a {
        let of = self.workers.iter().filter(move |worker| worker.servlet == servlet);
        of.map(|worker| Placed { cpus: worker.cpus.clone(), node: worker.numa_node, why: worker.why })
    }

    /// How many workers of one servlet there are at first.
    pub(crate) fn staffed(&self, servlet: &str) -> usize {
        self.workers.iter().filter(|worker| worker.servlet == servlet && !worker.is_spare).count()
    }
}

impl fmt::Display for Placement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rows: Vec<[String; 4]> = self.workers.iter().map(PlacedWorker::row).collect();
        let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
        let widths = [0, 1, 2].map(width);
        for [name, cpus, node, why] in &rows {
            let [a, b, c] = widths;
            writeln!(f, "{name:a$}  {cpus:b$}  {node:c$}  {why}")?;
        }
        write!(f, "free: {} of CPUs {}", ranges(&self.free), ranges(&self.allowed))?;
        for PlacedMemory { part, policy, pages, .. } in &self.memory {
            let pages: Vec<String> =
                pages.iter().map(|(node, count)| format!("{count} on node {node}")).collect();
            write!(f, "\n{part}: {policy}, pages {}", pages.join(", "))?;
        }
        Ok(())
    }
}

impl PlacedWorker {
    fn row(&self) -> [String; 4] {
        let spare = if self.is_spare { ", once it is added" } else { "" };
        let cpus = match self.cpus.as_slice() {
            [] => "any CPU".into(),
            [cpu] => format!("CPU {cpu}"),
            cpus => format!("CPUs {}", ranges(cpus)),
        };
        let node = self.numa_node.map_or("-".into(), |node| format!("node {node}"));
        [format!("{}/{}", self.servlet, self.worker), cpus, node, format!("{}{spare}", self.why)]
    }
}

/// `[0, 1, 2, 5]` → `0-2,5`.
pub(crate) fn ranges(numbers: &[usize]) -> String {
    let runs = numbers.chunk_by(|a, b| a + 1 == *b);
    let text = |run: &[usize]| match run {
        [one] => one.to_string(),
        run => format!("{}-{}", run[0], run[run.len() - 1]),
    };
    runs.map(text).collect::<Vec<_>>().join(",")
}

/// Places the workers of all servlets.
///
/// # Errors
/// The first choice that the machine, or a limit, does not allow.
pub(crate) fn place(ground: Ground<'_>, asks: &[Ask<'_>]) -> Result<Placement, StartError> {
    let mut plans = Vec::with_capacity(asks.len());
    for ask in asks {
        plans.push(ground.stated(ask)?);
    }
    let mut taken = Taken::default();
    for places in plans.iter().flatten() {
        places.iter().for_each(|place| taken.add_own(ground.topology, &place.cpus));
    }
    let is_auto = asks.iter().any(|ask| matches!(ask.cpus, Cpus::Auto(_)));
    let callers = match ground.callers {
        [] if is_auto => taken.least(ground.topology).into_iter().collect(),
        stated => stated.to_vec(),
    };
    taken.add_callers(ground.topology, &callers);
    let mut auto = Auto::new(ground, &callers, taken);
    let counts = auto.counts(asks);
    auto.choose_home(asks, &counts);
    auto.deal(asks, &counts, &mut plans);

    let mut workers = Vec::new();
    for ((ask, places), count) in asks.iter().zip(plans).zip(counts) {
        let mut places = places.unwrap_or_default();
        let staffed = places.len();
        let most = most_workers(ask, staffed)?;
        check_threads(ask, most)?;
        for index in staffed..most {
            let place = match count {
                Some(_) if ground.pins => auto.next(width(ask)),
                _ => places[index % staffed].clone(),
            };
            places.push(place);
        }
        workers.extend(places.into_iter().enumerate().map(|(worker, place)| PlacedWorker {
            servlet: ask.servlet.into(),
            worker,
            is_spare: worker >= staffed,
            memory_node: place.node.and_then(|node| ground.topology.memory_node(node)),
            cpus: place.cpus,
            numa_node: place.node,
            why: place.why,
        }));
    }
    let allowed: Vec<usize> = ground.topology.cpus.iter().map(|cpu| cpu.number).collect();
    let free = free(ground.topology, &callers, &workers);
    Ok(Placement { allowed, callers, free, workers, memory: Vec::new() })
}

/// The CPUs for threads that are no workers.
fn free(topology: &Topology, callers: &[usize], workers: &[PlacedWorker]) -> Vec<usize> {
    let has_worker = |cpu: &Cpu| workers.iter().any(|worker| worker.cpus.contains(&cpu.number));
    let busy_cores: Vec<usize> =
        topology.cpus.iter().filter(|cpu| has_worker(cpu)).map(|cpu| cpu.core).collect();
    let those = |is_free: &dyn Fn(&Cpu) -> bool| -> Option<Vec<usize>> {
        let cpus = topology.cpus.iter().filter(|cpu| is_free(cpu)).map(|cpu| cpu.number);
        Some(cpus.collect()).filter(|cpus: &Vec<usize>| !cpus.is_empty())
    };
    those(&|cpu| !cpu.is_isolated && !busy_cores.contains(&cpu.core))
        .or_else(|| those(&|cpu| !cpu.is_isolated && !has_worker(cpu)))
        .or_else(|| those(&|cpu| callers.contains(&cpu.number)))
        .or_else(|| those(&|cpu| !cpu.is_isolated))
        .or_else(|| those(&|_| true))
        .unwrap_or_default()
}

/// How many workers there can be, of which this many are there at first.
fn most_workers(ask: &Ask<'_>, staffed: usize) -> Result<usize, StartError> {
    let most = ask.max_workers.unwrap_or(staffed);
    let fits = (staffed..=WORKER_LIMIT).contains(&most);
    fits.then_some(most).ok_or_else(|| range(ask, "max_workers", most, staffed, WORKER_LIMIT))
}

/// Checks that each thread of each worker has a number at the doorbell.
fn check_threads(ask: &Ask<'_>, workers: usize) -> Result<(), StartError> {
    let most = WORKER_LIMIT / workers;
    let fits = (1..=most).contains(&ask.threads);
    fits.then_some(()).ok_or_else(|| range(ask, "stream_threads", ask.threads, 1, most))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::cpus::Pin;
    use std::fs;

    /// A machine as its sysfs shows it: nodes, caches of each, cores of each, hardware threads of each. CPUs are
    /// numbered as kernels do: the first thread of every core, then the second of every core.
    #[derive(Clone, Copy)]
    struct Machine {
        nodes: usize,
        caches: usize,
        cores: usize,
        threads: usize,
    }

    const fn machine(nodes: usize, caches: usize, cores: usize, threads: usize) -> Machine {
        Machine { nodes, caches, cores, threads }
    }

    impl Machine {
        fn cores(self) -> usize {
            self.nodes * self.caches * self.cores
        }

        fn all(self) -> Vec<usize> {
            (0..self.cores() * self.threads).collect()
        }

        fn threads_of(self, cores: std::ops::Range<usize>) -> String {
            let of = |thread: usize| cores.clone().map(move |core| thread * self.cores() + core);
            let mut cpus: Vec<usize> = (0..self.threads).flat_map(of).collect();
            cpus.sort_unstable();
            ranges(&cpus)
        }

        /// Its topology for a process that may use these CPUs; `change` may change files of its sysfs.
        fn with(self, allowed: &[usize], change: impl Fn(&dyn Fn(&str, &str))) -> Topology {
            let root = tempfile::tempdir().expect("a folder");
            let write = |path: &str, text: &str| {
                let file = root.path().join("sys/devices/system").join(path);
                fs::create_dir_all(file.parent().expect("a folder")).expect("a folder");
                fs::write(file, text).expect("a file");
            };
            for cpu in self.all() {
                let core = cpu % self.cores();
                let group = |size: usize| self.threads_of(core / size * size..core / size * size + size);
                let folder = format!("cpu/cpu{cpu}");
                write(&format!("{folder}/topology/core_cpus_list"), &group(1));
                write(&format!("{folder}/topology/package_cpus_list"), &group(self.caches * self.cores));
                write(&format!("{folder}/cache/index3/level"), "3");
                write(&format!("{folder}/cache/index3/shared_cpu_list"), &group(self.cores));
            }
            for node in 0..self.nodes {
                let size = self.caches * self.cores;
                write(&format!("node/node{node}/cpulist"), &self.threads_of(node * size..(node + 1) * size));
                write(&format!("node/node{node}/meminfo"), &format!("Node {node} MemTotal: 1024 kB"));
                let far = (0..self.nodes).map(|other| if other == node { "10" } else { "20" });
                write(&format!("node/node{node}/distance"), &far.collect::<Vec<_>>().join(" "));
            }
            change(&write);
            Topology::read(root.path(), allowed)
        }

        fn topology(self) -> Topology {
            self.with(&self.all(), |_| ())
        }
    }

    /// A servlet, and how many threads its workers have.
    fn ask<'a>(servlet: &'a str, cpus: &'a Cpus, threads: usize, next: Option<usize>) -> Ask<'a> {
        Ask { servlet, cpus, threads, max_workers: None, next }
    }

    fn on<'a>(topology: &'a Topology, callers: &'a [usize]) -> Ground<'a> {
        Ground { topology, callers, pins: true }
    }

    /// Where the workers of servlets in a row run: their CPUs, a list a servlet.
    fn row(topology: &Topology, servlets: &[Cpus]) -> Vec<Vec<Vec<usize>>> {
        let placement = place_row(topology, &[], servlets).expect("a valid choice");
        let of = |index: usize| placement.of(NAMES[index]).map(|place| place.cpus).collect();
        (0..servlets.len()).map(of).collect()
    }

    const NAMES: [&str; 4] = ["a", "b", "c", "d"];

    fn place_row(topology: &Topology, callers: &[usize], servlets: &[Cpus]) -> Result<Placement, StartError> {
        let next = |index: usize| (index + 1 < servlets.len()).then_some(index + 1);
        let asks: Vec<_> = servlets
            .iter()
            .enumerate()
            .map(|(index, cpus)| ask(NAMES[index], cpus, 1, next(index)))
            .collect();
        place(on(topology, callers), &asks)
    }

    /// Where the workers of one servlet run: CPUs, node, reason.
    fn one(topology: &Topology, cpus: Cpus) -> Vec<(Vec<usize>, Option<usize>, Why)> {
        let placement = place_row(topology, &[], &[cpus]).expect("a valid choice");
        placement.of("a").map(|place| (place.cpus, place.node, place.why)).collect()
    }

    fn auto(workers: usize) -> Cpus {
        Cpus::auto().workers(workers)
    }

    #[test]
    fn each_worker_has_a_core_and_the_callers_have_one() {
        let topology = machine(1, 1, 4, 1).topology();
        assert_eq!(row(&topology, &[Cpus::auto()]), [[[1], [2], [3]]]);
        // Two threads a core: no worker beside another, or beside the callers.
        let topology = machine(1, 1, 4, 2).topology();
        let placement = place_row(&topology, &[], &[Cpus::auto()]).unwrap();
        assert_eq!(placement.of("a").map(|place| place.cpus).collect::<Vec<_>>(), [[1], [2], [3]]);
        assert_eq!((placement.callers(), placement.free()), (&[0][..], &[0, 4][..]));
        assert!(
            placement
                .workers()
                .iter()
                .all(|worker| worker.why == Why::OwnCore && worker.numa_node == Some(0))
        );
    }

    #[test]
    fn what_is_left_when_no_core_is() {
        use Why::{OwnCore, Shared, Sibling};
        let topology = machine(1, 1, 2, 2).topology();
        let places: Vec<_> =
            one(&topology, auto(6)).into_iter().map(|(cpus, _, why)| (cpus[0], why)).collect();
        // A core; its other thread; the other thread of the callers' core; then these again, the callers' own CPU last.
        assert_eq!(places[..3], [(1, OwnCore), (3, Sibling), (2, Sibling)]);
        assert!(places[3..].iter().all(|(_, why)| *why == Shared), "{places:?}");
        let on_callers = places.iter().filter(|(cpu, _)| *cpu == 0).count();
        assert_eq!(on_callers, 0, "{places:?}");
        // One core of two threads, one CPU.
        assert_eq!(one(&machine(1, 1, 1, 2).topology(), Cpus::auto()), [(vec![1], Some(0), Sibling)]);
        let topology = machine(1, 1, 1, 1).topology();
        assert_eq!(one(&topology, Cpus::auto()), [(vec![0], Some(0), Shared)]);
        assert_eq!(place_row(&topology, &[], &[Cpus::auto()]).unwrap().free(), [0]);
    }

    #[test]
    fn the_callers_cache_is_filled_first_then_their_node() {
        use Why::{FarCore, OwnCore};
        // Two nodes of two caches of three cores.
        let topology = machine(2, 2, 3, 1).topology();
        let places = one(&topology, Cpus::auto());
        let cpus: Vec<usize> = places.iter().map(|(cpus, ..)| cpus[0]).collect();
        assert_eq!(cpus, (1..12).collect::<Vec<_>>());
        let whys: Vec<_> = places.iter().map(|&(_, node, why)| (node, why)).collect();
        assert_eq!(
            whys[..4],
            [(Some(0), OwnCore), (Some(0), OwnCore), (Some(0), FarCore), (Some(0), FarCore)]
        );
        assert_eq!(whys[5..].iter().filter(|why| **why == (Some(1), FarCore)).count(), 6);
        // Callers on the last cache.
        let placement = place_row(&topology, &[10], &[auto(4)]).unwrap();
        let cpus: Vec<usize> = placement.workers().iter().map(|worker| worker.cpus[0]).collect();
        assert_eq!((cpus, placement.callers()), (vec![9, 11, 6, 7], &[10][..]));
    }

    #[test]
    fn neighbours_of_a_pipeline_share_a_cache() {
        // Four caches of three cores: the callers' has two left.
        let topology = machine(1, 4, 3, 1).topology();
        assert_eq!(row(&topology, &[auto(1), auto(1)]), [[[1]], [[2]]]);
        // Three stages fit into another cache; five into none, and are cut where a cache is full.
        assert_eq!(row(&topology, &[auto(1), auto(1), auto(1)]), [[[3]], [[4]], [[5]]]);
        assert_eq!(
            row(&topology, &[auto(2), auto(2), auto(1)]),
            [vec![vec![1], vec![4]], vec![vec![2], vec![5]], vec![vec![3]]]
        );
        // Where each core has a cache of its own, stages share a node.
        assert_eq!(row(&machine(3, 2, 1, 1).topology(), &[auto(1), auto(1)]), [[[2]], [[3]]]);
        // Three opinions on one input have the callers for neighbours.
        let (cpus, placement) = (auto(1), |asks: &[Ask<'_>]| place(on(&topology, &[]), asks).unwrap());
        let asks: Vec<_> = NAMES[..3].iter().map(|name| ask(name, &cpus, 1, None)).collect();
        let placed = placement(&asks);
        assert_eq!(placed.workers().iter().map(|worker| worker.cpus[0]).collect::<Vec<_>>(), [1, 2, 3]);
    }

    #[test]
    fn cores_are_shared_out_among_servlets() {
        let topology = machine(1, 1, 8, 1).topology();
        assert_eq!(row(&topology, &[Cpus::auto(), Cpus::auto()]).map_len(), [4, 3]);
        assert_eq!(row(&topology, &[Cpus::auto(), auto(2), Cpus::auto()]).map_len(), [3, 2, 2]);
        // What others list, or leave to the kernel, is left to them.
        let listed = Cpus::list([Pin::to([0]), Pin::to([5])]);
        let placed = row(&topology, &[listed, Cpus::auto(), Cpus::Count(2)]);
        assert_eq!(placed[1], [[2], [3], [4], [6], [7]], "the callers have core 1");
        assert_eq!(placed[2], [Vec::<usize>::new(), Vec::new()]);
        // A worker that may run on several cores has none for itself.
        let wide = Cpus::list([Pin::to([0, 1, 2, 3])]);
        assert_eq!(row(&topology, &[wide, Cpus::auto()])[1].len(), 7);
        // Fewer cores than servlets.
        let topology = machine(1, 1, 2, 1).topology();
        let placed = row(&topology, &[Cpus::auto(), Cpus::auto(), Cpus::auto()]);
        assert_eq!(placed.concat().iter().filter(|cpus| **cpus == [1]).count(), 2, "{placed:?}");
        assert_eq!(placed.map_len(), [1, 1, 1]);
        // More cores than a servlet may have workers.
        assert_eq!(row(&machine(1, 1, 80, 1).topology(), &[Cpus::auto()]).map_len(), [64]);
    }

    trait MapLen {
        fn map_len(&self) -> Vec<usize>;
    }

    impl<T> MapLen for Vec<Vec<T>> {
        fn map_len(&self) -> Vec<usize> {
            self.iter().map(Vec::len).collect()
        }
    }

    #[test]
    fn a_worker_of_several_threads_has_several_cores() {
        // Two nodes of two caches of three cores with two threads.
        let topology = machine(2, 2, 3, 2).topology();
        let cpus = Cpus::auto();
        let placed = |threads, cpus: &Cpus| {
            let placement = place(on(&topology, &[]), &[ask("a", cpus, threads, None)]).unwrap();
            placement.of("a").map(|place| (place.cpus, place.node)).collect::<Vec<_>>()
        };
        let (near, far) = (Some(0), Some(1));
        let pairs = [
            (vec![1, 2], near),
            (vec![3, 4], near),
            (vec![6, 7], far),
            (vec![9, 10], far),
            (vec![8, 11], far),
        ];
        assert_eq!(placed(2, &cpus), pairs, "within a cache, then within a node");
        assert_eq!(placed(4, &auto(2)), [(vec![1, 2, 3, 4], near), (vec![6, 7, 8, 9], far)]);
        // More threads than there are free cores: no core's second CPU before another's first.
        let one_cache_after_the_other = machine(1, 2, 3, 2).topology();
        let placement = place(on(&one_cache_after_the_other, &[]), &[ask("a", &auto(1), 6, None)]).unwrap();
        assert_eq!(placement.workers()[0].cpus, [1, 2, 3, 4, 5, 7]);
        // More threads than there are cores.
        let wide = placed(14, &auto(1));
        assert_eq!((wide[0].0.len(), wide[0].1, wide.len()), (14, None, 1));
    }

    #[test]
    fn spare_workers_come_after_all_others() {
        let topology = machine(1, 1, 6, 1).topology();
        let (cpus, other) = (auto(2), auto(1));
        let asks = [Ask { max_workers: Some(4), ..ask("a", &cpus, 1, None) }, ask("b", &other, 1, None)];
        let placement = place(on(&topology, &[]), &asks).unwrap();
        let cpus: Vec<_> =
            placement.workers().iter().map(|worker| (worker.cpus[0], worker.is_spare)).collect();
        assert_eq!(cpus, [(1, false), (3, false), (4, true), (5, true), (2, false)]);
        assert_eq!(placement.staffed("a"), 2);
        // As many as there are cores, but no more than there may be.
        let all = Cpus::auto();
        let few = [Ask { max_workers: Some(3), ..ask("a", &all, 1, None) }];
        assert_eq!(place(on(&topology, &[]), &few).unwrap().staffed("a"), 3);
        // Of a list the same CPUs, in turn.
        let list = Cpus::from([4, 5]);
        let asks = [Ask { max_workers: Some(3), ..ask("a", &list, 1, None) }];
        let placement = place(on(&topology, &[]), &asks).unwrap();
        assert_eq!(placement.of("a").map(|place| place.cpus).collect::<Vec<_>>(), [[4], [5], [4]]);
    }

    #[test]
    fn workers_on_nodes() {
        use Why::{OnEachNode, OnNode};
        for nodes in [1, 2, 4, 8] {
            let topology = machine(nodes, 1, 2, 2).topology();
            let cpus = |node: usize| {
                let first = 2 * node;
                vec![first, first + 1, first + 2 * nodes, first + 1 + 2 * nodes]
            };
            let each: Vec<_> = (0..2 * nodes)
                .map(|worker| worker % nodes)
                .map(|node| (cpus(node), Some(node), OnEachNode))
                .collect();
            assert_eq!(one(&topology, Cpus::per_numa_node(2)), each);
            let last = nodes - 1;
            assert_eq!(
                one(&topology, Cpus::node(last).workers(3)),
                vec![(cpus(last), Some(last), OnNode); 3]
            );
            let error = place_row(&topology, &[], &[Cpus::node(nodes)]).unwrap_err().to_string();
            let list = (0..nodes).map(|node| node.to_string()).collect::<Vec<_>>().join(", ");
            let told = "with CPUs that this process may use (nodes with such CPUs:";
            assert_eq!(error, format!("servlet a: there is no NUMA node {nodes} {told} {list})"));
        }
        // Callers that are stated have their CPUs for themselves, unless the node has no other.
        let topology = machine(2, 1, 2, 1).topology();
        let placement = place_row(&topology, &[0, 2, 3], &[Cpus::per_numa_node(1)]).unwrap();
        assert_eq!(placement.of("a").map(|place| place.cpus).collect::<Vec<_>>(), [vec![1], vec![2, 3]]);
        assert_eq!(placement.free(), [0]);
    }

    #[test]
    fn nodes_with_holes_without_memory_and_without_cpus() {
        // Node 1 is offline; node 2 has no memory, node 5 no CPUs; CPU 1 is offline.
        let change = |write: &dyn Fn(&str, &str)| {
            write("node/online", "0,2,5");
            write("node/node0/cpulist", "0");
            write("node/node2/cpulist", "2-3");
            write("node/node2/meminfo", "Node 2 MemTotal: 0 kB");
            write("node/node2/distance", "30 10 20");
            write("node/node5/cpulist", "");
            write("node/node5/meminfo", "Node 5 MemTotal: 8 kB");
        };
        let topology = machine(2, 1, 2, 1).with(&[0, 2, 3], change);
        let placement = place_row(&topology, &[], &[Cpus::per_numa_node(1), Cpus::auto()]).unwrap();
        let nodes: Vec<_> =
            placement.workers().iter().map(|worker| (worker.numa_node, worker.memory_node)).collect();
        assert_eq!(nodes, [(Some(0), Some(0)), (Some(2), Some(5)), (Some(2), Some(5))]);
        assert_eq!(placement.callers(), [2], "CPU 0 has a worker");
        for absent in [1, 5, usize::MAX] {
            let error = place_row(&topology, &[], &[Cpus::node(absent)]).unwrap_err();
            assert!(
                matches!(&error, StartError::Node { node, nodes, .. } if *node == absent && *nodes == [0, 2])
            );
        }
    }

    #[test]
    fn a_container_of_few_cpus() {
        // CPUs 3 and 7 are threads of one core; CPU 9 is on the other node.
        let all = machine(2, 1, 4, 2);
        let topology = all.with(&[3, 9, 11], |_| ());
        let places = one(&topology, Cpus::auto());
        assert_eq!(places, [(vec![9], Some(0), Why::OwnCore)], "CPUs 3 and 11 are one core");
        let each = one(&all.with(&[3, 6], |_| ()), Cpus::per_numa_node(1));
        assert_eq!(each, [(vec![3], Some(0), Why::OnEachNode), (vec![6], Some(1), Why::OnEachNode)]);
        let error = place_row(&topology, &[], &[Cpus::from([3, 4])]).unwrap_err();
        let told = "servlet a: CPU 4 is not among the CPUs this process may use (3, 9, 11)";
        assert_eq!(error.to_string(), told);
        let error = place_row(&topology, &[], &[Cpus::node(1)]).unwrap_err();
        assert!(matches!(error, StartError::Node { node: 1, .. }), "{error}");
    }

    #[test]
    fn without_sysfs_cpus_are_alike() {
        let topology = Topology::unknown(&[2, 5, 6]);
        assert_eq!(
            one(&topology, Cpus::auto()),
            [(vec![5], None, Why::OwnCore), (vec![6], None, Why::OwnCore)]
        );
        for choice in [Cpus::per_numa_node(1), Cpus::node(0)] {
            assert_eq!(row(&topology, &[choice]), [[[2, 5, 6]]]);
        }
        assert!(matches!(place_row(&topology, &[], &[Cpus::node(1)]), Err(StartError::Node { .. })));
    }

    #[test]
    fn isolated_cpus_are_for_workers() {
        let isolate = |write: &dyn Fn(&str, &str)| write("cpu/isolated", "2-3");
        let all = machine(1, 1, 4, 1);
        let topology = all.with(&all.all(), isolate);
        let placement = place_row(&topology, &[], &[Cpus::auto()]).unwrap();
        assert_eq!(placement.of("a").map(|place| place.cpus).collect::<Vec<_>>(), [[2], [3]]);
        assert_eq!((placement.callers(), placement.free()), (&[0][..], &[0, 1][..]));
        assert_eq!(row(&topology, &[auto(3)]), [[[2], [3], [1]]]);
        let unpinned = place_row(&topology, &[], &[Cpus::Count(1)]).unwrap();
        assert_eq!(unpinned.free(), [0, 1]);
        let only = all.with(&[2, 3], isolate);
        assert_eq!(place_row(&only, &[], &[Cpus::auto()]).unwrap().callers(), [2]);
    }

    #[test]
    fn lists_are_as_told() {
        let topology = machine(2, 1, 2, 2).topology();
        let listed = Cpus::list([Pin::to([3, 2]), Pin::any(), Pin::to([1, 2])]);
        let expected = [
            (vec![2, 3], Some(1), Why::Listed),
            (vec![], None, Why::NotPinned),
            (vec![1, 2], None, Why::Listed),
        ];
        assert_eq!(one(&topology, listed.clone()), expected);
        assert_eq!(place_row(&topology, &[], &[listed]).unwrap().free(), [0, 4], "a core without workers");
        let everywhere = Cpus::from([0, 1, 2, 3]);
        let placement = place_row(&topology, &[1], std::slice::from_ref(&everywhere)).unwrap();
        assert_eq!(placement.free(), [4, 5, 6, 7], "no core without workers");
        let all = Cpus::list([Pin::to(0..8)]);
        let free = |callers: &[usize]| {
            place_row(&topology, callers, std::slice::from_ref(&all)).unwrap().free().to_vec()
        };
        assert_eq!((free(&[1]), free(&[])), (vec![1], (0..8).collect()));
        let error = place_row(&topology, &[], &[Cpus::list([Pin::any(), Pin::to([1, 2, 1])])]).unwrap_err();
        assert_eq!(error.to_string(), "servlet a: CPU 1 is listed twice in one list: list it once");
    }

    #[test]
    fn pinning_that_is_off_leaves_the_numbers() {
        let topology = machine(2, 1, 2, 1).topology();
        let (list, node) = (Cpus::list([Pin::to([9, 9]), Pin::any()]), Cpus::per_numa_node(2));
        let (auto, count) = (Cpus::auto(), Cpus::Count(2));
        let asks = [&list, &node, &auto, &count];
        let asks: Vec<_> = asks.iter().zip(NAMES).map(|(cpus, name)| ask(name, cpus, 1, None)).collect();
        let ground = Ground { pins: false, ..on(&topology, &[]) };
        let placement = place(ground, &asks).unwrap();
        assert_eq!(NAMES.map(|name| placement.staffed(name)), [2, 4, 3, 2]);
        assert!(
            placement.workers().iter().all(|worker| worker.cpus.is_empty() && worker.numa_node.is_none())
        );
        assert_eq!(placement.free(), [0, 1, 2, 3]);
    }

    #[test]
    fn numbers_out_of_range_are_named() {
        let topology = machine(2, 1, 2, 1).topology();
        let told = |cpus: Cpus, threads, max_workers| {
            let asks = [Ask { max_workers, ..ask("a", &cpus, threads, None) }];
            place(on(&topology, &[]), &asks).unwrap_err().to_string()
        };
        for workers in [0, 65, usize::MAX] {
            let expected = format!("servlet a: number of workers is {workers}, must be in 1..=64");
            for cpus in [Cpus::Count(workers), auto(workers), Cpus::node(1).workers(workers)] {
                assert_eq!(told(cpus, 1, None), expected);
            }
        }
        assert_eq!(told(Cpus::list([]), 1, None), "servlet a: number of workers is 0, must be in 1..=64");
        assert_eq!(
            told(Cpus::per_numa_node(33), 1, None),
            "servlet a: number of workers on each NUMA node is 33, must be in 1..=32"
        );
        let empty = Cpus::list([Pin::to([])]);
        assert_eq!(
            told(empty, 1, None),
            "servlet a: number of CPUs of a pinned worker is 0, must be in 1..=4"
        );
        assert_eq!(told(Cpus::Count(3), 22, None), "servlet a: stream_threads is 22, must be in 1..=21");
        assert_eq!(told(Cpus::auto(), 65, None), "servlet a: stream_threads is 65, must be in 1..=64");
        assert_eq!(told(Cpus::auto(), 0, None), "servlet a: stream_threads is 0, must be in 1..=21");
        assert_eq!(told(auto(3), 1, Some(2)), "servlet a: max_workers is 2, must be in 3..=64");
    }

    #[test]
    fn a_placement_is_shown_as_a_table() {
        let topology = machine(2, 1, 2, 1).topology();
        let placement = place_row(&topology, &[], &[Cpus::node(1), auto(1), Cpus::Count(1)]).unwrap();
        let text = "\
a/0  CPUs 2-3  node 1  on the NUMA node that its servlet names
b/0  CPU 1     node 0  a core of its own, on the callers' cache
c/0  any CPU   -       not pinned
free: 0 of CPUs 0-3";
        assert_eq!(placement.to_string(), text);
    }
}
