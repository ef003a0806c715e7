//! Workers in programs that become workers by a call: a second executable without `init!`, scripts, an interpreter.

use ringmill::program::Outside;
use ringmill::{CallError, PassThrough, ProcessServlet, Server, Servlet, StartError};
use ringmill_tests::guard::guarded;
use ringmill_tests::name::Name;
use ringmill_tests::program::path;
use ringmill_tests::stats::pids;
use ringmill_tests::{process, wait_until};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

type Clerk = Outside<String, String, (String, String)>;

fn clerk(worker: &str, end: &str, farewell: &str) -> ProcessServlet<Clerk> {
    let servlet = ProcessServlet::<Clerk>::new((end.into(), farewell.into()));
    servlet.program(path("outsider")).program_worker(worker)
}

#[track_caller]
fn answer(server: &Server<String, String>, input: &str) -> String {
    server.call_ref(input).expect("an answer").as_str().to_owned()
}

/// A program in a directory of its own, written by a process of its own: a child that another test forks meanwhile would keep
/// the file open for writing.
fn script(directory: &Path, text: &str) -> PathBuf {
    let (written, path) = (directory.join("text"), directory.join("program"));
    fs::write(&written, text).expect("a temporary directory can be written to");
    assert!(Command::new("cp").arg(written).arg(&path).status().expect("it runs").success());
    fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).expect("it is ours");
    path
}

#[test]
fn workers_of_another_program_are_known_by_any_name() {
    guarded(|| {
        Name::each("outside", |name| {
            let echo = ProcessServlet::<Outside<String>>::new(()).program(path("outsider"));
            let echo = echo.program_worker("écho, à la carte").batch_size(4);
            let stages =
                echo.then(clerk("polite", ",", "")).then(clerk("curt", "", "").cpus(2).stream_threads(2));
            let server = name.builder().start(stages).expect("it starts");
            assert_eq!(answer(&server, "you"), "Hi Good day, you");
            let many = server.stream((0..100).map(|n| n.to_string())).map(|reply| reply.expect("an answer"));
            for (n, reply) in many.enumerate() {
                assert_eq!(reply.as_str(), format!("Hi Good day, {n}"));
            }
            let names: Vec<String> =
                server.stats().servlets.iter().map(|servlet| servlet.name.clone()).collect();
            assert_eq!(names, ["cholacarte", "polite", "curt"]);
        });
    });
}

#[test]
fn the_call_returns_when_the_worker_has_ended() {
    guarded(|| {
        let directory = tempfile::tempdir().expect("a directory");
        let farewell = directory.path().join("farewell");
        let text = farewell.to_str().expect("text");
        let name = Name::new("returns");
        let servlet = clerk("curt", "!", text).env("OUTSIDER_FAREWELL", text);
        let server = name.builder().start(servlet).expect("it starts");
        assert_eq!(answer(&server, "you"), "Hi! you");
        assert_eq!(
            answer(&server, "again"),
            "this process has called become_worker before: a process is a worker once"
        );
        server.shutdown();
        let told = fs::read_to_string(&farewell).expect("it was written");
        assert_eq!(told, "cleanup Shutdown\nreturned 0\n");
        name.assert_nothing_left();
    });
}

#[test]
fn a_worker_that_dies_is_restarted_from_its_program() {
    guarded(|| {
        let name = Name::new("restarted");
        let server = name.builder().start(clerk("curt", "", "")).expect("it starts");
        let first = answer(&server, "pid");
        assert_eq!(first, pids(&server)[0].to_string());
        let error = server.call_ref("die").expect_err("it dies");
        assert!(matches!(error, CallError::WorkerDied(_)), "{error}");
        assert_ne!(answer(&server, "pid"), first);
        process::signal(pids(&server)[0], libc::SIGKILL);
        wait_until("a third worker answers", || server.call_ref("pid").is_ok());
    });
}

#[test]
fn arguments_arrive_as_they_are() {
    guarded(|| {
        let name = Name::new("arguments");
        let servlet = clerk("curt", "", "").program_args(["worker", "a b", "--c=d"]);
        let server = name.builder().start(servlet).expect("it starts");
        let program = path("outsider");
        assert_eq!(answer(&server, "arguments"), format!("{} worker a b --c=d", program.display()));
        let server =
            Name::new("title").builder().start(clerk("curt", "", "").name("desk")).expect("it starts");
        let title = format!("worker {}/desk/0", server.name());
        assert!(answer(&server, "arguments").ends_with(&title), "{title}");
    });
}

/// It has the variable, but not the descriptors.
#[test]
fn a_child_of_a_worker_is_no_worker() {
    guarded(|| {
        let name = Name::new("child");
        let server = name.builder().start(clerk("curt", "", "")).expect("it starts");
        let said = answer(&server, "child");
        assert!(said.contains("not the descriptors that came with it"), "{said}");
        assert_eq!(answer(&server, "you"), "Hi you");
    });
}

#[test]
fn a_process_that_no_server_has_started_is_told_so() {
    guarded(|| {
        let output = Command::new(path("outsider")).output().expect("it runs");
        assert_eq!(output.status.code(), Some(3));
        let said = String::from_utf8(output.stderr).expect("text");
        assert!(
            said.starts_with("outsider: no ringmill server has started this process as a worker"),
            "{said}"
        );
    });
}

