//! `record` and `report`.

use super::child::serve_in_a_child;
use super::segments::{Ours, spec};
use super::stats::counted;
use super::tool::{code, complaint, parsed, shmtool, text};
use ringmill_shm::participant::Life;
use ringmill_shm::placed::Placed;
use ringmill_shm::segment::Segment;
use ringmill_shm::stats::{CallerCounter, CallerHistogram, ServerCounter};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn file(&self, name: &str) -> (PathBuf, String) {
        let path = self.0.path().join(name);
        (path.clone(), path.to_str().unwrap().into())
    }
}

fn lines(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.split_inclusive('\n')
        .filter(|line| line.ends_with('\n'))
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

/// A recorder that works until something ends it.
fn recorder(ours: &Ours, file: &str) -> Child {
    Command::new(env!("CARGO_BIN_EXE_shmtool"))
        .args(["record", &ours.name(), "-o", file, "--interval", "10ms", "--json"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Waits for a number of lines; no event reports them.
fn wait_for_lines(path: &Path, count: usize) {
    while lines(path).len() < count {
        std::thread::yield_now();
    }
}

fn signal(child: &Child, name: &str) {
    assert!(Command::new("kill").args([name, &child.id().to_string()]).status().unwrap().success());
}

#[test]
fn each_line_is_a_period_and_a_signal_ends_the_record() {
    let (ours, folder) = (Ours::new(), Folder::new());
    let segment = counted(&ours);
    let (path, file) = folder.file("record.jsonl");
    let tool = recorder(&ours, &file);
    wait_for_lines(&path, 2);
    (0..5).for_each(|_| segment.caller_row(1).count(CallerCounter::Answered));
    segment.caller_row(1).record(CallerHistogram::TotalTime, 2_000_000, 1);
    segment.server_counters().count(ServerCounter::Deaths);
    let seen = lines(&path).len();
    wait_for_lines(&path, seen + 3);
    signal(&tool, "-INT");
    let output = tool.wait_with_output().unwrap();
    assert_eq!(code(&output), 0);
    let said = parsed(&output);
    let all = lines(&path);
    assert_eq!((&said["ended_by"], &said["name"]), (&json!("signal"), &json!(ours.name())));
    assert_eq!(said["samples"], all.len() - 1);
    let (head, samples) = all.split_first().unwrap();
    assert_eq!((&head["format"], &head["version"]), (&json!("shmtool-record"), &json!(1)));
    assert_eq!((&head["name"], &head["interval_s"]), (&json!(ours.name()), &json!(0.01)));
    let sum = |of: &dyn Fn(&Value) -> &Value| samples.iter().map(|s| of(s).as_u64().unwrap()).sum::<u64>();
    assert_eq!(sum(&|s| &s["requests"]["answered"]), 5, "within the record, and in one period each");
    assert_eq!(sum(&|s| &s["deaths"]["deaths"]), 1);
    assert!(samples.iter().all(|s| s["time_unix_s"].as_f64() > head["started_unix_s"].as_f64()));

    let (page, page_name) = folder.file("page.html");
    let report = parsed(&shmtool(&["report", &file, "-o", &page_name, "--json"]));
    assert_eq!((&report["samples"], &report["deaths"]), (&said["samples"], &json!(1)));
    assert_eq!(report["last_line_cut"], false);
    let html = std::fs::read_to_string(page).unwrap();
    assert!(html.starts_with("<!DOCTYPE html>") && html.ends_with("</html>"), "{html}");
    assert_eq!(html.matches("<svg").count(), 3, "the server, and each servlet");
    for wanted in ["Requests a second", "Time from sending to the outcome", "split", "1 worker died"] {
        assert!(html.contains(wanted), "{wanted}: {html}");
    }
    for never in ["http://", "https://", "<script", "src=", "href=", "url("] {
        let html = html.replace("http://www.w3.org/2000/svg", "");
        assert!(!html.contains(never), "{never}");
    }
}

#[test]
fn the_servers_end_and_a_time_end_it_too() {
    let (ours, folder) = (Ours::new(), Folder::new());
    let segment = ours.create();
    let (path, file) = folder.file("timed.jsonl");
    let output = shmtool(&["record", &ours.name(), "-o", &file, "--interval", "10ms", "--for", "35ms"]);
    assert_eq!(code(&output), 0);
    let told = text(&output).replace('\n', " ");
    assert!(told.contains(&format!(" of {} in ", ours.name())) && told.contains("draws them"), "{told}");
    assert!((2..=5).contains(&lines(&path).len()), "the head, and at most four");
    let told = complaint(&shmtool(&["record", &ours.name(), "-o", &file]));
    assert!(told.contains("cannot write") && told.contains("it exists already"), "{told}");

    let (path, file) = folder.file("ended.jsonl");
    let tool = recorder(&ours, &file);
    wait_for_lines(&path, 2);
    segment.participants()[0].set_life(Life::Leaving);
    drop(segment);
    let output = tool.wait_with_output().unwrap();
    assert_eq!((code(&output), &parsed(&output)["ended_by"]), (1, &json!("server")));
    assert_eq!(lines(&path).last().unwrap()["state"], "stale");
}

#[test]
fn a_stopped_server_is_recorded_and_a_killed_one_ends_the_record() {
    let (ours, folder) = (Ours::new(), Folder::new());
    let mut server = serve_in_a_child(&ours.name());
    signal(&server, "-STOP");
    let (path, file) = folder.file("stopped.jsonl");
    let tool = recorder(&ours, &file);
    wait_for_lines(&path, 2);
    server.kill().unwrap();
    server.wait().unwrap();
    assert_eq!(code(&tool.wait_with_output().unwrap()), 1);
    assert!(lines(&path)[1]["findings"][0]["text"].as_str().unwrap().contains(" is stopped: "));
    let (_, page) = folder.file("stopped.html");
    assert_eq!(code(&shmtool(&["report", &file, "-o", &page])), 0);
}

#[test]
fn a_recorder_that_was_killed_leaves_what_it_had() {
    let (ours, folder) = (Ours::new(), Folder::new());
    let _segment = ours.create();
    let (path, file) = folder.file("cut.jsonl");
    let mut tool = recorder(&ours, &file);
    wait_for_lines(&path, 4);
    tool.kill().unwrap();
    tool.wait().unwrap();
    let whole = std::fs::read(&path).unwrap();
    let end = whole.iter().rposition(|&byte| byte == b'{').unwrap();
    let page = folder.file("page.html").1;
    for length in [whole.len() - 1, whole.len() - 2, end + 1] {
        std::fs::write(&path, &whole[..length]).unwrap();
        let report = parsed(&shmtool(&["report", &file, "-o", &page, "--json"]));
        assert_eq!(report["last_line_cut"], true, "{length}");
        assert!(report["samples"].as_u64().unwrap() >= 2);
    }
    // The head alone is a record of nothing.
    let head = whole.iter().position(|&byte| byte == b'\n').unwrap() + 1;
    std::fs::write(&path, &whole[..head]).unwrap();
    assert_eq!(parsed(&shmtool(&["report", &file, "-o", &page, "--json"]))["samples"], 0);
}

/// What cannot be recorded is refused before a file is made.
#[test]
fn a_record_that_cannot_be_made_leaves_no_file() {
    let (ours, folder) = (Ours::new(), Folder::new());
    let (path, file) = folder.file("none.jsonl");
    let record = |more: &[&str]| shmtool(&[&["record", &ours.name(), "-o", &file], more].concat());
    {
        let _segment = ours.create();
        for wrong in [["--for", "1000y"], ["--interval", "1000y"], ["--interval", "1ms"]] {
            let output = record(&wrong);
            let told = String::from_utf8_lossy(&output.stderr);
            assert!(code(&output) == 2 && told.contains("it must be at "), "{told}");
        }
        let no_file = shmtool(&["record", &ours.name(), "-o", "-"]);
        assert!(String::from_utf8_lossy(&no_file.stderr).contains("./- is one"));
        assert!(!Path::new("-").exists());
        let directory = complaint(&shmtool(&["record", &ours.name(), "-o", "/tmp"]));
        assert!(directory.contains("cannot write /tmp: it exists already"), "{directory}");
    }
    ours.create_stale();
    for watched in [record(&[]), shmtool(&["stats", &ours.name(), "--interval", "10ms"])] {
        let told = complaint(&watched);
        assert!(told.contains("has died") && told.contains("shmtool stats"), "{told}");
    }
    assert!(!path.exists());
}

/// Symptom: `report X -o X` wrote the page over the record.
#[test]
fn a_page_is_not_written_over_its_record() {
    let (ours, folder) = (Ours::new(), Folder::new());
    let _segment = ours.create();
    let (path, file) = folder.file("record.jsonl");
    assert_eq!(code(&shmtool(&["record", &ours.name(), "-o", &file, "--for", "20ms"])), 0);
    let record = std::fs::read(&path).unwrap();
    let (link, link_name) = folder.file("link");
    std::os::unix::fs::symlink(&path, link).unwrap();
    let (other, other_name) = folder.file("other");
    std::fs::hard_link(&path, other).unwrap();
    for page in [&file, &link_name, &other_name] {
        let told = complaint(&shmtool(&["report", &file, "-o", page]));
        assert!(told.contains("it is the record itself"), "{told}");
    }
    assert!(complaint(&shmtool(&["report", &file, "-o", "/tmp"])).contains("it is a directory"));
    assert_eq!(std::fs::read(&path).unwrap(), record);
}

/// Symptoms: numbers of a record that no server reaches let `report` panic, or search for ticks without end. Periods count, not
/// the wall clock, which an operator may set meanwhile.
#[test]
fn odd_numbers_make_a_page_too() {
    let folder = Folder::new();
    let (path, file) = folder.file("odd.jsonl");
    let (_, page) = folder.file("page.html");
    let head = json!({"format": "shmtool-record", "version": 1, "name": "n", "started_unix_s": 9e9, "interval_s": 1,
        "shmtool": "0"});
    let values = json!({"count": u64::MAX, "p50": 5e-324, "p90": 1e308, "p99": 1e308, "p999": -1});
    let sample = |time_unix_s: f64, period_s: f64, busy: f64| {
        json!({
            "time_unix_s": time_unix_s, "period_s": period_s, "capacity": u32::MAX, "in_progress": u32::MAX, "findings": [],
            "requests": {"answered": 0, "ended": u64::MAX, "total_time": values}, "deaths": {"deaths": u64::MAX},
            "servlets": [{"name": "n", "depth": u64::MAX, "busy": busy, "counters": {"items": 1, "batches": u64::MAX},
                "batch_size": values, "queue_time": values, "run_time": values}],
        })
    };
    for (periods, seconds) in [([1.0, 1e18, 1.0], json!(1e18)), ([1.0, 2.0, 5e-324], json!(3.0))] {
        let lines: Vec<_> = [head.clone()]
            .into_iter()
            .chain(periods.map(|period_s| sample(-7e9, period_s, 5e-324)))
            .map(|line| line.to_string() + "\n")
            .collect();
        std::fs::write(&path, lines.concat()).unwrap();
        let report = parsed(&shmtool(&["report", &file, "-o", &page, "--json"]));
        assert_eq!((&report["deaths"], &report["seconds"]), (&json!(u64::MAX), &seconds));
    }
}

#[test]
fn what_is_no_record_is_refused_with_its_line() {
    let folder = Folder::new();
    let (path, file) = folder.file("odd");
    let page = folder.file("page.html").1;
    let head = r#"{"format": "shmtool-record", "version": 1, "name": "n", "started_unix_s": 1, "interval_s": 1, "shmtool": "0"}"#;
    let told = |content: &[u8]| {
        std::fs::write(&path, content).unwrap();
        complaint(&shmtool(&["report", &file, "-o", &page]))
    };
    assert!(told(b"").contains("is no record of shmtool: line 1: the file is empty"));
    assert!(told(b"\x1b[2Jhello\n").contains("line 1: "));
    assert!(
        told(head.replace(": 1,", ": 9,").as_bytes()).contains("version 9, not \"shmtool-record\" version 1")
    );
    assert!(told(format!("{head}\n{{}}\n").as_bytes()).contains("line 2: missing field"));
    assert!(told(&[head.as_bytes(), b"\n\xFF\n"].concat()).contains("line 2: invalid utf-8"));
    assert!(complaint(&shmtool(&["report", "/nowhere", "-o", &page])).contains("cannot read /nowhere"));
}

/// Names in a record are data: in the page they are text.
#[test]
fn names_cannot_reach_into_the_page() {
    let (ours, folder) = (Ours::new(), Folder::new());
    let mut spec = spec();
    let name = "</svg><script>alert(1)</script>\x1b[2J";
    spec.nodes[0].name = name.into();
    spec.nodes[0].workers = vec![Placed::listed(vec![3]); 2];
    let _segment = Segment::create(ours.0.clone(), &spec).unwrap();
    let (_, file) = folder.file("odd.jsonl");
    assert_eq!(
        code(&shmtool(&["record", &ours.name(), "-o", &file, "--for", "20ms", "--interval", "10ms"])),
        0
    );
    let (page, page_name) = folder.file("page.html");
    assert_eq!(code(&shmtool(&["report", &file, "-o", &page_name])), 0);
    let html = std::fs::read_to_string(page).unwrap();
    assert!(!html.contains("<script") && !html.contains('\x1b'), "{html}");
    assert!(html.contains("&lt;script&gt;alert(1)"), "it is shown");
}
