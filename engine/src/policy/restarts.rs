//! How soon and how often a dead worker is restarted: a policy, and its state. Pure, no clock inside.
//!
//! # Protocol
//!
//! A death says something about the servlet only if the *start* failed: the worker died before it was ready, or while
//! idle, or gave up with a fatal error, and had finished no batch. Only such deaths count against the limit.
//!
//! | A worker died | Counts | Restarted |
//! |---|---|---|
//! | after it had finished a batch since its start, in whatever way | no; the count begins at none | at once |
//! | at its first batch, while its servlet makes progress: a worker has finished a batch since the last such death | no; the count begins at none | at once |
//! | at its first batch (a crash, a timeout), without progress | no; the count begins at none | after a pause that grows to ten times the first back-off |
//! | ready, with no batch begun, after [`Restarts::healthy_after`] | yes, as the first | after the first back-off |
//! | else: not ready yet, idle, or by a fatal error at its first batch without progress | yes | after a back-off that doubles |
//!
//! The pause is the bound on restarts where every request kills its worker: by default ten in a second for each
//! worker, and none without requests.
//!
//! | State of a worker | Means | Left when, to |
//! |---|---|---|
//! | counting | a number of deaths in a row that count, up to the limit | one more than the limit → given up; a death that does not count → counting from none |
//! | given up | it does not run | its rest is over → on trial, if the policy has a rest |
//! | on trial | it is started once more | a death that counts → given up; one that does not → counting from none |
//!
//! The circuit of a servlet is open while all its workers are given up, or on trial and not ready yet.

use crate::error::StartError;
use std::time::Duration;

/// The default limit: how many starts of a worker may fail in a row before it is given up.
pub const RESTART_LIMIT: u32 = 8;

/// The longest pause after deaths at a worker's first batch, in first back-offs.
const LONGEST_PAUSE: u32 = 10;

/// How soon and how often dead workers are restarted.
///
/// What counts is whether a *start failed*: the worker died before it was ready, or while idle and before it had lived
/// for [`healthy_after`](Self::healthy_after), or gave up with a [fatal](crate::BoxError::fatal) error at its first
/// batch. The worker is restarted after a back-off, which doubles with each such death in a row, and given up after
/// more of them than the limit.
///
/// Bad requests are no reason to take a servlet down. The death of a worker that has finished a batch since its start,
/// or that had requests in its hands (a crash, or [`exec_timeout`](crate::ProcessServlet::exec_timeout)), does not
/// count, and the worker is restarted at once. So a worker may also stop on purpose after a number of items, with a
/// fatal error. Where every request kills its worker, so that none of the servlet's workers finishes a batch, the pause
/// before each restart grows to ten times the first back-off.
///
/// By default a worker is given up after more than 8 failed starts in a row, and counts as healthy after 10 s idle; the
/// back-off grows from 10 ms to 5 s; a trial follows after 30 s.
///
/// Once all workers of a servlet are given up, its circuit is *open*: requests fail at once with
/// [`CallError::ServletDown`](crate::CallError::ServletDown), which says why. After
/// [`try_again_after`](Self::try_again_after) a worker is started on trial. When it is ready, the servlet takes
/// requests again; if its start fails, the circuit stays open for as long once more.
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
    /// A worker is given up after more than [`RESTART_LIMIT`] failed starts in a row, and counts as healthy after 10 s
    /// idle; back-off from 10 ms to 5 s; a trial after 30 s.
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
    /// Workers are always restarted, after a back-off.
    #[must_use]
    pub fn unlimited() -> Self {
        Self::default().limit(u32::MAX)
    }

    /// How many restarts of a worker may fail in a row; 0: it is never restarted, whatever it died of.
    #[must_use]
    pub fn limit(mut self, deaths: u32) -> Self {
        self.limit = deaths;
        self
    }

    /// The back-off after the first death that counts, and the longest that doubling leads to. Ten times the first is
    /// also the longest pause where every request kills its worker.
    #[must_use]
    pub fn backoff(mut self, first: Duration, longest: Duration) -> Self {
        (self.first_backoff, self.longest_backoff) = (first, longest);
        self
    }

    /// A worker that has lived this long is healthy, even if it was idle: its next death counts as its first.
    #[must_use]
    pub fn healthy_after(mut self, life: Duration) -> Self {
        self.healthy_after = life;
        self
    }

    /// How long a worker that was given up rests before it is started on trial.
    #[must_use]
    pub fn try_again_after(mut self, rest: Duration) -> Self {
        self.try_again_after = Some(rest);
        self
    }

    /// A worker that was given up is not started again.
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

    /// Why all workers of a servlet were given up, for people; `how` the last one ended.
    pub(crate) fn giving_up(&self, how: &str) -> String {
        let times = match self.limit {
            0 => "died and is not to be started again".into(),
            1 => "failed to start twice in a row".into(),
            n => format!("failed to start more than {n} times in a row"),
        };
        let next = match self.try_again_after {
            Some(rest) => format!("; it is started on trial after {rest:?}"),
            None => String::new(),
        };
        format!("each of its workers {times}; the last one {how}{next}")
    }
}

