//! Repair of what a dead participant left.
//!
//! # Protocol
//!
//! The repairer reads every word that the dead owner's token is in, *then* scans the rings, *then* acts,
//! each time with a CAS from a word that still names the dead:
//!
//! | Word of the dead owner | In a ring? | The repairer |
//! |---|---|---|
//! | FILLING | – | frees its blocks, → FREE |
//! | QUEUED | yes | nothing: a reader will claim it |
//! | QUEUED | no | → QUEUED(repairer), pushes it |
//! | CLAIMED | yes | nothing: work had not begun, the next holder of the lock claims it again |
//! | CLAIMED | no | → CLAIMED(repairer), and the caller of [`Repairer::repair`] decides by where it is ([`At`]): moves it on, ends it with an error, or retries it |
//! | DONE | – | the client is dead, or its worker after the client had gone: frees its blocks, → FREE; with branches → DONE(repairer) and CANCELLED, to be reaped when they are at rest |
//! | JOINING | – | → JOINING(repairer), to be joined again; if it had been joined, → CLAIMED(repairer), to be moved on |
//!
//! FORKED names no owner: the branches have owners of their own. The repairer takes over a task that is CLAIMED after a
//! join with a value like any other, and frees branches that the dead joiner had not freed.
//!
//! and for branches, after those of forks within them and before the task that is forked:
//!
//! | Word of the dead owner | The repairer |
//! |---|---|
//! | CLAIMED and new, its parent CLAIMED by the same owner | the fork had not begun: clears its pending bit, → FREE |
//! | CLAIMED and new, else | → CLAIMED(repairer), to be moved on |
//! | DONE | → DONE(repairer); repeats the arrival; if it was the last, the join is the repairer's, to be done |
//! | else | as above |
//!
//! Before that the repairer removes the dead participant from the doorbell, and frees reader locks that it held. After
//! that it frees blocks that no task lists, hands the tasks to the caller of [`Repairer::repair`], and wakes all.
//!
//! # Invariants
//!
//! * `[read, scan, act]`: by `[dead tokens stay dead]`, a word that still holds the dead token after the scan held it
//!   throughout; so its task was not claimed meanwhile, and if the scan did not see it in a ring, it was in none. The
//!   caller's flags may change, and do not matter.
//!
//! # Crash
//!
//! Each step may be repeated. A repairer that dies leaves words with its own token, which the next repairer treats by
//! the same table.
#![expect(unsafe_code, reason = "the contract of a repair, said where it is taken on")]

use crate::arena::{At, Claimed, Join, Task};
use crate::party::Participant;
use crate::pool;
use crate::segment::Segment;
use crate::sync::Ordering;
use crate::token::Token;
use crate::word::{Due, Phase, State};
use std::collections::BTreeSet;

/// What a repair found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Summary {
    /// Tasks that were pushed for a dead mover.
    pub pushed: u32,
    /// Tasks that the dead had been working on or had still to move on, and joins that it had still to do: those handed to
    /// the caller.
    pub orphaned: u32,
    /// Tasks that a dead reader had claimed and not begun: left for the next reader.
    pub unread: u32,
    /// Requests of a dead client that were freed.
    pub freed: u32,
    /// Blocks that no task listed any more.
    pub swept_blocks: u32,
}

/// What a dead participant owned, and the repairer owns now.
#[derive(Debug)]
pub enum Orphan<'a> {
    /// A task: one that it was working on, or had still to move on ([`Task::at`] tells).
    Task(Claimed<'a>),
    /// Branches to put together.
    Join(Join<'a>),
}

/// A participant that repairs what dead ones left.
#[derive(Debug, Clone, Copy)]
pub struct Repairer<'s>(Participant<'s>);

impl<'s> Participant<'s> {
    /// This participant as a repairer.
    #[must_use]
    pub fn repairer(self) -> Repairer<'s> {
        Repairer(self)
    }
}

