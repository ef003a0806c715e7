//! The 64 bytes that every contestant writes, reads and checks on both sides.
//!
//! A question is made from its item's number; the answer is computed from *every* word of the question, and
//! the client compares every word of the answer. So nobody wins by leaving bytes unread, and a lost, repeated
//! or torn item is an error instead of a good figure.

use rkyv::{Archive, Deserialize, Serialize};

const WORDS: usize = 8;

/// A question or an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Archive, Serialize, Deserialize)]
#[rkyv(derive(Debug))]
pub struct Payload {
    words: [u64; WORDS],
}

/// Bytes of one [`Payload`], in memory and archived.
pub const PAYLOAD_BYTES: usize = size_of::<Payload>();

const _: () = assert!(PAYLOAD_BYTES == 64 && size_of::<ArchivedPayload>() == PAYLOAD_BYTES);

impl Payload {
    /// The question of item number `item`.
    #[inline]
    pub fn question(item: u64) -> Self {
        Self { words: std::array::from_fn(|place| item.wrapping_add(place as u64)) }
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
}

impl PartialEq<Payload> for ArchivedPayload {
    #[inline]
    fn eq(&self, other: &Payload) -> bool {
        self.native() == other.words
    }
}

impl ArchivedPayload {
    /// The answer to this question, read where it lies.
    #[inline]
    pub fn answer(&self) -> Payload {
        answer_to(self.native())
    }

    /// Whether this is the answer to the question of item number `item`, read where it lies.
    #[inline]
    pub fn answers(&self, item: u64) -> bool {
        Payload { words: self.native() }.answers(item)
    }

    fn native(&self) -> [u64; WORDS] {
        self.words.map(|word| word.to_native())
    }
}

/// The last step mixes the words, so that one wrong word of the question spoils the whole answer.
#[inline]
fn answer_to(question: [u64; WORDS]) -> Payload {
    let sum = question.iter().fold(0u64, |sum, word| sum.wrapping_add(*word));
    Payload { words: question.map(|word| word ^ sum) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_fits_its_own_question_only() {
        for item in [0, 1, 255, u64::MAX] {
            let answer = Payload::question(item).answer();
            assert!(answer.answers(item));
            assert!(!answer.answers(item.wrapping_add(1)));
            assert!(!Payload::question(item).answers(item));
        }
    }

    #[test]
    fn one_wrong_word_spoils_the_answer() {
        for place in 0..WORDS {
            let mut question = Payload::question(41);
            question.words[place] += 1;
            assert!(!question.answer().answers(41), "word {place}");
        }
    }

    #[test]
    fn the_archived_question_has_the_same_answer() {
        let bytes = rkyv::to_bytes::<rkyv::rancor::Error>(&Payload::question(7)).unwrap();
        let archived = rkyv::access::<ArchivedPayload, rkyv::rancor::Error>(&bytes).unwrap();
        assert_eq!(archived.answer(), Payload::question(7).answer());
        assert!(!archived.answers(7));
    }
}
