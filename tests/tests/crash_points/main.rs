//! A real process dies at every crash point that is listed, in every role that passes it, while work goes on.
//!
//! `cargo test --features crash-points --test crash_points`
//!
//! No list says which role passes which point: the processes count it, in a page that they share with this program
//! (`ringmill_shm::crash`). A *lane* runs a tree of servlets (`ringmill_tests::tree`). As long as a process has passed a point
//! at which no process of its role has died, the lane lets one die there. Then every request must have ended, rightly or with
//! an error that the death explains; the segment must be consistent and hold no block; and as many requests as there are
//! permits must go through side by side. So each death is tried against the state that the others left.
//!
//! * [`engine`]: worker processes die under a server that lives on; then servers die, callers, supervisors that
//!   repair, switches, while they start, work, and shut down: their workers leave, the segment is stale, and the
//!   next server of that name starts and works.
//! * [`clients`]: client processes die, in their calls and in the repair of others, and supervisors that repair after them;
//! * [`memory`]: deaths without an engine, over bare segments, where any participant repairs: workers that meet the traces of a
//!   dead worker before a repair, and repairers that die at each step.
//!
//! At the end a table lists the deaths by point and role. A point without a death fails the test.

mod clients;
mod engine;
mod memory;
mod report;

use report::{Report, points};
use ringmill_shm::crash::VARIABLE;
use ringmill_shm::sys::process::exit_now;
use ringmill_tests::tree::{FoldResults, FoldValues, Leaf};
use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitCode, Stdio};
use std::sync::{Mutex, Once};
use std::time::{Duration, Instant};

ringmill::init!(Leaf, FoldValues, FoldResults);

/// The lanes, which run side by side, the longest first.
const LANES: [&str; 6] = ["fast", "memory", "keep", "line", "down", "clients"];

/// The folder that the processes of one run share.
struct Shop(PathBuf);

impl Shop {
    fn page(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// Whether the caller, and no other lane, lets a process die there.
    fn claim(&self, role: &str, point: usize) -> bool {
        std::fs::File::create_new(self.claimed(role, point)).is_ok()
    }

    /// In this tree it does not come to that; in another it may.
    fn fail(&self, tree: &str, role: &str, point: usize) {
        let _ = std::fs::rename(self.claimed(role, point), self.failed(tree, role, point));
    }

    fn has_failed(&self, tree: &str, role: &str, point: usize) -> bool {
        self.failed(tree, role, point).exists()
    }

    /// Whether a process of any role has died at this point, or is about to.
    fn is_claimed_by_others(&self, role: &str, point: usize) -> bool {
        let (mine, end) = (self.claimed(role, point), format!("@{point}"));
        let files =
            std::fs::read_dir(&self.0).expect("our directory").map(|file| file.expect("an entry").path());
        files.filter(|file| *file != mine).any(|file| file.to_string_lossy().ends_with(&end))
    }

    fn failed(&self, tree: &str, role: &str, point: usize) -> PathBuf {
        self.claimed(&format!("{tree} {role}"), point).with_extension("failed")
    }

    fn claimed(&self, role: &str, point: usize) -> PathBuf {
        self.0.join(format!("{role}@{point}").replace(' ', "-"))
    }
}

/// This program as another part of the test.
fn again(words: &[&str]) -> Command {
    let mut command = Command::new(std::env::current_exe().expect("we run"));
    command.args(words).env_remove(VARIABLE).stdin(Stdio::piped());
    command
}

/// A process of [`again`], which ends when this one has.
struct Part {
    child: Child,
    _stdin: Option<ChildStdin>,
}

impl Part {
    fn spawn(mut command: Command) -> Self {
        let mut child = command.spawn().expect("a process");
        let stdin = child.stdin.take(); // otherwise waiting for the child closes it
        Self { child, _stdin: stdin }
    }
}

/// In such a process: ends it with the one that started it.
fn end_with_parent() {
    std::thread::spawn(|| {
        while std::io::stdin().read(&mut [0]).is_ok_and(|bytes| bytes > 0) {}
        exit_now(1);
    });
}

/// A step that takes longer than this hangs.
const HANGS: Duration = Duration::from_secs(60);

/// The step of each thread, and since when.
static WATCHED: Mutex<BTreeMap<String, (Instant, String)>> = Mutex::new(BTreeMap::new());

/// Notes this thread's step. If the thread is still in it after [`HANGS`], the lane fails.
fn watch(what: String) {
    static WATCH: Once = Once::new();
    WATCH.call_once(|| {
        std::thread::spawn(|| {
            loop {
                std::thread::sleep(Duration::from_millis(200)); // how often to look
                for (since, what) in WATCHED.lock().expect("no panic").values() {
                    if since.elapsed() > HANGS {
                        eprintln!("hangs: {what}");
                        exit_now(1);
                    }
                }
            }
        });
    });
    let thread = format!("{:?}", std::thread::current().id());
    WATCHED.lock().expect("no panic").insert(thread, (Instant::now(), what));
}

/// This thread is at nothing more.
fn unwatch() {
    let thread = format!("{:?}", std::thread::current().id());
    WATCHED.lock().expect("no panic").remove(&thread);
}

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    if matches!(words.first(), Some(&("lane" | "serve" | "actor" | "serve-clients" | "client"))) {
        end_with_parent();
    }
    match words[..] {
        ["lane", "memory", shop] => memory::lane(&Shop(shop.into())),
        ["lane", "clients", shop] => clients::lane(&Shop(shop.into())),
        ["serve-clients", name, page] => clients::serve(name, Path::new(page)),
        ["client", name, page] => clients::call(name, Path::new(page)),
        ["lane", tree, shop] => engine::lane(tree, &Shop(shop.into())),
        ["serve", tree, name, page, ref options @ ..] => engine::serve(tree, name, Path::new(page), options),
        ["actor", part, ref rest @ ..] => memory::actor(part, rest),
        ["--list", ..] => {}
        _ => return drive(),
    }
    ExitCode::SUCCESS
}

