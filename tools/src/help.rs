//! Help texts in lines of 80 columns.

/// Where the explanations of a command's JSON begin.
const INDENT: usize = 20;
const COLUMNS: usize = 80;

/// A help text behind the name of a field, in lines of 80 columns.
pub(crate) fn wrapped(name: &str, help: &str) -> String {
    let mut lines = vec![name.to_string()];
    for word in help.split(' ') {
        let line = lines.last_mut().expect("there is one");
        match line.chars().count() + word.chars().count() < COLUMNS {
            true if line.ends_with(' ') => line.push_str(word),
            true => *line += &format!(" {word}"),
            false => lines.push(format!("{:INDENT$}{word}", "")),
        }
    }
    lines.join("\n")
}

/// Names one after another, in lines that stand where explanations do.
pub(crate) fn listed(names: impl Iterator<Item = &'static str>) -> String {
    const ROOM: usize = 50;
    let text = names.collect::<Vec<_>>().join(", ");
    let mut lines = vec![String::new()];
    for word in text.split_inclusive(' ') {
        let line = lines.last_mut().expect("there is one");
        match line.len() + word.trim_end().len() > ROOM {
            true => lines.push(word.into()),
            false => line.push_str(word),
        }
    }
    let lines: Vec<_> = lines.iter().map(|line| line.trim_end()).collect();
    lines.join(&format!("\n{:INDENT$}", ""))
}
