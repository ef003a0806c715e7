//! The bench's peers: ringmill and its rivals.
//!
//! `table` has a row for each peer: its name, what it is, what it needs, in which jobs it has a part, and how it is
//! started. The feature `rivals` adds the peers that take long to build, the feature `aeron` the one that needs further
//! tools.
//!
//! A partner is a process if the rival supports that ([`process`], [`processes`]), otherwise a thread ([`threads`]).

#[cfg(feature = "aeron")]
pub mod aeron;
#[cfg(feature = "rivals")]
pub mod amate;
pub mod bytes;
pub mod crossbeam;
pub mod crossbeam_batch;
pub mod crossbeam_blocking;
#[cfg(feature = "rivals")]
pub mod disruptor;
pub mod frames;
pub mod futex;
#[cfg(feature = "rivals")]
pub mod iceoryx2;
pub mod moved_vec;
pub mod mpservice;
pub mod mutex_ring;
pub mod processes;
pub mod ringmill;
pub mod ringmill_batch;
pub mod ringmill_bulk;
pub mod ringmill_open_loop;
pub mod rtrb;
pub mod rtrb_chunks;
pub mod stages;
mod table;
pub mod threads;
#[cfg(feature = "rivals")]
pub mod tonic;

use std::convert::Infallible;
use std::{fmt, io};

use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
use serde::{Deserialize, Serialize};

use crate::Error;
use crate::batching::{Batching, Plan};
use crate::contestant::{Contestant, Point};
use crate::jobs::Job;
use crate::open_loop::OpenLoop;
use crate::pin::CpuPair;
use crate::process;
use ringmill_open_loop::OpenRingmill;
use table::{Needs, PEERS, Row, Starts};

/// The name of ringmill itself, which some jobs measure alone.
const OURS: &str = "ringmill";

/// A peer that `compare` can measure: a row of `table`.
#[derive(Clone, Copy)]
pub struct Peer(&'static Row);

impl fmt::Debug for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl PartialEq for Peer {
    fn eq(&self, other: &Self) -> bool {
        self.name() == other.name()
    }
}

impl Peer {
    /// All of them, in the order of reports.
    pub fn all() -> impl Iterator<Item = Self> {
        PEERS.iter().map(Self)
    }

    /// Those that this program has, in the order of reports.
    pub fn built() -> impl Iterator<Item = Self> {
        Self::all().filter(|peer| peer.ensure_built().is_ok())
    }

    /// Reads one by its name, for the command line.
    pub fn parser() -> impl TypedValueParser<Value = Self> {
        let values = Self::all().map(|peer| PossibleValue::new(peer.name()).help(peer.0.what));
        PossibleValuesParser::new(values)
            .try_map(|name| Self::all().find(|peer| peer.name() == name).ok_or("it has no such name"))
    }

    /// The name in reports and on the command line.
    pub fn name(self) -> &'static str {
        self.0.name
    }

    /// Whether it is ringmill in its ordinary use, which some jobs measure alone.
    pub fn is_ours(self) -> bool {
        self.name() == OURS
    }

    /// That this program has it.
    ///
    /// # Errors
    ///
    /// [`Error::NotBuilt`] if it was built without the feature.
    pub fn ensure_built(self) -> Result<(), Error> {
        let (feature, is_there) = match self.0.needs {
            Needs::Rivals => ("rivals", cfg!(feature = "rivals")),
            Needs::Aeron => ("aeron", cfg!(feature = "aeron")),
            Needs::Nothing | Needs::Python => return Ok(()),
        };
        if is_there { Ok(()) } else { Err(Error::NotBuilt { who: self.name(), feature }) }
    }

    /// Whether it needs [`mpservice::Environment`], and therefore takes part only if it is named.
    pub fn needs_python(self) -> bool {
        self.0.needs == Needs::Python
    }

    /// Whether there is anything to see of this one, which is [built](Self::built), in `job` at `point`.
    pub fn has_a_part_in(self, job: Job, point: Point) -> bool {
        let Starts { items, open_loop, bulk, batching } = &self.0.starts;
        let can_be_started = match job {
            Job::Call | Job::Stream => items.is_some(),
            Job::Latency => open_loop.is_some(),
            Job::Bulk => bulk.is_some(),
            Job::Batch => batching.is_some(),
            Job::Frames
            | Job::Stages
            | Job::Wake
            | Job::Idle
            | Job::Start
            | Job::First
            | Job::Placement
            | Job::Memory => self.is_ours(),
        };
        can_be_started && (self.0.points)(job, point)
    }

    /// Starts the contestant for `job` at `point`, at rest.
    ///
    /// # Errors
    ///
    /// [`Error::NotBuilt`] if this program does not have it. [`Error::Spawn`], [`Error::Pin`] or [`Error::Start`] if its
    /// partner cannot be started, [`Error::PayloadSize`] if there is no such payload.
    ///
    /// # Panics
    ///
    /// If it [has no part](Self::has_a_part_in) in that.
    pub fn start(self, job: Job, point: Point, cpus: CpuPair) -> Result<Box<dyn Contestant>, Error> {
        self.ensure_built()?;
        assert!(self.has_a_part_in(job, point), "{self:?} has no part in {job}");
        let start = if job == Job::Bulk { self.0.starts.bulk } else { self.0.starts.items };
        start.unwrap_or_else(|| panic!("{self:?} is not started for {job}"))(self.name(), point, cpus)
    }

    /// Starts what `job` latency measures of this one where `rate_per_s` requests arrive at `point`, at rest.
    ///
    /// # Errors
    ///
    /// Those of [`start`](Self::start).
    ///
    /// # Panics
    ///
    /// If it has no part in that.
    pub fn start_open_loop(
        self,
        rate_per_s: u32,
        point: Point,
        cpus: CpuPair,
    ) -> Result<Vec<Box<dyn OpenLoop>>, Error> {
        self.ensure_built()?;
        let start = self.0.starts.open_loop.unwrap_or_else(|| panic!("{self:?} has no part in latency"));
        start(rate_per_s, self.name(), point, cpus)
    }

    /// Starts what `job` batch measures of this one, at rest.
    ///
    /// # Errors
    ///
    /// Those of [`start`](Self::start).
    ///
    /// # Panics
    ///
    /// If it has no part in that.
    pub fn start_batching(self, plan: Plan, cpus: CpuPair) -> Result<Box<dyn Batching>, Error> {
        self.ensure_built()?;
        self.0.starts.batching.unwrap_or_else(|| panic!("{self:?} has no part in batch"))(plan, cpus)
    }
}

