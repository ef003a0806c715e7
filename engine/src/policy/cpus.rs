//! Which CPUs a servlet's workers run on.

use crate::error::StartError;
use ringmill_shm::sys::cpu;
use ringmill_shm::sys::settled::Settled;
use ringmill_shm::sys::topology::Topology;
use std::path::Path;
use std::str::FromStr;

/// The CPUs that this process may use, as the kernel said when this function was first called. Threads that are pinned
/// later do not change the answer.
#[must_use]
pub fn allowed() -> &'static [usize] {
    static ALLOWED: Settled<Vec<usize>> = Settled::new();
    // If the kernel does not answer: CPU 0, which every machine has.
    ALLOWED.get_or_make(|| cpu::allowed().unwrap_or_else(|_| vec![0]))
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
        cpus.dedup();
        Self(Some(cpus))
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
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Cpus {
    /// This number of workers, not pinned.
    Count(usize),
    /// One worker each, pinned as told.
    List(Vec<Pin>),
    /// One worker for each CPU that this process may use, pinned to it.
    Auto,
    /// One worker for each NUMA node that this process may use, pinned to its CPUs.
    PerNumaNode,
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

    /// One list of CPUs for each worker (empty: not pinned).
    pub(crate) fn resolve(&self, servlet: &str) -> Result<Vec<Vec<usize>>, StartError> {
        self.resolve_among(servlet, allowed())
    }

    fn resolve_among(&self, servlet: &str, allowed: &[usize]) -> Result<Vec<Vec<usize>>, StartError> {
        let most = ringmill_shm::doorbell::WORKER_LIMIT;
        let range = |what, value: usize, most: usize| StartError::Range {
            servlet: Some(servlet.into()),
            what,
            value: value as u64,
            least: 1,
            most: most as u64,
        };
        let workers = match self {
            Self::Count(count) if *count > most => return Err(range("number of workers", *count, most)),
            Self::Count(count) => vec![Vec::new(); *count],
            Self::Auto => allowed.iter().map(|&cpu| vec![cpu]).collect(),
            Self::PerNumaNode => Topology::read(Path::new("/"), allowed).cpus_by_node(),
            Self::List(pins) => pins.iter().map(|pin| pin.0.clone().unwrap_or_default()).collect(),
        };
        if workers.is_empty() || workers.len() > most {
            return Err(range("number of workers", workers.len(), most));
        }
        if let Self::List(pins) = self
            && pins.iter().any(|pin| pin.0.as_ref().is_some_and(Vec::is_empty))
        {
            return Err(range("number of CPUs of a pinned worker", 0, allowed.len()));
        }
        match workers.iter().flatten().find(|cpu| !allowed.contains(cpu)) {
            Some(&cpu) => Err(StartError::Cpu { servlet: servlet.into(), cpu, allowed: allowed.into() }),
            None => Ok(workers),
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
    "{text:?} does not say which CPUs: expected \"auto\", \"per-node\", or one entry a worker, separated by commas: a CPU (3), CPUs (0+1+2), a range (0-3), or * for any"
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
        match text {
            "auto" => Ok(Self::Auto),
            "per-node" => Ok(Self::PerNumaNode),
            _ => text
                .split(',')
                .map(|entry| pin(entry.trim()))
                .collect::<Option<Vec<_>>>()
                .map(Self::List)
                .ok_or_else(|| ParseCpusError { text: text.into() }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_parsed() {
        assert_eq!("0,1".parse(), Ok(Cpus::from([0, 1])));
        assert_eq!("0-2".parse(), Ok(Cpus::list([Pin::to([0, 1, 2])])));
        assert_eq!("auto".parse(), Ok(Cpus::Auto));
        for bad in ["", "x", "3-1", "1,,2", "-", "0+", "99999999"] {
            assert!(bad.parse::<Cpus>().is_err(), "{bad}");
        }
    }

    #[test]
    fn each_choice_gives_its_workers() {
        let allowed = [2, 3, 7];
        let workers = |cpus: Cpus| cpus.resolve_among("s", &allowed);
        assert_eq!(workers(Cpus::default()).unwrap(), [Vec::<usize>::new()]);
        assert_eq!(workers(Cpus::Auto).unwrap(), [[2], [3], [7]]);
        assert_eq!(workers(Cpus::list([Pin::to([7, 2, 2]), Pin::any()])).unwrap(), [vec![2, 7], vec![]]);
        let error = workers(Cpus::from([2, 5])).unwrap_err();
        assert_eq!(
            error.to_string(),
            "servlet s: CPU 5 is not among the CPUs this process may use (2, 3, 7)"
        );
        assert!(matches!(workers(Cpus::Count(0)), Err(StartError::Range { value: 0, .. })));
        assert!(matches!(workers(Cpus::Count(65)), Err(StartError::Range { value: 65, .. })));
        assert!(matches!(workers(Cpus::list([Pin::to([])])), Err(StartError::Range { .. })));
    }
}
