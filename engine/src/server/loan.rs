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
use crate::wire::fill::{most_numbers, payload_bytes, write_root};
use crate::wire::payload::Payload;
use crate::wire::{Bytes, Plain};
use ringmill_shm::arena::WriteBuffer;
use ringmill_shm::layout::INLINE_BYTES;
use std::fmt;
use std::marker::PhantomData;
use std::ptr::NonNull;
use std::time::Instant;

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
        Loan::lend(&self.core, len, options, Place::Anywhere)
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
        loan.call(&self.core, options)
    }

    /// Sends a loan without waiting for the outcome, as [`submit`](Server::submit) does: several large requests can be in
    /// progress, and each can be awaited.
    ///
    /// ```no_run
    /// # fn main() -> Result<(), ringmill::BoxError> {
    /// # use ringmill::{PassThrough, Server, ThreadServlet};
    /// # let server: Server<Vec<f32>, Vec<f32>> =
    /// #     Server::builder("loans").start(ThreadServlet::<PassThrough<Vec<f32>>>::new(()))?;
    /// let mut first = server.loan(1000)?;
    /// first.as_mut_slice().fill(0.5);
    /// let first = server.submit_loan(first)?;
    /// let mut second = server.loan(1000)?; // written while a worker has the first
    /// second.as_mut_slice().fill(1.0);
    /// let second = server.submit_loan(second)?;
    /// assert_eq!((first.wait()?[0], second.wait()?[0]), (0.5.into(), 1.0.into()));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`submit`](Server::submit); [`CallError::ForeignLoan`] if it was lent by another server.
    pub fn submit_loan(&self, loan: Loan<'_, T>) -> Result<Pending<'_, Out>, CallError> {
        self.submit_loan_with(loan, CallOptions::default())
    }

    /// [`submit_loan`](Self::submit_loan) with options.
    ///
    /// # Errors
    /// As [`submit_loan`](Self::submit_loan).
    pub fn submit_loan_with(
        &self,
        loan: Loan<'_, T>,
        options: CallOptions,
    ) -> Result<Pending<'_, Out>, CallError> {
        Ok(Pending::new(Hold::lent(&self.core), loan.submit(&self.core, options)?))
    }

    /// The length of the longest loan: as many numbers as fit into a block of the largest size class.
    #[must_use]
    pub fn largest_loan(&self) -> usize {
        most_numbers::<T>(self.core.segment.shape().largest_payload())
    }
}

impl<Out: Payload> Server<Bytes, Out> {
    /// A buffer in the segment for `len` bytes, for a server whose input is [`Bytes`]. It begins at a multiple of 64, in a
    /// payload block also if it is small, and counts as a request in progress.
    ///
    /// ```
    /// # fn main() -> Result<(), ringmill::BoxError> {
    /// use ringmill::payload::Bytes;
    /// use ringmill::{PassThrough, Server, ThreadServlet};
    /// let server = Server::anonymous("bytes").start(ThreadServlet::<PassThrough<Bytes>>::new(()))?;
    /// let mut loan = server.loan(1000)?;
    /// loan.as_mut_slice().fill(7);
    /// assert_eq!(server.call_loan(loan)?[..], [7; 1000]);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`CallError::PayloadTooLarge`], [`CallError::PoolExhausted`], [`CallError::NoMemory`], or an error of a server that
    /// takes no request.
    pub fn loan(&self, len: usize) -> Result<Loan<'_, u8>, CallError> {
        self.loan_with(len, CallOptions::default())
    }

    /// `loan` with options: whether to wait for a permit, and how long.
    ///
    /// # Errors
    /// As `loan`.
    pub fn loan_with(&self, len: usize, options: CallOptions) -> Result<Loan<'_, u8>, CallError> {
        Loan::lend(&self.core, len, options, Place::InBlock)
    }

    /// Sends a loan and waits for the outcome, as [`call`](Server::call) does.
    ///
    /// # Errors
    /// See [`CallError`].
    pub fn call_loan<'s>(&'s self, loan: Loan<'s, u8>) -> Result<Reply<'s, Out>, CallError> {
        self.call_loan_with(loan, CallOptions::default())
    }

    /// `call_loan` with options.
    ///
    /// # Errors
    /// See [`CallError`]; [`CallError::ForeignLoan`] if it was lent by another server.
    pub fn call_loan_with<'s>(
        &'s self,
        loan: Loan<'s, u8>,
        options: CallOptions,
    ) -> Result<Reply<'s, Out>, CallError> {
        loan.call(&self.core, options)
    }

    /// Sends a loan without waiting for the outcome, as [`submit`](Server::submit) does.
    ///
    /// # Errors
    /// As [`submit`](Server::submit); [`CallError::ForeignLoan`] if it was lent by another server.
    pub fn submit_loan(&self, loan: Loan<'_, u8>) -> Result<Pending<'_, Out>, CallError> {
        self.submit_loan_with(loan, CallOptions::default())
    }

    /// `submit_loan` with options.
    ///
    /// # Errors
    /// As `submit_loan`.
    pub fn submit_loan_with(
        &self,
        loan: Loan<'_, u8>,
        options: CallOptions,
    ) -> Result<Pending<'_, Out>, CallError> {
        Ok(Pending::new(Hold::lent(&self.core), loan.submit(&self.core, options)?))
    }

    /// The length of the longest loan: as many bytes as fit into a block of the largest size class.
    #[must_use]
    pub fn largest_loan(&self) -> usize {
        most_numbers::<u8>(self.core.segment.shape().largest_payload())
    }
}

