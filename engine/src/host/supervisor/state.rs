//! The supervisor's state.

use super::connected::Connected;
use super::job::Job;
use super::post::Post;
use super::shared::Shared;
use super::stage::Looks;
use crate::host::control::Controller;
use crate::host::events::relay::Relay;
use crate::host::spawn::Ended;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};
use std::time::Instant;
use tracing::level_filters::LevelFilter;

/// How workers ended before the server was ready, or are about to end: the row, how, and why they could not attach.
pub(crate) type EarlyDeaths = Vec<(u32, Ended, Option<String>)>;

/// The supervisor's own state.
pub(crate) struct Supervisor {
    pub(super) shared: Arc<Shared>,
    pub(super) posts: Vec<Post>,
    /// By row: the client processes.
    pub(super) clients: Vec<Connected>,
    pub(super) server_name: String,
    /// How workers ended before the server was ready.
    pub(super) early_deaths: Arc<Mutex<EarlyDeaths>>,
    pub(super) started: Arc<AtomicBool>,
    /// The number of the last group of suspects.
    pub(super) group: u32,
    /// By node: how many batches its workers had finished when one of them last died at its first.
    pub(super) finished: Vec<u64>,
    pub(super) looks: Looks,
    /// What is being done for levers, or waits.
    pub(super) jobs: Vec<Job>,
    /// By node: the hash of its workers' type in any other executable.
    pub(super) types: Vec<u64>,
    /// Emits the workers' events up to a level, if the server forwards them.
    pub(super) relay: Option<(Relay, LevelFilter)>,
    /// Serves the control page.
    pub(super) controller: Option<Controller>,
    /// Set while a shutdown waits for workers to leave, and has not said so.
    pub(super) silent_until: Option<Instant>,
    /// The CPUs on which its thread ran at first, and those of them that were taken away.
    pub(super) cpus: Vec<usize>,
    pub(super) cpus_taken: Vec<usize>,
}
