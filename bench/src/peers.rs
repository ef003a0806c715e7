//! ringmill and its rivals.

pub mod crossbeam;
pub mod crossbeam_blocking;
pub mod ringmill;
pub mod rtrb;
pub mod rtrb_chunks;
pub mod stages;
pub mod threads;

use crate::Error;
use crate::contestant::{Contestant, Point};
use crate::jobs::Job;
use crate::pin::CpuPair;
use crate::raw::Raw;

/// Whom `compare` can measure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Peer {
    /// The bare ping-pong once more: how steady the yardstick itself is.
    Raw,
    /// ringmill, through its public API, with a worker process.
    Ringmill,
    /// A pair of rtrb rings between two threads.
    Rtrb,
    /// The same rings in chunks, their batching interface; nothing to gain in `call`.
    RtrbChunks,
    /// A pair of crossbeam channels between two threads, spinning.
    Crossbeam,
    /// Crossbeam channels between any number of threads, which sleep while there is nothing to receive.
    CrossbeamBlocking,
}

impl Peer {
    /// All of them, in the order of reports.
    pub const ALL: [Self; 6] =
        [Self::Raw, Self::Ringmill, Self::Rtrb, Self::RtrbChunks, Self::Crossbeam, Self::CrossbeamBlocking];

    /// Whether there is anything to see of this one in `job` at `point`.
    pub fn has_a_part_in(self, job: Job, point: Point) -> bool {
        match (self, job) {
            // It moves one word, one at a time.
            (Self::Raw, _) => job == Job::Call && point.payload_bytes == 8,
            (_, Job::Stages) => self == Self::Ringmill,
            (Self::RtrbChunks | Self::CrossbeamBlocking, Job::Call) => false,
            (Self::Ringmill | Self::CrossbeamBlocking, _) => true,
            // Between one thread and one other.
            _ if point.threads > 1 || point.workers > 1 => false,
            _ => true,
        }
    }

    /// Starts the contestant for `job` at `point`, at rest.
    ///
    /// # Errors
    ///
    /// [`Error::Spawn`], [`Error::Pin`] or [`Error::Start`] if its partner cannot be started, [`Error::PayloadSize`] if
    /// there is no such payload.
    pub fn start(self, _job: Job, point: Point, cpus: CpuPair) -> Result<Box<dyn Contestant>, Error> {
        match point.payload_bytes {
            8 => self.start_with::<1>(point, cpus),
            64 => self.start_with::<8>(point, cpus),
            1024 => self.start_with::<128>(point, cpus),
            bytes => Err(Error::PayloadSize { bytes }),
        }
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
        })
    }
}
