//! The digits: reading them from CSV, with clear errors for a bad file.

use std::fmt;
use std::fs;
use std::io;
use std::path::Path;

use rkyv::{Archive, Deserialize, Serialize};

/// Pixels of an image: 8 rows of 8.
pub(crate) const PIXELS: usize = 64;

/// The largest value of a pixel; the smallest is 0, for bare paper.
pub(crate) const INK_MAX: u8 = 16;

/// With fewer lines there would be no three known examples to compare with.
const LINES_MIN: usize = 6;

/// The input of a worker: 64 bytes, read there in place.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Image {
    /// Row by row, each 0..=16.
    pub(crate) pixels: [u8; PIXELS],
}

/// An image and the digit that its writer meant.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Digit {
    pub(crate) image: Image,
    /// 0..=9.
    pub(crate) label: u8,
}

/// Why there are no digits to work with.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DataError {
    /// Missing, a folder, not ours to read.
    #[error("{file}: cannot be read")]
    Unreadable { file: String, source: io::Error },
    #[error("{file}: is empty, expected lines of {PIXELS} pixels and a label")]
    Empty { file: String },
    #[error("{file}: has {lines} lines, expected at least {LINES_MIN}")]
    TooShort { file: String, lines: usize },
    /// `line` and `column` count from 1; a column is a value between commas.
    #[error("{file}, line {line}, column {column}: expected {expected}, found {found}")]
    BadLine { file: String, line: usize, column: usize, expected: Expected, found: Found },
}

/// The expected contents at a line and column of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Expected {
    Pixel,
    Label,
    EndOfLine,
}

impl fmt::Display for Expected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pixel => write!(f, "a pixel, a whole number 0..={INK_MAX}"),
            Self::Label => write!(f, "a label, a whole number 0..=9"),
            Self::EndOfLine => write!(f, "the end of the line after {PIXELS} pixels and a label"),
        }
    }
}

/// The contents at a line and column of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    Value(String),
    EndOfLine,
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN_MAX: usize = 20;
        match self {
            Self::Value(value) if value.chars().count() > SHOWN_MAX => {
                let start: String = value.chars().take(SHOWN_MAX).collect();
                write!(f, "{start:?}…")
            }
            Self::Value(value) => write!(f, "{value:?}"),
            Self::EndOfLine => write!(f, "the end of the line"),
        }
    }
}

/// Reads the digits at `csv`, or without one those that come with the program.
pub(crate) fn load(csv: Option<&Path>) -> Result<Vec<Digit>, DataError> {
    let Some(path) = csv else {
        return parse("digits.csv", include_str!("../../data/digits.csv"));
    };
    let file = path.display().to_string();
    match fs::read(path) {
        // Bytes that are no text become a value that is no number, an error with its line and column.
        Ok(bytes) => parse(&file, &String::from_utf8_lossy(&bytes)),
        Err(source) => Err(DataError::Unreadable { file, source }),
    }
}

/// Parses lines of 64 pixels and a label, without a header. `file` is named in errors.
fn parse(file: &str, text: &str) -> Result<Vec<Digit>, DataError> {
    if text.trim().is_empty() {
        return Err(DataError::Empty { file: file.to_owned() });
    }
    let digits = text
        .lines()
        .enumerate()
        .map(|(index, line)| {
            parse_line(line).map_err(|bad| DataError::BadLine {
                file: file.to_owned(),
                line: index + 1,
                column: bad.column,
                expected: bad.expected,
                found: bad.found,
            })
        })
        .collect::<Result<Vec<Digit>, DataError>>()?;
    if digits.len() < LINES_MIN {
        return Err(DataError::TooShort { file: file.to_owned(), lines: digits.len() });
    }
    Ok(digits)
}

/// What is wrong with a line, and where.
struct BadColumn {
    column: usize,
    expected: Expected,
    found: Found,
}

fn parse_line(line: &str) -> Result<Digit, BadColumn> {
    let mut values = line.split(',').enumerate();
    let mut pixels = [0; PIXELS];
    for (index, pixel) in pixels.iter_mut().enumerate() {
        *pixel = number(values.next(), index + 1, Expected::Pixel, INK_MAX)?;
    }
    let label = number(values.next(), PIXELS + 1, Expected::Label, 9)?;
    match values.next() {
        None => Ok(Digit { image: Image { pixels }, label }),
        Some((index, value)) => Err(BadColumn {
            column: index + 1,
            expected: Expected::EndOfLine,
            found: Found::Value(value.to_owned()),
        }),
    }
}

