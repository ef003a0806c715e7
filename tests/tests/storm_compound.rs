//! Storms over trees: worker processes of every stage, of ensembles within ensembles and behind a switch are
//! killed at random moments, while callers stream, call, hurry and go. Every call ends with the right value or a
//! typed error, and nothing is left.

mod support;

use ringmill::{
    Batch, BatchWorker, BoxError, BoxServlet, CallError, CallOptions, Context, Ensemble, MemberOutcome,
    ProcessServlet, RESTART_LIMIT, RemoteCause, RemoteError, Server, Servlet, StreamOptions, Switch,
    ThreadServlet, Worker, WorkerStats,
};
use ringmill_shm::sys::process::PidFd;
use rkyv::Archived;
use std::collections::BTreeSet;
use std::future::Future;
use std::pin::pin;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context as TaskContext, Waker};
use std::time::{Duration, Instant};
use support::{Name, eventually, guarded_for, stat_field};

type Item = Vec<u8>;
type Values = Vec<Box<Item>>;
type Results = Vec<Result<Box<Item>, Box<RemoteError>>>;
type Outcome = Result<Item, CallError>;

ringmill::init!(Leaf, FoldValues, FoldResults);

/// A patience that no test outlives.
const ENDLESS: Duration = Duration::from_secs(3600);
const LARGEST: usize = 4096;

/// What a leaf does with an item.
#[derive(Debug, Clone, Copy, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
enum Op {
    /// Answers with the input, where it lies.
    Pass,
    Add(u8),
    /// As long again, and again: into blocks of every class.
    Grow(usize),
    /// Refuses one item in so many.
    Refuse(u64),
}

impl Op {
    fn apply(self, item: &[u8]) -> Result<Item, String> {
        match self {
            Self::Refuse(one_in) if hash(item).is_multiple_of(one_in) => Err(format!("refused 1/{one_in}")),
            Self::Pass | Self::Refuse(_) => Ok(item.to_vec()),
            Self::Add(n) => Ok(item.iter().map(|byte| byte.wrapping_add(n)).collect()),
            Self::Grow(times) => {
                let length = (item.len() * times).min(LARGEST / 4);
                Ok(item.iter().copied().cycle().take(length).collect())
            }
        }
    }
}

fn hash(item: &[u8]) -> u64 {
    item.iter().fold(7, |sum: u64, &byte| sum.wrapping_mul(31).wrapping_add(byte.into())) >> 3
}

struct Leaf(Op);

impl BatchWorker for Leaf {
    type Config = Op;
    type In = Item;
    type Out = Item;

    fn new(op: Op, _: &Context) -> Result<Self, BoxError> {
        Ok(Self(op))
    }

    fn call(&mut self, batch: Batch<'_, Self>) -> Result<(), BoxError> {
        for item in batch {
            match (self.0, self.0.apply(item.input())) {
                (Op::Pass | Op::Refuse(_), Ok(_)) => item.pass(),
                (_, Ok(outcome)) => item.reply(outcome),
                (_, Err(message)) => item.fail(BoxError::msg(message)),
            }
        }
        Ok(())
    }
}

struct FoldValues;

impl Worker for FoldValues {
    type Config = ();
    type In = Values;
    type Out = Item;

    fn new((): (), _: &Context) -> Result<Self, BoxError> {
        Ok(Self)
    }

    fn call(&mut self, values: &Archived<Values>) -> Result<Item, BoxError> {
        Ok(fold(values.iter().map(|value| Some(value.as_slice()))))
    }
}

struct FoldResults;

impl Worker for FoldResults {
    type Config = ();
    type In = Results;
    type Out = Item;

    fn new((): (), _: &Context) -> Result<Self, BoxError> {
        Ok(Self)
    }

    fn call(&mut self, results: &Archived<Results>) -> Result<Item, BoxError> {
        Ok(fold(results.iter().map(|result| result.as_ref().ok().map(|value| value.as_slice()))))
    }
}

