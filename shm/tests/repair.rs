//! Each row of the table in `repair`: the traces of a dead participant are repaired once, however often a repair runs and
//! whichever participant repairs.

mod common;

use common::{Fixture, forward, spec, task_of, token};
use ringmill_shm::arena::At;
use ringmill_shm::check::check;
use ringmill_shm::lock::Acquired;
use ringmill_shm::pool::in_use;
use ringmill_shm::repair::{Orphan, Summary};
use ringmill_shm::token::Token;
use ringmill_shm::word::Phase;

const WORKER: u32 = 1;
const OTHER: u32 = 2;

/// Repairs, and answers orphans with an error; the second time there is nothing to do.
fn repair_twice(f: &Fixture, dead: Token) -> Summary {
    let first = f.repair(dead, f.client(), |orphan| f.finish(task_of(orphan), true));
    let again = f.repair(dead, f.client(), |task| panic!("{task:?} again"));
    assert_eq!(again.orphaned + again.pushed + again.freed + again.swept_blocks, 0, "{again:?}");
    assert_eq!(again.unread, first.unread, "a reader will come");
    assert_eq!(check(&f.segment), []);
    first
}

fn phase(f: &Fixture, id: u32) -> Phase {
    f.task(id).word().load().phase().unwrap()
}

#[test]
fn nothing_left_nothing_done() {
    let f = Fixture::new();
    let worker = f.arrive(WORKER);
    f.send(0, f.client(), b"of the living");
    f.bury(worker);
    assert_eq!(repair_twice(&f, worker), Summary::default());
    assert_eq!(phase(&f, 0), Phase::Queued);
}

#[test]
fn filling_is_freed_with_its_blocks() {
    let f = Fixture::new();
    let client = f.arrive(WORKER);
    let mut filling = f.begin(0, client);
    filling.block_buffer(200).unwrap();
    f.bury(client); // the guard means nothing to the segment
    assert_eq!(repair_twice(&f, client).freed, 1);
    assert!(f.task(0).is_free());
    assert_eq!(in_use(&f.segment), [0, 0]);
}

#[test]
fn filling_is_freed_with_a_block_that_was_not_recorded() {
    let f = Fixture::new();
    let client = f.arrive(WORKER);
    let mut filling = f.begin(0, client);
    assert!(filling.inline_buffer().write(0, b"a pattern that is there once"));
    filling.block_buffer(200).unwrap();
    f.line_of(b"a pattern that is there once").set_block(0); // as just before it was
    f.bury(client);
    let summary = repair_twice(&f, client);
    assert_eq!((summary.freed, summary.swept_blocks), (1, 1));
    assert_eq!(in_use(&f.segment), [0, 0]);
}

#[test]
fn queued_in_its_ring_is_left_to_the_readers() {
    let f = Fixture::new();
    let (mover, other) = (f.arrive(WORKER), f.arrive(OTHER));
    f.send(0, mover, b"pushed");
    f.bury(mover);
    assert_eq!(repair_twice(&f, mover), Summary::default());
    let claimed = f.drain(0, other);
    assert_eq!(claimed.len(), 1);
    assert_eq!(claimed[0].payload().unwrap(), b"pushed");
    claimed.into_iter().for_each(|c| f.finish(c, false));
}

#[test]
fn queued_in_no_ring_is_pushed_where_it_was_going() {
    let f = Fixture::new();
    let (mover, reader) = (f.arrive(WORKER), f.arrive(3));
    f.queue(0, mover, 1, b"not pushed");
    f.bury(mover);
    assert_eq!(repair_twice(&f, mover).pushed, 1);
    assert!(f.task(0).word().load().is(Phase::Queued, f.client()));
    assert!(f.drain(0, reader).is_empty());
    assert_eq!(f.drain(1, reader).pop().unwrap().payload().unwrap(), b"not pushed");
}

