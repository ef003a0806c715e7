//! `top`: frames of scripted segments, keys, and the program itself in tmux.

use super::segments::{Ours, busy, forked, prepare, spec};
use super::stats::counted;
use super::tool::{code, complaint, shmtool};
use ringmill_shm::participant::Life;
use ringmill_shm::placed::Placed;
use ringmill_shm::segment::Segment;
use ringmill_shm::stats::{CallerCounter, Closed};
use ringmill_shm::sys::time::now_ns;
use ringmill_shm::text::is_unruly;
use shmtool::Top;
use std::cell::Cell;
use std::path::PathBuf;
use std::process::{Command, Output};

const SIZES: [(u16, u16); 2] = [(80, 24), (120, 40)];

fn line<'s>(screen: &'s [String], with: &str) -> &'s str {
    screen
        .iter()
        .find(|line| line.contains(with))
        .unwrap_or_else(|| panic!("no {with:?} in:\n{}", screen.join("\n")))
}

fn has(screen: &[String], text: &str) -> bool {
    screen.iter().any(|line| line.contains(text))
}

/// The words of a worker's line, without the mark of the selected one.
fn worker(screen: &[String], name: &str) -> Vec<String> {
    line(screen, name).trim_start_matches('>').split_whitespace().map(Into::into).collect()
}

#[test]
fn all_parts_are_on_a_screen_of_80_by_24_and_of_120_by_40() {
    let ours = Ours::new();
    let segment = counted(&ours);
    let mut top = Top::open(&ours.name()).unwrap();
    for (columns, rows) in SIZES {
        let screen = top.screen(columns, rows);
        assert!(screen[0].starts_with(&format!("{}: ", ours.name())), "{screen:#?}");
        assert!(screen[0].ends_with(" 0 of 8 in progress"), "{screen:#?}");
        assert!(screen[1].starts_with("- "), "findings are on top: {screen:#?}");
        assert!(has(&screen, "- 1 worker died: the service's log"), "{screen:#?}");
        assert!(line(&screen, "requests/s: ").contains("9 ended since the start, 1 timeout"), "{screen:#?}")
    }
    top.look().unwrap();
    for _ in 0..7 {
        segment.caller_row(1).count(CallerCounter::Answered);
    }
    segment.participants()[2].counters().count_batch(4, Closed::Empty);
    top.look().unwrap();
    for (columns, rows) in SIZES {
        let screen = top.screen(columns, rows);
        assert!(screen[1].starts_with("Nothing limits the server"), "within the interval: {screen:#?}");
        assert!(line(&screen, " requests/s: ").contains(": 7 ended in "), "{screen:#?}");
        assert!(has(&screen, "total time: p50 -, p90 -"), "none was timed: {screen:#?}");
        let at = screen.iter().position(|line| line.starts_with("requests/s of the last ")).unwrap();
        assert!(
            screen[at + 1..].iter().any(|line| line.contains('█')),
            "the second look has requests: {screen:#?}"
        );
        let split: Vec<_> = line(&screen, "split  ").split_whitespace().collect();
        assert_eq!((split[0], split[1], split[3], split[5]), ("split", "0", "0", "4.0"), "{screen:#?}");
        assert!(has(&screen, "classify/0"), "{screen:#?}");
        let keys = screen.last().unwrap();
        assert!(keys.contains("q end") && keys.ends_with("? help"), "{keys}");
    }
    assert!(top.screen(59, 24)[0].contains("needs 60 columns"));
    assert!(top.screen(80, 15)[0].contains("16 rows"));
}

