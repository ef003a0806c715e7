//! `stream`: many items in progress.

use super::{Job, Session};
use crate::Error;
use crate::contestant::{Load, Point};
use crate::match_up::Entry;

/// Measures the window asked for, or the standard one.
///
/// # Errors
///
/// Those of [`Session::match_up`].
pub fn run(session: &mut Session<'_>) -> Result<(), Error> {
    let window = session.only.window.unwrap_or(Point::STANDARD.window);
    let point = Point { window, ..Point::STANDARD };
    let peers: Vec<_> = session.peers_at(Job::Stream, point).collect();
    let outcome = session.match_up(&format!("stream, window {window}"), |cpus| {
        let entry = |peer: &crate::peers::Peer| {
            let contestant = peer.start(Job::Stream, point, cpus)?;
            let window = contestant.window(window);
            let entry = Entry::new(contestant, Load::Stream { window });
            Ok(entry
                .at("payload_bytes", point.payload_bytes)
                .at("window", window)
                .at("threads", point.threads)
                .at("workers", point.workers))
        };
        peers.iter().map(entry).collect()
    })?;
    if let Some(outcome) = outcome {
        session.audience.rows(&outcome.rows(Job::Stream.name()))?;
    }
    Ok(())
}
