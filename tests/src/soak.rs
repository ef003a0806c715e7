//! A soak: very many requests through one server, during which nothing may grow.
//!
//! Requests are streamed, in lengths between which some are called one by one (their latency is measured) and
//! some are sent and given up. Now and then a request is so large that it lies in a block. After each length, when
//! nothing is in progress, the run looks at everything that could leak.
//!
//! It compares the looks of the first tenth of the run with the others: memory of the server's process and of its
//! workers' may not have grown by more than [`MOST_GROWTH`], descriptors and threads not at all, and no block and no
//! permit may be taken at any look. Speed and latency are only reported.

use hdrhistogram::Histogram;
use ringmill::{Batch, BatchWorker, BoxError, CallError, Context, ProcessServlet, Server};
use ringmill_shm::segment::{Location, Segment};
use serde::Serialize;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// How much more memory a process may use than in the first tenth of the run.
pub const MOST_GROWTH: u64 = 2 << 20;
/// Looks in each tenth of the run.
const LOOKS: u64 = 5;
/// Requests that are called one by one before each look.
const CALLS: u64 = 200;
/// Requests that are given up before each look.
const GIVEN_UP: u64 = 50;

/// An input: a number, and now and then a load.
#[derive(Debug, Clone, PartialEq, Eq, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
pub struct Parcel {
    number: u64,
    load: Vec<u8>,
}

impl Parcel {
    fn new(number: u64) -> Self {
        let length = if number.is_multiple_of(251) { 100 + number % 3000 } else { 0 };
        Self { number, load: vec![number as u8; length as usize] }
    }

    fn answer(number: u64, load: &[u8]) -> u64 {
        number + load.len() as u64 + load.last().map_or(0, |&byte| byte.into())
    }
}

/// Answers parcels.
#[derive(Debug)]
pub struct Clerk;

impl BatchWorker for Clerk {
    type Config = ();
    type In = Parcel;
    type Out = u64;

    fn new((): (), _: &Context) -> Result<Self, BoxError> {
        Ok(Self)
    }

    fn call(&mut self, batch: Batch<'_, Self>) -> Result<(), BoxError> {
        for item in batch {
            let answer = Parcel::answer(item.input().number.to_native(), &item.input().load);
            item.reply(answer);
        }
        Ok(())
    }
}

/// Resources in use at one moment between two lengths.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Look {
    /// Memory of the server's process, in bytes: its own, for the segment's was reserved when it was made.
    pub server_bytes: u64,
    /// Memory of all its workers' processes.
    pub workers_bytes: u64,
    /// Descriptors of the server's process and of its workers'.
    pub descriptors: u64,
    /// Threads of all of them.
    pub threads: u64,
    /// Blocks of the segment that are taken.
    pub blocks: u64,
    /// Permits that are taken.
    pub permits: u64,
}

/// A tenth of a run.
#[derive(Debug, Clone, Serialize)]
pub struct Tenth {
    /// Streamed requests a second.
    pub per_second: f64,
    /// Latency of single calls in nanoseconds: median, 99 of 100, 999 of 1000, longest.
    pub call_ns: [u64; 4],
    /// Its looks.
    pub looks: Vec<Look>,
}

impl Tenth {
    /// The median of the looks.
    #[must_use]
    pub fn median(&self, of: impl Fn(&Look) -> u64) -> u64 {
        let mut all: Vec<u64> = self.looks.iter().map(of).collect();
        all.sort_unstable();
        all.get(all.len() / 2).copied().unwrap_or(0)
    }
}

/// A run.
#[derive(Debug, Clone, Serialize)]
pub struct Outcome {
    /// Its tenths.
    pub tenths: Vec<Tenth>,
    /// Requests that ended with their value.
    pub requests: u64,
    /// Requests that were given up.
    pub given_up: u64,
    /// Seconds that it took.
    pub seconds: f64,
    /// What has grown or was left.
    pub problems: Vec<String>,
}

