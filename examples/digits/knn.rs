//! The classifier: the three nearest known examples vote.
//!
//! The squared distance from an image `x` to a known example `k` is `|x|² - 2 x·k + |k|²`. The term
//! `|x|²` is the same for every example, so leaving it out changes no order, and what remains for a
//! whole batch is one matrix product: `images · knownᵀ`. That is why batching pays. An
//! image alone has to fetch all 230 KB of known examples for itself; in a product, what was fetched
//! once serves many images from registers and the nearest cache.
//!
//! # Invariants
//!
//! *exact*: pixels are integers 0..=16, so every product, every partial sum and every score is an
//! integer below 2²⁴, which `f32` holds exactly. A score is thus the same in whatever order its
//! terms are summed. As ties go to the example that was known first, a label depends on its image
//! alone, never on the other images of its batch.

use ndarray::linalg::{general_mat_mul, general_mat_vec_mul};
use ndarray::{Array2, s};

use crate::data::{Digit, PIXELS};

/// How many examples vote.
pub(crate) const VOTERS: usize = 3;

/// Fewer known examples than votes.
#[derive(Debug, thiserror::Error)]
#[error("{known} known examples are too few for {VOTERS} votes")]
pub(crate) struct TooFewKnown {
    known: usize,
}

/// The known examples, laid out for the product, and room for one batch.
pub(crate) struct Classifier {
    /// One example a row.
    known: Array2<f32>,
    /// `|k|²` of each example.
    squares: Vec<f32>,
    /// The digit of each example.
    digits: Vec<u8>,
    /// The batch, one image a row; grows to the largest batch seen.
    images: Array2<f32>,
    /// `-2 x·k`, one image a row, one example a column.
    products: Array2<f32>,
    /// The labels of the batch.
    labels: Vec<u8>,
}

impl Classifier {
    pub(crate) fn new(examples: &[Digit]) -> Result<Self, TooFewKnown> {
        if examples.len() < VOTERS {
            return Err(TooFewKnown { known: examples.len() });
        }
        let pixels = |(row, column): (usize, usize)| f32::from(examples[row].image.pixels[column]);
        let known = Array2::from_shape_fn((examples.len(), PIXELS), pixels);
        Ok(Self {
            squares: known.rows().into_iter().map(|row| row.dot(&row)).collect(),
            digits: examples.iter().map(|example| example.label).collect(),
            images: Array2::zeros((0, PIXELS)),
            products: Array2::zeros((0, examples.len())),
            labels: Vec::new(),
            known,
        })
    }

    /// Says for each image, in order, which digit it is.
    pub(crate) fn labels<'i>(&mut self, images: impl ExactSizeIterator<Item = &'i [u8; PIXELS]>) -> &[u8] {
        let count = images.len();
        if count > self.images.nrows() {
            self.images = Array2::zeros((count, PIXELS));
            self.products = Array2::zeros((count, self.known.nrows()));
        }
        for (mut row, image) in self.images.rows_mut().into_iter().zip(images) {
            row.iter_mut().zip(image).for_each(|(to, &from)| *to = f32::from(from));
        }
        self.multiply(count);

        self.labels.clear();
        for products in self.products.rows().into_iter().take(count) {
            let products = products.to_slice().expect("rows of a standard layout are contiguous");
            self.labels.push(vote(nearest(products, &self.squares).map(|example| self.digits[example])));
        }
        &self.labels
    }

    /// Fills the first `count` rows of `products` from as many of `images`.
    fn multiply(&mut self, count: usize) {
        if count == 1 {
            // A matrix-matrix product would first reorder all of `known`, for a single use.
            general_mat_vec_mul(-2.0, &self.known, &self.images.row(0), 0.0, &mut self.products.row_mut(0));
        } else {
            let images = self.images.slice(s![..count, ..]);
            general_mat_mul(
                -2.0,
                &images,
                &self.known.t(),
                0.0,
                &mut self.products.slice_mut(s![..count, ..]),
            );
        }
    }
}

