//! Loom models: every interleaving of two or three threads on tiny sizes, with death as a step.
//!
//! ```text
//! RUSTFLAGS="--cfg loom" LOOM_MAX_PREEMPTIONS=3 \
//!     cargo test -p ringmill-shm --release --lib --target-dir target-loom model
//! ```
//!
//! A victim may end for ever before any write to shared memory ([`Death`]): a model is explored once for each such
//! step, until its victim outlives it in every interleaving. (A death before a read leaves what a death before the next
//! write leaves.) A flag stands for what the kernel would then tell; the model's main thread does what the supervisor
//! would do. The modelled futex has no timeouts, so a lost wake shows as a deadlock, and no backstop hides it.
//!
//! Loom remembers one access of an atomic, the last. Where one thread only reads, and then another reads and writes, it
//! forgets that the write could have come before the first read. So every scene is explored twice, with its threads
//! started in order and in reverse, and where that is not enough a scene writes without reading first.
//!
//! # What is in which model
//!
//! † marks models in which a participant dies at every step of the transition.
//!
//! | Transition | Models |
//! |---|---|
//! | FREE → FILLING → QUEUED | `repair::a_reader_dies_over_abandoned_tasks` (the client's side), `pool::a_sweep_spares_the_living` |
//! | FILLING of the dead → FREE | `pool::a_client_dies_over_a_block`† |
//! | FILLING → CLAIMED (`keep`), FREE → CLAIMED (`begin_branch`), CLAIMED → FORKED | `join::a_forker_dies`†, `join::a_repairer_of_a_fork_dies`†, `join::a_late_branch_and_the_next_use` |
//! | QUEUED → CLAIMED | `word::a_sleeping_caller_is_woken`, `repair::a_worker_dies`† |
//! | CLAIMED of a dead reader → CLAIMED | `word::a_reader_and_a_repairer_reach_for_one_task`, `repair::a_worker_dies`† |
//! | CLAIMED → QUEUED (`requeue`) and its push | `repair::a_worker_dies`† |
//! | CLAIMED → DONE (`finish`, `finish_forked`) | `word::a_worker_dies`†, `join::a_worker_dies`† |
//! | of the dead: `take_over`, `adopt` | `word::a_worker_dies`†, `word::two_repairers_adopt_once`, `repair::a_repairer_dies`† |
//! | of the dead: `succeed` | `join::a_worker_dies`†, `join::a_repairer_of_an_arrival_dies`† |
//! | branch CLAIMED → DONE, its bit, the look | `join::the_last_arrival_joins`, `join::a_worker_dies`†, `join::a_worker_dies_below`† |
//! | FORKED → JOINING → CLAIMED | `join::the_last_arrival_joins`, `join::a_late_look_does_not_join_the_next_fork`, `join::a_repairer_of_a_join_dies`† |
//! | an error record over a branch's outcome, and its mark | `join::a_worker_dies`†, `join::a_repairer_of_a_join_dies`† |
//! | branches freed, the innermost first | `join::a_worker_dies_below`† |
//! | DONE and CANCELLED → CLAIMED → FREE (`reap`) | `join::a_caller_goes`, `join::a_worker_dies_and_the_caller_goes`† |
//! | DONE → FREE, CANCELLED | `word::a_cancelled_task_is_freed_once`, `word::a_worker_dies_and_the_caller_goes`† |
//! | WAITING, NOTIFY | `word::a_sleeping_caller_is_woken`, `join::notice_is_asked_for`† |
//! | push, push_many, drain, scan | `ring::*`, `ring::a_producer_dies`†, `ring::a_producer_of_a_batch_dies`† |
//! | lock, unlock, take over, `free_of` | `lock::*`, `lock::a_participant_dies`† |
//! | sleepers, spinner, window, `forget` | `doorbell::*`, `doorbell::a_sleeper_dies`†, `doorbell::a_waker_dies`†, `doorbell::the_line_forgets_the_dead`†, `doorbell::a_window_is_taken_over` |
//! | `freed`, `completed` | `bell::*`, `bell::a_worker_that_frees_dies`† |
//! | questions asked, taken, withdrawn, answered | `control::*`, `control::an_asker_dies`† |
//! | blocks claimed, recorded, freed, swept | `pool::*`, `pool::a_client_dies_over_a_block`†, `pool::a_repairer_dies_over_a_block`† |
//! | partials: emit, take, close, the sleeps of both sides | `partials::*`, `partials::a_worker_dies`† |
//! | traces: records and hops written, read, used again | `trace::*`, `trace::a_worker_dies`† |
//! | a participant's row in its next incarnation | `participant::a_successor_is_not_taken_for_the_dead` |
//! | a client's row: taken, given back, offered again | `participant::a_client_dies_over_its_row`† |
//!
//! What runs is the code itself, also `arena`, `join`, `pool`, `party`, `repair` and the table of `participant`: under
//! loom the module [`segment`](crate::segment) is `heap`, the same parts on the heap. The scenes are the participants'
//! steps; what the engine does with a finished task, an orphan or a join is in `join`, in a few lines. The lengths and
//! blocks in a task's header (`sync::HeaderU64`) are no steps for loom, since their owner alone uses them, but a thread
//! may die before each store; payload bytes it watches. What loom cannot run, because there are too many steps, is in
//! the spin models of `shm/spin`: whole lives, several deaths, the mark of a node that is down.

