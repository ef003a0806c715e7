//! The identity of worker types.

use super::batch::BatchWorker;
use crate::wire::payload::layout_hash;
use std::any::TypeId;
use std::hash::{DefaultHasher, Hash, Hasher};

/// The hashes by which a worker type is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Identity {
    /// Within this executable.
    pub(crate) here: u64,
    /// To any other executable.
    pub(crate) elsewhere: u64,
}

impl Identity {
    pub(crate) fn of<W: BatchWorker>() -> Self {
        let elsewhere = layout_hash::<W::In, W::Out, W::Config>(W::SCHEMA);
        let mut hasher = DefaultHasher::new(); // its keys are the same in all processes of one executable
        (TypeId::of::<W>(), elsewhere).hash(&mut hasher);
        Self { here: hasher.finish(), elsewhere }
    }
}
