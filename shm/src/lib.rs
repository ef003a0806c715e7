//! Memory that processes share: segments, crash-atomic rings of task ids, a reader lock that survives
//! its holder, doorbells that never lose a wake, payload places, and the repair of what the dead left.
//!
//! This crate knows nothing of servers or workers' code; `ringmill` builds the batching engine from it.
//! Its parts, from the bottom: [`token`], [`word`], [`ring`], [`lock`], [`doorbell`], then [`layout`],
//! [`segment`], [`participant`], [`arena`], [`pool`], and on top [`repair`] and [`check`].
//!
//! Whoever attaches a segment is trusted to keep to the protocol about *when* to write; what it writes is
//! not trusted: ids, offsets, lengths and owners are checked where they are read.

#![cfg_attr(all(loom, not(test)), expect(dead_code, reason = "what remains under loom is for its models"))]

#[cfg(not(all(target_os = "linux", target_endian = "little", target_pointer_width = "64")))]
compile_error!("ringmill needs 64-bit little-endian Linux: futexes, OFD locks, pidfds");

/// Here a process can be made to die, or to wait, by a test (see `crash`); otherwise nothing. A block after the
/// name is run first, and only if the point is there.
macro_rules! crash_point {
    ($name:literal) => {
        #[cfg(all(feature = "crash-points", not(loom)))]
        $crate::crash::pass(const { $crate::crash::index_of(&$crate::crash::POINTS, $name) });
    };
    ($name:literal, $before:block) => {
        #[cfg(all(feature = "crash-points", not(loom)))]
        $before
        crash_point!($name);
    };
}

pub mod bell;
#[cfg(all(feature = "crash-points", not(loom)))]
pub mod crash;
pub mod doorbell;
#[cfg_attr(all(loom, test), allow(dead_code, reason = "models have no segment, and so no fingerprint"))]
mod fields;
pub(crate) mod join;
pub mod lock;
pub mod plan;
pub mod ring;
mod sync;
pub mod sys;
pub mod token;
pub mod width;
pub mod word;

#[cfg(not(loom))]
pub mod arena;
#[cfg(not(loom))]
pub mod check;
#[cfg(not(loom))]
pub mod layout;
#[cfg(not(loom))]
pub mod participant;
#[cfg(not(loom))]
pub mod pool;
#[cfg(not(loom))]
pub mod repair;
#[cfg(not(loom))]
pub mod segment;
#[cfg(not(loom))]
pub mod stats;
#[cfg(not(loom))]
pub mod text;

#[cfg(all(test, loom))]
mod model;
