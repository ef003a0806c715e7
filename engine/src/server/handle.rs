//! Handles: a server's calls without a borrow of the server.

use super::Server;
use super::debug::DebugInfo;
use super::loan::{Loan, Place};
use super::stats::ServerStats;
use super::traces::Traces;
use crate::client::pending::{CallFuture, Pending};
use crate::client::reply::Reply;
use crate::client::stream::{AsyncStream, Inputs, Prepared, Stream, StreamOptions};
use crate::client::streaming::StreamingCall;
use crate::client::{CallOptions, Hold, Keeper};
use crate::error::{BoxError, CallError, NotReady};
use crate::policy::placement::Placement;
use crate::wire::fill::most_numbers;
use crate::wire::payload::{AsInput, Payload};
use crate::wire::{Bytes, Plain};
use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;

/// Calls a [`Server`], and does not borrow it: it is `'static`, `Send` and `Sync`, and cheap to clone. From
/// [`Server::handle`].
///
/// It is what a service keeps in its state and gives to its tasks and threads, while `main` keeps the server, and with
/// it says when the workers end. What a handle gives without waiting for an outcome is `'static` too: a
/// [`Pending`], a [future](CallFuture), a [stream](Stream). It can be kept in a struct, and spawned.
///
/// A handle keeps no worker alive. Once the server is dropped or [shut down](Server::shutdown), each call of a handle
/// ends with [`CallError::ShuttingDown`], as calls do while the server shuts down; requests that were in progress then
/// have had their outcomes, and can be waited for. The segment's files are gone, but its memory stays mapped until the
/// last handle is dropped, with all that handles gave.
///
/// ```no_run
/// use ringmill::{BoxError, CallError, Handle, PassThrough, Server, ThreadServlet};
///
/// /// The state of a service, which its framework clones for each request.
/// #[derive(Clone)]
/// struct App {
///     echo: Handle<String, String>,
/// }
///
/// async fn answer(app: App, body: String) -> Result<String, CallError> {
///     app.echo.call_async(body).await?.into_owned()
/// }
///
/// #[tokio::main]
/// async fn main() -> Result<(), BoxError> {
///     let server = Server::builder("service").start_async(ThreadServlet::<PassThrough<String>>::new(())).await?;
///     let app = App { echo: server.handle() };
///     let task = tokio::spawn(answer(app.clone(), "hello".into()));
///     assert_eq!(task.await??, "hello");
///     let future = app.echo.call_async("hello".to_string()); // owns its input
///     assert_eq!(tokio::spawn(future).await??.as_str(), "hello");
///     server.shutdown();
///     assert!(matches!(app.echo.call_ref("late"), Err(CallError::ShuttingDown)));
///     Ok(())
/// }
/// ```
pub struct Handle<In, Out> {
    pub(super) core: Hold<'static>,
    types: PhantomData<fn(&In) -> Out>,
}

impl<In, Out> Clone for Handle<In, Out> {
    fn clone(&self) -> Self {
        Self { core: self.core.clone(), types: PhantomData }
    }
}

impl<In, Out> fmt::Debug for Handle<In, Out> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handle").field("name", &self.core.name).finish_non_exhaustive()
    }
}

impl<In, Out> Handle<In, Out> {
    pub(super) fn new(keeper: &Arc<Keeper>) -> Self {
        Self { core: Hold::kept(Arc::clone(keeper)), types: PhantomData }
    }
}

