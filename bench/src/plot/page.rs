//! The page: every picture with its table and what one sees there.

use maud::{DOCTYPE, Markup, PreEscaped, html};

use super::run::Run;
use super::{charts, words};
use crate::report::{PARAMETERS, Row};
use crate::rounds::{Regime, TOLERANCE};
use ringmill_plot::svg;

/// What is drawn of some rows.
#[derive(Debug)]
pub(super) struct Drawn {
    /// The page, with all pictures in it.
    pub(super) page: String,
    /// The pictures as documents of their own: names without endings, and SVG.
    pub(super) pictures: Vec<(String, String)>,
}

/// A job's part of the page.
struct Chapter {
    job: &'static str,
    heading: &'static str,
    text: &'static str,
}

const CHAPTERS: [Chapter; 13] = [
    Chapter {
        job: "call",
        heading: "One request at a time",
        text: "The next question is written after the answer to the last one has been checked, so there is one \
               request in progress and nothing to batch: what counts is the way there and back. Both sides write, \
               validate and read every byte. 1× is one cache line that goes there and back and carries nothing. \
               Dots are medians, bars reach from the lower to the upper quartile.",
    },
    Chapter {
        job: "latency",
        heading: "Latency under load",
        text: "Requests fall due at random instants (Poisson arrivals) at the rate offered, whether or not earlier \
               ones have been answered. Latency counts from the instant a request was due, so one that could not be \
               sent in time because another one was slow is slow too (no coordinated omission). A hollow point says \
               that answers came more slowly than requests: then the queue grows, and the latency says no more than \
               for how long.",
    },
    Chapter {
        job: "stream",
        heading: "Many requests in progress",
        text: "One thread keeps up to a window of items in progress, writes each question and checks each answer. \
               The wider the window, the more a batch can hold, until the items no longer fit into the caches. With \
               several calling threads or several workers, all threads share the client's CPU and all workers the \
               partner's: the plot shows what sharing costs, not what more CPUs bring.",
    },
    Chapter {
        job: "bulk",
        heading: "Large payloads",
        text: "Every byte of each payload is written by one side and read by the other. Copied, it is serialised into the \
               segment; by loan, it is written there in the first place. memcpy is one thread of one process that \
               writes and reads the same memory: nothing that moves payloads between processes can be faster, unless \
               two CPUs share the work.",
    },
    Chapter {
        job: "frames",
        heading: "Frames through stages",
        text: "The client writes a frame, three stages change every word of it, one after the other, and the client reads \
               all of it. ringmill's stages are processes that change it in the segment, where it lies; for scale, a vector \
               is moved through channels between threads of one process.",
    },
    Chapter {
        job: "batch",
        heading: "Batches",
        text: "Four workers share a ring. With the reader lock one of them at a time takes all that has piled up, to \
               the batch size; without it each takes what it can get, so batches are cut into pieces. A worker \
               whose batch of n costs a + b·n is the reason to care: the ideal is what it would reach with full \
               batches only.",
    },
    Chapter {
        job: "stages",
        heading: "Stages and members",
        text: "Pipelines of stages that pass their items on, and ensembles whose members all see each item. Every \
               stage and every member is a process of its own, all on the partner's CPU, so a further one costs what \
               the engine needs to move items on. Bars reach from the lower to the upper quartile.",
    },
    Chapter {
        job: "wake",
        heading: "Sleeping and waking",
        text: "A side that waits may spin, which costs CPU, or sleep, which costs a wake by the system. Requests arrive at \
               random instants at the rate named; each point is a budget of spinning before sleeping, for both \
               sides. Latency is that of the call alone. The adaptive \
               budget, which is the default, learns from its waits whether spinning pays, and gives up where arrivals are \
               too far apart. A bare futex round trip is the least that sleeping on both sides can cost.",
    },
    Chapter {
        job: "idle",
        heading: "Idle",
        text: "CPU time of all processes together while nothing is asked, as a part of one CPU.",
    },
    Chapter {
        job: "start",
        heading: "Start",
        text: "From the call that starts a server to all its worker processes being ready. For scale, as many \
               processes of a program that does nothing (exec), started one after the other, until all have ended.",
    },
    Chapter {
        job: "first",
        heading: "The first requests",
        text: "As many items as can be in progress, streamed once, right after a start and later. Whatever page of the \
               segment was not mapped before costs the first that use it a page fault, in each process.",
    },
    Chapter {
        job: "placement",
        heading: "Placement",
        text: "One worker, on the caller's CPU, on its core, on its last-level cache, on its NUMA node and on another one, as far \
               as the machine has them; placed by the server (auto), and not pinned, nor its caller. Time a call, one after the \
               other; of streams of as many items as can be in progress, time an item in the first and in a later one. Pages are \
               mapped before the first request, as by default, or none is.",
    },
    Chapter {
        job: "memory",
        heading: "Memory",
        text: "Bytes of the segment for each request that can be in progress, by the largest payload that is allowed. \
               The segment is made once; nothing is allocated there while requests are in progress.",
    },
];

