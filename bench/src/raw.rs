//! `raw`: the bare cache-line ping-pong, the limit that everything is measured against.
//!
//! One line, written by both sides in turn: the client stores an odd number and spins until the partner has
//! replaced it by the next even one. That is the least that a question and an answer between two CPUs can
//! cost.

use std::hint;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Acquire, Ordering::Release};

use crate::Error;
use crate::contestant::Contestant;
use crate::partner::Partner;
use crate::pin::CpuPair;

/// A client and a partner that pass one cache line back and forth.
#[derive(Debug)]
pub struct Raw {
    line: Arc<Line>,
    partner: Partner,
}

/// Two lines wide, because some processors fetch lines in pairs.
#[repr(align(128))]
#[derive(Debug, Default)]
struct Line(AtomicU64);

impl Raw {
    /// Starts the partner's thread.
    ///
    /// # Errors
    ///
    /// Those of [`Partner::spawn`].
    pub fn start(cpus: CpuPair) -> Result<Self, Error> {
        let line = Arc::new(Line::default());
        let partner = Partner::spawn("raw", cpus.partner, {
            let line = Arc::clone(&line);
            move || {
                let number = line.0.load(Acquire);
                if number % 2 == 1 {
                    line.0.store(number + 1, Release);
                } else {
                    hint::spin_loop();
                }
            }
        })?;
        Ok(Self { line, partner })
    }
}

impl Contestant for Raw {
    fn name(&self) -> &'static str {
        "raw"
    }

    fn resume(&mut self) {
        self.partner.resume();
    }

    fn pause(&mut self) {
        self.partner.pause();
    }

    fn call(&mut self, items: u64) -> Result<(), Error> {
        for item in 0..items {
            self.line.0.store(2 * item + 1, Release);
            while self.line.0.load(Acquire) != 2 * item + 2 {
                hint::spin_loop();
            }
        }
        Ok(())
    }

    /// One line has room for one item: the same as [`call`](Self::call).
    fn stream(&mut self, items: u64, _: u32) -> Result<(), Error> {
        self.call(items)
    }
}
