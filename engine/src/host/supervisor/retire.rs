//! Workers that leave in order while the server goes on: at a limit of their servlet, or since they are told to.
//!
//! # Protocol
//!
//! A worker that counts its requests leaves by itself. Of age and memory the supervisor knows, and tells the unit: a
//! process over its tether, where its watcher thread receives it, a thread by a word that they share. So no worker looks
//! at a clock or at its memory, and one without limits does nothing for them. The unit finishes its batches, cleans up
//! and leaves; `bury` sees that it left in order, and its successor is started at once.

use super::post::{Body, Post};
use super::stage::Retiring;
use super::state::Supervisor;
use crate::host::report::RETIRE;
use crate::panics::say;
use crate::policy::lifespan::{Lifespan, Span};
use ringmill_shm::participant::{Entry, Life};
use ringmill_shm::segment::Segment;
use ringmill_shm::sys::process::private_bytes;
use ringmill_shm::sys::time::now_ns;
use std::hash::{BuildHasher, RandomState};
use std::time::{Duration, Instant};

/// A random number, for limits.
fn random() -> u64 {
    RandomState::new().hash_one(now_ns())
}

impl Post {
    /// Draws the limits of the incarnation that is about to be started.
    pub(super) fn draw_span(&self) -> Span {
        if self.lifespan == Lifespan::default() { Span::default() } else { self.lifespan.draw(random()) }
    }

    /// When its unit is to leave because of its age, if it is: a unit that is not ready yet has no age.
    pub(super) fn leaves_at(&self, segment: &Segment) -> Option<Instant> {
        let lives = matches!(self.body, Body::Process(_) | Body::Thread { .. }) && self.retiring.is_none();
        let lifetime = self.span.lifetime.filter(|_| lives && self.entries(segment).all(is_ready))?;
        let ready_ns = self.entries(segment).map(Entry::since_ns).max()?;
        let age = Duration::from_nanos(now_ns().saturating_sub(ready_ns));
        Instant::now().checked_add(lifetime.saturating_sub(age))
    }

    /// Tells its unit to finish its batches and leave, unless it was told already.
    pub(super) fn retire(&mut self, segment: &Segment, why: String) {
        let retiring = self.retiring.get_or_insert(Retiring { why, is_told: false });
        if retiring.is_told {
            return;
        }
        retiring.is_told = match &self.body {
            // Refused while its watcher reads nothing: then the next look tells it again.
            Body::Process(process) => process.tether.as_ref().is_some_and(|to| to.send(RETIRE).is_ok()),
            Body::Thread { unit, .. } => {
                unit.retire(segment);
                true
            }
            _ => false,
        };
        crash_point!("supervisor.retires");
    }

    /// Why its unit has left, if it has left in order: it exited with this code.
    pub(super) fn retired(&self, segment: &Segment, code: Option<i32>) -> Option<String> {
        let left = |life: Life, message: Vec<u8>| life == Life::Leaving && message.is_empty();
        if code != Some(0) || !self.entries(segment).all(|entry| left(entry.life(), entry.message())) {
            return None;
        }
        match (&self.retiring, self.span.requests) {
            (Some(retiring), _) => Some(retiring.why.clone()),
            (None, Some(limit)) => Some(format!("it has handled the {limit} requests that it may")),
            (None, None) => None,
        }
    }
}

impl Supervisor {
    /// Tells workers that are too old to leave.
    pub(super) fn look_at_ages(&mut self) {
        if !self.restarts_workers() {
            return;
        }
        for post in &mut self.posts {
            if post.leaves_at(&self.shared.segment).is_some_and(|at| at <= Instant::now()) {
                let limit = post.span.lifetime.unwrap_or_default();
                post.retire(&self.shared.segment, format!("it has lived for the {limit:?} that it may"));
            }
        }
    }

    /// At a look: tells a worker that has too much memory to leave, and again one that could not be told.
    pub(super) fn look_at_memory(&mut self, index: usize) {
        let post = &mut self.posts[index];
        if post.retiring.is_some() {
            return post.retire(&self.shared.segment, String::new());
        }
        let (Body::Process(process), Some(limit)) = (&post.body, post.lifespan.max_rss) else { return };
        let pid = process.child.id();
        let too_much = private_bytes(pid).filter(|&bytes| bytes > limit);
        if let Some(bytes) = too_much.filter(|_| post.entries(&self.shared.segment).all(is_ready)) {
            let why = format!("it has {bytes} bytes of memory for itself, and may have {limit}");
            post.retire(&self.shared.segment, why);
        }
    }

    /// Says that a worker has left in order.
    pub(super) fn say_it_left(&self, index: usize, pid: u32, why: &str) {
        let (post, lived) = (&self.posts[index], self.posts[index].since.elapsed());
        let lived = Duration::from_millis(lived.as_millis().try_into().unwrap_or(u64::MAX));
        say(|| tracing::info!(worker = %post.title, pid, ?lived, "a worker has left: {why}"));
    }
}

fn is_ready(entry: &Entry) -> bool {
    entry.life() == Life::Ready
}
