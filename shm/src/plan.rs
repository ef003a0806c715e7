//! Where tasks go: the routes of a plan, as they lie in a segment.
//!
//! A node says where its finished tasks go. A *fork* gives a task branches, one for each of its members,
//! and says where the task goes when they have been joined. A *switch* names the places that an item may go
//! to; which one, user code decides. Whoever has finished a task follows these; nobody else moves it.
//!
//! # Layout
//!
//! ```text
//! target:  u32   node index │ fork index with bits 31..30 = 10 │ switch index with 01 │ all ones = end
//! member of a fork, 3 × u32:  entry target │ bytes and alignment of the last part of its outcome
//! ```
//!
//! A request's tasks have *places*: 0 is the request itself, place b + 1 is branch b. Branches are numbered
//! so that those of a fork, and then those of all forks within its members, follow each other: `first`,
//! `first + members`, `end`. So a task is at most once at each node, and has its own place in each fork.
//!
//! # Invariants
//!
//! * *a tree*: each branch belongs to one fork, whose own task's place comes before it. So the way up from
//!   a branch ends; and its family is what is below it, nothing else. Checked at attach, like the range of
//!   every index.

use serde::Serialize;

/// Where a task goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Target {
    /// Nowhere: a request to its caller, a branch to where it is joined.
    End,
    /// Into this node's ring.
    Node(u32),
    /// It is forked.
    Fork(u32),
    /// To one of a switch's members.
    Switch(u32),
}

const KIND: u32 = 0b11 << 30;
const FORK: u32 = 0b10 << 30;
const SWITCH: u32 = 0b01 << 30;

impl Target {
    /// As it lies in a segment.
    #[must_use]
    pub fn raw(self) -> u32 {
        match self {
            Self::End => u32::MAX,
            Self::Node(index) => index,
            Self::Fork(index) => FORK | index,
            Self::Switch(index) => SWITCH | index,
        }
    }

    /// What lies in a segment; the index is not checked.
    #[must_use]
    pub fn from_raw(raw: u32) -> Self {
        match raw & KIND {
            0 => Self::Node(raw),
            FORK => Self::Fork(raw & !KIND),
            SWITCH => Self::Switch(raw & !KIND),
            _ => Self::End,
        }
    }
}

/// A member of a fork.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Member {
    /// Where its branch goes first.
    pub entry: Target,
    /// How many bytes the last part of its outcome's payload has, by which the whole is reached.
    pub root_bytes: u32,
    /// The alignment of that part.
    pub root_align: u32,
}

/// A fork of a plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fork {
    /// The servlet's name.
    pub name: String,
    /// The first error of a branch decides, and the others are not waited for.
    pub fail_fast: bool,
    /// How outcomes are put together; for the layer above.
    pub form: u32,
    /// The place of the task that is forked.
    pub parent: u32,
    /// Its first branch.
    pub first: u32,
    /// The branch after the last of forks within its members.
    pub end: u32,
    /// Where the task goes when it has been joined.
    pub next: Target,
    /// Its members, a branch for each.
    pub members: Vec<Member>,
}

impl Fork {
    /// Its branches.
    #[must_use]
    pub fn branches(&self) -> core::ops::Range<u32> {
        self.first..self.first + self.members.len() as u32
    }

    /// Its branches, and those of forks within its members.
    #[must_use]
    pub fn family(&self) -> core::ops::Range<u32> {
        self.first..self.end
    }
}

/// A switch of a plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Switch {
    /// The servlet's name.
    pub name: String,
    /// The node whose workers choose, for those that cannot themselves.
    pub node: Option<u32>,
    /// Where an item may go.
    pub members: Vec<Target>,
}

/// The routes of a plan.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Routes {
    /// Forks, in the order of their first branches.
    pub forks: Vec<Fork>,
    /// Switches.
    pub switches: Vec<Switch>,
    /// Which fork each branch belongs to.
    fork_of: Vec<u32>,
}

impl Routes {
    /// Checks routes of a plan with so many nodes and branches, whose nodes go on to `nexts`.
    ///
    /// # Errors
    /// What is wrong with them, in words.
    pub fn new(
        forks: Vec<Fork>,
        switches: Vec<Switch>,
        nexts: &[Target],
        branches: u32,
    ) -> Result<Self, String> {
        let exists = |target: Target| match target {
            Target::End => true,
            Target::Node(index) => (index as usize) < nexts.len(),
            Target::Fork(index) => (index as usize) < forks.len(),
            Target::Switch(index) => (index as usize) < switches.len(),
        };
        for (index, next) in nexts.iter().enumerate() {
            if !exists(*next) {
                return Err(format!("node {index} goes on to {next:?}, which does not exist"));
            }
        }
        let mut fork_of = vec![u32::MAX; branches as usize];
        for (index, fork) in (0_u32..).zip(&forks) {
            let members = fork.members.len() as u64;
            let inside = members > 0
                && u64::from(fork.first) + members <= u64::from(fork.end)
                && fork.end <= branches
                && fork.parent <= fork.first;
            if !inside {
                return Err(format!("fork {index} has branches that it cannot have"));
            }
            for branch in fork.branches() {
                let owner = &mut fork_of[branch as usize];
                if *owner != u32::MAX {
                    return Err(format!("branch {branch} belongs to two forks"));
                }
                *owner = index;
            }
            if !exists(fork.next) || !fork.members.iter().all(|m| exists(m.entry)) {
                return Err(format!("fork {index} goes on to what does not exist"));
            }
            if fork.members.iter().any(|m| !m.root_align.is_power_of_two() || m.root_align > 16) {
                return Err(format!("fork {index} has a member of an impossible alignment"));
            }
        }
        if let Some(branch) = fork_of.iter().position(|&fork| fork == u32::MAX) {
            return Err(format!("branch {branch} belongs to no fork"));
        }
        for (index, switch) in (0_u32..).zip(&switches) {
            let node = switch.node.is_none_or(|node| exists(Target::Node(node)));
            if switch.members.is_empty() || !node || !switch.members.iter().copied().all(exists) {
                return Err(format!("switch {index} goes on to what does not exist"));
            }
            let back = |member: &Target| matches!(member, Target::Switch(other) if *other <= index);
            if switch.members.iter().any(back) {
                return Err(format!("switch {index} goes back to itself or to one before it"));
            }
        }
        let routes = Self { forks, switches, fork_of };
        routes.check_families(branches)?;
        Ok(routes)
    }

