//! Traces in the format of Chrome's trace viewer, for Perfetto and `about:tracing`.
//!
//! The callers are one process, in which each request is an event of its own line; each servlet is a process, and each of
//! its workers a thread, whose slices are the requests that it worked on. The time in a ring is an event of the servlet.
//!
//! Source: [Trace Event Format](https://docs.google.com/document/d/1CvAClvFfyA5R-PhYUmn5OOQtYMH4h6I0nSsKchNAySU), the
//! phases `X`, `b`, `e` and `M`.

use super::{Hop, Trace, Traces};
use crate::output::{Page, Report};
use serde::Serialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// A document of the viewer.
#[derive(Debug, Serialize)]
pub(super) struct Document {
    #[serde(rename = "traceEvents")]
    events: Vec<Value>,
    #[serde(rename = "displayTimeUnit")]
    unit: &'static str,
}

impl Report for Document {
    fn text(&self, _: Page) -> String {
        String::new() // it is for programs
    }
}

/// The callers' process.
const CALLERS: u64 = 0;

fn process_of(hop: &Hop) -> u64 {
    u64::from(hop.node) + 1
}

/// In microseconds, as all times of the format.
fn micros(ns: u64) -> f64 {
    ns as f64 / 1e3
}

fn name(what: &str, process: u64, thread: u32, name: &str) -> Value {
    json!({"ph": "M", "name": what, "pid": process, "tid": thread, "args": {"name": name}})
}

impl Traces {
    pub(super) fn chrome(&self) -> Document {
        let mut events = vec![name("process_name", CALLERS, 0, &format!("{}: requests", self.name))];
        let hops = || self.traces.iter().flat_map(|trace| &trace.hops);
        let servlets: BTreeMap<u64, &str> =
            hops().map(|hop| (process_of(hop), hop.servlet.as_str())).collect();
        let workers: BTreeMap<(u64, u32), &str> =
            hops().map(|hop| ((process_of(hop), hop.row), hop.worker.as_str())).collect();
        events.extend(servlets.iter().map(|(&process, text)| name("process_name", process, 0, text)));
        events.extend(workers.iter().map(|(&(process, row), text)| name("thread_name", process, row, text)));
        events.extend(self.traces.iter().flat_map(Trace::events));
        Document { events, unit: "ns" }
    }
}

impl Trace {
    fn events(&self) -> Vec<Value> {
        let title = format!("request {}", self.request);
        // An event that may overlap others of its kind: its two ends have one number.
        let both = |category: &str, name: &str, process: u64, from: u64, to: u64, id: String, args: Value| {
            let end = |phase: &str, ns: u64| {
                json!({
                    "ph": phase, "cat": category, "name": name, "pid": process, "tid": 0, "id": id,
                    "ts": micros(ns), "args": if phase == "b" { args.clone() } else { json!({}) },
                })
            };
            [end("b", from), end("e", to.max(from))]
        };
        let args = json!({
            "trace_id": format!("{:032x}", self.trace_id), "generation": self.generation,
            "end": self.end, "weight": self.weight, "hops_missing": self.hops_missing,
        });
        let id = self.number.to_string();
        let mut events: Vec<Value> =
            both("request", &title, CALLERS, self.sent_ns, self.until_ns, id, args).into();
        for (index, hop) in self.hops.iter().enumerate() {
            let at = |ns: u64| self.sent_ns.saturating_add(ns);
            let id = format!("{}.{index}", self.number);
            let (process, taken) = (process_of(hop), at(hop.taken_ns));
            events.extend(both("ring", &title, process, at(hop.queued_ns), taken, id, json!({})));
            let ended = hop.ended_ns.map_or(self.until_ns, at);
            events.push(json!({
                "ph": "X", "cat": "worker", "name": title, "pid": process, "tid": hop.row,
                "ts": micros(taken), "dur": micros(ended.saturating_sub(taken)),
                "args": {
                    "trace_id": format!("{:032x}", self.trace_id), "process": hop.pid, "branch": hop.branch,
                    "attempt": hop.attempt, "end": hop.end,
                    "in_call_us": hop.begun_ns.map(|begun| micros(ended.saturating_sub(at(begun)))),
                },
            }));
        }
        events
    }
}
