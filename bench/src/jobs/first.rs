//! `first`: what the first requests after a start cost more than later ones, by which pages of the segment were mapped before.
//!
//! A pass is a stream of as many items as can be in progress, so that each task is used once. The first pass of a server
//! meets each page of its tasks and blocks for the first time, in the client and in the worker; later passes find them mapped.

use std::time::{Duration, Instant};

use ringmill::{Prefault, Server};

use super::{Job, Session, on_a_thread_of_its_own};
use crate::Error;
use crate::contestant::Point;
use crate::payload::Payload;
use crate::peers::ringmill::{echo, server_builder, stream_through};
use crate::pin::{CpuPair, pin_to};
use crate::report::Row;
use crate::rounds::Quartiles;

/// Items of a pass: enough for what a page costs to show beside what else happens for the first time.
pub(super) const WINDOW: u32 = 4096;

/// Passes after the first, of which the median counts.
const LATER: usize = 15;

/// Measures payloads that lie in their tasks, and payloads in blocks.
///
/// # Errors
///
/// Those of starting the servers and of their streams.
pub fn run(session: &mut Session<'_>) -> Result<(), Error> {
    if !session.wants_ringmill() {
        return Ok(());
    }
    measure::<8>(session)?;
    measure::<128>(session)
}

fn measure<const WORDS: usize>(session: &mut Session<'_>) -> Result<(), Error> {
    let payload_bytes = Payload::<WORDS>::BYTES as u32;
    if session.only.payload_bytes.is_some_and(|only| only != payload_bytes) {
        return Ok(());
    }
    for (who, pages) in [
        ("ringmill, nothing mapped before", Prefault::Nothing),
        ("ringmill", Prefault::Hot),
        ("ringmill, everything mapped before", Prefault::Everything),
    ] {
        let mut lives = Vec::new();
        for round in 0..session.rounds {
            session
                .audience
                .progress(format_args!("{who}, {payload_bytes} bytes: {round} of {}", session.rounds));
            let cpus = session.cpus;
            lives.push(on_a_thread_of_its_own(|| Life::of::<WORDS>(pages, cpus))?);
        }
        let quartiles = |part: fn(&Life) -> Duration| {
            let us = lives.iter().map(|life| part(life).as_secs_f64() * 1e6 / f64::from(WINDOW));
            Quartiles::of(us).expect("there is at least one round")
        };
        let (first, later) = (quartiles(|life| life.first), quartiles(|life| life.later));
        let row = Row::new(Job::First.name(), who)
            .at("payload_bytes", payload_bytes)
            .at("window", WINDOW)
            .figure("first_us", first.median)
            .figure("lower", first.lower)
            .figure("upper", first.upper)
            .figure("later_us", later.median)
            .figure("rounds", lives.len() as f64);
        session.audience.rows(&[row])?;
    }
    Ok(())
}

/// How long the passes of one server took.
pub(super) struct Life {
    pub(super) first: Duration,
    pub(super) later: Duration,
}

impl Life {
    fn of<const WORDS: usize>(pages: Prefault, cpus: CpuPair) -> Result<Self, Error> {
        // Room for one pass: a second use of a task would find its pages mapped.
        let builder = server_builder(Point::STANDARD).capacity(WINDOW as usize);
        let builder = builder.max_payload(Payload::<WORDS>::BYTES).prefault(pages);
        let server: Server<Payload<WORDS>, Payload<WORDS>> = builder.start(echo(cpus))?;
        pin_to(cpus.client)?;
        Self::of_passes(&server, LATER)
    }

    /// How long a pass of [`WINDOW`] items through a new server takes, and the median of the `later` ones.
    pub(super) fn of_passes<const WORDS: usize>(
        server: &Server<Payload<WORDS>, Payload<WORDS>>,
        later: usize,
    ) -> Result<Self, Error> {
        let mut passes = Vec::with_capacity(1 + later);
        for _ in 0..=later {
            let begin = Instant::now();
            stream_through(server, WINDOW.into(), WINDOW)?;
            passes.push(begin.elapsed());
        }
        let first = passes.remove(0);
        passes.sort_unstable();
        Ok(Self { first, later: passes[passes.len() / 2] })
    }
}
