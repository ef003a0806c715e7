//! Tokens: one incarnation of a participant, in 31 bits.
//!
//! ```text
//! 30            10 9          0
//! ├─── epoch ─────┼── index ──┤      index: the participant's row in the table
//! ```
//!
//! The epoch grows each time the server prepares a row of the participant table, so a token names one incarnation
//! (until the epoch wraps, see [`width`](crate::width)); it starts at 1, so that no token is 0. Owner fields in a
//! segment hold tokens, never pids.
//!
//! A token confers no right: any process can read one. The right to act under one is a
//! [`Participant`](crate::party::Participant).

use crate::width::EPOCH_BITS;
use core::fmt;
use core::num::NonZeroU32;

const INDEX_BITS: u32 = 10;
const EPOCH_LIMIT: u32 = 1 << EPOCH_BITS;
const _: () = assert!(INDEX_BITS + EPOCH_BITS <= Token::BITS);

/// One incarnation of a participant. Never zero.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Token(NonZeroU32);

impl Token {
    /// How many bits a token has: the lock word needs one for itself.
    pub const BITS: u32 = 31;
    /// How many participants a table can have.
    pub const INDEX_LIMIT: u32 = 1 << INDEX_BITS;

    /// The server's: its row has one incarnation in the life of a segment.
    pub const SERVER: Self = Self(NonZeroU32::new(1 << INDEX_BITS).expect("it is not 0"));

    /// The token of row `index` in its `epoch`-th incarnation; the epoch wraps, skipping 0.
    #[must_use]
    pub(crate) fn new(index: u32, epoch: u32) -> Self {
        debug_assert!(index < Self::INDEX_LIMIT);
        let epoch = (epoch % EPOCH_LIMIT).max(1);
        let raw = (epoch << INDEX_BITS) | (index % Self::INDEX_LIMIT);
        Self(NonZeroU32::new(raw).expect("the epoch is at least 1"))
    }

    /// The token in a word of a segment; `None` for 0, "no owner", and for what no token can be.
    #[inline]
    #[must_use]
    pub fn from_raw(raw: u32) -> Option<Self> {
        let some = raw >> INDEX_BITS != 0 && raw >> Self::BITS == 0;
        NonZeroU32::new(raw).filter(|_| some).map(Self)
    }

    /// The bits, as they lie in a word.
    #[inline]
    #[must_use]
    pub fn raw(self) -> u32 {
        self.0.get()
    }

    /// The row in the participant table.
    #[must_use]
    pub fn index(self) -> u32 {
        self.raw() % Self::INDEX_LIMIT
    }

    /// Which incarnation of that row.
    #[must_use]
    pub fn epoch(self) -> u32 {
        self.raw() >> INDEX_BITS
    }

    /// The next incarnation of the same row.
    #[cfg(test)]
    pub(crate) fn next(self) -> Self {
        Self::new(self.index(), self.epoch() + 1)
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}#{}", self.index(), self.epoch())
    }
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_never_zero_and_leaves_the_top_bit_free() {
        for (index, epoch) in [(0, 0), (0, 1), (1023, EPOCH_LIMIT - 1), (5, EPOCH_LIMIT)] {
            let token = Token::new(index, epoch);
            assert_eq!(Token::from_raw(token.raw()), Some(token));
            assert_eq!(token.index(), index);
            assert_eq!(token.raw() >> 31, 0);
        }
        assert_eq!(Token::from_raw(0), None);
        assert_eq!(Token::from_raw(7), None, "an index without an epoch is no token");
        assert_eq!(Token::from_raw(1 << 31 | 1 << 10), None);
    }

    #[test]
    fn the_epoch_wraps_past_zero() {
        let last = Token::new(3, EPOCH_LIMIT - 1);
        assert_eq!(last.next(), Token::new(3, 1));
    }
}
