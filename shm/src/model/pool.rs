//! Blocks: claimed, recorded and freed while a repairer sweeps. No living task loses one, and no block of a dead client
//! is lost.
#![expect(unsafe_code, reason = "the contract of a repair: the dead of a scene act no more")]

use super::{Death, explore, explore_deaths, segment, spawn, take_part, token};
use crate::arena::Task;
use crate::plan::Target;
use crate::pool::{Handle, free, in_use};
use crate::repair::sweep_blocks;
use crate::segment::{BLOCK_BYTES, Plan, Segment};
use std::collections::BTreeSet;
use std::sync::Arc;

/// One block and two requests that want it, of a client each.
fn pool() -> Arc<Segment> {
    segment(Plan { requests: 2, blocks: 1, nodes: vec![Target::End], ..Plan::default() })
}

fn task(segment: &Segment, id: u32) -> Task<'_> {
    Task::new(segment, id).unwrap()
}

/// A request's whole life, `times` times: begins, claims the block, records it, has it, frees it with itself. Whether
/// it got the block.
fn live(segment: &Segment, id: u32, times: u32) -> bool {
    let mut got = false;
    for _ in 0..times {
        let request = task(segment, id);
        let mut filling = request.begin(token(id));
        let has_it = filling.block_buffer(BLOCK_BYTES).is_ok();
        // Asked by what frees it: loom forgets a look that only another look follows.
        let generation = request.word().peek().generation();
        let listed = Handle::from_raw(request.listed()[0]);
        let freed = listed.is_some_and(|handle| free(segment, handle, id, generation));
        assert_eq!(has_it, freed, "swept under its owner's hands");
        filling.abandon();
        got |= has_it;
    }
    got
}

/// A sweep, after any death, finds a request at any moment of its life, and of the next.
#[test]
fn a_sweep_spares_the_living() {
    explore(|| {
        let pool = pool();
        let client = {
            let pool = pool.clone();
            spawn(move || assert!(live(&pool, 0, 2)))
        };
        take_part();
        sweep_blocks(&pool, &BTreeSet::new());
        client.join().unwrap();
        assert_eq!(in_use(&pool), [0]);
    });
}

fn repair_client(pool: &Segment) {
    // SAFETY: the threads of the scene that acted under these tokens have ended, and one repairs at a time.
    let summary =
        unsafe { pool.take_part(token(2)).repairer().repair(token(0), |orphan| panic!("{orphan:?}")) };
    assert_eq!((summary.pushed, summary.orphaned), (0, 0));
}

/// A client dies anywhere: before the block is its own, before it is recorded, or while it frees. After the
/// repair the block is free, or another's that claimed it meanwhile.
#[test]
fn a_client_dies_over_a_block() {
    explore_deaths(|death| {
        let pool = pool();
        let victim = {
            let (pool, death) = (pool.clone(), death.clone());
            spawn(move || death.strikes(|| _ = live(&pool, 0, 1)))
        };
        let died = victim.join().unwrap();
        let other = {
            let pool = pool.clone();
            spawn(move || live(&pool, 1, 1))
        };
        take_part();
        if died {
            repair_client(&pool);
        }
        other.join().unwrap();
        assert_eq!(in_use(&pool), [0]);
        assert!(task(&pool, 0).is_free() && live(&pool, 1, 1), "the block is lost");
    });
}

/// The repairer of that death dies anywhere, and the next one repairs both.
#[test]
fn a_repairer_dies_over_a_block() {
    for recorded in [false, true] {
        explore_deaths(move |death: &Death| {
            let pool = pool();
            let mut filling = task(&pool, 0).begin(token(0));
            match recorded {
                true => drop(filling.block_buffer(BLOCK_BYTES).unwrap()),
                false => drop(crate::pool::claim(&pool, 0, 0, BLOCK_BYTES, None).unwrap()),
            }
            let victim = {
                let (pool, death) = (pool.clone(), death.clone());
                spawn(move || death.strikes(|| repair_client(&pool)))
            };
            let other = {
                let pool = pool.clone();
                spawn(move || live(&pool, 1, 1))
            };
            if victim.join().unwrap() {
                repair_client(&pool);
            }
            other.join().unwrap();
            assert_eq!(in_use(&pool), [0]);
            assert!(task(&pool, 0).is_free());
        });
    }
}
