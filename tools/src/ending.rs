//! What ends a command that goes on until something ends it.

use crate::error::ToolError;
use serde::Serialize;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals as Caught;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::Duration;

/// Why it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Ending {
    /// Its time was over.
    Time,
    /// SIGINT or SIGTERM.
    Signal,
    /// The server has ended.
    Server,
}

/// From now on SIGINT and SIGTERM, which no longer end the process by themselves, send this.
pub(crate) fn forward_signals<T: Copy + Send + 'static>(to: Sender<T>, event: T) -> Result<(), ToolError> {
    let mut caught = Caught::new([SIGINT, SIGTERM]).map_err(ToolError::Signals)?;
    thread::spawn(move || caught.forever().try_for_each(|_| to.send(event)));
    Ok(())
}

/// SIGINT and SIGTERM, which no longer end the process by themselves.
pub(crate) struct Signals {
    came: Receiver<()>,
    /// So that the channel lives as long as its receiver.
    _sender: Sender<()>,
}

impl Signals {
    pub(crate) fn catch() -> Result<Self, ToolError> {
        let (sender, came) = channel();
        forward_signals(sender.clone(), ())?;
        Ok(Self { came, _sender: sender })
    }

    /// Sleeps for so long, or until a signal comes: then, true.
    pub(crate) fn wait(&self, limit: Duration) -> bool {
        self.came.recv_timeout(limit).is_ok()
    }
}
