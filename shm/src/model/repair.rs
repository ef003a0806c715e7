//! A node and its repair: a worker or a repairer dies anywhere, and every task has one outcome.

use super::{explore_deaths, explore_deaths_within, segment, spawn, token};
use crate::arena::{Claimed, Task};
use crate::party::{Participant, Reader};
use crate::plan::Target;
use crate::repair::{Orphan, put_right};
use crate::segment::{Plan, Segment};
use crate::token::Token;
use crate::word::{Cancel, Phase};
use std::sync::Arc;

const CLIENT: u32 = 0;
const DEAD: u32 = 1;

/// Two nodes one after the other, and two requests. Request 0 goes on to the second node, request 1 to its caller.
fn plan() -> Arc<Segment> {
    let nodes = vec![Target::Node(1), Target::End];
    segment(Plan { requests: 2, nodes, position: 3, ..Plan::default() })
}

fn task(segment: &Segment, id: u32) -> Task<'_> {
    Task::new(segment, id).unwrap()
}

#[expect(unsafe_code, reason = "the contract of guards")]
fn act(segment: &Segment, index: u32) -> Participant<'_> {
    // SAFETY: each participant of a scene has a token of its own.
    unsafe { segment.take_part(token(index)) }
}

fn read(segment: &Segment, node: u32, me: u32) -> Reader<'_> {
    act(segment, me).read(segment.node(node).unwrap(), 0, || false).unwrap()
}

fn send(segment: &Segment, ids: &[u32]) {
    for &id in ids {
        task(segment, id).begin(token(CLIENT)).queue(0);
    }
    segment.node(0).unwrap().push(ids).unwrap();
}

/// Claims all that waits at a node, up to two; `head` moves.
fn drain(segment: &Segment, node: u32, me: u32) -> Vec<Claimed<'_>> {
    let mut reader = read(segment, node, me);
    let (ring, head) = (reader.ring(), reader.ring().head());
    let count = ring.published(head, 4);
    let claimed = (head..head + count).filter_map(|position| reader.claim(ring.get(position).unwrap()));
    let claimed = claimed.collect();
    reader.set_head(head + count);
    claimed
}

/// Ends a task of a living worker that has not lost it to another.
fn answer(task: Claimed<'_>, error: bool) {
    let of = task.task();
    assert!(task.finish(error).is_none());
    let state = of.word().load();
    assert!(state.is(Phase::Done, token(CLIENT)) && state.is_error() == error, "lost: {state:?}");
}

/// One batch at the first node.
fn work(segment: &Segment, me: u32) {
    for task in drain(segment, 0, me) {
        if task.id() == 0 {
            let id = task.queue(1, || 0).expect("it lives and has it");
            segment.node(1).unwrap().push(&[id]).unwrap();
        } else {
            answer(task, false);
        }
    }
}

fn repair_and_answer(segment: &Segment, dead: u32, me: u32) {
    put_right(segment, token(dead), token(me), |orphan| match orphan {
        Orphan::Task(task) => answer(task, true),
        Orphan::Join(join) => panic!("{join:?}"),
    });
    // Of all sleepers, those of these scenes.
    segment.node(0).unwrap().lock().wake_spuriously();
}

/// With all others at rest: both rings are drained, and each task has its outcome.
fn finish_and_check(segment: &Segment, me: u32) {
    work(segment, me);
    drain(segment, 1, me).into_iter().for_each(|task| answer(task, false));
    for id in 0..2 {
        let word = task(segment, id).word();
        assert!(word.load().is(Phase::Done, token(CLIENT)), "task {id} is stuck: {word:?}");
    }
    for node in [0, 1] {
        let node = segment.node(node).unwrap();
        assert_eq!((node.lock().holder(), node.ring().get(node.ring().head())), (None::<Token>, None));
    }
}

/// A worker dies anywhere while another one works and the repairer repairs.
#[test]
fn a_worker_dies() {
    explore_deaths(|death| {
        let plan = plan();
        send(&plan, &[0, 1]);
        let victim = {
            let (plan, death) = (plan.clone(), death.clone());
            spawn(move || death.strikes(|| work(&plan, DEAD)))
        };
        let survivor = {
            let plan = plan.clone();
            spawn(move || work(&plan, 3))
        };
        if victim.join().unwrap() {
            plan.grave(DEAD).dig();
            repair_and_answer(&plan, DEAD, 2);
        }
        survivor.join().unwrap();
        finish_and_check(&plan, 3);
    });
}

/// A repairer dies anywhere in the repair of a worker that left one task to push and one to answer, or one
/// claimed and not drained; the next repairer repairs both deaths while a worker works.
#[test]
fn a_repairer_dies() {
    for undrained in [false, true] {
        explore_deaths_within(1, move |death| {
            let plan = plan();
            send(&plan, &[0]);
            for task in drain(&plan, 0, DEAD) {
                task.queue(1, || 0).unwrap(); // and dies before its push
            }
            send(&plan, &[1]);
            if undrained {
                let reader = read(&plan, 0, DEAD);
                let _ = reader.claim(1).unwrap();
                std::mem::forget(reader);
            } else {
                let _ = drain(&plan, 0, DEAD);
            }
            plan.grave(DEAD).dig();
            let victim = {
                let (plan, death) = (plan.clone(), death.clone());
                spawn(move || death.strikes(|| repair_and_answer(&plan, DEAD, 2)))
            };
            let survivor = {
                let plan = plan.clone();
                spawn(move || work(&plan, 3))
            };
            if victim.join().unwrap() {
                plan.grave(2).dig();
                repair_and_answer(&plan, DEAD, 4);
                repair_and_answer(&plan, 2, 4);
            }
            survivor.join().unwrap();
            finish_and_check(&plan, 3);
        });
    }
}

/// Three tasks in the smallest ring for them, two of them cancelled: their reader frees them, their client
/// sends them again at once, and the reader dies anywhere. Were they freed before `head` has passed their
/// cells, the ring could come round to a cell that the next reader still expects.
#[test]
fn a_reader_dies_over_abandoned_tasks() {
    explore_deaths(|death| {
        let plan = segment(Plan { requests: 3, nodes: vec![Target::End], ..Plan::default() });
        send(&plan, &[0, 1, 2]);
        for id in 0..2 {
            assert_eq!(task(&plan, id).word().cancel(), Cancel::Left);
        }
        let drain_and_free = |plan: &Segment, me: u32| {
            for task in drain(plan, 0, me) {
                if task.is_abandoned() {
                    assert!(task.discard().is_none());
                }
            }
        };
        let victim = {
            let (plan, death) = (plan.clone(), death.clone());
            spawn(move || death.strikes(|| drain_and_free(&plan, DEAD)))
        };
        let client = {
            let plan = plan.clone();
            spawn(move || {
                for id in 0..2 {
                    if task(&plan, id).is_free() {
                        send(&plan, &[id]);
                    }
                }
            })
        };
        let died = victim.join().unwrap();
        client.join().unwrap();
        if died {
            plan.grave(DEAD).dig();
        }
        drain_and_free(&plan, 3);
        let ring = plan.node(0).unwrap().ring();
        assert_eq!(ring.get(ring.head()), None);
        for id in 0..3 {
            let state = task(&plan, id).word().load();
            assert_ne!(state.phase(), Some(Phase::Queued), "task {id} is stuck: {state:?}");
        }
    });
}
