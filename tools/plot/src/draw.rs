//! Pictures as SVG, by `plotters`.

use plotters::chart::{ChartBuilder, ChartContext};
use plotters::coord::Shift;
use plotters::coord::cartesian::Cartesian2d;
use plotters::drawing::{DrawingArea, IntoDrawingArea};
use plotters::element::{Circle, DashedPathElement, EmptyElement, PathElement, Polygon, Rectangle, Text};
use plotters::prelude::SVGBackend;
use plotters::style::{Color, RGBColor};

use crate::labels;
use crate::picture::{Body, DotPanel, Panel, Picture, Series};
use crate::scale::Scale;
use crate::style::{self, Anchor, FINE, Look, Rank, Shape, line, px, text, width_of};

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type Chart<'a, 'b> = ChartContext<'a, SVGBackend<'b>, Cartesian2d<Scale, Scale>>;

/// A drawing into a string cannot fail, and no picture is too small for its parts.
const DRAWN: &str = "a string takes what is drawn";

/// Letters, in pixels.
const TITLE: f64 = 15.0;
const NAMES: f64 = 12.0;
const TICKS: f64 = 11.0;

const MARGIN: f64 = 14.0;
/// Height of the title and the note under it.
const HEAD: f64 = 56.0;
/// Height of one row of panels of lines.
const PANEL: f64 = 300.0;
/// Height of one row of dots.
const ROW: f64 = 23.0;
/// Height of the names of ticks under a panel.
const FOOT: f64 = 22.0;
/// Height of a panel's title.
const CAPTION: f64 = 26.0;

