//! Partials: the caller gets all of them in order, then the outcome; and neither side sleeps for ever.

use super::{explore, explore_deaths, segment, spawn, token};
use crate::arena::{Claimed, Listener, Partials, Room, Task};
use crate::party::{Client, Participant};
use crate::plan::Target;
use crate::repair::{Orphan, put_right};
use crate::segment::{Plan, Segment};
use core::time::Duration;
use std::sync::Arc;

const CLIENT: u32 = 0;
const WORKER: u32 = 1;
/// More than a scene takes; the modelled futex has no timeouts.
const LONG: Duration = Duration::from_secs(1);

fn plan(slots: u32) -> Arc<Segment> {
    segment(Plan { requests: 1, nodes: vec![Target::End], partials: slots, ..Plan::default() })
}

#[expect(unsafe_code, reason = "the contract of guards")]
fn act(segment: &Segment, index: u32) -> Participant<'_> {
    // SAFETY: each participant of a scene has a token of its own.
    unsafe { segment.take_part(token(index)) }
}

/// The request is sent by its caller, who takes partials, and claimed by the worker.
fn claimed(segment: &Segment) -> Claimed<'_> {
    let filling = Task::new(segment, 0).unwrap().begin(token(CLIENT));
    assert!(filling.open_partials());
    filling.queue(0);
    let node = segment.node(0).unwrap();
    node.push(&[0]).unwrap();
    let mut reader = act(segment, WORKER).read(node, 0, || false).unwrap();
    let task = reader.claim(0).unwrap();
    reader.set_head(reader.ring().head() + 1);
    task
}

/// Emits a partial, waiting for room; false if the caller has gone.
fn emit(task: &mut Claimed<'_>, value: u8) -> bool {
    loop {
        let Listener::Open(mut emitter) = task.partials() else { return false };
        match emitter.room() {
            Room::Free => {
                assert!(emitter.buffer().write(0, &[value]));
                emitter.publish(1, 7, 0);
                return true;
            }
            Room::Full => emitter.await_room(LONG),
            Room::Closed => {}
        }
    }
}

fn work(task: Claimed<'_>, values: &[u8]) {
    let mut task = task;
    for &value in values {
        assert!(emit(&mut task, value));
    }
    assert!(task.finish(false).is_none());
}

#[expect(unsafe_code, reason = "the contract of guards")]
fn reader(segment: &Segment) -> (Client<'_>, Task<'_>, Partials<'_>) {
    let (client, task) = (act(segment, CLIENT).client(), Task::new(segment, 0).unwrap());
    // SAFETY: the scene's one caller has the request, and has opened its ring.
    (client, task, unsafe { client.partials(task) }.unwrap())
}

/// Takes partials until the outcome is there.
fn take_all(segment: &Segment) -> Vec<u8> {
    let (client, task, mut partials) = reader(segment);
    let mut values = Vec::new();
    loop {
        let done = task.outcome().is_some();
        while let Some((kind, bytes)) = partials.first().unwrap() {
            assert_eq!((kind, bytes.len()), (7, 1));
            values.push(bytes[0]);
            partials.advance();
        }
        if done {
            partials.close();
            return values;
        }
        client.sleep_for_partial(task, &partials, None);
    }
}

/// A ring of one slot: each side waits for the other in turn.
#[test]
fn all_arrive_in_order() {
    explore(|| {
        let plan = plan(1);
        let worker = {
            let plan = plan.clone();
            let task = claimed(&plan).park();
            spawn(move || work(task.resume(&plan).unwrap(), &[1, 2, 3]))
        };
        assert_eq!(take_all(&plan), [1, 2, 3]);
        worker.join().unwrap();
    });
}

/// The caller goes while the worker may wait for room.
#[test]
fn a_caller_goes() {
    explore(|| {
        let plan = plan(1);
        let worker = {
            let plan = plan.clone();
            let task = claimed(&plan).park();
            spawn(move || {
                let mut task = task.resume(&plan).unwrap();
                let emitted = (1..=3).take_while(|&value| emit(&mut task, value)).count();
                assert!(emitted == 3 || matches!(task.partials(), Listener::Gone));
                assert!(task.finish(false).is_none());
                emitted
            })
        };
        let (client, task, mut partials) = reader(&plan);
        if partials.first().unwrap().is_some() {
            partials.advance();
        }
        partials.leave();
        #[expect(unsafe_code, reason = "the contract of guards")]
        // SAFETY: the scene's one caller has the request.
        let _left = unsafe { client.cancel(task) };
        assert!(worker.join().unwrap() <= 2);
        assert!(task.is_free());
    });
}

/// A worker dies anywhere while it emits and answers; the repairer answers in its place. The caller gets a first part of
/// the partials, and one outcome.
#[test]
fn a_worker_dies() {
    explore_deaths(|death| {
        let plan = plan(1);
        let worker = {
            let (plan, death) = (plan.clone(), death.clone());
            let task = claimed(&plan).park();
            spawn(move || {
                let died = death.strikes(|| work(task.resume(&plan).unwrap(), &[1, 2]));
                if died {
                    plan.grave(WORKER).dig();
                    put_right(&plan, token(WORKER), token(2), |orphan| match orphan {
                        Orphan::Task(task) => {
                            assert!(task.finish(true).is_none());
                        }
                        Orphan::Join(join) => panic!("{join:?}"),
                    });
                    // Of all sleepers that a death wakes, the one of this scene.
                    let word = Task::new(&plan, 0).unwrap().word();
                    if word.peek().may_have_sleeper() {
                        word.wake_spuriously();
                    }
                }
            })
        };
        let values = take_all(&plan);
        assert!([&[][..], &[1], &[1, 2]].contains(&&values[..]), "{values:?}");
        worker.join().unwrap();
    });
}
