//! One level of load: threads that send requests, window after window, until the level has been measured.
//!
//! *Concurrency*: each thread sends its next request when it has the outcome of the last one.
//!
//! *Request rate*: requests are due at instants that do not depend on the outcomes. The next one belongs to the first
//! thread that is free, which waits until it is due. Its latency counts from then, so a request that could not be sent
//! in time, because all threads waited for slow ones, is slow too (no coordinated omission). How late requests were
//! sent is told apart.

use super::windows::{Clock, Figures, Next, RECENT, Tallies, Tally, Trials};
use crate::ending;
use crate::error::ToolError;
use ringmill::stats::ServerStats;
use ringmill::{CallOptions, Server, WhenFull};
use ringmill_load::arrivals::{Arrivals, Spacing};
use std::panic::resume_unwind;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Mutex, MutexGuard};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

/// A level of load.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Level {
    /// So many requests in progress.
    Concurrency(usize),
    /// So many a second, by at most so many threads.
    Rate { per_s: f64, spacing: Spacing, threads: usize },
}

impl Level {
    fn threads(self) -> usize {
        match self {
            Self::Concurrency(threads) | Self::Rate { threads, .. } => threads,
        }
    }
}

/// How a level is measured.
pub(super) struct Plan<'a> {
    pub(super) warm_up: Duration,
    pub(super) window: Duration,
    pub(super) trials: Trials,
    /// The figures of a window.
    pub(super) figures: &'a dyn Fn(&Tally) -> Figures,
    /// Told before each window, with its number from 1.
    pub(super) begins: &'a dyn Fn(usize),
}

/// What was seen at a level, in its last windows.
#[derive(Debug)]
pub(super) struct Seen {
    pub(super) tally: Tally,
    /// Requests that were due and could not be sent, for as long as one window after the last one.
    pub(super) unsent: u64,
    /// How long the last windows were together.
    pub(super) time: Duration,
    /// How many windows there were in all.
    pub(super) windows: usize,
    /// Whether the last ones agreed, if there were enough of them.
    pub(super) is_stable: Option<bool>,
    /// Items of the last windows, and batches.
    pub(super) items: u64,
    pub(super) batches: u64,
    /// A signal cut it short.
    pub(super) is_cut: bool,
}

#[derive(Debug, Clone, Copy)]
enum Event {
    Signal,
    /// A thread that sent requests has ended.
    Ended,
}

/// What a level waits for.
pub(super) struct Events {
    sender: Sender<Event>,
    came: Receiver<Event>,
}

impl Events {
    /// From now on SIGINT and SIGTERM cut a level short.
    pub(super) fn of_signals() -> Result<Self, ToolError> {
        let events = Self::none();
        ending::forward_signals(events.sender.clone(), Event::Signal)?;
        Ok(events)
    }

    fn none() -> Self {
        let (sender, came) = channel();
        Self { sender, came }
    }

    /// Sleeps until then, or until a signal comes: then, true. Counts threads that have ended.
    fn sleep_until(&self, until: Instant, ended: &mut usize) -> bool {
        loop {
            match self.came.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(Event::Signal) => return true,
                Ok(Event::Ended) => *ended += 1,
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => return false,
            }
        }
    }

    /// Sleeps until all threads have ended; calls `cut` when a signal comes.
    fn await_threads(&self, threads: usize, ended: &mut usize, mut cut: impl FnMut()) {
        while *ended < threads {
            match self.came.recv() {
                Ok(Event::Ended) => *ended += 1,
                Ok(Event::Signal) | Err(_) => cut(),
            }
        }
    }
}

/// Tells that a thread has ended, however it has.
struct Farewell(Sender<Event>);

impl Drop for Farewell {
    fn drop(&mut self) {
        let _ = self.0.send(Event::Ended); // the receiver waits for it
    }
}

/// What the threads of a level share.
struct Shared {
    begin: Instant,
    clock: Clock,
    /// Requests that are due from then on are not sent, in nanoseconds after `begin`; `u64::MAX` while none is.
    stop_ns: AtomicU64,
    /// No outcome counts any more.
    is_cut: AtomicBool,
    arrivals: Option<Mutex<Arrivals>>,
}

fn locked<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(|e| e.into_inner())
}

impl Shared {
    fn now_ns(&self) -> u64 {
        self.begin.elapsed().as_nanos() as u64
    }

    fn at(&self, ns: u64) -> Instant {
        self.begin + Duration::from_nanos(ns)
    }

    fn stop_ns(&self) -> u64 {
        self.stop_ns.load(Ordering::Acquire)
    }

    fn is_cut(&self) -> bool {
        self.is_cut.load(Ordering::Acquire)
    }

