//! What belongs to the program and is made from its command line: completions for shells, and man pages.

pub(crate) mod args;

use crate::args::command;
use crate::error::ToolError;
use crate::output::{Page, Report};
use clap_complete::Shell;
use ringmill_shm::text::shown_path;
use serde::Serialize;
use std::path::Path;

/// The heading of what stands last in `--help`, and what it becomes: lines that stay as they are.
const EXTRA: &str = ".SH EXTRA\n";
const DETAILS: &str = ".SH DETAILS\n.nf\n";

/// The completions for one shell.
#[derive(Debug, Serialize)]
pub(crate) struct Completions {
    shell: String,
    script: String,
}

/// Makes them.
pub(crate) fn completions(shell: Shell) -> Completions {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut command(), "shmtool", &mut script);
    Completions { shell: shell.to_string(), script: String::from_utf8_lossy(&script).into_owned() }
}

impl Report for Completions {
    fn text(&self, _: Page) -> String {
        self.script.clone()
    }
}

/// The man pages that were written.
#[derive(Debug, Serialize)]
pub(crate) struct ManPages {
    pages: Vec<String>,
}

/// Writes a man page for the program, and one for each command.
pub(crate) fn man(directory: &Path) -> Result<ManPages, ToolError> {
    let system = |what, path: &Path, error| ToolError::System { what, path: path.into(), error };
    std::fs::create_dir_all(directory).map_err(|error| system("make the directory", directory, error))?;
    let mut program = command().disable_help_subcommand(true);
    program.build(); // so that commands have the program's options, and its name before theirs
    let mut pages = Vec::new();
    let commands: Vec<_> = program.get_subcommands().cloned().collect();
    for command in std::iter::once(program).chain(commands) {
        let title = command.get_display_name().unwrap_or("shmtool").to_owned();
        let source = concat!("shmtool ", env!("CARGO_PKG_VERSION"));
        let man = clap_mangen::Man::new(command).title(title).source(source);
        let path = directory.join(man.get_filename());
        let mut page = Vec::new();
        man.render(&mut page).map_err(|error| system("make", &path, error))?;
        let page = String::from_utf8_lossy(&page).replace(EXTRA, DETAILS);
        std::fs::write(&path, page).map_err(|error| system("write", &path, error))?;
        pages.push(shown_path(&path));
    }
    Ok(ManPages { pages })
}

impl Report for ManPages {
    fn text(&self, _: Page) -> String {
        self.pages.iter().map(|page| format!("{page}\n")).collect()
    }
}
