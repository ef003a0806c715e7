//! Trees of servlets whose outcome a plain function computes: the outcome of an item without deaths, and its possible
//! outcomes in a storm.
//!
//! An item begins with the number of its request, which no servlet changes: so a value that went to the wrong caller is
//! a wrong value, and workers can enter in the [`book`](crate::book) what they begin.

use crate::book::{Edition, Pages};
use crate::dice::Dice;
use ringmill::error::RemoteError;
use ringmill::server::Replacement;
use ringmill::servlet::BoxServlet;
use ringmill::{
    Batch, BatchWorker, BoxError, Context, Ensemble, OnDeath, ProcessServlet, Restarts, Servlet, Switch,
    ThreadServlet, Worker,
};
use rkyv::Archived;
use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

/// The payload of a tree.
pub type Item = Vec<u8>;
type Values = Vec<Box<Item>>;
type Results = Vec<Result<Box<Item>, Box<RemoteError>>>;

/// Bytes of a request's number.
const HEAD: usize = 8;
/// The largest payload.
pub const LARGEST: usize = 4096;

/// In the name of a servlet: it retries.
pub(crate) const AGAIN: &str = "+";

/// What a leaf does with an item.
#[derive(Debug, Clone, Copy, PartialEq, Eq, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
pub enum Op {
    /// Answers with the input, where it lies.
    Pass,
    /// Adds to each byte.
    Add(u8),
    /// This many times as long: into blocks of every class.
    Grow(usize),
    /// Refuses one item in this many.
    Refuse(u64),
}

impl Op {
    /// The outcome for an item.
    ///
    /// # Errors
    /// The message for an item that it refuses.
    pub fn apply(self, item: &[u8]) -> Result<Item, String> {
        let (head, body) = item.split_at(item.len().min(HEAD));
        let with = |body: Item| [head, &body].concat();
        match self {
            Self::Refuse(one_in) if hash(item).is_multiple_of(one_in) => Err(format!("refused 1/{one_in}")),
            Self::Pass | Self::Refuse(_) => Ok(item.to_vec()),
            Self::Add(n) => Ok(with(body.iter().map(|byte| byte.wrapping_add(n)).collect())),
            Self::Grow(times) => {
                let length = (body.len() * times).min(LARGEST / 4);
                Ok(with(body.iter().copied().cycle().take(length).collect()))
            }
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Add(_) => "add",
            Self::Grow(_) => "grow",
            Self::Refuse(_) => "refuse",
        }
    }
}

fn hash(item: &[u8]) -> u64 {
    item.iter().fold(7, |sum: u64, &byte| sum.wrapping_mul(31).wrapping_add(byte.into())) >> 3
}

fn request(item: &[u8]) -> u64 {
    item.first_chunk().copied().map_or(0, u64::from_le_bytes)
}

/// A servlet's entries in the book.
#[derive(Debug, Clone, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
pub struct Entries {
    book: String,
    servlet: u32,
    edition: Edition,
}

struct Diary(Option<Pages>, u32, Edition);

impl Diary {
    fn open(entries: &Entries) -> Result<Self, BoxError> {
        Ok(Self(Pages::open(&entries.book)?, entries.servlet, entries.edition))
    }

    /// True in a child that must return at once.
    fn enter(&self, item: &[u8]) -> bool {
        self.0.as_ref().is_some_and(|pages| pages.enter(request(item), self.1, self.2))
    }
}

/// A worker that does an [`Op`].
#[allow(missing_debug_implementations, reason = "no test prints a worker")]
pub struct Leaf(Op, Diary);

impl BatchWorker for Leaf {
    type Config = (Op, Entries);
    type In = Item;
    type Out = Item;

    fn new((op, entries): (Op, Entries), _: &Context) -> Result<Self, BoxError> {
        Ok(Self(op, Diary::open(&entries)?))
    }

    fn call(&mut self, batch: Batch<'_, Self>) -> Result<(), BoxError> {
        for item in batch {
            if self.1.enter(item.input()) {
                return Ok(());
            }
            if item.takes_partials() {
                // A caller that has gone, or a server that stops, is no concern of this test.
                let _ = PARTIALS.iter().try_for_each(|part| item.emit(&partial(item.input(), *part)));
            }
            match (self.0, self.0.apply(item.input())) {
                (Op::Pass | Op::Refuse(_), Ok(_)) => item.pass(),
                (_, Ok(outcome)) => item.reply(outcome),
                (_, Err(message)) => item.fail(BoxError::msg(message)),
            }
        }
        Ok(())
    }
}

