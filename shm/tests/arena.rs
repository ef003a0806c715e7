//! Requests and their payloads through the guards; what a broken peer writes is an error and no access.

mod common;

use common::{Fixture, forward, spec};
use ringmill_shm::arena::{At, Corrupt, Task};
use ringmill_shm::layout::INLINE_BYTES;
use ringmill_shm::pool::{PoolError, in_use};
use ringmill_shm::segment::Segment;
use ringmill_shm::word::Phase;

const WORKER: u32 = 1;

#[test]
fn a_small_request_goes_round_in_its_line() {
    let f = Fixture::new();
    let (client, worker) = (f.client(), f.arrive(WORKER));
    let task = f.send(3, client, b"question");
    let mut claimed = f.drain(0, worker).pop().unwrap();
    assert_eq!((claimed.id(), claimed.task().at(), claimed.attempt()), (3, At::to(0), 0));
    assert_eq!(claimed.payload().unwrap(), b"question");
    assert!(claimed.inline_buffer().write(0, b"the answer"), "over the question");
    claimed.set_length(10);
    assert!(f.outcome(task).is_none());
    f.finish(claimed, false);
    let done = f.outcome(task).unwrap();
    assert_eq!((done.payload().unwrap(), done.is_error()), (&b"the answer"[..], false));
    assert_eq!(done.free(), 3);
    assert!(task.is_free());
    assert_eq!(task.word().load().generation(), 1);
}

#[test]
fn an_error_is_marked() {
    let f = Fixture::new();
    let task = f.send(0, f.client(), b"");
    f.finish(f.drain(0, f.arrive(WORKER)).pop().unwrap(), true);
    let done = f.outcome(task).unwrap();
    assert!(done.is_error());
    assert_eq!(done.payload().unwrap(), b"");
}

#[test]
fn a_request_that_is_not_sent_is_given_back() {
    let f = Fixture::new();
    let mut filling = f.begin(5, f.client());
    filling.block_buffer(500).unwrap();
    assert_eq!(in_use(&f.segment), [0, 1]);
    assert_eq!(filling.abandon(), 5);
    assert_eq!(in_use(&f.segment), [0, 0]);
    assert!(f.task(5).is_free());
}

#[test]
fn a_buffer_takes_what_fits_and_nothing_else() {
    let f = Fixture::new();
    let mut filling = f.begin(0, f.client());
    let mut buffer = filling.inline_buffer();
    assert_eq!(buffer.room(), INLINE_BYTES);
    assert!(buffer.write(INLINE_BYTES - 1, b"x"));
    assert!(!buffer.write(INLINE_BYTES - 1, b"xy"));
    assert!(!buffer.write(INLINE_BYTES + 1, b""));
    assert!(!buffer.write(usize::MAX, b"x"), "no overflow");
    assert_eq!(buffer.as_bytes_mut().len(), INLINE_BYTES);
    assert_eq!(buffer.as_bytes_mut()[INLINE_BYTES - 1], b'x');
}

#[test]
fn a_large_payload_lies_in_a_block_and_its_outcome_over_it() {
    let f = Fixture::new();
    let (client, worker) = (f.client(), f.arrive(WORKER));
    let mut filling = f.begin(0, client);
    let question = vec![7; 200];
    let mut buffer = filling.block_buffer(200).unwrap();
    assert_eq!(buffer.room(), 256);
    assert_eq!(buffer.as_bytes_mut().as_ptr().align_offset(16), 0);
    assert!(buffer.write(0, &question));
    filling.set_length(200);
    let task = filling.queue(0);
    f.push(0, 0);

    let mut claimed = f.drain(0, worker).pop().unwrap();
    assert_eq!(claimed.payload().unwrap(), question);
    assert!(claimed.block_buffer(256).unwrap().write(0, &[8; 256]), "the same block is large enough");
    claimed.set_length(256);
    assert_eq!(in_use(&f.segment), [1, 0]);
    f.finish(claimed, false);
    let done = f.outcome(task).unwrap();
    assert_eq!(done.payload().unwrap(), [8; 256]);
    done.free();
    assert_eq!(in_use(&f.segment), [0, 0]);
}