    /// Whether each fork's family is its branches and those of forks within: else it could be joined while a
    /// branch within is under way.
    fn check_families(&self, branches: u32) -> Result<(), String> {
        let mut sizes = vec![0_u32; self.forks.len()];
        for branch in 0..branches {
            let mut place = branch + 1;
            while let Some((index, fork)) = self.around(place) {
                if !fork.family().contains(&branch) {
                    return Err(format!("branch {branch} is not in the family of fork {index} above it"));
                }
                sizes[index as usize] += 1;
                place = fork.parent; // nearer to 0: checked above
            }
        }
        let whole = |(fork, &size): (&Fork, &u32)| fork.end - fork.first == size;
        match self.forks.iter().zip(&sizes).position(|pair| !whole(pair)) {
            None => Ok(()),
            Some(index) => Err(format!("fork {index} has branches in its family that are not below it")),
        }
    }

    /// The fork that a branch belongs to.
    #[inline]
    #[must_use]
    pub fn fork_of(&self, branch: u32) -> Option<(u32, &Fork)> {
        let index = *self.fork_of.get(branch as usize)?;
        Some((index, self.forks.get(index as usize)?))
    }

    /// The fork that forks the task in `place`, where that is a branch, belongs to.
    #[inline]
    #[must_use]
    pub fn around(&self, place: u32) -> Option<(u32, &Fork)> {
        self.fork_of(place.checked_sub(1)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fork(parent: u32, first: u32, members: usize, end: u32) -> Fork {
        let member = Member { entry: Target::Node(0), root_bytes: 4, root_align: 4 };
        let members = vec![member; members];
        Fork { name: "f".into(), fail_fast: true, form: 0, parent, first, end, next: Target::End, members }
    }

    #[test]
    fn targets_round_trip() {
        let last = (1 << 30) - 2;
        for target in
            [Target::End, Target::Node(0), Target::Node(last), Target::Fork(last), Target::Switch(0)]
        {
            assert_eq!(Target::from_raw(target.raw()), target);
        }
    }

    #[test]
    fn a_tree_knows_its_ways_up() {
        let routes =
            Routes::new(vec![fork(0, 0, 2, 5), fork(2, 2, 3, 5)], vec![], &[Target::End], 5).unwrap();
        let outer = |place| routes.around(place).map(|(index, _)| index);
        assert_eq!((outer(0), outer(1), outer(2), outer(3)), (None, Some(0), Some(0), Some(1)));
        assert_eq!(routes.forks[0].family(), 0..5);
    }

    #[test]
    fn what_is_no_tree_is_refused() {
        let refused =
            |forks: Vec<Fork>, branches| Routes::new(forks, vec![], &[Target::End], branches).unwrap_err();
        assert!(refused(vec![fork(0, 0, 0, 0)], 0).contains("fork 0"), "without members");
        assert!(refused(vec![fork(0, 0, 2, 1)], 2).contains("fork 0"), "a family smaller than its members");
        assert!(refused(vec![fork(3, 0, 2, 2)], 2).contains("fork 0"), "its own descendant");
        assert!(refused(vec![fork(0, 0, 2, 2), fork(0, 1, 1, 2)], 2).contains("two forks"));
        assert!(refused(vec![fork(0, 0, 1, 1)], 2).contains("no fork"));
        let outside = refused(vec![fork(0, 0, 2, 2), fork(1, 2, 1, 3)], 3);
        assert!(outside.contains("not in the family of fork 0"), "{outside}");
        let strangers = refused(vec![fork(0, 0, 2, 3), fork(0, 2, 1, 3)], 3);
        assert!(strangers.contains("not below it"), "{strangers}");
        let mut stray = fork(0, 0, 1, 1);
        stray.next = Target::Node(1);
        assert!(refused(vec![stray], 1).contains("does not exist"));
        let switch = Switch { name: "s".into(), node: None, members: vec![Target::Switch(1)] };
        assert!(Routes::new(vec![], vec![switch], &[Target::End], 0).is_err());
        let switch = Switch { name: "s".into(), node: None, members: vec![Target::Switch(0)] };
        assert!(Routes::new(vec![], vec![switch], &[Target::End], 0).unwrap_err().contains("goes back"));
        assert!(Routes::new(vec![], vec![], &[Target::Fork(0)], 0).is_err());
    }
}
