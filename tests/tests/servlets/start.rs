//! A server starts with all its workers side by side, or returns an error and leaves nothing behind.
//!
//! Each test of this file has a process of its own, so that every child of it is the test's.

use ringmill::error::RemoteCause;
use ringmill::servlet::Pin;
use ringmill::{
    Batch, BatchWorker, BoxError, CallError, Context, Cpus, Ensemble, PassThrough, ProcessServlet, Reserve,
    Server, ServerBuilder, Servlet, StartError, ThreadServlet, Worker,
};
use ringmill_shm::segment::CreateError;
use ringmill_shm::sys::process::ignore_signal;
use ringmill_shm::text::exact_size;
use ringmill_tests::alone::has_run_alone;
use ringmill_tests::gate::{Gate, stop_at};
use ringmill_tests::host::{Crew, Host, on_both};
use ringmill_tests::pile::stream_all;
use ringmill_tests::traces::{assert_gone, children};
use ringmill_tests::{GUARD, fresh_name};
use rkyv::string::ArchivedString;
use rkyv::{Archive, Deserialize, Serialize};
use std::any::type_name;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc;
use std::time::Duration;

ringmill::init!(Recruit, Crowd, PassThrough<String>);

/// A short time, for events that must not happen.
const SHORT: Duration = Duration::from_secs(1);

/// This test's turn; its server's name.
struct Turn {
    name: String,
}

impl Turn {
    fn take() -> Self {
        Self { name: fresh_name("start") }
    }

    fn builder(&self) -> ServerBuilder {
        Server::builder(&self.name)
    }

    /// Nothing is left of a server of this name, and the next one starts.
    #[track_caller]
    fn assert_nothing_left(&self) {
        assert_gone(&self.name);
        assert_eq!(children(), Vec::<String>::new(), "processes left");
        let server = self.builder().start(ProcessServlet::<PassThrough<String>>::new(()));
        let server = server.expect("the name is free");
        assert_eq!(server.call(&"well".into()).expect("an answer").as_str(), "well");
        drop(server);
        assert_gone(&self.name);
        assert_eq!(children(), Vec::<String>::new(), "processes left");
    }

    /// [`assert_nothing_left`](Self::assert_nothing_left) of a server that did not start.
    #[track_caller]
    fn assert_refused<In, Out>(&self, start: Result<Server<In, Out>, StartError>) -> StartError {
        let error = start.map(drop).expect_err("it cannot start");
        self.assert_nothing_left();
        error
    }
}

/// The order for a recruit while it is built; for the one of that index, or for all.
#[derive(Debug, Clone, Archive, Serialize, Deserialize)]
struct Training {
    worker: Option<usize>,
    what: Trial,
    gate: String,
}

#[derive(Debug, Clone, Archive, Serialize, Deserialize)]
enum Trial {
    Pass,
    Fail,
    Panic,
    Exit,
    Stop,
}

impl Training {
    fn of(worker: impl Into<Option<usize>>, what: Trial) -> Self {
        Self { worker: worker.into(), what, gate: String::new() }
    }
}

/// A worker whose construction can go wrong in all ways.
struct Recruit;

impl Worker for Recruit {
    type Config = Training;
    type In = String;
    type Out = usize;

    fn new(training: Training, context: &Context) -> Result<Self, BoxError> {
        if training.worker.is_some_and(|worker| worker != context.worker_index()) {
            return Ok(Self);
        }
        match training.what {
            Trial::Pass => {}
            Trial::Fail => {
                fs::read("/no/such/model")?;
            }
            Trial::Panic => panic!("not made for this"),
            Trial::Exit => std::process::exit(3),
            Trial::Stop => stop_at(&training.gate, &context.worker_index().to_string()),
        }
        Ok(Self)
    }

    fn call(&mut self, input: &ArchivedString) -> Result<usize, BoxError> {
        Ok(input.len())
    }
}

/// A worker that says how many items its batch has.
struct Crowd;

impl BatchWorker for Crowd {
    type Config = ();
    type In = u32;
    type Out = usize;

    fn new((): (), _: &Context) -> Result<Self, BoxError> {
        Ok(Self)
    }

    fn call(&mut self, batch: Batch<'_, Self>) -> Result<(), BoxError> {
        let len = batch.len();
        batch.reply_all(vec![len; len])
    }
}

