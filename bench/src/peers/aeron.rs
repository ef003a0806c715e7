//! Aeron IPC: a publication and a subscription each way, between two processes.
//!
//! Both sides write into the log where it lies and read what has come in there. Neither has a thread beside its own.
//!
//! *The media driver*, which opens and closes streams and moves their limits on, takes its turns on the partner's
//! thread, once every 1,024 looks for questions: Aeron calls that its invoker mode. A driver with a thread of its own
//! has to take one of the two CPUs from a side that spins there: `call` took about as long with one, and `stream` up
//! to a third longer.
//!
//! *Being stopped is no death.* Aeron takes who has said nothing for ten seconds for dead. A partner that is stopped
//! while others are measured says nothing either, so all time-outs are a day.

use std::convert::Infallible;
use std::ffi::CString;
use std::hint;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use rusteron_client::{
    Aeron as Client, AeronContext, AeronExclusivePublication, AeronSubscription, Handlers,
};
use rusteron_media_driver::bindings::aeron_threading_mode_enum::AERON_THREADING_MODE_INVOKER;
use rusteron_media_driver::{AeronDriver, AeronDriverContext};

use super::Task;
use crate::Error;
use crate::contestant::Contestant;
use crate::janitor::{Janitor, SHARED_MEMORY};
use crate::payload::Payload;
use crate::pin::CpuPair;
use crate::process::{self, Process};

/// One log in each direction.
const QUESTIONS: i32 = 1;
const ANSWERS: i32 = 2;

/// Bytes of one of the three parts of a log, of which half may be in progress. Anything from 1 MiB up is as fast;
/// smaller parts need the driver more often.
const TERM_BYTES: usize = 16 << 20;

/// Bytes that lie before each message, and what its place is a multiple of.
const HEADER_BYTES: usize = 32;

/// The most messages that are taken in one look.
const MESSAGES_PER_LOOK: usize = 64;

/// How often the partner looks for questions before it lets the driver have a turn.
const LOOKS_PER_TURN: u32 = 1024;

const DAY: Duration = Duration::from_hours(24);

/// The client's side, and the process that answers.
#[derive(Debug)]
pub struct Aeron<const WORDS: usize> {
    who: &'static str,
    ends: Ends,
    process: Process,
    /// Removes Aeron's files.
    _janitor: Janitor,
}

impl<const WORDS: usize> Aeron<WORDS> {
    /// Starts the partner with the driver, and connects to it; the partner is stopped then.
    ///
    /// # Errors
    ///
    /// [`Error::Transport`], [`Error::PartnerDied`], or those of [`Process::start`].
    pub fn start(who: &'static str, cpus: CpuPair) -> Result<Self, Error> {
        let failed = |source| Error::Transport { who, source };
        let janitor = Janitor::start().map_err(failed)?;
        let name = janitor.directory().file_name().expect("it was made with a name");
        let directory = Path::new(SHARED_MEMORY).join(name);
        let task = Task::Aeron { directory: directory.clone() }.to_argument::<WORDS>();
        let held = janitor.hold().map_err(failed)?;
        let mut process = Process::start(who, cpus.partner, &task, held, Stdio::piped())?;
        process.wait_until_ready()?;
        let ends = Ends::open(&directory, QUESTIONS, ANSWERS, || process.spin().map_err(io::Error::other));
        let ends = ends.map_err(|error| process.failed(error))?;
        process.pause();
        Ok(Self { who, ends, process, _janitor: janitor })
    }
}

