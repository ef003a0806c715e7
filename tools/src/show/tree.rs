//! A plan as a tree, a line a servlet: what follows stands below, and members stand further in.
//!
//! A plan in a segment is flat: it says where tasks go from each part. A sequence ends at the end; within a switch it ends
//! where the ways of all members meet again, which is where the switch goes on.

use ringmill_shm::plan::{Fork, Routes, Switch, Target};
use std::collections::{HashMap, HashSet};

/// How deep members are shown within members.
const DEPTH_LIMIT: usize = 32;

/// A line of the tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Line {
    /// How members that it belongs to are drawn before it, the outermost first.
    lead: Vec<Lead>,
    /// The node, fork or switch.
    pub(super) of: Target,
    /// It stands above already, with what follows it: the ways of members meet there.
    pub(super) again: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lead {
    /// A member begins, and another one follows.
    Fork,
    /// The last member begins.
    Corner,
    /// A member goes on, or another one follows below.
    Bar,
    /// The last member goes on.
    Gap,
}

impl Line {
    /// What stands before its name.
    pub(super) fn lead(&self, drawn: bool) -> String {
        let text = |lead: &Lead| match lead {
            _ if !drawn => "  ",
            Lead::Fork => "├─ ",
            Lead::Corner => "└─ ",
            Lead::Bar => "│  ",
            Lead::Gap => "   ",
        };
        self.lead.iter().map(text).collect()
    }
}

/// The lines of a plan whose nodes go on to `nexts`. A node that chooses for a switch has no line; the switch has.
pub(super) fn lines(routes: &Routes, nexts: &[Target]) -> Vec<Line> {
    let mut tree = Tree { routes, nexts, after: HashMap::new(), drawn: HashSet::new(), lines: Vec::new() };
    for root in tree.roots() {
        tree.resolve(root);
        tree.draw(&[], root, Target::End);
    }
    tree.lines
}

struct Tree<'p> {
    routes: &'p Routes,
    nexts: &'p [Target],
    /// Where a task goes in the end from each part, whichever member it went to, and how many such steps lead to the end.
    after: HashMap<Target, (Target, u32)>,
    /// What has a line.
    drawn: HashSet<Target>,
    lines: Vec<Line>,
}

