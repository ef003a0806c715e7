//! One short measurement.

use std::time::{Duration, Instant};

use crate::Error;
use crate::contestant::{Contestant, Load, Notes};
use crate::rounds::Reading;

/// How long a contestant is measured at a time: much shorter than the seconds a machine stays in one regime,
/// much longer than waking a partner takes.
pub const SLICE: Duration = Duration::from_millis(15);

/// How long one block of a reading of `raw` takes: longer than an interrupt, shorter than another program's
/// turn.
const BLOCK: Duration = Duration::from_micros(100);

/// Blocks of a reading: 5 ms in all.
const BLOCKS: usize = 50;

/// How often a slice fills the window at least, however long that takes.
const WINDOWS: u64 = 4;

/// Work that is not counted: it wakes the partner, fills the caches, and lets the last contestant's partner
/// go to sleep.
const WARM_UP: Duration = Duration::from_millis(2);

/// What came out of one.
#[derive(Clone, Debug)]
pub struct Slice {
    /// Nanoseconds an item.
    pub ns_per_item: f64,
    /// The contestant's other figures.
    pub notes: Notes,
}

/// Wakes `contestant`, warms it up, measures it for about `length`, usually [`SLICE`], and sends it back to sleep.
///
/// The nanoseconds an item have start and end of the slice in them: with many items in progress, so the
/// first filling and the last draining of the window. So there are four windows in it at least.
///
/// # Errors
///
/// Those of [`Load::run`].
pub fn measure(contestant: &mut dyn Contestant, load: Load, length: Duration) -> Result<Slice, Error> {
    contestant.resume();
    let pace_ns = warm_up(contestant, load)?;
    let items = items_in(length, pace_ns).max(WINDOWS * u64::from(load.window()));
    contestant.notes(); // those of the warm-up
    let ns_per_item = timed(contestant, load, items)?;
    let notes = contestant.notes();
    contestant.pause();
    Ok(Slice { ns_per_item, notes })
}

/// Wakes `raw`, warms it up, reads it block by block, and sends it back to sleep.
///
/// # Errors
///
/// Those of [`Load::run`].
pub fn read(raw: &mut dyn Contestant) -> Result<Reading, Error> {
    raw.resume();
    let items = items_in(BLOCK, warm_up(raw, Load::Call)?);
    let mut blocks_ns = [0.0; BLOCKS];
    for block_ns in &mut blocks_ns {
        *block_ns = timed(raw, Load::Call, items)?;
    }
    raw.pause();
    Ok(Reading::of(&blocks_ns))
}

fn items_in(length: Duration, pace_ns: f64) -> u64 {
    (length.as_nanos() as f64 / pace_ns).ceil() as u64
}

/// Repeats ever longer blocks and returns the nanoseconds an item of the last one.
fn warm_up(contestant: &mut dyn Contestant, load: Load) -> Result<f64, Error> {
    let start = Instant::now();
    let mut items = u64::from(load.window());
    loop {
        let pace_ns = timed(contestant, load, items)?;
        if start.elapsed() >= WARM_UP {
            return Ok(pace_ns);
        }
        items *= 2;
    }
}

fn timed(contestant: &mut dyn Contestant, load: Load, items: u64) -> Result<f64, Error> {
    let start = Instant::now();
    load.run(contestant, items)?;
    // A clock too coarse for a block must not make the pace zero.
    Ok(start.elapsed().as_nanos().max(1) as f64 / items as f64)
}
