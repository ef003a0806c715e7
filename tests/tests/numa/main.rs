//! Where memory lies on a machine of several nodes. On one of a single node the tests hold too, and say little:
//! `.ci/numa-guest` runs them in machines of two and of four.

mod policies;
mod segments;
