//! Retries: an input outlives the workers that die with it, wherever it and its outcome lie, until the outcome is committed.

mod common;

use common::{Fixture, task_of, token};
use ringmill_shm::arena::{At, Claimed, Keeping};
use ringmill_shm::check::check;
use ringmill_shm::pool::in_use;
use ringmill_shm::token::Token;

const FIRST: u32 = 1;
/// Payloads: in line, in a block of the small class, in one of the large.
const SIZES: [usize; 4] = [0, 90, 200, 900];

/// Where a worker dies with an outcome that it writes beside its input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Dies {
    BeforeWork,
    Working,
    Writing,
    Committed,
    NamingTheNext,
}
const WHERE: [Dies; 5] =
    [Dies::BeforeWork, Dies::Working, Dies::Writing, Dies::Committed, Dies::NamingTheNext];

fn pattern(seed: u8, bytes: usize) -> Vec<u8> {
    (0..bytes).map(|i| (i as u8).wrapping_mul(31).wrapping_add(seed)).collect()
}

fn send(f: &Fixture, input: &[u8]) {
    let mut filling = f.begin(0, f.client());
    let mut buffer = match input.len() {
        0..=96 => filling.inline_buffer(),
        n => filling.block_buffer(n as u64).unwrap(),
    };
    assert!(buffer.write(0, input));
    filling.set_length(input.len());
    filling.queue(0);
    f.push(0, 0);
}

/// As a serialiser does: in line if it fits there, else in a block.
macro_rules! write {
    ($task:expr, $outcome:expr) => {{
        let outcome: &[u8] = $outcome;
        if !$task.inline_buffer().write(0, outcome) {
            assert!($task.block_buffer(outcome.len() as u64).unwrap().write(0, outcome));
        }
    }};
}

/// One attempt, by a worker that dies at this point.
fn attempt(f: &Fixture, me: Token, input: &[u8], outcome: &[u8], dies: Dies) {
    let task = f.drain(0, me).pop().unwrap();
    assert_eq!(task.payload().unwrap(), input);
    assert!(!task.is_outcome(), "not before it is worked on");
    if dies == Dies::BeforeWork {
        return;
    }
    task.begin_work(0);
    if dies == Dies::Working {
        return;
    }
    let mut keeping: Keeping<'_> = task.keep_input();
    write!(keeping, outcome);
    if dies == Dies::Writing {
        return;
    }
    keeping.set_length(outcome.len());
    let task: Claimed<'_> = keeping.done();
    assert_eq!(task.payload().unwrap(), outcome);
    if dies == Dies::NamingTheNext {
        // All but the last step of moving it on: not ours, so it stays where it is.
        f.bury(me);
        let other = f.arrive(me.index() + 1);
        f.repair(me, other, |_left_as_it_is| {});
        drop(task.queue(1, || 0));
        f.bury(other);
    }
}

#[test]
fn an_input_outlives_its_workers_until_the_outcome_is_committed() {
    for (input_bytes, outcome_bytes) in SIZES.iter().flat_map(|&i| SIZES.map(|o| (i, o))) {
        for (first, second) in WHERE[..3].iter().flat_map(|&first| WHERE.map(|second| (first, second))) {
            let f = Fixture::new();
            let (input, outcome) = (pattern(1, input_bytes), pattern(2, outcome_bytes));
            let context = format!("{input_bytes} to {outcome_bytes}: {first:?}, then {second:?}");
            send(&f, &input);
            let mut attempts = 0;
            for (worker, dies) in [first, second].into_iter().enumerate() {
                let me = f.arrive(FIRST + 2 * (worker as u32 % 2));
                attempt(&f, me, &input, &outcome, dies);
                let mut dead = me;
                if dies == Dies::NamingTheNext {
                    dead = token(me.index() + 1, 1);
                } else {
                    f.bury(me);
                }
                let mut orphans = 0;
                f.repair(dead, f.client(), |orphan| {
                    orphans += 1;
                    let task = task_of(orphan);
                    let moved_on = match task.task().at() {
                        At::To { node: 0, .. } => task.requeue(0, || 0, false, 0).map(|_| 0),
                        At::To { node: 1, .. } => task.queue(1, || 0).map(|_| 1),
                        At::Begun { node: 0, .. } if task.is_outcome() => task.queue(1, || 0).map(|_| 1),
                        At::Begun { node: 0, .. } => {
                            attempts += 1;
                            task.requeue(0, || 0, true, 5).map(|_| 0)
                        }
                        other => panic!("{context}: {other:?}"),
                    };
                    f.push(0, moved_on.expect("it is ours"));
                });
                assert_eq!(orphans, 1, "{context}");
            }
            assert_eq!(check(&f.segment), [], "{context}");
            let last = f.arrive(4);
            let task = if matches!(second, Dies::Committed | Dies::NamingTheNext) {
                f.drain(1, last).pop().unwrap()
            } else {
                let mut task = f.drain(0, last).pop().unwrap();
                assert_eq!((task.payload().unwrap(), task.attempt()), (&input[..], attempts), "{context}");
                task.begin_work(0);
                write!(task, &outcome);
                task.set_length(outcome.len());
                task
            };
            assert!(!task.is_outcome() && task.payload().unwrap() == outcome, "{context}");
            f.finish(task, false);
            let done = f.outcome(f.task(0)).unwrap();
            assert_eq!(done.payload().unwrap(), outcome, "{context}");
            done.free();
            assert_eq!(in_use(&f.segment), [0, 0], "{context}");
            assert_eq!(check(&f.segment), [], "{context}");
        }
    }
}

