//! How wide the counters in shared words are, and what may be mistaken when one has gone all the way round.
//!
//! Each of them is compared for equality with what somebody has read before: so it is wide enough if nobody can
//! sleep between a look and the compare-and-swap that rests on it while the counter goes round *exactly* so often
//! that it looks the same. Nothing compares by order.
//!
//! | Counter | Bits | Steps | Mistaken by whom, and then |
//! |---|---|---|---|
//! | generation (`word`) | 16 | once a use of a place | who looks whether a fork may be joined or a request reaped (`join`), and sleeps between the look and the CAS while the place is used 2¹⁶ times, and then is FORKED at the same fork (or DONE and CANCELLED): joins or frees branches that are under way |
//! | lap (`ring`) | 32 | once every *n* pushes into a ring of *n* cells | a producer that sleeps between its look at `tail` and its look at the cell for 2³² laps, to within one: publishes ahead of `tail`, and readers wait until producers have filled the gap |
//! | epoch (`token`) | 21 | once a restart in one place of the participant table | who has proven a holder of the reader lock dead and sleeps before it takes over, while that place is filled 2²¹ − 1 times and its last incarnation holds the lock: two readers |
//!
//! The other uses are safe with any width: a caller sleeps on the generation of its own request, which cannot
//! change before it has looked; blocks of a task's former generation are swept by the repair after the death
//! that left them; a reader and a checker look at cells from `head` on, within a lap; words that name the
//! dead are gone once they are repaired, before their place is filled again; `begun_ns` is for show.
//!
//! # Narrow
//!
//! With `RINGMILL_NARROW` in the environment of the *compiler* they have a few bits, so that tests see them go
//! round all the time. The widths are part of the fingerprint: no program built so meets a segment of one that is
//! not. What the table tells could then happen to a thread that loses its CPU for some milliseconds between two
//! instructions of that kind: a failure of a narrow test is to be looked at with that in mind.

/// Whether this was built for tests of counters that go round.
pub const NARROW: bool = option_env!("RINGMILL_NARROW").is_some();

/// Bits of a task's generation.
pub const GENERATION_BITS: u32 = if NARROW { 4 } else { 16 };
/// Bits of a ring cell's lap.
pub const LAP_BITS: u32 = if NARROW { 3 } else { 32 };
/// Bits of a token's epoch.
pub const EPOCH_BITS: u32 = if NARROW { 3 } else { 21 };

// A lap, the one before, and any other.
const _: () = assert!(LAP_BITS >= 2 && LAP_BITS <= 32);
// This use of a place and the one before.
const _: () = assert!(GENERATION_BITS >= 1 && GENERATION_BITS <= 16);
// No epoch is 0, and the next is another.
const _: () = assert!(EPOCH_BITS >= 2 && EPOCH_BITS <= 21);
