//! A process that is marked as a worker is that worker, or ends with the reason; it is never the program.
//!
//! Symptom: `Wait::Spin(Duration::MAX)` made the order unreadable, and the worker's process ran the program's `main`. Cause:
//! an unreadable order counted as none. Fix: a process with an order that it cannot follow ends before `main`; and any value
//! of an order can be written.
#![expect(unsafe_code, reason = "a constructor of our own")]

use ringmill::rkyv::Archived;
use ringmill::{BoxError, Context, PassThrough, ProcessServlet, Server, Wait, Worker};
use ringmill_tests::fresh_name;
use ringmill_tests::guard::guarded;
use ringmill_tests::name::Name;
use std::ffi::{OsStr, OsString, c_char, c_int};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

ringmill::init!(Host);

/// The variable that marks a worker.
const ORDER: &str = "RINGMILL_WORKER";
/// The exit code of a process that was ordered to be a worker and cannot be one.
const NOT_A_WORKER: i32 = 97;

/// A worker that runs a server with worker processes of its own.
struct Host(Server<String, String>);

impl Worker for Host {
    type Config = ();
    type In = String;
    type Out = String;

    fn new((): (), _: &Context) -> Result<Self, BoxError> {
        Ok(Self(Server::builder(fresh_name("nested")).start(ProcessServlet::<PassThrough<String>>::new(()))?))
    }

    fn call(&mut self, text: &Archived<String>) -> Result<String, BoxError> {
        Ok(format!("{} by way of {}", self.0.call(&text.to_string())?.as_str(), std::process::id()))
    }
}

fn run_ordered(program: impl AsRef<OsStr>, order: impl AsRef<OsStr>) -> Output {
    let mut command = Command::new(program);
    command.args(["--list", "any"]).env(ORDER, order).stdin(Stdio::null()).output().expect("it runs")
}

#[track_caller]
fn assert_ended(output: &Output, why: &str) {
    let (said, complained) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(NOT_A_WORKER), "{said}{complained}");
    assert_eq!(said, "", "its main has run");
    assert!(complained.contains(why) && complained.contains("unset it"), "{complained}");
    assert_eq!(complained.lines().count(), 1, "{complained}");
}

#[test]
fn an_order_that_cannot_be_followed_ends_the_process() {
    guarded(|| {
        let programs = [std::env::current_exe().expect("this program"), env!("CARGO_BIN_EXE_actors").into()];
        for program in &programs {
            for order in
                ["", "1", "worker", "3:3073,4098:park:42:name", "{}", "{\"version\":5}", "\u{1b}[31m"]
            {
                assert_ended(&run_ordered(program, order), "its order cannot be read");
            }
            let other = "{\"version\":77,\"by\":\"another release\"}";
            assert_ended(
                &run_ordered(program, other),
                "has version 77, and this program follows those of version",
            );
            assert_ended(&run_ordered(program, OsStr::from_bytes(b"\xff\xfe")), "not UTF-8");
        }
    });
}

/// An order of another process, whose server has gone.
#[test]
fn an_order_that_is_over_ends_the_process() {
    guarded(|| {
        let name = Name::new("over");
        let server = Server::builder(name.text()).start(ProcessServlet::<Host>::new(())).expect("it starts");
        let pid = ringmill_tests::stats::pids(&server)[0];
        let variables = std::fs::read(format!("/proc/{pid}/environ")).expect("it lives");
        let prefix = format!("{ORDER}=").into_bytes();
        let order: OsString = variables
            .split(|&byte| byte == 0)
            .find_map(|line| line.strip_prefix(&prefix[..]))
            .map(|order| OsStr::from_bytes(order).to_owned())
            .expect("it had an order");
        // Another process with a living worker's order does not become that worker, nor the program.
        let output = run_ordered(std::env::current_exe().expect("this program"), &order);
        assert!(!output.status.success() && output.stdout.is_empty(), "{output:?}");
        assert!(server.call(&"well".into()).expect("an answer").as_str().ends_with(&format!("of {pid}")));
        drop(server);
        let output = run_ordered(std::env::current_exe().expect("this program"), &order);
        assert!(!output.status.success() && output.stdout.is_empty(), "{output:?}");
        name.assert_nothing_left();
    });
}

/// A program that uses ringmill and lists no worker types.
#[test]
fn a_program_without_init_ends_before_its_main() {
    guarded(|| {
        let output = run_ordered(env!("CARGO_BIN_EXE_soloist"), "anything");
        assert_ended(&output, "no ringmill::init!");
        let output = Command::new(env!("CARGO_BIN_EXE_soloist")).output().expect("it runs");
        assert_eq!(String::from_utf8_lossy(&output.stdout), "main\n", "{output:?}");
    });
}

