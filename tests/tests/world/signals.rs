//! Signals end a service in order, whatever the service is: a plain program, one with handlers of its own, the first
//! process of a container, a forked child. Files are gone each time.
//!
//! Symptom: as PID 1 a service lived on with a dead server after SIGTERM; tokio's graceful shutdown was cut off;
//! SIGHUP and SIGQUIT left both files; a forked child could not be ended. Cause: our handler always ran, for two signals
//! only, and raised the signal in the end, which does nothing to PID 1. Fix: `engine/src/server/signals.rs`.
#![expect(unsafe_code, reason = "kill, fork and sigaction")]

use super::fork::{Child, Holder, Way};
use ringmill::{ProcessServlet, Server};
use ringmill_tests::alone::arguments;
use ringmill_tests::guard::guarded;
use ringmill_tests::name::Name;
use ringmill_tests::plain_signals::with_plain_signals;
use ringmill_tests::wait_until;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{ChildStdout, Command, ExitStatus, Stdio};
use std::time::Duration;

const ROLE: &str = "RINGMILL_TEST_SIGNALS";
const ROLES: &str = "signals::roles";
const SIGNALS: [i32; 4] = [libc::SIGINT, libc::SIGTERM, libc::SIGHUP, libc::SIGQUIT];

/// This program in another role: `role server-name file`, run by the test `roles`.
pub(crate) struct Program {
    process: std::process::Child,
    words: BufReader<ChildStdout>,
}

impl Program {
    fn start(before: &[&str], role: &str, name: &Name, file: &str) -> Self {
        let mut program = Self::prepare(before, ROLES, role, name, file);
        program.await_word("ready");
        program
    }

    /// The order for such a program, which the test `roles` reads.
    pub(crate) fn order(roles: &str) -> Option<String> {
        let order = std::env::var(ROLE).ok()?;
        order.strip_prefix(roles)?.strip_prefix(' ').map(str::to_owned)
    }

