//! Workers, and repairers of what they left, die over bare segments: no engine, no supervisor.
//!
//! One node forks to two more and joins before a last one. A *worker* is a process that sends requests of its own
//! and works at all nodes until nothing is left; it dies at some point. A *second worker* meets the traces of the first before
//! a repair, and dies too. A *repairer* dies while it repairs. Then this process, which is the server, repairs after all of
//! them: after the repairer by the same rules as after the workers, in either order. In the end every request has ended, once,
//! rightly or with an error; nothing is lost; and all requests can be used again.

use crate::report::{name, number, points, tell_killed, tell_passed};
use crate::{Part, Shop, again, watch};
use ringmill_shm::arena::{Arrived, At, Claimed, Done, Join, Task};
use ringmill_shm::check::check;
use ringmill_shm::crash::{Act, Page, VARIABLE};
use ringmill_shm::layout::{Class, INLINE_BYTES, NodeFacts};
use ringmill_shm::participant::{Life, Role};
use ringmill_shm::party::Participant;
use ringmill_shm::plan::{Fork, ForkMember, Target};
use ringmill_shm::pool::in_use;
use ringmill_shm::repair::Orphan;
use ringmill_shm::segment::{Location, NodeSpec, Segment, Spec};
use ringmill_shm::token::Token;
use ringmill_shm::word::Phase;
use ringmill_tests::wait_until;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Stdio;

const FORMAT: u64 = 42;
const REQUESTS: u32 = 16;
/// From here on requests are a worker's own.
const OWN: u32 = 12;
/// How many a reader takes at once.
const BATCH: usize = 4;

/// Rows of the table, and roles in the page.
const WORKER: u32 = 1;
const SECOND: u32 = 2;
const REPAIRER: u32 = 5;
const ROLES: [(u32, &str); 3] =
    [(WORKER, "bare worker"), (SECOND, "bare second worker"), (REPAIRER, "bare repairer")];

fn spec() -> Spec {
    let node = |name: &str, next, workers| NodeSpec {
        name: name.into(),
        worker_type: "bare".into(),
        payloads: Default::default(),
        config: Vec::new(),
        facts: NodeFacts { batch_size: BATCH as u32, keeps_inputs: true.into(), ..NodeFacts::default() },
        next,
        role: Role::ProcessWorker,
        workers: vec![Default::default(); workers],
    };
    let member = |entry| ForkMember { entry, root_bytes: 1, root_align: 1 };
    let members = [1, 2].map(Target::Node).map(member).into();
    Spec {
        requests: REQUESTS,
        tasks_per_request: 3,
        classes: vec![Class { block_bytes: 256, count: 96 }, Class { block_bytes: 1024, count: 96 }],
        payload_format: FORMAT,
        nodes: vec![
            node("first", Target::Fork(0), 2),
            node("left", Target::End, 1),
            node("right", Target::End, 1),
            node("last", Target::End, 2),
        ],
        forks: vec![Fork {
            name: "both".into(),
            fail_fast: true,
            form: 0,
            parent: 0,
            first: 0,
            end: 2,
            next: Target::Node(3),
            members,
        }],
        ..Spec::default()
    }
}

/// Inputs of all lengths: in line, in a small block, in a large one.
fn input(id: u32) -> Vec<u8> {
    vec![id as u8 + 1; [9, 150, 300][id as usize % 3]]
}

/// Whether the right branch of a request fails.
fn is_refused(id: u32) -> bool {
    id % 5 == 3
}

/// Whether the left branch passes its input on where it lies.
fn is_passed(id: u32) -> bool {
    id.is_multiple_of(2)
}

/// Whether a request is retried if a worker dies with it, so that its inputs are not written over.
fn is_kept(id: u32) -> bool {
    !id.is_multiple_of(3)
}

/// Writes to a guard's in-line buffer if it fits there, otherwise to a block.
macro_rules! put {
    ($guard:expr, $bytes:expr) => {{
        let (guard, bytes): (_, &[u8]) = (&mut $guard, &$bytes);
        let fits = guard.inline_buffer().room() >= bytes.len();
        let mut buffer = if fits {
            guard.inline_buffer()
        } else {
            guard.block_buffer(bytes.len() as u64).expect("a block")
        };
        assert!(buffer.write(0, bytes));
        guard.set_length(bytes.len());
    }};
}

