//! `call`: one round trip at a time, by size of the payload.

use super::{Job, Session};
use crate::Error;
use crate::contestant::{Load, Point};
use crate::match_up::Setup;
use crate::payload::SIZES;

/// Measures every size.
///
/// # Errors
///
/// Those of [`Session::match_up`].
pub fn run(session: &mut Session<'_>) -> Result<(), Error> {
    let only = session.only.payload_bytes;
    for payload_bytes in SIZES.into_iter().filter(|&bytes| only.is_none_or(|only| only == bytes)) {
        let point = Point { payload_bytes, window: 1, ..Point::STANDARD };
        let peers: Vec<_> = session.peers_at(Job::Call, point).collect();
        let outcome = session.match_up(&format!("call, {payload_bytes} B"), |cpus| {
            let setup = |peer: &crate::peers::Peer| {
                let contestant = peer.start(Job::Call, point, cpus)?;
                Ok(Setup::new(contestant, Load::Call).at("payload_bytes", payload_bytes))
            };
            peers.iter().map(setup).collect()
        })?;
        if let Some(outcome) = outcome {
            session.audience.rows(&outcome.rows(Job::Call.name()))?;
        }
    }
    Ok(())
}
