//! The rules that servlets and workers go by, as values: how batches close, which CPUs are whose, what a death costs, when a
//! worker is started again, how long to spin. They start nothing and hold nothing.

pub(crate) mod batch;
pub(crate) mod cpus;
pub(crate) mod on_death;
pub(crate) mod patience;
pub(crate) mod restarts;
