//! Trees of servlets whose outcomes can be told beforehand: what storms and crash points are tried on.

use ringmill::{
    Batch, BatchWorker, BoxError, BoxServlet, Context, Ensemble, OnDeath, ProcessServlet, RemoteError,
    Restarts, Servlet, Switch, ThreadServlet, Worker,
};
use rkyv::Archived;
use std::cell::Cell;
use std::collections::BTreeSet;
use std::time::Duration;

pub(crate) type Item = Vec<u8>;
pub(crate) type Values = Vec<Box<Item>>;
pub(crate) type Results = Vec<Result<Box<Item>, Box<RemoteError>>>;

/// The longest payload of a tree.
pub(crate) const LARGEST: usize = 4096;

/// What a leaf does with an item.
#[derive(Debug, Clone, Copy, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
pub(crate) enum Op {
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

pub(crate) struct Leaf(Op);

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

pub(crate) struct FoldValues;

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

pub(crate) struct FoldResults;

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
pub(crate) enum Host {
    Process,
    /// Two of them, which make batches.
    Processes,
    /// The same with a batch window.
    Windowed,
    Thread,
}
pub(crate) use Host::{Process, Processes, Thread, Windowed};

/// A variable of a servlet's workers and its value, by the servlet's number in the order of the tree.
pub(crate) type Env = Box<dyn Fn(usize) -> (String, String)>;

/// What all process servlets of a tree are given.
#[derive(Default)]
pub(crate) struct Dress {
    pub(crate) restarts: Restarts,
    pub(crate) on_death: OnDeath,
    /// Servlets are named by their numbers, if it is there.
    pub(crate) env: Option<Env>,
    /// How many servlets have been dressed.
    pub(crate) count: Cell<usize>,
}

impl Dress {
    fn on<W: BatchWorker>(&self, servlet: ProcessServlet<W>) -> ProcessServlet<W> {
        let servlet = servlet.restarts(self.restarts).on_death(self.on_death);
        let number = self.count.replace(self.count.get() + 1);
        match &self.env {
            Some(env) => {
                let (key, value) = env(number);
                servlet.env(key, value).name(format!("p{number}"))
            }
            None => servlet,
        }
    }
}

impl Host {
    fn servlet<W: BatchWorker<Config: Send>>(
        self,
        config: W::Config,
        dress: &Dress,
    ) -> BoxServlet<W::In, W::Out>
    where
        W::In: Send,
    {
        let window = Duration::from_micros(500);
        if self == Thread {
            return ThreadServlet::<W>::new(config).batch_size(4).boxed();
        }
        let servlet = dress.on(ProcessServlet::<W>::new(config));
        match self {
            Processes => servlet.cpus(2).batch_size(8).boxed(),
            Windowed => servlet.cpus(2).batch_size(8).batch_wait_time(window).boxed(),
            _ => servlet.boxed(),
        }
    }
}

pub(crate) enum Tree {
    Leaf(Op, Host),
    Sequence(Vec<Tree>),
    /// Members, what folds their outcomes into an item.
    Fast(Vec<Tree>, Host),
    /// The same, errors kept.
    Keep(Vec<Tree>, Host),
    /// By an item's hash.
    Switch(Vec<Tree>),
}
pub(crate) use Tree::{Fast, Keep, Sequence};

/// What may become of an item: values, or also an error.
#[derive(Debug, Default, Clone)]
pub(crate) struct Fates {
    pub(crate) values: BTreeSet<Item>,
    pub(crate) error: bool,
}

impl Tree {
    pub(crate) fn servlet(&self, dress: &Dress) -> BoxServlet<Item, Item> {
        let all = |members: &[Self]| members.iter().map(|member| member.servlet(dress)).collect::<Vec<_>>();
        match self {
            Self::Leaf(op, host) => host.servlet::<Leaf>(*op, dress),
            Sequence(stages) => {
                let stages = stages.iter().map(|stage| stage.servlet(dress));
                stages.reduce(|first, next| first.then(next).boxed()).expect("never empty")
            }
            Fast(members, host) => {
                Ensemble::each(all(members)).then(host.servlet::<FoldValues>((), dress)).boxed()
            }
            Keep(members, host) => {
                let ensemble = Ensemble::each(all(members)).keep_errors();
                ensemble.then(host.servlet::<FoldResults>((), dress)).boxed()
            }
            Self::Switch(members) => {
                let count = members.len() as u64;
                let choose = move |item: &Archived<Item>| (hash(item) % count) as usize;
                Switch::new(choose, all(members)).boxed()
            }
        }
    }

    /// What becomes of an item; in a storm every servlet may fail it besides.
    pub(crate) fn fates(&self, item: &[u8], storm: bool) -> Fates {
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

pub(crate) fn leaf(op: Op, host: Host) -> Tree {
    Tree::Leaf(op, host)
}

/// A sequence of numbers that looks random (Marsaglia's xorshift).
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        let mut dice = Self(0x9E37_79B9_7F4A_7C15 ^ seed.wrapping_mul(0x2545_F491_4F6C_DD1D));
        dice.below(1);
        dice
    }

    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }

    /// Most small enough to lie in line, some in blocks.
    pub(crate) fn item(&mut self) -> Item {
        let limit = [60, 90, 900][self.below(3) as usize];
        let (length, first) = (1 + self.below(limit), self.below(256));
        (0..length).map(|i| (first + i) as u8).collect()
    }
}
