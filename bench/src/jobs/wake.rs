//! `wake`: a round trip when the other side sleeps, and the CPU time that not sleeping costs.
//!
//! One caller blocks in each call. Calls are due at random, as in `latency`; one whose turn comes late goes at once. In
//! the gaps the caller sleeps, by a timer that ends a little early, and spins for the rest; neither counts. What is
//! measured is the call alone, its CPU time on the caller's side, and all CPU time of the partner, which waits in calls
//! and in gaps. Both sides wait alike: they spin for the given time, then sleep.
//!
//! `futex` never spins: its round trip is the least that waking and being woken costs, and its CPU time is what that
//! takes.

use std::fmt::Debug;
use std::time::{Duration, Instant};

use ringmill::{Server, Wait};
use ringmill_load::arrivals::{Arrivals, Spacing};

use super::{Job, Session};
use crate::contestant::Point;
use crate::payload::Payload;
use crate::peers::futex::Futex;
use crate::peers::ringmill::{echo, server_builder, worker_pids};
use crate::percentiles::Percentiles;
use crate::pin::CpuPair;
use crate::report::Row;
use crate::rounds::Regime;
use crate::turns::{self, Sorted, Wanted};
use crate::{Error, cpu_time, nap};

/// Calls a second.
pub const RATES: [u32; 3] = [1_000, 10_000, 100_000];

/// How long both sides spin before they sleep, in microseconds.
pub const SPINS_US: [u32; 5] = [0, 5, 20, 50, 100];

/// Calls that must count in each regime for every contestant, for each round asked for.
const CALLS_PER_ROUND: usize = 250;

/// How long a slice takes, and the part at its beginning that does not count.
const SLICE: Duration = Duration::from_millis(100);
const WARM_UP: Duration = Duration::from_millis(10);

/// Measures every rate.
///
/// # Errors
///
/// Those of starting the contestants, of reading `raw`, and of the contestants' transports.
pub fn run(session: &mut Session<'_>) -> Result<(), Error> {
    let is_standard = |only| only == Point::STANDARD.payload_bytes;
    if !session.wants_ringmill() || !session.only.payload_bytes.is_none_or(is_standard) {
        return Ok(());
    }
    for rate_per_s in session.only.rates(&RATES) {
        let wanted = Wanted {
            slices: session.rounds,
            samples: session.rounds * CALLS_PER_ROUND,
            samples_a_slice: (f64::from(rate_per_s) * (SLICE - WARM_UP).as_secs_f64()).ceil() as usize,
        };
        let measured = session.take_turns(
            &format!("wake, {rate_per_s}/s"),
            wanted,
            start,
            |contestant| contestant.name(),
            |contestant, round| Slice::measure(contestant.as_mut(), rate_per_s, round as u64),
        )?;
        session.audience.rows(&rows(rate_per_s, &measured))?;
    }
    Ok(())
}