#[test]
fn workers_are_built_side_by_side() {
    if has_run_alone("start::workers_are_built_side_by_side") {
        return;
    }
    on_both(|host| {
        let turn = Turn::take();
        let gate = Gate::new();
        let training = Training { gate: gate.name(), ..Training::of(None, Trial::Stop) };
        let server = std::thread::scope(|scope| {
            // No worker goes on before all four are there.
            scope.spawn(|| {
                let all = gate.arrivals(4);
                let mut built: Vec<_> = all.iter().map(|arrival| arrival.label().to_string()).collect();
                built.sort();
                assert_eq!(built, ["0", "1", "2", "3"]);
            });
            host.start::<Recruit>(turn.builder().start_timeout(2 * GUARD), training, Crew::of(4))
        });
        assert_eq!(server.stats().servlets[0].workers.iter().filter(|worker| worker.ready).count(), 4);
        drop(server);
        turn.assert_nothing_left();
    });
}

#[test]
fn a_server_starts_only_when_every_worker_is_ready() {
    if has_run_alone("start::a_server_starts_only_when_every_worker_is_ready") {
        return;
    }
    on_both(|host| {
        let turn = Turn::take();
        let gate = Gate::new();
        let training = Training { gate: gate.name(), ..Training::of(1, Trial::Stop) };
        let (builder, (started, has_started)) = (turn.builder(), mpsc::channel());
        std::thread::scope(|scope| {
            let arrival = scope.spawn(|| gate.arrival());
            scope.spawn(move || {
                started.send(host.start::<Recruit>(builder, training, Crew::of(2))).expect("heard");
            });
            let arrival = arrival.join().expect("no panic");
            assert!(has_started.try_recv().is_err(), "one is still being built");
            arrival.release();
            let server = has_started.recv_timeout(GUARD).expect("it starts now");
            assert_eq!(*server.call(&"four".into()).expect("an answer"), 4);
        });
    });
}

#[test]
fn a_constructor_that_fails_is_named_with_its_error() {
    if has_run_alone("start::a_constructor_that_fails_is_named_with_its_error") {
        return;
    }
    on_both(|host| {
        let turn = Turn::take();
        for (workers, worker) in [(1, 0), (3, 2)] {
            let training = Training::of(worker, Trial::Fail);
            let start = host.try_start::<Recruit>(turn.builder(), training, Crew::of(workers));
            let error = turn.assert_refused(start);
            let text = error.to_string();
            let StartError::Worker(error) = error else { panic!("{error:?}") };
            assert_eq!((error.servlet.as_str(), error.worker as usize), ("recruit", worker));
            let RemoteCause::Failed { type_name, messages, .. } = &error.cause else { panic!("{error:?}") };
            assert_eq!(type_name, "std::io::error::Error");
            assert_eq!(messages, &["No such file or directory (os error 2)"]);
            let told = "std::io::error::Error: No such file or directory (os error 2)";
            assert_eq!(text, format!("worker recruit/{worker} failed to start: {told}"));
        }
    });
}

#[test]
fn a_constructor_that_panics_is_named_with_its_message() {
    if has_run_alone("start::a_constructor_that_panics_is_named_with_its_message") {
        return;
    }
    on_both(|host| {
        let turn = Turn::take();
        let training = Training::of(1, Trial::Panic);
        let start = host.try_start::<Recruit>(turn.builder(), training, Crew::of(2));
        let error = turn.assert_refused(start);
        let StartError::Worker(error) = error else { panic!("{error:?}") };
        assert_eq!((error.servlet.as_str(), error.worker), ("recruit", 1));
        let RemoteCause::Panicked { message, .. } = &error.cause else { panic!("{error:?}") };
        let line = include_str!("start.rs").lines().position(|line| line.contains("Trial::Panic => panic!("));
        let told = format!("not made for this at {}:{}:", file!(), line.expect("it is above") + 1);
        let column = message.strip_prefix(&told).unwrap_or_else(|| panic!("{message}, not {told}"));
        assert!(column.parse::<u32>().is_ok(), "{message}");
    });
}

