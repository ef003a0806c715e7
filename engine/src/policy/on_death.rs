//! What becomes of requests whose worker died with them in its hands. Pure.

use std::time::Duration;

/// What becomes of the requests that a worker was working on when it died.
///
/// Work that it had not begun is always left to the next worker, and work that it had ended is never done again.
///
/// Whatever is tried again, its outcome does not overwrite its input: a small one that shares the input's place
/// otherwise needs a payload block of its own. That costs about as much as an input that does not fit in line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnDeath {
    /// They end with [`CallError::WorkerDied`](crate::CallError::WorkerDied): user code runs at most once.
    #[default]
    Fail,
    /// Each is tried again, up to so many times; for work that may be done twice. One that a worker dies with once
    /// more is *poisonous*, and ends with an error that says so. All of a batch are tried, and blamed, together.
    Retry(u8),
    /// The same, but a batch that a worker dies with is first tried again in halves, and those in halves, until who
    /// dies has a single request in hand: that one is tried so many times, alone. So one poisonous request costs the
    /// others of its batch nothing but time. Deaths on the way count for no request and for no
    /// [`Restarts`](crate::Restarts): of a batch of 64 they are six.
    ///
    /// With several [`stream_threads`](crate::ProcessServlet::stream_threads) one process dies with several batches,
    /// and the requests of each are suspected.
    Bisect(u8),
}

/// What becomes of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It ends with the worker's death.
    Fail,
    /// It is tried again.
    Again {
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

    /// Whether a batch is put together only of what belongs together.
    pub(crate) fn keeps_apart(self) -> bool {
        matches!(self, Self::Bisect(_))
    }

    /// Whether a death with so many requests in hand is only on the way to the one to blame.
    pub(crate) fn halves(self, suspects: usize) -> bool {
        self.keeps_apart() && suspects > 1
    }

    /// What becomes of one of so many requests that were in a dead worker's hands, and in `deaths` others' before.
    pub(crate) fn fate(self, suspects: usize, deaths: u8) -> Fate {
        match self {
            Self::Fail => Fate::Fail,
            Self::Bisect(_) if self.halves(suspects) => Fate::Again { counts: false },
            Self::Retry(most) | Self::Bisect(most) if deaths < most => Fate::Again { counts: true },
            Self::Retry(_) | Self::Bisect(_) => Fate::Poisonous,
        }
    }
}

/// How much later than its time a call may be found to take too long, as a part of that time.
const LATE: u32 = 8;

/// How often to look at a worker whose calls may take so long.
pub(crate) fn look_every(exec_timeout: Duration) -> Duration {
    (exec_timeout / LATE).max(Duration::from_millis(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_tried_so_often_and_no_more() {
        assert_eq!(OnDeath::Fail.fate(1, 0), Fate::Fail);
        assert_eq!(OnDeath::Retry(0).fate(1, 0), Fate::Poisonous);
        assert_eq!(OnDeath::Retry(2).fate(9, 1), Fate::Again { counts: true });
        assert_eq!(OnDeath::Retry(2).fate(9, 2), Fate::Poisonous);
        assert_eq!(
            OnDeath::Retry(u8::MAX).fate(1, u8::MAX),
            Fate::Poisonous,
            "it ends, whatever is asked for"
        );
    }

    #[test]
    fn only_a_death_alone_counts_where_batches_are_halved() {
        let policy = OnDeath::Bisect(1);
        assert_eq!(policy.fate(2, 1), Fate::Again { counts: false });
        assert_eq!(policy.fate(1, 0), Fate::Again { counts: true });
        assert_eq!(policy.fate(1, 1), Fate::Poisonous);
        assert!(policy.halves(2) && !policy.halves(1) && !OnDeath::Retry(1).halves(2));
    }
}
