//! `shmtool trace`: the last requests that were traced, and where each was when.

pub(crate) mod args;
mod chrome;
mod text;

use crate::error::ToolError;
use crate::output::{self, Page, Report, Verdict};
use crate::survey::{Liveness, Survey};
use crate::who::name_of;
use ringmill_shm::segment::{Run, Segment};
use ringmill_shm::sys::time::now_ns;
use ringmill_shm::text::{shown, shown_path};
use ringmill_shm::trace::{self, HopEnd, RequestEnd};
use serde::Serialize;

/// Which traces to report.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Choice {
    /// At most so many: the last ones, or the longest.
    pub(crate) count: Option<usize>,
    /// Those that took longest, the longest first; else the last, in the order in which they began.
    pub(crate) slowest: bool,
    /// For a viewer of traces.
    pub(crate) chrome: bool,
}

/// How many traces a text has, unless another number is asked for.
const IN_TEXT: usize = 10;

/// The traces of one segment.
#[derive(Debug, Serialize)]
struct Traces {
    /// The argument that commands take.
    name: String,
    /// The file.
    path: String,
    state: Liveness,
    /// The server's last report.
    run: Run,
    /// How many traces the segment keeps.
    kept: u32,
    /// How many requests were traced since the server's start.
    traced: u64,
    traces: Vec<Trace>,
}

/// A request that was traced.
#[derive(Debug, Serialize)]
struct Trace {
    /// Its number among all traces.
    number: u64,
    request: u32,
    generation: u16,
    #[serde(serialize_with = "hex_32")]
    trace_id: u128,
    #[serde(serialize_with = "hex_16")]
    span_id: u64,
    /// The span from which it was sent.
    #[serde(serialize_with = "hex_16_or_null")]
    parent_id: Option<u64>,
    flags: u8,
    /// For how many requests it stands; none: only its caller asked for it.
    weight: Option<u64>,
    /// How long ago it was sent.
    age_s: f64,
    /// Until its caller had its outcome; none: not yet.
    total_ns: Option<u64>,
    end: Option<RequestEnd>,
    hops: Vec<Hop>,
    hops_missing: u64,
    /// When it was sent, in monotonic nanoseconds, as all numbers that are not in JSON.
    #[serde(skip)]
    sent_ns: u64,
    /// When the last that is known of it was.
    #[serde(skip)]
    until_ns: u64,
}

/// A worker's part of a request; its times are those since the request was sent.
#[derive(Debug, Serialize)]
struct Hop {
    servlet: String,
    worker: String,
    pid: u32,
    /// Which branch of the request; 0: the request itself.
    branch: u32,
    attempt: u8,
    #[serde(serialize_with = "hex_16")]
    span_id: u64,
    queued_ns: u64,
    taken_ns: u64,
    /// When user code began.
    begun_ns: Option<u64>,
    ended_ns: Option<u64>,
    end: Option<HopEnd>,
    #[serde(skip)]
    node: u32,
    /// The worker's row.
    #[serde(skip)]
    row: u32,
}

fn hex_32<S: serde::Serializer>(id: &u128, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(&format!("{id:032x}"))
}

fn hex_16<S: serde::Serializer>(id: &u64, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(&format!("{id:016x}"))
}

fn hex_16_or_null<S: serde::Serializer>(id: &Option<u64>, to: S) -> Result<S::Ok, S::Error> {
    id.map(|id| format!("{id:016x}")).serialize(to)
}

/// What the command prints.
pub(crate) fn trace(name: &str, choice: Choice, json: bool) -> Result<(String, Verdict), ToolError> {
    let (survey, segment) = Survey::open(name)?;
    let mut report = Traces::of(&survey, &segment);
    report.choose(choice, if json || choice.chrome { usize::MAX } else { IN_TEXT });
    let text = match () {
        () if choice.chrome => output::json_line(&report.chrome())?,
        () if json => output::json(&report)?,
        () => report.text(Page::of_stdout()),
    };
    Ok((text, report.verdict()))
}

impl Traces {
    fn of(survey: &Survey, segment: &Segment) -> Self {
        let now_ns = now_ns();
        let is_live = survey.state == Liveness::Live;
        let traces = segment.traces();
        Self {
            name: shown(&survey.location.to_text()),
            path: shown_path(&survey.location.path()),
            state: survey.state,
            run: segment.run(),
            kept: segment.shape().traces,
            traced: segment.traces_begun(),
            traces: traces.into_iter().map(|trace| Trace::of(segment, trace, is_live, now_ns)).collect(),
        }
    }

    fn choose(&mut self, choice: Choice, default: usize) {
        let count = choice.count.unwrap_or(default);
        if choice.slowest {
            self.traces.sort_by_key(|trace| std::cmp::Reverse(trace.length_ns()));
            self.traces.truncate(count);
        } else {
            self.traces.drain(..self.traces.len().saturating_sub(count));
        }
    }
}

impl Trace {
    fn of(segment: &Segment, trace: trace::Trace, is_live: bool, now_ns: u64) -> Self {
        let sent_ns = trace.sent_ns;
        let known = trace.hops.iter().flat_map(|hop| {
            [Some(hop.taken_ns), hop.begun_ns, hop.ended.map(|(ns, _)| ns)].into_iter().flatten()
        });
        let until_ns = match trace.told {
            Some((told_ns, _)) => told_ns,
            None if is_live => now_ns,
            None => known.max().unwrap_or(sent_ns), // its server died then, or later
        };
        let since = |ns: u64| ns.saturating_sub(sent_ns);
        let hop = |hop: trace::Hop| Hop {
            servlet: segment
                .nodes()
                .get(hop.node as usize)
                .map_or_else(|| "?".into(), |info| shown(&info.name)),
            worker: hop
                .worker
                .and_then(|token| name_of(segment, token.index()))
                .unwrap_or_else(|| "no worker".into()),
            pid: hop.pid,
            branch: hop.slot,
            attempt: hop.attempt,
            span_id: hop.span,
            queued_ns: since(hop.queued_ns),
            taken_ns: since(hop.taken_ns),
            begun_ns: hop.begun_ns.map(since),
            ended_ns: hop.ended.map(|(ns, _)| since(ns)),
            end: hop.ended.map(|(_, end)| end),
            node: hop.node,
            row: hop.worker.map_or(0, |token| token.index()),
        };
        Self {
            number: trace.number,
            request: trace.request,
            generation: trace.generation,
            trace_id: trace.context.trace_id,
            span_id: trace.span,
            parent_id: (trace.context.parent != 0).then_some(trace.context.parent),
            flags: trace.context.flags,
            weight: trace.weight.map(|weight| weight.count()),
            age_s: now_ns.saturating_sub(sent_ns) as f64 / 1e9,
            total_ns: trace.told.map(|(ns, _)| since(ns)),
            end: trace.told.map(|(_, end)| end),
            hops: trace.hops.into_iter().map(hop).collect(),
            hops_missing: trace.hops_missing,
            sent_ns,
            until_ns,
        }
    }

    /// How long it took, or has taken as far as is known.
    fn length_ns(&self) -> u64 {
        self.until_ns.saturating_sub(self.sent_ns)
    }
}
