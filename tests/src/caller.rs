//! A second program, which is a client of a test's server: the program `caller`, as a test sees it.

use crate::name::Name;
use crate::plain_signals::with_plain_signals;
use crate::program::path;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};

/// The program; it is killed when this is dropped.
#[derive(Debug)]
pub struct Caller {
    child: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
}

impl Caller {
    /// Starts it as a client of this server; what it says first.
    ///
    /// # Panics
    /// If it cannot be started.
    #[must_use]
    pub fn start(name: &Name) -> (Self, String) {
        Self::start_as(Command::new(path("caller")), &name.address())
    }

    /// [`start`](Self::start) by another command.
    ///
    /// # Panics
    /// As [`start`](Self::start).
    #[must_use]
    pub fn start_as(mut command: Command, address: &str) -> (Self, String) {
        command.arg(address).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = with_plain_signals(&mut command).spawn().expect("the program starts");
        let stdin = child.stdin.take().expect("it is piped");
        let stdout = BufReader::new(child.stdout.take().expect("it is piped"));
        let mut caller = Self { child, stdin, stdout };
        let first = caller.line();
        (caller, first)
    }

    /// [`start`](Self::start), which must succeed.
    ///
    /// # Panics
    /// If it does not connect.
    #[must_use]
    #[track_caller]
    pub fn connected(name: &Name) -> Self {
        let (caller, first) = Self::start(name);
        assert!(first.starts_with("connected "), "{first}");
        caller
    }

    /// Its process.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Gives it a command.
    ///
    /// # Panics
    /// If it does not take it.
    #[track_caller]
    pub fn tell(&mut self, command: &str) {
        writeln!(self.stdin, "{command}").expect("it reads");
    }

    /// The next line that it says; empty if it has ended.
    ///
    /// # Panics
    /// If it says what is no text.
    #[track_caller]
    pub fn line(&mut self) -> String {
        let mut line = String::new();
        self.stdout.read_line(&mut line).expect("a line");
        line.trim_end().into()
    }

    /// Gives it a command, and waits for the answer.
    ///
    /// # Panics
    /// As [`tell`](Self::tell) and [`line`](Self::line).
    #[track_caller]
    pub fn ask(&mut self, command: &str) -> String {
        self.tell(command);
        self.line()
    }

    /// Kills it, and waits for its end.
    ///
    /// # Panics
    /// If the system refuses.
    pub fn kill(&mut self) {
        self.child.kill().expect("it is a child");
        self.child.wait().expect("it is a child");
    }

    /// Waits for its end.
    ///
    /// # Panics
    /// If the system refuses.
    pub fn wait(&mut self) -> ExitStatus {
        self.child.wait().expect("it is a child")
    }
}

impl Drop for Caller {
    fn drop(&mut self) {
        let _ = self.child.kill(); // it may have ended
        let _ = self.child.wait();
    }
}
