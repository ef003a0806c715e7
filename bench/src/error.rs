//! Errors before or during a measurement.

use std::io;
use std::process::ExitStatus;

/// Why there is no measurement.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A client and its partner each need a CPU of their own.
    #[error("two CPUs are needed, one for each side of a ping-pong; this process may use only {allowed:?}")]
    TooFewCpus {
        /// The CPUs that this process may use.
        allowed: Vec<usize>,
    },
    /// The system did not let a thread stay on its CPU.
    #[error("cannot pin a thread to CPU {cpu}")]
    Pin {
        /// The CPU asked for.
        cpu: usize,
        /// What the system said.
        source: io::Error,
    },
    /// The system refuses the priority that was asked for.
    #[error("the system refuses real-time priority; --realtime auto does without")]
    Realtime {
        /// What the system said.
        source: io::Error,
    },
    /// A partner's thread could not be started.
    #[error("cannot start the partner thread of {who}")]
    Spawn {
        /// The contestant.
        who: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// A process could not be started.
    #[error("cannot start the process of {who}")]
    SpawnProcess {
        /// Whose it would have been.
        who: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// A partner's process has ended: there will be no answers.
    #[error("the partner process of {who} has ended: {status}")]
    PartnerDied {
        /// The contestant.
        who: &'static str,
        /// How it ended.
        status: ExitStatus,
    },
    /// The transport of questions and answers failed, or could not be made.
    #[error("{who} failed")]
    Transport {
        /// The contestant.
        who: &'static str,
        /// What the system or the rival said.
        source: io::Error,
    },
    /// This program was built without that contestant.
    #[error(
        "this compare has no {who}; cargo run --release -p ringmill-bench --features {feature} --bin compare has"
    )]
    NotBuilt {
        /// The contestant.
        who: &'static str,
        /// The feature that brings it.
        feature: &'static str,
    },
    /// The system did not give a figure that a job measures.
    #[error("cannot look at {what}")]
    Look {
        /// What it was asked for.
        what: &'static str,
        /// What it said.
        source: io::Error,
    },
    /// The system did not let a thread wait for its device as precisely as it has to.
    #[error("cannot make waits precise")]
    Device(#[source] io::Error),
    /// ringmill's server did not start.
    #[error("cannot start ringmill's server")]
    Start(#[from] ringmill::StartError),
    /// A call to ringmill's server failed.
    #[error("a call to ringmill's server failed")]
    Call(#[from] ringmill::CallError),
    /// A segment for a bench of its parts could not be made.
    #[error("cannot make a segment")]
    Segment(#[from] ringmill_shm::segment::CreateError),
    /// A rival could not be set up.
    #[error("cannot set up a rival: {0}")]
    Rival(String),
    /// There is no payload of that size.
    #[error("a payload has 8, 64 or 1024 bytes, not {bytes}")]
    PayloadSize {
        /// The size asked for.
        bytes: u32,
    },
    /// An answer was not the one computed from its question: the measurement is worth nothing.
    #[error("{who} gave a wrong answer to item {item}")]
    WrongAnswer {
        /// The contestant.
        who: &'static str,
        /// The item's number within its run.
        item: u64,
    },
    /// None of the peers asked for has a part in any of the jobs and points asked for.
    #[error("there is nothing to measure: none of these peers has a part in these jobs and sizes")]
    Nothing,
    /// The report's folder could not be written, or what to draw it from not be read.
    #[error(transparent)]
    Report(#[from] crate::plot::ReportError),
    /// The report could not be printed.
    #[error("cannot print the report")]
    Print(#[source] io::Error),
}
