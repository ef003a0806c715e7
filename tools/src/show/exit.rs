//! How a worker last ended, and with which items.

use crate::units;
use ringmill_shm::arena::Task;
use ringmill_shm::segment::Segment;
use ringmill_shm::sys::time::now_ns;
use ringmill_shm::text::size;
use ringmill_shm::watch::{End, Exit, Item, Why};
use serde::Serialize;
use signal_hook::low_level::signal_name;

#[derive(Debug, Serialize)]
pub(crate) struct LastExit {
    /// How many seconds ago.
    ago_s: f64,
    pid: u32,
    /// Its exit code; none: a signal ended it, or it is unknown.
    code: Option<i32>,
    signal: Option<i32>,
    /// Why the server ended it; none: it did not.
    why: Option<Why>,
    /// How many items it had begun and not answered.
    item_count: u32,
    /// The first of them.
    items: Vec<Begun>,
    /// Of the first one.
    payload_bytes: u32,
    /// The first bytes of that payload.
    payload_hex: String,
}

/// An item that a worker had begun.
#[derive(Debug, Serialize)]
struct Begun {
    request: u32,
    task: u32,
    generation: u16,
    /// How many workers had died with it before.
    attempt: u8,
}

impl LastExit {
    pub(crate) fn of(segment: &Segment, exit: Exit) -> Self {
        let begun = |&Item { task, generation, attempt }: &Item| {
            let request = Task::new(segment, task)?.slot().0;
            Some(Begun { request, task, generation, attempt })
        };
        Self {
            ago_s: now_ns().saturating_sub(exit.at_ns) as f64 / 1e9,
            pid: exit.pid,
            code: if let End::Code(code) = exit.end { Some(code) } else { None },
            signal: if let End::Signal(signal) = exit.end { Some(signal) } else { None },
            why: exit.why,
            item_count: exit.count,
            items: exit.items.iter().filter_map(begun).collect(),
            payload_bytes: exit.payload_bytes,
            payload_hex: exit.payload.iter().map(|byte| format!("{byte:02x}")).collect(),
        }
    }

    /// `ended 12 s ago: SIGKILL, for its exec_timeout, in a call with request 3`.
    pub(crate) fn text(&self) -> String {
        let how = match (self.signal, self.code) {
            (Some(signal), _) => signal_name(signal).map_or_else(|| format!("signal {signal}"), Into::into),
            (None, Some(code)) => format!("exit code {code}"),
            (None, None) => "in an unknown way".into(),
        };
        let why = match self.why {
            None => "",
            Some(Why::ExecTimeout) => ", since its call took longer than exec_timeout",
            Some(Why::TooLate) => ", since it was starting or leaving for too long",
            Some(Why::Shutdown) => ", since it did not leave at the shutdown",
            Some(Why::Strayed) => ", since it ran another program or closed its descriptors",
        };
        let (pid, ago) = (self.pid, units::seconds(self.ago_s));
        format!("ended {ago} ago (pid {pid}): {how}{why}{}", self.items_text())
    }

    fn items_text(&self) -> String {
        let Some(first) = self.items.first() else { return String::new() };
        let requests = units::ranges(self.items.iter().map(|item| item.request.into()), 3);
        let more = if self.items.len() < self.item_count as usize { " and others" } else { "" };
        let mut text = match self.item_count {
            1 => format!("; with request {requests}, generation {}", first.generation),
            count => format!("; with {count} items, of requests {requests}{more}"),
        };
        if first.attempt > 0 {
            text += &format!(", on which {} died before", units::count(first.attempt.into(), "worker"));
        }
        let of = if self.item_count == 1 { "its" } else { "the first one's" };
        text += &format!("; {of} payload has {}", size(self.payload_bytes.into()));
        const HEX: usize = 32;
        match self.payload_hex.get(..HEX.min(self.payload_hex.len())) {
            None | Some("") => text,
            Some(hex) if hex.len() < self.payload_hex.len() => format!("{text}: {hex}..."),
            Some(hex) => format!("{text}: {hex}"),
        }
    }
}
