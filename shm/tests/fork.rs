//! Branches over a real segment: they read the input where it lies, are joined once, and leave nothing behind, whichever
//! participant dies.

mod common;

use common::{Fixture, fork, forward, node, spec, task_of};
use ringmill_shm::arena::{Arrived, At, Claimed, Join, Task};
use ringmill_shm::check::check;
use ringmill_shm::plan::Target;
use ringmill_shm::pool::in_use;
use ringmill_shm::repair::{Orphan, Summary};
use ringmill_shm::segment::{AttachError, CreateError, Segment, Spec};
use ringmill_shm::token::Token;
use ringmill_shm::word::Phase;

/// The workers of the fork's members, and of the node after it.
const LEFT: u32 = 2;
const RIGHT: u32 = 3;
const OTHER: u32 = 4;

/// first → fork { left, right } → last
fn fork_spec() -> Spec {
    let members = [Target::Node(1), Target::Node(2)];
    Spec {
        tasks_per_request: 3,
        nodes: vec![
            node("first", Target::Fork(0), 1),
            node("left", Target::End, 1),
            node("right", Target::End, 1),
            node("last", Target::End, 1),
        ],
        forks: vec![fork(0, 0, 2, &members, Target::Node(3))],
        ..spec()
    }
}

/// A request with two workers, one for each branch.
struct Scene {
    f: Fixture,
    left: Token,
    right: Token,
}

impl Scene {
    fn new() -> Self {
        let f = Fixture::of(&fork_spec());
        let (left, right) = (f.arrive(LEFT), f.arrive(RIGHT));
        Self { f, left, right }
    }

    /// Request 0 with this input, in a block; forked, its branches moved on and claimed.
    fn forked(&self, input: &[u8]) -> (Task<'_>, Claimed<'_>, Claimed<'_>) {
        let task = self.claimed(input);
        let parent = task.task();
        for (branch, node) in task.fork(0).unwrap().zip([1, 2]) {
            forward(branch, node, || 0, false).unwrap();
        }
        self.well();
        let (left, right) = (self.f.drain(1, self.left).pop(), self.f.drain(2, self.right).pop());
        self.well();
        (parent, left.unwrap(), right.unwrap())
    }

    /// The request before it is forked, claimed by `left`.
    fn claimed(&self, input: &[u8]) -> Claimed<'_> {
        let f = &self.f;
        let mut filling = f.begin(0, f.client());
        assert!(filling.block_buffer(input.len() as u64).unwrap().write(0, input));
        filling.set_length(input.len());
        filling.queue(0);
        f.push(0, 0);
        f.drain(0, self.left).pop().unwrap()
    }

    fn well(&self) {
        assert_eq!(check(&self.f.segment), []);
    }

    fn finish<'a>(&self, mut task: Claimed<'a>, outcome: &[u8], error: bool) -> Option<Join<'a>> {
        assert!(task.inline_buffer().write(0, outcome));
        task.set_length(outcome.len());
        let join = task.finish(error);
        self.well();
        join
    }

    /// The members' outcomes one after the other, or the first error.
    fn join<'a>(&self, mut join: Join<'a>) -> Claimed<'a> {
        let (mut value, mut error) = (Vec::new(), None);
        for member in 0..join.fork().1.members.len() {
            match join.member(member).unwrap() {
                Arrived::Value(bytes) => value.extend_from_slice(bytes),
                Arrived::Error(bytes) => error = error.or(Some(bytes.to_vec())),
                Arrived::Skipped => error = error.or(Some(b"skipped".to_vec())),
                Arrived::Not => {}
            }
        }
        let mut buffer = if error.is_some() { join.error_buffer() } else { join.value_buffer().unwrap() };
        let bytes = error.as_ref().unwrap_or(&value);
        assert!(buffer.inline_buffer().write(0, bytes));
        buffer.set_length(bytes.len());
        let task = if error.is_some() { join.with_error() } else { join.with_value() };
        self.well();
        task.unwrap()
    }

    /// Handles the orphans of a repair as the layer above does.
    fn settle(&self, orphan: Orphan<'_>) {
        let task = match orphan {
            Orphan::Join(join) => self.join(join),
            Orphan::Task(task) => task,
        };
        let up = match task.task().at() {
            At::New => self.finish(task, b"N", false),
            At::Forked(fork) => {
                for (branch, node) in task.fork(fork).unwrap().zip([1, 2]) {
                    forward(branch, node, || 0, false).unwrap();
                }
                None
            }
            At::Joined(_) => task.finish(false),
            At::Failed(_) => task.finish(true),
            At::To { .. } | At::Begun { .. } | At::Spoilt => self.finish(task, b"died", true),
        };
        if let Some(join) = up {
            self.settle(Orphan::Join(join));
        }
    }

    /// `dead` dies and is repaired; the second time there is nothing to do.
    fn repair(&self, dead: Token) -> Summary {
        let f = &self.f;
        f.bury(dead);
        let first = f.repair(dead, f.client(), |orphan| self.settle(orphan));
        let again = f.repair(dead, f.client(), |orphan| panic!("{orphan:?} again"));
        assert_eq!(again, Summary::default());
        self.well();
        first
    }

    /// The outcome of request 0 is this, and after it everything is free and can be used again.
    fn ends(&self, outcome: &[u8], error: bool) {
        let done = self.f.outcome(self.f.task(0)).unwrap();
        assert_eq!((done.payload().unwrap(), done.is_error()), (outcome, error));
        if done.may_have_branches() {
            assert!(!done.cancel(), "no branch is late");
        } else {
            done.free();
        }
        self.is_free();
    }

    fn is_free(&self) {
        let f = &self.f;
        for id in [0, 40, 41] {
            assert!(f.task(id).is_free(), "task {id}");
        }
        assert_eq!(in_use(&f.segment), [0, 0]);
        self.well();
        let again = self.f.begin(0, f.client()).keep();
        assert_eq!(again.fork(0).unwrap().count(), 2);
    }
}

