//! The options of `shmtool requests`, and its help.

use super::Choice;
use crate::values::{SegmentArg, time};
use clap::builder::{PossibleValuesParser, TypedValueParser};
use ringmill_shm::word::Phase;
use std::time::Duration;

const HELP: &str = "\
shmtool reads each request while its participants work: one that moves on in
that moment may be seen with facts of both. A payload that is being written
may be half old, half new.

A request's phase:
  filling   its caller writes the input
  queued    it waits for a worker of a servlet; the owner put it there
  claimed   a worker has it; begun: the worker's code may have seen it
  forked    its branches, in rows of their own, are at an ensemble's members
  joining   a worker puts their outcomes together
  done      the outcome waits for the caller

With --payload the text of a payload's value stands above its bytes, if its type
is a number, bool, char, String, or a Vec of these. For types of its own a
program brings a shmtool that prints them: see Printers in the documentation of
the crate shmtool.

JSON:
  name, path, state, run
                    as for list
  capacity          requests that can be in progress
  in_progress       requests that are, with those left out
  without_age       requests that --older-than left out because their age is
                    unknown
  requests          one entry a request, the oldest first:
    id              from 0 to below the capacity
    age_s           seconds in progress (null: no clock was read, which a
                    caller does when it goes to sleep)
    deadline_s      seconds until its deadline, negative after it (null: it
                    has none)
    caller_gone     its caller has gone; a worker that finds it frees it
    caller_asleep   its caller sleeps until the outcome is there
    wants_notice    its caller is a future or a stream
    task, generation, phase, servlet, begun, owner, attempt, queued_s, payload
                    as for branches
    branches        its branches in ensembles:
      ensemble, member
                    the ensemble's name; which of its members, from 0
      task          its number in the segment; of a request, the id
      generation    how often this number was used, modulo 65536
      phase         as above
      servlet       servlet or ensemble where it is (null: at none)
      begun         the worker's code may have seen it
      owner         that must act next: participant, worker (a worker's name,
                    or callers), pid, alive, stopped (by a signal or a
                    debugger; null: its process cannot be seen from here)
                    (null: it is forked)
      attempt       workers that died while they worked on it
      queued_s      seconds since it was queued there (null: no clock was
                    read, as where no batch waits)
      payload       content (input, outcome, error; unfinished: being
                    written), bytes,
                    impossible (its header was written over),
                    block_bytes (null: it lies in line),
                    of_task (whose memory it is); with --payload
                    type (null: unknown, as of errors),
                    value (in words, of a type that can be printed; null: of
                    another one, or not whole), hex (its first bytes)

Examples:
  shmtool requests digits
  shmtool requests digits --older-than 1s --phase claimed
  shmtool requests digits --payload --json | jq '.requests[0].payload.hex'";

/// The options of `requests`.
#[derive(Debug, clap::Args)]
#[command(after_long_help = HELP)]
pub(crate) struct RequestArgs {
    #[command(flatten)]
    pub(crate) segment: SegmentArg,
    /// Only requests in progress for longer, such as 2s, 500ms or 1min.
    #[arg(long, value_name = "TIME", value_parser = time)]
    older_than: Option<Duration>,
    /// Only requests at this servlet or ensemble, or with a branch there.
    #[arg(long, value_name = "NAME")]
    servlet: Option<String>,
    /// Only requests in this phase, or with a branch that is.
    #[arg(long, value_parser = PossibleValuesParser::new(phases_in_use()).map(|name| phase_of(&name)))]
    phase: Option<Phase>,
    /// Show the payloads' bytes.
    #[arg(long)]
    payload: bool,
    /// How many bytes of each.
    #[arg(long, value_name = "N", default_value_t = 256, requires = "payload",
        value_parser = clap::value_parser!(u32).range(1..=1 << 20))]
    payload_bytes: u32,
}

impl RequestArgs {
    /// All requests, with the first bytes of their payloads.
    pub(crate) fn with_payloads(name: &str) -> Self {
        Self {
            segment: name.into(),
            older_than: None,
            servlet: None,
            phase: None,
            payload: true,
            payload_bytes: 256,
        }
    }

    pub(crate) fn choice(&self) -> Choice {
        Choice {
            older_than: self.older_than,
            servlet: self.servlet.clone(),
            phase: self.phase,
            payload_bytes: if self.payload { self.payload_bytes as usize } else { 0 },
        }
    }
}

/// The phases of requests in progress.
fn phases_in_use() -> impl Iterator<Item = &'static str> {
    Phase::ALL.into_iter().filter(|&phase| phase != Phase::Free).map(Phase::name)
}

fn phase_of(name: &str) -> Phase {
    Phase::ALL.into_iter().find(|phase| phase.name() == name).expect("the parser allows no other")
}
