//! Aeron IPC: a publication and a subscription each way, between two processes that both poll.
//!
//! Payloads are written into the log where it lies, and read there. Neither side has a thread beside its own.
//!
//! *The media driver*, which opens and closes streams and moves their limits on, has no part in the way of a message.
//! It takes its turns on the partner's thread, once every `LOOKS_PER_TURN` looks for questions: Aeron calls that its
//! invoker mode. A driver with a thread of its own has to take one of two CPUs from a side that spins there: `call`
//! took about as long with one, and `stream` up to a third longer.
//!
//! *A stopped partner is not dead.* Aeron takes a client for dead that is silent for ten seconds. A partner that is stopped
//! while others are measured is silent too, so all timeouts are a day.
//!
//! *Files.* Aeron's logs and other files are in a directory in shared memory, and stay when a process is killed. A [`Janitor`]
//! removes them.

use std::convert::Infallible;
use std::ffi::CString;
use std::hint;
use std::io;
use std::ops::RangeInclusive;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use rusteron_client::{
    Aeron as Client, AeronContext, AeronExclusivePublication, AeronSubscription, Handlers,
};
use rusteron_media_driver::bindings::aeron_threading_mode_enum::AERON_THREADING_MODE_INVOKER;
use rusteron_media_driver::{AeronDriver, AeronDriverContext};
use serde::{Deserialize, Serialize};

use super::Task;
use super::processes::{Link, Processes};
use crate::Error;
use crate::contestant::{Contestant, Point};
use crate::janitor::Janitor;
use crate::payload::Payload;
use crate::pin::CpuPair;
use crate::process::{self, Process};

/// One log in each direction.
const QUESTIONS: i32 = 1;
const ANSWERS: i32 = 2;

/// Bytes of one of the three parts of a log, of which half may be in progress: as many as the window wants, but within
/// these. From 1 to 64 MiB all are as fast.
const TERM_BYTES: RangeInclusive<usize> = (4 << 20)..=(16 << 20);

/// The header before each message, in bytes; a message's position is a multiple of it.
const HEADER_BYTES: usize = 32;

/// The most messages that are taken in one look.
const MESSAGES_PER_LOOK: usize = 64;

/// How often the partner looks for questions before it lets the driver have a turn.
const LOOKS_PER_TURN: u32 = 1024;

/// Bytes of Aeron's counters, as few as it takes: five times as much lies in shared memory.
const COUNTERS_BYTES: usize = 1 << 20;

const DAY: Duration = Duration::from_hours(24);

/// The order for a partner.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Order {
    /// Where Aeron's files are.
    directory: PathBuf,
    term_bytes: usize,
}

/// The client's side, and the process that answers.
#[derive(Debug)]
pub struct Aeron<const WORDS: usize> {
    who: &'static str,
    ends: Ends,
    process: Process,
    room: u32,
}

impl<const WORDS: usize> Aeron<WORDS> {
    /// Starts the partner with the driver, and connects to it; the partner is stopped then. There is room for as many
    /// payloads as `point` asks for, if a log of reasonable size has it.
    ///
    /// # Errors
    ///
    /// [`Error::Transport`] with what Aeron or the system says, [`Error::PartnerDied`], or those of [`Process::start`].
    pub fn start(who: &'static str, point: Point, cpus: CpuPair) -> Result<Self, Error> {
        let frame_bytes = (HEADER_BYTES + Payload::<WORDS>::BYTES).next_multiple_of(HEADER_BYTES);
        let wanted_bytes = 2 * point.room() as usize * frame_bytes;
        let term_bytes = wanted_bytes.next_power_of_two().clamp(*TERM_BYTES.start(), *TERM_BYTES.end());
        let room = (term_bytes / 2 / frame_bytes) as u32;

        let made = || {
            let janitor = Janitor::start()?;
            Ok((janitor.shared_memory(), janitor.hold()?, janitor))
        };
        let (directory, hold, janitor) = made().map_err(|source| Error::Transport { who, source })?;
        let task = Task::Aeron(Order { directory: directory.clone(), term_bytes }).to_argument::<WORDS>();
        let process = Process::start(who, cpus.partner, &task, hold, Stdio::piped())?;
        let mut process = process.cleaned_up_by(janitor);
        process.wait_until_ready()?;
        // A side that waits for the dead gets a broken pipe.
        let look = || process.spin().map_err(|_| io::ErrorKind::BrokenPipe.into());
        let ends = Ends::open(&directory, QUESTIONS, ANSWERS, look);
        let ends = ends.map_err(|error| process.failed(error))?;
        process.pause();
        Ok(Self { who, ends, process, room })
    }

