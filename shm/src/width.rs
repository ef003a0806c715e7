//! How wide the counters in shared words are, and what a wrapped counter can be mistaken for.
//!
//! A participant compares each counter for equality with a value that it has read before. So the counter is wide enough
//! if no participant sleeps between that read and the compare-and-swap that rests on it for so long that the counter
//! returns to *exactly* the same value. Nothing compares by order.
//!
//! | Counter | Bits | Steps | Who may mistake it, and what follows |
//! |---|---|---|---|
//! | generation (`word`) | 16 | once a use of a task | a participant that looks whether a fork may be joined or a request reaped (`join`), and sleeps between the look and the CAS while the task is used 2¹⁶ times, and then is FORKED at the same fork (or DONE and CANCELLED): it joins or frees branches that are under way |
//! | lap (`ring`) | 32 | once every *n* pushes into a ring of *n* cells | a producer that sleeps between its look at `tail` and its look at the cell for 2³² laps, to within one: publishes ahead of `tail`, and readers wait until producers have filled the gap |
//! | epoch (`token`) | 21 | once a restart in one row of the participant table | a waiter that has proven the holder of the reader lock dead and sleeps before it takes over, while that row is used 2²¹ − 1 times and its last incarnation holds the lock: two readers |
//!
//! The other uses are safe with any width: a caller sleeps on the generation of its own request, which cannot change
//! before that caller has looked; blocks of a task's former generation are swept by the repair after the death that
//! left them; a reader and a checker look at cells from `head` on, within a lap; words that name a dead participant are
//! gone once the repair has ended, before its row is used again; `begun_ns` is only reported.
//!
//! # Narrow
//!
//! With `RINGMILL_NARROW` in the environment of the *compiler* the counters have a few bits, so that they wrap all the
//! time under test. The widths are part of the fingerprint: no narrow program attaches a segment of one that is not.
//! The mistakes of the table could then happen to a thread that loses its CPU for some milliseconds between two such
//! instructions: consider that when a narrow test fails.

/// Whether this was built for tests of counters that wrap.
pub const NARROW: bool = option_env!("RINGMILL_NARROW").is_some();

/// Bits of a task's generation.
pub const GENERATION_BITS: u32 = if NARROW { 4 } else { 16 };
/// Bits of a ring cell's lap.
pub const LAP_BITS: u32 = if NARROW { 3 } else { 32 };
/// Bits of a token's epoch.
pub const EPOCH_BITS: u32 = if NARROW { 3 } else { 21 };

// A lap, the one before, and any other.
const _: () = assert!(LAP_BITS >= 2 && LAP_BITS <= 32);
// This use of a task and the one before.
const _: () = assert!(GENERATION_BITS >= 1 && GENERATION_BITS <= 16);
// No epoch is 0, and the next is another.
const _: () = assert!(EPOCH_BITS >= 2 && EPOCH_BITS <= 21);
