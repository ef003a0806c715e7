//! What a worker is in, and for how long it has been seen to be.

use crate::policy::on_death::look_every;
use std::time::{Duration, Instant};

/// There is a look at least as often: the longest that something is late when its limit is long.
const LONGEST_LOOK: Duration = Duration::from_secs(1);

/// Since when a process should have been dead.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Killing {
    pub(super) time: Duration,
    /// It has taken too long, and that was said.
    pub(super) is_told: bool,
}

/// Which limit a worker is under.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    Starting,
    Working,
    Leaving,
    Idle,
}

impl Stage {
    /// What one that was in it for too long did; in words.
    pub(super) fn in_words(self) -> &'static str {
        match self {
            Self::Starting => "it was starting (in new or warm_up)",
            Self::Working => "it was in a call",
            Self::Leaving => "it was leaving (in cleanup, or ending)",
            Self::Idle => "it was idle",
        }
    }
}

/// When to look, and how much time a look is worth.
#[derive(Debug)]
pub(super) struct Looks {
    every: Duration,
    last: Instant,
}

impl Looks {
    /// Often enough for these limits.
    pub(super) fn for_limits(limits: impl IntoIterator<Item = Duration>) -> Self {
        let every = limits.into_iter().map(look_every).fold(LONGEST_LOOK, Duration::min);
        Self { every, last: Instant::now() }
    }

    /// When the next one is due.
    pub(super) fn next(&self) -> Instant {
        self.last + self.every // a second at most
    }

    /// If one is due, how much time has passed since the last (*looks*).
    pub(super) fn take(&mut self, now: Instant) -> Option<Duration> {
        let passed = now.saturating_duration_since(self.last);
        if passed < self.every {
            return None;
        }
        self.last = now;
        Some(passed.min(2 * self.every))
    }
}

/// For how long something has been seen to go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Seen<T> {
    what: T,
    time: Duration,
}

impl<T: PartialEq> Seen<T> {
    pub(super) fn new(what: T) -> Self {
        Self { what, time: Duration::ZERO }
    }

    /// For how long it has gone on, at a look so long after the last.
    pub(super) fn look(&mut self, what: T, passed: Duration) -> Duration {
        match self.what == what {
            true => self.time = self.time.saturating_add(passed),
            false => *self = Self::new(what),
        }
        self.time
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVERY: Duration = Duration::from_millis(100);

    #[test]
    fn a_gap_is_one_look() {
        let mut looks = Looks::for_limits([8 * EVERY, Duration::MAX]);
        let begun = looks.last;
        let mut call = Seen::new(7);
        assert_eq!(looks.take(begun + EVERY / 2), None);
        let passed = looks.take(begun + EVERY).expect("it is due");
        assert_eq!((passed, call.look(7, passed)), (EVERY, EVERY));
        // Frozen for an hour.
        let passed = looks.take(begun + Duration::from_secs(3600)).expect("it is due");
        assert_eq!(call.look(7, passed), 3 * EVERY);
        assert_eq!(call.look(8, passed), Duration::ZERO, "another call");
        assert_eq!(looks.take(begun), None, "a clock that goes back");
    }

    #[test]
    fn a_limit_without_end_is_looked_at_now_and_then() {
        assert_eq!(Looks::for_limits([Duration::MAX]).every, LONGEST_LOOK);
        assert_eq!(Looks::for_limits([]).every, LONGEST_LOOK);
        assert_eq!(Looks::for_limits([Duration::ZERO]).every, Duration::from_millis(1));
        let mut forever = Seen { what: (), time: Duration::MAX };
        assert_eq!(forever.look((), EVERY), Duration::MAX);
    }
}
