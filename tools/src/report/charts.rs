//! Which pictures a record makes. Pure.

use super::samples::{Column, Record, Servlet, Values};
use ringmill_plot::picture::{Body, Panel, Picture, Point, Series};
use ringmill_plot::scale::Scale;
use ringmill_plot::style::{Look, RGBColor, Rank, Shape, WIDTH};
use ringmill_plot::units;

/// What stands in front, and what is beside it; told apart by their names too.
const FRONT: Look = Look { color: RGBColor(0xd1, 0x3f, 0x0b), shape: Shape::Circle, rank: Rank::Ours };
const BESIDE: Look = Look { color: RGBColor(0x4a, 0x78, 0x9c), shape: Shape::Circle, rank: Rank::Rival };
const BEHIND: Look = Look { color: RGBColor(0x7f, 0x7d, 0x3a), shape: Shape::Circle, rank: Rank::Rival };

/// With more points, a point is not seen beside its line.
const POINTS: usize = 40;

/// A line: its name and look, and its figure at each column that has one.
type Line<'r> = (&'static str, Look, &'r dyn Fn(&Column) -> Option<f64>);
type Axis = fn(Vec<f64>) -> Option<Scale>;

/// The pictures of a record: the whole server, then each servlet.
pub(super) fn pictures(record: &Record) -> Vec<Picture> {
    let mut all = vec![server(record)];
    all.extend(record.servlets().into_iter().enumerate().map(|(index, name)| servlet(record, index, name)));
    all.retain(|picture| matches!(&picture.body, Body::Lines { panels, .. } if !panels.is_empty()));
    all
}

fn server(record: &Record) -> Picture {
    let time = |of: fn(&Values) -> f64| move |column: &Column| micros(&column.total_time, of);
    let (p50, p99, p999) = (time(|v| v.p50), time(|v| v.p99), time(|v| v.p999));
    let panels = [
        panel(
            record,
            "Requests a second",
            even,
            0.0,
            &[
                ("ended", FRONT, &|column| Some(column.per_s(column.ended))),
                ("without an answer", BESIDE, &|column| Some(column.per_s(column.failed))),
            ],
        ),
        panel(
            record,
            "Time from sending to the outcome",
            times,
            0.0,
            &[("p50", FRONT, &p50), ("p99", BESIDE, &p99), ("p99.9", BEHIND, &p999)],
        ),
        panel(
            record,
            "Requests in progress (dashed: the capacity)",
            even,
            capacity(record),
            &[("in progress", FRONT, &|column| Some(column.in_progress.into()))],
        ),
    ];
    picture("server", "The server", panels, 1)
}

fn servlet(record: &Record, index: usize, name: &str) -> Picture {
    let of = |get: fn(&Column, &Servlet) -> Option<f64>| {
        move |column: &Column| get(column, column.servlets.get(index)?)
    };
    let panels = [
        panel(record, "Items a second", even, 0.0, &[("items", FRONT, &of(|c, s| Some(c.per_s(s.items))))]),
        panel(record, "Items in its ring", even, 0.0, &[("depth", FRONT, &of(|_, s| Some(s.depth as f64)))]),
        panel(
            record,
            "Time in which its workers ran code",
            share,
            0.0,
            &[("busy", FRONT, &of(Column::busy_of))],
        ),
        panel(
            record,
            "Items a batch",
            even,
            0.0,
            &[
                ("mean", FRONT, &of(|_, s| (s.batches > 0).then(|| s.items as f64 / s.batches as f64))),
                ("p99", BESIDE, &of(|_, s| (s.batch_size.count > 0).then_some(s.batch_size.p99))),
            ],
        ),
        panel(
            record,
            "Time in its ring",
            times,
            0.0,
            &[
                ("p50", FRONT, &of(|_, s| micros(&s.queue_time, |v| v.p50))),
                ("p99", BESIDE, &of(|_, s| micros(&s.queue_time, |v| v.p99))),
            ],
        ),
        panel(
            record,
            "Run time of its code",
            times,
            0.0,
            &[
                ("p50", FRONT, &of(|_, s| micros(&s.run_time, |v| v.p50))),
                ("p99", BESIDE, &of(|_, s| micros(&s.run_time, |v| v.p99))),
            ],
        ),
    ];
    picture(&format!("servlet-{index}"), name, panels, 2)
}

impl Column {
    /// As [`busy`](Self::busy), for a line.
    fn busy_of(&self, servlet: &Servlet) -> Option<f64> {
        self.busy(servlet)
    }
}

fn picture<const N: usize>(name: &str, title: &str, panels: [Option<Panel>; N], columns: usize) -> Picture {
    Picture {
        name: name.into(),
        title: title.into(),
        note: "over the time of the record; a dotted vertical line: a worker died".into(),
        width: WIDTH,
        body: Body::Lines { panels: panels.into_iter().flatten().collect(), columns },
    }
}

/// A panel of lines; none if no line has a figure. Above a level of 0 a dashed line is drawn at it.
fn panel(record: &Record, title: &str, axis: Axis, level: f64, lines: &[Line<'_>]) -> Option<Panel> {
    let series: Vec<Series> = lines.iter().filter_map(|line| series(record, line)).collect();
    let levels: Vec<f64> = Some(level).filter(|level| *level > 0.0).into_iter().collect();
    let heights = series.iter().flat_map(|series| series.points.iter().map(|point| point.y));
    let y = axis(heights.chain(levels.iter().copied()).collect())?;
    let x = Scale::seconds(record.seconds())?;
    let died = record.columns.iter().filter(|column| column.deaths > 0);
    let marks = died.map(|column| column.at_s).collect();
    (!series.is_empty()).then(|| Panel {
        title: title.into(),
        x,
        y,
        series,
        levels,
        marks,
        ..Panel::default()
    })
}

fn series(record: &Record, (name, look, figure): &Line<'_>) -> Option<Series> {
    let point = |column: &Column| {
        let y = figure(column).filter(|y| y.is_finite())?;
        Some(Point { x: column.at_s, y, ..Point::default() })
    };
    let points: Vec<Point> = record.columns.iter().filter_map(point).collect();
    let (label, has_points) = ((*name).into(), points.len() <= POINTS);
    (!points.is_empty()).then(|| Series { label, has_points, ..Series::line(name, *look, points) })
}

fn even(figures: Vec<f64>) -> Option<Scale> {
    Scale::from_zero(figures, units::count)
}

fn share(figures: Vec<f64>) -> Option<Scale> {
    Scale::from_zero(figures.into_iter().chain([1.0]), units::part)
}

fn times(figures: Vec<f64>) -> Option<Scale> {
    Scale::logarithmic(figures, units::micros)
}

/// A percentile in microseconds, if there was a value.
fn micros(values: &Values, of: fn(&Values) -> f64) -> Option<f64> {
    (values.count > 0).then(|| of(values).max(1.0) / 1e3)
}

/// The capacity, where requests in progress come near it: else they would not be seen.
fn capacity(record: &Record) -> f64 {
    let capacity = record.columns.iter().map(|column| column.capacity).max().unwrap_or(0);
    let most = record.columns.iter().map(|column| column.in_progress).max().unwrap_or(0);
    if most >= capacity / 4 { capacity.into() } else { 0.0 }
}
