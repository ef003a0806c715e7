//! The questions, and the check of every answer.

use std::time::{Duration, Instant};

use indicatif::ProgressBar;
use ringmill::CallError;

use crate::data::{Digit, Image};

/// All images to classify, asked `passes` times over.
pub(crate) struct Exam {
    pub(crate) unknown: Vec<Digit>,
    /// The in-process classifier's label of each, which every answer must bear.
    pub(crate) expected: Vec<u8>,
    pub(crate) passes: u32,
}

/// The result: every answer came in order and as expected.
#[derive(Debug)]
pub(crate) struct Marks {
    pub(crate) answers: u64,
    /// How many of them are the digit that the writer meant.
    pub(crate) right: u64,
    pub(crate) took: Duration,
}

/// An answer that is not as it must be. Images and passes count from 1.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ExamError {
    #[error("image {image} of pass {pass} got no answer")]
    Failed { image: usize, pass: u32, source: CallError },
    /// The server shuts down meanwhile only if a signal ends the process, by Ctrl-C for example.
    #[error("interrupted")]
    Interrupted,
    #[error("image {image} of pass {pass} came back as {label}, the in-process classifier says {expected}")]
    Wrong { image: usize, pass: u32, label: u8, expected: u8 },
    #[error("the answers ended before image {image} of pass {pass}")]
    Missing { image: usize, pass: u32 },
    #[error("there are more than {asked} answers to {asked} images")]
    Surplus { asked: u64 },
}

impl Exam {
    /// How many images are asked in all.
    pub(crate) fn len(&self) -> u64 {
        self.unknown.len() as u64 * u64::from(self.passes)
    }

    /// Every image of every pass.
    pub(crate) fn questions(&self) -> impl Iterator<Item = Image> {
        (0..self.passes).flat_map(|_| self.unknown.iter().map(|digit| digit.image))
    }

    /// Takes all answers as fast as they come and checks each. `bar` moves with every pass.
    ///
    /// # Errors
    ///
    /// At the first answer that is an error, wrong, missing or one too many.
    pub(crate) fn mark(
        &self,
        mut answers: impl Iterator<Item = Result<u8, CallError>>,
        bar: &ProgressBar,
    ) -> Result<Marks, ExamError> {
        let began = Instant::now();
        let mut right = 0;
        for pass in 1..=self.passes {
            for (index, (&expected, digit)) in self.expected.iter().zip(&self.unknown).enumerate() {
                let image = index + 1;
                let label =
                    answers.next().ok_or(ExamError::Missing { image, pass })?.map_err(
                        |source| match source {
                            CallError::ShuttingDown => ExamError::Interrupted,
                            source => ExamError::Failed { image, pass, source },
                        },
                    )?;
                if label != expected {
                    return Err(ExamError::Wrong { image, pass, label, expected });
                }
                right += u64::from(label == digit.label);
            }
            bar.inc(self.expected.len() as u64);
        }
        let took = began.elapsed();
        match answers.next() {
            None => Ok(Marks { answers: self.len(), right, took }),
            Some(_) => Err(ExamError::Surplus { asked: self.len() }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::PIXELS;

    /// Three images, asked twice; the classifier is wrong about the last.
    fn mark(answers: &[u8]) -> Result<Marks, ExamError> {
        let image = Image { pixels: [0; PIXELS] };
        let unknown = [1, 2, 3].map(|label| Digit { image, label }).to_vec();
        let exam = Exam { unknown, expected: vec![1, 2, 8], passes: 2 };
        assert_eq!(exam.questions().count() as u64, exam.len());
        exam.mark(answers.iter().copied().map(Ok), &ProgressBar::hidden())
    }

    #[test]
    fn answers_as_expected_pass_and_are_counted() {
        let marks = mark(&[1, 2, 8, 1, 2, 8]).expect("all as expected");
        assert_eq!((marks.answers, marks.right), (6, 4));
    }

    #[test]
    fn a_wrong_answer_fails_even_where_it_is_what_the_writer_meant() {
        assert!(matches!(
            mark(&[1, 2, 8, 1, 1, 8]),
            Err(ExamError::Wrong { image: 2, pass: 2, label: 1, expected: 2 })
        ));
        assert!(matches!(
            mark(&[1, 2, 3]),
            Err(ExamError::Wrong { image: 3, pass: 1, label: 3, expected: 8 })
        ));
    }

    #[test]
    fn answers_out_of_order_fail() {
        assert!(matches!(mark(&[2, 1, 8, 1, 2, 8]), Err(ExamError::Wrong { image: 1, pass: 1, .. })));
    }

    #[test]
    fn too_few_and_too_many_answers_fail() {
        assert!(matches!(mark(&[1, 2, 8, 1]), Err(ExamError::Missing { image: 2, pass: 2 })));
        assert!(matches!(mark(&[1, 2, 8, 1, 2, 8, 1]), Err(ExamError::Surplus { asked: 6 })));
    }
}
