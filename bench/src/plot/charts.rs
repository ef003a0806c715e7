//! Which pictures a job's rows make. A picture is there only if its rows are.

use std::collections::BTreeSet;

use super::select::{self, Figure, Rows, series, values};
use super::{look, words};
use crate::report::Row;
use crate::rounds::Regime;
use ringmill_plot::picture::{Body, Dot, DotPanel, Panel, Picture, Point, Series};
use ringmill_plot::scale::{self, Scale};
use ringmill_plot::style::{SMALL, WIDTH};
use ringmill_plot::units;

/// The pictures of `rows`, which are all of `job` and of one regime, in the order in which they are to be looked at.
pub(super) fn pictures(job: &str, regime: Option<Regime>, rows: &Rows<'_>) -> Vec<Picture> {
    let pictures = match job {
        "call" => vec![call(rows)],
        "latency" => vec![latency(rows)],
        "stream" => vec![windows(rows), hands(rows)],
        "bulk" => vec![bulk(rows)],
        "frames" => vec![frames(rows)],
        "batch" => vec![batch(rows)],
        "stages" => vec![stages(rows)],
        "wake" => vec![wake(rows)],
        "idle" => vec![idle(rows)],
        "start" => vec![start(rows)],
        "first" => vec![first(rows)],
        "placement" => vec![placement(rows)],
        "memory" => vec![memory(rows)],
        _ => Vec::new(),
    };
    let of_regime = |mut picture: Picture| {
        if let Some(regime) = regime {
            picture.name = format!("{}-{regime}", picture.name);
            picture.note = joined([format!("regime: {regime}"), picture.note]);
        }
        picture
    };
    pictures.into_iter().flatten().map(of_regime).collect()
}

/// Whether a file of this name, without its ending, may have been drawn by [`pictures`].
pub(super) fn may_be_ours(name: &str) -> bool {
    let ours = [
        "call",
        "latency",
        "stream-window",
        "stream-hands",
        "bulk",
        "frames",
        "batch",
        "stages",
        "wake",
        "idle",
        "start",
        "first",
        "placement",
        "memory",
    ];
    ours.into_iter().any(|ours| {
        name.strip_prefix(ours).is_some_and(|rest| {
            rest.is_empty() || Regime::ALL.iter().any(|regime| rest.strip_prefix('-') == Some(regime.name()))
        })
    })
}

fn joined(parts: impl IntoIterator<Item = String>) -> String {
    parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(" · ")
}

/// A figure with its quartiles, by their names.
fn figure(row: &Row, name: &str, lower: &str, upper: &str) -> Option<Figure> {
    let spread = row.value(lower).zip(row.value(upper));
    Some(Figure { value: row.value(name)?, spread })
}

fn ratio(row: &Row) -> Option<Figure> {
    figure(row, "ratio_to_raw", "ratio_lower", "ratio_upper")
}

/// Items a second.
fn throughput(row: &Row) -> Option<Figure> {
    row.value("ns_per_item").filter(|ns| *ns > 0.0).map(|ns| Figure::from(1e9 / ns))
}

fn call(rows: &Rows<'_>) -> Option<Picture> {
    let raw = Some(1.0).filter(|_| rows.iter().any(|row| ratio(row).is_some()));
    let (body, fixed) = dots(rows, "payload_bytes", "", ratio, units::ratio, raw)?;
    Some(Picture {
        name: "call".into(),
        title: "Round trip of one request, as a multiple of the bare cache line's".into(),
        note: joined([fixed, "medians and quartiles, log scale, left is better".into()]),
        width: WIDTH,
        body,
    })
}

