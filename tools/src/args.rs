//! The command line and its help.

use clap::{Parser, Subcommand};
use ringmill_shm::stats::Counter;
use ringmill_shm::word::Phase;

const EXAMPLES: &str = "\
Examples:
  shmtool list                 all segments, live and stale
  shmtool show digits          nodes, workers, requests of the server 'digits'
  shmtool show ./run/digits    the same for a segment in a file of your own
  shmtool show digits@4711     the same for the anonymous segment 'digits' of
                               process 4711
  shmtool check digits         exit status 0 if the segment is consistent
  shmtool clean --dry-run      what 'shmtool clean' would remove

Exit status:
  0  fine
  1  the report says that something is wrong
  2  wrong usage, no such segment, or another error; one line on standard
     error says which";

const LIST_HELP: &str = "\
States:
  live      its server lives
  stale     its server has died; 'shmtool clean' removes the segment
  foreign   it has a segment's name but is no segment; shmtool leaves it alone
  unknown   shmtool cannot read it (another user's, for example); the note
            says why

list does not find segments in files of your own: give their path to show,
check or clean. It finds anonymous segments in the processes of its user, or,
for root, of all users. Their name is LABEL@PID, with the server's process, or
with another one that has the segment if the server cannot be looked into;
where that process has several of one label, LABEL@PID:NUMBER.

JSON: {\"segments\": [...]}, named ones first, by name, each with
  name, path        the argument of the other commands; the file, or, of an
                    anonymous segment, what /proc/PID/fd shows
  state             live, stale, foreign, unknown
  run               the server's last report: creating, running, draining,
                    stopping, closed
  bytes             size of the file
  created_unix_s    when the server created it, seconds since 1970
  age_s             how many seconds ago that was
  user_id, user     the file's owner
  server_pid        the server's process; of a stale segment, its last one
  note              why the state is not live, or what is missing
An unknown value is null.

Examples:
  shmtool list
  shmtool list --json | jq -r '.segments[] | select(.state == \"stale\") | .name'";

const SHOW_HELP: &str = "\
shmtool reads the segment while its participants work, so numbers that belong
together are from almost, not exactly, the same moment. Depth and phases are
of this moment; counters are since the server's start.

JSON:
  name, path, state, run, bytes, created_unix_s, age_s, user_id, user
                    as for list
  server            pid, alive
  layout_version    of the library that made it
  fingerprint       of all fields, sizes and offsets, in hexadecimal
  capacity          requests that can be in progress
  tasks_per_request
  inline_bytes      the largest payload that needs no block
  largest_payload_bytes
  requests          count by phase:
                    {phases}
  nodes             index, name, worker_type, batch_size (0: item by item),
                    batch_wait_ns, wait_is_stated (false: only while waiting
                    can pay), log_batches_every (0: never),
                    next (a name; null: the end, where a request goes to its
                    caller and a branch of an ensemble to its join),
                    ring: depth, cells;
                    lock_holder (null: the lock is free): participant, worker,
                    pid, alive;
                    on_death (fail, retry or bisect: what happens to a dead
                    worker's items),
                    down (why its circuit is open; null: it is closed),
                    threads (of each worker),
                    sleeping (workers' threads that sleep, by number within
                    the node: worker * threads + thread)
  ensembles         name, members (where each begins), fail_fast,
                    next (as for nodes)
  switches          name, members
  workers           one entry a thread: node, worker, thread, participant,
                    state (vacant, starting, ready, failed, leaving, dead),
                    state_s (seconds since then; null: vacant),
                    alive (its lease is held),
                    role (process_worker, thread_worker), pid, restarts,
                    in_call (user code is running), cpus ([]: not pinned),
                    message (why it failed),
                    counters, since the server's start:
{counters}
  blocks            block_bytes, in_use, count; one entry a size class

Examples:
  shmtool show digits
  shmtool show digits --json | jq '.nodes[] | {name, depth: .ring.depth}'";

fn show_help() -> String {
    let line = |name, help| format!("  {name:<16}{help}");
    let mut counters: Vec<_> =
        Counter::ALL.map(|counter| line(counter.words().name, counter.words().help)).to_vec();
    counters.push(line("batch_mean", "Items a batch; 0 before the first."));
    let phases = Phase::ALL.map(Phase::name).join(", ");
    SHOW_HELP.replace("{phases}", &phases).replace("{counters}", &counters.join("\n"))
}

const CHECK_HELP: &str = "\
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

const CLEAN_HELP: &str = "\
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

/// Inspect ringmill segments: list, show, check, clean.
#[derive(Debug, Parser)]
#[command(name = "shmtool", version, after_help = EXAMPLES, arg_required_else_help = true)]
pub(crate) struct Args {
    /// Print JSON; each command's --help lists the fields.
    #[arg(long, global = true)]
    pub(crate) json: bool,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// The command.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// List the segments of this machine, live and stale.
    #[command(after_long_help = LIST_HELP)]
    List,
    /// Show a segment's nodes, workers, requests and payload blocks.
    #[command(after_long_help = show_help())]
    Show {
        /// Its name; its path, if it has a slash; LABEL@PID, if it is anonymous.
        name: String,
    },
    /// Check whether a segment is consistent.
    #[command(after_long_help = CHECK_HELP)]
    Check {
        /// Its name; its path, if it has a slash; LABEL@PID, if it is anonymous.
        name: String,
    },
    /// Remove segments whose server has died.
    #[command(after_long_help = CLEAN_HELP)]
    Clean {
        /// Only say what clean would remove.
        #[arg(long)]
        dry_run: bool,
        /// Names or paths of segments; none means all named segments.
        #[arg(value_name = "NAME")]
        names: Vec<String>,
    },
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_well_formed() {
        Args::command().debug_assert();
    }

    #[test]
    fn json_may_stand_before_or_after_the_command() {
        for line in [["shmtool", "--json", "list"], ["shmtool", "list", "--json"]] {
            assert!(Args::parse_from(line).json);
        }
    }
}
