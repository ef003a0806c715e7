//! The text of `stats`.

use super::Stats;
use super::why::Finding;
use crate::output::Page;
use crate::survey::stale_line;
use crate::units;
use ringmill_shm::stats::{
    CallerCounter, CallerHistogram, Distribution, PERCENTILES, Quantity, ServerCounter, Table,
    WorkerHistogram,
};

/// The statistics as tables. What is zero is left out, except where it is the news that it is.
pub(super) fn of(stats: &Stats, page: Page) -> String {
    let period = match stats.period_s {
        s if s < 60.0 => units::seconds(s),
        s => units::age(s as u64),
    };
    let mut text = format!(
        "{}: {} requests in {period}, {} a second; {} of {} in progress\n",
        stats.name,
        units::number(stats.requests.ended),
        units::rate(stats.per_s(stats.requests.ended)),
        stats.in_progress,
        stats.capacity,
    );
    text += &stale_line(stats.state, &stats.name);
    text += &findings(stats, page);
    text += &format!("\nRequests\n{}", requests(stats, page));
    text += &format!("\nTimes\n{}", times(stats, page));
    text += &format!("\nBatches\n{}", batches(stats, page));
    if stats.workers.len() > 1 {
        text += &format!("\nWorkers\n{}", workers(stats, page));
    }
    let deaths = deaths(stats, page);
    if !deaths.is_empty() {
        text += &format!("\nDeaths\n{deaths}");
    }
    text
}

/// What limits the server, a paragraph each.
pub(crate) fn findings(stats: &Stats, page: Page) -> String {
    let paragraph = |finding: &Finding| format!("- {}", page.paragraph(&finding.text, 2).trim_start());
    stats.findings.iter().map(paragraph).collect()
}

fn requests(stats: &Stats, page: Page) -> String {
    let counters = CallerCounter::of(Table::Callers)
        .filter(|&counter| counter == CallerCounter::Answered || stats.requests.counters.get(counter) > 0);
    let rows = counters.map(|counter| {
        let count = stats.requests.counters.get(counter);
        let heading = counter.words().heading.to_string();
        vec![heading, units::number(count), units::rate(stats.per_s(count)), counter.words().help.to_string()]
    });
    page.table(&["ended", ">count", ">a second", "which are"], rows)
}

/// A value of a distribution, in its unit.
pub(crate) fn value_text(of: &Distribution, value: f64) -> String {
    match (of.count(), of.quantity()) {
        (0, _) => "-".into(),
        (_, Quantity::Items) => units::rate(value),
        (_, Quantity::Time) => units::nanoseconds(value),
    }
}

/// A row of a distribution: its mean, percentiles and maximum.
fn row(names: [&str; 2], values: &Distribution) -> Vec<String> {
    let shown = |value| value_text(values, value);
    let mut row = names.map(String::from).to_vec();
    row.push(shown(values.mean()));
    row.extend(PERCENTILES.map(|(_, percent)| shown(values.percentile(percent) as f64)));
    row.push(shown(values.greatest() as f64));
    row
}

fn headings(first: [&str; 2]) -> Vec<String> {
    let mut headings = first.map(String::from).to_vec();
    headings.push(">mean".into());
    headings.extend(PERCENTILES.map(|(name, _)| format!(">{name}")));
    headings.push(">max".into());
    headings
}

fn times(stats: &Stats, page: Page) -> String {
    let total =
        CallerHistogram::ALL.map(|of| row(["all", name(of.words().name)], stats.requests.times.get(of)));
    let timed = |of: &WorkerHistogram| of.words().quantity == Quantity::Time;
    let of_servlets = stats.servlets.iter().flat_map(|servlet| {
        WorkerHistogram::ALL
            .into_iter()
            .filter(timed)
            .filter(|of| *of != WorkerHistogram::BatchWait || servlet.facts.batch_size > 1)
            .map(|of| row([&servlet.name, name(of.words().name)], servlet.times.get(of)))
    });
    page.table(&headings(["servlet", "time"]), total.into_iter().chain(of_servlets))
}

/// `queue_time` → `queue`, `batch_wait` → `wait`: the column says that it is a time.
fn name(name: &str) -> &str {
    name.strip_suffix("_time").or_else(|| name.strip_prefix("batch_")).unwrap_or(name)
}

fn batches(stats: &Stats, page: Page) -> String {
    let rows = stats.servlets.iter().map(|servlet| {
        let of = &servlet.counters.snapshot;
        let part = |n: u64| match of.batches {
            0 => "-".into(),
            all => format!("{:.0} %", 100.0 * n as f64 / all as f64),
        };
        let sizes = &servlet.times.batch_size;
        vec![
            servlet.name.clone(),
            units::rate(stats.per_s(of.items)),
            units::rate(stats.per_s(of.batches)),
            format!("{:.1}", servlet.counters.batch_mean),
            sizes.percentile(50.0).to_string(),
            sizes.percentile(99.0).to_string(),
            match servlet.facts.batch_size {
                0 => "single".into(),
                most => most.to_string(),
            },
            part(of.closed_full),
            part(of.closed_window),
            part(of.closed_empty),
            servlet.depth.to_string(),
            percent(servlet.busy),
        ]
    });
    let headings = [
        "servlet",
        ">items/s",
        ">batches/s",
        ">mean",
        ">p50",
        ">p99",
        ">most",
        ">full",
        ">window",
        ">empty",
        ">queue",
        ">busy",
    ];
    page.table(&headings, rows)
}

/// A part of a whole; none is unknown.
pub(crate) fn percent(part: Option<f64>) -> String {
    part.map_or_else(|| "-".into(), |part| format!("{:.0} %", 100.0 * part))
}

fn workers(stats: &Stats, page: Page) -> String {
    let rows = stats.workers.iter().map(|worker| {
        vec![
            format!("{}/{}", worker.servlet, worker.worker),
            worker.thread.to_string(),
            if worker.pid == 0 { "-".into() } else { worker.pid.to_string() },
            units::cpus(&worker.cpus),
            units::rate(stats.per_s(worker.items)),
            units::rate(stats.per_s(worker.batches)),
            percent(worker.busy),
        ]
    });
    page.table(&["worker", ">thread", ">pid", "cpus", ">items/s", ">batches/s", ">busy"], rows)
}

fn deaths(stats: &Stats, page: Page) -> String {
    let some: Vec<_> = ServerCounter::of(Table::Deaths).filter(|&of| stats.deaths.get(of) > 0).collect();
    if some.is_empty() {
        return String::new();
    }
    let rows = some.into_iter().map(|counter| {
        vec![
            counter.words().heading.into(),
            units::number(stats.deaths.get(counter)),
            counter.words().help.into(),
        ]
    });
    page.table(&["", ">count", "which are"], rows)
}
