//! Which CPUs a servlet's workers run on.

use ringmill_shm::doorbell::WORKER_LIMIT;
use ringmill_shm::sys::cpu;
use ringmill_shm::sys::settled::Settled;
use std::io;
use std::str::FromStr;

static ALLOWED: Settled<Vec<usize>> = Settled::new();

/// In a worker's process: what its server may use.
static LEARNT: Settled<Vec<usize>> = Settled::new();

/// The CPUs that this process may use, as the kernel said when this function was first called; in a worker's process,
/// which is started on its own CPUs, those that the server's may use, from `main` on. Threads that are pinned later do not
/// change the answer. CPUs from number 1024 on are left out.
#[must_use]
pub fn allowed() -> &'static [usize] {
    // If the kernel does not answer: CPU 0, which every machine has.
    LEARNT.get().unwrap_or_else(|| ALLOWED.get_or_make(|| cpu::allowed().unwrap_or_else(|_| vec![0])))
}

/// Those of [`allowed`] that this process may use now: the cpuset of its control group may have become smaller.
pub(crate) fn still_allowed() -> Vec<usize> {
    let first = allowed();
    match cpu::allowed() {
        Ok(here) if here == first => here,
        // This thread is pinned, or CPUs were taken away.
        _ => cpu::usable(first).unwrap_or_else(|_| first.to_vec()),
    }
}

/// Lets the calling thread, and threads that it starts later, run on `cpus` only. What [`allowed`] says stays the same.
///
/// # Errors
/// `EINVAL` if none of `cpus` may be used by this process, or one is not below 1024.
pub fn pin_thread(cpus: &[usize]) -> io::Result<()> {
    let _ = allowed(); // before the thread is pinned
    cpu::pin_thread(cpus)
}

/// Makes these what [`allowed`] says from now on, whatever a constructor of the program was told before; unless there are none,
/// or this was called before.
pub(crate) fn learn(cpus: Vec<usize>) {
    if !cpus.is_empty() {
        let _ = LEARNT.set(cpus);
    }
}

/// The CPUs of one worker: a set to which it is pinned, or any.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Pin(Option<Vec<usize>>);

impl Pin {
    /// Not pinned.
    #[must_use]
    pub fn any() -> Self {
        Self(None)
    }

    /// Pinned to these CPUs.
    #[must_use]
    pub fn to(cpus: impl IntoIterator<Item = usize>) -> Self {
        let mut cpus: Vec<usize> = cpus.into_iter().collect();
        cpus.sort_unstable();
        Self(Some(cpus))
    }

    /// The CPUs as they were listed, ascending; `None`: not pinned.
    pub(crate) fn cpus(&self) -> Option<&[usize]> {
        self.0.as_deref()
    }
}

impl From<usize> for Pin {
    fn from(cpu: usize) -> Self {
        Self::to([cpu])
    }
}

impl<const N: usize> From<[usize; N]> for Pin {
    fn from(cpus: [usize; N]) -> Self {
        Self::to(cpus)
    }
}

impl From<Vec<usize>> for Pin {
    fn from(cpus: Vec<usize>) -> Self {
        Self::to(cpus)
    }
}

impl<T: Into<Self>> From<Option<T>> for Pin {
    fn from(cpus: Option<T>) -> Self {
        cpus.map_or(Self::any(), Into::into)
    }
}

/// How many workers a servlet has, and where each runs.
///
/// ```
/// use ringmill::Cpus;
/// use ringmill::servlet::Pin;
/// let three_unpinned = Cpus::from(3);
/// let two_pinned = Cpus::from([0, 1]);
/// let mixed = Cpus::list([Pin::to([0, 1, 2]), Pin::to([0]), Pin::from(4), Pin::any()]);
/// assert_eq!("0+1+2,0,4,*".parse(), Ok(mixed));
/// let chosen_by_the_server = Cpus::auto();
/// let four_chosen_by_the_server = Cpus::auto().workers(4);
/// let two_on_each_node = Cpus::per_numa_node(2);
/// let three_on_one_node = Cpus::node(1).workers(3);
/// assert_eq!("node1=3".parse(), Ok(three_on_one_node));
/// ```
///
/// All servlets of a server are placed together, before any worker starts.
/// [`Server::placement`](crate::Server::placement) says where each worker runs and why; the chapter
/// [placement](crate::placement) what the choices are for.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Cpus {
    /// This number of workers, not pinned.
    Count(usize),
    /// One worker each, pinned as told.
    List(Vec<Pin>),
    /// See [`Cpus::auto`]. `None`: as many workers as there are cores for them.
    Auto(Option<usize>),
    /// See [`Cpus::per_numa_node`]: this number of workers on each node.
    PerNumaNode(usize),
    /// See [`Cpus::node`].
    Node {
        /// The node, as `numactl` numbers it.
        node: usize,
        /// How many workers there are.
        workers: usize,
    },
}

impl Default for Cpus {
    /// One worker, not pinned.
    fn default() -> Self {
        Self::Count(1)
    }
}

impl Cpus {
    /// One worker each, pinned as told.
    #[must_use]
    pub fn list(pins: impl IntoIterator<Item = Pin>) -> Self {
        Self::List(pins.into_iter().collect())
    }

