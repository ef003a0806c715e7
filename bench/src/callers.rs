//! Several calling threads that share the client's CPU, and how long each of them waits for its answers.
//!
//! They sleep until [`Callers::stream`] gives each its part of the items; it returns when the last has done its part. Each
//! caller times a few of its items, from making the question until the answer has been checked: so a caller that the others
//! starve shows.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Instant;

use hdrhistogram::Histogram;

use crate::Error;
use crate::partner::AbortOnPanic;
use crate::pin::pin_to;

/// One calling thread, as its contestant makes it.
pub trait Caller: Send + 'static {
    /// `items` items, up to `window` of them in progress at once, each answer checked, with the times of some of them.
    ///
    /// # Errors
    ///
    /// As [`Contestant::stream`](crate::contestant::Contestant::stream).
    fn stream(&mut self, items: u64, window: u32, stopwatch: &Stopwatch) -> Result<(), Error>;
}

/// The threads.
pub struct Callers {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<Work>,
    changed: Condvar,
}

#[derive(Default)]
struct Work {
    /// Counts the tasks that the threads were given.
    task: u64,
    items_each: u64,
    window: u32,
    /// How many threads have not done their part yet.
    busy: usize,
    /// The first error of the task.
    failed: Option<Error>,
    /// The contestant is gone: the threads end.
    over: bool,
    /// The times that have been taken, a histogram a thread.
    latencies_ns: Vec<Histogram<u64>>,
}

impl Callers {
    /// Starts a thread on `cpu` for each of `callers`, asleep.
    ///
    /// # Errors
    ///
    /// [`Error::Spawn`] or [`Error::Pin`] if the system refuses the threads or the CPU.
    pub fn spawn(
        who: &'static str,
        cpu: usize,
        callers: impl IntoIterator<Item = impl Caller>,
    ) -> Result<Self, Error> {
        let mut all = Self { shared: Arc::default(), threads: Vec::new() };
        for (index, mut caller) in callers.into_iter().enumerate() {
            let mut state = all.shared.lock();
            state.busy += 1;
            state.latencies_ns.push(histogram());
            drop(state);
            let shared = Arc::clone(&all.shared);
            let thread = thread::Builder::new().name(format!("{who} {index}")).spawn(move || {
                let _bomb = AbortOnPanic;
                let pinned = pin_to(cpu);
                let refused = pinned.is_err();
                shared.done(index, pinned, &Stopwatch::default());
                if !refused {
                    shared.serve(index, &mut caller);
                }
            });
            match thread {
                Ok(thread) => all.threads.push(thread),
                Err(source) => {
                    all.shared.lock().busy -= 1;
                    return Err(Error::Spawn { who, source });
                }
            }
        }
        all.wait()?;
        Ok(all)
    }

    /// `items` items by all threads together, up to `window` of each in progress at once.
    ///
    /// # Errors
    ///
    /// The first error of any of them.
    pub fn stream(&self, items: u64, window: u32) -> Result<(), Error> {
        let mut state = self.shared.lock();
        state.task += 1;
        state.items_each = items.div_ceil(self.threads.len() as u64);
        state.window = window;
        state.busy = self.threads.len();
        drop(state);
        self.shared.changed.notify_all();
        self.wait()
    }

    /// The times taken since this was last asked, in nanoseconds, a histogram a thread.
    pub fn latencies_ns(&self) -> Vec<Histogram<u64>> {
        self.shared
            .lock()
            .latencies_ns
            .iter_mut()
            .map(|taken| std::mem::replace(taken, histogram()))
            .collect()
    }

    fn wait(&self) -> Result<(), Error> {
        let state = self.shared.lock();
        let mut state = self
            .shared
            .changed
            .wait_while(state, |state| state.busy > 0)
            .unwrap_or_else(PoisonError::into_inner);
        state.failed.take().map_or(Ok(()), Err)
    }
}

impl Drop for Callers {
    fn drop(&mut self) {
        self.shared.lock().over = true;
        self.shared.changed.notify_all();
        for thread in self.threads.drain(..) {
            thread.join().expect("a caller that panics takes the program along");
        }
    }
}

impl fmt::Debug for Callers {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Callers").field("threads", &self.threads).finish_non_exhaustive()
    }
}