/// What the supervisor does after a worker's death.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Next {
    /// Restarts the worker after this time.
    Restart(Duration),
    /// Gives the worker up, and starts it on trial after this time, if at all.
    GiveUp(Option<Duration>),
}

/// What the supervisor knows of a worker's death.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Death {
    /// How long the worker had lived, if it had been ready.
    pub(crate) lived: Option<Duration>,
    /// It died at a batch, or was killed because of one.
    pub(crate) had_work: bool,
    /// It gave up with a fatal error.
    pub(crate) gave_up: bool,
    /// It had finished a batch since its start.
    pub(crate) had_finished: bool,
    /// A worker of its servlet has finished a batch since the last one died at its first batch.
    pub(crate) progress: bool,
}

impl Death {
    /// Whether this worker died at its first batch and finished none.
    pub(crate) fn is_barren(&self) -> bool {
        self.had_work && !self.had_finished
    }
}

/// The deaths of one worker that count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Record {
    /// Failed starts, in a row.
    in_vain: u32,
    /// Deaths at the first batch, in a row, without progress of the servlet.
    barren: u32,
}

impl Record {
    /// Counts a death, and says what to do.
    pub(crate) fn death(&mut self, policy: &Restarts, death: &Death) -> Next {
        if policy.limit == 0 {
            return Next::GiveUp(policy.try_again_after);
        }
        let fruit = death.had_finished || (death.had_work && death.progress);
        if fruit || (death.had_work && !death.gave_up) {
            self.in_vain = 0;
            self.barren = if fruit { 0 } else { self.barren.saturating_add(1) };
            let pause = policy.first_backoff.saturating_mul(self.barren.min(LONGEST_PAUSE));
            return Next::Restart(pause.min(policy.longest_backoff));
        }
        if death.lived.is_some_and(|lived| lived >= policy.healthy_after) {
            self.in_vain = 0;
        }
        if self.in_vain >= policy.limit {
            return Next::GiveUp(policy.try_again_after);
        }
        let doublings = self.in_vain;
        self.in_vain += 1;
        let backoff = policy.first_backoff.saturating_mul(2_u32.saturating_pow(doublings));
        Next::Restart(backoff.min(policy.longest_backoff))
    }

