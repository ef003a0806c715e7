//! The table, and the digits to check by eye.

use comfy_table::{CellAlignment, Table, presets};
use ringmill::stats::BatchStats;

use crate::exam::{Exam, Marks};
use crate::picture::{self, Picture};

/// One way to classify the images, and its result.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) how: String,
    pub(crate) marks: Marks,
    /// The batches that the workers saw; none without workers.
    pub(crate) batches: Option<Sizes>,
}

/// How large batches were, in images.
#[derive(Debug)]
pub(crate) struct Sizes {
    pub(crate) min: u64,
    pub(crate) mean: f64,
    pub(crate) max: u64,
}

impl From<BatchStats> for Sizes {
    fn from(batches: BatchStats) -> Self {
        Self { min: batches.min, mean: batches.mean(), max: batches.max }
    }
}

impl Row {
    fn images_per_s(&self) -> f64 {
        self.marks.answers as f64 / self.marks.took.as_secs_f64()
    }
}

/// A table of all rows, with speed-ups against `base`; at most 80 columns wide.
pub(crate) fn table(rows: &[Row], base: &Row) -> Table {
    let mut table = Table::new();
    table.load_style(presets::UTF8_FULL_CONDENSED);
    table.set_header(["", "images/s", "speed-up", "accuracy", "batch sizes\nmin / mean / max"]);
    for row in rows {
        table.add_row([
            row.how.clone(),
            thousands(row.images_per_s().round() as u64),
            format!("{:.2} ×", row.images_per_s() / base.images_per_s()),
            format!("{:.1} %", 100.0 * row.marks.right as f64 / row.marks.answers as f64),
            row.batches.as_ref().map_or_else(String::new, batch_sizes),
        ]);
    }
    table.column_iter_mut().skip(1).for_each(|column| column.set_cell_alignment(CellAlignment::Right));
    table
}

fn batch_sizes(&Sizes { min, mean, max }: &Sizes) -> String {
    let decimals = if mean < 1000.0 { 1 } else { 0 };
    format!("{min} / {mean:.decimals$} / {max}")
}

/// Some digits with the label given and the true one; the last is a mistake if there is one.
pub(crate) fn pictures(exam: &Exam) -> String {
    /// As many as fit 80 columns.
    const SHOWN: usize = 4;
    let answers = || exam.unknown.iter().zip(&exam.expected);
    let mistake = answers().find(|(digit, label)| digit.label != **label);
    // A stride, because the file begins with whole runs of the same writer.
    let right = answers().step_by(25).filter(|(digit, label)| digit.label == **label);

    let shown = right.take(SHOWN - usize::from(mistake.is_some())).chain(mistake);
    let pictures: Vec<Picture<'_>> = shown
        .map(|(digit, &label)| {
            let verdict = if label == digit.label { "" } else { " (wrong)" };
            Picture { image: &digit.image, caption: format!("given {label}, is {}{verdict}", digit.label) }
        })
        .collect();
    picture::row(&pictures)
}

/// With a comma every three digits.
pub(crate) fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{Digit, Image, PIXELS};
    use std::time::Duration;

    #[test]
    fn thousands_are_set_apart() {
        assert_eq!(
            [0, 999, 1000, 81_234, 1_234_567].map(thousands),
            ["0", "999", "1,000", "81,234", "1,234,567"]
        );
    }

    #[test]
    fn the_pictures_fit_80_columns_and_end_with_a_mistake() {
        let image = Image { pixels: [16; PIXELS] };
        let unknown = (0..200).map(|n| Digit { image, label: n % 10 }).collect();
        let expected = (0..200).map(|n| if n == 120 { 7 } else { n % 10 }).collect();
        let text = pictures(&Exam { unknown, expected, passes: 1 });
        let widest = text.lines().map(|line| line.chars().count()).max();
        assert!(text.ends_with("given 7, is 0 (wrong)") && widest <= Some(80), "{text}");
        assert_eq!(text.matches("given").count(), 4);
    }

    #[test]
    fn the_table_fits_80_columns() {
        let row = |how: &str| Row {
            how: how.to_owned(),
            marks: Marks { answers: 10_000_000, right: 9_820_000, took: Duration::from_secs(2) },
            batches: Some(Sizes { min: 1000, mean: 4000.0, max: 4096 }),
        };
        let rows = [row("in-process, unbatched"), row("64 processes, batched")];
        let text = table(&rows, &rows[0]).to_string();
        assert!(text.contains("5,000,000") && text.contains("1.00 ×") && text.contains("98.2 %"), "{text}");
        assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
    }
}