/// Where the buffer of a loan may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// In line, or in a block.
    Anywhere,
    /// In a block, which begins at a multiple of a line.
    InBlock,
}

impl<'s, T: Plain> Loan<'s, T> {
    pub(super) fn lend(
        core: &'s Core,
        len: usize,
        options: CallOptions,
        place: Place,
    ) -> Result<Self, CallError> {
        let largest = core.segment.shape().largest_payload();
        let bytes = payload_bytes::<T>(len);
        if bytes as u64 > largest {
            return Err(core.told(CallError::PayloadTooLarge { bytes: bytes as u64, largest }));
        }
        let (id, clock) = core.acquire(options)?;
        let mut filled = Filled::begin(core, id);
        let filling = filled.filling();
        let mut buffer = match bytes {
            n if n <= INLINE_BYTES && place == Place::Anywhere => filling.inline_buffer(),
            n => filling
                .block_buffer(n as u64)
                .map_err(|error| core.told(crate::wire::EncodeError::from(error).into()))?,
        };
        let start = NonNull::from(buffer.as_bytes_mut()).cast();
        Ok(Self { filled, start, len, clock, numbers: PhantomData })
    }

    /// Sends it to a core, which must be that of its lender, and waits.
    pub(super) fn call<Out: Payload>(
        mut self,
        core: &'s Core,
        options: CallOptions,
    ) -> Result<Reply<'s, Out>, CallError> {
        if !options.is_plain() {
            return Pending::new(Hold::lent(core), self.submit(core, options)?).wait();
        }
        self.complete(core)?;
        core.finish_call(self.filled, self.clock, options.timeout)
    }

    /// Sends it to a core, which must be that of its lender.
    pub(super) fn submit(mut self, core: &Core, options: CallOptions) -> Result<Sent, CallError> {
        self.complete(core)?;
        let begun = Instant::now();
        core.in_time(options, begun)?;
        Sent::send(core, self.filled, begun, waited(self.clock), options)
    }

    /// Writes what is left to write, for a core that must be that of its lender.
    fn complete(&mut self, core: &Core) -> Result<(), CallError> {
        if !self.filled.is_of(core) {
            return Err(core.told(CallError::ForeignLoan));
        }
        core.own()?;
        self.write_root();
        Ok(())
    }
}

impl<T: Plain> Loan<'_, T> {
    /// Numbers, padding and root.
    fn bytes(&self) -> usize {
        payload_bytes::<T>(self.len)
    }

    /// The whole buffer.
    fn buffer(&mut self) -> WriteBuffer<'_> {
        // SAFETY: the buffer has at least that many bytes, checked when it was lent; the request is FILLING and held by
        // this loan, so no other code touches them while the loan is borrowed.
        WriteBuffer::over(unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.bytes()) })
    }

    /// Writes the root after the numbers.
    fn write_root(&mut self) {
        let len = self.len;
        assert!(write_root::<T>(self.buffer(), len), "the buffer has room for it");
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
