//! `docs/promises.md` and the tests of its rows have the same numbers.

use super::documents::text;
use std::collections::BTreeSet;

/// The numbers of rows, as `worker 01`.
fn rows() -> BTreeSet<String> {
    let document = text("docs/promises.md");
    let cells = document.lines().filter_map(|line| line.strip_prefix("| ")?.split(" | ").next());
    let numbers = cells.filter(|cell| cell.ends_with(|last: char| last.is_ascii_digit()));
    numbers.map(str::to_string).collect()
}

/// The rows that tests are named after.
fn tested() -> BTreeSet<String> {
    let source = text("tests/tests/servlets/promises.rs");
    let tests = source.split("#[test]\nfn ").skip(1);
    let row = |test: &str| {
        let mut words = test.splitn(3, '_');
        let (table, number) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        assert!(
            number.parse::<u8>().is_ok(),
            "a test of no row: {}",
            test.lines().next().unwrap_or_default()
        );
        format!("{table} {number}")
    };
    tests.map(row).collect()
}

#[test]
fn every_row_has_a_test_and_every_test_a_row() {
    let rows = rows();
    assert!(rows.len() > 40, "{rows:?}");
    assert_eq!(rows, tested());
}
