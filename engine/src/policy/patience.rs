//! How long to spin before sleeping.
//!
//! Spinning costs CPU time. Sleeping costs a wake: some 5 to 50 µs for the sleeper, and as much CPU time for both sides
//! together. A spin that succeeds pays up to about the cost of one wake; one that fails is a loss. So a worker spins
//! for about one wake, and a caller for two, since the answer of a sleeping worker takes one.
//!
//! A side whose spins fail more often than not stops spinning, instead of spinning for less: after a shorter spin the
//! same waits end in sleep, and others too. From then on the length of each sleep tells, at no cost, whether a spin
//! would have ended it; after enough such sleeps the side spins again. If its spins still fail, because the other side
//! cannot run meanwhile, it takes twice as many such sleeps the next time. On one CPU, or among more workers than there
//! are CPUs, that is known beforehand, and neither side ever spins.

use std::cell::Cell;
use std::sync::atomic::{AtomicI32, AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// How callers or workers wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Wait {
    /// Spin for about as long as a wake takes (callers: two), then sleep. Sleep at once while most spins fail, or if
    /// there are too few CPUs.
    #[default]
    Adaptive,
    /// Spin for this long, then sleep.
    Spin(Duration),
    /// Sleep at once.
    Park,
}

impl Wait {
    /// This choice for one of `spinners` threads that may spin on `cpus` CPUs.
    pub(crate) fn among(self, spinners: usize, cpus: usize) -> Self {
        if self == Self::Adaptive && spinners > cpus { Self::Park } else { self }
    }
}

/// How closely a waiting side looks. Each look takes the cache line away from the side that is about to write it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pace {
    /// As often as possible: the thread waits for this one item.
    One,
    /// For an answer: as often as possible, but not before answers [usually](Usual) come.
    Answer,
    /// Every [`MANY_EVERY`]: many items are in progress.
    Many,
}

/// Where learning begins, since hardly any answer comes sooner: one cache line travels to the worker and one back, and
/// the worker does something between.
const SOONEST_ANSWER: Duration = Duration::from_nanos(80);
/// The latest first look for an answer: an answer that comes sooner than usual waits no longer.
const LATEST_LOOK: Duration = Duration::from_nanos(500);
/// See [`Pace::Many`].
const MANY_EVERY: Duration = Duration::from_nanos(500);

/// About the cost of a wake on a machine whose idle CPUs halt.
const WAKE_COST: Duration = Duration::from_micros(50);
/// The longest [`Wait::Spin`].
const SPIN_LIMIT: Duration = Duration::from_secs(1);
/// The number of looks in quick succession while a thread waits for one item.
const QUICK_LOOKS: u32 = 32;
/// The most trust in spinning: after that many more failed spins than successful ones a side stops spinning.
const MOST_TRUST: i32 = 8;
/// How many more sleeps that a spin would have ended than others make a side spin again; at first, and at most.
const FEWEST_SLEEPS: i32 = 8;
const MOST_SLEEPS: i32 = 1024;

/// How many successful first looks for an answer one that finds nothing outweighs.
const TOO_SOON: i32 = 4;
/// The sums of luck at which the first look moves.
const GOOD_LUCK: i32 = 256;
const BAD_LUCK: i32 = -16;

/// When answers usually come, as learnt by a calling thread: it first looks as early as four of five looks find the
/// answer. An earlier look takes a cache line from the worker while it writes the answer, again and again; a later one
/// loses time.
#[derive(Debug, Clone, Copy)]
struct Usual {
    /// The server whose answers they are, by the address of its [`Patience`].
    of: usize,
    /// The number of pauses before the first look.
    pauses: u32,
    luck: i32,
}

thread_local! {
    static USUAL: Cell<Usual> = const { Cell::new(Usual { of: 0, pauses: 0, luck: 0 }) };
}

impl Usual {
    /// After a first look.
    #[inline]
    fn learn(&mut self, found: bool, latest: u32) {
        self.luck += if found { 1 } else { -TOO_SOON };
        if self.luck > GOOD_LUCK {
            (self.pauses, self.luck) = (self.pauses.saturating_sub(1), 0);
        } else if self.luck < BAD_LUCK {
            (self.pauses, self.luck) = ((self.pauses + 1).min(latest), 0);
        }
    }
}

/// How one side waits; several threads may share it.
#[derive(Debug)]
pub(crate) struct Patience {
    wait: Wait,
    /// The longest spin; zero for a side that must not spin.
    longest: Duration,
    /// The longest spin in looks.
    most: u32,
    /// [`SOONEST_ANSWER`], [`LATEST_LOOK`] and [`MANY_EVERY`] in pauses, each about a look.
    soonest: u32,
    latest: u32,
    every: u32,
    /// 0 or more: the side spins. Below 0: how many sleeps are missing until it spins again.
    trust: AtomicI32,
    /// How many sleeps will be missing the next time.
    sleeps: AtomicI32,
}

impl Patience {
    /// The patience of a worker, which waits for work.
    pub(crate) fn of_worker(wait: Wait) -> Self {
        Self::new(wait, WAKE_COST)
    }

