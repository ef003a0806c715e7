//! How soon and how often a worker that has died is started again: a policy, and its state. Pure, no clock
//! inside.
//!
//! # Protocol
//!
//! | State of a worker's place | Means | Left when, to |
//! |---|---|---|
//! | counting | so many young deaths in a row, up to the limit | it dies once more than that → given up; it has lived long enough → counting from none |
//! | given up | nothing runs there | the time is over → on trial, if there is one |
//! | on trial | one more worker is started | it dies young → given up; it has lived long enough → counting from none |
//!
//! The circuit of a servlet is open while all its workers' places are given up, or on trial and not ready yet.

use crate::error::StartError;
use std::time::Duration;

/// How often a worker may die young before it is given up, if nothing else is said.
pub const RESTART_LIMIT: u32 = 8;

/// How soon and how often workers that have died are started again.
///
/// A worker that dies is started again after a back-off, which doubles with each *young* death in a row: one
/// before it has lived for [`healthy_after`](Self::healthy_after). One that dies young more often than the limit
/// is given up. Once all workers of a servlet are, its circuit is *open*: requests fail at once with
/// [`CallError::ServletDown`](crate::CallError::ServletDown), which says why. After
/// [`try_again_after`](Self::try_again_after) a worker is started again, on trial; when it is ready the servlet
/// takes requests again, and if it dies young the circuit is open for as long once more.
///
/// ```
/// use ringmill::{PassThrough, ProcessServlet, Restarts};
/// use std::time::Duration;
///
/// let policy = Restarts::default()
///     .limit(3)
///     .backoff(Duration::from_millis(100), Duration::from_secs(2))
///     .try_again_after(Duration::from_secs(5));
/// let servlet = ProcessServlet::<PassThrough<u32>>::new(()).restarts(policy);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Restarts {
    limit: u32,
    first_backoff: Duration,
    longest_backoff: Duration,
    healthy_after: Duration,
    try_again_after: Option<Duration>,
}

impl Default for Restarts {
    /// Given up after [`RESTART_LIMIT`] young deaths in a row, each before 10 s; back-off from 10 ms to 5 s;
    /// tried again after 30 s.
    fn default() -> Self {
        Self {
            limit: RESTART_LIMIT,
            first_backoff: Duration::from_millis(10),
            longest_backoff: Duration::from_secs(5),
            healthy_after: Duration::from_secs(10),
            try_again_after: Some(Duration::from_secs(30)),
        }
    }
}

impl Restarts {
    /// Always started again, after a back-off.
    #[must_use]
    pub fn unlimited() -> Self {
        Self::default().limit(u32::MAX)
    }

    /// How often in a row a worker may die young and be started again; 0: never.
    #[must_use]
    pub fn limit(mut self, deaths: u32) -> Self {
        self.limit = deaths;
        self
    }

    /// How long after its first young death a worker is started again, and the longest that doubling leads to.
    #[must_use]
    pub fn backoff(mut self, first: Duration, longest: Duration) -> Self {
        (self.first_backoff, self.longest_backoff) = (first, longest);
        self
    }

    /// A worker that has lived so long is healthy: its next death is its first.
    #[must_use]
    pub fn healthy_after(mut self, life: Duration) -> Self {
        self.healthy_after = life;
        self
    }

    /// After how long a worker that was given up is started again, on trial.
    #[must_use]
    pub fn try_again_after(mut self, rest: Duration) -> Self {
        self.try_again_after = Some(rest);
        self
    }

    /// What is given up is not tried again.
    #[must_use]
    pub fn for_good(mut self) -> Self {
        self.try_again_after = None;
        self
    }

    /// # Errors
    /// If the first back-off is longer than the longest.
    pub(crate) fn check(&self, servlet: &str) -> Result<(), StartError> {
        if self.first_backoff <= self.longest_backoff {
            return Ok(());
        }
        Err(StartError::Backoff {
            servlet: servlet.into(),
            first: self.first_backoff,
            longest: self.longest_backoff,
        })
    }

    /// In words, what became of workers that were given up.
    pub(crate) fn giving_up(&self, how: &str) -> String {
        let times = match self.limit {
            0 => "died and is not to be started again".into(),
            1 => "died twice in a row".into(),
            n => format!("died more than {n} times in a row"),
        };
        let next = match self.try_again_after {
            Some(rest) => format!("; tried again after {rest:?}"),
            None => String::new(),
        };
        format!("each of its workers {times}; the last one {how}{next}")
    }
}

/// What becomes of a worker's place after a death.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Next {
    /// It is started again after so long.
    Restart(Duration),
    /// It is given up, and tried again after so long, if at all.
    GiveUp(Option<Duration>),
}

/// The young deaths in a row of one worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Record {
    young_deaths: u32,
}

impl Record {
    /// A worker has died that had lived so long.
    pub(crate) fn death(&mut self, policy: &Restarts, lived: Duration) -> Next {
        if lived >= policy.healthy_after {
            self.young_deaths = 0;
        }
        if self.young_deaths >= policy.limit {
            return Next::GiveUp(policy.try_again_after);
        }
        let doublings = self.young_deaths;
        self.young_deaths += 1;
        let backoff = policy.first_backoff.saturating_mul(2_u32.saturating_pow(doublings));
        Next::Restart(backoff.min(policy.longest_backoff))
    }

    /// How many it counts.
    pub(crate) fn young_deaths(&self) -> u32 {
        self.young_deaths
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const YOUNG: Duration = Duration::ZERO;

    #[test]
    fn the_backoff_doubles_up_to_the_longest() {
        let policy = Restarts::unlimited().backoff(Duration::from_millis(10), Duration::from_millis(65));
        let mut record = Record::default();
        let mut next = || match record.death(&policy, YOUNG) {
            Next::Restart(after) => after.as_millis(),
            Next::GiveUp(_) => panic!("unlimited"),
        };
        assert_eq!([(); 5].map(|()| next()), [10, 20, 40, 65, 65]);
        for _ in 0..100 {
            assert_eq!(next(), 65);
        }
    }

    #[test]
    fn given_up_after_the_limit_and_again_after_each_trial() {
        let policy = Restarts::default().limit(2).try_again_after(Duration::from_secs(3));
        let mut record = Record::default();
        assert!(matches!(record.death(&policy, YOUNG), Next::Restart(_)));
        assert!(matches!(record.death(&policy, YOUNG), Next::Restart(_)));
        for _ in 0..3 {
            assert_eq!(record.death(&policy, YOUNG), Next::GiveUp(Some(Duration::from_secs(3))));
        }
        assert_eq!(record.death(&policy, Duration::from_secs(10)), Next::Restart(Duration::from_millis(10)));
        assert_eq!(record.young_deaths(), 1);
    }

    #[test]
    fn never_means_never() {
        let policy = Restarts::default().limit(0).for_good();
        assert_eq!(Record::default().death(&policy, Duration::MAX), Next::GiveUp(None));
        assert!(policy.giving_up("ended").contains("not to be started again; the last one ended"));
        assert!(policy.check("s").is_ok());
        let backwards = Restarts::default().backoff(Duration::from_secs(9), Duration::from_secs(1));
        assert_eq!(
            backwards.check("s").unwrap_err().to_string(),
            "servlet s: the first back-off (9s) is longer than the longest (1s)"
        );
    }
}
