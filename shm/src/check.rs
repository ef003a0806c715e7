//! Is this segment consistent?
//!
//! The checker changes nothing, and may run while all participants work: it reports a problem of a live segment only if
//! several looks in a row show it unchanged, since a moment between two steps of a transition is no defect.

use crate::arena::Task;
use crate::participant::SERVER;
use crate::pool;
use crate::segment::{Node, Segment};
use crate::sync::Ordering;
use crate::token::Token;
use crate::word::{Phase, State};
use serde::{Serialize, Serializer};
use std::collections::BTreeSet;
use std::time::Duration;

/// An inconsistency.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Problem {
    /// A state word has a phase that does not exist.
    BadPhase {
        /// The task.
        task: u32,
        /// Its word.
        word: u64,
    },
    /// The owner of a task is dead.
    DeadOwner {
        /// The task.
        task: u32,
        /// Its word.
        word: u64,
        /// The word as text.
        state: String,
    },
    /// A task waits for a worker but is in no ring.
    NotInRing {
        /// The task.
        task: u32,
        /// Its word.
        word: u64,
    },
    /// A task is in a ring more than once, or in more than one ring.
    TwiceInRing {
        /// The task.
        task: u32,
        /// Its word.
        word: u64,
    },
    /// A cell holds an id that no task has.
    BadId {
        /// The node.
        node: u32,
        /// The position in its ring.
        position: u64,
        /// The id.
        id: u32,
    },
    /// A cell's lap fits no position near the ring's end.
    BadLap {
        /// The node.
        node: u32,
        /// The position in its ring.
        position: u64,
        /// The lap found.
        lap: u32,
    },
    /// The holder of the reader lock is dead.
    DeadHolder {
        /// The node.
        node: u32,
        /// The holder's token.
        token: u32,
    },
    /// A doorbell names a worker that its node does not have.
    BadDoorbell {
        /// The node.
        node: u32,
    },
    /// The token in a row of the participant table names another row.
    BadParticipant {
        /// The row.
        participant: u32,
    },
    /// The pending bit of a branch and its word disagree.
    BadBranch {
        /// The task.
        task: u32,
        /// Its word.
        word: u64,
        /// Whether its pending bit is set.
        pending: bool,
    },
    /// A branch is under way or has arrived, and its request is free.
    StrayBranch {
        /// The task.
        task: u32,
        /// Its request.
        request: u32,
    },
    /// A payload block belongs to a task that does not have it.
    LostBlock {
        /// The size class.
        class: u32,
        /// Which block of it.
        block: u64,
        /// Its owner word.
        owner: u64,
    },
}

impl core::fmt::Display for Problem {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::BadPhase { task, word } => write!(f, "task {task}: no such phase in word {word:#018x}"),
            Self::DeadOwner { task, state, .. } => write!(f, "task {task}: its owner is dead ({state})"),
            Self::NotInRing { task, .. } => write!(f, "task {task}: queued, but in no ring"),
            Self::TwiceInRing { task, .. } => write!(f, "task {task}: in a ring more than once"),
            Self::BadId { node, position, id } => {
                write!(f, "node {node}: no task has the id {id} at position {position}")
            }
            Self::BadLap { node, position, lap } => {
                write!(f, "node {node}: lap {lap} does not belong at position {position}")
            }
            Self::DeadHolder { node, token } => {
                write!(f, "node {node}: the holder {token:#x} of its reader lock is dead")
            }
            Self::BadDoorbell { node } => {
                write!(f, "node {node}: its doorbell names a worker it does not have")
            }
            Self::BadParticipant { participant } => {
                write!(f, "participant {participant}: its token names another row")
            }
            Self::BadBranch { task, pending, .. } => {
                let said = if *pending { "under way" } else { "at rest" };
                write!(f, "task {task}: a branch that is said to be {said} and is not")
            }
            Self::StrayBranch { task, request } => {
                write!(f, "task {task}: a branch of request {request}, which is free")
            }
            Self::LostBlock { class, block, .. } => {
                write!(f, "block {block} of class {class}: its task does not have it")
            }
        }
    }
}

/// How many requests are in each phase.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PhaseCounts([u32; Phase::ALL.len()]);

impl PhaseCounts {
    /// Counts the requests of a segment by phase.
    #[must_use]
    pub fn of(segment: &Segment) -> Self {
        let mut counts = Self::default();
        for id in 0..segment.shape().requests {
            if let Some(phase) = Task::new(segment, id).and_then(|t| t.word().peek().phase()) {
                counts.0[phase as usize] += 1;
            }
        }
        counts
    }
}

impl PhaseCounts {
    /// How many requests are in progress: in any phase but FREE.
    #[must_use]
    pub fn in_progress(&self) -> u32 {
        Phase::ALL.iter().filter(|&&phase| phase != Phase::Free).map(|&phase| self[phase]).sum()
    }
}

impl core::ops::Index<Phase> for PhaseCounts {
    type Output = u32;

    fn index(&self, phase: Phase) -> &u32 {
        &self.0[phase as usize]
    }
}

/// By the phases' names.
impl Serialize for PhaseCounts {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_map(Phase::ALL.map(|phase| (phase.name(), self[phase])))
    }
}

/// How many looks a problem of a live segment must survive, and the pause between them.
const LOOKS: u32 = 5;
const PAUSE: Duration = Duration::from_millis(20);

