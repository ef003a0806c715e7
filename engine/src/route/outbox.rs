//! Tasks that are queued and not pushed yet.

use std::cell::RefCell;

/// The most tasks for one node that wait to be pushed.
const OUTBOX: usize = 64;

/// Tasks that are queued and will be pushed together: several take one update of a ring's tail and one look at its
/// doorbell, and wake its workers to a batch.
#[derive(Debug, Default)]
pub(crate) struct Outbox(RefCell<Queued>);

#[derive(Debug, Default)]
struct Queued {
    /// By node.
    ids: Vec<(u32, Vec<u32>)>,
    /// The index of the last task's node: the next task is for that node, or probably for the following one.
    last: usize,
    /// Whether a task was added since the last look.
    added: bool,
}

impl Outbox {
    /// Adds a task; returns whether its node's list is full.
    #[inline]
    pub(super) fn add(&self, node: u32, id: u32) -> bool {
        let queued = &mut *self.0.borrow_mut();
        let count = queued.ids.len();
        let near = [queued.last, queued.last + 1, 0].into_iter();
        let found = near.chain(0..count).find(|&i| queued.ids.get(i).is_some_and(|of| of.0 == node));
        queued.last = found.unwrap_or(count);
        if found.is_none() {
            queued.ids.push((node, Vec::with_capacity(OUTBOX)));
        }
        queued.added = true;
        let ids = &mut queued.ids[queued.last].1;
        ids.push(id);
        ids.len() >= OUTBOX
    }

    /// Whether a task was added since the last call.
    #[inline]
    pub(super) fn takes_added(&self) -> bool {
        std::mem::take(&mut self.0.borrow_mut().added)
    }

    /// The number of nodes that have a list.
    pub(super) fn nodes(&self) -> usize {
        self.0.borrow().ids.len()
    }

    /// Takes the tasks for one node.
    pub(super) fn take(&self, index: usize) -> (u32, Vec<u32>) {
        let of = &mut self.0.borrow_mut().ids[index];
        (of.0, std::mem::take(&mut of.1))
    }

    /// Puts an emptied list back, to reuse its memory, unless tasks were added meanwhile.
    pub(super) fn put_back(&self, index: usize, emptied: Vec<u32>) {
        let of = &mut self.0.borrow_mut().ids[index].1;
        if of.is_empty() {
            *of = emptied;
        }
    }
}