#[test]
fn it_says_what_each_worker_does() {
    let ours = Ours::new();
    let segment = busy(&ours);
    let mut top = Top::open(&ours.name()).unwrap();
    for (columns, rows) in SIZES {
        let screen = top.screen(columns, rows);
        assert!(screen[0].ends_with("4 of 8 in progress"), "{screen:#?}");
        assert!(line(&screen, "split/0").ends_with(" reading: 0"), "it has the lock: {screen:#?}");
        assert_eq!(worker(&screen, "split/1")[1], "dead", "by its lease: {screen:#?}");
        assert!(line(&screen, "split/1").ends_with("asleep"), "the bell says so: {screen:#?}");
        assert_eq!(worker(&screen, "classify/0")[1], "failed", "{screen:#?}");
    }
    segment.node(0).unwrap().see_lock(now_ns() - 61_000_000_000);
    top.look().unwrap();
    let does = |top: &Top| line(&top.screen(80, 24), "split/0").to_string();
    assert!(does(&top).ends_with(" reading ≥ 1 min 1 s: 0"), "{}", does(&top));
    segment.participants()[1].counters().begin_call();
    top.look().unwrap();
    let does = |top: &Top| line(&top.screen(80, 24), "split/0").to_string();
    assert!(
        does(&top).contains("in call < ") && does(&top).ends_with(": 0"),
        "seen just now: {}",
        does(&top)
    );
    top.look().unwrap();
    assert!(
        does(&top).contains("in call ≥ ") && does(&top).ends_with(": 0"),
        "and seen again: {}",
        does(&top)
    );
    let counters = segment.participants()[1].counters();
    counters.end_call();
    counters.count_batch(1, Closed::Empty);
    counters.begin_call();
    top.look().unwrap();
    assert!(does(&top).contains("in call < "), "another call: {}", does(&top));
    counters.time_call(now_ns() - 61_000_000_000);
    top.look().unwrap();
    assert!(does(&top).contains("1 min 1 s: 0"), "its clock was read: {}", does(&top));
}

#[test]
fn workers_are_sorted_and_the_selected_one_stays_selected() {
    let ours = Ours::new();
    let segment = counted(&ours);
    let mut top = Top::open(&ours.name()).unwrap();
    let order = |top: &Top| {
        let screen = top.screen(80, 24);
        let names = screen.iter().filter(|line| line.contains("/0 ") || line.contains("/1 "));
        names.map(Clone::clone).collect::<Vec<_>>()
    };
    assert_eq!(
        order(&top).iter().map(|name| name.starts_with("> ")).collect::<Vec<_>>(),
        [true, false, false]
    );
    let names = |top: &Top| {
        let names = order(top);
        names.iter().map(|line| worker(std::slice::from_ref(line), "/").remove(0)).collect::<Vec<_>>()
    };
    assert_eq!(names(&top), ["split/0", "split/1", "classify/0"]);
    top.press("down");
    assert!(line(&top.screen(80, 24), "split/1").starts_with("> "));
    segment.participants()[2].counters().count_batch(1000, Closed::Full);
    top.look().unwrap();
    assert!(top.screen(80, 24).last().unwrap().contains("s sort: name"));
    top.press("s");
    assert!(top.screen(80, 24).last().unwrap().contains("s sort: busy"));
    top.press("s");
    assert_eq!(names(&top), ["split/1", "split/0", "classify/0"], "by items a second");
    assert!(line(&top.screen(80, 24), "split/1").starts_with("> "), "it is still the selected one");
    for (key, selected) in [
        ("up", "split/1"),
        ("j", "split/0"),
        ("down", "classify/0"),
        ("down", "classify/0"),
        ("k", "split/0"),
    ] {
        top.press(key);
        assert!(
            line(&top.screen(80, 24), selected).starts_with("> "),
            "after {key}: {:#?}",
            top.screen(80, 24)
        );
    }
    top.press("s");
    assert_eq!(names(&top), ["split/0", "split/1", "classify/0"]);
}

#[test]
fn enter_shows_all_of_a_worker_and_r_all_requests() {
    let ours = Ours::new();
    let segment = busy(&ours);
    segment.participants()[1].counters().begin_call();
    let mut top = Top::open(&ours.name()).unwrap();
    top.press("enter");
    for (columns, rows) in SIZES {
        let screen = top.screen(columns, rows);
        let pid = std::process::id();
        assert!(
            line(&screen, "worker  ").ends_with(&format!("split/0, a process, pid {pid}")),
            "{screen:#?}"
        );
        assert!(line(&screen, "state  ").contains("ready for "), "{screen:#?}");
        assert!(line(&screen, "CPUs  ").ends_with("0-1"), "{screen:#?}");
        assert!(line(&screen, "does now  ").contains("in call"), "{screen:#?}");
        assert_eq!(worker(&screen, "items  ")[..2], ["items", "39"], "{screen:#?}");
        assert!(has(&screen, "take_overs"), "the last counter: {screen:#?}");
        assert!(line(&screen, "claimed").starts_with("0 "), "its request: {screen:#?}");
        assert!(!has(&screen, "queued, "), "and no other: {screen:#?}");
    }
    top.press("down");
    top.press("down");
    let screen = top.screen(80, 24);
    assert!(line(&screen, "failed  ").ends_with("no model at ./weights"), "{screen:#?}");
    assert!(has(&screen, "It has no request."), "{screen:#?}");
    top.press("esc");
    assert!(has(&top.screen(80, 24), "does now"));
    top.press("r");
    for (columns, rows) in SIZES {
        let screen = top.screen(columns, rows);
        assert!(screen[1].starts_with("4 requests, the oldest first; from number 1"), "{screen:#?}");
        assert!(line(&screen, "filling").starts_with("3 "), "{screen:#?}");
        assert!(line(&screen, "claimed").contains("split/0"), "{screen:#?}");
    }
    for (key, from) in [("up", 1), ("down", 2), ("down", 3), ("down", 4), ("down", 4), ("up", 3)] {
        top.press(key);
        let screen = top.screen(80, 24);
        assert!(screen[1].ends_with(&format!("from number {from}")), "after {key}: {screen:#?}");
    }
    top.press("r");
    assert!(has(&top.screen(80, 24), "does now"), "back");
}