/// Each member's hash and length; of one that failed, a mark.
fn fold<'m>(members: impl Iterator<Item = Option<&'m [u8]>>) -> Item {
    let told = |member: Option<&[u8]>| match member {
        Some(bytes) => [hash(bytes).to_le_bytes(), (bytes.len() as u64).to_le_bytes()],
        None => [[0xFF; 8]; 2],
    };
    members.flat_map(|member| told(member).concat()).collect()
}

/// Where workers run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Host {
    Process,
    Processes,
    Thread,
}
use Host::{Process, Processes, Thread};

impl Host {
    fn servlet<W: BatchWorker<Config: Send>>(self, config: W::Config) -> BoxServlet<W::In, W::Out>
    where
        W::In: Send,
    {
        match self {
            Process => ProcessServlet::<W>::new(config).boxed(),
            Processes => ProcessServlet::<W>::new(config).cpus(2).batch_size(8).boxed(),
            Thread => ThreadServlet::<W>::new(config).batch_size(4).boxed(),
        }
    }
}

enum Tree {
    Leaf(Op, Host),
    Sequence(Vec<Tree>),
    /// Members, what folds their outcomes into an item.
    Fast(Vec<Tree>, Host),
    /// The same, errors kept.
    Keep(Vec<Tree>, Host),
    /// By an item's hash.
    Switch(Vec<Tree>),
}
use Tree::{Fast, Keep, Sequence};

/// What may become of an item: values, or also an error.
#[derive(Debug, Default, Clone)]
struct Fates {
    values: BTreeSet<Item>,
    error: bool,
}

impl Tree {
    fn servlet(&self) -> BoxServlet<Item, Item> {
        let all = |members: &[Self]| members.iter().map(Self::servlet).collect::<Vec<_>>();
        match self {
            Self::Leaf(op, host) => host.servlet::<Leaf>(*op),
            Sequence(stages) => {
                let stages = stages.iter().map(Self::servlet);
                stages.reduce(|first, next| first.then(next).boxed()).expect("never empty")
            }
            Fast(members, host) => Ensemble::each(all(members)).then(host.servlet::<FoldValues>(())).boxed(),
            Keep(members, host) => {
                let ensemble = Ensemble::each(all(members)).keep_errors();
                ensemble.then(host.servlet::<FoldResults>(())).boxed()
            }
            Self::Switch(members) => {
                let count = members.len() as u64;
                let choose = move |item: &Archived<Item>| (hash(item) % count) as usize;
                Switch::new(choose, all(members)).boxed()
            }
        }
    }

    /// What becomes of an item; in a storm every servlet may fail it besides.
    fn fates(&self, item: &[u8], storm: bool) -> Fates {
        let mut fates = match self {
            Self::Leaf(op, _) => match op.apply(item) {
                Ok(value) => Fates { values: [value].into(), error: false },
                Err(_) => Fates { values: BTreeSet::new(), error: true },
            },
            Sequence(stages) => {
                let mut so_far = Fates { values: [item.to_vec()].into(), error: false };
                for stage in stages {
                    let next = so_far.values.iter().map(|item| stage.fates(item, storm));
                    so_far =
                        next.fold(Fates { error: so_far.error, ..Fates::default() }, |mut all, fates| {
                            all.values.extend(fates.values);
                            all.error |= fates.error;
                            all
                        });
                }
                so_far
            }
            Fast(members, _) => Self::join(members, item, storm, false),
            Keep(members, _) => Self::join(members, item, storm, true),
            Self::Switch(members) => members[(hash(item) % members.len() as u64) as usize].fates(item, storm),
        };
        fates.error |= storm;
        fates
    }

