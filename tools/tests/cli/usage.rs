//! Arguments, help and output of every command.

use super::segments::{Ours, begin, busy, forked, of_no_participant, prepare, spec};
use super::tool::{code, commands, parsed, shmtool, text};
use super::trace::traced;
use ringmill_shm::segment::Segment;
use serde_json::Value;
use std::process::{Command, Stdio};

#[test]
fn a_reader_that_has_gone_is_not_an_error() {
    let ours = Ours::new();
    let _segment = ours.create();
    for arguments in [&["list"][..], &["show", &ours.name()], &["--help"]] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let mut command = Command::new(env!("CARGO_BIN_EXE_shmtool"));
        let output = command.args(arguments).stdout(writer).stderr(Stdio::piped()).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stderr), "");
        assert_eq!(code(&output), 0);
    }
}

#[test]
fn wrong_usage_exits_with_2_and_help_has_examples() {
    assert_eq!(code(&shmtool(&[])), 2);
    for command in ["show", "requests", "stats", "top", "trace", "check"] {
        let output = shmtool(&[command]);
        let message = String::from_utf8_lossy(&output.stderr);
        assert!(
            code(&output) == 2 && message.contains("tip: 'shmtool list' shows all segments"),
            "{message}"
        );
    }
    let scale = |more: &[&str]| {
        let output = shmtool(&[&["scale"], more].concat());
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    assert!(
        scale(&["digits"]).contains("tip: 'shmtool show NAME' shows its servlets"),
        "{}",
        scale(&["digits"])
    );
    for without_tip in [&["record", "digits"][..], &["report", "x"], &["completions"], &["man"]] {
        let output = shmtool(without_tip);
        let message = String::from_utf8_lossy(&output.stderr);
        assert!(code(&output) == 2 && !message.contains("tip: "), "{message}");
    }
    for writes in [
        &["record", "digits", "-o", "-"][..],
        &["report", "-", "-o", "x"],
        &["report", "x", "-o", "-"],
        &["bench", "--demo", "-f", "-"],
        &["man", "-"],
    ] {
        let output = shmtool(writes);
        let message = String::from_utf8_lossy(&output.stderr);
        assert!(code(&output) == 2 && message.contains("./- is one"), "{message}");
    }
    assert_eq!(code(&shmtool(&["polish"])), 2);
    let commands = commands();
    assert!(["list", "replace", "clean"].iter().all(|known| commands.iter().any(|other| other == known)));
    for command in std::iter::once("").chain(commands.iter().map(String::as_str)) {
        let arguments: Vec<&str> = [command, "--help"].into_iter().filter(|word| !word.is_empty()).collect();
        let help = text(&shmtool(&arguments));
        assert!(help.contains("Examples:"), "{help}");
        assert!(help.lines().all(|line| line.chars().count() <= 80), "{help}");
    }
}

/// The names of all fields of a document.
fn fields(value: &Value, into: &mut Vec<String>) {
    match value {
        Value::Object(map) => {
            for (name, value) in map {
                into.push(name.clone());
                fields(value, into);
            }
        }
        Value::Array(all) => all.iter().for_each(|value| fields(value, into)),
        _ => {}
    }
}

/// The fields that a command's help says its JSON has: what stands left of the explanations, below *JSON*.
fn documented(help: &str) -> Vec<&str> {
    const EXPLANATIONS: usize = 20;
    let json = help.split("\nJSON:").nth(1).expect("JSON is described");
    let lines = json.lines().skip(1).take_while(|line| !line.is_empty());
    let left =
        lines.filter(|line| (1..EXPLANATIONS).contains(&line.len().saturating_sub(line.trim_start().len())));
    left.flat_map(|line| {
        line.trim_start()
            .split("  ")
            .next()
            .unwrap()
            .split(", ")
            .map(|name| name.trim_end_matches([',', ':']))
    })
    .collect()
}

#[test]
fn help_names_the_fields_of_the_json_and_no_others() {
    let (ours, forked_ours, broken) = (Ours::new(), Ours::new(), Ours::new());
    let traced_ours = Ours::new();
    let (_of_traced, traced_name) = (traced(&traced_ours), traced_ours.name());
    let (segment, of_forked, of_broken) = (busy(&ours), forked(&forked_ours), broken.create());
    let _ = begin(&of_broken, 5, of_no_participant());
    let (name, forked_name, broken_name) = (ours.name(), forked_ours.name(), broken.name());
    let demo = Ours::new().name();
    let pages = tempfile::tempdir().unwrap();
    let [record, page] = ["record", "page"].map(|name| pages.path().join(name).to_str().unwrap().to_string());
    let as_for_list = text(&shmtool(&["list", "--help"]));
    for (command, arguments) in [
        ("list", &[][..]),
        ("show", &[&*forked_name]),
        ("requests", &[&*forked_name, "--payload"]),
        ("stats", &[&*forked_name]),
        ("trace", &[&*traced_name]),
        ("record", &[&*name, "-o", &*record, "--interval", "10ms", "--for", "20ms"]),
        ("report", &[&*record, "-o", &*page]),
        ("bench", &["--demo", "-p", "20ms", "--warm-up", "0s", "--server-name", &*demo]),
        ("check", &[&*broken_name]),
        ("doctor", &[]),
        ("completions", &["fish"]),
        ("man", &[pages.path().to_str().unwrap()]),
        ("clean", &[&*name]),
    ] {
        let mut names = Vec::new();
        fields(&parsed(&shmtool(&[&[command, "--json"], arguments].concat())), &mut names);
        let help = text(&shmtool(&[command, "--help"]));
        for name in &names {
            let mut words = help.split(|c: char| !c.is_alphanumeric() && c != '_');
            let known = words.any(|word| word == name) || (command != "clean" && as_for_list.contains(name));
            assert!(known, "{command} --help does not name {name}");
        }
        for name in documented(&help) {
            assert!(names.iter().any(|other| other == name), "{command} --json has no {name}");
        }
    }
    drop((segment, of_forked, of_broken));
}

/// Symptom: a segment's path, a worker's message or a servlet's name could control a terminal. Cause: the tool escaped only some
/// texts of other processes, and C1 controls and direction marks came through JSON. Fix: the tool escapes every text where it
/// enters a report and again where it leaves.
#[test]
fn texts_of_other_processes_cannot_control_a_terminal() {
    let unruly = "\x1b]0;owned\x07\x1b[2J\n\r\u{9b}31m\u{202e}\u{2028}\u{200b}\u{feff}";
    let directory = std::env::temp_dir().join(format!("shmtool-{}-\x1b[31m\u{202e}", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap();
    let assert_plain = |arguments: &[&str]| {
        let output = shmtool(arguments);
        for bytes in [&output.stdout, &output.stderr] {
            let text = std::str::from_utf8(bytes).expect("UTF-8");
            let found = text.chars().find(|&c| c != '\n' && ringmill_shm::text::is_unruly(c));
            assert_eq!(found, None, "{arguments:?}: {text:?}");
        }
        output
    };
    // A segment in which every text is hostile, made without a server.
    let ours = Ours::new();
    let mut spec = spec();
    for node in &mut spec.nodes {
        node.name += unruly;
        node.worker_type += unruly;
    }
    let segment = Segment::create(ours.0.clone(), &spec).unwrap();
    prepare(&segment, 1);
    segment.participants()[1].fail(format!("failed {unruly}").as_bytes());
    for arguments in [["show"], ["requests"], ["stats"], ["check"]] {
        for json in [&["--json"][..], &[]] {
            let name = ours.name();
            let arguments: Vec<&str> =
                arguments.into_iter().chain([&*name]).chain(json.iter().copied()).collect();
            assert_eq!(code(&assert_plain(&arguments)), 0);
        }
    }
    let shown = assert_plain(&["show", &ours.name(), "--json"]);
    assert!(parsed(&shown)["nodes"][0]["name"].as_str().unwrap().starts_with("split\\u{1b}]0;owned\\u{7}"));
    // Files that are no segments, at paths with control characters; and invalid names.
    let foreign = directory.join("a\x1b[31mb\nc");
    std::fs::write(&foreign, "no segment at all").unwrap();
    for path in [&foreign, &directory.join("missing\x07"), &directory] {
        let path = path.to_str().unwrap();
        for command in ["show", "requests", "check", "clean"] {
            for json in [&["--json"][..], &[]] {
                let arguments: Vec<&str> = [command, path].into_iter().chain(json.iter().copied()).collect();
                assert_ne!(code(&assert_plain(&arguments)), 0);
            }
        }
    }
    assert_ne!(code(&assert_plain(&["show", "a\x1b[31m\n"])), 0);
    for json in [&["--json"][..], &[]] {
        let odd = std::path::Path::new("/dev/shm")
            .join(format!("ringmill-shmtool-{}-\x1b[31m", std::process::id()));
        std::fs::write(&odd, "no segment").unwrap();
        let listed = assert_plain(&[&["list"], json].concat());
        std::fs::remove_file(&odd).unwrap();
        assert_eq!(code(&listed), 0);
    }
    std::fs::remove_dir_all(&directory).unwrap();
}
