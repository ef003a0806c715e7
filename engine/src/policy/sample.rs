//! How often to time requests and batches. Pure.
//!
//! To time one takes some reads of a clock and some histograms, together up to [`COST_NS`]. So where there is much to do
//! only one of several is timed, and stands for the others; where there is little, each is. The interval between two
//! samples of a side tends to [`INTERVAL_NS`], by which timing takes less than a hundredth of one CPU.

use ringmill_shm::stats::Weight;
use std::cell::Cell;

/// What a sample costs, roughly: four reads of the clock, and some histograms whose lines are not in the nearest cache.
const COST_NS: u64 = 500;
/// The shortest time between two samples that is not too short.
const INTERVAL_NS: u64 = 200 * COST_NS;
/// The most requests or batches that one sample stands for.
const MOST: u32 = 1024;
/// After this time without a sample the next one is timed, whatever came before.
pub(crate) const QUIET_NS: u64 = 1_000_000;

/// Which requests, and which calls of user code, are timed: for the histograms of
/// [statistics](crate::stats). Those that are not are counted all the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Timing {
    /// All, as long as there are fewer than 10,000 a second; else some, so that timing takes less than a hundredth of one
    /// CPU, on the callers' side and in each worker.
    #[default]
    Adaptive,
    /// One of this number, 1 to 16,384, rounded down to a power of two: for measurements that must repeat.
    OneOf(u32),
    /// None: the histograms of times stay empty.
    Never,
}

impl Timing {
    /// The greatest number that one stands for.
    pub(crate) const MOST: u32 = 1 << 14;

    /// As the segment has it.
    pub(crate) fn raw(self) -> u32 {
        match self {
            Self::Adaptive => 0,
            Self::OneOf(count) => Weight::of(count).count() as u32, // at most 2^14
            Self::Never => u32::MAX,
        }
    }

    /// Any number is a timing: another process may have written it.
    pub(crate) fn from_raw(raw: u32) -> Self {
        match raw {
            0 => Self::Adaptive,
            u32::MAX => Self::Never,
            count => Self::OneOf(Weight::of(count).count() as u32),
        }
    }

    /// For how many the first sample stands; a power of two, or none is taken.
    pub(crate) fn first(self) -> Option<u32> {
        match self {
            Self::Adaptive => Some(1),
            Self::OneOf(count) => Some(count),
            Self::Never => None,
        }
    }

    /// For how many the next sample is to stand, a power of two; the last one stood for `every`, and came `since_ns`
    /// after the one before.
    pub(crate) fn next(self, every: u32, since_ns: u64) -> u32 {
        match (self, since_ns / INTERVAL_NS) {
            (Self::OneOf(_) | Self::Never, _) => every,
            (Self::Adaptive, 0) => (2 * every).min(MOST),
            (Self::Adaptive, times) => (every >> times.ilog2().min(31)).max(1),
        }
    }
}

/// When to take the samples of one thread.
#[derive(Debug)]
pub(crate) struct Turns {
    timing: Timing,
    every: Cell<u32>,
    /// How many are left, with the one to be timed; 0: none will be.
    left: Cell<u32>,
    last_ns: Cell<u64>,
}

impl Turns {
    pub(crate) fn new(timing: Timing) -> Self {
        let first = timing.first().unwrap_or(0);
        Self { timing, every: Cell::new(first), left: Cell::new(first), last_ns: Cell::new(0) }
    }

    /// Whether this one is timed. Then [`sample`](Self::sample) follows, before the next is asked for.
    #[inline]
    pub(crate) fn is_due(&self) -> bool {
        let left = self.left.get();
        self.left.set(left.wrapping_sub(1));
        left == 1
    }

    /// For how many the one that is timed now stands.
    pub(crate) fn sample(&self, now_ns: u64) -> Weight {
        let every = self.every.get();
        let next = self.timing.next(every, now_ns.saturating_sub(self.last_ns.replace(now_ns)));
        self.every.set(next);
        self.left.set(next);
        Weight::of(every)
    }

    /// Has the next one timed, if there was no sample for some time.
    pub(crate) fn wake(&self, now_ns: u64) {
        if self.timing == Timing::Adaptive && now_ns.saturating_sub(self.last_ns.get()) > QUIET_NS {
            self.every.set(1);
            self.left.set(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Times `count` that come every `gap_ns`; returns how many were timed, for how many they stood, and the last `every`.
    fn timed(turns: &Turns, now_ns: &mut u64, count: u32, gap_ns: u64) -> (u32, u64, u32) {
        let (mut samples, mut stood_for) = (0, 0);
        for _ in 0..count {
            *now_ns += gap_ns;
            if turns.is_due() {
                samples += 1;
                stood_for += turns.sample(*now_ns).count();
            }
        }
        (samples, stood_for, turns.every.get())
    }

    #[test]
    fn what_comes_seldom_is_all_timed_and_what_comes_often_takes_little_time() {
        for gap_ns in [60, 250, 1_000, 7_000, 20_000, 1_000_000] {
            let (turns, mut now_ns) = (Turns::new(Timing::Adaptive), 1_000_000_000);
            let count = 1_000_000;
            let (samples, stood_for, every) = timed(&turns, &mut now_ns, count, gap_ns);
            let cost_ns = u64::from(samples) * COST_NS;
            assert!(cost_ns * 100 < gap_ns * u64::from(count), "{gap_ns}: {samples} samples");
            assert!(every == 1 || u64::from(every) * gap_ns < 2 * INTERVAL_NS, "{gap_ns}: one of {every}");
            // Each sample stands for those before it, up to the steps of a power of two.
            assert!(stood_for.abs_diff(u64::from(count)) <= u64::from(MOST), "{gap_ns}: for {stood_for}");
        }
    }

    #[test]
    fn when_the_rush_is_over_the_next_is_timed() {
        let (turns, mut now_ns) = (Turns::new(Timing::Adaptive), 1_000_000_000);
        timed(&turns, &mut now_ns, 100_000, 20);
        assert_eq!(turns.every.get(), MOST);
        now_ns += 2 * QUIET_NS;
        turns.wake(now_ns);
        assert!(turns.is_due());
        assert_eq!(turns.sample(now_ns), Weight::ONE);
        assert_eq!(Timing::Adaptive.next(MOST, u64::MAX), 1);
    }

    #[test]
    fn a_stated_number_stays_and_none_is_none() {
        let turns = Turns::new(Timing::from_raw(Timing::OneOf(11).raw()));
        let (samples, stood_for, _) = timed(&turns, &mut 0, 800, 10);
        assert_eq!((samples, stood_for), (100, 800));
        let turns = Turns::new(Timing::from_raw(Timing::Never.raw()));
        turns.wake(u64::MAX);
        assert_eq!(timed(&turns, &mut 0, 100_000, 10).0, 0);
        for raw in [0, 1, 3, 1 << 20, u32::MAX - 1, u32::MAX] {
            let timing = Timing::from_raw(raw);
            assert_eq!(Timing::from_raw(timing.raw()), timing);
            assert!(timing.first().is_none_or(|first| first.is_power_of_two() && first <= Timing::MOST));
        }
    }
}
