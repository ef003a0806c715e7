//! Which slices count, and what they add up to.
//!
//! Pure arithmetic. A slice lies between two readings of `raw`. It counts if the two agree, and then it
//! belongs to the regime of what they agree on. Slices of different regimes are never mixed: code that is
//! bound by cache lines keeps its ratio to `raw` from one regime to the other, code that is bound by
//! instructions or system calls does not.

use std::fmt;

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use crate::contestant::Notes;
use crate::slice::Slice;

/// How far the larger of two readings may lie above the smaller one, as a part of the smaller one.
pub const TOLERANCE: f64 = 0.20;

/// The cost of a round trip of `raw` at one moment.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Reading {
    /// The cost without disturbance.
    median_ns: f64,
    /// The cost with all disturbance: interrupts, other programs, a change of regime.
    mean_ns: f64,
}

impl Reading {
    /// A reading of several equally long blocks.
    ///
    /// # Panics
    ///
    /// If there are no blocks.
    pub fn of(blocks_ns: &[f64]) -> Self {
        let quartiles = Quartiles::of(blocks_ns.iter().copied()).expect("a reading has blocks");
        Self { median_ns: quartiles.median, mean_ns: blocks_ns.iter().sum::<f64>() / blocks_ns.len() as f64 }
    }

    /// The usual round trip of this reading.
    pub fn ns(self) -> f64 {
        self.median_ns
    }

    /// What a round trip costs by this reading and the next, if they agree.
    ///
    /// They do if neither their medians nor their means differ by more than [`TOLERANCE`]. The means are
    /// there to tell a regime from a crowd: on a machine that is busy with something else, two readings may
    /// well be the same multiple of the truth.
    pub fn agreed(self, next: Self) -> Option<f64> {
        let figures = [self.median_ns, self.mean_ns, next.median_ns, next.mean_ns];
        let low = figures.into_iter().fold(f64::INFINITY, f64::min);
        let high = figures.into_iter().fold(0.0, f64::max);
        (high <= low * (1.0 + TOLERANCE)).then_some((self.median_ns + next.median_ns) / 2.0)
    }
}

/// Where the machine has put the two CPUs, by the cost of a cache line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Regime {
    /// Two threads of one core: about 28 ns.
    Sibling,
    /// Two cores that share a cache: about 68 ns.
    Near,
    /// Two cores that do not: about 315 ns.
    Far,
}

/// The typical cost of `raw` in each regime.
const TYPICAL_NS: [f64; 3] = [28.0, 68.0, 315.0];

impl Regime {
    /// All of them, from the fastest to the slowest.
    pub const ALL: [Self; 3] = [Self::Sibling, Self::Near, Self::Far];

    /// The regime in which a round trip of `raw` takes `raw_ns`; the borders are the geometric means of what
    /// is typical on either side.
    pub fn of(raw_ns: f64) -> Self {
        let [sibling, near, far] = TYPICAL_NS;
        if raw_ns < (sibling * near).sqrt() {
            Self::Sibling
        } else if raw_ns < (near * far).sqrt() {
            Self::Near
        } else {
            Self::Far
        }
    }

    /// The regime's name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Sibling => "sibling",
            Self::Near => "near",
            Self::Far => "far",
        }
    }
}

impl fmt::Display for Regime {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.pad(self.name())
    }
}

/// The slices of one contestant in one job.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    accepted: [Accepted; Regime::ALL.len()],
    rejected: usize,
}

/// Those of one regime.
#[derive(Clone, Debug, Default)]
struct Accepted {
    samples: Vec<Sample>,
    /// Of all slices together, a histogram a thread.
    latencies_ns: Vec<Histogram<u64>>,
}

#[derive(Clone, Debug)]
struct Sample {
    round: usize,
    ns_per_item: f64,
    ratio_to_raw: f64,
    raw_ns: f64,
    figures: Vec<(&'static str, f64)>,
}

impl Tally {
    /// Adds the slice of round number `round`, which lies between two readings of `raw`, or only counts it as
    /// rejected.
    pub fn add(&mut self, round: usize, slice: Slice, before: Reading, after: Reading) {
        let Some(raw_ns) = before.agreed(after) else {
            self.rejected += 1;
            return;
        };
        let Slice { ns_per_item, notes: Notes { figures, latencies_ns } } = slice;
        let accepted = &mut self.accepted[Regime::of(raw_ns) as usize];
        accepted.samples.push(Sample {
            round,
            ns_per_item,
            ratio_to_raw: ns_per_item / raw_ns,
            raw_ns,
            figures,
        });
        if accepted.latencies_ns.is_empty() {
            accepted.latencies_ns = latencies_ns;
        } else {
            for (sum, more) in accepted.latencies_ns.iter_mut().zip(&latencies_ns) {
                sum.add(more).expect("a contestant's histograms have the same bounds");
            }
        }
    }

    /// How many slices counted in `regime`.
    pub fn rounds(&self, regime: Regime) -> usize {
        self.accepted[regime as usize].samples.len()
    }

