//! A process as `/proc` shows it.

use std::thread;
use std::{fs, io};

/// Waits until all threads of a process sleep, or it is gone.
///
/// The kernel reports no event when a process falls asleep, so this polls.
pub fn wait_until_asleep(pid: u32) {
    while is_awake(pid) {
        thread::yield_now();
    }
}

/// Whether a thread of the process runs or waits for a CPU.
fn is_awake(pid: u32) -> bool {
    let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else { return false };
    threads.filter_map(Result::ok).any(|thread| {
        fs::read_to_string(thread.path().join("stat")).is_ok_and(|stat| state(&stat) == Some('R'))
    })
}

/// The state in a line of `/proc/PID/stat`: after the name, which is in parentheses and may hold any character.
fn state(stat: &str) -> Option<char> {
    stat.rsplit_once(") ")?.1.chars().next()
}

/// Bytes of memory that are the process's own: heap, stacks, and data that it has written to; not its part of
/// mapped files.
///
/// # Errors
///
/// If it is gone, or the kernel does not tell.
pub fn private_bytes(pid: u32) -> io::Result<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
    let kib = text
        .lines()
        .find_map(|line| line.strip_prefix("Anonymous:")?.strip_suffix("kB")?.trim().parse().ok());
    kib.map(|kib: u64| kib * 1024).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

#[cfg(test)]
mod tests {
    use std::hint::black_box;
    use std::process;

    use super::*;

    #[test]
    fn states_are_found_behind_any_name() {
        assert_eq!(state("17 (cat) S 1 17"), Some('S'));
        assert_eq!(state("17 (a) R (b) Z 1 17"), Some('Z'));
        assert_eq!(state("17"), None);
    }

    #[test]
    fn who_asks_is_awake() {
        assert!(is_awake(process::id()));
    }

    #[test]
    fn memory_that_is_written_to_becomes_the_process_s_own() {
        let before = private_bytes(process::id()).unwrap();
        let written = black_box(vec![7_u8; 64 << 20]);
        let after = private_bytes(process::id()).unwrap();
        // Other tests may free some of theirs meanwhile, but not as much as this.
        assert!(after - before > 32 << 20, "{before} {after}");
        drop(written);
    }
}
