//! The contestants, and the points at which they are measured.

use std::fmt;
use std::time::Duration;

use hdrhistogram::Histogram;

use crate::Error;

/// Items that every contestant has room for at least.
pub const ROOM: u32 = 256;

/// The point at which contestants are measured: sizes and numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Point {
    /// Bytes of a question, and of an answer.
    pub payload_bytes: u32,
    /// Items that one calling thread has in progress at most.
    pub window: u32,
    /// Calling threads, all on the client's CPU.
    pub threads: u32,
    /// Partners that answer, all on the partner's CPU.
    pub workers: u32,
}

impl Point {
    /// Where the jobs meet; each of their axes leads through this point.
    pub const STANDARD: Self = Self { payload_bytes: 64, window: 256, threads: 1, workers: 1 };

    /// How many items a contestant's queues must have room for: the same for every contestant.
    ///
    /// [`ROOM`], also where fewer are in progress. A queue of one slot is a mailbox: its one line stays in
    /// both caches, and a round trip through it costs half as much. A contestant that has to hold more than one
    /// item cannot be compared with that.
    pub fn room(self) -> u32 {
        (self.window * self.threads).max(ROOM)
    }
}

/// The order in which a contestant sends its items.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Load {
    /// One at a time: the next question is written after the answer to the last one has been checked.
    Call,
    /// Up to `window` items in progress at once, for each calling thread.
    Stream {
        /// Items in progress at most.
        window: u32,
    },
}

impl Load {
    /// Items in progress at most.
    pub fn window(self) -> u32 {
        match self {
            Self::Call => 1,
            Self::Stream { window } => window,
        }
    }

    /// Lets `contestant` do `items` items.
    ///
    /// # Errors
    ///
    /// Those of [`Contestant::call`] and [`Contestant::stream`].
    pub fn run(self, contestant: &mut dyn Contestant, items: u64) -> Result<(), Error> {
        match self {
            Self::Call => contestant.call(items),
            Self::Stream { window } => contestant.stream(items, window),
        }
    }
}

/// A slice's figures besides its time.
#[derive(Clone, Debug, Default)]
pub struct Notes {
    /// Figures of the whole slice, by their names in [rows](crate::report::Row::figures).
    pub figures: Vec<(&'static str, f64)>,
    /// How long single items took, for each calling thread.
    pub latencies_ns: Vec<Histogram<u64>>,
}

/// Something that carries a question to another CPU and brings the answer back.
///
/// The client's side runs on the calling thread; the partner's side on a thread or in a process of its own,
/// on its own CPU, and only between [`resume`](Self::resume) and [`pause`](Self::pause).
pub trait Contestant: fmt::Debug {
    /// The name in reports.
    fn name(&self) -> &'static str;

    /// How long it must be measured at a time at least: longer than others if its items take thousands of times as long.
    fn shortest_slice(&self) -> Duration {
        Duration::ZERO
    }

    /// Items that it really has in progress where `wanted` are asked for.
    fn window(&self, wanted: u32) -> u32 {
        wanted
    }

    /// Figures of the items since the last call of this, besides their time.
    fn notes(&mut self) -> Notes {
        Notes::default()
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
    /// [`Error::WrongAnswer`], or an error of the contestant's transport.
    fn call(&mut self, items: u64) -> Result<(), Error>;

    /// `items` items, up to `window` of them in progress at once, each answer checked.
    ///
    /// # Errors
    ///
    /// [`Error::WrongAnswer`], or an error of the contestant's transport.
    fn stream(&mut self, items: u64, window: u32) -> Result<(), Error>;
}