#[test]
fn a_program_can_be_the_service_and_its_worker() {
    guarded(|| {
        let output = Command::new(path("outsider")).arg("both").output().expect("it runs");
        assert_eq!(String::from_utf8_lossy(&output.stdout), "well\n", "{output:?}");
        assert!(output.status.success(), "{output:?}");
    });
}

#[track_caller]
fn refusal(servlet: ProcessServlet<Clerk>, timeout: Duration) -> StartError {
    let name = Name::new("refused");
    let error =
        name.builder().start_timeout(timeout).start(servlet.cpus(2)).map(drop).expect_err("no worker");
    name.assert_nothing_left();
    error
}

const LONG: Duration = Duration::from_secs(60);

#[test]
fn a_program_that_is_no_worker_is_named() {
    guarded(|| {
        let outsider = path("outsider");
        let cases = [(vec!["exit", "0"], 0), (vec!["exit", "7"], 7), (vec!["print"], 0)];
        for (arguments, ended) in cases {
            let error = refusal(clerk("curt", "", "").program_args(arguments), LONG);
            let StartError::Died { code, program, .. } = &error else { panic!("{error:?}") };
            assert_eq!((*code, program), (Some(ended), &Some(outsider.clone())));
            let told = format!(
                "ended before it was ready: exit code {ended}; {} has to call become_worker",
                outsider.display()
            );
            assert!(error.to_string().ends_with(&told), "{error}");
        }
        // A stranger's program: it is run, since nothing in its file says what it is.
        let error = refusal(clerk("curt", "", "").program("/bin/true").program_args(["x"; 0]), LONG);
        assert!(error.to_string().contains("true has to call become_worker"), "{error}");
        let error = refusal(clerk("curt", "", "").program_args(["hang"]), Duration::from_millis(300));
        let StartError::Timeout { program, .. } = &error else { panic!("{error:?}") };
        assert_eq!(program, &Some(outsider.clone()));
        assert!(error.to_string().contains("outsider does not call become_worker, or its set-up"), "{error}");
    });
}

#[test]
fn a_program_that_cannot_be_started_is_named() {
    guarded(|| {
        let directory = tempfile::tempdir().expect("a directory");
        let plain = directory.path().join("plain");
        fs::write(&plain, "This is no program.").expect("a file");
        let missing = directory.path().join("missing");
        for (program, said) in [(&missing, "No such file"), (&plain, "Permission denied")] {
            let error = refusal(clerk("curt", "", "").program(program), LONG);
            let StartError::Executable { path, .. } = &error else { panic!("{error:?}") };
            assert_eq!(path, program);
            assert!(error.to_string().contains(said), "{error}");
        }
        fs::set_permissions(&plain, fs::Permissions::from_mode(0o700)).expect("it is ours");
        let error = refusal(clerk("curt", "", "").program(&plain), LONG);
        assert!(matches!(error, StartError::Executable { .. }), "{error:?}");
        assert!(error.to_string().contains("Exec format error"), "{error}");
    });
}

#[test]
fn names_and_arguments_that_cannot_be_are_refused() {
    guarded(|| {
        for bad in ["", " curt", "two\nlines", &"x".repeat(257)] {
            let error = refusal(clerk(bad, "", ""), LONG);
            assert!(matches!(error, StartError::WorkerName { longest: 256, .. }), "{error:?}");
        }
        let error = refusal(clerk("curt", "", "").program_args(["fine", "a\0b"]), LONG);
        assert!(matches!(error, StartError::Argument { index: 1, .. }), "{error:?}");
    });
}

#[track_caller]
fn assert_not_joined(error: &StartError, why: &str) {
    let StartError::Join { reason, .. } = error else { panic!("{error:?}") };
    assert!(reason.contains(why), "{error}");
}

#[test]
fn workers_and_payloads_that_differ_are_named() {
    guarded(|| {
        let error = refusal(clerk("rude", "", ""), LONG);
        assert_not_joined(
            &error,
            "lists no worker \"rude\" for become_worker (it lists écho, à la carte, polite, curt",
        );
        // The program stays all the same, and the start ends with its limit.
        let error = refusal(clerk("rude", "", "").program_args(["stay"]), Duration::from_secs(2));
        match &error {
            StartError::Timeout { program: Some(_), .. } => {} // on a busy machine it had said nothing by then
            error => assert_not_joined(error, "lists no worker \"rude\""),
        }
        // Another type; another configuration; two of one name.
        let name = Name::new("types");
        let refused = |servlet: ProcessServlet<Outside<u64, String>>, why| {
            let servlet = servlet.program(path("outsider"));
            assert_not_joined(&name.builder().start(servlet).map(drop).expect_err("they differ"), why);
        };
        let numbers = || ProcessServlet::<Outside<u64, String>>::new(());
        refused(
            numbers().program_worker("curt"),
            "\"curt\" of this program takes and gives alloc::string::String => alloc::string::String, and the server \
             wants u64 => alloc::string::String",
        );
        refused(numbers().program_worker("twin"), "lists 2 workers of the name \"twin\"");
        let servlet =
            ProcessServlet::<Outside<String>>::new(()).program(path("outsider")).program_worker("curt");
        let error = name.builder().start(servlet).map(drop).expect_err("they differ");
        assert_not_joined(&error, "they differ in layout, in SCHEMA, or in the configuration");
        name.assert_nothing_left();
    });
}

