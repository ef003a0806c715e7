//! Forks and joins: every request has one outcome and is freed once, and no payload is written or freed while a branch
//! may read it.
//!
//! A request has a node for each branch, and where a worker forks it, one of its own. Payloads are short texts, so that
//! a scene sees which outcomes a value was made from: the input is `in`, the outcome of branch 3 is `3`, and branches 2
//! and 3 are joined to `[23]`.

use super::{
    explore, explore_deaths, explore_deaths_within, explore_each_death, explore_within, spawn, take_part,
    token,
};
use crate::arena::{Arrived, At, Claimed, Join, Parked, Task};
use crate::party::Participant;
use crate::plan::{Fork, ForkMember, Target};
use crate::repair::{Orphan, put_right, wake_everyone};
use crate::segment::{Plan, Segment};
use crate::sync::mortal;
use crate::word::Phase;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex};

const CLIENT: u32 = 0;
const REPAIRER: u32 = 7;

const INPUT: &[u8] = b"in";

/// How a worker answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answer {
    Value,
    Error,
    /// With the input as it lies.
    Pass,
}
use Answer::{Error, Pass, Value};

/// Writes a payload in line.
macro_rules! write {
    ($to:expr, $bytes:expr) => {{
        let bytes: &[u8] = $bytes;
        let to = &mut $to;
        assert!(to.inline_buffer().write(0, bytes));
        to.set_length(bytes.len());
    }};
}

/// A worker answers a task that it has taken.
fn answer(mut task: Claimed<'_>, how: Answer) {
    let input = task.payload().unwrap();
    assert!(input == INPUT || input.starts_with(b"["), "the input is {}", input.escape_ascii());
    let of = task.task();
    match how {
        Error => return fail(task, b"error"),
        Value => write!(task, own_value(of)),
        Pass => {}
    }
    let At::Begun { node, .. } = of.at() else { panic!("not begun: {of:?}") };
    move_on(task, of.segment().nodes()[node as usize].next);
}

const DIGITS: &[u8] = b"0123";

