//! The built binary on real segments, a module a command.

mod anonymous;
mod bench;
mod check;
mod child;
mod clean;
mod corrupted;
mod doctor;
mod levers;
mod list;
mod listen;
mod record;
mod refused;
mod requests;
mod segments;
mod shell;
mod show;
mod stats;
mod tool;
mod top;
mod trace;
mod usage;