    /// The number of failed starts in a row.
    pub(crate) fn in_vain(&self) -> u32 {
        self.in_vain
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const IN_VAIN: Death =
        Death { lived: None, had_work: false, gave_up: false, had_finished: false, progress: false };
    const BARREN: Death = Death { lived: Some(Duration::ZERO), had_work: true, ..IN_VAIN };
    const AT_ONCE: Next = Next::Restart(Duration::ZERO);

    fn lived(time: Duration) -> Death {
        Death { lived: Some(time), ..IN_VAIN }
    }

    #[test]
    fn the_backoff_doubles_up_to_the_longest() {
        let policy = Restarts::unlimited().backoff(Duration::from_millis(10), Duration::from_millis(65));
        let mut record = Record::default();
        let mut next = || match record.death(&policy, &IN_VAIN) {
            Next::Restart(after) => after.as_millis(),
            Next::GiveUp(_) => panic!("unlimited"),
        };
        assert_eq!([(); 5].map(|()| next()), [10, 20, 40, 65, 65]);
        for _ in 0..100 {
            assert_eq!(next(), 65);
        }
    }

    #[test]
    fn a_worker_is_given_up_after_the_limit_and_after_each_failed_trial() {
        let policy = Restarts::default().limit(2).try_again_after(Duration::from_secs(3));
        let mut record = Record::default();
        assert!(matches!(record.death(&policy, &IN_VAIN), Next::Restart(_)));
        assert!(matches!(record.death(&policy, &lived(Duration::ZERO)), Next::Restart(_)));
        for _ in 0..3 {
            assert_eq!(record.death(&policy, &IN_VAIN), Next::GiveUp(Some(Duration::from_secs(3))));
        }
        let healthy = lived(Duration::from_secs(10));
        assert_eq!(record.death(&policy, &healthy), Next::Restart(Duration::from_millis(10)));
        assert_eq!(record.in_vain(), 1);
    }

    #[test]
    fn a_limit_of_zero_never_restarts() {
        let policy = Restarts::default().limit(0).for_good();
        for death in [lived(Duration::MAX), BARREN, Death { had_finished: true, ..BARREN }] {
            assert_eq!(Record::default().death(&policy, &death), Next::GiveUp(None));
        }
        assert!(policy.giving_up("ended").contains("not to be started again; the last one ended"));
        assert!(policy.check("s").is_ok());
        let backwards = Restarts::default().backoff(Duration::from_secs(9), Duration::from_secs(1));
        assert_eq!(
            backwards.check("s").unwrap_err().to_string(),
            "servlet s: the first back-off (9s) is longer than the longest (1s): swap them"
        );
    }

    #[test]
    fn deaths_at_requests_count_for_nothing() {
        let policy = Restarts::default().limit(1);
        let mut record = Record::default();
        assert!(matches!(record.death(&policy, &IN_VAIN), Next::Restart(_)));
        for _ in 0..1000 {
            assert_eq!(record.death(&policy, &Death { progress: true, ..BARREN }), AT_ONCE);
            assert_eq!(
                record.death(&policy, &Death { had_finished: true, ..lived(Duration::ZERO) }),
                AT_ONCE
            );
        }
        assert_eq!(record.in_vain(), 0, "a death that does not count ends the row");
        assert!(matches!(record.death(&policy, &IN_VAIN), Next::Restart(_)));
        assert!(matches!(record.death(&policy, &IN_VAIN), Next::GiveUp(_)));
    }

    #[test]
    fn a_worker_that_gives_up_at_once_counts_and_one_that_has_worked_does_not() {
        let policy = Restarts::default().limit(1);
        let gave_up = Death { gave_up: true, ..BARREN };
        let mut record = Record::default();
        assert!(matches!(record.death(&policy, &gave_up), Next::Restart(_)));
        assert!(matches!(record.death(&policy, &gave_up), Next::GiveUp(_)));
        assert_eq!(record.death(&policy, &Death { progress: true, ..gave_up }), AT_ONCE);
        assert_eq!(record.death(&policy, &Death { had_finished: true, ..gave_up }), AT_ONCE);
        assert_eq!(record.in_vain(), 0);
    }

    #[test]
    fn where_every_request_kills_there_is_a_pause() {
        let policy = Restarts::default().backoff(Duration::from_millis(10), Duration::from_secs(5));
        let mut record = Record::default();
        let mut next = |progress| match record.death(&policy, &Death { progress, ..BARREN }) {
            Next::Restart(after) => after.as_millis(),
            Next::GiveUp(_) => panic!("it counts for nothing"),
        };
        assert_eq!([(); 12].map(|()| next(false)), [10, 20, 30, 40, 50, 60, 70, 80, 90, 100, 100, 100]);
        assert_eq!([next(true), next(false), next(false)], [0, 10, 20]);
        let short = policy.backoff(Duration::ZERO, Duration::from_millis(15));
        assert_eq!(record.death(&short, &BARREN), AT_ONCE);
    }
}
