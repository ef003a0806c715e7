//! What a server must not leave behind: files and processes.

use ringmill_shm::segment::{NAMED_DIRECTORY, Place};
use std::path::Path;

/// The files of a named segment that exist.
#[must_use]
pub fn files_of(name: &str) -> Vec<String> {
    let Ok(place) = Place::named(name) else { return Vec::new() };
    let both = [place.path(), place.lease_path()];
    // `symlink_metadata`, because `exists` would follow a dangling link.
    both.iter()
        .filter(|path| path.symlink_metadata().is_ok())
        .map(|path| path.display().to_string())
        .collect()
}

/// The children of this process, dead ones that nobody has waited for included, with their states and
/// command lines.
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

/// `None` if one is in the midst of its exec, and has no command line yet.
fn children_now() -> Option<Vec<String>> {
    let me = std::process::id().to_string();
    let mut children = Vec::new();
    for entry in std::fs::read_dir("/proc").expect("Linux has /proc").flatten() {
        let path = entry.path();
        // A process that ends meanwhile is none.
        let Ok(stat) = std::fs::read_to_string(path.join("stat")) else { continue };
        // The name in parentheses may hold anything.
        let Some((_, after_name)) = stat.rsplit_once(") ") else { continue };
        let mut fields = after_name.split(' ');
        let (state, parent) = (fields.next().unwrap_or(""), fields.next().unwrap_or(""));
        if parent == me {
            let line = command_line(&path);
            if line.is_empty() && state != "Z" {
                return None;
            }
            children.push(format!("{} ({state}): {line}", path.display()));
        }
    }
    Some(children)
}

fn command_line(process: &Path) -> String {
    std::fs::read_to_string(process.join("cmdline")).unwrap_or_default().replace('\0', " ")
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
