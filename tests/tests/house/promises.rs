//! `docs/promises.md` and the tests of its rows have the same numbers.

use super::documents::{names, text};
use std::collections::BTreeSet;

/// The numbers of rows, as `worker 01`.
fn rows() -> BTreeSet<String> {
    let document = text("docs/promises.md");
    let cells = document.lines().filter_map(|line| line.strip_prefix("| ")?.split(" | ").next());
    let numbers = cells.filter(|cell| cell.ends_with(|last: char| last.is_ascii_digit()));
    numbers.map(str::to_string).collect()
}

/// The modules of the tests: one a table.
const MODULES: &str = "tests/tests/servlets/promises";

/// The rows that tests are named after, each in the module of its table.
fn tested() -> BTreeSet<String> {
    let modules = names(MODULES).into_iter().filter(|name| name != "mod.rs");
    modules.flat_map(|module| tested_in(&module)).collect()
}

fn tested_in(module: &str) -> Vec<String> {
    let source = text(format!("{MODULES}/{module}"));
    let tests = source.split("#[test]\nfn ").skip(1);
    let row = |test: &str| {
        let mut words = test.splitn(3, '_');
        let (table, number) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let name = test.lines().next().unwrap_or_default();
        assert!(number.parse::<u8>().is_ok(), "a test of no row: {name}");
        assert_eq!(format!("{table}.rs"), module, "a test of another module: {name}");
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