#[test]
fn branches_read_the_input_where_it_lies() {
    let s = Scene::new();
    for (bytes, blocks) in [(200, [1, 0]), (10, [0, 0])] {
        let input = vec![7; bytes];
        let client = s.f.client();
        let mut filling = s.f.begin(1, client);
        let mut buffer =
            if bytes > 100 { filling.block_buffer(200).unwrap() } else { filling.inline_buffer() };
        assert!(buffer.write(0, &input));
        filling.set_length(bytes);
        let parent = filling.keep();
        let address = parent.payload().unwrap().as_ptr();
        let branches: Vec<_> = parent.fork(0).unwrap().collect();
        assert_eq!(branches.len(), 2);
        for branch in &branches {
            assert!(branch.is_elsewhere() && !branch.is_abandoned());
            assert_eq!(branch.task().at(), At::New);
            assert_eq!(branch.payload().unwrap(), input);
            assert_eq!(branch.payload().unwrap().as_ptr(), address, "not a copy");
        }
        assert_eq!(in_use(&s.f.segment), blocks);
        let mut joins = branches.into_iter().filter_map(|branch| s.finish(branch, b"x", false));
        let join = joins.next().unwrap();
        assert!(joins.next().is_none());
        assert!(s.join(join).finish(false).is_none());
        let done = s.f.outcome(s.f.task(1)).unwrap();
        assert_eq!(done.payload().unwrap(), b"xx");
        done.free();
        assert_eq!(in_use(&s.f.segment), [0, 0]);
        s.well();
    }
}

#[test]
fn outcomes_are_joined_in_order_and_the_task_goes_on() {
    let s = Scene::new();
    let (task, left, right) = s.forked(&[7; 200]);
    assert_eq!(task.word().load().forked_at(), Some(0));
    assert!(s.finish(right, b"R", false).is_none(), "one is under way");
    let join = s.finish(left, b"L", false).unwrap();
    assert_eq!(task.word().load().phase(), Some(Phase::Joining));
    assert!(join.is_at_rest() && !join.is_abandoned() && !join.is_spoilt());
    let (index, fork) = join.fork();
    assert_eq!((index, fork.next), (0, Target::Node(3)));
    let joined = s.join(join);
    assert_eq!((joined.payload().unwrap(), joined.task().at()), (&b"LR"[..], At::Joined(0)));
    forward(joined, 3, || 0, false).unwrap();
    s.well();
    let last = s.f.drain(3, s.f.arrive(OTHER)).pop().unwrap();
    assert!(last.finish(false).is_none());
    s.ends(b"LR", false);
}