/// What a worker makes of a task.
fn own_value(task: Task<'_>) -> &'static [u8] {
    task.slot().1.checked_sub(1).map_or(INPUT, |branch| &DIGITS[branch as usize..][..1])
}

// What the engine's `Mover` does.

fn move_on(task: Claimed<'_>, to: Target) {
    let segment = task.task().segment();
    match to {
        Target::End => end(task, false),
        Target::Node(node) => {
            let id = task.queue(node, || 0).expect("it is ours");
            segment.node(node).unwrap().push(&[id]).unwrap();
        }
        Target::Fork(index) => {
            let branches = task.fork(index).expect("it is ours");
            for (branch, member) in branches.zip(&segment.routes().forks[index as usize].members) {
                move_on(branch, member.entry);
            }
        }
        Target::Switch(_) => unreachable!("no scene has one"),
    }
}

fn end(task: Claimed<'_>, error: bool) {
    if let Some(due) = task.finish(error) {
        join(due);
    }
}

fn fail(mut task: Claimed<'_>, record: &[u8]) {
    task.give_up_input();
    write!(task, record);
    end(task, true);
}

fn discard(task: Claimed<'_>) {
    if let Some(due) = task.discard() {
        join(due);
    }
}

fn join(mut due: Join<'_>) {
    let next = due.fork().1.next;
    if due.is_abandoned() {
        write!(due.error_buffer(), b"");
        return end_joined(due);
    }
    match put_together(&due) {
        Some(value) => {
            write!(due.value_buffer().expect("its family is at rest"), &value);
            move_on(due.with_value().expect("it is ours"), next);
        }
        None => {
            write!(due.error_buffer(), b"failed");
            end_joined(due);
        }
    }
}

/// The outcomes; of a fork that does not fail fast, also errors. `None` if one is missing, or is an error.
fn put_together(due: &Join<'_>) -> Option<Vec<u8>> {
    let fork = due.fork().1;
    let mut value = b"[".to_vec();
    for index in 0..fork.members.len() {
        match due.member(index).unwrap() {
            Arrived::Value(bytes) => {
                let is_whole = bytes == INPUT || bytes.starts_with(b"[") || DIGITS.contains(&bytes[0]);
                assert!(is_whole, "member {index} gave {}", bytes.escape_ascii());
                value.extend(bytes);
            }
            Arrived::Error(bytes) => {
                // `failed` is what a fork within gives.
                let is_whole = [&b"error"[..], b"dead"].contains(&bytes) || fork.family() != fork.branches();
                assert!(is_whole, "member {index} gave the error {}", bytes.escape_ascii());
                if fork.fail_fast {
                    return None;
                }
                value.push(b'!');
            }
            _ => return None,
        }
    }
    value.push(b']');
    Some(value)
}

fn end_joined(due: Join<'_>) {
    end(due.with_error().expect("it is ours"), true);
}

fn repeat_join(mut due: Join<'_>) {
    if !due.is_spoilt() || due.is_abandoned() {
        return join(due);
    }
    write!(due.error_buffer(), b"dead");
    end_joined(due);
}

/// `Mover::resume`, and what the supervisor does with a task that the dead was working on.
fn resume(task: Claimed<'_>) -> Option<Claimed<'_>> {
    let routes = task.task().segment().routes();
    match task.task().at() {
        At::Begun { .. } | At::Spoilt if task.is_abandoned() => discard(task),
        At::Begun { .. } | At::Spoilt => return Some(task),
        At::Failed(_) => end(task, true),
        _ if task.is_abandoned() => discard(task),
        At::To { node, .. } => {
            let (segment, id) = (task.task().segment(), task.requeue(node, || 0, false, 0));
            segment.node(node).unwrap().push(&[id.expect("it is ours")]).unwrap();
        }
        At::Forked(fork) => move_on(task, Target::Fork(fork)),
        At::New => {
            let slot = task.task().slot().1;
            let fork = routes.around(slot).expect("a branch").1;
            move_on(task, fork.members[(slot - 1 - fork.first) as usize].entry);
        }
        At::Joined(fork) => move_on(task, routes.forks[fork as usize].next),
    }
    None
}

/// A request, and what is in the hands of its workers.
struct Request {
    segment: Segment,
    taken: Mutex<BTreeMap<u32, Parked>>,
}

fn fork(parent: u32, first: u32, entries: &[Target], end: u32, fail_fast: bool, next: Target) -> Fork {
    let member = |&entry: &Target| ForkMember { entry, root_bytes: 0, root_align: 1 };
    let members = entries.iter().map(member).collect();
    Fork { name: "fork".into(), fail_fast, form: 0, parent, first, end, next, members }
}

/// A fork of the request into branches 0 and 1.
fn pair(fail_fast: bool) -> Vec<Fork> {
    vec![fork(0, 0, &[Target::Node(0), Target::Node(1)], 2, fail_fast, Target::End)]
}

impl Request {
    /// One that its client has begun.
    fn new(forks: Vec<Fork>, branches: u32) -> Arc<Self> {
        let mut nodes = vec![Target::End; branches as usize];
        // For the request, where a worker forks it.
        nodes.push(if forks.is_empty() { Target::End } else { Target::Fork(0) });
        let plan = Plan { requests: 1, branches, nodes, forks, position: 3, ..Plan::default() };
        Arc::new(Self { segment: Segment::of(plan), taken: Mutex::default() })
    }

    /// One fork of two branches, of which worker 1 has the first, and worker 2 the second.
    fn forked(fail_fast: bool) -> Arc<Self> {
        let request = Self::new(pair(fail_fast), 2);
        request.send(Target::Fork(0));
        request.hand(0, 1);
        request.hand(1, 2);
        request
    }

    fn task(&self, slot: u32) -> Task<'_> {
        Task::new(&self.segment, self.segment.id_of(0, slot)).unwrap()
    }

    #[expect(unsafe_code, reason = "the contract of guards")]
    fn act(&self, index: u32) -> Participant<'_> {
        // SAFETY: each participant of a scene has a token of its own.
        unsafe { self.segment.take_part(token(index)) }
    }

    /// The client sends it.
    fn send(&self, to: Target) {
        let mut filling = self.task(0).begin(token(CLIENT));
        write!(filling, INPUT);
        move_on(filling.keep(), to);
    }

    /// All that waits at a node, for `worker`, who begins it.
    fn take(&self, node: u32, worker: u32) -> Option<Claimed<'_>> {
        let mut reader = self.act(worker).read(self.segment.node(node).unwrap(), 0, || false).unwrap();
        let (ring, head) = (reader.ring(), reader.ring().head());
        let task = reader.claim(ring.get(head)?);
        reader.set_head(head + 1);
        drop(reader);
        task.filter(|task| {
            task.begin_work(node);
            true
        })
    }

    /// `worker` takes what waits at a node, and keeps it for [`answer`](Self::answer).
    fn hand(&self, node: u32, worker: u32) {
        let parked = self.take(node, worker).expect("a task waits").park();
        assert!(self.taken.lock().unwrap().insert(worker, parked).is_none());
    }

    /// `worker` answers what it has taken.
    fn answer(&self, worker: u32, how: Answer) {
        let parked = self.taken.lock().unwrap().remove(&worker).expect("it has one");
        answer(parked.resume(&self.segment).unwrap(), how);
    }

    /// `worker` answers what waits at the nodes of branches.
    fn work(&self, worker: u32) {
        (0..self.segment.shape().branches()).for_each(|node| self.work_at(node, worker));
    }

    fn work_at(&self, node: u32, worker: u32) {
        match self.take(node, worker) {
            Some(task) if task.is_abandoned() => discard(task),
            Some(task) => answer(task, Value),
            None => {}
        }
    }

    fn repair(&self, dead: u32, me: u32) {
        self.segment.grave(dead).dig();
        let (mut tasks, mut joins) = (Vec::new(), Vec::new());
        put_right(&self.segment, token(dead), token(me), |orphan| match orphan {
            Orphan::Task(task) => tasks.extend(resume(task)),
            Orphan::Join(join) => joins.push(join),
        });
        joins.into_iter().for_each(repeat_join);
        tasks.into_iter().for_each(|task| fail(task, b"dead"));
    }

    /// The caller's way: sleep until the outcome is there. The value, or the error.
    fn await_outcome(&self) -> Result<String, String> {
        loop {
            if let Some(outcome) = self.outcome() {
                return outcome;
            }
            self.act(CLIENT).client().sleep(self.task(0), None);
        }
    }

    fn outcome(&self) -> Option<Result<String, String>> {
        let done = self.task(0).outcome()?;
        let text = String::from_utf8(done.payload().unwrap().to_vec()).unwrap();
        Some(if done.is_error() { Err(text) } else { Ok(text) })
    }

    /// The caller goes.
    fn cancel(&self) {
        let _ = self.task(0).cancel();
    }

    fn phase(&self) -> Option<Phase> {
        self.task(0).word().load().phase()
    }

    /// All branches are at rest, and free where `free`.
    fn check_branches(&self, free: bool) {
        assert!(self.task(0).family().all_at_rest());
        for slot in 1..=self.segment.shape().branches() {
            let word = self.task(slot).word();
            let phase = word.load().phase();
            assert!(phase == Some(Phase::Free) || !free && phase == Some(Phase::Done), "{word:?}");
        }
    }

    /// With all others at rest: the outcome is there, and then the request can be freed and used again.
    fn check_answered(&self) -> Result<String, String> {
        let word = self.task(0).word();
        assert!(word.load().is(Phase::Done, token(CLIENT)), "{word:?}");
        let outcome = self.outcome().unwrap();
        self.check_branches(outcome.is_ok());
        self.cancel();
        self.check_freed(1);
        outcome
    }

    /// It has been used `times` times, and freed as often.
    fn check_freed(&self, times: u32) {
        let word = self.task(0).word();
        assert_eq!(
            (word.load().phase(), word.load().generation()),
            (Some(Phase::Free), times as u16),
            "{word:?}"
        );
        self.check_branches(true);
    }
}

