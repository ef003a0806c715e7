//! In the service: the thread that reads its workers' events and emits them again.
//!
//! # Protocol
//!
//! The supervisor adds a source for each process that it starts. The thread reads all of them, some messages at a time
//! each, and drops a source whose line is over, when the process has ended and its last event was read. When the last
//! worker has gone, the supervisor ends the thread: it reads what is left. If a listener of the log holds it up for
//! longer than [`LAST_EVENTS`], the supervisor goes on without it.

use super::TARGET;
use super::message::Message;
use crate::host::supervisor::Shared;
use crate::panics::say;
use ringmill_shm::stats::Counter;
use ringmill_shm::sys::process::{EventFd, wait_readable};
use ringmill_shm::sys::tether::{Received, Tether};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tracing::Level;

/// How many events of a source are read before those of the next one.
const TURN: usize = 64;
/// How often to look at sources without an event: where the system refuses to wait for them.
const LOOK: Duration = Duration::from_secs(1);
/// How long a server that ends waits for the last events to be emitted.
const LAST_EVENTS: Duration = Duration::from_secs(2);

/// A process that sends events.
#[derive(Debug)]
pub(in crate::host) struct Source {
    pub(in crate::host) line: Tether,
    /// The worker's name.
    pub(in crate::host) worker: String,
    pub(in crate::host) pid: u32,
    /// The row where the process counts events that it has to drop.
    pub(in crate::host) row: u32,
    /// That count, as far as the log has told of it.
    pub(in crate::host) dropped: u64,
}

/// What the supervisor and the thread share.
#[derive(Debug)]
struct Inbox {
    new: Mutex<Vec<Source>>,
    bell: EventFd,
    is_ending: AtomicBool,
}

/// The supervisor's handle of the thread.
#[derive(Debug)]
pub(in crate::host) struct Relay {
    inbox: Arc<Inbox>,
    /// Closed when the thread ends.
    over: Receiver<()>,
}

impl Relay {
    /// Starts the thread.
    ///
    /// # Errors
    /// If the system has no descriptor or thread for it.
    pub(in crate::host) fn start(shared: Arc<Shared>) -> std::io::Result<Self> {
        let inbox = Inbox { new: Mutex::default(), bell: EventFd::new()?, is_ending: AtomicBool::new(false) };
        let inbox = Arc::new(inbox);
        let (tell_over, over) = channel();
        let relay = Self { inbox: Arc::clone(&inbox), over };
        let body = move || {
            let _tell_over = tell_over; // dropped last
            shared.enter();
            let _ = shared.placement.keep_off(); // if it is refused, it runs where the server was started
            run(&shared, &inbox);
        };
        std::thread::Builder::new().name("ringmill-events".into()).spawn(body)?;
        Ok(relay)
    }

    /// From now on the events of this process are emitted.
    pub(in crate::host) fn add(&self, source: Source) {
        self.inbox.new.lock().unwrap_or_else(PoisonError::into_inner).push(source);
        self.inbox.bell.signal();
    }

    /// After all workers have gone: waits until their last events have been emitted.
    pub(in crate::host) fn end(self) {
        self.inbox.is_ending.store(true, Ordering::SeqCst);
        self.inbox.bell.signal();
        if self.over.recv_timeout(LAST_EVENTS) == Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
            say(|| {
                tracing::warn!(
                    "not all events of the workers were emitted: a listener of the log holds up the thread that emits them"
                );
            });
        }
    }
}

fn run(shared: &Shared, inbox: &Inbox) {
    let mut sources: Vec<Source> = Vec::new();
    loop {
        let is_ending = inbox.is_ending.load(Ordering::SeqCst); // before the last look at the sources
        sources.append(&mut inbox.new.lock().unwrap_or_else(PoisonError::into_inner));
        let mut has_more = false;
        sources.retain_mut(|source| {
            let turn = take_turn(source);
            let dropped = dropped(shared, source.row);
            let since = dropped.saturating_sub(std::mem::replace(&mut source.dropped, dropped));
            if since > 0 {
                tell_of_dropped(source, since);
            }
            has_more |= turn == Turn::Unfinished;
            turn != Turn::Over
        });
        if has_more {
            continue;
        }
        if is_ending {
            return;
        }
        let fds = [inbox.bell.as_raw_fd()].into_iter();
        let fds: Vec<i32> = fds.chain(sources.iter().map(|source| source.line.as_raw_fd())).collect();
        if wait_readable(&fds, Some(LOOK))[0] {
            inbox.bell.clear();
        }
    }
}

/// How many events the processes of a row have dropped so far.
fn dropped(shared: &Shared, row: u32) -> u64 {
    let entry = shared.segment.participants().get(row as usize);
    entry.map_or(0, |entry| entry.counters().snapshot().get(Counter::EventsDropped))
}

/// How a source's turn ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Turn {
    /// It has sent nothing more so far.
    Done,
    /// It may have sent more.
    Unfinished,
    /// Its process has ended, and all that it sent was read.
    Over,
}

fn take_turn(source: &Source) -> Turn {
    for _ in 0..TURN {
        match source.line.receive() {
            Received::Message(bytes) => match Message::parse(&bytes) {
                Some(message) => emit(source, &message),
                None => say(|| {
                    let Source { worker, pid, .. } = source;
                    tracing::warn!(target: TARGET, %worker, pid, "a worker has sent an event that cannot be read");
                }),
            },
            Received::Nothing => return Turn::Done,
            Received::Over => return Turn::Over,
        }
    }
    Turn::Unfinished
}

fn emit(source: &Source, message: &Message<'_>) {
    let Source { worker, pid, .. } = source;
    let Message { unix_ns, target, text, fields, .. } = message;
    let at = message.at();
    // The level of an event is known when it is compiled.
    macro_rules! emit {
        ($level:expr) => {
            tracing::event!(target: TARGET, $level, %worker, pid, from = %target, %fields, %at, unix_ns, "{text}")
        };
    }
    say(|| match message.level() {
        Level::ERROR => emit!(Level::ERROR),
        Level::WARN => emit!(Level::WARN),
        Level::INFO => emit!(Level::INFO),
        Level::DEBUG => emit!(Level::DEBUG),
        Level::TRACE => emit!(Level::TRACE),
    });
}

fn tell_of_dropped(source: &Source, dropped: u64) {
    let Source { worker, pid, .. } = source;
    say(|| {
        tracing::warn!(
            target: TARGET, %worker, pid, dropped,
            "events of a worker were dropped: it had more than the log of the service takes"
        );
    });
}
