//! A value that compiles as a payload comes back as it was: from workers in threads and in processes, which deserialise each
//! input and answer with the value, by calls, streams and ensembles.

use proptest::collection::{btree_map, hash_map, vec};
use proptest::option;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::{Config, TestRunner};
use ringmill::error::{RemoteCause, RemoteError};
use ringmill::{
    BoxError, CallError, Context, Ensemble, PassThrough, Payload, ProcessServlet, Server, Servlet,
    ThreadServlet, Worker,
};
use ringmill_tests::guard::guarded;
use ringmill_tests::name::Name;
use rkyv::api::low::{LowDeserializer, deserialize};
use rkyv::rancor::{Error, Fallible, Source};
use rkyv::string::{ArchivedString, StringResolver};
use rkyv::with::{
    AsBox, AsString, AsUnixTime, AsVec, AtomicLoad, DefaultNiche, Lock, Map, Niche, NicheInto, Relaxed, Skip,
};
use rkyv::{Archive, Archived, Deserialize, Place, Serialize};
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::ffi::{CString, OsString};
use std::fmt::Debug;
use std::marker::PhantomData;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::num::*;
use std::ops::{Bound, Range, RangeFrom, RangeFull, RangeInclusive, RangeTo, RangeToInclusive};
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

/// Makes a value of each input, and answers with it.
struct Echo<T>(PhantomData<fn() -> T>);

/// Payloads that [`Echo`] can deserialise.
trait Kind: Payload<Archived: Deserialize<Self, LowDeserializer<Error>>> + Send {}
impl<T: Payload<Archived: Deserialize<Self, LowDeserializer<Error>>> + Send> Kind for T {}

impl<T: Kind> Worker for Echo<T> {
    type Config = ();
    type In = T;
    type Out = T;

    fn new((): (), _: &Context) -> Result<Self, BoxError> {
        Ok(Self(PhantomData))
    }

    fn call(&mut self, input: &Archived<T>) -> Result<T, BoxError> {
        Ok(deserialize::<T, Error>(input)?)
    }
}

fn start<S: Servlet>(test: &str, servlet: S) -> Server<S::In, S::Out> {
    let name = Name::new(test).text();
    Server::builder(name).capacity(8).max_payload(64 << 10).start(servlet).expect("it starts")
}

/// Sends lists of values through calls, streams and ensembles, and compares the outcomes by `same`.
fn come_back<T: Kind + Debug, S: Strategy<Value = T>>(
    values: impl FnOnce() -> S + Send + 'static,
    same: fn(&T, &T) -> bool,
) {
    guarded(move || {
        let echo = || ThreadServlet::<Echo<T>>::new(());
        let pass = || ThreadServlet::<PassThrough<T>>::new(());
        let threads = start("threads", echo());
        let processes = start("processes", ProcessServlet::<Echo<T>>::new(()));
        let both = start("both", Ensemble::of((echo(), pass())));
        let each = start("each", Ensemble::each([echo(), echo()]).keep_errors());
        let mut runner =
            TestRunner::new(Config { cases: 32, failure_persistence: None, ..Config::default() });
        let tried = runner.run(&vec(values(), 1..6), |values| {
            let is_same = |value: &T, back: &T| {
                prop_assert!(same(value, back), "sent {value:?}, came back as {back:?}");
                Ok(())
            };
            let mut again = Vec::new();
            for value in &values {
                is_same(value, &threads.call(value).unwrap().into_owned().unwrap())?;
                is_same(value, &processes.call(value).unwrap().into_owned().unwrap())?;
                let (echoed, passed) = both.call(value).unwrap().into_owned().unwrap();
                is_same(value, &echoed)?;
                is_same(value, &passed)?;
                for back in each.call(value).unwrap().into_owned().unwrap() {
                    is_same(value, &back.expect("no member fails"))?;
                }
                again.push(*echoed);
            }
            let streamed: Vec<T> = processes.stream(again).collect::<Result<_, _>>().unwrap();
            prop_assert_eq!(streamed.len(), values.len());
            for (value, back) in values.iter().zip(&streamed) {
                is_same(value, back)?;
            }
            Ok(())
        });
        tried.unwrap_or_else(|failed| panic!("{failed}"));
    });
}

