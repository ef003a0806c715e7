//! Scratch memory of a serialiser: a little on the stack, more from the heap where it does not suffice.
//!
//! rkyv asks for scratch where the parts of a value are not serialised on the spot (a `Vec` of `String`s,
//! say); its own arena lies in a thread-local, and taking it and giving it back costs more than
//! serialising a small value.
#![expect(unsafe_code, reason = "an implementation of rkyv's unsafe allocator trait")]

use rkyv::ser::Allocator;
use std::alloc::{Layout, alloc, dealloc, handle_alloc_error};
use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::ptr::NonNull;

const STACK_BYTES: usize = 256;

/// The part on the stack.
#[repr(align(16))]
pub(crate) struct ScratchRoom(MaybeUninit<[u8; STACK_BYTES]>);

impl ScratchRoom {
    #[inline]
    pub(crate) fn new() -> Self {
        Self(MaybeUninit::uninit())
    }

    #[inline]
    pub(crate) fn scratch(&mut self) -> Scratch<'_> {
        let start = NonNull::from(&mut self.0).cast();
        Scratch { start, used: 0, spilled: Vec::new(), room: PhantomData }
    }
}

/// Scratch memory of one serialisation.
#[derive(Debug)]
pub struct Scratch<'a> {
    start: NonNull<u8>,
    used: usize,
    /// What came from the heap and has not been given back.
    spilled: Vec<(NonNull<u8>, Layout)>,
    room: PhantomData<&'a mut [u8]>,
}

// SAFETY: `push_alloc` gives memory that fits the layout and that nobody else has: a part of the room on the
// stack above all that is in use, or an allocation of its own.
unsafe impl<E> Allocator<E> for Scratch<'_> {
    unsafe fn push_alloc(&mut self, layout: Layout) -> Result<NonNull<[u8]>, E> {
        let begin = self.used.next_multiple_of(layout.align());
        let end = begin.saturating_add(layout.size());
        let start = if layout.align() <= align_of::<ScratchRoom>() && end <= STACK_BYTES {
            self.used = end;
            // SAFETY: within the room.
            unsafe { self.start.add(begin) }
        } else {
            // SAFETY: the trait's caller gives layouts of non-zero size.
            let start = NonNull::new(unsafe { alloc(layout) }).unwrap_or_else(|| handle_alloc_error(layout));
            self.spilled.push((start, layout));
            start
        };
        Ok(NonNull::slice_from_raw_parts(start, layout.size()))
    }

    unsafe fn pop_alloc(&mut self, start: NonNull<u8>, layout: Layout) -> Result<(), E> {
        if self.spilled.last().is_some_and(|(last, _)| *last == start) {
            self.spilled.pop();
            // SAFETY: allocated above with this layout, which the trait's caller repeats.
            unsafe { dealloc(start.as_ptr(), layout) };
        } else {
            self.used = (start.as_ptr() as usize).saturating_sub(self.start.as_ptr() as usize).min(self.used);
        }
        Ok(())
    }
}

impl Drop for Scratch<'_> {
    fn drop(&mut self) {
        // Only after a serialisation that failed on its way.
        for (start, layout) in self.spilled.drain(..) {
            // SAFETY: allocated above with this layout and not given back.
            unsafe { dealloc(start.as_ptr(), layout) };
        }
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn values_that_need_much_scratch_survive() {
        let value: Vec<Vec<String>> =
            (0..50).map(|i| (0..i).map(|j| format!("text number {i} {j}")).collect()).collect();
        let bytes = crate::payload::to_bytes(&value).unwrap();
        let mut aligned = rkyv::util::AlignedVec::<16>::new();
        aligned.extend_from_slice(&bytes);
        let back = crate::payload::view::<Vec<Vec<String>>>(&aligned).unwrap();
        assert_eq!(crate::payload::owned::<Vec<Vec<String>>>(back).unwrap(), value);
    }
}
