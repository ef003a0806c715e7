//! The options of `shmtool completions` and `shmtool man`, and their help.

use crate::values::file;
use clap::builder::ValueHint;
use clap_complete::Shell;
use std::path::PathBuf;

const COMPLETIONS_HELP: &str = "\
The script goes to standard output. Where shells look for it:
  bash   ~/.local/share/bash-completion/completions/shmtool
  zsh    a file _shmtool in a directory of $fpath
  fish   ~/.config/fish/completions/shmtool.fish

JSON:
  shell, script

Examples:
  shmtool completions fish > ~/.config/fish/completions/shmtool.fish
  source <(shmtool completions bash)";

const MAN_HELP: &str = "\
There is a page for shmtool and one for each command: shmtool.1,
shmtool-show.1 and so on.

JSON:
  pages             the files that were written

Examples:
  shmtool man ~/.local/share/man/man1
  man shmtool-show";

/// The options of `completions`.
#[derive(Debug, clap::Args)]
#[command(after_long_help = COMPLETIONS_HELP)]
pub(crate) struct CompletionsArgs {
    /// The shell.
    pub(crate) shell: Shell,
}

/// The options of `man`.
#[derive(Debug, clap::Args)]
#[command(after_long_help = MAN_HELP)]
pub(crate) struct ManArgs {
    /// The directory; it is made if there is none.
    #[arg(value_name = "DIR", value_parser = file(), value_hint = ValueHint::DirPath)]
    pub(crate) directory: PathBuf,
}
