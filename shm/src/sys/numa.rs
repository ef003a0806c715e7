//! NUMA nodes as places of memory: from which node pages are to be taken, and on which they lie.
//!
//! By system calls and no library: `libnuma` is C, and no crate that is kept wraps these calls. A kernel or a machine
//! without nodes says so in a [`PolicyError`]; nothing here needs one.
#![expect(unsafe_code, reason = "mbind, set_mempolicy, get_mempolicy and move_pages by their numbers")]

use super::pages::page_bytes;
use super::topology::list;
use core::fmt;
use std::io;

/// Node numbers are below this, which is what the largest kernels allow (`MAX_NUMNODES`).
pub const NODE_LIMIT: usize = 1024;
const WORD_BITS: usize = u64::BITS as usize;
/// What the calls take as the length of a mask: one more than its bits.
const MASK_LENGTH: usize = NODE_LIMIT + 1;
/// What `libc` does not name: a mode, and flags of `get_mempolicy`.
const PREFERRED_MANY: libc::c_int = 5;
const OF_ADDRESS: libc::c_ulong = 1 << 1;
const OF_ALLOWED: libc::c_ulong = 1 << 2;
/// The flags that a mode carries: static and relative nodes, balancing.
const MODE_FLAGS: libc::c_int = 0b111 << 13;
/// The pages of which one call asks.
const PAGES_AT_ONCE: usize = 4096;

/// A set of node numbers, as the kernel takes it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Nodes([u64; NODE_LIMIT / WORD_BITS]);

impl Nodes {
    /// These nodes; `None` if a number is not below [`NODE_LIMIT`].
    #[must_use]
    pub fn new(numbers: impl IntoIterator<Item = usize>) -> Option<Self> {
        let mut nodes = Self::default();
        for number in numbers {
            *nodes.0.get_mut(number / WORD_BITS)? |= 1 << (number % WORD_BITS);
        }
        Some(nodes)
    }

    /// The numbers, ascending.
    pub fn iter(&self) -> impl Iterator<Item = usize> {
        (0..NODE_LIMIT).filter(|&number| self.contains(number))
    }

    /// Whether the set has this node.
    #[must_use]
    pub fn contains(&self, number: usize) -> bool {
        self.0.get(number / WORD_BITS).is_some_and(|word| word & (1 << (number % WORD_BITS)) != 0)
    }

    /// How many nodes it has.
    #[must_use]
    pub fn count(&self) -> usize {
        self.0.iter().map(|word| word.count_ones() as usize).sum()
    }
}

/// As `0,2,3`, or `none`.
impl fmt::Display for Nodes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let numbers: Vec<String> = self.iter().map(|number| number.to_string()).collect();
        f.write_str(if numbers.is_empty() { "none" } else { "" })?;
        f.write_str(&numbers.join(","))
    }
}

impl fmt::Debug for Nodes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Nodes({self})")
    }
}

/// From which node the kernel takes a page when it is first touched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Policy {
    /// As the thread that touches it has it; without any policy, from the node of that thread's CPU.
    Default,
    /// From this node, or from another if this one has no free page.
    Preferred(usize),
    /// From these alone. A thread that touches a page when they have none is killed, or gets SIGBUS.
    Bind(Nodes),
    /// From these in turn, page by page.
    Interleave(Nodes),
    /// As another program has set it: a mode that is none of these.
    Other(i32),
}

impl Policy {
    fn raw(&self) -> (libc::c_int, Nodes) {
        match *self {
            Self::Default => (libc::MPOL_DEFAULT, Nodes::default()),
            Self::Preferred(node) => (libc::MPOL_PREFERRED, Nodes::new([node]).unwrap_or_default()),
            Self::Bind(nodes) => (libc::MPOL_BIND, nodes),
            Self::Interleave(nodes) => (libc::MPOL_INTERLEAVE, nodes),
            Self::Other(mode) => (mode, Nodes::default()),
        }
    }