    /// The patience of callers, which wait for a worker that may have to be woken.
    pub(crate) fn of_callers(wait: Wait) -> Self {
        Self::new(wait, 2 * WAKE_COST)
    }

    fn new(wait: Wait, adaptive: Duration) -> Self {
        let longest = match wait {
            _ if crate::policy::cpus::allowed().len() < 2 => Duration::ZERO,
            Wait::Park => Duration::ZERO,
            Wait::Spin(time) => time.min(SPIN_LIMIT),
            Wait::Adaptive => adaptive,
        };
        let (wait, most) = match longest {
            Duration::ZERO => (Wait::Park, 0),
            longest => (wait, looks_in(longest)),
        };
        let (soonest, latest) = (looks_in(SOONEST_ANSWER), looks_in(LATEST_LOOK));
        let every = looks_in(MANY_EVERY).max(1);
        let (trust, sleeps) = (AtomicI32::new(MOST_TRUST), AtomicI32::new(FEWEST_SLEEPS));
        Self { wait, longest, most, soonest, latest, every, trust, sleeps }
    }

    /// Calls `look` until it returns something, or the spin was long enough. A thread that then sleeps calls
    /// [`falls_asleep`](Self::falls_asleep) first.
    #[inline]
    pub(crate) fn spin<T>(&self, pace: Pace, mut look: impl FnMut() -> Option<T>) -> Option<T> {
        // Relaxed, here and below: the values are only a guess.
        let trust = self.trust.load(Ordering::Relaxed);
        let most = if trust >= 0 { self.most } else { 0 };
        let pauses = if pace == Pace::Many { self.every } else { 1 };
        if pace == Pace::Answer
            && most > self.latest
            && let Some(found) = self.look_when_usual(&mut look)
        {
            if trust != MOST_TRUST {
                self.ended_by_spin(trust);
            }
            return Some(found);
        }
        for step in 0..most / pauses {
            if let Some(found) = look() {
                if trust != MOST_TRUST {
                    self.ended_by_spin(trust);
                }
                return Some(found);
            }
            // For one item the first looks come in quick succession: it is expected at once.
            if pauses > 1 || step >= QUICK_LOOKS {
                pause(pauses);
            }
        }
        self.spun_in_vain(trust);
        look()
    }

    /// The first look for an answer.
    #[inline]
    fn look_when_usual<T>(&self, look: impl FnOnce() -> Option<T>) -> Option<T> {
        let of = std::ptr::from_ref(self).addr();
        let mut usual = USUAL.get();
        if usual.of != of {
            usual = Usual { of, pauses: self.soonest, luck: 0 };
        }
        pause(usual.pauses);
        let found = look();
        usual.learn(found.is_some(), self.latest);
        USUAL.set(usual);
        found
    }

    #[cold]
    fn ended_by_spin(&self, trust: i32) {
        self.trust.store((trust + 1).min(MOST_TRUST), Ordering::Relaxed);
        self.sleeps.store(FEWEST_SLEEPS, Ordering::Relaxed);
    }

    #[cold]
    fn spun_in_vain(&self, trust: i32) {
        if trust < 0 || !matches!(self.wait, Wait::Adaptive) {
            return;
        }
        if trust > 0 {
            self.trust.store(trust - 1, Ordering::Relaxed);
            return;
        }
        let sleeps = self.sleeps.load(Ordering::Relaxed);
        self.trust.store(-sleeps, Ordering::Relaxed);
        self.sleeps.store((2 * sleeps).min(MOST_SLEEPS), Ordering::Relaxed);
    }

    /// Called before a sleep; its result is for [`slept`](Self::slept). The clock is read only if the length of the
    /// sleep is of use: a side that spins learns from its spins.
    pub(crate) fn falls_asleep(&self) -> Option<Instant> {
        (self.trust.load(Ordering::Relaxed) < 0).then(Instant::now)
    }

    /// Called after a sleep that ended with the awaited item.
    pub(crate) fn slept(&self, since: Option<Instant>) {
        if let Some(since) = since {
            self.slept_for(since.elapsed());
        }
    }

    #[cold]
    fn slept_for(&self, time: Duration) {
        let trust = self.trust.load(Ordering::Relaxed);
        if trust >= 0 {
            return; // another thread has changed it meanwhile
        }
        // The cost of a wake is roughly the longest spin, or half of it.
        let would_have_ended = time <= self.longest + self.longest / 2;
        let least = -self.sleeps.load(Ordering::Relaxed);
        let trust = if would_have_ended { trust + 1 } else { (trust - 1).max(least) };
        self.trust.store(trust, Ordering::Relaxed);
    }

    /// How often to look at a lock before sleeping on it.
    #[inline]
    pub(crate) fn looks(&self) -> u32 {
        if self.trust.load(Ordering::Relaxed) >= 0 { self.most } else { 0 }
    }

    /// The longest spin, as time: only a longer wait is worth a sleep.
    pub(crate) fn longest(&self) -> Duration {
        self.longest
    }
}

#[inline]
fn pause(times: u32) {
    for _ in 0..times {
        std::hint::spin_loop();
    }
}

