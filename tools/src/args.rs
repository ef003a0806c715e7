//! The command line and its help.

#[cfg(feature = "bench")]
use crate::bench::{
    levels::Range,
    load::{Level, Spacing},
};
use crate::requests::Choice;
use crate::trace;
use clap::builder::{PossibleValuesParser, TypedValueParser, ValueHint};
use clap::{Parser, Subcommand};
use clap_complete::Shell;
use ringmill_shm::stats::{CallerCounter, CallerHistogram, Counter, ServerCounter, WorkerHistogram};
use ringmill_shm::trace::{HopEnd, RequestEnd};
use ringmill_shm::word::Phase;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

const EXAMPLES: &str = "\
Examples:
  shmtool list                 all segments, live and stale
  shmtool show digits          nodes, workers, requests of the server 'digits'
  shmtool show ./run/digits    the same for a segment in a file of your own
  shmtool show digits@4711     the same for the anonymous segment 'digits' of
                               process 4711
  shmtool requests digits      the requests in progress, where each is
  shmtool stats digits         how fast it is: rates, times, batches
  shmtool top digits           the same on the whole screen, live
  shmtool record digits -o digits.jsonl
                               the same over time, in a file
  shmtool report digits.jsonl -o digits.html
                               as a page of pictures
  shmtool trace digits         where the time of the last requests went
  shmtool bench --demo         how much load this host's server takes
  shmtool check digits         exit status 0 if the segment is consistent
  shmtool scale digits tag 4   four workers of its servlet 'tag'
  shmtool doctor               what of this host will hurt a server
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
  work              what it does (null: it cannot be read):
    workers, workers_ready
                    threads of workers
    capacity, in_progress
                    requests that can be, and that are
    requests_ended, requests_per_s
                    since the start
  note              why the state is not live, or what is missing
An unknown value is null.

Examples:
  shmtool list
  shmtool list --json | jq -r '.segments[] | select(.state == \"stale\") | .name'";

const SHOW_HELP: &str = "\
The plan is a tree: what follows a servlet stands below it, and the members of
an ensemble (fail-fast, or keeps errors) or a switch stand further in.

shmtool reads the segment while its participants work, so numbers that belong
together are from almost, not exactly, the same moment. Depth and phases are
of this moment; counters are since the server's start.

