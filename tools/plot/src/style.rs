//! Colours, sizes and letters.

pub use plotters::style::RGBColor;
use plotters::style::text_anchor::{HPos, Pos, VPos};
use plotters::style::{Color, FontStyle, FontTransform, IntoFont, ShapeStyle, TextStyle};

/// Pictures are drawn in a grid this much finer than a pixel, since the backend knows whole numbers only.
pub(crate) const FINE: i32 = 4;

/// Width of most pictures in pixels: that of a README.
pub const WIDTH: i32 = 800;

/// Width of pictures that stand side by side on the page.
pub const SMALL: i32 = 394;

/// Of a picture's ground.
pub const CARD: RGBColor = RGBColor(0xfd, 0xfc, 0xfa);
pub(crate) const BORDER: RGBColor = RGBColor(0xe1, 0xdf, 0xd9);
pub(crate) const GRID: RGBColor = RGBColor(0xe9, 0xe7, 0xe1);
pub(crate) const AXIS: RGBColor = RGBColor(0xb5, 0xb2, 0xaa);
/// Of letters.
pub const INK: RGBColor = RGBColor(0x22, 0x26, 0x2b);
/// Of letters that are less important.
pub const SOFT_INK: RGBColor = RGBColor(0x66, 0x6b, 0x72);

/// What a series looks like.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Look {
    /// Of line, points and name.
    pub color: RGBColor,
    /// Of its points.
    pub shape: Shape,
    /// Where it stands.
    pub rank: Rank,
}

/// Which series stands in front.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rank {
    /// Drawn dashed and without points, behind everything.
    Yardstick,
    /// Thin, behind what the picture is about.
    Rival,
    /// What the picture is about, in another way.
    OursToo,
    /// What the picture is about.
    Ours,
}

/// The points' shapes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// ●
    Circle,
    /// ■
    Square,
    /// ▲
    Triangle,
    /// ◆
    Diamond,
}

impl Look {
    /// Whether it stands in front.
    #[must_use]
    pub fn is_ours(self) -> bool {
        self.rank >= Rank::OursToo
    }
}

/// Pixels in the fine grid.
pub(crate) fn px(pixels: f64) -> i32 {
    (pixels * f64::from(FINE)).round() as i32
}

pub(crate) fn line(color: RGBColor, pixels: f64) -> ShapeStyle {
    color.stroke_width(px(pixels).unsigned_abs())
}

/// How a text stands to its point.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Anchor {
    /// The point is at its left end, halfway up.
    Left,
    Right,
    /// The point is in the middle of its upper edge.
    Above,
    /// The point is in the middle of its lower edge.
    Below,
}

pub(crate) fn text(color: RGBColor, pixels: f64, is_bold: bool, anchor: Anchor) -> TextStyle<'static> {
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
pub(crate) fn width_of(text: &str, pixels: f64, is_bold: bool) -> f64 {
    let pixels = if is_bold { pixels * 1.1 } else { pixels };
    let narrow =
        |letter: char| matches!(letter, 'i' | 'j' | 'l' | 't' | 'f' | 'r' | '.' | ',' | ' ' | '-' | '\'');
    text.chars().map(|letter| if narrow(letter) { 0.38 } else { 0.62 } * pixels).sum()
}