impl<const WORDS: usize> Contestant for Aeron<WORDS> {
    fn name(&self) -> &'static str {
        self.who
    }

    fn window(&self, wanted: u32) -> u32 {
        let frame_bytes = (HEADER_BYTES + Payload::<WORDS>::BYTES).next_multiple_of(HEADER_BYTES);
        wanted.min((TERM_BYTES / 2 / frame_bytes) as u32)
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
        let Self { who, ends, process, .. } = self;
        let (mut sent, mut checked, mut wrong) = (0, 0, None);
        while checked < items {
            let before = (sent, checked);
            while sent < items.min(checked + u64::from(window))
                && ends.send(|| Payload::<WORDS>::question(sent)).map_err(|error| process.failed(error))?
            {
                sent += 1;
            }
            let received = ends.receive(|answer: Option<Payload<WORDS>>| {
                if !answer.is_some_and(|answer| answer.answers(checked)) {
                    wrong.get_or_insert(checked);
                }
                checked += 1;
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
/// What Aeron reports.
pub fn answer<const WORDS: usize>(directory: &Path) -> io::Result<Infallible> {
    let driver = Driver::start(directory)?;
    process::ready()?;
    let ends = Ends::open(directory, ANSWERS, QUESTIONS, || driver.turn())?;
    let mut outcome = Ok(());
    let answer = |question: Option<Payload<WORDS>>| -> io::Result<()> {
        let question = question.ok_or(io::ErrorKind::InvalidData)?;
        while !ends.send(|| question.answer())? {
            // There is no room before the driver has seen what the client has read.
            driver.turn()?;
        }
        Ok(())
    };
    let mut looks = 0u32;
    loop {
        let received = ends.receive(|question| {
            if outcome.is_ok() {
                outcome = answer(question);
            }
        })?;
        std::mem::replace(&mut outcome, Ok(()))?;
        if received == 0 {
            hint::spin_loop();
        }
        looks = looks.wrapping_add(1);
        if looks.is_multiple_of(LOOKS_PER_TURN) {
            driver.turn()?;
        }
    }
}

/// Where one side writes and where it reads. Closed before the client that they belong to.
#[derive(Debug)]
struct Ends {
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
    fn send<const WORDS: usize>(&self, payload: impl FnOnce() -> Payload<WORDS>) -> io::Result<bool> {
        match self.out.try_claim_owned(Payload::<WORDS>::BYTES) {
            Ok(mut claim) => {
                let bytes = payload().words().map(u64::to_le_bytes);
                claim.data().copy_from_slice(bytes.as_flattened());
                claim.commit().map(|_| true).map_err(failed)
            }
            Err(error) if error.is_retryable() => Ok(false),
            Err(error) => Err(failed(error)),
        }
    }

    /// Shows `take` what has come in, or `None` for what has another length, and returns how much that was.
    fn receive<const WORDS: usize>(&self, mut take: impl FnMut(Option<Payload<WORDS>>)) -> io::Result<usize> {
        let received = self.back.poll_fn(|bytes, _| take(read(bytes)), MESSAGES_PER_LOOK);
        received.map(|messages| messages as usize).map_err(failed)
    }
}

fn read<const WORDS: usize>(bytes: &[u8]) -> Option<Payload<WORDS>> {
    let (words, rest) = bytes.as_chunks();
    let words: &[_; WORDS] = words.try_into().ok()?;
    rest.is_empty().then(|| Payload::from_words(words.map(u64::from_le_bytes)))
}

/// A media driver without a thread.
struct Driver(AeronDriver);

impl Driver {
    fn start(directory: &Path) -> io::Result<Self> {
        let context = AeronDriverContext::new().map_err(failed)?;
        context.set_dir(&name(directory)?).map_err(failed)?;
        context.set_threading_mode(AERON_THREADING_MODE_INVOKER).map_err(failed)?;
        context.set_ipc_term_buffer_length(TERM_BYTES).map_err(failed)?;
        context.set_term_buffer_sparse_file(false).map_err(failed)?;
        context.set_driver_timeout_ms(DAY.as_millis() as u64).map_err(failed)?;
        context.set_client_liveness_timeout_ns(DAY.as_nanos() as u64).map_err(failed)?;
        // Aeron wants this one to be the longest.
        context.set_publication_unblock_timeout_ns(2 * DAY.as_nanos() as u64).map_err(failed)?;
        let driver = AeronDriver::new(&context).map_err(failed)?;
        driver.start(true).map_err(failed)?;
        Ok(Self(driver))
    }

    /// Lets it do what there is to do.
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