#[test]
fn a_constructor_that_ends_the_process_is_named_with_its_exit_code() {
    if has_run_alone("start::a_constructor_that_ends_the_process_is_named_with_its_exit_code") {
        return;
    }
    let turn = Turn::take();
    let servlet = ProcessServlet::<Recruit>::new(Training::of(1, Trial::Exit)).cpus(2);
    let error = turn.assert_refused(turn.builder().start(servlet));
    let StartError::Died { servlet, worker: 1, status, code: Some(3), program: None } = &error else {
        panic!("{error:?}")
    };
    assert_eq!((servlet.as_str(), status.as_str()), ("recruit", "exit code 3"));
    assert_eq!(error.to_string(), "worker recruit/1 ended before it was ready: exit code 3");
}

#[test]
fn a_constructor_that_hangs_ends_with_the_start_timeout() {
    if has_run_alone("start::a_constructor_that_hangs_ends_with_the_start_timeout") {
        return;
    }
    let turn = Turn::take();
    let gate = Gate::new(); // stays closed
    let training = Training { gate: gate.name(), ..Training::of(None, Trial::Stop) };
    let servlet = ProcessServlet::<Recruit>::new(training).name("slow");
    let error = turn.assert_refused(turn.builder().start_timeout(SHORT).start(servlet));
    let StartError::Timeout { servlet, worker: 0, limit: SHORT, program: None } = &error else {
        panic!("{error:?}")
    };
    assert_eq!(servlet, "slow");
    assert_eq!(
        error.to_string(),
        "worker slow/0 was not ready within 1.000 s: its set-up, new and warm_up take longer, or hang; start_timeout sets the limit"
    );
}

#[test]
fn one_worker_that_hangs_among_others_ends_with_the_start_timeout() {
    if has_run_alone("start::one_worker_that_hangs_among_others_ends_with_the_start_timeout") {
        return;
    }
    let turn = Turn::take();
    let gate = Gate::new();
    let training = Training { gate: gate.name(), ..Training::of(2, Trial::Stop) };
    let start = turn.builder().start_timeout(SHORT).start(ProcessServlet::<Recruit>::new(training).cpus(4));
    // Which worker is named depends on how fast the others were.
    let error = turn.assert_refused(start);
    assert!(matches!(error, StartError::Timeout { limit: SHORT, .. }), "{error:?}");
}

/// A program in a directory of its own.
fn script(directory: &Path, text: &str) -> PathBuf {
    let (written, path) = (directory.join("text"), directory.join("program"));
    fs::write(&written, text).expect("a temporary directory can be written to");
    // By a process of its own, as `PublicProgram::of` does.
    assert!(std::process::Command::new("cp").arg(written).arg(&path).status().expect("it runs").success());
    fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).expect("it is ours");
    path
}

#[test]
fn an_executable_that_is_missing_is_named() {
    if has_run_alone("start::an_executable_that_is_missing_is_named") {
        return;
    }
    let turn = Turn::take();
    for program in ["/no/such/program", "/dev/null", "/"] {
        let servlet = ProcessServlet::<PassThrough<String>>::new(()).program(program).cpus(2);
        let error = turn.assert_refused(turn.builder().start(servlet));
        let StartError::Executable { servlet, path, error: said } = &error else { panic!("{error:?}") };
        assert_eq!((servlet.as_str(), path.as_path()), ("passthrough", Path::new(program)));
        let told = format!("servlet passthrough: cannot start {program}: {said}");
        assert_eq!(error.to_string(), told);
    }
}

#[test]
fn a_program_that_ends_before_it_is_a_worker_is_an_error() {
    if has_run_alone("start::a_program_that_ends_before_it_is_a_worker_is_an_error") {
        return;
    }
    let turn = Turn::take();
    let directory = tempfile::tempdir().expect("a temporary directory");
    // The server cannot look into a script before it runs.
    for (text, ended, exit_code) in
        [("exec true", "exit code 0", Some(0)), ("exit 5", "exit code 5", Some(5))]
    {
        let program = script(directory.path(), &format!("#!/bin/sh\n{text}\n"));
        let servlet = ProcessServlet::<PassThrough<String>>::new(()).program(program).cpus(2);
        let error = turn.assert_refused(turn.builder().start(servlet));
        let StartError::Died { servlet, status, code, .. } = &error else { panic!("{error:?}") };
        assert_eq!((servlet.as_str(), status.as_str(), *code), ("passthrough", ended, exit_code));
    }
    let suicidal = script(directory.path(), "#!/bin/sh\nkill -9 $$\n");
    let servlet = ProcessServlet::<PassThrough<String>>::new(()).program(suicidal);
    let error = turn.assert_refused(turn.builder().start(servlet));
    let StartError::Died { status, code: None, .. } = &error else { panic!("{error:?}") };
    assert_eq!(status, "killed by signal 9");
}