    /// Whether no slice counted.
    pub fn is_empty(&self) -> bool {
        Regime::ALL.into_iter().all(|regime| self.rounds(regime) == 0)
    }

    /// How many slices did not count.
    pub fn rejected(&self) -> usize {
        self.rejected
    }

    /// What the slices of `regime` add up to, if there are any.
    pub fn summary(&self, regime: Regime) -> Option<Summary> {
        let Accepted { samples, latencies_ns } = &self.accepted[regime as usize];
        let rounds = samples.len();
        let ratios = Quartiles::of(samples.iter().map(|sample| sample.ratio_to_raw))?;
        let ns = Quartiles::of(samples.iter().map(|sample| sample.ns_per_item))?;
        let raw_ns = Quartiles::of(samples.iter().map(|sample| sample.raw_ns))?.median;
        let figures = samples[0].figures.iter().enumerate().filter_map(|(index, &(name, _))| {
            let all = samples.iter().map(|sample| sample.figures[index].1);
            Some((name, Quartiles::of(all)?.median))
        });
        let p999_us = latencies_ns.iter().map(|taken| taken.value_at_quantile(0.999) as f64 / 1e3).collect();
        Some(Summary {
            regime,
            ns_per_item: ns.median,
            raw_ns,
            ratio_to_raw: ratios,
            rounds,
            figures: figures.collect(),
            p999_us,
        })
    }

    /// How many times as long an item takes as one of `other` does, slice by slice of those rounds in which both count
    /// in `regime`.
    pub fn ratio_to(&self, other: &Self, regime: Regime) -> Option<Quartiles> {
        let [own, others] = [self, other].map(|tally| &tally.accepted[regime as usize].samples);
        let ratios = own.iter().filter_map(|sample| {
            let other = others.iter().find(|other| other.round == sample.round)?;
            Some(sample.ns_per_item / other.ns_per_item)
        });
        Quartiles::of(ratios)
    }
}

/// The regime that has the most rounds for the contestant that has the fewest of them, and that number.
///
/// No contestants, no regime.
pub fn leading<'a>(tallies: impl IntoIterator<Item = &'a Tally, IntoIter: Clone>) -> Option<(Regime, usize)> {
    let tallies = tallies.into_iter();
    Regime::ALL
        .into_iter()
        .filter_map(|regime| Some((regime, tallies.clone().map(|tally| tally.rounds(regime)).min()?)))
        .max_by_key(|&(regime, fewest)| {
            (fewest, tallies.clone().map(|tally| tally.rounds(regime)).sum::<usize>())
        })
}

/// What the slices of one contestant in one regime add up to.
#[derive(Clone, Debug, PartialEq)]
pub struct Summary {
    /// The regime.
    pub regime: Regime,
    /// Median of the nanoseconds an item.
    pub ns_per_item: f64,
    /// Median of the nanoseconds of a round trip of `raw` beside those slices.
    pub raw_ns: f64,
    /// Median and spread of the ratios to `raw`.
    pub ratio_to_raw: Quartiles,
    /// Slices that counted.
    pub rounds: usize,
    /// Medians of the contestant's other figures.
    pub figures: Vec<(&'static str, f64)>,
    /// What 999 of 1000 of a calling thread's items did not exceed, a figure a thread.
    pub p999_us: Vec<f64>,
}

/// Median and spread of some figures.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Quartiles {
    /// A quarter lies below.
    pub lower: f64,
    /// Half lies below.
    pub median: f64,
    /// A quarter lies above.
    pub upper: f64,
}