/// Dots for each contestant, the best first, a panel for each value of `apart`; and the parameters that all share.
fn dots(
    rows: &Rows<'_>,
    apart: &str,
    title: &str,
    figure: impl Fn(&Row) -> Option<Figure>,
    name: fn(f64) -> String,
    limit: Option<f64>,
) -> Option<(Body, String)> {
    let rows: Vec<&Row> = rows.iter().copied().filter(|row| figure(row).is_some()).collect();
    let mut panels: Vec<(String, Vec<&Row>)> = values(&rows, apart)
        .into_iter()
        .map(|value| (words::described(apart, value), select::with(&select::at(&rows, apart, value), apart)))
        .collect();
    if panels.len() < 2 {
        panels = vec![(title.to_owned(), rows.clone())];
    }
    // By the geometric mean of the panels.
    let mean = |who: &str| {
        let figures = rows.iter().filter(|row| row.who == who).filter_map(|row| figure(row));
        let (sum, count) =
            figures.fold((0.0, 0.0), |(sum, count), figure| (sum + figure.value.ln(), count + 1.0));
        sum / count
    };
    let mut who: Vec<String> =
        rows.iter().map(|row| row.who.clone()).collect::<BTreeSet<_>>().into_iter().collect();
    who.sort_by(|one, other| mean(one).total_cmp(&mean(other)));

    let figures = rows.iter().filter_map(|row| figure(row));
    let all = figures.flat_map(|figure| {
        let (low, high) = figure.spread.unwrap_or((figure.value, figure.value));
        [low, figure.value, high]
    });
    let ticks = if panels.len() > 1 { 5 } else { scale::TICKS };
    let x = Scale::logarithmic_of(ticks, all.chain(limit), name)?;
    let panels = panels.into_iter().map(|(title, of_panel)| {
        let dot = |who: &String| {
            let figure = of_panel.iter().filter(|row| row.who == *who).find_map(|row| figure(row))?;
            Some(Dot { x: figure.value, spread: figure.spread, word: name(figure.value) })
        };
        DotPanel { title, x: x.clone(), dots: who.iter().map(dot).collect(), limit }
    });
    let fixed = select::fixed(&rows, &[]);
    let panels = panels.collect();
    let who = who.into_iter().map(|who| (look::of(&who), who)).map(|(look, who)| (who, look)).collect();
    Some((Body::Dots { panels, who }, fixed))
}

fn latency(rows: &Rows<'_>) -> Option<Picture> {
    let percentiles = [
        ("p50_us", "Median (p50)"),
        ("p99_us", "One in a hundred is slower (p99)"),
        ("p999_us", "One in a thousand is slower (p99.9)"),
        ("max_us", "The slowest"),
    ];
    let behind = |row: &Row| {
        if let Some(keeps_up) = row.value("keeps_up") {
            return keeps_up == 0.0;
        }
        let (asked, sent) = (row.parameter("rate_per_s"), row.value("sent_per_s"));
        asked.zip(sent).is_some_and(|(asked, sent)| sent < 0.95 * asked as f64)
    };
    let of = |name: &str| {
        let mut series = series(rows, "rate_per_s", |row| row.value(name).map(Figure::from));
        for one in &mut series {
            for point in &mut one.points {
                point.is_hollow = rows.iter().any(|row| {
                    row.who == one.who && row.parameter("rate_per_s") == Some(point.x as u64) && behind(row)
                });
            }
        }
        series
    };
    let all: Vec<(&str, Vec<Series>)> = percentiles
        .into_iter()
        .map(|(name, title)| (title, of(name)))
        .filter(|(_, s)| !s.is_empty())
        .collect();
    let x = Scale::at(values(rows, "rate_per_s").into_iter().map(|rate| rate as f64), units::count)?;
    let y = Scale::logarithmic(all.iter().flat_map(|(_, series)| select::heights(series)), units::micros)?;
    let late = rows.iter().any(|row| behind(row));
    let panels = all.into_iter().map(|(title, series)| Panel {
        title: title.into(),
        x_title: "requests offered a second".into(),
        x: x.clone(),
        y: y.clone(),
        series,
        ..Panel::default()
    });
    Some(Picture {
        name: "latency".into(),
        title: "Latency from the instant a request was due, against offered load".into(),
        note: joined([
            select::fixed(rows, &["rate_per_s"]),
            "log scales, lower is better".into(),
            if late { "hollow: could not keep up".into() } else { String::new() },
        ]),
        width: WIDTH,
        body: Body::Lines { panels: panels.collect(), columns: 2 },
    })
}