#[test]
fn a_program_that_never_is_a_worker_ends_with_the_start_timeout() {
    if has_run_alone("start::a_program_that_never_is_a_worker_ends_with_the_start_timeout") {
        return;
    }
    let turn = Turn::take();
    let directory = tempfile::tempdir().expect("a temporary directory");
    let idle = script(directory.path(), "#!/bin/sh\nexec sleep 1000\n");
    let servlet = ProcessServlet::<PassThrough<String>>::new(()).program(idle).cpus(2);
    let error = turn.assert_refused(turn.builder().start_timeout(SHORT).start(servlet));
    assert!(matches!(error, StartError::Timeout { worker: 0, limit: SHORT, .. }), "{error:?}");
}

#[test]
fn a_worker_type_that_is_not_listed_is_named_with_those_that_are() {
    if has_run_alone("start::a_worker_type_that_is_not_listed_is_named_with_those_that_are") {
        return;
    }
    // Nor by another module of this program.
    type Unlisted = PassThrough<[u64; 3]>;
    let turn = Turn::take();
    let start = turn.builder().start(ProcessServlet::<Unlisted>::new(()).cpus(2));
    let error = turn.assert_refused(start);
    let text = error.to_string();
    let StartError::NotListed { servlet, worker_type, listed } = error else { panic!("{error:?}") };
    let named = type_name::<Unlisted>();
    assert_eq!((servlet.as_str(), worker_type.as_str()), ("passthrough", named));
    let ours = [type_name::<Recruit>(), type_name::<Crowd>(), type_name::<PassThrough<String>>()];
    assert!(ours.iter().all(|name| listed.iter().any(|listed| listed == name)), "{listed:?}");
    assert!(!listed.iter().any(|name| name == named), "{listed:?}");
    let told = format!(
        "servlet passthrough: worker type {named} is not listed in ringmill::init!({}); add it there",
        listed.join(", ")
    );
    assert_eq!(text, told);
    // Threads need no list.
    let server = turn.builder().start(ThreadServlet::<Unlisted>::new(())).expect("it starts");
    assert_eq!(*server.call(&[7; 3]).expect("an answer"), [7; 3]);
}

#[test]
fn a_batch_size_and_a_wait_that_contradict_each_other_are_both_named() {
    if has_run_alone("start::a_batch_size_and_a_wait_that_contradict_each_other_are_both_named") {
        return;
    }
    on_both(|host| {
        let turn = Turn::take();
        for size in [0, 1] {
            let wait = Duration::from_millis(5);
            let start = host.try_start::<Crowd>(turn.builder(), (), Crew::of(1).patient(size, wait));
            let error = turn.assert_refused(start);
            let text = format!(
                "servlet crowd: batch_size {size} with batch_wait_time 5ms: a wait needs a batch_size above 1"
            );
            assert_eq!(error.to_string(), text);
            assert!(matches!(error, StartError::BatchRule { batch_size, .. } if batch_size == size));
            // No wait is no contradiction.
            assert!(host.try_start::<Crowd>(turn.builder(), (), Crew::of(1).greedy(size)).is_ok());
        }
        for crew in [Crew::of(1).greedy(usize::MAX), Crew::of(1).patient(2, Duration::MAX)] {
            let error = turn.assert_refused(host.try_start::<Crowd>(turn.builder(), (), crew));
            assert!(
                matches!(&error, StartError::Range { servlet: Some(name), .. } if name == "crowd"),
                "{error}"
            );
        }
    });
}

#[test]
fn a_capacity_out_of_range_is_named_with_the_range() {
    if has_run_alone("start::a_capacity_out_of_range_is_named_with_the_range") {
        return;
    }
    on_both(|host| {
        let turn = Turn::take();
        for capacity in [0, (1 << 24) + 1, usize::MAX] {
            let start = host.try_start::<Crowd>(turn.builder().capacity(capacity), (), Crew::of(1));
            let error = turn.assert_refused(start);
            assert_eq!(error.to_string(), format!("capacity is {capacity}, must be in 1..=16777216"));
        }
    });
}