    /// This contestant with a client that takes answers one by one.
    ///
    /// Taken as they come, up to `MESSAGES_PER_LOOK` at once, a stream's items take about a tenth less time.
    pub fn one_by_one(self) -> Processes<Ends, WORDS> {
        let Self { who, ends, process, room } = self;
        Processes::new(who, ends, process, room)
    }
}

impl<const WORDS: usize> Contestant for Aeron<WORDS> {
    fn name(&self) -> &'static str {
        self.who
    }

    fn window(&self, wanted: u32) -> u32 {
        wanted.min(self.room)
    }

    fn resume(&mut self) {
        self.process.resume();
    }

    fn pause(&mut self) {
        self.process.pause();
    }

    fn call(&mut self, items: u64) -> Result<(), Error> {
        self.stream(items, 1)
    }

    fn stream(&mut self, items: u64, window: u32) -> Result<(), Error> {
        let window = u64::from(self.window(window));
        let Self { who, ends, process, .. } = self;
        let (mut sent, mut checked, mut wrong) = (0, 0, None);
        while checked < items {
            let before = (sent, checked);
            let unsent = items.min(checked + window);
            while sent < unsent
                && ends.write(|| Payload::<WORDS>::question(sent)).map_err(|error| process.failed(error))?
            {
                sent += 1;
            }
            let received = ends.read(MESSAGES_PER_LOOK, |answer: &Payload<WORDS>| {
                if !answer.answers(checked) {
                    wrong.get_or_insert(checked);
                }
                checked += 1;
                Ok(())
            });
            received.map_err(|error| process.failed(error))?;
            if let Some(item) = wrong {
                return Err(Error::WrongAnswer { who, item });
            }
            if before == (sent, checked) {
                process.spin()?;
            }
        }
        Ok(())
    }
}

/// The partner's side, with the driver.
///
/// # Errors
///
/// What Aeron says.
pub fn answer<const WORDS: usize>(order: &Order) -> io::Result<Infallible> {
    let driver = Driver::start(order)?;
    process::ready()?;
    let ends = Ends::open(&order.directory, ANSWERS, QUESTIONS, || driver.turn())?;
    loop {
        for _ in 0..LOOKS_PER_TURN {
            let received = ends.read(MESSAGES_PER_LOOK, |question: &Payload<WORDS>| {
                while !ends.write(|| question.answer())? {
                    // There is no room before the driver has seen what the client has read.
                    driver.turn()?;
                }
                Ok(())
            })?;
            if received == 0 {
                hint::spin_loop();
            }
        }
        driver.turn()?;
    }
}

/// Where one side writes and where it reads. Closed before the client that they belong to.
#[derive(Debug)]
pub struct Ends {
    out: AeronExclusivePublication,
    back: AeronSubscription,
    _client: Client,
}

impl Ends {
    /// Connects to the driver in `directory` and, while `turn` succeeds, to the other side.
    fn open(
        directory: &Path,
        out: i32,
        back: i32,
        mut turn: impl FnMut() -> io::Result<()>,
    ) -> io::Result<Self> {
        let context = AeronContext::new().map_err(failed)?;
        context.set_dir(&name(directory)?).map_err(failed)?;
        context.set_driver_timeout_ms(DAY.as_millis() as u64).map_err(failed)?;
        context.set_use_conductor_agent_invoker(true).map_err(failed)?;
        // A log that has gone round once is in memory: so it is from the start, for the sake of short slices.
        context.set_pre_touch_mapped_memory(true).map_err(failed)?;
        let client = Client::new(&context).map_err(failed)?;
        client.start().map_err(failed)?;
        let mut turn = || {
            turn()?;
            client.main_do_work().map(drop).map_err(failed)
        };

        let adding = client.async_add_exclusive_publication(c"aeron:ipc", out).map_err(failed)?;
        let out = loop {
            turn()?;
            if let Some(out) = adding.poll().map_err(failed)? {
                break out;
            }
        };
        let adding = client.async_add_subscription(c"aeron:ipc", back, Handlers::NONE, Handlers::NONE);
        let adding = adding.map_err(failed)?;
        let back = loop {
            turn()?;
            if let Some(back) = adding.poll().map_err(failed)? {
                break back;
            }
        };
        while !(out.is_connected() && back.is_connected()) {
            turn()?;
        }
        Ok(Self { out, back, _client: client })
    }