JSON:
  name, path, state, run, bytes, created_unix_s, age_s, user_id, user
                    as for list
  server            pid, alive, stopped (by a signal or a debugger; null: its
                    process cannot be seen from here)
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
                    ring: depth, cells, oldest_s (how long the oldest has been
                    queued; null: no clock was read, as where no batch waits);
                    lock_holder (null: the lock is free): participant, worker,
                    pid, alive, stopped, held_time (at_least_s, at_most_s: for
                    how long it holds the lock, or at least has taken no
                    batch, as far as the server has looked; null: unknown);
                    on_death (fail, retry or bisect: what happens to a dead
                    worker's items),
                    down (why its circuit is open; null: it is closed),
                    threads (of each worker),
                    sleeping (workers' threads that sleep, by number within
                    the node: worker * threads + thread)
  ensembles         name, members (where each begins), fail_fast,
                    next (as for nodes)
  switches          name, members,
                    chooser (the index of the node whose workers choose; null:
                    the participant that moves the item chooses)
  workers           one entry a thread: node, worker, thread, participant,
                    state (vacant, starting, ready, failed, leaving, dead),
                    state_s (seconds since then; null: vacant),
                    alive (its lease is held), stopped (as for the server),
                    role (process_worker, thread_worker), pid, restarts,
                    last_exit (of a former one, if not in order: ago_s, pid,
                    code, signal, why the server ended it (exec_timeout,
                    too_late, shutdown, strayed; null: it did not),
                    item_count (how many items it had begun and not answered),
                    items (the first of them: request, task, generation,
                    attempt), and of the first one payload_bytes and
                    payload_hex (its first bytes)),
                    in_call (user code is running), call_time (null: none;
                    at_least_s, at_most_s: they are equal if the worker read
                    the clock, else they are what the server has seen; null:
                    unknown), cpus ([]: not pinned),
                    in_hand (requests that it works on, or will),
                    message (why it failed),
                    counters, since the server's start:
{counters}
  memory            use (header, participants, statistics, plan, rings, tasks,
                    partials, traces, block_owners), bytes,
                    touched_bytes (in pages that were ever read or written, by
                    shmtool too; null: the file system does not say)
  blocks            block_bytes, in_use, count, touched_bytes; one entry a size
                    class

Examples:
  shmtool show digits
  shmtool show digits --json | jq '.nodes[] | {name, depth: .ring.depth}'";

fn show_help() -> String {
    let line = |name, help| format!("  {name:<18}{help}");
    let mut counters: Vec<_> =
        Counter::ALL.map(|counter| line(counter.words().name, counter.words().help)).to_vec();
    counters.push(line("batch_mean", "Items a batch; 0 before the first."));
    let phases = Phase::ALL.map(Phase::name).join(", ");
    SHOW_HELP.replace("{phases}", &phases).replace("{counters}", &counters.join("\n"))
}

const REQUESTS_HELP: &str = "\
shmtool reads each request while its participants work: one that moves on in
that moment may be seen with facts of both. A payload that is being written
may be half old, half new.

A request's phase:
  filling   its caller writes the input
  queued    it waits for a worker of a servlet; the owner put it there
  claimed   a worker has it; begun: the worker's code may have seen it
  forked    its branches, in rows of their own, are at an ensemble's members
  joining   a worker puts their outcomes together
  done      the outcome waits for the caller

JSON:
  name, path, state, run
                    as for list
  capacity          requests that can be in progress
  in_progress       requests that are, with those left out
  without_age       requests that --older-than left out because their age is
                    unknown
  requests          one entry a request, the oldest first:
    id              from 0 to below the capacity
    age_s           seconds in progress (null: no clock was read, which a
                    caller does when it goes to sleep)
    deadline_s      seconds until its deadline, negative after it (null: it
                    has none)
    caller_gone     its caller has gone; a worker that finds it frees it
    caller_asleep   its caller sleeps until the outcome is there
    wants_notice    its caller is a future or a stream
    task, generation, phase, servlet, begun, owner, attempt, queued_s, payload
                    as for branches
    branches        its branches in ensembles:
      ensemble, member
                    the ensemble's name; which of its members, from 0
      task          its number in the segment; of a request, the id
      generation    how often this number was used, modulo 65536
      phase         as above
      servlet       servlet or ensemble where it is (null: at none)
      begun         the worker's code may have seen it
      owner         that must act next: participant, worker (a worker's name,
                    or callers), pid, alive, stopped (by a signal or a
                    debugger; null: its process cannot be seen from here)
                    (null: it is forked)
      attempt       workers that died while they worked on it
      queued_s      seconds since it was queued there (null: no clock was
                    read, as where no batch waits)
      payload       content (input, outcome, error; unfinished: being
                    written), bytes,
                    impossible (its header was written over),
                    block_bytes (null: it lies in line),
                    of_task (whose memory it is), and
                    hex, with --payload: its first bytes

Examples:
  shmtool requests digits
  shmtool requests digits --older-than 1s --phase claimed
  shmtool requests digits --payload --json | jq '.requests[0].payload.hex'";

const STATS_HELP: &str = "\
All is counted from the server's start, or within each --interval. Times are of
a sample where there is much to do: each sampled request or run stands for
several, so counts of times are estimates. A worker is busy while its code runs;
a run counts when it ends. Of a dead server the time ends with its last report.
The least and greatest values are those since the start.

With --interval and --json, each line is a document. The command ends with the
server, with status 1.

With --listen, the first line of standard output says where. The server need
not be there yet, and may start again: ringmill_up is 1 while it lives, and
else 0, without other metrics. SIGINT and SIGTERM end the command, with status
0. Standard error says when the server goes and comes. There is no encryption
and no password.

JSON:
  name, path, state, run
                    as for list
  period_s          the seconds of which all numbers are
  capacity          requests that can be in progress
  in_progress       requests that are
  findings          what limits the server, in words: who is stopped, and what
                    that holds up; the bottleneck; what died, with which item
  requests          how requests ended:
{callers}
   ended            Requests that have ended, in whatever way.
   total_time       {total_time}
                    each distribution has unit (ns or items), count, sum,
                    mean, p50, p90, p99, p999, max (since the start)
  deaths            of workers:
{deaths}
  servlets          name, depth (items in its ring), workers (its threads that
                    are ready), busy (part of the time in which they run code,
                    0 to 1; null: nothing is timed), and:
   counters         of its workers:
{counters}
   batch_size       {batch_size}
   batch_wait       {batch_wait}
   queue_time       {queue_time}
   run_time         {run_time}
  workers           servlet, worker, thread, pid, busy, items, batches; one
                    entry a thread

Examples:
  shmtool stats digits
  shmtool stats digits --interval 1s
  shmtool stats digits --prometheus
  shmtool stats digits --listen 127.0.0.1:9464
  shmtool stats digits --json | jq '.requests.total_time.p99'";

const RECORD_HELP: &str = "\
Each line of the file is a JSON document. The first has format
(shmtool-record), version (1), name, started_unix_s, interval_s and shmtool
(its version). Each of the others has time_unix_s, the end of its period, and
the fields of 'shmtool stats --json' for that period. A line is written at
once; if record dies meanwhile, the last one is cut, and report leaves it out.

SIGINT and SIGTERM end it in order. Standard error shows the progress, if it
is a terminal.

Exit status:
  0  fine
  1  the server has ended; what it did is recorded
  2  no such segment, the file exists, or another error

JSON:
  name, file        what was recorded, and where
  samples, seconds  how many, and over which time
  ended_by          time, signal, server

Examples:
  shmtool record digits -o digits.jsonl --for 10min
  shmtool record digits -o digits.jsonl --interval 100ms";

#[cfg(feature = "bench")]
const BENCH_HELP: &str = "\
With --concurrency-range each of so many threads sends its next request when it
has the outcome of the last one. With --request-rate-range requests are due at
fixed (constant) or random (poisson) instants, and each is sent by the first
thread that is free. Its latency counts from when it was due, so one that
could not be sent in time is slow too (no coordinated omission); 'late' says
how late requests were sent, by threads that were busy or woke late. Requests
that could not be sent at all are unsent.

Levels of the range are tried from its start to its end, or to the first one at
which the percentile is above the threshold, a request failed, or the server
did not keep up. While it runs, 'shmtool top shmtool-bench' shows the demo.
Options are named as in Triton's perf_analyzer where they mean the same.

Exit status:
  0  fine
  1  no level is within the latency threshold
  2  wrong usage, or another error

JSON:
  name, workers, batch_size, batch_wait_ns, payload_bytes, work_per_item_ns
                    of the demo
  mode              concurrency, request_rate: what the levels are of
  request_distribution
                    constant, poisson (null: each follows the last one)
  latency_threshold_ns, percentile
                    by which a level is judged (null: by nothing)
  measurements      one entry a level:
    level           requests in progress, or a second
    throughput_per_s, ended
                    answers within the time
    errors, unsent  requests without an answer; that could not be sent
    keeps_up        of a rate, at least 95 % of it was answered
    within_threshold
                    the percentile is
    mean_ns, p50_ns, p90_ns, p95_ns, p99_ns, p999_ns, max_ns
                    the time of a request that was answered
    late_p99_ns     how late requests were sent
    batch_mean      items a batch
  best              the highest level within the threshold, of all if there is
                    none (null: no level is)
  is_cut            a signal ended it early
The columns of --csv are the level and those of measurements.

Examples:
  shmtool bench --demo
  shmtool bench --demo --concurrency-range 1:64:9 -p 1s
  shmtool bench --demo --request-rate-range 1000:200000:1000 \\
    --request-distribution poisson --latency-threshold 2ms --binary-search";

const REPORT_HELP: &str = "\
The page has pictures of rates, times, batches, queues and of how busy each
servlet is, with a mark where a worker died. It is one file that loads nothing.
Of many samples several are drawn as one.

JSON:
  name, page        what was recorded, and the file
  samples, seconds, from_unix_s, deaths
                    of the record
  last_line_cut     its last line has no end, and is left out

Examples:
  shmtool report digits.jsonl -o digits.html";

const TOP_HELP: &str = "\
Keys:
  q, Ctrl-C    end
  p, space     pause: keep what is shown; again: go on
  +, -         look less often, more often
  s            sort workers by name, busy, items a second
  up, down     select a worker; scroll requests (also k, j)
  Enter        the selected worker: counters, CPUs, requests; Esc: back
  r            the requests in progress, the oldest first; again: back
  ?            help

Numbers are of the last interval, and at first since the server's start.
Times are of a sample where there is much to do; a worker is busy while its
code runs, and a run counts when it ends. In call, reading (it holds the
servlet's reader lock): for how long, as far as it is known.

When the server ends, the last look stays on the screen until q.

top needs a terminal with a screen, of 60 columns and 16 rows at least; with
NO_COLOR set it uses no colours. It has no JSON: 'shmtool stats --json
--interval 1s' has the same numbers.

Exit status:
  0  fine
  1  the server has ended
  2  no terminal with a screen, no such segment, or another error

Examples:
  shmtool top digits
  shmtool top digits --interval 200ms
  ssh -t host shmtool top digits";

const TRACE_HELP: &str = "\
A request is traced if it is timed, as each is where there are few, or if its
caller gives it a trace context that is sampled. The segment keeps the traces
of the last ones, also when its server hangs or has died.

Below each request stand the workers that took it, or a branch of it, in that
order. In ring: from when it was put into the servlet's ring until the worker
took it. In call: while the worker's code ran. A worker that died is noticed
a little later. In the bar, dots are the time in the ring.

With --chrome it prints what Perfetto (https://ui.perfetto.dev) and Chrome's
about:tracing open: a process for the requests and one for each servlet, in it
a thread for each worker.

JSON:
  name, path, state, run
                    as for list
  kept              traces that the segment keeps
  traced            requests that were traced since the server's start
  traces            in the order in which they began; with --slowest by
                    total_ns; each with
    number          among all traces, from 0
    request         the request's id
    generation      how often that was used, modulo 65536
    trace_id, span_id, parent_id
                    in hexadecimal, as in a traceparent (parent_id null: its
                    caller gave no context)
    flags           of its context; 1: sampled
    weight          for how many requests it stands (null: it was traced only
                    because its caller asked for it)
    age_s           seconds since it was sent
    total_ns        until its caller had the outcome, or went (null: not yet)
    end             {requests} (null: not yet)
    hops            servlet, worker, pid, branch (0: the request itself),
                    attempt (workers that had died before at it), span_id;
                    since the request was sent: queued_ns, taken_ns, begun_ns
                    (null: the worker's code has not seen it), ended_ns
                    (null: not yet);
                    end: {hops}
                    (null: not yet)
    hops_missing    hops for which there was no room, or whose worker died
                    before it had written them

Examples:
  shmtool trace digits
  shmtool trace digits --slowest --last 3
  shmtool trace digits --chrome > trace.json
  shmtool trace digits --json | jq '.traces[] | select(.total_ns > 1e6)'";

fn trace_help() -> String {
    let names = |all: &mut dyn Iterator<Item = &'static str>| {
        let names: Vec<_> = all.collect();
        let text = names.join(", ");
        let mut lines = vec![String::new()];
        for word in text.split_inclusive(' ') {
            let line = lines.last_mut().expect("there is one");
            match line.len() + word.trim_end().len() > 50 {
                true => lines.push(word.into()),
                false => line.push_str(word),
            }
        }
        lines.iter().map(|line| line.trim_end()).collect::<Vec<_>>().join("\n                    ")
    };
    TRACE_HELP
        .replace("{requests}", &names(&mut RequestEnd::ALL.iter().map(|end| end.name())))
        .replace("{hops}", &names(&mut HopEnd::ALL.iter().map(|end| end.name())))
}

fn stats_help() -> String {
    let rows = |all: &mut dyn Iterator<Item = (&'static str, &'static str)>| {
        all.map(|(name, help)| wrapped(&format!("   {name:<17}"), help)).collect::<Vec<_>>().join("\n")
    };
    let callers = rows(&mut CallerCounter::ALL.iter().map(|c| (c.words().name, c.words().help)));
    let deaths = rows(&mut ServerCounter::ALL.iter().map(|c| (c.words().name, c.words().help)));
    let mut counters: Vec<_> = Counter::ALL.iter().map(|c| (c.words().name, c.words().help)).collect();
    counters.push(("batch_mean", "Items a batch; 0 before the first."));
    let mut text = STATS_HELP
        .replace("{callers}", &callers)
        .replace("{deaths}", &deaths)
        .replace("{counters}", &rows(&mut counters.into_iter()));
    let total = CallerHistogram::ALL.map(|h| h.words());
    let of_workers = WorkerHistogram::ALL.map(|h| h.words());
    for words in total.into_iter().chain(of_workers) {
        let line = format!("   {:<17}{{{}}}", words.name, words.name);
        text = text.replace(&line, &wrapped(&format!("   {:<17}", words.name), words.help));
    }
    text
}

/// A help text behind the name of a field, in lines of 80 columns.
fn wrapped(name: &str, help: &str) -> String {
    const COLUMNS: usize = 80;
    const INDENT: usize = 20;
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

const DOCTOR_HELP: &str = "\
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

const LEVER_HELP: &str = "\
The server does it: the command goes through the control page of its segment,
and the server's log says who asked for what. Run it as the server's user, or
as root. On a terminal it asks first; where there is none it needs --yes.

No request is lost by drain, resume, restart-worker, scale and replace: a worker
finishes its batch before it leaves. kill-worker is a death, for its requests
too.

Exit status:
  0  done
  1  not done; the report says why
  2  the server was not asked, or has not answered: wrong usage, no such
     segment, a dead server, or one that is stopped or hangs (then the command
     was withdrawn, and will not be done)

JSON:
  name, path        as for list
  servlet           the servlet
  asked             what was asked, in words
  done              whether the server has done it
  reason            why not (null: it has)

Examples:
  shmtool scale digits classify 4
  shmtool restart-worker digits classify 0
  shmtool replace digits classify --program ./classify-2 --yes
  shmtool drain digits classify --limit 1min && shmtool resume digits classify";

/// Inspect ringmill segments.
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
    /// Show the requests in progress, and where each is.
    #[command(after_long_help = REQUESTS_HELP)]
    Requests {
        /// Its name; its path, if it has a slash; LABEL@PID, if it is anonymous.
        name: String,
        #[command(flatten)]
        choice: RequestArgs,
    },
    /// Show how fast a server is, and why not faster.
    #[command(after_long_help = stats_help())]
    Stats {
        /// Its name; its path, if it has a slash; LABEL@PID, if it is anonymous.
        name: String,
        #[command(flatten)]
        periods: Periods,
    },
    /// Watch a server live: rates, workers, requests, what limits it.
    #[command(after_long_help = TOP_HELP)]
    Top {
        /// Its name; its path, if it has a slash; LABEL@PID, if it is anonymous.
        name: String,
        /// Look again after this time, such as 500ms or 1min.
        #[arg(long, value_name = "TIME", value_parser = period, default_value = "1s")]
        interval: Duration,
    },
    /// Write a server's statistics over time into a file.
    #[command(after_long_help = RECORD_HELP)]
    Record {
        /// Its name; its path, if it has a slash; LABEL@PID, if it is anonymous.
        name: String,
        #[command(flatten)]
        args: RecordArgs,
    },
    /// Draw a record as one HTML page.
    #[command(after_long_help = REPORT_HELP)]
    Report {
        #[command(flatten)]
        args: ReportArgs,
    },
    /// Measure how much load a server takes, and how fast it answers.
    #[cfg(feature = "bench")]
    #[command(after_long_help = BENCH_HELP)]
    Bench {
        #[command(flatten)]
        args: BenchArgs,
    },
    /// Show where the time of the last traced requests went.
    #[command(after_long_help = trace_help())]
    Trace {
        /// Its name; its path, if it has a slash; LABEL@PID, if it is anonymous.
        name: String,
        #[command(flatten)]
        choice: TraceArgs,
    },
    /// Check whether a segment is consistent.
    #[command(after_long_help = CHECK_HELP)]
    Check {
        /// Its name; its path, if it has a slash; LABEL@PID, if it is anonymous.
        name: String,
    },
    /// Say what of this host will hurt a server, and how to mend it.
    #[command(after_long_help = DOCTOR_HELP)]
    Doctor {
        /// Read copies of a host's files under this directory.
        #[arg(long, value_name = "DIR", default_value = "/", value_hint = ValueHint::DirPath)]
        root: PathBuf,
    },
    /// Print the completions for a shell.
    #[command(after_long_help = COMPLETIONS_HELP)]
    Completions {
        /// The shell.
        shell: Shell,
    },
    /// Write man pages into a directory.
    #[command(after_long_help = MAN_HELP)]
    Man {
        /// The directory; it is made if there is none.
        #[arg(value_name = "DIR", value_hint = ValueHint::DirPath)]
        directory: PathBuf,
    },
    /// Let no request into a servlet, and wait until it is empty.
    #[command(after_long_help = LEVER_HELP)]
    Drain {
        #[command(flatten)]
        of: LeverArgs,
        /// Wait for at most this time; it stays drained.
        #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration, default_value = "30s")]
        limit: Duration,
    },
    /// Let requests into a drained servlet again.
    #[command(after_long_help = LEVER_HELP)]
    Resume {
        #[command(flatten)]
        of: LeverArgs,
    },
    /// Have a worker leave in order, and start its successor.
    #[command(after_long_help = LEVER_HELP)]
    RestartWorker {
        #[command(flatten)]
        of: LeverArgs,
        /// Its index, from 0.
        worker: u32,
    },
    /// Kill a worker's process; it is restarted.
    #[command(after_long_help = LEVER_HELP)]
    KillWorker {
        #[command(flatten)]
        of: LeverArgs,
        /// Its index, from 0.
        worker: u32,
    },
    /// Have this many workers in a servlet.
    #[command(after_long_help = LEVER_HELP)]
    Scale {
        #[command(flatten)]
        of: LeverArgs,
        /// How many: from 1 to what its max_workers says.
        workers: u32,
    },
    /// Replace a servlet's workers one by one, from a new executable.
    #[command(after_long_help = LEVER_HELP)]
    Replace {
        #[command(flatten)]
        of: LeverArgs,
        /// The executable; else what is now at the present one's path.
        #[arg(long, value_name = "FILE", value_hint = ValueHint::ExecutablePath)]
        program: Option<PathBuf>,
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

/// What all levers take.
#[derive(Debug, clap::Args)]
pub(crate) struct LeverArgs {
    /// Its name; its path, if it has a slash; LABEL@PID, if it is anonymous.
    pub(crate) name: String,
    /// The servlet's name, as 'shmtool show' has it.
    pub(crate) servlet: String,
    /// Do not ask.
    #[arg(long, short)]
    pub(crate) yes: bool,
    /// Withdraw the command if the server has not read it by then.
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration, default_value = "5s")]
    pub(crate) patience: Duration,
    /// Wait for the answer for at most this time; the server goes on.
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    pub(crate) timeout: Option<Duration>,
}

/// The options of `stats`.
#[derive(Debug, Default, clap::Args)]
pub(crate) struct Periods {
    /// Count within this time, such as 500ms or 1min, again and again.
    #[arg(long, value_name = "TIME", value_parser = period)]
    pub(crate) interval: Option<Duration>,
    /// Print all since the start in Prometheus' text format.
    #[arg(long, conflicts_with_all = ["interval", "json"])]
    pub(crate) prometheus: bool,
    /// Answer Prometheus at http://ADDRESS/metrics, such as 127.0.0.1:9464.
    #[arg(long, value_name = "ADDRESS", conflicts_with_all = ["interval", "json", "prometheus"])]
    pub(crate) listen: Option<SocketAddr>,
    /// Let --listen take an address that other machines can reach.
    #[arg(long, requires = "listen")]
    pub(crate) beyond_loopback: bool,
    /// End after so many of them; else with the server.
    #[arg(long, value_name = "N", requires = "interval", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) count: Option<u64>,
}

/// The options of `record`.
#[derive(Debug, clap::Args)]
pub(crate) struct RecordArgs {
    /// The file to write; there must be none of this name.
    #[arg(short, long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) output: PathBuf,
    /// The time between two samples, such as 500ms or 1min.
    #[arg(long, value_name = "TIME", value_parser = period, default_value = "1s")]
    pub(crate) interval: Duration,
    /// End after this time, such as 10min; else with the server or a signal.
    #[arg(long = "for", value_name = "TIME", value_parser = period)]
    pub(crate) duration: Option<Duration>,
}

/// The options of `report`.
#[derive(Debug, clap::Args)]
pub(crate) struct ReportArgs {
    /// The file that record has written.
    #[arg(value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) record: PathBuf,
    /// The page to write.
    #[arg(short, long, value_name = "PAGE", value_hint = ValueHint::FilePath)]
    pub(crate) output: PathBuf,
}

/// The options of `bench`. Those that mean what an option of Triton's perf_analyzer means have its name.
#[cfg(feature = "bench")]
#[derive(Debug, clap::Args)]
#[command(group = clap::ArgGroup::new("server").required(true).args(["demo", "name"]))]
pub(crate) struct BenchArgs {
    /// A server that runs (which cannot be called from outside so far).
    pub(crate) name: Option<String>,
    /// Start a server that sends back what it gets, and drive load at it.
    #[arg(long)]
    pub(crate) demo: bool,
    /// Requests in progress: START, START:END or START:END:STEP.
    #[arg(long, value_name = "RANGE", default_value = "1", value_parser = concurrency)]
    pub(crate) concurrency_range: Range,
    /// Requests a second, whether or not earlier ones have ended.
    #[arg(long, value_name = "RANGE", conflicts_with = "concurrency_range", value_parser = rate)]
    pub(crate) request_rate_range: Option<Range>,
    /// The distances of requests at a rate.
    #[arg(long, value_name = "KIND", default_value = "constant", requires = "request_rate_range")]
    pub(crate) request_distribution: Spacing,
    /// Threads that send requests at a rate.
    #[arg(long, value_name = "N", default_value_t = 32, value_parser = up_to::<1024>)]
    pub(crate) max_threads: usize,
    /// Go up to the level above which requests take longer, such as 5ms.
    #[arg(short, long, value_name = "TIME", value_parser = humantime::parse_duration)]
    pub(crate) latency_threshold: Option<Duration>,
    /// Which percentile of their times must be within the threshold.
    #[arg(long, value_name = "P", default_value_t = 99.0, value_parser = percentile)]
    pub(crate) percentile: f64,
    /// Search for that level by halving the range, to within a step.
    #[arg(long, requires = "latency_threshold")]
    pub(crate) binary_search: bool,
    /// How long each level is measured.
    #[arg(short = 'p', long, value_name = "TIME", value_parser = measured_time, default_value = "5s")]
    pub(crate) measurement_interval: Duration,
    /// How long each level runs before that.
    #[arg(long, value_name = "TIME", value_parser = up_to_an_hour, default_value = "500ms")]
    pub(crate) warm_up: Duration,
    /// Write all figures as CSV too.
    #[arg(short = 'f', long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) csv: Option<PathBuf>,
    /// Worker processes of the demo.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = up_to::<64>)]
    pub(crate) workers: usize,
    /// The most items of a batch.
    #[arg(short, long, value_name = "N", default_value_t = 64, value_parser = up_to::<65536>)]
    pub(crate) batch_size: usize,
    /// How long a batch waits for more items.
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration, default_value = "0s")]
    pub(crate) batch_wait: Duration,
    /// How long a worker works on each item, such as 50us.
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration, default_value = "0s")]
    pub(crate) work: Duration,
    /// Bytes of each request and of its outcome.
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = up_to::<16777216>)]
    pub(crate) payload_bytes: usize,
    /// The demo's name, or how it begins if that is taken.
    #[arg(long, value_name = "NAME", default_value = "shmtool-bench")]
    pub(crate) server_name: String,
}