/// An interpreter that was to be a worker, by way of a script say, ends as soon as it loads a library with an `init!`.
#[test]
fn a_library_ends_an_interpreter_that_is_marked() {
    guarded(|| {
        let library = std::env::current_exe().expect("this program").with_file_name("libringmill_plugin.so");
        let script = format!("import ctypes; ctypes.CDLL('{}'); print('loaded')", library.display());
        let mut python = Command::new("python3");
        let Ok(output) = python.args(["-c", &script]).env(ORDER, "anything").output() else {
            println!("skipped: there is no python3");
            return;
        };
        assert_ended(&output, "in a library");
    });
}

/// A worker behind a script that has no server to report to prints its error, which the start's error has.
#[test]
fn a_script_that_leads_to_another_program_ends_the_start() {
    guarded(|| {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("program");
        let write = |text: &str| {
            let fresh = directory.path().join("text");
            std::fs::write(&fresh, text).expect("a file");
            // By a process of its own: no other process has it open for writing when it is run.
            assert!(Command::new("cp").arg(&fresh).arg(&path).status().expect("it runs").success());
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o700)).expect("it is ours");
        };
        write(&format!("#!/bin/sh\nexec '{}'\n", env!("CARGO_BIN_EXE_soloist")));
        let name = Name::new("script");
        let start = |program: &Path| {
            let servlet = ProcessServlet::<PassThrough<String>>::new(()).program(program);
            Server::builder(name.text()).start(servlet)
        };
        let error = start(&path).map(drop).expect_err("it is no worker");
        assert!(error.to_string().contains("no ringmill::init!"), "{error}");
        name.assert_nothing_left();
        write(&format!("#!/bin/sh\nexec '{}' \"$@\"\n", std::env::current_exe().expect("a path").display()));
        let server = start(&path).expect("it starts");
        assert_eq!(server.call(&"well".into()).expect("an answer").as_str(), "well");
    });
}

#[test]
fn every_wait_reaches_the_worker() {
    guarded(|| {
        for wait in [
            Wait::Spin(Duration::MAX),
            Wait::Spin(Duration::from_nanos(u64::MAX)),
            Wait::Spin(Duration::new(u64::MAX / 1_000_000_000 + 1, 0)),
            Wait::Spin(Duration::ZERO),
            Wait::Park,
            Wait::Adaptive,
        ] {
            let name = Name::new("waits");
            let builder = Server::builder(name.text()).wait(wait);
            let server = builder.start(ProcessServlet::<PassThrough<String>>::new(())).expect("it starts");
            assert_eq!(server.call(&"well".into()).expect("an answer").as_str(), "well");
        }
    });
}

#[test]
fn a_worker_may_have_workers() {
    guarded(|| {
        let name = Name::new("host");
        let server =
            Server::builder(name.text()).start(ProcessServlet::<Host>::new(()).cpus(2)).expect("it starts");
        for _ in 0..4 {
            let said = server.call(&"well".into()).expect("an answer").as_str().to_owned();
            assert!(said.starts_with("well by way of "), "{said}");
        }
    });
}

/// Tells this program to start a server before its `main`.
const EARLY: &str = "RINGMILL_TEST_EARLY";

extern "C" fn start_early(_: c_int, _: *const *const c_char, _: *const *const c_char) {
    let Some(name) = std::env::var_os(EARLY) else { return };
    let name = name.to_string_lossy();
    let started = Server::builder(name).start(ProcessServlet::<PassThrough<String>>::new(()));
    match started {
        Ok(_) => println!("started"),
        Err(error) => println!("early: {error}"),
    }
    std::process::exit(0);
}

#[used]
#[unsafe(link_section = ".init_array")]
static START_EARLY: extern "C" fn(c_int, *const *const c_char, *const *const c_char) = start_early;

/// A program that starts a server before its `main` would do so in its workers, whose workers would, and so on.
#[test]
fn a_server_before_main_starts_no_further_servers() {
    guarded(|| {
        let name = Name::new("early");
        let this = std::env::current_exe().expect("this program");
        let output = Command::new(this).env(EARLY, name.text()).output().expect("it runs");
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(said.starts_with("early: ") && said.contains("before `main` starts a server"), "{output:?}");
        name.assert_nothing_left();
    });
}