/// How many looks fit into this time on this machine; measured once.
fn looks_in(time: Duration) -> u32 {
    // No lock: a child that is forked during the measurement measures for itself.
    static LOOKS_PER_MS: AtomicU64 = AtomicU64::new(0);
    let measure = || {
        let word = AtomicU32::new(0);
        let count = 2_000_u32;
        // The shortest of five measurements: an interrupted one would only make the budget smaller.
        let shortest = (0..5).map(|_| {
            let begin = Instant::now();
            for _ in 0..count {
                std::hint::black_box(word.load(Ordering::Acquire));
                std::hint::spin_loop();
            }
            begin.elapsed().as_nanos() as u64
        });
        let per_ms = (u64::from(count) * 1_000_000 / shortest.min().unwrap_or(1).max(1)).max(1);
        LOOKS_PER_MS.store(per_ms, Ordering::Relaxed); // Relaxed: each thread's result is as good
        per_ms
    };
    let per_ms = match LOOKS_PER_MS.load(Ordering::Relaxed) {
        0 => measure(),
        measured => measured,
    };
    let looks = per_ms.saturating_mul(time.as_nanos() as u64) / 1_000_000;
    u32::try_from(looks).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_micros(60);
    const LATE: Duration = Duration::from_millis(1);

    fn patience(wait: Wait, longest: Duration, most: u32) -> Patience {
        let (trust, sleeps) = (AtomicI32::new(MOST_TRUST), AtomicI32::new(FEWEST_SLEEPS));
        Patience { wait, longest, most, soonest: 0, latest: 0, every: 20, trust, sleeps }
    }

    /// One wait that ends by a spin or by a sleep. Returns whether it spun.
    fn wait(p: &Patience, ended_by_spin: bool, sleep: Duration) -> bool {
        let mut looks = 0;
        let found = p.spin(Pace::One, || {
            looks += 1;
            ended_by_spin.then_some(())
        });
        if found.is_none() && p.falls_asleep().is_some() {
            p.slept_for(sleep);
        }
        found.is_some() || looks > 1
    }

    #[test]
    fn failed_spins_end_spinning_and_short_sleeps_begin_it_again() {
        let p = patience(Wait::Adaptive, WAKE_COST, 1 << 10);
        let spins = (0..100).filter(|_| wait(&p, false, LATE)).count();
        assert_eq!(spins, MOST_TRUST as usize + 1, "then no more");
        assert_eq!(p.looks(), 0);
        let mut sleeps = 0;
        while p.looks() == 0 {
            assert!(!wait(&p, false, SOON));
            sleeps += 1;
        }
        assert!(sleeps <= 2 * FEWEST_SLEEPS, "{sleeps}");
        assert_eq!(p.looks(), 1 << 10);
        for _ in 0..MOST_TRUST {
            assert!(wait(&p, true, LATE));
        }
        assert_eq!(p.trust.load(Ordering::Relaxed), MOST_TRUST);
        assert_eq!(p.sleeps.load(Ordering::Relaxed), FEWEST_SLEEPS);
    }

    /// As on one CPU: each item comes soon, but never during a spin.
    #[test]
    fn spins_that_never_help_become_rare() {
        let p = patience(Wait::Adaptive, WAKE_COST, 1 << 10);
        let spins = (0..100_000).filter(|_| wait(&p, false, SOON)).count();
        assert!(spins < 200, "{spins}");
    }

    /// A few waits are long; most are not.
    #[test]
    fn a_side_whose_spins_mostly_succeed_goes_on_spinning() {
        let p = patience(Wait::Adaptive, WAKE_COST, 1 << 10);
        let spins = (0..10_000).filter(|turn| wait(&p, turn % 5 != 0, LATE)).count();
        assert_eq!(spins, 10_000);
    }

    /// The most frequent first look, if answers come after `comes_after` pauses.
    fn first_look(latest: u32, comes_after: impl Fn(u32) -> u32) -> u32 {
        let mut usual = Usual { of: 0, pauses: 3, luck: 0 };
        let mut looks = vec![0; latest as usize + 1];
        for turn in 0..100_000 {
            looks[usual.pauses as usize] += 1;
            usual.learn(comes_after(turn) <= usual.pauses, latest);
        }
        (0..).zip(looks).max_by_key(|&(_, times)| times).expect("some").0
    }

    #[test]
    fn the_first_look_is_when_answers_usually_come() {
        for after in 0..=15 {
            assert_eq!(first_look(15, |_| after), after);
        }
        assert_eq!(first_look(15, |_| 1000), 15, "no later than that");
        assert_eq!(first_look(15, |turn| if turn % 10 == 0 { 1000 } else { 4 }), 4, "one of ten is late");
    }

    #[test]
    fn parking_never_spins_and_spinning_never_gives_up() {
        let p = patience(Wait::Park, Duration::ZERO, 0);
        assert!((0..20).all(|_| !wait(&p, false, SOON)));
        assert_eq!(p.looks(), 0);
        let p = patience(Wait::Spin(WAKE_COST), WAKE_COST, 100);
        assert!((0..20).all(|_| wait(&p, false, LATE)));
        assert_eq!(p.looks(), 100);
    }
}