impl<'p> Tree<'p> {
    fn fork(&self, target: Target) -> Option<&'p Fork> {
        match target {
            Target::Fork(index) => self.routes.forks.get(index as usize),
            _ => None,
        }
    }

    fn switch(&self, target: Target) -> Option<&'p Switch> {
        match target {
            Target::Switch(index) => self.routes.switches.get(index as usize),
            _ => None,
        }
    }

    fn members(&self, target: Target) -> Vec<Target> {
        match (self.fork(target), self.switch(target)) {
            (Some(fork), _) => fork.members.iter().map(|member| member.entry).collect(),
            (_, Some(switch)) => switch.members.clone(),
            _ => Vec::new(),
        }
    }

    /// Where it goes on, if it is no switch.
    fn next(&self, target: Target) -> Target {
        match target {
            Target::Node(index) => self.nexts.get(index as usize).copied().unwrap_or(Target::End),
            _ => self.fork(target).map_or(Target::End, |fork| fork.next),
        }
    }

    /// The parts that no other leads to: of a plan, where requests begin.
    fn roots(&self) -> Vec<Target> {
        let (routes, nodes) = (self.routes, self.nexts.len() as u32);
        let forks = (0..routes.forks.len() as u32).map(Target::Fork);
        let switches = (0..routes.switches.len() as u32).map(Target::Switch);
        let all: Vec<_> = (0..nodes).map(Target::Node).chain(forks).chain(switches).collect();
        // A node that chooses for a switch leads to it, and nothing leads to that node but the switch.
        let choosers: HashSet<_> = routes.switches.iter().filter_map(|s| s.node).map(Target::Node).collect();
        let led_to = |from: &Target| self.members(*from).into_iter().chain([self.next(*from)]);
        let follow: HashSet<Target> =
            all.iter().filter(|from| !choosers.contains(from)).flat_map(led_to).collect();
        all.into_iter().filter(|part| !follow.contains(part) && !choosers.contains(part)).collect()
    }

    fn depth(&self, target: Target) -> Option<u32> {
        if target == Target::End { Some(0) } else { self.after.get(&target).map(|(_, depth)| *depth) }
    }

    fn after(&self, target: Target) -> Target {
        self.after.get(&target).map_or(Target::End, |(after, _)| *after)
    }

    /// Finds where each part from here on goes in the end. Ways lead to no part twice, so this ends.
    fn resolve(&mut self, start: Target) {
        let mut waiting = vec![start];
        while let Some(&part) = waiting.last() {
            let mut ways = self.members(part);
            if self.switch(part).is_none() {
                ways.push(self.next(part));
            }
            let before = waiting.len();
            waiting.extend(ways.iter().filter(|way| self.depth(**way).is_none()));
            if waiting.len() > before {
                continue;
            }
            waiting.pop();
            let after = match self.switch(part) {
                Some(_) => ways.into_iter().reduce(|one, other| self.meet(one, other)).unwrap_or(Target::End),
                None => self.next(part),
            };
            let depth = self.depth(after).unwrap_or(0) + 1;
            self.after.insert(part, (after, depth));
        }
    }

    /// The first part that both ways lead to.
    fn meet(&self, mut one: Target, mut other: Target) -> Target {
        while one != other {
            match self.depth(one).cmp(&self.depth(other)) {
                std::cmp::Ordering::Less => other = self.after(other),
                _ => one = self.after(one),
            }
        }
        one
    }

    /// Draws a sequence up to where its ways meet others.
    fn draw(&mut self, lead: &[Lead], start: Target, end: Target) {
        let mut lead = lead.to_vec();
        let mut part = start;
        while part != end && part != Target::End {
            let again = !self.drawn.insert(part);
            self.lines.push(Line { lead: lead.clone(), of: part, again });
            if again {
                return;
            }
            // From its second line on a sequence is drawn as going on.
            if let Some(last) = lead.last_mut() {
                *last = if matches!(last, Lead::Fork | Lead::Bar) { Lead::Bar } else { Lead::Gap };
            }
            let (members, after) = (self.members(part), self.after(part));
            let end = if self.switch(part).is_some() { after } else { Target::End };
            for (index, &member) in members.iter().enumerate().filter(|_| lead.len() < DEPTH_LIMIT) {
                let own = if index + 1 < members.len() { Lead::Fork } else { Lead::Corner };
                self.draw(&[&lead[..], &[own]].concat(), member, end);
            }
            part = after;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ringmill_shm::plan::ForkMember;

    fn fork(parent: u32, first: u32, end: u32, entries: &[Target], next: Target) -> Fork {
        let member = |&entry| ForkMember { entry, root_bytes: 1, root_align: 1 };
        let members = entries.iter().map(member).collect();
        Fork { name: String::new(), fail_fast: true, form: 0, parent, first, end, next, members }
    }

    fn switch(node: Option<u32>, members: &[Target]) -> Switch {
        Switch { name: String::new(), node, members: members.into() }
    }

    fn drawn(forks: Vec<Fork>, switches: Vec<Switch>, nexts: &[Target], branches: u32) -> Vec<String> {
        let routes = Routes::new(forks, switches, nexts, branches).unwrap();
        let text = |line: &Line| {
            let again = if line.again { " again" } else { "" };
            format!("{}{}{again}", line.lead(true), line.of)
        };
        lines(&routes, nexts).iter().map(text).collect()
    }

    use Target::{End, Fork as F, Node as N, Switch as S};

    #[test]
    fn a_sequence_goes_down() {
        assert_eq!(drawn(vec![], vec![], &[N(2), End, N(1)], 0), ["node 0", "node 2", "node 1"]);
    }

    #[test]
    fn members_stand_further_in_and_the_join_below() {
        // 0 → { 1 → 2, { 3, 4 } → 5 } → 6
        let forks = vec![fork(0, 0, 4, &[N(1), F(1)], N(6)), fork(2, 2, 4, &[N(3), N(4)], N(5))];
        let nexts = [F(0), N(2), End, End, End, End, End];
        assert_eq!(
            drawn(forks, vec![], &nexts, 4),
            [
                "node 0",
                "fork 0",
                "├─ node 1",
                "│  node 2",
                "└─ fork 1",
                "   ├─ node 3",
                "   └─ node 4",
                "   node 5",
                "node 6",
            ]
        );
    }

    #[test]
    fn a_switch_goes_on_where_its_members_meet() {
        // { 0 → 1, { 2, 3 }, fork { 4, 5 } } → 6, by two switches, the outer one with the chooser 7
        let forks = vec![fork(0, 0, 2, &[N(4), N(5)], N(6))];
        let switches = vec![switch(Some(7), &[N(0), S(1), F(0)]), switch(None, &[N(2), N(3)])];
        let nexts = [N(1), N(6), N(6), N(6), End, End, End, S(0)];
        assert_eq!(
            drawn(forks, switches, &nexts, 2),
            [
                "switch 0",
                "├─ node 0",
                "│  node 1",
                "├─ switch 1",
                "│  ├─ node 2",
                "│  └─ node 3",
                "└─ fork 0",
                "   ├─ node 4",
                "   └─ node 5",
                "node 6",
            ]
        );
    }

    #[test]
    fn a_member_that_ends_early_lets_the_others_go_on() {
        // No tree of servlets is so: one member of three leads to the end, the others to node 3.
        let nexts = [N(3), N(3), End, End];
        assert_eq!(
            drawn(vec![], vec![switch(None, &[N(0), N(1), N(2)])], &nexts, 0),
            ["switch 0", "├─ node 0", "│  node 3", "├─ node 1", "│  node 3 again", "└─ node 2"]
        );
    }

    /// As many lines as parts, and no work that doubles with each: switches in a row, of two members each.
    #[test]
    fn many_switches_in_a_row_are_drawn_once() {
        const COUNT: u32 = 80;
        let nexts: Vec<_> =
            (0..2 * COUNT).map(|node| if node / 2 + 1 < COUNT { S(node / 2 + 1) } else { End }).collect();
        let switches = (0..COUNT).map(|index| switch(None, &[N(2 * index), N(2 * index + 1)])).collect();
        assert_eq!(drawn(vec![], switches, &nexts, 0).len(), 3 * COUNT as usize);
    }

    #[test]
    fn lines_on_a_page_without_drawing_are_indented() {
        let line = Line { lead: vec![Lead::Gap, Lead::Fork], of: End, again: false };
        assert_eq!((line.lead(true), line.lead(false)), ("   ├─ ".into(), "    ".into()));
    }
}
