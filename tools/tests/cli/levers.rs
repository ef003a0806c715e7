//! The levers: a thread of the test is the server that reads the control page.

use super::segments::Ours;
use super::tool::{code, complaint, parsed, shmtool, text};
use ringmill_shm::control::{Command, Lever, Verdict};
use ringmill_shm::segment::Segment;
use std::path::PathBuf;
use std::process::Output;
use std::time::Duration;

/// What `shmtool` asks, and what it says when it is answered.
fn answered(segment: &Segment, arguments: &[&str], verdict: &Verdict) -> (Command, Output) {
    std::thread::scope(|scope| {
        let output = scope.spawn(|| shmtool(arguments));
        let page = segment.control();
        let question = loop {
            let count = page.asked().count();
            let taken = page.slots().iter().find_map(|slot| slot.take().map(|taken| (slot, taken)));
            if let Some((slot, taken)) = taken {
                slot.answer(&taken, &verdict.to_bytes());
                break taken.question;
            }
            assert!(!output.is_finished(), "{:?}", output.join());
            page.asked().sleep(count, Some(Duration::from_millis(100)));
        };
        (Command::parse(&question).unwrap(), output.join().unwrap())
    })
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

#[test]
fn what_no_one_confirms_or_no_server_reads_is_not_done() {
    let ours = Ours::new();
    let name = ours.name();
    let scale = |more: &[&str]| complaint(&shmtool(&[&["scale", &name, "tag", "4"], more].concat()));
    {
        let segment = ours.create();
        assert!(scale(&[]).contains("say --yes"));
        let unread = scale(&["--yes", "--patience", "20ms"]);
        assert!(unread.contains("was withdrawn, and will not be done"), "{unread}");
        assert!(segment.control().slots().iter().all(|slot| slot.take().is_none()), "it is withdrawn");
        let long = "x".repeat(1000);
        assert!(complaint(&shmtool(&["resume", &name, &long, "--yes"])).contains("and may have 400"));
    }
    ours.create_stale();
    assert!(scale(&["--yes"]).contains("its server has died"));
    assert!(complaint(&shmtool(&["resume", "shmtool-no-such", "tag", "--yes"])).contains("no segment"));
}
