//! A picture's contents, before it is drawn: panels of lines over an axis, or panels of dots beside names.

use super::scale::Scale;
use super::style::Look;

/// One picture; becomes one SVG.
#[derive(Clone, Debug)]
pub(super) struct Picture {
    /// The file's name without its ending: `stream-window-near`.
    pub(super) name: String,
    pub(super) title: String,
    /// The fixed parameters, and the regime.
    pub(super) note: String,
    /// In pixels.
    pub(super) width: i32,
    pub(super) body: Body,
}

#[derive(Clone, Debug)]
pub(super) enum Body {
    /// Panels side by side, in rows of `columns`.
    Lines { panels: Vec<Panel>, columns: usize },
    /// Panels side by side that share their rows' names.
    Dots { who: Vec<String>, panels: Vec<DotPanel> },
}

/// Lines over one axis.
#[derive(Clone, Debug, Default)]
pub(super) struct Panel {
    pub(super) title: String,
    /// What the horizontal axis means.
    pub(super) x_title: String,
    pub(super) x: Scale,
    pub(super) y: Scale,
    pub(super) series: Vec<Series>,
    /// Heights that everything is compared with.
    pub(super) levels: Vec<f64>,
}

/// One contestant's points, from left to right.
#[derive(Clone, Debug)]
pub(super) struct Series {
    pub(super) who: String,
    pub(super) look: Look,
    /// The name at its end; may be empty.
    pub(super) label: String,
    pub(super) points: Vec<Point>,
    /// Whether the points are joined.
    pub(super) is_line: bool,
}

impl Series {
    /// A line that looks as `who` does and has no name at its end.
    pub(super) fn line(who: &str, points: Vec<Point>) -> Self {
        Self { who: who.to_owned(), look: Look::of(who), label: String::new(), points, is_line: true }
    }
}

#[derive(Clone, Debug, Default)]
pub(super) struct Point {
    pub(super) x: f64,
    pub(super) y: f64,
    /// Where the quartiles lie, if they are known.
    pub(super) spread: Option<(f64, f64)>,
    /// Drawn hollow: something about this figure is not as asked for.
    pub(super) is_hollow: bool,
    /// A word beside this very point.
    pub(super) word: Option<String>,
}

/// One figure for each row.
#[derive(Clone, Debug)]
pub(super) struct DotPanel {
    pub(super) title: String,
    pub(super) x: Scale,
    /// As many as there are names; `None` where there is no figure.
    pub(super) dots: Vec<Option<Dot>>,
    /// A figure that all are compared with.
    pub(super) limit: Option<f64>,
}

#[derive(Clone, Debug)]
pub(super) struct Dot {
    pub(super) x: f64,
    pub(super) spread: Option<(f64, f64)>,
    /// The figure in words.
    pub(super) word: String,
}