/// The output of node `node` for an input; `None`: an error.
fn outcome(id: u32, node: u32, input: &[u8]) -> Option<Vec<u8>> {
    match node {
        1 if is_passed(id) => Some(input.to_vec()),
        2 if is_refused(id) => None,
        1 | 2 => Some(input.iter().rev().copied().take(40 * node as usize).chain([node as u8]).collect()),
        _ => Some(input.iter().copied().chain([node as u8]).collect()),
    }
}

/// The final outcome of a request; `None`: an error.
fn fate(id: u32) -> Option<Vec<u8>> {
    let first = outcome(id, 0, &input(id))?;
    let joined = [outcome(id, 2, &first)?, outcome(id, 1, &first)?].concat();
    outcome(id, 3, &joined)
}

/// A participant that works at the nodes.
struct Hand<'s> {
    segment: &'s Segment,
    me: Participant<'s>,
}

impl<'s> Hand<'s> {
    #[expect(unsafe_code, reason = "the contract of guards")]
    fn new(segment: &'s Segment, me: Token) -> Self {
        // SAFETY: each process has one token, one hand, and one guard of a task at a time.
        Self { segment, me: unsafe { segment.take_part(me) } }
    }

    fn task(&self, id: u32) -> Task<'s> {
        Task::new(self.segment, id).expect("a task's id")
    }

    /// A worker's own requests it answers itself; if it has died, the server has them.
    fn client_of(&self, task: Task<'_>) -> Token {
        let own = task.slot().0 >= OWN && self.me.token().index() == WORKER;
        if own { self.me.token() } else { Token::SERVER }
    }

    fn send(&self, ids: std::ops::Range<u32>) {
        for id in ids.clone() {
            #[expect(unsafe_code, reason = "the contract of guards")]
            // SAFETY: as in `new`; those that it sends are its own.
            let mut filling = unsafe { self.me.client().begin(self.task(id)) };
            let bytes = input(id);
            let fits = bytes.len() <= INLINE_BYTES;
            let mut buffer = if fits {
                filling.inline_buffer()
            } else {
                filling.block_buffer(bytes.len() as u64).expect("a block")
            };
            assert!(buffer.write(0, &bytes));
            filling.set_length(bytes.len());
            filling.queue(0);
        }
        self.push(0, &ids.collect::<Vec<_>>());
    }

    fn push(&self, node: u32, ids: &[u32]) {
        for ids in ids.chunks(3).filter(|ids| !ids.is_empty()) {
            self.segment.node(node).expect("a node").push(ids).expect("there is room");
        }
    }

    /// Until nothing is left.
    fn work(&self) {
        while (0..self.segment.shape().nodes).map(|node| self.work_at(node)).sum::<usize>() > 0 {}
    }

    /// Works on one batch; returns its size.
    fn work_at(&self, node: u32) -> usize {
        let parts = self.segment.node(node).expect("a node");
        let mut reader = self.me.read(parts, 0, || false).expect("it does not give up");
        let ring = reader.ring();
        let (mut head, mut claimed) = (ring.head(), Vec::new());
        while claimed.len() < BATCH
            && let Some(id) = ring.get(head)
        {
            claimed.extend(reader.claim(id));
            head += 1;
        }
        let moved = head - ring.head();
        reader.set_head(head);
        drop(reader);
        let mut outbox = Vec::new();
        for task in claimed {
            if task.is_abandoned() {
                if let Some(join) = task.discard() {
                    self.join(join, &mut outbox);
                }
            } else {
                self.handle(task, node, &mut outbox);
            }
        }
        self.flush(&mut outbox);
        moved as usize
    }

    fn flush(&self, outbox: &mut Vec<(u32, u32)>) {
        for node in 0..self.segment.shape().nodes {
            let ids: Vec<u32> = outbox.iter().filter(|to| to.0 == node).map(|to| to.1).collect();
            self.push(node, &ids);
        }
        outbox.clear();
    }

    fn handle(&self, mut task: Claimed<'s>, node: u32, outbox: &mut Vec<(u32, u32)>) {
        let id = task.task().slot().0;
        task.begin_work(node);
        let input = task.payload().expect("it is whole").to_vec();
        let next = self.segment.nodes()[node as usize].next;
        match outcome(id, node, &input) {
            Some(outcome) if outcome == input => self.move_on(task, next, outbox),
            Some(outcome) if is_kept(id) => {
                let mut keeping = task.keep_input();
                put!(keeping, outcome);
                self.move_on(keeping.done(), next, outbox);
            }
            Some(outcome) => {
                put!(task, outcome);
                self.move_on(task, next, outbox);
            }
            None if is_kept(id) => {
                let mut keeping = task.keep_input_for_error(node);
                put!(keeping, *b"refused");
                self.end(keeping.done(), true, outbox);
            }
            None => self.fail(task, b"refused", outbox),
        }
    }

    fn fail(&self, mut task: Claimed<'s>, why: &[u8], outbox: &mut Vec<(u32, u32)>) {
        task.give_up_input();
        put!(task, *why);
        self.end(task, true, outbox);
    }

    fn end(&self, task: Claimed<'s>, error: bool, outbox: &mut Vec<(u32, u32)>) {
        let client = self.client_of(task.task());
        #[expect(unsafe_code, reason = "the contract of guards")]
        // SAFETY: it is that client's request, or the server's now.
        let join = unsafe { task.finish_for(client, error) };
        if let Some(join) = join {
            self.join(join, outbox);
        }
    }

    fn move_on(&self, task: Claimed<'s>, to: Target, outbox: &mut Vec<(u32, u32)>) {
        match to {
            Target::End => self.end(task, false, outbox),
            Target::Node(node) => {
                let id = task.queue(node, || 0).expect("it is ours");
                outbox.push((node, id));
            }
            Target::Fork(fork) => {
                let entries =
                    self.segment.routes().forks[fork as usize].members.iter().map(|member| member.entry);
                for (branch, entry) in task.fork(fork).expect("it is ours").zip(entries) {
                    self.move_on(branch, entry, outbox);
                }
            }
            Target::Switch(_) => panic!("there is none"),
        }
    }

    /// The members' outcomes one after the other, the last first, so that none is copied onto itself; or an error.
    fn join(&self, mut join: Join<'s>, outbox: &mut Vec<(u32, u32)>) {
        let (mut value, mut error) = (Vec::new(), None);
        for member in (0..join.fork().1.members.len()).rev() {
            match join.member(member).expect("it is whole") {
                Arrived::Value(bytes) => value.extend_from_slice(bytes),
                Arrived::Error(bytes) => error = error.or(Some(bytes.to_vec())),
                Arrived::Skipped => error = error.or(Some(b"skipped".to_vec())),
                Arrived::Not => {}
            }
        }
        match error {
            Some(error) => self.join_with_error(join, &error, outbox),
            None => {
                let mut buffer = join.value_buffer().expect("it is at rest");
                let fits = value.len() <= INLINE_BYTES;
                let length = value.len() as u64;
                let mut room =
                    if fits { buffer.inline_buffer() } else { buffer.block_buffer(length).expect("a block") };
                assert!(room.write(0, &value));
                buffer.set_length(value.len());
                let next = join.fork().1.next;
                self.move_on(join.with_value().expect("it is ours"), next, outbox);
            }
        }
    }

    fn join_with_error(&self, mut join: Join<'s>, error: &[u8], outbox: &mut Vec<(u32, u32)>) {
        let mut buffer = join.error_buffer();
        assert!(buffer.inline_buffer().write(0, error));
        buffer.set_length(error.len());
        self.end(join.with_error().expect("it is ours"), true, outbox);
    }

    /// Handles the orphans of a repair as an engine does.
    fn settle(&self, orphan: Orphan<'s>) {
        let outbox = &mut Vec::new();
        match orphan {
            Orphan::Join(join) if join.is_spoilt() => self.join_with_error(join, b"died", outbox),
            Orphan::Join(join) => self.join(join, outbox),
            Orphan::Task(task) => {
                let (id, forks) = (task.task().slot().0, &self.segment.routes().forks);
                let again = |task: Claimed<'s>, node, counts, outbox: &mut Vec<(u32, u32)>| {
                    let id = task.requeue(node, || 0, counts, 0).expect("it is ours");
                    outbox.push((node, id));
                };
                match task.task().at() {
                    At::Begun { failed: true, .. } if task.is_outcome() => self.end(task, true, outbox),
                    At::Begun { node, .. } if task.is_outcome() => {
                        self.move_on(task, self.segment.nodes()[node as usize].next, outbox);
                    }
                    At::Failed(_) => self.end(task, true, outbox),
                    _ if task.is_abandoned() => {
                        if let Some(join) = task.discard() {
                            self.join(join, outbox);
                        }
                    }
                    At::Begun { node, .. } if is_kept(id) => again(task, node, true, outbox),
                    At::Begun { .. } | At::Spoilt => self.fail(task, b"died", outbox),
                    At::To { node, .. } => again(task, node, false, outbox),
                    At::Forked(fork) => self.move_on(task, Target::Fork(fork), outbox),
                    At::Joined(fork) => self.move_on(task, forks[fork as usize].next, outbox),
                    At::New => {
                        let branch = task.task().slot().1 - 1;
                        self.move_on(task, forks[0].members[branch as usize].entry, outbox);
                    }
                }
            }
        }
        self.flush(outbox);
    }

    fn repair(&self, dead: Token) {
        #[expect(unsafe_code, reason = "the contract of a repair")]
        // SAFETY: its process has ended; and processes repair one after the other.
        unsafe {
            self.me.repairer().repair(dead, |orphan| self.settle(orphan));
        }
    }

    #[expect(unsafe_code, reason = "the contract of guards")]
    fn outcome(&self, id: u32) -> Option<Done<'s>> {
        // SAFETY: as in `new`.
        unsafe { self.me.client().outcome(self.task(id)) }
    }

    #[expect(unsafe_code, reason = "the contract of guards")]
    fn cancel(&self, id: u32) -> bool {
        // SAFETY: as in `new`.
        unsafe { self.me.client().cancel(self.task(id)) }
    }
}