    /// Workers on cores that the server chooses: each on one of its own (with
    /// [`stream_threads`](crate::ProcessServlet::stream_threads) on as many as it has threads), none on the callers'
    /// core, none beside another on one core's hardware threads. The cores of one last-level cache are taken before
    /// those of the next, beginning with the callers', in the order of the pipeline, so that stages which hand items on
    /// share a cache.
    ///
    /// Unless [`workers`](Self::workers) says how many, all cores that remain are shared out among the servlets that
    /// ask for this, at least one worker each and 64 at most. If there are more workers than cores, they share: first
    /// cores, then CPUs. Where the callers run, [`ServerBuilder::callers_on`](crate::ServerBuilder::callers_on) says.
    #[must_use]
    pub fn auto() -> Self {
        Self::Auto(None)
    }

    /// This number of workers on each NUMA node that has CPUs which this process may use, pinned to these CPUs, within
    /// which the kernel moves them. Where the kernel names no nodes, all CPUs are one.
    #[must_use]
    pub fn per_numa_node(workers: usize) -> Self {
        Self::PerNumaNode(workers)
    }

    /// One worker, or as many as [`workers`](Self::workers) says, on one NUMA node, as `numactl` numbers it: pinned to
    /// those of its CPUs which this process may use. Where the kernel names no nodes, node 0 has all CPUs.
    #[must_use]
    pub fn node(node: usize) -> Self {
        Self::Node { node, workers: 1 }
    }

    /// This number of workers: of a list, its entries in turn; of [`per_numa_node`](Self::per_numa_node), on each node.
    #[must_use]
    pub fn workers(self, workers: usize) -> Self {
        match self {
            Self::Count(_) => Self::Count(workers),
            // One more than a servlet may have is refused as any larger number is.
            Self::List(pins) => {
                Self::List(pins.iter().cycle().take(workers.min(WORKER_LIMIT + 1)).cloned().collect())
            }
            Self::Auto(_) => Self::Auto(Some(workers)),
            Self::PerNumaNode(_) => Self::PerNumaNode(workers),
            Self::Node { node, .. } => Self::Node { node, workers },
        }
    }
}

impl From<usize> for Cpus {
    fn from(count: usize) -> Self {
        Self::Count(count)
    }
}

impl<T: Into<Pin>, const N: usize> From<[T; N]> for Cpus {
    fn from(pins: [T; N]) -> Self {
        Self::list(pins.map(Into::into))
    }
}

impl<T: Into<Pin>> From<Vec<T>> for Cpus {
    fn from(pins: Vec<T>) -> Self {
        Self::list(pins.into_iter().map(Into::into))
    }
}

/// The error for a text that does not say which CPUs.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{text:?} does not say which CPUs: expected \"auto\", \"per-node\", a node (\"node1\"), each perhaps with a number of workers (\"auto=4\"), or one entry a worker, separated by commas: a CPU (3), CPUs (0+1+2), a range (0-3), or * for any"
)]
pub struct ParseCpusError {
    text: String,
}

impl FromStr for Cpus {
    type Err = ParseCpusError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let pin = |entry: &str| -> Option<Pin> {
            if entry == "*" {
                return Some(Pin::any());
            }
            let mut cpus = Vec::new();
            for part in entry.split('+') {
                let (first, last) = part.split_once('-').unwrap_or((part, part));
                let (first, last): (usize, usize) = (first.parse().ok()?, last.parse().ok()?);
                if first > last || last >= cpu::CPU_LIMIT {
                    return None;
                }
                cpus.extend(first..=last);
            }
            Some(Pin::to(cpus))
        };
        let (choice, workers) = match text.split_once('=') {
            Some((choice, workers)) => (choice, workers.parse().ok().map(Some)),
            None => (text, Some(None)),
        };
        let chosen = match choice {
            "auto" => Some(Self::auto()),
            "per-node" => Some(Self::per_numa_node(1)),
            _ => choice.strip_prefix("node").and_then(|node| node.parse().ok()).map(Self::node),
        };
        let parsed = match (chosen, workers) {
            (Some(chosen), Some(Some(workers))) => Some(chosen.workers(workers)),
            (Some(chosen), Some(None)) => Some(chosen),
            (Some(_), None) => None,
            (None, _) => {
                text.split(',').map(|entry| pin(entry.trim())).collect::<Option<Vec<_>>>().map(Self::List)
            }
        };
        parsed.ok_or_else(|| ParseCpusError { text: text.into() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_parsed() {
        assert_eq!("0,1".parse(), Ok(Cpus::from([0, 1])));
        assert_eq!("0-2".parse(), Ok(Cpus::list([Pin::to([0, 1, 2])])));
        assert_eq!(("auto".parse(), "auto=3".parse()), (Ok(Cpus::auto()), Ok(Cpus::auto().workers(3))));
        assert_eq!("per-node=2".parse(), Ok(Cpus::per_numa_node(2)));
        assert_eq!(("node3".parse(), "node3=2".parse()), (Ok(Cpus::node(3)), Ok(Cpus::node(3).workers(2))));
        for bad in [
            "", "x", "3-1", "1,,2", "-", "-1", "0+", "99999999", "auto=", "auto=-1", "=3", "node", "node-1",
            "0=2",
        ] {
            let error = bad.parse::<Cpus>().expect_err(bad).to_string();
            assert!(error.starts_with(&format!("{bad:?} does not say")), "{error}");
        }
    }

    #[test]
    fn a_list_of_more_workers_is_gone_through_again() {
        let three = Cpus::list([Pin::from(4), Pin::any()]).workers(3);
        assert_eq!(three, Cpus::list([Pin::from(4), Pin::any(), Pin::from(4)]));
        let Cpus::List(none) = Cpus::list([]).workers(3) else { panic!("a list") };
        let Cpus::List(absurd) = Cpus::from([1]).workers(usize::MAX) else { panic!("a list") };
        assert_eq!((none.len(), absurd.len()), (0, WORKER_LIMIT + 1));
    }
}
