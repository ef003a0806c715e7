//! The options of `shmtool doctor`, and its help.

use clap::builder::ValueHint;
use std::path::PathBuf;

const HELP: &str = "\
doctor reads files of /proc, /sys, /dev and /etc, asks the kernel for the room
in /dev/shm, and tries the system calls that a server makes, each in a way
that does no harm. It changes nothing: it prints the commands that would. What
it cannot read is unknown; so is, with --root, what only a kernel that runs
knows. Run it where the server will run, in its container
and as its user.

Exit status:
  0  nothing will hurt; there may be notes
  1  at least one warning

JSON:
  root              the directory under which the host's files were read
  findings          one entry a check:
    check           its name
    level           warning (it will hurt), note (it may), unknown, fine
    saw             the value (null: unknown)
    why             what it means for a server
    mend            a command that mends it, or shows more (null: none)

Examples:
  shmtool doctor
  shmtool doctor --json | jq '.findings[] | select(.level == \"warning\")'
  docker run --rm IMAGE shmtool doctor";

/// The options of `doctor`.
#[derive(Debug, clap::Args)]
#[command(after_long_help = HELP)]
pub(crate) struct DoctorArgs {
    /// Read copies of a host's files under this directory.
    #[arg(long, value_name = "DIR", default_value = "/", value_hint = ValueHint::DirPath)]
    pub(crate) root: PathBuf,
}
