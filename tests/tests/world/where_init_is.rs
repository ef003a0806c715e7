//! The server checks which executable it would start as a worker before it starts anything.
//!
//! Symptom: a server in a library that Python had loaded started the interpreter as its worker, which took its arguments
//! for a script and ran the file there. Cause: the server took `init!` to be in the executable. Fix: `start` looks where `init!`
//! is, and whether an executable has its note.
#![expect(unsafe_code, reason = "a library that is loaded as an interpreter would")]

use ringmill::{PassThrough, ProcessServlet, Server, StartError};
use ringmill_plugin::Twice;
use ringmill_tests::GUARD;
use ringmill_tests::alone::{is_alone, run, this_program, with_test};
use ringmill_tests::guard::guarded;
use ringmill_tests::name::Name;
use std::ffi::{CStr, CString, c_char};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

ringmill::init!(PassThrough<String>);

/// The library, which Cargo builds beside its other form.
fn library() -> PathBuf {
    let this = std::env::current_exe().expect("this program");
    let path = this.with_file_name("libringmill_plugin.so");
    assert!(path.exists(), "{} is not there", path.display());
    path
}

/// Doubles 21 through the library; returns its message.
fn double_by_library(name: &str, program: &str, in_thread: bool) -> String {
    let c = |text: &[u8]| CString::new(text).expect("no zero bytes");
    // SAFETY: C strings; the function has the type that it has in the library, whose constructors may run at any time, and
    // which stays loaded.
    unsafe {
        let library = libc::dlopen(c(library().as_os_str().as_bytes()).as_ptr(), libc::RTLD_NOW);
        assert!(!library.is_null());
        let function = libc::dlsym(library, c"ringmill_plugin_double".as_ptr());
        assert!(!function.is_null());
        let function: unsafe extern "C" fn(*const c_char, *const c_char, bool) -> *const c_char =
            std::mem::transmute(function);
        let text = function(c(name.as_bytes()).as_ptr(), c(program.as_bytes()).as_ptr(), in_thread);
        CStr::from_ptr(text).to_string_lossy().into_owned()
    }
}

/// Runs this test alone, by a command that starts this program.
#[track_caller]
fn run_alone(test: &str, command: &mut Command) {
    run(GUARD, with_test(command, test)).assert_passed(test);
}

fn this() -> PathBuf {
    std::env::current_exe().expect("this program")
}

#[test]
fn a_library_of_a_program_is_not_the_program() {
    const TEST: &str = "where_init_is::a_library_of_a_program_is_not_the_program";
    guarded(|| {
        if !is_alone(TEST) {
            run_alone(TEST, &mut this_program());
            return;
        }
        let name = Name::new("library");
        let said = double_by_library(&name.text(), "", false);
        for part in ["worker type ringmill_plugin::Twice", "libringmill_plugin.so, not in", "program(..)"] {
            assert!(said.contains(part), "{part}: {said}");
        }
        name.assert_nothing_left();
        assert_eq!(double_by_library(&name.text(), "", true), "42");
        // This program lists the type too, by the library's other form.
        assert_eq!(double_by_library(&name.text(), this().to_str().expect("text"), false), "42");
        name.assert_nothing_left();
    });
}

/// A library crate is part of the programs that use it.
#[test]
fn a_library_crate_that_is_linked_in_is_the_program() {
    guarded(|| {
        let name = Name::new("linked");
        let server = Server::builder(name.text()).start(ProcessServlet::<Twice>::new(())).expect("it starts");
        assert_eq!(server.call(&21).expect("an answer").to_native(), 42);
    });
}

/// Python runs the library's function; in its working directory lies a file that it would take for the worker.
#[test]
fn an_interpreter_is_not_started() {
    guarded(|| {
        let directory = tempfile::tempdir().expect("a directory");
        let script = "import ctypes, sys\n\
            double = ctypes.CDLL(sys.argv[1]).ringmill_plugin_double\n\
            double.restype = ctypes.c_char_p\n\
            double.argtypes = [ctypes.c_char_p, ctypes.c_char_p, ctypes.c_bool]\n\
            print(double(sys.argv[2].encode(), sys.argv[3].encode(), False).decode())\n";
        let path = directory.path();
        std::fs::write(path.join("run.py"), script).expect("a file");
        std::fs::create_dir(path.join("worker")).expect("a directory");
        std::fs::write(path.join("worker/__main__.py"), "open('ran', 'w')\n").expect("a file");
        let name = Name::new("python");
        let run = |program: &str| {
            let mut python = Command::new("python3");
            python.arg("run.py").arg(library()).arg(name.text()).arg(program).current_dir(path).output()
        };
        let Ok(output) = run("") else {
            println!("skipped: there is no python3");
            return;
        };
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(said.contains("libringmill_plugin.so, not in /"), "{output:?}");
        let output = run("python3").expect("it ran before");
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(said.contains("python3 cannot run workers: it has no ringmill::init!"), "{output:?}");
        assert!(!path.join("ran").exists(), "the file there was run");
        let output = run(this().to_str().expect("text")).expect("it ran before");
        assert_eq!(String::from_utf8_lossy(&output.stdout), "42\n", "{output:?}");
        name.assert_nothing_left();
    });
}