#[test]
fn branches_stand_below_their_request() {
    let ours = Ours::new();
    let _segment = forked(&ours);
    let mut top = Top::open(&ours.name()).unwrap();
    top.press("r");
    let screen = top.screen(80, 24);
    let at = screen.iter().position(|line| line.starts_with("2 ")).unwrap();
    assert!(screen[at].contains("forked"), "{screen:#?}");
    assert!(screen[at + 1].starts_with("└ both 0") && screen[at + 2].starts_with("└ both 1"), "{screen:#?}");
}

#[test]
fn keys_change_the_interval_pause_help_and_end() {
    let ours = Ours::new();
    let segment = counted(&ours);
    let mut top = Top::open(&ours.name()).unwrap();
    let every = |top: &Top| top.screen(80, 24).last().unwrap().split("every ").nth(1).unwrap().to_string();
    for (key, interval) in [("+", "2s "), ("=", "5s "), ("-", "2s "), ("-", "1s "), ("-", "500ms ")] {
        assert!(top.press(key));
        assert!(every(&top).starts_with(interval), "after {key}: {}", every(&top));
    }
    for key in ["p", " "] {
        top.look().unwrap();
        top.press(key);
        assert!(top.screen(80, 24)[0].starts_with("PAUSED, "));
        let before = top.screen(80, 24);
        segment.caller_row(1).count(CallerCounter::Answered);
        top.look().unwrap();
        assert_eq!(top.screen(80, 24), before, "nothing is read");
        top.press(key);
        top.look().unwrap();
        assert!(
            line(&top.screen(80, 24), " requests/s: ").contains(": 1 ended in"),
            "{:#?}",
            top.screen(80, 24)
        );
        assert!(!top.screen(80, 24)[0].starts_with("PAUSED, "));
    }
    top.press("?");
    assert!(has(&top.screen(80, 24), "this help; any key closes it"));
    assert!(top.press("s"), "closes help, and no more");
    top.press("?");
    assert!(top.press("x"), "any key closes it");
    assert!(!has(&top.screen(80, 24), "this help") && has(&top.screen(80, 24), "s sort: name"));
    let before = top.screen(80, 24);
    assert!(top.press("x") && top.press("esc"), "they mean nothing here");
    assert_eq!(top.screen(80, 24), before);
    top.press("?");
    for key in ["q", "ctrl-c"] {
        assert!(!top.press(key), "{key} ends, also beside help");
    }
    assert_eq!(top.status(), 0);
}

#[test]
fn the_servers_end_is_shown_and_the_last_look_stays() {
    for paused in [false, true] {
        let ours = Ours::new();
        let segment = counted(&ours);
        let mut top = Top::open(&ours.name()).unwrap();
        if paused {
            top.press("p");
        }
        segment.participants()[0].set_life(Life::Leaving);
        drop(segment);
        top.look().unwrap();
        let screen = top.screen(80, 24);
        assert!(
            screen[0].starts_with("THE SERVER HAS ENDED (pid ") && screen[0].contains(&ours.name()),
            "{screen:#?}"
        );
        assert!(line(&screen, "split  ").starts_with("split"), "{screen:#?}");
        assert_eq!(top.status(), 1);
        top.press("down");
        assert!(line(&top.screen(80, 24), "split/1").starts_with("> "), "keys work on");
        top.press("up");
        top.look().unwrap();
        assert_eq!(top.screen(80, 24), screen, "nothing is read any more");
        assert!(!top.press("q"));
    }
    let ours = Ours::new();
    counted(&ours).keep_files();
    let top = Top::open(&ours.name()).unwrap();
    assert!(top.screen(80, 24)[0].contains("THE SERVER HAS ENDED"));
    assert!(has(&top.screen(80, 24), "9 ended since the start"), "what it did can be read");
}

