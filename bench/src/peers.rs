//! ringmill and its rivals.
//!
//! Those that are heavy to build are only there with the feature `rivals`, one that needs more tools with the
//! feature `aeron`; [`Peer::feature`] knows which.
//!
//! A partner is a thread where the rival knows nothing else ([`threads`]), and a process where it can
//! ([`process`], [`processes`]).

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
pub mod threads;
#[cfg(feature = "rivals")]
pub mod tonic;

use std::convert::Infallible;
use std::io;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use crate::Error;
use crate::contestant::{Contestant, Point};
use crate::jobs::Job;
use crate::open_loop::OpenLoop;
use crate::pin::CpuPair;
use crate::process;
use crate::raw::Raw;
use ringmill_open_loop::OpenRingmill;

/// Whom `compare` can measure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Peer {
    /// The bare ping-pong once more: how steady the yardstick itself is.
    Raw,
    /// ringmill, through its public API, with a worker process.
    Ringmill,
    /// The same with inputs that are written into the segment, not copied there; in `bulk`.
    RingmillLoan,
    /// A pair of rtrb rings between two threads.
    Rtrb,
    /// The same rings in chunks, their batching interface; nothing to gain in `call`.
    RtrbChunks,
    /// A pair of crossbeam channels between two threads, spinning.
    Crossbeam,
    /// Crossbeam channels between any number of threads, which sleep while there is nothing to receive.
    CrossbeamBlocking,
    /// A vector that is moved between two threads; in `bulk`.
    MovedVec,
    /// A pair of disruptors between two threads, polled.
    Disruptor,
    /// amate, which brings batches to a thread.
    Amate,
    /// A pair of rings in shared memory between two processes, each with a pthread mutex, polled.
    MutexRing,
    /// Two pipes between two processes that sleep until something comes.
    Pipe,
    /// The same pipes, polled.
    PipePolled,
    /// A pair of Unix stream sockets between two processes that sleep until something comes.
    UnixSocket,
    /// The same sockets, polled.
    UnixSocketPolled,
    /// iceoryx2's request-response between two processes, polled, with the four active requests that it allows by
    /// itself.
    #[value(name = "iceoryx2-rr")]
    Iceoryx2Rr,
    /// The same with as many active requests as the window has; nothing to gain in `call`.
    #[value(name = "iceoryx2-rr-wide")]
    Iceoryx2RrWide,
    /// iceoryx2's publish-subscribe, once each way, between two processes, polled.
    #[value(name = "iceoryx2-ps")]
    Iceoryx2Ps,
    /// Aeron IPC, a log in each direction between two processes, polled.
    Aeron,
    /// tonic, gRPC over a pair of Unix sockets between two processes, with a call for each item.
    Tonic,
    /// The same with one call that streams in both directions.
    TonicBidi,
    /// mpservice, which starts workers for Python programs, with one worker process that gets single items. Only if
    /// it is named: it is installed from its package, into an environment that is thrown away.
    Mpservice,
    /// The same with batches of up to 100.
    MpserviceBatch,
}

/// The feature that brings the rivals which are heavy to build.
const RIVALS: &str = "rivals";

/// The feature that brings Aeron, which wants tools that not everybody has.
const AERON: &str = "aeron";

/// The widest window of [`Peer::Iceoryx2RrWide`]: the time an item takes grows with it, to 17 µs there.
const WIDEST_RR: u32 = 1024;

/// The widest window of [`Peer::Tonic`], where each item is a call of its own.
const WIDEST_CALLS: u32 = 4096;

/// The `batch_size` of [`Peer::MpserviceBatch`].
const MPSERVICE_BATCH: u32 = 100;

impl Peer {
    /// Those that this program has, in the order of reports.
    pub fn built() -> impl Iterator<Item = Self> {
        Self::value_variants().iter().copied().filter(|peer| peer.ensure_built().is_ok())
    }

