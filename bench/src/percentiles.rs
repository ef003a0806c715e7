//! Percentiles of times.

use hdrhistogram::Histogram;

use crate::report::Row;

/// Decimal digits of a time that are kept.
const DIGITS: u8 = 3;

/// This many times must lie above a percentile: otherwise it is chance.
const ABOVE: f64 = 10.0;

/// How often which time was taken.
#[derive(Clone, Debug)]
pub struct Percentiles(Histogram<u64>);

impl Percentiles {
    /// Those of these times.
    ///
    /// # Panics
    ///
    /// Never: a histogram with so few digits can be made, and one that resizes itself holds any time.
    pub fn of(times_ns: impl IntoIterator<Item = u64>) -> Self {
        let mut histogram = Histogram::new(DIGITS).expect("so few digits can be kept");
        for time_ns in times_ns {
            histogram.record(time_ns).expect("it resizes itself");
        }
        Self(histogram)
    }

    /// How many times there are.
    pub fn count(&self) -> u64 {
        self.0.len()
    }

    /// The time that a part `quantile` of them does not exceed, in microseconds; not a number where too few exceed
    /// it.
    pub fn us(&self, quantile: f64) -> f64 {
        // A part such as 1 - 0.999 is a little off.
        let above = (self.count() as f64 * (1.0 - quantile)).round();
        if above < ABOVE { f64::NAN } else { self.0.value_at_quantile(quantile) as f64 / 1e3 }
    }

    /// The mean, in microseconds.
    pub fn mean_us(&self) -> f64 {
        self.0.mean() / 1e3
    }

    /// The longest, in microseconds.
    pub fn max_us(&self) -> f64 {
        self.0.max() as f64 / 1e3
    }

    /// `row` with the percentiles that latencies are judged by.
    pub fn figures(&self, row: Row) -> Row {
        row.figure("p50_us", self.us(0.5))
            .figure("p99_us", self.us(0.99))
            .figure("p999_us", self.us(0.999))
            .figure("max_us", self.max_us())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_times_that_were_taken() {
        let all = Percentiles::of((1..=10_000).map(|us| us * 1000));
        assert_eq!(all.count(), 10_000);
        for (quantile, us) in [(0.5, 5_000.0), (0.99, 9_900.0), (0.999, 9_990.0)] {
            assert!((all.us(quantile) / us - 1.0).abs() < 2e-3, "{} at {quantile}", all.us(quantile));
        }
        assert!((all.mean_us() / 5_000.5 - 1.0).abs() < 2e-3);
        assert!((all.max_us() / 10_000.0 - 1.0).abs() < 2e-3);
    }

    #[test]
    fn what_few_exceed_is_not_told() {
        let row = Percentiles::of((1..=1000).map(|us| us * 1000)).figures(Row::new("latency", "test"));
        let names: Vec<&str> = row.figures.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["p50_us", "p99_us", "max_us"]);
    }
}
