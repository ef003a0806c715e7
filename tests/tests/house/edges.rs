//! Named edges and invariants: each name is declared once, in a module's header, and cited where it holds.
//!
//! A list item of a header declares a name: ``//! * `[published]`: …``. A comment cites it as `[published]`, so that one
//! search finds all of it; a doc comment writes `` `[published]` ``, as code, for which rustdoc looks up no link. An edge
//! of a section *Ordering* has two ends, and so two citations; an invariant has one at least.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

/// The sources of all crates.
const SOURCES: &[&str] = &["shm/src", "engine/src", "bench/src", "tools/src", "tests/src"];

/// A comment of one line: its text, and whether it is part of the documentation.
struct Comment<'t> {
    text: &'t str,
    is_doc: bool,
    is_header: bool,
}

/// The comment at the end of a line of source, or that is the line.
fn comment(line: &str) -> Option<Comment<'_>> {
    let is_code = |at: &usize| line[..*at].matches('"').count().is_multiple_of(2);
    let at = line.match_indices("//").map(|(at, _)| at).find(is_code)?;
    let (is_header, is_doc) = (line[at..].starts_with("//!"), line[at..].starts_with("///"));
    let marks = if is_header || is_doc { 3 } else { 2 };
    Some(Comment { text: &line[at + marks..], is_doc: is_header || is_doc, is_header })
}

fn is_name(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_lowercase())
        && text.chars().all(|c| c.is_ascii_lowercase() || [' ', ','].contains(&c))
}

/// The names that a comment cites, or declares.
fn names<'t>(comment: &Comment<'t>) -> Vec<&'t str> {
    let mut found = Vec::new();
    let mut rest = comment.text;
    while let Some(open) = rest.find('[') {
        let before = rest[..open].chars().next_back();
        let Some(close) = rest[open..].find(']').map(|length| open + length) else { break };
        let (name, after) = (&rest[open + 1..close], rest[close + 1..].chars().next());
        let stands = match comment.is_doc {
            true => before == Some('`') && after == Some('`'),
            false => {
                !before.is_some_and(|c| c.is_alphanumeric() || "_)]#!".contains(c)) && after != Some('(')
            }
        };
        if stands && is_name(name) {
            found.push(name);
        }
        rest = &rest[open + 1..];
    }
    found
}

/// The name that a line of a header declares.
fn declared<'t>(comment: &Comment<'t>) -> Option<&'t str> {
    let item = comment.text.trim_start().strip_prefix("* ").filter(|_| comment.is_header)?;
    let name = item.strip_prefix("`[").and_then(|rest| Some(rest.split_once("]`:")?.0));
    name.filter(|name| is_name(name))
}

/// A name's beginning at the end of a line, whose rest stands on the next one.
fn cut_off<'t>(comment: &Comment<'t>) -> Option<&'t str> {
    let (_, rest) = comment.text.rsplit_once('[')?;
    (!rest.contains(']') && is_name(rest)).then_some(rest)
}

/// Where a name is declared, and how often it is cited.
#[derive(Default)]
struct Uses {
    declared: Vec<String>,
    /// Declared under *Ordering*.
    is_edge: bool,
    cited: Vec<String>,
}

/// All names of the given files, with their texts, and the beginnings of names that are cut off.
fn uses<'t>(
    files: impl IntoIterator<Item = &'t (PathBuf, String)>,
) -> (BTreeMap<&'t str, Uses>, Vec<(&'t str, String)>) {
    let mut all = BTreeMap::<&str, Uses>::new();
    let mut cut = Vec::new();
    for (path, text) in files {
        let mut section = "";
        for (number, line) in text.lines().enumerate() {
            let Some(comment) = comment(line) else { continue };
            let line = format!("{}:{}", path.display(), number + 1);
            if let Some(heading) = comment.text.trim_start().strip_prefix("# ") {
                section = heading;
            }
            let own = declared(&comment);
            if let Some(name) = own {
                let uses = all.entry(name).or_default();
                uses.declared.push(line.clone());
                uses.is_edge = section == "Ordering";
            }
            let cited = names(&comment).into_iter().skip(usize::from(own.is_some()));
            cited.for_each(|name| all.entry(name).or_default().cited.push(line.clone()));
            cut.extend(cut_off(&comment).map(|beginning| (beginning, line)));
        }
    }
    (all, cut)
}

/// What is wrong with names, a line each.
fn faults(files: &[(PathBuf, String)]) -> String {
    let (all, cut) = uses(files);
    let mut faults = String::new();
    for (name, Uses { declared, is_edge, cited }) in &all {
        let wanted = 1 + usize::from(*is_edge);
        match declared.len() {
            0 => writeln!(faults, "[{name}] is cited and not declared: {}", cited.join(", ")),
            1 if cited.len() < wanted => {
                writeln!(
                    faults,
                    "[{name}] of {} is cited {} times; {wanted} are wanted",
                    declared[0],
                    cited.len()
                )
            }
            1 => Ok(()),
            _ => writeln!(faults, "[{name}] is declared more than once: {}", declared.join(", ")),
        }
        .expect("a string takes all");
    }
    let names: BTreeSet<&str> = all.keys().copied().collect();
    for (beginning, line) in cut {
        if names.iter().any(|name| name.starts_with(beginning.trim_end())) {
            writeln!(faults, "{line}: a name is spread over two lines, and no search finds it")
                .expect("a string takes all");
        }
    }
    faults
}

fn sources(folder: &Path, found: &mut Vec<(PathBuf, String)>, root: &Path) {
    for entry in fs::read_dir(folder).expect("a folder of sources") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            sources(&path, found, root);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path).expect("a source");
            found.push((path.strip_prefix(root).expect("a path below").to_path_buf(), text));
        }
    }
}

#[test]
fn every_named_edge_is_declared_once_and_cited_at_its_ends() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace");
    let mut files = Vec::new();
    SOURCES.iter().for_each(|folder| sources(&root.join(folder), &mut files, root));
    files.sort();
    let found = faults(&files);
    assert!(found.is_empty(), "\n{found}");
    assert!(uses(&files).0.len() > 20, "few names were found");
}

#[test]
fn faults_of_names_are_found() {
    let faults_of = |text: &str| faults(&[("a.rs".into(), text.into())]);
    let header = "//! # Ordering\n//!\n//! * `[sent]`: a store, then a load.\n";
    let ends = "x.store(1, Release); // [sent]\n    /// By `[sent]`.\n";
    assert_eq!(faults_of(&format!("{header}{ends}")), "");
    assert!(faults_of(header).contains("[sent] of a.rs:3 is cited 0 times; 2 are wanted"));
    assert!(faults_of(&format!("{header}{header}{ends}")).contains("more than once: a.rs:3, a.rs:6"));
    assert!(faults_of(ends).contains("[sent] is cited and not declared: a.rs:1, a.rs:2"));
    assert!(faults_of(&format!("{header}{ends}// by [se\n// nt]")).contains("a.rs:6: a name is spread"));
    let invariant = header.replace("Ordering", "Invariants");
    assert_eq!(faults_of(&format!("{invariant}x(); // [sent]")), "");
    for none in
        ["let x = a[i];", "x; // `a[i]` of b[j]", "/// [guide](x) and [`sent`]", "\"// [no]\"", "// [u8; 4]"]
    {
        assert_eq!(faults_of(none), "", "{none}");
    }
}
