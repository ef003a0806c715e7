//! `compare` as its users start it.

use std::process::{Command, Output};

use ringmill::cpu;
use ringmill_bench::report::{self, Row};

fn compare(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_compare")).args(arguments).output().unwrap()
}

#[test]
fn says_that_one_cpu_is_too_few() {
    let only = cpu::allowed()[0];
    // The child inherits what this thread may use.
    cpu::pin_thread(&[only]).unwrap();
    let output = compare(&["--rounds", "1"]);
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success() && output.stdout.is_empty());
    assert_eq!(
        error,
        format!(
            "compare: two CPUs are needed, one for each side of a ping-pong; this process may use only [{only}]\n"
        )
    );
}

/// What comes of it with one round: rows, and whether enough slices counted. On a busy machine too few may; then
/// it has to say so, and prints what it has.
fn rows(arguments: &[&str]) -> (Vec<Row>, bool) {
    let output = compare(&[&["--json", "--rounds", "1"], arguments].concat());
    let error = String::from_utf8(output.stderr).unwrap();
    let complete = output.status.success();
    assert!(complete || output.status.code() == Some(3) && error.contains("gave up"), "{error}");
    let text = String::from_utf8(output.stdout).unwrap();
    let rows = report::read(&text).unwrap();
    assert_eq!(report::json(&rows), text, "rows are read as they were written");
    (rows, complete)
}

fn two_cpus() -> bool {
    let enough = cpu::allowed().len() >= 2;
    if !enough {
        eprintln!("not tested: two CPUs are needed");
    }
    enough
}

#[test]
fn every_row_says_what_was_measured() {
    if !two_cpus() {
        return;
    }
    let jobs = ["--job", "call", "--job", "stream", "--job", "stages"];
    let peers =
        ["--peer", "ringmill", "--peer", "rtrb", "--peer", "crossbeam-blocking", "--peer", "mutex-ring"];
    let (rows, complete) = rows(&[&jobs[..], &peers, &["--window", "8", "--payload", "64"]].concat());
    let is_alone = |row: &Row| row.place("threads") == Some(1) && row.place("workers") == Some(1);
    for row in &rows {
        assert!(row.regime.is_some(), "{row:?}");
        for figure in ["ns_per_item", "ratio_to_raw", "ratio_lower", "ratio_upper", "rounds"] {
            assert!(row.value(figure).is_some_and(|value| value > 0.0), "{figure}: {row:?}");
        }
        let places: &[&str] = match row.job.as_str() {
            "call" => &["payload_bytes"],
            "stream" => &["payload_bytes", "window", "threads", "workers"],
            _ => &["window"],
        };
        assert!(places.iter().all(|place| row.place(place).is_some()), "{row:?}");
        assert!(row.job != "stream" || is_alone(row), "{row:?}");
        assert!(
            row.job != "stages" || row.place("stages").is_some() != row.place("members").is_some(),
            "{row:?}"
        );
    }
    // Three contestants in `call`, four in `stream`, nine in `stages`, each in at least one regime.
    assert!(!complete || rows.len() >= 16, "{rows:?}");
}

#[test]
fn peers_and_points_can_be_chosen() {
    if !two_cpus() {
        return;
    }
    for bytes in [8, 1024] {
        let peers = ["--peer", "rtrb", "--peer", "pipe", "--peer", "mutex-ring"];
        let (rows, complete) =
            rows(&[&["--job", "call", "--payload", &bytes.to_string()], &peers[..]].concat());
        for row in &rows {
            assert!(["rtrb", "pipe", "mutex-ring"].contains(&row.who.as_str()), "{row:?}");
            assert_eq!(row.place("payload_bytes"), Some(bytes), "{row:?}");
        }
        assert!(!complete || rows.len() >= 3, "{rows:?}");
    }
}