/// What each leaf emits, one after the other, for a caller that takes partials.
const PARTIALS: [u64; 2] = [1, 2];

fn partial(input: &[u8], part: u64) -> u64 {
    let number = input.first_chunk().map_or(0, |head| u64::from_le_bytes(*head));
    number << 8 | part
}

/// Whether a request's partials can be these: of each servlet all, in order, and of the last one perhaps only the first
/// ones, since its worker died or the server stopped.
#[must_use]
pub fn are_partials(input: &[u8], partials: &[u64]) -> bool {
    let expected = |index: usize| partial(input, PARTIALS[index % PARTIALS.len()]);
    partials.iter().enumerate().all(|(index, &partial)| partial == expected(index))
}

/// Folds the values of an ensemble into an item.
#[allow(missing_debug_implementations, reason = "no test prints a worker")]
pub struct FoldValues(Diary);

impl Worker for FoldValues {
    type Config = Entries;
    type In = Values;
    type Out = Item;

    fn new(entries: Entries, _: &Context) -> Result<Self, BoxError> {
        Ok(Self(Diary::open(&entries)?))
    }

    fn call(&mut self, values: &Archived<Values>) -> Result<Item, BoxError> {
        if values.iter().take(1).any(|value| self.0.enter(value)) {
            return Ok(Item::new());
        }
        Ok(fold(values.iter().map(|value| Some(value.as_slice()))))
    }
}

/// Folds the results of an ensemble that keeps errors into an item.
#[allow(missing_debug_implementations, reason = "no test prints a worker")]
pub struct FoldResults(Diary);

impl Worker for FoldResults {
    type Config = Entries;
    type In = Results;
    type Out = Item;

    fn new(entries: Entries, _: &Context) -> Result<Self, BoxError> {
        Ok(Self(Diary::open(&entries)?))
    }

    fn call(&mut self, results: &Archived<Results>) -> Result<Item, BoxError> {
        let values = || results.iter().map(|result| result.as_ref().ok().map(|value| value.as_slice()));
        if values().flatten().take(1).any(|value| self.0.enter(value)) {
            return Ok(Item::new());
        }
        Ok(fold(values()))
    }
}

/// The request's number, and each member's hash and length; for a failed member, a mark.
fn fold<'m>(members: impl Iterator<Item = Option<&'m [u8]>>) -> Item {
    let mut folded = vec![0; HEAD];
    for member in members {
        let told = match member {
            Some(bytes) => [hash(bytes).to_le_bytes(), (bytes.len() as u64).to_le_bytes()],
            None => [[0xFF; 8]; 2],
        };
        if let Some(head) = member.and_then(|bytes| bytes.get(..HEAD)) {
            folded[..HEAD].copy_from_slice(head);
        }
        folded.extend(told.concat());
    }
    folded
}

/// Where a servlet's workers run, and how they collect.
#[derive(Debug, Clone, Copy)]
pub struct Crew {
    /// In processes, or in threads of the server's.
    pub processes: bool,
    /// How many.
    pub workers: usize,
    /// Threads of each.
    pub threads: usize,
    /// See `batch_size` of servlets.
    pub batch_size: usize,
    /// The batch window.
    pub window: Option<Duration>,
    /// The policy for requests whose worker dies; none for threads.
    pub on_death: OnDeath,
}

impl Crew {
    /// This many processes that handle items one by one.
    #[must_use]
    pub const fn processes(workers: usize) -> Self {
        Self { processes: true, workers, threads: 1, batch_size: 0, window: None, on_death: OnDeath::Fail }
    }

    /// This many threads of the server's process that handle items one by one.
    #[must_use]
    pub const fn in_threads(workers: usize) -> Self {
        Self { processes: false, ..Self::processes(workers) }
    }

    /// In batches of up to this many items.
    #[must_use]
    pub const fn batches(mut self, items: usize) -> Self {
        self.batch_size = items;
        self
    }

    /// With a batch window.
    #[must_use]
    pub const fn window(mut self, window: Duration) -> Self {
        self.window = Some(window);
        self
    }

    /// With this many threads each.
    #[must_use]
    pub const fn threads(mut self, threads: usize) -> Self {
        self.threads = threads;
        self
    }

    /// With a retry for requests whose worker dies.
    #[must_use]
    pub const fn on_death(mut self, policy: OnDeath) -> Self {
        self.on_death = policy;
        self
    }

    /// Whether requests whose worker dies are retried.
    fn tries_again(self) -> bool {
        self.processes && self.on_death != OnDeath::Fail
    }

