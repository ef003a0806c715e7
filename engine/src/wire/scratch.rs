//! Scratch memory of a serialiser: a little on the stack, more from the heap where that does not suffice. And the
//! buffer in which a thread makes roots.
//!
//! rkyv asks for scratch where the parts of a value are not serialised on the spot (a `Vec` of `String`s,
//! say); its own arena lies in a thread-local, and taking it and giving it back costs more than
//! serialising a small value.
#![expect(unsafe_code, reason = "an implementation of rkyv's unsafe allocator trait")]

use rkyv::ser::Allocator;
use std::alloc::{Layout, alloc, dealloc, handle_alloc_error};
use std::cell::{Cell, RefCell, UnsafeCell};
use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::ptr::NonNull;

const STACK_BYTES: usize = 256;

/// The part on the stack.
#[repr(align(16))]
pub(crate) struct ScratchStack(MaybeUninit<[u8; STACK_BYTES]>);

impl ScratchStack {
    #[inline]
    pub(crate) fn new() -> Self {
        Self(MaybeUninit::uninit())
    }

    #[inline]
    pub(crate) fn scratch(&mut self) -> Scratch<'_> {
        let start = NonNull::from(&mut self.0).cast();
        Scratch { start, used: 0, spilled: Vec::new(), stack: PhantomData }
    }
}

/// Scratch memory of one serialisation.
#[derive(Debug)]
pub struct Scratch<'a> {
    start: NonNull<u8>,
    used: usize,
    /// What came from the heap and has not been given back.
    spilled: Vec<(NonNull<u8>, Layout)>,
    stack: PhantomData<&'a mut [u8]>,
}

// SAFETY: `push_alloc` gives memory that fits the layout and that nothing else uses: a part of the stack's bytes above
// all those in use, or an allocation of its own.
unsafe impl<E> Allocator<E> for Scratch<'_> {
    unsafe fn push_alloc(&mut self, layout: Layout) -> Result<NonNull<[u8]>, E> {
        let begin = self.used.next_multiple_of(layout.align());
        let end = begin.saturating_add(layout.size());
        let start = if layout.align() <= align_of::<ScratchStack>() && end <= STACK_BYTES {
            self.used = end;
            // SAFETY: within the stack's bytes.
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
    #[inline(always)]
    fn drop(&mut self) {
        // There is something left only after a serialisation that failed on its way.
        if !self.spilled.is_empty() {
            self.give_back();
        }
    }
}

impl Scratch<'_> {
    #[cold]
    fn give_back(&mut self) {
        for (start, layout) in self.spilled.drain(..) {
            // SAFETY: allocated above with this layout and not given back.
            unsafe { dealloc(start.as_ptr(), layout) };
        }
    }
}

const ROOT_BYTES: usize = 512;

/// Where a thread makes roots. It is not freed while the thread runs, and there is no reference to it: user code that
/// keeps a `Place` in it may write to it at any time, and at worst spoils a root that is being made.
#[repr(align(16))]
struct ThreadBuffer {
    bytes: UnsafeCell<[u8; ROOT_BYTES]>,
    is_taken: Cell<bool>,
}

/// Unused buffers for larger roots, and for a root that is made while another one is.
struct LargeBuffers(RefCell<Vec<NonNull<[u128]>>>);

impl Drop for LargeBuffers {
    #[inline]
    fn drop(&mut self) {
        for buffer in self.0.get_mut().drain(..) {
            // SAFETY: from a box, below.
            drop(unsafe { Box::from_raw(buffer.as_ptr()) });
        }
    }
}

thread_local! {
    static THREAD_BUFFER: ThreadBuffer =
        const { ThreadBuffer { bytes: UnsafeCell::new([0; ROOT_BYTES]), is_taken: Cell::new(false) } };
    static LARGE_BUFFERS: LargeBuffers = const { LargeBuffers(RefCell::new(Vec::new())) };
}

/// Memory to make a root in: initialised, 16-aligned, and used by nothing else of this thread until this is dropped.
pub(crate) struct RootBuffer {
    start: *mut u8,
    large: Option<NonNull<[u128]>>,
}

impl RootBuffer {
    #[inline(always)]
    pub(crate) fn of(bytes: usize) -> Self {
        THREAD_BUFFER.with(|buffer| {
            if bytes > ROOT_BYTES || buffer.is_taken.replace(true) {
                return Self::large(bytes);
            }
            Self { start: buffer.bytes.get().cast(), large: None }
        })
    }

    #[cold]
    #[inline(never)]
    fn large(bytes: usize) -> Self {
        let take = |buffers: &LargeBuffers| {
            let mut buffers = buffers.0.borrow_mut();
            let found = buffers.iter().position(|buffer| buffer.len() * size_of::<u128>() >= bytes)?;
            Some(buffers.swap_remove(found))
        };
        let buffer = LARGE_BUFFERS.try_with(take).ok().flatten().unwrap_or_else(|| {
            let words = bytes.div_ceil(size_of::<u128>()).next_power_of_two();
            NonNull::from(Box::leak(vec![0_u128; words].into_boxed_slice()))
        });
        Self { start: buffer.as_ptr().cast(), large: Some(buffer) }
    }

    #[inline(always)]
    pub(crate) fn start(&self) -> *mut u8 {
        self.start
    }
}

impl Drop for RootBuffer {
    #[inline(always)]
    fn drop(&mut self) {
        match self.large {
            None => THREAD_BUFFER.with(|buffer| buffer.is_taken.set(false)),
            Some(buffer) => give_back(buffer),
        }
    }
}

#[cold]
#[inline(never)]
fn give_back(buffer: NonNull<[u128]>) {
    let _ = LARGE_BUFFERS.try_with(|buffers| buffers.0.borrow_mut().push(buffer)); // or leaked: the thread ends
}

#[cfg(test)]
mod tests {
    #[test]
    fn values_that_need_much_scratch_survive() {
        let value: Vec<Vec<String>> =
            (0..50).map(|i| (0..i).map(|j| format!("text number {i} {j}")).collect()).collect();
        let bytes = crate::wire::payload::to_bytes(&value).unwrap();
        let mut aligned = rkyv::util::AlignedVec::<16>::new();
        aligned.extend_from_slice(&bytes);
        let back = crate::wire::payload::view::<Vec<Vec<String>>>(&aligned).unwrap();
        assert_eq!(crate::wire::payload::owned::<Vec<Vec<String>>>(back).unwrap(), value);
    }
}