impl Shared {
    /// Does one task after the other until the contestant is gone.
    fn serve(&self, index: usize, caller: &mut impl Caller) {
        let mut done = 0;
        loop {
            let state = self.lock();
            let state = self
                .changed
                .wait_while(state, |state| state.task == done && !state.over)
                .unwrap_or_else(PoisonError::into_inner);
            if state.over {
                return;
            }
            done = state.task;
            let (items, window) = (state.items_each, state.window);
            drop(state);
            let stopwatch = Stopwatch::default();
            let outcome = caller.stream(items, window, &stopwatch);
            self.done(index, outcome, &stopwatch);
        }
    }

    fn done(&self, index: usize, outcome: Result<(), Error>, stopwatch: &Stopwatch) {
        let mut state = self.lock();
        for &ns in &*stopwatch.taken_ns.borrow() {
            state.latencies_ns[index].saturating_record(ns);
        }
        if let Err(error) = outcome {
            state.failed.get_or_insert(error);
        }
        state.busy -= 1;
        if state.busy == 0 {
            self.changed.notify_all();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Work> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// From 1 ns to 100 s, to a hundredth.
fn histogram() -> Histogram<u64> {
    Histogram::new_with_max(100_000_000_000, 2).expect("the bounds are fine")
}

/// Times of one item in 61 of one thread; taking all of them would cost as much as the items.
#[derive(Debug, Default)]
pub struct Stopwatch {
    /// When those were asked that have not been answered, oldest first.
    running: RefCell<VecDeque<Instant>>,
    taken_ns: RefCell<Vec<u64>>,
}

/// A prime, so that it keeps no step with batches and windows.
const EVERY: u64 = 61;

impl Stopwatch {
    /// The question of item number `item` is made.
    #[inline]
    pub fn asked(&self, item: u64) {
        if item.is_multiple_of(EVERY) {
            self.running.borrow_mut().push_back(Instant::now());
        }
    }

    /// The answer to item number `item` has been checked. Calls come in the items' order.
    ///
    /// # Panics
    ///
    /// If it has not been asked.
    #[inline]
    pub fn answered(&self, item: u64) {
        if item.is_multiple_of(EVERY) {
            let asked = self.running.borrow_mut().pop_front().expect("it has been asked");
            self.taken_ns.borrow_mut().push(asked.elapsed().as_nanos() as u64);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

    struct Counter {
        items: Arc<AtomicU64>,
        fails_at: Option<u64>,
    }

    impl Caller for Counter {
        fn stream(&mut self, items: u64, _: u32, stopwatch: &Stopwatch) -> Result<(), Error> {
            for item in 0..items {
                stopwatch.asked(item);
                self.items.fetch_add(1, Relaxed);
                if self.fails_at == Some(item) {
                    return Err(Error::WrongAnswer { who: "test", item });
                }
                stopwatch.answered(item);
            }
            Ok(())
        }
    }

    fn callers(fails_at: [Option<u64>; 3]) -> (Callers, Arc<AtomicU64>) {
        let items = Arc::new(AtomicU64::new(0));
        let cpu = ringmill::cpu::allowed()[0];
        let counters = fails_at.map(|fails_at| Counter { items: Arc::clone(&items), fails_at });
        (Callers::spawn("test", cpu, counters).unwrap(), items)
    }

    #[test]
    fn each_does_its_part_and_takes_times() {
        let (callers, items) = callers([None; 3]);
        for task in 1..=3 {
            callers.stream(3000, 8).unwrap();
            assert_eq!(items.load(Relaxed), task * 3000);
        }
        let taken: Vec<u64> = callers.latencies_ns().iter().map(Histogram::len).collect();
        assert_eq!(taken, [3 * 1000_u64.div_ceil(EVERY); 3]);
        assert!(callers.latencies_ns().iter().all(Histogram::is_empty), "the times come once only");
    }

    #[test]
    fn an_error_of_one_ends_the_task() {
        let (callers, items) = callers([None, Some(5), None]);
        let error = callers.stream(300, 8).unwrap_err();
        assert!(matches!(error, Error::WrongAnswer { item: 5, .. }));
        assert_eq!(items.load(Relaxed), 206);
    }

    #[test]
    fn a_cpu_that_is_not_there_is_an_error() {
        let caller = Counter { items: Arc::default(), fails_at: None };
        let error = Callers::spawn("test", 1 << 20, [caller]).unwrap_err();
        assert!(matches!(error, Error::Pin { cpu, .. } if cpu == 1 << 20));
    }
}