impl<'s> Repairer<'s> {
    /// Repairs what `dead` left, whose row says that it is dead; calls `orphan` with each task that it owned, to end it
    /// or move it on.
    ///
    /// # Safety
    /// `dead` acts no more: the kernel has said so, and no thread of this process uses anything that came from its
    /// [`Participant`]. No other participant repairs meanwhile.
    ///
    /// ```compile_fail,E0133
    /// fn rob(repairer: ringmill_shm::repair::Repairer<'_>, living: ringmill_shm::token::Token) {
    ///     repairer.repair(living, |orphan| drop(orphan));
    /// }
    /// ```
    pub unsafe fn repair(self, dead: Token, orphan: impl FnMut(Orphan<'s>)) -> Summary {
        let summary = put_right(self.0.segment(), dead, self.0.token(), orphan);
        wake_everyone(self.0.segment());
        summary
    }
}

/// [`Repairer::repair`] without the waking.
pub(crate) fn put_right<'s>(
    segment: &'s Segment,
    dead: Token,
    me: Token,
    mut orphan: impl FnMut(Orphan<'s>),
) -> Summary {
    let mut summary = Summary::default();
    forget(segment, dead);
    crash_point!("repair.forgot");
    let mut orphans = Vec::new();
    let left = words_of(segment, dead); // [read, scan, act]: read …
    let in_ring = in_rings(segment); // … scan …
    crash_point!("repair.scanned");
    // … act; branches first, of those the innermost.
    for (task, state) in left.into_iter().rev() {
        let in_ring = in_ring[task.id() as usize];
        crash_point!("repair.acting");
        if task.is_branch() && !in_ring && act_on_branch(&task, state, me, &mut orphans) {
            continue;
        }
        match state.due(in_ring) {
            Due::Nothing => {}
            Due::Claim => summary.unread += 1,
            Due::Free if state.phase() == Some(Phase::Done) && segment.shape().branches() > 0 => {
                summary.freed += u32::from(task.repeat_end(state, me));
            }
            Due::Free => {
                task.release_blocks(state.generation());
                crash_point!("repair.blocks_freed");
                summary.freed += u32::from(task.word().free_if(state));
                crash_point!("repair.freed");
            }
            Due::Push => {
                let pushed = task.word().adopt(state, me) && push(segment, &task);
                summary.pushed += u32::from(pushed);
                crash_point!("repair.pushed");
            }
            Due::Answer => {
                if let Some(claimed) = task.take_over(state, me) {
                    task.repeat_sweep();
                    orphans.push(Orphan::Task(claimed));
                }
            }
            Due::Join => {
                let due = task.repeat_join(state, me);
                orphans.extend(due.map(|due| due.map_or_else(Orphan::Task, Orphan::Join)));
            }
        }
    }
    crash_point!("repair.acted");
    summary.orphaned = orphans.len() as u32;
    let mine: BTreeSet<u32> = orphans.iter().flat_map(Orphan::held_ids).collect();
    summary.swept_blocks = sweep_blocks(segment, &mine);
    crash_point!("repair.swept");
    for of_dead in orphans {
        orphan(of_dead);
        crash_point!("repair.settled_one");
    }
    crash_point!("repair.settled");
    summary
}

impl Orphan<'_> {
    /// Tasks that only the orphan's holder claims blocks for.
    fn held_ids(&self) -> Vec<u32> {
        match self {
            Self::Task(task) => vec![task.id()],
            Self::Join(join) => join.held_ids().collect(),
        }
    }
}

/// Does what a branch needs in addition to any task; false if that is nothing.
fn act_on_branch<'a>(task: &Task<'a>, state: State, me: Token, orphans: &mut Vec<Orphan<'a>>) -> bool {
    match state.phase() {
        Some(Phase::Claimed) if task.at() == At::New => {
            let routes = task.segment().routes();
            let parent = routes.around(task.slot().1).and_then(|(_, fork)| task.sibling(fork.parent));
            let parent = parent.map(|parent| parent.word().load());
            let unforked = |p: State| p.phase() == Some(Phase::Claimed) && p.owner() == state.owner();
            if parent.is_some_and(unforked) {
                task.unmake(state);
            } else {
                orphans.extend(task.take_over(state, me).map(Orphan::Task));
            }
            true
        }
        Some(Phase::Done) => {
            orphans.extend(task.repeat_arrival(state, me).map(Orphan::Join));
            true
        }
        _ => false,
    }
}

