//! When a task was put into a ring, and whether it is timed.

/// For how many requests one that is timed stands, itself among them: 1 to 1,023.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Weight(u16);

impl Weight {
    /// It stands for itself.
    pub const ONE: Self = Self(1);
    /// The greatest.
    pub const MOST: u64 = (1 << 10) - 1;

    /// This count, or the nearest that a weight can be.
    #[must_use]
    pub fn of(count: u64) -> Self {
        Self(count.clamp(1, Self::MOST) as u16)
    }

    /// The count.
    #[must_use]
    pub fn count(self) -> u64 {
        self.0.into()
    }
}

/// When a task was put into a ring, in monotonic nanoseconds, and its marks, whether it is timed and whether it is traced:
/// one word of the task's header. The time is a multiple of 32, and below 2⁵⁸ (nine years); the bits below and above hold
/// the weight of a task that is timed, and bit 4 says that it is [traced](crate::trace).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp(u64);

impl Stamp {
    /// Of a task that is not timed, and whose time no batch window needs.
    pub const NONE: Self = Self(0);
    const LOW_BITS: u32 = 4;
    const LOW: u64 = (1 << Self::LOW_BITS) - 1;
    const TRACED: u64 = 1 << Self::LOW_BITS;
    const HIGH_SHIFT: u32 = 58;
    const TIME: u64 = ((1 << Self::HIGH_SHIFT) - 1) & !Self::LOW & !Self::TRACED;

    /// Of a task that is put into a ring now; timed with this weight, if there is one.
    #[inline]
    #[must_use]
    pub fn at(now_ns: u64, weight: Option<Weight>) -> Self {
        let weight = weight.map_or(0, Weight::count);
        Self(now_ns & Self::TIME | weight & Self::LOW | weight >> Self::LOW_BITS << Self::HIGH_SHIFT)
    }

    /// The same, of a task that is traced.
    #[must_use]
    pub fn traced(self) -> Self {
        Self(self.0 | Self::TRACED)
    }

    /// The same marks, of a task that is put into a ring now.
    #[inline]
    #[must_use]
    pub fn again_at(self, now_ns: u64) -> Self {
        Self(self.0 & !Self::TIME | now_ns & Self::TIME)
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
        self.0 & Self::TIME
    }

    /// Whether the task is timed, or traced.
    #[inline]
    #[must_use]
    pub fn is_marked(self) -> bool {
        self.0 & !Self::TIME != 0
    }

    /// Whether the task is traced.
    #[inline]
    #[must_use]
    pub fn is_traced(self) -> bool {
        self.0 & Self::TRACED != 0
    }

    /// The weight of a task that is timed.
    #[inline]
    #[must_use]
    pub fn weight(self) -> Option<Weight> {
        let weight = self.0 & Self::LOW | self.0 >> Self::HIGH_SHIFT << Self::LOW_BITS;
        (weight != 0).then_some(Weight(weight as u16)) // ten bits
    }
}

const _: () = assert!(Weight::MOST == Stamp::LOW | u64::MAX >> Stamp::HIGH_SHIFT << Stamp::LOW_BITS);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_has_its_time_and_its_weight() {
        for (count, weighs) in [(0, 1), (1, 1), (3, 3), (16, 16), (1_023, 1_023), (u64::MAX, 1_023)] {
            let weight = Weight::of(count);
            assert_eq!(weight.count(), weighs);
            let stamp = Stamp::at(12_345, Some(weight));
            assert!(stamp.is_marked() && !stamp.is_traced());
            assert_eq!((stamp.time_ns(), stamp.weight()), (12_320, Some(weight)));
            let later = stamp.traced().again_at(99_999);
            assert!(later.is_marked() && later.is_traced());
            assert_eq!((later.time_ns(), later.weight()), (99_968, Some(weight)));
        }
        let untimed = Stamp::at(12_345, None);
        assert_eq!((untimed.time_ns(), untimed.weight(), untimed.is_marked()), (12_320, None, false));
        assert_eq!((untimed.traced().weight(), untimed.traced().is_marked()), (None, true));
        assert_eq!(Stamp::NONE.time_ns(), 0);
        let all = Stamp::from_raw(u64::MAX);
        assert_eq!((all.weight().map(Weight::count), all.time_ns()), (Some(Weight::MOST), (1 << 58) - 32));
    }
}