/// Symptom: a service that a script had put into the background did nothing at Ctrl-C, and nothing said why.
#[test]
fn a_process_that_ignores_the_signals_by_which_it_is_ended_is_warned_of() {
    if has_run_alone("start::a_process_that_ignores_the_signals_by_which_it_is_ended_is_warned_of") {
        return;
    }
    let warnings = |handle| {
        let builder = Server::builder(fresh_name("warned")).handle_signals(handle);
        builder.start(ThreadServlet::<PassThrough<u8>>::new(())).expect("it starts").warnings().to_vec()
    };
    ignore_signal(libc::SIGHUP); // as nohup does
    assert!(warnings(true).is_empty());
    for (signal, name) in [(libc::SIGINT, "SIGINT"), (libc::SIGTERM, "SIGTERM")] {
        ignore_signal(signal);
        assert!(
            warnings(true).last().is_some_and(|text| text.starts_with(&format!("{name} is ignored, so ")))
        );
    }
    assert_eq!((warnings(true).len(), warnings(false).len()), (2, 0));
}

#[test]
fn a_capacity_below_a_batch_is_warned_of_and_works() {
    if has_run_alone("start::a_capacity_below_a_batch_is_warned_of_and_works") {
        return;
    }
    on_both(|host| {
        let turn = Turn::take();
        let start =
            |capacity| host.start::<Crowd>(turn.builder().capacity(capacity), (), Crew::of(1).batches_of(8));
        let server = start(5);
        assert_eq!(
            server.warnings(),
            ["capacity 5 is smaller than servlet crowd's batch_size 8: its batches can never be full"]
        );
        assert_eq!(stream_all(&server, 0..20).into_iter().filter(|outcome| outcome.is_ok()).count(), 20);
        assert!(server.stats().servlets[0].batches().max <= 5);
        drop(server);
        assert!(start(8).warnings().is_empty());
    });
}

#[test]
fn a_cpu_that_may_not_be_used_is_named() {
    if has_run_alone("start::a_cpu_that_may_not_be_used_is_named") {
        return;
    }
    on_both(|host| {
        let turn = Turn::take();
        let allowed = ringmill::cpu::allowed();
        let above = allowed.iter().max().expect("we run on one") + 1;
        for (cpus, named) in [
            (Cpus::from([allowed[0], above]), above),
            (Cpus::list([Pin::any(), Pin::to([allowed[0], 5000])]), 5000),
        ] {
            let start = host.try_start::<Crowd>(turn.builder(), (), Crew::on(cpus));
            let error = turn.assert_refused(start);
            let StartError::Cpu { servlet, cpu, allowed: told } = &error else { panic!("{error:?}") };
            assert_eq!((servlet.as_deref(), *cpu, told.as_slice()), (Some("crowd"), named, allowed));
            let list = allowed.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
            let told =
                format!("servlet crowd: CPU {named} is not among the CPUs this process may use ({list})");
            assert_eq!(error.to_string(), told);
        }
    });
}

#[test]
fn a_servlet_without_workers_or_with_too_many_is_an_error() {
    if has_run_alone("start::a_servlet_without_workers_or_with_too_many_is_an_error") {
        return;
    }
    on_both(|host| {
        let turn = Turn::take();
        for workers in [0, 65] {
            let start = host.try_start::<Crowd>(turn.builder(), (), Crew::of(workers));
            let error = turn.assert_refused(start);
            let text = format!("servlet crowd: number of workers is {workers}, must be in 1..=64");
            assert_eq!(error.to_string(), text);
        }
        let none = Cpus::list([Pin::to([])]);
        let error = turn.assert_refused(host.try_start::<Crowd>(turn.builder(), (), Crew::on(none)));
        let told = format!(
            "servlet crowd: number of CPUs of a pinned worker is 0, must be in 1..={}",
            ringmill::cpu::allowed().len()
        );
        assert_eq!(error.to_string(), told);
    });
}

