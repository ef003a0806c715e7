//! The command line and its help.

use clap::{Parser, Subcommand};
use ringmill_shm::stats::Counter;
use ringmill_shm::word::Phase;

const EXAMPLES: &str = "\
Examples:
  shmtool list                 which segments there are, and whose server has died
  shmtool show digits          nodes, workers and requests of the server 'digits'
  shmtool show ./run/digits    the same for a segment that lies in a file
  shmtool check digits         exit status 0 if it is consistent
  shmtool clean --dry-run      what 'shmtool clean' would remove

Exit status: 0 fine; 1 the report says that something is wrong; 2 wrong usage, no such segment,
or another error, told in one line on standard error.";

const LIST_HELP: &str = "\
States:
  live      its server lives
  stale     its server has died; 'shmtool clean' removes it
  foreign   has a segment's name but is no segment; nobody touches it
  unknown   it cannot be told, the note says why (another user's, for example)

Segments in files of their own are not found by list: give their path to show, check or clean.

JSON: {\"segments\": [...]}, ordered by name, each with
  name, path        what the other commands take; the file
  state             live, stale, foreign, unknown
  run               what the server last said: creating, running, stopping, closed
  bytes             size of the file
  created_unix_s    when it was made, seconds since 1970
  age_s             the same, seconds ago
  user_id, user     whose file it is
  server_pid        the server's process (of a stale segment: that it had)
  note              what else there is to say
What is not known is null.

Examples:
  shmtool list
  shmtool list --json | jq -r '.segments[] | select(.state == \"stale\") | .name'";

const SHOW_HELP: &str = "\
The segment is read while its participants work: numbers that belong together are of almost the same
moment, not of exactly the same. Depth and phases are a glance, counters are since the server's start.

JSON:
  name, path, state, run, bytes, created_unix_s, age_s, user_id, user   as for list
  server            pid, alive
  layout_version    of the library that made it
  fingerprint       of all fields, sizes and offsets, in hexadecimal
  capacity          requests that can be in progress
  tasks_per_request
  inline_bytes, largest_payload_bytes   what needs no block; the most that fits
  requests          by phase: {phases}
  nodes             index, name, worker_type, batch_size (0: item by item), batch_wait_ns,
                    log_batches_every (0: never),
                    next (by name; null: the end, where a request goes to its caller and a branch
                    of an ensemble to where it is joined),
                    ring: depth, cells;
                    lock_holder (null: nobody): participant, worker, pid, alive;
                    on_death (fail, retry or bisect: what becomes of a dead worker's items),
                    down (why its circuit is open; null: it is not),
                    threads (of each worker), sleeping: who sleeps, by number within the node
                    (worker * threads + thread)
  ensembles         name, members (where each begins), fail_fast, next (as for nodes)
  switches          name, members
  workers           one entry a thread: node, worker, thread, participant, state (vacant, starting,
                    ready, failed, leaving, dead), alive (its lease is held), role (process_worker,
                    thread_worker), pid, restarts, in_call (user code is at work), cpus ([]: not
                    pinned), message (why it failed),
                    counters, since the server's start:
{counters}
  blocks            block_bytes, in_use, count; one entry a size class

Examples:
  shmtool show digits
  shmtool show digits --json | jq '.nodes[] | {name, depth: .ring.depth}'";

fn show_help() -> String {
    let line = |name, help| format!("                      {name:<16}{help}");
    let mut counters: Vec<_> =
        Counter::ALL.map(|counter| line(counter.words().name, counter.words().help)).to_vec();
    counters.push(line("batch_mean", "Items a batch; 0 before the first."));
    let phases = Phase::ALL.map(Phase::name).join(", ");
    SHOW_HELP.replace("{phases}", &phases).replace("{counters}", &counters.join("\n"))
}

const CHECK_HELP: &str = "\
It changes nothing and may run while everybody works: what it reports of a live segment was seen,
unchanged, in several looks in a row.

Exit status: 0 consistent; 1 problems, which are printed; 2 it could not be checked.

JSON:
  name, path, state   as for list
  consistent          true if there are no problems
  problems            each with kind, message, and the numbers that go with its kind:
                      task, word, state, request, pending | node, position, id, lap, token |
                      class, block, owner

Examples:
  shmtool check digits
  shmtool check digits --json | jq '.problems[].message'";

const CLEAN_HELP: &str = "\
A segment is removed only if its lease is free, which the kernel sees to when its server ends in any
way. Segments of live servers, files that are no segments, symbolic links and other users' segments
are left alone.

Exit status: 0 fine; 1 a segment that was named was left alone; 2 a segment that was named does not
exist, or the system refused to remove one.

JSON:
  dry_run           whether this was a rehearsal
  segments          each with name, path, bytes, reason, and
  outcome           removed, would_remove, live, foreign, skipped, missing, failed

Examples:
  shmtool clean --dry-run      what would go
  shmtool clean                remove all stale named segments
  shmtool clean digits ./seg   only these, if they are stale";

/// Look at ringmill segments: list, show, check, clean.
#[derive(Debug, Parser)]
#[command(name = "shmtool", version, after_help = EXAMPLES, arg_required_else_help = true)]
pub(crate) struct Args {
    /// Print one JSON document instead of text; --help of each command lists its fields.
    #[arg(long, global = true)]
    pub(crate) json: bool,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// List the named segments of this machine, live and stale.
    #[command(after_long_help = LIST_HELP)]
    List,
    /// Show what is going on in a segment: nodes, workers, requests, payload blocks.
    #[command(after_long_help = show_help())]
    Show {
        /// The segment's name, or its path if it has a slash.
        name: String,
    },
    /// Check whether a segment is consistent.
    #[command(after_long_help = CHECK_HELP)]
    Check {
        /// The segment's name, or its path if it has a slash.
        name: String,
    },
    /// Remove segments whose server has died.
    #[command(after_long_help = CLEAN_HELP)]
    Clean {
        /// Only say what would be removed.
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
    fn json_may_stand_anywhere() {
        for line in [["shmtool", "--json", "list"], ["shmtool", "list", "--json"]] {
            assert!(Args::parse_from(line).json);
        }
    }
}
