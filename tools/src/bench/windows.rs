//! Windows of a level: it is measured in windows of one length, one after the other, until the last three agree. Pure.

use ringmill_load::times::Times;
use std::collections::BTreeMap;
use std::time::Duration;

/// So many windows must agree.
pub(crate) const RECENT: usize = 3;

/// When a level has been measured.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Trials {
    /// The most windows.
    pub(crate) most: usize,
    /// By so many percent the figures of the last three windows may differ.
    pub(crate) percent: f64,
}

/// What of a window is compared with other windows.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Figures {
    pub(super) throughput: f64,
    /// The time that the level is judged by; none if nothing was answered.
    pub(super) time_ns: Option<f64>,
    /// No level with such windows can be within the threshold.
    pub(super) is_above: bool,
}

/// What follows a window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    Another,
    /// The level has been measured; whether its last windows agreed, if there were enough of them.
    Enough(Option<bool>),
}

impl Trials {
    /// What follows the last of these windows.
    pub(super) fn after(&self, windows: &[Figures]) -> Next {
        let recent = windows.last_chunk::<RECENT>();
        let agree = recent.map(|recent| self.agree(recent));
        let is_hopeless = recent.is_some_and(|recent| recent.iter().all(|window| window.is_above));
        match agree == Some(true) || is_hopeless || windows.len() >= self.most {
            true => Next::Enough(agree),
            false => Next::Another,
        }
    }

    fn agree(&self, recent: &[Figures; RECENT]) -> bool {
        let within = |figure: fn(&Figures) -> f64| {
            let (least, most) = recent
                .iter()
                .map(figure)
                .fold((f64::INFINITY, 0.0_f64), |(least, most), of| (least.min(of), most.max(of)));
            least > 0.0 && most <= least * (1.0 + self.percent / 100.0)
        };
        within(|of| of.throughput) && within(|of| of.time_ns.unwrap_or(0.0))
    }
}

/// When which window is, in nanoseconds after a level has begun.
#[derive(Debug, Clone, Copy)]
pub(super) struct Clock {
    pub(super) warm_up_ns: u64,
    pub(super) window_ns: u64,
}

impl Clock {
    pub(super) fn new(warm_up: Duration, window: Duration) -> Self {
        Self { warm_up_ns: warm_up.as_nanos() as u64, window_ns: window.as_nanos() as u64 }
    }

    /// The number of the window with this instant; none of the warm-up.
    pub(super) fn window(&self, ns: u64) -> Option<usize> {
        ns.checked_sub(self.warm_up_ns).map(|after| (after / self.window_ns) as usize)
    }

    /// When a window begins.
    pub(super) fn begins_ns(&self, window: usize) -> u64 {
        self.warm_up_ns.saturating_add(self.window_ns.saturating_mul(window as u64))
    }
}

/// What was seen of a window.
#[derive(Debug, Default)]
pub(super) struct Tally {
    /// How long requests took that began, or were due, in it.
    pub(super) times: Times,
    /// How late they were sent.
    pub(super) lateness: Times,
    /// How many of them were sent, and how many a thread came to when it was too late.
    pub(super) sent: u64,
    pub(super) missed: u64,
    /// How many of them had no answer, and the first reason.
    pub(super) errors: u64,
    pub(super) first_error: Option<String>,
    /// Answers that came within it.
    pub(super) ended: u64,
}

impl Tally {
    pub(super) fn add(&mut self, other: Self) {
        self.times.add(&other.times);
        self.lateness.add(&other.lateness);
        self.sent += other.sent;
        self.missed += other.missed;
        self.errors += other.errors;
        self.first_error = self.first_error.take().or(other.first_error);
        self.ended += other.ended;
    }
}

/// By window.
#[derive(Debug, Default)]
pub(super) struct Tallies(BTreeMap<usize, Tally>);

impl Tallies {
    /// Notes a request: when it was due, when it was sent, when its outcome came. What was due in the warm-up is not
    /// measured, though its answer may come in a window.
    pub(super) fn note(&mut self, clock: &Clock, [due, sent, ended]: [u64; 3], outcome: Result<(), String>) {
        if let Some(window) = clock.window(ended) {
            self.of(window).ended += u64::from(outcome.is_ok());
        }
        let Some(window) = clock.window(due) else { return };
        let tally = self.of(window);
        tally.sent += 1;
        tally.lateness.record(sent.saturating_sub(due));
        match outcome {
            Ok(()) => tally.times.record(ended.saturating_sub(due)),
            Err(error) => {
                tally.errors += 1;
                tally.first_error.get_or_insert(error);
            }
        }
    }