/// Sends this many requests through a server of this name; `done` counts those that have ended.
///
/// # Errors
/// A wrong outcome, or none.
pub fn run(name: &str, requests: u64, done: &AtomicU64) -> Result<Outcome, BoxError> {
    let begun = Instant::now();
    let servlet = ProcessServlet::<Clerk>::new(()).batch_size(256).batch_wait_time(Duration::ZERO);
    let server = Server::builder(name).capacity(1024).max_payload(4096).start(servlet)?;
    let segment = Segment::inspect(Location::named(name)?)?;
    let length = (requests / (10 * LOOKS)).max(1);
    let (mut tenths, mut next, mut given_up) = (Vec::new(), 0, 0);
    while next < requests {
        let mut latency = Histogram::<u64>::new_with_bounds(1, 3_600_000_000_000, 3)?;
        let mut looks = Vec::new();
        let mut streaming = Duration::ZERO;
        let first = next;
        for _ in 0..LOOKS {
            let last = (next + length).min(requests);
            let streamed = Instant::now();
            for (number, outcome) in (next..last).zip(server.stream((next..last).map(Parcel::new))) {
                check(number, outcome)?;
                if number % 65_536 == 0 {
                    done.store(number, Ordering::Relaxed); // Relaxed: for show
                }
            }
            streaming += streamed.elapsed();
            next = last;
            for number in 0..CALLS {
                let called = Instant::now();
                check(number, server.call(&Parcel::new(number)).and_then(|reply| reply.into_owned()))?;
                latency.saturating_record(called.elapsed().as_nanos() as u64);
            }
            for number in 0..GIVEN_UP {
                drop(server.submit(&Parcel::new(number))?);
                given_up += 1;
            }
            crate::wait_until("all permits come back", || server.backlog() == 0);
            looks.push(look(&server, &segment));
        }
        let quantile = |q| latency.value_at_quantile(q);
        let call_ns = [quantile(0.5), quantile(0.99), quantile(0.999), latency.max()];
        tenths.push(Tenth { per_second: (next - first) as f64 / streaming.as_secs_f64(), call_ns, looks });
    }
    done.store(requests, Ordering::Relaxed);
    let problems = ringmill_shm::check::check(&segment);
    let problems = problems.iter().map(ToString::to_string).chain(grown(&tenths)).collect();
    let calls = tenths.iter().map(|tenth| tenth.looks.len() as u64).sum::<u64>() * CALLS;
    Ok(Outcome { tenths, requests: next + calls, given_up, seconds: begun.elapsed().as_secs_f64(), problems })
}

fn check(number: u64, outcome: Result<u64, CallError>) -> Result<(), BoxError> {
    let (value, parcel) = (outcome?, Parcel::new(number));
    let right = Parcel::answer(number, &parcel.load);
    if value == right { Ok(()) } else { Err(BoxError::msg(format!("{number} gave {value}, not {right}"))) }
}

fn look(server: &Server<Parcel, u64>, segment: &Segment) -> Look {
    let servlets = server.stats().servlets;
    let workers: Vec<u32> = servlets.iter().flat_map(|s| &s.workers).map(|worker| worker.pid).collect();
    let me = std::process::id();
    let all = || workers.iter().copied().chain([me]);
    Look {
        server_bytes: status(me, "RssAnon") * 1024,
        workers_bytes: workers.iter().map(|&pid| status(pid, "RssAnon") * 1024).sum(),
        descriptors: all().map(descriptors).sum(),
        threads: all().map(|pid| status(pid, "Threads")).sum(),
        blocks: ringmill_shm::pool::in_use(segment).iter().sum(),
        permits: server.backlog() as u64,
    }
}

/// A number of a process's status; 0 if it is not there.
fn status(pid: u32, key: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

fn descriptors(pid: u32) -> u64 {
    std::fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, |fds| fds.count() as u64)
}

/// A number of a look.
type Of = fn(&Look) -> u64;

/// What has grown since the first tenth, or was left at a look.
fn grown(tenths: &[Tenth]) -> Vec<String> {
    let mut problems = Vec::new();
    let Some((first, others)) = tenths.split_first() else { return problems };
    let largest = |tenth: &Tenth, of: Of| tenth.looks.iter().map(of).max().unwrap_or(0);
    let kinds: [(&str, Of, u64); 4] = [
        ("memory of the server's process", |look| look.server_bytes, MOST_GROWTH),
        ("memory of its workers", |look| look.workers_bytes, MOST_GROWTH),
        ("descriptors", |look| look.descriptors, 0),
        ("threads", |look| look.threads, 0),
    ];
    for (what, of, most) in kinds {
        let before = largest(first, of);
        // The median of a tenth: a single look may meet a process amid an allocation.
        let after = others.iter().map(|tenth| tenth.median(of)).max().unwrap_or(0);
        if after > before + most {
            problems.push(format!("{what}: {before} in the first tenth, {after} later"));
        }
    }
    let left = tenths.iter().flat_map(|tenth| &tenth.looks).filter(|look| look.blocks + look.permits > 0);
    problems.extend(left.map(|look| format!("{} blocks and {} permits are left", look.blocks, look.permits)));
    problems
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tenth(server_bytes: u64, blocks: u64) -> Tenth {
        let look = Look { server_bytes, workers_bytes: 1, descriptors: 9, threads: 4, blocks, permits: 0 };
        Tenth { per_second: 1.0, call_ns: [1; 4], looks: vec![look; 3] }
    }

    #[test]
    fn growth_and_leaks_are_problems() {
        let flat = [tenth(5 << 20, 0), tenth((5 << 20) + MOST_GROWTH, 0)];
        assert_eq!(grown(&flat), Vec::<String>::new());
        assert_eq!(grown(&[tenth(5 << 20, 0), tenth((5 << 20) + MOST_GROWTH + 1, 0)]).len(), 1);
        assert_eq!(grown(&[tenth(5 << 20, 0), tenth(5 << 20, 1)]).len(), 3);
    }
}
