//! The words of 8 bytes that every contestant writes, reads and checks on both sides.
//!
//! A question is made from its item's number; the answer is computed from *every* word of the question, and
//! the client compares every word of the answer. So no contestant wins by leaving bytes unread, and a lost, repeated
//! or torn item is an error instead of a good figure.

use std::fmt;

use rkyv::{Archive, Deserialize, Serialize};

/// A question or an answer of `WORDS` words: 1, 8 and 128 are the sizes of `compare`, see [`SIZES`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct Payload<const WORDS: usize> {
    words: [u64; WORDS],
}

/// Bytes of the payloads that every contestant can be asked for: `Payload<1>`, `Payload<8>`, `Payload<128>`.
pub const SIZES: [u32; 3] = [8, 64, 1024];

const _: () = assert!(Payload::<1>::BYTES == 8 && Payload::<8>::BYTES == 64 && Payload::<128>::BYTES == 1024);

impl<const WORDS: usize> Payload<WORDS> {
    /// Bytes of one payload, in memory and archived.
    pub const BYTES: usize = {
        assert!(size_of::<ArchivedPayload<WORDS>>() == size_of::<Self>());
        size_of::<Self>()
    };

    /// The question of item number `item`.
    #[inline]
    pub fn question(item: u64) -> Self {
        Self { words: std::array::from_fn(|index| item.wrapping_add(index as u64)) }
    }

    /// The answer to this question.
    #[inline]
    pub fn answer(&self) -> Self {
        answer_to(self.words)
    }

    /// Whether this is the answer to the question of item number `item`.
    #[inline]
    pub fn answers(&self, item: u64) -> bool {
        let right = Self::question(item).answer();
        // Without a branch: a call of memcmp would take as long as some contestants.
        let differences = self.words.iter().zip(&right.words).map(|(word, right)| word ^ right);
        differences.fold(0, |all, difference| all | difference) == 0
    }

    /// The words, for transports that move plain memory.
    #[inline]
    pub fn words(&self) -> &[u64; WORDS] {
        &self.words
    }

    /// A payload that a transport of plain memory has brought.
    #[inline]
    pub fn from_words(words: [u64; WORDS]) -> Self {
        Self { words }
    }
}

impl<const WORDS: usize> fmt::Debug for ArchivedPayload<WORDS> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_tuple("ArchivedPayload").field(&self.native()).finish()
    }
}

impl<const WORDS: usize> PartialEq<Payload<WORDS>> for ArchivedPayload<WORDS> {
    #[inline]
    fn eq(&self, other: &Payload<WORDS>) -> bool {
        self.native() == other.words
    }
}

impl<const WORDS: usize> ArchivedPayload<WORDS> {
    /// The answer to this question, read where it lies.
    #[inline]
    pub fn answer(&self) -> Payload<WORDS> {
        answer_to(self.native())
    }

    /// Whether this is the answer to the question of item number `item`, read where it lies.
    #[inline]
    pub fn answers(&self, item: u64) -> bool {
        Payload { words: self.native() }.answers(item)
    }

    #[inline]
    fn native(&self) -> [u64; WORDS] {
        self.words.map(|word| word.to_native())
    }
}

/// The last step mixes the words, so that a wrong word of the question spoils the answer. The sum is doubled
/// because a single word and its sum would take each other away.
#[inline]
fn answer_to<const WORDS: usize>(question: [u64; WORDS]) -> Payload<WORDS> {
    let sum = question.iter().fold(0u64, |sum, word| sum.wrapping_add(*word));
    Payload { words: question.map(|word| word ^ (sum << 1)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn an_answer_fits_its_own_question_only<const WORDS: usize>() {
        for item in [0, 1, 255, u64::MAX] {
            let answer = Payload::<WORDS>::question(item).answer();
            assert!(answer.answers(item));
            assert!(!answer.answers(item.wrapping_add(1)));
            assert!(item == 0 && WORDS == 1 || !Payload::<WORDS>::question(item).answers(item));
        }
    }

    fn one_wrong_word_spoils_the_answer<const WORDS: usize>() {
        for index in 0..WORDS {
            for bit in 0..u64::BITS {
                let mut question = Payload::<WORDS>::question(41);
                question.words[index] ^= 1 << bit;
                assert!(!question.answer().answers(41), "word {index}, bit {bit}");
            }
        }
    }

    fn the_archived_question_has_the_same_answer<const WORDS: usize>() {
        let bytes = rkyv::to_bytes::<rkyv::rancor::Error>(&Payload::<WORDS>::question(7)).unwrap();
        assert_eq!(bytes.len(), Payload::<WORDS>::BYTES);
        let archived = rkyv::access::<ArchivedPayload<WORDS>, rkyv::rancor::Error>(&bytes).unwrap();
        assert_eq!(archived.answer(), Payload::question(7).answer());
        assert!(!archived.answers(7));
    }

    #[test]
    fn holds_in_every_size() {
        an_answer_fits_its_own_question_only::<1>();
        an_answer_fits_its_own_question_only::<8>();
        an_answer_fits_its_own_question_only::<128>();
        one_wrong_word_spoils_the_answer::<1>();
        one_wrong_word_spoils_the_answer::<8>();
        one_wrong_word_spoils_the_answer::<128>();
        the_archived_question_has_the_same_answer::<1>();
        the_archived_question_has_the_same_answer::<8>();
        the_archived_question_has_the_same_answer::<128>();
    }
}
