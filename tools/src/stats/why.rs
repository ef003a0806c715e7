//! What limits a server, in words: read from its statistics of a period.

use super::{Servlet, Stats};
use crate::units::{nanoseconds, number};

/// `1 worker died`, `3 workers died`.
fn count(n: u64, one: &str, several: &str) -> String {
    format!("{} {}", number(n), if n == 1 { one } else { several })
}

/// A servlet whose workers are busy for more than this part of the time is saturated.
const SATURATED: f64 = 0.9;
/// Below this part of the time spent in queues nobody waits for workers.
const QUEUED: f64 = 0.5;
/// A batch is small if its mean is below this part of the most.
const SMALL: f64 = 0.25;

impl Stats {
    /// What an operator should know, the most important first; empty if nothing limits the server.
    pub(super) fn why(&self) -> Vec<String> {
        let mut all = self.stopped.clone();
        if self.requests.counters.rejected > 0 {
            all.push(format!(
                "{} refused: all {} permits were in use, or all payload blocks that are large enough; raise capacity or \
                 payload_classes, or send less",
                count(self.requests.counters.rejected, "request was", "requests were"),
                self.capacity
            ));
        } else if self.requests.counters.permit_waits > 0 {
            all.push(format!(
                "{} for a permit, since all {} were in use: raise capacity if the workers have time",
                count(self.requests.counters.permit_waits, "request waited", "requests waited"),
                self.capacity
            ));
        }
        let slowest = self.servlets.iter().filter_map(|servlet| Some((servlet, servlet.busy?)));
        if let Some((servlet, busy)) = slowest.max_by(|(_, a), (_, b)| a.total_cmp(b))
            && busy > SATURATED
        {
            all.push(format!(
                "{} is the bottleneck: its workers run code {:.0} % of the time, and {} items wait for them; give it more \
                 workers or larger batches",
                servlet.name,
                100.0 * busy,
                number(servlet.depth)
            ));
        }
        all.extend(self.servlets.iter().filter_map(Servlet::why_small));
        all.extend(self.servlets.iter().filter_map(Servlet::why_queued));
        all.extend(self.shared_cpus());
        if self.deaths.deaths > 0 {
            let died = count(self.deaths.deaths, "worker died", "workers died");
            all.push(match &self.last_death {
                Some(last) => format!("{died}; {last}"),
                None => format!("{died}: the service's log, and 'shmtool show', say of what"),
            });
        }
        all
    }

    /// Workers that are pinned to the same single CPU.
    fn shared_cpus(&self) -> Option<String> {
        let mut pinned: Vec<(usize, String)> = self
            .workers
            .iter()
            .filter(|worker| worker.cpus.len() == 1)
            .map(|worker| (worker.cpus[0], format!("{}/{}", worker.servlet, worker.worker)))
            .collect();
        pinned.sort();
        pinned.dedup();
        let pair = pinned.windows(2).find(|pair| pair[0].0 == pair[1].0)?;
        let ((cpu, one), (_, other)) = (&pair[0], &pair[1]);
        Some(format!("{one} and {other} are pinned to CPU {cpu} alone, and take turns there"))
    }
}

impl Servlet {
    /// Why its batches are small, though its workers are busy.
    fn why_small(&self) -> Option<String> {
        let (most, mean) = (f64::from(self.facts.batch_size), self.counters.batch_mean);
        let of = &self.counters.snapshot;
        if most < 2.0 || of.batches == 0 || mean >= SMALL * most || self.busy.is_none_or(|busy| busy < QUEUED)
        {
            return None;
        }
        let why = match of.closed_window > of.closed_empty {
            true => "their wait ends before more items come",
            false => "nothing more is in the ring when a worker looks, so too few callers call at once",
        };
        Some(format!("{}: batches have {mean:.1} of {most} items, as {why}", self.name))
    }

    /// Whether its items wait for longer than they are worked on, though its workers have time.
    fn why_queued(&self) -> Option<String> {
        let (queued, run) = (self.times.queue_time.mean(), self.times.run_time.mean());
        let wait = self.times.batch_wait.mean();
        if self.busy.is_none_or(|busy| busy > QUEUED) || wait < run || wait < QUEUED * queued || wait == 0.0 {
            return None;
        }
        Some(format!(
            "{}: items wait {} for a batch to fill, and code runs for {}: a shorter batch_wait_time would answer sooner",
            self.name,
            nanoseconds(wait),
            nanoseconds(run)
        ))
    }
}
