//! What limits a server, in words: read from its statistics of a period.

use super::{Servlet, Stats};
use crate::units::{nanoseconds, number};
use serde::{Deserialize, Serialize};

/// Something that limits a server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Finding {
    pub(crate) kind: Kind,
    /// The servlet or worker; none: the server.
    pub(crate) about: Option<String>,
    /// In words.
    pub(crate) text: String,
}

/// What kinds of findings there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Kind {
    /// A process is stopped, by a signal or a debugger.
    Stopped,
    /// A worker may no longer use CPUs that were planned for it.
    CpusTaken,
    /// Requests were refused, for want of permits or blocks.
    Refused,
    /// Requests waited for permits.
    PermitWaits,
    /// A servlet's workers are always busy, and items wait for them.
    Bottleneck,
    /// A servlet's batches are small, though its workers are busy.
    SmallBatches,
    /// A servlet's items wait for a batch to fill, though its workers have time.
    BatchWait,
    /// Workers are pinned to one CPU.
    SharedCpu,
    /// Workers died.
    Deaths,
}

impl Kind {
    /// A finding about a servlet or worker.
    pub(super) fn of(self, about: impl Into<String>, text: String) -> Finding {
        Finding { kind: self, about: Some(about.into()), text }
    }

    fn of_server(self, text: String) -> Finding {
        Finding { kind: self, about: None, text }
    }
}

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
    pub(super) fn why(&self) -> Vec<Finding> {
        let mut all = [&self.stopped[..], &self.taken[..]].concat();
        if self.requests.counters.rejected > 0 {
            all.push(Kind::Refused.of_server(format!(
                "{} refused: all {} permits were in use, or all payload blocks that are large enough; raise capacity or \
                 payload_classes, or send less",
                count(self.requests.counters.rejected, "request was", "requests were"),
                self.capacity
            )));
        } else if self.requests.counters.permit_waits > 0 {
            all.push(Kind::PermitWaits.of_server(format!(
                "{} for a permit, since all {} were in use: raise capacity if the workers have time",
                count(self.requests.counters.permit_waits, "request waited", "requests waited"),
                self.capacity
            )));
        }
        let slowest = self.servlets.iter().filter_map(|servlet| Some((servlet, servlet.busy?)));
        if let Some((servlet, busy)) = slowest.max_by(|(_, a), (_, b)| a.total_cmp(b))
            && busy > SATURATED
            && let Some(waits) = servlet.what_waits()
        {
            all.push(Kind::Bottleneck.of(
                &servlet.name,
                format!(
                    "{} is the bottleneck: its workers run code {:.0} % of the time, and {waits}; give it more workers or \
                     larger batches",
                    servlet.name,
                    100.0 * busy,
                ),
            ));
        }
        all.extend(self.servlets.iter().filter_map(Servlet::why_small));
        all.extend(self.servlets.iter().filter_map(Servlet::why_queued));
        all.extend(self.shared_cpus());
        if self.deaths.deaths > 0 {
            let died = count(self.deaths.deaths, "worker died", "workers died");
            all.push(Kind::Deaths.of_server(match &self.last_death {
                Some(last) => format!("{died}; {last}"),
                None => format!("{died}: the service's log, and 'shmtool show', say of what"),
            }));
        }
        all
    }

    /// Workers that are pinned to the same single CPU.
    fn shared_cpus(&self) -> Option<Finding> {
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
        let text = format!("{one} and {other} are pinned to CPU {cpu} alone, and take turns there");
        Some(Kind::SharedCpu.of(format!("{one} and {other}"), text))
    }
}

impl Servlet {
    /// What waits for its workers, in words; none: nothing worth mentioning does.
    fn what_waits(&self) -> Option<String> {
        let (queued, run) = (self.times.queue_time.mean(), self.times.run_time.mean());
        match self.depth {
            0 if queued >= QUEUED * run && queued > 0.0 => {
                Some(format!("items waited {} for them", nanoseconds(queued)))
            }
            0 => None,
            1 => Some("an item waits for them".into()),
            depth => Some(format!("{} items wait for them", number(depth))),
        }
    }

    /// Why its batches are small, though its workers are busy.
    fn why_small(&self) -> Option<Finding> {
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
        let text = format!("{}: batches have {mean:.1} of {most} items, as {why}", self.name);
        Some(Kind::SmallBatches.of(&self.name, text))
    }

    /// Whether its items wait for longer than they are worked on, though its workers have time.
    fn why_queued(&self) -> Option<Finding> {
        let (queued, run) = (self.times.queue_time.mean(), self.times.run_time.mean());
        let wait = self.times.batch_wait.mean();
        if self.busy.is_none_or(|busy| busy > QUEUED) || wait < run || wait < QUEUED * queued || wait == 0.0 {
            return None;
        }
        let text = format!(
            "{}: items wait {} for a batch to fill, and code runs for {}: a shorter batch_wait_time would answer sooner",
            self.name,
            nanoseconds(wait),
            nanoseconds(run)
        );
        Some(Kind::BatchWait.of(&self.name, text))
    }
}