/// As a client does with an outcome that it has read.
fn give_back(done: Done<'_>) {
    if done.may_have_branches() {
        let _ = done.cancel(); // the last branch to arrive frees it
    } else {
        done.free();
    }
}

/// A process of its own: `work LOCATION ROW` or `repair LOCATION ROW DEAD…`.
pub(crate) fn actor(part: &str, words: &[&str]) {
    let location = Location::parse(words[0]).expect("a location");
    let segment = Segment::attach(location, FORMAT).expect("a segment");
    let index: u32 = words[1].parse().expect("a number");
    let entry = &segment.participants()[index as usize];
    let me = entry.token().expect("it was prepared");
    segment.lease().hold(me).expect("it is free"); // [lease before deeds]
    entry.arrive();
    entry.set_life(Life::Ready);
    let hand = Hand::new(&segment, me);
    match part {
        "repair" => {
            for dead in &words[2..] {
                hand.repair(Token::from_raw(dead.parse().expect("a number")).expect("a token"));
            }
        }
        _ => {
            if index == WORKER {
                hand.send(OWN..REQUESTS);
            }
            hand.work();
            for id in (OWN..REQUESTS).filter(|_| index == WORKER) {
                let Some(done) = hand.outcome(id) else { continue };
                give_back(done);
            }
        }
    }
    entry.set_life(Life::Leaving);
}

