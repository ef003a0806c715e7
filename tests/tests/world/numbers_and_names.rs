//! Every number and name is checked where it enters: before anything is allocated, multiplied or started, with the limit in
//! the error, which is one line of plain text.

use ringmill::servlet::Pin;
use ringmill::{
    CallError, Cpus, Ensemble, PassThrough, ProcessServlet, Server, ServerBuilder, Servlet, StartError,
    Switch, ThreadServlet,
};
use ringmill_tests::name::Name;
use rkyv::Archived;

/// Values of which some product overflows, or some allocation would take all memory.
const HUGE: [usize; 6] = [1 << 28, 1 << 31, 1_000_000_000, 1 << 40, usize::MAX / 2, usize::MAX];

fn thread() -> ThreadServlet<PassThrough<Vec<u8>>> {
    ThreadServlet::new(())
}

fn process() -> ProcessServlet<PassThrough<Vec<u8>>> {
    ProcessServlet::new(())
}

fn refusal<S: Servlet>(builder: ServerBuilder, servlet: S) -> (StartError, String) {
    let error = builder.start(servlet).map(drop).expect_err("it is refused");
    let text = error.to_string();
    assert!(!text.chars().any(char::is_control), "one line of text: {text:?}");
    assert!(text.len() < 700, "{} bytes: {text:.700}", text.len());
    (error, text)
}

#[track_caller]
fn assert_range(what: &str, (error, text): (StartError, String), huge: usize) {
    let StartError::Range { value, most, .. } = error else { panic!("{what}: {error:?}") };
    assert_eq!(value, huge as u64, "{what}");
    assert!(text.contains(&most.to_string()), "{what}: the limit is in the error: {text}");
}

/// Symptom: `cpus(1_000_000_000)` aborted the process for want of memory, `cpus(usize::MAX)` panicked. Cause: a list of so
/// many workers was made before the number was checked. Fix: the check comes first; and so for every other number.
#[test]
fn numbers_without_measure_are_refused() {
    let name = Name::new("numbers");
    let builder = || Server::builder(name.text());
    for huge in HUGE {
        assert_range("cpus", refusal(builder(), thread().cpus(huge)), huge);
        assert_range("cpus of processes", refusal(builder(), process().cpus(huge)), huge);
        assert_range("stream_threads", refusal(builder(), thread().stream_threads(huge)), huge);
        assert_range("batch_size", refusal(builder(), thread().batch_size(huge)), huge);
        assert_range("capacity", refusal(builder().capacity(huge), thread()), huge);
        if huge > 1 << 31 {
            assert_range("max_payload", refusal(builder().max_payload(huge), thread()), huge);
            assert_range("payload_classes", refusal(builder().payload_classes([(huge, 1)]), thread()), huge);
        }
        // The segment refuses numbers of blocks, and sizes whose product is too large.
        for classes in [(1024, huge), (1 << 31, huge)] {
            let (error, text) = refusal(builder().payload_classes([classes]), thread());
            assert!(matches!(error, StartError::Segment(_)), "{error:?}");
            assert!(text.chars().any(char::is_numeric), "{text}");
        }
        let (error, text) = refusal(builder(), thread().cpus(Cpus::list([Pin::to([huge])])));
        assert!(matches!(error, StartError::Cpu { cpu, .. } if cpu == huge), "{text}");
        assert_range("env_for", refusal(builder(), process().env_for(huge, "A", "b")), huge);
    }
    // Values that fit each by itself, but not together.
    let large = builder().capacity(1 << 24).max_payload(1 << 31);
    assert!(matches!(refusal(large, thread()).0, StartError::Segment(_)));
    assert!(matches!(refusal(builder().payload_classes([(64, 1)]), thread()).0, StartError::Range { .. }));
    assert!(matches!(refusal(builder().payload_classes([(1024, 0)]), thread()).0, StartError::Segment(_)));
    name.assert_nothing_left();
}

