//! The `tracing` events of the engine: docs/operating.md has each target with its levels and fields.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Fields by target and level.
type Events = BTreeMap<(String, String), BTreeSet<String>>;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace").into()
}

/// The arguments of a macro's call, up to the message: what stands before the first quotation mark that no parenthesis is
/// around.
fn fields(arguments: &str) -> BTreeSet<String> {
    let (mut depth, mut quoted, mut parts) = (0, false, vec![String::new()]);
    for c in arguments.chars() {
        match c {
            '"' if depth == 0 => break,
            '"' => quoted = !quoted,
            '(' if !quoted => depth += 1,
            ')' if !quoted && depth == 0 => break,
            ')' if !quoted => depth -= 1,
            ',' if depth == 0 => parts.push(String::new()),
            c => parts.last_mut().expect("there is one").push(c),
        }
    }
    let name =
        |part: &String| part.split('=').next().unwrap_or("").trim().trim_start_matches(['?', '%']).to_owned();
    parts.iter().map(name).filter(|name| !name.is_empty() && !name.contains(':')).collect()
}

fn read(directory: &Path, module: &str, events: &mut Events) {
    for entry in fs::read_dir(directory).expect("a directory of sources") {
        let path = entry.expect("an entry").path();
        let name = path.file_stem().expect("a name").to_string_lossy().into_owned();
        let module = if ["mod", "lib"].contains(&name.as_str()) {
            module.to_owned()
        } else {
            format!("{module}::{name}")
        };
        if path.is_dir() {
            read(&path, &module, events);
            continue;
        }
        let source = fs::read_to_string(&path).expect("a source");
        let code: String =
            source.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n");
        for level in ["error", "warn", "info", "debug", "trace"] {
            for (at, call) in code.match_indices(&format!("tracing::{level}!(")) {
                let arguments = &code[at + call.len()..];
                let target = if arguments.trim_start().starts_with("target: TARGET") {
                    "ringmill::worker"
                } else {
                    &module
                };
                events.entry((target.to_owned(), level.to_owned())).or_default().extend(fields(arguments));
            }
        }
    }
}

/// The rows of the table: target, level, fields.
fn documented() -> Events {
    let text = fs::read_to_string(root().join("docs/operating.md")).expect("the document");
    let rows = text.lines().filter(|line| line.starts_with("| `ringmill::"));
    let row = |line: &str| {
        let cells: Vec<_> = line.split('|').map(str::trim).collect();
        let names = |cell: &str| cell.split('`').skip(1).step_by(2).map(str::to_owned).collect::<Vec<_>>();
        ((names(cells[1])[0].clone(), cells[2].to_owned()), names(cells[3]).into_iter().collect())
    };
    rows.map(row).collect()
}

#[test]
fn each_event_is_documented_with_its_target_its_level_and_its_fields() {
    let mut events = Events::new();
    read(&root().join("engine/src"), "ringmill", &mut events);
    // Forwarded events are emitted at the levels that they had.
    let documented = documented();
    let known: Events = documented.into_iter().filter(|((_, level), _)| level != "any").collect();
    assert!(events.len() > 10, "{events:?}");
    let row = |((target, level), fields): (&(String, String), &BTreeSet<String>)| {
        let fields: Vec<_> = fields.iter().map(|field| format!("`{field}`")).collect();
        format!("| `{target}` | {level} | {} |", fields.join(", "))
    };
    let missing: Vec<_> =
        events.iter().filter(|(key, fields)| known.get(*key) != Some(*fields)).map(row).collect();
    let stale: Vec<_> = known.iter().filter(|(key, _)| !events.contains_key(*key)).map(row).collect();
    assert!(
        missing.is_empty() && stale.is_empty(),
        "docs/operating.md, the table of events: these rows are missing, or have other fields:\n{}\nthese are of no event:\n{}",
        missing.join("\n"),
        stale.join("\n")
    );
}