#[test]
fn a_task_can_have_two_blocks_and_frees_both() {
    let f = Fixture::new();
    let (client, worker) = (f.client(), f.arrive(WORKER));
    let mut filling = f.begin(0, client);
    assert!(filling.block_buffer(150).unwrap().write(0, &[1; 150]));
    filling.set_length(150);
    let task = filling.queue(0);
    f.push(0, 0);
    let mut claimed = f.drain(0, worker).pop().unwrap();
    assert!(claimed.block_buffer(1000).unwrap().write(0, &[2; 1000]));
    claimed.set_length(1000);
    assert_eq!(in_use(&f.segment), [1, 1], "the input is kept");
    f.finish(claimed, false);
    let done = f.outcome(task).unwrap();
    assert_eq!(done.payload().unwrap(), [2; 1000]);
    done.free();
    assert_eq!(in_use(&f.segment), [0, 0]);
}

#[test]
fn an_inline_outcome_keeps_the_block_of_the_input_until_the_end() {
    let f = Fixture::new();
    let (client, worker) = (f.client(), f.arrive(WORKER));
    let mut filling = f.begin(0, client);
    assert!(filling.block_buffer(150).unwrap().write(0, &[1; 150]));
    filling.set_length(150);
    let task = filling.queue(0);
    f.push(0, 0);
    let mut claimed = f.drain(0, worker).pop().unwrap();
    assert!(claimed.inline_buffer().write(0, b"small"));
    claimed.set_length(5);
    f.finish(claimed, false);
    assert_eq!(in_use(&f.segment), [1, 0]);
    let done = f.outcome(task).unwrap();
    assert_eq!(done.payload().unwrap(), b"small");
    done.free();
    assert_eq!(in_use(&f.segment), [0, 0]);
}

/// However often a guard asks for its buffer, a task has two blocks at most.
#[test]
fn growing_payloads_do_not_pile_up() {
    let f = Fixture::new();
    let mut filling = f.begin(0, f.client());
    for bytes in [100, 1000, 100, 1000, 200, 1024] {
        filling.inline_buffer();
        filling.block_buffer(bytes).unwrap();
        assert!(in_use(&f.segment).iter().sum::<u64>() <= 2);
    }
    filling.abandon();
    assert_eq!(in_use(&f.segment), [0, 0]);
}

#[test]
fn when_a_class_is_exhausted_the_next_one_serves_and_then_none() {
    let f = Fixture::new();
    let mut held: Vec<_> = (0..5).map(|id| f.begin(id, f.client())).collect();
    let rooms: Vec<usize> = held.iter_mut().map(|h| h.block_buffer(100).unwrap().room()).collect();
    assert_eq!(rooms, [256, 256, 256, 1024, 1024]);
    assert_eq!(in_use(&f.segment), [3, 2]);
    let mut another = f.begin(5, f.client());
    assert_eq!(another.block_buffer(100).unwrap_err(), PoolError::Exhausted { bytes: 100 });
    assert_eq!(
        another.block_buffer(1025).unwrap_err(),
        PoolError::TooLarge { bytes: 1025, largest: 1024 },
        "and the request is as before"
    );
    assert!(another.inline_buffer().write(0, b"small"));
    held.pop().unwrap().abandon();
    assert_eq!(another.block_buffer(100).unwrap().room(), 1024);
    for filling in held {
        filling.abandon();
    }
    another.abandon();
    assert_eq!(in_use(&f.segment), [0, 0]);
}

#[test]
fn a_task_goes_on_to_the_next_node() {
    let mut spec = spec();
    spec.nodes[1].facts.batch_wait_ns = 1;
    let f = Fixture::of(&spec);
    let (client, worker, next) = (f.client(), f.arrive(WORKER), f.arrive(3));
    let task = f.send(9, client, b"payload");
    let claimed = f.drain(0, worker).pop().unwrap();
    forward(claimed, 1, || 128, false).unwrap();
    assert_eq!((task.at(), task.stamp().time_ns()), (At::to(1), 128), "a window needs the time");
    let claimed = f.drain(1, next).pop().unwrap();
    assert_eq!((claimed.payload().unwrap(), claimed.attempt()), (&b"payload"[..], 0));
    forward(claimed, 1, || 124, true).unwrap();
    let claimed = f.drain(1, next).pop().unwrap();
    assert_eq!(claimed.attempt(), 1);
    f.finish(claimed, false);
    f.outcome(task).unwrap().free();
    assert_eq!(task.word().load().attempt(), 0);
}

