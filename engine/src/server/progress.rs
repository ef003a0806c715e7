//! How far the start of a server is.

use super::stats::{ServerStats, ServletStats, WorkerStats};
use ringmill_shm::participant::Life;
use ringmill_shm::segment::Segment;
use serde::Serialize;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How often a start that waits tells its progress.
const TELL_EVERY: Duration = Duration::from_secs(1);

/// How far the start of a server is: which of its workers are ready. For
/// [`ServerBuilder::on_progress`](crate::ServerBuilder::on_progress).
///
/// Its text is one line, for a log:
///
/// ```text
/// 1 of 2 workers are ready after 12.0 s; rank/1 has been starting for 12.0 s
/// ```
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct StartProgress {
    /// How long the server has waited for its workers. They start side by side.
    pub elapsed: Duration,
    /// One for each servlet that has workers, in the order of the plan. A worker that is in its `new` or `warm_up` has the
    /// state `starting`; [`state_seconds`](WorkerStats::state_seconds) says since when.
    pub servlets: Vec<ServletStats>,
}

impl StartProgress {
    fn workers(&self) -> impl Iterator<Item = (&ServletStats, &WorkerStats)> {
        let all = self.servlets.iter().flat_map(|servlet| servlet.workers.iter().map(move |w| (servlet, w)));
        all.filter(|(_, worker)| worker.state != Life::Vacant)
    }

    /// How many workers are ready; threads of a worker count one by one.
    #[must_use]
    pub fn ready(&self) -> usize {
        self.workers().filter(|(_, worker)| worker.ready).count()
    }

    /// How many workers there are; threads of a worker count one by one.
    #[must_use]
    pub fn total(&self) -> usize {
        self.workers().count()
    }
}

impl fmt::Display for StartProgress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (ready, total, time) = (self.ready(), self.total(), in_words(self.elapsed.as_secs_f64()));
        write!(f, "{ready} of {total} workers are ready after {time}")?;
        let mut starting = self.workers().filter(|(_, worker)| worker.state == Life::Starting);
        if let Some((servlet, worker)) = starting.next() {
            write!(f, "; {}/{}", servlet.name, worker.index)?;
            if servlet.workers.iter().any(|other| other.thread > 0) {
                write!(f, ".{}", worker.thread)?;
            }
            write!(f, " has been starting for {}", in_words(worker.state_seconds))?;
            match starting.count() {
                0 => {}
                others => write!(f, ", and {others} more")?,
            }
        }
        Ok(())
    }
}

/// `40 ms`, `12.0 s`.
fn in_words(seconds: f64) -> String {
    match seconds < 1.0 {
        true => format!("{:.0} ms", (seconds * 1e3).ceil()),
        false => format!("{seconds:.1} s"),
    }
}

/// What a program does with the progress.
#[derive(Clone)]
pub(super) struct OnProgress(pub(super) Arc<dyn Fn(&StartProgress) + Send + Sync>);

impl fmt::Debug for OnProgress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OnProgress")
    }
}

/// Tells the progress of one start: at first, whenever another worker is ready, and at intervals.
#[derive(Debug)]
pub(super) struct Teller {
    on_progress: Option<OnProgress>,
    begun: Instant,
    told: Option<(usize, Instant)>,
}

impl Teller {
    pub(super) fn new(on_progress: Option<OnProgress>) -> Self {
        Self { on_progress, begun: Instant::now(), told: None }
    }

    /// Looks at the workers, and calls the program's function if it is time.
    pub(super) fn look(&mut self, segment: &Segment) {
        let Some(OnProgress(tell)) = &self.on_progress else { return };
        let elapsed = self.begun.elapsed();
        let progress = StartProgress { elapsed, servlets: ServerStats::of(segment).servlets };
        let ready = progress.ready();
        if self.told.is_none_or(|(told, at)| told != ready || at.elapsed() >= TELL_EVERY) {
            self.told = Some((ready, Instant::now()));
            tell(&progress);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ringmill_shm::stats::Snapshot;

    fn worker(index: u32, thread: u32, state: Life) -> WorkerStats {
        WorkerStats {
            index,
            thread,
            pid: 1,
            alive: true,
            ready: state == Life::Ready,
            state,
            state_seconds: 2.0,
            restarts: 0,
            counters: Snapshot::default(),
            times: Default::default(),
        }
    }

    #[test]
    fn the_text_names_a_worker_that_starts() {
        let servlet = |name: &str, workers| ServletStats { name: name.into(), depth: 0, workers };
        let text = |servlets| StartProgress { elapsed: Duration::from_millis(2500), servlets }.to_string();
        let (ready, starting) = (Life::Ready, Life::Starting);
        let tag = || servlet("tag", vec![worker(0, 0, ready)]);
        assert_eq!(text(vec![tag()]), "1 of 1 workers are ready after 2.5 s");
        assert_eq!([0.0, 0.0004, 0.0402, 1.0].map(in_words), ["0 ms", "1 ms", "41 ms", "1.0 s"]);
        let rank = servlet("rank", vec![worker(0, 0, starting), worker(1, 0, ready), worker(2, 0, starting)]);
        assert_eq!(
            text(vec![tag(), rank]),
            "2 of 4 workers are ready after 2.5 s; rank/0 has been starting for 2.0 s, and 1 more"
        );
        let threads = servlet("io", vec![worker(0, 0, ready), worker(0, 1, starting)]);
        assert_eq!(
            text(vec![threads]),
            "1 of 2 workers are ready after 2.5 s; io/0.1 has been starting for 2.0 s"
        );
    }
}
