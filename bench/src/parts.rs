//! A segment of one node without workers: for benches of single parts.

use ringmill_shm::participant::Role;
use ringmill_shm::plan::Target;
use ringmill_shm::segment::{NodeSpec, Place, Segment, Spec};

use crate::Error;

/// Tasks of the segment.
pub const TASKS: u32 = 1024;

/// Creates the segment; its name holds this process's id, and its files go when it is dropped.
///
/// # Errors
///
/// [`Error::Segment`] if it cannot be made.
pub fn segment(name: &str) -> Result<Segment, Error> {
    let node = NodeSpec {
        name: "bench".into(),
        worker_type: String::new(),
        type_hash: 0,
        config: Vec::new(),
        batch_size: 0,
        batch_wait_ns: 0,
        next: Target::End,
        role: Role::ThreadWorker,
        workers: vec![Vec::new()],
        threads: 1,
        log_batches_every: 0,
        keeps_inputs: false,
        keeps_apart: false,
    };
    let spec = Spec {
        requests: TASKS,
        tasks_per_request: 1,
        classes: Vec::new(),
        payload_format: 0,
        nodes: vec![node],
        forks: Vec::new(),
        switches: Vec::new(),
    };
    let name = format!("bench-{name}-{}", std::process::id());
    let place = Place::named(&name).map_err(ringmill_shm::segment::CreateError::from)?;
    Ok(Segment::create(place, &spec)?)
}
