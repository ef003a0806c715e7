//! A worker's process runs all constructors before its worker begins, and ends as a program does.
//!
//! Symptom: plug-ins that register themselves before `main` were missing in workers; C++ statics of linked libraries were
//! used unconstructed. Cause: the worker lived inside of one constructor, before the later ones. Fix: `init!` knows its position
//! among the constructors, and runs the later ones first.
#![expect(unsafe_code, reason = "constructors of our own, and what they may call")]

use ringmill::rkyv::Archived;
use ringmill::{BoxError, CallError, Context, ProcessServlet, Server, Worker};
use ringmill_tests::GUARD;
use ringmill_tests::alone::{is_alone, run, this_program, with_test};
use ringmill_tests::guard::guarded;
use ringmill_tests::name::Name;
use ringmill_tests::process::dump_no_core;
use std::ffi::{c_char, c_int};
use std::process::Command;
use std::sync::Mutex;

ringmill::init!(Witness);

type Constructor = extern "C" fn(c_int, *const *const c_char, *const *const c_char);

/// The plug-ins that have registered themselves before `main`.
static REGISTERED: Mutex<Vec<&'static str>> = Mutex::new(Vec::new());

/// A constructor of that section, as plug-ins and C++ statics have them.
macro_rules! constructor {
    ($name:ident in $section:literal) => {
        mod $name {
            extern "C" fn register(
                argc: std::ffi::c_int,
                _: *const *const std::ffi::c_char,
                _: *const *const std::ffi::c_char,
            ) {
                super::REGISTERED.lock().unwrap().push(stringify!($name));
                super::register_exit_handler();
                assert!(argc >= 1 || cfg!(not(target_env = "gnu")));
            }
            #[used]
            #[unsafe(link_section = $section)]
            static SLOT: super::Constructor = register;
        }
    };
}

constructor!(very_early in ".init_array.00100");
constructor!(early in ".init_array.00102");
constructor!(late in ".init_array.65535");
constructor!(latest in ".init_array");

/// Names the file that says whether exit handlers have run.
const LEDGER: &str = "RINGMILL_TEST_LEDGER";

fn register_exit_handler() {
    extern "C" fn at_exit() {
        if let Some(path) = std::env::var_os(LEDGER) {
            let mut ledger = std::fs::read_to_string(&path).unwrap_or_default();
            ledger.push_str("exit\n");
            std::fs::write(path, ledger).unwrap();
        }
    }
    // SAFETY: a function that may be called at exit.
    unsafe { libc::atexit(at_exit) };
}

/// Reports its surroundings.
struct Witness;

impl Worker for Witness {
    type Config = ();
    type In = String;
    type Out = String;

    fn new((): (), _: &Context) -> Result<Self, BoxError> {
        Ok(Self)
    }

    fn call(&mut self, what: &Archived<String>) -> Result<String, BoxError> {
        Ok(match what.as_str() {
            "registered" => REGISTERED.lock().unwrap().join(" "),
            "arguments" => std::env::args().collect::<Vec<_>>().join(" "),
            "order" => format!("{:?}", std::env::var_os("RINGMILL_WORKER")),
            "name" => std::fs::read_to_string("/proc/self/comm")?.trim_end().into(),
            // This very program, as anything else that a worker may start.
            "child" => {
                let child =
                    Command::new(std::env::current_exe()?).args(["--list", "before_main::"]).output()?;
                String::from_utf8(child.stdout)?
            }
            "overflow" => descend(u64::MAX).to_string(),
            "segfault" => {
                // SAFETY: none: the process must die of it.
                unsafe { std::ptr::without_provenance_mut::<u8>(8).write_volatile(1) };
                unreachable!()
            }
            "raise" => {
                // SAFETY: integers.
                unsafe { libc::raise(libc::SIGSEGV) };
                unreachable!()
            }
            other => return Err(BoxError::msg(format!("{other}?"))),
        })
    }
}

#[inline(never)]
fn descend(depth: u64) -> u64 {
    let frame = std::hint::black_box([depth; 100]);
    if depth == 0 { 0 } else { descend(depth - 1) + frame[7] }
}

fn start(name: &Name, servlet: ProcessServlet<Witness>) -> Server<String, String> {
    Server::builder(name.text()).start(servlet).expect("it starts")
}

