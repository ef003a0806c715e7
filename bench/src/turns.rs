//! Contestants in turn between readings of `raw`, for figures that are not one number an item.
//!
//! As in [`match_up`](crate::match_up): a slice counts only if the readings before and after it agree, and then it
//! belongs to the regime of what they agree on. Here each job has a slice type of its own, and says when it has enough slices.

use std::fmt;

use crate::Error;
use crate::contestant::Contestant;
use crate::rounds::{Reading, Regime};
use crate::slice::read;

/// A job's figures of one slice.
pub trait Slice {
    /// How many single times are in it.
    fn samples(&self) -> usize;
}

/// How many slices are enough for each contestant.
#[derive(Clone, Copy, Debug)]
pub struct Wanted {
    /// This many slices in one regime.
    pub slices: usize,
    /// This many samples in them.
    pub samples: usize,
    /// About as many samples as a slice has.
    pub samples_a_slice: usize,
}

impl Wanted {
    /// How many slices to take of each contestant at most.
    fn attempts(self) -> usize {
        ATTEMPTS * self.slices.max(self.samples.div_ceil(self.samples_a_slice))
    }

    /// Which part of that some slices are.
    fn part(self, slices: &[impl Slice]) -> f64 {
        let samples = slices.iter().map(Slice::samples).sum::<usize>() as f64 / self.samples as f64;
        samples.min(slices.len() as f64 / self.slices as f64)
    }
}

/// How many times as many slices to try as would do if all of them counted.
const ATTEMPTS: usize = 5;

/// The slices of one contestant that count, by regime.
#[derive(Debug)]
pub struct Sorted<S>([Vec<S>; Regime::ALL.len()]);

impl<S> Sorted<S> {
    /// Those of `regime`.
    pub fn of(&self, regime: Regime) -> &[S] {
        &self.0[regime as usize]
    }

    /// Adds a slice that lies between two readings; whether it counts.
    fn add(&mut self, slice: S, before: Reading, after: Reading) -> bool {
        let agreed = before.agreed(after);
        if let Some(raw_ns) = agreed {
            self.0[Regime::of(raw_ns) as usize].push(slice);
        }
        agreed.is_some()
    }
}

impl<S> Default for Sorted<S> {
    fn default() -> Self {
        Self(std::array::from_fn(|_| Vec::new()))
    }
}

/// How far it has come.
#[derive(Clone, Copy, Debug)]
pub struct Progress {
    round: usize,
    raw_ns: f64,
    regime: Regime,
    /// The contestant that has the least, in the regime that has come furthest: 1 is enough.
    part: f64,
}

impl fmt::Display for Progress {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { round, raw_ns, regime, part } = self;
        write!(out, "round {round}, raw {raw_ns:.0} ns, {:.0}% of what is wanted ({regime})", part * 100.0)
    }
}

/// The outcome of a match.
#[derive(Debug)]
pub struct Outcome<S> {
    /// One a contestant, in the order given.
    pub slices: Vec<Sorted<S>>,
    /// Set if the rounds allowed were over before there was enough.
    pub shortfall: Option<Shortfall>,
}

impl<S> Default for Outcome<S> {
    /// No contestant has taken a turn.
    fn default() -> Self {
        Self { slices: Vec::new(), shortfall: None }
    }
}

/// Too few slices counted within the rounds allowed.
#[derive(Clone, Copy, Debug)]
pub struct Shortfall {
    progress: Progress,
    rejected: usize,
    slices: usize,
}

impl fmt::Display for Shortfall {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { progress, rejected, slices } = self;
        write!(
            out,
            "gave up at {progress}. {rejected} of {slices} slices did not count: readings of raw differed. Is the \
             machine busy with something else?"
        )
    }
}