#[test]
fn there_is_no_way_to_a_node_that_does_not_exist() {
    let f = Fixture::new();
    f.send(9, f.client(), b"");
    let claimed = f.drain(0, f.arrive(WORKER)).pop().unwrap();
    let claimed = forward(claimed, 2, || 0, false).unwrap_err();
    assert!(f.segment.node(2).is_none());
    f.finish(claimed, true);
}

/// Symptom: with most tasks cancelled, a ring could come round to a cell that was claimed and not drained;
/// had its reader died then, the next one would have found the ring empty for ever. Cause: a reader freed
/// an abandoned task where it claimed it, so that the id could be pushed again before `head` had moved.
/// Fix: the reader that claims it frees it later.
#[test]
fn an_abandoned_task_is_freed_after_its_cell_is_drained() {
    let f = Fixture::new();
    let (client, worker) = (f.client(), f.arrive(WORKER));
    let task = f.send(0, client, b"no caller waits");
    assert!(f.cancel(task), "in time");
    let freed = f.segment.freed();
    let (rings, _awaiting) = (freed.count(), freed.await_rings());

    let mut reader = f.read(0, worker);
    let claimed = reader.claim(0).unwrap();
    assert!(claimed.is_abandoned());
    assert_eq!(task.word().load().phase(), Some(Phase::Claimed), "not yet");
    assert_eq!(freed.count(), rings);
    reader.set_head(1);
    assert!(claimed.discard().is_none());
    assert!(task.is_free());
    assert_eq!(freed.count(), rings + 2, "counted for the next look, and rung for the caller that waits");
}

#[test]
fn a_task_cancelled_under_work_is_freed_by_its_worker() {
    let f = Fixture::new();
    let (client, worker) = (f.client(), f.arrive(WORKER));
    let mut filling = f.begin(0, client);
    filling.block_buffer(150).unwrap();
    let task = filling.queue(0);
    f.push(0, 0);
    let claimed = f.drain(0, worker).pop().unwrap();
    assert!(!claimed.is_abandoned());
    assert!(f.cancel(task));
    f.finish(claimed, false);
    assert!(task.is_free());
    assert_eq!(in_use(&f.segment), [0, 0]);
}

#[test]
fn a_task_cancelled_after_its_outcome_is_freed_by_its_caller() {
    let f = Fixture::new();
    let (client, worker) = (f.client(), f.arrive(WORKER));
    let task = f.send(0, client, b"");
    let mut claimed = f.drain(0, worker).pop().unwrap();
    claimed.block_buffer(150).unwrap();
    f.finish(claimed, false);
    assert!(!f.cancel(task), "too late");
    assert!(task.is_free());
    assert_eq!(in_use(&f.segment), [0, 0]);
}

#[test]
#[should_panic(expected = "a caller waits for task 0")]
fn a_task_that_a_caller_waits_for_is_not_discarded() {
    let f = Fixture::new();
    f.send(0, f.client(), b"");
    let _ = f.drain(0, f.arrive(WORKER)).pop().unwrap().discard();
}

#[test]
fn a_length_that_cannot_be_is_corrupt() {
    let f = Fixture::new();
    f.send(4, f.client(), b"a pattern that is there once");
    let line = f.line_of(b"a pattern that is there once");
    let claimed = f.drain(0, f.arrive(WORKER)).pop().unwrap();
    for bytes in [INLINE_BYTES as u32 + 1, u32::MAX] {
        line.set_length(bytes);
        assert_eq!(claimed.payload(), Err(Corrupt { task: 4, bytes, block: 0 }));
    }
    line.set_length(INLINE_BYTES as u32);
    assert_eq!(claimed.payload().unwrap().len(), INLINE_BYTES);
    line.set_length(u32::MAX);
    f.finish(claimed, false);
    assert!(f.outcome(f.task(4)).unwrap().payload().is_err(), "the client looks as well");
}

#[test]
fn a_length_beyond_the_block_is_corrupt() {
    let f = Fixture::new();
    let mut filling = f.begin(4, f.client());
    assert!(filling.inline_buffer().write(0, b"a pattern that is there once"));
    filling.block_buffer(200).unwrap();
    filling.queue(0);
    f.push(4, 0);
    let line = f.line_of(b"a pattern that is there once");
    let claimed = f.drain(0, f.arrive(WORKER)).pop().unwrap();
    line.set_length(256);
    assert_eq!(claimed.payload().unwrap().len(), 256);
    line.set_length(257);
    assert_eq!(claimed.payload(), Err(Corrupt { task: 4, bytes: 257, block: line.block() }));
}

