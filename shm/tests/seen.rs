//! What one that only looks sees of a task, in each phase, and of headers that are impossible.

mod common;

use common::{Fixture, fork, forward, node, spec};
use ringmill_shm::arena::{At, Content, Seen, Task};
use ringmill_shm::plan::Target;
use ringmill_shm::segment::{Segment, Spec};
use ringmill_shm::stats::Stamp;
use ringmill_shm::word::Phase;

/// What is said of a payload: its content, length, the task whose memory it is, its block, its first bytes.
type Said<'a> = (Content, u32, Option<(u32, Option<u64>)>, &'a [u8]);

fn look(task: Task<'_>) -> Seen<'_> {
    let seen = task.look(4).expect("it is in use");
    assert!(seen.at_once, "no other participant acts");
    seen
}

fn said<'a>(seen: &'a Seen<'_>) -> Said<'a> {
    let payload = &seen.payload;
    let place = payload.place.map(|place| (place.task, place.block_bytes));
    (payload.content, payload.length, place, &payload.bytes)
}

#[test]
fn a_request_is_followed_from_its_begin_to_its_end() {
    let f = Fixture::new();
    let task = f.task(3);
    assert!(task.look(4).is_none(), "it is free");
    let mut filling = f.begin(3, f.client());
    assert!(filling.block_buffer(200).unwrap().write(0, b"an input"));
    filling.set_length(8);
    let seen = look(task);
    assert_eq!((seen.phase, seen.stage()), (Phase::Filling, None));
    assert_eq!(said(&seen), (Content::Unfinished, 8, Some((3, Some(256))), &b"an i"[..]));

    filling.queue(0);
    f.push(3, 0);
    let seen = look(task);
    assert_eq!((seen.phase, seen.stage_name(), seen.is_begun()), (Phase::Queued, Some("first"), false));
    assert_eq!(said(&seen), (Content::Input, 8, Some((3, Some(256))), &b"an i"[..]));
    assert_eq!(
        (seen.worker_row(), seen.member(), seen.deadline_ns(), seen.queued_ns()),
        (None, None, None, None)
    );

    let worker = f.arrive(1);
    let mut claimed = f.drain(0, worker).pop().unwrap();
    assert_eq!((look(task).worker_row(), look(task).is_begun()), (Some(1), false));
    claimed.begin_work(0);
    assert_eq!((look(task).stage_name(), look(task).is_begun()), (Some("first"), true));
    assert_eq!(said(&look(task)).0, Content::Input);
    claimed.give_up_input();
    let seen = look(task);
    assert_eq!((seen.stage_name(), seen.is_begun()), (Some("first"), true), "by its worker's node");
    assert_eq!(said(&seen).0, Content::Unfinished);
    assert!(claimed.inline_buffer().write(0, b"outcome"));
    claimed.set_length(7);
    f.finish(claimed, false);
    let seen = look(task);
    assert_eq!((seen.phase, seen.stage(), seen.worker_row()), (Phase::Done, None, None));
    assert_eq!(said(&seen), (Content::Outcome, 7, Some((3, None)), &b"outc"[..]));
    f.outcome(task).unwrap().free();
    assert!(task.look(4).is_none());
}

#[test]
fn an_outcome_beside_its_input_is_told_from_it() {
    for (failed, content) in [(false, Content::Outcome), (true, Content::Error)] {
        let f = Fixture::new();
        let mut filling = f.begin(0, f.client());
        assert!(filling.block_buffer(200).unwrap().write(0, b"input"));
        filling.set_length(5);
        filling.queue(0);
        f.push(0, 0);
        let claimed = f.drain(0, f.arrive(1)).pop().unwrap();
        claimed.begin_work(0);
        let mut keeping = if failed { claimed.keep_input_for_error(0) } else { claimed.keep_input() };
        assert!(keeping.inline_buffer().write(0, b"told"));
        assert_eq!(said(&look(f.task(0))), (Content::Input, 5, Some((0, Some(256))), &b"inpu"[..]));
        keeping.set_length(4);
        assert_eq!(said(&look(f.task(0))), (content, 4, Some((0, None)), &b"told"[..]));
        f.finish(keeping.done(), failed);
        assert_eq!(said(&look(f.task(0))), (content, 4, Some((0, None)), &b"told"[..]));
    }
}

#[test]
fn times_are_told_where_a_clock_was_read() {
    let mut windowed = spec();
    windowed.nodes[0].facts.batch_wait_ns = 1_000;
    let f = Fixture::of(&windowed);
    let mut filling = f.begin(0, f.client());
    filling.set_length(0);
    filling.stamp(Stamp::at(96, None));
    filling.limit(99);
    filling.queue(0);
    let seen = look(f.task(0));
    assert_eq!((seen.queued_ns(), seen.deadline_ns()), (Some(96), Some(99)));
    assert_eq!(seen.task.begun_ns(), None);
    let mut filling = f.begin(1, f.client());
    filling.set_length(0);
    filling.stamp(Stamp::NONE);
    filling.queue(0);
    assert_eq!((look(f.task(1)).queued_ns(), look(f.task(1)).deadline_ns()), (None, None));
}

/// first → fork { left, right } → last
fn fork_spec() -> Spec {
    let members = [Target::Node(1), Target::Node(2)];
    let nodes = ["first", "left", "right", "last"].map(|name| node(name, Target::End, 1));
    Spec {
        tasks_per_request: 3,
        nodes: nodes.into(),
        forks: vec![fork(0, 0, 2, &members, Target::Node(3))],
        ..spec()
    }
}

#[test]
fn branches_have_a_member_and_the_payload_of_their_request() {
    let f = Fixture::of(&fork_spec());
    let mut filling = f.begin(1, f.client());
    assert!(filling.block_buffer(200).unwrap().write(0, b"input"));
    filling.set_length(5);
    let parent = f.task(1);
    for (branch, node) in filling.keep().fork(0).unwrap().zip([1, 2]) {
        let id = branch.task().id();
        assert_eq!(look(f.task(id)).stage(), None, "not moved on yet");
        forward(branch, node, || 0, false).unwrap();
    }
    let seen = look(parent);
    assert_eq!(
        (seen.phase, seen.stage(), seen.stage_name()),
        (Phase::Forked, Some(Target::Fork(0)), Some("fork"))
    );
    let branches: Vec<_> = seen.branches(4).collect();
    assert_eq!(branches.iter().map(Seen::member).collect::<Vec<_>>(), [Some((0, 0)), Some((0, 1))]);
    assert_eq!(branches.iter().map(|b| b.stage_name().unwrap()).collect::<Vec<_>>(), ["left", "right"]);
    for branch in &branches {
        assert_eq!(
            said(branch),
            (Content::Input, 5, Some((1, Some(256))), &b"inpu"[..]),
            "its request's memory"
        );
    }

    // One fails, and the request with it; the error record lies with the branch.
    let mut failing = f.drain(1, f.arrive(2)).pop().unwrap();
    assert!(failing.inline_buffer().write(0, b"broken"));
    failing.set_length(6);
    let keeper = failing.id();
    let mut join = failing.finish(true).expect("fail-fast");
    assert_eq!((look(parent).phase, look(parent).worker_row()), (Phase::Joining, Some(2)));
    assert_eq!(said(&look(parent)).0, Content::Unfinished);
    let mut buffer = join.error_buffer();
    assert!(buffer.inline_buffer().write(0, b"broken"));
    buffer.set_length(6);
    let failed = join.with_error().unwrap();
    assert!(matches!(look(parent).at, At::Failed(_)));
    assert_eq!(said(&look(parent)), (Content::Error, 6, Some((keeper, None)), &b"brok"[..]));
    assert!(failed.finish(true).is_none());
    assert_eq!(said(&look(parent)), (Content::Error, 6, Some((keeper, None)), &b"brok"[..]));
}

#[test]
fn an_impossible_header_has_no_place_and_no_bytes() {
    let f = Fixture::new();
    f.send(0, f.client(), b"a payload in line");
    let line = f.line_of(b"a payload in line");
    let is_nowhere = |length: u32| {
        let seen = look(f.task(0));
        assert_eq!(said(&seen), (Content::Input, length, None, &b""[..]));
    };
    line.set_length(97);
    is_nowhere(97);
    line.set_length(u32::MAX);
    is_nowhere(u32::MAX);
    line.set_length(4);
    // Blocks of others, blocks that do not exist, a slot of another task: all ones but each bit once.
    for block in (0..31).map(|bit| 1 << bit).filter(|block| block & 1 << 30 == 0).chain([
        1 << 31,
        u32::MAX,
        1 << 31 | 7,
    ]) {
        line.set_block(block);
        is_nowhere(4);
    }
    line.set_block(0);
    assert_eq!(said(&look(f.task(0))), (Content::Input, 4, Some((0, None)), &b"a pa"[..]));
}

/// A mapping that may not be written will do.
#[test]
fn an_inspected_segment_is_looked_at() {
    let f = Fixture::new();
    f.send(2, f.client(), b"input");
    let segment = Segment::inspect(f.location()).unwrap();
    let seen = look(Task::new(&segment, 2).unwrap());
    assert_eq!(said(&seen), (Content::Input, 5, Some((2, None)), &b"inpu"[..]));
}
