//! What tests of deaths, shut-downs and signals have in common.
//!
//! Nothing here measures time: a wait ends with an event, or, if that never comes, with a failed test.
#![allow(dead_code, reason = "each test program uses some of it")]

pub(crate) mod actor;
pub(crate) mod scribe;

use actor::{Actor, Rebirth, Upbringing};
use ringmill::{ProcessServlet, ThreadServlet};
use ringmill_shm::segment::{Place, Segment};
use ringmill_shm::sys::process::PidFd;
use ringmill_tests::plain_signals::with_plain_signals;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::RecvTimeoutError;
use std::time::{Duration, Instant};

/// What takes longer than this hangs.
const HANGS: Duration = Duration::from_secs(60);
/// How often something is looked at that cannot be waited for.
const LOOK: Duration = Duration::from_millis(1);

/// Runs a test; one that hangs fails.
pub(crate) fn guarded(test: impl FnOnce() + Send + 'static) {
    guarded_for(HANGS, test);
}

/// [`guarded`] with another limit.
pub(crate) fn guarded_for(limit: Duration, test: impl FnOnce() + Send + 'static) {
    stay_stopped();
    let (done, wait) = std::sync::mpsc::channel();
    let name = std::thread::current().name().unwrap_or("test").to_owned();
    let body = move || {
        let outcome = catch_unwind(AssertUnwindSafe(test));
        let _ = done.send(outcome); // nobody listens if the limit is over
    };
    std::thread::Builder::new().name(name).spawn(body).expect("a thread");
    match wait.recv_timeout(limit) {
        Ok(Ok(())) => {}
        Ok(Err(panic)) => resume_unwind(panic),
        Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => panic!("hangs after {limit:?}"),
    }
}

/// Has processes that this program will start, and stop, stay stopped until it continues them.
///
/// Symptom: a worker that a test had stopped went on by itself, in tests run in the background. Cause: when the
/// process that keeps a process group from being orphaned ends, the shell that started the tests say, the kernel
/// sends SIGHUP and SIGCONT to the group if any member is stopped. A session of our own has no such process, so
/// it cannot lose one. At a terminal that would cost Ctrl-C, and there the shell stays.
#[expect(unsafe_code, reason = "setsid")]
fn stay_stopped() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        if std::fs::File::open("/dev/tty").is_err() {
            // SAFETY: takes nothing. Refused for the leader of a group, which then stays as it is.
            unsafe { libc::setsid() };
        }
    });
}

/// Waits until something holds that no event tells of.
#[track_caller]
pub(crate) fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < HANGS, "never came: {what}");
        std::thread::sleep(LOOK); // a look, not a measure: nothing depends on how long it takes
    }
}

/// A server's name that no other test and no other process has; what it leaves is removed at the end.
#[derive(Debug)]
pub(crate) struct Name(Place);

impl Name {
    pub(crate) fn new(test: &str) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed); // Relaxed: only has to differ
        Self(Place::named(&format!("t-{test}-{}-{count}", std::process::id())).expect("a name"))
    }

    pub(crate) fn text(&self) -> String {
        self.0.to_text()
    }

    pub(crate) fn place(&self) -> &Place {
        &self.0
    }

    pub(crate) fn segment_exists(&self) -> bool {
        self.0.path().exists()
    }

    pub(crate) fn inspect(&self) -> Segment {
        Segment::inspect(self.0.clone()).expect("the server is running")
    }

    #[track_caller]
    pub(crate) fn assert_consistent(&self) {
        let problems = ringmill_shm::check::check(&self.inspect());
        assert!(problems.is_empty(), "{}: {problems:?}", self.text());
    }

    fn left(&self) -> Vec<PathBuf> {
        [self.0.path(), self.0.lease_path()].into_iter().filter(|path| path.exists()).collect()
    }

    pub(crate) fn is_clean(&self) -> bool {
        self.left().is_empty()
    }

    #[track_caller]
    pub(crate) fn assert_nothing_left(&self) {
        assert_eq!(self.left(), Vec::<PathBuf>::new());
    }
}

impl Drop for Name {
    fn drop(&mut self) {
        for path in self.left() {
            let _ = std::fs::remove_file(path); // a failed test's
        }
    }
}

/// Where actors report and wait.
#[derive(Debug)]
pub(crate) struct Gate {
    listener: UnixListener,
    directory: tempfile::TempDir,
}