    /// Starts it, as `before` says; it has not said anything yet.
    pub(crate) fn prepare(before: &[&str], roles: &str, role: &str, name: &Name, file: &str) -> Self {
        let this = std::env::current_exe().expect("this program");
        let mut command = match before {
            [] => Command::new(this),
            [first, rest @ ..] => {
                let mut command = Command::new(first);
                command.args(rest).arg(this);
                command
            }
        };
        command.args(arguments(roles));
        command.env(ROLE, format!("{roles} {role} {} {file}", name.text()));
        // SAFETY: between fork and exec, one system call: no core dumps.
        unsafe {
            command.pre_exec(|| {
                let none = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
                libc::setrlimit(libc::RLIMIT_CORE, &raw const none);
                Ok(())
            });
        }
        let mut process = with_plain_signals(&mut command)
            .process_group(0)
            .stdout(Stdio::piped())
            .spawn()
            .expect("this program");
        let words = BufReader::new(process.stdout.take().expect("a pipe"));
        Self { process, words }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Reads on until it says this.
    #[track_caller]
    pub(crate) fn await_word(&mut self, word: &str) {
        let mut line = String::new();
        while self.words.read_line(&mut line).expect("a line") > 0 {
            if line.trim_end().ends_with(word) {
                return;
            }
            line.clear();
        }
        panic!("it never said {word}: {:?}", self.process.wait());
    }

    fn signal_group(&self, signal: i32) {
        // SAFETY: a group that is named after a child of ours.
        unsafe { libc::kill(-self.process.id().cast_signed(), signal) };
    }

    pub(crate) fn signal(&self, signal: i32) {
        // SAFETY: a child of ours that has not been waited for.
        unsafe { libc::kill(self.process.id().cast_signed(), signal) };
    }

    /// Whatever else it says, until it and its workers have ended, and how it ended.
    pub(crate) fn rest(mut self) -> (String, ExitStatus) {
        let mut said = String::new();
        self.words.read_to_string(&mut said).expect("text");
        (said, self.end())
    }

    fn end(mut self) -> ExitStatus {
        self.process.wait().expect("a child of ours")
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

pub(crate) fn say(word: &str) {
    let mut out = std::io::stdout();
    let _ = writeln!(out, "{word}").and_then(|()| out.flush());
}

/// Not a test: the roles of the programs that the tests start.
#[test]
fn roles() {
    let Some(order) = Program::order(ROLES) else { return };
    let words: Vec<&str> = order.split(' ').collect();
    let server = || Server::builder(words[1]).start(ProcessServlet::<Holder>::new(())).expect("a server");
    let file = words[2].to_owned();
    match words[0] {
        "idle" => {
            let _server = server();
            say("ready");
            loop {
                std::thread::park();
            }
        }
        "busy" => {
            let server = server();
            std::thread::scope(|scope| {
                scope.spawn(|| server.call(&file).map(|_| ()));
                wait_until("it is at work", || {
                    server.debug_info().requests.iter().any(|r| r.phase == "claimed")
                });
                say("ready");
            });
            loop {
                std::thread::park();
            }
        }
        // Handles SIGTERM itself, answers requests in flight, then leaves.
        "tokio" => {
            let server = server();
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async {
                let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())
                    .expect("a handler");
                let call = server.call_async(&file);
                let told = async {
                    eventually_async(|| server.debug_info().requests.iter().any(|r| r.phase == "claimed"))
                        .await;
                    say("ready");
                    terminate.recv().await;
                    say("told");
                };
                let (answer, ()) = futures_util::future::join(call, told).await;
                say(if answer.is_ok() { "answered" } else { "refused" });
            });
            drop(server);
            std::process::exit(0);
        }
        other => panic!("no role {other}"),
    }
}

async fn eventually_async(mut holds: impl FnMut() -> bool) {
    while !holds() {
        tokio::time::sleep(Duration::from_millis(1)).await; // a look, not a measure
    }
}

#[test]
fn each_signal_to_the_group_ends_it_and_leaves_nothing() {
    guarded(|| {
        for signal in SIGNALS {
            let name = Name::new("each");
            let program = Program::start(&[], "idle", &name, "/none");
            program.signal_group(signal);
            assert_eq!(program.end().signal(), Some(signal));
            name.assert_nothing_left();
        }
    });
}

#[test]
fn a_second_signal_leaves_nothing_either() {
    guarded(|| {
        let directory = tempfile::tempdir().expect("a directory");
        let held = directory.path().join("held");
        std::fs::write(&held, "").expect("a file");
        for _ in 0..20 {
            let name = Name::new("second");
            let program = Program::start(&[], "busy", &name, held.to_str().expect("text"));
            program.signal(libc::SIGINT);
            // Two pending signals count as one.
            wait_until("the first is seen", || {
                !name.segment_exists() || name.inspect().run() != ringmill_shm::segment::Run::Running
            });
            program.signal(libc::SIGINT);
            assert_eq!(program.end().signal(), Some(libc::SIGINT));
            name.assert_nothing_left();
        }
    });
}

#[test]
fn a_runtime_with_handlers_of_its_own_decides() {
    guarded(|| {
        let (name, directory) = (Name::new("tokio"), tempfile::tempdir().expect("a directory"));
        let held = directory.path().join("held");
        std::fs::write(&held, "").expect("a file");
        let mut program = Program::start(&[], "tokio", &name, held.to_str().expect("text"));
        program.signal_group(libc::SIGTERM);
        program.await_word("told");
        std::fs::remove_file(&held).expect("it is there");
        program.await_word("answered");
        assert_eq!(program.end().code(), Some(0));
        name.assert_nothing_left();
    });
}

#[test]
fn the_first_process_of_a_container_ends_too() {
    guarded(|| {
        let unshare = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"];
        let able = Command::new(unshare[0]).args(&unshare[1..]).arg("true").stderr(Stdio::null()).status();
        if !able.is_ok_and(|status| status.success()) {
            println!("skipped: no pid namespace can be made here");
            return;
        }
        for signal in SIGNALS {
            let name = Name::new("pid1");
            let program = Program::start(&unshare, "idle", &name, "/none");
            // `unshare` is the parent of the namespace's first process, and ends as that does.
            let children = format!("/proc/{0}/task/{0}/children", program.process.id());
            let first: i32 =
                std::fs::read_to_string(children).expect("children").trim().parse().expect("one");
            // SAFETY: a child of a child of ours that waits for it.
            unsafe { libc::kill(first, signal) };
            assert_eq!(program.end().code(), Some(128 + signal));
            name.assert_nothing_left();
        }
    });
}

#[test]
fn a_forked_child_is_ended_at_once_and_its_parent_goes_on() {
    ringmill_tests::alone::alone("signals::a_forked_child_is_ended_at_once_and_its_parent_goes_on", || {
        let name = Name::new("child");
        let server = Server::builder(name.text()).start(ProcessServlet::<Holder>::new(())).expect("a server");
        for signal in SIGNALS {
            let none = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
            // SAFETY: a live structure; this test has a process of its own.
            unsafe { libc::setrlimit(libc::RLIMIT_CORE, &raw const none) };
            for way in [Way::Fork, Way::Bare] {
                let child = way.make();
                if child == 0 {
                    // SAFETY: waits for its signal.
                    unsafe {
                        libc::sleep(50);
                        libc::_exit(3)
                    }
                }
                let mut status = 0;
                // SAFETY: a child of ours.
                unsafe {
                    libc::kill(child, signal);
                    assert_eq!(libc::waitpid(child, &raw mut status, 0), child);
                }
                assert_eq!(libc::WTERMSIG(status), signal);
            }
        }
        // A child with a server of its own shuts it down.
        let other = Name::new("own");
        let said = Child::start(Way::Fork, || {
            let child = Way::Fork.make();
            if child == 0 {
                let own =
                    Server::builder(other.text()).start(ProcessServlet::<Holder>::new(())).expect("a server");
                // SAFETY: this process, which ends by it.
                unsafe { libc::kill(libc::getpid(), libc::SIGTERM) };
                std::thread::sleep(Duration::from_secs(50));
                drop(own);
            }
            let mut status = 0;
            // SAFETY: a child of ours.
            unsafe { libc::waitpid(child, &raw mut status, 0) };
            format!("{}", libc::WTERMSIG(status))
        });
        assert_eq!(said.said(), libc::SIGTERM.to_string());
        other.assert_nothing_left();
        assert!(server.call(&"/none".to_owned()).is_ok());
        drop(server);
        name.assert_nothing_left();
    });
}
