//! Load on a server, as `shmtool bench` and ringmill's `compare` share it: when requests are due ([`arrivals`]), and
//! how long they took ([`times`]). Both are pure: who sends requests, and how, is theirs.
#![forbid(unsafe_code)]

pub mod arrivals;
pub mod times;
