//! When a batch is complete. Pure: no clock and no ring inside.
//!
//! A batch is closed when it is full, when its oldest item has waited for the batch window since it was *enqueued*,
//! when there is no window and the ring has nothing more, or when the server stops.

use crate::error::StartError;
use ringmill_shm::layout::{self, NodeFacts};
use ringmill_shm::stats::Closed;
use std::time::Duration;

/// The default batch window: 10 ms.
pub const DEFAULT_BATCH_WAIT_TIME: Duration = Duration::from_millis(10);
/// The largest batch size.
pub const BATCH_SIZE_LIMIT: usize = layout::BATCH_SIZE_LIMIT as usize;
/// The longest batch window: an hour.
const WAIT_LIMIT: Duration = Duration::from_nanos(layout::BATCH_WAIT_LIMIT_NS);

/// How a node's batches are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Rule {
    /// 0: item by item; 1: batches of one; n: batches of up to n.
    pub(crate) batch_size: u32,
    /// How long the oldest item may wait.
    pub(crate) wait_ns: u64,
}

/// What to do with the items that are waiting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Take them.
    Close(Closed),
    /// Wait for more, until this moment (monotonic ns).
    WaitUntil(u64),
}

impl Rule {
    /// A node's rule.
    pub(crate) fn of(facts: &NodeFacts) -> Self {
        Self { batch_size: facts.batch_size, wait_ns: facts.batch_wait_ns }
    }

    /// Checks a pair of options.
    pub(crate) fn new(servlet: &str, batch_size: usize, wait: Option<Duration>) -> Result<Self, StartError> {
        let range = |what, value: u64, most: u64| StartError::Range {
            servlet: Some(servlet.into()),
            what,
            value,
            least: 0,
            most,
        };
        if batch_size > BATCH_SIZE_LIMIT {
            return Err(range("batch_size", batch_size as u64, BATCH_SIZE_LIMIT as u64));
        }
        let wait = match wait {
            Some(wait) if batch_size <= 1 && !wait.is_zero() => {
                return Err(StartError::BatchRule {
                    servlet: servlet.into(),
                    batch_size,
                    batch_wait_time: wait,
                });
            }
            Some(wait) if wait > WAIT_LIMIT => {
                return Err(range("batch_wait_time in seconds", wait.as_secs(), WAIT_LIMIT.as_secs()));
            }
            Some(wait) => wait,
            None if batch_size > 1 => DEFAULT_BATCH_WAIT_TIME,
            None => Duration::ZERO,
        };
        // Both fit by the limits above.
        Ok(Self { batch_size: batch_size as u32, wait_ns: wait.as_nanos() as u64 })
    }

    /// The most items of a batch.
    #[inline]
    pub(crate) fn most(self) -> u64 {
        u64::from(self.batch_size.max(1))
    }

    /// The reason to record for a batch that was closed for `why` and ended up with `items` items, since the callers of
    /// the others had gone.
    #[inline]
    pub(crate) fn closed(self, why: Closed, items: u64) -> Closed {
        match why {
            Closed::Full if items < self.most() && self.wait_ns == 0 => Closed::Empty,
            Closed::Full if items < self.most() => Closed::Window, // ended early: a claimed item cannot wait
            why => why,
        }
    }