    fn from_raw(mode: libc::c_int, nodes: Nodes) -> Self {
        match mode & !MODE_FLAGS {
            libc::MPOL_DEFAULT | libc::MPOL_LOCAL => Self::Default,
            libc::MPOL_PREFERRED | PREFERRED_MANY if nodes.count() == 1 => {
                Self::Preferred(nodes.iter().next().expect("it has one"))
            }
            libc::MPOL_BIND => Self::Bind(nodes),
            libc::MPOL_INTERLEAVE => Self::Interleave(nodes),
            other => Self::Other(other),
        }
    }
}

/// As `numa_maps` writes it.
impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::Preferred(node) => write!(f, "prefer:{node}"),
            Self::Bind(nodes) => write!(f, "bind:{nodes}"),
            Self::Interleave(nodes) => write!(f, "interleave:{nodes}"),
            Self::Other(mode) => write!(f, "mode {mode}"),
        }
    }
}

/// Why a policy was not set.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PolicyError {
    /// This kernel has no nodes (`CONFIG_NUMA`), or no such policy.
    #[error("this kernel has no memory policies")]
    Unsupported,
    /// A filter of system calls refuses it, as containers have one.
    #[error(
        "this process may not set memory policies: a filter of its system calls refuses {call}; in a container, give it CAP_SYS_NICE"
    )]
    Refused {
        /// The system call.
        call: &'static str,
    },
    /// No page can be taken from the nodes of the policy.
    #[error("policy {policy} names no node of which this process may have memory (it may: {allowed})")]
    Nodes {
        /// The policy.
        policy: Box<Policy>,
        /// The nodes with memory that the cpuset allows.
        allowed: Box<Nodes>,
    },
    /// The operating system refused.
    #[error("cannot set policy {policy} by {call}: {error}")]
    System {
        /// The system call.
        call: &'static str,
        /// The policy.
        policy: Box<Policy>,
        /// What the system said.
        error: io::Error,
    },
}

impl PolicyError {
    fn last(call: &'static str, policy: Policy) -> Self {
        let error = io::Error::last_os_error();
        let names_none = |allowed: &Nodes| !policy.raw().1.iter().any(|node| allowed.contains(node));
        let policy = Box::new(policy);
        match error.raw_os_error() {
            Some(libc::ENOSYS) => Self::Unsupported,
            Some(libc::EPERM | libc::EACCES) => Self::Refused { call },
            Some(libc::EINVAL) => match allowed_nodes().ok().filter(names_none) {
                Some(allowed) => Self::Nodes { policy, allowed: Box::new(allowed) },
                None => Self::System { call, policy, error },
            },
            _ => Self::System { call, policy, error },
        }
    }
}

/// Sets the policy of the pages from `first` on, for those that nothing has touched yet. In a mapping of shared memory it is
/// the memory's own, for all processes. Of a file on a device it has no effect.
///
/// # Errors
/// `EINVAL` also if `first` does not begin a page, `EFAULT` if nothing is mapped there.
pub fn set_policy(first: *const u8, bytes: usize, policy: Policy) -> Result<(), PolicyError> {
    let (mode, nodes) = policy.raw();
    // SAFETY: the call changes no byte, and refuses what is not mapped; the mask lives, and has as many bits as it says.
    let result = unsafe {
        libc::syscall(libc::SYS_mbind, first.addr(), bytes, mode, nodes.0.as_ptr(), MASK_LENGTH, 0_usize)
    };
    if result == 0 { Ok(()) } else { Err(PolicyError::last("mbind", policy)) }
}

