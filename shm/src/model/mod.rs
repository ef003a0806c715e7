//! Loom models: every interleaving of two or three threads on tiny sizes, with death as a step.
//!
//! ```text
//! RUSTFLAGS="--cfg loom" LOOM_MAX_PREEMPTIONS=3 \
//!     cargo test -p ringmill-shm --release --lib --target-dir target-loom model
//! ```
//!
//! A victim may end for ever before any access to shared memory ([`Death`]): a model is explored once for
//! each such step, until its victim outlives it in every interleaving. What the kernel would then tell, a
//! flag tells; what the supervisor would then do, the model's main thread does. The modelled futex has no
//! time-outs, so a wake that is lost shows as a deadlock, and no backstop hides it.
//!
//! Loom remembers one access of an atomic, the last. Where one thread only reads, and then another reads
//! and writes, it forgets that the write could have come before the first read. So every scene is explored
//! twice, its threads beginning in the order of their birth and in the reverse, and where that is not
//! enough a scene says what is written without reading first.

mod bell;
mod doorbell;
mod join;
mod lock;
mod participant;
mod pool;
mod repair;
mod ring;
mod word;

use crate::sync::mortal;
use crate::token::Token;
use core::cell::Cell;
use loom::thread::{JoinHandle, yield_now};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

/// More than any victim of these models needs to end by itself.
const STEP_LIMIT: u32 = 100;

/// Explores `scene`; with at most three preemptions unless the environment says otherwise.
fn explore(scene: impl Fn() + Sync + Send + 'static) {
    explore_within(usize::MAX, scene);
}

/// The same for a scene so long that more than `most` preemptions would take minutes.
fn explore_within(most: usize, scene: impl Fn() + Sync + Send + 'static) {
    let scene = Arc::new(scene);
    for reversed in [false, true] {
        REVERSED.set(reversed);
        let mut builder = loom::model::Builder::new();
        builder.preemption_bound = Some(builder.preemption_bound.unwrap_or(3).min(most));
        let scene = scene.clone();
        builder.check(move || {
            BORN.set(0);
            scene();
        });
    }
}

thread_local! { // all threads of a model run in one of the system's
    static REVERSED: Cell<bool> = const { Cell::new(false) };
    static BORN: Cell<u32> = const { Cell::new(0) };
}

/// Starts a thread of a scene; in reversed order the first one gives way to the second.
fn spawn<T: 'static>(life: impl FnOnce() -> T + 'static) -> JoinHandle<T> {
    let gives_way = BORN.replace(BORN.get() + 1) == 0 && REVERSED.get();
    loom::thread::spawn(move || {
        if gives_way {
            yield_now();
        }
        life()
    })
}

/// Where the main thread of a scene takes part: in reversed order it gives way to all others.
fn take_part() {
    if REVERSED.get() {
        yield_now();
        yield_now(); // once more than the first-born
    }
}

/// When the victim of a scene dies.
#[derive(Clone)]
struct Death {
    accesses: u32,
    happened: Arc<AtomicBool>,
}

impl Death {
    /// The victim's life; whether death cut it short.
    fn strikes(&self, life: impl FnOnce()) -> bool {
        let struck = mortal::perish(self.accesses, life);
        self.happened.fetch_or(struck, SeqCst);
        struck
    }
}

/// Explores `scene` for every step at which its victim may die, and once without a death.
fn explore_deaths(scene: impl Fn(&Death) + Sync + Send + Clone + 'static) {
    explore_deaths_within(usize::MAX, scene);
}

/// The same with at most `most` preemptions.
fn explore_deaths_within(most: usize, scene: impl Fn(&Death) + Sync + Send + Clone + 'static) {
    for accesses in 0..STEP_LIMIT {
        let death = Death { accesses, happened: Arc::default() };
        let (scene, here) = (scene.clone(), death.clone());
        explore_within(most, move || scene(&here));
        if !death.happened.load(SeqCst) {
            assert!(accesses > 0, "a victim that touches nothing");
            return;
        }
    }
    panic!("the victim has no end");
}

/// Whether somebody has died, as the kernel would tell: all that it did is visible to who asks.
#[derive(Default)]
struct Grave(loom::sync::atomic::AtomicBool);

impl Grave {
    fn dig(&self) {
        self.0.store(true, SeqCst);
    }

    fn holds(&self) -> bool {
        self.0.load(SeqCst)
    }
}

fn token(index: u32) -> Token {
    Token::new(index, 1)
}
