//! The report that people look at: what is in its folder, and in the pictures.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use ringmill_bench::plot::{Folder, Measured, ReportError, Run};
use ringmill_bench::report::{Row, json};
use ringmill_bench::rounds::Regime;
use roxmltree::Document;
use tempfile::TempDir;

/// Two contestants, one with a name that is markup unless it is escaped.
const WHO: [&str; 2] = ["ringmill", "<&>\"'"];

/// Rows of every job, in the near regime where there are regimes.
fn rows() -> Vec<Row> {
    let mut rows = Vec::new();
    for (index, who) in WHO.into_iter().enumerate() {
        let factor = (index + 1) as f64;
        let near = |job| Row::new(job, who).regime(Regime::Near).at("payload_bytes", 64_u32);
        let timed = |row: Row, ratio: f64| {
            let ratio = ratio * factor;
            row.figure("ns_per_item", 68.0 * ratio)
                .figure("ratio_to_raw", ratio)
                .figure("ratio_lower", 0.9 * ratio)
                .figure("ratio_upper", 1.2 * ratio)
        };
        for bytes in [8_u32, 1024] {
            let row = Row::new("call", who).regime(Regime::Near).at("payload_bytes", bytes);
            rows.push(timed(row, 2.0));
        }
        for rate in [1_000_u32, 100_000] {
            let row = near("latency").at("rate_per_s", rate).figure("sent_per_s", 1_000.0);
            let row = row.figure("p50_us", 0.4 * factor).figure("p99_us", 2.0 * factor);
            rows.push(row.figure("p999_us", 40.0 * factor).figure("max_us", 900.0 * factor));
        }
        for window in [16_u32, 256, 4096] {
            let row = near("stream").at("window", window).at("threads", 1_u32).at("workers", 1_u32);
            rows.push(timed(row, 0.5));
        }
        for (threads, workers) in [(4_u32, 1_u32), (1, 2)] {
            let row = near("stream").at("window", 256_u32).at("threads", threads).at("workers", workers);
            rows.push(timed(row, 0.6));
        }
        for bytes in [4_096_u32, 1 << 20] {
            let row = Row::new("bulk", who).regime(Regime::Near).at("payload_bytes", bytes);
            rows.push(row.figure("gib_per_s", 8.0 / factor));
        }
        for bytes in [1_u32 << 20, 4 << 20] {
            let row = Row::new("frames", who).regime(Regime::Near).at("payload_bytes", bytes);
            rows.push(row.figure("frames_per_s", 500.0 / factor));
        }
        for size in [16_u32, 64] {
            let row = near("batch").at("workers", 4_u32).at("batch_size", size);
            rows.push(
                row.figure("mean_batch", f64::from(size) * 0.9 / factor)
                    .figure("part_of_ideal", 0.9 / factor),
            );
        }
        for (what, count) in [("stages", 1_u32), ("stages", 8), ("members", 1), ("members", 16)] {
            let row = timed(near("stages").at("window", 256_u32).at(what, count), 0.4 * f64::from(count));
            rows.push(if count > 1 { row.figure("ratio_per_further", 0.4) } else { row });
        }
        rows.push(Row::new("idle", who).at("workers", 8_u32).figure("cpu_percent", 0.02 * factor));
        for workers in [1_u32, 16] {
            let row = Row::new("start", who).at("workers", workers);
            rows.push(row.figure("ready_ms", 6.0 * f64::from(workers) * factor));
        }
        for bytes in [64_u32, 1024] {
            let row = Row::new("first", who).at("payload_bytes", bytes);
            rows.push(row.figure("first_us", 0.5 * factor).figure("later_us", 0.1));
            let row = Row::new("placement", who).at("payload_bytes", bytes);
            rows.push(row.figure("call_us", 0.7 * factor));
        }
        for bytes in [64_u32, 16_384] {
            let row = Row::new("memory", who).at("payload_bytes", bytes);
            rows.push(row.figure("bytes_per_request", f64::from(bytes) * 3.0 * factor));
        }
    }
    for rate in [1_000_u32, 10_000] {
        let wake = |who| Row::new("wake", who).at("rate_per_s", rate);
        for spin in [0_u32, 100] {
            let row = wake("ringmill").at("spin_us", spin).figure("cpu_percent", 2.0 + f64::from(spin));
            rows.push(row.figure("p50_us", 40.0).figure("p99_us", 90.0));
        }
        rows.push(wake("ringmill").figure("cpu_percent", 4.0).figure("p50_us", 20.0).figure("p99_us", 50.0));
        rows.push(wake("futex").figure("p50_us", 45.0).figure("p99_us", 80.0));
    }
    rows
}

