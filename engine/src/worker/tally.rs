//! How large a worker's batches were, for its log.

use crate::policy::batch::Rule;
use ringmill_shm::layout::NodeFacts;

/// The sizes of the batches since the last log line.
#[derive(Debug, Clone, Copy)]
pub(super) struct Tally {
    pub(super) every: u64,
    pub(super) count: u64,
    pub(super) items: u64,
    pub(super) min: u64,
    pub(super) max: u64,
}

impl Tally {
    /// `None` if the worker logs no batches: it handles items one by one, or `every` is 0.
    pub(super) fn new(facts: &NodeFacts, rule: Rule) -> Option<Self> {
        let every = facts.log_batches_every;
        (rule.batch_size > 0 && every > 0).then_some(Self {
            every,
            count: 0,
            items: 0,
            min: u64::MAX,
            max: 0,
        })
    }

    /// Counts a batch; returns whether it is time to log.
    #[inline]
    pub(super) fn count(&mut self, items: u64) -> bool {
        self.count += 1;
        self.items += items;
        self.min = self.min.min(items);
        self.max = self.max.max(items);
        self.count == self.every
    }

    /// Returns the counts, and begins again at zero.
    pub(super) fn take(&mut self) -> Self {
        std::mem::replace(self, Self { every: self.every, count: 0, items: 0, min: u64::MAX, max: 0 })
    }
}