/// Measures each of `contestants` once a round by `measure`, which gets the round's number, until every one has the slices
/// `wanted` in one regime, or the attempts are used up.
///
/// # Errors
///
/// Those of `measure`, and of reading `raw`. That there is too little in the end is no error but a [`Shortfall`].
///
/// # Panics
///
/// If there are no contestants.
pub fn take<C, S: Slice>(
    raw: &mut dyn Contestant,
    contestants: &mut [C],
    wanted: Wanted,
    mut measure: impl FnMut(&mut C, usize) -> Result<S, Error>,
    mut tell: impl FnMut(Progress),
) -> Result<Outcome<S>, Error> {
    assert!(!contestants.is_empty(), "there are no contestants");
    let mut slices: Vec<Sorted<S>> = contestants.iter().map(|_| Sorted::default()).collect();
    let mut rejected = 0;
    let mut before = read(raw)?;
    let mut progress = Progress { round: 0, raw_ns: before.ns(), regime: Regime::of(before.ns()), part: 0.0 };
    for round in 0..wanted.attempts() {
        for (contestant, sorted) in contestants.iter_mut().zip(&mut slices) {
            let slice = measure(contestant, round)?;
            let after = read(raw)?;
            rejected += usize::from(!sorted.add(slice, before, after));
            before = after;
        }
        let (regime, part) = leading(&slices, wanted);
        progress = Progress { round: round + 1, raw_ns: before.ns(), regime, part };
        tell(progress);
        if part >= 1.0 {
            return Ok(Outcome { slices, shortfall: None });
        }
    }
    let shortfall = Shortfall { progress, rejected, slices: progress.round * contestants.len() };
    Ok(Outcome { slices, shortfall: Some(shortfall) })
}

/// The regime in which the contestant that has the least has the most, and what part of enough that is.
fn leading<S: Slice>(slices: &[Sorted<S>], wanted: Wanted) -> (Regime, f64) {
    let least =
        |regime| slices.iter().map(|sorted| wanted.part(sorted.of(regime))).fold(f64::INFINITY, f64::min);
    let parts = Regime::ALL.map(|regime| (regime, least(regime)));
    parts.into_iter().max_by(|a, b| a.1.total_cmp(&b.1)).expect("there are regimes")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reading(raw_ns: f64) -> Reading {
        Reading::of(&[raw_ns])
    }

    #[test]
    fn slices_lie_where_their_readings_agree() {
        let mut sorted = Sorted::default();
        assert!(sorted.add("near", reading(66.0), reading(70.0)));
        assert!(sorted.add("far", reading(300.0), reading(310.0)));
        assert!(!sorted.add("between", reading(66.0), reading(310.0)));
        assert_eq!(Regime::ALL.map(|regime| sorted.of(regime).to_vec()), [vec![], vec!["near"], vec!["far"]]);
    }

    /// This many samples.
    struct Of(usize);

    impl Slice for Of {
        fn samples(&self) -> usize {
            self.0
        }
    }

    const WANTED: Wanted = Wanted { slices: 4, samples: 400, samples_a_slice: 100 };

    #[test]
    fn the_poorest_contestant_decides() {
        let sorted = |near: usize, far: usize| {
            let mut sorted = Sorted::default();
            (0..near).for_each(|_| assert!(sorted.add(Of(100), reading(68.0), reading(68.0))));
            (0..far).for_each(|_| assert!(sorted.add(Of(100), reading(315.0), reading(315.0))));
            sorted
        };
        assert_eq!(leading(&[sorted(9, 3), sorted(2, 4)], WANTED), (Regime::Far, 0.75));
        assert_eq!(leading(&[sorted(5, 1), sorted(4, 0)], WANTED), (Regime::Near, 1.0));
    }

    #[test]
    fn both_slices_and_samples_are_wanted() {
        assert_eq!(WANTED.part(&[Of(400)]), 0.25);
        assert_eq!(WANTED.part(&[Of(10), Of(10), Of(10), Of(10)]), 0.1);
        assert_eq!(WANTED.attempts(), 20);
        assert_eq!(Wanted { samples: 1000, ..WANTED }.attempts(), 50);
    }
}
