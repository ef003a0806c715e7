//! `batch`: how full batches are, and how much of the workers' time they cost.
//!
//! Each worker has a [device](crate::device) on which a batch of n items takes a + b * n. Three measurements:
//!
//! - *Four workers, a piled-up queue.* All workers share the partner's CPU, so the device is one to wait for, as a
//!   graphics processor is: four that burn CPU time there would take turns, and what was left of their batches would be
//!   the scheduler's. A batch takes 1 ms + n * 10 µs.
//! - *One worker, a piled-up queue.* It has the CPU for itself and burns it, so every microsecond that bringing a batch
//!   and its answers costs is missing in the throughput. A batch takes 100 µs + n * 1 µs.
//! - *Four workers, requests that arrive at random.* Now it matters which workers make batches. With the reader lock one
//!   worker at a time does, and gets all that arrives while it waits for more; without it, all workers that are free share
//!   that, so each batch is smaller, and a is paid more often.
//!
//! A fourth measurement shows the wait that ringmill chooses where none is stated. A caller that is alone must not wait in
//! vain: its calls are compared with those to a server whose stated wait is zero. Where requests arrive at random, the mean
//! batch is compared with that of a stated wait of 10 ms, the most that the unstated one lasts.
//!
//! `device` is the throughput of the devices with full batches and without a queue: its loss is the time that the system takes
//! to wake a waiting thread.
//!
//! For workers without a lock the job uses batches out of a crossbeam channel ([`crossbeam_batch`]): the ring itself cannot be
//! read without its lock.
//!
//! [`crossbeam_batch`]: crate::peers::crossbeam_batch

use std::time::{Duration, Instant};

use ringmill_load::arrivals::{Arrivals, Spacing};

use super::{Job, Session, on_a_thread_of_its_own};
use crate::Error;
use crate::batching::{Alone, Batching, Plan};
use crate::contestant::{Contestant, Load, Point};
use crate::device::Device;
use crate::match_up::{Outcome, Setup};
use crate::peers::Peer;
use crate::peers::ringmill_batch::RingmillBatch;
use crate::percentiles::Percentiles;
use crate::pin::pin_to;
use crate::report::Row;
use crate::rounds::Quartiles;

const BATCH_SIZES: [u32; 3] = [16, 64, 256];

/// How long the oldest item of a batch that is not full may wait.
const BATCH_WAIT: Duration = Duration::from_millis(1);

/// Four workers, each with a device to wait for: a small model's.
const FOUR: u32 = 4;
const WAITING: Device = Device::waiting(Duration::from_millis(1), Duration::from_micros(10));

/// One worker that burns its CPU: a short computation.
const BURNING: Device = Device::burning(Duration::from_micros(100), Duration::from_micros(1));

/// How many full batches for each worker fit into the queue: no worker ever waits for an item.
const PILE: u32 = 4;

/// Long enough for a hundred batches of each worker, or about that.
const SLICE: Duration = Duration::from_millis(100);

/// Requests a second that arrive at random, up to two thirds of what four workers can do with full batches of
/// [`AT_RANDOM`] items. More than they can do are never offered.
const RATES: [u32; 5] = [2_000, 5_000, 10_000, 30_000, 100_000];
const AT_RANDOM: u32 = 64;

/// Does all three measurements.
///
/// # Errors
///
/// Those of starting the contestants, and of their transports.
pub fn run(session: &mut Session<'_>) -> Result<(), Error> {
    let only = session.only;
    if only.payload_bytes.is_some_and(|only| only != Point::STANDARD.payload_bytes) {
        return Ok(());
    }
    for (workers, device) in [(FOUR, WAITING), (1, BURNING)] {
        if only.rate_per_s.is_some() || only.workers.is_some_and(|only| only != workers) {
            continue;
        }
        for batch_size in BATCH_SIZES {
            let room = PILE * workers * batch_size;
            piled_up(
                session,
                Plan { batch_size: batch_size as usize, batch_wait: BATCH_WAIT, workers, device, room },
            )?;
        }
    }
    if session.wants_ringmill() && only.rate_per_s.is_none() && only.workers.is_none_or(|only| only == 1) {
        lone_caller(session)?;
    }
    if only.workers.is_none_or(|only| only == FOUR) {
        let most_per_s = 1e9 / WAITING.ideal_ns_per_item(AT_RANDOM as usize, FOUR as usize);
        for rate_per_s in only.rates(&RATES).into_iter().filter(|&rate| f64::from(rate) < most_per_s) {
            at_random(session, rate_per_s)?;
        }
    }
    Ok(())
}

