//! Colours, sizes and letters. ringmill always has the one strong colour; rivals are muted, and told apart by the
//! names beside them and by the shapes of their points, so that no one needs the colours.

use plotters::style::text_anchor::{HPos, Pos, VPos};
use plotters::style::{Color, FontStyle, FontTransform, IntoFont, RGBColor, ShapeStyle, TextStyle};

/// Pictures are drawn in a grid this much finer than a pixel, since the backend knows whole numbers only.
pub(super) const FINE: i32 = 4;

/// Width of most pictures in pixels: that of a README.
pub(super) const WIDTH: i32 = 800;

/// Width of pictures that stand side by side on the page.
pub(super) const SMALL: i32 = 394;

pub(super) const CARD: RGBColor = RGBColor(0xfd, 0xfc, 0xfa);
pub(super) const BORDER: RGBColor = RGBColor(0xe1, 0xdf, 0xd9);
pub(super) const GRID: RGBColor = RGBColor(0xe9, 0xe7, 0xe1);
pub(super) const AXIS: RGBColor = RGBColor(0xb5, 0xb2, 0xaa);
pub(super) const INK: RGBColor = RGBColor(0x22, 0x26, 0x2b);
pub(super) const SOFT_INK: RGBColor = RGBColor(0x66, 0x6b, 0x72);

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

/// What one contestant looks like in every picture.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Look {
    pub(super) color: RGBColor,
    pub(super) shape: Shape,
    pub(super) rank: Rank,
}

/// Which contestant stands in front.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Rank {
    /// Drawn dashed and without points, behind everything.
    Yardstick,
    Rival,
    /// Another way to use ringmill.
    OursToo,
    Ours,
}

/// The points' shapes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    Circle,
    Square,
    Triangle,
    Diamond,
}

impl Look {
    /// For what is no contestant of its own.
    pub(super) const MUTED: Self = Self { color: RIVALS[0].1, shape: Shape::Circle, rank: Rank::Rival };

    /// The look of the contestant of this name: the same in every picture and every report.
    pub(super) fn of(who: &str) -> Self {
        if who == "ringmill" {
            return Self { color: OURS, shape: Shape::Circle, rank: Rank::Ours };
        }
        if OURS_TOO.contains(&who) {
            return Self { color: OURS, shape: Shape::Square, rank: Rank::OursToo };
        }
        if YARDSTICKS.contains(&who) {
            return Self { color: SOFT_INK, shape: Shape::Diamond, rank: Rank::Yardstick };
        }
        // An unknown rival looks like the one that its letters add up to.
        let index = RIVALS.iter().position(|(name, ..)| *name == who);
        let index = index.unwrap_or_else(|| who.bytes().map(usize::from).sum());
        let (_, color, shape) = RIVALS[index % RIVALS.len()];
        Self { color, shape, rank: Rank::Rival }
    }

    pub(super) fn is_ours(self) -> bool {
        self.rank >= Rank::OursToo
    }
}

/// Pixels in the fine grid.
pub(super) fn px(pixels: f64) -> i32 {
    (pixels * f64::from(FINE)).round() as i32
}

pub(super) fn line(color: RGBColor, pixels: f64) -> ShapeStyle {
    color.stroke_width(px(pixels).unsigned_abs())
}

/// How a text stands to its point.
#[derive(Clone, Copy, Debug)]
pub(super) enum Anchor {
    /// The point is at its left end, halfway up.
    Left,
    Right,
    /// The point is in the middle of its upper edge.
    Above,
    /// The point is in the middle of its lower edge.
    Below,
}

pub(super) fn text(color: RGBColor, pixels: f64, is_bold: bool, anchor: Anchor) -> TextStyle<'static> {
    let style = if is_bold { FontStyle::Bold } else { FontStyle::Normal };
    // The backend divides by the same factor.
    let font = ("system-ui, sans-serif", pixels * f64::from(FINE) * 1.24).into_font().style(style);
    let pos = match anchor {
        Anchor::Left => Pos::new(HPos::Left, VPos::Center),
        Anchor::Right => Pos::new(HPos::Right, VPos::Center),
        Anchor::Above => Pos::new(HPos::Center, VPos::Top),
        Anchor::Below => Pos::new(HPos::Center, VPos::Bottom),
    };
    font.transform(FontTransform::None).color(&color).pos(pos)
}

/// Pixels that `text` takes at most, near enough to leave room for it: the backend does not know the letters that
/// it will be drawn in.
pub(super) fn width_of(text: &str, pixels: f64, is_bold: bool) -> f64 {
    let pixels = if is_bold { pixels * 1.1 } else { pixels };
    let narrow =
        |letter: char| matches!(letter, 'i' | 'j' | 'l' | 't' | 'f' | 'r' | '.' | ',' | ' ' | '-' | '\'');
    text.chars().map(|letter| if narrow(letter) { 0.38 } else { 0.62 } * pixels).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ringmill_alone_has_the_strong_colour() {
        let rivals =
            RIVALS.iter().map(|(name, ..)| *name).chain(["a new rival", "futex", "ringmill-unlocked"]);
        for who in rivals {
            assert_ne!(Look::of(who).color, OURS, "{who}");
        }
        assert_eq!((Look::of("ringmill").color, Look::of("ringmill-loan").color), (OURS, OURS));
        assert_ne!(Look::of("ringmill"), Look::of("ringmill-loan"));
    }

    #[test]
    fn no_two_rivals_look_the_same() {
        for (index, (one, ..)) in RIVALS.iter().enumerate() {
            for (other, ..) in &RIVALS[..index] {
                assert_ne!(Look::of(one), Look::of(other), "{one}, {other}");
            }
        }
    }
}
