//! Programs that tests start: where they are, and the program `actors`, as a test sees it.
#![expect(unsafe_code, reason = "setsid, and signals to a process group")]

use crate::actor_gate::{ActorGate, Visit};
use crate::name::Name;
use crate::plain_signals::with_plain_signals;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};

/// Where Cargo has put a program of this package: `actors`, say.
///
/// # Panics
/// If it is not beside the tests.
#[must_use]
pub fn path(name: &str) -> PathBuf {
    // Test programs lie in a folder beside the others.
    let this = std::env::current_exe().expect("this program");
    let mut folders = this.ancestors().skip(1).take(2).map(|folder| folder.join(name));
    let found = folders.find(|path| path.is_file());
    found.unwrap_or_else(|| panic!("the program {name} is not beside {}: build it", this.display()))
}

/// A session and a process group of its own, as a daemon has. In a session with others, the kernel sends SIGHUP to
/// the stopped processes of a group that is orphaned.
fn lead_a_session(command: &mut Command) {
    let lead = || {
        // SAFETY: takes nothing.
        unsafe { libc::setsid() };
        Ok(())
    };
    // SAFETY: `lead` makes one system call.
    unsafe { command.pre_exec(lead) };
}

/// The program `actors` in a session of its own.
#[derive(Debug)]
pub struct Program {
    child: Child,
    stdin: std::process::ChildStdin,
    stdout: BufReader<std::process::ChildStdout>,
}

/// How a program ended, with whatever was still to be read.
#[derive(Debug)]
pub struct End {
    /// Its exit code, or the signal that ended it.
    pub status: ExitStatus,
    /// The rest of its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
}

impl Program {
    /// Starts it; it has not said anything yet.
    pub fn start(name: &Name, gate: &ActorGate, options: &[&str]) -> Self {
        Self::start_as(Command::new(path("actors")), name, gate, options)
    }

    /// Starts it by a command, which sets its environment.
    pub fn start_as(mut command: Command, name: &Name, gate: &ActorGate, options: &[&str]) -> Self {
        lead_a_session(&mut command);
        Self::start_among_us(command, name, gate, options)
    }

    /// Starts it in our own process group. Otherwise the pid stays its own for as long as its group has members.
    pub fn start_among_us(mut command: Command, name: &Name, gate: &ActorGate, options: &[&str]) -> Self {
        command
            .args([&name.text(), &gate.path()])
            .args(name.option())
            .args(options)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = with_plain_signals(&mut command).spawn().expect("the program");
        let stdin = child.stdin.take().expect("piped");
        let stdout = BufReader::new(child.stdout.take().expect("piped"));
        Self { child, stdin, stdout }
    }

    /// Starts it, and waits until its server is ready; the pids of its workers.
    pub fn start_ready(name: &Name, gate: &ActorGate, options: &[&str]) -> (Self, Vec<u32>) {
        let mut program = Self::start(name, gate, options);
        let pids = program.ready();
        (program, pids)
    }

    /// Waits until its server is ready; the pids of its workers.
    pub fn ready(&mut self) -> Vec<u32> {
        let line = self.line();
        let Some(pids) = line.strip_prefix("ready") else {
            let mut complaint = String::new();
            let _ = self.child.stderr.take().expect("piped").read_to_string(&mut complaint);
            panic!("{line:?} {complaint}");
        };
        pids.split_whitespace().map(|pid| pid.parse().expect("a pid")).collect()
    }

    /// Its pid.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Its next line; empty if it has ended.
    pub fn line(&mut self) -> String {
        let mut line = String::new();
        self.stdout.read_line(&mut line).expect("text");
        line.trim_end().to_owned()
    }

    /// Gives it a command.
    ///
    /// # Panics
    /// If it has ended.
    pub fn tell(&mut self, command: &str) {
        writeln!(self.stdin, "{command}").expect("it listens");
    }

    /// Has it call in a thread of its own; the actor that has the item.
    pub fn hold(&mut self, gate: &ActorGate, number: u64) -> Visit {
        self.tell(&format!("hold {number}"));
        gate.next_hold(number)
    }

    /// As above, if it has not ended.
    pub fn try_tell(&mut self, command: &str) {
        let _ = writeln!(self.stdin, "{command}");
    }

    /// Sends a signal to its whole group, as a terminal does.
    pub fn signal_group(&self, signal: i32) {
        let group = -i32::try_from(self.child.id()).expect("a pid");
        // SAFETY: takes two integers. The group's leader is our child, which we have not waited for.
        assert_eq!(unsafe { libc::kill(group, signal) }, 0);
    }

    /// Kills it alone and waits until it is gone; its workers may still be there.
    pub fn kill_and_wait(&mut self) {
        self.child.kill().expect("it lives");
        self.child.wait().expect("our child");
    }

    /// Has it return from `main`, and waits until it and all processes that it started have ended: well, and without a word.
    ///
    /// # Panics
    /// If it complains.
    #[track_caller]
    pub fn end_well(mut self) {
        self.tell("return");
        let end = self.end();
        assert!(end.status.success() && end.stderr.is_empty(), "{end:?}");
    }

    /// Waits until it and all processes that it started have ended: they all hold its output open.
    pub fn end(mut self) -> End {
        let (mut stdout, mut stderr) = (String::new(), String::new());
        self.stdout.read_to_string(&mut stdout).expect("text");
        self.child.stderr.take().expect("piped").read_to_string(&mut stderr).expect("text");
        let status = self.child.wait().expect("our child");
        End { status, stdout, stderr }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill(); // a failed test's
        let _ = self.child.wait();
    }
}