    fn join(members: &[Self], item: &[u8], storm: bool, keep: bool) -> Fates {
        let fates: Vec<Fates> = members.iter().map(|member| member.fates(item, storm)).collect();
        // Every choice of one outcome of each member.
        let mut choices: Vec<Vec<Option<&[u8]>>> = vec![Vec::new()];
        for fates in &fates {
            let values = fates.values.iter().map(|value| Some(value.as_slice()));
            let outcomes: Vec<_> = values.chain(fates.error.then_some(None)).collect();
            let with = |choice: &Vec<Option<_>>| {
                let choice = choice.clone();
                outcomes.clone().into_iter().map(move |outcome| [&choice[..], &[outcome]].concat())
            };
            choices = choices.iter().flat_map(with).collect();
        }
        let mut joined = Fates::default();
        for choice in choices {
            let failed = choice.iter().filter(|outcome| outcome.is_none()).count();
            if failed == choice.len() || !keep && failed > 0 {
                joined.error = true;
            } else {
                joined.values.insert(fold(choice.into_iter()));
            }
        }
        joined
    }
}

fn leaf(op: Op, host: Host) -> Tree {
    Tree::Leaf(op, host)
}

/// Stages, fail-fast within keep-errors, a switch behind processes.
fn fast_in_keep() -> Tree {
    let inner = Fast(vec![leaf(Op::Add(1), Process), leaf(Op::Refuse(5), Process)], Process);
    Sequence(vec![
        leaf(Op::Add(3), Processes),
        Keep(vec![leaf(Op::Pass, Process), inner, leaf(Op::Grow(30), Thread)], Process),
        Tree::Switch(vec![leaf(Op::Pass, Process), leaf(Op::Grow(9), Thread), leaf(Op::Refuse(4), Process)]),
        leaf(Op::Add(5), Process),
    ])
}

/// The reverse, with the ensemble first and a switch within it behind a stage.
fn keep_in_fast() -> Tree {
    let switch = Tree::Switch(vec![leaf(Op::Pass, Thread), leaf(Op::Grow(20), Process)]);
    let inner =
        Keep(vec![leaf(Op::Refuse(3), Process), leaf(Op::Pass, Thread), leaf(Op::Pass, Process)], Thread);
    Sequence(vec![
        Fast(
            vec![
                Sequence(vec![leaf(Op::Add(1), Process), switch]),
                Sequence(vec![leaf(Op::Grow(20), Thread), inner]),
                leaf(Op::Refuse(9), Processes),
            ],
            Process,
        ),
        Keep(vec![leaf(Op::Add(1), Process), leaf(Op::Refuse(6), Thread)], Thread),
    ])
}

/// A sequence of numbers that looks random (Marsaglia's xorshift).
struct Dice(u64);

impl Dice {
    fn new(seed: u64) -> Self {
        let mut dice = Self(0x9E37_79B9_7F4A_7C15 ^ seed.wrapping_mul(0x2545_F491_4F6C_DD1D));
        dice.below(1);
        dice
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }

    /// Most small enough to lie in line, some in blocks.
    fn item(&mut self) -> Item {
        let limit = [60, 90, 900][self.below(3) as usize];
        let (length, first) = (1 + self.below(limit), self.below(256));
        (0..length).map(|i| (first + i) as u8).collect()
    }
}

/// What the threads of a storm share.
struct Storm<'s> {
    tree: &'s Tree,
    server: &'s Server<Item, Item>,
    /// Servlets may be given up.
    deadly: bool,
    over: AtomicBool,
    /// Requests that have ended.
    ended: AtomicU64,
    values: AtomicU64,
    killed: Mutex<BTreeSet<u32>>,
}

