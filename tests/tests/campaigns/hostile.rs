//! Whatever bytes a segment, a payload or an order has, no process that reads them panics, hangs or dies.
//!
//! Every input is short and deterministic: the test prints one that fails as a line of hexadecimal digits, to be put
//! into `tests/fuzz/corpus/<target>/` where the replay finds it. `RINGMILL_HOSTILE_ROUNDS=n` makes the random
//! part n times as long, with other numbers in each round.

use ringmill_tests::alone::{ALONE_GUARD, has_run_alone_within};
use ringmill_tests::host::Host;
use ringmill_tests::hostile::{Numbers, TARGETS, image, live, records};
use ringmill_tests::listener::Listener;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::Path;
use std::sync::Mutex;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

ringmill::init!(live::Echo, live::Sink);

/// An input that takes longer than this hangs: a single input takes milliseconds.
const HANGS: Duration = Duration::from_secs(60);

fn rounds() -> u32 {
    let rounds = std::env::var("RINGMILL_HOSTILE_ROUNDS").ok();
    rounds.map_or(1, |text| text.parse().expect("RINGMILL_HOSTILE_ROUNDS is a number"))
}

/// Runs inputs one after the other, and ends the process if one hangs, naming that input.
struct Runner {
    tell: std::sync::mpsc::Sender<String>,
    watch: Option<std::thread::JoinHandle<()>>,
}

impl Runner {
    fn new() -> Self {
        let (tell, told) = channel::<String>();
        let watch = std::thread::spawn(move || {
            let mut last = String::new();
            loop {
                match told.recv_timeout(HANGS) {
                    Ok(input) => last = input,
                    Err(RecvTimeoutError::Timeout) => {
                        eprintln!("hangs: {last}");
                        std::process::abort();
                    }
                    Err(RecvTimeoutError::Disconnected) => return,
                }
            }
        });
        Self { tell, watch: Some(watch) }
    }

    #[track_caller]
    fn run(&self, what: impl Fn() -> String, body: impl FnOnce()) {
        self.tell.send(what()).expect("it listens");
        if let Err(panic) = catch_unwind(AssertUnwindSafe(body)) {
            eprintln!("fails: {}", what());
            resume_unwind(panic);
        }
    }
}

