//! A terminal that a program has changed, and gives back even if a bus error ends it.
#![expect(unsafe_code, reason = "tcgetattr and tcsetattr; what a signal handler may call")]

use std::io;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

/// What gives the terminal back: its settings, and what is written to it.
struct Undo {
    settings: libc::termios,
    text: &'static str,
}

/// Of the one terminal that a process has.
static UNDO: OnceLock<Undo> = OnceLock::new();
static CHANGED: AtomicBool = AtomicBool::new(false);

/// While it lives, a bus error gives the terminal back before it ends the process: see
/// [`end_on_bus_error`](super::process::end_on_bus_error).
#[derive(Debug)]
pub struct Changed(());

impl Changed {
    /// Notes the settings of the terminal that is standard input, before they are changed; `text` is what must be written
    /// to standard output to undo the rest. The first call of a process decides for all others.
    ///
    /// # Errors
    /// If standard input is no terminal.
    pub fn begin(text: &'static str) -> io::Result<Self> {
        let mut settings = std::mem::MaybeUninit::uninit();
        // SAFETY: tcgetattr fills it in if it returns 0.
        let settings = unsafe {
            match libc::tcgetattr(libc::STDIN_FILENO, settings.as_mut_ptr()) {
                0 => settings.assume_init(),
                _ => return Err(io::Error::last_os_error()),
            }
        };
        UNDO.get_or_init(|| Undo { settings, text });
        CHANGED.store(true, Ordering::SeqCst);
        Ok(Self(()))
    }
}

impl Drop for Changed {
    fn drop(&mut self) {
        CHANGED.store(false, Ordering::SeqCst);
    }
}

/// Gives the terminal back, if it is changed. For a signal handler.
pub(super) fn give_back() {
    let Some(undo) = UNDO.get().filter(|_| CHANGED.load(Ordering::SeqCst)) else { return };
    // SAFETY: both may be called in a signal handler; the text is static, and `get` of a value that was set before is a
    // load. A terminal that refuses has gone.
    unsafe {
        libc::write(libc::STDOUT_FILENO, undo.text.as_ptr().cast(), undo.text.len());
        libc::tcsetattr(libc::STDIN_FILENO, libc::TCSANOW, &raw const undo.settings);
    }
}