#[test]
fn an_error_that_is_committed_is_told_apart_from_a_value() {
    let f = Fixture::new();
    send(&f, b"input");
    let me = f.arrive(FIRST);
    let task = f.drain(0, me).pop().unwrap();
    task.begin_work(0);
    let mut keeping = task.keep_input_for_error(0);
    assert_eq!(keeping.inline_buffer().room(), 0, "the input lies there");
    write!(keeping, b"an error record");
    keeping.set_length(15);
    f.bury(me);
    f.repair(me, f.client(), |orphan| {
        let task = task_of(orphan);
        assert_eq!((task.task().at(), task.is_outcome()), (At::Begun { node: 0, failed: true }, true));
        f.finish(task, true);
    });
    let done = f.outcome(f.task(0)).unwrap();
    assert_eq!((done.payload().unwrap(), done.is_error()), (&b"an error record"[..], true));
}

#[test]
fn an_outcome_that_is_not_finished_leaves_nothing() {
    let f = Fixture::new();
    send(&f, b"input");
    let me = f.arrive(FIRST);
    let mut keeping = f.drain(0, me).pop().unwrap().keep_input();
    for bytes in [200, 900, 100] {
        keeping.block_buffer(bytes).unwrap();
        assert_eq!(in_use(&f.segment).iter().sum::<u64>(), 1, "one at a time");
    }
    let task = keeping.done();
    assert_eq!((in_use(&f.segment), task.payload().unwrap()), (vec![0, 0], &b"input"[..]));
    f.finish(task, false);
}

#[test]
fn an_input_that_is_given_up_says_so() {
    let f = Fixture::new();
    send(&f, b"input");
    let me = f.arrive(FIRST);
    let mut keeping = f.drain(0, me).pop().unwrap().keep_input_for_error(0);
    write!(keeping, b"beside");
    assert_eq!(in_use(&f.segment), [1, 0]);
    keeping.give_up_input();
    assert_eq!((in_use(&f.segment), f.task(0).at()), (vec![0, 0], At::Spoilt));
    assert!(keeping.inline_buffer().write(0, b"over"));
    keeping.set_length(4);
    f.finish(keeping.done(), true);
    assert_eq!(f.outcome(f.task(0)).unwrap().payload().unwrap(), b"over");
}

#[test]
fn a_group_goes_with_its_task_and_no_further() {
    let f = Fixture::new();
    send(&f, b"suspect");
    let me = f.arrive(FIRST);
    let most = At::GROUP_LIMIT - 1;
    let task = f.drain(0, me).pop().unwrap();
    f.push(task.requeue(0, || 0, true, most).unwrap(), 0);
    assert_eq!(f.task(0).at(), At::To { node: 0, group: most, retried: true });
    let task = f.drain(0, me).pop().unwrap();
    assert_eq!(task.attempt(), 1);
    f.push(task.queue(1, || 0).unwrap(), 1);
    let task = f.drain(1, me).pop().unwrap();
    assert_eq!((task.task().at(), task.attempt()), (At::to(1), 0), "attempts are of one node");
    f.finish(task, false);
}

/// Claimed at this node, and begun.
fn begun(f: &Fixture, node: u32, me: Token) -> Claimed<'_> {
    let task = f.drain(node, me).pop().unwrap();
    task.begin_work(node);
    task
}

/// An outcome beside the input, committed.
fn reply_beside<'a>(task: Claimed<'a>, outcome: &[u8]) -> Claimed<'a> {
    let mut keeping = task.keep_input();
    write!(keeping, outcome);
    keeping.set_length(outcome.len());
    keeping.done()
}

