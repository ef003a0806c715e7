//! The contestants in turn, until enough slices count.
//!
//! Every round measures `raw`, the first contestant, `raw`, the second, `raw`, and so on: the reading after
//! one slice is the reading before the next. Rounds go on until, in one regime, every contestant has as many
//! slices that count as were asked for.

use std::fmt;
use std::time::Duration;

use crate::Error;
use crate::contestant::{Contestant, Load};
use crate::report::Row;
use crate::rounds::{Regime, TOLERANCE, Tally, leading};
use crate::slice::{SLICE, measure, read};

/// Rounds to try for each round wanted, before giving up on a machine that never holds still.
const ATTEMPTS_PER_ROUND: usize = 20;

/// A contestant, its load, and its parameters.
#[derive(Debug)]
pub struct Setup {
    contestant: Box<dyn Contestant>,
    load: Load,
    slice: Duration,
    at: Vec<(&'static str, u64)>,
}

impl Setup {
    /// `contestant` under `load`, without parameters yet.
    pub fn new(contestant: Box<dyn Contestant>, load: Load) -> Self {
        Self { contestant, load, slice: SLICE, at: Vec::new() }
    }

    /// Sets the length of its slices, instead of [`SLICE`]; longer if the contestant
    /// [needs that](Contestant::shortest_slice).
    #[must_use]
    pub fn slice(mut self, length: Duration) -> Self {
        self.slice = length;
        self
    }

    /// Sets a parameter, one of [`PARAMETERS`](crate::report::PARAMETERS), to `value`.
    #[must_use]
    pub fn at(mut self, parameter: &'static str, value: impl Into<u64>) -> Self {
        self.at.push((parameter, value.into()));
        self
    }
}

/// The outcome of one match.
#[derive(Debug)]
pub struct Outcome {
    /// One for each setup, in the order given.
    pub standings: Vec<Standing>,
    /// Set if too few slices counted.
    pub shortfall: Option<Shortfall>,
}

/// The figures of one contestant.
#[derive(Debug)]
pub struct Standing {
    /// The contestant's name.
    pub who: &'static str,
    /// Where it was measured.
    pub at: Vec<(&'static str, u64)>,
    /// Its slices.
    pub tally: Tally,
}

impl Outcome {
    /// The rows, regime by regime, in the setups' order; regimes without a slice have none.
    pub fn rows(&self, job: &str) -> Vec<Row> {
        self.rows_with(job, |_, _, row| row)
    }

    /// As [`rows`](Self::rows), with more figures, which `more` adds to the row of a contestant in a regime.
    pub fn rows_with(&self, job: &str, more: impl Fn(&Standing, Regime, Row) -> Row) -> Vec<Row> {
        self.rows_of(job, |standing, regime, row| {
            Some(more(standing, regime, standing.with_ratio(row, regime)?))
        })
    }

    /// Rows whose figures `figures` adds, none where it gives none.
    pub fn rows_of(&self, job: &str, figures: impl Fn(&Standing, Regime, Row) -> Option<Row>) -> Vec<Row> {
        let row = |standing: &Standing, regime| {
            let row = Row::new(job, standing.who).regime(regime);
            standing.at.iter().fold(row, |row, &(parameter, value)| row.at(parameter, value))
        };
        let in_regime = |regime| {
            let figures = &figures;
            self.standings.iter().filter_map(move |standing| figures(standing, regime, row(standing, regime)))
        };
        Regime::ALL.into_iter().flat_map(in_regime).collect()
    }
}

impl Standing {
    /// The value of a parameter.
    pub fn parameter(&self, name: &str) -> Option<u64> {
        self.at.iter().find(|(parameter, _)| *parameter == name).map(|&(_, value)| value)
    }