#[test]
fn a_block_that_is_not_its_own_is_corrupt() {
    let f = Fixture::new();
    let (client, worker) = (f.client(), f.arrive(WORKER));
    f.send(4, client, b"a pattern that is there once");
    let line = f.line_of(b"a pattern that is there once");
    let mut other = f.begin(5, client);
    assert!(other.inline_buffer().write(0, b"another pattern"));
    other.block_buffer(200).unwrap();
    let others_block = f.line_of(b"another pattern").block();
    let claimed = f.drain(0, worker).pop().unwrap();
    // Another's block; a free one; one beyond the last; a class that is not there; the largest number.
    const OUTCOME: u32 = 1 << 30; // no part of a handle
    for handle in [others_block, 9, 1 + (1000 << 3), 1 + 7, !OUTCOME] {
        line.set_block(handle);
        match claimed.payload() {
            Err(Corrupt { task: 4, block, .. }) => assert_eq!(block, handle),
            other => panic!("handle {handle}: {other:?}"),
        }
    }
    f.finish(claimed, false);
    f.outcome(f.task(4)).unwrap().free();
    assert_eq!(in_use(&f.segment), [1, 0], "another's block is not freed with it");
    other.abandon();
}

#[test]
fn an_id_that_no_task_has_is_none() {
    let f = Fixture::new();
    let tasks = spec().requests * spec().tasks_per_request;
    assert!(ringmill_shm::arena::Task::new(&f.segment, tasks - 1).is_some());
    assert!(ringmill_shm::arena::Task::new(&f.segment, tasks).is_none());
    assert!(ringmill_shm::arena::Task::new(&f.segment, u32::MAX).is_none());
}

/// Symptom: safe code over this library had two live `&mut` to one byte, from two copies of a task that was put aside, or
/// by taking it up in another segment. Cause: which code may have a guard was prose. Fix: it is taken up once, and where it was
/// claimed.
#[test]
fn a_parked_task_is_resumed_in_its_own_segment() {
    let f = Fixture::new();
    let others = [f.attach().unwrap(), Segment::inspect(f.location()).unwrap(), Fixture::new().segment];
    f.send(0, f.client(), b"input");
    let claimed = f.drain(0, f.arrive(WORKER)).pop().unwrap();
    let parked = claimed.park().resume(&f.segment).expect("ours").park();
    assert!(others.iter().all(|segment| Task::new(segment, 0).is_some()), "they have such a task too");
    assert!(parked.resume(&others[2]).is_none(), "claimed in another segment");
    for (id, other) in (1..).zip(&others[..2]) {
        f.send(id, f.client(), b"input");
        let parked = f.drain(0, f.arrive(WORKER)).pop().unwrap().park();
        assert!(parked.resume(other).is_none(), "the same bytes, mapped once more");
    }
}

/// Guards come from a participant alone (the examples of `party` do not compile without). A segment that was only attached or
/// inspected sees what becomes of a task, and takes no part in it.
#[test]
fn a_segment_that_is_only_inspected_sees_tasks_and_takes_none() {
    let f = Fixture::new();
    let (client, worker) = (f.client(), f.arrive(WORKER));
    let inspected = [f.attach().unwrap(), Segment::inspect(f.location()).unwrap()];
    let sees = |phase| {
        for segment in &inspected {
            let (seen, task) = (Task::new(segment, 0).unwrap(), f.task(0));
            assert_eq!(seen.word().load(), task.word().load());
            assert_eq!(seen.word().load().phase(), Some(phase));
            assert_eq!((seen.is_free(), seen.is_done()), (phase == Phase::Free, phase == Phase::Done));
        }
    };
    sees(Phase::Free);
    let filling = f.begin(0, client);
    sees(Phase::Filling);
    filling.queue(0);
    f.push(0, 0);
    sees(Phase::Queued);
    let parked = f.drain(0, worker).pop().unwrap().park();
    sees(Phase::Claimed);
    f.finish(parked.resume(&f.segment).expect("ours"), false);
    sees(Phase::Done);
    assert_eq!(f.outcome(f.task(0)).expect("ours").free(), 0);
    sees(Phase::Free);
}
