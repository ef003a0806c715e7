//! The options of `shmtool clean`, and its help.

const HELP: &str = "\
clean removes a segment only if its lease is free: the kernel frees the lease
when the server ends in any way. It leaves alone segments of live servers,
files that are no segments, symbolic links and other users' segments. Of an
anonymous segment there is nothing to clean: it is skipped if you name it.

Exit status:
  0  fine
  1  a segment that you named was left alone
  2  a segment that you named does not exist, or the system refused to remove
     one

JSON:
  dry_run           whether this was a dry run
  segments          each with name, path, bytes, reason, and
  outcome           removed, would_remove, live, foreign, skipped, missing,
                    failed

Examples:
  shmtool clean --dry-run      what clean would remove
  shmtool clean                remove all stale named segments
  shmtool clean digits ./seg   only these, if they are stale";

/// The options of `clean`.
#[derive(Debug, clap::Args)]
#[command(after_long_help = HELP)]
pub(crate) struct CleanArgs {
    /// Only say what clean would remove.
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Names or paths of segments; none means all named segments.
    #[arg(value_name = "NAME")]
    pub(crate) names: Vec<String>,
}
