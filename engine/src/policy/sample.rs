//! How often to time requests and batches. Pure.
//!
//! To time one takes some reads of a clock and some histograms, together up to [`COST_NS`]. So where there is much to do
//! only one of several is timed, and stands for the others; where there is little, each is. The interval between two
//! samples of a side tends to [`INTERVAL_NS`], by which timing takes less than a hundredth of the time of a thread.

use ringmill_shm::stats::Weight;
use std::cell::Cell;

/// What a sample costs at most, all sides together: some reads of the clock, and of each histogram two lines. Where each of
/// 2 million streamed items of 8 bytes is timed, one takes 129 ns, and 66 where none is (`Timing::OneOf(1)` beside
/// `Timing::Never`, worker and caller on two CPUs); a call takes as long with as without.
const COST_NS: u64 = 100;
/// The shortest time between two samples that is not too short.
const INTERVAL_NS: u64 = 1_000 * COST_NS;
/// The most requests or batches that one sample stands for on average; the greatest distance is below twice as many.
const MOST: u32 = 512;
/// After this time without a sample the next one is timed, whatever came before.
const QUIET_NS: u64 = 1_000_000;

const _: () = assert!(2 * MOST as u64 - 1 <= Weight::MOST);

/// Which requests, and which calls of user code, are timed: for the histograms of
/// [statistics](crate::stats). Those that are not are counted all the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Timing {
    /// All, as long as there are fewer than 10,000 a second; else some at random, so that timing takes less than a hundredth
    /// of the time of each calling thread, and of each worker.
    #[default]
    Adaptive,
    /// One of this number, 1 to 1,023, in each thread: for measurements that must repeat.
    OneOf(u32),
    /// None: the histograms of times stay empty.
    Never,
}

impl Timing {
    /// The greatest number that one stands for.
    pub(crate) const MOST: u32 = Weight::MOST as u32;

    /// As the segment has it.
    pub(crate) fn raw(self) -> u32 {
        match self {
            Self::Adaptive => 0,
            Self::OneOf(count) => count,
            Self::Never => u32::MAX,
        }
    }

    /// Any number is a timing: another process may have written it.
    pub(crate) fn from_raw(raw: u32) -> Self {
        match raw {
            0 => Self::Adaptive,
            u32::MAX => Self::Never,
            count => Self::OneOf(count.min(Self::MOST)),
        }
    }

    /// For how many the next sample is to stand on average; the last one stood for `every`, and came `since_ns` after the
    /// one before.
    fn next(self, every: u32, since_ns: u64) -> u32 {
        match (self, since_ns / INTERVAL_NS) {
            (Self::OneOf(_) | Self::Never, _) => every,
            (Self::Adaptive, 0) => (2 * every).min(MOST),
            (Self::Adaptive, times) => (every >> times.ilog2().min(31)).max(1),
        }
    }
}

/// When one thread takes its samples: after distances that are random where the timing adapts, so that requests of a
/// regular pattern are met as often as they come.
#[derive(Debug)]
pub(crate) struct Countdown {
    timing: Cell<Timing>,
    /// The mean distance.
    every: Cell<u32>,
    /// How many are left, with the one to be timed; 0: none will be.
    left: Cell<u64>,
    /// How many the next sample stands for, by what was drawn last.
    stands_for: Cell<u64>,
    /// What was left when one more sample was put in between; 0: none is.
    left_behind: Cell<u64>,
    last_ns: Cell<u64>,
    random: Cell<u32>,
}

impl Countdown {
    /// One that takes no samples.
    pub(crate) const fn never() -> Self {
        Self {
            timing: Cell::new(Timing::Never),
            every: Cell::new(0),
            left: Cell::new(0),
            stands_for: Cell::new(0),
            left_behind: Cell::new(0),
            last_ns: Cell::new(0),
            random: Cell::new(0x9E37_79B9), // any number but 0
        }
    }