#[test]
fn invalid_names_are_refused() {
    if has_run_alone("start::invalid_names_are_refused") {
        return;
    }
    let turn = Turn::take();
    let long = "x".repeat(56);
    for name in ["", ".", ".hidden", "a/b", "../a", "a b", "ä", "a\0b", "a.lease", &long] {
        let start = Server::builder(name).start(ProcessServlet::<PassThrough<String>>::new(()));
        let error = turn.assert_refused(start);
        let StartError::Segment(CreateError::Name(told)) = &error else { panic!("{error:?}") };
        assert_eq!((told.name.as_str(), told.longest), (name, 55));
    }
    let longest = format!("{}{}", turn.name, "x".repeat(55 - turn.name.len()));
    let server = Server::builder(&longest).start(ProcessServlet::<PassThrough<String>>::new(()));
    assert_eq!(server.expect("a name").name(), longest);
    assert_gone(&longest);
}

#[test]
fn a_name_that_a_living_server_uses_is_refused_with_its_process() {
    if has_run_alone("start::a_name_that_a_living_server_uses_is_refused_with_its_process") {
        return;
    }
    on_both(|host| {
        let turn = Turn::take();
        let first = host.start::<Crowd>(turn.builder(), (), Crew::of(1));
        let start = host.try_start::<Crowd>(turn.builder(), (), Crew::of(1));
        let error = start.map(drop).expect_err("the name is taken");
        let StartError::Segment(CreateError::InUse { path, pid: Some(pid) }) = &error else {
            panic!("{error:?}")
        };
        assert_eq!((path, *pid), (&first.segment_path(), std::process::id()));
        let told = format!(
            "segment {} is in use by a live server (pid {pid}): take another name, or stop that one first",
            path.display()
        );
        assert_eq!(error.to_string(), told);
        assert_eq!(*first.call(&1).expect("the living one goes on"), 1);
        drop(first);
        turn.assert_nothing_left();
    });
}

#[test]
fn too_little_memory_is_an_error_with_both_sizes() {
    if has_run_alone("start::too_little_memory_is_an_error_with_both_sizes") {
        return;
    }
    let turn = Turn::take();
    // More than any machine has, in few enough numbers to be counted.
    let builder = turn.builder().capacity(1 << 20).max_payload(1 << 23).reserve(Reserve::Everything);
    let error = turn.assert_refused(builder.start(ProcessServlet::<PassThrough<String>>::new(())));
    let StartError::Segment(CreateError::NoSpace { path, needed_bytes, available_bytes }) = &error else {
        panic!("{error:?}")
    };
    assert_eq!(path, Path::new("/dev/shm"));
    assert!(*needed_bytes > 1 << 44 && available_bytes < needed_bytes, "{error}");
    let told = format!(
        "/dev/shm has {} free, the segment needs {}: lower capacity, max_payload or payload_classes, or enlarge it",
        exact_size(*available_bytes),
        exact_size(*needed_bytes)
    );
    assert_eq!(error.to_string(), told);
}

#[test]
fn sizes_that_no_segment_can_have_are_refused() {
    if has_run_alone("start::sizes_that_no_segment_can_have_are_refused") {
        return;
    }
    let turn = Turn::take();
    let start = |builder: ServerBuilder| builder.start(ProcessServlet::<PassThrough<String>>::new(()));
    turn.assert_refused(start(turn.builder().max_payload(usize::MAX)));
    turn.assert_refused(start(turn.builder().capacity(1 << 20).max_payload(1 << 30)));
    turn.assert_refused(start(turn.builder().payload_classes([(1024, usize::MAX)])));
    turn.assert_refused(start(turn.builder().payload_classes([(1024, 0)])));
    turn.assert_refused(start(turn.builder().payload_classes([(usize::MAX, 1)])));
    turn.assert_refused(start(turn.builder().payload_classes((1..10).map(|i| (i * 1024, 1)))));
}

#[test]
fn the_size_of_a_segment_is_known_before_it_is_made() {
    if has_run_alone("start::the_size_of_a_segment_is_known_before_it_is_made") {
        return;
    }
    let turn = Turn::take();
    let echo = || ThreadServlet::<PassThrough<String>>::new(());
    let tree = || echo().then(Ensemble::each([echo(), echo(), echo()]));
    let builders = [
        turn.builder(),
        turn.builder().capacity(1000).max_payload(100_000),
        turn.builder().capacity(7).payload_classes([(4096, 3)]).partials(2),
    ];
    let sizes = builders.map(|builder| {
        let bytes = builder.segment_bytes(&tree()).expect("a size");
        let server = builder.start(tree()).expect("a server");
        assert_eq!(fs::metadata(server.segment_path()).expect("its file").len(), bytes);
        bytes
    });
    assert!(sizes[2] < sizes[0] && sizes[0] < sizes[1], "{sizes:?}");
    for builder in [turn.builder().capacity(0), turn.builder().max_payload(usize::MAX)] {
        let error = builder.segment_bytes(&tree()).expect_err("no segment is like that");
        assert_eq!(turn.assert_refused(builder.start(tree())).to_string(), error.to_string());
    }
}

