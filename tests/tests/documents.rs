//! What the documents show is what there is.

use std::path::Path;

fn text(path: &str) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace");
    std::fs::read_to_string(root.join(path)).unwrap_or_else(|e| panic!("{path}: {e}"))
}

/// The fenced blocks of one language.
fn blocks(document: &str, language: &str) -> Vec<String> {
    let fence = format!("```{language}\n");
    let parts = document.split(&fence).skip(1);
    parts.map(|part| part.split("```").next().unwrap_or_default().trim().to_string()).collect()
}

#[test]
fn the_shortest_program_is_the_example_and_short() {
    let shown = blocks(&text("README.md"), "rust");
    let example = text("examples/hello.rs");
    assert_eq!(shown.len(), 1);
    assert!(example.trim().ends_with(shown[0].as_str()), "README.md and examples/hello.rs differ");
    assert!(shown[0].lines().count() <= 40);
}

#[test]
fn every_command_shown_is_one_that_ci_runs() {
    let ci = text(".ci/run") + &text(".ci/shmtool-beside-digits");
    // A command that CI spreads over lines is the same command.
    let ci = ci.replace(" \\\n  ", " ");
    for document in ["README.md", "CONTRIBUTING.md", "PROOF.md", "SECURITY.md", "TUNING.md"] {
        for command in blocks(&text(document), "sh").iter().flat_map(|block| block.lines()) {
            assert!(ci.contains(command), "{document} shows a command that CI does not run: {command}");
        }
    }
}
