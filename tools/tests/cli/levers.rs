//! The levers: a thread of the test is the server that reads the control page.

use super::segments::Ours;
use super::tool::{code, complaint, parsed, shmtool, text};
use ringmill_shm::control::{Command, Lever, Slot, Taken, Verdict};
use ringmill_shm::segment::Segment;
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::path::PathBuf;
use std::process::{Child, Command as Process, Output, Stdio};
use std::time::Duration;

/// What `shmtool` asks, and what it says when it is answered.
fn answered(segment: &Segment, arguments: &[&str], verdict: &Verdict) -> (Command, Output) {
    std::thread::scope(|scope| {
        let output = scope.spawn(|| shmtool(arguments));
        let command = answer(segment, verdict, || assert!(!output.is_finished(), "it has not asked"));
        (command, output.join().unwrap())
    })
}

/// Takes the next command; `wait` is called before each wait for it.
fn take(segment: &Segment, wait: impl Fn()) -> (&Slot, Taken) {
    let page = segment.control();
    loop {
        let count = page.asked().count();
        if let Some(taken) = page.slots().iter().find_map(|slot| Some((slot, slot.take()?))) {
            return taken;
        }
        wait();
        page.asked().sleep(count, Some(Duration::from_millis(100)));
    }
}

/// Answers the next command.
fn answer(segment: &Segment, verdict: &Verdict, wait: impl Fn()) -> Command {
    let (slot, taken) = take(segment, wait);
    slot.answer(&taken, &verdict.to_bytes());
    Command::parse(&taken.question).unwrap()
}

#[test]
fn each_lever_is_asked_and_its_answer_told() {
    let ours = Ours::new();
    let segment = ours.create();
    let name = ours.name();
    let here = std::env::current_dir().unwrap();
    let limit = Duration::from_secs(60);
    let program = |path: PathBuf| Lever::Replace { program: Some(path) };
    for (words, lever, asked) in [
        (&["drain", "--limit", "1min"][..], Lever::Drain { limit }, "drain servlet tag"),
        (&["resume"], Lever::Resume, "resume servlet tag"),
        (&["restart-worker", "2"], Lever::Restart { worker: 2 }, "restart worker 2 of servlet tag"),
        (&["kill-worker", "0"], Lever::Kill { worker: 0 }, "kill worker 0 of servlet tag"),
        (&["scale", "4"], Lever::Scale { workers: 4 }, "scale servlet tag to 4"),
        (&["replace"], Lever::Replace { program: None }, "replace the workers of servlet tag"),
        (
            &["replace", "--program", "/bin/x"],
            program("/bin/x".into()),
            "replace the workers of servlet tag by /bin/x",
        ),
        (&["replace", "--program", "x"], program(here.join("x")), ""),
    ] {
        let arguments = [&words[..1], &[&name, "tag", "--yes"], &words[1..]].concat();
        let done = Verdict { is_done: true, text: String::new() };
        let (command, output) = answered(&segment, &arguments, &done);
        assert_eq!(command, Command { servlet: "tag".into(), lever }, "{arguments:?}");
        assert_eq!(code(&output), 0);
        let said = text(&output);
        assert!(said.starts_with(&format!("{name}: done: {asked}")) && said.ends_with('\n'), "{said}");
    }
    let refused = Verdict { is_done: false, text: "no,\nnot \u{1b}[31mnow".into() };
    let scale = ["scale", &name, "tag", "4", "-y"];
    let (_, output) = answered(&segment, &scale, &refused);
    assert_eq!(code(&output), 1);
    let said = text(&output);
    assert!(said.contains(": not done: scale servlet tag to 4: no,") && !said.contains('\u{1b}'), "{said}");
    let (_, output) = answered(&segment, &[&scale[..], &["--json"]].concat(), &refused);
    let json = parsed(&output);
    assert_eq!((&json["done"], &json["servlet"], code(&output)), (&false.into(), &"tag".into(), 1));
}

/// Symptom: a script could not tell a command that was withdrawn from one that the server was still at. Cause: both had status
/// 2. Fix: status 3 is of what may be done yet.
#[test]
fn what_the_server_has_read_and_not_answered_has_a_status_of_its_own() {
    let ours = Ours::new();
    let name = ours.name();
    let read = |more: &[&str], and_dies: bool| {
        let mut segment = ours.create();
        let arguments = [&["scale", &name, "tag", "4", "--yes"], more].concat();
        std::thread::scope(|scope| {
            let output = scope.spawn(|| shmtool(&arguments));
            take(&segment, || assert!(!output.is_finished(), "it has not asked"));
            if and_dies {
                segment.keep_files();
                drop(segment);
            }
            let output = output.join().unwrap();
            assert_eq!(code(&output), 3);
            String::from_utf8(output.stderr).unwrap()
        })
    };
    let late = read(&["--timeout", "20ms"], false);
    assert!(late.contains("has read the command, is still at it after 20ms, and goes on"), "{late}");
    let dead = read(&[], true);
    assert!(dead.contains("the server is gone; it had read the command"), "{dead}");
}

