//! `latency`: how long requests take that arrive at random, by how many do.
//!
//! Arrivals are a Poisson process, the same for every contestant in a round, and a latency begins when its request
//! is due ([`open_loop`](crate::open_loop)). Slices take turns between readings of `raw`, as in other jobs; the
//! requests of all slices that count make one distribution for each regime.

use ringmill_load::arrivals::{Arrivals, Spacing};

use super::{Job, Session};
use crate::Error;
use crate::contestant::Point;
use crate::open_loop::{Answers, OpenLoop};
use crate::percentiles::Percentiles;
use crate::report::Row;
use crate::rounds::Regime;
use crate::turns::{self, Wanted};

/// Requests a second.
pub const RATES: [u32; 4] = [1_000, 10_000, 100_000, 1_000_000];

/// Requests that must count in each regime for every contestant, for each round asked for.
const REQUESTS_PER_ROUND: usize = 1_000;

/// Slices of a tenth of a second, much shorter than the seconds a machine stays in one regime; but at least, and at most, this
/// many requests.
const SLICES_PER_S: u32 = 10;
const LEAST_REQUESTS: u32 = 20;
const MOST_REQUESTS: u32 = 20_000;

/// The first part of a slice, one in this many, does not count, since it wakes the partner and fills the caches.
const WARM_UP: usize = 10;

/// A contestant that answers more slowly than requests arrive does not keep up: beyond the cost of the end of a slice.
const KEEPS_UP: f64 = 0.95;

/// Measures every rate.
///
/// # Errors
///
/// Those of starting the contestants, of reading `raw`, and of the contestants' transports.
pub fn run(session: &mut Session<'_>) -> Result<(), Error> {
    if session.only.payload_bytes.is_some_and(|only| only != Point::STANDARD.payload_bytes) {
        return Ok(());
    }
    let peers: Vec<_> = session.peers_at(Job::Latency, Point::STANDARD).collect();
    for rate_per_s in session.only.rates(&RATES) {
        let requests = (rate_per_s / SLICES_PER_S).clamp(LEAST_REQUESTS, MOST_REQUESTS) as usize;
        let wanted = Wanted {
            slices: session.rounds,
            samples: session.rounds * REQUESTS_PER_ROUND,
            samples_a_slice: requests - requests / WARM_UP,
        };
        let start = |cpus| -> Result<Vec<Box<dyn OpenLoop>>, Error> {
            let each = peers.iter().map(|peer| peer.start_open_loop(rate_per_s, Point::STANDARD, cpus));
            Ok(each.collect::<Result<Vec<_>, Error>>()?.into_iter().flatten().collect())
        };
        let measured = session.take_turns(
            &format!("latency, {rate_per_s}/s"),
            wanted,
            start,
            |contestant| contestant.name(),
            |contestant, round| Slice::measure(contestant.as_mut(), rate_per_s, requests, round as u64),
        )?;
        let rows = Regime::ALL.into_iter().flat_map(|regime| {
            measured.iter().filter_map(move |(who, slices)| row(who, regime, rate_per_s, slices.of(regime)))
        });
        session.audience.rows(&rows.collect::<Vec<_>>())?;
    }
    Ok(())
}

/// The figures of one slice that count.
#[derive(Debug)]
struct Slice {
    latencies_ns: Vec<u64>,
    /// From the first request that counts until the last is due.
    offered_ns: u64,
    /// Until the last is answered.
    took_ns: u64,
}

impl Slice {
    fn measure(
        contestant: &mut dyn OpenLoop,
        rate_per_s: u32,
        requests: usize,
        seed: u64,
    ) -> Result<Self, Error> {
        let due_ns: Vec<u64> =
            Arrivals::new(f64::from(rate_per_s), Spacing::Poisson, seed).take(requests).collect();
        contestant.resume();
        let answers = contestant.offer(&due_ns)?;
        contestant.pause();
        Ok(Self::of(answers, &due_ns))
    }

    fn of(answers: Answers, due_ns: &[u64]) -> Self {
        let Answers { mut latencies_ns, end_ns } = answers;
        let first = due_ns.len() / WARM_UP;
        latencies_ns.drain(..first);
        let begin_ns = due_ns[first];
        Self { latencies_ns, offered_ns: due_ns[due_ns.len() - 1] - begin_ns, took_ns: end_ns - begin_ns }
    }
}

impl turns::Slice for Slice {
    fn samples(&self) -> usize {
        self.latencies_ns.len()
    }
}

/// The sum of some slices, if there are any.
fn row(who: &str, regime: Regime, rate_per_s: u32, slices: &[Slice]) -> Option<Row> {
    if slices.is_empty() {
        return None;
    }
    let latencies = Percentiles::of(slices.iter().flat_map(|slice| slice.latencies_ns.iter().copied()));
    let sum_s = |ns: fn(&Slice) -> u64| slices.iter().map(|slice| ns(slice) as f64 / 1e9).sum::<f64>();
    let (offered_s, took_s) = (sum_s(|slice| slice.offered_ns), sum_s(|slice| slice.took_ns));
    let row = Row::new(Job::Latency.name(), who)
        .regime(regime)
        .at("payload_bytes", Point::STANDARD.payload_bytes)
        .at("rate_per_s", rate_per_s)
        .figure("sent_per_s", latencies.count() as f64 / took_s)
        .figure("keeps_up", f64::from(u8::from(offered_s / took_s >= KEEPS_UP)));
    Some(latencies.figures(row).figure("rounds", slices.len() as f64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_tenth_does_not_count() {
        let due_ns: Vec<u64> = (0..20).map(|item| 100 * item).collect();
        let answers = Answers { latencies_ns: (0..20).collect(), end_ns: 2500 };
        let slice = Slice::of(answers, &due_ns);
        assert_eq!(slice.latencies_ns, (2..20).collect::<Vec<_>>());
        assert_eq!((slice.offered_ns, slice.took_ns), (1700, 2300));
    }
}