macro_rules! kinds {
    ($($name:ident: $type:ty = $values:expr;)+) => {
        ringmill::init!($(Echo<$type>),+);
        $(
            #[test]
            fn $name() {
                come_back::<$type, _>(|| $values, PartialEq::eq);
            }
        )+
    };
}

/// Any value, the smallest and largest more often than by chance.
macro_rules! ends {
    ($type:ty) => {
        prop_oneof![Just(<$type>::MIN), Just(<$type>::MAX), any::<$type>()]
    };
}

/// Numbers on both sides of 32 bits, and the ends.
fn sizes() -> impl Strategy<Value = usize> + Clone {
    let near = |edge: usize| edge - 2..edge + 2;
    prop_oneof![near(1 << 31), near(1 << 32), Just(1 << 33), Just(0), Just(usize::MAX), any::<usize>()]
}

fn offsets() -> impl Strategy<Value = isize> + Clone {
    let near = |edge: isize| edge - 2..edge + 2;
    prop_oneof![
        near(1 << 31),
        near(-(1 << 31)),
        near(1 << 32),
        Just(isize::MIN),
        Just(isize::MAX),
        any::<isize>()
    ]
}

fn nonzero() -> impl Strategy<Value = NonZeroUsize> + Clone {
    sizes().prop_map(|size| NonZeroUsize::new(size.max(1)).expect("not zero"))
}

fn text() -> impl Strategy<Value = String> + Clone {
    // Lengths on both sides of those that lie in the reference itself.
    prop_oneof!["[a-zü]{0,4}", "[a-z]{14,18}", "\\PC{0,60}"]
}

fn name() -> impl Strategy<Value = CString> {
    vec(1..=u8::MAX, 0..40).prop_map(|bytes| CString::new(bytes).expect("no zero"))
}

fn float() -> impl Strategy<Value = Bits> {
    let special = [f64::NAN, -f64::NAN, f64::INFINITY, -0.0, f64::MIN_POSITIVE / 2.0, f64::MAX];
    let special = proptest::sample::select(special.map(f64::to_bits).to_vec());
    (prop_oneof![special, any::<u64>()], any::<u32>())
        .prop_map(|(double, single)| Bits { double: f64::from_bits(double), single: f32::from_bits(single) })
}

fn address() -> impl Strategy<Value = IpAddr> + Clone {
    prop_oneof![
        any::<u32>().prop_map(|bits| IpAddr::V4(Ipv4Addr::from_bits(bits))),
        any::<u128>().prop_map(|bits| IpAddr::V6(Ipv6Addr::from_bits(bits))),
    ]
}

fn socket() -> impl Strategy<Value = SocketAddr> {
    let v6 = (any::<u128>(), any::<u16>(), any::<u32>(), any::<u32>());
    prop_oneof![
        (address(), any::<u16>()).prop_map(|(address, port)| SocketAddr::new(address, port)),
        v6.prop_map(
            |(ip, port, flow, scope)| SocketAddrV6::new(Ipv6Addr::from_bits(ip), port, flow, scope).into()
        ),
    ]
}

/// Numbers that are equal if their bits are.
#[derive(Debug, Clone, Copy, Archive, Serialize, Deserialize)]
struct Bits {
    double: f64,
    single: f32,
}

impl PartialEq for Bits {
    fn eq(&self, other: &Self) -> bool {
        (self.double.to_bits(), self.single.to_bits()) == (other.double.to_bits(), other.single.to_bits())
    }
}

#[derive(Debug, Clone, PartialEq, Archive, Serialize, Deserialize)]
struct Unit;

/// No byte of it is a gap: rkyv may copy it as it lies.
#[derive(Debug, Clone, Copy, PartialEq, Archive, Serialize, Deserialize)]
struct Dense {
    long: u64,
    short: [u16; 4],
}