/// Sets the policy of the calling thread, for all pages without one of their own that it is the first to touch. Threads and
/// processes that it starts inherit it.
///
/// # Errors
/// If the kernel, or a filter, refuses it.
pub fn set_thread_policy(policy: Policy) -> Result<(), PolicyError> {
    let (mode, nodes) = policy.raw();
    // SAFETY: the mask lives, and has as many bits as it says.
    let result = unsafe { libc::syscall(libc::SYS_set_mempolicy, mode, nodes.0.as_ptr(), MASK_LENGTH) };
    if result == 0 { Ok(()) } else { Err(PolicyError::last("set_mempolicy", policy)) }
}

/// The policy of the calling thread.
///
/// # Errors
/// `ENOSYS`, or `EPERM` where a filter refuses it.
pub fn thread_policy() -> io::Result<Policy> {
    let (mode, nodes) = ask(core::ptr::null(), 0)?;
    Ok(Policy::from_raw(mode, nodes))
}

/// The policy of the page at this address: its own, or else the calling thread's.
///
/// # Errors
/// As [`thread_policy`]; `EFAULT` if nothing is mapped there.
pub fn policy_at(address: *const u8) -> io::Result<Policy> {
    let (mode, nodes) = ask(address, OF_ADDRESS)?;
    Ok(Policy::from_raw(mode, nodes))
}

/// The nodes with memory of which this process may have some, or, if a filter does not let the kernel say, those of the
/// machine. A kernel without nodes has one, number 0.
#[must_use]
pub fn nodes_with_memory() -> Nodes {
    let of_machine = || {
        let text = std::fs::read_to_string("/sys/devices/system/node/has_memory").ok()?;
        Nodes::new(list(text.trim())?)
    };
    let nodes = allowed_nodes().ok().or_else(of_machine).filter(|nodes| nodes.count() > 0);
    nodes.unwrap_or_else(|| Nodes::new([0]).expect("it is below the limit"))
}

/// The nodes with memory of which this process may have some, as the kernel says.
///
/// # Errors
/// As [`thread_policy`].
pub fn allowed_nodes() -> io::Result<Nodes> {
    Ok(ask(core::ptr::null(), OF_ALLOWED)?.1)
}

fn ask(address: *const u8, flags: libc::c_ulong) -> io::Result<(libc::c_int, Nodes)> {
    let (mut mode, mut nodes): (libc::c_int, _) = (0, Nodes::default());
    // SAFETY: both places live, and the mask has as many bits as the call is told.
    let result = unsafe {
        libc::syscall(
            libc::SYS_get_mempolicy,
            &raw mut mode,
            nodes.0.as_mut_ptr(),
            MASK_LENGTH,
            address.addr(),
            flags,
        )
    };
    if result == 0 { Ok((mode, nodes)) } else { Err(io::Error::last_os_error()) }
}

/// The node on which each page lies, from that of `first` on; none for a page that this process has not touched, since it
/// is in no table of this process. Nothing is moved, and no page is touched.
///
/// # Errors
/// `ENOSYS`, or `EPERM` where a filter refuses it.
pub fn nodes_of_pages(first: *const u8, bytes: usize) -> io::Result<Vec<Option<usize>>> {
    let page = page_bytes();
    let before = first.addr() % page;
    let first = first.wrapping_sub(before);
    let pages: Vec<*const u8> = (0..before + bytes).step_by(page).map(|at| first.wrapping_add(at)).collect();
    nodes_of(&pages)
}

