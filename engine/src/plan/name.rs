//! Names of servlets: they stand in errors, reports, logs and process titles, so each is one line.

use crate::error::StartError;
use ringmill_shm::text::is_unruly;

/// The longest name, in bytes.
pub(crate) const SERVLET_NAME_LIMIT: usize = 64;

/// Checks the name of a servlet: letters and digits of any script, spaces within it, and ASCII punctuation but `/`, which
/// separates a servlet from its worker where both are named.
pub(crate) fn check(name: &str) -> Result<(), StartError> {
    let fine = |c: char| c.is_alphanumeric() || c == ' ' || (c.is_ascii_punctuation() && c != '/');
    let within = (1..=SERVLET_NAME_LIMIT).contains(&name.len());
    if within && name.chars().all(fine) && name.trim() == name {
        return Ok(());
    }
    Err(StartError::Name { name: shown(name), longest: SERVLET_NAME_LIMIT })
}

/// The longest name of a worker in a program, in bytes.
pub(crate) const WORKER_NAME_LIMIT: usize = 256;

/// Checks the name by which a program lists a worker: one line of text without spaces at its ends.
pub(crate) fn check_worker(servlet: &str, worker: &str) -> Result<(), StartError> {
    let within = (1..=WORKER_NAME_LIMIT).contains(&worker.len());
    if within && !worker.chars().any(is_unruly) && worker.trim() == worker {
        return Ok(());
    }
    let (servlet, worker) = (servlet.into(), shown(worker));
    Err(StartError::WorkerName { servlet, worker, longest: WORKER_NAME_LIMIT })
}

/// The beginning of a name, as much as an error on one line has room for. The error's text escapes it.
pub(crate) fn shown(name: &str) -> String {
    const MOST: usize = 2 * SERVLET_NAME_LIMIT;
    match name.char_indices().nth(MOST) {
        None => name.into(),
        Some((end, _)) => format!("{}…", &name[..end]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_one_line_of_text() {
        for fine in ["a", "tokenize-2", "größe", "v1.2 (fast)", "名前", &"x".repeat(64)] {
            assert!(check(fine).is_ok(), "{fine}");
        }
        let long = "x".repeat(65);
        let bad = [
            "",
            " ",
            " a",
            "a ",
            "a/b",
            "a\0b",
            "a\nb",
            "a\tb",
            "\x1b[31m",
            "a\u{202e}b",
            "a\u{2028}b",
            "a\u{9b}b",
        ];
        for bad in bad.into_iter().chain([&*long]) {
            let text = check(bad).unwrap_err().to_string();
            assert!(!text.chars().any(char::is_control) && text.contains("64"), "{text:?}");
        }
        let endless = check(&"é".repeat(1 << 20)).unwrap_err().to_string();
        assert!(endless.len() < 600, "{}", endless.len());
    }
}