/// The text for rows of a job that has no chapter.
const UNKNOWN: &str = "This version of compare knows no picture of this job.";

/// Tables with more rows are folded.
const SHORT_TABLE: usize = 14;

/// Draws `rows`, which `runs` gave.
pub(super) fn draw(rows: &[Row], runs: &[Run]) -> Drawn {
    let mut jobs: Vec<&str> = CHAPTERS.iter().map(|chapter| chapter.job).collect();
    for row in rows {
        if !jobs.contains(&row.job.as_str()) {
            jobs.push(&row.job);
        }
    }
    let mut pictures = Vec::new();
    let mut chapters = Vec::new();
    for job in jobs {
        let of_job: Vec<&Row> = rows.iter().filter(|row| row.job == job).collect();
        if !of_job.is_empty() {
            chapters.push(chapter(job, &of_job, &mut pictures));
        }
    }
    Drawn { page: page(rows, runs, &chapters).into_string(), pictures }
}

fn page(rows: &[Row], runs: &[Run], chapters: &[Markup]) -> Markup {
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                title { "ringmill, measured" }
                style { (PreEscaped(STYLE)) }
            }
            body {
                h1 { "ringmill, measured" }
                @if rows.is_empty() {
                    p { "There are no rows: nothing has been measured, or nothing counted." }
                } @else {
                    (how_to_read(rows))
                }
                (origin(runs))
                @for chapter in chapters { (chapter) }
            }
        }
    }
}

fn how_to_read(rows: &[Row]) -> Markup {
    let regimes = Regime::ALL.into_iter().filter(|regime| rows.iter().any(|row| row.regime == Some(*regime)));
    html! {
        p {
            "The limit of a request and its answer between two CPUs is one cache line that goes there and back. \
             What that costs is read right before and right after every short measurement (" em { "raw" } "); a \
             measurement counts only if the two readings agree within " (format!("{:.0}%", TOLERANCE * 100.0)) ". \
             Where a figure is a multiple of raw, it is the median of such ratios, with the lower and the upper \
             quartile."
        }
        p {
            "What a line costs depends on where the machine puts the two CPUs. Figures of different "
            em { "regimes" } " cannot be compared, so each has pictures of its own:"
        }
        ul { @for regime in regimes { li { strong { (regime.name()) } ": " (described(regime)) } } }
    }
}

fn described(regime: Regime) -> &'static str {
    match regime {
        Regime::Sibling => "two threads of one core; raw is about 28 ns",
        Regime::Near => "two cores that share a cache; raw is about 68 ns",
        Regime::Far => "two cores that share none; raw is about 315 ns",
    }
}

fn origin(runs: &[Run]) -> Markup {
    html! {
        @if runs.is_empty() {
            p { "Where and when this was measured is not known." }
        } @else {
            h2 { "Where, when and how" }
        }
        @for run in runs {
            dl {
                dt { "command" } dd { code { (run.command) } }
                dt { "date" } dd { (run.date) }
                dt { "machine" } dd { (run.cpu) ", " (cpus(&run.cpus)) ", " (run.system) }
                @if !run.priority.is_empty() {
                    dt { "priority" } dd { (run.priority) }
                }
                dt { "ringmill" } dd { (run.version) }
            }
        }
    }
}

fn cpus(cpus: &[usize]) -> String {
    let numbers: Vec<String> = cpus.iter().map(ToString::to_string).collect();
    match cpus.len() {
        1 => format!("CPU {}", numbers.join("")),
        count if count <= 8 => format!("CPUs {}", numbers.join(", ")),
        count => format!("{count} CPUs"),
    }
}

