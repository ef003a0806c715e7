//! Reports as text and as JSON, and the exit status.

use crate::error::ToolError;
use comfy_table::{Cell, CellAlignment, ColumnConstraint, ContentArrangement, LineStyle, Table, TableStyle};
use ringmill_shm::text::{is_unruly, shown};
use serde::Serialize;
use std::io::{self, Write};

/// The exit status of a report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(crate) enum Verdict {
    /// Nothing is wrong.
    Fine = 0,
    /// The report says that something is wrong.
    Wrong = 1,
    /// The tool could not do something.
    Failed = 2,
    /// A server may have done what it was asked, or may do it yet.
    Unclear = 3,
}

/// Facts that can be printed, as text or in serialised form as JSON.
pub(crate) trait Report: Serialize {
    /// The text for people; it ends with a newline.
    fn text(&self, page: Page) -> String;

    /// The exit status.
    fn verdict(&self) -> Verdict {
        Verdict::Fine
    }
}

/// The page that text is laid out for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Page {
    /// Columns of the terminal; none if it is no terminal: then tables are plain and never wrapped.
    width: Option<u16>,
}

impl Page {
    /// Standard output.
    pub(crate) fn of_stdout() -> Self {
        let terminal = console::Term::stdout();
        let width = terminal.is_term().then(|| terminal.size_checked().map_or(80, |(_, columns)| columns));
        Self { width }
    }

    /// A screen so many columns wide.
    pub(crate) fn of_width(columns: u16) -> Self {
        Self { width: Some(columns) }
    }

    /// A pipe or file.
    #[cfg(test)]
    pub(crate) fn plain() -> Self {
        Self { width: None }
    }

    /// A text in lines that fit, each indented.
    pub(crate) fn paragraph(self, text: &str, indent: usize) -> String {
        let width = self.width.map_or(80, usize::from).saturating_sub(indent).max(20);
        let mut lines = vec![String::new()];
        for word in text.split_whitespace() {
            let line = lines.last_mut().expect("there is one");
            match line.chars().count() + 1 + word.chars().count() <= width {
                true if line.is_empty() => line.push_str(word),
                true => *line += &format!(" {word}"),
                false => lines.push(word.into()),
            }
        }
        lines.iter().map(|line| format!("{:indent$}{line}\n", "")).collect()
    }

    /// Whether lines are drawn on it.
    pub(crate) fn is_drawn(self) -> bool {
        self.width.is_some()
    }

    /// How many columns a line may have.
    pub(crate) fn columns(self) -> usize {
        self.width.map_or(80, usize::from)
    }

    /// A table; a heading that begins with `>` is of a column of numbers, set flush right.
    pub(crate) fn table(
        self,
        headings: &[impl AsRef<str>],
        rows: impl IntoIterator<Item = Vec<String>>,
    ) -> String {
        let mut table = Table::new();
        let align = |heading: &str| match heading.strip_prefix('>') {
            Some(heading) => (heading.to_string(), CellAlignment::Right),
            None => (heading.to_string(), CellAlignment::Left),
        };
        let (texts, alignments): (Vec<_>, Vec<_>) = headings.iter().map(|h| align(h.as_ref())).unzip();
        let row = |texts: Vec<String>| {
            let cells = texts.into_iter().zip(&alignments);
            cells
                .map(|(text, &alignment)| Cell::new(shown(&text)).set_alignment(alignment))
                .collect::<Vec<_>>()
        };
        let style = TableStyle::new();
        match self.width {
            Some(width) => {
                let rule = LineStyle::none().fill('─').junction('─');
                table.load_style(style.header_separator(rule)).set_width(width);
                table.set_content_arrangement(ContentArrangement::Dynamic);
            }
            None => {
                table.load_style(style).set_content_arrangement(ContentArrangement::Disabled);
            }
        }
        table.set_header(row(texts));
        for texts in rows {
            table.add_row(row(texts));
        }
        // A junction of the rule takes one column.
        let gap = if self.width.is_some() { 1 } else { 2 };
        for (column, &alignment) in table.column_iter_mut().zip(&alignments) {
            column.set_padding((0, gap));
            if alignment == CellAlignment::Right {
                column.set_constraint(ColumnConstraint::ContentWidth); // a number is never broken
            }
        }
        let mut text = table.trim_fmt();
        text.push('\n');
        text
    }
}

/// A report as one JSON document.
pub(crate) fn json(report: &impl Report) -> Result<String, ToolError> {
    serde_json::to_string_pretty(report).map_err(ToolError::Json).map(|text| harmless(&text))
}

/// A document as JSON on one line.
pub(crate) fn json_line(report: &impl Serialize) -> Result<String, ToolError> {
    serde_json::to_string(report).map_err(ToolError::Json).map(|text| harmless(&text))
}

/// JSON that no terminal obeys, with a line feed. serde_json escapes what JSON requires; a terminal obeys more characters.
/// They stand in strings only.
fn harmless(json: &str) -> String {
    let mut text = String::new();
    for c in json.chars() {
        match c != '\n' && is_unruly(c) {
            true => c.encode_utf16(&mut [0; 2]).iter().for_each(|unit| text += &format!("\\u{unit:04x}")),
            false => text.push(c),
        }
    }
    text.push('\n');
    text
}

/// Says a line on standard error, which is no report: with standard error closed, it has no reader, and that is no error.
pub(crate) fn say(line: &str) {
    let _ = writeln!(io::stderr(), "shmtool: {}", shown(line)); // [plain text]
}

/// Writes to standard output. A reader that has gone is not an error; whether there is one.
pub(crate) fn print(text: &str) -> Result<bool, ToolError> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(ToolError::Output(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_paragraph_breaks_between_words() {
        let page = Page { width: Some(30) };
        assert_eq!(
            page.paragraph("twenty columns are left here", 10),
            format!("{0}twenty columns are\n{0}left here\n", " ".repeat(10))
        );
    }

    #[test]
    fn a_plain_table_has_only_words_and_spaces() {
        let rows = [vec!["a".to_string(), "1".to_string()], vec!["bcd".to_string(), "1000".to_string()]];
        let text = Page::plain().table(&["name", ">count"], rows.clone());
        assert_eq!(text, "name  count\na         1\nbcd    1000\n");
        let narrow = Page { width: Some(80) }.table(&["name", ">count"], rows);
        assert_eq!(narrow.lines().count(), 4, "a rule below the headings:\n{narrow}");
    }
}