    /// The name in reports and on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Ringmill => "ringmill",
            Self::RingmillLoan => "ringmill-loan",
            Self::Rtrb => "rtrb",
            Self::RtrbChunks => "rtrb-chunks",
            Self::Crossbeam => "crossbeam",
            Self::CrossbeamBlocking => "crossbeam-blocking",
            Self::MovedVec => "moved-vec",
            Self::Disruptor => "disruptor",
            Self::Amate => "amate",
            Self::MutexRing => "mutex-ring",
            Self::Pipe => "pipe",
            Self::PipePolled => "pipe-polled",
            Self::UnixSocket => "unix-socket",
            Self::UnixSocketPolled => "unix-socket-polled",
            Self::Iceoryx2Rr => "iceoryx2-rr",
            Self::Iceoryx2RrWide => "iceoryx2-rr-wide",
            Self::Iceoryx2Ps => "iceoryx2-ps",
            Self::Aeron => "aeron",
            Self::Tonic => "tonic",
            Self::TonicBidi => "tonic-bidi",
            Self::Mpservice => "mpservice",
            Self::MpserviceBatch => "mpservice-batch",
        }
    }

    /// The feature of this package that it needs, if it does.
    pub fn feature(self) -> Option<&'static str> {
        match self {
            Self::Disruptor
            | Self::Amate
            | Self::Iceoryx2Rr
            | Self::Iceoryx2RrWide
            | Self::Iceoryx2Ps
            | Self::Tonic
            | Self::TonicBidi => Some(RIVALS),
            Self::Aeron => Some(AERON),
            _ => None,
        }
    }

    /// That this program has it.
    ///
    /// # Errors
    ///
    /// [`Error::NotBuilt`] if it was built without the feature.
    pub fn ensure_built(self) -> Result<(), Error> {
        let there = [(RIVALS, cfg!(feature = "rivals")), (AERON, cfg!(feature = "aeron"))];
        match self.feature() {
            Some(feature) if !there.contains(&(feature, true)) => {
                Err(Error::NotBuilt { who: self.name(), feature })
            }
            _ => Ok(()),
        }
    }

    /// Whether it needs [`mpservice::Environment`], and therefore takes part only if it is named.
    pub fn needs_python(self) -> bool {
        matches!(self, Self::Mpservice | Self::MpserviceBatch)
    }

    /// Whether there is anything to see of this one in `job` at `point`.
    pub fn has_a_part_in(self, job: Job, point: Point) -> bool {
        match job {
            // It moves one word, one at a time.
            _ if self == Self::Raw => job == Job::Call && point.payload_bytes == 8,
            Job::Stages | Job::Wake | Job::Idle | Job::Start | Job::Memory => self == Self::Ringmill,
            // Those that one thread can drive without waiting for an answer, item by item.
            Job::Latency => matches!(
                self,
                Self::Ringmill
                    | Self::Rtrb
                    | Self::Crossbeam
                    | Self::Disruptor
                    | Self::Amate
                    | Self::MutexRing
                    | Self::PipePolled
                    | Self::UnixSocketPolled
                    | Self::Iceoryx2Rr
                    | Self::Iceoryx2Ps
                    | Self::Aeron
            ),
            // A loan is sent by a call that waits.
            Job::Bulk if self == Self::RingmillLoan => point.window == 1,
            Job::Bulk => matches!(self, Self::Ringmill | Self::MovedVec),
            Job::Batch => matches!(self, Self::Ringmill | Self::CrossbeamBlocking),
            _ if matches!(self, Self::RingmillLoan | Self::MovedVec) => false,
            Job::Call => !matches!(self, Self::RtrbChunks | Self::CrossbeamBlocking | Self::Iceoryx2RrWide),
            Job::Stream if matches!(self, Self::Ringmill | Self::CrossbeamBlocking) => true,
            // Between one thread and one other.
            Job::Stream if point.threads > 1 || point.workers > 1 => false,
            // Its window is its own, whatever is asked for.
            Job::Stream if self == Self::Iceoryx2Rr => point.window == Point::STANDARD.window,
            Job::Stream if self == Self::Iceoryx2RrWide => point.window <= WIDEST_RR,
            Job::Stream if matches!(self, Self::Mpservice | Self::MpserviceBatch) => {
                point.window <= mpservice::WIDEST_WINDOW
            }
            Job::Stream if self == Self::Tonic => point.window <= WIDEST_CALLS,
            Job::Stream => true,
        }
    }

    /// Starts the contestant for `job` at `point`, at rest.
    ///
    /// # Errors
    ///
    /// [`Error::Spawn`], [`Error::Pin`] or [`Error::Start`] if its partner cannot be started, [`Error::PayloadSize`] if
    /// there is no such payload.
    ///
    /// # Panics
    ///
    /// If it [has no part](Self::has_a_part_in) in that.
    pub fn start(self, job: Job, point: Point, cpus: CpuPair) -> Result<Box<dyn Contestant>, Error> {
        assert!(self.has_a_part_in(job, point), "{self:?} has no part in {job}");
        if job == Job::Bulk {
            return self.start_bulk(point, cpus);
        }
        match point.payload_bytes {
            8 => self.start_with::<1>(point, cpus),
            64 => self.start_with::<8>(point, cpus),
            1024 => self.start_with::<128>(point, cpus),
            bytes => Err(Error::PayloadSize { bytes }),
        }
    }

    fn start_bulk(self, point: Point, cpus: CpuPair) -> Result<Box<dyn Contestant>, Error> {
        Ok(match self {
            Self::Ringmill => Box::new(ringmill_bulk::Copied::start(point, cpus)?),
            Self::RingmillLoan => Box::new(ringmill_bulk::Lent::start(point, cpus)?),
            Self::MovedVec => Box::new(moved_vec::MovedVec::start(point, cpus)?),
            _ => unreachable!("{self:?} has no part in bulk"),
        })
    }

    /// Starts what `job` latency measures of this one where `rate_per_s` requests arrive at `point`, at rest.
    ///
    /// # Errors
    ///
    /// Those of [`start`](Self::start).
    pub fn start_open_loop(
        self,
        rate_per_s: u32,
        point: Point,
        cpus: CpuPair,
    ) -> Result<Vec<Box<dyn OpenLoop>>, Error> {
        match point.payload_bytes {
            8 => self.start_open_loop_with::<1>(rate_per_s, point, cpus),
            64 => self.start_open_loop_with::<8>(rate_per_s, point, cpus),
            1024 => self.start_open_loop_with::<128>(rate_per_s, point, cpus),
            bytes => Err(Error::PayloadSize { bytes }),
        }
    }

    fn start_open_loop_with<const WORDS: usize>(
        self,
        rate_per_s: u32,
        point: Point,
        cpus: CpuPair,
    ) -> Result<Vec<Box<dyn OpenLoop>>, Error> {
        let who = self.name();
        let only: Box<dyn OpenLoop> = match self {
            Self::Ringmill => {
                return Ok(vec![
                    Box::new(OpenRingmill::<WORDS>::adaptive(point, cpus)?),
                    Box::new(OpenRingmill::<WORDS>::spinning(rate_per_s, point, cpus)?),
                ]);
            }
            Self::Rtrb => Box::new(rtrb::start::<WORDS>(point, cpus)?),
            Self::Crossbeam => Box::new(crossbeam::start::<WORDS>(point, cpus)?),
            Self::MutexRing => Box::new(mutex_ring::start::<WORDS>(who, point, cpus)?),
            Self::PipePolled => Box::new(bytes::start_pipes::<WORDS, false>(who, point, cpus)?),
            Self::UnixSocketPolled => Box::new(bytes::start_sockets::<WORDS, false>(who, point, cpus)?),
            #[cfg(feature = "rivals")]
            Self::Disruptor => Box::new(disruptor::start::<WORDS>(who, point, cpus)?),
            #[cfg(feature = "rivals")]
            Self::Amate => Box::new(amate::start::<WORDS>(who, point, cpus)?),
            #[cfg(feature = "rivals")]
            Self::Iceoryx2Rr => Box::new(iceoryx2::start_rr::<WORDS>(who, iceoryx2::DEFAULT_ACTIVE, cpus)?),
            #[cfg(feature = "rivals")]
            Self::Iceoryx2Ps => Box::new(iceoryx2::start_ps::<WORDS>(who, point, cpus)?),
            #[cfg(feature = "aeron")]
            Self::Aeron => Box::new(aeron::Aeron::<WORDS>::start(who, point, cpus)?.one_by_one()),
            _ => unreachable!("{self:?} has no part in latency, or is not built"),
        };
        Ok(vec![only])
    }

    fn start_with<const WORDS: usize>(
        self,
        point: Point,
        cpus: CpuPair,
    ) -> Result<Box<dyn Contestant>, Error> {
        let who = self.name();
        Ok(match self {
            Self::Raw => Box::new(Raw::start(cpus)?),
            Self::Ringmill if point.threads == 1 => {
                Box::new(ringmill::Ringmill::<WORDS>::start(point, cpus)?)
            }
            Self::Ringmill => Box::new(ringmill::RingmillCallers::<WORDS>::start(point, cpus)?),
            Self::Rtrb => Box::new(rtrb::start::<WORDS>(point, cpus)?),
            Self::RtrbChunks => Box::new(rtrb_chunks::RtrbChunks::<WORDS>::start(point, cpus)?),
            Self::CrossbeamBlocking => {
                Box::new(crossbeam_blocking::CrossbeamBlocking::start::<WORDS>(point, cpus)?)
            }
            Self::Crossbeam => Box::new(crossbeam::start::<WORDS>(point, cpus)?),
            Self::MutexRing => Box::new(mutex_ring::start::<WORDS>(who, point, cpus)?),
            Self::Pipe => Box::new(bytes::start_pipes::<WORDS, true>(who, point, cpus)?),
            Self::PipePolled => Box::new(bytes::start_pipes::<WORDS, false>(who, point, cpus)?),
            Self::UnixSocket => Box::new(bytes::start_sockets::<WORDS, true>(who, point, cpus)?),
            Self::UnixSocketPolled => Box::new(bytes::start_sockets::<WORDS, false>(who, point, cpus)?),
            Self::Mpservice => Box::new(mpservice::Mpservice::start(who, 0, point, cpus)?),
            Self::MpserviceBatch => Box::new(mpservice::Mpservice::start(who, MPSERVICE_BATCH, point, cpus)?),
            #[cfg(feature = "aeron")]
            Self::Aeron => Box::new(aeron::Aeron::<WORDS>::start(who, point, cpus)?),
            #[cfg(feature = "rivals")]
            Self::Tonic => Box::new(tonic::Unary::<WORDS>::start(who, cpus)?),
            #[cfg(feature = "rivals")]
            Self::TonicBidi => Box::new(tonic::Bidi::<WORDS>::start(who, cpus)?),
            #[cfg(feature = "rivals")]
            Self::Disruptor => Box::new(disruptor::start::<WORDS>(who, point, cpus)?),
            #[cfg(feature = "rivals")]
            Self::Amate => Box::new(amate::start::<WORDS>(who, point, cpus)?),
            #[cfg(feature = "rivals")]
            Self::Iceoryx2Rr => Box::new(iceoryx2::start_rr::<WORDS>(who, iceoryx2::DEFAULT_ACTIVE, cpus)?),
            #[cfg(feature = "rivals")]
            Self::Iceoryx2RrWide => Box::new(iceoryx2::start_rr::<WORDS>(who, point.window, cpus)?),
            #[cfg(feature = "rivals")]
            Self::Iceoryx2Ps => Box::new(iceoryx2::start_ps::<WORDS>(who, point, cpus)?),
            #[cfg(not(feature = "rivals"))]
            Self::Disruptor
            | Self::Amate
            | Self::Iceoryx2Rr
            | Self::Iceoryx2RrWide
            | Self::Iceoryx2Ps
            | Self::Tonic
            | Self::TonicBidi => return Err(Error::NotBuilt { who, feature: RIVALS }),
            #[cfg(not(feature = "aeron"))]
            Self::Aeron => return Err(Error::NotBuilt { who, feature: AERON }),
            Self::RingmillLoan | Self::MovedVec => unreachable!("{self:?} has a part in bulk only"),
        })
    }
}

/// What a partner's process has to do.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Order {
    /// Of a payload.
    words: usize,
    task: Task,
}

/// Whose partner it is, and what it must know beside what it is handed.
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
    /// As it is given to [`Process::start`](process::Process::start), for payloads of so many words.
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

/// To be called first in `main` by every program that starts peers. If this process is the partner of one, it
/// answers until it is killed; else this returns at once.
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
    fn names_are_those_of_the_command_line() {
        for peer in Peer::value_variants() {
            assert_eq!(peer.to_possible_value().unwrap().get_name(), peer.name());
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
