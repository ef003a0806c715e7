//! Where payloads lie and are written: what all guards of a task share.
#![expect(unsafe_code, reason = "payload bytes in shared memory")]

use super::{At, Corrupt, Task};
use crate::layout::{INLINE_BYTES, TaskLine};
use crate::pool::{self, Handle, PoolError};
use crate::sync::{Ordering, compiler_fence, fence};
use crate::word::{Phase, State};
use core::marker::PhantomData;
use core::ptr::NonNull;

/// In `block`: the payload lies with the task whose slot the other bits say.
pub(super) const ELSEWHERE: u32 = 1 << 31;
/// In `block`, of a task that is [begun](super::At::Begun): the payload is the outcome, whole, and no longer the
/// input.
pub(super) const OUTCOME: u32 = 1 << 30;

impl TaskLine {
    /// Length and block of the payload.
    #[inline]
    pub(super) fn payload(&self) -> (u32, u32) {
        let both = self.payload.load(Ordering::Relaxed); // Relaxed: [handed] brought it
        (both as u32, (both >> 32) as u32 & !OUTCOME)
    }

    /// Block of the payload.
    #[inline]
    pub(super) fn block(&self) -> u32 {
        self.payload().1
    }

    /// Whether the payload is an outcome that was written beside the input.
    pub(super) fn is_outcome(&self) -> bool {
        self.payload.load(Ordering::Relaxed) >> 32 & u64::from(OUTCOME) != 0 // Relaxed: as above
    }

    /// One store, so that an owner that dies leaves both or none.
    #[inline]
    pub(super) fn set_payload(&self, length: u32, block: u32) {
        let both = u64::from(block) << 32 | u64::from(length);
        self.payload.store(both, Ordering::Relaxed); // Relaxed: [one owner]
    }

    #[inline]
    pub(super) fn set_block(&self, block: u32) {
        self.set_payload(self.payload().0, block);
    }
}

/// What the three guards share: a task of ours, in a state that only we change.
#[derive(Debug)]
pub(super) struct Held<'a> {
    pub(super) task: Task<'a>,
    pub(super) state: State,
}

impl<'a> Held<'a> {
    #[inline(always)]
    pub(super) fn payload(&self) -> Result<&[u8], Corrupt> {
        let (start, bytes) = self.payload_at()?;
        // SAFETY: so many bytes of the mapping lie there ([handles checked]), and until the guard is consumed or used
        // mutably no other participant writes them ([one owner]; elsewhere, [shared] of `join`).
        Ok(unsafe { core::slice::from_raw_parts(start.as_ptr(), bytes) })
    }

    /// The payload, to change it where it lies; `None` if it lies with another task, so that others may read it too.
    pub(super) fn payload_mut(&mut self) -> Result<Option<&mut [u8]>, Corrupt> {
        let (start, bytes) = self.payload_at()?;
        if self.task.line.block() & ELSEWHERE != 0 {
            return Ok(None);
        }
        // SAFETY: as above, and the guard is used mutably; no other task lists a block of this one, or its in-line buffer.
        Ok(Some(unsafe { core::slice::from_raw_parts_mut(start.as_ptr(), bytes) }))
    }

    /// Where the payload lies, and how many bytes of the mapping it has.
    #[inline(always)]
    fn payload_at(&self) -> Result<(NonNull<u8>, usize), Corrupt> {
        let (bytes, block) = self.task.line.payload();
        if block == 0
            && bytes as usize <= INLINE_BYTES
            && let Some(start) = NonNull::new(self.task.line.inline.to_read())
        {
            return Ok((start, bytes as usize));
        }
        self.payload_in(bytes, block)
    }

    /// [`payload_at`](Self::payload_at) of one that does not lie in line.
    #[inline(never)]
    fn payload_in(&self, bytes: u32, block: u32) -> Result<(NonNull<u8>, usize), Corrupt> {
        let found = match block & ELSEWHERE {
            0 => self.room(block),
            _ => self.room_elsewhere(block),
        };
        match found {
            Some((start, room)) if bytes as usize <= room => Ok((start, bytes as usize)),
            _ => Err(Corrupt { task: self.task.id, bytes, block }),
        }
    }

