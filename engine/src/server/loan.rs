//! Loans: large inputs that the caller writes straight into the segment.
//!
//! A loan of `n` numbers is laid out exactly as rkyv lays out a `Vec` of them: the numbers, then the root that points
//! to them. So the worker reads it as that `Vec`, and no byte is copied.
#![expect(unsafe_code, reason = "payload bytes as numbers")]

use super::Server;
use crate::client::pending::{Pending, Sent};
use crate::client::reply::Reply;
use crate::client::{CallOptions, Clock, Core, Filled, Hold, waited};
use crate::error::CallError;
use crate::wire::payload::Payload;
use ringmill_shm::arena::WriteBuffer;
use ringmill_shm::layout::INLINE_BYTES;
use rkyv::Archived;
use rkyv::ser::{Positional, Writer, WriterExt};
use rkyv::vec::{ArchivedVec, VecResolver};
use std::fmt;
use std::marker::PhantomData;
use std::ptr::NonNull;
use std::time::Instant;

/// Numbers whose archived bytes are their own bytes, and for which any bytes are a value.
///
/// # Safety
/// `Archived<Self>` has the size and bytes of `Self`, any bit pattern of either is valid.
pub unsafe trait Plain: Payload + Copy {}

macro_rules! plain {
    ($($number:ty),+) => {$(
        // SAFETY: rkyv's little-endian format archives the number as its own bytes, and this crate builds only on
        // little-endian machines.
        unsafe impl Plain for $number {}
        const _: () = assert!(size_of::<Archived<$number>>() == size_of::<$number>());
    )+};
}
plain!(u8, i8, u16, i16, u32, i32, u64, i64, f32, f64);

/// A buffer in the segment for an input of numbers: write it, then send it with [`Server::call_loan`]. At first it has
/// the bytes of an earlier use. Dropping it gives its request back.
pub struct Loan<'s, T: Plain> {
    filled: Filled<'s>,
    /// The buffer, as the segment gave it: the loan never looks its address up again.
    start: NonNull<u8>,
    len: usize,
    clock: Clock,
    numbers: PhantomData<T>,
}

// SAFETY: `start` is a buffer of the request that `filled` holds, so it is like a mutable reference to that.
unsafe impl<T: Plain> Send for Loan<'_, T> {}
// SAFETY: as above; a shared loan gives no access to the buffer.
unsafe impl<T: Plain> Sync for Loan<'_, T> {}

impl<T: Plain> fmt::Debug for Loan<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Loan").field("len", &self.len).finish_non_exhaustive()
    }
}

/// The root of an archived vector whose numbers lie at the beginning of the payload.
struct Root<T> {
    len: usize,
    numbers: PhantomData<T>,
}

impl<T: Plain> rkyv::Archive for Root<T> {
    type Archived = ArchivedVec<Archived<T>>;
    type Resolver = VecResolver;

    fn resolve(&self, resolver: VecResolver, out: rkyv::Place<Self::Archived>) {
        ArchivedVec::resolve_from_len(self.len, resolver, out);
    }
}

/// The position of the root: behind the numbers and padding.
fn root_position<T: Plain>(len: usize) -> Option<usize> {
    let numbers = len.checked_mul(size_of::<T>())?;
    numbers.checked_next_multiple_of(align_of::<ArchivedVec<Archived<T>>>())
}

fn payload_bytes<T: Plain>(len: usize) -> Option<usize> {
    root_position::<T>(len)?.checked_add(size_of::<ArchivedVec<Archived<T>>>())
}

impl<T: Plain, Out: Payload> Server<Vec<T>, Out> {
    /// A buffer in the segment for `len` numbers, for a server whose input is a `Vec` of them. It counts as a request
    /// in progress.
    ///
    /// ```no_run
    /// # fn main() -> Result<(), ringmill::BoxError> {
    /// use ringmill::{PassThrough, Server, ThreadServlet};
    /// let server = Server::builder("large")
    ///     .max_payload(4 << 20)
    ///     .start(ThreadServlet::<PassThrough<Vec<f32>>>::new(()))?;
    /// let mut loan = server.loan(1_000_000)?;
    /// loan.as_mut_slice().fill(0.5);
    /// assert_eq!(server.call_loan(loan)?.len(), 1_000_000);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`CallError::PayloadTooLarge`], [`CallError::PoolExhausted`], [`CallError::NoMemory`], or an error of a server that
    /// takes no request.
    pub fn loan(&self, len: usize) -> Result<Loan<'_, T>, CallError> {
        self.loan_with(len, CallOptions::default())
    }

    /// [`loan`](Self::loan) with options: whether to wait for a permit, and how long.
    ///
    /// # Errors
    /// As [`loan`](Self::loan).
    pub fn loan_with(&self, len: usize, options: CallOptions) -> Result<Loan<'_, T>, CallError> {
        Loan::lend(&self.core, len, options)
    }

    /// Sends a loan and waits for the outcome, as [`call`](Server::call) does.
    ///
    /// # Errors
    /// See [`CallError`].
    pub fn call_loan<'s>(&'s self, loan: Loan<'s, T>) -> Result<Reply<'s, Out>, CallError> {
        self.call_loan_with(loan, CallOptions::default())
    }

    /// [`call_loan`](Self::call_loan) with options.
    ///
    /// # Errors
    /// See [`CallError`]; [`CallError::ForeignLoan`] if it was lent by another server.
    pub fn call_loan_with<'s>(
        &'s self,
        loan: Loan<'s, T>,
        options: CallOptions,
    ) -> Result<Reply<'s, Out>, CallError> {
        loan.send(&self.core, options)
    }
}