/// All of them, and the devices alone, with more items in progress than they can take.
fn piled_up(session: &mut Session<'_>, plan: Plan) -> Result<(), Error> {
    let Plan { batch_size, workers, room, .. } = plan;
    let peers: Vec<Peer> = session.peers_at(Job::Batch, Point::STANDARD).collect();
    if peers.is_empty() {
        return Ok(());
    }
    let outcome =
        session.match_up(&format!("batch, {workers} workers, up to {batch_size} items"), |cpus| {
            let mut contestants: Vec<Box<dyn Contestant>> = vec![Box::new(Alone::start(plan, cpus)?)];
            for peer in peers {
                contestants.push(peer.start_batching(plan, cpus)?);
            }
            let setup = |contestant| {
                let setup = Setup::new(contestant, Load::Stream { window: room }).slice(SLICE);
                setup.at("workers", workers).at("batch_size", batch_size as u32)
            };
            Ok(contestants.into_iter().map(setup).collect())
        })?;
    outcome.map_or(Ok(()), |outcome| session.audience.rows(&rows(&outcome, plan)))
}

fn rows(outcome: &Outcome, plan: Plan) -> Vec<Row> {
    let alone = &outcome.standings[0].tally;
    outcome.rows_of(Job::Batch.name(), |standing, regime, row| {
        let summary = standing.tally.summary(regime)?;
        let ideal_ns = plan.device.ideal_ns_per_item(plan.batch_size, plan.workers as usize);
        let row = summary.figures.iter().fold(row, |row, &(name, figure)| match name {
            "mean_batch" => with_mean(row, figure, plan.batch_size),
            _ => row.figure(name, figure),
        });
        let row = row.figure("ns_per_item", summary.ns_per_item);
        let row = row.figure("part_of_ideal", ideal_ns / summary.ns_per_item);
        let row = match alone.ratio_to(&standing.tally, regime) {
            Some(part) => row.figure("part_of_device", part.median),
            None => row,
        };
        Some(row.figure("rounds", summary.rounds as f64))
    })
}

fn with_mean(row: Row, mean_batch: f64, batch_size: usize) -> Row {
    row.figure("mean_batch", mean_batch).figure("part_of_batch_size", mean_batch / batch_size as f64)
}

/// ringmill without a stated wait, and with one of this length.
const UNSTATED: (&str, Option<Duration>) = ("ringmill, wait not stated", None);
const STATED: (&str, Option<Duration>) = ("ringmill, 10 ms stated", Some(Duration::from_millis(10)));
const NO_WAIT: (&str, Option<Duration>) = ("ringmill, 0 stated", Some(Duration::ZERO));

/// A caller that sends one request at a time to a worker that would take more.
fn lone_caller(session: &mut Session<'_>) -> Result<(), Error> {
    let plan = Plan {
        batch_size: AT_RANDOM as usize,
        batch_wait: BATCH_WAIT,
        workers: 1,
        device: Device::burning(Duration::ZERO, Duration::ZERO),
        room: PILE * AT_RANDOM,
    };
    let outcome = session.match_up("batch, a lone caller", |cpus| {
        let setup = |(name, wait)| {
            let contestant = RingmillBatch::start_as(name, wait, plan, cpus)?;
            let setup = Setup::new(Box::new(contestant), Load::Call);
            Ok(setup.at("workers", plan.workers).at("batch_size", AT_RANDOM).at("window", 1_u32))
        };
        [NO_WAIT, UNSTATED].into_iter().map(setup).collect()
    })?;
    let Some(outcome) = outcome else { return Ok(()) };
    let no_wait = &outcome.standings[0].tally;
    let rows = outcome.rows_of(Job::Batch.name(), |standing, regime, row| {
        let row = row.figure("ns_per_item", standing.tally.summary(regime)?.ns_per_item);
        Some(match standing.tally.ratio_to(no_wait, regime) {
            Some(ratio) => row.figure("ratio_to_no_wait", ratio.median),
            None => row,
        })
    });
    session.audience.rows(&rows)
}

