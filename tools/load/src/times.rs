//! How long requests took.

use hdrhistogram::Histogram;

/// Decimal digits of a time that are kept.
const DIGITS: u8 = 3;

/// This many times must lie above a percentile: otherwise it is chance.
const ABOVE: f64 = 10.0;

/// How often which time was taken, in nanoseconds.
///
/// ```
/// use ringmill_load::times::Times;
///
/// let mut times = Times::new();
/// (1..=100).for_each(|us| times.record(us * 1000));
/// assert_eq!(times.quantile_ns(0.5).map(|ns| ns / 1000), Some(50));
/// assert_eq!(times.quantile_ns(0.99), None); // one time is longer: chance
/// ```
#[derive(Debug, Clone)]
pub struct Times(Histogram<u64>);

impl Default for Times {
    fn default() -> Self {
        Self::new()
    }
}

impl Times {
    /// Of none.
    ///
    /// # Panics
    /// Never: a histogram with so few digits can be made.
    #[must_use]
    pub fn new() -> Self {
        Self(Histogram::new(DIGITS).expect("so few digits can be kept"))
    }

    /// Notes a time.
    ///
    /// # Panics
    /// Never: the histogram grows as it must.
    pub fn record(&mut self, ns: u64) {
        self.0.record(ns).expect("it resizes itself");
    }

    /// Adds those of others.
    ///
    /// # Panics
    /// Never: the histogram grows as it must.
    pub fn add(&mut self, others: &Self) {
        self.0.add(&others.0).expect("it resizes itself");
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.0.len()
    }

    /// The mean; none of none.
    #[must_use]
    pub fn mean_ns(&self) -> Option<f64> {
        (self.count() > 0).then(|| self.0.mean())
    }

    /// The longest; none of none.
    #[must_use]
    pub fn max_ns(&self) -> Option<u64> {
        (self.count() > 0).then(|| self.0.max())
    }

    /// The time that a part `quantile` of them, of 0 to 1, does not exceed; none where so few exceed it that it is
    /// chance.
    #[must_use]
    pub fn quantile_ns(&self, quantile: f64) -> Option<u64> {
        // A part such as 1 - 0.999 is a little off.
        let above = (self.count() as f64 * (1.0 - quantile)).round();
        (above >= ABOVE).then(|| self.0.value_at_quantile(quantile))
    }

    /// As [`quantile_ns`](Self::quantile_ns), and of few the next longer one, up to the longest: a limit that holds for
    /// these is one that they have kept.
    #[must_use]
    pub fn bound_ns(&self, quantile: f64) -> Option<u64> {
        (self.count() > 0).then(|| self.0.value_at_quantile(quantile))
    }
}

impl FromIterator<u64> for Times {
    fn from_iter<I: IntoIterator<Item = u64>>(times_ns: I) -> Self {
        let mut times = Self::new();
        times_ns.into_iter().for_each(|ns| times.record(ns));
        times
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_times_that_were_taken() {
        let all: Times = (1..=10_000).map(|us| us * 1000).collect();
        let near = |ns: f64, us: f64| (ns / 1e3 / us - 1.0).abs() < 2e-3;
        assert_eq!(all.count(), 10_000);
        for (quantile, us) in [(0.5, 5_000.0), (0.99, 9_900.0), (0.999, 9_990.0)] {
            assert!(near(all.quantile_ns(quantile).unwrap() as f64, us), "{quantile}");
        }
        assert!(near(all.mean_ns().unwrap(), 5_000.5) && near(all.max_ns().unwrap() as f64, 10_000.0));
    }

    #[test]
    fn what_few_exceed_is_not_told_but_bounds_them() {
        let few: Times = (1..=999).map(|us| us * 1000).collect();
        assert!(few.quantile_ns(0.99).is_some() && few.quantile_ns(0.999).is_none());
        assert_eq!(few.bound_ns(0.999), few.max_ns());
        let none = Times::new();
        assert_eq!(
            (none.mean_ns(), none.max_ns(), none.bound_ns(0.5), none.quantile_ns(0.5)),
            (None, None, None, None)
        );
    }
}
