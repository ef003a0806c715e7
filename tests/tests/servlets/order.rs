//! Each caller gets its own answer and each stream its own in order, for every payload and any number of callers at once.

use ringmill::servlet::Pin;
use ringmill::{
    BoxError, CallError, CallOptions, Context, Cpus, PassThrough, ProcessServlet, Server, ThreadServlet,
    WhenFull, Worker,
};
use ringmill_tests::gate::{Gate, stop_at};
use ringmill_tests::host::{Crew, Host, on_both};
use ringmill_tests::pile::stream_all;
use ringmill_tests::probe::{Probe, ask, stopper};
use ringmill_tests::traces::assert_gone;
use ringmill_tests::{GUARD, fresh_name};
use rkyv::{Archive, Archived, Deserialize, Serialize};
use std::collections::BTreeSet;
use std::panic::AssertUnwindSafe;
use std::time::Duration;

ringmill::init!(
    Double,
    Half,
    Length,
    Mix,
    Mirror,
    Sum,
    Nest,
    Probe,
    PassThrough<String>,
    PassThrough<Record>,
    PassThrough<Vec<f32>>,
    PassThrough<Vec<u8>>,
);

ringmill::make_worker!(Double: u32 => u64, |x| u64::from(x.to_native()) * 2);
ringmill::make_worker!(
    /// Half of an even number.
    Half: u32 => u32, half
);
ringmill::make_worker!(Length: String => u64, |text| text.len() as u64);
ringmill::make_worker!(Mix: u64 => u64, |x| mix(x.to_native()));
ringmill::make_worker!(Sum: Vec<u8> => u64, |bytes| bytes.iter().map(|&b| u64::from(b)).sum::<u64>());

fn half(x: &Archived<u32>) -> Result<u32, BoxError> {
    let x = x.to_native();
    if x.is_multiple_of(2) { Ok(x / 2) } else { Err(BoxError::msg(format!("{x} is odd"))) }
}

/// An answer that no other request has by accident.
fn mix(x: u64) -> u64 {
    let x = (x ^ x >> 31).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    x ^ x >> 29
}

fn builder() -> ringmill::ServerBuilder {
    Server::builder(fresh_name("order"))
}

/// Every permit can be taken: nothing is in progress, and nothing is lost.
#[track_caller]
fn assert_every_place_is_free<In: ringmill::Payload, Out: ringmill::Payload>(
    server: &Server<In, Out>,
    item: &In,
) {
    let patient = CallOptions::new().when_full(WhenFull::Wait).timeout(GUARD);
    let take = |_| server.call_with(item, patient).map_err(|error| error.to_string());
    let replies: Result<Vec<_>, String> = (0..server.capacity()).map(take).collect();
    assert_eq!(replies.map(|replies| replies.len()), Ok(server.capacity()));
    assert_eq!(server.backlog(), 0);
}

#[test]
fn calls_and_streams_answer_in_order() {
    on_both(|host| {
        let server = host.start::<Double>(builder(), (), Crew::of(2));
        for x in 0..200 {
            assert_eq!(*server.call(&x).expect("an answer"), u64::from(x) * 2);
        }
        let doubled: Vec<u64> = server.stream(0..10_000).map(|x| x.expect("an answer")).collect();
        assert!(doubled.into_iter().eq((0..10_000).map(|x| x * 2)));
        assert!(server.stream([]).next().is_none());
        assert_eq!(server.backlog(), 0);
    });
}

#[test]
fn a_stream_that_is_over_stays_over() {
    on_both(|host| {
        let server = host.start::<Double>(builder(), (), Crew::of(1));
        let mut stream = server.stream([1, 2]);
        let outcomes: Vec<_> = std::iter::from_fn(|| stream.next()).map(|x| x.expect("an answer")).collect();
        assert_eq!(outcomes, [2, 4]);
        assert!(stream.next().is_none() && stream.next().is_none());
        assert_eq!(server.backlog(), 0, "an ended stream holds nothing, even if it is kept");
    });
}

#[test]
fn replies_of_a_stream_can_be_read_in_place() {
    on_both(|host| {
        let server = host.start::<PassThrough<String>>(builder(), (), Crew::of(2));
        let mut stream = server.stream((0..500).map(|i| format!("number {i}")));
        let mut count = 0;
        while let Some(reply) = stream.next_reply() {
            assert_eq!(reply.expect("an answer").as_str(), format!("number {count}"));
            count += 1;
        }
        assert_eq!(count, 500);
    });
}

