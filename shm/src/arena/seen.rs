//! A task as any process sees it that may read the segment: for reports.
//!
//! # Invariants
//!
//! * Nothing here writes, so a segment that is mapped read-only will do. All that is read may change meanwhile, or be what
//!   a broken peer wrote: each number is checked before it leads anywhere, and bytes are copied one by one.

use super::{At, ELSEWHERE, Held, Task};
use crate::plan::Target;
use crate::pool::Handle;
use crate::sync::{Ordering, fence};
use crate::word::{Phase, State};
use core::ptr::NonNull;

/// How often to look for facts that belong to one state word.
const LOOKS: usize = 8;

/// A task that is in use, at one moment.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Seen<'a> {
    /// The task.
    pub task: Task<'a>,
    /// Its state; it has a phase, and not FREE.
    pub state: State,
    /// Its phase.
    pub phase: Phase,
    /// Where it is, or was last.
    pub at: At,
    /// Its payload.
    pub payload: SeenPayload,
    /// Whether the state word was the same before and after all else was read. A busy task may not let itself be seen so.
    pub at_once: bool,
}

/// What a payload is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Content {
    /// An input.
    Input,
    /// An outcome.
    Outcome,
    /// An error record.
    Error,
    /// Being written, over what was there: no part of it may be whole.
    Unfinished,
}

/// A payload, by what its task's header says.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct SeenPayload {
    /// What it is.
    pub content: Content,
    /// Its length, as the header says.
    pub length: u32,
    /// Where it lies; `None` if the header names no place where so many bytes can lie.
    pub place: Option<Place>,
    /// Its first bytes, as many as were asked for; empty if it has no place.
    pub bytes: Vec<u8>,
}

/// Where a payload lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Place {
    /// The task whose memory it is: another one of the request, if both have one payload.
    pub task: u32,
    /// The size of the block that it lies in; `None`: in the task's line.
    pub block_bytes: Option<u64>,
}

impl<'a> Task<'a> {
    /// What it is doing, with up to `bytes` bytes of its payload; `None` if it is free, or its word has no phase.
    #[must_use]
    pub fn look(self, bytes: usize) -> Option<Seen<'a>> {
        let mut before = self.line.word.load();
        for left in (0..LOOKS).rev() {
            let phase = before.phase().filter(|phase| *phase != Phase::Free)?;
            let at = self.at();
            let payload = self.look_at_payload(before, phase, at, bytes);
            fence(Ordering::Acquire); // what was read, was read before the word is read again
            let after = self.line.word.load();
            let at_once = after.is_same_use(before);
            if at_once || left == 0 {
                return Some(Seen { task: self, state: before, phase, at, payload, at_once });
            }
            before = after;
        }
        None
    }

    fn look_at_payload(self, state: State, phase: Phase, at: At, most: usize) -> SeenPayload {
        let content = match (phase, at) {
            (Phase::Filling | Phase::Joining, _) | (Phase::Claimed, At::Spoilt) => Content::Unfinished,
            (Phase::Done, _) if state.is_error() => Content::Error,
            (Phase::Claimed, At::Failed(_)) => Content::Error,
            (Phase::Claimed, At::Begun { failed: true, .. }) if self.line.is_outcome() => Content::Error,
            (Phase::Claimed, At::Begun { .. }) if self.line.is_outcome() => Content::Outcome,
            (Phase::Done, _) | (Phase::Claimed, At::Joined(_)) => Content::Outcome,
            _ => Content::Input,
        };
        // As `Held::error_payload`: an error may lie with the branch that failed.
        let keeper = match at {
            At::Failed(slot) if content == Content::Error => self.sibling(slot).unwrap_or(self),
            _ => self,
        };
        let held =
            Held { task: keeper, state: if keeper.id == self.id { state } else { keeper.word().peek() } };
        let length = keeper.line.payload().0;
        let Some((place, start)) = held.place(length) else {
            return SeenPayload { content, length, place: None, bytes: Vec::new() };
        };
        SeenPayload { content, length, place: Some(place), bytes: copy(start, most.min(length as usize)) }
    }
}

impl Held<'_> {
    /// Where its payload lies; `None` if fewer than `length` bytes can lie there.
    fn place(&self, length: u32) -> Option<(Place, NonNull<u8>)> {
        let own = self.task.line.block();
        let (task, block, found) = match own & ELSEWHERE {
            0 => (self.task, own, self.room(own)),
            _ => {
                let second = self.task.line.second.load(Ordering::Relaxed); // Relaxed: for reports
                (self.task.sibling(own & !ELSEWHERE)?, second, self.room_elsewhere(own))
            }
        };
        let (start, room) = found?;
        let block_bytes = Handle::from_raw(block).map(|_| room as u64);
        (length as usize <= room).then_some((Place { task: task.id, block_bytes }, start))
    }
}