/// Its gaps lie elsewhere than those of its archived form may.
#[derive(Debug, Clone, PartialEq, Archive, Serialize, Deserialize)]
struct Gaps<T> {
    small: u8,
    large: T,
    flag: bool,
    letter: char,
    wide: u128,
}

#[derive(Debug, Clone, PartialEq, Archive, Serialize, Deserialize)]
enum Shape {
    Nothing,
    One(usize),
    Named { text: String, sizes: Vec<usize> },
    Many(Box<[Option<Shapeless>]>),
}

#[derive(Debug, Clone, PartialEq, Archive, Serialize, Deserialize)]
enum Shapeless {
    A,
    B(u128),
}

fn shape() -> impl Strategy<Value = Shape> {
    let shapeless = prop_oneof![Just(Shapeless::A), any::<u128>().prop_map(Shapeless::B)];
    prop_oneof![
        Just(Shape::Nothing),
        sizes().prop_map(Shape::One),
        (text(), vec(sizes(), 0..5)).prop_map(|(text, sizes)| Shape::Named { text, sizes }),
        vec(option::of(shapeless), 0..5).prop_map(|many| Shape::Many(many.into())),
    ]
}

/// A tree within itself.
#[derive(Debug, Clone, PartialEq, Archive, Serialize, Deserialize)]
#[rkyv(serialize_bounds(__S: rkyv::ser::Writer + rkyv::ser::Allocator, __S::Error: rkyv::rancor::Source))]
#[rkyv(deserialize_bounds(__D::Error: rkyv::rancor::Source))]
#[rkyv(bytecheck(bounds(__C: rkyv::validation::ArchiveContext, __C::Error: rkyv::rancor::Source)))]
struct Tree {
    size: usize,
    #[rkyv(omit_bounds)]
    children: Vec<Tree>,
}

fn tree() -> impl Strategy<Value = Tree> {
    let leaf = sizes().prop_map(|size| Tree { size, children: Vec::new() });
    leaf.prop_recursive(4, 20, 3, |inner| {
        (sizes(), vec(inner, 0..4)).prop_map(|(size, children)| Tree { size, children })
    })
}

/// Fields that rkyv archives in another way than their types'.
#[derive(Debug, Archive, Serialize, Deserialize)]
struct Wrapped {
    #[rkyv(with = AsString)]
    path: PathBuf,
    #[rkyv(with = AsString)]
    name: OsString,
    #[rkyv(with = Niche)]
    nonzero: Option<NonZeroUsize>,
    #[rkyv(with = Niche)]
    boxed: Option<Box<u8>>,
    #[rkyv(with = DefaultNiche)]
    flag: Option<bool>,
    #[rkyv(with = NicheInto<rkyv::niche::niching::Zero>)]
    number: Option<NonZeroI64>,
    #[rkyv(with = AtomicLoad<Relaxed>)]
    atomic: AtomicUsize,
    #[rkyv(with = Lock)]
    locked: Mutex<Vec<usize>>,
    #[rkyv(with = AsUnixTime)]
    time: SystemTime,
    #[rkyv(with = AsVec)]
    map: HashMap<usize, String>,
    #[rkyv(with = AsBox)]
    far: usize,
    #[rkyv(with = Map<AsString>)]
    paths: Vec<PathBuf>,
    #[rkyv(with = Skip)]
    skipped: u8,
}

impl PartialEq for Wrapped {
    fn eq(&self, other: &Self) -> bool {
        let of = |it: &Self| {
            let locked = it.locked.lock().unwrap().clone();
            let fields = (it.path.clone(), it.name.clone(), it.nonzero, it.boxed.clone(), it.flag, it.number);
            let others = (it.time, it.map.clone(), it.far, it.paths.clone(), it.skipped);
            (fields, it.atomic.load(Ordering::Relaxed), locked, others)
        };
        of(self) == of(other)
    }
}

