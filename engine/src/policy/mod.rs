//! The rules of servlets and workers, as values: when a batch closes, where workers run, what a death costs,
//! when a worker is restarted or replaced, how long to spin, what to time. They start nothing and hold nothing.

mod auto;
pub(crate) mod batch;
pub(crate) mod cpus;
pub(crate) mod ground;
pub(crate) mod lifespan;
pub(crate) mod memory;
pub(crate) mod on_death;
pub(crate) mod patience;
pub(crate) mod placement;
pub(crate) mod restarts;
pub(crate) mod sample;
