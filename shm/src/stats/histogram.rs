//! Histograms of fixed size: log-linear, as HdrHistogram's.
//!
//! # Layout
//!
//! Two words, then a bucket for each of the values 0 to 15, and from there on eight buckets for each power of two: so a
//! bucket is at most an eighth as wide as its values are great. Times are counted in units of 16 ns, up to 241 s; the last
//! bucket has all greater values too.
//!
//! # Source
//!
//! G. Tene, HdrHistogram: buckets by exponent, and linear within one.

use super::add;
use crate::fields::in_segment;
use crate::sync::Ordering;
use core::sync::atomic::AtomicU64;
use serde::Serialize;
use serde::ser::{SerializeStruct, Serializer};

/// How many buckets a histogram has.
pub const BUCKETS: usize = 254;
/// Buckets a power of two, as a power of two.
const LINEAR_BITS: u32 = 3;

/// What a histogram counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Quantity {
    /// Items.
    Items,
    /// Time, in nanoseconds; rounded down to a multiple of 16.
    Time,
}

impl Quantity {
    /// Its values are counted in units of two to this power.
    const fn unit_bits(self) -> u32 {
        match self {
            Self::Items => 0,
            Self::Time => 4,
        }
    }

    /// The unit of its values, as reports have it.
    #[must_use]
    pub fn unit(self) -> &'static str {
        match self {
            Self::Items => "items",
            Self::Time => "ns",
        }
    }
}

