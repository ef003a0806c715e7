//! The library that ringmill's tests share; the tests themselves are in `tests/`, a module a topic.
//!
//! Nothing here measures time. A test waits for events, and [`GUARD`] only ends one that would hang.
//!
//! * [`actor`]: a worker that does as its inputs say: answers, waits at a gate, or dies;
//! * [`actor_gate`]: where actors report and wait;
//! * [`alone`]: tests that have a process of their own;
//! * [`book`]: how often user code ran for a request;
//! * [`caller`]: a second program, which is a client of a test's server;
//! * [`deed`]: forks and execs of worker code;
//! * [`dice`]: numbers that look random;
//! * [`gate`]: where a worker of any process stops until the test lets it go on;
//! * [`guard`]: tests that hang fail;
//! * [`host`]: the same test body over worker processes and worker threads;
//! * [`hostile`]: bytes that no correct participant writes;
//! * [`listener`]: a listener of the log;
//! * [`name`]: a server's name, and the files that it left;
//! * [`namespace`]: tests that choose their pids;
//! * [`nodes`]: NUMA nodes, and on which of them pages lie;
//! * [`other_user`]: programs run as another user;
//! * [`pile`]: items that pile up in the ring while the worker is busy;
//! * [`plain_signals`]: programs that begin as in a terminal;
//! * [`probe`]: a worker that says which batch an item was in;
//! * [`process`]: processes as the kernel shows them;
//! * [`program`]: the programs that tests start;
//! * [`progress`]: the progress of long programs;
//! * [`refusals`]: every system call of a service, refused in turn;
//! * [`refuse`]: system calls that answer with an error;
//! * [`soak`]: very many requests, during which nothing may grow;
//! * [`stats`]: statistics of a server's first servlet;
//! * [`storm`]: worker processes killed at random, and what must hold;
//! * [`traces`]: files and processes that a server must not leave;
//! * [`tree`]: trees of servlets, and the outcome of an item in them.

pub mod actor;
pub mod actor_gate;
pub mod alone;
pub mod book;
pub mod caller;
pub mod deed;
pub mod dice;
pub mod gate;
pub mod guard;
pub mod host;
pub mod hostile;
pub mod listener;
pub mod name;
pub mod namespace;
pub mod nodes;
pub mod other_user;
pub mod pile;
pub mod plain_signals;
pub mod printer;
pub mod probe;
pub mod process;
pub mod program;
pub mod progress;
pub mod refusals;
pub mod refuse;
pub mod soak;
pub mod stats;
pub mod storm;
pub mod teller;
pub mod traces;
pub mod tree;

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// A test that takes longer hangs.
pub const GUARD: Duration = Duration::from_secs(60);

/// How often [`wait_until`] looks.
const LOOK: Duration = Duration::from_millis(1);

/// A server's name that no other test and no other process of this machine uses.
#[must_use]
pub fn fresh_name(tag: &str) -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    // Relaxed: only its being counted matters.
    format!("test-{}-{}-{tag}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed))
}

/// Waits until something is true that can only be looked at.
///
/// # Panics
/// If it has not become true after [`GUARD`].
#[track_caller]
pub fn wait_until(what: &str, mut is_true: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !is_true() {
        assert!(begun.elapsed() < GUARD, "this never happened: {what}");
        std::thread::sleep(LOOK); // how often to look, no more: nothing depends on it
    }
}