/// An actor at the gate.
#[derive(Debug)]
pub(crate) struct Visit {
    pub(crate) kind: String,
    pub(crate) number: u64,
    pub(crate) pid: u32,
    stream: UnixStream,
}

impl Gate {
    pub(crate) fn new() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let listener = UnixListener::bind(directory.path().join("gate")).expect("a socket");
        Self { listener, directory }
    }

    pub(crate) fn path(&self) -> String {
        self.directory.path().join("gate").to_str().expect("text").to_owned()
    }

    pub(crate) fn upbringing(&self) -> Upbringing {
        let rebirth = Rebirth::Lives;
        Upbringing { gate: self.path(), rebirth, hold_in_constructor: false, cleanup_panics: false }
    }

    /// Lets actors of every user come.
    pub(crate) fn open_to_all(&self) {
        use std::os::unix::fs::PermissionsExt;
        ringmill_tests::other_user::open_to_all(self.directory.path());
        let all = std::fs::Permissions::from_mode(0o777);
        std::fs::set_permissions(self.path(), all).expect("it is ours");
    }

    /// A servlet of actors that report here.
    pub(crate) fn processes(&self, count: usize) -> ProcessServlet<Actor> {
        ProcessServlet::new(self.upbringing()).name("actor").cpus(count)
    }

    /// The same in threads.
    pub(crate) fn threads(&self, count: usize) -> ThreadServlet<Actor> {
        ThreadServlet::new(self.upbringing()).name("actor").cpus(count)
    }

    /// The next actor to come.
    pub(crate) fn next(&self) -> Visit {
        Visit::read(self.listener.accept().expect("an actor").0)
    }

    /// Forgets who has come since the last look.
    pub(crate) fn forget_visits(&self) {
        self.listener.set_nonblocking(true).expect("a socket");
        while self.listener.accept().is_ok() {}
        self.listener.set_nonblocking(false).expect("a socket");
    }

    /// Whether an actor has come that nobody has asked for.
    pub(crate) fn has_visitor(&self) -> bool {
        self.listener.set_nonblocking(true).expect("a socket");
        let visitor = self.listener.accept().is_ok();
        self.listener.set_nonblocking(false).expect("a socket");
        visitor
    }

    /// The next actor to come, which holds an item.
    pub(crate) fn next_hold(&self, number: u64) -> Visit {
        let visit = self.next();
        assert_eq!((visit.kind.as_str(), visit.number), ("hold", number));
        visit
    }
}

impl Visit {
    fn read(stream: UnixStream) -> Self {
        let mut line = String::new();
        BufReader::new(&stream).read_line(&mut line).expect("a line");
        let mut words = line.split_whitespace();
        let mut word = || words.next().expect("three words");
        let (kind, number, pid) = (word().to_owned(), word(), word());
        Self { kind, number: number.parse().expect("a number"), pid: pid.parse().expect("a pid"), stream }
    }

    /// Lets it go.
    pub(crate) fn let_go(mut self) {
        self.stream.write_all(&[1]).expect("it waits");
    }

    /// Lets it go, unless it has died.
    pub(crate) fn try_let_go(mut self) {
        let _ = self.stream.write_all(&[1]);
    }

    /// Waits until it has died.
    pub(crate) fn await_death(mut self) {
        // A reset instead of an end of file is a death too.
        let _ = self.stream.read(&mut [0]);
    }
}

/// A process, as known to the kernel: its number and when it began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Who {
    pub(crate) pid: u32,
    began: u64,
}

impl Who {
    pub(crate) fn of(pid: u32) -> Self {
        Self { pid, began: ringmill_shm::sys::process::start_time(pid).expect("it lives") }
    }

    /// Whether it is there, if only as a zombie.
    pub(crate) fn exists(self) -> bool {
        ringmill_shm::sys::process::start_time(self.pid) == Some(self.began)
    }
}

/// A field of `/proc/PID/stat` after the command's name, which has number 2.
pub(crate) fn stat_field(pid: u32, number: usize) -> Option<String> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(')')?.1.split_whitespace().nth(number - 3).map(str::to_owned)
}

/// A line of a `/proc/…/status` file, as a number.
pub(crate) fn status_number(file: &str, key: &str) -> Option<u64> {
    let status = std::fs::read_to_string(file).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))?;
    line.trim().parse().ok()
}

/// Sends a signal to a process, which must live.
pub(crate) fn signal(pid: u32, signal: i32) {
    PidFd::open(pid).and_then(|process| process.send_signal(signal)).expect("it lives");
}

