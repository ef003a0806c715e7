//! One level of load: threads that send requests for a while, and what they saw.
//!
//! *Concurrency*: each thread sends its next request when it has the outcome of the last one.
//!
//! *Request rate*: requests are due at instants that do not depend on the outcomes. The next one belongs to the first thread that
//! is free, which waits until it is due. Its latency counts from then, so a request that could not be sent in time, because all
//! threads waited for slow ones, is slow too (no coordinated omission). How late requests were sent is told apart.

use hdrhistogram::Histogram;
use rand::SeedableRng;
use rand::rngs::SmallRng;
use rand_distr::{Distribution, Exp};
use ringmill::{CallOptions, Server, WhenFull};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// Distances of requests that are due.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Spacing {
    /// All are the same.
    Constant,
    /// As of independent callers: exponentially distributed.
    Poisson,
}

/// A level of load.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Level {
    /// So many requests in progress.
    Concurrency(usize),
    /// So many a second, by at most so many threads.
    Rate { per_s: f64, spacing: Spacing, threads: usize },
}

/// What was seen at a level, within its time.
#[derive(Debug)]
pub(super) struct Seen {
    /// Of the requests that began, or were due, within the time; in nanoseconds.
    pub(super) latencies: Histogram<u64>,
    /// How late they were sent.
    pub(super) lateness: Histogram<u64>,
    /// Outcomes that came within the time.
    pub(super) ended: u64,
    /// Requests without an answer.
    pub(super) errors: u64,
    /// The first of those errors.
    pub(super) first_error: Option<String>,
    /// Requests that were due within the time and could not be sent until after it, for as long again.
    pub(super) unsent: u64,
    pub(super) time: Duration,
    /// A signal cut it short.
    pub(super) is_cut: bool,
}

impl Seen {
    fn new() -> Self {
        // Three digits; it grows as it must.
        let empty = || Histogram::new(3).expect("so few digits can be kept");
        Self {
            latencies: empty(),
            lateness: empty(),
            ended: 0,
            errors: 0,
            first_error: None,
            unsent: 0,
            time: Duration::ZERO,
            is_cut: false,
        }
    }

    fn add(&mut self, other: Self) {
        self.latencies.add(&other.latencies).expect("it grows");
        self.lateness.add(&other.lateness).expect("it grows");
        self.ended += other.ended;
        self.errors += other.errors;
        self.first_error = self.first_error.take().or(other.first_error);
        self.unsent += other.unsent;
    }
}

/// When requests are due, from a beginning on.
#[derive(Debug)]
struct Arrivals {
    random: SmallRng,
    gap_s: f64,
    poisson: Option<Exp<f64>>,
    at_s: f64,
}

impl Arrivals {
    fn new(per_s: f64, spacing: Spacing) -> Self {
        let poisson = (spacing == Spacing::Poisson).then(|| Exp::new(per_s).expect("a rate above 0"));
        // The same requests in each run.
        Self { random: SmallRng::seed_from_u64(1), gap_s: 1.0 / per_s, poisson, at_s: 0.0 }
    }

    fn next(&mut self) -> Duration {
        let gap_s = match &self.poisson {
            Some(exponential) => exponential.sample(&mut self.random),
            None => self.gap_s,
        };
        self.at_s += gap_s;
        Duration::try_from_secs_f64(self.at_s).unwrap_or(Duration::MAX)
    }
}

/// The time of a level: after the warm-up, until its end.
#[derive(Debug, Clone, Copy)]
struct Window {
    begin: Instant,
    from: Instant,
    until: Instant,
}

impl Window {
    /// Notes a request: when it was due, when it was sent, when its outcome came.
    fn note(&self, seen: &mut Seen, [due, sent, ended]: [Instant; 3], outcome: Result<(), String>) {
        seen.ended += u64::from(ended >= self.from && ended < self.until && outcome.is_ok());
        if due < self.from || due >= self.until {
            return;
        }
        let ns = |from: Instant, to: Instant| to.saturating_duration_since(from).as_nanos() as u64;
        seen.lateness.record(ns(due, sent)).expect("it grows");
        match outcome {
            Ok(()) => seen.latencies.record(ns(due, ended)).expect("it grows"),
            Err(error) => {
                seen.errors += 1;
                seen.first_error.get_or_insert(error);
            }
        }
    }
}