impl Quartiles {
    /// The quartiles of `figures`, interpolated between neighbours; `None` if there are no figures.
    pub fn of(figures: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut sorted: Vec<f64> = figures.into_iter().collect();
        sorted.sort_by(f64::total_cmp);
        let last = sorted.len().checked_sub(1)?;
        let quantile = |part: f64| {
            let position = part * last as f64;
            let (below, above) = (sorted[position.floor() as usize], sorted[position.ceil() as usize]);
            below + (above - below) * position.fract()
        };
        Some(Self { lower: quantile(0.25), median: quantile(0.5), upper: quantile(0.75) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn even(ns: f64) -> Reading {
        Reading { median_ns: ns, mean_ns: ns }
    }

    fn slice(ns_per_item: f64) -> Slice {
        Slice { ns_per_item, notes: Notes::default() }
    }

    #[test]
    fn readings_agree_up_to_a_fifth() {
        assert_eq!(even(100.0).agreed(even(100.0)), Some(100.0));
        assert_eq!(even(100.0).agreed(even(120.0)), Some(110.0));
        assert_eq!(even(120.0).agreed(even(100.0)), Some(110.0));
        assert_eq!(even(100.0).agreed(even(120.5)), None);
        assert_eq!(even(120.5).agreed(even(100.0)), None);
    }

    #[test]
    fn equally_disturbed_readings_do_not_agree() {
        let calm = Reading::of(&[70.0; 10]);
        assert_eq!((calm.median_ns, calm.mean_ns), (70.0, 70.0));
        let mut blocks_ns = [70.0; 10];
        blocks_ns[3] = 70.0 * 40.0;
        let disturbed = Reading::of(&blocks_ns);
        assert_eq!(disturbed.ns(), 70.0);
        assert_eq!(disturbed.agreed(disturbed), None);
        assert_eq!(calm.agreed(disturbed), None);
        assert_eq!(calm.agreed(calm), Some(70.0));
    }

    #[test]
    fn regimes_meet_halfway_on_a_logarithmic_scale() {
        for (regime, typical_ns) in Regime::ALL.into_iter().zip(TYPICAL_NS) {
            assert_eq!(Regime::of(typical_ns), regime);
        }
        assert_eq!(Regime::of(43.6), Regime::Sibling);
        assert_eq!(Regime::of(43.7), Regime::Near);
        assert_eq!(Regime::of(146.3), Regime::Near);
        assert_eq!(Regime::of(146.4), Regime::Far);
    }

    #[test]
    fn quartiles_interpolate() {
        assert_eq!(Quartiles::of([]), None);
        assert_eq!(Quartiles::of([7.0]), Some(Quartiles { lower: 7.0, median: 7.0, upper: 7.0 }));
        assert_eq!(
            Quartiles::of([4.0, 1.0, 3.0, 2.0]),
            Some(Quartiles { lower: 1.75, median: 2.5, upper: 3.25 })
        );
        assert_eq!(
            Quartiles::of([50.0, 10.0, 30.0, 20.0, 40.0]),
            Some(Quartiles { lower: 20.0, median: 30.0, upper: 40.0 })
        );
    }

    #[test]
    fn a_tally_keeps_regimes_apart() {
        let mut tally = Tally::default();
        tally.add(1, slice(140.0), even(70.0), even(70.0));
        tally.add(2, slice(210.0), even(66.0), even(74.0));
        tally.add(3, slice(600.0), even(300.0), even(300.0));
        tally.add(4, slice(600.0), even(70.0), even(300.0));
        assert_eq!(Regime::ALL.map(|regime| tally.rounds(regime)), [0, 2, 1]);
        assert_eq!(tally.rejected(), 1);
        assert_eq!(tally.summary(Regime::Sibling), None);
        let near = tally.summary(Regime::Near).unwrap();
        assert_eq!((near.rounds, near.ns_per_item, near.ratio_to_raw.median), (2, 175.0, 2.5));
        assert_eq!(tally.summary(Regime::Far).unwrap().ratio_to_raw.median, 2.0);
    }

    #[test]
    fn notes_are_summed_up_by_regime() {
        let mut tally = Tally::default();
        for (round, raw_ns, mean_batch, longest_ns) in
            [(1, 70.0, 8.0, 1000), (2, 70.0, 10.0, 9000), (3, 300.0, 99.0, 77)]
        {
            let mut latencies_ns = vec![Histogram::new_with_max(1_000_000, 2).unwrap(); 2];
            latencies_ns[1].record(longest_ns).unwrap();
            let notes = Notes { figures: vec![("mean_batch", mean_batch)], latencies_ns };
            tally.add(round, Slice { ns_per_item: raw_ns, notes }, even(raw_ns), even(raw_ns));
        }
        let near = tally.summary(Regime::Near).unwrap();
        assert_eq!(near.figures, [("mean_batch", 9.0)]);
        assert_eq!(near.p999_us[0], 0.0);
        assert!((near.p999_us[1] - 9.0).abs() < 0.1, "{:?}", near.p999_us);
    }

    #[test]
    fn ratios_are_of_slices_of_the_same_round() {
        let tally = |slices: &[(usize, f64, f64)]| {
            let mut tally = Tally::default();
            for &(round, ns, raw_ns) in slices {
                tally.add(round, slice(ns), even(raw_ns), even(raw_ns));
            }
            tally
        };
        let one = tally(&[(1, 100.0, 70.0), (2, 200.0, 70.0), (3, 900.0, 300.0)]);
        let other = tally(&[(2, 50.0, 70.0), (3, 90.0, 300.0), (4, 1.0, 70.0)]);
        assert_eq!(one.ratio_to(&other, Regime::Near).unwrap().median, 4.0);
        assert_eq!(one.ratio_to(&other, Regime::Far).unwrap().median, 10.0);
        assert_eq!(one.ratio_to(&other, Regime::Sibling), None);
    }

    #[test]
    fn the_leading_regime_is_the_one_where_the_poorest_contestant_is_richest() {
        let tally = |near: usize, far: usize| {
            let mut tally = Tally::default();
            (0..near).for_each(|_| tally.add(1, slice(100.0), even(70.0), even(70.0)));
            (0..far).for_each(|_| tally.add(1, slice(100.0), even(300.0), even(300.0)));
            tally
        };
        assert_eq!(leading([]), None);
        assert_eq!(leading(&[tally(9, 3), tally(2, 4)]), Some((Regime::Far, 3)));
        assert_eq!(leading(&[tally(1, 1), tally(2, 1)]), Some((Regime::Near, 1)));
    }
}
