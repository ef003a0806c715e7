//! A state as a frame: a pure function.
//!
//! Nothing is told by colour alone, so that a terminal without colours shows the same. Every text goes through [`plain`]
//! once more, as in each cell of a table (`[plain text]`).

use super::picture::{Picture, Worker};
use super::state::{State, View};
use crate::output::Page;
use crate::requests::text::rows as request_rows;
use crate::show::text::run_text;
use crate::stats::text::{findings, percent, value_text};
use crate::units;
use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Margin, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Clear, HighlightSpacing, Paragraph, Row, Sparkline, Table, TableState};
use ringmill_shm::stats::{CallerCounter, CallerHistogram, Counter, PERCENTILES};
use ringmill_shm::text::shown;
use std::time::Duration;

/// The least screen that has room for all parts.
const LEAST: (u16, u16) = (60, 16);
/// A screen of so many rows is tall: parts that could be cut have more room.
const TALL: u16 = 36;
/// A worker or servlet that is busy for more than this part of the time stands out.
const BUSY: f64 = 0.9;

const HELP: &str = "\
q, Ctrl-C    end
p, space     pause: keep what is shown; again: go on
+  -         look less often, more often
s            sort workers by name, busy, items a second
up, down     select a worker; scroll requests     (also k, j)
Enter        all of the selected worker; again, or Esc: back
r            the requests in progress, the oldest first; again: back
?            this help; any key closes it

Numbers are of the last interval, and at first since the server's
start. Busy: the part of the time in which code runs; a run counts
when it ends. In call, reading (it holds the servlet's reader
lock): for how long, as far as it is known.";

/// Draws a state.
pub(super) fn draw(state: &State, frame: &mut Frame<'_>) {
    let area = frame.area();
    if area.width < LEAST.0 || area.height < LEAST.1 {
        let text = format!("shmtool top needs {} columns and {} rows; q ends", LEAST.0, LEAST.1);
        return frame.render_widget(Paragraph::new(text), area);
    }
    let [title, body, keys] =
        Layout::vertical([Constraint::Length(1), Constraint::Fill(1), Constraint::Length(1)]).areas(area);
    let sheet = Sheet { state, picture: state.picture() };
    frame.render_widget(sheet.title(), title);
    match state.view() {
        View::All => sheet.all(frame, body),
        View::Worker => sheet.worker(frame, body),
        View::Requests => sheet.requests(frame, body),
    }
    frame.render_widget(sheet.keys(), keys);
    if state.shows_help() {
        sheet.help(frame, body);
    }
}

/// A text that no terminal obeys.
fn plain(text: &str) -> String {
    shown(text)
}

fn bold() -> Style {
    Style::new().add_modifier(Modifier::BOLD)
}

struct Sheet<'s> {
    state: &'s State,
    picture: &'s Picture,
}