/// All problems, sorted; empty if the segment is consistent.
///
/// Returns at once if nothing is found in the first look.
#[must_use]
pub fn check(segment: &Segment) -> Vec<Problem> {
    let mut problems = look(segment);
    for _ in 1..LOOKS {
        if problems.is_empty() {
            break;
        }
        std::thread::sleep(PAUSE); // the wait itself is the point: a transition ends, a defect stays
        let again = look(segment);
        problems.retain(|p| again.contains(p));
    }
    problems.into_iter().collect()
}

/// The problems that one look shows: a live segment may be between two steps of a transition.
#[must_use]
pub fn look(segment: &Segment) -> BTreeSet<Problem> {
    let mut problems = BTreeSet::new();
    let mut seen = vec![0_u32; segment.shape().tasks() as usize];
    for index in 0..segment.shape().nodes {
        if let Some(node) = segment.node(index) {
            look_at_ring(segment, index, &node, &mut seen, &mut problems);
            if let Some(holder) = node.lock().holder()
                && segment.is_dead(holder)
            {
                problems.insert(Problem::DeadHolder { node: index, token: holder.raw() });
            }
            if !node.doorbell().names_only(node.info().rows) {
                problems.insert(Problem::BadDoorbell { node: index });
            }
        }
    }
    look_at_participants(segment, &mut problems);
    for (id, &times) in (0_u32..).zip(&seen) {
        if let Some(task) = Task::new(segment, id) {
            look_at_task(segment, id, task.word().load(), times, &mut problems);
            if task.is_branch() {
                look_at_branch(&task, &mut problems);
            }
        }
    }
    look_at_blocks(segment, &mut problems);
    problems
}

fn look_at_ring(
    segment: &Segment,
    index: u32,
    node: &Node<'_>,
    seen: &mut [u32],
    problems: &mut BTreeSet<Problem>,
) {
    let ring = node.ring();
    ring.scan(|position, id| match seen.get_mut(id as usize) {
        // A cell whose task has left the phase of waiting is a leftover that its reader skips.
        Some(times) => {
            let waits = Task::new(segment, id)
                .is_some_and(|t| matches!(t.word().peek().phase(), Some(Phase::Queued | Phase::Claimed)));
            *times += u32::from(waits);
        }
        None => {
            problems.insert(Problem::BadId { node: index, position, id });
        }
    });
    // Every cell belongs to the lap before its next position, or to that position's own.
    let head = ring.head();
    for position in (0..ring.cells() as u64).map(|ahead| head.wrapping_add(ahead)) {
        let (lap, _) = ring.raw(position);
        let own = ring.lap_of(position);
        if lap != own && lap != crate::ring::before(own) {
            problems.insert(Problem::BadLap { node: index, position, lap });
        }
    }
}

fn look_at_participants(segment: &Segment, problems: &mut BTreeSet<Problem>) {
    for (participant, entry) in (0_u32..).zip(segment.participants()) {
        if entry.token().is_some_and(|token| token.index() != participant) {
            problems.insert(Problem::BadParticipant { participant });
        }
    }
}

fn look_at_task(segment: &Segment, task: u32, state: State, times: u32, problems: &mut BTreeSet<Problem>) {
    let word = state.raw();
    let Some(phase) = state.phase() else {
        problems.insert(Problem::BadPhase { task, word });
        return;
    };
    if times > 1 {
        problems.insert(Problem::TwiceInRing { task, word });
    }
    // A worker pushes tasks that it has finished a few at a time; until then it owns them.
    let about_to_be = |owner: Token| owner.index() != SERVER && !segment.is_dead(owner);
    if phase == Phase::Queued && times == 0 && !state.owner().is_some_and(about_to_be) {
        problems.insert(Problem::NotInRing { task, word });
    }
    // A queued task in a ring needs only a reader; the next reader claims a claimed one there again.
    let needs_owner = match phase {
        Phase::Free | Phase::Forked => false,
        Phase::Queued | Phase::Claimed => times == 0,
        Phase::Filling | Phase::Joining | Phase::Done => true,
    };
    if needs_owner && state.owner().is_none_or(|owner| segment.is_dead(owner)) {
        problems.insert(Problem::DeadOwner { task, word, state: format!("{state:?}") });
    }
}

fn look_at_branch(task: &Task<'_>, problems: &mut BTreeSet<Problem>) {
    let (request, slot) = task.slot();
    let (state, pending) = (task.word().load(), task.family().is_pending(slot - 1));
    // With its bit clear it is FREE, or DONE and waits for the other branches; if it is DONE with its bit set, its
    // owner is about to clear the bit, which the next look finds done.
    let rests = matches!(state.phase(), Some(Phase::Free | Phase::Done));
    if pending == rests {
        problems.insert(Problem::BadBranch { task: task.id(), word: state.raw(), pending });
    }
    let in_use = pending || state.phase() != Some(Phase::Free);
    if in_use && task.request_word().load().phase() == Some(Phase::Free) {
        problems.insert(Problem::StrayBranch { task: task.id(), request });
    }
}

fn look_at_blocks(segment: &Segment, problems: &mut BTreeSet<Problem>) {
    for class in 0..segment.shape().classes().len() {
        for (block, owner) in (0_u64..).zip(segment.block_owners(class)) {
            let word = owner.load(Ordering::Acquire);
            let Some((id, generation)) = pool::owner_of(word) else { continue };
            let listed = Task::new(segment, id).is_some_and(|task| {
                let state = task.word().load();
                state.generation() == generation
                    && task.blocks(generation).any(|h| (h.class(), h.index()) == (class, block))
            });
            if !listed {
                problems.insert(Problem::LostBlock { class: class as u32, block, owner: word });
            }
        }
    }
}