/// The deaths of a scene, by part and point.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Plan {
    worker: Option<usize>,
    second: Option<usize>,
    repairer: Option<usize>,
    /// The worker is held while it has a lock, until the second waits for that.
    contended: bool,
    /// The repairer is repaired before those that it was repairing.
    repairer_first: bool,
    passing: u32,
}

/// A segment on which a plan is carried out.
struct Scene<'p> {
    segment: Segment,
    page: &'p Page,
    page_path: &'p Path,
}

impl<'p> Scene<'p> {
    fn hand(&self) -> Hand<'_> {
        Hand::new(&self.segment, Token::SERVER)
    }

    fn spawn(&self, part: &str, index: u32, rest: &[String]) -> Part {
        let page = self.page_path.to_str().expect("text");
        let (location, number) = (self.segment.location().to_text(), index.to_string());
        #[expect(unsafe_code, reason = "the contract of a row")]
        // SAFETY: its row; the process that had it before has been buried.
        unsafe {
            self.segment.participants()[index as usize].prepare(index);
        }
        let mut command = again(&["actor", part, &location, &number]);
        command.args(rest).env(VARIABLE, format!("{index}:{page}")).stdout(Stdio::null());
        Part::spawn(command)
    }

    /// Its process has ended.
    fn bury(&self, child: &mut Part, index: u32) -> Token {
        let status = child.child.wait().expect("our child");
        assert!(status.code().is_none_or(|code| code == 0), "{status}");
        let entry = &self.segment.participants()[index as usize];
        #[expect(unsafe_code, reason = "the contract of a row")]
        // SAFETY: its process has ended, by the wait above.
        unsafe {
            entry.bury();
        }
        entry.token().expect("it was prepared")
    }

    /// The deaths at the points of the plan.
    fn play(&self, plan: &Plan) -> Vec<(u32, usize)> {
        let armed = [(WORKER, plan.worker), (SECOND, plan.second), (REPAIRER, plan.repairer)];
        for (slot, (role, point)) in armed.into_iter().enumerate() {
            match point {
                Some(point) => self.page.arm(slot, point, role as usize, plan.passing, Act::Die),
                None => self.page.disarm(slot),
            }
        }
        let hand = self.hand();
        hand.send(0..OWN);
        // Some callers have gone, some are asynchronous, some sleep.
        assert!(hand.cancel(5) && hand.cancel(8));
        assert!(!hand.me.client().ask_for_notice(hand.task(4)));
        let mut dead = Vec::new();
        if plan.contended {
            self.page.arm(3, number("ring.drained"), WORKER as usize, 1, Act::Hold);
        }
        let mut worker = self.spawn("work", WORKER, &[]);
        if plan.contended {
            wait_until("the worker has the lock", || self.page.fired(3).is_some());
            let waits = || self.page.passed(SECOND as usize, number("lock.waits"));
            let before = waits();
            let mut second = self.spawn("work", SECOND, &[]);
            wait_until("the second waits", || waits() > before);
            self.page.disarm(3);
            dead.push(self.bury(&mut worker, WORKER));
            dead.push(self.bury(&mut second, SECOND));
        } else {
            dead.push(self.bury(&mut worker, WORKER));
            if plan.second.is_some() {
                dead.push(self.bury(&mut self.spawn("work", SECOND, &[]), SECOND));
            }
        }
        let of: Vec<String> = dead.iter().map(|token| token.raw().to_string()).collect();
        let repairer = self.bury(&mut self.spawn("repair", REPAIRER, &of), REPAIRER);
        dead.insert(if plan.repairer_first { 0 } else { dead.len() }, repairer);
        dead.into_iter().for_each(|dead| hand.repair(dead));
        assert_eq!(check(&self.segment), []);
        hand.work();
        assert_eq!(check(&self.segment), []);
        for id in 0..REQUESTS {
            self.end(id, id >= OWN || [5, 8].contains(&id));
        }
        self.is_empty();
        // Another round, with all requests.
        hand.send(0..REQUESTS);
        hand.work();
        for id in 0..REQUESTS {
            let done = hand.outcome(id).expect("it has ended");
            assert_eq!(
                (done.payload().expect("it is whole").to_vec(), done.is_error()),
                match fate(id) {
                    Some(value) => (value, false),
                    None => (b"refused".to_vec(), true),
                }
            );
            self.end(id, false);
        }
        self.is_empty();
        let fired = armed.into_iter().enumerate().filter(|(slot, _)| self.page.fired(*slot).is_some());
        fired.filter_map(|(_, (role, point))| Some((role, point?))).collect()
    }

    /// A request has ended; its id is given back.
    fn end(&self, id: u32, may_be_free: bool) {
        let task = self.hand().task(id);
        let Some(done) = self.hand().outcome(id) else {
            let phase = task.word().load();
            assert!(may_be_free && phase.phase() == Some(Phase::Free), "request {id}: {phase:?}");
            return;
        };
        let payload = done.payload().expect("it is whole");
        match done.is_error() {
            true => assert!(
                [&b"refused"[..], b"died", b"skipped"].contains(&payload),
                "request {id}: {payload:?}"
            ),
            false => assert_eq!(Some(payload), fate(id).as_deref(), "request {id}"),
        }
        give_back(done);
    }

    /// Nothing is left, nowhere.
    fn is_empty(&self) {
        assert_eq!(check(&self.segment), []);
        assert_eq!(in_use(&self.segment), [0, 0]);
        for id in 0..self.segment.shape().tasks() {
            assert!(self.hand().task(id).is_free(), "task {id}: {:?}", self.hand().task(id).word());
        }
    }
}

