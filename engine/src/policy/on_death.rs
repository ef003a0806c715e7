//! What becomes of requests whose worker died while it worked on them. Pure.

use std::time::Duration;

/// What becomes of the requests on which a worker was working when it died.
///
/// Requests that it had not begun always go to the next worker, and those that it had finished are never repeated.
///
/// For a retry the input must survive: with `Retry` and `Bisect` an outcome does not overwrite its input, and a small
/// outcome, which otherwise shares the input's buffer, needs a payload block of its own. That costs about as much as an
/// input that does not fit in line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnDeath {
    /// The requests end with [`CallError::WorkerDied`](crate::CallError::WorkerDied): user code runs at most once.
    #[default]
    Fail,
    /// Each request is retried, up to this number of times; for work that may be repeated. If a worker dies at the last
    /// retry too, the request is *poisonous*, and ends with an error that says so. The requests of a batch are retried,
    /// and blamed, together.
    Retry(u8),
    /// As `Retry`, but a batch at which a worker dies is first retried in halves, and those in halves, until a worker
    /// dies at a single request: that request is retried this number of times, alone. So one poisonous request costs
    /// the others of its batch nothing but time. Deaths on the way count for no request and for no
    /// [`Restarts`](crate::Restarts): of a batch of 64 they are six.
    ///
    /// A process with several [`stream_threads`](crate::ProcessServlet::stream_threads) dies with several batches, and
    /// the requests of each are suspects.
    Bisect(u8),
}

/// What becomes of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It ends with the worker's death.
    Fail,
    /// It is retried.
    Retry {
        /// Whether this death counts.
        counts: bool,
    },
    /// It ends: too many workers have died with it.
    Poisonous,
}

impl OnDeath {
    /// Whether outcomes are written beside inputs.
    pub(crate) fn keeps_inputs(self) -> bool {
        self != Self::Fail
    }

    /// Whether a batch is made of requests of one group only.
    pub(crate) fn keeps_apart(self) -> bool {
        matches!(self, Self::Bisect(_))
    }

    /// Whether a death with this number of suspects is only a step on the way to the request to blame.
    pub(crate) fn halves(self, suspects: usize) -> bool {
        self.keeps_apart() && suspects > 1
    }

    /// What becomes of one of the `suspects` on which a dead worker was working; before, `deaths` other workers died at
    /// it.
    pub(crate) fn fate(self, suspects: usize, deaths: u8) -> Fate {
        match self {
            Self::Fail => Fate::Fail,
            Self::Bisect(_) if self.halves(suspects) => Fate::Retry { counts: false },
            Self::Retry(most) | Self::Bisect(most) if deaths < most => Fate::Retry { counts: true },
            Self::Retry(_) | Self::Bisect(_) => Fate::Poisonous,
        }
    }
}

/// How much later than its limit an overlong call may be noticed, as a part of that limit.
const LATE: u32 = 8;

/// How often to look at a worker whose calls have this limit.
pub(crate) fn look_every(exec_timeout: Duration) -> Duration {
    (exec_timeout / LATE).max(Duration::from_millis(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_retried_up_to_the_limit() {
        assert_eq!(OnDeath::Fail.fate(1, 0), Fate::Fail);
        assert_eq!(OnDeath::Retry(0).fate(1, 0), Fate::Poisonous);
        assert_eq!(OnDeath::Retry(2).fate(9, 1), Fate::Retry { counts: true });
        assert_eq!(OnDeath::Retry(2).fate(9, 2), Fate::Poisonous);
        assert_eq!(
            OnDeath::Retry(u8::MAX).fate(1, u8::MAX),
            Fate::Poisonous,
            "it ends at the largest count, whatever the limit"
        );
    }

    #[test]
    fn only_a_death_alone_counts_where_batches_are_halved() {
        let policy = OnDeath::Bisect(1);
        assert_eq!(policy.fate(2, 1), Fate::Retry { counts: false });
        assert_eq!(policy.fate(1, 0), Fate::Retry { counts: true });
        assert_eq!(policy.fate(1, 1), Fate::Poisonous);
        assert!(policy.halves(2) && !policy.halves(1) && !OnDeath::Retry(1).halves(2));
    }
}