fn wrapped() -> impl Strategy<Value = Wrapped> {
    let names = (text(), text(), vec(text(), 0..4));
    let numbers = (option::of(nonzero()), any::<Option<u8>>(), any::<Option<bool>>(), any::<Option<i64>>());
    let insides = (sizes(), vec(sizes(), 0..5), any::<u64>(), hash_map(sizes(), text(), 0..5), sizes());
    (names, numbers, insides).prop_map(|(names, numbers, (atomic, locked, nanos, map, far))| Wrapped {
        path: names.0.into(),
        name: names.1.into(),
        nonzero: numbers.0,
        boxed: numbers.1.map(Box::new),
        flag: numbers.2,
        number: numbers.3.and_then(NonZeroI64::new),
        atomic: AtomicUsize::new(atomic),
        locked: Mutex::new(locked),
        time: SystemTime::UNIX_EPOCH + Duration::from_nanos(nanos),
        map,
        far,
        paths: names.2.into_iter().map(Into::into).collect(),
        skipped: 0,
    })
}

type Nonzero = (
    (NonZeroU8, NonZeroU16, NonZeroU32, NonZeroU64, NonZeroU128, NonZeroUsize),
    (NonZeroI8, NonZeroI16, NonZeroI32, NonZeroI64, NonZeroI128, NonZeroIsize),
);

fn all_nonzero() -> impl Strategy<Value = Nonzero> {
    (any::<[u128; 2]>(), any::<bool>()).prop_map(|([a, b], most)| {
        macro_rules! of {
            ($type:ident, $bits:expr, $most:expr) => {
                $type::new(if most { $most } else { $bits as _ }).unwrap_or($type::MIN)
            };
        }
        (
            (
                of!(NonZeroU8, a, u8::MAX),
                of!(NonZeroU16, a, u16::MAX),
                of!(NonZeroU32, a, u32::MAX),
                of!(NonZeroU64, a, u64::MAX),
                of!(NonZeroU128, a, u128::MAX),
                of!(NonZeroUsize, a, usize::MAX),
            ),
            (
                of!(NonZeroI8, b, i8::MIN),
                of!(NonZeroI16, b, i16::MIN),
                of!(NonZeroI32, b, i32::MIN),
                of!(NonZeroI64, b, i64::MIN),
                of!(NonZeroI128, b, i128::MIN),
                of!(NonZeroIsize, b, isize::MIN),
            ),
        )
    })
}

type Ranges = (
    Range<usize>,
    RangeInclusive<isize>,
    RangeFrom<usize>,
    RangeTo<usize>,
    RangeToInclusive<u128>,
    RangeFull,
    [Bound<usize>; 3],
);

fn ranges() -> impl Strategy<Value = Ranges> {
    (sizes(), sizes(), offsets(), offsets(), any::<u128>()).prop_map(|(a, b, c, d, e)| {
        (a..b, c..=d, a.., ..b, ..=e, .., [Bound::Included(a), Bound::Excluded(b), Bound::Unbounded])
    })
}

type Narrow = (u8, i8, u16, i16, u32, i32);
type Wide = (u64, i64, u128, i128, usize, isize);
type Maps =
    (BTreeMap<String, usize>, HashMap<usize, Vec<usize>>, BTreeSet<i16>, HashSet<String>, VecDeque<usize>);
type Boxes = (Box<usize>, Box<str>, Box<[usize]>, Box<Box<String>>, Box<()>);
type Options = (
    Option<usize>,
    Option<Option<u8>>,
    Option<NonZeroUsize>,
    Result<usize, String>,
    Option<()>,
    Option<char>,
);
type Empty = (Vec<usize>, [u64; 0], String, PhantomData<u8>, Unit, Vec<()>);

fn maps() -> impl Strategy<Value = Maps> {
    let sets =
        (proptest::collection::btree_set(any::<i16>(), 0..20), proptest::collection::hash_set(text(), 0..9));
    let maps = (btree_map(text(), sizes(), 0..20), hash_map(sizes(), vec(sizes(), 0..4), 0..9));
    (maps, sets, vec(sizes(), 0..9))
        .prop_map(|(maps, sets, list)| (maps.0, maps.1, sets.0, sets.1, list.into()))
}

fn boxes() -> impl Strategy<Value = Boxes> {
    (sizes(), text(), vec(sizes(), 0..9), text()).prop_map(|(size, text, list, inner)| {
        (Box::new(size), text.into(), list.into(), Box::new(Box::new(inner)), Box::new(()))
    })
}