impl<In: Payload, Out: Payload> Handle<In, Out> {
    /// As [`Server::call`]: the reply borrows the handle.
    ///
    /// # Errors
    /// See [`CallError`].
    #[inline]
    pub fn call(&self, input: &In) -> Result<Reply<'_, Out>, CallError> {
        self.core.call::<In, Out>(input, CallOptions::default())
    }

    /// As [`Server::call_with`].
    ///
    /// # Errors
    /// See [`CallError`].
    #[inline]
    pub fn call_with(&self, input: &In, options: CallOptions) -> Result<Reply<'_, Out>, CallError> {
        self.core.call::<In, Out>(input, options)
    }

    /// As [`Server::call_ref`].
    ///
    /// # Errors
    /// See [`CallError`].
    #[inline]
    pub fn call_ref(&self, input: impl AsInput<In>) -> Result<Reply<'_, Out>, CallError> {
        self.core.call(input, CallOptions::default())
    }

    /// As [`Server::call_ref_with`].
    ///
    /// # Errors
    /// See [`CallError`].
    #[inline]
    pub fn call_ref_with(
        &self,
        input: impl AsInput<In>,
        options: CallOptions,
    ) -> Result<Reply<'_, Out>, CallError> {
        self.core.call(input, options)
    }

    /// As [`Server::submit`]: the `Pending` is `'static`, and so is its reply.
    ///
    /// # Errors
    /// See [`CallError`].
    pub fn submit(&self, input: &In) -> Result<Pending<'static, Out>, CallError> {
        self.submit_ref_with(input, CallOptions::default())
    }

    /// As [`Server::submit_with`].
    ///
    /// # Errors
    /// See [`CallError`].
    pub fn submit_with(&self, input: &In, options: CallOptions) -> Result<Pending<'static, Out>, CallError> {
        self.submit_ref_with(input, options)
    }

    /// As [`Server::submit_ref`].
    ///
    /// # Errors
    /// See [`CallError`].
    pub fn submit_ref(&self, input: impl AsInput<In>) -> Result<Pending<'static, Out>, CallError> {
        self.submit_ref_with(input, CallOptions::default())
    }

    /// As [`Server::submit_ref_with`].
    ///
    /// # Errors
    /// See [`CallError`].
    pub fn submit_ref_with(
        &self,
        input: impl AsInput<In>,
        options: CallOptions,
    ) -> Result<Pending<'static, Out>, CallError> {
        self.core.clone().submit(input, options)
    }

    /// As [`Server::call_streaming`]: the call is `'static`.
    ///
    /// # Errors
    /// As those of [`Server::call_streaming`].
    pub fn call_streaming<P: Payload>(
        &self,
        input: &In,
    ) -> Result<StreamingCall<'static, P, Out>, CallError> {
        self.call_streaming_with(input, CallOptions::default())
    }

    /// As [`Server::call_streaming_with`].
    ///
    /// # Errors
    /// As those of [`Server::call_streaming`].
    pub fn call_streaming_with<P: Payload>(
        &self,
        input: impl AsInput<In>,
        options: CallOptions,
    ) -> Result<StreamingCall<'static, P, Out>, CallError> {
        self.core.clone().call_streaming(input, options)
    }

    /// As [`Server::call_async`]. The future owns its input, or what it is given in its place: then it is `'static` if
    /// that is. It drops the input once that was sent.
    pub fn call_async<I: AsInput<In>>(&self, input: I) -> CallFuture<'static, In, Out, I> {
        self.call_async_with(input, CallOptions::default())
    }

    /// As [`Server::call_async_with`].
    pub fn call_async_with<I: AsInput<In>>(
        &self,
        input: I,
        options: CallOptions,
    ) -> CallFuture<'static, In, Out, I> {
        CallFuture::new(self.core.clone(), input, options)
    }

    /// As [`Server::stream`]: `'static` if its inputs are.
    pub fn stream<I>(&self, inputs: I) -> Stream<'static, Inputs<I::IntoIter>, Out>
    where
        I: IntoIterator<Item = In>,
    {
        self.stream_with(inputs, StreamOptions::default())
    }

    /// As [`Server::stream_with`].
    pub fn stream_with<I>(
        &self,
        inputs: I,
        options: StreamOptions,
    ) -> Stream<'static, Inputs<I::IntoIter>, Out>
    where
        I: IntoIterator<Item = In>,
    {
        Stream::new(self.core.clone(), Inputs(inputs.into_iter().fuse()), options)
    }

    /// As [`Server::stream_prepared`].
    pub fn stream_prepared<I, F, E>(
        &self,
        items: I,
        prepare: F,
    ) -> Stream<'static, Prepared<I::IntoIter, F, In>, Out>
    where
        I: IntoIterator,
        F: FnMut(&I::Item) -> Result<In, E>,
        E: Into<BoxError>,
    {
        self.stream_prepared_with(items, prepare, StreamOptions::default())
    }

    /// As [`Server::stream_prepared_with`].
    pub fn stream_prepared_with<I, F, E>(
        &self,
        items: I,
        prepare: F,
        options: StreamOptions,
    ) -> Stream<'static, Prepared<I::IntoIter, F, In>, Out>
    where
        I: IntoIterator,
        F: FnMut(&I::Item) -> Result<In, E>,
        E: Into<BoxError>,
    {
        let source = Prepared { items: items.into_iter().fuse(), prepare, input: PhantomData };
        Stream::new(self.core.clone(), source, options)
    }

    /// As [`Server::stream_async`]: `'static` if its inputs are.
    pub fn stream_async<S>(&self, inputs: S) -> AsyncStream<'static, S, Out>
    where
        S: futures_core::Stream<Item = In>,
    {
        self.stream_async_with(inputs, StreamOptions::default())
    }

    /// As [`Server::stream_async_with`].
    pub fn stream_async_with<S>(&self, inputs: S, options: StreamOptions) -> AsyncStream<'static, S, Out>
    where
        S: futures_core::Stream<Item = In>,
    {
        AsyncStream::new(self.core.clone(), inputs, options)
    }
}

