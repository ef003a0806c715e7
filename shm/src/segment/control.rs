//! The control page of a segment, for its server, and for a process that asks: see [`control`](crate::control).
#![expect(unsafe_code, reason = "the view of one mapped page")]

use super::Segment;
use crate::control::{Command, Page, Phase, QUESTION_BYTES, SLOTS, Slot, Turn, Verdict};
use crate::sync::Ordering;
use crate::sys::file::{reopen, try_lock_byte, unlock_byte};
use crate::sys::futex;
use crate::sys::unshared::Unshared;
use memmap2::{MmapOptions, MmapRaw};
use std::io;
use std::time::{Duration, Instant};

/// The byte of the lease by which an asker holds the first slot; the others' are below it. The server's are 0 and
/// `u32::MAX`, tokens have 31 bits.
const FIRST_BYTE: u32 = u32::MAX - 1;
/// How often an asker that waits looks whether the server lives: no event tells it.
const LOOK: Duration = Duration::from_millis(500);
const LOOK_AT_THE_LEASE: &str = "look at the lease";

/// A process that can ask a server to do something. It may write into one page of the segment, and no other.
#[derive(Debug)]
pub struct Asker<'s> {
    segment: &'s Segment,
    page: MmapRaw,
    /// A description of the lease by which it holds a slot.
    lease: Unshared,
}

/// Why a server was not asked, or has not answered.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AskError {
    /// The server works for other processes in every slot.
    #[error("the server is at {SLOTS} commands already: wait until one is done")]
    Busy,
    /// The command does not fit.
    #[error("the command has {bytes} bytes, and may have {most}: give shorter names")]
    TooLong {
        /// How many it has.
        bytes: usize,
        /// How many it may have.
        most: usize,
    },
    /// The server has not read its control page. The command was withdrawn, and will not be done.
    #[error(
        "the server has not read the command within {patience:?}: it is stopped, or hangs; the command was withdrawn, and will not be done"
    )]
    Unserved {
        /// How long the asker has waited.
        patience: Duration,
    },
    /// The server is gone.
    #[error("the server is gone{}", if *was_read { "; it had read the command, and has done it, in part or not" } else { "; the command was not done" })]
    ServerGone {
        /// Whether it had read the command.
        was_read: bool,
    },
    /// The server has read the command, and is at it.
    #[error("the server has read the command, is still at it after {limit:?}, and goes on")]
    Unanswered {
        /// How long the asker was to wait.
        limit: Duration,
    },
    /// Another process has written over the command.
    #[error("another process has written over the command: nothing is known of it")]
    Overwritten,
    /// The operating system refused.
    #[error("cannot {what}: {error}{}", if *was_read { "; the server has read the command, and may do it" } else { "; the command was not done" })]
    System {
        /// What was refused.
        what: &'static str,
        /// What the system said.
        error: io::Error,
        /// Whether the server had read the command.
        was_read: bool,
    },
}

impl AskError {
    /// Whether the server may have done what it was asked, in part or not, or may do it yet. If not, it has not and will
    /// not.
    #[must_use]
    pub fn may_be_done(&self) -> bool {
        match self {
            Self::Busy | Self::TooLong { .. } | Self::Unserved { .. } => false,
            Self::Unanswered { .. } | Self::Overwritten => true,
            Self::ServerGone { was_read } | Self::System { was_read, .. } => *was_read,
        }
    }

    fn system(what: &'static str) -> impl Fn(io::Error) -> Self {
        move |error| Self::System { what, error, was_read: false }
    }
}

impl Segment {
    /// The control page. Only the server writes through this; to ask there is [`asker`](Self::asker).
    #[must_use]
    pub fn control(&self) -> &Page {
        self.at(self.layout.control, 0)
    }

    /// What this process asks the segment's server by: maps the control page to be written to.
    ///
    /// # Errors
    /// [`AskError::System`], where this process may not write to the segment's file.
    pub fn asker(&self) -> Result<Asker<'_>, AskError> {
        let system = AskError::system;
        let file =
            reopen(&self.file, &self.location.path()).map_err(system("open the segment to write to it"))?;
        let mut options = MmapOptions::new();
        options.offset(self.layout.control as u64).len(size_of::<Page>());
        let page = options.map_raw(&file).map_err(system("map the control page"))?;
        let lease = self.lease.reopen().map_err(system("open the lease"))?;
        Ok(Asker { segment: self, page, lease })
    }
}

