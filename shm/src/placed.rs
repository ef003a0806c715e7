//! Where a worker runs, and why there.

use serde::Serialize;
use std::fmt;

/// Where a worker runs.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Placed {
    /// The CPUs to which it is pinned, ascending; none: it is not pinned.
    pub cpus: Vec<usize>,
    /// The NUMA node of all these CPUs, if it is one, and the kernel names it.
    pub node: Option<usize>,
    /// Why there.
    pub why: Why,
}

impl Placed {
    /// Pinned to these CPUs, as its servlet lists them; not pinned, if there are none.
    #[must_use]
    pub fn listed(cpus: Vec<usize>) -> Self {
        let why = if cpus.is_empty() { Why::NotPinned } else { Why::Listed };
        Self { cpus, node: None, why }
    }
}

/// Declares [`Why`] and its numbers in a segment.
macro_rules! whys {
    ($($(#[$doc:meta])* $name:ident = $number:literal, $words:literal;)*) => {
        /// Why a worker runs on its CPUs. Shown, it is a phrase.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize)]
        #[serde(rename_all = "snake_case")]
        #[non_exhaustive]
        #[repr(u32)]
        pub enum Why {
            $($(#[$doc])* $name = $number,)*
        }

        impl Why {
            /// All, in the order of their numbers.
            pub const ALL: &[Self] = &[$(Self::$name),*];
        }

        impl fmt::Display for Why {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(match self {
                    $(Self::$name => $words,)*
                })
            }
        }
    };
}

whys! {
    /// Its servlet says how many workers there are, and not where.
    #[default]
    NotPinned = 0, "not pinned";
    /// The server pins no worker.
    PinningIsOff = 1, "not pinned: the server's pinning is off";
    /// Its servlet lists these CPUs.
    Listed = 2, "listed by its servlet";
    /// Its servlet names this NUMA node.
    OnNode = 3, "on the NUMA node that its servlet names";
    /// Its servlet has workers on each NUMA node.
    OnEachNode = 4, "one of its servlet's workers on each NUMA node";
    /// Cores that neither callers nor other workers have, on the last-level cache of the callers.
    OwnCore = 5, "a core of its own, on the callers' cache";
    /// Cores that neither callers nor other workers have, on another last-level cache: the callers' has none left.
    FarCore = 6, "a core of its own, on another cache than the callers'";
    /// CPUs that no other worker has, of cores that others have too: no core is left.
    Sibling = 7, "a CPU of its own on a core that others use too, since no core is left";
    /// CPUs that other workers, or the callers, have too: no CPU is left.
    Shared = 8, "a CPU that others use too, since no CPU is left";
}

impl Why {
    /// The reason of this number in a segment; [`NotPinned`](Self::NotPinned) for what is none.
    pub(crate) fn from_raw(raw: u32) -> Self {
        Self::ALL.iter().copied().find(|why| *why as u32 == raw).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_have_numbers_and_lines() {
        for (number, &why) in (0..).zip(Why::ALL) {
            assert_eq!((why as u32, Why::from_raw(number)), (number, why));
            assert!(!why.to_string().is_empty() && !why.to_string().contains('\n'));
        }
        assert_eq!(Why::from_raw(u32::MAX), Why::NotPinned);
    }
}