#[test]
fn a_late_branch_keeps_its_input_until_it_arrives() {
    let s = Scene::new();
    let (task, left, right) = s.forked(&[7; 200]);
    let join = s.finish(right, b"the error", true).unwrap();
    assert!(!join.is_at_rest());
    assert!(matches!(join.member(0).unwrap(), Arrived::Not));
    assert!(s.join(join).finish(true).is_none());
    s.well();
    let done = s.f.outcome(task).unwrap();
    assert!(done.is_error() && done.may_have_branches());
    assert_eq!(done.payload().unwrap(), b"the error");
    assert!(s.f.cancel(task), "one is late");
    assert!(left.is_abandoned());
    assert_eq!(left.payload().unwrap(), [7; 200]);
    s.well();
    let freed = s.f.segment.freed();
    let (rings, _awaiting) = (freed.count(), freed.await_rings());
    assert!(left.discard().is_none());
    assert_eq!(freed.count(), rings + 2, "counted for the next look, and rung for the caller that waits");
    s.is_free();
}

#[test]
fn there_is_no_value_while_a_branch_is_under_way() {
    let s = Scene::new();
    let (_, _left, right) = s.forked(b"input");
    assert!(s.finish(right, b"error", true).unwrap().value_buffer().is_none());
}

/// Symptom: a caller read an empty error. Cause: the joiner wrote the record to the branch that had failed, but then named an
/// earlier branch, which had been skipped meanwhile. Fix: it remembers the branch.
#[test]
fn an_error_record_stays_where_it_was_written() {
    let s = Scene::new();
    let (_, left, right) = s.forked(b"input");
    let mut join = s.finish(right, b"the error", true).unwrap();
    let mut buffer = join.error_buffer();
    assert!(buffer.inline_buffer().write(0, b"told"));
    buffer.set_length(4);
    assert!(left.is_abandoned());
    assert!(left.discard().is_none());
    assert!(join.with_error().unwrap().finish(true).is_none());
    s.ends(b"told", true);
}

#[test]
fn branches_of_a_caller_that_has_gone_are_discarded() {
    let s = Scene::new();
    let (task, left, right) = s.forked(&[7; 200]);
    assert!(s.f.cancel(task));
    assert!(left.is_abandoned() && right.is_abandoned());
    let mut joins = [left, right].into_iter().filter_map(Claimed::discard);
    let join = joins.next().unwrap();
    s.well();
    assert!(join.is_abandoned());
    assert!(matches!(join.member(0).unwrap(), Arrived::Skipped));
    assert!(join.with_error().unwrap().finish(true).is_none());
    assert!(joins.next().is_none(), "the first decided, and the second was late");
    s.is_free();
}

#[test]
fn a_caller_that_goes_before_the_fork_leaves_nothing() {
    let s = Scene::new();
    let claimed = s.claimed(b"input");
    assert!(s.f.cancel(s.f.task(0)));
    for (branch, _) in claimed.fork(0).unwrap().zip([1, 2]) {
        if let Some(join) = branch.discard() {
            assert!(s.join(join).finish(true).is_none());
        }
    }
    s.is_free();
}

/// first → fork { left, fork { inner, other } }, where the outer one takes errors.
fn nested_spec() -> Spec {
    let nodes = ["first", "left", "inner", "other"].map(|name| node(name, Target::End, 1));
    let mut outer = fork(0, 0, 4, &[Target::Node(1), Target::Fork(1)], Target::End);
    outer.fail_fast = false;
    let inner = fork(2, 2, 4, &[Target::Node(2), Target::Node(3)], Target::End);
    Spec { tasks_per_request: 5, nodes: nodes.into(), forks: vec![outer, inner], ..spec() }
}