/// The part of the page about `job`; its pictures are added to `pictures`.
fn chapter(job: &str, rows: &[&Row], pictures: &mut Vec<(String, String)>) -> Markup {
    let known = CHAPTERS.iter().find(|chapter| chapter.job == job);
    let (heading, text) = known.map_or((job, UNKNOWN), |chapter| (chapter.heading, chapter.text));
    let regimes: Vec<Option<Regime>> = std::iter::once(None)
        .chain(Regime::ALL.map(Some))
        .filter(|regime| rows.iter().any(|row| row.regime == *regime))
        .collect();
    html! {
        section id=(job) {
            h2 { (heading) " " span.job { "compare --job " (job) } }
            p { (text) }
            @for regime in regimes {
                @let of_regime: Vec<&Row> = rows.iter().copied().filter(|row| row.regime == regime).collect();
                @if let Some(regime) = regime { h3 { (regime.name()) " regime: " (described(regime)) } }
                div.pictures {
                    @for picture in charts::pictures(job, regime, &of_regime) {
                        @let svg = svg(&picture);
                        figure role="img" aria-label=(picture.title) { (PreEscaped(&svg)) }
                        ({ pictures.push((picture.name.clone(), svg)); "" })
                    }
                }
                details open[of_regime.len() <= SHORT_TABLE] {
                    summary { (count(of_regime.len())) }
                    (table(&of_regime))
                }
            }
        }
    }
}

fn count(rows: usize) -> String {
    if rows == 1 { "1 row of figures".to_owned() } else { format!("{rows} rows of figures") }
}

/// A column for every parameter and every figure that a row has.
fn table(rows: &[&Row]) -> Markup {
    let parameters: Vec<&str> = PARAMETERS
        .into_iter()
        .filter(|parameter| rows.iter().any(|row| row.parameter(parameter).is_some()))
        .collect();
    let mut figures: Vec<&str> = Vec::new();
    for (name, _) in rows.iter().flat_map(|row| &row.figures) {
        if !figures.contains(&name.as_str()) {
            figures.push(name);
        }
    }
    let has_rivals = rows.iter().any(|row| row.who != "ringmill");
    html! {
        div.wide {
            table {
                thead {
                    tr {
                        th.name { "who" }
                        @for name in parameters.iter().chain(&figures) { th { (words::heading(name)) } }
                    }
                }
                tbody {
                    @for row in rows {
                        tr.ours[has_rivals && row.who == "ringmill"] {
                            td.name { (row.who) }
                            @for parameter in &parameters {
                                td { @if let Some(value) = row.parameter(parameter) { (words::parameter(parameter, value)) } }
                            }
                            @for name in &figures {
                                td { @if let Some(value) = row.value(name) { (words::figure(name, value)) } }
                            }
                        }
                    }
                }
            }
        }
    }
}

const STYLE: &str = "
:root { color-scheme: light dark; --ink: #22262b; --soft: #666b72; --rule: #dddad3; --ours: #b93507; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e4e2dd; --soft: #9a9ea5; --rule: #3a3d42; --ours: #ff8a5c; }
  body { background: #17191c; }
}
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); max-width: 832px; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.9rem; margin-bottom: .5rem; }
h2 { font-size: 1.35rem; margin-top: 3rem; }
h3 { font-size: 1.05rem; margin-top: 2rem; }
.job { font: .8rem ui-monospace, monospace; color: var(--soft); margin-left: .5rem; }
.pictures { display: flex; flex-wrap: wrap; gap: 12px; }
figure { margin: 0; max-width: 100%; }
figure svg { display: block; max-width: 100%; height: auto; border-radius: 6px; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .15rem 1rem; font-size: .9rem; }
dt { color: var(--soft); }
dd { margin: 0; overflow-wrap: anywhere; }
details { margin-top: .75rem; font-size: .85rem; }
summary { cursor: pointer; color: var(--soft); }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; margin-top: .5rem; }
th, td { text-align: right; padding: .15rem .7rem; white-space: nowrap; }
th { font-weight: 600; border-bottom: 1px solid var(--rule); }
th.name, td.name { text-align: left; padding-left: 0; }
tr.ours { color: var(--ours); font-weight: 600; }
";
