//! Workers that may no longer use CPUs that were planned for them.

use super::why::{Finding, Kind};
use crate::show::missing;
use crate::units;
use crate::who::name_of;
use ringmill_shm::participant::SERVER;
use ringmill_shm::segment::Segment;

/// A finding for each worker that has lost CPUs.
pub(crate) fn findings(segment: &Segment) -> Vec<Finding> {
    let entries = segment.participants();
    let allowed = entries[SERVER as usize].cpus();
    let mut all: Vec<Finding> = Vec::new();
    for (row, entry) in (0..).zip(entries).skip(SERVER as usize + 1) {
        if entry.token().is_none_or(|token| segment.is_dead(token)) {
            continue;
        }
        let taken = missing(&entry.cpus(), &allowed, entry.kernel_cpus().as_deref());
        if taken.is_empty() {
            continue;
        }
        let (name, taken) = (name_of(segment, row).unwrap_or_default(), units::cpus(&taken));
        let text = format!(
            "{name} may not use CPU {taken} any more, by a control group, taskset, or since it went offline; \
             'shmtool restart-worker' lets a worker's process have it again as far as the kernel allows"
        );
        all.push(Kind::CpusTaken.of(name, text));
    }
    all
}
