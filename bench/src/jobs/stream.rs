//! `stream`: many items in progress, over windows, calling threads and workers: one axis at a time.
//!
//! Threads and workers are measured in the match of the standard window, all of them against one thread and one worker
//! in the same run. All callers have one CPU and all workers the other, however many they are; so what is seen is what
//! their number costs, not what more CPUs would bring. Callers that share a CPU take turns on it, of some milliseconds
//! each: an item that is in progress when its caller's turn ends waits for the next. So the largest latencies are the
//! scheduler's; what they tell is whether every caller has its turns.

use super::{Job, Session};
use crate::Error;
use crate::contestant::{Load, Point};
use crate::match_up::{Outcome, Setup, Standing};
use crate::payload::SIZES;
use crate::peers::Peer;
use crate::report::Row;
use crate::slice::SLICE;

const WINDOWS: [u32; 7] = [16, 64, 256, 1024, 4096, 16_384, 65_536];
const THREADS: [u32; 3] = [2, 4, 8];
const WORKERS: [u32; 2] = [2, 4];

/// Measures all axes, or the one point asked for.
///
/// # Errors
///
/// Those of [`Session::match_up`].
pub fn run(session: &mut Session<'_>) -> Result<(), Error> {
    for entrants in matches(session) {
        let Some((_, Point { window, .. })) = entrants.first().copied() else { continue };
        let outcome = session.match_up(&format!("stream, window {window}"), |cpus| {
            let setup = |(peer, point): (Peer, Point)| {
                let contestant = peer.start(Job::Stream, point, cpus)?;
                let window = contestant.window(window);
                let setup = Setup::new(contestant, Load::Stream { window });
                // Each thread must have turns on the CPU within every slice.
                Ok(setup
                    .slice(SLICE * point.threads)
                    .at("payload_bytes", point.payload_bytes)
                    .at("window", window)
                    .at("threads", point.threads)
                    .at("workers", point.workers))
            };
            entrants.into_iter().map(setup).collect()
        })?;
        if let Some(outcome) = outcome {
            session.audience.rows(&rows(&outcome))?;
        }
    }
    Ok(())
}

/// The contestants of each match, and their points.
fn matches(session: &Session<'_>) -> Vec<Vec<(Peer, Point)>> {
    let at = |point| session.peers_at(Job::Stream, point).map(move |peer| (peer, point));
    let only = session.only;
    let standard = Point::STANDARD;
    let chosen = Point {
        payload_bytes: only.payload_bytes.unwrap_or(standard.payload_bytes),
        window: only.window.unwrap_or(standard.window),
        threads: only.threads.unwrap_or(standard.threads),
        workers: only.workers.unwrap_or(standard.workers),
    };
    if !SIZES.contains(&chosen.payload_bytes) {
        return Vec::new();
    }
    let alone = Point { threads: 1, workers: 1, ..chosen };
    if chosen != alone {
        // Beside one thread and one worker of the same.
        let entrants = at(chosen).flat_map(|(peer, _)| [(peer, alone), (peer, chosen)]);
        return vec![entrants.collect()];
    }
    if !only.is_all() {
        return vec![at(chosen).collect()];
    }
    let match_at = |window| {
        let alone = Point { window, ..standard };
        let mut points = vec![alone];
        if alone == standard {
            points.extend(THREADS.map(|threads| Point { threads, ..alone }));
            points.extend(WORKERS.map(|workers| Point { workers, ..alone }));
        }
        points.into_iter().flat_map(at).collect()
    };
    WINDOWS.map(match_at).into()
}

/// The rows, those of several threads or workers with their throughput as a part of that of one of each.
fn rows(outcome: &Outcome) -> Vec<Row> {
    let is_alone = |standing: &Standing| {
        ["threads", "workers"].iter().all(|parameter| standing.parameter(parameter) == Some(1))
    };
    outcome.rows_with(Job::Stream.name(), |standing, regime, row| {
        let alone = outcome.standings.iter().find(|other| other.who == standing.who && is_alone(other));
        let ratio = alone
            .filter(|_| !is_alone(standing))
            .and_then(|alone| alone.tally.ratio_to(&standing.tally, regime));
        match ratio {
            Some(ratio) => row.figure("throughput_vs_one", ratio.median),
            None => row,
        }
    })
}