impl Storm<'_> {
    /// A request has ended: with a right value, or an error that a kill or a refusal explains.
    fn judge(&self, input: &[u8], outcome: &Outcome) {
        match outcome {
            Ok(value) => {
                let calm = self.tree.fates(input, false).values.contains(value);
                assert!(calm || self.tree.fates(input, true).values.contains(value), "{input:?}: {value:?}");
                self.values.fetch_add(1, Ordering::Relaxed); // Relaxed: counts, read after joins
            }
            Err(CallError::Ensemble(error)) => {
                assert!(error.members.iter().any(|member| member.outcome.error().is_some()), "{error:#}");
                self.judge_members(&error.members);
            }
            Err(CallError::WorkerDied(error) | CallError::Remote(error)) => self.judge_error(error),
            Err(CallError::ServletDown { .. }) if self.deadly => {}
            Err(other) => panic!("{other}"),
        }
        self.ended.fetch_add(1, Ordering::Relaxed); // Relaxed: as above
    }

    fn judge_members(&self, members: &[ringmill::Member]) {
        for outcome in members.iter().map(|member| &member.outcome) {
            if let MemberOutcome::Failed { error } = outcome {
                self.judge_error(error);
            }
        }
    }

    fn judge_error(&self, error: &RemoteError) {
        match &error.cause {
            RemoteCause::Died { signal: Some(libc::SIGKILL), .. } => {
                assert!(self.killed.lock().expect("no panic").contains(&error.pid), "{error}");
            }
            RemoteCause::Failed { messages, .. } => assert!(messages[0].starts_with("refused"), "{error}"),
            RemoteCause::Ensemble { members } => self.judge_members(members),
            RemoteCause::Down { .. } if self.deadly => {}
            other => panic!("{other:?} in {error}"),
        }
    }

    fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed) // Relaxed: a flag of its own
    }

    fn call(&self, mut dice: Dice) {
        let options = CallOptions::new().backpressure(false).timeout(ENDLESS);
        while !self.is_over() {
            let input = dice.item();
            let outcome = self.server.call_with(&input, options).map(|reply| reply.to_owned());
            self.judge(&input, &outcome);
        }
    }

    /// Calls that often give up before they are answered, at any stage.
    fn call_hastily(&self, mut dice: Dice) {
        while !self.is_over() {
            let input = dice.item();
            let patience = Duration::from_micros(dice.below(3000));
            let options = CallOptions::new().backpressure(false);
            let options = match dice.below(2) {
                0 => options.timeout(patience),
                _ => options.deadline(Instant::now() + patience),
            };
            match self.server.call_with(&input, options).map(|reply| reply.to_owned()) {
                Err(CallError::Timeout { .. } | CallError::ServerBacklogFull { .. }) => {}
                // With a deadline, members may have found it over.
                Err(CallError::Ensemble(_)) => {}
                outcome => self.judge(&input, &outcome),
            }
        }
    }

    /// Requests that are sent, looked at once or twice, and dropped.
    fn drop_futures(&self, mut dice: Dice) {
        let options = CallOptions::new().timeout(ENDLESS);
        while !self.is_over() {
            let (input, polls) = (dice.item(), dice.below(4));
            let mut call = pin!(self.server.call_async_with(&input, options));
            for _ in 0..polls {
                let polled = call.as_mut().poll(&mut TaskContext::from_waker(Waker::noop()));
                if let std::task::Poll::Ready(outcome) = polled {
                    match outcome.map(|reply| reply.to_owned()) {
                        Err(CallError::ServerBacklogFull { .. }) => {}
                        outcome => self.judge(&input, &outcome),
                    }
                    break;
                }
                std::thread::yield_now();
            }
            match self.server.submit_with(&input, options) {
                Ok(pending) => drop(pending),
                Err(CallError::ServerBacklogFull { .. }) => {}
                Err(error) => self.judge(&input, &Err(error)),
            }
            std::thread::sleep(Duration::from_micros(dice.below(500))); // a pace, no more
        }
    }

    /// Streams, every third of which is dropped half-way, and every other is impatient.
    fn stream(&self, mut dice: Dice) {
        let mut round = 0;
        while !self.is_over() {
            round += 1;
            let inputs: Vec<Item> = (0..20 + dice.below(60)).map(|_| dice.item()).collect();
            let asked = if round % 3 == 0 { inputs.len() / 2 } else { inputs.len() + 1 };
            let patience = if round % 2 == 0 { Duration::from_micros(dice.below(5000)) } else { ENDLESS };
            let options = StreamOptions::new().window(16).timeout(patience);
            let stream = self.server.stream_with(inputs.clone(), options);
            let judge = |index: usize, outcome: Outcome| match outcome {
                Err(CallError::Timeout { .. } | CallError::ServerBacklogFull { .. })
                    if patience != ENDLESS => {}
                outcome => self.judge(&inputs[index], &outcome),
            };
            // A stream without patience may also tell that it had no place; then outcomes shift.
            if round % 5 == 0 {
                for item in stream.unordered().take(asked) {
                    match item {
                        Ok((index, outcome)) => judge(index, outcome),
                        Err(error) => self.judge_stream(&error, patience),
                    }
                }
            } else {
                let mut index = 0;
                for item in stream.with_inputs().take(asked) {
                    match item {
                        Ok((input, outcome)) => {
                            assert_eq!(input, inputs[index], "in order");
                            judge(index, outcome);
                            index += 1;
                        }
                        Err(error) => self.judge_stream(&error, patience),
                    }
                }
            }
        }
    }

    fn judge_stream(&self, error: &CallError, patience: Duration) {
        match error {
            CallError::ServerBacklogFull { .. } if patience != ENDLESS => {}
            CallError::ServletDown { .. } if self.deadly => {
                self.ended.fetch_add(1, Ordering::Relaxed); // Relaxed: as in `judge`
            }
            other => panic!("{other}"),
        }
    }

    /// Streams of a task.
    fn stream_asynchronously(&self, mut dice: Dice) {
        while !self.is_over() {
            let inputs: Vec<Item> = (0..30).map(|_| dice.item()).collect();
            let options = StreamOptions::new().window(4).timeout(ENDLESS);
            let asked = dice.below(60) as usize;
            pollster::block_on(async {
                use futures_util::{StreamExt, stream};
                let outcomes = self.server.stream_async_with(stream::iter(inputs.clone()), options);
                let mut outcomes = outcomes.take(asked).enumerate();
                while let Some((index, outcome)) = outcomes.next().await {
                    match outcome {
                        Err(CallError::ServletDown { .. }) if self.deadly => {}
                        outcome => self.judge(&inputs[index], &outcome),
                    }
                }
            });
        }
    }

    fn processes(&self) -> Vec<WorkerStats> {
        let workers = self.server.stats().servlets.into_iter().flat_map(|servlet| servlet.workers);
        workers.filter(|worker| worker.pid != std::process::id()).collect()
    }

    /// Kills each worker process `each` times, at random moments, whatever it is doing.
    fn kill(&self, each: usize, mut dice: Dice) {
        let places = self.processes().len();
        let mut victims: Vec<usize> = (0..places).flat_map(|place| vec![place; each]).collect();
        while !victims.is_empty() {
            let (begun, before) = (Instant::now(), self.ended.load(Ordering::Relaxed));
            let (some, pace) = (dice.below(100), Duration::from_micros(dice.below(20_000)));
            // Once servlets are down nothing takes its time, and what was killed may never come back.
            eventually("the storm goes on", || {
                begun.elapsed() >= pace && self.ended.load(Ordering::Relaxed) >= before + some
            });
            let victim = victims.swap_remove(dice.below(victims.len() as u64) as usize);
            loop {
                let workers = self.processes();
                // One that is away may never come back, if it has been given up.
                let worker = workers.get(victim).filter(|worker| worker.ready);
                let mut killed = self.killed.lock().expect("no panic");
                if worker
                    .is_some_and(|w| !killed.contains(&w.pid) && kill_child(w.pid) && killed.insert(w.pid))
                {
                    break;
                }
                drop(killed);
                if self.deadly && begun.elapsed() > Duration::from_secs(4) {
                    break;
                }
                assert!(begun.elapsed() < Duration::from_secs(60), "the victim is there");
                std::thread::sleep(Duration::from_millis(1)); // how often to look
            }
        }
    }
}