/// Sizes around every border: in line, the classes of blocks, the largest payload.
const SIZES: [usize; 17] =
    [0, 1, 15, 16, 17, 79, 80, 81, 95, 96, 97, 1000, 1024, 4090, 16_000, 60_000, 262_128];

#[test]
fn payloads_of_every_size_come_back_as_they_were() {
    on_both(|host| {
        let builder = builder().capacity(16).max_payload(256 * 1024);
        let server = host.start::<PassThrough<String>>(builder, (), Crew::of(2).greedy(4));
        let text = |i: usize| -> String {
            let letters = ('a'..='z').cycle().skip(i);
            letters.take(SIZES[i % SIZES.len()]).collect()
        };
        for i in 0..SIZES.len() {
            assert_eq!(server.call(&text(i)).expect("an answer").as_str(), text(i));
        }
        let outcomes = server.stream((0..300).map(text));
        assert!(outcomes.enumerate().all(|(i, outcome)| outcome.expect("an answer") == text(i)));
        assert_every_place_is_free(&server, &String::new());
    });
}

#[test]
fn outcomes_may_be_larger_or_smaller_than_inputs() {
    on_both(|host| {
        let server = host.start::<Length>(builder(), (), Crew::of(1));
        for size in SIZES.into_iter().filter(|&size| size <= 16_000) {
            assert_eq!(*server.call(&"x".repeat(size)).expect("an answer"), size as u64);
        }
        let server = host.start::<Mirror>(builder(), Record::sample(), Crew::of(1));
        assert_eq!(
            server.call(&1).expect("an answer").into_owned().expect("its own value").1,
            Record::sample()
        );
    });
}

#[test]
fn a_million_requests_through_four_workers() {
    const THREADS: u64 = 2;
    const EACH: u64 = 500_000;
    let server = &Host::Processes.start::<Mix>(builder().capacity(2048), (), Crew::of(4).greedy(64));
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            scope.spawn(move || {
                let inputs = thread * EACH..(thread + 1) * EACH;
                let mut expected = inputs.clone().map(mix);
                for outcome in server.stream(inputs) {
                    assert_eq!(Some(outcome.expect("an answer")), expected.next());
                }
                assert_eq!(expected.next(), None, "as many outcomes as inputs");
            });
        }
    });
    let total = server.stats().servlets[0].total();
    assert_eq!((total.items, total.errors, total.skipped), (THREADS * EACH, 0, 0));
    assert_eq!(server.backlog(), 0);
}

#[test]
fn threads_that_call_and_stream_at_once_get_their_own_answers() {
    on_both(|host| {
        let server = &host.start::<Mix>(builder().capacity(64), (), Crew::of(3).greedy(8));
        let patient = CallOptions::new().when_full(WhenFull::Wait);
        std::thread::scope(|scope| {
            for caller in 0..4_u64 {
                scope.spawn(move || {
                    for x in (0..1_500).map(|i| i * 4 + caller) {
                        assert_eq!(*server.call_with(&x, patient).expect("an answer"), mix(x));
                    }
                });
                scope.spawn(move || {
                    let inputs = (0..6_000).map(|i| 1_000_000 * (caller + 1) + i);
                    let outcomes = server.stream(inputs.clone()).map(|x| x.expect("an answer"));
                    assert!(outcomes.eq(inputs.map(mix)));
                });
            }
        });
        assert_eq!(server.backlog(), 0);
        assert_eq!(server.stats().servlets[0].total().items, 4 * 7_500);
    });
}

#[test]
fn a_stream_dropped_early_leaves_nothing_in_progress() {
    on_both(|host| {
        let server = host.start::<Mix>(builder().capacity(48), (), Crew::of(2).greedy(4));
        for taken in [0, 1, 10, 100] {
            let mut stream = server.stream(0..);
            for x in 0..taken {
                assert_eq!(stream.next().expect("endless").expect("an answer"), mix(x));
            }
            drop(stream);
            assert_every_place_is_free(&server, &7);
        }
    });
}

#[test]
fn a_stream_dropped_while_a_worker_is_busy_with_it_leaves_nothing() {
    on_both(|host| {
        let gate = Gate::new();
        let server = host.start::<Probe>(builder().capacity(8), gate.name(), Crew::of(1));
        let mut arrival = None;
        // The first item is at work and some more are in the ring when the source gives up.
        let inputs = (0..).map(|value| {
            if value == 1 {
                arrival = Some(gate.arrival());
            }
            assert!(value < 5, "the source gives up");
            if value == 0 { stopper() } else { ask(value) }
        });
        let mut stream = server.stream(inputs);
        std::panic::catch_unwind(AssertUnwindSafe(|| stream.next().is_some())).expect_err("it gives up");
        drop(stream);
        drop(arrival);
        assert_every_place_is_free(&server, &ask(0));
        let total = server.stats().servlets[0].total();
        assert_eq!(total.items + total.skipped, 5 + 8, "each once");
        assert!(total.skipped >= 1, "items that had not begun were skipped");
    });
}