    /// Stops all threads; those that wait for a request that is due later learn it.
    fn stop(&self, ns: u64, threads: &[Thread]) {
        self.stop_ns.fetch_min(ns, Ordering::Release);
        threads.iter().for_each(Thread::unpark);
    }

    fn cut(&self, threads: &[Thread]) {
        self.is_cut.store(true, Ordering::Release);
        self.stop(0, threads);
    }

    /// A thread of which each request begins when the last one has ended.
    fn closed(&self, tallies: &Mutex<Tallies>, call: impl Fn() -> Result<(), String>) {
        loop {
            let sent = self.now_ns();
            if sent >= self.stop_ns() {
                return;
            }
            let outcome = call();
            let ended = self.now_ns();
            if self.is_cut() {
                return;
            }
            locked(tallies).note(&self.clock, [sent, sent, ended], outcome);
        }
    }

    /// A thread that takes the next request that is due, whenever it is free. Those that were due in time are sent
    /// after the last window too, for as long as one window.
    fn open(
        &self,
        arrivals: &Mutex<Arrivals>,
        tallies: &Mutex<Tallies>,
        call: impl Fn() -> Result<(), String>,
    ) {
        loop {
            let due = locked(arrivals).next().expect("arrivals never end");
            loop {
                let (now, stop) = (self.now_ns(), self.stop_ns());
                if due >= stop {
                    return;
                }
                if now >= stop.saturating_add(self.clock.window_ns) {
                    return locked(tallies).miss(&self.clock, due);
                }
                if now >= due {
                    break;
                }
                thread::park_timeout(Duration::from_nanos(due - now)); // `stop` unparks it
            }
            let sent = self.now_ns();
            let outcome = call();
            let ended = self.now_ns();
            if self.is_cut() {
                return;
            }
            locked(tallies).note(&self.clock, [due, sent, ended], outcome);
        }
    }
}

/// Loads a server until the level has been measured, or a signal comes. After a signal the server is shut down, so that
/// no thread waits for an answer.
pub(super) fn load(
    server: &Server<Vec<u8>, Vec<u8>>,
    payload: &[u8],
    level: Level,
    plan: &Plan<'_>,
    events: &Events,
) -> Seen {
    let shared = Shared {
        begin: Instant::now(),
        clock: Clock::new(plan.warm_up, plan.window),
        stop_ns: AtomicU64::new(u64::MAX),
        is_cut: AtomicBool::new(false),
        arrivals: match level {
            Level::Concurrency(_) => None,
            // The same requests in each run.
            Level::Rate { per_s, spacing, .. } => Some(Mutex::new(Arrivals::new(per_s, spacing, 1))),
        },
    };
    let call = || {
        let options = CallOptions::new().when_full(WhenFull::Wait);
        server.call_ref_with(payload, options).map(drop).map_err(|error| error.to_string())
    };
    let lanes: Vec<Mutex<Tallies>> = (0..level.threads()).map(|_| Mutex::default()).collect();
    thread::scope(|scope| {
        let run = |lane| {
            let (shared, farewell) = (&shared, Farewell(events.sender.clone()));
            scope.spawn(move || {
                let _farewell = farewell; // dropped last
                match &shared.arrivals {
                    None => shared.closed(lane, call),
                    Some(arrivals) => shared.open(arrivals, lane, call),
                }
            })
        };
        let handles: Vec<_> = lanes.iter().map(run).collect();
        let threads: Vec<Thread> = handles.iter().map(|handle| handle.thread().clone()).collect();
        let seen = Measuring { shared: &shared, lanes: &lanes, threads: &threads, events, plan }.run(server);
        for handle in handles {
            handle.join().unwrap_or_else(|panic| resume_unwind(panic));
        }
        seen
    })
}

/// Items that workers had in batches, and the batches.
fn batched(stats: &ServerStats) -> (u64, u64) {
    let counters = stats.servlets.iter().flat_map(|servlet| &servlet.workers).map(|worker| worker.counters);
    counters.fold((0, 0), |(items, batches), of| (items + of.items, batches + of.batches))
}

/// The thread that measures a level.
struct Measuring<'a> {
    shared: &'a Shared,
    lanes: &'a [Mutex<Tallies>],
    threads: &'a [Thread],
    events: &'a Events,
    plan: &'a Plan<'a>,
}