    /// Where a payload in `block` (0: in line) lies, and how many bytes fit there.
    pub(super) fn room(&self, block: u32) -> Option<(NonNull<u8>, usize)> {
        match Handle::from_raw(block) {
            None => Some((NonNull::new(self.task.line.inline.to_read())?, INLINE_BYTES)),
            Some(handle) => {
                let mine = pool::owns(self.task.segment, handle, self.task.id, self.state.generation());
                mine.then(|| self.task.segment.block(handle.class(), handle.index())).flatten()
            }
        }
    }

    /// Where a payload lies that another task of the request owns.
    pub(super) fn room_elsewhere(&self, block: u32) -> Option<(NonNull<u8>, usize)> {
        let task = self.task.sibling(block & !ELSEWHERE).filter(|task| task.id != self.task.id)?;
        let of = self.task.line.second.load(Ordering::Relaxed); // Relaxed: as above
        Held { task, state: task.line.word.peek() }.room(of)
    }

    /// Makes this new task refer to the payload of `of`, which stays where it lies.
    pub(super) fn refer_to(&self, of: &Held<'_>) {
        let (to, from) = (self.task.line, of.task.line);
        let (length, block) = from.payload();
        let here = block & ELSEWHERE == 0;
        to.set_payload(length, if here { ELSEWHERE | of.task.slot().1 } else { block });
        crash_point!("held.refer_block");
        // Relaxed, both: [one owner].
        to.second.store(if here { block } else { from.second.load(Ordering::Relaxed) }, Ordering::Relaxed);
    }

    /// Forgets a payload that lies elsewhere, before the task writes one of its own.
    #[inline]
    pub(super) fn come_home(&mut self) {
        let line = self.task.line;
        if line.block() & ELSEWHERE != 0 {
            line.set_block(0);
            crash_point!("held.home_half");
            line.second.store(0, Ordering::Relaxed); // Relaxed: [one owner]
        }
    }

    /// The in-line buffer, to write over what is there. A block that the payload had is kept.
    #[inline]
    pub(super) fn inline_buffer(&mut self) -> WriteBuffer<'_> {
        let line = self.task.line;
        if line.block() != 0 {
            self.come_home();
            let block = line.block();
            if block != 0 {
                self.keep_second(block);
                crash_point!("held.block_kept");
                line.set_block(0);
            }
        }
        self.inline()
    }

    #[inline]
    pub(super) fn inline(&mut self) -> WriteBuffer<'_> {
        WriteBuffer {
            start: NonNull::new(self.task.line.inline.to_write()).expect("in a mapping"),
            room: INLINE_BYTES,
            holder: PhantomData,
        }
    }

    /// A block of at least `bytes` bytes: one that the task has if it is large enough, else a new one.
    pub(super) fn block_buffer(&mut self, bytes: u64) -> Result<WriteBuffer<'_>, PoolError> {
        let line = self.task.line;
        self.come_home();
        let (id, generation) = (self.task.id, self.state.generation());
        let old = line.block();
        let second = line.second.load(Ordering::Relaxed); // Relaxed, here and below: [one owner]
        for own in [old, second] {
            if own != 0
                && let Some((start, room)) = self.room(own)
                && room as u64 >= bytes
            {
                line.set_block(own);
                crash_point!("held.blocks_swapped");
                line.second.store(if own == old { second } else { old }, Ordering::Relaxed);
                return Ok(WriteBuffer { start, room, holder: PhantomData });
            }
        }
        let handle = pool::claim(self.task.segment, id, generation, bytes, self.near())?;
        if old != 0 {
            self.keep_second(old);
        }
        line.set_block(handle.raw());
        crash_point!("held.block_recorded");
        Ok(self.buffer_in(handle))
    }

    /// The part of the blocks that is nearest to the reader of what is about to be written.
    #[inline]
    pub(super) fn near(&self) -> Option<u32> {
        let segment = self.task.segment;
        match (segment.shape().memory_parts, self.state.phase()) {
            (0, _) => None,
            (_, Some(Phase::Filling)) => segment.part_of_inputs(),
            _ => match self.task.at() {
                At::To { node, .. } | At::Begun { node, .. } => segment.part_after(node),
                _ => None,
            },
        }
    }

    /// The buffer in a block that was just claimed.
    pub(super) fn buffer_in(&mut self, handle: Handle) -> WriteBuffer<'_> {
        let found = self.task.segment.block(handle.class(), handle.index());
        let (start, room) = found.expect("it was just found");
        WriteBuffer { start, room, holder: PhantomData }
    }

    /// Remembers a block until the task is free; there is room for one.
    ///
    /// The previous block is freed once the task no longer lists it. If we freed it first and died, the next owner
    /// could reclaim the same block for its outcome and then free it as "the previous block". A repairer sweeps blocks
    /// that no task lists.
    pub(super) fn keep_second(&mut self, block: u32) {
        let line = self.task.line;
        let second = line.second.load(Ordering::Relaxed); // Relaxed, both: [one owner]
        line.second.store(block, Ordering::Relaxed);
        compiler_fence(Ordering::SeqCst); // as in `commit`
        if let Some(former) = Handle::from_raw(second).filter(|_| second != block) {
            crash_point!("held.second_left");
            self.give_back(former);
        }
    }

    /// Frees a block that the task owns and does not list.
    pub(super) fn give_back(&self, handle: Handle) {
        pool::free(self.task.segment, handle, self.task.id, self.state.generation());
    }

    /// Frees the block that is kept beside the payload's own: no participant reads it any more.
    pub(super) fn drop_second(&mut self) {
        let line = self.task.line;
        // Equal: a worker died just before its commit. Relaxed: [one owner].
        if line.block() & ELSEWHERE == 0 && line.second.load(Ordering::Relaxed) != line.block() {
            self.keep_second(0);
        }
    }

    #[inline]
    pub(super) fn set_length(&mut self, bytes: usize) {
        let line = self.task.line;
        line.set_payload(bytes as u32, line.block());
        crash_point!("held.length");
    }

    /// → FREE, since no other participant will; tells threads that wait for a free request.
    #[cold]
    pub(super) fn free_for_gone_caller(self) {
        let (task, segment) = (self.task, self.task.segment);
        self.free();
        crash_point!("held.gone_freed");
        let client = segment.shape().client_of(task.slot().0);
        let freed = segment.freed_of(client);
        freed.count_up(); // [counted]: for the caller's process, which looks for it only then
        fence(Ordering::SeqCst); // between "it is free" and "does a thread wait?"
        if freed.is_awaited() {
            freed.ring();
            segment.completed_of(client).ring(); // the thread that waits for it tells the futures
        }
    }

    /// → FREE; returns the id.
    #[inline]
    pub(super) fn free(self) -> u32 {
        let line = self.task.line;
        // Relaxed: [one owner]. Blocks first, then the word: [listed or swept].
        if line.block() | line.second.load(Ordering::Relaxed) != 0 {
            self.task.release_blocks(self.state.generation());
            crash_point!("held.blocks_freed");
        }
        line.word.free(self.state);
        self.task.id
    }
}