#[cfg(feature = "bench")]
impl BenchArgs {
    pub(crate) fn range(&self) -> Range {
        self.request_rate_range.unwrap_or(self.concurrency_range)
    }

    /// The load of a number of the range.
    pub(crate) fn level(&self, number: f64) -> Level {
        match self.request_rate_range {
            None => Level::Concurrency(number as usize),
            Some(_) => {
                let (spacing, threads) = (self.request_distribution, self.max_threads);
                Level::Rate { per_s: number, spacing, threads }
            }
        }
    }
}

#[cfg(feature = "bench")]
fn concurrency(text: &str) -> Result<Range, String> {
    const MOST: f64 = 1024.0;
    let range: Range = text.parse()?;
    let whole = [range.start, range.end, range.step].iter().all(|number| number.fract() == 0.0);
    match whole && range.end <= MOST {
        true => Ok(range),
        false => Err(format!("whole numbers up to {MOST} are allowed")),
    }
}

#[cfg(feature = "bench")]
fn rate(text: &str) -> Result<Range, String> {
    const LEAST: f64 = 0.001;
    const MOST: f64 = 10_000_000.0;
    const LEVELS: f64 = 1_000.0;
    let range: Range = text.parse()?;
    if range.start < LEAST || range.end > MOST {
        return Err(format!("{LEAST} to {MOST} a second are allowed"));
    }
    match (range.end - range.start) / range.step < LEVELS {
        true => Ok(range),
        false => Err(format!("a step of {} makes more than {LEVELS} levels", range.step)),
    }
}

