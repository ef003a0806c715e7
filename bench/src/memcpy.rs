//! `memcpy`: writing memory and reading it again by one thread, the limit that bulk is measured against.
//!
//! It writes and reads the same items over as many buffers as the other contestants; only nothing moves to another CPU.

use std::hint::black_box;

use crate::Error;
use crate::bulk;
use crate::contestant::{Contestant, Point};

/// As many buffers as there are items in progress.
#[derive(Debug)]
pub struct Memcpy {
    buffers: Vec<Vec<u64>>,
}

impl Memcpy {
    /// Takes the memory.
    pub fn new(point: Point) -> Self {
        let words = bulk::words_in(point.payload_bytes);
        Self { buffers: vec![vec![0; words]; point.window as usize] }
    }
}

impl Contestant for Memcpy {
    fn name(&self) -> &'static str {
        "memcpy"
    }

    fn call(&mut self, items: u64) -> Result<(), Error> {
        self.stream(items, 1)
    }

    fn stream(&mut self, items: u64, window: u32) -> Result<(), Error> {
        for item in 0..items {
            let buffer = &mut self.buffers[(item % u64::from(window)) as usize];
            bulk::write(buffer, item);
            // Or the compiler would know the sum, too.
            let answer = bulk::sum(black_box(&mut *buffer).iter().copied());
            bulk::check("memcpy", answer, item, buffer.len())?;
        }
        Ok(())
    }
}
