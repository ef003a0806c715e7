//! Traces as lines, with a bar for each worker's part.

use super::{Hop, Trace, Traces};
use crate::output::{Page, Report};
use crate::survey::{Liveness, way_out};
use crate::units;

impl Report for Traces {
    fn text(&self, page: Page) -> String {
        let traced = units::number(self.traced);
        let mut text = match (self.kept, self.traces.len()) {
            (0, _) => format!("{}: it keeps no traces\n", self.name),
            (kept, 0) => format!("{}: no request was traced yet; it keeps {kept} traces\n", self.name),
            (kept, count) => format!("{}: {count} of {traced} traces; it keeps {kept}\n", self.name),
        };
        if self.state == Liveness::Stale {
            text += &format!("It is stale: its server has died; {}.\n", way_out(&self.name));
        }
        for trace in &self.traces {
            text += &trace.text(page);
        }
        text
    }
}

/// What is drawn for the time in a ring, and for the time in user code.
struct Marks {
    in_ring: char,
    in_call: char,
}

/// The fewest columns of a bar.
const LEAST: usize = 10;

impl Trace {
    fn text(&self, page: Page) -> String {
        let length = units::nanoseconds(self.length_ns() as f64);
        let how = match self.end {
            Some(end) => format!("{} after {length}", end.name()),
            None => format!("in progress for {length}"),
        };
        let ago = units::seconds(self.age_s);
        let mut text =
            format!("\nrequest {}: {how}, sent {ago} ago\n  trace {:032x}\n", self.request, self.trace_id);
        let rows: Vec<[String; 4]> = self.hops.iter().map(|hop| hop.cells(self.length_ns())).collect();
        let headings = ["worker", "in ring", "in call", "end"].map(String::from);
        let width = |column: usize| {
            let cells = rows.iter().chain([&headings]).map(|row| row[column].chars().count());
            cells.max().unwrap_or(0)
        };
        let widths = [0, 1, 2, 3].map(width);
        let room = page.columns().saturating_sub(widths.iter().sum::<usize>() + 2 + 3 * 2 + 2).max(LEAST);
        let line = |[worker, in_ring, in_call, end]: &[String; 4], bar: &str| {
            let [w, r, c, e] = widths;
            let line = format!("  {worker:<w$}  {in_ring:>r$}  {in_call:>c$}  {end:<e$}  {bar}");
            format!("{}\n", line.trim_end())
        };
        if !rows.is_empty() {
            text += &line(&headings, &scale(&length, room, page.is_drawn()));
        }
        let marks = match page.is_drawn() {
            true => Marks { in_ring: '░', in_call: '█' },
            false => Marks { in_ring: '.', in_call: '#' },
        };
        for (hop, cells) in self.hops.iter().zip(&rows) {
            text += &line(cells, &hop.bar(self.length_ns(), room, &marks));
        }
        if self.hops_missing > 0 {
            let missing = units::number(self.hops_missing);
            text += &format!("  {missing} more were not recorded\n");
        }
        text
    }
}

/// The line above the bars: from 0 to the length of the request.
fn scale(length: &str, room: usize, is_drawn: bool) -> String {
    let rule = if is_drawn { "─" } else { "-" };
    let left = room.saturating_sub(length.chars().count() + 3);
    format!("0 {} {length}", rule.repeat(left))
}

impl Hop {
    /// Worker, time in the ring, time in user code, and how it ended; of a request of this length.
    fn cells(&self, length_ns: u64) -> [String; 4] {
        let worker = match self.attempt {
            0 => self.worker.clone(),
            attempt => format!("{} (retry {attempt})", self.worker),
        };
        let in_ring = units::nanoseconds(self.taken_ns.saturating_sub(self.queued_ns) as f64);
        let in_call = self.begun_ns.map(|begun_ns| {
            units::nanoseconds(self.ended_ns.unwrap_or(length_ns).saturating_sub(begun_ns) as f64)
        });
        let end = match (self.end, self.begun_ns) {
            (Some(end), _) => end.name(),
            (None, Some(_)) => "in call",
            (None, None) => "taken",
        };
        [worker, in_ring, in_call.unwrap_or_else(|| "-".into()), end.into()]
    }

    fn bar(&self, length_ns: u64, room: usize, marks: &Marks) -> String {
        // In 128 bits, and never beyond the end: the times may be any numbers.
        let at = |ns: u64| {
            let column = u128::from(ns) * room as u128 / u128::from(length_ns.max(1));
            usize::try_from(column).unwrap_or(room).min(room)
        };
        let (queued, taken) = (at(self.queued_ns), at(self.taken_ns));
        let ended = at(self.ended_ns.unwrap_or(length_ns)).max(taken + 1).min(room.max(taken + 1));
        let repeat = |mark: char, from: usize, to: usize| mark.to_string().repeat(to.saturating_sub(from));
        let in_call = if self.begun_ns.is_some() { marks.in_call } else { marks.in_ring };
        [
            repeat(' ', 0, queued),
            repeat(marks.in_ring, queued, taken),
            repeat(in_call, queued.max(taken), ended),
        ]
        .concat()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hop(queued_ns: u64, taken_ns: u64, begun_ns: Option<u64>, ended_ns: Option<u64>) -> Hop {
        Hop {
            servlet: "split".into(),
            worker: "split/0".into(),
            pid: 1,
            branch: 0,
            attempt: 0,
            span_id: 1,
            queued_ns,
            taken_ns,
            begun_ns,
            ended_ns,
            end: None,
            node: 0,
            row: 1,
        }
    }

    #[test]
    fn bars_show_ring_and_call_and_stay_on_the_line() {
        let marks = Marks { in_ring: '.', in_call: '#' };
        for (hop, bar) in [
            (hop(0, 20, Some(20), Some(50)), "..###"),
            (hop(50, 50, Some(50), Some(50)), "     #"),
            (hop(20, 40, None, None), "  ........"),
            (hop(40, 60, Some(60), None), "    ..####"),
            (hop(100, 100, Some(100), Some(100)), "          #"),
            (hop(90, 10, Some(5), Some(0)), "         "),
            (hop(u64::MAX, u64::MAX, Some(u64::MAX), Some(u64::MAX)), "          #"),
        ] {
            assert_eq!(hop.bar(100, 10, &marks), bar, "{hop:?}");
            assert!(hop.bar(0, 10, &marks).chars().count() <= 11);
        }
    }
}
