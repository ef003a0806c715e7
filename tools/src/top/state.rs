//! What the screen shows, and what keys change of it: a state machine without a terminal.
//!
//! | View | Enter | Esc | r | up, down |
//! |---|---|---|---|---|
//! | all | the selected worker | - | requests | select a worker |
//! | worker | all | all | requests | the worker before, after |
//! | requests | all | all | all | scroll |
//!
//! While help is shown, each key that does not end the command only closes it.

use super::picture::{Picture, Worker};
use crate::survey::Liveness;
use std::cmp::Ordering;
use std::collections::VecDeque;
use std::time::Duration;

/// A key with a meaning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Key {
    Quit,
    Pause,
    Sort,
    Longer,
    Shorter,
    Up,
    Down,
    Enter,
    Back,
    Requests,
    Help,
    /// Any other key: it closes help, as each does.
    Other,
}

impl Key {
    /// The key of this character or name.
    pub(super) fn by_name(name: &str) -> Self {
        match name {
            "q" | "ctrl-c" => Self::Quit,
            "p" | " " => Self::Pause,
            "s" => Self::Sort,
            "+" | "=" => Self::Longer, // of one key on many keyboards
            "-" => Self::Shorter,
            "up" | "k" => Self::Up,
            "down" | "j" => Self::Down,
            "enter" => Self::Enter,
            "esc" => Self::Back,
            "r" => Self::Requests,
            "?" => Self::Help,
            _ => Self::Other,
        }
    }
}

/// Whether a key ends the command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    On,
    End,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum View {
    All,
    Worker,
    Requests,
}

/// The order of workers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sort {
    /// By servlet and number, as in the plan.
    Name,
    /// The busiest first.
    Busy,
    /// Those with the most items a second first.
    Items,
}

impl Sort {
    pub(super) fn text(self) -> &'static str {
        match self {
            Self::Name => "name",
            Self::Busy => "busy",
            Self::Items => "items/s",
        }
    }

    fn next(self) -> Self {
        match self {
            Self::Name => Self::Busy,
            Self::Busy => Self::Items,
            Self::Items => Self::Name,
        }
    }

    fn compare(self, a: &Worker, b: &Worker) -> Ordering {
        match self {
            Self::Name => Ordering::Equal, // a picture has them by name
            Self::Busy => b.busy.unwrap_or(-1.0).total_cmp(&a.busy.unwrap_or(-1.0)),
            Self::Items => b.items_per_s.total_cmp(&a.items_per_s),
        }
    }
}

/// The intervals between which + and - choose; an interval of the command line stands between its neighbours.
const INTERVALS_MS: [u64; 9] = [100, 200, 500, 1_000, 2_000, 5_000, 10_000, 30_000, 60_000];

#[derive(Debug)]
pub(super) struct State {
    picture: Picture,
    history: History,
    view: View,
    shows_help: bool,
    sort: Sort,
    /// The row of the selected worker: it stays selected when the order changes.
    selected: u32,
    /// The first request that is shown.
    scrolled: usize,
    interval: Duration,
    is_paused: bool,
    has_ended: bool,
    has_colours: bool,
}

impl State {
    pub(super) fn new(picture: Picture, interval: Duration, has_colours: bool) -> Self {
        let selected = picture.workers.first().map_or(0, |worker| worker.seen.participant);
        let mut state = Self {
            has_ended: picture.stats.state == Liveness::Stale,
            picture,
            history: History::default(),
            view: View::All,
            shows_help: false,
            sort: Sort::Name,
            selected,
            scrolled: 0,
            interval,
            is_paused: false,
            has_colours,
        };
        state.keep_in_range();
        state
    }

    /// A new picture.
    pub(super) fn saw(&mut self, picture: Picture) {
        let stats = &picture.stats;
        self.history.add(stats.period_s, stats.requests.ended);
        self.has_ended = stats.state == Liveness::Stale;
        self.picture = picture;
        self.keep_in_range();
    }

    /// Whether the server has ended while the screen was paused: the last picture stays.
    pub(super) fn ended_meanwhile(&mut self, has_ended: bool) {
        self.has_ended |= has_ended;
    }

    pub(super) fn press(&mut self, key: Key) -> Step {
        if key == Key::Quit {
            return Step::End;
        }
        if std::mem::take(&mut self.shows_help) {
            return Step::On;
        }
        match key {
            Key::Quit | Key::Other => {}
            Key::Help => self.shows_help = true,
            Key::Pause => self.is_paused = !self.is_paused,
            Key::Sort => self.sort = self.sort.next(),
            Key::Longer => self.interval = longer(self.interval),
            Key::Shorter => self.interval = shorter(self.interval),
            Key::Up => self.go(-1),
            Key::Down => self.go(1),
            Key::Enter if self.view == View::All && !self.picture.workers.is_empty() => {
                self.view = View::Worker
            }
            Key::Enter | Key::Back => self.view = View::All,
            Key::Requests => {
                self.view = if self.view == View::Requests { View::All } else { View::Requests };
                self.scrolled = 0;
            }
        }
        Step::On
    }