#[cfg(feature = "bench")]
fn up_to_an_hour(text: &str) -> Result<Duration, String> {
    const MOST: Duration = Duration::from_secs(3600);
    match humantime::parse_duration(text) {
        Ok(time) if time <= MOST => Ok(time),
        Ok(_) => Err("it must be at most an hour".into()),
        Err(error) => Err(error.to_string()),
    }
}

#[cfg(feature = "bench")]
fn measured_time(text: &str) -> Result<Duration, String> {
    period(text).and_then(|_| up_to_an_hour(text))
}

#[cfg(feature = "bench")]
fn percentile(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(number) if number > 0.0 && number <= 100.0 => Ok(number),
        _ => Err("it is above 0, and 100 at most".into()),
    }
}

#[cfg(feature = "bench")]
fn up_to<const MOST: usize>(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(number @ 1..) if number <= MOST => Ok(number),
        _ => Err(format!("1 to {MOST} are allowed")),
    }
}

/// A time that is not so short that the tool would only look.
fn period(text: &str) -> Result<Duration, String> {
    const LEAST: Duration = Duration::from_millis(10);
    match humantime::parse_duration(text) {
        Ok(period) if period >= LEAST => Ok(period),
        Ok(_) => Err(format!("it must be at least {LEAST:?}")),
        Err(error) => Err(error.to_string()),
    }
}