#[test]
fn claimed_and_not_drained_is_claimed_again() {
    let f = Fixture::new();
    let (dead, other) = (f.arrive(WORKER), f.arrive(OTHER));
    f.send(0, f.client(), b"not begun");
    f.send(1, f.client(), b"not claimed");
    let reader = f.read(0, dead);
    let _ = reader.claim(0).unwrap();
    std::mem::forget(reader);
    f.bury(dead);
    assert_eq!(repair_twice(&f, dead).unread, 1);
    assert_eq!(f.read(0, other).acquired(), Acquired::Free);
    let claimed = f.drain(0, other);
    let payloads: Vec<_> = claimed.iter().map(|c| c.payload().unwrap()).collect();
    assert_eq!(payloads, [&b"not begun"[..], b"not claimed"]);
    assert_eq!(claimed[0].attempt(), 0, "no attempt was made");
    claimed.into_iter().for_each(|c| f.finish(c, false));
    assert_eq!(check(&f.segment), []);
}

#[test]
fn claimed_and_drained_is_answered() {
    let f = Fixture::new();
    let worker = f.arrive(WORKER);
    let task = f.send(0, f.client(), b"begun");
    drop(f.drain(0, worker));
    f.bury(worker);
    assert_eq!(repair_twice(&f, worker).orphaned, 1);
    let done = f.outcome(task).unwrap();
    assert!(done.is_error());
    done.free();
}

#[test]
fn claimed_and_drained_can_be_retried() {
    let f = Fixture::new();
    let (worker, other) = (f.arrive(WORKER), f.arrive(OTHER));
    f.send(0, f.client(), b"idempotent");
    drop(f.drain(0, worker));
    f.bury(worker);
    let retry = |orphan: Orphan<'_>| {
        let task = task_of(orphan);
        let At::To { node, .. } = task.task().at() else { panic!("{task:?}") };
        forward(task, node, || 0, true).unwrap();
    };
    assert_eq!(f.repair(worker, f.client(), retry).orphaned, 1);
    assert_eq!(check(&f.segment), []);
    let claimed = f.drain(0, other).pop().unwrap();
    assert_eq!((claimed.payload().unwrap(), claimed.attempt()), (&b"idempotent"[..], 1));
    f.finish(claimed, false);
}

/// Symptom: a block was lost until the next death, and `check` complained once the request had ended.
/// Cause: only blocks of ended requests were swept, and an orphan ends after the sweep. Fix: blocks that
/// an orphan owns and does not list are swept while the repairer has it.
#[test]
fn a_block_that_the_dead_had_not_recorded_is_freed_with_its_task() {
    let f = Fixture::new();
    let worker = f.arrive(WORKER);
    let task = f.send(0, f.client(), b"a pattern that is there once");
    let mut claimed = f.drain(0, worker).pop().unwrap();
    claimed.block_buffer(200).unwrap();
    f.line_of(b"a pattern that is there once").set_block(0); // as just before it was
    f.bury(worker);
    let summary = repair_twice(&f, worker);
    assert_eq!((summary.orphaned, summary.swept_blocks), (1, 1));
    f.outcome(task).unwrap().free();
    assert_eq!(in_use(&f.segment), [0, 0]);
}

#[test]
fn blocks_that_the_living_are_about_to_record_are_left() {
    let f = Fixture::new();
    let dead = f.arrive(WORKER);
    let mut filling = f.begin(0, f.client());
    assert!(filling.inline_buffer().write(0, b"a pattern that is there once"));
    filling.block_buffer(200).unwrap();
    let line = f.line_of(b"a pattern that is there once");
    let handle = line.block();
    line.set_block(0);
    f.bury(dead);
    let summary = f.repair(dead, f.client(), |_| {});
    assert_eq!(summary, Summary::default());
    line.set_block(handle);
    assert_eq!(in_use(&f.segment), [1, 0]);
    filling.abandon();
}

#[test]
fn claimed_and_cancelled_is_freed() {
    let f = Fixture::new();
    let worker = f.arrive(WORKER);
    let task = f.send(0, f.client(), b"");
    drop(f.drain(0, worker));
    assert!(f.cancel(task));
    f.bury(worker);
    assert_eq!(repair_twice(&f, worker).orphaned, 1);
    assert!(task.is_free());
}