/// The node of each of these pages, as [`nodes_of_pages`].
///
/// # Errors
/// As [`nodes_of_pages`].
pub fn nodes_of(addresses: &[*const u8]) -> io::Result<Vec<Option<usize>>> {
    let mut statuses = vec![0 as libc::c_int; addresses.len()];
    for (addresses, statuses) in addresses.chunks(PAGES_AT_ONCE).zip(statuses.chunks_mut(PAGES_AT_ONCE)) {
        // SAFETY: both arrays live and have as many elements as the call is told; without nodes it only looks.
        let result = unsafe {
            libc::syscall(
                libc::SYS_move_pages,
                0_usize, // of this process
                addresses.len(),
                addresses.as_ptr(),
                core::ptr::null::<libc::c_int>(),
                statuses.as_mut_ptr(),
                0_usize,
            )
        };
        if result < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    // Below 0: an error of this page alone.
    Ok(statuses.into_iter().map(|status| usize::try_from(status).ok()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use memmap2::MmapMut;

    #[test]
    fn sets_of_nodes_hold_the_numbers_below_the_limit() {
        let nodes = Nodes::new([0, 63, 64, 1023, 64]).unwrap();
        assert_eq!(nodes.iter().collect::<Vec<_>>(), [0, 63, 64, 1023]);
        assert_eq!((nodes.count(), nodes.to_string()), (4, "0,63,64,1023".to_owned()));
        assert!(!nodes.contains(1) && !nodes.contains(NODE_LIMIT));
        assert_eq!(Nodes::new([NODE_LIMIT]), None);
        assert_eq!(Nodes::default().to_string(), "none");
    }

    #[test]
    fn policies_are_read_as_they_are_set() {
        let nodes = Nodes::new([1, 3]).unwrap();
        for policy in [Policy::Default, Policy::Preferred(7), Policy::Bind(nodes), Policy::Interleave(nodes)]
        {
            let (mode, nodes) = policy.raw();
            assert_eq!(Policy::from_raw(mode, nodes), policy);
            assert_eq!(Policy::from_raw(mode | libc::MPOL_F_STATIC_NODES, nodes), policy);
        }
        assert_eq!(Policy::from_raw(libc::MPOL_LOCAL, Nodes::default()), Policy::Default);
        assert_eq!(Policy::from_raw(77, nodes), Policy::Other(77));
        assert_eq!(Policy::Interleave(nodes).to_string(), "interleave:1,3");
    }

    /// Tests with several nodes are in `tests/tests/numa`.
    #[test]
    fn pages_lie_on_the_node_that_they_are_bound_to() {
        let page = page_bytes();
        let Ok(allowed) = allowed_nodes() else { return }; // no such calls
        let node = allowed.iter().next().expect("some memory");
        let mut memory = MmapMut::map_anon(3 * page).unwrap();
        set_policy(memory.as_ptr(), 3 * page, Policy::Bind(Nodes::new([node]).unwrap())).unwrap();
        memory[page] = 1;
        assert_eq!(nodes_of_pages(memory.as_ptr(), 3 * page).unwrap(), [None, Some(node), None]);
        assert_eq!(nodes_of_pages(memory[page + 1..].as_ptr(), 1).unwrap(), [Some(node)]);
        assert_eq!(policy_at(memory.as_ptr()).unwrap(), Policy::Bind(Nodes::new([node]).unwrap()));
    }

    #[test]
    fn a_node_without_memory_is_named_with_those_that_have_some() {
        let Ok(allowed) = allowed_nodes() else { return };
        let absent = (0..NODE_LIMIT).rev().find(|&node| !allowed.contains(node)).expect("one of the 1024");
        let memory = MmapMut::map_anon(page_bytes()).unwrap();
        let error = set_policy(memory.as_ptr(), memory.len(), Policy::Preferred(absent)).unwrap_err();
        assert!(matches!(error, PolicyError::Nodes { .. }), "{error}");
        let text = error.to_string();
        let expected = format!(
            "policy prefer:{absent} names no node of which this process may have memory (it may: {allowed})"
        );
        assert_eq!(text, expected);
    }

    #[test]
    fn what_is_not_mapped_is_an_error_of_the_system() {
        if allowed_nodes().is_err() {
            return;
        }
        let error = set_policy(core::ptr::null(), page_bytes(), Policy::Default).unwrap_err();
        assert!(matches!(error, PolicyError::System { call: "mbind", .. }), "{error}");
        assert_eq!(nodes_of_pages(core::ptr::null(), page_bytes()).unwrap(), [None]);
    }
}
