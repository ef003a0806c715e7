//! `frames`: large payloads through a pipeline, each stage of which changes all of one.
//!
//! The client writes a frame, three stages add to each of its words, the client reads all of it. All stages are on the
//! partner's CPU. `moved-vec` moves a vector from thread to thread, in one process: nothing is copied, so no engine
//! between processes can be much faster.

use super::{Job, Session};
use crate::Error;
use crate::contestant::{Contestant, Load, Point};
use crate::match_up::{Outcome, Setup};
use crate::peers::frames::{Changed, Moved};
use crate::report::Row;

/// 1 to 16 MiB.
const SIZES: [u32; 4] = [1 << 20, 4 << 20, 8 << 20, 16 << 20];

/// Frames in progress: one for each stage, and one that the client has.
const WINDOW: u32 = 4;

/// Measures every size.
///
/// # Errors
///
/// Those of [`Session::match_up`].
pub fn run(session: &mut Session<'_>) -> Result<(), Error> {
    let only = session.only;
    let window = only.window.unwrap_or(WINDOW);
    if !session.wants_ringmill() {
        return Ok(());
    }
    for payload_bytes in
        SIZES.into_iter().filter(|&bytes| only.payload_bytes.is_none_or(|only| only == bytes))
    {
        let point = Point { payload_bytes, window, ..Point::STANDARD };
        let what = format!("frames, {} MiB, window {window}", payload_bytes >> 20);
        let outcome = session.match_up(&what, |cpus| {
            let setup = |contestant: Box<dyn Contestant>| {
                let setup = Setup::new(contestant, Load::Stream { window });
                setup.at("payload_bytes", payload_bytes).at("window", window)
            };
            let ours = setup(Box::new(Changed::start(point, cpus)?));
            Ok(vec![ours, setup(Box::new(Moved::start(point, cpus)?))])
        })?;
        if let Some(outcome) = outcome {
            session.audience.rows(&rows(&outcome))?;
        }
    }
    Ok(())
}

/// The rows; that of ringmill has its time as a multiple of that of the moved vector, of the same rounds.
fn rows(outcome: &Outcome) -> Vec<Row> {
    let moved = &outcome.standings[1].tally;
    outcome.rows_of(Job::Frames.name(), |standing, regime, row| {
        let summary = standing.tally.summary(regime)?;
        let row = row
            .figure("ns_per_item", summary.ns_per_item)
            .figure("frames_per_s", 1e9 / summary.ns_per_item)
            .figure("rounds", summary.rounds as f64);
        Some(match standing.tally.ratio_to(moved, regime) {
            Some(ratio) => row.ratio("ratio_to_moved", ratio),
            None => row,
        })
    })
}
