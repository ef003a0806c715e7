//! Random trees of servlets give exactly the outcomes of a plain function that interprets the tree: item by item, errors
//! included, and nothing is left in the segment.

use proptest::prelude::*;
use ringmill::error::{MemberOutcome, RemoteCause, RemoteError};
use ringmill::servlet::BoxServlet;
use ringmill::{
    Batch, BatchWorker, BoxError, CallError, Context, Ensemble, ProcessServlet, Server, Servlet, Switch,
    ThreadServlet, Worker,
};
use ringmill_shm::check::check;
use ringmill_shm::segment::{Location, Segment};
use ringmill_tests::host::only_threads;
use ringmill_tests::{fresh_name, wait_until};
use rkyv::Archived;
use std::fmt;

type Item = Vec<i64>;
type Values = Vec<Box<Item>>;
type Results = Vec<Result<Box<Item>, Box<RemoteError>>>;

ringmill::init!(Leaf, FoldValues, FoldResults);

/// What a leaf does with an item.
#[derive(Debug, Clone, Copy, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
enum Op {
    Pass,
    Add(i64),
    Reverse,
    /// This many times as long, up to some kilobytes.
    Repeat(u8),
    /// Refuses items whose sum, divided by the first number, leaves the second.
    FailIf(u8, u8),
    PanicIf(u8, u8),
}

const LONGEST: usize = 600;

impl Op {
    fn apply(self, item: &[i64]) -> Result<Item, String> {
        let hit = |m: u8, r: u8| sum(item).rem_euclid(i64::from(m)) == i64::from(r);
        match self {
            Self::FailIf(m, r) if hit(m, r) => Err(format!("refused by {m}, {r}")),
            Self::PanicIf(m, r) if hit(m, r) => Err(format!("struck by {m}, {r}")),
            Self::Pass | Self::FailIf(..) | Self::PanicIf(..) => Ok(item.to_vec()),
            Self::Add(n) => Ok(item.iter().map(|x| x.wrapping_add(n)).collect()),
            Self::Reverse => Ok(item.iter().rev().copied().collect()),
            Self::Repeat(times) => {
                let length = (item.len() * usize::from(times)).min(LONGEST);
                Ok(item.iter().copied().cycle().take(length).collect())
            }
        }
    }
}

fn sum(item: &[i64]) -> i64 {
    item.iter().fold(0, |a, &b| a.wrapping_mul(31).wrapping_add(b))
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
            let input: Vec<i64> = item.input().iter().map(|x| x.to_native()).collect();
            match (self.0, self.0.apply(&input)) {
                (Op::Pass, _) => item.pass(),
                (_, Ok(outcome)) => item.reply(outcome),
                // A panic hits whatever is left of the batch, so it is only used item by item.
                (Op::PanicIf(..), Err(message)) => panic!("{message}"),
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
        let native = |v: &Archived<Item>| v.iter().map(|x| x.to_native()).collect::<Item>();
        Ok(fold(values.iter().map(|v| Some(native(v)))))
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
        let native = |v: &Archived<Item>| v.iter().map(|x| x.to_native()).collect::<Item>();
        Ok(fold(results.iter().map(|r| r.as_ref().ok().map(|v| native(v)))))
    }
}

/// Each member's sum and length; for a failed member, a mark.
fn fold(members: impl Iterator<Item = Option<Item>>) -> Item {
    members.flat_map(|m| m.map_or([-1, -1], |m| [sum(&m), m.len() as i64])).collect()
}

/// Where a servlet's workers run, and how they collect.
#[derive(Debug, Clone, Copy)]
struct Crew {
    process: bool,
    workers: usize,
    batch_size: usize,
}

#[derive(Clone)]
enum Tree {
    Leaf(Op, Crew),
    Sequence(Vec<Tree>),
    /// Its members, whether errors are kept, and the servlet that folds the outcomes into an item.
    Ensemble(Vec<Tree>, bool, Crew),
    /// Its members, and the number that an item's sum is divided by: more than there are members, at times.
    Switch(Vec<Tree>, u8),
}