/// Memory to write a payload to.
#[derive(Debug)]
pub struct WriteBuffer<'g> {
    start: NonNull<u8>,
    room: usize,
    holder: PhantomData<&'g mut [u8]>,
}

impl<'g> WriteBuffer<'g> {
    /// A buffer over bytes of a segment.
    ///
    /// # Safety
    /// `room` bytes of the mapping lie at `start`, and for the lifetime they are the holder's alone.
    pub(crate) unsafe fn at(start: NonNull<u8>, room: usize) -> Self {
        Self { start, room, holder: PhantomData }
    }

    /// A buffer over ordinary memory.
    #[must_use]
    pub fn over(bytes: &'g mut [u8]) -> Self {
        let room = bytes.len();
        Self { start: NonNull::from(bytes).cast(), room, holder: PhantomData }
    }

    /// How many bytes fit.
    #[inline]
    #[must_use]
    pub fn room(&self) -> usize {
        self.room
    }

    /// Writes bytes at a position; false, and nothing written, if they do not fit.
    #[inline]
    pub fn write(&mut self, position: usize, bytes: &[u8]) -> bool {
        if position > self.room || bytes.len() > self.room - position {
            return false;
        }
        crash_point!("held.half", {
            // SAFETY: as below, and half of it.
            unsafe {
                let to = self.start.as_ptr().add(position);
                core::ptr::copy_nonoverlapping(bytes.as_ptr(), to, bytes.len() / 2);
            }
        });
        // SAFETY: in range of a buffer that the guard's holder alone may access ([one owner]).
        unsafe {
            core::ptr::copy_nonoverlapping(bytes.as_ptr(), self.start.as_ptr().add(position), bytes.len())
        };
        true
    }

    /// The buffer as bytes, with what was there before.
    #[inline]
    #[must_use]
    pub fn as_bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `write`; mapped bytes are always initialised.
        unsafe { core::slice::from_raw_parts_mut(self.start.as_ptr(), self.room) }
    }
}