/// Loads a server for a time, after a warm-up that is not counted. `wait` sleeps for so long, or until the load is to be cut
/// short: then, true.
pub(super) fn load(
    server: &Server<Vec<u8>, Vec<u8>>,
    payload: &[u8],
    level: Level,
    [warm_up, time]: [Duration; 2],
    wait: impl FnOnce(Duration) -> bool,
) -> Seen {
    let begin = Instant::now();
    let window = Window { begin, from: begin + warm_up, until: begin + warm_up + time };
    let over = AtomicBool::new(false);
    let call = || {
        let options = CallOptions::new().when_full(WhenFull::Wait);
        server.call_ref_with(payload, options).map(drop).map_err(|error| error.to_string())
    };
    let arrivals = match level {
        Level::Concurrency(_) => None,
        Level::Rate { per_s, spacing, .. } => Some(Mutex::new(Arrivals::new(per_s, spacing))),
    };
    let threads = match level {
        Level::Concurrency(threads) | Level::Rate { threads, .. } => threads,
    };
    let one = || match &arrivals {
        None => closed(window, &over, call),
        // Those due within the time are sent after it too, for as long again.
        Some(arrivals) => open(window, || Instant::now() >= window.until + time, &over, arrivals, call),
    };
    let mut all = thread::scope(|scope| {
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(one)).collect();
        let is_cut = wait(warm_up + time);
        over.store(is_cut, Ordering::SeqCst); // else each thread sees the end itself
        threads.iter().for_each(|thread| thread.thread().unpark());
        let mut all = Seen { is_cut, ..Seen::new() };
        for thread in threads {
            match thread.join() {
                Ok(seen) => all.add(seen),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        all
    });
    all.time = time;
    if let Some(arrivals) = arrivals {
        // Those that no thread came to.
        let mut left = arrivals.into_inner().unwrap_or_else(|e| e.into_inner());
        while begin + left.next() < window.until && !all.is_cut {
            all.unsent += 1;
        }
    }
    all
}

/// A thread of which each request begins when the last one has ended.
fn closed(window: Window, over: &AtomicBool, call: impl Fn() -> Result<(), String>) -> Seen {
    let mut seen = Seen::new();
    loop {
        let sent = Instant::now();
        if sent >= window.until || over.load(Ordering::Relaxed) {
            return seen; // Relaxed: it ends at the next look
        }
        let outcome = call();
        window.note(&mut seen, [sent, sent, Instant::now()], outcome);
    }
}

/// A thread that takes the next request that is due, whenever it is free, until it is too late to send one.
fn open(
    window: Window,
    is_too_late: impl Fn() -> bool,
    over: &AtomicBool,
    arrivals: &Mutex<Arrivals>,
    call: impl Fn() -> Result<(), String>,
) -> Seen {
    let mut seen = Seen::new();
    loop {
        let due = window.begin + arrivals.lock().unwrap_or_else(|e| e.into_inner()).next();
        if due >= window.until {
            return seen;
        }
        if is_too_late() {
            seen.unsent += u64::from(due >= window.from);
            return seen;
        }
        // `load` unparks the thread when the load is cut short. Acquire: with the store before that.
        while Instant::now() < due && !over.load(Ordering::Acquire) {
            thread::park_timeout(due.saturating_duration_since(Instant::now()));
        }
        if over.load(Ordering::Acquire) {
            return seen;
        }
        let sent = Instant::now();
        let outcome = call();
        window.note(&mut seen, [due, sent, Instant::now()], outcome);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arrivals_have_the_rate_and_the_same_instants_in_each_run() {
        for spacing in [Spacing::Constant, Spacing::Poisson] {
            let at = |count: usize| {
                let mut arrivals = Arrivals::new(1_000.0, spacing);
                (0..count).map(|_| arrivals.next()).collect::<Vec<_>>()
            };
            let all = at(100_000);
            assert!(all.is_sorted() && all[..100] == at(100));
            let mean = all[99_999].as_secs_f64() / 100_000.0;
            assert!((mean * 1_000.0 - 1.0).abs() < 0.05, "{spacing:?}: {mean}");
            let gaps = || all.windows(2).map(|two| (two[1] - two[0]).as_secs_f64());
            let longer = gaps().filter(|gap| *gap > 1.2e-3).count() as f64 / 1e5;
            match spacing {
                Spacing::Constant => assert_eq!(longer, 0.0),
                Spacing::Poisson => assert!((longer - (-1.2_f64).exp()).abs() < 0.02, "{longer}"),
            }
        }
    }

    /// One thread, and a server that is busy with the first request for as long as ten others are due.
    #[test]
    fn a_request_that_could_not_be_sent_in_time_is_slow() {
        let begin = Instant::now();
        let ms = Duration::from_millis;
        let window = Window { begin, from: begin, until: begin + ms(55) };
        let arrivals = Mutex::new(Arrivals::new(200.0, Spacing::Constant));
        let first = AtomicBool::new(true);
        let seen = open(
            window,
            || false,
            &AtomicBool::new(false),
            &arrivals,
            || {
                if first.swap(false, Ordering::SeqCst) {
                    thread::sleep(ms(50));
                }
                Ok(())
            },
        );
        assert_eq!(seen.latencies.len(), 10, "each that was due");
        // Due 5 ms after the first one, sent at least 45 ms later.
        assert!(
            seen.latencies.iter_recorded().filter(|of| of.value_iterated_to() >= 44_900_000).count() >= 2
        );
        assert!(seen.lateness.max() >= 44_900_000);
        assert_eq!(seen.unsent, 0);
    }

    #[test]
    fn what_is_due_and_cannot_be_sent_for_too_long_is_told() {
        let begin = Instant::now();
        let ms = Duration::from_millis;
        let window = Window { begin, from: begin, until: begin + ms(10) };
        let arrivals = Mutex::new(Arrivals::new(1_000.0, Spacing::Constant));
        let is_too_late = AtomicBool::new(false);
        let seen = open(
            window,
            || is_too_late.load(Ordering::SeqCst),
            &AtomicBool::new(false),
            &arrivals,
            || {
                is_too_late.store(true, Ordering::SeqCst);
                Err("too slow".into())
            },
        );
        assert_eq!(
            (seen.errors, seen.unsent),
            (1, 1),
            "the next one; others, if they are left, are counted by `load`"
        );
        assert_eq!((seen.ended, seen.first_error.as_deref()), (0, Some("too slow")));
    }
}
