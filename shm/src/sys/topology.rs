//! Which CPUs share a core, a cache, a package and a NUMA node, as the kernel says in sysfs.
//!
//! Read from files, and by no library: `hwlocality` needs C sources, and others know no caches. The kernel's lists are a
//! dozen lines to read; a crate for them (`cpulist`) would not bound the ranges that it expands.
//!
//! What the kernel does not say is taken to be simple: a CPU is a core of its own, and all CPUs share one cache and one
//! package. That holds where `/sys` is not mounted, and for kernels and virtual machines that leave files out. CPU numbers
//! have holes where CPUs are offline, and nodes where they have been removed, so numbers are names and no indices.

use super::cpu::{CPU_LIMIT, KERNEL_LIMIT, allowed};
use std::fs;
use std::io;
use std::path::Path;

/// A CPU that a process may use. A group of CPUs is named after its lowest one, whether the process may use that or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Cpu {
    /// Its number, as `taskset` has it.
    pub number: usize,
    /// Its core; CPUs that share one are SMT siblings.
    pub core: usize,
    /// Its last-level cache.
    pub cache: usize,
    /// Its package, which sits in one socket.
    pub package: usize,
    /// The number of its NUMA node, if the kernel names one.
    pub node: Option<usize>,
    /// Whether the kernel moves no thread there by itself (`isolcpus`).
    pub is_isolated: bool,
}

/// A NUMA node. It may lack memory, or CPUs.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Node {
    /// Its number, as `numactl` has it.
    pub number: usize,
    /// Those of its CPUs that the process may use, ascending.
    pub cpus: Vec<usize>,
    /// Its memory in bytes.
    pub memory_bytes: u64,
    /// How far it is to each node that is online, in the order of their numbers; 10 is near. Empty: the kernel does not say.
    pub distances: Vec<u32>,
}

/// The part of a machine that a process may use.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Topology {
    /// The CPUs, ascending.
    pub cpus: Vec<Cpu>,
    /// All nodes of the machine that are online, ascending; none where the kernel names none, or contradicts itself by
    /// giving a CPU to two of them.
    pub nodes: Vec<Node>,
}

impl Topology {
    /// For the calling thread: its affinity mask, which lies within the cpuset of its control group.
    ///
    /// # Errors
    /// As [`allowed`].
    pub fn here() -> io::Result<Self> {
        Ok(Self::read(Path::new("/"), &allowed()?))
    }

    /// Of CPUs of which nothing else is known.
    #[must_use]
    pub fn unknown(allowed: &[usize]) -> Self {
        Self::read(Path::new("/nowhere"), allowed)
    }

    /// Of CPUs of which nothing else is known than whether they are isolated, from the one file at `root/sys` that says
    /// it.
    #[must_use]
    pub fn flat(root: &Path, allowed: &[usize]) -> Self {
        let isolated = read_list(&root.join("sys/devices/system/cpu"), "isolated").unwrap_or_default();
        let mut flat = Self::unknown(allowed);
        flat.cpus.iter_mut().for_each(|cpu| cpu.is_isolated = isolated.contains(&cpu.number));
        flat
    }

    /// For a process that may use the CPUs `allowed`, from the sysfs that is mounted, or recorded, at `root/sys`.
    #[must_use]
    pub fn read(root: &Path, allowed: &[usize]) -> Self {
        let system = root.join("sys/devices/system");
        let mut allowed = allowed.to_vec();
        allowed.sort_unstable();
        allowed.dedup();
        let mut nodes = read_nodes(&system.join("node"));
        let first = allowed.first().copied().unwrap_or(0);
        let isolated = read_list(&system.join("cpu"), "isolated").unwrap_or_default();
        let cpus = allowed.iter().map(|&number| Cpu {
            node: nodes.iter().find(|node| node.cpus.contains(&number)).map(|node| node.number),
            is_isolated: isolated.contains(&number),
            ..read_cpu(&system.join(format!("cpu/cpu{number}")), number, first)
        });
        let cpus = cpus.collect();
        nodes.iter_mut().for_each(|node| node.cpus.retain(|cpu| allowed.binary_search(cpu).is_ok()));
        Self { cpus, nodes }
    }

