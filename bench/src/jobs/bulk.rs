//! `bulk`: large questions that are written and read once, beside writing and reading the same memory by one thread.
//!
//! With one item in progress nothing overlaps: the client writes, then the partner reads. So the best that can be is
//! `memcpy`, and as long as the memory fits into one CPU's own cache not even that, since every line has to move to the
//! other CPU: `moved-vec`, which copies nothing, shows how near a contestant can come. With several in progress the
//! client writes one while the partner reads another, on two CPUs: that may be faster than `memcpy`.

use super::{Job, Session};
use crate::Error;
use crate::contestant::{Contestant, Load, Point};
use crate::match_up::{Outcome, Setup};
use crate::memcpy::Memcpy;
use crate::peers::Peer;
use crate::report::Row;

/// 4 KiB to 16 MiB, by powers of four.
pub const SIZES: [u32; 7] = [4 << 10, 16 << 10, 64 << 10, 256 << 10, 1 << 20, 4 << 20, 16 << 20];

/// Items in progress: one, and a few. Eight of the largest payload are 128 MiB for each contestant.
const WINDOWS: [u32; 2] = [1, 8];

/// Measures every size with each window.
///
/// # Errors
///
/// Those of [`Session::match_up`].
pub fn run(session: &mut Session<'_>) -> Result<(), Error> {
    let only = session.only;
    for payload_bytes in
        SIZES.into_iter().filter(|&bytes| only.payload_bytes.is_none_or(|only| only == bytes))
    {
        for window in WINDOWS.into_iter().filter(|&window| only.window.is_none_or(|only| only == window)) {
            measure(session, Point { payload_bytes, window, ..Point::STANDARD })?;
        }
    }
    Ok(())
}

fn measure(session: &mut Session<'_>, point: Point) -> Result<(), Error> {
    let Point { payload_bytes, window, .. } = point;
    let peers: Vec<Peer> = session.peers_at(Job::Bulk, point).collect();
    if peers.is_empty() {
        return Ok(());
    }
    let what = format!("bulk, {} KiB, window {window}", payload_bytes >> 10);
    let outcome = session.match_up(&what, |cpus| {
        let setup = |contestant: Box<dyn Contestant>| {
            let setup = Setup::new(contestant, Load::Stream { window });
            setup.at("payload_bytes", payload_bytes).at("window", window)
        };
        let mut setups = vec![setup(Box::new(Memcpy::new(point)))];
        for peer in peers {
            setups.push(setup(peer.start(Job::Bulk, point, cpus)?));
        }
        Ok(setups)
    })?;
    outcome.map_or(Ok(()), |outcome| session.audience.rows(&rows(&outcome)))
}

/// The rows; their ratios are to `memcpy`, which is the first setup, slice by slice of the same rounds.
fn rows(outcome: &Outcome) -> Vec<Row> {
    const GIB: f64 = (1_u64 << 30) as f64;
    let memcpy = &outcome.standings[0].tally;
    outcome.rows_of(Job::Bulk.name(), |standing, regime, row| {
        let tally = &standing.tally;
        let summary = tally.summary(regime)?;
        let bytes = standing.parameter("payload_bytes").unwrap_or_default() as f64;
        let row = row
            .figure("ns_per_item", summary.ns_per_item)
            .figure("gib_per_s", bytes / summary.ns_per_item * 1e9 / GIB);
        let row = match tally.ratio_to(memcpy, regime) {
            Some(ratio) => row.ratio("ratio_to_memcpy", ratio),
            None => row,
        };
        Some(row.figure("rounds", summary.rounds as f64))
    })
}