    /// Writes what `payload` makes into the log; `false` if there is no room.
    #[inline]
    fn write<const WORDS: usize>(&self, payload: impl FnOnce() -> Payload<WORDS>) -> io::Result<bool> {
        match self.out.try_claim_owned(Payload::<WORDS>::BYTES) {
            Ok(mut claim) => {
                let bytes = payload().words().map(u64::to_ne_bytes);
                claim.data().copy_from_slice(bytes.as_flattened());
                claim.commit().map(|_| true).map_err(failed)
            }
            Err(error) if error.is_retryable() => Ok(false),
            Err(error) => Err(failed(error)),
        }
    }

    /// Shows `take` up to `limit` payloads that have come in, the oldest first, and returns how many. What comes after
    /// an error is lost.
    #[inline]
    fn read<const WORDS: usize>(
        &self,
        limit: usize,
        mut take: impl FnMut(&Payload<WORDS>) -> io::Result<()>,
    ) -> io::Result<usize> {
        let mut outcome = Ok(());
        let take = |bytes: &[u8], _| {
            if outcome.is_ok() {
                outcome = payload(bytes).and_then(|payload| take(&payload));
            }
        };
        let received = self.back.poll_fn(take, limit).map_err(failed)?;
        outcome.map(|()| received as usize)
    }
}

impl<const WORDS: usize> Link<WORDS> for Ends {
    fn send(&mut self, payload: impl FnOnce() -> Payload<WORDS>) -> io::Result<bool> {
        self.write(payload)
    }

    fn receive<R>(&mut self, read: impl FnOnce(&Payload<WORDS>) -> R) -> io::Result<Option<R>> {
        let (mut read, mut result) = (Some(read), None);
        self.read(1, |payload| {
            result = read.take().map(|read| read(payload));
            Ok(())
        })?;
        Ok(result)
    }
}

#[inline]
fn payload<const WORDS: usize>(bytes: &[u8]) -> io::Result<Payload<WORDS>> {
    let (words, rest) = bytes.as_chunks();
    match <&[_; WORDS]>::try_from(words) {
        Ok(words) if rest.is_empty() => Ok(Payload::from_words(words.map(u64::from_ne_bytes))),
        _ => Err(io::Error::other("a message has the wrong length")),
    }
}

/// A media driver without a thread.
struct Driver(AeronDriver);

impl Driver {
    fn start(order: &Order) -> io::Result<Self> {
        let context = AeronDriverContext::new().map_err(failed)?;
        context.set_dir(&name(&order.directory)?).map_err(failed)?;
        context.set_threading_mode(AERON_THREADING_MODE_INVOKER).map_err(failed)?;
        context.set_ipc_term_buffer_length(order.term_bytes).map_err(failed)?;
        context.set_term_buffer_sparse_file(false).map_err(failed)?;
        context.set_counters_buffer_length(COUNTERS_BYTES).map_err(failed)?;
        context.set_driver_timeout_ms(DAY.as_millis() as u64).map_err(failed)?;
        context.set_client_liveness_timeout_ns(DAY.as_nanos() as u64).map_err(failed)?;
        // Aeron requires this timeout to be the longest.
        context.set_publication_unblock_timeout_ns(2 * DAY.as_nanos() as u64).map_err(failed)?;
        let driver = AeronDriver::new(&context).map_err(failed)?;
        driver.start(true).map_err(failed)?;
        Ok(Self(driver))
    }

    /// Lets the driver do its pending work.
    fn turn(&self) -> io::Result<()> {
        self.0.main_do_work().map(drop).map_err(failed)
    }
}

fn name(directory: &Path) -> io::Result<CString> {
    Ok(CString::new(directory.as_os_str().as_bytes())?)
}

fn failed(error: impl std::error::Error) -> io::Error {
    io::Error::other(error.to_string())
}
