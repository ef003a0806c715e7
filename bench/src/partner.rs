//! The other side of a contestant in this process: a thread that sleeps between slices.
//!
//! While its contestant is measured the thread spins on its own CPU, as a rival at its best would. While
//! another contestant is measured it must not run at all: a spinning bystander would take the CPU that the other's
//! partner needs.
//!
//! *Protocol.* The client opens and closes a gate.
//!
//! | Gate | Partner | Left by |
//! |---|---|---|
//! | closed | sleeps on the condition variable | the client: [`Partner::resume`], or drop |
//! | open | serves, and spins while there is nothing to serve | the client: [`Partner::pause`], or drop |
//!
//! [`Partner::pause`] returns once the thread has reported that it sleeps, so the next measurement starts on
//! quiet CPUs.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread::{self, JoinHandle};

use crate::Error;
use crate::pin::pin_to;

/// A thread that serves one contestant while its gate is open.
pub struct Partner {
    gate: Arc<Gate>,
    thread: Option<JoinHandle<()>>,
}

/// Aligned, so that the flag which the partner reads on every turn shares its line with nothing that is
/// written.
#[repr(align(128))]
#[derive(Default)]
struct Gate {
    /// The flag that the partner reads between two turns. Relaxed: everything else travels under the mutex.
    open: AtomicBool,
    state: Mutex<Turn>,
    changed: Condvar,
}

#[derive(Default)]
struct Turn {
    open: bool,
    /// The contestant is gone: the thread ends.
    over: bool,
    /// The thread sleeps, or is about to with the mutex in its hand.
    asleep: bool,
}

impl Partner {
    /// Starts the thread on `cpu`, asleep. Between [`resume`](Self::resume) and [`pause`](Self::pause) it
    /// repeats `turn`.
    ///
    /// # Errors
    ///
    /// [`Error::Spawn`] or [`Error::Pin`] if the system refuses the thread or the CPU.
    pub fn spawn(
        who: &'static str,
        cpu: usize,
        mut turn: impl FnMut() + Send + 'static,
    ) -> Result<Self, Error> {
        let gate = Arc::new(Gate::default());
        let (pinned, ready) = mpsc::channel();
        let thread = thread::Builder::new()
            .name(who.to_owned())
            .spawn({
                let gate = Arc::clone(&gate);
                move || {
                    let _bomb = AbortOnPanic;
                    let result = pin_to(cpu);
                    let refused = result.is_err();
                    if pinned.send(result).is_err() || refused {
                        return;
                    }
                    while gate.wait_until_open() {
                        while gate.open.load(Relaxed) {
                            turn();
                        }
                    }
                }
            })
            .map_err(|source| Error::Spawn { who, source })?;
        let partner = Self { gate, thread: Some(thread) };
        ready.recv().expect("a partner reports before it ends")?;
        Ok(partner)
    }

    /// Wakes the thread; does not wait until it runs.
    pub fn resume(&self) {
        self.gate.set(|state| state.open = true);
    }

    /// Sends the thread to sleep and waits until it is.
    pub fn pause(&self) {
        self.gate.set(|state| state.open = false);
        drop(self.gate.wait_while(self.gate.lock(), |state| !state.asleep));
    }
}

impl Drop for Partner {
    fn drop(&mut self) {
        self.gate.set(|state| {
            state.open = false;
            state.over = true;
        });
        if let Some(thread) = self.thread.take() {
            thread.join().expect("a partner that panics takes the program along");
        }
    }
}

impl fmt::Debug for Partner {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Partner").field("thread", &self.thread).finish_non_exhaustive()
    }
}

impl Gate {
    fn set(&self, change: impl FnOnce(&mut Turn)) {
        let mut state = self.lock();
        change(&mut state);
        self.open.store(state.open, Relaxed);
        self.changed.notify_all();
    }

    /// Sleeps while the gate is closed; `false` once the contestant is gone.
    fn wait_until_open(&self) -> bool {
        let mut state = self.lock();
        state.asleep = true;
        self.changed.notify_all();
        state = self.wait_while(state, |state| !state.open && !state.over);
        state.asleep = false;
        !state.over
    }

    fn wait_while<'a>(
        &self,
        state: MutexGuard<'a, Turn>,
        condition: impl FnMut(&mut Turn) -> bool,
    ) -> MutexGuard<'a, Turn> {
        self.changed.wait_while(state, condition).unwrap_or_else(PoisonError::into_inner)
    }

    fn lock(&self) -> MutexGuard<'_, Turn> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A client spins until its partner answers: a partner that panics must not leave it spinning for ever.
pub(crate) struct AbortOnPanic;

impl Drop for AbortOnPanic {
    fn drop(&mut self) {
        if thread::panicking() {
            std::process::abort();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU64;

    use super::*;

    #[test]
    fn takes_turns_only_while_its_gate_is_open() {
        let turns = Arc::new(AtomicU64::new(0));
        let cpu = ringmill::cpu::allowed()[0];
        let partner = Partner::spawn("test", cpu, {
            let turns = Arc::clone(&turns);
            move || {
                turns.fetch_add(1, Relaxed);
            }
        })
        .unwrap();
        partner.pause();
        assert_eq!(turns.load(Relaxed), 0);
        for _ in 0..3 {
            let before = turns.load(Relaxed);
            partner.resume();
            while turns.load(Relaxed) == before {
                thread::yield_now();
            }
            partner.pause();
            let at_rest = turns.load(Relaxed);
            thread::yield_now();
            assert_eq!(turns.load(Relaxed), at_rest);
        }
    }

    #[test]
    fn a_cpu_that_is_not_there_is_an_error() {
        let error = Partner::spawn("test", 1 << 20, || ()).unwrap_err();
        assert!(matches!(error, Error::Pin { cpu, .. } if cpu == 1 << 20));
    }
}
