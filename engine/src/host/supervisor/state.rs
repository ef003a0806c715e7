//! The supervisor's state.

use super::post::Post;
use super::shared::Shared;
use super::stage::Looks;
use crate::host::spawn::Ended;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};

/// How workers ended before the server was ready: the place, how, and why they could not join.
pub(crate) type EarlyDeaths = Vec<(u32, Ended, Option<String>)>;

/// The supervisor's own state.
pub(crate) struct Supervisor {
    pub(super) shared: Arc<Shared>,
    pub(super) posts: Vec<Post>,
    pub(super) server_name: String,
    /// How workers ended before the server was ready, by place.
    pub(super) early_deaths: Arc<Mutex<EarlyDeaths>>,
    pub(super) started: Arc<AtomicBool>,
    /// The last group of tasks that are to be tried together.
    pub(super) group: u32,
    /// By node: how many batches its workers had finished when one of them last died with its first.
    pub(super) finished: Vec<u64>,
    pub(super) looks: Looks,
}
