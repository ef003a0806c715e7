//! Deadlines and elapsed time, for limits of any length and for a program that is frozen meanwhile.

use std::time::{Duration, Instant};

/// The longest limit: a century, which every clock can represent. Longer ones mean for ever.
const FOR_EVER: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

/// The instant at which a limit that begins now is over.
pub(crate) fn deadline(limit: Duration) -> Instant {
    Instant::now() + limit.min(FOR_EVER)
}

/// A time in nanoseconds; `u64::MAX` if it is longer.
pub(crate) fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// Elapsed time as seen by regular looks. Between one look and the next it counts at most two usual intervals, so a
/// program that is frozen meanwhile does not use up its time.
#[derive(Debug)]
pub(crate) struct Watched {
    last: Instant,
    usual: Duration,
    time: Duration,
}

impl Watched {
    /// Starts to count now; the caller will look at this interval.
    pub(crate) fn every(usual: Duration) -> Self {
        Self { last: Instant::now(), usual, time: Duration::ZERO }
    }

    /// The time that has passed.
    pub(crate) fn look(&mut self) -> Duration {
        self.look_at(Instant::now())
    }

    fn look_at(&mut self, now: Instant) -> Duration {
        let passed = now.saturating_duration_since(self.last).min(self.usual.saturating_mul(2));
        self.last = now;
        self.time = self.time.saturating_add(passed);
        self.time
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_limit_is_too_long() {
        assert!(deadline(Duration::MAX) > Instant::now() + Duration::from_secs(1 << 30));
        assert_eq!((nanos(Duration::MAX), nanos(Duration::from_micros(3))), (u64::MAX, 3000));
    }

    #[test]
    fn a_gap_is_two_looks() {
        let mut watched = Watched::every(Duration::from_secs(1));
        let begun = watched.last;
        assert_eq!(watched.look_at(begun + Duration::from_millis(700)), Duration::from_millis(700));
        assert_eq!(watched.look_at(begun + Duration::from_secs(3600)), Duration::from_millis(2700));
        assert_eq!(watched.look_at(begun), Duration::from_millis(2700));
    }
}