/// Removes `dead` from the doorbell of its node, and from all reader locks: a participant that meets a node without
/// workers may hold the node's lock to empty the ring.
fn forget(segment: &Segment, dead: Token) {
    // By the plan, whatever the entry says; the server has no seat.
    if let Some((node, number)) = segment.seat_of(dead.index())
        && let Some(node) = segment.node(node)
    {
        node.doorbell().forget(number);
    }
    for node in (0..segment.shape().nodes).filter_map(|index| segment.node(index)) {
        crash_point!("repair.lock");
        node.lock().free_of(dead);
    }
}

fn words_of(segment: &Segment, owner: Token) -> Vec<(Task<'_>, State)> {
    (0..segment.shape().tasks())
        .filter_map(|id| Task::new(segment, id))
        .map(|task| (task, task.word().load()))
        .filter(|(_, state)| state.owner() == Some(owner))
        .collect()
}

/// Which tasks are in some ring.
fn in_rings(segment: &Segment) -> Vec<bool> {
    let mut seen = vec![false; segment.shape().tasks() as usize];
    for index in 0..segment.shape().nodes {
        if let Some(node) = segment.node(index) {
            node.ring().scan(|_, id| {
                if let Some(is_in) = seen.get_mut(id as usize) {
                    *is_in = true;
                }
            });
        }
    }
    seen
}

fn push(segment: &Segment, task: &Task<'_>) -> bool {
    let At::To { node, .. } = task.at() else { return false };
    let Some(node) = segment.node(node) else { return false };
    node.push(&[task.id()]).is_ok()
}

/// Frees blocks whose task is FREE or has another generation (their owner died before it recorded them, or while it
/// freed them), and those that a task of `mine` owns and does not list.
pub(crate) fn sweep_blocks(segment: &Segment, mine: &BTreeSet<u32>) -> u32 {
    let mut swept = 0;
    for class in 0..segment.shape().classes().len() {
        for (index, owner) in (0_u64..).zip(segment.block_owners(class)) {
            let word = owner.load(Ordering::Acquire);
            let Some((id, generation)) = pool::owner_of(word) else { continue };
            let kept = Task::new(segment, id).is_some_and(|task| {
                let state = task.word().load();
                let listed = || task.blocks(generation).any(|h| (h.class(), h.index()) == (class, index));
                state.generation() == generation
                    && state.phase() != Some(Phase::Free)
                    // The owner of another task may be about to record a block.
                    && (!mine.contains(&id) || listed())
            });
            if !kept
                && owner
                    .compare_exchange(word, pool::freed(word), Ordering::AcqRel, Ordering::Relaxed)
                    .is_ok()
            {
                swept += 1;
                crash_point!("repair.swept_one");
            }
        }
    }
    swept
}

/// Wakes every sleeper of the segment once. A spurious wake does no harm; a lost one would, and the dead participant
/// may have owed one.
pub fn wake_everyone(segment: &Segment) {
    for index in 0..segment.shape().nodes {
        if let Some(node) = segment.node(index) {
            node.lock().wake_spuriously();
        }
    }
    crash_point!("wake.locks");
    // Whatever their states say: a sleeper does not see that its own is wrong.
    segment.participants().iter().for_each(|entry| entry.bell().ring());
    crash_point!("wake.bells");
    for id in 0..segment.shape().tasks() {
        if let Some(task) = Task::new(segment, id)
            && task.word().peek().may_have_sleeper()
        {
            task.word().wake_spuriously();
            task.repeat_notice();
        }
    }
    crash_point!("wake.tasks");
    (0..segment.shape().requests)
        .filter(|_| segment.shape().partials.slots > 0)
        .filter_map(|id| Task::new(segment, id))
        .for_each(|task| task.rouse_writer());
    segment.startup().ring();
    for client in 0..=segment.shape().clients {
        segment.freed_of(client).ring();
        segment.completed_of(client).ring();
    }
}
