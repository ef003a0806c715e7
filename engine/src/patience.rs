//! How long to spin before sleeping.
//!
//! Spinning costs CPU time, sleeping costs a wake: some 5 to 50 µs. A spin that ends with what was waited
//! for is worth it up to about one wake; one that does not is a loss. So the budget is about one wake, it
//! falls by half with every spin that ended in sleep, down to nothing, and is tried in full again now and
//! then, because the reason for the misses may be gone. Where the other side cannot run while we spin, on
//! one CPU or among more workers than there are CPUs, the budget is zero.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// How a waiting side waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Wait {
    /// Spin for about one wake's cost, less where it does not pay, then sleep; sleep at once where there are
    /// not CPUs enough.
    #[default]
    Adaptive,
    /// Spin for this long, then sleep.
    Spin(Duration),
    /// Sleep at once.
    Park,
}

impl Wait {
    /// The same for one of so many that may spin on so many CPUs.
    pub(crate) fn among(self, spinners: usize, cpus: usize) -> Self {
        if self == Self::Adaptive && spinners > cpus { Self::Park } else { self }
    }
}

/// How closely a waiting side looks. Each look takes the line that is looked at away from the side that is about to write
/// it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pace {
    /// As soon as can be: somebody waits for this one item.
    One,
    /// The same, for an answer: not before [`SOONEST_ANSWER`].
    Answer,
    /// Every [`MANY_EVERY`]: many items are under way.
    Many,
}

/// No answer comes sooner than this: a line goes there and another comes back, and a worker does something between.
/// While it does, nobody should look.
const SOONEST_ANSWER: Duration = Duration::from_nanos(80);
/// See [`Pace::Many`].
const MANY_EVERY: Duration = Duration::from_nanos(500);

/// About what a wake costs on a machine whose idle CPUs halt.
const WAKE_COST: Duration = Duration::from_micros(50);
/// The longest spin that can be asked for.
const SPIN_LIMIT: Duration = Duration::from_secs(1);
/// Every so many waits without a budget one spins in full.
const PROBE_EVERY: u32 = 16;
/// Below so many looks a spin is not worth beginning.
const LEAST: u32 = 32;

/// The spin budget of one waiting side; several threads may share one.
#[derive(Debug)]
pub(crate) struct Patience {
    wait: Wait,
    most: u32,
    /// [`SOONEST_ANSWER`] and [`MANY_EVERY`] in pauses, each about a look.
    soonest: u32,
    every: u32,
    budget: AtomicU32,
    waits_without: AtomicU32,
}

impl Patience {
    pub(crate) fn new(wait: Wait) -> Self {
        let cpus = crate::cpus::allowed().len();
        let most = match wait {
            _ if cpus < 2 => 0,
            Wait::Park => 0,
            Wait::Spin(time) => looks_in(time.min(SPIN_LIMIT)),
            Wait::Adaptive => looks_in(WAKE_COST),
        };
        let (soonest, every) = (looks_in(SOONEST_ANSWER), looks_in(MANY_EVERY).max(1));
        Self { wait, most, soonest, every, budget: AtomicU32::new(most), waits_without: AtomicU32::new(0) }
    }

    /// Looks until `look` has something, or the budget is spent.
    #[inline]
    pub(crate) fn spin<T>(&self, pace: Pace, mut look: impl FnMut() -> Option<T>) -> Option<T> {
        // Relaxed, here and below: a budget is only a guess.
        let budget = self.budget.load(Ordering::Relaxed);
        let pauses = if pace == Pace::Many { self.every } else { 1 };
        if pace == Pace::Answer && budget > self.soonest {
            pause(self.soonest);
        }
        for step in 0..budget / pauses {
            if let Some(found) = look() {
                if budget != self.most {
                    self.budget.store(self.most, Ordering::Relaxed);
                }
                return Some(found);
            }
            // For one item, the first looks come in quick succession: the answer is on its way.
            if pauses > 1 || step >= LEAST {
                pause(pauses);
            }
        }
        self.missed(budget);
        look()
    }

    #[cold]
    fn missed(&self, budget: u32) {
        if !matches!(self.wait, Wait::Adaptive) {
            return;
        }
        let next = if budget / 2 >= LEAST {
            budget / 2
        } else if self.waits_without.fetch_add(1, Ordering::Relaxed) % PROBE_EVERY == PROBE_EVERY - 1 {
            self.most
        } else {
            0
        };
        self.budget.store(next, Ordering::Relaxed);
    }

    /// How often to look at a lock before sleeping on it.
    pub(crate) fn looks(&self) -> u32 {
        self.budget.load(Ordering::Relaxed).min(self.most)
    }

    /// The longest spin, as time: what a wait must exceed for sleeping to make sense.
    pub(crate) fn longest(&self) -> Duration {
        match self.wait {
            _ if self.most == 0 => Duration::ZERO,
            Wait::Park => Duration::ZERO,
            Wait::Spin(time) => time,
            Wait::Adaptive => WAKE_COST,
        }
    }
}

#[inline]
fn pause(times: u32) {
    for _ in 0..times {
        std::hint::spin_loop();
    }
}

/// How many looks fit into a time on this machine; measured once.
fn looks_in(time: Duration) -> u32 {
    static LOOKS_PER_MS: OnceLock<u64> = OnceLock::new();
    let per_ms = *LOOKS_PER_MS.get_or_init(|| {
        let word = AtomicU32::new(0);
        let count = 2_000_u32;
        // The shortest of a few: an interrupted measurement only makes the budget smaller.
        let shortest = (0..5).map(|_| {
            let begin = Instant::now();
            for _ in 0..count {
                std::hint::black_box(word.load(Ordering::Acquire));
                std::hint::spin_loop();
            }
            begin.elapsed().as_nanos() as u64
        });
        u64::from(count) * 1_000_000 / shortest.min().unwrap_or(1).max(1)
    });
    let looks = per_ms.saturating_mul(time.as_nanos() as u64) / 1_000_000;
    u32::try_from(looks).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn patience(most: u32) -> Patience {
        Patience {
            wait: Wait::Adaptive,
            most,
            soonest: 0,
            every: 20,
            budget: AtomicU32::new(most),
            waits_without: AtomicU32::new(0),
        }
    }

    #[test]
    fn misses_shrink_the_budget_and_one_hit_restores_it() {
        let p = patience(1 << 10);
        let mut looks = 0;
        for _ in 0..10 {
            assert_eq!(
                p.spin(Pace::One, || {
                    looks += 1;
                    None::<()>
                }),
                None
            );
        }
        assert_eq!(p.looks(), 0, "given up after {looks} looks");
        let mut waits = 0;
        while p.looks() == 0 {
            p.spin(Pace::One, || None::<()>);
            waits += 1;
        }
        assert!(waits <= PROBE_EVERY);
        assert_eq!(p.looks(), 1 << 10, "tried again");
        assert_eq!(p.spin(Pace::One, || Some(1)), Some(1));
        assert_eq!(p.looks(), 1 << 10);
    }

    #[test]
    fn parking_never_spins_and_spinning_never_gives_up() {
        let p = Patience { wait: Wait::Park, ..patience(0) };
        p.spin(Pace::One, || None::<()>);
        assert_eq!(p.looks(), 0);
        let p = Patience { wait: Wait::Spin(Duration::from_micros(1)), ..patience(100) };
        for _ in 0..20 {
            p.spin(Pace::One, || None::<()>);
        }
        assert_eq!(p.looks(), 100);
    }
}