/// A program that was started by way of the dynamic loader has the loader for its executable.
#[test]
fn the_dynamic_loader_is_not_started() {
    const TEST: &str = "where_init_is::the_dynamic_loader_is_not_started";
    guarded(|| {
        if is_alone(TEST) {
            let name = Name::new("loader");
            let error = start(&name, ProcessServlet::new(())).map(drop).expect_err("it is no worker");
            let StartError::NotInExecutable { library, executable, .. } = &error else { panic!("{error:?}") };
            assert!(library.ends_with(this_name()) && !executable.ends_with(this_name()), "{error}");
            return name.assert_nothing_left();
        }
        let loaders = ["/lib64/ld-linux-x86-64.so.2", "/lib/ld-linux-aarch64.so.1"];
        match loaders.into_iter().find(|path| Path::new(path).exists()) {
            Some(loader) => {
                run_alone(TEST, Command::new(loader).arg(this()));
            }
            None => println!("skipped: the dynamic loader is not where it is looked for"),
        }
    });
}

/// The file name of this program, which `current_exe` does not know if the loader was started.
fn this_name() -> String {
    let first = std::env::args().next().expect("a name");
    Path::new(&first).file_name().expect("a file").to_string_lossy().into_owned()
}

fn start(
    name: &Name,
    servlet: ProcessServlet<PassThrough<String>>,
) -> Result<Server<String, String>, StartError> {
    Server::builder(name.text()).start(servlet)
}

#[track_caller]
fn assert_refused(program: &Path, why: &str) {
    let name = Name::new("refused");
    let error = start(&name, ProcessServlet::new(()).program(program).cpus(2)).map(drop);
    let error = error.expect_err("it is no worker");
    let StartError::Program { servlet, path, reason } = &error else { panic!("{error:?}") };
    assert_eq!((servlet.as_str(), path.as_path()), ("passthrough", program));
    assert!(reason.contains(why), "{error}");
    name.assert_nothing_left();
}

#[test]
fn a_strangers_program_is_not_run() {
    const TEST: &str = "where_init_is::a_strangers_program_is_not_run";
    guarded(|| {
        if !is_alone(TEST) {
            let directory = tempfile::tempdir().expect("a directory");
            run_alone(TEST, this_program().current_dir(directory.path()));
            // `touch worker …` would have made files.
            assert_eq!(std::fs::read_dir(directory.path()).expect("it is there").count(), 0);
            return;
        }
        for program in ["/usr/bin/touch", "touch", "/bin/true"] {
            assert_refused(Path::new(program), "no ringmill::init!");
        }
        // Has to do with ringmill, but no `init!`.
        assert_refused(Path::new(env!("CARGO_BIN_EXE_intruder")), "no ringmill::init!");
    });
}

/// This program with its notes changed.
fn with_other_notes(path: &Path, change: impl Fn(&mut [u8])) {
    let mut bytes = std::fs::read(this()).expect("this program");
    let owner = b"ringmill\0\0\0\0";
    let starts: Vec<usize> = bytes
        .windows(owner.len() + 4)
        .enumerate()
        .filter(|(_, w)| w.starts_with(owner))
        .map(|(at, _)| at)
        .collect();
    assert!(!starts.is_empty());
    for at in starts {
        change(&mut bytes[at..at + owner.len() + 4]);
    }
    std::fs::write(path, bytes).expect("a file");
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o700)).expect("it is ours");
}

#[test]
fn a_program_with_other_orders_is_not_run() {
    guarded(|| {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("program");
        with_other_notes(&path, |note| note[12..].copy_from_slice(&u32::MAX.to_ne_bytes()));
        assert_refused(&path, "orders of version 4294967295");
        let path = directory.path().join("nameless");
        with_other_notes(&path, |note| note[0] = b'R');
        assert_refused(&path, "no ringmill::init!");
    });
}

#[test]
fn a_stripped_executable_still_lists_its_workers() {
    guarded(|| {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("stripped");
        let stripped = Command::new("strip").arg("-o").arg(&path).arg(this()).status();
        if !stripped.is_ok_and(|status| status.success()) {
            println!("skipped: there is no strip");
            return;
        }
        let name = Name::new("stripped");
        let server = start(&name, ProcessServlet::new(()).program(&path)).expect("it starts");
        assert_eq!(server.call(&"well".into()).expect("an answer").as_str(), "well");
    });
}