#[test]
fn done_of_a_dead_client_is_freed_with_its_blocks() {
    let f = Fixture::new();
    let (client, worker) = (f.arrive(WORKER), f.arrive(OTHER));
    let task = f.send(0, client, b"");
    let mut claimed = f.drain(0, worker).pop().unwrap();
    claimed.block_buffer(1000).unwrap();
    f.finish_for(claimed, client);
    f.bury(client);
    assert_eq!(repair_twice(&f, client).freed, 1);
    assert!(task.is_free());
    assert_eq!(in_use(&f.segment), [0, 0]);
}

#[test]
fn done_for_a_living_client_is_left() {
    let f = Fixture::new();
    let worker = f.arrive(WORKER);
    let task = f.send(0, f.client(), b"outcome");
    f.finish(f.drain(0, worker).pop().unwrap(), false);
    f.bury(worker);
    assert_eq!(repair_twice(&f, worker), Summary::default());
    assert_eq!(f.outcome(task).unwrap().payload().unwrap(), b"outcome");
}

/// Symptom: a segment whose last worker had died in its lock was inconsistent for ever, and a reader that
/// had asked about the holder just before its death slept until the backstop. Cause: only the next reader
/// took the lock from the dead. Fix: the repairer frees it.
#[test]
fn a_lock_held_by_the_dead_is_freed() {
    let f = Fixture::new();
    let (dead, alive) = (f.arrive(WORKER), f.arrive(3));
    for (node, holder) in [(0, dead), (1, alive)] {
        f.lock_for_ever(node, holder);
    }
    f.bury(dead);
    repair_twice(&f, dead);
    assert_eq!(f.segment.node(0).unwrap().lock().holder(), None);
    assert_eq!(f.segment.node(1).unwrap().lock().holder(), Some(alive), "not of the living");
}

#[test]
fn the_doorbell_forgets_the_dead_and_every_sleeper_is_woken() {
    let f = Fixture::new();
    let (dead, other) = (f.arrive(WORKER), f.arrive(OTHER));
    let node = f.segment.node(0).unwrap();
    node.doorbell().announce(0);
    node.doorbell().announce(1);
    assert!(node.doorbell().begin_spinning(0).is_some());
    f.bury(dead);
    let bells = [f.segment.startup().count(), f.segment.freed().count()];
    let bell = node.bell(1).unwrap().count();
    f.repair(dead, f.client(), |_| {});
    assert_eq!(node.doorbell().sleepers(), 0b10, "{other} still sleeps");
    assert!(node.doorbell().begin_spinning(1).is_some(), "the mark is free");
    assert_ne!(node.bell(1).unwrap().count(), bell);
    assert_ne!(f.segment.startup().count(), bells[0]);
    assert_ne!(f.segment.freed().count(), bells[1]);
}

#[test]
fn the_doorbell_forgets_the_thread_that_is_dead_and_not_another() {
    let mut spec = spec();
    spec.nodes[0].facts.threads = 2;
    let f = Fixture::of(&spec);
    let dead = f.arrive(4); // the second thread of worker 1
    let node = f.segment.node(0).unwrap();
    (0..4).for_each(|number| node.doorbell().announce(number));
    assert!(node.doorbell().begin_spinning(3).is_some());
    f.bury(dead);
    f.repair(dead, f.client(), |_| {});
    assert_eq!(node.doorbell().sleepers(), 0b0111);
    assert!(node.doorbell().begin_spinning(1).is_some(), "the mark is free");
}

/// Symptom: a caller slept for ever. Cause: its worker died between the transition to DONE, which clears
/// WAITING, and the wake; and the repairer woke only where WAITING was set. Fix: it wakes at DONE, too.
#[test]
fn a_caller_whose_worker_died_before_it_woke_it_is_woken() {
    let f = Fixture::new();
    let (client, worker) = (f.client(), f.arrive(WORKER));
    let task = f.send(0, client, b"outcome");
    drop(f.drain(0, worker));
    let (tell, told) = std::sync::mpsc::channel();
    std::thread::scope(|scope| {
        let caller = scope.spawn(|| {
            let task = f.task(0);
            tell.send(std::fs::read_link("/proc/thread-self").unwrap()).unwrap();
            while f.outcome(task).is_none() {
                f.act(client).client().sleep(task, None);
            }
            f.outcome(task).unwrap().free();
        });
        let stat = std::path::Path::new("/proc").join(told.recv().unwrap()).join("stat");
        let sleeps = || std::fs::read_to_string(&stat).unwrap().rsplit_once(") ").unwrap().1.starts_with('S');
        while !(task.word().load().is_waiting() && sleeps()) {
            std::thread::yield_now();
        }
        // → DONE, and dies before the wake.
        f.write_word(task, Phase::Done, client, false);
        f.bury(worker);
        f.repair(worker, client, |_| panic!("it was answered"));
        caller.join().unwrap();
    });
    assert!(task.is_free());
}