#[test]
fn the_error_of_a_constructor_arrives_with_its_attachment() {
    guarded(|| {
        let error = refusal(clerk("curt", " nobody", ""), LONG);
        let StartError::Worker(error) = &error else { panic!("{error:?}") };
        assert!(error.to_string().ends_with("there is nobody to greet"), "{error}");
        assert_eq!(error.attachment(), Some(&b"an exception"[..]));
    });
}

/// It would do so in each worker's process.
#[test]
fn a_program_that_starts_a_server_instead_is_told_so() {
    guarded(|| {
        let error = refusal(clerk("curt", "", "").program_args(["serve"]), LONG);
        assert_not_joined(&error, "starts a server before it has called become_worker");
    });
}

#[test]
fn a_program_of_another_version_is_told_so() {
    guarded(|| {
        let directory = tempfile::tempdir().expect("a directory");
        let change = |from: &str, to: &str| {
            let edit = format!("sed 's/{from}/{to}/'");
            let variable = "RINGMILL_WORKER_BY_CALL";
            let text =
                format!("#!/bin/sh\n{variable}=$(printf %s \"${variable}\" | {edit})\nexport {variable}\n");
            script(directory.path(), &format!("{text}exec {}\n", path("outsider").display()))
        };
        let newer = change("\"version\":[0-9]*", "\"version\":4000000000,\"more\":1");
        let error = refusal(clerk("curt", "", "").program(newer), LONG);
        assert_not_joined(
            &error,
            "its order has version 4000000000, and this program follows those of version",
        );
        let damaged = change("\"row\":[0-9]*", "\"row\":0");
        let error = refusal(clerk("curt", "", "").program(damaged), LONG);
        assert_not_joined(&error, "no worker has that row");
    });
}

#[test]
fn a_script_may_exec_the_program() {
    guarded(|| {
        let directory = tempfile::tempdir().expect("a directory");
        let program =
            script(directory.path(), &format!("#!/bin/sh\nexec {} \"$@\"\n", path("outsider").display()));
        let name = Name::new("script");
        let servlet = clerk("curt", "", "").program(program).program_args(["worker", "by a script"]);
        let server = name.builder().start(servlet).expect("it starts");
        let told = format!("{} worker by a script", path("outsider").display());
        assert_eq!(answer(&server, "arguments"), told);
        // A worker that dies is started by the script again.
        assert!(matches!(server.call_ref("die"), Err(CallError::WorkerDied(_))));
        assert_eq!(answer(&server, "you"), "Hi you");
    });
}

/// What an extension of an interpreter does: the script loads a library with the engine, and calls a function of it.
#[test]
fn an_interpreter_becomes_a_worker() {
    guarded(|| {
        let this = std::env::current_exe().expect("this program");
        let library = this.with_file_name("libringmill_plugin.so");
        let source = "import ctypes, sys, threading\n\
            threading.Thread(target=threading.Event().wait, daemon=True).start()\n\
            become_worker = ctypes.CDLL(sys.argv[1]).ringmill_plugin_become_worker\n\
            code = become_worker()\n\
            open(sys.argv[2], 'w').write(f'{sys.executable} returned {code}')\n\
            sys.exit(code)\n";
        let directory = tempfile::tempdir().expect("a directory");
        let farewell = directory.path().join("farewell");
        let name = Name::new("interpreter");
        let text = |path: &Path| path.to_str().expect("text").to_owned();
        let servlet = ProcessServlet::<Outside<u32>>::new(())
            .program("python3")
            .program_args(["-c".into(), source.into(), text(&library), text(&farewell)])
            .program_worker("double")
            .cpus(1);
        let server = match name.builder().start(servlet) {
            Err(StartError::Executable { .. }) => return println!("skipped: there is no python3"),
            server => server.expect("it starts"),
        };
        for n in 0..100 {
            assert_eq!(server.call(&n).expect("an answer").to_native(), 2 * n);
        }
        server.shutdown();
        let told = fs::read_to_string(&farewell).expect("the script went on");
        assert!(told.ends_with("python3 returned 0"), "{told}");
        name.assert_nothing_left();
    });
}

/// In this program it cannot be built.
#[test]
fn a_worker_outside_cannot_be_a_thread() {
    guarded(|| {
        let name = Name::new("thread");
        let servlet = ringmill::ThreadServlet::<Outside<String>>::new(()).name("absent");
        let error = name.builder().start(servlet).map(drop).expect_err("there is no code");
        assert!(error.to_string().contains("/absent/0 is in another program"), "{error}");
        let thread = ringmill::ThreadServlet::<PassThrough<String>>::new(());
        assert!(name.builder().start(thread).is_ok(), "the name is free");
    });
}