/// A slot that this process has locked.
struct Held<'a> {
    slot: &'a Slot,
    byte: u32,
    lease: &'a Unshared,
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        unlock_byte(self.lease, self.byte);
    }
}

impl Asker<'_> {
    fn page(&self) -> &Page {
        // SAFETY: the mapping has the length of a page, begins at a multiple of its alignment, and lives as long as
        // `self`; the page is atomics, of which any bytes are a value.
        unsafe { &*self.page.as_ptr().cast::<Page>() }
    }

    /// Asks the server to do something and waits for its answer. Waits up to `patience` until the server has read the
    /// command, and withdraws it then; after that up to `limit` until it is done.
    ///
    /// # Errors
    /// See [`AskError`].
    pub fn ask(
        &mut self,
        command: &Command,
        patience: Duration,
        limit: Duration,
    ) -> Result<Verdict, AskError> {
        let question = command.to_bytes();
        if question.len() > QUESTION_BYTES {
            return Err(AskError::TooLong { bytes: question.len(), most: QUESTION_BYTES });
        }
        if self.is_gone().map_err(AskError::system(LOOK_AT_THE_LEASE))? {
            return Err(AskError::ServerGone { was_read: false });
        }
        let (held, turn) = self.begin()?;
        held.slot.ask(turn, std::process::id(), &question);
        self.page().asked().ring();
        let begun = Instant::now();
        let answer = self.await_answer(held.slot, turn, begun, patience, limit)?;
        Ok(Verdict::parse(&answer))
    }

    /// Takes a slot that no other asker has, and that the server is not at.
    fn begin(&self) -> Result<(Held<'_>, Turn), AskError> {
        for (number, slot) in (0..).zip(self.page().slots()) {
            let byte = FIRST_BYTE - number;
            match try_lock_byte(&self.lease, byte) {
                Ok(()) => {}
                Err(error) if error.raw_os_error() == Some(libc::EAGAIN) => continue,
                Err(error) => return Err(AskError::system("lock a slot of the control page")(error)),
            }
            let held = Held { slot, byte, lease: &self.lease };
            if let Some(turn) = slot.begin() {
                return Ok((held, turn));
            }
        }
        Err(AskError::Busy)
    }

    fn await_answer(
        &self,
        slot: &Slot,
        turn: Turn,
        begun: Instant,
        patience: Duration,
        limit: Duration,
    ) -> Result<Vec<u8>, AskError> {
        loop {
            let count = slot.bell().load(Ordering::Acquire);
            let waited = begun.elapsed();
            let was_read = match slot.phase(turn) {
                Some(Phase::Answered) => return slot.take_answer(turn).ok_or(AskError::Overwritten),
                Some(Phase::Asked) => false,
                Some(Phase::Taken) => true,
                _ => return Err(AskError::Overwritten),
            };
            let gone = self.is_gone();
            if slot.phase(turn) == Some(Phase::Answered) {
                continue;
            }
            // What is withdrawn will not be read: [taken once].
            let was_read_meanwhile = || !slot.withdraw(turn);
            match gone {
                Ok(false) => {}
                Ok(true) => return Err(AskError::ServerGone { was_read: was_read_meanwhile() }),
                Err(error) => {
                    let was_read = was_read_meanwhile();
                    return Err(AskError::System { what: LOOK_AT_THE_LEASE, error, was_read });
                }
            }
            let most = if was_read { limit } else { patience };
            match waited >= most {
                true if was_read => return Err(AskError::Unanswered { limit }),
                true if !was_read_meanwhile() => return Err(AskError::Unserved { patience }),
                true => {} // it has just been read
                false => {
                    futex::wait(slot.bell(), count, Some((most - waited).min(LOOK)));
                }
            }
        }
    }

    fn is_gone(&self) -> io::Result<bool> {
        self.segment.lease.is_served().map(|served| !served)
    }
}
