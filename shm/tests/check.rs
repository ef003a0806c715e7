//! `check` finds each inconsistency, and none in a consistent segment.

mod common;

use common::Fixture;
use ringmill_shm::check::{PhaseCounts, Problem, check};
use ringmill_shm::word::Phase;

const WORKER: u32 = 1;
const PATTERN: &[u8] = b"a pattern that is there once";

#[test]
fn a_segment_in_every_phase_is_consistent() {
    let f = Fixture::new();
    let (client, worker) = (f.client(), f.arrive(WORKER));
    assert_eq!(check(&f.segment), []);
    f.send(0, client, b"done");
    f.send(1, client, b"claimed");
    let mut claimed = f.drain(0, worker);
    let mut held = claimed.pop().unwrap();
    held.block_buffer(1000).unwrap();
    f.finish(claimed.pop().unwrap(), false);
    f.send(2, client, b"queued");
    let mut filling = f.begin(3, client);
    filling.block_buffer(100).unwrap();
    f.lock_for_ever(0, worker);
    assert_eq!(check(&f.segment), []);
    let counts = PhaseCounts::of(&f.segment);
    let others = Phase::ALL.map(|phase| (phase, counts[phase])).into_iter().filter(|(_, count)| *count != 0);
    let seen =
        [(Phase::Free, 36), (Phase::Filling, 1), (Phase::Queued, 1), (Phase::Claimed, 1), (Phase::Done, 1)];
    assert!(others.eq(seen), "{counts:?}");
}

#[test]
fn a_phase_that_does_not_exist() {
    let f = Fixture::new();
    f.send(5, f.client(), PATTERN);
    let word = f.task(5).word().load().raw() | 0x7 << 29;
    f.line_of(PATTERN).set_word(word);
    assert_eq!(check(&f.segment), [Problem::BadPhase { task: 5, word }]);
}

#[test]
fn an_owner_that_is_dead() {
    let f = Fixture::new();
    let worker = f.arrive(WORKER);
    f.send(5, f.client(), b"");
    drop(f.drain(0, worker));
    assert_eq!(check(&f.segment), []);
    f.bury(worker);
    let state = f.task(5).word().load();
    assert_eq!(
        check(&f.segment),
        [Problem::DeadOwner { task: 5, word: state.raw(), state: format!("{state:?}") }]
    );
}

#[test]
fn an_owner_that_is_no_participant() {
    let f = Fixture::new();
    f.send(5, f.client(), PATTERN);
    drop(f.drain(0, f.arrive(WORKER)));
    f.line_of(PATTERN).set_word(f.task(5).word().load().raw() & u64::from(u32::MAX));
    assert!(matches!(check(&f.segment)[..], [Problem::DeadOwner { task: 5, .. }]));
}

#[test]
fn queued_in_no_ring() {
    let f = Fixture::new();
    let word = f.queue(5, f.client(), 0, b"").word().load().raw();
    assert_eq!(check(&f.segment), [Problem::NotInRing { task: 5, word }]);
}

#[test]
fn in_rings_more_than_once() {
    let f = Fixture::new();
    for (id, other_node) in [(5, 0), (6, 1)] {
        f.send(id, f.client(), b"");
        f.push(id, other_node);
    }
    let problem = |task| Problem::TwiceInRing { task, word: f.task(task).word().load().raw() };
    assert_eq!(check(&f.segment), [problem(5), problem(6)]);
}

#[test]
fn an_id_that_no_task_has() {
    let f = Fixture::new();
    f.send(5, f.client(), b"");
    f.push(40, 0);
    assert_eq!(check(&f.segment), [Problem::BadId { node: 0, position: 1, id: 40 }]);
}

#[test]
fn a_lap_that_does_not_belong() {
    let f = Fixture::new();
    f.push(37, 1);
    let cell = f.find(&(1_u64 << 32 | 37).to_le_bytes());
    f.write(cell + 4, &77_u32.to_le_bytes());
    assert_eq!(check(&f.segment), [Problem::BadLap { node: 1, position: 0, lap: 77 }]);
}

#[test]
fn a_head_from_nowhere_is_no_reason_to_panic() {
    let f = Fixture::new();
    for head in [u64::MAX, 77 << 6] {
        f.read(0, f.client()).set_head(head);
        let problems = check(&f.segment);
        assert!(problems.iter().all(|p| matches!(p, Problem::BadLap { node: 0, .. })), "{problems:?}");
    }
    assert_eq!(check(&f.segment).len(), 64, "no cell belongs to that lap");
}

#[test]
fn a_lock_holder_that_is_dead() {
    let f = Fixture::new();
    let worker = f.arrive(WORKER);
    f.lock_for_ever(0, worker);
    assert_eq!(check(&f.segment), []);
    f.bury(worker);
    assert_eq!(check(&f.segment), [Problem::DeadHolder { node: 0, token: worker.raw() }]);
}

#[test]
fn a_block_that_its_task_does_not_have() {
    let f = Fixture::new();
    let mut filling = f.begin(5, f.client());
    assert!(filling.inline_buffer().write(0, PATTERN));
    filling.block_buffer(1000).unwrap();
    let line = f.line_of(PATTERN);
    let handle = line.block();
    line.set_block(0);
    match &check(&f.segment)[..] {
        [Problem::LostBlock { class: 1, owner, .. }] => assert_eq!(*owner as u32, 5),
        other => panic!("{other:?}"),
    }
    line.set_block(handle);
    assert_eq!(check(&f.segment), []);
    filling.abandon();
}

/// A worker's number at the doorbell, and the token in its row, follow from the plan.
#[test]
fn a_doorbell_or_a_row_that_names_another_participant() {
    let f = Fixture::new();
    let doorbell = f.segment.node(1).unwrap().doorbell();
    doorbell.announce(1);
    doorbell.announce_window(1, 7);
    let turn = doorbell.begin_spinning(1).unwrap();
    assert_eq!(check(&f.segment), []);
    doorbell.announce(2);
    assert_eq!(check(&f.segment), [Problem::BadDoorbell { node: 1 }]);
    doorbell.retract(2);
    doorbell.end_spinning(turn);
    let turn = doorbell.begin_spinning(2).unwrap();
    assert_eq!(check(&f.segment), [Problem::BadDoorbell { node: 1 }]);
    doorbell.end_spinning(turn);
    doorbell.announce_window(2, 7);
    assert_eq!(check(&f.segment), [Problem::BadDoorbell { node: 1 }]);
    doorbell.retract_window();
    assert_eq!(check(&f.segment), []);

    let worker = f.arrive(WORKER);
    let token = f.find_row(worker);
    let stranger = common::token(WORKER + 1, 1);
    f.write(token, &stranger.raw().to_le_bytes());
    assert_eq!(check(&f.segment), [Problem::BadParticipant { participant: WORKER }]);
}

#[test]
fn problems_print_as_sentences() {
    let lost = Problem::LostBlock { class: 1, block: 2, owner: 3 };
    assert_eq!(lost.to_string(), "block 2 of class 1: its task does not have it");
    let bad = Problem::BadLap { node: 1, position: 0, lap: 77 };
    assert_eq!(bad.to_string(), "node 1: lap 77 does not belong at position 0");
}