#[test]
fn texts_of_other_processes_come_escaped_to_every_view() {
    let unruly = "\x1b[2J\n\r\u{9b}31m\u{202e}\u{200b}";
    let ours = Ours::new();
    let mut spec = spec();
    for node in &mut spec.nodes {
        node.name.insert_str(0, unruly);
        node.workers = vec![Placed::listed(vec![3]); 2];
    }
    let segment = Segment::create(ours.0.clone(), &spec).unwrap();
    prepare(&segment, 1);
    segment.participants()[1].fail(format!("failed {unruly}").as_bytes());
    let mut top = Top::open(&ours.name()).unwrap();
    for (key, told) in
        [("esc", "\\u{1b}[2J\\n"), ("enter", "failed \\u{1b}[2J\\n"), ("r", "No request is in progress.")]
    {
        top.press(key);
        for (columns, rows) in SIZES {
            let screen = top.screen(columns, rows);
            assert_eq!(screen.concat().chars().find(|&c| is_unruly(c)), None, "{screen:#?}");
            assert!(has(&screen, told), "{key}: {screen:#?}");
        }
    }
}

#[test]
fn without_a_terminal_there_is_a_line_that_says_what_to_use() {
    let ours = Ours::new();
    let _segment = ours.create();
    let told = complaint(&shmtool(&["top", &ours.name()]));
    assert!(told.contains("standard input is no terminal; 'shmtool stats --interval 1s NAME'"), "{told}");
    let told = complaint(&shmtool(&["top", &ours.name(), "--json"]));
    assert!(told.contains("it has no JSON; 'shmtool stats --interval"), "{told}");
    assert_eq!(code(&shmtool(&["top", &ours.name(), "--interval", "1ms"])), 2);
}

/// A terminal of 80 by 24 with a shell in it; dropping it ends both.
struct Tmux {
    directory: tempfile::TempDir,
    /// How many commands it has been given.
    runs: Cell<u32>,
}

