//! What each contestant looks like. ringmill always has the one strong colour; rivals are muted, and told apart by the
//! names beside them and by the shapes of their points, so that no one needs the colours.

use ringmill_plot::picture::{Point, Series};
use ringmill_plot::style::{Look, RGBColor, Rank, SOFT_INK, Shape};

const OURS: RGBColor = RGBColor(0xd1, 0x3f, 0x0b);

/// ringmill in another way of using it. What else has its name is a comparison that it is not meant to win.
const OURS_TOO: [&str; 1] = ["ringmill-loan"];

/// Names that are no contestants but what contestants are measured against.
const YARDSTICKS: [&str; 4] = ["raw", "memcpy", "futex", "exec"];

/// What is drawn beside ringmill. Relatives have one colour and different shapes.
const RIVALS: [(&str, RGBColor, Shape); 19] = [
    ("rtrb", RGBColor(0x4a, 0x78, 0x9c), Shape::Circle),
    ("rtrb-chunks", RGBColor(0x4a, 0x78, 0x9c), Shape::Square),
    ("crossbeam", RGBColor(0x3d, 0x82, 0x78), Shape::Triangle),
    ("crossbeam-blocking", RGBColor(0x3d, 0x82, 0x78), Shape::Diamond),
    ("disruptor", RGBColor(0x7f, 0x7d, 0x3a), Shape::Diamond),
    ("amate", RGBColor(0x7c, 0x8c, 0x52), Shape::Square),
    ("iceoryx2-rr", RGBColor(0x76, 0x68, 0xa3), Shape::Square),
    ("iceoryx2-rr-wide", RGBColor(0x76, 0x68, 0xa3), Shape::Circle),
    ("iceoryx2-ps", RGBColor(0x76, 0x68, 0xa3), Shape::Triangle),
    ("aeron", RGBColor(0x9c, 0x6b, 0x87), Shape::Diamond),
    ("pipe", RGBColor(0x7d, 0x87, 0x90), Shape::Circle),
    ("pipe-polled", RGBColor(0x7d, 0x87, 0x90), Shape::Triangle),
    ("unix-socket", RGBColor(0x5d, 0x66, 0x70), Shape::Square),
    ("unix-socket-polled", RGBColor(0x5d, 0x66, 0x70), Shape::Diamond),
    ("mutex-ring", RGBColor(0x8a, 0x6a, 0x55), Shape::Triangle),
    ("tonic", RGBColor(0x93, 0x5c, 0x5c), Shape::Diamond),
    ("mpservice", RGBColor(0x4e, 0x4a, 0x45), Shape::Circle),
    ("mosec", RGBColor(0x4e, 0x4a, 0x45), Shape::Square),
    ("ringmill-unlocked", RGBColor(0x7a, 0x7d, 0x52), Shape::Square),
];

/// For what is no contestant of its own.
pub(super) const MUTED: Look = Look { color: RIVALS[0].1, shape: Shape::Circle, rank: Rank::Rival };

/// The look of the contestant of this name: the same in every picture and every report.
pub(super) fn of(who: &str) -> Look {
    if who == "ringmill" {
        return Look { color: OURS, shape: Shape::Circle, rank: Rank::Ours };
    }
    if OURS_TOO.contains(&who) {
        return Look { color: OURS, shape: Shape::Square, rank: Rank::OursToo };
    }
    if YARDSTICKS.contains(&who) {
        return Look { color: SOFT_INK, shape: Shape::Diamond, rank: Rank::Yardstick };
    }
    // An unknown rival looks like the one that its letters add up to.
    let index = RIVALS.iter().position(|(name, ..)| *name == who);
    let index = index.unwrap_or_else(|| who.bytes().map(usize::from).sum());
    let (_, color, shape) = RIVALS[index % RIVALS.len()];
    Look { color, shape, rank: Rank::Rival }
}

/// A contestant's line through points, without a name at its end.
pub(super) fn line(who: &str, points: Vec<Point>) -> Series {
    Series::line(who, of(who), points)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ringmill_alone_has_the_strong_colour() {
        let rivals =
            RIVALS.iter().map(|(name, ..)| *name).chain(["a new rival", "futex", "ringmill-unlocked"]);
        for who in rivals {
            assert_ne!(of(who).color, OURS, "{who}");
        }
        assert_eq!((of("ringmill").color, of("ringmill-loan").color), (OURS, OURS));
        assert_ne!(of("ringmill"), of("ringmill-loan"));
    }

    #[test]
    fn no_two_rivals_look_the_same() {
        for (index, (one, ..)) in RIVALS.iter().enumerate() {
            for (other, ..) in &RIVALS[..index] {
                assert_ne!(of(one), of(other), "{one}, {other}");
            }
        }
    }
}