    /// How often its code may run for one request.
    fn most_runs(self) -> u8 {
        match self.on_death {
            _ if !self.processes => 1,
            OnDeath::Fail => 1,
            OnDeath::Retry(tries) => 1 + tries,
            // A batch is halved until one request is left, which is then retried this often.
            OnDeath::Bisect(tries) => 1 + tries + self.batch_size.max(1).next_power_of_two().ilog2() as u8,
        }
    }

    /// The servlet of this number, named by its operation; a mark says that it retries.
    fn servlet<W: BatchWorker<Config: Send>>(
        self,
        (does, number): (&str, u32),
        config: W::Config,
        circumstances: &Circumstances<'_>,
    ) -> BoxServlet<W::In, W::Out>
    where
        W::In: Send,
    {
        let mark = if self.tries_again() { AGAIN } else { "" };
        macro_rules! servlet {
            ($servlet:expr) => {{
                let mut servlet = $servlet
                    .name(format!("{does}{mark}-{number}"))
                    .cpus(self.workers)
                    .max_workers(self.workers + circumstances.spare)
                    .stream_threads(self.threads);
                servlet = servlet.batch_size(self.batch_size);
                if let Some(window) = self.window {
                    servlet = servlet.batch_wait_time(window);
                }
                servlet
            }};
        }
        if !self.processes {
            return servlet!(ThreadServlet::<W>::new(config)).boxed();
        }
        let mut servlet = servlet!(ProcessServlet::<W>::new(config));
        servlet = servlet.on_death(self.on_death).restarts(circumstances.restarts);
        if let Some((variable, value)) = circumstances.env {
            servlet = servlet.env(variable, value(number));
        }
        servlet.boxed()
    }
}

/// The settings that all servlets of a tree share.
#[derive(Clone, Copy, Default)]
#[allow(missing_debug_implementations, reason = "a closure has none")]
pub struct Circumstances<'a> {
    /// The book's path; empty: none.
    pub book: &'a str,
    /// How often worker processes are restarted.
    pub restarts: Restarts,
    /// How many workers each servlet may have beyond those that it begins with.
    pub spare: usize,
    /// A variable of worker processes, and its value by the number of their servlet.
    pub env: Option<(&'a str, &'a dyn Fn(u32) -> String)>,
}

/// A tree of servlets from items to items.
#[derive(Debug, Clone)]
pub enum Tree {
    /// One servlet.
    Leaf(Op, Crew),
    /// Servlets one after another.
    Sequence(Vec<Tree>),
    /// An ensemble that fails fast, and the servlet that folds its members' outcomes into an item.
    Fast(Vec<Tree>, Crew),
    /// An ensemble that keeps errors, and its folding servlet.
    Keep(Vec<Tree>, Crew),
    /// A choice by an item's hash.
    Switch(Vec<Tree>),
}

/// The possible outcomes of an item: values, and perhaps an error.
#[derive(Debug, Default, Clone)]
pub struct Fates {
    /// The possible values.
    pub values: BTreeSet<Item>,
    /// Whether an error is possible.
    pub error: bool,
}

impl Tree {
    /// The servlet, whose parts enter their runs in a book.
    ///
    /// Servlets are numbered from the front, a folding servlet before the members; their names end with `-` and the
    /// number.
    #[must_use]
    pub fn servlet(&self, circumstances: &Circumstances<'_>) -> BoxServlet<Item, Item> {
        self.numbered(circumstances, &mut 0)
    }

    fn numbered(&self, circumstances: &Circumstances<'_>, servlets: &mut u32) -> BoxServlet<Item, Item> {
        let mut next = || {
            *servlets += 1;
            Entries { book: circumstances.book.to_owned(), servlet: *servlets - 1, edition: 0 }
        };
        match self {
            Self::Leaf(op, crew) => {
                let entries = next();
                let name = (op.name(), entries.servlet);
                crew.servlet::<Leaf>(name, (*op, entries), circumstances)
            }
            Self::Sequence(stages) => {
                let stages = stages.iter().map(|stage| stage.numbered(circumstances, servlets));
                stages.reduce(|first, next| first.then(next).boxed()).expect("never empty")
            }
            Self::Fast(members, crew) => {
                let entries = next();
                let name = ("fold", entries.servlet);
                let members = members.iter().map(|member| member.numbered(circumstances, servlets));
                let ensemble = Ensemble::each(members.collect::<Vec<_>>());
                ensemble.then(crew.servlet::<FoldValues>(name, entries, circumstances)).boxed()
            }
            Self::Keep(members, crew) => {
                let entries = next();
                let name = ("fold", entries.servlet);
                let members = members.iter().map(|member| member.numbered(circumstances, servlets));
                let ensemble = Ensemble::each(members.collect::<Vec<_>>()).keep_errors();
                ensemble.then(crew.servlet::<FoldResults>(name, entries, circumstances)).boxed()
            }
            Self::Switch(members) => {
                let count = members.len() as u64;
                let choose = move |item: &Archived<Item>| (hash(item) % count) as usize;
                let members = members.iter().map(|member| member.numbered(circumstances, servlets));
                Switch::new(choose, members.collect::<Vec<_>>()).boxed()
            }
        }
    }