#[test]
fn a_segment_can_lie_in_a_file() {
    if has_run_alone("start::a_segment_can_lie_in_a_file") {
        return;
    }
    on_both(|host| {
        let turn = Turn::take();
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join("segment");
        let server = host.start::<Crowd>(turn.builder().file(&path), (), Crew::of(2));
        assert_eq!(server.segment_path(), path);
        assert!(path.exists());
        assert_eq!(server.name(), turn.name);
        assert_eq!(*server.call(&1).expect("an answer"), 1);
        drop(server);
        assert_eq!(fs::read_dir(directory.path()).expect("it is there").count(), 0, "files left");
        turn.assert_nothing_left();
    });
}

#[test]
fn a_file_that_is_no_segment_is_left_alone() {
    if has_run_alone("start::a_file_that_is_no_segment_is_left_alone") {
        return;
    }
    let turn = Turn::take();
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = |name: &str| directory.path().join(name);
    fs::write(path("file"), "a diary").expect("a file");
    fs::write(path("short"), "d").expect("a file");
    fs::create_dir(path("directory")).expect("a directory");
    std::os::unix::fs::symlink(path("file"), path("link")).expect("a link");
    std::os::unix::fs::symlink(path("nowhere"), path("dangling")).expect("a link");
    let made = Command::new("mkfifo").arg(path("fifo")).status().expect("mkfifo");
    assert!(made.success());
    let names = || {
        let entries = fs::read_dir(directory.path()).expect("it is there");
        let mut names: Vec<_> = entries.map(|entry| entry.expect("an entry").file_name()).collect();
        names.sort();
        names
    };
    let before = names();
    for name in ["file", "short", "directory", "link", "dangling", "fifo"] {
        let start = turn.builder().file(path(name)).start(ProcessServlet::<PassThrough<String>>::new(()));
        let error = turn.assert_refused(start);
        let StartError::Segment(CreateError::Foreign { path: told }) = &error else { panic!("{error:?}") };
        assert_eq!(*told, path(name));
        let told = format!(
            "{} exists and is not a ringmill segment; it was left alone: remove it, or take another name",
            told.display()
        );
        assert_eq!(error.to_string(), told);
    }
    assert_eq!(names(), before, "nothing was removed or added");
    assert_eq!(fs::read_to_string(path("file")).expect("it is there"), "a diary");
    assert_eq!(fs::read_link(path("link")).expect("it is there"), path("file"));
    assert_eq!(fs::read_link(path("dangling")).expect("it is there"), path("nowhere"));
    // Nor can a segment lie in a directory that does not exist.
    let start = turn.builder().file(path("no/such")).start(ProcessServlet::<PassThrough<String>>::new(()));
    let error = turn.assert_refused(start);
    assert!(matches!(&error, StartError::Segment(CreateError::System { .. })), "{error:?}");
}

#[test]
fn a_dead_servers_files_are_replaced() {
    if has_run_alone("start::a_dead_servers_files_are_replaced") {
        return;
    }
    on_both(|host| {
        let turn = Turn::take();
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join("segment");
        let of_another_version = [b"ringmill".as_slice(), &[0xEE; 4088]].concat();
        // A segment of another version; and one whose creator died before it had written anything.
        for left in [of_another_version, vec![0; 8192], Vec::new()] {
            fs::write(&path, left).expect("a file");
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("it is ours");
            fs::write(directory.path().join("segment.lease"), "").expect("a file");
            let server = host.start::<Crowd>(turn.builder().file(&path), (), Crew::of(1));
            assert_eq!(*server.call(&1).expect("an answer"), 1);
            drop(server);
            assert_eq!(fs::read_dir(directory.path()).expect("it is there").count(), 0, "files left");
        }
        turn.assert_nothing_left();
    });
}