/// A value of these branches, or an error that one of these says.
fn check(outcome: &Result<String, String>, value: &str, errors: &[&str]) {
    match outcome {
        Ok(text) => assert_eq!(text, value),
        Err(text) => assert!(errors.contains(&text.as_str()), "{text}"),
    }
}

/// Two branches arrive at the same time: one of them joins, and sees both outcomes.
#[test]
fn the_last_arrival_joins() {
    for fail_fast in [false, true] {
        explore(move || {
            let request = Request::forked(fail_fast);
            let workers = [(1, Value), (2, Pass)].map(|(worker, how)| {
                let request = request.clone();
                spawn(move || request.answer(worker, how))
            });
            for worker in workers {
                worker.join().unwrap();
            }
            assert_eq!(request.check_answered().as_deref(), Ok("[0in]"));
        });
    }
}

/// The task goes from one fork to the next, while the other arrival at the first still looks.
#[test]
fn a_late_look_does_not_join_the_next_fork() {
    explore(|| {
        let mut forks = pair(false);
        forks[0].next = Target::Fork(1);
        forks.push(fork(0, 2, &[Target::Node(2), Target::Node(3)], 4, false, Target::End));
        let request = Request::new(forks, 4);
        request.send(Target::Fork(0));
        request.hand(0, 1);
        request.hand(1, 2);
        // One that gave a value, and is not the last, would not look.
        let workers = [(1, Error), (2, Value)].map(|(worker, how)| {
            let request = request.clone();
            spawn(move || request.answer(worker, how))
        });
        for worker in workers {
            worker.join().unwrap();
        }
        assert_eq!(request.task(0).word().load().forked_at(), Some(1));
        assert_eq!(request.task(3).word().load().phase(), Some(Phase::Queued));
        request.hand(2, 3);
        request.answer(3, Pass);
        request.work(3);
        assert_eq!(request.check_answered().as_deref(), Ok("[[!1]3]"));
    });
}