impl Drop for Runner {
    fn drop(&mut self) {
        self.tell = channel().0;
        let _ = self.watch.take().map(std::thread::JoinHandle::join);
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The corpus of a target: names and bytes.
fn corpus(target: &str) -> Vec<(String, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let files = std::fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    let input = |file: std::io::Result<std::fs::DirEntry>| {
        let path = file.expect("a file").path();
        let name = path.file_name().expect("a name").to_str().expect("text").to_owned();
        (name, std::fs::read(path).expect("a file"))
    };
    let inputs: Vec<_> = files.map(input).collect();
    assert!(!inputs.is_empty(), "{target} has a corpus");
    inputs
}

#[test]
fn the_corpus_is_harmless() {
    let runner = Runner::new();
    for (name, target) in TARGETS {
        for (file, input) in corpus(name) {
            runner.run(|| format!("{name} {file}"), || target(&input));
        }
    }
}

/// Symptom: the fuzzer never got past the version of an order. Cause: the format had changed, and the corpus had not. Fix: a
/// seed that is not read as what it was made as fails this test; [`write_the_seeds`] renews it.
#[test]
fn every_seed_of_records_is_read() {
    let mut seen = 0;
    for (name, input) in corpus("payload") {
        if name.starts_with("kind-") {
            assert!(records::is_payload(&input), "{name} is no payload of its kind");
            seen += 1;
        }
    }
    for (name, input) in corpus("text") {
        let read = records::read_text(&input);
        let is_read = match name.as_str() {
            "order" | "order-spin" => read.order,
            "name" | "path" => read.location,
            "message" => read.message,
            "event" => read.event,
            _ => continue,
        };
        assert!(is_read, "{name} was read as {read:?}");
        seen += 1;
    }
    assert_eq!(seen, 15, "a seed is missing");
}

/// Each byte of each image becomes 0, all ones, another by one bit, and a random one; then the target plays all parts once, and
/// inspects the segment.
#[test]
fn any_byte_changed() {
    let (runner, mut numbers) = (Runner::new(), Numbers::new(1));
    for (which, image) in image::images().iter().enumerate() {
        let mut before = None;
        let twin = image::images()[..which].iter().find(|other| other.len() == image.len() && which > 1);
        let statistics = &image::statistics()[which];
        for at in 0..image.len() {
            let was = image[at];
            // Most bytes are of counts, and each count is like the others: one byte in 61, which is no multiple of a word.
            if statistics.contains(&at) && at % 61 != 0 {
                continue;
            }
            // A byte that two images of one shape have in common is changed in one of them.
            if was == 0 && twin.is_some_and(|other| other[at] == was) {
                continue;
            }
            // A byte in the middle of a run of zeros is like its neighbours: one value is enough.
            let dull = before == Some(0) && was == 0 && image.get(at + 1) == Some(&0) && at % 8 != 0;
            before = Some(was);
            let chance = numbers.below(256) as u8;
            let all = [0xFF, was ^ 1 << numbers.below(8), 0, chance];
            let values = if dull { &all[..1] } else { &all[..] };
            for &value in values.iter().filter(|&&value| value != was) {
                let flags = numbers.below(32) as u8;
                let told =
                    || format!("byte {at} of image {which} from {was:#x} to {value:#x}, flags {flags}");
                runner.run(told, || {
                    let mut changed = image.clone();
                    changed[at] = value;
                    image::tour(&mut changed, flags);
                });
            }
        }
    }
}

#[test]
fn many_bytes_changed() {
    let runner = Runner::new();
    for round in 0..u64::from(rounds()) {
        let mut numbers = Numbers::new(2 + round);
        for _ in 0..10_000 {
            let input = image::random(&mut numbers);
            runner.run(|| format!("image {}", hex(&input)), || image::run(&input));
        }
    }
}

/// A server whose segment is written over while it serves: calls and the server end in time, with an outcome or an error; no
/// thread of the engine panics.
#[test]
fn a_server_that_is_written_over() {
    // The panics of all threads of the process are counted.
    if has_run_alone_within(ALONE_GUARD * rounds(), "hostile::a_server_that_is_written_over") {
        return;
    }
    let (runner, mut before) = (Runner::new(), 0);
    for round in 0..u64::from(rounds()) {
        let mut numbers = Numbers::new(3 + round);
        for _ in 0..150 {
            let input = live::random(&mut numbers);
            runner.run(|| format!("live {}", hex(&input)), || live::run(&input));
            before += 1;
        }
    }
    assert!(live::answered() > before, "most calls are answered all the same");
}

/// How workers ended, as the supervisor logs it.
static ENDS: Mutex<Vec<String>> = Mutex::new(Vec::new());

fn note_end(event: &tracing::Event<'_>) {
    struct Text(String);
    impl tracing::field::Visit for Text {
        fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn std::fmt::Debug) {
            if field.name() == "message" {
                self.0 = format!("{value:?}");
            }
        }
    }
    let mut text = Text(String::new());
    event.record(&mut text);
    ENDS.lock().expect("no panic").push(text.0);
}

/// A server of worker processes whose segment is written over: none of them is killed by a signal, or panics.
#[test]
fn worker_processes_that_are_written_over() {
    // The listener of the log, and the panics that are counted, are the process's.
    if has_run_alone_within(ALONE_GUARD * rounds(), "hostile::worker_processes_that_are_written_over") {
        return;
    }
    tracing::subscriber::set_global_default(Listener::of_warnings(note_end)).expect("the only one");
    let runner = Runner::new();
    for round in 0..u64::from(rounds()) {
        let mut numbers = Numbers::new(4 + round);
        for _ in 0..25 {
            let input = live::random(&mut numbers);
            runner.run(
                || format!("live, processes {}", hex(&input)),
                || {
                    live::run_with(Host::Processes, &input);
                    let ends = std::mem::take(&mut *ENDS.lock().expect("no panic"));
                    let crash = |end: &String| end.contains("signal") || end.contains("panicked");
                    assert!(!ends.iter().any(crash), "{ends:?}");
                },
            );
        }
    }
}

/// Not a test: writes the corpus's seeds, from bytes that real code writes. Inputs that the fuzzer, or a failed test, has found
/// are put beside them by hand.
#[test]
#[ignore = "writes files into the source tree"]
fn write_the_seeds() {
    use ringmill::__private::hostile::write;
    use ringmill::error::{RemoteCause, RemoteError};
    let put = |target: &str, name: &str, bytes: &[u8]| {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target).join(name);
        std::fs::write(path, bytes).expect("a directory for each target");
    };
    for which in 0..3_u8 {
        for flags in [0, 6, 7, 24] {
            put("image", &format!("tour-{which}-{flags}"), &[&[which, flags, 0, 0], image::TOUR].concat());
        }
    }
    let mut numbers = Numbers::new(9);
    for number in 0..6 {
        put("image", &format!("chance-{number}"), &image::random(&mut numbers));
        put("live", &format!("chance-{number}"), &live::random(&mut numbers));
    }
    for forked in 0..2 {
        put("live", &format!("calls-{forked}"), &[forked, 0, 1, 1, 2, 2, 3, 3, 4, 4, 0, 6]);
    }
    let error = ringmill::__private::hostile::error(RemoteCause::Failed {
        invalid: true,
        type_name: "app::Bad".into(),
        messages: vec!["an outer error".into(), "an inner one".into()],
        details: Some(Box::new(ringmill::error::FailureDetails {
            backtrace: Some("0: main\n1: start\n".repeat(40)),
            attachment: Some(vec![7; 300]),
        })),
    });
    let message = [&b"app::Bad: no\0"[..], &write(&error).expect("it is plain")].concat();
    let text = || String::from("a text that does not lie in line");
    let payloads: [(u8, Result<Vec<u8>, String>); 9] = [
        (0, write(&7_u64)),
        (1, write(&text())),
        (2, write(&vec![text(), String::new(), text()])),
        (3, write(&vec![None, Some(Box::new((1_u8, text())))])),
        (4, write(&(Box::new(1_u64), Box::new(text())))),
        (
            6,
            write(&(Ok::<_, Box<RemoteError>>(Box::new(1_u64)), Err::<Box<u64>, _>(Box::new(error.clone())))),
        ),
        (7, write(&vec![Ok(Box::new(1_u64)), Err(Box::new(error.clone()))])),
        (8, write(&('x', true, [1_i16, -2, 3], Some(0.5_f32)))),
        (9, write(&error)),
    ];
    for (kind, bytes) in payloads {
        put("payload", &format!("kind-{kind}"), &[&[kind], &bytes.expect("it is plain")[..]].concat());
    }
    for (name, text) in [
        (
            "order",
            r#"{"version":5,"row":3,"tokens":[3073,4098],"wait":"Park","origin":{"pid":42,"began":7,"lease":1},"descriptors":null,"build":null,"name":"app","segment":"name"}"#,
        ),
        (
            "order-spin",
            r#"{"version":5,"row":1,"tokens":[1025],"wait":{"Spin":{"secs":0,"nanos":7000}},"origin":{"pid":42,"began":7,"lease":1},"descriptors":[{"number":3,"file":1},{"number":4,"file":2},{"number":5,"file":3},{"number":6,"file":4}],"config":{"number":8,"file":6},"type_hash":9,"max_requests":7,"build":"ab01","name":"","events":{"descriptor":{"number":7,"file":5},"level":"info"},"segment":"/dev/shm/segment"}"#,
        ),
        (
            "event",
            r#"{"level":3,"unix_ns":1700000000000000000,"target":"app::model","file":"src/model.rs","line":42,"text":"loaded","fields":"layers=12"}"#,
        ),
        ("name", "a.b-c_d"),
        ("path", "/tmp/x:y"),
    ] {
        put("text", name, text.as_bytes());
    }
    put("text", "message", &message);
}
