//! The contestants in turn, until enough slices count.
//!
//! Every round measures `raw`, the first contestant, `raw`, the second, `raw`, and so on: the reading after
//! one slice is the reading before the next. Rounds go on until, in one regime, every contestant has as many
//! slices that count as were asked for.

use std::fmt;

use crate::Error;
use crate::contestant::{Contestant, Job, Shape};
use crate::rounds::{Regime, TOLERANCE, Tally, leading};
use crate::slice::{measure, read};

/// Rounds to try for each round wanted, before giving up on a machine that never holds still.
const ATTEMPTS_PER_ROUND: usize = 20;

/// What came out of one job.
#[derive(Debug)]
pub struct Outcome {
    /// The job.
    pub job: Job,
    /// One a contestant, in the order given.
    pub standings: Vec<Standing>,
    /// Set if too few slices counted.
    pub shortfall: Option<Shortfall>,
}

/// What one contestant reached.
#[derive(Debug)]
pub struct Standing {
    /// The contestant's name.
    pub who: &'static str,
    /// What it moved.
    pub shape: Shape,
    /// Its slices.
    pub tally: Tally,
}

/// How far a running match has come.
#[derive(Clone, Copy, Debug)]
pub struct Progress {
    /// The job.
    pub job: Job,
    /// Rounds begun.
    pub round: usize,
    /// The latest reading of `raw`.
    pub raw_ns: f64,
    /// The regime that has come furthest, and how many rounds count there for every contestant.
    pub leading: (Regime, usize),
    /// Rounds that must count.
    pub wanted: usize,
}

/// Too few slices counted within the attempts allowed.
#[derive(Clone, Debug)]
pub struct Shortfall {
    job: Job,
    attempts: usize,
    wanted: usize,
    leading: (Regime, usize),
    rejected: usize,
    slices: usize,
}

impl fmt::Display for Shortfall {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { job, attempts, wanted, leading: (regime, reached), rejected, slices } = self;
        let percent = TOLERANCE * 100.0;
        write!(
            out,
            "{job}: gave up after {attempts} rounds. Wanted: {wanted} that count in one regime for every \
             contestant; the best is {regime} with {reached}. {rejected} of {slices} slices did not count: readings \
             of raw differed by more than {percent:.0}%. Is the machine busy with something else?"
        )
    }
}

/// Measures `contestants` at `job` until `wanted` rounds count, telling `tell` about every slice.
///
/// # Errors
///
/// Those of [`Job::run`]. That too few rounds count is no error but a [`Shortfall`] beside what there is.
///
/// # Panics
///
/// If there are no contestants.
pub fn run(
    job: Job,
    raw: &mut dyn Contestant,
    contestants: &mut [Box<dyn Contestant>],
    wanted: usize,
    mut tell: impl FnMut(Progress),
) -> Result<Outcome, Error> {
    assert!(!contestants.is_empty(), "a match needs contestants");
    let mut standings: Vec<Standing> = contestants
        .iter()
        .map(|contestant| Standing {
            who: contestant.name(),
            shape: contestant.shape(job),
            tally: Tally::default(),
        })
        .collect();
    let best = |standings: &[Standing]| {
        leading(standings.iter().map(|standing| &standing.tally)).expect("there are contestants")
    };
    let attempts = wanted * ATTEMPTS_PER_ROUND;
    let mut before = read(raw)?;
    for round in 1..=attempts {
        for (place, contestant) in contestants.iter_mut().enumerate() {
            let ns_per_item = measure(contestant.as_mut(), job)?;
            let after = read(raw)?;
            standings[place].tally.add(ns_per_item, before, after);
            before = after;
            tell(Progress { job, round, raw_ns: after.ns(), leading: best(&standings), wanted });
        }
        if best(&standings).1 >= wanted {
            return Ok(Outcome { job, standings, shortfall: None });
        }
    }
    let shortfall = Shortfall {
        job,
        attempts,
        wanted,
        leading: best(&standings),
        rejected: standings.iter().map(|standing| standing.tally.rejected()).sum(),
        slices: attempts * standings.len(),
    };
    Ok(Outcome { job, standings, shortfall: Some(shortfall) })
}
