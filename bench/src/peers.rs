//! ringmill and its rivals.

pub mod crossbeam;
pub mod crossbeam_batch;
pub mod crossbeam_blocking;
pub mod futex;
pub mod moved_vec;
pub mod ringmill;
pub mod ringmill_batch;
pub mod ringmill_bulk;
pub mod ringmill_open_loop;
pub mod rtrb;
pub mod rtrb_chunks;
pub mod stages;
pub mod threads;

use crate::Error;
use crate::contestant::{Contestant, Point};
use crate::jobs::Job;
use crate::open_loop::OpenLoop;
use crate::pin::CpuPair;
use crate::raw::Raw;
use ringmill_open_loop::OpenRingmill;

/// Whom `compare` can measure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
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
}

impl Peer {
    /// All of them, in the order of reports.
    pub const ALL: [Self; 8] = [
        Self::Raw,
        Self::Ringmill,
        Self::RingmillLoan,
        Self::Rtrb,
        Self::RtrbChunks,
        Self::Crossbeam,
        Self::CrossbeamBlocking,
        Self::MovedVec,
    ];

    /// Whether there is anything to see of this one in `job` at `point`.
    pub fn has_a_part_in(self, job: Job, point: Point) -> bool {
        match job {
            // It moves one word, one at a time.
            _ if self == Self::Raw => job == Job::Call && point.payload_bytes == 8,
            Job::Call | Job::Latency => matches!(self, Self::Ringmill | Self::Rtrb | Self::Crossbeam),
            Job::Stream if point.threads > 1 || point.workers > 1 => {
                matches!(self, Self::Ringmill | Self::CrossbeamBlocking)
            }
            Job::Stream => !matches!(self, Self::RingmillLoan | Self::MovedVec),
            // A loan is sent by a call that waits.
            Job::Bulk if self == Self::RingmillLoan => point.window == 1,
            Job::Bulk => matches!(self, Self::Ringmill | Self::MovedVec),
            Job::Batch => matches!(self, Self::Ringmill | Self::CrossbeamBlocking),
            Job::Stages | Job::Wake | Job::Idle | Job::Start | Job::Memory => self == Self::Ringmill,
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
        Ok(match self {
            Self::Ringmill => vec![
                Box::new(OpenRingmill::<WORDS>::adaptive(point, cpus)?),
                Box::new(OpenRingmill::<WORDS>::spinning(rate_per_s, point, cpus)?),
            ],
            Self::Rtrb => vec![Box::new(rtrb::start::<WORDS>(point, cpus)?)],
            Self::Crossbeam => vec![Box::new(crossbeam::start::<WORDS>(point, cpus)?)],
            _ => unreachable!("{self:?} has no part in latency"),
        })
    }

    fn start_with<const WORDS: usize>(
        self,
        point: Point,
        cpus: CpuPair,
    ) -> Result<Box<dyn Contestant>, Error> {
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
            Self::RingmillLoan | Self::MovedVec => unreachable!("{self:?} has a part in bulk only"),
        })
    }
}