    pub(crate) fn new(timing: Timing) -> Self {
        let first = match timing {
            Timing::Adaptive => 1,
            Timing::OneOf(count) => count,
            Timing::Never => 0,
        };
        Self {
            timing: Cell::new(timing),
            every: Cell::new(first),
            left: Cell::new(first.into()),
            stands_for: Cell::new(first.into()),
            ..Self::never()
        }
    }

    /// Takes the other's place.
    pub(crate) fn set_to(&self, other: &Self) {
        self.timing.set(other.timing.get());
        self.every.set(other.every.get());
        self.left.set(other.left.get());
        self.stands_for.set(other.stands_for.get());
        self.left_behind.set(other.left_behind.get());
        self.last_ns.set(other.last_ns.get());
        self.random.set(other.random.get());
    }

    /// Whether this one is timed. Then [`sample`](Self::sample) follows, before the next is asked for.
    #[inline]
    pub(crate) fn is_due(&self) -> bool {
        let left = self.left.get();
        self.left.set(left.wrapping_sub(1));
        left == 1
    }

    /// Counts as many at once, of `count`, as come before one that is due; returns how many.
    #[inline]
    pub(crate) fn pass(&self, count: u64) -> u64 {
        let left = self.left.get();
        let passed = if left == 0 { count } else { count.min(left - 1) };
        self.left.set(left.wrapping_sub(passed));
        passed
    }

    /// For how many the one that is timed now stands: all since the last one; or, if it was put in between, for itself.
    pub(crate) fn sample(&self, now_ns: u64) -> Weight {
        let last_ns = self.last_ns.replace(now_ns);
        if last_ns == 0 {
            self.random.set(self.random.get() ^ now_ns as u32 | 1); // no two threads take the same samples
        }
        let left_behind = self.left_behind.replace(0);
        if left_behind > 0 {
            self.left.set(left_behind - 1);
            self.stands_for.set(self.stands_for.get() - 1);
            return Weight::ONE;
        }
        let weight = Weight::of(self.stands_for.get());
        let since_ns = now_ns.saturating_sub(last_ns);
        self.every.set(self.timing.get().next(self.every.get(), since_ns));
        self.stands_for.set(0);
        self.draw();
        weight
    }

    fn draw(&self) {
        let every = self.every.get();
        let distance = match self.timing.get() {
            // From 1 to one less than twice the mean.
            Timing::Adaptive if every > 1 => 1 + u64::from(self.next_random()) % (2 * u64::from(every) - 1),
            _ => every.into(),
        };
        self.left.set(distance);
        self.stands_for.set(self.stands_for.get() + distance);
    }

    /// G. Marsaglia, "Xorshift RNGs", Journal of Statistical Software 8 (2003).
    fn next_random(&self) -> u32 {
        let mut x = self.random.get();
        x ^= x << 13;
        x ^= x >> 17;
        x ^= x << 5;
        self.random.set(x);
        x
    }