/// A terminal of which the test is the other end.
struct Terminal {
    test: File,
    tool: PathBuf,
}

impl Terminal {
    fn open() -> Self {
        let test = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&test).unwrap();
        unlockpt(&test).unwrap();
        let tool = ptsname(&test, Vec::new()).unwrap().into_string().unwrap().into();
        Self { test: test.into(), tool }
    }

    fn start(&self, arguments: &[&str]) -> Child {
        let ours = || OpenOptions::new().read(true).write(true).open(&self.tool).unwrap();
        let mut command = Process::new(env!("CARGO_BIN_EXE_shmtool"));
        command.args(arguments).stdin(ours()).stderr(ours()).stdout(Stdio::piped()).spawn().unwrap()
    }

    /// What the tool writes until it asks.
    fn question(&mut self) -> String {
        let mut said = Vec::new();
        while !said.ends_with(b"[y/N] ") {
            let mut byte = [0];
            self.test.read_exact(&mut byte).unwrap();
            said.push(byte[0]);
        }
        String::from_utf8(said).unwrap()
    }
}

#[test]
fn on_a_terminal_it_asks_and_obeys_the_answer() {
    let ours = Ours::new();
    let segment = ours.create();
    let name = ours.name();
    let server = std::process::id();
    for (typed, is_meant) in [
        ("y\n", true),
        ("YES\n", true),
        ("n\n", false),
        ("\n", false),
        ("yesterday\n", false),
        ("\x04", false),
    ] {
        let mut terminal = Terminal::open();
        let tool = terminal.start(&["scale", &name, "tag", "4"]);
        let question = format!("scale servlet tag to 4 of server {name} (process {server})? [y/N] ");
        assert_eq!(terminal.question(), question);
        assert!(segment.control().slots().iter().all(|slot| slot.take().is_none()), "not before the answer");
        terminal.test.write_all(typed.as_bytes()).unwrap();
        if is_meant {
            answer(&segment, &Verdict { is_done: true, text: String::new() }, || {});
        }
        let output = tool.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        match is_meant {
            true => assert_eq!((code(&output), said), (0, format!("{name}: done: scale servlet tag to 4\n"))),
            false => {
                let not_done = format!("{name}: not done: scale servlet tag to 4: you have not said yes\n");
                assert_eq!((code(&output), said), (1, not_done), "{typed:?}");
                assert!(segment.control().slots().iter().all(|slot| slot.take().is_none()), "not asked");
            }
        }
    }
}

#[test]
fn odd_arguments_of_levers_are_named() {
    let ours = Ours::new();
    let segment = ours.create();
    let name = ours.name();
    for (wrong, told) in [
        (&["scale", &name, "tag", "-4"][..], "invalid value '-4' for '<WORKERS>'"),
        (&["restart-worker", &name, "tag", "-1"], "invalid value '-1' for '<WORKER>'"),
        (&["resume", &name, "tag", "--patience", "0s"], "it must be at least 10ms"),
        (&["resume", &name, "tag", "--patience", "-1s"], "invalid value '-1s' for '--patience <TIME>'"),
        (&["drain", &name, "tag", "--limit", "1000y"], "it must be at most 366 days"),
    ] {
        let output = shmtool(wrong);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(code(&output) == 2 && said.contains(told), "{said}");
    }
    let done = Verdict { is_done: true, text: String::new() };
    let (_, output) = answered(&segment, &["resume", &name, "", "-y"], &done);
    assert_eq!(text(&output), format!("{name}: done: resume servlet \"\"\n"));
}

#[test]
fn what_no_one_confirms_or_no_server_reads_is_not_done() {
    let ours = Ours::new();
    let name = ours.name();
    let scale = |more: &[&str]| complaint(&shmtool(&[&["scale", &name, "tag", "4"], more].concat()));
    {
        let segment = ours.create();
        assert!(scale(&[]).contains("say --yes"));
        let unread = scale(&["--yes", "--patience", "20ms"]);
        let told = "has not read the command within 20ms: it is stopped, or hangs; the command was withdrawn, and will not";
        assert!(unread.contains(told), "{unread}");
        assert!(segment.control().slots().iter().all(|slot| slot.take().is_none()), "it is withdrawn");
        let long = "x".repeat(1000);
        assert!(complaint(&shmtool(&["resume", &name, &long, "--yes"])).contains("and may have 400"));
    }
    ours.create_stale();
    assert!(scale(&["--yes"]).contains("its server has died"));
    assert!(complaint(&shmtool(&["resume", "shmtool-no-such", "tag", "--yes"])).contains("no segment"));
}
