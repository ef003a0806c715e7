//! When a task was put into a ring, and whether it is timed.

/// For how many requests or batches a sample stands: a power of two, 1 to 16,384.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Weight(u8);

impl Weight {
    /// It stands for itself.
    pub const ONE: Self = Self(0);
    const MOST: u32 = 14;

    /// The greatest weight that is at most this count, and at least 1.
    #[must_use]
    pub fn of(count: u32) -> Self {
        Self(count.max(1).ilog2().min(Self::MOST) as u8)
    }

    /// The count.
    #[must_use]
    pub fn count(self) -> u64 {
        1 << self.0
    }
}

/// When a task was put into a ring, in monotonic nanoseconds, and whether it is timed: one word of the task's header. The
/// time is a multiple of 16; the bits below hold the weight of a task that is timed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp(u64);

impl Stamp {
    /// Of a task that is not timed, and whose time no batch window needs.
    pub const NONE: Self = Self(0);
    const WEIGHT: u64 = 0xF;

    /// Of a task that is put into a ring now; timed with this weight, if there is one.
    #[inline]
    #[must_use]
    pub fn at(now_ns: u64, weight: Option<Weight>) -> Self {
        Self(now_ns & !Self::WEIGHT | weight.map_or(0, |weight| u64::from(weight.0) + 1))
    }

    /// The stamp in a word; any bits are one.
    #[inline]
    pub(crate) fn from_raw(raw: u64) -> Self {
        Self(raw)
    }

    #[inline]
    pub(crate) fn raw(self) -> u64 {
        self.0
    }

    /// The time; 0 if there is none.
    #[inline]
    #[must_use]
    pub fn time_ns(self) -> u64 {
        self.0 & !Self::WEIGHT
    }

    /// Whether the task is timed.
    #[inline]
    #[must_use]
    pub fn is_timed(self) -> bool {
        self.0 & Self::WEIGHT != 0
    }

    /// The weight of a task that is timed.
    #[inline]
    #[must_use]
    pub fn weight(self) -> Option<Weight> {
        ((self.0 & Self::WEIGHT) as u8).checked_sub(1).map(Weight)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_has_its_time_and_its_weight() {
        for (count, weighs) in
            [(0, 1), (1, 1), (2, 2), (3, 2), (64, 64), (16_384, 16_384), (u32::MAX, 16_384)]
        {
            let weight = Weight::of(count);
            assert_eq!(weight.count(), weighs);
            let stamp = Stamp::at(12_345, Some(weight));
            assert!(stamp.is_timed());
            assert_eq!((stamp.time_ns(), stamp.weight()), (12_336, Some(weight)));
        }
        let untimed = Stamp::at(12_345, None);
        assert_eq!((untimed.time_ns(), untimed.weight(), untimed.is_timed()), (12_336, None, false));
        assert_eq!(Stamp::NONE.time_ns(), 0);
        assert_eq!(Stamp::from_raw(u64::MAX).weight().map(Weight::count), Some(1 << Weight::MOST));
    }
}