fn number(value: Option<(usize, &str)>, column: usize, expected: Expected, max: u8) -> Result<u8, BadColumn> {
    let found = match value {
        None => Found::EndOfLine,
        Some((_, value)) => match value.trim().parse() {
            Ok(number) if number <= max => return Ok(number),
            _ => Found::Value(value.to_owned()),
        },
    };
    Err(BadColumn { column, expected, found })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `lines` good lines, the n-th with label n.
    fn good(lines: usize) -> Vec<String> {
        (0..lines).map(|label| format!("{}{label}", "7,".repeat(PIXELS))).collect()
    }

    /// The place and the reason that `parse` gives for a file whose third line is `line`.
    fn bad(line: &str) -> (usize, usize, Expected, Found) {
        let mut lines = good(8);
        lines[2] = line.to_owned();
        match parse("some.csv", &lines.join("\n")) {
            Err(DataError::BadLine { line, column, expected, found, .. }) => (line, column, expected, found),
            other => panic!("expected a bad line, got {other:?}"),
        }
    }

    #[test]
    fn the_digits_that_come_along_are_all_there() {
        let digits = load(None).expect("the embedded file is good");
        assert_eq!(digits.len(), 1797);
        assert_eq!(digits[0].label, 0);
        assert_eq!(digits[0].image.pixels[..8], [0, 0, 5, 13, 9, 1, 0, 0]);
        assert_eq!(digits[1796].label, 8);
    }

    #[test]
    fn line_ends_of_every_kind_and_blanks_around_values_are_fine() {
        let unix = good(8).join("\n");
        let digits = parse("some.csv", &unix).expect("good lines");
        assert_eq!(digits.iter().map(|digit| digit.label).collect::<Vec<_>>(), [0, 1, 2, 3, 4, 5, 6, 7]);
        for same in [unix.clone() + "\n", unix.replace('\n', "\r\n") + "\r\n", unix.replace(',', " , ")] {
            assert_eq!(parse("some.csv", &same).expect("good lines"), digits);
        }
    }

    #[test]
    fn a_value_that_is_no_pixel_is_an_error_with_line_and_column() {
        for value in ["17", "-1", "3.5", "x", "", "\u{fffd}"] {
            let line = good(1)[0].replacen("7,", &format!("{value},"), 1);
            assert_eq!(bad(&line), (3, 1, Expected::Pixel, Found::Value(value.to_owned())));
        }
        let (pixels, label) = ("7,".repeat(PIXELS - 1), 5);
        assert_eq!(
            bad(&format!("{pixels}?,{label}")),
            (3, 64, Expected::Pixel, Found::Value("?".to_owned()))
        );
    }

    #[test]
    fn a_label_above_nine_is_an_error_with_line_and_column() {
        assert_eq!(
            bad(&format!("{}10", "7,".repeat(PIXELS))),
            (3, 65, Expected::Label, Found::Value("10".to_owned()))
        );
    }

    #[test]
    fn a_line_too_short_or_too_long_is_an_error_with_line_and_column() {
        assert_eq!(bad(""), (3, 1, Expected::Pixel, Found::Value(String::new())));
        assert_eq!(bad("1,2,3"), (3, 4, Expected::Pixel, Found::EndOfLine));
        assert_eq!(bad(&"7,".repeat(PIXELS)), (3, 65, Expected::Label, Found::Value(String::new())));
        assert_eq!(bad(&["7"; PIXELS].join(",")), (3, 65, Expected::Label, Found::EndOfLine));
        assert_eq!(
            bad(&["7"; PIXELS + 2].join(",")),
            (3, 66, Expected::EndOfLine, Found::Value("7".to_owned()))
        );
    }

    #[test]
    fn an_empty_file_is_an_error() {
        for empty in ["", "\n", " \r\n\n"] {
            assert!(matches!(parse("some.csv", empty), Err(DataError::Empty { .. })));
        }
        assert!(matches!(parse("some.csv", &good(5).join("\n")), Err(DataError::TooShort { lines: 5, .. })));
        assert!(matches!(load(Some(Path::new("no/such.csv"))), Err(DataError::Unreadable { .. })));
    }

    #[test]
    fn messages_name_file_line_column_and_what_was_expected() {
        let mut lines = good(8);
        lines[6] = format!("1,2,{}", "long ".repeat(10));
        let error = parse("some.csv", &lines.join("\n")).expect_err("line 7 is bad");
        assert_eq!(
            error.to_string(),
            "some.csv, line 7, column 3: expected a pixel, a whole number 0..=16, found \"long long long long \"…"
        );
    }
}