    /// `row` with what the slices of `regime` add up to, if there are any.
    fn with_ratio(&self, row: Row, regime: Regime) -> Option<Row> {
        let summary = self.tally.summary(regime)?;
        let row = row
            .figure("raw_ns", summary.raw_ns)
            .figure("ns_per_item", summary.ns_per_item)
            .ratio("ratio_to_raw", summary.ratio_to_raw)
            .figure("rounds", summary.rounds as f64);
        let row = summary.figures.iter().fold(row, |row, &(name, figure)| row.figure(name, figure));
        // Without threads there is no largest and no smallest, and no figure.
        let slowest = summary.p999_us.iter().copied().fold(f64::NAN, f64::max);
        let fastest = summary.p999_us.iter().copied().fold(f64::NAN, f64::min);
        Some(row.figure("slowest_thread_p999_us", slowest).figure("fastest_thread_p999_us", fastest))
    }
}

/// How far a running match has come.
#[derive(Clone, Copy, Debug)]
pub struct Progress {
    /// Rounds begun.
    pub round: usize,
    /// The latest reading of `raw`.
    pub raw_ns: f64,
    /// The regime that has come furthest, and how many rounds count there for every contestant.
    pub leading: (Regime, usize),
    /// Rounds that must count.
    pub wanted: usize,
}

impl fmt::Display for Progress {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { round, raw_ns, leading: (regime, counted), wanted } = self;
        write!(out, "round {round}, raw {raw_ns:.0} ns, {counted} of {wanted} rounds count ({regime})")
    }
}

/// Too few slices counted within the attempts allowed.
#[derive(Clone, Debug)]
pub struct Shortfall {
    attempts: usize,
    wanted: usize,
    leading: (Regime, usize),
    rejected: usize,
    slices: usize,
    /// Contestants of which no slice counted.
    none: Vec<&'static str>,
}

impl fmt::Display for Shortfall {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { attempts, wanted, leading: (regime, reached), rejected, slices, none } = self;
        let percent = TOLERANCE * 100.0;
        write!(
            out,
            "gave up after {attempts} rounds. Wanted: {wanted} that count in one regime for every contestant; the best \
             is {regime} with {reached}. {rejected} of {slices} slices did not count: readings of raw differed by more \
             than {percent:.0}%. Is the machine busy with something else?"
        )?;
        if !none.is_empty() {
            write!(out, " No slice counted of {}, so they have no row.", none.join(", "))?;
        }
        Ok(())
    }
}

/// Measures `setups` until `wanted` rounds count, telling `tell` about every slice.
///
/// # Errors
///
/// Those of [`Load::run`]. That too few rounds count is no error but a [`Shortfall`] beside what there is.
///
/// # Panics
///
/// If there are no setups.
pub fn run(
    raw: &mut dyn Contestant,
    setups: &mut [Setup],
    wanted: usize,
    mut tell: impl FnMut(Progress),
) -> Result<Outcome, Error> {
    assert!(!setups.is_empty(), "a match needs contestants");
    let standing = |setup: &Setup| Standing {
        who: setup.contestant.name(),
        at: setup.at.clone(),
        tally: Tally::default(),
    };
    let mut standings: Vec<Standing> = setups.iter().map(standing).collect();
    let best = |standings: &[Standing]| {
        leading(standings.iter().map(|standing| &standing.tally)).expect("there are contestants")
    };
    let attempts = wanted * ATTEMPTS_PER_ROUND;
    let mut before = read(raw)?;
    for round in 1..=attempts {
        for (setup, index) in setups.iter_mut().zip(0..) {
            let length = setup.slice.max(setup.contestant.shortest_slice());
            let slice = measure(setup.contestant.as_mut(), setup.load, length)?;
            let after = read(raw)?;
            standings[index].tally.add(round, slice, before, after);
            before = after;
            tell(Progress { round, raw_ns: after.ns(), leading: best(&standings), wanted });
        }
        if best(&standings).1 >= wanted {
            return Ok(Outcome { standings, shortfall: None });
        }
    }
    let shortfall = Shortfall {
        attempts,
        wanted,
        leading: best(&standings),
        rejected: standings.iter().map(|standing| standing.tally.rejected()).sum(),
        slices: attempts * standings.len(),
        none: standings
            .iter()
            .filter(|standing| standing.tally.is_empty())
            .map(|standing| standing.who)
            .collect(),
    };
    Ok(Outcome { standings, shortfall: Some(shortfall) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contestant::Notes;
    use crate::rounds::Reading;
    use crate::slice::Slice;

    #[test]
    fn rows_keep_regimes_apart() {
        let mut tally = Tally::default();
        for raw_ns in [70.0, 300.0] {
            let reading = Reading::of(&[raw_ns]);
            let slice = Slice { ns_per_item: 3.0 * raw_ns, notes: Notes::default() };
            tally.add(1, slice, reading, reading);
        }
        let standing = |who| Standing { who, at: vec![("window", 256)], tally: tally.clone() };
        let outcome = Outcome { standings: vec![standing("rtrb"), standing("ringmill")], shortfall: None };
        let rows = outcome.rows("stream");
        let kinds: Vec<_> = rows.iter().map(|row| (row.who.as_str(), row.regime.unwrap())).collect();
        assert_eq!(
            kinds,
            [
                ("rtrb", Regime::Near),
                ("ringmill", Regime::Near),
                ("rtrb", Regime::Far),
                ("ringmill", Regime::Far)
            ]
        );
        let far = &rows[2];
        assert_eq!(
            (far.parameter("window"), far.value("ns_per_item"), far.value("rounds")),
            (Some(256), Some(900.0), Some(1.0))
        );
        assert_eq!(
            [far.value("ratio_to_raw"), far.value("ratio_lower"), far.value("ratio_upper")],
            [Some(3.0); 3]
        );
    }
}