#[test]
fn a_source_that_panics_loses_no_permit() {
    on_both(|host| {
        let server = host.start::<Mix>(builder().capacity(32), (), Crew::of(2));
        for last in [0, 1, 20, 1000] {
            let inputs = (0..).inspect(|&x| assert!(x < last, "the source has no more"));
            let run = AssertUnwindSafe(|| server.stream(inputs).map(Result::unwrap).count());
            std::panic::catch_unwind(run).expect_err("the source panics");
            assert_every_place_is_free(&server, &7);
        }
    });
}

#[test]
fn a_stream_of_a_stream_and_calls_within_one() {
    on_both(|host| {
        let one = host.start::<Mix>(builder().capacity(32), (), Crew::of(1));
        let two = host.start::<Mix>(builder().capacity(16), (), Crew::of(2));
        let outcomes = two.stream(one.stream(0..3_000).map(Result::unwrap)).map(Result::unwrap);
        assert!(outcomes.eq((0..3_000).map(mix).map(mix)));
        // The same server within itself: a stream leaves permits to calls that wait for one.
        let patient = CallOptions::new().when_full(WhenFull::Wait).timeout(GUARD);
        let inputs = (0..500)
            .map(|x| one.call_with(&x, patient).expect("an answer").into_owned().expect("its own value"));
        let options = ringmill::StreamOptions::new().window(16);
        let outcomes = one.stream_with(inputs, options).map(Result::unwrap);
        assert!(outcomes.eq((0..500).map(mix).map(mix)));
        assert_every_place_is_free(&one, &7);
        assert_every_place_is_free(&two, &7);
    });
}

/// A worker with a server of its own, whose workers are processes or threads.
struct Nest {
    inner: Server<u64, u64>,
}

impl Worker for Nest {
    type Config = (String, bool);
    type In = u64;
    type Out = u64;

    fn new((name, processes): (String, bool), _: &Context) -> Result<Self, BoxError> {
        let builder = Server::builder(name);
        let inner = if processes {
            builder.start(ProcessServlet::<Mix>::new(()))?
        } else {
            builder.start(ThreadServlet::<Mix>::new(()))?
        };
        Ok(Self { inner })
    }

    fn call(&mut self, input: &Archived<u64>) -> Result<u64, BoxError> {
        Ok(mix(self.inner.call(&input.to_native())?.into_owned()?))
    }
}

#[test]
fn a_worker_may_have_a_server_of_its_own() {
    on_both(|host| {
        for processes in [false, true] {
            let (outer, inner) = (fresh_name("outer"), fresh_name("inner"));
            let server = host.start::<Nest>(Server::builder(&outer), (inner.clone(), processes), Crew::of(1));
            let outcomes = server.stream(0..300).map(Result::unwrap);
            assert!(outcomes.eq((0..300).map(mix).map(mix)));
            drop(server);
            assert_gone(&outer);
            assert_gone(&inner);
        }
    });
}

/// Something with everything in it.
#[derive(Debug, Clone, PartialEq, Archive, Serialize, Deserialize)]
struct Record {
    id: u64,
    share: f64,
    names: Vec<String>,
    note: Option<Box<str>>,
    pair: (i8, char),
    kind: Kind,
}

#[derive(Debug, Clone, PartialEq, Archive, Serialize, Deserialize)]
enum Kind {
    Plain,
    Tagged { tags: Vec<(u16, String)> },
}

impl Record {
    fn sample() -> Self {
        Self {
            id: u64::MAX - 1,
            share: -0.1,
            names: vec![String::new(), "Ågot".into(), "x".repeat(300)],
            note: Some("kept".into()),
            pair: (-3, 'ß'),
            kind: Kind::Tagged { tags: vec![(7, "seven".into())] },
        }
    }
}

