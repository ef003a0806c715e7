//! The documents are true: their programs, commands, links and paths exist.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace")
}

pub(crate) fn text(path: impl AsRef<Path>) -> String {
    let path = path.as_ref();
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// The names in a folder.
pub(crate) fn names(folder: &str) -> Vec<String> {
    let entries = std::fs::read_dir(root().join(folder)).unwrap_or_else(|e| panic!("{folder}: {e}"));
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

/// The documents, by their paths; not the guide, which rustdoc checks.
fn documents() -> Vec<PathBuf> {
    let of = |folder: &str| {
        let paths = names(folder).into_iter().map(|name| Path::new(folder).join(name));
        paths.filter(|path| path.extension().is_some_and(|extension| extension == "md")).collect::<Vec<_>>()
    };
    ["", "docs", "data"].into_iter().flat_map(of).collect()
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
fn the_files_that_operators_copy_are_those_shown() {
    let document = text("docs/operating.md");
    for (language, file) in
        [("ini", "digits.service"), ("dockerfile", "Dockerfile"), ("yaml", "compose.yaml")]
    {
        let shown = blocks(&document, language);
        assert_eq!(shown, [text(Path::new("docs/operating").join(file)).trim()], "docs/operating/{file}");
    }
    assert_eq!(names("docs/operating").len(), 3, "docs/operating.md does not show each file");
}

/// The commands of a script of CI, each as its words: without comments, and without what becomes of their outcome or output.
fn commands(script: &str) -> Vec<Vec<&str>> {
    let words = |line| -> Vec<&str> {
        let words = str::split_whitespace(line).skip_while(|word| *word == ".ci/built");
        words.take_while(|word| !["||", "|", ">", "#"].contains(word)).collect()
    };
    script.lines().map(words).filter(|words| !words.is_empty()).collect()
}

/// Whether a command of CI runs the command of a document, with all its arguments. CI may set variables in front, and add
/// options by which a program runs for a shorter time.
fn runs(ci: &[&str], shown: &[&str]) -> bool {
    let is_variable = |word: &&&str| {
        let name = word.split_once('=').map(|(name, _)| name);
        name.is_some_and(|name| !name.is_empty() && name.bytes().all(|b| b.is_ascii_uppercase() || b == b'_'))
    };
    let variables = ci.iter().take_while(is_variable).count();
    let rest = [0, variables].into_iter().find_map(|skipped| ci[skipped..].strip_prefix(shown));
    let Some(rest) = rest else { return false };
    let rest = rest.strip_prefix(&["--"]).filter(|_| !shown.contains(&"--")).unwrap_or(rest);
    rest.chunks(2).all(|pair| matches!(pair, ["--rounds" | "--job", _]))
}

#[test]
fn a_command_is_compared_whole() {
    let ci = |line| -> Vec<Vec<&str>> { commands(line) };
    for (line, shown) in [
        ("cargo test --workspace", "cargo test --workspace"),
        (".ci/built cargo run --bin a -- --job b --rounds 1 || [ $? -eq 3 ]", "cargo run --bin a -- --job b"),
        (".ci/built cargo run --bin a -- --job b --rounds 1", "cargo run --bin a"),
        ("A=1 cargo test -p a", "cargo test -p a"),
        ("A=1 cargo test -p a", "A=1 cargo test -p a"),
        (".ci/spin # if it is there", ".ci/spin"),
    ] {
        assert!(ci(line).iter().any(|line| runs(line, &ci(shown)[0])), "{line}: {shown}");
    }
    for (line, shown) in [
        ("cargo test --workspace", "cargo test --work"),
        ("cargo test --workspace", "cargo test"),
        ("cargo test --workspace", "test --workspace"),
        ("cargo run --bin a -- --job b --rounds 1", "cargo run --bin a -- --job"),
        ("cargo run --bin a -- --kills 1", "cargo run --bin a"),
        ("cargo test -p a", "A=1 cargo test -p a"),
        ("# cargo test", "cargo test"),
    ] {
        assert!(!ci(line).iter().any(|line| runs(line, &ci(shown)[0])), "{line}: {shown}");
    }
}

#[test]
fn every_command_shown_is_one_that_ci_runs() {
    let scripts =
        [".ci/run", ".ci/other-builds", ".ci/python", ".ci/shmtool-beside-digits"].map(text).join("\n");
    // A command may be spread over several lines, here and there.
    let joined = |text: String| text.replace(" \\\n", " ");
    let scripts = joined(scripts);
    let ci = commands(&scripts);
    for document in documents() {
        let blocks = joined(blocks(&text(&document), "sh").join("\n"));
        for command in commands(&blocks) {
            let is_run = ci.iter().any(|line| runs(line, &command));
            let (document, command) = (document.display(), command.join(" "));
            assert!(is_run, "{document} shows a command that CI does not run: {command}");
        }
    }
}

/// A document without its fenced blocks.
fn prose(document: &str) -> String {
    document.split("```").step_by(2).collect()
}

/// The anchors that a document's headings get where it is shown.
fn anchors(document: &str) -> BTreeSet<String> {
    let text = prose(document);
    let headings = text.lines().filter_map(|line| line.strip_prefix('#'));
    let anchor = |heading: &str| {
        let kept = heading.trim_start_matches('#').trim().chars();
        let kept = kept.filter(|c| c.is_alphanumeric() || [' ', '-', '_'].contains(c));
        kept.collect::<String>().to_lowercase().replace(' ', "-")
    };
    headings.map(anchor).collect()
}

/// The targets of a document's links, except those to other sites.
fn links(document: &str) -> Vec<String> {
    let text: String = prose(document).split('`').step_by(2).collect();
    let targets = text.split("](").skip(1).filter_map(|rest| rest.split(')').next());
    targets.filter(|target| !target.contains("://")).map(str::to_string).collect()
}

#[test]
fn every_link_leads_somewhere() {
    let mut seen = 0;
    for document in documents() {
        for link in links(&text(&document)) {
            let shown = format!("{}: {link}", document.display());
            let (path, anchor) = link.split_once('#').unwrap_or((&link, ""));
            let target = match path {
                "" => document.clone(),
                _ => document.parent().unwrap().join(path),
            };
            assert!(root().join(&target).exists(), "{shown}: there is no such file");
            let leads = anchor.is_empty() || anchors(&text(&target)).contains(anchor);
            assert!(leads, "{shown}: there is no such heading");
            seen += 1;
        }
    }
    assert!(seen > 40, "only {seen} links were found");
}

/// The paths from the workspace's root that a text names as code.
fn paths(text: &str) -> impl Iterator<Item = &str> {
    let spans = text.lines().flat_map(|line| line.split('`').skip(1).step_by(2));
    let folders = ["bench", "data", "docs", "engine", "examples", "shm", "tests", "tools"];
    spans.filter(move |span| {
        let first = span.split_once('/').map(|(first, _)| first);
        first.is_some_and(|first| folders.contains(&first)) && !span.contains([' ', '…', '*', '<'])
    })
}

/// The sources below these folders: Rust, and models.
fn sources<const N: usize>(folders: [&str; N]) -> Vec<PathBuf> {
    fn add(folder: &Path, found: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(root().join(folder)).unwrap() {
            let path = folder.join(entry.unwrap().file_name());
            let kind = path.extension().and_then(|extension| extension.to_str());
            match root().join(&path).is_dir() {
                true if !path.ends_with("target") => add(&path, found),
                false if ["rs", "pml"].contains(&kind.unwrap_or("")) => found.push(path),
                _ => {}
            }
        }
    }
    let mut found = Vec::new();
    folders.into_iter().for_each(|folder| add(Path::new(folder), &mut found));
    found
}

#[test]
fn every_path_named_exists() {
    let mut files = documents();
    files.extend(sources(["bench", "engine", "examples", "shm", "tests", "tools"]));
    // The changelog may name files that have gone.
    files.retain(|file| file != Path::new("CHANGELOG.md"));
    let mut seen = 0;
    for file in files {
        let text = text(&file);
        for path in paths(&text) {
            assert!(root().join(path).exists(), "{} names {path}, which does not exist", file.display());
            seen += 1;
        }
    }
    assert!(seen > 100, "only {seen} paths were found");
}

#[test]
fn the_map_is_short_and_names_every_module() {
    let map = text("ARCHITECTURE.md");
    let lines = map.lines().count();
    assert!(lines <= 200, "ARCHITECTURE.md has {lines} lines; at most 200 can be read in one go");
    for folder in ["shm/src", "engine/src"] {
        for name in names(folder).iter().filter(|name| *name != "lib.rs") {
            let module = match name.strip_suffix(".rs") {
                Some(module) => format!("`{module}`"),
                None => format!("`{name}/`"),
            };
            assert!(map.contains(&module), "ARCHITECTURE.md does not say what {module} of {folder} is");
        }
    }
}

/// The names that a text gives to `Server::builder` as they are.
fn stated_names(text: &str) -> impl Iterator<Item = &str> {
    const BUILDER: &str = concat!("Server::", "builder("); // not one of this file's
    let rests = text.split(BUILDER).skip(1);
    rests.filter_map(|rest| rest.trim_start().strip_prefix('"')?.split('"').next())
}

/// Two servers of one name cannot run at once: tests take fresh names, and the engine's examples, which one program runs side
/// by side, have a name each.
#[test]
fn no_two_tests_use_one_name_of_a_server() {
    let mut named = BTreeSet::new();
    for file in sources(["engine"]) {
        let text = text(&file);
        for name in stated_names(&text) {
            assert!(named.insert(name.to_owned()), "{}: another example has a server {name}", file.display());
        }
    }
    assert!(named.len() > 8, "{named:?}");
    for file in sources(["tests", "tools", "bench"]) {
        let text = text(&file);
        let name = stated_names(&text).next();
        assert_eq!(name, None, "{}: ringmill_tests::fresh_name makes a name of its own", file.display());
    }
}