impl<T: Plain, Out: Payload> Handle<Vec<T>, Out> {
    /// As [`Server::loan`]: the loan borrows the handle.
    ///
    /// # Errors
    /// As [`Server::loan`].
    pub fn loan(&self, len: usize) -> Result<Loan<'_, T>, CallError> {
        self.loan_with(len, CallOptions::default())
    }

    /// As [`Server::loan_with`].
    ///
    /// # Errors
    /// As [`Server::loan`].
    pub fn loan_with(&self, len: usize, options: CallOptions) -> Result<Loan<'_, T>, CallError> {
        Loan::lend(&self.core, len, options, Place::Anywhere)
    }

    /// As [`Server::call_loan`]. The loan may be of this handle, of a clone of it, or of their server.
    ///
    /// # Errors
    /// See [`CallError`].
    pub fn call_loan<'s>(&'s self, loan: Loan<'s, T>) -> Result<Reply<'s, Out>, CallError> {
        self.call_loan_with(loan, CallOptions::default())
    }

    /// As [`Server::call_loan_with`].
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

    /// As [`Server::submit_loan`]: the `Pending` is `'static`, and so is its reply.
    ///
    /// # Errors
    /// As [`Server::submit_loan`].
    pub fn submit_loan(&self, loan: Loan<'_, T>) -> Result<Pending<'static, Out>, CallError> {
        self.submit_loan_with(loan, CallOptions::default())
    }

    /// As [`Server::submit_loan_with`].
    ///
    /// # Errors
    /// As [`Server::submit_loan`].
    pub fn submit_loan_with(
        &self,
        loan: Loan<'_, T>,
        options: CallOptions,
    ) -> Result<Pending<'static, Out>, CallError> {
        Ok(Pending::new(self.core.clone(), loan.submit(&self.core, options)?))
    }

    /// As [`Server::largest_loan`].
    #[must_use]
    pub fn largest_loan(&self) -> usize {
        most_numbers::<T>(self.core.segment.shape().largest_payload())
    }
}

impl<Out: Payload> Handle<Bytes, Out> {
    /// As [`Server::loan`]: the loan borrows the handle.
    ///
    /// # Errors
    /// As [`Server::loan`].
    pub fn loan(&self, len: usize) -> Result<Loan<'_, u8>, CallError> {
        self.loan_with(len, CallOptions::default())
    }

    /// As [`Server::loan_with`].
    ///
    /// # Errors
    /// As [`Server::loan`].
    pub fn loan_with(&self, len: usize, options: CallOptions) -> Result<Loan<'_, u8>, CallError> {
        Loan::lend(&self.core, len, options, Place::InBlock)
    }

    /// As [`Server::call_loan`]. The loan may be of this handle, of a clone of it, or of their server.
    ///
    /// # Errors
    /// See [`CallError`].
    pub fn call_loan<'s>(&'s self, loan: Loan<'s, u8>) -> Result<Reply<'s, Out>, CallError> {
        self.call_loan_with(loan, CallOptions::default())
    }

    /// As [`Server::call_loan_with`].
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

    /// As [`Server::submit_loan`]: the `Pending` is `'static`, and so is its reply.
    ///
    /// # Errors
    /// As [`Server::submit_loan`].
    pub fn submit_loan(&self, loan: Loan<'_, u8>) -> Result<Pending<'static, Out>, CallError> {
        self.submit_loan_with(loan, CallOptions::default())
    }

    /// As [`Server::submit_loan_with`].
    ///
    /// # Errors
    /// As [`Server::submit_loan`].
    pub fn submit_loan_with(
        &self,
        loan: Loan<'_, u8>,
        options: CallOptions,
    ) -> Result<Pending<'static, Out>, CallError> {
        Ok(Pending::new(self.core.clone(), loan.submit(&self.core, options)?))
    }

    /// As [`Server::largest_loan`].
    #[must_use]
    pub fn largest_loan(&self) -> usize {
        most_numbers::<u8>(self.core.segment.shape().largest_payload())
    }
}

impl<In, Out> Handle<In, Out> {
    /// As [`Server::name`].
    #[must_use]
    pub fn name(&self) -> &str {
        &self.core.name
    }

    /// As [`Server::capacity`].
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.core.capacity as usize
    }

    /// As [`Server::backlog`].
    #[must_use]
    pub fn backlog(&self) -> usize {
        self.core.backlog()
    }

    /// As [`Server::placement`].
    #[must_use]
    pub fn placement(&self) -> &Placement {
        &self.core.placement
    }

    /// As [`Server::stats`].
    #[must_use]
    pub fn stats(&self) -> ServerStats {
        ServerStats::of(&self.core.segment)
    }

    /// As [`Server::traces`].
    #[must_use]
    pub fn traces(&self) -> Traces {
        Traces::of(&self.core)
    }

    /// As [`Server::readiness`].
    ///
    /// # Errors
    /// The first reason why not.
    pub fn readiness(&self) -> Result<(), NotReady> {
        self.core.readiness()
    }

    /// As [`Server::collector`].
    #[cfg(feature = "prometheus")]
    #[must_use]
    pub fn collector(&self) -> crate::stats::Collector {
        crate::stats::Collector::new(&self.core.segment)
    }

    /// As [`Server::service`].
    #[cfg(feature = "tower")]
    #[must_use]
    pub fn service(&self) -> crate::call::CallService<In, Out> {
        crate::call::CallService::new(self.core.clone())
    }

    /// As [`Server::debug_info`].
    #[must_use]
    pub fn debug_info(&self) -> DebugInfo {
        DebugInfo::of(&self.core)
    }
}

impl<In, Out> Server<In, Out> {
    /// A handle: calls this server without borrowing it. See [`Handle`].
    #[must_use]
    pub fn handle(&self) -> Handle<In, Out> {
        Handle::new(&self.keeper)
    }
}