/// Rows of `stream` with one calling thread and one worker, over windows.
fn windows(rows: &Rows<'_>) -> Option<Picture> {
    let one = select::at(&select::at(rows, "threads", 1), "workers", 1);
    let one = select::at_richest(&one, "payload_bytes", "window");
    let title = "Throughput against window";
    if values(&one, "window").len() < 2 {
        let (body, fixed) = dots(&one, "window", "", ratio, units::ratio, None)?;
        let note = joined([fixed, "medians and quartiles, log scale, left is better".into()]);
        let title = "Time an item, as a multiple of the bare cache line's round trip".into();
        return Some(Picture { name: "stream-window".into(), title, note, width: WIDTH, body });
    }
    let series = series(&one, "window", throughput);
    let panel = Panel {
        title: "Items a second".into(),
        x_title: "items in progress at most (window)".into(),
        x: Scale::at(values(&one, "window").into_iter().map(|window| window as f64), units::count)?,
        y: Scale::logarithmic(select::heights(&series), units::count)?,
        series,
        ..Panel::default()
    };
    Some(Picture {
        name: "stream-window".into(),
        title: title.into(),
        note: joined([select::fixed(&one, &["window"]), "medians, log scales, higher is better".into()]),
        width: WIDTH,
        body: Body::Lines { panels: vec![panel], columns: 1 },
    })
}

/// Rows of `stream` with several calling threads, or several workers.
fn hands(rows: &Rows<'_>) -> Option<Picture> {
    let mut fixed = BTreeSet::new();
    let mut panel = |along: &str, other: &str, x_title: &str| {
        let of = select::at(rows, other, 1);
        let of = select::at_richest(&select::with(&of, along), "payload_bytes", along);
        let of = select::at_richest(&of, "window", along);
        if values(&of, along).len() < 2 {
            return None;
        }
        let mut series = series(&of, along, throughput);
        series.retain(|series| series.points.len() > 1);
        fixed.insert(select::fixed(&of, &["threads", "workers"]));
        let x = Scale::at_even(values(&of, along).into_iter().map(|value| value as f64), units::count)?;
        Some(Panel { x_title: x_title.into(), x, series, ..Panel::default() })
    };
    let panels = [
        panel("threads", "workers", "calling threads, on one CPU"),
        panel("workers", "threads", "workers, on one CPU"),
    ];
    let mut panels: Vec<Panel> = panels.into_iter().flatten().collect();
    let y = Scale::logarithmic(panels.iter().flat_map(|panel| select::heights(&panel.series)), units::count)?;
    for panel in &mut panels {
        panel.title = "Items a second".into();
        panel.y = y.clone();
    }
    Some(Picture {
        name: "stream-hands".into(),
        title: "Throughput against calling threads and workers".into(),
        note: joined(fixed.into_iter().chain(["medians, log scale upwards, higher is better".into()])),
        width: WIDTH,
        body: Body::Lines { columns: panels.len(), panels },
    })
}

fn bulk(rows: &Rows<'_>) -> Option<Picture> {
    let speed = |row: &Row| {
        let gib = row.value("gib_per_s").or_else(|| row.value("mib_per_s").map(|mib| mib / 1024.0));
        gib.map(Figure::from)
    };
    let (body, fixed) = by_payload(rows, "GiB a second", speed)?;
    Some(Picture {
        name: "bulk".into(),
        title: "Large payloads, beside a write and read of the same memory in one process".into(),
        note: joined([fixed, "medians, log scales, higher is better; dashed: memcpy, the ceiling".into()]),
        width: WIDTH,
        body,
    })
}

