//! What tells worker types apart.

use super::batch::BatchWorker;
use crate::wire::payload::layout_hash;
use std::any::TypeId;
use std::hash::{DefaultHasher, Hash, Hasher};

/// What a worker type is known by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Identity {
    /// In the executable that this is.
    pub(crate) here: u64,
    /// In any other.
    pub(crate) elsewhere: u64,
}

impl Identity {
    pub(crate) fn of<W: BatchWorker>() -> Self {
        let elsewhere = layout_hash::<W::In, W::Out, W::Config>(W::SCHEMA);
        let mut hasher = DefaultHasher::new(); // in one executable it has the same keys in all processes
        (TypeId::of::<W>(), elsewhere).hash(&mut hasher);
        Self { here: hasher.finish(), elsewhere }
    }
}
