//! The stage of a worker, and for how long the supervisor has seen it.

use crate::policy::on_death::look_every;
use std::time::{Duration, Instant};

/// The longest interval of looks: with a long limit, the supervisor notices at most this late.
const LONGEST_LOOK: Duration = Duration::from_secs(1);

/// Since when a killed process should have been dead.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Killing {
    pub(super) time: Duration,
    /// Whether the log says already that it has taken too long.
    pub(super) is_told: bool,
    /// Whether it was killed because the server shuts down.
    pub(super) by_shutdown: bool,
}

/// How a worker was told to leave.
#[derive(Debug)]
pub(super) struct Retiring {
    /// Why, in words.
    pub(super) why: String,
    /// Whether the message has been sent.
    pub(super) is_told: bool,
}

/// Under which limit a worker is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    Starting,
    Working,
    Leaving,
    Idle,
}

impl Stage {
    /// What a worker in this stage was doing, in words.
    pub(super) fn in_words(self) -> &'static str {
        match self {
            Self::Starting => "it was starting (in its set-up, new or warm_up)",
            Self::Working => "it was in a call",
            Self::Leaving => "it was leaving (in cleanup, or ending)",
            Self::Idle => "it was idle",
        }
    }
}

/// When to look, and how much time each look counts.
#[derive(Debug)]
pub(super) struct Looks {
    every: Duration,
    last: Instant,
}

impl Looks {
    /// Looks that are frequent enough for these limits.
    pub(super) fn for_limits(limits: impl IntoIterator<Item = Duration>) -> Self {
        let every = limits.into_iter().map(look_every).fold(LONGEST_LOOK, Duration::min);
        Self { every, last: Instant::now() }
    }

    /// When the next look is due.
    pub(super) fn next(&self) -> Instant {
        self.last + self.every // a second at most
    }

    /// If a look is due, how much time counts since the last one (`[looks]`).
    pub(super) fn take(&mut self, now: Instant) -> Option<Duration> {
        let passed = now.saturating_duration_since(self.last);
        if passed < self.every {
            return None;
        }
        self.last = now;
        Some(passed.min(2 * self.every))
    }
}

/// For how long the supervisor has seen a value unchanged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Seen<T> {
    what: T,
    time: Duration,
}

impl<T: PartialEq> Seen<T> {
    pub(super) fn new(what: T) -> Self {
        Self { what, time: Duration::ZERO }
    }

    /// For how long the value has been unchanged, at a look that counts `passed`.
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
    fn a_limit_without_end_still_has_looks() {
        assert_eq!(Looks::for_limits([Duration::MAX]).every, LONGEST_LOOK);
        assert_eq!(Looks::for_limits([]).every, LONGEST_LOOK);
        assert_eq!(Looks::for_limits([Duration::ZERO]).every, Duration::from_millis(1));
        let mut forever = Seen { what: (), time: Duration::MAX };
        assert_eq!(forever.look((), EVERY), Duration::MAX);
    }
}
