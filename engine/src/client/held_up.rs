//! What a shutdown waits for, told in the log: without it a worker that hangs is a long silence.

use crate::panics::say;
use crate::worker::title;
use ringmill_shm::arena::Task;
use ringmill_shm::participant::Role;
use ringmill_shm::segment::Segment;
use ringmill_shm::sys::time::now_ns;
use ringmill_shm::word::Phase;
use std::collections::BTreeMap;
use std::time::Duration;

/// The items of one worker that are in progress.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct InProgress {
    role: Role,
    pid: u32,
    items: u32,
    /// How long ago the oldest of their requests began, as far as it is known.
    oldest: Option<Duration>,
}

/// Says which workers have requests in progress, or how many requests no worker has begun; `limit` is how long the
/// shutdown goes on waiting.
#[cold]
pub(super) fn say_by_what(segment: &Segment, server: &str, limit: Duration) {
    let workers = workers_in_progress(segment);
    for (worker, InProgress { role, pid, items, oldest }) in &workers {
        let oldest = oldest.map(tracing::field::debug);
        let then = match role {
            Role::ThreadWorker => {
                "a thread cannot be killed, so the shutdown goes on without it after that limit"
            }
            _ => "the shutdown kills it after that limit",
        };
        say(|| {
            tracing::warn!(
                worker = %format_args!("{server}/{worker}"), pid, items, oldest, ?limit,
                "the shutdown waits for a worker whose call has not ended; {then}"
            );
        });
    }
    if workers.is_empty() {
        say(|| {
            tracing::warn!(
                server,
                ?limit,
                "the shutdown waits for requests that no worker has begun; they end with an error after that limit"
            );
        });
    }
}

/// By their names: the workers that have items in progress.
fn workers_in_progress(segment: &Segment) -> BTreeMap<String, InProgress> {
    let now_ns = now_ns();
    let mut workers = BTreeMap::<String, InProgress>::new();
    for request in (0..segment.shape().requests).filter_map(|id| Task::new(segment, id)) {
        let age = request.begun_ns().map(|ns| Duration::from_nanos(now_ns.saturating_sub(ns)));
        let branches = (1..=segment.shape().branches()).filter_map(|slot| request.sibling(slot));
        for task in [request].into_iter().chain(branches) {
            let state = task.word().load();
            let owner = state.phase().filter(|phase| Phase::is_worked_on(*phase)).and(state.owner());
            let Some(row) = owner.map(|owner| owner.index()) else { continue };
            let (Some((node, index, _)), Some(entry)) =
                (segment.worker_of(row), segment.participants().get(row as usize))
            else {
                continue;
            };
            let pid = entry.pid();
            let new = InProgress { role: node.role, pid, items: 0, oldest: None };
            let worker = workers.entry(title(&node.name, index, 0, 1)).or_insert(new);
            worker.items += 1;
            worker.oldest = worker.oldest.max(age);
        }
    }
    workers
}
