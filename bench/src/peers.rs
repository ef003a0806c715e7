//! ringmill and its rivals.

pub mod crossbeam;
pub mod ringmill;
pub mod rtrb;
pub mod rtrb_chunks;
pub mod stages;
pub mod threads;

use crate::Error;
use crate::contestant::{Contestant, Job};
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
}

impl Peer {
    /// All of them, in the order of reports.
    pub const ALL: [Self; 5] = [Self::Raw, Self::Ringmill, Self::Rtrb, Self::RtrbChunks, Self::Crossbeam];

    /// Whether there is anything to see of this one in `job`.
    pub fn has_a_part_in(self, job: Job) -> bool {
        self != Self::RtrbChunks || job != Job::Call
    }

    /// Starts the contestant for `job`, at rest.
    ///
    /// # Errors
    ///
    /// [`Error::Spawn`], [`Error::Pin`] or [`Error::Start`] if its partner cannot be started.
    pub fn start(self, job: Job, cpus: CpuPair) -> Result<Box<dyn Contestant>, Error> {
        Ok(match self {
            Self::Raw => Box::new(Raw::start(cpus)?),
            Self::Ringmill => Box::new(ringmill::Ringmill::start(job.room(), cpus)?),
            Self::Rtrb => Box::new(rtrb::start(job.room(), cpus)?),
            Self::RtrbChunks => Box::new(rtrb_chunks::RtrbChunks::start(job.room(), cpus)?),
            Self::Crossbeam => Box::new(crossbeam::start(job.room(), cpus)?),
        })
    }
}