#[test]
fn an_outer_fork_waits_for_a_late_inner_branch() {
    let f = Fixture::of(&nested_spec());
    let client = f.client();
    let mut filling = f.begin(0, client);
    assert!(filling.block_buffer(200).unwrap().write(0, &[7; 200]));
    filling.set_length(200);
    let mut outer = filling.keep().fork(0).unwrap();
    let (left, within) = (outer.next().unwrap(), outer.next().unwrap());
    let within = within.fork(0).unwrap_err(); // not its fork
    let mut inner: Vec<_> = within.fork(1).unwrap().collect();
    assert_eq!(check(&f.segment), []);
    let (late, mut failing) = (inner.remove(0), inner.remove(0));
    assert!(left.finish(false).is_none());
    assert!(failing.inline_buffer().write(0, b"inner error"));
    failing.set_length(11);
    let join = failing.finish(true).unwrap();
    assert_eq!(join.fork().0, 1);
    assert!(join.with_error().unwrap().finish(true).is_none(), "one is late");
    assert_eq!(check(&f.segment), []);
    assert!(late.is_abandoned());
    assert_eq!(late.payload().unwrap(), [7; 200]);
    let mut join = late.discard().unwrap();
    assert_eq!(join.fork().0, 0);
    assert!(matches!(join.member(0).unwrap(), Arrived::Value(bytes) if bytes == [7; 200]), "passed through");
    assert!(matches!(join.member(1).unwrap(), Arrived::Error(b"inner error")));
    join.value_buffer().unwrap().set_length(0);
    assert!(join.with_value().unwrap().finish(false).is_none());
    f.outcome(f.task(0)).unwrap().free();
    assert!((40..200).all(|id| f.task(id).is_free()), "values leave nothing");
    assert_eq!(in_use(&f.segment), [0, 0]);
    assert_eq!(check(&f.segment), []);
}

#[test]
fn invalid_routes_are_refused() {
    type Break = fn(&mut Spec);
    let cases: [Break; 4] = [
        |s| s.forks[0].next = Target::Node(9),
        |s| s.forks[0].end = 1,
        |s| s.forks[0].members[1].entry = Target::Switch(0),
        |s| s.tasks_per_request = 4,
    ];
    for break_it in cases {
        let mut broken = fork_spec();
        break_it(&mut broken);
        let at = common::TestLocation::file();
        assert!(matches!(Segment::create(at.location.clone(), &broken), Err(CreateError::Plan(_))));
        assert!(at.is_clean());
    }
    // After the form come the parent's slot, the first branch, the end and the next target.
    for (number, value) in [(1, 1_u32), (2, 1), (3, 1), (3, u32::MAX), (4, 9)] {
        let mut spec = fork_spec();
        spec.forks[0].form = 0xF02_F0F0;
        let f = Fixture::of(&spec);
        assert_eq!(f.attach().unwrap().routes().forks, spec.forks);
        f.write(f.find(&spec.forks[0].form.to_le_bytes()) + number * 4, &value.to_le_bytes());
        assert!(matches!(f.attach(), Err(AttachError::Foreign { .. })), "number {number}, {value}");
    }
    let mut spec = fork_spec();
    spec.forks[0].members[1].root_bytes = 0xF02_F0F0;
    let f = Fixture::of(&spec);
    f.write(f.find(&0xF02_F0F0_u32.to_le_bytes()) - 4, &Target::Fork(1).raw().to_le_bytes());
    assert!(matches!(f.attach(), Err(AttachError::Foreign { .. })));
}

#[test]
fn a_forker_that_died_before_it_had_forked() {
    let s = Scene::new();
    let mut filling = s.f.begin(0, s.f.client());
    assert!(filling.inline_buffer().write(0, b"a pattern that is there once"));
    filling.queue(0);
    s.f.push(0, 0);
    let claimed = s.f.drain(0, s.left).pop().unwrap();
    let line = s.f.line_of(b"a pattern that is there once");
    let before = s.f.task(0).word().load().raw();
    let _ = claimed.fork(0).unwrap();
    line.set_word(before); // its branches are made, and it is not FORKED
    assert_eq!(s.repair(s.left).orphaned, 1);
    assert!(matches!(s.f.task(0).at(), At::Forked(0)), "forked again");
    let left = s.f.drain(1, s.f.arrive(OTHER)).pop().unwrap();
    assert!(s.finish(left, b"L", false).is_none());
    let join = s.finish(s.f.drain(2, s.right).pop().unwrap(), b"R", false).unwrap();
    assert!(s.join(join).finish(false).is_none());
    s.ends(b"LR", false);
}