impl Sheet<'_> {
    /// A style that stands out by a colour too, where there are colours.
    fn ink(&self, colour: Color) -> Style {
        if self.state.has_colours() { bold().fg(colour) } else { bold() }
    }

    fn title(&self) -> Line<'static> {
        let (stats, style) = (&self.picture.stats, Style::new().add_modifier(Modifier::REVERSED));
        let name = plain(&stats.name);
        // What must be seen stands first: a long name is cut at its end.
        let (text, style) = match self.state.has_ended() {
            true => {
                let pid = self.picture.server_pid;
                let ended = format!("THE SERVER HAS ENDED (pid {pid}); the last look at {name}");
                (ended, style.patch(self.ink(Color::Red)))
            }
            false => {
                let mut paused = if self.state.is_paused() { "PAUSED, " } else { "" }.to_string();
                if self.picture.is_stopped {
                    paused += &format!("STOPPED (pid {}), ", self.picture.server_pid);
                }
                let (run, up) = (run_text(stats.run), units::age(self.picture.up_s));
                let now = format!(
                    "{paused}{name}: {run}, up {up}, {} of {} in progress",
                    stats.in_progress, stats.capacity
                );
                (now, style)
            }
        };
        Line::styled(text, style)
    }

    fn keys(&self) -> Line<'static> {
        let every = every(self.state.interval());
        let keys = match self.state.view() {
            View::All => format!(
                "q end  p pause  +/- every {every}  s sort: {}  Enter worker  r requests  ? help",
                self.state.sort().text()
            ),
            View::Worker => {
                format!("q end  p pause  +/- every {every}  up/down other workers  Esc back  ? help")
            }
            View::Requests => format!("q end  p pause  +/- every {every}  up/down scroll  Esc back  ? help"),
        };
        Line::styled(keys, Style::new().add_modifier(Modifier::REVERSED))
    }

    fn all(&self, frame: &mut Frame<'_>, area: Rect) {
        let is_tall = area.height >= TALL - 2;
        let found = self.findings(area.width, if is_tall { 8 } else { 4 });
        let servlets = self.picture.stats.servlets.len().min(if is_tall { 12 } else { 5 }) as u16;
        let [why, rates, times, past, of_servlets, of_workers] = Layout::vertical([
            Constraint::Length(found.len() as u16),
            Constraint::Length(1),
            Constraint::Length(1),
            Constraint::Length(if is_tall { 6 } else { 3 }),
            Constraint::Length(servlets + 2),
            Constraint::Fill(1),
        ])
        .areas(area);
        frame.render_widget(Paragraph::new(found), why);
        frame.render_widget(self.rates(), rates);
        frame.render_widget(self.times(), times);
        self.past(frame, past);
        self.servlets(frame, of_servlets);
        self.workers(frame, of_workers);
    }

    /// What limits the server, in no more lines than this.
    fn findings(&self, width: u16, most: usize) -> Vec<Line<'static>> {
        let all = findings(&self.picture.stats, Page::of_width(width));
        if all.is_empty() {
            return vec![Line::from("Nothing limits the server, as far as its statistics say.")];
        }
        let style = self.ink(Color::Yellow);
        let mut lines: Vec<_> = all.lines().map(|line| Line::styled(plain(line), style)).collect();
        if lines.len() > most {
            lines.truncate(most - 1);
            lines.push(Line::from("  (more: shmtool stats)"));
        }
        lines
    }

    fn rates(&self) -> Line<'static> {
        let stats = &self.picture.stats;
        let period = match self.picture.is_first {
            true => "since the start".into(),
            false => format!("in {}", units::seconds(stats.period_s)),
        };
        let mut text = format!(": {} ended {period}", units::number(stats.requests.ended));
        for counter in CallerCounter::ALL {
            let (count, heading) = (stats.requests.counters.get(counter), counter.words().heading);
            if counter != CallerCounter::Answered && count > 0 {
                text += &format!(", {} {heading}", units::number(count));
            }
        }
        let rate = format!("{} requests/s", units::rate(stats.per_s(stats.requests.ended)));
        Line::from(vec![Span::styled(rate, bold()), Span::raw(text)])
    }

    fn times(&self) -> Line<'static> {
        let total = self.picture.stats.requests.times.get(CallerHistogram::TotalTime);
        let mut text = "total time: ".to_string();
        for (name, part) in PERCENTILES {
            text += &format!("{name} {}, ", value_text(total, total.percentile(part) as f64));
        }
        Line::from(text + &format!("max {}", value_text(total, total.greatest() as f64)))
    }

    /// Requests a second of the last minutes.
    fn past(&self, frame: &mut Frame<'_>, area: Rect) {
        let [heading, drawing] = Layout::vertical([Constraint::Length(1), Constraint::Fill(1)]).areas(area);
        let (history, columns) = (self.state.history(), self.state.history().columns(area.width.into()));
        let text = match columns.iter().max() {
            None => "requests/s: drawn from the next look on".into(),
            Some(&most) => {
                let seconds = history.seconds().round() as u64;
                format!("requests/s of the last {}, up to {}", units::age(seconds), units::number(most))
            }
        };
        frame.render_widget(Line::styled(text, bold()), heading);
        let style = if self.state.has_colours() { Style::new().fg(Color::Cyan) } else { Style::new() };
        frame.render_widget(Sparkline::default().data(columns).style(style), drawing);
    }

    fn servlets(&self, frame: &mut Frame<'_>, area: Rect) {
        let stats = &self.picture.stats;
        let all = stats.servlets.iter().map(|servlet| {
            let (queue, run) = (&servlet.times.queue_time, &servlet.times.run_time);
            let (sizes, text) = (&servlet.times.batch_size, value_text);
            let cells = vec![
                servlet.name.clone(),
                servlet.workers.to_string(),
                units::rate(stats.per_s(servlet.counters.snapshot.items)),
                servlet.depth.to_string(),
                percent(servlet.busy),
                format!("{:.1}", servlet.counters.batch_mean),
                sizes.percentile(99.0).to_string(),
                text(queue, queue.percentile(50.0) as f64),
                text(queue, queue.percentile(99.0) as f64),
                text(run, run.percentile(50.0) as f64),
                text(run, run.percentile(99.0) as f64),
            ];
            (cells, servlet.busy.is_some_and(|busy| busy > BUSY))
        });
        let headings = [
            "servlet", ">ready", ">items/s", ">queue", ">busy", ">batch", ">p99", ">queued", ">p99", ">run",
            ">p99",
        ];
        let mut rows: Vec<_> = all.collect();
        let room = usize::from(area.height.saturating_sub(2)); // the heading, and a free row
        if rows.len() > room {
            let left_out = rows.len() - (room - 1);
            rows.truncate(room - 1);
            rows.push((vec![format!("{left_out} more")], false));
        }
        let widths = [(0, 7), (5, 5), (8, 8), (6, 6), (5, 5), (5, 5), (4, 4), (7, 7), (7, 7), (7, 7), (7, 7)];
        self.table(frame, area, &headings, &widths, rows, None);
    }

    fn workers(&self, frame: &mut Frame<'_>, area: Rect) {
        let rows = self.state.workers().into_iter().map(|worker| {
            let seen = &worker.seen;
            let cells = vec![
                seen.name(),
                seen.state_text().to_string(),
                seen.state_s.map_or_else(|| "-".into(), |seconds| units::age(seconds as u64)),
                percent(worker.busy),
                units::rate(worker.items_per_s),
                worker.does(),
            ];
            (cells, worker.busy.is_some_and(|busy| busy > BUSY))
        });
        let headings = ["worker", "state", ">for", ">busy", ">items/s", "does now"];
        let widths = [(0, 14), (8, 8), (12, 12), (5, 5), (8, 8), (24, 24)];
        self.table(frame, area, &headings, &widths, rows.collect(), self.state.selected());
    }

    /// A table that is cut below; a heading that begins with `>` is of numbers, set flush right. Of each column, its width, or
    /// 0 for what is left, and at least the second number.
    fn table(
        &self,
        frame: &mut Frame<'_>,
        area: Rect,
        headings: &[&str],
        widths: &[(u16, u16)],
        rows: Vec<(Vec<String>, bool)>,
        selected: Option<usize>,
    ) {
        let cell = |(heading, text): (&&str, String)| {
            let line = Line::from(plain(&text));
            if heading.starts_with('>') { line.right_aligned() } else { line }
        };
        let row = |cells: Vec<String>| Row::new(headings.iter().zip(cells).map(cell).collect::<Vec<_>>());
        let title = headings.iter().map(|heading| heading.trim_start_matches('>').to_string()).collect();
        let rows = rows.into_iter().map(|(cells, stands_out)| {
            if stands_out { row(cells).style(self.ink(Color::Yellow)) } else { row(cells) }
        });
        let widths = widths.iter().map(|&(width, least)| match width {
            0 => Constraint::Min(least),
            width => Constraint::Length(width),
        });
        let table = Table::new(rows, widths)
            .header(row(title).style(bold().add_modifier(Modifier::UNDERLINED)))
            .column_spacing(1)
            .highlight_spacing(HighlightSpacing::WhenSelected)
            .highlight_symbol("> ");
        frame.render_stateful_widget(table, area, &mut TableState::default().with_selected(selected));
    }

    /// Lines of a name and a value.
    fn facts(facts: &[(&str, String)]) -> Vec<Line<'static>> {
        let line = |(name, value): &(&str, String)| Line::from(format!("{name:<9} {}", plain(value)));
        facts.iter().map(line).collect()
    }

    /// All of the selected worker.
    fn worker(&self, frame: &mut Frame<'_>, area: Rect) {
        let workers = self.state.workers();
        let Some(worker) = self.state.selected().and_then(|index| workers.get(index)) else {
            return frame.render_widget("There is no such worker.", area);
        };
        let seen = &worker.seen;
        let since = seen.state_s.map_or_else(|| "-".into(), |seconds| units::age(seconds as u64));
        let pid = if seen.pid == 0 { "-".into() } else { seen.pid.to_string() };
        let mut facts = vec![
            ("worker", format!("{}, a {}, pid {pid}", seen.name(), seen.role_text())),
            ("state", format!("{} for {since}, {} restarts", seen.state_text(), seen.restarts)),
            ("CPUs", units::cpus(&seen.cpus)),
            ("does now", worker.does()),
            ("busy", format!("{}, {} items/s", percent(worker.busy), units::rate(worker.items_per_s))),
        ];
        facts.extend(seen.last_exit.as_ref().map(|exit| ("before", exit.text())));
        facts.extend(seen.message.as_ref().map(|message| ("failed", message.clone())));
        let has = self.picture.requests.requests.iter().filter(|of| of.is_held_by(seen.participant));
        let (headings, rows) = request_rows(has, true);
        // What the worker has is the news; all counters are there on a tall screen.
        let held = (rows.len() as u16).min(area.height / 4) + 2;
        let [about, of_counters, of_requests] = Layout::vertical([
            Constraint::Length(facts.len() as u16 + 1),
            Constraint::Fill(1),
            Constraint::Length(held),
        ])
        .areas(area);
        frame.render_widget(Paragraph::new(Self::facts(&facts)), about); // what is too long is cut
        self.counters(frame, of_counters, worker);
        match rows.is_empty() {
            true => frame.render_widget("It has no request.", of_requests),
            false => self.request_table(frame, of_requests, &headings, rows),
        }
    }

    /// A worker's counters, in two columns if one is too short.
    fn counters(&self, frame: &mut Frame<'_>, area: Rect, worker: &Worker) {
        let row = |counter: Counter| {
            let words = counter.words();
            let (all, counted) = (worker.seen.counters.snapshot.get(counter), worker.counted.get(counter));
            // A smallest or largest batch is of no period.
            let rate = match words.merge {
                ringmill_shm::stats::Merge::Sum => units::rate(self.picture.stats.per_s(counted)),
                _ => "-".into(),
            };
            (vec![words.name.to_string(), units::number(all), rate], false)
        };
        let rows: Vec<_> = Counter::ALL.into_iter().map(row).collect();
        let each = rows.len().div_ceil(2);
        let (left, right) = rows.split_at(each);
        let headings = ["counter", ">since start", ">a second"];
        let widths = [(0, 12), (12, 12), (9, 9)];
        let [first, _, second] =
            Layout::horizontal([Constraint::Fill(1), Constraint::Length(2), Constraint::Fill(1)]).areas(area);
        self.table(frame, first, &headings, &widths, left.to_vec(), None);
        self.table(frame, second, &headings, &widths, right.to_vec(), None);
    }

    /// The requests in progress, the oldest first.
    fn requests(&self, frame: &mut Frame<'_>, area: Rect) {
        let [heading, of_requests] =
            Layout::vertical([Constraint::Length(1), Constraint::Fill(1)]).areas(area);
        let (all, from) = (&self.picture.requests.requests, self.state.scrolled());
        let text = match all.len() {
            0 => "No request is in progress.".to_string(),
            count => {
                format!("{}, the oldest first; from number {}", units::count(count, "request"), from + 1)
            }
        };
        frame.render_widget(Line::styled(text, bold()), heading);
        // Each request has a row at least, so the rest would not be seen.
        let (headings, rows) = request_rows(all.iter().skip(from).take(area.height.into()), true);
        if !rows.is_empty() {
            self.request_table(frame, of_requests, &headings, rows);
        }
    }

    /// Columns as wide as their texts, as far as the screen is.
    fn request_table(&self, frame: &mut Frame<'_>, area: Rect, headings: &[&str], rows: Vec<Vec<String>>) {
        let width = |column: usize| {
            let texts = rows.iter().filter_map(|row| row.get(column)).map(|text| text.chars().count());
            let heading = headings[column].trim_start_matches('>').chars().count();
            texts.chain([heading]).max().unwrap_or(0).min(area.width.into()) as u16
        };
        let widths: Vec<_> = (0..headings.len()).map(|column| (width(column).max(1), 1)).collect();
        let rows = rows.into_iter().map(|row| (row, false)).collect();
        self.table(frame, area, headings, &widths, rows, None);
    }

    fn help(&self, frame: &mut Frame<'_>, area: Rect) {
        frame.render_widget(Clear, area);
        frame.render_widget(Paragraph::new(HELP), area.inner(Margin::new(1, 1)));
    }
}

impl Worker {
    /// What it does at this moment.
    fn does(&self) -> String {
        let has = units::ranges(self.seen.in_hand.iter().map(|&id| id.into()), 3);
        let call = self.call_time.map(|time| match time.text() {
            None => "in call".to_string(),
            Some(time) => format!("in call {time}"),
        });
        match (call, has.is_empty()) {
            (Some(call), true) => call,
            (Some(call), false) => format!("{call}: {has}"),
            (None, _) if self.reads_for.is_some() => {
                let time = self.reads_for.and_then(|time| time.text()).map(|time| format!(" {time}"));
                let has = if has.is_empty() { String::new() } else { format!(": {has}") };
                format!("reading{}{has}", time.unwrap_or_default())
            }
            (None, false) => format!("has {has}"),
            (None, true) if self.is_asleep => "asleep".into(),
            (None, true) => "-".into(),
        }
    }
}

fn every(interval: Duration) -> String {
    humantime::format_duration(interval).to_string()
}