pub(crate) fn lane(shop: &Shop) {
    let (path, file): (PathBuf, PathBuf) = (shop.page("memory"), shop.page("memory.segment"));
    let page = Page::create(&path).expect("a page");
    let play = |plan: &Plan| {
        watch(format!("{plan:?}"));
        let segment = Segment::create(Location::File(file.clone()), &spec()).expect("a segment");
        let scene = Scene { segment, page: &page, page_path: &path };
        let fired = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| scene.play(plan)));
        let fired = fired.unwrap_or_else(|panic| {
            let told = |point: Option<usize>| point.map(name);
            let deaths = [plan.worker, plan.second, plan.repairer].map(told);
            eprintln!("lane memory: failed with deaths at {deaths:?} in {plan:?}");
            std::panic::resume_unwind(panic)
        });
        for &(role, point) in &fired {
            let role = ROLES.into_iter().find(|of| of.0 == role).expect("a role").1;
            tell_killed(point, role, "repaired");
        }
        fired
    };
    let counts = |role: u32| -> Vec<u64> { points().map(|p| page.passed(role as usize, p.0)).collect() };
    let mut done: BTreeSet<(u32, usize)> = BTreeSet::new();
    let mut note = |fired: Vec<(u32, usize)>| done.extend(fired);
    let nowhere = number("participant.failing"); // no bare worker does
    let usual = Plan { passing: 1, ..Plan::default() };
    play(&usual);
    // Each point of a worker, early and late, with a repair at once or after another worker has gone on; the points that the
    // repairer passes then are its follow-ups.
    let mut follow_ups: Vec<(usize, usize)> = Vec::new();
    let of_worker: Vec<usize> = (0..).zip(counts(WORKER)).filter(|p| p.1 > 0).map(|p| p.0).collect();
    for &point in &of_worker {
        // Each time a worker passes the point, it writes other bytes over other bytes.
        let writes = ["held.", "payload.", "pool."].iter().any(|start| name(point).starts_with(start));
        let passings: &[u32] = if writes { &[1, 2, 3, 5, 8, 13, 21, 34, 55, 60, 65] } else { &[1, 3] };
        for (&passing, second) in
            passings.iter().flat_map(|passing| [(passing, None), (passing, Some(nowhere))])
        {
            let before = counts(REPAIRER);
            note(play(&Plan { worker: Some(point), second, passing, ..usual.clone() }));
            let after = counts(REPAIRER);
            let passed = (0..).zip(before.iter().zip(&after)).filter(|(_, (before, after))| after > before);
            follow_ups.extend(passed.map(|(passed, _)| (point, passed)));
        }
    }
    // Each point of a repairer, after several deaths.
    let mut tries = std::collections::BTreeMap::<usize, usize>::new();
    let most = if std::env::var_os("CRASH_ALL").is_some() { usize::MAX } else { 3 };
    let mut order = follow_ups.clone();
    order.sort_by_key(|&(worker, repairer)| (worker * 31 + repairer * 17) % 97);
    order.dedup();
    for (count, (worker, repairer)) in order.into_iter().enumerate() {
        let tries = tries.entry(repairer).or_default();
        if *tries < most {
            *tries += 1;
            let repairer_first = count % 2 == 0;
            note(play(&Plan {
                worker: Some(worker),
                repairer: Some(repairer),
                repairer_first,
                ..usual.clone()
            }));
        }
    }
    // Each point of a second worker, which meets the first one's traces and its lock.
    let first = ["lock.taken", "word.claimed", "ring.drained", "word.forked", "word.joining"].map(number);
    note(play(&Plan { worker: Some(first[0]), second: Some(nowhere), ..usual.clone() }));
    let of_second: Vec<usize> = (0..).zip(counts(SECOND)).filter(|p| p.1 > 0).map(|p| p.0).collect();
    for (count, &second) in of_second.iter().enumerate() {
        let (worker, repairer_first) = (Some(first[count % first.len()]), count % 2 == 0);
        note(play(&Plan { worker, second: Some(second), repairer_first, ..usual.clone() }));
    }
    for (worker, second) in [("lock.freed", None), ("lock.freed", Some("lock.taken_late"))] {
        let (worker, second) = (Some(number(worker)), second.map(number));
        note(play(&Plan { worker, second, contended: true, ..usual.clone() }));
    }
    let contend =
        |second: &str| play(&Plan { second: Some(number(second)), contended: true, ..usual.clone() });
    let late = [contend("lock.waits"), contend("lock.taken_late")].concat();
    note(late);
    for second in ["lock.taken_over", "word.claimed", "ring.drained"] {
        let worker = Some(number("lock.taken"));
        note(play(&Plan { worker, second: Some(number(second)), ..usual.clone() }));
    }
    for (role, label) in ROLES {
        for (point, times) in (0..).zip(counts(role)).filter(|(_, times)| *times > 0) {
            tell_passed(point, label, times);
            if !done.contains(&(role, point)) {
                eprintln!("lane memory: {} not again by a {label}", name(point));
            }
        }
    }
}