#[test]
fn pass_through_gives_back_what_it_gets() {
    on_both(|host| {
        for crew in [Crew::of(1), Crew::of(2).greedy(4)] {
            let server = host.start::<PassThrough<Record>>(builder(), (), crew);
            let record = |id| {
                let kind = if id % 2 == 0 { Kind::Plain } else { Record::sample().kind };
                Record { id, kind, ..Record::sample() }
            };
            assert_eq!(
                server.call(&record(1)).expect("an answer").into_owned().expect("its own value"),
                record(1)
            );
            let outcomes = server.stream((0..200).map(record));
            assert!(outcomes.map(Result::unwrap).eq((0..200).map(record)));
        }
    });
}

#[test]
fn functions_and_closures_make_workers() {
    on_both(|host| {
        let server = host.start::<Half>(builder(), (), Crew::of(1));
        assert_eq!(*server.call(&10).expect("even"), 5);
        let error = server.call(&7).expect_err("odd");
        let told = error.remote_error().expect("the worker's own").cause.to_string();
        assert_eq!(told, "7 is odd");
        assert_eq!(server.stats().servlets[0].name, "half");
        let server = host.start::<Length>(builder(), (), Crew::of(1));
        assert_eq!(*server.call(&"four".to_string()).expect("an answer"), 4);
    });
}

#[test]
fn loans_are_read_as_the_vectors_that_they_are() {
    on_both(|host| {
        let builder = builder().capacity(4).max_payload(64 * 1024);
        let floats = host.start::<PassThrough<Vec<f32>>>(builder.clone(), (), Crew::of(1));
        for len in [0, 1, 2, 3, 19, 20, 21, 1000, 16_380] {
            let numbers: Vec<f32> = (0..len).map(|i| i as f32 * 0.5 - 3.0).collect();
            let mut loan = floats.loan(len).expect("it fits");
            loan.as_mut_slice().copy_from_slice(&numbers);
            assert_eq!(loan.as_mut_slice(), numbers, "it stays what was written");
            assert_eq!(
                floats.call_loan(loan).expect("an answer").into_owned().expect("its own value"),
                numbers
            );
        }
        drop(floats);
        let bytes = host.start::<Sum>(self::builder().capacity(4), (), Crew::of(1));
        for len in (0..130).chain([16 * 1024 - 16]) {
            let mut loan = bytes.loan(len).expect("it fits");
            loan.as_mut_slice().iter_mut().enumerate().for_each(|(i, byte)| *byte = i as u8);
            let sum = loan.as_mut_slice().iter().map(|&b| u64::from(b)).sum::<u64>();
            assert_eq!(*bytes.call_loan(loan).expect("an answer"), sum, "{len} bytes");
        }
        assert_every_place_is_free(&bytes, &vec![1]);
    });
}

#[test]
fn a_loan_holds_a_permit_and_gives_it_back() {
    on_both(|host| {
        let name = fresh_name("order");
        let server = host.start::<Sum>(Server::builder(&name).capacity(2), (), Crew::of(1));
        let loan = server.loan(5000).expect("it fits");
        let other = server.loan(3).expect("it fits");
        assert_eq!(server.backlog(), 2);
        assert!(matches!(server.loan(1), Err(CallError::ServerBacklogFull { capacity: 2, .. })));
        drop(loan);
        assert_eq!(server.backlog(), 1);
        drop(other);
        for len in [16 * 1024 - 7, 1 << 40, usize::MAX] {
            let error = server.loan(len).expect_err("it does not fit");
            assert!(matches!(error, CallError::PayloadTooLarge { largest: 16384, .. }), "{error}");
        }
        assert_every_place_is_free(&server, &vec![1, 2]);
    });
}

#[test]
fn a_loan_of_another_server_is_refused() {
    on_both(|host| {
        let one = host.start::<Sum>(builder(), (), Crew::of(1));
        let two = host.start::<Sum>(builder(), (), Crew::of(1));
        let loan = one.loan(10).expect("it fits");
        assert!(matches!(two.call_loan(loan), Err(CallError::ForeignLoan)));
        assert_eq!((one.backlog(), two.backlog()), (0, 0));
    });
}

/// Answers with its configuration. An item above zero stops at the gate.
struct Mirror {
    facts: Facts,
    config: Record,
}

/// What a worker knows of itself.
#[derive(Debug, Clone, PartialEq, Archive, Serialize, Deserialize)]
struct Facts {
    server: String,
    servlet: String,
    name: String,
    worker: usize,
    batch_size: usize,
    batch_wait_time: Duration,
    cpus: Vec<usize>,
    may_run_on: Vec<usize>,
    has_numa_node: bool,
    restarts: u32,
    pid: u32,
}

impl Worker for Mirror {
    type Config = Record;
    type In = u32;
    type Out = (Facts, Record);

