//! The options of `shmtool list`, and its help.

const HELP: &str = "\
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
  work              what it does (null: it cannot be read):
    workers, workers_ready
                    threads of workers that there are, and that are ready
    capacity, in_progress
                    requests that can be, and that are
    requests_ended, requests_per_s
                    since the start
  stopped           whether the server's process is, by a signal or a debugger
                    (null: it is not live, or cannot be seen from here)
  note              why the state is not live, or what is missing
An unknown value is null.

Examples:
  shmtool list
  shmtool list --json | jq -r '.segments[] | select(.state == \"stale\") | .name'";

/// The options of `list`.
#[derive(Debug, clap::Args)]
#[command(after_long_help = HELP)]
pub(crate) struct ListArgs {}
