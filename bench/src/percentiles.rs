//! Percentiles of times, for reports.

use ringmill_load::times::Times;

use crate::report::Row;

/// How often which time was taken.
#[derive(Clone, Debug)]
pub struct Percentiles(Times);

impl Percentiles {
    /// Those of these times.
    pub fn of(times_ns: impl IntoIterator<Item = u64>) -> Self {
        Self(times_ns.into_iter().collect())
    }

    /// How many times there are.
    pub fn count(&self) -> u64 {
        self.0.count()
    }

    /// The time that a part `quantile` of them does not exceed, in microseconds; not a number where so few exceed it that
    /// it is chance.
    pub fn us(&self, quantile: f64) -> f64 {
        self.0.quantile_ns(quantile).map_or(f64::NAN, |ns| ns as f64 / 1e3)
    }

    /// The mean, in microseconds; not a number of none.
    pub fn mean_us(&self) -> f64 {
        self.0.mean_ns().map_or(f64::NAN, |ns| ns / 1e3)
    }

    /// The longest, in microseconds; not a number of none.
    pub fn max_us(&self) -> f64 {
        self.0.max_ns().map_or(f64::NAN, |ns| ns as f64 / 1e3)
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
    fn what_few_exceed_is_not_told() {
        let row = Percentiles::of((1..=1000).map(|us| us * 1000)).figures(Row::new("latency", "test"));
        let names: Vec<&str> = row.figures.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["p50_us", "p99_us", "max_us"]);
    }
}