fn options() -> impl Strategy<Value = Options> {
    let nonzero = option::of(nonzero());
    let result = prop_oneof![sizes().prop_map(Ok), text().prop_map(Err)];
    (
        option::of(sizes()),
        any::<Option<Option<u8>>>(),
        nonzero,
        result,
        any::<Option<()>>(),
        any::<Option<char>>(),
    )
}

kinds! {
    narrow_integers: Narrow = (ends!(u8), ends!(i8), ends!(u16), ends!(i16), ends!(u32), ends!(i32));
    wide_integers: Wide = (ends!(u64), ends!(i64), ends!(u128), ends!(i128), sizes(), offsets());
    usize_alone: usize = sizes();
    isize_alone: isize = offsets();
    u128_alone: u128 = ends!(u128);
    nonzero_alone: NonZeroUsize = nonzero();
    nonzero_of_all_widths: Nonzero = all_nonzero();
    an_optional_nonzero: Option<NonZeroUsize> = option::of(nonzero());
    vectors_of_usize: Vec<usize> = vec(sizes(), 0..40);
    arrays_of_isize: [isize; 5] = proptest::array::uniform5(offsets());
    ranges_of_all_kinds: Ranges = ranges();
    a_range_alone: Range<usize> = (sizes(), sizes()).prop_map(|(a, b)| a..b);
    floats_to_the_bit: Bits = float();
    a_bool: bool = any::<bool>();
    a_char: char = any::<char>();
    nothing_at_all: () = Just(());
    text_alone: String = text();
    text_of_c: CString = name();
    lists_of_text: Vec<Vec<String>> = vec(vec(text(), 0..4), 0..4);
    sets_and_maps: Maps = maps();
    boxes_of_all_kinds: Boxes = boxes();
    options_and_results: Options = options();
    durations: Vec<Duration> = vec((any::<u64>(), 0..1_000_000_000_u32).prop_map(|(s, n)| Duration::new(s, n)), 0..5);
    addresses: (IpAddr, SocketAddr) = (address(), socket());
    a_unit: Unit = Just(Unit);
    a_struct_without_gaps: Dense = any::<(u64, [u16; 4])>().prop_map(|(long, short)| Dense { long, short });
    a_struct_with_gaps: Gaps<Option<usize>> = (any::<(u8, bool, char, u128)>(), option::of(sizes()))
        .prop_map(|((small, flag, letter, wide), large)| Gaps { small, large, flag, letter, wide });
    an_enum: Shape = shape();
    lists_of_enums: Vec<Shape> = vec(shape(), 0..5);
    a_tree: Tree = tree();
    fields_with_wrappers: Wrapped = wrapped();
    what_is_empty: Empty = (0..9_usize).prop_map(|n| (vec![], [], String::new(), PhantomData, Unit, vec![(); n]));
    a_large_root: [u64; 600] = vec(any::<u64>(), 600).prop_map(|list| list.try_into().expect("600"));
    a_large_root_with_text: ([u64; 600], String) = (vec(any::<u64>(), 600), text())
        .prop_map(|(list, text)| (list.try_into().expect("600"), text));
    large_lists: Vec<u8> = (0..30_000_usize, any::<u8>()).prop_map(|(length, byte)| vec![byte; length]);
}

/// A text whose `resolve` keeps the `Place` that it is given.
struct Sly;

const TEXT: &str = "a text that is longer than sixteen bytes";

thread_local! {
    static KEPT: RefCell<Vec<(Place<ArchivedString>, StringResolver)>> = const { RefCell::new(Vec::new()) };
}

impl Archive for Sly {
    type Archived = ArchivedString;
    type Resolver = (StringResolver, StringResolver);

    fn resolve(&self, (now, later): Self::Resolver, out: Place<ArchivedString>) {
        ArchivedString::resolve_from_str(TEXT, now, out);
        KEPT.with_borrow_mut(|kept| kept.push((out, later)));
    }
}

