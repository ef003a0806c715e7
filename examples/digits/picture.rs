//! Digits drawn with characters, so that a person can check the labels by eye.

use crate::data::{INK_MAX, Image};

/// An image and what is written below it.
pub(crate) struct Picture<'a> {
    pub(crate) image: &'a Image,
    pub(crate) caption: String,
}

/// Columns of a drawn image: two characters a pixel look about square.
const WIDTH: usize = 16;

/// Columns between two images: four in a row fit 80, with a caption of up to 23 below the last.
const GAP: usize = 3;

/// From bare paper to full ink.
const SHADES: [char; 5] = [' ', '░', '▒', '▓', '█'];

/// Draws the images in one row, their captions below them. Lines carry no trailing blanks.
pub(crate) fn row(pictures: &[Picture<'_>]) -> String {
    let mut lines: Vec<String> = (0..8)
        .map(|y| join(pictures.iter().map(|picture| pixels(&picture.image.pixels[8 * y..][..8]))))
        .collect();
    lines.push(join(pictures.iter().map(|picture| picture.caption.clone())));
    lines.join("\n")
}

fn pixels(row: &[u8]) -> String {
    row.iter().flat_map(|&ink| [shade(ink); 2]).collect()
}

fn shade(ink: u8) -> char {
    let darkest = SHADES.len() - 1;
    SHADES[(usize::from(ink) * darkest).div_ceil(usize::from(INK_MAX)).min(darkest)]
}

fn join(cells: impl Iterator<Item = String>) -> String {
    let width = WIDTH + GAP;
    let line: String = cells.map(|cell| format!("{cell:width$}")).collect();
    line.trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::PIXELS;

    #[test]
    fn more_ink_is_darker() {
        assert_eq!([0, 1, 4, 5, 8, 9, 12, 13, 16].map(shade).iter().collect::<String>(), " ░░▒▒▓▓██");
    }

    #[test]
    fn images_stand_side_by_side_within_80_columns() {
        let mut pixels = [0; PIXELS];
        pixels[0] = 16;
        pixels[63] = 4;
        let image = Image { pixels };
        let picture = || Picture { image: &image, caption: "given 3, is 3".to_owned() };
        let drawn = row(&[picture(), picture(), picture(), picture()]);
        let lines: Vec<&str> = drawn.lines().collect();
        assert_eq!(lines.len(), 9);
        assert_eq!(lines[0], ["██"; 4].join(&" ".repeat(17)));
        assert_eq!(lines[3], "");
        assert_eq!(lines[7].chars().count(), 73);
        assert_eq!(lines[8], ["given 3, is 3"; 4].join("      "));
    }
}