mod bell;
mod control;
mod doorbell;
mod join;
mod lock;
mod partials;
mod participant;
mod pool;
mod repair;
mod ring;
mod trace;
mod word;

pub(crate) use crate::segment::Grave;
use crate::segment::{Plan, Segment};
use crate::sync::mortal;
use crate::token::Token;
use core::cell::Cell;
use loom::thread::{JoinHandle, yield_now};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

/// More steps than any victim of these models has.
const STEP_LIMIT: u32 = 400;

/// Explores `scene`; with at most three preemptions unless the environment says otherwise.
fn explore(scene: impl Fn() + Sync + Send + 'static) {
    explore_within(usize::MAX, scene);
}

/// [`explore`] for a scene so long that more than `most` preemptions would take minutes.
fn explore_within(most: usize, scene: impl Fn() + Sync + Send + 'static) {
    let scene = Arc::new(scene);
    for reversed in [false, true] {
        REVERSED.set(reversed);
        let mut builder = loom::model::Builder::new();
        builder.max_branches = 10_000;
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

/// Starts a thread of a scene; in reversed order the first one yields to the second.
fn spawn<T: 'static>(life: impl FnOnce() -> T + 'static) -> JoinHandle<T> {
    let gives_way = BORN.replace(BORN.get() + 1) == 0 && REVERSED.get();
    loom::thread::spawn(move || {
        if gives_way {
            yield_now();
        }
        life()
    })
}

/// Where the main thread of a scene takes part: in reversed order it yields to all others.
fn take_part() {
    if REVERSED.get() {
        yield_now();
        yield_now(); // once more than the first-born
    }
}

/// When the victim of a scene dies.
#[derive(Clone)]
struct Death {
    writes: u32,
    happened: Arc<AtomicBool>,
}

impl Death {
    /// Runs the victim's life; whether it died.
    fn strikes(&self, life: impl FnOnce()) -> bool {
        let struck = mortal::perish(self.writes, life);
        self.happened.fetch_or(struck, SeqCst);
        struck
    }
}

/// Explores `scene` for every step at which its victim may die, and once without a death.
fn explore_deaths(scene: impl Fn(&Death) + Sync + Send + Clone + 'static) {
    explore_deaths_within(usize::MAX, scene);
}

/// [`explore_deaths`] with at most `most` preemptions.
fn explore_deaths_within(most: usize, scene: impl Fn(&Death) + Sync + Send + Clone + 'static) {
    assert!(explore_each_death(most, scene) > 0, "a victim that writes nothing");
}

/// [`explore_deaths_within`]; returns how many writes the victim has, which may have none.
fn explore_each_death(most: usize, scene: impl Fn(&Death) + Sync + Send + Clone + 'static) -> u32 {
    for writes in 0..STEP_LIMIT {
        let death = Death { writes, happened: Arc::default() };
        let (scene, here) = (scene.clone(), death.clone());
        explore_within(most, move || scene(&here));
        if !death.happened.load(SeqCst) {
            return writes;
        }
    }
    panic!("the victim has no end");
}

fn token(index: u32) -> Token {
    Token::new(index, 1)
}

fn segment(plan: Plan) -> Arc<Segment> {
    Arc::new(Segment::of(plan))
}