    fn new(config: Record, context: &Context) -> Result<Self, BoxError> {
        let facts = Facts {
            server: context.server_name().into(),
            servlet: context.servlet_name().into(),
            name: context.name(),
            worker: context.worker_index(),
            batch_size: context.batch_size(),
            batch_wait_time: context.batch_wait_time(),
            cpus: context.cpus().into(),
            may_run_on: ringmill_shm::sys::cpu::allowed()?,
            has_numa_node: context.numa_node().is_some(),
            restarts: context.restarts(),
            pid: std::process::id(),
        };
        Ok(Self { facts, config })
    }

    fn call(&mut self, input: &Archived<u32>) -> Result<(Facts, Record), BoxError> {
        if input.to_native() > 0 {
            stop_at(self.config.note.as_deref().unwrap_or(""), &self.facts.name);
        }
        Ok((self.facts.clone(), self.config.clone()))
    }
}

/// One answer of each worker: all of them stop at the gate at once.
fn ask_each(server: &Server<u32, (Facts, Record)>, gate: &Gate, workers: usize) -> Vec<(Facts, Record)> {
    let mut answers: Vec<_> = std::thread::scope(|scope| {
        let stream = scope.spawn(move || stream_all(server, vec![1; workers]));
        drop(gate.arrivals(workers));
        let answers = stream.join().expect("no panic");
        answers.into_iter().map(|answer| answer.expect("an answer")).collect()
    });
    answers.sort_by_key(|(facts, _)| facts.worker);
    answers
}

#[test]
fn every_worker_gets_the_configuration() {
    on_both(|host| {
        let gate = Gate::new();
        let config = Record { note: Some(gate.name().into()), ..Record::sample() };
        let server = host.start::<Mirror>(builder(), config.clone(), Crew::of(3));
        let answers = ask_each(&server, &gate, 3);
        assert!(answers.iter().all(|(_, told)| *told == config), "{answers:?}");
        let pids: BTreeSet<u32> = answers.iter().map(|(facts, _)| facts.pid).collect();
        let here = BTreeSet::from([std::process::id()]);
        assert!(if host == Host::Threads {
            pids == here
        } else {
            pids.len() == 3 && pids.is_disjoint(&here)
        });
    });
}

/// The node of CPUs that are all of one, or all of none that is known.
fn nodes_of(cpus: &[usize]) -> Option<Option<usize>> {
    let nodes: BTreeSet<_> = cpus.iter().map(|&cpu| ringmill_shm::sys::cpu::numa_node(cpu)).collect();
    if nodes.len() == 1 { nodes.first().copied() } else { None }
}

#[test]
fn the_context_says_which_worker_it_is() {
    on_both(|host| {
        let allowed = ringmill::cpu::allowed();
        let last = *allowed.last().expect("we run on one");
        let gate = Gate::new();
        let config = Record { note: Some(gate.name().into()), ..Record::sample() };
        let name = fresh_name("order");
        let cpus = Cpus::list([Pin::to([last]), Pin::any(), Pin::to(allowed.to_vec())]);
        let crew = Crew::on(cpus).patient(3, Duration::from_micros(1500));
        let server = host.start::<Mirror>(Server::builder(&name), config, crew);
        // Three items at once would be one batch; so one by one, each while the workers before are held.
        let mut answers = std::thread::scope(|scope| {
            let held: Vec<_> = (0..3)
                .map(|_| {
                    let server = &server;
                    let call = scope.spawn(move || {
                        server.call(&1).map(|reply| reply.into_owned().expect("its own value").0)
                    });
                    (gate.arrival(), call)
                })
                .collect();
            let mut answers = Vec::new();
            for (arrival, call) in held {
                arrival.release();
                answers.push(call.join().expect("no panic").expect("an answer"));
            }
            answers
        });
        answers.sort_by_key(|facts| facts.worker);
        let stats = server.stats();
        for (worker, facts) in answers.iter().enumerate() {
            let cpus = [vec![last], vec![], allowed.to_vec()][worker].clone();
            let expected = Facts {
                server: name.clone(),
                servlet: "mirror".into(),
                name: format!("{name}/mirror/{worker}"),
                worker,
                batch_size: 3,
                batch_wait_time: Duration::from_micros(1500),
                may_run_on: if cpus.is_empty() { allowed.to_vec() } else { cpus.clone() },
                has_numa_node: nodes_of(&cpus).is_some_and(|node| node.is_some()),
                cpus,
                restarts: 0,
                pid: stats.servlets[0].workers[worker].pid,
            };
            assert_eq!(*facts, expected);
        }
    });
}