/// Copies bytes that other processes may write meanwhile.
#[expect(unsafe_code, reason = "payload bytes in shared memory")]
fn copy(start: NonNull<u8>, count: usize) -> Vec<u8> {
    // SAFETY: `Held::place` has found room for them in the mapping ([handles checked]). No reference is made to them, and
    // any byte is a value.
    (0..count).map(|index| unsafe { start.as_ptr().add(index).read_volatile() }).collect()
}

impl<'a> Seen<'a> {
    /// The node, fork or switch where it is; `None` while its input is being written, or when its outcome is there.
    #[must_use]
    pub fn stage(&self) -> Option<Target> {
        match self.at {
            _ if !self.phase.is_under_way() => None,
            At::To { node, .. } | At::Begun { node, .. } => Some(Target::Node(node)),
            At::Forked(fork) | At::Joined(fork) => Some(Target::Fork(fork)),
            At::New | At::Spoilt | At::Failed(_) => {
                self.task.segment.seat_of(self.worker_row()?).map(|(node, _)| Target::Node(node))
            }
        }
    }

    /// The name of its [stage](Self::stage).
    #[must_use]
    pub fn stage_name(&self) -> Option<&'a str> {
        self.task.segment.name_of(self.stage()?)
    }

    /// The type of its payload, by the name that its program has for it; `None` if that is unknown, as of an error, or of
    /// what an ensemble joined.
    #[must_use]
    pub fn payload_type(&self) -> Option<&'a str> {
        let segment = self.task.segment;
        let name = match (self.payload.content, self.at) {
            (Content::Input, _) => &segment.nodes().get(self.first_node()? as usize)?.payloads.input,
            (Content::Outcome, At::Begun { node, .. }) => {
                &segment.nodes().get(node as usize)?.payloads.outcome
            }
            _ => return None,
        };
        Some(name.as_str()).filter(|name| !name.is_empty())
    }

    /// The node that takes its payload: that of its stage, or the first one of the members there, which take the same.
    fn first_node(&self) -> Option<u32> {
        let routes = self.task.segment.routes();
        let mut target = self.stage()?;
        // In a plan members lead to no part twice.
        for _ in 0..=routes.forks.len() + routes.switches.len() {
            target = match target {
                Target::Node(node) => return Some(node),
                Target::Fork(fork) => routes.forks.get(fork as usize)?.members.first()?.entry,
                Target::Switch(switch) => *routes.switches.get(switch as usize)?.members.first()?,
                Target::End => return None,
            };
        }
        None
    }

    /// Whether user code of its node may have seen it.
    #[must_use]
    pub fn is_begun(&self) -> bool {
        self.phase == Phase::Claimed && matches!(self.at, At::Begun { .. } | At::Spoilt)
    }

    /// The row, in the participant table, of the worker that has it.
    #[must_use]
    pub fn worker_row(&self) -> Option<u32> {
        let row = self.phase.is_worked_on().then_some(self.state.owner()?.index())?;
        self.task.segment.worker_of(row).map(|_| row)
    }

    /// The fork that this branch belongs to, and its number among that fork's members; `None` for a request.
    #[must_use]
    pub fn member(&self) -> Option<(u32, u32)> {
        let branch = self.task.slot().1.checked_sub(1)?;
        let (index, fork) = self.task.segment.routes().fork_of(branch)?;
        Some((index, branch - fork.first))
    }

    /// The deadline of its request, in monotonic nanoseconds; `None` if it has none.
    #[must_use]
    pub fn deadline_ns(&self) -> Option<u64> {
        let has_one = self.task.request_word().peek().has_deadline();
        let times = has_one.then(|| self.task.segment.times(self.task.slot().0)).flatten()?;
        Some(times.deadline_ns.load(Ordering::Relaxed)) // Relaxed: for reports
    }

    /// When it was queued for the node where it is, in monotonic nanoseconds; `None` if no clock was read: no batch
    /// waits there, and the task is not timed.
    #[must_use]
    pub fn queued_ns(&self) -> Option<u64> {
        let Target::Node(node) = self.stage()? else { return None };
        self.task.segment.nodes().get(node as usize)?;
        Some(self.task.stamp().time_ns()).filter(|&ns| ns != 0)
    }

    /// The branches of its request that are in use.
    pub fn branches(&self, bytes: usize) -> impl Iterator<Item = Seen<'a>> + use<'a> {
        let task = self.task;
        (1..=task.segment.shape().branches())
            .filter_map(move |slot| task.sibling(slot))
            .filter_map(move |branch| branch.look(bytes))
    }
}