    /// How often each servlet's code may run for one request, in the order of the book.
    #[must_use]
    pub fn most_runs(&self) -> Vec<u8> {
        match self {
            Self::Leaf(_, crew) => vec![crew.most_runs()],
            Self::Sequence(parts) | Self::Switch(parts) => parts.iter().flat_map(Self::most_runs).collect(),
            Self::Fast(parts, crew) | Self::Keep(parts, crew) => {
                std::iter::once(crew.most_runs()).chain(parts.iter().flat_map(Self::most_runs)).collect()
            }
        }
    }

    /// What replaces the workers of the servlet of this number by others that do the same and enter another edition in
    /// the book.
    #[must_use]
    pub fn replacement(&self, servlet: u32, book: &str, edition: Edition) -> Option<Replacement> {
        let entries = Entries { book: book.to_owned(), servlet, edition };
        self.replacement_of(&entries, &mut 0)
    }

    fn replacement_of(&self, entries: &Entries, servlets: &mut u32) -> Option<Replacement> {
        let mut is_it = || {
            *servlets += 1;
            *servlets - 1 == entries.servlet
        };
        let by = Replacement::new();
        match self {
            Self::Leaf(op, _) => is_it().then(|| by.config::<Leaf>((*op, entries.clone()))),
            Self::Fast(..) if is_it() => Some(by.config::<FoldValues>(entries.clone())),
            Self::Keep(..) if is_it() => Some(by.config::<FoldResults>(entries.clone())),
            Self::Sequence(parts) | Self::Switch(parts) | Self::Fast(parts, _) | Self::Keep(parts, _) => {
                parts.iter().find_map(|part| part.replacement_of(entries, servlets))
            }
        }
    }

    /// Whether the tree has ensembles.
    #[must_use]
    pub fn has_ensembles(&self) -> bool {
        match self {
            Self::Leaf(..) => false,
            Self::Sequence(parts) | Self::Switch(parts) => parts.iter().any(Self::has_ensembles),
            Self::Fast(..) | Self::Keep(..) => true,
        }
    }

