//! The only place that calls the operating system.

pub mod futex;

#[cfg(not(loom))]
pub mod birth;
#[cfg(not(loom))]
pub mod build_id;
#[cfg(not(loom))]
pub mod cgroup;
#[cfg(not(loom))]
pub mod child;
#[cfg(not(loom))]
pub mod cpu;
#[cfg(not(loom))]
pub mod file;
#[cfg(not(loom))]
pub mod image;
#[cfg(not(loom))]
pub mod process;
#[cfg(not(loom))]
pub mod program;
#[cfg(not(loom))]
pub mod settled;
#[cfg(not(loom))]
pub mod stack;
#[cfg(not(loom))]
pub mod tether;
#[cfg(not(loom))]
pub mod time;
#[cfg(not(loom))]
pub mod unshared;