/// The options of `requests`.
#[derive(Debug, clap::Args)]
pub(crate) struct RequestArgs {
    /// Only requests in progress for longer, such as 2s, 500ms or 1min.
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    older_than: Option<Duration>,
    /// Only requests at this servlet or ensemble, or with a branch there.
    #[arg(long, value_name = "NAME")]
    servlet: Option<String>,
    /// Only requests in this phase, or with a branch that is.
    #[arg(long, value_parser = PossibleValuesParser::new(phases_in_use()).map(|name| phase_of(&name)))]
    phase: Option<Phase>,
    /// Show the payloads' bytes.
    #[arg(long)]
    payload: bool,
    /// How many bytes of each.
    #[arg(long, value_name = "N", default_value_t = 256, requires = "payload",
        value_parser = clap::value_parser!(u32).range(1..=1 << 20))]
    payload_bytes: u32,
}

impl RequestArgs {
    /// All requests, with the first bytes of their payloads.
    pub(crate) fn with_payloads() -> Self {
        Self { older_than: None, servlet: None, phase: None, payload: true, payload_bytes: 256 }
    }

    pub(crate) fn choice(&self) -> Choice {
        Choice {
            older_than: self.older_than,
            servlet: self.servlet.clone(),
            phase: self.phase,
            payload_bytes: if self.payload { self.payload_bytes as usize } else { 0 },
        }
    }
}

/// The options of `trace`.
#[derive(Debug, clap::Args)]
pub(crate) struct TraceArgs {
    /// At most so many; else all that are kept, as text 10.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    last: Option<u32>,
    /// Those that took longest, the longest first.
    #[arg(long)]
    slowest: bool,
    /// Print the format of Chrome's trace viewer and of Perfetto.
    #[arg(long, conflicts_with = "json")]
    chrome: bool,
}

impl TraceArgs {
    pub(crate) fn choice(&self) -> trace::Choice {
        trace::Choice {
            count: self.last.map(|count| count as usize),
            slowest: self.slowest,
            chrome: self.chrome,
        }
    }
}

/// The phases of requests in progress.
fn phases_in_use() -> impl Iterator<Item = &'static str> {
    Phase::ALL.into_iter().filter(|&phase| phase != Phase::Free).map(Phase::name)
}

fn phase_of(name: &str) -> Phase {
    Phase::ALL.into_iter().find(|phase| phase.name() == name).expect("the parser allows no other")
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