    /// The possible outcomes of an item; in a storm every servlet may also fail it.
    #[must_use]
    pub fn fates(&self, item: &[u8], storm: bool) -> Fates {
        let mut fates = match self {
            Self::Leaf(op, _) => match op.apply(item) {
                Ok(value) => Fates { values: [value].into(), error: false },
                Err(_) => Fates { values: BTreeSet::new(), error: true },
            },
            Self::Sequence(stages) => {
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
            Self::Fast(members, _) => Self::join(members, item, storm, false),
            Self::Keep(members, _) => Self::join(members, item, storm, true),
            Self::Switch(members) => members[(hash(item) % members.len() as u64) as usize].fates(item, storm),
        };
        fates.error |= storm;
        fates
    }

    fn join(members: &[Self], item: &[u8], storm: bool, keep: bool) -> Fates {
        let fates: Vec<Fates> = members.iter().map(|member| member.fates(item, storm)).collect();
        // Every combination of one outcome of each member.
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

    /// Stages, fail-fast within keep-errors, a switch behind processes.
    #[must_use]
    pub fn fast_in_keep() -> Self {
        let inner = Self::Fast(vec![leaf(Op::Add(1), ONE), leaf(Op::Refuse(5), ONE)], ONE);
        Self::Sequence(vec![
            leaf(Op::Add(3), TWO),
            Self::Keep(vec![leaf(Op::Pass, ONE), inner, leaf(Op::Grow(30), THREAD)], ONE),
            Self::Switch(vec![leaf(Op::Pass, ONE), leaf(Op::Grow(9), THREAD), leaf(Op::Refuse(4), ONE)]),
            leaf(Op::Add(5), ONE),
        ])
    }

    /// The reverse, with the ensemble first and a switch within it behind a stage.
    #[must_use]
    pub fn keep_in_fast() -> Self {
        let switch = Self::Switch(vec![leaf(Op::Pass, THREAD), leaf(Op::Grow(20), ONE)]);
        let members = vec![leaf(Op::Refuse(3), ONE), leaf(Op::Pass, THREAD), leaf(Op::Pass, ONE)];
        let inner = Self::Keep(members, THREAD);
        Self::Sequence(vec![
            Self::Fast(
                vec![
                    Self::Sequence(vec![leaf(Op::Add(1), ONE), switch]),
                    Self::Sequence(vec![leaf(Op::Grow(20), THREAD), inner]),
                    leaf(Op::Refuse(9), TWO),
                ],
                ONE,
            ),
            Self::Keep(vec![leaf(Op::Add(1), ONE), leaf(Op::Refuse(6), THREAD)], THREAD),
        ])
    }

    /// One servlet, whose values name their request.
    #[must_use]
    pub fn single(crew: Crew) -> Self {
        leaf(Op::Add(7), crew)
    }

    /// A random tree with worker processes.
    #[must_use]
    pub fn random(dice: &mut Dice) -> Self {
        let stages = (0..1 + dice.below(2)).map(|_| Self::grown(dice, 2)).collect::<Vec<_>>();
        // The first is of processes in any case.
        let crew = *dice.pick(&[ONE, TWO, TWO_AGAIN, Crew::processes(3).batches(4)]);
        Self::Sequence([vec![leaf(Op::Add(3), crew)], stages].concat())
    }

    fn grown(dice: &mut Dice, depth: u64) -> Self {
        let crews = [ONE, ONE, ONE_AGAIN, TWO, THREAD, Crew::processes(1).threads(2)];
        if depth == 0 || dice.below(4) == 0 {
            let ops = [Op::Pass, Op::Add(9), Op::Grow(30), Op::Refuse(6)];
            return leaf(*dice.pick(&ops), *dice.pick(&crews));
        }
        let parts = (0..2 + dice.below(2)).map(|_| Self::grown(dice, depth - 1)).collect();
        // Folding servlets handle items one by one.
        let fold = *dice.pick(&[ONE, ONE_AGAIN, Crew::in_threads(1)]);
        match dice.below(4) {
            0 => Self::Sequence(parts),
            1 => Self::Switch(parts),
            2 => Self::Fast(parts, fold),
            _ => Self::Keep(parts, fold),
        }
    }
}

/// One process, which handles items one by one.
pub const ONE: Crew = Crew::processes(1);
/// Two of them, which make batches.
pub const TWO: Crew = Crew::processes(2).batches(8);
/// A thread.
pub const THREAD: Crew = Crew::in_threads(1).batches(4);
const ONE_AGAIN: Crew = ONE.on_death(OnDeath::Retry(2));
const TWO_AGAIN: Crew = TWO.on_death(OnDeath::Bisect(1));

/// A tree of one servlet.
#[must_use]
pub const fn leaf(op: Op, crew: Crew) -> Tree {
    Tree::Leaf(op, crew)
}

impl fmt::Display for Tree {
    /// In a line: `add x2 > keep(pass, fast(add, refuse))`; servlets in threads stand in capitals.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |f: &mut fmt::Formatter<'_>, parts: &[Self], between: &str| {
            for (index, part) in parts.iter().enumerate() {
                write!(f, "{}{part}", if index == 0 { "" } else { between })?;
            }
            Ok(())
        };
        match self {
            Self::Leaf(op, crew) if crew.processes && crew.workers > 1 => {
                write!(f, "{} x{}", op.name(), crew.workers)
            }
            Self::Leaf(op, crew) if crew.processes => f.write_str(op.name()),
            Self::Leaf(op, _) => f.write_str(&op.name().to_uppercase()),
            Self::Sequence(parts) => list(f, parts, " > "),
            Self::Fast(parts, _) | Self::Keep(parts, _) | Self::Switch(parts) => {
                f.write_str(match self {
                    Self::Fast(..) => "fast(",
                    Self::Keep(..) => "keep(",
                    _ => "switch(",
                })?;
                list(f, parts, ", ")?;
                f.write_str(")")
            }
        }
    }
}

/// An item for a request: most small enough to lie in line, some in blocks.
#[must_use]
pub fn item(request: u64, dice: &mut Dice) -> Item {
    let limit = *dice.pick(&[30, 60, 90, 900]);
    let (length, first) = (dice.below(limit), dice.below(256));
    let body = (0..length).map(|i| (first + i) as u8);
    request.to_le_bytes().into_iter().chain(body).collect()
}
