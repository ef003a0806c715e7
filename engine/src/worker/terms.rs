//! What a worker states about its batches once it is built, where its servlet leaves that to its workers.

use crate::error::RemoteCause;
use crate::policy::batch::Rule;
use ringmill_shm::layout::{BATCH_WAIT_LIMIT_NS, NodeFacts};
use std::time::Duration;

/// How a worker wants its batches, and how many of its threads work: what [`BatchWorker::terms`](crate::BatchWorker::terms)
/// returns. What it leaves out is as the servlet says, whose numbers are also the limits.
///
/// ```
/// use ringmill::worker::Terms;
/// use std::time::Duration;
///
/// let terms = Terms::new().batch_size(32).batch_wait_time(Duration::from_millis(2));
/// assert_ne!(terms, Terms::new());
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Terms {
    batch_size: Option<usize>,
    batch_wait_time: Option<Duration>,
    stream_threads: Option<usize>,
}

impl Terms {
    /// Everything as the servlet says.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// 0: items one by one; n: batches of 1 to n items, up to the servlet's `batch_size`.
    #[must_use]
    pub fn batch_size(mut self, items: usize) -> Self {
        self.batch_size = Some(items);
        self
    }

    /// How long the oldest item of a batch waits, as the servlet's `batch_wait_time`: up to an hour, and only with a batch
    /// size above 1.
    #[must_use]
    pub fn batch_wait_time(mut self, wait: Duration) -> Self {
        self.batch_wait_time = Some(wait);
        self
    }

    /// How many threads of the worker work: from 1 up to the servlet's `stream_threads`. In a process the worker of its first
    /// thread says so, before the others are built; those that do not work are not built. They count as ready, and sleep.
    #[must_use]
    pub fn stream_threads(mut self, threads: usize) -> Self {
        self.stream_threads = Some(threads);
        self
    }

    /// What they come to in a node.
    pub(super) fn settle(self, facts: &NodeFacts) -> Result<Settled, RemoteCause> {
        let rule = Rule::of(facts);
        if !facts.terms_by_worker.is_set() {
            let as_planned = Settled { rule, threads: facts.threads };
            return if self == Self::new() { Ok(as_planned) } else { Err(RemoteCause::TermsNotLeft) };
        }
        let within =
            |what: &str, value: u64, least: u8, most| match (u64::from(least)..=most).contains(&value) {
                true => Ok(value),
                false => Err(RemoteCause::Terms { least, what: what.into(), value, most }),
            };
        let (size, threads) =
            (self.batch_size.map_or(rule.batch_size.into(), |items| items as u64), facts.threads);
        let size = within("batch_size", size, 0, rule.batch_size.into())?;
        let threads = self.stream_threads.map_or(threads.into(), |threads| threads as u64);
        let threads = within("stream_threads", threads, 1, facts.threads.into())?;
        let (wait_ns, is_stated) = match self.batch_wait_time {
            Some(wait) => {
                let most = if size > 1 { BATCH_WAIT_LIMIT_NS } else { 0 };
                let wait_ns = u64::try_from(wait.as_nanos()).unwrap_or(u64::MAX);
                let what = if size > 1 {
                    "batch_wait_time in ns"
                } else {
                    "batch_wait_time in ns, without batches,"
                };
                (within(what, wait_ns, 0, most)?, true)
            }
            None if size > 1 => (rule.wait_ns, rule.is_stated),
            None => (0, false),
        };
        // Both fit: they are within limits of this width.
        Ok(Settled { rule: Rule { batch_size: size as u32, wait_ns, is_stated }, threads: threads as u32 })
    }
}

/// A worker's batches, and how many threads of its unit work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Settled {
    pub(super) rule: Rule,
    pub(super) threads: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(left: bool) -> NodeFacts {
        NodeFacts {
            batch_size: 64,
            batch_wait_ns: 5,
            threads: 4,
            terms_by_worker: left.into(),
            ..NodeFacts::default()
        }
    }

    #[test]
    fn what_is_left_out_is_as_the_servlet_says() {
        let settled = |terms: Terms| {
            terms
                .settle(&facts(true))
                .map(|Settled { rule, threads }| (rule.batch_size, rule.wait_ns, rule.is_stated, threads))
        };
        assert_eq!(settled(Terms::new()), Ok((64, 5, false, 4)));
        assert_eq!(settled(Terms::new().batch_size(7)), Ok((7, 5, false, 4)));
        assert_eq!(settled(Terms::new().batch_size(1)), Ok((1, 0, false, 4)));
        assert_eq!(settled(Terms::new().batch_size(0).stream_threads(1)), Ok((0, 0, false, 1)));
        let wait = Duration::from_nanos(9);
        assert_eq!(settled(Terms::new().batch_wait_time(wait)), Ok((64, 9, true, 4)));
        assert_eq!(settled(Terms::new().batch_size(0).batch_wait_time(Duration::ZERO)), Ok((0, 0, true, 4)));
        assert_eq!(
            Terms::new().settle(&facts(false)),
            Ok(Settled { rule: Rule::of(&facts(false)), threads: 4 })
        );
    }

    #[test]
    fn what_is_not_reserved_is_refused_with_the_limit() {
        let refused = |terms: Terms| match terms.settle(&facts(true)) {
            Err(RemoteCause::Terms { what, value, least, most }) => (what, value, least, most),
            other => panic!("{other:?}"),
        };
        assert_eq!(refused(Terms::new().batch_size(65)), ("batch_size".into(), 65, 0, 64));
        assert_eq!(refused(Terms::new().stream_threads(0)), ("stream_threads".into(), 0, 1, 4));
        assert_eq!(refused(Terms::new().stream_threads(5)), ("stream_threads".into(), 5, 1, 4));
        let lone = Terms::new().batch_size(1).batch_wait_time(Duration::from_nanos(1));
        assert_eq!(refused(lone).3, 0);
        let long = Terms::new().batch_wait_time(Duration::MAX);
        assert_eq!((refused(long).1, refused(long).3), (u64::MAX, BATCH_WAIT_LIMIT_NS));
        assert_eq!(Terms::new().batch_size(3).settle(&facts(false)), Err(RemoteCause::TermsNotLeft));
    }
}