impl fmt::Debug for Tree {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Leaf(op, crew) => {
                let host = if crew.process { 'p' } else { 't' };
                write!(f, "{op:?}@{host}{}x{}", crew.workers, crew.batch_size)
            }
            Self::Sequence(stages) => f.debug_list().entries(stages).finish(),
            Self::Ensemble(members, keep, fold) => f
                .debug_tuple(if *keep { "Keep" } else { "Fast" })
                .field(members)
                .field(&fold.process)
                .finish(),
            Self::Switch(members, modulus) => f.debug_tuple("Switch").field(modulus).field(members).finish(),
        }
    }
}

/// The expected outcome of an item.
#[derive(Debug, Clone)]
enum Expected {
    Value(Item),
    /// An error of a leaf, with this message.
    Failed(String),
    NoSuchMember(u64),
    /// An ensemble's error: what each member's part must be if the error has it.
    Ensemble(Vec<Expected>),
}

impl Tree {
    fn servlet(&self) -> BoxServlet<Item, Item> {
        match self {
            Self::Leaf(op, crew) => crew.servlet::<Leaf>(*op),
            Self::Sequence(stages) => {
                let stages = stages.iter().map(Self::servlet);
                stages.reduce(|first, next| first.then(next).boxed()).expect("never empty")
            }
            Self::Ensemble(members, false, crew) => {
                let members = Ensemble::each(members.iter().map(Self::servlet));
                members.then(crew.servlet::<FoldValues>(())).boxed()
            }
            Self::Ensemble(members, true, crew) => {
                let members = Ensemble::each(members.iter().map(Self::servlet)).keep_errors();
                members.then(crew.servlet::<FoldResults>(())).boxed()
            }
            Self::Switch(members, modulus) => {
                let modulus = i64::from(*modulus);
                let choose = move |item: &Archived<Item>| {
                    let native: Item = item.iter().map(|x| x.to_native()).collect();
                    sum(&native).rem_euclid(modulus) as usize
                };
                Switch::new(choose, members.iter().map(Self::servlet).collect::<Vec<_>>()).boxed()
            }
        }
    }

    fn interpret(&self, item: &Item) -> Expected {
        match self {
            Self::Leaf(op, _) => op.apply(item).map_or_else(Expected::Failed, Expected::Value),
            Self::Sequence(stages) => {
                stages.iter().fold(Expected::Value(item.clone()), |so_far, stage| match so_far {
                    Expected::Value(item) => stage.interpret(&item),
                    error => error,
                })
            }
            Self::Ensemble(members, keep, _) => {
                let outcomes: Vec<Expected> = members.iter().map(|member| member.interpret(item)).collect();
                let value = |e: &Expected| match e {
                    Expected::Value(item) => Some(item.clone()),
                    _ => None,
                };
                let failed = outcomes.iter().filter(|e| value(e).is_none()).count();
                if failed == members.len() || !keep && failed > 0 {
                    return Expected::Ensemble(outcomes);
                }
                Expected::Value(fold(outcomes.iter().map(value)))
            }
            Self::Switch(members, modulus) => {
                let index = sum(item).rem_euclid(i64::from(*modulus)) as usize;
                match members.get(index) {
                    Some(member) => member.interpret(item),
                    None => Expected::NoSuchMember(index as u64),
                }
            }
        }
    }
}

impl Crew {
    fn servlet<W: BatchWorker<Config: Send>>(self, config: W::Config) -> BoxServlet<W::In, W::Out>
    where
        W::In: Send,
    {
        if self.process {
            ProcessServlet::<W>::new(config).cpus(self.workers).batch_size(self.batch_size).boxed()
        } else {
            ThreadServlet::<W>::new(config).cpus(self.workers).batch_size(self.batch_size).boxed()
        }
    }
}

/// Whether an error is the expected one. In an ensemble that fails fast, any member may have failed first.
fn agrees(expected: &Expected, cause: &RemoteCause) -> bool {
    match (expected, cause) {
        (Expected::Failed(text), RemoteCause::Failed { messages, .. }) => {
            messages == std::slice::from_ref(text)
        }
        (Expected::Failed(text), RemoteCause::Panicked { message, .. }) => message.starts_with(text.as_str()),
        (Expected::NoSuchMember(wanted), RemoteCause::NoSuchMember { index, .. }) => wanted == index,
        (Expected::Ensemble(expected), RemoteCause::Ensemble { members }) => agree(expected, members),
        _ => false,
    }
}