    /// Judges `waiting` items (at least one), the oldest enqueued at `oldest_ns`.
    ///
    /// `now_ns` is called only where time matters. A time stamp of the future counts as now, so that a broken one
    /// cannot make the window longer.
    pub(crate) fn judge(
        self,
        waiting: u64,
        oldest_ns: u64,
        stopping: bool,
        now_ns: impl FnOnce() -> u64,
    ) -> Verdict {
        if waiting >= self.most() {
            return Verdict::Close(Closed::Full);
        }
        if stopping {
            return Verdict::Close(Closed::Shutdown);
        }
        if self.wait_ns == 0 {
            return Verdict::Close(Closed::Empty);
        }
        let now = now_ns();
        let due = oldest_ns.min(now).saturating_add(self.wait_ns);
        if now >= due { Verdict::Close(Closed::Window) } else { Verdict::WaitUntil(due) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_rules_of_size_and_wait() {
        let ms = Duration::from_millis;
        let rule = |size, wait| Rule::new("s", size, wait).ok();
        assert_eq!(rule(0, None), Some(Rule { batch_size: 0, wait_ns: 0 }));
        assert_eq!(rule(1, None), Some(Rule { batch_size: 1, wait_ns: 0 }));
        assert_eq!(rule(1, Some(ms(0))), Some(Rule { batch_size: 1, wait_ns: 0 }));
        assert_eq!(rule(2, None), Some(Rule { batch_size: 2, wait_ns: 10_000_000 }));
        assert_eq!(rule(2, Some(ms(0))), Some(Rule { batch_size: 2, wait_ns: 0 }));
        let error = Rule::new("tag", 1, Some(ms(5))).unwrap_err();
        assert_eq!(
            error.to_string(),
            "servlet tag: batch_size 1 with batch_wait_time 5ms: a wait needs a batch_size above 1"
        );
        assert!(matches!(Rule::new("s", 0, Some(ms(1))), Err(StartError::BatchRule { .. })));
        assert!(matches!(Rule::new("s", usize::MAX, None), Err(StartError::Range { .. })));
        assert!(matches!(Rule::new("s", 2, Some(Duration::MAX)), Err(StartError::Range { .. })));
    }

    #[test]
    fn the_clock_runs_from_the_oldest_enqueue() {
        let rule = Rule { batch_size: 4, wait_ns: 100 };
        assert_eq!(rule.judge(1, 1_000, false, || 1_050), Verdict::WaitUntil(1_100));
        assert_eq!(rule.judge(1, 1_000, false, || 1_100), Verdict::Close(Closed::Window));
        assert_eq!(
            rule.judge(3, 1_000, false, || 5_000),
            Verdict::Close(Closed::Window),
            "it waited in the queue"
        );
        assert_eq!(rule.judge(4, 1_000, false, || unreachable!()), Verdict::Close(Closed::Full));
        assert_eq!(rule.judge(3, 1_000, true, || unreachable!()), Verdict::Close(Closed::Shutdown));
        assert_eq!(rule.judge(1, u64::MAX, false, || 1_000), Verdict::WaitUntil(1_100), "a broken stamp");
    }

    #[test]
    fn a_batch_is_full_only_if_its_callers_still_wait() {
        let (greedy, patient) = (Rule { batch_size: 4, wait_ns: 0 }, Rule { batch_size: 4, wait_ns: 100 });
        assert_eq!(greedy.closed(Closed::Full, 4), Closed::Full);
        assert_eq!(greedy.closed(Closed::Full, 3), Closed::Empty);
        assert_eq!(patient.closed(Closed::Full, 3), Closed::Window);
        assert_eq!(patient.closed(Closed::Shutdown, 3), Closed::Shutdown);
    }

    proptest! {
        /// A batch never waits when it is full, never longer than its window, and never without one.
        #[test]
        fn never_too_long(
            size in 0..100_u32, wait_ns in 0..1_000_u64, waiting in 1..200_u64,
            oldest in 0..10_000_u64, later in 0..2_000_u64, stopping: bool,
        ) {
            let rule = Rule { batch_size: size, wait_ns };
            let now = oldest + later;
            match rule.judge(waiting, oldest, stopping, || now) {
                Verdict::WaitUntil(due) => {
                    prop_assert!(waiting < rule.most() && wait_ns > 0 && !stopping);
                    prop_assert_eq!(due, oldest + wait_ns);
                    prop_assert!(due > now);
                }
                Verdict::Close(Closed::Full) => prop_assert!(waiting >= rule.most()),
                Verdict::Close(Closed::Window) => prop_assert!(later >= wait_ns && wait_ns > 0),
                Verdict::Close(Closed::Empty) => prop_assert!(wait_ns == 0),
                Verdict::Close(Closed::Shutdown) => prop_assert!(stopping),
            }
        }
    }
}
