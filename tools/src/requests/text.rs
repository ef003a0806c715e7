//! Requests in words and tables, and their payloads as bytes.

use super::{InProgress, InUse, Payload, Request};
use crate::output::{Page, Report};
use crate::survey::stale_line;
use crate::units;
use crate::who::Holder;
use ringmill_shm::arena::Content;
use ringmill_shm::text::size;

impl Report for InProgress {
    fn text(&self, page: Page) -> String {
        let mut text = format!("{}: {} of {} in progress", self.name, self.in_progress, self.capacity);
        if self.requests.len() < self.in_progress as usize {
            text += &format!(", {} shown", self.requests.len());
        }
        text += "\n";
        text += &stale_line(self.state, &self.name);
        if !self.requests.is_empty() {
            text += &self.table(page);
        }
        if self.without_age > 0 {
            text +=
                &format!("{} of unknown age left out\n", units::count(self.without_age as usize, "request"));
        }
        for request in &self.requests {
            text += &request.task.dump(&format!("request {}", request.id));
            for branch in &request.branches {
                let title = format!("request {}, {} {}", request.id, branch.ensemble, branch.member);
                text += &branch.task.dump(&title);
            }
        }
        text
    }
}

/// A column: its heading, and its cell of a request, or of a branch of one.
type Column = (&'static str, fn(&Request, &InUse) -> Option<String>);

const COLUMNS: &[Column] = &[
    ("phase", |_, task| Some(task.phase_text())),
    ("at", |_, task| task.at_text()),
    (">age", |request, task| request.of_itself(task, request.age_s.map(units::seconds))),
    (">left", |request, task| request.of_itself(task, request.deadline_s.map(units::seconds))),
    (">attempt", |_, task| (task.attempt > 0).then(|| task.attempt.to_string())),
    ("payload", |_, task| Some(task.payload.text())),
    ("caller", |request, task| request.of_itself(task, request.caller_text().map(Into::into))),
];

impl InProgress {
    fn table(&self, page: Page) -> String {
        let (headings, rows) = rows(self.requests.iter(), page.is_drawn());
        page.table(&headings, rows)
    }
}

/// The headings, as [`Page::table`] has them, and a row for each request, and below it one for each branch. Columns that
/// say nothing are left out.
pub(crate) fn rows<'r>(
    requests: impl Iterator<Item = &'r Request>,
    is_drawn: bool,
) -> (Vec<&'static str>, Vec<Vec<String>>) {
    let mut tasks = Vec::new();
    for request in requests {
        tasks.push((request.id.to_string(), request, &request.task));
        let branches = request.branches.iter();
        let lead = if is_drawn { "└" } else { " " }; // spaces at a cell's beginning go where it is wrapped
        tasks.extend(branches.map(|b| (format!("{lead} {} {}", b.ensemble, b.member), request, &b.task)));
    }
    let says =
        |cell: fn(&Request, &InUse) -> Option<String>| tasks.iter().any(|row| cell(row.1, row.2).is_some());
    let columns: Vec<_> = COLUMNS.iter().filter(|(_, cell)| says(*cell)).collect();
    let headings = std::iter::once("request").chain(columns.iter().map(|(heading, _)| *heading)).collect();
    let rows = tasks.iter().map(|(title, request, task)| {
        let cells = columns.iter().map(|(_, cell)| cell(request, task).unwrap_or_else(|| "-".into()));
        std::iter::once(title.clone()).chain(cells).collect()
    });
    (headings, rows.collect())
}

impl Request {
    /// What only the request itself has, and none of its branches.
    fn of_itself(&self, task: &InUse, cell: Option<String>) -> Option<String> {
        cell.filter(|_| task.task == self.id)
    }

    fn caller_text(&self) -> Option<&'static str> {
        match () {
            () if self.caller_gone => Some("gone"),
            () if self.caller_asleep => Some("asleep"),
            () if self.wants_notice => Some("async"),
            () => None,
        }
    }
}

impl InUse {
    fn phase_text(&self) -> String {
        if self.begun { format!("{}, begun", self.phase.name()) } else { self.phase.name().into() }
    }

    /// The worker that has it, or the servlet where it waits; else the participant that must act next, and if that is dead,
    /// in any case.
    fn at_text(&self) -> Option<String> {
        let owner = self.owner.as_ref().map(Holder::text);
        let waits = !self.phase.is_worked_on() && self.owner.as_ref().is_none_or(|owner| owner.alive);
        if waits { self.servlet.clone().or(owner) } else { owner }
    }

    /// Its payload's bytes, if they were asked for, below a title.
    fn dump(&self, title: &str) -> String {
        let Some(bytes) = self.payload.hex.as_ref().filter(|bytes| !bytes.is_empty()) else {
            return String::new();
        };
        let mut text = format!("\n{title}: {}", self.payload.text());
        if bytes.len() < self.payload.bytes as usize {
            text += &format!(", the first {}", size(bytes.len() as u64));
        }
        if let Some(name) = &self.payload.type_name {
            text += &format!(", {name}");
        }
        text += "\n";
        if let Some(value) = &self.payload.value {
            text += &format!("  {value}\n");
        }
        for (line, sixteen) in bytes.chunks(16).enumerate() {
            let hex: String = sixteen.iter().map(|byte| format!(" {byte:02x}")).collect();
            let printed =
                |&byte: &u8| if byte == b' ' || byte.is_ascii_graphic() { char::from(byte) } else { '.' };
            let plain: String = sixteen.iter().map(printed).collect();
            text += &format!("  {:06x} {hex:<48}  {plain}\n", line * 16);
        }
        text
    }
}

impl Payload {
    fn text(&self) -> String {
        let content = match self.content {
            Content::Input => "input",
            Content::Outcome => "outcome",
            Content::Error => "error",
            Content::Unfinished => "unfinished",
        };
        match self.impossible {
            true => format!("{content}, impossible"),
            false => format!("{content} {}", size(self.bytes.into())),
        }
    }
}