impl Tmux {
    /// None, with a message, where there is no tmux.
    fn start() -> Option<Self> {
        if Command::new("tmux").arg("-V").output().is_err() {
            eprintln!("no tmux, so that the screen of a real terminal is not tested: apt-get install tmux");
            return None;
        }
        let tmux = Self { directory: tempfile::tempdir().unwrap(), runs: Cell::new(0) };
        let shell = "env PS1='$ ' sh";
        let session = ["-f", "/dev/null", "new-session", "-d", "-x", "80", "-y", "24", shell];
        assert!(tmux.run(&session).status.success());
        Some(tmux)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn run(&self, arguments: &[&str]) -> Output {
        Command::new("tmux").arg("-S").arg(self.path("socket")).args(arguments).output().unwrap()
    }

    fn keys(&self, keys: &[&str]) {
        assert!(self.run(&[&["send-keys"], keys].concat()).status.success());
    }

    fn say(&self, line: &str) {
        assert!(self.run(&["send-keys", "-l", line]).status.success());
        self.keys(&["Enter"]);
    }

    fn screen(&self) -> Vec<String> {
        let output = self.run(&["capture-pane", "-p"]);
        String::from_utf8(output.stdout).unwrap().lines().map(|line| line.trim_end().to_string()).collect()
    }

    /// The numbers of all styles on the screen, as terminals are sent them.
    fn styles(&self) -> Vec<u8> {
        let output = String::from_utf8(self.run(&["capture-pane", "-p", "-e"]).stdout).unwrap();
        let numbers = output.split("\x1b[").skip(1).filter_map(|part| part.split_once('m'));
        numbers.flat_map(|(numbers, _)| numbers.split(';')).filter_map(|number| number.parse().ok()).collect()
    }

    /// Waits for a line that has a text; no event reports it.
    fn wait_for(&self, text: &str) -> Vec<String> {
        loop {
            let screen = self.screen();
            if has(&screen, text) {
                return screen;
            }
            std::thread::yield_now();
        }
    }

    /// Starts `top` between two looks at the terminal's settings; the variables stand before it.
    fn top(&self, ours: &Ours, variables: &str) {
        self.runs.set(self.runs.get() + 1);
        let (before, after) = (self.path("before"), self.path("after"));
        let (before, after) = (before.display(), after.display());
        self.say(&format!(
            "clear; echo the screen of be''fore; stty -g > {before}; {variables} sh -c 'echo $$ > {}; exec {} top {} --interval 20ms'; \
             echo status=$?; stty -g > {after}; echo run {} is ov''er",
            self.path("pid").display(),
            env!("CARGO_BIN_EXE_shmtool"),
            ours.name(),
            self.runs.get(),
        ));
    }

    /// Waits until `top` has ended, and the terminal is as before.
    fn ended(&self, status: u32) -> Vec<String> {
        let screen = self.wait_for(&format!("run {} is over", self.runs.get()));
        assert!(has(&screen, &format!("status={status}")), "{screen:#?}");
        assert!(has(&screen, "the screen of before"), "{screen:#?}");
        let settings = |name| std::fs::read_to_string(self.path(name)).unwrap();
        assert_eq!(settings("before"), settings("after"));
        let asked = self.run(&["display-message", "-p", "#{alternate_on} #{cursor_flag}"]);
        assert_eq!(String::from_utf8(asked.stdout).unwrap(), "0 1\n", "the cursor is seen");
        screen
    }
}

/// Any colour but the terminal's own.
fn is_colour(style: &u8) -> bool {
    (30..=38).contains(style) || (90..=97).contains(style)
}

impl Drop for Tmux {
    fn drop(&mut self) {
        self.run(&["kill-server"]);
    }
}

#[test]
fn a_real_terminal_has_the_screen_and_gets_back_what_it_had() {
    let Some(tmux) = Tmux::start() else { return };
    let ours = Ours::new();
    let segment = counted(&ours);
    tmux.top(&ours, "");
    let screen = tmux.wait_for("every 20ms");
    assert!(screen[0].starts_with(&format!("{}: ", ours.name())), "{screen:#?}");
    for (keys, text) in [
        ("Down", "> split/1"),
        ("Enter", "worker    split/1"),
        ("Escape", "> split/1"),
        ("r", "No request is in progress."),
        ("r", "> split/1"),
        ("?", "this help; any key closes it"),
        ("Space", "> split/1"), // closes help
        ("+", "every 100ms"),
        ("p", "PAUSED"),
    ] {
        tmux.keys(&[keys]);
        tmux.wait_for(text);
    }
    assert!(tmux.styles().iter().any(is_colour), "the line of the last minutes");
    tmux.keys(&["C-c"]);
    tmux.ended(0);

    // A signal.
    tmux.top(&ours, "NO_COLOR=1");
    tmux.wait_for("every 20ms");
    tmux.wait_for("requests/s of the last");
    let styles = tmux.styles();
    assert!(styles.contains(&7) && !styles.iter().any(is_colour), "reversed, and no colour: {styles:?}");
    let pid = std::fs::read_to_string(tmux.path("pid")).unwrap();
    assert!(Command::new("kill").args(["-TERM", pid.trim()]).status().unwrap().success());
    tmux.ended(143);

    // A file that is made shorter within a look: the kernel's signal for it.
    tmux.top(&ours, "");
    tmux.wait_for("every 20ms");
    let pid = std::fs::read_to_string(tmux.path("pid")).unwrap();
    assert!(Command::new("kill").args(["-BUS", pid.trim()]).status().unwrap().success());
    let screen = tmux.ended(2);
    assert!(has(&screen, "the segment's file was made shorter while it was read"), "{screen:#?}");

    // No screen.
    tmux.top(&ours, "TERM=dumb");
    let screen = tmux.ended(2);
    assert!(has(&screen, "no screen for top: TERM is \"dumb\"; 'shmtool stats --interval"), "{screen:#?}");

    // The server's end.
    tmux.top(&ours, "");
    tmux.wait_for("every 20ms");
    drop(segment);
    let screen = tmux.wait_for("THE SERVER HAS ENDED");
    assert!(has(&screen, "split/0"), "{screen:#?}");
    tmux.keys(&["q"]);
    tmux.ended(1);
}
