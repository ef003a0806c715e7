//! The terminal: whether it will do, what comes from it, and how it is given back.

use super::state::Key;
use crate::error::ToolError;
use ratatui::crossterm::event::{self, Event as Input, KeyCode, KeyEventKind, KeyModifiers};
use ratatui::{DefaultTerminal, Frame};
use ringmill_shm::sys::process::die_by_signal;
use ringmill_shm::sys::terminal::Changed;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use std::env;
use std::io::{self, IsTerminal};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::Duration;

/// What ends a wait.
#[derive(Debug)]
pub(super) enum Event {
    Key(Key),
    Resized,
    Signal(i32),
}

/// Why there is no screen.
///
/// # Errors
/// If standard input or output is no terminal, if the terminal has no screen, or if JSON is wanted.
pub(super) fn usable(json: bool) -> Result<(), ToolError> {
    let why = match env::var("TERM") {
        _ if json => "it has no JSON".into(),
        _ if !io::stdin().is_terminal() => "standard input is no terminal".into(),
        _ if !io::stdout().is_terminal() => "standard output is no terminal".into(),
        Ok(term) if !["", "dumb"].contains(&&*term) => return Ok(()),
        Ok(term) => format!("TERM is {term:?}"),
        Err(_) => "TERM is not set".into(),
    };
    Err(ToolError::NoScreen(why))
}

/// Whether colours are wanted, by the convention of <https://no-color.org>.
pub(super) fn has_colours() -> bool {
    env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// What undoes what is written to a terminal to make it ours: the main screen, and a cursor.
const UNDO: &str = "\x1b[?1049l\x1b[?25h";

/// The screen while it is ours. Dropping it gives the terminal back (`[given back]`); a panic does so before its message.
pub(super) struct Screen {
    terminal: DefaultTerminal,
    /// A bus error, as of a segment's file that is made shorter within a look, drops nothing.
    _changed: Changed,
    events: Receiver<io::Result<Event>>,
}

impl Screen {
    pub(super) fn open() -> Result<Self, ToolError> {
        let (sender, events) = channel();
        // Signals first: none may come to a screen that nobody would give back.
        let mut signals = Signals::new([SIGHUP, SIGINT, SIGTERM]).map_err(ToolError::Terminal)?;
        let to = sender.clone();
        thread::spawn(move || signals.forever().try_for_each(|signal| to.send(Ok(Event::Signal(signal)))));
        let changed = Changed::begin(UNDO).map_err(ToolError::Terminal)?;
        let screen = match ratatui::try_init() {
            Ok(terminal) => Self { terminal, _changed: changed, events },
            Err(error) => {
                ratatui::restore(); // half of it may be done
                return Err(ToolError::Terminal(error));
            }
        };
        thread::spawn(move || read(&sender));
        Ok(screen)
    }

    pub(super) fn draw(&mut self, draw: impl FnOnce(&mut Frame<'_>)) -> Result<(), ToolError> {
        self.terminal.draw(draw).map(|_| ()).map_err(ToolError::Terminal)
    }

    /// Sleeps until something comes, or a time is over: then, nothing.
    pub(super) fn next(&self, limit: Option<Duration>) -> Result<Option<Event>, ToolError> {
        let came = match limit {
            Some(limit) => self.events.recv_timeout(limit),
            None => self.events.recv().map_err(|_| RecvTimeoutError::Disconnected),
        };
        match came {
            Ok(event) => event.map(Some).map_err(ToolError::Terminal),
            Err(RecvTimeoutError::Timeout) => Ok(None),
            Err(RecvTimeoutError::Disconnected) => {
                Err(ToolError::Terminal(io::ErrorKind::UnexpectedEof.into())) // both threads have gone
            }
        }
    }

    /// Gives the terminal back, and ends as the signal would have ended us.
    pub(super) fn die_by(self, signal: i32) -> ! {
        drop(self);
        die_by_signal(signal)
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        // Of a panic, the hook has done it: done twice, it would put the cursor before the message.
        if !thread::panicking() {
            ratatui::restore();
        }
    }
}

/// Hands on what comes from the terminal, until that fails or nobody listens.
fn read(to: &Sender<io::Result<Event>>) {
    loop {
        let event = match event::read() {
            Ok(Input::Key(key)) if key.kind != KeyEventKind::Release => {
                Some(Event::Key(meaning(key.code, key.modifiers)))
            }
            Ok(Input::Resize(..)) => Some(Event::Resized),
            Ok(_) => None,
            Err(error) => {
                let _ = to.send(Err(error)); // without a listener there is none to tell
                return;
            }
        };
        if event.is_some_and(|event| to.send(Ok(event)).is_err()) {
            return;
        }
    }
}

fn meaning(code: KeyCode, with: KeyModifiers) -> Key {
    let is_control = with.contains(KeyModifiers::CONTROL);
    match code {
        KeyCode::Char('c') if is_control => Key::by_name("ctrl-c"),
        KeyCode::Char(_) if is_control => Key::Other,
        KeyCode::Char(c) => Key::by_name(c.encode_utf8(&mut [0; 4])),
        KeyCode::Up => Key::by_name("up"),
        KeyCode::Down => Key::by_name("down"),
        KeyCode::Enter => Key::by_name("enter"),
        KeyCode::Esc | KeyCode::Backspace => Key::by_name("esc"),
        _ => Key::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_c_ends_and_other_control_characters_do_nothing() {
        let control = KeyModifiers::CONTROL;
        assert_eq!(meaning(KeyCode::Char('c'), control), Key::Quit);
        assert_eq!(meaning(KeyCode::Char('q'), control), Key::Other);
        assert_eq!(meaning(KeyCode::Char('q'), KeyModifiers::NONE), Key::Quit);
        assert_eq!(meaning(KeyCode::Char('c'), KeyModifiers::NONE), Key::Other);
        assert_eq!(meaning(KeyCode::Char('+'), KeyModifiers::SHIFT), Key::Longer);
        assert_eq!(meaning(KeyCode::Backspace, KeyModifiers::NONE), Key::Back);
    }
}