fn frames(rows: &Rows<'_>) -> Option<Picture> {
    let speed = |row: &Row| row.value("frames_per_s").map(Figure::from);
    let (body, fixed) = by_payload(rows, "Frames a second", speed)?;
    Some(Picture {
        name: "frames".into(),
        title: "Frames through three stages that change them".into(),
        note: joined([fixed, "medians, log scales, higher is better".into()]),
        width: WIDTH,
        body,
    })
}

/// A figure against the payload, and what all rows have in common.
fn by_payload(
    rows: &Rows<'_>,
    title: &str,
    figure: impl Fn(&Row) -> Option<Figure>,
) -> Option<(Body, String)> {
    let all = series(rows, "payload_bytes", figure);
    let panel = Panel {
        title: title.into(),
        x_title: "payload".into(),
        x: Scale::at(values(rows, "payload_bytes").into_iter().map(|bytes| bytes as f64), units::bytes)?,
        y: Scale::logarithmic(select::heights(&all), units::count)?,
        series: all,
        ..Panel::default()
    };
    Some((Body::Lines { panels: vec![panel], columns: 1 }, select::fixed(rows, &["payload_bytes"])))
}

fn batch(rows: &Rows<'_>) -> Option<Picture> {
    let filled = |row: &Row| {
        let size = row.parameter("batch_size").filter(|size| *size > 0)?;
        Some(Figure::from(row.value("mean_batch")? / size as f64))
    };
    let ideal = |row: &Row| row.value("part_of_ideal").map(Figure::from);
    let load = ["rate_per_s", "window"].into_iter().find(|load| values(rows, load).len() > 1);
    let mut panels = Vec::new();
    let by_size = values(rows, "batch_size");
    let x = || Scale::at(by_size.iter().map(|size| *size as f64), units::count);
    if by_size.len() > 1 {
        for (title, y) in [
            ("Mean batch, as a part of batch_size", &filled as &dyn Fn(&Row) -> Option<Figure>),
            ("Throughput, as a part of the ideal", &ideal),
        ] {
            let series = series(rows, "batch_size", y);
            let Some(y) = Scale::from_zero(select::heights(&series).chain([1.0]), units::part) else {
                continue;
            };
            if !series.is_empty() {
                let x_title = "batch_size".into();
                panels.push(Panel { title: title.into(), x_title, x: x()?, y, series, ..Panel::default() });
            }
        }
    }
    if let Some(load) = load {
        let of = select::at_richest(rows, "batch_size", load);
        let series = series(&of, load, |row| row.value("mean_batch").map(Figure::from));
        if let Some(y) = Scale::from_zero(select::heights(&series), units::count) {
            let x_title = if load == "window" {
                "items in progress at most (window)"
            } else {
                "requests offered a second"
            };
            let x = Scale::at(values(&of, load).into_iter().map(|load| load as f64), units::count)?;
            let title = "Items in a batch, mean".into();
            panels.push(Panel { title, x_title: x_title.into(), x, y, series, ..Panel::default() });
        }
    }
    if panels.is_empty() {
        let mean = |row: &Row| row.value("mean_batch").map(Figure::from);
        let (body, fixed) = dots(rows, "batch_size", "Items in a batch, mean", mean, units::short, None)?;
        let note = joined([fixed, "log scale, right is better".into()]);
        return Some(Picture { name: "batch".into(), title: "Batches".into(), note, width: WIDTH, body });
    }
    Some(Picture {
        name: "batch".into(),
        title: "How full batches are".into(),
        note: joined([
            select::fixed(rows, &["batch_size", "rate_per_s", "window"]),
            "higher is better".into(),
        ]),
        width: WIDTH,
        body: Body::Lines { columns: panels.len().min(2), panels },
    })
}

