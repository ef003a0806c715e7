//! The rules of servlets and workers, as values: when a batch closes, which CPUs a worker runs on, what a death costs,
//! when a worker is restarted or replaced, how long to spin, what to time. They start nothing and hold nothing.

pub(crate) mod batch;
pub(crate) mod cpus;
pub(crate) mod lifespan;
pub(crate) mod on_death;
pub(crate) mod patience;
pub(crate) mod restarts;
pub(crate) mod sample;
