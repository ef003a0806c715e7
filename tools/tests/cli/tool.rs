//! Runs of `shmtool`, and what it printed.

use serde_json::Value;
use std::process::{Command, Output, Stdio};

pub(crate) fn shmtool(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_shmtool")).args(arguments).stdin(Stdio::null()).output().unwrap()
}

pub(crate) fn code(output: &Output) -> i32 {
    output.status.code().expect("it was not killed")
}

pub(crate) fn text(output: &Output) -> String {
    assert_eq!(String::from_utf8_lossy(&output.stderr), "", "nothing but the report");
    String::from_utf8(output.stdout.clone()).unwrap()
}

pub(crate) fn parsed(output: &Output) -> Value {
    serde_json::from_str(&text(output)).unwrap()
}

/// The one line that says what is wrong; the tool prints nothing else.
pub(crate) fn complaint(output: &Output) -> String {
    assert_eq!(code(output), 2);
    assert_eq!(String::from_utf8_lossy(&output.stdout), "");
    let line = String::from_utf8(output.stderr.clone()).unwrap();
    assert_eq!(line.lines().count(), 1, "{line}");
    line
}

/// What `list` says of one segment.
pub(crate) fn listed(name: &str) -> Option<Value> {
    let all = parsed(&shmtool(&["list", "--json"]));
    all["segments"].as_array().unwrap().iter().find(|s| s["name"] == name).cloned()
}

/// The words of the line that begins with `first`.
pub(crate) fn words<'t>(text: &'t str, first: &str) -> Vec<&'t str> {
    let words = |line: &'t str| line.split_whitespace().collect::<Vec<_>>();
    text.lines()
        .map(words)
        .find(|w| w.first() == Some(&first))
        .unwrap_or_else(|| panic!("no {first} in:\n{text}"))
}

/// The commands that its help lists.
pub(crate) fn commands() -> Vec<String> {
    let help = text(&shmtool(&["--help"]));
    let listed = help.split("\nCommands:\n").nth(1).unwrap().split("\n\n").next().unwrap();
    let names = listed.lines().map(|line| line.split_whitespace().next().unwrap().to_string());
    names.filter(|name| name != "help").collect()
}