#[test]
fn a_foreign_file_with_a_segments_name_is_left_alone() {
    if has_run_alone("start::a_foreign_file_with_a_segments_name_is_left_alone") {
        return;
    }
    let turn = Turn::take();
    let path = Path::new("/dev/shm").join(format!("ringmill-{}", turn.name));
    fs::write(&path, "another program's").expect("a file");
    let start = turn.builder().start(ProcessServlet::<PassThrough<String>>::new(()));
    let found = fs::read_to_string(&path);
    fs::remove_file(&path).expect("it is there");
    assert_eq!(found.expect("it is there"), "another program's");
    let error = turn.assert_refused(start);
    assert!(matches!(error, StartError::Segment(CreateError::Foreign { .. })), "{error:?}");
}

#[test]
fn an_input_too_large_is_refused_with_both_sizes_and_does_no_harm() {
    if has_run_alone("start::an_input_too_large_is_refused_with_both_sizes_and_does_no_harm") {
        return;
    }
    on_both(|host| {
        let turn = Turn::take();
        let builder = turn.builder().capacity(8).max_payload(1024);
        let server = host.start::<PassThrough<String>>(builder, (), Crew::of(1));
        let large = "x".repeat(5000);
        let error = server.call(&large).expect_err("it does not fit");
        let CallError::PayloadTooLarge { bytes, largest: 1024 } = error else { panic!("{error:?}") };
        assert!((5000..5100).contains(&bytes), "{bytes}");
        let told = format!(
            "the input has {bytes} bytes, the largest payload class 1024: raise max_payload, or send less"
        );
        assert_eq!(error.to_string(), told);
        assert_eq!(server.backlog(), 0, "it has no permit");
        // In a stream it is an error in its turn, and the others are answered.
        let text = |i: u32| if i % 7 == 3 { large.clone() } else { i.to_string() };
        let outcomes = stream_all(&server, (0..100).map(text));
        assert_eq!(outcomes.len(), 100);
        for (i, outcome) in (0..).zip(outcomes) {
            match outcome {
                Ok(same) => assert_eq!(same, text(i)),
                Err(CallError::PayloadTooLarge { .. }) => assert_eq!(i % 7, 3),
                Err(other) => panic!("{other}"),
            }
        }
        assert_eq!(server.backlog(), 0);
    });
}

/// Symptom: a server of threads sometimes took its whole shutdown timeout to stop. Cause: a thread about to end woke the
/// supervisor, which found it not finished yet, and was not woken again. Fix: a thread says that it leaves before it wakes the
/// supervisor.
#[test]
fn a_server_of_threads_stops_as_soon_as_they_have() {
    if has_run_alone("start::a_server_of_threads_stops_as_soon_as_they_have") {
        return;
    }
    let turn = Turn::take();
    let (stopped, has_stopped) = mpsc::channel();
    let builder = turn.builder().shutdown_timeout(100 * GUARD);
    std::thread::spawn(move || {
        for _ in 0..300 {
            let server = builder.clone().start(ThreadServlet::<Crowd>::new(()).cpus(3));
            drop(server.expect("it starts"));
        }
        stopped.send(()).expect("heard");
    });
    has_stopped.recv_timeout(2 * GUARD).expect("none waits for its shutdown timeout");
    turn.assert_nothing_left();
}

#[test]
fn worker_processes_and_threads_are_those_that_were_asked_for() {
    if has_run_alone("start::worker_processes_and_threads_are_those_that_were_asked_for") {
        return;
    }
    on_both(|host| {
        let turn = Turn::take();
        let server = host.start::<Crowd>(turn.builder(), (), Crew::of(3));
        let pids: Vec<u32> = server.stats().servlets[0].workers.iter().map(|worker| worker.pid).collect();
        let mut running = children();
        running.retain(|child| !child.contains("ringmill janitor ")); // of a server that is root
        match host {
            Host::Processes => {
                assert_eq!(running.len(), 3, "{running:?}");
                for (index, pid) in pids.iter().enumerate() {
                    let titled = format!("ringmill worker {}/crowd/{index} ", turn.name);
                    let theirs = |child: &&String| child.starts_with(&format!("/proc/{pid} "));
                    let child = running.iter().find(theirs).expect("a child of ours");
                    assert!(child.ends_with(&titled), "{child}");
                }
            }
            Host::Threads => {
                assert_eq!(running, Vec::<String>::new());
                assert_eq!(pids, [std::process::id(); 3]);
            }
        }
        drop(server);
        turn.assert_nothing_left();
    });
}
