//! The only place that calls the operating system.

pub mod futex;

pub mod birth;
pub mod build_id;
pub mod cgroup;
pub mod child;
pub mod cpu;
pub mod file;
pub mod image;
mod limit;
pub mod memfd;
pub mod numa;
pub mod pages;
pub mod probe;
pub mod process;
pub mod program;
pub mod settled;
pub mod stack;
pub mod terminal;
pub mod tether;
pub mod time;
pub mod topology;
pub mod unshared;