    /// The CPUs of each node that has any, by the nodes' numbers; then those that are of no node.
    #[must_use]
    pub fn cpus_by_node(&self) -> Vec<Vec<usize>> {
        let of_none = self.cpus.iter().filter(|cpu| cpu.node.is_none()).map(|cpu| cpu.number).collect();
        let lists = self.nodes.iter().map(|node| node.cpus.clone()).chain([of_none]);
        lists.filter(|cpus| !cpus.is_empty()).collect()
    }

    /// The node whose memory the CPUs of `node` are nearest to: itself if it has memory, else the nearest that has, by the
    /// kernel's distances; `None` if there is none.
    #[must_use]
    pub fn memory_node(&self, node: usize) -> Option<usize> {
        let from = self.nodes.iter().find(|other| other.number == node)?;
        let far = |index: usize| from.distances.get(index).copied().unwrap_or(u32::MAX);
        let with_memory = self.nodes.iter().enumerate().filter(|(_, other)| other.memory_bytes > 0);
        let nearest =
            with_memory.min_by_key(|(index, other)| (other.number != node, far(*index), other.number));
        nearest.map(|(_, other)| other.number)
    }
}

/// The CPUs that are online on the machine whose sysfs is at `root/sys`, ascending; none if it does not say.
#[must_use]
pub fn online(root: &Path) -> Vec<usize> {
    let folder = root.join("sys/devices/system/cpu");
    if let Some(list) = read_list(&folder, "online") {
        return list;
    }
    // Kernels before 2.6.26 have a folder for each CPU that is there, and a file in it that says whether it is online; the
    // first CPU has none.
    let is_online =
        |cpu: &usize| text(&folder.join(format!("cpu{cpu}")), "online").is_none_or(|on| on != "0");
    numbered(&folder, "cpu").into_iter().filter(is_online).collect()
}

/// `simple` names the groups that the kernel is silent about.
fn read_cpu(folder: &Path, number: usize, simple: usize) -> Cpu {
    let topology = folder.join("topology");
    let lowest = |names: &[&str]| {
        let lists = names.iter().filter_map(|name| read_group(&topology, name, number));
        lists.map(|cpus| cpus[0]).next()
    };
    let package = lowest(&["package_cpus", "core_siblings"]).unwrap_or(simple);
    Cpu {
        number,
        core: lowest(&["core_cpus", "thread_siblings"]).unwrap_or(number),
        cache: last_level_cache(&folder.join("cache"), number).unwrap_or(package),
        package,
        node: None,
        is_isolated: false,
    }
}

/// The lowest CPU that shares the last-level cache of `cpu`.
fn last_level_cache(folder: &Path, cpu: usize) -> Option<usize> {
    let indices = numbered(folder, "index").into_iter().map(|index| folder.join(format!("index{index}")));
    let caches = indices.filter_map(|cache| {
        let level: u32 = text(&cache, "level")?.parse().ok()?;
        let holds_data = text(&cache, "type").is_none_or(|kind| kind != "Instruction");
        Some((level, read_group(&cache, "shared_cpu", cpu).filter(|_| holds_data)?[0]))
    });
    caches.max_by_key(|&(level, _)| level).map(|(_, lowest)| lowest)
}

fn read_nodes(folder: &Path) -> Vec<Node> {
    let numbers = read_list(folder, "online").unwrap_or_else(|| numbered(folder, "node"));
    let nodes = numbers.into_iter().filter_map(|number| {
        let node = folder.join(format!("node{number}"));
        let cpus = read_list(&node, "cpulist").or_else(|| read_mask(&node, "cpumap"))?;
        let distances = text(&node, "distance").unwrap_or_default();
        let distances = distances.split_whitespace().map_while(|far| far.parse().ok()).collect();
        Some(Node { number, cpus, memory_bytes: memory_bytes(&node), distances })
    });
    let nodes: Vec<Node> = nodes.collect();
    let mut cpus: Vec<usize> = nodes.iter().flat_map(|node| node.cpus.iter().copied()).collect();
    cpus.sort_unstable();
    match cpus.windows(2).any(|pair| pair[0] == pair[1]) {
        true => Vec::new(),
        false => nodes,
    }
}