/// Its name in reports, and how long it spins if that is fixed, in microseconds.
type Name = (&'static str, Option<u32>);

/// A contestant whose caller blocks.
trait Blocking: Debug {
    fn name(&self) -> Name;

    fn call(&mut self, item: u64) -> Result<(), Error>;

    /// The CPU time that the partner has used.
    fn partner_cpu_time(&mut self) -> Result<Duration, Error>;
}

fn start(cpus: CpuPair) -> Result<Vec<Box<dyn Blocking>>, Error> {
    // The caller's naps: else the kernel may add 50 µs to each.
    ringmill_shm::sys::cpu::set_precise_sleep();
    let mut all: Vec<Box<dyn Blocking>> = vec![Box::new(Futex::start(cpus)?)];
    for spin_us in SPINS_US {
        all.push(Box::new(Ringmill::start(Some(spin_us), cpus)?));
    }
    all.push(Box::new(Ringmill::start(None, cpus)?));
    Ok(all)
}

impl Blocking for Futex {
    fn name(&self) -> Name {
        ("futex", None)
    }

    fn call(&mut self, _: u64) -> Result<(), Error> {
        Self::call(self);
        Ok(())
    }

    fn partner_cpu_time(&mut self) -> Result<Duration, Error> {
        Ok(Self::partner_cpu_time(self))
    }
}

#[derive(Debug)]
struct Ringmill {
    /// None: as long as it thinks fit.
    spin_us: Option<u32>,
    server: Server<Payload<8>, Payload<8>>,
    worker: u32,
}

impl Ringmill {
    fn start(spin_us: Option<u32>, cpus: CpuPair) -> Result<Self, Error> {
        let wait = match spin_us {
            None => Wait::Adaptive,
            Some(0) => Wait::Park,
            Some(us) => Wait::Spin(Duration::from_micros(us.into())),
        };
        let server = server_builder(Point::STANDARD).wait(wait).start(echo(cpus))?;
        let worker = worker_pids(&server).next().expect("it has one worker");
        Ok(Self { spin_us, server, worker })
    }
}

impl Blocking for Ringmill {
    fn name(&self) -> Name {
        ("ringmill", self.spin_us)
    }

    fn call(&mut self, item: u64) -> Result<(), Error> {
        let right = self.server.call(&Payload::question(item))?.answers(item);
        if right { Ok(()) } else { Err(Error::WrongAnswer { who: "ringmill", item }) }
    }

    fn partner_cpu_time(&mut self) -> Result<Duration, Error> {
        cpu_time::of_process(self.worker)
            .map_err(|source| Error::Look { what: "a worker's CPU time", source })
    }
}

/// The figures of one slice that count.
#[derive(Debug)]
struct Slice {
    calls_ns: Vec<u64>,
    took: Duration,
    /// CPU time.
    caller: Duration,
    partner: Duration,
}

impl Slice {
    fn measure(contestant: &mut dyn Blocking, rate_per_s: u32, seed: u64) -> Result<Self, Error> {
        let mut arrivals = Arrivals::new(f64::from(rate_per_s), Spacing::Poisson, seed);
        let mut item = 0;
        let begin = Instant::now();
        // Calls until then; the times they took, and their CPU time.
        let mut calls_until = |contestant: &mut dyn Blocking, end: Instant| {
            let (mut calls_ns, mut used) = (Vec::with_capacity(1 << 14), Duration::ZERO);
            loop {
                let due = begin + Duration::from_nanos(arrivals.next().expect("arrivals never end"));
                if due.max(Instant::now()) >= end {
                    return Ok::<_, Error>((calls_ns, used));
                }
                nap::until(due);
                let used_before = cpu_time::of_this_thread();
                let called = Instant::now();
                contestant.call(item)?;
                calls_ns.push(called.elapsed().as_nanos() as u64);
                used += cpu_time::of_this_thread() - used_before;
                item += 1;
            }
        };
        calls_until(contestant, begin + WARM_UP)?;
        let (counted_from, partner_before) = (Instant::now(), contestant.partner_cpu_time()?);
        let (calls_ns, caller) = calls_until(contestant, begin + SLICE)?;
        nap::until(begin + SLICE);
        let (took, partner_after) = (counted_from.elapsed(), contestant.partner_cpu_time()?);
        Ok(Self { calls_ns, took, caller, partner: partner_after - partner_before })
    }
}

impl turns::Slice for Slice {
    fn samples(&self) -> usize {
        self.calls_ns.len()
    }
}

/// Those of one rate, regime by regime.
fn rows(rate_per_s: u32, measured: &[(Name, Sorted<Slice>)]) -> Vec<Row> {
    let in_regime = |regime: Regime| {
        let futex = measured.iter().find(|((who, _), _)| *who == "futex");
        let futex_us = futex.map_or(f64::NAN, |(_, slices)| calls(slices.of(regime)).us(0.5));
        let present = measured.iter().filter(move |(_, slices)| !slices.of(regime).is_empty());
        present.map(move |((who, spin_us), slices)| {
            let row = Row::new(Job::Wake.name(), who).regime(regime).at("rate_per_s", rate_per_s);
            let row = spin_us.iter().fold(row, |row, &us| row.at("spin_us", us));
            figures(row, slices.of(regime), futex_us)
        })
    };
    Regime::ALL.into_iter().flat_map(in_regime).collect()
}

fn calls(slices: &[Slice]) -> Percentiles {
    Percentiles::of(slices.iter().flat_map(|slice| slice.calls_ns.iter().copied()))
}

fn figures(row: Row, slices: &[Slice], futex_us: f64) -> Row {
    let calls = calls(slices);
    let sum_s = |time: fn(&Slice) -> Duration| slices.iter().map(time).sum::<Duration>().as_secs_f64();
    let took_s = sum_s(|slice| slice.took);
    let (caller_s, worker_s) = (sum_s(|slice| slice.caller), sum_s(|slice| slice.partner));
    let percent = |used_s| used_s / took_s * 100.0;
    row.figure("sent_per_s", calls.count() as f64 / took_s)
        .figure("p50_us", calls.us(0.5))
        .figure("p99_us", calls.us(0.99))
        .figure("max_us", calls.max_us())
        .figure("mean_us", calls.mean_us())
        .figure("ratio_to_futex", calls.us(0.5) / futex_us)
        .figure("cpu_percent", percent(caller_s + worker_s))
        .figure("caller_cpu_percent", percent(caller_s))
        .figure("worker_cpu_percent", percent(worker_s))
        .figure("cpu_us_per_call", (caller_s + worker_s) * 1e6 / calls.count() as f64)
        .figure("rounds", slices.len() as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_of_the_time_that_counts() {
        let slice = |calls_ns, partner| Slice {
            calls_ns: vec![calls_ns; 50],
            took: Duration::from_millis(100),
            caller: Duration::from_millis(5),
            partner: Duration::from_millis(partner),
        };
        let row = figures(Row::new("wake", "test"), &[slice(40_000, 10), slice(60_000, 30)], 25.0);
        let value = |name| row.value(name).unwrap();
        assert_eq!((value("caller_cpu_percent"), value("worker_cpu_percent")), (5.0, 20.0));
        assert_eq!((value("cpu_percent"), value("sent_per_s")), (25.0, 500.0));
        assert_eq!(value("cpu_us_per_call"), 500.0);
        // As precise as a histogram is.
        assert!((value("mean_us") / 50.0 - 1.0).abs() < 2e-3, "{row:?}");
        assert!((value("ratio_to_futex") / 1.6 - 1.0).abs() < 2e-3, "{row:?}");
    }
}
