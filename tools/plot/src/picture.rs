//! A picture's contents, before it is drawn: panels of lines over an axis, or panels of dots beside names.

use crate::scale::Scale;
use crate::style::Look;

/// One picture; becomes one SVG.
#[derive(Clone, Debug)]
pub struct Picture {
    /// The file's name without its ending: `stream-window-near`.
    pub name: String,
    /// Its heading.
    pub title: String,
    /// The fixed parameters, and the regime.
    pub note: String,
    /// In pixels.
    pub width: i32,
    /// What is drawn.
    pub body: Body,
}

/// What a picture is made of.
#[derive(Clone, Debug)]
pub enum Body {
    /// Panels side by side, in rows of `columns`.
    Lines {
        /// The panels.
        panels: Vec<Panel>,
        /// How many stand side by side.
        columns: usize,
    },
    /// Panels side by side that share their rows' names.
    Dots {
        /// The name of each row, and what it looks like.
        who: Vec<(String, Look)>,
        /// The panels.
        panels: Vec<DotPanel>,
    },
}

/// Lines over one axis.
#[derive(Clone, Debug, Default)]
pub struct Panel {
    /// Its heading.
    pub title: String,
    /// What the horizontal axis means.
    pub x_title: String,
    /// The horizontal axis.
    pub x: Scale,
    /// The vertical one.
    pub y: Scale,
    /// What is drawn over them.
    pub series: Vec<Series>,
    /// Heights that everything is compared with.
    pub levels: Vec<f64>,
    /// Where on the horizontal axis something happened.
    pub marks: Vec<f64>,
}

/// A series of points, from left to right.
#[derive(Clone, Debug)]
pub struct Series {
    /// Whose points they are.
    pub who: String,
    /// What they look like.
    pub look: Look,
    /// The name at its end; may be empty.
    pub label: String,
    /// The points.
    pub points: Vec<Point>,
    /// Whether the points are joined.
    pub is_line: bool,
    /// Whether each point is drawn.
    pub has_points: bool,
}

impl Series {
    /// A line through points, without a name at its end.
    #[must_use]
    pub fn line(who: &str, look: Look, points: Vec<Point>) -> Self {
        let label = String::new();
        Self { who: who.to_owned(), look, label, points, is_line: true, has_points: true }
    }
}

/// A point of a series.
#[derive(Clone, Debug, Default)]
pub struct Point {
    /// Its figure on the horizontal axis.
    pub x: f64,
    /// On the vertical one.
    pub y: f64,
    /// Where the quartiles lie, if they are known.
    pub spread: Option<(f64, f64)>,
    /// Drawn hollow: something about this figure is not as asked for.
    pub is_hollow: bool,
    /// A word beside this very point.
    pub word: Option<String>,
}

/// One figure for each row.
#[derive(Clone, Debug)]
pub struct DotPanel {
    /// Its heading.
    pub title: String,
    /// The axis.
    pub x: Scale,
    /// As many as there are names; `None` where there is no figure.
    pub dots: Vec<Option<Dot>>,
    /// A figure that all are compared with.
    pub limit: Option<f64>,
}

/// A figure of a row.
#[derive(Clone, Debug)]
pub struct Dot {
    /// The figure.
    pub x: f64,
    /// Where the quartiles lie, if they are known.
    pub spread: Option<(f64, f64)>,
    /// The figure in words.
    pub word: String,
}
