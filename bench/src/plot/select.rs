//! Rows into series.

use std::collections::BTreeSet;

use super::{look, words};
use crate::report::{PARAMETERS, Row};
use ringmill_plot::picture::{Point, Series};

/// Rows of one job in one regime.
pub(super) type Rows<'a> = [&'a Row];

/// The values that a parameter has, in order.
pub(super) fn values(rows: &Rows<'_>, parameter: &str) -> BTreeSet<u64> {
    rows.iter().filter_map(|row| row.parameter(parameter)).collect()
}

/// The rows whose `parameter` is `value`, or that do not have it.
pub(super) fn at<'a>(rows: &Rows<'a>, parameter: &str, value: u64) -> Vec<&'a Row> {
    rows.iter().copied().filter(|row| row.parameter(parameter).is_none_or(|at| at == value)).collect()
}

/// The rows that have `parameter`.
pub(super) fn with<'a>(rows: &Rows<'a>, parameter: &str) -> Vec<&'a Row> {
    rows.iter().copied().filter(|row| row.parameter(parameter).is_some()).collect()
}

/// Only the rows at the value of `parameter` at which `along` has the most different values, so that a plot along
/// `along` holds `parameter` fixed; the larger one if several have.
pub(super) fn at_richest<'a>(rows: &Rows<'a>, parameter: &str, along: &str) -> Vec<&'a Row> {
    let richest = values(rows, parameter).into_iter().max_by_key(|value| {
        let there: Vec<&Row> =
            rows.iter().copied().filter(|row| row.parameter(parameter) == Some(*value)).collect();
        (values(&there, along).len(), *value)
    });
    richest.map_or_else(|| rows.to_vec(), |value| at(rows, parameter, value))
}

/// "64 B, window 256": the parameters that all of `rows` share, apart from `except`.
pub(super) fn fixed(rows: &Rows<'_>, except: &[&str]) -> String {
    let described =
        PARAMETERS.into_iter().filter(|parameter| !except.contains(parameter)).filter_map(|parameter| {
            let values = values(rows, parameter);
            let (&value, 1) = (values.first()?, values.len()) else { return None };
            rows.iter()
                .all(|row| row.parameter(parameter) == Some(value))
                .then(|| words::described(parameter, value))
        });
    described.collect::<Vec<_>>().join(", ")
}

/// A measured figure.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Figure {
    pub(super) value: f64,
    pub(super) spread: Option<(f64, f64)>,
}

impl From<f64> for Figure {
    fn from(value: f64) -> Self {
        Self { value, spread: None }
    }
}

/// One series for each contestant, and for each combination of parameters other than `x` that differ among a
/// contestant's rows; in the order of the rows, points from left to right.
pub(super) fn series(rows: &Rows<'_>, x: &str, y: impl Fn(&Row) -> Option<Figure>) -> Vec<Series> {
    let mut all: Vec<(Vec<(&str, u64)>, Series)> = Vec::new();
    for row in rows {
        let (Some(at), Some(figure)) = (row.parameter(x), y(row)) else { continue };
        let differs = |parameter: &&str| {
            let same = rows.iter().filter(|other| other.who == row.who);
            *parameter != x && same.map(|other| other.parameter(parameter)).collect::<BTreeSet<_>>().len() > 1
        };
        let apart: Vec<(&str, u64)> = PARAMETERS
            .into_iter()
            .filter(differs)
            .filter_map(|parameter| Some((parameter, row.parameter(parameter)?)))
            .collect();
        let point = Point { x: at as f64, y: figure.value, spread: figure.spread, ..Point::default() };
        match all.iter_mut().find(|(parameters, series)| series.who == row.who && *parameters == apart) {
            Some((_, series)) => series.points.push(point),
            None => {
                let words = apart.iter().map(|(parameter, value)| words::described(parameter, *value));
                let label = std::iter::once(row.who.clone()).chain(words).collect::<Vec<_>>().join(", ");
                let series = Series { label, ..look::line(&row.who, vec![point]) };
                all.push((apart, series));
            }
        }
    }
    let mut series: Vec<Series> = all.into_iter().map(|(_, series)| series).collect();
    for one in &mut series {
        one.points.sort_by(|one, other| one.x.total_cmp(&other.x));
    }
    series
}

/// Every height in `series`, whiskers included.
pub(super) fn heights(series: &[Series]) -> impl Iterator<Item = f64> {
    series.iter().flat_map(|series| &series.points).flat_map(|point| {
        let (low, high) = point.spread.unwrap_or((point.y, point.y));
        [point.y, low, high]
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(who: &str, window: u32, threads: u32) -> Row {
        Row::new("stream", who)
            .at("window", window)
            .at("threads", threads)
            .figure("ns_per_item", f64::from(window))
    }

    fn ns(row: &Row) -> Option<Figure> {
        row.value("ns_per_item").map(Figure::from)
    }

    #[test]
    fn what_differs_is_in_the_name() {
        let rows = [row("a", 64, 1), row("a", 16, 1), row("a", 16, 2), row("b", 16, 1)];
        let rows: Vec<&Row> = rows.iter().collect();
        let series = series(&rows, "window", ns);
        let labels: Vec<&str> = series.iter().map(|series| series.label.as_str()).collect();
        assert_eq!(labels, ["a, 1 calling thread", "a, 2 calling threads", "b"]);
        assert_eq!(series[0].points.iter().map(|point| point.x).collect::<Vec<_>>(), [16.0, 64.0]);
    }

    #[test]
    fn the_richest_place_is_kept() {
        let rows = [row("a", 64, 1), row("a", 64, 2), row("a", 256, 1), row("a", 1024, 1)];
        let rows: Vec<&Row> = rows.iter().collect();
        assert_eq!(values(&at_richest(&rows, "window", "threads"), "threads").len(), 2);
        assert_eq!(values(&at_richest(&rows, "threads", "window"), "window").len(), 3);
    }

    #[test]
    fn what_is_fixed_is_told() {
        let rows = [row("a", 64, 2), row("a", 256, 2)];
        let rows: Vec<&Row> = rows.iter().collect();
        assert_eq!(fixed(&rows, &[]), "2 calling threads");
        assert_eq!(fixed(&rows, &["threads"]), "");
    }
}