#[test]
fn several_threads_are_compared_with_one() {
    if !two_cpus() {
        return;
    }
    let (rows, complete) = rows(&["--job", "stream", "--threads", "2", "--workers", "2"]);
    let of = |who: &str, number| {
        let at =
            move |row: &&Row| ["threads", "workers"].iter().all(|place| row.place(place) == Some(number));
        rows.iter().filter(move |row| row.who == who).filter(at).collect::<Vec<_>>()
    };
    for who in ["ringmill", "crossbeam-blocking"] {
        let (one, two) = (of(who, 1), of(who, 2));
        assert!(!complete || !one.is_empty() && !two.is_empty(), "{rows:?}");
        for row in two {
            let [slowest, fastest] =
                ["slowest_thread_p999_us", "fastest_thread_p999_us"].map(|name| row.value(name).unwrap());
            assert!(slowest >= fastest && fastest > 0.0, "{row:?}");
            // Missing where no round counts for both.
            assert!(row.value("throughput_vs_one").is_none_or(|part| part > 0.0), "{row:?}");
        }
        assert!(one.iter().all(|row| row.value("throughput_vs_one").is_none()), "{rows:?}");
    }
    assert!(rows.iter().all(|row| row.who != "rtrb"), "it is between two threads: {rows:?}");
}

#[test]
fn says_that_nobody_has_a_part() {
    if !two_cpus() {
        return;
    }
    let output = compare(&["--job", "call", "--peer", "rtrb-chunks"]);
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success() && error.contains("nothing to measure"), "{error}");
}

#[test]
fn a_window_is_what_is_really_in_progress() {
    if !two_cpus() {
        return;
    }
    let (rows, complete) = rows(&["--job", "stream", "--peer", "unix-socket-polled", "--window", "65536"]);
    let windows: Vec<_> = rows.iter().map(|row| row.place("window").unwrap()).collect();
    // What the system gives a socket is far less.
    assert!(windows.iter().all(|window| (1..65536).contains(window)), "{windows:?}");
    assert!(!complete || !windows.is_empty());
}

#[cfg(not(feature = "rivals"))]
#[test]
fn says_which_feature_brings_a_rival() {
    let output = compare(&["--peer", "rtrb", "--peer", "iceoryx2-rr"]);
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success() && output.stdout.is_empty());
    assert_eq!(
        error,
        "compare: this compare has no iceoryx2-rr; cargo run --release -p ringmill-bench --features rivals --bin \
         compare has\n"
    );
}

/// What iceoryx2 keeps in the file system goes, whether compare ends by itself or is killed.
#[cfg(feature = "rivals")]
#[test]
fn nothing_of_iceoryx2_stays_behind() {
    use std::io::Read;
    use std::path::Path;
    use std::process::Stdio;
    use std::thread;

    if !two_cpus() {
        return;
    }
    let names_in = |directory: &Path| -> Vec<String> {
        let entries = std::fs::read_dir(directory).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    };
    let shared_memory = Path::new("/dev/shm");
    for is_killed in [false, true] {
        let temporary = tempfile::tempdir().unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_compare"));
        command.args(["--job", "call", "--payload", "64", "--peer", "iceoryx2-rr"]);
        // Both long enough to be seen, and one to be killed in the middle.
        command.args(["--rounds", if is_killed { "10000" } else { "20" }]);
        command.env("TMPDIR", temporary.path()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut compare = command.spawn().unwrap();
        let kept = loop {
            let directory = names_in(temporary.path()).pop();
            let memory =
                directory.filter(|name| names_in(shared_memory).iter().any(|file| file.starts_with(name)));
            match memory {
                Some(name) => break name,
                None => assert!(compare.try_wait().unwrap().is_none(), "it has ended before it was seen"),
            }
            thread::yield_now();
        };
        if is_killed {
            compare.kill().unwrap();
        }
        compare.wait().unwrap();
        if is_killed {
            // All that compare has started has this too: it ends when the last of them is gone.
            compare.stderr.take().unwrap().read_to_end(&mut Vec::new()).unwrap();
        }
        assert_eq!(names_in(temporary.path()), [""; 0]);
        let left: Vec<_> =
            names_in(shared_memory).into_iter().filter(|file| file.starts_with(&kept)).collect();
        assert_eq!(left, [""; 0]);
    }
}