fn stages(rows: &Rows<'_>) -> Option<Picture> {
    let panel = |along: &str, title: &str| {
        let of = select::at_richest(&select::with(rows, along), "window", along);
        let series = series(&of, along, ratio);
        let x = Scale::at_even(values(&of, along).into_iter().map(|value| value as f64), units::count)?;
        let last = of.iter().filter(|row| row.who == "ringmill").max_by_key(|row| row.parameter(along));
        let further = last.and_then(|row| row.value("ratio_per_further"));
        let title = match further {
            Some(further) => format!("{title}: each further one {}", units::ratio(further)),
            None => title.to_owned(),
        };
        let y = Scale::from_zero(select::heights(&series), units::ratio)?;
        Some(Panel { title, x_title: along.into(), x, y, series, ..Panel::default() })
    };
    let panels = [panel("stages", "Pipeline of stages"), panel("members", "Ensemble of members")];
    let mut panels: Vec<Panel> = panels.into_iter().flatten().collect();
    let y = Scale::from_zero(panels.iter().flat_map(|panel| select::heights(&panel.series)), units::ratio)?;
    panels.iter_mut().for_each(|panel| panel.y = y.clone());
    Some(Picture {
        name: "stages".into(),
        title: "Time an item, as a multiple of the bare cache line's round trip".into(),
        note: joined([
            select::fixed(rows, &["stages", "members"]),
            "medians and quartiles, lower is better".into(),
        ]),
        width: WIDTH,
        body: Body::Lines { columns: panels.len(), panels },
    })
}

/// CPU that a spin budget costs, in percent of one: of both sides, or of those that there are figures of.
fn cpu(row: &Row) -> Option<f64> {
    row.value("cpu_percent").or_else(|| {
        let sides = row.figures.iter().filter(|(name, _)| name.ends_with("cpu_percent"));
        sides.map(|(_, percent)| *percent).reduce(|one, other| one + other)
    })
}

fn wake(rows: &Rows<'_>) -> Option<Picture> {
    let percentiles = [("p50_us", "median"), ("p99_us", "p99")];
    let rates = values(rows, "rate_per_s");
    let mut panels = Vec::new();
    for (name, word) in percentiles {
        for &rate in &rates {
            let of = select::at(rows, "rate_per_s", rate);
            let point = |row: &Row, word: String| {
                Some(Point { x: cpu(row)?, y: row.value(name)?, word: Some(word), ..Point::default() })
            };
            let fixed: Vec<&Row> = select::with(&of, "spin_us");
            let mut budgets: Vec<(u64, Point)> = fixed
                .iter()
                .filter_map(|row| {
                    let spin = row.parameter("spin_us")?;
                    Some((spin, point(row, spin.to_string())?))
                })
                .collect();
            budgets.sort_by_key(|(spin, _)| *spin);
            let adaptive = of.iter().filter(|row| row.parameter("spin_us").is_none() && row.who != "futex");
            let adaptive: Vec<Point> = adaptive.filter_map(|row| point(row, "adaptive".into())).collect();
            let futex = of.iter().find(|row| row.who == "futex").and_then(|row| row.value(name));
            let budgets = budgets.into_iter().map(|(_, point)| point).collect();
            let series = [
                Series { look: look::MUTED, ..look::line("fixed", budgets) },
                Series { is_line: false, ..look::line("ringmill", adaptive) },
            ];
            let series: Vec<Series> = series.into_iter().filter(|series| !series.points.is_empty()).collect();
            if !series.is_empty() {
                let title = format!("{} requests/s, {word}", units::count(rate as f64));
                let levels = futex.into_iter().collect();
                panels.push(Panel { title, series, levels, ..Panel::default() });
            }
        }
    }
    let points = || panels.iter().flat_map(|panel| &panel.series).flat_map(|series| &series.points);
    let levels = panels.iter().flat_map(|panel| panel.levels.iter().copied());
    let has_futex = levels.clone().next().is_some();
    // With room for words below the lowest point.
    let heights = points().flat_map(|point| [point.y, point.y / 1.5]);
    let y = Scale::logarithmic(heights.chain(levels), units::micros)?;
    for panel in &mut panels {
        let points = panel.series.iter().flat_map(|series| &series.points);
        panel.x = Scale::from_zero(points.map(|point| point.x), units::percent)?;
        (panel.y, panel.x_title) = (y.clone(), "CPU of the waiting sides".into());
    }
    Some(Picture {
        name: "wake".into(),
        title: "What spinning before sleeping costs and brings: latency against CPU".into(),
        note: joined([
            select::fixed(rows, &["rate_per_s", "spin_us"]),
            "spin budgets in µs beside their points, log scale upwards, down and left is better".into(),
            if has_futex { "dashed: bare futex".into() } else { String::new() },
        ]),
        width: WIDTH,
        body: Body::Lines { columns: rates.len().clamp(1, 3), panels },
    })
}

