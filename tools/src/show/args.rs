//! The options of `shmtool show`, and its help.

use crate::values::SegmentArg;
use ringmill_shm::stats::Counter;
use ringmill_shm::word::Phase;

const HELP: &str = "\
The plan is a tree: what follows a servlet stands below it, and the members of
an ensemble (fail-fast, or keeps errors) or a switch stand further in.

shmtool reads the segment while its participants work, so numbers that belong
together are from almost, not exactly, the same moment. Depth and phases are
of this moment; counters are since the server's start.

JSON:
  name, path, state, run, bytes, created_unix_s, age_s, user_id, user
                    as for list
  server            pid, alive, stopped (by a signal or a debugger; null: its
                    process cannot be seen from here), allowed_cpus (that it
                    might use when it started)
  layout_version    of the library that made it
  fingerprint       of all fields, sizes and offsets, in hexadecimal
  capacity          requests that can be in progress
  tasks_per_request
  inline_bytes      the largest payload that needs no block
  largest_payload_bytes
  page_bytes        the size of the pages on which it lies: more for huge ones
  requests          count by phase:
                    {phases}
  nodes             index, name, worker_type, input_type, outcome_type (of
                    payloads; null: unknown), batch_size (0: item by item),
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
                    workers (that there are), max_workers (that there may be),
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
                    unknown), cpus ([]: not pinned), numa_node (of these; null:
                    several, or unknown), placed_why (listed, own_core,
                    far_core, sibling, shared, on_node, on_each_node,
                    not_pinned, pinning_is_off), kernel_cpus (on which it may
                    run now; null: not seen from here), cpus_taken (those
                    planned that it may not use any more),
                    in_hand (requests that it works on, or will),
                    message (why it failed),
                    counters, since the server's start:
{counters}
  clients           processes that are connected, or whose requests are still
                    to end: participant, pid, state, alive, stopped (as for
                    workers), share (requests that it can have in progress),
                    in_progress
  memory            use (header, participants, statistics, plan, rings, tasks,
                    partials, traces, block_owners), bytes,
                    touched_bytes (in pages that were ever read or written, by
                    shmtool too; null: the file system does not say)
  blocks            block_bytes, in_use, count, touched_bytes; one entry a size
                    class
  numa              null: the kernel does not tell on which NUMA nodes memory
                    lies; else an entry a part of the segment: part, bytes,
                    policy (as numa_maps writes it), as_asked (no page lies
                    elsewhere than the policy says), on (node, pages: of up to
                    256 that were looked at and were ever touched)

Examples:
  shmtool show digits
  shmtool show digits --json | jq '.nodes[] | {name, depth: .ring.depth}'";

/// The options of `show`.
#[derive(Debug, clap::Args)]
#[command(after_long_help = help())]
pub(crate) struct ShowArgs {
    #[command(flatten)]
    pub(crate) segment: SegmentArg,
}

fn help() -> String {
    let line = |name, help| format!("  {name:<18}{help}");
    let mut counters: Vec<_> =
        Counter::ALL.map(|counter| line(counter.words().name, counter.words().help)).to_vec();
    counters.push(line("batch_mean", "Items a batch; 0 before the first."));
    let phases = Phase::ALL.map(Phase::name).join(", ");
    HELP.replace("{phases}", &phases).replace("{counters}", &counters.join("\n"))
}