impl<'s, T: Plain> Loan<'s, T> {
    pub(super) fn lend(core: &'s Core, len: usize, options: CallOptions) -> Result<Self, CallError> {
        let largest = core.segment.shape().largest_payload();
        let bytes = payload_bytes::<T>(len).filter(|&bytes| bytes as u64 <= largest);
        let Some(bytes) = bytes else {
            let bytes = (len as u64).saturating_mul(size_of::<T>() as u64);
            return Err(core.told(CallError::PayloadTooLarge { bytes, largest }));
        };
        let (id, clock) = core.acquire(options)?;
        let mut filled = Filled::begin(core, id);
        let filling = filled.filling();
        let mut buffer = match bytes {
            n if n <= INLINE_BYTES => filling.inline_buffer(),
            n => filling
                .block_buffer(n as u64)
                .map_err(|error| core.told(crate::wire::EncodeError::from(error).into()))?,
        };
        let start = NonNull::from(buffer.as_bytes_mut()).cast();
        Ok(Self { filled, start, len, clock, numbers: PhantomData })
    }

    /// Sends it to a core, which must be that of its lender.
    pub(super) fn send<Out: Payload>(
        mut self,
        core: &'s Core,
        options: CallOptions,
    ) -> Result<Reply<'s, Out>, CallError> {
        if !self.filled.is_of(core) {
            return Err(core.told(CallError::ForeignLoan));
        }
        core.own()?;
        self.write_root();
        if !options.is_plain() {
            let begun = Instant::now();
            core.in_time(options, begun)?;
            let sent = Sent::send(core, self.filled, begun, waited(self.clock), options)?;
            return Pending::new(Hold::lent(core), sent).wait();
        }
        core.finish_call(self.filled, self.clock, options.timeout)
    }
}

impl<T: Plain> Loan<'_, T> {
    /// Numbers, padding and root.
    fn bytes(&self) -> usize {
        payload_bytes::<T>(self.len).expect("checked when lent")
    }

    /// The whole buffer.
    fn buffer(&mut self) -> WriteBuffer<'_> {
        // SAFETY: the buffer has at least that many bytes, checked when it was lent; the request is FILLING and held by
        // this loan, so no other code touches them while the loan is borrowed.
        WriteBuffer::over(unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.bytes()) })
    }

    /// Writes the root after the numbers.
    fn write_root(&mut self) {
        struct At<'a>(WriteBuffer<'a>, usize);
        impl Positional for At<'_> {
            fn pos(&self) -> usize {
                self.1
            }
        }
        impl Writer<rkyv::rancor::Infallible> for At<'_> {
            fn write(&mut self, bytes: &[u8]) -> Result<(), rkyv::rancor::Infallible> {
                self.0.write(self.1, bytes);
                self.1 += bytes.len();
                Ok(())
            }
        }
        let position = root_position::<T>(self.len).expect("checked when lent");
        let root = Root::<T> { len: self.len, numbers: PhantomData };
        let mut writer = At(self.buffer(), position);
        // SAFETY: the position is aligned for the root, and the resolver is that of numbers at the payload's beginning.
        let written = unsafe { writer.resolve_aligned(&root, VecResolver::from_pos(0)) };
        written.unwrap_or_else(|never| match never {});
        let bytes = self.bytes();
        self.filled.filling().set_length(bytes);
    }

    /// The numbers.
    ///
    /// # Panics
    /// In a process forked from the server's, which does not own the numbers.
    #[must_use]
    pub fn as_mut_slice(&mut self) -> &mut [T] {
        if !self.filled.core().birth.is_here() {
            crate::client::reply::not_ours(self.filled.core());
        }
        let start: *mut T = self.start.as_ptr().cast();
        // SAFETY: buffers are 16-aligned and hold the numbers; any bytes are numbers (`Plain`); the request is FILLING
        // and held by this loan, so no other code touches them while the loan is borrowed.
        unsafe { std::slice::from_raw_parts_mut(start, self.len) }
    }
}
