//! `placement`: how long calls and streams take to a worker near its caller and to one far from it, with pages mapped before
//! and not.
//!
//! Which distances there are, the machine says: the caller's CPU, another hardware thread of its core, another core of
//! its last-level cache, another cache of its NUMA node, another node. For scale there is a worker that the server
//! places by itself (`Cpus::auto`), and a worker and a caller that are not pinned.

use std::time::{Duration, Instant};

use ringmill::{Cpus, Prefault, Server};
use ringmill_shm::sys::topology::{Cpu, Topology};

use super::first::{self, WINDOW};
use super::{Job, Session, on_a_thread_of_its_own};
use crate::Error;
use crate::contestant::Point;
use crate::payload::Payload;
use crate::peers::ringmill::{call_through, echo, server_builder};
use crate::pin::{CpuPair, pin_to};
use crate::report::Row;
use crate::rounds::Quartiles;

/// Passes after the first, of which the median counts.
const LATER: usize = 3;
/// Calls, one after the other, before those that count, and those.
const CALLS: [u64; 2] = [500, 5_000];

/// Where a worker is, in words, and how it is placed.
struct Distance {
    name: &'static str,
    cpus: Cpus,
    /// Whether the caller is pinned.
    pins_caller: bool,
}

impl Distance {
    /// Those that there are from the CPU `client`.
    fn all(topology: &Topology, client: usize) -> Vec<Self> {
        let Some(here) = topology.cpus.iter().find(|cpu| cpu.number == client) else { return Vec::new() };
        let far = |cpu: &Cpu| match cpu {
            _ if cpu.number == here.number => 0,
            _ if cpu.core == here.core => 1,
            _ if cpu.cache == here.cache => 2,
            _ if cpu.node == here.node => 3,
            _ => 4,
        };
        let names = ["same CPU", "same core", "same cache", "same node", "other node"];
        let first = |(distance, name): (usize, &'static str)| {
            let cpu = topology.cpus.iter().find(|cpu| far(cpu) == distance)?;
            Some(Self { name, cpus: Cpus::from([cpu.number]), pins_caller: true })
        };
        let pinned = names.into_iter().enumerate().filter_map(first);
        let auto = Self { name: "auto", cpus: Cpus::auto().workers(1), pins_caller: true };
        let none = Self { name: "not pinned", cpus: Cpus::Count(1), pins_caller: false };
        pinned.chain([auto, none]).collect()
    }
}

/// Measures payloads that lie in their tasks, and payloads in blocks.
///
/// # Errors
///
/// Those of starting the servers and of their streams and calls; [`Error::Pin`] if the system does not say which CPUs
/// there are.
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
    let cpus = session.cpus;
    let topology = Topology::here().map_err(|source| Error::Pin { cpu: cpus.client, source })?;
    let pages = [(Prefault::Hot, ""), (Prefault::Nothing, ", none mapped")];
    let mut contestants: Vec<(Distance, Prefault, String, Vec<Life>)> = Vec::new();
    for (prefault, mapped) in pages {
        let named = |distance: Distance| {
            let name = format!("{}{mapped}", distance.name);
            (distance, prefault, name, Vec::new())
        };
        contestants.extend(Distance::all(&topology, cpus.client).into_iter().map(named));
    }
    for round in 0..session.rounds {
        for (distance, prefault, name, lives) in &mut contestants {
            session
                .audience
                .progress(format_args!("{name}, {payload_bytes} bytes: {round} of {}", session.rounds));
            lives.push(on_a_thread_of_its_own(|| Life::of::<WORDS>(distance, *prefault, cpus))?);
        }
    }
    for (_, _, name, lives) in contestants {
        let quartiles = |part: fn(&Life) -> f64| {
            Quartiles::of(lives.iter().map(part)).expect("there is at least one round")
        };
        let (call, first, later) = (
            quartiles(|life| life.call_us),
            quartiles(|life| life.first_us),
            quartiles(|life| life.later_us),
        );
        let row = Row::new(Job::Placement.name(), &name)
            .at("payload_bytes", payload_bytes)
            .at("window", WINDOW)
            .figure("call_us", call.median)
            .figure("lower", call.lower)
            .figure("upper", call.upper)
            .figure("first_us", first.median)
            .figure("later_us", later.median)
            .figure("rounds", lives.len() as f64);
        session.audience.rows(&[row])?;
    }
    Ok(())
}

/// How long a call, and an item of a pass, took with one server.
struct Life {
    call_us: f64,
    first_us: f64,
    later_us: f64,
}

impl Life {
    fn of<const WORDS: usize>(distance: &Distance, pages: Prefault, cpus: CpuPair) -> Result<Self, Error> {
        let builder = server_builder(Point::STANDARD).capacity(WINDOW as usize).callers_on([cpus.client]);
        let builder = builder.max_payload(Payload::<WORDS>::BYTES).prefault(pages);
        let server: Server<Payload<WORDS>, Payload<WORDS>> =
            builder.start(echo(cpus).cpus(distance.cpus.clone()))?;
        if distance.pins_caller {
            pin_to(cpus.client)?;
        }
        let passes = first::Life::of_passes(&server, LATER)?;
        let [warm, counted] = CALLS;
        call_through(&server, warm)?;
        let begin = Instant::now();
        call_through(&server, counted)?;
        let [first_us, later_us] = [passes.first, passes.later].map(|pass| each(pass, WINDOW.into()));
        Ok(Self { call_us: each(begin.elapsed(), counted), first_us, later_us })
    }
}

/// Microseconds of each of `count`.
fn each(time: Duration, count: u64) -> f64 {
    time.as_secs_f64() * 1e6 / count as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances_are_those_that_the_machine_has() {
        let names = |distances: Vec<Distance>| {
            distances.into_iter().map(|distance| distance.name).collect::<Vec<_>>()
        };
        let alike = Topology::unknown(&[2, 5]);
        let distances = Distance::all(&alike, 5);
        assert_eq!((&distances[0].cpus, &distances[1].cpus), (&Cpus::from([5]), &Cpus::from([2])));
        assert_eq!(names(distances), ["same CPU", "same cache", "auto", "not pinned"]);
        assert_eq!(names(Distance::all(&Topology::unknown(&[2]), 2)), ["same CPU", "auto", "not pinned"]);
        assert!(Distance::all(&alike, 3).is_empty());
    }
}