    /// Has the next one timed, if there was no sample for some time: one more, in between, which stands for itself. It
    /// follows a pause and is no random one, so those before it wait for the sample that was drawn.
    pub(crate) fn wake(&self, now_ns: u64) {
        let left = self.left.get();
        let is_quiet = || now_ns.saturating_sub(self.last_ns.get()) > QUIET_NS;
        if self.timing.get() == Timing::Adaptive && left > 1 && is_quiet() {
            self.left_behind.set(left);
            self.left.set(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Times `count` that come every `gap_ns`; returns how many were timed, and for how many they stood.
    fn timed(countdown: &Countdown, now_ns: &mut u64, count: u32, gap_ns: u64) -> (u32, u64) {
        let (mut samples, mut stood_for) = (0, 0);
        for _ in 0..count {
            *now_ns += gap_ns;
            if countdown.is_due() {
                samples += 1;
                stood_for += countdown.sample(*now_ns).count();
            }
        }
        (samples, stood_for)
    }

    #[test]
    fn what_comes_seldom_is_all_timed_and_what_comes_often_takes_little_time() {
        for gap_ns in [60, 250, 1_000, 7_000, 20_000, 1_000_000] {
            let (countdown, mut now_ns) = (Countdown::new(Timing::Adaptive), 1_000_000_000);
            let count = 1_000_000;
            let (samples, stood_for) = timed(&countdown, &mut now_ns, count, gap_ns);
            let cost_ns = u64::from(samples) * COST_NS;
            assert!(cost_ns * 100 < gap_ns * u64::from(count), "{gap_ns}: {samples} samples");
            assert!(gap_ns < INTERVAL_NS || samples == count, "{gap_ns}: {samples} samples");
            // Each sample stands for all since the last one.
            assert!(u64::from(count) - stood_for <= Weight::MOST, "{gap_ns}: for {stood_for}");
        }
    }

    #[test]
    fn what_is_passed_at_once_is_counted_as_one_by_one() {
        for timing in
            [Timing::OneOf(1), Timing::OneOf(64), Timing::OneOf(100), Timing::Never, Timing::Adaptive]
        {
            let [one_by_one, at_once] = [(); 2].map(|()| Countdown::new(timing));
            for push in 0..1_000 {
                let (count, now_ns) = (push % 37, 1_000_000_000 + push * 1_000);
                let due = |index| one_by_one.is_due().then(|| (index, one_by_one.sample(now_ns).count()));
                let expected: Vec<_> = (0..count).filter_map(due).collect();
                let (mut found, mut done) = (vec![], 0);
                while done < count {
                    done += at_once.pass(count - done);
                    if done < count {
                        assert!(at_once.is_due(), "{timing:?}, push {push}: {done} of {count}");
                        found.push((done, at_once.sample(now_ns).count()));
                        done += 1;
                    }
                }
                assert_eq!(found, expected, "{timing:?}, push {push} of {count}");
            }
        }
    }

    #[test]
    fn what_alternates_is_met_as_often_as_it_comes() {
        let countdown = Countdown::new(Timing::Adaptive);
        let mut stood_for = [0; 2];
        for number in 0..1_000_000_u64 {
            if countdown.is_due() {
                stood_for[number as usize % 2] += countdown.sample(1_000_000_000 + number * 1_000).count();
            }
        }
        assert!(stood_for.iter().all(|of| (450_000..550_000).contains(of)), "{stood_for:?}");
    }

    #[test]
    fn when_the_rush_is_over_the_next_is_timed_and_stands_for_itself() {
        let (countdown, mut now_ns) = (Countdown::new(Timing::Adaptive), 1_000_000_000);
        let mut stood_for = 0;
        for _ in 0..100 {
            stood_for += timed(&countdown, &mut now_ns, 1_000, 20).1;
            now_ns += 2 * QUIET_NS;
            countdown.wake(now_ns);
            countdown.wake(now_ns);
            assert!(countdown.is_due());
            let weight = countdown.sample(now_ns);
            assert!(weight == Weight::ONE || countdown.left_behind.get() == 0);
            stood_for += weight.count();
        }
        assert!(
            100 * 1_001 - stood_for <= Weight::MOST,
            "{stood_for}: all others stand for those before them"
        );
        assert_eq!(Timing::Adaptive.next(MOST, u64::MAX), 1);
    }

    #[test]
    fn a_stated_number_stays_and_none_is_none() {
        let countdown = Countdown::new(Timing::from_raw(Timing::OneOf(11).raw()));
        assert_eq!(timed(&countdown, &mut 0, 1_100, 10), (100, 1_100));
        for never in [Countdown::new(Timing::from_raw(Timing::Never.raw())), Countdown::never()] {
            never.wake(u64::MAX);
            assert_eq!(timed(&never, &mut 0, 100_000, 10).0, 0);
        }
        for raw in [0, 1, 3, 1 << 20, u32::MAX - 1, u32::MAX] {
            let timing = Timing::from_raw(raw);
            assert_eq!(Timing::from_raw(timing.raw()), timing);
            assert!(!matches!(timing, Timing::OneOf(count) if count > Timing::MOST));
        }
    }
}