    /// Notes a request that was due then, and could not be sent in time.
    pub(super) fn miss(&mut self, clock: &Clock, due: u64) {
        if let Some(window) = clock.window(due) {
            self.of(window).missed += 1;
        }
    }

    pub(super) fn of(&mut self, window: usize) -> &mut Tally {
        self.0.entry(window).or_default()
    }

    pub(super) fn add(&mut self, others: Self) {
        others.0.into_iter().for_each(|(window, tally)| self.of(window).add(tally));
    }

    /// The sum of these windows.
    pub(super) fn sum(&mut self, windows: std::ops::Range<usize>) -> Tally {
        let mut sum = Tally::default();
        windows.filter_map(|window| self.0.remove(&window)).for_each(|tally| sum.add(tally));
        sum
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRIALS: Trials = Trials { most: 5, percent: 10.0 };

    fn windows(figures: &[(f64, f64)]) -> Vec<Figures> {
        let window = |&(throughput, ns): &(f64, f64)| Figures {
            throughput,
            time_ns: (ns > 0.0).then_some(ns),
            is_above: false,
        };
        figures.iter().map(window).collect()
    }

    #[test]
    fn the_last_three_windows_must_agree_in_both_figures() {
        let after = |figures: &[(f64, f64)]| TRIALS.after(&windows(figures));
        assert_eq!(after(&[(100.0, 5.0), (100.0, 5.0)]), Next::Another, "two are too few");
        assert_eq!(after(&[(100.0, 5.0), (105.0, 5.4), (110.0, 5.5)]), Next::Enough(Some(true)));
        assert_eq!(after(&[(100.0, 5.0), (105.0, 5.0), (110.1, 5.0)]), Next::Another, "throughput");
        assert_eq!(after(&[(100.0, 5.0), (100.0, 5.6), (100.0, 5.0)]), Next::Another, "times");
        assert_eq!(after(&[(50.0, 9.0), (100.0, 5.0), (100.0, 5.0), (101.0, 5.0)]), Next::Enough(Some(true)));
    }

    #[test]
    fn windows_without_an_answer_agree_on_nothing() {
        assert_eq!(TRIALS.after(&windows(&[(0.0, 0.0); 3])), Next::Another);
        assert_eq!(TRIALS.after(&windows(&[(0.0, 0.0); 5])), Next::Enough(Some(false)));
    }

    #[test]
    fn a_level_ends_where_it_is_known_to_be_too_high_or_takes_too_long() {
        let above = |throughput| Figures { throughput, time_ns: Some(9.0), is_above: true };
        assert_eq!(TRIALS.after(&[above(1.0), above(2.0)]), Next::Another);
        assert_eq!(TRIALS.after(&[above(1.0), above(2.0), above(4.0)]), Next::Enough(Some(false)));
        let once = Trials { most: 1, ..TRIALS };
        assert_eq!(once.after(&windows(&[(1.0, 1.0)])), Next::Enough(None), "no others to agree with");
    }

    #[test]
    fn requests_count_where_they_were_due_and_answers_where_they_came() {
        let clock = Clock { warm_up_ns: 100, window_ns: 50 };
        let mut all = Tallies::default();
        all.note(&clock, [90, 91, 99], Ok(())); // of the warm-up
        all.note(&clock, [95, 95, 120], Ok(()));
        all.note(&clock, [110, 115, 160], Ok(()));
        all.note(&clock, [149, 149, 260], Err("late".into()));
        let second = all.sum(1..2);
        assert_eq!((second.ended, second.sent, second.times.count()), (1, 0, 0));
        let first = all.sum(0..1);
        assert_eq!((first.ended, first.sent, first.errors), (1, 2, 1));
        assert_eq!((first.times.max_ns(), first.lateness.max_ns()), (Some(50), Some(5)));
        assert_eq!(first.first_error.as_deref(), Some("late"));
    }
}
