//! Texts of user code and of files, as they stand in errors: on one line, or on lines of their own, without anything that
//! a terminal obeys.

use ringmill_shm::text::shown;
use std::fmt;

/// A text of any number of lines on one line: that of a failed `assert_eq!`, say.
pub(crate) struct OneLine<'a>(pub(crate) &'a str);

impl fmt::Display for OneLine<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut lines = self.0.split(['\n', '\r']).map(str::trim).filter(|line| !line.is_empty());
        f.write_str(&shown(lines.next().unwrap_or_default()))?;
        lines.try_for_each(|line| write!(f, "; {}", shown(line)))
    }
}

/// A text of any number of lines on as many, each of them fit for a terminal: a stack, say.
pub(crate) struct Lines<'a>(pub(crate) &'a str);

impl fmt::Display for Lines<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut lines = self.0.lines();
        f.write_str(&shown(lines.next().unwrap_or_default()))?;
        lines.try_for_each(|line| write!(f, "\n{}", shown(line)))
    }
}

pub(crate) fn one_line(text: &str) -> String {
    OneLine(text).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_become_one_and_escape_codes_are_seen() {
        assert_eq!(one_line("first\n\r\n  second\tmore\n"), "first; second\\tmore");
        assert_eq!(one_line("\x1b[2Jgone"), "\\u{1b}[2Jgone");
        assert_eq!(one_line("\n"), "");
        assert_eq!(
            Lines("first\r\n\n  \x1b[2J\u{202e}more\n").to_string(),
            "first\n\n  \\u{1b}[2J\\u{202e}more"
        );
        assert_eq!(Lines("").to_string(), "");
    }
}