fn ask(server: &Server<String, String>, what: &str) -> String {
    server.call(&what.into()).expect("an answer").as_str().trim().to_owned()
}

#[test]
fn a_worker_sees_what_main_sees() {
    guarded(|| {
        let here = REGISTERED.lock().unwrap().join(" ");
        assert_eq!(here.split(' ').count(), 4, "{here}");
        let name = Name::new("registered");
        for threads in [1, 3] {
            let server = start(&name, ProcessServlet::new(()).stream_threads(threads));
            for _ in 0..threads {
                assert_eq!(ask(&server, "registered"), here);
            }
        }
        name.assert_nothing_left();
    });
}

#[test]
fn a_restarted_worker_sees_the_same() {
    guarded(|| {
        let name = Name::new("again");
        let server = start(&name, ProcessServlet::new(()));
        let before = ask(&server, "registered");
        assert!(matches!(server.call(&"raise".into()), Err(CallError::WorkerDied(_))));
        assert_eq!(ask(&server, "registered"), before);
    });
}

#[test]
fn a_worker_has_arguments_and_a_name_and_no_order() {
    guarded(|| {
        let name = Name::new("around");
        let server = start(&name, ProcessServlet::new(()));
        if cfg!(target_env = "gnu") {
            assert_eq!(ask(&server, "arguments"), format!("ringmill worker {}/witness/0", name.text()));
        }
        let program = std::env::current_exe().expect("this program");
        let program = program.file_name().expect("a name").to_str().expect("text");
        assert_eq!(ask(&server, "name"), program[..program.len().min(15)]);
        assert_eq!(ask(&server, "order"), "None");
    });
}

/// A worker that starts its own program gets its `main`, here a test harness.
#[test]
fn a_child_of_a_worker_is_the_program() {
    guarded(|| {
        let name = Name::new("child");
        let listed = ask(&start(&name, ProcessServlet::new(())), "child");
        assert!(listed.contains("before_main::a_child_of_a_worker_is_the_program: test"), "{listed}");
    });
}

#[test]
fn exit_handlers_run_once() {
    guarded(|| {
        let (name, directory) = (Name::new("exit"), tempfile::tempdir().expect("a directory"));
        let ledger = directory.path().join("ledger");
        let server = start(&name, ProcessServlet::new(()).env(LEDGER, &ledger));
        ask(&server, "registered");
        assert!(!ledger.exists());
        server.shutdown();
        assert_eq!(std::fs::read_to_string(ledger).expect("it was written"), "exit\n".repeat(4));
    });
}

/// Runs one test of this program alone, and returns what it and its workers wrote. `None` in that program, which goes on with
/// the test.
fn text_of(test: &str) -> Option<String> {
    if is_alone(test) {
        return None;
    }
    let run = run(GUARD, with_test(&mut this_program(), test));
    run.assert_passed(test);
    Some(run.text)
}

/// Dies in the given way, on each of `threads` threads.
fn die(what: &str, threads: usize) {
    dump_no_core();
    let name = Name::new("dies");
    let server = start(&name, ProcessServlet::new(()).stream_threads(threads));
    for _ in 0..threads {
        let Err(CallError::WorkerDied(error)) = server.call(&what.into()) else { panic!("it lives") };
        assert!(error.to_string().contains(&format!("signal {}", libc::SIGSEGV)), "{error}");
    }
}

#[test]
fn a_stack_overflow_is_reported() {
    guarded(|| {
        let Some(told) = text_of("before_main::a_stack_overflow_is_reported") else {
            die("overflow", 1);
            return die("overflow", 2);
        };
        let count = |what| told.lines().filter(|line| line.contains(what)).count();
        assert_eq!(count("its thread has overflowed its stack"), 3, "{told}");
        assert!(count("witness/0: its thread") == 1, "{told}");
    });
}

/// A fault that is no stack overflow is not taken for one, and ends the process as usual.
#[test]
fn other_signals_have_their_effect() {
    guarded(|| {
        let Some(told) = text_of("before_main::other_signals_have_their_effect") else {
            die("segfault", 1);
            return die("raise", 2);
        };
        assert!(!told.contains("overflow"), "{told}");
    });
}