#[test]
fn a_forker_that_had_moved_some_branches_on() {
    for moved in 0..2 {
        let s = Scene::new();
        let claimed = s.claimed(b"input");
        for branch in claimed.fork(0).unwrap().take(moved) {
            forward(branch, 1, || 0, false).unwrap();
        }
        s.f.bury(s.left);
        assert_eq!(s.repair(s.left).orphaned, 2 - moved as u32);
        for left in s.f.drain(1, s.f.arrive(OTHER)) {
            let join = s.finish(left, b"L", false).unwrap();
            assert!(s.join(join).finish(false).is_none());
        }
        s.ends(if moved == 0 { b"NN" } else { b"LN" }, false);
    }
}

#[test]
fn a_branch_whose_worker_died_over_it_has_failed() {
    let s = Scene::new();
    let (_, left, right) = s.forked(b"input");
    let _ = left;
    assert_eq!(s.repair(s.left).orphaned, 1);
    assert!(s.f.outcome(s.f.task(0)).unwrap().is_error(), "fail-fast");
    assert!(right.is_abandoned());
    assert!(right.discard().is_none());
    s.ends(b"died", true);
}

/// Dies when its branch is DONE, before its bit is clear; whether or not it is the last.
#[test]
fn an_arrival_is_repeated() {
    for last in [false, true] {
        for error in [false, true] {
            let s = Scene::new();
            let (_, mut left, right) = s.forked(b"input");
            let mut right = Some(right);
            if last {
                assert!(s.finish(right.take().unwrap(), b"R", false).is_none());
            }
            assert!(left.inline_buffer().write(0, b"L"));
            left.set_length(1);
            s.f.write_word(left.task(), Phase::Done, s.left, error);
            assert_eq!(s.repair(s.left).orphaned, u32::from(last || error));
            if let Some(join) = right.and_then(|right| s.finish(right, b"R", false)) {
                assert!(s.join(join).finish(false).is_none());
            }
            s.ends(if error { b"L" } else { b"LR" }, error);
        }
    }
}

/// Each stage of a join: begun; written, with branches as they were; moved to CLAIMED, with branches as they
/// were, and without. With an error: begun, written, moved to CLAIMED.
#[test]
fn a_join_is_repeated() {
    for stage in 0..4 {
        let s = Scene::new();
        let (task, left, right) = s.forked(b"input");
        assert!(s.finish(right, b"the right outcome", false).is_none());
        let join = s.finish(left, b"the left outcome", false).unwrap();
        let lines = [b"the left outcome".as_slice(), b"the right outcome"].map(|b| s.f.line_of(b));
        let words = [40, 41].map(|id| s.f.task(id).word().load().raw());
        let joining = task.word().load();
        if stage > 0 {
            let _ = s.join(join);
        }
        if stage < 3 {
            // As before its branches were freed.
            lines.iter().zip(words).for_each(|(line, word)| line.set_word(word));
        }
        if stage == 1 {
            // As before it left JOINING.
            let line = s.f.line_of(b"the left outcomethe right outcome");
            line.set_word(joining.raw());
        }
        assert_eq!(s.repair(s.left).orphaned, 1, "stage {stage}");
        s.ends(b"the left outcomethe right outcome", false);
    }
    for stage in 0..3 {
        let s = Scene::new();
        let (task, left, right) = s.forked(b"input");
        let join = s.finish(left, b"the left error", true).unwrap();
        let joining = task.word().load();
        if stage > 0 {
            let _ = s.join(join);
        }
        if stage == 1 {
            s.f.write(s.word_at(task), &joining.raw().to_le_bytes());
        }
        assert_eq!(s.repair(s.left).orphaned, 1, "stage {stage}");
        assert!(right.is_abandoned());
        assert!(right.discard().is_none());
        s.ends(b"the left error", true);
    }
}