/// Where in `products + squares` the three smallest are, smallest first, ties in order of place.
fn nearest(products: &[f32], squares: &[f32]) -> [usize; VOTERS] {
    /// Read together: a block that holds nothing near, as nearly all do, costs one look.
    const BLOCK: usize = 16;
    let mut best = Best { scores: [f32::INFINITY; VOTERS], places: [0; VOTERS] };
    let (product_blocks, product_rest) = products.as_chunks::<BLOCK>();
    let (square_blocks, square_rest) = squares.as_chunks::<BLOCK>();

    for (index, (products, squares)) in product_blocks.iter().zip(square_blocks).enumerate() {
        let scores: [f32; BLOCK] = std::array::from_fn(|i| products[i] + squares[i]);
        let limit = best.scores[VOTERS - 1];
        if scores.iter().fold(false, |near, &score| near | (score < limit)) {
            scores.iter().enumerate().for_each(|(i, &score)| best.offer(score, index * BLOCK + i));
        }
    }
    let rest = product_blocks.len() * BLOCK;
    for (i, (product, square)) in product_rest.iter().zip(square_rest).enumerate() {
        best.offer(product + square, rest + i);
    }
    best.places
}

/// The three smallest scores so far, smallest first.
struct Best {
    scores: [f32; VOTERS],
    places: [usize; VOTERS],
}

impl Best {
    /// Takes `score` in if it is among the smallest. An equal one that came before stays before it.
    fn offer(&mut self, score: f32, place: usize) {
        let ([first, second, third], [at_first, at_second, _]) = (self.scores, self.places);
        if score >= third {
            return;
        }
        (self.scores, self.places) = if score < first {
            ([score, first, second], [place, at_first, at_second])
        } else if score < second {
            ([first, score, second], [at_first, place, at_second])
        } else {
            ([first, second, score], [at_first, at_second, place])
        };
    }
}

/// The label of most of the three; if they all differ, the nearest one's.
fn vote([first, second, third]: [u8; VOTERS]) -> u8 {
    if second == third { second } else { first }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{self, Image};

    /// The label by the book: whole-number distances to all known examples, sorted.
    fn by_the_book(known: &[Digit], image: &Image) -> u8 {
        let mut near: Vec<(i32, usize)> = known
            .iter()
            .enumerate()
            .map(|(place, example)| {
                let pairs = example.image.pixels.iter().zip(&image.pixels);
                (pairs.map(|(&a, &b)| (i32::from(a) - i32::from(b)).pow(2)).sum(), place)
            })
            .collect();
        near.sort_unstable();
        vote([0, 1, 2].map(|rank| known[near[rank].1].label))
    }

    fn halves() -> (Vec<Digit>, Vec<Digit>) {
        let digits = data::load(None).expect("the embedded file is good");
        (digits.iter().step_by(2).copied().collect(), digits.iter().skip(1).step_by(2).copied().collect())
    }

    #[test]
    fn labels_are_those_of_the_book_whatever_the_batch_size() {
        let (known, unknown) = halves();
        let book: Vec<u8> = unknown.iter().map(|digit| by_the_book(&known, &digit.image)).collect();
        let mut classifier = Classifier::new(&known).expect("enough examples");
        for batch_size in [1, 2, 67, unknown.len()] {
            let labels: Vec<u8> = unknown
                .chunks(batch_size)
                .flat_map(|batch| classifier.labels(batch.iter().map(|digit| &digit.image.pixels)).to_vec())
                .collect();
            assert_eq!(labels, book, "in batches of {batch_size}");
        }
        let right = book.iter().zip(&unknown).filter(|(label, digit)| **label == digit.label).count();
        assert_eq!((right, unknown.len()), (882, 898), "98.2 %");
    }

    #[test]
    fn ties_go_to_the_example_known_first() {
        let blank = Image { pixels: [0; PIXELS] };
        let full = Image { pixels: [16; PIXELS] };
        // Five equally near examples, past the first block, behind ones as far away as can be.
        let mut known = vec![Digit { image: full, label: 9 }; 20];
        known.extend([4, 1, 2, 3, 3].map(|label| Digit { image: blank, label }));
        let mut classifier = Classifier::new(&known).expect("enough examples");
        assert_eq!(classifier.labels([&blank.pixels].into_iter()), [4]);
        assert_eq!(classifier.labels([&full.pixels, &blank.pixels].into_iter()), [9, 4]);
        assert!(classifier.labels([].into_iter()).is_empty());
    }

    #[test]
    fn the_majority_wins_and_else_the_nearest() {
        assert_eq!(vote([1, 1, 2]), 1);
        assert_eq!(vote([1, 2, 1]), 1);
        assert_eq!(vote([2, 1, 1]), 1);
        assert_eq!(vote([3, 1, 2]), 3);
    }

    #[test]
    fn two_examples_cannot_vote() {
        let two = &halves().0[..2];
        assert_eq!(
            Classifier::new(two).err().map(|error| error.to_string()).as_deref(),
            Some("2 known examples are too few for 3 votes")
        );
    }
}
