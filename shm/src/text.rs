//! Text that another process or a user chose, made safe for one line of a terminal, a log or an error; and numbers of bytes for
//! people.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Whether a character can change more of a terminal than its own cell: control characters (line feeds and escape codes
/// among them), and those that reverse or hide their neighbours.
#[must_use]
pub fn is_unruly(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}')
        || matches!(c, '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

fn add(to: &mut String, text: &str) {
    for c in text.chars() {
        match is_unruly(c) {
            true => to.extend(c.escape_default()),
            false => to.push(c),
        }
    }
}

/// Text with such characters escaped, as in Rust: `\n`, `\u{1b}`.
#[must_use]
pub fn shown(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    add(&mut shown, text);
    shown
}

/// A file's name, escaped as [`shown`] does; bytes that are not UTF-8 as `\xff`.
#[must_use]
pub fn shown_name(name: &OsStr) -> String {
    let mut shown = String::with_capacity(name.len());
    for chunk in name.as_bytes().utf8_chunks() {
        add(&mut shown, chunk.valid());
        chunk.invalid().iter().for_each(|byte| shown.push_str(&format!("\\x{byte:02x}")));
    }
    shown
}

/// A path, escaped as [`shown_name`] does.
#[must_use]
pub fn shown_path(path: &Path) -> String {
    shown_name(path.as_os_str())
}

/// A number of bytes in the largest unit that it fills: `1536` → `1.5 KiB`.
#[must_use]
pub fn size(n: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if n < 1024 {
        return format!("{n} B");
    }
    let mut value = n as f64 / 1024.0;
    let mut unit = 0;
    // What would be printed as 1024.0 belongs to the next unit.
    while value >= 1023.95 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

/// A number of bytes as it is, and in a unit beside it: `1536` → `1536 bytes (1.5 KiB)`.
#[must_use]
pub fn exact_size(n: u64) -> String {
    if n < 1024 { format!("{n} bytes") } else { format!("{n} bytes ({})", size(n)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_reaches_a_terminal_but_text() {
        assert_eq!(shown("größe-2 (名前) \\ \""), "größe-2 (名前) \\ \"");
        assert_eq!(shown("a\x1b[2J\nb\u{9b}c"), "a\\u{1b}[2J\\nb\\u{9b}c");
        assert_eq!(shown("a\u{202e}b\u{200b}\u{feff}\u{2028}"), "a\\u{202e}b\\u{200b}\\u{feff}\\u{2028}");
        assert_eq!(shown_path(Path::new(OsStr::from_bytes(b"/a\xff\x1b/\xc3\xa4"))), "/a\\xff\\u{1b}/ä");
    }

    #[test]
    fn sizes_have_one_decimal_from_a_kibibyte_on() {
        let cases = [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (1536, "1.5 KiB"),
            ((1 << 20) - 1, "1.0 MiB"),
            (5 << 30, "5.0 GiB"),
            (u64::MAX, "16.0 EiB"),
        ];
        for (n, text) in cases {
            assert_eq!(size(n), text);
        }
    }

    #[test]
    fn a_size_that_is_exact_has_its_unit_beside_it() {
        assert_eq!(exact_size(1023), "1023 bytes");
        assert_eq!(exact_size(65_537), "65537 bytes (64.0 KiB)");
    }
}
