//! When requests are due, whatever becomes of earlier ones: the same instants for the same seed.
//!
//! Independent requests leave gaps that are exponentially distributed (a Poisson process): mostly short ones, so that
//! requests also come in bunches, and now and then a long one.

use rand::SeedableRng;
use rand::rngs::SmallRng;
use rand_distr::{Distribution, Exp};

/// The gaps between requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Spacing {
    /// All are the same.
    Constant,
    /// As of independent callers: exponentially distributed.
    Poisson,
}

/// Instants, in nanoseconds from a beginning, that never end and never decrease.
///
/// ```
/// use ringmill_load::arrivals::{Arrivals, Spacing};
///
/// let mut arrivals = Arrivals::new(1000.0, Spacing::Constant, 0);
/// assert_eq!([arrivals.next(), arrivals.next()], [Some(1_000_000), Some(2_000_000)]);
/// assert_eq!(arrivals.expected_before(5_500_000), 3);
/// ```
#[derive(Debug, Clone)]
pub struct Arrivals {
    random: SmallRng,
    gap_ns: f64,
    poisson: Option<Exp<f64>>,
    /// How many there were, and when the last one was.
    count: u64,
    at_ns: f64,
}

impl Arrivals {
    /// `per_s` requests a second on average.
    ///
    /// # Panics
    /// If that is not a number above 0.
    #[must_use]
    pub fn new(per_s: f64, spacing: Spacing, seed: u64) -> Self {
        assert!(per_s > 0.0 && per_s.is_finite(), "{per_s} requests a second do not arrive");
        let poisson = (spacing == Spacing::Poisson).then(|| Exp::new(per_s / 1e9).expect("a number above 0"));
        Self { random: SmallRng::seed_from_u64(seed), gap_ns: 1e9 / per_s, poisson, count: 0, at_ns: 0.0 }
    }

    /// How many more are due before this instant: of constant gaps exactly, else on average.
    #[must_use]
    pub fn expected_before(&self, ns: u64) -> u64 {
        let gaps = (ns as f64 - self.at_ns) / self.gap_ns;
        match self.poisson {
            // The last one that is due before an instant is not due at it.
            None => (gaps.ceil() - 1.0).max(0.0) as u64,
            Some(_) => gaps.round().max(0.0) as u64,
        }
    }
}

impl Iterator for Arrivals {
    type Item = u64;

    fn next(&mut self) -> Option<u64> {
        self.count += 1;
        self.at_ns = match &self.poisson {
            Some(gap_ns) => self.at_ns + gap_ns.sample(&mut self.random),
            None => self.count as f64 * self.gap_ns,
        };
        Some(self.at_ns as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Spacing; 2] = [Spacing::Constant, Spacing::Poisson];

    #[test]
    fn a_seed_gives_the_same_arrivals_and_another_one_others() {
        let arrivals = |seed| Arrivals::new(1000.0, Spacing::Poisson, seed).take(100).collect::<Vec<_>>();
        assert_eq!(arrivals(7), arrivals(7));
        assert_ne!(arrivals(7), arrivals(8));
        assert!(arrivals(7).is_sorted());
    }

    /// The mean gap is 1 / rate. Of a Poisson process a part of 1 / e of the gaps is longer than that. With this many,
    /// both lie within a tenth of the truth by far more than any deviation that chance allows.
    #[test]
    fn gaps_are_as_their_spacing_says() {
        for (rate, spacing) in [1_000.0, 1_000_000.0].into_iter().flat_map(|rate| ALL.map(|of| (rate, of))) {
            let mean_ns = 1e9 / rate;
            let instants: Vec<u64> = Arrivals::new(rate, spacing, 1).take(100_000).collect();
            let gaps = || instants.windows(2).map(|two| (two[1] - two[0]) as f64);
            let mean = gaps().sum::<f64>() / gaps().count() as f64;
            assert!((mean / mean_ns - 1.0).abs() < 0.1, "{mean} of {mean_ns}");
            let longer = gaps().filter(|&gap| gap > 1.001 * mean_ns).count() as f64 / gaps().count() as f64;
            let expected = if spacing == Spacing::Poisson { 1.0 / std::f64::consts::E } else { 0.0 };
            assert!((longer - expected).abs() < 0.05, "{longer}");
        }
    }

    /// Counted without making them, so also where there are very many.
    #[test]
    fn how_many_are_to_come_is_known() {
        for at in [1_000, 1_001, 999_999, 1_000_000, 1_000_001] {
            let mut arrivals = Arrivals::new(1e6, Spacing::Constant, 1);
            assert_eq!(arrivals.by_ref().take(3).last(), Some(3_000));
            let counted = arrivals.clone().take_while(|&due_ns| due_ns < at).count() as u64;
            assert_eq!(arrivals.expected_before(at), counted, "before {at}");
        }
        let poisson = Arrivals::new(1e7, Spacing::Poisson, 1);
        assert_eq!(poisson.expected_before(3_600_000_000_000), 36_000_000_000);
        let counted = poisson.clone().take_while(|&due_ns| due_ns < 100_000_000).count() as f64;
        assert!((counted / poisson.expected_before(100_000_000) as f64 - 1.0).abs() < 0.01, "{counted}");
    }
}
