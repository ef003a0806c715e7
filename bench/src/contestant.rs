//! What is compared, and the jobs it is compared in.

use std::fmt;

use crate::Error;

/// Items that every contestant has room for at least.
pub const ROOM: u32 = 256;

/// The jobs of `compare`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Job {
    /// One item at a time: the next question is written after the answer to the last one has been checked.
    Call,
    /// Up to `window` items in progress at once.
    Stream {
        /// Items in progress at most.
        window: u32,
    },
    /// The same through several stages, or to several members at once: a figure for each number of them.
    Stages {
        /// Items in progress at most.
        window: u32,
    },
}

impl Job {
    /// The job's name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Call => "call",
            Self::Stream { .. } => "stream",
            Self::Stages { .. } => "stages",
        }
    }

    /// Items in progress at most.
    pub fn window(self) -> u32 {
        match self {
            Self::Call => 1,
            Self::Stream { window } | Self::Stages { window } => window,
        }
    }

    /// How many items a contestant's queues must have room for: the same for every contestant.
    ///
    /// [`ROOM`], also where the job keeps fewer in progress. A queue of one place is a mailbox: its one line
    /// stays in both caches, and a round trip through it costs half as much. Nobody can be compared with that
    /// who has to hold more than one item.
    pub fn room(self) -> u32 {
        self.window().max(ROOM)
    }

    /// Lets `contestant` do `items` items of this job.
    ///
    /// # Errors
    ///
    /// Those of [`Contestant::call`] and [`Contestant::stream`].
    pub fn run(self, contestant: &mut dyn Contestant, items: u64) -> Result<(), Error> {
        match self {
            Self::Call => contestant.call(items),
            Self::Stream { window } | Self::Stages { window } => contestant.stream(items, window),
        }
    }
}

impl fmt::Display for Job {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.name())
    }
}

/// Something that carries a question to another CPU and brings the answer back.
///
/// The client's side runs on the calling thread; the partner's side on a thread or in a process of its own,
/// on its own CPU, and only between [`resume`](Self::resume) and [`pause`](Self::pause).
pub trait Contestant: fmt::Debug {
    /// The name in reports.
    fn name(&self) -> &'static str;

    /// Bytes that travel each way with every item, and the most items this contestant keeps in progress in
    /// `job`.
    fn shape(&self, job: Job) -> Shape {
        Shape { payload_bytes: crate::payload::PAYLOAD_BYTES, window: job.window() }
    }

    /// Lets the partner run.
    fn resume(&mut self) {}

    /// Stops the partner; once this has returned it takes no CPU, or stops taking it within the next
    /// reading's warm-up.
    fn pause(&mut self) {}

    /// `items` round trips, one after the other, each answer checked.
    ///
    /// # Errors
    ///
    /// [`Error::WrongAnswer`], or what the contestant's transport reports.
    fn call(&mut self, items: u64) -> Result<(), Error>;

    /// `items` items, up to `window` of them in progress at once, answers in order and each checked.
    ///
    /// # Errors
    ///
    /// [`Error::WrongAnswer`], or what the contestant's transport reports.
    fn stream(&mut self, items: u64, window: u32) -> Result<(), Error>;
}

/// What a contestant moves in a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Bytes of a question, and of an answer.
    pub payload_bytes: usize,
    /// Items in progress at most.
    pub window: u32,
}