fn run() -> Run {
    Run {
        command: "compare --report '<&>'".into(),
        date: "2026-11-22T10:00:00Z".into(),
        version: "0.1.0".into(),
        cpu: "Some <CPU> & more".into(),
        cpus: vec![0, 1],
        priority: "ordinary priority".into(),
        system: "Linux 6.1".into(),
    }
}

fn written(rows: &[Row]) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    Folder::open(dir.path()).unwrap().write(rows, &[run()]).unwrap();
    dir
}

fn read(dir: &TempDir, name: &str) -> String {
    let path = dir.path().join(name);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn names(dir: &Path) -> BTreeSet<String> {
    fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

/// What is written in a picture, each text once for each time it is there.
fn texts(svg: &str) -> Vec<String> {
    let document = Document::parse(svg).unwrap_or_else(|error| panic!("{error}: {svg}"));
    let texts = document.descendants().filter(|node| node.has_tag_name("text"));
    texts.map(|node| node.text().unwrap_or_default().trim().to_owned()).collect()
}

/// How many lines and how many points of ringmill are in a picture: whatever has its colour.
fn lines_and_points(svg: &str) -> (usize, usize) {
    const COLOR: &str = "#D13F0B";
    let document = Document::parse(svg).unwrap();
    let of = |tag: &str, attribute: &str| {
        let nodes = document.descendants().filter(|node| node.has_tag_name(tag));
        nodes.filter(|node| node.attribute(attribute) == Some(COLOR)).count()
    };
    (of("polyline", "stroke"), of("circle", "fill"))
}

#[test]
fn every_job_has_its_pictures() {
    let dir = written(&rows());
    let expected = [
        "batch-near.svg",
        "bulk-near.svg",
        "call-near.svg",
        "first.svg",
        "frames-near.svg",
        "idle.svg",
        "index.html",
        "latency-near.svg",
        "memory.svg",
        "placement.svg",
        "rows.jsonl",
        "runs.jsonl",
        "stages-near.svg",
        "start.svg",
        "stream-hands-near.svg",
        "stream-window-near.svg",
        "wake.svg",
    ];
    assert_eq!(names(dir.path()), BTreeSet::from(expected.map(String::from)));
}

#[test]
fn every_picture_shows_the_expected_series() {
    let dir = written(&rows());
    // The picture, how often each contestant is named, ringmill's points, and some of what is written.
    let expected: [(&str, usize, usize, &[&str]); 13] = [
        (
            "call-near",
            1,
            2,
            &["8 B", "1 KiB", "2×", "4×", "regime: near · medians and quartiles, log scale, left is better"],
        ),
        ("latency-near", 4, 4 + 4, &["1k", "100k", "1 µs", "Median (p50)"]),
        ("stream-window-near", 1, 3, &["16", "256", "4096", "30M"]),
        ("stream-hands-near", 2, 4, &["1", "4", "2", "10M"]),
        ("bulk-near", 1, 2, &["4 KiB", "1 MiB", "5"]),
        ("frames-near", 1, 2, &["1 MiB", "4 MiB"]),
        ("batch-near", 2, 4, &["16", "64", "100%"]),
        ("stages-near", 2, 4, &["Pipeline of stages: each further one 0.4×", "16"]),
        ("idle", 1, 1, &["0.02%", "0.04%"]),
        ("start", 1, 2, &["1", "16"]),
        ("first", 1, 2, &["64 B", "1 KiB"]),
        ("placement", 1, 2, &["64 B", "1 KiB"]),
        ("memory", 1, 2, &["64 B", "16 KiB"]),
    ];
    for (name, named, points, written) in expected {
        let svg = read(&dir, &format!("{name}.svg"));
        let texts = texts(&svg);
        for who in WHO {
            assert_eq!(texts.iter().filter(|text| *text == who).count(), named, "{who} in {name}: {texts:?}");
        }
        for text in written {
            assert!(texts.iter().any(|there| there == text), "{text} in {name}: {texts:?}");
        }
        // A point that is hollow has its colour in its outline only.
        let hollow = if name == "latency-near" { 4 } else { 0 };
        assert_eq!(lines_and_points(&svg).1, points - hollow, "{name}");
    }
    let svg = read(&dir, "wake.svg");
    let texts = texts(&svg);
    let count = |text: &str| texts.iter().filter(|there| *there == text).count();
    assert_eq!((count("adaptive"), count("0"), count("100")), (4, 4, 4), "{texts:?}");
    assert_eq!(lines_and_points(&svg).1, 4);
    assert!(texts.iter().any(|text| text.contains("dashed: bare futex")), "{texts:?}");
}

#[test]
fn nothing_is_named_that_is_not_there() {
    let rows: Vec<Row> =
        rows().into_iter().filter(|row| row.job == "call" && row.who == "ringmill").collect();
    let dir = written(&rows);
    assert_eq!(names(dir.path()).iter().filter(|name| name.ends_with(".svg")).count(), 1);
    let texts = texts(&read(&dir, "call-near.svg"));
    assert!(!texts.iter().any(|text| text == WHO[1]), "{texts:?}");
    let page = read(&dir, "index.html");
    assert!(page.contains("id=\"call\"") && !page.contains("id=\"stream\""), "{page}");
}

#[test]
fn regimes_are_never_mixed() {
    let figure = |regime, ratio: f64| {
        let row = Row::new("call", "ringmill").regime(regime).at("payload_bytes", 64_u32);
        row.figure("ns_per_item", 100.0).figure("ratio_to_raw", ratio)
    };
    let dir = written(&[figure(Regime::Far, 1.25), figure(Regime::Near, 2.5)]);
    let (near, far) = (texts(&read(&dir, "call-near.svg")), texts(&read(&dir, "call-far.svg")));
    let has = |texts: &[String], text: &str| texts.iter().any(|there| there == text);
    assert!(has(&near, "2.5×") && !has(&near, "1.25×"), "{near:?}");
    assert!(has(&far, "1.25×") && !has(&far, "2.5×"), "{far:?}");
    let page = read(&dir, "index.html");
    let [near, far] = ["near regime", "far regime"].map(|heading| page.find(heading).unwrap());
    assert!(near < far && !page.contains("sibling regime"));
    assert_eq!(page.matches("<table>").count(), 2);
}

#[test]
fn names_are_escaped_in_the_page() {
    let page = read(&written(&rows()), "index.html");
    assert!(!page.contains("<&>") && !page.contains("<CPU>"), "unescaped");
    assert!(page.contains("&lt;&amp;&gt;") && page.contains("Some &lt;CPU&gt; &amp; more"));
}

#[test]
fn the_page_says_where_when_and_how() {
    let page = read(&written(&rows()), "index.html");
    for text in [
        "compare --report",
        "2026-11-22T10:00:00Z",
        "CPUs 0, 1",
        "Linux 6.1",
        "raw is about 68 ns",
        "ordinary priority",
    ] {
        assert!(page.contains(text), "{text}");
    }
    // All pictures are in it, and nothing is fetched from anywhere.
    assert_eq!(page.matches("<svg").count(), 14);
    assert!(!page.contains("src=") && !page.contains("<link") && !page.contains("<script"));
}

#[test]
fn no_rows_make_a_page_that_says_so() {
    let dir = written(&[]);
    assert!(read(&dir, "index.html").contains("There are no rows"));
    assert_eq!(names(dir.path()).len(), 3);
}

#[test]
fn rows_of_no_known_job_have_a_table_at_least() {
    let dir = written(&[Row::new("future", "ringmill").at("window", 7_u32).figure("parsecs", 12.5)]);
    let page = read(&dir, "index.html");
    assert!(page.contains("future") && page.contains("parsecs") && page.contains("12.5"), "{page}");
}

/// Figures that make no picture must not make a panic either.
#[test]
fn odd_figures_do_not_panic() {
    let odd: Vec<Row> = rows()
        .into_iter()
        .flat_map(|row| {
            let bare = Row { figures: Vec::new(), ..row.clone() };
            let nothing = Row {
                figures: row.figures.iter().map(|(name, _)| (name.clone(), 0.0)).collect(),
                ..row.clone()
            };
            let minus = Row {
                figures: row.figures.iter().map(|(name, _)| (name.clone(), -1.0)).collect(),
                ..row.clone()
            };
            let nowhere = Row { at: Vec::new(), ..row };
            [vec![bare], vec![nothing], vec![minus], vec![nowhere]]
        })
        .flatten()
        .collect();
    for rows in [odd.clone(), odd.into_iter().step_by(4).collect()] {
        let dir = written(&rows);
        for name in names(dir.path()).iter().filter(|name| name.ends_with(".svg")) {
            texts(&read(&dir, name));
        }
    }
}

#[test]
fn a_report_is_drawn_again_from_its_own_rows() {
    let first = written(&rows());
    let measured = Measured::read(first.path()).unwrap();
    assert_eq!(measured, Measured { rows: rows(), runs: vec![run()] });
    let second = tempfile::tempdir().unwrap();
    Folder::open(second.path()).unwrap().write(&measured.rows, &measured.runs).unwrap();
    for name in names(first.path()) {
        assert_eq!(read(&first, &name), read(&second, &name), "{name}");
    }
}

#[test]
fn the_later_of_two_rows_counts() {
    let row = |who: &str, ms| Row::new("start", who).at("workers", 1_u32).figure("ready_ms", ms);
    let mut measured = Measured { rows: vec![row("a", 1.0), row("b", 2.0)], runs: vec![run()] };
    measured.add(Measured { rows: vec![row("b", 3.0), row("c", 4.0)], runs: vec![run()] });
    assert_eq!(measured.rows, [row("a", 1.0), row("b", 3.0), row("c", 4.0)]);
    assert_eq!(measured.runs, [run()]);
}

#[test]
fn the_next_report_removes_old_pictures_and_nothing_else() {
    let dir = written(&rows());
    for mine in ["notes.txt", "mine.svg", "call-home.svg"] {
        fs::write(dir.path().join(mine), "mine").unwrap();
    }
    Folder::open(dir.path()).unwrap().write(&[], &[]).unwrap();
    let left = ["call-home.svg", "index.html", "mine.svg", "notes.txt", "rows.jsonl", "runs.jsonl"];
    assert_eq!(names(dir.path()), BTreeSet::from(left.map(String::from)));
}

#[test]
fn a_failed_report_leaves_the_last_one() {
    let dir = written(&rows());
    let (page, folder) = (read(&dir, "index.html"), Folder::open(dir.path()).unwrap());
    // No user can replace a folder that is not empty.
    fs::remove_file(dir.path().join("rows.jsonl")).unwrap();
    fs::create_dir_all(dir.path().join("rows.jsonl/in the way")).unwrap();
    let error = folder.write(&[], &[]).unwrap_err();
    assert!(matches!(&error, ReportError::Write { path, .. } if path.ends_with("rows.jsonl")), "{error}");
    assert_eq!(read(&dir, "index.html"), page);
    assert!(names(dir.path()).iter().all(|name| !name.starts_with(".unfinished")), "{:?}", names(dir.path()));
}

fn compare(arguments: &[&Path]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_compare")).args(arguments).output().unwrap()
}

#[test]
fn compare_draws_from_files() {
    let dir = tempfile::tempdir().unwrap();
    let (file, report) = (dir.path().join("some.jsonl"), dir.path().join("a/report"));
    fs::write(&file, json(&rows())).unwrap();
    let output = compare(&["--report".as_ref(), &report, "--from".as_ref(), &file]);
    assert!(output.status.success(), "{output:?}");
    assert!(names(&report).contains("wake.svg"));
    assert!(fs::read_to_string(report.join("index.html")).unwrap().contains("is not known"));
}

#[test]
fn compare_says_what_is_wrong_with_the_folder_before_it_measures() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    fs::write(&file, "{\"job\":\"call\"}\n").unwrap();
    let fails = |arguments: &[&Path], expected: &str| {
        let output = compare(arguments);
        let error = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.code() == Some(1) && output.stdout.is_empty(), "{error}");
        assert!(error.starts_with("compare: ") && error.contains(expected), "{error}");
    };
    let report: &Path = "--report".as_ref();
    fails(&[report, &file], "is not a folder");
    fails(&[report, &file.join("below")], "cannot make the folder");
    let from: &Path = "--from".as_ref();
    fails(&[report, &dir.path().join("new"), from, &dir.path().join("missing")], "cannot read");
    fails(&[report, &dir.path().join("new"), from, &file], "file, line 1, is not what compare writes there");
}
