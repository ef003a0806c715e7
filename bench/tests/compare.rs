//! `compare` as its users start it.

use std::io::{BufRead, BufReader, Read};
use std::process::{Command, Output, Stdio};
use std::sync::{Mutex, PoisonError};

use ringmill::cpu;
use ringmill_bench::report::{self, Row};

fn compare(arguments: &[&str]) -> Output {
    // Two tests at once would disturb each other: all of them use the same CPUs.
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    // Other tests run beside these, and shall not stand still.
    Command::new(env!("CARGO_BIN_EXE_compare"))
        .args(["--realtime", "never"])
        .args(arguments)
        .output()
        .unwrap()
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

/// Runs it with one round; returns rows, and whether enough slices counted. On a busy machine too few may; then compare must say
/// so, and print the rows that it has.
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
    let is_alone = |row: &Row| row.parameter("threads") == Some(1) && row.parameter("workers") == Some(1);
    for row in &rows {
        assert!(row.regime.is_some(), "{row:?}");
        for figure in ["ns_per_item", "ratio_to_raw", "ratio_lower", "ratio_upper", "rounds"] {
            assert!(row.value(figure).is_some_and(|value| value > 0.0), "{figure}: {row:?}");
        }
        let parameters: &[&str] = match row.job.as_str() {
            "call" => &["payload_bytes"],
            "stream" => &["payload_bytes", "window", "threads", "workers"],
            _ => &["window"],
        };
        assert!(parameters.iter().all(|parameter| row.parameter(parameter).is_some()), "{row:?}");
        assert!(row.job != "stream" || is_alone(row), "{row:?}");
        assert!(
            row.job != "stages" || row.parameter("stages").is_some() != row.parameter("members").is_some(),
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
            assert_eq!(row.parameter("payload_bytes"), Some(bytes), "{row:?}");
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
        let at = move |row: &&Row| {
            ["threads", "workers"].iter().all(|parameter| row.parameter(parameter) == Some(number))
        };
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
fn bulk_is_compared_with_one_thread() {
    if !two_cpus() {
        return;
    }
    let (rows, complete) = rows(&["--job", "bulk", "--payload", "16384"]);
    for who in ["memcpy", "ringmill", "ringmill-loan", "moved-vec"] {
        let windows: Vec<_> =
            rows.iter().filter(|row| row.who == who).filter_map(|row| row.parameter("window")).collect();
        assert!(!complete || windows.contains(&1), "{who}: {rows:?}");
        assert!(!complete || windows.contains(&8), "{who}: {rows:?}");
    }
    for row in &rows {
        assert_eq!(row.parameter("payload_bytes"), Some(16384));
        let [ns, gib_per_s] = ["ns_per_item", "gib_per_s"].map(|name| row.value(name).unwrap());
        assert!((ns * gib_per_s / (16384e9 / f64::from(1 << 30)) - 1.0).abs() < 0.01, "{row:?}");
        // Missing where no round counts for both.
        let ratio = row.value("ratio_to_memcpy");
        assert!(
            ratio.is_none_or(|ratio| if row.who == "memcpy" { ratio == 1.0 } else { ratio > 0.0 }),
            "{row:?}"
        );
    }
}

#[test]
fn requests_that_arrive_at_random_are_told_of_by_rate() {
    if !two_cpus() {
        return;
    }
    let (rows, complete) = rows(&["--job", "latency", "--job", "wake", "--rate", "50000"]);
    let positive = |row: &Row, figure| row.value(figure).is_some_and(|value| value > 0.0);
    for row in &rows {
        assert!(row.regime.is_some() && row.parameter("rate_per_s") == Some(50_000), "{row:?}");
        for figure in ["sent_per_s", "p50_us", "max_us", "rounds"] {
            assert!(positive(row, figure), "{figure}: {row:?}");
        }
        let used = ["cpu_percent", "caller_cpu_percent", "worker_cpu_percent"];
        assert!(row.job == "latency" || used.iter().all(|figure| positive(row, figure)), "{row:?}");
        assert!(row.value("p50_us") <= row.value("max_us"), "{row:?}");
    }
    // Four contestants, and seven.
    assert!(!complete || rows.len() >= 4 + 7, "{rows:?}");
    assert!(
        !complete || rows.iter().any(|row| row.who == "futex" && row.value("ratio_to_futex") == Some(1.0))
    );
}

#[test]
fn frames_are_compared_with_a_moved_vector() {
    if !two_cpus() {
        return;
    }
    let (rows, complete) = rows(&["--job", "frames", "--payload", "1048576"]);
    for who in ["ringmill", "moved-vec"] {
        assert!(!complete || rows.iter().any(|row| row.who == who), "{who}: {rows:?}");
    }
    for row in &rows {
        let at = (row.parameter("payload_bytes"), row.parameter("window"));
        assert_eq!(at, (Some(1 << 20), Some(4)));
        assert!(row.value("frames_per_s").is_some_and(|frames| frames > 0.0), "{row:?}");
    }
}

#[test]
fn what_a_server_costs_is_told() {
    if !two_cpus() {
        return;
    }
    let (rows, _) =
        rows(&["--job", "idle", "--job", "start", "--job", "first", "--job", "placement", "--job", "memory"]);
    let value = |row: &Row, name| row.value(name).unwrap_or_else(|| panic!("{name}: {row:?}"));
    let of_job = |job: &'static str| rows.iter().filter(move |row| row.job == job);
    let idle: Vec<_> = of_job("idle").collect();
    assert_eq!((idle.len(), idle[0].parameter("workers")), (1, Some(8)));
    assert!(value(idle[0], "cpu_percent") >= value(idle[0], "workers_cpu_percent"), "{idle:?}");
    // ringmill and bare processes, five numbers of workers each.
    assert_eq!(of_job("start").count(), 10, "{rows:?}");
    assert!(of_job("start").all(|row| value(row, "ready_ms") > 0.0 && row.parameter("workers").is_some()));
    // Three choices, with payloads in tasks and in blocks.
    assert_eq!(of_job("first").count(), 6, "{rows:?}");
    assert!(of_job("first").all(|row| value(row, "first_us") > 0.0 && value(row, "later_us") > 0.0));
    // Of each payload at least a worker on the caller's CPU, one elsewhere, one by `auto`, one that is not pinned; two choices.
    assert!(of_job("placement").count() >= 2 * 4 * 2, "{rows:?}");
    let figures = ["call_us", "first_us", "later_us"];
    assert!(of_job("placement").all(|row| figures.iter().all(|name| value(row, name) > 0.0)));
    let memory: Vec<_> = of_job("memory").collect();
    assert_eq!(memory.len(), 5, "{memory:?}");
    for row in memory {
        let payload_bytes = row.parameter("payload_bytes").unwrap() as f64;
        assert!(value(row, "bytes_per_request") >= payload_bytes, "{row:?}");
        assert!(
            value(row, "worker_private_bytes") > 0.0 && value(row, "server_private_bytes") > 0.0,
            "{row:?}"
        );
    }
}

#[test]
fn batches_are_as_full_as_is_told() {
    if !two_cpus() {
        return;
    }
    let (at_random, _) = rows(&["--job", "batch", "--rate", "10000"]);
    let who: Vec<_> = at_random.iter().map(|row| (row.who.as_str(), row.parameter("rate_per_s"))).collect();
    let contestants =
        ["ringmill", "crossbeam-blocking", "ringmill, wait not stated", "ringmill, 10 ms stated"];
    assert_eq!(who, contestants.map(|who| (who, Some(10_000))));
    for row in &at_random {
        assert!((1.0..=64.0).contains(&row.value("mean_batch").unwrap()), "{row:?}");
        // A batch of one takes 1.01 ms.
        assert!(row.value("p50_us").unwrap() > 1000.0, "{row:?}");
    }

    let (piled_up, complete) = rows(&["--job", "batch", "--workers", "1"]);
    let (lone, piled_up): (Vec<_>, Vec<_>) =
        piled_up.into_iter().partition(|row| row.parameter("window") == Some(1));
    for row in &lone {
        assert!(["ringmill, 0 stated", "ringmill, wait not stated"].contains(&row.who.as_str()), "{row:?}");
        assert!(row.value("ns_per_item").unwrap() > 0.0, "{row:?}");
        // Missing where no round counts for both.
        assert!(row.value("ratio_to_no_wait").is_none_or(|ratio| ratio > 0.0), "{row:?}");
    }
    for row in &piled_up {
        let batch_size = row.parameter("batch_size").unwrap() as f64;
        let mean = row.value("mean_batch");
        assert!(mean.is_none_or(|mean| (1.0..=batch_size).contains(&mean)), "{row:?}");
        assert_eq!(mean.is_none(), row.who == "device");
        // A device that is never done too early.
        assert!(row.value("part_of_ideal").is_some_and(|part| 0.0 < part && part <= 1.0), "{row:?}");
    }
    // Three contestants, three sizes of batches; and a lone caller, with two waits.
    assert!(!complete || piled_up.len() >= 9 && lone.len() >= 2, "{piled_up:?} {lone:?}");
}

#[test]
fn says_that_no_peer_has_a_part() {
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
    let windows: Vec<_> = rows.iter().map(|row| row.parameter("window").unwrap()).collect();
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

#[cfg(not(feature = "aeron"))]
#[test]
fn says_which_feature_brings_aeron() {
    let output = compare(&["--peer", "aeron"]);
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success() && output.stdout.is_empty());
    assert!(error.contains("this compare has no aeron") && error.contains("--features aeron"), "{error}");
}

#[cfg(feature = "rivals")]
#[test]
fn tonic_answers_in_every_size() {
    answers_in_every_size("tonic", 4096);
    answers_in_every_size("tonic-bidi", 4096);
}

#[cfg(feature = "aeron")]
#[test]
fn aeron_answers_in_every_size() {
    // Wider than what its log has room for in the largest size.
    answers_in_every_size("aeron", 65_536);
}

#[cfg(any(feature = "rivals", feature = "aeron"))]
fn answers_in_every_size(peer: &str, widest: u32) {
    if !two_cpus() {
        return;
    }
    for bytes in [8, 64, 1024] {
        for (job, window) in [("call", 1), ("stream", 16), ("stream", widest)] {
            let point = ["--payload", &bytes.to_string(), "--window", &window.to_string()];
            let (rows, complete) = rows(&[&["--job", job, "--peer", peer], &point[..]].concat());
            for row in &rows {
                assert_eq!(
                    (row.who.as_str(), row.parameter("payload_bytes")),
                    (peer, Some(bytes)),
                    "{row:?}"
                );
            }
            assert!(!complete || !rows.is_empty());
        }
    }
}

#[test]
fn says_that_mpservice_needs_python() {
    if !two_cpus() {
        return;
    }
    let mut command = Command::new(env!("CARGO_BIN_EXE_compare"));
    let output = command.args(["--peer", "rtrb", "--peer", "mpservice"]).env("PATH", "").output().unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success() && output.stdout.is_empty());
    assert!(error.starts_with("compare: ") && error.contains("mpservice: cannot run python3"), "{error}");
}

/// The environment is made and removed, whether compare ends by itself or is killed.
#[test]
#[ignore = "installs a package from the index that pip uses"]
fn mpservice_answers_and_leaves_nothing() {
    if !two_cpus() {
        return;
    }
    let peers = ["--peer", "mpservice", "--peer", "mpservice-batch"];
    for rounds in ["1", "10000"] {
        let temporary = tempfile::tempdir().unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_compare"));
        command.args(["--job", "call", "--job", "stream", "--window", "64", "--json", "--rounds", rounds]);
        command.args(peers).env("TMPDIR", temporary.path()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut compare = command.spawn().unwrap();
        let mut error = BufReader::new(compare.stderr.take().unwrap());
        let mut line = String::new();
        while !line.ends_with("ready\n") {
            line.clear();
            assert!(error.read_line(&mut line).unwrap() > 0, "it has ended before it was seen");
        }
        assert_eq!(std::fs::read_dir(temporary.path()).unwrap().count(), 1);
        let is_killed = rounds != "1";
        if is_killed {
            compare.kill().unwrap();
        }
        let mut text = String::new();
        compare.stdout.take().unwrap().read_to_string(&mut text).unwrap();
        // All that compare has started has this too: it ends when the last of them is gone.
        let mut rest = String::new();
        error.read_to_string(&mut rest).unwrap();
        let status = compare.wait().unwrap();
        assert_eq!(std::fs::read_dir(temporary.path()).unwrap().count(), 0, "{rest}");
        if !is_killed {
            assert!(status.success() || status.code() == Some(3) && rest.contains("gave up"), "{rest}");
            let who = |row: &Row| row.who == "mpservice" || row.who == "mpservice-batch";
            assert!(report::read(&text).unwrap().iter().all(who), "{text}");
        }
    }
}

#[cfg(feature = "rivals")]
#[test]
fn nothing_of_iceoryx2_stays_behind() {
    nothing_stays_behind("iceoryx2-rr");
}

#[cfg(feature = "aeron")]
#[test]
fn nothing_of_aeron_stays_behind() {
    nothing_stays_behind("aeron");
}

/// How `compare` ends.
#[cfg(any(feature = "rivals", feature = "aeron"))]
#[derive(Clone, Copy, PartialEq)]
enum End {
    Finished,
    /// From its terminal.
    Interrupted,
    Killed,
    /// While its janitor was stopped: then the system tells that to hang up.
    KilledWithJanitorStopped,
}

/// A rival's files go, however compare ends.
#[cfg(any(feature = "rivals", feature = "aeron"))]
fn nothing_stays_behind(peer: &str) {
    use std::os::unix::process::CommandExt;
    use std::path::Path;
    use std::thread;

    use rustix::process::{Pid, Signal, kill_process, kill_process_group};

    if !two_cpus() {
        return;
    }
    let names_in = |directory: &Path| -> Vec<String> {
        let entries = std::fs::read_dir(directory).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    };
    // Its state and its parent.
    let stat = |pid: i32| -> Option<(String, i32)> {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let mut words = stat.rsplit_once(") ")?.1.split(' ');
        Some((words.next()?.to_owned(), words.next()?.parse().ok()?))
    };
    let janitor_of = |id: i32| {
        let is_janitor = |&pid: &i32| {
            let line = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            line.starts_with("compare: janitor\0") && stat(pid).is_some_and(|(_, starter)| starter == id)
        };
        names_in(Path::new("/proc")).iter().filter_map(|name| name.parse().ok()).find(is_janitor).unwrap()
    };
    let shared_memory = Path::new("/dev/shm");
    for end in [End::Finished, End::Interrupted, End::Killed, End::KilledWithJanitorStopped] {
        let temporary = tempfile::tempdir().unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_compare"));
        command.args(["--job", "call", "--payload", "64", "--peer", peer]);
        // Both long enough to be seen, and one to be ended in the middle.
        command.args(["--rounds", if end == End::Finished { "20" } else { "10000" }]);
        command.env("TMPDIR", temporary.path()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut compare = command.process_group(0).spawn().unwrap();
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
        let id = Pid::from_child(&compare);
        match end {
            End::Finished => {}
            End::Interrupted => kill_process_group(id, Signal::INT).unwrap(),
            End::Killed => kill_process(id, Signal::KILL).unwrap(),
            End::KilledWithJanitorStopped => {
                let janitor = janitor_of(id.as_raw_pid());
                kill_process(Pid::from_raw(janitor).unwrap(), Signal::STOP).unwrap();
                while stat(janitor).unwrap().0 != "T" {
                    thread::yield_now();
                }
                // With the signal, the system lets the janitor go on.
                kill_process(id, Signal::KILL).unwrap();
            }
        }
        compare.wait().unwrap();
        // All that compare has started has this too: it ends when the last of them is gone.
        compare.stderr.take().unwrap().read_to_end(&mut Vec::new()).unwrap();
        assert_eq!(names_in(temporary.path()), [""; 0]);
        let left: Vec<_> =
            names_in(shared_memory).into_iter().filter(|file| file.starts_with(&kept)).collect();
        assert_eq!(left, [""; 0]);
    }
}
