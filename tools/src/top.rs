//! `shmtool top`: a server at work, on the whole screen.
//!
//! `picture` is what is read from a segment in one look, `state` what keys and looks make of it, `draw` how that becomes a
//! frame. None of them knows a terminal: only `terminal`, and the loop here.
//!
//! # Invariants
//!
//! * `[given back]`: however the command ends (a key, an error, a panic, a signal), the terminal is as it was before.
//! * A segment is read only in a look. What is drawn between two looks, as after a key, is of the last one.

pub(crate) mod args;
mod draw;
mod picture;
mod state;
mod terminal;

use crate::error::ToolError;
use crate::output::Verdict;
use crate::survey::Survey;
use picture::Watched;
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use state::{Key, State, Step};
use std::time::{Duration, Instant};
use terminal::{Event, Screen};

/// Shows a server until a key ends it; returns no text, and the status.
pub(crate) fn top(name: &str, interval: Duration, json: bool) -> Result<(String, Verdict), ToolError> {
    let (survey, segment) = Survey::open(name)?;
    terminal::usable(json)?;
    let mut watched = Watched::new(survey, segment);
    let mut state = State::new(watched.look()?, interval, terminal::has_colours());
    let mut screen = Screen::open()?;
    let mut looked = Instant::now();
    loop {
        screen.draw(|frame| draw::draw(&state, frame))?;
        let left = match state.looks() {
            true => Some(state.interval().saturating_sub(looked.elapsed())),
            false => None,
        };
        match screen.next(left)? {
            Some(Event::Key(key)) => {
                if state.press(key) == Step::End {
                    break;
                }
            }
            Some(Event::Resized) => {}
            Some(Event::Signal(signal)) => screen.die_by(signal),
            None => {
                looked = Instant::now();
                match state.is_paused() {
                    true => state.ended_meanwhile(!watched.is_served()),
                    false => state.saw(watched.look()?),
                }
            }
        }
    }
    Ok((String::new(), if state.has_ended() { Verdict::Wrong } else { Verdict::Fine }))
}

/// The screen of `shmtool top` without a terminal, colours and time: for tests.
#[derive(Debug)]
pub struct Top {
    watched: Watched,
    state: State,
}

impl Top {
    /// Looks at a segment for the first time, with an interval of 1 s.
    ///
    /// # Errors
    /// The message that the program would print.
    pub fn open(name: &str) -> Result<Self, String> {
        let opened = || {
            let (survey, segment) = Survey::open(name)?;
            let mut watched = Watched::new(survey, segment);
            let state = State::new(watched.look()?, Duration::from_secs(1), false);
            Ok(Self { watched, state })
        };
        opened().map_err(|error: ToolError| error.to_string())
    }

    /// Looks again, unless the screen is paused or the server has ended.
    ///
    /// # Errors
    /// The message that the program would print.
    pub fn look(&mut self) -> Result<(), String> {
        match (self.state.looks(), self.state.is_paused()) {
            (false, _) => {}
            (true, true) => self.state.ended_meanwhile(!self.watched.is_served()),
            (true, false) => self.state.saw(self.watched.look().map_err(|error| error.to_string())?),
        }
        Ok(())
    }

    /// Presses a key, by its character or its name: `q`, `up`, `down`, `enter`, `esc`, `ctrl-c`. Whether the command goes on;
    /// a key of no meaning only closes help.
    pub fn press(&mut self, key: &str) -> bool {
        self.state.press(Key::by_name(key)) == Step::On
    }

    /// The status that the program would exit with now.
    #[must_use]
    pub fn status(&self) -> u8 {
        if self.state.has_ended() { Verdict::Wrong as u8 } else { Verdict::Fine as u8 }
    }

    /// A screen of this size, line by line, without spaces at their ends.
    #[must_use]
    pub fn screen(&self, columns: u16, rows: u16) -> Vec<String> {
        let Ok(mut terminal) = Terminal::new(TestBackend::new(columns, rows));
        let Ok(frame) = terminal.draw(|frame| draw::draw(&self.state, frame));
        let cells = frame.buffer.content();
        let line =
            |cells: &[ratatui::buffer::Cell]| cells.iter().map(|cell| cell.symbol()).collect::<String>();
        cells.chunks(columns.into()).map(|cells| line(cells).trim_end().to_string()).collect()
    }
}