/// Symptom: a block was lost for as long as the request lived, wherever an outcome could not be written after its
/// block was claimed (a serialiser that fails, or writes more the second time). Cause: that an error record follows
/// forgot the block. Fix: it is given back.
#[test]
fn the_block_of_an_outcome_that_gives_way_to_an_error_is_given_back() {
    let f = Fixture::new();
    send(&f, b"input");
    let mut keeping = begun(&f, 0, f.arrive(FIRST)).keep_input();
    assert!(keeping.block_buffer(200).unwrap().write(0, &pattern(2, 200)));
    let mut keeping = keeping.done().keep_input_for_error(0);
    assert_eq!(in_use(&f.segment), [0, 0], "no task lists it");
    write!(keeping, b"an error record");
    keeping.set_length(15);
    f.finish(keeping.done(), true);
    f.outcome(f.task(0)).unwrap().free();
    assert_eq!((in_use(&f.segment), check(&f.segment)), (vec![0, 0], vec![]));
}

/// Symptom: with three stages and inputs kept, "all blocks are in use" although there are two for each task. Cause: a task held
/// the block of its input, that of the stage before, and that of its outcome. Fix: the block of the stage before, which no
/// participant needs, goes first.
#[test]
fn two_blocks_are_enough_for_a_task_whose_inputs_are_kept() {
    let f = Fixture::new();
    let texts = [1, 2, 3, 4].map(|seed| pattern(seed, 900)); // of the class that has two blocks
    send(&f, &texts[0]);
    let me = f.arrive(FIRST);
    for (stage, outcome) in texts[1..].iter().enumerate() {
        let task = begun(&f, stage as u32 % 2, me);
        assert_eq!(task.payload().unwrap(), texts[stage]);
        let task = reply_beside(task, outcome);
        assert_eq!(task.payload().unwrap(), outcome);
        let next = (stage as u32 + 1) % 2;
        f.push(task.queue(next, || 0).unwrap(), next);
    }
    let task = begun(&f, 1, me);
    assert_eq!(task.payload().unwrap(), texts[3]);
    f.finish(task, false);
    f.outcome(f.task(0)).unwrap().free();
    assert_eq!((in_use(&f.segment), check(&f.segment)), (vec![0, 0], vec![]));
}

/// Symptom: an unreadable outcome ("is corrupted"), after a worker had died between freeing the block that a task kept and naming
/// the next. Cause: the retry claimed the freed block for its outcome, and freed it again. Fix: a task never names a freed block,
/// and a second free would do no harm.
#[test]
fn a_kept_block_that_was_freed_is_not_freed_again_under_an_outcome() {
    let outcome = pattern(7, 200);
    let mut next_handle = 0;
    for poked in [false, true] {
        let f = Fixture::new();
        send(&f, b"needle in line");
        let me = f.arrive(FIRST);
        let task = reply_beside(begun(&f, 0, me), &pattern(5, 200));
        f.push(task.queue(1, || 0).unwrap(), 1);
        let header = f.find(b"needle in line") - 32;
        let task = begun(&f, 1, me);
        if poked {
            f.write(header + 24, &u32::to_le_bytes(next_handle));
        }
        let task = reply_beside(task, &outcome);
        assert_eq!(task.payload().unwrap(), outcome);
        next_handle = u32::from_le_bytes(f.bytes(header + 12)) & !(1 << 30);
        f.finish(task, false);
        let done = f.outcome(f.task(0)).unwrap();
        assert_eq!(done.payload().unwrap(), outcome);
        done.free();
        assert_eq!(in_use(&f.segment), [0, 0]);
    }
}

/// Symptom: a servlet called a request poisonous although hardly any of its workers had died. Cause: a worker of the stage before
/// died while it moved the request on, and left its own servlet's count with it. Fix: a request that was moved to a node, and not
/// retried there, has no count.
#[test]
fn attempts_do_not_travel_to_the_next_node_with_a_dead_mover() {
    let f = Fixture::new();
    send(&f, b"input");
    let (me, other) = (f.arrive(FIRST), f.arrive(FIRST + 1));
    let task = f.drain(0, me).pop().unwrap();
    task.begin_work(0);
    f.push(task.requeue(0, || 0, true, 0).unwrap(), 0);
    let task = begun(&f, 0, me);
    assert_eq!(task.attempt(), 1);
    let task = reply_beside(task, b"outcome");
    // All but the last step of moving it on: it is not ours any more.
    f.bury(me);
    f.repair(me, other, |_left_as_it_is| {});
    drop(task.queue(1, || 0));
    f.bury(other);
    for counted in [false, true] {
        f.repair(if counted { token(4, 1) } else { other }, f.client(), |orphan| {
            let task = task_of(orphan);
            f.push(task.requeue(1, || 0, counted, 0).unwrap(), 1);
        });
        let last = f.arrive(4);
        let task = f.drain(1, last).pop().unwrap();
        assert_eq!((task.attempt(), task.payload().unwrap()), (u8::from(counted), &b"outcome"[..]));
        if counted {
            f.finish(task, false);
        } else {
            task.begin_work(1);
            f.bury(last);
        }
    }
}
