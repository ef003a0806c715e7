//! When requests arrive: a Poisson process, the same one for the same seed.
//!
//! Independent arrivals leave gaps that are exponentially distributed: mostly short ones, so that requests also come in
//! bunches, and now and then a long one.

use rand::SeedableRng;
use rand::rngs::SmallRng;
use rand_distr::{Distribution, Exp};

/// Instants, in nanoseconds from a beginning, that never end and never decrease.
#[derive(Clone, Debug)]
pub struct Arrivals {
    random: SmallRng,
    gap_ns: Exp<f64>,
    at_ns: f64,
}

impl Arrivals {
    /// `rate_per_s` requests a second on average.
    ///
    /// # Panics
    ///
    /// If there are none.
    pub fn new(rate_per_s: u32, seed: u64) -> Self {
        assert!(rate_per_s > 0, "requests arrive");
        let gap_ns = Exp::new(f64::from(rate_per_s) / 1e9).expect("the rate is a positive number");
        Self { random: SmallRng::seed_from_u64(seed), gap_ns, at_ns: 0.0 }
    }
}

impl Iterator for Arrivals {
    type Item = u64;

    fn next(&mut self) -> Option<u64> {
        self.at_ns += self.gap_ns.sample(&mut self.random);
        Some(self.at_ns as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_gives_the_same_arrivals_and_another_one_others() {
        let arrivals = |seed| Arrivals::new(1000, seed).take(100).collect::<Vec<_>>();
        assert_eq!(arrivals(7), arrivals(7));
        assert_ne!(arrivals(7), arrivals(8));
        assert!(arrivals(7).is_sorted());
    }

    /// The mean gap is 1 / rate, and a part of 1 / e of the gaps is longer than that. With this many, both lie
    /// within a tenth of the truth by far more than any deviation that chance allows.
    #[test]
    fn gaps_are_exponentially_distributed() {
        for rate in [1_000, 1_000_000] {
            let mean_ns = 1e9 / f64::from(rate);
            let instants: Vec<u64> = Arrivals::new(rate, 1).take(100_000).collect();
            let gaps = || instants.windows(2).map(|two| (two[1] - two[0]) as f64);
            let mean = gaps().sum::<f64>() / gaps().count() as f64;
            assert!((mean / mean_ns - 1.0).abs() < 0.1, "{mean} of {mean_ns}");
            let longer = gaps().filter(|&gap| gap > mean_ns).count() as f64 / gaps().count() as f64;
            assert!((longer * std::f64::consts::E - 1.0).abs() < 0.1, "{longer}");
        }
    }
}