/// Kills a child of ours; false if this pid is not one, or not any more.
fn kill_child(pid: u32) -> bool {
    let Ok(process) = PidFd::open(pid) else { return false };
    let parent = stat_field(pid, 4);
    parent == Some(std::process::id().to_string()) && process.send_signal(libc::SIGKILL).is_ok()
}

fn storm(tree: &Tree, each: usize, seed: u64) {
    let name = Name::new("stormtree");
    let builder = Server::builder(name.text()).capacity(24).max_payload(LARGEST);
    let server = builder.start(tree.servlet()).expect("it starts");
    let storm = Storm {
        tree,
        server: &server,
        deadly: each >= RESTART_LIMIT as usize,
        over: AtomicBool::new(false),
        ended: AtomicU64::new(0),
        values: AtomicU64::new(0),
        killed: Mutex::default(),
    };
    std::thread::scope(|scope| {
        let storm = &storm;
        for thread in 0..2 {
            scope.spawn(move || storm.call(Dice::new(seed + thread)));
            scope.spawn(move || storm.stream(Dice::new(seed + 10 + thread)));
        }
        scope.spawn(move || storm.call_hastily(Dice::new(seed + 20)));
        scope.spawn(move || storm.drop_futures(Dice::new(seed + 21)));
        scope.spawn(move || storm.stream_asynchronously(Dice::new(seed + 22)));
        let killing = scope.spawn(move || storm.kill(each, Dice::new(seed + 30)));
        let killed = killing.join();
        storm.over.store(true, Ordering::Relaxed);
        killed.expect("all kills");
    });
    eprintln!(
        "{} ended, {} values",
        storm.ended.load(Ordering::Relaxed),
        storm.values.load(Ordering::Relaxed)
    );
    eventually("all places come back", || server.backlog() == 0);
    name.assert_consistent();
    assert!(ringmill_shm::pool::in_use(&name.inspect()).iter().all(|&n| n == 0), "blocks are left");
    let mut dice = Dice::new(seed + 40);
    if !storm.deadly {
        eventually("all are back", || storm.processes().iter().all(|worker| worker.ready));
        for _ in 0..200 {
            let input = dice.item();
            let (fates, outcome) = (tree.fates(&input, false), server.call(&input).map(|r| r.to_owned()));
            match &outcome {
                Ok(value) => assert!(fates.values.contains(value), "{input:?}: {value:?}"),
                Err(error) => {
                    assert!(fates.error, "{input:?}: {error}");
                    storm.judge(&input, &outcome);
                }
            }
            // An ensemble that has failed may have late members.
            eventually("its place comes back", || server.backlog() == 0);
        }
    } else {
        for _ in 0..200 {
            let input = dice.item();
            storm.judge(&input, &server.call(&input).map(|reply| reply.to_owned()));
            eventually("its place comes back", || server.backlog() == 0);
        }
    }
    name.assert_consistent();
    assert!(ringmill_shm::pool::in_use(&name.inspect()).iter().all(|&n| n == 0), "blocks are left");
    drop(server);
    name.assert_nothing_left();
}

/// Each worker is killed so many times: often, but soon at work again.
const KILLS: usize = 5;

fn seed() -> u64 {
    std::env::var("STORM_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(1)
}

#[test]
fn a_storm_over_fail_fast_within_keep_errors() {
    guarded_for(Duration::from_secs(300), || storm(&fast_in_keep(), KILLS, seed()));
}

#[test]
fn a_storm_over_keep_errors_within_fail_fast() {
    guarded_for(Duration::from_secs(300), || storm(&keep_in_fast(), KILLS, 1000 + seed()));
}

/// Until every worker has been given up, one after the other.
#[test]
fn a_storm_that_takes_servlets_down() {
    guarded_for(Duration::from_secs(300), || {
        storm(&fast_in_keep(), RESTART_LIMIT as usize + 1, 2000 + seed())
    });
}
