//! A node of the plan: its constant facts, and the parts of it that change.

use super::Segment;
use crate::doorbell::{self, Bell};
use crate::layout::{Extent, NodeFacts, NodeLines};
use crate::lock::ReaderLock;
use crate::participant::{Entry, Role};
use crate::plan::Target;
use crate::ring::{Overrun, Ring};
use crate::sync::{AtomicU64, Ordering};
use crate::watch::Began;

/// The constant facts of a node: written once, checked at attach.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct NodeInfo {
    /// The servlet's name.
    pub name: String,
    /// The worker type's name.
    pub worker_type: String,
    /// The types of its payloads.
    pub payloads: PayloadTypes,
    /// Its numbers.
    pub facts: NodeFacts,
    /// Where finished tasks go.
    pub next: Target,
    /// The row of the first worker in the participant table.
    pub first_participant: u32,
    /// How many rows its workers have: one for each thread of each worker.
    pub rows: u32,
    /// What kind of participants its workers are.
    pub role: Role,
    /// The part of the blocks that is nearest to all its workers, if there is one.
    pub memory_part: Option<u32>,
    pub(super) config: Extent,
}

/// The types of a node's payloads, by the names that its program has for them: for reports. Empty: unknown.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PayloadTypes {
    /// Of its inputs.
    pub input: String,
    /// Of its outcomes.
    pub outcome: String,
}

/// The parts of a node that change.
#[derive(Debug, Clone, Copy)]
pub struct Node<'a> {
    pub(super) segment: &'a Segment,
    pub(super) info: &'a NodeInfo,
    pub(super) lines: &'a NodeLines,
    pub(super) cells: &'a [AtomicU64],
}

impl<'a> Node<'a> {
    /// Its constant facts.
    #[must_use]
    pub fn info(&self) -> &'a NodeInfo {
        self.info
    }

    /// Whether it is a node of this mapping of a segment.
    #[inline(always)]
    pub(crate) fn is_of(&self, segment: &Segment) -> bool {
        core::ptr::eq(self.segment, segment)
    }

    /// Its ring.
    #[inline]
    #[must_use]
    pub fn ring(&self) -> Ring<'a> {
        Ring::new(&self.lines.tail.0, &self.lines.head.0, self.cells)
    }

    /// What its batches have shown about waiting; 0 before the first. The lock holder writes it, and callers read it. The
    /// word is the engine's, and any bits are a value of it.
    #[inline]
    #[must_use]
    pub fn habit(&self) -> u64 {
        self.lines.habit.0.load(Ordering::Relaxed) // Relaxed: a value of any moment serves
    }

    /// Writes what [`habit`](Self::habit) returns.
    #[inline]
    pub fn set_habit(&self, habit: u64) {
        self.lines.habit.0.store(habit, Ordering::Relaxed); // Relaxed: as in `habit`
    }

    /// Its reader lock.
    #[inline]
    #[must_use]
    pub fn lock(&self) -> ReaderLock<'a> {
        ReaderLock::new(&self.lines.lock.0)
    }

    /// When its lock's holder took it, as far as the supervisor has seen: since then that holder has taken no batch. `None`:
    /// it is free.
    #[must_use]
    pub fn lock_began(&self) -> Option<Began> {
        Some(self.lines.watch.began(self.tenure()?))
    }

    /// The supervisor looks at its lock.
    pub fn see_lock(&self, now_ns: u64) {
        self.lines.watch.see(self.tenure().unwrap_or(0), now_ns);
    }

    /// The lock's holder, and how far the ring was read when it took it: together, a number for the time that it holds it.
    fn tenure(&self) -> Option<u64> {
        let holder = self.lock().holder()?;
        Some(u64::from(holder.raw()) << 32 | u64::from(self.ring().head() as u32))
    }

    /// Its doorbell.
    #[inline]
    #[must_use]
    pub fn doorbell(&self) -> &'a doorbell::Line {
        &self.lines.doorbell
    }

    /// Its workers' entries in the participant table.
    #[must_use]
    pub fn workers(&self) -> &'a [Entry] {
        let first = self.info.first_participant as usize;
        &self.segment.participants()[first..first + self.info.rows as usize]
    }

    /// The bell of one of its workers.
    #[inline]
    #[must_use]
    pub fn bell(&self, worker: u32) -> Option<&'a Bell> {
        self.workers().get(worker as usize).map(Entry::bell)
    }

    /// Why it is [down](doorbell::Line::is_down), from the message in its first worker's entry; empty if it is not.
    #[must_use]
    pub fn down_reason(&self) -> String {
        let first = self.workers().first().filter(|_| self.doorbell().is_down());
        let message = first.map_or_else(Vec::new, Entry::message);
        let line = message.split(|&byte| byte == 0).next().unwrap_or_default();
        String::from_utf8_lossy(line).into_owned()
    }

    /// Pushes queued tasks into its ring, in order, and wakes a worker if one must look.
    ///
    /// # Errors
    /// [`Overrun`] if the segment is corrupted.
    #[inline(always)]
    pub fn push(&self, ids: &[u32]) -> Result<(), Overrun> {
        let next = match *ids {
            [id] => self.ring().push(id)?.wrapping_add(1),
            _ => self.ring().push_many(ids).map_err(|(overrun, _)| overrun)?,
        };
        self.after_push(next);
        Ok(())
    }

    /// After a push: `next` is the position after the last published; wakes a worker if one must look.
    #[inline]
    pub fn after_push(&self, next: u64) {
        let node = *self;
        self.lines.doorbell.after_push(next, move |worker| node.bell(worker));
    }

    /// Whether its ring has something that no worker collects.
    #[must_use]
    pub fn is_unattended(&self) -> bool {
        let ring = self.ring();
        ring.get(ring.head()).is_some() && self.lock().holder().is_none()
    }

    /// After pushes, by a thread that is about to sleep, to run user code or to return to it: see
    /// [`doubt`](doorbell::Line::doubt).
    #[inline]
    pub fn doubt(&self) {
        let node = *self;
        self.lines.doorbell.doubt(move || node.is_unattended(), move |worker| node.bell(worker));
    }

    /// Wakes one more sleeper if its ring has something that no worker collects: for a thread whose sleep ended without
    /// an outcome, because the woken worker may be stopped.
    #[cold]
    pub fn rescue(&self) {
        if self.lines.doorbell.sleepers() != 0 && self.is_unattended() {
            self.lines.doorbell.wake_one(|worker| self.bell(worker));
        }
    }
}