fn drive() -> ExitCode {
    every_listed_point_is_in_the_sources_once();
    let only = std::env::var("CRASH_LANE").ok();
    let shop = tempfile::tempdir().expect("a directory");
    let path = shop.path().to_str().expect("text");
    let begun = Instant::now();
    let lanes: Vec<_> = LANES
        .into_iter()
        .filter(|lane| only.as_ref().is_none_or(|only| only == lane))
        .map(|lane| {
            let mut command = again(&["lane", lane, path]);
            command.stdout(Stdio::piped());
            let part = Part::spawn(command);
            let wait = move || {
                let Part { child, _stdin } = part; // open until it has ended
                (child.wait_with_output().expect("our child"), begun.elapsed())
            };
            (lane, std::thread::spawn(wait))
        })
        .collect();
    let mut report = Report::default();
    let mut fine = true;
    for (lane, thread) in lanes {
        let (output, took) = thread.join().expect("no panic");
        report.read(&String::from_utf8_lossy(&output.stdout));
        eprintln!("lane {lane}: {} after {:.1} s", output.status, took.as_secs_f64());
        fine &= output.status.success();
    }
    println!("{report}");
    let missing = report.missing();
    if only.is_none() && !missing.is_empty() {
        println!("no process has died at {}", missing.join(", "));
        fine = false;
    }
    if fine { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// The compiler checks that every point in the code is listed; this test, that every listed point is in the code, once.
fn every_listed_point_is_in_the_sources_once() {
    fn sources(directory: &Path, text: &mut String) {
        for entry in std::fs::read_dir(directory).expect("the sources") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                sources(&path, text);
            } else if path.extension().is_some_and(|e| e == "rs") {
                text.push_str(&std::fs::read_to_string(&path).expect("text"));
            }
        }
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace");
    let mut text = String::new();
    for part in ["shm/src", "engine/src"] {
        sources(&root.join(part), &mut text);
    }
    let mut names = BTreeSet::new();
    for (_, point) in points() {
        assert!(names.insert(point.name), "{} is listed twice", point.name);
        let found = text.matches(&format!("crash_point!(\"{}\"", point.name)).count();
        assert_eq!(found, 1, "{} is not there once", point.name);
    }
}