fn memory_bytes(node: &Path) -> u64 {
    let said = text(node, "meminfo").unwrap_or_default();
    let total = said.lines().find_map(|line| line.split_once("MemTotal:"));
    let kib = total.and_then(|(_, rest)| rest.split_whitespace().next()?.parse::<u64>().ok());
    kib.unwrap_or(0).saturating_mul(1024)
}

/// A group that has `cpu` in it, as a list or, on older kernels, as a mask: `NAME_list`, `NAME` or `NAME_map`.
fn read_group(folder: &Path, name: &str, cpu: usize) -> Option<Vec<usize>> {
    let group = read_list(folder, &format!("{name}_list"))
        .or_else(|| read_mask(folder, name))
        .or_else(|| read_mask(folder, &format!("{name}_map")));
    group.filter(|cpus| cpus.contains(&cpu))
}

fn read_list(folder: &Path, name: &str) -> Option<Vec<usize>> {
    list(&text(folder, name)?)
}

fn read_mask(folder: &Path, name: &str) -> Option<Vec<usize>> {
    mask(&text(folder, name)?)
}

/// A file's text, without the blanks around it. Recorded machines have zeros there.
fn text(folder: &Path, name: &str) -> Option<String> {
    let text = fs::read_to_string(folder.join(name)).ok()?;
    Some(text.trim_matches(|c: char| c.is_whitespace() || c == '\0').to_owned())
}

/// The numbers N for which the folder has an entry `prefixN`, ascending.
fn numbered(folder: &Path, prefix: &str) -> Vec<usize> {
    let entries = fs::read_dir(folder).into_iter().flatten().filter_map(Result::ok);
    let number = |entry: fs::DirEntry| entry.file_name().to_str()?.strip_prefix(prefix)?.parse().ok();
    let mut numbers: Vec<usize> = entries.filter_map(number).collect();
    numbers.sort_unstable();
    numbers
}

/// The numbers below [`CPU_LIMIT`] of a list such as `0-3,8,10-11`, ascending; `None` if it is no list, or one that
/// no kernel writes: of numbers from 8,192 on.
#[must_use]
pub fn list(text: &str) -> Option<Vec<usize>> {
    let mut numbers = Vec::new();
    for part in text.split(',').filter(|_| !text.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (usize, usize) = (first.parse().ok()?, last.parse().ok()?);
        if first > last || last >= KERNEL_LIMIT {
            return None;
        }
        numbers.extend(first..=last.min(CPU_LIMIT - 1));
    }
    numbers.sort_unstable();
    numbers.dedup();
    Some(numbers)
}

