//! The options of `shmtool check`, and its help.

use crate::values::SegmentArg;

const HELP: &str = "\
check changes nothing and may run while participants work: it looks several
times, and reports a problem of a live segment only if every look shows the
same.

Exit status:
  0  consistent
  1  problems, which are printed
  2  shmtool could not check the segment

JSON:
  name, path, state   as for list
  consistent          true if there are no problems
  problems            each with kind, message, and the numbers of its kind:
                      task, word, state, request, pending |
                      node, position, id, lap, token | class, block, owner

Examples:
  shmtool check digits
  shmtool check digits --json | jq '.problems[].message'";

/// The options of `check`.
#[derive(Debug, clap::Args)]
#[command(after_long_help = HELP)]
pub(crate) struct CheckArgs {
    #[command(flatten)]
    pub(crate) segment: SegmentArg,
}
