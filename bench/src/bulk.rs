//! Large questions, with answers of one word: the client writes many words, and the partner adds them up.
//!
//! The sum depends on every byte, and differs from item to item: a partner that has read an older item's bytes, or not all of
//! them, answers wrongly. The client knows the right sum without reading.

use crate::Error;

/// Writes the question of item number `item` over `words`.
#[inline]
pub fn write(words: &mut [u64], item: u64) {
    for (word, index) in words.iter_mut().zip(item..) {
        *word = index;
    }
}

/// The answer to a question.
#[inline]
pub fn sum(words: impl Iterator<Item = u64>) -> u64 {
    words.fold(0, u64::wrapping_add)
}

/// Whether `answer` is the answer to the question of item number `item`, which had `words` words.
///
/// # Errors
///
/// [`Error::WrongAnswer`] if not.
#[inline]
pub fn check(who: &'static str, answer: u64, item: u64, words: usize) -> Result<(), Error> {
    let words = words as u64;
    let indices = u128::from(words) * u128::from(words.saturating_sub(1)) / 2;
    let right = item.wrapping_mul(words).wrapping_add(indices as u64);
    if answer == right { Ok(()) } else { Err(Error::WrongAnswer { who, item }) }
}

/// How many words make this many bytes.
pub fn words_in(bytes: u32) -> usize {
    bytes as usize / size_of::<u64>()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sum_is_known_beforehand() {
        for words in [0, 1, 2, 513] {
            for item in [0, 1, 77, 1 << 40] {
                let mut question = vec![0; words];
                write(&mut question, item);
                let answer = sum(question.iter().copied());
                assert!(check("test", answer, item, words).is_ok());
                assert!(words == 0 || check("test", answer, item + 1, words).is_err());
                for index in 0..words {
                    question[index] ^= 1 << 63;
                    assert!(check("test", sum(question.iter().copied()), item, words).is_err());
                    question[index] ^= 1 << 63;
                }
            }
        }
    }
}
