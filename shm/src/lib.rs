//! Memory that processes share: segments, crash-atomic rings of task ids, a reader lock that survives its holder,
//! doorbells that never lose a wake, payload buffers, and the repair of what dead participants left.
//!
//! This crate knows nothing of servers or workers' code; `ringmill` builds the batching engine from it.
//! Its parts, from the bottom: [`token`], [`word`], [`ring`], [`lock`], [`doorbell`], then [`layout`],
//! [`segment`], [`participant`], [`arena`], [`pool`], [`party`], and on top [`repair`] and [`check`].
//!
//! A participant is trusted to keep to the protocol about *when* to write. *What* it writes is not trusted: ids,
//! offsets, lengths and owners are checked where they are read.
//!
//! # What safe code cannot do
//!
//! Safe code, of whatever crate, cannot cause two references to one byte of a segment of which one may write. Payload
//! bytes are reached through guards ([`Filling`](arena::Filling), [`Claimed`](arena::Claimed), [`Join`](arena::Join),
//! [`Done`](arena::Done), [`Value`](arena::Value)), each for a task that the state word says is the guard's. That there is one guard of a task
//! at a time rests on five promises, each made to an `unsafe` function, and on no other:
//!
//! | Promise | By the caller of |
//! |---|---|
//! | this process runs the token's incarnation and holds its lease, and all that write to the file keep to the protocol | [`Segment::take_part`](segment::Segment::take_part) |
//! | this thread alone uses this request | the methods of [`Client`](party::Client) that take a request's number for a guard |
//! | this participant acts no more | [`Repairer::repair`](repair::Repairer::repair); [`Entry::prepare`](participant::Entry::prepare), of the former incarnation, and [`Entry::bury`](participant::Entry::bury); [`Lease::release`](participant::Lease::release), [`Lease::release_all`](participant::Lease::release_all) |
//! | the lease is held and looked up by descriptions that are apart | [`Lease::of_files`](participant::Lease::of_files) |
//! | the request is this client's | [`Claimed::finish_for`](arena::Claimed::finish_for) |
//!
//! All else follows from types. A guard is neither `Copy` nor `Clone`, and handing a task on consumes it:
//!
//! ```compile_fail,E0505
//! fn late_look(task: ringmill_shm::arena::Claimed<'_>) {
//!     let input = task.payload().unwrap();
//!     task.finish(false);
//!     println!("{}", input.len());
//! }
//! ```
//! ```compile_fail,E0382
//! fn answer_twice(task: ringmill_shm::arena::Claimed<'_>) {
//!     task.finish(false);
//!     task.finish(false);
//! }
//! ```
//!
//! parking a task consumes it too; there is one buffer to write to at a time, and none while the input is borrowed:
//!
//! ```compile_fail,E0382
//! fn park_and_keep(mut task: ringmill_shm::arena::Claimed<'_>) {
//!     let parked = task.park();
//!     task.inline_buffer();
//! }
//! ```
//! ```compile_fail,E0499
//! fn two_buffers(task: &mut ringmill_shm::arena::Claimed<'_>) {
//!     let (mut one, mut other) = (task.inline_buffer(), task.inline_buffer());
//!     (one.as_bytes_mut(), other.as_bytes_mut());
//! }
//! ```
//! ```compile_fail,E0502
//! fn over_the_input(task: &mut ringmill_shm::arena::Claimed<'_>) {
//!     let input = task.payload().unwrap();
//!     task.inline_buffer().write(0, input);
//! }
//! ```
//! ```compile_fail,E0505
//! fn read_what_is_free(done: ringmill_shm::arena::Done<'_>) -> usize {
//!     let outcome = done.payload().unwrap();
//!     done.free();
//!     outcome.len()
//! }
//! ```
//!
//! Only the lock's holder claims ([`Reader`](party::Reader)); and a token, or a state of a word, is only a number:
//!
//! ```compile_fail,E0624
//! let other = ringmill_shm::token::Token::new(1, 1);
//! ```
//! ```compile_fail,E0624
//! fn past_the_guard(task: ringmill_shm::arena::Task<'_>) {
//!     task.word().free(task.word().load());
//! }
//! ```
//!
//! This does not cover ways past this library: another process that writes into the file, or this one through the
//! file's descriptor or `/proc/self/mem`. The first promise excludes them.

#![cfg_attr(loom, allow(dead_code, reason = "models have no mapping, and use a part of the rest"))]

#[cfg(not(all(target_os = "linux", target_endian = "little", target_pointer_width = "64")))]
compile_error!("ringmill needs 64-bit little-endian Linux: futexes, OFD locks, pidfds");

/// A line at which a test can let the process die, or hold the thread (see `crash`); without the feature, nothing. A
/// block after the name is run first, and only with the feature.
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
pub mod control;
#[cfg(all(feature = "crash-points", not(loom)))]
pub mod crash;
pub mod doorbell;
mod fields;
pub(crate) mod join;
pub mod lock;
pub mod plan;
pub mod ring;
mod sync;
pub mod sys;
pub mod token;
pub mod watch;
pub mod width;
pub mod word;

pub mod arena;
#[cfg(not(loom))]
pub mod check;
pub mod layout;
#[cfg(all(feature = "prometheus", not(loom)))]
pub mod metrics;
pub mod participant;
pub mod party;
pub mod placed;
pub mod pool;
pub mod repair;
#[cfg(not(loom))]
pub mod segment;
/// The segment of the models.
#[cfg(loom)]
#[path = "model/heap.rs"]
pub mod segment;
pub mod stats;
pub mod text;
pub mod trace;

#[cfg(all(test, loom))]
mod model;