/// One branch fails while the other arrives late; the caller reads the error, goes, and uses the request
/// again at once if it is free. The late one neither disturbs that nor loses its input.
#[test]
fn a_late_branch_and_the_next_use() {
    for (late, again) in [(Value, Value), (Value, Error), (Error, Value)] {
        explore_within(2, move || {
            let request = Request::forked(true);
            let workers = [(1, Error), (2, late)].map(|(worker, how)| {
                let request = request.clone();
                spawn(move || request.answer(worker, how))
            });
            take_part();
            assert_eq!(request.await_outcome().unwrap_err(), "failed");
            request.cancel();
            let free = request.task(0).is_free();
            if free {
                request.use_again(again);
                request.answer(4, Value);
            }
            for worker in workers {
                worker.join().unwrap();
            }
            if free && again == Value {
                assert_eq!(request.outcome().unwrap().as_deref(), Ok("[01]"));
                request.cancel();
            }
            request.check_freed(1 + u32::from(free));
        });
    }
}

/// A late branch arrives. Meanwhile the caller goes, the request is freed and used again, ends before one of its
/// branches, and its caller goes again: the late look does not free it under that branch.
#[test]
fn a_late_look_does_not_free_the_next_use() {
    explore(|| {
        let request = Request::forked(true);
        request.answer(1, Error);
        let late = {
            let request = request.clone();
            spawn(move || request.answer(2, Value))
        };
        take_part();
        request.cancel();
        let free = request.task(0).is_free();
        if free {
            request.use_again(Error);
        }
        late.join().unwrap();
        if free {
            assert_eq!(request.phase(), Some(Phase::Done), "freed under branch 1");
            request.answer(4, Value);
        }
        request.check_freed(1 + u32::from(free));
    });
}

impl Request {
    /// Sent again; its first branch is answered in this way while the second is under way, and if that was the
    /// end, its caller goes.
    fn use_again(&self, how: Answer) {
        self.check_freed(1);
        self.send(Target::Fork(0));
        self.hand(0, 3);
        self.hand(1, 4);
        self.answer(3, how);
        if how == Error {
            assert_eq!(self.outcome().unwrap().unwrap_err(), "failed");
            self.cancel();
            assert_eq!(self.phase(), Some(Phase::Done), "one is under way");
        } else {
            assert_eq!(self.task(0).word().load().forked_at(), Some(0), "one is under way");
        }
    }
}

/// The caller goes while the last branch arrives, is joined and the request ends: one side frees the request.
#[test]
fn a_caller_goes() {
    for how in [Value, Error, Pass] {
        explore(move || {
            let request = Request::forked(how == Error);
            request.answer(1, Value);
            let working = {
                let request = request.clone();
                spawn(move || request.answer(2, how))
            };
            take_part();
            request.cancel();
            working.join().unwrap();
            request.check_freed(1);
        });
    }
}

/// The caller goes while one branch fails and the other is late.
#[test]
fn a_caller_goes_and_a_branch_is_late() {
    explore(|| {
        let request = Request::forked(true);
        let workers = [(1, Error), (2, Value)].map(|(worker, how)| {
            let request = request.clone();
            spawn(move || request.answer(worker, how))
        });
        take_part();
        request.cancel();
        for worker in workers {
            worker.join().unwrap();
        }
        request.check_freed(1);
    });
}

/// A fork of branch 0 that fails fast within one that does not: the late branch is what the outer one waits for. Worker
/// 1 has branch 1, and workers 2 and 3 those within.
fn nested() -> Arc<Request> {
    let outer = fork(0, 0, &[Target::Fork(1), Target::Node(1)], 4, false, Target::End);
    let inner = fork(1, 2, &[Target::Node(2), Target::Node(3)], 4, true, Target::End);
    let request = Request::new(vec![outer, inner], 4);
    request.send(Target::Fork(0));
    (1..4).for_each(|worker| request.hand(worker, worker));
    request
}