/// The numbers below [`CPU_LIMIT`] of a mask such as `00000001,0000000f`, whose last digit has CPUs 0 to 3; `None` if it is no
/// mask.
fn mask(text: &str) -> Option<Vec<usize>> {
    let digits: Vec<u32> =
        text.chars().rev().filter(|&c| c != ',').map(|c| c.to_digit(16)).collect::<Option<_>>()?;
    let bits = digits.iter().enumerate().flat_map(|(place, digit)| {
        (0..4).filter(move |bit| digit & (1 << bit) != 0).map(move |bit| place * 4 + bit)
    });
    Some(bits.take_while(|&cpu| cpu < CPU_LIMIT).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A sysfs of these files, each with its text.
    fn machine(files: &[(String, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().expect("a folder");
        for (path, text) in files {
            let file = root.path().join("sys/devices/system").join(path);
            fs::create_dir_all(file.parent().expect("a folder")).expect("a folder");
            fs::write(file, format!("{text}\n")).expect("a file");
        }
        root
    }

    /// The files of a CPU: its core's, its last-level cache's and its package's CPUs.
    fn cpu(number: usize, [core, cache, package]: [&'static str; 3]) -> Vec<(String, &'static str)> {
        let file = |path: &str, text| (format!("cpu/cpu{number}/{path}"), text);
        vec![
            file("topology/thread_siblings_list", core),
            file("topology/core_siblings_list", package),
            file("cache/index0/level", "1"),
            file("cache/index0/type", "Data"),
            file("cache/index0/shared_cpu_list", core),
            file("cache/index3/level", "3"),
            file("cache/index3/type", "Unified"),
            file("cache/index3/shared_cpu_list", cache),
        ]
    }

    fn node(number: usize, cpus: &'static str, memory: &'static str) -> Vec<(String, &'static str)> {
        let file = |name: &str, text| (format!("node/node{number}/{name}"), text);
        vec![file("cpulist", cpus), file("meminfo", memory)]
    }

    /// What is said of each CPU: number, core, cache, package, node.
    fn facts(topology: &Topology) -> Vec<(usize, [usize; 3], Option<usize>)> {
        topology.cpus.iter().map(|cpu| (cpu.number, [cpu.core, cpu.cache, cpu.package], cpu.node)).collect()
    }

    /// Two packages of two cores of two threads; the second package has a cache for each core. Node 2 has the second
    /// package, node 5 memory alone, node 7 neither; node 9 is offline.
    fn two_packages() -> tempfile::TempDir {
        let mut files = vec![("node/online".to_owned(), "0,2,5,7")];
        for (number, core) in [(0, "0,4"), (1, "1,5"), (4, "0,4"), (5, "1,5")] {
            files.extend(cpu(number, [core, "0-1,4-5", "0-1,4-5"]));
        }
        for (number, core) in [(2, "2,6"), (3, "3,7"), (6, "2,6"), (7, "3,7")] {
            files.extend(cpu(number, [core, core, "2-3,6-7"]));
        }
        files.extend(node(0, "0-1,4-5", "Node 0 MemTotal:       2048 kB\nNode 0 MemFree: 1 kB"));
        files.extend(node(2, "2-3,6-7", "Node 2 MemTotal:          0 kB"));
        files.extend(node(5, "", "Node 5 MemTotal:       4 kB"));
        files.extend(node(7, "", ""));
        files.extend(node(9, "", "Node 9 MemTotal:       4 kB"));
        files.push(("node/node2/distance".to_owned(), "20 10 15 30"));
        files.push(("cpu/isolated".to_owned(), "3,7"));
        machine(&files)
    }

    #[test]
    fn cores_caches_packages_and_nodes_are_found() {
        let machine = two_packages();
        let topology = Topology::read(machine.path(), &[7, 0, 1, 2, 3, 4, 5, 6, 6]);
        assert_eq!(
            facts(&topology),
            [
                (0, [0, 0, 0], Some(0)),
                (1, [1, 0, 0], Some(0)),
                (2, [2, 2, 2], Some(2)),
                (3, [3, 3, 2], Some(2)),
                (4, [0, 0, 0], Some(0)),
                (5, [1, 0, 0], Some(0)),
                (6, [2, 2, 2], Some(2)),
                (7, [3, 3, 2], Some(2)),
            ]
        );
        let nodes: Vec<_> = topology.nodes.iter().map(|n| (n.number, n.cpus.len(), n.memory_bytes)).collect();
        assert_eq!(nodes, [(0, 4, 2 << 20), (2, 4, 0), (5, 0, 4096), (7, 0, 0)]);
        assert_eq!(topology.cpus_by_node(), [vec![0, 1, 4, 5], vec![2, 3, 6, 7]]);
    }

    #[test]
    fn a_node_without_memory_has_a_nearest_one() {
        let topology = Topology::read(two_packages().path(), &[0, 2, 3, 7]);
        let isolated: Vec<usize> =
            topology.cpus.iter().filter(|cpu| cpu.is_isolated).map(|cpu| cpu.number).collect();
        assert_eq!(isolated, [3, 7]);
        let memory = [0, 2, 5, 7, 9].map(|node| topology.memory_node(node));
        assert_eq!(memory, [Some(0), Some(5), Some(5), Some(0), None], "node 7's distances are not known");
    }

    #[test]
    fn a_container_sees_its_cpus_in_the_groups_of_the_machine() {
        let topology = Topology::read(two_packages().path(), &[5, 7]);
        assert_eq!(facts(&topology), [(5, [1, 0, 0], Some(0)), (7, [3, 3, 2], Some(2))]);
        assert_eq!(topology.cpus_by_node(), [vec![5], vec![7]]);
        assert_eq!(Topology::read(two_packages().path(), &[3]).cpus_by_node(), [vec![3]]);
    }

    #[test]
    fn a_flat_machine_has_isolated_cpus() {
        let root = machine(&[("cpu/isolated".into(), "1-2")]);
        let flat = Topology::flat(root.path(), &[0, 2]);
        assert_eq!(flat.cpus.iter().map(|cpu| cpu.is_isolated).collect::<Vec<_>>(), [false, true]);
    }

    #[test]
    fn without_sysfs_cpus_are_cores_of_one_package() {
        let nothing = machine(&[]);
        let topology = Topology::read(nothing.path(), &[3, 5]);
        assert_eq!(facts(&topology), [(3, [3, 3, 3], None), (5, [5, 3, 3], None)]);
        assert_eq!((topology.nodes.len(), topology.cpus_by_node()), (0, vec![vec![3, 5]]));
        assert_eq!(Topology::read(nothing.path(), &[]).cpus_by_node(), Vec::<Vec<usize>>::new());
        assert_eq!(online(nothing.path()), Vec::<usize>::new());
    }

    #[test]
    fn an_old_kernel_has_masks_and_says_online_for_each_cpu() {
        let file = |path: &str, text| (path.to_owned(), text);
        let machine = machine(&[
            file("cpu/cpu0/topology/thread_siblings", "00000000,00000101"),
            file("cpu/cpu0/topology/core_siblings", "00000001,00000101"),
            file("cpu/cpu0/cache/index0/level", "2"),
            file("cpu/cpu0/cache/index0/shared_cpu_map", "00000000,00000101"),
            file("cpu/cpu8/online", "1"),
            file("cpu/cpu9/online", "0"),
            file("node/node0/cpumap", "00000001,00000101"),
        ]);
        assert_eq!(online(machine.path()), [0, 8]);
        let topology = Topology::read(machine.path(), &[0, 32]);
        assert_eq!(facts(&topology), [(0, [0, 0, 0], Some(0)), (32, [32, 0, 0], Some(0))]);
    }

    #[test]
    fn what_contradicts_itself_is_not_believed() {
        // A core without the CPU that says so, a node too many for a CPU, absurd numbers.
        let mut files = cpu(1, ["2-3", "0-", "0-99999999999"]);
        files.extend(node(0, "0-1", ""));
        files.extend(node(1, "1-2", ""));
        let topology = Topology::read(machine(&files).path(), &[1]);
        assert_eq!((facts(&topology), topology.nodes), (vec![(1, [1, 1, 1], None)], vec![]));
    }

    #[test]
    fn lists_and_masks_are_read_whole_or_not_at_all() {
        assert_eq!(list("0-2,8,10-11"), Some(vec![0, 1, 2, 8, 10, 11]));
        assert_eq!((list(""), list("1023")), (Some(vec![]), Some(vec![1023])));
        assert_eq!(list("7,1022-1025,2048,4000-8191"), Some(vec![7, 1022, 1023]), "a larger machine");
        for bad in ["8192", "3-1", "a", "1,", "-1", "1-2-3", "0-18446744073709551616"] {
            assert_eq!(list(bad), None, "{bad}");
        }
        assert_eq!(mask("00000001,80000003"), Some(vec![0, 1, 31, 32]));
        assert_eq!((mask("0"), mask("x")), (Some(vec![]), None));
        assert_eq!(mask(&format!("18{}", "0".repeat(255))), Some(vec![1023]), "CPUs 1023 and 1024");
    }

    #[test]
    fn this_machine_has_the_cpus_that_this_thread_may_use() {
        let topology = Topology::here().expect("this thread's mask");
        let numbers: Vec<usize> = topology.cpus.iter().map(|cpu| cpu.number).collect();
        assert_eq!(Some(numbers), allowed().ok());
        let mut by_node: Vec<usize> = topology.cpus_by_node().concat();
        by_node.sort_unstable();
        assert_eq!(Some(by_node), allowed().ok());
    }
}
