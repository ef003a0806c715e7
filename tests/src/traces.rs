//! Files and processes that a server must not leave behind.

use crate::name::files_at;
use ringmill_shm::segment::{Location, NAMED_DIRECTORY};

/// The files of a named segment that exist.
#[must_use]
pub fn files_of(name: &str) -> Vec<String> {
    let Ok(location) = Location::named(name) else { return Vec::new() };
    files_at(&location).iter().map(|path| path.display().to_string()).collect()
}

/// The children of this process, also dead ones that have not been waited for, with their states and command lines.
///
/// # Panics
/// If there is no `/proc`.
#[must_use]
pub fn children() -> Vec<String> {
    loop {
        if let Some(children) = children_now() {
            return children;
        }
        std::thread::yield_now();
    }
}

/// `None` if a child is in the midst of its exec, and has no command line yet.
fn children_now() -> Option<Vec<String>> {
    let line = |(pid, state): (u32, String)| {
        let line = command_line(pid);
        let is_whole = !line.is_empty() || state == "Z";
        is_whole.then(|| format!("/proc/{pid} ({state}): {line}"))
    };
    children_of(std::process::id()).into_iter().map(line).collect()
}

/// The pids of a process's children, each with its state as `/proc` says it.
///
/// # Panics
/// If there is no `/proc`.
#[must_use]
pub fn children_of(parent: u32) -> Vec<(u32, String)> {
    let child = |pid: u32| {
        // A process that ends meanwhile is none.
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let (_, after_name) = stat.rsplit_once(") ")?; // the name in parentheses may hold anything
        let mut fields = after_name.split(' ');
        let (state, its_parent) = (fields.next()?, fields.next()?);
        (its_parent == parent.to_string()).then(|| (pid, state.to_owned()))
    };
    crate::namespace::processes().into_iter().filter_map(child).collect()
}

fn command_line(pid: u32) -> String {
    std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default().replace('\0', " ")
}

/// Nothing of the server is left: no file, and no worker process among this process's children.
///
/// # Panics
/// If something is.
#[track_caller]
pub fn assert_gone(name: &str) {
    assert_eq!(files_of(name), Vec::<String>::new(), "files left in {NAMED_DIRECTORY}");
    let worker_title = format!(" {name}/");
    let workers: Vec<String> = children().into_iter().filter(|c| c.contains(&worker_title)).collect();
    assert_eq!(workers, Vec::<String>::new(), "processes left");
}