#[test]
fn a_dead_repairers_traces_are_repaired_by_the_same_rules() {
    let f = Fixture::new();
    let (worker, repairer) = (f.arrive(WORKER), f.arrive(OTHER));
    let task = f.send(0, f.client(), b"begun");
    drop(f.drain(0, worker));
    f.queue(1, worker, 0, b"not pushed");
    f.bury(worker);
    // It takes over and adopts, and dies before it has answered.
    let summary = f.repair(worker, repairer, |_| {});
    assert_eq!((summary.orphaned, summary.pushed), (1, 1));
    f.bury(repairer);
    let again = f.repair(worker, f.client(), |task| panic!("{task:?}"));
    assert_eq!(again, Summary::default(), "nothing has its name any more");
    let summary = repair_twice(&f, repairer);
    assert_eq!((summary.orphaned, summary.pushed), (1, 0), "one to answer, one in its ring");
    assert!(f.outcome(task).unwrap().is_error());
    assert_eq!(f.drain(0, f.arrive(3)).pop().unwrap().payload().unwrap(), b"not pushed");
}

#[test]
fn adopted_and_not_pushed_is_pushed() {
    let f = Fixture::new();
    let (worker, repairer) = (f.arrive(WORKER), f.arrive(OTHER));
    f.queue(1, worker, 0, b"not pushed");
    f.bury(worker);
    f.write_word(f.task(1), Phase::Queued, repairer, false); // adopted; and dies before its push
    f.bury(repairer);
    assert_eq!(repair_twice(&f, repairer).pushed, 1);
}

#[test]
fn a_reused_row_does_not_revive_its_former_token() {
    let f = Fixture::new();
    let first = f.arrive(WORKER);
    assert!(!f.segment.is_dead(first));
    f.bury(first);
    assert!(f.segment.is_dead(first));
    let second = f.arrive(WORKER);
    assert!(f.segment.is_dead(first) && !f.segment.is_dead(second));
    // No mark by a supervisor: the free byte of the lease is proof enough.
    f.leave(second);
    assert!(f.segment.is_dead(second));
    assert!(f.segment.is_dead(token(1000, 1)), "no such row");
}

/// Symptom: the doorbell kept a dead worker's bit and forgot a living worker; a living holder lost the reader lock, and its unlock
/// freed the next holder's. Cause: repairers trusted the participant table against the plan and the kernel. Fix: a participant's
/// identity follows from the plan, its life from its lease, and a holder frees only its own lock.
#[test]
fn the_plan_and_the_kernel_are_trusted_and_not_the_table() {
    let f = Fixture::new();
    let (dead, alive) = (f.arrive(WORKER), f.arrive(OTHER));
    let node = f.segment.node(0).unwrap();
    (0..2).for_each(|number| node.doorbell().announce(number));
    for token in [dead, alive] {
        let entry = f.find_row(token);
        for (field, value) in [(1, 77_u32), (2, 9), (0, 0x7fff_0007)] {
            f.write(entry + 4 * field, &value.to_le_bytes());
        }
    }
    let reader = f.read(0, alive);
    assert!(!f.segment.is_dead(alive), "it holds its lease");
    assert_eq!(
        f.segment.worker_of(dead.index()).map(|(info, worker, _)| (&*info.name, worker)),
        Some(("first", 0))
    );
    f.bury(dead);
    let bell = node.bell(1).unwrap().count();
    f.repair(dead, f.client(), |_| {});
    assert_eq!(node.doorbell().sleepers(), 0b10, "the dead one, of this node");
    assert_ne!(node.bell(1).unwrap().count(), bell, "every sleeper is woken, whatever its state");
    assert_eq!(node.lock().holder(), Some(alive));
    drop(reader);
    assert_eq!(node.lock().holder(), None);
}