/// Waits until a process has ended.
#[track_caller]
pub(crate) fn await_end(process: &PidFd) {
    use std::os::fd::AsRawFd;
    eventually("it ends", || {
        ringmill_shm::sys::process::wait_readable(&[process.as_raw_fd()], Some(Duration::from_secs(1)))[0]
    });
}

/// The processes of a servlet's workers, all of which must be there.
pub(crate) fn pids<I, O>(server: &ringmill::Server<I, O>) -> Vec<u32> {
    let pids: Vec<u32> = server.stats().servlets[0].workers.iter().map(|worker| worker.pid).collect();
    assert!(pids.iter().all(|&pid| pid != 0), "{pids:?}");
    pids
}

/// Items that wait in the servlet's ring.
pub(crate) fn depth<I, O>(server: &ringmill::Server<I, O>) -> u64 {
    server.stats().servlets[0].depth
}

/// A session and a process group of its own, as a daemon has. In a session with others, the kernel sends SIGHUP to
/// the stopped processes of a group that is orphaned.
#[expect(unsafe_code, reason = "setsid between fork and exec")]
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
pub(crate) struct Program {
    child: Child,
    stdin: std::process::ChildStdin,
    stdout: BufReader<std::process::ChildStdout>,
}

/// How a program ended, with whatever was still to be read.
#[derive(Debug)]
pub(crate) struct End {
    pub(crate) status: ExitStatus,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Program {
    /// Starts it; it has not said anything yet.
    pub(crate) fn start(name: &Name, gate: &Gate, options: &[&str]) -> Self {
        Self::start_as(Command::new(env!("CARGO_BIN_EXE_actors")), name, gate, options)
    }

    /// The same, where the command says under what circumstances.
    pub(crate) fn start_as(mut command: Command, name: &Name, gate: &Gate, options: &[&str]) -> Self {
        lead_a_session(&mut command);
        Self::start_among_us(command, name, gate, options)
    }

    /// The same in our own process group. Else the pid stays its own for as long as the group has members.
    pub(crate) fn start_among_us(mut command: Command, name: &Name, gate: &Gate, options: &[&str]) -> Self {
        command
            .args([&name.text(), &gate.path()])
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
    pub(crate) fn start_ready(name: &Name, gate: &Gate, options: &[&str]) -> (Self, Vec<u32>) {
        let mut program = Self::start(name, gate, options);
        let pids = program.ready();
        (program, pids)
    }

    /// Waits until its server is ready; the pids of its workers.
    pub(crate) fn ready(&mut self) -> Vec<u32> {
        let line = self.line();
        let Some(pids) = line.strip_prefix("ready") else {
            let mut complaint = String::new();
            let _ = self.child.stderr.take().expect("piped").read_to_string(&mut complaint);
            panic!("{line:?} {complaint}");
        };
        pids.split_whitespace().map(|pid| pid.parse().expect("a pid")).collect()
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it says next; empty if it has ended.
    pub(crate) fn line(&mut self) -> String {
        let mut line = String::new();
        self.stdout.read_line(&mut line).expect("text");
        line.trim_end().to_owned()
    }

    pub(crate) fn tell(&mut self, command: &str) {
        writeln!(self.stdin, "{command}").expect("it listens");
    }

    /// Has it call in a thread of its own; the actor that has the item.
    pub(crate) fn hold(&mut self, gate: &Gate, number: u64) -> Visit {
        self.tell(&format!("hold {number}"));
        gate.next_hold(number)
    }

    /// The same, if it has not ended.
    pub(crate) fn try_tell(&mut self, command: &str) {
        let _ = writeln!(self.stdin, "{command}");
    }

    /// Sends a signal to its whole group, as a terminal does.
    #[expect(unsafe_code, reason = "a signal to a process group")]
    pub(crate) fn signal_group(&self, signal: i32) {
        let group = -i32::try_from(self.child.id()).expect("a pid");
        // SAFETY: takes two integers. The group's leader is our child, which we have not waited for.
        assert_eq!(unsafe { libc::kill(group, signal) }, 0);
    }

    /// Kills it alone and waits until it is gone; its workers may still be there.
    pub(crate) fn kill_and_wait(&mut self) {
        self.child.kill().expect("it lives");
        self.child.wait().expect("our child");
    }

    /// Waits until it and all processes that it started have ended: they all hold its output open.
    pub(crate) fn end(mut self) -> End {
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