/// The picture as a document of its own.
#[must_use]
pub fn svg(picture: &Picture) -> String {
    let height = match &picture.body {
        Body::Lines { panels, columns } => {
            HEAD + panels.len().div_ceil(*columns) as f64 * (PANEL + 8.0) + MARGIN
        }
        Body::Dots { who, panels } => HEAD + caption(panels) + ROW * who.len() as f64 + FOOT + 10.0,
    };
    let width = f64::from(picture.width);
    let size = (picture.width, height.ceil() as i32);
    let fine = ((size.0 * FINE).unsigned_abs(), (size.1 * FINE).unsigned_abs());
    let mut drawn = String::new();
    {
        let area = SVGBackend::with_string(&mut drawn, fine).into_drawing_area();
        let card = |style| Rectangle::new([(0, 0), (fine.0 as i32, fine.1 as i32)], style);
        area.draw(&card(style::CARD.filled())).expect(DRAWN);
        area.draw(&card(line(style::BORDER, 1.0))).expect(DRAWN);
        write(&area, (MARGIN, 20.0), &picture.title, text(style::INK, TITLE, true, Anchor::Left));
        write(&area, (MARGIN, 40.0), &picture.note, text(style::SOFT_INK, NAMES, false, Anchor::Left));
        match &picture.body {
            Body::Lines { panels, columns } => draw_lines(&area, panels, *columns, width),
            Body::Dots { who, panels } => draw_dots(&area, who, panels, width),
        }
        area.present().expect(DRAWN);
    }
    // Drawn finely, shown at its size.
    drawn.replacen(
        &format!(r#"width="{}" height="{}""#, fine.0, fine.1),
        &format!(r#"width="{}" height="{}""#, size.0, size.1),
        1,
    )
}

fn write(area: &Area<'_>, (x, y): (f64, f64), words: &str, style: plotters::style::TextStyle<'_>) {
    if !words.is_empty() {
        area.draw(&Text::new(words.to_owned(), (px(x), px(y)), style)).expect(DRAWN);
    }
}

fn draw_lines(area: &Area<'_>, panels: &[Panel], columns: usize, width: f64) {
    let gutter = 6.0;
    let width = (width - 2.0 * MARGIN + gutter) / columns as f64 - gutter;
    for (index, panel) in panels.iter().enumerate() {
        let left = MARGIN + (index % columns) as f64 * (width + gutter);
        let top = HEAD + (index / columns) as f64 * (PANEL + 8.0);
        draw_panel(area, panel, (left, top), width);
    }
}

/// Where the last points lie, and what is written beside them.
struct Ending {
    label: String,
    look: Look,
    at: (f64, f64),
}

fn draw_panel(area: &Area<'_>, panel: &Panel, (left, top): (f64, f64), width: f64) {
    let mut series: Vec<&Series> = panel.series.iter().collect();
    series.sort_by_key(|series| series.look.rank);

    let labels = panel.series.iter().filter(|series| !series.label.is_empty());
    let room = labels.map(|series| 28.0 + width_of(&series.label, NAMES, series.look.is_ours()));
    let room = room.fold(14.0, f64::max);
    let names =
        panel.y.ticks().iter().map(|tick| width_of(&tick.name, TICKS, false)).fold(0.0, f64::max) + 12.0;

    let part = area.clone().shrink((px(left), px(top)), (px(width), px(PANEL)));
    write(area, (left, top + 8.0), &panel.title, text(style::INK, NAMES, true, Anchor::Left));
    let mut chart = ChartBuilder::on(&part)
        .margin_top(px(CAPTION))
        .margin_right(px(room.min(width / 2.5)))
        .x_label_area_size(px(FOOT + if panel.x_title.is_empty() { 0.0 } else { 18.0 }))
        .y_label_area_size(px(names))
        .build_cartesian_2d(panel.x.clone(), panel.y.clone())
        .expect(DRAWN);
    chart
        .configure_mesh()
        .disable_x_mesh()
        .light_line_style(style::CARD)
        .bold_line_style(line(style::GRID, 1.0))
        .axis_style(line(style::AXIS, 1.0))
        .set_all_tick_mark_size(px(4.0))
        .x_label_style(text(style::SOFT_INK, TICKS, false, Anchor::Above))
        .y_label_style(text(style::SOFT_INK, TICKS, false, Anchor::Right))
        .axis_desc_style(text(style::SOFT_INK, TICKS, false, Anchor::Above))
        .x_desc(&panel.x_title)
        .draw()
        .expect(DRAWN);

    for level in &panel.levels {
        draw_level(&chart, panel, *level);
    }
    for mark in &panel.marks {
        draw_mark(&chart, panel, *mark);
    }
    let endings = series.into_iter().filter_map(|series| draw_series(&chart, series)).collect();
    name_endings(area, &chart, panel, endings);
}

/// Where a point of the chart lies in the whole picture, in pixels.
fn pixels(chart: &Chart<'_, '_>, point: (f64, f64)) -> (f64, f64) {
    let (x, y) = chart.backend_coord(&point);
    (f64::from(x) / f64::from(FINE), f64::from(y) / f64::from(FINE))
}

fn draw_level(chart: &Chart<'_, '_>, panel: &Panel, level: f64) {
    let (left, right) = panel.x.ends();
    let dashes = DashedPathElement::new(
        [(left, level), (right, level)],
        px(5.0),
        px(4.0),
        line(style::SOFT_INK, 1.25),
    );
    chart.plotting_area().draw(&dashes).expect(DRAWN);
}

/// Where something happened.
fn draw_mark(chart: &Chart<'_, '_>, panel: &Panel, mark: f64) {
    let (low, high) = panel.y.ends();
    let dashes = DashedPathElement::new([(mark, low), (mark, high)], px(2.0), px(3.0), line(style::INK, 1.0));
    chart.plotting_area().draw(&dashes).expect(DRAWN);
}

fn draw_series(chart: &Chart<'_, '_>, series: &Series) -> Option<Ending> {
    let look = series.look;
    let points: Vec<(f64, f64)> = series.points.iter().map(|point| (point.x, point.y)).collect();
    let last = *points.last()?;
    let (thick, radius) = match look.rank {
        Rank::Ours => (2.75, 4.0),
        Rank::OursToo => (2.25, 3.5),
        Rank::Rival | Rank::Yardstick => (1.5, 3.0),
    };
    let area = chart.plotting_area();
    if series.is_line && look.rank == Rank::Yardstick {
        let path = DashedPathElement::new(points.clone(), px(5.0), px(4.0), line(look.color, 1.5));
        area.draw(&path).expect(DRAWN);
    } else if series.is_line {
        area.draw(&PathElement::new(points.clone(), line(look.color, thick))).expect(DRAWN);
    }
    for (point, at) in series.points.iter().zip(&points) {
        if let Some((low, high)) = point.spread {
            let whisker = [(point.x, low), (point.x, high)];
            area.draw(&PathElement::new(whisker, line(look.color, 1.25))).expect(DRAWN);
        }
        if look.rank != Rank::Yardstick && series.has_points {
            draw_point(chart, *at, look, radius, point.is_hollow);
        }
    }
    draw_words(chart, series);
    (!series.label.is_empty()).then(|| Ending { label: series.label.clone(), look, at: pixels(chart, last) })
}

/// Writes each point's word beside it; the words of points that lie together are written as one.
fn draw_words(chart: &Chart<'_, '_>, series: &Series) {
    let look = series.look;
    // ringmill's stand below their points, all others above: those are the ones that may meet.
    let (color, anchor, offset) = match look.is_ours() {
        true => (look.color, Anchor::Above, 8.0),
        false => (style::SOFT_INK, Anchor::Below, -3.0),
    };
    let mut written: Vec<((f64, f64), String)> = Vec::new();
    for point in &series.points {
        let Some(word) = &point.word else { continue };
        let at = (point.x, point.y);
        let ((x, y), near) = (pixels(chart, at), written.last_mut());
        match near.filter(|(last, _)| {
            (x - pixels(chart, *last).0).abs() < 22.0 && (y - pixels(chart, *last).1).abs() < 14.0
        }) {
            Some((_, words)) => *words = format!("{words}, {word}"),
            None => written.push((at, word.clone())),
        }
    }
    for (at, words) in written {
        let style = text(color, TICKS, look.is_ours(), anchor);
        let words = EmptyElement::at(at) + Text::new(words, (0, px(offset)), style);
        chart.plotting_area().draw(&words).expect(DRAWN);
    }
}

fn draw_point(chart: &Chart<'_, '_>, at: (f64, f64), look: Look, radius: f64, is_hollow: bool) {
    let area = chart.plotting_area();
    let r = px(radius);
    let shape: Vec<(i32, i32)> = match look.shape {
        Shape::Circle => Vec::new(),
        Shape::Square => vec![(-r, -r), (r, -r), (r, r), (-r, r)],
        Shape::Triangle => vec![(0, -r * 5 / 4), (r * 5 / 4, r), (-r * 5 / 4, r)],
        Shape::Diamond => vec![(0, -r * 4 / 3), (r * 4 / 3, 0), (0, r * 4 / 3), (-r * 4 / 3, 0)],
    };
    let outline = line(look.color, 1.5);
    let inside = if is_hollow { style::CARD } else { look.color };
    if shape.is_empty() {
        let dot =
            EmptyElement::at(at) + Circle::new((0, 0), r, inside.filled()) + Circle::new((0, 0), r, outline);
        area.draw(&dot).expect(DRAWN);
    } else {
        let closed: Vec<(i32, i32)> = shape.iter().chain(&shape[..1]).copied().collect();
        let dot =
            EmptyElement::at(at) + Polygon::new(shape, inside.filled()) + PathElement::new(closed, outline);
        area.draw(&dot).expect(DRAWN);
    }
}

/// Writes each name beside its line's end, and leads there where it had to be moved away.
fn name_endings(area: &Area<'_>, chart: &Chart<'_, '_>, panel: &Panel, endings: Vec<Ending>) {
    let ((_, right), (low, high)) = (panel.x.ends(), panel.y.ends());
    let ((_, top), (right, bottom)) = (pixels(chart, (right, high)), pixels(chart, (right, low)));
    let wanted: Vec<f64> = endings.iter().map(|ending| ending.at.1).collect();
    let heights = labels::spread(&wanted, NAMES + 2.0, top - 6.0, bottom + 2.0);
    for (ending, y) in endings.into_iter().zip(heights) {
        let color: RGBColor = ending.look.color;
        let leader = [(ending.at.0 + 6.0, ending.at.1), (right + 8.0, ending.at.1), (right + 18.0, y)];
        let leader: Vec<(i32, i32)> = leader.into_iter().map(|(x, y)| (px(x), px(y))).collect();
        area.draw(&PathElement::new(leader, color.mix(0.45).stroke_width(px(0.75).unsigned_abs())))
            .expect(DRAWN);
        let is_bold = ending.look.is_ours();
        write(area, (right + 22.0, y), &ending.label, text(color, NAMES, is_bold, Anchor::Left));
    }
}

/// Room for the panels' titles, if there are any.
fn caption(panels: &[DotPanel]) -> f64 {
    if panels.iter().all(|panel| panel.title.is_empty()) { 4.0 } else { CAPTION }
}

fn draw_dots(area: &Area<'_>, who: &[(String, Look)], panels: &[DotPanel], width: f64) {
    let names = who.iter().map(|(who, look)| width_of(who, NAMES, look.is_ours())).fold(0.0, f64::max) + 14.0;
    let gutter = 12.0;
    let left = MARGIN + names;
    let width = (width - MARGIN - left - 8.0 + gutter) / panels.len() as f64 - gutter;
    let height = ROW * who.len() as f64;
    let top = HEAD + caption(panels);
    for (row, (who, look)) in who.iter().enumerate() {
        let y = top + ROW * (row as f64 + 0.5);
        let color = if look.is_ours() { look.color } else { style::INK };
        write(area, (left - 10.0, y), who, text(color, NAMES, look.is_ours(), Anchor::Right));
    }
    for (index, panel) in panels.iter().enumerate() {
        let left = left + index as f64 * (width + gutter);
        write(area, (left, HEAD + 10.0), &panel.title, text(style::INK, NAMES, true, Anchor::Left));
        let part = area.clone().shrink((px(left), px(top)), (px(width), px(height + FOOT)));
        let words =
            panel.dots.iter().flatten().map(|dot| width_of(&dot.word, TICKS, true)).fold(0.0, f64::max);
        let mut chart = ChartBuilder::on(&part)
            .margin_right(px(words + 6.0))
            .x_label_area_size(px(FOOT))
            .build_cartesian_2d(panel.x.clone(), Scale::rows(who.len()))
            .expect(DRAWN);
        chart
            .configure_mesh()
            .light_line_style(style::CARD)
            .bold_line_style(line(style::GRID, 1.0))
            .disable_y_axis()
            .axis_style(line(style::AXIS, 1.0))
            .set_all_tick_mark_size(px(4.0))
            .x_label_style(text(style::SOFT_INK, TICKS, false, Anchor::Above))
            .draw()
            .expect(DRAWN);
        if let Some(limit) = panel.limit {
            let ends = [(limit, -0.5), (limit, who.len() as f64 - 0.5)];
            let dashes = DashedPathElement::new(ends, px(5.0), px(4.0), line(style::SOFT_INK, 1.0));
            chart.plotting_area().draw(&dashes).expect(DRAWN);
        }
        for (row, dot) in panel.dots.iter().enumerate() {
            let Some(dot) = dot else { continue };
            let look = who[row].1;
            let (x, y) = (dot.x, row as f64);
            let (low, high) = dot.spread.unwrap_or((dot.x, dot.x));
            let whisker = [(low, y), (high, y)];
            chart.plotting_area().draw(&PathElement::new(whisker, line(look.color, 2.0))).expect(DRAWN);
            draw_point(&chart, (x, y), look, if look.is_ours() { 4.5 } else { 3.5 }, false);
            let (end, at) = pixels(&chart, (high.max(x), y));
            let color = if look.is_ours() { look.color } else { style::SOFT_INK };
            let beside = text(color, TICKS, look.is_ours(), Anchor::Left);
            write(area, (end + 9.0, at), &dot.word, beside);
        }
    }
}
