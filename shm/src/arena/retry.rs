//! Retries: what a worker that dies leaves for the next, and what a repairer does with it.
//!
//! # Protocol
//!
//! A worker records that user code will see a task ([`Claimed::begin_work`]). Where another worker is to retry the task
//! after its death, it writes the outcome beside the input ([`Keeping`]), and then makes it the payload with one store
//! (`[committed]` of `arena`). So a repairer that finds a dead worker's task knows by `at` and that mark what to do:
//!
//! | `at` | Mark | The task |
//! |---|---|---|
//! | To | – | was not begun: it is requeued |
//! | Begun | none | was being worked on; its input is whole if it was kept: an error, or requeued |
//! | Begun | set | had its outcome: it is moved on, or ended if that is an error |
//! | Spoilt | – | was being written over: an error |
//!
//! # Crash
//!
//! No task lists a block that was claimed for an outcome until the commit; `repair` frees it. A repairer that dies
//! between counting an attempt and requeueing leaves an attempt that is counted twice, never one that is not counted.

use super::held::{ELSEWHERE, Held, OUTCOME};
use super::{At, Claimed, WriteBuffer};
use crate::pool::{self, Handle, PoolError};
use crate::sync::{Ordering, compiler_fence};

/// After all of a batch have [begun](Claimed::begin_work), and before user code sees one.
#[inline]
pub fn all_begun() {
    compiler_fence(Ordering::SeqCst); // a worker that dies has done its steps in the order of the program
}

impl<'a> Claimed<'a> {
    /// → QUEUED once more for the node where it was, in a group of this number; the push must follow.
    /// `another_attempt`: the attempt counts.
    ///
    /// # Errors
    /// As [`queue`](Self::queue).
    pub fn requeue(
        self,
        node: u32,
        now_ns: impl FnOnce() -> u64,
        another_attempt: bool,
        group: u32,
    ) -> Result<u32, Self> {
        let before = match self.held.task.at() {
            At::To { retried: false, .. } => 0, // on its way here, with the attempts of the node before
            _ => self.attempt(),
        };
        let attempt = before.saturating_add(u8::from(another_attempt));
        if another_attempt {
            // Before it looks as if no worker had begun it: see *Crash*.
            self.held.task.word().count_attempt(self.me, attempt);
            crash_point!("arena.attempt_counted");
        }
        self.queue_at(At::To { node, group, retried: true }, node, now_ns, attempt)
    }

    /// Records that user code will see it at this node, after [`all_begun`]. No user code has seen a task of which a
    /// dead worker had not recorded this.
    #[inline]
    pub fn begin_work(&self, node: u32) {
        self.held.task.set_at(At::Begun { node, failed: false });
        crash_point!("arena.work_begun");
    }

    /// Whether its payload is the outcome of the worker that died with it.
    #[must_use]
    pub fn is_outcome(&self) -> bool {
        self.held.task.line.is_outcome()
    }

    /// Its outcome will be written beside its input.
    #[must_use]
    pub fn keep_input(self) -> Keeping<'a> {
        Keeping { task: self, beside: Beside::InLine }
    }

    /// [`keep_input`](Self::keep_input) for an error record, at this node.
    #[must_use]
    pub fn keep_input_for_error(self, node: u32) -> Keeping<'a> {
        self.held.task.set_at(At::Begun { node, failed: true });
        crash_point!("arena.error_begun");
        self.keep_input()
    }

    /// What is written from here on lies over the input: no worker can retry the task, or move it on as it is.
    pub fn give_up_input(&self) {
        self.held.task.set_at(At::Spoilt);
        crash_point!("arena.spoilt");
        compiler_fence(Ordering::SeqCst); // before anything is written, as in `all_begun`
    }
}

/// A task of a worker whose input stays whole until the outcome is.
#[derive(Debug)]
pub struct Keeping<'a> {
    task: Claimed<'a>,
    beside: Beside,
}

/// Where the outcome is being written.
#[derive(Debug, Clone, Copy)]
enum Beside {
    InLine,
    /// In a block that the task does not list yet.
    Block(Handle),
    /// Over the input after all.
    Over,
}

impl<'a> Keeping<'a> {
    /// The in-line buffer; one without room if the input lies there.
    pub fn inline_buffer(&mut self) -> WriteBuffer<'_> {
        if let Beside::Over = self.beside {
            return self.task.inline_buffer();
        }
        self.give_back();
        match self.task.held.task.line.block() {
            0 => WriteBuffer::over(&mut []),
            _ => self.task.held.inline(),
        }
    }

    /// A block of at least `bytes` bytes that the input does not lie in.
    ///
    /// # Errors
    /// See [`PoolError`].
    pub fn block_buffer(&mut self, bytes: u64) -> Result<WriteBuffer<'_>, PoolError> {
        if let Beside::Over = self.beside {
            return self.task.block_buffer(bytes);
        }
        self.give_back();
        let held = &mut self.task.held;
        held.drop_second(); // an earlier node's: with the input's and the outcome's there would be three
        let near = held.near();
        let handle = pool::claim(held.task.segment, held.task.id, held.state.generation(), bytes, near)?;
        self.beside = Beside::Block(handle);
        Ok(held.buffer_in(handle))
    }

    /// The length of the payload that was written to the last buffer asked for; it is the task's now.
    pub fn set_length(&mut self, bytes: usize) {
        match self.beside {
            Beside::Over => self.task.set_length(bytes),
            Beside::InLine => self.task.held.commit(bytes, 0),
            Beside::Block(handle) => self.task.held.commit(bytes, handle.raw()),
        }
        if let Beside::Block(_) = self.beside {
            self.beside = Beside::InLine; // the block is listed now
        }
    }

    /// From here on there is always a buffer, over the input: see [`Claimed::give_up_input`].
    pub fn give_up_input(&mut self) {
        self.give_back();
        self.beside = Beside::Over;
        self.task.give_up_input();
    }

    /// The task, with its outcome if a length was set.
    #[must_use]
    pub fn done(mut self) -> Claimed<'a> {
        self.give_back();
        self.task
    }

    fn give_back(&mut self) {
        if let Beside::Block(handle) = self.beside {
            self.task.held.give_back(handle);
            self.beside = Beside::InLine;
        }
    }
}

impl Held<'_> {
    /// Makes what was written beside the input the payload; the input's own block stays with the task.
    fn commit(&mut self, bytes: usize, block: u32) {
        let line = self.task.line;
        let (input, elsewhere) = (line.block(), line.block() & ELSEWHERE != 0);
        if input != 0 && !elsewhere {
            self.keep_second(input);
        }
        crash_point!("held.committing");
        compiler_fence(Ordering::SeqCst); // written whole: as in `all_begun`
        line.set_payload(bytes as u32, block | OUTCOME); // [committed]
        crash_point!("held.committed");
        if elsewhere {
            line.second.store(0, Ordering::Relaxed); // Relaxed: [one owner]; it named a block that is not ours
        }
    }
}
