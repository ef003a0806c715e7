//! Where tasks go: the routes of a plan, as they lie in a segment.
//!
//! A node says where its finished tasks go. A *fork* gives a task branches, one for each of its members, and says where
//! the task goes when they have been joined. A *switch* names the targets that an item may go to, of which user code
//! chooses one. The participant that has finished a task follows these routes; no other moves the task.
//!
//! # Layout
//!
//! ```text
//! target:  u32   node index │ fork index with bits 31..30 = 10 │ switch index with 01 │ all ones = end
//! member of a fork, 3 × u32:  entry target │ bytes and alignment of the last part of its outcome
//! ```
//!
//! A request's tasks have *slots*: 0 is the request itself, slot b + 1 is branch b. Branches are numbered so that those
//! of a fork, and then those of all forks within its members, follow each other: `first`, `first + members`, `end`. So
//! a task is at most once at each node, and has its own slot in each fork.
//!
//! # Invariants
//!
//! * `[a tree]`: each branch belongs to one fork, whose own task's slot comes before it. So the way up from a branch
//!   ends, and a fork's family is exactly what is below it. Attaching checks this, like the range of every index.
//! * `[no way round]`: no task passes the same node, fork or switch twice, except a switch's own node, which leads to
//!   that switch. Every member begins with a node, fork or switch; and between two nodes lie at most [`NESTING_LIMIT`]
//!   forks and switches, one within the other. So moving a task on from ring to ring ends, and needs a bounded stack.

use core::fmt;
use serde::Serialize;

/// Where a task goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Default)]
#[serde(rename_all = "snake_case")]
pub enum Target {
    /// The end: a request goes to its caller, a branch to its join.
    #[default]
    End,
    /// Into this node's ring.
    Node(u32),
    /// It is forked.
    Fork(u32),
    /// To one of a switch's members.
    Switch(u32),
}

/// How deep forks and switches can nest.
pub const NESTING_LIMIT: u32 = 64;

const KIND: u32 = 0b11 << 30;
const FORK: u32 = 0b10 << 30;
const SWITCH: u32 = 0b01 << 30;

impl Target {
    /// The target as it lies in a segment.
    #[must_use]
    pub fn raw(self) -> u32 {
        match self {
            Self::End => u32::MAX,
            Self::Node(index) => index,
            Self::Fork(index) => FORK | index,
            Self::Switch(index) => SWITCH | index,
        }
    }

    /// The target in a word of a segment; the index is not checked.
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

/// In words, with its number.
impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::End => f.write_str("the end"),
            Self::Node(index) => write!(f, "node {index}"),
            Self::Fork(index) => write!(f, "fork {index}"),
            Self::Switch(index) => write!(f, "switch {index}"),
        }
    }
}

/// Why routes do not make a plan.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PlanError {
    /// A node, fork or switch names one that does not exist.
    #[error("{part} leads to {to}, which does not exist")]
    ToNowhere {
        /// The part that names it.
        part: Target,
        /// What does not exist.
        to: Target,
    },
    /// A fork or a switch has no members.
    #[error("{part} has no members")]
    NoMembers {
        /// Which.
        part: Target,
    },
    /// A member of a fork or a switch is the end, where no work is done.
    #[error("{part} has a member without a node, fork or switch")]
    EmptyMember {
        /// Which.
        part: Target,
    },
    /// A fork's branches are not numbered as its members are, or come before it.
    #[error("fork {fork} has branches that it cannot have")]
    Branches {
        /// Which.
        fork: u32,
    },
    /// Two forks have a branch.
    #[error("branch {branch} belongs to two forks")]
    TwoForks {
        /// Which.
        branch: u32,
    },
    /// No fork has a branch.
    #[error("branch {branch} belongs to no fork")]
    NoFork {
        /// Which.
        branch: u32,
    },
    /// No outcome can have this alignment.
    #[error("fork {fork} has a member of an impossible alignment")]
    Alignment {
        /// Which.
        fork: u32,
    },
    /// A switch names a node that does not choose for it.
    #[error("switch {switch} has a node that does not lead to it")]
    NodeOfSwitch {
        /// Which.
        switch: u32,
    },
    /// A fork's family lacks a branch below it.
    #[error("branch {branch} is not in the family of fork {fork} above it")]
    OutsideFamily {
        /// The branch.
        branch: u32,
        /// The fork.
        fork: u32,
    },
    /// A fork's family has a branch that is not below it.
    #[error("fork {fork} has branches in its family that are not below it")]
    StrangeFamily {
        /// Which.
        fork: u32,
    },
    /// Forks and switches nest too deep.
    #[error("{part} has more than {NESTING_LIMIT} forks and switches one within the other")]
    TooDeep {
        /// The outermost.
        part: Target,
    },
    /// A task would pass a part twice.
    #[error("{from} leads back to {to}")]
    Round {
        /// The part that leads back.
        from: Target,
        /// The part that the task has passed.
        to: Target,
    },
}

