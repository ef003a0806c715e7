//! The classifier: the three nearest known examples vote.
//!
//! The images of a batch lie side by side in vectors, a pixel of [`LANES`] images in each, so that one instruction
//! works on all of them: a full group takes as long as one image alone, which leaves the other lanes idle. That is why
//! batching pays, as it does on an accelerator. (A lone image could fill the lanes with its pixels instead; that would
//! be a second way to write down, as it is for most kernels of an accelerator.)
//!
//! # Invariants
//!
//! *exact*: pixels are whole numbers 0..=16, so a squared distance is one of at most 64 · 16² = 16,384, and `f32` holds
//! it and all sums on its way exactly. As ties go to the example that was known first, a label depends on its image
//! alone, never on the other images of its batch.

use crate::data::{Digit, INK_MAX, PIXELS};

/// How many examples vote.
pub(crate) const VOTERS: usize = 3;

/// Images that are compared at once: two vectors of 128 bits, which every 64-bit processor has, so that the second one's
/// sums are added up while the first one's wait for their last addition.
const LANES: usize = 8;

const _: () = assert!(PIXELS * (INK_MAX as usize).pow(2) < 1 << f32::MANTISSA_DIGITS, "by *exact*");

/// A number for each image of a group.
type Lanes = [f32; LANES];

/// Fewer known examples than votes.
#[derive(Debug, thiserror::Error)]
#[error("{known} known examples are too few for {VOTERS} votes")]
pub(crate) struct TooFewKnown {
    known: usize,
}

/// The known examples, and room for the labels of one batch.
pub(crate) struct Classifier {
    known: Vec<[f32; PIXELS]>,
    /// The digit of each known example.
    digits: Vec<u8>,
    labels: Vec<u8>,
}

impl Classifier {
    pub(crate) fn new(examples: &[Digit]) -> Result<Self, TooFewKnown> {
        if examples.len() < VOTERS {
            return Err(TooFewKnown { known: examples.len() });
        }
        Ok(Self {
            known: examples.iter().map(|example| example.image.pixels.map(f32::from)).collect(),
            digits: examples.iter().map(|example| example.label).collect(),
            labels: Vec::new(),
        })
    }

    /// Says for each image, in order, which digit it is.
    pub(crate) fn labels<'i>(
        &mut self,
        mut images: impl ExactSizeIterator<Item = &'i [u8; PIXELS]>,
    ) -> &[u8] {
        self.labels.clear();
        while images.len() > 0 {
            let count = images.len().min(LANES);
            let mut group = [[0.0; LANES]; PIXELS];
            for (lane, image) in images.by_ref().take(LANES).enumerate() {
                group.iter_mut().zip(image).for_each(|(pixel, &from)| pixel[lane] = f32::from(from));
            }
            let nearest = self.nearest(&group);
            let votes = nearest.iter().take(count).map(|best| best.places.map(|place| self.digits[place]));
            self.labels.extend(votes.map(vote));
        }
        &self.labels
    }

    /// The known examples that are nearest to each image of `group`. Ties go to the one known first.
    fn nearest(&self, group: &[Lanes; PIXELS]) -> [Best; LANES] {
        let mut best = [Best { distances: [f32::INFINITY; VOTERS], places: [0; VOTERS] }; LANES];
        let mut limits = [f32::INFINITY; LANES];
        for (place, known) in self.known.iter().enumerate() {
            let mut distances = [0.0; LANES];
            for (images, known) in group.iter().zip(known) {
                for (distance, image) in distances.iter_mut().zip(images) {
                    let difference = image - known;
                    *distance += difference * difference;
                }
            }
            // Looked at together: an example that is near to none, as nearly all are, costs one look.
            if distances.iter().zip(&limits).fold(false, |near, (distance, limit)| near | (distance < limit))
            {
                for (lane, best) in best.iter_mut().enumerate() {
                    best.offer(distances[lane], place);
                    limits[lane] = best.distances[VOTERS - 1];
                }
            }
        }
        best
    }
}

/// The three smallest distances so far, smallest first, and of which known example each is.
#[derive(Clone, Copy)]
struct Best {
    distances: [f32; VOTERS],
    places: [usize; VOTERS],
}

impl Best {
    /// Takes `distance` in if it is among the smallest. An equal one that came before stays before it.
    fn offer(&mut self, distance: f32, place: usize) {
        let ([first, second, third], [at_first, at_second, _]) = (self.distances, self.places);
        if distance >= third {
            return;
        }
        (self.distances, self.places) = if distance < first {
            ([distance, first, second], [place, at_first, at_second])
        } else if distance < second {
            ([first, distance, second], [at_first, place, at_second])
        } else {
            ([first, second, distance], [at_first, at_second, place])
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
        // Small batches of few images: without optimisation each group takes its time.
        for (batch_size, count) in [(1, 9), (2, 18), (67, 201), (unknown.len(), unknown.len())] {
            let labels: Vec<u8> = unknown[..count]
                .chunks(batch_size)
                .flat_map(|batch| classifier.labels(batch.iter().map(|digit| &digit.image.pixels)).to_vec())
                .collect();
            assert_eq!(labels, book[..count], "in batches of {batch_size}");
        }
        let right = book.iter().zip(&unknown).filter(|(label, digit)| **label == digit.label).count();
        assert_eq!((right, unknown.len()), (882, 898), "98.2 %");
    }

    #[test]
    fn ties_go_to_the_example_known_first() {
        let blank = Image { pixels: [0; PIXELS] };
        let full = Image { pixels: [16; PIXELS] };
        // Five equally near examples, behind ones as far away as can be.
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
