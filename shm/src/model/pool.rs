//! Blocks: claimed, recorded and freed while a repairer sweeps. None of the living loses one, none of the dead
//! is lost.
//!
//! The steps of `pool::claim`, `arena::held` and `repair::sweep_blocks` with the real words.

use super::{Death, explore, explore_deaths, spawn, take_part, token};
use crate::sync::{AtomicU64, Ordering};
use crate::word::{Phase, State, Word};
use std::sync::Arc;

const NONE: u64 = 0;

/// One block and two tasks that want it.
struct Pool {
    owner: AtomicU64,
    words: [Word; 2],
    /// Whether its header names the block.
    listed: [AtomicU64; 2],
}

fn owner_word(task: u64, generation: u16) -> u64 {
    1 << 63 | u64::from(generation) << 32 | task
}

impl Pool {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            owner: AtomicU64::new(NONE),
            words: [State::from_raw(0); 2].map(Word::new),
            listed: [AtomicU64::new(0), AtomicU64::new(0)],
        })
    }

    /// A request's whole life: begins, claims the block, records it, has it, frees it with itself. Whether it
    /// got the block.
    fn live(&self, task: usize, generations: u16) -> bool {
        let mut got = false;
        for generation in 0..generations {
            let filling = self.words[task].begin(token(task as u32));
            self.listed[task].store(0, Ordering::Relaxed);
            let mine = owner_word(task as u64, generation);
            if self.owner.load(Ordering::Relaxed) == NONE
                && self.owner.compare_exchange(NONE, mine, Ordering::AcqRel, Ordering::Relaxed).is_ok()
            {
                self.listed[task].store(1, Ordering::Relaxed);
                assert_eq!(self.owner.load(Ordering::Relaxed), mine, "swept under its owner's hands");
                got = true;
            }
            if self.listed[task].load(Ordering::Relaxed) == 1 {
                let freed = self.owner.compare_exchange(mine, NONE, Ordering::Release, Ordering::Relaxed);
                assert!(freed.is_ok(), "swept under its owner's hands");
            }
            self.words[task].free(filling);
        }
        got
    }

    /// `sweep_blocks`, by a repairer who has this task, if any.
    fn sweep(&self, mine: Option<usize>) {
        let word = self.owner.load(Ordering::Acquire);
        if word == NONE {
            return;
        }
        let (task, generation) = (word as u32 as usize, (word >> 32) as u16);
        let state = self.words[task].load();
        let kept = state.generation() == generation
            && state.phase() != Some(Phase::Free)
            && (mine != Some(task) || self.listed[task].load(Ordering::Relaxed) == 1);
        if !kept {
            let _ = self.owner.compare_exchange(word, NONE, Ordering::AcqRel, Ordering::Relaxed);
        }
    }

    /// Does for dead task 0 what is due, then sweeps.
    fn repair(&self) {
        let found = self.words[0].load();
        if found.phase() == Some(Phase::Filling) {
            if self.listed[0].load(Ordering::Relaxed) == 1 {
                let owned = owner_word(0, found.generation());
                let _ = self.owner.compare_exchange(owned, NONE, Ordering::Release, Ordering::Relaxed);
            }
            assert!(self.words[0].free_if(found));
        }
        self.sweep(None);
    }
}

/// A sweep, for whatever death, finds a request at any moment of its life, and of the next.
#[test]
fn a_sweep_spares_the_living() {
    explore(|| {
        let pool = Pool::new();
        let client = {
            let pool = pool.clone();
            spawn(move || assert!(pool.live(0, 2)))
        };
        take_part();
        pool.sweep(None);
        client.join().unwrap();
        assert_eq!(pool.owner.load(Ordering::Relaxed), NONE);
    });
}

fn dies(pool: &Arc<Pool>, death: &Death) -> bool {
    let (pool, death) = (pool.clone(), death.clone());
    let life = move || {
        death.strikes(|| {
            pool.live(0, 1);
        })
    };
    spawn(life).join().unwrap()
}

/// A client dies anywhere: before the block is its own, before it is recorded, or while it frees. After the
/// repair the block is free, or another's that claimed it meanwhile.
#[test]
fn a_client_dies_over_a_block() {
    explore_deaths(|death| {
        let pool = Pool::new();
        let died = dies(&pool, death);
        let other = {
            let pool = pool.clone();
            spawn(move || pool.live(1, 1))
        };
        take_part();
        if died {
            pool.repair();
        }
        other.join().unwrap();
        assert_eq!(pool.owner.load(Ordering::Relaxed), NONE);
        assert!(pool.live(1, 1) || pool.words[1].load().generation() > 1, "the block is lost");
    });
}

/// The same for the repairer of it, after whom the next one repairs.
#[test]
fn a_repairer_dies_over_a_block() {
    explore_deaths(|death| {
        let pool = Pool::new();
        // Claimed and not recorded; or not even that.
        pool.words[0].begin(token(0));
        pool.owner.store(owner_word(0, 0), Ordering::Relaxed);
        let victim = {
            let (pool, death) = (pool.clone(), death.clone());
            spawn(move || death.strikes(|| pool.repair()))
        };
        let other = {
            let pool = pool.clone();
            spawn(move || pool.live(1, 1))
        };
        if victim.join().unwrap() {
            pool.repair();
        }
        other.join().unwrap();
        assert_eq!(pool.owner.load(Ordering::Relaxed), NONE);
    });
}