/// One contestant after the other in every round, while requests arrive. What a device's time is does not depend on
/// where cache lines are, so there are no readings of `raw`.
fn at_random(session: &mut Session<'_>, rate_per_s: u32) -> Result<(), Error> {
    let plan = Plan {
        batch_size: AT_RANDOM as usize,
        batch_wait: BATCH_WAIT,
        workers: FOUR,
        device: WAITING,
        room: PILE * FOUR * AT_RANDOM,
    };
    let peers: Vec<Peer> = session.peers_at(Job::Batch, Point::STANDARD).collect();
    let waits = if session.wants_ringmill() { vec![UNSTATED, STATED] } else { Vec::new() };
    let Session { cpus, rounds, ref mut audience, .. } = *session;
    let rows = on_a_thread_of_its_own(|| {
        let peers = peers.into_iter().map(|peer| peer.start_batching(plan, cpus));
        let ours = waits.into_iter().map(|(name, wait)| -> Result<Box<dyn Batching>, Error> {
            Ok(Box::new(RingmillBatch::start_as(name, wait, plan, cpus)?))
        });
        let contestants: Result<Vec<_>, Error> = peers.chain(ours).collect();
        let mut loaded: Vec<Loaded> = contestants?.into_iter().map(Loaded::new).collect();
        pin_to(cpus.client)?;
        for round in 0..=rounds {
            audience.progress(format_args!("batch, {rate_per_s}/s: round {round} of {rounds}"));
            let requests = (f64::from(rate_per_s) * SLICE.as_secs_f64()) as usize;
            let due_ns: Vec<u64> =
                Arrivals::new(f64::from(rate_per_s), Spacing::Poisson, round as u64).take(requests).collect();
            for contestant in &mut loaded {
                // The first round wakes all threads.
                contestant.measure(&due_ns, round > 0)?;
            }
        }
        Ok::<_, Error>(loaded.iter().filter_map(|contestant| contestant.row(rate_per_s)).collect::<Vec<_>>())
    })?;
    session.audience.rows(&rows)
}

/// A contestant, and its figures.
struct Loaded {
    contestant: Box<dyn Batching>,
    mean_batches: Vec<f64>,
    sent_per_s: Vec<f64>,
    latencies_ns: Vec<u64>,
}

impl Loaded {
    fn new(contestant: Box<dyn Batching>) -> Self {
        Self { contestant, mean_batches: Vec::new(), sent_per_s: Vec::new(), latencies_ns: Vec::new() }
    }

    fn measure(&mut self, due_ns: &[u64], counts: bool) -> Result<(), Error> {
        self.contestant.resume();
        let begun = Instant::now();
        let answers = self.contestant.offer(due_ns)?;
        let took = begun.elapsed();
        let notes = self.contestant.notes();
        self.contestant.pause();
        if counts {
            self.mean_batches.extend(notes.figures.iter().map(|(_, mean_batch)| mean_batch));
            self.sent_per_s.push(due_ns.len() as f64 / took.as_secs_f64());
            self.latencies_ns.extend(answers.latencies_ns);
        }
        Ok(())
    }

    fn row(&self, rate_per_s: u32) -> Option<Row> {
        let row = Row::new(Job::Batch.name(), self.contestant.name());
        let row = row.at("workers", FOUR).at("batch_size", AT_RANDOM).at("rate_per_s", rate_per_s);
        let median = |figures: &[f64]| Some(Quartiles::of(figures.iter().copied())?.median);
        let row = with_mean(row, median(&self.mean_batches)?, AT_RANDOM as usize);
        let row = row.figure("sent_per_s", median(&self.sent_per_s)?);
        let row = Percentiles::of(self.latencies_ns.iter().copied()).figures(row);
        Some(row.figure("rounds", self.sent_per_s.len() as f64))
    }
}
