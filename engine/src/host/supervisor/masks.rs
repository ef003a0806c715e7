//! CPUs that are taken away while the server runs: by the cpuset of a control group, by `taskset`, or because they went
//! offline. The kernel reports none of these, so the supervisor looks, at most a second late.
//!
//! It says so once, and pins nothing again: an operator may mean it. What the kernel has at a moment, `shmtool show`
//! says.

use super::post::{Body, Post};
use super::state::Supervisor;
use crate::panics::say;
use crate::policy::placement::ranges;
use ringmill_shm::participant::{Entry, Life};
use ringmill_shm::segment::Segment;
use ringmill_shm::sys::cpu;

/// The CPUs of `planned` that are not among `now`.
fn missing(planned: &[usize], now: &[usize]) -> Vec<usize> {
    planned.iter().copied().filter(|cpu| !now.contains(cpu)).collect()
}

/// The CPUs that are online and on which a ready worker's thread may run; `None` if it is not ready, or has ended.
fn mask(entry: &Entry, planned: &[usize]) -> Option<Vec<usize>> {
    let now = Some(entry).filter(|entry| entry.life() == Life::Ready);
    let now = now.and_then(|entry| cpu::cpus_of(entry.thread_id()).ok())?;
    // The thread may have ended, and its number be another's: that is asked only where it matters.
    let is_its_own = missing(planned, &now).is_empty() || entry.kernel_cpus().is_some();
    is_its_own.then_some(now)
}

impl Supervisor {
    /// Says which CPUs were taken away, or given back, since the last look.
    pub(super) fn look_at_cpus(&mut self) {
        let (segment, allowed) = (&self.shared.segment, self.shared.placement.allowed());
        for post in &mut self.posts {
            post.look_at_cpus(segment, allowed);
        }
        let Ok(now) = cpu::cpus_of(0) else { return };
        let taken = missing(&self.cpus, &now);
        if std::mem::replace(&mut self.cpus_taken, taken.clone()) != taken && !taken.is_empty() {
            let (server, taken, cpus) = (&self.server_name, ranges(&taken), ranges(&now));
            say(|| {
                tracing::warn!(
                    %server, %taken, %cpus,
                    "CPUs were taken away from the service (by a control group, taskset, or since they went offline)"
                );
            });
        }
    }
}

impl Post {
    fn look_at_cpus(&mut self, segment: &Segment, allowed: &[usize]) {
        let pid = match &self.body {
            Body::Process(process) => process.child.id(),
            Body::Thread { .. } => std::process::id(),
            Body::Unwatched(_) | Body::Awaiting(_) | Body::GivenUp(_) | Body::None => return,
        };
        let pinned = self.cpus(segment);
        let planned = if pinned.is_empty() { allowed } else { &pinned };
        let masks = self.entries(segment).filter_map(|entry| mask(entry, planned));
        let losses = masks.map(|now| (missing(planned, &now), now));
        let Some((taken, now)) = losses.max_by_key(|(taken, _)| taken.len()) else { return };
        if std::mem::replace(&mut self.cpus_taken, taken.clone()) == taken {
            return;
        }
        let (worker, cpus) = (&self.title, ranges(&now));
        match taken.is_empty() {
            true => say(|| tracing::info!(%worker, pid, %cpus, "a worker may use all its CPUs again")),
            false => {
                let taken = ranges(&taken);
                say(|| {
                    tracing::warn!(
                        %worker, pid, %taken, %cpus,
                        "CPUs were taken away from a worker (by a control group, taskset, or since they went offline)"
                    );
                });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpus_are_missing_that_were_planned() {
        assert_eq!(missing(&[1, 2, 5], &[0, 2]), [1, 5]);
        assert_eq!(missing(&[1], &[0, 1, 2]), [0; 0], "more is no loss");
    }
}