/// The order for a partner's process.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Order {
    /// Of a payload.
    words: usize,
    task: Task,
}

/// Whose partner it is, and the facts that it needs.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Task {
    /// [`bytes`].
    Bytes {
        /// Whether it sleeps until something comes.
        waits: bool,
    },
    /// [`mutex_ring`].
    MutexRing {
        /// Items that a ring holds.
        room: u32,
    },
    /// [`iceoryx2`].
    #[cfg(feature = "rivals")]
    Iceoryx2(iceoryx2::Order),
    /// [`aeron`].
    #[cfg(feature = "aeron")]
    Aeron(aeron::Order),
    /// [`tonic`].
    #[cfg(feature = "rivals")]
    Tonic,
}

impl Task {
    /// The argument of [`Process::start`](process::Process::start), for payloads of this many words.
    ///
    /// # Panics
    ///
    /// Never: it holds nothing that JSON cannot.
    pub fn to_argument<const WORDS: usize>(self) -> String {
        serde_json::to_string(&Order { words: WORDS, task: self }).expect("a task is plain data")
    }

    fn work<const WORDS: usize>(self) -> io::Result<Infallible> {
        match self {
            Self::Bytes { waits } => bytes::answer::<WORDS>(waits),
            Self::MutexRing { room } => mutex_ring::answer::<WORDS>(room),
            #[cfg(feature = "rivals")]
            Self::Iceoryx2(order) => iceoryx2::answer::<WORDS>(&order),
            #[cfg(feature = "aeron")]
            Self::Aeron(order) => aeron::answer::<WORDS>(&order),
            #[cfg(feature = "rivals")]
            Self::Tonic => tonic::answer::<WORDS>(),
        }
    }
}

/// Every program that starts peers calls this first in `main`. If this process is a partner, it answers until it is killed;
/// otherwise this returns at once.
pub fn begin() {
    #[cfg(any(feature = "rivals", feature = "aeron"))]
    crate::janitor::begin();
    let Some(task) = process::task() else { return };
    let done = match serde_json::from_str::<Order>(&task) {
        Ok(Order { words: 1, task }) => task.work::<1>(),
        Ok(Order { words: 8, task }) => task.work::<8>(),
        Ok(Order { words: 128, task }) => task.work::<128>(),
        Ok(Order { words, .. }) => Err(io::Error::other(format!("no payload has {words} words"))),
        Err(error) => Err(error.into()),
    };
    let Err(error) = done;
    if process::is_closed(&error) {
        // The client is done with it, and about to kill it.
        std::process::exit(0);
    }
    process::give_up(&error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_peers_have_one_name() {
        let names: std::collections::BTreeSet<_> = Peer::all().map(Peer::name).collect();
        assert_eq!(names.len(), Peer::all().count());
        assert_eq!(Peer::all().filter(|peer| peer.is_ours()).count(), 1);
    }

    #[test]
    fn a_peer_that_is_built_has_a_part_in_something() {
        for peer in Peer::built() {
            let points = [8, 64].map(|payload_bytes| Point { payload_bytes, window: 1, ..Point::STANDARD });
            let mut parts =
                points.iter().flat_map(|point| Job::ALL.map(|job| peer.has_a_part_in(job, *point)));
            assert!(parts.any(|has| has) || peer.has_a_part_in(Job::Stream, Point::STANDARD), "{peer:?}");
        }
    }

    #[test]
    fn a_task_survives_the_way_to_its_partner() {
        let argument = Task::MutexRing { room: 256 }.to_argument::<8>();
        let Order { words, task } = serde_json::from_str(&argument).unwrap();
        assert_eq!(words, 8);
        assert!(matches!(task, Task::MutexRing { room: 256 }));
    }
}