    fn go(&mut self, by: isize) {
        if self.view == View::Requests {
            self.scrolled = self.scrolled.saturating_add_signed(by);
            return self.keep_in_range();
        }
        let rows: Vec<u32> = self.workers().iter().map(|worker| worker.seen.participant).collect();
        let at = rows.iter().position(|&row| row == self.selected).unwrap_or(0);
        let to = at.saturating_add_signed(by).min(rows.len().saturating_sub(1));
        self.selected = rows.get(to).copied().unwrap_or(self.selected);
    }

    fn keep_in_range(&mut self) {
        self.scrolled = self.scrolled.min(self.picture.requests.requests.len().saturating_sub(1));
    }

    /// Whether there is something to look for: a server that has ended does nothing any more.
    pub(super) fn looks(&self) -> bool {
        !self.has_ended
    }

    pub(super) fn picture(&self) -> &Picture {
        &self.picture
    }

    pub(super) fn history(&self) -> &History {
        &self.history
    }

    pub(super) fn view(&self) -> View {
        self.view
    }

    pub(super) fn shows_help(&self) -> bool {
        self.shows_help
    }

    pub(super) fn sort(&self) -> Sort {
        self.sort
    }

    pub(super) fn interval(&self) -> Duration {
        self.interval
    }

    pub(super) fn is_paused(&self) -> bool {
        self.is_paused
    }

    pub(super) fn has_ended(&self) -> bool {
        self.has_ended
    }

    pub(super) fn has_colours(&self) -> bool {
        self.has_colours
    }

    pub(super) fn scrolled(&self) -> usize {
        self.scrolled
    }

    /// The workers in the chosen order; of equals, by name.
    pub(super) fn workers(&self) -> Vec<&Worker> {
        let mut all: Vec<_> = self.picture.workers.iter().collect();
        all.sort_by(|a, b| self.sort.compare(a, b));
        all
    }

    /// Which of the workers in their order is selected.
    pub(super) fn selected(&self) -> Option<usize> {
        self.workers().iter().position(|worker| worker.seen.participant == self.selected)
    }
}

fn longer(than: Duration) -> Duration {
    let all = INTERVALS_MS.map(Duration::from_millis);
    all.into_iter().find(|&interval| interval > than).unwrap_or(than)
}

fn shorter(than: Duration) -> Duration {
    let all = INTERVALS_MS.map(Duration::from_millis);
    all.into_iter().rev().find(|&interval| interval < than).unwrap_or(than)
}

/// How many requests ended in each of the last periods.
#[derive(Debug, Default)]
pub(super) struct History {
    /// Each period in seconds, and the requests that ended in it; the latest last.
    periods: VecDeque<(f64, u64)>,
    /// How many periods have been forgotten: columns of several periods keep their bounds.
    forgotten: usize,
}

impl History {
    /// What is remembered: with looks every second, five minutes.
    const MOST: usize = 300;

    fn add(&mut self, period_s: f64, ended: u64) {
        if self.periods.len() == Self::MOST {
            self.periods.pop_front();
            self.forgotten += 1;
        }
        self.periods.push_back((period_s, ended));
    }

    /// The seconds that are remembered.
    pub(super) fn seconds(&self) -> f64 {
        self.periods.iter().map(|(period_s, _)| period_s).sum()
    }

    /// Requests a second in at most so many columns of as many periods each, the latest last.
    pub(super) fn columns(&self, most: usize) -> Vec<u64> {
        let each = self.periods.len().div_ceil(most.max(1)).max(1);
        let mut columns: Vec<(usize, f64, u64)> = Vec::new();
        for (number, &(period_s, ended)) in (self.forgotten..).zip(&self.periods) {
            match columns.last_mut() {
                Some(last) if last.0 == number / each => {
                    last.1 += period_s;
                    last.2 = last.2.saturating_add(ended);
                }
                _ => columns.push((number / each, period_s, ended)),
            }
        }
        let cut = columns.len().saturating_sub(most);
        let rate = |&(_, period_s, ended): &(usize, f64, u64)| match period_s > 0.0 {
            true => (ended as f64 / period_s).round() as u64,
            false => 0,
        };
        columns[cut..].iter().map(rate).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_go_to_the_next_step_and_stop_at_the_last() {
        let ms = Duration::from_millis;
        assert_eq!([longer(ms(1_000)), longer(ms(700)), longer(ms(60_000))], [2_000, 1_000, 60_000].map(ms));
        assert_eq!([shorter(ms(1_000)), shorter(ms(700)), shorter(ms(50))], [500, 500, 50].map(ms));
    }

    #[test]
    fn a_history_of_more_periods_than_columns_has_means() {
        let mut history = History::default();
        for ended in [2, 4, 10, 20, 7] {
            history.add(2.0, ended);
        }
        assert_eq!(history.seconds(), 10.0);
        assert_eq!(history.columns(8), [1, 2, 5, 10, 4], "3.5 is rounded");
        assert_eq!(history.columns(3), [2, 8, 4], "1.5 and 7.5 are rounded");
    }

    #[test]
    fn a_full_history_forgets_its_oldest_and_keeps_the_bounds_of_columns() {
        let mut history = History::default();
        for number in 0..History::MOST as u64 {
            history.add(1.0, number / 2);
        }
        let before = history.columns(150);
        assert_eq!((before.len(), before[0], before[149]), (150, 0, 149));
        history.add(1.0, 150);
        history.add(1.0, 150);
        let after = history.columns(150);
        assert_eq!(after[..149], before[1..], "each column has gone one to the left");
        assert_eq!(after[149], 150);
    }
}