impl Measuring<'_> {
    fn collect(&self, all: &mut Tallies) {
        self.lanes.iter().for_each(|lane| all.add(std::mem::take(&mut *locked(lane))));
    }

    fn run(&self, server: &Server<Vec<u8>, Vec<u8>>) -> Seen {
        let (shared, clock) = (self.shared, self.shared.clock);
        let (mut all, mut figures, mut marks, mut ended) = (Tallies::default(), Vec::new(), Vec::new(), 0);
        let mut is_stable = None;
        let mut is_cut = self.events.sleep_until(shared.at(clock.begins_ns(0)), &mut ended);
        while !is_cut {
            marks.push(batched(&server.stats()));
            (self.plan.begins)(marks.len());
            is_cut = self.events.sleep_until(shared.at(clock.begins_ns(marks.len())), &mut ended);
            if is_cut {
                break;
            }
            self.collect(&mut all);
            figures.push((self.plan.figures)(all.of(figures.len())));
            if let Next::Enough(agree) = self.plan.trials.after(&figures) {
                is_stable = agree;
                break;
            }
        }
        let windows = marks.len();
        let end_ns = clock.begins_ns(windows).min(shared.now_ns());
        marks.push(batched(&server.stats()));
        let cut = || {
            shared.cut(self.threads);
            server.shutdown();
        };
        match is_cut {
            true => cut(),
            false => shared.stop(end_ns, self.threads),
        }
        self.events.await_threads(self.threads.len(), &mut ended, || {
            cut();
            is_cut = true;
        });
        self.collect(&mut all);
        let first = windows.saturating_sub(RECENT);
        let begin_ns = clock.begins_ns(first);
        let tally = all.sum(first..windows);
        // Those that no thread came to are due too.
        let untaken = shared.arrivals.as_ref().map_or(0, |arrivals| {
            let arrivals = locked(arrivals);
            arrivals.expected_before(end_ns).saturating_sub(arrivals.expected_before(begin_ns))
        });
        let ((items, batches), (items_before, batches_before)) = (marks[windows], marks[first]);
        Seen {
            unsent: tally.missed + untaken,
            tally,
            time: Duration::from_nanos(end_ns.saturating_sub(begin_ns)),
            windows,
            is_stable,
            items: items - items_before,
            batches: batches - batches_before,
            is_cut,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    fn shared(per_s: Option<f64>, stop_ns: u64, window_ns: u64) -> Shared {
        Shared {
            begin: Instant::now(),
            clock: Clock { warm_up_ns: 0, window_ns },
            stop_ns: AtomicU64::new(stop_ns),
            is_cut: AtomicBool::new(false),
            arrivals: per_s.map(|per_s| Mutex::new(Arrivals::new(per_s, Spacing::Constant, 1))),
        }
    }

    /// What one thread sees in the first window.
    fn opened(shared: &Shared, call: impl Fn() -> Result<(), String>) -> Tally {
        let tallies = Mutex::default();
        shared.open(shared.arrivals.as_ref().unwrap(), &tallies, call);
        tallies.into_inner().unwrap().sum(0..1)
    }

    /// One thread, and a server that is busy with the first request for as long as ten others are due.
    #[test]
    fn a_request_that_could_not_be_sent_in_time_is_slow() {
        let shared = shared(Some(200.0), 55 * MS, 3_600_000 * MS);
        let first = AtomicBool::new(true);
        let tally = opened(&shared, || {
            if first.swap(false, Ordering::SeqCst) {
                thread::sleep(Duration::from_millis(50));
            }
            Ok(())
        });
        assert_eq!((tally.sent, tally.times.count(), tally.missed), (10, 10, 0), "each that was due");
        // The first took at least 50 ms; the second was due 5 ms after it, and sent when that had ended.
        assert!(tally.times.max_ns() >= Some(50 * MS) && tally.lateness.max_ns() >= Some(44 * MS));
    }

    /// Four are due in the window. The first takes until it is too late to send others.
    #[test]
    fn what_is_due_and_cannot_be_sent_for_too_long_is_told() {
        let shared = shared(Some(1_000.0), 5 * MS, 5 * MS);
        let tally = opened(&shared, || {
            while shared.now_ns() < 10 * MS {
                std::hint::spin_loop(); // a server that is slow
            }
            Err("too slow".into())
        });
        assert_eq!((tally.sent, tally.errors, tally.missed, tally.ended), (1, 1, 1, 0));
        assert_eq!(tally.first_error.as_deref(), Some("too slow"));
        let arrivals = shared.arrivals.as_ref().unwrap().lock().unwrap();
        assert_eq!(arrivals.expected_before(5 * MS), 2, "to which no thread came");
    }

    #[test]
    fn a_cut_ends_threads_and_counts_nothing_more() {
        let shared = shared(Some(0.001), u64::MAX, 3_600_000 * MS);
        thread::scope(|scope| {
            let waits = scope.spawn(|| opened(&shared, || unreachable!("due in a quarter of an hour")));
            shared.cut(&[waits.thread().clone()]);
            assert_eq!(waits.join().unwrap().sent, 0);
        });
        let tallies = Mutex::default();
        let shared = self::shared(None, u64::MAX, MS);
        shared.closed(&tallies, || {
            shared.cut(&[]);
            Err("the server was shut down".into())
        });
        assert_eq!(tallies.into_inner().unwrap().sum(0..1).errors, 0);
    }
}