fn agree(expected: &[Expected], members: &[ringmill::error::Member]) -> bool {
    let outcomes = members.iter().map(|member| &member.outcome);
    expected.len() == members.len()
        && outcomes.clone().any(|outcome| outcome.error().is_some())
        && expected.iter().zip(outcomes).all(|(expected, outcome)| match (expected, outcome) {
            (Expected::Value(item), MemberOutcome::Value { .. }) => {
                outcome.value::<Item>().is_none_or(|value| value == *item)
            }
            (expected, MemberOutcome::Failed { error }) => agrees(expected, &error.cause),
            (_, MemberOutcome::Unfinished) => true,
            _ => false,
        })
}

fn holds(expected: &Expected, outcome: &Result<Item, CallError>) -> bool {
    match (expected, outcome) {
        (Expected::Value(item), Ok(value)) => item == value,
        (expected, Err(CallError::Remote(error))) => agrees(expected, &error.cause),
        (Expected::Ensemble(expected), Err(CallError::Ensemble(error))) => agree(expected, &error.members),
        _ => false,
    }
}

fn crews() -> impl Strategy<Value = Crew> {
    (any::<bool>(), 1..=2_usize, prop_oneof![Just(0), Just(1), Just(2), Just(16)]).prop_map(
        |(process, workers, batch_size)| Crew { process: process && !only_threads(), workers, batch_size },
    )
}

fn leaves() -> impl Strategy<Value = Tree> {
    let ops = prop_oneof![
        2 => Just(Op::Pass),
        3 => (-9..9_i64).prop_map(Op::Add),
        1 => Just(Op::Reverse),
        2 => (2..40_u8).prop_map(Op::Repeat),
        2 => (2..6_u8, 0..6_u8).prop_map(|(m, r)| Op::FailIf(m, r)),
        1 => (3..6_u8, 0..6_u8).prop_map(|(m, r)| Op::PanicIf(m, r)),
    ];
    (ops, crews()).prop_map(|(op, mut crew)| {
        if let Op::PanicIf(..) = op {
            crew.batch_size = 0;
        }
        Tree::Leaf(op, crew)
    })
}

fn trees() -> impl Strategy<Value = Tree> {
    leaves().prop_recursive(4, 10, 3, |inner| {
        let several = proptest::collection::vec(inner, 1..=3);
        prop_oneof![
            several.clone().prop_map(Tree::Sequence),
            (several.clone(), any::<bool>(), crews())
                .prop_map(|(m, keep, fold)| Tree::Ensemble(m, keep, fold)),
            (several, 1..4_u8).prop_map(|(members, modulus)| Tree::Switch(members, modulus)),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: if std::env::var_os("PROPTEST_CASES").is_none() { 32 } else { ProptestConfig::default().cases },
        max_shrink_iters: 200,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn a_tree_does_what_its_interpreter_does(
        tree in trees(),
        items in proptest::collection::vec(proptest::collection::vec(-50..50_i64, 0..20), 1..40),
        capacity in prop_oneof![Just(1_usize), Just(3), Just(64)],
    ) {
        let name = fresh_name("tree");
        let server = Server::builder(&*name).capacity(capacity).start(tree.servlet()).unwrap();
        for (item, outcome) in items.iter().zip(server.stream(items.clone())) {
            let expected = tree.interpret(item);
            prop_assert!(holds(&expected, &outcome), "{item:?}: {expected:?} but {outcome:?}");
        }
        for item in items.iter().take(3) {
            let outcome = loop {
                // Late members of a former item may still hold the only permit.
                match server.call(item) {
                    Err(CallError::ServerBacklogFull { .. }) => std::thread::yield_now(),
                    outcome => break outcome.and_then(|reply| reply.into_owned()),
                }
            };
            let expected = tree.interpret(item);
            prop_assert!(holds(&expected, &outcome), "{item:?}: {expected:?} but {outcome:?}");
        }
        // Late members end by themselves; then every permit has come back.
        wait_until("every permit is back", || server.backlog() == 0);
        let segment = Segment::inspect(Location::named(&name).unwrap()).unwrap();
        prop_assert_eq!(check(&segment), []);
        prop_assert!(ringmill_shm::pool::in_use(&segment).iter().all(|&n| n == 0));
    }
}