impl Scene {
    /// Where the word of a task lies, whose value is there once.
    fn word_at(&self, task: Task<'_>) -> u64 {
        self.f.find(&task.word().load().raw().to_le_bytes())
    }
}

/// Symptom: a request was never freed. Cause: its caller had gone, and its worker died after it had ended it
/// and before it had looked whether its branches were at rest. Fix: it is DONE of the worker.
#[test]
fn a_request_that_ended_after_its_caller_had_gone_is_freed() {
    let s = Scene::new();
    let (task, left, right) = s.forked(b"input");
    assert!(s.finish(right, b"R", false).is_none());
    let join = s.finish(left, b"L", false).unwrap();
    let _ = s.join(join);
    assert!(s.f.cancel(task));
    s.f.write_word(task, Phase::Done, s.left, false); // and dies
    assert_eq!(s.repair(s.left).freed, 1);
    s.is_free();
}

/// With a pending branch: the last branch frees the request.
#[test]
fn a_request_that_ended_after_its_caller_had_gone_waits_for_its_branches() {
    let s = Scene::new();
    let (task, left, right) = s.forked(b"input");
    let join = s.finish(left, b"L", true).unwrap();
    let _ = s.join(join);
    assert!(s.f.cancel(task));
    s.f.write_word(task, Phase::Done, s.left, true); // and dies
    assert_eq!(s.repair(s.left).freed, 0);
    assert_eq!(right.payload().unwrap(), b"input");
    assert!(right.discard().is_none());
    s.is_free();
}

/// A request that was being freed is freed, whole.
#[test]
fn a_request_that_was_being_freed_is_freed() {
    let s = Scene::new();
    let (task, left, right) = s.forked(b"input");
    let join = s.finish(left, b"L", true).unwrap();
    assert!(s.join(join).finish(true).is_none());
    assert!(s.f.cancel(task));
    let right = right.task();
    s.f.write_word(right, Phase::Done, s.right, true);
    assert_eq!(s.repair(s.right).freed, 0, "by the arrival");
    s.is_free();

    let s = Scene::new();
    let (task, left, right) = s.forked(b"input");
    let join = s.finish(left, b"L", true).unwrap();
    assert!(s.join(join).finish(true).is_none());
    assert!(s.finish(right, b"R", false).is_none());
    s.f.write_word(task, Phase::Claimed, s.right, true); // and dies
    s.f.write_cancelled(task);
    s.f.bury(s.right);
    s.f.repair(s.right, s.f.client(), |orphan| {
        let task = task_of(orphan);
        assert!(task.is_abandoned());
        assert!(task.discard().is_none());
    });
    s.is_free();
}

/// Symptom: a caller that waits for any of many requests was never woken. Cause: the worker died between the outcome and the bit.
/// Fix: the repairer sets the bit again.
#[test]
fn a_caller_that_waits_for_notice_is_woken() {
    let s = Scene::new();
    let task = s.claimed(b"input").task();
    assert!(!s.f.act(s.f.client()).client().ask_for_notice(task));
    s.f.write_word(task, Phase::Done, s.f.client(), false); // and dies
    let rings = s.f.segment.completed().count();
    s.repair(s.left);
    let mut told = Vec::new();
    s.f.segment.take_completions(|id| told.push(id));
    assert_eq!(told, [0]);
    assert_ne!(s.f.segment.completed().count(), rings);
    s.ends(b"input", false);
}

#[test]
fn a_value_over_a_passed_through_input_is_not_joined_twice() {
    let s = Scene::new();
    let (_, left, right) = s.forked(b"input");
    assert!(right.finish(false).is_none(), "its outcome is the input");
    let mut join = s.finish(left, b"L", false).unwrap();
    assert!(join.value_buffer().unwrap().inline_buffer().write(0, b"half"));
    let _ = join;
    s.f.bury(s.left);
    let mut spoilt = false;
    s.f.repair(s.left, s.f.client(), |orphan| {
        let Orphan::Join(join) = orphan else { panic!("{orphan:?}") };
        spoilt = join.is_spoilt();
        assert!(join.with_error().unwrap().finish(true).is_none());
    });
    assert!(spoilt);
    assert!(!s.f.cancel(s.f.task(0)));
    s.is_free();
}