#[test]
fn the_outer_fork_waits_for_the_late_inner_branch() {
    explore(|| {
        let request = nested();
        request.answer(1, Value);
        let workers = [(2, Error), (3, Value)].map(|(worker, how)| {
            let request = request.clone();
            spawn(move || request.answer(worker, how))
        });
        for worker in workers {
            worker.join().unwrap();
        }
        assert_eq!(request.check_answered().as_deref(), Ok("[!1]"));
    });
}

/// That with a third arrival, of the other outer branch.
#[test]
fn three_arrivals_at_two_forks() {
    explore_within(2, || {
        let request = nested();
        let workers = [(2, Error), (3, Value)].map(|(worker, how)| {
            let request = request.clone();
            spawn(move || request.answer(worker, how))
        });
        take_part();
        request.answer(1, Value);
        for worker in workers {
            worker.join().unwrap();
        }
        assert_eq!(request.check_answered().as_deref(), Ok("[!1]"));
    });
}

/// A worker dies anywhere from its answer until the caller is told, while the other branch arrives.
#[test]
fn a_worker_dies() {
    for (mine, other) in [(Value, Value), (Error, Value), (Value, Error), (Pass, Value)] {
        explore_deaths_within(2, move |death| {
            let request = Request::forked(true);
            let victim = {
                let (request, death) = (request.clone(), death.clone());
                spawn(move || death.strikes(|| request.answer(1, mine)))
            };
            let survivor = {
                let request = request.clone();
                spawn(move || request.answer(2, other))
            };
            if victim.join().unwrap() {
                request.repair(1, REPAIRER);
            }
            survivor.join().unwrap();
            let value = if mine == Pass { "[in1]" } else { "[01]" };
            check(&request.check_answered(), value, &["failed", "dead"]);
        });
    }
}

/// That worker dies while the caller goes.
#[test]
fn a_worker_dies_and_the_caller_goes() {
    for mine in [Value, Error] {
        explore_deaths_within(2, move |death| {
            let request = Request::forked(true);
            request.answer(2, Value);
            let victim = {
                let (request, death) = (request.clone(), death.clone());
                spawn(move || death.strikes(|| request.answer(1, mine)))
            };
            let caller = {
                let request = request.clone();
                spawn(move || request.cancel())
            };
            if victim.join().unwrap() {
                request.repair(1, REPAIRER);
            }
            caller.join().unwrap();
            request.check_freed(1);
        });
    }
}

/// A worker dies whose branch within makes the outer fork wait for it, or no longer.
#[test]
fn a_worker_dies_below() {
    for (mine, other) in [(Value, Error), (Error, Value)] {
        explore_deaths_within(1 + usize::from(mine == Error), move |death| {
            let request = nested();
            request.answer(1, Value);
            let victim = {
                let (request, death) = (request.clone(), death.clone());
                spawn(move || death.strikes(|| request.answer(2, mine)))
            };
            let survivor = {
                let request = request.clone();
                spawn(move || request.answer(3, other))
            };
            if victim.join().unwrap() {
                request.repair(2, REPAIRER);
            }
            survivor.join().unwrap();
            check(&request.check_answered(), "[!1]", &["dead"]);
        });
    }
}

impl Request {
    /// One that worker 1 has, and is about to fork.
    fn unforked() -> Arc<Self> {
        let request = Self::new(pair(true), 2);
        request.send(Target::Node(2));
        request.hand(2, 1);
        request
    }
}

/// A forker dies anywhere, while another worker works on the branches that it has sent.
#[test]
fn a_forker_dies() {
    explore_deaths_within(2, |death| {
        let request = Request::unforked();
        let victim = {
            let (request, death) = (request.clone(), death.clone());
            spawn(move || death.strikes(|| request.answer(1, Value)))
        };
        let survivor = {
            let request = request.clone();
            spawn(move || request.work(2))
        };
        if victim.join().unwrap() {
            request.repair(1, REPAIRER);
        }
        survivor.join().unwrap();
        request.work(2);
        check(&request.check_answered(), "[01]", &["dead"]);
    });
}

/// What a participant does until it dies, or meanwhile.
type Life = fn(&Request);

