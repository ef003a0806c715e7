//! The program `resident`, as the tests of this folder start it and talk to it.

use ringmill_shm::sys::process::PidFd;
use ringmill_tests::name::Name;
use ringmill_tests::plain_signals::with_plain_signals;
use ringmill_tests::wait_until;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

/// The program.
pub(crate) const RESIDENT: &str = env!("CARGO_BIN_EXE_resident");

/// A copy of a program in a directory of its own, which every user may run.
pub(crate) fn copy_of(program: &str, directory: &Path, name: &str) -> PathBuf {
    let path = directory.join(name);
    // By a process of its own: a file that is open for writing here cannot be run, and another test may fork just now.
    let copied = Command::new("cp").args(["--remove-destination", program]).arg(&path).status();
    assert!(copied.expect("it runs").success(), "room for a copy");
    ringmill_tests::other_user::open_to_all(&path);
    path
}

/// A directory that every user may look into.
pub(crate) fn public_directory() -> tempfile::TempDir {
    let directory = tempfile::tempdir().expect("a directory");
    ringmill_tests::other_user::open_to_all(directory.path());
    directory
}

/// The service.
#[derive(Debug)]
pub(crate) struct Service {
    pub(crate) child: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
}

impl Service {
    /// Starts it, and waits until its server is ready.
    #[track_caller]
    pub(crate) fn start(command: &mut Command, name: &Name, options: &[&str]) -> Self {
        let (service, line) = Self::try_start(command, name, options);
        assert_eq!(line, "ready");
        service
    }

    /// Starts it; also returns its first line.
    pub(crate) fn try_start(command: &mut Command, name: &Name, options: &[&str]) -> (Self, String) {
        command
            .arg(name.text())
            .args(name.option())
            .args(options)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = with_plain_signals(command).spawn().expect("the program");
        let stdin = child.stdin.take().expect("piped");
        let stdout = BufReader::new(child.stdout.take().expect("piped"));
        let mut service = Self { child, stdin, stdout };
        let line = service.line();
        (service, line)
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.stdout.read_line(&mut line).expect("text");
        line.trim_end().to_owned()
    }

    pub(crate) fn tell(&mut self, command: &str) {
        writeln!(self.stdin, "{command}").expect("it listens");
    }

    /// Its answer to a command.
    pub(crate) fn ask(&mut self, command: &str) -> String {
        self.tell(command);
        self.line()
    }

    /// Its worker's answer.
    #[track_caller]
    pub(crate) fn worker(&mut self, text: &str) -> String {
        let answer = self.ask(&format!("ask {text}"));
        answer.strip_prefix("ok ").unwrap_or_else(|| panic!("{text}: {answer}")).to_owned()
    }

    #[track_caller]
    pub(crate) fn worker_pid(&mut self) -> u32 {
        self.worker("pid").parse().expect("a pid")
    }

    /// Has its worker end; its successor's pid.
    #[track_caller]
    pub(crate) fn replace_worker(&mut self) -> u32 {
        let former = self.worker_pid();
        let gone = PidFd::open(former).expect("it lives");
        let told = self.ask("ask exit 7");
        assert!(told.starts_with("error"), "{told}");
        ringmill_tests::process::await_end(&gone);
        let successor = self.worker_pid();
        assert_ne!(successor, former);
        successor
    }

    /// The error of calls once no worker can be restarted.
    #[track_caller]
    pub(crate) fn reason_of_being_down(&mut self) -> String {
        let mut answer = String::new();
        wait_until("its servlet is down", || {
            answer = self.ask("ask echo x");
            answer.contains("is down")
        });
        answer
    }

    /// Makes it return from `main`; returns its standard error.
    #[track_caller]
    pub(crate) fn end(mut self) -> String {
        self.tell("return");
        let mut stderr = String::new();
        // Until all that have it open have ended.
        self.child.stderr.take().expect("piped").read_to_string(&mut stderr).expect("text");
        assert!(self.child.wait().expect("our child").success(), "{stderr}");
        stderr
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.child.kill(); // a failed test's
        let _ = self.child.wait();
    }
}
