//! A pair of links to a partner in a process of its own: the part that all rivals share that support one.

use std::convert::Infallible;
use std::fmt::Debug;
use std::hint;
use std::io;

use crate::Error;
use crate::contestant::Contestant;
use crate::open_loop::{self, Answers, OpenLoop, drive};
use crate::payload::Payload;
use crate::process::Process;

/// One side: where its payloads leave, and where the other side's come in.
pub trait Link<const WORDS: usize>: Debug {
    /// Whether [`receive`](Self::receive) waits for the next payload. Otherwise both sides poll for it, and the partner has to be
    /// stopped while another contestant is measured.
    const WAITS: bool = false;

    /// Sends what `payload` makes; `false` while there is no room. May hold it back for a short while, but at most
    /// until [`receive`](Self::receive) has nothing more to show.
    ///
    /// # Errors
    ///
    /// What the transport reports.
    fn send(&mut self, payload: impl FnOnce() -> Payload<WORDS>) -> io::Result<bool>;

    /// Shows `read` the oldest payload that has come in, if there is one.
    ///
    /// # Errors
    ///
    /// What the transport reports; that the other side is gone, where it knows.
    fn receive<R>(&mut self, read: impl FnOnce(&Payload<WORDS>) -> R) -> io::Result<Option<R>>;
}

/// Answers what comes in, as long as this process lives.
///
/// # Errors
///
/// Those of the link.
pub fn serve<const WORDS: usize>(link: &mut impl Link<WORDS>) -> io::Result<Infallible> {
    loop {
        let Some(answer) = link.receive(Payload::answer)? else {
            hint::spin_loop();
            continue;
        };
        while !link.send(|| answer)? {
            hint::spin_loop();
        }
    }
}

/// The client's side of a link, and the process that answers at the other.
#[derive(Debug)]
pub struct Processes<L, const WORDS: usize> {
    who: &'static str,
    link: L,
    process: Process,
    room: u32,
}

impl<L: Link<WORDS>, const WORDS: usize> Processes<L, WORDS> {
    /// `process` answers at the far end of `link`; no more than `room` items are ever in progress.
    ///
    /// A partner that polls is stopped until it is [resumed](Contestant::resume).
    pub fn new(who: &'static str, link: L, process: Process, room: u32) -> Self {
        if !L::WAITS {
            process.pause();
        }
        Self { who, link, process, room }
    }

    fn check(&self, right: bool, item: u64) -> Result<(), Error> {
        if right { Ok(()) } else { Err(Error::WrongAnswer { who: self.who, item }) }
    }
}

impl<L: Link<WORDS>, const WORDS: usize> Contestant for Processes<L, WORDS> {
    fn name(&self) -> &'static str {
        self.who
    }

    fn window(&self, wanted: u32) -> u32 {
        wanted.min(self.room)
    }

    fn resume(&mut self) {
        if !L::WAITS {
            self.process.resume();
        }
    }

    fn pause(&mut self) {
        if !L::WAITS {
            self.process.pause();
        }
    }

    fn call(&mut self, items: u64) -> Result<(), Error> {
        self.stream(items, 1)
    }

    fn stream(&mut self, items: u64, window: u32) -> Result<(), Error> {
        let window = u64::from(self.window(window));
        // A client that takes all answers of a window before it asks again leaves the partner idle.
        let refill_at = if L::WAITS { window / 2 } else { 0 };
        let (mut sent, mut checked) = (0, 0);
        while checked < items {
            let before = (sent, checked);
            let unsent = items.min(checked + window);
            while sent < unsent
                && self.link.send(|| Payload::question(sent)).map_err(|error| self.process.failed(error))?
            {
                sent += 1;
            }
            while checked < sent {
                let answer = self.link.receive(|answer| answer.answers(checked));
                let Some(right) = answer.map_err(|error| self.process.failed(error))? else { break };
                self.check(right, checked)?;
                checked += 1;
                if sent - checked == refill_at {
                    break;
                }
            }
            if before == (sent, checked) {
                self.process.spin()?;
            }
        }
        Ok(())
    }
}

/// For links that are polled.
impl<L: Link<WORDS>, const WORDS: usize> OpenLoop for Processes<L, WORDS> {
    fn name(&self) -> &'static str {
        self.who
    }

    fn resume(&mut self) {
        Contestant::resume(self);
    }

    fn pause(&mut self) {
        Contestant::pause(self);
    }

    fn offer(&mut self, due_ns: &[u64]) -> Result<Answers, Error> {
        const { assert!(!L::WAITS, "one thread cannot wait for an answer and send what is due") };
        drive(&mut InOrder { processes: self, sent: 0, received: 0 }, due_ns)
    }
}

/// Answers come in the order of their requests.
struct InOrder<'p, L, const WORDS: usize> {
    processes: &'p mut Processes<L, WORDS>,
    sent: u64,
    received: u64,
}

impl<L: Link<WORDS>, const WORDS: usize> open_loop::Link for InOrder<'_, L, WORDS> {
    #[inline]
    fn try_send(&mut self, item: u64) -> Result<bool, Error> {
        let Processes { link, process, room, .. } = self.processes;
        if self.sent - self.received == u64::from(*room) {
            return Ok(false);
        }
        let is_sent = link.send(|| Payload::question(item)).map_err(|error| process.failed(error))?;
        self.sent += u64::from(is_sent);
        Ok(is_sent)
    }

    #[inline]
    fn try_receive(&mut self) -> Result<Option<u64>, Error> {
        let item = self.received;
        let Processes { link, process, .. } = self.processes;
        match link.receive(|answer| answer.answers(item)).map_err(|error| process.failed(error))? {
            Some(right) => {
                self.processes.check(right, item)?;
                self.received += 1;
                Ok(Some(item))
            }
            None => process.spin().map(|()| None),
        }
    }
}