/// A member of a fork.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ForkMember {
    /// The first target of its branch.
    pub entry: Target,
    /// How many bytes the last part of its outcome's payload has, which leads to the rest.
    pub root_bytes: u32,
    /// The alignment of that part.
    pub root_align: u32,
}

/// A fork of a plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fork {
    /// The servlet's name.
    pub name: String,
    /// The first error of a branch is the outcome, and the join does not wait for the other branches.
    pub fail_fast: bool,
    /// How outcomes are put together; the layer above reads it.
    pub form: u32,
    /// The slot of the task that is forked.
    pub parent: u32,
    /// Its first branch.
    pub first: u32,
    /// The branch after the last of forks within its members.
    pub end: u32,
    /// The task's target after the join.
    pub next: Target,
    /// Its members, a branch for each.
    pub members: Vec<ForkMember>,
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
    /// The node whose workers choose, for participants that cannot choose themselves.
    pub node: Option<u32>,
    /// The targets that an item may go to.
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
    /// Checks routes of a plan with `branches` branches, whose nodes go on to `nexts`.
    ///
    /// # Errors
    /// The first fault.
    pub fn new(
        forks: Vec<Fork>,
        switches: Vec<Switch>,
        nexts: &[Target],
        branches: u32,
    ) -> Result<Self, PlanError> {
        let exists = |target: Target| match target {
            Target::End => true,
            Target::Node(index) => (index as usize) < nexts.len(),
            Target::Fork(index) => (index as usize) < forks.len(),
            Target::Switch(index) => (index as usize) < switches.len(),
        };
        let leads = |part: Target, to: Target| match exists(to) {
            true => Ok(()),
            false => Err(PlanError::ToNowhere { part, to }),
        };
        let begins = |part: Target, to: Target| match to {
            Target::End => Err(PlanError::EmptyMember { part }),
            _ => leads(part, to),
        };
        for (node, &next) in (0_u32..).zip(nexts) {
            leads(Target::Node(node), next)?;
        }
        let mut fork_of = vec![u32::MAX; branches as usize];
        for (index, fork) in (0_u32..).zip(&forks) {
            let part = Target::Fork(index);
            let members = fork.members.len() as u64;
            if members == 0 {
                return Err(PlanError::NoMembers { part });
            }
            let inside = u64::from(fork.first) + members <= u64::from(fork.end)
                && fork.end <= branches
                && fork.parent <= fork.first;
            if !inside {
                return Err(PlanError::Branches { fork: index });
            }
            for branch in fork.branches() {
                let owner = &mut fork_of[branch as usize];
                if *owner != u32::MAX {
                    return Err(PlanError::TwoForks { branch });
                }
                *owner = index;
            }
            leads(part, fork.next)?;
            fork.members.iter().try_for_each(|member| begins(part, member.entry))?;
            if fork.members.iter().any(|m| !m.root_align.is_power_of_two() || m.root_align > 16) {
                return Err(PlanError::Alignment { fork: index });
            }
        }
        if let Some(branch) = fork_of.iter().position(|&fork| fork == u32::MAX) {
            return Err(PlanError::NoFork { branch: branch as u32 });
        }
        for (index, switch) in (0_u32..).zip(&switches) {
            let part = Target::Switch(index);
            if switch.members.is_empty() {
                return Err(PlanError::NoMembers { part });
            }
            switch.members.iter().try_for_each(|&member| begins(part, member))?;
            let own = |node: u32| nexts.get(node as usize) == Some(&Target::Switch(index));
            if !switch.node.is_none_or(own) {
                return Err(PlanError::NodeOfSwitch { switch: index });
            }
        }
        let routes = Self { forks, switches, fork_of };
        routes.check_families(branches)?;
        routes.check_ways(nexts)?;
        Ok(routes)
    }

    /// Whether each fork's family is its branches and those of forks within: else a join could come while a branch
    /// within is under way.
    fn check_families(&self, branches: u32) -> Result<(), PlanError> {
        let mut sizes = vec![0_u32; self.forks.len()];
        for branch in 0..branches {
            let mut slot = branch + 1;
            while let Some((index, fork)) = self.around(slot) {
                if !fork.family().contains(&branch) {
                    return Err(PlanError::OutsideFamily { branch, fork: index });
                }
                sizes[index as usize] += 1;
                slot = fork.parent; // nearer to 0, by the check above
            }
        }
        let whole = |(fork, &size): (&Fork, &u32)| fork.end - fork.first == size;
        match self.forks.iter().zip(&sizes).position(|pair| !whole(pair)) {
            None => Ok(()),
            Some(index) => Err(PlanError::StrangeFamily { fork: index as u32 }),
        }
    }

    /// `[no way round]`: follows all ways from each part, each part once.
    fn check_ways(&self, nexts: &[Target]) -> Result<(), PlanError> {
        let (nodes, forks) = (nexts.len(), self.forks.len());
        let number = |target: Target| match target {
            Target::End => None,
            Target::Node(index) => Some(index as usize),
            Target::Fork(index) => Some(nodes + index as usize),
            Target::Switch(index) => Some(nodes + forks + index as usize),
        };
        // The `step`th way on from a part; none after the last. A fork's `next` comes after its members.
        let way = |part: usize, step: usize| -> Option<Target> {
            if part < nodes {
                return (step == 0).then(|| nexts[part]);
            }
            match self.forks.get(part - nodes) {
                Some(fork) if step == fork.members.len() => Some(fork.next),
                Some(fork) => fork.members.get(step).map(|member| member.entry),
                None => self.switches[part - nodes - forks].members.get(step).copied(),
            }
        };
        // Whether this way leads into the part, and not on from it.
        let within = |part: usize, step: usize| {
            part >= nodes && self.forks.get(part - nodes).is_none_or(|fork| step < fork.members.len())
        };
        let target = |part: usize| match part.checked_sub(nodes) {
            None => Target::Node(part as u32),
            Some(fork) if fork < forks => Target::Fork(fork as u32),
            Some(rest) => Target::Switch((rest - forks) as u32),
        };
        #[derive(Clone, Copy, PartialEq)]
        enum Seen {
            Never,
            OnTheWay,
            /// How many forks and switches nest up to the next nodes.
            Deep(u32),
        }
        let mut seen = vec![Seen::Never; nodes + forks + self.switches.len()];
        for start in 0..seen.len() {
            if seen[start] != Seen::Never {
                continue;
            }
            seen[start] = Seen::OnTheWay;
            // No recursion: the depth is not known to be limited yet.
            let mut path = vec![(start, 0, u32::from(start >= nodes))];
            while let Some((part, step, deep)) = path.last_mut() {
                let (at, taken) = (*part, *step);
                let Some(goal) = way(at, taken) else {
                    seen[at] = Seen::Deep(*deep);
                    path.pop();
                    continue;
                };
                let Some(next) = number(goal) else {
                    *step += 1;
                    continue;
                };
                match seen[next] {
                    Seen::Deep(below) => {
                        *step += 1;
                        if within(at, taken) {
                            *deep = (*deep).max(1 + below);
                        }
                        if *deep > NESTING_LIMIT {
                            return Err(PlanError::TooDeep { part: target(at) });
                        }
                    }
                    Seen::OnTheWay => return Err(PlanError::Round { from: target(at), to: target(next) }),
                    Seen::Never => {
                        seen[next] = Seen::OnTheWay;
                        path.push((next, 0, u32::from(next >= nodes)));
                    }
                }
            }
        }
        Ok(())
    }

    /// The fork that a branch belongs to.
    #[inline]
    #[must_use]
    pub fn fork_of(&self, branch: u32) -> Option<(u32, &Fork)> {
        let index = *self.fork_of.get(branch as usize)?;
        Some((index, self.forks.get(index as usize)?))
    }

    /// The fork of the branch in `slot`; `None` for the request itself.
    #[inline]
    #[must_use]
    pub fn around(&self, slot: u32) -> Option<(u32, &Fork)> {
        self.fork_of(slot.checked_sub(1)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fork(parent: u32, first: u32, members: usize, end: u32) -> Fork {
        let member = ForkMember { entry: Target::Node(0), root_bytes: 4, root_align: 4 };
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
        let outer = |slot| routes.around(slot).map(|(index, _)| index);
        assert_eq!((outer(0), outer(1), outer(2), outer(3)), (None, Some(0), Some(0), Some(1)));
        assert_eq!(routes.forks[0].family(), 0..5);
    }

    #[test]
    fn what_is_no_tree_is_refused() {
        let refused = |forks: Vec<Fork>, branches| {
            Routes::new(forks, vec![], &[Target::End], branches).unwrap_err().to_string()
        };
        assert_eq!(refused(vec![fork(0, 0, 0, 0)], 0), "fork 0 has no members");
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
        assert_eq!(refused(vec![stray], 1), "fork 0 leads to node 1, which does not exist");
        let switch = |members| Switch { name: "s".into(), node: None, members };
        let refused_switch =
            |members| Routes::new(vec![], vec![switch(members)], &[Target::End], 0).unwrap_err();
        let (part, to) = (Target::Switch(0), Target::Switch(1));
        assert_eq!(refused_switch(vec![to]), PlanError::ToNowhere { part, to });
        assert_eq!(refused_switch(vec![]), PlanError::NoMembers { part });
        assert_eq!(refused_switch(vec![part]), PlanError::Round { from: part, to: part });
        let (part, to) = (Target::Node(0), Target::Fork(0));
        assert_eq!(Routes::new(vec![], vec![], &[to], 0), Err(PlanError::ToNowhere { part, to }));
    }

    /// Symptom: a process that had attached a segment in which another process had written ran out of stack, or moved a
    /// task round for ever. Cause: only switches were checked for leading back, and a member could be the end. Fix:
    /// `[no way round]`.
    #[test]
    fn what_leads_back_is_refused() {
        let node = |index| Target::Node(index);
        let refused = |forks: Vec<Fork>, switches: Vec<Switch>, nexts: &[Target]| {
            let branches = forks.iter().map(|fork| fork.members.len() as u32).sum();
            Routes::new(forks, switches, nexts, branches).unwrap_err().to_string()
        };
        assert!(refused(vec![], vec![], &[node(0)]).contains("node 0 leads back to node 0"));
        let round = refused(vec![], vec![], &[node(1), node(2), node(0)]);
        assert!(round.contains("node 2 leads back to node 0"), "{round}");
        let mut again = fork(0, 0, 1, 1);
        again.next = Target::Fork(0);
        assert!(refused(vec![again], vec![], &[Target::End]).contains("fork 0 leads back to fork 0"));
        let mut nothing = fork(0, 0, 1, 1);
        nothing.members[0].entry = Target::End;
        assert!(refused(vec![nothing], vec![], &[Target::End]).contains("fork 0 has a member without"));
        let switch = |node, members| Switch { name: "s".into(), node, members };
        assert!(refused(vec![], vec![switch(None, vec![Target::End])], &[Target::End]).contains("switch 0"));
        let strange = refused(vec![], vec![switch(Some(0), vec![node(1)])], &[Target::End; 2]);
        assert!(strange.contains("does not lead to it"), "{strange}");
        let own = [Target::Switch(0), Target::End];
        assert!(Routes::new(vec![], vec![switch(Some(0), vec![node(1)])], &own, 0).is_ok());
        assert!(refused(vec![], vec![switch(None, vec![node(0)])], &own).contains("leads back"));
    }

    #[test]
    fn what_is_too_deep_is_refused() {
        let nested = |depth: u32| {
            let mut forks: Vec<Fork> = (0..depth).map(|i| fork(i, i, 1, depth)).collect();
            for (index, fork) in (1..).zip(&mut forks) {
                if index < depth {
                    fork.members[0].entry = Target::Fork(index);
                }
            }
            Routes::new(forks, vec![], &[Target::End], depth)
        };
        assert!(nested(NESTING_LIMIT).is_ok());
        assert!(matches!(nested(NESTING_LIMIT + 1), Err(PlanError::TooDeep { part: Target::Fork(0) })));
        // In sequence there is no limit but the number of branches.
        let chain = |count: u32| {
            let mut forks: Vec<Fork> = (0..count).map(|i| fork(0, i, 1, i + 1)).collect();
            for (index, fork) in (1..).zip(&mut forks) {
                if index < count {
                    fork.next = Target::Fork(index);
                }
            }
            Routes::new(forks, vec![], &[Target::End], count)
        };
        assert!(chain(4 * NESTING_LIMIT).is_ok());
    }
}