/// Declares the histograms of a row: what they are of, the types of a histogram, of all of them, and of their values at
/// one moment; and of each what it counts, its name, and the [`Quantity`].
macro_rules! histograms {
    (
        $of:literal
        $(#[$of_histogram:meta])* $Histogram:ident
        $(#[$of_histograms:meta])* $Histograms:ident
        $(#[$of_distributions:meta])* $Distributions:ident
        $(
            #[doc = $help:literal]
            $histogram:ident $field:ident $quantity:ident;
        )*
    ) => {
        $(#[$of_histogram])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[repr(usize)]
        #[non_exhaustive]
        pub enum $Histogram {
            $(#[doc = $help] $histogram,)*
        }

        impl $Histogram {
            /// All histograms, in the order of reports.
            pub const ALL: [Self; [$(stringify!($field)),*].len()] = [$(Self::$histogram),*];

            /// Its words.
            #[must_use]
            pub fn words(self) -> &'static $crate::stats::HistogramWords {
                const WORDS: [$crate::stats::HistogramWords; $Histogram::ALL.len()] =
                    [$($crate::stats::HistogramWords {
                        of: $of,
                        name: stringify!($field),
                        help: $help.trim_ascii(),
                        quantity: $crate::stats::Quantity::$quantity,
                    }),*];
                &WORDS[self as usize]
            }
        }

        in_segment! {
            $(#[$of_histograms])*
            #[repr(align(128))]
            #[derive(Debug, Default)]
            pub struct $Histograms {
                $($field: Histogram,)*
            }
        }

        $(#[$of_distributions])*
        #[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
        #[non_exhaustive]
        pub struct $Distributions {
            $(#[doc = $help] pub $field: $crate::stats::Distribution,)*
        }

        impl $Distributions {
            fn of(values: impl Fn($Histogram) -> $crate::stats::Distribution) -> Self {
                Self { $($field: values($Histogram::$histogram),)* }
            }

            /// One of them.
            #[must_use]
            pub fn get(&self, histogram: $Histogram) -> &$crate::stats::Distribution {
                match histogram {
                    $($Histogram::$histogram => &self.$field,)*
                }
            }

            /// The values of both.
            #[must_use]
            pub fn merged(&self, other: &Self) -> Self {
                Self::of(|histogram| self.get(histogram).clone().merged(other.get(histogram)))
            }

            /// The values that came after an earlier moment, at which they were those of `earlier`.
            #[must_use]
            pub fn since(&self, earlier: &Self) -> Self {
                Self::of(|histogram| self.get(histogram).clone().since(earlier.get(histogram)))
            }
        }

        /// Without values.
        impl Default for $Distributions {
            fn default() -> Self {
                Self::of(|histogram| $crate::stats::Distribution::new(histogram.words().quantity))
            }
        }

        impl $Histograms {
            #[inline]
            fn at(&self, histogram: $Histogram) -> &Histogram {
                match histogram {
                    $($Histogram::$histogram => &self.$field,)*
                }
            }
        }
    };
}
pub(crate) use histograms;

/// The words of a histogram, for reports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct HistogramWords {
    /// What it is a histogram of: `worker`, `caller`.
    pub of: &'static str,
    /// Its name, which is that of its field in reports.
    pub name: &'static str,
    /// What is counted, as a sentence.
    pub help: &'static str,
    /// What its values are.
    pub quantity: Quantity,
}

impl HistogramWords {
    /// Its name in Prometheus' form, where times are in seconds.
    #[must_use]
    pub fn metric(&self) -> String {
        let unit = match self.quantity {
            Quantity::Items => "items",
            Quantity::Time => "seconds",
        };
        format!("ringmill_{}_{}_{unit}", self.of, self.name)
    }
}

in_segment! {
    /// A histogram. One thread writes it; any may read.
    #[repr(align(128))]
    #[derive(Debug)]
    pub struct Histogram {
        sum: AtomicU64,
        greatest: AtomicU64,
        buckets: [AtomicU64; BUCKETS],
    }
}

const _: () = assert!(size_of::<Histogram>() == 2048);

impl Default for Histogram {
    fn default() -> Self {
        let zero = || AtomicU64::new(0);
        Self { sum: zero(), greatest: zero(), buckets: core::array::from_fn(|_| zero()) }
    }
}

/// The bucket of a value in units.
#[inline]
fn bucket_of(units: u64) -> usize {
    let linear = 1 << LINEAR_BITS;
    if units < linear {
        return units as usize;
    }
    let power = units.ilog2() - LINEAR_BITS;
    let bucket = (u64::from(power) << LINEAR_BITS) + (units >> power);
    (bucket as usize).min(BUCKETS - 1)
}

/// The least value, in units, of a bucket; of `BUCKETS`, the first behind the last one.
fn least_of(bucket: usize) -> u64 {
    let (bucket, linear) = (bucket as u64, 1 << LINEAR_BITS);
    if bucket < linear {
        return bucket;
    }
    let power = (bucket >> LINEAR_BITS) - 1;
    (bucket - (power << LINEAR_BITS)) << power
}

impl Histogram {
    /// Adds one to the bucket of a number of items, and to nothing else.
    #[inline]
    pub(super) fn count(&self, items: u64) {
        add(&self.buckets[bucket_of(items)], 1);
    }

    /// Records a time this many times: its sample stands for as many.
    pub(super) fn record(&self, value_ns: u64, times: u64) {
        add(&self.buckets[bucket_of(value_ns >> Quantity::Time.unit_bits())], times);
        add(&self.sum, value_ns.saturating_mul(times));
        if value_ns > self.greatest.load(Ordering::Relaxed) {
            self.greatest.store(value_ns, Ordering::Relaxed); // Relaxed: as in `add`
        }
    }

    /// [`record`](Self::record) where other threads write too.
    pub(super) fn record_with_others(&self, value_ns: u64, times: u64) {
        let bucket = bucket_of(value_ns >> Quantity::Time.unit_bits());
        // Relaxed: as in `add`.
        self.buckets[bucket].fetch_add(times, Ordering::Relaxed);
        self.sum.fetch_add(value_ns.saturating_mul(times), Ordering::Relaxed);
        self.greatest.fetch_max(value_ns, Ordering::Relaxed);
    }

    /// Its values now.
    pub(super) fn distribution(&self, quantity: Quantity) -> Distribution {
        // Relaxed: readers want no more than a recent value.
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Distribution {
            quantity,
            sum: load(&self.sum),
            greatest: load(&self.greatest),
            buckets: self.buckets.iter().map(load).collect(),
        }
    }
}

/// The values of a histogram at one moment, or within a time: how many there were, and how great.
///
/// ```
/// use ringmill_shm::stats::{Distribution, Quantity};
/// let none = Distribution::new(Quantity::Time);
/// assert_eq!((none.count(), none.mean(), none.percentile(99.0)), (0, 0.0, 0));
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Distribution {
    quantity: Quantity,
    sum: u64,
    greatest: u64,
    buckets: Vec<u64>,
}

impl Distribution {
    /// Without values.
    #[must_use]
    pub fn new(quantity: Quantity) -> Self {
        Self { quantity, sum: 0, greatest: 0, buckets: vec![0; BUCKETS] }
    }

    pub(super) fn with_sum(self, sum: u64, greatest: u64) -> Self {
        Self { sum, greatest, ..self }
    }

    /// What the values are.
    #[must_use]
    pub fn quantity(&self) -> Quantity {
        self.quantity
    }

    /// How many values there are. Of times that are sampled: for how many the samples stand.
    #[must_use]
    pub fn count(&self) -> u64 {
        // Saturating, here and below: any process may have written the buckets.
        self.buckets.iter().fold(0, |sum, &count| sum.saturating_add(count))
    }

    /// The sum of the values, in items or nanoseconds.
    #[must_use]
    pub fn sum(&self) -> u64 {
        self.sum
    }

    /// The greatest value since the start, also of a [difference](Self::since); 0 without values.
    #[must_use]
    pub fn greatest(&self) -> u64 {
        self.greatest
    }

    /// The mean; 0 without values.
    #[must_use]
    pub fn mean(&self) -> f64 {
        let count = self.count();
        if count == 0 { 0.0 } else { self.sum as f64 / count as f64 }
    }

    /// The value that `percent` per cent of all values do not exceed, to an eighth of it; 0 without values. `percent` is
    /// taken as a number from 0 to 100.
    #[must_use]
    pub fn percentile(&self, percent: f64) -> u64 {
        let count = self.count();
        if count == 0 {
            return 0;
        }
        // The rank of the value, at least the first.
        let rank = ((percent.clamp(0.0, 100.0) / 100.0 * count as f64).ceil() as u64).clamp(1, count);
        let mut below = 0_u64;
        for (bucket, &within) in self.buckets.iter().enumerate() {
            below = below.saturating_add(within);
            if below >= rank {
                // The middle of the bucket, unless the greatest value of all is less.
                let (least, next) = (least_of(bucket), least_of(bucket + 1));
                let middle = (least + (next - 1 - least) / 2) << self.quantity.unit_bits();
                return match bucket == BUCKETS - 1 || middle > self.greatest {
                    true => self.greatest.max(least << self.quantity.unit_bits()),
                    false => middle,
                };
            }
        }
        self.greatest
    }

    /// The values of both.
    ///
    /// # Panics
    /// If one has items and the other times.
    #[must_use]
    pub fn merged(mut self, other: &Self) -> Self {
        assert_eq!(self.quantity, other.quantity, "values of one kind");
        self.sum = self.sum.saturating_add(other.sum);
        self.greatest = self.greatest.max(other.greatest);
        for (to, from) in self.buckets.iter_mut().zip(&other.buckets) {
            *to = to.saturating_add(*from);
        }
        self
    }

    /// The values that came after an earlier moment, at which it had those of `earlier`.
    #[must_use]
    pub fn since(mut self, earlier: &Self) -> Self {
        self.sum = self.sum.saturating_sub(earlier.sum);
        for (to, from) in self.buckets.iter_mut().zip(&earlier.buckets) {
            *to = to.saturating_sub(*from);
        }
        self
    }

    /// Cumulative buckets, for formats that want a few: powers of two in the histogram's units, ascending, and how many
    /// values are below each. The bounds are the same whatever the values are; for times, 16 ns is the first.
    pub fn cumulative(&self) -> impl Iterator<Item = (u64, u64)> {
        let bits = self.quantity.unit_bits();
        let powers = (0..u64::BITS - bits).map(|power| 1_u64 << power);
        let mut below = 0_u64;
        let mut next = 0;
        // The last bucket has no end.
        powers.map_while(move |bound| (bound <= least_of(BUCKETS - 1)).then_some(bound)).map(move |bound| {
            while least_of(next + 1) <= bound {
                below = below.saturating_add(self.buckets[next]);
                next += 1;
            }
            (bound << bits, below)
        })
    }
}

impl Serialize for Distribution {
    /// The count, the sum, the mean, percentiles, the greatest value.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut out = serializer.serialize_struct("Distribution", 9)?;
        out.serialize_field("unit", self.quantity.unit())?;
        out.serialize_field("count", &self.count())?;
        out.serialize_field("sum", &self.sum)?;
        out.serialize_field("mean", &self.mean())?;
        for (name, percent) in PERCENTILES {
            out.serialize_field(name, &self.percentile(percent))?;
        }
        out.serialize_field("max", &self.greatest)?;
        out.end()
    }
}

/// The percentiles of reports.
pub const PERCENTILES: [(&str, f64); 4] = [("p50", 50.0), ("p90", 90.0), ("p99", 99.0), ("p999", 99.9)];

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn buckets_follow_each_other_without_a_gap() {
        for bucket in 0..BUCKETS {
            let (least, next) = (least_of(bucket), least_of(bucket + 1));
            assert_eq!(bucket_of(least), bucket);
            assert_eq!(bucket_of(next - 1), bucket, "{bucket}: {least}..{next}");
            assert!((next - least) * 8 <= least.max(8), "{bucket}: {least}..{next} is too wide");
        }
        assert_eq!(bucket_of(u64::MAX), BUCKETS - 1);
        assert_eq!(least_of(BUCKETS - 1) << Quantity::Time.unit_bits(), 223_338_299_392, "over 223 s");
    }

    #[test]
    fn a_value_that_is_too_great_is_in_the_last_bucket() {
        let histogram = Histogram::default();
        histogram.record(u64::MAX, 4);
        let values = histogram.distribution(Quantity::Time);
        assert_eq!((values.count(), values.greatest(), values.sum()), (4, u64::MAX, u64::MAX));
        assert_eq!(values.percentile(50.0), u64::MAX);
    }

    #[test]
    fn cumulative_buckets_end_at_each_power_of_two() {
        let histogram = Histogram::default();
        for items in [0, 1, 2, 3, 4, 31, 32] {
            histogram.count(items);
        }
        let sizes = histogram.distribution(Quantity::Items);
        let first: Vec<_> = sizes.cumulative().take(7).collect();
        assert_eq!(first, [(1, 1), (2, 2), (4, 4), (8, 5), (16, 5), (32, 6), (64, 7)]);
        histogram.record(u64::MAX, 1);
        let times = histogram.distribution(Quantity::Time);
        assert_eq!(times.cumulative().next(), Some((16, 1)));
        assert_eq!(times.cumulative().last(), Some((1 << 37, 7)), "the greatest is above all bounds");
    }

    #[test]
    fn a_difference_has_what_came_since() {
        let histogram = Histogram::default();
        histogram.record(1_000, 1);
        let before = histogram.distribution(Quantity::Time);
        histogram.record(3_000, 2);
        let since = histogram.distribution(Quantity::Time).since(&before);
        assert_eq!((since.count(), since.sum(), since.mean()), (2, 6_000, 3_000.0));
        let below: Vec<_> = since.cumulative().skip_while(|(_, below)| *below == 0).collect();
        assert_eq!((below[0], below.last()), ((4_096, 2), Some(&(1 << 37, 2))));
    }

    proptest! {
        #[test]
        fn a_percentile_is_right_to_an_eighth(
            mut values in prop::collection::vec(0..1_u64 << 36, 1..200), percent in 0.0..=100.0_f64,
        ) {
            let histogram = Histogram::default();
            values.iter().for_each(|&value| histogram.record(value, 1));
            let found = histogram.distribution(Quantity::Time).percentile(percent);
            values.sort_unstable();
            let rank = ((percent / 100.0 * values.len() as f64).ceil() as usize).clamp(1, values.len());
            let exact = values[rank - 1];
            prop_assert!(found.abs_diff(exact) <= exact / 8 + 16, "{found} for {exact}");
        }

        #[test]
        fn merged_values_are_those_of_both(
            a in prop::collection::vec(0..1_u64 << 40, 0..50), b in prop::collection::vec(0..1_u64 << 40, 0..50),
        ) {
            let of = |values: &[u64]| {
                let histogram = Histogram::default();
                values.iter().for_each(|&value| histogram.record(value, 1));
                histogram.distribution(Quantity::Time)
            };
            prop_assert_eq!(of(&a).merged(&of(&b)), of(&[a, b].concat()));
        }
    }
}