/// A worker dies after each number of steps of `life`; the repairer dies anywhere while the other branch arrives or the
/// caller goes; and the next repairer repairs both.
fn a_repairer_dies(make: fn() -> Arc<Request>, life: Life, meanwhile: Life, check: Life) {
    for steps in 0.. {
        let outlived = Arc::new(AtomicBool::new(false));
        let here = outlived.clone();
        explore_each_death(1, move |death| {
            let request = make();
            if !mortal::perish(steps, || life(&request)) {
                here.store(true, SeqCst);
            }
            let victim = {
                let (request, death) = (request.clone(), death.clone());
                spawn(move || death.strikes(|| request.repair(1, 6)))
            };
            let survivor = {
                let request = request.clone();
                spawn(move || meanwhile(&request))
            };
            if victim.join().unwrap() {
                request.repair(1, REPAIRER);
                request.repair(6, REPAIRER);
            }
            survivor.join().unwrap();
            check(&request);
        });
        if outlived.load(SeqCst) {
            return;
        }
    }
}

fn answered(request: &Request) {
    request.work(2);
    check(&request.check_answered(), "[01]", &["failed", "dead"]);
}

#[test]
fn a_repairer_of_an_arrival_dies() {
    for life in [(|r| r.answer(1, Value)) as Life, |r| r.answer(1, Error)] {
        a_repairer_dies(|| Request::forked(true), life, |r| r.answer(2, Value), answered);
    }
}

#[test]
fn a_repairer_of_a_join_dies() {
    let make = || {
        let request = Request::forked(true);
        request.answer(2, Value);
        request
    };
    for life in [(|r| r.answer(1, Value)) as Life, |r| r.answer(1, Error)] {
        a_repairer_dies(make, life, Request::cancel, |r| r.check_freed(1));
    }
}

#[test]
fn a_repairer_of_a_fork_dies() {
    // One branch is worked on meanwhile, the other one afterwards.
    a_repairer_dies(Request::unforked, |r| r.answer(1, Value), |r| r.work_at(0, 2), answered);
}

/// A worker died long after its branch had arrived. While the repairer becomes its owner, the other branch arrives, the
/// request ends, and its caller uses it again: what the repairer still does is of the former use.
#[test]
fn a_repairer_and_the_next_use() {
    explore(|| {
        let request = Request::forked(false);
        request.answer(1, Value); // and dies
        let working = {
            let request = request.clone();
            spawn(move || {
                request.answer(2, Value);
                if request.task(0).is_done() {
                    request.cancel(); // the repairer may be the one that frees it
                }
                if request.task(0).is_free() {
                    request.send(Target::Fork(0));
                    request.hand(0, 3);
                    request.hand(1, 4);
                    request.answer(4, Value);
                }
            })
        };
        take_part();
        request.repair(1, REPAIRER);
        working.join().unwrap();
        let now = request.task(0).word().load();
        match now.phase() {
            Some(Phase::Done) => assert_eq!(now.generation(), 0),
            Some(Phase::Free) => return request.check_freed(1),
            _ => {
                assert_eq!((now.generation(), now.forked_at()), (1, Some(0)), "branch 0 is under way");
                request.answer(3, Value);
            }
        }
        assert_eq!(request.outcome().unwrap().as_deref(), Ok("[01]"));
    });
}

impl Request {
    /// One without branches, that worker 1 has.
    fn plain() -> Arc<Self> {
        let request = Self::new(Vec::new(), 0);
        request.send(Target::Node(0));
        request.hand(0, 1);
        request
    }

    fn is_noticed(&self) -> bool {
        self.segment.completions()[0].load(SeqCst) & 1 == 1
    }

    /// Worker 1 ends what it has.
    fn end(&self) {
        let parked = self.taken.lock().unwrap().remove(&1).expect("it has one");
        end(parked.resume(&self.segment).unwrap(), false);
    }
}

/// NOTIFY against the end: the caller sees the outcome, or its bit of the completions set; also if the worker dies
/// between the two.
#[test]
fn notice_is_asked_for() {
    for branches in [false, true] {
        explore_deaths(move |death| {
            let request = if branches { Request::unforked() } else { Request::plain() };
            let victim = {
                let (request, death) = (request.clone(), death.clone());
                spawn(move || death.strikes(|| request.end()))
            };
            take_part();
            let there = request.act(CLIENT).client().ask_for_notice(request.task(0));
            if victim.join().unwrap() {
                request.repair(1, REPAIRER);
                wake_everyone(&request.segment);
            }
            assert!(there || request.is_noticed());
            assert!(request.task(0).is_done());
        });
    }
}