impl<S: Fallible<Error: Source> + rkyv::ser::Writer + ?Sized> Serialize<S> for Sly {
    fn serialize(&self, s: &mut S) -> Result<Self::Resolver, S::Error> {
        let later = ArchivedString::serialize_from_str("another text, for its resolver", s)?;
        Ok((ArchivedString::serialize_from_str(TEXT, s)?, later))
    }
}

impl<D: Fallible + ?Sized> Deserialize<Sly, D> for ArchivedString {
    fn deserialize(&self, _: &mut D) -> Result<Sly, D::Error> {
        Ok(Sly)
    }
}

/// Symptom: safe code changed a reply that had been validated, to a text of any length. Cause: roots were made in place in the
/// segment, and rkyv hands a type's own `resolve` a `Place` that it may keep. Fix: such roots are made elsewhere and copied.
#[test]
fn a_place_that_resolve_keeps_does_not_lead_into_the_segment() {
    guarded(|| {
        let server = start("sly", ThreadServlet::<PassThrough<Sly>>::new(()));
        let reply = server.call(&Sly).unwrap();
        assert_eq!(reply.as_str(), TEXT);
        let kept = KEPT.take();
        assert!(!kept.is_empty(), "resolve ran in this thread");
        for (place, resolver) in kept {
            ArchivedString::resolve_from_str(&"x".repeat(300), resolver, place);
        }
        assert_eq!(reply.as_str(), TEXT, "nothing has changed it");
        drop(reply);
        assert_eq!(server.call(&Sly).unwrap().as_str(), TEXT);
    });
}

/// A value that rkyv itself refuses is an error, and not another value.
#[test]
fn a_path_that_is_no_text_is_refused_by_name() {
    use std::os::unix::ffi::OsStringExt;
    guarded(|| {
        let server = start("path", ThreadServlet::<Echo<Wrapped>>::new(()));
        let mut runner = TestRunner::deterministic();
        let mut value = wrapped().new_tree(&mut runner).expect("a value").current();
        value.path = OsString::from_vec(vec![b'a', 0xFF]).into();
        let refused = server.call(&value).map(drop).expect_err("rkyv has paths as text");
        assert!(matches!(&refused, CallError::Serialise { .. }), "{refused:?}");
    });
}

/// Members of an ensemble that keeps errors, of types whose roots have all alignments.
#[test]
fn errors_beside_values_of_all_alignments_come_back() {
    type Pair = (Result<Box<u128>, Box<RemoteError>>, Result<Box<u128>, Box<RemoteError>>);
    ringmill::make_worker!(Refuse: u128 => u128, |x: &Archived<u128>| -> Result<u128, BoxError> {
        Err(BoxError::msg(format!("no {x}")))
    });
    guarded(|| {
        let echo = ThreadServlet::<Echo<u128>>::new(());
        let both = start("errors", Ensemble::of((echo, ThreadServlet::<Refuse>::new(()))).keep_errors());
        for value in [0, 1, u128::MAX] {
            let (kept, failed): Pair = both.call(&value).unwrap().into_owned().unwrap();
            assert_eq!(*kept.unwrap(), value);
            assert!(failed.unwrap_err().to_string().ends_with(&format!("no {value}")));
        }
    });
}

/// A payload that is too deep is an error that says so, where it is read; a worker's error reaches its caller.
#[test]
fn a_payload_that_is_too_deep_says_how_deep_it_may_be() {
    guarded(|| {
        let server = start("deep", ThreadServlet::<PassThrough<Tree>>::new(()));
        let deep = |links| {
            (0..links)
                .fold(Tree { size: 0, children: vec![] }, |tree, size| Tree { size, children: vec![tree] })
        };
        assert_eq!(server.call(&deep(127)).unwrap().into_owned().unwrap(), deep(127));
        let error = server.call(&deep(140)).map(drop).expect_err("it is too deep");
        let cause = &error.remote_error().expect("a worker's").cause;
        assert!(matches!(cause, RemoteCause::TooDeep { limit: 128, .. }), "{cause:?}");
        assert!(error.to_string().contains("more than 128 pointers lie one within the other"), "{error}");
    });
}