/// A list of members may have any length: it is refused before all of them are planned.
#[test]
fn trees_without_measure_are_refused() {
    let name = Name::new("trees");
    let builder = || Server::builder(name.text());
    let members = |count: usize| (0..count).map(|_| thread()).collect::<Vec<_>>();
    for count in [300, 5_000, 100_000] {
        assert!(matches!(refusal(builder(), Ensemble::of(members(count))).0, StartError::Range { .. }));
        let switch = Switch::new(|_: &Archived<Vec<u8>>| 0, members(count));
        assert!(matches!(refusal(builder(), switch).0, StartError::Range { .. }));
    }
    let mut long = thread().boxed();
    for _ in 0..300 {
        long = long.then(thread()).boxed();
    }
    assert!(matches!(refusal(builder(), long).0, StartError::Range { .. }));
    name.assert_nothing_left();
}

const BAD_NAMES: [&str; 10] =
    ["", " ", "a/b", "a\0b", "a\nb", "a\tb", "a\x1b[31mb", "a\u{9b}31mb", "a\u{202e}b", "a\u{2028}b"];

/// Symptom: a servlet's name with a zero byte panicked in the worker, one with escape codes went to terminals as it was, one
/// with a line feed made errors of two lines. Cause: the name was not checked. Fix: the start checks it, and errors escape it.
#[test]
fn names_that_are_no_names_are_refused() {
    let name = Name::new("names");
    let builder = || Server::builder(name.text());
    let long = "x".repeat(1 << 20);
    for bad in BAD_NAMES.into_iter().chain([&*long]) {
        let of_name = |(error, text): (StartError, String)| {
            assert!(matches!(error, StartError::Name { longest: 64, .. }), "{bad:.20?}: {error:?}");
            assert!(text.contains("64"), "{text}");
        };
        of_name(refusal(builder(), thread().name(bad)));
        of_name(refusal(builder(), process().name(bad)));
        of_name(refusal(builder(), Ensemble::of((thread(), thread())).name(bad)));
        of_name(refusal(builder(), Switch::new(|_: &Archived<Vec<u8>>| 0, (thread(), thread())).name(bad)));
        of_name(refusal(builder(), thread().then(thread().name(bad))));
        refusal(Server::builder(bad), thread());
        if bad.contains(char::is_control) {
            refusal(builder().file(format!("/tmp/{bad}")), thread());
        }
    }
    for fine in ["größe", "v1.2 (fast)", "名前", "a-b_c"] {
        let server = builder().start(thread().name(fine)).expect(fine);
        assert_eq!(server.stats().servlets[0].name, fine);
    }
    name.assert_nothing_left();
}

#[test]
fn variables_that_no_process_can_have_are_refused() {
    let name = Name::new("variables");
    for (key, value) in [("", "b"), ("A=B", "c"), ("=", "c"), ("A\0", "b"), ("A", "b\0"), ("\x1b[31m=", "")] {
        for all in [true, false] {
            let servlet = if all { process().env(key, value) } else { process().env_for(0, key, value) };
            let (error, _) = refusal(Server::builder(name.text()), servlet);
            assert!(matches!(error, StartError::Variable { .. }), "{key:?}: {error:?}");
        }
    }
    name.assert_nothing_left();
}

/// Symptom: a loan of 2.2 GB was granted, and panicked when it was sent: offsets of 32 bits. Fix: no class of blocks is larger
/// than a payload can be.
#[test]
fn loans_are_no_larger_than_payloads_can_be() {
    let name = Name::new("loans");
    let server = Server::builder(name.text()).max_payload(1 << 20).start(thread()).expect("it starts");
    for len in HUGE {
        let error = server.loan(len).map(drop).expect_err("too large");
        assert!(
            matches!(error, CallError::PayloadTooLarge { largest, .. } if largest == 1 << 20),
            "{error:?}"
        );
    }
    drop(server);
    name.assert_nothing_left();
}