fn idle(rows: &Rows<'_>) -> Option<Picture> {
    let cpu = |row: &Row| figure(row, "cpu_percent", "lower", "upper");
    let (body, fixed) = dots(rows, "workers", "CPU, percent of one", cpu, units::percent, None)?;
    Some(Picture {
        name: "idle".into(),
        title: "CPU while there is nothing to do".into(),
        note: joined([fixed, "log scale, left is better".into()]),
        width: WIDTH,
        body,
    })
}

fn first(rows: &Rows<'_>) -> Option<Picture> {
    let time = |row: &Row| figure(row, "first_us", "lower", "upper");
    let (body, fixed) = dots(rows, "payload_bytes", "time an item", time, units::micros, None)?;
    Some(Picture {
        name: "first".into(),
        title: "The first requests after a start".into(),
        note: joined([fixed, "time an item, log scale, left is better".into()]),
        width: WIDTH,
        body,
    })
}

fn placement(rows: &Rows<'_>) -> Option<Picture> {
    let time = |row: &Row| figure(row, "call_us", "lower", "upper");
    let (body, fixed) = dots(rows, "payload_bytes", "time a call", time, units::micros, None)?;
    Some(Picture {
        name: "placement".into(),
        title: "Calls by where the worker runs".into(),
        note: joined([fixed, "time a call, log scale, left is better".into()]),
        width: WIDTH,
        body,
    })
}

fn start(rows: &Rows<'_>) -> Option<Picture> {
    let ready = |row: &Row| figure(row, "ready_ms", "lower", "upper");
    let series = series(rows, "workers", ready);
    let panel = Panel {
        title: "Until all workers are ready".into(),
        x_title: "worker processes".into(),
        x: Scale::at_even(values(rows, "workers").into_iter().map(|workers| workers as f64), units::count)?,
        y: Scale::from_zero(select::heights(&series), units::millis)?,
        series,
        ..Panel::default()
    };
    Some(Picture {
        name: "start".into(),
        title: "Time to start".into(),
        note: joined([
            "medians and quartiles, lower is better".into(),
            if rows.iter().any(|row| row.who == "exec") {
                "dashed: bare processes".into()
            } else {
                String::new()
            },
        ]),
        width: SMALL,
        body: Body::Lines { panels: vec![panel], columns: 1 },
    })
}

fn memory(rows: &Rows<'_>) -> Option<Picture> {
    let series = series(rows, "payload_bytes", |row| row.value("bytes_per_request").map(Figure::from));
    let panel = Panel {
        title: "Bytes of the segment for each request in progress".into(),
        x_title: "largest payload".into(),
        x: Scale::at(values(rows, "payload_bytes").into_iter().map(|bytes| bytes as f64), units::bytes)?,
        y: Scale::binary(select::heights(&series), units::bytes)?,
        series,
        ..Panel::default()
    };
    Some(Picture {
        name: "memory".into(),
        title: "Memory".into(),
        note: "log scales, lower is better".into(),
        width: SMALL,
        body: Body::Lines { panels: vec![panel], columns: 1 },
    })
}
